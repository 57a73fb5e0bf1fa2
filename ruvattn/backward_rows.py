"""The backward pass in NumPy, some whole rows at a time: for scores in Python and aggregates that need whole rows, and for numbers beyond a dtype.

    rows [first, stop) ─► logits_of ─► P = exp(s − lse) ─► dP = dout · v ─► dlogits = P (dP − delta) ─► softcap ─► logits_vjp ─► Sums

What is masked takes no part in any sum, so that NaN there stays there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .aggregates import Aggregate
from .call import Call
from .dropout import kept_weights
from .errors import DimensionMismatchError
from .gradient_sums import Sums, Upstream
from .running import logits_of, real_array
from .scores import BoundScore, Tile, saturated
from .validation import copied

__all__ = ["add_again", "add_reduced", "add_rows", "without_unseen"]

BLOCK = 1 << 20
"""Logits at once, of all heads and batch entries together."""

def without_unseen(v: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return values with another row in the place of those that nobody sees, and which they are, if there are any.

    A vjp would make NaN of 0 · NaN, or of what overflows. The other row is one that is seen, if there is one: zeros may be outside of a map's domain.
    """
    unseen = ~seen
    if not unseen.any():
        return v, None
    flat, rows = v.reshape(-1, v.shape[-1]), seen.ravel()
    return np.where(unseen[..., None], flat[rows.argmax()] if rows.any() else v.dtype.type(0), v), unseen


Bound = tuple[np.ndarray, BoundScore | None]
OfHead = Callable[[tuple[int, ...], slice, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def add_rows(call: Call, upstream: Upstream, bound: Bound, sums: Sums, threads: int) -> None:
    """Add the gradients of a call whose values are summed.

    Parameters
    ----------
    call : Call
        The call, with what is summed as its values.
    upstream : Upstream
        What comes from above, by the sums.
    bound : tuple
        Scale and score, as `ruvattn.running.bind_score` gives them.
    sums : Sums
        Added to; its `delta` has been computed.
    threads : int
        How many threads to use at most.
    """
    _walk(call, call, upstream.lse, bound, sums, threads, _summed(call, upstream, sums))


def _summed(call: Call, upstream: Upstream, sums: Sums) -> OfHead:
    def of_head(at: tuple[int, ...], rows: slice, weights: np.ndarray, kept: np.ndarray, seen: np.ndarray) -> np.ndarray:
        own = _key_head(at, call)
        dout = upstream.dout[at][rows]
        sums.dv[own] += _product((weights * kept).T, dout, seen.T)
        with np.errstate(all="ignore"):
            dweights = (dout @ call.v[own].T) * kept
            return np.where(seen, weights * (dweights - sums.delta[at][rows, None]), 0)

    return of_head


def add_again(call: Call, upstream: Upstream, bound: Bound, sums: Sums, bad: np.ndarray, threads: int) -> None:
    """Compute once more, in wider arithmetic and with what is masked left out, the gradients of key heads that came out infinite.

    Parameters
    ----------
    call, upstream, bound, threads : object
        As for `add_rows`.
    sums : Sums
        What came out; changed in place. What is finite in wider arithmetic and too large for the dtype becomes the largest number.
    bad : ndarray of bool, (batch, Hk)
        Which key heads; all of them where the gradient of a parameter or a bias, which several heads share, is at stake.
    """
    dtype, score = call.compute, bound[1]
    if score is not None or sums.dbias is not None:
        bad = np.ones_like(bad)
    wide: Any = np.float64 if dtype == np.float32 else np.longdouble
    own = replace(call, q=call.q.astype(wide), k=call.k.astype(wide), v=call.v.astype(wide))
    logits_call = call
    if dtype == np.float32:
        own.bias = None if call.bias is None else copied(call.bias, np.dtype(wide), call.bias.ndim)
        own.sinks = None if call.sinks is None else call.sinks.astype(wide)
        logits_call = own
        bound = (bound[0].astype(wide), None if score is None else BoundScore(score.score, own.q, own.k, own.row_positions(), score.score.params))
    elif score is not None:
        own = call  # a score knows no wider dtype
    above = replace(upstream, dout=upstream.dout.astype(own.compute), out=upstream.out.astype(own.compute))
    again = Sums.of(own, bound[1], sums.dbias is not None)
    with np.errstate(all="ignore"):
        again.delta = np.einsum("...c,...c->...", above.dout, above.out)
        if upstream.dlse is not None:
            again.delta = again.delta - upstream.dlse
    _walk(logits_call, own, None, bound, again, threads, _summed(own, above, again), bad)
    of = bad.reshape(*call.lead, -1)
    for name, some in (("dq", np.repeat(of, call.heads // call.k.shape[-3], -1)), ("dk", of), ("dv", of)):
        getattr(sums, name)[some] = saturated(getattr(again, name)[some], dtype)
    if score is not None or sums.dbias is not None:
        for old, new in zip((*sums.drows, *sums.dcols), (*again.drows, *again.dcols), strict=True):
            old[...] = saturated(new, dtype)
        sums.dparams[...] = again.dparams
        if sums.dbias is not None and again.dbias is not None:
            sums.dbias[...] = saturated(again.dbias, dtype)


def add_reduced(
    call: Call, upstream: Upstream, bound: Bound, how: Aggregate, sums: Sums, threads: int, with_params: bool
) -> list[dict[str, Any]]:
    """Add the gradients of a call whose aggregate is given whole rows of weights.

    Parameters
    ----------
    call, upstream, bound, threads : object
        As for `add_rows`; upstream by the output.
    how : Aggregate
        Not linear.
    sums : Sums
        Added to, its `delta` too.
    with_params : bool
        Whether gradients of the parameters of the aggregate are wanted.

    Returns
    -------
    list of dict
        Gradients of the parameters of the aggregate, each with the axis of heads, (Hk, …), where the parameter has one.
    """
    name = type(how).__name__
    group = call.heads // call.k.shape[-3]
    of_head = [how.for_head(h) for h in range(call.k.shape[-3])]
    dparams: dict[str, np.ndarray] = {key: np.zeros(np.shape(value), np.float64) for key, value in how.params.items() if with_params}

    def reduced(at: tuple[int, ...], rows: slice, weights: np.ndarray, kept: np.ndarray, seen: np.ndarray) -> np.ndarray:
        own, some = _key_head(at, call), seen.any(-1)
        if not some.any():
            return np.zeros_like(weights)
        one, given = of_head[at[-1] // group], (weights * kept)[some]
        v, unseen = without_unseen(call.v[own], np.asarray(seen.any(0)))
        out, dout = upstream.out[at][rows][some], upstream.dout[at][rows][some]
        found = one.reduce_vjp(given, v, out, dout)
        if not isinstance(found, tuple) or len(found) != 2:
            raise DimensionMismatchError(f"{name}.reduce_vjp must return (dweights, dv), got {type(found).__name__}")
        dweights, dv = (real_array(x, f"{name}.reduce_vjp", call) for x in found)
        for what, x, shape in (("dweights", dweights, given.shape), ("dv", dv, v.shape)):
            if x.shape != shape:
                raise DimensionMismatchError(f"{name}.reduce_vjp must return {what} of shape {shape}, got {x.shape}")
        sums.dv[own] += dv if unseen is None else np.where(unseen[:, None], 0, dv)
        if dparams:
            for key, gradient in one.reduce_params_vjp(given, v, out, dout).items():
                of = dparams[key]
                if of.ndim:
                    of[at[-1] // group] += gradient
                else:
                    of += gradient
        whole = np.zeros(weights.shape, weights.dtype)
        whole[some] = dweights
        whole *= kept
        delta = np.where(seen, weights * whole, 0).sum(-1, dtype=np.float64)
        if upstream.dlse is not None:
            delta = delta - upstream.dlse[at][rows]
        sums.delta[at][rows] = delta
        return np.where(seen, weights * (whole - delta[:, None].astype(weights.dtype)), 0)

    _walk(call, call, upstream.lse, bound, sums, threads, reduced)
    return [dparams]


def _key_head(at: tuple[int, ...], call: Call) -> tuple[int, ...]:
    return (*at[:-1], at[-1] * call.k.shape[-3] // call.heads)


def _walk(
    call: Call, arrays: Call, lse: np.ndarray | None, bound: Bound, sums: Sums, threads: int, of_head: OfHead, only: np.ndarray | None = None
) -> None:
    """Go through blocks of rows, and from the gradients of their logits, which ``of_head`` gives, back to what they are made of.

    The logits are those of ``call``, the products with queries and keys are in the dtype of ``arrays``. With lse None it is made again. ``only``
    (batch, Hk): the key heads it is about.
    """
    step = max(1, BLOCK // max(1, call.lk * call.heads * call.batch))
    dtype = arrays.compute
    if not call.lk:
        return
    for first in range(0, call.lq, step):
        rows = slice(first, min(first + step, call.lq))
        part = call.rows(rows.start, rows.stop)
        again = bound if bound[1] is None else (bound[0], bound[1].for_rows(part))
        logits = logits_of(part, again, threads)
        for b, index in enumerate(np.ndindex(call.lead)):
            for h in range(call.heads):
                at = (*index, h)
                if only is not None and not only[b, _key_head(at, call)[-1]]:
                    continue
                seen = ~np.isneginf(logits[at])
                with np.errstate(all="ignore"):
                    above = _row_sums(logits[at], call, h) if lse is None else lse[at][rows]
                    shifted = np.where(seen, logits[at], 0) - np.where(np.isneginf(above), 0, above)[:, None]
                    weights = np.where(seen, np.exp(shifted), 0).astype(dtype, copy=False)
                kept = np.ones((), dtype)
                if call.dropout:
                    mask = kept_weights(call.dropout, call.seed, b, h, np.arange(rows.start, rows.stop), call.lk)
                    kept = mask * dtype.type(1 / (1 - call.dropout))
                dlogits = of_head(at, rows, weights, kept, seen)
                if sums.dbias is not None:
                    _add_bias(sums.dbias, at, rows, dlogits)
                _add_score(arrays, again, at, rows, dlogits, seen, sums)


def _row_sums(logits: np.ndarray, call: Call, head: int) -> np.ndarray:
    """The log-sum-exp of rows of logits, the sink included."""
    top = logits.max(-1)
    if call.sinks is not None:
        top = np.maximum(top, call.sinks[head])
    reference = np.where(np.isneginf(top), 0, top)
    total = np.exp(logits - reference[:, None]).sum(-1)
    if call.sinks is not None:
        total += np.exp(call.sinks[head] - reference)
    return np.log(total) + reference


def _add_bias(dbias: np.ndarray, at: tuple[int, ...], rows: slice, dlogits: np.ndarray) -> None:
    own = dbias[tuple(0 if n == 1 else i for i, n in zip(at, dbias.shape[:-2], strict=True))]
    own = own if own.shape[0] == 1 else own[rows]
    if own.shape[0] == 1 and dlogits.shape[0] != 1:
        dlogits = dlogits.sum(0, keepdims=True)
    own += dlogits.sum(1, keepdims=True) if own.shape[1] == 1 else dlogits


def _add_score(call: Call, bound: Bound, at: tuple[int, ...], rows: slice, dlogits: np.ndarray, seen: np.ndarray, sums: Sums) -> None:
    """From the gradients of the logits of some rows of one head to those of queries, keys, terms and parameters."""
    scale, score = bound
    head, own = at[-1], _key_head(at, call)
    q, k = call.q[at][rows], call.k[own]
    if score is None:
        factor = scale[head]
        if call.softcap or not factor:
            with np.errstate(all="ignore"):
                dots = q @ k.T
                if call.softcap:
                    dlogits = np.where(seen, dlogits * (1 - np.tanh(dots * factor / call.softcap) ** 2), 0)
            if not factor:
                sums.dscale[head] += np.where(seen, dlogits * dots, 0).sum(dtype=np.float64)
        ddots = dlogits * factor
        sums.dq[at][rows] += _product(ddots, k, seen)
        sums.dk[own] += _product(ddots.T, q, seen.T)
        return
    tile = score.tile_of(at)
    if not all(np.isfinite(x).all() for x in (tile.dots, *tile.rows, *tile.cols, q, k)):
        # One row after another, of what it sees alone: an expression of the score may carry what isn't finite anywhere in its tile.
        for i in range(len(q)):
            some = np.flatnonzero(seen[i])
            if len(some):
                row = slice(i, i + 1)
                _add_tile(call, score, at, score.part_of(tile, row, some), dlogits[row, some], np.array([i + rows.start]), some, sums)
        return
    _add_tile(call, score, at, tile, dlogits, np.arange(rows.start, rows.stop), np.arange(call.lk), sums)


def _add_tile(
    call: Call, score: BoundScore, at: tuple[int, ...], tile: Tile, dlogits: np.ndarray, rows: np.ndarray, keys: np.ndarray, sums: Sums
) -> None:
    """The same for a tile of rows and keys, by the vjp of a score."""
    own = _key_head(at, call)
    q, k = call.q[at][rows], call.k[own][keys]
    with np.errstate(all="ignore"):
        if call.softcap:
            dots = tile.dots.copy()
            raw = score.evaluate(dots if dots.size else np.zeros((1, *dlogits.shape), dlogits.dtype), tile.rows, tile.cols, at[-1], tile.q, tile.k)
            dlogits = dlogits * (1 - np.tanh(raw / call.softcap) ** 2)
        ddots, drows, dcols, dparams, vectors = score.tile_vjp(tile, dlogits)
    starts = score.plane_starts
    for plane, (a, b) in zip(ddots, zip(starts[:-1], starts[1:], strict=True), strict=True):
        sums.dq[at][rows, a:b] += plane @ k[:, a:b]
        sums.dk[own][keys, a:b] += plane.T @ q[:, a:b]
    if vectors is not None:
        sums.dq[at][rows] += vectors[0]
        sums.dk[own][keys] += vectors[1]
    for total, term in zip(sums.drows, drows, strict=True):
        total[at][rows] += term[:, 0]
    for total, term in zip(sums.dcols, dcols, strict=True):
        total[(*at[:-1], at[-1] * total.shape[-2] // call.heads)][keys] += term[0]
    sums.dparams[at[-1]] += dparams


def _product(weights: np.ndarray, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return weights · x, where rows of x that aren't finite reach only those who see them."""
    bad = ~np.isfinite(x).all(-1)
    with np.errstate(all="ignore"):
        if not bad.any():
            return weights @ x
        result = weights[:, ~bad] @ x[~bad]
        for j in np.flatnonzero(bad):
            result[seen[:, j]] += weights[seen[:, j], j, None] * x[j]
    return result
