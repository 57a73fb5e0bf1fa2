"""The checks of patterns: `allowed` pair by pair, `ranges`, `pairs` and so on against `allowed`, and attention against that with a dense mask."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import functional
from ..errors import DimensionMismatchError
from ..explicit_patterns import BoolMask, SparseMatrixMask
from ..pattern_algebra import And, Not, Or
from ..patterns import KeyLengths, Pattern
from ..sparse_mask import SparseMask
from . import parts
from .cases import case, require, require_close, require_same_bits
from .parts import Part, Shape, expect_error
from .runner import CheckFailure, CheckList, NotApplicable
from .trial import limited

CHECKS = CheckList("pattern")

SIZES = ((1, 1), (1, 4), (3, 2), (7, 12), (40, 65))
"""Queries and keys that are tried."""

FAR = 2**30
"""A position further than any key."""


def _fixed(pattern: Pattern) -> tuple[int | None, ...]:
    """Return (batch, heads, Lq, Lk), None where any will do."""
    given = getattr(pattern, "conformance_shape", None)
    if given is not None:
        return tuple(given)
    batch = heads = lq = lk = None
    if isinstance(pattern, And | Or | Not):
        every = [_fixed(operand) for operand in pattern.operands]
        batch, heads, lq, lk = (next((n for n in numbers if n is not None), None) for numbers in zip(*every, strict=True))
    elif isinstance(pattern, KeyLengths) and pattern.by_batch:
        batch = int(pattern.lengths.size)
    elif isinstance(pattern, BoolMask):
        shape = pattern.mask.shape
        lq, lk = (None if n == 1 else n for n in shape[-2:])
        heads = shape[-3] if pattern.by_head else None
        batch = int(np.prod(shape[:-3])) if pattern.by_batch else None
    elif isinstance(pattern, SparseMatrixMask):
        lq, lk = pattern.shape[-2:]
        heads = pattern.shape[0] if pattern.by_head else None
    elif isinstance(pattern, SparseMask):
        lq, lk = (None, None) if pattern.shape is None else pattern.shape[-2:]
        heads = pattern.heads if pattern.by_head else None
        batch = math.prod(pattern.lead) if pattern.by_batch and pattern.lead else None
    return batch, heads, lq, lk


def _part(pattern: Pattern) -> Part:
    """Return the calls that a pattern fits into."""
    batch, heads, lq, lk = _fixed(pattern)
    return Part(pattern, "mask", batch=batch, heads=heads, lq=lq, lk=lk)


def _owners(pattern: Pattern) -> list[dict[str, int]]:
    """Return the heads and batch entries to ask for: those that exist, or two of them."""
    batch, heads, _, _ = _fixed(pattern)
    heads = (2 if heads is None else heads) if pattern.by_head else 1
    batch = (2 if batch is None else batch) if pattern.by_batch else 1
    return [{"head": h, "batch": b} for b in range(batch) for h in range(heads)]


def _sizes(pattern: Pattern) -> Iterator[tuple[int, int]]:
    """Yield numbers of queries and keys, smallest first."""
    _, _, lq, lk = _fixed(pattern)
    return iter(dict.fromkeys((lq or limited("queries", m), lk or limited("keys", n)) for m, n in SIZES))


def _starts(pattern: Pattern) -> tuple[int, ...]:
    """Return positions of the first row, at which the pattern is asked by its `at`; explicit pairs, which stay where they are, need fewer."""
    return (0, 3, -2, -50) if pattern.positional else (0, 3)


def _grid(start: int, lq: int, lk: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(start, start + lq, dtype=np.int64)[:, None], np.arange(lk, dtype=np.int64)[None, :]


def _allowed(pattern: Pattern, i: np.ndarray, j: np.ndarray, owner: dict[str, int]) -> np.ndarray:
    """Ask, and bring the answer to the shape of i and j together."""
    shape = np.broadcast_shapes(np.shape(i), np.shape(j))
    answer = np.asarray(pattern.allowed(i, j, **owner))
    require(answer.dtype == np.bool_, f"allowed must return booleans, got {answer.dtype}")
    try:
        return np.broadcast_to(answer, shape)
    except ValueError:
        raise CheckFailure(f"allowed must return an array that broadcasts to {shape}, got {answer.shape}") from None


def _dense(pattern: Pattern, shape: Shape, start: int = 0) -> np.ndarray:
    """Return the pattern as a mask, (batch, heads, Lq, Lk), asked pair by pair."""
    batch = int(np.prod(shape.lead))
    found = np.empty((batch, shape.heads, shape.lq, shape.lk), bool)
    i, j = _grid(start, shape.lq, shape.lk)
    moved = pattern.at(start)
    for b in range(batch):
        for h in range(shape.heads):
            owner = {"head": h if pattern.by_head else 0, "batch": b if pattern.by_batch else 0}
            found[b, h] = _allowed(moved, i, j, owner)
    return found.reshape(*shape.lead, shape.heads, shape.lq, shape.lk)


# --- what it declares -------------------------------------------------------------------------------------------------


@CHECKS
def declaration(pattern: Pattern) -> None:
    """by_head, by_batch, positional and scattered are bools, and row_block is a positive int."""
    for name in ("by_head", "by_batch", "positional", "scattered"):
        value = getattr(pattern, name)
        require(isinstance(value, bool | np.bool_), f"{name} must be True or False, got {value!r}")
    block = pattern.row_block
    require(isinstance(block, int) and not isinstance(block, bool) and block > 0, f"row_block must be a positive int, got {block!r}")
    require(isinstance(repr(pattern), str), "repr must work")


# --- allowed ----------------------------------------------------------------------------------------------------------


@CHECKS
def allowed_returns_booleans(pattern: Pattern) -> None:
    """allowed(i, j) returns booleans that broadcast to the shape of i and j together."""
    for owner in _owners(pattern):
        for lq, lk in _sizes(pattern):
            i, j = _grid(0, lq, lk)
            both = np.broadcast_arrays(i, j)
            forms = {"a column and a row": (i, j), "two grids": both, "two lists": (both[0].ravel(), both[1].ravel())}
            forms["single positions"] = (i[0, 0], j[0, 0])
            forms["no queries"] = (i[:0], j)
            forms["no keys"] = (i, j[:, :0])
            for name, (rows, keys) in forms.items():
                with case(name, lq=lq, lk=lk, **owner):
                    _allowed(pattern, rows, keys, owner)


@CHECKS
def allowed_elementwise(pattern: Pattern) -> None:
    """allowed tells of a pair what it tells of it alone, whatever else is asked at once."""
    for owner in _owners(pattern):
        for lq, lk in list(_sizes(pattern))[:4]:
            lq, lk = min(lq, 9), min(lk, 14)
            for start in _starts(pattern):
                i, j = _grid(start, lq, lk)
                moved = pattern.at(start)
                expected = _allowed(moved, i, j, owner)
                for row, key in np.ndindex(lq, lk):
                    with case(i=start + row, j=key, **owner):
                        single = _allowed(moved, i[row : row + 1], j[:, key : key + 1], owner)[0, 0]
                        require(single == expected[row, key], f"allowed must be elementwise: {single} alone, {expected[row, key]} among others")
                rows, keys = np.broadcast_arrays(i, j)
                order = np.random.default_rng(0).permutation(rows.size)
                with case("pairs in another order", start=start, lq=lq, lk=lk, **owner):
                    found = _allowed(moved, rows.ravel()[order], keys.ravel()[order], owner)
                    require_same_bits(found, expected.ravel()[order], "allowed must be elementwise")


@CHECKS
def allowed_does_not_write(pattern: Pattern) -> None:
    """allowed leaves the positions that it is given as they are."""
    for owner in _owners(pattern):
        for lq, lk in _sizes(pattern):
            i, j = _grid(0, lq, lk)
            before = i.copy(), j.copy()
            with case(lq=lq, lk=lk, **owner):
                pattern.allowed(i, j, **owner)
                require_same_bits(i, before[0], "allowed must not write i")
                require_same_bits(j, before[1], "allowed must not write j")


@CHECKS
def far_positions_do_not_overflow(pattern: Pattern) -> None:
    """allowed and ranges answer alike for positions as far as 2³⁰ on either side."""
    if not pattern.positional:
        raise NotApplicable("rows of explicit pairs have no positions")
    _, _, lq, lk = _fixed(pattern)
    for start in (FAR, -FAR):
        rows, keys = lq or limited("queries", 2), lk or limited("keys", 9)
        _require_ranges(pattern, start // pattern.row_block * pattern.row_block, min(rows, 2), keys)


@CHECKS
def by_head_and_by_batch_are_true(pattern: Pattern) -> None:
    """Unless by_head or by_batch is set, head and batch make no difference."""
    if pattern.by_head and pattern.by_batch:
        raise NotApplicable("it says that it differs by head and by batch entry")
    for lq, lk in _sizes(pattern):
        i, j = _grid(0, lq, lk)
        expected = _allowed(pattern, i, j, {})
        for name in ("head", "batch"):
            if getattr(pattern, f"by_{name}"):
                continue
            for number in (1, 5):
                with case(lq=lq, lk=lk, **{name: number}):
                    found = _allowed(pattern, i, j, {name: number})
                    require_same_bits(found, expected, f"allowed must not depend on {name} unless by_{name} is set")


# --- ranges -----------------------------------------------------------------------------------------------------------


def _blocks(pattern: Pattern, start: int, lq: int) -> Iterator[tuple[int, int]]:
    """Yield blocks of rows [i0, i1) as the engine asks for them: from multiples of row_block, and of that size at most if there is one."""
    step = pattern.row_block
    stop = start + lq
    if step == 1:
        for size in dict.fromkeys((1, 2, 5, lq)):
            for i0 in range(start, stop, size):
                yield i0, min(i0 + size, stop)
    else:
        for i0 in range(start // step * step, stop, step):
            yield i0, min(i0 + step, stop)


def _triples(pattern: Pattern, i0: int, i1: int, lk: int, owner: dict[str, int]) -> list[tuple[int, int, bool]] | None:
    """Ask for ranges, and require that they are what they have to be."""
    answer = pattern.ranges(i0, i1, lk, **owner)
    if answer is None:
        return None
    require(isinstance(answer, tuple | list) and len(answer) == 3, f"ranges must return starts, stops and full, or None, got {answer!r}")
    starts, stops, full = (np.asarray(part).ravel().tolist() for part in answer)
    lengths = len(starts), len(stops), len(full)
    require(len(set(lengths)) == 1, f"starts, stops and full must be of one length, got {lengths}")
    end = 0
    for start, stop in zip(starts, stops, strict=True):
        require(start == int(start) and stop == int(stop), f"ranges must be ints, got [{start}, {stop})")
        require(0 <= start <= stop <= lk, f"ranges must lie within 0 and {lk} and run forwards, got [{start}, {stop})")
        require(start >= end, f"ranges must be sorted and disjoint, got [{start}, {stop}) after one that ends at {end}")
        end = stop
    return [(int(a), int(b), bool(c)) for a, b, c in zip(starts, stops, full, strict=True)]


def _require_ranges(pattern: Pattern, start: int, lq: int, lk: int) -> bool:
    """Compare the ranges of all blocks with what is allowed; return whether there were any."""
    any_ranges = False
    moved = pattern.at(start)
    for owner in _owners(pattern):
        for i0, i1 in _blocks(moved, start, lq):
            with case(i0=i0, i1=i1, lk=lk, **owner):
                triples = _triples(moved, i0, i1, lk, owner)
                if triples is None:
                    continue
                any_ranges = True
                allowed = _allowed(moved, *_grid(i0, i1 - i0, lk), owner)
                outside = np.ones(lk, bool)
                for first, last, full in triples:
                    outside[first:last] = False
                    if full:
                        wrong = np.argwhere(~allowed[:, first:last])
                        require(not len(wrong), f"[{first}, {last}) is called full, and a pair in it is not allowed: {_pair(wrong, i0, first)}")
                wrong = np.argwhere(allowed & outside)
                require(not len(wrong), f"an allowed pair is outside of the ranges: {_pair(wrong, i0, 0)}")
    return any_ranges


def _pair(wrong: np.ndarray, i0: int, j0: int) -> str:
    return f"i={i0 + int(wrong[0][0])}, j={j0 + int(wrong[0][1])}" if len(wrong) else ""


@CHECKS
def ranges_are_well_formed(pattern: Pattern) -> None:
    """ranges returns sorted, disjoint ranges within the keys, for any block of rows."""
    found = False
    for lq, lk in _sizes(pattern):
        for start in _starts(pattern):
            moved = pattern.at(start)
            for i0, i1 in _blocks(moved, start, lq):
                for owner in _owners(pattern):
                    with case(i0=i0, i1=i1, lk=lk, **owner):
                        found |= _triples(moved, i0, i1, lk, owner) is not None
    if not found:
        raise NotApplicable("it has no ranges: allowed is asked for every pair")


@CHECKS
def ranges_agree_with_allowed(pattern: Pattern) -> None:
    """What is outside of the ranges is not allowed, and what is in a full one is."""
    found = False
    for lq, lk in _sizes(pattern):
        for start in _starts(pattern):
            found |= _require_ranges(pattern, start, lq, lk)
    if not found:
        raise NotApplicable("it has no ranges: allowed is asked for every pair")


@CHECKS
def ranges_are_asked_from_multiples_of_row_block(pattern: Pattern) -> None:
    """The engine respects row_block: with ranges that break elsewhere, attention is still right."""
    if pattern.row_block == 1:
        raise NotApplicable("row_block is 1: blocks may start anywhere")
    step = pattern.row_block
    part = _part(pattern)
    asked: list[tuple[int, int]] = []
    spy = _Spy(pattern, asked)
    for start in _starts(pattern):
        shape = part.middle()._replace(lq=part.lq or 3 * step + 1)
        functional.attention(*part.arrays(shape), mask=spy, query_offset=start)
        for i0, i1 in asked:
            with case(i0=i0, i1=i1, query_offset=start):
                require(i0 % step == 0 and 0 < i1 - i0 <= step, f"blocks must start at multiples of {step} and be no longer")
    require(asked, "attention must ask for ranges")


@CHECKS
def edges_and_tiles_agree(pattern: Pattern) -> None:
    """A scattered pattern gives pair by pair what it gives tile by tile."""
    if not pattern.scattered:
        raise NotApplicable("it is not scattered: its pairs are never computed one by one")
    part = _part(pattern)
    tiles = _Spy(pattern, [])
    for shape in (*part.shapes(), *part.large_shapes()):
        for start in _starts(pattern):
            arrays = part.arrays(shape)
            with case(shape=tuple(shape), query_offset=start):
                found = part.call(arrays, return_lse=True, query_offset=start)
                expected = functional.attention(*arrays, mask=tiles, return_lse=True, query_offset=start)
                tolerances = part.tolerances(arrays, np.float32, query_offset=start)
                for name, got, wanted, allowed in zip(("output", "lse"), found, expected, tolerances, strict=True):
                    require_close(got, wanted, allowed, f"the {name} must be the same pair by pair and tile by tile")


class _Spy(Pattern):
    """A pattern that notes for which blocks it is asked; not scattered, whatever it holds."""

    def __init__(self, pattern: Pattern, asked: list[tuple[int, int]]) -> None:
        self.pattern, self.asked = pattern, asked
        self.by_head, self.by_batch = pattern.by_head, pattern.by_batch
        self.row_block, self.positional = pattern.row_block, pattern.positional

    def allowed(self, i: np.ndarray, j: np.ndarray, **owner: int) -> np.ndarray:
        return self.pattern.allowed(i, j, **owner)

    def ranges(self, i0: int, i1: int, lk: int, **owner: int) -> Any:
        self.asked.append((i0, i1))
        return self.pattern.ranges(i0, i1, lk, **owner)

    def at(self, offset: int) -> Pattern:
        moved = self.pattern.at(offset)
        return self if moved is self.pattern else _Spy(moved, self.asked)


# --- pairs, rows counted from elsewhere, and what fits ----------------------------------------------------------------


@CHECKS
def pairs_are_those_allowed(pattern: Pattern) -> None:
    """pairs lists the keys that each row is allowed, each once."""
    for lq, lk in _sizes(pattern):
        for start in _starts(pattern):
            moved = pattern.at(start)
            for owner in _owners(pattern):
                for i0, i1 in dict.fromkeys(((0, lq), (lq // 2, lq), (0, lq // 2), (lq // 2, lq // 2))):
                    with case(i0=start + i0, i1=start + i1, lk=lk, **owner):
                        _require_pairs(moved, start + i0, start + i1, lk, owner)


def _require_pairs(pattern: Pattern, i0: int, i1: int, lk: int, owner: dict[str, int]) -> None:
    answer = pattern.pairs(i0, i1, lk, **owner)
    require(isinstance(answer, tuple) and len(answer) == 2, f"pairs must return indptr and indices, got {answer!r}")
    for name, array in zip(("indptr", "indices"), answer, strict=True):
        require(isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind == "i", f"{name} must be an array of ints with one axis")
    indptr, indices = answer
    require(len(indptr) == i1 - i0 + 1, f"indptr must have an entry for each row and one more, {i1 - i0 + 1}, got {len(indptr)}")
    ends = indptr[0] == 0 and indptr[-1] == len(indices) and bool(np.all(indptr[1:] >= indptr[:-1]))
    require(ends, f"indptr must ascend from 0 to {len(indices)}, the number of indices, got {indptr.tolist()}")
    require(bool(np.all((indices >= 0) & (indices < lk))), f"indices must lie within 0 and {lk}")
    counts = np.zeros((i1 - i0, lk), np.int64)
    np.add.at(counts, (np.repeat(np.arange(i1 - i0), np.diff(indptr)), indices), 1)
    twice = np.argwhere(counts > 1)
    require(not len(twice), f"a key must be listed once in its row, and isn't: {_pair(twice, i0, 0)}")
    wrong = np.argwhere((counts > 0) != _allowed(pattern, *_grid(i0, i1 - i0, lk), owner))
    require(not len(wrong), f"pairs must list what is allowed, and does not: {_pair(wrong, i0, 0)}")


@CHECKS
def at_counts_rows_from_elsewhere(pattern: Pattern) -> None:
    """at(offset) holds for rows counted from another number; what goes by position stays itself."""
    if isinstance(pattern, And | Or | Not):
        raise NotApplicable("each operand is moved by its own at")
    for lq, lk in list(_sizes(pattern))[:4]:
        i, j = _grid(0, lq, lk)
        for offset in (0, 1, -2, 50):
            moved = pattern.at(offset)
            for name in ("by_head", "by_batch"):
                require(bool(getattr(moved, name)) == bool(getattr(pattern, name)), f"at({offset}) must have the {name} of the pattern")
            for owner in _owners(pattern):
                with case(offset=offset, lq=lq, lk=lk, **owner):
                    there = i if pattern.positional else i + offset
                    require_same_bits(_allowed(moved, there, j, owner), _allowed(pattern, i, j, owner), f"at({offset}) must hold the same set")
                    back = _allowed(moved.at(-offset), i, j, owner)
                    require_same_bits(back, _allowed(pattern, i, j, owner), f"at({offset}) and back must hold the same set")


@CHECKS
def check_fits_tells_what_fits(pattern: Pattern) -> None:
    """check_fits accepts the shapes that the pattern is for, and raises DimensionMismatchError of fewer heads or batch entries."""
    part = _part(pattern)
    for shape in part.shapes():
        with case(shape=tuple(shape)):
            pattern.check_fits(shape.lead, shape.heads, shape.lq, shape.lk)
    shape = part.middle()
    others = {}
    if pattern.by_head and (part.heads or 1) > 1:
        others["a head less"] = shape._replace(heads=shape.heads - 1)
    if pattern.by_batch and (part.batch or 1) > 1:
        others["a batch entry less"] = shape._replace(lead=(shape.lead[0] - 1,))
    for name, other in others.items():
        with case(shape=tuple(other)):
            expect_error(DimensionMismatchError, name, pattern.check_fits, other.lead, other.heads, other.lq, other.lk)


@CHECKS
def strided_parts_are_the_pattern(pattern: Pattern) -> None:
    """strided_parts, where there are any, are disjoint, and what is allowed together."""
    if pattern.strided_parts() is None:
        raise NotApplicable("it has no such parts")
    for owner in _owners(pattern):
        head = owner["head"]
        parts = pattern.strided_parts(head)
        if parts is None:
            raise CheckFailure(f"a pattern that has parts for head 0 must have some for head {head}")
        for lq, lk in _sizes(pattern):
            for start in _starts(pattern):
                i, j = _grid(start, lq, lk)
                with case(start=start, lq=lq, lk=lk, **owner):
                    counts = np.zeros((lq, lk), np.int64)
                    for step, part in parts:
                        require(not (part.by_head or part.by_batch), f"a part must not tell heads or batch entries apart, got {part!r}")
                        own = (i - j) % step == 0
                        counts += own & _allowed(part, i // step, j // step, {"head": 0, "batch": 0})
                    twice = np.argwhere(counts > 1)
                    require(not len(twice), f"parts must be disjoint, and two of them hold a pair: {_pair(twice, start, 0)}")
                    wrong = np.argwhere((counts > 0) != _allowed(pattern, i, j, owner))
                    require(not len(wrong), f"the parts together must be the pattern, and are not: {_pair(wrong, start, 0)}")


# --- as a part of calls -----------------------------------------------------------------------------------------------


@CHECKS
def attention_equals_dense_mask(pattern: Pattern) -> None:
    """Attention with the pattern is attention with a mask of what allowed says, at any position."""
    part = _part(pattern)
    for shape in part.shapes():
        for start in _starts(pattern):
            for dtype in (np.float32, np.float64) if shape == part.middle() else (np.float32,):
                arrays = part.arrays(shape, dtype)
                dense = _dense(pattern, shape, start)
                with case(shape=tuple(shape), dtype=np.dtype(dtype).name, query_offset=start):
                    found = part.call(arrays, return_lse=True, query_offset=start)
                    expected = functional.attention(*arrays, mask=dense, return_lse=True)
                    tolerances = part.tolerances(arrays, dtype, query_offset=start)
                    for name, got, wanted, allowed in zip(("output", "lse"), found, expected, tolerances, strict=True):
                        require_close(got, wanted, allowed, f"the {name} must be that of the dense mask")


@CHECKS
def logits_are_masked_where_not_allowed(pattern: Pattern) -> None:
    """attention_logits is −inf where allowed says no, and nowhere else."""
    part = _part(pattern)
    for shape in part.shapes():
        for start in _starts(pattern):
            q, k, _ = part.arrays(shape)
            dense = _dense(pattern, shape, start)
            with case(shape=tuple(shape), query_offset=start):
                logits = functional.attention_logits(q, k, mask=pattern, query_offset=start)
                wrong = np.argwhere(np.isneginf(logits) == dense)
                at = wrong[0].tolist() if len(wrong) else None
                require(at is None, f"logits must be -inf exactly where the pair is not allowed, and are not at {at}")


@CHECKS
def shapes_and_dtypes(pattern: Pattern) -> None:
    """Attention has the shape and dtype of its inputs, for float32, float64, float16 and bfloat16."""
    parts.shapes_and_dtypes(_part(pattern))


@CHECKS
def agrees_with_oracle(pattern: Pattern) -> None:
    """Attention agrees with the float64 oracle, alone and together with every other mask."""
    part = _part(pattern)
    middle = part.middle()
    options: list[dict[str, Any]] = [
        {"causal": True},
        {"window": (2, 1)},
        {"key_lengths": max(1, middle.lk - 2)},
        {"query_offset": "end"},
        {"query_offset": 2, "causal": True},
        {"bias": np.random.default_rng(3).standard_normal((middle.lq, middle.lk)).astype(np.float32)},
        {"sinks": np.arange(middle.heads) * 0.5, "softcap": 2.0},
        {"dropout": 0.25, "seed": 5},
    ]
    parts.agrees_with_oracle(part, options)
    batched = middle._replace(lead=middle.lead or (3,))
    if part.batch is None:
        offsets = np.array([0, -3, 4])
        parts.require_agreement(part, batched, np.float32, {"query_offset": offsets})
        parts.require_agreement(part, batched, np.float32, {"key_lengths": np.array([0, 1, middle.lk])})


@CHECKS
def weights_are_a_distribution(pattern: Pattern) -> None:
    """The weights of a row sum to 1 over what it sees, or it sees nothing and they are zeros."""
    part = _part(pattern)
    for shape in part.shapes():
        q, k, _ = part.arrays(shape)
        dense = _dense(pattern, shape)
        with case(shape=tuple(shape)):
            weights = functional.attention_weights(q, k, mask=pattern)
            require(((weights >= 0) & (weights <= 1)).all(), "weights must be from 0 to 1")
            require(not weights[~dense].any(), "what is masked must have the weight 0")
            rounding = (shape.lk + 1) * float(np.finfo(np.float32).eps)
            require_close(weights.sum(-1, dtype=np.float64), dense.any(-1), rounding, "the weights of a row must sum to 1, or 0 without keys")


@CHECKS
def two_axes_are_one_head(pattern: Pattern) -> None:
    """Arrays of two axes are one head."""
    parts.two_axes_are_one_head(_part(pattern))


@CHECKS
def batch_equals_singles(pattern: Pattern) -> None:
    """An entry of a batch gives what it gives alone."""
    if pattern.by_batch:
        raise NotApplicable("it differs by batch entry")
    parts.batch_equals_singles(_part(pattern))


@CHECKS
def masked_has_no_influence(pattern: Pattern) -> None:
    """What a row does not see does not change its result, NaN included."""
    parts.masked_has_no_influence(_part(pattern), with_mask=False)


@CHECKS
def empty_rows_are_zeros(pattern: Pattern) -> None:
    """A row that may attend to nothing is zeros, and its lse is −inf, or the sink."""
    parts.empty_rows_are_zeros(_part(pattern))
    part = _part(pattern)
    for shape in part.shapes():
        for start in _starts(pattern):
            empty = ~_dense(pattern, shape, start).any(-1)
            if empty.any():
                with case(shape=tuple(shape), query_offset=start):
                    out, lse = part.call(part.arrays(shape), return_lse=True, query_offset=start)
                    require(not out[empty].any(), "a row that the pattern gives no key must be zeros")
                    require(np.isneginf(lse[empty]).all(), "the lse of a row that the pattern gives no key must be -inf")


@CHECKS
def empty_input_gives_empty_output(pattern: Pattern) -> None:
    """No queries, no keys or no batch entries are no error."""
    parts.empty_input_gives_empty_output(_part(pattern))


@CHECKS
def same_bits_for_any_number_of_threads(pattern: Pattern) -> None:
    """Results are the same to the bit for 1, 2 and 7 threads."""
    parts.same_bits_for_any_number_of_threads(_part(pattern))


@CHECKS
def parallel_calls_agree(pattern: Pattern) -> None:
    """Calls from 8 threads at once give what they give one after another."""
    parts.parallel_calls_agree(_part(pattern))


@CHECKS
def pickle_round_trip(pattern: Pattern) -> None:
    """Pickled or copied, it allows the same."""
    parts.pickle_round_trip(_part(pattern))


@CHECKS
def inputs_are_not_written(pattern: Pattern) -> None:
    """The caller's arrays are not written."""
    parts.inputs_are_not_written(_part(pattern))


@CHECKS
def out_is_honoured(pattern: Pattern) -> None:
    """``out=`` is written and returned."""
    parts.out_is_honoured(_part(pattern))


@CHECKS
def extremes_stay_finite(pattern: Pattern) -> None:
    """Finite float32 input gives finite output, from subnormal to 1e30."""
    part = _part(pattern)
    q, k, v = part.arrays(part.middle())
    factors = (0.0, 1e-42, 1e-20, 1e15, 1e30)
    parts.extremes_stay_finite(part, [(f"queries and keys of {f:g}", (q * np.float32(f), k * np.float32(f), v)) for f in factors])


@CHECKS
def wrong_shapes_are_refused(pattern: Pattern) -> None:
    """Arrays that do not fit each other, or the pairs that are held, raise DimensionMismatchError."""
    part = _part(pattern)
    parts.wrong_shapes_are_refused(part)
    shape = part.middle()
    others = {}
    if (part.lq or 1) > 1:
        others["a query more"] = shape._replace(lq=shape.lq + 1)
    if (part.lk or 1) > 1:
        others["a key more"] = shape._replace(lk=shape.lk + 1)
    for name, other in others.items():
        with case(shape=tuple(other)):
            expect_error(DimensionMismatchError, f"{name} than the pattern has", part.call, part.arrays(other))
