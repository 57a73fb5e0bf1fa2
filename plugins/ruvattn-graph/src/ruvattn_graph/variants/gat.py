"""``gat``: graph attention networks, and ``edge-featured``: the same with the features of edges in the message too."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.projection import linear, linear_vjp
from ruvattn.validation import check_bool

from ..scores import AdditiveScore
from .base import GraphVariant
from .parameters import per_head, per_head_vjp
from .state import StateDict, heads_of
from .steps import added

__all__ = ["EdgeFeaturedAttention", "GATAttention"]


class GATAttention(GraphVariant):
    """Graph attention (Veličković et al., 2018, "Graph Attention Networks", eq. 3–6).

    ``α_ij = softmax_j LeakyReLU(a_src·W x_j + a_dst·W x_i + a_edge·W_edge e_ij)`` over the incoming edges j → i of node i, and
    ``out_i = Σ_j α_ij W x_j``, for each head; then the heads beside each other or their mean, plus a bias. It equals torch-geometric's ``GATConv``,
    whose ``out_channels`` is `head_dim` here.

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H.
    negative_slope : float, default 0.2
        Of the LeakyReLU, at least 0.
    residual : bool, default False
        Whether W_res x_i is added to the output.
    add_self_loops : bool, default True
        Whether every node attends to itself in `forward_graph`, instead of along the self-loops that the graph has.
    head_dim, key_dim, edge_dim, concat, bias, seed, dtype, dropout_rate, softcap, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Notes
    -----
    Without a graph, in ``variant(q, k, v)``, the query is x_i, the key x_j, and the value takes the place of x_j in the sum.

    In a bipartite graph a self-loop joins source i and destination i, as in torch-geometric; leave it out with ``add_self_loops=False`` where
    these have nothing to do with each other.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("gat", embed_dim=3, num_heads=2, head_dim=4)
    >>> layer.forward_graph(np.eye(3, dtype=np.float32), [(0, 1), (1, 2)]).shape
    (3, 8)
    """

    attention_type = "gat"

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, negative_slope: float = 0.2, residual: bool = False, add_self_loops: bool = True, **options: Any
    ) -> None:
        self._slope = AdditiveScore(negative_slope=negative_slope).params["negative_slope"]
        self._residual = check_bool(residual, "residual")
        own = {"negative_slope": self._slope, "residual": self._residual}
        super().__init__(embed_dim, num_heads, add_self_loops=add_self_loops, own=own, **options)

    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W``, or ``W_src`` and ``W_dst``, the vectors ``a_src``, ``a_dst`` and ``a_edge``, ``W_edge``, ``W_res`` and ``b``."""
        heads = self.num_heads, self.head_dim
        if self._bipartite:
            self.add_weights("W_src", rng, (self.key_dim, self.width), dtype)
            self.add_weights("W_dst", rng, (self.embed_dim, self.width), dtype)
        else:
            self.add_weights("W", rng, (self.embed_dim, self.width), dtype)
        self.add_weights("a_src", rng, heads, dtype)
        self.add_weights("a_dst", rng, heads, dtype)
        if self.edge_dim is not None:
            self.add_weights("W_edge", rng, (self.edge_dim, self.width), dtype)
            self.add_weights("a_edge", rng, heads, dtype)
        if self._residual:
            self.add_weights("W_res", rng, (self.embed_dim, self.output_dim(0)), dtype)
        if self.config.options["bias"]:
            self.add_bias("b", self.output_dim(0), dtype)

    def _weights_of(self, side: str) -> str:
        return f"W_{side}" if self._bipartite else "W"

    def _folded(self, weights: str, *vectors: str) -> np.ndarray:
        """Return a·W of each head for some vectors a, (E, vectors · H): a·(W x) is (a·W)·x, a thin product. In float64, for it is small."""
        stacked = np.stack([self._arrays[name] for name in vectors], axis=-1).astype(np.float64)
        folded = np.matmul(per_head(self._arrays[weights], self.num_heads).astype(np.float64), stacked)
        return folded.transpose(1, 2, 0).reshape(folded.shape[1], -1)

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a_dst·W q and a_src·W k, a number for each head, and W v.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k : ndarray, (..., L, H)
            All that the score looks at.
        v : ndarray, (..., L, H·C)
            Values.
        """
        values = linear(v, self._arrays[self._weights_of("src")])
        if q is k and not self._bipartite:
            both = linear(q, self._folded("W", "a_dst", "a_src"))
            return both[..., : self.num_heads], both[..., self.num_heads :], values
        return (
            linear(q, self._folded(self._weights_of("dst"), "a_dst")), linear(k, self._folded(self._weights_of("src"), "a_src")), values,
        )  # fmt: skip

    def project_inputs_vjp(
        self, context: Any, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Return the gradients of the inputs, of W and of the vectors."""
        query, keys, values = context.inputs
        dquery, of_query = self._scored_vjp(query, self._weights_of("dst"), "a_dst", dq)
        dkeys, of_keys = self._scored_vjp(keys, self._weights_of("src"), "a_src", dk)
        dvalues, dweight, _ = linear_vjp(dv, values, self._arrays[self._weights_of("src")])
        return (dquery, dkeys, dvalues), added(added(of_query, of_keys), {self._weights_of("src"): dweight})

    def _scored_vjp(self, x: np.ndarray, weights: str, vector: str, gradient: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of rows, of weights and of the vector of each head, given that of a·W x, (…, H)."""
        dx, dfolded, _ = linear_vjp(gradient, x, self._folded(weights, vector))
        by_head, a = dfolded.T.astype(np.float64)[..., None], self._arrays[vector].astype(np.float64)  # small, as what was folded
        da = (by_head * per_head(self._arrays[weights], self.num_heads)).sum(1)
        return dx, {weights: per_head_vjp(by_head * a[:, None]).astype(dx.dtype), vector: da.astype(dx.dtype)}

    def make_score(self) -> AdditiveScore:
        """Return the score of two numbers that are made already."""
        return AdditiveScore(negative_slope=self._slope)

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries, and a_edge·W_edge e of each edge as a term of the score."""
        if attr is None:
            return q, {"score": self.make_score()}
        terms = linear(attr, self._folded("W_edge", "a_edge"))
        return q, {"score": AdditiveScore(negative_slope=self._slope, edge_terms=1), "edge_terms": terms.T[..., None]}

    def along_edges_vjp(self, context: Any, found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of the queries, of W_edge and a_edge, and of the features of the edges."""
        if "edge_terms" not in found:
            return found["q"], {}, None
        dattr, dparams = self._scored_vjp(context.attr, "W_edge", "a_edge", found["edge_terms"][..., 0].T)
        return found["q"], dparams, dattr

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return the heads beside each other or their mean, plus W_res x_i and the bias."""
        return self.with_residual(merged, inputs, out) if self._residual else super().complete(merged, inputs, out)

    def complete_vjp(self, context: Any, grad_output: np.ndarray) -> Any:
        """Return the gradients of the heads, of W_res, x_i and the bias."""
        return self.with_residual_vjp(context, grad_output) if self._residual else super().complete_vjp(context, grad_output)

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return parameters by our names, given the state dict of a ``GATConv``."""
        heads = self.num_heads, self.head_dim
        found = {}
        if self._bipartite:
            found["W_src"], found["W_dst"] = state.matrix("lin_src.weight"), state.matrix("lin_dst.weight")
        else:
            found["W"] = state.matrix("lin.weight", "lin_src.weight")
        for name in ("src", "dst", "edge"):
            if f"a_{name}" in self._arrays:
                found[f"a_{name}"] = heads_of(state.take(f"att_{name}"), heads)
        return {**found, **self.common_state(state)}


class EdgeFeaturedAttention(GATAttention):
    """Graph attention in which an edge is part of the message: the features of edges enter the score and the sum.

    ``α_ij = softmax_j LeakyReLU(a_src·W x_j + a_dst·W x_i + a_edge·W_edge e_ij)`` and ``out_i = Σ_j α_ij (W x_j + W_edge e_ij)``: the score is that
    of `GATAttention` (Veličković et al., 2018), the message that of graph transformers (Shi et al., 2021, "Masked Label Prediction", eq. 3–4).
    No message is ever made for an edge: the features are averaged first, and multiplied by W_edge after.

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H.
    edge_dim : int, default 1
        Width F of the features of an edge. Edges without features count as if these were 0.
    add_self_loops : bool, default False
        Whether every node attends to itself in `forward_graph`, along an edge whose features are the mean of those that come in.
    negative_slope : float, default 0.2
        Of the LeakyReLU, at least 0.
    residual : bool, default False
        Whether W_res x_i is added to the output.
    head_dim, key_dim, concat, bias, seed, dtype, dropout_rate, softcap, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("edge-featured", embed_dim=4, num_heads=2, edge_dim=3)
    >>> x, edges = np.eye(4, dtype=np.float32), [(0, 1), (1, 2), (2, 3)]
    >>> layer.forward_graph(x, edges, np.ones((3, 3), dtype=np.float32)).shape
    (4, 4)
    """

    attention_type = "edge-featured"

    def __init__(self, embed_dim: int, num_heads: int = 1, *, edge_dim: int = 1, add_self_loops: bool = False, **options: Any) -> None:
        if edge_dim is None:
            raise InvalidInputError("edge_dim must be the width of the features of an edge, got None: variant 'gat' does without")
        super().__init__(embed_dim, num_heads, edge_dim=edge_dim, add_self_loops=add_self_loops, **options)

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries, and the features of edges, which give the score a term and join the values."""
        q, options = super().along_edges(q, attr)
        return q, options if attr is None else {**options, "edge_attr": attr, "edge_attr_to": "value"}

    def along_edges_vjp(self, context: Any, found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of the queries, of W_edge and a_edge, and of the features of the edges, which are in scores and values."""
        dq, dparams, dattr = super().along_edges_vjp(context, found)
        return dq, dparams, dattr if dattr is None else dattr + found["edge_attr"]

    def from_edges(self, acc: np.ndarray, attr: np.ndarray | None) -> np.ndarray:
        """Return the heads, with the mean features of their edges multiplied by W_edge."""
        return acc if attr is None else self.with_edge_features(acc)

    def from_edges_vjp(self, context: Any, dheads: np.ndarray) -> Any:
        """Return the gradients of what arrived, and of W_edge."""
        return super().from_edges_vjp(context, dheads) if context.attr is None else self.with_edge_features_vjp(context, dheads)

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Refuse: torch-geometric has no such layer."""
        return GraphVariant.translate_state(self, state)
