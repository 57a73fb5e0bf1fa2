"""The masks: what they hold, how they are counted, and the ways between arrays, pairs, blocks and scipy.sparse."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import SparseMask, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.registry import Origin, Registry
from ruvattn.testing import check_pattern, parametrize_with_checks

pytest.importorskip("ruvattn_sparse", reason="pip install ./plugins/ruvattn-sparse first")
import ruvattn_sparse
from ruvattn_sparse import COO, BigBird, BlockSparse, Dense, Dilated, PatternMask, Strided, Windowed, as_sparse_mask, from_scipy

quick = settings(max_examples=80, deadline=None, derandomize=True)

RANDOM = np.random.default_rng(0).random((3, 40, 50)) < 0.3
BLOCKS = np.random.default_rng(1).random((2, 4, 5)) < 0.5

MASKS = {
    "dense": Dense(RANDOM[0]),
    "dense, by head": Dense(RANDOM),
    "coo": COO(np.argwhere(RANDOM[0]), (40, 50)),
    "coo, by head": COO(np.argwhere(RANDOM), (3, 40, 50)),
    "coo without a pair": COO([], (40, 50)),
    "blocks": BlockSparse(8, BLOCKS[0]),
    "blocks by head": BlockSparse(8, BLOCKS),
    "blocks of one": BlockSparse(1, RANDOM[0]),
    "indices of blocks": BlockSparse(8, np.argwhere(BLOCKS[0]), shape=(4, 5)),
    "a composition": PatternMask(ruvattn.Causal() & ~Strided(4) & Dense(RANDOM[0])),
}

shaped = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


WRAPPED = [PatternMask(ruvattn.Causal() & ~Strided(4)), PatternMask(ruvattn.KeyLengths([3, 8])), PatternMask(MASKS["blocks by head"])]


@parametrize_with_checks([*(mask for name, mask in MASKS.items() if name != "a composition"), Dense(RANDOM[:, None, :1]), *WRAPPED])
def test_masks_keep_every_promise(subject, check):
    check(subject)


@pytest.mark.parametrize("mask", [COO([(0, 3), (9, 8), (3, 3)]), COO([(1, 0, 3), (0, 9, 8)]), BlockSparse(4, [(0, 1), (2, 0)])], ids=repr)
def test_masks_that_fit_several_shapes_keep_every_other_promise(mask):
    check_pattern(mask, expected_failures={"wrong_shapes_are_refused": "it is for every call that has all of its pairs"})


@shaped
def test_attention_agrees_with_the_oracle(mask):
    rng = np.random.default_rng(0)
    heads, (lq, lk) = mask.heads or 2, mask.to_dense(*(mask.shape or (40, 50))[-2:]).shape[-2:]
    q, k, v = (rng.standard_normal((2, heads, length, 8)) for length in (lq, lk, lk))
    for options in ({}, {"causal": True, "query_offset": 9}):
        dense = mask.to_dense(lq, lk) if mask.positional is False else None
        expected = reference.attention(q, k, v, mask=mask, **options)
        np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=mask, **options), expected, rtol=0, atol=1e-13)
        if dense is not None:
            np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=dense, **options), expected, rtol=0, atol=1e-13)


# --- what they hold --------------------------------------------------------------------------------------------------


def test_dense_holds_the_array():
    assert np.array_equal(MASKS["dense"].to_dense(), RANDOM[0])
    assert np.array_equal(MASKS["dense, by head"].to_dense(), RANDOM)


def test_dense_broadcasts_as_a_bool_array_does():
    row = RANDOM[0, :1]
    assert np.array_equal(Dense(row).to_dense(7, 50), np.broadcast_to(row, (7, 50)))
    assert Dense(row).nnz == row.sum()
    assert Dense(row).count(7, 50) == 7 * row.sum()
    column = RANDOM[0, :, :1]
    assert Dense(column).count(40, 9) == 9 * column.sum()


def test_dense_holds_an_array_for_each_batch_entry():
    mask = Dense(RANDOM.reshape(3, 1, 40, 50))
    assert (mask.shape, mask.by_head, mask.by_batch) == ((3, 1, 40, 50), False, True)
    assert mask.nnz == RANDOM.sum()
    assert mask.density == pytest.approx(RANDOM.mean())
    assert np.array_equal(mask.to_dense(batch=2), RANDOM[2])
    assert np.array_equal(mask.row_counts(batch=1), RANDOM[1].sum(1))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_coo_takes_pairs_of_any_int_in_any_order_and_more_than_once(dtype):
    pairs = np.argwhere(RANDOM[0])
    shuffled = np.random.default_rng(0).permutation(np.concatenate([pairs, pairs[::3]])).astype(dtype)
    mask = COO(shuffled, (40, 50))
    assert np.array_equal(mask.to_dense(), RANDOM[0])
    assert mask.nnz == len(pairs)


def test_coo_takes_lists():
    assert COO([[0, 1], [2, 0]], [3, 3]).to_dense().tolist() == [[False, True, False], [False] * 3, [True, False, False]]


def test_coo_without_a_shape_is_for_all_calls_that_have_its_pairs():
    mask = COO([(2, 1), (0, 3)])
    for lq, lk in ((3, 4), (3, 9), (70, 4), (70, 90)):
        expected = np.zeros((lq, lk), bool)
        expected[[2, 0], [1, 3]] = True
        assert np.array_equal(mask.to_dense(lq, lk), expected)
        x, y = np.ones((1, lq, 4)), np.ones((1, lk, 4))
        np.testing.assert_array_equal(ruvattn.attention_weights(x, y, mask=mask)[0] > 0, expected)
    assert mask.nnz == 2
    assert mask.shape is None


def test_coo_without_a_shape_is_for_all_heads():
    mask = COO([(1, 0, 2)])
    assert mask.nnz == 1
    assert np.argwhere(mask.to_dense(2, 3, heads=4)).tolist() == [[1, 0, 2]]
    assert mask.count(2, 3, heads=4) == 1


@pytest.mark.parametrize("lengths", [(32, 40), (25, 33), (31, 39), (32, 34)])
def test_blocks_attend_as_a_whole_and_the_last_ones_may_be_cut(lengths):
    lq, lk = lengths
    whole = np.kron(BLOCKS, np.ones((8, 8), bool))[:, :lq, :lk]
    mask = BlockSparse(8, BLOCKS)
    assert np.array_equal(mask.to_dense(lq, lk), whole)
    assert mask.count(lq, lk) == whole.sum()
    q, k = np.ones((2, lq, 4)), np.ones((2, lk, 4))
    assert np.array_equal(ruvattn.attention_weights(q, k, mask=mask) > 0, whole)


def test_blocks_may_be_given_by_their_indices():
    mask = BlockSparse(8, np.argwhere(BLOCKS)[::-1], shape=BLOCKS.shape)
    assert np.array_equal(mask.to_dense(), MASKS["blocks by head"].to_dense())
    open_end = BlockSparse(4, [(0, 1), (2, 0), (0, 1)])
    expected = np.zeros((20, 11), bool)
    expected[:4, 4:8] = expected[8:12, :4] = True
    assert np.array_equal(open_end.to_dense(20, 11), expected)


def test_neighbouring_blocks_are_one_range():
    mask = BlockSparse(8, [[True, True, False, True]])
    starts, stops, full = mask.ranges(0, 8, 30)
    assert list(zip(starts, stops, full, strict=True)) == [(0, 16, True), (24, 30, True)]


@shaped
def test_what_a_mask_was_made_of_may_change_later(mask):
    array = RANDOM[0].copy()
    held = (Dense(array), COO.from_dense(array), BlockSparse(1, array), from_scipy(scipy.sparse.csr_array(array)))
    array[:] = True
    assert all(np.array_equal(one.to_dense(), RANDOM[0]) for one in held)
    again = pickle.loads(pickle.dumps(mask))
    lengths = (40, 50) if mask.shape is None else mask.shape[-2:]
    for other in (again, copy.deepcopy(mask)):
        assert np.array_equal(other.to_dense(*lengths), mask.to_dense(*lengths))


# --- counts ----------------------------------------------------------------------------------------------------------


@shaped
def test_counts_and_density_are_those_of_the_array(mask):
    lengths = (40, 50) if mask.shape is None else mask.shape[-2:]
    dense = mask.to_dense(*lengths)
    assert mask.count(*lengths) == dense.sum()
    assert mask.density_of(*lengths) == pytest.approx(dense.mean())
    if mask.shape is not None:
        assert (mask.nnz, mask.density) == (dense.sum(), pytest.approx(dense.mean()))
    for head in range(mask.heads or 1):
        plane = dense[head] if mask.by_head else dense
        assert np.array_equal(mask.row_counts(*lengths, head=head), plane.sum(1))
        indptr, indices = mask.pairs(0, *lengths, head=head)
        rows = np.repeat(np.arange(lengths[0]), np.diff(indptr))
        assert np.array_equal(np.stack([rows, indices], 1), np.argwhere(plane))


@shaped
@quick
@given(data=st.data())
def test_the_pairs_of_each_cell_of_a_grid_are_counted(mask, data):
    lq, lk = (40, 50) if mask.shape is None else mask.shape[-2:]
    rows, keys = ([0, *sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=9))), n] for n in (lq, lk))
    head = data.draw(st.integers(0, (mask.heads or 1) - 1))
    plane = mask.to_dense(lq, lk)[head] if mask.by_head else mask.to_dense(lq, lk)
    expected = np.add.reduceat(np.add.reduceat(plane.astype(int), rows[:-1], 0), keys[:-1], 1)
    assert np.array_equal(mask.cell_counts(rows, keys, head=head), expected)


def test_a_mask_without_a_shape_is_counted_for_lengths():
    mask = Windowed(1)
    assert mask.count(4, 4) == 10
    assert mask.density_of(4, 4) == 10 / 16
    assert mask.count(0, 4) == mask.count(4, 0) == 0
    assert mask.density_of(0, 4) == 0.0
    assert BigBird(4, length=64).count(64, 64, heads=3) == BigBird(4, length=64).to_dense(64, 64, heads=3).sum()


@pytest.mark.parametrize("mask", [Windowed(256, 4), BigBird(length=32_768)], ids=repr)
def test_a_long_mask_is_counted_without_an_array_of_its_pairs(mask):
    length = 32_768
    tracemalloc.start()
    counts = mask.row_counts(length, length)
    grid = mask.cell_counts([0, length // 2, length], [0, length // 2, length])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.sum() == grid.sum()
    assert peak < length**2 // 64


@pytest.mark.parametrize("name", ["nnz", "density"])
def test_what_depends_on_lengths_says_so(name):
    with pytest.raises(InvalidInputError, match=rf"{name} of a Windowed depends on the lengths, which it leaves open: call \w+\(lq, lk\)"):
        getattr(Windowed(3), name)


@pytest.mark.parametrize(("call", "message"), [
    (Windowed(3).to_dense, "lq and lk must both be given for a Windowed, got lq=None and lk=None"),
    (lambda: Windowed(3).to_scipy(4), "lq and lk must both be given for a Windowed, got lq=4 and lk=None"),
    (lambda: Windowed(3).count(-1, 4), "lq must be an int from 0, got -1"),
    (lambda: Windowed(3).row_counts(1, 4.0), "lk must be an int from 0, got 4.0"),
    (lambda: BigBird(length=9).count(4, 4), "heads must be given: a BigBird differs by head, for any number of them"),
    (lambda: BigBird(length=9).to_dense(4, 4, heads=0), "heads must be an int from 1, got 0"),
    (lambda: Windowed(3).row_counts(4, 4, head=-1), "head must be an int from 0, got -1"),
    (lambda: Windowed(3).cell_counts([0, 4], [1, 4]), r"key_edges must be ints that increase from 0, got \[1, 4\]"),
    (lambda: Windowed(3).cell_counts([0, 4, 4], [0, 4]), r"row_edges must be ints that increase from 0, got \[0, 4, 4\]"),
    (lambda: COO([(0, 1)], (1, 2)).to_scipy(format="dia"), "format must be 'csr', 'coo' or 'bsr', got 'dia'"),
    (MASKS["coo, by head"].to_scipy, "format must be 'coo' for a mask that differs by head, got 'csr'"),
    (lambda: MASKS["coo"].to_scipy(format="bsr"), "format must be 'csr' or 'coo' for a COO, got 'bsr': a stored block would attend as a whole"),
    (lambda: MASKS["blocks by head"].to_scipy(format="bsr"), "format must be 'coo' for a mask that differs by head, got 'bsr'"),
    (lambda: MASKS["blocks"].to_scipy(31, 40, format="bsr"), r"for lengths that aren't multiples of 8, got 'bsr' for \(31, 40\)"),
    (lambda: PatternMask(ruvattn.KeyLengths([1, 2]) & ruvattn.Causal(), lead=()).count(2, 2), "lengths of mask must be one number or one for each"),
    (lambda: PatternMask("causal"), "pattern must be a ruvattn.Pattern, got str: as_sparse_mask takes other things"),
])  # fmt: skip
def test_a_bad_question_is_answered_with_the_way_out(call, message):
    with pytest.raises((InvalidInputError, DimensionMismatchError), match=message):
        call()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: MASKS["dense, by head"].row_counts(head=3), "head must be less than 3, the heads of the Dense, got 3"),
    (lambda: Dense(RANDOM[:, None]).row_counts(batch=3), "batch must be less than 3, the batch entries of the Dense, got 3"),
    (lambda: MASKS["coo"].count(40, 51), r"mask must be for \(Lq, Lk\) = \(40, 51\), got a COO for \(40, 50\)"),
    (lambda: MASKS["coo, by head"].count(40, 50, heads=2), "mask must be for 2 query heads, got a COO for 3"),
    (lambda: COO([(0, 3), (5, 9)]).to_dense(6, 9), r"mask has the pair \(5, 9\), which is outside of the call's \(6, 9\): leave it out"),
    (lambda: COO([(0, 0, 3), (2, 1, 1)]).to_dense(4, 4, heads=2), r"mask has the pair \(2, 1, 1\), which is outside of the call's \(2, 4, 4\)"),
    (lambda: MASKS["blocks"].to_dense(33, 40), "active_blocks has 4 blocks of queries, and 33 queries are 5 blocks of 8: the mask is for 25 to 32"),
    (lambda: MASKS["blocks"].to_dense(32, 32), "active_blocks has 5 blocks of keys, and 32 keys are 4 blocks of 8: the mask is for 33 to 40"),
    (lambda: BlockSparse(4, [(0, 1), (2, 0)]).to_dense(8, 8), "active_blocks has 3 blocks of queries, and 8 queries are 2 blocks of 4"),
])  # fmt: skip
def test_lengths_that_a_mask_is_not_for_are_refused(call, message):
    with pytest.raises(DimensionMismatchError, match=message):
        call()


@shaped
def test_a_call_of_another_shape_is_refused(mask):
    heads, (lq, lk) = mask.heads or 2, (40, 50) if mask.shape is None else mask.shape[-2:]
    others = [(heads, lq + 8, lk), (heads, lq, lk + 8), (heads, lq - 8, lk), (heads, lq, lk - 8), *([(heads + 1, lq, lk)] if mask.by_head else [])]
    for h, m, n in others:
        with pytest.raises(DimensionMismatchError):
            ruvattn.attention(np.zeros((h, m, 4)), np.zeros((h, n, 4)), np.zeros((h, n, 4)), mask=mask)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: COO([(0, 1), (3, 1)], (3, 3)), r"pairs\[1\] is \(3, 1\), which is outside of \(3, 3\): entries are counted from 0"),
    (lambda: COO([(0, 1), (2, -1)], (3, 3)), r"pairs\[1\] is \(2, -1\), which is below 0"),
    (lambda: COO([(0, 1), (2, -1)]), r"pairs\[1\] is \(2, -1\), which is below 0"),
    (lambda: COO(np.array([[0, 2**63]], np.uint64)), "which is further than any key"),
    (lambda: COO([(2, 0, 0)], (2, 3, 3)), r"pairs\[0\] is \(2, 0, 0\), which is outside of \(2, 3, 3\)"),
    (lambda: COO([(0.0, 1.0)], (3, 3)), r"pairs must be ints, \(n, 2\) or \(n, 3\), got float64 of shape \(1, 2\)"),
    (lambda: COO([0, 1], (3, 3)), r"pairs must be ints, \(n, 2\) or \(n, 3\), got int64 of shape \(2,\)"),
    (lambda: COO([(0, 1)], 5), "shape must have two axes, or three with heads in front, got 5"),
    (lambda: COO([(0, 1)], (3, -1)), r"shape\[1\] must be an int from 0, got -1"),
    (lambda: COO.from_dense(np.ones((3, 3))), r"array must be boolean, \(Lq, Lk\) or \(Hq, Lq, Lk\), got float64"),
    (lambda: Dense(np.ones((3, 3))), "mask must be a boolean array of at least two axes"),
    (lambda: BlockSparse(0, [[True]]), "block_size must be an int from 1, got 0"),
    (lambda: BlockSparse(4, [True]), r"active_blocks must be \(nq, nk\) or \(Hq, nq, nk\), got shape \(1,\)"),
    (lambda: BlockSparse(4, [(0, 5)], shape=(2, 5)), r"active_blocks\[0\] is \(0, 5\), which is outside of \(2, 5\)"),
    (lambda: BlockSparse(4, [[0.5, 1.0]]), r"active_blocks must be ints, \(n, 2\) or \(n, 3\), got float64"),
    (lambda: as_sparse_mask("windowed"), "pass an instance; ruvattn.registry.get_pattern makes one by name"),
    (lambda: as_sparse_mask(Windowed), "pass an instance"),
    (lambda: as_sparse_mask(np.ones((3, 4))), "got float64 of shape"),
    (lambda: as_sparse_mask(np.ones((3, 4), int)), "got int64 of shape"),
    (lambda: as_sparse_mask(None), "mask must be a SparseMask"),
])  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: COO([(0, 1)], (2, 3, 3)), r"shape must have 2 axes, as the entries of pairs have numbers, got \(2, 3, 3\)"),
    (lambda: BlockSparse(4, [[True, False]], shape=(2, 2)), r"shape must be that of active_blocks, \(1, 2\), got \(2, 2\): leave it out"),
    (lambda: from_scipy(scipy.sparse.coo_array(np.ones(4))), r"matrix must be \(Lq, Lk\) or \(Hq, Lq, Lk\), got shape \(4,\)"),
])  # fmt: skip
def test_a_shape_that_does_not_fit_is_named(make, message):
    with pytest.raises(DimensionMismatchError, match=message):
        make()


# --- from and to scipy.sparse ----------------------------------------------------------------------------------------


@shaped
@pytest.mark.parametrize("format", ["csr", "coo", "bsr"])
def test_to_scipy_and_back_is_the_same_mask(mask, format):
    lengths = (40, 50) if mask.shape is None else mask.shape[-2:]
    if (mask.by_head and format != "coo") or (format == "bsr" and not isinstance(mask, BlockSparse)):
        with pytest.raises(InvalidInputError, match="format must be"):
            mask.to_scipy(*lengths, format=format)
        return
    matrix = mask.to_scipy(*lengths, format=format)
    dense = mask.to_dense(*lengths)
    assert (matrix.format, matrix.shape, matrix.dtype) == (format, dense.shape, np.dtype(bool))
    assert np.array_equal(matrix.toarray(), dense)
    assert matrix.nnz == dense.sum()
    again = from_scipy(matrix)
    assert np.array_equal(again.to_dense(), dense)
    assert isinstance(again, BlockSparse if format == "bsr" else COO)


def test_what_scipy_is_given_is_canonical():
    matrix = MASKS["coo"].to_scipy()
    assert matrix.has_canonical_format
    matrix.has_canonical_format = None  # have it looked at again
    assert scipy.sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape).has_canonical_format


def test_a_mask_of_heads_becomes_a_coo_array_of_three_axes():
    matrix = Dilated(1, [1, 2, 3]).to_scipy(9, 9, format="coo")
    assert matrix.shape == (3, 9, 9)
    assert np.array_equal(matrix.toarray(), Dilated(1, [1, 2, 3]).to_dense(9, 9))


def noncanonical(dtype):
    """A CSR array with columns in any order, some twice, one stored zero."""
    indptr, indices = np.array([0, 4, 4, 6], dtype), np.array([3, 0, 3, 1, 2, 2], dtype)
    matrix = scipy.sparse.csr_array((np.array([1.0, 0.0, -1.0, 2.0, 5.0, 1.0]), indices, indptr), shape=(3, 4))
    matrix.indices, matrix.indptr = indices, indptr
    return matrix


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_csr_array_may_be_unsorted_and_hold_duplicates_and_zeros(dtype):
    matrix = noncanonical(dtype)
    assert matrix.indices.dtype == dtype
    assert not matrix.has_canonical_format
    mask = from_scipy(matrix)
    assert mask.to_dense().astype(int).tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert mask.nnz == 4
    assert matrix.nnz == 6  # it was left as it is


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_every_format_of_scipy_is_taken(kind, format):
    array = RANDOM[0].astype(np.float32)
    made = getattr(scipy.sparse, f"{format}_{kind}")(array)
    mask = from_scipy(made)
    if format == "dia":  # stores whole diagonals
        assert not np.any(RANDOM[0] & ~mask.to_dense())
    else:
        assert np.array_equal(mask.to_dense(), RANDOM[0])


def test_the_stored_blocks_of_a_bsr_array_attend_as_a_whole():
    data = np.zeros((3, 4, 4))
    data[0, 0, 0] = 1.0
    matrix = scipy.sparse.bsr_array((data, [1, 0, 1], [0, 1, 3]), shape=(8, 8))
    mask = from_scipy(matrix)
    assert isinstance(mask, BlockSparse)
    assert np.array_equal(mask.to_dense(), np.kron([[0, 1], [1, 1]], np.ones((4, 4))).astype(bool))


def test_a_bsr_array_of_oblong_blocks_is_taken_entry_by_entry():
    matrix = scipy.sparse.bsr_array((np.ones((2, 2, 3)), [1, 0], [0, 1, 2]), shape=(4, 6))
    mask = from_scipy(matrix)
    assert isinstance(mask, COO)
    assert np.array_equal(mask.to_dense(), np.kron([[0, 1], [1, 0]], np.ones((2, 3))).astype(bool))


def test_a_bsr_array_may_name_a_block_twice():
    matrix = scipy.sparse.bsr_array((np.ones((3, 2, 2)), [1, 0, 1], [0, 3, 3]), shape=(4, 4))
    assert from_scipy(matrix).nnz == 8


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("format", ["csr", "coo", "bsr"])
def test_what_is_empty_stays_empty(shape, format):
    mask = from_scipy(getattr(scipy.sparse, f"{format}_array")(shape))
    assert mask.to_dense().shape == shape
    assert mask.nnz == 0
    assert mask.density == 0.0


def test_an_index_outside_of_a_matrix_is_named():
    matrix = scipy.sparse.csr_array(np.eye(3))
    matrix.indices[1] = 7
    with pytest.raises(InvalidInputError, match=r"matrix has the entry \(1, 7\), which is outside its shape \(3, 3\)"):
        from_scipy(matrix)


# --- anything at all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given_as", "kind"), [
    (RANDOM[0], Dense), (RANDOM[0].tolist(), Dense), (np.argwhere(RANDOM[0]), COO), (np.argwhere(RANDOM[0]).tolist(), COO),
    (scipy.sparse.csr_array(RANDOM[0]), COO), (scipy.sparse.coo_matrix(RANDOM[0]), COO), (ruvattn.BoolMask(RANDOM[0]), PatternMask),
    (ruvattn.Causal() | RANDOM[0], PatternMask), (MASKS["dense"], Dense),
])  # fmt: skip
def test_as_sparse_mask_takes_whatever_says_which_pairs_attend(given_as, kind):
    mask = as_sparse_mask(given_as)
    assert type(mask) is kind
    assert isinstance(mask, SparseMask)
    expected = RANDOM[0] | np.tri(40, 50, dtype=bool) if isinstance(given_as, ruvattn.Pattern) and "Causal" in repr(given_as) else RANDOM[0]
    assert np.array_equal(mask.to_dense(40, 50), expected)


def test_as_sparse_mask_leaves_a_mask_as_it_is():
    assert as_sparse_mask(MASKS["coo"]) is MASKS["coo"]


def test_a_sparse_mask_has_to_say_what_is_allowed():
    class Silent(SparseMask):
        pass

    with pytest.raises(TypeError, match="allowed"):
        Silent()


def test_a_mask_of_ones_own_needs_nothing_but_allowed():
    class Odd(SparseMask):
        def allowed(self, i, j, *, head=0, batch=0):
            return (i + j) % 2 == 1

    expected = np.indices((9, 70)).sum(0) % 2 == 1
    assert np.array_equal(Odd().to_dense(9, 70), expected)
    assert Odd().count(9, 70) == expected.sum()
    assert np.array_equal(Odd().to_scipy(9, 70).toarray(), expected)


# --- the README keeps up ---------------------------------------------------------------------------------------------


def test_the_examples_of_the_readme_run(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", readme, flags=re.S):
        exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == str(sum(max(row - 128, 0) for row in range(2000)))
    assert lines[-1].startswith("Windowed(2, global_tokens=2): 40 queries × 40 keys")


def test_every_pattern_is_in_the_readme_by_its_name_and_with_its_options():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", readme, flags=re.M))
    names = Registry(Origin("ruvattn-sparse", "0"))
    ruvattn_sparse.ruvattn_register(names)
    patterns = {name: entry.factory for (kind, name), entry in names._close().items() if kind == "pattern"}
    assert rows.keys() == patterns.keys()
    for name, pattern in patterns.items():
        signature = inspect.signature(pattern)
        plain = [option.replace(annotation=inspect.Parameter.empty) for option in signature.parameters.values()]
        assert rows[name] == f"{pattern.__name__}{signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)}"


@pytest.mark.parametrize("format", ["csr", "csc", "bsr"])
@pytest.mark.parametrize(("indptr", "message"), [
    ([0, 2, 1, 3], r"must not fall, got indptr\[2\] = 1 after 2"),
    ([1, 2, 3, 4], "must begin with 0, got 1"),
    ([0, 1, 2, 99], r"must end within the \d indices, got 99"),
    ([0, 1, 2], r"must have 4 entries, got shape \(3,\)"),
])  # fmt: skip
def test_pointers_that_make_no_sense_are_named(format, indptr, message):
    length = 6 if format == "bsr" else 3
    matrix = scipy.sparse.coo_array(np.ones((length, length)))
    matrix = matrix.tobsr((2, 2)) if format == "bsr" else matrix.asformat(format)
    matrix.indptr = np.array(indptr, np.int32)
    for way in (from_scipy, ruvattn.SparseMatrixMask):
        with pytest.raises(InvalidInputError, match=message):
            way(matrix)


def test_a_block_outside_of_a_bsr_array_is_named():
    matrix = scipy.sparse.coo_array(np.ones((6, 6))).tobsr((2, 2))
    matrix.indices = matrix.indices.copy()
    matrix.indices[4] = 7
    for way in (from_scipy, ruvattn.SparseMatrixMask):
        with pytest.raises(InvalidInputError, match=r"the block \(1, 7\), which is outside its 3 × 3 blocks"):
            way(matrix)


def test_a_mask_of_a_bsr_array_is_for_its_shape_alone():
    mask = from_scipy(scipy.sparse.coo_array(np.ones((6, 6))).tobsr((2, 2)))
    assert mask.count(6, 6) == 36
    with pytest.raises(DimensionMismatchError, match=r"\(Lq, Lk\) = \(5, 6\), got a BlockSparse for \(6, 6\)"):
        mask.check_fits((), 1, 5, 6)
    BlockSparse(2, np.ones((3, 3), bool)).check_fits((), 1, 5, 6)  # blocks that are told may be cut


@pytest.mark.parametrize("mask", [COO([(0, 0, 1), (1, 1, 0)]), BlockSparse(1, [(0, 0, 1), (1, 1, 0)])], ids=["coo", "blocks"])
def test_each_head_of_a_mask_of_any_shape_can_be_looked_at(mask):
    assert [mask.row_counts(2, 2, head=head).tolist() for head in range(3)] == [[1, 0], [0, 1], [0, 0]]
    assert mask.picture(2, 2).startswith(" ▀\n")


def test_a_pair_further_than_indices_of_32_bits_reach_is_refused():
    with pytest.raises(InvalidInputError, match="at most 2147483647 columns"):
        COO([(0, 2**31)])
