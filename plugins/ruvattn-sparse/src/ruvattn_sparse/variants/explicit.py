"""Variants whose mask names its pairs: ``coo``, ``csr`` and ``block-sparse``.

Row i of the mask is query i of a call, wherever that stands. In `forward` and `forward_batch`, which ask with new queries at the end of a sequence,
a query is the mask's last row. Without pairs of its own a variant sees all that the masks of a call let it see.

Where few pairs lie here and there, they are computed one by one, else in tiles: `ruvattn.attention` looks at how they lie.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ruvattn import AttentionConfig, BoolMask, Pattern
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.validation import as_numbers, check_int, is_scipy_sparse

from ..masks import COO, BlockSparse
from .base import SparseVariant

__all__ = ["BlockSparseAttention", "COOAttention", "CSRAttention"]


class _Explicit(SparseVariant):
    """Attention over pairs that are named."""

    _mask: COO | BlockSparse | None

    def own_mask(self, lq: int, lk: int, single: bool) -> Pattern | None:
        """Return the mask, or its last row for queries that are each on their own."""
        if self._mask is None or not single:
            return self._mask
        row: Pattern = self._kept.get(lk, lambda: self._last_row(lk))
        return row

    def _rows(self) -> int:
        """How many rows the mask has: with an open shape, up to the last one that it names."""
        assert self._mask is not None
        rows = self._mask.conformance_shape[-2]
        assert rows is not None
        return rows

    def _last_row(self, lk: int) -> BoolMask:
        mask, rows = self._mask, self._rows()
        assert mask is not None
        mask.check_fits((), self.num_heads, rows, lk)
        seen = np.zeros((self.num_heads if mask.by_head else 1, 1, lk), bool)
        for head, plane in enumerate(seen):
            plane[0, mask.pairs(rows - 1, rows, lk, head=head)[1]] = True
        return BoolMask(seen if mask.by_head else seen[0])

    def demo_options(self, row: int, topics: Sequence[str]) -> tuple[dict[str, Any], str]:
        """Return what the demo calls it with, and says about that: pairs of the sentence that asks and the others of its topic.

        Parameters
        ----------
        row : int
            Which sentence asks.
        topics : sequence of str
            The topic of each sentence, that one too.

        Returns
        -------
        options : dict of str to object
            Options of a call with one query, and all other sentences as keys.
        note : str
            One line.
        """
        same = np.array([[topic == topics[row] for at, topic in enumerate(topics) if at != row]])
        return {"mask": same}, f"its pairs: the {int(same.sum())} others on {topics[row]}"


class _Pairs(_Explicit):
    """Attention over single pairs, which the configuration lists only when it is asked for."""

    _mask: COO | None

    @abstractmethod
    def _listed(self) -> dict[str, Any]:
        """Return the options that list the pairs, as Python ints."""

    @property
    def config(self) -> AttentionConfig:
        """What makes this variant, all of its pairs included."""
        if self._mask is None:
            return self._config
        known: AttentionConfig = self._kept.get("config", self._full_config)
        return known

    def _full_config(self) -> AttentionConfig:
        bare = self._config
        return AttentionConfig(bare.embed_dim, bare.num_heads, bare.dropout_rate, bare.attention_type, {**bare.options, **self._listed()})

    def make_mask(self) -> COO | None:
        """Return None: there are no pairs, or the constructor has made the mask."""
        return None


class COOAttention(_Pairs):
    """Attention over explicit pairs of a query and a key.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    pairs : array of int, (n, 2) or (n, 3), or scipy.sparse array, or array of bool, optional
        (query, key) or (head, query, key), in any order; what comes twice counts once. Of a ``scipy.sparse`` array, (Lq, Lk) or (Hq, Lq, Lk), the
        stored entries, whatever their values; of booleans, those that are True. Without: no mask of its own.
    shape : tuple of int, optional
        (Lq, Lk) or (Hq, Lq, Lk): the one shape of calls that pairs are for. Without, pairs of ints are for every call that has all of them.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If a pair is outside of the shape or negative, or another option has a value that makes no sense.
    DimensionMismatchError
        If the shape isn't that of the pairs, or there are pairs of another number of heads.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("coo", embed_dim=2, pairs=[(0, 1), (1, 0), (1, 1)])
    >>> layer(np.eye(2), np.zeros((2, 2)), np.eye(2))
    array([[0. , 1. ],
           [0.5, 0.5]])
    """

    attention_type = "coo"
    own_options = ("pairs", "shape")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, pairs: Any = None, shape: Any = None, **options: Any) -> None:
        if pairs is not None:
            self._mask = _pairs_mask(pairs, shape)
            shape = self._mask.shape
        elif shape is not None:
            raise InvalidInputError(f"shape must come with pairs, got {shape!r} alone")
        super().__init__(embed_dim, num_heads, own={"pairs": None, "shape": shape}, **options)

    def _listed(self) -> dict[str, Any]:
        assert self._mask is not None
        _, heads, rows, keys = self._mask.conformance_shape
        assert rows is not None
        assert keys is not None
        parts = []
        for head in range(heads or 1):
            indptr, indices = self._mask.pairs(0, rows, keys, head=head)
            columns = [np.repeat(np.arange(rows), np.diff(indptr)), indices]
            parts.append(np.stack(columns if heads is None else [np.full(indices.size, head), *columns], axis=1))
        return {"pairs": np.concatenate(parts)}


class CSRAttention(_Pairs):
    """Attention over explicit pairs in compressed rows: query i sees the keys ``indices[indptr[i]:indptr[i + 1]]``.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    indptr : array of int, (Lq + 1,), optional
        Where the keys of each row begin: from 0, ascending, to the number of indices. Without: no mask of its own.
    indices : array of int, (n,), optional
        The keys, in any order within a row; what comes twice in it counts once.
    num_keys : int, optional
        Lk: then the mask is for calls of (Lq, Lk) alone. Without, it is for every call that has all of its pairs.
    matrix : scipy.sparse array of two axes, optional
        In place of the three: its stored entries, whatever their values.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If indptr or an index makes no sense, which the message names, or another option.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("csr", embed_dim=2, indptr=[0, 1, 3], indices=[1, 0, 1])
    >>> layer(np.eye(2), np.zeros((2, 2)), np.eye(2))
    array([[0. , 1. ],
           [0.5, 0.5]])
    """

    attention_type = "csr"
    own_options = ("indptr", "indices", "num_keys", "matrix")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        indptr: Any = None,
        indices: Any = None,
        num_keys: int | None = None,
        matrix: Any = None,
        **options: Any,
    ) -> None:
        if matrix is not None:
            if indptr is not None or indices is not None or num_keys is not None:
                raise InvalidInputError("matrix must stand alone: it has indptr, indices and num_keys of its own")
            if not is_scipy_sparse(matrix) or matrix.ndim != 2:
                what = f"shape {matrix.shape}" if is_scipy_sparse(matrix) else type(matrix).__name__
                raise InvalidInputError(f"matrix must be a scipy.sparse array of two axes, got {what}")
            self._mask = COO.from_scipy(matrix)
            self._length, num_keys = matrix.shape[0], matrix.shape[1]
        elif indptr is not None or indices is not None:
            self._mask, self._length = _rows_mask(indptr, indices, num_keys)
        elif num_keys is not None:
            raise InvalidInputError(f"num_keys must come with indptr and indices, got {num_keys!r} alone")
        super().__init__(embed_dim, num_heads, own={"indptr": None, "indices": None, "num_keys": num_keys, "matrix": None}, **options)

    def _rows(self) -> int:
        return self._length

    def _listed(self) -> dict[str, Any]:
        assert self._mask is not None
        keys = self._mask.conformance_shape[-1]
        assert keys is not None
        indptr, indices = self._mask.pairs(0, self._length, keys)
        return {"indptr": indptr, "indices": indices}


class BlockSparseAttention(_Explicit):
    """Attention over square blocks of queries and keys, each of which is seen as a whole or not at all.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    block_size : int, default 64
        Queries, and keys, in a block, at least 1.
    active_blocks : array of bool or of int, optional
        Which blocks attend: booleans, (blocks of queries, blocks of keys), with an axis of heads in front if these differ; or the indices of
        those that do, (n, 2) or (n, 3). Without: no mask of its own.
    shape : tuple of int, optional
        How many blocks there are, (nq, nk) or (Hq, nq, nk), where indices don't tell. Without, indices are for every call that has all of the
        blocks.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If a block is outside of the shape, or another option has a value that makes no sense.
    DimensionMismatchError
        If the shape isn't that of the blocks, or there are blocks of another number of heads.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("block-sparse", embed_dim=64, num_heads=4, block_size=32, active_blocks=np.tri(10, dtype=bool))
    >>> layer(np.ones((310, 64))).shape
    (310, 64)
    """

    attention_type = "block-sparse"
    own_options = ("block_size", "active_blocks", "shape")
    _mask: BlockSparse | None

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, block_size: int = 64, active_blocks: Any = None, shape: Any = None, **options: Any
    ) -> None:
        if active_blocks is None:
            check_int(block_size, "block_size", 1)
            if shape is not None:
                raise InvalidInputError(f"shape must come with active_blocks, got {shape!r} alone")
        else:
            active_blocks = as_numbers(active_blocks, "active_blocks")
        super().__init__(embed_dim, num_heads, own={"block_size": block_size, "active_blocks": active_blocks, "shape": shape}, **options)

    def make_mask(self) -> BlockSparse | None:
        """Return the blocks."""
        given = self._config.options
        if given["active_blocks"] is None:
            return None
        return BlockSparse(given["block_size"], given["active_blocks"], given["shape"])


def _pairs_mask(pairs: Any, shape: Any) -> COO:
    """Return the mask of pairs in any of the forms that they are taken in."""
    if isinstance(pairs, COO):
        mask = pairs
    elif is_scipy_sparse(pairs):
        mask = COO.from_scipy(pairs)
    elif as_numbers(pairs, "pairs").dtype == np.bool_:
        mask = COO.from_dense(pairs)
    else:
        return COO(pairs, shape)
    if shape is not None and not np.array_equal(as_numbers(shape, "shape"), mask.shape or ()):
        raise DimensionMismatchError(f"shape must be that of pairs, {mask.shape}, got {shape!r}: leave it out")
    return mask


def _rows_mask(indptr: Any, indices: Any, num_keys: int | None) -> tuple[COO, int]:
    """Return the mask of compressed rows, and how many these are."""
    if indptr is None or indices is None:
        raise InvalidInputError(f"indptr and indices must both be given, got no {'indptr' if indptr is None else 'indices'}")
    ends, keys = as_numbers(indptr, "indptr"), as_numbers(indices, "indices")
    for name, array in (("indptr", ends), ("indices", keys)):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InvalidInputError(f"{name} must be ints in one axis, got {array.dtype} of shape {array.shape}")
    if not ends.size or ends[0] != 0 or ends[-1] != keys.size:
        found = f"{ends[0]} to {ends[-1]}" if ends.size else "nothing"
        raise InvalidInputError(f"indptr must go from 0 to {keys.size}, the number of indices, got {found}")
    falls = np.flatnonzero(ends[1:] < ends[:-1])
    if falls.size:
        at = int(falls[0])
        raise InvalidInputError(f"indptr must not fall, got indptr[{at + 1}] = {ends[at + 1]} after {ends[at]}")
    length = ends.size - 1
    limit = 2**40 if num_keys is None else check_int(num_keys, "num_keys", 0)
    wrong = np.flatnonzero((keys < 0) | (keys >= limit))
    if wrong.size:
        at = int(wrong[0])
        bound = "negative" if keys[at] < 0 else f"outside of the {num_keys} keys" if num_keys is not None else "further than any key"
        raise InvalidInputError(f"indices[{at}] is {keys[at]}, in row {int(np.searchsorted(ends, at, side='right')) - 1}, which is {bound}")
    counts: np.ndarray = np.diff(ends.astype(np.int64))
    rows = np.repeat(np.arange(length), counts)
    return COO(np.stack([rows, keys.astype(np.int64)], axis=1), None if num_keys is None else (length, limit)), length
