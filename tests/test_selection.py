"""The best keys of each row: exact by any score and under any mask, ties to the lower key, and attention over those alone."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_close, compute_dtype, epsilon, make, oracle_dtype, same_bits, tolerance, use_isa
from example_scores import COMPILED, COMPILER, HEADS, SCORES, Rbf, build_library, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import Aggregate, Causal, KeyLengths, Pattern, Score, Window, attention_topk, isa, planning, reference, selection, topk_attention
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnknownVariantError, UnsupportedError
from ruvattn.selection import ChosenKeys, choose_keys
from ruvattn.testing import check_pattern

INF = np.inf
TILE = {"float32": 240, "float64": 120}  # keys
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@pytest.fixture(params=isa.supported_isas())
def build(request):
    """Each instruction set in turn."""
    with use_isa(request.param):
        yield request.param


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("score"))


@pytest.fixture
def several_plans(monkeypatch):
    """Patterns are planned a block of rows at a time."""
    monkeypatch.setattr(planning, "WORD_BUDGET", 1)


def whole(seed, lq, lk, d=3, *, lead=(), hq=1, hk=1, dtype=np.float32):
    """Queries and keys of −1, 0 and 1: with a scale of 1, logits are exact in every dtype and most of them are equal to others."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-1, 2, shape).astype(dtype) for shape in ((*lead, hq, lq, d), (*lead, hk, lk, d)))


def ranked(logits, top_k):
    """Keys and logits of the best by sorting, −1 and −inf where there are no more."""
    logits = np.where(np.isnan(logits), -INF, logits)
    order = np.argsort(-logits, -1, kind="stable")[..., :top_k]
    best = np.take_along_axis(logits, order, -1)
    missing = [(0, 0)] * (best.ndim - 1) + [(0, top_k - best.shape[-1])]
    return np.pad(np.where(best == -INF, -1, order), missing, constant_values=-1), np.pad(best, missing, constant_values=-INF)


def assert_exact(q, k, top_k, **options):
    """The choice is that of sorting the oracle's logits, which are exact in float64 for what `whole` makes; returns it."""
    found, logits = attention_topk(q, k, top_k=top_k, scale=1.0, **options)
    expected, best = ranked(reference.attention_logits(q, k, scale=1.0, **options), top_k)
    assert found.dtype == np.int64
    assert logits.dtype == q.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(logits.astype(np.float64), best)
    return found


def assert_sorted(q, k, top_k, **options):
    """The choice is that of sorting the engine's own logits, to the bit; returns it."""
    found, logits = attention_topk(q, k, top_k=top_k, **options)
    wide = compute_dtype(q.dtype)
    expected, best = ranked(ruvattn.attention_logits(q.astype(wide), k.astype(wide), **options), top_k)
    assert logits.dtype == q.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(logits, best.astype(q.dtype))
    return found


def dense(chosen, lk):
    """Indices as a mask."""
    mask = np.zeros((*chosen.shape[:-1], lk + 1), bool)
    np.put_along_axis(mask, chosen, True, -1)  # −1 is the column that there is none of
    return mask[..., :lk]


def seen(pattern, call_shape):
    """What a choice allows, as a mask (..., Hq, Lq, Lk)."""
    *lead, heads, lq, lk = call_shape
    i, j = np.arange(lq)[:, None], np.arange(lk)[None, :]
    batch = int(np.prod(lead))
    planes = [pattern.allowed(i, j, head=h, batch=b) for b in range(batch) for h in range(heads)]
    return np.array(planes, bool).reshape(call_shape)


def full_shape(q, k):
    return (*q.shape[:-1], k.shape[-2])


# --- the choice ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 7, 8, 31, 32, 33, 100, 299, 300, 301, 500])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_any_number_of_keys_in_every_dtype(dtype, top_k):
    assert_sorted(*make(0, 21, 300, hq=2, hk=1, dtype=dtype)[:2], top_k)
    assert_exact(*whole(0, 21, 300, hq=2, hk=1, dtype=dtype), top_k)


@pytest.mark.parametrize("lk", [1, 2, 5, 119, 120, 121, 239, 240, 241, 480, 1000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_queries_and_keys_in_every_build(build, dtype, lk):
    for lq in (1, 7, 8, 17, 33):
        assert_exact(*whole(lk, lq, lk, dtype=dtype), 5)
        assert_sorted(*make(lk, lq, lk, 9, dtype=dtype)[:2], 5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_of_equal_logits_the_lower_key_comes_first(build, dtype):
    lk = 2 * TILE[dtype] + 7
    for top_k in (1, 3, TILE[dtype] - 1, TILE[dtype], TILE[dtype] + 1, lk):
        found, logits = attention_topk(np.zeros((3, 4), dtype), np.ones((lk, 4), dtype), top_k=top_k)
        assert np.array_equal(found, np.broadcast_to(np.arange(top_k), (3, top_k)))
        assert not logits.any()


@pytest.mark.parametrize("top_k", [1, 2, 10])
def test_an_equal_logit_of_a_later_tile_does_not_take_a_place(build, top_k):
    k = np.zeros((5 * TILE["float32"], 1), np.float32)
    ones = np.array([3, 239, 240, 241, 479, 480, 700, 960, 1199])
    k[ones] = 1
    others = np.setdiff1d(np.arange(len(k)), ones)
    found, _ = attention_topk(np.ones((2, 1), np.float32), k, top_k=top_k)
    assert np.array_equal(found[0], np.concatenate([ones, others])[:top_k])
    assert np.array_equal(found[1], found[0])


@pytest.mark.parametrize("lk", [2047, 2048, 2049, 3 * 1024, 5000, 9001])
@pytest.mark.parametrize("dtype", FLOATS)
def test_splits_of_the_keys_are_merged(build, dtype, lk):
    for top_k in (1, 6, 40, 1500):
        assert_exact(*whole(lk, 3, lk, 2, dtype=dtype), top_k)
    assert_sorted(*make(lk, 20, lk, 5, hq=2, hk=1, dtype=dtype)[:2], 11)


ORDERS = {
    "rising": lambda rng, n: np.arange(n),
    "to the middle": lambda rng, n: np.minimum(np.arange(n), n - np.arange(n)),
    "from the middle": lambda rng, n: np.abs(np.arange(n) - n // 2),
    "alternating": lambda rng, n: np.arange(n) * (-1.0) ** np.arange(n),
    "saw": lambda rng, n: np.arange(n) % 37,
    "two values": lambda rng, n: rng.integers(0, 2, n),
    "rising steps": lambda rng, n: np.arange(n) // 50,
    "by orders of magnitude": lambda rng, n: rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-37, 37, n),
    "subnormal": lambda rng, n: rng.integers(-99, 99, n) * 1e-44,
    "one far above": lambda rng, n: np.where(np.arange(n) == n // 3, 1e37, rng.standard_normal(n)),
    "one far below": lambda rng, n: np.where(np.arange(n) == n // 3, -1e37, rng.standard_normal(n)),
    "infinite": lambda rng, n: np.where(np.arange(n) % 9 == 4, INF, rng.standard_normal(n)),
    "infinite or not there": lambda rng, n: np.where(np.arange(n) % 9 == 4, INF, np.where(np.arange(n) % 2, np.nan, 1)),
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_keys_may_come_in_any_order(build, dtype, order):
    for lk in (1000, 4000):  # in one go, and in splits
        k = ORDERS[order](np.random.default_rng(0), lk).astype(dtype)
        expected = np.stack([k, -k])  # one query sees them upside down
        for top_k in (1, 8, 31, 32, 33, 64, 100, 700):
            keys, logits = ranked(expected, top_k)
            found = attention_topk(np.array([[1], [-1]], dtype), k[:, None], top_k=top_k, scale=1.0)
            np.testing.assert_array_equal(found[0], keys)
            np.testing.assert_array_equal(found[1], logits)
            pattern = choose_keys(np.array([[1], [-1]], dtype), k[:, None], top_k=top_k, top_p=None, scale=1.0)
            np.testing.assert_array_equal(seen(pattern, (1, 2, lk))[0], dense(keys, lk))


def test_a_split_without_a_key_to_see_adds_nothing():
    q, k = whole(1, 4, 6000)
    for first, last in ((0, 5), (1020, 1030), (3000, 3500), (5990, 6000)):
        bias = np.full(6000, -INF, np.float32)
        bias[first:last] = 0
        assert_exact(q, k, 20, bias=bias)
    assert_exact(q, k, 20, key_lengths=1)
    assert_exact(q, k, 20, window=(10, 3), query_offset=4000)


def test_more_than_there_are_leaves_the_last_places_empty():
    q, k = whole(2, 5, 3)
    found, logits = attention_topk(q, k, top_k=6, causal=True)
    assert (found[0] >= 0).sum(-1).tolist() == [1, 2, 3, 3, 3]
    assert np.array_equal(found < 0, np.isneginf(logits))
    assert (found[..., 3:] == -1).all()


@pytest.mark.parametrize(("lead", "lq", "lk"), [((), 4, 0), ((), 0, 5), ((), 0, 0), ((0,), 4, 5), ((2, 0), 4, 5), ((2,), 4, 0)])
def test_nothing_to_choose_from_or_for(lead, lq, lk):
    q, k, v = make(3, lq, lk, 4, 6, lead=lead, hq=2, hk=1)
    found, logits = attention_topk(q, k, top_k=3)
    assert found.shape == logits.shape == (*lead, 2, lq, 3)
    assert (found == -1).all()
    assert np.isneginf(logits).all()
    for options in ({"top_k": 3}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.5}):
        out, lse = topk_attention(q, k, v, return_lse=True, **options)
        assert out.shape == (*lead, 2, lq, 6)
        assert not out.any()
        assert np.isneginf(lse).all()


def test_two_axes_are_one_head():
    q, k, v = make(4, 6, 20)
    found = attention_topk(q[0], k[0], top_k=3)
    assert all(same_bits(a, b[0]) for a, b in zip(found, attention_topk(q, k, top_k=3), strict=True))
    assert same_bits(topk_attention(q[0], k[0], v[0], top_k=3), topk_attention(q, k, v, top_k=3)[0])


@pytest.mark.parametrize(("lead", "hq", "hk"), [((), 1, 1), ((3,), 4, 2), ((2, 2), 3, 1), ((1,), 6, 6)])
def test_heads_and_batch_entries_choose_for_themselves(lead, hq, hk):
    assert_exact(*whole(5, 10, 40, lead=lead, hq=hq, hk=hk), 4)
    q, k, _ = make(5, 10, 40, lead=lead, hq=hq, hk=hk)
    found = assert_sorted(q, k, 4)
    assert same_bits(found, attention_topk(q, np.repeat(k, hq // hk, -3), top_k=4)[0])


def test_any_strides():
    big = np.random.default_rng(6).integers(-1, 2, (2, 3, 90, 40)).astype(np.float32)
    assert_exact(big[0, ::-1, ::-2, ::3], big[1, :, 5:80, 14:28], 6)


# name -> (options for a generator and a call (2, 3) × 4 heads × 37 × 50)
OPTIONS = {
    "causal": lambda rng: {"causal": True},
    "window": lambda rng: {"window": (5, 3)},
    "window to the left": lambda rng: {"window": (4, -1), "causal": True},
    "offset": lambda rng: {"causal": True, "query_offset": 9},
    "negative offset": lambda rng: {"causal": True, "query_offset": -7},
    "offset of each": lambda rng: {"window": (6, 2), "query_offset": np.array([[0, -8, 3], [20, 60, -40]])},
    "offset from the end": lambda rng: {"causal": True, "query_offset": "end", "key_lengths": np.array([[50, 40, 1], [0, 37, 10]])},
    "key lengths": lambda rng: {"key_lengths": np.array([[50, 3, 0], [1, 49, 7]])},
    "mask": lambda rng: {"mask": rng.random((37, 50)) < 0.3},
    "mask of heads": lambda rng: {"mask": rng.random((4, 37, 50)) < 0.1},
    "mask of entries": lambda rng: {"mask": rng.random((3, 1, 37, 50)) < 0.3},
    "mask with empty rows": lambda rng: {"mask": (rng.random((37, 50)) < 0.3) & (np.arange(37) % 3 > 0)[:, None]},
    "nothing": lambda rng: {"mask": np.zeros((37, 50), bool)},
    "sparse mask": lambda rng: {"mask": scipy.sparse.random_array((37, 50), density=0.1, rng=rng)},
    "sparse mask of heads": lambda rng: {"mask": scipy.sparse.coo_array(rng.random((4, 37, 50)) < 0.05)},
    "pattern": lambda rng: {"mask": Window(9, 4)},
    "pattern of an offset": lambda rng: {"mask": Causal(), "query_offset": np.array([[0, -8, 3], [20, 60, -40]])},
    "pattern of entries": lambda rng: {"mask": KeyLengths([50, 3, 0, 1, 49, 7])},
    "composition": lambda rng: {"mask": (Window(9, 4) | (rng.random((37, 50)) < 0.1)) & ~Window(1, 1), "query_offset": 2},
    "bias": lambda rng: {"bias": rng.integers(-2, 3, (37, 50)).astype(np.float32)},
    "bias that masks": lambda rng: {"bias": np.where(rng.random((3, 4, 37, 50)) < 0.7, -INF, rng.integers(-2, 3, 50)).astype(np.float32)},
    "several": lambda rng: {
        "causal": True, "query_offset": 13, "key_lengths": 45, "mask": rng.random((4, 37, 50)) < 0.5,
        "bias": np.where(rng.random(50) < 0.1, -INF, rng.integers(-2, 3, 50)).astype(np.float32),
    },
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_masks_and_biases(build, option):
    options = OPTIONS[option](np.random.default_rng(7))
    for top_k in (1, 6, 50):
        assert_exact(*whole(7, 37, 50, lead=(2, 3), hq=4, hk=2), top_k, **options)
    assert_sorted(*make(7, 37, 50, lead=(2, 3), hq=4, hk=2)[:2], 6, **options)


@pytest.mark.parametrize("option", OPTIONS)
def test_attention_over_the_best_is_attention_under_their_mask(option):
    options = OPTIONS[option](np.random.default_rng(8))
    q, k, v = make(8, 37, 50, 6, 5, lead=(2, 3), hq=4, hk=2)
    for count in ({"top_k": 5}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.9}):
        found = topk_attention(q, k, v, **count, return_lse=True, **options)
        masks = {name: x for name, x in options.items() if name in ("mask", "causal", "window")}
        rest = {name: x for name, x in options.items() if name not in masks}
        mask = seen(choose_keys(q, k, **{"top_k": None, "top_p": None} | count, **options), full_shape(q, k))
        if "top_p" not in count:
            assert np.array_equal(mask, dense(attention_topk(q, k, **count, **options)[0], 50))
        expected = reference.attention(q, k, v, mask=mask, return_lse=True, **rest)
        assert_close(found[0], expected[0], tolerance(q, k, v, options))
        assert_close(found[1], expected[1], 2 * tolerance(q, k, np.ones(1, np.float32), options))


def test_what_is_chosen_has_been_seen():
    rng = np.random.default_rng(9)
    mask = rng.random((40, 60)) < 0.2
    q, k, _ = make(9, 40, 60)
    found = attention_topk(q, k, top_k=10, mask=mask, causal=True)[0]
    assert not (dense(found, 60) & ~(mask & np.tri(40, 60, dtype=bool))).any()
    assert np.array_equal((found >= 0).sum(-1)[0], np.minimum((mask & np.tri(40, 60, dtype=bool)).sum(-1), 10))


@pytest.mark.parametrize("dtype", FLOATS)
def test_patterns_in_several_plans(build, several_plans, dtype):
    rng = np.random.default_rng(10)
    q, k = whole(10, 150, 700, hq=2, hk=2, dtype=dtype)
    for mask in (Window(20, 30), scipy.sparse.random_array((150, 700), density=0.05, rng=rng), Causal() & (rng.random((2, 150, 700)) < 0.4)):
        assert_exact(q, k, 9, mask=mask, query_offset=100)


def test_a_pattern_beside_splits_of_the_keys():
    q, k = whole(11, 5, 6000)
    mask = scipy.sparse.random_array((5, 6000), density=0.02, rng=np.random.default_rng(11))
    assert_exact(q, k, 30, mask=mask)
    assert_exact(q, k, 30, mask=Window(3000, 100), query_offset=5000)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_softcap_and_scale_of_each_head(dtype):
    q, k, _ = make(12, 30, 100, hq=3, hk=1, dtype=dtype)
    assert_sorted(q, k, 7, softcap=0.8, scale=np.array([0.5, -2.0, 0.0]), bias=np.linspace(-1, 1, 100).astype(compute_dtype(dtype)))


@pytest.mark.parametrize("name", SCORES)
def test_scores_in_numpy(name):
    score = SCORES[name]()
    q, k, _ = make(13, 20, 450, 9, hq=HEADS, hk=2)  # more keys than a tile of theirs
    found = attention_topk(q, k, top_k=6, score=score, causal=True, query_offset=300)
    expected, best = ranked(ruvattn.attention_logits(q, k, score=score, causal=True, query_offset=300), 6)
    # tiles of other heights: what NumPy makes of a function may differ in the last place
    assert_close(found[1], best, 1e-5)
    same = found[0] == expected
    assert same.mean() > 0.99
    assert np.array_equal(found[0] < 0, expected < 0)


@needs_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_scores(build, library, name):
    score = compiled(library, name)
    assert_sorted(*make(14, 20, 450, 9, hq=HEADS, hk=2)[:2], 6, score=score)
    assert_sorted(*make(14, 3, 2500, 9, lead=(1,), hq=HEADS, hk=2)[:2], 6, score=score, causal=True, query_offset=2000)


def test_what_a_score_raises_comes_through():
    class Stubborn(Score):
        def logits(self, t):
            raise ZeroDivisionError("on purpose")

    q, k, v = make(15, 5, 6)
    for call in (lambda: attention_topk(q, k, top_k=2, score=Stubborn()), lambda: topk_attention(q, k, v, top_p=0.5, score=Stubborn())):
        with pytest.raises(ZeroDivisionError, match="on purpose"):
            call()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_call(data):
    draw = data.draw
    lq, lk = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 9, 100, 239, 241, 500, 2100]))
    hk = draw(st.integers(1, 2))
    hq = hk * draw(st.integers(1, 3))
    lead = draw(st.sampled_from([(), (2,), (1, 2)]))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    options = {}
    if draw(st.booleans()):
        options["causal"] = True
    if draw(st.booleans()):
        options["window"] = draw(st.tuples(st.integers(-1, 30), st.integers(-1, 30)))
    if draw(st.booleans()):
        options["query_offset"] = draw(st.integers(-20, lk))
    if draw(st.booleans()):
        options["key_lengths"] = rng.integers(0, lk + 1, lead)
    kind = draw(st.sampled_from(["none", "array", "sparse", "pattern"]))
    allowed = rng.random((lq, lk)) < draw(st.sampled_from([0.02, 0.5, 1.0]))
    if kind != "none":
        options["mask"] = {"array": allowed, "sparse": scipy.sparse.csr_array(allowed), "pattern": allowed & Window(lk // 2, 3)}[kind]
    dtype = draw(st.sampled_from(list(FLOATS)))
    assert_exact(*whole(seed, lq, lk, lead=lead, hq=hq, hk=hk, dtype=dtype), draw(st.integers(1, lk + 3)), **options)


# --- what isn't finite ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_never_chosen(build, dtype):
    q, k, _ = make(16, 20, 300, dtype=dtype)
    k[0, [0, 17, 240, 299]] = np.nan
    q[0, 3] = np.nan
    bias = np.zeros(300, dtype)
    bias[[0, 17, 240, 299]] = -INF
    clean = q.copy()
    clean[0, 3] = 0
    found, logits = attention_topk(q, k, top_k=9)
    expected, best = attention_topk(clean, np.nan_to_num(k), top_k=9, bias=bias)
    others = np.arange(20) != 3
    assert same_bits(found[:, others], expected[:, others])
    assert same_bits(logits[:, others], best[:, others])
    assert (found[:, 3] == -1).all()
    assert np.isneginf(logits[:, 3]).all()
    assert (attention_topk(q, k, top_k=300)[0] >= 0).sum(-1)[0].tolist() == [296] * 3 + [0] + [296] * 16


@pytest.mark.parametrize("count", [{"top_k": 5}, {"top_p": 0.05}, {"top_k": 5, "top_p": 0.05}, {"top_p": 0.7}], ids=str)
def test_a_key_that_is_nan_changes_nothing_that_others_get(count):
    q, k, v = make(17, 18, 300)
    k[0, 200:] *= 0.01
    keep = np.arange(300) != 7
    expected = topk_attention(q, k[:, keep], v[:, keep], **count)
    k[0, 7] = np.nan
    assert_close(topk_attention(q, k, v, **count), expected, tolerance(q, k, v, {}))


def test_minus_infinity_in_the_bias_masks():
    q, k = whole(18, 6, 40)
    bias = np.full((6, 40), -INF, np.float32)
    bias[2, 5:8] = 0
    found = assert_exact(q, k, 5, bias=bias)
    assert (found[0, [0, 1, 3, 4, 5]] == -1).all()
    assert sorted(found[0, 2].tolist()) == [-1, -1, 5, 6, 7]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e25), ("float64", 1e200), ("bfloat16", 1e25)])
def test_logits_beyond_the_dtype_are_told_apart(dtype, size):
    q, k, v = (x.astype(DTYPES[dtype]) for x in (x * s for x, s in zip(make(19, 12, 200, dtype=np.float64), (size, size, 1), strict=True)))
    wide = reference.attention_logits(q, k, precision=np.longdouble)
    expected, best = ranked(wide, 5)
    found, logits = attention_topk(q, k, top_k=5)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(logits.astype(np.float64)).all()
    assert np.array_equal(np.signbit(logits), np.signbit(best))
    # weights so far from each other that one key has all of it
    for count in ({"top_p": 0.9}, {"top_p": 0.9, "top_k": 3}):
        np.testing.assert_array_equal(seen(choose_keys(q, k, **{"top_k": None} | count), (1, 12, 200)), dense(expected[..., :1], 200))
    np.testing.assert_array_equal(topk_attention(q, k, v, top_k=4), v[0, expected[..., 0]])
    below = attention_topk(np.abs(q), -np.abs(k), top_k=250)
    assert (below[0][..., :200] >= 0).all()
    assert np.isfinite(below[1][..., :200].astype(np.float64)).all()
    assert np.isneginf(below[1][..., 200:].astype(np.float64)).all()


# --- the fewest that make up most of the weight -----------------------------------------------------------------------------------


def assert_nucleus(q, k, top_p, top_k=None, **options):
    """The choice is the best keys of each row, as many as reach the share and no more; returns how many."""
    wide = compute_dtype(q.dtype)
    upcast = q.astype(wide), k.astype(wide)
    pattern = choose_keys(q, k, top_k=top_k, top_p=top_p, **options)
    lq, lk = q.shape[-2], k.shape[-2]
    found = seen(pattern, full_shape(q, k))
    counts = found.sum(-1)
    logits = ruvattn.attention_logits(*upcast, **options).astype(np.longdouble)
    order, best = ranked(logits, lk)
    ranks = np.where(np.arange(lk) < counts[..., None], order, -1)
    np.testing.assert_array_equal(found, dense(ranks, lk))
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(np.exp(best - best[..., :1]))
        mass = np.cumsum(weights, -1) / weights.sum(-1, keepdims=True)
    # as good as the sum over all keys is known
    slack = epsilon(wide) * (8 + lk + np.abs(np.where(np.isfinite(best), best, 0)).max())
    possible = (best > -INF).sum(-1)
    most = np.minimum(possible, lk if top_k is None else top_k)
    assert (counts <= most).all()
    for row in np.ndindex(*q.shape[:-2], lq):
        n = counts[row]
        if most[row] == 0:
            assert n == 0
            continue
        assert n >= 1
        assert n == most[row] or mass[row][n - 1] >= top_p - slack
        assert n == 1 or mass[row][n - 2] < top_p + slack
    return counts


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0, np.float32(0.5)])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_fewest_keys_that_reach_the_share(dtype, top_p):
    for size in (1, 30):
        q, k, _ = make(20, 25, 500, hq=2, hk=1, dtype=np.float64)
        assert_nucleus((q * size).astype(dtype), k.astype(dtype), top_p)


@pytest.mark.parametrize("top_k", [1, 3, 32, 33, 200, 5000])
def test_at_most_so_many(top_k):
    q, k, _ = make(21, 25, 500)
    q *= np.linspace(0.1, 10, 25, dtype=np.float32)[:, None]
    counts = assert_nucleus(q, k, 0.8, top_k)
    assert counts.max() == min(top_k, assert_nucleus(q, k, 0.8).max())


@pytest.mark.parametrize("option", OPTIONS)
def test_the_share_is_that_of_what_the_row_may_see(option):
    q, k, _ = make(22, 37, 50, lead=(2, 3), hq=4, hk=2)
    assert_nucleus(q * 3, k, 0.7, **OPTIONS[option](np.random.default_rng(22)))


def test_all_of_the_weight_is_all_keys():
    q, k, v = make(23, 10, 700)
    q *= np.float32(0.3)
    assert (assert_nucleus(q, k, 1.0) == 700).all()
    assert_close(topk_attention(q, k, v, top_p=1), ruvattn.attention(q, k, v), tolerance(q, k, v, {}))


def test_equal_weights_are_counted_from_the_lowest_key():
    q, k = np.zeros((3, 4), np.float32), np.ones((200, 4), np.float32)
    assert np.array_equal(seen(choose_keys(q, k, top_k=None, top_p=0.25), (1, 3, 200))[0], np.broadcast_to(np.arange(200) < 50, (3, 200)))


@pytest.fixture
def asked(monkeypatch):
    """How the rows of a call were looked at: numbers of keys that heaps held, and ("sorted", rows)."""
    log = []
    choose, by_sorting = selection._choose, selection._sorted

    def counted(call, bound, count, *rest):
        log.append(count)
        return choose(call, bound, count, *rest)

    def counted_rows(call, *rest):
        log.append(("sorted", call.lq))
        return by_sorting(call, *rest)

    monkeypatch.setattr(selection, "_choose", counted)
    monkeypatch.setattr(selection, "_sorted", counted_rows)
    return log


def test_rows_that_need_more_are_asked_for_more_and_in_the_end_sorted(asked):
    k = make(24, 1, 4000)[1]
    for share, log in ((0.004, [32]), (0.02, [32, 128]), (0.1, [32, 128, 512]), (0.9, [32, 128, 512, ("sorted", 6), ("sorted", 6)])):
        asked.clear()
        pattern = choose_keys(np.zeros((1, 6, 8), np.float32), k, top_k=None, top_p=share)
        assert asked == log
        assert np.array_equal(seen(pattern, (1, 6, 4000)), np.broadcast_to(np.arange(4000) < 4000 * share, (1, 6, 4000)))


def test_one_pass_is_enough_where_few_keys_dominate(asked):
    q, k, _ = make(25, 40, 4000)
    k[0, ::1000] = 30 * q[0, 0]
    assert_nucleus(np.repeat(q[:, :1], 40, 1), k, 0.99)
    assert asked == [32]


def test_rows_are_taken_a_few_at_a_time_where_they_hold_much(monkeypatch):
    q, k, v = make(26, 37, 60, lead=(2,), hq=4, hk=2)
    rng = np.random.default_rng(26)
    every = {
        "plain": {}, "causal": {"causal": True, "query_offset": np.array([3, 20])}, "pattern": {"mask": Window(20, 3) & (rng.random((37, 60)) < 0.7)},
        "array": {"mask": rng.random((2, 1, 37, 60)) < 0.5, "bias": rng.standard_normal((4, 37, 60)).astype(np.float32)},
        "sparse": {"mask": scipy.sparse.coo_array(rng.random((4, 37, 60)) < 0.3)},
        "score": {"score": Rbf(2.0), "key_lengths": np.array([40, 60])},
    }  # fmt: skip
    expected = {name: topk_attention(q, k, v, top_p=0.6, **options) for name, options in every.items()}
    monkeypatch.setattr(selection, "SORTED", 5 * 32 * 8)
    for name, options in every.items():
        assert_close(topk_attention(q, k, v, top_p=0.6, **options), expected[name], tolerance(q, k, v, options))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000), lq=st.integers(1, 12), lk=st.sampled_from([1, 3, 40, 130, 600]), size=st.sampled_from([0.01, 0.5, 3.0, 40.0]),
    top_p=st.floats(0.001, 1.0), top_k=st.none() | st.integers(1, 100), causal=st.booleans(), dtype=st.sampled_from(list(FLOATS)),
)  # fmt: skip
def test_any_share(seed, lq, lk, size, top_p, top_k, causal, dtype):
    q, k, _ = make(seed, lq, lk, 4, hq=2, hk=1, dtype=dtype)
    assert_nucleus(q * q.dtype.type(size), k, top_p, top_k, causal=causal, query_offset=lk // 2)


# --- attention over what was chosen ---------------------------------------------------------------------------------------------------


class Squares(Aggregate):
    def values(self, v):
        return v**2


class Largest(Aggregate):
    """The largest weighted value of each column: not linear."""

    linear = False

    def reduce(self, weights, v):
        return (weights[:, :, None] * v[None]).max(1)


@pytest.mark.parametrize(
    "more",
    [
        {"sinks": np.array([1.0, -INF, 5.0, 0.0])}, {"dropout": 0.4, "seed": 11}, {"aggregate": Squares()}, {"aggregate": Largest()},
        {"aggregate": Squares(), "sinks": np.arange(4.0), "dropout": 0.2, "seed": 3}, {"softcap": 1.5, "scale": np.linspace(-1, 1, 4)},
    ],
    ids=["sinks", "dropout", "linear aggregate", "nonlinear aggregate", "several", "softcap and scale"],
)  # fmt: skip
@pytest.mark.parametrize("count", [{"top_k": 6}, {"top_p": 0.7}], ids=["top_k", "top_p"])
def test_other_options_are_those_of_attention(count, more):
    q, k, v = make(27, 30, 80, 8, 5, lead=(2,), hq=4, hk=2)
    own = {name: x for name, x in more.items() if name in ("softcap", "scale")}
    mask = seen(choose_keys(q, k, **{"top_k": None, "top_p": None} | count, **own), full_shape(q, k))
    out, lse = topk_attention(q, k, v, return_lse=True, **count, **more)
    expected, expected_lse = reference.attention(q, k, v, mask=mask, return_lse=True, **more)
    assert_close(out, expected, tolerance(q, k, v**2, more))
    assert_close(lse, expected_lse, 2 * tolerance(q, k, np.ones(1, np.float32), more | {"dropout": 0.0}))


def test_sinks_join_the_denominator_and_not_the_choice():
    q, k, v = make(28, 9, 70)
    out, lse = topk_attention(q, k, v, top_p=0.5, return_lse=True)
    sunk, sunk_lse = topk_attention(q, k, v, top_p=0.5, sinks=[2.0], return_lse=True)
    assert_close(sunk, out * np.exp(lse - sunk_lse)[..., None], tolerance(q, k, v, {"sinks": np.array([2.0])}))
    assert_close(sunk_lse, np.logaddexp(lse, 2), 2 * tolerance(q, k, np.ones(1, np.float32), {"sinks": np.array([2.0])}))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_as_many_as_there_are_is_attention(dtype):
    q, k, v = make(29, 20, 50, 8, 5, lead=(2,), hq=2, hk=1, dtype=dtype)
    for top_k in (50, 51, 10**6):
        found = topk_attention(q, k, v, top_k=top_k, causal=True)
        assert found.dtype == q.dtype
        expected = reference.attention(q, k, v, causal=True, precision=oracle_dtype(dtype))
        assert_close(found, expected, tolerance(q, k, v, {}))


def test_one_key_is_its_value():
    q, k, v = make(30, 20, 50, 8, 5)
    assert np.array_equal(topk_attention(q, k, v, top_k=1)[0], v[0, attention_topk(q, k, top_k=1)[0][0, :, 0]])


def test_the_result_is_written_where_it_is_wanted():
    q, k, v = make(31, 20, 50)
    out = np.full(q.shape, np.nan, np.float32)
    found = topk_attention(q, k, v, top_k=4, out=out)
    assert found is out
    assert same_bits(out, topk_attention(q, k, v, top_k=4))


def test_inputs_are_not_written():
    arrays = [*make(32, 20, 50), np.zeros((20, 50), np.float32), np.ones((20, 50), bool)]
    before = [x.copy() for x in arrays]
    for x in arrays:
        x.flags.writeable = False
    q, k, v, bias, mask = arrays
    attention_topk(q, k, top_k=3, bias=bias, mask=mask)
    topk_attention(q, k, v, top_p=0.9, bias=bias, mask=mask)
    topk_attention(q, k, v, top_k=7, causal=True)
    assert all(same_bits(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize(("lq", "lk", "top_k"), [(300, 700, 20), (3, 20000, 50), (100, 2500, 1), (64, 500, 500)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(build, dtype, lq, lk, top_k):
    q, k, v = make(33, lq, lk, 8, hq=2, hk=1, dtype=dtype)
    mask = scipy.sparse.random_array((lq, lk), density=0.2, rng=np.random.default_rng(0))
    for options in ({}, {"causal": True, "query_offset": "end"}, {"mask": mask}):
        once = attention_topk(q, k, top_k=top_k, threads=1, **options)
        for threads in (2, 7):
            assert all(same_bits(a, b) for a, b in zip(once, attention_topk(q, k, top_k=top_k, threads=threads, **options), strict=True))
        for count in ({"top_k": top_k}, {"top_p": 0.1}):
            attended = [topk_attention(q, k, v, threads=n, return_lse=True, **count, **options) for n in (1, 3)]
            assert all(same_bits(a, b) for a, b in zip(*attended, strict=True))


def test_memory_grows_with_the_rows_and_not_with_the_pairs():
    lq = lk = 20_000
    q, k, v = make(34, lq, lk, 4)
    tracemalloc.start()
    try:
        attention_topk(q, k, top_k=8)
        chosen = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        topk_attention(q, k, v, top_k=8)
        attended = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # keys and logits, 8 + 4 bytes; sorted, counted and listed a few times over
    assert chosen < 3 * lq * 8 * 12
    assert attended < 8 * lq * 8 * 12 < lq * lk / 20


# --- as a pattern -----------------------------------------------------------------------------------------------------------------


def test_a_choice_is_a_pattern_as_any_other():
    q, k, _ = make(35, 9, 14, lead=(3,), hq=2, hk=1)
    mask = np.arange(9)[:, None] % 4 > 0  # some rows see nothing
    pattern = choose_keys(q, k, top_k=4, top_p=None, mask=mask)
    pattern.conformance_shape = (3, 2, 9, 14)
    check_pattern(pattern)


def test_a_choice_of_nothing_is_a_pattern_too():
    pattern = choose_keys(*make(36, 5, 7)[:2], top_k=4, top_p=None, key_lengths=0)
    pattern.conformance_shape = (1, 1, 5, 7)
    assert repr(pattern) == "ChosenKeys((1, 5, 7), 0 pairs)"
    assert not seen(pattern, (1, 5, 7)).any()
    assert not ruvattn.attention(*make(36, 5, 7), mask=pattern).any()


def test_a_choice_composes():
    q, k, v = make(37, 20, 30, lead=(2,), hq=2, hk=2)
    pattern = choose_keys(q, k, top_k=8, top_p=None)
    allowed = seen(pattern, full_shape(q, k))
    past, same = np.tri(20, 30, dtype=bool), np.eye(20, 30, dtype=bool)
    for mask, plane in ((pattern & Causal(), allowed & past), (~pattern, ~allowed), (pattern | Window(0, 0), allowed | same)):
        assert_close(ruvattn.attention(q, k, v, mask=mask), reference.attention(q, k, v, mask=plane), tolerance(q, k, v, {}))


@pytest.mark.parametrize("shape", [(2, 2, 10, 29), (2, 2, 10, 31), (2, 2, 9, 30), (2, 4, 10, 30), (3, 2, 10, 30)])
def test_a_choice_is_for_calls_of_its_shape(shape):
    q, k, _ = make(38, 10, 30, lead=(2,), hq=2, hk=2)
    pattern = choose_keys(q, k, top_k=8, top_p=None)
    batch, heads, lq, lk = shape
    with pytest.raises(DimensionMismatchError, match=r"mask .*\(2, 2, 10, 30\), got \(" + ", ".join(map(str, shape))):
        ruvattn.attention(*make(38, lq, lk, lead=(batch,), hq=heads, hk=heads), mask=pattern)


def test_sets_are_told_apart_by_every_leading_axis():
    counts = np.arange(12).reshape(6, 2, 1) % 5
    pattern = ChosenKeys((2, 3, 2, 1, 8), counts, np.concatenate([np.arange(n) for n in counts.ravel()]))
    q, k, v = make(39, 1, 8, lead=(2, 3), hq=2, hk=1)
    mask = np.arange(8) < counts.reshape(2, 3, 2, 1, 1)
    assert_close(ruvattn.attention(q, k, v, mask=pattern), reference.attention(q, k, v, mask=mask), tolerance(q, k, v, {}))


# --- errors -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, -1, 2.5, 2.0, True, "3", None, np.array([1, 2]), np.nan])
def test_a_top_k_that_is_no_number_of_keys(top_k):
    q, k, v = make(40, 3, 4)
    with pytest.raises(InvalidInputError, match="top_k"):
        attention_topk(q, k, top_k=top_k)
    with pytest.raises(InvalidInputError, match="top_k"):
        topk_attention(q, k, v, top_k=top_k)


@pytest.mark.parametrize("top_k", [np.int64(2), np.uint8(2), np.array(2)])
def test_a_top_k_of_numpy(top_k):
    q, k, v = make(41, 3, 4)
    assert attention_topk(q, k, top_k=top_k)[0].shape == (1, 3, 2)
    assert same_bits(topk_attention(q, k, v, top_k=top_k), topk_attention(q, k, v, top_k=2))


@pytest.mark.parametrize("top_p", [0, 0.0, -0.1, 1.1, 2, np.nan, INF, True, "0.5", [0.5, 0.6]])
def test_a_top_p_that_is_no_share(top_p):
    q, k, v = make(42, 3, 4)
    with pytest.raises(InvalidInputError, match="top_p"):
        topk_attention(q, k, v, top_p=top_p)


def test_one_of_both_is_needed():
    with pytest.raises(InvalidInputError, match="top_k or top_p"):
        topk_attention(*make(43, 3, 4))


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"mask": np.ones((3, 5), bool)}, DimensionMismatchError, "mask"), ({"mask": np.ones((3, 4))}, InvalidInputError, "mask"),
        ({"bias": np.zeros((3, 5), np.float32)}, DimensionMismatchError, "bias"), ({"window": (-2, 0)}, InvalidInputError, "window"),
        ({"key_lengths": 9}, InvalidInputError, "key_lengths"), ({"softcap": 0.0}, InvalidInputError, "softcap"),
        ({"causal": 2}, InvalidInputError, "causal"), ({"score": "nonesuch"}, UnknownVariantError, "nonesuch"),
        ({"threads": 0}, InvalidInputError, "threads"), ({"scale": np.nan}, InvalidInputError, "scale"),
    ],
)  # fmt: skip
def test_other_arguments_are_checked_as_those_of_attention(options, error, name):
    q, k, v = make(44, 3, 4)
    with pytest.raises(error, match=name):
        attention_topk(q, k, top_k=2, **options)
    with pytest.raises(error, match=name):
        topk_attention(q, k, v, top_p=0.5, **options)


def test_arrays_are_checked_as_those_of_attention():
    q, k, v = make(45, 3, 4)
    with pytest.raises(UnsupportedError, match="q float32, k float64"):
        attention_topk(q, k.astype(np.float64), top_k=2)
    with pytest.raises(DimensionMismatchError, match="k must have the width of q"):
        attention_topk(q, k[..., :3], top_k=2)
    with pytest.raises(DimensionMismatchError, match="v must have a row for each key"):
        topk_attention(q, k, v[:, :3], top_k=2)
    with pytest.raises(InvalidInputError, match="v must"):
        topk_attention(q, k, None, top_k=2)
    with pytest.raises(TypeError, match="nonesuch"):
        topk_attention(q, k, v, top_k=2, nonesuch=1)


class Refusing(Pattern):
    """A pattern that nobody may ask."""

    def allowed(self, i, j, *, head=0, batch=0):
        raise AssertionError("asked")


def test_counts_are_checked_before_anything_is_computed():
    q, k, v = make(46, 3, 4)
    for count in ({"top_k": 0}, {"top_p": 2.0}, {"top_k": 2, "top_p": -1.0}):
        with pytest.raises(InvalidInputError):
            topk_attention(q, k, v, mask=Refusing(), **count)


def test_rows_that_are_not_there_have_no_keys():
    q, k, _ = make(70, 6, 20)
    chosen = choose_keys(q, k, top_k=3, top_p=None)
    i, j = np.arange(-2, 9)[:, None], np.arange(20)
    planes = chosen.allowed(i, j)
    assert planes.sum() == planes[2:8].sum() == 6 * 3
    assert not chosen.allowed(np.array([-1, 6]), np.array([0, 0])).any()
    assert chosen.allowed(i[:0], j).shape == (0, 20)
    assert np.array_equal(chosen.allowed(i[5:6], j), planes[5:6])
