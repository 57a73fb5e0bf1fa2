"""``cross``: queries from one sequence, keys and values from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidInputError
from ..headwise import MAX_KEYS
from ..validation import check_int
from .multihead import MultiHeadAttention

__all__ = ["CrossAttention"]


class CrossAttention(MultiHeadAttention):
    """Multi-head attention from one sequence to another, such as from a decoder to an encoder (Vaswani et al., 2017, section 3.2.3).

    Called with a query sequence and one other, ``layer(x, memory)``, that is keys and values.

    Parameters
    ----------
    embed_dim : int
        Width E of the queries and the output; `num_heads` divides it.
    num_heads : int, default 1
        Number of query heads, each of width D = E / num_heads.
    key_dim : int, optional
        Width of the keys; E when not given.
    value_dim : int, optional
        Width of the values; that of the keys when not given.
    num_kv_heads, projections, bias, seed, dtype : optional
        As for `ruvattn.builtin.multihead.MultiHeadAttention`. Without projections, keys have width E and values any that `num_heads` divides.
    dropout_rate, score, score_options, aggregate, aggregate_options, causal, window, scale, softcap, check_finite, max_keys : optional
        As for `ruvattn.builtin.standard.StandardAttention`.
    output_dropout, learn : optional
        Likewise; what is learned has the dtype of the other parameters.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    UnknownVariantError
        If the score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("cross", embed_dim=64, num_heads=8, key_dim=48)
    >>> x, memory = np.ones((10, 64), dtype=np.float32), np.ones((20, 48), dtype=np.float32)
    >>> layer(x, memory).shape
    (10, 64)
    """

    attention_type = "cross"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        num_kv_heads: int | None = None,
        projections: bool = True,
        bias: bool = False,
        seed: int = 0,
        dtype: Any = "float32",
        dropout_rate: float = 0.0,
        score: str = "dot",
        score_options: Mapping[str, Any] | None = None,
        aggregate: str = "weighted-sum",
        aggregate_options: Mapping[str, Any] | None = None,
        causal: bool = False,
        window: tuple[int, int] | None = None,
        scale: Any = None,
        softcap: float | None = None,
        check_finite: bool = True,
        max_keys: int | None = MAX_KEYS,
        output_dropout: float = 0.0,
        learn: Sequence[str] = (),
    ) -> None:
        keys = embed_dim if key_dim is None else check_int(key_dim, "key_dim", 1)
        values = keys if value_dim is None else check_int(value_dim, "value_dim", 1)
        if not projections and (keys != embed_dim or value_dim is not None):
            raise InvalidInputError(
                f"key_dim must be embed_dim, {embed_dim}, and value_dim be left out without projections, got {key_dim!r} and {value_dim!r}: "
                "queries meet keys as they are, and values may have any width that num_heads divides"
            )
        self._init_projected(
            embed_dim, num_heads, keys, values, num_kv_heads, projections, bias, seed, dtype, {"key_dim": key_dim, "value_dim": value_dim},
            dropout_rate=dropout_rate, score=score, score_options=score_options, aggregate=aggregate, aggregate_options=aggregate_options,
            causal=causal, window=window, scale=scale, softcap=softcap, check_finite=check_finite, max_keys=max_keys,
            output_dropout=output_dropout, learn=learn,
        )  # fmt: skip
