"""Variants of heads as they are trained: gradients of every kind of call, learned numbers, steps, checkpoints, dropout of the output."""

import copy
import pickle
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest

import ruvattn
from ruvattn import headwise_steps
from ruvattn.checkpoints import save_arrays
from ruvattn.context import RecomputedContext
from ruvattn.dropout import drop_output
from ruvattn.errors import CheckpointError, DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn.headwise import HeadwiseAttention
from ruvattn.testing.slopes import require_gradients
from ruvattn.training import SGD

WIDTH = 8
LAYERS = {
    "standard": ("standard", {"num_heads": 2}),
    "standard, learned": ("standard", {"num_heads": 2, "learn": ("scale", "sinks"), "softcap": 3.0}),
    "standard, positions": ("standard", {"num_heads": 2, "causal": True, "window": (2, -1), "learn": ("scale",)}),
    "multihead": ("multihead", {"num_heads": 4, "num_kv_heads": 2, "bias": True, "dtype": "float64", "learn": ("scale",), "scale": 0.7}),
    "cross": ("cross", {"num_heads": 2, "key_dim": 5, "value_dim": 3, "dtype": "float64"}),
}


def layer_of(name, **options):
    kind, given = LAYERS[name]
    return ruvattn.create(kind, embed_dim=WIDTH, **given, **options)


def arrays_for(layer, lead=(2,), lq=4, lk=6, dtype=np.float64):
    rng = np.random.default_rng(5)
    widths = (layer.embed_dim, layer.key_dim, layer.value_dim or layer.embed_dim)
    return [rng.standard_normal((*lead, length, width)).astype(dtype) for length, width in zip((lq, lk, lk), widths, strict=True)]


def upstream(out):
    return np.random.default_rng(9).standard_normal(out.shape).astype(out.dtype)


def assert_gradients(layer, call, inputs, back=None):
    """The gradients of a call agree with its differences, in every input and parameter."""
    out = call(*inputs)
    dout = upstream(out)
    found = layer.backward(dout) if back is None else back(dout)
    parameters = layer.parameters()
    at = dict(zip(("query", "keys", "values"), inputs, strict=True)) | {name: array.copy() for name, array in parameters.items()}
    gradients = {"query": found.query, "keys": found.keys, "values": found.values, **found.params}

    def loss(arrays):
        for name, array in parameters.items():
            array[...] = arrays[name]
        return float((call(*(arrays[name] for name in ("query", "keys", "values"))) * dout).sum())

    require_gradients(loss, at, gradients)
    loss(at)


# --- gradients of calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"dropout": 0.4, "seed": 3}, {"key_lengths": np.array([3, 6])}], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_call_has_the_gradients_that_its_differences_tell(name, options):
    layer = layer_of(name)
    assert_gradients(layer, lambda *arrays: layer(*arrays, **options), arrays_for(layer))


@pytest.mark.parametrize("name", LAYERS)
def test_forward_batch_has_gradients(name):
    layer = layer_of(name)
    assert_gradients(layer, layer.forward_batch, arrays_for(layer, lead=()))


@pytest.mark.parametrize("name", LAYERS)
def test_forward_has_gradients_in_the_shapes_that_it_was_given(name):
    layer = layer_of(name)
    query, keys, values = arrays_for(layer, lead=(), lq=1)
    assert_gradients(layer, layer.forward, (query[0], keys, values))


def test_queries_that_are_each_on_their_own_go_back_in_groups(monkeypatch):
    layer = layer_of("standard, positions")
    inputs = arrays_for(layer, lead=(), lq=7)
    out = layer.forward_batch(*inputs)
    whole = layer.backward(upstream(out))
    monkeypatch.setattr(headwise_steps, "AT_ONCE", 2 * inputs[1].size * 2)
    parts = layer.backward(upstream(out))
    for one, other in zip(whole[:3], parts[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(whole.params["scale"], parts.params["scale"], rtol=1e-12)


def test_dropout_of_queries_that_are_each_on_their_own_goes_back_as_it_went_forward():
    layer = ruvattn.create("standard", embed_dim=WIDTH, num_heads=2, causal=True, dropout_rate=0.5).train()
    query, keys, values = arrays_for(layer, lead=())
    out = layer.forward_batch(query, keys, values)
    found = layer.backward(np.ones_like(out))
    weights = layer.get_attention_weights()[:, :, 0]
    expected = np.repeat(weights.sum(0).T, WIDTH // 2, axis=1)  # of a sum, a value's gradient is its weight, for each column of its head
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["standard", "multihead", "cross"])
def test_gradients_of_narrow_inputs_are_as_narrow_and_close_to_wide_ones(name, dtype):
    layer = layer_of(name)
    narrow = arrays_for(layer, dtype=dtype)
    dout = upstream(layer(*narrow))
    found = layer.backward(dout)
    wide = [array.astype(np.float64) for array in narrow]
    layer(*wide)
    expected = layer.backward(dout.astype(np.float64))
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype(np.float64), other, atol=16 * float(ml_dtypes.finfo(dtype).eps) * np.abs(other).max())


def test_the_gradient_of_a_narrow_output_may_come_in_float32():
    layer = layer_of("standard")
    arrays = arrays_for(layer, dtype=np.float16)
    dout = upstream(layer(*arrays))
    np.testing.assert_array_equal(layer.backward(dout.astype(np.float32)).query, layer.backward(dout).query)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_same_bits_for_any_number_of_threads(name):
    layer = layer_of(name)
    arrays = arrays_for(layer, lq=70, lk=90, dtype=np.float32)
    dout = upstream(layer(*arrays))
    one, three = layer.backward(dout, threads=1), layer.backward(dout, threads=3)
    for a, b in zip((*one[:3], *one.params.values()), (*three[:3], *three.params.values()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_have_gradients_in_their_own_dtype():
    layer = ruvattn.create("multihead", embed_dim=WIDTH, num_heads=2, dtype="float32", learn=("sinks",))
    layer(*arrays_for(layer))
    found = layer.backward(np.ones((2, 4, WIDTH)))
    assert {array.dtype.name for array in found.params.values()} == {"float32"}
    assert found.query.dtype == np.float64


def test_masked_rows_that_are_no_numbers_have_no_part_in_the_gradients_of_weights():
    layer = ruvattn.create("multihead", embed_dim=WIDTH, num_heads=2, check_finite=False)
    query, keys, values = arrays_for(layer)
    mask = np.arange(6) < 4
    expected_out = layer(query, keys[:, :4], values[:, :4])
    expected = layer.backward(np.ones_like(expected_out))
    keys[:, 4:] = values[:, 4:] = np.nan
    layer(query, keys, values, mask=mask)
    found = layer.backward(np.ones_like(expected_out))
    for name, array in found.params.items():
        np.testing.assert_allclose(array, expected.params[name], rtol=1e-5, atol=1e-5)
    assert not found.keys[:, 4:].any()


# --- total ------------------------------------------------------------------------------------------------------------------------


def test_the_total_is_the_gradient_of_the_one_array_of_a_call():
    layer = layer_of("multihead")
    x = arrays_for(layer)[0]
    dout = upstream(layer(x))
    found = layer.backward(dout)
    require_gradients(lambda arrays: float((layer(arrays["x"]) * dout).sum()), {"x": x}, {"x": found.total()})


def test_a_total_of_several_arrays_says_that_there_is_none():
    layer = layer_of("standard")
    out = layer(*arrays_for(layer))
    with pytest.raises(DimensionMismatchError, match=r"total is the gradient of a call with one array.*\(2, 4, 8\), \(2, 6, 8\)"):
        layer.backward(out).total()


def test_a_total_of_narrow_gradients_is_rounded_once():
    ones = np.float16([1.0])
    tiny = np.float16([2.0**-11])
    assert ruvattn.Gradients(ones, tiny, tiny, {}).total() == np.float16(1 + 2.0**-10)


# --- which call -------------------------------------------------------------------------------------------------------------------


def test_backward_before_a_call_is_refused():
    with pytest.raises(InvalidInputError, match="backward needs a call to go back through"):
        layer_of("standard").backward(np.ones((4, WIDTH)))


def test_backward_after_reset_is_refused():
    layer = layer_of("standard")
    out = layer(*arrays_for(layer))
    layer.reset()
    with pytest.raises(InvalidInputError, match="backward needs a call"):
        layer.backward(out)


def test_an_earlier_call_goes_back_by_its_context():
    layer = layer_of("multihead")
    first, second = arrays_for(layer), arrays_for(layer, lead=(), lq=3)
    out, context = layer.forward_with_context(*first)
    expected = layer.backward(out)
    layer(*second)
    layer.forward(second[0][0], *second[1:])
    np.testing.assert_array_equal(layer.backward(out, context).query, expected.query)


def test_a_context_goes_back_in_another_thread():
    layer = layer_of("multihead")
    out, context = layer.forward_with_context(*arrays_for(layer))
    found = []
    thread = threading.Thread(target=lambda: found.append(layer.backward(out, context)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0].query, layer.backward(out).query)


def test_what_was_learned_after_a_call_does_not_reach_its_context():
    layer = layer_of("standard, learned")
    out, context = layer.forward_with_context(*arrays_for(layer))
    expected, weights = layer.backward(out, context), context.weights()
    layer.parameters()["scale"][...] = 5
    layer.parameters()["sinks"][...] = 1
    np.testing.assert_array_equal(context.weights(), weights)
    np.testing.assert_array_equal(layer.backward(out, context).params["scale"], expected.params["scale"])


@pytest.mark.parametrize("context", ["last", 3])
def test_what_is_no_context_is_refused(context):
    with pytest.raises(InvalidInputError, match="context must be what forward_with_context returned, got"):
        layer_of("standard").backward(np.ones((4, WIDTH)), context)


def test_the_context_of_another_variant_is_refused():
    other = ruvattn.create("standard", embed_dim=4)
    out, context = other.forward_with_context(np.ones((3, 4)))
    with pytest.raises(InvalidInputError, match="context must be of a call of this StandardAttention"):
        layer_of("standard").backward(out, context)


@pytest.mark.parametrize("cached", [True, False])
def test_the_context_of_another_instance_is_refused(cached):
    layer, other = layer_of("multihead"), layer_of("multihead", seed=1)
    other.gradient_cache = cached
    out, context = other.forward_with_context(*arrays_for(other))
    with pytest.raises(InvalidInputError, match="context must be of a call of this MultiHeadAttention"):
        layer.backward(out, context)
    other.backward(out, context)


@pytest.mark.parametrize("way", [lambda context: pickle.loads(pickle.dumps(context)), copy.copy], ids=["pickled", "copied"])
def test_a_pickled_context_of_another_class_is_refused(way):
    layer = ruvattn.create("standard", embed_dim=WIDTH)
    x = arrays_for(layer)[0]
    out, context = layer.forward_with_context(x)
    with pytest.raises(InvalidInputError, match="^context must be of a call of this MultiHeadAttention"):
        ruvattn.create("multihead", embed_dim=WIDTH).backward(out, way(way(context)))


def test_a_pickled_context_goes_back_with_the_variant_that_it_is_given():
    layer = layer_of("multihead")
    out, context = layer.forward_with_context(*arrays_for(layer))
    expected = layer.backward(out).query
    np.testing.assert_array_equal(layer.backward(out, pickle.loads(pickle.dumps(context))).query, expected)


def test_a_context_does_not_keep_its_variant():
    layer = layer_of("multihead")
    context = layer.forward_with_context(*arrays_for(layer))[1]
    gone = weakref.ref(layer)
    del layer
    assert gone() is None
    assert context.q.ndim == 4


@pytest.mark.parametrize("shape", [(2, 4, 7), (4, 8), (2, 5, 8), ()])
def test_a_gradient_of_another_shape_is_refused(shape):
    layer = layer_of("standard")
    layer(*arrays_for(layer))
    with pytest.raises(DimensionMismatchError, match=r"^grad_output must have the shape of the output, \(2, 4, 8\), got "):
        layer.backward(np.ones(shape))


def test_the_gradient_of_forward_has_one_axis():
    layer = layer_of("standard")
    query, keys, values = arrays_for(layer, lead=())
    layer.forward(query[0], keys, values)
    with pytest.raises(DimensionMismatchError, match=r"^grad_output must have the shape of the output, \(8,\), got \(1, 8\)"):
        layer.backward(np.ones((1, WIDTH)))


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, InvalidInputError), (np.int64, UnsupportedError), (object, UnsupportedError)])
def test_a_gradient_of_another_dtype_is_refused(dtype, error):
    layer = layer_of("standard")
    out = layer(*arrays_for(layer))
    with pytest.raises(error, match="^grad_output "):
        layer.backward(np.ones(out.shape, dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_refused(value):
    layer = layer_of("standard")
    out = layer(*arrays_for(layer))
    dout = np.ones_like(out)
    dout[1, 2, 3] = value
    with pytest.raises(InvalidInputError, match=r"^grad_output must be finite, got (nan|inf) at index \(1, 2, 3\)"):
        layer.backward(dout)


def test_without_check_finite_a_gradient_touches_the_row_that_it_is_of():
    layer = ruvattn.create("standard", embed_dim=WIDTH, check_finite=False)
    out = layer(*arrays_for(layer))
    dout = np.ones_like(out)
    dout[1, 2] = np.nan
    found = layer.backward(dout)
    assert np.isnan(found.query[1, 2]).all()
    assert np.isfinite(np.delete(found.query, 2, 1)).all()


# --- steps that a subclass overrides ----------------------------------------------------------------------------------------------


class Doubled(HeadwiseAttention):
    attention_type = "doubled"

    def project_inputs(self, q, k, v):
        return 2 * q, k, v


class DoubledBack(Doubled):
    def project_inputs_vjp(self, context, dq, dk, dv):
        return (2 * dq, dk, dv), {}


class Residual(HeadwiseAttention):
    attention_type = "residual"

    def complete(self, merged, inputs, out):
        return self.project_output(merged + inputs[0], inputs[0].dtype, out)


class ResidualBack(Residual):
    def complete_vjp(self, context, grad_output):
        return grad_output, (grad_output, None, None), {}


@pytest.mark.parametrize(("kind", "words"), [(Doubled, "project_inputs and not project_inputs_vjp"), (Residual, "complete and not complete_vjp")])
def test_a_step_without_its_way_back_is_refused(kind, words):
    layer = kind(WIDTH, 2)
    out = layer(*arrays_for(layer))
    with pytest.raises(UnsupportedError, match=f"{kind.__name__} overrides {words}"):
        layer.backward(out)


@pytest.mark.parametrize("kind", [DoubledBack, ResidualBack])
def test_steps_of_a_subclass_are_gone_back_through(kind):
    layer = kind(WIDTH, 2, learn=("scale",))
    assert_gradients(layer, layer, arrays_for(layer))


# --- without a gradient cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_without_a_cache_are_those_with_one(name):
    layer = layer_of(name)
    arrays = arrays_for(layer)
    options = {"dropout": 0.2, "seed": 4}
    dout = upstream(layer(*arrays, **options))
    expected = layer.backward(dout)
    layer.gradient_cache = False
    layer(*arrays, **options)
    found = layer.backward(dout)
    for a, b in zip((*expected[:3], *expected.params.values()), (*found[:3], *found.params.values()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_a_cache_a_context_holds_inputs_and_options_only():
    layer = layer_of("multihead")
    layer.gradient_cache = False
    arrays = arrays_for(layer)
    _, context = layer.forward_with_context(*arrays, causal=True)
    assert isinstance(context, RecomputedContext)
    assert not {"q", "k", "v", "out", "lse"} & vars(context).keys()
    assert context.options["causal"] is True
    assert all(a is b for a, b in zip(context.inputs, arrays, strict=True))
    assert repr(context).startswith("RecomputedContext(inputs=[(2, 4, 8), (2, 6, 8), (2, 6, 8)]")


def test_without_a_cache_arrays_and_weights_are_made_when_asked_for():
    layer = layer_of("multihead")
    arrays = arrays_for(layer)
    _, kept = layer.forward_with_context(*arrays, causal=True)
    layer.gradient_cache = False
    _, context = layer.forward_with_context(*arrays, causal=True)
    for name in ("q", "k", "v", "out", "lse"):
        np.testing.assert_array_equal(getattr(context, name), getattr(kept, name))
    np.testing.assert_array_equal(layer.get_attention_weights(), kept.weights())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        context.nothing  # noqa: B018


def test_forward_has_gradients_without_a_cache():
    layer = layer_of("standard, positions")
    layer.gradient_cache = False
    query, keys, values = arrays_for(layer, lead=(), lq=1)
    assert_gradients(layer, layer.forward, (query[0], keys, values))


# --- dropout of the output --------------------------------------------------------------------------------------------------------


def test_outputs_are_dropped_in_training_only():
    layer = layer_of("standard", output_dropout=0.5)
    arrays = arrays_for(layer)
    plain = layer(*arrays)
    assert plain.all()
    dropped = layer.train()(*arrays, seed=1)
    assert not dropped.all()
    np.testing.assert_array_equal(dropped[dropped != 0], (2 * plain)[dropped != 0])
    np.testing.assert_array_equal(layer.eval()(*arrays), plain)


def test_the_share_of_the_output_that_is_dropped_is_the_rate():
    kept = drop_output(np.ones((1000, 1000), np.float32), 0.3, 7)
    assert abs(np.mean(kept == 0) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / kept.size)
    np.testing.assert_allclose(kept[kept != 0], 1 / 0.7, rtol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_a_dropped_output_has_the_gradients_that_its_differences_tell(name):
    layer = layer_of(name, output_dropout=0.4).train()
    assert_gradients(layer, lambda *arrays: layer(*arrays, seed=6), arrays_for(layer))


def test_a_seed_that_was_drawn_is_found_again_on_the_way_back():
    layer = layer_of("standard", output_dropout=0.5).train()
    out, context = layer.forward_with_context(*arrays_for(layer))
    assert context.output_dropout == 0.5
    again = layer(*context.inputs, seed=context.options["seed"])
    np.testing.assert_array_equal(again, out)


def test_dropping_leaves_the_heads_of_the_context_whole():
    layer = layer_of("standard", output_dropout=0.5).train()
    arrays = arrays_for(layer, lq=300)
    out = np.empty_like(arrays[0])
    made, context = layer.forward_with_context(*arrays, seed=2, out=out)
    assert made is out
    assert context.out.all()
    np.testing.assert_array_equal(made, layer(*arrays, seed=2))


def test_blocks_of_a_large_output_are_dropped_as_one():
    x = np.random.default_rng(0).standard_normal((3, 2000, 130))
    whole = drop_output(x, 0.5, 3)
    np.testing.assert_array_equal(drop_output(x.reshape(6000, 130)[5900:], 0.0, 3), x.reshape(6000, 130)[5900:])
    out = np.empty((3, 2000, 260))[..., ::2]
    np.testing.assert_array_equal(drop_output(x, 0.5, 3, out), whole)


def test_what_is_dropped_stays_finite_in_narrow_dtypes():
    assert np.isfinite(drop_output(np.full((4, 4), 60000, np.float16), 0.9, 3)).all()


@pytest.mark.parametrize("rate", [-0.1, 1.0, "half"])
def test_a_rate_without_sense_is_named(rate):
    with pytest.raises(InvalidInputError, match="^output_dropout must be"):
        layer_of("standard", output_dropout=rate)


# --- learned numbers --------------------------------------------------------------------------------------------------------------


def test_learned_numbers_start_at_the_configured_value():
    layer = ruvattn.create("standard", embed_dim=WIDTH, num_heads=2, learn=("scale", "sinks"))
    assert {name: array.tolist() for name, array in layer.parameters().items()} == {"scale": [0.5, 0.5], "sinks": [0, 0]}
    layer = ruvattn.create("standard", embed_dim=WIDTH, num_heads=2, learn=["score.scale"], scale=(0.25, 3.0))
    assert layer.parameters()["score.scale"].tolist() == [0.25, 3.0]
    assert layer.num_parameters == 2


def test_learning_changes_nothing_before_a_step():
    plain, learned = layer_of("standard"), ruvattn.create("standard", embed_dim=WIDTH, num_heads=2, learn=("scale",))
    arrays = arrays_for(plain, dtype=np.float32)
    np.testing.assert_allclose(learned(*arrays), plain(*arrays), rtol=1e-6)


def test_what_is_written_to_a_learned_number_counts():
    layer = layer_of("standard, learned")
    arrays = arrays_for(layer)
    layer.parameters()["scale"][...] = 2.5
    layer.parameters()["sinks"][...] = (1.0, -1.0)
    plain = ruvattn.create("standard", embed_dim=WIDTH, num_heads=2, softcap=3.0)
    np.testing.assert_array_equal(layer(*arrays), plain(*arrays, scale=2.5, sinks=np.array([1.0, -1.0])))


def test_what_a_call_brings_takes_the_place_of_a_learned_number_which_has_no_gradient_then():
    layer = layer_of("standard, learned")
    arrays = arrays_for(layer)
    out = layer(*arrays, scale=2.0)
    found = layer.backward(out)
    assert not found.params["scale"].any()
    assert found.params["sinks"].all()
    out = layer(*arrays, sinks=np.zeros(2))
    found = layer.backward(out)
    assert found.params["scale"].all()
    assert not found.params["sinks"].any()


@pytest.mark.parametrize("way", [lambda layer: pickle.loads(pickle.dumps(layer)), copy.deepcopy], ids=["pickled", "copied"])
@pytest.mark.parametrize("name", ["standard, learned", "multihead"])
def test_copies_keep_what_was_learned_and_go_on_by_themselves(name, way):
    layer = layer_of(name)
    arrays = arrays_for(layer)
    layer.parameters()["scale"][...] = 1.5
    out = layer(*arrays)
    other = way(layer)
    np.testing.assert_array_equal(other(*arrays), out)
    other.parameters()["scale"][...] = 0.1
    assert not np.array_equal(other(*arrays), out)
    np.testing.assert_array_equal(layer(*arrays), out)


def test_the_configuration_makes_a_variant_that_learns_the_same():
    layer = layer_of("standard, learned")
    again = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
    assert again.config == layer.config
    assert list(again.parameters()) == ["scale", "sinks"]


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        ("scale", r"^learn must be a sequence of names of parameters, got 'scale'"),
        ([1], r"^learn must be a sequence of names"),
        (None, r"^learn must be a sequence of names"),
        (["sigma"], r"^learn must name parameters, got 'sigma'; there are: scale, sinks, score\.scale"),
        (["score.sigma"], r"^learn must name parameters, got 'score.sigma'"),
        (["scale", "score.scale"], r"^learn must name each parameter once, got 'score.scale' again"),
        (["sinks", "sinks"], r"^learn must name each parameter once"),
        (["aggregate.curvature"], r"^learn must not name 'aggregate.curvature': the parameters of an aggregate are not learned by themselves"),
    ],
)
def test_what_cannot_be_learned_is_named(learn, message):
    with pytest.raises(InvalidInputError, match=message):
        ruvattn.create("standard", embed_dim=WIDTH, learn=learn)


def test_a_learned_scale_of_another_number_of_heads_is_refused():
    with pytest.raises(DimensionMismatchError, match="scale must be a scalar or have one entry for each of the 2 query heads"):
        ruvattn.create("standard", embed_dim=WIDTH, num_heads=2, scale=(1.0, 2.0, 3.0), learn=("scale",))


# --- steps ------------------------------------------------------------------------------------------------------------------------


def trained(name="multihead"):
    layer = layer_of(name)
    out = layer(*arrays_for(layer))
    return layer, layer.backward(out)


def values(layer):
    return {name: array.copy() for name, array in layer.parameters().items()}


def assert_same_values(layer, before):
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_step_goes_down_the_gradient_in_place():
    layer, found = trained()
    before, arrays = values(layer), layer.parameters()
    layer.update_parameters(SGD(learning_rate=0.125))
    for name, array in layer.parameters().items():
        assert array is arrays[name]
        np.testing.assert_allclose(array, before[name] - 0.125 * found.params[name], rtol=1e-14)


@pytest.mark.parametrize("name", ["multihead", "standard, learned"])
def test_steps_lower_the_loss(name):
    layer = layer_of(name)
    arrays = arrays_for(layer)
    target = np.zeros_like(layer(*arrays))
    losses, optimizer = [], SGD(learning_rate=0.002)
    for _ in range(8):
        difference = layer(*arrays) - target
        losses.append(float(np.square(difference).sum()))
        layer.backward(2 * difference)
        layer.update_parameters(optimizer)
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False))


def test_a_step_before_any_backward_pass_is_refused():
    layer = layer_of("multihead")
    layer(*arrays_for(layer))
    with pytest.raises(InvalidInputError, match="update_parameters needs the gradients of a backward pass"):
        layer.update_parameters(SGD(learning_rate=0.1))


def test_each_thread_has_gradients_of_its_own():
    layer, _ = trained()
    errors = []

    def step():
        try:
            layer.update_parameters(SGD(learning_rate=0.1))
        except InvalidInputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "this thread has made none" in errors[0]


def test_reset_forgets_gradients():
    layer, _ = trained()
    layer.reset()
    with pytest.raises(InvalidInputError, match="call backward first"):
        layer.update_parameters(SGD(learning_rate=0.1))


def test_copies_have_no_gradients():
    layer, _ = trained()
    with pytest.raises(InvalidInputError, match="call backward first"):
        pickle.loads(pickle.dumps(layer)).update_parameters(SGD(learning_rate=0.1))


def test_gradients_that_are_no_numbers_name_their_parameter_and_change_nothing():
    layer = ruvattn.create("multihead", embed_dim=WIDTH, num_heads=2, check_finite=False)
    out = layer(*arrays_for(layer, dtype=np.float32))
    before = values(layer)
    layer.backward(np.full_like(out, np.nan))
    with pytest.raises(InvalidInputError, match=r"the gradient of parameter 'W_\w' must be finite, got nan at index \(0, 0\): nothing was changed"):
        layer.update_parameters(SGD(learning_rate=0.1))
    assert_same_values(layer, before)


class Halfway:
    def step(self, parameters, gradients):
        parameters["W_q"][...] = 0
        raise RuntimeError("no more")


class TooFar:
    def step(self, parameters, gradients):
        parameters["W_q"] *= 2
        parameters["W_o"][1, 2] = np.inf


def test_a_step_that_fails_halfway_is_taken_back():
    layer, _ = trained()
    before = values(layer)
    with pytest.raises(RuntimeError, match="no more"):
        layer.update_parameters(Halfway())
    assert_same_values(layer, before)


def test_a_step_beyond_all_numbers_is_taken_back():
    layer, _ = trained()
    before = values(layer)
    with pytest.raises(InvalidInputError, match=r"parameter 'W_o' after the step must be finite, got inf at index \(1, 2\): it was taken back"):
        layer.update_parameters(TooFar())
    assert_same_values(layer, before)


def test_a_step_that_is_taken_back_leaves_the_optimiser_where_it_was():
    layer, _ = trained()
    other = pickle.loads(pickle.dumps(layer))
    other.keep_gradients(trained()[1].params)
    optimizer, untouched = SGD(1e308, momentum=0.9), SGD(0.01, momentum=0.9)
    before = values(layer)
    layer.parameters()["W_q"][0, 0] = before["W_q"][0, 0] = 1.7e308
    gradients = {name: np.full_like(array, -10.0) for name, array in layer.parameters().items()}
    layer.keep_gradients(gradients)
    with pytest.raises(InvalidInputError, match="would not be finite after this step"):
        layer.update_parameters(optimizer)
    assert_same_values(layer, before)
    assert optimizer.steps == 0
    other.parameters()["W_q"][0, 0] = 1.7e308
    for one, its in ((layer, optimizer), (other, untouched)):
        its.learning_rate = 0.01
        one.keep_gradients(gradients)
        one.update_parameters(its)
    assert_same_values(layer, values(other))


class Strict(HeadwiseAttention):
    def check_parameters(self, parameters):
        raise InvalidInputError(f"there is no way to {sorted(parameters)}")


@pytest.mark.parametrize("make", [lambda: SGD(0.1, momentum=0.5), lambda: Descent(rate=0.125)], ids=["ours", "another's"])
def test_a_variant_may_refuse_what_a_step_leads_to(make, monkeypatch):
    layer, _ = trained()
    before, optimizer = values(layer), make()
    monkeypatch.setattr(type(layer), "check_parameters", Strict.check_parameters)
    with pytest.raises(InvalidInputError, match="no way to .*'W_k'"):
        layer.update_parameters(optimizer)
    assert_same_values(layer, before)
    assert getattr(optimizer, "steps", 0) == 0


class Descent:
    """Changes arrays in place, and assigns them."""

    def __init__(self, rate):
        self.rate = rate

    def step(self, parameters, gradients):
        for name in parameters:
            parameters[name] -= self.rate * gradients[name]


class Rebinding:
    """Changes the mapping, and no array."""

    def step(self, parameters, gradients):
        for name in parameters:
            parameters[name] = parameters[name] - gradients[name]


def test_an_optimiser_that_changes_the_mapping_instead_of_arrays_is_named():
    layer, _ = trained()
    before = values(layer)
    with pytest.raises(InvalidInputError, match="the step of Rebinding has put another array in the place of parameter 'W_"):
        layer.update_parameters(Rebinding())
    assert_same_values(layer, before)


def test_an_optimiser_may_assign_what_it_has_changed_in_place():
    layer, found = trained()
    before = values(layer)
    layer.update_parameters(Descent(0.125))
    for name, array in layer.parameters().items():
        np.testing.assert_allclose(array, before[name] - 0.125 * found.params[name], rtol=1e-14)


@pytest.mark.parametrize(
    ("gradients", "message"),
    [({"W_q": None}, "the gradient of parameter 'W_q' must be an array, got None"), (None, "gradients must be a mapping of names to arrays")],
    ids=["entry", "mapping"],
)
def test_gradients_that_are_none_are_named(gradients, message):
    layer, _ = trained()
    with pytest.raises(InvalidInputError, match=message):
        layer.keep_gradients(gradients)


@pytest.mark.parametrize("optimizer", [None, 0.1, "sgd"])
def test_what_is_no_optimiser_is_refused(optimizer):
    layer, _ = trained()
    with pytest.raises(InvalidInputError, match=r"^optimizer must have step\(parameters, gradients\)"):
        layer.update_parameters(optimizer)


# --- checkpoints ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_checkpoint_brings_the_parameters_back(tmp_path, name):
    layer = layer_of(name)
    for array in layer.parameters().values():
        array += 0.25
    layer.save_checkpoint(tmp_path / "layer")
    other = layer_of(name)
    arrays = other.parameters()
    other.load_checkpoint(tmp_path / "layer")
    assert_same_values(other, values(layer))
    assert all(array is arrays[name] for name, array in other.parameters().items())
    np.testing.assert_array_equal(other(*arrays_for(layer)), layer(*arrays_for(layer)))


def test_a_checkpoint_says_what_makes_its_variant(tmp_path):
    from ruvattn.checkpoints import load_arrays

    layer = layer_of("multihead")
    layer.save_checkpoint(tmp_path / "layer")
    _, metadata = load_arrays(tmp_path / "layer", kind="attention")
    assert ruvattn.AttentionConfig.from_dict(metadata["config"]).create().config == layer.config


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda: ruvattn.create("standard", embed_dim=WIDTH), r"is of a variant with attention_type 'standard', and this one has 'multihead'"),
        (lambda: ruvattn.create("multihead", embed_dim=16, num_heads=4), r"is of a variant with embed_dim 16, and this one has 8"),
        (lambda: ruvattn.create("multihead", embed_dim=8, num_heads=2), r"is of a variant with num_heads 2, and this one has 4"),
        (
            lambda: ruvattn.create("multihead", embed_dim=8, num_heads=4, dtype="float64", bias=True, learn=("scale",)),
            r"is of a variant with num_kv_heads None, and this one has 2",
        ),
        (lambda: ruvattn.create("multihead", embed_dim=8, num_heads=4, num_kv_heads=2, dtype="float64", bias=True), r"has no array 'scale'"),
    ],
)
def test_a_checkpoint_of_another_variant_is_refused_and_changes_nothing(tmp_path, saved, message):
    saved().save_checkpoint(tmp_path / "layer")
    layer = layer_of("multihead")
    before = values(layer)
    with pytest.raises(CheckpointError, match=message):
        layer.load_checkpoint(tmp_path / "layer")
    assert_same_values(layer, before)


@pytest.mark.parametrize(
    ("saved", "own", "message"),
    [
        ({"score": "positional-tests"}, {}, "score 'positional-tests', and this one has 'dot'"),
        ({}, {"causal": True}, "causal False, and this one has True"),
        ({"window": (2, -1)}, {"window": (3, -1)}, r"window \[2, -1\], and this one has \[3, -1\]"),
        ({"softcap": 3.0}, {}, "softcap 3.0, and this one has None"),
        ({"aggregate": "powers-tests"}, {}, "aggregate 'powers-tests', and this one has 'weighted-sum'"),
        ({"score_options": {"sigma": 2.0}}, {}, r"score_options {'sigma': 2.0}, and this one has {}"),
        ({"later": "on"}, {}, "later 'on', and this one has None"),
    ],
    ids=str,
)
def test_a_checkpoint_that_would_mean_something_else_is_refused_and_changes_nothing(tmp_path, saved, own, message):
    layer = ruvattn.create("multihead", embed_dim=WIDTH, seed=1, **own)
    before = values(layer)
    config = ruvattn.create("multihead", embed_dim=WIDTH).config.to_dict()
    config["options"] = {**config["options"], **saved}
    save_arrays(tmp_path / "layer", ruvattn.create("multihead", embed_dim=WIDTH).parameters(), {"kind": "attention", "config": config})
    with pytest.raises(CheckpointError, match=f"is of a variant with {message}: create one like it"):
        layer.load_checkpoint(tmp_path / "layer")
    assert_same_values(layer, before)


@pytest.mark.parametrize(
    ("saved", "own"),
    [
        ({"seed": 3}, {"seed": 4}),
        ({"dropout_rate": 0.5}, {"output_dropout": 0.25}),
        ({"check_finite": False}, {"max_keys": 7}),
        ({"learn": ("scale", "sinks"), "scale": 2.0}, {"learn": ("sinks", "scale"), "scale": 3.0}),
        ({"learn": ("score.scale",), "scale": 2.0}, {"learn": ("score.scale",)}),
    ],
    ids=str,
)
def test_a_checkpoint_may_differ_in_what_its_parameters_do_not_mean(tmp_path, saved, own):
    layer = ruvattn.create("multihead", embed_dim=WIDTH, **saved)
    layer.save_checkpoint(tmp_path / "layer")
    other = ruvattn.create("multihead", embed_dim=WIDTH, **own)
    other.load_checkpoint(tmp_path / "layer")
    assert_same_values(other, values(layer))


def test_an_option_that_a_checkpoint_does_not_know_of_has_to_be_off(tmp_path):
    config = ruvattn.create("standard", embed_dim=WIDTH).config.to_dict()
    del config["options"]["causal"]
    save_arrays(tmp_path / "layer", {}, {"kind": "attention", "config": config})
    ruvattn.create("standard", embed_dim=WIDTH).load_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="is of a variant with causal None, and this one has True"):
        ruvattn.create("standard", embed_dim=WIDTH, causal=True).load_checkpoint(tmp_path / "layer")


def test_a_checkpoint_with_numbers_that_are_none_is_refused_and_changes_nothing(tmp_path):
    layer = layer_of("multihead")
    layer.parameters()["b_o"][3] = np.nan
    save_arrays(tmp_path / "layer", layer.parameters(), {"kind": "attention", "config": layer.config.to_dict()})
    other = layer_of("multihead")
    before = values(other)
    with pytest.raises(CheckpointError, match="has a parameter 'b_o' that is not finite"):
        other.load_checkpoint(tmp_path / "layer")
    assert_same_values(other, before)


def test_parameters_that_are_no_numbers_are_not_saved_over_a_checkpoint(tmp_path):
    layer, path = layer_of("multihead"), tmp_path / "layer"
    layer.save_checkpoint(path)
    before = path.read_bytes()
    layer.parameters()["W_k"][0, 1] = np.nan
    with pytest.raises(InvalidInputError, match=r"parameter 'W_k' must be finite, got nan at index \(0, 1\): nothing was saved"):
        layer.save_checkpoint(path)
    assert path.read_bytes() == before


def test_a_checkpoint_that_is_cut_off_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "layer"
    layer = layer_of("multihead")
    layer.save_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-100])
    other = layer_of("multihead")
    other.parameters()["W_q"][...] = 0
    before = values(other)
    with pytest.raises(CheckpointError):
        other.load_checkpoint(path)
    assert_same_values(other, before)


def test_what_else_is_a_checkpoint_is_refused(tmp_path):
    from ruvattn.checkpoints import save_arrays

    save_arrays(tmp_path / "layer", {}, {"kind": "attention"})
    with pytest.raises(CheckpointError, match="does not say which variant it is of"):
        layer_of("standard").load_checkpoint(tmp_path / "layer")


# --- the mode ---------------------------------------------------------------------------------------------------------------------


def test_train_and_eval_set_the_mode_and_return_the_variant():
    layer = layer_of("standard")
    assert layer.train() is layer
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train(False).training is False


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(InvalidInputError, match="^mode must be True or False"):
        layer_of("standard").train("yes")
