"""The closed form of any manifold, and those of a product's components side by side."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ruvattn.aggregates import Aggregate
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold

from ..manifolds import Euclidean, Lorentz, PoincareBall, Product, Sphere, Stereographic
from .base import ClosedForm
from .closed_forms import EinsteinMidpoint, Gyromidpoint, LorentzCentroid, SphericalMean
from .heads import heads_of, of_head, sample, with_curvatures


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
    params : dict
        ``curvature_0`` and so on for the curved components, by their numbers: the sectional curvatures, which have gradients.

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
        self._given = product
        self._forms = [_own_form(manifold) for manifold, _ in product.components]
        self.params: dict[str, Any] = {  # type: ignore[misc]
            f"curvature_{number}": form.params["curvature"]
            for number, ((manifold, _), form) in enumerate(zip(product.components, self._forms, strict=True))
            if not isinstance(manifold, Euclidean)
        }
        self._starts = np.cumsum([width + mean._beside for mean, (_, width) in zip(self._forms, product.components, strict=True)])[:-1]

    @property
    def product(self) -> Product:
        """The space of the values."""
        product = with_curvatures(self._given, self.params)
        assert isinstance(product, Product)
        return product

    @property
    def _means(self) -> list[ClosedForm]:
        """The means of the components, with the curvatures that there are."""
        means = []
        for number, form in enumerate(self._forms):
            name = f"curvature_{number}"
            if name in self.params and self.params[name] is not form.params["curvature"]:
                form = copy.copy(form)
                form.params = {"curvature": self.params[name]}  # type: ignore[misc]
            means.append(form)
        return means

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

    def values_params_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> dict[str, Any]:
        """Return the gradients of the curvatures, as `ruvattn.Aggregate` has it."""
        parts = zip(self._means, self._split(v), self._columns(dvalues), strict=True)
        return self._named([mean.values_params_vjp(part, dpart) for mean, part, dpart in parts])

    def finish_params_vjp(self, acc: np.ndarray, dout: np.ndarray) -> dict[str, Any]:
        """Return the gradients of the curvatures, as `ruvattn.Aggregate` has it."""
        parts = zip(self._means, self._columns(acc), self._split(dout), strict=True)
        return self._named([mean.finish_params_vjp(part, dpart) for mean, part, dpart in parts])

    def _named(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        named = {f"curvature_{number}": gradient for number, of in enumerate(found) for gradient in of.values()}
        return {name: gradient for name, gradient in named.items() if name in self.params}

    def _split(self, v: np.ndarray) -> list[np.ndarray]:
        if v.shape[-1] != self.product.width:
            raise DimensionMismatchError(f"values of {self.product!r} must be {self.product.width} wide, got shape {v.shape}")
        return [v[..., part] for part in self.product.slices]

    def _columns(self, acc: np.ndarray) -> list[np.ndarray]:
        return np.split(acc, self._starts, axis=-1)
