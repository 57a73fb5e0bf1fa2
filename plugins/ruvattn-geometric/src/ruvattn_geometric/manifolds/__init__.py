"""Manifolds: points, distances, exponential and logarithmic maps, parallel transport and means.

    base.py           GeometricManifold: what they share; arrays in, checked, float64 inside, rounded
    stereographic.py  Stereographic(κ), any sign ─► ball.py  PoincareBall(c)
    lorentz.py        Lorentz(c), the hyperboloid
    sphere.py         Sphere(radius)
    euclidean.py      Euclidean()
    product.py        Product of any of these
    isometries.py     from one model of a space to another; Möbius addition
"""

from __future__ import annotations

from .ball import PoincareBall
from .base import GeometricManifold
from .euclidean import Euclidean
from .isometries import (
    ball_to_klein,
    ball_to_lorentz,
    klein_to_ball,
    lorentz_to_ball,
    mobius_add,
    sphere_to_stereographic,
    stereographic_to_sphere,
)
from .lorentz import Lorentz
from .product import Product
from .sphere import Sphere
from .stereographic import Stereographic

__all__ = [
    "Euclidean",
    "GeometricManifold",
    "Lorentz",
    "PoincareBall",
    "Product",
    "Sphere",
    "Stereographic",
    "ball_to_klein",
    "ball_to_lorentz",
    "klein_to_ball",
    "lorentz_to_ball",
    "mobius_add",
    "sphere_to_stereographic",
    "stereographic_to_sphere",
]
