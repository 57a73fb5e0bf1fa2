"""The tile engine against the float64 oracle: every option, alone and together, on every path through the kernels and in every build.

The paths: tiles of queries (many rows), few queries (up to four rows that share a key head), both with the keys split (few items, 2048 keys or
more), and the segments of a pattern.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from agreement import DTYPES, FLOATS, assert_agrees, assert_close, compute_dtype, make, same_bits, tolerance, use_isa
from drawn_calls import OPTIONS, Stripes, calls
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn import isa, reference

ISAS = isa.supported_isas()
INF = np.inf


# lead, hq, hk, lq, lk, d, dv
SHAPES = {
    "tiles": ((2,), 4, 2, 37, 150, 19, 13),
    "few": ((2,), 2, 1, 2, 150, 19, 41),
    "split tiles": ((1,), 2, 1, 21, 2100, 9, 5),
    "split few": ((1,), 3, 1, 1, 2100, 9, 37),
}


@pytest.fixture(params=ISAS)
def build(request):
    """Each instruction set in turn."""
    with use_isa(request.param):
        yield request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_option_agrees_with_the_oracle(build, dtype, option, shape):
    lead, hq, hk, lq, lk, d, dv = SHAPES[shape]
    if "split" in shape and build == "scalar" and dtype == "float64":
        pytest.skip("the splits are the same source for every build: three of them are enough")
    rng = np.random.default_rng(sum(map(ord, option + shape)))
    q, k, v = make(1, lq, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype)
    assert_agrees(q, k, v, **OPTIONS[option](rng, lead, hq, lq, lk, np.dtype(dtype)))


@pytest.mark.parametrize("width", [1, 3, 7, 17, 65, 130])
@pytest.mark.parametrize("rows", [1, 4, 5, 16, 33])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_width_of_keys_and_values(build, dtype, rows, width):
    for d, dv in ((width, 4), (5, width), (width, width)):
        assert_agrees(*make(2, rows, 101, d, dv, dtype=dtype), causal=True, query_offset="end")


@pytest.mark.parametrize("lk", [0, 1, 2, 5, 6, 7, 31, 32, 33, 119, 120, 121, 239, 240, 241, 481])
@pytest.mark.parametrize("lq", [0, 1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_length_of_queries_and_keys(build, dtype, lq, lk):
    q, k, v = make(3, lq, lk, 6, 5, lead=(2,), dtype=dtype)
    assert_agrees(q, k, v)
    assert_agrees(q, k, v, mask=np.random.default_rng(0).random((lq, lk)) < 0.7, bias=np.zeros((lq, lk), dtype))


@pytest.mark.parametrize(("hq", "hk"), [(1, 1), (2, 1), (6, 3), (8, 1), (70, 7), (65, 65)])
@pytest.mark.parametrize("lq", [1, 2, 30])
def test_grouped_queries_use_the_key_head_of_their_group(build, hq, hk, lq):
    q, k, v = make(4, lq, 50, 8, lead=(3,), hq=hq, hk=hk)
    out, _ = assert_agrees(q, k, v, causal=True, query_offset="end")
    repeated = ruvattn.attention(q, np.repeat(k, hq // hk, 1), np.repeat(v, hq // hk, 1), causal=True, query_offset="end")
    assert_close(out, repeated, tolerance(q, k, v, {}))


@pytest.mark.parametrize("lead", [(), (1,), (3, 2), (2, 1, 2), (20,)])
@pytest.mark.parametrize("lq", [2, 20])
def test_any_number_of_leading_axes(build, lead, lq):
    q, k, v = make(5, lq, 30, lead=lead, hq=2, hk=2)
    assert_agrees(q, k, v)
    assert_agrees(q, k, v, key_lengths=np.random.default_rng(1).integers(0, 31, lead), mask=np.tri(lq, 30, 9, dtype=bool))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lq", [1, 3, 70])
@pytest.mark.parametrize("option", ["nothing", "mask and the rest", "pattern and the rest", "sinks and empty rows", "dropout"])
def test_the_four_dtypes(dtype, lq, option):
    dtype = DTYPES[dtype]
    q, k, v = make(6, lq, 210, 20, 12, lead=(2,), hq=2, hk=1, dtype=dtype)
    for bias_dtype in {dtype, compute_dtype(dtype)}:
        assert_agrees(q, k, v, **OPTIONS[option](np.random.default_rng(2), (2,), 2, lq, 210, bias_dtype))


# --- combinations ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)
@given(call=calls(), name=st.sampled_from(ISAS))
def test_any_combination_of_options_agrees_with_the_oracle(call, name):
    arrays, options = call
    with use_isa(name):
        assert_agrees(*arrays, **options)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)
@given(call=calls())
def test_any_combination_of_options_for_weights_and_logits(call):
    (q, k, _), options = call
    weights = ruvattn.attention_weights(q, k, **options)
    wide = np.longdouble if q.dtype == np.float64 else np.float64
    allowed = tolerance(q, k, np.ones(1), options)
    assert_close(weights, reference.attention_weights(q, k, precision=wide, **options), allowed)
    for name in ("sinks", "dropout", "seed"):
        options.pop(name, None)
    assert_close(ruvattn.attention_logits(q, k, **options), reference.attention_logits(q, k, precision=wide, **options), allowed)


# --- long sequences -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lq", [1, 4, 24])
@pytest.mark.parametrize("options", [{}, {"causal": True, "query_offset": 50_000}, {"window": (70_000, 100), "query_offset": "end"}])
def test_few_queries_over_100_000_keys(lq, options):
    assert_agrees(*make(7, lq, 100_000, 16), **options)


def test_a_window_over_20_000_rows_equals_the_window_of_each_row():
    n, left, right = 20_000, 30, 9
    q, k, v = make(8, n, n, 64)
    out = ruvattn.attention(q, k, v, window=(left, right))
    rows = np.concatenate([np.arange(40), np.random.default_rng(0).integers(40, n - 40, 80), np.arange(n - 40, n)])
    for i in rows:
        keys = slice(max(0, i - left), min(n, i + right + 1))
        assert_close(out[:, i : i + 1], reference.attention(q[:, i : i + 1], k[:, keys], v[:, keys]), tolerance(q, k, v, {}))


def test_a_window_as_pattern_streams_over_20_000_rows():
    class Band(ruvattn.Window):
        """A window that the engine doesn't know by heart."""

    q, k, v = make(9, 20_000, 20_000, 64)
    assert same_bits(*(ruvattn.attention(q, k, v, mask=Band(30, 9), threads=t) for t in (1, 2)))
    assert_close(ruvattn.attention(q, k, v, mask=Band(30, 9)), ruvattn.attention(q, k, v, window=(30, 9)), tolerance(q, k, v, {}))


@pytest.mark.parametrize("options", [{}, {"causal": True}], ids=["dense", "causal"])
def test_a_few_thousand_rows(options):
    assert_agrees(*make(10, 3000, 2500, 24, 40), **options)


# --- the same to the bit --------------------------------------------------------------------------------------------------------

# Enough work for a team in each of the paths.
LARGE = {"tiles": ((2,), 4, 2, 150, 300, 40, 24), "few": ((2,), 8, 2, 1, 2000, 64, 64), "split tiles": ((), 2, 1, 70, 4500, 20, 24),
         "split few": ((), 4, 1, 1, 9000, 64, 40)}  # fmt: skip


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("option", ["nothing", "causal from the end", "mask and the rest", "pattern and the rest", "dropout", "window", "sinks"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_threads_gives_the_same_bits(dtype, option, shape):
    lead, hq, hk, lq, lk, d, dv = LARGE[shape]
    q, k, v = make(11, lq, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype)
    options = OPTIONS[option](np.random.default_rng(3), lead, hq, lq, lk, np.dtype(dtype))
    first, first_lse = ruvattn.attention(q, k, v, return_lse=True, threads=1, **options)
    for threads in (2, 3, 7):
        out, lse = ruvattn.attention(q, k, v, return_lse=True, threads=threads, **options)
        assert same_bits(out, first), threads
        assert same_bits(lse, first_lse), threads


@pytest.mark.parametrize("shape", LARGE)
def test_rows_that_have_to_be_repaired_are_the_same_for_any_number_of_threads(shape):
    lead, hq, hk, lq, lk, d, dv = LARGE[shape]
    q, k, v = make(12, lq, lk, d, dv, lead=lead, hq=hq, hk=hk)
    mask = np.ones((lq, lk), bool)
    mask[:, 5], v[..., 5, :] = False, np.nan
    results = [ruvattn.attention(q, k, v, mask=mask, threads=threads) for threads in (1, 2, 3, 7)]
    assert np.isfinite(results[0]).all()
    assert all(same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize("shape", LARGE)
def test_eight_python_threads_at_once_get_what_one_gets(shape):
    lead, hq, hk, lq, lk, d, dv = LARGE[shape]
    inputs = [make(20 + i, lq, lk, d, dv, lead=lead, hq=hq, hk=hk) for i in range(8)]
    alone = [ruvattn.attention(*x, causal=True, query_offset="end") for x in inputs]
    found = [None] * 8
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        for _ in range(3):
            found[i] = ruvattn.attention(*inputs[i], causal=True, query_offset="end", threads=1 + i % 3)

    team = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert all(same_bits(a, b) for a, b in zip(found, alone, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("option", ["causal", "mask and the rest", "pattern and the rest"])
def test_the_layout_of_the_arrays_does_not_show_in_the_result(shape, option):
    lead, hq, hk, lq, lk, d, dv = SHAPES[shape]
    q, k, v = make(13, lq, lk, d, dv, lead=lead, hq=hq, hk=hk)
    options = OPTIONS[option](np.random.default_rng(4), lead, hq, lq, lk, np.dtype(np.float32))
    expected = ruvattn.attention(q, k, v, **options)
    for name, layout in LAYOUTS.items():
        assert same_bits(ruvattn.attention(*map(layout, (q, k, v)), **options), expected), name


# --- memory ---------------------------------------------------------------------------------------------------------------------


def _steps(x):
    """Every third row, every second number of it."""
    wide = np.full((*x.shape[:-2], 3 * x.shape[-2], 2 * x.shape[-1]), np.nan, x.dtype)
    view = wide[..., 1::3, ::2]
    view[...] = x
    return view


def _reversed(x):
    return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]


def _unaligned(x):
    memory = bytearray(x.nbytes + 1)
    memory[1:] = x.tobytes()
    view = np.frombuffer(memory, x.dtype, offset=1).reshape(x.shape)
    assert not view.flags.aligned
    return view


def _odd_rows(x):
    """Rows whose distance isn't a whole number of items."""
    record = np.zeros(x.shape[:-1], [("pad", "u1"), ("x", x.dtype, x.shape[-1:])])
    record["x"] = x
    assert record["x"].strides[-2] % x.itemsize
    return record["x"]


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "transposed": lambda x: np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2),
    "heads inside rows": lambda x: np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -2, -3)), -2, -3),
    "Fortran": np.asfortranarray,
    "steps": _steps,
    "rows reversed": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
    "reversed": _reversed,
    "unaligned": _unaligned,
    "odd rows": _odd_rows,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": _read_only,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["tiles", "few"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_any_strides_and_byte_order(dtype, shape, layout):
    lead, hq, hk, lq, lk, d, dv = SHAPES[shape]
    q, k, v = (LAYOUTS[layout](x) for x in make(14, lq, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype))
    bias = LAYOUTS[layout](make(15, lq, lk, lk, lead=lead, hq=hq, dtype=dtype)[0])
    assert_agrees(q, k, v)
    assert_agrees(q, k, v, causal=True, query_offset="end", bias=bias)


def test_rows_and_heads_repeated_by_strides_of_zero():
    q, k, v = make(16, 20, 30, 8, hq=4, hk=4)
    for x in range(3):
        arrays = [q, k, v]
        arrays[x] = np.broadcast_to(arrays[x][:1, :1], arrays[x].shape)
        assert_agrees(*arrays, causal=True)
    assert_agrees(*(np.broadcast_to(x, (3, *x.shape)) for x in (q, k, v)), mask=np.broadcast_to(np.tri(20, 30, dtype=bool), (3, 4, 20, 30)))


def test_a_last_axis_repeated_by_a_stride_of_zero():
    q, k, v = make(17, 20, 30, 1)
    assert_agrees(*(np.broadcast_to(x, (*x.shape[:-1], 7)) for x in (q, k, v)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("option", OPTIONS)
def test_inputs_are_never_written(shape, option):
    lead, hq, hk, lq, lk, d, dv = SHAPES[shape]
    q, k, v = make(18, lq, lk, d, dv, lead=lead, hq=hq, hk=hk)
    v[..., 3, :] = np.nan  # the repair path, too
    options = OPTIONS[option](np.random.default_rng(5), lead, hq, lq, lk, np.dtype(np.float32))
    arrays = {"q": q, "k": k, "v": v} | {name: x for name, x in options.items() if isinstance(x, np.ndarray)}
    before = {name: x.tobytes() for name, x in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    ruvattn.attention(q, k, v, **options)
    assert all(x.tobytes() == before[name] for name, x in arrays.items())


def test_nothing_is_written_around_out():
    q, k, v = make(19, 37, 50, 8, 11, hq=3, hk=3)
    memory = np.full((3, 39, 13), 7.0, np.float32)
    out = memory[:, 1:-1, 1:-1]
    ruvattn.attention(q, k, v, out=out)
    assert same_bits(np.ascontiguousarray(out), ruvattn.attention(q, k, v))
    memory[:, 1:-1, 1:-1] = 7
    assert (memory == 7).all()


@pytest.mark.parametrize("lead", [(5000, 0), (0,), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"causal": True, "bias": np.zeros((4, 5), np.float32)}, {"mask": Stripes()}], ids=["plain", "bias", "pattern"]
)
def test_a_batch_of_nothing_gives_nothing(lead, options):
    q, k, v = make(0, 4, 5, lead=lead, hq=2, hk=2)
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    assert out.shape == (*lead, 2, 4, 8)
    assert lse.shape == (*lead, 2, 4)
    assert ruvattn.attention_weights(q, k, **options).shape == (*lead, 2, 4, 5)


# --- builds ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ISAS)
def test_the_environment_forces_a_build(name):
    code = """
import numpy as np, ruvattn
x = np.ones((2, 3), np.float32)
ruvattn.attention(x, x, x)
print(ruvattn.running.tile_kernels.popitem()[1].__name__)
"""
    environment = {**os.environ, "RUVATTN_ISA": name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"ruvattn.kernels.tile_{name}_float32"


def test_every_build_is_as_wide_as_it_says():
    from importlib import import_module

    widths = {"scalar": {"float32": 4, "float64": 8}, "baseline": {"float32": 16, "float64": 16}, "v3": {"float32": 32, "float64": 32}}
    for name in ISAS:
        for dtype in FLOATS:
            module = import_module(f"ruvattn.kernels.tile_{name}_{dtype}")
            assert module.VECTOR_BYTES == widths[name][dtype]
            assert module.DTYPE == dtype


class FirstAndLast(ruvattn.Pattern):
    """The first keys and the last ones up to the own position: a set that single rows know by ranges alone."""

    def __init__(self, first, last, by_head=False, by_batch=False):
        self.first, self.last, self.by_head, self.by_batch = first, last, by_head, by_batch

    def allowed(self, i, j, *, head=0, batch=0):
        return (j <= i) & ((j < self.first + head) | (i - j < self.last + batch))

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        if i1 - i0 > 1:
            return None
        end = min(max(i0 + 1, 0), lk)
        first, last = min(self.first + head, end), max(i0 + 1 - self.last - batch, 0)
        return ([0], [end], [True]) if last <= first else ([0, last], [first, end], [True, True]) if last < end else ([0], [first], [True])


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("hq", [1, 2, 4])
@pytest.mark.parametrize("lq", [1, 2, 4])
@pytest.mark.parametrize("apart", [(False, False), (True, False), (False, True), (True, True)], ids=["shared", "by head", "by entry", "by both"])
def test_few_queries_with_a_pattern_agree_with_the_oracle(name, hq, lq, apart):
    for lk, d in [(3, 4), (700, 16), (5000, 8)]:
        q, k, v = make(lk + d, lq, lk, d, lead=(2,), hq=hq, hk=1 if hq < 4 else 2)
        v[:, :, lk // 2] = np.nan if lk > 100 else 0  # which no row sees
        with use_isa(name):
            assert_agrees(q, k, v, mask=FirstAndLast(5, 40, *apart), query_offset="end", sinks=np.arange(hq), softcap=3.0)
            assert_agrees(q, k, v, mask=FirstAndLast(0, 0, *apart), query_offset=[lk, -lq])
