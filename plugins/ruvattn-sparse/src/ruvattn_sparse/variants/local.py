"""Variants whose pattern goes by positions: a rule says which keys a query sees, whatever the lengths.

    windowed, strided, fixed, dilated, streaming     one pattern for all calls
    bigbird                                          one for each number of blocks
    local-global                                     one for all calls, or for the positions of a call

In `forward` and `forward_batch` a query stands at the last key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn import Context, Pattern
from ruvattn.call import mask_pattern
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.validation import FAR, as_numbers, check_int, check_rank

from ..masks import Windowed
from ..patterns import BigBird, Dilated, Fixed, LocalGlobal, Streaming, Strided
from .base import SparseVariant

__all__ = [
    "BigBirdAttention",
    "DilatedAttention",
    "FixedAttention",
    "LocalGlobalAttention",
    "StreamingAttention",
    "StridedAttention",
    "WindowedAttention",
]


class WindowedAttention(SparseVariant):
    """Attention within a window, and to and from global tokens (Beltagy et al., 2020, "Longformer", sections 3.1 and 3.2).

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    window_size : int, default 128
        How many keys away a query sees all of them, at least 0.
    global_tokens : int or sequence of int, default 0
        The first so many positions, or which: every query sees these keys, and a query that stands there sees every key.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("windowed", embed_dim=64, num_heads=4, window_size=16, global_tokens=[0])
    >>> layer(np.ones((2, 1000, 64), dtype=np.float32)).shape
    (2, 1000, 64)
    """

    attention_type = "windowed"
    positional = True
    form = Windowed
    own_options = ("window_size", "global_tokens")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, window_size: int = 128, global_tokens: Any = 0, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"window_size": window_size, "global_tokens": global_tokens}, **options)


class StridedAttention(SparseVariant):
    """Attention within a window, and to every so-manieth key beyond (Child et al., 2019, "Sparse Transformers", section 4.2).

    The paper's pattern is the causal one: pass ``causal=True``.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    stride : int, default 128
        The distance between keys further away, at least 1. The paper takes about the square root of the length.
    window_size : int, optional
        How many keys away a query sees all of them, at least 0; by default ``stride − 1``.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    """

    attention_type = "strided"
    positional = True
    form = Strided
    own_options = ("stride", "window_size")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, stride: int = 128, window_size: int | None = None, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"stride": stride, "window_size": window_size}, **options)


class FixedAttention(SparseVariant):
    """Attention within blocks, and to the last keys of every block (Child et al., 2019, "Sparse Transformers", section 4.2).

    The paper's pattern is the causal one: pass ``causal=True``.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    block_size : int, default 128
        The length of a block, at least 1.
    summary : int, default 8
        How many keys at the end of a block everything sees, from 0 to `block_size`; 8, 16 or 32 in the paper.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    """

    attention_type = "fixed"
    positional = True
    form = Fixed
    own_options = ("block_size", "summary")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, block_size: int = 128, summary: int = 8, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"block_size": block_size, "summary": summary}, **options)


class DilatedAttention(SparseVariant):
    """Attention to every so-manieth key of a window (Beltagy et al., 2020, "Longformer", section 3.1).

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    window_size : int, default 128
        How many keys a query sees on either side beside its own, at least 0.
    dilation : int or sequence of num_heads ints, default 2
        The distance between them, at least 1, or one for each head.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    DimensionMismatchError
        If there is not a dilation for each head.
    """

    attention_type = "dilated"
    positional = True
    form = Dilated
    own_options = ("window_size", "dilation")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, window_size: int = 128, dilation: Any = 2, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"window_size": window_size, "dilation": dilation}, **options)


class BigBirdAttention(SparseVariant):
    """Attention to a window of blocks, to and from the first blocks, and to some blocks at random (Zaheer et al., 2020, "Big Bird").

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads; each draws its own blocks.
    block_size : int, default 64
        Queries, and keys, in a block.
    window_blocks : int, default 3
        How many blocks around its own, and that one too, a query sees; odd.
    global_blocks : int, default 1
        How many blocks at the beginning see and are seen by everything.
    random_blocks : int, default 3
        How many of the other blocks each row of blocks sees besides.
    seed : int, default 0
        Of what is drawn.
    length : int, optional
        The keys that blocks are drawn from: the longest sequence there will be. Without, each call draws from its own keys, so that a query may
        see other blocks once the sequence is a block longer; for a sequence that grows, say how long it may get.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    """

    attention_type = "bigbird"
    positional = True
    own_options = ("block_size", "window_blocks", "global_blocks", "random_blocks", "seed", "length")
    checkpoint_options = ("seed",)  # of the random blocks: with another one, what was learned is put to other keys

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        block_size: int = 64,
        window_blocks: int = 3,
        global_blocks: int = 1,
        random_blocks: int = 3,
        seed: int = 0,
        length: int | None = None,
        **options: Any,
    ) -> None:
        own = {
            "block_size": block_size, "window_blocks": window_blocks, "global_blocks": global_blocks, "random_blocks": random_blocks, "seed": seed,
            "length": length,
        }  # fmt: skip
        super().__init__(embed_dim, num_heads, own=own, **options)

    def make_mask(self) -> BigBird:
        """Return the pattern of the length that was told, or of one block."""
        return self._of_length(self._config.options["length"])

    def _of_length(self, length: int | None) -> BigBird:
        given = {name: self._config.options[name] for name in self.own_options if name != "length"}
        return BigBird(**given, length=given["block_size"] if length is None else length)

    def own_mask(self, lq: int, lk: int, single: bool) -> Pattern:
        """Return the pattern that draws from as many blocks as there are."""
        assert isinstance(self._mask, BigBird)
        if self._config.options["length"] is not None:
            return self._mask
        size = self._mask.block_size
        blocks = -(-lk // size)
        pattern: BigBird = self._kept.get(blocks, lambda: self._of_length(blocks * size))
        return pattern


class StreamingAttention(SparseVariant):
    """Causal attention to the first keys and the latest ones, for sequences that go on (Xiao et al., 2023, "Attention Sinks").

    `forward` takes one new query over all keys so far, and costs what the keys cost that it sees.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    first : int, default 4
        How many keys at the beginning stay in sight, at least 0.
    window : int, default 1024
        How many keys up to its own position a query sees, at least 1. Not the pair that other variants call so.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    """

    attention_type = "streaming"
    positional = True
    form = Streaming
    own_options = ("first", "window")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, first: int = 4, window: int = 1024, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"first": first, "window": window}, **options)

    def _make_parts(self) -> None:
        super()._make_parts()
        self._window = None  # the pattern has it


class LocalGlobalAttention(SparseVariant):
    """Attention around the true position of each query, and to and from global tokens: `windowed` for queries that don't stand in a row.

    Pooled, sampled and re-ordered queries have places among the keys that their index doesn't tell. A call takes ``positions``, `forward` takes
    ``position``; without, queries stand as in any variant.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    window_size : int, default 128
        How many keys away a query sees all of them, at least 0.
    global_tokens : int or sequence of int, default 0
        The first so many positions, or which: every query sees these keys, and a query that stands there sees every key.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x = np.random.default_rng(0).standard_normal((1000, 64))
    >>> layer = ruvattn.create("local-global", embed_dim=64, window_size=16, global_tokens=2)
    >>> every_tenth = np.arange(0, 1000, 10)
    >>> pooled = layer(x[every_tenth], x, x, positions=every_tenth)
    >>> bool(np.allclose(pooled, layer(x)[every_tenth]))
    True
    """

    attention_type = "local-global"
    positional = True
    form = LocalGlobal
    own_options = ("window_size", "global_tokens")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, window_size: int = 128, global_tokens: Any = 0, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"window_size": window_size, "global_tokens": global_tokens}, **options)

    def attend(
        self, q: Any, k: Any = None, v: Any = None, *, positions: Any = None, mask: Any = None, **options: Any
    ) -> tuple[np.ndarray, Context]:
        """Compute attention of the heads.

        Parameters
        ----------
        q, k, v : array
            As for `HeadwiseAttention.attend`.
        positions : array of int, (Lq,) or (..., Lq), optional
            Where each query stands among the keys, for all batch entries or for each, as far as the variant's own pattern goes. What else looks
            at positions, causal and window and some scores, has them from ``query_offset`` as ever.
        mask, **options
            As for `HeadwiseAttention.attend`.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            In the dtype of `q`.
        context : Context
            What the call read and made.

        Raises
        ------
        InvalidInputError
            If positions are no ints.
        DimensionMismatchError
            If there is not one for each query.
        AttentionError
            As for `HeadwiseAttention.attend`.
        """
        if positions is None:
            return super().attend(q, k, v, mask=mask, **options)
        own = self._of_positions(positions, as_numbers(q, "q").shape[:-1])
        found: tuple[np.ndarray, Context] = self._attend_plainly(q, k, v, {**options, "mask": own if mask is None else own & mask_pattern(mask)})
        return found

    def _of_positions(self, positions: Any, shape: tuple[int, ...]) -> LocalGlobal:
        array = as_numbers(positions, "positions")
        if array.ndim > 1 and shape and array.shape != shape:
            raise DimensionMismatchError(f"positions must be one for each query, {shape[-1:]} or {shape}, got shape {array.shape}")
        if array.ndim > 2:
            array = array.reshape(-1, array.shape[-1])
        given = {name: self._config.options[name] for name in self.own_options}
        key = (array.shape, array.dtype.str, array.tobytes())
        pattern: LocalGlobal = self._kept.get(key, lambda: LocalGlobal(**given, positions=array))
        return pattern

    def forward(self, query: Any, keys: Any, values: Any, *, position: int | None = None) -> np.ndarray:
        """Attend with one query, which stands at the last key unless told otherwise.

        Parameters
        ----------
        query : array, (embed_dim,)
            The query.
        keys : array, (N, embed_dim)
            Keys, at least one.
        values : array, (N, V)
            Values.
        position : int, optional
            Where the query stands among the keys.

        Returns
        -------
        ndarray, (V,)
            The output.

        Raises
        ------
        AttentionError
            As for `attend`.
        """
        if position is None:
            return super().forward(query, keys, values)
        query = check_rank(query, "query", 1, "forward_batch takes several")
        out, context = self._single(query[None], keys, values, "query", np.array([check_int(position, "position", -FAR, FAR)]))
        context.single = True
        return out[0]

    def forward_batch(self, queries: Any, keys: Any, values: Any, *, positions: Any = None) -> np.ndarray:
        """Attend with several queries, each on its own.

        Parameters
        ----------
        queries : array, (B, embed_dim)
            The queries, at least one.
        keys : array, (N, embed_dim)
            Keys, at least one, which all queries share.
        values : array, (N, V)
            Values.
        positions : array of int, (B,), optional
            Where each query stands among the keys; at the last one by default.

        Returns
        -------
        ndarray, (B, V)
            The outputs.

        Raises
        ------
        AttentionError
            As for `attend`.
        """
        if positions is None:
            return super().forward_batch(queries, keys, values)
        queries = check_rank(queries, "queries", 2, "forward takes one")
        stand = as_numbers(positions, "positions")
        if stand.dtype.kind not in "iu":
            raise InvalidInputError(f"positions must be ints, got {positions!r}")
        if stand.shape != queries.shape[:1]:
            raise DimensionMismatchError(f"positions must be one for each of the {len(queries)} queries, got shape {stand.shape}")
        return self._single(queries, keys, values, "queries", stand)[0]
