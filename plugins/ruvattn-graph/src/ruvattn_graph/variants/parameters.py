"""The parameters of a layer: made, listed, loaded, and multiplied by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from ruvattn.builtin.multihead import glorot
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.projection import linear

from .state import StateDict

__all__ = ["LayerParameters", "per_head"]


class LayerParameters:
    """Parameters by name, for a class that has an `attention_type` and keeps them in ``_arrays``."""

    attention_type: str
    _arrays: dict[str, np.ndarray]

    @abstractmethod
    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill the parameters, by `add_weights` and `add_bias`.

        Parameters
        ----------
        rng : Generator
            For the initial weights.
        dtype : dtype
            Of the parameters.
        """

    def add_weights(self, name: str, rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        """Add a matrix of weights, to be multiplied from the right, or one vector for each head.

        Parameters
        ----------
        name : str
            Of the parameter.
        rng : Generator
            For the initial weights.
        shape : (int, int)
            (fan-in, fan-out), or (num_heads, head_dim).
        dtype : dtype
            Of the parameter.
        """
        self._arrays[name] = glorot(rng, shape, shape[0], shape[1], name, dtype)

    def add_bias(self, name: str, width: int, dtype: np.dtype[Any]) -> None:
        """Add a bias, which starts at 0.

        Parameters
        ----------
        name : str
            Of the parameter.
        width : int
            How many numbers.
        dtype : dtype
            Of the parameter.
        """
        self._arrays[name] = np.zeros(width, dtype)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: the arrays themselves, so that what is written to them counts.

        Returns
        -------
        dict of str to ndarray
            Matrices are to be multiplied from the right.
        """
        return dict(self._arrays)

    def _parameters(self) -> dict[str, np.ndarray]:
        return self._arrays

    def parameter(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        """Return a parameter in the dtype of a computation.

        Parameters
        ----------
        name : str
            Of the parameter.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        ndarray
            The parameter itself where it has that dtype.
        """
        return self._arrays[name].astype(dtype, copy=False)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take parameters from the state dict of the torch-geometric layer of the same kind, or from our own `parameters`.

        Parameters
        ----------
        state : mapping of str to array or tensor
            All parameters, by torch-geometric's names or by our own.

        Raises
        ------
        InvalidInputError
            If parameters are missing, unknown, or not finite. Nothing has changed then, nor where one of the other errors is raised.
        DimensionMismatchError
            If one has another shape.
        """
        read = StateDict(state, self.attention_type)
        own = set(read.names) == set(self._arrays)
        found = {name: read.take(name) for name in self._arrays} if own else self.translate_state(read)
        if not own:
            read.check_all_taken()
        ready = {}
        for name, array in self._arrays.items():
            new = found[name]
            if new.shape != array.shape:
                raise DimensionMismatchError(
                    f"{name} must have shape {array.shape}, got {new.shape}: create the variant with the options of the layer that the state is of"
                )
            with np.errstate(over="ignore"):
                ready[name] = new.astype(array.dtype)  # a copy, for the state may be of these very arrays
            if not np.isfinite(ready[name]).all():
                raise InvalidInputError(f"{name} in state has numbers that aren't finite in {array.dtype}: create the variant with dtype='float64'")
        for name, array in self._arrays.items():
            array[...] = ready[name]

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return parameters by our names, given a state dict of torch-geometric's layer.

        Parameters
        ----------
        state : StateDict
            To take arrays from, by their names there.

        Returns
        -------
        dict of str to ndarray
            All of them.
        """
        raise InvalidInputError(
            f"state must have the parameters {', '.join(self._arrays)}, got {', '.join(state.names)}: {self.attention_type!r} has no counterpart "
            "in torch-geometric"
        )

    def common_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return the parameters that several of torch-geometric's layers name alike: edges, residual and bias, as far as the variant has them.

        Parameters
        ----------
        state : StateDict
            To take arrays from.

        Returns
        -------
        dict of str to ndarray
            ``W_edge``, ``W_res`` and ``b``.
        """
        found = {}
        if "W_edge" in self._arrays:
            found["W_edge"] = state.matrix("lin_edge.weight")
        if "W_res" in self._arrays:
            found["W_res"] = state.matrix("res.weight")
        if "b" in self._arrays:
            found["b"] = state.take("bias")
        return found

    def projected(self, inputs: tuple[np.ndarray, ...], names: tuple[str, ...]) -> list[np.ndarray]:
        """Return inputs multiplied by weights, the same product of the same two things only once.

        Parameters
        ----------
        inputs : tuple of ndarray
            Rows.
        names : tuple of str
            Of the matrix for each; the bias of ``W_x`` is ``b_x``, if there is one.

        Returns
        -------
        list of ndarray
            In the compute dtype.
        """
        made: dict[tuple[int, str], np.ndarray] = {}
        found = []
        for x, name in zip(inputs, names, strict=True):
            key = id(x), name
            if key not in made:
                made[key] = linear(x, self._arrays[name], self._arrays.get("b" + name[1:]) if "_" in name else None)
            found.append(made[key])
        return found


def per_head(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Return a matrix of weights as one for each head, a view.

    Parameters
    ----------
    x : ndarray, (F, num_heads · C)
        Head h has columns h·C to (h + 1)·C − 1.
    num_heads : int
        Number of heads.

    Returns
    -------
    ndarray, (num_heads, F, C)
        The same numbers.
    """
    return x.reshape(x.shape[0], num_heads, -1).swapaxes(0, 1)
