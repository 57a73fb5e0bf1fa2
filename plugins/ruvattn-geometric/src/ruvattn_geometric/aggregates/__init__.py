"""Aggregates on manifolds: how values that are points combine.

    values ──► columns to add up ──► Σ p·columns, streamed by the engine ──► one map of each row        closed forms
    weights of whole rows ──► ruvattn_geometric.means                                                   Fréchet means

Each closed form is a sum in the space around the hyperboloid or the sphere, brought back to it, whatever coordinates the points are given in:

    Gyromidpoint(κ)       ball, flat space, stereographic sphere     [λv | λ−1 | 1] ─► ½ ⊗ Σ pλv / Σ p(λ−1),  λ = 2/(1+κ‖v‖²)
      EinsteinMidpoint(c)   the ball, κ = −c
    LorentzCentroid(c)    hyperboloid                                v              ─► Σ pv / √(−c⟨Σ pv, Σ pv⟩)
    SphericalMean(radius) sphere                                     v              ─► R Σ pv / ‖Σ pv‖
    ComponentwiseMean     product                                    those of each component, side by side

    base.py            what they share                    heads.py   curvatures that differ from head to head
    closed_forms.py    those of single manifolds          componentwise.py   that of a product
    whole_rows.py      the Fréchet mean

All of them depend on the ratios of weights only, so that sinks and dropout change nothing but those, and a row that has no mean, as all its weights
were dropped or as its values on a sphere balance each other, is zeros.

A parameter may be a number or one for each head of the values. Then the number of the head rides along, in two more columns: Σ p and Σ p·head,
whose quotient says what parameter a sum is to be finished with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ruvattn.aggregates import Aggregate
from ruvattn.errors import InvalidInputError

from ..manifolds import Product
from ..manifolds.product import DEFAULT_SIGNATURE, SIGNATURE
from ..parameters import of_heads
from .closed_forms import EinsteinMidpoint, Gyromidpoint, LorentzCentroid, SphericalMean
from .componentwise import ComponentwiseMean, closed_form
from .whole_rows import FrechetMean

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
    if not isinstance(manifold, str):
        made = manifold
    elif manifold == "product":
        made = Product.from_signature(given.pop("signature", DEFAULT_SIGNATURE))
    elif manifold in SIGNATURE:
        make, option, default = SIGNATURE[manifold]
        made = make(of_heads(given.pop(option, -1.0 if default is None else default))) if option else make()
    else:
        raise InvalidInputError(f"manifold must be one of {', '.join(SIGNATURE)}, product, or a Manifold, got {manifold!r}")
    if given:
        raise InvalidInputError(f"{' and '.join(given)}: {made!r} takes no such option")
    return FrechetMean(made)


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
