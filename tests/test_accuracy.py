"""How exact the results are: against a naive implementation in the same precision, and the exponential against the true one."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import numpy as np
import pytest
from agreement import DTYPES, FLOATS, compute_dtype, epsilon, make, oracle_dtype, use_isa

import ruvattn
from ruvattn import isa, reference

ISAS = isa.supported_isas()
MODULES = [(name, dtype) for name in ISAS for dtype in FLOATS]


@pytest.fixture(params=ISAS)
def build(request):
    """Each instruction set in turn."""
    with use_isa(request.param):
        yield request.param


# --- against a naive implementation ---------------------------------------------------------------------------------------------

# lq, lk, d, dv
SHAPES = {"short": (64, 64, 32, 32), "wide": (64, 128, 128, 64), "long": (20, 3000, 64, 64), "decode": (2, 3000, 64, 64), "odd": (33, 257, 17, 65)}


def _normal(rng, q, k, v):
    return q, k, v


def _peaked(rng, q, k, v):
    """Logits of some tens: a few keys get all the weight."""
    return q * 6, k * 6, v


def _flat(rng, q, k, v):
    """Logits near 0, and values that all but cancel."""
    return q * 0.01, k, v


def _shifted(rng, q, k, v):
    """All keys alike but for little, values far from 0."""
    return q, k * 0.1 + k[..., :1, :], v + 10


def _spread(rng, q, k, v):
    """Rows of different sizes; not so different that a single one makes most of the error, which is then a matter of luck."""
    return tuple(x * np.exp(rng.standard_normal((*x.shape[:-1], 1)) / 3) for x in (q, k, v))


DISTRIBUTIONS = [_normal, _peaked, _flat, _shifted, _spread]
OPTIONS = {
    "nothing": {},
    "causal": {"causal": True, "query_offset": "end"},
    "softcap": {"softcap": 3.0},
    "sinks": {"sinks": np.array([0.5, 3.0])},
}


def _naive(q, k, v, **options):
    """What one would write in NumPy, in the precision of the arrays."""
    weights = reference.attention_weights(q, k, precision=q.dtype, **options)
    return weights @ v.astype(q.dtype)


def _errors(result, truth):
    error = np.abs(result.astype(np.longdouble) - truth)
    return float(np.sqrt(np.mean(error**2))), float(error.max())


@cache
def _case(shape, distribution, option):
    """Arrays, the truth, and the errors of the naive implementation: the same for every build."""
    lq, lk, d, dv = SHAPES[shape]
    arrays = distribution(np.random.default_rng(1), *make(0, lq, lk, d, dv, hq=2, hk=2, dtype=np.float64))
    q, k, v = (x.astype(np.float32) for x in arrays)
    truth, truth_lse = reference.attention(q, k, v, return_lse=True, **OPTIONS[option])
    _, naive_lse = reference.attention(q, k, v, return_lse=True, precision=np.float32, **OPTIONS[option])
    return (q, k, v), truth, truth_lse, _errors(_naive(q, k, v, **OPTIONS[option]), truth), _errors(naive_lse, truth_lse)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("shape", SHAPES)
def test_errors_are_at_most_twice_and_four_times_the_naive_ones(build, shape, distribution, option):
    if build == "scalar" and shape == "long":
        pytest.skip("the sums of the scalar build are those of the other two, one lane at a time")
    arrays, truth, truth_lse, (naive_rms, naive_largest), (naive_lse_rms, naive_lse_largest) = _case(shape, distribution, option)
    out, lse = ruvattn.attention(*arrays, return_lse=True, **OPTIONS[option])
    rms, largest = _errors(out, truth)
    assert rms <= 2 * naive_rms
    assert largest <= 4 * naive_largest
    # An lse may be exact by luck: a unit in the last place of the largest is always admitted.
    unit = epsilon(np.float32) * float(np.abs(truth_lse).max())
    rms, largest = _errors(lse, truth_lse)
    assert rms <= max(2 * naive_lse_rms, unit / 2)
    assert largest <= max(4 * naive_lse_largest, unit)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_the_other_dtypes_are_as_exact_as_theirs_can_be(dtype, distribution):
    arrays = distribution(np.random.default_rng(1), *make(0, 40, 300, 64, 48, hq=2, hk=2, dtype=np.float64))
    q, k, v = (x.astype(DTYPES[dtype]) for x in arrays)
    truth = reference.attention(q, k, v, precision=oracle_dtype(dtype))
    naive = _naive(*(x.astype(compute_dtype(dtype)) for x in (q, k, v))).astype(DTYPES[dtype])
    rms, largest = _errors(ruvattn.attention(q, k, v), truth)
    naive_rms, naive_largest = _errors(naive, truth)
    assert rms <= 2 * naive_rms
    assert largest <= 4 * naive_largest


def test_long_rows_are_not_summed_in_one_go():
    # 100,000 equal weights, added up one after another in float32, would be off by more than 1e-4. Tiles of about a hundred, their sums, and the
    # splits' sums are some hundred additions, each off by half a unit at the most.
    bound = 250 * epsilon(np.float32) / 2
    assert np.abs(np.add.accumulate(np.full(100_000, 0.1, np.float32))[-1] / 1e4 - 1) > 4 * bound
    q, k, _ = make(0, 5, 100_000, 4)
    v = np.ones((1, 100_000, 2), np.float32)
    for rows in (1, 5):
        out, lse = ruvattn.attention(q[:, :rows] * 0, k, v * np.float32(0.1), return_lse=True)
        assert np.abs(out.astype(float) / np.float32(0.1) - 1).max() < bound
        assert np.abs(lse - np.log(1e5)).max() < bound


def test_weights_are_as_exact_as_the_output():
    q, k, _ = make(1, 40, 300, 64)
    truth = reference.attention_weights(q, k)
    rms, largest = _errors(ruvattn.attention_weights(q, k), truth)
    naive_rms, naive_largest = _errors(reference.attention_weights(q, k, precision=np.float32), truth)
    assert rms <= 2 * naive_rms
    assert largest <= 4 * naive_largest


# --- exp, 2^x, tanh -------------------------------------------------------------------------------------------------------------

E, TANH, TWO, SOFTMAX = 0, 1, 2, 3
TRUE = {E: np.exp, TANH: np.tanh, TWO: np.exp2}


def _apply(name, dtype, x, base):
    x = np.ascontiguousarray(x, dtype)
    out = np.empty_like(x)
    import_module(f"ruvattn.kernels.tile_{name}_{dtype}").exponential(x, out, base)
    return out


def _ulps(found, truth):
    """Errors in units of the last place of the true result."""
    # The spacing of the narrower type at the truth: the one of its exponent, not of a neighbour that rounding may lead to.
    limits = np.finfo(found.dtype)
    _, exponent = np.frexp(truth)
    unit = np.ldexp(np.longdouble(1), np.maximum(exponent - limits.nmant - 1, limits.minexp - limits.nmant))
    return np.abs(found.astype(np.longdouble) - truth) / unit


def _sweep(dtype, low, high):
    """Numbers all over a range: evenly, near 0 on a log scale, and around the halves where rounding to a power of two changes sides."""
    rng = np.random.default_rng(0)
    even = np.linspace(low, high, 200_001)
    small = np.exp(rng.uniform(np.log(1e-30), np.log(max(abs(low), abs(high))), 100_000)) * rng.choice([-1, 1], 100_000)
    halves = np.concatenate([np.arange(np.ceil(low), np.floor(high)) + 0.5, (np.arange(np.ceil(low), np.floor(high)) + 0.5) * np.log(2)])
    near = np.concatenate([halves + step for step in np.linspace(-1e-5, 1e-5, 21)])
    x = np.concatenate([even, small, near, [0.0, -0.0, low, high]]).astype(dtype)
    return x[(x >= low) & (x <= high)]


# The lowest results are the smallest normal numbers; the highest are where rounding may still go up to the next power of two.
@pytest.mark.parametrize(("name", "dtype"), MODULES)
@pytest.mark.parametrize("base", [E, TWO])
def test_exponentials_are_within_two_units_in_the_last_place(name, dtype, base):
    limits = np.finfo(dtype)
    low, high = (float(np.nextafter(limits.minexp, 0)), limits.maxexp - 0.5)
    if base == E:
        low, high = low * np.log(2), high * np.log(2)
    x = _sweep(dtype, low * (1 - 1e-6), high * (1 - 1e-6))
    assert _ulps(_apply(name, dtype, x, base), TRUE[base](x.astype(np.longdouble))).max() <= 2


@pytest.mark.parametrize(("name", "dtype"), MODULES)
def test_the_exponential_of_the_softmax_is_within_two_units_in_the_last_place(name, dtype):
    low = float(np.nextafter(np.finfo(dtype).minexp, 0)) * np.log(2) * (1 - 1e-6)
    x = -np.abs(_sweep(dtype, low, 0))
    ulps = _ulps(_apply(name, dtype, x, SOFTMAX), np.exp(x.astype(np.longdouble)))
    assert ulps[x >= -30].max() <= 2
    assert ulps.max() <= (5 if (name, dtype) == ("v3", "float32") else 2)


@pytest.mark.parametrize(("name", "dtype"), MODULES)
def test_tanh_is_within_four_units_in_the_last_place(name, dtype):
    x = _sweep(dtype, -30, 30)
    found = _apply(name, dtype, x, TANH)
    assert _ulps(found, np.tanh(x.astype(np.longdouble))).max() <= 4
    assert (np.abs(found) <= 1).all()
    assert np.array_equal(np.signbit(found), np.signbit(x))


@pytest.mark.parametrize(("name", "dtype"), MODULES)
def test_exponentials_at_the_edges(name, dtype):
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([0.0, -0.0, tiny, -tiny, -np.inf, -huge, -1e4, np.nan], dtype)
    for base in (E, TWO):
        found = _apply(name, dtype, x, base)
        assert np.array_equal(found[:7], [1, 1, 1, 1, 0, 0, 0])
        assert np.isnan(found[7])
    x = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, huge, -huge, 100.0, np.nan], dtype)
    found = _apply(name, dtype, x, TANH)
    assert np.array_equal(found[:9], np.array([0.0, -0.0, tiny, -tiny, 1, -1, 1, -1, 1], dtype))
    assert np.isnan(found[9])


@pytest.mark.parametrize(("name", "dtype"), MODULES)
def test_powers_of_two_are_exact(name, dtype):
    limits = np.finfo(dtype)
    x = np.arange(limits.minexp, limits.maxexp)
    assert np.array_equal(_apply(name, dtype, x, TWO), np.ldexp(np.ones(len(x), dtype), x))


@pytest.mark.parametrize(("name", "dtype"), MODULES)
@pytest.mark.parametrize("base", [E, TWO, TANH])
def test_exponentials_rise_where_their_argument_does(name, dtype, base):
    x = np.linspace(-5, 5, 10_001).astype(dtype)
    found = _apply(name, dtype, x, base)
    # Steps are far larger than an error of two units in the last place, but for tanh near ±1.
    assert (np.diff(found)[np.abs(x[1:]) < 3] > 0).all()
