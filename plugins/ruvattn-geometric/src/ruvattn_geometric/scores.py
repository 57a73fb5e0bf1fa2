"""Scores of curved spaces: distances and inner products as functions of dot products.

    manifold ──► Part, … ──► q = sin_κ²(d/2) of each pair ──► −d/τ, −d²/τ, or a sum of such terms
                             from the dot and a term or two a point; from the points themselves where that would cancel

In a space of curvature κ, sin_κ x = sin(√κ x)/√κ, which is sinh(√−κ x)/√−κ for κ < 0 and x for κ = 0. The square of a half chord, q = sin_κ²(d/2),
is all that differs between the models; from there on one formula serves them all, smooth through κ = 0:

    d = 2 asin_κ √q = 2√q · G(−κq),      G(z) = asinh(√z)/√z

    stereographic   q = ‖x−y‖² A B            A = 1/(1+κ‖x‖²); the Poincaré ball is κ = −c
    Lorentz         q = g + h + 2c g h − x·y/2      x, y the space parts, h = (√(1+c‖x‖²) − 1)/2c
    sphere          q = (1 − x·y/‖x‖‖y‖)/2κ
    Euclidean       q = ‖x−y‖²/4

‖x−y‖² = ‖x‖² + ‖y‖² − 2x·y cancels where points are near, for all of these. Where it is less than 1/32 of its terms, the pair is computed from the
points themselves: the tile carries them. In positive curvature the same is done for pairs that are nearly opposite, where 1 − κq cancels.

    geometric_score.py   what these scores share: terms, logits and gradients in NumPy, with pairs.py; layout.py says what a score consists of
    _scores.pyx          the same compiled, forward and backward
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.validation import check_bool, check_int

from .geometric_score import GeometricScore
from .layout import COSINE, DOT, EUCLIDEAN, LENGTH, LORENTZ, LORENTZ_INNER, MAX_PARTS, SPHERE, SQUARED, STEREOGRAPHIC, SUM, TERMS, Part, alone
from .manifolds import Euclidean, Lorentz, PoincareBall, Product, Sphere, Stereographic
from .manifolds.product import DEFAULT_SIGNATURE
from .parameters import by_head, plain, read_numbers

if TYPE_CHECKING:
    from ruvattn.interfaces import Manifold

__all__ = ["Cosine", "DistanceScore", "DualSpace", "LorentzInner"]


class DistanceScore(GeometricScore):
    """The distance of a manifold, with its sign turned: −d(q, k)/τ, or −d(q, k)²/τ.

    Queries and keys are points in the coordinates of the manifold. Distances are accurate to about 1e-6 in float32, near the edge of a ball and for
    points that nearly coincide too. A query outside a ball is an error; a key outside makes NaN of the rows that see it, for it may be one that none
    does. Of a Lorentz point the space part counts; a vector off a sphere is taken as
    the point in its direction.

    Parameters
    ----------
    manifold : Manifold
        A `PoincareBall`, `Stereographic`, `Lorentz`, `Sphere` or `Euclidean`, or a `Product` of at most 16 of them. Curvatures are numbers, or arrays
        of one for each query head.
    temperature : float or array of shape (Hq,), default 1.0
        τ > 0.
    squared : bool, default False
        Whether the square of the distance is taken.

    Raises
    ------
    InvalidInputError
        If the manifold is none of these, or the temperature is not a positive number.

    Notes
    -----
    Distances as the logits of attention: Gulcehre et al. (2019), "Hyperbolic Attention Networks". The formulas stand at the head of this module; the
    stereographic model of any curvature is that of Bachmann et al. (2020), "Constant Curvature Graph Convolutional Networks".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import DistanceScore, PoincareBall
    >>> q, k = np.zeros((1, 2)), np.array([[0.0, 0.0], [0.5, 0.0]])
    >>> ruvattn.attention_logits(q, k, score=DistanceScore(PoincareBall()))
    array([[-0.        , -1.09861229]])
    """

    def __init__(self, manifold: Manifold, *, temperature: Any = 1.0, squared: bool = False) -> None:
        spaces = _spaces(manifold)
        self.manifold = manifold
        self.mode = SQUARED if check_bool(squared, "squared") else LENGTH
        self.params: dict[str, Any] = {"temperature": _positive(temperature, "temperature")}  # type: ignore[misc]
        if len(spaces) == 1:
            _, kind, kappa = spaces[0]
            name = "" if kind == EUCLIDEAN else "curvature"
            if name:
                self.params[name] = kappa
            self.splits, self.parts = alone(kind, name)
            if kind == LORENTZ:
                self.conformance_widths = SPLIT_WIDTHS
            return
        self.splits, self.parts = laid_out(spaces, self.params)


class LorentzInner(GeometricScore):
    """The inner product of Lorentz points, ⟨q, k⟩/τ = (−t t' + x·x')/τ, which falls with the distance: ⟨q, k⟩ = −cosh(√c d)/c.

    Parameters
    ----------
    c : float or array of shape (Hq,), default 1.0
        The curvature is −c, c > 0. Of a point the space part counts.
    temperature : float or array of shape (Hq,), default 1.0
        τ > 0.

    Raises
    ------
    InvalidInputError
        If one of them is not a positive number.

    Notes
    -----
    Law et al. (2019), "Lorentzian Distance Learning for Hyperbolic Representations": the squared Lorentzian distance is −2/c − 2⟨q, k⟩, so that its
    softmax is that of this score.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import LorentzInner
    >>> q, k = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [1.25, 0.75]])
    >>> ruvattn.attention_logits(q, k, score=LorentzInner())
    array([[-1.  , -1.25]])
    """

    mode = SUM
    splits = (1, -1)
    conformance_widths = (2, 3, 9, 33)

    def __init__(self, c: Any = 1.0, *, temperature: Any = 1.0) -> None:
        self.params: dict[str, Any] = {  # type: ignore[misc]
            "temperature": _positive(temperature, "temperature"),
            "curvature": -_positive(c, "c"),
        }
        _, self.parts = alone(LORENTZ_INNER, "curvature")


class Cosine(GeometricScore):
    """The cosine of the angle between query and key, q·k/(‖q‖‖k‖τ); 0 where one of them is zero.

    Parameters
    ----------
    temperature : float or array of shape (Hq,), default 1.0
        τ > 0.

    Raises
    ------
    InvalidInputError
        If a temperature is not a positive number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import Cosine
    >>> ruvattn.attention_logits(np.array([[2.0, 0.0]]), np.array([[3.0, 4.0]]), score=Cosine(temperature=0.1))
    array([[6.]])
    """

    mode = SUM

    def __init__(self, temperature: Any = 1.0) -> None:
        self.params: dict[str, Any] = {"temperature": _positive(temperature, "temperature")}  # type: ignore[misc]
        self.parts = (Part(COSINE, 0, -1, 0, 0),)


class DualSpace(GeometricScore):
    """A dot product beside a hyperbolic distance, (w_e · e·e' − w_h · d(h, h'))/τ, of queries and keys that are [e | h].

    Parameters
    ----------
    euclidean_dim : int
        Width of e, at least 1; the other columns are h, a point of the Poincaré ball.
    c : float or array of shape (Hq,), default 1.0
        The curvature of the ball is −c, c > 0.
    euclidean_weight, hyperbolic_weight : float or array of shape (Hq,), default 1.0
        w_e and w_h, not negative.
    temperature : float or array of shape (Hq,), default 1.0
        τ > 0.

    Raises
    ------
    InvalidInputError
        If an argument is no such number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import DualSpace
    >>> q, k = np.array([[1.0, 2.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.5, 0.0]])
    >>> ruvattn.attention_logits(q, k, score=DualSpace(2, hyperbolic_weight=0.5))
    array([[0.45069386]])
    """

    mode = SUM

    def __init__(
        self, euclidean_dim: int, c: Any = 1.0, *, euclidean_weight: Any = 1.0, hyperbolic_weight: Any = 1.0, temperature: Any = 1.0
    ) -> None:
        width = check_int(euclidean_dim, "euclidean_dim", 1)
        self.splits = (width, -1)
        self.conformance_widths = (width + 1, width + 2, width + 9)
        self.params: dict[str, Any] = {  # type: ignore[misc]
            "temperature": _positive(temperature, "temperature"),
            "curvature": -_positive(c, "c"),
            "euclidean_weight": _weight(euclidean_weight, "euclidean_weight"),
            "hyperbolic_weight": _weight(hyperbolic_weight, "hyperbolic_weight"),
        }
        self.parts = (
            Part(DOT, 0, width, 0, 0, "", "euclidean_weight"),
            Part(STEREOGRAPHIC, width, -1, 1, 0, "curvature", "hyperbolic_weight"),
        )


# --- from manifolds ---------------------------------------------------------------------------------------------------------------

SPLIT_WIDTHS = (2, 3, 9, 33)
"""Widths that a score is tried on whose first column is the time."""


def _spaces(manifold: Any) -> list[tuple[int | None, int, Any]]:
    """Return width, kind and sectional curvature of each component of a manifold; a width is known of components only."""
    if isinstance(manifold, Product):
        if len(manifold.components) > MAX_PARTS:
            raise InvalidInputError(f"manifold must have at most {MAX_PARTS} components, got {len(manifold.components)}")
        return [(width, *_spaces(part)[0][1:]) for part, width in manifold.components]
    for form, kind in ((Euclidean, EUCLIDEAN), (Lorentz, LORENTZ), (Sphere, SPHERE), (Stereographic, STEREOGRAPHIC)):
        if isinstance(manifold, form):
            return [(None, kind, plain(by_head(np.asarray(manifold.curvature), "the curvature of a score")))]
    raise InvalidInputError(f"manifold must be a PoincareBall, Stereographic, Lorentz, Sphere, Euclidean or Product, got {manifold!r}")


def laid_out(spaces: Sequence[tuple[int | None, int, Any]], params: dict[str, Any]) -> tuple[tuple[int, ...], tuple[Part, ...]]:
    """Return splits and parts of a product, and enter the curvatures and a weight of each component into ``params``."""
    splits: list[int] = []
    parts: list[Part] = []
    at = term = 0
    for number, (width, kind, kappa) in enumerate(spaces):
        assert width is not None
        time = int(kind == LORENTZ)
        name = "" if kind == EUCLIDEAN else f"curvature_{number}"
        if name:
            params[name] = kappa
        if time:
            splits.append(1)
        splits.append(width - time)
        parts.append(Part(kind, at + time, at + width, len(splits) - 1, term, name, f"weight_{number}"))
        at += width
        term += TERMS[kind]
    for part in parts:
        params[part.weight] = 1.0
    return tuple(splits), tuple(parts)


def _positive(value: Any, name: str) -> Any:
    """Return a positive number, or one for each head."""
    return plain(by_head(read_numbers(value, name, positive=True, hint="one number, or one for each head"), name))


def _weight(value: Any, name: str) -> Any:
    """Return a number of at least 0, or one for each head."""
    weights = by_head(read_numbers(value, name, positive=False, hint=""), name)
    if (weights < 0).any():
        raise InvalidInputError(f"{name} must be at least 0, got {value!r}")
    return plain(weights)


# --- by name ----------------------------------------------------------------------------------------------------------------------


def poincare_distance(c: Any = 1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of the Poincaré ball as a score, of numbers alone, as names are registered."""
    return DistanceScore(PoincareBall(c), temperature=temperature, squared=squared)


def lorentz_distance(c: Any = 1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of the hyperboloid as a score."""
    return DistanceScore(Lorentz(c), temperature=temperature, squared=squared)


def sphere_distance(radius: Any = 1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance on a sphere as a score."""
    return DistanceScore(Sphere(radius), temperature=temperature, squared=squared)


def euclidean_distance(*, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the Euclidean distance as a score."""
    return DistanceScore(Euclidean(), temperature=temperature, squared=squared)


def stereographic_distance(curvature: Any = -1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of the stereographic model of any curvature as a score."""
    return DistanceScore(Stereographic(curvature), temperature=temperature, squared=squared)


def product_distance(signature: Any = DEFAULT_SIGNATURE, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of a product of spaces as a score."""
    return DistanceScore(Product.from_signature(signature), temperature=temperature, squared=squared)


REGISTERED = (
    ("poincare-distance", poincare_distance, "Distance in the Poincaré ball, -d/τ or -d²/τ."),
    ("lorentz-distance", lorentz_distance, "Distance on the hyperboloid, -d/τ or -d²/τ."),
    ("sphere-distance", sphere_distance, "Distance on a sphere, -d/τ or -d²/τ."),
    ("euclidean-distance", euclidean_distance, "Euclidean distance, -d/τ or -d²/τ."),
    ("stereographic-distance", stereographic_distance, "Distance in a space of any curvature, -d/τ or -d²/τ."),
    ("product-distance", product_distance, "Distance in a product of spaces, -d/τ or -d²/τ."),
    ("lorentz-inner", LorentzInner, "Lorentz inner product, -cosh(√c d)/(cτ)."),
    ("cosine", Cosine, "Cosine of the angle, over τ."),
    ("dual-space", DualSpace, "A dot product beside a distance in the Poincaré ball."),
)
"""Name, factory and summary of each score of the plugin."""
