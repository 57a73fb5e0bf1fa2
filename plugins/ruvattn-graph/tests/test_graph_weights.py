"""Weights: of edges as they come out, of edges as they go in, what is dropped of them, and what a variant remembers of a call."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ruvattn.errors import InputTooLargeError, InvalidInputError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from graph_oracle import (
    EMBED,
    EVERY,
    HEADS,
    KEY,
    NAMES,
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

from ruvattn_graph import EdgeWeights, Graph, GraphContext
from ruvattn_graph.variants.context import weights_by_edge

every_variant = pytest.mark.parametrize("name", NAMES)
ALONG_EDGES = [name for name in NAMES if name != "graph-rope"]  # graph-rope attends along pairs of its own, whose weights are tested with its hops
along_edges = pytest.mark.parametrize("name", ALONG_EDGES)
FORMS = [(name, form) for name, form in EVERY if name in ALONG_EDGES]
LOOPED = [(name, form) for name, form in FORMS if draw(name, form).config.options["add_self_loops"]]


def given(*optional):
    return [argument for argument in optional if argument is not None]


def case(name, form="plain", shape="edges many times", dtype=np.float32, **options):
    layer = draw(name, form, **options)
    nodes, edges = graph(shape)
    x, attr = features(layer, nodes, edges.shape[1], dtype)
    return layer, x, edges, attr


def totals(weights, edges, nodes):
    """The sum of the weights that come in at each node, (H, N)."""
    found = np.zeros((len(weights.edges), nodes))
    for head in range(len(found)):
        np.add.at(found[head], edges[1], weights.edges[head].astype(np.float64))
    return found if weights.loops is None else found + weights.loops


# --- as they come out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("shape", ["simple", "edges many times", "hub"])
def test_weights_are_those_of_the_edges_as_they_were_given(name, form, shape):
    layer, x, edges, attr = case(name, form, shape)
    out, weights = layer.forward_graph(x, edges, *given(attr), return_weights=True)
    assert isinstance(weights, EdgeWeights)
    along = attended(layer, x, edges, attr)
    expected = oracle(layer, x, along)[1]
    loops = layer.config.options["add_self_loops"]
    kept = edges[0] != edges[1] if loops else np.ones(edges.shape[1], bool)
    assert weights.edges.shape == (HEADS, edges.shape[1])
    assert weights.edges.dtype == x.dtype
    np.testing.assert_allclose(weights.edges[:, kept], expected[:, : kept.sum()], **close(np.float32))
    assert not weights.edges[:, ~kept].any()
    if loops:
        np.testing.assert_allclose(weights.loops, expected[:, kept.sum() :], **close(np.float32))
    else:
        assert weights.loops is None
    assert same_bits(out, layer.forward_graph(x, edges, *given(attr)))


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_weights_sum_to_one_at_every_node_that_has_edges(name, form):
    layer, x, edges, attr = case(name, form)
    _, weights = layer.forward_graph(x, edges, *given(attr), return_weights=True)
    has = np.bincount(edges[1], minlength=len(x)) > 0
    assert not has.all()
    expected = np.where(has | (weights.loops is not None), 1.0, 0.0)
    np.testing.assert_allclose(totals(weights, edges, len(x)), np.broadcast_to(expected, (HEADS, len(x))), **close(np.float32))


@pytest.mark.parametrize(("name", "form"), LOOPED)
def test_of_a_node_without_edges_the_loop_has_all_weight(name, form):
    layer, x, _, _ = case(name, form)
    _, weights = layer.forward_graph(x, [], return_weights=True)
    assert weights.edges.shape == (HEADS, 0)
    np.testing.assert_array_equal(weights.loops, np.ones((HEADS, len(x)), np.float32))


@along_edges
def test_edges_between_the_same_nodes_have_equal_weights(name):
    layer = draw(name)
    x, _ = features(layer, 4, 0)
    _, weights = layer.forward_graph(x, [(1, 0), (2, 0), (1, 0), (3, 1)], return_weights=True)
    np.testing.assert_array_equal(weights.edges[:, 0], weights.edges[:, 2])


@along_edges
def test_weights_of_a_bipartite_graph(name):
    layer = draw(name, key_dim=KEY)
    rng = np.random.default_rng(0)
    edges = np.stack([rng.integers(0, 9, 30), rng.integers(0, 5, 30)])
    x = rng.standard_normal((9, KEY)).astype(np.float32), rng.standard_normal((6, EMBED)).astype(np.float32)
    _, weights = layer.forward_graph(x, edges, return_weights=True)
    along = attended(layer, x, edges)
    expected = oracle(layer, x, along)[1]
    kept = edges[0] != edges[1] if layer.config.options["add_self_loops"] else np.ones(30, bool)
    np.testing.assert_allclose(weights.edges[:, kept], expected[:, : kept.sum()], **close(np.float32))
    assert weights.loops is None or weights.loops.shape == (HEADS, 6)


@along_edges
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_have_the_dtype_of_the_features(name, dtype):
    layer, x, edges, attr = case(name, dtype=dtype)
    _, weights = layer.forward_graph(x, edges, *given(attr), return_weights=True)
    assert weights.edges.dtype == dtype
    assert weights.loops is None or weights.loops.dtype == dtype


# --- as they go in ----------------------------------------------------------------------------------------------------------------


@along_edges
def test_an_edge_of_weight_two_is_two_edges(name):
    layer, x, edges, attr = case(name, dtype=np.float64, add_self_loops=False)
    twice = np.random.default_rng(0).random(edges.shape[1]) < 0.4
    every = [np.arange(edges.shape[1]), np.flatnonzero(twice)]
    doubled = np.concatenate(every)
    found = layer.forward_graph(x, edges, *given(attr), edge_weight=1 + twice)
    expected = layer.forward_graph(x, edges[:, doubled], *given(None if attr is None else attr[doubled]))
    np.testing.assert_allclose(found, expected, **close(np.float64))


@along_edges
@pytest.mark.parametrize("shape", ["edges many times", "hub"])
def test_an_edge_of_weight_zero_is_none(name, shape):
    layer, x, edges, attr = case(name, shape=shape, dtype=np.float64, add_self_loops=False)
    weight = (np.random.default_rng(0).random(edges.shape[1]) < 0.5).astype(float)
    weight[edges[1] == 3] = 0  # all that come in at one node
    some = weight > 0
    found, weights = layer.forward_graph(x, edges, *given(attr), edge_weight=weight, return_weights=True)
    expected, other = layer.forward_graph(x, edges[:, some], *given(None if attr is None else attr[some]), return_weights=True)
    np.testing.assert_allclose(found, expected, **close(np.float64))
    np.testing.assert_allclose(weights.edges[:, some], other.edges, **close(np.float64))
    assert not weights.edges[:, ~some].any()


@along_edges
def test_what_an_edge_of_weight_zero_comes_from_has_no_influence(name):
    layer, x, edges, attr = case(name, check_finite=False, add_self_loops=False)
    weight = np.where(edges[0] == 2, 0.0, 1.0)
    expected = layer.forward_graph(x, edges, *given(attr), edge_weight=weight)
    x[2] = np.nan
    found = layer.forward_graph(x, edges, *given(attr), edge_weight=weight)
    np.testing.assert_allclose(np.delete(found, 2, axis=0), np.delete(expected, 2, axis=0), **close(np.float32))


@along_edges
@pytest.mark.parametrize("factor", [1e-30, 7.0, 1e30])
def test_a_factor_of_all_weights_cancels(name, factor):
    layer, x, edges, attr = case(name, dtype=np.float64, add_self_loops=False)
    weight = np.random.default_rng(0).random(edges.shape[1])
    found = layer.forward_graph(x, edges, *given(attr), edge_weight=factor * weight)
    np.testing.assert_allclose(found, layer.forward_graph(x, edges, *given(attr), edge_weight=weight), **close(np.float64))


@pytest.mark.parametrize(("name", "form"), LOOPED)
def test_a_loop_that_is_added_weighs_one(name, form):
    layer, x, edges, attr = case(name, form)
    weight = np.random.default_rng(0).random(edges.shape[1]).astype(np.float32)
    along = attended(layer, x, edges, attr, weight)
    out, weights = layer.forward_graph(x, edges, *given(attr), edge_weight=weight, return_weights=True)
    assert_formula(out, layer, x, along)
    np.testing.assert_allclose(weights.loops, oracle(layer, x, along)[1][:, -len(x) :], **close(np.float32))


@along_edges
def test_weights_that_are_passed_take_the_place_of_the_graphs(name):
    layer, x, edges, _ = case(name)
    rng = np.random.default_rng(0)
    mine, other = rng.random((2, edges.shape[1]))
    built = Graph(edges, len(x), edge_weight=mine)
    assert same_bits(layer.forward_graph(x, built), layer.forward_graph(x, edges, edge_weight=mine))
    assert same_bits(layer.forward_graph(x, built, edge_weight=other), layer.forward_graph(x, edges, edge_weight=other))


@along_edges
def test_a_softmax_has_no_negative_shares(name):
    layer, x, edges, _ = case(name)
    at = int(np.flatnonzero(edges[0] != edges[1])[0])  # a loop may be replaced
    weight = np.ones(edges.shape[1])
    weight[at] = -0.25
    words = f"edge_weight must be at least 0, since '{name}' makes shares of them, got -0.25"
    built = Graph(edges, len(x), edge_weight=weight)
    for call in (
        lambda: layer.forward_graph(x, edges, edge_weight=weight), lambda: layer.forward_graph(x, built),
        lambda: layer.forward_with_edges(x, x, x, edges, edge_weight=weight), lambda: layer.forward_with_edges(x, x, x, built),
        lambda: layer.forward_neighborhood(int(edges[1, at]), x, built),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=words):
            call()
    weight[at] = -0.0
    assert np.isfinite(layer.forward_graph(x, edges, edge_weight=weight)).all()


# --- dropout ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_what_is_dropped_is_zero_and_the_rest_is_scaled_up(name, form):
    layer, x, edges, attr = case(name, form, "hub")
    _, before = layer.forward_graph(x, edges, *given(attr), return_weights=True)
    out, after = layer.forward_graph(x, edges, *given(attr), dropout=0.25, seed=5, return_weights=True)
    dropped = after.edges == 0
    np.testing.assert_allclose(after.edges, np.where(dropped, 0, before.edges / 0.75), **close(np.float32))
    along = attended(layer, x, edges, attr)
    kept = edges[0] != edges[1] if before.loops is not None else np.ones(edges.shape[1], bool)
    used = after.edges[:, kept] if after.loops is None else np.concatenate([after.edges[:, kept], after.loops], axis=1)
    assert_formula(out, layer, x, along, weights=used)


@along_edges
def test_about_so_many_weights_are_dropped_in_each_head_apart(name):
    layer = draw(name, num_heads=4, head_dim=2)
    x, _ = features(layer, 60, 0)
    edges = np.stack([np.tile(np.arange(60), 60), np.repeat(np.arange(60), 60)])
    edges = edges[:, edges[0] != edges[1]]
    _, weights = layer.forward_graph(x, edges, dropout=0.25, seed=5, return_weights=True)
    dropped = weights.edges == 0
    spread = (0.25 * 0.75 / edges.shape[1]) ** 0.5
    assert np.abs(dropped.mean(1) - 0.25).max() < 5 * spread
    assert (dropped[0] != dropped[1]).any()
    assert abs((dropped[0] & dropped[1]).mean() - 0.0625) < 5 * spread


@every_variant
def test_a_seed_drops_the_same_again_and_another_one_others(name):
    layer, x, edges, attr = case(name)
    call = lambda **options: layer.forward_graph(x, edges, *given(attr), **options)  # noqa: E731
    first = call(dropout=0.5, seed=1)
    assert same_bits(call(dropout=0.5, seed=1), first)
    assert not same_bits(call(dropout=0.5, seed=2), first)
    assert not same_bits(call(dropout=0.5), call(dropout=0.5))
    assert same_bits(call(dropout=0.0, seed=1), call())


CALLS = {
    "neighbourhood": lambda layer, x, **options: layer.forward_neighborhood(0, x, [(i, 0) for i in range(len(x))], **options),
    "hops": lambda layer, x, **options: layer.forward_k_hop(0, x, [(i, 0) for i in range(len(x))], 1, **options),
    "edges": lambda layer, x, **options: layer.forward_with_edges(x[:1], x, x, [(i, 0) for i in range(len(x))], **options),
}


@every_variant
@pytest.mark.parametrize("call", CALLS)
def test_other_calls_along_edges_drop_weights_too(name, call):
    layer, run = draw(name), CALLS[call]
    x = np.random.default_rng(0).standard_normal((30, EMBED), dtype=np.float32)
    plain, dropped = run(layer, x), run(layer, x, dropout=0.5, seed=1)
    assert not np.array_equal(dropped, plain)
    assert same_bits(run(layer, x, dropout=0.5, seed=1), dropped)
    assert not np.array_equal(run(layer, x, dropout=0.5, seed=2), dropped)
    layer.training = True
    assert same_bits(run(layer, x, dropout=0.0), plain)


@every_variant
def test_dropout_is_for_training(name):
    layer, x, edges, attr = case(name, dropout_rate=0.5)
    plain = layer.forward_graph(x, edges, *given(attr))
    assert same_bits(plain, draw(name).forward_graph(x, edges, *given(attr)))
    layer.training = True
    assert not same_bits(layer.forward_graph(x, edges, *given(attr), seed=1), plain)
    assert same_bits(layer.forward_graph(x, edges, *given(attr), dropout=0.0), plain)
    assert same_bits(layer.forward_graph(x, edges, *given(attr), seed=3), layer.forward_graph(x, edges, *given(attr), dropout=0.5, seed=3))
    layer.training = False
    assert same_bits(layer.forward_graph(x, edges, *given(attr)), plain)


# --- what is remembered -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_the_weights_of_the_last_call_can_be_asked_for_afterwards(name, form):
    layer, x, edges, attr = case(name, form)
    call = {"edge_weight": np.random.default_rng(0).random(edges.shape[1]), "dropout": 0.3, "seed": 2}
    _, weights = layer.forward_graph(x, edges, *given(attr), return_weights=True, **call)
    layer.forward_graph(x[::-1], edges, *given(attr))
    layer.forward_graph(x, edges, *given(attr), **call)
    found = layer.get_edge_weights()
    assert same_bits(found.edges, weights.edges)
    assert (found.loops is None and weights.loops is None) or same_bits(found.loops, weights.loops)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_as_a_matrix_edges_between_the_same_nodes_add_up(name, form):
    layer, x, edges, attr = case(name, form)
    _, weights = layer.forward_graph(x, edges, *given(attr), return_weights=True)
    expected = np.zeros((HEADS, len(x), len(x)))
    for head in range(HEADS):
        np.add.at(expected[head], (edges[1], edges[0]), weights.edges[head])
        if weights.loops is not None:
            expected[head] += np.diag(weights.loops[head])
    found = layer.get_attention_weights()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **close(np.float32))


@every_variant
def test_a_call_without_a_graph_has_no_weights_of_edges(name):
    layer, x, edges, attr = case(name)
    assert layer.get_edge_weights() is None
    assert layer.get_attention_weights() is None
    layer.forward_graph(x, edges, *given(attr))
    assert layer.get_edge_weights() is not None
    out, context = layer.forward_with_context(x, x, x)
    assert layer.get_edge_weights() is None
    assert layer.get_attention_weights().shape == (HEADS, len(x), len(x))
    assert layer.get_edge_weights(context) is None
    layer.reset()
    assert layer.get_attention_weights() is None
    assert layer.get_edge_weights() is None
    assert out.shape[0] == len(x)


@every_variant
def test_other_calls_along_edges_are_remembered_too(name):
    layer = draw(name, add_self_loops=False)
    x, _ = features(layer, 5, 0)
    edges = [(1, 0), (2, 0), (3, 2), (4, 3)]
    layer.forward_with_edges(x, x, x, edges)
    weights = layer.get_edge_weights()
    assert weights.edges.shape == (HEADS, 4)
    assert weights.loops is None
    np.testing.assert_allclose(weights.edges, oracle(layer, x, Edges(*np.array(edges).T))[1], **close(np.float32))
    layer.forward_k_hop(0, x, edges, 2)
    assert layer.get_edge_weights().edges.shape == (HEADS, 3)
    np.testing.assert_allclose(layer.get_edge_weights().edges.sum(1), 1, **close(np.float32))
    layer.forward_neighborhood(1, x, edges)
    assert layer.get_edge_weights().edges.shape == (HEADS, 0)
    assert not layer.get_attention_weights().any()


@along_edges
def test_a_context_outlives_the_calls_that_follow(name):
    layer, x, edges, attr = case(name)
    layer.forward_graph(x, edges, *given(attr))
    context = layer._remembered()
    assert isinstance(context, GraphContext)
    expected = layer.get_edge_weights()
    layer.forward_graph(2 * x, edges[:, :5], *given(None if attr is None else attr[:5]))
    assert same_bits(layer.get_edge_weights(context).edges, expected.edges)
    assert same_bits(layer.get_attention_weights(context), context.weights())


@every_variant
def test_a_failed_call_is_not_remembered(name):
    layer, x, edges, attr = case(name)
    layer.forward_graph(x, edges, *given(attr))
    expected = layer.get_edge_weights()
    with pytest.raises(InvalidInputError):
        layer.forward_graph(x, [(0, 99)])
    assert same_bits(layer.get_edge_weights().edges, expected.edges)


@every_variant
def test_each_thread_remembers_its_own_call(name):
    layer, x, edges, attr = case(name)
    calls = [[x * np.float32(i + 1), edges[:, : 20 * (i + 1)], *given(None if attr is None else attr[: 20 * (i + 1)])] for i in range(4)]
    expected = []
    for call in calls:
        layer.forward_graph(*call)
        expected.append(layer.get_edge_weights().edges)
    layer.reset()
    found, ready = [None] * 4, threading.Barrier(4)

    def work(i):
        layer.forward_graph(*calls[i])
        ready.wait()
        found[i] = layer.get_edge_weights().edges

    team = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))
    assert layer.get_edge_weights() is None


@along_edges
def test_a_matrix_that_would_be_too_large_is_refused(name):
    layer = draw(name)
    x = np.ones((12_000, EMBED), np.float32)
    layer.forward_graph(x, [(0, 1), (1, 2)])
    with pytest.raises(InputTooLargeError, match="2 × 12,000 × 12,000 numbers: get_edge_weights has one for each edge"):
        layer.get_attention_weights()
    assert layer.get_edge_weights().edges.shape == (HEADS, 2)


def test_a_matrix_that_would_be_too_large_is_refused_before_weights_are_computed(monkeypatch):
    layer = draw("gat")
    layer.forward_graph(np.ones((12_000, EMBED), np.float32), [(0, 1), (1, 2)])
    computed = []
    monkeypatch.setattr(GraphContext, "_by_csr_edge", lambda context, threads: computed.append(context))
    with pytest.raises(InputTooLargeError):
        layer.get_attention_weights()
    assert not computed


@pytest.mark.parametrize("how", ["replace", "add", "missing"])
@pytest.mark.parametrize("num_nodes", [5, (5, 4), (4, 6)])
def test_weights_of_loops_come_apart_from_those_of_the_edges(how, num_nodes):
    edges = np.array([[3, 1, 2, 1, 0, 3], [0, 1, 3, 1, 2, 3]])
    parent = Graph(edges, num_nodes)
    looped = parent.with_self_loops(how)
    weights = np.arange(1.0, 2 * looped.num_edges + 1).reshape(2, -1)
    in_order, parents = looped.to_given_order(weights, axis=-1), looped.parent_edges
    expected = EdgeWeights(np.zeros((2, 6)), np.zeros((2, parent.num_destinations)))
    for e, (number, node) in enumerate(zip(parents, looped.edge_index[1], strict=True)):
        (expected.loops[:, node] if number < 0 else expected.edges[:, number])[:] = in_order[:, e]
    found = weights_by_edge(weights, looped, parent)
    np.testing.assert_array_equal(found.edges, expected.edges)
    np.testing.assert_array_equal(found.loops, expected.loops)


@along_edges
def test_later_writes_to_parameters_show_in_no_graph_that_is_kept(name):
    layer, x, edges, attr = case(name)
    built = Graph(edges, len(x))
    layer.forward_graph(x, built, *given(attr))
    for array in layer.parameters().values():
        array *= 2
    assert same_bits(layer.forward_graph(x, built, *given(attr)), layer.forward_graph(x, edges, *given(attr)))
