"""Gradients of layer normalisation against the float64 oracle and finite differences: any shape, strides and dtype, in every build.

Each entry of dx is a difference of numbers of the size of g = dout · weight, times rstd: it is known to some eps · rstd · max|g| · (1 + |x̂|). A sum
over rows is known to some eps times the sum of the magnitudes.
"""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from agreement import DTYPES, FLOATS, compute_dtype, epsilon, oracle_dtype, same_bits, use_build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import isa, layer_norm, layer_norm_backward, normalization, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

INF, NAN = np.inf, np.nan
floats = pytest.mark.parametrize("dtype", list(FLOATS))


@pytest.fixture(params=isa.supported_isas())
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


def assert_gradients(dout, x, weight=None, residual=None, eps=1e-5, roundings=16, **options):
    """All gradients agree with the oracle's of the same numbers."""
    _, mean, rstd = layer_norm(x, weight, residual=residual, eps=eps, return_stats=True)
    found = layer_norm_backward(dout, x, mean, rstd, weight, residual=residual, **options)
    wide, compute = oracle_dtype(x.dtype), compute_dtype(x.dtype)
    _, mean, rstd = reference.layer_norm(x, residual=residual, eps=eps, return_stats=True, precision=wide)
    expected = reference.layer_norm_backward(dout, x, mean, rstd, weight, residual=residual, precision=wide)
    unit = roundings * epsilon(compute)
    dout, total = dout.astype(wide), x.astype(wide) + (0 if residual is None else residual.astype(wide))
    upstream = dout if weight is None else dout * weight.astype(wide)
    # what the mean and a sum of x and residual are rounded by is in x̂, times rstd
    x_hat = np.abs(total - mean[..., None]) * rstd[..., None] + (0 if residual is None else np.abs(residual.astype(wide)) * rstd[..., None])
    size = (1 + x_hat) * (1 + x_hat.max(-1, keepdims=True, initial=0)) * np.abs(upstream).max(-1, keepdims=True, initial=0) * rstd[..., None]
    tolerance = unit * size + (epsilon(x.dtype) * np.abs(expected[0]) + np.finfo(np.float16).smallest_subnormal if x.dtype.itemsize == 2 else 0)
    assert (found[0].dtype, found[0].shape) == (x.dtype.newbyteorder("="), x.shape)
    assert (np.abs(found[0].astype(wide) - expected[0]) <= tolerance).all()
    if weight is None:
        assert found[1:] == (None, None)
        return
    rows = tuple(range(x.ndim - 1))
    for got, wanted, size in zip(found[1:], expected[1:], ((np.abs(dout) * (1 + x_hat)).sum(rows), np.abs(dout).sum(rows)), strict=True):
        assert (got.dtype, got.shape) == (compute, x.shape[-1:])
        assert (np.abs(got - wanted) <= unit * size).all()


# --- agreement ----------------------------------------------------------------------------------------------------------------------

VIEWS = {
    "as it is": lambda x: x,
    "rows backwards": lambda x: x[..., ::-1, :] if x.ndim > 1 else x,
    "columns backwards": lambda x: x[..., ::-1],
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "part of wider rows": lambda x: np.concatenate([x, x, x], axis=-1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "Fortran order": np.asfortranarray,
    "one row for all": lambda x: np.broadcast_to(x.reshape(-1, x.shape[-1])[:1].reshape(*[1] * (x.ndim - 1), -1), x.shape) if x.size else x,
}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lead=st.lists(st.integers(0, 4), max_size=3),
    width=st.integers(1, 70),
    dtype=st.sampled_from(sorted(DTYPES)),
    have=st.tuples(st.booleans(), st.booleans()),
    views=st.tuples(*[st.sampled_from(sorted(VIEWS))] * 3),
    eps=st.sampled_from([1e-5, 0.5, 3]),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_strides_agree_with_the_oracle(build, lead, width, dtype, have, views, eps, seed):
    dout, x, residual = (VIEWS[view](normal(seed + n, *lead, width, dtype=DTYPES[dtype])) for n, view in enumerate(views))
    weight = normal(seed, width, dtype=DTYPES[dtype])
    assert_gradients(dout, x, weight if have[0] else None, residual if have[1] else None, eps)


@floats
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 1023, 1024, 1025, 1057, 5000])
def test_every_width_around_vectors_and_pieces(build, width, dtype):
    x, dout = normal(width, 2, 11, width, dtype=dtype)
    weight = normal(1, width, dtype=dtype)
    assert_gradients(dout, x, weight, roundings=64)
    assert_gradients(dout, x, None, x[::-1], roundings=64)


@pytest.mark.parametrize("width", [1, 2, 5, 40])
@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_are_those_of_finite_differences(width, weighted):
    x, residual, dout = normal(2, 3, 3, width, dtype=np.float64)
    weight, bias = normal(3, 2, width, dtype=np.float64)
    weight = weight if weighted else None
    given = {"x": x, "residual": residual, "bias": bias} | ({"weight": weight} if weighted else {})

    def loss(**changed):
        now = given | changed
        return float((dout * reference.layer_norm(now["x"], now.get("weight"), now["bias"], eps=0.1, residual=now["residual"])).sum())

    _, mean, rstd = layer_norm(x, weight, bias, eps=0.1, residual=residual, return_stats=True)
    dx, dweight, dbias = layer_norm_backward(dout, x, mean, rstd, weight, residual=residual)
    gradients = {"x": dx, "residual": dx} | ({"weight": dweight, "bias": dbias} if weighted else {})
    h = 1e-5
    for name, gradient in gradients.items():
        for index in np.ndindex(gradient.shape):
            step = np.zeros(gradient.shape)
            step[index] = h
            slope = (loss(**{name: given[name] + step}) - loss(**{name: given[name] - step})) / (2 * h)
            assert abs(gradient[index] - slope) <= 1e-8 * max(1, np.abs(gradient).max())


def test_a_single_vector_is_a_single_row(build):
    x, dout, weight = normal(0, 3, 24)
    _, mean, rstd = layer_norm(x, weight, return_stats=True)
    found = layer_norm_backward(dout, x, mean, rstd, weight)
    rows = layer_norm_backward(dout[None], x[None], mean[None], rstd[None], weight)
    assert same_bits(found[0], rows[0][0])
    assert all(same_bits(a, b) for a, b in zip(found[1:], rows[1:], strict=True))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0, 4, 5)])
def test_an_empty_batch_gives_no_rows_and_sums_of_zero(build, shape):
    x, none = np.zeros(shape, np.float32), np.zeros(shape[:-1], np.float32)
    dx, dweight, dbias = layer_norm_backward(x, x, none, none, np.ones(5, np.float32))
    assert dx.shape == shape
    assert np.array_equal([dweight, dbias], np.zeros((2, 5)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_and_weights_may_have_the_dtype_of_x_or_the_compute_dtype(dtype):
    x, dout = normal(0, 2, 5, 16, dtype=DTYPES[dtype])
    weight = normal(1, 16, dtype=DTYPES[dtype])
    _, mean, rstd = layer_norm(x, weight, residual=x, return_stats=True)
    wide = np.float32
    narrow = layer_norm_backward(dout, x, mean, rstd, weight, residual=x)
    mixed = layer_norm_backward(dout.astype(wide), x, mean, rstd, weight.astype(wide), residual=x.astype(wide))
    assert all(same_bits(a, b) for a, b in zip(narrow, mixed, strict=True))


def test_inputs_are_not_written(build):
    arrays = [normal(0, 9, 33), normal(1, 9, 33), normal(2, 9), normal(3, 9), normal(4, 33), normal(5, 9, 33)]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    layer_norm_backward(*arrays[:5], residual=arrays[5])
    assert all(same_bits(a, b) for a, b in zip(arrays, before, strict=True))


# --- how exact ----------------------------------------------------------------------------------------------------------------------


@floats
def test_a_mean_far_from_zero_costs_no_digits(build, dtype):
    """The mean that is handed over is rounded, by far more than eps times the deviation."""
    x = (normal(0, 40, 300, dtype=np.float64) + 1e4 * (1 + np.arange(40))[:, None]).astype(dtype)
    dout, weight = normal(1, 40, 300, dtype=dtype), normal(2, 300, dtype=dtype)
    assert_gradients(dout, x, weight)


@floats
def test_sums_over_many_rows_are_not_made_in_one_go(build, dtype):
    dout = np.full((200_000, 5), 0.1, dtype)
    x = normal(0, *dout.shape, dtype=dtype)
    _, mean, rstd = layer_norm(x, return_stats=True)
    one_by_one = np.cumsum(dout[:, 0], dtype=dtype)[-1]
    exact = float(dout[0, 0]) * len(dout)
    dbias = layer_norm_backward(dout, x, mean, rstd, np.ones(5, dtype))[2]
    assert abs(one_by_one - exact) > 1000 * epsilon(dtype) * exact
    assert (np.abs(dbias - exact) <= 32 * epsilon(dtype) * exact).all()


@floats
def test_a_row_of_equal_numbers_without_eps_gets_zeros(build, dtype):
    x, dout = np.full((3, 11), 0.1, dtype), normal(0, 3, 11, dtype=dtype)
    _, mean, rstd = layer_norm(x, eps=0, return_stats=True)
    dx, dweight, dbias = layer_norm_backward(dout, x, mean, rstd, np.ones(11, dtype))
    assert not dx.any()
    assert not dweight.any()
    assert np.allclose(dbias, dout.sum(0))


# --- the ends of the range ----------------------------------------------------------------------------------------------------------


def extreme_rows(dtype):
    """Rows whose sums, differences or both overflow or vanish in a dtype."""
    limits = np.finfo(dtype)
    x = normal(0, 8, 33, dtype=dtype)
    x[0] = limits.max * np.sign(x[0])
    x[1] *= limits.max / 8
    x[2] = limits.max
    x[2, 5] = -limits.max
    x[3] *= np.sqrt(limits.max)
    x[4] *= np.sqrt(limits.tiny)
    x[5] *= limits.tiny
    x[6] = 0
    x[6, 3] = limits.smallest_subnormal
    return x


@floats
@pytest.mark.parametrize("eps", [0, 1e-40, 1e-5, 1e30])
@pytest.mark.parametrize("size", [1, 1e-30, 1e30, "largest"])
def test_finite_input_gives_finite_gradients_up_to_the_largest_number(build, size, eps, dtype):
    x = extreme_rows(dtype)
    top = np.finfo(dtype).max
    dout = np.sign(normal(1, 8, 33, dtype=dtype)) * top if size == "largest" else normal(1, 8, 33, dtype=dtype) * dtype_number(dtype, size)
    weight = normal(2, 33, dtype=dtype)
    for residual in (None, x, x[::-1]):
        _, mean, rstd = layer_norm(x, weight, eps=eps, residual=residual, return_stats=True)
        found = layer_norm_backward(dout, x, mean, rstd, weight, residual=residual)
        assert all(np.isfinite(one).all() for one in found)


def dtype_number(dtype, number):
    return np.dtype(dtype).type(number)


@floats
def test_rows_that_overflow_have_the_gradients_of_wider_arithmetic(build, dtype):
    top = np.finfo(dtype).max
    x, dout = normal(0, 2, 6, 21, dtype=dtype)
    x[:3] *= top / 8
    x[3:] *= 1e-3
    dout[3:] = np.clip(dout[3:], -1, 1) * (top / 1e3)
    weight = normal(2, 21, dtype=dtype)
    _, mean, rstd = layer_norm(x, weight, eps=0, return_stats=True)
    dx, dweight, dbias = layer_norm_backward(dout, x, mean, rstd, weight)
    if oracle_dtype(dtype) is np.longdouble and np.finfo(np.longdouble).maxexp == np.finfo(np.float64).maxexp:
        pytest.skip("there is nothing wider than float64 here to compare with")
    wide = oracle_dtype(dtype)
    _, mean, rstd = reference.layer_norm(x, eps=0, return_stats=True, precision=wide)
    expected = reference.layer_norm_backward(dout, x, mean, rstd, weight, precision=wide)
    rtol = 64 * epsilon(dtype)
    for row in range(6):
        allowed = rtol * np.abs(expected[0][row]).max()
        assert (np.abs(dx[row] - np.clip(expected[0][row], -top, top)) <= allowed).all()
    for got, wanted in ((dweight, expected[1]), (dbias, expected[2])):
        assert (np.abs(got - np.clip(wanted, -top, top)) <= rtol * np.abs(wanted).max()).all()


@floats
def test_what_is_not_finite_touches_its_own_row_and_the_sums_alone(build, dtype):
    x, dout, residual = normal(0, 3, 30, 19, dtype=dtype)
    weight = normal(1, 19, dtype=dtype)
    _, mean, rstd = layer_norm(x, weight, residual=residual, return_stats=True)
    good = layer_norm_backward(dout, x, mean, rstd, weight, residual=residual)
    for value in (NAN, INF, -INF):
        for which in ("dout", "x", "residual"):
            arrays = {"dout": dout.copy(), "x": x.copy(), "residual": residual.copy()}
            arrays[which][7, 11] = value
            dx, dweight, dbias = layer_norm_backward(arrays["dout"], arrays["x"], mean, rstd, weight, residual=arrays["residual"])
            assert np.isnan(dx[7]).all()
            assert same_bits(np.delete(dx, 7, 0), np.delete(good[0], 7, 0))
            if which == "dout":
                assert not np.isfinite(dbias[11])
                assert same_bits(np.delete(dbias, 11), np.delete(good[2], 11))
                assert not np.isfinite(dweight[11])
            else:
                assert same_bits(dbias, good[2])
                assert not np.isfinite(dweight).any()


def test_half_precision_saturates_at_its_own_largest_number():
    x = normal(0, 6, 21, dtype=np.float16)
    _, mean, rstd = layer_norm(x, return_stats=True)
    dx, _, _ = layer_norm_backward(np.where(x > 0, 60_000, -60_000).astype(np.float16), x, mean, rstd * 10)
    assert np.isfinite(dx).all()
    assert dx.max() == np.finfo(np.float16).max


# --- threads and memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 64, 61, 3000, 40_000])
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(build, width):
    rows = 400_000 // width + 3
    x, dout, residual = normal(0, rows, width), normal(1, rows, width), normal(2, width, rows).T
    x[rows // 2] *= 1e30
    _, mean, rstd = layer_norm(x, residual=residual, return_stats=True)
    wanted = layer_norm_backward(dout, x, mean, rstd, x[0], residual=residual, threads=1)
    for threads in (2, 3, 7):
        found = layer_norm_backward(dout, x, mean, rstd, x[0], residual=residual, threads=threads)
        assert all(same_bits(a, b) for a, b in zip(found, wanted, strict=True))


def test_nothing_of_the_size_of_x_is_made_but_dx():
    x, dout = normal(0, 2, 8000, 256)
    weight = x[0]
    _, mean, rstd = layer_norm(x, return_stats=True)
    layer_norm_backward(dout, x, mean, rstd, weight, residual=x)
    tracemalloc.start()
    dx, *_ = layer_norm_backward(dout, x, mean, rstd, weight, residual=x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < dx.nbytes * 1.1


# --- bad input ----------------------------------------------------------------------------------------------------------------------

X = normal(0, 4, 6)
ROWS = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((X, None, ROWS, ROWS), {}, InvalidInputError, "x must be an array, got None"),
        ((None, X, ROWS, ROWS), {}, InvalidInputError, "dout must be an array, got None"),
        ((X, X[:, :0], ROWS, ROWS), {}, InvalidInputError, "x must have a width of at least 1"),
        ((X[:3], X, ROWS, ROWS), {}, DimensionMismatchError, r"dout must have the shape of x, \(4, 6\), got \(3, 6\)"),
        ((X.astype(float), X, ROWS, ROWS), {}, UnsupportedError, "dout must have the dtype of x, float32, got float64"),
        ((X.astype(int), X, ROWS, ROWS), {}, UnsupportedError, "dout has dtype int64"),
        ((X, X, ROWS[:3], ROWS), {}, DimensionMismatchError, r"mean must have a number for each row of x, shape \(4,\), got \(3,\)"),
        ((X, X, ROWS, ROWS[:, None]), {}, DimensionMismatchError, "rstd must have a number for each row"),
        ((X, X, ROWS, ROWS.astype(float)), {}, UnsupportedError, "rstd must have the compute dtype, float32, got float64: pass what layer_norm"),
        ((X, X, None, ROWS), {}, InvalidInputError, "mean must be an array, got None"),
        ((X.astype(np.float16), X.astype(np.float16), ROWS.astype(np.float16), ROWS), {}, UnsupportedError, "mean must have the compute dtype"),
        ((X, X, ROWS, ROWS, np.ones(5, np.float32)), {}, DimensionMismatchError, "weight must have an entry for each of the 6 columns"),
        ((X, X, ROWS, ROWS, np.ones(6)), {}, UnsupportedError, "weight must have the dtype of x"),
        ((X, X, ROWS, ROWS), {"residual": X[0]}, DimensionMismatchError, "residual must have the shape of x"),
        ((X, X, ROWS, ROWS), {"threads": 0}, InvalidInputError, "threads must be an int from 1"),
    ],
)
def test_bad_input_is_an_error_that_names_it(arguments, options, error, says):
    with pytest.raises(error, match=says):
        layer_norm_backward(*arguments, **options)


def test_the_name_is_public():
    assert ruvattn.layer_norm_backward is normalization.layer_norm_backward
