"""Patterns that hold their pairs: boolean arrays and sparse matrices. A row is its index here, wherever the queries stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from .key_ranges import known_pairs, known_ranges
from .patterns import Pattern, Ranges
from .validation import as_numbers, is_scipy_sparse

__all__ = ["BoolMask", "ListedPairs", "SparseMatrixMask"]


class BoolMask(Pattern):
    """An explicit boolean array, True where a query may attend to a key.

    Parameters
    ----------
    mask : array of bool
        (Lq, Lk), or with axes for heads and batch entries in front: (Hq, Lq, Lk), (..., Hq, Lq, Lk). Axes of length 1 are broadcast.
        It isn't copied: what is written to it afterwards may or may not be seen.

    Raises
    ------
    InvalidInputError
        If it isn't boolean, has fewer than two axes, or is a masked array.
    """

    positional = False

    def __init__(self, mask: Any) -> None:
        if isinstance(mask, np.ma.MaskedArray):
            raise InvalidInputError("mask is a masked array, whose own mask would be lost: pass a plain boolean array")
        array = as_numbers(mask, "mask")
        if array.dtype != np.bool_ or array.ndim < 2:
            hint = ""
            if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
                hint = ": numbers that are added to the logits are bias="
            elif array.dtype.kind in "iu":
                hint = ": write mask.astype(bool)"
            raise InvalidInputError(f"mask must be a boolean array of at least two axes, got {array.dtype} of shape {array.shape}{hint}")
        self.mask = array
        self._spread: dict[tuple[int, ...], BoolMask] = {}
        self.by_head = array.ndim > 2 and array.shape[-3] > 1
        self.by_batch = any(n > 1 for n in array.shape[:-3])

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if it doesn't broadcast to the shape of a call."""
        full = (*lead, heads, lq, lk)
        shape = self.mask.shape
        if len(shape) > len(full) or any(n not in (1, m) for n, m in zip(shape[::-1], full[::-1], strict=False)):
            raise DimensionMismatchError(f"mask must broadcast to {'(Hq, Lq, Lk)' if not lead else '(..., Hq, Lq, Lk)'} = {full}, got shape {shape}")

    def over(self, lead: tuple[int, ...]) -> BoolMask:
        """Return the same mask with all leading axes of a call; the same object for the same ones.

        `allowed` is told one number for a batch entry, from which an array that repeats along one of several axes cannot tell its own.

        Parameters
        ----------
        lead : tuple of int
            To which those of the mask broadcast.

        Returns
        -------
        BoolMask
            Itself if it counts its entries as the call does.
        """
        shape = self.mask.shape
        if not self.by_batch or math.prod(shape[:-3]) == math.prod(lead):
            return self
        return self._spread.setdefault(lead, BoolMask(np.broadcast_to(self.mask, (*lead, *shape[-3:]))))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spread": {}}

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
        return _ranges_of(np.add(rows.any(0), rows.all(0), dtype=np.int8))

    def __repr__(self) -> str:
        return f"BoolMask({self.mask.shape})"


class ListedPairs(Pattern):
    """Base class of patterns that hold the keys of each row, ascending and each once.

    A subclass sets ``_indices``, the keys of one row after the other as int32, and says by `_ends` where the rows begin.
    """

    positional = False
    scattered = True
    _indices: np.ndarray

    def _ends(self, head: int, batch: int) -> np.ndarray:
        """Return where the rows begin among the keys, and where the last one ends."""
        raise UnsupportedError(f"{type(self).__name__} has no _ends(head, batch): listed pairs need it")

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return a slice of what is held."""
        ends = self._ends(head, batch)[i0 : i1 + 1]
        return ends - ends[0], self._indices[ends[0] : ends[-1]]

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Look the pairs up."""
        i, j = np.broadcast_arrays(i, j)
        ends = self._ends(head, batch)
        # Only the rows that are asked about: a plan asks for one block of them after another.
        first, last = max(int(i.min(initial=len(ends))), 0), min(int(i.max(initial=-1)), len(ends) - 2)
        if first > last or ends[first] == ends[last + 1]:
            return np.zeros(i.shape, bool)
        ends = ends[first : last + 2]
        span = np.int64(2**31)  # more than there are keys
        flat = np.repeat(np.arange(first, last + 1, dtype=np.int64) * span, np.diff(ends)) + self._indices[ends[0] : ends[-1]]
        key = i * span + j
        return flat[np.minimum(np.searchsorted(flat, key), flat.size - 1)] == key

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the runs of keys that some row sees; keys that lie less than a tile's word apart share a range."""
        ends = self._ends(head, batch)
        keys, counts = np.unique(self._indices[ends[i0] : ends[i1]].astype(np.int64), return_counts=True)
        if not keys.size:
            return [], [], []
        edges = np.flatnonzero(np.diff(keys) > 32) + 1
        begins = np.concatenate([[0], edges])
        starts, stops = keys[begins], keys[np.concatenate([edges - 1, [keys.size - 1]])] + 1
        return starts, stops, np.add.reduceat(counts, begins) == (stops - starts) * (i1 - i0)


class SparseMatrixMask(ListedPairs):
    """The stored entries of a ``scipy.sparse`` array, each a pair that may attend, whatever its value.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        (Lq, Lk) for every head, in any format, or (Hq, Lq, Lk) as ``coo_array``. A stored zero counts; duplicates count once.

    Raises
    ------
    InvalidInputError
        If it is no such thing, an index is out of range, the pointers to its rows fall or run past the end, or it has more than 2³¹ − 1 columns.
    """

    def __init__(self, matrix: Any) -> None:
        if not is_scipy_sparse(matrix):
            raise InvalidInputError(f"matrix must be a scipy.sparse array, got {type(matrix).__name__}: a boolean array is a BoolMask")
        if matrix.ndim not in (2, 3):
            raise DimensionMismatchError(f"matrix must be (Lq, Lk) or (Hq, Lq, Lk), got shape {matrix.shape}")
        self.shape = tuple(int(n) for n in matrix.shape)
        if self.shape[-1] > np.iinfo(np.int32).max:
            raise InvalidInputError(f"matrix must have at most {np.iinfo(np.int32).max} columns, got shape {self.shape}")
        self.by_head = matrix.ndim == 3
        rows = _canonical_rows(matrix)
        if rows is not None:
            self._indptr, self._indices = rows
            return
        check_compressed(matrix)
        coords = [np.asarray(c, np.int64) for c in _coordinates(matrix)]
        for axis, index in enumerate(coords):
            if index.size and not (0 <= index.min() and index.max() < self.shape[axis]):
                bad = int(np.flatnonzero((index < 0) | (index >= self.shape[axis]))[0])
                raise InvalidInputError(f"matrix has the entry {tuple(int(c[bad]) for c in coords)}, which is outside its shape {self.shape}")
        flat = coords[0]
        for size, index in zip(self.shape[1:], coords[1:], strict=True):
            flat = flat * size + index
        # Sorted and without duplicates, so that a row of pairs is a slice.
        # (np.unique hashes: seconds instead of a tenth of one for two million pairs, NumPy 2.4.)
        flat = np.sort(flat)
        flat = flat[np.diff(flat, prepend=-1) > 0]
        self._indices = (flat % max(self.shape[-1], 1)).astype(np.int32)
        self._indptr = np.searchsorted(flat, np.arange(int(np.prod(self.shape[:-1])) + 1, dtype=np.int64) * self.shape[-1])

    def _ends(self, head: int, batch: int) -> np.ndarray:
        first = head * self.shape[-2] if self.by_head else 0
        return self._indptr[first : first + self.shape[-2] + 1]

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if it has another shape than a call."""
        wanted = (heads, lq, lk)[-len(self.shape) :]
        if self.shape != wanted:
            names = "(Hq, Lq, Lk)" if len(wanted) == 3 else "(Lq, Lk)"
            raise DimensionMismatchError(f"mask must have shape {names} = {wanted}, got {self.shape}")

    def __repr__(self) -> str:
        return f"SparseMatrixMask({self.shape}, {self._indices.size} pairs)"


class RowsOf(Pattern):
    """An explicit pattern seen from another of its rows on: row i is its row i + first.

    The other rows don't exist, and what asks for them asks for what isn't there.
    """

    positional = False

    def __init__(self, pattern: Pattern, first: int) -> None:
        self.pattern: Pattern = pattern.pattern if isinstance(pattern, RowsOf) else pattern
        self.first: int = pattern.first + first if isinstance(pattern, RowsOf) else first
        self.by_head, self.by_batch, self.scattered, self.passing = pattern.by_head, pattern.by_batch, pattern.scattered, pattern.passing

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise: which of its rows a call would have is for the call to say."""
        raise DimensionMismatchError(
            f"mask must start at its own row 0, got {self!r}: pass the pattern itself, explicit pairs go by the index of a row"
        )

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Ask the pattern about its own rows."""
        return self.pattern.allowed(i + self.first, j, head=head, batch=batch)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Ask the pattern about its own rows, by its own blocks."""
        return known_ranges(self.pattern, i0 + self.first, i1 + self.first, lk, head, batch)

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ask the pattern about its own rows."""
        return known_pairs(self.pattern, i0 + self.first, i1 + self.first, lk, head, batch)

    def __repr__(self) -> str:
        return f"RowsOf({self.pattern!r}, {self.first})"


def _canonical_rows(matrix: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return indptr and indices of a CSR matrix whose rows are sorted and without duplicates; else None.

    What scipy remembers of that is not asked: it goes stale when somebody writes to the arrays.
    """
    if matrix.format != "csr":
        return None
    rows, columns = matrix.shape
    indptr, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
    if indptr.shape != (rows + 1,) or indptr[0] != 0 or np.any(indptr[1:] < indptr[:-1]) or indptr[-1] > indices.size:
        return None
    indices = indices[: indptr[-1]]
    if indices.size and not (indices.min() >= 0 and indices.max() < columns):
        return None
    falls = np.flatnonzero(indices[1:] <= indices[:-1]) + 1
    # Where a key isn't larger than the one before it, a row has to begin.
    begins = np.zeros(indices.size + 1, bool)
    begins[indptr[:-1]] = True
    if not begins[falls].all():
        return None
    return indptr.astype(np.int64), indices.astype(np.int32)  # copies: the pattern stays what it is whatever happens to the matrix


def check_compressed(matrix: Any) -> None:
    """Raise if a CSR, CSC or BSR matrix doesn't say which entries its rows have: scipy looks at that only when it is asked to.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        Of any format; others have nothing to be looked at.

    Raises
    ------
    InvalidInputError
        If ``indptr`` has another length than the rows ask for, begins with another number than 0, falls or runs past the end, or a block of a BSR
        matrix lies outside.
    """
    if matrix.format not in ("csr", "csc", "bsr"):
        return
    indptr, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
    blocks = matrix.blocksize if matrix.format == "bsr" else (1, 1)
    lines, across = (n // size for n, size in zip(matrix.shape, blocks, strict=True))
    if matrix.format == "csc":
        lines, across = across, lines
    if indptr.shape != (lines + 1,):
        raise InvalidInputError(f"indptr of the matrix must have {lines + 1} entries, got shape {indptr.shape}")
    if indptr[0] != 0:
        raise InvalidInputError(f"indptr of the matrix must begin with 0, got {indptr[0]}")
    falls = np.flatnonzero(indptr[1:] < indptr[:-1])
    if falls.size:
        at = int(falls[0])
        raise InvalidInputError(f"indptr of the matrix must not fall, got indptr[{at + 1}] = {indptr[at + 1]} after {indptr[at]}")
    if indptr[-1] > indices.size:
        raise InvalidInputError(f"indptr of the matrix must end within the {indices.size} indices, got {indptr[-1]}")
    if matrix.format == "bsr":
        used = indices[: indptr[-1]]
        wrong = np.flatnonzero((used < 0) | (used >= across))
        if wrong.size:
            block = (int(np.searchsorted(indptr, wrong[0], side="right")) - 1, int(used[wrong[0]]))
            raise InvalidInputError(f"matrix has the block {block}, which is outside its {lines} × {across} blocks")


def _coordinates(matrix: Any) -> tuple[np.ndarray, ...]:
    """Return the index of each stored entry along each axis; those out of range too, for scipy's conversion would raise without naming them."""
    if matrix.format in ("csr", "csc"):
        lines = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
        pair = (lines, matrix.indices[: lines.size])
        return pair if matrix.format == "csr" else pair[::-1]
    coo = matrix.tocoo()
    return coo.coords if hasattr(coo, "coords") else (coo.row, coo.col)


def _ranges_of(kinds: np.ndarray) -> Ranges:
    """Turn 0 (none), 1 (some rows) and 2 (all rows) of each key into ranges of equal kind."""
    if not kinds.size:
        return [], [], []
    edges = np.flatnonzero(np.diff(kinds)) + 1
    starts = np.concatenate([[0], edges])
    stops = np.concatenate([edges, [kinds.size]])
    kept = kinds[starts] > 0
    return starts[kept], stops[kept], kinds[starts][kept] == 2
