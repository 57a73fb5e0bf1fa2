"""The parameters of a layer: made, listed, loaded, and multiplied by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ruvattn.builtin.multihead import glorot
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.projection import linear, linear_vjp

from .state import StateDict

__all__ = ["DotProductProjections", "LayerParameters", "per_head", "per_head_vjp"]


class LayerParameters:
    """Parameters by name, for a class that has an `attention_type` and keeps them in ``_arrays``."""

    attention_type: str
    shared_names: ClassVar[tuple[str, ...]] = ()
    """Names that torch-geometric gives to the same parameters: they don't tell whose a state dict is."""
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
        try:
            found = self._read_state(read)
        except InvalidInputError:
            prefix = self._prefix_of(state)
            if prefix is None:
                raise
            raise InvalidInputError(
                f"names in state must be those of one layer, and all of them begin with {prefix!r}, as in a model: pass "
                f"{{name.removeprefix({prefix!r}): array for name, array in state.items()}}"
            ) from None
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

    def _read_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return all parameters by our names, whose ever names the state has; those of shapes that don't fit, too."""
        if set(state.names) != set(self._arrays) and set(self._arrays).difference(self.shared_names).isdisjoint(state.names):
            found = self.translate_state(state)
            state.check_all_taken()
            return found
        missing = [name for name in self._arrays if name not in state]
        if missing:
            unknown = [name for name in state.names if name not in self._arrays]
            more = f", and has {', '.join(map(repr, unknown))}, which it does not" if unknown else ""
            raise InvalidInputError(
                f"state lacks {', '.join(map(repr, missing))}, which this {self.attention_type!r} has{more}: create it with the options of the layer "
                "that the state is of"
            )
        found = {name: state.take(name) for name in self._arrays}
        state.check_all_taken()
        return found

    def _prefix_of(self, state: Mapping[str, Any]) -> str | None:
        """Return what all names begin with, as those of a layer in a model do, if they are fine without it."""
        first = next(iter(state), "")
        for at in (at for at, letter in enumerate(first) if letter == "."):
            prefix = first[: at + 1]
            if not all(name.startswith(prefix) for name in state):
                return None
            try:
                self._read_state(StateDict({name.removeprefix(prefix): array for name, array in state.items()}, self.attention_type))
            except InvalidInputError:
                continue
            return prefix
        return None

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

    def projected_vjp(
        self, inputs: tuple[np.ndarray, ...], names: tuple[str, ...], gradients: tuple[np.ndarray, ...]
    ) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
        """Return the gradients of inputs, and of the weights that they were multiplied by.

        Parameters
        ----------
        inputs : tuple of ndarray
            Rows.
        names : tuple of str
            Of the matrix for each, as for `projected`.
        gradients : tuple of ndarray
            Of what each became.

        Returns
        -------
        dinputs : tuple of ndarray
            Of each input.
        dparams : dict of str to ndarray
            Of matrices and biases, by name.
        """
        dinputs, dparams = [], {}
        for x, name, gradient in zip(inputs, names, gradients, strict=True):
            bias = "b" + name[1:]
            dx, dweight, dbias = linear_vjp(gradient, x, self._arrays[name], bias="_" in name and bias in self._arrays)
            dinputs.append(dx)
            for key, found in ((name, dweight), (bias, dbias)):
                if found is not None:
                    dparams[key] = dparams[key] + found if key in dparams else found
        return tuple(dinputs), dparams


class DotProductProjections:
    """Queries, keys and values of a variant whose score is a dot product, and the node's own features beside what arrives, for a `GraphVariant`."""

    _root: bool

    if TYPE_CHECKING:
        _arrays: dict[str, np.ndarray]
        config: Any
        embed_dim: Any
        key_dim: Any
        width: Any
        add_bias: Any
        add_weights: Any
        output_dim: Any
        projected: Any
        projected_vjp: Any

    def add_projections(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W_q``, ``W_k``, ``W_v`` and, with a ``root_weight``, ``W_skip``, each with its bias.

        Parameters
        ----------
        rng : Generator
            For the initial weights.
        dtype : dtype
            Of the parameters.
        """
        shapes = {"q": (self.embed_dim, self.width), "k": (self.key_dim, self.width), "v": (self.key_dim, self.width)}
        if self._root:
            shapes["skip"] = (self.embed_dim, self.output_dim(0))
        for name, shape in shapes.items():
            self.add_weights(f"W_{name}", rng, shape, dtype)
            if self.config.options["bias"]:
                self.add_bias(f"b_{name}", shape[1], dtype)

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return W_q q + b_q, W_k k + b_k and W_v v + b_v.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k, v : ndarray, (..., L, H·C)
            In the compute dtype.
        """
        q, k, v = self.projected((q, k, v), ("W_q", "W_k", "W_v"))
        return q, k, v

    def project_inputs_vjp(
        self, context: Any, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Return the gradients of the inputs and of the projections.

        Parameters
        ----------
        context : Context
            Of the call.
        dq, dk, dv : ndarray, (..., L, H·C)
            Gradients of what `project_inputs` returned.

        Returns
        -------
        dinputs : tuple of ndarray
            Of query, keys and values.
        dparams : dict of str to ndarray
            Of ``W_q``, ``W_k`` and ``W_v`` and their biases.
        """
        found: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]
        found = self.projected_vjp(context.inputs, ("W_q", "W_k", "W_v"), (dq, dk, dv))
        return found

    def own_features(self, x: np.ndarray) -> np.ndarray:
        """Return W_skip x + b_skip.

        Parameters
        ----------
        x : ndarray, (..., L, embed_dim)
            Features of the destinations.

        Returns
        -------
        ndarray, (..., L, V')
            In the compute dtype; the caller's own.
        """
        return linear(x, self._arrays["W_skip"], self._arrays.get("b_skip"))

    def own_features_vjp(self, x: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the features of the destinations, and of ``W_skip`` and its bias.

        Parameters
        ----------
        x : ndarray, (..., L, embed_dim)
            Those features.
        gradient : ndarray, (..., L, V')
            Gradient of what `own_features` made of them.

        Returns
        -------
        dx : ndarray, (..., L, embed_dim)
            Of the features.
        dparams : dict of str to ndarray
            By name.
        """
        (dx,), dparams = self.projected_vjp((x,), ("W_skip",), (gradient,))
        return dx, dparams


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


def per_head_vjp(gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of a matrix of weights, given that of the weights of each head: the inverse of `per_head`.

    Parameters
    ----------
    gradient : ndarray, (num_heads, F, C)
        For each head.

    Returns
    -------
    ndarray, (F, num_heads · C)
        The same numbers.
    """
    return gradient.swapaxes(0, 1).reshape(gradient.shape[1], -1)
