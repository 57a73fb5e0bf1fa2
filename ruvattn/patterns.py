"""Patterns: which (query, key) pairs exist.

    Pattern.allowed(i, j)          enough to work: asked for blocks of pairs, in bounded memory
    Pattern.ranges(i0, i1, lk)     optional, enough to be fast: what it leaves out is not computed
             │
             └─► ruvattn.planning ─► segments of keys for each block of rows ─► kernels

Built in are the ones that `ruvattn.attention` has arguments for: `Causal`, `Window` and `KeyLengths`, which the kernels know by heart, and
`BoolMask` and `SparseMatrixMask`, which hold explicit pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from .validation import as_numbers, check_window, is_scipy_sparse

__all__ = ["BoolMask", "Causal", "KeyLengths", "Pattern", "SparseMatrixMask", "Window"]

Ranges = tuple[Any, Any, Any]


class Pattern:
    """Base class of mask patterns: a set of (query, key) pairs that may attend.

    A subclass gives `allowed`. With `ranges` too, what lies outside of them costs nothing.

    Attributes
    ----------
    by_head, by_batch : bool
        Whether the set differs by head or batch entry; if not, `allowed` is asked once for all of them.
    row_block : int
        The blocks of rows that `ranges` is asked for start at multiples of this.
    positional : bool
        True: i is a position, the row's index plus ``query_offset``. False: i is the row's index, as it is for explicit arrays.
    """

    by_head: bool = False
    by_batch: bool = False
    row_block: int = 1
    positional: bool = True

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
        self.lengths = values.astype(np.int64)
        self.by_batch = values.size > 1

    def _length(self, batch: int) -> int:
        if self.by_batch and batch >= self.lengths.size:
            raise DimensionMismatchError(f"lengths has {self.lengths.size} entries, and there is a batch entry {batch}: give one for each")
        return int(self.lengths.flat[batch if self.by_batch else 0])

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return j < length."""
        return (j < self._length(batch)) | np.zeros(np.shape(i), bool)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the one range of valid keys."""
        return [0], [min(self._length(batch), lk)], [True]

    def __repr__(self) -> str:
        return f"KeyLengths({self.lengths.tolist()})"


class BoolMask(Pattern):
    """An explicit boolean array, True where a query may attend to a key.

    Parameters
    ----------
    mask : array of bool
        (Lq, Lk), or with axes for heads and batch entries in front: (Hq, Lq, Lk), (..., Hq, Lq, Lk). Axes of length 1 are broadcast.

    Raises
    ------
    InvalidInputError
        If it isn't boolean or has fewer than two axes.
    """

    positional = False

    def __init__(self, mask: Any) -> None:
        array = as_numbers(mask, "mask")
        if array.dtype != np.bool_ or array.ndim < 2:
            raise InvalidInputError(f"mask must be a boolean array of at least two axes, got {array.dtype} of shape {array.shape}")
        self.mask = array
        self.by_head = array.ndim > 2 and array.shape[-3] > 1
        self.by_batch = any(n > 1 for n in array.shape[:-3])

    def _plane(self, head: int, batch: int) -> np.ndarray:
        mask = self.mask
        if mask.ndim > 3:
            lead = mask.shape[:-3]
            mask = mask[np.unravel_index(batch, lead)] if self.by_batch else mask[(0,) * len(lead)]
        if mask.ndim > 2:
            mask = mask[head if self.by_head else 0]
        return mask

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return the entries of the array."""
        plane = self._plane(head, batch)
        return plane[i if plane.shape[0] > 1 else np.zeros_like(i), j if plane.shape[1] > 1 else np.zeros_like(j)]

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the runs of keys that some row sees; full where all do."""
        plane = self._plane(head, batch)
        rows = plane[i0:i1] if plane.shape[0] > 1 else plane
        rows = np.broadcast_to(rows, (rows.shape[0], lk))
        return _runs(np.add(rows.any(0), rows.all(0), dtype=np.int8))

    def __repr__(self) -> str:
        return f"BoolMask({self.mask.shape})"


class SparseMatrixMask(Pattern):
    """The stored entries of a ``scipy.sparse`` array, each a pair that may attend, whatever its value.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        (Lq, Lk) for every head, in any format, or (Hq, Lq, Lk) as ``coo_array``. A stored zero counts; duplicates count once.

    Raises
    ------
    InvalidInputError
        If it is no such thing, or an index is out of range.
    """

    positional = False

    def __init__(self, matrix: Any) -> None:
        if not is_scipy_sparse(matrix):
            raise InvalidInputError(f"matrix must be a scipy.sparse array, got {type(matrix).__name__}: a boolean array is a BoolMask")
        if matrix.ndim not in (2, 3):
            raise DimensionMismatchError(f"matrix must be (Lq, Lk) or (Hq, Lq, Lk), got shape {matrix.shape}")
        self.shape = tuple(int(n) for n in matrix.shape)
        self.by_head = matrix.ndim == 3
        coords = [np.asarray(c, np.int64) for c in matrix.tocoo().coords]
        for axis, index in enumerate(coords):
            if index.size and not (0 <= index.min() and index.max() < self.shape[axis]):
                bad = int(np.flatnonzero((index < 0) | (index >= self.shape[axis]))[0])
                raise InvalidInputError(f"matrix has the entry {tuple(int(c[bad]) for c in coords)}, which is outside its shape {self.shape}")
        flat = coords[0]
        for size, index in zip(self.shape[1:], coords[1:], strict=True):
            flat = flat * size + index
        # Canonical: sorted and without duplicates, so that a row of pairs is a slice.
        self._flat = np.unique(flat)
        rows = int(np.prod(self.shape[:-1]))
        self._indices = self._flat % max(self.shape[-1], 1)
        self._indptr = np.searchsorted(self._flat, np.arange(rows + 1, dtype=np.int64) * self.shape[-1])

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Look the pairs up."""
        key = (i + (head * self.shape[-2] if self.by_head else 0)) * self.shape[-1] + j
        if not self._flat.size:
            return np.zeros(key.shape, bool)
        at = np.minimum(np.searchsorted(self._flat, key), self._flat.size - 1)
        return self._flat[at] == key

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the runs of keys that some row sees; keys that lie less than a tile's word apart share a range."""
        first = i0 + (head * self.shape[-2] if self.by_head else 0)
        keys, counts = np.unique(self._indices[self._indptr[first] : self._indptr[first + i1 - i0]], return_counts=True)
        if not keys.size:
            return [], [], []
        edges = np.flatnonzero(np.diff(keys) > 32) + 1
        starts = keys[np.concatenate([[0], edges])]
        stops = keys[np.concatenate([edges - 1, [keys.size - 1]])] + 1
        parts = np.concatenate([[0], edges])
        full = np.add.reduceat(counts, parts) == (stops - starts) * (i1 - i0)
        return starts, stops, full

    def __repr__(self) -> str:
        return f"SparseMatrixMask({self.shape}, {self._flat.size} pairs)"


class RowsOf(Pattern):
    """An explicit pattern seen from one of its rows on."""

    positional = False

    def __init__(self, pattern: Pattern, first: int) -> None:
        self.pattern, self.first = pattern, first
        self.by_head, self.by_batch = pattern.by_head, pattern.by_batch

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Ask the pattern about a row further down."""
        return self.pattern.allowed(i + self.first, j, head=head, batch=batch)


def _interval_ranges(low: int, last_low: int, first_high: int, high: int, lk: int) -> Ranges:
    """Ranges of rows whose intervals move to the right: [low, first_high) of the first row to [last_low, high) of the last one."""
    low, last_low, first_high, high = (min(max(n, 0), lk) for n in (low, last_low, first_high, high))
    if last_low >= first_high:
        pieces = [(low, high, False)]
    else:
        pieces = [(low, last_low, False), (last_low, first_high, True), (first_high, high, False)]
    kept = [piece for piece in pieces if piece[0] < piece[1]]
    return [p[0] for p in kept], [p[1] for p in kept], [p[2] for p in kept]


def _runs(kinds: np.ndarray) -> Ranges:
    """Turn 0 (none), 1 (some rows) and 2 (all rows) of each key into ranges of equal kind."""
    if not kinds.size:
        return [], [], []
    edges = np.flatnonzero(np.diff(kinds)) + 1
    starts = np.concatenate([[0], edges])
    stops = np.concatenate([edges, [kinds.size]])
    kept = kinds[starts] > 0
    return starts[kept], stops[kept], kinds[starts][kept] == 2
