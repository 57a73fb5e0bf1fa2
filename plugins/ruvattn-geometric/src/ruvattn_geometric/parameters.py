"""Parameters of spaces, scores, aggregates and variants: a number, or one for each head."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.validation import as_numbers, check_int


def read_numbers(value: Any, name: str, *, positive: bool, hint: str) -> np.ndarray:
    """Return a parameter of a manifold, a number or an array of them, as float64."""
    array = as_numbers(value, name)
    kind = "positive and finite" if positive else "finite"
    if array.dtype.kind not in "fiu":
        raise InvalidInputError(f"{name} must be a number or an array of numbers, got {value!r}")
    numbers = np.array(array, np.float64)
    wrong = ~np.isfinite(numbers) | ((numbers <= 0) if positive else False)
    if wrong.any():
        raise InvalidInputError(f"{name} must be {kind}, got {numbers[wrong][0]}{f': {hint}' if hint else ''}")
    numbers.flags.writeable = False
    return numbers


def plain(numbers: np.ndarray) -> Any:
    """Return a parameter as it is shown: a float, or the array."""
    return numbers if numbers.ndim else float(numbers)


def by_head(numbers: np.ndarray, name: str) -> np.ndarray:
    """Return a parameter, a number or one for each head, as () or (H,); as the curvature of a manifold it is (H, 1), for points (..., H, L, D)."""
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim > 1 or not numbers.size:
        raise DimensionMismatchError(f"{name} must be a number or have shape (H,), one for each head, got shape {numbers.shape}")
    return numbers


def of_heads(value: Any) -> Any:
    """Return a parameter, a number or one for each head, with the axis that points (..., H, L, D) have."""
    return np.asarray(value)[:, None] if np.ndim(value) == 1 else value


def per_head(value: Any, name: str, heads: int, least: float | None = None) -> Any:
    """Check a number, or one number for each head.

    Parameters
    ----------
    value : float or sequence of `heads` floats
        The number.
    name : str
        What to call it in messages.
    heads : int
        Number of query heads.
    least : float, optional
        What it has to be at least. When not given, it has to be above 0.

    Returns
    -------
    float or tuple of float
        As it is kept in a configuration.

    Raises
    ------
    InvalidInputError
        If it is not such a number, or there are not so many.
    """
    heads = check_int(heads, "num_heads", 1)
    numbers = as_numbers(value, name)
    kind = "a positive finite number" if least is None else "a finite number" if least == -np.inf else f"a finite number from {least:g}"
    if numbers.dtype.kind not in "fiu":
        raise InvalidInputError(f"{name} must be {kind}, or one for each of the {heads} heads, got {value!r}")
    if numbers.ndim and numbers.shape != (heads,):
        raise InvalidInputError(f"{name} must be {kind}, or one for each of the {heads} heads, got shape {numbers.shape}")
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float64)
    wrong = ~np.isfinite(numbers) | (numbers <= 0 if least is None else numbers < least)
    if wrong.any():
        where = f" for head {int(wrong.argmax())}" if numbers.ndim else ""
        raise InvalidInputError(f"{name} must be {kind}, or one for each of the {heads} heads, got {numbers[wrong].flat[0]:g}{where}")
    return tuple(numbers.tolist()) if numbers.ndim else float(numbers)
