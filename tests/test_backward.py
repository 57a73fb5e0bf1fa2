"""Gradients of attention: against the oracle for every option, alone and together, in every build, and the oracle against differences."""

from __future__ import annotations

import contextlib
import copy
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_close, compute_dtype, epsilon, make, oracle_dtype, same_bits, use_build, use_isa
from drawn_calls import OPTIONS, calls
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scored import Bilinear, Decay, Margin, Powered

import ruvattn
import ruvattn_sparse
from ruvattn import isa, reference
from ruvattn.backward import backward_kernels
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn_example import CompiledRbf, Rbf

ISAS = isa.supported_isas()
INF = np.inf
QKV = ("q", "k", "v")


@contextlib.contextmanager
def use(name):
    """Compute forwards and backwards with another build."""
    with use_isa(name), use_build(backward_kernels, name):
        yield


@pytest.fixture(params=ISAS)
def build(request):
    with use(request.param):
        yield request.param


def names_of(options):
    """What a call has gradients of."""
    names = [*QKV, *(name for name in ("bias", "sinks") if options.get(name) is not None)]
    if options.get("score") is None:
        return (*names, "score.scale")
    return (*names, *(f"score.{name}" for name in options["score"].params))


def upstream(out, lse, seed=0):
    """Gradients of an output and its lse, of their dtypes."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(out.shape).astype(out.dtype), rng.standard_normal(lse.shape).astype(lse.dtype)


def bounds(dout, q, k, v, dlse, **options):
    """How far each gradient may be from the oracle's: some roundings of the largest sum of absolute values, and what an error of a logit does."""
    kept = 1 - options.pop("dropout", 0.0)
    weights = reference.attention_weights(q, k, **{name: x for name, x in options.items() if name not in ("aggregate", "seed")})
    dout, q, k, v = (np.abs(np.where(np.isfinite(x), x, 0).astype(float)) for x in (dout, q, k, v))
    if q.ndim == 2:
        dout, q, k, v = (x[None] for x in (dout, q, k, v))
    group = q.shape[-3] // k.shape[-3]
    k, v = (np.repeat(x, group, -3) for x in (k, v))
    scale = np.broadcast_to(q.shape[-1] ** -0.5 if options.get("scale") is None else np.abs(options["scale"]), q.shape[-3])[:, None, None]
    weights = weights.reshape(*q.shape[:-1], k.shape[-2])
    reach = 4 + np.max(scale * (q @ np.swapaxes(k, -1, -2)), initial=0.0)
    reach += sum(float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in (np.asarray(options.get(n, 0.0), float) for n in ("bias", "sinks")))
    each = dout @ np.swapaxes(v, -1, -2) / kept
    logits = weights * (each + (weights * each).sum(-1, keepdims=True) + np.abs(dlse).reshape(*each.shape[:-1], 1))
    largest = {
        "q": (scale * (logits @ k)).max(initial=0), "k": group * (scale * (np.swapaxes(logits, -1, -2) @ q)).max(initial=0),
        "v": group * (np.swapaxes(weights, -1, -2) @ dout).max(initial=0) / kept, "bias": logits.sum(),
        "sinks": logits.sum() + np.abs(dlse).sum(), "score.scale": (logits * (q @ np.swapaxes(k, -1, -2))).sum(),
    }  # fmt: skip
    return {name: 8 * reach * value for name, value in largest.items()}


def assert_gradients_agree(q, k, v, **options):
    """Gradients agree with the oracle's; returns them."""
    threads = options.pop("threads", None)
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    dout, dlse = upstream(out, lse)
    wrt = names_of(options)
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, dlse=dlse, wrt=wrt, threads=threads, **options)
    expected = reference.attention_backward(dout, q, k, v, dlse=dlse, precision=oracle_dtype(q.dtype), **options)
    allowed = bounds(dout, q, k, v, dlse, **options)
    assert tuple(found) == tuple(wrt)
    for name in wrt:
        dtype = q.dtype if name in QKV else compute_dtype(q.dtype)
        assert found[name].dtype == dtype, name
        # what the output was rounded to counts too, where that is narrower
        rounding = epsilon(compute_dtype(q.dtype)) + (2 * epsilon(q.dtype) if q.dtype.itemsize == 2 else 0)
        assert_close(found[name], expected[name], rounding * allowed[name] + float(np.finfo(compute_dtype(q.dtype)).tiny))
    return found


# --- the oracle -----------------------------------------------------------------------------------------------------------------


def assert_differences(arrays, options, wrt, aggregate=None):
    """The oracle's gradients are those of the oracle's loss, by central differences in long double along random directions."""
    rng = np.random.default_rng(1)
    wide = {name: np.asarray(x, np.longdouble) for name, x in zip(QKV, arrays, strict=True)}
    options = {name: np.asarray(x, np.longdouble) if name in ("bias", "sinks", "scale") else x for name, x in options.items()}

    def run(**changed):
        return reference.attention(*(changed.get(n, wide[n]) for n in QKV), return_lse=True, precision=np.longdouble, **options | {
            name: x for name, x in changed.items() if name not in QKV
        })

    out, lse = run()
    dout, dlse = (np.asarray(x, np.longdouble) for x in upstream(out.astype(float), lse.astype(float)))
    seen = ~np.isneginf(lse)
    found = reference.attention_backward(dout, *wide.values(), dlse=dlse, precision=np.longdouble, **options)

    def loss(**changed):
        out, lse = run(**changed)
        return (out * dout).sum() + (lse[seen] * dlse[seen]).sum()

    for name in wrt:
        kind, _, parameter = name.partition(".")
        if parameter and parameter != "scale":
            part = options[kind]
            x = np.asarray(part.params[parameter], np.longdouble)

            def change(value, part=part, parameter=parameter, kind=kind):
                other = copy.copy(part)
                other.params = {**part.params, parameter: value}
                return {kind: other}
        else:
            key = parameter or name
            x = np.asarray(wide[key] if key in wide else options[key])

            def change(value, key=key):
                return {key: value}

        direction = np.where(np.isfinite(x), rng.standard_normal(x.shape), 0)
        step = np.longdouble(1e-6)
        difference = (loss(**change(x + step * direction)) - loss(**change(x - step * direction))) / (2 * step)
        total = np.abs(found[name] * direction).sum()
        assert abs(difference - (found[name] * direction).sum()) <= 1e-9 * max(1, total), name


SMALL = {"lead": (2,), "hq": 4, "hk": 2}


@pytest.mark.parametrize(
    "option", ["nothing", "causal from the end", "softcap", "bias", "bias of keys", "sinks and empty rows", "dropout", "scale of each head"]
)
def test_the_oracle_agrees_with_differences(option):
    arrays = make(0, 6, 7, 5, 3, dtype=np.float64, **SMALL)
    options = OPTIONS[option](np.random.default_rng(0), (2,), 4, 6, 7, np.dtype(np.float64))
    options.setdefault("scale", 0.6)
    assert_differences(arrays, options, names_of(options))


@pytest.mark.parametrize("score", [Bilinear(np.linspace(0.5, 1, 4)), Margin(0.3), Decay(np.linspace(0.1, 0.4, 4))], ids=lambda s: type(s).__name__)
def test_the_oracle_agrees_with_differences_for_scores_with_vectors_terms_and_parameters(score):
    arrays = make(1, 6, 7, 5, 3, dtype=np.float64, **SMALL)
    options = {"score": score, "softcap": 2.0, "causal": True}
    assert_differences(arrays, options, names_of(options))


@pytest.mark.parametrize("aggregate", [Powered(1.5), Powered(1.5, streams=False)], ids=["linear", "of whole rows"])
def test_the_oracle_agrees_with_differences_for_aggregates(aggregate):
    arrays = make(2, 6, 7, 5, 3, dtype=np.float64, **SMALL)
    arrays[2][...] = np.abs(arrays[2]) + 0.5
    assert_differences(arrays, {"aggregate": aggregate, "sinks": np.zeros(4)}, (*QKV, "sinks", "aggregate.exponent"))


# --- options --------------------------------------------------------------------------------------------------------------------

# lead, hq, hk, lq, lk, d, dv
SHAPES = {"tiles": ((2,), 4, 2, 37, 150, 19, 13), "splits": ((), 1, 1, 21, 1100, 9, 5), "several blocks": ((1,), 2, 1, 70, 260, 70, 60)}


# Splits and blocks are the same source for every build: one of them is enough.
CASES = [(shape, name, dtype) for shape in SHAPES for name in ISAS for dtype in FLOATS if shape == "tiles" or (name, dtype) == (ISAS[0], "float32")]


@pytest.mark.parametrize(("shape", "name", "dtype"), CASES)
@pytest.mark.parametrize("option", OPTIONS)
def test_option_agrees_with_the_oracle(option, shape, name, dtype):
    lead, hq, hk, lq, lk, d, dv = SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, option + shape)))
    q, k, v = make(1, lq, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype)
    with use(name):
        assert_gradients_agree(q, k, v, **OPTIONS[option](rng, lead, hq, lq, lk, np.dtype(dtype)))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)
@given(call=calls(), name=st.sampled_from(ISAS))
def test_any_combination_of_options_agrees_with_the_oracle(call, name):
    arrays, options = call
    with use(name):
        assert_gradients_agree(*arrays, **options)


@pytest.mark.parametrize("width", [1, 7, 16, 65])
@pytest.mark.parametrize("rows", [1, 16, 67])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_width_of_keys_and_values(build, dtype, rows, width):
    for d, dv in ((width, 4), (5, width)):
        assert_gradients_agree(*make(2, rows, 101, d, dv, dtype=dtype), causal=True, query_offset="end")


@pytest.mark.parametrize("lk", [0, 1, 5, 6, 7, 60, 119, 120, 121, 241, 513])
@pytest.mark.parametrize("lq", [0, 1, 15, 16, 17, 65])
def test_any_length_of_queries_and_keys(lq, lk):
    assert_gradients_agree(*make(3, lq, lk, 6, 5, lead=(2,)))


@pytest.mark.parametrize("lead", [(0,), (3, 2), (2, 0, 2), (20,)])
def test_any_number_of_leading_axes(lead):
    q, k, v = make(5, 20, 30, lead=lead, hq=2, hk=2)
    assert_gradients_agree(q, k, v)
    assert_gradients_agree(q, k, v, bias=np.zeros((*(1 if i else n for i, n in enumerate(lead)), 1, 20, 30), np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("option", ["nothing", "mask and the rest", "pattern and the rest", "dropout"])
def test_the_four_dtypes(dtype, option):
    dtype = DTYPES[dtype]
    q, k, v = make(6, 40, 210, 20, 12, lead=(2,), hq=2, hk=1, dtype=dtype)
    assert_gradients_agree(q, k, v, **OPTIONS[option](np.random.default_rng(2), (2,), 2, 40, 210, compute_dtype(dtype)))


def test_two_axes_are_one_head():
    q, k, v = make(7, 9, 11)
    alone = assert_gradients_agree(q[0], k[0], v[0])
    whole = assert_gradients_agree(q, k, v)
    assert all(same_bits(alone[name], whole[name][0]) for name in QKV)


@pytest.mark.parametrize("shape", [(1, 1), (40, 1), (1, 50), (2, 1, 50), (2, 40, 50), (3, 1, 1, 1), (3, 2, 40, 50), (3, 1, 40, 50)])
def test_the_gradient_of_a_bias_is_summed_along_what_it_was_broadcast_along(shape):
    q, k, v = make(8, 40, 50, lead=(3,), hq=2, hk=1, dtype=np.float64)
    found = assert_gradients_agree(q, k, v, bias=np.random.default_rng(0).standard_normal(shape), softcap=3.0)
    assert found["bias"].shape == shape


def test_a_bias_that_its_owner_has_repeated_has_the_gradient_of_each_of_its_numbers():
    q, k, v = make(28, 40, 50, hq=2, hk=1)
    bias = np.broadcast_to(np.random.default_rng(0).standard_normal((40, 1), dtype=np.float32), (2, 40, 50))
    repeated, written = (assert_gradients_agree(q, k, v, bias=x)["bias"] for x in (bias, bias.copy()))
    assert repeated.shape == (2, 40, 50)
    assert same_bits(repeated, written)


def test_only_what_is_asked_for_comes_back():
    q, k, v = make(9, 9, 11)
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    assert tuple(ruvattn.attention_backward(out, q, k, v, out, lse, wrt=["v"])) == ("v",)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": (30, 9)}], ids=["dense", "causal", "window"])
def test_hundreds_of_rows(options):
    assert_gradients_agree(*make(10, 700, 600, 24, 40), **options)


# --- masks ----------------------------------------------------------------------------------------------------------------------


class Comb(ruvattn.Pattern):
    """Every s-th key behind a query, and its neighbours."""

    def allowed(self, i, j, *, head=0, batch=0):
        return ((i - j) % 5 == 0) | (abs(i - j) < 2)


PATTERNS = {
    "tiles": Comb(),
    "strides": ruvattn_sparse.Strided(7),
    "pairs": ruvattn.SparseMatrixMask(scipy.sparse.csr_array(np.eye(90, dtype=bool) | (np.arange(90) % 31 == 3))),
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_that_go_ways_of_their_own_have_the_gradients_of_their_dense_mask(kind):
    q, k, v = make(11, 90, 90, hq=2, hk=1, dtype=np.float64)
    dense = np.broadcast_to(PATTERNS[kind].allowed(np.arange(90)[:, None], np.arange(90)[None, :]), (90, 90))
    found = assert_gradients_agree(q, k, v, mask=PATTERNS[kind])
    expected = assert_gradients_agree(q, k, v, mask=dense)
    for name in QKV:
        assert_close(found[name], expected[name], 1e-12 * np.abs(expected[name]).max())


def test_what_is_masked_has_no_influence_even_where_it_is_nan(build):
    q, k, v = make(12, 30, 140, hq=2, hk=1)
    mask = np.random.default_rng(0).random((30, 140)) < 0.6
    mask[:, 5], mask[7] = False, False
    clean = ruvattn.attention(q, k, v, mask=mask, return_lse=True)
    expected = ruvattn.attention_backward(clean[0], q, k, v, *clean, mask=mask)
    q[:, 7], k[:, 5], v[:, 5] = np.nan, np.inf, np.nan
    out, lse = ruvattn.attention(q, k, v, mask=mask, return_lse=True)
    found = ruvattn.attention_backward(out, q, k, v, out, lse, mask=mask)
    for name in QKV:
        assert_close(found[name], expected[name], 1e-5 * np.abs(expected[name]).max())
    assert not found["q"][:, 7].any()
    assert not found["k"][:, 5].any()
    assert not found["v"][:, 5].any()


def test_nan_reaches_the_gradients_of_those_who_see_it_alone():
    q, k, v = make(13, 20, 20)
    v[:, 10] = np.nan
    out, lse = ruvattn.attention(q, k, v, causal=True, return_lse=True)
    found = ruvattn.attention_backward(np.ones_like(out), q, k, v, out, lse, causal=True)
    assert np.isfinite(found["q"][:, :10]).all()
    assert np.isnan(found["q"][:, 10:]).all()
    assert np.isfinite(found["v"]).all()


def test_rows_that_see_nothing_have_gradients_of_zero():
    q, k, v = make(14, 12, 9)
    mask = np.ones((12, 9), bool)
    mask[4] = False
    out, lse = ruvattn.attention(q, k, v, mask=mask, return_lse=True)
    found = ruvattn.attention_backward(np.ones_like(out), q, k, v, out, lse, dlse=np.ones_like(lse), mask=mask)
    assert not found["q"][:, 4].any()
    assert np.isfinite(found["k"]).all()


@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e19), ("float32", 1e30), ("float64", 1e160)])
def test_logits_beyond_the_dtype_leave_gradients_finite(dtype, large):
    q, k, v = make(15, 9, 130, dtype=dtype)
    q, k = q * q.dtype.type(large), k * k.dtype.type(large)
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    found = ruvattn.attention_backward(out, q, k, v, out, np.nan_to_num(lse), wrt=QKV)
    assert all(np.isfinite(x).all() for x in found.values())
    assert_close(found["v"], reference.attention_backward(out, q, k, v, precision=np.longdouble)["v"], 1e-5)


def test_rows_whose_logits_are_all_below_the_dtype_have_the_weights_of_the_forward_pass(build):
    q, k, v = make(24, 7, 130, 1)
    q, k = -np.abs(q) * np.float32(1e20) - np.float32(1e20), np.abs(k) * np.float32(1e20) + np.float32(1e20)
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    found = ruvattn.attention_backward(np.ones_like(out), q, k, v, out, lse)
    assert_close(found["v"], reference.attention_backward(np.ones_like(out), q, k, v, precision=np.longdouble)["v"], 1e-5)
    assert found["v"].sum() == pytest.approx(out.size)


@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("way", ["few rows", "pairs"])
def test_large_logits_of_rows_that_the_forward_pass_adds_up_in_another_order(build, way, size):
    rows = 2 if way == "few rows" else 200
    q, k, v = (x * np.float32(factor) for x, factor in zip(make(25, rows, 200, 64), (size, size, 1), strict=True))
    options = {"bias": np.zeros((rows, 200), np.float32)}
    if way == "pairs":
        options["mask"] = ruvattn.SparseMatrixMask(scipy.sparse.csr_array(np.random.default_rng(0).random((rows, 200)) < 0.02))
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    dout = upstream(out, lse)[0]
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, wrt=(*QKV, "bias"), **options)
    expected = reference.attention_backward(dout, q, k, v, precision=np.longdouble, **options)
    for name, gradient in found.items():
        assert_close(gradient, expected[name], 1e-5 * max(1, np.abs(expected[name]).max()))


def test_nan_beside_parts_that_go_by_strides_has_no_influence():
    q, k, v = make(26, 60, 60, hq=2, hk=1)
    v[:, 59] = 0
    options = {"mask": ruvattn_sparse.Strided(7), "causal": True}
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    dout, dlse = upstream(out, lse)
    dout[:, 59] = 0
    expected = ruvattn.attention_backward(dout, q, k, v, out, lse, dlse=dlse, **options)
    v[:, 59] = np.nan
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, dlse=dlse, **options)
    for name in QKV:
        assert_close(found[name][:, :59], expected[name][:, :59], 1e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize("bad", [np.nan, INF])
def test_what_is_masked_has_no_influence_on_gradients_that_rows_share(bad):
    q, k, v = make(27, 30, 40, hq=2, hk=1)
    mask = np.random.default_rng(0).random((30, 40)) < 0.6
    mask[:, 5], mask[7] = False, False
    options = {"mask": mask, "bias": np.random.default_rng(1).standard_normal((30, 40), dtype=np.float32)}
    wrt = (*QKV, "bias", "score.scale")
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    expected = ruvattn.attention_backward(out, q, k, v, out, lse, wrt=wrt, **options)
    q[:, 7], k[:, 5], v[:, 5] = bad, bad, bad
    found = ruvattn.attention_backward(out, q, k, v, out, lse, wrt=wrt, **options)
    for name in wrt:
        assert_close(found[name], expected[name], 1e-5 * np.abs(expected[name]).max())


# --- scores and aggregates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(
    "score", [Bilinear(np.linspace(0.5, 1, 4)), Margin(0.3), Decay(np.linspace(0.1, 0.4, 4)), ruvattn.Dot(0.4)], ids=lambda s: type(s).__name__
)
def test_scores_in_numpy_have_gradients(score, softcap):
    q, k, v = make(16, 40, 130, 8, 6, dtype=np.float64, **SMALL)
    out, lse = ruvattn.attention(q, k, v, score=score, softcap=softcap, causal=True, return_lse=True)
    dout, dlse = upstream(out, lse)
    options = {"score": score, "softcap": softcap, "causal": True, "dlse": dlse}
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, wrt=names_of({"score": score}), **options)
    expected = reference.attention_backward(dout, q, k, v, **options)
    for name, gradient in found.items():
        assert_close(gradient, expected[name], 1e-11 * np.abs(expected[name]).max())


@pytest.mark.parametrize("mask", [None, "pattern"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_compiled_score_has_the_gradients_of_its_numpy_form(build, dtype, mask):
    q, k, v = make(17, 70, 300, 8, 6, dtype=dtype, **SMALL)
    options = {"softcap": 5.0, "mask": None if mask is None else Comb()}
    out, lse = ruvattn.attention(q, k, v, score=Rbf(1.3), return_lse=True, **options)
    options["wrt"] = (*QKV, "score.sigma")
    fast, slow = (ruvattn.attention_backward(out, q, k, v, out, lse, score=score, **options) for score in (CompiledRbf(1.3), Rbf(1.3)))
    for name in fast:
        assert_close(fast[name], slow[name], 200 * epsilon(dtype) * max(1, np.abs(slow[name]).max()))


@pytest.mark.parametrize("sinks", [None, np.linspace(-1, 1, 4)])
@pytest.mark.parametrize("aggregate", [Powered(1.5), Powered(1.5, streams=False)], ids=["linear", "of whole rows"])
def test_aggregates_have_gradients(aggregate, sinks):
    q, k, v = make(18, 20, 30, 8, 6, dtype=np.float64, **SMALL)
    v = np.abs(v) + 0.5
    options = {"aggregate": aggregate, "sinks": sinks, "dropout": 0.2, "seed": 4, "mask": np.random.default_rng(0).random((20, 30)) < 0.3}
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    dout, dlse = upstream(out, lse)
    wrt = (*QKV, "aggregate.exponent", *(() if sinks is None else ("sinks",)))
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, dlse=dlse, wrt=wrt, **options)
    expected = reference.attention_backward(dout, q, k, v, dlse=dlse, **options)
    for name in wrt:
        assert_close(found[name], expected[name], 1e-11 * np.abs(expected[name]).max())


def test_a_score_without_a_vjp_says_so():
    class Plain(ruvattn.Score):
        def logits(self, t):
            return t.dots[0]

    q, k, v = make(19, 5, 6)
    out, lse = ruvattn.attention(q, k, v, score=Plain(), return_lse=True)
    with pytest.raises(UnsupportedError, match="Plain has no logits_vjp"):
        ruvattn.attention_backward(out, q, k, v, out, lse, score=Plain())


# --- the same to the bit, memory ------------------------------------------------------------------------------------------------

LARGE = {"heads": ((2,), 4, 2, 150, 300, 40, 24), "splits": ((), 2, 1, 70, 3000, 20, 24)}


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("option", ["nothing", "causal from the end", "mask and the rest", "pattern and the rest", "dropout", "bias of keys"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_number_of_threads_gives_the_same_bits(dtype, option, shape):
    lead, hq, hk, lq, lk, d, dv = LARGE[shape]
    q, k, v = make(20, lq, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype)
    options = OPTIONS[option](np.random.default_rng(3), lead, hq, lq, lk, np.dtype(dtype))
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
    wrt = names_of(options)
    first = ruvattn.attention_backward(out, q, k, v, out, lse, wrt=wrt, threads=1, **options)
    for threads in (2, 3, 7):
        again = ruvattn.attention_backward(out, q, k, v, out, lse, wrt=wrt, threads=threads, **options)
        assert all(same_bits(again[name], first[name]) for name in wrt), threads


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": Comb(), "window": (99, 0)}], ids=["dense", "causal", "pattern"])
def test_memory_grows_with_the_length_and_not_with_its_square(options):
    peaks = []
    for length in (2048, 8192):
        q, k, v = make(21, length, length, 16)
        out, lse = ruvattn.attention(q, k, v, return_lse=True, **options)
        tracemalloc.start()
        ruvattn.attention_backward(out, q, k, v, out, lse, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]  # four times the length; the square would be sixteen
    assert peaks[1] < 8192 * 8192 * 4 / 4


def test_inputs_may_have_any_strides_and_are_not_written():
    q, k, v = make(22, 33, 47, hq=2, hk=1)
    odd = [np.asfortranarray(x)[..., ::-1, :] for x in (q, k, v)]
    out, lse = ruvattn.attention(*odd, return_lse=True)
    dout = np.asfortranarray(upstream(out, lse)[0])
    given = (dout, *odd, np.asfortranarray(out), np.asfortranarray(lse))
    before = [x.copy() for x in given]
    for x in given:
        x.flags.writeable = False
    found = ruvattn.attention_backward(*given)
    expected = ruvattn.attention_backward(*(np.ascontiguousarray(x) for x in given))
    assert all(same_bits(found[name], expected[name]) for name in QKV)
    assert all(np.array_equal(x, y) for x, y in zip(before, given, strict=True))


@pytest.mark.parametrize("layout", ["rows padded", "heads apart", "heads first"])
def test_the_lse_may_have_any_strides(layout):
    q, k, v = make(29, 20, 30, lead=(3,), hq=2, hk=2)
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    odd = {
        "rows padded": np.pad(lse, ((0, 0), (0, 0), (0, 5)))[..., :20],
        "heads apart": np.repeat(lse, 2, axis=1)[:, ::2],
        "heads first": np.ascontiguousarray(lse.swapaxes(0, 1)).swapaxes(0, 1),
    }[layout]
    found, expected = (ruvattn.attention_backward(out, q, k, v, out, x) for x in (odd, lse))
    assert all(same_bits(found[name], expected[name]) for name in QKV)


# --- what is refused ------------------------------------------------------------------------------------------------------------


def _call(**options):
    q, k, v = make(23, 5, 6, hq=2, hk=2)
    out, lse = ruvattn.attention(q, k, v, return_lse=True)
    arrays = {"dout": out, "q": q, "k": k, "v": v, "out": out, "lse": lse}
    return ruvattn.attention_backward(**arrays | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dout": np.zeros((2, 5, 7), np.float32)}, DimensionMismatchError, "dout must have shape \\(2, 5, 8\\)"),
        ({"out": np.zeros((2, 4, 8), np.float32)}, DimensionMismatchError, "out must have shape"),
        ({"lse": np.zeros((5,), np.float32)}, DimensionMismatchError, "lse must have shape \\(2, 5\\)"),
        ({"dlse": np.zeros((2, 5, 1), np.float32)}, DimensionMismatchError, "dlse must have shape"),
        ({"lse": np.zeros((2, 5), np.float64)}, UnsupportedError, "lse must have the dtype"),
        ({"wrt": "q"}, InvalidInputError, "got the string"),
        ({"wrt": ["q", "x"]}, InvalidInputError, "wrt names 'x'"),
        ({"wrt": ["bias"]}, InvalidInputError, "wrt names 'bias'"),
        ({"wrt": ["score.sigma"]}, InvalidInputError, "score.scale"),
        ({"wrt": 3}, InvalidInputError, "wrt must be names"),
        ({"dropout": 0.5}, InvalidInputError, "seed must be that of the call"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        _call(**options)
