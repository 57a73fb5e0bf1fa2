"""Sums, means and maxima over edges: against plain loops, at the lengths where rows are cut, beyond the range of the dtype, and what they refuse."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvattn import Adjacency, isa
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph.segments import segment_max, segment_mean, segment_sum

LINEAR = {"sum": segment_sum, "mean": segment_mean}
linear = pytest.mark.parametrize("how", list(LINEAR))
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def drawn(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([4, seed, *shape]).standard_normal(shape).astype(dtype)


def adjacency_of(degrees, keys, seed=0):
    indptr = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    return Adjacency(indptr, np.random.default_rng(seed).integers(0, keys, indptr[-1]), keys)


# the lengths around which a row is cut into pieces, beside short, empty and very long ones, in the middle and at the end
DEGREES = np.concatenate([np.arange(40), [2043, 2044, 2045, 2048, 0, 9001, 1, 0, 4096, 2044], np.arange(40)[::-1], [5000]])
KEYS = 50


def by_loops(how, x, adjacency, weight=None):
    """The definition, row by row and wider than float64; and the edges that the largest are of."""
    x = x.astype(np.longdouble)
    out = np.zeros((*x.shape[:-2], adjacency.num_rows, x.shape[-1]))
    arg = np.full(out.shape, -1)
    for row in range(adjacency.num_rows):
        first, stop = adjacency.indptr[row : row + 2]
        if first == stop:
            continue
        gathered = x[..., adjacency.indices[first:stop], :]
        if how == "max":
            out[..., row, :] = gathered.max(-2)
            arg[..., row, :] = first + gathered.argmax(-2)
            continue
        shares = np.ones(stop - first) if weight is None else weight[first:stop].astype(np.longdouble)
        total = (gathered * shares[:, None]).sum(-2)
        out[..., row, :] = total / shares.sum() if how == "mean" else total
    return out, arg


def assert_sums_are_close(how, x, adjacency, weight=None):
    """Within a few roundings of the sum of what is added without its signs: rows are added in pieces, not one by one."""
    found = LINEAR[how](x, adjacency, edge_weight=weight)
    size = by_loops(how, np.abs(x), adjacency, weight)[0]
    assert found.dtype == x.dtype
    np.testing.assert_array_less(np.abs(found - by_loops(how, x, adjacency, weight)[0]), 4 * np.finfo(x.dtype).eps * size + np.finfo(x.dtype).tiny)


@linear
@dtypes
@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 9, 16, 33, 64, 75])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_and_means_are_those_of_the_rows_listed(how, dtype, width, weighted):
    adjacency = adjacency_of(DEGREES, KEYS)
    x = drawn(2, KEYS, width, dtype=dtype)
    weight = np.random.default_rng(1).random(adjacency.num_edges).astype(dtype) if weighted else None
    assert_sums_are_close(how, x, adjacency, weight)


@dtypes
@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 9, 16, 33, 64, 75])
def test_the_largest_and_its_edge_are_those_of_the_rows_listed(dtype, width):
    """Of numbers with many ties, of which the first counts."""
    adjacency = adjacency_of(DEGREES, KEYS)
    x = np.round(2 * drawn(2, KEYS, width, dtype=dtype))
    found, arg = segment_max(x, adjacency, return_arg=True)
    expected, expected_arg = by_loops("max", x, adjacency)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(arg, expected_arg)
    np.testing.assert_array_equal(segment_max(x, adjacency), expected)


@given(
    degrees=st.lists(st.integers(0, 9), max_size=20), width=st.integers(1, 12), lead=st.sampled_from([(), (1,), (2, 3)]),
    how=st.sampled_from(["sum", "mean", "max"]), dtype=st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_small_structures_of_any_shape(degrees, width, lead, how, dtype):
    adjacency = adjacency_of(degrees, 6)
    x = drawn(*lead, 6, width, dtype=dtype)
    found = segment_max(x, adjacency) if how == "max" else LINEAR[how](x, adjacency)
    np.testing.assert_allclose(found, by_loops(how, x, adjacency)[0], rtol=1e-5 if dtype == np.float32 else 1e-13, atol=20 * np.finfo(dtype).eps)


def test_rows_without_edges_are_zero():
    adjacency = adjacency_of([0, 2, 0], 3)
    x = -1 - np.abs(drawn(3, 5))
    for found in (segment_sum(x, adjacency), segment_mean(x, adjacency), segment_max(x, adjacency)):
        assert not found[[0, 2]].any()
        assert (found[1] < 0).all()


def test_nothing_at_all_is_fine():
    for adjacency, x in ((adjacency_of([], 4), drawn(4, 3)), (adjacency_of([0, 0], 0), drawn(0, 3)), (adjacency_of([2], 4), drawn(4, 0))):
        for found in (segment_sum(x, adjacency), segment_mean(x, adjacency), *segment_max(x, adjacency, return_arg=True)):
            assert found.shape == (adjacency.num_rows, x.shape[1])
            assert not found[found > 0].any()


def test_means_whose_weights_add_up_to_nothing_are_zero():
    adjacency = Adjacency([0, 2, 4], [0, 1, 0, 1], 2)
    found = segment_mean(drawn(2, 9), adjacency, edge_weight=[0.0, 0.0, 0.0, 2.0])
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], drawn(2, 9)[1])


def test_weights_below_zero_are_factors():
    adjacency = Adjacency([0, 2], [0, 1], 2)
    np.testing.assert_array_equal(segment_sum(np.eye(2), adjacency, edge_weight=[-1, 2]), [[-1, 2]])


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_sum_of_a_million_rows_in_float32_is_accurate():
    """Added one by one it would be off by 1e-3 and more; by pieces, by what rounding the terms costs."""
    count = 1 << 20
    x = np.random.default_rng(0).random((1000, 3)).astype(np.float32)
    adjacency = Adjacency([0, count], np.arange(count) % 1000, 1000)
    expected = x[np.arange(count) % 1000].astype(float).sum(0)
    np.testing.assert_allclose(segment_sum(x, adjacency)[0], expected, rtol=2e-5)


@pytest.mark.parametrize("width", [1, 9])
def test_finite_numbers_whose_sum_overflows_on_the_way_have_a_finite_one(width):
    x = np.repeat(np.array([[3e38], [-3e38]], np.float32), width, 1)
    adjacency = Adjacency([0, 4, 6, 3006], np.concatenate([[0, 0, 1, 1], [0, 0], np.zeros(3000, int)]), 2)
    np.testing.assert_allclose(segment_mean(x, adjacency), np.repeat([[0.0], [3e38], [3e38]], width, 1), rtol=1e-6)
    largest = float(np.finfo(np.float32).max)
    np.testing.assert_allclose(segment_sum(x, adjacency), np.repeat([[0.0], [largest], [largest]], width, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("width", [3, 16])
def test_what_is_not_finite_touches_the_rows_that_list_it(value, width):
    adjacency = adjacency_of(DEGREES, KEYS)
    x = drawn(KEYS, width)
    expected = [f(x, adjacency) for f in (segment_sum, segment_mean, segment_max)]
    x[7, 1] = value
    seen = np.array([7 in adjacency.indices[a:b] for a, b in zip(adjacency.indptr, adjacency.indptr[1:], strict=False)])
    for found, before, f in zip((f(x, adjacency) for f in (segment_sum, segment_mean, segment_max)), expected, ["sum", "mean", "max"], strict=True):
        np.testing.assert_array_equal(np.delete(found, 1, 1), np.delete(before, 1, 1))
        np.testing.assert_array_equal(found[~seen], before[~seen])
        if f != "max" or value != -np.inf:
            np.testing.assert_array_equal(found[seen, 1], np.full(seen.sum(), value))


def test_nan_is_the_largest_and_the_first_one_counts():
    adjacency = Adjacency([0, 4], [0, 1, 2, 1], 3)
    x = np.array([[5.0, np.inf], [np.nan, np.nan], [9.0, 9.0]])
    found, arg = segment_max(x, adjacency, return_arg=True)
    assert np.isnan(found).all()
    np.testing.assert_array_equal(arg, [[1, 1]])


def test_minus_infinity_has_an_edge_too():
    found, arg = segment_max(np.full((2, 3), -np.inf), Adjacency([0, 2], [1, 0], 2), return_arg=True)
    assert np.isneginf(found).all()
    assert not arg.any()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_narrow_dtypes_compute_in_float32_and_return_their_own(name):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.float16
    adjacency = adjacency_of([40, 3], 5)
    x = drawn(5, 6).astype(dtype)
    expected = segment_sum(x.astype(np.float32), adjacency)
    found = segment_sum(x, adjacency)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.astype(dtype))
    large = np.full((5, 6), 6e4, np.float16)
    assert segment_sum(large, adjacency).max() == np.finfo(np.float16).max


def test_results_are_the_same_to_the_bit_for_any_number_of_threads():
    adjacency = adjacency_of(DEGREES, KEYS)
    x, weight = drawn(2, KEYS, 40, dtype=np.float32), np.random.default_rng(1).random(adjacency.num_edges)
    for combine in (
        lambda threads: segment_sum(x, adjacency, threads=threads),
        lambda threads: segment_mean(x, adjacency, edge_weight=weight, threads=threads),
        lambda threads: segment_max(x, adjacency, threads=threads),
    ):
        expected = combine(1)
        for threads in (2, 3, 7):
            np.testing.assert_array_equal(combine(threads), expected)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_strides_of_the_input_make_no_difference():
    adjacency = adjacency_of(DEGREES, KEYS)
    x = drawn(KEYS, 24, dtype=np.float32)
    expected = segment_sum(x, adjacency)
    heads = segment_sum(x.reshape(KEYS, 3, 8).swapaxes(0, 1), adjacency)
    np.testing.assert_allclose(heads.swapaxes(0, 1).reshape(-1, 24), expected, rtol=1e-4, atol=1e-4)
    for other in (np.asfortranarray(x), np.repeat(x, 2, 0)[::2], np.repeat(x, 2, 1)[:, ::2], x[::-1][::-1], x.astype(x.dtype.newbyteorder())):
        np.testing.assert_array_equal(segment_sum(other, adjacency), expected)


@pytest.mark.parametrize("combine", [segment_sum, segment_mean, segment_max])
def test_out_is_written_and_returned(combine):
    adjacency = adjacency_of(DEGREES, KEYS)
    x = drawn(KEYS, 9, dtype=np.float32)
    expected = combine(x, adjacency)
    for out in (np.full(expected.shape, np.nan, np.float32), np.full((9, len(expected)), np.nan, np.float32).T,
                np.full((len(expected), 18), np.nan, np.float32)[:, :9]):  # fmt: skip
        assert combine(x, adjacency, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_a_read_only_input_is_fine_and_nothing_is_written_to_inputs():
    adjacency = adjacency_of(DEGREES, KEYS)
    x, weight = drawn(KEYS, 9), np.random.default_rng(1).random(adjacency.num_edges)
    before = [array.copy() for array in (x, weight, adjacency.indptr, adjacency.indices)]
    expected = [segment_sum(x, adjacency, edge_weight=weight), segment_mean(x, adjacency, edge_weight=weight), segment_max(x, adjacency)]
    for array, copy in zip((x, weight, adjacency.indptr, adjacency.indices), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    x.flags.writeable = weight.flags.writeable = False
    found = [segment_sum(x, adjacency, edge_weight=weight), segment_mean(x, adjacency, edge_weight=weight), segment_max(x, adjacency)]
    for array, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, same)


SCRIPT = """
import numpy as np
from ruvattn import Adjacency
from ruvattn_graph.segments import segment_max, segment_mean, segment_sum
rng = np.random.default_rng(0)
degrees = np.r_[np.arange(40), 5000, 0, 2045]
adjacency = Adjacency(np.r_[0, degrees.cumsum()], rng.integers(0, 30, degrees.sum()), 30)
rows = adjacency.edge_rows()
for dtype in (np.float32, np.float64):
    for width in (3, 8, 37):
        x = rng.standard_normal((30, width)).astype(dtype)
        gathered = x[adjacency.indices].astype(np.longdouble)
        total, largest = np.zeros((43, width), np.longdouble), np.full((43, width), -np.inf, np.longdouble)
        np.add.at(total, rows, gathered)
        np.maximum.at(largest, rows, gathered)
        bound = 1e4 * np.finfo(dtype).eps
        assert np.abs(segment_sum(x, adjacency) - total).max() < bound, (dtype, width)
        assert np.abs(segment_mean(x, adjacency) - total / np.maximum(degrees, 1)[:, None]).max() < bound, (dtype, width)
        found, arg = segment_max(x, adjacency, return_arg=True)
        assert np.array_equal(found, np.where(degrees[:, None] > 0, largest, 0)), (dtype, width)
        assert np.array_equal(gathered[arg, np.arange(width)][degrees > 0], largest[degrees > 0]), (dtype, width)
"""


@pytest.mark.parametrize("build", [name for name in isa.supported_isas() if name != isa.active_isa()])
def test_every_build_agrees(build):
    """In a process of its own, for the choice is made at import."""
    environment = {**os.environ, isa.ISA_VARIABLE: build}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# --- bad input --------------------------------------------------------------------------------------------------------

GOOD = adjacency_of([2, 1], 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: segment_sum(np.ones((4, 2)), GOOD), DimensionMismatchError, "a row for each of the 3 keys"),
        (lambda: segment_sum(np.ones(3), GOOD), DimensionMismatchError, r"x\[:, None\]"),
        (lambda: segment_sum(np.ones((3, 2), int), GOOD), UnsupportedError, "int64"),
        (lambda: segment_sum(None, GOOD), InvalidInputError, "x must be an array"),
        (lambda: segment_sum(np.ones((3, 2)), (GOOD.indptr, GOOD.indices)), InvalidInputError, "adjacency must be a ruvattn.Adjacency, got tuple"),
        (lambda: segment_mean(np.ones((3, 2)), GOOD, edge_weight=np.ones(2)), DimensionMismatchError, r"edge_weight must have shape \(E,\).*3 edges"),
        (lambda: segment_mean(np.ones((3, 2)), GOOD, edge_weight=["a", "b", "c"]), InvalidInputError, "edge_weight must be numbers"),
        (lambda: segment_max(np.ones((3, 2)), GOOD, return_arg=1), InvalidInputError, "return_arg must be True or False"),
        (lambda: segment_max(np.ones((3, 2)), GOOD, threads=0), InvalidInputError, "threads"),
        (lambda: segment_sum(np.ones((3, 2)), GOOD, out=np.ones((3, 2))), DimensionMismatchError, r"out must have shape \(2, 2\)"),
        (lambda: segment_sum(np.ones((3, 2)), GOOD, out=np.ones((2, 2), np.float32)), InvalidInputError, "out must have the dtype"),
    ],
)
def test_arguments_that_make_no_sense_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_out_may_not_overlap_the_input():
    x = np.ones((3, 2))
    with pytest.raises(InvalidInputError, match="out shares memory with x"):
        segment_sum(x, GOOD, out=x[:2])
