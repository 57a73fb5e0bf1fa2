"""The checks of aggregates: the maps of a linear one or the reduction of another, their derivatives, and both as a part of calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional
from ..aggregates import Aggregate
from ..errors import UnsupportedError
from . import parts
from .cases import accuracy_bounds, case, require, require_close, require_gradient, require_same_bits, sample
from .parts import WIDTHS, Part, some_mask
from .runner import CheckList, NotApplicable
from .trial import drawn, limited

CHECKS = CheckList("aggregate")

LENGTHS = (1, 2, 6, 19)
"""Numbers of values that are tried."""


def _part(aggregate: Aggregate) -> Part:
    """Return the calls that an aggregate fits into."""
    only = getattr(aggregate, "conformance_widths", None)
    heads = getattr(aggregate, "conformance_heads", None)
    return Part(aggregate, "aggregate", value_widths=_widths(aggregate), only_value_widths=only, key_heads=heads)


def _widths(aggregate: Aggregate) -> tuple[int, ...]:
    only = getattr(aggregate, "conformance_widths", None)
    return tuple(limited("value_width", width, only) for width in only or WIDTHS)


def _lengths() -> tuple[int, ...]:
    return tuple(dict.fromkeys(limited("keys", n) for n in LENGTHS))


def _values(aggregate: Aggregate, shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    return sample(aggregate, "value", shape, dtype, seed)


def _weights(m: int, n: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).random((m, n)) + 0.1
    return drawn("weights", (weights / weights.sum(-1, keepdims=True)).astype(dtype))


def _aggregated(aggregate: Aggregate, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the outputs of rows of weights, without the engine."""
    if aggregate.linear:
        return np.asarray(aggregate.finish(weights @ aggregate.values(v)))
    return np.asarray(aggregate.reduce(weights, v))


def _require_linear(aggregate: Aggregate, linear: bool) -> None:
    if aggregate.linear != linear:
        raise NotApplicable("it is linear: it has values and finish" if aggregate.linear else "it is not linear: it has reduce")


def _overrides(aggregate: Aggregate, name: str) -> bool:
    return getattr(type(aggregate), name) is not getattr(Aggregate, name)


# --- what it declares -------------------------------------------------------------------------------------------------


@CHECKS
def declaration(aggregate: Aggregate) -> None:
    """A linear aggregate has values and finish, another one reduce, and no one both."""
    require(isinstance(aggregate.linear, bool), f"linear must be True or False, got {aggregate.linear!r}")
    if aggregate.linear:
        require(not _overrides(aggregate, "reduce"), "reduce is never called where linear is True: set it to False, or leave reduce out")
    else:
        require(_overrides(aggregate, "reduce"), "an aggregate that is not linear must have reduce(weights, v)")
        for name in ("values", "finish"):
            require(not _overrides(aggregate, name), f"{name} is never called where linear is False: set it to True, or leave {name} out")
    require(isinstance(repr(aggregate), str), "repr must work")


@CHECKS
def heads_are_what_they_are_alone(aggregate: Aggregate) -> None:
    """for_head(h) is an aggregate of the same kind, and makes of head h what the aggregate makes of it among others."""
    heads, width = getattr(aggregate, "conformance_heads", None) or 3, _widths(aggregate)[-1]
    queries, keys = limited("queries", 5), limited("keys", 6)
    v, weights = _values(aggregate, (heads, keys, width)), _weights(queries, keys)
    for head in range(heads):
        with case(head=head, v=v):
            one = aggregate.for_head(head)
            require(isinstance(one, Aggregate), f"for_head must return an Aggregate, got {type(one).__name__}")
            require(one.linear == aggregate.linear, f"for_head must return an aggregate that is as linear as this one, {aggregate.linear}")
            if not one.linear:  # `reduce` knows of a head only what for_head tells it
                continue
            among = np.asarray(aggregate.finish(weights @ aggregate.values(v)[head]))
            alone = _aggregated(one, weights, v[head])
            bound = accuracy_bounds(alone, _aggregated(one, weights.astype(np.float32), v[head].astype(np.float32)), np.float64)[1]
            require_close(among, alone, 2 * bound, "a head among others must give what for_head gives of it alone")


# --- the maps of a linear one, the reduction of another ---------------------------------------------------------------


@CHECKS
def values_have_their_shape(aggregate: Aggregate) -> None:
    """values(v) keeps the leading axes and the dtype of v, and its width is at least 1."""
    _require_linear(aggregate, True)
    aggregate = aggregate.for_head(0)
    for n in _lengths():
        for width in _widths(aggregate):
            for lead in ((), (2,), (2, 1)):
                for dtype in (np.float32, np.float64):
                    v = _values(aggregate, (*lead, n, width), dtype)
                    with case(v=v):
                        found = aggregate.values(v)
                        require(isinstance(found, np.ndarray), f"values must return an array, got {type(found).__name__}")
                        fits = found.shape[:-1] == v.shape[:-1] and found.shape[-1] > 0
                        require(fits, f"values must return an array of shape {v.shape[:-1]} + (width,), got {found.shape}")
                        require(found.dtype == dtype, f"values must keep the dtype, {np.dtype(dtype)}, got {found.dtype}")


@CHECKS
def values_are_rowwise(aggregate: Aggregate) -> None:
    """values maps each row by itself: it may be handed any part of them."""
    _require_linear(aggregate, True)
    aggregate = aggregate.for_head(0)
    for n in _lengths()[1:]:
        for width in _widths(aggregate):
            v = _values(aggregate, (n, width))
            whole = aggregate.values(v)
            bound = accuracy_bounds(whole, aggregate.values(v.astype(np.float32)), np.float64)[1]
            with case(v=v):
                require_close(aggregate.values(v[1:]), whole[1:], 2 * bound, "values of some rows must be what they are among others")


@CHECKS
def finish_is_rowwise(aggregate: Aggregate) -> None:
    """finish maps each row by itself, keeps their number, and takes none at all."""
    _require_linear(aggregate, True)
    aggregate = aggregate.for_head(0)
    for width in _widths(aggregate):
        keys = limited("keys", 7)
        v = _values(aggregate, (keys, width))
        acc = _weights(5, keys) @ aggregate.values(v)
        with case(acc=acc):
            whole = np.asarray(aggregate.finish(acc.copy()))
            require(whole.ndim == 2 and len(whole) == 5, f"finish must return an array of shape (5, width), got {whole.shape}")
            bound = accuracy_bounds(whole, np.asarray(aggregate.finish(acc.astype(np.float32))), np.float64)[1]
            for rows in (slice(0, 1), slice(2, 5)):
                part = np.asarray(aggregate.finish(acc[rows].copy()))
                require_close(part, whole[rows], 2 * bound, "finish of some rows must be what it is among others")
            none = np.asarray(aggregate.finish(acc[:0].copy()))
            require(none.shape == (0, whole.shape[1]), f"finish of no rows must have shape {(0, whole.shape[1])}, got {none.shape}")


@CHECKS
def reduce_is_rowwise(aggregate: Aggregate) -> None:
    """reduce makes of each row of weights what it makes of it alone."""
    _require_linear(aggregate, False)
    aggregate = aggregate.for_head(0)
    for n in _lengths():
        for width in _widths(aggregate):
            v, weights = _values(aggregate, (n, width)), _weights(5, n)
            with case(weights=weights, v=v):
                whole = np.asarray(aggregate.reduce(weights.copy(), v))
                require(whole.ndim == 2 and len(whole) == 5, f"reduce must return an array of shape (5, width), got {whole.shape}")
                naive = np.asarray(aggregate.reduce(weights.astype(np.float32), v.astype(np.float32)))
                bound = accuracy_bounds(whole, naive, np.float64)[1]
                for row in range(5):
                    alone = np.asarray(aggregate.reduce(weights[row : row + 1].copy(), v))
                    require_close(alone, whole[row : row + 1], 2 * bound, "reduce of one row must be what it is among others")


@CHECKS
def weights_count(aggregate: Aggregate) -> None:
    """All weight on one value gives another output than all weight on another; a value without weight counts nothing."""
    aggregate = aggregate.for_head(0)
    for width in _widths(aggregate):
        v = _values(aggregate, (4, width))
        v = v[np.argsort(v[:, -1])]
        if np.ptp(v[:, -1]) == 0:
            continue
        one_hot = np.eye(4)
        with case(v=v):
            found = _aggregated(aggregate, one_hot, v)
            require(not np.allclose(found[0], found[3]), "all weight on one value must give another output than all weight on another")
            without = _aggregated(aggregate, one_hot[:1, :1], v[:1])
            bound = 16 * float(np.finfo(np.float32).eps) * max(1.0, float(np.abs(without).max()))
            require_close(found[:1], without, bound, "values without weight must not count")


@CHECKS
def partial_sums_merge(aggregate: Aggregate) -> None:
    """A linear aggregate may be computed over parts of the keys and merged before its finish."""
    _require_linear(aggregate, True)
    part = _part(aggregate)
    for shape in part.shapes():
        if shape.lk < 2:
            continue
        q, k, v = part.arrays(shape)
        cut = shape.lk // 2
        with case(shape=tuple(shape), cut=cut):
            halves = (slice(0, cut), slice(cut, None))
            states = [functional.attention(q, k[..., s, :], aggregate.values(v[..., s, :]), return_lse=True) for s in halves]
            acc, _ = functional.merge_states(*zip(*states, strict=True))
            merged = np.asarray(aggregate.finish(acc.reshape(-1, acc.shape[-1])))
            expected = part.call((q, k, v))
            tolerance = 2 * part.tolerance((q, k, v), np.float32)
            require_close(merged.reshape(expected.shape), expected, tolerance, "merged parts must give what the whole gives")


# --- derivatives ------------------------------------------------------------------------------------------------------


def _require_gradient(found: Any, upstream: np.ndarray, mapped: Callable[[np.ndarray], Any], at: np.ndarray, name: str) -> None:
    """Compare a gradient of Σ upstream · mapped(x) with differences."""

    def function(x: np.ndarray) -> float:
        return float(np.sum(upstream * mapped(x.copy())))

    require_gradient(found, function, at, name)


def _or_not_applicable(function: Callable[..., Any], *args: np.ndarray) -> Any:
    try:
        return function(*(array.copy() for array in args))
    except UnsupportedError as error:
        raise NotApplicable(str(error)) from None


def _upstream(like: Any) -> np.ndarray:
    return drawn("grad_output", np.random.default_rng(7).standard_normal(np.shape(like)))


@CHECKS
def values_vjp_matches_differences(aggregate: Aggregate) -> None:
    """values_vjp agrees with finite differences of values."""
    _require_linear(aggregate, True)
    aggregate = aggregate.for_head(0)
    for n, width in zip((1, limited("keys", 3)), _widths(aggregate)[:2], strict=False):
        v = _values(aggregate, (n, width))
        up = _upstream(aggregate.values(v))
        with case(v=v):
            found = _or_not_applicable(aggregate.values_vjp, v, up)
            _require_gradient(found, up, aggregate.values, v, "values_vjp")


@CHECKS
def finish_vjp_matches_differences(aggregate: Aggregate) -> None:
    """finish_vjp agrees with finite differences of finish."""
    _require_linear(aggregate, True)
    aggregate = aggregate.for_head(0)
    for n, width in zip((1, limited("queries", 3)), _widths(aggregate)[:2], strict=False):
        keys = limited("keys", 5)
        acc = _weights(n, keys) @ aggregate.values(_values(aggregate, (keys, width)))
        up = _upstream(aggregate.finish(acc.copy()))
        with case(acc=acc):
            found = _or_not_applicable(aggregate.finish_vjp, acc, up)
            _require_gradient(found, up, aggregate.finish, acc, "finish_vjp")


def _reduced(aggregate: Aggregate, v: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return aggregate.reduce(weights, v)


@CHECKS
def reduce_vjp_matches_differences(aggregate: Aggregate) -> None:
    """reduce_vjp agrees with finite differences of reduce, by weights and by values."""
    _require_linear(aggregate, False)
    aggregate = aggregate.for_head(0)
    for m, n, width in zip((1, limited("queries", 2)), (limited("keys", 3), limited("keys", 4)), _widths(aggregate)[:2], strict=False):
        weights, v = _weights(m, n), _values(aggregate, (n, width))
        out = np.asarray(aggregate.reduce(weights.copy(), v.copy()))
        up = _upstream(out)
        with case(weights=weights, v=v):
            answer = _or_not_applicable(aggregate.reduce_vjp, weights, v, out, up)
            require(isinstance(answer, tuple) and len(answer) == 2, "reduce_vjp must return a pair, dweights and dv")
            _require_gradient(answer[0], up, functools.partial(_reduced, aggregate, v), weights, "reduce_vjp, dweights")
            _require_gradient(answer[1], up, functools.partial(aggregate.reduce, weights), v, "reduce_vjp, dv")


# --- as a part of calls -----------------------------------------------------------------------------------------------


@CHECKS
def shapes_and_dtypes(aggregate: Aggregate) -> None:
    """Attention has the shape and dtype of its inputs, for float32, float64, float16 and bfloat16."""
    parts.shapes_and_dtypes(_part(aggregate))


@CHECKS
def agrees_with_oracle(aggregate: Aggregate) -> None:
    """Attention agrees with the float64 oracle as well as a naive float32 implementation does."""
    part = _part(aggregate)
    middle = part.middle()
    options: list[dict[str, Any]] = [
        {"causal": True},
        {"window": (2, 1), "query_offset": "end"},
        {"key_lengths": max(1, middle.lk - 2)},
        {"mask": some_mask(middle, empty_row=True)},
        {"bias": np.random.default_rng(3).standard_normal((middle.lq, middle.lk)).astype(np.float32)},
    ]
    parts.agrees_with_oracle(part, options)


@CHECKS
def agrees_with_oracle_when_weights_do_not_sum_to_one(aggregate: Aggregate) -> None:
    """With sinks and dropout, too, attention agrees with the oracle."""
    part = _part(aggregate)
    middle = part.middle()
    for options in ({"sinks": np.arange(middle.heads) * 0.5}, {"dropout": 0.25, "seed": 5}):
        for dtype in (np.float32, np.float64):
            parts.require_agreement(part, middle, dtype, options)


@CHECKS
def two_axes_are_one_head(aggregate: Aggregate) -> None:
    """Arrays of two axes are one head."""
    parts.two_axes_are_one_head(_part(aggregate))


@CHECKS
def batch_equals_singles(aggregate: Aggregate) -> None:
    """An entry of a batch gives what it gives alone."""
    parts.batch_equals_singles(_part(aggregate))


@CHECKS
def key_order_is_irrelevant(aggregate: Aggregate) -> None:
    """Keys and values in another order give the same."""
    parts.key_order_is_irrelevant(_part(aggregate))


@CHECKS
def masked_has_no_influence(aggregate: Aggregate) -> None:
    """What a row does not see does not change its result, NaN included."""
    parts.masked_has_no_influence(_part(aggregate), with_mask=True)


@CHECKS
def rows_are_independent(aggregate: Aggregate) -> None:
    """A query that is NaN does not change other rows."""
    parts.rows_are_independent(_part(aggregate))


@CHECKS
def empty_rows_are_zeros(aggregate: Aggregate) -> None:
    """A row that may attend to nothing skips finish and is zeros; its lse is −inf, or the sink."""
    parts.empty_rows_are_zeros(_part(aggregate))


@CHECKS
def empty_input_gives_empty_output(aggregate: Aggregate) -> None:
    """No queries, no keys or no batch entries are no error."""
    parts.empty_input_gives_empty_output(_part(aggregate))


@CHECKS
def extremes_stay_finite(aggregate: Aggregate) -> None:
    """Finite float32 input gives finite output: equal values, all weight on one, and values from subnormal to 1e15."""
    part = _part(aggregate)
    shape = part.middle()
    q, k, v = part.arrays(shape)
    inputs = [("equal values", (q, k, v[..., :1, :].repeat(shape.lk, -2))), ("all weight on one", (q * 1e4, k, v))]
    if not hasattr(aggregate, "conformance_inputs"):  # points of a domain cannot be scaled
        inputs += [(f"values of {f:g}", (q, k, v * np.float32(f))) for f in (1e-42, 1e-20, 1e3, 1e15)]
    parts.extremes_stay_finite(part, inputs)


@CHECKS
def same_bits_for_any_number_of_threads(aggregate: Aggregate) -> None:
    """Results are the same to the bit for 1, 2 and 7 threads."""
    parts.same_bits_for_any_number_of_threads(_part(aggregate))


@CHECKS
def parallel_calls_agree(aggregate: Aggregate) -> None:
    """Calls from 8 threads at once give what they give one after another."""
    parts.parallel_calls_agree(_part(aggregate))


@CHECKS
def pickle_round_trip(aggregate: Aggregate) -> None:
    """Pickled or copied, it gives the same."""
    parts.pickle_round_trip(_part(aggregate))


@CHECKS
def inputs_are_not_written(aggregate: Aggregate) -> None:
    """Neither the caller's arrays nor the weights are written."""
    parts.inputs_are_not_written(_part(aggregate))
    aggregate = aggregate.for_head(0)
    width = _widths(aggregate)[0]
    v, weights = _values(aggregate, (4, width)), _weights(3, 4)
    before = v.copy(), weights.copy()
    with case(weights=weights, v=v):
        if aggregate.linear:
            aggregate.values(v)
        else:
            aggregate.reduce(weights, v)
            require_same_bits(weights, before[1], "reduce must not write the weights")
        require_same_bits(v, before[0], "v must not be written")


@CHECKS
def out_is_honoured(aggregate: Aggregate) -> None:
    """``out=`` is written and returned."""
    parts.out_is_honoured(_part(aggregate))


@CHECKS
def wrong_shapes_are_refused(aggregate: Aggregate) -> None:
    """Arrays that do not fit each other raise DimensionMismatchError."""
    parts.wrong_shapes_are_refused(_part(aggregate))
