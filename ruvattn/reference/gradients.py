"""Gradients of attention by the chain rule, on whole matrices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..scores import Dot, Tile, summed_to, without_rest
from .dense import attention_logits, dropped, score_logits, softmax

__all__ = ["attention_backward"]


def attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    *,
    dlse: Any = None,
    aggregate: Any = None,
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    precision: Any = np.float64,
    **options: Any,
) -> dict[str, Any]:
    """Gradients of attention in float64, by the chain rule on whole matrices and the vjps of its parts.

    Parameters
    ----------
    dout : array, (..., Hq, Lq, Do)
        As for `ruvattn.attention_backward`.
    q, k, v : array
        As for `ruvattn.attention_backward`.
    dlse : array, (..., Hq, Lq), optional
        As for `ruvattn.attention_backward`.
    aggregate, sinks, dropout, seed : optional
        As for `attention`.
    precision : dtype, default float64
        What to compute in.
    **options
        The options of `attention_logits`.

    Returns
    -------
    dict of str to ndarray
        Every gradient there is, by the names of ``wrt`` of `ruvattn.attention_backward`.
    """
    from ..running import as_aggregate, as_score

    how, softcap, bias, score = as_aggregate(aggregate), options.get("softcap"), options.get("bias"), as_score(options.get("score", "dot"))
    logits = attention_logits(q, k, precision=precision, **options)
    q, k, v, dout = (np.asarray(x).astype(precision) for x in (q, k, v, dout))
    single = q.ndim == 2
    if single:
        q, k, v, dout, logits = q[None], k[None], v[None], dout[None], logits[None]
    heads, lq, lk = logits.shape[-3:]
    group, allowed = heads // k.shape[-3], ~np.isneginf(logits)
    weights, lse = softmax(logits, sinks)
    kept = dropped(np.ones_like(weights), dropout, seed)
    dlse = np.zeros(lse.shape) if dlse is None else np.broadcast_to(np.asarray(dlse, precision), lse.shape)

    dvalues: dict[tuple[int, ...], np.ndarray] = {}
    dv, dlogits, dsinks = np.zeros_like(v), np.zeros_like(logits), np.zeros(heads, precision)
    found: dict[str, Any] = {f"aggregate.{name}": np.zeros(np.shape(value), precision) for name, value in how.params.items()}

    def add_params(gradients: dict[str, Any], head: int | None) -> None:
        for name, gradient in gradients.items():
            total = found[f"aggregate.{name}"]
            if head is None or not total.ndim:
                total += gradient
            else:
                total[head] += gradient

    for index in np.ndindex(weights.shape[:-2]):
        own = (*index[:-1], index[-1] // group)
        one, some, w = how.for_head(own[-1]), allowed[index].any(-1), weights[index] * kept[index]
        dweights = np.zeros_like(w)
        if how.linear:
            x = one.values(v[own])
            acc = np.where(allowed[index][..., None], w[..., None] * x, 0).sum(-2)[some]
            dacc = np.zeros((lq, x.shape[-1]), precision)
            dacc[some] = one.finish_vjp(acc, dout[index][some])
            add_params(one.finish_params_vjp(acc, dout[index][some]), own[-1])
            dvalues[own] = dvalues.get(own, 0) + np.where(allowed[index][..., None], w[..., None] * dacc[:, None], 0).sum(0)
            dweights = dacc @ x.T
        elif some.any():
            out = one.reduce(w[some], v[own])
            dweights[some], gradient = one.reduce_vjp(w[some], v[own], out, dout[index][some])
            dv[own] += gradient
            add_params(one.reduce_params_vjp(w[some], v[own], out, dout[index][some]), own[-1])
        dweights = np.where(allowed[index], dweights, 0) * kept[index]
        mean = (weights[index] * dweights).sum(-1) - dlse[index]
        dlogits[index] = weights[index] * (dweights - mean[:, None])
        if sinks is not None:
            finite = ~np.isneginf(lse[index])
            dsinks[index[-1]] -= (np.exp(np.asarray(sinks, precision)[index[-1]] - lse[index][finite]) * mean[finite]).sum()
    for own, gradient in dvalues.items():
        one = how.for_head(own[-1])
        dv[own] = one.values_vjp(v[own], gradient)
        add_params(one.values_params_vjp(v[own], gradient), own[-1])
    if sinks is not None:
        found["sinks"] = dsinks
    if bias is not None:
        found["bias"] = summed_to(dlogits, np.shape(bias))
    start = options.get("query_offset", 0)
    if isinstance(start, str):
        start = np.asarray(lk if options.get("key_lengths") is None else options["key_lengths"]) - lq
    positions = np.broadcast_to(np.asarray(start), q.shape[:-3])[..., None, None] + np.arange(lq)
    if softcap is not None:
        raw = score_logits(q, k, score, options.get("scale"), positions)
        dlogits = np.where(allowed, dlogits * (1 - np.tanh(raw / softcap) ** 2), 0)
    found.update(_scores_vjp(q, k, score, options.get("scale"), positions, dlogits), v=dv)
    if single:
        found.update({name: found[name][0] for name in ("q", "k", "v")})
    return found


def _scores_vjp(q: np.ndarray, k: np.ndarray, score: Any, scale: Any, row_pos: np.ndarray, dlogits: np.ndarray) -> dict[str, Any]:
    """From the gradients of the logits of `_scores` to those of queries, keys and parameters."""
    heads, group, dtype = q.shape[-3], q.shape[-3] // k.shape[-3], q.dtype
    params = dict(score.params)
    if scale is not None:
        params["scale"] = scale
    if isinstance(score, Dot) and params["scale"] is None:
        params["scale"] = 1 / np.sqrt(dtype.type(q.shape[-1]))
    score = copy.copy(score)
    score.params = params
    row_pos = np.broadcast_to(row_pos, (*q.shape[:-3], 1, q.shape[-2]))
    rows, cols = score.row_terms(q, row_pos), score.col_terms(k, np.arange(k.shape[-2]))
    drows = [np.zeros(q.shape[:-1], dtype) for _ in rows]
    dcols = [np.zeros((*q.shape[:-1][:-1], k.shape[-2]), dtype) for _ in cols]
    splits = (q.shape[-1],) if score.splits is None else without_rest(score.splits, q.shape[-1])
    edges = np.cumsum((0, *splits))
    dq, dk = np.zeros_like(q), np.zeros_like(k)
    dparams: dict[str, Any] = {name: np.zeros(np.shape(value), dtype) for name, value in params.items()}
    # terms as every query head sees them
    every_row = [np.broadcast_to(t, q.shape[:-1]) for t in rows]
    every_col = []
    for term in cols:
        own = heads if np.ndim(term) > 1 and term.shape[-2] == heads else k.shape[-3]
        every_col.append(np.repeat(np.broadcast_to(term, (*k.shape[:-3], own, k.shape[-2])), heads // own, -2))
    for index in np.ndindex(q.shape[:-2]):
        head, other = index[-1], (*index[:-1], index[-1] // group)
        a, b = q[index], k[other]
        tile = Tile(
            np.array([a[:, i:j] @ b[:, i:j].T for i, j in zip(edges[:-1], edges[1:], strict=True)]).reshape(len(splits), len(a), len(b)),
            tuple(np.array(t[index][:, None], dtype) for t in every_row), tuple(np.array(t[index][None, :], dtype) for t in every_col),
            {name: np.asarray(value, dtype)[head] if np.ndim(value) else dtype.type(value) for name, value in params.items()},
            a if score.vectors else None, b if score.vectors else None,
        )  # fmt: skip
        ddots, dr, dc, dp, *vectors = score.logits_vjp(tile, dlogits[index])
        for plane, i, j in zip(ddots, edges[:-1], edges[1:], strict=True):
            dq[index][:, i:j] += plane @ b[:, i:j]
            dk[other][:, i:j] += plane.T @ a[:, i:j]
        if vectors:
            dq[index] += vectors[0]
            dk[other] += vectors[1]
        for total, gradient in zip((*drows, *dcols), (*dr, *dc), strict=True):
            total[index] += np.ravel(gradient)
        for name, gradient in dp.items():
            if dparams[name].ndim:
                dparams[name][head] += gradient
            else:
                dparams[name] += gradient
    if rows:
        gradient, more = score.row_terms_vjp(q, row_pos, tuple(summed_to(d, np.shape(t)) for d, t in zip(drows, rows, strict=True)))
        dq += gradient
        for name, value in more.items():
            dparams[name] += value
    if cols:
        own_heads = [heads if np.ndim(t) > 1 and t.shape[-2] == heads else k.shape[-3] for t in cols]
        merged = [d.reshape(*d.shape[:-2], n, heads // n, d.shape[-1]).sum(-2) for d, n in zip(dcols, own_heads, strict=True)]
        gradient, more = score.col_terms_vjp(k, np.arange(k.shape[-2]), tuple(summed_to(d, np.shape(t)) for d, t in zip(merged, cols, strict=True)))
        dk += gradient
        for name, value in more.items():
            dparams[name] += value
    return {"q": dq, "k": dk, **{f"score.{name}": value for name, value in dparams.items()}}
