"""Patterns: which (query, key) pairs exist.

    Pattern.allowed(i, j)          enough to work: asked for blocks of pairs, in bounded memory
    Pattern.ranges(i0, i1, lk)     optional, enough to be fast: what it leaves out is not computed
             │
             ├─► ruvattn.planning ─► segments of keys for each block of rows ─► tiles
             └─► Pattern.pairs ────► the keys of each row ─► edges, where pairs are few and scattered

Here are the ones that `ruvattn.attention` has arguments for and the kernels know by heart: `Causal`, `Window` and `KeyLengths`. Sets of explicit
pairs are in ``explicit_patterns.py``, and what ``&``, ``|`` and ``~`` make of patterns in ``pattern_algebra.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from .validation import FAR, as_numbers, check_window

__all__ = ["Causal", "KeyLengths", "Pattern", "Window"]

Ranges = tuple[Any, Any, Any]


class Pattern:
    """Base class of mask patterns: a set of (query, key) pairs that may attend.

    A subclass gives `allowed`. With `ranges` too, what lies outside of them costs nothing. A pattern is a value: what it answers never changes,
    and what was planned for it is kept for the next call with the same object. ``a & b``, ``a | b`` and ``~a`` are patterns too; boolean and
    ``scipy.sparse`` arrays are taken as the other operand.

    Attributes
    ----------
    by_head, by_batch : bool
        Whether the set differs by head or batch entry; if not, `allowed` is asked once for all of them.
    row_block : int
        The blocks of rows that `ranges` is asked for start at multiples of this.
    positional : bool
        True: i is a position, the row's index plus ``query_offset``. False: i is the row's index, as it is for explicit arrays.
    scattered : bool
        True: its pairs lie here and there, and `pairs` lists them at once. Where they are few, only they are computed, one by one.
    passing : bool
        True: the object is for one call, so that what is planned for it is planned in vain for the next.
    """

    by_head: bool = False
    by_batch: bool = False
    row_block: int = 1
    positional: bool = True
    scattered: bool = False
    passing: bool = False

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Tell which pairs may attend.

        Parameters
        ----------
        i, j : ndarray of int64
            Positions of queries and keys, to be broadcast against each other. i may be negative.
        head : int
            The query head; 0 unless `by_head`.
        batch : int
            The batch entry, counted through all leading axes in C order; 0 unless `by_batch`.

        Returns
        -------
        ndarray of bool
            Broadcastable to the shape of ``i`` and ``j`` together; True: may attend.
        """
        raise UnsupportedError(f"{type(self).__name__} has no allowed(i, j): a pattern needs at least that")

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges | None:
        """Return the ranges of keys that rows i0 to i1 − 1 may see; None, the default, to have `allowed` asked for everything.

        Parameters
        ----------
        i0, i1 : int
            Positions of the first row and after the last one.
        lk : int
            The number of keys.
        head, batch : int
            As for `allowed`.

        Returns
        -------
        starts, stops : sequence of int
            Sorted, disjoint, half-open ranges within 0 and ``lk``, of any length. What is outside of them is masked.
        full : sequence of bool
            True: every row of the block may see the whole range. False: `allowed` decides.
        """
        return None

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys that rows i0 to i1 − 1 see, row by row.

        Parameters
        ----------
        i0, i1, lk, head, batch : int
            As for `ranges`.

        Returns
        -------
        indptr : ndarray of int64, (i1 − i0 + 1,)
            Where the keys of each row begin in ``indices``.
        indices : ndarray of int
            Each once in its row.
        """
        from .planning import listed_pairs

        return listed_pairs(self, i0, i1, lk, head, batch)

    def strided_parts(self, head: int = 0) -> Sequence[tuple[int, Pattern]] | None:
        """Return the set as a union of disjoint parts that live on every s-th row and key; None, the default, where there is no such form.

        Each part is then a dense problem for each residue of the positions mod s, which no tile of the original is. A pattern that has parts for one
        head has them for all.

        Parameters
        ----------
        head : int
            As for `allowed`. The patterns of the parts are for that head, and don't tell heads apart.

        Returns
        -------
        sequence of (int, Pattern), or None
            Part (s, p) holds the pairs (i, j) with s dividing i − j of which p has (i // s, j // s). ``[(1, p)]`` says that the pattern is p. The
            same objects each time, since what is planned for a pattern is kept with it.
            An empty one is the empty set. Where batch entries are told apart, or rows by their index and not all start at 0, `allowed` is asked.
        """
        return None

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if the pattern is of another shape than a call.

        Parameters
        ----------
        lead : tuple of int
            The leading axes of the call, in front of the heads; `allowed` counts batch entries through them in C order.
        heads, lq, lk : int
            Query heads, queries and keys.

        Raises
        ------
        DimensionMismatchError
            Only by patterns that have a shape.
        """

    def at(self, offset: int) -> Pattern:
        """Return the same set with the rows counted from another number: row 0 is row ``offset`` there.

        Parameters
        ----------
        offset : int
            Where row 0 stands.

        Returns
        -------
        Pattern
            Itself if it goes by position.
        """
        if self.positional or offset == 0:
            return self
        from .explicit_patterns import RowsOf

        return RowsOf(self, -offset)

    def __and__(self, other: Any) -> Pattern:
        from .pattern_algebra import And, as_pattern

        operand = as_pattern(other)
        return NotImplemented if operand is None else And(self, operand)

    def __rand__(self, other: Any) -> Pattern:
        from .pattern_algebra import And, as_pattern

        operand = as_pattern(other)
        return NotImplemented if operand is None else And(operand, self)

    def __or__(self, other: Any) -> Pattern:
        from .pattern_algebra import Or, as_pattern

        operand = as_pattern(other)
        return NotImplemented if operand is None else Or(self, operand)

    def __ror__(self, other: Any) -> Pattern:
        from .pattern_algebra import Or, as_pattern

        operand = as_pattern(other)
        return NotImplemented if operand is None else Or(operand, self)

    def __invert__(self) -> Pattern:
        from .pattern_algebra import Not

        return Not(self)

    def __bool__(self) -> bool:
        raise InvalidInputError("a pattern has no truth value: combine patterns with &, | and ~, and ask `is not None`")

    # So that an array on the left leaves the operator to the pattern instead of taking it apart.
    __array_ufunc__ = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Causal(Pattern):
    """A query sees the keys up to its own position: j ≤ i."""

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return j ≤ i."""
        return j <= i

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the keys that all rows see, and the triangle at the diagonal."""
        return _interval_ranges(0, 0, i0 + 1, i1, lk)


class Window(Pattern):
    """A query sees a window around its position: i − left ≤ j ≤ i + right (Beltagy et al., 2020, "Longformer", section 3.1).

    Parameters
    ----------
    left, right : int
        How many keys before and after the position; −1: without bound.

    Raises
    ------
    InvalidInputError
        If one is no int from −1.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> ruvattn.Window(1, 0).allowed(np.arange(3)[:, None], np.arange(3)).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """

    def __init__(self, left: int, right: int) -> None:
        self.left, self.right = check_window((left, right))

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return i − left ≤ j ≤ i + right."""
        # Not i + right: that may overflow where right is as large as an int can be.
        inside = (j - i <= self.right) if self.right >= 0 else np.True_
        return ((i - j <= self.left) if self.left >= 0 else np.True_) & inside | np.zeros(np.broadcast_shapes(np.shape(i), np.shape(j)), bool)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the keys that all rows see, and those at both ends that some do."""
        low, last_low = (i0 - self.left, i1 - 1 - self.left) if self.left >= 0 else (0, 0)
        first_high, high = (i0 + self.right + 1, i1 + self.right) if self.right >= 0 else (lk, lk)
        return _interval_ranges(low, last_low, first_high, high, lk)

    def __repr__(self) -> str:
        return f"Window(left={self.left}, right={self.right})"


class KeyLengths(Pattern):
    """Every query of a batch entry sees the first so many keys; what follows is padding.

    Parameters
    ----------
    lengths : int or array of int
        One for each batch entry, in C order over the leading axes; a single number holds for all of them.

    Raises
    ------
    InvalidInputError
        If one is negative or no int.
    """

    def __init__(self, lengths: Any) -> None:
        values = as_numbers(lengths, "lengths")
        if values.dtype.kind not in "iu" or np.any(values < 0):
            raise InvalidInputError(f"lengths must be ints from 0, got {lengths!r}")
        # Cut to what is longer than any sequence: an unsigned number may be none of int64.
        self.lengths = (np.minimum(values, FAR) if values.dtype.itemsize == 8 else values).astype(np.int64)
        self.by_batch = values.size > 1

    def _length(self, batch: int) -> int:
        if self.by_batch and batch >= self.lengths.size:
            raise DimensionMismatchError(f"lengths has {self.lengths.size} entries, and there is a batch entry {batch}: give one for each")
        return int(self.lengths.flat[batch if self.by_batch else 0])

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if there is neither one length nor one for each batch entry."""
        if self.lengths.size not in (1, math.prod(lead)):
            raise DimensionMismatchError(f"lengths of mask must be one number or one for each of the {math.prod(lead)} batch entries, got {self!r}")

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return j < length."""
        return (j < self._length(batch)) | np.zeros(np.shape(i), bool)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the one range of valid keys."""
        return [0], [min(self._length(batch), lk)], [True]

    def __repr__(self) -> str:
        return f"KeyLengths({self.lengths.tolist()})"


def _interval_ranges(low: int, last_low: int, first_high: int, high: int, lk: int) -> Ranges:
    """Ranges of rows whose intervals move to the right: [low, first_high) of the first row to [last_low, high) of the last one."""
    low, last_low, first_high, high = (min(max(n, 0), lk) for n in (low, last_low, first_high, high))
    if last_low >= first_high:
        pieces = [(low, high, False)]
    else:
        pieces = [(low, last_low, False), (last_low, first_high, True), (first_high, high, False)]
    kept = [piece for piece in pieces if piece[0] < piece[1]]
    return [p[0] for p in kept], [p[1] for p in kept], [p[2] for p in kept]
