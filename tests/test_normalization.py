"""Layer normalisation against the float64 oracle: any shape, strides and dtype, in every build; what it does at the ends of the range, and threads.

A normalised number t is known to some eps · (1 + |t|), however far from zero the mean is: a row is centred exactly to rounding. Only what is
rounded before that counts more, the sum of x and its residual: eps · |x + residual| / deviation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from agreement import DTYPES, FLOATS, compute_dtype, epsilon, oracle_dtype, same_bits, use_build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import isa, layer_norm, normalization, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

INF, NAN = np.inf, np.nan
BUILDS = isa.supported_isas()
WIDE = np.finfo(np.longdouble).maxexp > np.finfo(np.float64).maxexp
floats = pytest.mark.parametrize("dtype", list(FLOATS))


@pytest.fixture(params=BUILDS)
def build(request):
    """Each instruction set in turn."""
    with use_build(normalization._kernels, request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _no_warnings():
    """NumPy's of an overflow, most of all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_normalised(x, weight=None, bias=None, *, roundings=16, **options):
    """Output and statistics agree with the oracle's to so many roundings; returns the output."""
    threads = options.pop("threads", None)
    out, mean, rstd = layer_norm(x, weight, bias, return_stats=True, threads=threads, **options)
    wide, compute = oracle_dtype(x.dtype), compute_dtype(x.dtype)
    t, true_mean, true_rstd = reference.layer_norm(x, return_stats=True, precision=wide, **options)
    truth = reference.layer_norm(x, weight, bias, precision=wide, **options)
    assert (out.dtype, mean.dtype, rstd.dtype) == (x.dtype.newbyteorder("="), compute, compute)
    assert (out.shape, mean.shape, rstd.shape) == (x.shape, x.shape[:-1], x.shape[:-1])
    eps, size = epsilon(compute), np.abs(x.astype(wide))
    summed = 0
    if options.get("residual") is not None:
        size = size + np.abs(options["residual"].astype(wide))
        summed = size.max(-1, keepdims=True, initial=0)
    atol = roundings * eps * (1 + np.abs(t) + summed * true_rstd[..., None])
    if weight is not None:
        atol = atol * np.abs(weight.astype(wide))
    atol = atol + 2 * eps * np.abs(truth)
    if x.dtype.itemsize == 2:
        atol = atol + epsilon(x.dtype) * np.abs(truth) + np.finfo(np.float16).smallest_subnormal
    assert (np.abs(out.astype(wide) - truth) <= atol).all()
    assert (np.abs(mean - true_mean) <= 4 * eps * (size.max(-1, initial=0) + np.finfo(compute).tiny)).all()
    spread = 1 + (summed[..., 0] if np.ndim(summed) else 0) * true_rstd
    assert (np.abs(rstd - true_rstd) <= roundings * eps * spread * true_rstd).all()
    return out


# --- agreement with the oracle ------------------------------------------------------------------------------------------------------

VIEWS = {
    "as it is": lambda x: x,
    "rows backwards": lambda x: x[..., ::-1, :] if x.ndim > 1 else x,
    "columns backwards": lambda x: x[..., ::-1],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2] if x.ndim > 1 else x,
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "part of wider rows": lambda x: np.concatenate([x, x, x], axis=-1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "Fortran order": np.asfortranarray,
    "axes swapped": lambda x: np.ascontiguousarray(np.moveaxis(x, 0, -2)).transpose(x.ndim - 2, *range(x.ndim - 2), x.ndim - 1) if x.ndim > 2 else x,
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lead=st.lists(st.integers(0, 4), max_size=3),
    width=st.integers(1, 70),
    dtype=st.sampled_from(sorted(DTYPES)),
    have=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    views=st.tuples(st.sampled_from(sorted(VIEWS)), st.sampled_from(sorted(VIEWS))),
    eps=st.sampled_from([1e-5, 1e-12, 0.5, 3]),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_strides_agree_with_the_oracle(build, lead, width, dtype, have, views, eps, seed):
    kind = DTYPES[dtype]
    x, residual = (VIEWS[view](normal(seed + n, *lead, width, dtype=kind)) for n, view in enumerate(views))
    weight, bias = normal(seed, 2, width, dtype=kind)
    assert_normalised(x, weight if have[0] else None, bias if have[1] else None, residual=residual if have[2] else None, eps=eps)


@floats
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 1057, 2048, 5000])
def test_every_width_around_vectors_and_blocks(build, width, dtype):
    x = normal(width, 11, width, dtype=dtype)
    weight, bias = normal(1, 2, width, dtype=dtype)
    assert_normalised(x, weight, bias, roundings=64)
    assert_normalised(x, weight, bias, residual=x[::-1], roundings=64)


def test_a_single_vector_is_a_single_row(build):
    x = normal(0, 24)
    out, mean, rstd = layer_norm(x, return_stats=True)
    assert out.shape == (24,)
    assert (mean.shape, rstd.shape) == ((), ())
    assert same_bits(out, layer_norm(x[None])[0])


def test_lists_are_taken():
    assert layer_norm([[1.0, 3.0]], [1.0, 2.0], [0.0, 1.0], eps=0).tolist() == [[-1.0, 3.0]]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0, 4, 5)])
def test_an_empty_batch_gives_an_empty_result(build, shape):
    out, mean, rstd = layer_norm(np.zeros(shape, np.float32), np.ones(5, np.float32), return_stats=True)
    assert (out.shape, mean.shape, rstd.shape) == (shape, shape[:-1], shape[:-1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_may_have_the_dtype_of_x_or_the_compute_dtype(dtype):
    x, weight = normal(0, 5, 16, dtype=DTYPES[dtype]), normal(1, 16, dtype=DTYPES[dtype])
    wide = weight.astype(np.float32)
    assert same_bits(layer_norm(x, weight, weight, residual=x), layer_norm(x, wide, wide, residual=x.astype(np.float32)))


def test_another_byte_order_gives_the_same_in_that_of_the_machine():
    x = normal(0, 5, 16)
    swapped = x.astype(x.dtype.newbyteorder())
    assert same_bits(layer_norm(swapped, swapped[0], residual=swapped), layer_norm(x, x[0], residual=x))


def test_inputs_are_not_written(build):
    x, residual, (weight, bias) = normal(0, 9, 33), normal(1, 9, 33), normal(2, 2, 33)
    before = [array.copy() for array in (x, residual, weight, bias)]
    for array in (x, residual, weight, bias):
        array.flags.writeable = False
    layer_norm(x, weight, bias, residual=residual)
    assert all(same_bits(a, b) for a, b in zip((x, residual, weight, bias), before, strict=True))


# --- how exact --------------------------------------------------------------------------------------------------------------------


def naive(x, weight, bias):
    """What one would write in NumPy, in the precision of the arrays."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + x.dtype.type(1e-5)) * weight + bias


def _uniform(rng, n, d):
    return rng.random((n, d))


def _shifted(rng, n, d):
    return rng.standard_normal((n, d)) + 100 * rng.standard_normal((n, 1))


def _outlier(rng, n, d):
    """One large number a row, as in the residual streams of language models."""
    x = rng.standard_normal((n, d))
    x[:, d // 3] += 1000
    return x


def _scaled(rng, n, d):
    return rng.standard_normal((n, d)) * np.exp(3 * rng.standard_normal((n, 1)))


def _heavy_tailed(rng, n, d):
    return rng.standard_t(2, (n, d))


@cache
def accuracy_case(kind, width):
    rng = np.random.default_rng(0)
    x = kind(rng, max(20, 40_000 // width), width).astype(np.float32)
    weight, bias = rng.standard_normal((2, width)).astype(np.float32)
    truth = reference.layer_norm(x, weight, bias)
    error = np.abs(naive(x, weight, bias) - truth)
    return x, weight, bias, truth, np.sqrt(np.mean(error**2)), error.max()


@pytest.mark.parametrize("width", [16, 64, 100, 768, 5000])
@pytest.mark.parametrize("kind", [_uniform, _shifted, _outlier, _scaled, _heavy_tailed], ids=lambda f: f.__name__.strip("_"))
def test_errors_are_at_most_twice_and_four_times_the_naive_ones(build, kind, width):
    x, weight, bias, truth, naive_rms, naive_largest = accuracy_case(kind, width)
    error = np.abs(layer_norm(x, weight, bias) - truth)
    assert np.sqrt(np.mean(error**2)) <= 2 * naive_rms
    assert error.max() <= 4 * naive_largest


@floats
def test_a_mean_far_from_zero_costs_no_digits(build, dtype):
    """Where NumPy's loses what the mean is rounded by: three digits, here."""
    x = normal(0, 40, 300, dtype=np.float64)
    x = (x + 1e4 * (1 + np.arange(40))[:, None]).astype(dtype)
    wide = oracle_dtype(dtype)
    truth = reference.layer_norm(x.astype(wide) - x[:, :1], precision=wide)  # exactly the same rows but for their means, which no dtype here can hold
    assert (np.abs(layer_norm(x) - truth) <= 16 * epsilon(dtype) * (1 + np.abs(truth))).all()
    assert np.abs(naive(x, 1, 0) - truth).max() > 200 * epsilon(dtype)


@floats
def test_long_rows_are_not_summed_in_one_go(build, dtype):
    """Equal squares, added up one after another, are rounded in one direction: by far more than eps, so many of them."""
    x = np.random.default_rng(0).choice(np.array([-0.1, 0.1], dtype), (2, 400_001))
    squares = np.cumsum(x[0] * x[0], dtype=dtype)[:: 400_000 // 32]  # as many as go to a lane of the widest build
    assert abs(squares[1] / (400_000 // 32 * 0.01) - 1) > 32 * epsilon(dtype)
    error = np.abs(layer_norm(x) - reference.layer_norm(x, precision=oracle_dtype(dtype)))
    assert error.max() < 8 * epsilon(dtype)


# --- constant rows ----------------------------------------------------------------------------------------------------------------

CONSTANTS = [0.0, 1.0, 0.1, -1 / 3, 16777217.0, 1e-20, 1e-40, 3e38, -1e30, 1e-5]


@floats
@pytest.mark.parametrize("eps", [0, 1e-12, 1e-5])
@pytest.mark.parametrize("width", [1, 3, 7, 64, 100, 1000, 30_011])
def test_a_constant_row_gives_exactly_the_bias(build, width, eps, dtype):
    x = np.repeat(np.array(CONSTANTS, dtype)[:, None], width, axis=1)
    weight, bias = normal(0, 2, width, dtype=dtype)
    out, mean, rstd = layer_norm(x, weight, bias, eps=eps, return_stats=True)
    assert np.array_equal(out, np.broadcast_to(bias, x.shape))
    assert np.array_equal(layer_norm(x, eps=eps), np.zeros_like(x))
    assert np.array_equal(mean, x[:, 0])
    np.testing.assert_allclose(rstd, eps**-0.5 if eps else 0.0, rtol=2 * epsilon(dtype))


@floats
def test_rows_that_differ_in_their_last_bits_are_normalised_too(build, dtype):
    one = np.array(1.1, dtype)
    above = np.nextafter(one, np.array(2, dtype))
    x = np.where(np.random.default_rng(0).random((50, 40)) < np.linspace(0.02, 0.98, 50)[:, None], one, above)
    x[:, 0], x[:, 1] = one, above
    wide = oracle_dtype(dtype)
    truth = reference.layer_norm(x - one.astype(wide), eps=0, precision=wide)
    assert (np.abs(layer_norm(x, eps=0) - truth) <= 8 * epsilon(dtype) * (1 + np.abs(truth))).all()


# --- the ends of the range --------------------------------------------------------------------------------------------------------


def extreme_rows(dtype):
    """Rows whose sums, squares or both overflow or vanish in a dtype."""
    limits = np.finfo(dtype)
    top, least = limits.max, limits.smallest_subnormal
    x = normal(0, 9, 33, dtype=dtype)
    x[0] = top * np.sign(x[0])
    x[1] *= top / 8
    x[2] = top
    x[2, 5] = -top
    x[3] = np.abs(x[3]) * (top / 8)
    x[4] *= np.sqrt(top)
    x[5] *= np.sqrt(limits.tiny)
    x[6] = np.round(x[6] * 4) * least
    x[7] *= limits.tiny
    x[8] = 0
    x[8, 3] = least
    return x


@floats
@pytest.mark.parametrize("eps", [0, 1e-300, 1e-40, 1e-5, 1e30, 1e300])
def test_finite_rows_give_finite_results_up_to_the_largest_number(build, eps, dtype):
    x = extreme_rows(dtype)
    weight, bias = normal(1, 2, 33, dtype=dtype)
    for options in ({}, {"residual": x}, {"residual": x[::-1]}):
        out, mean, rstd = layer_norm(x, weight, bias, eps=eps, return_stats=True, **options)
        assert np.isfinite(out).all()
        assert np.isfinite(mean).all()
        assert np.isfinite(rstd).all()


@floats
@pytest.mark.parametrize("eps", [0, 1e-300, 1e-5, 1e300])
def test_rows_whose_sums_overflow_or_vanish_are_normalised_all_the_same(build, eps, dtype):
    if dtype == "float64" and not WIDE:
        pytest.skip("there is nothing wider than float64 here to compare with")
    x = extreme_rows(dtype)
    weight, bias = normal(1, 2, 33, dtype=dtype)
    for residual in (None, x, x[::-1]):
        wide = oracle_dtype(dtype)
        truth = reference.layer_norm(x, weight, bias, eps=eps, residual=residual, precision=wide)
        out = layer_norm(x, weight, bias, eps=eps, residual=residual)
        # a sum of x and residual that fits is rounded, in a subnormal's last bit at the most; those of these rows are spread
        np.testing.assert_allclose(out, truth, rtol=32 * epsilon(dtype), atol=32 * epsilon(dtype) + np.finfo(dtype).tiny)


@floats
def test_a_mean_or_deviation_beyond_the_largest_number_becomes_it(build, dtype):
    top = np.finfo(dtype).max
    x = np.full((1, 12), top)
    _, mean, _ = layer_norm(x, residual=x, return_stats=True)
    assert mean[0] == top
    _, _, rstd = layer_norm(np.ones((1, 12), dtype), eps=5e-324, return_stats=True)
    assert rstd[0] == (top if dtype == "float32" else np.float64(5e-324) ** -0.5)


@floats
def test_a_result_beyond_the_largest_number_becomes_it(build, dtype):
    top = np.finfo(dtype).max
    x = normal(0, 6, 21, dtype=dtype)
    t = layer_norm(x)
    out = layer_norm(x, np.full(21, top, dtype))
    over = np.abs(t) > 1 + 1e-6
    assert np.array_equal(out[over], np.where(t > 0, top, -top)[over])
    assert np.isfinite(out).all()
    # the sum fits where the product alone doesn't
    weight, bias = np.full(21, top, dtype), np.full(21, -top, dtype)
    np.testing.assert_allclose(layer_norm(x, weight, bias)[t > 0], np.clip(t - 1, -1, 1)[t > 0] * top, rtol=1e-4, atol=1e-5 * top)


def test_half_precision_saturates_at_its_own_largest_number():
    x = normal(0, 6, 21, dtype=np.float16)
    out = layer_norm(x, np.full(21, 60_000, np.float16))
    assert np.isfinite(out).all()
    assert out.max() == np.finfo(np.float16).max


@floats
def test_what_is_not_finite_touches_its_own_row_or_column_alone(build, dtype):
    x = normal(0, 30, 19, dtype=dtype)
    good = layer_norm(x)
    for n, value in enumerate([NAN, INF, -INF]):
        bad = x.copy()
        bad[4 + 5 * n, 18 - 7 * n] = value
        out, mean, rstd = layer_norm(bad, return_stats=True)
        other, *_ = layer_norm(x, residual=np.where(np.isfinite(bad), 0, bad).astype(dtype), return_stats=True)
        rows = np.arange(30) == 4 + 5 * n
        for found in (out, other):
            assert np.isnan(found[rows]).all()
            assert same_bits(found[~rows], good[~rows])
        assert np.array_equal(np.isnan(mean), rows)
        assert np.array_equal(np.isnan(rstd), rows)
        weight = np.ones(19, dtype)
        weight[3] = value
        out = layer_norm(x, weight)
        assert not np.isfinite(out[:, 3]).any()
        np.testing.assert_allclose(np.delete(out, 3, 1), np.delete(good, 3, 1), rtol=8 * epsilon(dtype), atol=8 * epsilon(dtype))


# --- out --------------------------------------------------------------------------------------------------------------------------


def test_out_is_written_and_returned(build):
    x = normal(0, 7, 3, 21)
    wanted = layer_norm(x)
    for out in (np.empty_like(x), np.empty((7, 3, 40), np.float32)[..., 5:26], np.empty((7, 3, 42), np.float32)[..., ::2],
                np.empty((3, 7, 21), np.float32).swapaxes(0, 1)):  # fmt: skip
        assert layer_norm(x, out=out) is out
        assert np.array_equal(out, wanted)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("width", [3, 8, 21, 64])
def test_out_may_be_x_or_residual_itself(build, width, dtype):
    x, residual = normal(0, 2, 40, width, dtype=DTYPES[dtype])
    if dtype in FLOATS:
        x[3] *= np.finfo(dtype).max / 8  # one row in wide arithmetic
    wanted, summed = layer_norm(x), layer_norm(x, residual=residual)
    for first, other, truth in ((x, None, wanted), (x, residual, summed), (residual, x, summed)):
        place = first.copy()
        assert layer_norm(place, residual=other, out=place) is place
        assert same_bits(place, truth)
        if other is not None:
            place = other.copy()
            assert same_bits(layer_norm(first, residual=place, out=place[...]), truth)


def test_out_may_be_x_with_any_strides(build):
    whole = normal(0, 20, 50)
    for view in (np.s_[:, 3:24], np.s_[::2, ::2], np.s_[::-1]):
        place = whole.copy()
        wanted = layer_norm(place[view])
        layer_norm(place[view], out=place[view])
        assert same_bits(np.ascontiguousarray(place[view]), wanted)


def test_out_may_overlap_inputs_in_no_other_way():
    memory = normal(0, 30, 16)
    with pytest.raises(InvalidInputError, match="out shares memory with x"):
        layer_norm(memory[:20], out=memory[1:21])
    with pytest.raises(InvalidInputError, match="out shares memory with residual"):
        layer_norm(memory[:20], residual=memory[1:21], out=memory[:20])
    with pytest.raises(InvalidInputError, match="out shares memory with weight"):
        layer_norm(memory[:20].copy(), memory[20], out=memory[1:21])
    with pytest.raises(InvalidInputError, match="out shares memory with bias"):
        layer_norm(memory[:20].copy(), None, memory[20], out=memory[1:21])


def test_neither_the_sum_nor_the_centred_rows_are_ever_an_array():
    x, out = normal(0, 2, 4000, 256)
    layer_norm(x, residual=x, out=out)
    tracemalloc.start()
    layer_norm(x, residual=x, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 16


# --- bad input --------------------------------------------------------------------------------------------------------------------

X = normal(0, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((None,), {}, InvalidInputError, "x must be an array, got None"),
        ((X.astype(int),), {}, UnsupportedError, "x has dtype int64"),
        ((X.astype(complex),), {}, UnsupportedError, "x has dtype complex128"),
        (([[1.0], [1.0, 2.0]],), {}, InvalidInputError, "x is no array of numbers"),
        ((np.ma.masked_array(X),), {}, InvalidInputError, "x is a masked array"),
        ((np.float32(1),), {}, DimensionMismatchError, "x must have at least one axis"),
        ((X[:, :0],), {}, InvalidInputError, r"x must have a width of at least 1, got shape \(4, 0\)"),
        ((X, np.ones(5, np.float32)), {}, DimensionMismatchError, r"weight must have an entry for each of the 6 columns of x, got shape \(5,\)"),
        ((X, np.ones((4, 6), np.float32)), {}, DimensionMismatchError, "weight must have an entry"),
        ((X, np.ones(6)), {}, UnsupportedError, "weight must have the dtype of x, float32, got float64"),
        ((X.astype(np.float16), np.ones(6)), {}, UnsupportedError, "weight must have the dtype of x, float16, or the compute dtype, float32"),
        ((X, None, np.ones(7, np.float32)), {}, DimensionMismatchError, "bias must have an entry for each of the 6 columns"),
        ((X, None, np.float32(1)), {}, DimensionMismatchError, "bias must have an entry for each of the 6 columns"),
        ((X,), {"residual": X[0]}, DimensionMismatchError, r"residual must have the shape of x, \(4, 6\), got \(6,\): np.broadcast_to"),
        ((X,), {"residual": X.astype(float)}, UnsupportedError, "residual must have the dtype of x"),
        ((X,), {"eps": -1e-9}, InvalidInputError, "eps must be a finite number of at least 0, got -1e-09"),
        ((X,), {"eps": NAN}, InvalidInputError, "eps must be a finite"),
        ((X,), {"eps": INF}, InvalidInputError, "eps must be a finite"),
        ((X,), {"eps": None}, InvalidInputError, "eps must be a finite"),
        ((X,), {"eps": "1"}, InvalidInputError, "eps must be a finite"),
        ((X,), {"eps": True}, InvalidInputError, "eps must be a finite"),
        ((X,), {"eps": [1e-5]}, InvalidInputError, "eps must be a finite"),
        ((X,), {"eps": 10**400}, InvalidInputError, "eps must be a finite"),
        ((X,), {"return_stats": 1}, InvalidInputError, "return_stats must be True or False"),
        ((X,), {"threads": 0}, InvalidInputError, "threads must be an int from 1"),
        ((X,), {"out": [[0.0]]}, InvalidInputError, "out must be a numpy array"),
        ((X,), {"out": np.empty((4, 5), np.float32)}, DimensionMismatchError, r"out must have shape \(4, 6\)"),
        ((X,), {"out": np.empty((4, 6))}, InvalidInputError, "out must have the dtype of the result, float32"),
        ((X,), {"out": np.broadcast_to(X, X.shape)}, InvalidInputError, "out must be writable"),
    ],
)
def test_bad_input_is_an_error_that_names_it(arguments, options, error, says):
    with pytest.raises(error, match=says):
        layer_norm(*arguments, **options)


@pytest.mark.parametrize("eps", [0, 1, np.float32(1e-5), np.int64(2), np.array(1e-5)])
def test_eps_may_be_any_number(eps):
    assert same_bits(layer_norm(X, eps=eps), layer_norm(X, eps=float(eps)))


# --- threads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 64, 61, 3000, 40_000])
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(build, width):
    rows = 400_000 // width + 3
    x, residual = normal(0, rows, width), normal(1, width, rows).T
    x[rows // 2] *= 1e30
    wanted = layer_norm(x, x[0], x[1], residual=residual, return_stats=True, threads=1)
    for threads in (2, 3, 7):
        found = layer_norm(x, x[0], x[1], residual=residual, return_stats=True, threads=threads)
        assert all(same_bits(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("width", [3, 8, 61, 64])
def test_a_row_is_normalised_alike_whatever_is_beside_it(build, width):
    x = normal(0, 3, 37, width)
    whole = layer_norm(x, x[0, 0])
    for index in ((0, 0), (1, 5), (2, 36)):
        assert same_bits(whole[index], layer_norm(x[index], x[0, 0]))
    assert same_bits(np.ascontiguousarray(whole[:, ::3]), layer_norm(x[:, ::3], x[0, 0]))


SETUP = """
    import os, signal, threading, time
    import numpy as np
    import ruvattn

    x = np.random.default_rng(0).standard_normal((4000, 256)).astype(np.float32)      # worth a team

    def team():
        return len(os.listdir("/proc/self/task"))
"""


def run(code, **environment):
    """Run code after SETUP in a fresh interpreter, which must end well, and return what it prints; one that hangs fails the test."""
    path = os.pathsep.join(filter(None, sys.path))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SETUP) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_team_is_started_for_large_work_only():
    code = """
        before = team()
        ruvattn.layer_norm(x[:64], threads=3)
        small = team() - before
        ruvattn.layer_norm(x, threads=3)
        print(small, team() - before)
    """
    assert run(code, OPENBLAS_NUM_THREADS="1") == "0 2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_computes_after_the_parent_has_had_a_team():
    code = """
        wanted = ruvattn.layer_norm(x, threads=2)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if np.array_equal(ruvattn.layer_norm(x, threads=2), wanted) else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), np.array_equal(ruvattn.layer_norm(x, threads=2), wanted))
    """
    assert run(code) == "0 True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_is_answered_between_batches(threads):
    """Rows in wide arithmetic take long. The signal is sent once the first is written, and its exception comes before the last is."""
    code = f"""
        class Stop(Exception):
            pass
        def stop(*_):
            raise Stop
        def watch():
            while out[0, 0] == 7:
                time.sleep(1e-3)
            os.kill(os.getpid(), signal.SIGTERM)
        out = np.full((1 << 16, 1 << 10), 7, np.float32)
        rows = np.broadcast_to(np.resize(x * np.float32(1e30), 1 << 10), out.shape)
        signal.signal(signal.SIGTERM, stop)
        threading.Thread(target=watch).start()
        try:
            ruvattn.layer_norm(rows, out=out, threads={threads})
        except Stop:
            print((out[-1] == 7).all(), np.isfinite(ruvattn.layer_norm(x)).all())
    """
    assert run(code) == "True True"


# --- builds -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDS)
@floats
def test_a_build_has_openmp_and_the_vectors_and_dtype_of_its_name(name, dtype):
    kernel = import_module(f"ruvattn.kernels.norm_{name}_{dtype}")
    assert kernel.OPENMP > 0
    assert dtype == kernel.DTYPE
    assert {"scalar": np.dtype(dtype).itemsize, "baseline": 16, "v3": 32}[name] == kernel.VECTOR_BYTES


def test_the_environment_chooses_the_build():
    code = """
        import sys
        ruvattn.layer_norm(x)
        print(*[name for name in sys.modules if name.startswith("ruvattn.kernels.norm")])
    """
    assert run(code, RUVATTN_ISA="scalar") == "ruvattn.kernels.norm_scalar_float32"


def test_the_name_is_public():
    assert ruvattn.layer_norm is normalization.layer_norm
