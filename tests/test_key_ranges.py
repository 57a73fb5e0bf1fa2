"""Ranges of keys: their algebra against brute force, what patterns are asked, and how exact plans are that come of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse

from ruvattn import BoolMask, Causal, KeyLengths, Pattern, SparseMatrixMask, Window, planning
from ruvattn.errors import InvalidInputError
from ruvattn.key_ranges import KeyRanges, combined, complement, known_ranges, row_block
from ruvattn.planning import plans

NONE, SOME, ALL = 0, 1, 2
"""Levels of a key: how many rows see it."""


def ranges_of(levels, *, joined=True):
    """The ranges of keys with levels; joined: neighbours of one level share a range."""
    parts = []
    for key, level in enumerate(levels):
        if not level:
            continue
        if joined and parts and parts[-1][1] == key and parts[-1][2] == (level == ALL):
            parts[-1] = (parts[-1][0], key + 1, level == ALL)
        else:
            parts.append((key, key + 1, level == ALL))
    starts, stops, full = zip(*parts, strict=True) if parts else ((), (), ())
    return KeyRanges(np.array(starts, np.int64), np.array(stops, np.int64), np.array(full, bool))


def levels_of(ranges, lk):
    """The level of each key, having seen that ranges are as they should be: sorted, disjoint, not empty."""
    levels = [NONE] * lk
    end = 0
    for start, stop, full in zip(*(part.tolist() for part in ranges), strict=True):
        assert end <= start < stop <= lk
        end = stop
        levels[start:stop] = [ALL if full else SOME] * (stop - start)
    return tuple(levels)


def levels_of_rows(rows):
    """The level of each key of a dense block."""
    return tuple(ALL if column.all() else SOME if column.any() else NONE for column in rows.T)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


EVERY = list(itertools.product((NONE, SOME, ALL), repeat=3))


# --- the algebra ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(("kind", "meant"), [("and", min), ("or", max), ("rows", lambda *levels: levels[0] if len(set(levels)) == 1 else SOME)])
def test_ranges_combine_as_levels_do(kind, meant, joined):
    for a, b in itertools.product(EVERY, repeat=2):
        expected = tuple(meant(x, y) for x, y in zip(a, b, strict=True))
        found = combined(kind, [ranges_of(a, joined=joined), ranges_of(b, joined=joined)], 3)
        assert levels_of(found, 3) == expected
        assert same(found, ranges_of(expected)), "neighbours of one level must share a range"


@pytest.mark.parametrize(("kind", "meant"), [("and", min), ("or", max), ("rows", lambda *levels: levels[0] if len(set(levels)) == 1 else SOME)])
def test_three_combine_at_once(kind, meant):
    for levels in itertools.product(EVERY[::4], repeat=3):
        expected = tuple(meant(*of_key) for of_key in zip(*levels, strict=True))
        assert levels_of(combined(kind, [ranges_of(x) for x in levels], 3), 3) == expected


@pytest.mark.parametrize("kind", ["and", "or", "rows"])
def test_one_alone_stays_what_it_is(kind):
    for levels in EVERY:
        assert same(combined(kind, [ranges_of(levels)], 3), ranges_of(levels))


@pytest.mark.parametrize("joined", [True, False])
def test_the_complement_is_the_other_level(joined):
    for levels in EVERY:
        found = complement(ranges_of(levels, joined=joined), 3)
        assert same(found, ranges_of([ALL - level for level in levels]))
        assert same(complement(found, 3), ranges_of(levels))


def test_no_keys_have_no_ranges():
    nothing = ranges_of(())
    assert levels_of(complement(nothing, 0), 0) == ()
    for kind in ("and", "or", "rows"):
        assert levels_of(combined(kind, [nothing, nothing], 0), 0) == ()


def test_de_morgan():
    for a, b in itertools.product(map(ranges_of, EVERY), repeat=2):
        left = complement(combined("and", [a, b], 3), 3)
        assert same(left, combined("or", [complement(a, 3), complement(b, 3)], 3))


@pytest.mark.parametrize("operation", ["and", "or", "not", "rows"])
def test_what_comes_out_is_true_of_every_set(operation):
    """Of all blocks of two rows and two keys: nothing is allowed outside of the ranges, all is in full ones, nothing certain is called partial."""
    blocks = [np.array(bits, bool).reshape(2, 2) for bits in itertools.product((False, True), repeat=4)]
    for a, b in itertools.product(blocks, repeat=2):
        ranges = [ranges_of(levels_of_rows(block)) for block in (a, b)]
        if operation == "not":
            found, rows = complement(ranges[0], 2), ~a
        else:
            found = combined(operation, ranges, 2)
            rows = {"and": a & b, "or": a | b, "rows": np.concatenate([a, b])}[operation]
        for level, exact in zip(levels_of(found, 2), levels_of_rows(rows), strict=True):
            assert level in (exact, SOME)
        certain = SOME not in levels_of_rows(a) + levels_of_rows(b)
        if operation in ("not", "rows") or certain:
            assert levels_of(found, 2) == levels_of_rows(rows)


# --- what patterns are asked, and what they answer ------------------------------------------------------------------------------


class Told(Pattern):
    """Ranges by a function of the block."""

    def __init__(self, function, row_block=1):
        self.function, self.row_block, self.asked = function, row_block, []

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        self.asked.append((i0, i1))
        return self.function(i0, i1, lk)


def test_a_pattern_without_ranges_may_have_any_key():
    assert levels_of(known_ranges(Pattern(), 3, 9, 5, 0, 0), 5) == (SOME,) * 5
    assert levels_of(known_ranges(Pattern(), 3, 9, 0, 0, 0), 0) == ()


@pytest.mark.parametrize(
    ("block", "i0", "i1", "asked"),
    [
        (1, 5, 50, [(5, 50)]),
        (8, 8, 16, [(8, 16)]),
        (8, 9, 15, [(8, 15)]),
        (8, 9, 18, [(8, 16), (16, 18)]),
        (8, 0, 24, [(0, 8), (8, 16), (16, 24)]),
        (8, -3, 2, [(-8, 0), (0, 2)]),
        (8, 16, 16, [(16, 16)]),
        (100, 40, 70, [(0, 70)]),
    ],
)
def test_blocks_that_are_asked_for_start_at_multiples_of_row_block(block, i0, i1, asked):
    pattern = Told(lambda *_: ([0], [1], [True]), block)
    known_ranges(pattern, i0, i1, 3, 0, 0)
    assert pattern.asked == asked


def test_what_all_blocks_see_is_full_and_what_some_see_is_not():
    pattern = Told(lambda i0, i1, lk: ([0, i0], [1, i0 + 2], [True, True]) if i0 else ([0], [2], [True]), 2)
    assert levels_of(known_ranges(pattern, 0, 6, 8, 0, 0), 8) == (ALL, SOME, SOME, SOME, SOME, SOME, NONE, NONE)


def test_empty_ranges_are_left_out():
    pattern = Told(lambda *_: ([0, 2, 2, 4], [0, 2, 3, 4], [True, False, True, False]))
    assert levels_of(known_ranges(pattern, 0, 1, 4, 0, 0), 4) == (NONE, NONE, ALL, NONE)


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda x: np.array(x, np.uint8), lambda x: np.array(x, np.int32), lambda x: np.array([x])])
def test_ranges_may_be_any_sequences_of_ints(form):
    pattern = Told(lambda *_: (form([0, 3]), form([1, 5]), [1, 0]))
    assert levels_of(known_ranges(pattern, 0, 1, 6, 0, 0), 6) == (ALL, NONE, NONE, SOME, SOME, NONE)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (([0, 2], [3, 4], [True, True]), r"the range \[2, 4\), which overlaps another"),
        (([4, 0], [5, 2], [True, True]), r"the range \[0, 2\)"),
        (([3], [2], [True]), r"the range \[3, 2\)"),
        (([-1], [2], [True]), r"the range \[-1, 2\)"),
        (([0, 4], [2, 7], [True, True]), r"the range \[4, 7\).*leaves \[0, 6\)"),
        (([7], [7], [True]), r"the range \[7, 7\)"),
        (([0], [2**70], [True]), "leaves"),
        (([-(2**70)], [2], [True]), "leaves"),
        (([0], [2**63], [True]), "leaves"),
        ((np.array([0], np.uint64), np.array([2**63], np.uint64), [True]), "leaves"),
        (([0], [2], []), "their lengths are 1, 1 and 0"),
        (([0.0], [2], [True]), "three sequences"),
        (([0], [2]), "three sequences"),
        ((None, None, None), "three sequences"),
        (7, "three sequences"),
    ],
    ids=str,
)
def test_ranges_that_make_no_sense_are_refused_with_the_entry(answer, words):
    with pytest.raises(InvalidInputError, match=r"Told.ranges\(10, 12, 6\).*" + words):
        known_ranges(Told(lambda *_: answer), 10, 12, 6, 0, 0)


@pytest.mark.parametrize("value", [0, -1, 1.5, None, "8"])
def test_a_row_block_that_makes_no_sense_is_refused(value):
    with pytest.raises(InvalidInputError, match="Told.row_block must be a positive int, got"):
        row_block(Told(None, value))


def test_a_row_block_may_be_any_int():
    assert row_block(Told(None, np.int8(5))) == 5


# --- how exact plans are --------------------------------------------------------------------------------------------------------

LQ, LK, LANES = 300, 1000, 16


class Local(Pattern):
    """A window that has to be found out, by `allowed` alone."""

    def allowed(self, i, j, *, head=0, batch=0):
        return abs(i - j) <= 20


FIRST = KeyLengths(5)
MATRIX = scipy.sparse.csr_array((np.arange(LK)[None, :] - np.arange(LQ)[:, None]) % 97 == 0)
EXACT = {
    "window": Window(256, 256),
    "window of one": Window(0, 0),
    "causal window": Window(256, 256) & Causal(),
    "window and first keys": Window(64, 0) | FIRST,
    "causal, window and first keys": (Window(64, 64) | FIRST) & Causal(),
    "window without its middle": Window(100, 100) & ~Window(50, 50),
    "outside of a window": ~Window(256, 256),
    "two windows that don't meet": Window(10, -1) & Window(-1, 300) & ~(Window(5, 250)),
    "by allowed alone": Local(),
    "by allowed alone, and first keys": Local() | FIRST,
    "bool mask": BoolMask(np.abs(np.arange(LQ)[:, None] * 3 - np.arange(LK)) < 40),
    "sparse and window": SparseMatrixMask(MATRIX) & Window(200, 200),
    "nothing": Window(3, 3) & ~Window(-1, -1),
    "everything": Window(3, 3) | ~Window(3, 3),
}


@pytest.mark.parametrize("offset", [0, 37, -50])
@pytest.mark.parametrize("name", EXACT)
def test_a_plan_holds_the_union_of_what_the_rows_of_a_block_see_and_short_gaps(name, offset):
    pattern = EXACT[name]
    (plan,) = plans(pattern, LQ, LK, 1, np.array([offset]), LANES)
    at = pattern.at(offset)
    for block, r0 in enumerate(range(0, LQ, plan.block_rows)):
        i = np.arange(r0, min(r0 + plan.block_rows, LQ))[:, None] + offset
        union = np.broadcast_to(at.allowed(i, np.arange(LK)[None, :]), (len(i), LK)).any(0)
        planned = np.zeros(LK, bool)
        for segment in range(plan.ptr[block], plan.ptr[block + 1]):
            assert plan.start[segment] < plan.stop[segment]
            assert union[plan.start[segment]] and union[plan.stop[segment] - 1], "what nobody sees at an end must be cut off"
            planned[plan.start[segment] : plan.stop[segment]] = True
        assert planned[union].all()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], planned & ~union, [0]])))
        gaps = edges[1::2] - edges[::2]
        assert gaps.max(initial=0) < planning.GAP


def test_a_window_costs_what_its_rows_see_together():
    (plan,) = plans(Window(256, 256), 4096, 4096, 1, np.zeros(1, np.int64), LANES)
    middle = slice(plan.ptr[20], plan.ptr[21])
    assert int((plan.stop - plan.start)[middle].sum()) == 256 + plan.block_rows + 256
    assert (plan.bit[middle] < 0).sum() == 1, "what all rows see runs without bits"
    assert (plan.bit[middle] >= 0).sum() == 2


def test_what_all_rows_see_runs_without_bits_whatever_it_is_made_of():
    for pattern in (Window(3, 3) | ~Window(3, 3), Window(-1, -1), ~(Window(3, 3) & ~Window(3, 3)), KeyLengths(LK) | Local()):
        (plan,) = plans(pattern, LQ, LK, 1, np.zeros(1, np.int64), LANES)
        assert (plan.bit < 0).all()
        assert int((plan.stop - plan.start).sum()) == LK * (len(plan.ptr) - 1)


def test_a_gap_between_keys_that_all_rows_see_is_no_segment():
    array = np.ones((32, 300), bool)
    array[:, 100:104] = False
    pattern = BoolMask(array)
    pattern.ranges = lambda *_, **__: None
    (plan,) = plans(pattern, 32, 300, 1, np.zeros(1, np.int64), LANES)
    assert list(zip(plan.start.tolist(), plan.stop.tolist(), plan.bit.tolist(), strict=True)) == [(0, 100, -1), (104, 300, -1)]


def test_what_is_empty_has_no_segments_and_is_not_asked_for():
    class Never(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            raise AssertionError("there is nothing to ask for")

    for pattern in (Never() & KeyLengths(0), Never() & KeyLengths(9) & ~KeyLengths(9), ~(Never() | KeyLengths(LK))):
        (plan,) = plans(pattern, LQ, LK, 1, np.zeros(1, np.int64), LANES)
        assert len(plan.start) == 0
        assert plan.words.size == 1
