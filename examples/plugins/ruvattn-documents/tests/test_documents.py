"""What the conformance suite cannot know: that the pattern is the one that it is meant to be, and that its ranges are exact."""

import pickle

import numpy as np
import pytest
import ruvattn
from formula import IDS, attend, ids_of, same_document
from ruvattn.errors import DimensionMismatchError, InvalidInputError

from ruvattn_documents import Documents


@pytest.mark.parametrize("ids", IDS)
def test_a_pair_is_two_positions_of_one_document(ids):
    positions = np.arange(-3, len(ids) + 4)  # before and behind the row there is no document
    expected = np.pad(same_document(ids), ((3, 4), (3, 4)))
    assert np.array_equal(Documents(ids=ids).allowed(positions[:, None], positions), expected)


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("cut", [0, 1, 4])
def test_ranges_hold_what_some_row_sees_and_full_ones_what_every_row_sees(ids, rows, cut):
    pattern, lk = Documents(ids=ids), max(len(ids) - cut, 0)
    seen = np.pad(same_document(ids), ((rows, rows), (0, 0)))[:, :lk]  # row 0 is position −rows
    for i0 in range(-rows, len(ids) + 1):
        i1 = min(i0 + rows, len(ids) + rows)
        block = seen[i0 + rows : i1 + rows]
        some, every = np.zeros(lk, bool), np.zeros(lk, bool)
        starts, stops, full = pattern.ranges(i0, i1, lk)
        assert all(a < b for a, b in zip(starts, stops, strict=True)) and all(a <= b for a, b in zip(stops, starts[1:], strict=False))
        for start, stop, whole in zip(starts, stops, full, strict=True):
            some[start:stop] = True
            every[start:stop] = whole
        assert np.array_equal(some, block.any(0))
        assert np.array_equal(every, block.all(0))


def test_ranges_of_documents_side_by_side_are_one():
    pattern = Documents([3, 4, 5])
    assert pattern.ranges(3, 7, 12) == ([3], [7], [True])
    assert pattern.ranges(1, 8, 12) == ([0], [12], [False])
    assert pattern.ranges(8, 9, 8) == ([7], [8], [True])
    assert pattern.ranges(8, 9, 7) == ([], [], [])


@pytest.mark.parametrize(
    ("lengths", "length"), [([3, 0, 5], None), (np.array([2, 1]), 9), ([[3, 4], [1], ()], None), (np.array([[3, 4], [8, 0]]), 10), ((), 3)]
)
def test_lengths_are_ids(lengths, length):
    expected = ids_of(lengths, length)
    pattern = Documents(lengths, length=length)
    assert np.array_equal(same_document(pattern.ids), same_document(expected))
    assert pattern.ids.shape == expected.shape
    assert pattern.longest == max(np.unique(row[row >= 0], return_counts=True)[1].max(initial=0) for row in np.atleast_2d(expected))


def test_numbers_of_documents_may_be_any():
    large = np.array([2**64 - 1, 2**64 - 1, 0, 7], np.uint64)
    assert Documents(ids=large).ids.tolist() == [2, 2, 0, 1]
    assert Documents(ids=[[5, -3, 5], [-1, 2, 2]]).ids.tolist() == [[1, -1, 1], [-1, 0, 0]]
    assert Documents(ids=np.zeros((2, 3, 4), int)).entries == 6


def test_positions_begin_anew_in_each_document():
    assert Documents([[3, 2], [4]]).positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    assert Documents(ids=[4, 4, 0, -1, 4, 0]).positions.tolist() == [0, 1, 0, 0, 2, 1]


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": (2, 1)}, {"causal": True, "window": (3, -1)}])
@pytest.mark.parametrize("lengths", [[6, 1, 8], [[6, 1, 8], [15, 0, 0], [2, 9, 1]]])
def test_attention_is_that_of_each_document_by_itself(lengths, options):
    q, k, v = np.random.default_rng(0).standard_normal((3, 3, 2, 15, 4))
    pattern = Documents(lengths, length=15)
    out = ruvattn.attention(q, k, v, mask=pattern, **options)
    np.testing.assert_allclose(out, attend(q, k, v, ids_of(lengths, 15), **options), rtol=0, atol=1e-13)
    for entry, row in enumerate(lengths if pattern.by_batch else [lengths] * 3):
        stops = np.cumsum(row)
        for start, stop in zip(stops - row, stops, strict=True):
            alone = (x[entry, :, start:stop] for x in (q, k, v))
            if start < stop:
                np.testing.assert_allclose(out[entry, :, start:stop], ruvattn.attention(*alone, **options), rtol=0, atol=1e-13)
        assert not out[entry, :, stops[-1] :].any()


def test_a_long_row_in_float32(ruvattn_threads):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 1500, 8), dtype=np.float32)
    lengths = [1, 700, 3, 64, 500, 200]
    out = ruvattn.attention(q, k, v, mask=Documents(lengths, length=1500), causal=True)
    expected = attend(*(x.astype(float) for x in (q, k, v)), ids_of(lengths, 1500), causal=True)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


def test_documents_combine_with_other_patterns_and_masks():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 2, 7, 4))
    pattern, odd = Documents([[3, 4], [5, 1]], length=7), np.random.default_rng(1).random((2, 1, 7, 7)) < 0.6
    expected = attend(q, k, v, ids_of([[3, 4], [5, 1]], 7), mask=odd & np.tri(7, dtype=bool))
    np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=pattern & odd & ruvattn.Causal()), expected, rtol=0, atol=1e-13)


def test_a_query_at_the_end_sees_its_own_document():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 9, 4))
    pattern = Documents([4, 5, 3])  # of which five keys of the second are there so far
    out = ruvattn.attention(q[:, :1], k, v, mask=pattern, query_offset="end")
    np.testing.assert_allclose(out, ruvattn.attention(q[:, :1], k[:, 4:], v[:, 4:]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"causal": True, "window": (3, 0)}])
def test_gradients_are_those_of_differences(options):
    rng = np.random.default_rng(0)
    q, k, v, weights = rng.standard_normal((4, 2, 1, 8, 3))
    lengths = [[3, 4], [2, 6]]
    pattern, ids = Documents(lengths, length=8), ids_of(lengths, 8)
    out, lse = ruvattn.attention(q, k, v, mask=pattern, return_lse=True, **options)
    found = ruvattn.attention_backward(weights, q, k, v, out, lse, mask=pattern, **options)
    step = 1e-6
    for n, name in enumerate("qkv"):
        gradient = found[name] if isinstance(found, dict) else found[n]
        expected = np.empty_like(gradient)
        for place in np.ndindex(expected.shape):
            moved = [x.copy() for x in (q, k, v)]
            moved[n][place] += step
            above = (weights * attend(*moved, ids, **options)).sum()
            moved[n][place] -= 2 * step
            expected[place] = (above - (weights * attend(*moved, ids, **options)).sum()) / (2 * step)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


def test_the_same_documents_are_the_same_object():
    assert Documents.shared([[3, 4], [7]]) is Documents.shared(((3, 4), np.array([7])))
    assert Documents.shared(np.array([3, 4])) is Documents.shared([3, 4])
    assert Documents.shared([3, 4]) is not Documents.shared([[3, 4]])
    assert Documents.shared(ids=[0, 0, 1]) is Documents.shared(ids=np.array([0, 0, 1]))
    assert Documents.shared(ids=[0, 0, 1]) is not Documents.shared(ids=[[0, 0, 1]])
    assert Documents.shared([3], length=np.int64(5)).length == 5


def test_a_pattern_is_a_value():
    pattern = Documents([[3, 4], [6]])
    assert np.array_equal(pickle.loads(pickle.dumps(pattern)).ids, pattern.ids)
    pattern.ids[:] = 0
    assert pattern.ids.tolist()[0] == [0, 0, 0, 1, 1, 1, 1]
    assert repr(pattern) == "<Documents: rows of 7 for each of 2 entries, up to 2 pieces in a row>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of the two"),
        ({"lengths": [3], "ids": [0]}, "give one of the two"),
        ({"ids": [0], "length": 1}, "length is for lengths"),
        ({"lengths": [3, 4], "length": 6}, "the documents have 7 tokens together, and a row has 6"),
        ({"lengths": [[3], [3, 4]], "length": 6}, "the documents of batch entry 1 have 7 tokens together, and a row has 6"),
        ({"lengths": []}, "no token"),
        ({"lengths": [[], [0]]}, "no token"),
        ({"lengths": [3, 4], "length": 7.5}, "length must be an int from 0, got 7.5"),
        ({"lengths": [3, -4]}, "lengths must be a sequence of ints from 0.*got -4"),
        ({"lengths": [3, 4.0]}, "lengths must be .*got 4.0"),
        ({"lengths": [3, True]}, "lengths must be .*got True"),
        ({"lengths": [[3], 4]}, "lengths must be .*got both"),
        ({"lengths": [[[3]]]}, r"lengths must be .*got \[3\]"),
        ({"lengths": 3}, "lengths must be .*got 3"),
        ({"lengths": "34"}, "lengths must be .*got '34'"),
        ({"ids": [0.0, 1.0]}, "ids must be an array of ints.*float64"),
        ({"ids": [True, False]}, "ids must be .*bool"),
        ({"ids": 3}, r"ids must be .*shape \(\)"),
        ({"ids": np.empty((0, 3), int)}, "none of them empty"),
        ({"ids": [[0, 0], [1]]}, "fill these up with −1"),
    ],
)
def test_what_describes_no_documents_is_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Documents(**arguments)


def test_a_call_of_another_shape_is_refused():
    x = np.ones((2, 1, 7, 4))
    with pytest.raises(DimensionMismatchError, match="documents are given for 3 batch entries, one by one, and the call has 2"):
        ruvattn.attention(x, x, x, mask=Documents([[7], [7], [7]]))
    with pytest.raises(DimensionMismatchError, match="for rows of 6 positions, and the call has 7 keys: if the rest is padding, say so"):
        ruvattn.attention(x[..., :1, :], x, x, mask=Documents([2, 4]))
    assert not ruvattn.attention(x, x, x, mask=Documents([2, 4], length=7))[..., 6, :].any()
