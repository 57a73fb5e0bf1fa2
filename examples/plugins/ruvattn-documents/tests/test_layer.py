"""The variant: documents as an option and with a call."""

import pickle

import numpy as np
import pytest
import ruvattn
from formula import attend_heads, ids_of
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError

from ruvattn_documents import Documents

LENGTHS = [[4, 5], [2, 6]]


def make(**options):
    return ruvattn.create("documents", embed_dim=8, num_heads=2, **options)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 9, 8))


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": (2, 0)}])
@pytest.mark.parametrize("documents", [{"lengths": LENGTHS}, {"lengths": [3, 4]}, {"ids": [[0, 0, 1, 1, 0, -1, 2, 2, 2], [3] * 9]}])
def test_documents_of_a_call(x, documents, options):
    ids = np.array(documents["ids"]) if "ids" in documents else ids_of(documents["lengths"], 9)
    np.testing.assert_allclose(make(**options)(x, **documents), attend_heads(x, ids, 2, **options), rtol=0, atol=1e-13)
    np.testing.assert_allclose(make()(x, **documents, **options), attend_heads(x, ids, 2, **options), rtol=0, atol=1e-13)


def test_documents_of_the_layer(x):
    layer = make(lengths=np.array([4, 3]))
    np.testing.assert_allclose(layer(x), attend_heads(x, ids_of([4, 3], 9), 2), rtol=0, atol=1e-13)  # the rest is padding
    np.testing.assert_allclose(layer(x[:, :5]), attend_heads(x[:, :5], ids_of([4, 1], 5), 2), rtol=0, atol=1e-13)
    np.testing.assert_allclose(layer.forward(x[0, 6], x[0, :7], x[0, :7]), make().forward(x[0, 6], x[0, 4:7], x[0, 4:7]), rtol=0, atol=1e-13)
    assert layer.config.options["lengths"] == (4, 3)
    for other in (layer.config.create(), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(other(x), layer(x))


def test_without_documents_a_row_is_one(x):
    assert np.array_equal(make()(x), ruvattn.create("standard", embed_dim=8, num_heads=2)(x))


def test_masks_of_a_call_are_anded(x):
    mask = np.random.default_rng(1).random((2, 1, 9, 9)) < 0.6
    expected = attend_heads(x, ids_of(LENGTHS, 9), 2, mask=mask)
    np.testing.assert_allclose(make()(x, lengths=LENGTHS, mask=mask), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("made", [{}, {"lengths": (4, 3)}])
def test_gradients_are_those_of_differences(x, made, cache):
    layer, documents = make(causal=True, **made), {} if made else {"lengths": LENGTHS}
    layer.gradient_cache = cache
    ids = ids_of(made.get("lengths", LENGTHS), 9)
    weights = np.random.default_rng(1).standard_normal(x.shape)
    _, context = layer.forward_with_context(x, **documents)
    layer(x[:1, :3])  # a call that comes between changes nothing
    found, expected, step = layer.backward(weights, context).total(), np.empty_like(x), 1e-6
    for place in np.ndindex(x.shape):
        losses = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            losses.append((weights * attend_heads(moved, ids, 2, causal=True)).sum())
        expected[place] = (losses[0] - losses[1]) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_weights_are_those_of_documents(x):
    layer = make()
    layer(x, lengths=LENGTHS)
    ids = ids_of(LENGTHS, 9)
    assert np.array_equal(layer.get_attention_weights()[:, 0] > 0, (ids[:, :, None] == ids[:, None]) & (ids[:, None] >= 0))


def test_plans_are_kept():
    layer = make(lengths=(4, 3))
    assert layer.own_mask(7, 7, False) is layer.own_mask(1, 5, True)
    assert layer.own_mask(9, 9, False) is layer.own_mask(9, 9, False)
    _, first = make().forward_with_context(np.ones((1, 9, 8)), lengths=[[4, 5]])
    assert first.options["mask"] is Documents.shared(((4, 5),), length=9)


def test_max_keys_counts_those_of_a_document(x):
    assert make(max_keys=6)(x, lengths=LENGTHS).shape == make(max_keys=4, lengths=(4, 3))(x).shape == x.shape
    with pytest.raises(InputTooLargeError):
        make(max_keys=5)(x, lengths=LENGTHS)


def test_what_fits_no_call_is_refused(x):
    layer = make()
    with pytest.raises(InvalidInputError, match="the documents of batch entry 1 have 10 tokens together, and a row has 9"):
        layer(x, lengths=[[4, 5], [4, 6]])
    with pytest.raises(DimensionMismatchError, match="for 1 batch entries, one by one, and the call has 2"):
        layer(x, lengths=[[4, 5]])
    with pytest.raises(DimensionMismatchError, match="for rows of 3 positions, and the call has 9"):
        layer(x, ids=[0, 0, 1])
    with pytest.raises(InvalidInputError, match="give one of the two"):
        layer(x, lengths=[9], ids=[0] * 9)
    with pytest.raises(InvalidInputError, match=r"was made with lengths=\(4, 5\)"):
        make(lengths=(4, 5))(x, lengths=LENGTHS)
    with pytest.raises(DimensionMismatchError, match="q"):
        layer(x[0, 0], lengths=[1])


@pytest.mark.parametrize("lengths", [LENGTHS, (), (0, 0)])
def test_an_option_that_is_no_packing_is_refused(lengths):
    with pytest.raises(InvalidInputError, match="the option lengths is one sequence of ints"):
        make(lengths=lengths)


def test_the_demo_takes_topics_for_documents(x):
    layer, topics, others = make(), ["a", "b", "a", "c", "b", "a", "a", "c", "b"], [0, 1, 2, 3, 5, 6, 7, 8]
    options, line = layer.demo_options(4, topics)
    layer(x[0, 4:5], x[0, others], x[0, others], **options)
    assert (layer.get_attention_weights()[0, 0] > 0).tolist() == [topics[i] == "b" for i in others]
    assert line == "sees the 2 other sentences of its own topic, of 3"
