"""The graph variants are their formulas: in whole graphs, around one node, within some hops, and in a call without a graph."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import ruvattn
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from graph_oracle import (
    EMBED,
    EVERY,
    GRAPHS,
    HEADS,
    KEY,
    NAMES,
    OPTIONS,
    Edges,
    Formula,
    assert_formula,
    attended,
    close,
    draw,
    features,
    graph,
    hops_to,
    oracle,
    pairs_within,
    same_bits,
    simple,
)

from ruvattn_graph import Graph
from ruvattn_graph.variants import rope

FLOATS = ("float32", "float64")
every_form = pytest.mark.parametrize(("name", "form"), EVERY)
every_variant = pytest.mark.parametrize("name", NAMES)
WITHOUT_FEATURES = ["graph-rope"]
FEATURED = [name for name in NAMES if name not in WITHOUT_FEATURES]


def given(*optional):
    return [argument for argument in optional if argument is not None]


# --- formulas ---------------------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("shape", GRAPHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_forward_graph_is_the_formula(name, form, shape, dtype):
    layer = draw(name, form)
    nodes, edges = graph(shape)
    x, attr = features(layer, nodes, edges.shape[1], dtype)
    found = layer.forward_graph(x, edges, *given(attr))
    assert found.dtype == dtype
    assert_formula(found, layer, x, attended(layer, x, edges, attr))


@every_form
@pytest.mark.parametrize("dtype", FLOATS)
def test_forward_graph_of_a_bipartite_graph_is_the_formula(name, form, dtype):
    if "share_weights" in OPTIONS[name][form]:
        layer = draw(name, form, key_dim=EMBED)
    else:
        layer = draw(name, form, key_dim=KEY)
    rng = np.random.default_rng(0)
    for sources, targets in ((9, 6), (4, 11)):
        edges = np.stack([rng.integers(0, sources, 40), rng.integers(0, targets - 1, 40)])
        x = tuple(rng.standard_normal((n, width)).astype(dtype) for n, width in ((sources, layer.key_dim), (targets, EMBED)))
        attr = features(layer, 1, 40, dtype)[1]
        assert_formula(layer.forward_graph(x, edges, *given(attr)), layer, x, attended(layer, x, edges, attr))


@every_variant
def test_heads_of_any_number_and_width_are_the_formula(name):
    for heads, width in ((1, 1), (3, 2), (4, 17)):
        layer = draw(name, num_heads=heads, head_dim=width)
        nodes, edges = graph("edges many times")
        x, attr = features(layer, nodes, edges.shape[1])
        found = layer.forward_graph(x, edges, *given(attr))
        assert found.shape == (nodes, heads * width)
        assert_formula(found, layer, x, attended(layer, x, edges, attr))


@every_variant
def test_weights_of_edges_multiply_their_shares(name):
    layer = draw(name)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    weight = np.random.default_rng(3).choice([0.0, 0.1, 1.0, 2.5], edges.shape[1]).astype(np.float32)
    along = attended(layer, x, edges, attr, None if name == "graph-rope" else weight)
    assert_formula(layer.forward_graph(x, edges, *given(attr), edge_weight=weight), layer, x, along)
    assert_formula(layer.forward_graph(x, Graph(edges, nodes, edge_weight=weight), *given(attr)), layer, x, along)


@every_form
def test_forward_with_edges_is_the_formula_along_just_these_edges(name, form):
    layer = draw(name, form)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    keys, values = (np.random.default_rng(seed).standard_normal(x.shape).astype(x.dtype) for seed in (5, 6))
    weight = np.random.default_rng(3).choice([0.0, 0.1, 1.0, 2.5], edges.shape[1])
    found = layer.forward_with_edges(x, keys, values, edges, *given(attr), edge_weight=weight)
    assert_formula(found, layer, (keys, x), Edges(*edges, attr, weight), values=values)


@pytest.mark.parametrize("name", FEATURED)
def test_edges_without_features_add_nothing(name):
    layer = draw(name, "edges" if name != "edge-featured" else "plain")
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    assert_formula(layer.forward_graph(x, edges), layer, x, attended(layer, x, edges))
    np.testing.assert_allclose(layer.forward_graph(x, edges, 0 * attr), layer.forward_graph(x, edges), **close(np.float32))


@pytest.mark.parametrize("name", FEATURED)
def test_features_of_the_graph_are_taken_where_none_are_passed(name):
    layer = draw(name, "edges" if name != "edge-featured" else "plain")
    nodes, edges = graph("hub")
    x, attr = features(layer, nodes, edges.shape[1])
    found = layer.forward_graph(x, Graph(edges, nodes, edge_attr=attr))
    assert same_bits(found, layer.forward_graph(x, edges, attr))
    assert not same_bits(found, layer.forward_graph(x, Graph(edges, nodes, edge_attr=attr), attr + 1))


@every_variant
def test_features_of_a_graph_are_left_alone_by_a_variant_without_edge_dim(name):
    if name == "edge-featured":
        assert draw(name, edge_dim=1).edge_dim == 1  # it has one always
        return
    layer = draw(name)
    nodes, edges = graph("edges many times")
    x, _ = features(layer, nodes, edges.shape[1])
    rich = Graph(edges, nodes, edge_attr=np.random.default_rng(0).standard_normal((edges.shape[1], 4)))
    assert same_bits(layer.forward_graph(x, rich), layer.forward_graph(x, edges))


# --- what makes no difference -----------------------------------------------------------------------------------------------------


@every_form
def test_permuting_nodes_permutes_the_output(name, form):
    layer = draw(name, form)
    nodes, edges = graph("hub")
    x, attr = features(layer, nodes, edges.shape[1], np.float64)
    order = np.random.default_rng(1).permutation(nodes)
    found = layer.forward_graph(x[order], np.argsort(order)[edges], *given(attr))
    np.testing.assert_allclose(found, layer.forward_graph(x, edges, *given(attr))[order], **close(np.float64))


@every_form
def test_permuting_edges_changes_sums_by_rounding_alone(name, form):
    layer = draw(name, form)
    nodes, edges = graph("hub")
    x, attr = features(layer, nodes, edges.shape[1], np.float64)
    weight = np.random.default_rng(2).random(edges.shape[1])
    order = np.random.default_rng(1).permutation(edges.shape[1])
    found = layer.forward_graph(x, edges[:, order], *given(None if attr is None else attr[order]), edge_weight=weight[order])
    np.testing.assert_allclose(found, layer.forward_graph(x, edges, *given(attr), edge_weight=weight), **close(np.float64))


@every_form
@pytest.mark.parametrize("dtype", FLOATS)
def test_threads_change_no_bit(name, form, dtype):
    layer = draw(name, form)
    rng = np.random.default_rng(0)
    nodes, edges = 700, np.concatenate([rng.integers(0, 700, (2, 5000)), np.stack([rng.integers(0, 700, 5000), np.full(5000, 3)])], axis=1)
    if name == "graph-rope":
        edges = edges[:, 4000:7000]
    x, attr = features(layer, nodes, edges.shape[1], dtype)
    weight = rng.random(edges.shape[1])
    call = {"edge_weight": weight, "dropout": 0.3, "seed": 4, "return_weights": True}
    one, two, seven = (layer.forward_graph(x, edges, *given(attr), threads=threads, **call) for threads in (1, 2, 7))
    for other in (two, seven):
        assert same_bits(one[0], other[0])
        assert same_bits(one[1].edges, other[1].edges)


@every_variant
def test_a_graph_gives_the_bits_of_its_edge_index_whatever_was_asked_of_it_before(name):
    layer = draw(name)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    built = Graph(edges, nodes)
    expected = layer.forward_graph(x, edges, *given(attr))
    for _ in range(2):
        layer.forward_k_hop(0, x, built, 3)
        assert same_bits(layer.forward_graph(x.astype(np.float64), built, *given(attr)).astype(np.float32).round(3), expected.round(3))
        assert same_bits(layer.forward_graph(x, built, *given(attr)), expected)


@every_variant
def test_other_forms_of_a_graph_give_the_same(name):
    networkx, sparse = pytest.importorskip("networkx"), pytest.importorskip("scipy.sparse")
    layer = draw(name)
    nodes, edges = graph("simple")
    x, _ = features(layer, nodes, edges.shape[1])
    directed = networkx.DiGraph()
    directed.add_nodes_from(range(nodes))
    directed.add_edges_from(edges.T.tolist())
    matrix = sparse.coo_array((np.ones(edges.shape[1]), tuple(edges)), shape=(nodes, nodes))
    expected = layer.forward_graph(x, edges)
    for form in (directed, matrix, matrix.tocsr(), matrix.tocsc(), edges.T.tolist(), [tuple(pair) for pair in edges.T], (edges[0], edges[1])):
        np.testing.assert_allclose(layer.forward_graph(x, form), expected, **close(np.float32))


# --- one node ---------------------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("shape", GRAPHS)
def test_forward_neighborhood_is_the_row_of_forward_graph(name, form, shape):
    layer = draw(name, form)
    nodes, edges = graph(shape)
    x, attr = features(layer, nodes, edges.shape[1])
    weight = np.random.default_rng(2).random(edges.shape[1]) if name != "graph-rope" else None
    built = Graph(edges, nodes, edge_weight=weight)
    whole = layer.forward_graph(x, built, *given(attr))
    found = np.stack([layer.forward_neighborhood(node, x, built, *given(attr)) for node in range(nodes)])
    np.testing.assert_allclose(found, whole, **close(np.float32))


@every_variant
def test_forward_neighborhood_of_a_bipartite_graph_is_a_destinations_row(name):
    layer = draw(name, key_dim=KEY)
    rng = np.random.default_rng(0)
    edges = np.stack([rng.integers(0, 9, 30), rng.integers(0, 5, 30)])
    x = rng.standard_normal((9, KEY)).astype(np.float32), rng.standard_normal((6, EMBED)).astype(np.float32)
    whole = layer.forward_graph(x, edges)
    found = np.stack([layer.forward_neighborhood(node, x, edges) for node in range(6)])
    np.testing.assert_allclose(found, whole, **close(np.float32))


def reached(layer, node, edges, k, decay=None, looped=False):
    """The edges that forward_k_hop attends along, by brute force: each node within k hops once, itself by the rule of self-loops."""
    found = hops_to(node, edges, k)
    itself = layer.config.options["add_self_loops"] or (looped and layer.attention_type != "graph-rope")
    nodes = [at for at in found if at != node or itself]
    hops = np.array([found[at] for at in nodes], np.int64)
    weight = None if decay is None else float(decay) ** hops
    source = np.array(nodes, np.int64)
    return Edges(source, np.zeros(len(nodes), np.int64), weight=weight, hops=hops if layer.attention_type == "graph-rope" else None)


@every_form
@pytest.mark.parametrize("k", [1, 2, 3, 50])
@pytest.mark.parametrize("decay", [None, 1.0, 0.4])
def test_forward_k_hop_is_the_formula_over_what_a_search_finds(name, form, k, decay):
    layer = draw(name, form)
    nodes, edges = 16, simple(16, 3, 0.12)
    x, _ = features(layer, nodes, 0)
    found, expected, naive = [], [], []
    for node in range(nodes):
        along = reached(layer, node, edges, k, decay)
        found.append(layer.forward_k_hop(node, x, edges, k, decay=decay))
        for results, precision in ((expected, np.float64), (naive, np.float32)):
            results.append(oracle(layer, (x, x[[node]]), along, precision=precision)[0][0])
    floor = 4 * float(np.finfo(np.float32).eps)
    error = np.abs(np.stack(found) - np.stack(expected)).max()
    assert error <= 4 * np.abs(np.stack(naive) - np.stack(expected)).max() + floor


@every_variant
def test_one_hop_of_a_simple_graph_is_the_neighbourhood(name):
    layer = draw(name, "one hop")
    nodes, edges = graph("simple")
    x, _ = features(layer, nodes, 0)
    for node in range(nodes):
        found = layer.forward_k_hop(node, x, edges, 1)
        np.testing.assert_allclose(found, layer.forward_neighborhood(node, x, edges), **close(np.float32))


def test_rope_s_neighbourhood_in_a_bipartite_graph_is_its_edges_however_features_are_passed():
    layer = draw("graph-rope", "plain")
    edges = np.array([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    x, _ = features(layer, 6, 0)
    ring = Graph(edges, (6, 6))
    found = np.stack([layer.forward_neighborhood(node, x, ring) for node in range(6)])
    np.testing.assert_allclose(found, layer.forward_graph(x, ring), **close(np.float32))


def test_rope_s_neighbourhood_takes_one_weight_for_each_edge_or_none():
    layer = draw("graph-rope", "plain")
    x, _ = features(layer, 3, 0)
    with pytest.raises(DimensionMismatchError, match="edge_weight"):
        layer.forward_neighborhood(0, x, [(1, 0), (2, 0)], edge_weight=[1.0])


def test_rope_refuses_more_pairs_than_it_can_keep(monkeypatch):
    monkeypatch.setattr(rope, "MOST_PAIRS", 5)
    layer = draw("graph-rope", "plain")
    x, _ = features(layer, 4, 0)
    chain = [(0, 1), (1, 2), (2, 3)]
    assert len(layer.forward_graph(x, chain)) == 4
    with pytest.raises(InputTooLargeError, match="max_hops is 2, for which there are more than 5 pairs"):
        layer.forward_graph(x, [*chain, (3, 0)])


@pytest.mark.parametrize(("loops", "bytes_a_pair"), [(True, 12), (False, 8)])
def test_rope_keeps_few_bytes_of_each_pair_in_reach(loops, bytes_a_pair):
    layer = draw("graph-rope", "plain", add_self_loops=loops)
    built = Graph(np.random.default_rng(0).integers(0, 4000, (2, 32_000)), 4000)
    layer.graph_of(Graph([(0, 1)]))
    tracemalloc.start()
    try:
        found = layer.graph_of(built)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.num_edges > 200_000
    assert kept < (bytes_a_pair + 1) * found.num_edges


def test_rope_s_neighbourhood_is_that_of_its_hops():
    for form, hops in (("plain", 2), ("one hop", 1), ("three hops", 3)):
        layer = draw("graph-rope", form)
        assert layer.neighborhood_hops == hops
        nodes, edges = graph("edges many times")
        x, _ = features(layer, nodes, 0)
        found = np.stack([layer.forward_k_hop(node, x, edges, hops) for node in range(nodes)])
        np.testing.assert_allclose(found, layer.forward_graph(x, edges), **close(np.float32))


@every_form
@pytest.mark.parametrize("looped", [True, False])
def test_a_node_takes_part_in_its_hops_where_loops_are_added_or_it_has_one(name, form, looped):
    layer = draw(name, form)
    nodes, edges = graph("edges many times")
    loops = set(edges[0, edges[0] == edges[1]])
    node = next(node for node in range(nodes) if (node in loops) == looped)
    x, _ = features(layer, nodes, 0, np.float64)
    along = reached(layer, node, edges, 2, 0.5, looped)
    expected, _ = oracle(layer, (x, x[[node]]), along)
    np.testing.assert_allclose(layer.forward_k_hop(node, x, edges, 2, decay=0.5), expected[0], **close(np.float64))


@every_variant
def test_each_node_counts_once_however_many_edges_and_ways_there_are(name):
    layer = draw(name)
    x, _ = features(layer, 5, 0)
    once = [(1, 0), (2, 1), (3, 1), (4, 2)]
    many = [*once, (1, 0), (2, 0), (2, 0), (3, 2), (3, 2)]
    direct = [*once, (2, 0)]
    np.testing.assert_allclose(layer.forward_k_hop(0, x, many, 3), layer.forward_k_hop(0, x, direct, 3), **close(np.float32))


@every_variant
def test_weights_of_edges_have_no_say_in_hops(name):
    layer = draw(name)
    nodes, edges = graph("simple")
    x, _ = features(layer, nodes, 0)
    weighted = Graph(edges, nodes, edge_weight=np.zeros(edges.shape[1]))
    assert same_bits(layer.forward_k_hop(1, x, weighted, 2), layer.forward_k_hop(1, x, edges, 2))


@every_variant
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_decay_that_rounds_to_nothing_leaves_the_nearest(name, dtype):
    layer = draw(name, add_self_loops=False)
    x = features(layer, 4, 0)[0].astype(dtype)
    edges = [(1, 0), (2, 0), (3, 1)]
    found = layer.forward_k_hop(0, x, edges, 2, decay=1e-60)
    assert same_bits(found, layer.forward_k_hop(0, x, edges, 1))


@every_variant
def test_what_is_out_of_reach_is_not_looked_at(name):
    layer = draw(name, check_finite=False)
    x, _ = features(layer, 6, 0)
    edges = [(1, 0), (2, 1), (3, 2), (0, 4), (5, 5)]
    expected = layer.forward_k_hop(0, x, edges, 2), layer.forward_neighborhood(0, x, edges)
    x[[3, 4, 5]] = np.nan
    assert same_bits(layer.forward_k_hop(0, x, edges, 2), expected[0])
    assert same_bits(layer.forward_neighborhood(0, x, edges), expected[1])


@every_variant
def test_hops_are_of_a_graph_with_one_set_of_nodes(name):
    layer = draw(name, key_dim=KEY)
    x = np.ones((3, KEY), np.float32), np.ones((4, EMBED), np.float32)
    with pytest.raises(InvalidInputError, match="a bipartite graph has no hops"):
        layer.forward_k_hop(0, x, [(0, 1)], 2)


# --- hops of graph-rope -----------------------------------------------------------------------------------------------------------


def test_rope_weighs_pairs_by_their_distance():
    layer = draw("graph-rope", "three hops", add_self_loops=False)
    layer.parameters()["W_k"][...] = 0  # all keys are equal: only the turn by their distance tells them apart
    x, _ = features(layer, 5, 0)
    edges = np.array([[1, 2, 3, 4], [0, 1, 2, 3]])
    _, weights = layer.forward_graph(x, edges, return_weights=True)
    along = pairs_within(edges, 5, 3, False)
    formula = Formula(layer, np.float64)
    q, b = formula.made(x.astype(np.float64), "W_q", "b_q")[0], formula.p["b_k"].reshape(HEADS, 4)
    logits = []
    for hops in (1, 2, 3):
        angle = hops * np.array([1.0, 0.5])  # base 4, width 4
        turned = np.concatenate([b[:, :2] * np.cos(angle) - b[:, 2:] * np.sin(angle), b[:, :2] * np.sin(angle) + b[:, 2:] * np.cos(angle)], -1)
        logits.append((q * turned).sum(-1) / 2)
    expected = np.exp(logits) / np.exp(logits).sum(0)
    found = weights.edges[:, (layer.graph_of(Graph(edges, 5)).edge_index[1] == 0)]
    np.testing.assert_allclose(found.T, expected, **close(np.float32))
    assert along.source.size == weights.edges.shape[1]


def test_rope_returns_weights_of_pairs_with_those_of_the_node_itself_among_them():
    for form in ("plain", "one hop", "without loops"):
        layer = draw("graph-rope", form)
        nodes, edges = graph("edges many times")
        x, _ = features(layer, nodes, 0)
        out, weights = layer.forward_graph(x, edges, return_weights=True)
        pairs = layer.graph_of(Graph(edges, nodes)).edge_index
        assert weights.loops is None
        assert weights.edges.shape == (HEADS, pairs.shape[1])
        at = np.lexsort(pairs)
        along = attended(layer, x, edges)
        expected = np.lexsort([along.source, along.target])
        np.testing.assert_array_equal(pairs[:, at], np.stack([along.source, along.target])[:, expected])
        np.testing.assert_allclose(weights.edges[:, at], oracle(layer, x, along)[1][:, expected], **close(np.float32))
        again = layer.get_edge_weights()
        assert same_bits(again.edges, weights.edges)
        assert again.loops is None
        np.testing.assert_allclose(layer.get_attention_weights().sum(-1)[:, 0], 1, **close(np.float32))
        assert_formula(out, layer, x, along, weights=oracle(layer, x, along)[1])


def test_rope_counts_what_is_very_far_as_not_so_far():
    layer = draw("graph-rope", base=1e9)
    nodes = 4200
    x, _ = features(layer, nodes, 0)
    path = np.stack([np.arange(nodes - 1), np.arange(1, nodes)])
    found = layer.forward_k_hop(nodes - 1, x, path, nodes)
    along = reached(layer, nodes - 1, path, nodes)
    along.hops = np.minimum(along.hops, 4096)
    assert_formula(found[None], layer, (x, x[[nodes - 1]]), along)


# --- a call without a graph -------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_call_with_edges_as_a_mask_is_forward_with_edges(name, form, dtype):
    layer = draw(name, form)
    rng = np.random.default_rng(0)
    mask = rng.random((9, 13)) < 0.4
    mask[4] = False
    q, k, v = (rng.standard_normal((n, EMBED)).astype(dtype) for n in (9, 13, 13))
    rows, keys = np.nonzero(mask)
    found = layer.forward_with_edges(q, k, v, np.stack([keys, rows]))
    np.testing.assert_allclose(layer(q, k, v, mask=mask), found, **close(dtype))
    np.testing.assert_allclose(layer.forward(q[0], k[mask[0]], v[mask[0]]), found[0], **close(dtype))


@every_variant
def test_a_call_of_a_bipartite_variant_takes_keys_of_their_own_width(name):
    layer = draw(name, key_dim=KEY)
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((4, EMBED)).astype(np.float32), rng.standard_normal((5, KEY)).astype(np.float32)
    every = np.stack([np.tile(np.arange(5), 4), np.repeat(np.arange(4), 5)])
    np.testing.assert_allclose(layer(q, k, k), layer.forward_with_edges(q, k, k, every), **close(np.float32))


# --- configuration ----------------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("more", [{}, {"seed": 5, "dtype": "float64", "dropout_rate": 0.25, "max_keys": 77, "check_finite": False}])
def test_a_configuration_makes_the_same_variant(name, form, more):
    layer = ruvattn.create(name, embed_dim=EMBED, num_heads=HEADS, **OPTIONS[name][form], **more)
    again = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
    assert type(again) is type(layer)
    assert again.config == layer.config
    for option, value in {**OPTIONS[name][form], **more}.items():
        if option != "dropout_rate":
            assert json.loads(layer.config.to_json())["options"][option] == value
    for parameter, array in layer.parameters().items():
        assert same_bits(again.parameters()[parameter], array)
        assert array.dtype == more.get("dtype", "float32")


@every_form
@pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_a_copy_has_the_same_parameters_and_gives_the_same(name, form, way):
    layer = draw(name, form)
    nodes, edges = graph("edges many times")
    x, attr = features(layer, nodes, edges.shape[1])
    expected = layer.forward_graph(x, edges, *given(attr))
    again = way(layer)
    assert again.get_edge_weights() is None
    assert same_bits(again.forward_graph(x, edges, *given(attr)), expected)


@every_variant
def test_numbers_of_numpy_are_numbers_in_a_configuration(name):
    options = {"head_dim": np.int64(5), "key_dim": np.int8(4), "seed": np.uint64(3), "max_keys": np.int64(9), "softcap": np.float32(2)}
    layer = ruvattn.create(name, embed_dim=np.int64(8), num_heads=np.int32(2), **options)
    assert json.loads(layer.config.to_json())["options"]["head_dim"] == 5
    assert ruvattn.AttentionConfig.from_json(layer.config.to_json()) == layer.config


@every_form
def test_its_own_parameters_are_a_state_dict(name, form):
    layer, other = draw(name, form, seed=1), draw(name, form, seed=2)
    other.load_state_dict(layer.parameters())
    nodes, edges = graph("simple")
    x, _ = features(layer, nodes, 0)
    assert same_bits(other.forward_graph(x, edges), layer.forward_graph(x, edges))
    assert not any(np.shares_memory(a, b) for a in layer.parameters().values() for b in other.parameters().values())


@every_form
def test_a_state_with_a_parameter_too_few_or_too_many_is_told_in_its_own_names(name, form):
    layer = draw(name, form)
    state = dict(layer.parameters())
    first = next(iter(state))
    missing = {key: array for key, array in state.items() if key != first}
    with pytest.raises(InvalidInputError, match=f"state lacks '{first}', which this '{name}' has: "):
        layer.load_state_dict(missing)
    with pytest.raises(InvalidInputError, match=f"state lacks '{first}', which this '{name}' has, and has 'extra', which it does not"):
        layer.load_state_dict({**missing, "extra": np.ones(2)})
    with pytest.raises(InvalidInputError, match=f"state has 'extra', which this '{name}' does not have"):
        layer.load_state_dict({**state, "extra": np.ones(2)})


@every_variant
@pytest.mark.parametrize("prefix", ["conv1.", "model.conv1."])
def test_of_a_layer_in_a_model_the_prefix_is_named(name, prefix):
    layer = draw(name)
    with pytest.raises(InvalidInputError, match=f"all of them begin with '{prefix}'.*removeprefix"):
        layer.load_state_dict({prefix + key: array for key, array in layer.parameters().items()})


def test_no_prefix_is_named_that_leaves_a_state_as_wrong_as_it_was():
    with pytest.raises(InvalidInputError, match="must have 'lin.weight'"):
        ruvattn.create("gat", embed_dim=4).load_state_dict({"lin.bias": np.ones(4), "lin.other": np.ones(4)})


@every_variant
def test_what_is_written_to_parameters_counts(name):
    layer = draw(name)
    nodes, edges = graph("simple")
    x, attr = features(layer, nodes, edges.shape[1])
    before = layer.forward_graph(x, edges, *given(attr))
    for parameter, array in layer.parameters().items():
        kept = array.copy()
        array += 0.5
        found = layer.forward_graph(x, edges, *given(attr))
        assert not same_bits(found, before), parameter
        assert_formula(found, layer, x, attended(layer, x, edges, attr))
        array[...] = kept


@every_variant
def test_the_seed_of_the_parameters_is_theirs(name):
    first, again, other = (ruvattn.create(name, embed_dim=8, num_heads=2, seed=seed) for seed in (3, 3, 4))
    drawn = [parameter for parameter in first.parameters() if not parameter.startswith("b")]
    for parameter in drawn:
        assert same_bits(first.parameters()[parameter], again.parameters()[parameter])
        assert not same_bits(first.parameters()[parameter], other.parameters()[parameter])
    assert all(not first.parameters()[parameter].any() for parameter in set(first.parameters()) - set(drawn))


@every_variant
def test_it_is_listed_with_its_options(name):
    info = ruvattn.variants()[name]
    assert "graph" in info.capabilities
    layer = ruvattn.create(name, embed_dim=8)
    assert set(info.options) == {"dropout_rate", *layer.config.options}


@every_variant
def test_a_graph_variant_is_not_causal_unless_it_is_told_so_in_a_call(name):
    with pytest.raises(InvalidInputError, match="causal"):
        ruvattn.create(name, embed_dim=8, causal=True)
    layer = draw(name)
    x, _ = features(layer, 5, 0)
    lower = np.tri(5, dtype=bool)
    np.testing.assert_allclose(layer(x, causal=True), layer(x, mask=lower), **close(np.float32))


@every_variant
def test_a_dtype_that_attention_does_not_have_is_refused(name):
    layer = draw(name)
    for dtype in (np.int64, np.complex64, object, bool, np.longdouble):
        with pytest.raises((UnsupportedError, InvalidInputError), match="x"):
            layer.forward_graph(np.ones((3, EMBED)).astype(dtype), [(0, 1)])


# --- fork -------------------------------------------------------------------------------------------------------------------------

FORKING = """
import hashlib, os
import numpy as np
import ruvattn
from ruvattn_graph import Graph
from ruvattn_graph.sampling import sample_neighbors
from ruvattn_graph.segments import segment_max, segment_sum

rng = np.random.default_rng(0)
edges = rng.integers(0, 3000, (2, 40_000))
x = rng.standard_normal((3000, 16)).astype(np.float32)
NAMES = [name for name, info in ruvattn.variants().items() if "graph" in info.capabilities]

def results():
    graph = Graph(edges, 3000, threads=2)
    parts = [graph.k_hop(2, threads=2).adjacency.indices, graph.k_hop_nodes(5, 3)[0]]
    parts += [segment_sum(x, graph.adjacency, threads=2), segment_max(x, graph.adjacency, threads=2)]
    parts += [sample_neighbors(graph, np.arange(500), [5, 5], seed=1, threads=2).nodes]
    for name in NAMES:
        options = {"max_hops": 1} if name == "graph-rope" else {}
        parts.append(ruvattn.create(name, embed_dim=16, num_heads=2, **options).forward_graph(x, graph, threads=2))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

def child(work):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

wanted = results()
print(len(NAMES) > 4, child(lambda: results() == wanted), child(lambda: child(lambda: results() == wanted) == 0), results() == wanted)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_walks_samples_and_attends_after_the_parent_has_had_a_team():
    environ = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "RUVATTN_LOAD_PLUGINS")}
    process = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", FORKING], env={**environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["True", "0", "0", "True"]
