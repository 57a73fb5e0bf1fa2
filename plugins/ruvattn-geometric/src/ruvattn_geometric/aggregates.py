"""Aggregates on manifolds: how values that are points combine.

    values ──► columns to add up ──► Σ p·columns, streamed by the engine ──► one map of each row        closed forms
    weights of whole rows ──► ruvattn_geometric.means                                                   Fréchet means

Each closed form is a sum in the space around the hyperboloid or the sphere, brought back to it, whatever coordinates the points are given in:

    Gyromidpoint(κ)       ball, flat space, stereographic sphere     [λv | λ−1 | 1] ─► ½ ⊗ Σ pλv / Σ p(λ−1),  λ = 2/(1+κ‖v‖²)
      EinsteinMidpoint(c)   the ball, κ = −c
    LorentzCentroid(c)    hyperboloid                                v              ─► Σ pv / √(−c⟨Σ pv, Σ pv⟩)
    SphericalMean(radius) sphere                                     v              ─► R Σ pv / ‖Σ pv‖
    ComponentwiseMean     product                                    those of each component, side by side

All of them depend on the ratios of weights only, so that sinks and dropout change nothing but those, and a row that has no mean, as all its weights
were dropped or as its values on a sphere balance each other, is zeros.

A parameter may be a number or one for each head of the values. Then the number of the head rides along, in two more columns: Σ p and Σ p·head,
whose quotient says what parameter a sum is to be finished with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ruvattn.aggregates import Aggregate
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold

from .manifolds import Euclidean, GeometricManifold, Lorentz, PoincareBall, Product, Sphere, Stereographic
from .manifolds.base import lengths, plain, read_numbers, unit
from .manifolds.product import DEFAULT_SIGNATURE
from .means import frechet_means, frechet_means_vjp, settled

__all__ = [
    "REGISTERED",
    "ComponentwiseMean",
    "EinsteinMidpoint",
    "FrechetMean",
    "Gyromidpoint",
    "LorentzCentroid",
    "SphericalMean",
    "closed_form",
    "frechet",
    "product_mean",
]

EDGE = 2.0**-52
"""1 − c‖v‖² of what is on the edge of a ball or beyond: a point as far out as float64 has any."""


def _wide(x: np.ndarray) -> np.ndarray:
    """Return an array in float64 or wider."""
    return x.astype(np.result_type(x.dtype, np.float64), copy=False)


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.vecdot(x, y)[..., None]


def _sizes(x: np.ndarray) -> np.ndarray:
    """Return the norms of rows, (..., 1), in float64 or wider, of float32 without a wider copy."""
    if x.dtype == np.float32:  # whose squares cannot overflow there
        return np.sqrt(_squares(x))
    return lengths(_wide(x))


def _squares(x: np.ndarray) -> np.ndarray:
    """Return the squared norms of rows, (..., 1), in float64 or wider."""
    return np.einsum("...i,...i->...", x, x, dtype=np.result_type(x.dtype, np.float64))[..., None]


def _over(x: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return x/denominator in the dtype of x, 0 where the denominator is."""
    if x.dtype == np.float32:  # whose reciprocals float64 holds, and multiplication is faster
        return np.multiply(x, np.where(denominator == 0, 0.0, 1 / _nonzero(denominator)), out=np.empty_like(x), casting="same_kind")
    return np.divide(x, denominator, out=np.zeros_like(x), where=denominator != 0)


def _nonzero(x: np.ndarray) -> np.ndarray:
    """Return what may be divided by."""
    return np.where(x != 0, x, 1.0)


class _ClosedForm(Aggregate):
    """A closed form with one parameter, a number or one for each head of the values."""

    _name = "c"
    _positive = True
    _hint = ""
    _extra = 0  # columns beside those of a point
    conformance_widths: tuple[int, ...] = (2, 5, 16, 33)

    def __init__(self, number: Any) -> None:
        numbers = read_numbers(number, self._name, positive=self._positive, hint=self._hint)
        if numbers.ndim == 2 and numbers.shape[1] == 1:  # as the curvature of a manifold is for points (..., H, L, D)
            numbers = numbers[:, 0]
        if numbers.ndim > 1 or not numbers.size:
            raise DimensionMismatchError(f"{self._name} must be a number, or (H,), one for each head of the values, got shape {numbers.shape}")
        self._numbers = numbers

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name}={self._numbers.tolist()!r})"

    def for_head(self, head: int) -> Aggregate:
        """Return the aggregate with the parameter of one head, as `ruvattn.Aggregate` has it."""
        if not self._numbers.ndim:
            return self
        other = copy.copy(self)
        other._numbers = self._numbers[head]
        return other

    @property
    def _manifold(self) -> GeometricManifold:
        """The manifold, with an axis for the points of a head."""
        raise NotImplementedError

    @property
    def conformance_heads(self) -> int | None:
        """For how many heads of values it is; None: any."""
        return len(self._numbers) if self._numbers.ndim else None

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return points for the conformance suite, within a part of a sphere that has a mean."""
        return _sample(self._manifold, rng, shape)

    # --- what subclasses have; `number` broadcasts against rows (..., 1), and gradients are of float64 or wider ---------------------

    def _fill(self, out: np.ndarray, v: np.ndarray, number: np.ndarray) -> None:
        """Write what is added up."""
        raise NotImplementedError

    def _fill_vjp(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        """Return the mean of a sum in its dtype, which has that epsilon."""
        raise NotImplementedError

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    @property
    def _beside(self) -> int:
        """How many columns are added up beside the coordinates."""
        return self._extra + (2 if self._numbers.ndim else 0)

    # --- the interface ---------------------------------------------------------------------------------------------------------------

    def _of_values(self, v: np.ndarray) -> np.ndarray:
        """Return the parameter of each row of values."""
        if not self._numbers.ndim:
            return self._numbers
        if v.ndim < 3 or v.shape[-3] != len(self._numbers):
            raise DimensionMismatchError(
                f"{self._name} has {len(self._numbers)} entries, one for each head of the values, which must be (..., {len(self._numbers)}, Lk, Dv); "
                f"got values of shape {v.shape}"
            )
        return self._numbers[:, None, None]

    def _of_sums(self, acc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums, and the parameter of each."""
        if not self._numbers.ndim:
            return acc, self._numbers
        total = acc[..., -2:-1]
        with np.errstate(invalid="ignore"):
            head = np.nan_to_num(np.rint(acc[..., -1:] / _nonzero(total)))
        return acc[..., :-2], self._numbers[np.clip(head, 0, len(self._numbers) - 1).astype(np.intp)]

    def values(self, v: np.ndarray) -> np.ndarray:
        """Return what is summed, as `ruvattn.Aggregate` has it."""
        number = self._of_values(v)
        width = v.shape[-1] + self._extra
        out = np.empty((*v.shape[:-1], v.shape[-1] + self._beside), v.dtype)
        with np.errstate(all="ignore"):  # values that no row sees may be anything
            self._fill(out[..., :width], v, number)
        if self._numbers.ndim:
            out[..., -2] = 1
            out[..., -1] = np.arange(len(self._numbers))[:, None]
        return out

    def values_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> np.ndarray:
        """Return the gradient of the values, as `ruvattn.Aggregate` has it."""
        number = self._of_values(v)
        with np.errstate(all="ignore"):
            return self._fill_vjp(_wide(v), number, _wide(dvalues[..., : v.shape[-1] + self._extra])).astype(v.dtype, copy=False)

    def finish(self, acc: np.ndarray) -> np.ndarray:
        """Return the means, as `ruvattn.Aggregate` has it."""
        sums, number = self._of_sums(acc)
        with np.errstate(all="ignore"):  # rows that see a NaN
            return self._mean(sums, number, float(np.finfo(acc.dtype).eps))

    def finish_vjp(self, acc: np.ndarray, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of the sums, as `ruvattn.Aggregate` has it."""
        sums, number = self._of_sums(acc)
        sums = _wide(sums)
        found = np.zeros(acc.shape, acc.dtype)  # the head's number and what it is multiplied with have none
        with np.errstate(all="ignore"):
            found[..., : sums.shape[-1]] = self._mean_vjp(sums, number, float(np.finfo(acc.dtype).eps), _wide(dout))
        return found


# --- manifolds with a curvature for each head -------------------------------------------------------------------------------------


def _heads_of(manifold: GeometricManifold) -> int | None:
    """Return for how many heads of values the curvature of a manifold is; None: it is one number."""
    if isinstance(manifold, Product):
        counts = {count for part, _ in manifold.components if (count := _heads_of(part)) is not None}
        if len(counts) > 1:
            raise DimensionMismatchError(f"the curvatures of components must be for the same number of heads, got {sorted(counts)}")
        return counts.pop() if counts else None
    shape = manifold._parameter.shape
    if not shape:
        return None
    if len(shape) > 2 or shape[1:] not in ((), (1,)) or not shape[0]:
        raise DimensionMismatchError(f"a curvature must be a number or (H, 1), one for each head of the values, got shape {shape}")
    return shape[0]


def _with_parameter(manifold: GeometricManifold, change: Callable[[np.ndarray], np.ndarray]) -> GeometricManifold:
    """Return a manifold, or product of them, whose parameters that are arrays are changed."""
    if isinstance(manifold, Product):
        return Product([(_with_parameter(part, change), width) for part, width in manifold.components])
    if not manifold._parameter.ndim:
        return manifold
    other = copy.copy(manifold)
    other._parameter = change(manifold._parameter)
    return other


def _of_head(manifold: Any, head: int) -> Any:
    """Return the manifold of one head."""
    return _with_parameter(manifold, lambda numbers: numbers.reshape(-1)[head])


def _sample(manifold: GeometricManifold, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return random points (..., H, L, D), no further apart than a mean on a sphere is unique for."""
    manifold = _with_parameter(manifold, lambda numbers: numbers.reshape(-1, 1))
    curvatures = manifold.curvature if isinstance(manifold.curvature, tuple) else (manifold.curvature,)
    largest = max(1.0, *(float(np.abs(curvature).max()) for curvature in curvatures))
    return manifold.random(shape, seed=rng, scale=0.5 / np.sqrt(largest))


# --- closed forms -----------------------------------------------------------------------------------------------------------------


class Gyromidpoint(_ClosedForm):
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
        gap = 1 + np.where(kappa == 0, 0.0, kappa * _squares(v))  # which may be infinite
        # A NaN is no point either, but stays one.
        inside = ~((gap < EDGE) & (kappa < 0))
        if inside.all():
            return gap, inside, v
        edge = unit(np.where(inside, 0.0, _wide(v))) * np.sqrt((1 - EDGE) / np.where(kappa < 0, -kappa, 1.0))
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
        found = scale * dvector - kappa * np.square(scale) * (_dot(dvector, v) + dwhole) * v
        return np.where(inside, found, 0.0)

    def _parts(self, acc: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return √|κ| ‖vector‖, the length of the sum, √(whole² + κ‖vector‖²), whether that is the total, and whole + length: (..., 1).

        On the hyperboloid a sum is at least as long as the total of its weights, and just as long where all points are one. Rounding far out is of
        another mind, so that a length that comes out as less is taken to be the total.
        """
        along = np.sqrt(np.abs(kappa)) * _sizes(acc[..., :-2])
        whole, total = _wide(acc[..., -2:-1]), _wide(acc[..., -1:])
        scale = _nonzero(np.maximum(along, np.maximum(np.abs(whole), total)))  # whose square may underflow
        along, whole, total = along / scale, whole / scale, total / scale
        square = np.where(kappa < 0, (whole - along) * (whole + along), np.square(whole) + np.square(along))
        short = (kappa < 0) & (square < np.square(total))
        length = np.where(short, total, np.sqrt(square))
        # Beyond a quarter of the sphere whole < 0, and the sum would cancel.
        both = np.where(whole >= 0, whole + length, np.square(along) / _nonzero(length - whole))
        return along * scale, length * scale, short, both * scale

    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        kappa = self._curvature(number)
        along, _, _, both = self._parts(acc, kappa)
        mean = _over(acc[..., :-2], both)
        near = ((kappa < 0) & (along > (1 - 16 * epsilon) * both))[..., 0]
        if near.any():  # where rounding may lead out of the ball
            mean[near] = settled(mean[near], np.broadcast_to(kappa, along.shape)[near], mean.dtype)
        return mean

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        kappa, vector = self._curvature(number), acc[..., :-2]
        _, length, short, both = self._parts(acc, kappa)
        inverse = np.where(both == 0, 0.0, 1 / _nonzero(both))
        dboth = -_dot(dout, vector * inverse) * inverse
        by_length = dboth / _nonzero(length)
        dvector = inverse * dout + np.where(short, 0.0, by_length * kappa) * vector
        dwhole = np.where(short, dboth, by_length * both)
        return np.concatenate([dvector, dwhole, np.where(short, dboth, 0.0)], axis=-1)


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
        return np.negative(number)


class LorentzCentroid(_ClosedForm):
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
        out[..., :1] = np.hypot(1 / np.sqrt(number), _sizes(v[..., 1:]))
        out[..., 1:] = v[..., 1:]

    def _fill_vjp(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        space = v[..., 1:]
        time = np.hypot(1 / np.sqrt(number), lengths(space))
        return np.concatenate([np.zeros_like(time), dout[..., 1:] + dout[..., :1] * (space / time)], axis=-1)

    @staticmethod
    def _parts(acc: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return ‖x/t‖ of the sums, √(1 − ‖x/t‖²), whether that is all rounding, and t: (..., 1)."""
        time = _wide(acc[..., :1])
        size = _sizes(acc[..., 1:]) / _nonzero(time)
        square = (1 - size) * (1 + size)
        lost = square < epsilon
        return size, np.sqrt(np.where(lost, epsilon, square)), lost, time

    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        size, length, _, time = self._parts(acc, epsilon)
        mean = _over(acc, np.sqrt(number) * length * time)
        mean[..., :1] = np.where(time == 0, 0.0, np.hypot(1.0, size / length) / np.sqrt(number))
        return mean

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        size, length, lost, time = self._parts(acc, epsilon)
        klein = acc[..., 1:] / _nonzero(time)
        # The time of the mean by its space part, that by x/t, of which the length is a function unless it is lost, and that by x and t.
        dspace = (dout[..., 1:] + dout[..., :1] * (klein / length / np.hypot(1.0, size / length))) / (np.sqrt(number) * length)
        dklein = dspace + np.where(lost, 0.0, _dot(dspace, klein) / np.square(length)) * klein
        return np.where(time == 0, 0.0, np.concatenate([-_dot(dklein, klein), dklein], axis=-1) / _nonzero(time))


class SphericalMean(_ClosedForm):
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
        return _over(acc, _sizes(acc) / number)

    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        size, mean = lengths(acc), unit(acc)
        return np.where(size == 0, 0.0, number * (dout - _dot(mean, dout) * mean) / _nonzero(size))


def closed_form(manifold: Manifold) -> Aggregate:
    """Return the aggregate that is a manifold's own mean in closed form.

    Parameters
    ----------
    manifold : Manifold
        One of this package. A curvature may be an array of one for each head of the values, (H,) or (H, 1).

    Returns
    -------
    Aggregate
        `EinsteinMidpoint` for the ball, `LorentzCentroid`, `SphericalMean`, `Gyromidpoint` for stereographic coordinates and flat space,
        `ComponentwiseMean` for a product.

    Raises
    ------
    InvalidInputError
        If the manifold is another one.
    DimensionMismatchError
        If the curvature has another shape.

    Examples
    --------
    >>> from ruvattn_geometric import PoincareBall
    >>> from ruvattn_geometric.aggregates import closed_form
    >>> closed_form(PoincareBall(0.5))
    EinsteinMidpoint(c=0.5)
    """
    return ComponentwiseMean(manifold) if isinstance(manifold, Product) else _own_form(manifold)


def _own_form(manifold: Manifold) -> _ClosedForm:
    if isinstance(manifold, PoincareBall):
        return EinsteinMidpoint(manifold.c)
    if isinstance(manifold, Lorentz):
        return LorentzCentroid(manifold.c)
    if isinstance(manifold, Sphere):
        return SphericalMean(manifold.radius)
    if isinstance(manifold, Stereographic):
        return Gyromidpoint(manifold.curvature)
    if isinstance(manifold, Euclidean):
        return Gyromidpoint(0.0)
    raise InvalidInputError(f"manifold must be one of ruvattn_geometric, got {manifold!r}")


class ComponentwiseMean(Aggregate):
    """The closed form of each component of a product, side by side.

    Parameters
    ----------
    product : Product
        The space of the values. Curvatures of components may be arrays of one for each head of the values, (H, 1).

    Attributes
    ----------
    product : Product
        As given.

    Raises
    ------
    InvalidInputError
        If it is no product.

    See Also
    --------
    closed_form : The closed form of each manifold.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import ComponentwiseMean, Product
    >>> product = Product.from_signature([["spherical", 2], ["euclidean", 1]])
    >>> points = np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 5.0]])
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((2, 1)), points, aggregate=ComponentwiseMean(product)).round(6)
    array([[0.707107, 0.707107, 4.      ]])
    """

    def __init__(self, product: Product) -> None:
        if not isinstance(product, Product):
            raise InvalidInputError(f"product must be a Product, got {product!r}: closed_form(…) is for any manifold")
        self.product = product
        self._means = [_own_form(manifold) for manifold, _ in product.components]
        self._starts = np.cumsum([width + mean._beside for mean, (_, width) in zip(self._means, product.components, strict=True)])[:-1]

    def __repr__(self) -> str:
        return f"ComponentwiseMean({self.product!r})"

    def for_head(self, head: int) -> Aggregate:
        """Return the aggregate with the parameters of one head, as `ruvattn.Aggregate` has it."""
        return self if self.conformance_heads is None else ComponentwiseMean(_of_head(self.product, head))

    @property
    def conformance_heads(self) -> int | None:
        """For how many heads of values it is; None: any."""
        return _heads_of(self.product)

    @property
    def conformance_widths(self) -> tuple[int, ...]:
        """The width of the values."""
        return (self.product.width,)

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return points for the conformance suite."""
        return _sample(self.product, rng, shape)

    def values(self, v: np.ndarray) -> np.ndarray:
        """Return what is summed, as `ruvattn.Aggregate` has it."""
        return np.concatenate([mean.values(part) for mean, part in zip(self._means, self._split(v), strict=True)], axis=-1)

    def values_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> np.ndarray:
        """Return the gradient of the values, as `ruvattn.Aggregate` has it."""
        parts = zip(self._means, self._split(v), self._columns(dvalues), strict=True)
        return np.concatenate([mean.values_vjp(part, dpart) for mean, part, dpart in parts], axis=-1)

    def finish(self, acc: np.ndarray) -> np.ndarray:
        """Return the means, as `ruvattn.Aggregate` has it."""
        return np.concatenate([mean.finish(part) for mean, part in zip(self._means, self._columns(acc), strict=True)], axis=-1)

    def finish_vjp(self, acc: np.ndarray, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of the sums, as `ruvattn.Aggregate` has it."""
        parts = zip(self._means, self._columns(acc), self._split(dout), strict=True)
        return np.concatenate([mean.finish_vjp(part, dpart) for mean, part, dpart in parts], axis=-1)

    def _split(self, v: np.ndarray) -> list[np.ndarray]:
        if v.shape[-1] != self.product.width:
            raise DimensionMismatchError(f"values of {self.product!r} must be {self.product.width} wide, got shape {v.shape}")
        return [v[..., part] for part in self.product.slices]

    def _columns(self, acc: np.ndarray) -> list[np.ndarray]:
        return np.split(acc, self._starts, axis=-1)


# --- Fréchet means ----------------------------------------------------------------------------------------------------------------


class FrechetMean(Aggregate):
    """The Fréchet mean of points: what minimises Σ p d².

    It takes iterations over the weights of whole rows, and therefore an array of them; the closed forms stream. [1]_

    Parameters
    ----------
    manifold : Manifold
        The space of the values, one of this package. Its curvature may be an array of one for each head of the values, (H,) or (H, 1).

    Attributes
    ----------
    manifold : Manifold
        As given.

    Raises
    ------
    InvalidInputError
        If it is no manifold of this package.
    DimensionMismatchError
        If its curvature has another shape.

    See Also
    --------
    ruvattn_geometric.means.frechet_means : How it is computed, and when it is unique.

    Notes
    -----
    Rows without a mean, as all weights were dropped or as values on a sphere balance each other, are zeros.

    References
    ----------
    .. [1] Lou et al. (2020), "Differentiating through the Fréchet Mean".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import FrechetMean, PoincareBall
    >>> points = np.array([[0.5, 0.0], [0.0, 0.0]])
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((2, 1)), points, aggregate=FrechetMean(PoincareBall())).round(6)
    array([[0.267949, 0.      ]])
    """

    linear = False

    def __init__(self, manifold: Manifold) -> None:
        if not isinstance(manifold, GeometricManifold):
            raise InvalidInputError(f"manifold must be one of ruvattn_geometric, got {manifold!r}")
        _heads_of(manifold)
        self.manifold = manifold

    def __repr__(self) -> str:
        return f"FrechetMean({self.manifold!r})"

    def for_head(self, head: int) -> Aggregate:
        """Return the aggregate on the manifold of one head, as `ruvattn.Aggregate` has it."""
        return self if self.conformance_heads is None else FrechetMean(_of_head(self.manifold, head))

    @property
    def conformance_heads(self) -> int | None:
        """For how many heads of values it is; None: any."""
        return _heads_of(self.manifold)

    @property
    def conformance_widths(self) -> tuple[int, ...]:
        """Widths of values that it takes."""
        return (self.manifold.width,) if isinstance(self.manifold, Product) else (1 + self.manifold._extra, 5, 16, 33)

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return points for the conformance suite, within a part of a sphere in which the mean is unique."""
        return _sample(self.manifold, rng, shape)

    def _of_one_head(self) -> None:
        if self.conformance_heads is not None:
            raise DimensionMismatchError(f"{self!r} is for several heads: for_head(h) is for the rows of one")

    def reduce(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the means, as `ruvattn.Aggregate` has it."""
        self._of_one_head()
        return frechet_means(self.manifold, weights, v)[0]

    def reduce_vjp(self, weights: np.ndarray, v: np.ndarray, out: np.ndarray, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients, as `ruvattn.Aggregate` has it."""
        self._of_one_head()
        dweights, dv = frechet_means_vjp(self.manifold, weights, v, out, dout)
        return dweights.astype(weights.dtype, copy=False), dv.astype(v.dtype, copy=False)


# --- by name ----------------------------------------------------------------------------------------------------------------------

# What each name of a manifold takes, and what makes it.
_NAMED: dict[str, tuple[str | None, Callable[..., GeometricManifold]]] = {
    "hyperbolic": ("c", PoincareBall),
    "lorentz": ("c", Lorentz),
    "spherical": ("radius", Sphere),
    "stereographic": ("curvature", Stereographic),
    "euclidean": (None, Euclidean),
    "product": ("signature", Product.from_signature),
}


def frechet(manifold: Any = "hyperbolic", *, c: Any = None, radius: Any = None, curvature: Any = None, signature: Any = None) -> FrechetMean:
    """Return the aggregate `FrechetMean` from names and numbers.

    Parameters
    ----------
    manifold : {"hyperbolic", "lorentz", "spherical", "euclidean", "stereographic", "product"} or Manifold, default "hyperbolic"
        The space of the values; "hyperbolic" is the Poincaré ball.
    c : float or sequence, optional
        Of "hyperbolic" and "lorentz", by default 1: minus the curvature, one number or one for each head of the values.
    radius : float or sequence, optional
        Of "spherical", by default 1.
    curvature : float or sequence, optional
        Of "stereographic", by default −1.
    signature : sequence, optional
        Of "product", as for `Product.from_signature`; by default 16 columns of a ball, 16 of a sphere and 32 of flat space.

    Returns
    -------
    FrechetMean
        The aggregate.

    Raises
    ------
    InvalidInputError
        If the name is none of these, or an option is of another manifold.

    Examples
    --------
    >>> from ruvattn_geometric.aggregates import frechet
    >>> frechet("spherical", radius=2.0)
    FrechetMean(Sphere(radius=2.0))
    """
    given = {"c": c, "radius": radius, "curvature": curvature, "signature": signature}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(manifold, str) and manifold in _NAMED:
        option, make = _NAMED[manifold]
        default = {"c": 1.0, "radius": 1.0, "curvature": -1.0, "signature": DEFAULT_SIGNATURE}
        value = None if option is None else given.pop(option, default[option])
        made = make() if option is None else make(value if option == "signature" else _by_head(value))
    elif isinstance(manifold, str):
        raise InvalidInputError(f"manifold must be one of {', '.join(_NAMED)}, or a Manifold, got {manifold!r}")
    else:
        made = manifold
    if given:
        raise InvalidInputError(f"{' and '.join(given)}: {made!r} takes no such option")
    return FrechetMean(made)


def _by_head(value: Any) -> Any:
    """Return a parameter with the axis that points of a head have."""
    return np.asarray(value)[:, None] if np.ndim(value) == 1 else value


def product_mean(signature: Any = DEFAULT_SIGNATURE) -> ComponentwiseMean:
    """Return the aggregate `ComponentwiseMean` from a signature.

    Parameters
    ----------
    signature : sequence
        As for `Product.from_signature`; by default 16 columns of a ball, 16 of a sphere and 32 of flat space.

    Returns
    -------
    ComponentwiseMean
        The aggregate.

    Raises
    ------
    InvalidInputError
        If it is no signature.

    Examples
    --------
    >>> from ruvattn_geometric.aggregates import product_mean
    >>> product_mean([["hyperbolic", 2], ["euclidean", 1]])
    ComponentwiseMean(Product([(PoincareBall(c=1.0), 2), (Euclidean(), 1)]))
    """
    return ComponentwiseMean(Product.from_signature(signature))


REGISTERED: tuple[tuple[str, Callable[..., Aggregate], str], ...] = (
    ("einstein", EinsteinMidpoint, "Einstein midpoint of points in the Poincaré ball."),
    ("lorentz-centroid", LorentzCentroid, "Centroid of points on the hyperboloid."),
    ("spherical-mean", SphericalMean, "Normalised mean of points on a sphere."),
    ("gyromidpoint", Gyromidpoint, "Mean in stereographic coordinates, of any curvature."),
    ("product-mean", product_mean, "Closed form of each component of a product."),
    ("frechet", frechet, "Fréchet mean on any of the manifolds."),
)
"""Names that the plugin enters, each with its factory and a line that says what it is."""
