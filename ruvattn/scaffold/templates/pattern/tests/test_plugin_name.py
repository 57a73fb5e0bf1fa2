"""What the conformance suite cannot know: that the pattern is the one that it is meant to be, and that its ranges are exact."""

import math

import numpy as np
import pytest
import ruvattn
from ruvattn.errors import InvalidInputError

from plugin_name import PluginNamePattern


def pairs(lq, lk, near):
    """The pattern as an array, written down pair by pair."""
    far = {2**n for n in range(40)}
    return np.array([[0 <= i - j <= near or i - j in far for j in range(lk)] for i in range(lq)])


@pytest.mark.parametrize("near", [0, 1, 6, 100])
def test_a_query_sees_the_near_keys_and_those_at_powers_of_two(near):
    seen = PluginNamePattern(near).allowed(np.arange(50)[:, None], np.arange(60))
    assert np.array_equal(seen, pairs(50, 60, near))


@pytest.mark.parametrize("near", [0, 1, 6, 100])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 40])
def test_ranges_hold_what_some_row_sees_and_tell_what_every_row_sees(rows, near):
    seen, keys = pairs(80, 70, near), np.arange(70)
    for i0 in range(0, 80, rows):
        i1 = min(i0 + rows, 80)
        starts, stops, full = PluginNamePattern(near).ranges(i0, i1, 70)
        some, every = np.zeros(70, bool), np.zeros(70, bool)
        for start, stop, whole in zip(starts, stops, full, strict=True):
            some[start:stop] = True
            every[start:stop] = whole
        assert np.array_equal(some, seen[i0:i1].any(0))
        assert not np.any(every & ~seen[i0:i1].all(0))
        assert every[(keys >= i1 - 1 - near) & (keys <= i0)].all()


def test_rows_before_the_first_key_see_nothing():
    assert [len(part) for part in PluginNamePattern().ranges(-9, -3, 50)] == [0, 0, 0]


def test_attention_is_that_of_the_mask():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 90, 8))
    logits = np.where(pairs(90, 90, 4), q @ k.swapaxes(1, 2) / math.sqrt(8), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = weights @ v / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=PluginNamePattern(4)), expected, rtol=0, atol=1e-12)


def test_the_variant_has_the_pattern():
    x = np.random.default_rng(0).standard_normal((40, 8))
    layer = ruvattn.create("registered-name", embed_dim=8, num_heads=2, near=3)
    layer(x)
    assert np.array_equal(layer.get_attention_weights() > 0, np.broadcast_to(pairs(40, 40, 3), (2, 40, 40)))


@pytest.mark.parametrize("near", [-1, 1.5, "1", None, True, 2**60])
def test_what_is_no_number_of_keys_is_refused(near):
    with pytest.raises(InvalidInputError, match="near must be an int from 0"):
        PluginNamePattern(near)
