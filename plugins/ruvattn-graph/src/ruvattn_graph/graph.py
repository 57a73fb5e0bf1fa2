"""The graph that attention runs on: edges checked once, sorted by destination once, and kept for any number of calls.

    edge_index, pairs, scipy.sparse, networkx, Data ──Graph.of──► Graph ──► adjacency, csr_edge_attr, csr_edge_weight   what kernels take (edges.py)
           (reading.py)                                            ├──► with_self_loops, without_self_loops            self_loops.py
                                                                   ├──► subgraph, k_hop…, permuted, batch              subgraphs.py
                                                                   └──► reversed

What a graph makes of itself and is asked for again, it keeps: the adjacency's transpose, attributes in another dtype, a few graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ruvattn import Adjacency
from ruvattn.adjacency import MAX_EDGES, MAX_ROWS
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from ruvattn.threads import resolve_threads
from ruvattn.validation import as_numbers, check_int

from .edges import OrderedEdges, frozen
from .reading import Edges, read_attr, read_edge_index, read_graph, read_nodes, read_sizes, read_weight
from .self_loops import LoopedEdges, read_fill, read_how, with_loops, without
from .subgraphs import Subgraph, hop_pairs, induced, joined, locality_order, nodes_within, permuted

__all__ = ["Graph"]

REMEMBERED = 8
"""Graphs made from a graph, with self-loops or of its neighbourhoods, that it keeps; the oldest one goes."""


class Graph(OrderedEdges):
    """A directed graph, or a bipartite one, as attention takes it.

    Attention goes along edges to their destination: node i attends to the sources of its incoming edges. Several edges between the same two nodes
    stay several, and a node without edges is one all the same. A graph never changes; it copies what it is given.

    Parameters
    ----------
    edge_index : array of int, (2, E), or list of pairs
        Row 0 has the source of each edge, row 1 its destination, as ids from 0. A list has (source, destination) pairs; a tuple of two arrays,
        the sources and the destinations. A tuple of two lists could be either, and is refused. E is less than 2³¹.
    num_nodes : int or (int, int), optional
        How many nodes there are, at most 2³⁰. A pair, (sources, destinations), makes the graph bipartite: its edges lead from one set of nodes to
        another. One more than the largest id by default.
    edge_attr : array, (E, F) or (E,)
        Attributes of edges, in the order of `edge_index`: finite. Integers and booleans become float64.
    edge_weight : array, (E,)
        Weights of edges, in the same order: finite. Integers and booleans become float64.
    threads : int, optional
        How many threads may sort the edges; `ruvattn.get_num_threads` by default.

    Raises
    ------
    DimensionMismatchError
        If an array has another shape, or attributes are of another number of edges.
    InvalidInputError
        If an id is negative or no node, ids are no ints, or attributes or weights aren't finite.
    InputTooLargeError
        If there are more nodes or edges than 32 bits can number.
    UnsupportedError
        If attributes or weights have a dtype that attention doesn't take.

    Examples
    --------
    >>> from ruvattn_graph import Graph
    >>> graph = Graph([(2, 0), (0, 1), (1, 0)])
    >>> graph
    Graph(num_nodes=3, num_edges=3)
    >>> graph.adjacency.indptr, graph.adjacency.indices, graph.order
    (array([0, 2, 3, 3]), array([2, 1, 0], dtype=int32), array([0, 2, 1], dtype=int32))
    """

    _looped: LoopedEdges | None = None  # where the edges come from, if self-loops were changed
    _hops: np.ndarray | None = None
    # where the graphs of a batch begin: sources, destinations, edges; no edges where these don't stand graph by graph
    _pointers: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None

    def __init__(
        self,
        edge_index: Any,
        num_nodes: Any = None,
        *,
        edge_attr: Any = None,
        edge_weight: Any = None,
        threads: int | None = None,
    ) -> None:
        team = resolve_threads(threads)
        self._build(read_edge_index(edge_index, num_nodes, edge_attr, edge_weight), team)

    @classmethod
    def of(cls, graph: Any, num_nodes: Any = None, *, edge_attr: Any = None, edge_weight: Any = None, threads: int | None = None) -> Graph:
        """Return a graph of whatever a user may have.

        Parameters
        ----------
        graph : Graph, edge_index, list of pairs, scipy.sparse array, networkx graph, or torch_geometric Data
            * A Graph is returned as it is, or with other attributes and weights.
            * An array (2, E), a list of pairs or a pair of arrays is read as the constructor does.
            * Entry (i, j) of a scipy.sparse array is an edge i → j. Every stored entry is one, a stored zero too, duplicates of COO stay several;
              what is stored is the weight, except for booleans. A matrix that isn't square makes a bipartite graph, of its rows and columns.
            * An Adjacency has destinations as rows and sources as keys: of CSR arrays, ``ruvattn.Adjacency(indptr, indices, num_sources)``.
            * A networkx graph has its nodes numbered in the order of ``graph.nodes``. An undirected edge becomes two: all in the order of
              ``graph.edges``, then all but self-loops backwards. If an edge has a "weight", those that have none weigh 1, as in networkx.
            * Anything that has an ``edge_index``, and maybe ``edge_attr``, ``edge_weight`` and ``num_nodes``, as ``torch_geometric.data.Data``;
              the ``ptr`` of a ``Batch`` is its `graph_ptr`.
        num_nodes : int or (int, int), optional
            As for the constructor. If the graph knows its number of nodes, it has to be this one.
        edge_attr, edge_weight : array, optional
            As for the constructor; they take the place of what the graph brings.
        threads : int, optional
            As for the constructor.

        Returns
        -------
        Graph
            `graph` itself if it is one and gets nothing new.

        Raises
        ------
        AttentionError
            As for the constructor.

        Examples
        --------
        >>> from scipy.sparse import coo_array
        >>> Graph.of(coo_array(([0.5, 2.0], ([0, 1], [1, 2])), shape=(3, 3)))
        Graph(num_nodes=3, num_edges=2, weighted)
        """
        team = resolve_threads(threads)
        if not isinstance(graph, Graph):
            self = cls.__new__(cls)
            self._build(read_graph(graph, num_nodes, edge_attr, edge_weight), team)
            return self
        sizes, _ = read_sizes(num_nodes)
        if sizes is not None and sizes != (graph.num_sources, graph.num_destinations):
            raise DimensionMismatchError(f"num_nodes is {num_nodes!r}, and graph is {graph!r}: leave num_nodes out, or make graph with as many")
        if edge_attr is None and edge_weight is None:
            return graph
        attr, weight = read_attr(edge_attr, graph.num_edges), read_weight(edge_weight, graph.num_edges)
        self = cls._make(
            graph._adjacency,
            graph._order,
            bipartite=graph._bipartite,
            attr=graph._attr if attr is None else graph._sorted(attr),
            weight=graph._weight if weight is None else graph._sorted(weight),
        )
        self._looped, self._hops, self._pointers = graph._looped, graph._hops, graph._pointers  # they are the same edges
        return self

    def _build(self, read: Edges, threads: int) -> None:
        """Sort the edges that were read."""
        adjacency, order = Adjacency._sorted(read.sources, read.destinations, read.sizes[1], read.sizes[0], threads)
        self._set(adjacency, order, read.bipartite)
        self._attr = None if read.edge_attr is None else self._sorted(read.edge_attr)
        self._weight = None if read.edge_weight is None else self._sorted(read.edge_weight)
        if read.graph_ptr is not None:
            self._pointers = (frozen(read.graph_ptr), read.graph_ptr, None)

    # --- self-loops ---------------------------------------------------------------------------------------------------------------

    def with_self_loops(self, how: str = "replace", fill_value: str | float = "mean") -> Graph:
        """Return the graph with a self-loop at every node.

        Parameters
        ----------
        how : {"replace", "add", "missing"}, default "replace"
            What happens to self-loops that are there: they are taken away first, they stay beside the new ones, or nodes that have one get none.
        fill_value : {"mean", "add", "min", "max", "mul"} or float, default "mean"
            The attributes of a new loop: made of those of the edges that lead to its node, of which it is 0 where there are none (the product is 1);
            or a number.

        Returns
        -------
        Graph
            The edges that stay come first, in their order, then the new loops in the order of nodes, of weight 1; `parent_edges` tells which is
            which. A bipartite graph gets loops i → i for nodes that both sets have. Made once for the same arguments.

        Raises
        ------
        InvalidInputError
            If `how` or `fill_value` is something else.

        Examples
        --------
        >>> graph = Graph([(0, 1), (1, 1)])
        >>> graph.with_self_loops().edge_index
        array([[0, 0, 1],
               [1, 0, 1]])
        >>> graph.with_self_loops().parent_edges
        array([ 0, -1, -1], dtype=int32)
        """
        kind, fill = read_how(how), read_fill(fill_value)
        if self._attr is None:
            fill = 0.0
        return self._keep_graph(("loops", kind, fill), lambda: self._of_looped(with_loops(self, kind, fill)))

    def without_self_loops(self) -> Graph:
        """Return the graph without edges from a node to itself.

        Returns
        -------
        Graph
            The other edges, in their order; `parent_edges` tells which they are. Made once.
        """
        return self._keep_graph(("no loops",), lambda: self._of_looped(without(self)))

    def _of_looped(self, looped: LoopedEdges) -> Graph:
        graph = Graph._make(looped.adjacency, looped.order, bipartite=self._bipartite, attr=looped.attr, weight=looped.weight)
        graph._looped, graph._pointers = looped, self._pointers_of_nodes()
        return graph

    def _pointers_of_nodes(self) -> tuple[np.ndarray, np.ndarray, None] | None:
        """Return where the graphs of a batch begin, for a graph of the same nodes and other edges."""
        return None if self._pointers is None else (*self._pointers[:2], None)

    @property
    def parent_edges(self) -> np.ndarray | None:
        """Which edge each one was before self-loops were changed, (E,) int32, −1 for a loop that was added; None for a graph made otherwise."""
        return None if self._looped is None else self._looped.parent_edges()

    # --- other graphs -------------------------------------------------------------------------------------------------------------

    def reversed(self) -> Graph:
        """Return the graph with every edge turned around.

        Returns
        -------
        Graph
            With the same edges in the same given order; a bipartite graph's two sets change places. Made once.
        """
        return self._keep_graph(("reversed",), self._turned)

    def _turned(self) -> Graph:
        turn = self._adjacency.transpose_order
        graph = Graph._make(
            self._adjacency.transpose,
            turn if self._order is None else self._order.take(turn),
            bipartite=self._bipartite,
            attr=None if self._attr is None else self._attr.take(turn, axis=0),
            weight=None if self._weight is None else self._weight.take(turn),
        )
        if self._pointers is not None:
            sources, destinations, edges = self._pointers
            graph._pointers = (destinations, sources, edges)
        return graph

    def subgraph(self, nodes: Any) -> Subgraph:
        """Return the part that has some nodes, and all edges between them.

        Parameters
        ----------
        nodes : array of int, or array of bool (num_nodes,)
            Which, each once: ``nodes[i]`` becomes node i.

        Returns
        -------
        Subgraph
            All of its nodes are roots.

        Raises
        ------
        InvalidInputError
            If a node is none of the graph or comes twice, or the graph is bipartite.
        """
        self._check_one_set("subgraph")
        chosen = read_nodes(nodes, self.num_nodes)
        return induced(self, chosen, chosen.size, np.zeros(chosen.size, np.int32))

    def k_hop_nodes(self, node: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nodes from which at most k edges lead to a node.

        The search goes from node to node along incoming edges; its time and memory follow the part of the graph that it reaches.

        Parameters
        ----------
        node : int
            Where the edges lead.
        k : int
            How many edges, at least 0.

        Returns
        -------
        nodes : ndarray of int64, (M,)
            The node itself, then hop by hop, by id.
        hops : ndarray of int32, (M,)
            The least number of edges from each.

        Raises
        ------
        InvalidInputError
            If there is no such node, k is no such number, or the graph is bipartite.

        Examples
        --------
        >>> nodes, hops = Graph([(3, 1), (1, 0), (2, 0)]).k_hop_nodes(0, 2)
        >>> nodes, hops
        (array([0, 1, 2, 3]), array([0, 1, 1, 2], dtype=int32))
        """
        self._check_one_set("k_hop_nodes")
        most = self.num_nodes - 1
        if most < 0:
            raise InvalidInputError(f"node must be one of the graph, which has none, got {node!r}")
        root = np.array([check_int(node, "node", 0, most)], np.int64)
        return nodes_within(self._adjacency, root, _read_hops(k))

    def k_hop_subgraph(self, nodes: Any, k: int) -> Subgraph:
        """Return the part around some nodes: what leads to them in at most k edges, and all edges between these nodes.

        Parameters
        ----------
        nodes : int, array of int, or array of bool (num_nodes,)
            The roots, each once.
        k : int
            How many edges, at least 0.

        Returns
        -------
        Subgraph
            The roots first, then hop by hop, by id.

        Raises
        ------
        InvalidInputError
            If a node is none of the graph or comes twice, k is no such number, or the graph is bipartite.
        """
        self._check_one_set("k_hop_subgraph")
        roots = read_nodes(nodes, self.num_nodes)
        reached, hops = nodes_within(self._adjacency, roots, _read_hops(k))
        return induced(self, reached, roots.size, hops)

    def k_hop(self, k: int, *, max_edges: int = MAX_EDGES, threads: int | None = None) -> Graph:
        """Return the graph whose edges are all pairs of different nodes at most k edges apart.

        Parameters
        ----------
        k : int
            How many edges, at least 0, may lead from the source to the destination.
        max_edges : int, default 2³¹ − 1
            More pairs than this are an error, which is found before they take memory.
        threads : int, optional
            How many threads to use at most; each takes five bytes a node.

        Returns
        -------
        Graph
            Without attributes and weights; `hops` tells how far apart the ends of each edge are. Edges are in the order of the adjacency: by
            destination, by hop, by source. Made once.

        Raises
        ------
        InvalidInputError
            If k is no such number, or the graph is bipartite.
        InputTooLargeError
            If there are too many pairs.

        Examples
        --------
        >>> graph = Graph([(2, 1), (1, 0)]).k_hop(2)
        >>> graph.edge_index, graph.hops
        (array([[1, 2, 2],
               [0, 0, 1]]), array([1, 2, 1], dtype=int32))
        """
        self._check_one_set("k_hop")
        reach, most = _read_hops(k), check_int(max_edges, "max_edges", 0)
        resolve_threads(threads)
        reach = min(reach, max(self.num_nodes, 1))  # no path is longer

        def make() -> Graph:
            adjacency, hops = hop_pairs(self._adjacency, reach, most, threads)
            graph = Graph._make(adjacency, None)
            graph._hops, graph._pointers = frozen(hops), self._pointers_of_nodes()
            return graph

        found = self._keep_graph(("hops", reach), make)
        if found.num_edges > most:
            raise InputTooLargeError(f"k is {k}, for which there are {found.num_edges:,} pairs of nodes, more than max_edges = {most:,}")
        return found

    @property
    def hops(self) -> np.ndarray | None:
        """How many edges of the graph that it was made of lead from source to destination, (E,) int32; None unless `k_hop` made it."""
        return self._hops

    def locality_order(self) -> np.ndarray:
        """Return an order of nodes in which neighbours are near each other.

        The reverse Cuthill–McKee order (Cuthill and McKee, 1969) of the graph with its edges both ways, by ``scipy.sparse.csgraph``. Where the ids
        of a graph say nothing of its structure, ``graph.permuted(order)`` with ``x[order]`` finds the features of neighbours in the cache more often.

        Returns
        -------
        ndarray of int64, (num_nodes,)
            The node for each place.

        Raises
        ------
        InvalidInputError
            If the graph is bipartite.
        """
        self._check_one_set("locality_order")
        return locality_order(self._adjacency)

    def permuted(self, order: Any) -> Graph:
        """Return the graph with its nodes in another order.

        Parameters
        ----------
        order : array of int, (num_nodes,)
            Node ``order[i]`` becomes node i, as row ``order[i]`` of the features becomes row i of ``x[order]``.

        Returns
        -------
        Graph
            With the same edges in the same given order.

        Raises
        ------
        InvalidInputError
            If a node is none of the graph or comes twice, or the graph is bipartite.
        DimensionMismatchError
            If a node is missing.
        """
        self._check_one_set("permuted")
        return permuted(self, order)

    def _keep_graph(self, key: tuple[Any, ...], make: Callable[[], Graph]) -> Graph:
        """Return the graph that was made before, or make it; of those made, the last few are kept. Two threads may both make it: one and the same."""
        kept: dict[Any, Graph] = self._keep("graphs", dict)
        found = kept.get(key)
        if found is None:
            found = kept.setdefault(key, make())
            for oldest in list(kept)[:-REMEMBERED]:
                kept.pop(oldest, None)
        return found

    # --- batches ------------------------------------------------------------------------------------------------------------------

    @classmethod
    def batch(cls, graphs: Sequence[Any]) -> Graph:
        """Return several graphs side by side as one: attention on it is attention on each.

        Parameters
        ----------
        graphs : sequence of Graph
            At least one, or other things that `Graph.of` takes; all bipartite or none, with attributes of one width and dtype or none, all with
            weights or none.

        Returns
        -------
        Graph
            The nodes and edges of the first graph, then those of the second, and so on; `graph_ptr` tells where each begins, and `unbatch` parts
            results again. With other self-loops, reversed, or of `k_hop`, it stays a batch.

        Raises
        ------
        InvalidInputError
            If there is no graph, or dtypes differ.
        DimensionMismatchError
            If graphs differ in what their edges have.
        InputTooLargeError
            If there are too many nodes or edges.

        Examples
        --------
        >>> batch = Graph.batch([Graph([(0, 1)]), Graph([(0, 2)])])
        >>> batch, batch.graph_ptr
        (Graph(num_nodes=5, num_edges=2), array([0, 2, 5]))
        """
        if isinstance(graphs, Graph) or not isinstance(graphs, Sequence):
            raise InvalidInputError(f"graphs must be a list of graphs, got {type(graphs).__name__}")
        parts, pointers = joined([cls.of(graph) for graph in graphs])
        self = cls._make(**parts)
        sources, destinations, edges = map(frozen, pointers)
        self._pointers = (sources, destinations, edges)
        return self

    @property
    def graph_ptr(self) -> np.ndarray | None:
        """Where the nodes of each graph of a batch begin, and the end, (G + 1,) int64; of a bipartite one, the destinations. None otherwise."""
        return None if self._pointers is None else self._pointers[1]

    def unbatch(self, array: Any, axis: int = 0, *, of: str = "nodes") -> list[np.ndarray]:
        """Part what was computed for a batch into what belongs to each graph.

        Parameters
        ----------
        array : array
            With an entry for each node, or edge in the given order, along `axis`.
        axis : int, default 0
            That axis.
        of : {"nodes", "sources", "destinations", "edges"}, default "nodes"
            What it has entries for. Nodes of a bipartite graph are its destinations, which results are of.

        Returns
        -------
        list of ndarray
            Views, one for each graph.

        Raises
        ------
        InvalidInputError
            If the graph isn't a batch, `of` is something else, or edges don't stand graph by graph: where `with_self_loops`, `without_self_loops`
            or `k_hop` made them, or a Batch of torch-geometric brought them.
        DimensionMismatchError
            If the axis has another length.
        """
        if self._pointers is None:
            raise InvalidInputError("unbatch is of graphs that Graph.batch made, and this graph wasn't")
        places = {"sources": 0, "nodes": 1, "destinations": 1, "edges": 2}
        if not isinstance(of, str) or of not in places:
            raise InvalidInputError(f"of must be one of {', '.join(map(repr, places))}, got {of!r}")
        pointers, whole = self._pointers[places[of]], as_numbers(array, "array")
        if pointers is None:
            raise InvalidInputError("of must be about nodes for a batch whose edges aren't those that Graph.batch put together, got 'edges'")
        if not -whole.ndim <= axis < whole.ndim or whole.shape[axis] != pointers[-1]:
            raise DimensionMismatchError(f"array must have {pointers[-1]} entries along axis {axis}, one for each of the {of}, got {whole.shape}")
        return np.split(whole, pointers[1:-1], axis=axis)


def _read_hops(k: Any) -> int:
    """Return a number of hops; no path is longer than the nodes that can be numbered."""
    return min(check_int(k, "k", 0), MAX_ROWS)
