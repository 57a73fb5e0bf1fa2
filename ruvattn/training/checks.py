"""Checks of parameters and gradients, which come by name.

Each raises before anything is written, and names the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from ..validation import COMPUTE_DTYPES, as_numbers, first_nonfinite

__all__ = [
    "as_gradients",
    "check_choice",
    "check_gradient",
    "check_names",
    "check_nonnegative",
    "check_number",
    "check_parameters",
    "check_shapes",
    "largest_entry",
]


def check_number(value: Any, name: str) -> float:
    """Return a finite number."""
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInputError(f"{name} must be a finite number, got {value!r}")
    return number


def check_nonnegative(value: Any, name: str) -> float:
    """Return a finite number that is not negative."""
    number = check_number(value, name)
    if number < 0:
        raise InvalidInputError(f"{name} must be at least 0, got {value!r}")
    return number


def check_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return one of some words."""
    if value not in choices:
        raise InvalidInputError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def check_parameters(parameters: Any, what: str = "parameter") -> None:
    """Check that parameters are arrays by name that can be changed in place."""
    if not isinstance(parameters, Mapping):
        raise InvalidInputError(f"{what}s must be a mapping of names to arrays, got {type(parameters).__name__}")
    for name, p in parameters.items():
        if not isinstance(p, np.ndarray):
            raise InvalidInputError(f"{what} {name!r} must be a numpy array, which can be changed in place, got {type(p).__name__}")
        if p.dtype.name not in COMPUTE_DTYPES:
            raise UnsupportedError(f"{what} {name!r} has dtype {p.dtype}: use float32, float64, float16 or bfloat16")
        if not p.flags.writeable:
            raise InvalidInputError(f"{what} {name!r} is read-only: pass the array itself, or a copy")
        if p.size and any(size > 1 and not stride for size, stride in zip(p.shape, p.strides, strict=True)):
            raise InvalidInputError(f"{what} {name!r} repeats its entries (strides {p.strides}): pass an array with an element of its own for each")


def check_names(parameters: Mapping[str, Any], gradients: Any, what: str = "gradients") -> None:
    """Check that there is one gradient for each parameter, and no more."""
    if not isinstance(gradients, Mapping):
        raise InvalidInputError(f"{what} must be a mapping of names to arrays, got {type(gradients).__name__}")
    for name in parameters:
        if name not in gradients:
            raise InvalidInputError(f"{what} lack parameter {name!r}: leave out of the parameters what is not to be trained")
    for name in gradients:
        if name not in parameters:
            raise InvalidInputError(f"{what} have {name!r}, which is no parameter: those are {', '.join(map(repr, parameters)) or 'none'}")


def check_gradient(name: str, gradient: Any, shape: tuple[int, ...] | None = None, largest: float = math.inf, what: str = "gradient") -> None:
    """Check a gradient: an array in the shape of its parameter, floating and finite, no entry larger than something."""
    if not isinstance(gradient, np.ndarray):
        raise InvalidInputError(f"{what} of {name!r} must be a numpy array, got {type(gradient).__name__}")
    if gradient.dtype.name not in COMPUTE_DTYPES:
        raise InvalidInputError(f"{what} of {name!r} has dtype {gradient.dtype}: use float32, float64, float16 or bfloat16")
    if shape is not None and gradient.shape != shape:
        raise DimensionMismatchError(f"{what} of {name!r} must have the shape of the parameter, {shape}, got {gradient.shape}")
    if not gradient.size:
        return
    most = largest_entry(gradient)
    if not math.isfinite(most):
        raise InvalidInputError(f"{what} of {name!r} must be finite, got {first_nonfinite(gradient)}")
    if most > largest:
        raise InvalidInputError(f"{what} of {name!r} has an entry of {most:.3g}, too large to compute with: see clip_gradients()")


def largest_entry(array: np.ndarray) -> float:
    """Return the largest entry of an array as it is without its sign: 0 of none, not finite where one isn't."""
    if not array.size:
        return 0.0
    with np.errstate(all="ignore"):  # NaN is the largest and the smallest of any numbers
        least, most = float(array.min()), float(array.max())
    return max(-least, most)  # both are NaN, or none is


def check_shapes(arrays: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], what: str, of_what: str) -> None:
    """Check that two mappings have the same names and shapes; for what was made of other parameters."""
    for name, array in arrays.items():
        if name not in others:
            raise InvalidInputError(f"{what} have {name!r}, which {of_what} lacks: it was made of other parameters")
        if np.shape(array) != others[name].shape:
            found = f"shape {np.shape(array)}, and {of_what} has {others[name].shape}"
            raise DimensionMismatchError(f"{what} have {name!r} with {found}: it was made of other parameters")
    for name in others:
        if name not in arrays:
            raise InvalidInputError(f"{what} lack {name!r}, which {of_what} has: it was made of other parameters")


def as_gradients(gradients: Any, shapes: Mapping[str, tuple[int, ...]] | None = None, what: str = "gradient") -> dict[str, np.ndarray]:
    """Return gradients as arrays by name, floating and finite, in given shapes."""
    if not isinstance(gradients, Mapping):
        raise InvalidInputError(f"{what}s must be a mapping of names to arrays, got {type(gradients).__name__}")
    found = {}
    for name, given in gradients.items():
        array = as_numbers(given, f"{what} of {name!r}")
        check_gradient(name, array, None if shapes is None else shapes[name], what=what)
        found[name] = array
    return found
