"""Plans that are kept for the next call with the same pattern: when, for how long, and that nobody can tell but by the time it takes."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from agreement import assert_agrees, make, same_bits

import ruvattn
from ruvattn import Causal, KeyLengths, Pattern, SparseMatrixMask, planning
from ruvattn.planning import plans


class Counted(Pattern):
    """Pairs by a hash; counts how often it is asked."""

    def __init__(self, share=0.5, by_head=False, by_batch=False, positional=True):
        self.share, self.by_head, self.by_batch, self.positional = share, by_head, by_batch, positional
        self.asked = 0

    def allowed(self, i, j, *, head=0, batch=0):
        self.asked += 1
        return (i * 2654435761 + j * 40503 + head * 97 + batch * 1013) % 10007 < self.share * 10007


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """What is kept in a test, and nothing else."""
    own = planning._Kept()
    monkeypatch.setattr(planning, "_KEPT", own)
    return own


def planned(pattern, lq=40, lk=50, heads=1, offsets=(0,), lanes=16):
    return list(plans(pattern, lq, lk, heads, np.array(offsets, np.int64), lanes))


def total(kept):
    return sum(size for _, size in kept._things.values())


# --- when they are kept ---------------------------------------------------------------------------------------------------------


def test_a_pattern_is_not_asked_again_for_the_same_shape():
    pattern = Counted()
    arrays = make(0, 70, 90, hq=2, hk=1)
    first = ruvattn.attention(*arrays, mask=pattern)
    asked = pattern.asked
    assert asked > 0
    for _ in range(3):
        assert same_bits(ruvattn.attention(*arrays, mask=pattern), first)
    other = make(1, 70, 90, hq=4, hk=2, lead=(3,))
    expected = ruvattn.attention(*other, mask=copy.copy(pattern))
    assert same_bits(ruvattn.attention(*other, mask=pattern), expected)
    assert pattern.asked == asked


@pytest.mark.parametrize("options", [{"lq": 41}, {"lk": 51}, {"heads": 3}, {"offsets": (1,)}, {"offsets": (0, 1)}, {"lanes": 8}], ids=str)
def test_another_call_is_planned_anew(options):
    pattern = Counted(by_head=True)
    planned(pattern, heads=2)
    before = pattern.asked
    planned(pattern, **{"heads": 2} | options)
    both = pattern.asked
    assert both > before
    planned(pattern, **{"heads": 2} | options)
    planned(pattern, heads=2)
    assert pattern.asked == both, "and both are kept"


def test_what_makes_no_difference_to_a_pattern_is_not_planned_anew():
    pattern = Counted(positional=False)
    planned(pattern, heads=2)
    before = pattern.asked
    for options in ({"heads": 3}, {"offsets": (7,)}, {"offsets": (7, 9)}, {"offsets": (0, 0, 0)}):
        planned(pattern, **options)
    assert pattern.asked == before


def test_entries_are_planned_each_where_it_stands():
    pattern = Counted()
    arrays = make(0, 20, 60, lead=(3,))
    for offsets in ([0, 5, -3], [5, 0, -3], [0, 0, 0], 0, [0, 5, -3]):
        assert_agrees(*arrays, mask=pattern, query_offset=offsets)


def test_patterns_that_are_equal_are_planned_each_for_itself():
    class Equal(Counted):
        def __eq__(self, other):
            return True

        __hash__ = None

    few, many = Equal(0.2), Equal(0.8)
    arrays = make(0, 40, 50)
    outputs = [assert_agrees(*arrays, mask=pattern)[0] for pattern in (few, many, few, many)]
    assert same_bits(outputs[0], outputs[2]) and same_bits(outputs[1], outputs[3])
    assert not np.allclose(outputs[0], outputs[1])


def test_a_class_with_slots_is_planned_and_kept():
    class Slots(Counted):
        __slots__ = ("more",)

    pattern = Slots()
    planned(pattern)
    before = pattern.asked
    planned(pattern)
    assert pattern.asked == before


def test_copies_are_patterns_of_their_own():
    pattern = Counted()
    planned(pattern)
    for way in (copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        twin = way(pattern)
        before = twin.asked
        planned(twin)
        assert twin.asked > before


def test_a_composition_is_kept_as_a_whole():
    leaf = Counted()
    pattern = leaf | KeyLengths(3)
    arrays = make(0, 40, 50)
    first = ruvattn.attention(*arrays, mask=pattern)
    before = leaf.asked
    assert same_bits(ruvattn.attention(*arrays, mask=pattern), first)
    assert leaf.asked == before
    ruvattn.attention(*arrays, mask=leaf | KeyLengths(3))
    assert leaf.asked > before, "another object"


def test_what_is_left_of_an_intersection_is_kept_with_its_operand_or_with_itself():
    """Of ``a & causal`` the kernels know the second half, so that each new composition finds the plan of a."""
    leaf, other = Counted(), Counted(0.9)
    arrays = make(0, 40, 50)
    ruvattn.attention(*arrays, mask=leaf & Causal())
    before = leaf.asked
    ruvattn.attention(*arrays, mask=(np.ones((40, 50), bool) & leaf) & Causal(), key_lengths=7)
    assert leaf.asked == before
    pattern = Causal() & leaf & other
    ruvattn.attention(*arrays, mask=pattern)
    before = leaf.asked
    ruvattn.attention(*arrays, mask=pattern)
    assert leaf.asked == before


def test_an_array_that_is_written_to_is_read_again():
    arrays = make(0, 40, 50)
    mask = np.random.default_rng(0).random((40, 50)) < 0.5
    pattern = ruvattn.BoolMask(mask)
    assert_agrees(*arrays, mask=mask & Causal())
    mask[:] = ~mask
    for given in (mask, pattern, mask & Causal(), mask | Causal(), pattern & Causal()):
        assert_agrees(*arrays, mask=given)


def test_pairs_of_sparse_arrays_are_kept_too(kept):
    matrix = scipy.sparse.random_array((300, 400), density=0.002, rng=np.random.default_rng(0))
    pattern = SparseMatrixMask(matrix)
    arrays = make(0, 300, 400)
    first, _ = assert_agrees(*arrays, mask=pattern)
    things = dict(kept._things)
    assert things
    assert same_bits(ruvattn.attention(*arrays, mask=pattern), first)
    assert dict(kept._things) == things


def test_a_thing_is_made_once_and_by_key():
    pattern, made = Counted(), []

    def make_it():
        made.append(SimpleNamespace(nbytes=10))
        return made[-1]

    first = planning.kept(pattern, "a", make_it)
    assert planning.kept(pattern, "a", make_it) is first
    assert planning.kept(pattern, "b", make_it) is not first
    assert planning.kept(Counted(), "a", make_it) is not first
    assert len(made) == 3


# --- how much, and for how long -------------------------------------------------------------------------------------------------


def test_what_takes_more_than_a_quarter_of_the_room_is_not_kept(monkeypatch, kept):
    pattern = Counted()
    size = sum(plan.nbytes for plan in planned(pattern, 200, 300))
    kept.renew()
    monkeypatch.setattr(planning, "KEPT_BYTES", 4 * size - 4)
    planned(pattern, 200, 300)
    assert not kept._things and kept._bytes == 0
    assert planning.kept(pattern, "large", lambda: SimpleNamespace(nbytes=size)).nbytes == size
    assert not kept._things
    monkeypatch.setattr(planning, "KEPT_BYTES", 4 * size + 4)
    planned(pattern, 200, 300)
    assert len(kept._things) == 1


def test_several_plans_of_one_call_count_together(monkeypatch, kept):
    monkeypatch.setattr(planning, "WORD_BUDGET", 1)
    pattern = Counted()
    every = planned(pattern, 200, 300)
    assert len(every) > 4
    kept.renew()
    monkeypatch.setattr(planning, "KEPT_BYTES", 4 * sum(plan.nbytes for plan in every[:-1]))
    planned(pattern, 200, 300)
    assert not kept._things


def test_the_total_is_bounded_and_the_longest_unused_go_first(monkeypatch, kept):
    pattern = Counted()
    planned(pattern, lk=100)
    each = kept._bytes
    monkeypatch.setattr(planning, "KEPT_BYTES", 5 * each + each // 2)
    for lk in (100, 99, 98, 97, 101):  # which take the same number of words
        planned(pattern, lk=lk)
    assert kept._bytes == total(kept) == 5 * each
    planned(pattern, lk=100)  # used again, so that 99 is the one
    planned(pattern, lk=102)
    assert kept._bytes == total(kept) <= planning.KEPT_BYTES
    before = pattern.asked
    planned(pattern, lk=100)
    assert pattern.asked == before
    planned(pattern, lk=99)
    assert pattern.asked > before


def test_decoding_with_ever_more_keys_takes_bounded_memory(monkeypatch, kept):
    """A plan for one query has a hundred bytes of numbers, and the objects that hold them take thirty times that."""
    monkeypatch.setattr(planning, "KEPT_BYTES", 1 << 17)
    pattern = ruvattn.Window(8, 0) | KeyLengths(4)
    for lk in range(1, 100):
        planned(pattern, 1, lk, offsets=(lk - 1,))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for lk in range(100, 400):
        planned(pattern, 1, lk, offsets=(lk - 1,))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept._bytes <= planning.KEPT_BYTES
    assert grown < 1.25 * planning.KEPT_BYTES


def test_a_plan_tells_what_its_arrays_take():
    (plan,) = planned(Counted(), 40, 50)
    assert plan.nbytes == sum(x.nbytes for x in vars(plan).values() if isinstance(x, np.ndarray)) > 0


def test_plans_go_with_their_pattern(kept):
    pattern, other = Counted(), Counted()
    planned(pattern), planned(pattern, lk=60), planned(other)
    assert len(kept._things) == 3
    del pattern
    gc.collect()
    assert len(kept._things) == len(kept._owners) == 1
    assert kept._bytes == total(kept)
    before = other.asked
    planned(other)
    assert other.asked == before


def test_patterns_in_a_cycle_go_too(kept):
    pattern = Counted()
    pattern.itself = pattern
    planned(pattern)
    del pattern
    gc.collect()
    assert not kept._things and not kept._owners and kept._bytes == 0


def test_a_pattern_may_go_while_something_is_being_kept(kept):
    pattern = Counted()
    planned(pattern)
    with kept._lock:
        del pattern
        gc.collect()
    assert not kept._things and kept._bytes == 0


def test_a_pattern_at_the_address_of_one_that_went_is_another():
    arrays = make(0, 40, 50)
    numbers = set()
    for at in range(50):
        pattern = Counted((at + 1) / 60)
        numbers.add(id(pattern))
        q, k, _ = arrays
        expected = np.broadcast_to(pattern.allowed(np.arange(40)[:, None], np.arange(50)), (40, 50))
        assert np.array_equal(ruvattn.attention_weights(q, k, mask=pattern)[0] > 0, expected)
        del pattern
    assert len(numbers) < 50, "addresses must have been used again for this to say anything"


# --- nothing half-made ----------------------------------------------------------------------------------------------------------


class Breaks(Counted):
    """Raises once, at the n-th question."""

    def __init__(self, question):
        super().__init__()
        self.question = question

    def allowed(self, i, j, *, head=0, batch=0):
        if self.asked + 1 == self.question:
            self.question = 0
            raise KeyboardInterrupt
        return super().allowed(i, j, head=head, batch=batch)


@pytest.mark.parametrize("budget", [1, planning.WORD_BUDGET], ids=["several plans", "one plan"])
@pytest.mark.parametrize("question", [1, 3, 5])
def test_an_exception_half_way_leaves_nothing_behind(question, budget, monkeypatch, kept):
    monkeypatch.setattr(planning, "WORD_BUDGET", budget)
    pattern = Breaks(question)
    arrays = make(0, 150, 90)
    with pytest.raises(KeyboardInterrupt):
        ruvattn.attention(*arrays, mask=pattern)
    assert not kept._things and kept._bytes == 0
    assert_agrees(*arrays, mask=pattern)
    assert len(kept._things) == 1


def test_plans_that_nobody_took_to_the_end_are_not_kept(monkeypatch, kept):
    monkeypatch.setattr(planning, "WORD_BUDGET", 1)
    every = plans(Counted(), 200, 50, 1, np.zeros(1, np.int64), 16)
    next(every)
    every.close()
    assert not kept._things


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("budget", [1, planning.WORD_BUDGET], ids=["several plans", "one plan"])
@pytest.mark.parametrize("positions", [0, [0, -20, 33]], ids=["one offset", "one each"])
def test_results_are_the_same_to_the_bit_with_and_without_kept_plans(positions, budget, dtype, monkeypatch):
    monkeypatch.setattr(planning, "WORD_BUDGET", budget)
    pattern = (Counted(0.3, by_head=True) | ruvattn.Window(9, 4)) & Counted(0.9, by_batch=True)
    arrays = make(0, 150, 170, lead=(3,), hq=2, hk=1, dtype=dtype)
    options = {"query_offset": positions, "softcap": 3.0, "sinks": [0.0, 1.0], "return_lse": True}
    results = [ruvattn.attention(*arrays, mask=pattern, **options) for _ in range(2)]
    monkeypatch.setattr(planning, "KEPT_BYTES", 0)
    planning._KEPT.renew()
    results.append(ruvattn.attention(*arrays, mask=pattern, **options))
    assert not planning._KEPT._things
    for out, lse in results[1:]:
        assert same_bits(out, results[0][0])
        assert same_bits(lse, results[0][1])


# --- threads and processes ------------------------------------------------------------------------------------------------------


def test_threads_that_share_a_fresh_pattern_agree(kept):
    arrays = make(0, 150, 200, hq=2, hk=2)
    expected = ruvattn.attention(*arrays, mask=Counted(0.3, by_head=True), threads=1)
    for _ in range(5):
        pattern, barrier, results = Counted(0.3, by_head=True), threading.Barrier(4), []

        def work(pattern=pattern, barrier=barrier, results=results):
            barrier.wait(30)
            results.extend(ruvattn.attention(*arrays, mask=pattern, threads=1) for _ in range(3))

        team = [threading.Thread(target=work) for _ in range(4)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        assert len(results) == 12
        assert all(same_bits(result, expected) for result in results)
        assert kept._bytes == total(kept)
        assert len([key for key in kept._things if key[0] == id(pattern)]) == 1


def test_the_books_balance_while_threads_make_and_drop_patterns(monkeypatch, kept):
    monkeypatch.setattr(planning, "KEPT_BYTES", 100_000)
    errors = []

    def work(seed):
        rng = np.random.default_rng(seed)
        mine = [Counted() for _ in range(4)]
        try:
            for _ in range(150):
                mine[int(rng.integers(4))] = Counted()
                planned(mine[int(rng.integers(4))], int(rng.integers(1, 40)), int(rng.integers(1, 60)))
        except BaseException as error:
            errors.append(error)
            raise

    team = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not errors
    gc.collect()
    assert kept._bytes == total(kept) == 0
    assert not kept._owners


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_child_that_is_forked_while_a_plan_is_being_kept_does_not_wait_for_it():
    code = """
        import os, signal, threading
        import numpy as np
        import ruvattn
        from ruvattn import planning

        class Odd(ruvattn.Pattern):
            def allowed(self, i, j, *, head=0, batch=0):
                return (i + j) % 2 == 1

        pattern = Odd()
        q = np.ones((4, 5, 6), np.float32)
        expected = ruvattn.attention(q, q, q, mask=pattern)
        held, done = threading.Event(), threading.Event()

        def hold():
            with planning._KEPT._lock:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if not child:
            signal.alarm(20)
            same = np.array_equal(ruvattn.attention(q, q, q, mask=pattern), expected)
            os._exit(7 if same else 8)
        done.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == "7", run.stderr
