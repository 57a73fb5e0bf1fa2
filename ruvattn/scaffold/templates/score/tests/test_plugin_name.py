"""What the conformance suite cannot know: that the score is the one that it is meant to be."""

import numpy as np
import pytest
import ruvattn
from ruvattn.errors import InvalidInputError

from plugin_name import PluginNameScore


def points(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("gain", [0.5, 10.0])
def test_a_logit_is_the_cosine_times_the_gain(gain):
    q, k = points(2, 5, 16), points(2, 7, 16, seed=1)
    lengths = np.linalg.norm(q, axis=-1)[..., :, None] * np.linalg.norm(k, axis=-1)[..., None, :]
    cosines = np.einsum("hid,hjd->hij", q, k) / lengths
    np.testing.assert_allclose(ruvattn.attention_logits(q, k, score=PluginNameScore(gain)), gain * cosines, rtol=0, atol=1e-13)


def test_the_length_of_a_vector_does_not_matter():
    q, k, v = points(3, 20, 8)
    expected = ruvattn.attention(q, k, v, score="registered-name")
    np.testing.assert_allclose(ruvattn.attention(100 * q, 0.01 * k, v, score="registered-name"), expected, rtol=0, atol=1e-12)


def test_a_vector_of_length_zero_scores_zero():
    q, k = points(1, 8), np.zeros((3, 8))
    assert ruvattn.attention_logits(q, k, score="registered-name").tolist() == [[0.0, 0.0, 0.0]]


def test_the_gain_can_be_learned():
    layer = ruvattn.create("registered-name", embed_dim=8, num_heads=2, gain=3.0, learn=("score.gain",))
    x = points(10, 8)
    out = layer(x)
    gradient = layer.backward(out).params["score.gain"]
    assert layer.parameters()["score.gain"].tolist() == [3.0, 3.0]
    assert gradient.shape == (2,) and np.all(gradient != 0)


@pytest.mark.parametrize("gain", [0, -1.0, np.nan, np.inf, "1", None, [1.0, 0.0]])
def test_a_gain_that_is_none_is_refused(gain):
    with pytest.raises(InvalidInputError, match="gain must be a finite number above 0"):
        PluginNameScore(gain)
# only cython


def test_the_compiled_form_is_the_one_that_is_used():
    q, k = points(40, 16), points(50, 16, seed=1)
    score = PluginNameScore()
    score.logits = None  # the form in NumPy, which is for other dtypes
    assert ruvattn.attention_logits(q, k, score=score).shape == (40, 50)
# end only
