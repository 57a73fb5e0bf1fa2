"""What `ruvattn.authoring` checks for variants that are classes of their own."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
import scipy.sparse

import ruvattn
from ruvattn import AttentionConfig, Context, Gradients, TrainableAttention, authoring
from ruvattn.authoring import (
    OpaqueContext,
    place_of_output,
    read_gradient,
    read_inputs,
    read_key_lengths,
    read_key_mask,
    read_query_offset,
    refuse_options,
)
from ruvattn.errors import AttentionError, CheckpointError, DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError


class Copying(TrainableAttention):
    """Its output are its queries."""

    def __init__(self, embed_dim, num_heads=1):
        self._config = AttentionConfig(embed_dim, num_heads, attention_type="copying")

    @property
    def config(self):
        return self._config

    def attend(self, q, k=None, v=None, *, out=None, **others):
        refuse_options("copying", others)
        inputs = read_inputs(q, k, v, embed_dim=self.config.embed_dim)
        made = place_of_output(out, inputs[0].shape, inputs)
        made[...] = inputs[0]
        return made, OpaqueContext(self, inputs, made.shape, kept=3)

    def parameters(self):
        return {}

    def backward(self, grad_output, context=None):
        context, upstream = read_gradient(self, grad_output, context)
        self.keep_gradients({})
        return Gradients(upstream[0] if context.single else upstream, np.zeros_like(context.inputs[1]), np.zeros_like(context.inputs[2]), {})


X = np.random.default_rng(0).standard_normal((2, 3, 8))


# --- inputs --------------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_taken_from_what_is_given():
    q, k, v = read_inputs(X, embed_dim=8)
    assert q is k is v is X
    q, k, v = read_inputs(X, X[:, :2], embed_dim=8)
    assert v is k


def test_arrays_come_in_the_byte_order_of_the_machine():
    assert read_inputs(X.astype(X.dtype.newbyteorder()), embed_dim=8)[0].dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((X[..., :7],), {}, DimensionMismatchError, r"q \(queries\) must have width 8, got 7"),
        ((X, X[..., :4]), {}, DimensionMismatchError, r"k \(keys\) must have width 8, got 4"),
        ((X, X, X[:, :2]), {}, DimensionMismatchError, r"v \(values\) must have a row for each key: expected 3 rows, got 2"),
        ((X, X[:1], X[:1]), {}, DimensionMismatchError, r"k \(keys\) must have the leading axes of q \(queries\), \(2,\), got \(1,\)"),
        ((X[0, 0],), {}, DimensionMismatchError, r"q \(queries\) must have at least the axes \(length, width\)"),
        ((X, X, X[..., :5]), {"num_heads": 2}, DimensionMismatchError, r"v \(values\) must have a width that the number of heads, 2, divides"),
        ((X, X, X), {"value_dim": 3}, DimensionMismatchError, r"v \(values\) must have width 3, got 8"),
        ((X, X, X), {"key_dim": 4}, DimensionMismatchError, r"k \(keys\) must have width 4, got 8"),
        ((X[:0],), {}, InvalidInputError, r"q \(queries\) must not be empty"),
        ((X.astype(int),), {}, UnsupportedError, r"q \(queries\) has dtype int64"),
        ((X, X.astype(np.float32)), {}, UnsupportedError, "must share one dtype, got .* float64, .* float32"),
        ((X, np.full_like(X, np.nan)), {}, InvalidInputError, r"k \(keys\) must be finite, got nan at index \(0, 0, 0\)"),
        ((X,), {"max_keys": 2}, InputTooLargeError, r"k \(keys\) has 3 rows, and at most 2 are taken"),
        (("text",), {}, UnsupportedError, r"q \(queries\) has dtype <U4"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays, options, error, message):
    with pytest.raises(error, match=message):
        read_inputs(*arrays, embed_dim=8, **options)


def test_what_is_not_finite_and_how_many_keys_can_be_left_to_the_variant():
    bad = np.full_like(X, np.nan)
    q, k, v = read_inputs(X, bad, X, embed_dim=8, finite=False, max_keys=None)
    assert (q is X, k is bad, v is X) == (True, True, True)


def test_the_option_check_finite_is_advised_where_there_is_one():
    bad = np.full_like(X, np.nan)
    with pytest.raises(InvalidInputError, match=r"q \(queries\) must be finite, got nan at index \(0, 0, 0\): clean it$"):
        read_inputs(bad, embed_dim=8)
    with pytest.raises(InvalidInputError, match="clean it, or create the variant with check_finite=False$"):
        read_inputs(bad, embed_dim=8, finite=True)
    with pytest.raises(InvalidInputError, match="q .* clean it, or create the variant with check_finite=False$"):
        ruvattn.create("standard", embed_dim=8)(bad)


def test_so_it_is_for_a_gradient():
    layer, other = Copying(8), ruvattn.create("standard", embed_dim=8)
    layer(X), other(X)
    with pytest.raises(InvalidInputError, match="grad_output must be finite, got inf at .*: clean it$"):
        layer.backward(np.full_like(X, np.inf))
    with pytest.raises(InvalidInputError, match="grad_output .* clean it, or create the variant with check_finite=False$"):
        other.backward(np.full_like(X, np.inf))


# --- which keys there are, and where queries stand -----------------------------------------------------------------------

Q, K = np.zeros((2, 3, 8)), np.zeros((2, 5, 8))
HUGE = 2**70


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [(None, [5, 5]), (2, [2, 2]), (0, [0, 0]), ([5, 1], [5, 1]), (np.array([4], np.uint8), [4, 4])],
    ids=str,
)
def test_lengths_are_one_int_for_each_batch_entry(lengths, expected):
    found = read_key_lengths(lengths, (Q, K, K))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("offset", "lengths", "expected"),
    [
        (0, None, [0, 0]), (7, None, [7, 7]), (-HUGE, None, [-(2**40)] * 2), ([0, 0], None, [0, 0]), ([-1, 2], [1, 1], [-1, 2]),
        ("end", None, [2, 2]), ("end", [5, 1], [2, -2]), ("end", 4, [1, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_offsets_are_one_int_for_each_batch_entry(offset, lengths, expected):
    found = read_query_offset(offset, (Q, K, K), read_key_lengths(lengths, (Q, K, K)))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    if lengths is None:
        np.testing.assert_array_equal(read_query_offset(offset, (Q, K, K)), expected)


def test_without_leading_axes_there_is_one_number_and_with_several_one_for_each():
    inputs = Q[0], K[0], K[0]
    assert read_key_lengths(None, inputs).shape == read_key_lengths(3, inputs).shape == ()
    assert read_query_offset(0, inputs).shape == read_query_offset("end", inputs).shape == ()
    deep = tuple(np.broadcast_to(x, (4, *x.shape)) for x in (Q, K, K))
    lengths = read_key_lengths([[1], [2], [3], [4]], deep)
    np.testing.assert_array_equal(lengths, [[1, 1], [2, 2], [3, 3], [4, 4]])
    np.testing.assert_array_equal(read_query_offset("end", deep, lengths), lengths - 3)


MASKS = {
    "of keys": np.array([True, False, True, True, False]),
    "of keys, as a row": np.array([[True, False, True, True, False]]),
    "a list": [True, False, True, True, False],
    "for each batch entry": np.arange(10).reshape(2, 1, 1, 5) % 3 > 0,
    "for each head": np.arange(10).reshape(2, 1, 5) % 3 > 0,
    "repeated for queries": np.broadcast_to(np.arange(5) < 2, (2, 2, 3, 5)),
    "one for all": np.array([[False]]),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_of_keys_is_what_it_is_for_attention(mask):
    found = read_key_mask(mask, (Q, K, K), num_heads=2, variant="mine")
    assert found.shape == (2, 2, 5) and found.dtype == bool
    weights = ruvattn.attention_weights(np.zeros((2, 2, 3, 8)), np.zeros((2, 2, 5, 8)), mask=np.atleast_2d(mask))
    np.testing.assert_array_equal(np.broadcast_to(found[..., None, :], weights.shape), weights > 0)


def test_a_mask_of_pairs_is_refused_and_the_reason_said():
    assert read_key_mask(None, (Q, K, K), variant="mine") is None
    way_out = "a mask of keys, the same for all queries, is (..., 1, Lk)"
    for mask, what in (
        (np.ones((3, 5), bool), "of shape (3, 5)"),
        (ruvattn.Causal(), "that is a Causal"),
        (scipy.sparse.eye_array(3, 5, format="csr"), "that is a csr_array"),
    ):
        for options, why in (({}, way_out), ({"reason": "it is linear"}, f"it is linear; {way_out}")):
            with pytest.raises(UnsupportedError) as caught:
                read_key_mask(mask, (Q, K, K), variant="mine", **options)
            assert str(caught.value) == f"variant 'mine' has no 'mask' {what}: {why}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("key_lengths", value) for value in (6, -1, HUGE, -HUGE, 2.0, True, "end", [1, 2, 3], [[1], [2]], [6, 0])),
        *(("query_offset", value) for value in ("last", 0.5, True, None, [1, 2, 3], [HUGE, 0])),
        *(("mask", value) for value in (np.ones(5), np.ones(5, int), np.ones(4, bool), np.ones((7, 1, 1, 5), bool), "causal", ruvattn.Causal,
                                        np.ma.masked_array(np.ones(5, bool)), [[True], [True, False]])),
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_the_words_of_every_other_variant(name, value):
    layer = ruvattn.create("standard", embed_dim=8, num_heads=2)
    read = {
        "key_lengths": lambda: read_key_lengths(value, (Q, K, K)),
        "query_offset": lambda: read_query_offset(value, (Q, K, K)),
        "mask": lambda: read_key_mask(value, (Q, K, K), num_heads=2, variant="mine"),
    }
    with pytest.raises(AttentionError) as expected:
        layer(Q, K, K, **{name: value})
    with pytest.raises(type(expected.value)) as found:
        read[name]()
    assert str(found.value) == str(expected.value)


# --- options -------------------------------------------------------------------------------------------------------------


def test_options_are_those_of_attention_with_their_defaults():
    parameters = inspect.signature(ruvattn.attention).parameters
    for name, default in authoring._DEFAULTS.items():
        assert parameters[name].default == default, name
    assert parameters.keys() - authoring._DEFAULTS.keys() == {"q", "k", "v", "score", "aggregate", "return_lse"}


ASKED = {
    "mask": np.ones((3, 3), bool), "bias": np.zeros((3, 3)), "causal": True, "window": (1, 0), "query_offset": "end", "key_lengths": 2, "scale": 1.0,
    "softcap": 2.0, "sinks": np.zeros(1), "dropout": 0.5, "seed": 0, "out": np.empty((2, 3, 8)), "threads": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_an_option_that_asks_for_something_is_refused_and_its_default_is_not(name):
    refuse_options("mine", {name: authoring._DEFAULTS[name]})
    with pytest.raises(UnsupportedError, match=f"^variant 'mine' has no '{name}': because$"):
        refuse_options("mine", {name: ASKED[name]}, "because")
    with pytest.raises(UnsupportedError, match=f"^variant 'mine' has no '{name}'$"):
        refuse_options("mine", {name: ASKED[name]})


def test_every_option_is_tried():
    assert ASKED.keys() == authoring._DEFAULTS.keys()


def test_reasons_can_be_given_by_option():
    reasons = {"bias": "there are no logits"}
    refuse_options("mine", {"bias": None}, reasons)
    with pytest.raises(UnsupportedError, match="^variant 'mine' has no 'bias': there are no logits$"):
        refuse_options("mine", {"seed": None, "bias": X}, reasons)
    with pytest.raises(UnsupportedError, match="^variant 'mine' has no 'softcap'$"):
        refuse_options("mine", {"softcap": 2.0}, reasons)


def test_an_offset_for_each_batch_entry_is_refused_too():
    with pytest.raises(UnsupportedError, match="query_offset"):
        refuse_options("mine", {"query_offset": np.zeros(2, int)})
    with pytest.raises(UnsupportedError, match="query_offset"):
        refuse_options("mine", {"query_offset": [0, 1]})


def test_an_option_that_there_is_not_is_another_error():
    with pytest.raises(InvalidInputError, match="a call of variant 'mine' has no option 'casual'; there are: mask, bias, causal"):
        refuse_options("mine", {"casual": True})


# --- output --------------------------------------------------------------------------------------------------------------


def test_without_out_there_is_a_new_array():
    made = place_of_output(None, (2, 3, 4), (X, X, X))
    assert made.shape == (2, 3, 4) and made.dtype == X.dtype


def test_out_is_taken_or_refused():
    out = np.empty((2, 3, 8))
    assert place_of_output(out, (2, 3, 8), (X, X, X)) is out
    with pytest.raises(DimensionMismatchError, match="out must have shape"):
        place_of_output(out, (2, 3, 4), (X, X, X))
    with pytest.raises(InvalidInputError, match="out shares memory with k"):
        place_of_output(out, (2, 3, 8), (X, out, X))


# --- contexts and gradients ----------------------------------------------------------------------------------------------


def test_a_context_keeps_what_the_variant_gives_it_and_shows_no_weights():
    layer = Copying(8)
    _, context = layer.forward_with_context(X)
    assert context.extra == {"kept": 3} and context.inputs[0] is X and context.shape == (2, 3, 8)
    assert layer.get_attention_weights(context) is None
    assert layer.get_attention_weights() is None
    assert repr(context) == "OpaqueContext(inputs=[(2, 3, 8), (2, 3, 8), (2, 3, 8)], extra=['kept'])"


def test_an_lse_that_there_is_not_is_refused_and_not_none():
    layer = Copying(8)
    with pytest.raises(UnsupportedError, match="^variant 'copying' has no log-sum-exp: leave out return_lse$"):
        layer(X, return_lse=True)
    assert layer.forward_with_context(X)[1].lse is None
    np.testing.assert_array_equal(layer(X, return_lse=False), X)


def test_an_lse_that_the_variant_knows_is_returned_and_no_extra():
    class Knowing(Copying):
        def attend(self, q, k=None, v=None, **options):
            out, context = super().attend(q, k, v, **options)
            return out, OpaqueContext(self, context.inputs, out.shape, lse=np.zeros((*out.shape[:-2], 1, out.shape[-2])), kept=4)

    layer = Knowing(8)
    out, lse = layer(X, return_lse=True)
    assert out.shape == (2, 3, 8) and lse.shape == (2, 1, 3)
    assert layer.forward_with_context(X)[1].extra == {"kept": 4}
    assert layer.backward(out).query.shape == (2, 3, 8)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_context_survives_copying_and_is_still_the_class_s(way):
    layer = Copying(8)
    out, context = layer.forward_with_context(X)
    other = way(context)
    np.testing.assert_array_equal(layer.backward(out, other).query, out)


def test_the_gradient_of_forward_has_no_axis_of_rows():
    layer = Copying(8)
    out = layer.forward(X[0, 0], X[0], X[0])
    found = layer.backward(np.ones_like(out))
    assert found.query.shape == (8,) and found.keys.shape == (3, 8)
    out = layer(X[0])
    assert layer.backward(out).query.shape == (3, 8)


def test_the_gradient_of_this_thread_s_last_call_is_meant():
    layer = Copying(8)
    with pytest.raises(InvalidInputError, match="backward needs a call to go back through"):
        layer.backward(X)
    layer(X)
    layer(X[0])
    assert layer.backward(X[0]).query.shape == (3, 8)


@pytest.mark.parametrize(
    ("gradient", "error", "message"),
    [
        (X[:1], DimensionMismatchError, r"grad_output must have the shape of the output, \(2, 3, 8\), got \(1, 3, 8\)"),
        (X.astype(np.float32), InvalidInputError, "grad_output must have the dtype of the output, float64, got float32"),
        (np.full_like(X, np.inf), InvalidInputError, "grad_output must be finite"),
        (None, InvalidInputError, "grad_output must be an array, got None"),
    ],
)
def test_a_gradient_that_does_not_fit_is_named(gradient, error, message):
    layer = Copying(8)
    layer(X)
    with pytest.raises(error, match=message):
        layer.backward(gradient)


def test_a_context_of_something_else_is_refused():
    layer, other = Copying(8), Copying(8)
    out, context = other.forward_with_context(X)
    with pytest.raises(InvalidInputError, match="context must be of a call of this Copying"):
        layer.backward(out, context)
    with pytest.raises(InvalidInputError, match="context must be what forward_with_context returned, got str"):
        layer.backward(out, "context")
    with pytest.raises(InvalidInputError, match="context must be of a call of this Copying"):
        layer.backward(out, Context(X, X, X, X, X))


# --- checkpoints of what is drawn ----------------------------------------------------------------------------------------


class Drawing(Copying):
    """Numbers that are no parameters are drawn from its seed; what is learned is a gain."""

    def __init__(self, embed_dim, num_heads=1, *, seed=0, count=4, start=1.0):
        self._config = AttentionConfig(embed_dim, num_heads, attention_type="drawing", options={"seed": seed, "count": count, "start": start})
        self._gain = np.full(1, start)

    def parameters(self):
        return {"gain": self._gain}


class Strict(Drawing):
    checkpoint_options = ("seed",)
    initial_options = ("start",)


def test_options_that_a_class_names_have_to_agree_in_a_checkpoint(tmp_path):
    pytest.importorskip("safetensors")
    Strict(8, seed=3).save_checkpoint(tmp_path / "layer")
    layer = Strict(8, seed=4, start=2.0)
    with pytest.raises(CheckpointError, match="is of a variant with seed 3, and this one has 4: create one like it"):
        layer.load_checkpoint(tmp_path / "layer")
    assert layer.parameters()["gain"] == 2.0
    Drawing(8, seed=4).load_checkpoint(tmp_path / "layer")


def test_where_parameters_begin_may_differ_if_the_class_says_so(tmp_path):
    pytest.importorskip("safetensors")
    Strict(8, start=3.0).save_checkpoint(tmp_path / "layer")
    layer = Strict(8, start=2.0)
    layer.load_checkpoint(tmp_path / "layer")
    assert layer.parameters()["gain"] == 3.0
    with pytest.raises(CheckpointError, match=r"start 3\.0, and this one has 2\.0"):
        Drawing(8, start=2.0).load_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="count 4, and this one has 5"):
        Strict(8, count=5).load_checkpoint(tmp_path / "layer")


@pytest.mark.parametrize("attribute", ["checkpoint_options", "initial_options"])
def test_a_class_that_names_an_option_that_there_is_not_is_told_so(tmp_path, attribute):
    pytest.importorskip("safetensors")
    Drawing(8).save_checkpoint(tmp_path / "layer")
    layer = type("Misspelt", (Drawing,), {attribute: ("sede",)})(8)
    with pytest.raises(InvalidInputError, match=rf"Misspelt\.{attribute} names 'sede', and the options are \['count', 'seed', 'start'\]"):
        layer.save_checkpoint(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(InvalidInputError, match="names 'sede'"):
        layer.load_checkpoint(tmp_path / "layer")
