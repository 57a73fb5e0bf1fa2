"""Products of manifolds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.validation import check_int

from ..parameters import of_heads
from .ball import PoincareBall
from .base import GeometricManifold
from .euclidean import Euclidean
from .lorentz import Lorentz
from .sphere import Sphere
from .stereographic import Stereographic

__all__ = ["DEFAULT_SIGNATURE", "Product"]

DEFAULT_SIGNATURE = (("hyperbolic", 16, 1.0), ("spherical", 16, 1.0), ("euclidean", 32))
"""What registered names stand for that are given no signature: heads of 64."""

# The names of a signature: what makes the component of its number, and that number's name and default.
SIGNATURE: dict[str, tuple[Any, str, float | None]] = {
    "hyperbolic": (PoincareBall, "c", 1.0),
    "lorentz": (Lorentz, "c", 1.0),
    "spherical": (Sphere, "radius", 1.0),
    "stereographic": (Stereographic, "curvature", None),
    "euclidean": (Euclidean, "", None),
}


class Product(GeometricManifold):
    """Several manifolds side by side: a point is one of each, its coordinates one after the other.

    d(x, y)² = Σ d_i(x_i, y_i)², and exp, log, transport and means are those of the components. [1]_

    Parameters
    ----------
    components : sequence of (manifold, int)
        Each with the number of coordinates that are its: 1 + n for a hyperboloid or a sphere of dimension n.

    Attributes
    ----------
    components : list of (manifold, int)
        As given.
    width : int
        How many coordinates a point has.
    slices : list of slice
        Where each component's are.

    Raises
    ------
    InvalidInputError
        If a component is no such pair, or there are none.

    See Also
    --------
    Product.from_signature : The same, from names and numbers.

    References
    ----------
    .. [1] Gu, Sala, Gunel and Ré (2019), "Learning Mixed-Curvature Representations in Product Spaces".

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Euclidean, PoincareBall, Product
    >>> space = Product([(PoincareBall(), 2), (Euclidean(), 1)])
    >>> float(space.distance(np.array([0.0, 0.0, 0.0]), np.array([0.0, 0.5, 1.0])).round(6))
    1.48558
    """

    def __init__(self, components: Sequence[tuple[GeometricManifold, int]]) -> None:
        try:
            pairs = [(manifold, width) for manifold, width in components]
        except (TypeError, ValueError):
            raise InvalidInputError(f"components must be pairs of a manifold and its number of coordinates, got {components!r}") from None
        if not pairs:
            raise InvalidInputError("components must not be empty")
        self.components: list[tuple[GeometricManifold, int]] = []
        self.slices: list[slice] = []
        start = 0
        for at, (manifold, width) in enumerate(pairs):
            if not isinstance(manifold, GeometricManifold) or isinstance(manifold, Product):
                raise InvalidInputError(
                    f"components[{at}] must be a manifold of ruvattn_geometric that is no Product itself (list its components), got {manifold!r}"
                )
            width = check_int(width, f"components[{at}][1]", 1 + manifold._extra)
            self.components.append((manifold, width))
            self.slices.append(slice(start, start + width))
            start += width
        self.width = start
        try:
            shape = np.broadcast_shapes(*(manifold._parameter.shape for manifold, _ in self.components))
        except ValueError:
            shapes = [manifold._parameter.shape for manifold, _ in self.components]
            raise DimensionMismatchError(f"the curvatures of components must broadcast, got shapes {shapes}") from None
        self._parameter = np.broadcast_to(np.zeros(()), shape)  # its shape is what counts

    @classmethod
    def from_signature(cls, signature: Any) -> Product:
        """Return the product that a signature describes.

        Parameters
        ----------
        signature : sequence of (str, int) or (str, int, number)
            Each component as its name, its number of coordinates, and its number: "hyperbolic" (the ball) or "lorentz" with c, "spherical" with
            the radius, 1 if left out; "stereographic" with the curvature; "euclidean" has none. A number may be a list of one per head.

        Returns
        -------
        Product
            Of these components. Where a number is a list, its curvature has shape (H, 1), for points (..., H, L, D).

        Raises
        ------
        InvalidInputError
            If it is no such sequence.

        Examples
        --------
        >>> from ruvattn_geometric import Product
        >>> Product.from_signature([["hyperbolic", 16, 0.5], ["spherical", 16], ["euclidean", 32]])
        Product([(PoincareBall(c=0.5), 16), (Sphere(radius=1.0), 16), (Euclidean(), 32)])
        """
        if isinstance(signature, str) or not isinstance(signature, Sequence):
            raise InvalidInputError(f"signature must be a list such as [['hyperbolic', 16, 1.0], ['euclidean', 32]], got {signature!r}")
        components = []
        for at, entry in enumerate(signature):
            if isinstance(entry, str) or not isinstance(entry, Sequence) or not 2 <= len(entry) <= 3:
                raise InvalidInputError(f"signature[{at}] must be a name, a width, and a number where there is one, got {entry!r}")
            name, width, *number = entry
            if not isinstance(name, str) or name not in SIGNATURE:
                raise InvalidInputError(f"signature[{at}] must begin with one of {', '.join(SIGNATURE)}, got {name!r}")
            make, what, default = SIGNATURE[name]
            width = check_int(width, f"signature[{at}][1]", 1 + make._extra)
            if not what:
                if number:
                    raise InvalidInputError(f"signature[{at}]: {name!r} has no number, got {number[0]!r}")
                components.append((make(), width))
                continue
            if not number and default is None:
                raise InvalidInputError(f"signature[{at}]: {name!r} must have a {what}, [{name!r}, {width!r}, {what}]")
            value: Any = number[0] if number else default
            try:
                components.append((make(of_heads(value)), width))
            except InvalidInputError as error:
                raise InvalidInputError(f"signature[{at}]: {error}") from None
        return cls(components)

    @property
    def curvature(self) -> tuple[Any, ...]:
        """The sectional curvature of each component."""
        return tuple(manifold.curvature for manifold, _ in self.components)

    def __repr__(self) -> str:
        return f"Product({self.components!r})"

    def split(self, x: Any) -> list[np.ndarray]:
        """Return the coordinates of each component.

        Parameters
        ----------
        x : array, (..., D)
            Points or tangent vectors.

        Returns
        -------
        list of ndarray, (..., width)
            Views.

        Raises
        ------
        DimensionMismatchError
            If the widths of the components don't add up to D.
        """
        array = self._vectors(x, "x")
        return [array[..., part] for part in self.slices]

    def join(self, parts: Sequence[Any]) -> np.ndarray:
        """Return points or tangent vectors from those of each component.

        Parameters
        ----------
        parts : sequence of array, (..., width)
            One for each component.

        Returns
        -------
        ndarray, (..., D)
            The coordinates side by side.

        Raises
        ------
        DimensionMismatchError
            If there are not as many as components, or one has another width or other leading axes.
        """
        arrays = [np.asarray(part) for part in parts]
        widths = [array.shape[-1] if array.ndim else 0 for array in arrays]
        if widths != [width for _, width in self.components]:
            raise DimensionMismatchError(f"parts must have the widths {[width for _, width in self.components]} of the components, got {widths}")
        self._lead({f"parts[{at}]": array.shape[:-1] for at, array in enumerate(arrays)})
        return _joined(arrays)

    # --- the formulas, component by component ---------------------------------------------------------------------------------

    def _each(self, *arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
        for (manifold, _), part in zip(self.components, self.slices, strict=True):
            yield (manifold, *(array[..., part] for array in arrays))

    def _lifted(self) -> Self:
        other = copy.copy(self)
        other.components = [(manifold._lifted(), width) for manifold, width in self.components]
        return other

    def _distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _root_of_squares(manifold._distance(*parts) for manifold, *parts in self._each(x, y))

    def _inner(self, base: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.asarray(sum(manifold._inner(*parts) for manifold, *parts in self._each(base, u, v)))

    def _norm(self, base: np.ndarray, u: np.ndarray) -> np.ndarray:
        return _root_of_squares(manifold._norm(*parts) for manifold, *parts in self._each(base, u))

    def _exp(self, base: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        return _joined([manifold._exp(*parts) for manifold, *parts in self._each(base, tangent)])

    def _log(self, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        return _joined([manifold._log(*parts) for manifold, *parts in self._each(base, point)])

    def _transport(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        return _joined([manifold._transport(*parts) for manifold, *parts in self._each(tangent, base, point)])

    def _project(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        return _joined([manifold._project(part, epsilon) for manifold, part in self._each(x)])

    def _project_tangent(self, vector: np.ndarray, base: np.ndarray) -> np.ndarray:
        return _joined([manifold._project_tangent(*parts) for manifold, *parts in self._each(vector, base)])

    def _riemannian(self, base: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return _joined([manifold._riemannian(*parts) for manifold, *parts in self._each(base, gradient)])

    def _midpoint(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return _joined([manifold._midpoint(part, weights) for manifold, part in self._each(points)])

    def _origin(self, width: int) -> np.ndarray:
        return _joined([manifold._origin(width) for manifold, width in self.components])

    def _random(self, rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
        scale = scale / np.sqrt(len(self.components))
        return _joined([manifold._random(rng, (*shape[:-1], width), scale) for manifold, width in self.components])

    def check(self, x: Any, name: str = "x") -> None:
        """Raise if one of several vectors is no point; the message tells the columns of the component that it is none of."""
        x = self._vectors(x, name)
        for (manifold, _), part in zip(self.components, self.slices, strict=True):
            manifold.check(x[..., part], f"{name}[..., {part.start}:{part.stop}]")

    def _excess(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        return np.maximum.reduce(np.broadcast_arrays(*(manifold._excess(part, epsilon) for manifold, part in self._each(x))))

    def _complaint(self, x: np.ndarray, at: tuple[Any, ...]) -> Any:
        raise AssertionError("the components complain")

    def _slant(self, tangent: np.ndarray, base: np.ndarray) -> np.ndarray:
        return np.maximum.reduce(np.broadcast_arrays(*(manifold._slant(*parts) for manifold, *parts in self._each(tangent, base))))

    def _vectors(self, x: Any, name: str) -> np.ndarray:
        array = super()._vectors(x, name)
        if array.shape[-1] != self.width:
            widths = " + ".join(str(width) for _, width in self.components)
            raise DimensionMismatchError(f"{name} must have {self.width} coordinates, {widths} of the components, got {array.shape[-1]}")
        return array

    def _check_width(self, width: Any) -> int:
        if check_int(width, "width", 1) != self.width:
            raise DimensionMismatchError(f"a point has {self.width} coordinates here, got {width}")
        return self.width


def _root_of_squares(numbers: Iterator[np.ndarray]) -> np.ndarray:
    total = next(numbers)
    for other in numbers:
        total = np.hypot(total, other)
    return total


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    lead = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(part, (*lead, part.shape[-1])) for part in parts], axis=-1)
