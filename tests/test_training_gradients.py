"""Clipping, adding and accumulating gradients."""

import math

import ml_dtypes
import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.training import GradientAccumulator, add_gradients, clip_gradients, gradient_norm


def gradients(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {"a": rng.standard_normal((3, 4)).astype(dtype), "b": rng.standard_normal(5).astype(dtype), "c": np.array(2.0, dtype)}


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_norm_is_that_of_all_entries_together():
    g = gradients()
    assert gradient_norm(g) == pytest.approx(np.linalg.norm(np.concatenate([array.ravel() for array in g.values()])), rel=1e-14)


@pytest.mark.parametrize("size", [1e-300, 1e300, 5e-324])
def test_the_norm_neither_overflows_nor_vanishes(size):
    assert gradient_norm({"a": np.array([3 * size, 4 * size])}) == pytest.approx(5 * size)


def test_no_gradients_and_empty_ones_have_the_norm_0():
    assert gradient_norm({}) == gradient_norm({"a": np.zeros((0, 3))}) == gradient_norm({"a": np.zeros(2)}) == 0


def test_clipping_scales_all_by_the_same_factor_and_returns_the_norm_before():
    g = gradients()
    before, norm = copies(g), gradient_norm(g)
    assert clip_gradients(g, 0.5) == norm
    for name, array in before.items():
        np.testing.assert_allclose(g[name], array * (0.5 / norm), rtol=1e-14)


def test_gradients_within_the_norm_are_left_to_the_bit():
    g = gradients()
    clip_gradients(g, 100.0)
    assert_same(g, gradients())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16], ids=["float16", "float32", "bfloat16"])
def test_narrow_gradients_are_clipped_in_their_dtype(dtype):
    g = gradients(dtype=dtype)
    clip_gradients(g, 1.0)
    assert {array.dtype for array in g.values()} == {np.dtype(dtype)}
    assert gradient_norm(g) == pytest.approx(1, rel=float(ml_dtypes.finfo(dtype).eps))


def test_a_huge_gradient_is_what_clipping_is_for():
    g = {"a": np.array([3e37, 4e37], np.float32)}
    assert clip_gradients(g, 1e-3) == pytest.approx(5e37)
    np.testing.assert_allclose(g["a"], [6e-4, 8e-4], rtol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_nothing_has_changed(value):
    g = gradients()
    g["b"][2] = value
    before = copies(g)
    with pytest.raises(InvalidInputError, match=r"gradient of 'b' must be finite, got -?(nan|inf) at index \(2,\)"):
        clip_gradients(g, 0.1)
    assert_same(g, before)


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf, None, "1"])
def test_a_norm_that_is_not_positive_is_an_error(limit):
    with pytest.raises(InvalidInputError, match="max_norm"):
        clip_gradients(gradients(), limit)


def test_gradients_whose_norm_is_beyond_all_numbers_are_clipped_too():
    g = {"a": np.full(4, 1e308)}
    clip_gradients(g, 1.0)
    np.testing.assert_allclose(g["a"], 0.5, rtol=1e-15)


def test_a_read_only_gradient_is_named_and_nothing_has_changed():
    g = gradients()
    g["c"].flags.writeable = False
    with pytest.raises(InvalidInputError, match="gradient 'c' is read-only"):
        clip_gradients(g, 0.1)
    assert_same(g, gradients())


def test_gradients_are_added_in_place():
    total, g = gradients(), gradients(1)
    a = total["a"]
    add_gradients(total, {"a": g["a"]}, scale=2.0)
    np.testing.assert_array_equal(a, gradients()["a"] + 2 * g["a"])
    np.testing.assert_array_equal(total["b"], gradients()["b"])


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"a": np.zeros((3, 4)), "d": np.zeros(1)}, InvalidInputError, "'d'"),
        ({"a": np.ones((3, 4)), "b": np.zeros(6)}, DimensionMismatchError, "'b' must have the shape"),
        ({"a": np.ones((3, 4)), "b": np.full(5, math.nan)}, InvalidInputError, "'b' must be finite"),
    ],
    ids=["unknown", "shape", "NaN"],
)
def test_gradients_that_cannot_be_added_are_named_and_nothing_has_changed(other, error, message):
    total = gradients()
    with pytest.raises(error, match=message):
        add_gradients(total, other)
    assert_same(total, gradients())


# --- accumulation -----------------------------------------------------------------------------------------------------------------


def test_the_mean_is_weighted():
    accumulator = GradientAccumulator()
    accumulator.add(gradients(0), weight=3)
    accumulator.add(gradients(1), weight=1)
    assert accumulator.count == 2
    for name, array in accumulator.mean().items():
        np.testing.assert_allclose(array, (3 * gradients(0)[name] + gradients(1)[name]) / 4, rtol=1e-13, atol=1e-15)


def test_the_mean_of_one_is_it_to_the_bit():
    accumulator = GradientAccumulator()
    accumulator.add(gradients())
    assert_same(accumulator.mean(), gradients())


def test_the_smallest_number_stays_in_the_mean():
    accumulator = GradientAccumulator()
    accumulator.add({"a": np.array([5e-324])}, weight=32)
    assert accumulator.mean()["a"] == 5e-324


def test_after_reset_it_starts_again():
    accumulator = GradientAccumulator()
    accumulator.add(gradients(0))
    accumulator.reset()
    accumulator.add(gradients(1))
    assert_same(accumulator.mean(), gradients(1))


def test_narrow_gradients_are_summed_in_float32():
    accumulator = GradientAccumulator()
    for _ in range(3000):
        accumulator.add({"a": np.ones(1, np.float16)})
    assert accumulator.mean()["a"] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_of_the_largest_numbers_is_finite(dtype):
    largest, accumulator = np.finfo(dtype).max, GradientAccumulator()
    for sign in (1, 1, -1):
        accumulator.add({"a": np.array([largest, sign * largest, 1.0], dtype)}, weight=7)
    np.testing.assert_allclose(accumulator.mean()["a"], np.array([largest, largest / 3, 1.0], dtype), rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("weights", [(1e308, 1e308), (1e-300, 1e-300), (1e-30, 1e-30)])
def test_weights_of_any_size_give_a_mean(weights):
    accumulator = GradientAccumulator()
    for weight, value in zip(weights, (1.0, 3.0), strict=True):
        accumulator.add({"a": np.array([value], np.float32)}, weight)
    np.testing.assert_allclose(accumulator.mean()["a"], 2.0, rtol=1e-6)


def test_a_weight_beyond_all_others_makes_them_vanish():
    accumulator = GradientAccumulator()
    for weight, value in ((1e-300, 5.0), (1e300, 3.0), (1e-300, 5.0)):
        accumulator.add({"a": np.array([value], np.float32)}, weight)
    assert accumulator.mean()["a"] == 3


def test_the_mean_of_zeros_is_zero():
    accumulator = GradientAccumulator()
    for weight in (1.0, 2.0, 1e300):
        accumulator.add({"a": np.zeros(3)}, weight)
    assert not accumulator.mean()["a"].any()


@pytest.mark.parametrize("reset", [False, True])
def test_a_mean_of_nothing_is_an_error(reset):
    accumulator = GradientAccumulator()
    if reset:
        accumulator.add(gradients())
        accumulator.reset()
    with pytest.raises(InvalidInputError, match="nothing has been added"):
        accumulator.mean()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda g: g.pop("b"), InvalidInputError, "lack parameter 'b'"),
        (lambda g: g.update(d=np.zeros(1)), InvalidInputError, "'d'"),
        (lambda g: g.update(b=np.zeros(6)), DimensionMismatchError, "'b'"),
        (lambda g: g.update(b=np.full(5, math.nan)), InvalidInputError, "'b' must be finite"),
    ],
    ids=["missing", "unknown", "shape", "NaN"],
)
def test_gradients_that_do_not_fit_are_named_and_nothing_has_been_added(change, error, message):
    accumulator, other = GradientAccumulator(), gradients(1)
    accumulator.add(gradients())
    change(other)
    with pytest.raises(error, match=message):
        accumulator.add(other)
    assert accumulator.count == 1
    assert_same(accumulator.mean(), gradients())


@pytest.mark.parametrize("weight", [0, -1, math.nan])
def test_a_weight_that_is_not_positive_is_an_error(weight):
    with pytest.raises(InvalidInputError, match="weight"):
        GradientAccumulator().add(gradients(), weight)
