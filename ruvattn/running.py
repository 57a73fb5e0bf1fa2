"""What stands between the public functions and the kernels: parts by name, a call run, and what is done to its result.

    Call, BoundScore ─► run ─┬─► plans ─► kernel.attend            tiles
                             ├─► ruvattn.residues ─► run           patterns of every s-th row and key
                             └─► ruvattn.listed ─► ruvattn.edges   pairs that are few and scattered
    run ─► logits_of ─► weights_of ─► reduce_rows                 dense, for looking and for what needs whole rows
    acc ─► finish, add_sinks, narrowed                            an aggregate's end, and the dtype of the result
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from .aggregates import Aggregate, WeightedSum
from .call import Call, narrower
from .dropout import kept_weights
from .errors import DimensionMismatchError, InvalidInputError
from .isa import KernelsByDtype
from .planning import Plan, plans
from .scores import BoundScore, Dot, Score, head_params, saturated
from .validation import check_out, clean

__all__ = [
    "add_sinks",
    "as_aggregate",
    "as_score",
    "bind_score",
    "empty",
    "finish",
    "handed_over",
    "linear_values",
    "logits_of",
    "may_overflow",
    "narrowed",
    "native",
    "outer",
    "plans_of",
    "real_array",
    "reduce_rows",
    "run",
    "tile_kernels",
    "weights_of",
    "writable_in_place",
]

tile_kernels = KernelsByDtype("ruvattn.kernels.tile")


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


def bind_score(score: Score, call: Call, scale: Any, edge_terms: int = 0) -> tuple[np.ndarray, BoundScore | None]:
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
    return np.ones(call.heads, call.compute), BoundScore(score, call.q, call.k, call.row_positions(), params, edge_terms)


# --- running ----------------------------------------------------------------------------------------------------------------------


def run(
    call: Call,
    v: np.ndarray,
    bound: tuple[np.ndarray, BoundScore | None],
    out: np.ndarray | None,
    lse: np.ndarray | None,
    logits: np.ndarray | None,
    threads: int,
    chosen: np.ndarray | None = None,
    ordered: bool = True,
) -> None:
    """Run the kernel, for all rows at once or for those of one plan after another."""
    if not call.batch or not call.lq:
        return
    kernel = tile_kernels[call.compute]
    scale, score = bound
    if out is not None and lse is not None and call.pattern is not None and score is None:
        from .residues import attend_residues, residues_fit

        if residues_fit(call):
            attend_residues(
                replace(call, sinks=None), v, scale, out, lse,
                lambda own, values, factor, acc, sums: run(own, values, (factor, None), acc, sums, None, threads),
            )  # fmt: skip
            if call.sinks is not None:
                add_sinks(out, lse, call.sinks)
            return
    if out is not None and lse is not None and call.pattern is not None and call.pattern.scattered and (score is None or score.forward is not None):
        from .listed import attend_listed, edge_sets

        sets = edge_sets(call)
        if sets is not None:
            attend_listed(call, sets, v, scale, score, out, lse, threads)
            return
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
        "chosen": chosen,
        "ordered": ordered,
        "threads": threads,
    }
    for plan in plans_of(call, kernel.LANES):
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


def plans_of(call: Call, lanes: int) -> Iterable[Plan | None]:
    """Return the plans for the pattern of a call, one after another; a single None where there is no pattern."""
    if call.pattern is None:
        return (None,)
    offsets = np.zeros(call.batch, np.int64) if call.position is None else call.position
    window = narrower(call.window, (-1, 0)) if call.causal else call.window
    return plans(call.pattern, call.lq, call.lk, call.heads, offsets, lanes, window)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except ValueError as error:  # a product beyond the address space
        raise MemoryError(f"a result of shape {shape} cannot be allocated: {error}") from None


def narrowed(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array in the dtype of the result. What is finite stays finite: −inf is for what is masked."""
    if x.dtype == dtype:
        return x
    largest = np.nextafter(dtype.type(np.inf), dtype.type(0)).astype(x.dtype)
    return np.where(np.isfinite(x), np.clip(x, -largest, largest), x).astype(dtype)


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype in the byte order of this machine."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def outer(call: Call, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if call.single else shape


def writable_in_place(out: np.ndarray | None, call: Call) -> np.ndarray | None:
    """Return the caller's array if the kernel can write it as it is."""
    if out is None or out.dtype != call.compute or not out.dtype.isnative or not out.flags.aligned:
        return None
    if (out.strides[-1] != out.itemsize and out.shape[-1] > 1) or any(stride % out.itemsize for stride in out.strides):
        return None
    return out[None] if call.single else out


def handed_over(
    call: Call, result: np.ndarray, in_place: bool, out: np.ndarray | None, target: np.ndarray | None, inputs: dict[str, Any]
) -> np.ndarray:
    """Return a result as the caller wants it: in the dtype and axes of the call, and in ``out``, if that was given.

    ``target`` is ``out`` where it has been checked already, against ``inputs``; ``in_place``: the kernel has written there.
    """
    if target is None and out is not None:
        target = check_out(out, outer(call, result.shape), call.dtype, inputs)
    if in_place:
        assert target is not None
        return target
    result = narrowed(result, call.dtype)
    if call.single:
        result = result[0]
    if target is None:
        return result
    target[...] = result
    return target


def linear_values(how: Aggregate, call: Call) -> np.ndarray:
    name = f"{type(how).__name__}.values"
    values = how.values(call.v)
    if not isinstance(values, np.ndarray) or values.shape[:-1] != call.v.shape[:-1] or values.shape[-1] == 0:
        raise DimensionMismatchError(
            f"{name} must return an array of shape {call.v.shape[:-1]} + (width,), got {getattr(values, 'shape', type(values))}"
        )
    return clean(real_array(values, name, call), call.compute)


def real_array(found: Any, what: str, call: Call) -> np.ndarray:
    """Return what an aggregate returned as an array that fits the compute dtype."""
    try:
        array = np.asarray(found)
    except ValueError as error:
        raise InvalidInputError(f"{what} returned what is no array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(f"{what} must return real numbers, got {array.dtype}")
    return saturated(array, call.compute) if array.dtype.itemsize > call.compute.itemsize else array


def finish(how: Aggregate, acc: np.ndarray, empty: np.ndarray, call: Call) -> np.ndarray:
    """Let an aggregate finish the rows that attend to something; the others are zeros."""
    flat = acc.reshape(-1, acc.shape[-1])
    kept = flat[~empty] if empty.any() else flat
    finished = real_array(how.finish(kept), f"{type(how).__name__}.finish", call)
    if finished.ndim != 2 or finished.shape[0] != kept.shape[0]:
        raise DimensionMismatchError(f"{type(how).__name__}.finish must return an array of shape ({kept.shape[0]}, width), got {finished.shape}")
    result = np.zeros((flat.shape[0], finished.shape[-1]), call.compute)
    result[~empty] = finished
    return result.reshape(*acc.shape[:-1], finished.shape[-1])


def add_sinks(acc: np.ndarray, lse: np.ndarray, sinks: np.ndarray) -> None:
    """Let the sinks join the denominator of sums that were made without them, in place."""
    total = np.logaddexp(lse, sinks[:, None])
    with np.errstate(invalid="ignore"):  # −inf − −inf, of a row without keys or sink
        acc *= np.nan_to_num(np.exp(lse - total))[..., None]
    lse[...] = total


def logits_of(call: Call, bound: tuple[np.ndarray, BoundScore | None], threads: int) -> np.ndarray:
    """Return the logits in the compute dtype, or in a wider one where dot products could overflow."""
    if bound[1] is None and may_overflow(call, bound[0]):
        from . import reference

        position = 0 if call.position is None else call.position.reshape(call.lead)
        return reference.attention_logits(
            call.q, call.k, mask=call.mask if call.pattern is None else call.pattern, bias=call.bias, causal=call.causal, window=call.window,
            query_offset=position, key_lengths=None if call.key_length is None else call.key_length.reshape(call.lead), scale=bound[0],
            softcap=call.softcap or None, precision=np.float64 if call.compute == np.float32 else np.longdouble,
        )  # fmt: skip
    logits = empty((*call.lead, call.heads, call.lq, call.lk), call.compute)
    logits.fill(-np.inf)
    run(call, call.v, bound, None, None, logits, threads)
    return logits


def may_overflow(call: Call, scale: np.ndarray) -> bool:
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


def weights_of(call: Call, bound: tuple[np.ndarray, BoundScore | None], threads: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights of all rows of the call, their lse, and which rows may attend to something.

    ``first`` is the index of the call's first row, for the dropout.
    """
    logits = logits_of(call, bound, threads)
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


def reduce_rows(how: Aggregate, call: Call, bound: tuple[np.ndarray, BoundScore | None], lse: np.ndarray, threads: int) -> np.ndarray:
    """Give a nonlinear aggregate the weights of whole rows, as many rows at once as memory allows."""
    step = max(1, REDUCED // max(1, call.lk * call.heads * call.batch))
    group = call.heads // call.k.shape[-3]
    v = call.v.reshape(call.batch, *call.v.shape[-3:])
    of_head = [how.for_head(h // group) for h in range(call.heads)]
    result = None
    for first in range(0, call.lq, step):
        part = call.rows(first, min(first + step, call.lq))
        again = bound if bound[1] is None else (bound[0], bound[1].for_rows(part))
        weights, lse[..., first : first + step], seen = weights_of(part, again, threads, first)
        weights = weights.reshape(call.batch, call.heads, part.lq, call.lk)
        seen = seen.reshape(call.batch, call.heads, part.lq)
        for b in range(call.batch):
            for h in range(call.heads):
                some = seen[b, h]
                if not some.any():
                    continue
                rows = real_array(of_head[h].reduce(weights[b, h][some], v[b, h // group]), f"{type(how).__name__}.reduce", call)
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
        width = np.shape(of_head[0].reduce(none, v.reshape(-1, *v.shape[-2:])[0]))[-1:] if call.lk and v.size else ()
        result = np.zeros((call.batch, call.heads, call.lq, *(width or call.v.shape[-1:])), call.compute)
    return result.reshape(*call.lead, *result.shape[1:])
