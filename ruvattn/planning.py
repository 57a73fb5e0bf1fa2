"""From a pattern to what the kernels walk through: segments of keys for each block of rows, with bits where rows differ.

    Pattern ─► key_ranges ─► segments ─► Plan for rows [first, first + rows) ─► kernel ─► Plan for the next rows ─► …
                    └─ partial ones: allowed(), once for all of a block

A plan is made before the parallel region and holds some megabytes of bits, or those of one block of rows of every head and batch entry that
the pattern tells apart; a long sequence takes several, one after another. Plans are kept for the next call with the same pattern, as far as they are
small. Nothing here depends on the number of threads.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .key_ranges import answered, known_ranges, row_block
from .patterns import Pattern

__all__ = ["Plan", "kept", "listed_pairs", "plans"]

BLOCK_ROWS = 32
"""Rows that share segments, about: a multiple of the kernel's lanes. Fewer fit a narrow pattern better, more cost less to plan."""

MOST_ROWS = 256
"""The same of patterns that say themselves that more rows belong together."""

WORD_BUDGET = 1 << 21
"""Words of bits in one plan, at which it is handed over (8 MB)."""

SEGMENT_WORDS = 8
"""What a segment itself counts for."""

EVALUATED = 1 << 20
"""Pairs that `Pattern.allowed` is asked for at once."""

GAP = 8
"""Keys that no row sees are left out where there are so many of them in a row: below, computing them costs less than another segment."""

WHOLE = 32
"""Keys that all rows see are a segment without bits where there are so many of them in a row."""

KEPT_BYTES = 1 << 26
"""What all that is kept takes together; one call's, a quarter of it at the most."""

KEPT_OBJECTS = 3072
"""What the objects around the arrays of a thing that is kept take, about: more than the arrays of a call with one query for each step of decoding."""


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
    bit : ndarray of int64
        Which bit of a row's words stands for its first key; −1: all rows see all of it.
    words_at, row_words : ndarray of int64, (blocks,)
        Where the words of each block begin, and how many each of its rows has.
    words : ndarray of uint32
        Bits, lowest first, of the segments that have some, one after another, row by row.
    """

    first: int
    rows: int
    block_rows: int
    batch_stride: int
    head_stride: int
    ptr: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    bit: np.ndarray
    words_at: np.ndarray
    row_words: np.ndarray
    words: np.ndarray

    @property
    def nbytes(self) -> int:
        """The memory that its arrays take."""
        return sum(value.nbytes for value in (getattr(self, f.name) for f in fields(self)) if isinstance(value, np.ndarray))


@dataclass
class Block:
    """The segments of one block of rows, as in `Plan`."""

    start: np.ndarray
    stop: np.ndarray
    bit: np.ndarray
    words: np.ndarray  # (rows, row_words)


def plans(
    pattern: Pattern, lq: int, lk: int, heads: int, offsets: np.ndarray, lanes: int, window: tuple[int, int] = (-1, -1)
) -> Iterator[Plan]:
    """Yield the plans of a pattern, for consecutive rows; made now, or kept from an earlier call.

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
    window : (int, int), default (−1, −1)
        Left and right bound of what the kernel looks at by itself, −1 for none: what no row of a block has inside is not planned.

    Yields
    ------
    Plan
        Together they cover rows 0 to lq − 1.
    """
    differ = bool(np.any(offsets[1:] != offsets[:-1]))
    if not pattern.positional and (differ or window == (-1, -1)):
        # It goes by the index of a row, and one plan serves all.
        offsets, differ, window = np.zeros_like(offsets), False, (-1, -1)
    by_batch = bool(pattern.by_batch) or differ
    offsets = offsets if by_batch else offsets[:1]
    key = ("plans", lq, lk, heads if pattern.by_head else 1, offsets.tobytes(), lanes, window)
    known = _KEPT.find(pattern, key)
    if known is not None:
        yield from known
        return
    made: list[Plan] | None = []
    size = 0
    for plan in _made(pattern, lq, lk, heads if pattern.by_head else 1, offsets, by_batch, lanes, window):
        size += plan.nbytes
        if made is not None:
            made = None if size > KEPT_BYTES // 4 else [*made, plan]
        yield plan
    if made is not None:
        _KEPT.keep(pattern, key, made, size)


def _made(
    pattern: Pattern, lq: int, lk: int, heads: int, offsets: np.ndarray, by_batch: bool, lanes: int, window: tuple[int, int]
) -> Iterator[Plan]:
    height = lanes * max(1, BLOCK_ROWS // lanes)
    # Rows of one block of the pattern see the same ranges, mostly: as many of them as stand where the kernel's blocks do.
    step = row_block(pattern)
    if step % lanes == 0 and not np.any(offsets % step):
        height = max(height, min(step, MOST_ROWS // lanes * lanes))
    owners = [(pattern.at(int(offset)), int(offset), b, h) for b, offset in enumerate(offsets) for h in range(heads)]
    found: list[list[Block]] = [[] for _ in owners]
    first, words = 0, 0
    for r0 in range(0, lq, height):
        r1 = min(r0 + height, lq)
        for own, (moved, offset, b, h) in zip(found, owners, strict=True):
            block = _block(moved, r0 + offset, r1 + offset, lk, h, b if pattern.by_batch else 0, window)
            words += SEGMENT_WORDS * (1 + len(block.start)) + block.words.size
            own.append(block)
        if words >= WORD_BUDGET or r1 == lq:
            yield _pack(found, first, r1 - first, height, heads if by_batch else 0, bool(pattern.by_head))
            found = [[] for _ in owners]
            first, words = r1, 0


def _pack(found: list[list[Block]], first: int, rows: int, height: int, owners_of_batch: int, by_head: bool) -> Plan:
    blocks = [block for own in found for block in own]
    sizes = [block.words.size for block in blocks]
    return Plan(
        first=first,
        rows=rows,
        block_rows=height,
        batch_stride=len(found[0]) * owners_of_batch,
        head_stride=len(found[0]) if by_head else 0,
        ptr=np.cumsum([0, *(len(block.start) for block in blocks)], dtype=np.int64),
        start=np.concatenate([block.start for block in blocks]),
        stop=np.concatenate([block.stop for block in blocks]),
        bit=np.concatenate([block.bit for block in blocks]),
        words_at=np.cumsum([0, *sizes[:-1]], dtype=np.int64),
        row_words=np.array([block.words.shape[1] for block in blocks], np.int64),
        # One word at least, so that there is something to point at.
        words=np.concatenate([*(block.words.ravel() for block in blocks), np.zeros(1, np.uint32)]),
    )


def _block(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int, window: tuple[int, int]) -> Block:
    """Return the segments of the rows at positions [i0, i1), as far as they are in the windows of some."""
    starts, stops, full = known_ranges(pattern, i0, i1, lk, head, batch)
    left, right = window
    if left >= 0 or right >= 0:
        starts = np.maximum(starts, i0 - left) if left >= 0 else starts
        stops = np.minimum(stops, i1 + right) if right >= 0 else stops
        inside = starts < stops
        starts, stops, full = starts[inside], stops[inside], full[inside]
    if full.all():
        return Block(starts, stops, np.full(len(starts), -1, np.int64), np.zeros((i1 - i0, 0), np.uint32))
    # Ask for all partial ranges at once, as far as memory allows: a call of `allowed` costs as much as thousands of pairs.
    pieces = [(starts[full], stops[full], np.full(int(full.sum()), -1, np.int64))]
    columns: list[np.ndarray] = []
    width = 0
    step = max(32, EVALUATED // (i1 - i0))
    for begins, ends in _portions(starts[~full], stops[~full], step):
        lengths = ends - begins
        last = np.cumsum(lengths)
        j = np.arange(last[-1], dtype=np.int64) + np.repeat(begins - last + lengths, lengths)
        answer = _answer(pattern, i0, i1, j, head, batch)
        a, b, bits = _runs_of_columns(answer, last - lengths)
        pieces.append((j[a], j[b - 1] + 1, np.where(bits, np.cumsum(bits * (b - a)) - (b - a) + width, -1)))
        edge = np.zeros(j.size + 1, np.int8)
        edge[a[bits]] += 1
        edge[b[bits]] -= 1
        columns.append(answer[:, np.cumsum(edge[:-1]) > 0])
        width += columns[-1].shape[1]
    start, stop, bit = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.argsort(start, kind="stable")
    return Block(start[order], stop[order], bit[order], _packed(columns, i1 - i0, width))


def _portions(starts: np.ndarray, stops: np.ndarray, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut ranges into portions of at most ``step`` keys."""
    last = np.cumsum(stops - starts)
    total = int(last[-1])
    if total <= step:
        yield starts, stops
        return
    before = last - (stops - starts)
    for at in range(0, total, step):
        end = min(at + step, total)
        first, final = int(np.searchsorted(last, at, side="right")), int(np.searchsorted(before, end, side="left"))
        begins, ends = starts[first:final].copy(), stops[first:final].copy()
        begins[0] += at - before[first]
        ends[-1] -= last[final - 1] - end
        yield begins, ends


def _answer(pattern: Pattern, i0: int, i1: int, j: np.ndarray, head: int, batch: int) -> np.ndarray:
    """Ask `allowed` about all rows and some keys."""
    i = np.arange(i0, i1, dtype=np.int64)[:, None]
    return answered(pattern, i, j[None, :].copy(), head, batch)  # a copy: what a pattern writes to it is its own affair


def _runs_of_columns(answer: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return runs [a, b) of columns that some row sees, none of which crosses a begin, and whether they need bits."""
    kinds = np.add(answer.any(0), answer.all(0), dtype=np.int8)
    border = np.zeros(kinds.size + 1, bool)
    border[0] = border[-1] = True
    border[begins] = True
    edge = border.copy()
    edge[1:-1] |= kinds[1:] != kinds[:-1]
    at = np.flatnonzero(edge)
    a, b = at[:-1], at[1:]
    kind, length = kinds[a], b - a
    # Short runs join what has bits anyway; but what nobody sees at the end of a range is left out, however short.
    soft = (kind == 1) | ((kind == 0) & (length < GAP) & ~border[a] & ~border[b])
    beside = np.zeros(kind.size, bool)
    beside[1:] |= soft[:-1] & ~border[a[1:]]
    beside[:-1] |= soft[1:] & ~border[b[:-1]]
    kind = np.where(soft | ((kind == 2) & (length < WHOLE) & beside), 1, kind)
    keep = np.ones(kind.size, bool)
    keep[1:] = (kind[1:] != kind[:-1]) | border[a[1:]]
    # A gap between long runs that all rows see has joined nothing, and is no segment.
    seen = np.logical_or.reduceat(kinds[a] > 0, np.flatnonzero(keep)) if kinds.size else np.zeros(0, bool)
    a, kind = a[keep], kind[keep]
    b = np.append(a[1:], kinds.size)
    return a[seen], b[seen], kind[seen] == 1


def _packed(columns: list[np.ndarray], rows: int, width: int) -> np.ndarray:
    """Pack columns of booleans into words, 32 a word, the first lowest."""
    row_words = -(-width // 32)
    bits = np.zeros((rows, row_words * 4), np.uint8)
    if width:
        packed = np.packbits(columns[0] if len(columns) == 1 else np.concatenate(columns, 1), axis=1, bitorder="little")
        bits[:, : packed.shape[1]] = packed
    return bits.view("<u4").astype(np.uint32, copy=False)


# --- pair by pair -----------------------------------------------------------------------------------------------------------------


def listed_pairs(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of some rows as `Pattern.pairs` does, from ranges and `allowed`: in memory that grows with the number of pairs.

    Parameters
    ----------
    pattern : Pattern
        Any.
    i0, i1, lk, head, batch : int
        As for `Pattern.pairs`.

    Returns
    -------
    indptr, indices : ndarray of int64
        As for `Pattern.pairs`.
    """
    counts: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    for at in range(i0, i1, BLOCK_ROWS):
        end = min(at + BLOCK_ROWS, i1)
        starts, stops, full = known_ranges(pattern, at, end, lk, head, batch)
        rows, keys = [], []
        for begins, ends in _portions(starts, stops, max(32, EVALUATED // (end - at))) if len(starts) else ():
            j = np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in zip(begins, ends, strict=True)])
            whole = np.repeat(full[np.searchsorted(starts, begins, side="right") - 1], ends - begins)
            seen = np.broadcast_to(whole, (end - at, j.size))
            if not whole.all():
                seen = seen | _answer(pattern, at, end, j, head, batch)
            row, column = np.nonzero(seen)
            rows.append(row)
            keys.append(j[column])
        row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        key = np.concatenate(keys) if keys else np.zeros(0, np.int64)
        if len(rows) > 1:  # portion by portion: bring them into the order of rows
            order = np.argsort(row, kind="stable")
            row, key = row[order], key[order]
        counts.append(np.bincount(row, minlength=end - at))
        indices.append(key)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))]) if counts else np.zeros(1, np.int64)
    return indptr.astype(np.int64), np.concatenate(indices) if indices else np.zeros(0, np.int64)


# --- kept for the next call -------------------------------------------------------------------------------------------------------


class _Kept:
    """What was made for patterns in earlier calls, by the pattern object; the longest unused goes first, and all of a pattern's when it goes."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Start anew: also in a process that was forked while another thread, which isn't there any more, may have held the lock."""
        self._lock = threading.RLock()
        self._things: OrderedDict[tuple[int, Any], tuple[Any, int]] = OrderedDict()
        self._owners: dict[int, Any] = {}
        self._bytes = 0

    def find(self, pattern: Pattern, key: Any) -> Any:
        with self._lock:
            # By identity: a pattern may be compared in ways that say nothing about its pairs.
            reference = self._owners.get(id(pattern))
            if reference is None or reference() is not pattern:
                return None
            found = self._things.get((id(pattern), key))
            if found is None:
                return None
            self._things.move_to_end((id(pattern), key))
            return found[0]

    def keep(self, pattern: Pattern, key: Any, thing: Any, size: int) -> None:
        number = id(pattern)
        size += KEPT_OBJECTS
        try:
            reference = weakref.ref(pattern, lambda _: self._forget(number))
        except TypeError:  # a class with slots and no place for it
            return
        with self._lock:
            self._owners.setdefault(number, reference)
            replaced = self._things.pop((number, key), None)
            self._bytes += size - (replaced[1] if replaced else 0)
            self._things[number, key] = thing, size
            while self._bytes > KEPT_BYTES:
                _, (_, freed) = self._things.popitem(last=False)
                self._bytes -= freed

    def _forget(self, number: int) -> None:
        with self._lock:
            self._owners.pop(number, None)
            for key in [key for key in self._things if key[0] == number]:
                freed = self._things.pop(key)[1]  # which may collect garbage, and so come here once more
                self._bytes -= freed


_KEPT = _Kept()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_KEPT.renew)


def kept(pattern: Pattern, key: Any, make: Callable[[], Any]) -> Any:
    """Return what was made for a pattern in an earlier call, or make it now and keep it if it is small.

    Parameters
    ----------
    pattern : Pattern
        Whose it is; by identity.
    key : hashable
        What it is, and for which call.
    make : callable
        Makes it; it has an attribute ``nbytes``.

    Returns
    -------
    object
        What ``make`` returned, now or earlier.
    """
    found = _KEPT.find(pattern, key)
    if found is None:
        found = make()
        if found.nbytes <= KEPT_BYTES // 4:
            _KEPT.keep(pattern, key, found, found.nbytes)
    return found
