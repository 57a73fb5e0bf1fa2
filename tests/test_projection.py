"""The product of layers: rows times weights plus bias, in every build, against float64, and where it overflows."""


import numpy as np
import pytest
from agreement import use_build
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvattn import isa, projection, threads
from ruvattn.errors import InvalidInputError
from ruvattn.projection import MANY_ROWS, linear, linear_vjp

BUILDS = isa.supported_isas()


@pytest.fixture(params=BUILDS)
def build(request):
    with use_build(projection._kernels, request.param):
        yield request.param


def made(rows, width, columns, dtype, seed=0):
    rng = np.random.default_rng([seed, rows, width, columns])
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in ((rows, width), (width, columns), (columns,)))


def assert_accurate(found, x, weight, bias=None):
    """A sum of so many products may be off by that many roundings of the sum of their sizes."""
    wide = np.longdouble if found.dtype == np.float64 else np.float64
    x, weight = x.astype(wide), weight.astype(wide)
    exact, size = x @ weight, np.abs(x) @ np.abs(weight)
    if bias is not None:
        exact, size = exact + bias, size + np.abs(bias)
    bound = (x.shape[-1] + 2) * np.finfo(found.dtype).eps * size
    assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 2, 7, 8, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("rows", [1, MANY_ROWS - 1, MANY_ROWS, 95, 96, 97, 200])
def test_every_number_of_rows_and_columns_around_the_blocks(build, rows, columns, dtype):
    x, weight, bias = made(rows, 9, columns, dtype)
    assert_accurate(linear(x, weight, bias), x, weight, bias)
    assert_accurate(linear(x, weight), x, weight)


@pytest.mark.parametrize("width", [1, 2, 255, 256, 257, 700])
def test_every_depth_around_the_blocks(build, width):
    x, weight, bias = made(100, width, 20, "float32")
    assert_accurate(linear(x, weight, bias), x, weight, bias)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 5), max_size=3).map(tuple), st.integers(1, 70), st.integers(1, 40), st.sampled_from(["float32", "float64"]),
    st.sampled_from(["C", "F"]), st.booleans(), st.integers(1, 3),
)  # fmt: skip
def test_any_leading_axes_and_strides(lead, width, columns, dtype, order, with_bias, step):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((*lead, width * step)).astype(dtype)[..., ::step]
    weight = np.array(rng.standard_normal((width, columns)), dtype, order=order)
    bias = rng.standard_normal(columns).astype(dtype) if with_bias else None
    found = linear(x, weight, bias)
    assert found.shape == (*lead, columns)
    assert found.dtype == np.dtype(dtype)
    assert_accurate(found, x, weight, bias)


def test_weights_of_another_dtype_are_converted_and_half_precision_is_computed_in_single():
    x, weight, bias = made(50, 6, 5, "float64")
    assert linear(x.astype("float32"), weight, bias).dtype == np.float32
    assert linear(x.astype("float16"), weight, bias).dtype == np.float32
    assert linear(x, weight.astype("float32"), bias.astype("float32")).dtype == np.float64


def test_any_number_of_threads_gives_the_same_bits(build):
    x, weight, bias = made(3000, 80, 70, "float32")
    one = linear(x, weight, bias, threads=1)
    for number in (2, 3, 7):
        np.testing.assert_array_equal(linear(x, weight, bias, threads=number), one)


def test_a_row_is_the_same_whatever_rows_stand_beside_it(build):
    x, weight, bias = made(300, 33, 40, "float32")
    whole = linear(x, weight, bias)
    for first in (0, 1, 5, 100):
        np.testing.assert_array_equal(linear(x[first : first + 60], weight, bias), whole[first : first + 60])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [5, 64])
def test_products_that_overflow_end_at_the_largest_number(build, rows, dtype):
    largest = np.finfo(dtype).max
    x = np.zeros((rows, 3), dtype)
    x[1] = largest / 2
    x[2], x[3] = (largest / 2, 0, 0), (largest / 2, -largest / 2, 0)
    found = linear(x, np.array([[3, -3], [3, -3], [1, 1]], dtype))
    np.testing.assert_array_equal(found[1], [largest, -largest])
    np.testing.assert_array_equal(found[2], [largest, -largest])
    np.testing.assert_array_equal(found[3], [0, 0])  # two infinities of the fast way
    np.testing.assert_array_equal(found[4:], 0)


@pytest.mark.parametrize("rows", [5, 200])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_touch_no_others(build, rows, bad):
    x, weight, bias = made(rows, 8, 21, "float32")
    expected = linear(x, weight, bias)
    x[3, 2] = bad
    found = linear(x, weight, bias)
    assert not np.isfinite(found[3]).any()
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))


@pytest.mark.parametrize("rows", [0, 4, 40])
def test_no_rows_and_no_width(rows):
    assert linear(np.zeros((rows, 3), np.float32), np.zeros((3, 0), np.float32)).shape == (rows, 0)
    np.testing.assert_array_equal(linear(np.zeros((rows, 0), np.float32), np.zeros((0, 2), np.float32), np.ones(2, np.float32)), np.ones((rows, 2)))


def test_inputs_are_not_written():
    x, weight, bias = made(100, 8, 21, "float32")
    kept = [array.copy() for array in (x, weight, bias)]
    for array in (x, weight, bias):
        array.flags.writeable = False
    linear(x, weight, bias)
    for array, before in zip((x, weight, bias), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_threads_of_a_call_hold_for_what_it_calls_in_this_thread():
    before = threads.resolve_threads(None)
    with threads.threads_of_call(before + 3):
        assert threads.resolve_threads(None) == before + 3
        assert threads.resolve_threads(1) == 1
        with threads.threads_of_call(None):
            assert threads.resolve_threads(None) == before + 3
    assert threads.resolve_threads(None) == before
    with pytest.raises(InvalidInputError, match="threads"), threads.threads_of_call(0):
        pass


# --- gradients --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "width", "columns"), [(1, 1, 1), (5, 3, 2), (MANY_ROWS, 40, 33), (200, 33, 40), (300, MANY_ROWS, 7)])
def test_gradients_of_a_product_are_products(build, rows, width, columns, dtype):
    x, weight, _ = made(rows, width, columns, dtype)
    dout = np.random.default_rng(1).standard_normal((rows, columns)).astype(dtype)
    dx, dweight, dbias = linear_vjp(dout, x, weight, bias=True)
    assert {array.dtype.name for array in (dx, dweight, dbias)} == {dtype}
    assert_accurate(dx, dout, weight.T)
    assert_accurate(dweight, x.T, dout)
    assert_accurate(dbias[None], np.ones((1, rows), dtype), dout)


def test_gradients_have_the_shapes_of_what_they_are_of():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((5, 6))
    dx, dweight, dbias = linear_vjp(rng.standard_normal((2, 3, 4, 6)), x, weight)
    assert (dx.shape, dweight.shape, dbias) == (x.shape, weight.shape, None)


@pytest.mark.parametrize("lead", [(0,), (2, 0)])
def test_no_rows_have_gradients_of_zero(lead):
    dx, dweight, dbias = linear_vjp(np.ones((*lead, 6)), np.ones((*lead, 5)), np.ones((5, 6)), bias=True)
    assert dx.shape == (*lead, 5)
    assert not dweight.any()
    assert not dbias.any()


def test_gradients_of_narrow_rows_are_computed_in_float32():
    x, weight, _ = made(40, 8, 6, "float16")
    dout = np.ones((40, 6), np.float16)
    found = linear_vjp(dout, x, weight.astype(np.float64), bias=True)
    expected = linear_vjp(dout.astype(np.float32), x.astype(np.float32), weight.astype(np.float32), bias=True)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_gradients_of_any_strides():
    rng = np.random.default_rng(0)
    x, dout, weight = rng.standard_normal((50, 80))[:, ::2], rng.standard_normal((36, 50)).T, rng.standard_normal((36, 40)).T
    for one, other in zip(linear_vjp(dout, x, weight), linear_vjp(dout.copy(), x.copy(), weight.copy()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [10, 100])
def test_a_row_that_is_no_number_has_no_part_where_its_gradient_is_zero(rows):
    x, weight, _ = made(rows, 40, 6, "float32")
    dout = np.ones((rows, 6), np.float32)
    dout[3] = dout[5] = 0
    _, expected, _ = linear_vjp(dout, x, weight)
    x[3], x[5, 2] = np.nan, np.inf
    _, found, _ = linear_vjp(dout, x, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_row_that_is_no_number_shows_where_it_has_a_gradient():
    x, weight, _ = made(50, 4, 6, "float32")
    x[7, 2] = np.nan
    _, dweight, _ = linear_vjp(np.ones((50, 6), np.float32), x, weight)
    assert np.isnan(dweight[2]).all()
    assert np.isfinite(np.delete(dweight, 2, 0)).all()


def test_gradients_that_are_too_large_are_the_largest_number():
    largest = np.finfo(np.float32).max
    x = np.full((64, 4), 1e30, np.float32)
    dx, dweight, dbias = linear_vjp(np.full((64, 3), 1e38, np.float32), x, np.full((4, 3), 1e5, np.float32), bias=True)
    assert (dx == largest).all()
    assert (dweight == largest).all()
    assert (dbias == largest).all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_gradients_are_the_same_bits_for_any_number_of_threads(build, count):
    x, weight, _ = made(700, 130, 90, "float32")
    dout = np.random.default_rng(2).standard_normal((700, 90)).astype(np.float32)
    for one, other in zip(linear_vjp(dout, x, weight, threads=1), linear_vjp(dout, x, weight, threads=count), strict=True):
        np.testing.assert_array_equal(one, other)
