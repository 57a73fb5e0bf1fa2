"""NaN, infinity and overflow: what is masked has no influence, what isn't touches only the rows that see it, and finite input gives finite output."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from agreement import FLOATS, assert_agrees, assert_close, make, oracle_dtype, same_bits, tolerance, use_isa

import ruvattn
from ruvattn import isa, reference

INF = np.inf
POISON = {"nan": np.nan, "inf": INF, "-inf": -INF}

# lq, lk: both ways through the kernels, whole and with the keys split
PATHS = {"tiles": (37, 150), "few": (3, 150), "split tiles": (17, 2100), "split few": (2, 2100)}


class OddKeys(ruvattn.Pattern):
    """Only keys 1, 3, 5, …"""

    def allowed(self, i, j, *, head=0, batch=0):
        return j % 2 == 1


class LaterKeys(ruvattn.Pattern):
    """Only keys from 64 on, by ranges."""

    def allowed(self, i, j, *, head=0, batch=0):
        return j >= 64

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        return [64], [lk], [True]


# name -> options, and the keys that no row may see
HIDDEN = {
    "bool mask": lambda lq, lk: ({"mask": np.arange(lk) % 2 == 1}, slice(0, None, 2)),
    "bool mask of every row": lambda lq, lk: ({"mask": np.broadcast_to(np.arange(lk) % 2 == 1, (lq, lk)).copy()}, slice(0, None, 2)),
    "bias": lambda lq, lk: ({"bias": np.where(np.arange(lk) % 2 == 1, 0.5, -INF)}, slice(0, None, 2)),
    "bias of every row": lambda lq, lk: ({"bias": np.where(np.arange(lk) % 2 == 1, np.arange(lq)[:, None] / lq, -INF)}, slice(0, None, 2)),
    "key lengths": lambda lq, lk: ({"key_lengths": lk - 20}, slice(lk - 20, None)),
    "key lengths, no key": lambda lq, lk: ({"key_lengths": 0}, slice(None)),
    "causal": lambda lq, lk: ({"causal": True, "query_offset": 50}, slice(50 + lq, None)),
    "window": lambda lq, lk: ({"window": (30, 20), "query_offset": 40}, np.r_[0:10, 40 + lq + 20 : lk]),
    "pattern": lambda lq, lk: ({"mask": OddKeys()}, slice(0, None, 2)),
    "pattern with ranges": lambda lq, lk: ({"mask": LaterKeys()}, slice(0, 64)),
    "sparse": lambda lq, lk: ({"mask": scipy.sparse.csr_array(np.ones((lq, 1)) * (np.arange(lk) % 2))}, slice(0, None, 2)),
    "all together": lambda lq, lk: (
        {"mask": OddKeys(), "key_lengths": lk - 20, "window": (-1, 70), "softcap": 3.0, "sinks": np.array([0.3]), "dropout": 0.1, "seed": 1},
        np.r_[0 : lk - 20 : 2, lk - 20 : lk],
    ),
}


@pytest.fixture(params=isa.supported_isas())
def build(request):
    """Each instruction set in turn."""
    with use_isa(request.param):
        yield request.param


# The merging of splits is the same source for every build: the best one and the plainest are enough.
ON_PATHS = pytest.mark.parametrize(
    ("build", "path"),
    [(name, path) for name in isa.supported_isas() for path in PATHS if "split" not in path or name in (isa.supported_isas()[0], "scalar")],
    indirect=["build"],
)


@ON_PATHS
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("dtype", FLOATS)
def test_masked_keys_and_values_have_no_influence(build, dtype, hidden, path):
    lq, lk = PATHS[path]
    options, keys = HIDDEN[hidden](lq, lk)
    if "bias" in options:
        options["bias"] = options["bias"].astype(dtype)
    q, k, v = make(1, lq, lk, 9, 11, dtype=dtype)
    _, clean = assert_agrees(q, k, v, **options)
    expected = ruvattn.attention(q, k, v, **options)
    for value in (np.nan, INF):
        bad_k, bad_v = k.copy(), v.copy()
        bad_k[:, keys], bad_v[:, keys] = value, -value
        for arrays in ((bad_k, v), (k, bad_v), (bad_k, bad_v)):
            out, lse = ruvattn.attention(q, *arrays, return_lse=True, **options)
            assert_close(out, expected, tolerance(q, k, v, options))
            assert_close(lse, clean, tolerance(q, k, np.ones(1, dtype), options))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_masked_keys_have_no_influence_on_weights_and_logits(hidden):
    options, keys = HIDDEN[hidden](37, 150)
    if "bias" in options:
        options["bias"] = options["bias"].astype(np.float32)
    q, k, _ = make(2, 37, 150, 9)
    bad = k.copy()
    bad[:, keys] = np.nan
    assert same_bits(ruvattn.attention_weights(q, bad, **options), ruvattn.attention_weights(q, k, **options))
    for name in ("sinks", "dropout", "seed"):
        options.pop(name, None)
    assert same_bits(ruvattn.attention_logits(q, bad, **options), ruvattn.attention_logits(q, k, **options))


@ON_PATHS
def test_a_masked_bias_has_no_influence(build, path):
    lq, lk = PATHS[path]
    q, k, v = make(3, lq, lk)
    mask = np.random.default_rng(0).random((lq, lk)) < 0.5
    bias = np.random.default_rng(1).standard_normal((lq, lk)).astype(np.float32)
    expected = ruvattn.attention(q, k, v, mask=mask, bias=bias)
    for value in POISON.values():
        actual = ruvattn.attention(q, k, v, mask=mask, bias=np.where(mask, bias, np.float32(value)))
        assert_close(actual, expected, tolerance(q, k, v, {"bias": bias}))


@ON_PATHS
@pytest.mark.parametrize("where", ["k", "v"])
@pytest.mark.parametrize("poison", POISON)
def test_a_visible_nan_touches_only_the_rows_that_see_it(build, poison, where, path):
    lq, lk = PATHS[path]
    q, k, v = make(4, lq, lk, 9, 11)
    mask = np.ones((lq, lk), bool)
    mask[::2, 77] = False
    clean = ruvattn.attention(q, k, v, mask=mask)
    array = {"k": k, "v": v}[where]
    array[:, 77] = POISON[poison]
    out, lse = ruvattn.attention(q, k, v, mask=mask, return_lse=True)
    assert_close(out[:, ::2], clean[:, ::2], tolerance(q, k, v, {}))
    assert np.isfinite(lse[:, ::2]).all()
    # An infinite key is NaN or the only key that counts, as the signs of the query have it; the oracle knows.
    with np.errstate(all="ignore"):
        expected = reference.attention(q, k, v, mask=mask)
    assert not np.isfinite(out[:, 1::2]).all() or np.isfinite(expected).all()
    assert np.array_equal(np.isfinite(out).all(-1), np.isfinite(expected).all(-1))


@ON_PATHS
def test_a_nan_in_a_query_touches_its_row_only(build, path):
    lq, lk = PATHS[path]
    q, k, v = make(5, lq, lk, 9, 11)
    clean, clean_lse = ruvattn.attention(q, k, v, return_lse=True)
    q[:, 1, 3] = np.nan
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    assert np.isnan(out[:, 1]).all()
    assert np.isnan(lse[:, 1]).all()
    others = np.arange(lq) != 1
    assert_close(out[:, others], clean[:, others], tolerance(q, k, v, {}))
    assert_close(lse[:, others], clean_lse[:, others], 1e-5)


@ON_PATHS
def test_a_nan_in_a_value_touches_its_column_only(build, path):
    lq, lk = PATHS[path]
    q, k, v = make(6, lq, lk, 9, 11)
    clean = ruvattn.attention(q, k, v)
    v[:, 40, 5] = np.nan
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    others = np.arange(11) != 5
    assert np.isnan(out[..., 5]).all()
    assert_close(out[..., others], clean[..., others], tolerance(q, k, v, {}))
    assert np.isfinite(lse).all()


@ON_PATHS
@pytest.mark.parametrize("kind", ["mask", "bias", "pattern", "key_lengths"])
def test_a_row_that_sees_nothing_is_zero_even_if_everything_is_nan(build, kind, path):
    lq, lk = PATHS[path]
    q, k, v = (np.full_like(x, np.nan) for x in make(7, lq, lk, 9, 11))
    nothing = {"mask": np.zeros((lq, 1), bool), "bias": np.full(lk, -INF, np.float32), "pattern": scipy.sparse.csr_array((lq, lk)), "key_lengths": 0}
    options = {"mask" if kind == "pattern" else kind: nothing[kind]}
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    assert not out.any()
    assert np.isneginf(lse).all()
    assert not ruvattn.attention_weights(q, k, **options).any()
    _, lse = ruvattn.attention(q, k, v, return_lse=True, sinks=np.array([1.5]), **options)
    assert_close(lse, np.full((1, lq), 1.5), 1e-6)


# --- finite in, finite out ------------------------------------------------------------------------------------------------------

# exponents of two for queries and keys, and the size of the values
MAGNITUDES = {
    "float32": [(-70, 1.0), (0, 3.4e38), (5, 1.0), (15, 1.0), (20, 1.0), (40, 1.0), (63, 1.0), (63, 3.4e38), (64, 1.0), (100, 1.0), (125, 3.4e38)],
    "float64": [(-530, 1.0), (0, 1.7e308), (5, 1.0), (30, 1.0), (60, 1.0), (300, 1.0), (511, 1.0), (512, 1.7e308), (700, 1.0), (1020, 1.7e308)],
}
EXTREME = {
    "nothing": lambda rng, lq, lk: {},
    "causal": lambda rng, lq, lk: {"causal": True, "query_offset": 9},
    "mask": lambda rng, lq, lk: {"mask": rng.random((lq, lk)) < 0.5},
    "pattern": lambda rng, lq, lk: {"mask": OddKeys()},
    "softcap": lambda rng, lq, lk: {"softcap": 2.0},
    "sinks": lambda rng, lq, lk: {"sinks": np.array([2.0])},
    "dropout": lambda rng, lq, lk: {"dropout": 0.5, "seed": 1},
}


@ON_PATHS
@pytest.mark.parametrize("extreme", EXTREME)
@pytest.mark.parametrize("dtype", FLOATS)
def test_huge_and_tiny_numbers_agree_with_the_oracle(build, dtype, extreme, path):
    lq, lk = PATHS[path]
    rng = np.random.default_rng(8)
    limits = np.finfo(dtype)
    for exponent, largest in MAGNITUDES[dtype]:
        # Small whole numbers times a power of two: their dot products are exact, so that ties are ties at any size.
        q, k = (np.ldexp(rng.integers(-3, 4, (1, n, 5)).astype(dtype), exponent) for n in (lq, lk))
        q[:, ::3] = np.ldexp(q[:, ::3], -2 * exponent)  # these rows are as usual, and must not suffer
        v = (rng.uniform(-1, 1, (1, lk, 6)) * largest).astype(dtype)
        options = EXTREME[extreme](rng, lq, lk) | {"scale": 1.0}
        out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
        expected, expected_lse = reference.attention(q, k, v, return_lse=True, precision=oracle_dtype(dtype), **options)
        assert np.isfinite(out).all()
        assert_close(out, np.clip(expected, -limits.max, limits.max), 64 * float(limits.eps) * float(np.abs(v).max()))
        finite = np.isfinite(expected_lse)
        assert np.array_equal(np.isneginf(lse), ~finite)
        expected_lse = np.clip(expected_lse[finite], -limits.max, limits.max)
        assert_close(lse[finite] / np.maximum(1, np.abs(expected_lse)), expected_lse / np.maximum(1, np.abs(expected_lse)), 16 * float(limits.eps))


@ON_PATHS
@pytest.mark.parametrize("dtype", FLOATS)
def test_overflow_of_one_sign_leaves_the_other_keys_in_charge(build, dtype, path):
    lq, lk = PATHS[path]
    big = np.sqrt(np.finfo(dtype).max) * 10
    q, k, v = make(9, lq, lk, 4, dtype=dtype)
    q[..., 0], k[..., 0] = big, 0
    k[:, 5, 0], k[:, 6, 0] = -big, big
    out = ruvattn.attention(q, k, v)
    assert np.array_equal(out, np.broadcast_to(v[:, 6:7], out.shape))
    k[:, 6, 0] = 0
    out = ruvattn.attention(q, k, v)
    assert_close(out, reference.attention(q, k, v, precision=oracle_dtype(dtype)), 1e-4 if dtype == "float32" else 1e-12)
    k[:, :, 0] = -big
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    assert np.isfinite(out).all()
    assert (lse == -np.finfo(dtype).max).all()


@ON_PATHS
def test_a_bias_at_the_edge_of_the_range(build, path):
    lq, lk = PATHS[path]
    q, k, v = make(10, lq, lk, 4)
    for top in (3.4e38, -3.4e38):
        bias = np.full((lq, lk), top, np.float32)
        bias[:, 3] = -INF
        out, lse = ruvattn.attention(q, k, v, bias=bias, return_lse=True)
        assert_close(out, np.broadcast_to(np.delete(v, 3, 1).mean(1, keepdims=True), out.shape), 1e-4)
        assert_close(lse, np.full((1, lq), np.float32(top)), 1e32)
        weights = ruvattn.attention_weights(q, k, bias=bias)
        assert_close(weights.sum(-1), np.ones((1, lq)), 1e-4)


@pytest.mark.parametrize("size", [1e4, 1e6, 1e8, 1e10, 1e20, 1e37, -1e6, -1e10, -1e37])
@pytest.mark.parametrize("lq", [2, 20])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sink_of_any_size_takes_its_share(build, dtype, lq, size):
    # One key whose logit is exactly the sink: they share, whatever their size.
    for factor in (1.0, 1.25, 1.37, 1.999):
        logit = np.dtype(dtype).type(size * factor)
        q, k, v = np.full((1, lq, 1), logit), np.ones((1, 1, 1), dtype), np.ones((1, 1, 1), dtype)
        out, lse = ruvattn.attention(q, k, v, scale=1.0, sinks=np.array([logit]), return_lse=True)
        assert_close(out, np.full((1, lq, 1), 0.5), 1e-6)
        assert_close(lse, np.full((1, lq), float(logit) + np.log(2)), 2 * float(np.finfo(dtype).eps) * abs(float(logit)))


@pytest.mark.parametrize("lowest", [np.finfo(np.float32).min, -1e30, -1e9, -65504])
@pytest.mark.parametrize("lq", [3, 40])
def test_rows_masked_by_the_lowest_number_attend_to_all_keys_alike(build, lq, lowest):
    # What some callers mean by a mask: a bias so low that the scores are lost beside it.
    q, k, v = make(13, lq, 70)
    q *= 1e-6
    bias = np.zeros((lq, 70), np.float32)
    bias[::2] = lowest
    bias[1::2, 50:] = lowest
    out = ruvattn.attention(q, k, v, bias=bias)
    assert_close(out[:, ::2], np.broadcast_to(v.mean(1, keepdims=True), out[:, ::2].shape), 1e-5)
    assert_close(out[:, 1::2], np.broadcast_to(v[:, :50].mean(1, keepdims=True), out[:, 1::2].shape), 1e-5)


def test_equal_logits_give_equal_weights(build):
    q, k, v = np.ones((1, 9, 4), np.float32), np.ones((1, 1000, 4), np.float32), make(0, 1, 1000)[2]
    for magnitude in (1e-20, 1.0, 1e5, 1e18, 1e30):
        assert_close(ruvattn.attention(q * np.float32(magnitude), k, v), np.broadcast_to(v.astype(float).mean(1, keepdims=True), (1, 9, 8)), 1e-5)


def test_half_precision_at_the_edge_of_its_range():
    q = np.full((1, 9, 8), 65504, np.float16)
    v = np.full((1, 9, 8), -65504, np.float16)
    assert (ruvattn.attention(q, q, v) == -65504).all()
    assert np.isfinite(ruvattn.attention(q, q, v, dropout=0.5, seed=0)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_finite_logits_stay_finite_in_half_precision(sign):
    q = np.full((1, 3, 8), 60000, np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = ruvattn.attention_logits(q, sign * q, causal=True)
    assert np.array_equal(np.isfinite(logits[0]), np.tri(3, dtype=bool))
    assert (logits[np.isfinite(logits)] == sign * 65504).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_and_logits_of_huge_numbers(dtype):
    big = {"float32": 1e30, "float64": 1e300}[dtype]
    q, k, _ = make(11, 7, 12, 4, dtype=dtype)
    weights = ruvattn.attention_weights(q * big, k * big)
    assert_close(weights, reference.attention_weights(q * big, k * big, precision=oracle_dtype(dtype)), 0)
    logits = ruvattn.attention_logits(q * big, k * big)
    assert (np.abs(logits) == np.finfo(dtype).max).all()


@pytest.mark.parametrize("softcap", [1e-300, 1e-50, 1e-39, 1e-3, 1e30, 3e38, 1e39, 1e300])
@pytest.mark.parametrize("lq", [2, 20])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_softcap_of_any_size(build, dtype, lq, softcap):
    assert_agrees(*make(12, lq, 50, dtype=dtype), softcap=softcap)
