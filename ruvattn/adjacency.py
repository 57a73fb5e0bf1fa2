"""Which keys each row attends to, as compressed sparse rows: checked once, used often, and turned around for what goes the other way.

    pairs of (key, row) ──from_edges()──► Adjacency ──► edge_attention(q, k, v, adjacency)
    indptr, indices ─────────────────────►    │
                                              └─ .transpose: for each key the rows that see it
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

import numpy as np

from .call import as_plain
from .errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from .threads import resolve_threads
from .validation import check_int, is_scipy_sparse

__all__ = ["Adjacency"]

MAX_ROWS = 1 << 30
"""Rows or keys; they are counted in 32 bits."""

MAX_EDGES = (1 << 31) - 1
"""Edges that can be sorted: their numbers have 32 bits."""


class Adjacency:
    """The structure of `ruvattn.edge_attention`: row i has the edges from ``indptr[i]`` to ``indptr[i + 1]``, each to the key ``indices[e]``.

    What is given is checked, and copied. Calls that get an Adjacency don't look through it again.

    Parameters
    ----------
    indptr : array of int, (rows + 1,)
        From 0 to E, never falling.
    indices : array of int, (E,)
        The key of each edge, from 0 to num_keys − 1, in any order. Edges between the same row and key count separately.
    num_keys : int
        How many keys there are, at most 2³⁰.

    Raises
    ------
    DimensionMismatchError
        If an array has another number of axes, or none.
    InvalidInputError
        If indptr falls or ends elsewhere, an index is out of range, or they are no ints.
    InputTooLargeError
        If there are more than 2³⁰ rows or keys.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> adjacency, order = ruvattn.Adjacency.from_edges(keys=[0, 2, 1], rows=[1, 0, 1], num_rows=2, num_keys=3)
    >>> adjacency.indptr, adjacency.indices, order
    (array([0, 1, 3]), array([2, 0, 1], dtype=int32), array([1, 0, 2], dtype=int32))
    >>> adjacency.transpose.indptr
    array([0, 1, 2, 3])
    """

    def __init__(self, indptr: Any, indices: Any, num_keys: int) -> None:
        pointers, keys = as_ints(indptr, "indptr"), as_ints(indices, "indices")
        if pointers.ndim != 1 or pointers.size == 0:
            raise DimensionMismatchError(f"indptr must have shape (rows + 1,), got {pointers.shape}")
        count = check_int(num_keys, "num_keys", 0)
        # What others have may change after it was checked, read-only or not: its owner can make it writeable.
        own = zip(read_structure(pointers, keys, count), (indptr, indices), strict=True)
        self.indptr, self.indices = (_frozen(x.copy() if np.may_share_memory(x, given) else x) for x, given in own)
        self.num_keys = count
        self._lock = threading.Lock()
        self._turned: tuple[Adjacency, np.ndarray] | None = None

    @classmethod
    def _trusted(cls, indptr: np.ndarray, indices: np.ndarray, num_keys: int) -> Adjacency:
        self = cls.__new__(cls)
        self.indptr, self.indices, self.num_keys = _frozen(indptr), _frozen(indices), num_keys
        self._lock = threading.Lock()
        self._turned = None
        return self

    @classmethod
    def from_edges(
        cls, keys: Any, rows: Any, num_rows: int, num_keys: int, *, threads: int | None = None
    ) -> tuple[Adjacency, np.ndarray]:
        """Sort edges by row; edges of one row keep their order.

        Parameters
        ----------
        keys, rows : array of int, (E,)
            The two ends of each edge; E < 2³¹.
        num_rows, num_keys : int
            How many there are, at most 2³⁰ each.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        adjacency : Adjacency
            The edges by row.
        order : ndarray of int32, (E,)
            Edge e of the adjacency is edge ``order[e]`` of those given.

        Raises
        ------
        DimensionMismatchError
            If `keys` and `rows` are not of one length.
        InvalidInputError
            If they are no ints, or out of range.
        InputTooLargeError
            If there are too many rows, keys or edges.
        """
        team = resolve_threads(threads)
        height, width = check_int(num_rows, "num_rows", 0), check_int(num_keys, "num_keys", 0)
        sources, targets = as_ints(keys, "keys"), as_ints(rows, "rows")
        if sources.ndim != 1 or sources.shape != targets.shape:
            raise DimensionMismatchError(f"keys and rows must have one shape (E,), got {sources.shape} and {targets.shape}")
        check_sizes(height, width, sources.size)
        for name, ends, limit in (("keys", sources, width), ("rows", targets, height)):
            if ends.size and (ends.min() < 0 or ends.max() >= limit):
                edge = int(((ends < 0) | (ends >= limit)).argmax())
                raise InvalidInputError(f"{name} must be from 0 to {limit - 1}, got {ends[edge]} at edge {edge}")
        return cls._sorted(np.ascontiguousarray(sources, np.int32), np.ascontiguousarray(targets, np.int32), height, width, team)

    @classmethod
    def _sorted(cls, keys: np.ndarray, rows: np.ndarray, num_rows: int, num_keys: int, threads: int) -> tuple[Adjacency, np.ndarray]:
        """Sort edges that are known to be fine."""
        indptr = np.empty(num_rows + 1, np.int64)
        indices, order = np.empty(keys.size, np.int32), np.empty(keys.size, np.int32)
        _kernel().sort_edges(rows, keys, indptr, indices, order, threads)
        return cls._trusted(indptr, indices, num_keys), _frozen(order)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self.indptr.size) - 1

    @property
    def num_edges(self) -> int:
        """How many edges there are."""
        return int(self.indices.size)

    @property
    def transpose(self) -> Adjacency:
        """The same edges by key: its rows are the keys, its keys the rows; made once, when first asked for."""
        return self._turn()[0]

    @property
    def transpose_order(self) -> np.ndarray:
        """Which edge of this adjacency each edge of `transpose` is, (E,) int32."""
        return self._turn()[1]

    def edge_rows(self) -> np.ndarray:
        """Return the row of each edge.

        Returns
        -------
        ndarray of int32, (E,)
            A new array, never falling.
        """
        rows = np.empty(self.num_edges, np.int32)
        _kernel().rows_of(self.indptr, rows)
        return rows

    def _turn(self) -> tuple[Adjacency, np.ndarray]:
        with self._lock:
            if self._turned is None:
                check_sizes(self.num_rows, self.num_keys, self.num_edges)
                self._turned = Adjacency._sorted(self.edge_rows(), self.indices, self.num_keys, self.num_rows, resolve_threads(None))
            return self._turned

    def __getstate__(self) -> tuple[np.ndarray, np.ndarray, int]:
        return self.indptr, self.indices, self.num_keys

    def __setstate__(self, state: tuple[np.ndarray, np.ndarray, int]) -> None:
        indptr, indices, self.num_keys = state
        self.indptr, self.indices = _frozen(indptr), _frozen(indices)
        self._lock, self._turned = threading.Lock(), None

    def __repr__(self) -> str:
        return f"Adjacency(num_rows={self.num_rows}, num_keys={self.num_keys}, num_edges={self.num_edges})"


def _kernel() -> Any:
    return import_module("ruvattn.kernels.csr")


def _frozen(array: np.ndarray) -> np.ndarray:
    """Return an array that its owner can't write to: itself where nobody else has it."""
    if array.flags.writeable:
        array = array if array.base is None and array.flags.owndata else array.copy()
        array.flags.writeable = False
    return array


def check_sizes(num_rows: int, num_keys: int, num_edges: int) -> None:
    """Raise where numbers would not fit into 32 bits."""
    for name, number, most in (("num_rows", num_rows, MAX_ROWS), ("num_keys", num_keys, MAX_ROWS), ("edges", num_edges, MAX_EDGES)):
        if number > most:
            raise InputTooLargeError(f"{name} must be at most {most:,}, got {number:,}")


def as_ints(x: Any, name: str) -> np.ndarray:
    """Return an array of ints; of an empty list too.

    Parameters
    ----------
    x : array of int
        As a caller gave it.
    name : str
        The argument.

    Returns
    -------
    ndarray
        Of the integer dtype that it has.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    if is_scipy_sparse(x):
        raise InvalidInputError(f"{name} must be an array of ints, got {type(x).__name__}: of a csr_array pass its .indptr and .indices")
    array = as_plain(x, name)
    if array.dtype.kind not in "iu":
        if array.size == 0 and not isinstance(x, np.ndarray):  # of an empty list NumPy makes floats
            return array.astype(np.int64)
        raise InvalidInputError(f"{name} must be ints, got dtype {array.dtype}: convert with .astype(np.int64)")
    return array


def read_structure(pointers: np.ndarray, keys: np.ndarray, num_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indptr as int64 and indices as int32, having seen that they are a CSR structure over so many keys.

    Parameters
    ----------
    pointers, keys : ndarray of int
        indptr, of one axis at least one long, and indices.
    num_keys : int
        How many keys there are.

    Returns
    -------
    indptr, indices : ndarray
        Contiguous; the arrays themselves where they are so already.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    if keys.ndim != 1:
        raise DimensionMismatchError(f"indices must have shape (E,), got {keys.shape}")
    if pointers[0] != 0:
        raise InvalidInputError(f"indptr must begin with 0, got {pointers[0]}")
    if pointers[-1] != keys.size:
        raise InvalidInputError(f"indptr must end with the number of indices, {keys.size}, got {pointers[-1]}")
    falls = pointers[1:] < pointers[:-1]
    if falls.any():
        row = int(falls.argmax())
        raise InvalidInputError(f"indptr must not fall: row {row} would begin at {pointers[row]} and end at {pointers[row + 1]}")
    if keys.size and (keys.min() < 0 or keys.max() >= num_keys):
        edge = int(((keys < 0) | (keys >= num_keys)).argmax())
        raise InvalidInputError(f"indices must be keys from 0 to {num_keys - 1}, got {keys[edge]} at edge {edge}")
    if pointers.size - 1 > MAX_ROWS or num_keys > MAX_ROWS:
        check_sizes(pointers.size - 1, num_keys, 0)
    return np.ascontiguousarray(pointers, np.int64), np.ascontiguousarray(keys, np.int32)
