"""Manifolds whose curvature differs from head to head, as aggregates have them: for how many heads they are, and the one of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ruvattn.errors import DimensionMismatchError

from ..manifolds import Euclidean, GeometricManifold, Lorentz, Product, Sphere
from ..parameters import by_head, plain


def heads_of(manifold: GeometricManifold) -> int | None:
    """Return for how many heads of values the curvature of a manifold is; None: it is one number."""
    if isinstance(manifold, Product):
        counts = {count for part, _ in manifold.components if (count := heads_of(part)) is not None}
        if len(counts) > 1:
            raise DimensionMismatchError(f"the curvatures of components must be for the same number of heads, got {sorted(counts)}")
        return counts.pop() if counts else None
    shape = manifold._parameter.shape
    if not shape:
        return None
    if len(shape) > 2 or shape[1:] not in ((), (1,)) or not shape[0]:
        raise DimensionMismatchError(f"a curvature must be a number or (H, 1), one for each head of the values, got shape {shape}")
    return shape[0]


def with_parameter(manifold: GeometricManifold, change: Callable[[np.ndarray], np.ndarray]) -> GeometricManifold:
    """Return a manifold, or product of them, whose parameters that are arrays are changed."""
    if isinstance(manifold, Product):
        return Product([(with_parameter(part, change), width) for part, width in manifold.components])
    if not manifold._parameter.ndim:
        return manifold
    other = copy.copy(manifold)
    other._parameter = change(manifold._parameter)
    return other


def of_head(manifold: Any, head: int) -> Any:
    """Return the manifold of one head."""
    return with_parameter(manifold, lambda numbers: numbers.reshape(-1)[head])


def curvatures_of(manifold: GeometricManifold) -> dict[str, Any]:
    """Return the sectional curvatures of a manifold by name, each a number or (H,): one, or those of a product by the numbers of the components."""
    if isinstance(manifold, Product):
        of_parts = enumerate(curvatures_of(part) for part, _ in manifold.components)
        return {f"curvature_{number}": curvature for number, of in of_parts for curvature in of.values()}
    return {} if isinstance(manifold, Euclidean) else {"curvature": plain(by_head(np.asarray(manifold.curvature), "curvature"))}


def with_curvatures(manifold: GeometricManifold, curvatures: dict[str, Any]) -> GeometricManifold:
    """Return a manifold with other curvatures, by the names of `curvatures_of`; itself where they are its own."""
    if isinstance(manifold, Product):
        parts = []
        for number, (part, width) in enumerate(manifold.components):
            name = f"curvature_{number}"
            parts.append((with_curvatures(part, {"curvature": curvatures[name]}) if name in curvatures else part, width))
        same = all(new is old for (new, _), (old, _) in zip(parts, manifold.components, strict=True))
        return manifold if same else Product(parts)
    if "curvature" not in curvatures:
        return manifold
    kappa = np.reshape(np.asarray(curvatures["curvature"], np.float64), manifold._parameter.shape)
    if np.array_equal(kappa, manifold.curvature):
        return manifold
    other = copy.copy(manifold)
    other._parameter = 1 / np.sqrt(kappa) if isinstance(manifold, Sphere) else -kappa if isinstance(manifold, Lorentz) else kappa
    return other


def sample(manifold: GeometricManifold, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return random points (..., H, L, D), no further apart than a mean on a sphere is unique for."""
    manifold = with_parameter(manifold, lambda numbers: numbers.reshape(-1, 1))
    curvatures = manifold.curvature if isinstance(manifold.curvature, tuple) else (manifold.curvature,)
    largest = max(1.0, *(float(np.abs(curvature).max()) for curvature in curvatures))
    return manifold.random(shape, seed=rng, scale=0.5 / np.sqrt(largest))
