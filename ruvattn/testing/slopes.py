"""Gradients against finite differences, for functions of several arrays of which some are large: along a few directions, and for a few entries.

    loss(arrays) ─► slopes at ±h, ±2h along x(t) ─► must be Σ gradient · dx/dt, to a millionth

x(t) is x + t·u, or, where a subject draws its inputs by itself, what it draws if the numbers that it draws from are moved by t·u: points of a sphere
then move along it. Where the function has a kink nearby the slope is taken closer; where it has one right there the gradient has to lie between the
slopes of the two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .cases import require, sample
from .runner import CheckFailure

__all__ = ["curve_of", "require_gradients"]

Loss = Callable[[Mapping[str, np.ndarray]], float]
Curve = Callable[[np.ndarray], np.ndarray]

STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Distances, relative to the size of the numbers. Differences of order four err by h⁴ and by eps/h; a kink spoils those that reach over it."""

RELATIVE = 1e-6
"""How exact a slope has to be."""

ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""What rounding may do to a loss, relative to its size. Were it more, the smallest steps would let pass what the largest finds."""

FEW = 5
"""Of so many entries all are tried."""


def require_gradients(
    loss: Loss,
    arrays: Mapping[str, np.ndarray],
    gradients: Mapping[str, Any],
    *,
    curves: Mapping[str, Curve] | None = None,
    directions: int = 2,
    entries: int = 3,
    seed: int = 0,
) -> None:
    """Require that gradients agree with finite differences of a loss, to a millionth.

    Parameters
    ----------
    loss : callable
        Takes arrays by name, of which one is another than in `arrays`, and returns a number.
    arrays : mapping of str to ndarray
        Where the gradients are; in float64, or in a narrower dtype to which what is tried is rounded.
    gradients : mapping of str to ndarray
        One for each array.
    curves : mapping of str to callable, optional
        For arrays that can't be moved anywhere, by name: takes a shift, in the shape of the array, and returns where it leads to.
    directions : int, default 2
        How many random directions are tried for each array.
    entries : int, default 3
        How many single entries are tried for each array, the one with the largest gradient among them; all of a small array.
    seed : int, default 0
        Of the directions.

    Raises
    ------
    CheckFailure
        If a gradient has another shape, is not finite, or is another than the differences tell.
    """
    base = float(loss(arrays))
    require(np.isfinite(base), f"the loss must be finite, got {base}")
    for name, at in arrays.items():
        require(name in gradients, f"there must be a gradient of {name}")
        found = np.asarray(gradients[name])
        require(found.shape == at.shape, f"the gradient of {name} must have shape {at.shape}, got {found.shape}")
        found = found.astype(np.float64)
        require(np.isfinite(found).all(), f"the gradient of {name} must be finite")
        rng = np.random.default_rng([seed, at.size])
        curve = (curves or {}).get(name)
        wide = np.zeros(at.shape) if curve else at.astype(np.float64)
        for words, unit in _units(wide, found, rng, directions, entries):

            def moved(t: float, name: str = name, wide: np.ndarray = wide, unit: np.ndarray = unit, curve: Any = curve) -> tuple[float, np.ndarray]:
                point = (wide + t * unit if curve is None else curve(t * unit)).astype(arrays[name].dtype)
                return float(loss({**arrays, name: point})), point.astype(np.float64)

            _require_slope(moved, found, base, f"the gradient of {name}{words}")


class _Shifted:
    """A generator whose first normal numbers of a shape are moved."""

    def __init__(self, rng: np.random.Generator, shift: np.ndarray) -> None:
        self._rng = rng
        self._shift: np.ndarray | None = shift

    def standard_normal(self, size: Any = None, *args: Any, **options: Any) -> Any:
        drawn = self._rng.standard_normal(size, *args, **options)
        if self._shift is not None and np.shape(drawn) == self._shift.shape:
            drawn, self._shift = drawn + self._shift, None
        return drawn

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        return loc + scale * self.standard_normal(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


class _Moved:
    """A subject that draws what it draws from numbers that are moved."""

    def __init__(self, subject: Any, shift: np.ndarray) -> None:
        self.subject, self.shift = subject, shift

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn: np.ndarray = self.subject.conformance_inputs(_Shifted(rng, self.shift), role, shape)
        return drawn


def curve_of(subject: Any, role: str, shape: tuple[int, ...], seed: int = 0) -> Curve | None:
    """Return where the sample of a subject leads if the normal numbers that it is drawn from are moved.

    Parameters
    ----------
    subject : object
        What may have ``conformance_inputs``.
    role : {"query", "key", "value"}
        As for `ruvattn.testing.cases.sample`.
    shape : tuple of int
        Likewise.
    seed : int, default 0
        Likewise.

    Returns
    -------
    callable or None
        Takes a shift of that shape and returns the sample, in float64; None where any array will do.
    """
    if not hasattr(subject, "conformance_inputs"):
        return None
    return lambda shift: sample(_Moved(subject, shift), role, shape, np.float64, seed)


def _units(at: np.ndarray, gradient: np.ndarray, rng: np.random.Generator, directions: int, entries: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what to move an array by, for a step of 1."""
    if not at.size:
        return
    typical = float(np.sqrt(np.mean(np.square(at)))) or 1.0
    typical = min(typical, 1.0)
    if at.size > FEW:
        for _ in range(directions):
            yield " along a random direction", rng.standard_normal(at.shape) * (typical / np.sqrt(at.size))
        chosen = [int(np.abs(gradient).argmax()), *(int(i) for i in rng.integers(0, at.size, max(0, entries - 1)))][:entries]
    else:
        chosen = list(range(at.size))
    for flat in dict.fromkeys(chosen):
        unit = np.zeros(at.shape)
        unit.flat[flat] = max(abs(float(at.flat[flat])), typical / 16)
        index = [int(i) for i in np.unravel_index(flat, at.shape)]
        yield (f" at {index}" if index else ""), unit


def _require_slope(moved: Callable[[float], tuple[float, np.ndarray]], gradient: np.ndarray, base: float, what: str) -> None:
    """Compare one slope, over smaller steps where the first is no good."""
    first: tuple[float, float, float] | None = None
    for h in STEPS:
        (up, x_up), (down, x_down), (up2, x_up2), (down2, x_down2) = (moved(t) for t in (h, -h, 2 * h, -2 * h))
        slope = (8 * (up - down) - (up2 - down2)) / (12 * h)
        rise = gradient * ((8 * (x_up - x_down) - (x_up2 - x_down2)) / (12 * h))
        found, size = float(rise.sum()), float(np.sqrt(np.square(rise).sum()))
        allowed = RELATIVE * max(abs(slope), size) + ROUNDING / h * max(1.0, abs(base))
        if abs(found - slope) <= allowed:
            return
        first = first or (found, slope, allowed)
        sides = sorted(((up - base) / h, (base - down) / h))
    if sides[1] - sides[0] > 1e-3 * max(map(abs, sides)) and sides[0] - allowed <= found <= sides[1] + allowed:
        return  # a kink right here
    assert first is not None
    found, slope, allowed = first
    raise CheckFailure(f"{what} must agree with finite differences: got {found:.10g} instead of {slope:.10g} (allowed difference {allowed:.2g})")
