"""The Graph: what it holds, in which order, and what it makes of itself. How other libraries' graphs are read: test_graph_reading.py."""

from __future__ import annotations

import copy
import doctest
import gc
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph.graph import REMEMBERED, Graph

quick = settings(max_examples=60, deadline=None, derandomize=True)

EDGES = np.array([[2, 0, 1, 1, 4, 2], [0, 1, 0, 1, 1, 0]])  # the pair 2 → 0 twice, a loop at 1, node 3 alone
ATTR = np.arange(12, dtype=np.float32).reshape(6, 2)
WEIGHT = np.array([0.5, -1.0, 2.0, 0.0, 3.0, 1.0])


@st.composite
def edge_lists(draw, most_nodes=8, most_edges=30):
    nodes = draw(st.integers(1, most_nodes))
    ids = st.integers(0, nodes - 1)
    edges = draw(st.lists(st.tuples(ids, ids), max_size=most_edges))
    return nodes, edges


# --- what it holds ----------------------------------------------------------------------------------------------------------------


def test_it_counts_nodes_and_edges():
    graph = Graph(EDGES, 6)
    assert (graph.num_nodes, graph.num_sources, graph.num_destinations, graph.num_edges) == (6, 6, 6, 6)
    assert not graph.is_bipartite


def test_there_is_one_node_more_than_the_largest_id_unless_said_otherwise():
    assert Graph(EDGES).num_nodes == 5
    assert Graph([(0, 7)]).num_nodes == 8
    assert Graph([(7, 0)]).num_nodes == 8


def test_rows_of_the_adjacency_are_destinations_and_its_keys_sources():
    graph = Graph(EDGES)
    assert graph.adjacency.indptr.tolist() == [0, 3, 6, 6, 6, 6]
    assert graph.adjacency.indices.tolist() == [2, 1, 2, 0, 1, 4]
    assert graph.order.tolist() == [0, 2, 5, 1, 3, 4]


def test_edges_come_back_in_the_order_given_with_duplicates_and_loops():
    assert Graph(EDGES).edge_index.tolist() == EDGES.tolist()
    assert Graph(EDGES).edge_index.dtype == np.int64


@given(edge_lists())
@quick
def test_any_edges_come_back_as_they_were_given(graph):
    nodes, edges = graph
    found = Graph(edges, nodes)
    assert found.edge_index.T.tolist() == [list(edge) for edge in edges]
    assert found.in_degrees.tolist() == [sum(d == i for _, d in edges) for i in range(nodes)]
    assert found.out_degrees.tolist() == [sum(s == i for s, _ in edges) for i in range(nodes)]


def test_attributes_and_weights_come_back_in_the_order_given():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(graph.edge_weight, WEIGHT)
    assert graph.edge_attr.dtype == np.float32
    assert graph.edge_dim == 2


def test_a_graph_without_attributes_and_weights_has_none():
    graph = Graph(EDGES)
    assert graph.edge_attr is graph.edge_weight is graph.csr_edge_attr() is graph.csr_edge_weight(np.float32) is None
    assert (graph.edge_dim, graph.has_edge_weight, graph.has_negative_weight) == (0, False, False)


def test_one_number_an_edge_is_one_column_of_attributes():
    assert Graph(EDGES, edge_attr=WEIGHT).edge_attr.shape == (6, 1)


def test_integers_and_booleans_become_floats():
    graph = Graph(EDGES, edge_attr=ATTR.astype(int), edge_weight=WEIGHT > 0)
    assert graph.edge_attr.dtype == graph.edge_weight.dtype == np.float64
    assert graph.edge_weight.tolist() == [1, 0, 1, 0, 1, 1]


def test_attributes_for_kernels_are_in_the_order_of_the_adjacency():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)
    assert np.array_equal(graph.csr_edge_attr(), ATTR[graph.order])
    assert np.array_equal(graph.csr_edge_weight(np.float32), WEIGHT[graph.order].astype(np.float32))


def test_another_dtype_is_made_once():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)
    assert graph.csr_edge_attr(np.float64) is graph.csr_edge_attr("float64")
    assert graph.csr_edge_attr(np.float64).dtype == np.float64
    assert graph.csr_edge_weight(np.float32) is graph.csr_edge_weight(np.float32)


def test_half_precision_attributes_are_kept_as_they_are():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        graph = Graph(EDGES, edge_attr=ATTR.astype(dtype))
        assert graph.edge_attr.dtype == dtype
        assert np.array_equal(graph.csr_edge_attr(np.float32), ATTR[graph.order])


def test_a_number_that_is_too_large_for_the_dtype_asked_for_is_named():
    graph = Graph(EDGES, edge_weight=WEIGHT * 1e300)
    with pytest.raises(InvalidInputError, match="edge_weight has numbers that aren't finite in float32"):
        graph.csr_edge_weight(np.float32)


def test_it_knows_whether_a_weight_is_negative():
    assert Graph(EDGES, edge_weight=WEIGHT).has_negative_weight
    assert not Graph(EDGES, edge_weight=np.abs(WEIGHT)).has_negative_weight
    assert not Graph([], 2, edge_weight=[]).has_negative_weight


def test_a_bipartite_graph_has_two_sets_of_nodes():
    graph = Graph([(4, 0), (0, 1)], (5, 2))
    assert graph.is_bipartite
    assert (graph.num_sources, graph.num_destinations) == (5, 2)
    assert (graph.adjacency.num_keys, graph.adjacency.num_rows) == (5, 2)
    with pytest.raises(InvalidInputError, match=r"num_nodes is of graphs with one set of nodes.*num_nodes=\(5, 2\)"):
        graph.num_nodes  # noqa: B018


def test_two_sets_of_one_size_are_still_two_sets():
    assert Graph([(0, 1)], (2, 2)).is_bipartite


@pytest.mark.parametrize("nodes", [0, 3])
@pytest.mark.parametrize("edges", [[], np.empty((2, 0), np.int64)], ids=["list", "array"])
def test_a_graph_may_have_no_edges_and_no_nodes(edges, nodes):
    graph = Graph(edges, nodes, edge_attr=np.empty((0, 3)), edge_weight=np.empty(0))
    assert (graph.num_nodes, graph.num_edges, graph.edge_dim) == (nodes, 0, 3)
    assert graph.edge_index.shape == (2, 0)
    assert graph.in_degrees.tolist() == graph.out_degrees.tolist() == [0] * nodes
    assert Graph(edges).num_nodes == 0


def test_its_repr_says_what_it_is():
    assert repr(Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)) == "Graph(num_nodes=5, num_edges=6, edge_dim=2, weighted)"
    assert repr(Graph([(0, 1)], (3, 2))) == "Graph(num_nodes=(3, 2), num_edges=1)"


# --- the two orders ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_order_leads_to_the_other_and_back(axis):
    graph = Graph(EDGES)
    given_order = np.random.default_rng(0).random((6, 6))
    by_row = graph.to_csr_order(given_order, axis=axis)
    assert np.array_equal(by_row, given_order.take(graph.order, axis=axis))
    assert np.array_equal(graph.to_given_order(by_row, axis=axis), given_order)


@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((6, 2), 1), ((), 0), ((6,), 1), ((6,), -2)])
def test_what_has_no_entry_for_each_edge_is_refused(shape, axis):
    graph = Graph(EDGES)
    for bring in (graph.to_csr_order, graph.to_given_order):
        with pytest.raises(DimensionMismatchError, match="a must have 6 entries, one for each edge"):
            bring(np.zeros(shape), axis=axis)


def test_attention_on_the_adjacency_is_attention_on_the_edges():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4))
    graph = Graph(EDGES)
    out, weights = ruvattn.edge_attention(x, x, x, graph.adjacency, return_weights=True)
    weights = graph.to_given_order(weights, axis=-1)
    for i in range(5):
        own = np.flatnonzero(EDGES[1] == i)
        logits = np.exp(x[EDGES[0, own]] @ x[i] / 2)
        np.testing.assert_allclose(weights[own], logits / logits.sum(), rtol=1e-12)
        np.testing.assert_allclose(out[i], weights[own] @ x[EDGES[0, own]], rtol=0, atol=1e-12)


# --- it never changes -------------------------------------------------------------------------------------------------------------


def test_what_it_was_given_may_be_written_to_afterwards():
    edges, attr, weight = np.sort(EDGES, axis=1), ATTR.copy(), WEIGHT.copy()  # sorted already, so that nothing needs to be moved
    graph = Graph(edges, edge_attr=attr, edge_weight=weight)
    expected = edges.tolist()
    for array in (edges, attr, weight):
        array[:] = 0
    assert graph.edge_index.tolist() == expected
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(graph.edge_weight, WEIGHT)


def test_what_it_hands_out_can_be_written_to_only_where_it_is_a_copy():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)
    for array in (graph.order, graph.csr_edge_attr(), graph.csr_edge_weight(), graph.adjacency.indices, graph.adjacency.indptr):
        assert not array.flags.writeable
    graph.edge_index[:] = 0
    graph.edge_attr[:] = 0
    graph.edge_weight[:] = 0
    assert graph.edge_index.tolist() == EDGES.tolist()
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(graph.edge_weight, WEIGHT)


def test_it_survives_pickling():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT).with_self_loops()
    graph.reversed()
    again = pickle.loads(pickle.dumps(graph))
    for name in ("edge_index", "edge_attr", "edge_weight", "order", "parent_edges"):
        assert np.array_equal(getattr(again, name), getattr(graph, name))
    assert not again.csr_edge_attr().flags.writeable
    assert again.with_self_loops("missing").num_edges == graph.num_edges


def test_what_it_remembers_is_not_pickled():
    graph = Graph(EDGES)
    size = len(pickle.dumps(graph))
    graph.with_self_loops(), graph.reversed(), graph.k_hop(2), graph.csr_edge_attr(np.float64)
    assert graph.order.size == 6
    assert len(pickle.dumps(graph)) == size


def test_a_copy_is_itself():
    graph = Graph(EDGES)
    assert copy.copy(graph) is graph
    assert copy.deepcopy([graph])[0] is graph


def test_it_keeps_only_some_of_the_graphs_it_made():
    graph = Graph(EDGES, edge_attr=ATTR)
    made = [graph.with_self_loops("add", float(i)) for i in range(3 * REMEMBERED)]
    assert graph.with_self_loops("add", float(len(made) - 1)) is made[-1]
    assert graph.with_self_loops("add", 0.0) is not made[0]


def test_threads_may_ask_for_the_same_at_once():
    graph = Graph(EDGES, edge_attr=ATTR)
    found = []

    def ask():
        found.append([graph.with_self_loops(), graph.reversed(), graph.csr_edge_attr(np.float64), graph.order])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each is first for others in found for each, first in zip(others, found[0], strict=True))


def test_a_graph_that_is_not_used_any_more_is_freed():
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        graph = Graph(np.random.default_rng(0).integers(0, 1000, (2, 100_000)))
        graph.reversed(), graph.with_self_loops()
        held = tracemalloc.get_traced_memory()[0] - before
        del graph
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < held / 20
    finally:
        tracemalloc.stop()


# --- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "nodes", "message"),
    [
        ([[0, 1], [1, -2]], None, r"node ids from 0, got -2 at edge 1 \(row 1, the destinations\)"),
        ([[0, 1], [1, -2]], 5, r"node ids from 0 to 4, got -2 at edge 1 \(row 1, the destinations\)"),
        ([[0, 5], [1, 2]], 5, r"node ids from 0 to 4, got 5 at edge 1 \(row 0, the sources\): there are as many"),
        ([[0, 3], [1, 2]], (3, 5), r"node ids from 0 to 2, got 3 at edge 1 \(row 0, the sources\)"),
        ([[0, 3], [1, 5]], (4, 5), r"node ids from 0 to 4, got 5 at edge 1 \(row 1, the destinations\)"),
        ([[0], [0]], 0, "node ids from 0 to -1, of which there are none, got 0"),
        ([[0.0, 1.0], [1.0, 0.0]], None, r"edge_index must be ints, got dtype float64: convert with .astype\(np.int64\)"),
        ([[True, False], [False, True]], None, "edge_index must have node ids, got booleans"),
        ([[0, "a"], [1, "b"]], None, "edge_index must have node ids from 0, got '0' among others"),
    ],
)
def test_ids_that_are_no_nodes_are_named(edges, nodes, message):
    with pytest.raises(InvalidInputError, match=message):
        Graph(np.array(edges), nodes)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.uint64, ">i4", ">i8"])
def test_ids_may_have_any_integer_dtype(dtype):
    assert Graph(EDGES.astype(dtype)).edge_index.tolist() == EDGES.tolist()


def test_an_unsigned_id_beyond_all_bounds_does_not_become_negative():
    with pytest.raises(InvalidInputError, match="node ids from 0 to 2, got 18446744073709551615 at edge 0"):
        Graph(np.array([[2**64 - 1], [0]], np.uint64), 3)


def test_ids_may_have_any_strides():
    wide = np.zeros((8, 6), np.int64)
    wide[::4] = EDGES
    assert Graph(wide[::4]).edge_index.tolist() == EDGES.tolist()
    assert Graph(np.ascontiguousarray(EDGES.T).T).edge_index.tolist() == EDGES.tolist()
    assert Graph(EDGES[:, ::-1]).edge_index.tolist() == EDGES[:, ::-1].tolist()
    assert Graph(np.broadcast_to(np.array([[1], [0]]), (2, 3))).edge_index.tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (np.zeros((5, 2), int), r"shape \(2, E\), got \(5, 2\): an array of pairs has to be turned: edge_index.T"),
        (np.zeros((4, 4), int), r"got \(4, 4\): of an adjacency matrix A take np.stack\(A.nonzero\(\)\)"),
        (np.zeros(4, int), r"got \(4,\): row 0 the sources, row 1 the destinations"),
        (np.zeros((2, 3, 1), int), r"got \(2, 3, 1\)"),
        (np.zeros((3, 5), int), r"got \(3, 5\)"),
        ([[0, 1, 2], [1, 2, 0]], r"pairs, got what has shape \(2, 3\): pass np.array\(edge_index\)"),
        ([0, 1], r"pairs, got what has shape \(2,\)"),
    ],
)
def test_a_wrong_shape_is_named_with_the_way_out(edges, message):
    with pytest.raises(DimensionMismatchError, match=message):
        Graph(edges)


@pytest.mark.parametrize("edges", [None, 3, "edges", {0: 1}, {(0, 1)}, zip([0], [1], strict=True), object()], ids=lambda x: type(x).__name__)
def test_what_is_no_array_and_no_list_is_refused(edges):
    with pytest.raises(InvalidInputError, match="edge_index must be an int array"):
        Graph(edges)


def test_ragged_pairs_are_refused():
    with pytest.raises(DimensionMismatchError, match=r"pairs, got \(1, 2, 3\) at edge 1"):
        Graph([(0, 1), (1, 2, 3)])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (-1, "num_nodes must be an int from 0, got -1"),
        (2.0, "num_nodes must be an int from 0, got 2.0"),
        (True, "num_nodes must be an int from 0, got True"),
        ("3", "num_nodes must be an int from 0, got '3'"),
        ((3, -1), r"num_nodes\[1\] must be an int from 0, got -1"),
        ((3, 4, 5), r"num_nodes must be an int, or \(sources, destinations\)"),
    ],
)
def test_a_number_of_nodes_that_is_none_is_named(nodes, message):
    with pytest.raises(InvalidInputError, match=message):
        Graph([], nodes)


@pytest.mark.parametrize("nodes", [2**30 + 1, (2**30 + 1, 3), 10**30])
def test_more_nodes_than_can_be_numbered_are_too_many(nodes):
    with pytest.raises(InputTooLargeError, match="num_nodes must be at most 1,073,741,824"):
        Graph([], nodes)


def test_an_id_beyond_what_can_be_numbered_is_too_large():
    with pytest.raises(InputTooLargeError, match=r"node ids below 1,073,741,824, got 5000000000 at edge 0.*np.unique"):
        Graph([(5_000_000_000, 0)])


def test_ids_that_are_no_numbers_of_rows_take_no_memory_before_somebody_says_so():
    with pytest.raises(InvalidInputError, match="node id 900000000 among 1 edges: pass num_nodes if there are so many nodes"):
        Graph([(900_000_000, 0)])


@pytest.mark.parametrize("name", ["edge_attr", "edge_weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_attributes_and_weights_must_be_finite(name, bad):
    values = WEIGHT.copy()
    values[3] = bad
    with pytest.raises(InvalidInputError, match=rf"{name} must be finite, got {bad} at index \(3.*: clean it, or leave those edges out"):
        Graph(EDGES, **{name: values})


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"edge_attr": ATTR[:5]}, DimensionMismatchError, r"edge_attr must have a row for each of the 6 edges, got shape \(5, 2\)"),
        ({"edge_attr": ATTR[:, :0]}, DimensionMismatchError, r"edge_attr must have shape \(E, F\), F at least 1, or \(E,\), got \(6, 0\)"),
        ({"edge_attr": ATTR[None]}, DimensionMismatchError, r"edge_attr must have shape \(E, F\).*got \(1, 6, 2\)"),
        ({"edge_weight": WEIGHT[:5]}, DimensionMismatchError, r"edge_weight must have shape \(E,\) with E = 6, a number for each edge, got \(5,\)"),
        ({"edge_weight": ATTR}, DimensionMismatchError, r"edge_weight must have shape \(E,\).*got \(6, 2\)"),
        ({"edge_weight": 1.0}, DimensionMismatchError, r"edge_weight must have shape \(E,\).*got \(\)"),
        ({"edge_attr": WEIGHT.astype(complex)}, UnsupportedError, "edge_attr has dtype complex128"),
        ({"edge_weight": np.array(list("abcdef"), object)}, UnsupportedError, "edge_weight has dtype object"),
        ({"edge_weight": np.ma.masked_less(WEIGHT, 0)}, InvalidInputError, "edge_weight is a masked array"),
    ],
)
def test_attributes_and_weights_of_another_form_are_named(values, error, message):
    with pytest.raises(error, match=message):
        Graph(EDGES, **values)


def test_weights_of_one_column_are_weights():
    assert np.array_equal(Graph(EDGES, edge_weight=WEIGHT[:, None]).edge_weight, WEIGHT)


@pytest.mark.parametrize("threads", [0, 1.5, "2"])
def test_a_number_of_threads_that_is_none_is_refused(threads):
    with pytest.raises(InvalidInputError, match="threads must be an int"):
        Graph(EDGES, threads=threads)


# --- graphs of graphs -------------------------------------------------------------------------------------------------------------


def test_a_reversed_graph_has_every_edge_turned_around_in_the_same_order():
    graph = Graph(EDGES, 6, edge_attr=ATTR, edge_weight=WEIGHT)
    turned = graph.reversed()
    assert turned.edge_index.tolist() == EDGES[::-1].tolist()
    assert np.array_equal(turned.edge_attr, ATTR)
    assert np.array_equal(turned.edge_weight, WEIGHT)
    assert graph.reversed() is turned


def test_reversing_a_bipartite_graph_swaps_its_sets():
    turned = Graph([(4, 0), (0, 1)], (5, 2)).reversed()
    assert (turned.num_sources, turned.num_destinations, turned.is_bipartite) == (2, 5, True)


def test_a_permuted_graph_has_the_same_edges_between_renamed_nodes():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)
    order = np.array([3, 1, 4, 0, 2])
    permuted = graph.permuted(order)
    assert order[permuted.edge_index].tolist() == EDGES.tolist()
    assert np.array_equal(permuted.edge_attr, ATTR)
    assert np.array_equal(permuted.edge_weight, WEIGHT)


@given(edge_lists(), st.randoms(use_true_random=False))
@quick
def test_permuting_is_the_same_as_renaming_before(graph, random):
    nodes, edges = graph
    order = random.sample(range(nodes), nodes)
    renamed = Graph([(order.index(s), order.index(d)) for s, d in edges], nodes)
    permuted = Graph(edges, nodes).permuted(order)
    assert permuted.adjacency.indptr.tolist() == renamed.adjacency.indptr.tolist()
    assert permuted.adjacency.indices.tolist() == renamed.adjacency.indices.tolist()
    assert permuted.order.tolist() == renamed.order.tolist()


def test_attention_on_permuted_nodes_is_permuted():
    rng = np.random.default_rng(1)
    graph, order = Graph(rng.integers(0, 40, (2, 200)), 40), rng.permutation(40)
    x = rng.standard_normal((40, 8))
    out = ruvattn.edge_attention(x, x, x, graph.adjacency)
    moved = ruvattn.edge_attention(x[order], x[order], x[order], graph.permuted(order).adjacency)
    np.testing.assert_array_equal(moved, out[order])


@pytest.mark.parametrize(
    ("order", "error"), [([0, 1, 2, 3], DimensionMismatchError), ([0, 1, 2, 3, 3], InvalidInputError), ([0, 1, 2, 3, 5], InvalidInputError)]
)
def test_an_order_that_is_no_permutation_is_refused(order, error):
    with pytest.raises(error, match="order must have"):
        Graph(EDGES).permuted(order)


def test_the_locality_order_brings_neighbours_together():
    rng = np.random.default_rng(0)
    ring = np.stack([np.arange(300), (np.arange(300) + 1) % 300])
    shuffled = Graph(rng.permutation(300)[ring])
    order = shuffled.locality_order()
    assert sorted(order.tolist()) == list(range(300))
    source, destination = shuffled.permuted(order).edge_index
    assert np.abs(source - destination).max() <= 2


@pytest.mark.parametrize("graph", [Graph([], 0), Graph([], 4), Graph(EDGES)], ids=repr)
def test_every_graph_has_a_locality_order(graph):
    assert sorted(graph.locality_order().tolist()) == list(range(graph.num_nodes))


@pytest.mark.parametrize(
    "call",
    [
        lambda g: g.subgraph([0]),
        lambda g: g.k_hop(1),
        lambda g: g.k_hop_nodes(0, 1),
        lambda g: g.k_hop_subgraph([0], 1),
        lambda g: g.permuted([0, 1]),
        lambda g: g.locality_order(),
    ],
)
def test_what_needs_one_set_of_nodes_says_so_of_a_bipartite_graph(call):
    with pytest.raises(InvalidInputError, match="is of graphs with one set of nodes, and graph is"):
        call(Graph([(0, 1)], (2, 2)))


# --- batches ----------------------------------------------------------------------------------------------------------------------


def batch_of_three():
    return [Graph(EDGES, 6, edge_attr=ATTR, edge_weight=WEIGHT), Graph([], 2, edge_attr=ATTR[:0], edge_weight=[]),
            Graph([(1, 0), (0, 1)], edge_attr=ATTR[:2] + 50, edge_weight=[7, 8])]  # fmt: skip


def test_a_batch_is_its_graphs_side_by_side():
    graphs = batch_of_three()
    batch = Graph.batch(graphs)
    assert batch.num_nodes == 10
    assert batch.graph_ptr.tolist() == [0, 6, 8, 10]
    assert batch.edge_index.tolist() == np.concatenate([EDGES, graphs[2].edge_index + 8], axis=1).tolist()
    assert np.array_equal(batch.edge_attr, np.concatenate([ATTR, ATTR[:2] + 50]))
    assert np.array_equal(batch.edge_weight, np.concatenate([WEIGHT, [7, 8]]))


def test_a_batch_is_the_graph_of_all_its_edges():
    batch = Graph.batch(batch_of_three())
    built = Graph(batch.edge_index, 10)
    assert np.array_equal(batch.adjacency.indptr, built.adjacency.indptr)
    assert np.array_equal(batch.adjacency.indices, built.adjacency.indices)
    assert np.array_equal(batch.order, built.order)


def test_what_was_computed_for_a_batch_comes_apart():
    batch = Graph.batch(batch_of_three())
    assert [part.tolist() for part in batch.unbatch(np.arange(10))] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    assert [part.shape for part in batch.unbatch(np.zeros((3, 8)), axis=-1, of="edges")] == [(3, 6), (3, 0), (3, 2)]


def test_bipartite_graphs_make_a_bipartite_batch():
    batch = Graph.batch([Graph([(3, 0)], (4, 2)), Graph([(0, 2)], (1, 3))])
    assert batch.is_bipartite
    assert batch.edge_index.tolist() == [[3, 4], [0, 4]]
    assert batch.graph_ptr.tolist() == [0, 2, 5]
    assert [part.size for part in batch.unbatch(np.zeros(5), of="sources")] == [4, 1]
    assert [part.size for part in batch.unbatch(np.zeros(5), of="destinations")] == [2, 3]


def test_graphs_in_the_order_of_their_adjacency_make_a_batch():
    part = Graph(EDGES).subgraph([0, 1, 2]).graph
    assert part.order.tolist() == list(range(part.num_edges))
    batch = Graph.batch([part, Graph(EDGES), part])
    expected = np.concatenate([part.edge_index, EDGES + 3, part.edge_index + 8], axis=1)
    assert batch.edge_index.tolist() == expected.tolist()


def test_the_reverse_of_a_bipartite_batch_comes_apart_the_other_way_round():
    batch = Graph.batch([Graph([(3, 0)], (4, 2)), Graph([(0, 2)], (1, 3))]).reversed()
    assert [part.size for part in batch.unbatch(np.zeros(5), of="sources")] == [2, 3]
    assert [part.size for part in batch.unbatch(np.zeros(5), of="destinations")] == [4, 1]
    assert [part.size for part in batch.unbatch(np.zeros(2), of="edges")] == [1, 1]


def test_where_graphs_of_a_batch_begin_survives_pickling_and_cannot_be_written():
    again = pickle.loads(pickle.dumps(Graph.batch(batch_of_three())))
    assert again.graph_ptr.tolist() == [0, 6, 8, 10]
    assert not again.graph_ptr.flags.writeable


def test_a_batch_takes_what_a_graph_can_be_made_of():
    assert Graph.batch([[(0, 1)], EDGES]).num_nodes == 7


@pytest.mark.parametrize(
    ("graphs", "error", "message"),
    [
        ([], InvalidInputError, "graphs must have at least one graph"),
        (Graph(EDGES), InvalidInputError, "graphs must be a list of graphs, got Graph"),
        ([Graph(EDGES), Graph(EDGES, edge_attr=ATTR)], DimensionMismatchError, r"graphs must be alike.*graphs\[1\], Graph\(.*edge_dim=2"),
        ([Graph(EDGES, edge_weight=WEIGHT), Graph(EDGES)], DimensionMismatchError, "graphs must be alike"),
        ([Graph([(0, 1)]), Graph([(0, 1)], (2, 2))], DimensionMismatchError, "graphs must be alike"),
        ([Graph(EDGES, edge_attr=ATTR), Graph(EDGES, edge_attr=ATTR.astype(float))], InvalidInputError, "one dtype, got float32, float64"),
    ],
)
def test_what_makes_no_batch_is_refused(graphs, error, message):
    with pytest.raises(error, match=message):
        Graph.batch(graphs)


def test_only_a_batch_comes_apart():
    with pytest.raises(InvalidInputError, match="unbatch is of graphs that Graph.batch made"):
        Graph(EDGES).unbatch(np.zeros(5))
    assert Graph(EDGES).graph_ptr is None


@pytest.mark.parametrize(
    ("options", "error"), [({"of": "heads"}, InvalidInputError), ({"of": "edges"}, DimensionMismatchError), ({"axis": 2}, DimensionMismatchError)]
)
def test_what_does_not_fit_a_batch_is_refused(options, error):
    with pytest.raises(error):
        Graph.batch(batch_of_three()).unbatch(np.zeros((10, 3)), **options)


# --- large graphs, and the process ------------------------------------------------------------------------------------------------


def large_graph(threads=None):
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 5000, (2, 100_000))
    edges[1, ::2] = 7  # a hub with half of all edges
    return Graph(edges, edge_weight=rng.random(100_000), threads=threads)


def test_the_number_of_threads_changes_nothing():
    one, two = large_graph(1), large_graph(2)
    for name in ("edge_index", "order", "edge_weight"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert np.array_equal(one.adjacency.indices, two.adjacency.indices)


def test_building_takes_little_memory_beside_the_edges():
    edges = np.random.default_rng(0).integers(0, 100_000, (2, 2_000_000))
    Graph(edges[:, :10], 100_000)
    tracemalloc.start()
    try:
        graph = Graph(edges, 100_000)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert graph.num_edges == 2_000_000
    assert held < 10 * 2_000_000  # two arrays of int32, and one entry a node
    assert peak < 29 * 2_000_000  # of which the ends as int32, and three numbers an edge while they are sorted, go again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_can_go_on():
    code = """
        import os, numpy as np
        from ruvattn_graph.graph import Graph
        edges = np.random.default_rng(0).integers(0, 2000, (2, 60000))
        before = Graph(edges, threads=2).k_hop(2, threads=2)
        pid = os.fork()
        same = np.array_equal(Graph(edges, threads=2).k_hop(2, threads=2).edge_index, before.edge_index)
        if pid == 0:
            os._exit(0 if same else 1)
        assert same and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_no_other_library_is_imported_to_make_a_graph():
    code = """
        import sys
        from ruvattn_graph.graph import Graph
        Graph.of([(0, 1)]).with_self_loops().k_hop(1)
        assert not {"scipy.sparse", "networkx", "torch", "torch_geometric"} & set(sys.modules)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["graph", "edges", "reading", "self_loops", "subgraphs", "sampling"])
def test_the_examples_in_docstrings_are_true(name):
    result = doctest.testmod(importlib.import_module(f"ruvattn_graph.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
