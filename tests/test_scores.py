"""Scores: planes, terms, vectors, parameters and positions, in NumPy and compiled, against the oracle."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import subprocess
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest
from agreement import DTYPES, assert_close, compute_dtype, make, oracle_dtype, same_bits, use_isa
from example_scores import COMPILED, COMPILER, HEADS, SCORES, Alibi, Lorentz, Rbf, Widened, build_library, compiled, compiled_form

import ruvattn
from ruvattn import isa, reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

# lead, hk, lq, lk
SHAPES = {"few": ((2,), 2, 2, 30), "tiles": ((), 2, 37, 420), "long": ((), 4, 9, 2100), "one key": ((3,), 1, 17, 1)}


def _options(name, lq, lk, dtype):
    rng = np.random.default_rng(1)
    return {
        "nothing": {},
        "causal": {"causal": True, "query_offset": "end"},
        "everything": {
            "mask": rng.random((HEADS, lq, lk)) < 0.7, "window": (300, -1), "query_offset": lk // 2,
            "bias": rng.standard_normal((lq, lk)).astype(dtype), "softcap": 4.0, "key_lengths": max(lk - 3, 0),
            "sinks": rng.standard_normal(HEADS), "dropout": 0.2, "seed": 1,
        },
        "pattern": {"mask": ruvattn.SparseMatrixMask(_stripes(lq, lk)), "causal": True, "query_offset": lk // 2},
    }[name]  # fmt: skip


def _stripes(lq, lk):
    import scipy.sparse

    return scipy.sparse.coo_array((np.arange(lq)[:, None] * 3 + np.arange(lk)) % 5 < 2)


def _check(q, k, v, score, oracle, **options):
    """Output, lse, weights and logits agree with the oracle's."""
    dtype = q.dtype
    wide = oracle_dtype(dtype)
    of_logits = {n: x for n, x in options.items() if n not in ("sinks", "dropout", "seed")}
    logits = reference.attention_logits(q, k, score=oracle, precision=wide, **of_logits)
    # Terms and planes may cancel, so that a logit is known less well than its size says: a distance, to the norms it is made of.
    reach = 50 + float(np.abs(logits[np.isfinite(logits)]).max(initial=0))
    unit = float(np.finfo(compute_dtype(dtype)).eps)
    atol = 16 * unit * reach + (2.0**-7 if dtype.itemsize == 2 else 0)
    truth, truth_lse = reference.attention(q, k, v, score=oracle, return_lse=True, precision=wide, **options)
    out, lse = ruvattn.attention(q, k, v, score=score, return_lse=True, **options)
    largest = float(np.abs(v.astype(float)).max()) / (1 - options.get("dropout", 0))
    assert_close(out, truth, atol * largest)
    assert_close(lse, truth_lse, 16 * unit * reach)
    if k.shape[-2] > 1000:
        return  # no more paths to try, and much to compute
    expected = reference.attention_weights(q, k, score=oracle, precision=wide, **options)
    assert_close(ruvattn.attention_weights(q, k, score=score, **options), expected, 2 * atol)
    for name in ("sinks", "dropout", "seed"):
        options.pop(name, None)
    found = ruvattn.attention_logits(q, k, score=score, **options)
    assert_close(found, logits, atol * (reach if dtype.itemsize == 2 else 1))


@pytest.fixture(params=isa.supported_isas())
def build(request):
    """Each instruction set in turn."""
    with use_isa(request.param):
        yield request.param


IN_FLOAT32 = [("float32", option) for option in ("nothing", "causal", "everything", "pattern")]
CALLS = pytest.mark.parametrize(("dtype", "option"), [*IN_FLOAT32, ("float64", "everything")])


@pytest.mark.parametrize("shape", SHAPES)
@CALLS
@pytest.mark.parametrize("name", SCORES)
def test_a_numpy_score_agrees_with_the_oracle(dtype, name, option, shape):
    lead, hk, lq, lk = SHAPES[shape]
    q, k, v = make(1, lq, lk, 9, 6, lead=lead, hq=HEADS, hk=hk, dtype=dtype)
    score = SCORES[name]()
    _check(q, k, v, score, score, **_options(option, lq, lk, dtype))


@pytest.mark.parametrize("name", SCORES)
def test_a_numpy_score_in_every_build(build, name):
    q, k, v = make(2, 45, 400, 9, 6, lead=(2,), hq=HEADS, hk=2)
    score = SCORES[name]()
    _check(q, k, v, score, score, **_options("everything", 45, 400, np.float32))


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_scores_compute_in_float32(dtype, name):
    seen = set()
    score = SCORES[name]()
    original = score.logits

    def logits(t):
        seen.update(x.dtype for x in (t.dots, *t.rows, *t.cols, *filter(lambda x: x is not None, (t.q, t.k))))
        return original(t)

    score.logits = logits
    q, k, v = make(3, 20, 30, 9, 6, hq=HEADS, hk=2, dtype=DTYPES[dtype])
    _check(q, k, v, score, SCORES[name](), causal=True)
    assert seen == {np.dtype(np.float32)}


def test_a_subclass_of_dot_is_a_score_like_any_other():
    class Squared(ruvattn.Dot):
        def logits(self, t):
            return super().logits(t) ** 2

    q, k, v = make(4, 20, 30, hq=2, hk=2)
    logits = ruvattn.attention_logits(q, k, score=Squared(0.5))
    assert_close(logits, (0.5 * np.swapaxes(k, -1, -2).__rmatmul__(q).astype(float)) ** 2, 1e-5)
    assert_close(ruvattn.attention(q, k, v, score=Squared(), scale=0.5), ruvattn.attention(q, k, v, score=Squared(0.5)), 0)


def test_a_dot_on_a_tile_of_its_own():
    dots = np.ones((1, 2, 3))
    assert np.array_equal(ruvattn.Dot(0.5).logits(ruvattn.Tile(dots, params={"scale": 0.5})), np.full((2, 3), 0.5))
    with pytest.raises(InvalidInputError, match="scale"):
        ruvattn.Dot().logits(ruvattn.Tile(dots, params={"scale": None}))
    ddots, drows, dcols, dparams = ruvattn.Dot(0.5).logits_vjp(ruvattn.Tile(dots, params={"scale": 0.5}), np.ones((2, 3)))
    assert np.array_equal(ddots, np.full((1, 2, 3), 0.5))
    assert (drows, dcols) == ((), ())
    assert dparams == {"scale": 6.0}


@pytest.mark.parametrize("scale", [np.nan, np.inf, "1", [1.0, np.nan], [[1.0], [2.0, 3.0]]])
def test_a_dot_with_a_scale_that_is_no_finite_number_is_refused(scale):
    with pytest.raises((InvalidInputError, ValueError)):
        ruvattn.Dot(scale)


def test_scores_say_what_they_are_made_of_and_survive_copies():
    score = Rbf(2.0)
    assert repr(score) == "Rbf(sigma=2.0)"
    assert repr(pickle.loads(pickle.dumps(ruvattn.Dot(0.25)))) == "Dot(scale=0.25)"
    assert copy.deepcopy(score).params == {"sigma": 2.0}


def test_scale_sets_the_parameter_of_that_name_and_leaves_the_score_alone():
    q, k, v = make(5, 20, 30, 9, hq=HEADS, hk=HEADS)
    score = Alibi()
    other = Alibi()
    other.params = other.params | {"scale": 0.9}
    assert same_bits(ruvattn.attention(q, k, v, score=score, scale=0.9), ruvattn.attention(q, k, v, score=other))
    assert score.params["scale"] == 0.3
    of_heads = ruvattn.attention(q, k, v, score=score, scale=[0.9, 0.3, 0.3, 0.1])
    assert same_bits(of_heads[0], ruvattn.attention(q, k, v, score=other)[0])
    assert same_bits(of_heads[1], ruvattn.attention(q, k, v, score=score)[1])


def test_scale_of_a_score_without_that_parameter_lists_what_it_has():
    q, k, v = make(6, 3, 4, 9)
    with pytest.raises(InvalidInputError, match="sigma"):
        ruvattn.attention(q, k, v, score=Rbf(1.0), scale=1.0)
    with pytest.raises(InvalidInputError, match="none"):
        ruvattn.attention(q, k, v, score=Lorentz(), scale=1.0)


def test_positions_are_those_of_the_call():
    seen = {}

    class Positions(ruvattn.Score):
        def row_terms(self, q, pos):
            seen["rows"] = np.broadcast_to(pos, q.shape[:-1]).copy()
            return ()

        def col_terms(self, k, pos):
            seen["cols"] = pos.copy()
            return ()

        def logits(self, t):
            return t.dots[0]

    q, k, v = make(7, 3, 5, lead=(2,), hq=2, hk=1)
    ruvattn.attention(q, k, v, score=Positions(), query_offset=[-4, 10])
    assert np.array_equal(seen["rows"][:, 0], [[-4, -3, -2], [10, 11, 12]])
    assert np.array_equal(seen["cols"], np.arange(5))
    ruvattn.attention(q, k, v, score=Positions(), query_offset="end", key_lengths=[5, 1])
    assert np.array_equal(seen["rows"][:, 1], [[2, 3, 4], [-2, -1, 0]])


def test_a_score_may_mask_by_minus_infinity():
    class Far(ruvattn.Score):
        def logits(self, t):
            return np.where(t.dots[0] > 0, t.dots[0], -np.inf)

    q, k, v = make(8, 40, 20, 2)
    q[0, 3], k[0, :, 0] = [-1, 0], 1
    out, lse = ruvattn.attention(q, k, v, score=Far(), return_lse=True)
    expected, expected_lse = reference.attention(q, k, v, score=Far(), return_lse=True)
    assert_close(out, expected, 1e-5)
    assert_close(lse, expected_lse, 1e-5)
    assert not out[0, 3].any()


def test_a_numpy_score_sees_tiles_of_bounded_size():
    sizes = []

    class Sized(ruvattn.Score):
        def logits(self, t):
            sizes.append(t.dots[0].size)
            return t.dots[0]

    q, k, v = make(9, 3000, 3000, 4)
    ruvattn.attention(q, k, v, score=Sized())
    assert sum(sizes) == 3000 * 3000
    assert max(sizes) < 200_000


def test_a_numpy_score_need_not_mind_what_is_masked():
    q, k, v = make(10, 20, 30, 9, hq=HEADS, hk=HEADS)
    mask = np.arange(30) < 20
    score = Rbf(1.0)
    expected = ruvattn.attention(q, k, v, score=score, mask=mask)
    k[:, 20:], v[:, 25:] = np.inf, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(ruvattn.attention(q, k, v, score=score, mask=mask), expected, 1e-6)


# --- scores that go wrong -------------------------------------------------------------------------------------------------------


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit, MemoryError, StopIteration])
@pytest.mark.parametrize(("function", "option"), [(ruvattn.attention, "nothing"), (ruvattn.attention, "causal"), (ruvattn.attention, "pattern"),
                                                  (ruvattn.attention_weights, "nothing"), (ruvattn.attention_logits, "causal")])  # fmt: skip
def test_what_a_score_raises_comes_out_as_it_is(function, option, error):
    class Raises(ruvattn.Score):
        calls = 0

        def logits(self, t):
            type(self).calls += 1
            if self.calls == 3:
                raise raised
            return t.dots[0]

    arrays = make(11, 100, 1200)[: 3 if function is ruvattn.attention else 2]
    options = _options(option, 100, 1200, np.float32)
    raised = error("what happened")
    with pytest.raises(error) as caught:
        function(*arrays, score=Raises(), **options)
    assert caught.value is raised
    assert Raises.calls == 3  # and the loop stops there
    function(*arrays, score=Raises(), **options)  # the same class is as good as before


def test_an_exception_keeps_nothing_alive():
    class Raises(ruvattn.Score):
        def logits(self, t):
            raise Boom

    score = Raises()
    gone = weakref.ref(score)
    with pytest.raises(Boom):
        ruvattn.attention(*make(12, 5, 6), score=score)
    del score
    gc.collect()
    assert gone() is None


def test_scores_in_other_threads_are_not_disturbed_by_one_that_raises():
    class Sometimes(ruvattn.Score):
        def __init__(self, bad):
            self.bad = bad

        def logits(self, t):
            if self.bad:
                raise Boom
            return t.dots[0] / 3

    q, k, v = make(13, 100, 800)
    expected = ruvattn.attention(q, k, v, score=Sometimes(False))
    results = [None] * 8

    def work(i):
        try:
            results[i] = ruvattn.attention(q, k, v, score=Sometimes(i % 2 == 0))
        except Boom as error:
            results[i] = error

    team = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert all(isinstance(result, Boom) for result in results[::2])
    assert all(same_bits(result, expected) for result in results[1::2])


def test_a_score_may_call_attention():
    class Nested(ruvattn.Score):
        def logits(self, t):
            inner = ruvattn.attention(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32), np.ones((4, 2), np.float32))
            return t.dots[0] * inner[0, 0]

    q, k, v = make(14, 50, 60)
    assert_close(ruvattn.attention(q, k, v, score=Nested()), ruvattn.attention(q, k, v, scale=1.0), 1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"splits": (4, 4)}, DimensionMismatchError, "splits"),
        ({"splits": (9, 0)}, InvalidInputError, "splits"),
        ({"splits": (1,) * 17}, InvalidInputError, "splits"),
        ({"row_terms": lambda q, pos: [q[..., 0]]}, InvalidInputError, "row_terms"),
        ({"row_terms": lambda q, pos: (q[..., 0],) * 33}, InvalidInputError, "row_terms"),
        ({"row_terms": lambda q, pos: (q,)}, DimensionMismatchError, "row_terms"),
        ({"col_terms": lambda k, pos: (k[..., :3, 0],)}, DimensionMismatchError, "col_terms"),
        ({"logits": lambda t: t.dots}, DimensionMismatchError, "logits"),
        ({"logits": lambda t: None}, DimensionMismatchError, "logits"),
        ({"logits": lambda t: t.dots[0] > 0}, InvalidInputError, "logits"),
        ({"logits": lambda t: t.dots[0] * 1j}, InvalidInputError, "logits"),
        ({"params": {"a": np.ones(3)}}, DimensionMismatchError, "a must"),
        ({"params": {"a": "x"}}, InvalidInputError, "a must"),
        ({"params": {"a": np.nan}}, InvalidInputError, "a must"),
        ({}, UnsupportedError, "logits"),
    ],
)
def test_a_score_that_breaks_the_contract_is_told_so(changes, error, words):
    score = ruvattn.Score()
    if changes and "logits" not in changes:
        score.logits = lambda t: t.dots[0]
    for name, value in changes.items():
        setattr(score, name, value)
    with pytest.raises(error, match=words):
        ruvattn.attention(*make(15, 20, 30, 9, hq=2, hk=2), score=score)


def test_gradients_that_a_score_lacks_are_named():
    score, x = ruvattn.Score(), np.ones((1, 2, 3))
    for name, arguments in [("row_terms_vjp", (x, x, ())), ("col_terms_vjp", (x, x, ())), ("logits_vjp", (None, x))]:
        with pytest.raises(UnsupportedError, match=name):
            getattr(score, name)(*arguments)


# --- compiled forms -------------------------------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("score"))


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@CALLS
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_score_agrees_with_the_oracle(library, dtype, name, option, shape):
    lead, hk, lq, lk = SHAPES[shape]
    q, k, v = make(1, lq, lk, 9, 6, lead=lead, hq=HEADS, hk=hk, dtype=dtype)
    _check(q, k, v, compiled(library, name), SCORES[name](), **_options(option, lq, lk, dtype))


@needs_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_score_in_every_build(build, library, name):
    q, k, v = make(2, 45, 400, 9, 6, lead=(2,), hq=HEADS, hk=2)
    _check(q, k, v, compiled(library, name), SCORES[name](), **_options("everything", 45, 400, np.float32))


@needs_compiler
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_uses_the_floatform(library, dtype):
    q, k, v = make(3, 20, 30, 9, 6, hq=HEADS, hk=2, dtype=DTYPES[dtype])
    _check(q, k, v, compiled(library, "rbf", ["float32"]), SCORES["rbf"](), causal=True)


@needs_compiler
def test_a_dtype_without_a_form_falls_back_to_numpy(library):
    score = compiled(library, "rbf", ["float32"])
    del score.logits
    q, k, v = make(4, 20, 30, 9, hq=HEADS, hk=HEADS, dtype=np.float64)
    _check(q, k, v, score, SCORES["rbf"]())


@needs_compiler
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("shape", ["tiles", "long"])
def test_a_compiled_score_gives_the_same_bits_for_any_number_of_threads(library, name, shape):
    lead, hk, lq, lk = SHAPES[shape]
    q, k, v = make(5, 4 * lq, lk, 9, 6, lead=lead, hq=HEADS, hk=hk)
    results = [ruvattn.attention(q, k, v, score=compiled(library, name), causal=True, query_offset="end", threads=t) for t in (1, 2, 3, 7)]
    assert all(same_bits(result, results[0]) for result in results)


@needs_compiler
def test_user_data_reaches_the_compiledform(library):
    shift = ctypes.c_double(2.5)
    score = Widened()
    score.kernels = {"float32": (compiled_form(library, "shifted_f", ctypes.c_float, ctypes.cast(ctypes.pointer(shift), ctypes.c_void_p)), None)}
    q, k, _ = make(6, 20, 30)
    plain = ruvattn.attention_logits(q, k, scale=1.0)
    assert_close(ruvattn.attention_logits(q, k, score=score), plain / 3 + 2.5, 1e-5)


@needs_compiler
def test_a_form_by_cffi_or_by_another_spelling_is_the_sameform(library):
    from scipy import LowLevelCallable

    form = compiled_form(library, "rbf_f", ctypes.c_float)
    score = Rbf(1.0)
    q, k, v = make(7, 20, 30, 9, hq=HEADS, hk=HEADS)
    expected = ruvattn.attention(q, k, v, score=score)
    for spelling in (
        "void (float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, float *, float *, float *, float *, float *, Py_ssize_t, void *)",
        "void (float *, long, ssize_t, ptrdiff_t, float const *, const float *, float *, float *, float *, long long, void *)",
    ):
        score.kernels = {"float32": (LowLevelCallable(form.function, signature=spelling), None)}
        assert_close(ruvattn.attention(q, k, v, score=score), expected, 1e-5)


@needs_compiler
def test_a_form_of_another_signature_is_refused(library):
    score = Rbf(1.0)
    for kernels in (
        {"float32": (compiled_form(library, "rbf_d", ctypes.c_double), None)},
        {"float32": (library.rbf_f, None)},
        {"float32": compiled_form(library, "rbf_f", ctypes.c_float)},
    ):
        score.kernels = kernels
        with pytest.raises(InvalidInputError, match="kernels"):
            ruvattn.attention(*make(8, 20, 30, 9, hq=HEADS, hk=HEADS), score=score)


@needs_compiler
@pytest.mark.parametrize("lk", [400, 4200], ids=["keys in one piece", "keys split"])
@pytest.mark.parametrize("name", ["rbf", "vectors"])
def test_masked_values_have_no_influence_with_a_compiled_score(library, name, lk):
    q, k, v = make(9, 45, lk, 9, 6, hq=HEADS, hk=2)
    score = compiled(library, name)
    mask = np.arange(lk) % 3 > 0
    expected = ruvattn.attention(q, k, v, score=score, mask=mask)
    k[:, ::3], v[:, ::3] = np.nan, np.inf
    assert_close(ruvattn.attention(q, k, v, score=score, mask=mask), expected, 1e-6)


def test_importing_scores_does_not_import_scipy():
    code = "import sys, ruvattn, numpy as np; x = np.ones((3, 4)); ruvattn.attention(x, x, x); assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})


def test_rows_that_see_nothing_by_position_ask_nothing_of_a_score_in_numpy():
    class FirstColumn(ruvattn.Score):
        def col_terms(self, k, pos):
            return (k[..., 0],)

        def logits(self, t):
            return t.dots[0] - t.cols[0]

    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 20, 4)), rng.standard_normal((2, 1, 257, 4))
    options = {"score": FirstColumn(), "window": (2, 1), "query_offset": 244, "key_lengths": [82, 194]}
    out = ruvattn.attention(q, k, k, **options)
    np.testing.assert_array_equal(out, reference.attention(q, k, k, **options))
    assert not out.any()


# --- domains of parameters --------------------------------------------------------------------------------------------------------


class Halves(ruvattn.Score):
    """dots / half, of a number that may not be 0."""

    domains = {"half": (0.0, 8.0)}

    def __init__(self, half):
        self.params = {"half": half}

    def logits(self, t):
        return t.dots[0] / t.params["half"]


@pytest.mark.parametrize("half", [0.0, 8.0, -1.0, 9, np.float32(0), np.array([1.0, 0.0]), [8.5, 1.0]], ids=str)
def test_a_parameter_outside_of_its_domain_is_named_with_its_value(half):
    x = np.ones((2, 3, 4))
    wrong = float(np.ravel(half)[~((np.ravel(half) > 0) & (np.ravel(half) < 8))][0])
    message = rf"^half must be in the open interval \(0, 8\) for Halves, got {wrong}"
    with pytest.raises(InvalidInputError, match=message):
        ruvattn.attention(x, x, x, score=Halves(half))
    with pytest.raises(InvalidInputError, match=message):
        ruvattn.attention_backward(x, x, x, x, x, x[..., 0], score=Halves(half))


@pytest.mark.parametrize("half", [5e-324, 7.999, 3, np.array([1.0, 2.0])], ids=str)
def test_a_parameter_in_its_domain_is_taken(half):
    x = np.zeros((2, 3, 4))
    assert not ruvattn.attention(x, x, x, score=Halves(half)).any()
