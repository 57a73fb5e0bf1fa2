"""Training of sparse variants: gradients follow the pairs of a call, however it was made, and agree with those under the same dense mask."""

import numpy as np
import pytest

import ruvattn
from ruvattn.errors import CheckpointError, InvalidInputError
from ruvattn.testing.slopes import require_gradients
from ruvattn.training import SGD

pytest.importorskip("ruvattn_sparse", reason="pip install ./plugins/ruvattn-sparse first")

WIDTH = 6
LENGTH = 12
VARIANTS = {
    "windowed": {"window_size": 2, "global_tokens": [1]},
    "strided": {"stride": 3, "window_size": 1},
    "fixed": {"block_size": 4, "summary": 1},
    "dilated": {"window_size": 2, "dilation": (1, 2)},
    "bigbird": {"block_size": 2, "random_blocks": 1},
    "streaming": {"first": 1, "window": 3},
    "local-global": {"window_size": 1, "global_tokens": 1},
    "block-sparse": {"block_size": 4, "active_blocks": np.tri(3, dtype=bool)},
    "coo": {"pairs": [(i, j) for i in range(LENGTH - 1) for j in range(LENGTH) if (i + j) % 3 == 0]},
    "csr": {"indptr": np.arange(LENGTH + 1), "indices": np.arange(LENGTH)[::-1]},
    "topk": {"top_k": 3},
}


def layer_of(name, **options):
    return ruvattn.create(name, embed_dim=WIDTH, num_heads=2, **VARIANTS[name], **options)


def arrays(*lead, lq=LENGTH, lk=LENGTH):
    rng = np.random.default_rng(3)
    return [rng.standard_normal((*lead, length, WIDTH)) for length in (lq, lk, lk)]


def assert_gradients(layer, call, inputs):
    names = ("query", "keys", "values")
    dout = np.random.default_rng(4).standard_normal(call(*inputs).shape)
    found = layer.backward(dout)
    parameters = layer.parameters()

    def loss(at):
        for name, array in parameters.items():
            array[...] = at[name]
        return float((call(*(at[name] for name in names)) * dout).sum())

    start = {name: array.copy() for name, array in parameters.items()}
    require_gradients(loss, dict(zip(names, inputs, strict=True)) | start, dict(zip(names, found[:3], strict=True)) | found.params)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"dropout": 0.3, "seed": 5}, {"bias": np.linspace(-1, 1, LENGTH)}], ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_call_has_the_gradients_that_its_differences_tell(name, options):
    layer = layer_of(name, learn=("scale", "sinks"))
    assert_gradients(layer, lambda *given: layer(*given, **options), arrays(2))


@pytest.mark.parametrize("name", VARIANTS)
def test_forward_and_forward_batch_have_gradients(name):
    layer = layer_of(name, learn=("scale",))
    query, keys, values = arrays(lq=3)
    assert_gradients(layer, layer.forward_batch, (query, keys, values))
    assert_gradients(layer, layer.forward, (query[0], keys, values))


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_are_those_under_the_pairs_of_the_call_as_a_dense_mask(name):
    layer, plain = layer_of(name), ruvattn.create("standard", embed_dim=WIDTH, num_heads=2)
    given = arrays(2)
    out = layer(*given)
    found, mask = layer.backward(out), layer.get_attention_weights() > 0
    plain(*given, mask=mask)
    expected = plain.backward(out)
    for one, other in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_gradient_of_a_row_reaches_the_keys_that_it_sees_and_no_others(name):
    layer = layer_of(name)
    dout = np.zeros_like(layer(*arrays()))
    dout[6] = 1
    found = layer.backward(dout)
    seen = (layer.get_attention_weights()[:, 6] > 0).T  # (key, head)
    assert seen.any()
    assert not seen.all()
    np.testing.assert_array_equal(found.values.reshape(LENGTH, 2, -1).any(-1), seen)
    assert not found.keys.reshape(LENGTH, 2, -1)[~seen].any()


@pytest.mark.parametrize(
    ("question", "arguments"),
    [
        ("forward_sparse", (np.tri(LENGTH, dtype=bool),)),
        ("forward_windowed", (2,)),
        ("forward_strided", (1, 3)),
        ("forward_topk", (4,)),
    ],
)
@pytest.mark.parametrize("name", ["windowed", "topk", "coo", "streaming"])
def test_the_questions_of_sparse_attention_have_gradients(name, question, arguments):
    layer = layer_of(name, learn=("scale", "sinks"))
    assert_gradients(layer, lambda *given: getattr(layer, question)(*given, *arguments), arrays())


def test_what_is_learned_counts_in_every_question():
    layer = layer_of("windowed", learn=("scale",))
    given = arrays()
    layer.forward_topk(*given, 4)
    layer.parameters()["scale"][...] = 3.0
    plain = layer_of("windowed", scale=3.0)
    np.testing.assert_array_equal(layer.forward_topk(*given, 4), plain.forward_topk(*given, 4))
    np.testing.assert_array_equal(layer.forward_windowed(*given, 1), plain.forward_windowed(*given, 1))


@pytest.mark.parametrize("top", [{"top_k": 4}, {"top_k": None, "top_p": 0.6}, {"top_k": 5, "top_p": 0.8}], ids=str)
def test_gradients_of_a_choice_flow_through_the_chosen_keys(top):
    layer = ruvattn.create("topk", embed_dim=WIDTH, num_heads=2, learn=("scale",), **top)
    assert_gradients(layer, layer, arrays(2))


@pytest.mark.parametrize("top", [{"top_k": 4}, {"top_k": None, "top_p": 0.6}], ids=str)
def test_a_choice_is_made_once_and_not_again_without_a_gradient_cache(top):
    layer = ruvattn.create("topk", embed_dim=WIDTH, num_heads=2, **top)
    given = arrays(2)
    out = layer(*given)
    expected = layer.backward(out)
    layer.gradient_cache = False
    np.testing.assert_array_equal(layer(*given), out)
    for one, other in zip(layer.backward(out)[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_gradient_cache_the_questions_have_gradients_too():
    layer = layer_of("windowed")
    given = arrays()
    out = layer.forward_topk(*given, 3)
    expected = layer.backward(out)
    layer.gradient_cache = False
    layer.forward_topk(*given, 3)
    np.testing.assert_array_equal(layer.backward(out).query, expected.query)


def test_queries_with_positions_of_their_own_have_gradients():
    layer = layer_of("local-global", learn=("scale",))
    query, keys, values = arrays(lq=3)
    positions = np.array([2, 9, 5])
    assert_gradients(layer, lambda *given: layer(*given, positions=positions), (query, keys, values))
    assert_gradients(layer, lambda *given: layer.forward_batch(*given, positions=positions), (query, keys, values))
    assert_gradients(layer, lambda *given: layer.forward(*given, position=7), (query[0], keys, values))


def test_queries_with_positions_of_their_own_go_back_in_groups(monkeypatch):
    from ruvattn import headwise_steps

    layer = layer_of("local-global")
    given = arrays(lq=7)
    out = layer.forward_batch(*given, positions=[2, 9, 5, 0, 11, 3, 3])
    whole = layer.backward(out)
    monkeypatch.setattr(headwise_steps, "AT_ONCE", 4 * given[1].size)
    for one, other in zip(layer.backward(out)[:3], whole[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


def test_weights_and_outputs_are_dropped_in_every_question_while_training():
    layer = layer_of("windowed", dropout_rate=0.4, output_dropout=0.3)
    given = arrays()
    plain = layer.forward_windowed(*given, 3)
    layer.train()
    assert_gradients(layer, lambda *at: layer.forward_windowed(*at, 3, seed=8), given)
    assert not np.array_equal(layer.forward_windowed(*given, 3, seed=8), plain)
    np.testing.assert_array_equal(layer.eval().forward_windowed(*given, 3), plain)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_are_the_same_bits_for_any_number_of_threads(name):
    layer = layer_of(name)
    given = [array.astype(np.float32) for array in arrays(5)]
    out = layer(*given)
    one, three = layer.backward(out, threads=1), layer.backward(out, threads=3)
    for a, b in zip(one[:3], three[:3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_and_a_checkpoint(tmp_path):
    layer = layer_of("windowed", learn=("scale", "sinks"))
    out = layer(*arrays())
    layer.backward(out)
    layer.update_parameters(SGD(learning_rate=0.05))
    layer.save_checkpoint(tmp_path / "layer")
    other = layer_of("windowed", learn=("scale", "sinks"))
    other.load_checkpoint(tmp_path / "layer")
    np.testing.assert_array_equal(other(*arrays()), layer(*arrays()))
    assert not np.array_equal(layer(*arrays()), out)


def test_a_checkpoint_of_other_random_blocks_is_refused(tmp_path):
    layer = layer_of("bigbird", learn=("scale",), seed=1)
    layer.save_checkpoint(tmp_path / "layer")
    layer_of("bigbird", learn=("scale",), seed=1).load_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="is of a variant with seed 1, and this one has 2"):
        layer_of("bigbird", learn=("scale",), seed=2).load_checkpoint(tmp_path / "layer")


def test_options_of_a_question_that_is_no_call_leave_the_last_call_as_it_was():
    layer = layer_of("windowed")
    out = layer(*arrays())
    expected = layer.backward(out)
    with pytest.raises(InvalidInputError):
        layer.forward_windowed(*arrays(), -1)
    np.testing.assert_array_equal(layer.backward(out).query, expected.query)


def test_every_variant_says_that_it_is_trainable():
    for name in VARIANTS:
        assert isinstance(layer_of(name), ruvattn.TrainableAttention)
        assert "trainable" in ruvattn.variants()[name].capabilities


@pytest.mark.parametrize("call", [lambda layer, x: layer(x), lambda layer, x: layer.forward_windowed(x, x, x, 2)], ids=["call", "forward_windowed"])
def test_the_context_of_another_instance_is_refused(call):
    layer, other = layer_of("windowed"), layer_of("windowed")
    x = arrays()[0]
    out = call(other, x)
    context = other._remembered()
    other.backward(out, context)
    with pytest.raises(InvalidInputError, match="context must be of a call of this WindowedAttention"):
        layer.backward(out, context)
