"""The checks of gradients of scores, aggregates and patterns, each as a part of whole calls: `ruvattn.attention_backward` with it inside.

    Part ─► call ─► out, lse ─► attention_backward ─► by q, k, v, the part's parameters ─► finite differences, other dtypes, other threads

A part without a vjp, which refuses with UnsupportedError, is not asked.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..aggregates import Aggregate
from ..backward import attention_backward
from ..errors import UnsupportedError
from ..patterns import Pattern
from ..scores import Dot, Score
from . import aggregates, patterns, scores
from .cases import case, float_dtypes, require, require_close, require_same_bits
from .parts import THREAD_COUNTS, Part, Shape, some_mask
from .runner import CheckList, NotApplicable
from .slopes import require_gradients
from .trial import drawn

SCORES, AGGREGATES, PATTERNS = CheckList("score"), CheckList("aggregate"), CheckList("pattern")

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

INPUTS = ("q", "k", "v")


# --- a call and its gradients -----------------------------------------------------------------------------------------


def _upstream(part: Part, arrays: Arrays, **options: Any) -> np.ndarray:
    """Return a gradient of the output, in float64."""
    return drawn("grad_output", np.random.default_rng(7).standard_normal(part.call(arrays, **options).shape))


def _gradients(part: Part, arrays: Arrays, dout: np.ndarray, wrt: Iterable[str] = INPUTS, dlse: Any = None, **options: Any) -> dict[str, np.ndarray]:
    """Return the gradients of a call, or skip the check where the part has none."""
    threads, (q, k, v) = options.pop("threads", None), arrays
    out, lse = part.call(arrays, return_lse=True, threads=threads, **options)
    try:
        return attention_backward(dout.astype(q.dtype), q, k, v, out, lse, dlse=dlse, wrt=tuple(wrt), threads=threads, **part.options, **options)
    except UnsupportedError as error:
        raise NotApplicable(str(error)) from None


def _parameters(part: Part, shape: Shape) -> dict[str, np.ndarray]:
    """Return the parameters that have gradients, by the names that ``wrt`` has for them."""
    if part.keyword not in ("score", "aggregate"):
        return {}
    found = {}
    for name, value in part.subject.params.items():
        if value is None and name == "scale" and isinstance(part.subject, Dot):
            value = 1 / np.sqrt(shape.width)
        if value is not None and np.asarray(value).dtype.kind == "f":
            found[f"{part.keyword}.{name}"] = np.asarray(value, np.float64)
    return found


def _with_parameters(part: Part, values: dict[str, np.ndarray]) -> Part:
    """Return the part with other parameters."""
    if not values:
        return part
    subject = copy.copy(part.subject)
    given = {name.split(".", 1)[1]: value.copy() if value.ndim else float(value) for name, value in values.items()}
    subject.params = {**part.subject.params, **given}
    return Part(subject, part.keyword)


def _cases(part: Part) -> Iterator[tuple[Shape, dict[str, Any]]]:
    """Yield shapes and options of calls whose gradients are compared with differences."""
    shapes = list(part.shapes())
    for shape in (shapes[min(at, len(shapes) - 1)] for at in (1, 2, 3, 4)):
        yield shape, {}
    middle = part.middle()
    bias = np.random.default_rng(3).standard_normal((middle.lq, middle.lk))
    yield middle, {"causal": True, "query_offset": "end", "softcap": 2.0}
    yield middle, {"mask": some_mask(middle, empty_row=True), "bias": bias, "sinks": np.arange(middle.heads) * 0.5}
    yield middle, {"dropout": 0.25, "seed": 5}


def gradients_match_differences(part: Part) -> None:
    """By q, k, v, bias, sinks and every parameter, through output and lse, in float64."""
    for shape, options in _cases(part):
        arrays = part.arrays(shape, np.float64)
        dout = _upstream(part, arrays, **options)
        lse = part.call(arrays, return_lse=True, **options)[1]
        dlse = np.where(np.isfinite(lse), np.random.default_rng(8).standard_normal(lse.shape), 0.0)
        own = _parameters(part, shape)
        given = dict(zip(INPUTS, arrays, strict=True)) | own | {name: options[name] for name in ("bias", "sinks") if name in options}
        with case(shape=tuple(shape), **options):
            found = _gradients(part, arrays, dout, given, dlse, **options)

            def loss(
                at: Any, options: dict[str, Any] = options, own: dict[str, np.ndarray] = own, dout: np.ndarray = dout, dlse: np.ndarray = dlse
            ) -> float:
                changed = _with_parameters(part, {name: at[name] for name in own})
                now = options | {name: at[name] for name in ("bias", "sinks") if name in options}
                out, lse = changed.call([at[name] for name in INPUTS], return_lse=True, **now)
                return float((dout * out).sum() + (dlse[np.isfinite(lse)] * lse[np.isfinite(lse)]).sum())

            require_gradients(loss, given, found, directions=1, entries=2)


def gradients_follow_their_dtype(part: Part) -> None:
    """Of float32, float16 and bfloat16 inputs: their dtype, and close to those in float64 of the same numbers."""
    shape = part.middle()
    for dtype in float_dtypes():
        arrays = part.arrays(shape, dtype)
        q, k, v = (array.astype(np.float64) for array in arrays)
        wide = (q, k, v)
        dout = _upstream(part, wide).astype(dtype).astype(np.float64)
        own = _parameters(part, shape)
        with case(shape=tuple(shape), dtype=dtype.name):
            found = _gradients(part, arrays, dout, (*INPUTS, *own))
            expected = _gradients(part, wide, dout, (*INPUTS, *own))
            bounds = _rounding(part, wide, dout, own, dtype)
            compute = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
            for name, wanted in expected.items():
                right = dtype if name in INPUTS else compute
                require(found[name].dtype == right, f"the gradient of {name} must have dtype {right}, got {found[name].dtype}")
                require_close(found[name], wanted, bounds[name], f"the gradient of {name} must be close to that in float64")


def _rounding(part: Part, arrays: Arrays, dout: np.ndarray, own: Iterable[str], dtype: np.dtype[Any]) -> dict[str, float]:
    """Return by how much gradients may differ: what rounding the inputs does to them, many times over, and rounding themselves."""
    unit = float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)
    exact = _gradients(part, arrays, dout, (*INPUTS, *own))
    shaken = dict.fromkeys(exact, 0.0)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        near: Any = tuple(array * (1 + unit * rng.standard_normal(array.shape)) for array in arrays)
        for name, gradient in _gradients(part, near, dout, (*INPUTS, *own)).items():
            shaken[name] = max(shaken[name], float(np.abs(gradient - exact[name]).max(initial=0.0)))
    if dtype.itemsize == 2:
        # The output that the backward pass starts from is rounded to the dtype: what that does to gradients is none of its doing.
        out, lse = part.call(arrays, return_lse=True)
        rounded = out.astype(dtype).astype(np.float64)
        for name, gradient in attention_backward(dout, *arrays, rounded, lse, wrt=(*INPUTS, *own), **part.options).items():
            shaken[name] = max(shaken[name], float(np.abs(gradient - exact[name]).max(initial=0.0)))
    narrow = 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)
    bounds = {}
    for name, gradient in exact.items():
        size = max(1.0, float(np.abs(gradient).max(initial=0.0)))
        bounds[name] = 64 * unit * size + (8 * shaken[name] + 2 * narrow * size if dtype.itemsize == 2 else 64 * shaken[name])
    return bounds


def gradients_have_nothing_of_what_is_masked(part: Part) -> None:
    """NaN in a key and a value that no row sees: their gradients are zero, and those of the others are what they are without it."""
    if part.keyword == "mask":
        raise NotApplicable("a pattern says itself what is seen")
    shape = part.middle()
    arrays = part.arrays(shape, np.float64)
    hidden = np.arange(shape.lk) % 3 == 1
    mask = some_mask(shape) & ~hidden
    mask[:, :, 0] = True
    mask[:, 1 % shape.lq] = False
    dout = _upstream(part, arrays, mask=mask)
    expected = _gradients(part, arrays, dout, mask=mask)
    q, k, v = (array.copy() for array in arrays)
    for poison in (np.nan, np.inf, 1e300):
        k[..., hidden, :] = v[..., hidden, :] = poison
        with case(f"keys and values that no row sees set to {poison}", shape=tuple(shape)):
            found = _gradients(part, (q, k, v), dout, mask=mask)
            for name in ("k", "v"):
                require(not found[name][..., hidden, :].any(), f"the gradient of {name} must be zero where no row sees it")
            require(not found["q"][..., 1 % shape.lq, :].any(), "the gradient of a query that attends to nothing must be zero")
            for name, wanted in expected.items():
                size = max(1.0, float(np.abs(wanted).max(initial=0.0)))
                require_close(found[name], wanted, 1e-10 * size, f"what is masked must have no part in the gradient of {name}")


def gradients_are_the_same_for_any_threads(part: Part) -> None:
    """Gradients for 1, 2 and 7 threads."""
    shape = next(iter(part.large_shapes()))
    own = _parameters(part, shape)
    for dtype in (np.float32, np.float64):
        arrays = part.arrays(shape, dtype)
        dout = _upstream(part, arrays)
        expected = _gradients(part, arrays, dout, (*INPUTS, *own), threads=THREAD_COUNTS[0])
        for threads in THREAD_COUNTS[1:]:
            with case(shape=tuple(shape), dtype=np.dtype(dtype).name, threads=threads):
                found = _gradients(part, arrays, dout, (*INPUTS, *own), threads=threads)
                for name, wanted in expected.items():
                    require_same_bits(found[name], wanted, f"the gradient of {name} must be the same to the bit for any number of threads")


# --- scores -----------------------------------------------------------------------------------------------------------


@SCORES
def gradients_through_attention_match_differences(score: Score) -> None:
    """Gradients by q, k, v, bias, sinks and every parameter of the score agree with finite differences to a millionth, in float64."""
    part = scores._part(score)
    gradients_match_differences(part)
    if score.kernels or type(score) is Dot:
        for shape in (part.middle(),):
            with case("the NumPy form"):
                plain = Part(scores._numpy_form(score, shape.width), "score")
                arrays = part.arrays(shape, np.float64)
                dout = _upstream(part, arrays)
                wrt = (*INPUTS, *_parameters(plain, shape))
                expected = _gradients(part, arrays, dout, wrt, causal=True)
                for name, found in _gradients(plain, arrays, dout, wrt, causal=True).items():
                    size = max(1.0, float(np.abs(expected[name]).max(initial=0.0)))
                    require_close(found, expected[name], 1e-9 * size, f"both forms must have the same gradient of {name}")


@SCORES
def gradients_through_attention_follow_their_dtype(score: Score) -> None:
    """Gradients of attention have the dtype of the inputs, those of parameters the compute dtype, and are close to those in float64."""
    gradients_follow_their_dtype(scores._part(score))


@SCORES
def masked_has_no_influence_on_gradients(score: Score) -> None:
    """What no row sees has gradients of zero, and no part in those of others, NaN included."""
    gradients_have_nothing_of_what_is_masked(scores._part(score))


@SCORES
def gradients_are_the_same_for_any_number_of_threads(score: Score) -> None:
    """Gradients are the same to the bit for 1, 2 and 7 threads."""
    gradients_are_the_same_for_any_threads(scores._part(score))


# --- aggregates -------------------------------------------------------------------------------------------------------


def _aggregate(aggregate: Aggregate) -> Part:
    require(isinstance(aggregate.params, dict), f"params must be a dict, got {type(aggregate.params).__name__}")
    return aggregates._part(aggregate)


@AGGREGATES
def aggregate_gradients_match_differences(aggregate: Aggregate) -> None:
    """Gradients by q, k, v, bias, sinks and every parameter of the aggregate agree with finite differences to a millionth, in float64."""
    gradients_match_differences(_aggregate(aggregate))


@AGGREGATES
def aggregate_gradients_follow_their_dtype(aggregate: Aggregate) -> None:
    """Gradients of attention have the dtype of the inputs, those of parameters the compute dtype, and are close to those in float64."""
    gradients_follow_their_dtype(_aggregate(aggregate))


@AGGREGATES
def masked_has_no_influence_on_aggregate_gradients(aggregate: Aggregate) -> None:
    """What no row sees has gradients of zero, and no part in those of others, NaN included."""
    gradients_have_nothing_of_what_is_masked(_aggregate(aggregate))


@AGGREGATES
def aggregate_gradients_are_the_same_for_any_number_of_threads(aggregate: Aggregate) -> None:
    """Gradients are the same to the bit for 1, 2 and 7 threads."""
    gradients_are_the_same_for_any_threads(_aggregate(aggregate))


# --- patterns ---------------------------------------------------------------------------------------------------------


@PATTERNS
def gradients_equal_those_of_the_dense_mask(pattern: Pattern) -> None:
    """Gradients by q, k and v are those with the same pairs as an array of booleans."""
    part = patterns._part(pattern)
    for shape in (*part.shapes(), *part.large_shapes()):
        arrays = part.arrays(shape, np.float64)
        dense = Part(patterns._dense(pattern, shape), "mask")
        dout = _upstream(part, arrays)
        with case(shape=tuple(shape)):
            expected = _gradients(dense, arrays, dout)
            for name, found in _gradients(part, arrays, dout).items():
                size = max(1.0, float(np.abs(expected[name]).max(initial=0.0)))
                require_close(found, expected[name], 1e-10 * size, f"the gradient of {name} must be that with a dense mask")


@PATTERNS
def gradients_by_pattern_are_the_same_for_any_number_of_threads(pattern: Pattern) -> None:
    """Gradients are the same to the bit for 1, 2 and 7 threads."""
    gradients_are_the_same_for_any_threads(patterns._part(pattern))
