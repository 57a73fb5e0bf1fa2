"""From a pattern to what the kernels walk through: segments of keys for each block of rows, with bits where rows differ.

    Pattern ─► plans() ─► Plan for rows [first, first + rows) ─► kernel ─► Plan for the next rows ─► …

A plan is made before the parallel region and holds some megabytes of bits, or those of one block of rows of every head and batch entry that
the pattern tells apart; a long sequence takes several, one after another. Nothing here depends on the number of threads.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError
from .patterns import Pattern

__all__ = ["Plan", "plans"]

BLOCK_ROWS = 32
"""Rows that share segments, about: a multiple of the kernel's lanes. Fewer fit a narrow pattern better, more cost less to plan."""

WORD_BUDGET = 1 << 21
"""Words of bits in one plan, at which it is handed over (8 MB)."""

SEGMENT_WORDS = 32
"""What a segment itself counts for: Python's objects take more room than the arrays made of them."""

EVALUATED = 1 << 20
"""Pairs that `Pattern.allowed` is asked for at once."""


@dataclass
class Plan:
    """Segments for consecutive blocks of rows.

    Attributes
    ----------
    first, rows : int
        The rows that it is for.
    block_rows : int
        Rows of a block.
    batch_stride, head_stride : int
        How many blocks further the next batch entry or head stands; 0 where they share.
    ptr : ndarray of int64, (blocks + 1,)
        Where each block's segments begin.
    start, stop : ndarray of int64
        Keys of each segment.
    bits : ndarray of int64
        Where its words begin; −1: all rows see all of it.
    words : ndarray of uint32
        For each row of the block, a bit for each key of the segment, lowest first.
    """

    first: int
    rows: int
    block_rows: int
    batch_stride: int
    head_stride: int
    ptr: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    bits: np.ndarray
    words: np.ndarray


Segment = tuple[int, int, np.ndarray | None]


def plans(pattern: Pattern, lq: int, lk: int, heads: int, offsets: np.ndarray, lanes: int) -> Iterator[Plan]:
    """Yield the plans of a pattern, for consecutive rows.

    Parameters
    ----------
    pattern : Pattern
        What to plan.
    lq, lk, heads : int
        Queries, keys and query heads.
    offsets : ndarray of int64, (batch,)
        Where row 0 of each batch entry stands.
    lanes : int
        Rows of a panel of the kernel.

    Yields
    ------
    Plan
        Together they cover rows 0 to lq − 1.
    """
    block = lanes * max(1, BLOCK_ROWS // lanes)
    if not pattern.positional:
        offsets = np.zeros_like(offsets)
    by_batch = bool(pattern.by_batch) or np.unique(offsets).size > 1
    batches = offsets.size if by_batch else 1
    owners = [(b, h) for b in range(batches) for h in range(heads if pattern.by_head else 1)]
    found: list[list[list[Segment]]] = [[] for _ in owners]
    first, words = 0, 0
    for r0 in range(0, lq, block):
        r1 = min(r0 + block, lq)
        for own, (b, h) in zip(found, owners, strict=True):
            segments = _segments(pattern, r0 + int(offsets[b]), r1 + int(offsets[b]), lk, h, b if pattern.by_batch else 0)
            words += sum(SEGMENT_WORDS if bits is None else SEGMENT_WORDS + bits.size for _, _, bits in segments)
            own.append(segments)
        if words >= WORD_BUDGET or r1 == lq:
            yield _pack(found, first, r1 - first, block, len(owners) // batches if by_batch else 0, bool(pattern.by_head))
            found = [[] for _ in owners]
            first, words = r1, 0


def _pack(found: list[list[list[Segment]]], first: int, rows: int, block: int, owners_of_batch: int, by_head: bool) -> Plan:
    blocks = len(found[0])
    flat = [segments for own in found for segments in own]
    counts = [len(segments) for segments in flat]
    every = [segment for segments in flat for segment in segments]
    sizes = np.array([0 if bits is None else bits.size for _, _, bits in every], np.int64)
    at = np.concatenate([[0], np.cumsum(sizes)])[:-1] if every else np.zeros(0, np.int64)
    full = np.array([bits is None for _, _, bits in every], bool)
    words = [bits.ravel() for _, _, bits in every if bits is not None]
    return Plan(
        first=first,
        rows=rows,
        block_rows=block,
        batch_stride=blocks * owners_of_batch,
        head_stride=blocks if by_head else 0,
        ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        start=np.array([start for start, _, _ in every], np.int64),
        stop=np.array([stop for _, stop, _ in every], np.int64),
        bits=np.where(full, -1, at).astype(np.int64),
        words=np.concatenate(words) if words else np.zeros(1, np.uint32),
    )


def _segments(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int) -> list[Segment]:
    """Return the segments of the rows at positions [i0, i1)."""
    segments: list[Segment] = []
    for start, stop, full in _ranges(pattern, i0, i1, lk, head, batch):
        if full:
            segments.append((start, stop, None))
            continue
        step = max(32, EVALUATED // (i1 - i0) // 32 * 32)
        for begin in range(start, stop, step):
            segments += _evaluated(pattern, i0, i1, begin, min(begin + step, stop), head, batch)
    return segments


def _evaluated(pattern: Pattern, i0: int, i1: int, start: int, stop: int, head: int, batch: int) -> list[Segment]:
    """Ask `allowed`, and cut the range into what no row sees, what all see, and what comes with bits, 32 keys at a time."""
    i = np.arange(i0, i1, dtype=np.int64)[:, None]
    j = np.arange(start, stop, dtype=np.int64)[None, :]
    name = f"{type(pattern).__name__}.allowed"
    answer = pattern.allowed(i, j, head=head, batch=batch)
    try:
        answer = np.asarray(answer)
    except ValueError as error:
        raise InvalidInputError(f"{name} must return an array of booleans: {error}") from None
    if answer.dtype != np.bool_:
        raise InvalidInputError(f"{name} must return booleans, got {answer.dtype}")
    try:
        answer = np.broadcast_to(answer, (i1 - i0, stop - start))
    except ValueError:
        raise DimensionMismatchError(f"{name} must return an array that broadcasts to {(i1 - i0, stop - start)}, got {answer.shape}") from None
    groups = -(-(stop - start) // 32)
    bits = np.zeros((i1 - i0, groups * 4), np.uint8)
    packed = np.packbits(answer, axis=1, bitorder="little")
    bits[:, : packed.shape[1]] = packed
    words = bits.view("<u4").astype(np.uint32, copy=False)
    whole = np.full(groups, 0xFFFFFFFF, np.uint32)
    if (stop - start) % 32:
        whole[-1] = (1 << ((stop - start) % 32)) - 1
    kinds = (words != 0).any(0).astype(np.int8) + (words == whole).all(0)
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), groups]
    found: list[Segment] = []
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        if kinds[a]:
            keys = (start + 32 * a, min(start + 32 * b, stop))
            found.append((*keys, None if kinds[a] == 2 else np.ascontiguousarray(words[:, a:b])))
    return found


def _ranges(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int) -> list[tuple[int, int, bool]]:
    """Ask `ranges` for blocks that start at multiples of the pattern's row_block, and unite what they answer."""
    try:
        step = operator.index(pattern.row_block)
    except TypeError:
        step = 0
    if step < 1:
        raise InvalidInputError(f"{type(pattern).__name__}.row_block must be a positive int, got {pattern.row_block!r}")
    if step == 1:
        blocks = [(i0, i1)]
    else:
        blocks = [(at, min(at + step, i1)) for at in range(i0 // step * step, i1, step)]
    answers = []
    for a, b in blocks:
        answer = pattern.ranges(a, b, lk, head=head, batch=batch)
        if answer is None:
            return [(0, lk, False)] if lk else []
        answers.append(_checked(answer, pattern, a, b, lk))
    if len(answers) == 1:
        return answers[0]
    # Full for all only where full in each: cut at every boundary.
    cuts = sorted({edge for answer in answers for start, stop, _ in answer for edge in (start, stop)})
    united: list[tuple[int, int, bool]] = []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        seen = [next((full for s, e, full in answer if s <= start and stop <= e), None) for answer in answers]
        if any(full is not None for full in seen):
            every = all(full is True for full in seen)
            if united and united[-1][1] == start and united[-1][2] == every:
                united[-1] = (united[-1][0], stop, every)
            else:
                united.append((start, stop, every))
    return united


def _checked(answer: Any, pattern: Pattern, i0: int, i1: int, lk: int) -> list[tuple[int, int, bool]]:
    what = f"{type(pattern).__name__}.ranges({i0}, {i1}, {lk})"
    try:
        starts, stops, full = (np.asarray(part).ravel().tolist() for part in answer)
        triples = [(operator.index(a), operator.index(b), bool(c)) for a, b, c in zip(starts, stops, full, strict=True)]
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{what} must return three sequences of one length, starts, stops and full: {error}") from None
    last = 0
    for start, stop, _ in triples:
        if start < last or stop < start or stop > lk:
            raise InvalidInputError(f"{what} returned the range [{start}, {stop}), which overlaps another, runs backwards or leaves [0, {lk})")
        last = stop
    return [triple for triple in triples if triple[0] < triple[1]]

