"""Attention over edges and its gradients, one row of one head after another."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..dropout import kept_weights
from ..scores import Dot, Tile, summed_to, without_rest
from .dense import softmax

__all__ = ["edge_attention", "edge_attention_backward"]


def edge_attention(
    q: Any,
    k: Any,
    v: Any,
    indptr: Any,
    indices: Any,
    *,
    score: Any = "dot",
    aggregate: Any = None,
    bias: Any = None,
    edge_terms: Any = None,
    edge_attr: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
    precision: Any = np.float64,
) -> Any:
    """Attention over edges in float64, one row of one head after another.

    Parameters
    ----------
    q, k, v, indptr, indices : array
        As for `ruvattn.edge_attention`.
    score, aggregate, bias, edge_terms, edge_attr, scale, softcap, sinks, dropout, seed : optional
        As for `ruvattn.edge_attention`; a dropout needs its seed.
    return_lse, return_weights : bool, default False
        As for `ruvattn.edge_attention`.
    precision : dtype, default float64
        What to compute in.

    Returns
    -------
    out : ndarray, (..., Hq, Lq, Dv)
        In `precision`.
    lse : ndarray, (..., Hq, Lq)
        Only with ``return_lse``.
    weights : ndarray, (..., Hq, E)
        Only with ``return_weights``.
    """
    from ..running import as_aggregate

    q, k, v = (np.asarray(x).astype(precision) for x in (q, k, v))
    indptr, indices = np.asarray(indptr, np.int64), np.asarray(indices, np.int64)
    single = q.ndim == 2
    if single:
        q, k, v = q[None], k[None], v[None]
    lead, (heads, lq, _) = q.shape[:-3], q.shape[-3:]
    edges, group = indices.size, heads // k.shape[-3]
    attr = np.zeros((edges, 0), precision) if edge_attr is None else np.asarray(edge_attr).astype(precision)
    terms = np.zeros((edges, 0), precision) if edge_terms is None else np.asarray(edge_terms).astype(precision)
    terms = np.broadcast_to(terms, (heads, *terms.shape[-2:]))
    biases = np.broadcast_to(np.zeros((), precision) if bias is None else np.asarray(bias).astype(precision), (*lead, heads, edges))
    how, rule = as_aggregate(aggregate), _EdgeScore(score, scale, q)

    weights = np.zeros((*lead, heads, edges), precision)
    lse = np.zeros((*lead, heads, lq), precision)
    rows: dict[tuple[int, ...], np.ndarray] = {}
    for batch, index in enumerate(np.ndindex(lead)):
        for i in range(lq):
            own = slice(indptr[i], indptr[i + 1])
            j = indices[own]
            keys = np.stack([np.concatenate([x[j], attr[own]], axis=-1) for x in k[index]])
            for h in range(heads):
                s = rule.logits(index, h, i, keys, j, terms[h, own])
                if softcap is not None:
                    s = softcap * np.tanh(s / softcap)
                s = np.where(np.isneginf(biases[index][h, own]), -np.inf, s + biases[index][h, own])
                seen = ~np.isneginf(s)
                w, total = softmax(s[None, :], None if sinks is None else np.asarray(sinks)[h : h + 1])
                if dropout:
                    assert seed is not None
                    w = w * kept_weights(dropout, seed, batch, h, np.array([i]), k.shape[-2])[:, j] / (1 - dropout)
                weights[index][h, own], lse[index][h, i] = w[0], total[0]
                if not seen.any():
                    continue
                values = np.concatenate([v[index][h // group][j], attr[own]], axis=-1)[seen]
                one = how.for_head(h // group)
                if one.linear:
                    rows[(*index, h, i)] = one.finish(w[:, seen] @ one.values(values))[0]
                else:
                    rows[(*index, h, i)] = one.reduce(w[:, seen], values)[0]
    width = len(next(iter(rows.values()))) if rows else v.shape[-1] + attr.shape[-1]
    out = np.zeros((*lead, heads, lq, width), precision)
    for at, row in rows.items():
        out[at] = row
    found = [out, lse, weights]
    if single:
        found = [x[0] for x in found]
    found = [x for x, wanted in zip(found, (True, return_lse, return_weights), strict=True) if wanted]
    return tuple(found) if len(found) > 1 else found[0]


def edge_attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    indptr: Any,
    indices: Any,
    *,
    dlse: Any = None,
    dweights: Any = None,
    score: Any = "dot",
    aggregate: Any = None,
    bias: Any = None,
    edge_terms: Any = None,
    edge_attr: Any = None,
    edge_attr_to: str = "both",
    scale: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    precision: Any = np.float64,
) -> dict[str, Any]:
    """Gradients of attention over edges in float64, one row of one head after another.

    Parameters
    ----------
    dout, q, k, v, indptr, indices : array
        As for `ruvattn.edge_attention_backward`.
    dlse, dweights : array, optional
        As for `ruvattn.edge_attention_backward`.
    score, aggregate, bias, edge_terms, edge_attr, edge_attr_to, scale, softcap, sinks, dropout, seed : optional
        As for `ruvattn.edge_attention_backward`.
    precision : dtype, default float64
        What to compute in.

    Returns
    -------
    dict of str to ndarray
        Every gradient there is, by the names of ``wrt`` of `ruvattn.edge_attention_backward`.
    """
    from ..running import as_aggregate

    q, k, v, dout = (np.asarray(x).astype(precision) for x in (q, k, v, dout))
    indptr, indices = np.asarray(indptr, np.int64), np.asarray(indices, np.int64)
    single = q.ndim == 2
    if single:
        q, k, v, dout = q[None], k[None], v[None], dout[None]
    lead, (heads, lq, _) = q.shape[:-3], q.shape[-3:]
    edges, group = indices.size, heads // k.shape[-3]
    none = np.zeros((edges, 0), precision)
    attr = none if edge_attr is None else np.asarray(edge_attr).astype(precision)
    key_attr, value_attr = none if edge_attr_to == "value" else attr, none if edge_attr_to == "key" else attr
    terms = none if edge_terms is None else np.asarray(edge_terms).astype(precision)
    every_term = np.broadcast_to(terms, (heads, *terms.shape[-2:]))
    biases = np.broadcast_to(np.zeros((), precision) if bias is None else np.asarray(bias).astype(precision), (*lead, heads, edges))
    dlse, dweights = (
        np.zeros((*lead, heads, n), precision) if x is None else np.asarray(x).astype(precision).reshape(*lead, heads, n)
        for x, n in ((dlse, lq), (dweights, edges))
    )
    how, rule = as_aggregate(aggregate), _EdgeScore(score, scale, q)

    dq, dk, dv, dattr, dbias = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros_like(attr), np.zeros(biases.shape, precision)
    dterms, dsinks = np.zeros((*lead, *every_term.shape), precision), np.zeros(heads, precision)
    drows = [np.zeros(q.shape[:-1], precision) for _ in rule.rows]
    found: dict[str, Any] = {f"score.{name}": np.zeros(np.shape(value), precision) for name, value in rule.score.params.items()}
    found |= {f"aggregate.{name}": np.zeros(np.shape(value), precision) for name, value in how.params.items()}

    def add(kind: str, gradients: dict[str, Any], head: int | None = None) -> None:
        for name, gradient in gradients.items():
            total = found[f"{kind}.{name}"]
            if head is None or not total.ndim:
                total += gradient
            else:
                total[head] += gradient

    for batch, index in enumerate(np.ndindex(lead)):
        for i in range(lq):
            of_row = np.arange(indptr[i], indptr[i + 1])
            for h in range(heads):
                own, at = h // group, (*index, h)
                seen = of_row[~np.isneginf(biases[at][of_row])]
                while True:  # a score may mask, too
                    j = indices[seen]
                    keys = np.stack([np.concatenate([x[j], key_attr[seen]], axis=-1) for x in k[index]])
                    raw = rule.logits(index, h, i, keys, j, every_term[h, seen])
                    if not np.isneginf(raw).any():
                        break
                    seen = seen[~np.isneginf(raw)]
                s = raw if softcap is None else softcap * np.tanh(raw / softcap)
                p, lse = softmax((s + biases[at][seen])[None, :], None if sinks is None else np.asarray(sinks)[h : h + 1])
                kept = np.ones(seen.size, precision)
                if dropout:
                    assert seed is not None
                    kept = kept_weights(dropout, seed, batch, h, np.array([i]), k.shape[-2])[0, j] / precision(1 - dropout)
                p, w = p[0], p * kept
                g = dweights[at][seen]
                if seen.size:
                    values = np.concatenate([v[index][own][j], value_attr[seen]], axis=-1)
                    one, above = how.for_head(own), dout[at][i][None, :]
                    if one.linear:
                        mapped = one.values(values)
                        dacc = one.finish_vjp(w @ mapped, above)
                        g = g + (mapped @ dacc.T)[:, 0]
                        dvalues = one.values_vjp(values, w.T @ dacc)
                        add("aggregate", one.finish_params_vjp(w @ mapped, above), own)
                        add("aggregate", one.values_params_vjp(values, w.T @ dacc), own)
                    else:
                        out = one.reduce(w, values)
                        more, dvalues = one.reduce_vjp(w, values, out, above)
                        g = g + more[0]
                        add("aggregate", one.reduce_params_vjp(w, values, out, above), own)
                    np.add.at(dv[index][own], j, dvalues[:, : v.shape[-1]])
                    dattr[seen, : value_attr.shape[1]] += dvalues[:, v.shape[-1] :]
                mean = (p * kept * g).sum() - dlse[at][i]
                if sinks is not None and not np.isneginf(lse[0]):
                    dsinks[h] -= np.exp(np.asarray(sinks, precision)[h] - lse[0]) * mean
                dlogits = p * (kept * g - mean)
                dbias[at][seen] = dlogits
                if softcap is not None:
                    dlogits = dlogits * (1 - np.tanh(raw / softcap) ** 2)
                if not seen.size:
                    continue
                drow, dkeys, drow_terms, dedge_terms, dparams, of_terms = rule.vjp(index, h, i, keys, j, every_term[h, seen], dlogits)
                dq[at][i] += drow
                for other in range(len(keys)):
                    np.add.at(dk[index][other], j, dkeys[other, :, : k.shape[-1]])
                    dattr[seen, : key_attr.shape[1]] += dkeys[other, :, k.shape[-1] :]
                for total, gradient in zip(drows, drow_terms, strict=True):
                    total[at][i] += gradient
                dterms[at][seen] = dedge_terms
                add("score", dparams, h)
                add("score", of_terms)
    if rule.rows:
        given = rule.score.row_terms(q, np.arange(lq))
        dgiven = tuple(summed_to(d, np.shape(term)) for d, term in zip(drows, given, strict=True))
        of_rows, of_terms = rule.score.row_terms_vjp(q, np.arange(lq), dgiven)
        dq += of_rows
        add("score", of_terms)
    found |= {"q": dq, "k": dk, "v": dv, "bias": summed_to(dbias, np.shape(bias)), "edge_attr": dattr, "sinks": dsinks}
    found["edge_terms"] = summed_to(dterms, terms.shape)
    if single:
        found.update({name: found[name][0] for name in ("q", "k", "v")})
    return found


class _EdgeScore:
    """A score for one row of edges at a time."""

    def __init__(self, score: Any, scale: Any, q: np.ndarray) -> None:

        from ..running import as_score

        self.q = q
        self.score = copy.copy(as_score(score))
        params = dict(self.score.params)
        if scale is not None:
            params["scale"] = scale
        if isinstance(self.score, Dot) and params["scale"] is None:
            params["scale"] = 1 / np.sqrt(q.dtype.type(q.shape[-1]))
        self.score.params = params  # type: ignore[misc]
        self.rows = [np.broadcast_to(term, q.shape[:-1]) for term in self.score.row_terms(q, np.arange(q.shape[-2]))]

    def logits(self, *edges: Any) -> np.ndarray:
        """Logits (n,) of the edges of a row, as `tile` takes them."""
        return self.score.logits(self.tile(*edges))[0]

    def vjp(
        self, index: tuple[int, ...], h: int, i: int, keys: np.ndarray, positions: np.ndarray, terms: np.ndarray, dlogits: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[float], np.ndarray, Any, dict[str, Any]]:
        """Gradients of the query (D,), the keys (Hk, n, D), the row terms, the edge terms (n, R), and parameters in tile and column terms."""
        score, own = self.score, h * len(keys) // self.q.shape[-3]
        tile = self.tile(index, h, i, keys, positions, terms)
        ddots, drows, dcols, dparams, *vectors = score.logits_vjp(tile, dlogits[None, :])
        dq, dkeys = np.zeros(self.q.shape[-1], self.q.dtype), np.zeros_like(keys)
        splits = (dq.size,) if score.splits is None else without_rest(score.splits, dq.size)
        starts = np.cumsum((0, *splits))
        for plane, first, last in zip(ddots, starts[:-1], starts[1:], strict=True):
            dq[first:last] += plane[0] @ keys[own][:, first:last]
            dkeys[own][:, first:last] += plane[0][:, None] * self.q[(*index, h, i)][first:last]
        if vectors:
            dq += vectors[0][0]
            dkeys[own] += vectors[1]
        several = keys.reshape(*[1] * len(index), *keys.shape)
        cols = score.col_terms(several, positions)
        more: dict[str, Any] = {}
        if cols:
            given = []
            for term, gradient in zip(cols, dcols, strict=False):
                of = self.q.shape[-3] if np.ndim(term) > 1 and np.shape(term)[-2] == self.q.shape[-3] else len(keys)
                whole = np.zeros((*[1] * len(index), of, len(positions)), self.q.dtype)
                whole[..., h * of // self.q.shape[-3], :] = gradient
                given.append(summed_to(whole, np.shape(term)))
            gradient, more = score.col_terms_vjp(several, positions, tuple(given))
            dkeys += np.reshape(gradient, keys.shape)
        dterms = np.stack([np.ravel(x) for x in dcols[len(cols) :]], axis=-1) if len(dcols) > len(cols) else np.zeros((len(positions), 0))
        return dq, dkeys, [float(np.ravel(x)[0]) for x in drows], dterms, dparams, more

    def tile(self, index: tuple[int, ...], h: int, i: int, keys: np.ndarray, positions: np.ndarray, terms: np.ndarray) -> Tile:
        """Row i of head h and the keys (Hk, n, D) of its edges, which stand at ``positions`` and have terms (n, R)."""
        score, dtype, heads = self.score, self.q.dtype, self.q.shape[-3]
        row, own = self.q[(*index, h, i)][None, :], keys[h * len(keys) // heads]
        cols = []
        for term in score.col_terms(keys.reshape(*[1] * len(index), *keys.shape), positions):
            term = np.asarray(term)
            of = heads if term.ndim > 1 and term.shape[-2] == heads else len(keys)
            term = np.broadcast_to(term, (*[1] * len(index), of, len(positions)))
            cols.append(term.reshape(of, -1)[h * of // heads][None, :])
        cols += [term[None, :] for term in terms.T]
        splits = (row.shape[-1],) if score.splits is None else without_rest(score.splits, row.shape[-1])
        starts = np.cumsum((0, *splits))
        dots = np.zeros((len(splits), 1, len(positions)), dtype)
        for c, (first, last) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
            dots[c] = row[:, first:last] @ own[:, first:last].T
        return Tile(
            dots,
            tuple(np.array(term[(*index, h, i)], dtype).reshape(1, 1) for term in self.rows),
            tuple(np.array(term, dtype) for term in cols),
            {name: np.asarray(value, dtype)[h] if np.ndim(value) else dtype.type(value) for name, value in score.params.items()},
            row if score.vectors else None,
            own if score.vectors else None,
        )
