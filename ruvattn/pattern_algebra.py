"""Patterns made of patterns: both, either, not. Written ``a & b``, ``a | b`` and ``~a``.

Ranges combine as pairs do (`ruvattn.key_ranges`), so that what one operand rules out is never computed. Operands that go by position and operands
that go by the index of a row can stand beside each other: each is asked in its own terms.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .errors import InvalidInputError
from .explicit_patterns import BoolMask, SparseMatrixMask
from .key_ranges import KeyRanges, answered, combined, complement, known_pairs, known_ranges
from .patterns import Pattern
from .validation import is_scipy_sparse

__all__ = ["And", "Not", "Or", "as_pattern", "over_entries"]

KEPT_TWINS = 64
"""How many variations of a pattern are kept: one for each shape of calls, mostly, but an operand may make its parts anew whenever it is asked."""


def as_pattern(x: Any) -> Pattern | None:
    """Return the pattern that an operand is, or None if it is no such thing.

    Parameters
    ----------
    x : Pattern, array of bool or scipy.sparse array
        The operand.

    Returns
    -------
    Pattern or None
        Itself, a `BoolMask` or a `SparseMatrixMask`.
    """
    if isinstance(x, Pattern):
        return x
    if is_scipy_sparse(x):
        return SparseMatrixMask(x)
    return BoolMask(x) if isinstance(x, np.ndarray) else None


def over_entries(pattern: Pattern, lead: tuple[int, ...]) -> Pattern:
    """Return a pattern whose arrays have all leading axes of a call, so that they can tell batch entries by their number.

    Parameters
    ----------
    pattern : Pattern
        What fits the call.
    lead : tuple of int
        The leading axes of the call.

    Returns
    -------
    Pattern
        The same object for the same pattern and axes; itself if no array in it repeats along one of several axes.
    """
    return pattern.over(lead) if len(lead) > 1 and isinstance(pattern, BoolMask | _Combined) else pattern


class _Combined(Pattern):
    """What a set of operands has in common."""

    _symbol: str

    def __init__(self, *operands: Pattern) -> None:
        for operand in operands:
            if not isinstance(operand, Pattern):
                raise InvalidInputError(f"operands of {type(self).__name__} must be patterns, got {type(operand).__name__}: a & b takes arrays, too")
        if not operands:
            raise InvalidInputError(f"{type(self).__name__} must have at least one operand")
        self.operands = operands
        self.by_head = any(operand.by_head for operand in operands)
        self.by_batch = any(operand.by_batch for operand in operands)
        self.positional = any(operand.positional for operand in operands)
        self.passing = any(operand.passing for operand in operands)
        self._kept: dict[tuple[int, ...], Pattern] = {}

    def at(self, offset: int) -> Pattern:
        """Return the same with each operand that goes by the index of a row asked for its own."""
        if offset == 0 or all(operand.positional and not isinstance(operand, _Combined) for operand in self.operands):
            return self
        return self.of([operand.at(offset) for operand in self.operands])

    def of(self, operands: list[Pattern]) -> Pattern:
        """Return the same of other operands."""
        if all(a is b for a, b in zip(operands, self.operands, strict=True)):
            return self
        twin = copy.copy(self)
        twin.operands = tuple(operands)
        return twin

    def over(self, lead: tuple[int, ...]) -> Pattern:
        """Return the same with arrays that have all leading axes of a call; the same object for the same ones."""
        if not self.by_batch:
            return self
        spread = [over_entries(operand, lead) for operand in self.operands]
        # Patterns hold their operands, so that an id is that of a living object.
        return self if (twin := self.of(spread)) is self else self._keep(spread, twin)

    def _keep(self, operands: list[Pattern], twin: Pattern) -> Pattern:
        """Return the pattern of such operands from before, or this one from now on; what would grow with every call starts over."""
        if len(self._kept) >= KEPT_TWINS:
            self._kept.clear()
        return self._kept.setdefault(tuple(map(id, operands)), twin)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if one of the operands has another shape than a call."""
        for operand in self.operands:
            operand.check_fits(lead, heads, lq, lk)

    def _answers(self, i: np.ndarray, j: np.ndarray, head: int, batch: int) -> list[np.ndarray]:
        return [answered(operand, i, j, head if operand.by_head else 0, batch if operand.by_batch else 0) for operand in self.operands]

    def _known(self, i0: int, i1: int, lk: int, head: int, batch: int) -> list[KeyRanges]:
        return [
            known_ranges(operand, i0, i1, lk, head if operand.by_head else 0, batch if operand.by_batch else 0)
            for operand in self.operands
        ]

    def __repr__(self) -> str:
        return "(" + f" {self._symbol} ".join(map(repr, self.operands)) + ")"


class And(_Combined):
    """The pairs that are in all of several patterns; ``a & b`` makes one.

    Parameters
    ----------
    *operands : Pattern
        At least one.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> both = ruvattn.Causal() & ruvattn.Window(1, 1)
    >>> both.allowed(np.arange(3)[:, None], np.arange(3)).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """

    _symbol = "&"

    def __init__(self, *operands: Pattern) -> None:
        super().__init__(*operands)
        self.scattered = any(operand.scattered for operand in operands)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return whether all allow it."""
        first, *others = self._answers(i, j, head, batch)
        for other in others:
            first = first & other
        return first

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> KeyRanges:
        """Return what is in the ranges of all."""
        return combined("and", self._known(i0, i1, lk, head, batch), lk)

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of an operand that lists them, as far as the others allow them."""
        listing = next((operand for operand in self.operands if operand.scattered), None)
        if listing is None:
            return super().pairs(i0, i1, lk, head=head, batch=batch)
        indptr, indices = known_pairs(listing, i0, i1, lk, head if listing.by_head else 0, batch if listing.by_batch else 0)
        i = np.repeat(np.arange(i0, i1, dtype=np.int64), np.diff(indptr))
        j = indices.astype(np.int64, copy=False)  # narrower ones would overflow in what a pattern computes with them
        kept = np.ones(j.shape, bool)
        for operand in self.operands:
            if operand is not listing:
                kept &= answered(operand, i, j, head if operand.by_head else 0, batch if operand.by_batch else 0)
        return np.concatenate([[0], np.cumsum(kept)])[indptr], indices[kept]

    def only(self, left: list[Pattern]) -> Pattern | None:
        """Return the pattern of some of the operands, or of what is left of them; the same object for the same ones."""
        if len(left) < 2:
            return left[0] if left else None
        if len(left) == len(self.operands) and all(a is b for a, b in zip(left, self.operands, strict=True)):
            return self
        return self._keep(left, And(*left))


class Or(_Combined):
    """The pairs that are in at least one of several patterns; ``a | b`` makes one.

    Parameters
    ----------
    *operands : Pattern
        At least one.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> either = ruvattn.Window(0, 0) | np.array([[True, False, False]])
    >>> either.allowed(np.arange(3)[:, None], np.arange(3)).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 0, 1]])
    """

    _symbol = "|"

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return whether one allows it."""
        first, *others = self._answers(i, j, head, batch)
        for other in others:
            first = first | other
        return first

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> KeyRanges:
        """Return what is in the ranges of one."""
        return combined("or", self._known(i0, i1, lk, head, batch), lk)


class Not(_Combined):
    """The pairs that are not in a pattern; ``~a`` makes one.

    Parameters
    ----------
    operand : Pattern
        The pattern.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> (~ruvattn.Causal()).allowed(np.arange(3)[:, None], np.arange(3)).astype(int)
    array([[0, 1, 1],
           [0, 0, 1],
           [0, 0, 0]])
    """

    def __init__(self, operand: Pattern) -> None:
        super().__init__(operand)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return whether it is not allowed."""
        return ~self._answers(i, j, head, batch)[0]

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> KeyRanges:
        """Return what is outside of its ranges, or only partly inside."""
        return complement(self._known(i0, i1, lk, head, batch)[0], lk)

    def __repr__(self) -> str:
        return f"~{self.operands[0]!r}"
