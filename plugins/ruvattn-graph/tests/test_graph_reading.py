"""Graphs of other libraries, read by ``Graph.of``: lists, arrays, scipy.sparse, networkx, and what looks like torch-geometric's Data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph.graph import Graph

nx = pytest.importorskip("networkx")

EDGES = np.array([[2, 0, 1, 1], [0, 1, 0, 2]])
ATTR = np.arange(8.0).reshape(4, 2)
WEIGHT = np.array([1.0, 2, 3, 4])


def edges_of(graph):
    """Return the edges as a sorted list of pairs."""
    return sorted(map(tuple, graph.edge_index.T.tolist()))


def weighted_edges_of(graph):
    return sorted(zip(*graph.edge_index.tolist(), graph.edge_weight.tolist(), strict=True))


class Tensor:
    """What is done with a tensor: it has to leave its graph and its device before NumPy takes it."""

    def __init__(self, array):
        self._array, self.ready = np.asarray(array), False
        self.dtype, self.shape, self.ndim = self._array.dtype, self._array.shape, self._array.ndim

    def detach(self):
        return self

    def cpu(self):
        again = Tensor(self._array)
        again.ready = True
        return again

    def numpy(self):
        if not self.ready:
            raise RuntimeError("Can't call numpy() on a tensor of another device")
        return self._array

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't convert a tensor that requires grad")


# --- arrays, lists, graphs --------------------------------------------------------------------------------------------------------


def test_an_edge_index_is_read_as_the_constructor_does():
    graph = Graph.of(EDGES, 5, edge_attr=ATTR, edge_weight=WEIGHT)
    assert graph.num_nodes == 5
    assert graph.edge_index.tolist() == EDGES.tolist()
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(graph.edge_weight, WEIGHT)


def test_a_list_has_pairs_of_source_and_destination():
    assert Graph.of([(2, 0), (0, 1)]).edge_index.tolist() == [[2, 0], [0, 1]]
    assert Graph.of([[2, 0], [0, 1]]).edge_index.tolist() == [[2, 0], [0, 1]]
    assert Graph.of(((2, 0), (0, 1), (1, 2))).edge_index.tolist() == [[2, 0, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    ("two", "kinds"),
    [
        (([0, 5], [1, 2]), r"\(list, list\)"),
        (((0, 5), (1, 2)), r"\(tuple, tuple\)"),
        (([0, 5, 3], [1, 2, 4]), r"\(list, list\)"),
        (([0, 5], np.array([1, 2])), r"\(list, ndarray\)"),
        (([], []), r"\(list, list\)"),
    ],
)
def test_a_tuple_of_two_lists_could_be_pairs_or_ends_and_is_refused(two, kinds):
    with pytest.raises(InvalidInputError, match=rf"tuple of two must have two arrays.*got {kinds}: pass np.array\(edge_index\).*list\(edge_index\)"):
        Graph(two)


def test_pairs_that_are_ragged_in_themselves_are_named():
    with pytest.raises(DimensionMismatchError, match=r"must have \(source, destination\) pairs, got"):
        Graph([(0, 1), [[1], [2, 3]]])


def test_an_array_of_two_by_two_is_an_edge_index():
    assert Graph.of(np.array([[2, 0], [0, 1]])).edge_index.tolist() == [[2, 0], [0, 1]]


def test_a_tuple_of_arrays_has_sources_and_destinations():
    adjacency = np.zeros((3, 3), bool)
    adjacency[2, 0] = adjacency[0, 1] = True
    assert Graph.of(adjacency.nonzero()).edge_index.tolist() == [[0, 2], [1, 0]]
    with pytest.raises(DimensionMismatchError, match="as many sources as destinations, got 2 and 3"):
        Graph.of((np.arange(2), np.arange(3)))


def test_an_array_of_no_entries_is_a_graph_without_edges():
    graph = Graph(np.empty(0), 3)
    assert (graph.num_nodes, graph.num_edges, graph.edge_index.shape) == (3, 0, (2, 0))


def test_a_part_of_a_graph_says_where_its_graph_is():
    part = Graph(EDGES).subgraph([0, 2])
    with pytest.raises(InvalidInputError, match="graph is a Subgraph: pass its .graph, and the features of its .nodes"):
        Graph.of(part)


def test_an_adjacency_has_rows_that_are_destinations():
    adjacency = Graph(EDGES).adjacency
    for graph in (Graph.of(adjacency), Graph.of(adjacency, 3)):
        assert edges_of(graph) == sorted(map(tuple, EDGES.T.tolist()))
        assert (graph.num_nodes, graph.is_bipartite) == (3, False)
    assert Graph.of(adjacency, (3, 3)).is_bipartite
    with pytest.raises(DimensionMismatchError, match="num_nodes is 4, and graph has 3 keys and 3 rows: leave num_nodes out"):
        Graph.of(adjacency, 4)


def test_an_adjacency_of_two_sizes_is_bipartite():
    graph = Graph.of(Graph([(3, 0), (1, 1)], (4, 2)).adjacency)
    assert (graph.num_sources, graph.num_destinations, graph.is_bipartite) == (4, 2, True)


def test_a_graph_that_gets_nothing_new_is_returned_itself():
    graph = Graph(EDGES)
    assert Graph.of(graph) is graph
    assert Graph.of(graph, 3) is graph
    assert Graph.of(graph, (3, 3)) is graph


def test_a_graph_gets_other_attributes_and_keeps_the_rest():
    graph = Graph(EDGES, edge_attr=ATTR, edge_weight=WEIGHT)
    again = Graph.of(graph, edge_attr=ATTR + 1)
    assert np.array_equal(again.edge_attr, ATTR + 1)
    assert np.array_equal(again.edge_weight, WEIGHT)
    assert again.adjacency is graph.adjacency
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(Graph.of(graph, edge_weight=WEIGHT * 2).edge_weight, WEIGHT * 2)


def test_a_graph_with_other_attributes_still_says_how_it_was_made():
    looped = Graph(EDGES).with_self_loops()
    assert np.array_equal(Graph.of(looped, edge_attr=np.zeros(7)).parent_edges, looped.parent_edges)
    near = Graph(EDGES).k_hop(2)
    assert np.array_equal(Graph.of(near, edge_attr=near.hops).hops, near.hops)
    batch = Graph.batch([Graph(EDGES), Graph(EDGES)])
    assert np.array_equal(Graph.of(batch, edge_weight=np.ones(8)).graph_ptr, batch.graph_ptr)


@pytest.mark.parametrize("nodes", [2, 4, (3, 4), (4, 3)])
def test_a_graph_of_another_number_of_nodes_is_refused(nodes):
    with pytest.raises(DimensionMismatchError, match=r"num_nodes is .*, and graph is Graph\(num_nodes=3"):
        Graph.of(Graph(EDGES), nodes)


def test_attributes_of_another_number_of_edges_are_refused():
    with pytest.raises(DimensionMismatchError, match="edge_attr must have a row for each of the 4 edges"):
        Graph.of(Graph(EDGES), edge_attr=ATTR[:3])


# --- scipy.sparse -----------------------------------------------------------------------------------------------------------------

MATRIX = np.array([[0, 2.0, 0], [3, 0, 4], [1, 0, 0]])  # the same edges as above

FORMATS = ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"]


@pytest.mark.parametrize("make", [sp.csr_array, sp.csr_matrix], ids=["array", "matrix"])
@pytest.mark.parametrize("kind", FORMATS)
def test_an_entry_is_an_edge_from_its_row_to_its_column(kind, make):
    graph = Graph.of(make(MATRIX).asformat(kind))
    found = weighted_edges_of(graph)
    assert [edge for edge in found if edge[2]] == sorted(zip(*EDGES.tolist(), WEIGHT.tolist(), strict=True))
    assert (graph.num_nodes, graph.is_bipartite) == (3, False)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_edges_are_in_the_order_in_which_entries_are_stored(kind):
    matrix = sp.csr_array(MATRIX).asformat(kind)
    graph = Graph.of(matrix)
    listed = matrix.tocoo()
    assert graph.edge_index.tolist() == [listed.row.tolist(), listed.col.tolist()]
    assert graph.edge_weight.tolist() == listed.data.tolist()


def test_booleans_are_no_weights():
    graph = Graph.of(sp.csr_array(MATRIX != 0))
    assert graph.edge_weight is None
    assert edges_of(graph) == sorted(map(tuple, EDGES.T.tolist()))


def test_integers_are_weights():
    assert Graph.of(sp.coo_array(MATRIX.astype(int))).edge_weight.dtype == np.float64


def test_duplicates_stay_several_edges():
    matrix = sp.coo_array(([1.0, 2.0, 3.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert weighted_edges_of(Graph.of(matrix)) == [(0, 1, 1.0), (0, 1, 2.0), (1, 0, 3.0)]
    rows = sp.csr_array((np.ones(3), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    assert edges_of(Graph.of(rows)) == [(0, 1), (0, 1), (1, 0)]


def test_a_stored_zero_is_an_edge():
    matrix = sp.csr_array((np.zeros(1), np.array([1]), np.array([0, 1, 1])), shape=(2, 2))
    assert weighted_edges_of(Graph.of(matrix)) == [(0, 1, 0.0)]


def test_entries_behind_the_last_row_do_not_count():
    matrix = sp.csr_array((np.ones(3), np.array([1, 0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    matrix.indptr = np.array([0, 1, 1])
    assert weighted_edges_of(Graph.of(matrix)) == [(0, 1, 1.0)]


def test_a_matrix_that_is_not_square_is_bipartite():
    graph = Graph.of(sp.csr_array(MATRIX[:2]))
    assert (graph.num_sources, graph.num_destinations, graph.is_bipartite) == (2, 3, True)


def test_a_square_matrix_is_bipartite_if_one_says_so():
    assert Graph.of(sp.csr_array(MATRIX), (3, 3)).is_bipartite


def test_the_matrix_has_to_have_the_number_of_nodes_that_is_given():
    assert Graph.of(sp.csr_array(MATRIX), 3).num_nodes == 3
    with pytest.raises(DimensionMismatchError, match=r"num_nodes is 4, and graph has shape \(3, 3\)"):
        Graph.of(sp.csr_array(MATRIX), 4)


def test_weights_and_attributes_take_the_place_of_what_is_stored():
    graph = Graph.of(sp.coo_array(MATRIX), edge_attr=ATTR, edge_weight=WEIGHT * 10)
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(graph.edge_weight, WEIGHT * 10)


def test_a_matrix_may_be_empty():
    assert Graph.of(sp.csr_array((4, 4))).num_edges == 0
    assert Graph.of(sp.coo_array((4, 4), dtype=bool)).num_nodes == 4


def test_the_matrix_stays_as_it_is_and_the_graph_too():
    matrix = sp.csr_array(MATRIX)
    graph = Graph.of(matrix)
    matrix.data[:] = 0
    matrix.indices[:] = 0
    assert weighted_edges_of(graph) == sorted(zip(*EDGES.tolist(), WEIGHT.tolist(), strict=True))


def test_a_matrix_of_nonsense_is_refused_and_not_followed():
    wild = sp.csr_array(MATRIX)
    wild.indices = np.array([1, 0, 700, 0], np.int32)
    with pytest.raises(InvalidInputError, match="node ids from 0 to 2, got 700"):
        Graph.of(wild)
    wild = sp.csr_array(MATRIX)
    wild.indptr = np.array([0, 3, 1, 4], np.int32)
    with pytest.raises(InvalidInputError, match="indptr of the matrix must not fall"):
        Graph.of(wild)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (sp.coo_array(np.ones((2, 2, 2))), DimensionMismatchError, "must have two axes"),
        (sp.coo_array(np.ones(3)), DimensionMismatchError, "must have two axes"),
        (sp.csr_array(np.where(MATRIX == 2, np.nan, MATRIX)), InvalidInputError, "edge_weight must be finite, got nan"),
        (sp.csr_array(MATRIX.astype(complex)), UnsupportedError, "edge_weight has dtype complex128"),
    ],
)
def test_a_matrix_that_is_no_weighted_adjacency_is_refused(matrix, error, message):
    with pytest.raises(error, match=message):
        Graph.of(matrix)


def test_the_constructor_says_who_takes_an_adjacency():
    with pytest.raises(InvalidInputError, match=r"must be a dense array, got csr_array: Graph.of takes an adjacency as the graph"):
        Graph(sp.csr_array(MATRIX))


# --- networkx ---------------------------------------------------------------------------------------------------------------------


def test_a_directed_networkx_graph_has_its_edges_as_they_are():
    graph = Graph.of(nx.DiGraph([("c", "a"), ("a", "b"), ("b", "a")]))
    assert graph.edge_index.tolist() == [[0, 1, 2], [1, 2, 1]]  # nodes in the order in which they came: c, a, b
    assert graph.num_nodes == 3


def test_an_undirected_networkx_graph_has_every_edge_forth_and_back_and_a_loop_once():
    graph = Graph.of(nx.Graph([(0, 1), (1, 1), (2, 1)]))
    assert graph.edge_index.tolist() == [[0, 1, 1, 1, 2], [1, 1, 2, 0, 1]]


def test_it_agrees_with_the_adjacency_of_networkx():
    club = nx.karate_club_graph()
    dense = np.zeros((34, 34))
    graph = Graph.of(club)
    np.add.at(dense, tuple(graph.edge_index), graph.edge_weight)
    assert np.array_equal(dense, nx.to_numpy_array(club))


def test_a_multigraph_keeps_its_edges_apart():
    many = nx.MultiGraph([(0, 1, {"weight": 2}), (0, 1, {"weight": 5}), (1, 1, {"weight": 7})])
    assert weighted_edges_of(Graph.of(many)) == [(0, 1, 2), (0, 1, 5), (1, 0, 2), (1, 0, 5), (1, 1, 7)]
    assert Graph.of(nx.MultiDiGraph([(0, 1), (0, 1)])).num_edges == 2


def test_isolated_nodes_of_networkx_are_nodes():
    drawn = nx.Graph([(5, 6)])
    drawn.add_nodes_from([9, 1])
    graph = Graph.of(drawn)
    assert graph.num_nodes == 4
    assert graph.in_degrees.tolist() == [1, 1, 0, 0]


def test_an_edge_without_a_weight_weighs_1_where_others_have_one():
    drawn = nx.DiGraph()
    drawn.add_edge(0, 1, weight=2.5)
    drawn.add_edge(1, 0)
    assert weighted_edges_of(Graph.of(drawn)) == [(0, 1, 2.5), (1, 0, 1.0)]


def test_without_any_weight_there_are_none():
    assert Graph.of(nx.path_graph(4)).edge_weight is None


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph])
def test_a_networkx_graph_may_be_empty(kind):
    assert repr(Graph.of(kind())) == "Graph(num_nodes=0, num_edges=0)"


def test_attributes_are_those_of_the_edges_as_they_were_read():
    drawn = nx.path_graph(3)
    graph = Graph.of(drawn, edge_attr=[1, 2, 1, 2], edge_weight=[1, 2, 3, 4])
    assert weighted_edges_of(graph) == [(0, 1, 1), (1, 0, 3), (1, 2, 2), (2, 1, 4)]
    with pytest.raises(DimensionMismatchError, match="edge_attr must have a row for each of the 4 edges"):
        Graph.of(drawn, edge_attr=[1, 2])


def test_networkx_knows_its_number_of_nodes():
    assert Graph.of(nx.path_graph(3), 3).num_nodes == 3
    assert Graph.of(nx.path_graph(3), (3, 3)).is_bipartite
    with pytest.raises(DimensionMismatchError, match="num_nodes is 4, and graph has 3 nodes"):
        Graph.of(nx.path_graph(3), 4)


@pytest.mark.parametrize("weight", ["heavy", None, [1], 1j, True, object()])
def test_a_weight_of_networkx_that_is_no_number_is_named(weight):
    drawn = nx.DiGraph()
    drawn.add_edge("a", "b", weight=weight)
    with pytest.raises(InvalidInputError, match=r"graph has the edge \('a', 'b'\) of weight .*: a weight must be a number"):
        Graph.of(drawn)


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_weight_of_networkx_that_is_not_finite_is_refused(weight):
    drawn = nx.DiGraph()
    drawn.add_edge("a", "b", weight=weight)
    with pytest.raises(InvalidInputError, match="edge_weight must be finite"):
        Graph.of(drawn)


# --- Data of torch-geometric, and tensors -----------------------------------------------------------------------------------------


def test_what_has_an_edge_index_is_read_with_what_else_it_has():
    data = SimpleNamespace(edge_index=Tensor(EDGES), edge_attr=Tensor(ATTR), edge_weight=Tensor(WEIGHT), num_nodes=7)
    graph = Graph.of(data)
    assert graph.num_nodes == 7
    assert graph.edge_index.tolist() == EDGES.tolist()
    assert np.array_equal(graph.edge_attr, ATTR)
    assert np.array_equal(graph.edge_weight, WEIGHT)


def test_what_has_only_an_edge_index_is_a_graph():
    graph = Graph.of(SimpleNamespace(edge_index=EDGES))
    assert (graph.num_nodes, graph.edge_attr, graph.edge_weight) == (3, None, None)


def test_attributes_of_one_axis_are_one_column():
    assert Graph.of(SimpleNamespace(edge_index=EDGES, edge_attr=Tensor(WEIGHT), edge_weight=None)).edge_attr.tolist() == WEIGHT[:, None].tolist()


def test_what_is_given_takes_the_place_of_what_it_has():
    data = SimpleNamespace(edge_index=Tensor(EDGES), edge_attr=Tensor(ATTR), num_nodes=7)
    graph = Graph.of(data, 4, edge_attr=ATTR + 1)
    assert graph.num_nodes == 4
    assert np.array_equal(graph.edge_attr, ATTR + 1)


def test_a_tensor_leaves_its_gradient_and_its_device():
    graph = Graph(Tensor(EDGES), edge_attr=Tensor(ATTR), edge_weight=Tensor(WEIGHT))
    assert graph.edge_index.tolist() == EDGES.tolist()


def test_a_tensor_that_makes_no_array_is_named():
    broken = Tensor(EDGES)
    broken.cpu = lambda: broken
    with pytest.raises(InvalidInputError, match="edge_index can't be made an array: Can't call numpy"):
        Graph(broken)


def test_a_sparse_tensor_is_told_how_to_become_edges():
    sparse = Tensor(EDGES)
    sparse.layout = "torch.sparse_csr"
    sparse.numpy = sparse.cpu
    sparse.cpu = lambda: Tensor(EDGES).detach()
    with pytest.raises(InvalidInputError, match=r"edge_index can't be made an array: .* an adjacency take .to_sparse_coo\(\).coalesce\(\).indices"):
        Graph(sparse)
    with pytest.raises(InvalidInputError, match=r"edge_attr can't be made an array: .*: convert it with .to_dense\(\)"):
        Graph(EDGES, edge_attr=sparse)


def test_a_batch_of_data_stays_a_batch():
    graph = Graph.of(SimpleNamespace(edge_index=EDGES, num_nodes=5, ptr=Tensor([0, 3, 5])))
    assert graph.graph_ptr.tolist() == [0, 3, 5]
    assert [part.tolist() for part in graph.unbatch(np.arange(5))] == [[0, 1, 2], [3, 4]]
    with pytest.raises(InvalidInputError, match="of must be about nodes"):
        graph.unbatch(WEIGHT, of="edges")


@pytest.mark.parametrize(
    "ptr", [[0, 3], np.array([0, 2, 4]), np.array([1, 3]), np.array([0, 2, 1, 3]), np.array([0.0, 3.0]), np.zeros((1, 2), int), "ptr"]
)
def test_another_ptr_of_data_is_something_else(ptr):
    assert Graph.of(SimpleNamespace(edge_index=EDGES, num_nodes=3, ptr=ptr)).graph_ptr is None


def test_several_kinds_of_edges_are_no_graph():
    data = SimpleNamespace(edge_types=[("a", "to", "b")], node_types=["a", "b"])
    with pytest.raises(InvalidInputError, match=r"several kinds of edges: pass one kind, data\['source', 'relation', 'destination'\].edge_index"):
        Graph.of(data)


def test_data_without_edges_is_refused():
    with pytest.raises(InvalidInputError, match="graph is a SimpleNamespace whose edge_index is None"):
        Graph.of(SimpleNamespace(edge_index=None, num_nodes=3))


def test_ids_of_data_are_looked_at_too():
    with pytest.raises(InvalidInputError, match="node ids from 0 to 1, got 2"):
        Graph.of(SimpleNamespace(edge_index=EDGES, num_nodes=2))


def test_what_is_nothing_of_all_this_is_refused():
    takes = "Graph.of takes an Adjacency, scipy.sparse, networkx and torch_geometric"
    with pytest.raises(InvalidInputError, match=f"edge_index must be an int array .* {takes}"):
        Graph.of(object())


def test_a_matrix_with_more_rows_than_can_be_numbered_is_too_large():
    with pytest.raises(InputTooLargeError, match="num_nodes must be at most 1,073,741,824"):
        Graph.of(sp.coo_array((2**30 + 1, 3)))
