"""Sparse masks: the forms of `ruvattn.SparseMask` that hold what they are told, and ways from one to another.

    bool array ─► Dense          pairs ─► COO         blocks ─► BlockSparse         window and global tokens ─► Windowed
    scipy.sparse ─► from_scipy() ─► COO or BlockSparse                              any Pattern ─► PatternMask
                                 anything of these ─► as_sparse_mask()

Back again: `to_dense`, `to_scipy` and `pairs` of any of them. A mask is a value: it keeps no reference to arrays that somebody may write to.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ruvattn import BoolMask, KeyLengths, Pattern, SparseMask, SparseMatrixMask
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.explicit_patterns import check_compressed
from ruvattn.validation import FAR, as_numbers, check_int, is_scipy_sparse

from ._intervals import Ranges, several_rows
from .patterns import LocalGlobal
from .pictures import PicturedMask

__all__ = ["COO", "BlockSparse", "Dense", "PatternMask", "Windowed", "as_sparse_mask", "from_scipy"]


class Windowed(LocalGlobal):
    """A query sees a window around it, and global tokens: ``|i − j|`` ≤ window_size, or i or j is a global token.

    The sliding window of Beltagy et al. (2020), "Longformer", sections 3.1 and 3.2, with its symmetric rule: every query sees the global tokens,
    and these see everything.

    Parameters
    ----------
    window_size : int
        How many keys away a query sees all of them, at least 0.
    global_tokens : int or sequence of int, default 0
        The first so many positions, or which.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Examples
    --------
    >>> from ruvattn_sparse import Windowed
    >>> Windowed(1, global_tokens=1).to_dense(5, 5).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0],
           [1, 1, 1, 1, 0],
           [1, 0, 1, 1, 1],
           [1, 0, 0, 1, 1]])
    """

    conformance_options = ({"window_size": 3}, {"window_size": 2, "global_tokens": [0, 3, 4, 30]})

    def __init__(self, window_size: int, global_tokens: Any = 0) -> None:
        super().__init__(window_size, global_tokens)


class Dense(BoolMask, PicturedMask):
    """A boolean array, True where a query may attend to a key.

    Parameters
    ----------
    mask : array of bool
        (Lq, Lk), or with axes for heads and batch entries in front: (Hq, Lq, Lk), (..., Hq, Lq, Lk). Copied. A call broadcasts axes of
        length 1; `shape`, `nnz` and `density` are those of the array itself.

    Raises
    ------
    InvalidInputError
        If it isn't boolean or has fewer than two axes.
    """

    def __init__(self, mask: Any) -> None:
        super().__init__(mask)
        self.mask = self.mask.copy()
        self.shape = self.mask.shape
        self.heads = self.shape[-3] if self.by_head else None
        self.lead = self.shape[:-3]

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        plane = self._plane(head, batch)
        counts = np.count_nonzero(plane, axis=1) * (lk if plane.shape[1] == 1 else 1)
        return np.broadcast_to(counts, (lq,)).astype(np.int64)

    def __repr__(self) -> str:
        return f"Dense({self.mask.shape})"


def _checked_entries(values: Any, name: str, shape: tuple[int, ...] | None) -> tuple[np.ndarray, ...]:
    """Return the columns of an array of (row, column) or (head, row, column), each within its axis."""
    array = as_numbers(values, name)
    if array.size == 0 and array.ndim < 2:
        array = np.zeros((0, 2 if shape is None else len(shape)), np.int64)
    if array.ndim != 2 or array.shape[1] not in (2, 3) or (array.dtype.kind not in "iu" and array.size):
        raise InvalidInputError(f"{name} must be ints, (n, 2) or (n, 3), got {array.dtype} of shape {array.shape}")
    if shape is not None and len(shape) != array.shape[1]:
        raise DimensionMismatchError(f"shape must have {array.shape[1]} axes, as the entries of {name} have numbers, got {shape}")
    limit = np.array(shape if shape is not None else [FAR] * array.shape[1], np.int64)
    wrong = (array < 0) | (array >= limit)
    if wrong.any():
        at = int(np.flatnonzero(wrong.any(1))[0])
        entry = tuple(array[at].tolist())
        outside = "below 0" if min(entry) < 0 else f"outside of {shape}" if shape is not None else "further than any key"
        raise InvalidInputError(f"{name}[{at}] is {entry}, which is {outside}: entries are counted from 0")
    return tuple(array.astype(np.int64).T)


def _checked_shape(shape: Any) -> tuple[int, ...] | None:
    if shape is None:
        return None
    try:
        axes = tuple(shape)
    except TypeError:
        axes = ()
    if len(axes) not in (2, 3):
        raise InvalidInputError(f"shape must have two axes, or three with heads in front, got {shape!r}")
    return tuple(check_int(n, f"shape[{at}]", 0) for at, n in enumerate(axes))


class COO(PicturedMask):
    """Explicit pairs of a query and a key that may attend.

    Parameters
    ----------
    pairs : array of int, (n, 2) or (n, 3)
        (query, key), or (head, query, key), of any integer dtype, in any order. What comes twice counts once.
    shape : tuple of int, optional
        (Lq, Lk) or (Hq, Lq, Lk): the one shape of calls that the mask is for. Without, it is for every call that has all of its queries, keys
        and heads, and those that are named in no pair see, and are seen by, nothing.

    Raises
    ------
    InvalidInputError
        If a pair is outside of the shape, negative, or no pair of ints; the message says which.
    DimensionMismatchError
        If shape has another number of axes than a pair has numbers.

    Examples
    --------
    >>> from ruvattn_sparse import COO
    >>> COO([(0, 2), (1, 0), (1, 1)], shape=(2, 3)).to_dense().astype(int)
    array([[0, 0, 1],
           [1, 1, 0]])
    """

    positional = False
    scattered = True

    def __init__(self, pairs: Any, shape: Any = None) -> None:
        from scipy import sparse

        self.shape = _checked_shape(shape)
        index = _checked_entries(pairs, "pairs", self.shape)
        held = self.shape if self.shape is not None else tuple(int(axis.max(initial=-1)) + 1 for axis in index)
        self._hold(SparseMatrixMask(sparse.coo_array((np.ones(index[0].size, bool), index), shape=held)))

    def _hold(self, matrix: SparseMatrixMask) -> None:
        self._matrix = matrix
        self.by_head = matrix.by_head
        self.heads = self.shape[0] if self.shape is not None and self.by_head else None

    @classmethod
    def from_scipy(cls, matrix: Any) -> COO:
        """Return the mask of what a ``scipy.sparse`` array stores.

        Parameters
        ----------
        matrix : scipy.sparse array or matrix
            (Lq, Lk) in any format, or (Hq, Lq, Lk) as ``coo_array``. A stored zero counts; duplicates count once; order doesn't matter.

        Returns
        -------
        COO
            Of the same shape.

        Raises
        ------
        InvalidInputError
            If it is no such thing, or an index is out of range.
        DimensionMismatchError
            If it has neither two nor three axes.
        """
        mask = cls.__new__(cls)
        held = SparseMatrixMask(matrix)
        mask.shape = held.shape
        mask._hold(held)
        return mask

    @classmethod
    def from_dense(cls, array: Any) -> COO:
        """Return the pairs of a boolean array.

        Parameters
        ----------
        array : array of bool
            (Lq, Lk) or (Hq, Lq, Lk).

        Returns
        -------
        COO
            Of the same shape.

        Raises
        ------
        InvalidInputError
            If it is no such array.
        """
        mask = as_numbers(array, "array")
        if mask.dtype != np.bool_ or mask.ndim not in (2, 3):
            raise InvalidInputError(f"array must be boolean, (Lq, Lk) or (Hq, Lq, Lk), got {mask.dtype} of shape {mask.shape}")
        return cls(np.argwhere(mask), mask.shape)

    @property
    def conformance_shape(self) -> tuple[int | None, ...]:
        """The shape that it is for, or one that holds its pairs."""
        held = self._matrix.shape
        return None, held[0] if self.by_head else None, *(max(n, 1) if self.shape is None else n for n in held[-2:])

    @property
    def nnz(self) -> int:
        """The number of pairs, of all heads if these differ; known whatever the lengths."""
        planes, rows, keys = (1, *self._matrix.shape)[-3:]
        return sum(int(self._matrix.pairs(0, rows, keys, head=head)[0][-1]) for head in range(planes))

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if a call has another shape, or not all of the pairs."""
        super().check_fits(lead, heads, lq, lk)
        if self.shape is None:
            held, call = self._matrix.shape, (heads, lq, lk)[-len(self._matrix.shape) :]
            if any(a > b for a, b in zip(held, call, strict=True)):
                raise DimensionMismatchError(f"mask has the pair {self._outside(call)}, which is outside of the call's {call}: leave it out")

    def _outside(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the first pair that a shape doesn't hold."""
        planes, rows, keys = (1, *self._matrix.shape)[-3:]
        for head in range(planes):
            indptr, indices = self._matrix.pairs(0, rows, keys, head=head)
            of_row = np.repeat(np.arange(rows), np.diff(indptr))
            wrong = (of_row >= shape[-2]) | (indices >= shape[-1])
            if len(shape) == 3 and head >= shape[0]:
                wrong[:] = True
            if wrong.any():
                at = int(wrong.argmax())
                return (head, int(of_row[at]), int(indices[at]))[-len(shape) :]
        raise AssertionError("some pair is outside, or this would not be asked")

    def _held_rows(self, i0: int, i1: int, head: int) -> int:
        """How many rows of a block there are pairs of."""
        if self.by_head and head >= self._matrix.shape[0]:
            return 0
        return max(min(i1, self._matrix.shape[-2]) - i0, 0)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Look the pairs up."""
        if self.shape is not None:
            return self._matrix.allowed(i, j, head=head)
        rows, keys = self._matrix.shape[-2:]
        inside = (i < rows) & (j < keys)
        if not inside.any() or (self.by_head and head >= self._matrix.shape[0]):
            return np.zeros(np.shape(inside), bool)
        return self._matrix.allowed(np.minimum(i, rows - 1), np.minimum(j, keys - 1), head=head) & inside

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the runs of keys that some row sees."""
        rows = self._held_rows(i0, i1, head)
        if not rows:
            return [], [], []
        starts, stops, full = self._matrix.ranges(i0, i0 + rows, lk, head=head)
        return starts, stops, full if rows == i1 - i0 else np.zeros(len(starts), bool)

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return a slice of what is held."""
        rows = self._held_rows(i0, i1, head)
        if not rows:
            return np.zeros(i1 - i0 + 1, np.int64), np.zeros(0, np.int64)
        indptr, indices = self._matrix.pairs(i0, i0 + rows, lk, head=head)
        return np.concatenate([indptr, np.full(i1 - i0 - rows, indptr[-1], np.int64)]), indices

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        return np.diff(self.pairs(0, lq, lk, head=head)[0])

    def __repr__(self) -> str:
        return f"COO({self.nnz} pairs)" if self.shape is None else f"COO({self.nnz} pairs, shape={self.shape})"


class BlockSparse(PicturedMask):
    """Square blocks of queries and keys, each of which may attend as a whole or not at all.

    Parameters
    ----------
    block_size : int
        Queries, and keys, in a block, at least 1. The last block may be shorter.
    active_blocks : array of bool or of int
        Which blocks attend: booleans, (blocks of queries, blocks of keys), with an axis of heads in front if these differ; or the indices of
        those that do, (n, 2) or (n, 3) of ints, as in `COO`.
    shape : tuple of int, optional
        How many blocks there are, (nq, nk) or (Hq, nq, nk), where indices don't tell. Without, the mask is for every call that has all of its
        blocks.

    Attributes
    ----------
    shape : tuple of int or None
        Lengths of calls that consist of whole blocks: blocks times ``block_size``. A length fits if it has as many blocks.

    Raises
    ------
    InvalidInputError
        If a block is outside of the shape, negative, or no pair of ints; the message says which.
    DimensionMismatchError
        If shape isn't that of the blocks.

    Examples
    --------
    >>> from ruvattn_sparse import BlockSparse
    >>> BlockSparse(2, [[True, False], [True, True]]).to_dense(4, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1],
           [1, 1, 1]])
    """

    positional = False
    conformance_options = (
        {"block_size": 8, "active_blocks": [[True, False, True, True], [False, True, True, False], [False, False, False, False]]},
        {"block_size": 5, "active_blocks": [(0, 0, 1), (1, 1, 0), (1, 2, 2), (0, 2, 1)], "shape": (2, 3, 4)},
    )

    def __init__(self, block_size: int, active_blocks: Any, shape: Any = None) -> None:
        self.block_size = self.row_block = min(check_int(block_size, "block_size", 1), FAR)
        blocks = _checked_shape(shape)
        array = as_numbers(active_blocks, "active_blocks")
        if array.dtype == np.bool_:
            if array.ndim not in (2, 3):
                raise InvalidInputError(f"active_blocks must be (nq, nk) or (Hq, nq, nk), got shape {array.shape}")
            if blocks not in (None, array.shape):
                raise DimensionMismatchError(f"shape must be that of active_blocks, {array.shape}, got {blocks}: leave it out")
            blocks = array.shape
            index = np.nonzero(array)
        else:
            index = _checked_entries(array, "active_blocks", blocks)
        self._open = blocks is None
        self._cut = True  # the last blocks may be
        held = tuple(int(axis.max(initial=-1)) + 1 for axis in index) if blocks is None else blocks
        self.by_head = len(held) == 3
        self._heads, self._rows, self._keys = (1, *held)[-3:]
        self.heads = None if self._open or not self.by_head else self._heads
        self.shape = None if self._open else (*held[:-2], self._rows * self.block_size, self._keys * self.block_size)
        # Sorted, each once; and for each row of blocks, those side by side as one run.
        flat = index[-2] * self._keys + index[-1]
        if self.by_head:
            flat = flat + index[0] * (self._rows * self._keys)
        flat = np.sort(flat)  # np.unique hashes, which takes a quarter of a second for a hundred thousand blocks (NumPy 2.4)
        self._flat = flat[np.diff(flat, prepend=-1) > 0]
        width = max(self._keys, 1)
        first = np.ones(self._flat.size, bool)
        first[1:] = (np.diff(self._flat) > 1) | (self._flat[1:] % width == 0)
        at = np.flatnonzero(first)
        self._starts = self._flat[at] % width * self.block_size
        self._stops = self._starts + np.diff(np.append(at, self._flat.size)) * self.block_size
        self._indptr = np.searchsorted(self._flat[at], np.arange(self._heads * self._rows + 1) * self._keys)

    @property
    def conformance_shape(self) -> tuple[int | None, ...]:
        """The longest shape that it is for."""
        return None, self._heads if self.by_head else None, *(max(n * self.block_size, 1) for n in (self._rows, self._keys))

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if a call has another number of blocks, or if the mask is of a matrix of another shape."""
        if not self._cut:
            super().check_fits(lead, heads, lq, lk)
        size = self.block_size
        for length, blocks, what in ((lq, self._rows, "queries"), (lk, self._keys, "keys")):
            of_call = -(-length // size)
            if of_call < blocks or (of_call > blocks and not self._open):
                raise DimensionMismatchError(
                    f"active_blocks has {blocks} blocks of {what}, and {length} {what} are {of_call} blocks of {size}: "
                    f"the mask is for {(blocks - 1) * size + 1 if blocks else 0} to {blocks * size}"
                )
        if self.by_head and (heads < self._heads or (heads > self._heads and not self._open)):
            raise DimensionMismatchError(f"active_blocks is for {self._heads} heads, and there are {heads} query heads")

    def _row(self, row: int, head: int) -> slice:
        """Where the runs of a row of blocks are."""
        if not 0 <= row < self._rows or (self.by_head and head >= self._heads):
            return slice(0, 0)
        at = row + (head * self._rows if self.by_head else 0)
        return slice(int(self._indptr[at]), int(self._indptr[at + 1]))

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return whether the block of i and j is active."""
        rows, keys = i // self.block_size, j // self.block_size
        inside = (rows >= 0) & (rows < self._rows) & (keys < self._keys)
        if not self._flat.size or (self.by_head and head >= self._heads):
            return np.zeros(np.shape(inside), bool)
        key = (rows + (head * self._rows if self.by_head else 0)) * self._keys + keys
        at = np.minimum(np.searchsorted(self._flat, key), self._flat.size - 1)
        return (self._flat[at] == key) & inside

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the active blocks that the rows see: all of them full, for the rows of one block, which is what the engine asks for."""
        first, last = i0 // self.block_size, (i1 - 1) // self.block_size
        # With blocks of one row there is no row_block that would keep them apart.
        return several_rows([self._seen(row, lk, head) for row in range(first, last + 1)])

    def _seen(self, row: int, lk: int, head: int) -> Ranges:
        where = self._row(row, head)
        starts, stops = self._starts[where], self._stops[where]
        if stops.size and stops[-1] > lk:
            starts = starts[: np.searchsorted(starts, lk)]
            stops = np.minimum(stops[: starts.size], lk)
        return starts, stops, np.ones(starts.size, bool)

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        rows = range(-(-lq // self.block_size))
        counts = [int((np.minimum(self._stops[where], lk) - self._starts[where]).sum()) for where in (self._row(row, head) for row in rows)]
        return np.repeat(np.array(counts, np.int64), self.block_size)[:lq]

    def _to_bsr(self, lq: int, lk: int, batch: int) -> Any:
        from scipy import sparse

        size = self.block_size
        if self.by_head:
            raise InvalidInputError("format must be 'coo' for a mask that differs by head, got 'bsr', which has two axes only")
        if lq % size or lk % size:
            raise InvalidInputError(f"format must be 'csr' or 'coo' for lengths that aren't multiples of {size}, got 'bsr' for {(lq, lk)}")
        counts = np.bincount(self._flat // max(self._keys, 1), minlength=lq // size)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return sparse.bsr_array((np.ones((self._flat.size, size, size), bool), self._flat % max(self._keys, 1), indptr), shape=(lq, lk))

    def __repr__(self) -> str:
        grid = f"{self._rows} × {self._keys} blocks" + (f" of {self._heads} heads" if self.by_head else "")
        return f"BlockSparse({self.block_size}, {self._flat.size} of {grid})"


class PatternMask(PicturedMask):
    """Any pattern as a `SparseMask`: to be counted, listed, drawn and converted.

    Parameters
    ----------
    pattern : Pattern
        The pattern.
    heads : int, optional
        The query heads that it is for, if it tells them apart.
    lead : tuple of int, optional
        The axes of batch entries that it is for, if it tells them apart.

    Raises
    ------
    InvalidInputError
        If it is no pattern.

    Examples
    --------
    >>> import ruvattn
    >>> from ruvattn_sparse import PatternMask
    >>> PatternMask(ruvattn.Causal() & ruvattn.Window(1, 1)).count(100, 100)
    199
    """

    def __init__(self, pattern: Pattern, *, heads: int | None = None, lead: tuple[int, ...] = ()) -> None:
        if not isinstance(pattern, Pattern):
            raise InvalidInputError(f"pattern must be a ruvattn.Pattern, got {type(pattern).__name__}: as_sparse_mask takes other things")
        self.pattern = pattern
        self.by_head, self.by_batch = bool(pattern.by_head), bool(pattern.by_batch)
        self.row_block, self.positional, self.scattered = pattern.row_block, pattern.positional, pattern.scattered
        self.shape = getattr(pattern, "shape", None)
        known = getattr(pattern, "heads", None)
        if known is None and self.by_head and self.shape is not None and len(self.shape) > 2:
            known = self.shape[-3]
        self.heads = known if heads is None else check_int(heads, "heads", 1)
        if not lead and isinstance(pattern, KeyLengths) and self.by_batch:
            lead = (pattern.lengths.size,)
        self.lead = tuple(check_int(n, f"lead[{at}]", 0) for at, n in enumerate(lead))

    @property
    def conformance_shape(self) -> tuple[int | None, ...]:
        """The shape that the pattern says it is for."""
        given = getattr(self.pattern, "conformance_shape", None)
        if given is not None:
            return tuple(given)
        lengths = (None, None) if self.shape is None else (None if n == 1 else n for n in self.shape[-2:])
        return math.prod(self.lead) if self.by_batch and self.lead else None, self.heads if self.by_head else None, *lengths

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Ask the pattern."""
        self.pattern.check_fits(lead, heads, lq, lk)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Ask the pattern."""
        return self.pattern.allowed(i, j, head=head, batch=batch)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges | None:
        """Ask the pattern."""
        return self.pattern.ranges(i0, i1, lk, head=head, batch=batch)

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ask the pattern."""
        return self.pattern.pairs(i0, i1, lk, head=head, batch=batch)

    def at(self, offset: int) -> Pattern:
        """Ask the pattern."""
        return self.pattern.at(offset)

    def __repr__(self) -> str:
        return f"PatternMask({self.pattern!r})"


def from_scipy(matrix: Any) -> COO | BlockSparse:
    """Return the mask of what a ``scipy.sparse`` array stores.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        (Lq, Lk) in any format, or (Hq, Lq, Lk) as ``coo_array``. A stored zero counts as allowed; duplicates count once; indices may be
        unsorted and of any width.

    Returns
    -------
    BlockSparse or COO
        Of a BSR array of square blocks, what its stored blocks cover; of all else, its stored entries.

    Raises
    ------
    InvalidInputError
        If it is no such thing, or an index is out of range.
    DimensionMismatchError
        If it has neither two nor three axes.
    """
    if is_scipy_sparse(matrix) and matrix.format == "bsr" and matrix.blocksize[0] == matrix.blocksize[1] and min(matrix.shape) > 0:
        check_compressed(matrix)
        size = int(matrix.blocksize[0])
        blocks = (matrix.shape[0] // size, matrix.shape[1] // size)
        rows = np.repeat(np.arange(blocks[0]), np.diff(matrix.indptr))
        mask = BlockSparse(size, np.stack([rows, matrix.indices[: rows.size]], axis=1), shape=blocks)
        mask._cut = False
        return mask
    return COO.from_scipy(matrix)


def as_sparse_mask(x: Any) -> SparseMask:
    """Return a mask of whatever says which pairs may attend.

    Parameters
    ----------
    x : SparseMask, Pattern, scipy.sparse array, array of bool, or pairs
        Pairs are ints, (n, 2) or (n, 3), as for `COO`.

    Returns
    -------
    SparseMask
        Itself, or a `PatternMask`, `COO`, `BlockSparse` or `Dense`.

    Raises
    ------
    InvalidInputError
        If it is nothing of these.
    """
    if isinstance(x, SparseMask):
        return x
    if isinstance(x, Pattern):
        return PatternMask(x)
    if is_scipy_sparse(x):
        return from_scipy(x)
    if isinstance(x, type | str):
        raise InvalidInputError(f"mask must be a SparseMask, got {x!r}: pass an instance; ruvattn.registry.get_pattern makes one by name")
    array = as_numbers(x, "mask")
    if array.dtype == np.bool_:
        return Dense(array)
    if array.dtype.kind in "iu" and array.ndim == 2 and array.shape[1] in (2, 3):
        return COO(array)
    raise InvalidInputError(
        f"mask must be a SparseMask, a Pattern, a scipy.sparse array, booleans or pairs of ints, got {array.dtype} of shape {array.shape}"
    )
