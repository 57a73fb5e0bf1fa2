"""Gradients of `ruvattn.attention`, from its output and log-sum-exp: no array of Lq × Lk is kept between the two, or made.

    attention_backward ─► read_call, Upstream ─► values, finish_vjp of the aggregate
                              ├─► kernel.attend_backward              tiles once more, five products each (kernels/tile_backward.pyx)
                              ├─► ruvattn.residues ─► the same        patterns of every s-th row and key
                              ├─► ruvattn.edges_backward              pairs that are few and scattered
                              └─► ruvattn.backward_rows               NumPy, blocks of whole rows: scores in Python, aggregates that don't stream
                          ─► row_terms_vjp, col_terms_vjp, values_vjp ─► a dict of gradients

With P = exp(s − lse), the weights of a row, and D = dout · out − dlse, the gradient of a logit is P (dout · v − D) (Dao et al., 2022,
"FlashAttention", appendix B.4). A sink is a key without a value: its gradient is −P_sink D.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .aggregates import Aggregate, WeightedSum
from .backward_rows import add_again, add_reduced, add_rows, without_unseen
from .call import Call, read_bias, read_call
from .gradient_sums import (
    ARRAYS,
    Sums,
    Upstream,
    finish_gradient,
    gradients_as_asked,
    named_gradients,
    per_head,
    read_as_given,
    read_wrt,
    real_gradient,
    require_seed,
    sinks_gradient,
)
from .isa import KernelsByDtype
from .residues import residue_parts, residues_fit
from .running import add_sinks, as_aggregate, as_score, bind_score, empty, linear_values, plans_of, run
from .scores import BoundScore, Dot, Score, head_params
from .threads import resolve_threads
from .validation import as_array

__all__ = ["attention_backward", "backward_kernels"]

backward_kernels = KernelsByDtype("ruvattn.kernels.tile_backward")

FEW_ROWS = 8
"""Rows of a key head for which the forward kernels may have a way of their own (kernels/few.pxd), and some more."""


def attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    dlse: Any = None,
    wrt: Iterable[str] = ARRAYS,
    score: Any = "dot",
    aggregate: Any = None,
    mask: Any = None,
    bias: Any = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    query_offset: Any = 0,
    key_lengths: Any = None,
    scale: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Gradients of a call of `attention`, given that of its output.

    The weights are made again, tile by tile, from queries, keys and ``lse`` (Dao et al., 2022, "FlashAttention", algorithm 4), so that memory is
    linear in the lengths. A row that may attend to nothing has gradients of zero, and what is masked has no part in any.

    Parameters
    ----------
    dout : array, (..., Hq, Lq, Do)
        Gradient of the loss by the output.
    q, k, v : array
        What `attention` was given.
    out : array, (..., Hq, Lq, Do)
        What it returned.
    lse : array, (..., Hq, Lq)
        What it returned with ``return_lse``, in the compute dtype.
    dlse : array, (..., Hq, Lq), optional
        Gradient of the loss by the log-sum-exp, if that was used.
    wrt : iterable of str, default ("q", "k", "v")
        What gradients are wanted of: "q", "k", "v", "bias", "sinks", "score.<parameter>", such as "score.scale" for dot products, and
        "aggregate.<parameter>".
    score, aggregate, mask, bias, causal, window, query_offset, key_lengths, scale, softcap, sinks : optional
        As they were for `attention`.
    dropout : float, default 0
        As it was for `attention`.
    seed : int, optional
        As it was for `attention`; a dropout needs it.
    threads : int, optional
        How many threads to use at most. Results are the same to the bit for any number.

    Returns
    -------
    dict of str to ndarray
        A gradient for each name in ``wrt``. Those of q, k and v have their shapes and dtype. The others are in the compute dtype: that of the bias
        has its shape, with sums over what it was broadcast along; that of the sinks is (Hq,); that of a parameter has the parameter's shape.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense, or ``wrt`` names what the call has not.
    UnsupportedError
        If the score or the aggregate has no gradient.
    UnknownVariantError
        If a score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 8, 128, 64), dtype=np.float32)
    >>> out, lse = ruvattn.attention(q, k, v, causal=True, return_lse=True)
    >>> gradients = ruvattn.attention_backward(2 * out, q, k, v, out, lse, causal=True)  # of the sum of the squares of out
    >>> sorted(gradients), gradients["k"].shape
    (['k', 'q', 'v'], (8, 128, 64))
    """
    call = read_call(
        q, k, as_array(v, "v"), mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset, key_lengths=key_lengths,
        softcap=softcap, sinks=sinks, dropout=dropout, seed=seed,
    )  # fmt: skip
    require_seed(call, seed)
    team = resolve_threads(threads)
    rule, how = as_score(score), as_aggregate(aggregate)
    options = [name for name, given in (("bias", call.bias), ("sinks", call.sinks)) if given is not None]
    names = read_wrt(wrt, options, rule.params, how.params)
    if "bias" in names:
        call.bias = _own_bias(bias, call)
    upstream = _read_upstream(dout, out, lse, dlse, call, how)
    if call.pattern is not None and call.pattern.scattered and how.linear and "bias" not in names and (call.position is None or type(rule) is Dot):
        from .listed import listed_edges

        pairs = listed_edges(call)
        if pairs is not None:
            from .edges_backward import edge_attention_backward

            return edge_attention_backward(
                dout, q, k, v, pairs[0], None, out, lse, dlse=dlse, wrt=names, score=rule, aggregate=how, bias=pairs[1], scale=scale, softcap=softcap,
                sinks=sinks, dropout=dropout, seed=seed, threads=team,
            )  # fmt: skip
    found = differentiate(call, upstream, rule, how, scale, names, team)
    return gradients_as_asked(found, names, call, {"bias": np.shape(bias)})


# --- reading ------------------------------------------------------------------------------------------------------------------------


def _read_upstream(dout: Any, out: Any, lse: Any, dlse: Any, call: Call, how: Aggregate) -> Upstream:
    rows = (*call.lead, call.heads, call.lq)
    made = read_as_given(out, "out", call, (*rows, call.v.shape[-1] if type(how) is WeightedSum else None))
    return Upstream(
        read_as_given(dout, "dout", call, made.shape), made, np.ascontiguousarray(read_as_given(lse, "lse", call, rows)),
        None if dlse is None else read_as_given(dlse, "dlse", call, rows),
    )  # fmt: skip


def _own_bias(bias: Any, call: Call) -> np.ndarray | None:
    """The bias of a call whose gradient is wanted: what its owner has repeated by strides of 0 (``np.broadcast_to``) are numbers of their own."""
    given = np.asarray(bias)
    if not any(n > 1 and not stride for n, stride in zip(given.shape, given.strides, strict=True)):
        return call.bias
    return read_bias(np.array(given, order="C"), call, (call.lq, call.lk), "Lq, Lk", "pass those as mask=")


# --- from the output to the inputs --------------------------------------------------------------------------------------------------


def differentiate(
    call: Call, upstream: Upstream, rule: Score, how: Aggregate, scale: Any, names: Sequence[str], threads: int
) -> dict[str, np.ndarray]:
    """Return the gradients of a call, in the compute dtype, with an axis of heads.

    Parameters
    ----------
    call : Call
        The call.
    upstream : Upstream
        What comes from above.
    rule, how : Score, Aggregate
        Its parts.
    scale : object
        The argument ``scale``.
    names : sequence of str
        What gradients are wanted of.
    threads : int
        How many threads to use at most.

    Returns
    -------
    dict of str to ndarray
        Those of the bias with 1 along what it was broadcast along.
    """
    bound = bind_score(rule, call, scale)
    found: dict[str, np.ndarray] = {}
    parts: list[dict[str, Any]] = []
    if how.linear:
        plain = type(how) is WeightedSum
        values = call.v if plain else linear_values(how, call)
        inner, seen = (upstream, None) if plain else _finish_vjp(call, values, bound, how, upstream, threads)
        summed = replace(call, v=values)
        sums = Sums.of(summed, bound[1], "bias" in names)
        sums.delta = row_products(inner.dout, inner.out, threads)
        if upstream.dlse is not None:
            sums.delta -= upstream.dlse
        add_gradients(summed, inner, bound, sums, threads)
        found["v"] = sums.dv
        v = call.v
        if not plain:
            v, unseen = without_unseen(call.v, (sums.dv != 0).any(-1))
            found["v"] = real_gradient(how.values_vjp(v, sums.dv), v.shape, f"{type(how).__name__}.values_vjp", call)
            if unseen is not None:
                found["v"][unseen] = 0
        if seen is not None and any(name.startswith("aggregate.") for name in names):
            flat, above = inner.out.reshape(-1, inner.out.shape[-1]), upstream.dout.reshape(-1, upstream.dout.shape[-1])
            parts = [how.values_params_vjp(v, sums.dv), how.finish_params_vjp(flat[seen], above[seen])]
    else:
        sums = Sums.of(call, bound[1], "bias" in names)
        with_params = any(name.startswith("aggregate.") for name in names)
        parts = add_reduced(call, upstream, bound, how, sums, threads, with_params)
        found["v"] = sums.dv
    found.update(named_gradients("aggregate", how.params, parts, call))
    found.update(named_gradients("score", head_params(rule, call.heads, scale), _score_params(sums, call, bound, names), call))
    found["q"], found["k"] = sums.dq, sums.dk
    if sums.dbias is not None:
        found["bias"] = sums.dbias
    if call.sinks is not None:
        found["sinks"] = sinks_gradient(call.sinks, upstream.lse, sums.delta)
    return found


def row_products(a: np.ndarray, b: np.ndarray, threads: int) -> np.ndarray:
    """Return Σ a·b along the last axis of arrays (..., H, L, D), added up in float64, in their dtype."""
    found = np.empty(a.shape[:-1], a.dtype)
    backward_kernels[a.dtype].deltas(a, b, found, threads)
    return found


def add_gradients(call: Call, upstream: Upstream, bound: tuple[np.ndarray, BoundScore | None], sums: Sums, threads: int) -> None:
    """Add the gradients of a call whose values are summed: by tiles, and in NumPy what tiles can't do or have left infinite."""
    score = bound[1]
    if not call.batch or not call.lq or not call.lk:
        return
    if (score is not None and score.vjp() is None) or not np.all(bound[0]):
        add_rows(call, upstream, bound, sums, threads)
        return
    bad = _add_tiles(call, upstream, bound, sums, threads)
    bad |= _misjudged(call, upstream.lse).reshape(*bad.shape, -1).any(-1)
    if bad.any():
        add_again(call, upstream, bound, sums, bad, threads)


def _misjudged(call: Call, lse: np.ndarray) -> np.ndarray:
    """Tell of which rows (..., Hq, Lq) tiles would make other weights than the forward pass did, without a trace of it in the result."""
    kind = np.finfo(call.compute)
    # Where even the largest logit is beyond the dtype, a tile has all of them as −∞, as if they were masked.
    far = lse < kind.min / 4
    few = call.heads // call.k.shape[-3] * call.lq <= FEW_ROWS
    if few or (call.pattern is not None and call.pattern.scattered):
        # The forward pass adds up its dot products in another order: a logit of 1e6 may well be off by 1, and its weight by a factor of e.
        far |= np.abs(lse) > 2.0**-15 / kind.eps
    return far & ~np.isneginf(lse)


def _add_tiles(call: Call, upstream: Upstream, bound: tuple[np.ndarray, BoundScore | None], sums: Sums, threads: int) -> np.ndarray:
    """Add what tiles make of a call; return for which key heads that isn't finite, (batch, Hk)."""
    score = bound[1]
    bad = np.zeros((call.batch, call.k.shape[-3]), np.uint8)
    if not call.batch or not call.lq or not call.lk:
        return bad != 0
    if call.pattern is not None and score is None and sums.dbias is None and residues_fit(call):
        # The parts share what the rows have in common, so that what each adds is exact by itself.
        group = call.heads // call.k.shape[-3]
        for own, heads, of_rows, of_keys in residue_parts(call):
            delta, lse = (np.ascontiguousarray(of_rows(x[..., None])[..., 0]) for x in (sums.delta, upstream.lse))
            part = Sums(of_rows(sums.dq), of_keys(sums.dk), of_keys(sums.dv), delta, None)
            above = Upstream(of_rows(upstream.dout), of_rows(upstream.out), lse, None)
            found = _add_tiles(own, above, (np.ascontiguousarray(bound[0][heads]), None), part, threads)
            first = 0 if heads.start is None else heads.start // group
            bad[:, first : first + found.shape[1]] |= found.reshape(call.batch, -1, found.shape[1]).any(1)
        return bad != 0
    vjp = None if score is None else score.vjp()
    dbias = None if sums.dbias is None else np.broadcast_to(sums.dbias, call.bias.shape)  # type: ignore[union-attr]
    kernel = backward_kernels[call.compute]
    for plan in plans_of(call, kernel.LANES):
        found = kernel.attend_backward(
            call.q, call.k, call.v, upstream.dout, upstream.lse, sums.delta, sums.dq, sums.dk, sums.dv, bad, bound[0], causal=call.causal,
            left=call.window[0], right=call.window[1], position=call.position, key_length=call.key_length, mask=call.mask, bias=call.bias,
            softcap=call.softcap, dropout=call.dropout, seed=call.seed, plan=plan, score=score, vjp=vjp, dbias=dbias, threads=threads,
        )  # fmt: skip
        if found is not None:
            first, count = (0, call.lq) if plan is None else (plan.first, plan.rows)
            for total, added in zip(sums.drows, found[0], strict=True):
                total[..., first : first + count] += added.reshape(*call.lead, call.heads, count)
            for total, added in zip(sums.dcols, found[1], strict=True):
                total += added
            sums.dparams += found[2]
            # terms may carry what is masked where q, k and v are finite
            with np.errstate(all="ignore"):  # ∞ − ∞
                if not all(np.isfinite(x.sum(dtype=np.float64)) for x in (found[0], *found[1], found[2])):
                    bad[...] = 1
    return bad != 0


def _finish_vjp(
    call: Call, values: np.ndarray, bound: tuple[np.ndarray, BoundScore | None], how: Aggregate, upstream: Upstream, threads: int
) -> tuple[Upstream, np.ndarray]:
    """Return the weighted sums of a linear aggregate with their gradient, and which rows, flat, attend to something."""
    acc = empty((*call.lead, call.heads, call.lq, values.shape[-1]), call.compute)
    lse = empty(acc.shape[:-1], call.compute)
    run(replace(call, sinks=None), values, bound, acc, lse, None, threads)
    seen = ~np.isneginf(lse).ravel()
    if call.sinks is not None:
        add_sinks(acc, lse, call.sinks)
    return replace(upstream, dout=finish_gradient(how, acc, seen, upstream.dout, call), out=acc), seen


def _score_params(sums: Sums, call: Call, bound: tuple[np.ndarray, BoundScore | None], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the gradients of the score's parameters, each (Hq, …), and add what reaches queries and keys through its terms."""
    scale, score = bound
    if score is None:
        if "score.scale" not in names:
            return []
        # Each row of dq is scale · Σ dlogit · k: its product with q is scale times what the scale gets from that row.
        products = row_products(sums.dq.astype(np.float64), call.q.astype(np.float64), 1)
        if not np.isfinite(products).all():
            products[~sums.dq.any(-1)] = 0  # rows that see nothing may hold anything
        return [{"scale": np.where(scale == 0, sums.dscale, per_head(products) / np.where(scale == 0, 1, scale))}]
    parts = score.split_params(sums.dparams)
    for dx, dterms, side in ((sums.dq, sums.drows, "row"), (sums.dk, sums.dcols, "col")):
        if dterms:
            gradient, dparams = score.terms_vjp(side, dterms)
            dx += gradient
            parts.append(dparams)
    return parts
