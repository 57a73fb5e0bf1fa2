"""Elastic weight consolidation: learning a task without forgetting those before it.

    task A ─► trained parameters θ_A, Fisher information F_A ─┐
    task B ─► loss of B + strength/2 · Σ F_A (θ − θ_A)² ◄─────┘  what mattered for A is held, the rest is free to move
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..validation import check_bool, check_positive
from .checks import as_gradients, check_gradient, check_names, check_nonnegative, check_parameters, check_shapes
from .losses import MOST, in_dtype, total

__all__ = ["ElasticWeightConsolidation"]

Arrays = dict[str, np.ndarray]

_LARGEST = 1e152
"""What can be squared and summed in float64."""


class ElasticWeightConsolidation:
    """A penalty for parameters that move away from where earlier tasks need them (Kirkpatrick et al., 2017).

        strength/2 · Σ F (θ − θ*)²  over tasks and parameters,    F the mean of squared gradients of log-likelihoods

    F is the diagonal of the Fisher information. The online form (Schwarz et al., 2018) keeps one F for all tasks, F ← decay · F + F of the task,
    and the θ* of the last: memory and time don't grow with the number of tasks.

    Parameters
    ----------
    strength : float
        At least 0.
    online : bool, default False
        Whether there is one penalty for all tasks, instead of one for each.
    decay : float, default 1
        In (0, 1]: what is left of earlier tasks with each new one. For the online form only.

    Raises
    ------
    InvalidInputError
        If an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.training import ElasticWeightConsolidation
    >>> parameters = {"w": np.array([1.0, 1.0])}
    >>> keep = ElasticWeightConsolidation(2.0)
    >>> keep.consolidate(parameters, [{"w": np.array([3.0, 0.0])}, {"w": np.array([1.0, 0.0])}])
    >>> parameters["w"] += 1
    >>> keep.penalty(parameters)
    (5.0, {'w': array([10.,  0.])})
    """

    def __init__(self, strength: float, online: bool = False, decay: float = 1.0) -> None:
        self.strength = check_nonnegative(strength, "strength")
        self.online = check_bool(online, "online")
        self.decay = check_positive(decay, "decay", "")
        if self.decay > 1 or (self.decay != 1 and not self.online):
            raise InvalidInputError(f"decay must be in (0, 1], and 1 unless online=True, got {decay!r}")
        self._tasks: list[tuple[Arrays, Arrays]] = []  # Fisher information, and where the parameters were
        self._count = 0

    @property
    def num_tasks(self) -> int:
        """How many tasks have been consolidated."""
        return self._count

    def consolidate(self, parameters: Mapping[str, np.ndarray], sample_gradients: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Remember a task that has been learnt.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            As the task left them; copied.
        sample_gradients : iterable of mappings of str to ndarray
            For each of some examples the gradients of its log-likelihood, or of its negative, by the parameters: of one example at a time, for the
            square of a mean is not the mean of squares. At least one.

        Raises
        ------
        InvalidInputError
            If there are no gradients, one isn't finite, or the parameters are others than those of earlier tasks. Nothing has changed then.
        DimensionMismatchError
            If a shape differs. Nothing has changed then.
        """
        check_parameters(parameters)
        self._check_parameters(parameters)
        fisher = {name: np.zeros(p.shape) for name, p in parameters.items()}
        scratch = {name: np.empty(p.shape) for name, p in parameters.items()}
        count = 0
        for gradients in sample_gradients:
            check_names(parameters, gradients)
            for name, p in parameters.items():
                check_gradient(name, gradients[name], p.shape, _LARGEST)
            for name, square in scratch.items():
                np.copyto(square, gradients[name], casting="unsafe")
                square *= square
                fisher[name] += square
            count += 1
        if not count:
            raise InvalidInputError("sample_gradients must have the gradients of at least one example, got none")
        anchor = {name: p.copy() for name, p in parameters.items()}
        for array in fisher.values():
            array /= count
        if self.online and self._tasks:
            for name, array in fisher.items():
                array += self.decay * self._tasks[0][0][name]
        self._tasks = [(fisher, anchor)] if self.online else [*self._tasks, (fisher, anchor)]
        self._count += 1

    def penalty(self, parameters: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """Return the penalty of parameters, to be added to the loss of a task, and its gradients.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            Those that were consolidated, as they are now.

        Returns
        -------
        value : float
            At least 0; 0 before the first task. What would overflow, here and in the gradients, is the largest number.
        gradients : dict of str to ndarray
            In the shapes and dtypes of the parameters; the caller's own. `ruvattn.training.add_gradients` adds them to those of the loss.

        Raises
        ------
        InvalidInputError, DimensionMismatchError
            If the parameters are others than those that were consolidated; the message names one.
        """
        as_gradients(parameters, what="value")
        self._check_parameters(parameters)
        value, gradients = 0.0, {name: np.zeros(p.shape) for name, p in parameters.items()}
        for fisher, anchor in self._tasks:
            for name, p in parameters.items():
                moved = p.astype(np.float64) - anchor[name].astype(np.float64)
                with np.errstate(over="ignore"):
                    force = _cut(_cut(self.strength * fisher[name]) * moved)
                    value = min(value + total(0.5 * _cut(force * moved)), MOST)
                    gradients[name] = _cut(gradients[name] + force)
        return value, {name: in_dtype(gradient, parameters[name].dtype) for name, gradient in gradients.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what has been remembered.

        Returns
        -------
        dict
            ``strength``, ``online``, ``decay``, ``num_tasks``; and ``tasks``, a list of dicts of ``fisher`` and ``anchor``, arrays by name, copies.
        """
        tasks = [{"fisher": _copies(fisher), "anchor": _copies(anchor)} for fisher, anchor in self._tasks]
        return {"strength": self.strength, "online": self.online, "decay": self.decay, "num_tasks": self._count, "tasks": tasks}

    def load_state_dict(self, state: Mapping[str, Any], parameters: Mapping[str, np.ndarray] | None = None) -> None:
        """Remember what another one did.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned.
        parameters : mapping of str to ndarray, optional
            Those of the model, to check the state against at once; `penalty` does so in any case.

        Raises
        ------
        InvalidInputError, DimensionMismatchError
            If it is no such state, or of other parameters. Nothing has changed then.
        """
        try:
            other = ElasticWeightConsolidation(state["strength"], state["online"], state["decay"])
            other._tasks = [(_copies(task["fisher"]), _copies(task["anchor"])) for task in state["tasks"]]
            other._count = int(state["num_tasks"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"the state can't be read ({error!r}): load what state_dict() returned") from error
        if len(other._tasks) != (min(other._count, 1) if other.online else other._count):
            raise InvalidInputError(f"the state has {len(other._tasks)} tasks and says it has {other._count}: load what state_dict() returned")
        for fisher, anchor in other._tasks:
            as_gradients(fisher, what="Fisher information")
            as_gradients(anchor, what="anchor")
            check_shapes(fisher, anchor, "the Fisher information", "the anchor")
            other._check_parameters(anchor)
            if any((array < 0).any() for array in fisher.values()):
                raise InvalidInputError("the state has negative Fisher information: load what state_dict() returned")
        if parameters is not None:
            other._check_parameters(parameters)
        self.__dict__.update(other.__dict__)

    def _check_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        if self._tasks:
            check_shapes(self._tasks[0][0], parameters, "the Fisher information", "the model")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.strength!r}, online={self.online!r}, decay={self.decay!r}, num_tasks={self._count})"


def _cut(array: np.ndarray) -> np.ndarray:
    return np.clip(array, -MOST, MOST)


def _copies(arrays: Mapping[str, Any]) -> Arrays:
    return {name: np.array(array) for name, array in arrays.items()}
