"""Neighbourhoods of several hops, and parts of graphs: against networkx, and against the definition."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph.graph import Graph

nx = pytest.importorskip("networkx")

quick = settings(max_examples=80, deadline=None, derandomize=True)

#   5 → 3 → 1 → 0 → 4        6 alone
#        4 ─► 2 ─┘ (a circle: 0 → 4 → 2 → 0)
EDGES = np.array([[1, 2, 3, 4, 0, 5], [0, 0, 1, 2, 4, 3]])
GRAPH = Graph(EDGES, 7, edge_attr=np.arange(6.0), edge_weight=np.arange(6.0) + 1)


@st.composite
def graphs(draw, most=9):
    nodes = draw(st.integers(1, most))
    ids = st.integers(0, nodes - 1)
    return nodes, draw(st.lists(st.tuples(ids, ids), max_size=3 * most))


def distances(nodes, edges):
    """Return the number of edges on the shortest way from each node to each, (from, to); −1 where there is none."""
    drawn = nx.MultiDiGraph(edges)
    drawn.add_nodes_from(range(nodes))
    found = np.full((nodes, nodes), -1)
    for source, lengths in nx.all_pairs_shortest_path_length(drawn):
        for target, length in lengths.items():
            found[source, target] = length
    return found


# --- the nodes around one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "nodes", "hops"),
    [(0, [0], [0]), (1, [0, 1, 2], [0, 1, 1]), (2, [0, 1, 2, 3, 4], [0, 1, 1, 2, 2]), (9, [0, 1, 2, 3, 4, 5], [0, 1, 1, 2, 2, 3])],
)
def test_nodes_come_hop_by_hop_and_by_id(k, nodes, hops):
    found, far = GRAPH.k_hop_nodes(0, k)
    assert found.tolist() == nodes
    assert far.tolist() == hops
    assert (found.dtype, far.dtype) == (np.int64, np.int32)


def test_a_node_alone_has_only_itself():
    assert [part.tolist() for part in GRAPH.k_hop_nodes(6, 3)] == [[6], [0]]


def test_a_loop_and_a_circle_do_not_bring_the_node_back():
    assert Graph([(0, 0), (0, 1), (1, 0), (1, 0)]).k_hop_nodes(0, 5)[0].tolist() == [0, 1]


@given(graphs(), st.integers(0, 4))
@quick
def test_hops_are_the_distances_of_networkx(graph, k):
    nodes, edges = graph
    far = distances(nodes, edges)
    found = Graph(edges, nodes)
    for node in range(nodes):
        near = [i for i in range(nodes) if 0 <= far[i, node] <= k]
        near.sort(key=lambda i: (far[i, node], i))
        reached, hops = found.k_hop_nodes(node, k)
        assert reached.tolist() == near
        assert hops.tolist() == far[near, node].tolist()


def test_a_large_graph_is_walked_hop_by_hop():
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 3000, (2, 6000))
    lengths = nx.single_source_shortest_path_length(nx.DiGraph(edges[::-1].T.tolist()), int(edges[1, 0]), cutoff=6)
    nodes, hops = Graph(edges, 3000).k_hop_nodes(int(edges[1, 0]), 6)
    assert dict(zip(nodes.tolist(), hops.tolist(), strict=True)) == lengths
    assert np.array_equal(np.lexsort([nodes[1:], hops[1:]]), np.arange(nodes.size - 1))


@pytest.mark.parametrize(("node", "message"), [(7, "node must be an int from 0 to 6, got 7"), (-1, "got -1"), (1.0, "got 1.0"), ([0], r"got \[0\]")])
def test_a_node_that_is_none_is_refused(node, message):
    with pytest.raises(InvalidInputError, match=message):
        GRAPH.k_hop_nodes(node, 1)


def test_a_graph_without_nodes_has_none_to_ask_for():
    with pytest.raises(InvalidInputError, match="node must be one of the graph, which has none, got 0"):
        Graph([]).k_hop_nodes(0, 1)


@pytest.mark.parametrize("k", [-1, 1.5, "2", None, True])
@pytest.mark.parametrize("ask", [lambda k: GRAPH.k_hop_nodes(0, k), GRAPH.k_hop, lambda k: GRAPH.k_hop_subgraph([0], k)])
def test_a_number_of_hops_that_is_none_is_refused(k, ask):
    with pytest.raises(InvalidInputError, match="k must be an int from 0, got"):
        ask(k)


def test_more_hops_than_can_be_counted_reach_everything_there_is():
    assert GRAPH.k_hop_nodes(0, 10**30)[0].size == 6
    assert GRAPH.k_hop(10**30).hops.max() == 5  # 5 → 3 → 1 → 0 → 4 → 2


# --- all pairs --------------------------------------------------------------------------------------------------------------------


@given(graphs(), st.integers(0, 4))
@quick
def test_pairs_are_all_that_are_near_enough_each_once_by_destination_hop_and_source(graph, k):
    nodes, edges = graph
    far = distances(nodes, edges)
    pairs = [(d, far[s, d], s) for s in range(nodes) for d in range(nodes) if s != d and 0 < far[s, d] <= k]
    near = Graph(edges, nodes, edge_attr=np.ones(len(edges))).k_hop(k)
    assert list(zip(near.edge_index[1], near.hops, near.edge_index[0], strict=True)) == sorted(pairs)
    assert near.edge_attr is None
    assert near.num_nodes == nodes


def test_one_hop_is_the_set_of_edges_without_loops():
    near = Graph([(0, 1), (0, 1), (1, 1), (2, 1)]).k_hop(1)
    assert near.edge_index.tolist() == [[0, 2], [1, 1]]
    assert near.hops.tolist() == [1, 1]


def test_the_number_of_threads_changes_nothing():
    edges = np.random.default_rng(0).integers(0, 2000, (2, 12_000))
    one, two = (Graph(edges, 2000).k_hop(3, threads=threads) for threads in (1, 2))
    assert np.array_equal(one.adjacency.indptr, two.adjacency.indptr)
    assert np.array_equal(one.adjacency.indices, two.adjacency.indices)
    assert np.array_equal(one.hops, two.hops)


def test_all_pairs_of_a_large_graph_are_those_of_its_nodes():
    graph = Graph(np.random.default_rng(0).integers(0, 2000, (2, 8000)), 2000)
    near = graph.k_hop(3)
    for node in range(0, 2000, 97):
        nodes, hops = graph.k_hop_nodes(node, 3)
        row = slice(*near.adjacency.indptr[node : node + 2])
        assert near.adjacency.indices[row].tolist() == nodes[1:].tolist()
        assert near.hops[row].tolist() == hops[1:].tolist()


def test_pairs_are_made_once():
    assert GRAPH.k_hop(2) is GRAPH.k_hop(2)
    assert GRAPH.k_hop(7) is GRAPH.k_hop(100)
    assert GRAPH.hops is None


@pytest.mark.parametrize("nodes", [0, 3])
def test_a_graph_without_edges_has_no_pairs(nodes):
    near = Graph([], nodes).k_hop(3)
    assert (near.num_nodes, near.num_edges, near.hops.size) == (nodes, 0, 0)


def test_too_many_pairs_are_found_before_they_take_memory():
    ring = Graph([(i, (i + 1) % 500) for i in range(500)])
    with pytest.raises(InputTooLargeError, match=r"k is 10, for which there are more than max_edges = 4,999 pairs of nodes.*take a smaller k"):
        ring.k_hop(10, max_edges=4999)
    assert ring.k_hop(10, max_edges=5000).num_edges == 5000
    with pytest.raises(InputTooLargeError, match="k is 10, for which there are 5,000 pairs of nodes, more than max_edges = 4,999"):
        ring.k_hop(10, max_edges=4999)


@pytest.mark.parametrize("most", [-1, 1.5, None])
def test_a_limit_that_is_none_is_refused(most):
    with pytest.raises(InvalidInputError, match="max_edges must be an int from 0"):
        GRAPH.k_hop(1, max_edges=most)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_walk_answers_ctrl_c(threads):
    code = f"""
        import os, signal, threading, numpy as np
        from ruvattn_graph.graph import Graph
        signal.signal(signal.SIGINT, signal.default_int_handler)
        graph = Graph(np.random.default_rng(0).integers(0, 100_000, (2, 1_000_000)), 100_000)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            graph.k_hop(20, threads={threads})
        except KeyboardInterrupt:
            assert graph.k_hop_nodes(0, 1)[0].size > 0
            print("answered")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "answered\n", done.stderr


# --- parts ------------------------------------------------------------------------------------------------------------------------


def assert_is_part(part, graph):
    """See that a part's edges are those it says they are, with what belongs to them."""
    whole = graph.edge_index[:, part.edges]
    assert part.nodes[part.graph.edge_index].tolist() == whole.tolist()
    assert (part.nodes.dtype, part.edges.dtype, part.hops.dtype) == (np.int64, np.int64, np.int32)
    assert part.graph.num_nodes == part.nodes.size == part.hops.size
    assert len(set(part.nodes.tolist())) == part.nodes.size
    if graph.edge_attr is not None:
        assert np.array_equal(part.graph.edge_attr, graph.edge_attr[part.edges])
    if graph.edge_weight is not None:
        assert np.array_equal(part.graph.edge_weight, graph.edge_weight[part.edges])


def test_a_subgraph_has_the_edges_between_its_nodes():
    part = GRAPH.subgraph([4, 0, 2, 6])
    assert_is_part(part, GRAPH)
    assert part.nodes.tolist() == [4, 0, 2, 6]
    assert sorted(part.edges.tolist()) == [1, 3, 4]
    assert (part.num_roots, part.hops.tolist()) == (4, [0] * 4)


def test_a_mask_takes_nodes_in_their_order():
    mask = np.zeros(7, bool)
    mask[[0, 2, 4]] = True
    assert GRAPH.subgraph(mask).nodes.tolist() == [0, 2, 4]


@given(graphs(), st.randoms(use_true_random=False))
@quick
def test_a_subgraph_is_that_of_networkx(graph, random):
    nodes, edges = graph
    chosen = random.sample(range(nodes), random.randint(0, nodes))
    whole = Graph(edges, nodes, edge_weight=np.arange(len(edges)))
    part = whole.subgraph(chosen)
    assert_is_part(part, whole)
    drawn = nx.MultiDiGraph()
    drawn.add_nodes_from(range(nodes))
    drawn.add_edges_from(edges)
    assert sorted(map(tuple, part.nodes[part.graph.edge_index].T.tolist())) == sorted(drawn.subgraph(chosen).edges())


@given(graphs(), st.integers(0, 3), st.randoms(use_true_random=False))
@quick
def test_the_part_around_nodes_has_all_that_is_near_enough_to_one_of_them(graph, k, random):
    nodes, edges = graph
    roots = random.sample(range(nodes), random.randint(0, min(nodes, 3)))
    whole = Graph(edges, nodes, edge_attr=np.arange(len(edges)))
    part = whole.k_hop_subgraph(roots, k)
    assert_is_part(part, whole)
    far = distances(nodes, edges)
    nearest = {i: min((far[i, root] for root in roots if far[i, root] >= 0), default=-1) for i in range(nodes)}
    others = sorted((hop, i) for i, hop in nearest.items() if 0 < hop <= k)
    assert part.nodes.tolist() == roots + [i for _, i in others]
    assert part.hops.tolist() == [0] * len(roots) + [hop for hop, _ in others]
    assert part.num_roots == len(roots)
    inside = set(part.nodes.tolist())
    assert sorted(part.edges.tolist()) == [e for e, (s, d) in enumerate(edges) if s in inside and d in inside]


def test_a_root_may_be_given_alone():
    part = GRAPH.k_hop_subgraph(0, 1)
    assert part.nodes.tolist() == [0, 1, 2]
    assert part.num_roots == 1


def test_the_edges_of_a_node_keep_their_order_in_a_part():
    graph = Graph([(2, 0), (1, 0), (2, 0), (0, 1)])
    part = graph.subgraph([0, 1, 2])
    assert part.edges[part.graph.edge_index[1] == 0].tolist() == [0, 1, 2]


def test_a_part_never_changes():
    part = GRAPH.k_hop_subgraph([0], 2)
    for array in (part.nodes, part.edges, part.hops):
        assert not array.flags.writeable
    with pytest.raises(AttributeError):
        part.num_roots = 3


def test_a_part_says_what_it_is():
    assert repr(Graph([(0, 1)]).subgraph([1])) == "Subgraph(Graph(num_nodes=1, num_edges=0), num_roots=1)"


@pytest.mark.parametrize("take", [GRAPH.subgraph, lambda nodes: GRAPH.k_hop_subgraph(nodes, 1)])
@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        ([0, 7], InvalidInputError, "nodes must have node ids from 0 to 6, got 7 at index 1"),
        ([-1], InvalidInputError, "nodes must have node ids from 0 to 6, got -1 at index 0"),
        ([3, 0, 3], InvalidInputError, r"nodes must have each node once, got 3 twice"),
        ([0.5], InvalidInputError, "nodes must be ints, got dtype float64"),
        ([[0, 1]], DimensionMismatchError, r"nodes must have one axis, got shape \(1, 2\)"),
        ([True, False], DimensionMismatchError, r"nodes as a mask must have an entry for each of the 7 nodes, got shape \(2,\)"),
        (None, InvalidInputError, "nodes must be ints, got dtype object"),
    ],
)
def test_nodes_that_are_none_of_the_graph_are_named(take, nodes, error, message):
    with pytest.raises(error, match=message):
        take(nodes)


@pytest.mark.parametrize("take", [lambda g: g.subgraph([]), lambda g: g.k_hop_subgraph([], 2)])
def test_a_part_may_be_empty(take):
    for graph in (GRAPH, Graph([])):
        part = take(graph)
        assert (part.graph.num_nodes, part.graph.num_edges, part.num_roots) == (0, 0, 0)
