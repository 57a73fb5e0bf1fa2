"""The built-in variants: against the oracle, against multi-head attention written out in NumPy, and with input that is wrong."""

import copy
import gc
import json
import pickle
import threading

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, assert_close, compute_dtype, epsilon, same_bits, tolerance

import ruvattn
from ruvattn import headwise, reference
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnknownVariantError, UnsupportedError
from ruvattn.headwise import merge_heads, split_heads

NAMES = ("standard", "multihead", "cross")


def sequences(seed, *shapes, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def by_hand(layer, q, k, v, mask=None):
    """Multi-head attention in float64, head by head."""
    p = {name: array.astype(np.float64) for name, array in layer.parameters().items()}
    q, k, v = (x.astype(np.float64) @ p[f"W_{n}"] + p.get(f"b_{n}", 0) for n, x in (("q", q), ("k", k), ("v", v)))
    heads, kv_heads = layer.num_heads, layer.num_kv_heads
    d = q.shape[-1] // heads
    outputs, weights = [], []
    for h in range(heads):
        g = h // (heads // kv_heads)
        s = q[..., h * d : (h + 1) * d] @ np.swapaxes(k[..., g * d : (g + 1) * d], -1, -2) / np.sqrt(d)
        if mask is not None:
            s = np.where(mask, s, -np.inf)
        w = np.exp(s - s.max(-1, keepdims=True))
        w /= w.sum(-1, keepdims=True)
        weights.append(w)
        outputs.append(w @ v[..., g * d : (g + 1) * d])
    return np.concatenate(outputs, -1) @ p["W_o"] + p.get("b_o", 0), np.stack(weights, -3)


def through_pickle(x):
    return pickle.loads(pickle.dumps(x))


def product_tolerance(dtype, width):
    """Of two products of `width` terms with entries around 1, one after the other, and attention between."""
    return 16 * epsilon(dtype) * width


def assert_matches_its_context(variant, context, out):
    """What the context says was computed is what the oracle computes, and its heads are the output where nothing projects them."""
    expected, lse = reference.attention(context.q, context.k, context.v, return_lse=True, **context.options)
    options = {name: value for name, value in context.options.items() if name in ("scale", "bias", "sinks", "dropout")}
    atol = tolerance(context.q, context.k, context.v, options)
    assert_close(context.out, expected, atol)
    assert_close(context.lse, lse, tolerance(context.q, context.k, np.ones(1), {**options, "dropout": 0.0}) * 2)
    if not getattr(variant, "parameters", dict)():
        np.testing.assert_array_equal(out, merge_heads(context.out))


# --- heads ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_splitting_is_a_view_and_merging_undoes_it(lead):
    (x,) = sequences(0, (*lead, 5, 12))
    heads = split_heads(x, 4)
    assert heads.shape == (*lead, 4, 5, 3)
    np.testing.assert_array_equal(heads[..., 1, :, :], x[..., 3:6])
    assert np.shares_memory(heads, x)
    assert np.shares_memory(merge_heads(heads), x)
    np.testing.assert_array_equal(merge_heads(heads.copy()), x)


@pytest.mark.parametrize("layout", ["reversed", "transposed", "strided"])
def test_splitting_copies_nothing_whatever_the_strides(layout):
    x = {"reversed": np.ones((5, 12))[::-1, ::-1], "transposed": np.ones((12, 5)).T, "strided": np.ones((10, 24))[::2, ::2]}[layout]
    assert np.shares_memory(split_heads(x, 3), x)


def test_a_large_output_is_written_where_it_belongs():
    """The heads of the output are views of it: nothing was copied to merge them."""
    q, k, v = sequences(0, (2, 300, 64), (2, 50, 64), (2, 50, 64))
    assert q.size > headwise.SMALL
    out, context = ruvattn.create("standard", embed_dim=64, num_heads=4).forward_with_context(q, k, v)
    assert np.shares_memory(out, context.out)
    assert out.flags.c_contiguous
    assert np.shares_memory(q, context.q)
    assert np.shares_memory(k, context.k)
    assert np.shares_memory(v, context.v)


# --- agreement --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_standard_is_attention_of_the_parts_of_the_width(dtype, num_heads, lead):
    q, k, v = sequences(1, (*lead, 6, 16), (*lead, 9, 16), (*lead, 9, 8), dtype=DTYPES[dtype])
    variant = ruvattn.create("standard", embed_dim=16, num_heads=num_heads)
    out, context = variant.forward_with_context(q, k, v)
    assert out.shape == (*lead, 6, 8)
    assert out.dtype == q.dtype
    parts = [np.split(x.astype(np.float64), num_heads, axis=-1) for x in (q, k, v)]
    expected = np.concatenate([reference.attention(*(x[..., None, :, :] for x in part))[..., 0, :, :] for part in zip(*parts, strict=True)], -1)
    assert_close(out, expected, tolerance(context.q, context.k, context.v, {}))
    assert_matches_its_context(variant, context, out)


def test_large_and_small_outputs_are_the_same():
    q, k, v = sequences(2, (600, 64), (20, 64), (20, 64))
    variant = ruvattn.create("standard", embed_dim=64, num_heads=8)
    whole = variant(q, k, v)
    assert whole.size > headwise.SMALL
    parts = [variant(q[at : at + 100], k, v) for at in range(0, 600, 100)]
    assert_close(np.concatenate(parts), whole, tolerance(*(split_heads(x, 8) for x in (q, k, v)), {}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_multihead_is_what_is_written_out_by_hand(dtype, num_kv_heads, bias):
    layer = ruvattn.create("multihead", embed_dim=32, num_heads=4, num_kv_heads=num_kv_heads, bias=bias, dtype="float64")
    rng = np.random.default_rng(3)
    for name, array in layer.parameters().items():
        if name.startswith("b_"):
            array[:] = rng.standard_normal(array.shape)
    q, k, v = sequences(4, (2, 5, 32), (2, 7, 32), (2, 7, 32), dtype=DTYPES[dtype])
    out, context = layer.forward_with_context(q, k, v)
    expected, weights = by_hand(layer, q, k, v)
    assert out.dtype == q.dtype
    rounding = epsilon(q.dtype) * np.abs(expected).max() if q.dtype.itemsize == 2 else 0.0
    assert_close(out, expected, product_tolerance(compute_dtype(q.dtype), 32) + rounding)
    assert_close(layer.get_attention_weights(), weights, product_tolerance(compute_dtype(q.dtype), 32))
    assert context.k.shape == (2, num_kv_heads, 7, 8)
    assert_matches_its_context(layer, context, out)


def test_multihead_without_projections_is_standard():
    q, k, v = sequences(5, (2, 5, 32), (2, 7, 32), (2, 7, 12))
    plain = ruvattn.create("multihead", embed_dim=32, num_heads=4, projections=False)
    assert plain.parameters() == {}
    assert plain.num_parameters == 0
    assert same_bits(plain(q, k, v), ruvattn.create("standard", embed_dim=32, num_heads=4)(q, k, v))


@pytest.mark.parametrize(("options", "key_dim", "value_dim"), [({}, 32, 32), ({"key_dim": 20}, 20, 20), ({"key_dim": 20, "value_dim": 12}, 20, 12)])
def test_cross_takes_keys_and_values_of_other_widths(options, key_dim, value_dim):
    layer = ruvattn.create("cross", embed_dim=32, num_heads=4, num_kv_heads=2, bias=True, **options)
    q, k, v = sequences(6, (2, 5, 32), (2, 7, key_dim), (2, 7, value_dim))
    out, context = layer.forward_with_context(q, k, v)
    assert out.shape == (2, 5, 32)
    assert_close(out, by_hand(layer, q, k, v)[0], product_tolerance(np.float32, 32))
    assert_matches_its_context(layer, context, out)


def test_keys_and_values_have_defaults():
    x, memory = sequences(7, (5, 16), (7, 16))
    for name in NAMES:
        layer = ruvattn.create(name, embed_dim=16, num_heads=2)
        assert same_bits(layer(x), layer(x, x, x))
        assert same_bits(layer(x, memory), layer(x, memory, memory))


BIAS = np.random.default_rng(8).standard_normal((2, 5, 7)).astype(np.float32)
MASK = np.arange(35).reshape(5, 7) % 3 != 0


@pytest.mark.parametrize(
    "options",
    [
        {"mask": MASK},
        {"mask": scipy.sparse.csr_array(MASK)},
        {"mask": ruvattn.Window(2, 1)},
        {"bias": BIAS},
        {"causal": True, "query_offset": "end", "key_lengths": [4, 7, 0]},
        {"window": (2, 0), "query_offset": 3},
        {"scale": 0.7, "softcap": 2.0},
        {"scale": [0.7, 1.5]},
        {"sinks": [0.5, -np.inf]},
        {"dropout": 0.3, "seed": 5},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_call_are_those_of_the_functional_api(name, options):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2)
    q, k, v = sequences(9, (3, 5, 16), (3, 7, 16), (3, 7, 16))
    out, context = variant.forward_with_context(q, k, v, **options)
    heads = ruvattn.attention(context.q, context.k, context.v, **options)
    assert_close(context.out, heads, tolerance(context.q, context.k, context.v, options))
    assert_matches_its_context(variant, context, out)


@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_variant_hold_for_every_call(name):
    own = {"causal": True, "window": (3, -1), "scale": 0.6, "softcap": 5.0}
    q, k = sequences(10, (2, 6, 16), (2, 6, 16))
    bound = ruvattn.create(name, embed_dim=16, num_heads=2, **own)
    free = ruvattn.create(name, embed_dim=16, num_heads=2)
    out, context = bound.forward_with_context(q, k)
    assert same_bits(out, free(q, k, **own))
    assert_matches_its_context(bound, context, out)


def test_masks_of_variant_and_call_are_anded_and_the_rest_is_replaced():
    q, k = sequences(11, (1, 9, 16), (1, 9, 16))
    free = ruvattn.create("standard", embed_dim=16)
    causal = ruvattn.create("standard", embed_dim=16, causal=True)
    mask = MASK[:1, :1] | (np.arange(9) > 2)
    assert same_bits(causal(q, k, causal=False, mask=mask), free(q, k, causal=True, mask=mask))
    windowed = ruvattn.create("standard", embed_dim=16, window=(3, -1))
    assert same_bits(windowed(q, k, window=(-1, 2)), free(q, k, window=(3, 2)))
    assert same_bits(windowed(q, k, window=(5, 0)), free(q, k, window=(3, 0)))
    scaled = ruvattn.create("standard", embed_dim=16, scale=3.0, softcap=1.0)
    assert same_bits(scaled(q, k, scale=0.5, softcap=7.0), free(q, k, scale=0.5, softcap=7.0))


SCORED = """
    import numpy as np
    from ruvattn import Aggregate, Score

    class Slope(Score):
        "Dots minus the distance of positions: looks at where rows stand."
        def __init__(self, slope=0.5, scale=1.0):
            self.params = {"slope": slope, "scale": scale}
        def row_terms(self, q, pos):
            return (pos,)
        def col_terms(self, k, pos):
            return (pos,)
        def logits(self, t):
            return t.dots[0] * t.params["scale"] - t.params["slope"] * np.abs(t.rows[0] - t.cols[0])

    class Doubled(Aggregate):
        "The sum, beside its square."
        def finish(self, acc):
            return np.concatenate([acc, acc * acc], -1)

    def ruvattn_register(registry):
        registry.score("slope", Slope)
        registry.aggregate("doubled", Doubled)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_score_is_chosen_by_name_with_its_options(fake_plugins, name):
    fake_plugins.install("ruvattn-slope", SCORED)
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, score="slope", score_options={"slope": 0.25}, scale=0.5)
    q, k = sequences(12, (2, 5, 16), (2, 7, 16))
    out, context = variant.forward_with_context(q, k, query_offset=2)
    assert context.options["score"].params["slope"] == 0.25
    assert_matches_its_context(variant, context, out)
    again = pickle.loads(pickle.dumps(variant))
    assert same_bits(again(q, k, query_offset=2), out)
    assert same_bits(ruvattn.AttentionConfig.from_json(variant.config.to_json()).create()(q, k, query_offset=2), out)


def test_a_registered_aggregate_may_change_the_width(fake_plugins):
    fake_plugins.install("ruvattn-slope", SCORED)
    q, k = sequences(13, (2, 5, 16), (2, 7, 16))
    variant = ruvattn.create("standard", embed_dim=16, num_heads=2, aggregate="doubled")
    out, context = variant.forward_with_context(q, k)
    plain = ruvattn.create("standard", embed_dim=16, num_heads=2)(q, k)
    assert out.shape == (2, 5, 32)
    np.testing.assert_allclose(out[..., :8], plain[..., :8], rtol=1e-6)
    np.testing.assert_allclose(out[..., 8:16], plain[..., :8] ** 2, rtol=1e-6)
    assert_matches_its_context(variant, context, out)
    assert variant.get_attention_weights().shape == (2, 2, 5, 7)
    target = np.empty_like(out)
    assert variant(q, k, out=target) is target
    np.testing.assert_array_equal(target, out)
    with pytest.raises(UnsupportedError, match="use projections=False"):
        ruvattn.create("multihead", embed_dim=16, num_heads=2, aggregate="doubled")(q, k)


# --- single queries ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": (2, 0)}, {"window": (3, -1), "causal": True, "scale": 2.0}], ids=str)
def test_a_batch_is_its_singles_and_stands_at_the_last_key(name, options):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, **options)
    queries, keys, values = sequences(14, (6, 16), (9, 16), (9, 16))
    batch = variant.forward_batch(queries, keys, values)
    singles = [variant.forward(query, keys, values) for query in queries]
    ends = [variant(query[None], keys, values, query_offset="end")[0] for query in queries]
    assert batch.shape == (6, 16)
    atol = product_tolerance(np.float32, 16) if variant.config.options.get("projections") else tolerance(queries, keys, values, {"scale": 2.0})
    assert_close(batch, np.stack(singles), atol)
    assert_close(batch, np.stack(ends), atol)


def test_singles_of_a_causal_variant_see_all_keys():
    queries, keys, values = sequences(15, (6, 16), (9, 16), (9, 16))
    free = ruvattn.create("standard", embed_dim=16).forward_batch(queries, keys, values)
    causal = ruvattn.create("standard", embed_dim=16, causal=True)
    assert_close(causal.forward_batch(queries, keys, values), free, tolerance(queries, keys, values, {}))


def test_a_score_with_positions_stands_every_query_of_a_batch_at_the_last_key(fake_plugins):
    fake_plugins.install("ruvattn-slope", SCORED)
    variant = ruvattn.create("multihead", embed_dim=16, num_heads=2, num_kv_heads=1, score="slope")
    queries, keys, values = sequences(16, (6, 16), (9, 16), (9, 16))
    batch = variant.forward_batch(queries, keys, values)
    assert_close(batch, np.stack([variant.forward(query, keys, values) for query in queries]), product_tolerance(np.float32, 16))


def test_singles_are_remembered_too():
    variant = ruvattn.create("multihead", embed_dim=16, num_heads=2)
    queries, keys, values = sequences(17, (6, 16), (9, 16), (9, 16))
    variant.forward_batch(queries, keys, values)
    weights = variant.get_attention_weights()
    assert weights.shape == (2, 6, 9)
    variant.forward(queries[0], keys, values)
    assert_close(variant.get_attention_weights()[:, 0], weights[:, 0], product_tolerance(np.float32, 16))


@pytest.mark.parametrize("name", NAMES)
def test_the_width_of_the_output_is_that_of_the_values_unless_they_are_projected(name):
    query, keys, values = sequences(18, (16,), (9, 16), (9, 6))
    plain = {} if name == "standard" else {"projections": False}
    assert ruvattn.create(name, embed_dim=16, num_heads=2, **plain).forward(query, keys, values).shape == (6,)
    if plain:
        wide = ruvattn.create("cross", embed_dim=16, num_heads=2, value_dim=6)
        assert wide.forward(query, keys, values).shape == (16,)


# --- out, threads, dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("length", [1, 5, 600])
def test_the_result_goes_where_it_is_told(name, dtype, length):
    variant = ruvattn.create(name, embed_dim=64, num_heads=4)
    q, k = sequences(19, (2, length, 64), (2, 7, 64), dtype=dtype)
    whole = np.full((2, length, 130), 7, dtype)
    out = whole[..., 1:129:2]
    assert variant(q, k, out=out) is out
    assert_close(out, variant(q, k), 2 * epsilon(dtype) * np.abs(whole).max())
    assert (whole[..., ::2] == 7).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_result_that_cannot_go_there_is_an_error(name):
    variant = ruvattn.create(name, embed_dim=16, num_heads=4)
    q, k = sequences(20, (2, 5, 16), (2, 7, 16))
    with pytest.raises(DimensionMismatchError, match=r"out must have shape \(2, 5, 16\), got \(2, 4, 5, 4\)"):
        variant(q, k, out=np.empty((2, 4, 5, 4), np.float32))
    with pytest.raises(InvalidInputError, match="out must have the dtype of the result, float32, got float64"):
        variant(q, k, out=np.empty((2, 5, 16)))
    with pytest.raises(InvalidInputError, match="out shares memory with q"):
        variant(q, k, out=q)
    with pytest.raises(InvalidInputError, match="read-only"):
        variant(q, k, out=np.broadcast_to(np.float32(0), (2, 5, 16)))
    if name != "standard":
        w = variant.parameters()["W_q"]
        with pytest.raises(InvalidInputError, match="out shares memory with W_q"):
            variant(q[:1], k[:1], out=w[None, :5])


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name):
    variant = ruvattn.create(name, embed_dim=64, num_heads=4, causal=True)
    (x,) = sequences(21, (2, 300, 64))
    first = variant(x, threads=1)
    assert same_bits(variant(x, threads=2), first)
    assert same_bits(variant(x, threads=7), first)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_dropped_unless_training_or_told(name):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, dropout_rate=0.5)
    free = ruvattn.create(name, embed_dim=16, num_heads=2)
    q, k = sequences(22, (5, 16), (40, 16))
    assert not variant.training
    assert same_bits(variant(q, k), free(q, k))
    assert same_bits(variant(q, k, dropout=0.5, seed=1), free(q, k, dropout=0.5, seed=1))
    variant.training = True
    assert same_bits(variant(q, k, seed=1), free(q, k, dropout=0.5, seed=1))
    assert same_bits(variant(q, k, dropout=0.0), free(q, k))
    variant.training = False
    assert same_bits(variant(q, k), free(q, k))


@pytest.mark.parametrize("name", NAMES)
def test_a_context_knows_the_seed_that_was_drawn(name):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, dropout_rate=0.5)
    variant.training = True
    q, k = sequences(23, (5, 16), (40, 16))
    out, context = variant.forward_with_context(q, k)
    other, another = variant.forward_with_context(q, k)
    assert context.options["dropout"] == 0.5
    assert context.options["seed"] != another.options["seed"]
    assert not np.array_equal(out, other)
    assert same_bits(variant(q, k, seed=context.options["seed"]), out)
    assert_matches_its_context(variant, context, out)
    weights = variant.get_attention_weights(context)
    assert 0.3 < np.mean(weights == 0) < 0.7
    assert same_bits(weights, variant.get_attention_weights(context))
    variant.forward(q[0], k, k)
    assert "seed" in variant._remembered().options


# --- weights ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", [(), (3,)])
def test_weights_are_distributions_of_every_head(name, lead):
    variant = ruvattn.create(name, embed_dim=16, num_heads=4)
    q, k = sequences(24, (*lead, 5, 16), (*lead, 7, 16))
    variant(q, k, mask=MASK)
    weights = variant.get_attention_weights()
    assert weights.shape == (*lead, 4, 5, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert not weights[..., ~MASK].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_sees_nothing_is_zero(name):
    variant = ruvattn.create(name, embed_dim=16, num_heads=4)
    q, k = sequences(25, (5, 16), (7, 16))
    out, lse = variant(q, k, mask=MASK & (np.arange(5) != 2)[:, None], return_lse=True)
    assert not out[2].any()
    assert np.isneginf(lse[:, 2]).all()
    assert out[[0, 1, 3, 4]].any(-1).all()


# --- parameters -------------------------------------------------------------------------------------------------------------------


def test_parameters_are_live_and_writable():
    layer = ruvattn.create("multihead", embed_dim=16, num_heads=2)
    (x,) = sequences(26, (5, 16))
    assert layer(x).any()
    layer.parameters()["W_o"][...] = 0
    assert not layer(x).any()
    layer.parameters()["W_o"][...] = np.eye(16)
    for name in ("W_q", "W_k", "W_v"):
        layer.parameters()[name][...] = np.eye(16)
    assert_close(layer(x), ruvattn.create("standard", embed_dim=16, num_heads=2)(x), product_tolerance(np.float32, 16))


def test_parameters_have_the_shapes_that_are_documented():
    layer = ruvattn.create("cross", embed_dim=16, num_heads=4, num_kv_heads=2, key_dim=10, value_dim=6, bias=True, dtype="float64")
    shapes = {name: array.shape for name, array in layer.parameters().items()}
    assert shapes == {
        "W_q": (16, 16), "b_q": (16,), "W_k": (10, 8), "b_k": (8,), "W_v": (6, 8), "b_v": (8,), "W_o": (16, 16), "b_o": (16,),
    }  # fmt: skip
    assert layer.num_parameters == sum(np.prod(shape) for shape in shapes.values())
    assert {array.dtype for array in layer.parameters().values()} == {np.dtype(np.float64)}


def test_initial_weights_are_uniform_within_xaviers_bound_and_biases_zero():
    layer = ruvattn.create("multihead", embed_dim=256, num_heads=4, num_kv_heads=2, bias=True)
    for name, array in layer.parameters().items():
        if name.startswith("b_"):
            assert not array.any()
            continue
        limit = np.sqrt(6 / sum(array.shape))
        assert limit * 0.999 < np.abs(array).max() <= limit * (1 + 1e-7)
        # of n uniform numbers, mean and variance are known to about 1/√n
        assert abs(array.mean()) < 5 * limit / np.sqrt(3 * array.size)
        np.testing.assert_allclose(array.var(), limit**2 / 3, rtol=5 / np.sqrt(array.size))


def test_the_seed_decides_the_initial_weights():
    def weights(**options):
        return ruvattn.create("multihead", embed_dim=16, num_heads=2, **options).parameters()["W_v"]

    assert same_bits(weights(), weights())
    assert same_bits(weights(seed=7), weights(seed=7, bias=True))
    assert not np.array_equal(weights(seed=7), weights(seed=8))
    np.testing.assert_array_equal(weights(dtype="float64").astype(np.float32), weights())


def test_float64_input_is_computed_in_float64_whatever_the_parameters():
    layer = ruvattn.create("multihead", embed_dim=16, num_heads=2)
    (x,) = sequences(27, (5, 16), dtype=np.float64)
    out = layer(x)
    assert out.dtype == np.float64
    assert_close(out, by_hand(layer, x, x, x)[0], product_tolerance(np.float64, 16))


def test_a_bias_in_the_dtype_of_narrow_input_is_taken():
    layer = ruvattn.create("multihead", embed_dim=16, num_heads=2)
    q, k, bias = sequences(28, (5, 16), (7, 16), (5, 7), dtype=np.float16)
    assert same_bits(layer(q, k, bias=bias), layer(q, k, bias=bias.astype(np.float32)))


def test_projections_that_overflow_end_at_the_largest_number():
    layer = ruvattn.create("multihead", embed_dim=16, num_heads=2, check_finite=False)
    (x,) = sequences(34, (4, 16))
    expected = layer(x[3:])
    x[:2] = np.sign(x[:2]) * np.finfo(np.float32).max
    x[2] = np.nan
    mask = np.ones((4, 4), bool)
    mask[:, 2] = mask[3, :2] = False  # nobody sees the NaN, and row 3 none of the large ones either
    out = layer(x, mask=mask)
    assert np.isfinite(out[[0, 1, 3]]).all()
    assert np.isnan(out[2]).all()
    assert_close(out[3:], expected, product_tolerance(np.float32, 16))
    context = layer._remembered()
    assert np.isnan(context.v[:, 2]).all()
    assert np.isfinite(context.v[:, :2]).all()
    assert np.abs(context.v[:, :2]).max() == np.finfo(np.float32).max


# --- duplicates and threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, through_pickle], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("name", NAMES)
def test_a_duplicate_computes_the_same_and_remembers_nothing(name, duplicate):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, causal=True, scale=0.3)
    if name != "standard":
        variant.parameters()["W_q"][...] *= 2  # parameters go along, not the seed only
    (x,) = sequences(29, (5, 16))
    expected = variant(x)
    twin = duplicate(variant)
    assert twin.get_attention_weights() is None
    assert same_bits(twin(x), expected)
    assert twin.config == variant.config


def test_pickles_hold_no_arrays_of_calls():
    variant = ruvattn.create("standard", embed_dim=16)
    before = len(pickle.dumps(variant))
    variant(np.ones((1000, 16), np.float32))
    assert len(pickle.dumps(variant)) == before


@pytest.mark.parametrize("name", NAMES)
def test_threads_that_share_an_instance_do_not_disturb_each_other(name):
    variant = ruvattn.create(name, embed_dim=32, num_heads=4, causal=True)
    inputs = [sequences(seed, (3 + seed, 32))[0] for seed in range(8)]
    expected = [(variant(x), variant.get_attention_weights()) for x in inputs]
    barrier = threading.Barrier(len(inputs))
    wrong = []

    def call(at):
        barrier.wait(10)
        for _ in range(30):
            out = variant(inputs[at])
            if not (same_bits(out, expected[at][0]) and same_bits(variant.get_attention_weights(), expected[at][1])):
                wrong.append(at)

    threads = [threading.Thread(target=call, args=(at,)) for at in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("extra", [{}, {"window": (4, 0), "scale": (0.5, 2.0), "softcap": 3, "max_keys": None, "dropout_rate": 0.5}], ids=str)
def test_a_variant_is_its_configuration(name, extra):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, **extra)
    config = ruvattn.AttentionConfig.from_json(variant.config.to_json())
    assert config == variant.config
    assert config.attention_type == name
    again = config.create()
    assert type(again) is type(variant)
    assert again.config == config
    (x,) = sequences(30, (5, 16))
    assert same_bits(again(x), variant(x))
    assert json.loads(config.to_json())["embed_dim"] == 16


def test_inputs_are_not_written():
    for name in NAMES:
        (x,) = sequences(31, (2, 5, 16))
        x.flags.writeable = False
        before = x.copy()
        ruvattn.create(name, embed_dim=16, num_heads=2)(x)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["big-endian", "reversed", "transposed", "unaligned", "list"])
def test_any_layout_of_the_input_gives_the_same(name, layout):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2)
    (x,) = sequences(32, (5, 16), dtype=np.float64)
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(x.shape)
    unaligned[...] = x
    odd = {
        "big-endian": x.astype(">f8"),
        "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
        "transposed": x.T.copy().T,
        "unaligned": unaligned,
        "list": x.tolist(),
    }[layout]
    out = variant(odd, odd, x)
    assert out.dtype == np.dtype(np.float64)
    assert out.dtype.isnative
    assert_close(out, variant(x), product_tolerance(np.float64, 16))


def test_a_call_without_memory_leaves_no_reference_cycle():
    """Arrays of a variant that is thrown away go at once, not when the collector comes by."""
    variant = ruvattn.create("multihead", embed_dim=16, num_heads=2)
    gc.collect()
    gc.disable()
    try:
        variant(np.ones((5, 16), np.float32))
        del variant
        assert gc.collect() == 0
    finally:
        gc.enable()


# --- input that is wrong ----------------------------------------------------------------------------------------------------------


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ((ones(16), ones(7, 16)), DimensionMismatchError, r"^q must have at least .* got shape \(16,\): a single query goes through forward"),
        ((ones(5, 16), ones(16)), DimensionMismatchError, r"^k must have at least the axes"),
        ((np.float32(3), ones(7, 16)), DimensionMismatchError, r"^q must have at least the axes"),
        ((ones(5, 15), ones(7, 16)), DimensionMismatchError, r"^q must have width 16, got 15 \(shape \(5, 15\)\)"),
        ((ones(5, 16), ones(7, 17)), DimensionMismatchError, "^k must have width 16, got 17"),
        ((ones(5, 16), ones(7, 16), ones(6, 16)), DimensionMismatchError, "^v must have a row for each key: expected 7 rows, got 6"),
        ((ones(2, 5, 16), ones(3, 7, 16)), DimensionMismatchError, r"^k must have the leading axes of q, \(2,\), got \(3,\)"),
        ((ones(2, 5, 16), ones(7, 16)), DimensionMismatchError, r"^k must have the leading axes of q, \(2,\), got \(\)"),
        ((ones(0, 16), ones(7, 16)), InvalidInputError, r"^q must not be empty, got shape \(0, 16\)"),
        ((ones(5, 16), ones(0, 16)), InvalidInputError, r"^k must not be empty, got shape \(0, 16\)"),
        ((ones(0, 5, 16), ones(0, 7, 16)), InvalidInputError, "^q must not be empty"),
        ((ones(5, 16), ones(7, 16), ones(7, 0)), InvalidInputError, "^v must not be empty"),
        ((ones(5, 16), ones(7, 16, dtype=np.float64)), UnsupportedError, "^q, k and v must share one dtype, got q float32, k float64, v float64"),
        ((ones(5, 16, dtype=np.int64), ones(7, 16)), UnsupportedError, "^q has dtype int64: use float32, float64"),
        ((ones(5, 16), ones(7, 16, dtype=object)), UnsupportedError, "^k has dtype object"),
        ((ones(5, 16, dtype=complex), ones(7, 16)), UnsupportedError, "^q has dtype complex128"),
        (([[1.0], [1.0, 2.0]], ones(7, 16)), InvalidInputError, "^q is no array of numbers"),
        ((np.ma.masked_array(ones(5, 16)), ones(7, 16)), InvalidInputError, "^q is a masked array"),
    ],
)
def test_arrays_that_do_not_fit_are_named(name, arrays, error, message):
    with pytest.raises(error, match=message):
        ruvattn.create(name, embed_dim=16, num_heads=2)(*arrays)


def test_without_projections_the_heads_must_divide_the_values():
    with pytest.raises(DimensionMismatchError, match=r"v must have a width that the number of heads, 4, divides, got shape \(7, 6\)"):
        ruvattn.create("standard", embed_dim=16, num_heads=4)(ones(5, 16), ones(7, 16), ones(7, 6))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_input_that_is_not_finite_is_named_with_its_place(name, bad, at):
    arrays = [ones(2, 3, 16), ones(2, 4, 16), ones(2, 4, 16)]
    arrays[at][1, 2, 5] = bad
    variant = ruvattn.create(name, embed_dim=16, num_heads=2)
    with pytest.raises(InvalidInputError, match=rf"^{'qkv'[at]} must be finite, got {bad} at index \(1, 2, 5\)"):
        variant(*arrays)
    singles = [x[1] for x in arrays]
    with pytest.raises(InvalidInputError, match=rf"^{('queries', 'keys', 'values')[at]} must be finite, got {bad} at index \(2, 5\)"):
        variant.forward_batch(*singles)


@pytest.mark.filterwarnings("error")
def test_a_bias_of_bfloat16_is_refused_without_a_warning():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, bias = np.ones((4, 8), bfloat16), np.zeros((4, 4), bfloat16)
    bias[1, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"bias must be finite, or -inf to mask, got nan at index \(1, 2\)"):
        ruvattn.create("standard", embed_dim=8)(x, bias=bias)


def test_a_bias_may_mask_and_nothing_else():
    variant = ruvattn.create("standard", embed_dim=16)
    bias = np.zeros((3, 4), np.float32)
    bias[:, 1] = -np.inf
    variant(ones(3, 16), ones(4, 16), bias=bias)
    for bad in (np.nan, np.inf):
        bias[2, 3] = bad
        with pytest.raises(InvalidInputError, match=rf"bias must be finite, or -inf to mask, got {bad} at index \(2, 3\)"):
            variant(ones(3, 16), ones(4, 16), bias=bias)


@pytest.mark.parametrize("name", NAMES)
def test_unchecked_input_touches_only_the_rows_that_see_it(name):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2, check_finite=False)
    q, k, v = sequences(33, (5, 16), (7, 16), (7, 16))
    mask = np.ones((5, 7), bool)
    mask[:3, 6] = False
    expected = variant(q, k, v, mask=mask)
    k[6], v[6] = np.nan, np.inf
    out = variant(q, k, v, mask=mask)
    np.testing.assert_array_equal(out[:3], expected[:3])
    assert not np.isfinite(out[3:]).any()


def test_finite_extremes_are_finite_input():
    """Whose sum is not finite."""
    x = np.full((3, 16), np.finfo(np.float32).max)
    out = ruvattn.create("standard", embed_dim=16)(ones(3, 16), ones(3, 16), x)
    np.testing.assert_allclose(out, x, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_more_keys_than_the_limit_are_too_many(name):
    variant = ruvattn.create(name, embed_dim=4, max_keys=10)
    variant(ones(2, 4), ones(10, 4))
    with pytest.raises(InputTooLargeError, match="^k has 11 rows, of which a row would attend to 11, and max_keys is 10: .* with a larger max_keys"):
        variant(ones(2, 4), ones(11, 4))
    with pytest.raises(InputTooLargeError, match="^keys has 11 rows"):
        variant.forward(ones(4), ones(11, 4), ones(11, 4))
    ruvattn.create(name, embed_dim=4, max_keys=None)(ones(2, 4), ones(11, 4))


def test_the_limit_is_a_million_unless_told_otherwise():
    variant = ruvattn.create("standard", embed_dim=1)
    many = np.broadcast_to(np.float32(1), (1_000_001, 1))
    with pytest.raises(InputTooLargeError, match="has 1,000,001 rows"):
        variant.forward(ones(1), many, many)
    assert variant.forward(ones(1), many[1:], many[1:]) == 1


@pytest.mark.parametrize(
    ("options", "attended"),
    [
        ({"window": (4, 5)}, 10),
        ({"window": (9, -1), "causal": True}, 10),
        ({"key_lengths": 10}, 10),
        ({"mask": np.arange(20) < 10}, 10),
        ({"mask": scipy.sparse.csr_array(np.tri(2, 20, 8, dtype=bool))}, 10),
        ({"window": (5, 5)}, 11),
        ({"window": (9, -1)}, 20),
        ({"causal": True}, 20),
        ({"key_lengths": [11]}, 11),
        ({"mask": np.arange(20) < 11}, 11),
        ({"mask": scipy.sparse.csr_array(np.tri(2, 20, 9, dtype=bool))}, 11),
        ({"mask": ruvattn.Window(1, 1)}, 20),
    ],
    ids=str,
)
def test_the_limit_is_on_the_keys_that_a_row_attends_to(options, attended):
    variant = ruvattn.create("standard", embed_dim=4, max_keys=10)
    q, k = ones(2, 4), ones(20, 4)
    if "key_lengths" in options:
        q, k = q[None], k[None]
    if attended <= 10:
        variant(q, k, **options)
    else:
        with pytest.raises(InputTooLargeError, match=f"would attend to {attended}, and max_keys is 10"):
            variant(q, k, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": 1}, "causal must be True or False, got 1"),
        ({"window": 3}, r"window must be a pair \(left, right\)"),
        ({"window": (-2, 0)}, r"window\[0\] must be an int from -1, got -2"),
        ({"mask": MASK[:, :6]}, r"mask must broadcast to .* = \(2, 5, 7\), got shape \(5, 6\)"),
        ({"mask": MASK.astype(float)}, "numbers that are added to the logits are bias="),
        ({"bias": np.zeros((4, 7), np.float32)}, "bias must broadcast to"),
        ({"scale": np.nan}, "scale must be finite"),
        ({"scale": [1.0, 2.0, 3.0]}, "scale must be a scalar or have one entry for each of the 2 query heads"),
        ({"softcap": 0.0}, "softcap must be a positive finite number"),
        ({"sinks": [1.0]}, "sinks must have one entry for each of the 2 query heads"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        ({"seed": -1}, "seed must be an int from 0"),
        ({"key_lengths": 8}, "key_lengths must be at most the number of keys, 7, got 8"),
        ({"query_offset": "start"}, "query_offset must be an int"),
        ({"threads": 0}, "threads must be"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_call_without_sense_are_named(name, options, message):
    variant = ruvattn.create(name, embed_dim=16, num_heads=2)
    with pytest.raises((InvalidInputError, DimensionMismatchError), match=message):
        variant(ones(5, 16), ones(7, 16), **options)


def test_an_option_that_no_call_has_is_a_type_error():
    with pytest.raises(TypeError, match="causl"):
        ruvattn.create("standard", embed_dim=16)(ones(5, 16), causl=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embed_dim": 0}, InvalidInputError, "embed_dim must be an int from 1, got 0"),
        ({"embed_dim": "16"}, InvalidInputError, "embed_dim must be an int from 1, got '16'"),
        ({"num_heads": 3}, InvalidInputError, "num_heads must divide embed_dim, which is 16, got 3"),
        ({"num_heads": 0}, InvalidInputError, "num_heads must be an int from 1, got 0"),
        ({"num_heads": 2.0}, InvalidInputError, "num_heads must be an int from 1, got 2.0"),
        ({"dropout_rate": 1}, InvalidInputError, "dropout_rate must be at least 0 and less than 1, got 1"),
        ({"score": "no-such"}, UnknownVariantError, "unknown score 'no-such'"),
        ({"score": ruvattn.Dot()}, InvalidInputError, "score must be a registered name, got Dot"),
        ({"score_options": {"temperature": 2}}, InvalidInputError, "score 'dot' has no option 'temperature'; its options: scale"),
        ({"score_options": [1]}, InvalidInputError, "score_options must be a mapping of names to values"),
        ({"aggregate": "no-such"}, UnknownVariantError, "unknown aggregate 'no-such'"),
        ({"aggregate": None}, InvalidInputError, "aggregate must be a registered name, got None"),
        ({"aggregate_options": {"x": 2}}, InvalidInputError, "aggregate 'weighted-sum' has no option 'x'|'x'"),
        ({"causal": "yes"}, InvalidInputError, "causal must be True or False, got 'yes'"),
        ({"window": (1,)}, InvalidInputError, "window must be a pair"),
        ({"scale": [1.0, 2.0, 3.0]}, DimensionMismatchError, "scale must be a scalar or have one entry for each of the 2 query heads"),
        (
            {"score": "rbf", "score_options": {"sigma": [1.0, 2.0, 3.0]}}, DimensionMismatchError,
            "sigma must be a scalar or have one entry for each of the 2 query heads",
        ),
        ({"scale": "big"}, InvalidInputError, "scale must be a number or an array of numbers, got 'big'"),
        ({"scale": np.inf}, InvalidInputError, r"options\['scale'\] must be finite, got inf"),
        ({"softcap": -1.0}, InvalidInputError, "softcap must be a positive finite number, got -1.0"),
        ({"check_finite": 0}, InvalidInputError, "check_finite must be True or False, got 0"),
        ({"max_keys": 0}, InvalidInputError, "max_keys must be an int from 1, got 0"),
    ],
    ids=str,
)
def test_options_of_a_variant_without_sense_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        ruvattn.create(name, **{"embed_dim": 16, "num_heads": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads, which is 4, got 3"),
        ({"num_kv_heads": 0}, "num_kv_heads must be an int from 1, got 0"),
        ({"num_kv_heads": 2, "projections": False}, "num_kv_heads must be num_heads, 4, without projections, got 2"),
        ({"bias": True, "projections": False}, "bias must be False without projections"),
        ({"projections": 1}, "projections must be True or False, got 1"),
        ({"bias": None}, "bias must be True or False, got None"),
        ({"seed": 1.5}, "seed must be an int from 0"),
        ({"dtype": "float16"}, "dtype of the parameters must be float32 or float64, got 'float16'"),
        ({"dtype": "no-such"}, "dtype of the parameters must be float32 or float64, got 'no-such'"),
        ({"dtype": None}, "dtype of the parameters must be float32 or float64, got None"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["multihead", "cross"])
def test_options_of_projections_without_sense_are_named(name, options, message):
    with pytest.raises(InvalidInputError, match=message):
        ruvattn.create(name, embed_dim=16, num_heads=4, **options)


@pytest.mark.parametrize("options", [{"key_dim": 8}, {"value_dim": 16}], ids=str)
def test_cross_has_widths_of_its_own_only_with_projections(options):
    with pytest.raises(InvalidInputError, match="without projections"):
        ruvattn.create("cross", embed_dim=16, projections=False, **options)
    with pytest.raises(InvalidInputError, match="key_dim must be an int from 1"):
        ruvattn.create("cross", embed_dim=16, key_dim=0)


def test_parameters_that_cannot_be_allocated_are_a_memory_error():
    with pytest.raises(MemoryError):
        ruvattn.create("multihead", embed_dim=2**40)
    with pytest.raises(MemoryError):
        ruvattn.create("multihead", embed_dim=2**70)


# --- what is registered -----------------------------------------------------------------------------------------------------------


def test_capabilities_say_what_is_true():
    infos = ruvattn.variants()
    for name in NAMES:
        variant = ruvattn.create(name, embed_dim=16, num_heads=2)
        capabilities = infos[name].capabilities
        assert ("trainable" in capabilities) == isinstance(variant, ruvattn.TrainableAttention)
        assert ("parameters" in capabilities) == bool(variant.parameters())
        assert ("grouped-queries" in capabilities) == ("num_kv_heads" in infos[name].options)


@pytest.mark.parametrize("name", NAMES)
def test_the_options_of_a_configuration_are_those_that_are_listed(name):
    assert set(ruvattn.create(name, embed_dim=4).config.options) == set(ruvattn.variants()[name].options) - {"dropout_rate"}


def test_built_in_parts_are_made_by_name():
    from ruvattn import registry

    assert registry.get_pattern("window", left=1, right=2).right == 2
    assert registry.get_pattern("key-lengths", lengths=[3, 4]).lengths.tolist() == [3, 4]
    assert type(registry.get_pattern("causal")) is ruvattn.Causal
    assert type(registry.get_score("dot", scale=2.0)) is ruvattn.Dot
    assert type(registry.get_aggregate("weighted-sum")) is ruvattn.WeightedSum


# --- variants of others -----------------------------------------------------------------------------------------------------------


class Rotated(headwise.HeadwiseAttention):
    """Rotary positions (Su et al., 2021), and an output that is turned around: what a plugin would write."""

    attention_type = "rotated"

    def __init__(self, embed_dim, num_heads=1, *, base=10.0, **common):
        super().__init__(embed_dim, num_heads, own={"base": base}, **common)
        self.base = base

    def project_inputs(self, q, k, v):
        return self._turn(q), self._turn(k), v

    def project_output(self, merged, dtype, out):
        return super().project_output(np.ascontiguousarray(merged[..., ::-1]), dtype, out)

    def _turn(self, x):
        half = x.shape[-1] // 2
        angle = np.arange(x.shape[-2])[:, None] * self.base ** -(np.arange(half) / half)
        cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def test_a_subclass_maps_what_goes_in_and_what_comes_out():
    variant = Rotated(16, base=7.0, causal=True)
    q, k = sequences(35, (2, 5, 16), (2, 5, 16))
    out, context = variant.forward_with_context(q, k)
    expected = reference.attention(*(x[:, None] for x in (variant._turn(q), variant._turn(k), k)), causal=True)[:, 0]
    assert_close(out, expected[..., ::-1], tolerance(q, k, k, {}))
    assert variant.config.options["base"] == 7.0
    assert context.inputs[0] is q
    assert same_bits(through_pickle(variant)(q, k), out)
    target = np.empty_like(out)
    assert variant(q, k, out=target) is target
    assert same_bits(target, out)


def test_rotary_positions_see_distances_only():
    """The weights of a subclass are those of what it made of queries and keys."""
    variant = Rotated(16)
    q, k = np.tile(sequences(36, (1, 16))[0], (6, 1)), np.tile(sequences(37, (1, 16))[0], (6, 1))
    _, context = variant.forward_with_context(q, k)
    logits = ruvattn.attention_logits(context.q, context.k)[0]
    for distance in range(-5, 6):
        diagonal = logits.diagonal(distance)
        assert_close(diagonal, np.full_like(diagonal, diagonal[0]), tolerance(q, k, np.ones(1), {}))


class Widened(headwise.HeadwiseAttention):
    """Queries and keys of unit length in every head (Henry et al., 2020), computed in float32 at least."""

    attention_type = "widened"

    def project_inputs(self, q, k, v):
        q, k, v = (x.astype(np.result_type(x, np.float32)) for x in (q, k, v))
        q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
        return q, k, v


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 4])
def test_a_subclass_may_compute_in_a_wider_dtype_than_it_is_given(dtype, heads):
    (x,) = sequences(38, (3, 6, 16), dtype=dtype)
    variant = Widened(16, heads)
    out = variant(x)
    assert out.dtype == x.dtype
    target = np.full_like(out, np.nan)
    assert variant(x, out=target) is target
    assert same_bits(target, out)


class Narrowed(headwise.HeadwiseAttention):
    """An output of another width than the values."""

    attention_type = "narrowed"

    def output_dim(self, value_width):
        return 3

    def project_output(self, merged, dtype, out):
        return super().project_output(merged[..., :3], dtype, out)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_subclass_may_give_an_output_of_another_width(heads):
    (x,) = sequences(39, (2, 6, 16))
    variant = Narrowed(16, heads)
    out = variant(x)
    assert out.shape == (2, 6, 3)
    target = np.full_like(out, np.nan)
    assert variant(x, out=target) is target
    assert same_bits(target, out)


class Turned(headwise.HeadwiseAttention):
    """An output that is a view of what the engine wrote."""

    attention_type = "turned"

    def project_output(self, merged, dtype, out):
        return super().project_output(merged[..., ::-1], dtype, out)


def test_a_subclass_may_hand_on_a_view_of_the_output():
    (x,) = sequences(40, (2, 6, 16))
    variant = Turned(16, 4)
    target = np.empty_like(x)
    assert variant(x, out=target) is target
    assert same_bits(target, variant(x))


class Nearby(headwise.HeadwiseAttention):
    """A window of its own, which it knows the keys of."""

    attention_type = "nearby"
    positional = True
    pattern = ruvattn.Window(2, 0)

    def own_mask(self, lq, lk, single):
        return self.pattern

    def keys_attended(self, lk, options):
        return min(super().keys_attended(lk, options), 3)

    def keys_seen(self, lq, lk, width, options):
        if options.get("query_offset") != "end":
            return None
        return [np.array([lk - 3]), slice(lk - 2, lk)]


def test_a_subclass_may_have_a_mask_of_its_own_to_which_those_of_a_call_are_added():
    q, k, v = sequences(41, (2, 6, 8), (2, 9, 8), (2, 9, 8))
    extra = np.random.default_rng(0).random((6, 9)) < 0.7
    variant = Nearby(8)
    expected = reference.attention(q[:, None], k[:, None], v[:, None], window=(2, 0), mask=extra, query_offset=3)[:, 0]
    assert_close(variant(q, k, v, mask=extra, query_offset=3), expected, tolerance(q, k, v, {}))
    assert_close(variant.forward(q[0, 0], k[0], v[0]), reference.attention(q[0, :1], k[0, 6:], v[0, 6:])[0], tolerance(q, k, v, {}))


def test_a_subclass_may_say_how_many_keys_a_row_attends_to():
    q, k, v = sequences(42, (6, 8), (9, 8), (9, 8))
    Nearby(8, max_keys=3)(q, k, v)
    with pytest.raises(InputTooLargeError, match="a row would attend to 3, and max_keys is 2"):
        Nearby(8, max_keys=2)(q, k, v)


def test_keys_that_a_subclass_says_nobody_sees_may_be_anything():
    q, k, v = sequences(43, (8,), (9, 8), (9, 8))
    expected = Nearby(8).forward(q, k, v)
    k[:6] = v[:6] = np.nan
    assert same_bits(Nearby(8).forward(q, k, v), expected)
    v[6, 5] = np.inf
    with pytest.raises(InvalidInputError, match=r"values must be finite, got inf at index \(6, 5\)"):
        Nearby(8).forward(q, k, v)
