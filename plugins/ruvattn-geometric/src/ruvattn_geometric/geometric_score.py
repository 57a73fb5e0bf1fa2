"""The score that all scores of curved spaces are: a sum of parts, each a function of a dot product, with gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.scores import Score, Tile

from .layout import COSINE, DOT, EUCLIDEAN, LENGTH, LORENTZ, LORENTZ_INNER, SPHERE, STEREOGRAPHIC, SUM, Kernels, Part, domains_of
from .pairs import (
    Gradients,
    Measure,
    angular,
    antipodal,
    differences,
    dot_vjp,
    hyperboloid,
    length_of,
    length_vjp,
    pairs_vjp,
    squared_vjp,
    total_of,
)

NEAR = 1 / 32
"""A sum that is less than this part of its terms has cancelled too far."""


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
    kernels = Kernels()
    mode: int
    parts: tuple[Part, ...]

    @property
    def domains(self) -> dict[str, tuple[float, float]]:  # type: ignore[override]  # of its parts
        """Where the parameters have to be, as `ruvattn.Score` has it."""
        return domains_of(self.mode, self.parts)

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return a term or two of each part for every query, computed in float64; raise where one is outside of a ball."""
        tau, least = np.min(self.params["temperature"]), np.finfo(q.dtype).tiny
        if tau < least:  # its reciprocal would be infinite
            raise InvalidInputError(f"temperature must be at least {least:.3g} in {q.dtype}, in which it is used, got {tau:.9g}")
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
        grads = Gradients(t)
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
                        dot_vjp(part, t, dvalue, grads)
                        continue
                    if part.kind == LORENTZ_INNER:
                        dq = -2 * dvalue
                        grads.add(part.curvature, -(dvalue.sum()) / measure.kappa**2)
                    else:
                        dq = length_vjp(part, measure, -dvalue, grads)
                elif self.mode == LENGTH and len(self.parts) == 1:
                    dq = length_vjp(part, measure, -g, grads)
                else:
                    up = half if self.mode == LENGTH else -g  # of Σ w d²
                    grads.add(part.weight, (up * measure.length**2).sum())
                    dq = squared_vjp(part, measure, up * weight, grads)
                pairs_vjp(part, t, measure, dq, grads)
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
            first = np.asarray(dterms[part.term], np.float64)
            touched = first != 0
            if part.kind == STEREOGRAPHIC:
                touched |= dterms[part.term + 1] != 0
            # Rows that nothing comes to from above may be anything: squares of theirs may overflow.
            seen = touched if group == 1 else touched.reshape(*touched.shape[:-2], heads, group, touched.shape[-1]).any(-2)
            own = np.where(seen.reshape(x.shape[:-1])[..., None], part.columns(x), 0).astype(np.float64, copy=False)
            norms = np.vecdot(own, own)
            if group > 1:
                norms = np.repeat(norms, group, -2)
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

    def _combined(self, found: list[Measure], t: Tile) -> np.ndarray:
        """Return the logits before the division by the temperature."""
        weights = [t.params[part.weight] if part.weight else None for part in self.parts]
        if self.mode == SUM:
            return total_of(weight * one.value if weight is not None else one.value for weight, one in zip(weights, found, strict=True))
        if self.mode == LENGTH and len(found) == 1:
            return -found[0].length
        total = total_of(one.length**2 if weight is None else weight * one.length**2 for weight, one in zip(weights, found, strict=True))
        return -np.sqrt(total) if self.mode == LENGTH else -total

    def _measure(self, part: Part, t: Tile) -> Measure:
        """Return what there is to know of the pairs of a tile in one part."""
        kappa = t.params[part.curvature] if part.curvature else 0.0
        measure = Measure(kappa)
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
            chord[measure.near] = differences(x, y, measure.near)
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
            share[measure.near] = angular(x, y, measure.near, row, col, -1)
            measure.q = share / kappa
            opposite = share > 1 - NEAR
        else:
            whole = row + col - (2 * kappa * row) * col  # row · col may overflow where −κ is small
            measure.q = whole - dot / 2
            measure.near = np.nonzero(measure.q < NEAR * whole)
            measure.q[measure.near] = hyperboloid(x, y, measure.near, kappa)
        if kappa > 0:
            measure.rest = 1 - kappa * measure.q
            measure.opposite = np.nonzero(opposite)
            if part.kind == SPHERE:
                rest = angular(x, y, measure.opposite, row, col, 1)
            else:
                a, b = (term[part.term + 1] for term in (t.rows, t.cols))
                measure.excess = antipodal(x, y, measure.opposite, kappa)
                rest = measure.excess * np.broadcast_to(a * b, dot.shape)[measure.opposite]
            measure.rest[measure.opposite] = rest
            measure.q[measure.opposite] = (1 - rest) / kappa
        if part.kind == LORENTZ_INNER:
            measure.value = 1 / kappa - 2 * measure.q
        else:
            measure.length = length_of(measure)
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
