"""The closed form of any manifold, and those of a product's components side by side."""

from __future__ import annotations

import numpy as np

from ruvattn.aggregates import Aggregate
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold

from ..manifolds import Euclidean, Lorentz, PoincareBall, Product, Sphere, Stereographic
from .base import ClosedForm
from .closed_forms import EinsteinMidpoint, Gyromidpoint, LorentzCentroid, SphericalMean
from .heads import heads_of, of_head, sample


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


def _own_form(manifold: Manifold) -> ClosedForm:
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
        return self if self.conformance_heads is None else ComponentwiseMean(of_head(self.product, head))

    @property
    def conformance_heads(self) -> int | None:
        """For how many heads of values it is; None: any."""
        return heads_of(self.product)

    @property
    def conformance_widths(self) -> tuple[int, ...]:
        """The width of the values."""
        return (self.product.width,)

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return points for the conformance suite."""
        return sample(self.product, rng, shape)

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
