"""What the conformance suite cannot know: that the variant computes what it is meant to."""

import math

import numpy as np
import pytest
import ruvattn
from ruvattn.errors import InvalidInputError

from plugin_name import PluginNameAttention


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_the_output_is_attention_of_queries_and_keys_of_unit_size(eps):
    heads = numbers(3, 2, 9, 4)  # q, k, v; heads; rows; columns
    q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) for x in heads[:2])
    weights = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(4))
    expected = weights / weights.sum(-1, keepdims=True) @ heads[2]
    merged = heads.swapaxes(1, 2).reshape(3, 9, 8)
    layer = PluginNameAttention(embed_dim=8, num_heads=2, eps=eps)
    np.testing.assert_allclose(layer(*merged), expected.swapaxes(0, 1).reshape(9, 8), rtol=0, atol=1e-13)


def test_the_length_of_queries_and_keys_does_not_matter():
    q, k, v = numbers(3, 20, 8)
    layer = ruvattn.create("registered-name", embed_dim=8, num_heads=2)
    np.testing.assert_allclose(layer(1e3 * q, 1e2 * k, v), layer(q, k, v), rtol=0, atol=1e-4)


def test_the_gradient_is_the_slope():
    x, dout, step = numbers(5, 8), numbers(5, 8, seed=1), 1e-6
    layer = ruvattn.create("registered-name", embed_dim=8, num_heads=2)
    layer(x)
    gradient = layer.backward(dout).total()
    direction = numbers(5, 8, seed=2)
    slope = np.sum((layer(x + step * direction) - layer(x - step * direction)) * dout) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


def test_vectors_of_zeros_and_huge_ones_give_numbers():
    layer = ruvattn.create("registered-name", embed_dim=8, num_heads=2)
    x = np.stack([np.zeros(8), np.full(8, 1e30)]).astype(np.float32)
    assert np.isfinite(layer(x)).all()
    assert np.isfinite(layer.backward(np.ones_like(x)).total()).all()


@pytest.mark.parametrize("eps", [0, -1.0, math.nan, math.inf, "1", None, True])
def test_an_eps_that_is_none_is_refused(eps):
    with pytest.raises(InvalidInputError, match="eps must be a number from 1e-30"):
        ruvattn.create("registered-name", embed_dim=8, eps=eps)
