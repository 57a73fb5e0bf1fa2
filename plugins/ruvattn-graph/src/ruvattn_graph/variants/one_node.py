"""Attention of one node: to its neighbourhood, or to all that is within some hops, as a graph of one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.projection import compute_dtype
from ruvattn.validation import check_int

from ..graph import Graph
from .context import Star

__all__ = ["OneNode", "check_decay", "check_node"]


class OneNode:
    """The forms of a graph variant that ask about one node; the node's edges become a graph of one destination, and the rest is `GraphVariant`'s."""

    softmax: bool
    _loops: bool

    if TYPE_CHECKING:
        _forward: Any
        _read_features: Any
        _read_graph: Any
        edge_features: Any
        graph_of: Any

    def forward_neighborhood(
        self, node: int, x: Any, edge_index: Any, edge_attr: Any = None, *, edge_weight: Any = None, dropout: float | None = None,
        seed: int | None = None, threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Attend with one node to its neighbourhood: the node's row of `forward_graph`, but for what dropout drops.

        Parameters
        ----------
        node : int
            The node; of a bipartite graph, the destination.
        x : array, (N, embed_dim), or pair of arrays
            Features of all nodes.
        edge_index : array of int, (2, E), list of pairs, `Graph` or whatever `forward_graph` takes
            The edges.
        edge_attr : array, (E, F), optional
            Features of the edges.
        edge_weight : array, (E,), optional
            Their weights, at least 0.
        dropout : float, optional
            Share of the weights to drop; ``dropout_rate`` while `training` is set, else 0, when not given.
        seed : int, optional
            Of the dropout; it doesn't drop the edges that it drops in `forward_graph`.
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
        inputs, names = self._read_features(x)
        at = check_node(node, inputs[0].shape[0])
        given = self._read_graph(edge_index, inputs, names, edge_attr, edge_weight)
        graph = self.graph_of(given)
        row = slice(*(int(i) for i in graph.adjacency.indptr[at : at + 2]))
        compute = compute_dtype(inputs[0].dtype)
        attr, weight = self.edge_features(graph, compute), graph.csr_edge_weight(np.float64)
        attr, weight = None if attr is None else attr[row], None if weight is None else weight[row]
        return self._forward_star(inputs, names, at, graph.adjacency.indices[row], attr, weight, dropout, seed, threads, (graph, given, row))

    def forward_k_hop(
        self, node: int, x: Any, edge_index: Any, k: int, *, decay: float | None = None, dropout: float | None = None, seed: int | None = None,
        threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Attend with one node to all nodes that reach it along at most k edges, each once, as if each had an edge to it.

        Those nodes are found by following incoming edges from the node outwards; no other part of the graph is looked at. The node itself takes
        part if the variant adds self-loops, or the graph has one there. Features and weights of edges have no say, for most of the nodes found
        have no edge to the node.

        Parameters
        ----------
        node : int
            The node.
        x : array, (N, embed_dim)
            Features of all nodes.
        edge_index : array of int, (2, E), list of pairs, `Graph` or whatever `forward_graph` takes
            The edges.
        k : int
            How many hops, at least 1.
        decay : float, optional
            In (0, 1]: the share of a node at hop h is multiplied by decayʰ before shares are normalised; 1 when not given.
        dropout : float, optional
            Share of the weights to drop; ``dropout_rate`` while `training` is set, else 0, when not given.
        seed : int, optional
            Of the dropout.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (V',)
            The output of the node.

        Raises
        ------
        InvalidInputError
            If the graph is bipartite, or k or decay has a value that makes no sense; as for `forward_graph` otherwise.
        """
        inputs, names = self._read_features(x)
        at = check_node(node, inputs[0].shape[0])
        graph = self._read_graph(edge_index, inputs, names, None, None)
        if graph.is_bipartite:
            raise InvalidInputError("a bipartite graph has no hops: its edges end where none begin")
        hops_allowed = check_int(k, "k", 1)
        nodes, hops = graph.k_hop_nodes(at, hops_allowed)
        return self._forward_reached(inputs, names, at, graph, nodes, hops, check_decay(decay), dropout, seed, threads)

    def _forward_star(
        self, inputs: Any, names: tuple[str, str, str], node: int, sources: np.ndarray, attr: np.ndarray | None, weight: np.ndarray | None,
        dropout: float | None, seed: int | None, threads: int | None, edges: tuple[Graph, Graph, slice],
    ) -> np.ndarray:  # fmt: skip
        """Attend with one node to some sources, which become the keys; at least one key is needed, whether it has an edge or not."""
        q, k, v = inputs
        count = sources.size
        keys = sources if count else np.zeros(1, np.int64)
        edge_index = np.stack([np.arange(count), np.zeros(count, np.int64)])
        star = Graph(edge_index, (len(keys), 1), edge_weight=weight)
        chosen = k[keys]
        about = Star(node, keys, len(q), len(k), *edges)
        inputs = q[[node]], chosen, chosen if v is k else v[keys]
        out: np.ndarray = self._forward(inputs, names, star, star, attr, dropout, seed, False, None, threads, about)[0]
        return out

    def _forward_reached(
        self, inputs: Any, names: tuple[str, str, str], node: int, graph: Graph, nodes: np.ndarray, hops: np.ndarray, decay: float | None,
        dropout: float | None, seed: int | None, threads: int | None,
    ) -> np.ndarray:  # fmt: skip
        """Attend with one node to those found, the first of which is the node itself."""
        if not self.sees_itself(graph, node):
            nodes, hops = nodes[1:], hops[1:]
        weight = None
        if decay is not None:
            # Of shares only ratios count: the nearest nodes get 1, which no dtype rounds to 0.
            nearest = hops[0] if self.softmax and hops.size else 0
            weight = np.power(float(decay), hops - nearest)
        attr = self.hop_features(hops, compute_dtype(inputs[0].dtype))
        return self._forward_star(inputs, names, node, nodes, attr, weight, dropout, seed, threads, (graph, graph, slice(0, 0)))

    def sees_itself(self, graph: Graph, node: int) -> bool:
        """Tell whether a node takes part in its own `forward_k_hop`.

        Parameters
        ----------
        graph : Graph
            The graph of the call.
        node : int
            The node.

        Returns
        -------
        bool
            Here, whether self-loops are added, or the graph has one there.
        """
        first, stop = (int(i) for i in graph.adjacency.indptr[node : node + 2])
        return self._loops or bool((graph.adjacency.indices[first:stop] == node).any())

    def hop_features(self, hops: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
        """Return the features of edges that stand for some hops.

        Parameters
        ----------
        hops : ndarray of int, (n,)
            How many.
        dtype : dtype
            Of the computation.

        Returns
        -------
        ndarray, (n, F), or None
            None, as here: there are none.
        """
        return None


def check_node(node: Any, count: int) -> int:
    """Return the number of a node.

    Parameters
    ----------
    node : int
        As a caller gave it.
    count : int
        How many nodes there are.

    Returns
    -------
    int
        From 0 to count − 1.

    Raises
    ------
    InvalidInputError
        If it is no such number.
    """
    at = check_int(node, "node", 0)
    if at >= count:
        raise InvalidInputError(f"node must be from 0 to {count - 1}, got {at}")
    return at


def check_decay(decay: Any) -> float | None:
    """Return the decay of a hop, or None.

    Parameters
    ----------
    decay : float or None
        As a caller gave it.

    Returns
    -------
    float or None
        In (0, 1].

    Raises
    ------
    InvalidInputError
        If it is no such number.
    """
    if decay is None:
        return None
    if isinstance(decay, bool) or not isinstance(decay, (int, float, np.integer, np.floating)) or not 0 < decay <= 1:
        raise InvalidInputError(f"decay must be in (0, 1], got {decay!r}")
    return float(decay)
