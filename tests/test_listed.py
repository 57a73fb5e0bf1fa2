"""Sparse masks on the edge engine: that it gives what the tiles give, whatever else a call asks for, and which of the two a call takes."""

from __future__ import annotations

import contextlib
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_agrees, assert_close, compute_dtype, make, oracle_dtype, same_bits, tolerance
from example_scores import COMPILED, COMPILER, HEADS, SCORES, build_library, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import Aggregate, BoolMask, Causal, KeyLengths, Pattern, SparseMatrixMask, Window, listed, planning, reference
from ruvattn.call import read_call
from ruvattn.dropout import kept_weights
from ruvattn.errors import InvalidInputError
from ruvattn.listed import EdgeSets, edge_sets
from ruvattn.pattern_algebra import And
from ruvattn.selection import choose_keys

INF = np.inf
ENGINES = ("edges", "tiles")
LEAD, HQ, HK, LQ, LK = (2, 3), 4, 2, 37, 50
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@contextlib.contextmanager
def on(engine):
    """Have one of the engines taken where there is a choice; gives the sets of pairs that went to the edge engine."""
    taken = []
    before = listed._worth_it, listed.attend_listed, planning._KEPT

    def attended(call, sets, *rest):
        taken.append(sets)
        before[1](call, sets, *rest)

    listed._worth_it = lambda sets, call: engine == "edges" and bool(sets.indices.size)
    listed.attend_listed = attended
    planning._KEPT = planning._Kept()  # what was decided for a pattern before
    try:
        yield taken
    finally:
        listed._worth_it, listed.attend_listed, planning._KEPT = before


def assert_engines_agree(q, k, v, **options):
    """Both engines agree with the oracle; returns what they gave. (Without a single pair there is nothing for the edge engine.)"""
    out, lse = reference.attention(q, k, v, return_lse=True, precision=oracle_dtype(q.dtype), **options)
    found = []
    for engine in ENGINES:
        with on(engine) as taken:
            found.append(ruvattn.attention(q, k, v, return_lse=True, **options))
        assert_close(found[-1][0], out, tolerance(q, k, v, options))
        assert_close(found[-1][1], lse, 2 * tolerance(q, k, np.ones(1, compute_dtype(q.dtype)), options | {"dropout": 0.0}))
        assert len(taken) == (engine == "edges") or (engine == "edges" and not out.any())
    return found


def sparse(seed, shape, density=0.1):
    """A random matrix, or one for each head."""
    rng = np.random.default_rng(seed)
    found = rng.random(shape) < density
    return scipy.sparse.csr_array(found) if found.ndim == 2 else scipy.sparse.coo_array(found)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("score"))


# --- the same result ----------------------------------------------------------------------------------------------------------------

MASKS = {
    "of all heads": lambda rng: {"mask": sparse(1, (LQ, LK))},
    "of each head": lambda rng: {"mask": sparse(2, (HQ, LQ, LK))},
    "causal": lambda rng: {"mask": sparse(3, (LQ, LK), 0.3), "causal": True, "query_offset": 5},
    "window": lambda rng: {"mask": sparse(4, (HQ, LQ, LK), 0.3), "window": (9, 4)},
    "half a window": lambda rng: {"mask": sparse(5, (LQ, LK), 0.3), "window": (-1, 4), "query_offset": -6},
    "offsets": lambda rng: {"mask": sparse(6, (LQ, LK), 0.3), "causal": True, "query_offset": np.array([[0, -8, 3], [20, 60, -40]])},
    "offsets that matter to nobody": lambda rng: {"mask": sparse(6, (LQ, LK)), "query_offset": np.array([[0, -8, 3], [20, 60, -40]])},
    "lengths": lambda rng: {"mask": sparse(7, (HQ, LQ, LK), 0.3), "key_lengths": np.array([[LK, 3, 0], [1, 49, 7]])},
    "one length": lambda rng: {"mask": sparse(7, (LQ, LK), 0.3), "key_lengths": 31},
    "end": lambda rng: {"mask": sparse(8, (LQ, LK), 0.3), "causal": True, "key_lengths": np.array([[50, 40, 1], [0, 37, 10]]), "query_offset": "end"},
    "and an array": lambda rng: {"mask": SparseMatrixMask(sparse(9, (LQ, LK), 0.3)) & (rng.random((LQ, LK)) < 0.5)},
    "and an array of heads": lambda rng: {"mask": (rng.random((HQ, 1, LK)) < 0.5) & SparseMatrixMask(sparse(10, (LQ, LK), 0.3))},
    "and an array of entries": lambda rng: {"mask": SparseMatrixMask(sparse(11, (HQ, LQ, LK), 0.3)) & (rng.random((2, 1, 1, LQ, LK)) < 0.5)},
    "and an array of all": lambda rng: {"mask": SparseMatrixMask(sparse(12, (LQ, LK), 0.3)) & (rng.random((*LEAD, HQ, LQ, LK)) < 0.5)},
    "and arrays": lambda rng: {
        "mask": And(*(BoolMask(rng.random(s) < 0.7) for s in ((3, 1, LQ, 1), (LQ, LK))), SparseMatrixMask(sparse(13, (LQ, LK)))),
    },
    "and patterns": lambda rng: {"mask": Causal() & SparseMatrixMask(sparse(14, (HQ, LQ, LK), 0.3)) & Window(12, -1), "query_offset": 8},
    "and another of its kind": lambda rng: {"mask": SparseMatrixMask(sparse(15, (LQ, LK), 0.4)) & sparse(16, (HQ, LQ, LK), 0.4)},
    "and what is not there": lambda rng: {
        "mask": SparseMatrixMask(sparse(17, (LQ, LK), 0.2)) & ~Window(3, 3), "query_offset": np.array([[0, 1, 2], [3, 4, 5]]),
    },
    "and lengths": lambda rng: {"mask": SparseMatrixMask(sparse(18, (LQ, LK), 0.2)) & KeyLengths([50, 3, 0, 1, 49, 7])},
    "chosen": lambda rng: {"mask": choose_keys(*make(19, LQ, LK, lead=LEAD, hq=HQ, hk=HK)[:2], top_k=3, top_p=None)},
    "chosen and array": lambda rng: {
        "mask": choose_keys(*make(20, LQ, LK, lead=LEAD, hq=HQ, hk=HK)[:2], top_k=9, top_p=None) & (rng.random((3, 1, LQ, LK)) < 0.5), "causal": True,
    },
}  # fmt: skip


def _bias(rng, shape, share_of_inf=0.0):
    return np.where(rng.random(shape) < share_of_inf, -INF, rng.standard_normal(shape)).astype(np.float32)


EXTRAS = {
    "nothing": lambda rng: {},
    "bias": lambda rng: {"bias": _bias(rng, (*LEAD, HQ, LQ, LK), 0.2)},
    "bias of pairs": lambda rng: {"bias": _bias(rng, (LQ, LK), 0.2)},
    "bias of keys": lambda rng: {"bias": _bias(rng, LK, 0.2)},
    "bias of rows": lambda rng: {"bias": _bias(rng, (LQ, 1), 0.1)},
    "bias of heads": lambda rng: {"bias": _bias(rng, (HQ, LQ, LK), 0.2)},
    "bias of entries": lambda rng: {"bias": _bias(rng, (3, 1, 1, LK), 0.2)},
    "bias of the first axis": lambda rng: {"bias": _bias(rng, (2, 1, HQ, LQ, 1))},
    "one bias": lambda rng: {"bias": np.float32(3)},
    "bias in odd strides": lambda rng: {"bias": _bias(rng, (LK, 2 * LQ), 0.2)[:, ::-2].T},
    "softcap": lambda rng: {"softcap": 0.7, "scale": np.linspace(-1, 1, HQ), "bias": _bias(rng, (HQ, 1, LK))},
    "sinks": lambda rng: {"sinks": np.array([1.0, -INF, 6.0, 0.0])},
    "dropout": lambda rng: {"dropout": 0.4, "seed": 2**63 + 9},
    "all of it": lambda rng: {"bias": _bias(rng, (3, HQ, LQ, LK), 0.2), "softcap": 2.0, "sinks": np.arange(4.0), "dropout": 0.2, "seed": 5},
}  # fmt: skip


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("mask", MASKS)
def test_engines_agree(mask, extra):
    rng = np.random.default_rng(0)
    assert_engines_agree(*make(21, LQ, LK, 8, 5, lead=LEAD, hq=HQ, hk=HK), **MASKS[mask](rng), **EXTRAS[extra](rng))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("mask", ["of all heads", "of each head", "lengths", "and an array of entries"])
def test_engines_agree_in_every_dtype(mask, dtype):
    rng = np.random.default_rng(1)
    options = MASKS[mask](rng) | {"sinks": np.arange(4.0), "dropout": 0.3, "seed": 1, "bias": _bias(rng, (HQ, 1, LK)).astype(compute_dtype(dtype))}
    assert_engines_agree(*make(22, LQ, LK, 9, 5, lead=LEAD, hq=HQ, hk=HK, dtype=dtype), **options)


@pytest.mark.parametrize(("hq", "hk"), [(1, 1), (6, 2), (5, 1), (3, 3)])
@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 1, 2)])
def test_any_number_of_heads_and_entries(lead, hq, hk):
    q, k, v = make(23, 20, 30, lead=lead, hq=hq, hk=hk)
    lengths = np.random.default_rng(0).integers(0, 31, lead)
    for mask in (sparse(23, (20, 30)), sparse(24, (hq, 20, 30))):
        assert_engines_agree(q, k, v, mask=mask)
        assert_engines_agree(q, k, v, mask=mask, key_lengths=lengths, causal=True, query_offset="end")


def test_two_axes_are_one_head():
    q, k, v = (x[0] for x in make(25, 20, 30))
    mask = sparse(25, (20, 30))
    with on("edges") as taken:
        found = ruvattn.attention(q, k, v, mask=mask)
        assert same_bits(found, ruvattn.attention(q[None], k[None], v[None], mask=mask)[0])
    assert len(taken) == 2
    assert_close(found, reference.attention(q, k, v, mask=mask), tolerance(q, k, v, {}))


@pytest.mark.parametrize("lead", [(0,), (2, 0)])
def test_nothing_is_computed_for_nobody(lead):
    with on("edges") as taken:
        assert ruvattn.attention(*make(26, 5, 6, lead=lead), mask=sparse(26, (5, 6))).shape == (*lead, 1, 5, 8)
        assert ruvattn.attention(*make(26, 0, 6), mask=sparse(26, (0, 6))).shape == (1, 0, 8)
        assert not ruvattn.attention(*make(26, 5, 0), mask=sparse(26, (5, 0))).any()
    assert not taken


@pytest.mark.parametrize("engine", ENGINES)
def test_without_pairs_all_rows_are_empty(engine, monkeypatch):
    monkeypatch.setattr(listed, "_worth_it", lambda *_: engine == "edges")
    q, k, v = make(27, 20, 30, lead=(2,), hq=2, hk=1)
    for mask in (scipy.sparse.csr_array((20, 30), dtype=bool), scipy.sparse.coo_array((2, 20, 30), dtype=bool)):
        out, lse = ruvattn.attention(q, k, v, mask=mask, return_lse=True)
        assert not out.any()
        assert np.isneginf(lse).all()
        out, lse = ruvattn.attention(q, k, v, mask=mask, sinks=[1.0, 2.0], return_lse=True)
        assert not out.any()
        assert np.array_equal(lse, np.broadcast_to(np.array([[1], [2]], np.float32), (2, 2, 20)))


def test_rows_without_pairs_beside_a_row_with_all():
    mask = scipy.sparse.lil_array((300, 3000), dtype=bool)
    mask[7] = True
    mask[200, [0, 2999]] = True
    for options in ({}, {"sinks": [0.5, -INF]}, {"bias": np.where(np.arange(3000) % 7, 0, -INF).astype(np.float32)}, {"dropout": 0.5, "seed": 3}):
        (out, lse), _ = assert_engines_agree(*make(28, 300, 3000, hq=2, hk=1), mask=mask.tocsr(), **options)
        empty = np.setdiff1d(np.arange(300), [7, 200])
        assert not out[:, empty].any()
        assert "sinks" in options or np.isneginf(lse[:, empty]).all()


def test_dropout_drops_the_same_weights():
    mask = sparse(29, (HQ, LQ, LK), 0.5)
    q, k, _ = make(29, LQ, LK, lead=LEAD, hq=HQ, hk=1)
    weights = np.broadcast_to(np.eye(LK, dtype=np.float32), (*LEAD, 1, LK, LK))  # what comes out are the weights
    kept = [kept_weights(0.4, 77, b, h, np.arange(LQ), LK) for b in range(6) for h in range(HQ)]
    expected = np.array(kept).reshape(*LEAD, HQ, LQ, LK) & mask.toarray()
    for engine in ENGINES:
        with on(engine):
            assert np.array_equal(ruvattn.attention(q, k, weights, mask=mask, dropout=0.4, seed=77) != 0, expected)


class Squares(Aggregate):
    def values(self, v):
        return np.concatenate([v**2, np.ones_like(v[..., :1])], -1)

    def finish(self, acc):
        return acc[..., :-1] / acc[..., -1:]


class Largest(Aggregate):
    linear = False

    def reduce(self, weights, v):
        return (weights[:, :, None] * v[None]).max(1)


def test_linear_aggregates_go_by_edges_and_others_see_whole_rows():
    q, k, v = make(30, LQ, LK, 8, 5, lead=(2,), hq=HQ, hk=HK)
    options = {"mask": sparse(30, (LQ, LK)), "sinks": np.array([1.0, -INF, 6.0, 0.0])}
    for aggregate, by_edges in ((Squares(), 1), (Largest(), 0)):
        for engine in ENGINES:
            with on(engine) as taken:
                found = ruvattn.attention(q, k, v, aggregate=aggregate, **options)
            assert len(taken) == (by_edges if engine == "edges" else 0)
            expected = reference.attention(q, k, v, aggregate=aggregate, **options)
            assert_close(found, expected, tolerance(q, k, v**2, options) * 2)


@needs_compiler
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_scores(library, name, dtype):
    q, k, v = make(31, LQ, LK, 9, 5, lead=(2,), hq=HEADS, hk=2, dtype=dtype)
    score = compiled(library, name)
    for options in (
        {"mask": sparse(31, (LQ, LK))},
        {"mask": sparse(32, (HEADS, LQ, LK), 0.3), "causal": True, "query_offset": np.array([3, 20]), "softcap": 3.0, "bias": np.ones(LK, dtype)},
    ):
        expected = reference.attention(q, k, v, score=SCORES[name](), return_lse=True, precision=oracle_dtype(dtype), **options)
        for engine in ENGINES:
            with on(engine) as taken:
                found = ruvattn.attention(q, k, v, score=score, return_lse=True, **options)
            assert len(taken) == (engine == "edges")
            for a, b in zip(found, expected, strict=True):
                # distances of 9 columns, squared or times a hundredth of a position: a few times the logits of dots
                assert_close(a, b, 8 * tolerance(q, k, np.maximum(np.abs(v), 1), options))


@pytest.mark.parametrize("name", SCORES)
def test_scores_in_numpy_keep_to_tiles(name):
    q, k, v = make(33, LQ, LK, 9, 5, lead=(2,), hq=HEADS, hk=2)
    with on("edges") as taken:
        found = ruvattn.attention(q, k, v, score=SCORES[name](), mask=sparse(33, (LQ, LK)))
    assert not taken
    expected = reference.attention(q, k, v, score=SCORES[name](), mask=sparse(33, (LQ, LK)))
    assert_close(found, expected, 8 * tolerance(q, k, np.maximum(np.abs(v), 1), {}))


def test_weights_and_logits_are_dense_all_the_same():
    q, k, _ = make(34, LQ, LK, hq=2, hk=1)
    mask = sparse(34, (LQ, LK))
    with on("edges") as taken:
        logits, weights = ruvattn.attention_logits(q, k, mask=mask), ruvattn.attention_weights(q, k, mask=mask)
    assert not taken
    assert np.array_equal(np.isneginf(logits), np.broadcast_to(~mask.toarray(), logits.shape))
    assert np.array_equal(weights > 0, np.broadcast_to(mask.toarray(), weights.shape))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_listed_has_no_influence(engine):
    q, k, v = make(35, LQ, LK, hq=2, hk=1)
    allowed = np.random.default_rng(35).random((LQ, LK)) < 0.1
    allowed[:, [4, 40]] = False
    allowed[[3, 9]] = False
    bias = np.zeros(LK, np.float32)
    bias[20] = -INF
    with on(engine):
        expected = ruvattn.attention(q, k, v, mask=scipy.sparse.csr_array(allowed), bias=bias, return_lse=True)
        for x, places in ((q, [3, 9]), (k, [4, 40, 20]), (v, [4, 40, 20])):
            x[:, places] = np.nan
            found = ruvattn.attention(q, k, v, mask=scipy.sparse.csr_array(allowed), bias=bias, return_lse=True)
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b, tolerance(q, k, v, {}))


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e25), ("float64", 1e200), ("float32", 1e-30)])
def test_finite_input_gives_finite_output(dtype, size):
    q, k, v = make(36, LQ, LK, dtype=dtype)
    q, k = q * q.dtype.type(size), k * k.dtype.type(size)
    mask = sparse(36, (LQ, LK), 0.2)
    with np.errstate(over="ignore"):
        expected = reference.attention(q, k, v, mask=mask, precision=np.longdouble)
    for engine in ENGINES:
        with on(engine):
            assert_close(ruvattn.attention(q, k, v, mask=mask), expected, 1e-5)


def test_the_result_is_written_where_it_is_wanted():
    q, k, v = make(37, LQ, LK, hq=2, hk=2)
    mask = sparse(37, (LQ, LK))
    with on("edges") as taken:
        expected = ruvattn.attention(q, k, v, mask=mask)
        room = np.full((2, 2 * LQ, 16), np.nan, np.float32)
        for out in (np.empty_like(q), room[:, ::-2, 4:12], np.empty((2, LQ, 16), np.float32)[..., ::2]):
            assert ruvattn.attention(q, k, v, mask=mask, out=out) is out
            assert np.array_equal(out, expected)
    assert len(taken) == 4
    assert np.isnan(room[:, ::2]).all()
    assert np.isnan(room[..., :4]).all()
    assert np.isnan(room[..., 12:]).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(dtype):
    q, k, v = make(38, 900, 1100, lead=(2,), hq=4, hk=2, dtype=dtype)
    hub = sparse(38, (900, 1100), 0.02).tolil()
    hub[450] = True
    every = (
        {"mask": hub.tocsr()}, {"mask": sparse(39, (4, 900, 1100), 0.02), "key_lengths": np.array([1100, 300])},
        {"mask": hub.tocsr(), "causal": True, "sinks": np.arange(4.0), "dropout": 0.3, "seed": 8, "bias": np.linspace(0, 9, 1100).astype(dtype)},
    )  # fmt: skip
    for options in every:
        with on("edges") as taken:
            once, *others = (ruvattn.attention(q, k, v, threads=n, return_lse=True, **options) for n in (1, 2, 3, 7))
        assert len(taken) == 4
        assert all(same_bits(a, b) for other in others for a, b in zip(once, other, strict=True))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_call(data):
    draw = data.draw
    lq, lk = draw(st.integers(1, 50)), draw(st.integers(1, 80))
    hk = draw(st.integers(1, 2))
    hq = hk * draw(st.integers(1, 3))
    lead = draw(st.sampled_from([(), (2,), (2, 2)]))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    mask = SparseMatrixMask(sparse(seed, draw(st.sampled_from([(lq, lk), (hq, lq, lk)])), draw(st.sampled_from([0.01, 0.1, 0.5, 1.0]))))
    options = {}
    if draw(st.booleans()):
        options["causal"] = True
    if draw(st.booleans()):
        options["window"] = draw(st.tuples(st.integers(-1, 40), st.integers(-1, 40)))
    if draw(st.booleans()):
        options["query_offset"] = rng.integers(-lq, lk, draw(st.sampled_from([(), lead])))
    if draw(st.booleans()):
        options["key_lengths"] = rng.integers(0, lk + 1, draw(st.sampled_from([(), lead])))
    other = draw(st.sampled_from(["none", "array", "pattern", "sparse"]))
    if other == "array":
        mask = mask & (rng.random(draw(_broadcast_to((*lead, hq, lq, lk)))) < 0.6)
    elif other == "pattern":
        mask = ~Window(2, 2) & mask & Window(30, -1)
    elif other == "sparse":
        mask = mask & sparse(seed + 1, (lq, lk), 0.5)
    if draw(st.booleans()):
        options["bias"] = _bias(rng, draw(_broadcast_to((*lead, hq, lq, lk))), 0.2)
    if draw(st.booleans()):
        options["sinks"] = rng.standard_normal(hq)
    if draw(st.booleans()):
        options |= {"dropout": 0.3, "seed": seed}
    if draw(st.booleans()):
        options["softcap"] = 1.5
    assert_engines_agree(*make(seed, lq, lk, draw(st.integers(1, 9)), 3, lead=lead, hq=hq, hk=hk), mask=mask, **options)


@st.composite
def _broadcast_to(draw, shape):
    """Shapes of two axes or more that broadcast to one."""
    axes = draw(st.integers(2, len(shape)))
    return tuple(draw(st.sampled_from([1, n])) for n in shape[-axes:])


# --- what a matrix says ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=ENGINES)
def engine(request):
    with on(request.param) as taken:
        yield request.param
    assert bool(taken) == (request.param == "edges")


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
def test_every_format(engine, form, kind):
    q, k, v = make(40, 24, 36, hq=2, hk=1)
    allowed = np.random.default_rng(40).random((24, 36)) < 0.1
    mask = getattr(scipy.sparse, f"{form}_{kind}")(scipy.sparse.coo_array(allowed))
    stored = allowed
    if form == "bsr":  # what is stored are blocks
        r, c = mask.blocksize
        stored = np.kron(allowed.reshape(24 // r, r, 36 // c, c).any((1, 3)), np.ones((r, c))).astype(bool)
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=stored), tolerance(q, k, v, {}))


def test_blocks_of_a_bsr_matrix(engine):
    q, k, v = make(41, 24, 36)
    blocks = np.random.default_rng(41).random((4, 6)) < 0.3
    allowed = np.kron(blocks, np.ones((6, 6), bool))
    mask = scipy.sparse.bsr_array(allowed.astype(np.int8), blocksize=(6, 6))
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=allowed), tolerance(q, k, v, {}))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float64, np.complex64])
def test_a_stored_zero_counts_and_values_do_not(engine, dtype):
    q, k, v = make(42, 3, 6)
    mask = scipy.sparse.csr_array((np.array([0, 1, 0, 0], dtype), np.array([1, 4, 0, 5]), np.array([0, 2, 2, 4])), shape=(3, 6))
    allowed = np.array([[0, 1, 0, 0, 1, 0], [0] * 6, [1, 0, 0, 0, 0, 1]], bool)
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=allowed), tolerance(q, k, v, {}))


def messy(seed, lq, lk, index):
    """A CSR matrix with rows in any order and half of the pairs twice, and what it means."""
    rng = np.random.default_rng(seed)
    allowed = rng.random((lq, lk)) < 0.15
    allowed[0] = False
    allowed[0, 3] = True  # at least one
    rows, keys = np.nonzero(allowed)
    twice = rng.random(rows.size) < 0.5
    twice[0] = True
    rows, keys = np.concatenate([rows, rows[twice]]), np.concatenate([keys, keys[twice]])
    order = rng.permutation(rows.size)
    order = order[np.argsort(rows[order], kind="stable")]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=lq))])
    return scipy.sparse.csr_array((np.ones(rows.size), keys[order].astype(index), indptr.astype(index)), shape=(lq, lk)), allowed


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_unsorted_and_repeated_indices_count_once(engine, index):
    q, k, v = make(43, 30, 40, hq=2, hk=2)
    mask, allowed = messy(43, 30, 40, index)
    assert mask.indices.dtype == index
    assert not mask.has_canonical_format
    before = mask.indices.copy()
    for options in ({}, {"causal": True, "query_offset": 4}, {"key_lengths": 20}):
        found = ruvattn.attention(q, k, v, mask=mask, **options)
        assert_close(found, reference.attention(q, k, v, mask=allowed, **options), tolerance(q, k, v, {}))
    assert np.array_equal(mask.indices, before)


def test_what_scipy_remembers_of_the_order_is_not_believed(engine):
    q, k, v = make(44, 30, 40)
    mask, allowed = messy(44, 30, 40, np.int32)
    mask.has_sorted_indices = mask.has_canonical_format = True
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=allowed), tolerance(q, k, v, {}))


def test_entries_beyond_the_last_pointer_are_none(engine):
    q, k, v = make(45, 2, 6)
    mask = scipy.sparse.csr_array((np.ones(3), np.array([1, 4, 0]), np.array([0, 2, 3])), shape=(2, 6))
    mask.indices, mask.data = np.array([1, 4, 0, 5, 99], np.int32), np.ones(5)
    allowed = np.array([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]], bool)
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=allowed), tolerance(q, k, v, {}))


def test_repeated_pairs_of_heads_count_once(engine):
    q, k, v = make(46, 5, 6, hq=2, hk=1)
    coords = np.array([[0, 0, 1, 1, 1], [2, 2, 4, 0, 4], [5, 5, 1, 3, 1]])
    mask = scipy.sparse.coo_array((np.zeros(5), tuple(coords)), shape=(2, 5, 6))
    allowed = np.zeros((2, 5, 6), bool)
    allowed[tuple(coords)] = True
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=allowed), tolerance(q, k, v, {}))


# --- which engine -------------------------------------------------------------------------------------------------------------------


def sets_of(mask, lq, lk, hq=1, **options):
    return edge_sets(read_call(*make(50, lq, lk, 2, hq=hq), mask=mask, **options))


def test_scattered_pairs_go_to_edges():
    assert sets_of(sparse(51, (2048, 2048), 0.01), 2048, 2048) is not None
    assert sets_of(sparse(52, (3, 512, 512), 0.01), 512, 512, 3) is not None
    assert sets_of(scipy.sparse.eye_array(600, format="csr"), 600, 600) is not None


def test_dense_blocks_go_to_tiles():
    blocks = np.random.default_rng(53).random((32, 32)) < 0.1
    assert sets_of(scipy.sparse.csr_array(np.kron(blocks, np.ones((64, 64), bool))), 2048, 2048) is None


def test_a_well_filled_matrix_goes_to_tiles():
    for mask in (SparseMatrixMask(sparse(54, (300, 300), 0.5)), scipy.sparse.csr_array(np.ones((300, 300)))):
        assert sets_of(mask, 300, 300) is None
        assert sets_of(mask & BoolMask(np.ones((1, 300), bool)), 300, 300) is None


def test_what_the_call_masks_does_not_count():
    q, k, v = make(55, 400, 400)
    mask = SparseMatrixMask(scipy.sparse.csr_array(np.ones((400, 400), bool)))
    assert edge_sets(read_call(q, k, v, mask=mask)) is None
    for options in ({"window": (1, 0)}, {"causal": True, "query_offset": -398}, {"key_lengths": 1}):
        sets = edge_sets(read_call(q, k, v, mask=mask, **options))
        pairs = np.isfinite(reference.attention_logits(q, k, mask=mask, **options)[0])
        assert np.array_equal(sets.indices, np.nonzero(pairs)[1])
        assert np.array_equal(np.diff(sets.indptr[0]), pairs.sum(-1))


@pytest.mark.parametrize(
    ("sets", "lq", "lk", "density"), [(1, 1, 1, 1), (1, 16, 32, 1), (1, 17, 33, 0.5), (3, 50, 100, 0.02), (2, 200, 70, 0.1), (2, 5, 5, 0)]
)
def test_the_rule_counts_cells_of_a_panel_and_the_keys_it_pays_to_leave_out(monkeypatch, sets, lq, lk, density):
    dense = np.random.default_rng(56).random((sets, lq, lk)) < density
    rows, keys = np.nonzero(dense.reshape(-1, lk))
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=sets * lq))])
    indptr = np.array([ends[s * lq : (s + 1) * lq + 1] for s in range(sets)])
    own = EdgeSets(indptr, keys.astype(np.int32), False, sets > 1)
    padded = np.pad(dense, ((0, 0), (0, -lq % 16), (0, -lk % 32)))
    cells = padded.reshape(sets, -1, 16, padded.shape[-1] // 32, 32).any((2, 4)).sum()
    for name, passing in (("PASSING_ADVANTAGE", True), ("TILE_ADVANTAGE", False)):
        call = SimpleNamespace(lq=lq, lk=lk, pattern=SimpleNamespace(passing=passing))
        for advantage, expected in ((0.999, True), (1.001, False)):  # of what makes both as fast
            monkeypatch.setattr(listed, name, advantage * cells * 16 * 32 / max(1, keys.size))
            assert listed._worth_it(own, call) == (expected and keys.size > 0)


def test_the_rule_holds_for_more_cells_than_are_marked_at_once(monkeypatch):
    lq, lk = 40, 2**30 - 1
    keys = np.array([0, 31, 32, lk - 1, 5, 5, lk - 1], np.int32)
    own = EdgeSets(np.searchsorted([0, 0, 0, 15, 16, 39, 39], np.arange(lq + 1))[None], keys, False, False)
    call = SimpleNamespace(lq=lq, lk=lk, pattern=SimpleNamespace(passing=False))
    cells = 3 + 1 + 2  # rows 0 to 15, 16 to 31 and 32 to 39
    for advantage, expected in ((0.999, True), (1.001, False)):
        monkeypatch.setattr(listed, "TILE_ADVANTAGE", advantage * cells * 16 * 32 / keys.size)
        assert listed._worth_it(own, call) == expected


# --- listed once ----------------------------------------------------------------------------------------------------------------------


class Listed(Pattern):
    """Every seventh key from the row's number on; counts how often it is asked to list them."""

    positional = False
    scattered = True

    def __init__(self, by_head=False, by_batch=False):
        self.by_head, self.by_batch = by_head, by_batch
        self.asked = 0

    def allowed(self, i, j, *, head=0, batch=0):
        return (j - i - head - 2 * batch) % 7 == 0

    def pairs(self, i0, i1, lk, *, head=0, batch=0):
        self.asked += 1
        return super().pairs(i0, i1, lk, head=head, batch=batch)


@pytest.fixture
def edges():
    with on("edges") as taken:
        yield taken


def test_pairs_of_a_pattern_are_listed_once_for_each_shape(edges):
    pattern = Listed()
    arrays = make(60, 20, 30, lead=(3,), hq=4, hk=2)
    first = ruvattn.attention(*arrays, mask=pattern)
    assert pattern.asked == 1
    assert same_bits(ruvattn.attention(*arrays, mask=pattern), first)
    ruvattn.attention(*make(61, 20, 30, 5, hq=2), mask=pattern, bias=np.ones(30, np.float32))  # another number of heads, which all share them
    assert pattern.asked == 1
    assert edges[0] is edges[1] is edges[2]
    for asked, options in enumerate(({"causal": True}, {"window": (3, 3)}, {"key_lengths": 9}, {"causal": True, "query_offset": 2}), 2):
        for _ in range(2):
            ruvattn.attention(*arrays, mask=pattern, **options)
            assert pattern.asked == asked
    ruvattn.attention(*make(62, 21, 30), mask=pattern)
    ruvattn.attention(*make(62, 20, 31), mask=pattern)
    assert pattern.asked == 7
    ruvattn.attention(*arrays, mask=Listed())
    assert pattern.asked == 7


def test_sets_are_listed_for_those_that_differ(edges):
    arrays = make(63, 20, 30, lead=(3,), hq=4, hk=2)
    for by_head, by_batch, lengths, asked in ((True, False, 30, 4), (False, True, 30, 3), (True, True, 30, 12), (False, False, np.arange(3), 3)):
        pattern = Listed(by_head, by_batch)
        for _ in range(2):
            assert_agrees(*arrays, mask=pattern, key_lengths=lengths)
        assert pattern.asked == asked


def test_kept_pairs_are_those_of_this_call(edges):
    arrays = make(64, 20, 30, lead=(3,), hq=4, hk=2)
    pattern = Listed(by_head=True)
    for options in (
        {}, {"causal": True}, {"causal": True, "query_offset": np.array([3, 0, -5])}, {"causal": True, "query_offset": np.array([3, 0, 5])},
        {"key_lengths": np.array([3, 0, 5])}, {"key_lengths": np.array([3, 0, 6])}, {"window": (3, -1)}, {"window": (-1, 3)},
    ):  # fmt: skip
        for _ in range(2):
            assert_agrees(*arrays, mask=pattern, **options)
    assert len(edges) == 16


def test_that_tiles_are_faster_is_remembered_too():
    pattern = Listed()
    arrays = make(65, 40, 50)
    with on("tiles") as taken:
        for _ in range(3):
            assert_agrees(*arrays, mask=pattern)
    assert pattern.asked == 1
    assert not taken


def test_an_array_is_read_anew_each_time(edges):
    q, k, v = make(66, 20, 30)
    allowed = np.ones((20, 30), bool)
    pattern = Listed()
    mask = pattern & allowed
    for asked in (1, 2):
        assert_agrees(q, k, v, mask=mask)
        assert pattern.asked == asked
        allowed[:, ::2] = False
    found = ruvattn.attention(q, k, v, mask=mask)
    i, j = np.arange(20)[:, None], np.arange(30)
    assert_close(found, reference.attention(q, k, v, mask=allowed & ((j - i) % 7 == 0)), tolerance(q, k, v, {}))


def test_a_matrix_is_read_anew_each_time_and_a_pattern_of_it_stays_what_it_is(edges):
    q, k, v = make(67, 20, 30)
    mask = sparse(67, (20, 30))
    pattern = SparseMatrixMask(mask)
    before = mask.toarray()
    assert_agrees(q, k, v, mask=mask)
    mask.indices[:] = 29 - mask.indices
    after = mask.toarray()
    assert (before != after).any()
    assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=after), tolerance(q, k, v, {}))
    assert_close(ruvattn.attention(q, k, v, mask=pattern), reference.attention(q, k, v, mask=before), tolerance(q, k, v, {}))


# --- memory, and patterns that answer wrongly -----------------------------------------------------------------------------------------


def peak_of(*arrays, **options):
    tracemalloc.start()
    try:
        ruvattn.attention(*arrays, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_rows_and_pairs():
    n = 30_000
    rng = np.random.default_rng(70)
    mask = scipy.sparse.csr_array((np.ones(4 * n, bool), (np.repeat(np.arange(n), 4), rng.integers(0, n, 4 * n))), shape=(n, n))
    assert peak_of(*make(70, n, n, 4), mask=mask, causal=True) < 40 * 4 * n + 30 * 4 * n  # a few numbers a pair, and the output and the like


def test_a_bias_takes_no_more_than_a_number_for_each_pair_of_a_set(edges):
    lead, heads, n = (8,), 8, 128
    arrays = make(71, n, n, 4, lead=lead, hq=heads)
    mask = SparseMatrixMask(sparse(71, (heads, n, n), 0.05))
    lengths = np.full(8, n) - np.arange(8)  # so that each of the 64 has a set of its own
    pairs = mask._indices.size * 8
    bias = np.zeros((*lead, heads, n, n), np.float32)
    without, beside = peak_of(*arrays, mask=mask, key_lengths=lengths), peak_of(*arrays, mask=mask, key_lengths=lengths, bias=bias)
    assert beside - without < 3 * 8 * pairs


class Wrong(Pattern):
    """Lists what it is told to."""

    scattered = True

    def __init__(self, indptr, indices):
        self.answer = indptr, indices

    def allowed(self, i, j, *, head=0, batch=0):
        return (i + j) % 2 == 0

    def pairs(self, i0, i1, lk, *, head=0, batch=0):
        return self.answer


@pytest.mark.parametrize(
    ("indptr", "indices"),
    [
        ([0, 1, 2, 3], [0, 4, 1]), ([0, 1, 2, 3], [0, -1, 1]), ([0, 1, 2, 3], [0, 2**32, 1]), ([0, 2, 1, 3], [0, 1, 2]), ([1, 1, 2, 3], [0, 1, 2]),
        ([0, 1, 2], [0, 1]), ([0, 1, 2, 4], [0, 1, 2]), ([0, 1, 2, 3], [[0, 1, 2]]), ([0, 1, 2, 3], [0.0, 1.0, 2.0]), ([0, 1, 2, 2], [0, 1, 2]),
    ],
)  # fmt: skip
def test_pairs_that_are_none_are_refused_by_name(edges, indptr, indices):
    pattern = Wrong(np.array(indptr), np.array(indices))
    for mask in (pattern, pattern & np.ones((3, 4), bool), ~Causal() & pattern):
        with pytest.raises(InvalidInputError, match=r"Wrong\.pairs\(0, 3, 4\) must return"):
            ruvattn.attention(*make(72, 3, 4), mask=mask)
    assert not edges


@pytest.mark.parametrize("answer", [None, 3, (np.arange(4),), (np.arange(4), np.arange(3), True), ([[0], [0, 1]], [0])], ids=repr)
def test_what_is_no_two_arrays_is_refused(edges, answer):
    pattern = Wrong([], [])
    pattern.answer = answer
    with pytest.raises(InvalidInputError, match=r"Wrong\.pairs\(0, 3, 4\) must return two arrays"):
        ruvattn.attention(*make(72, 3, 4), mask=pattern)


def test_what_a_pattern_raises_comes_through(edges):
    class Stubborn(Listed):
        def pairs(self, i0, i1, lk, *, head=0, batch=0):
            raise ValueError("on purpose")

    for mask in (Stubborn(), ~Causal() & Stubborn()):
        with pytest.raises(ValueError, match=r"^on purpose$"):
            ruvattn.attention(*make(72, 3, 4), mask=mask)


def test_pairs_may_come_in_any_order_and_kind_of_integers(edges):
    q, k, v = make(73, 3, 4)
    expected = reference.attention(q, k, v, mask=np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0]], bool))
    indices = np.array([3, 0, 2, 0, 1])
    for keys in (indices.astype(np.uint8), indices.astype(np.int16), np.repeat(indices.astype(np.int32), 2)[::2], indices.astype(np.uint64)):
        for indptr in (np.array([0, 2, 2, 5]), np.array([0, 2, 2, 5], np.int32), np.array([0, 2, 2, 5], np.uint8)):
            assert_close(ruvattn.attention(q, k, v, mask=Wrong(indptr, keys)), expected, tolerance(q, k, v, {}))


class OneBuffer(Pattern):
    """One key a row, another one for each head, which `pairs` writes to the same array whenever it is asked."""

    positional, scattered, by_head = False, True, True

    def __init__(self, keys):
        self.keys, self.buffer = keys, np.zeros(keys, np.int32)

    def allowed(self, i, j, *, head=0, batch=0):
        return (7 * i + head) % self.keys == j

    def pairs(self, i0, i1, lk, *, head=0, batch=0):
        found = self.buffer[: i1 - i0]
        found[:] = (7 * np.arange(i0, i1) + head) % self.keys
        return np.arange(i1 - i0 + 1), found


def test_a_pattern_may_use_one_array_for_all_of_its_answers():
    q, k, v = make(3, 60, 80, hq=3, hk=3)
    assert_engines_agree(q, k, v, mask=OneBuffer(80))


def test_what_a_pattern_writes_to_its_answer_later_is_not_looked_at():
    q, k, v = make(4, 60, 80)
    with on("edges") as taken:
        pattern = OneBuffer(80)
        first = ruvattn.attention(q, k, v, mask=pattern)
        pattern.buffer[:] = 2**30  # an index that far out is memory of somebody else
        assert same_bits(first, ruvattn.attention(q, k, v, mask=pattern))
    assert len(taken) == 2
