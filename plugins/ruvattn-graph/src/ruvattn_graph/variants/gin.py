"""``gin``: graph isomorphism networks, a perceptron of the sum of the neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ruvattn import Context
from ruvattn.context import RecomputedContext
from ruvattn.errors import InvalidInputError
from ruvattn.headwise import merge_heads, split_heads
from ruvattn.projection import compute_dtype, linear, linear_vjp
from ruvattn.running import narrowed
from ruvattn.validation import as_numbers, check_bool, check_int

from ..graph import Graph
from ..segments import segment_sum
from .neighbours import DroppedContext, NeighbourContext, NeighbourVariant, even
from .state import StateDict
from .steps import added, column_sums, only_query

__all__ = ["GINAttention"]

NORM_EPS = 1e-5
"""What torch's BatchNorm1d adds to a variance; a state dict doesn't say."""


class GINAttention(NeighbourVariant):
    """Graph isomorphism network (Xu et al., 2019, "How Powerful are Graph Neural Networks?", eq. 4.1).

    ``out_i = W_2·ReLU(W_1·h_i + b_1) + b_2`` of ``h_i = (1 + eps) x_i + Σ_j w_ij x_j`` over the incoming edges j → i of node i, with the weights of
    edges w, 1 by default. It equals torch-geometric's ``GINConv`` with a perceptron of two layers, whose output is num_heads · `head_dim` wide here.

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H; only dropout, and masks of a call without a graph, treat them differently.
    eps : float, default 0
        How much more than a neighbour the node itself counts.
    train_eps : bool, default False
        Whether ``eps`` is a parameter, which starts so.
    hidden_dim : int, optional
        Width of the hidden layer; that of the output when not given.
    head_dim : int, optional
        The output is num_heads · head_dim wide; as wide as the features when not given.
    bias : bool, default True
        Whether both layers of the perceptron have a bias.
    seed, dtype, dropout_rate, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Notes
    -----
    It is no softmax: weights of edges are factors, and may be below 0. `get_edge_weights` gives them as they are. Without a graph, in
    ``variant(q, k, v)``, the query is x_i, values are summed, keys have no say, and a bias on logits is the logarithm of a weight;
    `get_attention_weights` gives shares there. Sources of a bipartite graph are as wide as destinations.

    Where the hidden layer is narrower than the features, W_1 is applied before the sum, which is the same.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("gin", embed_dim=3, head_dim=4, hidden_dim=8)
    >>> layer.forward_graph(np.eye(3, dtype=np.float32), [(0, 1), (1, 2)]).shape
    (3, 4)
    """

    attention_type = "gin"
    combines = "sum"
    softmax = False
    common_options: ClassVar[tuple[str, ...]] = ("check_finite", "max_keys", "output_dropout")
    leaves_out = ("edge_dim", "concat", "key_dim", "add_self_loops", "softcap")
    shared_names = ("eps",)

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, eps: float = 0.0, train_eps: bool = False, hidden_dim: int | None = None, **options: Any
    ) -> None:
        self._eps = _number(eps, "eps")
        self._trains_eps = check_bool(train_eps, "train_eps")
        self._hidden = None if hidden_dim is None else check_int(hidden_dim, "hidden_dim", 1)
        own = {"eps": self._eps, "train_eps": self._trains_eps, "hidden_dim": self._hidden}
        super().__init__(embed_dim, num_heads, own=own, **options)

    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W_1`` and ``W_2`` with their biases, and ``eps`` if it is one."""
        hidden = self.width if self._hidden is None else self._hidden
        self._first = hidden < self.embed_dim
        for name, shape in (("1", (self.embed_dim, hidden)), ("2", (hidden, self.width))):
            self.add_weights(f"W_{name}", rng, shape, dtype)
            if self.config.options["bias"]:
                self.add_bias(f"b_{name}", shape[1], dtype)
        if self._trains_eps:
            self.add_bias("eps", 1, dtype)
            self._arrays["eps"][0] = self._eps

    def _beginnings(self) -> set[str]:
        return super()._beginnings() | ({"eps"} if self._trains_eps else set())

    def message(self, x: np.ndarray) -> np.ndarray:
        """Return the features, or what W_1 makes of them where that is narrower.

        Parameters
        ----------
        x : ndarray, (..., L, embed_dim)
            Features.

        Returns
        -------
        ndarray, (..., L, M)
            In the compute dtype.
        """
        if self._first:
            return linear(x, self._arrays["W_1"])
        return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)

    @property
    def message_width(self) -> int:
        """M, the width of a message."""
        return self._arrays["W_1"].shape[1] if self._first else self.embed_dim

    def message_vjp(self, x: np.ndarray, message: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the features, and of W_1 where it is applied before the sum."""
        if not self._first:
            return gradient, {}
        dx, dweight, _ = linear_vjp(gradient, x, self._arrays["W_1"])
        return dx, {"W_1": dweight}

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return what the perceptron makes of the sums and of the node's own features."""
        dtype = inputs[0].dtype
        _, made = self._hidden_layer(merged, inputs)
        np.maximum(made, 0, out=made)
        made = linear(made, self._arrays["W_2"], self._arrays.get("b_2"))
        return self.project_output(narrowed(made, dtype), dtype, out)

    def complete_vjp(self, context: Any, grad_output: np.ndarray) -> Any:
        """Return the gradients of the sums, of the node's own features, and of the perceptron and eps."""
        upstream = grad_output.astype(compute_dtype(grad_output.dtype), copy=False)
        merged, biased = self.merged_heads(context), "b_1" in self._arrays
        summed, hidden = self._hidden_layer(merged, context.inputs)
        gradient, dweight, dbias = linear_vjp(upstream, np.maximum(hidden, 0), self._arrays["W_2"], bias=biased)
        dparams = {"W_2": dweight} if dbias is None else {"W_2": dweight, "b_2": dbias}
        gradient = np.where(hidden > 0, gradient, 0)
        if self._first:
            if biased:
                dparams["b_1"] = column_sums(gradient)
        else:
            gradient, dparams["W_1"], dbias = linear_vjp(gradient, summed, self._arrays["W_1"], bias=biased)
            if dbias is not None:
                dparams["b_1"] = dbias
        own = self._own(context.inputs)
        if self._trains_eps:
            dparams["eps"] = np.array([np.vdot(own.astype(np.float64, copy=False), gradient)])
        dx, more = self.message_vjp(context.inputs[0], own, gradient * gradient.dtype.type(self._factor))
        return even(gradient, self.num_heads), only_query(dx, context), added(dparams, more)

    @property
    def _factor(self) -> float:
        """What the node's own features are multiplied by."""
        return 1 + (float(self._arrays["eps"][0]) if self._trains_eps else self._eps)

    def _hidden_layer(self, merged: np.ndarray, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the node's own features and those that arrived, summed, and the hidden layer before its ReLU; the same where W_1 came first."""
        own = self._own(inputs)
        factor = self._factor
        with np.errstate(over="ignore", invalid="ignore"):
            made = own * own.dtype.type(factor)
            made += self.arrived(merged, own.shape[-1])
            if self._first and "b_1" in self._arrays:
                made += self.parameter("b_1", made.dtype)
        largest = np.finfo(made.dtype).max
        np.clip(made, -largest, largest, out=made)  # infinities would become NaN in the next product
        return made, made if self._first else linear(made, self._arrays["W_1"], self._arrays.get("b_1"))

    def _own(self, inputs: Any) -> np.ndarray:
        """Return the message of the destinations; that of the sources where they are the same, in a call along edges, which has made it already."""
        context = self._remembered()
        if isinstance(context, NeighbourContext) and context.inputs is inputs and inputs[0] is inputs[2]:
            return context.message
        return self.message(inputs[0])

    # --- sums of means ------------------------------------------------------------------------------------------------------------

    def attend_heads(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any], out: np.ndarray | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Compute the sum of what each query sees: the mean times e^lse.

        Parameters
        ----------
        q, k, v : ndarray, (..., H, L, width)
            Zeros, zeros and messages.
        options : dict
            Arguments of `ruvattn.attention`.
        out : ndarray, optional
            Where to write the result.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        out, lse : ndarray
            The sums, and the lse as `ruvattn.attention` returns it.
        options : dict
            With which `ruvattn.attention` gives the means.
        """
        acc, lse, options = super().attend_heads(q, k, v, options, out, threads)
        largest = np.finfo(acc.dtype).max
        with np.errstate(over="ignore", invalid="ignore"):
            acc *= _totals(lse, options)[..., None]
        np.clip(acc, -largest, largest, out=acc)
        return acc, lse, options

    def attend_heads_vjp(self, context: Context, dout: np.ndarray, wrt: Sequence[str], threads: int | None) -> dict[str, np.ndarray]:
        """Return the gradients of zeros and messages, given that of the sums; a context has the means."""
        totals = _totals(context.lse, context.options)[..., None]
        return super().attend_heads_vjp(context, dout * totals, wrt, threads)

    def merged_heads(self, context: Context) -> np.ndarray:
        """Return the sums, as `complete` was given them."""
        if not isinstance(context, NeighbourContext):
            context = copy(context)
            context.out = context.out * _totals(context.lse, context.options)[..., None]
        return super().merged_heads(context)

    def _attend(self, inputs: Any, options: dict[str, Any], out: Any, threads: Any, names: Any, alone: bool = False) -> tuple[np.ndarray, Context]:
        made, context = super()._attend(inputs, options, out, threads, names, alone)
        if isinstance(context, RecomputedContext):  # which makes means
            return made, context
        # a context holds what `ruvattn.attention` gives with its options: the mean
        totals = _totals(context.lse, context.options)[..., None]
        context.out = np.divide(context.out, totals, out=np.zeros_like(context.out), where=totals > 0)
        return made, context

    def propagate(
        self, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], graph: Graph, attr: np.ndarray | None, weight: np.ndarray | None,
        options: dict[str, Any], return_weights: bool, threads: int | None,
    ) -> tuple[np.ndarray, Context, np.ndarray | None]:  # fmt: skip
        """Compute the sums; where edges are dropped, those of each head."""
        if not options.get("dropout"):
            return super().propagate(inputs, graph, attr, weight, options, return_weights, threads)
        message = self.message(inputs[2])
        adjacency, heads = graph.adjacency, self.num_heads
        context = DroppedContext(inputs, graph, message, message, weight, options, heads, True)
        factors = context._by_csr_edge(threads)
        split = split_heads(even(message, heads), heads)
        sums = split_heads(np.empty((adjacency.num_rows, heads * split.shape[-1]), message.dtype), heads)
        for head in range(heads):
            segment_sum(split[head], adjacency, edge_weight=factors[head], out=sums[head], threads=threads)
        context._merged = merged = merge_heads(sums)
        return merged, context, factors if return_weights else None

    def propagate_vjp(
        self, context: Any, dmerged: np.ndarray, threads: int | None
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray], None]:
        """Return the gradients of features, and of W_1 where it is applied before the sum."""
        dinputs, dparams, _ = super().propagate_vjp(context, dmerged, threads)
        return dinputs, dparams, None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take parameters from the state dict of a ``GINConv``, or from our own `parameters`.

        Parameters
        ----------
        state : mapping of str to array or tensor
            All parameters, by torch-geometric's names or by our own. There, eps is in single precision: so it is here from then on, and in `config`.

        Raises
        ------
        InvalidInputError
            If parameters are missing, unknown, or not finite, or ``eps`` is another. Nothing has changed then.
        DimensionMismatchError
            If one has another shape.
        """
        super().load_state_dict(state)
        if "eps" in state and not self._trains_eps:
            self._eps = float(np.reshape(StateDict(state, self.attention_type).take("eps"), -1)[0])
            self._config = replace(self._config, options={**self._config.options, "eps": self._eps})

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return parameters by our names, given the state dict of a ``GINConv`` whose ``nn`` is a ``Sequential`` with two linear layers.

        Normalisations beside them, as they are in inference, become part of them; ε of these counts as 1e-5.
        """
        places = sorted({int(name.split(".")[1]) for name in state.names if name.startswith("nn.") and name.split(".")[1].isdigit()})
        taken = {at: state.take(f"nn.{at}.weight") for at in places if f"nn.{at}.weight" in state}
        layers = [at for at in places if at in taken and taken[at].ndim == 2]
        if len(layers) != 2:
            raise InvalidInputError(
                f"state must have an nn with two linear layers, as nn.0.weight and nn.2.weight, for 'gin', got {', '.join(state.names) or 'nothing'}"
            )
        weights = [taken[at].T.astype(np.float64) for at in layers]
        biases = [state.take(f"nn.{at}.bias").astype(np.float64) if f"nn.{at}.bias" in state else None for at in layers]
        for at in places:
            if at not in layers:
                _fold_norm(state, at, taken.get(at), layers, weights, biases)
        found: dict[str, np.ndarray] = {}
        for name, weight, bias in zip("12", weights, biases, strict=True):
            found[f"W_{name}"] = weight
            if f"b_{name}" in self._arrays:
                found[f"b_{name}"] = np.zeros(weight.shape[1]) if bias is None else bias
            elif bias is not None:
                raise InvalidInputError(f"state gives layer {name} a bias, which this 'gin' does not have: create it with bias=True")
        eps = np.reshape(state.take("eps"), -1) if "eps" in state else np.zeros(1)
        if self._trains_eps:
            found["eps"] = eps
        elif eps.shape != (1,) or np.float32(eps[0]) != np.float32(self._eps):
            raise InvalidInputError(f"state has eps = {eps.tolist()}, and this 'gin' {self._eps}: create it with that, or with train_eps=True")
        return found


def _totals(lse: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Return e^lse: without biases and sinks that is a number of keys, exactly."""
    with np.errstate(over="ignore"):
        totals = np.exp(lse)
    return totals if "bias" in options or "sinks" in options else np.rint(totals)


def _fold_norm(
    state: StateDict, at: int, gain: np.ndarray | None, layers: list[int], weights: list[np.ndarray], biases: list[np.ndarray | None]
) -> None:
    """Make the normalisation in place ``at`` part of the linear layer right before it, or else of the one after it, in place."""
    names = {name for name in state.names if name.startswith(f"nn.{at}.")}
    if f"nn.{at}.running_mean" not in names or f"nn.{at}.running_var" not in names:
        raise InvalidInputError(f"state has {', '.join(sorted(names))}, and 'gin' knows linear layers and batch normalisations")
    mean, variance = (state.take(f"nn.{at}.{name}").astype(np.float64) for name in ("running_mean", "running_var"))
    factor = 1 / np.sqrt(variance + NORM_EPS)
    if gain is not None:
        factor = factor * gain
    shift = -mean * factor
    if f"nn.{at}.bias" in names:
        shift = shift + state.take(f"nn.{at}.bias")
    if f"nn.{at}.num_batches_tracked" in names:
        state.take(f"nn.{at}.num_batches_tracked")
    before, after = at - 1 in layers, [i for i, place in enumerate(layers) if place > at]
    index = layers.index(at - 1) if before else after[0] if after else -1
    bias = biases[index]
    if not before and (index < 0 or at < layers[0] or shift.shape[0] != weights[index].shape[0]):
        raise InvalidInputError(f"state has a normalisation at nn.{at}, and 'gin' can only take one right after a layer, or between the two")
    if before:
        weights[index] = weights[index] * factor
        biases[index] = shift if bias is None else bias * factor + shift
    else:
        moved = shift @ weights[index]
        weights[index] = factor[:, None] * weights[index]
        biases[index] = moved if bias is None else bias + moved


def _number(value: Any, name: str) -> float:
    number = as_numbers(value, name)
    if number.ndim or number.dtype.kind not in "fiu" or not np.isfinite(number):
        raise InvalidInputError(f"{name} must be a finite number, got {value!r}")
    return float(number)
