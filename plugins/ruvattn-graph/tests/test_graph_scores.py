"""Scores of graphs: the conformance suite, their formulas along edges, edge terms and features, extremes, and what they refuse."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import ruvattn
from ruvattn import isa
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.registry import get_score
from ruvattn.scores import Tile
from ruvattn.testing import parametrize_with_checks
from ruvattn.testing.compiled import compiled_logits

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph import AdditiveScore, AdditiveV2Score, HopRotaryScore


def drawn(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([5, seed, *shape]).standard_normal(shape).astype(dtype)


CONFORMANT = {
    "additive": AdditiveScore(),
    "additive, vectors of the heads": AdditiveScore(drawn(2, 9), drawn(2, 9, seed=1), negative_slope=0.1),
    "additive, one vector, slope 0": AdditiveScore(a_key=drawn(4, 16), negative_slope=0),
    "additive, steep": AdditiveScore(negative_slope=3.0),
    "additive v2": AdditiveV2Score(),
    "additive v2, narrow": AdditiveV2Score(drawn(2, 6)),
    "additive v2, with a rest of columns": AdditiveV2Score(drawn(2, 19)),
    "additive v2, features": AdditiveV2Score(drawn(3, 13), drawn(3, 5, 13), negative_slope=0.3),
    "additive v2, features without a, steep": AdditiveV2Score(None, drawn(2, 3, 8), negative_slope=2.0),
    "hop-rotary": HopRotaryScore(),
    "hop-rotary, fast": HopRotaryScore(10.0, scale=[0.2, 0.5]),
}


@parametrize_with_checks(CONFORMANT)
def test_scores_keep_every_promise(subject, check):
    check(subject)


# --- along edges ------------------------------------------------------------------------------------------------------

HEADS, NODES, WIDTH, FEATURES = 3, 40, 11, 4
BOUNDS = {np.float32: 2e-5, np.float64: 1e-12}
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS))
forms = pytest.mark.parametrize("form", ["compiled", "numpy"])


def graph(seed=0):
    """Rows with no edges, with some, and one with more than a task of the engine has."""
    rng = np.random.default_rng(seed)
    degrees = rng.integers(0, 30, NODES)
    degrees[[3, 7]] = 3000, 0
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    return indptr, rng.integers(0, NODES, indptr[-1]), np.repeat(np.arange(NODES), degrees)


INDPTR, INDICES, ROWS = graph()
EDGES = INDICES.size


def leaky(x, slope=0.2):
    return np.where(x > 0, x, slope * x)


def in_form(score, form):
    if form == "numpy":
        score.kernels = {}
    return score


def assert_logits_along_edges(score, expected, dtype, q, k, **options):
    """The weights along the edges are the softmax, row by row, of the logits (H, E) expected."""
    v = drawn(HEADS, NODES, 2, seed=9, dtype=dtype)
    _, lse, weights = ruvattn.edge_attention(q, k, v, INDPTR, INDICES, score=score, return_lse=True, return_weights=True, **options)
    wanted = np.zeros(expected.shape)
    for first, stop in zip(INDPTR, INDPTR[1:], strict=False):
        if first < stop:
            shifted = np.exp(expected[:, first:stop] - expected[:, first:stop].max(1, keepdims=True))
            wanted[:, first:stop] = shifted / shifted.sum(1, keepdims=True)
    np.testing.assert_allclose(weights, wanted, atol=BOUNDS[dtype], rtol=BOUNDS[dtype])
    full = INDPTR[1:] > INDPTR[:-1]
    sums = np.add.reduceat(np.exp(expected), INDPTR[:-1][full], axis=1)
    np.testing.assert_allclose(lse[:, full], np.log(sums), rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


@forms
@dtypes
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, 2.5])
def test_additive_is_its_formula_along_edges(slope, dtype, form):
    q, k = (drawn(HEADS, NODES, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2))
    a, b = drawn(HEADS, WIDTH, seed=3), drawn(HEADS, WIDTH, seed=4)
    logits = leaky(np.einsum("hnc,hc->hn", q, a)[:, ROWS] + np.einsum("hnc,hc->hn", k, b)[:, INDICES], slope)
    assert_logits_along_edges(in_form(AdditiveScore(a, b, negative_slope=slope), form), logits, dtype, q, k)


@forms
@dtypes
@pytest.mark.parametrize("count", [1, 3])
def test_edge_terms_are_added_before_the_kink(count, dtype, form):
    q, k = (drawn(HEADS, NODES, 1, seed=seed, dtype=dtype) for seed in (1, 2))
    terms = drawn(HEADS, EDGES, count, seed=3, dtype=dtype)
    logits = leaky(q[:, ROWS, 0] + k[:, INDICES, 0] + terms.sum(-1))
    score = in_form(AdditiveScore(edge_terms=count), form)
    assert_logits_along_edges(score, logits, dtype, q, k, edge_terms=terms)


@dtypes
@pytest.mark.parametrize("expected", [0, 2])
def test_edge_terms_count_even_where_the_compiled_form_was_made_for_another_number(expected, dtype):
    q, k = (drawn(HEADS, NODES, 1, seed=seed, dtype=dtype) for seed in (1, 2))
    terms = drawn(EDGES, 1, seed=3, dtype=dtype)
    logits = leaky(q[:, ROWS, 0] + k[:, INDICES, 0] + terms[:, 0])
    assert_logits_along_edges(AdditiveScore(edge_terms=expected), logits, dtype, q, k, edge_terms=terms)


@pytest.mark.parametrize("score", [AdditiveScore, HopRotaryScore])
def test_a_call_without_edges_has_no_edge_terms(score):
    q, k, v = (drawn(2, 20, 8, seed=seed) for seed in range(3))
    np.testing.assert_allclose(
        ruvattn.attention(q, k, v, score=score(edge_terms=1)), ruvattn.attention(q, k, v, score=score()), rtol=1e-12, atol=1e-12
    )


@dtypes
def test_products_may_be_given_as_queries_and_keys_of_one_column(dtype):
    """As views of (N, H), which is what a thin matrix product makes."""
    q, k = (drawn(NODES, HEADS, seed=seed, dtype=dtype).T[..., None] for seed in (1, 2))
    logits = leaky(q[:, ROWS, 0] + k[:, INDICES, 0])
    assert_logits_along_edges(AdditiveScore(), logits, dtype, q, k)


@forms
@dtypes
@pytest.mark.parametrize("width", [1, 3, 8, 16, 19])
def test_additive_v2_is_its_formula_along_edges(width, dtype, form):
    q, k = (drawn(HEADS, NODES, width, seed=seed, dtype=dtype) for seed in (1, 2))
    a = drawn(HEADS, width, seed=3)
    logits = np.einsum("hec,hc->he", leaky(q[:, ROWS] + k[:, INDICES].astype(float)), a)
    assert_logits_along_edges(in_form(AdditiveV2Score(a), form), logits, dtype, q, k)


@forms
@dtypes
@pytest.mark.parametrize("slope", [0.2, 1.5])
@pytest.mark.parametrize("width", [3, 8, 19])
def test_additive_v2_adds_the_features_of_edges_before_the_kink(width, slope, dtype, form):
    q, k = (drawn(HEADS, NODES, width, seed=seed, dtype=dtype) for seed in (1, 2))
    a, weights, attr = drawn(HEADS, width, seed=3), drawn(HEADS, FEATURES, width, seed=4), drawn(EDGES, FEATURES, seed=5, dtype=dtype)
    x = q[:, ROWS] + k[:, INDICES].astype(float) + np.einsum("ef,hfc->hec", attr, weights)
    logits = np.einsum("hec,hc->he", leaky(x, slope), a)
    wide = np.concatenate([q, np.full((HEADS, NODES, FEATURES), 7, dtype)], -1)  # what stands there isn't looked at
    score = in_form(AdditiveV2Score(a, weights, negative_slope=slope), form)
    assert_logits_along_edges(score, logits, dtype, wide, k, edge_attr=attr, edge_attr_to="key")


def turned(x, hops, base):
    """Rotate rows (..., E, D) as complex numbers: column p and its partner in the other half."""
    half = x.shape[-1] // 2
    angle = np.asarray(hops)[:, None] * base ** (-2 * np.arange(half) / x.shape[-1])
    z = (x[..., :half] + 1j * x[..., half : 2 * half]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag, x[..., 2 * half :]], -1)


@forms
@dtypes
@pytest.mark.parametrize("width", [1, 2, 5, 16, 35])
def test_hop_rotary_turns_keys_by_hops(width, dtype, form):
    q, k = (drawn(HEADS, NODES, width, seed=seed, dtype=dtype) for seed in (1, 2))
    hops = np.random.default_rng(3).integers(0, 9, EDGES)
    logits = np.einsum("hec,hec->he", q[:, ROWS], turned(k[:, INDICES].astype(float), np.minimum(hops, 6), 100.0)) / np.sqrt(width)
    score = in_form(HopRotaryScore(100.0, max_hops=6, edge_terms=1), form)
    assert_logits_along_edges(score, logits, dtype, q, k, edge_terms=hops[:, None].astype(dtype))


@forms
def test_hops_that_are_no_hops_are_cut_to_the_table(form):
    """No number an edge term may have reads beyond the table: below 0 and NaN count as 0, what is too far as the farthest."""
    score = in_form(HopRotaryScore(10.0, max_hops=3, scale=1.0, edge_terms=1), form)
    hops = np.array([-5.0, np.nan, -np.inf, 0.2, 1e300, np.inf, 3.4, 2.0])
    q, k = drawn(1, 1, 4), np.repeat(drawn(1, 1, 4, seed=1), hops.size, 1)
    expected = q[0] @ turned(k[0], [0, 0, 0, 0, 3, 3, 3, 2], 10.0).T
    _, weights = ruvattn.edge_attention(
        q, k, k, [0, hops.size], np.arange(hops.size), score=score, edge_terms=hops[:, None], return_weights=True
    )
    np.testing.assert_allclose(weights[0], np.exp(expected[0]) / np.exp(expected).sum(), rtol=1e-12)


def test_a_table_is_made_for_every_width_and_none_is_too_many():
    """Beyond as many widths as there are places for, cosines are computed where they are needed."""
    score = HopRotaryScore(3.0, max_hops=2, scale=1.0)
    for width in range(2, 90):
        q, k = drawn(1, width), drawn(3, width, seed=1)
        np.testing.assert_allclose(ruvattn.attention_logits(q, k, score=score), q @ turned(k, [1, 1, 1], 3.0).T, rtol=1e-11, atol=1e-12)


def test_one_hop_after_another_is_two_hops():
    q, k = drawn(1, 1, 16), drawn(1, 1, 16, seed=1)
    once = turned(k, [1], 10000.0)
    two, one = (
        ruvattn.edge_attention(q, x, x, [0, 1], [0], score=HopRotaryScore(scale=1.0, edge_terms=1), edge_terms=[[hops]], return_lse=True)[1]
        for x, hops in ((k, 2.0), (once, 1.0))
    )
    np.testing.assert_allclose(two, one, rtol=1e-12)


def test_compiled_and_numpy_form_take_tiles_of_any_shape():
    """And no compiled form writes anywhere but in its block, which compiled_logits sees to."""
    for score in (AdditiveScore(edge_terms=2), AdditiveV2Score(drawn(1, 9), drawn(1, 3, 9)), HopRotaryScore(scale=0.5, edge_terms=1)):
        width = 12
        q, k = drawn(3, width), drawn(21, width, seed=1)
        score.row_terms(q[None], np.arange(3))
        own = isinstance(score, AdditiveScore)
        terms = [drawn(1, 21, seed=seed) for seed in (2, 3, 4)] if own else [] if isinstance(score, AdditiveV2Score) else [np.arange(21.0)[None] % 5]
        params = {name: np.asarray(value)[0] if np.ndim(value) else value for name, value in score.params.items()}
        vectors = (q, k) if score.vectors else (None, None)
        for m in (1, 3):
            for n in range(1, 22):
                tile = Tile(
                    np.zeros((0, m, n)), (drawn(3, 1, seed=7)[:m],) if own else (), tuple(term[:, :n] for term in terms), params,
                    *(None if x is None else x[:rows] for x, rows in zip(vectors, (m, n), strict=True)),
                )  # fmt: skip
                for ld in (n, n + 3, (n + 31) // 32 * 32):
                    found = compiled_logits(score.kernels["float64"][0], tile, ld)
                    np.testing.assert_allclose(found, score.logits(tile), rtol=1e-12, atol=1e-12)


# --- extremes ---------------------------------------------------------------------------------------------------------

LARGEST = float(np.finfo(np.float32).max)


@forms
def test_sums_beyond_the_dtype_are_its_largest_number(form):
    q = np.array([[LARGEST], [-LARGEST]], np.float32)
    found = ruvattn.attention_logits(q, q, score=in_form(AdditiveScore(negative_slope=2.0), form))
    np.testing.assert_allclose(found, [[LARGEST, 0], [0, -LARGEST]])


@forms
def test_products_that_overflow_on_the_way_to_a_finite_sum_are_made_once_more(form):
    q, k = np.zeros((1, 3, 2), np.float32), np.array([[[3e38, 3e38], [3e38, 3e38], [1, 2]]], np.float32)
    found = ruvattn.attention_logits(q, k, score=in_form(AdditiveScore(a_key=[[2.0, -2.0]]), form))
    np.testing.assert_allclose(found[0, 0], [0, 0, -0.4], rtol=1e-6)


@forms
@pytest.mark.parametrize("width", [2, 8])
def test_additive_v2_overflows_only_where_its_logit_does(width, form):
    big = np.full((1, 1, width), 3e38, np.float32)
    a = np.tile([[1e-3, -1e-3]], width // 2)
    assert ruvattn.attention_logits(big, big, score=in_form(AdditiveV2Score(a), form)) == 0
    assert ruvattn.attention_logits(big, big, score=in_form(AdditiveV2Score(), form)) == np.float32(LARGEST)


@forms
@pytest.mark.parametrize("width", [2, 16])
def test_hop_rotary_overflows_only_where_its_logit_does(width, form):
    big = np.full((1, width), 1e25, np.float32)
    found = ruvattn.attention_logits(big, big, score=in_form(HopRotaryScore(scale=1e-20), form))
    expected = 1e-20 * (big.astype(float) @ turned(big.astype(float), [1], 10000.0).T)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("score", [AdditiveScore(), AdditiveV2Score(), HopRotaryScore()], ids=lambda score: type(score).__name__)
def test_nan_touches_the_rows_that_see_it(score):
    q, k, v = (drawn(1, 6, 8, seed=seed) for seed in range(3))
    indptr, indices = np.arange(0, 13, 2), np.array([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0])
    expected = ruvattn.edge_attention(q, k, v, indptr, indices, score=score)
    k[0, 2] = np.nan
    found = ruvattn.edge_attention(q, k, v, indptr, indices, score=score)
    seen = np.array([False, True, True, False, False, False])
    assert np.isnan(found[0, seen]).all()
    np.testing.assert_array_equal(found[0, ~seen], expected[0, ~seen])


@pytest.mark.parametrize("score", [AdditiveScore(), AdditiveV2Score(), HopRotaryScore()], ids=lambda score: type(score).__name__)
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(score):
    q, k, v = (drawn(HEADS, NODES, 16, seed=seed, dtype=np.float32) for seed in range(3))
    one, *more = (ruvattn.edge_attention(q, k, v, INDPTR, INDICES, score=score, threads=threads) for threads in (1, 2, 7))
    for other in more:
        np.testing.assert_array_equal(other, one)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_of_edge_terms_are_those_of_the_sum():
    score = AdditiveScore(edge_terms=1)
    tile = Tile(np.zeros((0, 2, 3)), (drawn(2, 1),), (drawn(1, 3, seed=1), drawn(1, 3, seed=2)), score.params)
    upstream = drawn(2, 3, seed=3)
    _, _, dcols, _ = score.logits_vjp(tile, upstream)
    np.testing.assert_array_equal(dcols[0], dcols[1])
    moved = tile.cols[1].copy()
    moved[0, 1] += 1e-6
    other = Tile(tile.dots, tile.rows, (tile.cols[0], moved), tile.params)
    np.testing.assert_allclose(((score.logits(other) - score.logits(tile)) * upstream).sum() / 1e-6, dcols[1][0, 1], rtol=1e-5)


@pytest.mark.parametrize("group", [1, 2])
def test_vectors_of_query_heads_that_share_keys_have_gradients_of_their_own(group):
    score = AdditiveScore(a_key=drawn(2 * group, 5))
    k, upstream = drawn(3, 2, 4, 5, seed=1), drawn(3, 2 * group, 4, seed=2)
    dk, params = score.col_terms_vjp(k, np.arange(4), (upstream,))
    shared = np.repeat(k, group, 1)
    np.testing.assert_allclose(params["a_key"], np.einsum("bhn,bhnc->hc", upstream, shared), rtol=1e-12)
    by_head = np.einsum("bhn,hc->bhnc", upstream, score.params["a_key"])
    np.testing.assert_allclose(dk, by_head.reshape(3, 2, group, 4, 5).sum(2), rtol=1e-12, atol=1e-12)


# --- as objects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", list(CONFORMANT.values()), ids=list(CONFORMANT))
def test_pickled_and_copied_scores_are_the_same(score):
    for other in (pickle.loads(pickle.dumps(score)), copy.deepcopy(score)):
        assert repr(other) == repr(score)
        assert set(other.kernels) == {"float32", "float64"}


def test_names_are_registered():
    for name, kind in (("gat", AdditiveScore), ("gatv2", AdditiveV2Score), ("hop-rotary", HopRotaryScore)):
        assert type(get_score(name)) is kind


def test_parameters_are_copies_that_nobody_writes_to():
    a = drawn(2, 3)
    score = AdditiveScore(a)
    a[...] = 0
    assert score.params["a_query"].any()
    with pytest.raises(ValueError, match="read-only"):
        score.params["a_query"][0, 0] = 1


# --- builds -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import numpy as np, ruvattn
from ruvattn_graph import AdditiveScore, AdditiveV2Score, HopRotaryScore
rng = np.random.default_rng(0)
indptr, indices = np.array([0, 3, 3, 30, 330]), rng.integers(0, 9, 330)
for dtype in (np.float32, np.float64):
    for width in (1, 3, 8, 21):
        q, k = rng.standard_normal((2, 2, 4, width)), rng.standard_normal((2, 2, 9, width))
        q, k = q.astype(dtype), k.astype(dtype)
        terms = rng.integers(0, 4, (330, 1)).astype(dtype)
        for score, options in (
            (AdditiveScore(edge_terms=1), {"edge_terms": terms}),
            (AdditiveV2Score(rng.standard_normal((2, width))), {}),
            (HopRotaryScore(edge_terms=1), {"edge_terms": terms}),
        ):
            found = ruvattn.edge_attention(q, k, k, indptr, indices, score=score, **options)
            score.kernels = {}
            expected = ruvattn.edge_attention(q, k, k, indptr, indices, score=score, **options)
            assert np.abs(found - expected).max() < 100 * np.finfo(dtype).eps, (score, dtype, width)
"""


@pytest.mark.parametrize("build", [name for name in isa.supported_isas() if name != isa.active_isa()])
def test_every_build_agrees(build):
    """In a process of its own, for the choice is made at import."""
    environment = {**os.environ, isa.ISA_VARIABLE: build}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdditiveScore, AdditiveV2Score])
@pytest.mark.parametrize("slope", [-0.1, np.nan, np.inf, "0.2", [0.1, 0.2], None])
def test_a_slope_is_a_finite_number_from_0(kind, slope):
    with pytest.raises(InvalidInputError, match="negative_slope must be"):
        kind(negative_slope=slope)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AdditiveScore(np.ones(3)), DimensionMismatchError, r"a_query must have shape \(Hq, D\).*got \(3,\)"),
        (lambda: AdditiveScore(np.ones((2, 0))), DimensionMismatchError, "a_query must have shape"),
        (lambda: AdditiveScore([["x"]]), InvalidInputError, "a_query must be numbers"),
        (lambda: AdditiveScore(a_key=[[np.nan]]), InvalidInputError, "a_key must be finite, got nan"),
        (lambda: AdditiveScore(np.ones((2, 3)), np.ones((2, 4))), DimensionMismatchError, "a_query and a_key must have one shape"),
        (lambda: AdditiveScore(edge_terms=-1), InvalidInputError, "edge_terms must be"),
        (lambda: AdditiveScore(edge_terms=32), InvalidInputError, "edge_terms must be"),
        (lambda: AdditiveScore(edge_terms=True), InvalidInputError, "edge_terms must be"),
        (lambda: AdditiveV2Score(np.ones(3)), DimensionMismatchError, r"a must have shape \(Hq, C\)"),
        (lambda: AdditiveV2Score(edge_weights=np.ones((2, 3))), DimensionMismatchError, r"edge_weights must have shape \(Hq, F, C\)"),
        (lambda: AdditiveV2Score(np.ones((2, 3)), np.ones((2, 5, 4))), DimensionMismatchError, r"where edge_weights has \(Hq, F, C\)"),
        (lambda: HopRotaryScore(0), InvalidInputError, "base must be"),
        (lambda: HopRotaryScore(max_hops=0), InvalidInputError, "max_hops must be"),
        (lambda: HopRotaryScore(max_hops=5000), InvalidInputError, "max_hops must be"),
        (lambda: HopRotaryScore(scale=np.inf), InvalidInputError, "scale must be"),
        (lambda: HopRotaryScore(edge_terms=2), InvalidInputError, "edge_terms must be"),
    ],
)
def test_arguments_that_make_no_sense_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (AdditiveScore(np.ones((2, 5))), "a_query must have a column for each of the 8"),
        (AdditiveScore(a_key=np.ones((2, 5))), "a_key must have a column for each of the 8"),
        (AdditiveV2Score(np.ones((2, 5))), "q must have a width of 5, C of a"),
        (AdditiveV2Score(edge_weights=np.ones((2, 3, 4))), "q must have a width of 7, F [+] C of edge_weights"),
        (AdditiveScore(np.ones((3, 8))), "2 query heads"),
        (AdditiveV2Score(np.ones((3, 8))), "2 query heads"),
    ],
)
def test_parameters_that_do_not_fit_the_call_are_named(score, message):
    q, k, v = (drawn(2, 4, 8, seed=seed) for seed in range(3))
    with pytest.raises(DimensionMismatchError, match=message):
        ruvattn.attention(q, k, v, score=score)
