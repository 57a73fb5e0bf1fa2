r"""Schedules: numbers that change with the steps, such as learning rates and temperatures.

    WarmupCosine   /‾\__        StepDecay  ‾‾|__|__        OneCycle   /\__        Temperature   \____  exponential, linear or cosine

Each is called with the number of steps taken so far, an int from 0 on, and returns the value for the next. They are plain values: they compare, and
survive pickling. Any callable of one int will do in their place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..errors import InvalidInputError
from ..validation import check_int, check_positive
from .checks import check_choice, check_nonnegative

__all__ = ["Constant", "OneCycle", "Schedule", "StepDecay", "Temperature", "WarmupCosine"]


class Schedule(ABC):
    """A number for each step."""

    def __call__(self, step: int) -> float:
        """Return the value of a step.

        Parameters
        ----------
        step : int
            How many steps have been taken, from 0 on; after the last one that a schedule knows, its last value stays.

        Returns
        -------
        float
            The value for the next step.

        Raises
        ------
        InvalidInputError
            If `step` is no int, or negative.
        """
        return self.value(check_int(step, "step", 0))

    @abstractmethod
    def value(self, step: int) -> float:
        """Return the value of a step.

        Parameters
        ----------
        step : int
            At least 0.

        Returns
        -------
        float
            The value.
        """


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value always.

    Attributes
    ----------
    constant : float
        Positive.
    """

    constant: float

    def __post_init__(self) -> None:
        check_positive(self.constant, "constant", "")

    def value(self, step: int) -> float:
        return self.constant


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """A line up to a peak, and half a cosine down from it (Loshchilov and Hutter, 2017).

    The first step has peak / warmup_steps, so that none is wasted on 0; step `warmup_steps` has the peak, or the one before it.

    Attributes
    ----------
    peak : float
        The largest value, positive.
    warmup_steps : int
        How many steps it takes to get there; 0: none.
    total_steps : int
        How many steps there are, more than `warmup_steps`.
    final : float, default 0
        The value after the last step, from 0 to the peak.

    Examples
    --------
    >>> from ruvattn.training import WarmupCosine
    >>> schedule = WarmupCosine(1.0, warmup_steps=2, total_steps=6)
    >>> [round(schedule(step), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    peak: float
    warmup_steps: int
    total_steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self.peak, "peak", "")
        check_int(self.warmup_steps, "warmup_steps", 0)
        check_int(self.total_steps, "total_steps", self.warmup_steps + 1)
        if check_nonnegative(self.final, "final") > self.peak:
            raise InvalidInputError(f"final must be from 0 to the peak of {self.peak!r}, got {self.final!r}")

    def value(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        return _cosine(self.peak, self.final, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))


@dataclass(frozen=True)
class StepDecay(Schedule):
    """A value that is multiplied by a factor every so many steps.

    Attributes
    ----------
    initial : float
        The first value, positive.
    every : int
        After how many steps it changes, at least 1.
    factor : float, default 0.1
        In (0, 1].
    """

    initial: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self.initial, "initial", "")
        check_int(self.every, "every", 1)
        if check_positive(self.factor, "factor", "") > 1:
            raise InvalidInputError(f"factor must be in (0, 1], got {self.factor!r}")

    def value(self, step: int) -> float:
        return self.initial * self.factor ** (step // self.every)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to a peak and down to next to nothing, each by half a cosine (Smith and Topin, 2019).

    It starts at peak / initial_divisor, has the peak at step ``warmup_share · total_steps − 1`` and ends, at step ``total_steps − 1``, at
    peak / initial_divisor / final_divisor.

    Attributes
    ----------
    peak : float
        The largest value, positive.
    total_steps : int
        How many steps there are, at least 2.
    warmup_share : float, default 0.3
        The share of the steps that go up, in (0, 1).
    initial_divisor : float, default 25
        At least 1.
    final_divisor : float, default 10,000
        At least 1.
    """

    peak: float
    total_steps: int
    warmup_share: float = 0.3
    initial_divisor: float = 25.0
    final_divisor: float = 1e4

    def __post_init__(self) -> None:
        check_positive(self.peak, "peak", "")
        check_int(self.total_steps, "total_steps", 2)
        if check_positive(self.warmup_share, "warmup_share", "") >= 1:
            raise InvalidInputError(f"warmup_share must be in (0, 1), got {self.warmup_share!r}")
        for name in ("initial_divisor", "final_divisor"):
            if check_positive(getattr(self, name), name, "") < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {getattr(self, name)!r}")

    def value(self, step: int) -> float:
        last, top = self.total_steps - 1, max(self.warmup_share * self.total_steps - 1, 0.0)
        initial = self.peak / self.initial_divisor
        if step < top:
            return _cosine(initial, self.peak, step / top)
        return _cosine(self.peak, initial / self.final_divisor, (step - top) / (last - top))


@dataclass(frozen=True)
class Temperature(Schedule):
    """A temperature that is annealed from one value to another, and stays there.

    For temperatures of softmax or of a contrastive loss: hot to begin with, so that all keys take part, cold in the end.

    Attributes
    ----------
    initial, final : float
        Positive.
    total_steps : int
        At which step the final value is reached, at least 1.
    form : {"exponential", "linear", "cosine"}, default "exponential"
        Which way it goes there: by the same factor with each step, by the same difference, or by half a cosine.

    Examples
    --------
    >>> from ruvattn.training import Temperature
    >>> [round(Temperature(1.0, 0.01, total_steps=2)(step), 3) for step in range(4)]
    [1.0, 0.1, 0.01, 0.01]
    """

    initial: float
    final: float
    total_steps: int
    form: str = "exponential"

    def __post_init__(self) -> None:
        check_positive(self.initial, "initial", "")
        check_positive(self.final, "final", "")
        check_int(self.total_steps, "total_steps", 1)
        check_choice(self.form, "form", ("exponential", "linear", "cosine"))

    def value(self, step: int) -> float:
        share = min(step / self.total_steps, 1.0)
        if self.form == "exponential":
            return self.initial ** (1 - share) * self.final**share
        if self.form == "linear":
            return self.initial * (1 - share) + self.final * share
        return _cosine(self.initial, self.final, share)


def _cosine(start: float, end: float, share: float) -> float:
    """Go from start to end by half a cosine; share 0: start, share 1 and more: end."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
