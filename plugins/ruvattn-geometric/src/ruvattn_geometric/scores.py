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

`_scores.pyx` has the same compiled, forward and backward.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.isa import load_kernels
from ruvattn.scores import FORWARD_SIGNATURE, VJP_SIGNATURE, Score, Tile, spelled
from ruvattn.validation import check_bool, check_int

if TYPE_CHECKING:
    from ruvattn.interfaces import Manifold

__all__ = ["Cosine", "DistanceScore", "DualSpace", "LorentzInner"]

NEAR = 1 / 32
"""A sum that is less than this part of its terms has cancelled too far."""

MAX_PARTS = 16

# What a part is, as in _components.pxd.
STEREOGRAPHIC, EUCLIDEAN, SPHERE, LORENTZ, LORENTZ_INNER, COSINE, DOT = range(7)
# What becomes of the parts.
LENGTH, SQUARED, SUM = range(3)

_TERMS = {STEREOGRAPHIC: 2, EUCLIDEAN: 1, SPHERE: 1, LORENTZ: 1, LORENTZ_INNER: 1, COSINE: 1, DOT: 0}


@dataclass(frozen=True)
class Part:
    """One space of a score: which columns it has, and where its plane, its terms and its parameters are.

    Attributes
    ----------
    kind : int
        Of the constants above.
    start, stop : int
        Columns of queries and keys; ``stop`` is −1 for all that there are.
    plane, term : int
        Of the tile: its plane of dots, and its first row and column term.
    curvature, weight : str
        Names of parameters; empty where it has none.
    """

    kind: int
    start: int
    stop: int
    plane: int
    term: int
    curvature: str = ""
    weight: str = ""

    def columns(self, x: np.ndarray) -> np.ndarray:
        """Return the columns of points that are this part's."""
        return x[..., self.start : None if self.stop < 0 else self.stop]


class _Layout(ctypes.Structure):
    """What a compiled function needs to know of the parts, as in _components.pxd."""

    _fields_ = [
        ("mode", ctypes.c_int),
        ("count", ctypes.c_int),
        *((name, ctypes.c_int * MAX_PARTS) for name in ("kind", "plane", "term", "curvature", "weight")),
        *((name, ctypes.c_ssize_t * MAX_PARTS) for name in ("start", "stop")),
    ]


@functools.cache
def _compiled(mode: int, parts: tuple[Part, ...], names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Return the compiled forms for a layout; kept, together with what they point to."""
    from scipy import LowLevelCallable

    layout = _Layout(mode, len(parts))
    for at, part in enumerate(parts):
        layout.kind[at], layout.plane[at], layout.term[at] = part.kind, part.plane, part.term
        layout.start[at], layout.stop[at] = part.start, part.stop
        layout.curvature[at] = names.index(part.curvature) if part.curvature else -1
        layout.weight[at] = names.index(part.weight) if part.weight else -1
    _layouts.append(layout)
    pointer = ctypes.cast(ctypes.pointer(layout), ctypes.c_void_p)
    forms: dict[str, tuple[Any, Any]] = {}
    for dtype in ("float32", "float64"):
        module = load_kernels("ruvattn_geometric._scores", dtype)
        # Cython calls a dtype `real` where it has to say which.
        forms[dtype] = tuple(
            LowLevelCallable.from_cython(module, name, pointer, spelled(signature, dtype))
            for name, signature in (("geometric_logits", FORWARD_SIGNATURE), ("geometric_logits_vjp", VJP_SIGNATURE))
        )
    return forms


_layouts: list[_Layout] = []


class _Kernels:
    """The compiled forms of an instance. They do not pickle, so that no instance holds them; an instance may still be given others."""

    def __get__(self, score: GeometricScore | None, owner: type) -> dict[str, tuple[Any, Any]]:
        return {} if score is None else _compiled(score.mode, score.parts, tuple(score.params))


class GeometricScore(Score):
    """What the scores of this module are: a sum of parts, each a function of a dot product.

    Attributes
    ----------
    mode : int
        Whether the logit is −√(Σ w d²)/τ, −Σ w d²/τ or Σ w f/τ.
    parts : tuple of Part
        At most 16.
    """

    vectors = True
    symmetric = True
    kernels = _Kernels()
    mode: int
    parts: tuple[Part, ...]

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return a term or two of each part for every query, computed in float64; raise where one is outside of a ball."""
        return self._terms(q, q.shape[-3] if q.ndim > 2 else 1, "q")

    def col_terms(self, k: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return a term or two of each part for every key, computed in float64; NaN where one is outside of a ball, for it may be masked."""
        return self._terms(k, k.shape[-3] if k.ndim > 2 else 1)

    def row_terms_vjp(self, q: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of the queries and of the curvatures."""
        return self._terms_vjp(q, dterms)

    def col_terms_vjp(self, k: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of the keys and of the curvatures."""
        return self._terms_vjp(k, dterms)

    def logits(self, t: Tile) -> np.ndarray:
        """Return the logits of a tile."""
        dtype = t.dots.dtype
        with np.errstate(all="ignore"):
            found = [self._measure(part, t) for part in self.parts]
            total = self._combined(found, t)
        return (total / dtype.type(t.params["temperature"])).astype(dtype, copy=False)

    def logits_vjp(self, t: Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of all that the tile holds. Where points coincide a distance has no derivative: there it counts as 0."""
        assert t.q is not None and t.k is not None
        grads = _Gradients(t)
        with np.errstate(all="ignore"):
            found = [self._measure(part, t) for part in self.parts]
            total = self._combined(found, t)
            tau = t.params["temperature"]
            grads.add("temperature", -(dlogits * total).sum() / tau**2)
            g = dlogits / tau
            if self.mode == LENGTH:
                root = -total
                half = np.divide(-g, 2 * root, out=np.zeros_like(g), where=root > 0)
            for part, measure in zip(self.parts, found, strict=True):
                weight = t.params[part.weight] if part.weight else 1.0
                if self.mode == SUM:
                    grads.add(part.weight, (g * measure.value).sum())
                    dvalue = g * weight
                    if part.kind in (COSINE, DOT):
                        _dot_vjp(part, t, dvalue, grads)
                        continue
                    if part.kind == LORENTZ_INNER:
                        dq = -2 * dvalue
                        grads.add(part.curvature, -(dvalue.sum()) / measure.kappa**2)
                    else:
                        dq = _length_vjp(part, measure, -dvalue, grads)
                elif self.mode == LENGTH and len(self.parts) == 1:
                    dq = _length_vjp(part, measure, -g, grads)
                else:
                    up = half if self.mode == LENGTH else -g  # of Σ w d²
                    grads.add(part.weight, (up * measure.length**2).sum())
                    dq = _squared_vjp(part, measure, up * weight, grads)
                _pairs_vjp(part, t, measure, dq, grads)
        return grads.result()

    # --- parts --------------------------------------------------------------------------------------------------------------------

    def _curvature(self, part: Part, heads: int) -> tuple[Any, int]:
        """Return a part's curvature as it broadcasts to (heads, L), and how often each head of an array of ``heads`` is to be repeated for that."""
        value = np.asarray(self.params[part.curvature] if part.curvature else 0, np.float64)
        if value.ndim == 0:
            return value, 1
        return value[:, None], max(1, value.shape[0] // heads)

    def _terms(self, x: np.ndarray, heads: int, name: str = "") -> tuple[np.ndarray, ...]:
        terms: list[np.ndarray] = []
        for part in self.parts:
            if part.kind == DOT:
                continue
            kappa, group = self._curvature(part, heads)
            own = part.columns(x)
            # einsum converts in small blocks as it goes: vecdot takes ten times as long for that, and .astype needs an array of the size
            norms = np.einsum("...i,...i->...", own, own, dtype=np.float64)
            if group > 1:
                norms = np.repeat(norms, group, -2)
            if part.kind == STEREOGRAPHIC:
                below = 1 + kappa * norms
                outside = below <= 0
                if outside.any():
                    if name:
                        _check_inside(norms, outside & np.isfinite(x).all(-1), kappa, name)
                    below[outside] = np.nan
                terms += [norms, 1 / below]
            elif part.kind == EUCLIDEAN:
                terms.append(norms)
            elif part.kind in (SPHERE, COSINE):
                terms.append(np.divide(1, np.sqrt(norms), out=np.zeros_like(norms), where=norms != 0))
            else:
                terms.append(norms / (2 * (1 + np.sqrt(1 - kappa * norms))))
        return tuple(terms)

    def _terms_vjp(self, x: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        dx = np.zeros(x.shape)
        dparams: dict[str, Any] = {}
        heads = x.shape[-3] if x.ndim > 2 else 1
        for part in self.parts:
            if part.kind == DOT:
                continue
            kappa, group = self._curvature(part, heads)
            own = part.columns(x).astype(np.float64)
            norms = np.vecdot(own, own)
            if group > 1:
                norms = np.repeat(norms, group, -2)
            first = np.asarray(dterms[part.term], np.float64)
            dkappa = None
            if part.kind == STEREOGRAPHIC:
                second = np.asarray(dterms[part.term + 1], np.float64) / (1 + kappa * norms) ** 2
                dnorms = first - kappa * second
                dkappa = -norms * second
            elif part.kind == EUCLIDEAN:
                dnorms = first
            elif part.kind in (SPHERE, COSINE):
                dnorms = np.divide(-first, 2 * norms**1.5, out=np.zeros_like(norms), where=norms != 0)
            else:
                root = np.sqrt(1 - kappa * norms)
                dnorms = first / (4 * root)
                dkappa = first * norms**2 / (4 * root * (1 + root) ** 2)
            if group > 1:
                dnorms = dnorms.reshape(*dnorms.shape[:-2], heads, group, dnorms.shape[-1]).sum(-2)
            part.columns(dx)[...] += 2 * dnorms[..., None] * own
            if dkappa is not None:
                total = dkappa.sum() if np.ndim(self.params[part.curvature]) == 0 else dkappa.sum((*range(dkappa.ndim - 2), -1))
                dparams[part.curvature] = dparams.get(part.curvature, 0) + total
        return dx.astype(x.dtype), dparams

    def _combined(self, found: list[_Measure], t: Tile) -> np.ndarray:
        """Return the logits before the division by the temperature."""
        weights = [t.params[part.weight] if part.weight else None for part in self.parts]
        if self.mode == SUM:
            return _sum(weight * one.value if weight is not None else one.value for weight, one in zip(weights, found, strict=True))
        if self.mode == LENGTH and len(found) == 1:
            return -found[0].length
        total = _sum(one.length**2 if weight is None else weight * one.length**2 for weight, one in zip(weights, found, strict=True))
        return -np.sqrt(total) if self.mode == LENGTH else -total

    def _measure(self, part: Part, t: Tile) -> _Measure:
        """Return what there is to know of the pairs of a tile in one part."""
        kappa = t.params[part.curvature] if part.curvature else 0.0
        measure = _Measure(kappa)
        dot = t.dots[part.plane]
        if part.kind == DOT:
            measure.value = dot
            return measure
        row, col = t.rows[part.term], t.cols[part.term]
        if part.kind == COSINE:
            measure.value = dot * row * col
            return measure
        assert t.q is not None and t.k is not None
        x, y = part.columns(t.q), part.columns(t.k)
        opposite = np.zeros(0, bool)
        if part.kind in (STEREOGRAPHIC, EUCLIDEAN):
            chord = row + col - 2 * dot
            measure.near = np.nonzero(chord < NEAR * (row + col))
            chord[measure.near] = _differences(x, y, measure.near)
            if part.kind == EUCLIDEAN:
                measure.q = chord / 4
            else:
                measure.chord = chord
                measure.q = chord * (t.rows[part.term + 1] * t.cols[part.term + 1])
                if kappa > 0:
                    opposite = kappa * measure.q > 1 - NEAR
        elif part.kind == SPHERE:
            share = (1 - dot * (row * col)) / 2
            measure.near = np.nonzero(share < NEAR)
            share[measure.near] = _angular(x, y, measure.near, row, col, -1)
            measure.q = share / kappa
            opposite = share > 1 - NEAR
        else:
            whole = row + col - 2 * kappa * (row * col)
            measure.q = whole - dot / 2
            measure.near = np.nonzero(measure.q < NEAR * whole)
            measure.q[measure.near] = _hyperboloid(x, y, measure.near, kappa)
        if kappa > 0:
            measure.rest = 1 - kappa * measure.q
            measure.opposite = np.nonzero(opposite)
            if part.kind == SPHERE:
                rest = _angular(x, y, measure.opposite, row, col, 1)
            else:
                a, b = (term[part.term + 1] for term in (t.rows, t.cols))
                measure.excess = _antipodal(x, y, measure.opposite, kappa)
                rest = measure.excess * np.broadcast_to(a * b, dot.shape)[measure.opposite]
            measure.rest[measure.opposite] = rest
            measure.q[measure.opposite] = (1 - rest) / kappa
        if part.kind == LORENTZ_INNER:
            measure.value = 1 / kappa - 2 * measure.q
        else:
            measure.length = _length(measure)
            measure.value = -measure.length
        return measure

    # --- for the conformance suite ------------------------------------------------------------------------------------------------

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Draw points for `ruvattn.testing`, or values.

        Parameters
        ----------
        rng : Generator
            The source.
        role : str
            "query", "key" or "value".
        shape : tuple of int
            The last axis is the width.

        Returns
        -------
        ndarray
            Points of every part.
        """
        drawn = rng.standard_normal(shape)
        if role == "value":
            return drawn
        for part in self.parts:
            own = part.columns(drawn)
            kappa = float(np.max(np.abs(self.params[part.curvature]))) if part.curvature else 0.0
            length = np.linalg.norm(own, axis=-1, keepdims=True)
            if part.kind == STEREOGRAPHIC:
                own *= 0.9 * np.sqrt(rng.random((*shape[:-1], 1))) / (length * np.sqrt(max(kappa, 0.1)))
            elif part.kind == SPHERE:
                own /= length * np.sqrt(kappa)
            elif part.kind in (LORENTZ, LORENTZ_INNER):
                drawn[..., part.start - 1] = np.sqrt(1 / kappa + length[..., 0] ** 2)
        return drawn


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
            self.splits, self.parts = _alone(kind, name)
            if kind == LORENTZ:
                self.conformance_widths = SPLIT_WIDTHS
            return
        self.splits, self.parts = _laid_out(spaces, self.params)


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
            "curvature": _negated(_positive(c, "c")),
        }
        _, self.parts = _alone(LORENTZ_INNER, "curvature")


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
            "curvature": _negated(_positive(c, "c")),
            "euclidean_weight": _positive(euclidean_weight, "euclidean_weight", or_zero=True),
            "hyperbolic_weight": _positive(hyperbolic_weight, "hyperbolic_weight", or_zero=True),
        }
        self.parts = (
            Part(DOT, 0, width, 0, 0, "", "euclidean_weight"),
            Part(STEREOGRAPHIC, width, -1, 1, 0, "curvature", "hyperbolic_weight"),
        )


# --- from manifolds ---------------------------------------------------------------------------------------------------------------

SPLIT_WIDTHS = (2, 3, 9, 33)
"""Widths that a score is tried on whose first column is the time."""


def _alone(kind: int, curvature: str) -> tuple[tuple[int, ...] | None, tuple[Part, ...]]:
    """Return the splits and the one part of a space that has all columns; those of Lorentz points begin with the time, which is made anew."""
    time = int(kind in (LORENTZ, LORENTZ_INNER))
    return (1, -1) if time else None, (Part(kind, time, -1, time, 0, curvature),)


def _spaces(manifold: Any) -> list[tuple[int | None, int, Any]]:
    """Return width, kind and sectional curvature of each component of a manifold; a width is known of components only."""
    from .manifolds import Euclidean, Lorentz, Product, Sphere, Stereographic

    if isinstance(manifold, Product):
        if len(manifold.components) > MAX_PARTS:
            raise InvalidInputError(f"manifold must have at most {MAX_PARTS} components, got {len(manifold.components)}")
        return [(width, *_spaces(part)[0][1:]) for part, width in manifold.components]
    for form, kind in ((Euclidean, EUCLIDEAN), (Lorentz, LORENTZ), (Sphere, SPHERE), (Stereographic, STEREOGRAPHIC)):
        if isinstance(manifold, form):
            return [(None, kind, _numbers(manifold.curvature))]
    raise InvalidInputError(f"manifold must be a PoincareBall, Stereographic, Lorentz, Sphere, Euclidean or Product, got {manifold!r}")


def _laid_out(spaces: Sequence[tuple[int | None, int, Any]], params: dict[str, Any]) -> tuple[tuple[int, ...], tuple[Part, ...]]:
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
        term += _TERMS[kind]
    for part in parts:
        params[part.weight] = 1.0
    return tuple(splits), tuple(parts)


def _numbers(value: Any) -> Any:
    """Return a number, or an array of one for each head: (H,), also where it broadcasts as (H, 1)."""
    array = np.asarray(value, np.float64)
    if array.ndim > 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > 1:
        raise DimensionMismatchError(f"a curvature of a score must be a number or have one entry for each head, got shape {np.shape(value)}")
    return float(array) if array.ndim == 0 else array


def _positive(value: Any, name: str, or_zero: bool = False) -> Any:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim > 1 or array.size == 0 or not np.all(np.isfinite(array) & ((array >= 0) if or_zero else (array > 0))):
        raise InvalidInputError(f"{name} must be a {'number of at least 0' if or_zero else 'positive number'}, or one for each head, got {value!r}")
    return float(array) if array.ndim == 0 else array.copy()


def _negated(value: Any) -> Any:
    return -value


def _check_inside(norms: np.ndarray, outside: np.ndarray, kappa: Any, name: str) -> None:
    """Raise where a point is outside of a ball."""
    if not outside.any():
        return
    at = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), outside.shape))
    radius = float(np.broadcast_to(1 / np.sqrt(np.maximum(-kappa, 1e-300)), outside.shape)[at])
    raise InvalidInputError(
        f"{name} must hold points inside the ball of radius {radius:.6g}: row {at} has the norm {float(np.sqrt(norms[at])):.9g}; "
        "project them onto it first (PoincareBall.project)"
    )


# --- pairs ------------------------------------------------------------------------------------------------------------------------

Pairs = tuple[np.ndarray, ...]
NONE: Pairs = (np.zeros(0, np.intp), np.zeros(0, np.intp))
CHUNK = 1 << 20


class _Measure:
    """What one part makes of the pairs of a tile."""

    def __init__(self, kappa: Any) -> None:
        self.kappa = kappa
        self.q = self.length = self.value = np.zeros(0)
        self.rest: np.ndarray | None = None  # 1 − κq, where κ > 0
        self.chord = np.zeros(0)
        self.excess = np.zeros(0)  # of opposite pairs
        self.near: Pairs = NONE
        self.opposite: Pairs = NONE


def _sum(terms: Any) -> np.ndarray:
    terms = iter(terms)
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _length(measure: _Measure) -> np.ndarray:
    """d = 2 asin_κ √q."""
    root, kappa = np.sqrt(measure.q), measure.kappa
    if kappa == 0:
        return 2 * root
    unit = np.sqrt(np.abs(kappa))
    if kappa < 0:
        return 2 * np.arcsinh(unit * root) / unit
    assert measure.rest is not None
    return 2 * np.arctan2(unit * root, np.sqrt(measure.rest)) / unit


def _slope(measure: _Measure) -> np.ndarray:
    """√(1 − κq): cos_κ(d/2)."""
    return np.sqrt(1 - measure.kappa * measure.q if measure.rest is None else measure.rest)


# (G(z) − 1/√(1+z))/z = Σ −b_n · 2n/(2n+1) · z^(n−1), where 1/√(1+z) = Σ b_n z^n.
_FALL = [1.0]
for _n in range(1, 24):
    _FALL.append(-_FALL[-1] * (2 * _n - 1) / (2 * _n))
_BEND = [-_FALL[n] * 2 * n / (2 * n + 1) for n in range(1, 24)]


def _bend(part: Part, measure: _Measure) -> np.ndarray:
    """∂d/∂κ at constant q, which is q√q · (G(z) − 1/√(1+z))/z with z = −κq. On a sphere at a constant angle: −d/2κ."""
    if part.kind == SPHERE:
        return -measure.length / (2 * measure.kappa)
    z = -measure.kappa * measure.q
    root = np.sqrt(measure.q)
    small = np.abs(z) < 0.2
    series = np.polynomial.polynomial.polyval(np.where(small, z, 0), _BEND)
    slope = _slope(measure)
    with np.errstate(all="ignore"):
        far = (measure.length / 2 - np.divide(root, slope, out=np.zeros_like(root), where=slope > 0)) / z
    return np.where(small, measure.q * root * series, measure.q * far)


def _length_vjp(part: Part, measure: _Measure, dlength: np.ndarray, grads: _Gradients) -> np.ndarray:
    """Return the gradient of q, given that of the distance: ∂d/∂q = 1/(√q √(1−κq))."""
    if part.curvature:
        grads.add(part.curvature, (dlength * _bend(part, measure)).sum())
    root = np.sqrt(measure.q) * _slope(measure)
    return np.divide(dlength, root, out=np.zeros_like(root), where=root > 0)


def _squared_vjp(part: Part, measure: _Measure, dsquared: np.ndarray, grads: _Gradients) -> np.ndarray:
    """Return the gradient of q, given that of the square of the distance: ∂d²/∂q = 2d/(√q √(1−κq)), which is 4 at 0."""
    if part.curvature:
        grads.add(part.curvature, (dsquared * 2 * measure.length * _bend(part, measure)).sum())
    root = np.sqrt(measure.q)
    ratio = np.divide(measure.length, root, out=np.full_like(root, 2), where=root > 0)
    slope = _slope(measure)
    return np.divide(2 * dsquared * ratio, slope, out=np.zeros_like(slope), where=slope > 0)


def _rows_of(x: np.ndarray, y: np.ndarray, pairs: Pairs) -> Any:
    """Yield the points of pairs in float64, some at a time: what they take of the result, the first and the second of each."""
    step = max(1, CHUNK // max(1, x.shape[-1]))
    for first in range(0, pairs[0].size, step):
        part = slice(first, first + step)
        yield part, x[pairs[0][part]].astype(np.float64), y[pairs[1][part]].astype(np.float64)


def _differences(x: np.ndarray, y: np.ndarray, pairs: Pairs) -> np.ndarray:
    """‖x−y‖² of pairs."""
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        a -= b
        found[part] = np.vecdot(a, a)
    return found


def _angular(x: np.ndarray, y: np.ndarray, pairs: Pairs, row: np.ndarray, col: np.ndarray, sign: int) -> np.ndarray:
    """¼ ‖x/‖x‖ ± y/‖y‖‖², as (‖x ± y‖² − (‖x‖−‖y‖)²)/(4‖x‖‖y‖), of pairs; the terms are reciprocal norms."""
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        a += sign * b
        found[part] = np.vecdot(a, a)
    u, w = row[pairs[0], 0].astype(np.float64), col[0, pairs[1]].astype(np.float64)
    return (found - (1 / u - 1 / w) ** 2) * (u * w) / 4


def _hyperboloid(x: np.ndarray, y: np.ndarray, pairs: Pairs, kappa: Any) -> np.ndarray:
    """q of pairs by their coordinates in the ball, where nothing cancels however far out they are."""
    c = -float(kappa)
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        up, down = (1 + np.sqrt(1 + c * np.vecdot(z, z)) for z in (a, b))
        a /= up[:, None]
        b /= down[:, None]
        a -= b
        found[part] = np.vecdot(a, a) * up * down / 4
    return found


def _antipodal(x: np.ndarray, y: np.ndarray, pairs: Pairs, kappa: Any) -> np.ndarray:
    """1 + 2κ x·y + κ²‖x‖²‖y‖² of pairs, as κ‖x‖² times the square of the distance of y from the antipode of x, −x/κ‖x‖², times κ."""
    k = float(kappa)
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        norms = np.vecdot(a, a)
        b += a / (k * norms)[:, None]
        found[part] = k * k * norms * np.vecdot(b, b)
    return found


class _Gradients:
    """The gradients of a tile, while they are added up."""

    def __init__(self, t: Tile) -> None:
        assert t.q is not None and t.k is not None
        self.dots = np.zeros_like(t.dots)
        self.rows = tuple(np.zeros_like(term) for term in t.rows)
        self.cols = tuple(np.zeros_like(term) for term in t.cols)
        self.q, self.k = np.zeros(t.q.shape), np.zeros(t.k.shape)
        self.params: dict[str, Any] = {}

    def add(self, name: str, value: Any) -> None:
        """Add to the gradient of a parameter; of no name, to none."""
        if name:
            self.params[name] = self.params.get(name, 0) + value

    def terms(self, term: int, row: np.ndarray, col: np.ndarray) -> None:
        """Add (m, n) gradients to a row term and a column term."""
        self.rows[term][...] += row.sum(1, keepdims=True)
        self.cols[term][...] += col.sum(0, keepdims=True)

    def vectors(self, part: Part, pairs: Pairs, dx: np.ndarray, dy: np.ndarray, rows: slice) -> None:
        """Add to the gradients of the points of pairs."""
        np.add.at(part.columns(self.q), pairs[0][rows], dx)
        np.add.at(part.columns(self.k), pairs[1][rows], dy)

    def result(self) -> tuple[Any, ...]:
        """Return them as `Score.logits_vjp` does."""
        dtype = self.dots.dtype
        return self.dots, self.rows, self.cols, self.params, self.q.astype(dtype), self.k.astype(dtype)


def _dot_vjp(part: Part, t: Tile, dvalue: np.ndarray, grads: _Gradients) -> None:
    """The gradients of a dot product or of a cosine."""
    if part.kind == DOT:
        grads.dots[part.plane] = dvalue
        return
    dot, row, col = t.dots[part.plane], t.rows[part.term], t.cols[part.term]
    grads.dots[part.plane] = dvalue * row * col
    grads.terms(part.term, dvalue * dot * col, dvalue * dot * row)


def _pairs_vjp(part: Part, t: Tile, measure: _Measure, dq: np.ndarray, grads: _Gradients) -> None:
    """Add the gradients of what q was computed from: dots and terms, or the points themselves."""
    assert t.q is not None and t.k is not None
    row, col = t.rows[part.term], t.cols[part.term]
    x, y = part.columns(t.q), part.columns(t.k)
    near, opposite, kappa = measure.near, measure.opposite, float(measure.kappa)
    if part.kind in (STEREOGRAPHIC, EUCLIDEAN):
        a, b = (t.rows[part.term + 1], t.cols[part.term + 1]) if part.kind == STEREOGRAPHIC else (0.5, 0.5)
        dchord = dq * a * b
        if part.kind == STEREOGRAPHIC:
            upstream = dq * measure.chord
            upstream[opposite] = -dq[opposite] * measure.excess / kappa if kappa > 0 else 0
            grads.terms(part.term + 1, upstream * b, upstream * a)
        by_dots = dchord.copy()
        by_dots[near] = by_dots[opposite] = 0
        grads.dots[part.plane] = -2 * by_dots
        grads.terms(part.term, by_dots, by_dots)
        for rows, u, w in _rows_of(x, y, near):
            dx = 2 * dchord[near][rows, None] * (u - w)
            grads.vectors(part, near, dx, -dx, rows)
        for rows, u, w in _rows_of(x, y, opposite):
            up, of_u, of_w = dchord[opposite][rows], np.vecdot(u, u), np.vecdot(w, w)
            # q = (1 − E A B)/κ with E = 1 + 2κ x·y + κ²‖x‖²‖y‖²
            product = np.vecdot(u, w)
            rest = np.asarray(measure.rest)[opposite][rows]
            # of κ: what E and the quotient have; q's own is −(1 − rest)/κ²
            grads.add(part.curvature, -(up * (2 * kappa * of_u * of_w + 2 * product) / kappa).sum())
            grads.add(part.curvature, -(dq[opposite][rows] * (1 - rest) / kappa**2).sum())
            grads.vectors(
                part, opposite, -2 * up[:, None] * (kappa * of_w[:, None] * u + w), -2 * up[:, None] * (kappa * of_u[:, None] * w + u), rows
            )
        return
    if part.kind == SPHERE:
        dshare = dq / kappa
        by_dots = dshare.copy()
        by_dots[near] = by_dots[opposite] = 0
        grads.dots[part.plane] = -0.5 * by_dots * row * col
        upstream = -0.5 * by_dots * t.dots[part.plane]
        grads.terms(part.term, upstream * col, upstream * row)
        for pairs, sign in ((near, -1), (opposite, 1)):
            for rows, u, w in _rows_of(x, y, pairs):
                up = -sign * dshare[pairs][rows]
                nu, mu = row[pairs[0][rows], 0].astype(np.float64), col[0, pairs[1][rows]].astype(np.float64)
                # ¼ (‖u ± w‖² − (1/ν − 1/μ)²) ν μ
                both = u + sign * w
                gap = 1 / nu - 1 / mu
                share = (np.vecdot(both, both) - gap**2) * nu * mu / 4
                dx = (up * nu * mu / 2)[:, None] * both
                grads.vectors(part, pairs, dx, sign * dx, rows)
                np.add.at(grads.rows[part.term][:, 0], pairs[0][rows], up * (share + gap * mu / 2) / nu)
                np.add.at(grads.cols[part.term][0], pairs[1][rows], up * (share - gap * nu / 2) / mu)
        return
    by_dots = dq.copy()
    by_dots[near] = 0
    grads.dots[part.plane] = -0.5 * by_dots
    grads.terms(part.term, by_dots * (1 - 2 * kappa * col), by_dots * (1 - 2 * kappa * row))
    grads.add(part.curvature, -2 * (by_dots * row * col).sum())
    c = -kappa
    for rows, u, w in _rows_of(x, y, near):
        # q = ¼ (‖Δx‖² − Δt²), Δt = (‖x‖² − ‖y‖²)/(t + t')
        up = dq[near][rows]
        t_u, t_w = np.sqrt(1 / c + np.vecdot(u, u)), np.sqrt(1 / c + np.vecdot(w, w))
        fall = np.vecdot(u - w, u + w) / (t_u + t_w)
        grads.vectors(
            part,
            near,
            (up / 2)[:, None] * (u - w - (fall / t_u)[:, None] * u),
            (up / 2)[:, None] * (w - u + (fall / t_w)[:, None] * w),
            rows,
        )
        # ∂t/∂c = −1/(2c²t), so that ∂Δt/∂c = Δt/(2c² t t'); and κ = −c
        grads.add(part.curvature, (up * fall**2 / (4 * c * c * t_u * t_w)).sum())


# --- by name ----------------------------------------------------------------------------------------------------------------------


def poincare_distance(c: Any = 1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of the Poincaré ball as a score, of numbers alone, as names are registered."""
    from .manifolds import PoincareBall

    return DistanceScore(PoincareBall(c), temperature=temperature, squared=squared)


def lorentz_distance(c: Any = 1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of the hyperboloid as a score."""
    from .manifolds import Lorentz

    return DistanceScore(Lorentz(c), temperature=temperature, squared=squared)


def sphere_distance(radius: Any = 1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance on a sphere as a score."""
    from .manifolds import Sphere

    return DistanceScore(Sphere(radius), temperature=temperature, squared=squared)


def euclidean_distance(*, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the Euclidean distance as a score."""
    from .manifolds import Euclidean

    return DistanceScore(Euclidean(), temperature=temperature, squared=squared)


def stereographic_distance(curvature: Any = -1.0, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of the stereographic model of any curvature as a score."""
    from .manifolds import Stereographic

    return DistanceScore(Stereographic(curvature), temperature=temperature, squared=squared)


def product_distance(signature: Any, *, temperature: Any = 1.0, squared: bool = False) -> DistanceScore:
    """Return the distance of a product of spaces as a score."""
    from .manifolds import Product

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
