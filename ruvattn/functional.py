"""Attention on arrays: validation above, kernels below, and between them the order of what happens to a logit.

    attention ─┬─► attend_plain                     three well-formed arrays and nothing else: microseconds count
               └─► read_call ─► BoundScore, plans ─► kernel.attend ─► Aggregate.finish

    attention_logits, attention_weights             the same, dense: for looking and for ranking
    merge_states                                    results over disjoint keys into one

Order: score → softcap c·tanh(s/c) → bias → mask → softmax → dropout → aggregate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from .aggregates import Aggregate, WeightedSum
from .call import Call, read_call
from .dropout import kept_weights
from .errors import DimensionMismatchError, InvalidInputError
from .isa import load_kernels
from .planning import Plan, plans
from .scores import BoundScore, Dot, Score, head_params, saturated
from .threads import resolve_threads
from .validation import NATIVE_DTYPES, as_array, check_out, clean

__all__ = ["attention", "attention_logits", "attention_weights", "merge_states"]

_kernels: dict[Any, Any] = {}


def _kernel(dtype: np.dtype[Any]) -> Any:
    """Return the kernels for a dtype; loaded when first needed."""
    kernel = _kernels.get(dtype)
    if kernel is None:
        kernel = _kernels[dtype] = load_kernels("ruvattn.kernels.tile", dtype.name)
    return kernel


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
        found = _plain(_kernel(q.dtype).attend_plain, q, k, v, causal, resolve_threads(threads), bool(return_lse))
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
    values = call.v if plain else _linear_values(how, call) if how.linear else call.v
    shape = (*call.lead, call.heads, call.lq)
    target = None
    if out is not None and plain:
        target = check_out(out, _outer(call, (*shape, values.shape[-1])), call.dtype, inputs)
    lse = _empty(shape, call.compute)
    bound = bind_score(as_score(score), call, scale)
    if how.linear:
        direct = _writable_in_place(target, call)
        acc = direct if direct is not None else _empty((*shape, values.shape[-1]), call.compute)
        if plain:
            _run(call, values, bound, acc, lse, None, team)
            result = acc
        else:
            # Without the sinks: then the lse says which rows are empty, and those skip finish.
            _run(replace(call, sinks=None), values, bound, acc, lse, None, team)
            empty = np.isneginf(lse)
            if call.sinks is not None:
                _add_sinks(acc, lse, call.sinks)
            result = _finish(how, acc, empty.ravel(), call)
    else:
        direct = None
        result = _reduce(how, call, bound, lse, team)
    if target is None and out is not None:
        target = check_out(out, _outer(call, result.shape), call.dtype, inputs)
    if direct is None:
        result = _narrowed(result, call.dtype)
        if call.single:
            result = result[0]
    if target is not None:
        if direct is None:
            target[...] = result
        result = target
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
        found = _plain(_kernel(q.dtype).logits_plain, q, k, resolve_threads(threads))
        if found is not None:
            return found
    call = read_call(
        q, k, None, mask=mask, bias=bias, causal=causal, window=window, query_offset=query_offset, key_lengths=key_lengths, softcap=softcap,
    )  # fmt: skip
    logits = _logits(call, bind_score(as_score(score), call, scale), resolve_threads(threads))
    logits = _narrowed(logits, call.dtype)
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
    weights, _, _ = _weights(call, bind_score(as_score(score), call, scale), resolve_threads(threads), 0)
    weights = _narrowed(weights, call.dtype)  # a dropout near 1 multiplies by more than a float16 holds
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
    return _narrowed(acc, _native(accs[0].dtype)), _narrowed(lse, _native(lses[0].dtype))


# --- parts ------------------------------------------------------------------------------------------------------------------------


def as_score(score: Any) -> Score:
    """Return the score that a name or an instance means."""
    if isinstance(score, Score):
        return score
    if isinstance(score, str):
        if score == "dot":
            return Dot()
        from .registry import get_score

        return get_score(score)
    hint = f": pass {score.__name__}(…)" if isinstance(score, type) else ""
    raise InvalidInputError(f"score must be a registered name or a Score, got {score!r}{hint}")


def as_aggregate(aggregate: Any) -> Aggregate:
    """Return the aggregate that a name, an instance or None means."""
    if aggregate is None:
        return WeightedSum()
    if isinstance(aggregate, Aggregate):
        return aggregate
    if isinstance(aggregate, str):
        from .registry import get_aggregate

        return get_aggregate(aggregate)
    hint = f": pass {aggregate.__name__}(…)" if isinstance(aggregate, type) else ""
    raise InvalidInputError(f"aggregate must be a registered name or an Aggregate, got {aggregate!r}{hint}")


SURELY_FINITE = 1e38
"""Below this a number is finite in each compute dtype, and an array need not be made of it to see that."""


def bind_score(score: Score, call: Call, scale: Any) -> tuple[np.ndarray, BoundScore | None]:
    """Return the scale that is folded into the queries, and the bound score; None for the dot product, which is the engine's own."""
    params = head_params(score, call.heads, scale)
    for name, number in params.items():
        if number is None or (type(number) is float and abs(number) < SURELY_FINITE):
            continue
        with np.errstate(over="ignore"):
            if not np.isfinite(np.asarray(number, call.compute)).all():
                raise InvalidInputError(f"{name} must be finite in {call.compute}, in which it is used, got {number!r}")
    if type(score) is Dot:
        value = params["scale"]
        if value is None:
            value = 1 / math.sqrt(call.q.shape[-1])
        elif np.ndim(value) > 1:
            raise DimensionMismatchError(f"scale must be a number or have shape ({call.heads},), one for each head, got shape {np.shape(value)}")
        return np.full(call.heads, value, call.compute), None
    if isinstance(score, Dot) and params["scale"] is None:  # what derives from it has the same default
        params["scale"] = 1 / math.sqrt(call.q.shape[-1])
    return np.ones(call.heads, call.compute), BoundScore(score, call.q, call.k, call.row_positions(), params)


# --- running ----------------------------------------------------------------------------------------------------------------------


def _run(
    call: Call,
    v: np.ndarray,
    bound: tuple[np.ndarray, BoundScore | None],
    out: np.ndarray | None,
    lse: np.ndarray | None,
    logits: np.ndarray | None,
    threads: int,
) -> None:
    """Run the kernel, for all rows at once or for those of one plan after another."""
    if not call.batch or not call.lq:
        return
    kernel = _kernel(call.compute)
    scale, score = bound
    options = {
        "causal": call.causal,
        "left": call.window[0],
        "right": call.window[1],
        "position": call.position,
        "key_length": call.key_length,
        "mask": call.mask,
        "bias": call.bias,
        "softcap": call.softcap,
        "sinks": call.sinks,
        "dropout": call.dropout,
        "seed": call.seed,
        "score": score,
        "logits": logits,
        "threads": threads,
    }
    every: Iterable[Plan | None]
    if call.pattern is None:
        every = (None,)
    else:
        offsets = np.zeros(call.batch, np.int64) if call.position is None else call.position
        every = plans(call.pattern, call.lq, call.lk, call.heads, offsets, kernel.LANES)
    for plan in every:
        # A score in Python sees what is masked, too, and need not warn of it: what matters shows in the result.
        with np.errstate(all="ignore") if score is not None and score.forward is None else nullcontext():
            failed = kernel.attend(call.q, call.k, v, out, lse, scale, plan=plan, **options)
        if failed:
            assert score is not None and score.error is not None
            error, score.error = score.error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame, and the frame would hold it


def _plain(short_way: Any, *arguments: Any) -> Any:
    """Try the kernel's short way."""
    try:
        return short_way(*arguments)
    except ValueError as error:  # NumPy's word for a product beyond the address space
        shapes = ", ".join(str(x.shape) for x in arguments if isinstance(x, np.ndarray))
        raise MemoryError(f"a result for arrays of shapes {shapes} cannot be allocated: {error}") from None


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except ValueError as error:  # a product beyond the address space
        raise MemoryError(f"a result of shape {shape} cannot be allocated: {error}") from None


def _narrowed(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array in the dtype of the result. What is finite stays finite: −inf is for what is masked."""
    if x.dtype == dtype:
        return x
    largest = np.nextafter(dtype.type(np.inf), dtype.type(0)).astype(x.dtype)
    return np.where(np.isfinite(x), np.clip(x, -largest, largest), x).astype(dtype)


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in the byte order of this machine."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _outer(call: Call, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if call.single else shape


def _writable_in_place(out: np.ndarray | None, call: Call) -> np.ndarray | None:
    """Return the caller's array if the kernel can write it as it is."""
    if out is None or out.dtype != call.compute or not out.dtype.isnative or not out.flags.aligned:
        return None
    if (out.strides[-1] != out.itemsize and out.shape[-1] > 1) or any(stride % out.itemsize for stride in out.strides):
        return None
    return out[None] if call.single else out


def _linear_values(how: Aggregate, call: Call) -> np.ndarray:
    name = f"{type(how).__name__}.values"
    values = how.values(call.v)
    if not isinstance(values, np.ndarray) or values.shape[:-1] != call.v.shape[:-1] or values.shape[-1] == 0:
        raise DimensionMismatchError(
            f"{name} must return an array of shape {call.v.shape[:-1]} + (width,), got {getattr(values, 'shape', type(values))}"
        )
    return clean(_real(values, name, call), call.compute)


def _real(found: Any, what: str, call: Call) -> np.ndarray:
    """Return what an aggregate returned as an array that fits the compute dtype."""
    try:
        array = np.asarray(found)
    except ValueError as error:
        raise InvalidInputError(f"{what} returned what is no array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"{what} must return real numbers, got {array.dtype}")
    return saturated(array, call.compute) if array.dtype.itemsize > call.compute.itemsize else array


def _finish(how: Aggregate, acc: np.ndarray, empty: np.ndarray, call: Call) -> np.ndarray:
    """Let an aggregate finish the rows that attend to something; the others are zeros."""
    flat = acc.reshape(-1, acc.shape[-1])
    kept = flat[~empty] if empty.any() else flat
    finished = _real(how.finish(kept), f"{type(how).__name__}.finish", call)
    if finished.ndim != 2 or finished.shape[0] != kept.shape[0]:
        raise DimensionMismatchError(f"{type(how).__name__}.finish must return an array of shape ({kept.shape[0]}, width), got {finished.shape}")
    result = np.zeros((flat.shape[0], finished.shape[-1]), call.compute)
    result[~empty] = finished
    return result.reshape(*acc.shape[:-1], finished.shape[-1])


def _add_sinks(acc: np.ndarray, lse: np.ndarray, sinks: np.ndarray) -> None:
    """Let the sinks join the denominator of sums that were made without them, in place."""
    total = np.logaddexp(lse, sinks[:, None])
    with np.errstate(invalid="ignore"):  # −inf − −inf, of a row without keys or sink
        acc *= np.nan_to_num(np.exp(lse - total))[..., None]
    lse[...] = total


def _logits(call: Call, bound: tuple[np.ndarray, BoundScore | None], threads: int) -> np.ndarray:
    """Return the logits in the compute dtype, or in a wider one where dot products could overflow."""
    if bound[1] is None and _may_overflow(call, bound[0]):
        from . import reference

        position = 0 if call.position is None else call.position.reshape(call.lead)
        return reference.attention_logits(
            call.q, call.k, mask=call.mask if call.pattern is None else call.pattern, bias=call.bias, causal=call.causal, window=call.window,
            query_offset=position, key_lengths=None if call.key_length is None else call.key_length.reshape(call.lead), scale=bound[0],
            softcap=call.softcap or None, precision=np.float64 if call.compute == np.float32 else np.longdouble,
        )  # fmt: skip
    logits = _empty((*call.lead, call.heads, call.lq, call.lk), call.compute)
    logits.fill(-np.inf)
    _run(call, call.v, bound, None, None, logits, threads)
    return logits


def _may_overflow(call: Call, scale: np.ndarray) -> bool:
    """Tell whether finite queries, keys and bias are so large that the logits may not be finite."""
    if not call.q.size or not call.k.size:
        return False
    most = np.float64(np.finfo(call.compute).max) / 4
    if call.bias is not None:
        # −inf masks; the largest of the others counts.
        seen = np.isfinite(call.bias)
        if max(call.bias.max(where=seen, initial=0), -call.bias.min(where=seen, initial=0)) > most:
            return True
    with np.errstate(all="ignore"):
        largest = np.float64(np.abs(call.q).max()) * np.float64(np.abs(call.k).max())
        limit = most / (call.q.shape[-1] * max(1.0, float(np.abs(scale).max())))
    # NaN and infinity are not finite input: they go the usual way.
    return bool(np.isfinite(call.q).all() and np.isfinite(call.k).all() and not largest < limit)


def _weights(call: Call, bound: tuple[np.ndarray, BoundScore | None], threads: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights of all rows of the call, their lse, and which rows may attend to something.

    ``first`` is the index of the call's first row, for the dropout.
    """
    logits = _logits(call, bound, threads)
    sinks = None if call.sinks is None else call.sinks[:, None]
    if call.lk:
        top = logits.max(-1)
    else:
        top = np.full(logits.shape[:-1], -np.inf, logits.dtype)
    if sinks is not None:
        top = np.maximum(top, sinks)
    with np.errstate(all="ignore"):
        reference = np.where(np.isneginf(top), 0, top).astype(logits.dtype)
        masked = np.isneginf(logits)
        some = np.asarray(~masked.all(-1))
        logits -= reference[..., None]
        weights = np.exp(logits, out=logits)
        # What is masked stays 0 even beside NaN.
        weights[masked] = 0
        total = weights.sum(-1, dtype=np.promote_types(weights.dtype, np.float64))
        if sinks is not None:
            total = total + np.exp(np.asarray(sinks, np.float64) - reference)
        lse = np.log(total) + reference
        np.divide(weights, total[..., None], out=weights, where=(total != 0)[..., None], casting="unsafe")
        weights, lse = weights.astype(call.compute, copy=False), lse.astype(call.compute)
    if call.dropout:
        rows = np.arange(first, first + call.lq)
        flat = weights.reshape(call.batch, call.heads, call.lq, call.lk)
        for b in range(call.batch):
            for h in range(call.heads):
                flat[b, h] *= kept_weights(call.dropout, call.seed, b, h, rows, call.lk)
        weights *= call.compute.type(1 / (1 - call.dropout))
    return weights, lse, some


REDUCED = 1 << 22
"""Weights that a nonlinear aggregate is given at once."""


def _reduce(how: Aggregate, call: Call, bound: tuple[np.ndarray, BoundScore | None], lse: np.ndarray, threads: int) -> np.ndarray:
    """Give a nonlinear aggregate the weights of whole rows, as many rows at once as memory allows."""
    step = max(1, REDUCED // max(1, call.lk * call.heads * call.batch))
    group = call.heads // call.k.shape[-3]
    v = call.v.reshape(call.batch, *call.v.shape[-3:])
    result = None
    for first in range(0, call.lq, step):
        part = call.rows(first, min(first + step, call.lq))
        again = bound if bound[1] is None else (bound[0], bound[1].for_rows(part))
        weights, lse[..., first : first + step], seen = _weights(part, again, threads, first)
        weights = weights.reshape(call.batch, call.heads, part.lq, call.lk)
        seen = seen.reshape(call.batch, call.heads, part.lq)
        for b in range(call.batch):
            for h in range(call.heads):
                some = seen[b, h]
                if not some.any():
                    continue
                rows = _real(how.reduce(weights[b, h][some], v[b, h // group]), f"{type(how).__name__}.reduce", call)
                if rows.ndim != 2 or rows.shape[0] != some.sum():
                    raise DimensionMismatchError(f"{type(how).__name__}.reduce must return an array of shape ({some.sum()}, width), got {rows.shape}")
                if result is None:
                    result = np.zeros((call.batch, call.heads, call.lq, rows.shape[-1]), call.compute)
                if rows.shape[-1] != result.shape[-1]:
                    raise DimensionMismatchError(
                        f"{type(how).__name__}.reduce must return one width, got {result.shape[-1]} and then {rows.shape[-1]}"
                    )
                result[b, h, first : first + step][some] = rows
    if result is None:
        # Nothing attends to anything. How wide no rows are tells the width; without keys that of the values is the best guess.
        none = np.zeros((0, call.lk), call.compute)
        width = np.shape(how.reduce(none, v.reshape(-1, *v.shape[-2:])[0]))[-1:] if call.lk and v.size else ()
        result = np.zeros((call.batch, call.heads, call.lq, *(width or call.v.shape[-1:])), call.compute)
    return result.reshape(*call.lead, *result.shape[1:])
