"""Patterns made of patterns: whatever is written with &, | and ~ means what it means of sets of pairs."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from agreement import assert_agrees, make, same_bits, use_isa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_planning import unpack

import ruvattn
from ruvattn import BoolMask, Causal, KeyLengths, Pattern, SparseMatrixMask, Window, isa, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.key_ranges import known_ranges
from ruvattn.pattern_algebra import KEPT_TWINS, And, Not, Or, over_entries
from ruvattn.planning import plans

# --- patterns of one's own ------------------------------------------------------------------------------------------------------


class Hashed(Pattern):
    """Pairs by a hash of row, key, head and batch entry, by `allowed` alone."""

    def __init__(self, share, by_head=False, by_batch=False, positional=True):
        self.share, self.by_head, self.by_batch, self.positional = share, by_head, by_batch, positional

    def allowed(self, i, j, *, head=0, batch=0):
        mixed = (i * 2654435761 + j * 40503 + head * 97 + batch * 1013) % 10007
        return mixed * 7919 % 10007 < self.share * 10007


class Blocks(Pattern):
    """Blocks of rows that see one block of keys each; ranges are for whole blocks of rows only."""

    def __init__(self, row_block, positional=True):
        self.row_block, self.positional = row_block, positional

    def allowed(self, i, j, *, head=0, batch=0):
        return j // 10 == i // self.row_block % 5

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        assert i0 % self.row_block == 0 and i1 - i0 <= self.row_block
        first = i0 // self.row_block % 5 * 10
        return [min(first, lk)], [min(first + 10, lk)], [True]


class Comb(Pattern):
    """Every seventh key up to the diagonal, with a range for each of them."""

    def allowed(self, i, j, *, head=0, batch=0):
        return (j % 7 == 0) & (j <= i)

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        starts = np.arange(0, min(max(i1, 0), lk), 7)
        return starts, starts + 1, starts <= i0


class EveryOther(Pattern):
    """Every s-th key up to the position, as a part of its own; for s = 1 that is another name for causal."""

    def __init__(self, step):
        self.step = step

    def allowed(self, i, j, *, head=0, batch=0):
        return ((i - j) % self.step == 0) & (j <= i)

    def strided_parts(self, head=0):
        return [(self.step, Causal())]


# --- calls, and trees of patterns beside the dense sets that they mean ----------------------------------------------------------


@dataclass
class Scene:
    """The shape of a call, and where its rows stand."""

    lead: tuple[int, ...]
    heads: int
    key_heads: int
    lq: int
    lk: int
    start: np.ndarray  # (batch,)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self):
        return math.prod(self.lead)

    @property
    def full(self):
        return (self.batch, self.heads, self.lq, self.lk)

    def arrays(self, dtype=np.float32):
        return make(0, self.lq, self.lk, 6, 5, lead=self.lead, hq=self.heads, hk=self.key_heads, dtype=dtype)

    def grid(self):
        """Batch entries, heads, rows, their positions and keys, to be broadcast to the full shape."""
        rows = np.arange(self.lq)[:, None]
        return (
            np.arange(self.batch)[:, None, None, None], np.arange(self.heads)[:, None, None],
            rows, rows + self.start[:, None, None, None], np.arange(self.lk),
        )  # fmt: skip


@st.composite
def scenes(draw):
    lead = draw(st.sampled_from([(), (), (2,), (3,), (2, 2), (2, 2)]))
    heads, key_heads = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2)]))
    lq, lk = draw(st.integers(0, 130)), draw(st.integers(0, 130))
    batch = math.prod(lead)
    offset = draw(st.sampled_from(["none", "int", "end", "each"]))
    lengths = draw(st.sampled_from(["none", "none", "int", "each"]))
    options: dict[str, Any] = {}
    if lengths != "none":
        count = 1 if lengths == "int" else batch
        numbers = draw(st.lists(st.integers(0, lk), min_size=count, max_size=count))
        options["key_lengths"] = numbers[0] if lengths == "int" else np.reshape(numbers, lead)
    if offset == "end":
        options["query_offset"] = "end"
        start = np.broadcast_to(options.get("key_lengths", lk), lead).ravel() - lq
    else:
        count = {"none": 0, "int": 1, "each": batch}[offset]
        numbers = draw(st.lists(st.integers(-150, 150), min_size=count, max_size=count))
        if count:
            options["query_offset"] = numbers[0] if offset == "int" else np.reshape(numbers, lead)
        start = np.broadcast_to(np.array(numbers or [0]), batch) if offset != "each" else np.array(numbers)
    return Scene(lead, heads, key_heads, lq, lk, np.asarray(start, np.int64), options)


@st.composite
def leaves(draw, scene, as_array=False):
    """A pattern, or an array that stands for one, and the set that it means."""
    batch, head, row, position, key = scene.grid()
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    share = draw(st.sampled_from([0.02, 0.5, 0.9]))
    names = ["bool", "sparse"] if as_array else ["causal", "window", "lengths", "bool", "sparse", "hashed", "blocks", "comb", "strided"]
    name = draw(st.sampled_from(names))
    pattern: Any
    if name == "causal":
        pattern, dense = Causal(), key <= position
    elif name == "window":
        left, right = draw(st.integers(-1, 40)), draw(st.integers(-1, 40))
        pattern = Window(left, right)
        dense = np.ones(scene.full, bool)
        if left >= 0:
            dense &= position - key <= left
        if right >= 0:
            dense &= key - position <= right
    elif name == "lengths":
        count = draw(st.sampled_from([1, scene.batch]))
        numbers = draw(st.lists(st.integers(0, 140), min_size=count, max_size=count))
        pattern, dense = KeyLengths(numbers), key < np.array(numbers)[:, None, None, None]
    elif name == "bool":
        shape = (*scene.lead, scene.heads, scene.lq, scene.lk)[-draw(st.integers(2, 3 + len(scene.lead))) :]
        array = rng.random([1 if draw(st.integers(0, 3)) == 0 else n for n in shape]) < share
        pattern = array if as_array else BoolMask(array)
        dense = np.broadcast_to(array, (*scene.lead, *scene.full[1:])).reshape(scene.full)
    elif name == "sparse":
        shape = scene.full[1:] if draw(st.booleans()) else scene.full[2:]
        array = rng.random(shape) < share
        pattern, dense = scipy.sparse.coo_array(array), array
        if len(shape) == 2 and draw(st.booleans()):
            pattern = scipy.sparse.csr_array(pattern)
        if not as_array:
            pattern = SparseMatrixMask(pattern)
    elif name == "hashed":
        pattern = Hashed(share, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
        dense = pattern.allowed(
            position if pattern.positional else row, key, head=head if pattern.by_head else 0, batch=batch if pattern.by_batch else 0
        )
    elif name == "blocks":
        pattern = Blocks(draw(st.sampled_from([2, 5, 16, 48, 64, 200])), draw(st.booleans()))
        dense = pattern.allowed(position if pattern.positional else row, key)
    elif name == "strided":
        pattern = EveryOther(draw(st.sampled_from([1, 2, 5])))
        dense = ((position - key) % pattern.step == 0) & (key <= position)
    else:
        pattern, dense = Comb(), (key % 7 == 0) & (key <= position)
    return pattern, np.broadcast_to(dense, scene.full)


@st.composite
def trees(draw, scene, depth=3):
    """An expression of patterns, and the set that it means."""
    kind = draw(st.sampled_from(["leaf", "and", "or", "not"])) if depth else "leaf"
    if kind == "leaf":
        return draw(leaves(scene))
    pattern, dense = draw(trees(scene, depth - 1))
    if kind == "not":
        return ~pattern, ~dense
    other, other_dense = draw(st.one_of(trees(scene, depth - 1), leaves(scene, as_array=True)))
    combine = operator.and_ if kind == "and" else operator.or_
    return (combine(pattern, other) if draw(st.booleans()) else combine(other, pattern)), combine(dense, other_dense)


@st.composite
def cases(draw, counted=True):
    """A call, and a tree that fits it; counted: asked about batch entries by their numbers, as functions of a whole call see to it."""
    scene = draw(scenes())
    pattern, dense = draw(trees(scene))
    return scene, over_entries(pattern, scene.lead) if counted else pattern, dense


def owner(pattern, batch, head):
    return {"head": head if pattern.by_head else 0, "batch": batch if pattern.by_batch else 0}


few = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)


@few
@given(case=cases(counted=False), isa_name=st.sampled_from(isa.supported_isas()), data=st.data())
def test_attention_under_any_composition_agrees_with_the_oracle_under_its_set(case, isa_name, data):
    scene, pattern, dense = case
    q, k, v = scene.arrays(data.draw(st.sampled_from([np.float32, np.float64])))
    options = dict(scene.options)
    if data.draw(st.booleans()):
        options["causal"] = True
    if data.draw(st.booleans()):
        options["window"] = data.draw(st.tuples(st.integers(-1, 60), st.integers(-1, 60)))
    if data.draw(st.booleans()):
        rng = np.random.default_rng(0)
        shape = (scene.heads, scene.lq, scene.lk) if data.draw(st.booleans()) else (1, scene.lk)
        options["bias"] = np.where(rng.random(shape) < 0.2, -np.inf, rng.standard_normal(shape)).astype(q.dtype)
    with use_isa(isa_name):
        out, _ = assert_agrees(q, k, v, mask=pattern, **options)
        logits = ruvattn.attention_logits(q, k, mask=pattern, **options)
    # The oracle asks patterns; whether that is the set which was meant, a dense mask tells.
    as_array = dense.reshape(*scene.lead, *scene.full[1:])
    expected = reference.attention_logits(q, k, mask=as_array, **options)
    assert np.array_equal(np.isneginf(logits), np.isneginf(expected))
    assert not out[np.isneginf(expected).all(-1)].any()


@few
@given(case=cases(), lanes=st.sampled_from([2, 8, 16, 32]))
def test_the_plans_of_any_composition_hold_its_set(case, lanes):
    scene, pattern, dense = case
    every = list(plans(pattern, scene.lq, scene.lk, scene.heads, scene.start, lanes))
    assert np.array_equal(unpack(every, scene.lq, scene.lk, scene.heads, scene.batch), dense)


@few
@given(case=cases(), data=st.data())
def test_the_ranges_of_any_composition_hold_its_set_and_full_ones_nothing_else(case, data):
    scene, pattern, dense = case
    i0 = data.draw(st.integers(0, scene.lq))
    i1 = data.draw(st.integers(i0, scene.lq))
    for batch, head in itertools.product(range(scene.batch), range(scene.heads)):
        start = int(scene.start[batch])
        ranges = known_ranges(pattern.at(start), i0 + start, i1 + start, scene.lk, **owner(pattern, batch, head))
        assert np.all(ranges.starts < ranges.stops)
        assert np.all(ranges.stops[:-1] <= ranges.starts[1:])
        seen = dense[batch, head, i0:i1]
        outside = np.ones(scene.lk, bool)
        for first, last, full in zip(*ranges, strict=True):
            outside[first:last] = False
            assert not full or seen[:, first:last].all()
        assert not seen[:, outside].any()


@few
@given(case=cases(), data=st.data())
def test_the_pairs_of_any_composition_are_those_of_its_set(case, data):
    scene, pattern, dense = case
    i0 = data.draw(st.integers(0, scene.lq))
    i1 = data.draw(st.integers(i0, scene.lq))
    for batch, head in itertools.product(range(scene.batch), range(scene.heads)):
        start = int(scene.start[batch])
        indptr, indices = pattern.at(start).pairs(i0 + start, i1 + start, scene.lk, **owner(pattern, batch, head))
        row, key = np.nonzero(dense[batch, head, i0:i1])
        assert indptr.tolist() == np.searchsorted(row, np.arange(i1 - i0 + 1)).tolist()
        assert indices.tolist() == key.tolist()
        assert indptr.dtype.kind == indices.dtype.kind == "i"


@few
@given(case=cases())
def test_allowed_of_any_composition_is_its_set(case):
    scene, pattern, dense = case
    for batch, head in itertools.product(range(scene.batch), range(scene.heads)):
        i = np.arange(scene.lq)[:, None] + scene.start[batch]
        answer = pattern.at(int(scene.start[batch])).allowed(i, np.arange(scene.lk)[None, :], **owner(pattern, batch, head))
        assert answer.dtype == np.bool_
        assert np.array_equal(np.broadcast_to(answer, dense.shape[2:]), dense[batch, head])


def test_what_the_trees_are_made_of_is_all_there_is():
    """Trees of every depth and kind do occur, and sets that are neither empty nor full."""
    found = set()

    def kinds(pattern):
        found.add(type(pattern))
        for operand in getattr(pattern, "operands", ()):
            kinds(operand)

    @few
    @given(case=cases())
    def look(case):
        _, pattern, dense = case
        kinds(pattern)
        found.add("some" if dense.any() and not dense.all() else "all alike")

    look()
    assert {And, Or, Not, Causal, Window, KeyLengths, BoolMask, SparseMatrixMask, Hashed, Blocks, Comb, EveryOther, "some", "all alike"} <= found


# --- single expressions ---------------------------------------------------------------------------------------------------------


def dense(pattern, lq, lk, *, head=0, batch=0):
    return np.broadcast_to(pattern.allowed(np.arange(lq)[:, None], np.arange(lk)[None, :], head=head, batch=batch), (lq, lk))


def triples(pattern, i0, i1, lk):
    return [(int(a), int(b), bool(c)) for a, b, c in zip(*known_ranges(pattern, i0, i1, lk, 0, 0), strict=True)]


def test_the_kernels_still_get_what_they_know_by_heart():
    q, k, v = make(0, 60, 90, lead=(2,), hq=2, hk=1)
    mask = np.random.default_rng(0).random((60, 90)) < 0.5
    whole = ruvattn.attention(q, k, v, mask=mask, causal=True, window=(30, 2), key_lengths=[80, 50], query_offset=20)
    composed = Window(30, 40) & (KeyLengths([80, 50]) & mask) & (Causal() & Window(-1, 2))
    assert same_bits(ruvattn.attention(q, k, v, mask=composed, query_offset=20), whole)


def test_what_a_subclass_of_and_says_holds():
    class Most(And):
        """Of two: at least one."""

        def allowed(self, i, j, *, head=0, batch=0):
            return self.operands[0].allowed(i, j) | self.operands[1].allowed(i, j)

        def ranges(self, i0, i1, lk, *, head=0, batch=0):
            return None

    pattern = Most(Window(0, 0), Window(3, -1))
    q, k, _ = make(0, 20, 20)
    assert np.array_equal(ruvattn.attention_weights(q, k, mask=pattern)[0] > 0, dense(pattern, 20, 20))


def test_what_is_ruled_out_by_one_is_not_asked_of_the_other():
    asked = set()

    class Asked(Hashed):
        def allowed(self, i, j, *, head=0, batch=0):
            asked.update(j.ravel().tolist())
            return super().allowed(i, j)

    middle = (np.arange(100) >= 40) & (np.arange(100) < 55)
    q, k, _ = make(0, 70, 100)
    found = ruvattn.attention_weights(q, k, mask=~~(Asked(0.5) & BoolMask(middle[None, :])))[0] > 0
    assert asked == set(range(40, 55))
    assert np.array_equal(found, dense(Hashed(0.5), 70, 100) & middle)


def test_ranges_stay_exact_through_operators():
    window = Window(2, 1)
    assert triples(window & Causal(), 10, 12, 50) == [(8, 9, False), (9, 11, True), (11, 12, False)]
    assert triples(~(window & Causal()), 10, 12, 50) == [(0, 8, True), (8, 9, False), (11, 12, False), (12, 50, True)]
    assert triples(window | KeyLengths(4), 10, 12, 50) == [(0, 4, True), (8, 9, False), (9, 12, True), (12, 13, False)]
    assert triples(window & ~Window(1, 1), 20, 21, 50) == [(18, 19, True)]
    assert triples(window & ~window, 20, 21, 50) == []
    assert triples(window | ~window, 20, 21, 50) == [(0, 50, True)]


def test_pairs_of_an_intersection_are_looked_for_among_those_that_are_listed():
    """The other operand is asked pair by pair, in positions of 64 bits."""
    asked = []

    class Mixed(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            asked.append((i.dtype, j.dtype, i.size))
            return j * 2654435761 % 10007 < 5000

    array = np.random.default_rng(0).random((300, 400)) < 0.01
    matrix = scipy.sparse.csr_array(array)
    pattern = matrix & Mixed()
    assert pattern.scattered
    assert not (matrix | Mixed()).scattered
    indptr, indices = pattern.pairs(0, 300, 400)
    expected = array & Mixed().allowed(np.zeros(1, np.int64), np.arange(400)[None, :])
    assert np.array_equal(indices, np.nonzero(expected)[1])
    assert np.array_equal(np.diff(indptr), expected.sum(1))
    assert asked[0] == (np.int64, np.int64, matrix.nnz)


def test_an_operand_that_writes_to_a_list_of_pairs_does_not_harm_the_matrix():
    class Writes(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            answer = j <= i
            j += 1
            return answer

    matrix = SparseMatrixMask(scipy.sparse.csr_array(np.ones((6, 6))))
    (matrix & Writes()).pairs(0, 6, 6)
    assert matrix.pairs(0, 6, 6)[1].tolist() == 6 * list(range(6))


def test_operands_differ_by_head_and_entry_each_for_itself():
    by_head, by_batch = Hashed(0.5, by_head=True), Hashed(0.5, by_batch=True)
    for pattern in (by_head & by_batch, by_head | by_batch, ~by_head & ~(by_batch | Causal())):
        assert pattern.by_head and pattern.by_batch
    assert (by_head & Causal()).by_head and not (by_head & Causal()).by_batch
    assert not (~Causal()).by_head


def test_rows_by_position_and_rows_by_index_stand_side_by_side():
    array = np.random.default_rng(0).random((20, 60)) < 0.5
    q, k, _ = make(0, 20, 60)
    expected = array | (np.arange(60) <= np.arange(20)[:, None] + 17)
    for pattern in (array | Causal(), SparseMatrixMask(scipy.sparse.csr_array(array)) | Causal()):
        assert pattern.positional
        assert np.array_equal(ruvattn.attention_weights(q, k, mask=pattern, query_offset=17)[0] > 0, expected)
    assert not (BoolMask(array) & ~BoolMask(array)).positional


@pytest.mark.parametrize("shape", [(3, 1, 30, 40), (2, 1, 1, 30, 40), (1, 3, 2, 1, 40)])
def test_an_array_may_repeat_along_one_of_several_leading_axes(shape):
    q, k, v = make(0, 30, 40, lead=(2, 3), hq=2, hk=2)
    array = np.random.default_rng(0).random(shape) < 0.5
    whole = np.broadcast_to(array, (2, 3, 2, 30, 40))
    causal = dense(Causal(), 30, 40)
    for pattern, expected in [(BoolMask(array), whole), (array & Causal(), whole & causal), (~(array | Causal()), ~(whole | causal))]:
        out, _ = assert_agrees(q, k, v, mask=pattern)
        assert same_bits(out, ruvattn.attention(q, k, v, mask=pattern))  # from kept plans
        assert np.array_equal(ruvattn.attention_weights(q, k, mask=pattern) > 0, expected)
        assert same_bits(ruvattn.attention(q, k, v, mask=pickle.loads(pickle.dumps(pattern))), out)


def test_moving_a_composition_moves_explicit_operands_only():
    explicit, positional = BoolMask(np.eye(5, dtype=bool)), Causal()
    by_position = positional & ~Window(1, 1)
    assert by_position.at(7) is by_position
    both = (positional | ~explicit) & positional
    assert both.at(0) is both
    assert np.array_equal(both.at(7).allowed(np.arange(7, 12)[:, None], np.arange(5)), np.ones((5, 5), bool))
    back = (~explicit).at(7).at(-7)
    assert np.array_equal(dense(back, 5, 5), ~np.eye(5, dtype=bool))


def test_compositions_say_what_they_are():
    assert repr(~(Causal() & Window(3, 0)) | KeyLengths(2)) == "(~(Causal() & Window(left=3, right=0)) | KeyLengths(2))"


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copied", "deeply copied", "pickled"])
def test_compositions_survive_being_copied(way):
    array = np.random.default_rng(0).random((2, 40, 50)) < 0.5
    pattern = (Hashed(0.5, by_head=True) & array & Hashed(0.7)) | ~(Causal() | scipy.sparse.csr_array(array[0]))
    pattern = pattern & Hashed(0.9) & Causal()
    arrays = make(0, 40, 50, hq=2, hk=2)
    expected = ruvattn.attention(*arrays, mask=pattern)  # used before, so that what it remembers is there
    assert same_bits(ruvattn.attention(*arrays, mask=way(pattern)), expected)


# --- arrays as operands ---------------------------------------------------------------------------------------------------------

ARRAY = np.random.default_rng(1).random((30, 40)) < 0.4
OPERATORS = {"and": operator.and_, "or": operator.or_}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("make_operand", [
    np.asarray, np.asfortranarray, lambda x: x.view(np.matrix), scipy.sparse.csr_array, scipy.sparse.coo_array, scipy.sparse.csc_matrix,
    scipy.sparse.lil_array, scipy.sparse.bsr_array,
], ids=["array", "Fortran", "matrix", "csr", "coo", "csc matrix", "lil", "bsr"])  # fmt: skip
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_arrays_are_operands_on_either_side(make_operand, name):
    operand, combine = make_operand(ARRAY), OPERATORS[name]
    expected = combine(ARRAY, dense(Causal(), 30, 40))
    q, k, _ = make(0, 30, 40)
    for pattern in (combine(operand, Causal()), combine(Causal(), operand)):
        assert isinstance(pattern, Pattern)
        assert np.array_equal(ruvattn.attention_weights(q, k, mask=pattern)[0] > 0, expected)


def test_scipy_keeps_one_operator_of_one_format_to_itself():
    """dok_array has an ``|`` of its own, which refuses everything: a loud error, and the other side works."""
    matrix = scipy.sparse.dok_array(ARRAY)
    with pytest.raises(TypeError, match="dok_array"):
        matrix | Causal()
    assert np.array_equal(dense(Causal() | matrix, 30, 40), ARRAY | dense(Causal(), 30, 40))
    assert np.array_equal(dense(matrix & Causal(), 30, 40), ARRAY & dense(Causal(), 30, 40))


def test_stored_zeros_and_duplicates_of_a_sparse_operand_count_once():
    matrix = scipy.sparse.coo_array(([0.0, 1.0, -1.0], ([1, 2, 2], [3, 0, 0])), (4, 5))
    expected = np.zeros((4, 5), bool)
    expected[1, 3] = expected[2, 0] = True
    assert np.array_equal(dense(~(matrix & KeyLengths(5)), 4, 5), ~expected)
    assert (matrix & KeyLengths(5)).pairs(0, 4, 5)[1].tolist() == [3, 0]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("operand", "words"),
    [
        (np.ones((3, 4)), "boolean array.*float64.*bias="),
        (np.zeros((3, 4), np.float32), "boolean array.*float32.*bias="),
        (np.ones((3, 4), int), r"boolean array.*int64.*astype\(bool\)"),
        (np.ones(4, bool), r"two axes.*\(4,\)"),
        (np.array(True), r"two axes.*\(\)"),
        (np.array([[None]]), "boolean array.*object"),
        (np.ma.masked_array(np.ones((3, 4), bool), mask=np.eye(3, 4)), "masked array.*plain boolean"),
        (scipy.sparse.coo_array((2, 2, 2, 2)), r"\(Lq, Lk\) or \(Hq, Lq, Lk\).*\(2, 2, 2, 2\)"),
    ],
    ids=["float64", "float32", "int", "one axis", "no axis", "object", "masked", "sparse of four axes"],
)
def test_an_array_that_is_no_mask_is_refused_with_a_way_out(operand, words, swapped, name):
    with pytest.raises((InvalidInputError, DimensionMismatchError), match=words):
        OPERATORS[name](operand, Causal()) if swapped else OPERATORS[name](Causal(), operand)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("operand", [True, 1.5, None, np.True_, np.float32(1), [[True]], "causal", Causal], ids=str)
def test_what_is_no_array_is_a_type_error(operand, name):
    with pytest.raises(TypeError):
        OPERATORS[name](Causal(), operand)
    with pytest.raises(TypeError):
        OPERATORS[name](operand, Causal())


def test_other_operators_are_type_errors():
    for combine in (operator.xor, operator.sub, operator.add, np.logical_and):
        for operands in ((Causal(), Causal()), (ARRAY, Causal())):
            with pytest.raises(TypeError):
                combine(*operands)


def test_the_class_takes_patterns_only():
    for kind in (And, Or, Not):
        with pytest.raises(InvalidInputError, match=f"{kind.__name__} must be patterns, got ndarray"):
            kind(ARRAY)
    for kind in (And, Or):
        with pytest.raises(InvalidInputError, match="at least one"):
            kind()


# --- what does not fit ----------------------------------------------------------------------------------------------------------

WRONG = {
    "bool": (np.ones((30, 41), bool), r"mask must broadcast to .*2, 30, 40\).*got shape \(30, 41\)"),
    "bool with more rows": (np.ones((31, 40), bool), r"mask must broadcast to .*2, 30, 40\).*got shape \(31, 40\)"),
    "bool of other heads": (np.ones((3, 30, 40), bool), r"mask must broadcast to .*got shape \(3, 30, 40\)"),
    "bool of other entries": (np.ones((5, 1, 30, 40), bool), r"mask must broadcast to .*got shape \(5, 1, 30, 40\)"),
    "sparse": (scipy.sparse.coo_array((40, 30)), r"mask must have shape \(Lq, Lk\) = \(30, 40\), got \(40, 30\)"),
    "sparse of other heads": (scipy.sparse.coo_array((3, 30, 40)), r"mask must have shape \(Hq, Lq, Lk\) = \(2, 30, 40\), got \(3, 30, 40\)"),
    "lengths of other entries": (KeyLengths([1, 2, 3]), r"lengths of mask must be one number or one for each of the \d batch entries.*\[1, 2, 3\]"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("around", [
    lambda x: x & Causal(), lambda x: Hashed(0.5) & x, lambda x: x | Causal(), lambda x: ~(Causal() | x), lambda x: Window(3, 3) & ~(x & Hashed(0.5)),
], ids=["and", "in and", "or", "not or", "deep"])  # fmt: skip
@pytest.mark.parametrize("lead", [(), (2,)])
def test_an_operand_of_another_shape_is_named_with_the_shapes(lead, around, name):
    operand, words = WRONG[name]
    q, k, v = make(0, 30, 40, lead=lead, hq=2, hk=2)
    for function, arrays in ((ruvattn.attention, (q, k, v)), (ruvattn.attention_logits, (q, k)), (ruvattn.attention_weights, (q, k))):
        with pytest.raises(DimensionMismatchError, match=words):
            function(*arrays, mask=around(operand), query_offset=3)


def test_a_pattern_that_was_moved_by_hand_is_no_mask():
    for pattern in (BoolMask(ARRAY).at(3), BoolMask(ARRAY).at(-3) & Causal()):
        with pytest.raises(DimensionMismatchError, match="row 0"):
            ruvattn.attention(*make(0, 30, 40), mask=pattern)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda i, j: ((i + j) % 2).astype(np.int8), InvalidInputError, "Odd.allowed must return booleans, got int8"),
        (lambda i, j: (i + j) % 2.0, InvalidInputError, "Odd.allowed must return booleans, got float64"),
        (lambda i, j: np.ones((3, 5), bool), DimensionMismatchError, r"Odd.allowed must return an array that broadcasts to \(.*\), got \(3, 5\)"),
        (lambda i, j: [[True], [True, False]], InvalidInputError, "Odd.allowed must return an array of booleans"),
    ],
    ids=["ints", "floats", "another shape", "ragged"],
)
@pytest.mark.parametrize("around", [lambda x: x & Hashed(0.5), lambda x: Causal() | x, lambda x: ~x, lambda x: x & scipy.sparse.csr_array(ARRAY)])
def test_an_operand_that_answers_wrongly_is_named(around, answer, error, words):
    class Odd(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return answer(i, j)

    with pytest.raises(error, match=words):
        ruvattn.attention(*make(0, 30, 40), mask=around(Odd()))


@pytest.mark.parametrize("around", [lambda x: x & Hashed(0.5), lambda x: Causal() | x, lambda x: ~x])
def test_an_operand_with_wrong_ranges_is_named(around):
    class Odd(Hashed):
        def ranges(self, i0, i1, lk, *, head=0, batch=0):
            return [0, 4], [5, 9], [True, True]

    with pytest.raises(InvalidInputError, match=r"Odd.ranges\(\d+, \d+, 40\) returned the range \[4, 9\)"):
        ruvattn.attention(*make(0, 30, 40), mask=around(Odd(0.5)))


def test_a_length_beyond_any_int_is_all_keys():
    q, k, v = make(40, 6, 20)
    longest = KeyLengths(np.uint64(2**64 - 1))
    for mask in (longest, longest & Hashed(0.5), longest | Hashed(0.5)):
        assert_agrees(q, k, v, mask=mask)
    assert same_bits(ruvattn.attention(q, k, v, mask=longest), ruvattn.attention(q, k, v))


def test_an_operand_that_makes_its_parts_anew_does_not_fill_the_memory():
    class Renewed(Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return abs(i - j) > 2

        def strided_parts(self, head=0):
            return [(1, ~Window(2, 2))]

    q, k, v = make(41, 5, 9)
    pattern = Renewed() & (Window(0, 0) | Hashed(0.5))
    for _ in range(KEPT_TWINS + 5):
        found = ruvattn.attention(q, k, v, mask=pattern)
    assert len(pattern._kept) <= KEPT_TWINS
    assert same_bits(found, ruvattn.attention(q, k, v, mask=~Window(2, 2) & (Window(0, 0) | Hashed(0.5))))
