"""What the graph variants are given: dtypes, layouts, empty graphs, extreme numbers, and everything that they refuse by name."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp

import ruvattn
from ruvattn.errors import AttentionError, DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from graph_oracle import (
    EDGE,
    EMBED,
    EVERY,
    HEADS,
    KEY,
    NAMES,
    OPTIONS,
    Edges,
    assert_formula,
    attended,
    close,
    draw,
    features,
    graph,
    oracle,
    same_bits,
)

from ruvattn_graph import Graph

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
NARROW = ("float16", "bfloat16")
every_form = pytest.mark.parametrize(("name", "form"), EVERY)
every_variant = pytest.mark.parametrize("name", NAMES)
SHARES = [name for name in NAMES if name != "graph-rope"]  # those whose edges have weights
FEATURED = {"gat": "edges", "gatv2": "edges", "graph-transformer": "edges", "edge-featured": "plain"}
BIPARTITE = np.array([[0, 8, 3], [0, 4, 4]])


def given(*optional):
    return [argument for argument in optional if argument is not None]


def small(name, form="plain", dtype=np.float32, **options):
    """A variant, features of five nodes, four edges, and features of these."""
    layer = draw(name, form, **options)
    x, attr = features(layer, 5, 4, dtype)
    return layer, x, np.array([[0, 1, 2, 0], [1, 2, 3, 1]]), attr


# --- dtypes and layouts -----------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_dtypes_compute_in_float32_and_round_once(name, form, dtype):
    layer = draw(name, form)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1], DTYPES[dtype])
    found = layer.forward_graph(x, edges, *given(attr))
    assert found.dtype == DTYPES[dtype]
    wide = layer.forward_graph(x.astype(np.float32), edges, *given(None if attr is None else attr.astype(np.float32)))
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    np.testing.assert_allclose(found.astype(np.float64), wide.astype(np.float64), rtol=eps, atol=eps)
    one = layer.forward_neighborhood(3, x, edges, *given(attr))
    assert one.dtype == DTYPES[dtype]
    np.testing.assert_allclose(one.astype(np.float64), found[3].astype(np.float64), rtol=eps, atol=eps)


@every_form
def test_float64_is_computed_in_float64_with_parameters_of_float32(name, form):
    layer = draw(name, form)
    nodes, edges = graph("hub")
    x, attr = features(layer, nodes, edges.shape[1], np.float64)
    found = layer.forward_graph(x, edges, *given(attr))
    np.testing.assert_allclose(found, oracle(layer, x, attended(layer, x, edges, attr))[0], **close(np.float64))


@every_form
def test_float32_is_computed_in_float32_with_parameters_of_float64(name, form):
    layer = draw(name, form, dtype="float64")
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    found = layer.forward_graph(x, edges, *given(attr))
    assert found.dtype == np.float32
    assert_formula(found, layer, x, attended(layer, x, edges, attr))


@pytest.mark.parametrize(("name", "form"), FEATURED.items())
@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "bool", "bfloat16"])
def test_features_and_weights_of_edges_may_have_another_dtype(name, form, dtype):
    layer, x, edges, _ = small(name, form)
    attr = np.random.default_rng(0).integers(0, 2, (4, EDGE))
    weight = np.array([1, 0, 1, 1])
    kind = DTYPES.get(dtype, dtype)
    found = layer.forward_graph(x, edges, attr.astype(kind), edge_weight=weight.astype(kind))
    assert same_bits(found, layer.forward_graph(x, edges, attr.astype(np.float32), edge_weight=weight.astype(np.float32)))


@every_variant
@pytest.mark.parametrize(
    "layout", ["every other column", "every other row", "backwards", "Fortran", "unaligned", "other byte order", "read-only", "list"]
)
def test_the_layout_of_features_changes_nothing(name, layout):
    layer, x, edges, _ = small(name)
    bytes_of_one = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = bytes_of_one[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    form = {
        "every other column": np.repeat(x, 2, axis=1)[:, ::2], "every other row": np.repeat(x, 2, axis=0)[::2],
        "backwards": x[::-1, ::-1].copy()[::-1, ::-1], "Fortran": np.asfortranarray(x), "unaligned": unaligned,
        "other byte order": x.astype(">f4"), "read-only": read_only,
        "list": x.astype(np.float64).tolist(),
    }[layout]  # fmt: skip
    expected = layer.forward_graph(x.astype(np.float64) if layout == "list" else x, edges)
    np.testing.assert_allclose(layer.forward_graph(form, edges), expected, **close(np.float32))
    assert layer.forward_graph(form, edges).dtype == expected.dtype
    np.testing.assert_allclose(layer.forward_k_hop(1, form, edges, 2), layer.forward_k_hop(1, x, edges, 2), **close(np.float32))


@pytest.mark.parametrize(("name", "form"), FEATURED.items())
def test_the_layout_of_features_of_edges_changes_nothing(name, form):
    layer, x, edges, attr = small(name, form)
    expected = layer.forward_graph(x, edges, attr)
    backwards, others = attr[::-1].copy()[::-1], (attr.astype(">f4"), attr.astype(np.float64).tolist())
    for other in (np.repeat(attr, 2, axis=1)[:, ::2], np.asfortranarray(attr), backwards, *others):
        np.testing.assert_allclose(layer.forward_graph(x, edges, other), expected, **close(np.float32))
    one = draw(name, edge_dim=1)
    np.testing.assert_array_equal(one.forward_graph(x, edges, attr[:, 0]), one.forward_graph(x, edges, attr[:, :1]))


@every_variant
def test_inputs_are_not_written(name):
    layer, x, edges, attr = small(name)
    weight = np.array([1.0, 2.0, 0.5, 0.0], np.float32)
    arrays = [x, edges, *given(attr), weight, *layer.parameters().values()]
    before = [array.copy() for array in arrays]
    layer.forward_graph(x, edges, *given(attr), edge_weight=weight, return_weights=True)
    layer.forward_neighborhood(0, x, edges, *given(attr))
    layer.forward_k_hop(0, x, edges, 2, decay=0.5)
    layer.forward_with_edges(x, x, x, edges, *given(attr), edge_weight=weight)
    layer(x, x, x)
    assert all(same_bits(array, was) for array, was in zip(arrays, before, strict=True))


# --- where to write ---------------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_written_and_returned(name, form, dtype):
    layer = draw(name, form)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1], DTYPES[dtype])
    expected = layer.forward_graph(x, edges, *given(attr))
    wide = np.full((2 * nodes, 2 * expected.shape[1]), np.nan, x.dtype)
    for out in (np.full_like(expected, np.nan), wide[::2, ::2], np.full_like(expected.T, np.nan).T):
        assert layer.forward_graph(x, edges, *given(attr), out=out) is out
        np.testing.assert_array_equal(out.astype(np.float64), expected.astype(np.float64))
    assert np.isnan(wide[1::2].astype(np.float64)).all()


@every_variant
def test_out_that_cannot_be_written_to_is_refused(name):
    layer, x, edges, _ = small(name, head_dim=3)
    good = np.zeros((5, HEADS * 3), np.float32)
    parameter = next(array for array in layer.parameters().values() if array.size >= good.size)
    cases = [
        (np.zeros((5, 7), np.float32), DimensionMismatchError, r"out must have shape \(5, 6\), got \(5, 7\)"),
        (np.zeros((4, 6), np.float32), DimensionMismatchError, "out must have shape"),
        (good.astype(np.float64), InvalidInputError, "out must have the dtype of the result, float32, got float64"),
        (np.broadcast_to(np.float32(0), good.shape), InvalidInputError, "out must be writable"),
        (good.tolist(), InvalidInputError, "out must be a numpy array, got list"),
        (x, InvalidInputError, "out shares memory with x"),
        (parameter.ravel()[: good.size].reshape(good.shape), InvalidInputError, "out shares memory with"),
    ]
    for out, error, words in cases:
        with pytest.raises(error, match=words):
            layer.forward_graph(x, edges, out=out)


# --- small graphs -----------------------------------------------------------------------------------------------------------------


@every_form
def test_without_edges_a_node_gives_its_bias_or_itself(name, form):
    layer = draw(name, form, dtype="float64")
    x, attr = features(layer, 4, 0, np.float64)
    edges = Edges(*np.empty((2, 0), np.int64), attr)
    found = layer.forward_with_edges(x, x, x, [], *given(attr))
    np.testing.assert_allclose(found, oracle(layer, x, edges)[0], **close(np.float64))
    if name in ("gat", "gatv2", "edge-featured") and not layer.config.options["residual"]:
        bias = layer.parameters().get("b", np.zeros(found.shape[1]))
        np.testing.assert_allclose(found, np.broadcast_to(bias, found.shape), **close(np.float64))
    if not layer.config.options["add_self_loops"]:
        assert same_bits(layer.forward_graph(x, []), found)
        np.testing.assert_allclose(layer.forward_neighborhood(2, x, []), found[2], **close(np.float64))
        np.testing.assert_allclose(layer.forward_k_hop(2, x, [], 3), found[2], **close(np.float64))


@every_variant
@pytest.mark.parametrize("none", [[], (), np.empty((2, 0), np.int64), np.empty((2, 0), np.uint8)])
def test_a_graph_without_edges_may_come_in_any_form(name, none):
    layer, x, _, _ = small(name)
    np.testing.assert_array_equal(layer.forward_graph(x, none), layer.forward_graph(x, Graph(np.empty((2, 0), np.int64), 5)))


@every_form
def test_one_node_alone(name, form):
    layer = draw(name, form)
    x, _ = features(layer, 1, 0)
    assert_formula(layer.forward_graph(x, []), layer, x, attended(layer, x, np.empty((2, 0), np.int64)))
    looped = np.zeros((2, 3), np.int64)
    assert_formula(layer.forward_graph(x, looped), layer, x, attended(layer, x, looped))


@every_variant
def test_no_nodes_at_all_are_refused(name):
    layer = draw(name)
    with pytest.raises(InvalidInputError, match="x must not be empty"):
        layer.forward_graph(np.empty((0, EMBED), np.float32), [])


# --- extremes ---------------------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("factor", [0.0, 1e-45, 1e-38, 1e-20, 1e10, 1e15, 1e18])
def test_finite_features_give_finite_output(name, form, factor):
    layer = draw(name, form)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    x *= np.float32(factor)
    for features_of_edges in [[attr], [attr * np.float32(factor)]] if attr is not None else [[]]:
        out, weights = layer.forward_graph(x, edges, *features_of_edges, return_weights=True)
        assert np.isfinite(out).all()
        assert np.isfinite(weights.edges).all()
        assert np.isfinite(layer.forward_k_hop(0, x, edges, 3, decay=0.5)).all()


@every_variant
def test_float16_overflows_to_its_largest_number_at_most(name):
    layer = draw(name)
    x = np.full((3, EMBED), 60000, np.float16)
    for array in layer.parameters().values():
        array[...] = 1
    assert np.isfinite(layer.forward_graph(x, [(0, 1), (1, 2)])).all()


@pytest.mark.parametrize("name", SHARES)
def test_one_large_logit_takes_all(name):
    layer, x, edges, _ = small(name)
    x = x * np.float32(1e6)
    _, weights = layer.forward_graph(x, edges, return_weights=True)
    total = np.zeros((HEADS, 5), np.float32)
    for head in range(HEADS):
        np.add.at(total[head], edges[1], weights.edges[head])
    total += 0 if weights.loops is None else weights.loops
    np.testing.assert_allclose(total[:, [1, 2, 3]], 1, **close(np.float32))


# --- what is not finite -----------------------------------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_features_that_are_not_finite_are_refused(name, value, dtype):
    layer, x, edges, _ = small(name, dtype=DTYPES[dtype])
    x[3, 2] = value
    with pytest.raises(InvalidInputError, match=r"x must be finite, got -?(nan|inf) at index \(3, 2\): .* create the variant with check_finite"):
        layer.forward_graph(x, edges)
    for call in (lambda: layer.forward_neighborhood(3, x, edges), lambda: layer.forward_k_hop(3, x, edges, 1)):
        with pytest.raises(InvalidInputError, match="x must be finite"):
            call()


@every_variant
def test_each_input_that_is_not_finite_is_named(name):
    layer, x, edges, _ = small(name)
    wrong = np.where(np.arange(EMBED) == 1, np.float32(np.nan), x)
    for at, argument in enumerate(("query", "keys", "values")):
        arrays = [wrong if at == here else x for here in range(3)]
        with pytest.raises(InvalidInputError, match=f"{argument} must be finite"):
            layer.forward_with_edges(*arrays, edges)
    both = draw(name, key_dim=KEY)
    sources = np.ones((9, KEY), np.float32)
    for pair, argument in (((np.inf * sources, x), r"x\[0\]"), ((sources, wrong), r"x\[1\]")):
        with pytest.raises(InvalidInputError, match=f"{argument} must be finite"):
            both.forward_graph(pair, BIPARTITE)


@every_variant
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unchecked_it_touches_only_the_nodes_that_see_it(name, value):
    layer = draw(name, check_finite=False)
    x, _ = features(layer, 7, 0)
    edges = np.array([[0, 2, 4, 5], [1, 3, 5, 6]])
    expected = layer.forward_graph(x, edges)
    x[2, 1] = value
    found = layer.forward_graph(x, edges)
    untouched = [0, 1, 4, 5, 6]
    assert same_bits(found[untouched], expected[untouched])
    assert not np.isfinite(found[3]).all()


@pytest.mark.parametrize(("name", "form"), FEATURED.items())
@pytest.mark.parametrize("check_finite", [True, False])
def test_features_and_weights_of_edges_are_finite_always(name, form, check_finite):
    layer, x, edges, attr = small(name, form, check_finite=check_finite)
    for value in (np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="edge_attr must be finite"):
            layer.forward_graph(x, edges, np.where(attr == attr[1, 1], value, attr))
        with pytest.raises(InvalidInputError, match="edge_weight must be finite"):
            layer.forward_graph(x, edges, edge_weight=np.array([1, value, 1, 1]))
    with pytest.raises(InvalidInputError, match="edge_attr has numbers that aren't finite in float32"):
        layer.forward_graph(x, edges, attr.astype(np.float64) * 1e300)


# --- how much ---------------------------------------------------------------------------------------------------------------------


@every_variant
def test_more_incoming_edges_than_max_keys_are_refused(name):
    x = np.ones((6, EMBED), np.float32)
    edges = [(i, 0) for i in range(1, 5)] + [(0, 5)]
    options = {"max_keys": 4, "add_self_loops": False, **({"max_hops": 1} if name == "graph-rope" else {})}
    layer = draw(name, **options)
    assert layer.forward_graph(x, edges).shape == (6, EMBED)
    more = [*edges, (5, 0)]
    for call in (layer.forward_graph, lambda *args: layer.forward_neighborhood(0, *args), lambda *args: layer.forward_k_hop(0, *args, 1)):
        with pytest.raises(InputTooLargeError, match="a node has 5 incoming edges, and max_keys is 4: create the variant with a larger max_keys"):
            call(x, more)
    with pytest.raises(InputTooLargeError, match="5 incoming edges"):
        layer.forward_with_edges(x, x, x, more)
    assert draw(name, **{**options, "max_keys": None}).forward_graph(x, more).shape == (6, EMBED)
    assert layer.forward_neighborhood(5, x, more).shape == (EMBED,)


@pytest.mark.parametrize("name", ["gat", "gatv2", "graph-transformer"])
def test_max_keys_counts_the_edge_to_oneself(name):
    layer = draw(name, max_keys=2, add_self_loops=True)
    x = np.ones((3, EMBED), np.float32)
    assert layer.forward_graph(x, [(1, 0)]).shape == (3, EMBED)
    with pytest.raises(InputTooLargeError, match="3 incoming edges"):
        layer.forward_graph(x, [(1, 0), (2, 0)])


# --- edges ------------------------------------------------------------------------------------------------------------------------

BAD_EDGES = {
    "an id that is the number of nodes": ([(0, 5)], InvalidInputError, r"node ids from 0 to 4, got 5 at edge 0 \(row 1, the destinations\)"),
    "a source that is none": (np.array([[0, 9], [1, 2]]), InvalidInputError, r"got 9 at edge 1 \(row 0, the sources\)"),
    "a negative id": ([(0, 1), (-1, 2)], InvalidInputError, r"got -1 at edge 1 \(row 0"),
    "an id beyond 32 bits": (np.array([[2**32], [0]]), InvalidInputError, "got 4294967296"),
    "an id beyond 63 bits": (np.array([[2**63], [0]], np.uint64), InvalidInputError, "got 9223372036854775808"),
    "floats": (np.array([[0.0], [1.0]]), InvalidInputError, r"edge_index must be ints, got dtype float64: convert with .astype\(np.int64\)"),
    "pairs of floats": ([(0.0, 1.0)], InvalidInputError, "edge_index must be ints"),
    "NaN": (np.array([[np.nan], [1.0]]), InvalidInputError, "edge_index must be ints"),
    "booleans": (np.array([[True], [False]]), InvalidInputError, "edge_index must .*bool"),
    "text": ("01", InvalidInputError, "edge_index must be an int array"),
    "ids that are text": ([("0", "1")], InvalidInputError, "edge_index"),
    "nothing": (None, InvalidInputError, r"edge_index must be an int array \(2, E\) or a list of \(source, destination\) pairs, got NoneType"),
    "a mapping": ({0: 1}, InvalidInputError, "edge_index must be an int array"),
    "a set": ({(0, 1)}, InvalidInputError, "edge_index must be an int array"),
    "a number": (3, (InvalidInputError, DimensionMismatchError), "edge_index"),
    "pairs of different lengths": ([(0, 1), (2,)], AttentionError, "edge_index"),
    "an array of pairs": (np.array([(0, 1), (1, 2), (2, 3)]), DimensionMismatchError, "an array of pairs has to be turned: edge_index.T"),
    "one row": (np.zeros((1, 4), int), DimensionMismatchError, r"edge_index must have shape \(2, E\), got \(1, 4\)"),
    "three rows": (np.zeros((3, 4), int), DimensionMismatchError, r"got \(3, 4\)"),
    "three axes": (np.zeros((1, 2, 4), int), DimensionMismatchError, r"got \(1, 2, 4\)"),
    "two rows in a list": ([[0, 1, 2], [1, 2, 3]], DimensionMismatchError, r"pass np.array\(edge_index\) if it has the sources first"),
    "a matrix": (np.eye(5, dtype=int), DimensionMismatchError, "scipy.sparse.csr_array"),
    "a masked array": (np.ma.array([[0], [1]]), InvalidInputError, "masked"),
    "a graph of other nodes": (Graph([(0, 1)], 6), DimensionMismatchError, "5( rows|), and the graph 6 nodes: features have a row for each node"),
    "an adjacency of other nodes": (Graph([(0, 1)], 6).adjacency, DimensionMismatchError, "5( rows|), and the graph 6 nodes"),
    "a matrix of other nodes": (sp.csr_array((6, 6)), DimensionMismatchError, "5( rows|), and the graph 6 nodes"),
    "a bipartite graph": (Graph([(0, 1)], (4, 5)), DimensionMismatchError, "5( rows|), and the graph 4 sources and 5 destinations"),
    "two lists in a tuple": (([0, 1], [1, 2]), InvalidInputError, "tuple of two must have two arrays"),
    "a part of a graph": (Graph([(0, 1)], 5).subgraph([0, 1]), InvalidInputError, "graph is a Subgraph: pass its .graph"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_EDGES)
@every_variant
def test_edges_that_are_none_are_refused(name, wrong):
    layer, x, _, _ = small(name)
    edges, error, words = BAD_EDGES[wrong]
    calls = (
        lambda: layer.forward_graph(x, edges), lambda: layer.forward_neighborhood(0, x, edges), lambda: layer.forward_k_hop(0, x, edges, 2),
        lambda: layer.forward_with_edges(x, x, x, edges),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(error, match=words):
            call()


class Networkx:
    """Stands in for the module, as far as it is asked for."""

    class Graph:
        def __init__(self, nodes, edges):
            self.nodes, self._edges = range(nodes), edges

        def edges(self, data):
            return [(u, v, {}) for u, v in self._edges]

        def is_directed(self):
            return True


@every_variant
def test_a_graph_that_knows_its_nodes_is_compared_by_the_names_of_the_features(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", Networkx)
    layer, x, edges, _ = small(name)
    drawn = Networkx.Graph(5, edges.T.tolist())
    expected = layer.forward_graph(x, edges)
    for known in (drawn, Graph(edges, 5), Graph(edges, 5).adjacency, sp.coo_array((np.ones(4, bool), edges), shape=(5, 5))):
        np.testing.assert_allclose(layer.forward_graph(x, known), expected, **close(np.float32))
        assert layer.forward_with_edges(x, x.copy(), x, known).shape[0] == 5
        with pytest.raises(DimensionMismatchError, match="^x has 4 rows, and the graph 5 nodes: features have a row for each node"):
            layer.forward_graph(x[:4], known)
        with pytest.raises(DimensionMismatchError, match="^keys has 5 rows and query 4, and the graph 5 nodes"):
            layer.forward_with_edges(x[:4], x, x, known)
    with pytest.raises(DimensionMismatchError, match="4 sources and 5 destinations: of a bipartite graph pass a pair"):
        layer.forward_graph(x, Graph([(0, 1)], (4, 5)))


# --- features ---------------------------------------------------------------------------------------------------------------------

BAD_FEATURES = {
    "another width": (lambda x: x[:, 1:], DimensionMismatchError, "x must have width 6, got 5"),
    "one node": (lambda x: x[0], DimensionMismatchError, r"x must have 2 axes, got shape \(6,\): features of nodes are \(N, width\)"),
    "several graphs": (lambda x: np.stack([x, x]), DimensionMismatchError, "Graph.batch makes one graph of several"),
    "too few nodes": (lambda x: x[:3], InvalidInputError, "node ids from 0 to 2, got 3"),
    "nothing": (lambda x: None, InvalidInputError, "x must be an array, got None"),
    "text": (lambda x: "x", (InvalidInputError, UnsupportedError, DimensionMismatchError), "x"),
    "integers": (lambda x: x.astype(int), UnsupportedError, r"x has dtype int64: .*x.astype\('float32'\)"),
    "complex numbers": (lambda x: x.astype(complex), UnsupportedError, "x has dtype complex128"),
    "objects": (lambda x: x.astype(object), UnsupportedError, "x has dtype object"),
    "a masked array": (np.ma.array, InvalidInputError, "x is a masked array"),
    "ragged lists": (lambda x: [[1.0], [1.0, 2.0]], InvalidInputError, "x is no array of numbers"),
    "three arrays": (lambda x: (x, x, x), InvalidInputError, "x must be an array, or a pair of arrays for a bipartite graph, got a tuple of 3"),
    "no arrays": (lambda x: (), InvalidInputError, "got a tuple of 0"),
    "a pair of two dtypes": (lambda x: (x, x.astype(np.float64)), UnsupportedError, "must share one dtype"),
    "a pair with None": (lambda x: (x, None), InvalidInputError, r"x\[1\] must be an array, got None"),
    "a list of two": (lambda x: [x, x], (InvalidInputError, DimensionMismatchError), "got a list of arrays"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_FEATURES)
@every_variant
def test_features_that_do_not_fit_are_refused(name, wrong):
    layer, x, edges, _ = small(name)
    make, error, words = BAD_FEATURES[wrong]
    for call in (
        lambda: layer.forward_graph(make(x), edges), lambda: layer.forward_neighborhood(0, make(x), edges),
        lambda: layer.forward_k_hop(0, make(x), edges, 2),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            call()


@every_variant
def test_a_variant_of_two_widths_asks_for_a_pair(name):
    layer = draw(name, key_dim=KEY)
    x, sources = np.ones((5, EMBED), np.float32), np.ones((9, KEY), np.float32)
    assert layer.forward_graph((sources, x), BIPARTITE).shape == (5, EMBED)
    for wrong, error, words in (
        (x, DimensionMismatchError, r"x must be a pair, of sources \(Ns, 5\) and destinations \(Nd, 6\), got one array of shape \(5, 6\)"),
        ((x, sources), DimensionMismatchError, r"x\[1\] must have width 6, got 5"),
        ((sources[:8], x), InvalidInputError, r"node ids from 0 to 7, got 8 at edge 1 \(row 0, the sources\)"),
        ((sources, x[:4]), InvalidInputError, r"node ids from 0 to 3, got 4 at edge 1 \(row 1, the destinations\)"),
    ):
        with pytest.raises(error, match=words):
            layer.forward_graph(wrong, BIPARTITE)


@every_variant
def test_forward_with_edges_names_what_does_not_fit(name):
    layer, x, edges, _ = small(name)
    for arrays, words in (
        ((x[0], x, x), r"query must have 2 axes, got shape \(6,\): a single one is query\[None\]"), ((x[None], x, x), "query must have 2 axes"),
        ((x, x[0], x), "keys must have 2 axes"), ((x, x, x[None]), "values must have 2 axes"),
        ((x[:, 1:], x, x), "query must have width 6, got 5"), ((x, x[:, 1:], x), "keys must have width 6, got 5"),
        ((x, x, x[:4]), "values must have a row for each key: expected 5 rows, got 4"),
    ):  # fmt: skip
        with pytest.raises(DimensionMismatchError, match=words):
            layer.forward_with_edges(*arrays, edges)


@pytest.mark.parametrize(("name", "form"), FEATURED.items())
def test_features_of_edges_that_do_not_fit_are_refused(name, form):
    layer, x, edges, attr = small(name, form)
    for wrong, error, words in (
        (attr[:3], DimensionMismatchError, r"edge_attr must have a row for each of the 4 edges, got shape \(3, 3\)"),
        (np.concatenate([attr, attr]), DimensionMismatchError, "a row for each of the 4 edges"),
        (attr[:, :2], DimensionMismatchError, r"edge_attr must have 3 columns, the edge_dim of the variant, got"),
        (attr[:, 0], DimensionMismatchError, "edge_attr must have 3 columns"),
        (attr[:, :0], DimensionMismatchError, "F at least 1"),
        (attr[None], DimensionMismatchError, r"edge_attr must have shape \(E, F\)"),
        (np.float32(1), DimensionMismatchError, "edge_attr must have shape"),
        (attr.astype(complex), UnsupportedError, "edge_attr has dtype complex128"),
        ("attr", UnsupportedError, "edge_attr has dtype"),
        (Graph(edges, 5), AttentionError, "edge_attr"),
    ):
        for call in (
            lambda: layer.forward_graph(x, edges, wrong), lambda: layer.forward_with_edges(x, x, x, edges, wrong),  # noqa: B023
            lambda: layer.forward_neighborhood(0, x, edges, wrong),  # noqa: B023
        ):  # fmt: skip
            with pytest.raises(error, match=words):
                call()
    with pytest.raises(DimensionMismatchError, match="edge_attr must have 3 columns"):
        layer.forward_graph(x, Graph(edges, 5, edge_attr=np.ones((4, 2))))


@every_variant
def test_features_of_edges_without_edge_dim_are_refused(name):
    if name == "edge-featured":
        with pytest.raises(InvalidInputError, match="edge_dim must be the width of the features of an edge, got None: variant 'gat' does without"):
            ruvattn.create(name, embed_dim=8, edge_dim=None)
        return
    layer, x, edges, _ = small(name)
    attr = np.ones((4, EDGE), np.float32)
    words = f"edge_attr must be left out: the variant '{name}' was created without edge_dim"
    for call in (
        lambda: layer.forward_graph(x, edges, attr), lambda: layer.forward_with_edges(x, x, x, edges, attr),
        lambda: layer.forward_neighborhood(0, x, edges, attr),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=words):
            call()


# --- other arguments --------------------------------------------------------------------------------------------------------------


@every_variant
def test_a_node_that_is_none_is_refused(name):
    layer, x, edges, _ = small(name)
    wrong = {5: "node must be from 0 to 4, got 5", -1: "node must be an int", 1.5: "got 1.5", True: "got True", "1": "node", None: "node"}
    for node, words in wrong.items():
        with pytest.raises(InvalidInputError, match=words):
            layer.forward_neighborhood(node, x, edges)
        with pytest.raises(InvalidInputError, match=words):
            layer.forward_k_hop(node, x, edges, 2)
    assert same_bits(layer.forward_neighborhood(np.int8(1), x, edges), layer.forward_neighborhood(1, x, edges))


@every_variant
def test_hops_and_a_decay_that_are_none_are_refused(name):
    layer, x, edges, _ = small(name)
    for k in (0, -1, 1.5, True, None, "2"):
        with pytest.raises(InvalidInputError, match="k must be an int from 1"):
            layer.forward_k_hop(0, x, edges, k)
    for decay in (0, 0.0, -0.5, 1.5, np.nan, np.inf, True, "0.5", [0.5]):
        with pytest.raises(InvalidInputError, match=r"decay must be in \(0, 1\]"):
            layer.forward_k_hop(0, x, edges, 2, decay=decay)
    expected = layer.forward_k_hop(1, x, edges, 5)
    for k in (10**9, 2**64, 10**30, np.int64(5)):
        assert same_bits(layer.forward_k_hop(1, x, edges, k), expected)


@every_variant
def test_options_of_a_call_that_make_no_sense_are_refused(name):
    layer, x, edges, _ = small(name)
    for options, words in (
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"), ({"dropout": -0.1}, "dropout"), ({"dropout": "half"}, "dropout"),
        ({"dropout": 0.5, "seed": -1}, "seed"), ({"dropout": 0.5, "seed": 1.5}, "seed"), ({"threads": 0}, "threads"), ({"threads": 1.5}, "threads"),
        ({"return_weights": 1}, "return_weights must be True or False"), ({"return_weights": "yes"}, "return_weights"),
        ({"edge_weight": [1.0]}, r"edge_weight must have shape \(E,\) with E = 4"), ({"edge_weight": np.ones((4, 2))}, "edge_weight must have shape"),
        ({"edge_weight": "1"}, "edge_weight"), ({"edge_weight": 2.0}, "edge_weight must have shape"),
    ):  # fmt: skip
        with pytest.raises(AttentionError, match=words):
            layer.forward_graph(x, edges, **options)


BAD_OPTIONS = [
    ({"embed_dim": 0}, "embed_dim"), ({"embed_dim": 8.0}, "embed_dim"), ({"num_heads": 0}, "num_heads"), ({"num_heads": True}, "num_heads"),
    ({"num_heads": 3}, "num_heads must divide embed_dim, which is 8, where head_dim is not given, got 3"), ({"head_dim": 0}, "head_dim"),
    ({"head_dim": 2.5}, "head_dim"), ({"key_dim": 0}, "key_dim"), ({"key_dim": "8"}, "key_dim"), ({"concat": 1}, "concat must be True or False"),
    ({"add_self_loops": None}, "add_self_loops must be True or False"), ({"bias": "no"}, "bias must be True or False"), ({"seed": -1}, "seed"),
    ({"seed": 1.5}, "seed"), ({"dtype": "float16"}, "dtype of the parameters must be float32 or float64, got 'float16'"), ({"dtype": 7}, "dtype"),
    ({"dropout_rate": 1.0}, "dropout_rate"), ({"softcap": 0.0}, "softcap"), ({"softcap": np.inf}, "softcap"), ({"check_finite": 1}, "check_finite"),
    ({"max_keys": 0}, "max_keys"), ({"max_keys": 1.5}, "max_keys"), ({"hedas": 2}, "has no option 'hedas'; its options: embed_dim, num_heads"),
    ({"score": "dot"}, "has no option 'score'"), ({"causal": True}, "has no option 'causal'"), ({"own": {}}, "has no option 'own'"),
    ({"scale": 1.0, "window": (1, 1)}, "has no option 'scale', 'window'"),
]  # fmt: skip
OWN_BAD_OPTIONS = {
    "gat": [({"negative_slope": -0.1}, "negative_slope"), ({"negative_slope": np.nan}, "negative_slope"), ({"residual": 1}, "residual"),
            ({"edge_dim": 0}, "edge_dim"), ({"edge_dim": 1.0}, "edge_dim"), ({"beta": True}, "has no option 'beta'")],
    "gatv2": [({"negative_slope": "x"}, "negative_slope"), ({"share_weights": 1}, "share_weights"), ({"residual": None}, "residual"),
              ({"edge_dim": -1}, "edge_dim"),
              ({"share_weights": True, "key_dim": 4}, "share_weights must be False where key_dim, 4, is not embed_dim, 8")],
    "graph-transformer": [({"beta": 1}, "beta"), ({"root_weight": "yes"}, "root_weight"), ({"edge_dim": True}, "edge_dim"),
                          ({"negative_slope": 0.2}, "has no option 'negative_slope'")],
    "edge-featured": [({"edge_dim": 0}, "edge_dim"), ({"edge_dim": None}, "edge_dim"), ({"residual": 2}, "residual")],
    "graph-rope": [({"max_hops": 0}, "max_hops"), ({"max_hops": 1.5}, "max_hops"), ({"base": 0}, "base"), ({"base": np.inf}, "base"),
                   ({"root_weight": 1}, "root_weight"), ({"edge_dim": 3}, "has no option 'edge_dim'"), ({"beta": True}, "has no option 'beta'")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "words"), [(name, *case) for name in NAMES for case in BAD_OPTIONS + OWN_BAD_OPTIONS[name]])
def test_options_that_make_no_sense_are_refused_by_name(name, options, words):
    with pytest.raises(InvalidInputError, match=words):
        ruvattn.create(name, **{"embed_dim": 8, **options})


@every_variant
def test_parameters_beyond_the_memory_are_a_memory_error(name):
    with pytest.raises(MemoryError, match="cannot be allocated"):
        ruvattn.create(name, embed_dim=8, head_dim=2**60)


def test_every_variant_is_tried():
    assert set(NAMES) == set(OPTIONS) == set(OWN_BAD_OPTIONS)
