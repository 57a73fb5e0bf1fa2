"""What the checks share: inputs to try, how close is close enough, and words for what differs.

Cases come smallest first, so that the first one that fails is the smallest that is tried; `case` puts its
description on whatever is raised. How long things are, and what `sample` draws, goes through trial.py, so that something
smaller can be tried in their place.
"""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .runner import CheckFailure
from .trial import drawn

__all__ = [
    "accuracy_bounds",
    "another_order",
    "case",
    "describe",
    "finite_difference",
    "float_dtypes",
    "in_threads",
    "require",
    "require_accurate",
    "require_close",
    "require_gradient",
    "require_same_bits",
    "sample",
]

THREADS = 8


@contextmanager
def case(*words: Any, **values: Any) -> Iterator[None]:
    """Say with what the check was at when anything is raised inside: arrays by shape and dtype, the rest as it is."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, AssertionError) or not getattr(error, "__notes__", None):
            error.add_note("the case: " + describe(*words, **values))
        raise


def describe(*words: Any, **values: Any) -> str:
    """Put a case into words: arrays by shape, strides and dtype."""
    parts = [str(word) for word in words]
    for name, value in values.items():
        if isinstance(value, np.ndarray) and value.size > 12:
            parts.append(f"{name} {value.shape} {value.dtype}")
        elif isinstance(value, np.ndarray):
            parts.append(f"{name}={np.array2string(value, separator=', ').replace(chr(10), '')} {value.dtype}")
        else:
            parts.append(f"{name}={value!r}")
    return ", ".join(parts)


def require(condition: Any, promise: str) -> None:
    """Raise a CheckFailure that states the promise unless the condition holds."""
    if not condition:
        raise CheckFailure(promise)


def _located(actual: np.ndarray, expected: np.ndarray, at: int, tolerance: float | None) -> str:
    index = [int(i) for i in np.unravel_index(at, actual.shape)]
    got, wanted = actual.flat[at], expected.flat[at]
    text = f"got {got!s} instead of {wanted!s}" + (f" at {index}" if index else "")
    return text if tolerance is None else f"{text} (allowed difference {tolerance:.2g})"


def _same_shape(actual: Any, expected: np.ndarray, promise: str) -> np.ndarray:
    actual = np.asarray(actual)
    require(actual.shape == expected.shape, f"{promise}: expected shape {expected.shape}, got {actual.shape}")
    return actual


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def require_close(actual: Any, expected: Any, tolerance: float | np.ndarray, promise: str) -> None:
    """Require that arrays differ by no more than the tolerance; what is not finite has to be the same."""
    expected = _wide(expected)
    actual = _wide(_same_shape(actual, expected, promise))
    difference = np.abs(actual - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    # A comparison with NaN is False: what is NaN on one side only counts as different.
    wrong = ~(same | (difference <= tolerance))
    if wrong.any():
        excess = np.where(wrong, np.nan_to_num(difference, nan=np.inf), -1.0)
        at = int(excess.argmax())
        allowed = float(np.broadcast_to(tolerance, actual.shape).flat[at])
        raise CheckFailure(f"{promise}: {_located(actual, expected, at, allowed)}")


def require_same_bits(actual: Any, expected: Any, promise: str) -> None:
    """Require that arrays have the same dtype, shape and bits."""
    expected = np.asarray(expected)
    actual = _same_shape(actual, expected, promise)
    require(actual.dtype == expected.dtype, f"{promise}: expected {expected.dtype}, got {actual.dtype}")
    if not expected.size:
        return
    bits = [np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape, -1) for array in (actual, expected)]
    differs = (bits[0] != bits[1]).any(-1)
    if differs.any():
        raise CheckFailure(f"{promise}: {_located(actual, expected, int(differs.argmax()), None)}")


def accuracy_bounds(expected: np.ndarray, naive: np.ndarray, dtype: Any) -> tuple[float, float]:
    """Return the largest RMS error and the largest single error that are admitted.

    They are twice and four times those of a naive implementation. That was computed in float32; where the result is
    float64, it counts by the ratio of the precisions. On few numbers the naive result may be exact by luck: an error
    that the last bit of the largest result makes is always admitted.

    Parameters
    ----------
    expected : ndarray
        The truth, in float64.
    naive : ndarray
        The naive result in float32, of the same shape.
    dtype : dtype
        The dtype of the result that is judged.

    Returns
    -------
    rms, largest : float
        The bounds.
    """
    if expected.size == 0:
        return 0.0, 0.0
    precision = float(np.finfo(np.float32).eps)
    unit = _epsilon(dtype)
    error = np.abs(_wide(naive) - expected)
    error = error[np.isfinite(error)]
    scale = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
    # float64 results are compared with float64 ones, which have an error of their own; narrow dtypes round once more.
    ratio = 2 * unit / precision if unit < precision else 1.0
    rounding = unit * scale / 2 + _smallest(dtype) if unit > precision else 0.0
    rms = float(np.sqrt(np.mean(np.square(error)))) if error.size else 0.0
    largest = float(error.max(initial=0.0))
    floor = max(unit, float(np.finfo(np.float64).eps)) * scale
    return max(2 * rms * ratio + rounding, floor), max(4 * largest * ratio + rounding, 2 * floor)


def _epsilon(dtype: Any) -> float:
    dtype = np.dtype(dtype)
    if dtype.name == "bfloat16":  # numpy.finfo knows its own dtypes only
        return 2.0**-7
    return float(np.finfo(dtype).eps)


def _smallest(dtype: Any) -> float:
    """Return the smallest number of a narrow dtype: what is below it becomes 0."""
    return float(np.finfo(np.float16).smallest_subnormal) if np.dtype(dtype) == np.float16 else 0.0


def require_accurate(actual: Any, expected: Any, naive: Any, promise: str, *, samples: int | None = None, floor: float = 0.0) -> None:
    """Require that the error is within `accuracy_bounds`, and that what is not finite is the same.

    Parameters
    ----------
    actual, expected, naive : ndarray
        What is judged, the truth in float64, and the naive result in float32.
    promise : str
        What is promised, for the message.
    samples : int, optional
        How many independent errors there are, such as rows of weights. Of few, the naive ones may be small by luck, so that the bounds are wider
        by 6/√samples: half as wide again for 144, a tenth for 3600. By default, all numbers are independent.
    floor : float, default 0
        An error that is always admitted.
    """
    expected = _wide(expected)
    dtype = np.asarray(actual).dtype
    actual = _wide(_same_shape(actual, expected, promise))
    margin = 1 + 6 / math.sqrt(max(1, expected.size if samples is None else samples))
    rms_bound, bound = (max(floor, margin * bound) for bound in accuracy_bounds(expected, np.asarray(naive), dtype))
    require_close(actual, expected, bound, promise)
    finite = np.isfinite(expected)
    if finite.any():
        rms = float(np.sqrt(np.mean(np.square(actual[finite] - expected[finite]))))
        require(rms <= rms_bound, f"{promise}: the RMS error is {rms:.2g}, allowed {rms_bound:.2g}")


def float_dtypes() -> list[np.dtype[Any]]:
    """Return the dtypes that §4 promises and this installation has."""
    names: list[Any] = [np.float32, np.float64, np.float16]
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        pass
    else:
        names.append(bfloat16)
    return [np.dtype(name) for name in names]


def sample(subject: Any, role: str, shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    """Draw queries, keys or values that the subject accepts; the same for the same arguments.

    Parameters
    ----------
    subject : object
        If it has a method ``conformance_inputs(rng, role, shape)``, that draws them: points of a manifold, for example.
        Otherwise they are normal with mean 0 and variance 1.
    role : {"query", "key", "value"}
        What they are drawn for.
    shape : tuple of int
        The last axis is the width.
    dtype : dtype
        Of the result.
    seed : int
        Of the generator.

    Returns
    -------
    ndarray
        A new array of the shape and dtype.
    """
    rng = np.random.default_rng([seed, {"query": 0, "key": 1, "value": 2}[role]])
    draw = getattr(subject, "conformance_inputs", None)
    made = rng.standard_normal(shape) if draw is None else np.asarray(draw(rng, role, shape))
    require(made.shape == shape, f"conformance_inputs must return an array of shape {shape}, got {made.shape}")
    return drawn(role, made.astype(dtype), of_domain=draw is not None)


def require_gradient(found: Any, function: Callable[[np.ndarray], float], at: Any, name: str) -> None:
    """Require that a gradient agrees with finite differences, but for entries where the function has a kink.

    Differences over two steps disagree there. The tolerance is the rounding of the function over the step, and truncation as much again.
    """
    at = np.asarray(at, np.float64)
    found = np.asarray(found, np.float64)
    require(found.shape == at.shape, f"{name}: the gradient must have shape {at.shape}, got {found.shape}")
    promise = f"{name}: must agree with finite differences"
    expected = finite_difference(function, at)
    rounding = 1e4 * float(np.finfo(np.float64).eps) / STEP
    scale = np.maximum(max(1.0, abs(function(at))) / np.minimum(1.0, _sizes(at)), float(np.max(np.abs(expected), initial=0.0)))
    tolerance = rounding * scale
    if not (np.abs(found - expected) <= tolerance).all():
        closer, tolerance = finite_difference(function, at, STEP / 16), 16 * tolerance
        kinks = ~(np.abs(closer - expected) <= tolerance)
        expected = np.where(kinks & np.isfinite(found), found, closer)
    require_close(found, expected, tolerance, promise)


def another_order(length: int, seed: int = 1) -> np.ndarray:
    """Return the numbers below a length in an order other than their own, if there is one."""
    return np.arange(length)[::-1].copy() if length < 5 else np.random.default_rng(seed).permutation(length)


STEP = 1e-3
"""Truncation falls with h⁴ and rounding grows with 1/h: near eps^(1/5) they balance."""


def _sizes(at: np.ndarray) -> np.ndarray:
    """Return the size of each entry, for a width of 0.01 has its own scale; 1 for zeros, and a little for those among larger ones."""
    typical = min(1.0, float(np.sqrt(np.mean(np.square(at)))) if at.size else 0.0)
    return np.maximum(np.abs(at), typical / 16 if typical else 1.0)


def finite_difference(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = STEP) -> np.ndarray:
    """Return the gradient of a scalar function in float64, by central differences of order four.

    Parameters
    ----------
    function : callable
        Takes an array of the shape of `at`.
    at : ndarray
        Where, in float64; not written.
    step : float
        The distance of the points, relative to the size of each entry.

    Returns
    -------
    ndarray
        The gradient, in the shape of `at`.
    """
    gradient = np.zeros(at.shape)
    sizes = _sizes(at)
    for index in np.ndindex(at.shape):
        h = step * float(sizes[index])
        moved = []
        for distance in (h, -h, 2 * h, -2 * h):
            point = at.copy()
            point[index] += distance
            moved.append(float(function(point)))
        gradient[index] = (8 * (moved[0] - moved[1]) - (moved[2] - moved[3])) / (12 * h)
    return gradient


def in_threads(function: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """Call ``function(i)`` for i < count, all at once, each in a thread of its own; raise what the first one raised."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    ready = threading.Barrier(count)

    def work(i: int) -> None:
        try:
            ready.wait()
            with np.errstate(all="ignore"):  # a new thread starts with NumPy's defaults
                results[i] = function(i)
        except BaseException as error:
            errors.append(error)

    # Each in a copy of this context, in which a trial says what may be drawn.
    team = [threading.Thread(target=contextvars.copy_context().run, args=(work, i)) for i in range(count)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    if errors:
        raise errors[0]
    return results
