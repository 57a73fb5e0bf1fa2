"""The functional API: what its functions take and return. That the numbers are right is test_engine.py's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_close, compute_dtype, make, oracle_dtype, same_bits, tolerance

import ruvattn
from ruvattn import attention, attention_logits, attention_weights, merge_states, reference
from ruvattn.errors import AttentionError, DimensionMismatchError, InvalidInputError, UnknownVariantError, UnsupportedError

INF = np.inf


# --- shapes and dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(
    ("q", "k", "v"),
    [((3, 4), (5, 4), (5, 2)), ((2, 3, 4), (1, 5, 4), (1, 5, 2)), ((6, 7, 2, 3, 4), (6, 7, 2, 5, 4), (6, 7, 2, 5, 2))],
)
def test_results_have_the_shape_of_the_queries_and_the_dtype_of_the_arrays(q, k, v, dtype):
    arrays = [np.ones(shape, dtype) for shape in (q, k, v)]
    out, lse = attention(*arrays, return_lse=True)
    assert out.shape == (*q[:-1], 2)
    assert out.dtype == dtype
    assert lse.shape == q[:-1]
    assert lse.dtype == compute_dtype(dtype)
    for function in (attention_weights, attention_logits):
        result = function(*arrays[:2])
        assert result.shape == (*q[:-1], 5)
        assert result.dtype == dtype


@pytest.mark.parametrize(("lq", "lk"), [(0, 5), (5, 0), (0, 0)])
def test_no_queries_give_nothing_and_no_keys_give_empty_rows(lq, lk):
    q, k, v = make(0, lq, lk, 4, 3, lead=(2,))
    out, lse = attention(q, k, v, return_lse=True)
    assert out.shape == (2, 1, lq, 3)
    assert not out.any()
    assert lse.shape == (2, 1, lq)
    assert np.isneginf(lse).all()
    assert attention_weights(q, k).shape == (2, 1, lq, lk)


def test_lists_of_numbers_are_arrays_of_float64():
    out = attention([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0], [2.0]])
    assert out.dtype == np.float64
    weight = 1 / (1 + np.exp(-(2**-0.5)))
    assert_close(out, np.array([[weight + 2 * (1 - weight)]]), 1e-15)


def test_subclasses_of_arrays_are_taken_for_what_they_hold(tmp_path):
    q, k, v = make(0, 3, 4)
    mapped = np.memmap(tmp_path / "q", np.float32, "w+", shape=q.shape)
    mapped[...] = q
    assert same_bits(np.asarray(attention(mapped, k, v)), attention(q, k, v))


# The plain call has a route of its own to the kernels; each of these takes the long one and means the same.
@pytest.mark.parametrize(
    "options",
    [{"scale": 8**-0.5}, {"mask": np.array(True)}, {"window": (-1, -1)}, {"key_lengths": 50}, {"seed": 1}, {"score": ruvattn.Dot()},
     {"query_offset": np.int8(0)}, {"aggregate": "weighted-sum"}, {"dropout": 0}, {"bias": np.zeros(50, np.float32)}, {"sinks": [-INF, -INF]}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("lq", [2, 40])
@pytest.mark.parametrize("causal", [False, True])
def test_an_option_that_changes_nothing_changes_nothing(causal, lq, options):
    q, k, v = make(1, lq, 50, hq=2, hk=2)
    expected, expected_lse = attention(q, k, v, causal=causal, return_lse=True)
    out, lse = attention(q, k, v, causal=causal, return_lse=True, **options)
    assert same_bits(out, expected)
    assert same_bits(lse, expected_lse)


def test_causal_is_top_left_unless_the_queries_stand_at_the_end():
    q, k, _ = make(2, 3, 5)
    eye = np.eye(5, dtype=np.float32)[None]
    assert np.array_equal(attention(q, k, eye, causal=True) > 0, np.tri(3, 5, dtype=bool)[None])
    assert np.array_equal(attention(q, k, eye, causal=True, query_offset="end") > 0, np.tri(3, 5, 2, dtype=bool)[None])
    lengths = {"key_lengths": np.array([4]), "query_offset": "end"}
    assert np.array_equal(attention(q[None], k[None], eye[None], causal=True, **lengths)[0] > 0, np.tri(3, 5, 1, dtype=bool)[None])


def test_a_window_counts_from_the_position():
    q, k, _ = make(3, 6, 6)
    weights = attention_weights(q, k, window=(2, 1))
    distance = np.arange(6) - np.arange(6)[:, None]
    assert np.array_equal(weights[0] > 0, (distance >= -2) & (distance <= 1))


def test_bias_comes_after_the_softcap():
    q, k, _ = make(4, 3, 5)
    bias = make(5, 3, 5, 5)[0]
    logits = attention_logits(q, k, softcap=0.5, bias=bias)
    assert_close(logits, 0.5 * np.tanh(attention_logits(q, k).astype(float) / 0.5) + bias, 1e-6)


def test_the_default_scale_is_one_over_the_root_of_the_width():
    q, k, v = make(6, 3, 5, 16)
    assert same_bits(attention(q, k, v), attention(q, k, v, scale=0.25))
    assert same_bits(attention(q, k, v, scale=0.1), attention(q, k, v, score=ruvattn.Dot(0.1)))
    assert same_bits(attention(q, k, v, scale=0.1), attention(q, k, v, score=ruvattn.Dot(3.0), scale=0.1))


def test_a_sink_takes_its_share_of_the_weights():
    q, k, v = make(7, 3, 5, hq=2, hk=2)
    sinks = np.array([0.5, -INF])
    weights = attention_weights(q, k, sinks=sinks)
    plain = attention_weights(q, k)
    lse = attention(q, k, v, return_lse=True)[1]
    assert_close(weights[0], plain[0] / (1 + np.exp(0.5 - lse[0].astype(float)))[:, None], 1e-6)
    assert_close(weights[1], plain[1], 1e-7)
    assert_close(attention(q, k, v, sinks=sinks, return_lse=True)[1][0], np.logaddexp(lse[0].astype(float), 0.5), 1e-6)


# --- weights and logits ---------------------------------------------------------------------------------------------------------

SOME = {
    "plain": {},
    "causal": {"causal": True},
    "masked": {"mask": np.random.default_rng(0).random((9, 12)) < 0.5, "softcap": 2.0},
    "sinks": {"sinks": [0.3, -1.0], "key_lengths": 7},
    "dropout": {"dropout": 0.4, "seed": 7},
}


@pytest.mark.parametrize("options", SOME.values(), ids=SOME)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_output_is_the_weights_times_the_values(dtype, options):
    q, k, v = make(8, 9, 12, hq=2, hk=1, dtype=dtype)
    weights = attention_weights(q, k, **options)
    assert_close(attention(q, k, v, **options), weights.astype(float) @ v.astype(float), 4 * tolerance(q, k, v, options))


@pytest.mark.parametrize("options", [{}, SOME["causal"], SOME["masked"]], ids=["plain", "causal", "masked"])
def test_weights_are_a_distribution_over_what_is_allowed(options):
    q, k, _ = make(9, 9, 12)
    weights, logits = attention_weights(q, k, **options), attention_logits(q, k, **options)
    assert (weights >= 0).all()
    assert np.array_equal(weights == 0, np.isneginf(logits))
    some = np.isfinite(logits).any(-1)
    assert_close(weights.sum(-1)[some], np.ones(some.sum()), 1e-6)


def test_lse_is_the_natural_log_of_the_sum_of_the_exponentials():
    q, k, v = make(10, 9, 12)
    lse = attention(q, k, v, causal=True, return_lse=True)[1]
    logits = attention_logits(q, k, causal=True).astype(float)
    assert_close(lse, np.log(np.exp(logits).sum(-1)), 1e-6)


# --- out ------------------------------------------------------------------------------------------------------------------------


def _out_layouts(shape, dtype):
    yield np.empty(shape, dtype)
    yield np.empty((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)
    yield np.empty((*shape[:-2], shape[-2] + 3, shape[-1] + 2), dtype)[..., 1:-2, 1:-1]
    yield np.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    yield np.empty(shape, dtype)[..., ::-1, :]
    yield np.frombuffer(bytearray(int(np.prod(shape)) * np.dtype(dtype).itemsize + 1), dtype, offset=1).reshape(shape)


@pytest.mark.parametrize("lead", [None, (), (2,)])
@pytest.mark.parametrize("options", [{}, SOME["masked"], {"aggregate": "weighted-sum"}], ids=["plain", "masked", "aggregate"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_out_is_written_and_returned(dtype, options, lead):
    arrays = make(11, 9, 12, 8, 5, lead=lead or (), hq=2, hk=2, dtype=dtype)
    if lead is None:
        arrays = [x[0] for x in arrays]
    expected = attention(*arrays, **options)
    for out in _out_layouts(expected.shape, dtype):
        result = attention(*arrays, out=out, **options)
        assert result is out
        assert same_bits(np.ascontiguousarray(out), expected)
        result, _ = attention(*arrays, out=out, return_lse=True, **options)
        assert result is out


def test_out_may_hold_anything_before():
    q, k, v = make(12, 40, 12)
    out = np.full(q.shape, np.nan, np.float32)
    assert same_bits(attention(q, k, v, out=out, mask=np.arange(40)[:, None] > 5), attention(q, k, v, mask=np.arange(40)[:, None] > 5))


def _read_only(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (lambda q, k, v: np.empty((1, 4, 7), np.float32), DimensionMismatchError),
        (lambda q, k, v: np.empty((4, 8), np.float32), DimensionMismatchError),
        (lambda q, k, v: np.empty((1, 4, 8), np.float64), InvalidInputError),
        (lambda q, k, v: np.empty((1, 4, 8), ">f4"), InvalidInputError),
        (lambda q, k, v: [[0.0]], InvalidInputError),
        (lambda q, k, v: _read_only(np.empty((1, 4, 8), np.float32)), InvalidInputError),
        (lambda q, k, v: np.lib.stride_tricks.as_strided(np.empty(8, np.float32), (1, 4, 8), (0, 0, 4)), InvalidInputError),
        (lambda q, k, v: np.lib.stride_tricks.as_strided(np.empty(20, np.float32), (1, 4, 8), (0, 16, 4)), InvalidInputError),
        (lambda q, k, v: q, InvalidInputError),
        (lambda q, k, v: k[:, :4], InvalidInputError),
        (lambda q, k, v: v[:, -4:], InvalidInputError),
    ],
    ids=["width", "axes", "dtype", "byte order", "list", "read-only", "one row", "rows that overlap", "q", "part of k", "part of v"],
)
def test_an_out_that_cannot_be_written_is_refused_and_untouched(out, error):
    q, k, v = make(13, 4, 6)
    before = [x.copy() for x in (q, k, v)]
    with pytest.raises(error, match="out"):
        attention(q, k, v, out=out(q, k, v))
    assert all(same_bits(a, b) for a, b in zip((q, k, v), before, strict=True))


def test_out_may_not_overlap_mask_or_bias():
    q, k, v = make(14, 4, 8)
    bias = np.zeros((4, 8), np.float32)
    with pytest.raises(InvalidInputError, match="bias"):
        attention(q, k, v, bias=bias, out=bias[None])
    memory = np.zeros((1, 4, 32), bool)
    with pytest.raises(InvalidInputError, match="mask"):
        attention(q, k, v, mask=memory[..., :8], out=memory.view(np.float32))


def test_out_may_lie_between_the_inputs():
    memory = np.random.default_rng(0).standard_normal((1, 4, 32)).astype(np.float32)
    q, k, v, out = (memory[..., i : i + 8] for i in (0, 8, 16, 24))
    expected = attention(q.copy(), k.copy(), v.copy())
    assert same_bits(np.ascontiguousarray(attention(q, k, v, out=out)), expected)


# --- dropout --------------------------------------------------------------------------------------------------------------------


def _kept(lq, lk, *, lead=(), heads=1, first=0, **options):
    """Which weights dropout keeps, read off the engine: values are the identity."""
    q = np.zeros((*lead, heads, lq, 1), np.float32)
    k = np.zeros((*lead, heads, lk, 1), np.float32)
    v = np.broadcast_to(np.eye(lk, dtype=np.float32), (*lead, heads, lk, lk))
    return attention(q, k, v, **options)[..., first:, :] > 0


def test_dropout_keeps_its_share_and_scales_it_up():
    q, k, v = np.zeros((4, 100, 1), np.float32), np.zeros((4, 200, 1), np.float32), np.ones((4, 200, 1), np.float32)
    for rate in (0.1, 0.5, 0.9):
        kept = _kept(100, 200, heads=4, dropout=rate, seed=1)
        # 80,000 independent draws: five standard deviations
        assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
        out = attention(q, k, v, dropout=rate, seed=1)
        assert_close(out[..., 0], kept.sum(-1) / 200 / (1 - rate), 1e-5)


def test_the_mean_over_seeds_is_the_output_without_dropout():
    q, k, v = make(15, 5, 30)
    results = np.array([attention(q, k, v, dropout=0.3, seed=seed) for seed in range(800)], np.float64)
    error = results.std(0) / np.sqrt(len(results))
    assert (np.abs(results.mean(0) - attention(q, k, v)) < 5.5 * error).all()


def test_dropout_is_a_hash_of_seed_batch_head_row_and_key():
    whole = _kept(70, 300, lead=(2, 2), heads=3, dropout=0.5, seed=9)
    # fewer rows, keys, heads or entries: the same decisions
    assert np.array_equal(_kept(33, 300, lead=(2, 2), heads=3, dropout=0.5, seed=9), whole[..., :33, :])
    assert np.array_equal(_kept(70, 120, lead=(2, 2), heads=3, dropout=0.5, seed=9), whole[..., :120])
    assert np.array_equal(_kept(70, 300, lead=(2,), heads=3, dropout=0.5, seed=9), whole[0])
    assert np.array_equal(_kept(70, 300, lead=(4,), heads=3, dropout=0.5, seed=9), whole.reshape(4, 3, 70, 300))
    assert np.array_equal(_kept(70, 300, heads=1, dropout=0.5, seed=9), whole[0, 0, :1])
    # and nothing repeats: heads, entries, rows and seeds agree no more often than chance has it
    planes = [*whole.reshape(12, 70, 300), _kept(70, 300, dropout=0.5, seed=10)[0], _kept(70, 300, dropout=0.5, seed=9 + 2**32)[0]]
    for a, b in itertools.combinations(planes, 2):
        assert abs((a == b).mean() - 0.5) < 5 * 0.5 / np.sqrt(a.size)
    rows = whole[0, 0, 0]
    for i in range(1, 8):
        assert abs((rows[i:] == rows[:-i]).mean() - 0.5) < 5 * 0.5 / np.sqrt(rows[i:].size)
        assert abs((rows[:, i:] == rows[:, :-i]).mean() - 0.5) < 5 * 0.5 / np.sqrt(rows[:, i:].size)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dropout_is_the_same_in_every_path(dtype):
    # few rows, a mask, a pattern, a window and the dense matrix of weights
    kept = reference.attention_weights(np.zeros((1, 40, 1)), np.zeros((1, 3000, 1)), dropout=0.3, seed=5) > 0
    q, k = np.zeros((1, 40, 1), dtype), np.zeros((1, 3000, 1), dtype)
    everything = [{}, {"mask": np.ones((40, 3000), bool)}, {"mask": scipy.sparse.csr_array(np.ones((40, 3000)))}, {"window": (40, 2999)}]
    for rows, options in [(1, {}), *((40, options) for options in everything)]:
        out = attention(q[:, :rows], k, kept[:, :rows].swapaxes(-1, -2).astype(dtype), dropout=0.3, seed=5, **options)
        columns = np.arange(rows)
        assert_close(out[0, columns, columns], attention_weights(q[:, :rows], k, dropout=0.3, seed=5, **options)[0].sum(-1), 1e-5)
    assert np.array_equal(attention_weights(q, k, dropout=0.3, seed=5) > 0, kept)


def test_without_a_seed_every_call_draws_another():
    q, k, v = make(16, 20, 30)
    assert not np.array_equal(attention(q, k, v, dropout=0.5), attention(q, k, v, dropout=0.5))
    assert same_bits(attention(q, k, v, dropout=0.5, seed=3), attention(q, k, v, dropout=0.5, seed=3))


def test_dropout_does_not_change_the_lse():
    q, k, v = make(17, 20, 30)
    plain = attention(q, k, v, mask=np.array(True), return_lse=True)[1]
    assert same_bits(attention(q, k, v, dropout=0.9, seed=1, return_lse=True)[1], plain)


# --- merging --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("cuts", [[0, 1, 60], [0, 20, 20, 60], [0, 60, 60], [0, 7, 13, 59, 60]])
def test_merging_the_parts_gives_the_whole(cuts, dtype):
    q, k, v = make(18, 9, 60, 8, 5, hq=2, hk=2, dtype=dtype)
    mask = np.arange(60) % 7 > 2
    parts = [attention(q, k[:, a:b], v[:, a:b], mask=mask[a:b], return_lse=True) for a, b in itertools.pairwise(cuts)]
    acc, lse = merge_states(*zip(*parts, strict=True))
    expected, expected_lse = reference.attention(q, k, v, mask=mask, return_lse=True, precision=oracle_dtype(dtype))
    assert acc.dtype == dtype
    assert lse.dtype == compute_dtype(dtype)
    assert_close(acc, expected, 4 * tolerance(q, k, v, {}))
    assert_close(lse, expected_lse, 1e-5)


def test_a_sink_in_one_of_the_parts_is_in_the_whole():
    q, k, v = make(19, 9, 60)
    sinks = np.array([1.0])
    parts = [attention(q, k[:, :20], v[:, :20], sinks=sinks, return_lse=True), attention(q, k[:, 20:], v[:, 20:], return_lse=True)]
    acc, lse = merge_states(*zip(*parts, strict=True))
    expected, expected_lse = attention(q, k, v, sinks=sinks, return_lse=True)
    assert_close(acc, expected, 1e-5)
    assert_close(lse, expected_lse, 1e-5)


def test_merging_sums_before_an_aggregates_finish():
    q, k, v = make(20, 9, 60)
    whole = attention(q, k, v, aggregate=Ratio())
    values = np.concatenate([v[..., :4], np.abs(v[..., 4:5])], -1)
    parts = [attention(q, k[:, s], values[:, s], return_lse=True) for s in (slice(0, 33), slice(33, 60))]
    acc, _ = merge_states(*zip(*parts, strict=True))
    assert_close(acc[..., :4] / acc[..., 4:], whole, 1e-4)


class Ratio(ruvattn.Aggregate):
    """The first four columns over the absolute fifth."""

    def values(self, v):
        return np.concatenate([v[..., :4], np.abs(v[..., 4:5])], -1)

    def finish(self, acc):
        return acc[..., :4] / acc[..., 4:]


def test_parts_without_keys_have_no_say():
    acc = np.array([[1.0, 2.0]], np.float32)
    nothing = np.array([[np.nan, np.inf]], np.float32)
    merged, lse = merge_states([nothing, acc, nothing], [np.array([-INF], np.float32), np.array([3.0], np.float32), np.array([-INF], np.float32)])
    assert np.array_equal(merged, acc)
    assert lse == 3
    merged, lse = merge_states([nothing, nothing], [np.array([-INF])] * 2)
    assert not merged.any()
    assert np.isneginf(lse).all()


def test_parts_of_any_size_merge_without_overflow():
    acc, lse = merge_states([np.full((1, 1), 3e38, np.float32)] * 4, [np.full(1, x, np.float32) for x in (3e38, 3e38, -3e38, 0)])
    assert np.array_equal(acc, np.full((1, 1), 3e38, np.float32))
    assert_close(lse, np.full(1, 3e38), 1e32)
    assert np.isnan(merge_states([np.ones((1, 2))] * 2, [np.array([np.nan]), np.array([0.0])])[0]).all()


@pytest.mark.parametrize(
    ("accs", "lses", "error"),
    [
        ([], [], InvalidInputError),
        ([np.ones((2, 3))], [], InvalidInputError),
        ([np.ones((2, 3)), np.ones((2, 4))], [np.ones(2)] * 2, DimensionMismatchError),
        ([np.ones((2, 3))], [np.ones(3)], DimensionMismatchError),
        ([np.float64(1)], [np.float64(1)], DimensionMismatchError),
        ([np.ones((2, 3)), np.ones((2, 3), np.float32)], [np.ones(2)] * 2, InvalidInputError),
        ([np.ones((2, 3))] * 2, [np.ones(2), np.ones(2, np.float32)], InvalidInputError),
        ([np.ones((2, 3), int)], [np.ones(2)], UnsupportedError),
    ],
)
def test_parts_that_do_not_fit_are_refused(accs, lses, error):
    with pytest.raises(error, match="part|accs|lses"):
        merge_states(accs, lses)


# --- bad arguments --------------------------------------------------------------------------------------------------------------

Q, K, V = make(0, 4, 6, 8, 5, lead=(2,), hq=4, hk=2)

WRONG = [
    ({"q": Q[0]}, DimensionMismatchError, "same number of axes"),
    ({"q": Q[0, 0, 0]}, DimensionMismatchError, "q"),
    ({"q": Q[:, :3]}, DimensionMismatchError, "multiple"),
    ({"q": Q[..., :7]}, DimensionMismatchError, "width of q"),
    ({"q": Q[:1]}, DimensionMismatchError, "leading axes"),
    ({"v": V[:, :, :5]}, DimensionMismatchError, "row for each key"),
    ({"v": V[:, :1]}, DimensionMismatchError, "as many heads"),
    ({"k": K[:, :0], "v": V[:, :0]}, DimensionMismatchError, "at least 1"),
    ({"v": V[..., :0]}, InvalidInputError, "width"),
    ({"q": Q[..., :0], "k": K[..., :0]}, InvalidInputError, "width"),
    ({"q": Q.astype(np.float64)}, UnsupportedError, "q float64"),
    ({"q": Q.astype(int)}, UnsupportedError, "int64"),
    ({"k": K.astype(complex)}, UnsupportedError, "complex128"),
    ({"v": V.astype(object)}, UnsupportedError, "object"),
    ({"v": V.astype(np.longdouble)}, UnsupportedError, "longdouble|float128"),
    ({"q": "abc"}, UnsupportedError, "q"),
    ({"q": [[1.0], [1.0, 2.0]]}, InvalidInputError, "q"),
    ({"q": np.ma.masked_array(Q)}, InvalidInputError, "masked"),
    ({"mask": np.ones((4, 6), np.float32)}, InvalidInputError, "bias"),
    ({"mask": np.full((4, 6), np.nan)}, InvalidInputError, "bias"),
    ({"mask": np.ones((4, 6), int)}, InvalidInputError, "astype"),
    ({"mask": np.ones((3, 6), bool)}, DimensionMismatchError, "mask"),
    ({"mask": np.ones((1, 2, 4, 4, 6), bool)}, DimensionMismatchError, "mask"),
    ({"mask": "causal"}, InvalidInputError, "Pattern"),
    ({"mask": ruvattn.Causal}, InvalidInputError, "instance"),
    ({"mask": np.ma.masked_array(np.ones((4, 6), bool))}, InvalidInputError, "mask"),
    ({"bias": np.ones((4, 6), bool)}, InvalidInputError, "mask="),
    ({"bias": np.ones((4, 6))}, UnsupportedError, "bias"),
    ({"bias": np.ones((5, 6), np.float32)}, DimensionMismatchError, "bias"),
    ({"causal": 1}, InvalidInputError, "causal"),
    ({"causal": "yes"}, InvalidInputError, "causal"),
    ({"window": 3}, InvalidInputError, "window"),
    ({"window": (1, 2, 3)}, InvalidInputError, "window"),
    ({"window": (-2, 0)}, InvalidInputError, "window"),
    ({"window": (0.5, 0)}, InvalidInputError, "window"),
    ({"query_offset": "start"}, InvalidInputError, "end"),
    ({"query_offset": 0.5}, InvalidInputError, "query_offset"),
    ({"query_offset": True}, InvalidInputError, "query_offset"),
    ({"query_offset": [1, 2, 3]}, DimensionMismatchError, "query_offset"),
    ({"key_lengths": -1}, InvalidInputError, "key_lengths"),
    ({"key_lengths": 7}, InvalidInputError, "key_lengths"),
    ({"key_lengths": [1, 2, 3]}, DimensionMismatchError, "key_lengths"),
    ({"key_lengths": [1.0, 2.0]}, InvalidInputError, "key_lengths"),
    ({"scale": np.ones(3)}, DimensionMismatchError, "scale"),
    ({"scale": np.nan}, InvalidInputError, "scale"),
    ({"scale": "1"}, InvalidInputError, "scale"),
    ({"softcap": 0}, InvalidInputError, "softcap"),
    ({"softcap": -1.0}, InvalidInputError, "softcap"),
    ({"softcap": INF}, InvalidInputError, "softcap"),
    ({"sinks": 1.0}, DimensionMismatchError, "sinks"),
    ({"sinks": np.ones(2)}, DimensionMismatchError, "sinks"),
    ({"sinks": [0, 0, 0, np.nan]}, InvalidInputError, "sinks"),
    ({"sinks": [0, 0, 0, INF]}, InvalidInputError, "sinks"),
    ({"dropout": 1.0}, InvalidInputError, "dropout"),
    ({"dropout": -0.1}, InvalidInputError, "dropout"),
    ({"dropout": np.nan}, InvalidInputError, "dropout"),
    ({"seed": -1}, InvalidInputError, "seed"),
    ({"seed": 2**64}, InvalidInputError, "seed"),
    ({"seed": 1.5}, InvalidInputError, "seed"),
    ({"threads": 0}, InvalidInputError, "threads"),
    ({"threads": True}, InvalidInputError, "threads"),
    ({"threads": 10**9}, InvalidInputError, "threads"),
    ({"score": "no-such-score"}, UnknownVariantError, "no-such-score"),
    ({"score": ruvattn.Dot}, InvalidInputError, "Dot"),
    ({"score": 3}, InvalidInputError, "score"),
    ({"aggregate": "no-such-aggregate"}, UnknownVariantError, "no-such-aggregate"),
    ({"aggregate": ruvattn.WeightedSum}, InvalidInputError, "WeightedSum"),
    ({"aggregate": len}, InvalidInputError, "aggregate"),
]


@pytest.mark.parametrize(("wrong", "error", "words"), WRONG, ids=[f"{i}-{next(iter(w))}" for i, (w, _, _) in enumerate(WRONG)])
def test_a_wrong_argument_is_named_in_the_error(wrong, error, words):
    arguments = {"q": Q, "k": K, "v": V} | wrong
    with pytest.raises(error, match=words):
        attention(**arguments)
    attention(Q, K, V)  # and the next call is as good as ever


def test_every_error_is_an_attention_error():
    assert all(issubclass(error, AttentionError) for _, error, _ in WRONG)


def test_a_result_beyond_all_memory_is_a_memory_error():
    q = np.broadcast_to(np.float32(1), (2**29, 8))
    with pytest.raises(MemoryError):
        attention_logits(np.broadcast_to(q, (2**20, 1, 2**29, 8)), np.broadcast_to(q, (2**20, 1, 2**29, 8)))


def test_names_resolve_to_the_built_in_parts():
    assert same_bits(attention(Q, K, V, score="dot", aggregate="weighted-sum"), attention(Q, K, V))


def test_docstrings_examples_run():
    import doctest

    for module in (ruvattn.functional, ruvattn.patterns, ruvattn.scores, ruvattn.aggregates):
        result = doctest.testmod(module)
        assert not result.failed
