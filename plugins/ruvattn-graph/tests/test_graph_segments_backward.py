"""Gradients of sums, means and maxima over edges: against the definition, at the lengths where rows are cut, and what they refuse."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from ruvattn import Adjacency, isa
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph import segment_max, segment_max_backward, segment_mean_backward, segment_sum_backward

KEYS = 50
DEGREES = np.concatenate([np.arange(40), [2043, 2045, 2048, 0, 9001, 1, 0], np.arange(40)[::-1], [5000]])
WIDTHS = pytest.mark.parametrize("width", [1, 3, 8, 16, 17, 70])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def adjacency_of(degrees=DEGREES, keys=KEYS, seed=0):
    indptr = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    return Adjacency(indptr, np.random.default_rng(seed).integers(0, keys, indptr[-1]), keys)


def drawn(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([5, seed, *shape]).standard_normal(shape).astype(dtype)


def scattered(dout, adjacency, weight):
    """The definition, edge by edge, in float64."""
    dx = np.zeros((*dout.shape[:-2], adjacency.num_keys, dout.shape[-1]))
    edges = dout[..., adjacency.edge_rows(), :].astype(np.float64) * weight[:, None]
    np.add.at(dx, (..., adjacency.indices, slice(None)), edges)
    return dx


def bound_of(expected, dtype):
    return 2000 * np.finfo(dtype).eps * max(1.0, np.abs(expected).max())


@dtypes
@WIDTHS
def test_the_gradient_of_a_sum_goes_to_what_was_summed(width, dtype):
    adjacency, dout = adjacency_of(), drawn(len(DEGREES), width, dtype=dtype)
    expected = scattered(dout, adjacency, np.ones(adjacency.num_edges))
    found = segment_sum_backward(dout, adjacency)
    assert found.dtype == dtype
    assert np.abs(found - expected).max() <= bound_of(expected, dtype)


@dtypes
def test_weights_multiply_the_gradient_of_a_sum(dtype):
    adjacency, dout = adjacency_of(), drawn(2, len(DEGREES), 9, dtype=dtype)
    weight = drawn(adjacency.num_edges, seed=1)
    expected = scattered(dout, adjacency, weight)
    assert np.abs(segment_sum_backward(dout, adjacency, edge_weight=weight) - expected).max() <= bound_of(expected, dtype)


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_a_mean_is_shared_by_weight(weighted, dtype):
    adjacency, dout = adjacency_of(), drawn(len(DEGREES), 9, dtype=dtype)
    weight = np.random.default_rng(1).random(adjacency.num_edges) if weighted else np.ones(adjacency.num_edges)
    totals = np.bincount(adjacency.edge_rows(), weight, len(DEGREES))
    expected = scattered(dout, adjacency, weight / totals[adjacency.edge_rows()])
    found = segment_mean_backward(dout, adjacency, edge_weight=weight if weighted else None)
    assert np.abs(found - expected).max() <= bound_of(expected, dtype)


def test_a_row_whose_weights_add_up_to_0_has_no_gradient():
    adjacency = Adjacency([0, 2, 3], [0, 1, 1], num_keys=2)
    found = segment_mean_backward(np.array([[5.0], [7.0]]), adjacency, edge_weight=[1.0, -1.0, 2.0])
    np.testing.assert_array_equal(found, [[0], [7]])


def test_weights_whose_sum_is_beyond_the_dtype_are_shares_all_the_same():
    adjacency = Adjacency([0, 2], [0, 1], num_keys=2)
    found = segment_mean_backward(np.ones((1, 1), np.float32), adjacency, edge_weight=np.full(2, 3e38, np.float32))
    np.testing.assert_array_equal(found, [[0.5], [0.5]])


@dtypes
@WIDTHS
def test_the_gradient_of_the_largest_goes_to_where_it_was_found(width, dtype):
    adjacency, x, dout = adjacency_of(), drawn(2, KEYS, width, dtype=dtype), drawn(2, len(DEGREES), width, seed=1, dtype=dtype)
    _, arg = segment_max(x, adjacency, return_arg=True)
    expected = np.zeros(x.shape)
    for batch, row, column in np.ndindex(*arg.shape):
        if arg[batch, row, column] >= 0:
            expected[batch, adjacency.indices[arg[batch, row, column]], column] += dout[batch, row, column]
    assert np.abs(segment_max_backward(dout, adjacency, arg) - expected).max() <= bound_of(expected, dtype)


def test_of_equal_numbers_the_first_edge_has_the_gradient():
    adjacency = Adjacency([0, 3], [2, 0, 1], num_keys=3)
    _, arg = segment_max(np.zeros((3, 1)), adjacency, return_arg=True)
    np.testing.assert_array_equal(segment_max_backward(np.ones((1, 1)), adjacency, arg), [[0], [0], [1]])


@pytest.mark.parametrize("threads", [2, 3])
def test_results_are_the_same_for_any_number_of_threads(threads):
    adjacency, x, dout = adjacency_of(np.tile(DEGREES, 3)), drawn(KEYS, 70, dtype=np.float32), drawn(3 * len(DEGREES), 70, dtype=np.float32)
    _, arg = segment_max(x, adjacency, return_arg=True)
    for call in (
        lambda team: segment_sum_backward(dout, adjacency, threads=team),
        lambda team: segment_mean_backward(dout, adjacency, threads=team),
        lambda team: segment_max_backward(dout, adjacency, arg, threads=team),
    ):
        assert call(threads).tobytes() == call(1).tobytes()


def test_any_strides_will_do():
    adjacency, dout = adjacency_of(), np.asfortranarray(drawn(len(DEGREES), 9))
    _, arg = segment_max(drawn(KEYS, 9), adjacency, return_arg=True)
    for call in (segment_sum_backward, segment_mean_backward, lambda dout, adjacency: segment_max_backward(dout, adjacency, np.asfortranarray(arg))):
        np.testing.assert_allclose(call(dout, adjacency), call(np.ascontiguousarray(dout), adjacency), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_dtypes_compute_in_float32(dtype):
    adjacency, dout = adjacency_of(), drawn(len(DEGREES), 4).astype(dtype)
    found = segment_mean_backward(dout, adjacency)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, segment_mean_backward(dout.astype(np.float32), adjacency).astype(dtype))


def test_nothing_to_give_back_gives_zeros():
    adjacency = Adjacency([0, 0, 0], [], num_keys=3)
    np.testing.assert_array_equal(segment_sum_backward(np.ones((2, 4)), adjacency), np.zeros((3, 4)))
    np.testing.assert_array_equal(segment_max_backward(np.ones((2, 4)), adjacency, np.full((2, 4), -1)), np.zeros((3, 4)))
    assert segment_max_backward(np.ones((2, 0)), adjacency, np.ones((2, 0), int)).shape == (3, 0)


SCRIPT = """
import numpy as np
from ruvattn import Adjacency
from ruvattn_graph import segment_max, segment_max_backward, segment_sum_backward
rng = np.random.default_rng(0)
degrees = rng.integers(0, 60, 300)
adjacency = Adjacency(np.concatenate([[0], np.cumsum(degrees)]), rng.integers(0, 70, degrees.sum()), 70)
for dtype in (np.float32, np.float64):
    for width in (1, 5, 33):
        x, dout = rng.standard_normal((70, width)).astype(dtype), rng.standard_normal((300, width)).astype(dtype)
        _, arg = segment_max(x, adjacency, return_arg=True)
        total, largest = np.zeros((70, width)), np.zeros((70, width))
        np.add.at(total, adjacency.indices, dout[adjacency.edge_rows()])
        rows, columns = np.nonzero(arg >= 0)
        np.add.at(largest, (adjacency.indices[arg[rows, columns]], columns), dout[rows, columns])
        bound = 1e3 * np.finfo(dtype).eps
        assert np.abs(segment_sum_backward(dout, adjacency) - total).max() < bound, (dtype, width)
        assert np.abs(segment_max_backward(dout, adjacency, arg) - largest).max() < bound, (dtype, width)
"""


@pytest.mark.parametrize("build", [name for name in isa.supported_isas() if name != isa.active_isa()])
def test_every_build_agrees(build):
    """In a process of its own, for the choice is made at import."""
    environment = {**os.environ, isa.ISA_VARIABLE: build}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


GOOD = adjacency_of([2, 1], 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: segment_sum_backward(np.ones((3, 2)), GOOD), DimensionMismatchError, "dout must have a row for each of the 2 rows"),
        (lambda: segment_sum_backward(np.ones(2), GOOD), DimensionMismatchError, r"dout must have shape \(..., rows, W\)"),
        (lambda: segment_sum_backward(np.ones((2, 2), int), GOOD), UnsupportedError, "int64"),
        (lambda: segment_mean_backward(np.ones((2, 2)), None), InvalidInputError, "adjacency must be a ruvattn.Adjacency, got NoneType"),
        (lambda: segment_mean_backward(np.ones((2, 2)), GOOD, edge_weight=np.ones(2)), DimensionMismatchError, "3 edges"),
        (lambda: segment_max_backward(np.ones((2, 2)), GOOD, np.ones((2, 2))), InvalidInputError, "arg must be numbers of edges"),
        (lambda: segment_max_backward(np.ones((2, 2)), GOOD, np.ones((2, 1), int)), DimensionMismatchError, "arg must have the shape of dout"),
        (lambda: segment_max_backward(np.ones((2, 2)), GOOD, np.full((2, 2), 3)), InvalidInputError, "arg must be from -1 to 2"),
        (lambda: segment_max_backward(np.ones((2, 2)), GOOD, np.full((2, 2), -2)), InvalidInputError, "arg must be from -1 to 2"),
        (lambda: segment_max_backward(np.ones((2, 2)), GOOD, np.zeros((2, 2), int), threads=0), InvalidInputError, "threads"),
    ],
)
def test_arguments_that_make_no_sense_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
