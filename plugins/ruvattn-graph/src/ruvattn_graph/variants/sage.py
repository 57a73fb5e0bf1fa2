"""``sage``: GraphSAGE, the node's own features beside a mean, a maximum or an attention of its neighbours'."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.projection import compute_dtype, linear, linear_vjp, saturated_sum
from ruvattn.running import narrowed
from ruvattn.validation import check_bool

from ..scores import AdditiveScore
from .base import GraphVariant
from .neighbours import NeighbourVariant, even
from .state import StateDict
from .steps import column_sums, only_query

__all__ = ["SAGEAttention"]

COMBINES = {"mean": "mean", "max": "max", "pool": "max", "attention": ""}
"""What becomes of the messages, by the name of the aggregation; nothing of its own: a softmax."""


class SAGEAttention(NeighbourVariant):
    """GraphSAGE (Hamilton et al., 2017, "Inductive Representation Learning on Large Graphs", algorithm 1 and section 3.3).

    ``out_i = W_l·a_i + b + W_r·x_i`` with the aggregation a_i of the x_j over the incoming edges j → i of node i; then, if that is wanted, divided by
    its length. It equals torch-geometric's ``SAGEConv``, whose ``out_channels`` is num_heads · `head_dim` here and whose ``project`` is "pool".

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H; of "attention" each weighs the neighbours in its own way, for its part of their columns.
    aggregation : {"mean", "max", "pool", "attention"}, default "mean"
        What becomes of the neighbours: their mean; the largest of each column; the largest of ReLU(W_pool x_j + b_pool); or their mean weighted by
        softmax_j LeakyReLU(a_src·x_j + a_dst·x_i), as in graph attention (Veličković et al., 2018).
    normalize : bool, default False
        Whether outputs are divided by their length.
    root_weight : bool, default True
        Whether W_r·x_i is added.
    negative_slope : float, default 0.2
        Of the LeakyReLU of "attention", at least 0.
    head_dim : int, optional
        The output is num_heads · head_dim wide; as wide as the features when not given.
    key_dim, add_self_loops : optional
        As for `ruvattn_graph.GraphVariant`.
    bias : bool, default True
        Whether b is added; b_pool is there anyway.
    seed, dtype, dropout_rate, softcap, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Notes
    -----
    Weights of edges multiply shares of the mean and of "attention"; to "max" and "pool" an edge is there unless its weight is 0. A node without
    edges has the aggregation 0. Without a graph, in ``variant(q, k, v)``, the query is x_i and values are aggregated; only "attention" looks at keys.

    Where the output is narrower than the features, W_l is applied before the mean, which is the same.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("sage", embed_dim=3, head_dim=4, aggregation="pool", normalize=True)
    >>> layer.forward_graph(np.eye(3, dtype=np.float32), [(0, 1), (1, 2)]).shape
    (3, 4)
    """

    attention_type = "sage"

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, aggregation: str = "mean", normalize: bool = False, root_weight: bool = True,
        negative_slope: float = 0.2, **options: Any,
    ) -> None:  # fmt: skip
        if not isinstance(aggregation, str) or aggregation not in COMBINES:
            raise InvalidInputError(f"aggregation must be one of {', '.join(map(repr, COMBINES))}, got {aggregation!r}")
        self._aggregation, self.combines = aggregation, COMBINES[aggregation]
        self._normalizes, self._root = check_bool(normalize, "normalize"), check_bool(root_weight, "root_weight")
        self._slope = AdditiveScore(negative_slope=negative_slope).params["negative_slope"]
        own = {"aggregation": aggregation, "normalize": self._normalizes, "root_weight": self._root, "negative_slope": self._slope}
        super().__init__(embed_dim, num_heads, own=own, **options)

    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W_l``, ``W_r`` and ``b``; for "pool" ``W_pool`` and ``b_pool``, for "attention" the vectors ``a_src`` and ``a_dst``."""
        self._first = self._aggregation == "mean" and self.width < self.key_dim
        self.add_weights("W_l", rng, (self.key_dim, self.width), dtype)
        if self._root:
            self.add_weights("W_r", rng, (self.embed_dim, self.width), dtype)
        if self._aggregation == "pool":
            self.add_weights("W_pool", rng, (self.key_dim, self.key_dim), dtype)
            self.add_bias("b_pool", self.key_dim, dtype)
        if self._aggregation == "attention":
            self.add_weights("a_src", rng, (self.num_heads, self.key_dim), dtype)
            self.add_weights("a_dst", rng, (self.num_heads, self.embed_dim), dtype)
        if self.config.options["bias"]:
            self.add_bias("b", self.width, dtype)

    def message(self, x: np.ndarray) -> np.ndarray:
        """Return the features, what W_l makes of them where that is narrower, or ReLU(W_pool x + b_pool).

        Parameters
        ----------
        x : ndarray, (..., L, key_dim)
            Features.

        Returns
        -------
        ndarray, (..., L, M)
            In the compute dtype.
        """
        if self._first:
            return linear(x, self._arrays["W_l"])
        if self._aggregation == "pool":
            made = linear(x, self._arrays["W_pool"], self._arrays["b_pool"])
            return np.maximum(made, 0, out=made)
        return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)

    @property
    def message_width(self) -> int:
        """M, the width of a message."""
        return self.width if self._first else self.key_dim

    def message_vjp(self, x: np.ndarray, message: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the features, and of ``W_l``, or of ``W_pool`` and ``b_pool``."""
        if self._first:
            dx, dweight, _ = linear_vjp(gradient, x, self._arrays["W_l"])
            return dx, {"W_l": dweight}
        if self._aggregation != "pool":
            return gradient, {}
        dx, dweight, dbias = linear_vjp(np.where(message > 0, gradient, 0), x, self._arrays["W_pool"], bias=True)
        assert dbias is not None
        return dx, {"W_pool": dweight, "b_pool": dbias}

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the logits are made of, a number for each head, and the messages.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k : ndarray, (..., L, H)
            a_dst·q and a_src·k, or zeros.
        v : ndarray, (..., L, M')
            Messages, in a width that the heads divide.
        """
        made = super().project_inputs(q, k, v)
        if self._aggregation != "attention":
            return made
        return linear(q, self._arrays["a_dst"].T), linear(k, self._arrays["a_src"].T), made[2]

    def project_inputs_vjp(
        self, context: Any, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Return the gradients of the inputs, of the vectors, and of what messages are made with."""
        dinputs, dparams = super().project_inputs_vjp(context, dq, dk, dv)
        if self._aggregation != "attention":
            return dinputs, dparams
        dquery, of_query, _ = linear_vjp(dq, context.inputs[0], self._arrays["a_dst"].T)
        dkeys, of_keys, _ = linear_vjp(dk, context.inputs[1], self._arrays["a_src"].T)
        return (dquery, dkeys, dinputs[2]), {**dparams, "a_dst": of_query.T, "a_src": of_keys.T}

    def make_score(self) -> AdditiveScore | None:
        """Return the score of two numbers that are made already; None where logits are 0."""
        return AdditiveScore(negative_slope=self._slope) if self._aggregation == "attention" else None

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return W_l times the aggregation, plus the bias and W_r times the node's own features, maybe divided by its length."""
        dtype = inputs[0].dtype
        made = self._summed(merged, inputs)
        if self._normalizes:
            _divide_by_length(made)
        return self.project_output(narrowed(made, dtype), dtype, out)

    def _summed(self, merged: np.ndarray, inputs: Any) -> np.ndarray:
        """Return the output before it is divided by its length."""
        bias = self._arrays.get("b")
        if not self._first:
            made = linear(self.arrived(merged, self.key_dim), self._arrays["W_l"], bias)
            if self._root:
                made = saturated_sum(made, linear(inputs[0], self._arrays["W_r"]))
        elif self._root:
            made = linear(inputs[0], self._arrays["W_r"], bias)
            made = saturated_sum(made, self.arrived(merged, self.width))
        else:
            made = self.arrived(merged, self.width)
            made = made.copy() if bias is None else saturated_sum(made, bias.astype(made.dtype, copy=False))
        return made

    def complete_vjp(self, context: Any, grad_output: np.ndarray) -> Any:
        """Return the gradients of the aggregation, of the node's own features, and of ``W_l``, ``W_r`` and the bias."""
        upstream = grad_output.astype(compute_dtype(grad_output.dtype), copy=False)
        merged, x, biased = self.merged_heads(context), context.inputs[0], "b" in self._arrays
        if self._normalizes:
            upstream = _divide_by_length_vjp(self._summed(merged, context.inputs), upstream)
        dparams: dict[str, np.ndarray] = {"b": column_sums(upstream)} if biased else {}
        darrived = upstream
        if not self._first:
            darrived, dparams["W_l"], _ = linear_vjp(upstream, self.arrived(merged, self.key_dim), self._arrays["W_l"])
        direct = None
        if self._root:
            dx, dparams["W_r"], _ = linear_vjp(upstream, x, self._arrays["W_r"])
            direct = only_query(dx, context)
        return even(darrived, self.num_heads), direct, dparams

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return parameters by our names, given the state dict of a ``SAGEConv``."""
        if self._aggregation == "attention":
            return GraphVariant.translate_state(self, state)
        found = {"W_l": state.matrix("lin_l.weight")}
        if "b" in self._arrays:
            found["b"] = state.take("lin_l.bias")
        if self._root:
            found["W_r"] = state.matrix("lin_r.weight")
        if self._aggregation == "pool":
            found["W_pool"], found["b_pool"] = state.matrix("lin.weight"), state.take("lin.bias")
        return found


def _divide_by_length(x: np.ndarray) -> None:
    """Divide rows by their length, in place; zeros stay. The largest is taken out first: its square may be beyond the dtype, or vanish."""
    largest = np.abs(x).max(-1, keepdims=True, initial=0)
    np.divide(x, largest, out=x, where=largest > 0)
    length = np.sqrt(np.vecdot(x, x))[..., None]
    np.divide(x, length, out=x, where=length > 0)


def _divide_by_length_vjp(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of rows, given that of what they are divided by their length: of a row of zeros, which stays one, 0."""
    largest = np.abs(x).max(-1, keepdims=True, initial=0)
    unit = np.divide(x, largest, out=np.zeros_like(x), where=largest > 0)
    length = np.sqrt(np.vecdot(unit, unit))[..., None]
    np.divide(unit, length, out=unit, where=length > 0)
    found = gradient - unit * np.vecdot(unit, gradient)[..., None]
    np.divide(found, length, out=found, where=length > 0)
    return np.divide(found, largest, out=np.zeros_like(found), where=largest > 0)
