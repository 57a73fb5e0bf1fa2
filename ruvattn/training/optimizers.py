"""The optimisers: SGD, Adam, AdamW, RMSprop.

The formulas are those of PyTorch's optimisers of the same names, so that results can be compared step by step. Each is a few passes over a piece
of a parameter; what surrounds them is in `ruvattn.training.base`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..validation import check_bool, check_positive, check_probability
from .base import Optimizer, Schedule

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

        g ← g + weight_decay · p;    m ← momentum · m + g;    p ← p − rate · m,    with Nesterov's  g + momentum · m  in the place of m

    Parameters
    ----------
    learning_rate : float or callable
        See `Optimizer`.
    momentum : float, default 0
        In [0, 1).
    nesterov : bool, default False
        Whether the gradient is looked up ahead, in the form of Sutskever et al. (2013). Needs momentum.
    weight_decay : float, default 0
        At least 0.

    Raises
    ------
    InvalidInputError
        If an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.training import SGD
    >>> weight = np.array([1.0, -2.0])
    >>> SGD(0.1).step({"weight": weight}, {"weight": np.array([10.0, 0.0])})
    >>> weight
    array([ 0., -2.])
    """

    def __init__(self, learning_rate: float | Schedule, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.momentum = check_probability(momentum, "momentum")
        self.nesterov = check_bool(nesterov, "nesterov")
        if self.nesterov and not self.momentum:
            raise InvalidInputError("nesterov=True needs a momentum above 0, got momentum=0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    @property
    def options(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}

    def update(self, p: np.ndarray, g: np.ndarray, slots: dict[str, np.ndarray], work: np.ndarray, rate: float) -> None:
        self._decay(p, g, work, rate)
        if self.momentum:
            m = slots["momentum"]
            m *= self.momentum
            m += g
            if self.nesterov:
                np.multiply(m, self.momentum, out=work)
                g += work
            else:
                g = m
        np.multiply(g, rate, out=work)
        p -= work


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), with the largest second moment so far (AMSGrad; Reddi et al., 2018) if asked.

        m ← β₁ m + (1 − β₁) g;    s ← β₂ s + (1 − β₂) g²;    p ← p − rate · m/(1 − β₁ᵗ) / (√(s/(1 − β₂ᵗ)) + ε)

    Parameters
    ----------
    learning_rate : float or callable, default 0.001
        See `Optimizer`.
    betas : pair of float, default (0.9, 0.999)
        Each in [0, 1).
    epsilon : float, default 1e-8
        At least 1e-30.
    weight_decay : float, default 0
        At least 0; weight_decay · p is added to the gradient.
    amsgrad : bool, default False
        Whether s never shrinks.

    Raises
    ------
    InvalidInputError
        If an option is out of range.
    """

    squares = True
    nonnegative = frozenset({"second", "largest"})

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.betas = check_betas(betas)
        self.epsilon = check_epsilon(epsilon)
        self.amsgrad = check_bool(amsgrad, "amsgrad")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("first", "second", "largest") if self.amsgrad else ("first", "second")

    @property
    def options(self) -> dict[str, Any]:
        return {"betas": list(self.betas), "epsilon": self.epsilon, "weight_decay": self.weight_decay, "amsgrad": self.amsgrad}

    def update(self, p: np.ndarray, g: np.ndarray, slots: dict[str, np.ndarray], work: np.ndarray, rate: float) -> None:
        self._decay(p, g, work, rate)
        first, second = self.betas
        m, s = slots["first"], slots["second"]
        np.multiply(g, 1 - first, out=work)
        m *= first
        m += work
        np.multiply(g, g, out=work)
        work *= 1 - second
        s *= second
        s += work
        if self.amsgrad:
            s = np.maximum(slots["largest"], s, out=slots["largest"])
        np.sqrt(s, out=work)
        work /= math.sqrt(1 - second**self.steps)
        work += self.epsilon
        np.divide(m, work, out=work)
        work *= rate / (1 - first**self.steps)
        p -= work


class AdamW(Adam):
    """Adam whose weight decay is apart from the gradient: p ← p − rate · weight_decay · p before each step (Loshchilov and Hutter, 2019).

    Parameters
    ----------
    learning_rate : float or callable, default 0.001
        See `Optimizer`.
    betas : pair of float, default (0.9, 0.999)
        Each in [0, 1).
    epsilon : float, default 1e-8
        At least 1e-30.
    weight_decay : float, default 0.01
        At least 0.
    amsgrad : bool, default False
        Whether the second moment never shrinks.

    Raises
    ------
    InvalidInputError
        If an option is out of range.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(learning_rate, betas=betas, epsilon=epsilon, weight_decay=weight_decay, amsgrad=amsgrad)

    def _decay(self, p: np.ndarray, g: np.ndarray, work: np.ndarray, rate: float) -> None:
        p *= 1 - rate * self.weight_decay


class RMSprop(Optimizer):
    """RMSprop (Hinton, 2012), centred (Graves, 2013) and with momentum if asked.

        s ← α s + (1 − α) g²;    c ← α c + (1 − α) g;    d = √(s − c²) + ε, without c unless centred;    m ← momentum · m + g/d;    p ← p − rate · m

    Parameters
    ----------
    learning_rate : float or callable, default 0.01
        See `Optimizer`.
    alpha : float, default 0.99
        In [0, 1).
    epsilon : float, default 1e-8
        At least 1e-30.
    weight_decay : float, default 0
        At least 0; weight_decay · p is added to the gradient.
    momentum : float, default 0
        In [0, 1).
    centered : bool, default False
        Whether the variance of the gradient stands in the place of its second moment.

    Raises
    ------
    InvalidInputError
        If an option is out of range.
    """

    squares = True
    nonnegative = frozenset({"square"})

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-2,
        *,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay)
        self.alpha = check_probability(alpha, "alpha")
        self.epsilon = check_epsilon(epsilon)
        self.momentum = check_probability(momentum, "momentum")
        self.centered = check_bool(centered, "centered")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("square", *(("mean",) if self.centered else ()), *(("momentum",) if self.momentum else ()))

    @property
    def options(self) -> dict[str, Any]:
        names = ("alpha", "epsilon", "weight_decay", "momentum", "centered")
        return {name: getattr(self, name) for name in names}

    def update(self, p: np.ndarray, g: np.ndarray, slots: dict[str, np.ndarray], work: np.ndarray, rate: float) -> None:
        self._decay(p, g, work, rate)
        s = slots["square"]
        np.multiply(g, g, out=work)
        work *= 1 - self.alpha
        s *= self.alpha
        s += work
        if self.centered:
            c = slots["mean"]
            np.multiply(g, 1 - self.alpha, out=work)
            c *= self.alpha
            c += work
            np.multiply(c, c, out=work)
            np.subtract(s, work, out=work)
            np.maximum(work, 0, out=work)  # a gradient that hardly changes rounds to a variance below 0
            np.sqrt(work, out=work)
        else:
            np.sqrt(s, out=work)
        work += self.epsilon
        np.divide(g, work, out=work)
        if self.momentum:
            m = slots["momentum"]
            m *= self.momentum
            m += work
            np.multiply(m, rate, out=work)
        else:
            work *= rate
        p -= work


def check_betas(betas: Any) -> tuple[float, float]:
    """Return the two decay rates of Adam."""
    try:
        first, second = betas
    except (TypeError, ValueError):
        raise InvalidInputError(f"betas must be a pair of numbers in [0, 1), got {betas!r}") from None
    return check_probability(first, "betas[0]"), check_probability(second, "betas[1]")


def check_epsilon(epsilon: Any) -> float:
    """Return an epsilon that float32 can tell from 0."""
    number = check_positive(epsilon, "epsilon", "1e-8 is usual")
    if number < 1e-30:
        raise InvalidInputError(f"epsilon must be at least 1e-30, which float32 can tell from 0, got {epsilon!r}")
    return number
