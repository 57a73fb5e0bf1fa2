"""Fréchet means and their gradients: reading of arguments, rows of weights in portions, and products component by component."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold
from ruvattn.validation import as_array, check_int, check_positive

from ..manifolds import Euclidean, Lorentz, Product, Sphere, Stereographic
from ..vectors import lengths
from .charts import ProjectedSphereChart, chart_of, settled
from .models import BLOCK, SphereModel
from .newton import minimised, solved

MAX_ITERATIONS = 100

TOLERANCES = {"float64": 1e-15, "float32": 1e-9, "float16": 1e-7, "bfloat16": 1e-7}
"""The residual, relative to the points' distance from their mean, that iterations stop at: far below what the dtype resolves, which costs one
iteration at most."""

FLAT = 1e-200
"""Stereographic coordinates of a curvature less than this, of either sign, are taken to be flat."""


def _shares(weights: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return weights that add up to 1, their sums, the points, and which rows have a mean that is a number.

    A point that isn't finite makes NaN of the rows in which it has a weight, and has no influence on others: there it becomes 0.
    """
    bad = ~np.isfinite(points).all(-1)
    with np.errstate(all="ignore"):
        totals = weights.sum(-1)
        wrong = ~np.isfinite(totals)
        if bad.any():
            wrong |= ((weights != 0) & bad).any(-1)
            points = np.where(bad[..., None], 0.0, points)
        usable = (totals > 0) & ~wrong
        shares = weights / np.where(usable, totals, 1.0)[:, None]
    return shares, np.where(wrong, np.nan, totals), points, usable


def _blocks(rows: np.ndarray, points: int) -> list[np.ndarray]:
    """Return the rows in portions of a bounded number of pairs."""
    step = max(1, BLOCK // max(1, points))
    return [rows[first : first + step] for first in range(0, len(rows), step)]


def _row_means(
    manifold: Manifold, parameter: Any, weights: np.ndarray, points: np.ndarray, tolerance: float | None, relative: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, residual and iterations of each row of weights (m, N), about points (N, D) or (m, N, D)."""
    m, width = len(weights), points.shape[-1]
    if np.ndim(parameter):
        signs = np.sign(parameter[:, 0])
        if (signs != signs[0]).any():  # curvatures on both sides of 0: each has a chart of its own
            found = np.zeros((m, width)), np.zeros(m), np.zeros(m, np.int64)
            for sign in (-1, 0, 1):
                rows = np.flatnonzero(signs == sign)
                own = points[rows] if points.ndim == 3 else points
                of_sign = _row_means(manifold, parameter[rows], weights[rows], own, tolerance, relative, max_iterations)
                for whole, some in zip(found, of_sign, strict=True):
                    whole[rows] = some
            return found
    shares, totals, points, usable = _shares(weights, points)
    means, residuals, iterations = np.zeros((m, width)), np.zeros(m), np.zeros(m, np.int64)
    means[np.isnan(totals)] = residuals[np.isnan(totals)] = np.nan
    chart, rows = chart_of(manifold, parameter), np.flatnonzero(usable)
    if chart is None:
        means[rows] = np.matmul(shares[rows, None], points[rows])[:, 0] if points.ndim == 3 else shares[rows] @ points
        return means, residuals, iterations
    shared = chart.model(chart.states(points)) if points.ndim == 2 else None
    for part in _blocks(rows, points.shape[-2]):
        local = chart.rows(part)
        scale = np.broadcast_to(local.scale, (len(part), 1))[:, 0]
        model = shared if shared is not None else local.model(local.states(points[part]))
        limits = np.full(len(part), relative) if tolerance is None else tolerance / scale
        states, left, iterations[part] = minimised(model, shares[part], limits, tolerance is not None, max_iterations)
        means[part], residuals[part] = local.points(states), left * scale
    return means, residuals, iterations


def frechet_mean(
    manifold: Manifold, points: Any, weights: Any = None, *, tolerance: float | None = None, max_iterations: int = MAX_ITERATIONS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Fréchet mean of points: the point that minimises Σ w d².

    Parameters
    ----------
    manifold : Manifold
        One of this package; a curvature that is an array, of shape (..., 1), broadcasts against the leading axes of points.
    points : array, (..., N, D)
        Points; they are not checked.
    weights : array, (..., N), optional
        At least 0; only their ratios matter. Without, all are the same.
    tolerance : float, optional
        The residual to stop at. Default: 1e-15 times the root mean square distance of the points from the mean for float64, 1e-9 for float32. What
        rounding leaves is the limit of both.
    max_iterations : int, default 100
        After how many iterations to stop in any case.

    Returns
    -------
    mean : ndarray, (..., D)
        In the dtype of `points`; zeros where all weights are 0, or where points on a sphere balance each other.
    residual : ndarray, (...)
        The length of Σ w log(points) at the mean, with weights that add up to 1; float64. In hyperbolic space the distance from the true mean is less
        than that.
    iterations : ndarray of int, (...)
        How many were made.

    Raises
    ------
    InvalidInputError
        If the manifold is another one, or a weight is negative or not finite.
    DimensionMismatchError
        If shapes do not fit.

    See Also
    --------
    frechet_means : Many rows of weights about the same points.

    Notes
    -----
    Newton's method, whose equations conjugate gradients solve. Where one of its steps leads uphill, that step is instead one of a method that
    never does: normalising Σ w (d/sinh d) y on the hyperboloid, which bounds the sum from above [1]_, or Σ w log y on the sphere. In hyperbolic
    space there is one minimum, and it is found. On a sphere there is for points within less than a quarter of it around some centre [2]_; otherwise
    the minimum may be a local one.

    References
    ----------
    .. [1] Lou et al. (2020), "Differentiating through the Fréchet Mean".
    .. [2] Afsari (2011), "Riemannian L^p center of mass: existence, uniqueness, and convexity".

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import PoincareBall
    >>> from ruvattn_geometric.means import frechet_mean
    >>> mean, residual, _ = frechet_mean(PoincareBall(), np.array([[0.0, 0.6], [0.0, -0.6], [0.8, 0.0]]), np.array([1.0, 1.0, 2.0]))
    >>> (mean.round(6) + 0.0).tolist(), bool(residual < 1e-12)
    ([0.412943, 0.0], True)
    """
    array = as_array(points, "points")
    if array.ndim < 2:
        raise DimensionMismatchError(f"points must be (..., N, D), got shape {array.shape}")
    shares = np.ones(array.shape[-2]) if weights is None else np.asarray(as_array(weights, "weights"), np.float64)
    if shares.ndim == 0 or shares.shape[-1] != array.shape[-2]:
        raise DimensionMismatchError(f"weights must be (..., {array.shape[-2]}), as there are so many points, got shape {shares.shape}")
    wrong = ~((shares >= 0) & (shares < np.inf))
    if wrong.any():
        raise InvalidInputError(f"weights must be finite and at least 0, got {shares[wrong][0]}")
    return _mean(manifold, array, shares, *_limits(array, tolerance, max_iterations))


def _limits(points: np.ndarray, tolerance: float | None, max_iterations: int) -> tuple[float | None, float, int]:
    """Return the tolerance, what stands for it by the dtype, and the greatest number of iterations."""
    if tolerance is not None:
        tolerance = check_positive(tolerance, "tolerance")
    return tolerance, TOLERANCES.get(points.dtype.name, TOLERANCES["float64"]), check_int(max_iterations, "max_iterations", 1)


def _mean(
    manifold: Manifold, points: np.ndarray, weights: np.ndarray, tolerance: float | None, relative: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(manifold, Product):
        components = zip(manifold.components, manifold.split(points), strict=True)
        parts = [_mean(part, own, weights, tolerance, relative, max_iterations) for (part, _), own in components]
        lead = np.broadcast_shapes(*(residual.shape for _, residual, _ in parts))
        means = np.concatenate([np.broadcast_to(mean, (*lead, mean.shape[-1])) for mean, _, _ in parts], axis=-1)
        residuals = np.sqrt(sum(np.square(residual) for _, residual, _ in parts))
        iterations = np.max([np.broadcast_to(count, lead) for _, _, count in parts], axis=0)
        return means, np.broadcast_to(residuals, lead), iterations
    parameter = _parameter_of(manifold)
    try:
        lead = np.broadcast_shapes(points.shape[:-2], weights.shape[:-1], parameter.shape[:-1])
    except ValueError:
        raise DimensionMismatchError(
            f"leading axes must broadcast, got points {points.shape[:-2]}, weights {weights.shape[:-1]} and curvature {parameter.shape}"
        ) from None
    if parameter.ndim and parameter.shape[-1] != 1:
        raise DimensionMismatchError(f"a mean is of points of one curvature, which must have shape (..., 1), got {parameter.shape}")
    size, (n, width) = int(np.prod(lead)), points.shape[-2:]
    rows = np.broadcast_to(weights, (*lead, n)).reshape(size, n)
    numbers = np.broadcast_to(parameter, (*lead, 1)).reshape(size, 1) if parameter.size > 1 else parameter.reshape(())[()]
    # Points that all rows have in common are one array, which need not be repeated: broadcast ones have strides of 0.
    common = parameter.size == 1 and all(k == 1 or not stride for k, stride in zip(points.shape[:-2], points.strides[:-2], strict=True))
    wide = points.astype(np.float64, copy=False)
    own = wide[(0,) * (points.ndim - 2)] if common and size else np.broadcast_to(wide, (*lead, n, width)).reshape(size, n, width)
    mean, residual, iterations = _row_means(manifold, numbers, rows, own, tolerance, relative, max_iterations)
    mean = settled(mean.reshape(*lead, width), parameter if isinstance(manifold, Stereographic) else None, points.dtype)
    return mean, residual.reshape(lead), iterations.reshape(lead)


def _parameter_of(manifold: Manifold) -> np.ndarray:
    if not isinstance(manifold, Stereographic | Lorentz | Sphere | Euclidean):
        raise InvalidInputError(f"manifold must be one of ruvattn_geometric, got {manifold!r}")
    parameter = manifold._parameter
    if isinstance(manifold, Stereographic):  # in units of so small a curvature the squares of coordinates underflow, and space is flat
        return np.where(np.abs(parameter) < FLAT, 0.0, parameter)
    return parameter


def frechet_means(
    manifold: Manifold, weights: Any, points: Any, *, tolerance: float | None = None, max_iterations: int = MAX_ITERATIONS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Fréchet means of the same points under many rows of weights, as attention needs them.

    Parameters
    ----------
    manifold : Manifold
        One of this package, of one curvature.
    weights : array, (m, N)
        At least 0; only the ratios in a row matter.
    points : array, (N, D)
        Points; they are not checked. One that isn't finite has no influence on rows in which its weight is 0.
    tolerance, max_iterations : optional
        As for `frechet_mean`.

    Returns
    -------
    means : ndarray, (m, D)
        In the dtype of `points`; zeros where all weights are 0, or where points on a sphere balance each other.
    residuals : ndarray, (m,)
        As for `frechet_mean`.
    iterations : ndarray of int, (m,)
        How many were made.

    Raises
    ------
    InvalidInputError
        If the manifold is another one.
    DimensionMismatchError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Sphere
    >>> from ruvattn_geometric.means import frechet_means
    >>> frechet_means(Sphere(), np.array([[1.0, 1.0], [2.0, 1.0]]), np.eye(2))[0].round(6)
    array([[0.707107, 0.707107],
           [0.866025, 0.5     ]])
    """
    rows, array = _read_rows(manifold, weights, points)
    return _mean(manifold, array, rows, *_limits(array, tolerance, max_iterations))


def _read_rows(manifold: Manifold, weights: Any, points: Any) -> tuple[np.ndarray, np.ndarray]:
    for part in [own for own, _ in manifold.components] if isinstance(manifold, Product) else [manifold]:
        if _parameter_of(part).ndim:
            raise DimensionMismatchError(f"manifold must have one curvature, which all rows share, got {manifold!r}")
    array, rows = np.asarray(points), np.asarray(weights)
    if array.ndim != 2 or rows.ndim != 2 or rows.shape[1] != array.shape[0]:
        raise DimensionMismatchError(f"weights must be (m, N) and points (N, D), got shapes {rows.shape} and {array.shape}")
    return rows.astype(np.float64, copy=False), array


def frechet_means_vjp(manifold: Manifold, weights: Any, points: Any, means: Any, dmeans: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of weights and points, given that of their Fréchet means.

    Parameters
    ----------
    manifold : Manifold
        As for `frechet_means`.
    weights : array, (m, N)
        As for `frechet_means`.
    points : array, (N, D)
        As for `frechet_means`.
    means : array, (m, D)
        What that returned.
    dmeans : array, (m, D)
        Gradient of the means.

    Returns
    -------
    dweights : ndarray, (m, N)
        Gradient of the weights, float64; 0 in rows that have no mean.
    dpoints : ndarray, (N, D)
        Gradient of the points, float64. A point on the hyperboloid is a function of its space part, so that the gradient of its time is 0; one on
        a sphere is a function of its direction.

    Raises
    ------
    InvalidInputError
        If the manifold is another one.
    DimensionMismatchError
        If shapes do not fit.

    Notes
    -----
    The mean is where Σ w log(points) is 0, so that by the implicit function theorem its derivative is H⁻¹ times that of the sum, where H is the
    Hessian of Σ w d²/2 [1]_. H is applied to vectors only.

    References
    ----------
    .. [1] Lou et al. (2020), "Differentiating through the Fréchet Mean".
    """
    rows, array = _read_rows(manifold, weights, points)
    wide = array.astype(np.float64, copy=False)
    out, dout = (np.asarray(x, np.float64) for x in (means, dmeans))
    if out.shape != (len(rows), array.shape[1]) or dout.shape != out.shape:
        raise DimensionMismatchError(f"means and dmeans must be {(len(rows), array.shape[1])}, got shapes {out.shape} and {dout.shape}")
    if isinstance(manifold, Product):
        parts = [
            frechet_means_vjp(part, rows, wide[:, own], out[:, own], dout[:, own])
            for (part, _), own in zip(manifold.components, manifold.slices, strict=True)
        ]
        return np.sum([dweights for dweights, _ in parts], axis=0), np.concatenate([dpoints for _, dpoints in parts], axis=-1)
    shares, totals, wide, usable = _shares(rows, wide)
    chart = chart_of(manifold, _parameter_of(manifold)[()])
    dweights = np.zeros(rows.shape)
    dweights[np.isnan(totals)] = np.nan
    if chart is None:
        some = np.flatnonzero(usable)
        dweights[some] = (dout[some] @ wide.T - np.vecdot(dout[some], out[some])[:, None]) / totals[some, None]
        return dweights, shares[some].T @ dout[some]
    states = chart.states(wide)
    model = chart.model(states)
    dmodel = np.zeros(model.y.shape)
    tolerance = max(1e-14, TOLERANCES.get(array.dtype.name, 0.0))
    usable &= out.any(-1) if isinstance(model, SphereModel) and not isinstance(chart, ProjectedSphereChart) else True
    for part in _blocks(np.flatnonzero(usable), len(wide)):
        x = chart.states(out[part])
        pairs = model.pairs(x)
        right = chart.frame(x, dout[part] * chart.scale)
        tangent = solved(model, x, pairs, shares[part], right, tolerance, 200)
        with np.errstate(over="ignore"):  # of weights that are nearly 0
            dweights[part] = model.along(x, pairs, tangent) / totals[part, None]
        dmodel += model.backward(x, pairs, shares[part], tangent)
    scale = 1.0 if isinstance(manifold, Sphere) else chart.scale
    return dweights, chart.pulled(wide / scale, states, dmodel) / scale


NEARLY_FLAT = {"float64": 1e-7, "float32": 2e-4}
"""Below this |κ|‖x‖² the derivative by κ is that at κ = 0: what follows from lengths divides by κ what rounding leaves, and is as far off there."""


def frechet_curvatures_vjp(manifold: Manifold, weights: Any, points: Any, means: Any, dmeans: Any) -> list[float | None]:
    """Return the gradients of the sectional curvatures of a manifold, given that of Fréchet means.

    Parameters
    ----------
    manifold, weights, points, means, dmeans : Manifold and arrays
        As for `frechet_means_vjp`.

    Returns
    -------
    list of float or None
        One for each component of a product, or for the manifold; None for flat space, which has no curvature to change.

    Raises
    ------
    InvalidInputError
        If the manifold is another one.
    DimensionMismatchError
        If shapes do not fit.

    Notes
    -----
    In units of r = 1/√|κ| all is as for a curvature of ±1: the mean is r times a function of points/r. So its derivative by r is (mean − Σ
    ∂mean/∂point · point)/r, of which the second part is the gradient of the points, times the points; and ∂r/∂κ = −r/2κ. In stereographic
    coordinates that is smooth through 0, where log_m y = Δ − κ(2 m·Δ + ‖Δ‖²/3)Δ + κ‖Δ‖² m + …, with Δ = y − m.
    """
    if isinstance(manifold, Product):
        wide, out, dout = np.asarray(points), np.asarray(means), np.asarray(dmeans)
        return [
            frechet_curvatures_vjp(part, weights, wide[:, own], out[:, own], dout[:, own])[0]
            for (part, _), own in zip(manifold.components, manifold.slices, strict=True)
        ]
    if isinstance(manifold, Euclidean):
        return [None]
    _, dpoints = frechet_means_vjp(manifold, weights, points, means, dmeans)
    rows, array = _read_rows(manifold, weights, points)
    out, dout = (np.asarray(x, np.float64) for x in (means, dmeans))
    kappa = float(np.asarray(manifold.curvature))
    shares, _, wide, usable = _shares(rows, array.astype(np.float64, copy=False))
    if isinstance(manifold, Stereographic) and abs(kappa) * np.square(lengths(wide)).max(initial=0.0) < NEARLY_FLAT.get(array.dtype.name, 2e-4):
        return [_flat_curvature(shares[usable], wide, out[usable], dout[usable])]
    touched = dout.any(-1)
    outward = float((dout[touched] * out[touched]).sum() - (dpoints * wide).sum())
    return [-outward / (2 * kappa)]


def _flat_curvature(shares: np.ndarray, points: np.ndarray, means: np.ndarray, dmeans: np.ndarray) -> float:
    """The gradient of a curvature of 0."""
    products, own = means @ points.T, np.vecdot(means, means)[:, None]
    along = products - own
    square = np.maximum(np.vecdot(points, points) - 2 * products + own, 0.0)
    bent = -shares * (2 * along + square / 3)
    by_curvature = bent @ points + ((shares * square).sum(-1) - bent.sum(-1))[:, None] * means
    return float((dmeans * by_curvature).sum())
