"""SparseMask: a pattern that can be counted, listed and handed over to ``scipy.sparse``.

    allowed, ranges (of a Pattern) ──► row_counts ─► count, nnz, density
                                   ├─► cell_counts                        pairs in each cell of a grid: for pictures
                                   └─► to_dense, to_scipy

All but `to_dense` walk through blocks of rows, in memory that the blocks bound, not the lengths. Its forms are in the plugin ``ruvattn-sparse``:
boolean arrays, pairs, blocks, windows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError
from .key_ranges import known_ranges
from .patterns import Pattern
from .validation import check_int

__all__ = ["SparseMask"]

BLOCK_ROWS = 64
"""Rows that are asked for at once, of patterns that don't say that others belong together."""

MOST_ROWS = 256
"""The same of those that do."""

EVALUATED = 1 << 18
"""Pairs that `Pattern.allowed` is asked for at once."""

LISTED_ROWS = 1024
"""Rows whose pairs are listed at once."""


class SparseMask(Pattern, ABC):
    """A pattern as a set of pairs to be counted, listed, pictured and converted.

    A subclass gives `allowed`, and `ranges` to be fast. One that holds for certain lengths only sets `shape`. Where lengths are optional below,
    they are those of `shape`; a pattern without one takes any, and has to be told. Row 0 stands at position 0.

    Attributes
    ----------
    shape : tuple of int or None
        (Lq, Lk) or (Hq, Lq, Lk), perhaps with axes of batch entries in front; None: any lengths.
    heads : int or None
        The number of query heads that it tells apart; None: it doesn't, or holds for any number.
    lead : tuple of int
        Axes of batch entries, if it tells those apart.
    """

    shape: tuple[int, ...] | None = None
    heads: int | None = None
    lead: tuple[int, ...] = ()

    @abstractmethod
    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Tell which pairs may attend; see `Pattern.allowed`."""

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if a call has another shape."""
        name = type(self).__name__
        if self.shape is not None and self.shape[-2:] != (lq, lk):
            raise DimensionMismatchError(f"mask must be for (Lq, Lk) = {(lq, lk)}, got a {name} for {self.shape[-2:]}")
        if self.by_head and self.heads not in (None, heads):
            raise DimensionMismatchError(f"mask must be for {heads} query heads, got a {name} for {self.heads}")
        if self.by_batch and self.lead and math.prod(self.lead) != math.prod(lead):
            raise DimensionMismatchError(f"mask must be for a batch of {math.prod(lead)}, got a {name} for {math.prod(self.lead)}")

    # --- counts ---------------------------------------------------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        """The number of pairs, of all heads and batch entries that the mask tells apart; needs a shape."""
        return self.count(*self._own_lengths("nnz", "count(lq, lk)"))

    @property
    def density(self) -> float:
        """The share of pairs that may attend, from 0 to 1; needs a shape."""
        return self.density_of(*self._own_lengths("density", "density_of(lq, lk)"))

    def count(self, lq: int, lk: int, *, heads: int | None = None) -> int:
        """Return the number of pairs, of all heads and batch entries that the mask tells apart.

        Parameters
        ----------
        lq, lk : int
            Queries and keys.
        heads : int, optional
            Query heads, for a mask that differs by head and holds for any number of them.

        Returns
        -------
        int
            Each pair counts once.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape.
        InvalidInputError
            If a length is no int from 0, or the number of heads is missing.
        """
        lq, lk, planes = self._lengths(lq, lk, heads)
        if self.by_batch and not self.lead:
            raise InvalidInputError(f"{type(self).__name__} differs by batch entry, for any number of them: call row_counts(…, batch=…) for one")
        owners = [(head, batch) for batch in range(self._entries) for head in range(planes)]
        return sum(int(self._row_counts(lq, lk, head, batch).sum()) for head, batch in owners)

    def density_of(self, lq: int, lk: int, *, heads: int | None = None) -> float:
        """Return the share of pairs that may attend.

        Parameters
        ----------
        lq, lk : int
            Queries and keys.
        heads : int, optional
            As for `count`.

        Returns
        -------
        float
            From 0 to 1; 0 where there are no pairs at all.

        Raises
        ------
        DimensionMismatchError, InvalidInputError
            As `count` does.
        """
        lq, lk, planes = self._lengths(lq, lk, heads)
        return self.count(lq, lk, heads=heads) / max(planes * self._entries * lq * lk, 1)

    def row_counts(self, lq: int | None = None, lk: int | None = None, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return how many keys each query sees.

        Parameters
        ----------
        lq, lk : int, optional
            Queries and keys.
        head, batch : int
            Of which head and batch entry, if the mask differs by those.

        Returns
        -------
        ndarray of int64, (Lq,)
            Each from 0 to Lk.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape, or has no such head or batch entry.
        InvalidInputError
            If a length is missing or no int from 0.
        """
        lq, lk = self._one(lq, lk, head, batch)
        return self._row_counts(lq, lk, head, batch)

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        """Count; subclasses that know their counts in closed form override this."""
        counts = np.zeros(lq, np.int64)
        for r0, r1, start, stop, seen in self._pieces(lq, lk, head, batch):
            counts[r0:r1] += stop - start if seen is None else np.count_nonzero(seen, axis=1)
        return counts

    def cell_counts(self, row_edges: Any, key_edges: Any, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return how many pairs lie in each cell of a grid over the mask.

        Parameters
        ----------
        row_edges, key_edges : sequence of int
            Where the grid's rows and columns begin, and at last the lengths Lq and Lk; increasing, from 0.
        head, batch : int
            Of which head and batch entry, if the mask differs by those.

        Returns
        -------
        ndarray of int64, (len(row_edges) − 1, len(key_edges) − 1)
            The counts.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape, or has no such head or batch entry.
        InvalidInputError
            If edges don't increase from 0.
        """
        rows, keys = _edges(row_edges, "row_edges"), _edges(key_edges, "key_edges")
        lq, lk = self._one(int(rows[-1]), int(keys[-1]), head, batch)
        found = np.zeros((rows.size - 1, keys.size - 1), np.int64)
        of_row = np.repeat(np.arange(rows.size - 1), np.diff(rows))
        for r0, r1, start, stop, seen in self._pieces(lq, lk, head, batch):
            first, last = int(np.searchsorted(keys, start, side="right")) - 1, int(np.searchsorted(keys, stop, side="left"))
            cuts = np.clip(keys[first : last + 1], start, stop)
            if seen is None:
                counts = np.broadcast_to(np.diff(cuts), (r1 - r0, last - first))
            else:
                counts = np.add.reduceat(seen, cuts[:-1] - start, axis=1, dtype=np.int64)
            np.add.at(found[:, first:last], of_row[r0:r1], counts)
        return found

    # --- conversions ----------------------------------------------------------------------------------------------------------

    def to_dense(self, lq: int | None = None, lk: int | None = None, *, heads: int | None = None, batch: int = 0) -> np.ndarray:
        """Return the mask as an array.

        Parameters
        ----------
        lq, lk : int, optional
            Queries and keys.
        heads : int, optional
            As for `count`.
        batch : int
            Of which batch entry, if the mask differs by those.

        Returns
        -------
        ndarray of bool, (Lq, Lk) or (Hq, Lq, Lk)
            True: may attend. With an axis of heads if the mask differs by those.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape.
        InvalidInputError
            If a length or the number of heads is missing, or no int from 0.
        """
        lq, lk, planes = self._lengths(lq, lk, heads)
        found = np.zeros((planes, lq, lk), bool)
        for head in range(planes):
            for r0, r1, start, stop, seen in self._pieces(lq, lk, head, self._entry(batch)):
                found[head, r0:r1, start:stop] = True if seen is None else seen
        return found if self.by_head else found[0]

    def to_scipy(
        self, lq: int | None = None, lk: int | None = None, *, format: str = "csr", heads: int | None = None, batch: int = 0
    ) -> Any:
        """Return the mask as a ``scipy.sparse`` array with an entry, True, for each pair.

        Parameters
        ----------
        lq, lk : int, optional
            Queries and keys.
        format : {"csr", "coo", "bsr"}
            "csr": of a mask that is the same for every head. "coo": (Lq, Lk), or (Hq, Lq, Lk) where heads differ. "bsr": of a mask of blocks
            only, for the entries of a stored block are all stored.
        heads : int, optional
            As for `count`.
        batch : int
            Of which batch entry, if the mask differs by those.

        Returns
        -------
        csr_array, coo_array or bsr_array
            In canonical form: sorted, nothing twice.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape.
        InvalidInputError
            If it cannot be had in the format, or a length or the number of heads is missing.
        """
        from scipy import sparse

        if format not in ("csr", "coo", "bsr"):
            raise InvalidInputError(f"format must be 'csr', 'coo' or 'bsr', got {format!r}")
        lq, lk, planes = self._lengths(lq, lk, heads)
        if format == "bsr":
            return self._to_bsr(lq, lk, self._entry(batch))
        if format == "csr":
            if self.by_head:
                raise InvalidInputError("format must be 'coo' for a mask that differs by head, got 'csr', which has two axes only")
            indptr, indices = self._csr(lq, lk, 0, self._entry(batch))
            matrix = sparse.csr_array((np.ones(indices.size, bool), indices, indptr), shape=(lq, lk))
            matrix.has_canonical_format = True
            return matrix
        coords: list[list[np.ndarray]] = [[], [], []]
        for head in range(planes):
            indptr, indices = self._csr(lq, lk, head, self._entry(batch))
            parts = (np.full(indices.size, head), np.repeat(np.arange(lq), np.diff(indptr)), indices)
            for axis, part in zip(coords, parts, strict=True):
                axis.append(part)
        index = tuple(np.concatenate([np.zeros(0, np.int64), *axis]) for axis in coords)
        if not self.by_head:
            index = index[1:]
        matrix = sparse.coo_array((np.ones(index[0].size, bool), index), shape=(planes, lq, lk)[-len(index) :])
        matrix.has_canonical_format = True
        return matrix

    def _to_bsr(self, lq: int, lk: int, batch: int) -> Any:
        raise InvalidInputError(f"format must be 'csr' or 'coo' for a {type(self).__name__}, got 'bsr': a stored block would attend as a whole")

    def _csr(self, lq: int, lk: int, head: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """List the pairs, some rows at a time."""
        indptr = np.zeros(lq + 1, np.int64)
        parts = [np.zeros(0, np.int64)]
        total = 0
        for r0 in range(0, lq, LISTED_ROWS):
            r1 = min(r0 + LISTED_ROWS, lq)
            ends, indices = self.pairs(r0, r1, lk, head=head, batch=batch)
            indptr[r0 + 1 : r1 + 1] = ends[1:] + total
            parts.append(indices)
            total += indices.size
        return indptr, np.concatenate(parts)

    # --- what they share ------------------------------------------------------------------------------------------------------

    @property
    def _entries(self) -> int:
        return math.prod(self.lead) if self.by_batch else 1

    def _own_lengths(self, name: str, instead: str) -> tuple[int, int]:
        if self.shape is None:
            raise InvalidInputError(f"{name} of a {type(self).__name__} depends on the lengths, which it leaves open: call {instead}")
        return self.shape[-2], self.shape[-1]

    def _lengths(self, lq: int | None, lk: int | None, heads: int | None) -> tuple[int, int, int]:
        """Return checked lengths, and the number of heads to ask for."""
        if lq is None and lk is None and self.shape is not None:
            lq, lk = self.shape[-2:]
        if lq is None or lk is None:
            raise InvalidInputError(f"lq and lk must both be given for a {type(self).__name__}, got lq={lq} and lk={lk}")
        lq, lk = check_int(lq, "lq", 0), check_int(lk, "lk", 0)
        known = self.heads if heads is None else check_int(heads, "heads", 1)
        if self.by_head and known is None:
            raise InvalidInputError(f"heads must be given: a {type(self).__name__} differs by head, for any number of them")
        self.check_fits(self.lead, known or 1, lq, lk)
        return lq, lk, known if self.by_head and known else 1

    def _one(self, lq: int | None, lk: int | None, head: int, batch: int) -> tuple[int, int]:
        """Return checked lengths, of a head and a batch entry that exist."""
        check_int(head, "head", 0)
        if self.by_head and self.heads is not None and head >= self.heads:
            raise DimensionMismatchError(f"head must be less than {self.heads}, the heads of the {type(self).__name__}, got {head}")
        self._entry(batch)
        # Of a mask that holds for any number of heads from some on: as many as there have to be.
        least = getattr(self, "conformance_shape", (None, None))[1]
        heads = None if self.heads is not None else max(head, (least or 1) - 1) + 1
        return self._lengths(lq, lk, heads)[:2]

    def _entry(self, batch: int) -> int:
        check_int(batch, "batch", 0)
        if self.by_batch and self.lead and batch >= self._entries:
            raise DimensionMismatchError(f"batch must be less than {self._entries}, the batch entries of the {type(self).__name__}, got {batch}")
        return batch if self.by_batch else 0

    def _pieces(self, lq: int, lk: int, head: int, batch: int) -> Iterator[tuple[int, int, int, int, np.ndarray | None]]:
        """Yield r0, r1, start, stop, and which pairs of that rectangle may attend; None: all of them. What is left out may not."""
        owner = {"head": head if self.by_head else 0, "batch": batch if self.by_batch else 0}
        # By the pattern's own blocks, of which all rows see the same, mostly.
        height = self.row_block if 1 < self.row_block <= MOST_ROWS else BLOCK_ROWS
        width = EVALUATED // height
        for r0 in range(0, lq, height):
            r1 = min(r0 + height, lq)
            i = np.arange(r0, r1, dtype=np.int64)[:, None]
            ranges = known_ranges(self, r0, r1, lk, **owner)
            for start, stop, full in zip(*(part.tolist() for part in ranges), strict=True):
                if full:
                    yield r0, r1, start, stop, None
                    continue
                for at in range(start, stop, width):
                    end = min(at + width, stop)
                    seen = self.allowed(i, np.arange(at, end, dtype=np.int64)[None, :], **owner)
                    yield r0, r1, at, end, np.broadcast_to(seen, (r1 - r0, end - at))


def _edges(values: Any, name: str) -> np.ndarray:
    edges = np.asarray(values)
    if edges.ndim != 1 or not edges.size or edges.dtype.kind not in "iu" or edges[0] != 0 or np.any(np.diff(edges.astype(np.int64)) <= 0):
        raise InvalidInputError(f"{name} must be ints that increase from 0, got {values!r}")
    return edges.astype(np.int64)
