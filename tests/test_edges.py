"""The edge engine against the float64 oracle: any structure of rows, every option and score, in every build; and beside the tile engine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_close, compute_dtype, epsilon, make, oracle_dtype, same_bits, tolerance, use_build
from example_scores import COMPILED, COMPILER, HEADS, SCORES, Additive, FourTerms, build_library, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import edge_attention, edges, isa, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnknownVariantError, UnsupportedError

INF = np.inf
CHUNK = import_module("ruvattn.kernels.edge_scalar_float32").CHUNK_EDGES  # a row with more edges is cut into pieces
TILE = 256
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@pytest.fixture(params=isa.supported_isas())
def build(request):
    """Each instruction set in turn."""
    with use_build(edges._kernels, request.param):
        yield request.param


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("score"))


def structure(seed, degrees, lk):
    """CSR arrays of rows with these numbers of edges, to any keys in any order, some of them twice."""
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    return indptr, np.random.default_rng(seed).integers(0, lk, indptr[-1])


def random_degrees(seed, lq, mean=6):
    """Many rows without an edge, and a few with many."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(lq) < 0.3, 0, rng.geometric(1 / mean, lq))


def edge_tolerance(q, k, v, indices, options):
    """`tolerance`, with the attributes as part of keys and values."""
    attr = options.get("edge_attr")
    if attr is not None:
        k, v = (np.concatenate([x[..., indices, :], np.broadcast_to(attr, (*x.shape[:-2], *attr.shape))], axis=-1).astype(x.dtype) for x in (k, v))
    return tolerance(q, k, v, options)


def assert_edges_agree(q, k, v, indptr, indices, **options):
    """Output, lse and weights agree with the oracle's; returns them."""
    threads = options.pop("threads", None)
    found = edge_attention(q, k, v, indptr, indices, return_lse=True, return_weights=True, threads=threads, **options)
    wide = oracle_dtype(q.dtype)
    expected = reference.edge_attention(q, k, v, indptr, indices, return_lse=True, return_weights=True, precision=wide, **options)
    assert [x.dtype for x in found] == [q.dtype, compute_dtype(q.dtype), q.dtype]
    one = np.ones(1, compute_dtype(q.dtype))
    no_values = {name: x for name, x in options.items() if name != "edge_attr"}
    atol = edge_tolerance(q, k, v, indices, options)
    assert_close(found[0], expected[0], atol)
    assert_close(found[1], expected[1], tolerance(q, wide_keys(k, indices, options), one, no_values | {"dropout": 0.0}) * 2)
    assert_close(found[2], expected[2], tolerance(q, wide_keys(k, indices, options), one, no_values) + epsilon(q.dtype))
    return found


def wide_keys(k, indices, options):
    attr = options.get("edge_attr")
    if attr is None:
        return k
    return np.concatenate([k[..., indices, :], np.broadcast_to(attr, (*k.shape[:-2], *attr.shape))], axis=-1).astype(k.dtype)


# --- structure --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, TILE - 1, TILE, TILE + 1, 3 * TILE + 5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_edges_of_a_row(build, dtype, n):
    q, k, v = make(0, 3, 40, 9, 11, dtype=dtype)
    assert_edges_agree(q, k, v, *structure(n, [n, 0, 2], 40))


@pytest.mark.parametrize(
    "degrees",
    [
        [CHUNK - 1], [CHUNK], [CHUNK + 1], [CHUNK + 4], [CHUNK + 5], [2 * CHUNK + 9], [7 * CHUNK],
        [CHUNK - 7, CHUNK + 1, 3], [5, 3 * CHUNK, 0, 2 * CHUNK, 4], [CHUNK, CHUNK, CHUNK], [CHUNK + 1] * 4, [CHUNK - 2, 2 * CHUNK],
        [0] * 700 + [CHUNK + 3], [*[1] * 409, 2 * CHUNK, 1], [3 * CHUNK + 1, 0, 0, 0],
    ],
)  # fmt: skip
def test_a_row_longer_than_a_chunk_is_cut_and_merged(degrees):
    q, k, v = make(1, len(degrees), 300, 8, 5, hq=2, hk=1)
    assert_edges_agree(q, k, v, *structure(1, degrees, 300))


@pytest.mark.parametrize("dtype", FLOATS)
def test_cut_rows_in_every_build(build, dtype):
    q, k, v = make(2, 9, 200, 7, 10, lead=(2,), hq=4, hk=2, dtype=dtype)
    degrees = [3, 2 * CHUNK, 0, 50, CHUNK + 1, 0, 7, 0, 1]
    bias = np.random.default_rng(0).standard_normal(sum(degrees)).astype(dtype)
    assert_edges_agree(q, k, v, *structure(2, degrees, 200), bias=bias, sinks=np.array([1.0, -INF, 0.0, 9.0]), dropout=0.3, seed=4)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 64, 65, 72, 100, 128, 130])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_width_of_keys_and_values(build, dtype, width):
    shape = structure(3, [6, 0, 1, 13, 270], 50)
    for d, dv in ((width, 4), (5, width), (width, width)):
        assert_edges_agree(*make(3, 5, 50, d, dv, dtype=dtype), *shape)


@pytest.mark.parametrize("lead", [(), (1,), (3, 2), (2, 1, 2), (0,), (2, 0)])
def test_any_number_of_leading_axes(lead):
    q, k, v = make(4, 20, 30, lead=lead, hq=2, hk=2)
    assert_edges_agree(q, k, v, *structure(4, random_degrees(4, 20), 30), dropout=0.2, seed=1)


@pytest.mark.parametrize(("hq", "hk"), [(1, 1), (2, 1), (6, 3), (8, 1), (65, 13)])
def test_grouped_queries_use_the_key_head_of_their_group(build, hq, hk):
    q, k, v = make(5, 20, 30, hq=hq, hk=hk)
    assert_edges_agree(q, k, v, *structure(5, random_degrees(5, 20), 30), scale=np.linspace(-1, 1, hq))


def test_grouped_queries_of_long_rows_are_taken_together():
    q, k, v = make(5, 5, 30, hq=4, hk=2)
    shape = structure(5, [5 * CHUNK, 0, 3, CHUNK, 2], 30)
    out, _, _ = assert_edges_agree(q, k, v, *shape)
    assert same_bits(out, edge_attention(q, np.repeat(k, 2, 0), np.repeat(v, 2, 0), *shape))


def test_two_axes_are_one_head():
    q, k, v = (x[0] for x in make(6, 20, 30, 8, 5))
    shape = structure(6, random_degrees(6, 20), 30)
    out, lse, weights = assert_edges_agree(q, k, v, *shape)
    assert (out.shape, lse.shape, weights.shape) == ((20, 5), (20,), shape[1].shape)
    assert same_bits(out, edge_attention(q[None], k[None], v[None], *shape)[0])


def test_heads_that_lie_side_by_side_in_memory_are_not_copied():
    # (L, H, D), as a projection leaves them: the engine then takes the heads together, and sums in another order
    q, k, v = (x.swapaxes(0, 1).copy().swapaxes(0, 1) for x in make(7, 40, 30, 8, hq=3, hk=3))
    shape = structure(7, [*random_degrees(7, 39), 9 * CHUNK], 30)
    together = assert_edges_agree(q, k, v, *shape)
    apart = edge_attention(*(x.copy() for x in (q, k, v)), *shape, return_lse=True, return_weights=True)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=16 * np.finfo(a.dtype).eps * np.abs(b).max())
    again = edge_attention(q, k, v, *shape, return_lse=True, return_weights=True, threads=2)
    assert all(same_bits(a, b) for a, b in zip(together, again, strict=True))


def test_any_strides():
    rng = np.random.default_rng(8)
    big = rng.standard_normal((3, 2, 41, 40)).astype(np.float32)
    q, k, v = big[0, :, ::-2, :16], big[1, ::-1, 3:30, ::2][..., :16], np.broadcast_to(big[2, :1, :27, 5:12], (2, 27, 7))
    assert_edges_agree(q, k, v, *structure(8, random_degrees(8, 21), 27))


@pytest.mark.parametrize(("lq", "lk"), [(0, 5), (0, 0), (3, 0), (3, 5)])
def test_without_edges_there_is_nothing_but_zeros(lq, lk):
    q, k, v = make(9, lq, lk, 4, 6, hq=2, hk=2)
    out, lse, weights = assert_edges_agree(q, k, v, np.zeros(lq + 1, int), np.zeros(0, int))
    assert not out.any()
    assert np.isneginf(lse).all()
    assert weights.shape == (2, 0)
    lse = edge_attention(q, k, v, np.zeros(lq + 1, int), [], sinks=[1.0, 2.0], return_lse=True)[1]
    assert same_bits(lse, np.broadcast_to(np.array([[1.0], [2.0]], np.float32), (2, lq)).copy())


def test_edges_between_the_same_two_count_separately():
    q, k, v = make(10, 1, 3)
    out = edge_attention(q, k, v, [0, 3], [1, 1, 2])
    bias = np.array([-INF, np.log(2.0), 0.0])
    assert_close(out, ruvattn.attention(q, k, v, bias=bias.astype(np.float32)), tolerance(q, k, v, {}))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64", ">i4"])
def test_indices_of_any_width(dtype):
    q, k, v = make(11, 12, 30)
    indptr, indices = structure(11, random_degrees(11, 12), 30)
    expected = edge_attention(q, k, v, indptr, indices)
    assert same_bits(edge_attention(q, k, v, indptr.astype(dtype), indices.astype(dtype)), expected)
    twice = np.repeat(indices.astype(dtype), 2)[::2]
    assert same_bits(edge_attention(q, k, v, indptr.tolist(), twice), expected)
    assert same_bits(edge_attention(q, k, v, tuple(indptr), indices.tolist()), expected)


# --- options ----------------------------------------------------------------------------------------------------------------------


def _bias(rng, shape, dtype, share_of_inf=0.0):
    bias = rng.standard_normal(shape)
    bias[rng.random(shape) < share_of_inf] = -INF
    return bias.astype(dtype)


# name -> options for a generator, the leading axes, the numbers of heads and edges, and the dtype of the bias
OPTIONS = {
    "nothing": lambda rng, lead, h, e, dtype: {},
    "scale": lambda rng, lead, h, e, dtype: {"scale": 0.3},
    "scale of each head": lambda rng, lead, h, e, dtype: {"scale": rng.uniform(-1, 1, h)},
    "softcap": lambda rng, lead, h, e, dtype: {"softcap": 0.7},
    "bias": lambda rng, lead, h, e, dtype: {"bias": _bias(rng, (*lead, h, e), dtype, 0.2)},
    "bias of edges": lambda rng, lead, h, e, dtype: {"bias": _bias(rng, e, dtype, 0.2)},
    "bias of heads": lambda rng, lead, h, e, dtype: {"bias": _bias(rng, (h, 1), dtype)},
    "bias in odd strides": lambda rng, lead, h, e, dtype: {"bias": _bias(rng, (2 * e, h), dtype, 0.2)[::-2].T},
    "everything masked": lambda rng, lead, h, e, dtype: {"bias": np.full(e, -INF, dtype)},
    "sinks": lambda rng, lead, h, e, dtype: {"sinks": np.where(np.arange(h) % 2, rng.standard_normal(h) * 3, -INF)},
    "dropout": lambda rng, lead, h, e, dtype: {"dropout": 0.3, "seed": 2**64 - 5},
    "attributes": lambda rng, lead, h, e, dtype: {"edge_attr": rng.standard_normal((e, 3)).astype(dtype)},
    "wide attributes": lambda rng, lead, h, e, dtype: {"edge_attr": rng.standard_normal((e, 40)).astype(dtype)[:, ::2]},
    "all of it": lambda rng, lead, h, e, dtype: {
        "scale": 0.4, "softcap": 2.0, "bias": _bias(rng, (h, e), dtype, 0.3), "sinks": rng.standard_normal(h), "dropout": 0.2, "seed": 3,
        "edge_attr": rng.standard_normal((e, 5)).astype(dtype),
    },
}  # fmt: skip


def widened(seed, shape, lk, d, dv, lead, hq, hk, dtype, options):
    """Arrays whose queries have room for the attributes."""
    attr = options.get("edge_attr")
    q, k, v = make(seed, len(shape[0]) - 1, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype)
    if attr is not None:
        more = np.random.default_rng(seed).standard_normal((*q.shape[:-1], attr.shape[1])).astype(dtype)
        q = np.concatenate([q, more], axis=-1)
    return q, k, v


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_option_agrees_with_the_oracle(build, dtype, option):
    shape = structure(12, [*random_degrees(12, 25), 300], 40)
    options = OPTIONS[option](np.random.default_rng(12), (2,), 4, shape[1].size, dtype)
    assert_edges_agree(*widened(12, shape, 40, 13, 19, (2,), 4, 2, np.dtype(dtype), options), *shape, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("option", ["nothing", "all of it"])
def test_the_four_dtypes(dtype, option):
    dtype = DTYPES[dtype]
    shape = structure(13, random_degrees(13, 30), 40)
    for given_as in {dtype, compute_dtype(dtype)}:
        options = OPTIONS[option](np.random.default_rng(13), (), 2, shape[1].size, given_as)
        assert_edges_agree(*widened(13, shape, 40, 12, 8, (), 2, 1, dtype, options), *shape, **options)


def test_dropout_drops_what_attention_drops():
    q, k, v = make(14, 20, 30, lead=(2,), hq=2, hk=2)
    mask = scipy.sparse.random_array((20, 30), density=0.3, rng=np.random.default_rng(14)).tocsr()
    weights = edge_attention(q, k, v, mask.indptr, mask.indices, dropout=0.5, seed=9, return_weights=True)[1]
    dense = ruvattn.attention_weights(q, k, mask=mask, dropout=0.5, seed=9)
    rows = np.repeat(np.arange(20), np.diff(mask.indptr))
    assert_close(weights, dense[..., rows, mask.indices], 1e-5)
    assert 0.3 < (weights == 0).mean() < 0.7


def test_without_a_seed_dropout_is_another_each_time():
    q, k, v = make(15, 20, 30)
    shape = structure(15, [9] * 20, 30)
    assert not same_bits(*(edge_attention(q, k, v, *shape, dropout=0.5) for _ in range(2)))


@st.composite
def calls(draw):
    """A graph with any combination of options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lead = draw(st.sampled_from([(), (1,), (2,), (2, 2)]))
    hk, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lk, d, dv = draw(st.integers(1, 60)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    few = st.one_of(st.just(0), st.integers(1, 40))
    degrees = draw(st.lists(st.one_of(few, few, few, st.integers(200, 300)), min_size=1, max_size=12))
    hq, dtype = hk * group, draw(st.sampled_from(list(FLOATS.values())))
    shape = structure(draw(st.integers(0, 99)), degrees, lk)
    options = {}
    for name in ("scale", "softcap", "bias", "sinks", "dropout", "attributes"):
        if draw(st.booleans()):
            options |= OPTIONS[name](rng, lead, hq, shape[1].size, dtype)
    return widened(draw(st.integers(0, 99)), shape, lk, d, dv, lead, hq, hk, dtype, options), shape, options


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)
@given(call=calls(), name=st.sampled_from(isa.supported_isas()))
def test_any_combination_of_options_agrees_with_the_oracle(call, name):
    arrays, shape, options = call
    with use_build(edges._kernels, name):
        assert_edges_agree(*arrays, *shape, **options)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), density=st.sampled_from([0.01, 0.1, 0.6]), dtype=st.sampled_from(list(DTYPES.values())))
def test_edges_and_a_dense_mask_of_the_same_pairs_agree(seed, density, dtype):
    q, k, v = make(seed, 40, 70, 12, 9, lead=(2,), hq=4, hk=2, dtype=dtype)
    mask = scipy.sparse.random_array((40, 70), density=density, rng=np.random.default_rng(seed)).tocsr()
    options = {"softcap": 5.0, "sinks": np.linspace(-1, 1, 4)}
    out, lse = edge_attention(q, k, v, mask.indptr, mask.indices, return_lse=True, **options)
    dense, dense_lse = ruvattn.attention(q, k, v, mask=mask.toarray() != 0, return_lse=True, **options)
    assert_close(out, dense, 2 * tolerance(q, k, v, options))
    assert_close(lse, dense_lse, 4 * tolerance(q, k, np.ones(1, compute_dtype(dtype)), options))


# --- threads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["nothing", "all of it"])
def test_any_number_of_threads_gives_the_same_bits(option):
    rng = np.random.default_rng(16)
    shape = structure(16, [*random_degrees(16, 3000), 5 * CHUNK + 77, *random_degrees(17, 500), CHUNK + 1], 900)
    options = OPTIONS[option](rng, (), 4, shape[1].size, np.float32)
    arrays = widened(16, shape, 900, 16, 24, (), 4, 2, np.float32, options)
    results = [edge_attention(*arrays, *shape, return_lse=True, return_weights=True, threads=t, **options) for t in (1, 2, 3, 7)]
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_row_gives_the_same_bits_whatever_stands_beside_it():
    q, k, v = make(17, 60, 50, 24, 40)
    indptr, indices = structure(17, [5, 17, 300, *random_degrees(18, 57)], 50)
    out = edge_attention(q, k, v, indptr, indices)
    for row in (0, 1, 2, 40):
        alone = edge_attention(q[:, row : row + 1], k, v, [0, indptr[row + 1] - indptr[row]], indices[indptr[row] : indptr[row + 1]])
        assert same_bits(alone[:, 0], out[:, row])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_can_go_on():
    code = """
        import os, numpy as np, ruvattn
        x = np.random.default_rng(0).standard_normal((4, 3000, 32), dtype=np.float32)
        indptr, indices = np.arange(3001) * 20, np.random.default_rng(1).integers(0, 3000, 60000)
        before = ruvattn.edge_attention(x, x, x, indptr, indices, threads=2)
        pid = os.fork()
        same = ruvattn.edge_attention(x, x, x, indptr, indices, threads=2).tobytes() == before.tobytes()
        if pid == 0:
            os._exit(0 if same else 1)
        assert same and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "work",
    [
        # 4,096 heads over rows of 10,000 edges: far more than is done by then
        "x = np.ones((1, 100, 4), np.float32); q = np.broadcast_to(x, (4096, 100, 4)); rows, degree = 100, 10_000",
        # two rows whose dots overflow, each of which takes seconds in wide arithmetic
        "q = x = np.full((1, 2, 512), 1e30, np.float32); rows, degree = 2, 6_000_000",
    ],
    ids=["many edges", "wide arithmetic"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_call_answers_ctrl_c(work, threads):
    code = f"""
        import os, signal, threading, numpy as np, ruvattn
        signal.signal(signal.SIGINT, signal.default_int_handler)
        {work}
        indices = np.zeros(rows * degree, np.int32)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            ruvattn.edge_attention(q, x, x, np.arange(rows + 1) * degree, indices, threads={threads})
        except KeyboardInterrupt:
            out = ruvattn.edge_attention(q[:1, :2], x, x, [0, 1, 2], [0, 1], threads={threads})
            print("interrupted", np.array_equal(out, x[:, :2]))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "interrupted True\n", done.stderr


def test_ctrl_c_is_answered_whichever_thread_has_the_long_row():
    code = """
        import os, signal, threading, time, numpy as np, ruvattn
        signal.signal(signal.SIGINT, signal.default_int_handler)
        x = np.ones((1, 2, 512), np.float32)
        x[0, 0] = 1e30          # the first row overflows, and takes most of a minute; the second is done at once
        indptr, indices = np.arange(3) * 6_000_000, np.repeat(np.array([0, 1], np.int32), 6_000_000)
        for _ in range(5):      # chance decides who gets it
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            started = time.monotonic()
            try:
                ruvattn.edge_attention(x, x, x, indptr, indices, threads=2)
            except KeyboardInterrupt:
                print("late" if time.monotonic() - started > 10 else "interrupted")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "interrupted\n" * 5, done.stderr


# --- what isn't finite ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["k", "v", "edge_attr"])
@pytest.mark.parametrize("bad", [np.nan, INF, -INF])
def test_what_is_not_finite_touches_only_the_rows_that_gather_it(build, dtype, name, bad):
    indptr, indices = structure(18, [*random_degrees(19, 30), 300, 2 * CHUNK, 3], 50)
    indices[indices == 7] = 8
    indices[indptr[5]] = indices[-1] = 7
    rows = np.unique(np.repeat(np.arange(33), np.diff(indptr))[indices == 7])
    edge_attr = np.random.default_rng(0).standard_normal((indices.size, 2)).astype(dtype)
    q, k, v = make(18, 33, 50, 9, 10, dtype=dtype)
    q = np.concatenate([q, q[..., :2]], axis=-1)
    clean = edge_attention(q, k, v, indptr, indices, edge_attr=edge_attr, return_lse=True, return_weights=True)
    {"k": k[0], "v": v[0], "edge_attr": edge_attr}[name][7 if name != "edge_attr" else indices == 7, 3 if name != "edge_attr" else 1] = bad
    found = edge_attention(q, k, v, indptr, indices, edge_attr=edge_attr, return_lse=True, return_weights=True)
    untouched = np.ones(33, bool)
    untouched[rows] = False
    for a, b in zip(clean[:2], found[:2], strict=True):
        assert same_bits(a[:, untouched], b[:, untouched])
    of_edges = np.repeat(untouched, np.diff(indptr))
    assert same_bits(clean[2][:, of_edges], found[2][:, of_edges])
    if name == "v":
        assert not np.isfinite(found[0][0, rows, 3]).any()
        assert np.isfinite(np.delete(found[0][0, rows], 3, axis=-1)).all()
    elif np.isnan(bad):
        assert np.isnan(found[0][0, rows]).all()
        assert np.isnan(found[1][0, rows]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, INF, -INF])
def test_what_is_masked_has_no_influence(build, dtype, bad):
    indptr, indices = structure(20, [*random_degrees(20, 30), 400, 2 * CHUNK, 5], 50)
    bias = np.where(indices % 5 == 0, -INF, 0.5).astype(dtype)
    bias[indptr[-2] :] = -INF  # the last row sees nothing
    attr = np.random.default_rng(0).standard_normal((indices.size, 3)).astype(dtype)
    q, k, v = make(20, 33, 50, 9, 10, hq=2, hk=1, dtype=dtype)
    q = np.concatenate([q, q[..., :3]], axis=-1)
    for options in ({}, {"dropout": 0.3, "seed": 1, "sinks": np.zeros(2)}):
        expected = edge_attention(q, k, v, indptr, indices, bias=bias, edge_attr=attr, return_lse=True, return_weights=True, **options)
        spoilt = [x.copy() for x in (k, v, attr)]
        spoilt[0][:, ::5], spoilt[1][:, ::5], spoilt[2][np.isneginf(bias)] = bad, bad, bad
        q_, (k_, v_, attr_) = q, spoilt
        found = edge_attention(q_, k_, v_, indptr, indices, bias=bias, edge_attr=attr_, return_lse=True, return_weights=True, **options)
        for a, b in zip(expected, found, strict=True):
            assert_close(b, a, 32 * epsilon(dtype) * 10)
        assert not found[2][:, np.isneginf(bias)].any()
        assert not found[0][:, -1].any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("degrees", [[3, 0, 9, 300], [2 * CHUNK, 4]])
def test_dots_of_finite_numbers_that_overflow(build, dtype, degrees):
    indptr, indices = structure(21, degrees, 20)
    q, k, v = make(21, len(degrees), 20, 6, 70, dtype=dtype)
    huge = float(np.finfo(dtype).max) ** 0.6
    q, k = (q * huge).astype(dtype), (k * huge).astype(dtype)
    for options in ({}, {"softcap": 3.0}, {"sinks": np.zeros(1), "dropout": 0.5, "seed": 2}, {"edge_attr": np.ones((indices.size, 2), dtype)}):
        wide_q = np.concatenate([q, q[..., :2]], axis=-1) if "edge_attr" in options else q
        with np.errstate(all="ignore"):
            expected = reference.edge_attention(
                wide_q, k, v, indptr, indices, precision=oracle_dtype(dtype), return_lse=True, return_weights=True, **options
            )
        found = edge_attention(wide_q, k, v, indptr, indices, return_lse=True, return_weights=True, **options)
        assert_close(found[0], expected[0], 1e-5)
        assert_close(found[2], expected[2], 1e-5)
        assert np.isfinite(found[1][:, np.diff(indptr) > 0]).all()
        assert (found[1][:, np.diff(indptr) > 0] > 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_finite_values_that_overflow(build, dtype):
    q, k, _ = make(22, 4, 20, 6, dtype=dtype)
    indptr, indices = structure(22, [2, 0, 9, 300], 20)
    largest = np.finfo(dtype).max
    v = np.full((1, 20, 3), largest, dtype)
    out = edge_attention(q, k, v, indptr, indices)
    assert_close(out[:, [0, 2, 3]] / largest, np.ones((1, 3, 3)), 1e-5)


def test_rows_of_the_lowest_bias_attend_to_all_keys_alike():
    q, k, v = make(23, 1, 4)
    bias = np.full(4, np.finfo(np.float32).min)
    assert_close(edge_attention(q, k, v, [0, 4], [0, 1, 2, 3], bias=bias)[0, 0], v[0].mean(0), 1e-5)


# --- scores -----------------------------------------------------------------------------------------------------------------------


class GatLike(ruvattn.Score):
    """LeakyReLU of a term of the row, one of the key and one of the edge (Veličković et al., 2018)."""

    splits = ()

    def row_terms(self, q, pos):
        return (q.sum(-1) / 3,)

    def col_terms(self, k, pos):
        return (k.sum(-1) / 3,)

    def logits(self, t):
        x = t.rows[0] + t.cols[0] + t.cols[1]
        return np.where(x > 0, x, 0.2 * x)


class TwoTermsOfItsOwn(FourTerms):
    """Two column terms from the keys; the third and fourth have to come with the edges."""

    def col_terms(self, k, pos):
        return k[..., 0], k[..., 1]


def check_score(q, k, v, shape, score, oracle, **options):
    """Output, lse and weights agree with the oracle's."""
    wide = oracle_dtype(q.dtype)
    expected = reference.edge_attention(q, k, v, *shape, score=oracle, precision=wide, return_lse=True, return_weights=True, **options)
    found = edge_attention(q, k, v, *shape, score=score, return_lse=True, return_weights=True, **options)
    # Terms and planes may cancel, so that a logit is known less well than its size says: a distance, to the norms it is made of.
    reach = 50 + float(np.abs(expected[1][np.isfinite(expected[1])]).max(initial=0))
    atol = 16 * epsilon(compute_dtype(q.dtype)) * reach + (2.0**-7 if q.dtype.itemsize == 2 else 0)
    largest = float(np.abs(v.astype(float)).max()) / (1 - options.get("dropout", 0))
    if "edge_attr" in options:
        largest = max(largest, float(np.abs(options["edge_attr"]).max()) / (1 - options.get("dropout", 0)))
    assert_close(found[0], expected[0], atol * largest)
    assert_close(found[1], expected[1], 16 * epsilon(compute_dtype(q.dtype)) * reach)
    assert_close(found[2], expected[2], 2 * atol)


SHAPE = structure(24, [*random_degrees(24, 30), 0, 290, 1], 45)


def _score_options(name):
    rng = np.random.default_rng(25)
    return {
        "nothing": {},
        "everything": {"bias": _bias(rng, (HEADS, SHAPE[1].size), np.float32, 0.2), "softcap": 4.0, "sinks": rng.standard_normal(HEADS),
                       "dropout": 0.2, "seed": 1},
    }[name]  # fmt: skip


@pytest.mark.parametrize("option", ["nothing", "everything"])
@pytest.mark.parametrize("name", SCORES)
def test_a_numpy_score_agrees_with_the_oracle(name, option):
    q, k, v = make(26, 33, 45, 9, 6, lead=(2,), hq=HEADS, hk=2)
    check_score(q, k, v, SHAPE, SCORES[name](), SCORES[name](), **_score_options(option))


@needs_compiler
@pytest.mark.parametrize("option", ["nothing", "everything"])
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_score_agrees_with_the_oracle(library, name, option):
    q, k, v = make(27, 33, 45, 9, 6, lead=(2,), hq=HEADS, hk=2)
    check_score(q, k, v, SHAPE, compiled(library, name), SCORES[name](), **_score_options(option))


@needs_compiler
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_score_in_every_build(build, library, name, dtype):
    q, k, v = make(28, 33, 45, 9, 6, hq=HEADS, hk=HEADS, dtype=dtype)
    check_score(q, k, v, SHAPE, compiled(library, name), SCORES[name]())


@pytest.mark.parametrize("form", ["numpy", pytest.param("compiled", marks=needs_compiler)])
@pytest.mark.parametrize("name", COMPILED)
def test_attributes_are_part_of_the_keys_that_a_score_sees(request, name, form):
    # norms, planes, vectors and terms are those of key and attributes together
    edge_attr = np.random.default_rng(29).standard_normal((SHAPE[1].size, 4)).astype(np.float32)
    q, k, v = make(29, 33, 45, 5, 6, lead=(2,), hq=HEADS, hk=2)
    q = np.concatenate([q, make(30, 33, 1, 4, lead=(2,), hq=HEADS)[0]], axis=-1)
    score = SCORES[name]() if form == "numpy" else compiled(request.getfixturevalue("library"), name)
    check_score(q, k, v, SHAPE, score, SCORES[name](), edge_attr=edge_attr)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_uses_the_float_form(library, dtype):
    q, k, v = make(31, 33, 45, 9, 6, hq=HEADS, hk=2, dtype=DTYPES[dtype])
    check_score(q, k, v, SHAPE, compiled(library, "rbf", ["float32"]), SCORES["rbf"]())


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("form", ["numpy", pytest.param("compiled", marks=needs_compiler)])
def test_edge_terms_follow_the_terms_of_the_score(request, form, by_head):
    terms = np.random.default_rng(32).standard_normal((HEADS, SHAPE[1].size, 2) if by_head else (SHAPE[1].size, 2)).astype(np.float32)
    q, k, v = make(32, 33, 45, 9, 6, lead=(2,), hq=HEADS, hk=2)
    score = TwoTermsOfItsOwn()
    if form == "compiled":
        score.kernels = compiled(request.getfixturevalue("library"), "four terms").kernels
        score.logits = None  # not called
    check_score(q, k, v, SHAPE, score, TwoTermsOfItsOwn(), edge_terms=terms)


def test_edge_terms_and_attributes_together():
    rng = np.random.default_rng(33)
    terms, attr = rng.standard_normal((SHAPE[1].size, 1)).astype(np.float32), rng.standard_normal((SHAPE[1].size, 2)).astype(np.float32)
    q, k, v = make(33, 33, 45, 6, 6, hq=2, hk=2)
    q = np.concatenate([q, q[..., :2]], axis=-1)
    check_score(q, k, v, SHAPE, GatLike(), GatLike(), edge_terms=terms, edge_attr=attr, dropout=0.1, seed=0)


def test_positions_are_the_indices_of_rows_and_keys():
    class Distance(ruvattn.Score):
        splits = ()

        def row_terms(self, q, pos):
            return (np.broadcast_to(np.asarray(pos, q.dtype), q.shape[:-1]),)

        def col_terms(self, k, pos):
            return (np.broadcast_to(np.asarray(pos, k.dtype), k.shape[:-1]),)

        def logits(self, t):
            return -np.abs(t.rows[0] - t.cols[0])

    q, k, v = make(34, 4, 9)
    weights = edge_attention(q, k, v, [0, 0, 2, 2, 5], [8, 2, 0, 3, 5], score=Distance(), return_weights=True)[1][0]
    assert_close(weights[:2], np.exp([-7.0, -1.0]) / np.exp([-7.0, -1.0]).sum(), 1e-6)
    assert_close(weights[2:], np.exp([-3.0, 0.0, -2.0]) / np.exp([-3.0, 0.0, -2.0]).sum(), 1e-6)
    # the same with attributes, where the terms are made of gathered keys
    again = edge_attention(np.concatenate([q, q[..., :1]], -1), k, v, [0, 0, 2, 2, 5], [8, 2, 0, 3, 5], score=Distance(),
                           edge_attr=np.ones((5, 1), np.float32), return_weights=True)[1][0]  # fmt: skip
    assert_close(again, weights, 1e-6)


@pytest.mark.parametrize("degrees", [[1] * 3000, [0] * 2000 + [3], [40_000, 2], [*[0, 7] * 400, 20_000]])
def test_a_numpy_score_sees_tiles_of_bounded_size(degrees):
    sizes = []

    class Counting(ruvattn.Score):
        def logits(self, t):
            sizes.append(t.dots[0].size)
            return t.dots[0] * 0.3

    q, k, v = make(35, len(degrees), 60)
    shape = structure(35, degrees, 60)
    out = edge_attention(q, k, v, *shape, score=Counting())
    assert_close(out, edge_attention(q, k, v, *shape, scale=0.3), tolerance(q, k, v, {"scale": 0.3}))
    assert max(sizes) <= 16384
    assert len(sizes) <= 2 + sum(degrees) // 60


def test_a_score_may_mask_by_minus_infinity():
    class OnlyNear(ruvattn.Score):
        def logits(self, t):
            return np.where(t.dots[0] > 0, t.dots[0], -np.inf)

    q, k, v = make(36, 33, 45, 4)
    v[0, 13] = np.nan
    q[..., 0], k[..., 0] = 1, 0
    q[..., 1:], k[..., 1:] = 0, 1
    k[0, ::2, 0] = 1
    out, lse, weights = edge_attention(q, k, v, *SHAPE, score=OnlyNear(), return_lse=True, return_weights=True)
    kept = SHAPE[1] % 2 == 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[SHAPE[0]]
    expected = edge_attention(q, k, v, indptr, SHAPE[1][kept], scale=1.0, return_lse=True, return_weights=True)
    assert_close(out, expected[0], 1e-5)
    assert_close(lse, expected[1], 1e-5)
    assert_close(weights[:, kept], expected[2], 1e-5)
    assert not weights[:, ~kept].any()


def test_what_a_score_raises_comes_out_as_it_is():
    class Boom(Exception):
        pass

    class Raises(ruvattn.Score):
        def logits(self, t):
            raise Boom

    with pytest.raises(Boom):
        edge_attention(*make(37, 33, 45), *SHAPE, score=Raises())


def test_a_numpy_score_cannot_write_to_the_callers_arrays():
    class Writes(ruvattn.Score):
        vectors = True

        def logits(self, t):
            t.q[...] = 0
            return t.dots[0]

    with pytest.raises(ValueError, match="read-only"):
        edge_attention(*make(38, 33, 45), *SHAPE, score=Writes())


@pytest.mark.parametrize(
    ("logits", "error"),
    [(lambda t: t.dots, DimensionMismatchError), (lambda t: None, DimensionMismatchError), (lambda t: t.dots[0] > 0, InvalidInputError)],
)
def test_a_score_that_breaks_the_contract_is_told_so(logits, error):
    score = ruvattn.Score()
    score.logits = logits
    with pytest.raises(error, match="logits must return"):
        edge_attention(*make(39, 33, 45), *SHAPE, score=score)


@needs_compiler
def test_a_compiled_score_gives_the_same_bits_for_any_number_of_threads(library):
    shape = structure(40, [*random_degrees(40, 2000), 3 * CHUNK], 300)
    q, k, v = make(40, 2001, 300, 9, 6, hq=HEADS, hk=2)
    results = [edge_attention(q, k, v, *shape, score=compiled(library, "vectors and planes"), threads=t) for t in (1, 2, 3)]
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_a_compiled_score_of_a_plugin():
    rbf = pytest.importorskip("ruvattn_example")
    q, k, v = make(41, 33, 45, 9, 6, hq=HEADS, hk=2)
    check_score(q, k, v, SHAPE, rbf.CompiledRbf(2.0), rbf.Rbf(2.0))


# --- aggregates -------------------------------------------------------------------------------------------------------------------


class Midpoint(ruvattn.Aggregate):
    """The Einstein midpoint Σ pγv / Σ pγ: one more column before the sum, one less after."""

    def values(self, v):
        gamma = 1 / np.sqrt(1 - np.clip((v**2).sum(-1, keepdims=True), 0, 0.9))
        return np.concatenate([gamma * v, gamma], -1)

    def finish(self, acc):
        return acc[..., :-1] / acc[..., -1:]


class Median(ruvattn.Aggregate):
    """The weighted median of each column: not linear."""

    linear = False

    def reduce(self, weights, v):
        out = np.empty((len(weights), v.shape[-1]), v.dtype)
        for i, w in enumerate(weights):
            order = np.argsort(v, axis=0)
            total = np.cumsum(w[order], axis=0)
            at = (total < total[-1] / 2).sum(0)
            out[i] = np.take_along_axis(v, np.take_along_axis(order, at[None], 0), 0)[0]
        return out


@pytest.mark.parametrize("kind", [Midpoint, Median])
@pytest.mark.parametrize("option", ["nothing", "sinks", "bias", "dropout", "attributes", "all of it"])
def test_aggregates_agree_with_the_oracle(kind, option):
    options = OPTIONS[option](np.random.default_rng(42), (2,), 4, SHAPE[1].size, np.float32)
    if "dropout" in options and kind is Midpoint:
        options["dropout"] = 0.001  # so that no row loses all its weights, whose midpoint is 0/0
    q, k, v = widened(42, SHAPE, 45, 8, 6, (2,), 4, 2, np.float32, options)
    expected = reference.edge_attention(q, k, v, *SHAPE, aggregate=kind(), return_lse=True, return_weights=True, **options)
    found = edge_attention(q, k, v, *SHAPE, aggregate=kind(), return_lse=True, return_weights=True, **options)
    for a, b, atol in zip(found, expected, (5e-5, 1e-5, 1e-5), strict=True):
        assert_close(a, b, atol)


def test_rows_without_edges_skip_finish():
    class Offset(ruvattn.Aggregate):
        def finish(self, acc):
            return acc + 1

    q, k, v = make(43, 3, 4)
    out = edge_attention(q, k, v, [0, 1, 1, 2], [0, 1], aggregate=Offset(), sinks=[0.0])
    assert not out[:, 1].any()
    assert out[:, [0, 2]].any(-1).all()


def test_a_nonlinear_aggregate_does_not_see_what_is_masked():
    q, k, v = make(44, 1, 4)
    v[0, 2] = np.nan
    bias = np.array([0, 0, -INF, 0], np.float32)
    out = edge_attention(q, k, v, [0, 4], [0, 1, 2, 3], aggregate=Median(), bias=bias)
    assert same_bits(out, edge_attention(q, k, v, [0, 3], [0, 1, 3], aggregate=Median()))


@pytest.mark.parametrize(
    ("reduce", "error"),
    [
        (lambda w, v: v, DimensionMismatchError), (lambda w, v: [["a"]], InvalidInputError),
        (lambda w, v: np.ones((1, v.shape[0])), DimensionMismatchError),
    ],
)  # fmt: skip
def test_an_aggregate_that_breaks_the_contract_is_told_so(reduce, error):
    how = ruvattn.Aggregate()
    how.linear, how.reduce = False, reduce
    with pytest.raises(error, match="reduce must return"):
        edge_attention(*make(45, 33, 45), *SHAPE, aggregate=how)


# --- results ----------------------------------------------------------------------------------------------------------------------


def test_what_is_returned_is_what_was_asked_for():
    arguments = (*make(46, 33, 45), *SHAPE)
    out, lse, weights = edge_attention(*arguments, return_lse=True, return_weights=True)
    assert same_bits(edge_attention(*arguments), out)
    assert all(same_bits(a, b) for a, b in zip(edge_attention(*arguments, return_lse=True), (out, lse), strict=True))
    assert all(same_bits(a, b) for a, b in zip(edge_attention(*arguments, return_weights=True), (out, weights), strict=True))


def test_weights_of_a_row_sum_to_one():
    weights = edge_attention(*make(47, 33, 45), *SHAPE, return_weights=True)[1][0]
    sums = np.array([weights[a:b].sum() for a, b in zip(SHAPE[0][:-1], SHAPE[0][1:], strict=True) if a < b])
    assert_close(sums, np.ones_like(sums), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aggregate", [None, Midpoint(), Median()])
@pytest.mark.parametrize("single", [False, True])
def test_out_is_written_and_returned(dtype, aggregate, single):
    q, k, v = make(48, 33, 45, 8, 6, dtype=DTYPES[dtype])
    if single:
        q, k, v = q[0], k[0], v[0]
    expected = edge_attention(q, k, v, *SHAPE, aggregate=aggregate)
    out = np.empty((*expected.shape[:-1], 9), expected.dtype)[..., 1:7]
    assert edge_attention(q, k, v, *SHAPE, aggregate=aggregate, out=out) is out
    assert same_bits(out.copy(), expected)


@pytest.mark.parametrize("name", ["q", "k", "v", "edge_attr", "bias", "indices"])
def test_out_may_overlap_no_input(name):
    q, k, v = make(49, 45, 45, 8)
    indptr, indices = np.arange(46) * 6, np.zeros(270, np.int32)
    given = {"q": np.concatenate([q, q], -1), "k": k, "v": v, "indices": indices, "edge_attr": np.zeros((270, 8), np.float32),
             "bias": np.zeros(270, np.float32)}  # fmt: skip
    memory = np.zeros(270 * 40, np.float32)
    out = memory[: 45 * 16].reshape(1, 45, 16)
    of = given[name]
    given[name] = memory[: of.size].view(of.dtype).reshape(of.shape)
    with pytest.raises(InvalidInputError, match=f"out shares memory with {name}"):
        edge_attention(given.pop("q"), given.pop("k"), given.pop("v"), indptr, given.pop("indices"), out=out, **given)


def test_inputs_are_not_written():
    q, k, v = make(50, 33, 45, 6, hq=2, hk=1)
    q = np.concatenate([q, q[..., :2]], -1)
    rng = np.random.default_rng(0)
    arrays = [q, k, v, SHAPE[0].copy(), SHAPE[1].copy(), rng.standard_normal((SHAPE[1].size, 2)).astype(np.float32),
              rng.standard_normal(SHAPE[1].size).astype(np.float32)]  # fmt: skip
    before = [x.copy() for x in arrays]
    for array in arrays:
        array.flags.writeable = False
    edge_attention(*arrays[:5], edge_attr=arrays[5], bias=arrays[6])
    assert all(same_bits(a, b) for a, b in zip(arrays, before, strict=True))


def test_memory_follows_the_edges_not_the_pairs():
    import tracemalloc

    q, k, v = make(51, 20_000, 20_000, 4)
    indptr, indices = np.arange(20_001) * 2, np.arange(40_000) % 20_000
    tracemalloc.start()
    edge_attention(q, k, v, indptr, indices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_edge_attention_is_loaded_when_first_used():
    code = "import sys, ruvattn; assert 'ruvattn.edges' not in sys.modules; ruvattn.edge_attention; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


# --- sets of rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("with_logits", [False, True])
def test_each_batch_entry_and_head_may_have_rows_of_its_own(by_batch, by_head, with_logits):
    batch, heads, lq, lk = 2, 4, 21, 30
    q, k, v = make(52, lq, lk, 8, 5, lead=(batch,), hq=heads, hk=2)
    sets = (batch if by_batch else 1) * (heads if by_head else 1)
    degrees = [random_degrees(53 + s, lq) for s in range(sets)]
    degrees[-1][3] = 2 * CHUNK
    flat, indices = structure(52, np.concatenate(degrees), lk)
    indptr = np.stack([flat[s * lq : (s + 1) * lq + 1] for s in range(sets)])
    indices = indices.astype(np.int32)
    full = (batch, heads, indices.size)
    logits = np.random.default_rng(54).standard_normal(full).astype(np.float32) if with_logits else None
    out, lse = np.empty((batch, heads, lq, 5), np.float32), np.empty((batch, heads, lq), np.float32)
    weights = np.full(full, 7, np.float32)
    edges.attend_sets(
        q, k, v, indptr, indices, out=out, lse=lse, scale=np.full(heads, 0.5, np.float32), by_batch=by_batch, by_head=by_head, logits=logits,
        weights=weights, threads=2,
    )  # fmt: skip
    for b in range(batch):
        for h in range(heads):
            own = indptr[(b * heads + h if by_head else b) if by_batch else (h if by_head else 0)]
            part = slice(own[0], own[-1])
            scaled = {"scale": 0.0, "bias": logits[b, h, part]} if with_logits else {"scale": 0.5}
            expected = reference.edge_attention(
                q[b, h], k[b, h // 2], v[b, h // 2], own - own[0], indices[part], return_lse=True, return_weights=True, **scaled
            )
            for found, wanted in zip((out[b, h], lse[b, h], weights[b, h, part]), expected, strict=True):
                assert_close(found, wanted, 1e-5)
            assert (np.delete(weights[b, h], np.arange(own[0], own[-1])) == 7).all()


def test_one_array_of_logits_serves_sets_that_have_edges_of_their_own():
    q, k, v = make(55, 5, 30, lead=(2,), hq=2, hk=2)
    indices = np.random.default_rng(55).integers(0, 30, 2 * 2 * 5 * 8).astype(np.int32)
    indptr = (np.arange(4)[:, None] * 5 + np.arange(6)) * 8
    logits = np.random.default_rng(56).standard_normal(indices.size).astype(np.float32)
    out, lse, weights = np.empty_like(q), np.empty(q.shape[:-1], np.float32), np.empty(indices.size, np.float32)
    edges.attend_sets(
        q, k, v, indptr, indices, out=out, lse=lse, scale=np.ones(2, np.float32), by_batch=True, by_head=True, logits=logits, weights=weights
    )
    of_rows = logits.reshape(2, 2, 5, 8)
    expected = np.exp(of_rows) / np.exp(of_rows).sum(-1, keepdims=True)
    assert_close(weights.reshape(2, 2, 5, 8), expected, 1e-6)
    picked = np.take_along_axis(v, indices.reshape(2, 2, 40, 1), -2).reshape(2, 2, 5, 8, -1)
    assert_close(out, (expected[..., None] * picked).sum(-2), 1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------------------

Q, K, V = make(57, 3, 4, 5, hq=2, hk=2)
PTR, IND = [0, 2, 2, 5], [0, 1, 3, 2, 0]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"indptr": [0, 2, 5]}, DimensionMismatchError, "indptr must have an entry for each of the 3 rows and one more"),
        ({"indptr": [[0, 2, 2, 5]]}, DimensionMismatchError, "indptr"),
        ({"indptr": [1, 2, 2, 5]}, InvalidInputError, "indptr must begin with 0, got 1"),
        ({"indptr": [0, 2, 2, 4]}, InvalidInputError, "indptr must end with the number of indices, 5, got 4"),
        ({"indptr": [0, 2, 2, 6]}, InvalidInputError, "indptr must end with the number of indices, 5, got 6"),
        ({"indptr": [0, 3, 2, 5]}, InvalidInputError, "row 1 would begin at 3 and end at 2"),
        ({"indptr": [0.0, 2.0, 2.0, 5.0]}, InvalidInputError, "indptr must be ints, got dtype float64"),
        ({"indptr": None}, InvalidInputError, "indptr must be ints"),
        ({"indptr": "abc"}, InvalidInputError, "indptr must be ints"),
        ({"indices": [0, 1, 4, 2, 0]}, InvalidInputError, "indices must be keys from 0 to 3, got 4 at edge 2"),
        ({"indices": [0, 1, 3, -1, 0]}, InvalidInputError, "indices must be keys from 0 to 3, got -1 at edge 3"),
        ({"indices": np.array([0, 1, 3, 2**63, 0], np.uint64)}, InvalidInputError, "got 9223372036854775808 at edge 3"),
        ({"indices": [0.0, 1.0, 3.0, 2.0, 0.0]}, InvalidInputError, "indices must be ints, got dtype float64"),
        ({"indices": [True, False, True, True, False]}, InvalidInputError, "indices must be ints, got dtype bool"),
        ({"indices": np.zeros(0), "indptr": [0, 0, 0, 0]}, InvalidInputError, "indices must be ints, got dtype float64"),
        ({"indices": [[0, 1, 3, 2, 0]]}, DimensionMismatchError, r"indices must have shape \(E,\)"),
        ({"indices": [[0], [1, 2]]}, InvalidInputError, "indices is no array"),
        ({"indices": np.ma.masked_array(IND)}, InvalidInputError, "indices must be a dense array without a mask"),
        ({"indices": scipy.sparse.csr_array((3, 4))}, InvalidInputError, r"\.indptr and \.indices"),
        ({"bias": np.zeros(4, np.float32)}, DimensionMismatchError, "bias must broadcast to"),
        ({"bias": np.zeros((3, 5), np.float32)}, DimensionMismatchError, "bias must broadcast to"),
        ({"bias": np.zeros(5)}, UnsupportedError, "bias must have the dtype of q"),
        ({"bias": np.zeros(5, bool)}, InvalidInputError, "bias must be numbers"),
        ({"bias": np.ma.masked_array(np.zeros(5, np.float32))}, InvalidInputError, "bias must be a dense array without a mask"),
        ({"bias": scipy.sparse.csr_array((2, 5))}, InvalidInputError, "bias must be a dense array"),
        ({"edge_attr": np.zeros((4, 2), np.float32)}, DimensionMismatchError, "q must have the width of k and edge_attr together, 5 \\+ 2, got 5"),
        ({"edge_attr": np.zeros(5, np.float32)}, DimensionMismatchError, r"edge_attr\[:, None\]"),
        ({"edge_attr": np.zeros((5, 0), np.float32)}, DimensionMismatchError, "edge_attr must have shape"),
        ({"edge_attr": np.zeros((4, 2), np.float32), "q": np.zeros((2, 3, 7), np.float32)}, DimensionMismatchError, "a row for each of the 5 edges"),
        ({"edge_attr": np.zeros((5, 2)), "q": np.zeros((2, 3, 7), np.float32)}, UnsupportedError, "edge_attr must have the dtype of q"),
        ({"edge_terms": np.zeros(5, np.float32), "score": Additive()}, DimensionMismatchError, r"edge_terms\[:, None\]"),
        ({"edge_terms": np.zeros((4, 1), np.float32)}, DimensionMismatchError, "edge_terms must have shape"),
        ({"edge_terms": np.zeros((3, 5, 1), np.float32)}, DimensionMismatchError, "edge_terms must have shape"),
        ({"edge_terms": np.zeros((5, 1))}, UnsupportedError, "edge_terms must have the dtype of q"),
        ({"edge_terms": np.zeros((5, 1), np.float32)}, InvalidInputError, "edge_terms are for a score that looks at its column terms"),
        ({"edge_terms": np.zeros((5, 29), np.float32), "score": FourTerms()}, InvalidInputError, "edge_terms may add 28 column terms to those of"),
        ({"edge_terms": np.zeros((5, 32), np.float32), "score": GatLike()}, InvalidInputError, "edge_terms may add 31 column terms"),
        ({"score": "nothing like it"}, UnknownVariantError, "nothing like it"),
        ({"score": 3}, InvalidInputError, "score must be"),
        ({"aggregate": 3}, InvalidInputError, "aggregate must be"),
        ({"scale": [1.0]}, DimensionMismatchError, "scale"),
        ({"scale": np.nan}, InvalidInputError, "scale"),
        ({"softcap": 0.0}, InvalidInputError, "softcap"),
        ({"sinks": [1.0]}, DimensionMismatchError, "sinks"),
        ({"dropout": 1.0}, InvalidInputError, "dropout"),
        ({"seed": -1}, InvalidInputError, "seed"),
        ({"return_lse": 1}, InvalidInputError, "return_lse must be True or False"),
        ({"return_weights": "yes"}, InvalidInputError, "return_weights must be True or False"),
        ({"threads": 0}, InvalidInputError, "threads"),
        ({"out": np.zeros((2, 3, 4), np.float32)}, DimensionMismatchError, r"out must have shape \(2, 3, 5\)"),
        ({"out": np.zeros((2, 3, 5))}, InvalidInputError, "out must have the dtype"),
        ({"q": None}, InvalidInputError, "q must be an array"),
        ({"v": None}, InvalidInputError, "v must be an array"),
        ({"v": np.zeros((2, 3, 5), np.float32)}, DimensionMismatchError, "v must have a row for each key"),
        ({"q": Q.astype(int)}, UnsupportedError, "q has dtype int64"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(changes, error, words):
    arguments = {"q": Q, "k": K, "v": V, "indptr": PTR, "indices": IND} | changes
    with pytest.raises(error, match=words):
        edge_attention(**arguments)


def test_the_first_and_the_last_key_are_in_range():
    assert_edges_agree(Q, K, V, np.array(PTR), np.array(IND))


def test_a_score_in_python_cannot_write_to_the_terms_of_the_caller():
    class Writes(ruvattn.Score):
        def logits(self, t):
            t.cols[0][...] += 1
            return t.dots[0] + t.cols[0]

    q, k, v = make(36, 4, 9, hq=2)
    terms = np.zeros((8, 1), q.dtype)
    with pytest.raises(ValueError, match="read-only"):
        edge_attention(q, k, v, *structure(36, [2, 2, 2, 2], 9), score=Writes(), edge_terms=terms)
    assert not terms.any()
