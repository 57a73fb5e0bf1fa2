"""Optimisers for parameters that are points of a manifold (Bonnabel, 2013; Bécigneul and Ganea, 2019).

    partial derivatives ─► riemannian_gradient ─► momentum at p ──┬─► exp_map(p, −rate · direction) ─► new p
                                                                  └─► transport(p → new p) ─► momentum at new p

A parameter that ``manifolds`` names moves along geodesics, and its momentum goes with it by parallel transport; all others are updated as by SGD and
Adam. The last axis of such a parameter is that of the coordinates of a point; each point has a second moment of its own, a number.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import AttentionError, DimensionMismatchError, InvalidInputError
from ..manifold import Manifold
from ..projection import compute_dtype
from ..validation import first_nonfinite
from .base import Kept, Optimizer, Schedule
from .optimizers import SGD, Adam

__all__ = ["RiemannianAdam", "RiemannianSGD"]

Slots = dict[str, np.ndarray]


class _OnManifolds(Optimizer):
    """What moves some of the parameters on manifolds."""

    manifolds: dict[str, Manifold]

    @abstractmethod
    def _direction(self, manifold: Manifold, p: np.ndarray, gradient: np.ndarray, slots: Slots) -> tuple[np.ndarray, Slots]:
        """Return the tangent vector at p to go against, and the slots as they would be at p."""

    def _moved(self, name: str, p: np.ndarray, gradient: np.ndarray, slots: Slots, rate: float) -> tuple[np.ndarray, Slots]:
        """Return a parameter and its slots after a step; nothing is written."""
        dtype, manifold = compute_dtype(p.dtype), self.manifolds[name]
        narrow, p = p.dtype.itemsize < dtype.itemsize, np.asarray(p, dtype)
        try:
            if narrow:  # its rounding has moved the points off the manifold by more than that may allow
                p = np.asarray(manifold.project(p), dtype)
            tangent = manifold.riemannian_gradient(p, np.asarray(gradient, dtype))
            direction, slots = self._direction(manifold, p, np.asarray(tangent, dtype), slots)
            # Projected: rounding would carry points away from the manifold, a little with each step.
            point = np.asarray(manifold.project(manifold.exp_map(p, -rate * direction)), dtype)
            for slot in self._transported & set(slots):
                slots[slot] = np.asarray(manifold.transport(slots[slot], p, point), dtype)
        except AttentionError as error:
            raise type(error)(f"parameter {name!r} on {manifold!r}: {error}") from error
        for array, shape in ((point, p.shape), *((array, self._slot_shape(slot, p)) for slot, array in slots.items())):
            if array.shape != shape:
                raise DimensionMismatchError(f"{manifold!r} returned shape {array.shape} for parameter {name!r}, expected {shape}")
            if first_nonfinite(array):
                raise InvalidInputError(
                    f"parameter {name!r} on {manifold!r} would not be finite after this step, and has not been changed: lower the learning rate"
                )
        return point, slots

    _transported = frozenset({"momentum", "first"})

    def _slot_shape(self, slot: str, p: np.ndarray) -> tuple[int, ...]:
        return p.shape if slot in self._transported else (*p.shape[:-1], 1)

    def _make_slots(self, name: str, p: np.ndarray) -> Slots:
        if name not in self.manifolds:
            return super()._make_slots(name, p)
        if not p.ndim:
            raise DimensionMismatchError(f"parameter {name!r} is on a manifold and must have an axis of coordinates, got shape ()")
        return {slot: np.zeros(self._slot_shape(slot, p), compute_dtype(p.dtype)) for slot in self.slots}

    def _apply(
        self,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        kept: dict[str, Kept],
        rate: float,
        check: Callable[[Mapping[str, np.ndarray]], None] | None,
    ) -> None:
        for name in self.manifolds:
            if name not in parameters:
                raise InvalidInputError(f"manifolds name {name!r}, which is no parameter: those are {', '.join(map(repr, parameters)) or 'none'}")
        super()._apply(parameters, gradients, kept, rate, check)

    def _compute(self, name: str, p: np.ndarray, gradient: np.ndarray, kept: Kept, rate: float) -> None:
        if name not in self.manifolds:
            super()._compute(name, p, gradient, kept, rate)
            return
        point, slots = self._moved(name, p, gradient, kept.slots, rate)
        if first_nonfinite(point.astype(kept.dtype, copy=False)):  # what float32 holds may be beyond float16
            self._refuse(name, p, f"parameter {name!r}")
        np.copyto(kept.new, point)
        for slot, array in kept.new_slots.items():
            np.copyto(array, slots[slot])

    def _with_options(self, rate: float | Schedule, options: dict[str, Any]) -> Optimizer:
        return type(self)(rate, manifolds=self.manifolds, **options)  # type: ignore[call-arg]  # of those that derive from this


class RiemannianSGD(_OnManifolds, SGD):
    """Stochastic gradient descent with momentum, on manifolds (Bonnabel, 2013).

        m ← momentum · m + grad p;    q ← exp(p, −rate · m), the new p;    m ← m, transported from p to q

    Steps of parameters on manifolds allocate what the manifold allocates; the others allocate nothing.

    Parameters
    ----------
    learning_rate : float or callable
        See `Optimizer`.
    manifolds : mapping of str to Manifold
        The manifolds of parameters, by their names.
    momentum : float, default 0
        In [0, 1).
    nesterov : bool, default False
        Whether ``grad p + momentum · m`` stands in the place of m.
    weight_decay : float, default 0
        At least 0; of parameters that are on no manifold.

    Raises
    ------
    InvalidInputError
        If an option is out of range, or `manifolds` are none.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        manifolds: Mapping[str, Manifold],
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
        self.manifolds = _check_manifolds(manifolds)

    def _direction(self, manifold: Manifold, p: np.ndarray, gradient: np.ndarray, slots: Slots) -> tuple[np.ndarray, Slots]:
        if not self.momentum:
            return gradient, {}
        momentum = self.momentum * slots["momentum"] + gradient
        return (gradient + self.momentum * momentum if self.nesterov else momentum), {"momentum": momentum}


class RiemannianAdam(_OnManifolds, Adam):
    """Adam on manifolds (Bécigneul and Ganea, 2019).

        m ← β₁ m + (1 − β₁) grad p;    s ← β₂ s + (1 − β₂) ⟨grad p, grad p⟩ₚ;    q ← exp(p, −rate · m̂/(√ŝ + ε));    m ← m, transported to q

    with m̂ and ŝ corrected for their bias as in `Adam`. Steps of parameters on manifolds allocate what the manifold allocates; the others nothing.

    Parameters
    ----------
    learning_rate : float or callable, default 0.001
        See `Optimizer`.
    manifolds : mapping of str to Manifold
        The manifolds of parameters, by their names.
    betas : pair of float, default (0.9, 0.999)
        Each in [0, 1).
    epsilon : float, default 1e-8
        At least 1e-30.
    weight_decay : float, default 0
        At least 0; of parameters that are on no manifold.
    amsgrad : bool, default False
        Whether s never shrinks.

    Raises
    ------
    InvalidInputError
        If an option is out of range, or `manifolds` are none.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        manifolds: Mapping[str, Manifold],
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(learning_rate, betas=betas, epsilon=epsilon, weight_decay=weight_decay, amsgrad=amsgrad)
        self.manifolds = _check_manifolds(manifolds)

    def _direction(self, manifold: Manifold, p: np.ndarray, gradient: np.ndarray, slots: Slots) -> tuple[np.ndarray, Slots]:
        first, second = self.betas
        square = np.asarray(manifold.inner_product(p, gradient, gradient), p.dtype)[..., None]
        found = {"first": first * slots["first"] + (1 - first) * gradient, "second": second * slots["second"] + (1 - second) * square}
        s = found["second"]
        if self.amsgrad:
            s = found["largest"] = np.maximum(slots["largest"], s)
        spread = np.sqrt(s / (1 - second**self.steps)) + self.epsilon
        return found["first"] / (1 - first**self.steps) / spread, found


def _check_manifolds(manifolds: Any) -> dict[str, Manifold]:
    if not isinstance(manifolds, Mapping):
        raise InvalidInputError(f"manifolds must be a mapping of names of parameters to manifolds, got {manifolds!r}")
    for name, manifold in manifolds.items():
        if not isinstance(manifold, Manifold):
            raise InvalidInputError(f"manifolds[{name!r}] must be a Manifold, got {manifold!r}")
    return dict(manifolds)
