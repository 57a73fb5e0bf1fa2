"""What the manifolds share: reading, checking and rounding of arrays around formulas in float64.

    distance(x, y)  ──►  arrays, widths, points checked  ──►  _distance(x, y), float64  ──►  rounded to the dtype that came

A subclass has the formulas: the methods with an underscore, which take float64 arrays of points that were checked, and which other modules of
this package call in loops of their own. Where points carry a coordinate too much, as on the hyperboloid and on the sphere, the formulas make no
use of what rounding has left off in it.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold
from ruvattn.validation import as_array, check_bool, check_finite, check_int, check_positive

from ..parameters import plain, read_numbers
from ..vectors import EPSILON, epsilon_of, in_front, ratio, rounded, wide

__all__ = ["GeometricManifold"]


class GeometricManifold(Manifold):
    """A manifold of this package: the abstract one, with the methods that follow from its formulas.

    All methods take arrays of float32, float64, float16 or bfloat16 and broadcast their leading axes. They compute in float64 and round the result
    to the widest dtype that came. A curvature may be an array that broadcasts against the leading axes, so that for points (..., H, L, D) one
    of shape (H, 1) is one per head. Points that are off the manifold by more than rounding are an error that names the worst of them; of float64
    they may be off by as much as of float32.
    """

    _extra = 0  # coordinates of a point beyond the dimension; they stand first
    _stretch = 1.0  # the length at the origin of a tangent vector of Euclidean length 1

    # --- the formulas, float64 ------------------------------------------------------------------------------------------------

    _parameter: np.ndarray = np.zeros(())  # curvature, c or radius: what broadcasts against the leading axes

    @abstractmethod
    def _distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _inner(self, base: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _exp(self, base: np.ndarray, tangent: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _log(self, base: np.ndarray, point: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _transport(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _project(self, x: np.ndarray, epsilon: float) -> np.ndarray: ...

    @abstractmethod
    def _project_tangent(self, vector: np.ndarray, base: np.ndarray) -> np.ndarray: ...

    def _riemannian(self, base: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The tangent vector whose inner product with others is that of the gradient by coordinates with them."""
        return self._project_tangent(gradient, base)

    @abstractmethod
    def _midpoint(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Points (..., N, D), weights (..., N, 1) that add up to 1 or are all 0; (..., 1, D)."""

    def _centred(self, guess: np.ndarray, points: np.ndarray, weights: np.ndarray, kappa: np.ndarray) -> np.ndarray:
        """The midpoint for κ < 0 once more, seen from a guess (..., 1, D) that is near it.

        The closed form in coordinates takes a difference of squares, which far from the origin is lost in rounding; seen from nearby it isn't.
        """
        root = np.sqrt(np.maximum(-kappa, 0))
        steps = self._log(guess, points)
        angles = root * self._norm(guess, steps)[..., None]
        near = (kappa < 0) & (angles.max(-2, keepdims=True) < 300)
        if not near.any():
            return guess
        angles = np.where(near, angles, 0.0)
        step = (weights * ratio(np.sinh(angles), angles, 1.0) * steps).sum(-2, keepdims=True)
        height = (weights * np.cosh(angles)).sum(-2, keepdims=True)
        height = np.where(height > 0, height, 1.0)
        along = root * self._norm(guess, step)[..., None]
        return np.where(near, self._exp(guess, step * ratio(np.arctanh(along / height), along, 1 / height)), guess)

    def _origin(self, width: int) -> np.ndarray:
        return np.zeros((*self._parameter.shape, width))

    def _random(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
        tangent = rng.standard_normal((*shape[:-1], shape[-1] - self._extra)) * (scale / self._stretch / np.sqrt(max(shape[-1] - self._extra, 1)))
        return self._exp(self._origin(shape[-1]), in_front(tangent) if self._extra else tangent)

    @abstractmethod
    def _excess(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        """How far off points are, beyond what rounding explains: negative for points, NaN for what isn't finite."""

    @abstractmethod
    def _complaint(self, x: np.ndarray, at: tuple[Any, ...]) -> str:
        """What is wrong with one vector, which stands at an index of the leading axes."""

    def _slant(self, tangent: np.ndarray, base: np.ndarray) -> np.ndarray:
        """How far off the tangent space vectors are, relative to their length; 0 where points have no coordinate too much."""
        return np.zeros(np.broadcast_shapes(tangent.shape[:-1], base.shape[:-1]))

    def _at(self, at: tuple[Any, ...]) -> Any:
        """Return the parameter at an index of the leading axes."""
        shape = self._parameter.shape
        return plain(self._parameter[tuple(0 if n == 1 else i for i, n in zip(at[len(at) - len(shape) :], shape, strict=True))])

    def _lifted(self) -> Self:
        """Return this manifold for points (..., N, 1, D), where it was for points (..., N, D)."""
        other = copy.copy(self)
        if self._parameter.ndim:
            other._parameter = self._parameter[..., None]
        return other

    # --- points and distances -------------------------------------------------------------------------------------------------

    def distance(self, x: Any, y: Any) -> np.ndarray:
        """Return the geodesic distance of points, as `ruvattn.Manifold` has it."""
        x, y = self._read(x=x, y=y)
        self.check(x, "x")
        self.check(y, "y")
        return rounded(self._distance(wide(x), wide(y)), x, y)

    def pairwise_distance(self, x: Any, y: Any = None) -> np.ndarray:
        """Return the distance of each point from each other point.

        Parameters
        ----------
        x : array, (..., N, D)
            Points.
        y : array, (..., M, D), optional
            Points; without, those of `x`.

        Returns
        -------
        ndarray, (..., N, M)
            At least 0.

        Raises
        ------
        InvalidInputError
            If one of them is off the manifold.
        DimensionMismatchError
            If widths or leading axes do not fit.

        Notes
        -----
        Compiled, with the score of `ruvattn_geometric.DistanceScore`: in float32 where points are float32, and within about 1e-6 of the distance
        in float64. For a curvature that isn't one per head, and so has axes that no head stands for, it is `distance` over blocks of rows.
        """
        x, y = self._same_width(x=x, y=x if y is None else y)
        for name, points in (("x", x), ("y", y)):
            if points.ndim < 2:
                raise DimensionMismatchError(f"{name} must be points (..., N, D), got shape {points.shape}")
            self.check(points, name)
        lead = self._lead({"x": x.shape[:-2], "y": y.shape[:-2]}, rows=True)
        shape = self._parameter.shape
        if x.dtype == y.dtype and all(n == 1 for n in (*shape[:-2], *shape[-1:])) and x.size and y.size:
            from ruvattn import attention_logits

            from ..scores import DistanceScore

            x, y = (np.broadcast_to(points, (*lead, *points.shape[-2:])) for points in (x, y))
            found = attention_logits(x, y, score=DistanceScore(self))
            return np.abs(found, out=found)
        out = np.empty((*lead, x.shape[-2], y.shape[-2]), np.result_type(x, y))
        lifted, columns = self._lifted(), wide(y)[..., None, :, :]
        rows = max(1, 2**21 // max(1, columns.size))
        for start in range(0, x.shape[-2], rows):
            part = slice(start, start + rows)
            out[..., part, :] = lifted._distance(wide(x[..., part, None, :]), columns)
        return out

    def check(self, x: Any, name: str = "x") -> None:
        """Raise if one of several vectors is no point.

        Parameters
        ----------
        x : array, (..., D)
            What should be points.
        name : str, default "x"
            What messages call it.

        Raises
        ------
        InvalidInputError
            If a vector is off the manifold by more than rounding in its dtype explains, or isn't finite. The message names the one that is
            furthest off, and how far that is.
        DimensionMismatchError
            If there are too few coordinates.
        """
        x = self._vectors(x, name)
        with np.errstate(all="ignore"):
            excess = self._excess(wide(x), epsilon_of(x))
            if (excess < 0).all():
                return
        at = np.unravel_index(int(np.where(np.isnan(excess), np.inf, excess).argmax()), excess.shape)
        row = np.broadcast_to(x, (*excess.shape, x.shape[-1]))[at]
        if not np.isfinite(row).all():
            raise InvalidInputError(f"{name} must be finite: {_row(at)} holds {row[~np.isfinite(row)][0]}")
        raise InvalidInputError(
            f"{name}: {_row(at)} {self._complaint(wide(row), at)}; move such rows with project(…), or create a variant with project=True"
        )

    def outside(self, x: Any) -> np.ndarray:
        """Tell which vectors are no points.

        Parameters
        ----------
        x : array, (..., D)
            Vectors.

        Returns
        -------
        ndarray of bool, (...)
            True where one is off the manifold by more than rounding in its dtype explains, or isn't finite.

        Raises
        ------
        DimensionMismatchError
            If there are too few coordinates.
        """
        x = self._vectors(x, "x")
        with np.errstate(all="ignore"):
            return ~(self._excess(wide(x), epsilon_of(x)) < 0)

    def project(self, x: Any) -> np.ndarray:
        """Return the points of the manifold that are closest to vectors, as `ruvattn.Manifold` has it; points stay as they are, NaN too."""
        x = self._vectors(x, "x")
        with np.errstate(all="ignore"):
            return rounded(self._project(wide(x), epsilon_of(x)), x)

    def origin(self, width: int, dtype: Any = np.float64) -> np.ndarray:
        """Return the point that the maps without a base start from.

        Parameters
        ----------
        width : int
            How many coordinates a point has.
        dtype : dtype, default float64
            Of the result.

        Returns
        -------
        ndarray, (width,)
            The point; with the axes of the curvature in front, if that is an array.

        Raises
        ------
        InvalidInputError
            If the width is no int, or is too small.
        DimensionMismatchError
            If it isn't that of a product.
        """
        return self._origin(self._check_width(width)).astype(dtype)

    def random(self, shape: Any, *, seed: Any = None, scale: float = 1.0, dtype: Any = np.float64) -> np.ndarray:
        """Return random points: a normal distribution on the tangent space at the origin, wrapped around the manifold.

        Parameters
        ----------
        shape : tuple of int
            Of the result; the last is the number of coordinates.
        seed : int or Generator, optional
            As for ``numpy.random.default_rng``.
        scale : float, default 1.0
            The root mean square of the points' distance from the origin.
        dtype : dtype, default float64
            Of the result.

        Returns
        -------
        ndarray, `shape`
            Points.

        Raises
        ------
        InvalidInputError
            If an argument is no such thing, or the scale is so large that points in this dtype round onto the edge of the ball.
        """
        try:
            sizes = tuple(check_int(n, "shape", 0) for n in shape)
        except TypeError:
            raise InvalidInputError(f"shape must be a tuple of ints, got {shape!r}") from None
        if not sizes:
            raise InvalidInputError("shape must end with the number of coordinates, got ()")
        self._check_width(sizes[-1])
        scale = check_positive(scale, "scale")
        points = self._random(np.random.default_rng(seed), sizes, scale).astype(dtype)
        if points.shape != sizes:
            raise DimensionMismatchError(f"shape must have the axes of the curvature, got {shape!r}, which broadcasts to {points.shape}")
        if self.outside(points).any():
            raise InvalidInputError(f"scale is {scale}: points so far out are none in {points.dtype}; make it smaller")
        return points

    # --- tangent vectors ------------------------------------------------------------------------------------------------------

    def inner_product(self, base: Any, u: Any, v: Any) -> np.ndarray:
        """Return the inner product of tangent vectors in the metric at a point, as `ruvattn.Manifold` has it."""
        base, u, v = self._read(base=base, u=u, v=v)
        self.check(base, "base")
        check_finite(u, "u")
        check_finite(v, "v")
        return rounded(self._inner(wide(base), wide(u), wide(v)), base, u, v)

    def norm(self, base: Any, u: Any) -> np.ndarray:
        """Return the length of tangent vectors in the metric at a point.

        Parameters
        ----------
        base : array, (..., D)
            The point.
        u : array, (..., D)
            Tangent vectors there.

        Returns
        -------
        ndarray, (...)
            At least 0.

        Raises
        ------
        InvalidInputError
            If the base is off the manifold, or `u` isn't finite.
        DimensionMismatchError
            If shapes do not fit.
        """
        base, u = self._read(base=base, u=u)
        self.check(base, "base")
        check_finite(u, "u")
        return rounded(self._norm(wide(base), wide(u)), base, u)

    def _norm(self, base: np.ndarray, u: np.ndarray) -> np.ndarray:
        return np.sqrt(self._inner(base, u, u))

    def exp_map(self, base: Any, tangent: Any) -> np.ndarray:
        """Return where the geodesic arrives that leaves a point with a velocity, as `ruvattn.Manifold` has it."""
        base, tangent = self._read(base=base, tangent=tangent)
        self.check(base, "base")
        check_finite(tangent, "tangent")
        return rounded(self._exp(wide(base), wide(tangent)), base, tangent)

    def log_map(self, base: Any, point: Any) -> np.ndarray:
        """Return the velocity with which the geodesic from one point arrives at another, as `ruvattn.Manifold` has it."""
        base, point = self._read(base=base, point=point)
        self.check(base, "base")
        self.check(point, "point")
        return rounded(self._log(wide(base), wide(point)), base, point)

    def exp_map0(self, tangent: Any) -> np.ndarray:
        """Return `exp_map` at the origin.

        Parameters
        ----------
        tangent : array, (..., D)
            Tangent vectors at the origin.

        Returns
        -------
        ndarray, (..., D)
            Points. In a ball, those that are far out may round onto the edge, and then are none: `outside` tells, and `project` moves them.

        Raises
        ------
        InvalidInputError
            If one is no tangent vector there.
        DimensionMismatchError
            If there are too few coordinates.
        """
        tangent = self._vectors(tangent, "tangent")
        base = self._origin(tangent.shape[-1])
        self._check_tangent(tangent, base, "tangent")
        return rounded(self._exp(base, wide(tangent)), tangent)

    def log_map0(self, point: Any) -> np.ndarray:
        """Return `log_map` at the origin.

        Parameters
        ----------
        point : array, (..., D)
            Points.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at the origin.

        Raises
        ------
        InvalidInputError
            If one is off the manifold.
        DimensionMismatchError
            If there are too few coordinates.
        """
        point = self._vectors(point, "point")
        self.check(point, "point")
        return rounded(self._log(self._origin(point.shape[-1]), wide(point)), point)

    def geodesic(self, t: Any, x: Any, y: Any) -> np.ndarray:
        """Return points on the geodesic from one point to another.

        Parameters
        ----------
        t : array, (...)
            When: 0 at `x`, 1 at `y`, and beyond them where it is less or more.
        x, y : array, (..., D)
            From where, and to where.

        Returns
        -------
        ndarray, (..., D)
            Points.

        Raises
        ------
        InvalidInputError
            If `x` or `y` is off the manifold, or `t` isn't finite.
        DimensionMismatchError
            If shapes do not fit.
        """
        x, y = self._read(x=x, y=y)
        self.check(x, "x")
        self.check(y, "y")
        when = read_numbers(t, "t", positive=False, hint="")
        self._lead({"t": when.shape, "x": x.shape[:-1], "y": y.shape[:-1]})
        start, stop = wide(x), wide(y)
        return rounded(self._exp(start, when[..., None] * self._log(start, stop)), x, y)

    def transport(self, tangent: Any, base: Any, point: Any) -> np.ndarray:
        """Return tangent vectors after parallel transport along the geodesic, as `ruvattn.Manifold` has it."""
        tangent, base, point = self._read(tangent=tangent, base=base, point=point)
        self.check(base, "base")
        self.check(point, "point")
        check_finite(tangent, "tangent")
        return rounded(self._transport(wide(tangent), wide(base), wide(point)), tangent, base, point)

    def project_tangent(self, point: Any, base: Any) -> np.ndarray:
        """Return the tangent vectors that are closest to vectors, as `ruvattn.Manifold` has it."""
        vector, base = self._read(point=point, base=base)
        self.check(base, "base")
        check_finite(vector, "point")
        return rounded(self._project_tangent(wide(vector), wide(base)), vector, base)

    def riemannian_gradient(self, point: Any, gradient: Any) -> np.ndarray:
        """Return the direction of steepest ascent, given the gradient by coordinates: the tangent vector u with ⟨u, v⟩ = gradient·v for all v.

        Parameters
        ----------
        point : array, (..., D)
            Points.
        gradient : array, (..., D)
            The derivatives by their coordinates, such as `ruvattn.TrainableAttention.backward` returns.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors: in stereographic coordinates the gradient over λ²; on the hyperboloid with the sign of the first coordinate turned, and
            then projected; on the sphere projected; in a product component by component.

        Raises
        ------
        InvalidInputError
            If a point is off the manifold, or the gradient isn't finite.
        DimensionMismatchError
            If shapes do not fit.

        References
        ----------
        .. [1] Bécigneul and Ganea (2019), "Riemannian Adaptive Optimization Methods".

        Examples
        --------
        >>> import numpy as np
        >>> from ruvattn_geometric import PoincareBall
        >>> PoincareBall().riemannian_gradient(np.array([0.6, 0.0]), np.array([1.0, 0.0])).round(6)
        array([0.1024, 0.    ])
        """
        point, gradient = self._read(point=point, gradient=gradient)
        self.check(point, "point")
        check_finite(gradient, "gradient")
        return rounded(self._riemannian(wide(point), wide(gradient)), point, gradient)

    def check_tangent(self, tangent: Any, base: Any, name: str = "tangent") -> None:
        """Raise if one of several vectors is no tangent vector.

        The other methods do not: of a vector that is off the tangent space they take the part that counts. A sum that cancels, as a gradient at
        a minimum, is made of rounding, which is tangent to nothing.

        Parameters
        ----------
        tangent : array, (..., D)
            What should be tangent vectors.
        base : array, (..., D)
            The points that they should be tangent vectors at.
        name : str, default "tangent"
            What messages call it.

        Raises
        ------
        InvalidInputError
            If a vector is off the tangent space by more than the root of a rounding in its dtype, relative to its length, or isn't finite. The
            message names the one that is furthest off, and how far that is.
        DimensionMismatchError
            If shapes do not fit.
        """
        tangent, base = self._read(**{name: tangent, "base": base})
        self.check(base, "base")
        self._check_tangent(tangent, base, name)

    def _check_tangent(self, tangent: np.ndarray, base: np.ndarray, name: str) -> None:
        check_finite(tangent, name)
        slant = self._slant(wide(tangent), wide(base))
        if not (slant > np.sqrt(max(epsilon_of(tangent), epsilon_of(base), EPSILON["float32"]))).any():
            return
        at = np.unravel_index(int(slant.argmax()), slant.shape)
        raise InvalidInputError(
            f"{name}: {_row(at)} is no tangent vector at its base, but off by {slant[at]:.2g} of its length; project_tangent(…) makes it one"
        )

    # --- means ----------------------------------------------------------------------------------------------------------------

    def mean(
        self, points: Any, weights: Any = None, *, method: str = "frechet", tolerance: float | None = None, max_iterations: int | None = None,
        return_residual: bool = False,
    ) -> Any:  # fmt: skip
        """Return the weighted mean of points.

        Parameters
        ----------
        points : array, (..., N, D)
            Points.
        weights : array, (..., N), optional
            At least 0; only their ratios matter. Without, all are the same.
        method : {"frechet", "midpoint"}, default "frechet"
            The Fréchet mean, which minimises Σ w d² and takes iterations, or what `midpoint` returns.
        tolerance : float, optional
            The residual that iterations stop at; by default a few roundings.
        max_iterations : int, optional
            After how many they stop in any case.
        return_residual : bool, default False
            Whether to return the residual too.

        Returns
        -------
        mean : ndarray, (..., D)
            Points; zeros where all weights are 0.
        residual : ndarray, (...)
            Only with `return_residual`: the length of Σ w log(points) at the mean, which is 0 at the Fréchet mean; the weights add up to 1.

        Raises
        ------
        InvalidInputError
            If a point is off the manifold, weights are negative or not finite, or another argument is no such thing.
        DimensionMismatchError
            If shapes do not fit.
        """
        if method not in ("frechet", "midpoint"):
            raise InvalidInputError(f"method must be 'frechet' or 'midpoint', got {method!r}")
        check_bool(return_residual, "return_residual")
        points, shares = self._read_weighted(points, weights)
        if method == "midpoint":
            mean = np.where(shares.any(-1, keepdims=True), self._midpoint(wide(points), shares[..., None])[..., 0, :], 0.0)
            residual = self._residual(mean, wide(points), shares) if return_residual else None
        else:
            from ..means import frechet_mean

            options: dict[str, Any] = {}
            if tolerance is not None:
                options["tolerance"] = check_positive(tolerance, "tolerance")
            if max_iterations is not None:
                options["max_iterations"] = check_int(max_iterations, "max_iterations", 1)
            mean, residual, _ = frechet_mean(self, wide(points), shares, **options)
        mean = rounded(mean, points)
        return (mean, rounded(residual, points)) if residual is not None and return_residual else mean

    def midpoint(self, points: Any, weights: Any = None) -> np.ndarray:
        """Return the weighted mean of points that has a closed form.

        In hyperbolic space the Lorentz centroid, which in the ball is the Einstein midpoint; on the sphere the normalised mean; in
        stereographic coordinates the gyromidpoint, which is both; the mean in flat space; in a product, that of each component.

        Parameters
        ----------
        points : array, (..., N, D)
            Points.
        weights : array, (..., N), optional
            At least 0; only their ratios matter. Without, all are the same.

        Returns
        -------
        ndarray, (..., D)
            Points; zeros where there is no mean, as all weights are 0, or as points on a sphere balance each other.

        Raises
        ------
        InvalidInputError
            If a point is off the manifold, or weights are negative or not finite.
        DimensionMismatchError
            If shapes do not fit.

        References
        ----------
        .. [1] Ungar (2008), "A Gyrovector Space Approach to Hyperbolic Geometry".
        .. [2] Law et al. (2019), "Lorentzian Distance Learning for Hyperbolic Representations".
        .. [3] Bachmann et al. (2020), "Constant Curvature Graph Convolutional Networks".
        """
        return self.mean(points, weights, method="midpoint")

    def _residual(self, mean: np.ndarray, points: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The length of the step that would lead to the Fréchet mean, if space were flat; 0 where there is no mean."""
        there = np.any(shares, axis=-1, keepdims=True)[..., None]
        base = np.where(there, mean[..., None, :], self._origin(points.shape[-1]))
        step = (shares[..., None] * self._log(base, points)).sum(-2, keepdims=True)
        return np.where(there[..., 0], self._norm(base, step), 0.0)[..., 0]

    def _read_weighted(self, points: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return points, checked, and weights in float64 that add up to 1, or are 0 where all are."""
        points = self._vectors(points, "points")
        if points.ndim < 2:
            raise DimensionMismatchError(f"points must be (..., N, D), got shape {points.shape}")
        if points.shape[-2] == 0:
            raise InvalidInputError(f"points must hold at least one point, got shape {points.shape}")
        self.check(points, "points")
        shape = self._parameter.shape
        if shape and shape[-1] != 1:
            raise DimensionMismatchError(f"a mean is of points of one curvature, which must have shape (..., 1), got {shape}")
        if weights is None:
            shares = np.full(points.shape[:-1], 1 / points.shape[-2])
        else:
            given = as_array(weights, "weights")
            if given.ndim == 0 or given.shape[-1] != points.shape[-2]:
                raise DimensionMismatchError(f"weights must be (..., {points.shape[-2]}), as there are so many points, got shape {given.shape}")
            self._lead({"points": points.shape[:-1], "weights": given.shape})
            shares = wide(given)
            wrong = ~((shares >= 0) & (shares < np.inf))
            if wrong.any():
                raise InvalidInputError(f"weights must be finite and at least 0, got {shares[wrong][0]}")
            shares = shares / np.maximum(shares.max(-1, keepdims=True), np.finfo(float).tiny)  # so that their sum neither under- nor overflows
            shares = shares / np.where(shares.any(-1, keepdims=True), shares.sum(-1, keepdims=True), 1.0)
        lead = np.broadcast_shapes(points.shape[:-1], shares.shape, shape)
        return np.broadcast_to(points, (*lead, points.shape[-1])), np.broadcast_to(shares, lead)

    # --- arrays ---------------------------------------------------------------------------------------------------------------

    def _check_width(self, width: Any) -> int:
        """Return a number of coordinates that points can have."""
        return check_int(width, "width", 1 + self._extra)

    def _vectors(self, x: Any, name: str) -> np.ndarray:
        """Return an argument as vectors of a width that this manifold has, with leading axes that fit its curvature."""
        array = as_array(x, name)
        if not array.ndim or array.shape[-1] < 1 + self._extra:
            raise DimensionMismatchError(f"{name} must be (..., D), D at least {1 + self._extra}, got shape {array.shape}")
        self._lead({name: array.shape[:-1]})
        return array

    def _same_width(self, **given: Any) -> list[np.ndarray]:
        """Return arguments as vectors of one width."""
        arrays = {name: self._vectors(x, name) for name, x in given.items()}
        if len({array.shape[-1] for array in arrays.values()}) > 1:
            widths = ", ".join(f"{name} {array.shape[-1]}" for name, array in arrays.items())
            raise DimensionMismatchError(f"arrays must have the same number of coordinates, got {widths}")
        return list(arrays.values())

    def _read(self, **given: Any) -> list[np.ndarray]:
        """Return arguments as vectors that fit each other."""
        arrays = self._same_width(**given)
        self._lead({name: array.shape[:-1] for name, array in zip(given, arrays, strict=True)})
        return arrays

    def _lead(self, shapes: dict[str, tuple[int, ...]], *, rows: bool = False) -> tuple[int, ...]:
        """Return the leading axes that several arrays broadcast to, together with the curvature; without the last of that, for `rows`."""
        shape = self._parameter.shape
        try:
            return np.broadcast_shapes(*shapes.values(), shape[:-1] if rows else shape)
        except ValueError:
            among = ", ".join(f"{name} {axes}" for name, axes in shapes.items())
            curvature = f" and the curvature {shape}" if shape else ""
            raise DimensionMismatchError(f"leading axes must broadcast, got {among}{curvature}") from None


def _row(at: tuple[Any, ...]) -> str:
    """Name a row in a message."""
    index = tuple(int(i) for i in at)
    return f"row {index if len(index) > 1 else index[0]}" if index else "it"
