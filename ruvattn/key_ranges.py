"""Ranges of keys, as `Pattern.ranges` gives them, and their algebra: what is seen by all rows, by some, by none.

    known_ranges(pattern, i0, i1, lk)     asks a pattern by its own row blocks, and checks the answer
    answered(pattern, i, j)               asks it about pairs, and checks the answer
    known_pairs(pattern, i0, i1, lk)      asks it to list them, and checks the answer
    known_parts(pattern)                  asks it for strided parts, and checks the answer
    combined(kind, …)                     and, or, over several such answers;  complement()

A key that every row of a block sees has level 2, one that `allowed` has to decide has 1, and one that no row sees 0. Then ``and`` is the minimum,
``or`` the maximum and ``not`` is 2 − level: Kleene's logic of three values. It never calls partial what it can tell is full or empty.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError
from .patterns import Pattern
from .validation import FAR

__all__ = ["KeyRanges", "answered", "combined", "complement", "known_pairs", "known_parts", "known_ranges", "row_block"]


class KeyRanges(NamedTuple):
    """Sorted, disjoint, nonempty half-open ranges of keys.

    Attributes
    ----------
    starts, stops : ndarray of int64, (n,)
        The ranges.
    full : ndarray of bool, (n,)
        Whether every row sees all of it.
    """

    starts: np.ndarray
    stops: np.ndarray
    full: np.ndarray


def known_ranges(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int) -> KeyRanges:
    """Ask `ranges` for blocks that start at multiples of the pattern's row_block, and unite what they answer.

    Parameters
    ----------
    pattern : Pattern
        Which may not know its ranges: then there is one, of all keys.
    i0, i1, lk, head, batch : int
        As for `Pattern.ranges`.

    Returns
    -------
    KeyRanges
        For all rows together.

    Raises
    ------
    InvalidInputError
        If the pattern answers what it must not.
    """
    step = row_block(pattern)
    first = i0 // step * step
    if step == 1 or first + step >= i1:
        return _asked(pattern, first, i1, lk, head, batch)
    return combined("rows", [_asked(pattern, at, min(at + step, i1), lk, head, batch) for at in range(first, i1, step)], lk)


def row_block(pattern: Pattern) -> int:
    """Return the row_block of a pattern, having seen that it is one.

    Parameters
    ----------
    pattern : Pattern
        Any.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InvalidInputError
        If it is no positive int.
    """
    try:
        step = operator.index(pattern.row_block)
    except TypeError:
        step = 0
    if step < 1:
        raise InvalidInputError(f"{type(pattern).__name__}.row_block must be a positive int, got {pattern.row_block!r}")
    return step


def answered(pattern: Pattern, i: np.ndarray, j: np.ndarray, head: int, batch: int) -> np.ndarray:
    """Ask `allowed`.

    Parameters
    ----------
    pattern : Pattern
        Any.
    i, j, head, batch : ndarray, int
        As for `Pattern.allowed`.

    Returns
    -------
    ndarray of bool
        Of the shape of ``i`` and ``j`` together, perhaps by strides of 0.

    Raises
    ------
    InvalidInputError, DimensionMismatchError
        If the pattern answers what it must not.
    """
    answer = pattern.allowed(i, j, head=head, batch=batch)
    name = f"{type(pattern).__name__}.allowed"
    try:
        answer = np.asarray(answer)
    except ValueError as error:
        raise InvalidInputError(f"{name} must return an array of booleans: {error}") from None
    if answer.dtype != np.bool_:
        raise InvalidInputError(f"{name} must return booleans, got {answer.dtype}")
    shape = np.broadcast_shapes(np.shape(i), np.shape(j))
    try:
        return np.broadcast_to(answer, shape)
    except ValueError:
        raise DimensionMismatchError(f"{name} must return an array that broadcasts to {shape}, got {answer.shape}") from None


def known_pairs(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Ask `pairs`.

    Parameters
    ----------
    pattern : Pattern
        Any.
    i0, i1, lk, head, batch : int
        As for `Pattern.pairs`.

    Returns
    -------
    indptr : ndarray of int64, (i1 − i0 + 1,)
        From 0 to the number of indices, never falling.
    indices : ndarray of int
        From 0 to lk − 1.

    Raises
    ------
    InvalidInputError
        If the pattern answers what it must not.
    """
    answer = pattern.pairs(i0, i1, lk, head=head, batch=batch)
    name = f"{type(pattern).__name__}.pairs({i0}, {i1}, {lk})"
    try:
        indptr, indices = map(np.asarray, answer)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} must return two arrays, indptr and indices: {error}") from None
    if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu" or indptr.shape != (i1 - i0 + 1,) or indices.ndim != 1:
        raise InvalidInputError(
            f"{name} must return ints, indptr of shape ({i1 - i0 + 1},) and indices of one axis, got {indptr.dtype} of shape {indptr.shape} and "
            f"{indices.dtype} of shape {indices.shape}"
        )
    if indptr[0] != 0 or indptr[-1] != indices.size or np.any(indptr[1:] < indptr[:-1]):
        raise InvalidInputError(f"{name} must return an indptr from 0 to the number of indices, {indices.size}, that never falls, got {indptr}")
    if indices.size and (indices.min() < 0 or indices.max() >= lk):
        wrong = int(((indices < 0) | (indices >= lk)).argmax())
        raise InvalidInputError(f"{name} must return keys from 0 to {lk - 1}, got {indices[wrong]} as number {wrong}")
    return indptr.astype(np.int64, copy=False), indices


def known_parts(pattern: Pattern, head: int = 0) -> list[tuple[int, Pattern]] | None:
    """Ask `strided_parts`.

    Parameters
    ----------
    pattern, head : Pattern, int
        As for `Pattern.strided_parts`.

    Returns
    -------
    list of (int, Pattern), or None
        Steps from 1 and patterns that don't tell heads apart; an empty list is the empty set.

    Raises
    ------
    InvalidInputError
        If the pattern answers what it must not.
    """
    parts = pattern.strided_parts(head)
    if parts is None:
        return None
    name = f"{type(pattern).__name__}.strided_parts({head})"
    try:
        found = [(operator.index(step), part) for step, part in parts]
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} must return pairs of an int and a Pattern: {error}") from None
    for step, part in found:
        if not 1 <= step <= FAR:
            raise InvalidInputError(f"{name} must return steps from 1 to {FAR}, got {step}")
        if not isinstance(part, Pattern) or part.by_head or part is pattern:
            raise InvalidInputError(f"{name} must return other patterns, which don't tell heads apart, got {part!r} for the step {step}")
    return found


def _asked(pattern: Pattern, i0: int, i1: int, lk: int, head: int, batch: int) -> KeyRanges:
    answer = pattern.ranges(i0, i1, lk, head=head, batch=batch)
    if answer is None:
        return _ranges([0], [lk], [False]) if lk else _ranges([], [], [])
    try:
        starts, stops, full = answer
        starts, stops = _ints(starts), _ints(stops)
        full = np.asarray(full).ravel().astype(bool)
        if not len(starts) == len(stops) == len(full):
            raise ValueError(f"their lengths are {len(starts)}, {len(stops)} and {len(full)}")
    except (TypeError, ValueError) as error:
        what = f"{type(pattern).__name__}.ranges({i0}, {i1}, {lk})"
        raise InvalidInputError(f"{what} must return three sequences of one length, starts, stops and full: {error}") from None
    if not len(starts):
        return KeyRanges(starts, stops, full)
    wrong = (stops < starts) | (stops > lk)
    wrong[0] |= starts[0] < 0
    wrong[1:] |= starts[1:] < stops[:-1]
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidInputError(
            f"{type(pattern).__name__}.ranges({i0}, {i1}, {lk}) returned the range [{starts[at]}, {stops[at]}), "
            f"which overlaps another, runs backwards or leaves [0, {lk})"
        )
    kept = starts < stops
    return KeyRanges(starts, stops, full) if kept.all() else KeyRanges(starts[kept], stops[kept], full[kept])


def _ints(values: Any) -> np.ndarray:
    array = np.asarray(values).ravel()
    if array.dtype.kind == "i":
        return array.astype(np.int64, copy=False)
    # Cut to what an array holds; it is out of range either way.
    return np.array([max(-FAR, min(operator.index(value), FAR)) for value in array.tolist()], np.int64)


def _ranges(starts: Any, stops: Any, full: Any) -> KeyRanges:
    return KeyRanges(np.asarray(starts, np.int64), np.asarray(stops, np.int64), np.asarray(full, bool))


def complement(ranges: KeyRanges, lk: int) -> KeyRanges:
    """Return what is outside of ranges, as seen by all, and inside of those that only some rows see.

    Parameters
    ----------
    ranges : KeyRanges
        What is seen.
    lk : int
        How many keys there are.

    Returns
    -------
    KeyRanges
        What isn't.
    """
    cuts = _cuts([ranges], lk)
    return _from_levels(cuts, 2 - _levels(ranges, cuts[:-1]))


def combined(kind: str, every: Sequence[KeyRanges], lk: int) -> KeyRanges:
    """Return the ranges of several patterns together, or of one pattern for several blocks of rows.

    Parameters
    ----------
    kind : {"and", "or", "rows"}
        "rows": what all blocks see is full, what some see isn't.
    every : sequence of KeyRanges
        At least one.
    lk : int
        How many keys there are.

    Returns
    -------
    KeyRanges
        Neighbours of one kind joined.
    """
    if len(every) == 1:
        return every[0]
    cuts = _cuts(every, lk)
    levels = np.stack([_levels(ranges, cuts[:-1]) for ranges in every])
    if kind == "and":
        level = levels.min(0)
    elif kind == "or":
        level = levels.max(0)
    else:
        low, high = levels.min(0), levels.max(0)
        level = np.where(low == high, low, 1)
    return _from_levels(cuts, level)


def _cuts(every: Sequence[KeyRanges], lk: int) -> np.ndarray:
    return np.unique(np.concatenate([[0, lk], *(part for ranges in every for part in (ranges.starts, ranges.stops))]))


def _levels(ranges: KeyRanges, at: np.ndarray) -> np.ndarray:
    """The level of each key."""
    if not len(ranges.starts):
        return np.zeros(len(at), np.int8)
    index = np.searchsorted(ranges.starts, at, side="right") - 1
    return np.where((index >= 0) & (at < ranges.stops[index]), 1 + ranges.full[index].astype(np.int8), np.int8(0))


def _from_levels(cuts: np.ndarray, level: np.ndarray) -> KeyRanges:
    """Turn the levels of the pieces between cuts into ranges."""
    if not len(level):
        return _ranges([], [], [])
    edges = np.concatenate([[0], np.flatnonzero(np.diff(level)) + 1, [len(level)]])
    level = level[edges[:-1]]
    starts, stops = cuts[edges[:-1]], cuts[edges[1:]]
    kept = level > 0
    return KeyRanges(starts[kept], stops[kept], level[kept] == 2)
