"""The pairs of a tile in NumPy: distances from q = sin_κ²(d/2), pairs from the points themselves where dots cancel, and the gradients of both."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.scores import Tile

from .layout import DOT, EUCLIDEAN, SPHERE, STEREOGRAPHIC, Part

Pairs = tuple[np.ndarray, ...]
NONE: Pairs = (np.zeros(0, np.intp), np.zeros(0, np.intp))
CHUNK = 1 << 20


class Measure:
    """What one part makes of the pairs of a tile."""

    def __init__(self, kappa: Any) -> None:
        self.kappa = kappa
        self.q = self.length = self.value = np.zeros(0)
        self.rest: np.ndarray | None = None  # 1 − κq, where κ > 0
        self.chord = np.zeros(0)
        self.excess = np.zeros(0)  # of opposite pairs
        self.near: Pairs = NONE
        self.opposite: Pairs = NONE


def total_of(terms: Any) -> np.ndarray:
    terms = iter(terms)
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def length_of(measure: Measure) -> np.ndarray:
    """d = 2 asin_κ √q."""
    root, kappa = np.sqrt(measure.q), measure.kappa
    if kappa == 0:
        return 2 * root
    unit = np.sqrt(np.abs(kappa))
    if kappa < 0:
        return 2 * np.arcsinh(unit * root) / unit
    assert measure.rest is not None
    return 2 * np.arctan2(unit * root, np.sqrt(measure.rest)) / unit


def _slope(measure: Measure) -> np.ndarray:
    """√(1 − κq): cos_κ(d/2)."""
    return np.sqrt(1 - measure.kappa * measure.q if measure.rest is None else measure.rest)


# (G(z) − 1/√(1+z))/z = Σ −b_n · 2n/(2n+1) · z^(n−1), where 1/√(1+z) = Σ b_n z^n.
_FALL = [1.0]
for _n in range(1, 24):
    _FALL.append(-_FALL[-1] * (2 * _n - 1) / (2 * _n))
_BEND = [-_FALL[n] * 2 * n / (2 * n + 1) for n in range(1, 24)]


def _bend(part: Part, measure: Measure) -> np.ndarray:
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


def length_vjp(part: Part, measure: Measure, dlength: np.ndarray, grads: Gradients) -> np.ndarray:
    """Return the gradient of q, given that of the distance: ∂d/∂q = 1/(√q √(1−κq))."""
    if part.curvature:
        grads.add(part.curvature, (dlength * _bend(part, measure)).sum())
    root = np.sqrt(measure.q) * _slope(measure)
    return np.divide(dlength, root, out=np.zeros_like(root), where=root > 0)


def squared_vjp(part: Part, measure: Measure, dsquared: np.ndarray, grads: Gradients) -> np.ndarray:
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


def differences(x: np.ndarray, y: np.ndarray, pairs: Pairs) -> np.ndarray:
    """‖x−y‖² of pairs."""
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        a -= b
        found[part] = np.vecdot(a, a)
    return found


def angular(x: np.ndarray, y: np.ndarray, pairs: Pairs, row: np.ndarray, col: np.ndarray, sign: int) -> np.ndarray:
    """¼ ‖x/‖x‖ ± y/‖y‖‖², as (‖x ± y‖² − (‖x‖−‖y‖)²)/(4‖x‖‖y‖), of pairs; the terms are reciprocal norms.

    Where the lengths differ by about as much as the points, that is lost in rounding, which may leave less than 0: there by the directions.
    """
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        u, w = row[pairs[0][part], 0].astype(np.float64), col[0, pairs[1][part]].astype(np.float64)
        both = a + sign * b
        chord, gap = np.vecdot(both, both), (1 / u - 1 / w) ** 2
        directions = a / np.sqrt(np.vecdot(a, a))[:, None] + sign * (b / np.sqrt(np.vecdot(b, b))[:, None])
        found[part] = np.where(gap <= chord / 2, (chord - gap) * (u * w), np.vecdot(directions, directions)) / 4
    return found


def hyperboloid(x: np.ndarray, y: np.ndarray, pairs: Pairs, kappa: Any) -> np.ndarray:
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


def antipodal(x: np.ndarray, y: np.ndarray, pairs: Pairs, kappa: Any) -> np.ndarray:
    """1 + 2κ x·y + κ²‖x‖²‖y‖² of pairs, as κ‖x‖² times the square of the distance of y from the antipode of x, −x/κ‖x‖², times κ."""
    k = float(kappa)
    found = np.empty(pairs[0].size)
    for part, a, b in _rows_of(x, y, pairs):
        norms = np.vecdot(a, a)
        b += a / (k * norms)[:, None]
        found[part] = k * k * norms * np.vecdot(b, b)
    return found


class Gradients:
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


def dot_vjp(part: Part, t: Tile, dvalue: np.ndarray, grads: Gradients) -> None:
    """The gradients of a dot product or of a cosine."""
    if part.kind == DOT:
        grads.dots[part.plane] = dvalue
        return
    dot, row, col = t.dots[part.plane], t.rows[part.term], t.cols[part.term]
    grads.dots[part.plane] = dvalue * row * col
    grads.terms(part.term, dvalue * dot * col, dvalue * dot * row)


def pairs_vjp(part: Part, t: Tile, measure: Measure, dq: np.ndarray, grads: Gradients) -> None:
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
