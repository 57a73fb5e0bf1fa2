"""Gradients of attention over edges: against the oracle for every option and score, in every build, and the oracle against differences."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
from importlib import import_module

import numpy as np
import pytest
from agreement import DTYPES, FLOATS, assert_close, compute_dtype, epsilon, make, oracle_dtype, same_bits
from edge_gradients import (
    INF,
    OPTIONS,
    QKV,
    SMALL,
    assert_gradients_agree,
    assert_matches_differences,
    beside,
    bias_of,
    names_of,
    random_degrees,
    structure,
    upstream,
    use,
    widened,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scored import Margin

import ruvattn
from ruvattn import edge_attention, edge_attention_backward, isa, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

CHUNK = import_module("ruvattn.kernels.edge_backward_scalar_float32").CHUNK_EDGES  # a row or key with more edges is cut into pieces


@pytest.fixture(params=isa.supported_isas())
def build(request):
    """Each instruction set in turn."""
    with use(request.param):
        yield request.param


# --- the oracle ---------------------------------------------------------------------------------------------------------------------





@pytest.mark.parametrize("option", OPTIONS)
def test_the_oracle_and_the_engine_match_differences(option):
    options = OPTIONS[option](np.random.default_rng(2), (2,), 4, SMALL[1].size, np.float64)
    params = None if "scale" not in options else {"score": (ruvattn.Dot, {"scale": options["scale"]})}
    arrays = widened(3, 5, 6, 4, 3, (2,), 4, 2, np.float64, options)
    if params:
        options["score"] = ruvattn.Dot(options.pop("scale"))
    assert_matches_differences(*arrays, SMALL, params, **options)


# --- structure ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 31, 33, 255, 256, 257, 773])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_edges_of_a_row_or_key(build, dtype, n):
    q, k, v = make(0, 3, 40, 9, 11, dtype=dtype)
    indptr, indices = structure(n, [n, 0, 2], 40)
    assert_gradients_agree(q, k, v, indptr, indices)
    assert_gradients_agree(q, k, v, indptr, np.zeros_like(indices))


@pytest.mark.parametrize(
    "degrees",
    [[CHUNK], [CHUNK + 1], [2 * CHUNK + 9, 3], [5, 3 * CHUNK, 0, CHUNK, 4], [CHUNK + 1] * 3, [0] * 700 + [CHUNK + 3], [*[1] * 409, 2 * CHUNK]],
)
def test_a_row_longer_than_a_chunk_is_cut_and_merged(degrees):
    q, k, v = make(1, len(degrees), 300, 8, 5, hq=2, hk=1, dtype=np.float64)
    assert_gradients_agree(q, k, v, *structure(1, degrees, 300))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_key_of_more_edges_than_a_chunk_is_cut_and_merged(build, dtype):
    q, k, v = make(2, 250, 3, 6, 5, hq=2, hk=2, dtype=dtype)
    indptr, indices = structure(2, [18] * 250, 3)
    indices[indices == 1] = 0
    sinks = np.array([0.5, -INF])
    assert_gradients_agree(q, k, v, indptr, indices, sinks=sinks, dropout=0.3, seed=4)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 64, 72])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_width_of_keys_and_values(build, dtype, width):
    shape = structure(3, [6, 0, 1, 13, 40], 50)
    for d, dv in ((width, 4), (5, width), (width, width)):
        assert_gradients_agree(*make(3, 5, 50, d, dv, dtype=dtype), *shape)


@pytest.mark.parametrize("lead", [(), (1,), (3, 2), (0,), (2, 0)])
def test_any_number_of_leading_axes(lead):
    q, k, v = make(4, 20, 30, lead=lead, hq=2, hk=2)
    assert_gradients_agree(q, k, v, *structure(4, random_degrees(4, 20), 30), dropout=0.2, seed=1)


@pytest.mark.parametrize(("hq", "hk"), [(2, 1), (6, 3), (66, 33)])
def test_heads_of_a_group_add_to_one_key(build, hq, hk):
    q, k, v = make(5, 8, 30, hq=hq, hk=hk)
    assert_gradients_agree(q, k, v, *structure(5, random_degrees(5, 8), 30), scale=np.linspace(-1, 1, hq))


def test_two_axes_are_one_head():
    q, k, v = (x[0] for x in make(6, 20, 30, 8, 5))
    assert_gradients_agree(q, k, v, *structure(6, random_degrees(6, 20), 30), sinks=np.zeros(1))


@pytest.mark.parametrize("heads", [2, 3, 8])
@pytest.mark.parametrize(("d", "dv"), [(16, 8), (8, 16), (9, 8), (8, 5), (1, 16)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_heads_that_lie_beside_each_other_are_taken_together(build, dtype, heads, d, dv):
    q, k, v = (beside(x) for x in make(7, 13, 30, d, dv, lead=(2,), hq=heads, hk=heads, dtype=dtype))
    shape = structure(7, [*random_degrees(7, 12), 300], 30)
    found = assert_gradients_agree(q, k, v, *shape)
    for name, x in (("q", q), ("k", k), ("v", v)):
        assert found[name].strides == x.strides
    bias = bias_of(np.random.default_rng(7), (heads, shape[1].size), dtype, 0.3)
    assert_gradients_agree(q, k, v, *shape, bias=bias, dropout=0.3, seed=1)


def test_any_strides():
    rng = np.random.default_rng(8)
    big = rng.standard_normal((3, 2, 41, 40)).astype(np.float32)
    q, k, v = big[0, :, ::-2, :16], big[1, ::-1, 3:30, ::2][..., :16], np.broadcast_to(big[2, :1, :27, 5:12], (2, 27, 7))
    assert_gradients_agree(q, k, v, *structure(8, random_degrees(8, 21), 27))


@pytest.mark.parametrize(("lq", "lk"), [(0, 5), (0, 0), (3, 0), (3, 5)])
def test_without_edges_all_gradients_are_zero(lq, lk):
    q, k, v = make(9, lq, lk, 4, 6, hq=2, hk=2)
    found = assert_gradients_agree(q, k, v, np.zeros(lq + 1, int), np.zeros(0, int), bias=np.zeros(0, np.float32))
    assert not any(gradient.any() for gradient in found.values())


def test_an_adjacency_takes_the_place_of_both_arrays():
    q, k, v = make(10, 20, 30)
    indptr, indices = structure(10, random_degrees(10, 20), 30)
    out, lse = edge_attention(q, k, v, indptr, indices, return_lse=True)
    expected = edge_attention_backward(out, q, k, v, indptr, indices, out, lse)
    found = edge_attention_backward(out, q, k, v, ruvattn.Adjacency(indptr, indices, 30), None, out, lse)
    assert all(same_bits(found[name], expected[name]) for name in QKV)
    assert indptr.flags.writeable
    assert indices.flags.writeable


# --- options ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_option_agrees_with_the_oracle(build, dtype, option):
    shape = structure(12, [*random_degrees(12, 25), 300], 40)
    options = OPTIONS[option](np.random.default_rng(12), (2,), 4, shape[1].size, dtype)
    assert_gradients_agree(*widened(12, 26, 40, 13, 19, (2,), 4, 2, np.dtype(dtype), options), *shape, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("option", ["nothing", "all of it"])
def test_the_four_dtypes(dtype, option):
    dtype = DTYPES[dtype]
    shape = structure(13, random_degrees(13, 30), 40)
    for given_as in {dtype, compute_dtype(dtype)}:
        options = OPTIONS[option](np.random.default_rng(13), (), 2, shape[1].size, given_as)
        assert_gradients_agree(*widened(13, 30, 40, 12, 8, (), 2, 1, dtype, options), *shape, **options)


@st.composite
def calls(draw):
    """A graph with any combination of options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lead = draw(st.sampled_from([(), (1,), (2,)]))
    hk, group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    lk, d, dv = draw(st.integers(1, 40)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    few = st.one_of(st.just(0), st.integers(1, 20))
    degrees = draw(st.lists(st.one_of(few, few, few, few, st.integers(200, 300)), min_size=1, max_size=8))
    hq, dtype = hk * group, draw(st.sampled_from(list(FLOATS.values())))
    shape = structure(draw(st.integers(0, 99)), degrees, lk)
    options = {}
    for name in ("scale", "softcap", "bias", "sinks", "dropout", "attributes"):
        if draw(st.booleans()):
            options |= OPTIONS[name](rng, lead, hq, shape[1].size, dtype)
    arrays = widened(draw(st.integers(0, 99)), len(degrees), lk, d, dv, lead, hq, hk, dtype, options)
    return [beside(x) for x in arrays] if draw(st.booleans()) else arrays, shape, options


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)
@given(call=calls(), name=st.sampled_from(isa.supported_isas()))
def test_any_combination_of_options_agrees_with_the_oracle(call, name):
    arrays, shape, options = call
    with use(name):
        assert_gradients_agree(*arrays, *shape, **options)


def test_only_what_is_asked_for_is_returned():
    q, k, v = make(14, 20, 30)
    shape = structure(14, random_degrees(14, 20), 30)
    out, lse = edge_attention(q, k, v, *shape, return_lse=True)
    whole = edge_attention_backward(out, q, k, v, *shape, out, lse)
    for names in ([], ["v"], ["k"], ["q"], ["v", "q"], ["score.scale"]):
        found = edge_attention_backward(out, q, k, v, *shape, out, lse, wrt=names)
        assert list(found) == names
        assert all(same_bits(found[name], whole[name]) for name in names if name in QKV)


# --- threads ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [lambda x: x, beside], ids=["apart", "beside"])
def test_any_number_of_threads_gives_the_same_bits(layout):
    rng = np.random.default_rng(16)
    shape = structure(16, [*random_degrees(16, 3000), 5 * CHUNK + 77, *random_degrees(17, 500), CHUNK + 1], 900)
    shape[1][::3] = 5
    options = OPTIONS["all of it"](rng, (), 4, shape[1].size, np.float32)
    q, k, v = (layout(x) for x in widened(16, 3502, 900, 16, 24, (), 4, 4, np.float32, options))
    out, lse = edge_attention(q, k, v, *shape, return_lse=True, **options)
    results = [edge_attention_backward(out, q, k, v, *shape, out, lse, wrt=names_of(options), threads=t, **options) for t in (1, 2, 3, 7)]
    for other in results[1:]:
        assert all(same_bits(other[name], gradient) for name, gradient in results[0].items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_can_go_on():
    code = """
        import os, numpy as np, ruvattn
        x = np.random.default_rng(0).standard_normal((4, 3000, 32), dtype=np.float32)
        edges = np.arange(3001) * 20, np.random.default_rng(1).integers(0, 3000, 60000)
        out, lse = ruvattn.edge_attention(x, x, x, *edges, return_lse=True, threads=2)
        run = lambda: ruvattn.edge_attention_backward(out, x, x, x, *edges, out, lse, threads=2)["k"].tobytes()
        before = run()
        pid = os.fork()
        same = run() == before
        if pid == 0:
            os._exit(0 if same else 1)
        assert same and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_memory_follows_the_edges_not_the_width():
    q, k, v = make(51, 2000, 2000, 64)
    indptr, indices = np.arange(2001) * 40, np.random.default_rng(0).integers(0, 2000, 80_000)
    out, lse = edge_attention(q, k, v, indptr, indices, return_lse=True)
    tracemalloc.start()
    edge_attention_backward(out, q, k, v, indptr, indices, out, lse)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * q.nbytes + 80_000 * 48  # of an array of edges and columns there would be 20 MB


# --- what isn't finite --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, INF])
def test_what_is_masked_has_no_influence(build, dtype, bad):
    indptr, indices = structure(20, [*random_degrees(20, 30), 400, 2 * CHUNK, 5], 50)
    bias = np.where(indices % 5 == 0, -INF, 0.5).astype(dtype)
    bias[indptr[-2] :] = -INF  # the last row sees nothing
    attr = np.random.default_rng(0).standard_normal((indices.size, 3)).astype(dtype)
    q, k, v = make(20, 33, 50, 9, 10, hq=2, hk=1, dtype=dtype)
    q = np.concatenate([q, q[..., :3]], axis=-1)
    options = {"bias": bias, "dropout": 0.3, "seed": 1, "sinks": np.zeros(2)}
    out, lse = edge_attention(q, k, v, indptr, indices, edge_attr=attr, return_lse=True, **options)
    dout = upstream((out,), 0)[0]
    names = (*QKV, "bias", "edge_attr", "sinks", "score.scale")
    expected = edge_attention_backward(dout, q, k, v, indptr, indices, out, lse, edge_attr=attr, wrt=names, **options)
    k[:, ::5], v[:, ::5], attr[np.isneginf(bias)], q[:, -1] = bad, bad, bad, bad
    found = edge_attention_backward(dout, q, k, v, indptr, indices, out, lse, edge_attr=attr, wrt=[*QKV, "bias", "edge_attr", "sinks"], **options)
    for name, gradient in found.items():
        assert_close(gradient, expected[name], 16 * epsilon(dtype) * float(np.abs(expected[name]).max()))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("form", ["dots", "numpy"])
def test_what_is_not_finite_touches_only_who_sees_it(build, dtype, form):
    indptr, indices = structure(18, [*random_degrees(19, 30), 300, 3], 50)
    indices[indices == 7] = 8
    indices[indptr[5]] = 7
    row = int(np.searchsorted(indptr, indptr[5], side="right")) - 1
    q, k, v = make(18, 32, 50, 9, 10, dtype=dtype)
    options = {} if form == "dots" else {"score": Margin(0.1)}
    out, lse = edge_attention(q, k, v, indptr, indices, return_lse=True, **options)
    clean = edge_attention_backward(out, q, k, v, indptr, indices, out, lse, **options)
    k[0, 7, 3] = np.nan
    spoilt, spoilt_lse = edge_attention(q, k, v, indptr, indices, return_lse=True, **options)
    found = edge_attention_backward(out, q, k, v, indptr, indices, spoilt, spoilt_lse, **options)
    seen = np.unique(indices[indptr[row] : indptr[row + 1]])
    others = np.setdiff1d(np.arange(32), row)
    for name, untouched in (("q", others), ("k", np.setdiff1d(np.arange(50), seen)), ("v", np.setdiff1d(np.arange(50), seen))):
        assert_close(found[name][0, untouched], clean[name][0, untouched], 0 if form == "dots" else 64 * epsilon(dtype))
    assert np.isnan(found["q"][0, row]).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("degrees", [[3, 0, 9, 300], [2 * CHUNK, 4]])
def test_dots_of_finite_numbers_that_overflow(build, dtype, degrees):
    shape = structure(21, degrees, 20)
    q, k, v = make(21, len(degrees), 20, 6, 30, dtype=dtype)
    huge = float(np.finfo(dtype).max) ** 0.6
    q, k = (q * huge).astype(dtype), (k * huge).astype(dtype)
    for options in ({}, {"softcap": 3.0}, {"sinks": np.zeros(1), "dropout": 0.5, "seed": 2}, {"edge_attr": np.ones((shape[1].size, 2), dtype)}):
        wide_q = np.concatenate([q, q[..., :2]], axis=-1) if "edge_attr" in options else q
        out, lse = edge_attention(wide_q, k, v, *shape, return_lse=True, **options)
        dout = upstream((out,), 0)[0]
        found = edge_attention_backward(dout, wide_q, k, v, *shape, out, lse, **options)
        with np.errstate(all="ignore"):
            expected = reference.edge_attention_backward(dout, wide_q, k, v, *shape, precision=oracle_dtype(dtype), **options)
        assert_close(found["v"], expected["v"], 1e-4)
        for name in QKV:
            assert np.isfinite(found[name]).all(), name


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_whose_logits_are_all_below_the_dtype_have_the_weights_of_the_forward_pass(build, dtype):
    q, k, v = make(14, 5, 40, 1, 4, dtype=dtype)
    large = q.dtype.type(np.finfo(dtype).max ** 0.51)
    q, k = -np.abs(q) * large - large, np.abs(k) * large + large
    indptr, indices = structure(3, [4, 0, 9, 40, 1], 40)
    out, lse = edge_attention(q, k, v, indptr, indices, return_lse=True)
    dout = np.ones_like(out)
    found = edge_attention_backward(dout, q, k, v, indptr, indices, out, lse)
    expected = reference.edge_attention_backward(dout, q, k, v, indptr, indices, precision=np.longdouble)
    assert_close(found["v"], expected["v"], 1e-5)
    assert expected["v"].any()


def test_a_row_without_edges_that_is_nan_has_no_part_in_the_gradient_of_the_scale():
    q, k, v = make(15, 5, 6)
    indptr, indices = structure(3, [4, 0, 3, 2, 1], 6)
    out, lse = edge_attention(q, k, v, indptr, indices, return_lse=True)
    expected = edge_attention_backward(out, q, k, v, indptr, indices, out, lse, wrt=["score.scale"])
    q[:, 1] = np.nan
    found = edge_attention_backward(out, q, k, v, indptr, indices, out, lse, wrt=["score.scale"])
    assert same_bits(found["score.scale"], expected["score.scale"])


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_that_overflow_on_the_way_are_finite(build, dtype):
    shape = structure(22, [2, 0, 9, 300], 20)
    q, k, v = make(22, 4, 20, 6, 3, dtype=dtype)
    huge = float(np.finfo(dtype).max) ** 0.6
    v = (v * huge).astype(dtype)
    out, lse = edge_attention(q, k, v, *shape, return_lse=True)
    dout = (upstream((out,), 0)[0] * huge).astype(dtype)
    found = edge_attention_backward(dout, q, k, v, *shape, out, lse)
    assert all(np.isfinite(found[name]).all() for name in QKV)


# --- bad input ----------------------------------------------------------------------------------------------------------------------

Q, K, V = make(57, 3, 4, 5, hq=2, hk=2)
PTR, IND = [0, 2, 2, 5], [0, 1, 3, 2, 0]
OUT, LSE = edge_attention(Q, K, V, PTR, IND, return_lse=True)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"dout": OUT[:, :2]}, DimensionMismatchError, "dout must have shape"),
        ({"out": OUT[..., :3]}, DimensionMismatchError, "out must have shape"),
        ({"lse": LSE[0]}, DimensionMismatchError, "lse must have shape"),
        ({"dlse": OUT}, DimensionMismatchError, "dlse must have shape"),
        ({"dweights": LSE}, DimensionMismatchError, "dweights must have shape"),
        ({"dout": OUT.astype(np.float64)}, UnsupportedError, "dout must have the dtype"),
        ({"dout": None}, InvalidInputError, "dout must be an array"),
        ({"wrt": "q"}, InvalidInputError, "wrt must be several names"),
        ({"wrt": 3}, InvalidInputError, "wrt must be names"),
        ({"wrt": ["q", "bias"]}, InvalidInputError, "wrt names 'bias', which this call has not: it has q, k, v, score.scale"),
        ({"wrt": ["score.sigma"]}, InvalidInputError, "wrt names 'score.sigma'"),
        ({"dropout": 0.1}, InvalidInputError, "seed must be that of the call"),
        ({"indices": [0, 1, 4, 2, 0]}, InvalidInputError, "indices must be keys from 0 to 3"),
        ({"edge_attr_to": "neither"}, InvalidInputError, "edge_attr_to must be"),
        ({"edge_attr": np.ones((4, 1), np.float32), "edge_attr_to": "value"}, DimensionMismatchError, "edge_attr must have a row for each"),
        ({"threads": 0}, InvalidInputError, "threads must be"),
    ],
)
def test_bad_arguments_are_named(changed, error, message):
    arguments = {"dout": OUT, "q": Q, "k": K, "v": V, "indptr": PTR, "indices": IND, "out": OUT, "lse": LSE} | changed
    with pytest.raises(error, match=message):
        edge_attention_backward(**arguments)


def test_inputs_are_not_written():
    arrays = [np.array(x) for x in (OUT, Q, K, V, np.array(PTR), np.array(IND, np.int32), OUT, LSE)]
    before = [x.copy() for x in arrays]
    for array in arrays:
        array.flags.writeable = False
    edge_attention_backward(*arrays)
    assert all(same_bits(a, b) for a, b in zip(arrays, before, strict=True))
