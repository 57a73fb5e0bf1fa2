"""Attention on whole matrices, one step after another."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..dropout import kept_weights
from ..pattern_algebra import over_entries
from ..patterns import Pattern
from ..scores import Dot, Tile, without_rest
from ..validation import is_scipy_sparse

__all__ = ["attention", "attention_logits", "attention_weights", "dropped", "score_logits", "softmax"]


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    aggregate: Any = None,
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    precision: Any = np.float64,
    **options: Any,
) -> Any:
    """Attention in float64.

    Parameters
    ----------
    q, k, v : array
        As for `ruvattn.attention`.
    aggregate, sinks, dropout, seed, return_lse : optional
        As for `ruvattn.attention`; a dropout needs its seed.
    precision : dtype, default float64
        What to compute in.
    **options
        The options of `attention_logits`.

    Returns
    -------
    out : ndarray, (..., Hq, Lq, Dv)
        In `precision`.
    lse : ndarray, (..., Hq, Lq)
        Only with ``return_lse``.
    """
    from ..running import as_aggregate

    how = as_aggregate(aggregate)
    logits = attention_logits(q, k, precision=precision, **options)
    allowed = ~np.isneginf(logits)
    weights, lse = softmax(logits, sinks)
    weights = dropped(weights, dropout, seed)
    values = np.asarray(v).astype(precision)
    single = values.ndim == 2
    if single:
        values, weights, allowed, lse = values[None], weights[None], allowed[None], lse[None]
    group = weights.shape[-3] // values.shape[-3]
    out = None
    for index in np.ndindex(weights.shape[:-2]):
        w, see = weights[index], allowed[index]
        head = index[-1] // group
        one, x = how.for_head(head), values[(*index[:-1], head)]
        some = see.any(-1)
        if one.linear:
            x = one.values(x)
            rows = np.stack([w[i, see[i]] @ x[see[i]] for i in np.flatnonzero(some)]) if some.any() else np.zeros((0, x.shape[-1]), precision)
            rows = one.finish(rows)
        else:
            rows = one.reduce(w[some], x)
        if out is None:
            out = np.zeros((*weights.shape[:-1], rows.shape[-1]), precision)
        out[index][some] = rows
    if out is None:
        out = np.zeros((*weights.shape[:-1], values.shape[-1]), precision)
    if single:
        out, lse = out[0], lse[0]
    return (out, lse) if return_lse else out


def attention_weights(
    q: Any, k: Any, *, sinks: Any = None, dropout: float = 0.0, seed: int | None = None, precision: Any = np.float64, **options: Any
) -> np.ndarray:
    """Attention weights in float64.

    Parameters
    ----------
    q, k : array
        As for `ruvattn.attention_weights`.
    sinks, dropout, seed : optional
        As for `ruvattn.attention_weights`; a dropout needs its seed.
    precision : dtype, default float64
        What to compute in.
    **options
        The options of `attention_logits`.

    Returns
    -------
    ndarray, (..., Hq, Lq, Lk)
        In `precision`.
    """
    weights, _ = softmax(attention_logits(q, k, precision=precision, **options), sinks)
    return dropped(weights, dropout, seed)


def attention_logits(
    q: Any,
    k: Any,
    *,
    score: Any = "dot",
    mask: Any = None,
    bias: Any = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    query_offset: Any = 0,
    key_lengths: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    precision: Any = np.float64,
) -> np.ndarray:
    """Logits in float64, −inf where masked.

    Parameters
    ----------
    q, k : array
        As for `ruvattn.attention_logits`.
    score, mask, bias, causal, window, query_offset, key_lengths, scale, softcap : optional
        As for `ruvattn.attention_logits`.
    precision : dtype, default float64
        What to compute in.

    Returns
    -------
    ndarray, (..., Hq, Lq, Lk)
        In `precision`.
    """
    q, k = np.asarray(q).astype(precision), np.asarray(k).astype(precision)
    single = q.ndim == 2
    if single:
        q, k = q[None], k[None]
    lead, (heads, lq, _), lk = q.shape[:-3], q.shape[-3:], k.shape[-2]
    full = (*lead, heads, lq, lk)
    # Where row 0 of each batch entry stands, and how many keys are valid.
    valid = np.broadcast_to(lk if key_lengths is None else np.asarray(key_lengths), lead)
    start = valid - lq if isinstance(query_offset, str) else np.broadcast_to(np.asarray(query_offset, dtype=object), lead)
    start = np.asarray(np.clip(start, -(2**40), 2**40), dtype=np.int64)
    i = start[..., None, None, None] + np.arange(lq)[:, None]
    j = np.arange(lk)

    s = score_logits(q, k, score, scale, i[..., 0])
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    if bias is not None:
        s = s + np.asarray(bias).astype(precision)
    allowed = np.broadcast_to(j < valid[..., None, None, None], full).copy()
    if causal:
        allowed &= j <= i
    if window is not None:
        left, right = window
        if left >= 0:
            allowed &= i - j <= left
        if right >= 0:
            allowed &= j - i <= right
    if mask is not None:
        allowed &= _mask(mask, start, lead, heads, lq, lk)
    if bias is not None:
        allowed &= ~np.isneginf(np.broadcast_to(np.asarray(bias).astype(precision), full))
    logits = np.where(allowed, s, -np.inf)
    return logits[0] if single else logits


def score_logits(q: np.ndarray, k: np.ndarray, score: Any, scale: Any, row_pos: np.ndarray) -> np.ndarray:
    from ..running import as_score

    heads, group = q.shape[-3], q.shape[-3] // k.shape[-3]
    score = as_score(score)
    params = dict(score.params)
    if scale is not None:
        params["scale"] = scale
    if type(score) is Dot:
        scale = 1 / np.sqrt(q.dtype.type(q.shape[-1])) if params["scale"] is None else np.asarray(params["scale"], q.dtype)
        return q @ np.swapaxes(np.repeat(k, group, -3), -1, -2) * np.broadcast_to(scale, (heads,))[:, None, None]
    if isinstance(score, Dot) and params["scale"] is None:
        params["scale"] = 1 / np.sqrt(q.shape[-1])
    if any(params[name] is not score.params[name] for name in params):
        score = copy.copy(score)
        score.params = params
    rows = [np.broadcast_to(t, q.shape[:-1]) for t in score.row_terms(q, np.broadcast_to(row_pos, (*q.shape[:-3], 1, q.shape[-2])))]
    cols = []
    for term in score.col_terms(k, np.arange(k.shape[-2])):
        term = np.asarray(term)
        own = heads if term.ndim > 1 and term.shape[-2] == heads else k.shape[-3]
        term = np.broadcast_to(term, (*k.shape[:-3], own, k.shape[-2]))
        cols.append(np.repeat(term, heads // own, -2))
    splits = (q.shape[-1],) if score.splits is None else without_rest(score.splits, q.shape[-1])
    edges = np.cumsum((0, *splits))
    found = np.empty((*q.shape[:-1], k.shape[-2]), q.dtype)
    for index in np.ndindex(q.shape[:-2]):
        a, b = q[index], k[(*index[:-1], index[-1] // group)]
        dots = np.zeros((len(splits), len(a), len(b)), q.dtype)
        for c, (first, last) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            dots[c] = a[:, first:last] @ b[:, first:last].T
        tile = Tile(
            dots,
            tuple(np.array(t[index][:, None], q.dtype) for t in rows),
            tuple(np.array(t[index][None, :], q.dtype) for t in cols),
            {name: np.asarray(value, q.dtype)[index[-1]] if np.ndim(value) else q.dtype.type(value) for name, value in params.items()},
            a if score.vectors else None,
            b if score.vectors else None,
        )
        found[index] = score.logits(tile)
    return found


def _mask(mask: Any, start: np.ndarray, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> np.ndarray:
    full = (*lead, heads, lq, lk)
    if is_scipy_sparse(mask):
        dense = np.zeros(mask.shape, bool)
        dense[mask.tocoo().coords] = True  # a stored zero counts
        return np.broadcast_to(dense, full)
    if not isinstance(mask, Pattern):
        return np.broadcast_to(np.asarray(mask), full)
    mask = over_entries(mask, lead)
    found = np.empty(full, bool)
    for batch, index in enumerate(np.ndindex(lead)):
        # What goes by the index of a row is asked for that, although all rows are counted by their positions here.
        i, at = np.arange(lq)[:, None] + start[index], mask.at(int(start[index]))
        for head in range(heads):
            found[(*index, head)] = at.allowed(i, np.arange(lk)[None, :], head=head if mask.by_head else 0, batch=batch if mask.by_batch else 0)
    return found


def softmax(logits: np.ndarray, sinks: Any) -> tuple[np.ndarray, np.ndarray]:
    top = logits.max(-1, initial=-np.inf)
    if sinks is not None:
        sink = np.asarray(sinks, logits.dtype)[:, None]
        if logits.ndim == 2:
            sink = sink[0]
        top = np.maximum(top, sink)
    reference = np.where(np.isneginf(top), 0, top)[..., None]
    weights = np.exp(logits - reference)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sink[..., None] - reference)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + reference)[..., 0]
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)
    return np.where(np.isneginf(logits), 0, weights), lse


def dropped(weights: np.ndarray, dropout: float, seed: int | None) -> np.ndarray:
    if not dropout:
        return weights
    assert seed is not None
    lq, lk = weights.shape[-2:]
    heads = weights.shape[-3] if weights.ndim > 2 else 1
    kept = np.empty(weights.shape)
    for at, index in enumerate(np.ndindex(weights.shape[:-2])):
        kept[index] = kept_weights(dropout, seed, at // heads, at % heads, np.arange(lq), lk)
    return weights * kept / (1 - dropout)
