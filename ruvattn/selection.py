"""The keys that matter most to each query: the k with the largest logits, or as many as make up most of the weight.

    attention_topk ─► kernel.attend(chosen=…): one pass over tiles of logits, a buffer a row ─► keys and logits, best first
    topk_attention ─► choose_keys ─► ChosenKeys ─► attention over those alone

The choice is exact, whatever the score, and no row of logits is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .call import Call, read_call
from .errors import DimensionMismatchError, InvalidInputError
from .explicit_patterns import ListedPairs
from .functional import attention
from .running import as_score, bind_score, empty, logits_of, may_overflow, narrowed, run
from .scores import BoundScore
from .threads import resolve_threads
from .validation import as_array, check_int, check_positive

__all__ = ["ChosenKeys", "attention_topk", "topk_attention"]

FIRST_GUESS = 32
"""How many keys a row is asked for at first where their weight decides how many it takes."""

SORTED = 1 << 22
"""Logits that are held at once where rows are sorted whole."""


def attention_topk(
    q: Any,
    k: Any,
    *,
    top_k: int,
    score: Any = "dot",
    mask: Any = None,
    bias: Any = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    query_offset: Any = 0,
    key_lengths: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys with the largest logits of each row, best first: exact search, by any score and under any mask.

    One pass over tiles of logits keeps a buffer for each row; no array of Lq × Lk is made.

    Parameters
    ----------
    q : array, (..., Hq, Lq, D)
        Queries.
    k : array, (..., Hk, Lk, D)
        Keys.
    top_k : int
        How many keys, from 1. More than there are leaves the last places empty.
    score, mask, bias, causal, window, query_offset, key_lengths, scale, softcap, threads : optional
        As for `ruvattn.attention`.

    Returns
    -------
    indices : ndarray of int64, (..., Hq, Lq, top_k)
        The keys; (Lq, top_k) for arrays of two axes. −1 where a row sees fewer. Of equal logits the lower key comes first; NaN is never chosen.
    logits : ndarray, (..., Hq, Lq, top_k)
        Their logits, softcap and bias included, in the dtype of q; −inf where there are no more.

    Raises
    ------
    AttentionError
        As for `ruvattn.attention`.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q, k = np.array([[1.0, 0.0]]), np.array([[0.5, 3.0], [2.0, 0.0], [1.0, 1.0]])
    >>> ruvattn.attention_topk(q, k, top_k=2, scale=1.0)
    (array([[1, 2]]), array([[2., 1.]]))
    """
    count = check_int(top_k, "top_k", 1)
    call = read_call(
        q, k, None, mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset, key_lengths=key_lengths, softcap=softcap,
    )  # fmt: skip
    bound = bind_score(as_score(score), call, scale)
    chosen, logits, _ = _choose(call, bound, count, False, resolve_threads(threads))
    logits = narrowed(logits, call.dtype)
    return (chosen[0], logits[0]) if call.single else (chosen, logits)


def topk_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    score: Any = "dot",
    mask: Any = None,
    bias: Any = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    query_offset: Any = 0,
    key_lengths: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    threads: int | None = None,
    **options: Any,
) -> Any:
    """Attention of each row over the keys that matter most to it, as if all others were masked.

    Parameters
    ----------
    q, k, v : array
        As for `ruvattn.attention`.
    top_k : int, optional
        The keys with the top_k largest logits; of equal ones, the lower keys (Gupta et al., 2021, "Memory-efficient Transformers via Top-k
        Attention").
    top_p : float in (0, 1], optional
        The fewest keys, best first, whose weights add up to so much (Holtzman et al., 2020, the nucleus; here of attention): weights over all
        keys that the row may see, without sinks. With `top_k`, at most so many. Where many are needed, rows take several passes or are sorted.
    score, mask, bias, causal, window, query_offset, key_lengths, scale, softcap, threads : optional
        As for `ruvattn.attention`.
    **options
        The other options of `ruvattn.attention`: aggregate, sinks, dropout, seed, return_lse, out. The lse is that of the chosen keys.

    Returns
    -------
    out : ndarray, (..., Hq, Lq, Dv)
        As of `ruvattn.attention`; with ``return_lse`` a pair.

    Raises
    ------
    InvalidInputError
        If neither `top_k` nor `top_p` is given, or one is out of range.
    AttentionError
        As for `ruvattn.attention`.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 100, 16))
    >>> ruvattn.topk_attention(q, k, v, top_k=8).shape
    (4, 100, 16)
    """
    as_array(v, "v")  # before the work of choosing
    pattern = choose_keys(
        q, k, top_k=top_k, top_p=top_p, score=score, mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset,
        key_lengths=key_lengths, scale=scale, softcap=softcap, threads=threads,
    )  # fmt: skip
    # What the masks leave out has not been chosen.
    return attention(
        q, k, v, score=score, mask=pattern, bias=bias, query_offset=query_offset, key_lengths=key_lengths, scale=scale, softcap=softcap,
        threads=threads, **options,
    )  # fmt: skip


def choose_keys(
    q: Any, k: Any, *, top_k: int | None, top_p: float | None, score: Any = "dot", scale: Any = None, threads: int | None = None, **masks: Any
) -> ChosenKeys:
    """Return the choice of `topk_attention` as a pattern.

    Parameters
    ----------
    q, k, top_k, top_p, score, scale, threads
        As for `topk_attention`.
    **masks
        Its mask, bias, causal, window, query_offset, key_lengths and softcap.

    Returns
    -------
    ChosenKeys
        For this call.
    """
    if top_k is None and top_p is None:
        raise InvalidInputError("top_k or top_p must be given: how many keys a row sees, or how much of its weight they make up")
    count = None if top_k is None else check_int(top_k, "top_k", 1)
    share = None
    if top_p is not None:
        share = check_positive(top_p, "top_p")
        if share > 1:
            raise InvalidInputError(f"top_p must be more than 0 and at most 1, got {top_p!r}")
    call = read_call(q, k, None, **masks)
    bound = bind_score(as_score(score), call, scale)
    team = resolve_threads(threads)
    most = call.lk if count is None else min(count, call.lk)
    if share is None or not most:
        return _chosen_keys(call, [_choose(call, bound, most, False, team, ordered=False)[0]])
    return _chosen_keys(call, list(_nucleus(call, bound, share, most, min(FIRST_GUESS, most), team)))


class ChosenKeys(ListedPairs):
    """Keys that were chosen for each row of a call.

    Parameters
    ----------
    shape : tuple of int, (..., Hq, Lq, Lk)
        Of the call.
    counts : array of int, (batch, Hq, Lq)
        How many keys each row has, through the leading axes in C order.
    indices : array of int
        The keys of one row after the other, ascending in each.
    """

    by_head = by_batch = passing = True

    def __init__(self, shape: tuple[int, ...], counts: np.ndarray, indices: np.ndarray) -> None:
        self.shape = shape
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        rows = np.arange(counts.shape[0] * counts.shape[1], dtype=np.int64).reshape(*counts.shape[:2], 1) * counts.shape[2]
        self._indptr = ends[rows + np.arange(counts.shape[2] + 1)]
        self._indices = indices.astype(np.int32, copy=False)

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if it was chosen for a call of another shape."""
        if self.shape != (*lead, heads, lq, lk):
            raise DimensionMismatchError(
                f"mask holds what was chosen for a call of shape (..., Hq, Lq, Lk) = {self.shape}, got {(*lead, heads, lq, lk)}"
            )

    def _ends(self, head: int, batch: int) -> np.ndarray:
        ends: np.ndarray = self._indptr[batch, head]
        return ends

    def __repr__(self) -> str:
        return f"ChosenKeys({self.shape}, {self._indices.size} pairs)"


def _chosen_keys(call: Call, every: list[np.ndarray]) -> ChosenKeys:
    """Make the pattern of choices for consecutive rows, each (..., Hq, rows, n), padded with −1."""
    found = [np.sort(part.reshape(call.batch, call.heads, *part.shape[-2:]), -1) for part in every]
    counts = np.concatenate([(part >= 0).sum(-1) for part in found], -1) if found else np.zeros((call.batch, call.heads, 0), np.int64)
    if len(found) == 1:
        indices = found[0][found[0] >= 0]
    else:
        pieces = [part[b, h][part[b, h] >= 0] for b in range(call.batch) for h in range(call.heads) for part in found]
        indices = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    return ChosenKeys((*call.lead, call.heads, call.lq, call.lk), counts, indices)


_Bound = tuple[np.ndarray, BoundScore | None]


def _choose(
    call: Call, bound: _Bound, count: int, want_lse: bool, threads: int, ordered: bool = True
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the keys of the largest logits, those, and the lse of the rows where it is wanted."""
    shape = (*call.lead, call.heads, call.lq)
    width = min(count, call.lk)
    lse: Any = np.full(shape, -np.inf, call.compute) if want_lse else None
    if width and bound[1] is None and may_overflow(call, bound[0]):
        best, of_best, lse = _sorted(call, bound, width, threads)  # in a wider dtype than the others
    else:
        best, of_best = empty((*shape, width), np.dtype(np.int64)), empty((*shape, width), call.compute)
        if width:
            run(call, call.v, bound, None, lse, of_best, threads, best, ordered)
    if width == count:
        return best, of_best, lse
    chosen, logits = empty((*shape, count), np.dtype(np.int64)), empty((*shape, count), of_best.dtype)
    chosen[..., :width], logits[..., :width] = best, of_best
    chosen[..., width:], logits[..., width:] = -1, -np.inf
    return chosen, logits, lse


def _sorted(call: Call, bound: _Bound, count: int, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do the same by sorting whole rows, as many at once as memory allows; in the dtype of `logits_of`, for a narrower one may not hold them."""
    step = max(1, SORTED // max(1, call.lk * call.heads * call.batch))
    keys, values, sums = [], [], []
    for first in range(0, call.lq, step):
        part = call.rows(first, min(first + step, call.lq))
        logits = logits_of(part, bound if bound[1] is None else (bound[0], bound[1].for_rows(part)), threads)
        logits = np.where(np.isnan(logits), -np.inf, logits)
        order = np.argsort(-logits, -1, kind="stable")[..., :count]
        best = np.take_along_axis(logits, order, -1)
        keys.append(np.where(best == -np.inf, -1, order))
        values.append(best)
        top = np.where(np.isfinite(best[..., :1]), best[..., :1], 0)
        with np.errstate(divide="ignore", over="ignore"):
            sums.append(np.log(np.exp(logits - top).sum(-1, dtype=np.promote_types(logits.dtype, np.float64))) + top[..., 0])
    return np.concatenate(keys, -2), np.concatenate(values, -2), np.concatenate(sums, -1)


def _nucleus(call: Call, bound: _Bound, share: float, most: int, count: int, threads: int) -> Iterator[np.ndarray]:
    """Yield, for consecutive rows, the fewest keys that make up a share of their weight: more and more of the best ones, until it is enough."""
    step = max(1, SORTED // max(1, count * call.heads * call.batch))
    for first in range(0, call.lq, step):
        part = call.rows(first, min(first + step, call.lq))
        own = bound if bound[1] is None else (bound[0], bound[1].for_rows(part))
        # A buffer that holds a good part of a row is the slower way.
        streamed = 4 * count <= call.lk
        chosen, logits, lse = _choose(part, own, count, True, threads) if streamed else _sorted(part, own, count, threads)
        if streamed and np.isnan(lse).any():  # a NaN, which is never chosen, is in the kernel's sum all the same
            chosen, logits, lse = _sorted(part, own, count, threads)
        with np.errstate(invalid="ignore"):
            mass = np.cumsum(np.exp(logits.astype(np.promote_types(logits.dtype, np.float64)) - lse[..., None]), -1)
        # Rounding may leave the sum of all weights below 1.
        enough = mass >= share * (1 - 4 * np.finfo(call.compute).eps)
        if count < most and not (enough[..., -1] | (chosen[..., -1] < 0)).all():
            yield from _nucleus(part, own, share, most, min(4 * count, most), threads)
            continue
        # A key is needed as long as those before it are not enough.
        chosen[..., 1:][enough[..., :-1]] = -1
        yield chosen
