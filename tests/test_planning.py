"""Plans: segments and bits for blocks of rows, which the kernels walk through."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse
from agreement import assert_close, make, same_bits

import ruvattn
from ruvattn import planning
from ruvattn.explicit_patterns import BoolMask, SparseMatrixMask
from ruvattn.patterns import Pattern, Window
from ruvattn.planning import plans

LANES = (2, 4, 8, 16, 32)


def unpack(every, lq, lk, heads, batches):
    """The set that plans stand for, read as the kernels read them."""
    found = np.zeros((batches, heads, lq, lk), bool)
    expected_first = 0
    for plan in every:
        assert plan.first == expected_first
        expected_first += plan.rows
        assert plan.ptr[0] == 0
        assert plan.ptr[-1] == len(plan.start) == len(plan.stop) == len(plan.bit)
        for b, h, i in itertools.product(range(batches), range(heads), range(plan.first, plan.first + plan.rows)):
            entry = b * plan.batch_stride + h * plan.head_stride + (i - plan.first) // plan.block_rows
            last = 0
            for segment in range(plan.ptr[entry], plan.ptr[entry + 1]):
                start, stop = plan.start[segment], plan.stop[segment]
                assert last <= start < stop <= lk
                last = stop
                bit = plan.bit[segment]
                if bit < 0:
                    found[b, h, i, start:stop] = True
                    continue
                per_row = plan.row_words[entry]
                at = plan.words_at[entry] + (i - plan.first) % plan.block_rows * per_row
                bits = np.unpackbits(plan.words[at : at + per_row].astype("<u4").view(np.uint8), bitorder="little")
                found[b, h, i, start:stop] = bits[bit : bit + stop - start]
    assert expected_first == lq
    return found


class Random(Pattern):
    """Pairs by a hash of the position, different for heads and batch entries where asked."""

    def __init__(self, share, by_head=False, by_batch=False, positional=True):
        self.share, self.by_head, self.by_batch, self.positional = share, by_head, by_batch, positional

    def allowed(self, i, j, *, head=0, batch=0):
        mixed = (i * 2654435761 + j * 40503 + head * 97 + batch * 1013) % 10007
        return mixed * 7919 % 10007 < self.share * 10007


class Mixed(Pattern):
    """Ranges of every kind: nothing, full, and by `allowed`."""

    row_block = 8

    def allowed(self, i, j, *, head=0, batch=0):
        block = i // 8 % 3
        return np.where(block == 0, j < 40, np.where(block == 1, (j >= 10) & ((i + j) % 2 == 0) & (j < 77), False))

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        kind = i0 // 8 % 3
        if kind == 0:
            return [0], [min(40, lk)], [True]
        return ([min(10, lk)], [min(77, lk)], [False]) if kind == 1 else ([], [], [])


def expected(pattern, lq, lk, heads, offsets):
    found = np.zeros((len(offsets), heads, lq, lk), bool)
    for b, h in itertools.product(range(len(offsets)), range(heads)):
        i = np.arange(lq)[:, None] + (offsets[b] if pattern.positional else 0)
        found[b, h] = pattern.allowed(i, np.arange(lk)[None], head=h if pattern.by_head else 0, batch=b if pattern.by_batch else 0)
    return found


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("offsets", [[0], [-7], [3, 3], [0, 5, -90]], ids=str)
@pytest.mark.parametrize(
    "pattern",
    [Random(0.5), Random(0.01), Random(0.999), Random(0.5, by_head=True), Random(0.5, by_batch=True), Random(0.3, True, True),
     Random(0.5, positional=False), Mixed(), Window(9, 4)],
    ids=["half", "few", "most", "by head", "by batch", "by both", "by index", "mixed", "window"],
)  # fmt: skip
def test_plans_hold_the_set_of_the_pattern(pattern, offsets, lanes):
    for lq, lk in [(1, 1), (33, 31), (50, 100)]:
        every = list(plans(pattern, lq, lk, 3, np.array(offsets, np.int64), lanes))
        assert np.array_equal(unpack(every, lq, lk, 3, len(offsets)), expected(pattern, lq, lk, 3, offsets))


def test_no_queries_or_keys_need_no_segments():
    assert list(plans(Random(0.5), 0, 9, 1, np.zeros(1, np.int64), 16)) == []
    every = list(plans(Random(0.5), 9, 0, 1, np.zeros(1, np.int64), 16))
    assert sum(len(plan.start) for plan in every) == 0


def test_blocks_are_a_multiple_of_the_lanes():
    for lanes in (*LANES, 64):
        (plan,) = plans(Random(0.5), 200, 50, 1, np.zeros(1, np.int64), lanes)
        assert plan.block_rows % lanes == 0
        assert plan.block_rows >= 32


def test_what_no_row_sees_and_what_all_see_comes_without_bits():
    mask = np.zeros((32, 320), bool)
    mask[:, 64:128] = True
    mask[::2, 160:170] = True
    pattern = BoolMask(mask)
    pattern.ranges = lambda *_, **__: None
    (plan,) = plans(pattern, 32, 320, 1, np.zeros(1, np.int64), 16)
    assert list(zip(plan.start.tolist(), plan.stop.tolist(), (plan.bit >= 0).tolist(), strict=True)) == [(64, 128, False), (160, 170, True)]


def test_heads_and_entries_share_a_plan_unless_they_differ():
    shared = [(False, False, 1), (True, False, 3), (False, True, 2), (True, True, 6)]
    cases = [(*case[:2], [0, 0], case[2]) for case in shared] + [(False, False, [0, 1], 2), (True, False, [0, 1], 6)]
    for by_head, by_batch, offsets, owners in cases:
        (plan,) = plans(Random(0.5, by_head, by_batch), 64, 40, 3, np.array(offsets), 16)
        assert len(plan.ptr) - 1 == 2 * owners


@pytest.mark.parametrize("pattern", [Random(0.5), Random(0.3, by_head=True), Mixed(), Window(40, 40)], ids=["half", "by head", "mixed", "window"])
def test_a_long_sequence_takes_several_plans_that_make_the_same_result(pattern, monkeypatch):
    q, k, v = make(0, 200, 150, lead=(2,), hq=2, hk=1)

    class Unknown(Pattern):
        by_head, row_block = pattern.by_head, pattern.row_block
        allowed, ranges = pattern.allowed, pattern.ranges

    options = {"mask": Unknown(), "query_offset": [4, -3], "dropout": 0.2, "seed": 1, "sinks": [0.0, 1.0], "softcap": 3.0,
               "bias": np.random.default_rng(0).standard_normal((200, 150)).astype(np.float32)}  # fmt: skip
    whole = ruvattn.attention(q, k, v, **options)
    for budget in (1, 300):
        monkeypatch.setattr(planning, "WORD_BUDGET", budget)
        assert len(list(plans(Unknown(), 200, 150, 2, np.array([4, -3]), 16))) > 1
        assert_close(ruvattn.attention(q, k, v, **options), whole, 1e-6)
        logits = {name: x for name, x in options.items() if name not in ("dropout", "seed", "sinks")}
        assert np.isfinite(ruvattn.attention_logits(q, k, **logits)).any()


def test_a_score_in_python_goes_through_several_plans(monkeypatch):
    class Scaled(ruvattn.Score):
        def row_terms(self, q, pos):
            return (q[..., 0],)

        def logits(self, t):
            return t.dots[0] + t.rows[0]

    q, k, v = make(1, 200, 150)
    whole = ruvattn.attention(q, k, v, mask=Random(0.5), score=Scaled())
    monkeypatch.setattr(planning, "WORD_BUDGET", 1)
    assert_close(ruvattn.attention(q, k, v, mask=Random(0.5), score=Scaled()), whole, 1e-6)


def test_allowed_is_asked_in_portions_of_bounded_size(monkeypatch):
    sizes = []

    class Sized(Random):
        def allowed(self, i, j, *, head=0, batch=0):
            sizes.append(i.size * j.size)
            return super().allowed(i, j, head=head, batch=batch)

    whole = [unpack(plans(Random(0.5), 50, 3000, 1, np.zeros(1, np.int64), 16), 50, 3000, 1, 1)]
    monkeypatch.setattr(planning, "EVALUATED", 5000)
    found = unpack(plans(Sized(0.5), 50, 3000, 1, np.zeros(1, np.int64), 16), 50, 3000, 1, 1)
    assert np.array_equal(found, whole[0])
    assert max(sizes) <= 5000
    assert sum(sizes) == 50 * 3000


@pytest.mark.parametrize("kind", ["bits", "full ranges"])
def test_a_plan_has_bounded_size(kind, monkeypatch):
    class EveryOther(Pattern):
        """Half of the keys: as bits, or as so many ranges."""

        def allowed(self, i, j, *, head=0, batch=0):
            return j % 64 < 32 if kind == "full ranges" else (i + j) % 2 == 0

        def ranges(self, i0, i1, lk, *, head=0, batch=0):
            if kind == "bits":
                return None
            starts = np.arange(0, lk, 64)
            return starts, np.minimum(starts + 32, lk), np.ones(len(starts), bool)

    monkeypatch.setattr(planning, "WORD_BUDGET", 1 << 14)
    every = list(plans(EveryOther(), 2000, 5000, 1, np.zeros(1, np.int64), 16))
    # One block of rows may go over the budget, not two.
    block = 32 * (-(-5000 // 32)) + planning.SEGMENT_WORDS * 80
    assert all(plan.words.size + planning.SEGMENT_WORDS * len(plan.start) < (1 << 14) + 2 * block for plan in every)
    assert len(every) >= 3


def test_planning_takes_memory_for_pairs_in_ranges_only():
    # 20,000 × 20,000 pairs would be 400 MB of booleans.
    import tracemalloc

    n = 20_000
    matrix = scipy.sparse.csr_array((np.ones(n), (np.arange(n), np.arange(n)[::-1])), (n, n))
    pattern = SparseMatrixMask(matrix)
    tracemalloc.start()
    total = sum(int((plan.stop - plan.start).sum()) for plan in plans(pattern, n, n, 1, np.zeros(1, np.int64), 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total < 64 * n
    assert peak < 20e6


def test_plans_do_not_depend_on_threads():
    q, k, v = make(2, 300, 400, 32, hq=4, hk=4)
    results = [ruvattn.attention(q, k, v, mask=Random(0.4, by_head=True), threads=t) for t in (1, 2, 3, 7)]
    assert all(same_bits(result, results[0]) for result in results)
