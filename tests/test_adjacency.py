"""Adjacency: edges sorted by row, turned around, kept apart from what a caller may write; and attention along one."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_close, make, same_bits, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import Adjacency, edge_attention, reference
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError

ALONE = 1 << 15  # up to so many edges are sorted in one bucket
BUCKETS = 512
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def drawn(seed, edges, rows, keys):
    rng = np.random.default_rng(seed)
    return rng.integers(0, max(keys, 1), edges), rng.integers(0, max(rows, 1), edges)


def assert_sorted(keys, rows, num_rows, num_keys, threads=None):
    """What from_edges makes of edges is what a stable sort of NumPy makes of them; returns both its results."""
    adjacency, order = Adjacency.from_edges(keys, rows, num_rows, num_keys, threads=threads)
    expected = np.argsort(rows, kind="stable")
    assert (adjacency.indptr.dtype, adjacency.indices.dtype, order.dtype) == (np.int64, np.int32, np.int32)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(adjacency.indices, np.asarray(keys)[expected])
    np.testing.assert_array_equal(adjacency.indptr, np.searchsorted(np.asarray(rows)[expected], np.arange(num_rows + 1)))
    assert (adjacency.num_rows, adjacency.num_keys, adjacency.num_edges) == (num_rows, num_keys, len(expected))
    return adjacency, order


def assert_turned(adjacency):
    """The transpose has the same edges by key, those of one key in the order of rows."""
    turned, order = adjacency.transpose, adjacency.transpose_order
    expected = np.argsort(adjacency.indices, kind="stable")
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(turned.indices, adjacency.edge_rows()[expected])
    np.testing.assert_array_equal(turned.indptr, np.searchsorted(adjacency.indices[expected], np.arange(adjacency.num_keys + 1)))
    assert (turned.num_rows, turned.num_keys, turned.num_edges) == (adjacency.num_keys, adjacency.num_rows, adjacency.num_edges)


# --- sorting ----------------------------------------------------------------------------------------------------------------------


@st.composite
def edge_lists(draw):
    rows, keys = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    pairs = draw(st.lists(st.tuples(st.integers(0, keys - 1), st.integers(0, rows - 1)), max_size=120))
    dtype = draw(st.sampled_from(["int8", "uint8", "int32", "int64", "uint64"]))
    ends = np.array(pairs, dtype).reshape(-1, 2)
    return ends[:, 0], ends[:, 1], rows, keys


@given(edge_lists(), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_any_edges_are_sorted_as_a_stable_sort_does(case, threads):
    assert_turned(assert_sorted(*case, threads=threads)[0])


@pytest.mark.parametrize("edges", [ALONE - 1, ALONE, ALONE + 1, 2 * ALONE + 1, 100_003])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_any_number_of_edges_around_the_first_that_is_dealt_into_buckets(edges, rows):
    assert_turned(assert_sorted(*drawn(edges, edges, rows, 777), rows, 777)[0])


@pytest.mark.parametrize("rows", [1, BUCKETS - 1, BUCKETS, BUCKETS + 1, 2 * BUCKETS, 2 * BUCKETS + 1, 3 * BUCKETS + 7, 200_000])
def test_any_number_of_rows_around_those_that_share_a_bucket(rows):
    assert_turned(assert_sorted(*drawn(rows, ALONE + 77, rows, 50), rows, 50)[0])


@pytest.mark.parametrize("where", ["first row", "last row", "last bucket", "falling", "rising"])
def test_rows_that_are_anything_but_even(where):
    edges, rows = 2 * ALONE, 70_000
    ends = {
        "first row": np.zeros(edges, int), "last row": np.full(edges, rows - 1), "last bucket": rows - 1 - np.arange(edges) % 5,
        "falling": np.arange(edges)[::-1] % rows, "rising": np.arange(edges) % rows,
    }[where]  # fmt: skip
    assert_turned(assert_sorted(np.arange(edges) % 91, ends, rows, 91)[0])


@pytest.mark.parametrize("threads", [2, 3, 7, 64])
def test_the_number_of_threads_changes_nothing(threads):
    keys, rows = drawn(3, 150_001, 30_000, 30_000)
    one, order = assert_sorted(keys, rows, 30_000, 30_000, threads=1)
    many, other = Adjacency.from_edges(keys, rows, 30_000, 30_000, threads=threads)
    assert same_bits(order, other)
    assert same_bits(one.indptr, many.indptr)
    assert same_bits(one.indices, many.indices)


def test_edges_are_sorted_by_several_threads_at_once():
    cases = [(*drawn(seed, 60_000, 5000, 5000), 5000, 5000) for seed in range(4)]
    failed = []

    def work(case):
        try:
            assert_sorted(*case, threads=2)
        except BaseException as error:
            failed.append(error)

    team = [threading.Thread(target=work, args=(case,)) for case in cases]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert failed == []


@pytest.mark.parametrize(("rows", "keys"), [(0, 0), (0, 5), (5, 0), (3, 4), (70_000, 1)])
def test_no_edges_at_all(rows, keys):
    for none in ([], np.empty(0, np.int32), np.empty(0, np.uint64)):
        assert_turned(assert_sorted(none, none, rows, keys)[0])


def test_what_is_not_contiguous_is_read_as_it_is():
    keys, rows = drawn(1, 500, 20, 30)
    both = np.stack([keys, rows], axis=1)
    assert_sorted(both[:, 0], both[:, 1], 20, 30)
    assert_sorted(both[::-3, 0], both[::-3, 1], 20, 30)
    assert_sorted(keys.astype(">i8"), rows.astype(">i4"), 20, 30)


def test_the_row_of_each_edge_is_told():
    adjacency = Adjacency([0, 2, 2, 3], [1, 0, 1], 2)
    np.testing.assert_array_equal(adjacency.edge_rows(), [0, 0, 2])
    assert adjacency.edge_rows().dtype == np.int32
    assert adjacency.edge_rows() is not adjacency.edge_rows()


# --- the transpose ----------------------------------------------------------------------------------------------------------------


def test_the_transpose_is_made_once():
    adjacency, _ = Adjacency.from_edges(*drawn(0, 300, 20, 30), 20, 30)
    assert adjacency.transpose is adjacency.transpose
    assert adjacency.transpose_order is adjacency.transpose_order


def test_turned_twice_edges_are_sorted_by_key_within_their_row():
    adjacency, _ = Adjacency.from_edges(*drawn(0, 300, 20, 30), 20, 30)
    twice = adjacency.transpose.transpose
    np.testing.assert_array_equal(twice.indptr, adjacency.indptr)
    for row in range(20):
        at = slice(*adjacency.indptr[row : row + 2])
        np.testing.assert_array_equal(twice.indices[at], np.sort(adjacency.indices[at]))


def test_the_transpose_is_that_of_scipy():
    adjacency, _ = Adjacency.from_edges(*drawn(5, 4000, 300, 200), 300, 200)
    numbers = np.arange(4000)
    matrix = scipy.sparse.csr_array((numbers + 1, adjacency.indices, adjacency.indptr), shape=(300, 200))
    turned = matrix.tocsc()  # whose arrays are those of the transpose by rows
    np.testing.assert_array_equal(adjacency.transpose.indptr, turned.indptr)
    np.testing.assert_array_equal(adjacency.transpose.indices, turned.indices)
    np.testing.assert_array_equal(adjacency.transpose_order, turned.data - 1)


# --- what it holds ----------------------------------------------------------------------------------------------------------------


def test_what_it_holds_cannot_be_written():
    adjacency, order = Adjacency.from_edges([0, 1], [1, 0], 2, 2)
    for array in (adjacency.indptr, adjacency.indices, order, adjacency.transpose.indptr, adjacency.transpose.indices, adjacency.transpose_order):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_callers_arrays_stay_writable_and_what_is_written_to_them_changes_nothing(dtype):
    indptr, indices = np.array([0, 1, 3], np.int64), np.array([2, 0, 1], dtype)
    adjacency = Adjacency(indptr, indices, 3)
    indptr[1], indices[0] = 99, 10**6
    np.testing.assert_array_equal(adjacency.indptr, [0, 1, 3])
    np.testing.assert_array_equal(adjacency.indices, [2, 0, 1])


def test_edges_that_are_written_to_after_they_were_sorted_change_nothing():
    keys, rows = np.array([2, 0, 1], np.int32), np.array([1, 0, 1], np.int32)
    adjacency, order = Adjacency.from_edges(keys, rows, 2, 3)
    keys[:], rows[:] = 77, 77
    np.testing.assert_array_equal(adjacency.indices, [0, 2, 1])
    np.testing.assert_array_equal(order, [1, 0, 2])


def test_a_read_only_view_of_what_others_can_write_to_is_copied():
    base = np.array([2, 0, 1], np.int32)
    view = base.view()
    view.flags.writeable = False
    adjacency = Adjacency(np.array([0, 1, 3]), view, 3)
    base[0] = 10**6
    np.testing.assert_array_equal(adjacency.indices, [2, 0, 1])


@pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_a_copy_is_the_same_and_cannot_be_written_either(way):
    adjacency, _ = Adjacency.from_edges(*drawn(2, 200, 20, 30), 20, 30)
    assert adjacency.transpose is not None
    again = way(adjacency)
    assert same_bits(again.indptr, adjacency.indptr)
    assert same_bits(again.indices, adjacency.indices)
    assert again.num_keys == 30
    assert not again.indptr.flags.writeable
    assert not again.indices.flags.writeable
    assert_turned(again)


def test_its_repr_has_its_size():
    assert repr(Adjacency([0, 1, 3], [0, 1, 2], 4)) == "Adjacency(num_rows=2, num_keys=4, num_edges=3)"


# --- errors -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indptr", "indices", "num_keys", "error", "words"),
    [
        ([0, 2], [0, 5], 5, InvalidInputError, "indices must be keys from 0 to 4, got 5 at edge 1"),
        ([0, 2], [0, -1], 5, InvalidInputError, "got -1 at edge 1"),
        ([0, 1], [0], 0, InvalidInputError, "indices must be keys"),
        ([0, 2], np.array([0, 2**63], np.uint64), 5, InvalidInputError, "got 9223372036854775808 at edge 1"),
        ([1, 2], [0, 1], 5, InvalidInputError, "indptr must begin with 0, got 1"),
        ([0, 3], [0, 1], 5, InvalidInputError, "indptr must end with the number of indices, 2, got 3"),
        ([0, 2, 1, 2], [0, 1], 5, InvalidInputError, "row 1 would begin at 2 and end at 1"),
        (np.array([0, 2, 1, 2], np.uint8), [0, 1], 5, InvalidInputError, "must not fall"),
        ([0.0, 1.0], [0], 5, InvalidInputError, "indptr must be ints, got dtype float64"),
        ([0, 1], [0.0], 5, InvalidInputError, "indices must be ints, got dtype float64"),
        ([0, 1], [True], 5, InvalidInputError, "indices must be ints, got dtype bool"),
        ([0, 1], ["0"], 5, InvalidInputError, "indices must be ints"),
        ([[0, 1]], [0], 5, DimensionMismatchError, r"indptr must have shape \(rows \+ 1,\), got \(1, 2\)"),
        ([], [], 5, DimensionMismatchError, r"got \(0,\)"),
        (0, [], 5, DimensionMismatchError, r"got \(\)"),
        ([0, 1], [[0]], 5, DimensionMismatchError, r"indices must have shape \(E,\), got \(1, 1\)"),
        ([0, 1], [0], -1, InvalidInputError, "num_keys"),
        ([0, 1], [0], 1.5, InvalidInputError, "num_keys"),
        ([0, 1], [0], True, InvalidInputError, "num_keys"),
        ([0, 1], [0], 2**30 + 1, InputTooLargeError, "num_keys must be at most 1,073,741,824, got 1,073,741,825"),
        (scipy.sparse.eye_array(2).tocsr(), [0], 5, InvalidInputError, "of a csr_array pass its .indptr"),
        (np.ma.array([0, 1]), [0], 5, InvalidInputError, "indptr"),
    ],
)  # fmt: skip
def test_what_is_no_structure_is_refused(indptr, indices, num_keys, error, words):
    with pytest.raises(error, match=words):
        Adjacency(indptr, indices, num_keys)


@pytest.mark.parametrize(
    ("keys", "rows", "sizes", "error", "words"),
    [
        ([0, 3], [0, 0], (2, 3), InvalidInputError, "keys must be from 0 to 2, got 3 at edge 1"),
        ([0, -1], [0, 0], (2, 3), InvalidInputError, "keys must be from 0 to 2, got -1 at edge 1"),
        ([0, 1], [0, 2], (2, 3), InvalidInputError, "rows must be from 0 to 1, got 2 at edge 1"),
        ([0, 1], [-5, 0], (2, 3), InvalidInputError, "rows must be from 0 to 1, got -5 at edge 0"),
        ([2**32], [0], (1, 1), InvalidInputError, "got 4294967296"),
        (np.array([2**64 - 1], np.uint64), [0], (1, 1), InvalidInputError, "got 18446744073709551615"),
        ([0], [0], (0, 1), InvalidInputError, "rows must be from 0 to -1"),
        ([0, 1], [0], (2, 3), DimensionMismatchError, r"one shape \(E,\), got \(2,\) and \(1,\)"),
        ([[0, 1]], [[0, 1]], (2, 3), DimensionMismatchError, "one shape"),
        (0, 0, (2, 3), DimensionMismatchError, "one shape"),
        ([0.0], [0], (2, 3), InvalidInputError, "keys must be ints, got dtype float64"),
        ([0], [True], (2, 3), InvalidInputError, "rows must be ints, got dtype bool"),
        (np.empty(0), [], (2, 3), InvalidInputError, "keys must be ints"),
        ([0], [0], (-1, 3), InvalidInputError, "num_rows"),
        ([0], [0], (1, 2.0), InvalidInputError, "num_keys"),
        ([], [], (2**30 + 1, 3), InputTooLargeError, "num_rows must be at most 1,073,741,824"),
        ([], [], (3, 2**30 + 1), InputTooLargeError, "num_keys must be at most 1,073,741,824"),
    ],
)  # fmt: skip
def test_edges_that_are_none_are_refused(keys, rows, sizes, error, words):
    with pytest.raises(error, match=words):
        Adjacency.from_edges(keys, rows, *sizes)


def test_more_edges_than_32_bits_can_number_are_refused():
    many = np.broadcast_to(np.int32(0), (2**31,))  # takes no memory
    with pytest.raises(InputTooLargeError, match="edges must be at most 2,147,483,647, got 2,147,483,648"):
        Adjacency.from_edges(many, many, 1, 1)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_a_number_of_threads_that_is_none_is_refused(threads):
    with pytest.raises(InvalidInputError, match="threads"):
        Adjacency.from_edges([0], [0], 1, 1, threads=threads)


# --- fork -------------------------------------------------------------------------------------------------------------------------

FORKING = """
    import os, sys
    import numpy as np
    import ruvattn
    from ruvattn import Adjacency

    rng = np.random.default_rng(0)
    keys, rows = rng.integers(0, 20_000, (2, 200_000))

    def built():
        adjacency, order = Adjacency.from_edges(keys, rows, 20_000, 20_000, threads=2)
        return order.tobytes() + adjacency.indices.tobytes() + adjacency.transpose.indices.tobytes()

    def child(work):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if work() else 3)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(code):
    """Return what code after FORKING prints; it has to end, and well."""
    path = os.pathsep.join(filter(None, [os.path.dirname(os.path.dirname(ruvattn.__file__)), *sys.path]))
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(FORKING) + textwrap.dedent(code)],
        env={**environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


@forks
def test_a_child_sorts_after_the_parent_has_had_a_team():
    code = """
        wanted = built()
        print(child(lambda: built() == wanted), child(lambda: child(lambda: built() == wanted) == 0), built() == wanted)
    """
    assert run(code) == "0 0 True"


@forks
def test_sorting_asks_the_teams_of_sorting_to_pause_before_a_fork():
    code = """
        built()
        from ruvattn.kernels import csr
        calls = []

        class Watched:
            def __getattr__(self, name):
                return getattr(csr, name)
            def pause(self):
                calls.append(1)
                return csr.pause()
        sys.modules["ruvattn.kernels.csr"] = Watched()
        print(child(lambda: True), len(calls))
    """
    assert run(code) == "0 1"


@forks
def test_kernels_of_a_plugin_that_it_keeps_pausable_are_paused_before_a_fork_once_each():
    code = """
        from ruvattn import threads
        calls = []

        class Kernels:
            def pause(self):
                calls.append(self)
                return True

        class WithoutTeam:
            pass

        mine, other = Kernels(), WithoutTeam()
        for module in (mine, mine, other):
            threads.keep_pausable(module)
        print(child(lambda: True), calls == [mine])
    """
    assert run(code) == "0 True"


@forks
def test_where_kernels_of_a_plugin_cannot_be_paused_the_child_is_serial():
    code = """
        from ruvattn import threads
        wanted = built()

        class Stubborn:
            def pause(self):
                return False

        threads.keep_pausable(Stubborn())
        print(child(lambda: ruvattn.get_num_threads() == 1 and built() == wanted and len(os.listdir("/proc/self/task")) == 1))
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into /proc")
    assert run(code) == "0"


# --- attention along one ----------------------------------------------------------------------------------------------------------


def csr(seed, rows=9, lk=20, mean=5):
    degrees = np.random.default_rng(seed).poisson(mean, rows)
    degrees[rows // 2] = 0
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    return indptr, np.random.default_rng(seed + 1).integers(0, lk, indptr[-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adjacency_is_its_two_arrays(dtype):
    indptr, indices = csr(0)
    q, k, v = make(0, 9, 20, lead=(2,), hq=4, hk=2, dtype=DTYPES[dtype])
    options = {"return_lse": True, "return_weights": True, "dropout": 0.2, "seed": 3, "softcap": 3.0}
    expected = edge_attention(q, k, v, indptr, indices, **options)
    found = edge_attention(q, k, v, Adjacency(indptr, indices, 20), **options)
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))


def test_an_adjacency_is_not_looked_through_again(monkeypatch):
    edges = import_module("ruvattn.edges")
    indptr, indices = csr(0)
    adjacency = Adjacency(indptr, indices, 20)
    monkeypatch.setattr(edges, "read_structure", lambda *args: pytest.fail("it was"))
    assert edge_attention(*make(0, 9, 20), adjacency).shape == (1, 9, 8)


def test_an_adjacency_and_indices_are_one_too_many():
    indptr, indices = csr(0)
    with pytest.raises(InvalidInputError, match="indices must be left out where an Adjacency is given"):
        edge_attention(*make(0, 9, 20), Adjacency(indptr, indices, 20), indices)


def test_indptr_without_indices_is_refused():
    with pytest.raises(InvalidInputError, match="indices must be given beside indptr"):
        edge_attention(*make(0, 9, 20), csr(0)[0])


@pytest.mark.parametrize(("lq", "lk"), [(8, 20), (9, 21), (20, 9)])
def test_an_adjacency_of_another_size_is_refused(lq, lk):
    adjacency = Adjacency(*csr(0), 20)
    with pytest.raises(DimensionMismatchError, match=f"a row for each query and a key for each key, {lq} and {lk}, got 9 and 20"):
        edge_attention(*make(0, lq, lk), adjacency)


# --- where attributes are appended ------------------------------------------------------------------------------------------------


class Shifted(ruvattn.Score):
    """A score in NumPy that looks at dots and at a term of each key, attributes included."""

    def col_terms(self, k, pos):
        return ((k * k).sum(-1),)

    def logits(self, t):
        return t.dots[0] / 4 - t.cols[0] / 8


class Largest(ruvattn.Aggregate):
    """The largest of weight times value: not linear, columns apart."""

    linear = False

    def reduce(self, weights, v):
        return (weights[:, :, None] * v).max(1)


class Squares(ruvattn.Aggregate):
    """Σ p·v·|v|: linear, of values that aren't those given."""

    def values(self, v):
        return v * np.abs(v)


WAYS = {
    "dot": {}, "own scale": {"scale": 0.3}, "score": {"score": Shifted()}, "not linear": {"aggregate": Largest()}, "linear": {"aggregate": Squares()},
    "dropout and sinks": {"dropout": 0.3, "seed": 2, "sinks": np.array([0.5, -1.0, 0.0, 2.0])}, "softcap": {"softcap": 1.5},
}  # fmt: skip
F = 3


def case(dtype, to, heads=4):
    """A call with attributes that join keys or values."""
    indptr, indices = csr(4)
    q, k, v = make(4, 9, 20, 8 + (F if to != "value" else 0), 5, hq=heads, hk=2 if heads > 1 else 1, dtype=DTYPES[dtype])
    k = k[..., :8]
    rng = np.random.default_rng(8)
    attr, bias = rng.standard_normal((indices.size, F)).astype(q.dtype), rng.standard_normal(indices.size)
    return q, k, v, indptr, indices, {"edge_attr": attr, "bias": bias.astype(q.dtype)}


def expected_of(q, k, v, indptr, indices, to, options):
    """What the oracle gives for attributes that join both: queries of zeros there don't see them in keys, and values can be cut."""
    if to == "value":
        q = np.concatenate([q, np.zeros((*q.shape[:-1], F), q.dtype)], axis=-1)
        options = {"scale": 8**-0.5, **options}
    out, lse, weights = reference.edge_attention(q, k, v, indptr, indices, return_lse=True, return_weights=True, precision=np.longdouble, **options)
    return (out[..., :-F] if to == "key" else out), lse, weights


# The oracle's keys would have attributes, which this score looks at without the query.
NOT_BY_CUTTING = ("score", "value")


@pytest.mark.parametrize(("way", "to"), [pair for way in WAYS for to in ("both", "key", "value") if (pair := (way, to)) != NOT_BY_CUTTING])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attributes_join_keys_or_values_or_both(dtype, way, to):
    q, k, v, indptr, indices, options = case(dtype, to)
    options |= WAYS[way]
    found = edge_attention(q, k, v, Adjacency(indptr, indices, 20), edge_attr_to=to, return_lse=True, return_weights=True, **options)
    expected = expected_of(q, k, v, indptr, indices, to, options)
    wide = np.concatenate([k[..., indices, :], np.broadcast_to(options["edge_attr"], (*k.shape[:-2], indices.size, F))], -1) if to != "value" else k
    values = np.concatenate([v.ravel(), options["edge_attr"].ravel()]).reshape(-1, 1)
    bound = 4 * tolerance(q, wide, values * np.abs(values).max() if way == "linear" else values, options)
    assert found[0].shape == (4, 9, 5 + (F if to != "key" else 0))
    assert_close(found[0], expected[0], bound)
    one = np.ones(1, found[1].dtype)
    assert_close(found[1], expected[1], 4 * tolerance(q, wide, one, options | {"dropout": 0.0}))
    assert_close(found[2], expected[2], 4 * tolerance(q, wide, one.astype(q.dtype), options))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_score_that_sees_whole_keys_sees_no_attributes_of_values(dtype):
    q, k, v, indptr, indices, options = case(dtype, "value")
    found = edge_attention(q, k, v, indptr, indices, edge_attr_to="value", score=Shifted(), **options)
    bias = options.pop("bias")
    expected = reference.edge_attention(q, k, v, indptr, indices, score=Shifted(), bias=bias, precision=np.longdouble)
    assert_close(found[..., :5], expected, 4 * tolerance(q, k, v, {"bias": bias, "scale": 2.0}))


@pytest.mark.parametrize("to", ["both", "key", "value"])
def test_the_default_scale_is_that_of_what_is_multiplied(to):
    q, k, v, indptr, indices, options = case("float64", to)
    width = 8 if to == "value" else 8 + F
    found = edge_attention(q, k, v, indptr, indices, edge_attr_to=to, **options)
    np.testing.assert_allclose(found, edge_attention(q, k, v, indptr, indices, edge_attr_to=to, scale=width**-0.5, **options), rtol=1e-13)


@pytest.mark.parametrize("to", ["both", "key", "value"])
@pytest.mark.parametrize("strided", [False, True])
def test_out_is_as_wide_as_what_joins_the_values(to, strided):
    q, k, v, indptr, indices, options = case("float32", to)
    expected = edge_attention(q, k, v, indptr, indices, edge_attr_to=to, **options)
    out = np.full((*expected.shape[:-1], 2 * expected.shape[-1]), np.nan, np.float32)[..., ::2] if strided else np.full_like(expected, np.nan)
    assert edge_attention(q, k, v, indptr, indices, edge_attr_to=to, out=out, **options) is out
    assert same_bits(np.ascontiguousarray(out), expected)
    wrong = np.empty((*expected.shape[:-1], expected.shape[-1] + (F if to == "key" else -F)), np.float32)
    with pytest.raises(DimensionMismatchError, match="out must have shape"):
        edge_attention(q, k, v, indptr, indices, edge_attr_to=to, out=wrong, **options)


@pytest.mark.parametrize("to", ["both", "key", "value"])
def test_threads_change_no_bit(to):
    rng = np.random.default_rng(0)
    degrees = rng.poisson(8, 800)
    degrees[7] = 9000
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    indices = rng.integers(0, 500, indptr[-1])
    attr = rng.standard_normal((indices.size, F)).astype(np.float32)
    q, k, v = make(1, 800, 500, 16 + (F if to != "value" else 0), 16, hq=2, hk=2)
    one, two, seven = (edge_attention(q, k[..., :16], v, indptr, indices, edge_attr=attr, edge_attr_to=to, threads=n) for n in (1, 2, 7))
    assert same_bits(one, two)
    assert same_bits(one, seven)


def test_no_edges_give_rows_of_zeros_as_wide_as_otherwise():
    for to, width in (("both", 4 + F), ("key", 4), ("value", 4 + F)):
        q, k, v = make(0, 3, 5, 8 + (F if to != "value" else 0), 4)
        for aggregate in (None, Largest()):
            out = edge_attention(q, k[..., :8], v, [0, 0, 0, 0], [], edge_attr=np.empty((0, F), np.float32), edge_attr_to=to, aggregate=aggregate)
            assert out.shape == (1, 3, width)
            assert not out.any()


@pytest.mark.parametrize("to", ["keys", "", None, True, 1, ["key"]])
def test_another_place_for_attributes_is_refused(to):
    q, k, v, indptr, indices, options = case("float32", "both")
    with pytest.raises(InvalidInputError, match="edge_attr_to must be 'both', 'key' or 'value'"):
        edge_attention(q, k, v, indptr, indices, edge_attr_to=to, **options)


@pytest.mark.parametrize(("to", "wrong"), [("both", "value"), ("key", "value"), ("value", "both")])
def test_queries_of_the_width_of_another_place_are_refused(to, wrong):
    q, k, v, indptr, indices, options = case("float32", wrong)
    with pytest.raises(DimensionMismatchError, match="width"):
        edge_attention(q, k, v, indptr, indices, edge_attr_to=to, **options)


@pytest.mark.parametrize("to", ["both", "key", "value"])
def test_attributes_of_other_edges_are_refused_wherever_they_go(to):
    q, k, v, indptr, indices, options = case("float32", to)
    for attr, error, words in (
        (options["edge_attr"][1:], DimensionMismatchError, f"a row for each of the {indices.size} edges"),
        (options["edge_attr"][:, 0], DimensionMismatchError, "edge_attr must have shape"),
        (options["edge_attr"][:, :0], DimensionMismatchError, "F at least 1"),
        (options["edge_attr"].astype(int), (UnsupportedError, InvalidInputError), "edge_attr"),
    ):
        with pytest.raises(error, match=words):
            edge_attention(q, k, v, indptr, indices, edge_attr_to=to, **{**options, "edge_attr": attr})
