"""What is checked of the points that a call is given: that what somebody sees is on the manifold, or tangent at the origin."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ruvattn import attention
from ruvattn.builtin.multihead import MultiHeadAttention
from ruvattn.errors import DimensionMismatchError, InvalidInputError

from ..manifolds import GeometricManifold, Product
from ..vectors import EPSILON

__all__ = ["COUNTED", "ROLES", "CallGeometry", "LastCall", "PointChecks", "heads_last"]

ROLES = ("q", "k", "v")
COUNTED = (*ROLES, "out")

TANGENT = 8
"""By how many times the rounding of its largest coordinate a tangent vector may stick out of the tangent space."""

MASKING = ("mask", "causal", "window", "key_lengths")
"""Options of `ruvattn.attention` that say which pairs there are; a bias does so too."""


@dataclass
class CallGeometry:
    """What a call is about, beside its arrays and options; its context keeps it for the way back.

    Attributes
    ----------
    rows : Manifold
        Of points (..., L, H, D).
    points : bool
        Whether the call takes and returns points, whatever the options say.
    slopes : mapping of str to array
        For each learned parameter the derivative of the number that it stands for.
    strange : dict
        For a role, rows that nobody sees, and rows that are no numbers.
    """

    rows: GeometricManifold
    points: bool = False
    slopes: Mapping[str, Any] = field(default_factory=dict)
    strange: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = field(default_factory=dict)


class LastCall(threading.local):
    """What a thread's last call is about."""

    def __init__(self, rows: GeometricManifold) -> None:
        self.points = False  # what the next call is to be told
        self.alone = False  # whether each query stands at the last key
        self.moved = dict.fromkeys(COUNTED, 0)
        self.geometry = CallGeometry(rows)


def heads_last(manifold: GeometricManifold) -> GeometricManifold:
    """Return a manifold for points (..., H, L, D) as one for points (..., L, H, D), which is how inputs come.

    Parameters
    ----------
    manifold : Manifold
        Whose curvature is a number, or has shape (H, 1).

    Returns
    -------
    Manifold
        Of a number, or of shape (H,).
    """
    if not manifold._parameter.ndim:
        return manifold
    other = copy.copy(manifold)
    other._parameter = manifold._parameter[..., 0]
    if isinstance(other, Product):
        other.components = [(heads_last(part), width) for part, width in other.components]
    return other


class PointChecks(MultiHeadAttention):
    """The checks of a geometric variant."""

    _manifold: GeometricManifold
    _call: LastCall
    _mean: bool
    _projecting: bool

    def _tangent(self, side: str) -> bool:
        """Tell whether inputs or outputs are tangent vectors."""
        if self._call.geometry.points:
            return False
        options = self._config.options
        return (options[side] or options["inputs"]) == "tangent"

    def _check_numbers(self, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], options: dict[str, Any], names: tuple[str, str, str]) -> None:
        """Check that what somebody sees is on the manifold, too; `_points` is told what else there is."""
        super()._check_numbers(inputs, options, names)
        least = (1 + self._manifold._extra) * self.num_kv_heads
        if self._mean and inputs[2].shape[-1] < least:
            raise DimensionMismatchError(f"{names[2]} must have points for each head, a width of at least {least}, got shape {inputs[2].shape}")
        self._call.moved = dict.fromkeys(COUNTED, 0)
        strange = self._call.geometry.strange
        for role, x, name in zip(ROLES, inputs, names, strict=True):
            if role == "v" and not self._mean:
                continue
            rows = self._split(x)
            off = np.zeros(rows.shape[:-1], bool) if self._projecting else self._off(rows)
            unreal = None
            if not self._check_finite:
                unreal = ~np.isfinite(rows).all(-1)
                off &= ~unreal
            some = off if unreal is None else off | unreal
            if not some.any():
                continue
            if role != "q" and not self._seen(some, inputs, options):
                strange[role] = some, None
                continue
            if off.any():
                seen = off if role == "q" else self._first_seen(off, inputs, options)
                if seen is not None:
                    self._refuse(rows, seen, name)
            strange[role] = off, unreal

    def _off(self, rows: np.ndarray) -> np.ndarray:
        """Tell which rows (..., L, H, D) are no points, or no tangent vectors."""
        if not self._tangent("inputs"):
            return self._call.geometry.rows.outside(rows)
        axis = self._axis(rows.shape[-1])
        if not axis.size:
            return np.zeros(rows.shape[:-1], bool)
        with np.errstate(all="ignore"):
            along = np.abs(rows[..., axis]).max(-1)
            return along > TANGENT * EPSILON[rows.dtype.name] * np.abs(rows).max(-1)

    def _refuse(self, rows: np.ndarray, seen: np.ndarray, name: str) -> None:
        """Raise what says which row is off, and how far."""
        name = f"{name} (…, length, head)"
        if not self._tangent("inputs"):
            self._call.geometry.rows.check(np.where(seen[..., None], rows, self._call.geometry.rows.origin(rows.shape[-1], rows.dtype)), name)
        along = np.where(seen, np.abs(rows[..., self._axis(rows.shape[-1])]).max(-1), 0)
        at = tuple(int(i) for i in np.unravel_index(int(along.argmax()), along.shape))
        axis = ", ".join(map(str, self._axis(rows.shape[-1]).tolist()))
        raise InvalidInputError(
            f"{name}: row {at} is not tangent at the origin: coordinate {axis} has to be 0 there, and is {along[at]:g}; zero it, "
            "or create the variant with project=True"
        )

    def _seen(self, rows: np.ndarray, inputs: tuple[np.ndarray, ...], options: Mapping[str, Any]) -> bool:
        """Tell whether some query of a call attends to one of the rows (..., Lk, H) of keys or values."""
        if not _masks(options):
            return bool(rows.any())
        if self._projects:  # which give every head a part of all the columns
            rows = np.broadcast_to(rows.any(-1, keepdims=True), rows.shape)
        q = inputs[0]
        told = {name: options[name] for name in (*MASKING, "query_offset") if name in options}
        if "bias" in options:
            hides = np.isneginf(np.asarray(options["bias"]).astype(np.float32))
            told["bias"] = np.where(hides, np.float32(-np.inf), np.float32(0))
        # All pairs weigh the same, and the values are 1 where a row is meant: a mean above 0 has seen one. No array of Lq × Lk is made.
        values = np.ascontiguousarray(rows.swapaxes(-1, -2)[..., None], np.float32)
        queries = np.zeros((*q.shape[:-2], self.num_heads, 1 if self._call.alone else q.shape[-2], 1), np.float32)
        return bool(attention(queries, np.zeros_like(values), values, **told).any())

    def _first_seen(self, rows: np.ndarray, inputs: tuple[np.ndarray, ...], options: Mapping[str, Any]) -> np.ndarray | None:
        """Return the first of the rows that some query attends to, as a mask; all of them where there are no masks, and None where none is seen."""
        if not self._seen(rows, inputs, options):
            return None
        if not _masks(options):
            return rows
        places = np.flatnonzero(rows)
        one = np.zeros(rows.size, bool)
        low, high = 0, len(places)  # one of the first `high` is seen, none of the first `low` is
        while high - low > 1:
            middle = (low + high) // 2
            one[:] = False
            one[places[low:middle]] = True
            if self._seen(one.reshape(rows.shape), inputs, options):
                high = middle
            else:
                low = middle
        one[:] = False
        one[places[low]] = True
        return one.reshape(rows.shape)

    def _axis(self, width: int) -> np.ndarray:
        """Return the coordinates that the origin has, which are those that a tangent vector there does not have."""
        return np.flatnonzero(self._call.geometry.rows.origin(width).reshape(-1, width).any(0))

    def _split(self, x: np.ndarray, heads: int | None = None) -> np.ndarray:
        """Return a view (..., L, H, D)."""
        heads = self.num_heads if heads is None else heads
        return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def _masks(options: Mapping[str, Any]) -> bool:
    return "bias" in options or any(name in options for name in MASKING)
