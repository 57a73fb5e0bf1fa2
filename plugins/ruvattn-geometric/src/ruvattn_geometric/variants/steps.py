"""From what comes in to the points of the heads, from their means to what goes out, and the way back through both.

    forward    rows ─► moved, where off ─► log₀ ─► · W ─► exp₀ ─► points          means ─► log₀ ─► · W_o ─► exp₀ ─► moved, where off ─► out
    backward   each of these from the right to the left, from the rows once more: a context keeps what a call was given, and no more

The gradient of a curvature is added up on the way, for exp₀, log₀ and what moves rows depend on it as much as scores and means do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ruvattn.context import Context, RecomputedContext
from ruvattn.headwise import HeadwiseAttention
from ruvattn.running import narrowed

from ..manifolds.derivatives import project_vjp
from .checks import COUNTED, ROLES, PointChecks
from .origin import exp_at_origin, exp_at_origin_vjp, log_at_origin, log_at_origin_vjp

__all__ = ["PointSteps"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class PointSteps(PointChecks):
    """The steps of a geometric variant around its heads, forward and back."""

    # --- what comes in --------------------------------------------------------------------------------------------------------------

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return points of the heads, given points or tangent vectors; plain values as they are, or multiplied by W_v.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k, v : ndarray
            In the compute dtype, or the inputs themselves where nothing is to be done.
        """
        made: list[np.ndarray] = []
        for at, (role, x) in enumerate(zip(ROLES, (q, k, v), strict=True)):
            same = next((other for other in range(at) if (q, k, v)[other] is x), None)
            shares = same is not None and not self._projects and not self._call.geometry.strange
            if role == "v" and not self._mean:
                made.append(self._project(x, "v") if self._projects else x)
            elif shares and same is not None:
                made.append(made[same])
                self._call.moved[role] = self._call.moved[ROLES[same]]
            else:
                made.append(self._points(x, role))
        dtype = np.result_type(*made)  # some of them may be as narrow as they came
        a, b, c = (x.astype(dtype, copy=False) for x in made)
        return a, b, c

    def _points(self, x: np.ndarray, role: str) -> np.ndarray:
        """Return the points of the heads, (..., L, heads · D)."""
        if self._as_they_are(role):
            return x
        tangent = self._tangent("inputs")
        rows, off = self._ready(x, role)
        with np.errstate(all="ignore"):  # of rows that are no numbers, which only those feel that see them
            if off is not None:
                rows = self._moved(rows, off, role, tangent)
            if self._projects:
                rows = self._projected(rows if tangent else log_at_origin(self._call.geometry.rows, rows), role)
            if tangent or self._projects:
                rows = self._exp(rows, role)
        return rows.reshape(*x.shape[:-1], -1)

    def _as_they_are(self, role: str) -> bool:
        """Tell whether points are what has come in, with nothing to be done."""
        return not (self._tangent("inputs") or self._projects or self._projecting or role in self._call.geometry.strange)

    def _ready(self, x: np.ndarray, role: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return rows (..., L, H, D), with something harmless where nobody looks, and which are to be moved."""
        hidden, unreal = self._call.geometry.strange.get(role, (None, None))
        rows = self._split(x)
        off = self._off(rows) & np.isfinite(rows).all(-1) if self._projecting else None  # by the rounding of the dtype that came
        if rows.dtype.itemsize < 4:
            rows = rows.astype(np.float32)
        if hidden is not None and hidden.any():
            origin = self._call.geometry.rows.origin(rows.shape[-1], rows.dtype)
            rows = np.where(hidden[..., None], np.zeros_like(origin) if self._tangent("inputs") else origin, rows)
        if unreal is not None and unreal.any():
            rows = np.where(unreal[..., None], rows.dtype.type(np.nan), rows)
        return rows, off

    def _projected(self, rows: np.ndarray, role: str) -> np.ndarray:
        """Return rows times the weights of a role, split into its heads."""
        made = self._project(rows.reshape(*rows.shape[:-2], -1), role)
        return self._split(made, self.num_heads if role in ("q", "o") else self.num_kv_heads)

    def _moved(self, rows: np.ndarray, off: np.ndarray, role: str, tangent: bool = False) -> np.ndarray:
        """Return rows of which some are brought to the manifold, or to the tangent space at the origin, and count these."""
        count = int(np.count_nonzero(off))
        if not count:
            return rows
        self._call.moved[role] += count
        return np.where(off[..., None], self._along(rows) if tangent else self._call.geometry.rows.project(rows), rows)

    def _along(self, rows: np.ndarray) -> np.ndarray:
        """Return vectors with nothing along the origin."""
        rows = rows.copy()
        rows[..., self._axis(rows.shape[-1])] = 0
        return rows

    def _exp(self, tangents: np.ndarray, role: str) -> np.ndarray:
        """Return the points that tangent vectors at the origin lead to, and count those that would be further out than the dtype has points."""
        points, beyond = exp_at_origin(self._call.geometry.rows, tangents)
        if beyond is not None:
            self._call.moved[role] += int(np.count_nonzero(beyond & np.isfinite(tangents).all(-1)))
        return points

    # --- what goes out ---------------------------------------------------------------------------------------------------------------

    def project_output(self, merged: np.ndarray, dtype: np.dtype[Any], out: np.ndarray | None) -> np.ndarray:
        """Return the output: points, or tangent vectors at the origin, after W_o where there is one; zeros for a head that attends to nothing.

        Parameters
        ----------
        merged : ndarray, (..., Lq, num_heads·Do)
            The points of the heads beside each other.
        dtype : dtype
            Of the output.
        out : ndarray, optional
            Where to write it, checked.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output, or `out`.
        """
        if not self._mean:
            return super().project_output(merged, dtype, out)
        tangent = self._tangent("outputs")
        rows = self._split(merged)
        if tangent or self._projects:
            if rows.dtype.itemsize < 4:
                rows = rows.astype(np.float32)
            nothing = ~rows.any(-1, keepdims=True)
            with np.errstate(all="ignore"):
                rows = log_at_origin(self._call.geometry.rows, np.where(nothing, self._call.geometry.rows.origin(rows.shape[-1], rows.dtype), rows))
                if self._projects:
                    made = self._split(super().project_output(rows.reshape(merged.shape), rows.dtype, None))
                    rows = self._along(made) if tangent else self._exp(made, "out")
        rows = narrowed(rows, dtype)
        if not tangent:  # a row of zeros attends to nothing; for the others, rounding may have led off
            rows = self._moved(rows, self._call.geometry.rows.outside(rows) & rows.any(-1) & np.isfinite(rows).all(-1), "out")
        return HeadwiseAttention.project_output(self, rows.reshape(*merged.shape[:-1], -1), dtype, out)

    # --- back -----------------------------------------------------------------------------------------------------------------------

    def project_inputs_vjp(self, context: Context, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray) -> tuple[Arrays, dict[str, np.ndarray]]:
        """Return the gradients of the inputs, given those of the points of the heads, and of weights, biases and learned curvatures.

        Parameters
        ----------
        context : Context
            Of the call.
        dq, dk, dv : ndarray, (..., L, heads·D)
            Gradients of what `project_inputs` returned.

        Returns
        -------
        dinputs : tuple of three ndarray, (..., L, width)
            Gradients of query, keys and values: by their coordinates, of the function that is computed of them, which may be one of fewer. That of a
            time coordinate is 0, for example. `Manifold.riemannian_gradient` makes tangent vectors of them.
        dparams : dict of str to ndarray
            Gradients of the parameters that take part.
        """
        params: dict[str, np.ndarray] = {}
        made = []
        with self._again(context):
            for role, x, dx in zip(ROLES, context.inputs, (dq, dk, dv), strict=True):
                if role == "v" and not self._mean:
                    made.append(self._project_vjp(dx, x, "v", params) if self._projects else dx)
                else:
                    made.append(dx if self._as_they_are(role) else self._points_vjp(x, dx, role, params))
        query, keys, values = made
        return (query, keys, values), params

    def _points_vjp(self, x: np.ndarray, dpoints: np.ndarray, role: str, params: dict[str, np.ndarray]) -> np.ndarray:
        """Return the gradient of what `_points` was given, and enter those of parameters."""
        tangent, manifold = self._tangent("inputs"), self._call.geometry.rows
        rows, off = self._ready(x, role)
        gradient = self._split(dpoints, self.num_heads if role == "q" else self.num_kv_heads)
        curvatures = []
        with np.errstate(all="ignore"):
            moved = rows if off is None else self._moved(rows, off, role, tangent)
            vectors = moved if tangent or not self._projects else log_at_origin(manifold, moved)
            if tangent or self._projects:
                gradient, found = exp_at_origin_vjp(manifold, self._projected(vectors, role) if self._projects else vectors, gradient)
                curvatures.append(found)
            if self._projects:
                whole = gradient.reshape(*x.shape[:-1], -1)
                gradient = self._split(self._project_vjp(whole, vectors.reshape(x.shape), role, params))
                if not tangent:
                    gradient, found = log_at_origin_vjp(manifold, moved, gradient)
                    curvatures.append(found)
            if off is not None and off.any():
                gradient, found = self._moved_vjp(rows, off, gradient, tangent)
                curvatures.append(found)
            for gone in self._call.geometry.strange.get(role, ()):
                if gone is not None:
                    gradient = np.where(gone[..., None], 0.0, gradient)
        self._add_curvatures(params, curvatures, self._call.geometry.slopes)
        return gradient.reshape(x.shape)

    def _moved_vjp(self, rows: np.ndarray, off: np.ndarray, gradient: np.ndarray, tangent: bool = False) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the gradient of rows of which some were brought to the manifold, or to the tangent space at the origin, and of the curvatures."""
        if tangent:
            return np.where(off[..., None], self._along(gradient), gradient), []
        own, found = project_vjp(self._call.geometry.rows, rows, np.where(off[..., None], gradient, 0.0))
        return np.where(off[..., None], own, gradient), found

    def project_output_vjp(self, context: Context, grad_output: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the means of the heads, given that of the output, and of W_o, b_o and learned curvatures.

        Parameters
        ----------
        context : Context
            Of the call.
        grad_output : ndarray, (..., Lq, V')
            Gradient of the output.

        Returns
        -------
        dmerged : ndarray, (..., Lq, num_heads·Do)
            Gradient of the means; 0 for a head that attends to nothing.
        dparams : dict of str to ndarray
            Gradients of the parameters that take part.
        """
        if not self._mean:
            return super().project_output_vjp(context, grad_output)
        params: dict[str, np.ndarray] = {}
        curvatures = []
        merged = self.merged_heads(context)
        with self._again(context), np.errstate(all="ignore"):
            tangent, manifold = self._tangent("outputs"), self._call.geometry.rows
            maps = tangent or self._projects
            means = self._split(merged)
            made = vectors = means = means.astype(np.float32) if maps and means.dtype.itemsize < 4 else means
            gradient = self._split(grad_output.astype(np.result_type(grad_output.dtype, means.dtype), copy=False))
            nothing = ~means.any(-1, keepdims=True)
            if maps:
                means = np.where(nothing, manifold.origin(means.shape[-1], means.dtype), means)
                made = vectors = log_at_origin(manifold, means)
                if self._projects:
                    made = self._projected(vectors, "o")
            if not tangent:
                points = narrowed(self._exp(made, "out") if self._projects else made, context.inputs[0].dtype)
                off = manifold.outside(points) & points.any(-1) & np.isfinite(points).all(-1)
                if off.any():
                    gradient, found = self._moved_vjp(points, off, gradient)
                    curvatures.append(found)
            if self._projects:
                if tangent:
                    gradient = self._along(gradient)
                else:
                    gradient, found = exp_at_origin_vjp(manifold, made, gradient)
                    curvatures.append(found)
                whole = gradient.reshape(*merged.shape[:-1], -1)
                gradient = self._split(self._project_vjp(whole, vectors.reshape(merged.shape), "o", params))
            if maps:
                gradient, found = log_at_origin_vjp(manifold, means, np.where(nothing, 0.0, gradient))
                curvatures.append(found)
        self._add_curvatures(params, curvatures, context.extra["geometry"].slopes)
        return narrowed(gradient.reshape(merged.shape), context.out.dtype), params

    def recompute(self, context: RecomputedContext) -> Context:
        """Make the arrays of a context again, as `ruvattn.headwise.HeadwiseAttention` has it, on the manifold of that call."""
        with self._again(context):
            return super().recompute(context)

    @contextmanager
    def _again(self, context: Context) -> Iterator[None]:
        """Be about the call of a context, in this thread, for the time being; what it moves has been counted."""
        now = self._call.geometry, self._call.moved
        self._call.geometry, self._call.moved = context.extra["geometry"], dict.fromkeys(COUNTED, 0)
        try:
            yield
        finally:
            self._call.geometry, self._call.moved = now

    def _add_curvatures(self, params: dict[str, np.ndarray], found: list[list[np.ndarray]], slopes: Mapping[str, np.ndarray]) -> None:
        """Enter gradients of sectional curvatures, in lists of one for each component of the manifold, as those of learned parameters: here, none."""
