"""What is trainable: gradients of a call, parameters, a step of an optimiser, and checkpoints.

    layer(x) ──► backward(grad_output) ──► Gradients ──► of the inputs, for what came before the layer
                        │
                        └─ of the parameters, kept for this thread ──► update_parameters(optimizer) ──► the arrays of parameters(), in place
    parameters(), config ──► save_checkpoint ──► a file ──► load_checkpoint

A variant implements `TrainableAttention.backward`, which hands the gradients of its parameters to `TrainableAttention.keep_gradients`, and
`TrainableAttention.parameters`; the rest follows. Parameters are changed all together or not at all.
"""

from __future__ import annotations

import json
import reprlib
from abc import abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .base import Attention
from .context import Context
from .errors import CheckpointError, DimensionMismatchError, InvalidInputError
from .validation import as_array, first_nonfinite

__all__ = ["Gradients", "TrainableAttention"]

KIND = "attention"
"""What checkpoints of variants say that they are."""

WITHOUT_MEANING = frozenset({"seed", "output_dropout", "check_finite", "max_keys", "learn"})
"""Options that leave alone what parameters mean; what is learned shows in their names. A class names exceptions in `checkpoint_options`."""


class Gradients(NamedTuple):
    """Gradients of a call of a variant.

    Attributes
    ----------
    query, keys, values : ndarray
        In the shapes and the dtype of what the call was given. Where it was given no keys, or no values, each has the gradient of the part that the
        queries, or the keys, played as such: see `total`.
    params : dict of str to ndarray
        By the names of `TrainableAttention.parameters`, in their shapes and dtypes.
    """

    query: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    params: dict[str, np.ndarray]

    def total(self) -> np.ndarray:
        """Return the gradient of the one array that a call was given, ``layer(x)``: the sum of those of queries, keys and values.

        Returns
        -------
        ndarray
            In the shape and dtype of that array.

        Raises
        ------
        DimensionMismatchError
            If the three have different shapes: then the call was given more than one array.

        Examples
        --------
        >>> import numpy as np, ruvattn
        >>> layer = ruvattn.create("standard", embed_dim=4)
        >>> out = layer(np.eye(4))
        >>> layer.backward(out).total().shape
        (4, 4)
        """
        shapes = [array.shape for array in self[:3]]
        if len(set(shapes)) > 1:
            raise DimensionMismatchError(
                f"total is the gradient of a call with one array, and queries, keys and values have shapes {shapes[0]}, {shapes[1]} and {shapes[2]}: "
                "add up those that were the same array"
            )
        wide = np.result_type(self.query.dtype, np.float32)  # a sum of float16 is to be rounded once
        query, keys, values = (array.astype(wide, copy=False) for array in self[:3])
        total: np.ndarray = query + keys + values
        return total.astype(self.query.dtype, copy=False)


class TrainableAttention(Attention):
    """A variant that has gradients, and parameters to learn by them.

    Attributes
    ----------
    gradient_cache : bool
        True, the default: the context of a call keeps what the backward pass needs of it. False: it keeps what the call was given, and makes the
        rest again when it is asked for it, which takes another forward pass and saves the memory between the two.
    checkpoint_options : tuple of str
        Of a class: those options among ``seed``, ``output_dropout``, ``check_finite``, ``max_keys`` and ``learn`` that have to be the same where a
        checkpoint is loaded, as all others have to. ``("seed",)`` where numbers that are no parameters, such as random features, are drawn by it.
    initial_options : tuple of str
        Of a class: those options that only say where parameters begin, and may differ.
    """

    gradient_cache: bool = True
    checkpoint_options: ClassVar[tuple[str, ...]] = ()
    initial_options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def backward(self, grad_output: Any, context: Context | None = None) -> Gradients:
        """Return the gradients of a call.

        Parameters
        ----------
        grad_output : array, (..., Lq, V')
            The gradient of the loss by the output, in its shape and dtype.
        context : Context, optional
            Of the call, whichever thread made it; this thread's last one when not given. Its arrays and the parameters have to be as they were.

        Returns
        -------
        Gradients
            By the inputs of the call and by the parameters.

        Raises
        ------
        InvalidInputError
            If there was no call, or `grad_output` has another dtype or is not finite.
        DimensionMismatchError
            If it has another shape than the output.
        UnsupportedError
            If a part of the variant has no gradient.
        """

    @abstractmethod
    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: the arrays themselves, so that what is written to them counts.

        Returns
        -------
        dict of str to ndarray
            Possibly empty.
        """

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters are."""
        return sum(array.size for array in self.parameters().values())

    def keep_gradients(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Keep the gradients of the parameters for this thread's `update_parameters`; what `backward` ends with.

        Parameters
        ----------
        gradients : mapping of str to ndarray
            One for each parameter; they take the place of those before.

        Raises
        ------
        InvalidInputError
            If they are no mapping, or one is no array.
        UnsupportedError
            If one has another dtype than float32, float64, float16 or bfloat16.
        """
        if not isinstance(gradients, Mapping):
            raise InvalidInputError(f"gradients must be a mapping of names to arrays, got {type(gradients).__name__}")
        found = {name: as_array(gradient, f"the gradient of parameter {name!r}") for name, gradient in gradients.items()}
        self._memory_of_thread().gradients = found

    def check_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Look at parameters before a step is final, and before they are saved or loaded: what this raises takes the step back.

        This default takes what is finite.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            All of them by name, as they are after the step; not to be written to.

        Raises
        ------
        InvalidInputError
            Where a variant can't compute with them.
        """

    def reset(self) -> None:
        """Forget this thread's last call and its gradients, and with them the arrays that they refer to."""
        super().reset()
        self._memory_of_thread().gradients = None

    def update_parameters(self, optimizer: Any) -> None:
        """Let an optimiser take a step with the gradients of this thread's last `backward`.

        Parameters
        ----------
        optimizer : object
            One of `ruvattn.training`, or anything with ``step(parameters, gradients)`` that changes the arrays of the first mapping in place. A step
            that is taken back leaves one of `ruvattn.training` as it was, too; of any other the parameters are put back.

        Raises
        ------
        InvalidInputError
            If there was no backward pass, a gradient is not finite, a parameter would not be after the step or be out of its range, or the optimiser
            puts other arrays in the place of the parameters. No parameter has changed then.
        """
        from .training.base import Optimizer  # which is not needed before anyone trains

        step = getattr(optimizer, "step", None)
        if not callable(step):
            raise InvalidInputError(f"optimizer must have step(parameters, gradients), as those of ruvattn.training, got {type(optimizer).__name__}")
        gradients = getattr(self.__dict__.get("_memory"), "gradients", None)
        if gradients is None:
            raise InvalidInputError("update_parameters needs the gradients of a backward pass, and this thread has made none: call backward first")
        parameters = self.parameters()
        for name, gradient in gradients.items():
            require_finite(gradient, f"the gradient of parameter {name!r}", "nothing was changed")
        if getattr(step, "__func__", None) is Optimizer.step:
            optimizer.step(parameters, gradients, check=self.check_parameters)
            return
        before = {name: array.copy() for name, array in parameters.items()}
        handed = dict(parameters)  # not a read-only one: `parameters[name] -= …` changes an array in place, and assigns it
        try:
            step(handed, dict(gradients))
            for name, array in parameters.items():
                if handed.get(name) is not array:
                    message = f"the step of {type(optimizer).__name__} has put another array in the place of parameter {name!r}: it was taken back"
                    raise InvalidInputError(f"{message}; change the array itself, array[...] = …")
                require_finite(array, f"parameter {name!r} after the step", "it was taken back; a smaller learning rate may help")
            self.check_parameters(parameters)
        except BaseException:
            for name, array in parameters.items():
                array[...] = before[name]
            raise

    def save_checkpoint(self, path: str | PathLike[str]) -> None:
        """Write parameters and configuration to a file.

        Parameters
        ----------
        path : path
            The file; an existing one is replaced, or left whole where writing fails.

        Raises
        ------
        CheckpointError
            If it can't be written.
        InvalidInputError
            If a parameter isn't finite, or isn't what the variant can take: `load_checkpoint` would refuse it, and a file that it takes stays. Or if
            the class names an option that it hasn't got.
        """
        from .checkpoints import save_arrays

        parameters = self.parameters()
        for name, array in parameters.items():
            require_finite(array, f"parameter {name!r}", "nothing was saved")
        self.check_parameters(parameters)
        save_arrays(path, parameters, self._checkpoint_metadata())

    def _checkpoint_metadata(self) -> dict[str, Any]:
        """Return what a checkpoint says of the variant: its kind and configuration."""
        self._check_named_options()
        return {"kind": KIND, "config": self.config.to_dict()}

    def load_checkpoint(self, path: str | PathLike[str]) -> None:
        """Read the parameters from a file that `save_checkpoint` wrote.

        The configuration has to be the same, but for what doesn't change the meaning of the parameters: dropout, ``seed``, ``check_finite``,
        ``max_keys``, ``learn``, and where learned numbers began; `checkpoint_options` and `initial_options` are what a class says of its own.
        An option that the file doesn't know of has to be off. The file has the configuration: the example makes the variant again from it alone.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        CheckpointError
            If it can't be read or is of another variant; then nothing has changed.

        Examples
        --------
        >>> import os, tempfile
        >>> import ruvattn
        >>> from ruvattn.checkpoints import load_arrays
        >>> path = os.path.join(tempfile.mkdtemp(), "layer.safetensors")
        >>> layer = ruvattn.create("multihead", embed_dim=8, num_heads=2, seed=3)
        >>> layer.save_checkpoint(path)
        >>> _, metadata = load_arrays(path, kind="attention")
        >>> again = ruvattn.AttentionConfig.from_dict(metadata["config"]).create()
        >>> again.load_checkpoint(path)
        >>> again.config == layer.config
        True
        """
        from .checkpoints import assign_arrays, load_arrays, match_arrays

        self._check_named_options()
        arrays, metadata = load_arrays(path, kind=KIND)
        _check_config(metadata.get("config"), self.config.to_dict(), WITHOUT_MEANING - set(self.checkpoint_options), self._beginnings(), path)
        parameters = self.parameters()
        match_arrays(arrays, parameters, path)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise CheckpointError(f"{path} has a parameter {name!r} that is not finite")
        try:
            self.check_parameters(arrays)
        except InvalidInputError as error:
            raise CheckpointError(f"{path} has what the variant can't take: {error}") from None
        assign_arrays(parameters, arrays, path)

    def _check_named_options(self) -> None:
        """Raise where the class names an option that there is not: it would go unnoticed, and the option that was meant too."""
        for attribute in ("checkpoint_options", "initial_options"):
            for name in getattr(self, attribute):
                if name not in self.config.options:
                    raise InvalidInputError(f"{type(self).__name__}.{attribute} names {name!r}, and the options are {sorted(self.config.options)}")

    def _beginnings(self) -> set[str]:
        """Return the options that only say where parameters begin, with a dot before the name of an entry of a mapping."""
        return set(self.initial_options)


def require_finite(array: np.ndarray, what: str, then: str) -> None:
    """Raise where an array holds NaN or infinity, and say where and what became of it."""
    bad = first_nonfinite(array)
    if bad:
        raise InvalidInputError(f"{what} must be finite, got {bad}: {then}")


def _check_config(saved: Any, own: Mapping[str, Any], without_meaning: frozenset[str], beginnings: set[str], path: Any) -> None:
    """Raise where a file is of another variant, or of one that would make something else of the same parameters."""
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path} does not say which variant it is of: its metadata has no config")
    given, options = saved.get("options"), json.loads(json.dumps(own["options"]))  # tuples as a file has them
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{path} does not say which variant it is of: its metadata has no options")
    pairs = [(name, saved.get(name), own[name]) for name in ("attention_type", "embed_dim", "num_heads")]
    pairs += [(name, given.get(name), options.get(name)) for name in sorted({*given, *options} - without_meaning - beginnings)]
    for name, theirs, ours in pairs:
        theirs, ours = (_without(value, name, beginnings) for value in (theirs, ours))
        if theirs != ours and (theirs or ours or {name} <= given.keys() & options.keys()):
            raise CheckpointError(
                f"{path} is of a variant with {name} {reprlib.repr(theirs)}, and this one has {reprlib.repr(ours)}: create one like it"
            )


def _without(value: Any, name: str, beginnings: set[str]) -> Any:
    """Return the value of an option, without those entries of a mapping that say where parameters begin."""
    if not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if f"{name}.{key}" not in beginnings}
