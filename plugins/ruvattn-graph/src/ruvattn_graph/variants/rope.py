"""``graph-rope``: dot-product attention to all nodes within some hops, queries and keys turned by the number of hops between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InputTooLargeError
from ruvattn.projection import compute_dtype, saturated_sum
from ruvattn.running import narrowed
from ruvattn.validation import check_bool, check_int, check_positive

from ..graph import Graph
from ..scores import MOST_HOPS, HopRotaryScore
from ..subgraphs import hop_pairs
from .base import GraphVariant
from .parameters import DotProductProjections
from .steps import only_query

__all__ = ["GraphRoPEAttention"]

MOST_PAIRS = 1 << 28
"""More pairs in reach than this are no neighbourhoods any more: they would take gigabytes, and as much time."""


class GraphRoPEAttention(DotProductProjections, GraphVariant):
    """Attention with rotary position embeddings (Su et al., 2021, "RoFormer", eq. 14–16), where a position is a distance in the graph.

    ``α_ij = softmax_j (W_q x_i)·R(h_ij)(W_k x_j) / √C`` over all nodes j that reach node i along at most `max_hops` edges, h_ij the least number of
    edges that it takes, and ``out_i = Σ_j α_ij W_v x_j`` for each head; then the heads beside each other or their mean, plus W_skip x_i. R(h) turns
    columns p and p + ⌊C/2⌋ of a head by the angle h·base^(−2p/C).

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H.
    max_hops : int, default 2
        How far `forward_graph` and `forward_neighborhood` look, at least 1. The nodes in reach are found once for each `Graph`.
    base : float, default 10000
        Above 0.
    root_weight : bool, default True
        Whether W_skip x_i is added to the output.
    add_self_loops : bool, default True
        Whether a node attends to itself too, at 0 hops.
    head_dim, key_dim, concat, bias, seed, dtype, dropout_rate, softcap, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`; W_q, W_k, W_v and W_skip each have a bias.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Notes
    -----
    Weights and features of edges are not looked at, since most pairs in reach have no edge; the weights that `forward_graph` returns are those of
    the pairs, in the order of ``graph_of(graph).edge_index``. What is farther than 4096 hops counts as so far. In a bipartite graph, and in a call
    without a graph, ``variant(q, k, v)`` or `forward_with_edges`, a query and the keys it sees are one hop apart, and weights count.

    A pair in reach takes 12 bytes, which stay with the `Graph`, 8 without self-loops; 8 more once there were features of float64; and 22 while pairs
    are found. More than 2²⁸ pairs are an error. `forward_neighborhood` finds those of its node alone.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("graph-rope", embed_dim=8, num_heads=2, max_hops=3)
    >>> layer.forward_graph(np.eye(8, dtype=np.float32), [(0, 1), (1, 2)]).shape
    (8, 8)
    """

    attention_type = "graph-rope"
    leaves_out = ("edge_dim",)
    follows_edges = False

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, max_hops: int = 2, base: float = 10000.0, root_weight: bool = True, add_self_loops: bool = True,
        **options: Any,
    ) -> None:  # fmt: skip
        self._hops, self._base = check_int(max_hops, "max_hops", 1), check_positive(base, "base")
        self._root = check_bool(root_weight, "root_weight")
        own = {"max_hops": self._hops, "base": self._base, "root_weight": self._root}
        super().__init__(embed_dim, num_heads, add_self_loops=add_self_loops, own=own, **options)

    @property
    def neighborhood_hops(self) -> int:
        """How many edges a neighbourhood extends over: `max_hops`."""
        return self._hops

    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W_q``, ``W_k``, ``W_v`` and ``W_skip`` with their biases."""
        self.add_projections(rng, dtype)

    def make_score(self) -> HopRotaryScore:
        """Return the score of one hop."""
        return HopRotaryScore(self._base, max_hops=1)

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries, and the hops of each edge, which are its features, as a term of the score."""
        if attr is None:
            return super().along_edges(q, attr)
        farthest = min(int(attr.max(initial=1)), MOST_HOPS)
        return q, {"score": HopRotaryScore(self._base, max_hops=farthest, edge_terms=1), "edge_terms": attr}

    def wrt_of_edges(self, options: dict[str, Any]) -> tuple[str, ...]:
        """Return nothing: hops have no gradient."""
        return ()

    def along_edges_vjp(self, context: Any, found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray], None]:
        """Return the gradient of the queries."""
        return found["q"], {}, None

    def graph_of(self, given: Graph) -> Graph:
        """Return the pairs in reach, whose features are their hops; of a bipartite graph, its edges."""
        if given.is_bipartite:
            return given

        def reached() -> Graph:
            reach = min(self._hops, max(given.num_nodes, 1))  # no path is longer
            try:
                adjacency, hops = hop_pairs(given.adjacency, reach, MOST_PAIRS, None)
            except InputTooLargeError:
                raise InputTooLargeError(
                    f"max_hops is {self._hops}, for which there are more than {MOST_PAIRS:,} pairs of nodes in reach: create the variant with a "
                    "smaller max_hops, or use forward_neighborhood for a few nodes"
                ) from None
            bare = Graph._make(adjacency, None)
            if self._loops:
                bare = bare.with_self_loops("add")
            # In single precision, whatever the features are in: pairs are many, and numbers of hops few.
            attr = np.zeros(bare.num_edges, np.float32)
            far = np.ones(bare.num_edges, bool)
            if self._loops:
                far[bare.adjacency.indptr[1:] - 1] = False  # each row ends with its loop
            attr[far] = hops
            found = Graph._make(bare.adjacency, bare._order, attr=attr[:, None])
            found._looped = bare._looped
            return found

        return given._keep_graph(("rope", self._hops, self._loops), reached)

    def edge_features(self, graph: Graph, dtype: np.dtype[Any]) -> np.ndarray | None:
        """Return the hops of each edge, (E, 1); None where all are one hop long."""
        return None if graph.is_bipartite else graph.csr_edge_attr(dtype)

    def hop_features(self, hops: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """Return the hops, (n, 1)."""
        return hops[:, None].astype(dtype)

    def sees_itself(self, graph: Graph, node: int) -> bool:
        """Tell whether a node attends to itself, which it does by option alone."""
        return self._loops

    def forward_neighborhood(
        self, node: int, x: Any, edge_index: Any, edge_attr: Any = None, *, edge_weight: Any = None, dropout: float | None = None,
        seed: int | None = None, threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Attend with one node to all nodes within `max_hops`: the node's row of `forward_graph`, but for what dropout drops.

        Parameters
        ----------
        node : int
            The node; of a bipartite graph, the destination.
        x : array, (N, embed_dim), or pair of arrays
            Features of all nodes.
        edge_index : array of int, (2, E), list of pairs, `Graph` or whatever `forward_graph` takes
            The edges.
        edge_attr, edge_weight : None
            There is no use for them, but for the weights of a bipartite graph.
        dropout : float, optional
            Share of the weights to drop; ``dropout_rate`` while `training` is set, else 0, when not given.
        seed : int, optional
            Of the dropout; it doesn't drop the pairs that it drops in `forward_graph`.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (V',)
            The output of the node.

        Raises
        ------
        AttentionError
            As for `forward_graph`.
        """
        graph = self._read_graph(edge_index, *self._read_features(x), edge_attr, edge_weight)
        if graph.is_bipartite:
            return super().forward_neighborhood(node, x, graph, dropout=dropout, seed=seed, threads=threads)
        return self.forward_k_hop(node, x, graph, self._hops, dropout=dropout, seed=seed, threads=threads)

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return the heads beside each other or their mean, plus W_skip x_i."""
        made = self.heads_together(merged)
        if self._root:
            made = saturated_sum(self.own_features(inputs[0]), made)
        return self.project_output(narrowed(made, inputs[0].dtype), inputs[0].dtype, out)

    def complete_vjp(self, context: Any, grad_output: np.ndarray) -> Any:
        """Return the gradients of the heads and of the node's own features."""
        upstream = grad_output.astype(compute_dtype(grad_output.dtype), copy=False)
        if not self._root:
            return self.heads_together_vjp(upstream), None, {}
        dx, dparams = self.own_features_vjp(context.inputs[0], upstream)
        return self.heads_together_vjp(upstream), only_query(dx, context), dparams
