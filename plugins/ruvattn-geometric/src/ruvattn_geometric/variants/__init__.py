"""The variants of the plugin: `ruvattn.create` makes them by name.

    base.py ─┬─► hyperbolic.py        points of the Poincaré ball
             ├─► lorentz.py           points of the hyperboloid
             ├─► spherical.py         points of the sphere
             ├─► mixed_curvature.py   stereographic coordinates, a curvature of any sign for each head
             ├─► product.py           several of these side by side
             └─► dual_space.py        a vector and a point of the ball side by side
    checks.py ─► steps.py ─► learned.py ─► base.py: what comes in and goes out, forward and back; curvatures and temperatures as parameters
    origin.py   from tangent vectors at the origin to points, and back, with gradients

Each is `ruvattn.builtin.multihead.MultiHeadAttention` with points in the place of vectors, and answers the questions of `ruvattn.GeometricAttention`.
"""

from __future__ import annotations

from .base import GeometricVariant
from .dual_space import DualSpaceAttention
from .hyperbolic import HyperbolicAttention
from .lorentz import LorentzAttention
from .mixed_curvature import MixedCurvatureAttention
from .product import ProductAttention
from .spherical import SphericalAttention

__all__ = [
    "REGISTERED",
    "DualSpaceAttention",
    "GeometricVariant",
    "HyperbolicAttention",
    "LorentzAttention",
    "MixedCurvatureAttention",
    "ProductAttention",
    "SphericalAttention",
]

_CAPABILITIES = ("geometric", "scores", "aggregates", "masks", "weights", "dropout", "trainable", "parameters", "grouped-queries")

REGISTERED: tuple[tuple[str, type[GeometricVariant], str, tuple[str, ...]], ...] = tuple(
    (variant.attention_type, variant, summary, _CAPABILITIES)
    for variant, summary in (
        (HyperbolicAttention, "Distances in the Poincaré ball, and the Einstein midpoint of the values."),
        (LorentzAttention, "Distances on the hyperboloid, and the Lorentz centroid of the values."),
        (SphericalAttention, "Great circles on the sphere, and the normalised mean of the values."),
        (ProductAttention, "Several spaces side by side: hyperbolic, spherical, flat; the values combine in each."),
        (DualSpaceAttention, "A dot product of vectors and a hyperbolic distance of points, added."),
        (MixedCurvatureAttention, "A curvature for each head, from hyperbolic through flat to spherical."),
    )
)
"""Name, class, summary and capabilities, for the registry."""
