"""Gradients of attention over edges by scores and aggregates: in NumPy, compiled, and those that the engine makes itself."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import FLOATS, assert_close, epsilon, make, oracle_dtype, same_bits
from edge_gradients import (
    OPTIONS,
    QKV,
    SMALL,
    assert_gradients_agree,
    assert_matches_differences,
    beside,
    bias_of,
    both,
    bounds,
    names_of,
    random_degrees,
    structure,
    upstream,
    use,
    widened,
)
from edge_vjps import LeakyHidden, LeakySum, Whole, WithEdges, build_vjps, in_c
from example_scores import COMPILER
from scored import Bilinear, Decay, Margin, Powered

import ruvattn
from ruvattn import edge_attention, edge_attention_backward, isa, reference
from ruvattn.errors import UnsupportedError

HEADS = 4
CHUNK = 2044
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@pytest.fixture(params=isa.supported_isas())
def build(request):
    with use(request.param):
        yield request.param


@pytest.fixture(scope="session")
def vjps(tmp_path_factory):
    return build_vjps(tmp_path_factory.mktemp("vjps"))


SCORES = {
    "vectors": (Bilinear, {"weight": np.linspace(0.5, 1, HEADS)}),
    "one parameter for all heads": (Bilinear, {"weight": 0.7}),
    "planes and terms": (Margin, {"margin": np.linspace(-0.3, 0.3, HEADS)}),
    "positions": (Decay, {"rate": np.linspace(0.05, 0.1, HEADS)}),
    "leaky sum": (LeakySum, {"slope": 0.2}),
    "leaky hidden": (LeakyHidden, {"slope": 0.3, "a": np.random.default_rng(0).standard_normal((HEADS, 9))}),
    "all": (Whole, {"margin": np.linspace(-0.3, 0.3, HEADS), "weight": 0.1}),
}
IN_C = {"planes and terms": "margin", "leaky sum": "sum", "leaky hidden": "hidden", "all": "whole"}
ENGINES_OWN = ("leaky sum", "leaky hidden")


@pytest.mark.parametrize("name", SCORES)
def test_scores_match_differences(name):
    kind, values = SCORES[name]
    q, k, v = make(4, 5, 6, 9, 3, lead=(2,), hq=HEADS, hk=2, dtype=np.float64)
    options = {"softcap": 3.0, "sinks": np.linspace(-1, 1, HEADS)}
    assert_matches_differences(q, k, v, SMALL, {"score": (kind, values)}, score=kind(**values), **options)


@pytest.mark.parametrize("streams", [True, False])
def test_aggregates_match_differences(streams):
    q, k, v = make(5, 5, 6, 4, 3, hq=2, hk=1, dtype=np.float64)
    attr = np.random.default_rng(0).random((SMALL[1].size, 2)) + 0.5
    options = {"edge_attr": attr, "edge_attr_to": "value", "sinks": np.zeros(2)}
    params = {"aggregate": (lambda exponent: Powered(exponent, streams), {"exponent": 1.5})}
    assert_matches_differences(q, k, np.abs(v) + 0.5, SMALL, params, aggregate=Powered(1.5, streams), **options)


SHAPE = structure(24, [*random_degrees(24, 30), 0, 290, 1], 45)


def _score_options(name):
    rng = np.random.default_rng(25)
    return {
        "nothing": {},
        "everything": {"bias": bias_of(rng, (HEADS, SHAPE[1].size), np.float64, 0.2), "softcap": 4.0, "sinks": rng.standard_normal(HEADS),
                       "dropout": 0.2, "seed": 1},
    }[name]  # fmt: skip


def score_of(name):
    kind, values = SCORES[name]
    return kind(**values)


@pytest.mark.parametrize("option", ["nothing", "everything"])
@pytest.mark.parametrize("name", SCORES)
def test_a_numpy_score_agrees_with_the_oracle(name, option):
    q, k, v = make(26, 33, 45, 9, 6, lead=(2,), hq=HEADS, hk=2, dtype=np.float64)
    assert_gradients_agree(q, k, v, *SHAPE, score=score_of(name), **_score_options(option))


@needs_compiler
@pytest.mark.parametrize("option", ["nothing", "everything"])
@pytest.mark.parametrize("name", IN_C)
@pytest.mark.parametrize("layout", [lambda x: x, beside], ids=["apart", "beside"])
def test_a_compiled_score_agrees_with_the_oracle(build, vjps, name, option, layout):
    q, k, v = (layout(x) for x in make(27, 33, 45, 9, 8, lead=(2,), hq=HEADS, hk=HEADS, dtype=np.float64))
    score = in_c(vjps, score_of(name), IN_C[name], vjp=name not in ENGINES_OWN)
    assert_gradients_agree(q, k, v, *SHAPE, score=score, oracle=score_of(name), **_score_options(option))


@needs_compiler
@pytest.mark.parametrize("name", IN_C)
def test_a_compiled_score_of_grouped_queries(vjps, name):
    q, k, v = make(28, 33, 45, 9, 6, hq=HEADS, hk=2, dtype=np.float64)
    score = in_c(vjps, score_of(name), IN_C[name], vjp=name not in ENGINES_OWN)
    assert_gradients_agree(q, k, v, *SHAPE, score=score, oracle=score_of(name))


@needs_compiler
@pytest.mark.parametrize("name", ["planes and terms", "all"])
def test_a_compiled_score_without_a_vjp_is_differentiated_in_numpy(vjps, name):
    q, k, v = make(29, 33, 45, 9, 6, hq=HEADS, hk=2, dtype=np.float64)
    assert_gradients_agree(q, k, v, *SHAPE, score=in_c(vjps, score_of(name), IN_C[name], vjp=False), oracle=score_of(name))


@pytest.mark.parametrize("form", ["numpy", pytest.param("compiled", marks=needs_compiler)])
@pytest.mark.parametrize("name", ["vectors", "planes and terms", "positions", "leaky sum", "all"])
def test_attributes_are_part_of_the_keys_that_a_score_sees(request, name, form):
    q, k, v = make(30, 33, 45, 5, 6, lead=(2,), hq=HEADS, hk=2, dtype=np.float64)
    attr = np.random.default_rng(30).standard_normal((SHAPE[1].size, 4))
    q = np.concatenate([q, make(31, 33, 1, 4, lead=(2,), hq=HEADS, dtype=np.float64)[0]], axis=-1)
    score = score_of(name)
    if form == "compiled" and name in IN_C and name not in ENGINES_OWN:
        in_c(request.getfixturevalue("vjps"), score, IN_C[name])
    assert_gradients_agree(q, k, v, *SHAPE, score=score, oracle=score_of(name), edge_attr=attr)


@pytest.mark.parametrize("axes", ["E, R", "Hq, E, R"])
@pytest.mark.parametrize("form", ["numpy", pytest.param("compiled", marks=needs_compiler)])
def test_edge_terms_have_gradients(request, form, axes):
    rng = np.random.default_rng(32)
    terms = rng.standard_normal((SHAPE[1].size, 2) if axes == "E, R" else (HEADS, SHAPE[1].size, 2))
    q, k, v = make(32, 33, 45, 9, 6, lead=(2,), hq=HEADS, hk=2, dtype=np.float64)
    score = WithEdges(0.2)
    if form == "compiled":
        in_c(request.getfixturevalue("vjps"), score, "edged")
    found = assert_gradients_agree(q, k, v, *SHAPE, score=score, oracle=WithEdges(0.2), edge_terms=terms)
    assert found["edge_terms"].shape == terms.shape


@pytest.mark.parametrize("layout", [lambda x: x, beside], ids=["apart", "beside"])
@pytest.mark.parametrize("dtype", FLOATS)
@needs_compiler
def test_edge_terms_of_the_engines_own_sum(build, vjps, layout, dtype):
    class Edged(LeakySum):
        edge_terms = 2

    rng = np.random.default_rng(33)
    terms = rng.standard_normal((SHAPE[1].size, 2)).astype(dtype)
    q, k, v = (layout(x) for x in make(33, 33, 45, 1, 8, hq=HEADS, hk=HEADS, dtype=dtype))
    score = in_c(vjps, Edged(0.3), "sum", vjp=False)  # whose compiled form is never called, here or in the forward pass
    bias = np.zeros(SHAPE[1].size, dtype)
    weights = edge_attention(q, k, v, *SHAPE, score=Edged(0.3), edge_terms=terms, return_weights=True)[1]
    assert np.isfinite(weights).all()
    out, lse = edge_attention(q, k, v, *SHAPE, score=Edged(0.3), edge_terms=terms, return_lse=True)
    dout = upstream((out,), 3)[0]
    names = (*QKV, "edge_terms", "score.slope", "bias")
    found = edge_attention_backward(dout, q, k, v, *SHAPE, out, lse, score=score, edge_terms=terms, bias=bias, wrt=names)
    expected = reference.edge_attention_backward(
        dout, q, k, v, *SHAPE, score=Edged(0.3), edge_terms=terms, bias=bias, precision=oracle_dtype(np.dtype(dtype))
    )
    bound = bounds(dout, np.zeros(1), np.zeros(1), q, k, v, SHAPE[1], {"score": score, "edge_terms": terms})
    for name in names:
        assert_close(found[name], np.asarray(expected[name]), epsilon(dtype) * bound(name))


def test_a_score_that_masks_has_gradients_of_what_it_leaves():
    class OnlyNear(ruvattn.Score):
        def logits(self, t):
            return np.where(t.dots[0] > 0, t.dots[0], -np.inf)

        def logits_vjp(self, t, dlogits):
            return np.where(t.dots[0] > 0, dlogits, 0)[None], (), (), {}

    q, k, v = make(34, 33, 45, 4, dtype=np.float64)
    assert_gradients_agree(q, k, v, *SHAPE, score=OnlyNear(), wrt=QKV)


def test_a_score_without_a_vjp_says_so():
    class Plain(ruvattn.Score):
        def logits(self, t):
            return t.dots[0]

    q, k, v = make(35, 33, 45)
    out, lse = edge_attention(q, k, v, *SHAPE, score=Plain(), return_lse=True)
    with pytest.raises(UnsupportedError, match="Plain has no logits_vjp"):
        edge_attention_backward(out, q, k, v, *SHAPE, out, lse, score=Plain())


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("option", ["nothing", "sinks", "bias", "dropout", "attributes", "all of it"])
def test_aggregates_agree_with_the_oracle(streams, option):
    options = OPTIONS[option](np.random.default_rng(42), (2,), 4, SHAPE[1].size, np.float64)
    if "edge_attr" in options:
        options["edge_attr"] = np.abs(options["edge_attr"]) + 0.5
    if "dropout" in options:
        options["dropout"] = 0.001  # so that no row loses all its weights, whose mean is 0
    q, k, v = widened(42, 33, 45, 8, 6, (2,), 4, 2, np.float64, options)
    v = np.abs(v) + 0.5
    found, expected, _ = both(q, k, v, *SHAPE, aggregate=Powered(1.5, streams), **options)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, np.asarray(expected[name], float), rtol=0, atol=1e-9 * (1 + np.abs(expected[name]).max(initial=0)))


@needs_compiler
@pytest.mark.parametrize("name", IN_C)
def test_parameters_of_compiled_scores_are_the_same_bits_for_any_number_of_threads(vjps, name):
    shape = structure(40, [*random_degrees(40, 2000), 3 * CHUNK], 300)
    q, k, v = make(40, 2001, 300, 9, 6, hq=HEADS, hk=2)
    score = in_c(vjps, score_of(name), IN_C[name], vjp=name not in ENGINES_OWN)
    out, lse = edge_attention(q, k, v, *shape, score=score, return_lse=True)
    wrt = names_of({"score": score})
    results = [edge_attention_backward(out, q, k, v, *shape, out, lse, score=score, wrt=wrt, threads=t) for t in (1, 2, 3)]
    for other in results[1:]:
        assert all(same_bits(other[n], gradient) for n, gradient in results[0].items())
