"""Geometric attention for ruvattn: curved spaces at the speed of dot products.

    manifolds/    PoincareBall, Lorentz, Sphere, Euclidean, Stereographic, Product: points, distances, exp, log, transport, means
    means/        Fréchet means, many at once ─► aggregates/   how the values combine: midpoints, centroids, Fréchet means
    scores.py     −d/τ and −d²/τ on each of them, as a tile function on dot products; geometric_score.py, pairs.py and layout.py are what they share,
                  _scores.pyx is the same compiled
    variants/     attention on each of them, as `ruvattn.create` makes it
    pictures.py   the disk
    parameters.py, vectors.py   numbers that may be one for each head, and rows of vectors, for all of these

    entry point "geometric" ─► ruvattn_register ─► scores, aggregates, manifolds and variants, by name
    (pyproject.toml)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .aggregates import REGISTERED as AGGREGATES
from .aggregates import ComponentwiseMean, EinsteinMidpoint, FrechetMean, Gyromidpoint, LorentzCentroid, SphericalMean, closed_form
from .manifolds import (
    Euclidean,
    GeometricManifold,
    Lorentz,
    PoincareBall,
    Product,
    Sphere,
    Stereographic,
    ball_to_klein,
    ball_to_lorentz,
    klein_to_ball,
    lorentz_to_ball,
    mobius_add,
    sphere_to_stereographic,
    stereographic_to_sphere,
)
from .means import frechet_mean, frechet_means, frechet_means_vjp
from .pictures import disk_arcs, draw_disk, save_disk
from .scores import REGISTERED as SCORES
from .scores import Cosine, DistanceScore, DualSpace, LorentzInner
from .variants import REGISTERED as VARIANTS
from .variants import (
    DualSpaceAttention,
    GeometricVariant,
    HyperbolicAttention,
    LorentzAttention,
    MixedCurvatureAttention,
    ProductAttention,
    SphericalAttention,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ruvattn.registry import Registry

__all__ = [
    "RUVATTN_API",
    "ComponentwiseMean",
    "Cosine",
    "DistanceScore",
    "DualSpace",
    "DualSpaceAttention",
    "EinsteinMidpoint",
    "Euclidean",
    "FrechetMean",
    "GeometricManifold",
    "GeometricVariant",
    "Gyromidpoint",
    "HyperbolicAttention",
    "Lorentz",
    "LorentzAttention",
    "LorentzCentroid",
    "LorentzInner",
    "MixedCurvatureAttention",
    "PoincareBall",
    "Product",
    "ProductAttention",
    "Sphere",
    "SphericalAttention",
    "SphericalMean",
    "Stereographic",
    "ball_to_klein",
    "ball_to_lorentz",
    "closed_form",
    "disk_arcs",
    "draw_disk",
    "frechet_mean",
    "frechet_means",
    "frechet_means_vjp",
    "klein_to_ball",
    "lorentz_to_ball",
    "mobius_add",
    "ruvattn_register",
    "save_disk",
    "sphere_to_stereographic",
    "stereographic_to_sphere",
]

RUVATTN_API = 1

MANIFOLDS: tuple[tuple[str, Callable[..., GeometricManifold], str], ...] = (
    ("poincare-ball", PoincareBall, "Hyperbolic space as the Poincaré ball."),
    ("lorentz", Lorentz, "Hyperbolic space as the upper sheet of a hyperboloid."),
    ("sphere", Sphere, "The sphere of a radius."),
    ("euclidean", Euclidean, "Flat space."),
    ("stereographic", Stereographic, "Space of a constant curvature of any sign, through zero."),
    ("product", Product.from_signature, "Several spaces side by side, by a signature."),
)


def ruvattn_register(registry: Registry) -> None:
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    for name, factory, summary in SCORES:
        registry.score(name, factory, summary=summary)
    for name, aggregate, summary in AGGREGATES:
        registry.aggregate(name, aggregate, summary=summary)
    for name, manifold, summary in MANIFOLDS:
        registry.manifold(name, manifold, summary=summary)
    for name, variant, summary, capabilities in VARIANTS:
        registry.variant(name, variant, summary=summary, capabilities=capabilities)
