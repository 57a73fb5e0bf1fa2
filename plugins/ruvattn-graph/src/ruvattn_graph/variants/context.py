"""What a call along edges leaves behind, and the weights of its edges in the order that the caller knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ruvattn import Context, edge_attention
from ruvattn.context import RecomputedContext
from ruvattn.errors import InputTooLargeError

from ..graph import Graph

__all__ = ["EdgeWeights", "GraphContext", "RecomputedGraphContext", "Star", "weights_by_edge"]

MOST_WEIGHTS = 1 << 28
"""More numbers than this are no dense matrix of weights that anybody looks at."""


class EdgeWeights(NamedTuple):
    """The weight of each edge, as a variant computed it.

    Attributes
    ----------
    edges : ndarray, (num_heads, E)
        In the order of the edges that the call was given; 0 for a self-loop that was replaced.
    loops : ndarray, (num_heads, N), or None
        Of the self-loops that were added, 0 where none was; None if none were.
    """

    edges: np.ndarray
    loops: np.ndarray | None


class Star(NamedTuple):
    """What a call about one node was about, of which its context has no more than the node and what it saw.

    Attributes
    ----------
    node : int
        The node.
    keys : ndarray of int, (n,)
        The sources that it saw, one for each edge.
    destinations, sources : int
        How many nodes there are.
    graph, given : Graph
        The graph that its edges are of, self-loops included, and the one before.
    row : slice
        Its edges, in the order of that graph's adjacency.
    """

    node: int
    keys: np.ndarray
    destinations: int
    sources: int
    graph: Graph
    given: Graph
    row: slice


class GraphContext(Context):
    """What a call along the edges of a graph leaves behind.

    Attributes
    ----------
    q, k, v : ndarray, (H, Nq, D), (H, Nk, D) and (H, Nk, Dv)
        What `ruvattn.edge_attention` was given, with ``graph.adjacency``.
    out, lse : ndarray, (H, Nq, Dv) and (H, Nq)
        What it returned.
    options : dict
        Its keyword arguments.
    inputs : tuple of ndarray
        Features of destinations and sources, and what the sources hand on.
    graph : Graph
        The graph that was attended along, self-loops included.
    given : Graph
        The graph of the call.
    attr : ndarray, (E, F), or None
        Features of the edges that had a part, in the order of the adjacency and in the dtype of the computation.
    star : Star or None
        Of a call about one node.
    """

    graph: Graph
    given: Graph
    attr: np.ndarray | None = None
    star: Star | None = None

    def edge_weights(self, threads: int | None = None) -> EdgeWeights:
        """Compute the weights of the call, after dropout.

        Parameters
        ----------
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        EdgeWeights
            By edge.
        """
        return weights_by_edge(self._by_csr_edge(threads), self.graph, self.given)

    def weights(self, threads: int | None = None) -> np.ndarray:
        """Compute the weights of the call, after dropout, as a dense matrix; edges between the same two nodes add up.

        Parameters
        ----------
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (num_heads, Nq, Nk)
            0 where there is no edge.

        Raises
        ------
        InputTooLargeError
            If that would be more than 2²⁸ numbers: `edge_weights` has one for each edge.
        """
        adjacency = self.graph.adjacency
        rows, keys = adjacency.num_rows, adjacency.num_keys
        heads = self.q.shape[0]
        if heads * rows * keys > MOST_WEIGHTS:
            raise InputTooLargeError(
                f"a dense matrix of weights would have {heads} × {rows:,} × {keys:,} numbers: get_edge_weights has one for each edge"
            )
        by_edge = self._by_csr_edge(threads)
        dense = np.zeros((heads, rows, keys), by_edge.dtype)
        at = adjacency.edge_rows(), adjacency.indices
        for head in range(heads):
            np.add.at(dense[head], at, by_edge[head])
        return dense

    def _by_csr_edge(self, threads: int | None) -> np.ndarray:
        options = {name: value for name, value in self.options.items() if name != "aggregate"}
        weights: np.ndarray = edge_attention(self.q, self.k, self.v, self.graph.adjacency, threads=threads, return_weights=True, **options)[-1]
        return weights


OF_CALL = ("inputs", "graph", "given", "attr", "star", "variant", "shape", "single", "output_dropout")


class RecomputedGraphContext(RecomputedContext, GraphContext):
    """What a call along edges leaves behind that was made without a gradient cache: what it was given, and how to make the rest.

    Parameters
    ----------
    context : GraphContext
        Of the call; its arrays are let go, all but the inputs.
    remake : callable
        Returns a context that has them.
    """

    def __init__(self, context: GraphContext, remake: Callable[[], Context]) -> None:
        for name in OF_CALL:
            setattr(self, name, getattr(context, name))
        self._again = remake

    def whole(self) -> Context:
        """Return a context that holds all of its arrays, made now."""
        made = self._again()
        for name in OF_CALL:
            setattr(made, name, getattr(self, name))
        return made

    def __getattr__(self, name: str) -> Any:
        if name == "options":
            return self.whole().options
        return super().__getattr__(name)

    def _by_csr_edge(self, threads: int | None) -> np.ndarray:
        made = self.whole()
        assert isinstance(made, GraphContext)
        return made._by_csr_edge(threads)


def weights_by_edge(weights: np.ndarray, graph: Graph, given: Graph) -> EdgeWeights:
    """Return weights in the order of the edges that were given.

    Parameters
    ----------
    weights : ndarray, (H, E')
        In the order of the adjacency of `graph`.
    graph, given : Graph
        The graph with self-loops, or the same, and the one before.

    Returns
    -------
    EdgeWeights
        By edge.
    """
    looped = graph._looped
    if graph is given or looped is None:
        return EdgeWeights(graph.to_given_order(weights, axis=-1), None)
    # Edges that were kept come first, in their order, and the new loops after them: two slices of one order.
    kept, added = np.split(graph._places(), [looped.kept])
    edges = weights.take(kept, axis=-1)
    if looped.dropped is not None:
        parents = looped.parent_edges()[: looped.kept]
        few, edges = edges, np.zeros((len(weights), given.num_edges), weights.dtype)
        edges[:, parents] = few
    loops = np.zeros((len(weights), given.num_destinations), weights.dtype)
    loops[:, np.searchsorted(graph.adjacency.indptr, added, side="right") - 1] = weights.take(added, axis=-1)
    return EdgeWeights(edges, loops)
