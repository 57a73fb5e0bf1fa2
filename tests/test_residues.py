"""Patterns of every s-th row and key: each residue class by itself gives what the whole would."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_agrees, make, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import residues
from ruvattn.errors import InvalidInputError
from ruvattn.patterns import Pattern, Window


class Comb(Pattern):
    """A window, and every key at a stride beyond it."""

    def __init__(self, stride, size):
        self.stride, self.size = stride, size

    def allowed(self, i, j, *, head=0, batch=0):
        return (np.abs(i - j) <= self.size) | ((i - j) % self.stride == 0)

    def strided_parts(self, head=0):
        beyond = self.size // self.stride
        return [(1, Window(self.size, self.size)), (self.stride, ~Window(beyond, beyond))]


class Teeth(Pattern):
    """Every key at a stride, another one for each head."""

    def __init__(self, *strides):
        self.strides, self.by_head = strides, len(strides) > 1

    def allowed(self, i, j, *, head=0, batch=0):
        return (i - j) % self.strides[head] == 0

    def strided_parts(self, head=0):
        return [(self.strides[head], Window(-1, -1))]


@pytest.fixture
def parts_run(monkeypatch):
    """How many calls went part by part."""
    seen = []
    real = residues.attend_residues
    monkeypatch.setattr(residues, "attend_residues", lambda call, *rest: (seen.append(call), real(call, *rest)))
    return seen


@st.composite
def calls(draw):
    lq, lk, hk = draw(st.integers(1, 70)), draw(st.integers(1, 70)), draw(st.integers(1, 2))
    hq = hk * draw(st.integers(1, 3))
    lead = draw(st.sampled_from([(), (2,), (2, 2)]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = make(draw(st.integers(0, 2**16)), lq, lk, draw(st.sampled_from([1, 8, 17])), lead=lead, hq=hq, hk=hk, dtype=dtype)
    stride = st.integers(1, 90)
    mask = draw(
        st.one_of(
            st.builds(Comb, stride, st.integers(0, 40)),
            st.builds(Teeth, stride),
            st.lists(stride, min_size=hq, max_size=hq).map(lambda strides: Teeth(*strides)),
        )
    )
    options = {"mask": mask, "causal": draw(st.booleans()), "query_offset": draw(st.one_of(st.just("end"), st.integers(-80, 80)))}
    if draw(st.booleans()):
        options["window"] = (draw(st.integers(-1, 60)), draw(st.integers(-1, 60)))
    if draw(st.booleans()) and options["query_offset"] != "end":
        options["key_lengths"] = rng.integers(0, lk + 1, lead)
    if draw(st.booleans()):
        options["bias"] = rng.standard_normal(draw(st.sampled_from([(lq, lk), (hq, lq, 1), (1, lk)]))).astype(dtype)
    if draw(st.booleans()):
        options["sinks"] = rng.standard_normal(hq)
    if draw(st.booleans()):
        options["scale"] = rng.uniform(0, 1, hq)
    if draw(st.booleans()):
        options["softcap"] = 2.0
    return arrays, options


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)
@given(call=calls())
def test_parts_agree_with_the_oracle(call):
    arrays, options = call
    assert_agrees(*arrays, **options)


def test_a_bool_mask_of_the_call_is_cut_to_residues_too(parts_run):
    q, k, v = make(0, 60, 50, hq=2, hk=1)
    mask = np.random.default_rng(0).random((2, 60, 50)) < 0.5
    assert_agrees(q, k, v, mask=Comb(7, 3) & mask)
    assert isinstance(parts_run[0].pattern, Comb)  # the array is the kernels' own


def test_dropout_and_other_scores_take_tiles(parts_run):
    class Negative(ruvattn.Score):
        def logits(self, t):
            return -t.dots[0]

    q, k, v = make(1, 40, 40)
    assert_agrees(q, k, v, mask=Comb(5, 2), dropout=0.3, seed=1)
    assert_agrees(q, k, v, mask=Comb(5, 2), score=Negative())
    assert not parts_run


def test_entries_at_different_positions_take_tiles(parts_run):
    q, k, v = make(2, 40, 40, lead=(2,))
    assert_agrees(q, k, v, mask=Comb(5, 2), query_offset=[0, 3])
    assert not parts_run
    assert_agrees(q, k, v, mask=Comb(5, 2), query_offset=[3, 3])
    assert len(parts_run) == 1


def test_a_pattern_that_is_a_window_runs_as_one():
    class Near(Comb):
        def strided_parts(self, head=0):
            return [(1, Window(self.size, self.size))]

    q, k, v = make(3, 80, 80)
    assert same_bits(ruvattn.attention(q, k, v, mask=Near(1000, 9)), ruvattn.attention(q, k, v, window=(9, 9)))


def test_rows_that_see_nothing_are_zero_beside_values_that_are_nan():
    q, k, v = make(4, 20, 20)
    v[..., 10:, :] = np.nan
    out, lse = ruvattn.attention(q, k, v, mask=Comb(4, 1), key_lengths=0, return_lse=True)
    assert not out.any()
    assert np.isneginf(lse).all()
    out = ruvattn.attention(q, k, v, mask=Comb(4, 1), causal=True)
    assert np.isfinite(out[..., :10, :]).all()


def test_results_do_not_depend_on_threads():
    q, k, v = make(5, 700, 700, 32, hq=4, hk=4)
    results = [ruvattn.attention(q, k, v, mask=Comb(16, 15), causal=True, threads=t) for t in (1, 2, 5)]
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_out_is_written_in_place():
    q, k, v = make(6, 50, 50)
    out = np.full_like(q, np.nan)
    found = ruvattn.attention(q, k, v, mask=Comb(6, 2), out=out)
    assert found is out
    assert same_bits(out, ruvattn.attention(q, k, v, mask=Comb(6, 2)))


class Answers(Teeth):
    """Teeth whose parts are whatever a test says."""

    def __init__(self, *parts, **attributes):
        super().__init__(4)
        self.parts = parts
        self.__dict__.update(attributes)

    def strided_parts(self, head=0):
        return self.parts


class Ahead(Pattern):
    """Each batch entry sees further ahead than the one before."""

    by_batch = True

    def allowed(self, i, j, *, head=0, batch=0):
        return j <= i + 3 * batch


class TeethAhead(Teeth):
    by_batch = True

    def allowed(self, i, j, *, head=0, batch=0):
        return super().allowed(i, j) & (j // 4 <= i // 4 + 3 * batch)

    def strided_parts(self, head=0):
        return [(4, Ahead())]


def test_parts_that_tell_batch_entries_apart_take_tiles(parts_run):
    q, k, v = make(7, 40, 40, lead=(2,))
    assert_agrees(q, k, v, mask=TeethAhead(4))
    assert not parts_run


def test_rows_that_go_by_their_index_take_tiles_where_they_stand_elsewhere(parts_run):
    q, k, v = make(8, 40, 40)
    by_index = Answers((4, Window(-1, -1)), positional=False)
    assert_agrees(q, k, v, mask=by_index, query_offset=3)
    assert_agrees(q, k, v, mask=Answers((4, ruvattn.BoolMask(np.ones((10, 10), bool)))), query_offset=4)
    assert not parts_run
    assert_agrees(q, k, v, mask=by_index)
    assert len(parts_run) == 1


def test_another_name_for_a_pattern_that_goes_by_index_is_not_one_that_goes_by_position():
    class Near(Pattern):
        positional = False

        def allowed(self, i, j, *, head=0, batch=0):
            return abs(i - j) <= 2

        def strided_parts(self, head=0):
            return [(1, Window(2, 2))]

    q, k, v = make(9, 40, 40)
    assert_agrees(q, k, v, mask=Near(), query_offset=5)


def test_no_parts_are_the_empty_set():
    q, k, v = make(10, 20, 20)
    out, lse = ruvattn.attention(q, k, v, mask=Answers(), out=np.full_like(v, np.nan), return_lse=True)
    assert not out.any()
    assert np.isneginf(lse).all()


@pytest.mark.parametrize("part", [(0, Window(1, 1)), (-3, Window(1, 1)), (2**70, Window(1, 1)), (2.0, Window(1, 1)), (2, None), (2, Teeth(2, 3)), 5])
def test_parts_that_are_none_are_named(part):
    q, k, v = make(11, 20, 20)
    with pytest.raises(InvalidInputError, match=r"Answers\.strided_parts\(0\) must return"):
        ruvattn.attention(q, k, v, mask=Answers(part))


def test_a_head_without_parts_is_named():
    class Some(Teeth):
        def strided_parts(self, head=0):
            return None if head else super().strided_parts(head)

    q, k, v = make(12, 20, 20, hq=2, hk=2)
    with pytest.raises(InvalidInputError, match=r"Some\.strided_parts\(1\) must return parts, as for head 0"):
        ruvattn.attention(q, k, v, mask=Some(2, 3))
