"""``standard``: attention of heads that split what they are given, with no parameters but what it is told to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..headwise import MAX_KEYS, HeadwiseAttention

__all__ = ["StandardAttention"]


class StandardAttention(HeadwiseAttention):
    """Scaled dot-product attention, or that of any registered score, of one head or several that split the width between them.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it. The width of the values is free, as long as `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    dropout_rate : float, default 0
        Share of the weights that is dropped while `training` is set, in [0, 1).
    score : str, default "dot"
        The name of a registered score.
    score_options : mapping, optional
        Options of the score.
    aggregate : str, default "weighted-sum"
        The name of a registered aggregate.
    aggregate_options : mapping, optional
        Options of the aggregate.
    causal : bool, default False
        Key j is seen from position j on.
    window : (int, int), optional
        position − left ≤ j ≤ position + right; −1 is unbounded.
    scale : float or sequence of num_heads floats, optional
        The score's parameter ``scale``; 1/√(embed_dim/num_heads) by default for "dot".
    softcap : float, optional
        c > 0: logits become c·tanh(s/c).
    check_finite : bool, default True
        Whether NaN and infinity in the input are an error.
    max_keys : int or None, default 1,000,000
        How many keys a row may attend to; None for any number.
    output_dropout : float, default 0
        Share of the output that is dropped while `training` is set, in [0, 1); the rest is multiplied by 1/(1 − output_dropout).
    learn : sequence of str, default ()
        Numbers that become parameters in float64, one for each head: "scale"; "sinks", which start at 0; "score.<name>", a float of the score.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    UnknownVariantError
        If the score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> attention = ruvattn.create("standard", embed_dim=4)
    >>> attention.forward(np.ones(4), np.eye(4), np.arange(8.0).reshape(4, 2))
    array([3., 4.])
    """

    attention_type = "standard"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
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
        super().__init__(
            embed_dim, num_heads, dropout_rate=dropout_rate, score=score, score_options=score_options, aggregate=aggregate,
            aggregate_options=aggregate_options, causal=causal, window=window, scale=scale, softcap=softcap, check_finite=check_finite,
            max_keys=max_keys, output_dropout=output_dropout, learn=learn,
        )  # fmt: skip
