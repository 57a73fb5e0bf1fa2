"""Attention on arrays: validation above, kernels below, and between them the order of what happens to a logit.

    attention ─┬─► attend_plain                     three well-formed arrays and nothing else: microseconds count
               └─► read_call ─► BoundScore ─┬─► plans ─► kernel.attend ─┬─► Aggregate.finish
                                            └─► ruvattn.listed ─────────┘   pairs that are few and scattered

    attention_logits, attention_weights             the same, dense: for looking and for ranking
    merge_states                                    results over disjoint keys into one

Order: score → softcap c·tanh(s/c) → bias → mask → softmax → dropout → aggregate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .aggregates import WeightedSum
from .call import read_call
from .errors import DimensionMismatchError, InvalidInputError
from .running import (
    add_sinks,
    as_aggregate,
    as_score,
    bind_score,
    empty,
    finish,
    handed_over,
    linear_values,
    logits_of,
    narrowed,
    native,
    outer,
    reduce_rows,
    run,
    tile_kernels,
    weights_of,
    writable_in_place,
)
from .threads import resolve_threads
from .validation import NATIVE_DTYPES, as_array, check_out

__all__ = ["attention", "attention_logits", "attention_weights", "merge_states"]


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
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
    return_lse: bool = False,
    out: np.ndarray | None = None,
    threads: int | None = None,
) -> Any:
    """Attention of queries over keys and values.

    ``out[i] = aggregate_j softmax_j(score(q[i], k[j]) + bias[i, j]) · v[j]`` over the keys j that row i may see (Vaswani et al., 2017; the
    streaming softmax is Milakov and Gimelshein, 2018). No array of Lq × Lk is made.

    Parameters
    ----------
    q : array, (..., Hq, Lq, D)
        Queries. Arrays of two axes are one head. float32, float64, float16 or bfloat16 (ml_dtypes); the last two compute in float32.
    k : array, (..., Hk, Lk, D)
        Keys. Hk divides Hq; each key head serves Hq/Hk query heads and isn't copied.
    v : array, (..., Hk, Lk, Dv)
        Values. q, k and v share one dtype and their leading axes.
    score : str or Score, default "dot"
        What a logit is: a registered name, or an instance.
    aggregate : str or Aggregate, optional
        How values combine; the weighted sum when not given.
    mask : array of bool, scipy.sparse array or Pattern, optional
        True = attend; broadcast to (..., Hq, Lq, Lk). In a sparse array, (Lq, Lk) or (Hq, Lq, Lk), every stored entry attends.
    bias : array, optional
        Added to the logits; broadcast to (..., Hq, Lq, Lk). −inf masks. In the dtype of q or the compute dtype.
    causal : bool, default False
        Key j is seen from position j on.
    window : (int, int), optional
        position − left ≤ j ≤ position + right; −1 is unbounded.
    query_offset : int, array of int or "end", default 0
        Row i stands at position i + query_offset: one number, or one for each batch entry; "end" is the number of valid keys − Lq.
    key_lengths : int or array of int, optional
        How many keys are valid, for each batch entry. Masks, causal, window and key_lengths are ANDed.
    scale : float or array of shape (Hq,), optional
        The score's parameter ``scale``; 1/√D by default for "dot".
    softcap : float, optional
        c > 0: logits become c·tanh(s/c).
    sinks : array, (Hq,), optional
        A logit a head that joins the denominator only.
    dropout : float, default 0
        Share of the weights to drop, in [0, 1); the others are multiplied by 1/(1 − dropout).
    seed : int, optional
        Of the dropout, from 0 to 2⁶⁴ − 1; a random one when not given.
    return_lse : bool, default False
        Whether to return the log-sum-exp of each row too.
    out : ndarray, optional
        Where to write the result; may overlap no input.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default. Results are the same to the bit for any number.

    Returns
    -------
    out : ndarray, (..., Hq, Lq, Dv)
        In the dtype of q. A row that may attend to nothing is zero.
    lse : ndarray, (..., Hq, Lq)
        Only with ``return_lse``: natural log, compute dtype, sinks included; −inf for a row that may attend to nothing.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense.
    UnsupportedError
        If a dtype is none of the four.
    UnknownVariantError
        If a score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 8, 128, 64), dtype=np.float32)
    >>> ruvattn.attention(q, k, v, causal=True).shape
    (8, 128, 64)
    """
    if (
        mask is None
        and bias is None
        and window is None
        and key_lengths is None
        and scale is None
        and out is None
        and sinks is None
        and softcap is None
        and aggregate is None
        and type(q) is np.ndarray
        and q.dtype in NATIVE_DTYPES
        and q.size
        and isinstance(score, str)
        and score == "dot"
        and type(query_offset) is int
        and query_offset == 0
        and isinstance(dropout, float)
        and dropout == 0.0
        and seed is None
        and (causal is True or causal is False)
    ):
        found = _plain(tile_kernels[q.dtype].attend_plain, q, k, v, causal, resolve_threads(threads), bool(return_lse))
        if found is not None:
            return found
    if v is None:  # which read_call takes for a call without values
        v = as_array(v, "v")
    call = read_call(
        q, k, v, mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset, key_lengths=key_lengths,
        softcap=softcap, sinks=sinks, dropout=dropout, seed=seed,
    )  # fmt: skip
    team = resolve_threads(threads)
    how = as_aggregate(aggregate)
    inputs = {}
    if out is not None:
        inputs = {"q": q, "k": k, "v": v, "mask": mask, "bias": bias, "sinks": sinks, "scale": scale}
        for name, used in (("q", call.q), ("k", call.k), ("v", call.v), ("mask", call.mask), ("bias", call.bias)):
            if not isinstance(inputs[name], np.ndarray):  # a buffer or a BoolMask, whose memory is its owner's all the same
                inputs[name] = used
    plain = type(how) is WeightedSum
    values = call.v if plain else linear_values(how, call) if how.linear else call.v
    shape = (*call.lead, call.heads, call.lq)
    target = None
    if out is not None and plain:
        target = check_out(out, outer(call, (*shape, values.shape[-1])), call.dtype, inputs)
    lse = empty(shape, call.compute)
    bound = bind_score(as_score(score), call, scale)
    if how.linear:
        direct = writable_in_place(target, call)
        acc = direct if direct is not None else empty((*shape, values.shape[-1]), call.compute)
        if plain:
            run(call, values, bound, acc, lse, None, team)
            result = acc
        else:
            # Without the sinks: then the lse says which rows are empty, and those skip finish.
            run(replace(call, sinks=None), values, bound, acc, lse, None, team)
            without = np.isneginf(lse)
            if call.sinks is not None:
                add_sinks(acc, lse, call.sinks)
            result = finish(how, acc, without.ravel(), call)
    else:
        direct = None
        result = reduce_rows(how, call, bound, lse, team)
    result = handed_over(call, result, direct is not None, out, target, inputs)
    if not return_lse:
        return result
    return result, (lse[0] if call.single else lse)


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
    threads: int | None = None,
) -> np.ndarray:
    """Return the logits, dense: score, softcap and bias, −inf where masked. For looking, and for ranking.

    Parameters
    ----------
    q : array, (..., Hq, Lq, D)
        Queries.
    k : array, (..., Hk, Lk, D)
        Keys.
    score, mask, bias, causal, window, query_offset, key_lengths, scale, softcap, threads : optional
        As for `attention`.

    Returns
    -------
    ndarray, (..., Hq, Lq, Lk)
        In the dtype of q; (Lq, Lk) for arrays of two axes.

    Raises
    ------
    AttentionError
        As for `attention`.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q = np.eye(2, dtype=np.float32)
    >>> ruvattn.attention_logits(q, 3 * q, scale=1.0, causal=True)
    array([[  3., -inf],
           [  0.,   3.]], dtype=float32)
    """
    if (
        mask is None and bias is None and causal is False and window is None and key_lengths is None and scale is None and softcap is None
        and isinstance(score, str) and score == "dot" and type(query_offset) is int and query_offset == 0
        and type(q) is np.ndarray and q.dtype in NATIVE_DTYPES and q.size
    ):  # fmt: skip
        found = _plain(tile_kernels[q.dtype].logits_plain, q, k, resolve_threads(threads))
        if found is not None:
            return found
    call = read_call(
        q, k, None, mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset, key_lengths=key_lengths, softcap=softcap,
    )  # fmt: skip
    logits = logits_of(call, bind_score(as_score(score), call, scale), resolve_threads(threads))
    logits = narrowed(logits, call.dtype)
    return logits[0] if call.single else logits


def attention_weights(
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
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Return the weights, dense: the softmax of `attention_logits`, after dropout. For looking, and for ranking.

    Parameters
    ----------
    q : array, (..., Hq, Lq, D)
        Queries.
    k : array, (..., Hk, Lk, D)
        Keys.
    score, mask, bias, causal, window, query_offset, key_lengths, scale, softcap, sinks, dropout, seed, threads : optional
        As for `attention`.

    Returns
    -------
    ndarray, (..., Hq, Lq, Lk)
        In the dtype of q; (Lq, Lk) for arrays of two axes. Rows sum to 1, with a sink to less; a row that may attend to nothing is zero.

    Raises
    ------
    AttentionError
        As for `attention`.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q = np.eye(2, dtype=np.float32)
    >>> ruvattn.attention_weights(q, q, scale=0.0)
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    call = read_call(
        q, k, None, mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset, key_lengths=key_lengths,
        softcap=softcap, sinks=sinks, dropout=dropout, seed=seed,
    )  # fmt: skip
    weights, _, _ = weights_of(call, bind_score(as_score(score), call, scale), resolve_threads(threads), 0)
    weights = narrowed(weights, call.dtype)  # a dropout near 1 multiplies by more than a float16 holds
    return weights[0] if call.single else weights


def merge_states(accs: Sequence[Any], lses: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Merge the results of attention over disjoint sets of keys into the result over all of them.

    ``lse = log Σ exp(lse_s)`` and ``acc = Σ exp(lse_s − lse) · acc_s`` (Dao et al., 2023, "Flash-Decoding").

    Parameters
    ----------
    accs : sequence of array, each (..., L, Dw)
        Outputs of `attention`; of an aggregate, the weighted sums before its finish.
    lses : sequence of array, each (..., L)
        Their log-sum-exps. A sink must be in one of them only.

    Returns
    -------
    acc : ndarray, (..., L, Dw)
        In the dtype of `accs`.
    lse : ndarray, (..., L)
        In the dtype of `lses`; −inf where no part had a key.

    Raises
    ------
    InvalidInputError
        If there is nothing to merge or a dtype doesn't fit.
    DimensionMismatchError
        If shapes don't fit.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 8))
    >>> parts = [ruvattn.attention(q, k[s], v[s], return_lse=True) for s in (slice(0, 1), slice(1, 4))]
    >>> acc, lse = ruvattn.merge_states(*zip(*parts))
    >>> bool(np.allclose(acc, ruvattn.attention(q, k, v)))
    True
    """
    for name, parts in (("accs", accs), ("lses", lses)):
        if not isinstance(parts, Iterable):
            raise InvalidInputError(f"{name} must be a sequence of arrays, got {type(parts).__name__}")
    accs = [as_array(acc, f"accs[{i}]") for i, acc in enumerate(accs)]
    lses = [as_array(lse, f"lses[{i}]") for i, lse in enumerate(lses)]
    if not accs or len(accs) != len(lses):
        raise InvalidInputError(f"accs and lses must hold the same number of parts, at least one, got {len(accs)} and {len(lses)}")
    for i, (acc, lse) in enumerate(zip(accs, lses, strict=True)):
        if acc.ndim < 1:
            raise DimensionMismatchError(f"accs[{i}] must have at least the axis of its values, got shape {acc.shape}")
        if acc.shape != accs[0].shape:
            raise DimensionMismatchError(f"accs[{i}] must have the shape of accs[0], {accs[0].shape}, got {acc.shape}")
        if lse.shape != acc.shape[:-1]:
            raise DimensionMismatchError(f"lses[{i}] must have the shape of accs[{i}] without its last axis, {acc.shape[:-1]}, got {lse.shape}")
        if acc.dtype != accs[0].dtype or lse.dtype != lses[0].dtype:
            raise InvalidInputError(
                f"parts must share their dtypes, got {acc.dtype} and {lse.dtype} in part {i}, {accs[0].dtype} and {lses[0].dtype} in part 0"
            )
    stacked = np.stack(lses).astype(np.float64)
    top = stacked.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where no part had a key, −inf − −inf would be NaN, and any finite reference gives 0.
        reference = np.where(np.isneginf(top), 0.0, top)
        shares = np.exp(stacked - reference)
        total = shares.sum(0)
        shares = np.where(total > 0, shares / total, np.where(np.isnan(total), np.nan, 0.0))
        lse = np.log(total) + reference
    acc = np.zeros(accs[0].shape, np.float64)
    for share, part in zip(shares, accs, strict=True):
        # A part without a key has no say, even if it holds NaN.
        with np.errstate(invalid="ignore"):
            acc += np.where(share[..., None] == 0, 0.0, share[..., None] * np.asarray(part, np.float64))
    return narrowed(acc, native(accs[0].dtype)), narrowed(lse, native(lses[0].dtype))


def _plain(short_way: Any, *arguments: Any) -> Any:
    """Try the kernel's short way."""
    try:
        return short_way(*arguments)
    except ValueError as error:  # NumPy's word for a product beyond the address space
        shapes = ", ".join(str(x.shape) for x in arguments if isinstance(x, np.ndarray))
        raise MemoryError(f"a result for arrays of shapes {shapes} cannot be allocated: {error}") from None
