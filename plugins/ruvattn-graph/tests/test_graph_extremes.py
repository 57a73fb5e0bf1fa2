"""Numbers at the edges: slopes in double precision, byte order, the largest numbers, tiny weights, and state dicts that fit no parameter."""

from __future__ import annotations

import numpy as np
import pytest

import ruvattn
from ruvattn.errors import InvalidInputError
from ruvattn.headwise import split_heads
from ruvattn_graph import AttentionGNNLayer
from ruvattn_graph.scores import AdditiveScore, AdditiveV2Score

HEADS, DEGREE, NODES = 4, 6, 4000  # so many edges that all heads of a row are taken together


def ring() -> ruvattn.Adjacency:
    rows = np.arange(NODES).repeat(DEGREE)
    return ruvattn.Adjacency.from_edges(np.arange(rows.size) % NODES, rows, NODES, NODES)[0]


def beside(value: float, width: int, dtype: type) -> np.ndarray:
    return split_heads(np.full((NODES, HEADS * width), value, dtype), HEADS)


@pytest.mark.parametrize("slope", [0.1, 0.2, 0.7])
def test_slope_of_a_sum_has_all_digits_of_float64(slope: float) -> None:
    q, v = beside(-0.5, 1, np.float64), beside(1.0, 8, np.float64)
    _, lse = ruvattn.edge_attention(q, q, v, ring(), score=AdditiveScore(negative_slope=slope), return_lse=True)
    np.testing.assert_allclose(lse, np.log(DEGREE) - slope, rtol=1e-14)


@pytest.mark.parametrize("slope", [0.1, 0.2, 0.7])
def test_slope_of_hidden_columns_has_all_digits_of_float64(slope: float) -> None:
    q, v = beside(-0.5 / 8, 8, np.float64), beside(1.0, 8, np.float64)
    score = AdditiveV2Score(np.ones((HEADS, 8)), negative_slope=slope)
    _, lse = ruvattn.edge_attention(q, q, v, ring(), score=score, return_lse=True)
    np.testing.assert_allclose(lse, np.log(DEGREE) - slope, rtol=1e-14)


def test_logit_whose_partial_sums_overflow_downwards_counts_as_what_it_is() -> None:
    q, k, v = beside(0.0, 16, np.float32), beside(0.0, 16, np.float32), beside(0.0, 16, np.float32)
    a = np.zeros((HEADS, 16), np.float32)
    a[:, 0], a[:, 8] = -2, 3
    k[:, 0, 0] = k[:, 0, 8] = 3e38  # −6e38 + 9e38
    v[:, 0] = 1
    out = ruvattn.edge_attention(q, k, v, ring(), score=AdditiveV2Score(a))
    np.testing.assert_array_equal(out[:, 0], 1)


@pytest.mark.parametrize("score", [AdditiveScore(), AdditiveV2Score()], ids=["additive", "additive-v2"])
def test_mean_of_the_largest_numbers_is_finite(score: ruvattn.Score) -> None:
    q, k, v = np.zeros((1, 1, 1), np.float32), np.zeros((1, 2, 1), np.float32), np.full((1, 2, 1), 3e38, np.float32)
    out = ruvattn.edge_attention(q, k, v, ruvattn.Adjacency([0, 2], [0, 1], 2), score=score)
    np.testing.assert_allclose(out, 3e38, rtol=1e-6)


@pytest.mark.parametrize("name", ["graph-transformer", "sage", "graph-rope"])
def test_own_features_and_what_arrives_saturate_together(name: str) -> None:
    layer = ruvattn.create(name, embed_dim=1)
    for array in layer.parameters().values():
        array[...] = 1 if array.ndim > 1 else 0
    with np.errstate(all="raise"):
        out = layer.forward_graph(np.full((3, 1), 3e38, np.float32), [(0, 1), (2, 1)])
    assert np.isfinite(out).all()


@pytest.mark.parametrize("norm_first", [False, True])
def test_layer_reads_float64_of_the_other_byte_order_in_full(norm_first: bool) -> None:
    rng = np.random.default_rng(0)
    x, edges = rng.normal(size=(20, 8)), rng.integers(0, 20, (2, 60))
    layer = AttentionGNNLayer(8, 2, dtype="float64", norm_first=norm_first)
    np.testing.assert_allclose(layer(x.astype(">f8"), edges), layer(x, edges), rtol=1e-13)


def test_layer_refuses_a_state_that_is_not_finite_in_its_dtype() -> None:
    layer = AttentionGNNLayer(4)
    before = {name: array.copy() for name, array in layer.parameters().items()}
    state = {name: array.astype(np.float64) for name, array in before.items()}
    state["W_2"][0, 0] = 1e300
    with pytest.raises(InvalidInputError, match="W_2"):
        layer.load_state_dict(state)
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_layer_takes_a_state_made_of_its_own_arrays() -> None:
    layer = AttentionGNNLayer(4)
    state = layer.parameters()
    first, second = state["W_1"].copy(), state["W_2"].copy()
    layer.load_state_dict({**state, "W_1": state["W_2"].T, "W_2": state["W_1"].T})
    np.testing.assert_array_equal(layer.parameters()["W_1"], second.T)
    np.testing.assert_array_equal(layer.parameters()["W_2"], first.T)


def test_tiny_weights_of_edges_still_share() -> None:
    layer = ruvattn.create("graph-transformer", embed_dim=2)
    x = np.ones((3, 2), np.float32)
    weights = layer.forward_graph(x, [(0, 1), (2, 1)], edge_weight=[1e-50, 1e-50], return_weights=True)[1]
    np.testing.assert_allclose(weights.edges, 0.5, rtol=1e-6)


def test_huge_weights_of_edges_still_share_in_a_mean() -> None:
    layer = ruvattn.create("sage", embed_dim=2)
    x = np.ones((3, 2), np.float32)
    weights = layer.forward_graph(x, [(0, 1), (2, 1)], edge_weight=[3e38, 3e38], return_weights=True)[1]
    np.testing.assert_allclose(weights.edges, 0.5, rtol=1e-6)
