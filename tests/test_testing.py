"""The conformance suite finds what it is there for: for every check there is a subject that breaks just that promise.

Sound subjects pass. A broken one is a sound one with a flaw of its own, or a sound one in an engine with a flaw: what only the engine can break
is tried by putting a faulty one in its place.
"""

from __future__ import annotations

import ctypes
import re
import time
import warnings

import numpy as np
import pytest

import ruvattn
from ruvattn import functional
from ruvattn.builtin.standard import StandardAttention
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import AttentionConfig
from ruvattn.testing import (
    CheckFailure,
    ConformanceNote,
    NotApplicable,
    Subject,
    check_aggregate,
    check_pattern,
    check_score,
    check_variant,
    gradients,
    graph_training,
    parametrize_with_checks,
    run_checks,
    suite,
    training,
)
from ruvattn.testing.cases import finite_difference, in_threads, require_accurate, require_gradient, require_same_bits
from ruvattn.testing.runner import checks_of


def outcome(subject, name):
    (result,) = run_checks([subject], only=[name], shrink=False)
    return result


def names_of(family):
    return {check.name for check in checks_of(family)}


# Sound subjects -----------------------------------------------------------------------------------------------------


class Distance(ruvattn.Score):
    """−‖q − k‖² / (2σ²), with everything that a score can have in NumPy."""

    def __init__(self, sigma=1.5):
        self.params = {"sigma": sigma}

    def row_terms(self, q, pos):
        return ((q * q).sum(-1),)

    def col_terms(self, k, pos):
        return ((k * k).sum(-1),)

    def row_terms_vjp(self, q, pos, dterms):
        return 2 * dterms[0][..., None] * q, {}

    col_terms_vjp = row_terms_vjp

    def logits(self, t):
        return (2 * t.dots[0] - t.rows[0] - t.cols[0]) * (0.5 / t.params["sigma"] ** 2)

    def logits_vjp(self, t, dlogits):
        sigma = t.params["sigma"]
        g = dlogits * (0.5 / sigma**2)
        dsigma = -2 / sigma * np.sum(g * (2 * t.dots[0] - t.rows[0] - t.cols[0]))
        return (2 * g)[None], (-g.sum(1, keepdims=True),), (-g.sum(0, keepdims=True),), {"sigma": dsigma}


class Manhattan(ruvattn.Score):
    """−Σ|q − k|: from the vectors, without dots."""

    splits = ()
    vectors = True

    def logits(self, t):
        return -np.abs(t.q[:, None] - t.k[None]).sum(-1)

    def logits_vjp(self, t, dlogits):
        sign = -np.sign(t.q[:, None] - t.k[None]) * dlogits[..., None]
        return np.zeros((0, *dlogits.shape)), (), (), {}, sign.sum(1), -sign.sum(0)


class Alibi(ruvattn.Score):
    """Positions enter, one slope for each of two heads; two planes of dots."""

    splits = (3, 5)

    def __init__(self):
        self.params = {"slope": np.array([0.5, 0.25]), "scale": 1.0}

    def row_terms(self, q, pos):
        return (pos,)

    def col_terms(self, k, pos):
        return (pos,)

    def logits(self, t):
        return t.params["scale"] * (t.dots[0] - 0.5 * t.dots[1]) - t.params["slope"] * np.abs(t.rows[0] - t.cols[0])


class Cosine(ruvattn.Dot):
    """What derives from the dot product has its default scale, and goes through the engine like any score."""

    def row_terms(self, q, pos):
        return (1 / np.linalg.norm(q, axis=-1).clip(1e-30),)

    col_terms = row_terms

    def logits(self, t):
        return super().logits(t) * t.rows[0] * t.cols[0]

    def logits_vjp(self, t, dlogits):
        raise ruvattn.errors.UnsupportedError("no gradient")


class Strided(ruvattn.Pattern):
    """Every second or third key, by head, without ranges."""

    by_head = True

    def allowed(self, i, j, *, head=0, batch=0):
        return (i - j) % (head + 2) == 0


class Blocks(ruvattn.Pattern):
    """Blocks of four along the diagonal: ranges may be asked for whole blocks only."""

    row_block = 4

    def allowed(self, i, j, *, head=0, batch=0):
        return i // 4 == j // 4

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        first = i0 // 4 * 4
        return [min(max(first, 0), lk)], [min(max(first + 4, 0), lk)], [True]


class EveryOther(ruvattn.Pattern):
    """Every second key up to the position: its parts."""

    def __init__(self, *parts):
        self.parts = parts or ((2, ruvattn.Causal()),)

    def allowed(self, i, j, *, head=0, batch=0):
        return ((i - j) % 2 == 0) & (j <= i)

    def strided_parts(self, head=0):
        return self.parts


class Midpoint(ruvattn.Aggregate):
    """Σ pγv / Σ pγ with γ = 1 + |v|: linear, with one more column."""

    def values(self, v):
        gamma = 1 + np.abs(v).max(-1, keepdims=True)
        return np.concatenate([v * gamma, gamma], -1)

    def finish(self, acc):
        return acc[..., :-1] / acc[..., -1:]

    def finish_vjp(self, acc, dout):
        dnorm = -(dout * acc[..., :-1]).sum(-1, keepdims=True) / acc[..., -1:] ** 2
        return np.concatenate([dout / acc[..., -1:], dnorm], -1)


class Shifted(ruvattn.Aggregate):
    """Σ p·(v + v²/8): linear, with a derivative of its values."""

    def values(self, v):
        return v + v * v / 8

    def values_vjp(self, v, dvalues):
        return dvalues * (1 + v / 4)


class SoftMaximum(ruvattn.Aggregate):
    """log Σ p·exp(v) of rows of weights: not linear."""

    linear = False

    def reduce(self, weights, v):
        # A value that one row sees and another does not may hold anything for the latter.
        terms = np.where(weights[:, :, None] > 0, np.log(weights)[:, :, None] + v, -np.inf)
        top = terms.max(1, keepdims=True)
        return np.log(np.exp(terms - top).sum(1)) + top[:, 0]

    def reduce_vjp(self, weights, v, out, dout):
        shares = np.exp(v - out[:, None]) * dout[:, None]
        return shares.sum(-1), (shares * weights[:, :, None]).sum(0)


SOUND = {
    "distance": Distance(),
    "distance of two heads": Distance(np.array([0.8, 2.0])),
    "manhattan": Manhattan(),
    "alibi": Alibi(),
    "cosine": Cosine(),
    "strided": Strided(),
    "blocks": Blocks(),
    "window without bounds": ruvattn.Window(-1, -1),
    "mask": ruvattn.BoolMask(np.random.default_rng(0).random((6, 9)) < 0.5),
    "mask by head and batch": ruvattn.BoolMask(np.random.default_rng(0).random((2, 3, 6, 9)) < 0.5),
    "every other key": EveryOther(),
    "both": Strided() & Blocks(),
    "either, by position and by index": ruvattn.Causal() | (np.random.default_rng(0).random((6, 9)) < 0.3),
    "neither": ~(Strided() | ruvattn.Window(2, 1) | ruvattn.KeyLengths([2, 0])),
    "mask by head without a window": (np.random.default_rng(0).random((2, 6, 9)) < 0.7) & ~ruvattn.Window(0, 0),
    "midpoint": Midpoint(),
    "shifted": Shifted(),
    "soft maximum": SoftMaximum(),
}


@pytest.mark.parametrize("subject", SOUND.values(), ids=SOUND)
def test_sound_subjects_pass(subject):
    wrong = [(result.name, result.message) for result in run_checks([subject]) if result.status == "failed"]
    assert wrong == []


def test_sparse_masks_pass():
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    for shape in ((6, 90), (3, 6, 7)):
        matrix = sparse.coo_array(rng.random(shape) < 0.2)
        check_pattern(ruvattn.SparseMatrixMask(matrix))
        check_pattern(matrix & Strided())
        check_pattern(~(matrix | ruvattn.Window(1, 0)))


# An engine with a flaw ----------------------------------------------------------------------------------------------

attention = functional.attention
attention_weights = functional.attention_weights
attention_logits = functional.attention_logits


def after(change):
    """Change what attention returns: change(out, lse, q, k, v, options)."""

    def engine(q, k, v, *, return_lse=False, out=None, **options):
        made, lse = attention(q, k, v, return_lse=True, **options)
        made, lse = change(made.copy(), lse.copy(), q, k, v, options)
        if out is not None:
            out[...] = made
            made = out
        return (made, lse) if return_lse else made

    return engine


def _leak(out, lse, q, k, v, options):
    return out + 1e-2 * np.nan_to_num(v, nan=9.0, posinf=9.0).max(), lse


def _poisoned_rows(out, lse, q, k, v, options):
    return (out * np.nan if np.isnan(q).any() else out), lse


def _not_zero(out, lse, q, k, v, options):
    out[np.isneginf(lse)] = 1e-9
    return out, lse


def _by_threads(out, lse, q, k, v, options):
    return out * (1 + out.dtype.type(1e-6) * (options.get("threads") or 1)), lse


def _overflow(out, lse, q, k, v, options):
    large = max(np.abs(q).max(), np.abs(k).max(), np.abs(v).max()) > 1e14
    return (out * np.nan if large else out), lse


def _writes(out, lse, q, k, v, options):
    q[..., 0] = 0
    return out, lse


_shared = {}


def _not_safe(out, lse, q, k, v, options):
    _shared["out"] = out
    time.sleep(1e-4)
    return _shared["out"], lse


def _ignores_out(q, k, v, *, out=None, **options):
    return attention(q, k, v, **options)


def _refuses_empty(q, k, v, **options):
    if not (q.size and k.size):
        raise ValueError("empty")
    return attention(q, k, v, **options)


def _takes_any_shape(q, k, v, **options):
    try:
        return attention(q, k, v, **options)
    except DimensionMismatchError:
        return np.zeros(q.shape)


FLAWS = {
    "shapes_and_dtypes": after(lambda out, lse, *_: (out.astype(np.float64), lse)),
    "agrees_with_oracle": after(lambda out, lse, *_: (out * out.dtype.type(1.001), lse)),
    "two_axes_are_one_head": after(lambda out, lse, q, *_: (out * (2 if q.ndim == 2 else 1), lse)),
    "batch_equals_singles": after(lambda out, lse, q, *_: (out * (2 if q.ndim > 3 else 1), lse)),
    "key_order_is_irrelevant": after(lambda out, lse, q, k, v, _: (out + v[..., :1, :1].mean(), lse)),
    "masked_has_no_influence": after(_leak),
    "rows_are_independent": after(_poisoned_rows),
    "empty_rows_are_zeros": after(_not_zero),
    "empty_input_gives_empty_output": _refuses_empty,
    "extremes_stay_finite": after(_overflow),
    "same_bits_for_any_number_of_threads": after(_by_threads),
    "parallel_calls_agree": after(_not_safe),
    "inputs_are_not_written": after(_writes),
    "out_is_honoured": _ignores_out,
    "wrong_shapes_are_refused": _takes_any_shape,
}
PARTS = {"score": Distance(), "pattern": ruvattn.Causal(), "aggregate": Midpoint()}
# Positions enter a pattern, and a row of one is a row of its queries.
NOT_OF_PATTERNS = {"key_order_is_irrelevant", "rows_are_independent"}


@pytest.mark.parametrize("family", PARTS)
@pytest.mark.parametrize("name", FLAWS)
def test_a_faulty_engine_is_found(name, family, monkeypatch):
    if family == "pattern" and name in NOT_OF_PATTERNS:
        assert name not in names_of("pattern")
        return
    monkeypatch.setattr(functional, "attention", FLAWS[name])
    result = outcome(PARTS[family], name)
    assert result.status == "failed", result


# Scores with a flaw -------------------------------------------------------------------------------------------------


def broken(base, **members):
    """Return an instance of a subclass of a sound class, with other members."""
    return type(f"Broken{base.__name__}", (base,), members)()


class Unpicklable(Distance):
    def __init__(self):
        super().__init__()
        self.power = lambda x: x**2


class Forgetful(Distance):
    def __reduce__(self):
        return (Distance, (9.0,))


class Hidden(ruvattn.Score):
    """Keeps its scale elsewhere than in params."""

    def __init__(self):
        self.params = {"scale": 0.5}

    def logits(self, t):
        return 0.5 * t.dots[0]


class WritesParameters(Distance):
    def __init__(self):
        super().__init__(np.array([1.0, 2.0]))

    def col_terms(self, k, pos):
        self.params["sigma"] *= 1.1
        return super().col_terms(k, pos)


class Stateful(Distance):
    """Leaves what a call needs on the instance."""

    def row_terms(self, q, pos):
        self.norms = (q * q).sum(-1)
        time.sleep(1e-4)
        return (self.norms,)


def _logits(change):
    return lambda self, t: change(Distance.logits(self, t))


def _halved(name):
    return lambda self, x, pos, dterms: (getattr(Distance, name)(self, x, pos, dterms)[0] / 2, {})


def _without_planes(self, t, dlogits):
    return (np.zeros(t.dots.shape), *Distance.logits_vjp(self, t, dlogits)[1:])


def _without_sigma(self, t, dlogits):
    return (*Distance.logits_vjp(self, t, dlogits)[:3], {})


BROKEN_SCORES = {
    "declaration": [
        broken(Distance, splits=[2, 3]),
        broken(Distance, vectors=1),
        broken(Distance, kernels={"float16": (None, None)}),
        broken(Distance, kernels={"float32": (print, None)}),
        broken(Distance, kernels={"float32": None}),
    ],
    "terms_have_their_shape": [
        broken(Distance, row_terms=lambda self, q, pos: [(q * q).sum(-1)]),
        broken(Distance, col_terms=lambda self, k, pos: (k,)),
        broken(Distance, row_terms=lambda self, q, pos: 33 * ((q * q).sum(-1),)),
    ],
    "logits_have_their_shape": [
        broken(Distance, logits=_logits(np.transpose)),
        broken(Distance, logits=_logits(lambda x: x.astype(complex))),
        broken(Distance, logits=_logits(lambda x: x.tolist())),
        broken(Distance, logits=_logits(lambda x: x * np.nan)),
    ],
    "logits_are_elementwise": [broken(Distance, logits=_logits(lambda x: x - x.max(1, keepdims=True)))],
    "symmetric_if_it_says_so": [
        broken(Distance, symmetric=True, logits=lambda self, t: Distance.logits(self, t) - t.rows[0]),
        broken(Distance, symmetric=1),
    ],
    "logits_vjp_matches_differences": [
        broken(Distance, logits_vjp=_without_planes),
        broken(Distance, logits_vjp=_without_sigma),
        broken(Distance, logits_vjp=lambda self, t, dlogits: (dlogits[None],)),
        broken(Manhattan, logits_vjp=lambda self, t, d: (*Manhattan.logits_vjp(self, t, d)[:5], np.zeros(t.k.shape))),
    ],
    "row_terms_vjp_matches_differences": [broken(Distance, row_terms_vjp=_halved("row_terms_vjp"))],
    "col_terms_vjp_matches_differences": [broken(Distance, col_terms_vjp=_halved("col_terms_vjp"))],
    "shapes_and_dtypes": [broken(Distance, row_terms=lambda self, q, pos: ((q * q).sum(-1).reshape(q.shape[0], q.shape[1]),))],
    "scale_is_taken_or_refused": [Hidden()],
    "batch_equals_singles": [broken(Distance, col_terms=lambda self, k, pos: ((k * k).sum(-1) * (k.shape[0] if k.ndim > 3 else 1),))],
    "key_order_is_irrelevant": [broken(Distance, col_terms=lambda self, k, pos: ((k * k).sum(-1) + np.arange(k.shape[-2]),))],
    "weights_are_a_distribution": [broken(Distance, logits=_logits(lambda x: np.where(x < x.mean(), np.inf, x)))],
    "masked_has_no_influence": [broken(Distance, col_terms=lambda self, k, pos: (np.cumsum((k * k).sum(-1)[..., ::-1], -1),))],
    "rows_are_independent": [broken(Distance, row_terms=lambda self, q, pos: ((q * q).sum(-1) + 0 * q.sum((-1, -2))[..., None],))],
    "extremes_stay_finite": [broken(Distance, logits=_logits(lambda x: x * x / (-1 - x * x)))],
    "parallel_calls_agree": [Stateful()],
    "pickle_round_trip": [Unpicklable(), Forgetful()],
    "inputs_are_not_written": [broken(Distance, col_terms=lambda self, k, pos: (np.square(k, out=k).sum(-1),)), WritesParameters()],
    "wrong_shapes_are_refused": [],
}


@pytest.mark.parametrize(("name", "subject"), [(name, subject) for name, subjects in BROKEN_SCORES.items() for subject in subjects])
def test_a_broken_score_is_found(name, subject):
    result = outcome(subject, name)
    assert result.status == "failed", result


def test_weights_that_do_not_sum_to_one_are_found(monkeypatch):
    monkeypatch.setattr(functional, "attention_weights", lambda *args, **options: attention_weights(*args, **options) * np.float32(0.99))
    for subject in (Distance(), ruvattn.Causal()):
        assert outcome(subject, "weights_are_a_distribution").status == "failed"


def test_logits_that_are_not_masked_are_found(monkeypatch):
    monkeypatch.setattr(functional, "attention_logits", lambda *args, **options: np.maximum(attention_logits(*args, **options), np.float32(-1e30)))
    assert outcome(ruvattn.Causal(), "logits_are_masked_where_not_allowed").status == "failed"


def test_sinks_and_dropout_that_go_wrong_are_found(monkeypatch):
    monkeypatch.setattr(functional, "attention", FLAWS["agrees_with_oracle"])
    assert outcome(Midpoint(), "agrees_with_oracle_when_weights_do_not_sum_to_one").status == "failed"


def test_row_block_that_the_engine_ignores_is_found(monkeypatch):
    def ignores(q, k, v, *, mask, **options):
        mask.row_block = 1
        return attention(q, k, v, mask=mask, **options)

    monkeypatch.setattr(functional, "attention", ignores)
    assert outcome(Blocks(), "ranges_are_asked_from_multiples_of_row_block").status == "failed"


# Compiled forms: functions in Python behind a C signature, so that their flaws can be written down here.

POINTER, SIZE = ctypes.POINTER(ctypes.c_float), ctypes.c_ssize_t
FORWARD = ctypes.CFUNCTYPE(None, POINTER, SIZE, SIZE, SIZE, *5 * [POINTER], SIZE, ctypes.c_void_p)
VJP = ctypes.CFUNCTYPE(None, *2 * [POINTER], *3 * [SIZE], *5 * [POINTER], SIZE, *5 * [POINTER], ctypes.c_void_p)


def block(pointer, *shape):
    return np.ctypeslib.as_array(pointer, shape)


def forward(dots, m, n, ld, rows, cols, params, q, k, d, data):
    s = block(dots, m, ld)[:, :n]
    s[...] = (2 * s - block(rows, m, 1) - block(cols, ld)[:n]) * (0.5 / params[0] ** 2)


def vjp(dots, dlogits, m, n, ld, rows, cols, params, q, k, d, drows, dcols, dparams, dq, dk, data):
    s, g = block(dots, m, ld)[:, :n], block(dlogits, m, ld)[:, :n] * np.float32(0.5 / params[0] ** 2)
    dparams[0] += float(-2 / params[0] * np.sum(g * (2 * s - block(rows, m, 1) - block(cols, ld)[:n])))
    s[...] = 2 * g
    block(drows, m)[...] -= g.sum(1)
    block(dcols, ld)[:n] -= g.sum(0)


def _half(dots, m, n, ld, rows, cols, params, *rest):
    forward(dots, m, n, ld, rows, cols, params, *rest)
    block(dots, m, ld)[:, :n] /= 2


def _dense_rows(dots, m, n, ld, rows, cols, params, *rest):
    forward(dots, m, n, n, rows, cols, params, *rest)


def _beyond(dots, m, n, ld, *rest):
    forward(dots, m, n, ld, *rest)
    dots[m * ld] = 0.0


def _writes_rows(dots, m, n, ld, rows, *rest):
    forward(dots, m, n, ld, rows, *rest)
    rows[0] = 0.0


def _overwrites(dots, dlogits, m, n, ld, rows, cols, params, q, k, d, drows, *rest):
    block(drows, m)[...] = 0
    vjp(dots, dlogits, m, n, ld, rows, cols, params, q, k, d, drows, *rest)


def _no_sigma(*args):
    before = args[13][0]
    vjp(*args)
    args[13][0] = before


def compiled(forward_function=forward, vjp_function=None):
    """Return Distance with a compiled form for float32."""
    scipy = pytest.importorskip("scipy")
    functions = FORWARD(forward_function), None if vjp_function is None else VJP(vjp_function)
    forms = tuple(None if f is None else scipy.LowLevelCallable(f) for f in functions)
    score = type("Compiled", (Distance,), {"kernels": {"float32": forms}})()
    score.kept = None  # the callables keep their functions alive
    return score


def test_a_sound_compiled_form_passes():
    score = compiled(forward, vjp)
    for name in ("declaration", "compiled_logits_match_numpy", "compiled_vjp_matches_numpy", "streamed_forms_agree", "agrees_with_oracle"):
        result = outcome(score, name)
        assert result.status == "passed", result


@pytest.mark.parametrize("flaw", [_half, _dense_rows, _beyond, _writes_rows])
def test_a_broken_compiled_form_is_found(flaw):
    assert outcome(compiled(flaw), "compiled_logits_match_numpy").status == "failed"


@pytest.mark.parametrize("flaw", [_overwrites, _no_sigma])
def test_a_broken_compiled_vjp_is_found(flaw):
    assert outcome(compiled(forward, flaw), "compiled_vjp_matches_numpy").status == "failed"


@pytest.mark.parametrize("name", ["streamed_forms_agree", "logits_match_oracle", "agrees_with_oracle"])
def test_streams_that_differ_are_found(name):
    assert outcome(compiled(_half), name).status == "failed"


def test_missing_forms_are_noted():
    note = "no compiled vjp for float32 and no compiled form for float64: NumPy is used there"
    assert outcome(compiled(), "compiled_logits_match_numpy").message == note
    check = next(check for check in checks_of("score") if check.name == "compiled_logits_match_numpy")
    with pytest.warns(ConformanceNote, match=note):
        check(compiled())


# Patterns with a flaw -----------------------------------------------------------------------------------------------

Causal = ruvattn.Causal


def ranges(change):
    def member(self, i0, i1, lk, *, head=0, batch=0):
        return change(*(list(part) for part in Causal.ranges(self, i0, i1, lk)), lk)

    return member


class Mask(Causal):
    """A lambda cannot be pickled."""

    def __init__(self):
        self.function = lambda i, j: j <= i


class Remembers(Causal):
    """Leaves what a call needs on the instance."""

    def allowed(self, i, j, *, head=0, batch=0):
        self.i = i
        time.sleep(1e-4)
        return j <= self.i

    def ranges(self, *args, **owner):
        return None


class HalfPattern(Causal):
    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        return [0], [min(max(i1, 0), lk)], [False]

    def allowed(self, i, j, *, head=0, batch=0):
        return (j <= i) & ((i >= 0) | (j < 0))


def _writes_positions(self, i, j, *, head=0, batch=0):
    i += 0
    answer = j <= i
    i *= 2
    return answer


def _narrow(self, i, j, *, head=0, batch=0):
    return j.astype(np.int32) <= (2 * i).astype(np.int32)


def _refuses(*args, **options):
    raise RuntimeError("no")


def _pairs(change):
    def member(self, i0, i1, lk, *, head=0, batch=0):
        return change(*(array.copy() for array in Causal.pairs(self, i0, i1, lk)))

    return member


def _twice(indptr, indices):
    """The last key of each row once more."""
    if not indices.size:
        return indptr, indices
    ends = indptr[1:][np.diff(indptr) > 0]
    return indptr + np.concatenate([[0], np.cumsum(np.diff(indptr) > 0)]), np.insert(indices, ends, indices[ends - 1])


class Rows(ruvattn.BoolMask):
    """Explicit pairs of six rows and nine keys."""

    def __init__(self):
        super().__init__(np.random.default_rng(0).random((6, 9)) < 0.5)


class Planes(ruvattn.BoolMask):
    """Explicit pairs of two batch entries and three heads."""

    def __init__(self):
        super().__init__(np.random.default_rng(0).random((2, 3, 6, 9)) < 0.5)


class ByHead(EveryOther):
    by_head = True

    def strided_parts(self, head=0):
        return None if head else [(2, ruvattn.Causal())]


class Listed(Causal):
    """Says that its pairs are scattered, and lists one too few."""

    scattered = True
    pairs = _pairs(lambda indptr, indices: (np.minimum(indptr, max(len(indices) - 1, 0)), indices[: max(len(indices) - 1, 0)]))


BROKEN_PATTERNS = {
    "declaration": [
        broken(Causal, row_block=0),
        broken(Causal, row_block=True),
        broken(Causal, by_head="yes"),
        broken(Causal, scattered=None),
    ],
    "pairs_are_those_allowed": [
        broken(Causal, pairs=_pairs(lambda indptr, indices: (indptr, indices[::-1] if indices.size else indices))),
        broken(Causal, pairs=_pairs(lambda indptr, indices: (indptr[1:], indices))),
        broken(Causal, pairs=_pairs(lambda indptr, indices: (indptr + 1, indices))),
        broken(Causal, pairs=_pairs(lambda indptr, indices: (indptr, indices.astype(float)))),
        broken(Causal, pairs=_pairs(lambda indptr, indices: (indptr, indices + 1))),
        broken(Causal, pairs=_pairs(lambda indptr, indices: indices)),
        broken(Causal, pairs=_pairs(_twice)),
        Listed(),
    ],
    "edges_and_tiles_agree": [Listed()],
    "at_counts_rows_from_elsewhere": [
        broken(Rows, at=lambda self, offset: self),
        broken(Rows, at=lambda self, offset: ruvattn.Pattern.at(self, -offset)),
        broken(Causal, at=lambda self, offset: ruvattn.Window(-1, max(offset, 0))),
        broken(Strided, at=lambda self, offset: self if offset == 0 else Causal()),
    ],
    "check_fits_tells_what_fits": [
        broken(Planes, check_fits=lambda self, lead, heads, lq, lk: None),
        broken(Planes, check_fits=lambda self, lead, heads, lq, lk: self.mask[:, heads - 1]),
        broken(Planes, check_fits=lambda self, lead, heads, lq, lk: ruvattn.BoolMask.check_fits(self, (2,), heads, lq, lk)),
        broken(Causal, check_fits=lambda self, lead, heads, lq, lk: _refuses()),
    ],
    "strided_parts_are_the_pattern": [
        EveryOther((2, Causal()), (1, ruvattn.Window(0, 0))),
        EveryOther((3, Causal())),
        EveryOther((2, ruvattn.Window(3, 0))),
        EveryOther((2, Strided())),
        ByHead(),
    ],
    "allowed_returns_booleans": [
        broken(Causal, allowed=lambda self, i, j, **_: (j <= i).astype(np.int8)),
        broken(Causal, allowed=lambda self, i, j, **_: (j <= i)[..., None]),
        broken(Causal, allowed=lambda self, i, j, **_: np.tri(len(i), j.shape[1], dtype=bool)),
    ],
    "allowed_elementwise": [
        broken(Causal, allowed=lambda self, i, j, **_: j - np.min(j, initial=9) <= i),
        broken(Causal, allowed=lambda self, i, j, **_: (j <= i) | (np.size(i) > 1)),
    ],
    "allowed_does_not_write": [broken(Causal, allowed=_writes_positions)],
    "far_positions_do_not_overflow": [broken(Causal, allowed=_narrow)],
    "by_head_and_by_batch_are_true": [
        broken(Causal, allowed=lambda self, i, j, *, head=0, batch=0: j <= i + head),
        broken(Causal, allowed=lambda self, i, j, *, head=0, batch=0: j <= i + batch),
    ],
    "ranges_are_well_formed": [
        broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts[::-1], stops[::-1], full))),
        broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts, [stop + 1 for stop in stops], full))),
        broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts, stops, [*full, True]))),
        broken(Causal, ranges=ranges(lambda starts, stops, full, lk: starts)),
    ],
    "ranges_agree_with_allowed": [
        broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts, stops, [True for _ in full]))),
        broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts[1:], stops[1:], full[1:]))),
    ],
    "attention_equals_dense_mask": [broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts, stops, [True for _ in full])))],
    "logits_are_masked_where_not_allowed": [broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts, stops, [True for _ in full])))],
    "agrees_with_oracle": [broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts[1:], stops[1:], full[1:])))],
    "masked_has_no_influence": [broken(Causal, ranges=ranges(lambda starts, stops, full, lk: (starts, stops, [True for _ in full])))],
    "parallel_calls_agree": [],
    "pickle_round_trip": [Mask()],
    "empty_rows_are_zeros": [broken(Causal, ranges=lambda self, i0, i1, lk, **_: ([0], [lk], [True]))],
    "empty_input_gives_empty_output": [broken(Causal, ranges=lambda self, i0, i1, lk, **_: (_refuses() if not lk else None))],
    "wrong_shapes_are_refused": [],
}


@pytest.mark.parametrize(("name", "subject"), [(name, subject) for name, subjects in BROKEN_PATTERNS.items() for subject in subjects])
def test_a_broken_pattern_is_found(name, subject):
    result = outcome(subject, name)
    assert result.status == "failed", result


# Aggregates with a flaw ---------------------------------------------------------------------------------------------


class WritesWeights(SoftMaximum):
    def reduce(self, weights, v):
        weights *= 1.0
        weights[:, 0] += 0.5
        return super().reduce(weights, v)


class KeepsAccumulator(Midpoint):
    """Leaves what a call needs on the instance."""

    def finish(self, acc):
        self.acc = acc
        time.sleep(1e-4)
        return self.acc[..., :-1] / self.acc[..., -1:]


class ScaledByHead(ruvattn.Aggregate):
    """Σ p·v, times the number of the head: the axis of heads tells, or `for_head`."""

    conformance_heads = 3

    def __init__(self, scale=(1.0, 2.0, 3.0)):
        self.scale = scale

    def for_head(self, head):
        return type(self)(self.scale[head])

    def values(self, v):
        scale = np.asarray(self.scale, v.dtype)
        return v * scale[..., None, None]


class UnpicklableMidpoint(Midpoint):
    def __init__(self):
        self.power = lambda x: x**2


BROKEN_AGGREGATES = {
    "heads_are_what_they_are_alone": [
        broken(ScaledByHead, for_head=lambda self, head: ScaledByHead(self.scale[0])),
        broken(ScaledByHead, for_head=lambda self, head: self.scale[head]),
        broken(ScaledByHead, for_head=lambda self, head: SoftMaximum()),
    ],
    "declaration": [
        broken(Midpoint, reduce=lambda self, weights, v: weights @ v),
        broken(SoftMaximum, reduce=ruvattn.Aggregate.reduce),
        broken(SoftMaximum, finish=lambda self, acc: acc),
        broken(Midpoint, linear=1),
    ],
    "values_have_their_shape": [
        broken(Midpoint, values=lambda self, v: v[..., 0]),
        broken(Midpoint, values=lambda self, v: v.astype(np.float64)),
        broken(Midpoint, values=lambda self, v: v.tolist()),
    ],
    "values_are_rowwise": [broken(Midpoint, values=lambda self, v: v - v.mean(-2, keepdims=True))],
    "finish_is_rowwise": [
        broken(Midpoint, finish=lambda self, acc: acc / max(np.abs(acc).max(initial=0), 1e-9)),
        broken(Midpoint, finish=lambda self, acc: acc.ravel()),
        broken(Midpoint, finish=lambda self, acc: acc / acc[0]),
    ],
    "reduce_is_rowwise": [
        broken(SoftMaximum, reduce=lambda self, w, v: w @ v / np.abs(w @ v).max()),
        broken(SoftMaximum, reduce=lambda self, w, v: (w @ v)[0]),
    ],
    "weights_count": [
        broken(SoftMaximum, reduce=lambda self, w, v: np.broadcast_to(v.mean(0), (len(w), v.shape[1]))),
        broken(SoftMaximum, reduce=lambda self, w, v: (w + 0.01) @ v),
        broken(Midpoint, finish=lambda self, acc: 0 * acc[..., :-1]),
    ],
    "partial_sums_merge": [broken(Midpoint, values=lambda self, v: v - v.mean(-2, keepdims=True))],
    "values_vjp_matches_differences": [broken(Shifted, values_vjp=lambda self, v, d: d * (1 + v))],
    "finish_vjp_matches_differences": [broken(Midpoint, finish_vjp=lambda self, acc, d: np.concatenate([d / acc[..., -1:], 0 * acc[..., -1:]], -1))],
    "reduce_vjp_matches_differences": [
        broken(SoftMaximum, reduce_vjp=lambda self, w, v, out, d: (SoftMaximum.reduce_vjp(self, w, v, out, d)[0], d)),
        broken(SoftMaximum, reduce_vjp=lambda self, w, v, out, d: (2 * w, SoftMaximum.reduce_vjp(self, w, v, out, d)[1])),
    ],
    "key_order_is_irrelevant": [broken(SoftMaximum, reduce=lambda self, w, v: (w * np.arange(1, w.shape[1] + 1)) @ v)],
    "masked_has_no_influence": [broken(SoftMaximum, reduce=lambda self, w, v: w @ v)],
    "rows_are_independent": [broken(Midpoint, finish=lambda self, acc: acc[..., :-1] + 0 * acc.sum())],
    "parallel_calls_agree": [KeepsAccumulator()],
    "pickle_round_trip": [UnpicklableMidpoint()],
    "extremes_stay_finite": [broken(Midpoint, finish=lambda self, acc: acc[..., :-1] ** 2 / acc[..., -1:])],
    "inputs_are_not_written": [broken(Midpoint, values=lambda self, v: np.square(v, out=v)), WritesWeights()],
}


@pytest.mark.parametrize(("name", "subject"), [(name, subject) for name, subjects in BROKEN_AGGREGATES.items() for subject in subjects])
def test_a_broken_aggregate_is_found(name, subject):
    result = outcome(subject, name)
    assert result.status == "failed", result


def test_an_aggregate_of_several_heads_passes():
    check_aggregate(ScaledByHead())


# Variants with a flaw -----------------------------------------------------------------------------------------------


class Variant(StandardAttention):
    """A sound variant of another name, to derive the broken ones from."""


def variant(**members):
    return type("Broken", (Variant,), members)


def attends(change):
    """Change what a call returns: change(self, out, inputs, options) -> out."""

    def attend(self, q, k=None, v=None, **options):
        out, context = Variant.attend(self, q, k, v, **options)
        return change(self, out, context.inputs, options), context

    return variant(attend=attend)


def _scaled_context(self, q, k=None, v=None, **options):
    _, context = Variant.attend(self, q, k, v, **options)
    context.out = context.out * np.float32(1.01)
    return context.out, context


def _lost_options(self, q, k=None, v=None, **options):
    out, context = Variant.attend(self, q, k, v, **options)
    context.options = {}
    return out, context


def _counts(self, out, inputs, options):
    self.calls = getattr(self, "calls", 0) + 1
    return out + np.float32(1e-3) * self.calls


def _looks_at_strides(self, out, inputs, options):
    return out if inputs[0].flags.c_contiguous and inputs[0].flags.aligned else out + 1


def _through_self(self, q, k=None, v=None, **options):
    self.given = q, k, v
    time.sleep(1e-4)
    return Variant.attend(self, *self.given, **options)


def _cuts(self, q, k=None, v=None, **options):
    n = min(np.shape(k)[-2], np.shape(v)[-2])
    return Variant.attend(self, q[..., : self.embed_dim], k[..., :n, : self.embed_dim], v[..., :n, :], **options)


def _casts(self, q, k=None, v=None, **options):
    return Variant.attend(self, *(np.asarray(x, float).astype(np.float32) for x in (q, k, v)), **options)


def _empty_is_fine(self, q, k=None, v=None, **options):
    if not (q.size and k.size):
        return np.zeros(q.shape, q.dtype), None
    return Variant.attend(self, q, k, v, **options)


def _fills_empty_rows(self, q, k=None, v=None, **options):
    out, context = Variant.attend(self, q, k, v, **options)
    context.out = np.where(np.isneginf(context.lse)[..., None], context.v.mean(), context.out)
    return out, context


def _half_precision(self, out, inputs, options):
    return out.astype(np.float16).astype(out.dtype)


def _ignores_seed(self, q, k=None, v=None, **options):
    if "seed" in options:
        options["seed"] = int(time.perf_counter_ns() % 2**32)
    return Variant.attend(self, q, k, v, **options)


def _returns_a_copy(self, q, k=None, v=None, *, out=None, **options):
    return Variant.attend(self, q, k, v, **options)


def _writes_keys(self, out, inputs, options):
    if inputs[1].flags.writeable:
        inputs[1][..., 0] = 0
    return out


_single = Variant(embed_dim=24, num_heads=3)
_memory = {}


class SharedMemory(Variant):
    """Remembers calls for all threads together."""

    def _remember(self, context):
        time.sleep(1e-4)
        _memory[id(self)] = context
        time.sleep(1e-4)

    def _remembered(self):
        return _memory.get(id(self))


class Unforgetting(Variant):
    def __getstate__(self):
        return {**super().__getstate__(), "kept": self.get_attention_weights()}

    def get_attention_weights(self, context=None):
        found = super().get_attention_weights(context)
        return self.__dict__.get("kept") if found is None else found


class OtherConfig(Variant):
    @property
    def config(self):
        return AttentionConfig(self.embed_dim + 1, self.num_heads)


class Trained(Variant):
    training = True


def _weights(change):
    return variant(get_attention_weights=lambda self, context=None: change(Variant.get_attention_weights(self, context)))


def _lenient(embed_dim, num_heads=1, **options):
    return Variant(max(1, int(abs(embed_dim))), max(1, int(num_heads)), **options)


def _mean_of_all(self, out, inputs, options):
    return out + np.nan_to_num(inputs[2], nan=9.0, posinf=9.0).mean()


def _overflows(self, out, inputs, options):
    return out + 0 * (inputs[0].astype(np.float32) ** 3).sum()


def _leaks_a_key(self, q, k=None, v=None, *, query_offset=0, **options):
    if options.get("causal") and not isinstance(query_offset, str):
        query_offset = query_offset + 1
    return Variant.attend(self, q, k, v, query_offset=query_offset, **options)


def _hides_a_key(self, q, k=None, v=None, *, key_lengths=None, **options):
    if key_lengths is not None:
        key_lengths = np.maximum(key_lengths - 1, 0)
    return Variant.attend(self, q, k, v, key_lengths=key_lengths, **options)


def _without(*names):
    """Attend as if these options were not given."""

    def attend(self, q, k=None, v=None, **options):
        return Variant.attend(self, q, k, v, **{name: value for name, value in options.items() if name not in names})

    return attend


BROKEN_VARIANTS = {
    "can_be_made": [lambda embed_dim, num_heads: _single, OtherConfig, Trained, lambda embed_dim, num_heads: None],
    "config_round_trip": [OtherConfig, Variant],
    "pickle_round_trip": [Unforgetting, variant(__reduce__=lambda self: (StandardAttention, (4, 4)))],
    "shapes_and_dtypes": [
        attends(lambda self, out, *_: out.astype(np.float64)),
        attends(lambda self, out, *_: out[..., :1, :]),
        variant(__call__=lambda self, *args, return_lse=False, **o: (self.attend(*args, **o)[0], None) if return_lse else self.attend(*args, **o)[0]),
    ],
    "agrees_with_oracle": [variant(attend=_scaled_context), variant(attend=_lost_options), attends(lambda self, out, *_: out * np.float32(2))],
    "forward_batch_equals_forward": [variant(forward_batch=lambda self, *args: Variant.forward_batch(self, *args)[::-1])],
    "forward_equals_call": [variant(forward=lambda self, *args: 2 * Variant.forward(self, *args))],
    "batch_equals_singles": [attends(lambda self, out, inputs, _: out + (out.mean() if out.ndim > 2 else 0))],
    "omitted_keys_are_the_queries": [variant(attend=lambda self, q, k=None, v=None, **o: Variant.attend(self, q, 2 * q if k is None else k, v, **o))],
    "key_order_is_irrelevant": [attends(lambda self, out, inputs, _: out + inputs[2][..., :1, :])],
    "memory_layout_is_irrelevant": [attends(_looks_at_strides)],
    "weights_are_a_distribution": [
        _weights(lambda w: None if w is None else w * np.float32(1.01)),
        _weights(lambda w: None if w is None else w[..., 0, :, :]),
        _weights(lambda w: None if w is None else -w),
    ],
    "weights_give_the_output": [_weights(lambda w: np.full_like(w, 1 / w.shape[-1]))],
    "weights_are_of_this_threads_last_call": [SharedMemory, variant(reset=lambda self: None), variant(_remember=lambda self, context: None)],
    "masked_has_no_influence": [attends(_mean_of_all)],
    "empty_rows_are_zeros": [variant(attend=_fills_empty_rows)],
    "masks_hide_what_they_say": [
        variant(attend=_leaks_a_key), variant(attend=_hides_a_key), variant(attend=_without("key_lengths")), variant(attend=_without("query_offset")),
    ],
    "calls_are_repeatable": [attends(_counts)],
    "dropout_follows_its_seed": [variant(attend=_ignores_seed)],
    "same_bits_for_any_number_of_threads": [attends(lambda self, out, _, options: out * (1 + np.float32(1e-6) * (options.get("threads") or 0)))],
    "parallel_calls_agree": [variant(attend=_through_self), SharedMemory],
    "inputs_are_not_written": [attends(_writes_keys)],
    "out_is_honoured": [variant(attend=_returns_a_copy)],
    "wrong_shapes_are_refused": [variant(attend=_cuts)],
    "wrong_dtypes_are_refused": [variant(attend=_casts)],
    "not_finite_input_is_refused": [lambda embed_dim, num_heads: Variant(embed_dim, num_heads, check_finite=False)],
    "empty_input_is_refused": [variant(attend=_empty_is_fine)],
    "too_many_keys_are_refused": [lambda embed_dim, num_heads, max_keys=None: Variant(embed_dim, num_heads, max_keys=None)],
    "wrong_options_are_refused": [_lenient],
    "extremes_stay_finite": [attends(_overflows)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "factory"), [(name, factory) for name, factories in BROKEN_VARIANTS.items() for factory in factories])
def test_a_broken_variant_is_found(name, factory):
    result = outcome(factory, name)
    assert result.status == "failed", result


def test_a_sound_variant_passes_but_for_its_name():
    wrong = [result for result in run_checks([Variant]) if result.status == "failed"]
    assert [result.name for result in wrong] == ["config_round_trip"]  # its configuration makes a StandardAttention


class WithoutContext(Variant):
    """Leaves nothing behind that the oracle could be asked with."""

    def attend(self, q, k=None, v=None, **options):
        out, context = super().attend(q, k, v, **options)

        class Opaque(ruvattn.Context):
            def weights(self, threads=None):
                return context.weights()

        return out, Opaque(None, None, None, None, context.lse)


def test_a_variant_whose_arithmetic_cannot_be_told_is_checked_through_its_weights():
    assert outcome(WithoutContext, "agrees_with_oracle").status == "skipped"
    assert outcome(WithoutContext, "weights_give_the_output").status == "passed"
    broken = type("Broken", (WithoutContext,), {"attend": lambda self, *a, **o: (lambda out, c: (out * 2, c))(*WithoutContext.attend(self, *a, **o))})
    assert outcome(broken, "weights_give_the_output").status == "failed"


# Attention along edges with a flaw ------------------------------------------------------------------------------------


def read_edges(edge_index, nodes):
    """Return sources and destinations, checked."""
    if isinstance(edge_index, list):
        edges = np.array(edge_index if edge_index else np.empty((0, 2), int))
        edges = edges.T if edges.ndim == 2 and edges.shape[1] == 2 else edges
    else:
        edges = np.asarray(edge_index)
    if edges.dtype.kind not in "iu":
        raise InvalidInputError(f"edge_index must be ints, got {edges.dtype}")
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise DimensionMismatchError(f"edge_index must have shape (2, E), got {edges.shape}")
    for end, limit in zip(edges, nodes, strict=True):
        if end.size and not 0 <= end.min() <= end.max() < limit:
            raise InvalidInputError(f"edge_index must have ids below {limit}")
    return edges.astype(np.int64)


class AlongEdges(Variant, ruvattn.GraphAttention):
    """A sound variant for graphs: dense, with the logarithm of how many edges there are as a bias."""

    edge_dim = None

    def forward_with_edges(self, query, keys, values, edge_index, edge_attr=None, *, threads=None):
        if edge_attr is not None:
            raise InvalidInputError("edge_attr must be left out: edges have no features")
        for name, x in (("query", query), ("keys", keys), ("values", values)):
            if np.ndim(x) != 2:
                raise DimensionMismatchError(f"{name} must be (N, E), got {np.shape(x)}")
            if self.config.options["check_finite"] and np.asarray(x).dtype.kind == "f" and not np.isfinite(x).all():
                raise InvalidInputError(f"{name} must be finite")
        return self.along(query, keys, values, self.read(edge_index, (len(keys), len(query))), threads)

    def read(self, edge_index, nodes):
        return read_edges(edge_index, nodes)

    def along(self, query, keys, values, edges, threads=None):
        count = np.zeros((len(query), len(keys)))
        np.add.at(count, (edges[1], edges[0]), 1)
        compute = np.float64 if np.asarray(query).dtype == np.float64 else np.float32
        return self(query, keys, values, bias=np.log(count).astype(compute), threads=threads)

    def forward_graph(self, x, edge_index, edge_attr=None, *, threads=None):
        if np.asarray(x).dtype.kind == "f" and self.config.options["check_finite"] and not np.isfinite(x).all():
            raise InvalidInputError("x must be finite")
        return self.forward_with_edges(x, x, x, edge_index, edge_attr, threads=threads)

    def forward_neighborhood(self, node, x, edge_index):
        return self.forward_graph(x, edge_index)[self.number(node, "node", 0, len(x))]

    def forward_k_hop(self, node, x, edge_index, k):
        at, k = self.number(node, "node", 0, len(x)), self.number(k, "k", 1, 1000)
        return self.forward_graph(x, [(source, at) for source in self.reached(at, self.read(edge_index, (len(x), len(x))), k)])[at]

    def number(self, value, name, least, stop):
        if type(value) is not int or not least <= value < stop:
            raise InvalidInputError(f"{name} must be an int from {least} to {stop - 1}, got {value!r}")
        return value

    def reached(self, node, edges, k):
        found, front = {node}, {node}
        for _ in range(k):
            front = {int(source) for source, destination in edges.T if destination in front} - found
            found |= front
        loops = edges[:, edges[0] == edges[1]]
        return sorted(found if node in loops[0] else found - {node})


def along_edges(base=AlongEdges, **members):
    return type("BrokenAlongEdges", (base,), members)


def graph_result(change):
    """Change what forward_graph returns: change(out, x, edge_index, threads) -> out."""

    def forward_graph(self, x, edge_index, edge_attr=None, *, threads=None):
        out = AlongEdges.forward_graph(self, x, edge_index, edge_attr, threads=threads)
        return change(out, x, edge_index, threads)

    # what is made of one node goes the sound way
    return along_edges(forward_graph=forward_graph, forward_neighborhood=_row(AlongEdges), forward_k_hop=_one_of_all)


def _row(base):
    return lambda self, node, x, edge_index: base.forward_graph(self, x, edge_index)[self.number(node, "node", 0, len(x))]


def _one_of_all(self, node, x, edge_index, k):
    return Sound.forward_k_hop(Sound(self.embed_dim, self.num_heads), node, x, edge_index, k)


class Sound(AlongEdges):
    """To call instead of what is broken."""


def _edges_as(change):
    """Change the edges that are attended along: change(edges) -> edges."""
    return along_edges(along=lambda self, q, k, v, edges, threads=None: AlongEdges.along(self, q, k, v, change(edges), threads))


def _reads(change):
    """Change how an edge_index is read: change(edge_index, nodes) -> edges."""
    return along_edges(read=lambda self, edge_index, nodes: change(edge_index, nodes))


def _lists_the_other_way(edge_index, nodes):
    return read_edges(edge_index, nodes)[::-1] if isinstance(edge_index, list) else read_edges(edge_index, nodes)


def _clips_ids(edge_index, nodes):
    edges = np.array(edge_index).T if isinstance(edge_index, list) else np.asarray(edge_index)
    return read_edges(np.clip(edges, 0, np.array(nodes)[:, None] - 1).astype(int), nodes)


def _turns_arrays_of_pairs(edge_index, nodes):
    array = np.asarray(edge_index)
    return read_edges(array.T if array.ndim == 2 and array.shape[1] == 2 and array.shape[0] != 2 else edge_index, nodes)


def _reaches(change):
    return along_edges(reached=change)


def _takes_any_number(self, value, name, least, stop):
    return min(max(int(value or 0), least), stop - 1)


def _writes_edges(self, x, edge_index, edge_attr=None, *, threads=None):
    if isinstance(edge_index, np.ndarray) and edge_index.flags.writeable:
        edge_index.sort(axis=1)
    return AlongEdges.forward_graph(self, x, edge_index, edge_attr, threads=threads)


def _needs_writable(self, x, edge_index, edge_attr=None, *, threads=None):
    np.require(x).view(x.dtype).flags.writeable = True  # raises where it may not be
    return AlongEdges.forward_graph(self, x, edge_index, edge_attr, threads=threads)


def _ignores_attr(self, x, edge_index, edge_attr=None, *, threads=None):
    return AlongEdges.forward_graph(self, x, edge_index, threads=threads)


def _takes_batches(self, x, edge_index, edge_attr=None, *, threads=None):
    return AlongEdges.forward_graph(self, np.asarray(x)[0] if np.ndim(x) == 3 else x, edge_index, edge_attr, threads=threads)


def _fills_lonely_rows(self, query, keys, values, edges, threads=None):
    out = AlongEdges.along(self, query, keys, values, edges, threads)
    lonely = np.bincount(edges[1], minlength=len(query)) == 0
    return np.where(lonely[:, None], np.asarray(values).mean(0), out).astype(out.dtype)


def _nothing_for_lonely_rows(self, query, keys, values, edges, threads=None):
    out = AlongEdges.along(self, query, keys, values, edges, threads)
    lonely = np.bincount(edges[1], minlength=len(query)) == 0
    return np.where(lonely[:, None], np.nan, out).astype(out.dtype)


def _first_edge_counts_double(edges):
    return np.concatenate([edges, edges[:, :1]], axis=1)


def _edges_by_self(self, query, keys, values, edges, threads=None):
    self.last = edges
    time.sleep(1e-4)
    edges = self.last
    edges = np.stack([np.clip(edges[0], 0, len(keys) - 1), np.clip(edges[1], 0, len(query) - 1)])
    return AlongEdges.along(self, query, keys, values, edges, threads)


def _poisoned(out, x, edge_index, threads):
    return out + 0 * np.asarray(x).sum() if np.asarray(x).dtype != np.float16 else out


def _lenient_graph(self, x, edge_index, edge_attr=None, *, threads=None):
    return AlongEdges.forward_graph(self, np.nan_to_num(x), edge_index, edge_attr, threads=threads)


BROKEN_GRAPHS = {
    "graph_shapes_and_dtypes": [
        graph_result(lambda out, *_: out.astype(np.float64)),
        graph_result(lambda out, *_: out[:1]),
        graph_result(lambda out, *_: np.concatenate([out, out], -1)),
        along_edges(forward_neighborhood=lambda self, node, x, edges: AlongEdges.forward_neighborhood(self, node, x, edges)[None]),
        along_edges(forward_k_hop=lambda self, node, x, edges, k: AlongEdges.forward_k_hop(self, node, x, edges, k).astype(np.float64)),
    ],
    "graph_edges_may_be_a_list_of_pairs": [
        _reads(_lists_the_other_way),
        graph_result(lambda out, x, edges, _: out + (0 if getattr(edges, "dtype", None) == np.int64 else 1e-15 * out)),
    ],
    "graph_names_of_nodes_are_irrelevant": [graph_result(lambda out, *_: out * np.arange(1, len(out) + 1)[:, None])],
    "graph_order_of_edges_is_irrelevant": [_edges_as(_first_edge_counts_double)],
    "graph_edges_are_a_mask": [
        _edges_as(lambda edges: edges[:, 1:]),
        along_edges(along=lambda self, q, k, v, edges, threads=None: 2 * AlongEdges.along(self, q, k, v, edges, threads)),
    ],
    "graph_edges_between_the_same_nodes_count_each": [_edges_as(lambda edges: np.unique(edges, axis=1))],
    "graph_neighborhood_is_a_row": [
        along_edges(forward_neighborhood=lambda self, node, x, edges: AlongEdges.forward_graph(self, x, edges)[node - 1]),
        along_edges(forward_neighborhood=lambda self, node, x, edges: self.forward_k_hop(node, x, edges, 1)),
    ],
    "graph_k_hop_of_one_is_the_neighborhood": [
        _reaches(lambda self, node, edges, k: [*AlongEdges.reached(self, node, edges, k), node]),
        _reaches(lambda self, node, edges, k: AlongEdges.reached(self, node, edges, k + 1)),
        type("Far", (AlongEdges,), {"neighborhood_hops": 2}),
    ],
    "graph_k_hop_reaches_along_incoming_edges": [
        _reaches(lambda self, node, edges, k: AlongEdges.reached(self, node, edges, k + 1)),
        _reaches(lambda self, node, edges, k: AlongEdges.reached(self, node, edges, 1)),
        _reaches(lambda self, node, edges, k: AlongEdges.reached(self, node, edges[::-1], k)),
        _reaches(lambda self, node, edges, k: AlongEdges.reached(self, node, np.concatenate([edges, edges[::-1]], 1), k)),
    ],
    "graph_nodes_see_their_neighborhood": [
        _edges_as(lambda edges: edges[::-1]),
        _edges_as(lambda edges: np.concatenate([edges, edges[::-1]], axis=1)),
        _edges_as(lambda edges: np.stack([edges[1], edges[1]])),
    ],
    "graph_nodes_without_edges_are_finite": [along_edges(along=_fills_lonely_rows), along_edges(along=_nothing_for_lonely_rows)],
    "graph_extremes_stay_finite": [graph_result(lambda out, x, *_: out + 0 * (np.asarray(x, out.dtype) ** 3).sum())],
    "graph_inputs_are_not_written": [along_edges(forward_graph=_writes_edges), along_edges(forward_graph=_needs_writable)],
    "graph_same_bits_for_any_number_of_threads": [graph_result(lambda out, x, edges, threads: out * out.dtype.type(1 + 1e-6 * (threads or 1)))],
    "graph_parallel_calls_agree": [along_edges(along=_edges_by_self)],
    "graph_bad_edges_are_refused": [_reads(_clips_ids), _reads(_turns_arrays_of_pairs)],
    "graph_bad_nodes_are_refused": [along_edges(number=_takes_any_number)],
    "graph_bad_features_are_refused": [along_edges(forward_graph=_ignores_attr), along_edges(forward_graph=_takes_batches)],
    "graph_not_finite_features_are_refused": [graph_result(_poisoned), along_edges(forward_graph=_lenient_graph)],
}


@pytest.mark.parametrize(("name", "factory"), [(name, factory) for name, factories in BROKEN_GRAPHS.items() for factory in factories])
def test_broken_attention_along_edges_is_found(name, factory):
    result = outcome(factory, name)
    assert result.status == "failed", result
    assert "raised AttributeError" not in result.message


def test_sound_attention_along_edges_passes():
    results = run_checks([AlongEdges], only=list(BROKEN_GRAPHS))
    assert [(result.name, result.message) for result in results if result.status != "passed"] == []


def test_what_is_no_attention_along_edges_is_not_asked_about_graphs():
    results = run_checks([Variant], only=list(BROKEN_GRAPHS))
    assert {(result.status, result.message) for result in results} == {("skipped", "it is no GraphAttention")}


class Wide(AlongEdges):
    """Sources have a width of their own, so that no graph has one set of nodes."""

    def __init__(self, embed_dim, num_heads):
        super().__init__(embed_dim, num_heads)
        self.key_dim = embed_dim + 2

    def project_inputs(self, q, k, v):
        return q, k[..., : self.embed_dim], v


def test_sources_of_another_width_are_checked_by_edges_alone():
    found = {result.name: result.status for result in run_checks([Wide], only=list(BROKEN_GRAPHS))}
    passed = {"graph_edges_are_a_mask", "graph_edges_between_the_same_nodes_count_each"}
    assert found == {name: "passed" if name in passed else "skipped" for name in BROKEN_GRAPHS}


class Featured(AlongEdges):
    """Edges have features, which are looked at."""

    edge_dim = 2

    def forward_graph(self, x, edge_index, edge_attr=None, *, threads=None):
        if edge_attr is not None and np.shape(edge_attr) != (self.read(edge_index, (len(x), len(x))).shape[1], 2):
            raise DimensionMismatchError(f"edge_attr must have shape (E, 2), got {np.shape(edge_attr)}")
        out = super().forward_graph(x, edge_index, threads=threads)
        return out if edge_attr is None else self.featured(out, self.read(edge_index, (len(x), len(x)))[1], edge_attr)

    def forward_with_edges(self, query, keys, values, edge_index, edge_attr=None, *, threads=None):
        return super().forward_with_edges(query, keys, values, edge_index, threads=threads)

    def featured(self, out, rows, edge_attr):
        np.add.at(out, rows, edge_attr.sum(1, keepdims=True).astype(out.dtype))
        return out


def test_features_of_edges_are_tried_where_the_variant_takes_them():
    results = run_checks([Featured], only=list(BROKEN_GRAPHS))
    assert [(result.name, result.message) for result in results if result.status != "passed"] == []
    by_place = along_edges(Featured, featured=lambda self, out, rows, attr: out + (attr[0].sum() if len(attr) else 0).astype(out.dtype))
    assert outcome(by_place, "graph_order_of_edges_is_irrelevant").status == "failed"


# No check without a test that it can fail -----------------------------------------------------------------------------

OTHERWISE = {
    "score": {"logits_match_oracle", "compiled_logits_match_numpy", "compiled_vjp_matches_numpy", "streamed_forms_agree"},
    "pattern": {"weights_are_a_distribution", "ranges_are_asked_from_multiples_of_row_block"},
    "aggregate": {"agrees_with_oracle_when_weights_do_not_sum_to_one"},
    "variant": set(),
}
"""What other tests here break."""

OF_GRADIENTS = (gradients.SCORES, gradients.PATTERNS, gradients.AGGREGATES, training.CHECKS, graph_training.CHECKS)
ELSEWHERE = {check.name for checks in OF_GRADIENTS for check in checks}
"""What test_testing_gradients.py breaks."""


@pytest.mark.parametrize(
    ("family", "broken"),
    [("score", BROKEN_SCORES), ("pattern", BROKEN_PATTERNS), ("aggregate", BROKEN_AGGREGATES), ("variant", {**BROKEN_VARIANTS, **BROKEN_GRAPHS})],
)
def test_every_check_has_something_that_it_finds(family, broken):
    found = {name for name, subjects in broken.items() if subjects} | OTHERWISE[family]
    if family != "variant":
        found |= set(FLAWS)
    assert names_of(family) - found - ELSEWHERE == set()


# Running checks -------------------------------------------------------------------------------------------------------


def test_the_message_names_the_smallest_case():
    result = outcome(broken(Distance, logits=_logits(lambda x: np.full(x.shape, np.nan) if x.shape[1] > 1 else x)), "logits_have_their_shape")
    assert result.message == "logits of ordinary inputs must be finite; the case: m=1, n=3, width=5, dtype='float32'"


def test_the_message_names_the_pair():
    message = outcome(BROKEN_PATTERNS["ranges_agree_with_allowed"][0], "ranges_agree_with_allowed").message
    assert "is called full, and a pair in it is not allowed: i=0, j=1" in message
    assert "i0=0, i1=2" in message


def test_what_a_subject_raises_is_in_the_result():
    result = outcome(broken(Distance, row_terms=_refuses), "shapes_and_dtypes")
    assert result.status == "failed"
    assert result.message.startswith("raised RuntimeError: no; the case: shape=")
    assert "_refuses" in result.traceback


def test_check_functions_list_what_fails():
    with pytest.raises(CheckFailure, match=r"fails \d+ of \d+ checks") as raised:
        check_score(broken(Distance, row_terms_vjp=_halved("row_terms_vjp")))
    assert "\n  row_terms_vjp_matches_differences: row_terms_vjp, dq: must agree with finite differences" in str(raised.value)


def test_check_functions_return_results():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for check, subject, family in ((check_pattern, Causal(), "pattern"), (check_aggregate, ruvattn.WeightedSum(), "aggregate")):
            results = check(subject)
            assert {result.name for result in results} == names_of(family)
            assert {result.status for result in results} <= {"passed", "skipped"}
    assert len(check_variant(StandardAttention)) == len(names_of("variant"))


@pytest.mark.parametrize(
    ("check", "subject", "words"),
    [
        (check_score, Causal(), "check_score takes a Score"),
        (check_pattern, Distance(), "check_pattern takes a Pattern"),
        (check_aggregate, Midpoint, "pass Midpoint"),
        (check_variant, _single, "pass what makes it"),
        (check_score, 3, "must be a Score"),
    ],
)
def test_check_functions_refuse_what_is_something_else(check, subject, words):
    with pytest.raises(InvalidInputError, match=words):
        check(subject)


REASON = {"row_terms_vjp_matches_differences": "the derivative is halved on purpose"}


class Halved(Distance):
    row_terms_vjp = _halved("row_terms_vjp")


HALVED = Halved()


def test_an_expected_failure_is_no_failure():
    results = check_score(HALVED, expected_failures={**REASON, "gradients_through_attention_match_differences": "and so is that of a call"})
    (result,) = (result for result in results if result.name in REASON)
    assert result.status == "xfailed"
    assert result.message.startswith("the derivative is halved on purpose (")


def test_an_expected_failure_that_passes_is_a_failure():
    with pytest.raises(CheckFailure, match="passes, and was expected to fail"):
        check_score(Distance(), expected_failures=REASON)


@pytest.mark.parametrize("reason", ["", "  ", None, True])
def test_an_expected_failure_needs_a_reason(reason):
    with pytest.raises(InvalidInputError, match="say why it fails"):
        check_score(HALVED, expected_failures=dict.fromkeys(REASON, reason))


def test_an_expected_failure_of_no_check_is_refused():
    with pytest.raises(InvalidInputError, match="names 'speed'"):
        check_score(HALVED, expected_failures={"speed": "it is slow"})


def test_expected_failures_can_depend_on_the_subject():
    results = run_checks([HALVED, Distance()], expected_failures=lambda subject: REASON if subject is HALVED else {}, only=list(REASON))
    assert [result.status for result in results] == ["xfailed", "passed"]


def test_a_check_that_does_not_apply_is_skipped():
    result = outcome(Midpoint(), "reduce_is_rowwise")
    assert (result.status, result.message) == ("skipped", "it is linear: it has values and finish")
    check = next(check for check in checks_of("aggregate") if check.name == "reduce_is_rowwise")
    with pytest.raises(NotApplicable):
        check(Midpoint())


def test_results_are_reported_as_they_come():
    seen = []
    results = run_checks({"mine": Causal()}, on_result=lambda result, done, total: seen.append((result, done, total)))
    assert [result for result, _, _ in seen] == results
    assert [done for _, done, _ in seen] == list(range(1, len(results) + 1))
    assert {total for _, _, total in seen} == {len(results)}
    assert {result.subject for result in results} == {"mine"}


def test_subjects_of_one_name_are_told_apart():
    assert [result.subject for result in run_checks([Causal(), Causal()], only=["declaration"])] == ["Causal()", "Causal()#2"]


def test_each_kind_is_a_namespace_of_its_own():
    subjects = [Subject("both", "score", Distance()), Subject("both", "pattern", Causal())]
    assert {result.subject for result in run_checks(subjects, only=["declaration"])} == {"both"}
    ids = [case.id for case in parametrize_with_checks(subjects).args[1]]
    assert {"both score-declaration", "both pattern-declaration"} <= set(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("subjects", [Causal(), 3])
def test_a_subject_that_is_no_list_is_refused(subjects):
    with pytest.raises(InvalidInputError, match=r"write \[subject\]"):
        run_checks(subjects)


def test_only_names_checks():
    with pytest.raises(InvalidInputError, match="only names 'speed'"):
        run_checks([Causal()], only=["speed"])
    with pytest.raises(InvalidInputError, match="write \\['declaration'\\]"):
        run_checks([Causal()], only="declaration")


def test_a_subject_that_cannot_be_made_fails_or_is_skipped():
    results = run_checks([Subject("a", "score", None, "needs scale="), Subject("b", "score", None, "its factory raised", broken=True)])
    assert [(result.name, result.status) for result in results] == [("can_be_made", "skipped"), ("can_be_made", "failed")]


# pytest -------------------------------------------------------------------------------------------------------------

CASES = """
import pytest
from ruvattn import Causal
from ruvattn.testing import Subject, parametrize_with_checks
from test_testing import HALVED, REASON, Distance

@parametrize_with_checks([Causal()])
def test_sound(subject, check):
    check(subject)

@parametrize_with_checks({"halved": HALVED}, expected_failures=REASON)
def test_expected(subject, check):
    check(subject)

@parametrize_with_checks({"halved": HALVED})
def test_not_expected(subject, check):
    check(subject)

@parametrize_with_checks({"distance": Distance()}, expected_failures=REASON)
def test_not_broken(subject, check):
    check(subject)

@parametrize_with_checks([Subject("lost", "score", None, "why not"), Subject("gone", "score", None, "it broke", broken=True)])
def test_missing(subject, check):
    check(subject)
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Run the cases above under pytest; test identifier to outcome."""
    import os
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("cases")
    (folder / "test_cases.py").write_text(CASES)
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(os.path.dirname(ruvattn.__file__)), *filter(None, [os.environ.get("PYTHONPATH")])])
    wanted = ["-k", "terms_vjp or declaration or can_be_made or reduce"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--tb=line", *wanted, "test_cases.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "test_cases.py" in process.stdout, process.stderr
    return process.stdout


@pytest.mark.parametrize(
    "line",
    [
        "PASSED test_cases.py::test_sound[Causal()-declaration]",
        "XFAIL test_cases.py::test_expected[halved-row_terms_vjp_matches_differences] - the derivative is halved on purpose",
        "PASSED test_cases.py::test_expected[halved-declaration]",
        "FAILED test_cases.py::test_not_expected[halved-row_terms_vjp_matches_differences]",
        "PASSED test_cases.py::test_not_expected[halved-declaration]",
        "FAILED test_cases.py::test_not_broken[distance-row_terms_vjp_matches_differences]",
        "FAILED test_cases.py::test_missing[gone-can_be_made]",
    ],
)
def test_parametrize_with_checks_makes_cases(report, line):
    assert line in report


def test_parametrize_with_checks_skips_what_cannot_be_made(report):
    assert "why not" in report
    assert "test_missing[lost-can_be_made]" not in report.split("short test summary")[1].replace("SKIPPED", "")


def test_parametrize_with_checks_refuses_what_cannot_be_checked():
    with pytest.raises(InvalidInputError, match="got the class"):
        parametrize_with_checks([Distance])


# What is registered ---------------------------------------------------------------------------------------------------


def test_suite_holds_what_is_registered():
    families = {subject.family for subject in suite("all", distributions=["ruvattn"])}
    assert families == {"variant", "score", "pattern", "aggregate"}
    assert {subject.family for subject in suite("patterns", distributions=["ruvattn"])} == {"pattern"}
    assert suite("all", distributions=[]) == []


def test_suite_refuses_a_name_that_is_none():
    with pytest.raises(InvalidInputError, match="suite must be one of variants"):
        suite("speed")


PLUGIN = """
from ruvattn import Causal, Dot, Window

class Sized:
    conformance_options = ({"left": 2, "right": 0},)

    def __call__(self, left, right):
        return Window(left, right)

def needy(left):
    return Window(left, 0)

def failing():
    raise OSError("no disk")

def ruvattn_register(registry):
    registry.pattern("sized", Sized())
    registry.pattern("needy", needy)
    registry.pattern("failing", failing)
"""


def test_suite_says_what_cannot_be_tried(fake_plugins):
    fake_plugins.install("some-patterns", PLUGIN)
    found = {subject.name: subject for subject in suite("patterns", distributions=["some-patterns"])}
    assert set(found) == {"sized(left=2, right=0)", "needy", "failing"}
    assert found["sized(left=2, right=0)"].target.left == 2
    assert found["needy"].problem == "needs left=, and its factory has no conformance_options that say with what to try it"
    assert not found["needy"].broken
    assert found["failing"].problem == "its factory raised OSError: no disk"
    assert found["failing"].broken


# Tools ----------------------------------------------------------------------------------------------------------------


def test_finite_differences_are_exact_for_cubics():
    at = np.array([[0.5, -2.0], [10.0, 0.0]])
    found = finite_difference(lambda x: float(np.sum(x**3)), at)
    np.testing.assert_allclose(found, 3 * at**2, atol=1e-8)
    assert finite_difference(lambda x: float(x) ** 2, np.array(3.0)) == pytest.approx(6)


def test_a_gradient_is_not_asked_for_at_a_kink():
    at = np.array([1e-4, 0.3])
    require_gradient(np.array([1.0, 1.0]), lambda x: float(np.abs(x).sum()), at, "dx")
    with pytest.raises(CheckFailure, match=r"dx: must agree with finite differences: got -1\.0 instead of 1\.0\d* at \[1\]"):
        require_gradient(np.array([1.0, -1.0]), lambda x: float(np.abs(x).sum()), at, "dx")
    with pytest.raises(CheckFailure, match="got nan"):
        require_gradient(np.array([np.nan, 1.0]), lambda x: float(np.abs(x).sum()), at, "dx")


@pytest.mark.parametrize("width", [1e-8, 1e-3, 0.03, 0.25, 30.0])
def test_differences_are_small_beside_the_parameter(width):
    at = np.array(width)
    gradient = -2 / at**3
    require_gradient(gradient, lambda x: float(1 / x**2), at, "dwidth")
    with pytest.raises(CheckFailure, match="dwidth: must agree with finite differences"):
        require_gradient(1.01 * gradient, lambda x: float(1 / x**2), at, "dwidth")


def test_threads_raise_what_one_of_them_raised():
    def work(i):
        if i == 3:
            raise ZeroDivisionError
        return i

    with pytest.raises(ZeroDivisionError):
        in_threads(work, 5)
    assert in_threads(lambda i: i * i, 4) == [0, 1, 4, 9]


def test_zeros_of_other_sign_are_other_bits():
    require_same_bits(np.zeros(2), np.zeros(2), "same")
    with pytest.raises(CheckFailure, match=r"same: got -0\.0 instead of 0\.0 at \[1\]"):
        require_same_bits(np.array([0.0, -0.0]), np.zeros(2), "same")


def test_accuracy_is_measured_by_the_naive_error():
    expected = np.linspace(1, 2, 100)
    naive = expected + 1e-6 * np.sign(np.sin(np.arange(100)))
    for error, match in ((2.5e-6, "RMS"), (5e-6, "allowed difference")):
        found = (expected + error).astype(np.float32)
        with pytest.raises(CheckFailure, match=match):
            require_accurate(found, expected, naive.astype(np.float32), "close", samples=10**6)
        # Of few errors, the naive ones may be small by luck.
        require_accurate(found, expected, naive.astype(np.float32), "close", samples=4)


# The command line -----------------------------------------------------------------------------------------------------

BROKEN_PLUGIN = """
from ruvattn import Causal

class Lying(Causal):
    def ranges(self, i0, i1, lk, **owner):
        return [0], [lk], [True]

def needy(left):
    return Causal()

def ruvattn_register(registry):
    registry.pattern("lying", Lying)
    registry.pattern("needy", needy)
"""


@pytest.fixture
def command(capsys, monkeypatch):
    """Run ``ruvattn test`` in this process; returns exit code, stdout and stderr."""
    from ruvattn.cli import main

    monkeypatch.setenv("COLUMNS", "100")

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            main(["test", *args])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def test_the_command_counts_what_passes(command, fake_plugins):
    code, out, err = command("--suite", "aggregates")
    assert (code, err) == (0, "")
    assert re.search(r"✓ +weighted-sum +aggregate +\d\d +0 +\d", out)
    subjects = len(re.findall(r"^✓ +\S+ +aggregate", out, re.MULTILINE))  # those of plugins that are installed, too
    assert f"{subjects * len(names_of('aggregate'))} checks of {subjects} subject" in out
    assert "0 failed" in out


def test_the_command_takes_names(command, fake_plugins):
    _, out, _ = command("key-lengths(lengths=3)", "weighted-sum")
    assert re.findall(r"^✓  (\S+)", out, re.MULTILINE) == ["key-lengths(lengths=3)", "weighted-sum"]


def test_the_command_fails_when_a_check_does(command, fake_plugins):
    fake_plugins.install("broken-patterns", BROKEN_PLUGIN)
    code, out, _ = command("lying", "needy")
    assert code == 1
    assert re.search(r"✗ +lying +pattern +\d+ +[1-9]", out)
    assert "lying, ranges_agree_with_allowed: [0, 1) is called full, and a pair in it is not allowed: i=-2, j=0" in out
    assert "needy was not checked: it needs left=" in out
    assert "Traceback" not in out
    assert "--verbose" in out


def test_the_command_shows_everything_when_verbose(command, fake_plugins):
    fake_plugins.install("broken-patterns", BROKEN_PLUGIN)
    code, out, _ = command("lying", "--verbose")
    assert code == 1
    assert "Traceback (most recent call last)" in out
    listed = re.findall(r"^  \S+ +([a-z]\w+)", out, re.MULTILINE)
    assert names_of("pattern") <= set(listed)
    assert "row_block is 1: blocks may start anywhere" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["standrd"], ["'standrd'", "did you mean 'standard'?"]),
        (["--suite", "scores", "standard"], ["'standard'", "in the suite 'scores'", "dot"]),
        (["--suite", "score"], ["--suite", "'score'", "'scores'"]),
    ],
)
def test_the_command_helps_with_mistakes(command, fake_plugins, args, words):
    code, out, err = command(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words), err
