"""Numbers of a configuration that become parameters: scales, sinks, and what else a score has.

    learn=("scale", "sinks", "score.sigma") ─► parameters()["scale"], …  each (num_heads,), from the value that the configuration has
                                                    │ live
                                                    ▼
                                        the params of the variant's score, and its sinks
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .attention_config import AttentionConfig
from .errors import DimensionMismatchError, InvalidInputError
from .scores import Dot, Score, head_params, outside_domain
from .trainable import TrainableAttention

__all__ = ["LearnedNumbers", "read_learn"]


class LearnedNumbers(TrainableAttention):
    """What `ruvattn.headwise.HeadwiseAttention` learns beside the parameters of a subclass."""

    splits_width: ClassVar[bool] = True
    """Whether a head sees embed_dim / num_heads columns; if not, `project_inputs` gives the heads a width of its own."""
    learns_itself: ClassVar[tuple[str, ...]] = ()
    """Names in ``learn`` that a subclass sees to by itself."""

    _config: AttentionConfig
    _constant: dict[str, Any]
    _arrays: dict[str, np.ndarray]
    _learned: dict[str, str]
    """Name of a parameter ─► what `ruvattn.attention_backward` calls it."""
    _learned_arrays: dict[str, np.ndarray]
    embed_dim: int
    num_heads: int

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: the arrays themselves, so that what is written to them counts.

        Returns
        -------
        dict of str to ndarray
            Here those that ``learn`` names, each with an entry for each head; possibly none.
        """
        return self._parameters()

    def _parameters(self) -> dict[str, np.ndarray]:
        return {**self._arrays, **self._learned_arrays}

    def _make_learned(self, score: Score) -> None:
        """Make parameters of what the option ``learn`` names; those that are there already, after unpickling, stay."""
        known = self.__dict__.get("_learned_arrays", {})
        score = copy.copy(score)  # whoever made it may have given it to others, too
        self._learned, self._learned_arrays = {}, {}
        for name in self._config.options.get("learn", ()):
            if name in self.learns_itself:
                continue
            if name == "sinks":
                wrt, initial = "sinks", np.zeros(self.num_heads)
            else:
                if name.startswith("aggregate."):
                    raise InvalidInputError(
                        f"learn must not name {name!r}: the parameters of an aggregate are not learned by themselves, only where a variant makes "
                        f"them of parameters of its own; here there are: {', '.join(self._learnable(score))}"
                    )
                wrt = name if name.startswith("score.") else f"score.{name}"
                if (name != "scale" and wrt != name) or wrt.removeprefix("score.") not in score.params:
                    raise InvalidInputError(f"learn must name parameters, got {name!r}; there are: {', '.join(self._learnable(score))}")
                initial = self._initial(score, wrt.removeprefix("score."))
            if wrt in self._learned.values():
                raise InvalidInputError(f"learn must name each parameter once, got {name!r} again")
            dtype = np.dtype(self._config.options.get("dtype") or np.float64)
            self._learned[name] = wrt
            self._learned_arrays[name] = array = known.get(name, initial.astype(dtype))
            if wrt == "sinks":
                self._constant["sinks"] = array
            else:
                score.params = {**score.params, wrt.removeprefix("score."): array}  # type: ignore[misc]  # of this instance
                self._constant["score"] = score
                if wrt == "score.scale":
                    self._constant.pop("scale", None)

    def check_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """See that learned numbers of the score are in their domains.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            Finite, by name; not to be written to.

        Raises
        ------
        InvalidInputError
            If one is not.
        """
        super().check_parameters(parameters)
        score = self._constant.get("score")
        for name, wrt in self._learned.items():
            if score is not None and wrt.startswith("score.") and name in parameters:
                wrong = outside_domain(score, wrt.removeprefix("score."), parameters[name])
                if wrong is not None:
                    raise InvalidInputError(f"parameter {name!r} {wrong}")

    def _beginnings(self) -> set[str]:
        names = {wrt.removeprefix("score.") for wrt in self._learned.values() if wrt.startswith("score.")}
        return super()._beginnings() | {f"score_options.{name}" for name in names} | (names & {"scale"})

    def _learnable(self, score: Score) -> list[str]:
        """Return what ``learn`` may name."""
        floats = [name for name, value in score.params.items() if value is None or np.asarray(value).dtype.kind == "f"]
        return [*self.learns_itself, *(["scale"] if "scale" in score.params else []), "sinks", *(f"score.{name}" for name in floats)]

    def _initial(self, score: Score, name: str) -> np.ndarray:
        """Return a parameter of the score as it is at first, with an entry for each head."""
        value = self._config.options.get("scale") if name == "scale" else None
        if value is None:
            value = score.params[name]
        if value is None and isinstance(score, Dot) and self.splits_width:
            value = 1 / math.sqrt(self.embed_dim // self.num_heads)
        if value is None:
            raise InvalidInputError(f"learn names {name!r}, whose value is known to a call only: set it, and it starts from there")
        array = np.asarray(head_params(score, self.num_heads, value)["scale"] if name == "scale" else value)
        if array.dtype.kind != "f" and name != "scale":
            raise InvalidInputError(f"learn must name parameters that are floats, and {name!r} is {value!r}")
        if array.ndim and array.shape[0] != self.num_heads:
            raise DimensionMismatchError(f"{name} must be a number or have an entry for each of the {self.num_heads} heads, got shape {array.shape}")
        return np.broadcast_to(array, array.shape or (self.num_heads,)).astype(np.float64)

    def _options_of_call(self) -> dict[str, Any]:
        """Return the variant's own options for a call, with learned numbers as they are now: an update must not reach the context of the call."""
        options = self._constant.copy()
        if not self._learned_arrays:
            return options
        params = {}
        for name, array in self._learned_arrays.items():
            wrt = self._learned[name]
            if wrt == "sinks":
                options["sinks"] = array.copy()
            else:
                params[wrt.removeprefix("score.")] = array.copy()
        if params:
            options["score"] = score = copy.copy(options["score"])
            score.params = {**score.params, **params}
        return options


def read_learn(learn: Any) -> tuple[str, ...]:
    """Return the option ``learn``, checked.

    Parameters
    ----------
    learn : sequence of str
        The option.

    Returns
    -------
    tuple of str
        The names.

    Raises
    ------
    InvalidInputError
        If it is no sequence of names.
    """
    if isinstance(learn, str) or not isinstance(learn, Sequence) or not all(isinstance(name, str) for name in learn):
        raise InvalidInputError(f"learn must be a sequence of names of parameters, got {learn!r}: ('scale',) for one")
    return tuple(learn)
