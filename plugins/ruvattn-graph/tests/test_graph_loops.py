"""Self-loops of a Graph: added, replaced, completed and taken away, with the attributes and weights that they get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvattn.errors import InvalidInputError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph.graph import Graph
from ruvattn_graph.self_loops import FILLS, HOWS

quick = settings(max_examples=80, deadline=None, derandomize=True)

EDGES = np.array([[2, 0, 1, 1, 1, 2], [0, 1, 0, 1, 1, 0]])  # two loops at 1; nothing leads to 2 and 3
ATTR = np.array([[1.0, -1], [2, -2], [3, -3], [4, -4], [5, -5], [6, -6]])
WEIGHT = np.array([0.5, 2, 3, 4, 5, 6])
GRAPH = Graph(EDGES, 4, edge_attr=ATTR, edge_weight=WEIGHT)

REDUCE = {"mean": lambda a: a.mean(0), "add": lambda a: a.sum(0), "min": lambda a: a.min(0), "max": lambda a: a.max(0), "mul": lambda a: a.prod(0)}


def expected(edges, attr, nodes, how, fill):
    """Return edges, attributes, weights' places and parents, the slow and obvious way."""
    kept = [e for e in range(edges.shape[1]) if how != "replace" or edges[0, e] != edges[1, e]]
    loops = [i for i in range(nodes) if how != "missing" or not any(edges[0, e] == edges[1, e] == i for e in kept)]
    filled = []
    for i in loops:
        own = [e for e in kept if edges[1, e] == i]
        if isinstance(fill, float):
            filled.append(np.full(attr.shape[1], fill))
        elif own:
            filled.append(REDUCE[fill](attr[own]))
        else:
            filled.append(np.full(attr.shape[1], 1.0 if fill == "mul" else 0.0))
    index = np.concatenate([edges[:, kept], np.array([loops, loops], int).reshape(2, -1)], axis=1)
    return index, np.concatenate([attr[kept], np.array(filled).reshape(-1, attr.shape[1])]), np.array(kept + [-1] * len(loops))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("fill", [*FILLS, 0.25])
def test_edges_that_stay_come_first_and_new_loops_after_them(how, fill):
    index, attr, parents = expected(EDGES, ATTR, 4, how, fill)
    looped = GRAPH.with_self_loops(how, fill)
    assert looped.edge_index.tolist() == index.tolist()
    np.testing.assert_allclose(looped.edge_attr, attr, rtol=1e-15)
    assert looped.parent_edges.tolist() == parents.tolist()
    assert looped.edge_weight.tolist() == np.where(parents < 0, 1, WEIGHT[parents]).tolist()


def test_a_node_has_one_loop_after_replacing_them():
    looped = GRAPH.with_self_loops()
    source, destination = looped.edge_index
    assert np.bincount(source[source == destination], minlength=4).tolist() == [1, 1, 1, 1]


def test_loops_that_are_there_stay_beside_those_that_are_added():
    source, destination = GRAPH.with_self_loops("add").edge_index
    assert np.bincount(source[source == destination], minlength=4).tolist() == [1, 3, 1, 1]


def test_only_nodes_without_a_loop_get_one_where_it_is_missing():
    source, destination = GRAPH.with_self_loops("missing").edge_index
    assert np.bincount(source[source == destination], minlength=4).tolist() == [1, 2, 1, 1]


def test_a_replaced_loop_has_no_part_in_the_attributes_of_the_new_one():
    looped = GRAPH.with_self_loops("replace", "add")
    assert looped.edge_attr[-3].tolist() == [2, -2]
    assert GRAPH.with_self_loops("add", "add").edge_attr[-3].tolist() == [11, -11]


@pytest.mark.parametrize("fill", FILLS)
def test_a_node_without_edges_gets_zeros_or_the_empty_product(fill):
    assert GRAPH.with_self_loops("replace", fill).edge_attr[-1].tolist() == ([1, 1] if fill == "mul" else [0, 0])


@st.composite
def looped_graphs(draw):
    nodes = draw(st.integers(1, 7))
    ids = st.integers(0, nodes - 1)
    pairs = draw(st.lists(st.tuples(ids, ids), max_size=25))
    return nodes, np.array(pairs, int).reshape(-1, 2).T


@given(looped_graphs(), st.sampled_from(HOWS), st.sampled_from([*FILLS, -2.0]))
@quick
def test_any_graph_gets_its_loops(graph, how, fill):
    nodes, edges = graph
    attr = np.random.default_rng(0).standard_normal((edges.shape[1], 3))
    index, filled, parents = expected(edges, attr, nodes, how, fill)
    looped = Graph(edges, nodes, edge_attr=attr).with_self_loops(how, fill)
    assert looped.edge_index.tolist() == index.tolist()
    np.testing.assert_allclose(looped.edge_attr, filled, rtol=1e-13, atol=1e-15)
    assert looped.parent_edges.tolist() == parents.tolist()


@given(looped_graphs(), st.sampled_from(HOWS))
@quick
def test_inserting_loops_is_the_same_as_sorting_all_edges_again(graph, how):
    nodes, edges = graph
    looped = Graph(edges, nodes).with_self_loops(how)
    built = Graph(looped.edge_index, nodes)
    assert np.array_equal(looped.adjacency.indptr, built.adjacency.indptr)
    assert np.array_equal(looped.adjacency.indices, built.adjacency.indices)
    assert np.array_equal(looped.order, built.order)


@given(looped_graphs())
@quick
def test_taking_loops_away_leaves_the_others_in_their_order(graph):
    nodes, edges = graph
    rest = Graph(edges, nodes, edge_attr=np.arange(edges.shape[1])).without_self_loops()
    kept = np.flatnonzero(edges[0] != edges[1])
    assert rest.edge_index.tolist() == edges[:, kept].tolist()
    assert rest.parent_edges.tolist() == kept.tolist() == rest.edge_attr[:, 0].tolist()


def test_loops_in_a_large_graph_are_those_of_the_slow_way():
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 3000, (2, 60_000))
    edges[1, ::10] = edges[0, ::10]
    attr, weight = rng.standard_normal((60_000, 2)), rng.random(60_000)
    kept = np.flatnonzero(edges[0] != edges[1])
    nodes = np.arange(3000)
    looped = Graph(edges, 3000, edge_attr=attr, edge_weight=weight).with_self_loops("replace", "mean")
    assert np.array_equal(looped.edge_index, np.concatenate([edges[:, kept], [nodes, nodes]], axis=1))
    assert np.array_equal(looped.parent_edges, np.concatenate([kept, np.full(3000, -1)]))
    assert np.array_equal(looped.edge_weight, np.concatenate([weight[kept], np.ones(3000)]))
    sums = np.stack([np.bincount(edges[1, kept], attr[kept, f], 3000) for f in range(2)], axis=1)
    counts = np.maximum(np.bincount(edges[1, kept], minlength=3000), 1)
    np.testing.assert_allclose(looped.edge_attr[kept.size :], sums / counts[:, None], rtol=1e-12, atol=1e-14)
    assert np.array_equal(looped.edge_attr[: kept.size], attr[kept])


@pytest.mark.parametrize(("sizes", "loops"), [((3, 2), 2), ((2, 4), 2), ((3, 3), 3), ((0, 3), 0)])
@pytest.mark.parametrize("how", HOWS)
def test_a_bipartite_graph_gets_loops_of_nodes_that_both_sets_have(sizes, loops, how):
    edges = [(1, 0), (0, 1)] if min(sizes) else []
    looped = Graph(edges, sizes).with_self_loops(how)
    assert looped.is_bipartite
    assert looped.edge_index[:, len(edges) :].tolist() == [list(range(loops))] * 2


def test_loops_beyond_the_smaller_set_do_not_exist():
    looped = Graph([(1, 1), (0, 3), (1, 3)], (2, 4), edge_attr=[1.0, 2, 3]).with_self_loops("replace", "max")
    assert looped.edge_index.tolist() == [[0, 1, 0, 1], [3, 3, 0, 1]]
    assert looped.edge_attr[:, 0].tolist() == [2, 3, 0, 0]


@pytest.mark.parametrize("nodes", [0, 3])
@pytest.mark.parametrize("how", HOWS)
def test_a_graph_without_edges_has_only_loops(nodes, how):
    looped = Graph([], nodes, edge_attr=np.empty((0, 2)), edge_weight=[]).with_self_loops(how)
    assert looped.edge_index.tolist() == [list(range(nodes))] * 2
    assert looped.edge_attr.tolist() == [[0, 0]] * nodes
    assert looped.edge_weight.tolist() == [1] * nodes
    assert Graph([], nodes).without_self_loops().num_edges == 0


def test_loops_are_made_once():
    assert GRAPH.with_self_loops("add", "max") is GRAPH.with_self_loops("add", "max")
    assert GRAPH.with_self_loops("add", 1) is GRAPH.with_self_loops("add", 1.0)
    assert GRAPH.with_self_loops("add", "max") is not GRAPH.with_self_loops("add", "min")
    assert GRAPH.without_self_loops() is GRAPH.without_self_loops()


def test_without_attributes_what_they_would_be_makes_no_other_graph():
    graph = Graph(EDGES)
    assert graph.with_self_loops("replace", "mean") is graph.with_self_loops("replace", 3.0)


@pytest.mark.parametrize("change", [lambda batch: batch.with_self_loops(), lambda batch: batch.without_self_loops(), lambda batch: batch.k_hop(2)])
def test_a_batch_with_other_edges_comes_apart_by_nodes(change):
    batch = change(Graph.batch([Graph([(0, 0), (0, 1)]), Graph([(1, 2)])]))
    assert batch.graph_ptr.tolist() == [0, 2, 5]
    assert [part.tolist() for part in batch.unbatch(np.arange(5))] == [[0, 1], [2, 3, 4]]
    with pytest.raises(InvalidInputError, match="of must be about nodes for a batch whose edges aren't those that Graph.batch put together"):
        batch.unbatch(np.zeros(batch.num_edges), of="edges")


def test_a_graph_that_was_made_otherwise_has_no_parent():
    assert GRAPH.parent_edges is None
    assert GRAPH.reversed().parent_edges is None


def test_the_order_of_a_graph_with_loops_is_that_of_its_own_edges():
    looped = GRAPH.with_self_loops()
    assert np.array_equal(looped.to_given_order(looped.csr_edge_attr()), looped.edge_attr)
    assert np.array_equal(looped.edge_index[0, looped.order], looped.adjacency.indices)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_attributes_keep_their_dtype(dtype):
    looped = Graph(EDGES, edge_attr=ATTR.astype(dtype)).with_self_loops("add", "mean")
    assert looped.edge_attr.dtype == dtype
    np.testing.assert_allclose(looped.edge_attr[6:8], [[10 / 3, -10 / 3], [11 / 3, -11 / 3]], rtol=2 * np.finfo(dtype).eps)


def test_sums_over_many_edges_are_exact_in_the_dtype():
    edges = np.zeros((2, 200_000), int)
    edges[0] = 1
    looped = Graph(edges, edge_attr=np.full(200_000, 0.1, np.float32)).with_self_loops("add", "mean")
    assert looped.edge_attr[200_000, 0] == np.float32(0.1)


@pytest.mark.parametrize(("fill", "values", "sign"), [("add", [3e38, 3e38], 1), ("mul", [-3e38, 3e38], -1)])
def test_what_is_too_large_becomes_the_largest_number(fill, values, sign):
    looped = Graph([(1, 0), (2, 0)], edge_attr=np.array(values, np.float32)).with_self_loops("add", fill)
    assert looped.edge_attr[2, 0] == sign * np.finfo(np.float32).max


def test_a_product_that_went_beyond_all_bounds_on_its_way_to_zero_is_zero():
    looped = Graph([(1, 0), (2, 0), (3, 0)], edge_attr=np.array([1e300, 1e300, 0])).with_self_loops("add", "mul")
    assert looped.edge_attr[3, 0] == 0


def test_a_number_that_is_too_large_for_the_attributes_becomes_their_largest():
    looped = Graph(EDGES, edge_attr=ATTR.astype(np.float32)).with_self_loops("add", 1e300)
    assert looped.edge_attr[-1].tolist() == [np.finfo(np.float32).max] * 2


@pytest.mark.parametrize("how", ["remove", None, True, ["add"]])
def test_another_way_is_refused(how):
    with pytest.raises(InvalidInputError, match="how must be one of 'replace', 'add', 'missing', got"):
        GRAPH.with_self_loops(how)


@pytest.mark.parametrize("fill", ["median", None, np.nan, np.inf, True, [1.0], 10**400])
def test_another_fill_value_is_refused(fill):
    with pytest.raises(InvalidInputError, match="fill_value must be one of 'mean', 'add', 'min', 'max', 'mul', or a finite number, got"):
        GRAPH.with_self_loops("add", fill)
