"""Scores that the edge engine makes itself, for all heads of a row at once: the same as head by head, in NumPy and in float64, in every build."""


import numpy as np
import pytest
from agreement import use_build

import ruvattn
from ruvattn import edge_attention, edges, isa

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph import AdditiveScore, AdditiveV2Score

DTYPES = ("float32", "float64")
HEADS = (1, 2, 3, 4, 8, 16)
DEGREES = [0, 1, 2, 3, 4, 5, 17, 64, 255, 256, 257, 0, 2300, 7]  # around what one tile and one piece of a long row hold


@pytest.fixture(params=isa.supported_isas())
def build(request):
    with use_build(edges._kernels, request.param):
        yield request.param


class Problem:
    """Heads that lie beside each other in a row of memory, as a projection leaves them, and rows of all lengths."""

    def __init__(self, heads, width, dtype, lead=(), keys=300, seed=0):
        rng = np.random.default_rng([seed, heads, width])
        self.rng, self.dtype, self.heads, self.width = rng, np.dtype(dtype), heads, width
        self.adjacency = ruvattn.Adjacency(np.concatenate([[0], np.cumsum(DEGREES)]), rng.integers(0, keys, sum(DEGREES)), keys)
        self.q, self.k, self.v = (self.beside((*lead, length, heads, width)) for length in (len(DEGREES), keys, keys))
        self.vectors = rng.standard_normal((2, heads, width)).astype(dtype)

    def beside(self, shape):
        return self.rng.standard_normal(shape).astype(self.dtype).swapaxes(-3, -2)

    def numbers(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def attend(self, score, **options):
        return edge_attention(self.q, self.k, self.v, self.adjacency, score=score, return_lse=True, return_weights=True, **options)


def by_itself(score):
    """Return the same score, which does not tell the engine what it is: it is called for each head and tile."""
    other = score.__class__.__new__(score.__class__)
    other.__dict__.update(score.__dict__)
    other.leaky = None
    return other


def assert_close(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=200 * np.finfo(dtype).eps * max(1, np.abs(b[np.isfinite(b)]).max(initial=0)))


def scores_of(problem):
    return AdditiveScore(*problem.vectors), AdditiveV2Score(problem.vectors[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 12, 16])
@pytest.mark.parametrize("heads", HEADS)
def test_any_number_and_width_of_heads(build, heads, width, dtype):
    problem = Problem(heads, width, dtype)
    for score in scores_of(problem):
        assert_close(problem.attend(score), problem.attend(by_itself(score)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("option", ["bias", "bias of each head", "softcap", "sinks", "dropout", "scale of the values", "edge terms", "all"])
def test_any_option(build, option, dtype):
    problem = Problem(4, 16, dtype)
    count = problem.adjacency.num_edges
    options = {}
    if option in ("bias", "all"):
        options["bias"] = np.where(problem.rng.random(count) < 0.2, -np.inf, problem.numbers(count)).astype(dtype)
    if option == "bias of each head":
        options["bias"] = problem.numbers(4, count)
    if option in ("softcap", "all"):
        options["softcap"] = 1.5
    if option in ("sinks", "all"):
        options["sinks"] = problem.numbers(4)
    if option in ("dropout", "all"):
        options.update(dropout=0.4, seed=7)
    if option == "scale of the values":
        problem.v = problem.v * problem.dtype.type(1e4)
    additive, hidden = scores_of(problem)
    if option in ("edge terms", "all"):
        additive = AdditiveScore(*problem.vectors, edge_terms=2)
        terms = problem.numbers(4, count, 2)
        assert_close(problem.attend(additive, edge_terms=terms, **options), problem.attend(by_itself(additive), edge_terms=terms, **options), dtype)
    else:
        assert_close(problem.attend(additive, **options), problem.attend(by_itself(additive), **options), dtype)
    assert_close(problem.attend(hidden, **options), problem.attend(by_itself(hidden), **options), dtype)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, 3.0])
def test_any_slope(build, slope):
    problem = Problem(2, 8, "float32")
    for score in (AdditiveScore(*problem.vectors, negative_slope=slope), AdditiveV2Score(problem.vectors[0], negative_slope=slope)):
        assert_close(problem.attend(score), problem.attend(by_itself(score)), "float32")


def test_batch_entries(build):
    problem = Problem(4, 8, "float32", lead=(2, 3))
    for score in scores_of(problem):
        found = problem.attend(score)
        assert_close(found, problem.attend(by_itself(score)), "float32")
        alone = edge_attention(problem.q[1, 2], problem.k[1, 2], problem.v[1, 2], problem.adjacency, score=score)
        assert_close((found[0][1, 2],), (alone,), "float32")


def test_any_number_of_threads_gives_the_same_bits(build):
    problem = Problem(8, 32, "float32")
    for score in scores_of(problem):
        one = problem.attend(score, threads=1)
        for threads in (2, 5):
            for a, b in zip(problem.attend(score, threads=threads), one, strict=True):
                np.testing.assert_array_equal(a, b)


def test_vectors_without_a_count_as_ones(build):
    problem = Problem(4, 8, "float32")
    for plain, ones in ((AdditiveScore(), AdditiveScore(*np.ones((2, 4, 8)))), (AdditiveV2Score(), AdditiveV2Score(np.ones((4, 8))))):
        assert_close(problem.attend(plain), problem.attend(ones), "float32")


@pytest.mark.parametrize("size", [1e15, 1e30, 3e38])
def test_finite_numbers_however_large(build, size):
    problem = Problem(4, 8, "float32")
    problem.q, problem.k = (x * np.float32(size / np.abs(x).max()) for x in (problem.q, problem.k))
    for score in scores_of(problem):
        out, lse, weights = problem.attend(score)
        assert np.isfinite(out).all()
        assert not np.isnan(lse).any()
        sums = np.add.reduceat(weights, problem.adjacency.indptr[:-1][np.diff(problem.adjacency.indptr) > 0], axis=-1)
        np.testing.assert_allclose(sums, 1, atol=1e-4)
        assert_close((out,), problem.attend(by_itself(score))[:1], "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_touches_only_rows_that_see_it(build, bad):
    problem = Problem(4, 8, "float32")
    for score in scores_of(problem):
        expected = problem.attend(score)
        key = problem.adjacency.indices[problem.adjacency.indptr[6]]
        sees = np.array([key in problem.adjacency.indices[a:b] for a, b in zip(problem.adjacency.indptr, problem.adjacency.indptr[1:], strict=False)])
        kept = problem.k.copy(), problem.v.copy()
        problem.k[:, key], problem.v[:, key] = bad, bad
        found = problem.attend(score)
        np.testing.assert_array_equal(found[0][:, ~sees], expected[0][:, ~sees])
        masked = np.where(problem.adjacency.indices == key, -np.inf, 0).astype(np.float32)
        hidden = problem.attend(score, bias=masked)
        assert np.isfinite(hidden[0]).all()
        problem.k, problem.v = kept
        assert_close(hidden, problem.attend(score, bias=masked), "float32")


def test_against_float64(build):
    problem = Problem(4, 16, "float32")
    wide = Problem(4, 16, "float64")
    wide.q, wide.k, wide.v = (x.astype(np.float64) for x in (problem.q, problem.k, problem.v))
    for score in scores_of(problem):
        for a, b in zip(problem.attend(score), wide.attend(by_itself(score)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.abs(b[np.isfinite(b)]).max())
