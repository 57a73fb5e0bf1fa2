"""``topk``: attention to the keys with the largest logits."""

from __future__ import annotations

from typing import Any

from ruvattn.errors import InvalidInputError
from ruvattn.validation import check_int, check_positive

from .base import SparseVariant

__all__ = ["TopKAttention"]


class TopKAttention(SparseVariant):
    """Attention of each query to the keys that matter most to it, as if all others were masked.

    The choice is exact and takes one pass over all keys that the masks leave; see `ruvattn.topk_attention`.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads; each has its own choice.
    top_k : int or None, default 32
        The keys with so many largest logits, from 1; of equal ones, the lower keys (Gupta et al., 2021, "Memory-efficient Transformers via Top-k
        Attention"). Where there are no more, all. None: as many as `top_p` takes.
    top_p : float in (0, 1], optional
        The fewest keys, best first, whose weights add up to so much; with `top_k`, at most so many.
    **options
        As for `SparseVariant`.

    Raises
    ------
    InvalidInputError
        If both are None, or an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("topk", embed_dim=2, top_k=1)
    >>> layer.forward(np.array([1.0, 0.0]), np.eye(2), np.array([[5.0], [7.0]]))
    array([5.])
    """

    attention_type = "topk"
    own_options = ("top_k", "top_p")

    def __init__(self, embed_dim: int, num_heads: int = 1, *, top_k: int | None = 32, top_p: float | None = None, **options: Any) -> None:
        if top_k is None and top_p is None:
            raise InvalidInputError("top_k or top_p must be given: how many keys a query sees, or how much of its weight they make up")
        if top_k is not None:
            top_k = check_int(top_k, "top_k", 1)
        if top_p is not None:
            top_p = check_positive(top_p, "top_p")
            if top_p > 1:
                raise InvalidInputError(f"top_p must be more than 0 and at most 1, got {top_p!r}")
        super().__init__(embed_dim, num_heads, own={"top_k": top_k, "top_p": top_p}, **options)
        self._choice = (top_k, top_p)
