"""Derivatives of the maps between points and tangent vectors: what coordinates and curvature they depend on, and how.

    coordinates are vector · f(z),  z = κ ‖vector‖²  ──►  f and f' ──►  gradient by the vector: f g + 2κ f' (g·vector) vector
                                                                   └──►  by the curvature:      f' ‖vector‖² (g·vector)

Each f is one function of z for both signs of the curvature, and smooth through 0: tan √z/√z, for example, is tanh √−z/√−z. Its derivative is a
quotient that cancels near 0, (1 + z f² − f)/2z here, and there it is summed up as a series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..vectors import dot, epsilon_of, lengths, unit, wide
from .base import GeometricManifold
from .euclidean import Euclidean
from .lorentz import Lorentz
from .product import Product
from .sphere import Sphere

__all__ = ["asinh_ratio", "atan_ratio", "components_of", "project_vjp", "sin_ratio", "summed_to", "tan_ratio"]

SMALL = 0.2
"""Below this |z|, the series; it is short there, and above it the quotient loses a digit at most."""

TERMS = 26


# --- functions of z = κ‖x‖², with their derivatives ---------------------------------------------------------------------------------


def _tan_series() -> list[float]:
    # tan' = 1 + tan², so that f + 2z f' = 1 + z f².
    series = [1.0]
    for n in range(1, TERMS):
        series.append(sum(series[i] * series[n - 1 - i] for i in range(n)) / (2 * n + 1))
    return series


def _sin_series() -> list[float]:
    series = [1.0]
    for n in range(1, TERMS):
        series.append(-series[-1] / (2 * n * (2 * n + 1)))
    return series


def _asin_series() -> list[float]:
    series, central = [1.0], 1.0
    for n in range(1, TERMS):
        central *= (2 * n - 1) / (2 * n)
        series.append(central / (2 * n + 1))
    return series


def _slopes(series: Sequence[float]) -> np.ndarray:
    return np.array([n * a for n, a in enumerate(series)][1:])


_TAN, _SIN, _ASIN = (_slopes(series()) for series in (_tan_series, _sin_series, _asin_series))
_ATAN = _slopes([(-1.0) ** n / (2 * n + 1) for n in range(TERMS)])


def _slope(z: np.ndarray, value: np.ndarray, end: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Return (end − value)/2z, or the series where z is small."""
    small = np.abs(z) < SMALL
    quotient = (end - value) / np.where(small, 1.0, 2 * z)
    return np.where(small, np.polynomial.polynomial.polyval(np.where(small, z, 0.0), series), quotient)


def _quotient(value: np.ndarray, root: np.ndarray) -> np.ndarray:
    return np.where(root == 0, 1.0, value / np.where(root == 0, 1.0, root))


def tan_ratio(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f(z) = tan √z/√z, for z < 0 tanh √−z/√−z, and f'(z)."""
    root = np.sqrt(np.abs(z))
    tangent = np.where(z > 0, np.tan(np.where(z > 0, root, 0.0)), np.tanh(root))
    value = _quotient(tangent, root)
    end = np.where(z > 0, 1 + np.square(tangent), 1 / np.square(np.cosh(np.minimum(root, 350.0))))
    return value, _slope(z, value, end, _TAN)


def sin_ratio(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return f(z) = sin √z/√z, for z < 0 sinh √−z/√−z, f'(z), and cos √z, for z < 0 cosh √−z, whose derivative is −f/2."""
    root = np.sqrt(np.abs(z))
    far = np.where(z < 0, root, 0.0)
    value = _quotient(np.where(z > 0, np.sin(root), np.sinh(far)), root)
    cosine = np.where(z > 0, np.cos(root), np.cosh(far))
    return value, _slope(z, value, cosine, _SIN), cosine


def atan_ratio(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f(z) = arctan √z/√z, for −1 < z < 0 artanh √−z/√−z, and f'(z)."""
    root = np.sqrt(np.abs(z))
    inside = np.where(z < 0, root, 0.0)
    value = _quotient(np.where(z > 0, np.arctan(root), np.arctanh(inside)), root)
    end = 1 / np.where(z > 0, 1 + z, (1 - inside) * (1 + inside))
    return value, _slope(z, value, end, _ATAN)


def asinh_ratio(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f(z) = arsinh √−z/√−z for z ≤ 0, and f'(z)."""
    root = np.sqrt(np.abs(z))
    value = _quotient(np.arcsinh(root), root)
    return value, _slope(z, value, 1 / np.hypot(1.0, root), _ASIN)


# --- sums over rows -----------------------------------------------------------------------------------------------------------------


def summed_to(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers (...) of rows, added up over all axes along which an array of a shape repeats."""
    extra = rows.ndim - len(shape)
    axes = (*range(extra), *(extra + at for at, n in enumerate(shape) if n == 1 and rows.shape[extra + at] != 1))
    return rows.sum(axes).reshape(shape)


def components_of(manifold: GeometricManifold) -> list[tuple[GeometricManifold, slice]]:
    """Return the components of a product with their columns; of any other manifold that itself, with all columns."""
    if isinstance(manifold, Product):
        return [(part, columns) for (part, _), columns in zip(manifold.components, manifold.slices, strict=True)]
    return [(manifold, slice(None))]


def project_vjp(manifold: GeometricManifold, x: np.ndarray, dpoints: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the gradients of `Manifold.project`, given that of the points.

    Parameters
    ----------
    manifold : Manifold
        Any of this package.
    x : ndarray, (..., D)
        The vectors that were projected.
    dpoints : ndarray, (..., D)
        The gradient of the points.

    Returns
    -------
    dx : ndarray, (..., D)
        Gradient of the vectors, float64. What moved onto the edge of a ball or onto a sphere has none along itself, and a time none at all.
    dcurvatures : list of ndarray
        For each component of a product, or for the manifold, the gradient of its sectional curvature, in the shape of that; zeros in flat space.
    """
    dx = np.empty(np.broadcast_shapes(x.shape, dpoints.shape))
    found = []
    with np.errstate(all="ignore"):
        for part, columns in components_of(manifold):
            own, by_rows = _project_vjp(part, x[..., columns], wide(dpoints[..., columns]))
            dx[..., columns] = own
            found.append(summed_to(by_rows, part._parameter.shape))
    return dx, found


def _project_vjp(manifold: GeometricManifold, x: np.ndarray, dpoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    epsilon, x = epsilon_of(x), wide(x)
    if isinstance(manifold, Euclidean):
        return dpoints, np.zeros(dpoints.shape[:-1])
    kappa = np.asarray(manifold.curvature)[..., None]
    points = manifold._project(x, epsilon)
    if isinstance(manifold, Lorentz):  # the time is √(−1/κ + ‖x‖²)
        dspace = dpoints[..., 1:] + dpoints[..., :1] * (x[..., 1:] / points[..., :1])
        dkappa = dpoints[..., :1] / (2 * np.square(kappa) * points[..., :1])
        return np.concatenate([np.zeros_like(dspace[..., :1]), dspace], axis=-1), dkappa[..., 0]
    # The length is a constant times 1/√|κ|, and the direction that of x.
    size = lengths(x)
    moved = np.ones(size.shape, bool) if isinstance(manifold, Sphere) else (kappa < 0) & (1 + kappa * np.square(size) <= 0)
    outward = unit(x)
    around = (dpoints - dot(dpoints, outward) * outward) * np.where(size > 0, lengths(points) / np.where(size > 0, size, 1.0), 0.0)
    dkappa = np.where(moved, -dot(dpoints, points) / (2 * np.where(kappa == 0, 1.0, kappa)), 0.0)
    return np.where(moved, around, dpoints), dkappa[..., 0]
