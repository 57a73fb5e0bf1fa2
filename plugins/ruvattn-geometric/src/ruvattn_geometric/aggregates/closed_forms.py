"""The closed forms of single manifolds: gyromidpoint, Einstein midpoint, Lorentz centroid and spherical mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..manifolds import GeometricManifold, Lorentz, PoincareBall, Sphere, Stereographic
from ..means.charts import settled
from ..parameters import plain
from ..vectors import dot, lengths, unit, wide
from .base import ClosedForm, nonzero, over, sizes, squares

EDGE = 2.0**-52
"""1 − c‖v‖² of what is on the edge of a ball or beyond: a point as far out as float64 has any."""


class Gyromidpoint(ClosedForm):
    """The mean in stereographic coordinates, of any curvature: ½ ⊗ Σ pλv / Σ p(λ−1).

    With λ = 2/(1 + κ‖v‖²). [1]_ It is smooth in κ: for κ < 0 the `EinsteinMidpoint`, for κ = 0 the mean Σ pv/Σ p, for κ > 0 the normalised mean
    on the sphere.

    Parameters
    ----------
    curvature : float or array, (H,)
        The sectional curvature κ, one number or one for each head of the values.

    Raises
    ------
    InvalidInputError
        If a curvature is NaN or infinite.
    DimensionMismatchError
        If it has another shape.

    Notes
    -----
    The sums are made in the dtype of the values. Far out in a ball that tells: what coordinates are off by grows with λ, and what hyperbolic
    distances are off by with λ². In float32 the former is 1e-5 at a λ of about 200, at 0.99 of the radius: values further out are better given in
    float64.

    A value on the edge of the ball or beyond, which is no point, counts as one that is as close to the edge as float64 can tell. A mean
    that is the antipode of the origin, which has no coordinates, is zeros.

    References
    ----------
    .. [1] Bachmann, Bécigneul and Ganea (2020), "Constant Curvature Graph Convolutional Networks".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import Gyromidpoint
    >>> points = np.array([[0.5, 0.0], [0.0, 0.5]])
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((2, 1)), points, aggregate=Gyromidpoint(-1.0)).round(6)
    array([[0.219224, 0.219224]])
    """

    _name = "curvature"
    _positive = False
    _extra = 2
    conformance_widths = (1, 5, 16, 33)

    def __init__(self, curvature: Any = -1.0) -> None:
        super().__init__(curvature)

    @property
    def curvature(self) -> Any:
        """The sectional curvature: a float, or an array of one for each head."""
        return plain(self._numbers)

    @property
    def _manifold(self) -> GeometricManifold:
        return Stereographic(self._curvature(self._numbers[:, None] if self._numbers.ndim else self._numbers))

    def _curvature(self, number: np.ndarray) -> np.ndarray:
        return number

    def _inside(self, v: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return 1 + κ‖v‖² of values, where they are points, and the values; those that are none are brought to the edge."""
        gap = 1 + np.where(kappa == 0, 0.0, kappa * squares(v))  # which may be infinite
        # A NaN is no point either, but stays one.
        inside = ~((gap < EDGE) & (kappa < 0))
        if inside.all():
            return gap, inside, v
        edge = unit(np.where(inside, 0.0, wide(v))) * np.sqrt((1 - EDGE) / np.where(kappa < 0, -kappa, 1.0))
        return np.where(inside, gap, EDGE), inside, np.where(inside, v, edge)

    def _fill(self, out: np.ndarray, v: np.ndarray, number: np.ndarray) -> None:
        gap, _, v = self._inside(v, self._curvature(number))
        scale = 2 / gap
        np.multiply(v, scale, out=out[..., :-2], casting="same_kind")
        out[..., -2:-1] = scale - 1
        out[..., -1] = 1

    def _fill_vjp(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        kappa = self._curvature(number)
        gap, inside, v = self._inside(v, kappa)
        scale = 2 / gap
        dvector, dwhole = dout[..., :-2], dout[..., -2:-1]
        found = scale * dvector - kappa * np.square(scale) * (dot(dvector, v) + dwhole) * v
        return np.where(inside, found, 0.0)

    def _fill_curvature(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        kappa = self._curvature(number)
        gap, inside, v = self._inside(v, kappa)
        scale = 2 / gap
        # ∂λ/∂κ = −λ²‖v‖²/2; at the edge λ stays, and v is a constant over √−κ.
        along = dot(dout[..., :-2], v)
        by_scale = -np.square(scale) / 2 * squares(v) * (along + dout[..., -2:-1])
        return np.where(inside, by_scale, -scale * along / (2 * nonzero(kappa)))

    def _parts(self, acc: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return √|κ| ‖vector‖, the length of the sum, √(whole² + κ‖vector‖²), whether that is the total, and whole + length: (..., 1).

        On the hyperboloid a sum is at least as long as the total of its weights, and just as long where all points are one. Rounding far out is of
        another mind, so that a length that comes out as less is taken to be the total.
        """
        along = np.sqrt(np.abs(kappa)) * sizes(acc[..., :-2])
        whole, total = wide(acc[..., -2:-1]), wide(acc[..., -1:])
        scale = nonzero(np.maximum(along, np.maximum(np.abs(whole), total)))  # whose square may underflow
        along, whole, total = along / scale, whole / scale, total / scale
        square = np.where(kappa < 0, (whole - along) * (whole + along), np.square(whole) + np.square(along))
        short = (kappa < 0) & (square < np.square(total))
        length = np.where(short, total, np.sqrt(square))
        # Beyond a quarter of the sphere whole < 0, and the sum would cancel.
        both = np.where(whole >= 0, whole + length, np.square(along) / nonzero(length - whole))
        return along * scale, length * scale, short, both * scale

    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        kappa = self._curvature(number)
        along, _, _, both = self._parts(acc, kappa)
        mean = over(acc[..., :-2], both)
        near = ((kappa < 0) & (along > (1 - 16 * epsilon) * both))[..., 0]
        if near.any():  # where rounding may lead out of the ball
            mean[near] = settled(mean[near], np.broadcast_to(kappa, along.shape)[near], mean.dtype)
        return mean

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        kappa, vector = self._curvature(number), acc[..., :-2]
        _, length, short, both = self._parts(acc, kappa)
        inverse = np.where(both == 0, 0.0, 1 / nonzero(both))
        dboth = -dot(dout, vector * inverse) * inverse
        by_length = dboth / nonzero(length)
        dvector = inverse * dout + np.where(short, 0.0, by_length * kappa) * vector
        dwhole = np.where(short, dboth, by_length * both)
        return np.concatenate([dvector, dwhole, np.where(short, dboth, 0.0)], axis=-1)

    def _mean_curvature(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        # ∂length/∂κ = ‖vector‖²/(2 length), unless the length is the total, which knows of no κ
        vector = acc[..., :-2]
        _, length, short, both = self._parts(acc, self._curvature(number))
        inverse = np.where(both == 0, 0.0, 1 / nonzero(both))
        size = lengths(vector)
        return np.where(short, 0.0, -dot(dout, vector * inverse) * (size * inverse) * (size / (2 * nonzero(length))))


class EinsteinMidpoint(Gyromidpoint):
    """The Einstein midpoint of points in the Poincaré ball: Σ pγv/Σ pγ in Klein coordinates.

    The same point is the `LorentzCentroid` on the hyperboloid, and it is computed as the `Gyromidpoint` of curvature −c. [1]_ It isn't the Fréchet
    mean: points that are far out count more.

    Parameters
    ----------
    c : float or array, (H,), default 1.0
        Minus the sectional curvature, positive; one number, or one for each head of the values.

    Raises
    ------
    InvalidInputError
        If a c isn't positive and finite.
    DimensionMismatchError
        If it has another shape.

    See Also
    --------
    Gyromidpoint : What is said there of far out values holds.

    References
    ----------
    .. [1] Gulcehre et al. (2019), "Hyperbolic Attention Networks".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import EinsteinMidpoint
    >>> points = np.array([[0.5, 0.0], [0.0, 0.5]])
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((2, 1)), points, aggregate=EinsteinMidpoint()).round(6)
    array([[0.219224, 0.219224]])
    """

    _name = "c"
    _positive = True
    _hint = "a ball has curvature −c < 0; Gyromidpoint(0.0) is flat"

    def __init__(self, c: Any = 1.0) -> None:
        super().__init__(c)

    @property
    def c(self) -> Any:
        """Minus the sectional curvature: a float, or an array of one for each head."""
        return plain(self._numbers)

    @property
    def curvature(self) -> Any:
        """The sectional curvature −c."""
        return plain(np.negative(self._numbers))

    @property
    def _manifold(self) -> GeometricManifold:
        return PoincareBall(self._numbers[:, None] if self._numbers.ndim else self._numbers)

    def _curvature(self, number: np.ndarray) -> np.ndarray:
        return np.negative(number)  # its own inverse, as above


class LorentzCentroid(ClosedForm):
    """The centroid of points on the hyperboloid: Σ pv/√(−c⟨Σ pv, Σ pv⟩).

    It minimises Σ p(cosh d − 1). [1]_ A point is what its space part says: the time coordinate is computed from that.

    Parameters
    ----------
    c : float or array, (H,), default 1.0
        Minus the sectional curvature, positive; one number, or one for each head of the values.

    Raises
    ------
    InvalidInputError
        If a c isn't positive and finite.
    DimensionMismatchError
        If it has another shape.

    Notes
    -----
    The sums are made in the dtype of the values, and √(t² − ‖x‖²) is a difference, which loses t² of its digits (c = 1): in float32 a mean at t = 10
    is accurate to 1e-5, and one beyond t = 1/√eps, about 3000, is brought back to that. Values further out are better given in float64.

    References
    ----------
    .. [1] Law et al. (2019), "Lorentzian Distance Learning for Hyperbolic Representations".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import Lorentz, LorentzCentroid
    >>> points = Lorentz().project(np.array([[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]))
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((3, 1)), points, aggregate=LorentzCentroid()).round(6)
    array([[1., 0.]])
    """

    _hint = "a hyperboloid has curvature −c < 0"

    def __init__(self, c: Any = 1.0) -> None:
        super().__init__(c)

    @property
    def c(self) -> Any:
        """Minus the sectional curvature: a float, or an array of one for each head."""
        return plain(self._numbers)

    @property
    def _manifold(self) -> GeometricManifold:
        return Lorentz(self._numbers[:, None] if self._numbers.ndim else self._numbers)

    def _fill(self, out: np.ndarray, v: np.ndarray, number: np.ndarray) -> None:
        out[..., :1] = np.hypot(1 / np.sqrt(number), sizes(v[..., 1:]))
        out[..., 1:] = v[..., 1:]

    def _fill_vjp(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        space = v[..., 1:]
        time = np.hypot(1 / np.sqrt(number), lengths(space))
        return np.concatenate([np.zeros_like(time), dout[..., 1:] + dout[..., :1] * (space / time)], axis=-1)

    def _fill_curvature(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        time = np.hypot(1 / np.sqrt(number), lengths(v[..., 1:]))  # √(−1/κ + ‖x‖²)
        return dout[..., :1] / (2 * np.square(number) * time)

    @staticmethod
    def _parts(acc: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return ‖x/t‖ of the sums, √(1 − ‖x/t‖²), whether that is all rounding, and t: (..., 1)."""
        time = wide(acc[..., :1])
        size = sizes(acc[..., 1:]) / nonzero(time)
        square = (1 - size) * (1 + size)
        lost = square < epsilon
        return size, np.sqrt(np.where(lost, epsilon, square)), lost, time

    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        size, length, _, time = self._parts(acc, epsilon)
        mean = over(acc, np.sqrt(number) * length * time)
        mean[..., :1] = np.where(time == 0, 0.0, np.hypot(1.0, size / length) / np.sqrt(number))
        return mean

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        size, length, lost, time = self._parts(acc, epsilon)
        klein = acc[..., 1:] / nonzero(time)
        # The time of the mean by its space part, that by x/t, of which the length is a function unless it is lost, and that by x and t.
        dspace = (dout[..., 1:] + dout[..., :1] * (klein / length / np.hypot(1.0, size / length))) / (np.sqrt(number) * length)
        dklein = dspace + np.where(lost, 0.0, dot(dspace, klein) / np.square(length)) * klein
        return np.where(time == 0, 0.0, np.concatenate([-dot(dklein, klein), dklein], axis=-1) / nonzero(time))

    def _mean_curvature(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        return dot(dout, self._mean(acc, number, epsilon)) / (2 * number)  # a mean is a direction, times 1/√c


class SphericalMean(ClosedForm):
    """The normalised mean of points on a sphere: R Σ pv/‖Σ pv‖.

    The point of the sphere that minimises Σ p‖x − v‖². [1]_

    Parameters
    ----------
    radius : float or array, (H,), default 1.0
        R, positive; one number, or one for each head of the values.

    Raises
    ------
    InvalidInputError
        If a radius isn't positive and finite.
    DimensionMismatchError
        If it has another shape.

    Notes
    -----
    Values that balance each other have no mean, and give zeros. Where they nearly do, the mean is what is left of them, rounding included.

    References
    ----------
    .. [1] Mardia and Jupp (2000), "Directional Statistics".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import SphericalMean
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((2, 1)), np.eye(2), aggregate=SphericalMean()).round(6)
    array([[0.707107, 0.707107]])
    """

    _name = "radius"

    def __init__(self, radius: Any = 1.0) -> None:
        super().__init__(radius)

    def _set(self, numbers: np.ndarray) -> None:
        super()._set(numbers)
        self._radius = numbers

    @property
    def _numbers(self) -> np.ndarray:
        """The radius, as it was given as long as the curvature is that of it: 1/√κ is off by a rounding."""
        kappa = np.asarray(self.params["curvature"], np.float64)
        return self._radius if np.array_equal(kappa, self._curvature(self._radius)) else 1 / np.sqrt(kappa)

    def _curvature(self, number: np.ndarray) -> np.ndarray:
        return 1 / np.square(number)

    @property
    def radius(self) -> Any:
        """The radius: a float, or an array of one for each head."""
        return plain(self._numbers)

    @property
    def _manifold(self) -> GeometricManifold:
        return Sphere(self._numbers[:, None] if self._numbers.ndim else self._numbers)

    def values(self, v: np.ndarray) -> np.ndarray:
        """Return what is summed, as `ruvattn.Aggregate` has it: the values themselves, unless the number of the head has to go along."""
        return super().values(v) if self._numbers.ndim else v

    def _fill(self, out: np.ndarray, v: np.ndarray, number: np.ndarray) -> None:
        out[...] = v

    def _fill_vjp(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        return dout

    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        return over(acc, sizes(acc) / number)

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        size, mean = lengths(acc), unit(acc)
        return np.where(size == 0, 0.0, number * (dout - dot(mean, dout) * mean) / nonzero(size))

    def _mean_curvature(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        return -(number**3) / 2 * dot(dout, unit(acc))  # ∂R/∂κ = −R³/2
