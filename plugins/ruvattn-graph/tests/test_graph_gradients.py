"""Gradients of graph variants: of all features and parameters, against differences, in every form of a variant and of a call, in float64.

Along random directions u: the gradient's product with u is the slope of the loss along u. What is tiny beside the largest of its kind counts as much
as that allows.
"""

from __future__ import annotations

import numpy as np
import pytest

import ruvattn

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from graph_oracle import EDGE, EMBED, OPTIONS, draw

from ruvattn_graph import Graph

FORMS = {
    **OPTIONS,
    "gin": {
        "plain": {},
        "narrow, trained eps": {"hidden_dim": 3, "train_eps": True, "eps": 0.4},
        "wide, trained eps": {"hidden_dim": 11, "train_eps": True, "eps": -0.3},
        "without bias": {"hidden_dim": 5, "bias": False, "eps": 0.5},
    },
    "sage": {
        "mean": {},
        "narrow mean": {"head_dim": 2, "normalize": True, "add_self_loops": True},
        "narrow mean, no root": {"head_dim": 1, "root_weight": False, "bias": False},
        "narrow mean, no root, bias": {"head_dim": 1, "root_weight": False},
        "max": {"aggregation": "max", "normalize": True},
        "pool": {"aggregation": "pool", "head_dim": 4},
        "attention": {"aggregation": "attention", "head_dim": 4, "negative_slope": 0.4},
        "attention, normalised": {"aggregation": "attention", "normalize": True, "add_self_loops": True, "root_weight": False},
    },
}
EVERY = [(name, form) for name, forms in FORMS.items() for form in forms]
every_form = pytest.mark.parametrize(("name", "form"), EVERY, ids=[f"{name}-{form}" for name, form in EVERY])

NODES, EDGES = 11, 40


def made(name, form, **options):
    return draw(name, "", **{"dtype": "float64", **FORMS[name][form], **options})


def numbers(*shape, seed=0):
    return np.random.default_rng([6, seed, *shape]).standard_normal(shape)


def edges_of(sources=NODES, targets=NODES, seed=0):
    """Some edges twice, some loops, and a destination without any."""
    rng = np.random.default_rng([7, seed])
    return np.stack([rng.integers(0, sources, EDGES), rng.integers(0, targets - 1, EDGES)])


def attr_of(layer, edges):
    return numbers(edges.shape[1], layer.edge_dim, seed=3) if layer.edge_dim else None


def assert_gradients(call, layer, arrays, gradients_of):
    """The slopes along two directions of each array and of each parameter are what `backward` says."""
    out = call()
    upstream = numbers(*out.shape, seed=1)
    found = layer.backward(upstream)
    expected = {**arrays, **layer.parameters()}
    gradients = {**gradients_of(found), **found.params}
    assert gradients.keys() == expected.keys()
    for name, array in expected.items():
        gradient = gradients[name]
        assert gradient.shape == array.shape, name
        assert gradient.dtype == array.dtype, name
        for seed in range(2):
            along = numbers(*array.shape, seed=10 + seed)
            slope = np.vdot(differences(call, array, along), upstream)
            scale = max(1.0, float(np.abs(gradient).max(initial=0.0)))
            assert abs(np.vdot(gradient, along) - slope) <= 1e-6 * scale, name


def differences(call, array, along):
    """How fast the output changes along a direction of an array: of four points, so that the third power of the step has no part."""
    before, step, found = array.copy(), 1e-5, 0.0
    for factor, share in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        array[...] = before + factor * step * along
        found = found + share * call()
    array[...] = before
    return found / (12 * step)


def of_one(found):
    return {"x": found.total()}


# --- every variant ----------------------------------------------------------------------------------------------------------------


@every_form
def test_gradients_of_a_graph_call(name, form):
    layer, x, edges = made(name, form), numbers(NODES, EMBED), edges_of()
    attr = attr_of(layer, edges)
    arrays = {"x": x} if attr is None else {"x": x, "edge_attr": attr}
    assert_gradients(
        lambda: layer.forward_graph(x, edges, attr), layer, arrays, lambda g: of_one(g) if attr is None else {**of_one(g), "edge_attr": g.edge_attr}
    )


@every_form
def test_gradients_with_weights_of_edges_and_dropout(name, form):
    layer, x, edges = made(name, form, output_dropout=0.2), numbers(NODES, EMBED), edges_of()
    weights = np.random.default_rng(1).random(EDGES)
    weights[::7] = 0
    layer.train()
    assert_gradients(lambda: layer.forward_graph(x, edges, edge_weight=weights, dropout=0.3, seed=8), layer, {"x": x}, of_one)


@every_form
def test_gradients_of_a_bipartite_graph(name, form):
    wide = {} if name == "gin" or "share_weights" in FORMS[name][form] else {"key_dim": 5}
    layer = made(name, form, **wide)
    source, target, edges = numbers(NODES - 2, layer.key_dim), numbers(NODES, EMBED, seed=1), edges_of(NODES - 2)
    assert_gradients(
        lambda: layer.forward_graph((source, target), edges), layer, {"target": target, "source": source},
        lambda g: {"target": g.query, "source": g.sources()},
    )  # fmt: skip


@every_form
def test_gradients_of_edges_from_keys_to_queries(name, form):
    layer, edges = made(name, form), edges_of()
    query, keys, values = (numbers(NODES, EMBED, seed=seed) for seed in range(3))
    attr = attr_of(layer, edges)
    arrays = {"query": query, "keys": keys, "values": values, **({} if attr is None else {"edge_attr": attr})}
    assert_gradients(
        lambda: layer.forward_with_edges(query, keys, values, edges, attr), layer, arrays,
        lambda g: {"query": g.query, "keys": g.keys, "values": g.values, **({} if attr is None else {"edge_attr": g.edge_attr})},
    )  # fmt: skip


@every_form
def test_gradients_of_a_neighborhood(name, form):
    layer, x, edges = made(name, form), numbers(NODES, EMBED), edges_of()
    attr = attr_of(layer, edges)
    arrays = {"x": x} if attr is None else {"x": x, "edge_attr": attr}
    node = int(edges[1, 0])
    assert_gradients(
        lambda: layer.forward_neighborhood(node, x, edges, attr), layer, arrays,
        lambda g: of_one(g) if attr is None else {**of_one(g), "edge_attr": g.edge_attr},
    )  # fmt: skip


@every_form
def test_gradients_of_a_few_hops(name, form):
    layer, x, edges = made(name, form), numbers(NODES, EMBED), edges_of()
    assert_gradients(lambda: layer.forward_k_hop(int(edges[1, 0]), x, edges, 2, decay=0.5), layer, {"x": x}, of_one)


@every_form
def test_gradients_of_a_call_without_a_graph(name, form):
    layer = made(name, form)
    q, k, v = numbers(2, 4, EMBED), numbers(2, 7, EMBED, seed=1), numbers(2, 7, EMBED, seed=2)
    mask = np.random.default_rng(0).random((4, 7)) < 0.7
    assert_gradients(
        lambda: layer(q, k, v, mask=mask, dropout=0.2, seed=3), layer, {"q": q, "k": k, "v": v}, lambda g: {"q": g.query, "k": g.keys, "v": g.values}
    )


@pytest.mark.parametrize("name", list(FORMS))
def test_gradients_of_one_query(name):
    layer = made(name, next(iter(FORMS[name])))
    query, keys, values = numbers(EMBED), numbers(6, EMBED, seed=1), numbers(6, EMBED, seed=2)
    assert_gradients(
        lambda: layer.forward(query, keys, values), layer, {"query": query, "keys": keys, "values": values},
        lambda g: {"query": g.query, "keys": g.keys, "values": g.values},
    )  # fmt: skip


@every_form
@pytest.mark.parametrize("edges", [0, 1], ids=["no edges", "one edge"])
def test_gradients_where_nodes_have_no_edges(name, form, edges):
    layer, x = made(name, form), numbers(3, EMBED)
    edge_index = edges_of(3, 3)[:, :edges]
    assert_gradients(lambda: layer.forward_graph(x, edge_index), layer, {"x": x}, of_one)


@pytest.mark.parametrize("name", ["gat", "graph-transformer"])
def test_gradients_of_a_row_that_is_longer_than_a_tile(name):
    """And with so many edges at a node that its row is cut into pieces."""
    layer, x = made(name, "edges"), numbers(30, EMBED)
    rng = np.random.default_rng(0)
    edges = np.concatenate([np.stack([rng.integers(0, 30, 5000), np.full(5000, 4)]), rng.integers(0, 30, (2, 100))], axis=1)
    attr = numbers(edges.shape[1], EDGE)
    assert_gradients(
        lambda: layer.forward_graph(x, edges, attr), layer, {"x": x, "edge_attr": attr}, lambda g: {**of_one(g), "edge_attr": g.edge_attr}
    )


@pytest.mark.parametrize("how", ["mean", "max"])
def test_gradients_of_aggregations_over_a_hub(how):
    layer, x = made("sage", "mean", aggregation=how), numbers(30, EMBED)
    rng = np.random.default_rng(0)
    edges = np.concatenate([np.stack([rng.integers(0, 30, 5000), np.full(5000, 4)]), rng.integers(0, 30, (2, 100))], axis=1)
    assert_gradients(lambda: layer.forward_graph(x, edges), layer, {"x": x}, of_one)


# --- self-loops -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["replace", "add", "missing"])
@pytest.mark.parametrize("fill", ["mean", "add", "min", "max", "mul", 0.5])
def test_gradients_through_the_features_of_added_loops(fill, how):
    from ruvattn_graph.self_loops import loops_vjp

    edges, attr = edges_of(), numbers(EDGES, 2)
    attr[::9] = 0  # for the product
    upstream = None

    def call():
        return Graph(edges, NODES, edge_attr=attr).with_self_loops(how, fill_value=fill).csr_edge_attr()

    graph = Graph(edges, NODES, edge_attr=attr)
    upstream = numbers(*call().shape, seed=1)
    found = graph.to_given_order(loops_vjp(graph, graph.with_self_loops(how, fill_value=fill)._looped, upstream))
    for seed in range(3):
        along = numbers(EDGES, 2, seed=10 + seed)
        if fill in ("min", "max"):
            along[::9] = 0  # where several are equal, there is no slope
        assert np.vdot(found, along) == pytest.approx(np.vdot(differences(call, attr, along), upstream), rel=1e-6, abs=1e-8)


# --- what gradients are of --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(FORMS))
def test_gradients_follow_a_permutation_of_the_nodes(name):
    layer, x, edges = made(name, next(iter(FORMS[name]))), numbers(NODES, EMBED), edges_of()
    attr = attr_of(layer, edges)
    out = layer.forward_graph(x, edges, attr)
    upstream = numbers(*out.shape, seed=1)
    before = layer.backward(upstream)
    order = np.random.default_rng(3).permutation(NODES)
    place = np.argsort(order)
    layer.forward_graph(x[order], place[edges], attr)
    after = layer.backward(upstream[order])
    np.testing.assert_allclose(after.total(), before.total()[order], rtol=1e-10, atol=1e-12)
    for parameter, gradient in before.params.items():
        np.testing.assert_allclose(after.params[parameter], gradient, rtol=1e-9, atol=1e-11)
    if attr is not None:
        np.testing.assert_allclose(after.edge_attr, before.edge_attr, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", list(FORMS))
def test_the_gradient_of_one_node_is_that_of_its_row(name):
    layer, x, edges = made(name, next(iter(FORMS[name]))), numbers(NODES, EMBED), edges_of()
    attr, node = attr_of(layer, edges), int(edges[1, 0])
    out = layer.forward_graph(x, edges, attr)
    upstream = np.zeros_like(out)
    upstream[node] = numbers(out.shape[1], seed=1)
    whole = layer.backward(upstream)
    layer.forward_neighborhood(node, x, edges, attr)
    row = layer.backward(upstream[node])
    np.testing.assert_allclose(row.total(), whole.total(), rtol=1e-10, atol=1e-12)
    for parameter, gradient in whole.params.items():
        np.testing.assert_allclose(row.params[parameter], gradient, rtol=1e-9, atol=1e-11)


def test_of_equal_largest_numbers_the_first_has_the_gradient():
    layer = ruvattn.create("sage", embed_dim=1, aggregation="max", root_weight=False, dtype="float64")
    layer.parameters()["W_l"][...] = 1
    layer.forward_graph(np.array([[5.0], [5.0], [0.0]]), [(1, 2), (0, 2)])
    np.testing.assert_array_equal(layer.backward(np.ones((3, 1))).total()[:, 0], [0, 1, 0])


def test_a_row_of_zeros_that_is_normalised_has_no_gradient():
    layer = ruvattn.create("sage", embed_dim=2, normalize=True, bias=False, dtype="float64")
    layer.forward_graph(np.zeros((2, 2)), [(0, 1)])
    np.testing.assert_array_equal(layer.backward(np.ones((2, 2))).total(), 0)


@pytest.mark.parametrize("name", list(FORMS))
def test_float32_is_close_to_float64(name):
    form = next(iter(FORMS[name]))
    wide, narrow = made(name, form), draw(name, "", dtype="float32", **FORMS[name][form])
    narrow.load_state_dict(wide.parameters())
    x, edges = numbers(NODES, EMBED), edges_of()
    attr = attr_of(wide, edges)
    upstream = numbers(*wide.forward_graph(x, edges, attr).shape, seed=1)
    expected = wide.backward(upstream)
    narrow.forward_graph(x.astype(np.float32), edges, None if attr is None else attr.astype(np.float32))
    found = narrow.backward(upstream.astype(np.float32))
    assert found.total().dtype == np.float32
    for parameter, gradient in expected.params.items():
        scale = max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(found.params[parameter], gradient, rtol=0, atol=5e-5 * scale)
    np.testing.assert_allclose(found.total(), expected.total(), rtol=0, atol=5e-5 * max(1.0, float(np.abs(expected.total()).max())))
