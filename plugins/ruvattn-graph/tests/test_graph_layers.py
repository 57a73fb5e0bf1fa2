"""AttentionGNNLayer: against its formula in float64, its parameters and configuration, and what it refuses."""

import copy
import json
import math
import pickle

import ml_dtypes
import numpy as np
import pytest

from ruvattn.errors import AttentionError, DimensionMismatchError, InvalidInputError, UnknownVariantError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from graph_oracle import attended, oracle, same_bits

from ruvattn_graph import AttentionGNNLayer, Graph

WIDTH, HEADS, HIDDEN, EDGE, NODES = 6, 2, 11, 3, 30

ATTENTIONS = {
    "gat": {"edge_dim": EDGE},
    "gatv2": {"edge_dim": EDGE, "residual": True},
    "graph-transformer": {"edge_dim": EDGE, "beta": True},
    "edge-featured": {"edge_dim": EDGE},
    "graph-rope": {"base": 4.0, "max_hops": 2},
    "gin": {"hidden_dim": 7, "train_eps": True},
    "sage": {},
}
HEADLESS = ("gin", "sage")
every_attention = pytest.mark.parametrize("attention", list(ATTENTIONS))

# How many units in the last place numbers of about 1 may be off: wide ones add up the errors of some twenty terms, narrow ones are rounded when they
# leave the attention and at the end.
DTYPES = {"float64": 50, "float32": 50, "float16": 8, "bfloat16": 8}


def made(attention="gatv2", seed=0, **options):
    """A layer with random parameters, biases and the scales of the LayerNorms too."""
    options = {"attention_options": ATTENTIONS[attention], "ffn_dim": HIDDEN, **options}
    layer = AttentionGNNLayer(WIDTH, 1 if attention in HEADLESS else HEADS, attention=attention, **options)
    rng = np.random.default_rng(seed + 50)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape) * 0.6
    return layer


def problem(dtype="float32", seed=0, nodes=NODES):
    """Features of nodes, edges (some twice, a few of them self-loops, none to the last node) and features of edges."""
    rng = np.random.default_rng([9, seed])
    edges = rng.integers(0, nodes - 1, (2, 4 * nodes))
    edges[:, -3:] = [[1, 1, 2], [1, 1, 2]]
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    return rng.standard_normal((nodes, WIDTH)).astype(kind), edges, rng.standard_normal((edges.shape[1], EDGE)).astype(kind)


def attr_of(layer, attr):
    return attr if layer.attention.edge_dim else None


def run(layer, x, edges, attr, **options):
    return layer(x, edges, attr_of(layer, attr), **options)


# --- the formula ------------------------------------------------------------------------------------------------------------------


def attention_by_formula(layer, x, edges, attr):
    """What the attention makes of features in float64."""
    inner = layer.attention
    if inner.attention_type not in HEADLESS:
        return oracle(inner, x, attended(inner, x, edges, attr_of(layer, attr)))[0]
    p = {name: array.astype(float) for name, array in inner.parameters().items()}
    sums = np.zeros_like(x)
    np.add.at(sums, edges[1], x[edges[0]])
    if inner.attention_type == "gin":
        return np.maximum(((1 + p["eps"]) * x + sums) @ p["W_1"] + p["b_1"], 0) @ p["W_2"] + p["b_2"]
    number = np.bincount(edges[1], minlength=len(x))
    return sums / np.maximum(number, 1)[:, None] @ p["W_l"] + x @ p["W_r"] + p["b"]


def layer_by_formula(layer, x, edges, attr):
    """The output in float64, written out: both places of the LayerNorms, both activations."""
    p = {name: array.astype(float) for name, array in layer.parameters().items()}
    x, attr, config = x.astype(float), attr.astype(float), layer.config

    def norm(name, y):
        centred = y - y.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + config["eps"]) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def feed_forward(y):
        hidden = y @ p["W_1"] + p["b_1"]
        if config["activation"] == "relu":
            hidden = np.where(hidden > 0, hidden, 0)
        else:
            hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        return hidden @ p["W_2"] + p["b_2"]

    if config["norm_first"]:
        y = x + attention_by_formula(layer, norm("norm_1", x), edges, attr)
        return y + feed_forward(norm("norm_2", y))
    y = norm("norm_1", x + attention_by_formula(layer, x, edges, attr))
    return norm("norm_2", y + feed_forward(y))


def assert_formula(layer, x, edges, attr):
    found, expected = run(layer, x, edges, attr), layer_by_formula(layer, x, edges, attr)
    assert found.dtype == x.dtype
    off = DTYPES[x.dtype.name] * float(ml_dtypes.finfo(x.dtype).eps)
    np.testing.assert_allclose(found.astype(float), expected, rtol=off, atol=off)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_the_output_is_that_of_the_formula(norm_first, activation, dtype):
    layer = made(norm_first=norm_first, activation=activation, dtype="float64" if dtype == "float64" else "float32")
    assert_formula(layer, *problem(dtype))


@every_attention
@pytest.mark.parametrize("norm_first", [False, True])
def test_every_attention_can_stand_in_it(attention, norm_first):
    assert_formula(made(attention, norm_first=norm_first, dtype="float64"), *problem("float64"))


@pytest.mark.parametrize("options", [{"ffn_dim": 1}, {"ffn_dim": None}, {"ffn_dim": 40}, {"eps": 0.5}, {"eps": 1e-9}])
@pytest.mark.parametrize("norm_first", [False, True])
def test_widths_and_eps_are_as_told(options, norm_first):
    layer = made(norm_first=norm_first, dtype="float64", **options)
    assert layer.parameters()["W_1"].shape == (WIDTH, options.get("ffn_dim", HIDDEN) or 4 * WIDTH)
    assert_formula(layer, *problem("float64"))


@pytest.mark.parametrize("norm_first", [False, True])
def test_rows_of_the_feed_forward_network_are_cut_without_a_trace(norm_first, monkeypatch):
    layer, (x, edges, attr) = made(norm_first=norm_first, dtype="float64"), problem("float64")
    monkeypatch.setattr("ruvattn_graph.layers.ROWS", 7)
    assert_formula(layer, x, edges, attr)


def test_features_in_the_other_byte_order_are_the_same_numbers():
    layer, (x, edges, attr) = made(), problem()
    np.testing.assert_array_equal(run(layer, x.astype(x.dtype.newbyteorder()), edges, attr), run(layer, x, edges, attr))


@pytest.mark.parametrize("norm_first", [False, True])
def test_numbers_near_the_largest_of_the_dtype_give_finite_ones(norm_first):
    """A tenth of it: products of features and weights still are in range, their squares and sums of squares are not."""
    layer, (x, edges, attr) = made("gat", norm_first=norm_first), problem()
    assert np.isfinite(run(layer, x / np.abs(x).max() * np.float32(3e37), edges, attr)).all()


def test_residuals_that_overflow_are_cut_to_the_largest_number():
    layer = made("gat", norm_first=True, attention_options={})
    for name in ("b_2", "attention.b"):
        layer.parameters()[name][...] = np.finfo(np.float32).max
    found = layer(np.full((3, WIDTH), np.finfo(np.float32).max), np.array([[0, 1], [1, 2]]))
    np.testing.assert_array_equal(found, np.full((3, WIDTH), np.finfo(np.float32).max))


@pytest.mark.parametrize("norm_first", [False, True])
def test_no_edges_are_fine(norm_first):
    layer, (x, _, attr) = made(norm_first=norm_first, dtype="float64"), problem("float64")
    assert_formula(layer, x, np.empty((2, 0), int), attr[:0])


# --- a call -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
@every_attention
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(attention, norm_first):
    layer, (x, edges, attr) = made(attention, norm_first=norm_first, activation="gelu"), problem(nodes=300)
    expected = run(layer, x, edges, attr, threads=1)
    for threads in (2, 3):
        assert same_bits(run(layer, x, edges, attr, threads=threads), expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_out_is_written_and_returned(norm_first, dtype):
    layer, (x, edges, attr) = made(norm_first=norm_first), problem(dtype)
    expected = run(layer, x, edges, attr)
    for out in (np.full_like(x, np.nan), np.full((WIDTH, NODES), np.nan, x.dtype).T, np.full((NODES, 2 * WIDTH), np.nan, x.dtype)[:, ::2]):
        assert run(layer, x, edges, attr, out=out) is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("norm_first", [False, True])
def test_inputs_are_left_as_they_are(norm_first):
    layer, given = made(norm_first=norm_first), problem()
    before, parameters = [array.copy() for array in given], {name: array.copy() for name, array in layer.parameters().items()}
    run(layer, *given)
    for array, same in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, same)
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(array, parameters[name])


def test_layers_stack():
    layers, (x, edges, attr) = [made(seed=seed, dtype="float64") for seed in range(3)], problem("float64")
    graph, expected = Graph(edges, NODES, edge_attr=attr), x
    for layer in layers:
        x, expected = layer(x, graph), layer_by_formula(layer, expected, edges, attr)
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-10)


def test_features_of_edges_given_or_of_the_graph_are_the_same_and_have_a_say():
    layer, (x, edges, attr) = made(), problem()
    expected = layer(x, edges, attr)
    np.testing.assert_array_equal(layer(x, Graph(edges, NODES, edge_attr=attr)), expected)
    assert np.abs(layer(x, edges) - expected).max() > 0.01


def test_an_edge_of_weight_zero_is_none():
    layer, (x, edges, _) = made(attention_options={}), problem()
    weight = (np.arange(edges.shape[1]) % 3 > 0).astype(float)
    found, expected = layer(x, edges, edge_weight=weight), layer(x, edges[:, weight > 0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(layer(x, edges) - expected).max() > 0.01


def test_dropout_follows_training_and_seed():
    layer, (x, edges, attr) = made(dropout_rate=0.5), problem()
    whole = run(layer, x, edges, attr)
    assert not layer.training
    assert same_bits(run(made(), x, edges, attr), whole)
    layer.training = True
    assert layer.training
    assert layer.attention.training
    one, again, other = (run(layer, x, edges, attr, seed=seed) for seed in (1, 1, 2))
    assert same_bits(one, again)
    assert not np.allclose(one, whole)
    assert not np.allclose(one, other)
    layer.training = False
    assert same_bits(run(layer, x, edges, attr), whole)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "deep", "pickle"])
def test_a_copy_does_the_same(duplicate):
    layer, given = made(activation="gelu", norm_first=True, eps=0.1), problem()
    twin = duplicate(layer)
    assert same_bits(run(twin, *given), run(layer, *given))
    assert twin.config == layer.config


def test_the_repr_names_the_attention():
    assert repr(made("gat")) == "AttentionGNNLayer(6, 2, attention='gat')"


# --- configuration ----------------------------------------------------------------------------------------------------------------


@every_attention
def test_a_layer_comes_back_from_its_configuration_through_json(attention):
    layer = AttentionGNNLayer(
        WIDTH, 1 if attention in HEADLESS else HEADS, attention=attention, attention_options=ATTENTIONS[attention], activation="gelu",
        norm_first=True, eps=0.01, seed=7, dtype="float64",
    )  # fmt: skip
    twin = AttentionGNNLayer(**json.loads(json.dumps(layer.config)))
    assert twin.config == layer.config
    assert twin.attention.config == layer.attention.config
    given = problem("float64")
    assert same_bits(run(twin, *given), run(layer, *given))


def test_numbers_of_numpy_go_through_json():
    options = {"edge_dim": np.int64(EDGE), "negative_slope": np.float32(0.5), "residual": np.bool_(True), "max_keys": np.int32(99)}
    layer = AttentionGNNLayer(
        np.int64(WIDTH), np.int32(HEADS), attention_options=options, ffn_dim=np.int64(5), eps=np.float32(0.5), norm_first=np.bool_(True),
        dropout_rate=np.float64(0.5), seed=np.uint64(3), dtype=np.dtype("float64"),
    )  # fmt: skip
    assert layer.config == {
        "embed_dim": WIDTH, "num_heads": HEADS, "attention": "gatv2",
        "attention_options": {"edge_dim": EDGE, "negative_slope": 0.5, "residual": True, "max_keys": 99}, "ffn_dim": 5, "activation": "relu",
        "norm_first": True, "eps": 0.5, "dropout_rate": 0.5, "seed": 3, "dtype": "float64",
    }  # fmt: skip
    assert AttentionGNNLayer(**layer.config).config == layer.config


def test_options_of_the_attention_overrule_those_of_the_layer():
    layer = AttentionGNNLayer(WIDTH, HEADS, attention_options={"seed": 4, "dropout_rate": 0.25, "dtype": "float64"}, dropout_rate=0.5, seed=1)
    config = layer.attention.config
    assert (config.dropout_rate, config.options["seed"], config.options["dtype"]) == (0.25, 4, "float64")
    twin = AttentionGNNLayer(**layer.config)
    assert twin.config == layer.config
    assert twin.attention.config == config


def test_a_configuration_is_the_callers_own():
    layer = made()
    layer.config["attention_options"]["edge_dim"] = 99
    assert layer.config["attention_options"]["edge_dim"] == EDGE


def test_seeds_draw_different_weights_and_the_same_seed_the_same():
    one, again, other = (AttentionGNNLayer(WIDTH, HEADS, seed=seed).parameters() for seed in (1, 1, 2))
    for name in ("W_1", "W_2", "attention.W_src"):
        assert same_bits(one[name], again[name])
        assert not np.allclose(one[name], other[name])


# --- parameters -------------------------------------------------------------------------------------------------------------------


def test_parameters_are_alive_and_of_the_dtype():
    layer, given = made(dtype="float64", norm_first=True), problem("float64")
    for name, array in layer.parameters().items():
        assert array.dtype == np.float64
        before = run(layer, *given)
        array += np.random.default_rng(1).standard_normal(array.shape)
        assert np.abs(run(layer, *given) - before).max() > 1e-6, name
    assert_formula(layer, *given)


def test_the_number_of_parameters_is_that_of_their_numbers():
    layer = AttentionGNNLayer(WIDTH, HEADS, attention="gat", ffn_dim=HIDDEN)
    assert layer.num_parameters == (WIDTH * WIDTH + 3 * WIDTH) + (2 * WIDTH * HIDDEN + HIDDEN + WIDTH) + 4 * WIDTH


@every_attention
def test_a_state_makes_another_layer_the_same(attention):
    layer, given = made(attention), problem()
    other = made(attention, seed=5)
    other.load_state_dict(layer.parameters())
    assert same_bits(run(other, *given), run(layer, *given))
    other.parameters()["W_1"][...] = 0
    assert layer.parameters()["W_1"].any()


def test_a_state_of_the_layers_own_arrays_changes_places_whole():
    layer = made(ffn_dim=WIDTH)
    own = layer.parameters()
    first, second = own["W_1"].copy(), own["W_2"].copy()
    layer.load_state_dict({**own, "W_1": own["W_2"], "W_2": own["W_1"]})
    np.testing.assert_array_equal(layer.parameters()["W_1"], second)
    np.testing.assert_array_equal(layer.parameters()["W_2"], first)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b_2": None}, InvalidInputError, "state must have 'b_2'"),
        ({"attention.b": None}, InvalidInputError, "state must have 'attention.b'"),
        ({"W_3": np.ones(2)}, InvalidInputError, "'W_3'"),
        ({"norm_2.bias": np.ones(WIDTH + 1)}, DimensionMismatchError, r"norm_2.bias must have shape \(6,\), got \(7,\)"),
        ({"norm_2.bias": np.ones((1, WIDTH))}, DimensionMismatchError, "norm_2.bias"),
        ({"norm_2.bias": np.full(WIDTH, np.nan)}, InvalidInputError, "norm_2.bias in state must be finite"),
        ({"norm_2.bias": np.full(WIDTH, 1e300)}, InvalidInputError, "norm_2.bias in state has numbers that aren't finite in float32"),
        ({"norm_2.bias": ["a"] * WIDTH}, InvalidInputError, "norm_2.bias in state must be an array of real numbers"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, error, message):
    layer = made()
    before = {name: array.copy() for name, array in layer.parameters().items()}
    state = {name: array + 1 for name, array in before.items()} | change
    with pytest.raises(error, match=message):
        layer.load_state_dict({name: value for name, value in state.items() if value is not None})
    for name, array in layer.parameters().items():
        assert same_bits(array, before[name])


@pytest.mark.parametrize("state", [None, 3, [("W_1", np.ones(2))]])
def test_a_state_is_a_mapping(state):
    with pytest.raises(InvalidInputError, match="state must be a mapping"):
        made().load_state_dict(state)


# --- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embed_dim": 0}, InvalidInputError, "embed_dim must be an int from 1"),
        ({"embed_dim": 6.0}, InvalidInputError, "embed_dim"),
        ({"num_heads": 0}, InvalidInputError, "num_heads must be an int from 1"),
        ({"num_heads": 4}, InvalidInputError, "num_heads must divide embed_dim"),
        ({"attention": "no such"}, UnknownVariantError, "no such"),
        ({"attention": 3}, AttentionError, "name of a variant must be a str"),
        ({"attention": "multihead"}, InvalidInputError, "attention must be the name of a variant of ruvattn_graph.*'multihead'"),
        ({"attention_options": 3}, InvalidInputError, "attention_options must be a mapping"),
        ({"attention_options": {"num_heads": 2}}, InvalidInputError, "attention_options must leave out num_heads"),
        ({"attention_options": {"heads": 2}}, InvalidInputError, "heads"),
        ({"attention_options": {"head_dim": 4}}, InvalidInputError, "attention_options must leave the attention embed_dim, 6, wide.*8"),
        ({"attention_options": {"concat": False}}, InvalidInputError, "attention_options must leave the attention embed_dim, 6, wide.*3"),
        ({"attention_options": {"key_dim": 5}}, InvalidInputError, "attention_options must leave the attention embed_dim, 6, wide.*got 5"),
        ({"ffn_dim": 0}, InvalidInputError, "ffn_dim must be an int from 1"),
        ({"ffn_dim": True}, InvalidInputError, "ffn_dim"),
        ({"activation": "tanh"}, InvalidInputError, "activation must be 'relu' or 'gelu', got 'tanh'"),
        ({"activation": np.array(["relu", "gelu"])}, InvalidInputError, "activation must be"),
        ({"norm_first": 1}, InvalidInputError, "norm_first must be True or False"),
        ({"eps": 0}, InvalidInputError, "eps must be a positive finite number"),
        ({"eps": np.inf}, InvalidInputError, "eps"),
        ({"dropout_rate": 1.0}, InvalidInputError, "dropout_rate"),
        ({"dropout_rate": 2, "attention": "gin", "num_heads": 1}, InvalidInputError, "dropout_rate"),
        ({"seed": -1}, InvalidInputError, "seed"),
        ({"dtype": "float16"}, InvalidInputError, "dtype"),
    ],
)
def test_options_that_make_no_sense_are_named(options, error, message):
    with pytest.raises(error, match=message):
        AttentionGNNLayer(**{"embed_dim": WIDTH, "num_heads": HEADS, **options})


RING = np.array([[0, 1, 2], [1, 2, 0]])
X = np.ones((3, WIDTH), np.float32)


def with_nan():
    x = X.copy()
    x[1, 2] = np.nan
    return x


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(X[:, :4], RING), DimensionMismatchError, r"x must be embed_dim, 6, wide, got shape \(3, 4\)"),
        (lambda layer: layer(X[0], RING), DimensionMismatchError, "x"),
        (lambda layer: layer(X[None], RING), DimensionMismatchError, "Graph.batch"),
        (lambda layer: layer((X, X), RING), AttentionError, "x must"),
        (lambda layer: layer(X[:0], np.empty((2, 0), int)), InvalidInputError, "x must not be empty"),
        (lambda layer: layer(None, RING), InvalidInputError, "x must be an array"),
        (lambda layer: layer(X.astype(int), RING), UnsupportedError, "int64"),
        (lambda layer: layer(with_nan(), RING), InvalidInputError, r"x must be finite, got nan at index \(1, 2\)"),
        (lambda layer: layer(X, RING.T), DimensionMismatchError, r"edge_index\.T"),
        (lambda layer: layer(X, RING + 1), InvalidInputError, "3"),
        (lambda layer: layer(X, RING, np.ones((3, 2), np.float32)), DimensionMismatchError, "edge_attr must have 3 columns"),
        (lambda layer: layer(X, RING, edge_weight=[-1, 1, 1]), InvalidInputError, "edge_weight must be at least 0"),
        (lambda layer: layer(X, RING, threads=0), InvalidInputError, "threads"),
        (lambda layer: layer(X, RING, out=np.ones((3, 2), np.float32)), DimensionMismatchError, r"out must have shape \(3, 6\)"),
        (lambda layer: layer(X, RING, out=np.ones((3, WIDTH))), InvalidInputError, "out must have the dtype"),
        (lambda layer: layer(X, RING, out=X), InvalidInputError, "out shares memory with x"),
        (lambda layer: layer(X, RING, out=layer.parameters()["W_1"][:3]), InvalidInputError, "out shares memory with W_1"),
    ],
)
def test_arguments_that_make_no_sense_are_named(norm_first, call, error, message):
    layer = made(norm_first=norm_first, ffn_dim=WIDTH)
    with pytest.raises(error, match=message):
        call(layer)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_without_the_check_what_is_not_finite_reaches_its_neighbours_only(norm_first, value):
    layer = made(norm_first=norm_first, attention_options={"check_finite": False})
    x = np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)
    edges = [(0, 1), (1, 2), (3, 4)]
    expected = layer(x, edges)
    x[0, 3] = value
    found = layer(x, edges)
    np.testing.assert_array_equal(found[2:], expected[2:])
    assert not np.isfinite(found[:2]).all(1).any()
