"""The patterns: the pairs that their papers say, and ranges that say what `allowed` does, no more and no less."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from importlib import metadata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.testing import parametrize_with_checks

pytest.importorskip("ruvattn_sparse", reason="pip install ./plugins/ruvattn-sparse first")
from ruvattn_sparse import BigBird, BlockSparse, Dilated, Fixed, LocalGlobal, Streaming, Strided, Windowed
from ruvattn_sparse._intervals import GAP, Tokens, united, with_runs

quick = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

SUBJECTS = [
    Windowed(3),
    Windowed(2, global_tokens=2),
    Windowed(1, global_tokens=[0, 3, 4, 30]),
    Strided(5),
    Strided(40, window_size=2),
    Strided(1),
    Fixed(6),
    Fixed(20, summary=3),
    Fixed(4, summary=0),
    Fixed(4, summary=4),
    Dilated(3, 2),
    Dilated(1, 50),
    Dilated(2, [1, 3]),
    Dilated(3, [9, 20]),
    BigBird(16, length=8192),
    BigBird(7, window_blocks=1, global_blocks=0, random_blocks=2, seed=3, length=6000),
    BigBird(8, window_blocks=5, global_blocks=2, random_blocks=0, length=8192),
    Streaming(4, 8),
    Streaming(0, 1),
    LocalGlobal(3, global_tokens=2),
    LocalGlobal(2, [1, 5], positions=[3, 9, 0, -4, 60, 5]),
    LocalGlobal(2, positions=np.random.default_rng(0).integers(0, 50, (2, 45))),
]


@parametrize_with_checks(SUBJECTS)
def test_patterns_keep_every_promise(subject, check):
    check(subject)


# --- ranges against allowed ------------------------------------------------------------------------------------------


def numbers(least, greatest):
    """Small ones most of all, for that is where things touch and overlap."""
    return st.one_of(st.integers(least, min(greatest, least + 6)), st.integers(least, greatest))


tokens = st.one_of(numbers(0, 12), st.lists(numbers(0, 150), max_size=6))

windowed = st.builds(Windowed, numbers(0, 90), tokens)
strided = st.builds(Strided, numbers(1, 90), st.one_of(st.none(), numbers(0, 90)))
fixed = numbers(1, 60).flatmap(lambda size: st.builds(Fixed, st.just(size), numbers(0, size)))
dilated = st.builds(Dilated, numbers(0, 40), st.one_of(numbers(1, 70), st.lists(numbers(1, 70), min_size=1, max_size=2)))
streaming = st.builds(Streaming, numbers(0, 60), numbers(1, 60))
local_global = st.builds(LocalGlobal, numbers(0, 30), tokens, st.one_of(st.none(), st.lists(numbers(-40, 260), min_size=40, max_size=40)))
big_bird = st.builds(
    BigBird,
    numbers(1, 40),
    st.sampled_from([1, 3, 5, 9]),
    numbers(0, 5),
    numbers(0, 9),
    st.integers(0, 2**64 - 1),
    length=st.integers(160, 600),
)
block_sparse = st.tuples(numbers(1, 40), st.integers(0, 2**32)).map(
    lambda drawn: BlockSparse(drawn[0], np.random.default_rng(drawn[1]).random((2, -(-160 // drawn[0]), -(-160 // drawn[0]))) < 0.4)
)

ANY = st.one_of(windowed, strided, fixed, dilated, streaming, local_global, big_bird, block_sparse)
"""All that are tried."""

TELL_ALL = (Windowed, LocalGlobal, Streaming, BigBird, BlockSparse)
"""Those that call full whatever all rows of a block see."""


@st.composite
def questions(draw):
    """Draw a pattern, a block of rows as the engine would ask for it, a number of keys, and a head."""
    pattern = draw(ANY)
    if pattern.positional:
        i0 = draw(st.one_of(st.integers(0, 170), st.integers(-120, 0)))
        rows = draw(numbers(1, 40))
    else:
        i0, rows = draw(st.integers(0, 39)), draw(numbers(1, 40))
        rows = min(rows, 40 - i0)
    step = pattern.row_block
    if step > 1:
        i0 = i0 // step * step
        rows = min(rows, step)
    return pattern, i0, i0 + rows, draw(st.one_of(numbers(0, 160), st.just(160))), draw(st.integers(0, 1)) if pattern.by_head else 0


def asked(pattern, i0, i1, lk, head=0):
    """The pairs of a block, as `allowed` has them."""
    if pattern.heads is not None:
        head = min(head, pattern.heads - 1)
    answer = pattern.allowed(np.arange(i0, i1)[:, None], np.arange(lk)[None], head=head)
    return np.broadcast_to(answer, (i1 - i0, lk)), pattern.ranges(i0, i1, lk, head=head)


@quick
@given(questions())
def test_nothing_is_allowed_outside_of_the_ranges_and_everything_in_full_ones(question):
    pattern, i0, i1, lk, head = question
    allowed, (starts, stops, full) = asked(pattern, i0, i1, lk, head)
    outside = np.ones(lk, bool)
    for start, stop, whole in zip(starts, stops, full, strict=True):
        outside[start:stop] = False
        assert not whole or allowed[:, start:stop].all()
    assert not allowed[:, outside].any()


@quick
@given(questions())
def test_ranges_are_sorted_within_the_keys_and_joined_where_they_touch(question):
    pattern, i0, i1, lk, head = question
    _, (starts, stops, full) = asked(pattern, i0, i1, lk, head)
    last, kind = -1, None
    for start, stop, whole in zip(starts, stops, full, strict=True):
        assert 0 <= start < stop <= lk
        assert start > last or (start == last and whole != kind)
        last, kind = stop, whole


@quick
@given(questions())
def test_ranges_hold_no_longer_stretch_of_keys_that_no_row_sees(question):
    pattern, i0, i1, lk, head = question
    allowed, (starts, stops, _) = asked(pattern, i0, i1, lk, head)
    inside = np.zeros(lk, bool)
    for start, stop in zip(starts, stops, strict=True):
        inside[start:stop] = True
    unseen = np.flatnonzero(np.diff(np.concatenate([[0], (inside & ~allowed.any(0)).astype(int), [0]])))
    assert (unseen[1::2] - unseen[::2] < GAP).all()


@quick
@given(questions())
def test_what_all_rows_see_is_in_full_ranges(question):
    pattern, i0, i1, lk, head = question
    if not isinstance(pattern, TELL_ALL):
        return
    allowed, (starts, stops, full) = asked(pattern, i0, i1, lk, head)
    whole = np.zeros(lk, bool)
    for start, stop, kind in zip(starts, stops, full, strict=True):
        whole[start:stop] = kind
    assert np.array_equal(allowed.all(0), whole)


@quick
@given(questions())
def test_the_pairs_that_are_listed_are_those_that_are_allowed(question):
    pattern, i0, i1, lk, head = question
    if pattern.heads is not None:
        head = min(head, pattern.heads - 1)
    allowed, _ = asked(pattern, i0, i1, lk, head)
    indptr, indices = pattern.pairs(i0, i1, lk, head=head)
    rows = np.repeat(np.arange(i1 - i0), np.diff(indptr))
    assert np.array_equal(np.stack([rows, indices], 1), np.argwhere(allowed))


@quick
@given(ANY, numbers(0, 90), numbers(0, 160))
def test_counts_in_closed_form_are_the_counts(pattern, lq, lk):
    if not pattern.positional:
        lq = 40
    if isinstance(pattern, BlockSparse):
        lq = lk = 160
    heads = (pattern.heads or 2) if pattern.by_head else None
    dense = pattern.to_dense(lq, lk, heads=heads)
    for head in range(heads or 1):
        plane = dense[head] if pattern.by_head else dense
        assert np.array_equal(pattern.row_counts(lq, lk, head=head), plane.sum(1))
    assert pattern.count(lq, lk, heads=heads) == dense.sum()
    assert pattern.density_of(lq, lk, heads=heads) == pytest.approx(dense.mean() if dense.size else 0)


@pytest.mark.parametrize("pattern", SUBJECTS[:-2], ids=repr)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"query_offset": 37}, {"query_offset": [-70, 11]}, {"window": (9, 30)}], ids=str)
def test_attention_agrees_with_the_oracle(pattern, options):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 2, length, 8)) for length in (75, 131, 131))
    expected = reference.attention(q, k, v, mask=pattern, **options)
    np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=pattern, **options), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("pattern", SUBJECTS, ids=repr)
def test_copies_and_pickles_are_the_same_pattern(pattern):
    for again in (copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        i, j = np.arange(6)[:, None], np.arange(40)
        assert repr(again) == repr(pattern)
        assert np.array_equal(again.allowed(i, j, head=1), pattern.allowed(i, j, head=1))


@pytest.mark.parametrize("pattern", [
    Windowed(256, global_tokens=[0, 60_000]), Strided(512), Fixed(512, summary=4), Dilated(128, 64), Streaming(4, 1000), LocalGlobal(64),
    BigBird(length=131_072),
], ids=repr)  # fmt: skip
def test_a_block_of_a_long_sequence_is_planned_in_memory_of_its_own_ranges(pattern):
    length = 131_072
    at = length // 2 // pattern.row_block * pattern.row_block
    pattern.ranges(at, at + 32, length)
    tracemalloc.start()
    starts, _, _ = pattern.ranges(at, at + 32, length)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096 + 400 * len(starts)
    assert len(starts) <= 2 * length // 512 + 16


# --- what each of them is --------------------------------------------------------------------------------------------


def brute(rule, lq, lk):
    return np.array([[rule(i, j) for j in range(lk)] for i in range(lq)])


@pytest.mark.parametrize("size", [0, 1, 5, 100])
@pytest.mark.parametrize("given_tokens", [0, 1, 3, [], [4], [2, 9, 9, 3], range(3, 6), np.array([0, 11], np.uint8)], ids=repr)
def test_windowed_is_a_window_and_global_tokens_both_ways(size, given_tokens):
    among = set(range(given_tokens)) if isinstance(given_tokens, int) else {int(n) for n in given_tokens}
    expected = brute(lambda i, j: abs(i - j) <= size or i in among or j in among, 15, 12)
    assert np.array_equal(Windowed(size, given_tokens).to_dense(15, 12), expected)


@pytest.mark.parametrize(("stride", "size"), [(1, None), (3, None), (4, 0), (3, 7), (50, 2)])
def test_strided_is_a_window_and_the_keys_at_multiples_of_the_stride(stride, size):
    near = stride - 1 if size is None else size
    assert np.array_equal(Strided(stride, size).to_dense(14, 17), brute(lambda i, j: abs(i - j) <= near or (i - j) % stride == 0, 14, 17))


def test_strided_and_causal_is_the_strided_pattern_of_the_sparse_transformer():
    """A^(1) = {t, t + 1, …, i} with t = max(0, i − l), A^(2) = {j : (i − j) mod l = 0}, in section 4.2, united."""
    stride = 4
    expected = brute(lambda i, j: j <= i and (i - j <= stride or (i - j) % stride == 0), 20, 20)
    assert np.array_equal((Strided(stride) & ruvattn.Causal()).allowed(np.arange(20)[:, None], np.arange(20)), expected)


@pytest.mark.parametrize(("size", "summary"), [(1, 1), (4, 1), (4, 3), (5, 0), (30, 2)])
def test_fixed_is_the_own_block_and_the_ends_of_all(size, summary):
    expected = brute(lambda i, j: i // size == j // size or j % size in range(size - summary, size), 22, 19)
    assert np.array_equal(Fixed(size, summary).to_dense(22, 19), expected)


@pytest.mark.parametrize(("size", "dilation"), [(0, 1), (2, 1), (2, 3), (1, 40)])
def test_dilated_is_a_window_with_gaps(size, dilation):
    expected = brute(lambda i, j: (i - j) in range(-size * dilation, size * dilation + 1, dilation), 20, 23)
    assert np.array_equal(Dilated(size, dilation).to_dense(20, 23), expected)


def test_each_head_has_its_own_dilation():
    together = Dilated(2, [1, 4]).to_dense(20, 20)
    for head, dilation in enumerate([1, 4]):
        assert np.array_equal(together[head], Dilated(2, dilation).to_dense(20, 20))


@pytest.mark.parametrize(("first", "window"), [(0, 1), (2, 3), (5, 1), (30, 2), (3, 40)])
def test_streaming_is_the_first_keys_and_a_causal_window(first, window):
    assert np.array_equal(Streaming(first, window).to_dense(16, 13), brute(lambda i, j: j <= i and (j < first or i - j < window), 16, 13))


def test_streaming_for_one_query_at_the_end_sees_as_many_keys_as_it_keeps():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((1, 1, 8)), rng.standard_normal((1, 500, 8)), rng.standard_normal((1, 500, 8))
    kept = [*range(4), *range(500 - 16, 500)]
    expected = ruvattn.attention(q, k[:, kept], v[:, kept])
    np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=Streaming(4, 16), query_offset="end"), expected, atol=1e-14)


def test_local_global_without_positions_is_windowed():
    assert np.array_equal(LocalGlobal(3, [1, 9]).to_dense(20, 22), Windowed(3, [1, 9]).to_dense(20, 22))


def test_local_global_places_each_query_where_it_stands():
    positions = [7, 0, 7, 30, -2, 3]
    expected = brute(lambda i, j: abs(positions[i] - j) <= 2 or j == 3 or positions[i] == 3, 6, 12)
    assert np.array_equal(LocalGlobal(2, [3], positions).to_dense(6, 12), expected)


def test_local_global_places_the_queries_of_each_batch_entry():
    positions = np.array([[5, 6, 7], [0, 9, 3]])
    together = LocalGlobal(1, positions=positions)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 2, length, 8)) for length in (3, 10, 10))
    out = ruvattn.attention(q, k, v, mask=together)
    for entry in range(2):
        assert np.array_equal(together.to_dense(3, 10, batch=entry), LocalGlobal(1, positions=positions[entry]).to_dense(3, 10))
        alone = ruvattn.attention(q[entry], k[entry], v[entry], mask=LocalGlobal(1, positions=positions[entry]))
        np.testing.assert_allclose(out[entry], alone, rtol=0, atol=1e-15)


def test_the_positions_of_queries_do_not_move_with_query_offset():
    pattern = LocalGlobal(1, positions=[4, 0, 2])
    x = np.random.default_rng(0).standard_normal((1, 3, 4))
    assert np.array_equal(ruvattn.attention(x, x, x, mask=pattern, query_offset=2), ruvattn.attention(x, x, x, mask=pattern))


def test_a_pattern_keeps_no_reference_to_the_positions_it_was_given():
    positions = np.array([4, 0, 2])
    pattern = LocalGlobal(1, positions=positions)
    before = pattern.to_dense(3, 6)
    positions[:] = 5
    assert np.array_equal(pattern.to_dense(3, 6), before)


# --- BigBird ---------------------------------------------------------------------------------------------------------


def block_graph(pattern, head=0):
    """Which blocks see which."""
    at = np.arange(0, pattern.length, pattern.block_size)
    return pattern.allowed(at[:, None], at[None], head=head)


def test_bigbird_has_the_window_the_global_and_the_random_blocks():
    pattern = BigBird(8, window_blocks=5, global_blocks=2, random_blocks=3, length=8 * 40)
    graph = block_graph(pattern)
    assert graph[:2].all()
    assert graph[:, :2].all()
    for row in range(2, 40):
        window = [block for block in range(row - 2, row + 3) if 2 <= block < 40]
        assert graph[row, window].all()
        drawn = pattern.drawn(row)
        assert len(drawn) == 3
        assert drawn == sorted(set(drawn))
        assert not {0, 1, *window} & set(drawn)
        assert np.flatnonzero(graph[row]).tolist() == sorted({0, 1, *window, *drawn})


def test_bigbird_attends_to_whole_blocks():
    pattern = BigBird(6, length=90)
    dense = pattern.to_dense(90, 90, heads=1)[0]
    assert np.array_equal(dense, np.kron(block_graph(pattern), np.ones((6, 6), bool)))


def test_bigbird_draws_anew_for_each_head_row_and_seed():
    pattern = BigBird(1, 1, 0, 3, length=1000)
    draws = [tuple(pattern.drawn(row, head)) for row in range(50) for head in range(3)]
    draws += [tuple(BigBird(1, 1, 0, 3, seed=seed, length=1000).drawn(7)) for seed in range(1, 20)]
    # Of 169 draws among 10⁸ of them, hardly two are alike.
    assert len(set(draws)) == len(draws)


def test_bigbird_draws_all_blocks_alike():
    pattern = BigBird(1, 3, 1, 4, length=24)
    counts = np.zeros(24)
    rows, heads = range(10, 14), range(1500)
    for row in rows:
        for head in heads:
            counts[pattern.drawn(row, head)] += 1
    # Blocks 15 to 23 and 1 to 8 stand beside the window of each of these rows: 20 candidates each, of which 4 are drawn.
    sure = np.r_[1:9, 15:24]
    mean = len(rows) * len(heads) * 4 / 20
    assert (abs(counts[sure] - mean) < 5 * np.sqrt(mean)).all()
    assert counts[0] == 0


def test_bigbird_draws_what_it_drew():
    """The draw is part of what a model was trained with: it may not change from one version to the next."""
    drawn = [BigBird(64, seed=1, length=8192).drawn(row, head) for row, head in ((5, 0), (5, 1), (100, 0))]
    assert drawn == [[45, 70, 116], [3, 40, 50], [10, 91, 93]]


def test_bigbird_takes_all_blocks_where_there_are_fewer_than_it_draws():
    pattern = BigBird(4, 3, 1, 9, length=32)
    assert block_graph(pattern).all()
    assert BigBird(4, 3, 1, 9, length=3).drawn(0) == []


def test_bigbird_sees_the_same_of_a_shorter_sequence():
    pattern = BigBird(8, length=400)
    assert np.array_equal(pattern.to_dense(150, 150, heads=2), pattern.to_dense(400, 400, heads=2)[:, :150, :150])


def test_bigbird_refuses_more_keys_than_it_draws_from():
    x = np.zeros((1, 41, 4), np.float32)
    with pytest.raises(DimensionMismatchError, match=r"mask draws its blocks from 40 keys, and there are 41: pass BigBird\(…, length=41\)"):
        ruvattn.attention(x, x, x, mask=BigBird(8, length=40))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Windowed(-1), "window_size must be an int from 0, got -1"),
    (lambda: Windowed(1.5), "window_size must be an int from 0, got 1.5"),
    (lambda: Windowed(1, -2), "global_tokens must be an int from 0, got -2"),
    (lambda: Windowed(1, [3, -2]), "global_tokens must be positions from 0, got -2"),
    (lambda: Windowed(1, [0.5]), "global_tokens must be a number of tokens or a sequence of their positions"),
    (lambda: Windowed(1, [[1]]), "global_tokens must be a number of tokens or a sequence of their positions"),
    (lambda: Windowed(1, [True]), "global_tokens must be a number of tokens or a sequence of their positions"),
    (lambda: Strided(0), "stride must be an int from 1, got 0"),
    (lambda: Strided(4, -1), "window_size must be an int from 0, got -1"),
    (lambda: Fixed(0), "block_size must be an int from 1, got 0"),
    (lambda: Fixed(4, 5), "summary must be an int from 0 to 4, got 5"),
    (lambda: Fixed(4, -1), "summary must be an int from 0 to 4, got -1"),
    (lambda: Dilated(-1, 2), "window_size must be an int from 0, got -1"),
    (lambda: Dilated(1, 0), "dilation must be an int from 1, got 0"),
    (lambda: Dilated(1, [2, 0]), r"dilation\[1\] must be an int from 1, got 0"),
    (lambda: Dilated(1, []), "dilation must be an int from 1 or a sequence of them"),
    (lambda: Dilated(1, [[1]]), "dilation must be an int from 1 or a sequence of them"),
    (lambda: BigBird(0, length=9), "block_size must be an int from 1"),
    (lambda: BigBird(4, 2, length=9), "window_blocks must be odd, for the own block stands in the middle, got 2: 3"),
    (lambda: BigBird(4, 0, length=9), "window_blocks must be an int from 1, got 0"),
    (lambda: BigBird(4, global_blocks=-1, length=9), "global_blocks must be an int from 0, got -1"),
    (lambda: BigBird(4, random_blocks=-1, length=9), "random_blocks must be an int from 0"),
    (lambda: BigBird(4, seed=-1, length=9), "seed must be an int from 0"),
    (lambda: BigBird(4, length=0), "length must be an int from 1, got 0"),
    (lambda: Streaming(-1, 2), "first must be an int from 0, got -1"),
    (lambda: Streaming(1, 0), "window must be an int from 1, got 0"),
    (lambda: LocalGlobal(1, positions=[0.5]), r"positions must be ints, \(Lq,\) or \(batch, Lq\), got float64"),
    (lambda: LocalGlobal(1, positions=5), r"positions must be ints, \(Lq,\) or \(batch, Lq\)"),
    (lambda: LocalGlobal(1, positions=[[1, 2], [3]]), "positions is no array of numbers"),
])  # fmt: skip
def test_a_bad_option_is_named_with_its_value(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize(("pattern", "message"), [
    (LocalGlobal(1, positions=[1, 2]), r"positions must be one for each of the 3 queries, got shape \(2,\)"),
    (LocalGlobal(1, positions=[1, 2, 3, 4]), r"positions must be one for each of the 3 queries, got shape \(4,\)"),
    (LocalGlobal(1, positions=np.zeros((5, 3), int)), "mask must be for a batch of 1, got a LocalGlobal for 5"),
    (Dilated(1, [1, 2, 4]), "mask must be for 2 query heads, got a Dilated for 3"),
])  # fmt: skip
def test_a_pattern_of_another_shape_than_the_call_is_refused(pattern, message):
    x = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(DimensionMismatchError, match=message):
        ruvattn.attention(x, x, x, mask=pattern)


@pytest.mark.parametrize("huge", [2**40, 2**62, 2**100])
def test_options_may_be_further_than_any_key(huge):
    for pattern in (Windowed(huge), Strided(huge, 2), Fixed(huge), Dilated(2, huge), Dilated(huge, 3), Streaming(huge, huge), Windowed(0, huge)):
        allowed, (starts, stops, full) = asked(pattern, 5, 9, 12)
        inside = np.zeros(12, bool)
        for start, stop in zip(starts, stops, strict=True):
            inside[start:stop] = True
        assert np.array_equal(inside, allowed.any(0)) or not all(full)


# --- ranges, the arithmetic -----------------------------------------------------------------------------------------

intervals = st.lists(st.tuples(st.integers(-9, 40), st.integers(-9, 40), st.booleans()), max_size=5)


def levels(pieces, lk):
    found = np.zeros(lk, int)
    for start, stop, full in pieces:
        inside = slice(max(start, 0), max(stop, 0))
        found[inside] = np.maximum(found[inside], 1 + full)
    return found.tolist()


@quick
@given(intervals, st.integers(0, 35))
def test_a_union_of_intervals_is_full_where_one_is(pieces, lk):
    answer = united(pieces, lk)
    assert levels(zip(*answer, strict=True), lk) == levels(pieces, lk)


@quick
@given(intervals, st.integers(-9, 9), st.integers(1, 9), st.integers(0, 9), st.booleans(), st.integers(0, 70))
def test_a_union_with_runs_is_the_union_with_each_of_them(pieces, first, length, gap, full, lk):
    starts = range(first, 60, length + gap + 1)
    stops = range(first + length, 60 + length, length + gap + 1)
    answer = with_runs(pieces, starts, stops, full, lk)
    whole = [*pieces, *((a, b, full) for a, b in zip(starts, stops, strict=True))]
    assert levels(zip(*answer, strict=True), lk) == levels(whole, lk)


@quick
@given(st.one_of(st.integers(0, 12), st.lists(st.integers(0, 40), max_size=9)), st.integers(-5, 45), st.integers(0, 20))
def test_tokens_are_looked_up_and_counted(given_tokens, i0, rows):
    among = set(range(given_tokens)) if isinstance(given_tokens, int) else set(given_tokens)
    tokens = Tokens(given_tokens)
    at = np.arange(-5, 60)
    assert tokens.holds(at).tolist() == [n in among for n in at.tolist()]
    assert np.asarray(tokens.below(at)).tolist() == [len([t for t in among if t < n]) for n in at.tolist()]
    assert tokens.between(i0, i0 + rows) == len([t for t in among if i0 <= t < i0 + rows])
    assert len(tokens) == len(among)
    assert bool(tokens) == bool(among)


# --- by name ---------------------------------------------------------------------------------------------------------


def test_they_are_found_by_name():
    if "ruvattn-sparse" not in {found.metadata["Name"] for found in metadata.distributions()}:
        pytest.skip("run from its sources: pip install ./plugins/ruvattn-sparse first")
    (status,) = [status for status in ruvattn.plugins.status() if status.distribution == "ruvattn-sparse"]
    assert status.error is None, status.traceback
    names = {"windowed", "strided", "fixed", "dilated", "block-sparse", "bigbird", "streaming", "local-global"}
    assert names == set(status.provides["pattern"])
    assert np.array_equal(ruvattn.registry.get_pattern("strided", stride=3).to_dense(9, 9), Strided(3).to_dense(9, 9))
