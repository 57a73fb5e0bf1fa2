"""What `ruvattn.authoring` checks for variants that are classes of their own."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest

import ruvattn
from ruvattn import AttentionConfig, Context, Gradients, TrainableAttention, authoring
from ruvattn.authoring import OpaqueContext, place_of_output, read_gradient, read_inputs, refuse_options
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError


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
    read_inputs(X, np.full_like(X, np.nan), X, embed_dim=8, finite=False, max_keys=None)


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
