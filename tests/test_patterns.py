"""Patterns: the sets they stand for, and that `ranges` says what `allowed` does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse
from agreement import FLOATS, assert_agrees, assert_close, make, same_bits

from ruvattn import BoolMask, Causal, KeyLengths, Pattern, SparseMatrixMask, Window, attention, attention_weights
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError


def seen(mask, lq, lk, *, heads=1, lead=(), **options):
    """Which pairs attend, as the engine has it."""
    q, k, _ = make(0, lq, lk, 4, lead=lead, hq=heads, hk=heads)
    return attention_weights(q, k, mask=mask, **options) > 0


def dense(pattern, lq, lk, *, head=0, batch=0, start=0):
    """Which pairs attend, as the pattern has it."""
    answer = pattern.allowed(np.arange(start, start + lq)[:, None], np.arange(lk)[None, :], head=head, batch=batch)
    return np.broadcast_to(answer, (lq, lk))


MATRIX = scipy.sparse.random_array((70, 90), density=0.15, rng=np.random.default_rng(0))

PATTERNS = {
    "causal": Causal(),
    "window": Window(5, 3),
    "window of one": Window(0, 0),
    "window, open to the left": Window(-1, 4),
    "window, open to the right": Window(2, -1),
    "window without bounds": Window(-1, -1),
    "window as large as can be": Window(2**62, 2**62),
    "key lengths": KeyLengths(17),
    "no keys": KeyLengths(0),
    "more keys than there are": KeyLengths(1000),
    "key lengths of entries": KeyLengths([3, 90, 0]),
    "bool mask": BoolMask(np.random.default_rng(0).random((70, 90)) < 0.4),
    "bool mask of heads": BoolMask(np.random.default_rng(0).random((2, 70, 90)) < 0.4),
    "bool mask of entries": BoolMask(np.random.default_rng(0).random((3, 1, 70, 90)) < 0.4),
    "bool mask of keys": BoolMask(np.random.default_rng(0).random((1, 90)) < 0.4),
    "bool mask of queries": BoolMask(np.random.default_rng(0).random((70, 1)) < 0.4),
    "sparse": SparseMatrixMask(MATRIX),
    "sparse of heads": SparseMatrixMask(scipy.sparse.random_array((2, 70, 90), density=0.3, rng=np.random.default_rng(0))),
    "sparse and empty": SparseMatrixMask(scipy.sparse.coo_array((70, 90))),
    "sparse and full": SparseMatrixMask(scipy.sparse.csr_array(np.ones((70, 90)))),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_ranges_hold_all_that_is_allowed_and_full_ones_nothing_else(name):
    pattern = PATTERNS[name]
    lq, lk = 70, 90
    for head, batch in itertools.product(range(2 if pattern.by_head else 1), range(3 if pattern.by_batch else 1)):
        allowed = dense(pattern, lq, lk, head=head, batch=batch)
        for i0, i1 in [(0, 32), (32, 64), (64, 70), (0, 70), (69, 70), (7, 13)]:
            answer = pattern.ranges(i0, i1, lk, head=head, batch=batch)
            covered = np.zeros(lk, bool)
            last = 0
            for start, stop, full in zip(*answer, strict=True):
                assert last <= start <= stop <= lk
                last = stop
                covered[start:stop] = True
                assert not full or allowed[i0:i1, start:stop].all()
            assert not allowed[i0:i1, ~covered].any()


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_engine_sees_the_set_of_the_pattern(dtype, name):
    q, k, v = make(1, 70, 90, lead=(3,), hq=2, hk=1, dtype=dtype)
    assert_agrees(q, k, v, mask=PATTERNS[name])


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("options", [
    {"causal": True, "query_offset": 9}, {"window": (20, 20)}, {"key_lengths": [90, 40, 0]}, {"softcap": 1.0, "bias": np.zeros((70, 90), np.float32)},
    {"query_offset": -33}, {"query_offset": [5, -5, 60]}, {"query_offset": "end", "causal": True}, {"dropout": 0.5, "seed": 1, "sinks": [0.0, 1.0]},
], ids=str)  # fmt: skip
def test_a_pattern_is_anded_with_the_other_masks(name, options):
    q, k, v = make(2, 70, 90, lead=(3,), hq=2, hk=1)
    assert_agrees(q, k, v, mask=PATTERNS[name], **options)


def _generic(pattern):
    """The same pattern as a class that the engine doesn't know."""
    generic = Pattern()
    for name in ("by_head", "by_batch", "positional", "allowed", "ranges"):
        setattr(generic, name, getattr(pattern, name))
    return generic


@pytest.mark.parametrize("name", PATTERNS)
def test_what_the_kernels_know_by_heart_is_what_the_plan_says(name):
    q, k, v = make(3, 70, 90, lead=(3,), hq=2, hk=1)
    for options in ({}, {"query_offset": [5, -5, 60]}, {"causal": True}):
        out = attention(q, k, v, mask=PATTERNS[name], **options)
        assert_close(attention(q, k, v, mask=_generic(PATTERNS[name]), **options), out, 1e-5)


def test_arguments_and_patterns_of_one_name_mean_the_same():
    q, k, v = make(4, 40, 50, lead=(2,), hq=2, hk=2)
    assert same_bits(attention(q, k, v, mask=Causal()), attention(q, k, v, causal=True))
    assert same_bits(attention(q, k, v, mask=Window(4, 2)), attention(q, k, v, window=(4, 2)))
    assert same_bits(attention(q, k, v, mask=KeyLengths([7, 50])), attention(q, k, v, key_lengths=[7, 50]))
    mask = np.random.default_rng(0).random((2, 40, 50)) < 0.5
    assert same_bits(attention(q, k, v, mask=BoolMask(mask)), attention(q, k, v, mask=mask))
    matrix = scipy.sparse.csr_array(mask[0])
    # An array is for one call, and may take another engine than what is there for the next, too.
    assert_close(attention(q, k, v, mask=SparseMatrixMask(matrix)), attention(q, k, v, mask=matrix), 1e-6)


def test_an_argument_and_a_pattern_of_one_name_are_both_heeded():
    assert np.array_equal(seen(Window(4, 2), 20, 20, window=(1, 9)), seen(Window(1, 2), 20, 20))
    assert np.array_equal(seen(KeyLengths([7, 20]), 20, 20, lead=(2,), key_lengths=[20, 3]), seen(KeyLengths([7, 3]), 20, 20, lead=(2,)))


@pytest.mark.parametrize("offset", [0, 5, -5, 60, "end", 2**62, -(2**62)])
def test_a_pattern_is_asked_for_positions(offset):
    class Banded(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return (i - j) % 7 < 3

    start = {"end": 20, 2**62: 2**40, -(2**62): -(2**40)}.get(offset, offset)
    assert np.array_equal(seen(Banded(), 30, 50, query_offset=offset)[0], dense(Banded(), 30, 50, start=start))


def test_explicit_masks_go_by_the_index_of_a_row():
    mask = np.random.default_rng(0).random((30, 50)) < 0.5
    for pattern in (BoolMask(mask), SparseMatrixMask(scipy.sparse.csr_array(mask)), mask, scipy.sparse.csr_array(mask)):
        assert np.array_equal(seen(pattern, 30, 50, query_offset=1000)[0], mask)


# --- patterns of one's own ------------------------------------------------------------------------------------------------------


class Tall(Pattern):
    """Blocks of rows, each of which sees keys of its own; full."""

    def __init__(self, row_block):
        self.row_block = row_block
        self.asked = []

    def allowed(self, i, j, *, head=0, batch=0):
        return j // 10 == (i // self.row_block) % 5

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        self.asked.append((i0, i1))
        start = i0 // self.row_block % 5 * 10
        return [min(start, lk)], [min(start + 10, lk)], [True]


@pytest.mark.parametrize("row_block", [2, 3, 16, 24, 32, 50, 64, 1000])
@pytest.mark.parametrize("offset", [0, 7, -11, -100])
def test_ranges_are_asked_for_blocks_that_start_at_multiples_of_row_block(row_block, offset):
    pattern = Tall(row_block)
    assert np.array_equal(seen(pattern, 100, 50, query_offset=offset)[0], dense(pattern, 100, 50, start=offset))
    assert all(i0 % row_block == 0 for i0, _ in pattern.asked)
    assert all(i0 < i1 <= i0 + row_block for i0, i1 in pattern.asked)


def test_a_pattern_that_says_nothing_about_a_row_masks_it():
    class Nowhere(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            raise AssertionError("there is nothing to ask for")

        def ranges(self, i0, i1, lk, *, head=0, batch=0):
            return [], [], []

    q, k, v = make(5, 40, 50)
    out, lse = attention(q, k, v, mask=Nowhere(), return_lse=True)
    assert not out.any()
    assert np.isneginf(lse).all()


def test_full_ranges_are_not_asked_for():
    class Full(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            raise AssertionError("full means that nobody asks")

        def ranges(self, i0, i1, lk, *, head=0, batch=0):
            return [0, 10, 20], [5, 10, 50], [True, False, True]

    assert np.array_equal(seen(Full(), 40, 50)[0], np.broadcast_to((np.arange(50) < 5) | (np.arange(50) >= 20), (40, 50)))


def test_ranges_may_leave_some_rows_to_allowed():
    class Late(Pattern):
        """Explicit only from row 32 on."""

        def allowed(self, i, j, *, head=0, batch=0):
            return (i + j) % 2 == 0

        def ranges(self, i0, i1, lk, *, head=0, batch=0):
            return None if i0 < 32 else ([3], [lk], [False])

    expected = dense(Late(), 70, 50).copy()
    expected[32:, :3] = False
    assert np.array_equal(seen(Late(), 70, 50)[0], expected)


@pytest.mark.parametrize("many", [True, False])
def test_allowed_is_asked_once_for_all_heads_and_entries_unless_they_differ(many):
    asked = set()

    class Counted(Pattern):
        by_head = by_batch = many

        def allowed(self, i, j, *, head=0, batch=0):
            asked.add((head, batch))
            return (i + j + head + batch) % 2 == 0

    found = seen(Counted(), 20, 30, heads=3, lead=(2, 2))
    assert asked == (set(itertools.product(range(3), range(4))) if many else {(0, 0)})
    for batch, head in itertools.product(range(4), range(3)):
        expected = dense(Counted(), 20, 30, head=head * many, batch=batch * many)
        assert np.array_equal(found.reshape(4, 3, 20, 30)[batch, head], expected)


def test_allowed_may_answer_in_any_shape_that_broadcasts():
    class Row(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return j % 2 == 0

    class Column(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return i % 2 == 0

    class Single(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return np.True_

    assert np.array_equal(seen(Row(), 40, 50)[0], np.broadcast_to(np.arange(50) % 2 == 0, (40, 50)))
    assert np.array_equal(seen(Column(), 40, 50)[0], np.broadcast_to((np.arange(40) % 2 == 0)[:, None], (40, 50)))
    assert seen(Single(), 40, 50).all()


class Whole(Pattern):
    def allowed(self, i, j, *, head=0, batch=0):
        return np.ones(np.broadcast_shapes(i.shape, j.shape), bool)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({}, UnsupportedError, "allowed"),
        ({"allowed": lambda i, j, **_: (i + j) % 2}, InvalidInputError, "booleans"),
        ({"allowed": lambda i, j, **_: np.ones((3, 3), bool)}, DimensionMismatchError, "broadcasts"),
        ({"ranges": lambda *_, **__: ([0], [5])}, InvalidInputError, "ranges"),
        ({"ranges": lambda *_, **__: ([0, 5], [5, 9], [True])}, InvalidInputError, "ranges"),
        ({"ranges": lambda *_, **__: ([0], [51], [True])}, InvalidInputError, r"\[0, 51\)"),
        ({"ranges": lambda *_, **__: ([-1], [5], [True])}, InvalidInputError, r"\[-1, 5\)"),
        ({"ranges": lambda *_, **__: ([0, 4], [5, 9], [True, True])}, InvalidInputError, r"\[4, 9\)"),
        ({"ranges": lambda *_, **__: ([7], [5], [True])}, InvalidInputError, r"\[7, 5\)"),
        ({"ranges": lambda *_, **__: 3}, InvalidInputError, "ranges"),
        ({"row_block": 0}, InvalidInputError, "row_block"),
        ({"row_block": 1.5}, InvalidInputError, "row_block"),
    ],
)
def test_a_pattern_that_breaks_the_contract_is_told_so(changes, error, words):
    pattern = Whole() if changes else Pattern()
    for name, value in changes.items():
        setattr(pattern, name, value)
    with pytest.raises(error, match=words):
        attention(*make(6, 40, 50), mask=pattern)


def test_what_a_pattern_raises_comes_out_as_it_is():
    class Raises(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        attention(*make(6, 40, 50), mask=Raises())


# --- sparse matrices ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("form", ["coo", "csr", "csc", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_any_format_of_sparse_arrays(kind, form):
    expected = MATRIX.toarray() != 0
    matrix = getattr(scipy.sparse, f"{form}_{kind}")(MATRIX)
    assert np.array_equal(seen(matrix, 70, 90)[0], expected)


def test_stored_entries_attend_whatever_their_value():
    rows, cols, values = [0, 1, 1, 2, 2], [3, 0, 0, 4, 2], [0.0, 1.0, -1.0, np.nan, 5]
    by_rows = scipy.sparse.csr_array((values, [3, 0, 0, 4, 2], [0, 1, 3, 5, 5]), (4, 5))
    for matrix in (scipy.sparse.coo_array((values, (rows, cols)), (4, 5)), by_rows):
        expected = np.zeros((4, 5), bool)
        expected[rows, cols] = True
        before = matrix.nnz
        assert np.array_equal(seen(matrix, 4, 5)[0], expected)
        assert matrix.nnz == before  # and it isn't changed on the way


def test_unsorted_indices_and_64_bit_ones():
    matrix = scipy.sparse.csr_array((np.ones(4, bool), np.array([4, 0, 3, 1], np.int64), np.array([0, 3, 3, 4], np.int64)), (3, 5))
    expected = np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], bool)
    assert np.array_equal(seen(matrix, 3, 5)[0], expected)


def test_three_axes_are_heads_queries_and_keys():
    mask = np.random.default_rng(0).random((3, 20, 30)) < 0.3
    assert np.array_equal(seen(scipy.sparse.coo_array(mask), 20, 30, heads=3, lead=(2,)), np.broadcast_to(mask, (2, 3, 20, 30)))


def test_sparse_arrays_of_no_rows_or_keys():
    for lq, lk in [(0, 5), (5, 0), (0, 0)]:
        assert seen(scipy.sparse.coo_array((lq, lk)), lq, lk).shape == (1, lq, lk)


@pytest.mark.parametrize("shape", [(40, 51), (39, 50), (3, 40, 50), (1, 40, 50)])
def test_a_sparse_array_of_another_shape_is_refused(shape):
    q, k, v = make(7, 40, 50, hq=2, hk=2)
    with pytest.raises(DimensionMismatchError, match="mask"):
        attention(q, k, v, mask=scipy.sparse.coo_array(shape))


def test_entries_outside_a_sparse_array_are_refused():
    matrix = scipy.sparse.csr_array(np.eye(4))
    matrix.indices = np.array([0, 1, 9, 3], matrix.indices.dtype)
    with pytest.raises((InvalidInputError, ValueError)):
        attention(*make(8, 4, 4), mask=matrix)


@pytest.mark.parametrize(
    ("make_it", "error"),
    [
        (lambda: Window(-2, 0), InvalidInputError),
        (lambda: Window(0, 1.5), InvalidInputError),
        (lambda: KeyLengths(-1), InvalidInputError),
        (lambda: KeyLengths([1.5]), InvalidInputError),
        (lambda: BoolMask(np.ones(3, bool)), InvalidInputError),
        (lambda: BoolMask(np.ones((3, 3))), InvalidInputError),
        (lambda: SparseMatrixMask(np.ones((3, 3))), InvalidInputError),
        (lambda: SparseMatrixMask(scipy.sparse.coo_array((2, 2, 2, 2))), DimensionMismatchError),
    ],
)
def test_patterns_that_make_no_sense_are_refused(make_it, error):
    with pytest.raises(error):
        make_it()


def test_key_lengths_for_too_few_entries_are_refused():
    q, k, v = make(9, 4, 5, lead=(3,))
    with pytest.raises(DimensionMismatchError, match="entr"):
        attention(q, k, v, mask=KeyLengths([1, 2]))


def test_patterns_say_what_they_are():
    shown = [repr(PATTERNS[name]) for name in ("causal", "window", "key lengths", "bool mask", "sparse")]
    assert shown == ["Causal()", "Window(left=5, right=3)", "KeyLengths(17)", "BoolMask((70, 90))", f"SparseMatrixMask((70, 90), {MATRIX.nnz} pairs)"]
