"""``graph-transformer``: dot-product attention along edges, with the features of edges in keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.headwise import split_heads
from ruvattn.projection import compute_dtype, linear, linear_vjp, saturated_sum
from ruvattn.running import narrowed
from ruvattn.validation import check_bool

from .base import GraphVariant
from .parameters import DotProductProjections, per_head, per_head_vjp
from .state import StateDict
from .steps import column_sums, only_query

__all__ = ["GraphTransformerAttention"]


class GraphTransformerAttention(DotProductProjections, GraphVariant):
    """Graph transformer (Shi et al., 2021, "Masked Label Prediction: Unified Message Passing Model for Semi-Supervised Classification", eq. 3–5).

    ``α_ij = softmax_j (W_q x_i)·(W_k x_j + W_edge e_ij) / √C`` over the incoming edges j → i of node i, and
    ``m_i = Σ_j α_ij (W_v x_j + W_edge e_ij)``, for each head; then the heads beside each other or their mean, plus W_skip x_i, or
    β W_skip x_i + (1 − β) m_i with the gate ``β = sigmoid(w_beta·[m_i, W_skip x_i, m_i − W_skip x_i])``. It equals torch-geometric's
    ``TransformerConv``, whose ``out_channels`` is `head_dim` here.

    No vector is made for an edge: (W_q x_i)·(W_edge e) is (W_edgeᵀ W_q x_i)·e, and the sum of the W_edge e is W_edge times their sum.

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H.
    beta : bool, default False
        Whether a gate decides between what arrives and the node's own features.
    root_weight : bool, default True
        Whether the node's own features are added at all.
    head_dim, key_dim, edge_dim, concat, add_self_loops, bias, seed, dtype, dropout_rate, softcap, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`; W_q, W_k, W_v and W_skip each have a bias.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("graph-transformer", embed_dim=8, num_heads=2, beta=True)
    >>> layer.forward_graph(np.eye(8, dtype=np.float32), [(0, 1), (1, 2)]).shape
    (8, 8)
    """

    attention_type = "graph-transformer"

    def __init__(self, embed_dim: int, num_heads: int = 1, *, beta: bool = False, root_weight: bool = True, **options: Any) -> None:
        self._root, self._beta = check_bool(root_weight, "root_weight"), check_bool(beta, "beta")
        super().__init__(embed_dim, num_heads, own={"beta": self._beta, "root_weight": self._root}, **options)
        self._gated = self._beta and self._root

    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W_q``, ``W_k``, ``W_v``, ``W_edge``, ``W_skip`` with their biases, and ``w_beta``."""
        self.add_projections(rng, dtype)
        if self.edge_dim is not None:
            self.add_weights("W_edge", rng, (self.edge_dim, self.width), dtype)
        if self._beta and self._root:
            self.add_weights("w_beta", rng, (3 * self.output_dim(0), 1), dtype)

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries with W_edgeᵀ q beside them, and the features of edges, which join keys and values."""
        if attr is None:
            return q, {}
        heads, rows, width = q.shape
        wide = split_heads(np.empty((rows, heads * (width + attr.shape[1])), q.dtype), heads)
        wide[..., :width] = q
        weights = per_head(self.parameter("W_edge", q.dtype), heads)
        for head in range(heads):
            wide[head, :, width:] = linear(q[head], weights[head].T)
        return wide, {"edge_attr": attr, "scale": 1 / np.sqrt(self.head_dim)}

    def along_edges_vjp(self, context: Any, found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of the queries, of W_edge and of the features of the edges."""
        wide, width = found["q"], self.head_dim
        if context.attr is None:
            return wide, {}, None
        heads, rows, _ = wide.shape
        weights = per_head(self.parameter("W_edge", wide.dtype), heads)
        dq = split_heads(np.empty((rows, heads * width), wide.dtype), heads)
        dweights = np.empty(weights.shape, wide.dtype)
        for head in range(heads):
            more, turned, _ = linear_vjp(wide[head, :, width:], context.q[head, :, :width], weights[head].T)
            np.add(wide[head, :, :width], more, out=dq[head])
            dweights[head] = turned.T
        return dq, {"W_edge": per_head_vjp(dweights)}, found["edge_attr"]

    def from_edges(self, acc: np.ndarray, attr: np.ndarray | None) -> np.ndarray:
        """Return the heads, with the mean features of their edges multiplied by W_edge."""
        return acc if attr is None else self.with_edge_features(acc)

    def from_edges_vjp(self, context: Any, dheads: np.ndarray) -> Any:
        """Return the gradients of what arrived, and of W_edge."""
        return super().from_edges_vjp(context, dheads) if context.attr is None else self.with_edge_features_vjp(context, dheads)

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return the heads beside each other or their mean, and the node's own features as the options have it."""
        dtype = inputs[0].dtype
        made = self.heads_together(merged)
        if self._root:
            own = self.own_features(inputs[0])
            if self._gated:
                weights = self.parameter("w_beta", made.dtype).reshape(3, -1)
                gate = _gate(made, own, weights)
                made = gate * own + (1 - gate) * made
            else:
                made = saturated_sum(own, made)
        return self.project_output(narrowed(made, dtype), dtype, out)

    def complete_vjp(self, context: Any, grad_output: np.ndarray) -> Any:
        """Return the gradients of the heads, of the node's own features, and of the gate."""
        upstream = grad_output.astype(compute_dtype(grad_output.dtype), copy=False)
        if not self._root:
            return self.heads_together_vjp(upstream), None, {}
        if not self._gated:
            dx, dparams = self.own_features_vjp(context.inputs[0], upstream)
            return self.heads_together_vjp(upstream), only_query(dx, context), dparams
        made, own = self.heads_together(self.merged_heads(context)), self.own_features(context.inputs[0])
        weights = self.parameter("w_beta", made.dtype).reshape(3, -1)
        gate = _gate(made, own, weights)
        dgate = (upstream * (own - made)).sum(-1, keepdims=True) * gate * (1 - gate)
        dmade = upstream * (1 - gate) + dgate * (weights[0] + weights[2])
        dx, dparams = self.own_features_vjp(context.inputs[0], upstream * gate + dgate * (weights[1] - weights[2]))
        of_made, of_own = column_sums(dgate * made), column_sums(dgate * own)
        dparams["w_beta"] = np.concatenate([of_made, of_own, of_made - of_own])[:, None]
        return self.heads_together_vjp(dmade), only_query(dx, context), dparams

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return parameters by our names, given the state dict of a ``TransformerConv``."""
        found = {}
        for ours, theirs in (("q", "lin_query"), ("k", "lin_key"), ("v", "lin_value"), ("skip", "lin_skip")):
            if f"W_{ours}" in self._arrays:
                found[f"W_{ours}"] = state.matrix(f"{theirs}.weight")
            if f"b_{ours}" in self._arrays:
                found[f"b_{ours}"] = state.take(f"{theirs}.bias")
        if self._gated:
            found["w_beta"] = state.matrix("lin_beta.weight")
        if not self._root:  # torch-geometric's layer has them all the same, and no use for them
            for name in ("lin_skip.weight", "lin_skip.bias", "lin_beta.weight"):
                state.drop(name)
        return {**found, **self.common_state(state)}


def _gate(made: np.ndarray, own: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return sigmoid(w·[m, r, m − r]), (…, 1), with two products instead of three."""
    with np.errstate(over="ignore"):
        gate: np.ndarray = 1 / (1 + np.exp(-(made @ (weights[0] + weights[2]) + own @ (weights[1] - weights[2]))))[..., None]
    return gate
