"""Reading state dicts: arrays or tensors by name, each taken once, and an error that says what is missing or left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.validation import as_numbers

from ..reading import array_of_tensor

__all__ = ["StateDict", "heads_of"]


class StateDict:
    """The arrays of a state dict, to be taken by name.

    Parameters
    ----------
    state : mapping of str to array or tensor
        Parameters by name.
    reader : str
        Who reads it, for messages.

    Raises
    ------
    InvalidInputError
        If it is no such mapping.
    """

    def __init__(self, state: Mapping[str, Any], reader: str) -> None:
        if not isinstance(state, Mapping):
            raise InvalidInputError(f"state must be a mapping of names to arrays, as layer.state_dict() is, got {type(state).__name__}")
        self._reader = reader
        self._arrays = {name: _finite_array(value, name) for name, value in state.items()}
        self._left = dict.fromkeys(self._arrays)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def take(self, *names: str) -> np.ndarray:
        """Return the array of the first of some names that is there.

        Parameters
        ----------
        *names : str
            What it may be called.

        Returns
        -------
        ndarray
            As it is.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        for name in names:
            if name in self._arrays:
                self._left.pop(name, None)
                return self._arrays[name]
        raise InvalidInputError(f"state must have {names[0]!r} for this {self._reader!r}, got {', '.join(self._arrays) or 'nothing'}")

    def drop(self, name: str) -> None:
        """Count an array as taken, if it is there.

        Parameters
        ----------
        name : str
            What it is called.
        """
        self._left.pop(name, None)

    def matrix(self, *names: str) -> np.ndarray:
        """Return the weights of a linear layer, to be multiplied from the right.

        Parameters
        ----------
        *names : str
            What they may be called.

        Returns
        -------
        ndarray, (in, out)
            Transposed.
        """
        return self.take(*names).T

    def check_all_taken(self) -> None:
        """Raise where something has not been taken."""
        if self._left:
            raise InvalidInputError(
                f"state has {', '.join(map(repr, self._left))}, which this {self._reader!r} does not have: create it with the options of the layer "
                "that the state is of"
            )


def heads_of(vectors: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return vectors of the heads without torch-geometric's leading axis.

    Parameters
    ----------
    vectors : ndarray, (1, H, C)
        As it has them.
    shape : (int, int)
        (H, C).

    Returns
    -------
    ndarray, (H, C)
        A view where they are of this shape; else as they are, for the check that follows.
    """
    return vectors.reshape(shape) if vectors.shape == (1, *shape) else vectors


def _finite_array(value: Any, name: str) -> np.ndarray:
    """Return finite real numbers as an array."""
    if not isinstance(name, str):
        raise InvalidInputError(f"names in state must be str, got {name!r}")
    array = as_numbers(array_of_tensor(value, f"{name} in state"), f"{name} in state")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidInputError(f"{name} in state must be an array of real numbers, got dtype {array.dtype}")
    if not np.isfinite(array).all():
        raise InvalidInputError(f"{name} in state must be finite, got NaN or infinity: the layer it is of has diverged")
    return array
