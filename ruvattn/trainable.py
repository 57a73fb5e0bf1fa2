"""What is trainable: gradients of a call, parameters, a step of an optimiser, and checkpoints.

    layer(x) ──► backward(grad_output) ──► Gradients ──► of the inputs, for what came before the layer
                        │
                        └─ of the parameters, kept for this thread ──► update_parameters(optimizer) ──► the arrays of parameters(), in place
    parameters(), config ──► save_checkpoint ──► a file ──► load_checkpoint

A variant implements `TrainableAttention.backward`, which hands the gradients of its parameters to `TrainableAttention.keep_gradients`, and
`TrainableAttention.parameters`; the rest follows. Parameters are changed all together or not at all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .base import Attention
from .context import Context
from .errors import CheckpointError, DimensionMismatchError, InvalidInputError

__all__ = ["Gradients", "TrainableAttention"]

KIND = "attention"
"""What checkpoints of variants say that they are."""


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
    """

    gradient_cache: bool = True

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
        """
        self._memory_of_thread().gradients = dict(gradients)

    def reset(self) -> None:
        """Forget this thread's last call and its gradients, and with them the arrays that they refer to."""
        super().reset()
        self._memory_of_thread().gradients = None

    def update_parameters(self, optimizer: Any) -> None:
        """Let an optimiser take a step with the gradients of this thread's last `backward`.

        Parameters
        ----------
        optimizer : object
            One of `ruvattn.training`, or anything with ``step(parameters, gradients)`` that changes the arrays of the first mapping in place.

        Raises
        ------
        InvalidInputError
            If there was no backward pass, a gradient is not finite, or a parameter would not be after the step. No parameter has changed then.
        """
        step = getattr(optimizer, "step", None)
        if not callable(step):
            raise InvalidInputError(f"optimizer must have step(parameters, gradients), as those of ruvattn.training, got {type(optimizer).__name__}")
        gradients = getattr(self.__dict__.get("_memory"), "gradients", None)
        if gradients is None:
            raise InvalidInputError("update_parameters needs the gradients of a backward pass, and this thread has made none: call backward first")
        parameters = self.parameters()
        for name, gradient in gradients.items():
            require_finite(gradient, f"the gradient of parameter {name!r}", "nothing was changed")
        before = {name: array.copy() for name, array in parameters.items()}
        try:
            step(parameters, gradients)
            for name, array in parameters.items():
                require_finite(array, f"parameter {name!r} after the step", "it was taken back; a smaller learning rate may help")
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
            If a parameter isn't finite: `load_checkpoint` would refuse it, and a file that it takes stays.
        """
        from .checkpoints import save_arrays

        parameters = self.parameters()
        for name, array in parameters.items():
            require_finite(array, f"parameter {name!r}", "nothing was saved")
        save_arrays(path, parameters, {"kind": KIND, "config": self.config.to_dict()})

    def load_checkpoint(self, path: str | PathLike[str]) -> None:
        """Read the parameters from a file that `save_checkpoint` wrote.

        The variant has to be of the same type, with parameters of the same names, shapes and dtypes; dropout and the like may differ.
        ``AttentionConfig.from_dict(metadata["config"]).create()`` makes one, with the metadata that `ruvattn.checkpoints.load_arrays` returns.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        CheckpointError
            If it can't be read or is of another variant; then nothing has changed.
        """
        from .checkpoints import assign_arrays, load_arrays, match_arrays

        arrays, metadata = load_arrays(path, kind=KIND)
        _check_config(metadata.get("config"), self.config.to_dict(), path)
        parameters = self.parameters()
        match_arrays(arrays, parameters, path)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise CheckpointError(f"{path} has a parameter {name!r} that is not finite")
        assign_arrays(parameters, arrays, path)


def require_finite(array: np.ndarray, what: str, then: str) -> None:
    """Raise where an array holds NaN or infinity, and say where and what became of it."""
    with np.errstate(all="ignore"):
        bad = ~np.isfinite(array)
    if bad.any():
        at = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
        where = f" at index {at}" if at else ""
        raise InvalidInputError(f"{what} must be finite, got {array[at]}{where}: {then}")


def _check_config(saved: Any, own: Mapping[str, Any], path: Any) -> None:
    """Raise where a file is of another variant."""
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path} does not say which variant it is of: its metadata has no config")
    for name in ("attention_type", "embed_dim", "num_heads"):
        if saved.get(name) != own[name]:
            raise CheckpointError(f"{path} is of a variant with {name} {saved.get(name)!r}, and this one has {own[name]!r}: create one like it")
