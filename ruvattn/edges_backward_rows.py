"""What the backward kernels of the edge engine leave to NumPy: scores in Python, aggregates that want whole rows, and numbers beyond a dtype.

    score_gradients      tiles of some rows and the edges of all of them, as in the forward pass, through `Score.logits_vjp`
    reduced_gradients    one row after another, through `Aggregate.reduce_vjp`
    repair_rows, repair_keys    what overflowed though all of it is finite, in wide arithmetic
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .aggregates import Aggregate
from .backward import real_gradient
from .dropout import kept_weights
from .edges import _Edges
from .errors import DimensionMismatchError
from .scores import BoundScore, Dot, Score, Tile

__all__ = ["EdgeSums", "by_key", "reduced_gradients", "repair_keys", "repair_rows", "row_sums", "score_gradients"]

WIDE = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}


@dataclass
class EdgeSums:
    """A call on edges, what comes from above, and where what is found is added up: all in the compute dtype, with an axis of heads.

    Attributes
    ----------
    run : _Edges
        The call.
    values : ndarray or None
        What is summed, (..., Hk, Lk, Dw), or (..., Hk, E, Dw) where `by_edge` is set; None for an aggregate that isn't linear.
    by_edge : bool
        Whether values are those of the edges.
    value_attr : ndarray or None
        What is appended to the values of the edges.
    dout, made : ndarray or None
        Gradient of the sums, and the sums.
    lse, dlse : ndarray
        The log-sum-exp of each row, and its gradient; this may be None.
    dweights : ndarray or None
        Gradient of the weights (..., Hq, E), beside that by `dout`.
    store : ndarray, (batch, Hq // span, E, slots, span)
        Of each edge and head the weight, and what keys need.
    dq, dk, dv : ndarray or None
        Where they are wanted.
    drows, dterms : list of ndarray
        Of each row term, (..., Hq, Lq), and of each column term by edge, (..., Hq, E).
    dattr : ndarray or None
        Of the attributes, (E, F).
    dbias : ndarray or None
        (..., Hq, E).
    dparams : ndarray, (Hq, P)
        Of the parameters of the score, ravelled.
    """

    run: _Edges
    values: np.ndarray | None
    by_edge: bool
    value_attr: np.ndarray | None
    dout: np.ndarray | None
    made: np.ndarray | None
    lse: np.ndarray
    dlse: np.ndarray | None
    dweights: np.ndarray | None
    store: np.ndarray = field(default_factory=lambda: np.empty(0))
    dq: np.ndarray | None = None
    dk: np.ndarray | None = None
    dv: np.ndarray | None = None
    drows: list[np.ndarray] = field(default_factory=list)
    dterms: list[np.ndarray] = field(default_factory=list)
    dattr: np.ndarray | None = None
    dbias: np.ndarray | None = None
    dparams: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def slot(self, b: int, head: int, number: int) -> np.ndarray:
        """Return a view of one slot of the store, (E,).

        Parameters
        ----------
        b, head, number : int
            Batch entry, query head and slot.

        Returns
        -------
        ndarray, (E,)
            Writable.
        """
        span = self.store.shape[-1]
        return self.store[b, head // span, :, number, head % span]


def row_sums(x: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return the sums of numbers (..., E) over the edges of each row, (..., Lq)."""
    found = np.zeros((*x.shape[:-1], indptr.size - 1), x.dtype)
    some = np.flatnonzero(np.diff(indptr))
    if some.size:
        found[..., some] = np.add.reduceat(x, indptr[some], axis=-1)
    return found


def by_key(x: np.ndarray, turned: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the sums of numbers (..., E) over the edges of each key, (..., Lk), given the transpose and the order of its edges."""
    return row_sums(x[..., order], turned)


def _add_rows(total: np.ndarray, at: np.ndarray, rows: np.ndarray) -> None:
    """Add rows (n, D) to those of total (L, D) that they belong to, in their order."""
    if not at.size:
        return
    order = np.argsort(at, kind="stable")
    first = np.flatnonzero(np.diff(at[order], prepend=-1))
    total[at[order][first]] += np.add.reduceat(rows[order], first, axis=0)


# --- scores in NumPy ----------------------------------------------------------------------------------------------------------------


def score_gradients(sums: EdgeSums, score: BoundScore) -> None:
    """Add what queries, terms, parameters, keys and attributes get through a score in NumPy.

    Parameters
    ----------
    sums : EdgeSums
        With the gradients of the logits in slot 1 of the store, where those of the first plane of dots are left.
    score : BoundScore
        The score.
    """
    run = sums.run
    with np.errstate(all="ignore"):
        for b, index in enumerate(np.ndindex(*run.call.lead)):
            for first, stop, e0, e1 in run._tiles(score):
                for head in range(run.call.heads):
                    g = sums.slot(b, head, 1)[e0:e1].copy()
                    if not _add_tile(sums, score, b, (*index, head), first, stop, e0, g):
                        # what isn't finite may have come from the edges of other rows
                        for row in range(first, stop):
                            own = slice(max(int(run.indptr[row]), e0), min(int(run.indptr[row + 1]), e1))
                            if own.start < own.stop:
                                _add_tile(sums, score, b, (*index, head), row, row + 1, own.start, g[own.start - e0 : own.stop - e0])


def _add_tile(sums: EdgeSums, score: BoundScore, b: int, at: tuple[int, ...], first: int, stop: int, start: int, g: np.ndarray) -> bool:
    """Add a tile of rows [first, stop) and edges from ``start`` on; False, and nothing is added, where several rows have made what isn't finite."""
    run = sums.run
    edges = np.flatnonzero(g)  # a vjp is linear: of the others comes nothing, whatever they hold
    if not edges.size:
        return True
    g, edges = g[edges], edges + start
    row_of = np.searchsorted(run.indptr[first : stop + 1], edges, side="right") - 1
    tile, k = _tile(sums, score, at, first, stop, edges, run.call.compute)
    dlogits = np.zeros((stop - first, edges.size), run.call.compute)
    columns = np.arange(edges.size)
    dlogits[row_of, columns] = g
    ddots, drows, dcols, dparams, vectors = score.tile_vjp(tile, dlogits)
    found = [ddots, *drows, *dcols, dparams, *(vectors or ())]
    if stop - first > 1 and not all(np.isfinite(x).all() for x in found):
        return False
    head, starts = at[-1], score.plane_starts
    dq = None if sums.dq is None else sums.dq[at][first:stop]
    for c, plane in enumerate(ddots):
        sums.slot(b, head, 1 + c)[edges] = plane[row_of, columns]
        if dq is not None:
            dq[:, starts[c] : starts[c + 1]] += plane @ k[:, starts[c] : starts[c + 1]]
    if vectors is not None:
        width = run.call.k.shape[-1]
        if dq is not None:
            dq += vectors[0]
        if sums.dk is not None:
            _add_rows(sums.dk[(*at[:-1], _key_head(sums, head))], run.indices[edges], vectors[1][:, :width])
        if sums.dattr is not None and run.key_attr is not None:
            sums.dattr[edges] += vectors[1][:, width:]
    for total, term in zip(sums.drows, drows, strict=True):
        total[at][first:stop] += term[:, 0]
    for total, term in zip(sums.dterms, dcols, strict=True):
        total[at][edges] = term[0]
    sums.dparams[head] += dparams
    return True


def _key_head(sums: EdgeSums, head: int) -> int:
    return head * sums.run.call.k.shape[-3] // sums.run.call.heads


def _tile(
    sums: EdgeSums, score: BoundScore | None, at: tuple[int, ...], first: int, stop: int, edges: np.ndarray, dtype: Any
) -> tuple[Tile, np.ndarray]:
    """Return the tile of some rows and edges of one head in a dtype, and its keys."""
    run = sums.run
    call, head, own = run.call, at[-1], _key_head(sums, at[-1])
    keys = run.indices[edges]
    q, k = call.q[at][first:stop].astype(dtype), call.k[(*at[:-1], own)][keys].astype(dtype)
    if run.key_attr is not None:
        k = np.concatenate([k, run.key_attr[edges].astype(dtype)], axis=-1)
    starts = (0, q.shape[-1]) if score is None else score.plane_starts
    dots = np.zeros((len(starts) - 1, stop - first, edges.size), dtype)
    for c, (a, z) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        dots[c] = q[:, a:z] @ k[:, a:z].T
    if score is None:
        return Tile(dots, params={"scale": dtype(run.scale[head])}), k
    cols = []
    for term, by_edge in run.terms:
        of = term[at[:-1]] if term.ndim > 2 else term
        cols.append(of[head * of.shape[-2] // call.heads][edges if by_edge else keys][None, :].astype(dtype))
    rows = tuple(term[at][first:stop, None].astype(dtype) for term in score.rows)
    params = {name: np.asarray(value, dtype)[()] for name, value in score._params[head].items()}
    return Tile(dots, rows, tuple(cols), params, q if score.vectors else None, k if score.vectors else None), k


# --- aggregates that want whole rows -------------------------------------------------------------------------------------------------


def reduced_gradients(sums: EdgeSums, how: Aggregate, out: np.ndarray, dout: np.ndarray, weights: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Add what values and their attributes get through an aggregate that isn't linear, and fill the gradient of the weights.

    Parameters
    ----------
    sums : EdgeSums
        Its `dweights` is added to; its `dv` and `dattr` too, where they are wanted.
    how : Aggregate
        The aggregate.
    out, dout : ndarray, (..., Hq, Lq, Do)
        The output and its gradient.
    weights : ndarray, (..., Hq, E)
        What the aggregate was given.
    seen : ndarray of bool, (..., Hq, E)
        Which edges it was given.

    Returns
    -------
    dict of str to ndarray
        Gradients of the aggregate's parameters.
    """
    run, call = sums.run, sums.run.call
    name = f"{type(how).__name__}.reduce_vjp"
    of_head = [how.for_head(h) for h in range(call.k.shape[-3])]
    dparams = {key: np.zeros(np.shape(value), np.float64) for key, value in how.params.items()}
    assert sums.dweights is not None
    for index in np.ndindex(*call.lead, call.heads):
        own = _key_head(sums, index[-1])
        v = call.v[(*index[:-1], own)]
        for i in range(call.lq):
            edges = slice(int(run.indptr[i]), int(run.indptr[i + 1]))
            kept = np.flatnonzero(seen[index][edges]) + edges.start
            if not kept.size:
                continue
            values = v[run.indices[kept]]
            if run.value_attr is not None:
                values = np.concatenate([values, run.value_attr[kept]], axis=-1)
            given = (weights[index][kept][None, :], values, out[index][i][None, :], dout[index][i][None, :])
            found = of_head[own].reduce_vjp(*given)
            if not isinstance(found, tuple) or len(found) != 2:
                raise DimensionMismatchError(f"{name} must return (dweights, dv), got {type(found).__name__}")
            sums.dweights[index][kept] += real_gradient(found[0], (1, kept.size), name, call)[0]
            dvalues = real_gradient(found[1], values.shape, name, call)
            if sums.dv is not None:
                _add_rows(sums.dv[(*index[:-1], own)], run.indices[kept], dvalues[:, : v.shape[-1]])
            if sums.dattr is not None and run.value_attr is not None:
                sums.dattr[kept] += dvalues[:, v.shape[-1] :]
            if dparams:
                for key, gradient in of_head[own].reduce_params_vjp(*given).items():
                    if dparams[key].ndim:
                        dparams[key][own] += gradient
                    else:
                        dparams[key] += gradient
    return dparams


# --- numbers beyond the dtype --------------------------------------------------------------------------------------------------------


def _narrow(x: Any, dtype: np.dtype[Any]) -> np.ndarray:
    largest = np.finfo(dtype).max
    return np.clip(x, -largest, largest).astype(dtype)


def repair_rows(sums: EdgeSums, bad: np.ndarray, kind: str) -> None:
    """Make rows whose gradients aren't finite once more in wide arithmetic; those that see NaN or an infinity stay as they are.

    Parameters
    ----------
    sums : EdgeSums
        After the pass over the rows.
    bad : ndarray of bool, (batch, Hq, Lq)
        Which rows.
    kind : str
        What the kernel took the logits for. "given": gradients of logits only.
    """
    lead = sums.run.call.lead
    with np.errstate(all="ignore"):
        for b, head, row in np.argwhere(bad):
            at = (*(np.unravel_index(b, lead) if lead else ()), head)
            _repair_row(sums, int(b), tuple(int(n) for n in at), int(row), kind)


def _repair_row(sums: EdgeSums, b: int, at: tuple[int, ...], i: int, kind: str) -> None:
    run, call = sums.run, sums.run.call
    head, own, score = at[-1], _key_head(sums, at[-1]), sums.run.score
    dtype, compute = WIDE[call.compute], call.compute
    edges = np.arange(int(run.indptr[i]), int(run.indptr[i + 1]))
    bias = None if call.bias is None else call.bias[at]
    for given in (bias, run.logits[at] if run.logits is not None else None):
        if given is not None:
            edges = edges[~np.isneginf(given[edges])]
    rule: Score = Dot() if score is None else score.score
    while True:
        tile, k = _tile(sums, score, at, i, i + 1, edges, dtype)
        if run.logits is not None:
            logits = run.logits[at][edges].astype(dtype)
        else:
            again = Tile(tile.dots.copy(), tile.rows, tile.cols, tile.params, tile.q, tile.k)
            logits = np.asarray(rule.logits(again), dtype)[0]
        if not np.isneginf(logits).any():
            break
        edges = edges[~np.isneginf(logits)]
    slope = np.ones((), dtype)
    if call.softcap:
        capped = np.tanh(logits / dtype(call.softcap))
        logits, slope = dtype(call.softcap) * capped, 1 - capped**2
    if bias is not None:
        logits = logits + bias[edges].astype(dtype)
    keys = run.indices[edges]
    dweights = np.zeros(edges.size, dtype)
    if sums.dweights is not None:
        dweights += sums.dweights[at][edges]
    if sums.values is not None and sums.dout is not None:
        values = sums.values[(*at[:-1], own)][edges if sums.by_edge else keys].astype(dtype)
        if sums.value_attr is not None:
            values = np.concatenate([values, sums.value_attr[edges].astype(dtype)], axis=-1)
        dweights += values @ sums.dout[at][i].astype(dtype)
    if not (np.isfinite(logits).all() and np.isfinite(dweights).all() and np.isfinite(k).all() and np.isfinite(call.q[at][i]).all()):
        if score is not None:
            sums.dparams[head] = np.nan  # the kernel has left this row out of them
        return
    sink = dtype(-np.inf) if call.sinks is None else dtype(call.sinks[head])
    top = max(logits.max(initial=-np.inf), sink)
    weights = np.exp(logits - top)
    weights /= weights.sum() + np.exp(sink - top)
    kept = np.ones(edges.size, dtype)
    if call.dropout:
        kept = kept_weights(call.dropout, call.seed, b, head, np.array([i]), call.lk)[0, keys] / dtype(1 - call.dropout)
    dweights *= kept
    delta = (weights * dweights).sum() - (0 if sums.dlse is None else dtype(sums.dlse[at][i]))
    dlogits = weights * (dweights - delta)
    if sums.dbias is not None:
        sums.dbias[at][edges] = _narrow(dlogits, compute)
    dlogits = dlogits * slope
    sums.slot(b, head, 0)[edges] = _narrow(weights * kept, compute)
    sums.slot(b, head, 1)[edges] = _narrow(dlogits, compute)
    if kind == "given":
        return
    found: Any = rule.logits_vjp(tile, dlogits[None, :])
    dq = np.zeros(call.q.shape[-1], dtype)
    starts = (0, dq.size) if score is None else score.plane_starts
    for c, (a, z) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        dq[a:z] += np.asarray(found[0][c][0], dtype) @ k[:, a:z]
    if score is not None and score.vectors:
        dq += found[4][0]
    if sums.dq is not None:
        sums.dq[at][i] = _narrow(dq, compute)
    if score is None:
        sums.slot(b, head, 1)[edges] = _narrow(found[0][0][0], compute)
        return
    for total, term in zip(sums.drows, found[1], strict=True):
        total[at][i] = _narrow(np.asarray(term, dtype).ravel()[0], compute)
    for total, term in zip(sums.dterms, found[2], strict=True):
        if total.size:
            total[at][edges] = _narrow(np.broadcast_to(term, (1, edges.size))[0], compute)
    sums.dparams[head] += np.concatenate([np.ravel(found[3].get(name, np.zeros(np.shape(x)))) for name, x in tile.params.items()] or [np.zeros(0)])
    if kind == "sum":
        sums.slot(b, head, 1)[edges] = _narrow(np.broadcast_to(found[2][0], (1, edges.size))[0], compute)
    elif kind == "compiled" and not score.vectors:
        slots: list[Any] = [*found[0], *(term for term, (_, by_edge) in zip(found[2], run.terms, strict=True) if not by_edge)]
        for number, numbers in enumerate(slots):
            sums.slot(b, head, 1 + number)[edges] = _narrow(np.broadcast_to(numbers, (1, edges.size))[0], compute)


def repair_keys(sums: EdgeSums, bad: np.ndarray, kind: str, turned: np.ndarray, rows: np.ndarray, order: np.ndarray) -> None:
    """Make keys whose gradients aren't finite once more in wide arithmetic, from the store; those of what isn't finite itself stay as they are.

    Parameters
    ----------
    sums : EdgeSums
        After the pass over the keys.
    bad : ndarray of bool, (batch, Hk, Lk)
        Which keys.
    kind : str
        What the kernel took the logits for.
    turned, rows, order : ndarray
        The transpose, and the order of its edges.
    """
    run, call = sums.run, sums.run.call
    dtype, group = WIDE[call.compute], call.heads // call.k.shape[-3]
    starts = (0, call.q.shape[-1]) if run.score is None else run.score.plane_starts
    with np.errstate(all="ignore"):
        for b, own, j in np.argwhere(bad):
            index: tuple[int, ...] = tuple(int(n) for n in np.unravel_index(b, call.lead)) if call.lead else ()
            part = slice(int(turned[j]), int(turned[j + 1]))
            dk = np.zeros(call.q.shape[-1], dtype)
            dv = None if sums.dv is None or sums.dout is None else np.zeros(sums.dv.shape[-1], dtype)
            for head in range(int(own) * group, (int(own) + 1) * group):
                stored = [sums.slot(int(b), head, s)[order[part]].astype(dtype) for s in range(sums.store.shape[3])]
                seen = np.any([s != 0 for s in stored], axis=0)
                i = rows[part][seen]
                stored = [s[seen] for s in stored]
                if dv is not None and sums.dout is not None:
                    dv += stored[0] @ sums.dout[(*index, head)][i][:, : dv.size].astype(dtype)
                q = call.q[(*index, head)][i].astype(dtype)
                if kind == "hidden":
                    assert run.score is not None
                    slope, vector = (np.asarray(x, dtype) for x in run.score._params[head].values())
                    x = q + call.k[(*index, own)][j].astype(dtype)
                    dk += stored[1] @ (np.where(x > 0, 1, slope) * vector)
                elif kind in ("dots", "given") or (run.score is not None and not run.score.vectors and kind == "compiled"):
                    for c, (a, z) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
                        dk[a:z] += stored[1 + c] @ q[:, a:z]
                else:
                    dk[:] = np.nan
            at = (*index, int(own), int(j))
            if dv is not None and sums.dv is not None and np.isfinite(dv).all():
                sums.dv[at] = _narrow(dv, call.compute)
            if sums.dk is not None and np.isfinite(dk).all() and kind != "sum":
                sums.dk[at] = _narrow(dk[: call.k.shape[-1]], call.compute)
