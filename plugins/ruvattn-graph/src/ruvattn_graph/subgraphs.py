"""Parts of graphs, neighbourhoods of several hops, and several graphs as one.

    k_hop_nodes      node i, then hop by hop what leads to it       3 → 1 → 0      of 0, k = 2: nodes 0, 1, 2, 3, hops 0, 1, 1, 2
    k_hop            the same of every node, as a graph                 2 ↗
    induced          what is left of the edges between some nodes
    joined           several graphs side by side

All follow incoming edges, as attention does. Nodes of a part are numbered anew, edges too; a `Subgraph` says what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn import Adjacency
from ruvattn.adjacency import MAX_EDGES, check_sizes
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from ruvattn.threads import resolve_threads

from . import _structure
from .reading import read_nodes

if TYPE_CHECKING:
    from .graph import Graph

__all__ = ["Subgraph", "hop_pairs", "induced", "joined", "locality_order", "nodes_within", "permuted"]


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A part of a graph, and where it comes from.

    Parameters
    ----------
    graph : Graph
        The part: its node i is node ``nodes[i]`` of the whole graph, its edge e is edge ``edges[e]``. Attributes and weights come with the edges,
        which are listed by destination; those of one destination are in the order of the whole graph.
    nodes : ndarray of int64, (num_nodes,)
        Their ids in the whole graph: the roots first, then hop by hop, by id.
    num_roots : int
        How many of them are roots: what was asked for, and what a result is wanted of.
    edges : ndarray of int64, (num_edges,)
        The number of each edge in the given order of the whole graph's edges.
    hops : ndarray of int32, (num_nodes,)
        How many edges each node is away from the nearest root.
    """

    graph: Graph
    nodes: np.ndarray
    num_roots: int
    edges: np.ndarray
    hops: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.nodes, self.edges, self.hops):
            array.flags.writeable = False

    def __repr__(self) -> str:
        return f"Subgraph({self.graph!r}, num_roots={self.num_roots})"


def part_of(whole: Graph, indptr: np.ndarray, indices: np.ndarray, origin: np.ndarray, nodes: np.ndarray, roots: int, hops: np.ndarray) -> Subgraph:
    """Return a part of CSR arrays whose edge e was edge origin[e] of the whole adjacency; the order of its edges is that of its adjacency."""
    graph = type(whole)._make(
        Adjacency._trusted(indptr, indices, nodes.size),
        None,
        attr=None if whole._attr is None else whole._attr.take(origin, axis=0),
        weight=None if whole._weight is None else whole._weight.take(origin),
    )
    edges = origin if whole._order is None else whole._order.take(origin)
    return Subgraph(graph, nodes.astype(np.int64), roots, edges.astype(np.int64), hops.astype(np.int32))


def induced(whole: Graph, nodes: np.ndarray, roots: int, hops: np.ndarray) -> Subgraph:
    """Return the part that has some nodes, and all edges between them.

    Parameters
    ----------
    whole : Graph
        With one set of nodes.
    nodes : ndarray of int64, (M,)
        Which, each once.
    roots : int
        How many of them, the first ones, are roots.
    hops : ndarray of int32, (M,)
        How far they are.

    Returns
    -------
    Subgraph
        The part.
    """
    place = np.zeros(whole.num_sources, np.int32)
    place[nodes] = np.arange(1, nodes.size + 1, dtype=np.int32)
    return part_of(whole, *_induced_rows(whole.adjacency, nodes, place), nodes, roots, hops)


def _induced_rows(adjacency: Adjacency, nodes: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indptr and indices of the rows of some nodes, keys renamed by place, and which edge each one was."""
    indptr = np.empty(nodes.size + 1, np.int64)
    count = _structure.induced_counts(adjacency.indptr, adjacency.indices, nodes, place, indptr)
    indices, origin = np.empty(count, np.int32), np.empty(count, np.int32)
    _structure.induced_edges(adjacency.indptr, adjacency.indices, nodes, place, indices, origin)
    return indptr, indices, origin


def nodes_within(adjacency: Adjacency, roots: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Walk from some nodes along incoming edges.

    Parameters
    ----------
    adjacency : Adjacency
        Of a graph with one set of nodes.
    roots : ndarray of int64
        Where to begin, each once.
    k : int
        How many hops to go.

    Returns
    -------
    nodes : ndarray of int64, (M,)
        The roots, then hop by hop, by id.
    hops : ndarray of int32, (M,)
        How far each one is from the nearest root.
    """
    count = adjacency.num_rows
    # of both, only what is reached is touched, and takes memory
    queue = np.empty(count, np.int32)
    starts = np.array(_structure.hop_nodes(adjacency.indptr, adjacency.indices, roots, k, np.zeros(count, np.uint8), queue))
    nodes = queue[: starts[-1]].astype(np.int64)
    nodes[: roots.size] = roots
    return nodes, np.repeat(np.arange(starts.size - 1, dtype=np.int32), np.diff(starts))


def hop_pairs(adjacency: Adjacency, k: int, max_edges: int, threads: int | None) -> tuple[Adjacency, np.ndarray]:
    """Walk from every node along incoming edges.

    Parameters
    ----------
    adjacency : Adjacency
        Of a graph with one set of nodes.
    k : int
        How many hops to go.
    max_edges : int
        How many pairs there may be.
    threads : int or None
        How many threads to use at most.

    Returns
    -------
    adjacency : Adjacency
        For each node, those within k hops, without itself, by hop and id.
    hops : ndarray of int32, (E',)
        How many hops each is away.

    Raises
    ------
    InputTooLargeError
        If there are too many pairs.
    """
    count, team = adjacency.num_rows, resolve_threads(threads)
    starts = np.empty(count + 1, np.int64)
    most = min(max_edges, MAX_EDGES)
    total = _structure.k_hop(adjacency.indptr, adjacency.indices, k, starts, None, None, most, team)
    if total > most:
        raise InputTooLargeError(
            f"k is {k}, for which there are more than max_edges = {most:,} pairs of nodes ({total:,} of some of the nodes): take a smaller k, or a "
            "few nodes with k_hop_nodes or k_hop_subgraph"
        )
    indices, hops = np.empty(total, np.int32), np.empty(total, np.int32)
    _structure.k_hop(adjacency.indptr, adjacency.indices, k, starts, indices, hops, most, team)
    return Adjacency._trusted(starts, indices, count), hops


def permuted(graph: Graph, order: Any) -> Graph:
    """Return the graph whose node i was node order[i].

    Parameters
    ----------
    graph : Graph
        With one set of nodes.
    order : array of int, (num_nodes,)
        As a caller gave it.

    Returns
    -------
    Graph
        With its edges in the same given order.

    Raises
    ------
    AttentionError
        If `order` isn't one.
    """
    nodes = read_nodes(order, graph.num_nodes, "order")
    if nodes.size != graph.num_nodes:
        raise DimensionMismatchError(f"order must have each of the {graph.num_nodes} nodes once, got {nodes.size} of them")
    place = np.empty(nodes.size, np.int32)
    place[nodes] = np.arange(1, nodes.size + 1, dtype=np.int32)
    indptr = np.concatenate([[0], np.cumsum(graph.in_degrees[nodes])])  # no edge goes
    indices, origin = np.empty(graph.num_edges, np.int32), np.empty(graph.num_edges, np.int32)
    _structure.induced_edges(graph.adjacency.indptr, graph.adjacency.indices, nodes, place, indices, origin)
    return type(graph)._make(
        Adjacency._trusted(indptr, indices, nodes.size),
        origin if graph._order is None else graph._order.take(origin),
        attr=None if graph._attr is None else graph._attr.take(origin, axis=0),
        weight=None if graph._weight is None else graph._weight.take(origin),
    )


def locality_order(adjacency: Adjacency) -> np.ndarray:
    """Return the reverse Cuthill–McKee order of the nodes.

    Parameters
    ----------
    adjacency : Adjacency
        Of a graph with one set of nodes.

    Returns
    -------
    ndarray of int64, (num_nodes,)
        The node for each place.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    count = adjacency.num_rows
    if count == 0:
        return np.empty(0, np.int64)
    # scipy adds the transpose, for which indices have to be sorted; what comes twice adds up to something positive all the same
    pattern = csr_array((np.ones(adjacency.num_edges, np.float32), adjacency.indices, adjacency.indptr.astype(np.int32)), shape=(count, count))
    return reverse_cuthill_mckee(pattern, symmetric_mode=False).astype(np.int64)


def joined(graphs: Sequence[Graph]) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what a disjoint union is made of.

    Parameters
    ----------
    graphs : sequence of Graph
        At least one.

    Returns
    -------
    parts : dict
        What `Graph` is made of.
    pointers : tuple of ndarray of int64, each (G + 1,)
        Where each graph's sources, destinations and edges begin, and the end.

    Raises
    ------
    AttentionError
        If they make no batch.
    """
    if not graphs:
        raise InvalidInputError("graphs must have at least one graph, got none")
    first = graphs[0]
    for at, graph in enumerate(graphs):
        for what in ("is_bipartite", "edge_dim", "has_edge_weight"):
            mine, other = getattr(first, what), getattr(graph, what)
            if mine != other:
                raise DimensionMismatchError(f"graphs must be alike in what their edges have, got {first!r} and, as graphs[{at}], {graph!r}")
    sources, destinations, edges = (
        np.concatenate([[0], np.cumsum([getattr(graph, what) for graph in graphs], dtype=np.int64)])
        for what in ("num_sources", "num_destinations", "num_edges")
    )
    check_sizes(int(destinations[-1]), int(sources[-1]), int(edges[-1]))
    indptr = np.zeros(int(destinations[-1]) + 1, np.int64)
    indices, order = np.empty(int(edges[-1]), np.int32), np.empty(int(edges[-1]), np.int32)
    for at, graph in enumerate(graphs):
        begin, end = edges[at], edges[at + 1]
        np.add(graph.adjacency.indptr[1:], begin, out=indptr[destinations[at] + 1 : destinations[at + 1] + 1])
        np.add(graph.adjacency.indices, sources[at], out=indices[begin:end], casting="unsafe")
        if graph._order is None:
            order[begin:end] = np.arange(begin, end)
        else:
            np.add(graph._order, begin, out=order[begin:end], casting="unsafe")
    parts = {
        "adjacency": Adjacency._trusted(indptr, indices, int(sources[-1])),
        "order": order,
        "bipartite": first.is_bipartite,
        "attr": _concatenated([graph._attr for graph in graphs], "edge_attr"),
        "weight": _concatenated([graph._weight for graph in graphs], "edge_weight"),
    }
    return parts, (sources, destinations, edges)


def _concatenated(arrays: list[Any], name: str) -> np.ndarray | None:
    if arrays[0] is None:
        return None
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1:
        raise InvalidInputError(f"{name} of graphs must have one dtype, got {', '.join(sorted(map(str, dtypes)))}: convert some of them")
    return np.concatenate(arrays)
