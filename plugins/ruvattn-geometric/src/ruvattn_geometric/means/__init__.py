"""Fréchet means: the points that minimise Σ w d², for many rows of weights at once.

    frechet_mean(manifold, points, weights)     each row of weights with points of its own     ─┐
    frechet_means(manifold, weights, points)    many rows of weights, all about the same points ─┴► chart ─► minimised ─► chart
    frechet_means_vjp(…)                        backwards, by implicit differentiation; frechet_curvatures_vjp(…) to the curvatures

    frechet.py   the three of them ─► charts.py   coordinates ─► models.py   the ball and the sphere
                                 └► newton.py   minimising

A chart leads from a manifold's coordinates to one of two models of curvature −1 and 1, and back: the ball, and the sphere. There the
logarithms that all is made of are linear in the points, but for factors that are functions of the half chord S = sin²(d/2) or sinh²(d/2):

    log_x y = f(S) (β (y − x) ± 2 S x),      f = d/sin d or d/sinh d
    ball      S = ‖x−y‖²/((1−‖x‖²)(1−‖y‖²)),  β = 2/(1−‖y‖²), minus     in the orthonormal frame at x that the ball's coordinates give
    sphere    S = ‖x−y‖²/4,                   β = 1, plus              in the coordinates of the sphere

So the gradient Σ w log_x y of all rows is one matrix product before f and one after, X·Yᵀ and (W∘f β)·Y, and a product of the Hessian with a
vector is two more: no array is larger than rows × points. In the ball 1 − ‖x‖² is carried along instead of being computed from x, which far out
has no digits for it, so that errors remain those of a rounding of the coordinates.
"""

from __future__ import annotations

from .frechet import frechet_curvatures_vjp, frechet_mean, frechet_means, frechet_means_vjp

__all__ = ["frechet_curvatures_vjp", "frechet_mean", "frechet_means", "frechet_means_vjp"]
