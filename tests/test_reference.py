"""The oracle itself, against answers that are known without it: loops over pairs, and cases that can be done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, make

import ruvattn
from ruvattn import reference
from ruvattn.dropout import kept_weights


def by_hand(q, k, v, *, scale=None, softcap=None, bias=None, causal=False, window=(-1, -1), offset=0, length=None, mask=None, sink=None):
    """One head, one pair after another, in Python's own floats."""
    out, lse = np.zeros((len(q), v.shape[-1])), np.full(len(q), -np.inf)
    for i in range(len(q)):
        logits = {}
        for j in range(len(k) if length is None else length):
            position = i + offset
            if causal and j > position:
                continue
            if (window[0] >= 0 and j < position - window[0]) or (window[1] >= 0 and j > position + window[1]):
                continue
            if mask is not None and not mask[i][j]:
                continue
            s = math.fsum(float(a) * float(b) for a, b in zip(q[i], k[j], strict=True)) * (len(q[i]) ** -0.5 if scale is None else scale)
            if softcap is not None:
                s = softcap * math.tanh(s / softcap)
            if bias is not None:
                if bias[i][j] == -math.inf:
                    continue
                s += float(bias[i][j])
            logits[j] = s
        terms = [math.exp(s) for s in logits.values()] + ([] if sink is None else [math.exp(sink)])
        if terms:
            total = math.fsum(terms)
            lse[i] = math.log(total)
            for j, s in logits.items():
                out[i] += math.exp(s) / total * v[j].astype(float)
    return out, lse


RNG = np.random.default_rng(0)
CASES = {
    "nothing": {},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 0.5},
    "bias": {"bias": np.where(RNG.random((7, 9)) < 0.3, -np.inf, RNG.standard_normal((7, 9)))},
    "causal": {"causal": True},
    "offset": {"causal": True, "offset": 3},
    "negative offset": {"causal": True, "offset": -3},
    "window": {"window": (2, 1), "offset": 1},
    "half a window": {"window": (-1, 1)},
    "length": {"length": 4},
    "no length": {"length": 0},
    "mask": {"mask": RNG.random((7, 9)) < 0.3},
    "sink": {"sink": 0.7, "causal": True, "offset": -2},
    "all": {"scale": 0.9, "softcap": 2.0, "bias": RNG.standard_normal((7, 9)), "causal": True, "offset": 2, "window": (4, -1), "length": 8,
            "mask": RNG.random((7, 9)) < 0.7, "sink": -0.5},
}  # fmt: skip
NAMES = {"offset": "query_offset", "length": "key_lengths", "sink": "sinks"}


@pytest.mark.parametrize("case", CASES)
def test_one_head_agrees_with_a_loop_over_pairs(case):
    q, k, v = (x[0] for x in make(1, 7, 9, 4, 3, dtype=np.float64))
    options = CASES[case]
    expected, expected_lse = by_hand(q, k, v, **options)
    options = {NAMES.get(name, name): [x] if name == "sink" else x for name, x in options.items()}
    out, lse = reference.attention(q, k, v, return_lse=True, **options)
    assert np.allclose(out, expected, rtol=0, atol=1e-14)
    assert np.allclose(lse, expected_lse, rtol=0, atol=1e-14)


def test_heads_entries_and_groups_are_independent():
    q, k, v = make(2, 7, 9, 4, 3, lead=(2,), hq=4, hk=2, dtype=np.float64)
    bias = np.random.default_rng(0).standard_normal((2, 4, 7, 9))
    mask = np.random.default_rng(1).random((4, 7, 9)) < 0.6
    offsets, lengths, scale, sinks = np.array([2, -1]), np.array([9, 5]), np.array([0.1, 0.5, 1.0, 2.0]), np.array([0.0, -1.0, 1.0, -np.inf])
    out, lse = reference.attention(
        q, k, v, bias=bias, mask=mask, causal=True, query_offset=offsets, key_lengths=lengths, scale=scale, sinks=sinks, return_lse=True
    )
    for b in range(2):
        for h in range(4):
            expected, expected_lse = by_hand(
                q[b, h], k[b, h // 2], v[b, h // 2], bias=bias[b, h], mask=mask[h], causal=True, offset=int(offsets[b]), length=int(lengths[b]),
                scale=scale[h], sink=None if np.isneginf(sinks[h]) else sinks[h],
            )  # fmt: skip
            assert np.allclose(out[b, h], expected, rtol=0, atol=1e-14)
            assert np.allclose(lse[b, h], expected_lse, rtol=0, atol=1e-14)


def test_end_is_the_number_of_valid_keys_less_the_queries():
    q, k, v = make(3, 3, 9, 4, lead=(2,), dtype=np.float64)
    out = reference.attention(q, k, v, causal=True, query_offset="end", key_lengths=[9, 4])
    assert np.array_equal(out, reference.attention(q, k, v, causal=True, query_offset=[6, 1], key_lengths=[9, 4]))


def test_two_keys_by_hand():
    out, lse = reference.attention([[2.0]], [[math.log(3)], [0.0]], [[4.0], [8.0]], scale=0.5, return_lse=True)
    assert out == pytest.approx(5.0, abs=1e-15)  # 3/4 and 1/4
    assert lse == pytest.approx(math.log(4), abs=1e-15)


def test_masks_of_every_kind_mean_the_same():
    q, k, v = make(4, 7, 9, dtype=np.float64)
    mask = np.random.default_rng(0).random((7, 9)) < 0.5

    class Same(ruvattn.Pattern):
        positional = False

        def allowed(self, i, j, *, head=0, batch=0):
            return mask[i, j]

    expected = reference.attention(q, k, v, mask=mask)
    for other in (mask[None], scipy.sparse.csr_array(mask), scipy.sparse.coo_array(mask[None]), ruvattn.BoolMask(mask), Same()):
        assert np.array_equal(reference.attention(q, k, v, mask=other), expected)
    bias = np.where(mask, 0.0, -np.inf)
    assert np.array_equal(reference.attention(q, k, v, bias=bias), expected)


def test_masked_nan_has_no_influence_on_the_oracle_either():
    q, k, v = make(5, 7, 9, dtype=np.float64)
    mask = np.arange(9) > 2
    expected = reference.attention(q, k, v, mask=mask)
    k[:, :3], v[:, :3] = np.nan, np.inf
    assert np.array_equal(reference.attention(q, k, v, mask=mask), expected)


def test_weights_and_logits_are_the_steps_on_the_way():
    q, k, v = make(6, 7, 9, dtype=np.float64)
    options = {"causal": True, "softcap": 1.0}
    logits = reference.attention_logits(q, k, **options)
    weights = reference.attention_weights(q, k, **options)
    assert np.allclose(weights, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), rtol=0, atol=1e-15)
    assert np.allclose(reference.attention(q, k, v, **options), weights @ v, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("precision", [np.float32, np.float64, np.longdouble])
def test_everything_is_in_the_precision_that_was_asked_for(precision, dtype):
    q, k, v = make(7, 7, 9, dtype=dtype)
    out, lse = reference.attention(q, k, v, precision=precision, return_lse=True, sinks=[0.0])
    assert out.dtype == lse.dtype == precision
    assert reference.attention_weights(q, k, precision=precision).dtype == precision


def test_scores_and_aggregates_by_name_or_instance():
    q, k, v = make(8, 7, 9, dtype=np.float64)
    expected = reference.attention(q, k, v)
    assert np.array_equal(reference.attention(q, k, v, score=ruvattn.Dot(), aggregate="weighted-sum"), expected)

    class Plain(ruvattn.Score):
        def logits(self, t):
            return t.dots[0] / np.sqrt(8)

    assert np.allclose(reference.attention(q, k, v, score=Plain()), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("lq", "lk"), [(0, 3), (3, 0), (0, 0)])
def test_empty_input(lq, lk):
    q, k, v = make(9, lq, lk, 4, 3, hq=2, hk=2)
    out, lse = reference.attention(q, k, v, return_lse=True)
    assert out.shape == (2, lq, 3)
    assert not out.any()
    assert np.isneginf(lse).all()


def test_dropout_is_the_hash():
    q, k, _ = make(10, 7, 9, 4, lead=(2,), hq=3, hk=3, dtype=np.float64)
    plain = reference.attention_weights(q, k)
    dropped = reference.attention_weights(q, k, dropout=0.4, seed=11)
    for b in range(2):
        for h in range(3):
            kept = kept_weights(0.4, 11, b, h, np.arange(7), 9)
            assert np.allclose(dropped[b, h], plain[b, h] * kept / 0.6, rtol=0, atol=1e-15)


def test_the_hash_is_murmurs_finaliser_on_32_bit_words():
    def mix(x):
        x ^= x >> 16
        x = x * 0x85EBCA6B & 0xFFFFFFFF
        x ^= x >> 13
        x = x * 0xC2B2AE35 & 0xFFFFFFFF
        return x ^ x >> 16

    seed, batch, head = 2**63 + 12345, 3, 2
    key = mix((seed & 0xFFFFFFFF) + 0x9E3779B9 & 0xFFFFFFFF)
    key = mix(mix(key ^ seed >> 32) + batch * 0x9E3779B1 & 0xFFFFFFFF)
    key = mix(key + head * 0x85EBCA77 & 0xFFFFFFFF)
    expected = [[mix(mix(key + i * 0x9E3779B1 & 0xFFFFFFFF) + j * 0xC2B2AE3D & 0xFFFFFFFF) >= int(0.3 * 2**32) for j in range(50)] for i in range(20)]
    assert np.array_equal(kept_weights(0.3, seed, batch, head, np.arange(20), 50), expected)
