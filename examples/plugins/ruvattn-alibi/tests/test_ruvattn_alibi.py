"""What the conformance suite cannot know: that the formula is that of the paper. It is written here once more, in plain NumPy and float64."""

import doctest
import math
import pathlib
import pickle
import re
import runpy

import numpy as np
import pytest
import ruvattn
from ruvattn.errors import AttentionError, InvalidInputError

import ruvattn_alibi.compiled
import ruvattn_alibi.layer
import ruvattn_alibi.score
from ruvattn_alibi import Alibi, CompiledAlibi, alibi_slopes

FORMS = pytest.mark.parametrize("form", [Alibi, CompiledAlibi])
DISTANCES = pytest.mark.parametrize("distance", ["symmetric", "causal"])


def points(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def plain_logits(q, k, slopes, scale, distance="symmetric", offset=0):
    """Logits of (Hq, Lq, D) and (Hk, Lk, D): one pair after another."""
    slopes, scale = np.broadcast_to(slopes, len(q)), np.broadcast_to(scale, len(q))
    logits = np.empty((len(q), q.shape[1], k.shape[1]))
    for h, i, j in np.ndindex(logits.shape):
        apart = i + offset - j
        far = abs(apart) if distance == "symmetric" else max(apart, 0)
        logits[h, i, j] = scale[h] * (q[h, i] @ k[h * len(k) // len(q), j]) - slopes[h] * far
    return logits


def plain_attention(q, k, v, slopes, scale, distance="symmetric", offset=0, causal=False):
    logits = plain_logits(q, k, slopes, scale, distance, offset)
    if causal:
        logits[:, np.arange(q.shape[1])[:, None] + offset < np.arange(k.shape[1])] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v.repeat(len(q) // len(v), 0)


def slopes_of_the_paper(n):
    """The rule as its authors put it: by recursion, from powers of two."""
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    power = 2 ** math.floor(math.log2(n))
    return slopes_of_the_paper(power) + slopes_of_the_paper(2 * power)[0::2][: n - power]


# Slopes


def test_eight_heads_have_the_slopes_that_the_paper_prints():
    assert alibi_slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


@pytest.mark.parametrize("n", range(1, 41))
def test_any_number_of_heads_has_the_slopes_of_the_paper(n):
    np.testing.assert_allclose(alibi_slopes(n), slopes_of_the_paper(n), rtol=1e-13)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "8", None])
def test_no_number_of_heads_is_refused(n):
    with pytest.raises(InvalidInputError, match="num_heads must be an int of at least 1, got"):
        alibi_slopes(n)


# Logits


@FORMS
@DISTANCES
@pytest.mark.parametrize(("slopes", "scale"), [(0.3, 0.5), ([0.1, 1.0, 0.0, -0.2], [0.5, 1.0, -1.0, 0.25])])
def test_logits(form, distance, slopes, scale):
    q, k = points(4, 9, 8), points(4, 7, 8, seed=1)
    found = ruvattn.attention_logits(q, k, score=form(slopes, scale, distance=distance))
    np.testing.assert_allclose(found, plain_logits(q, k, slopes, scale, distance), rtol=1e-12, atol=1e-12)


@FORMS
@pytest.mark.parametrize("heads", [1, 3, 8])
def test_what_is_not_given_is_taken_from_the_call(form, heads):
    q, k = points(heads, 5, 16), points(heads, 6, 16, seed=1)
    expected = plain_logits(q, k, slopes_of_the_paper(heads), 1 / 4)
    np.testing.assert_allclose(ruvattn.attention_logits(q, k, score=form()), expected, rtol=1e-12, atol=1e-12)


@FORMS
def test_the_scale_of_the_call_counts(form):
    q, k, scale = points(2, 5, 8), points(2, 6, 8, seed=1), np.array([0.1, 2.0])
    found = ruvattn.attention_logits(q, k, score=form(slopes=0.5, scale=7.0), scale=scale)
    np.testing.assert_allclose(found, plain_logits(q, k, 0.5, scale), rtol=1e-12, atol=1e-12)


@FORMS
@DISTANCES
@pytest.mark.parametrize("offset", [3, -2, 10_000])
def test_positions_are_those_of_the_call(form, distance, offset):
    q, k = points(2, 4, 8), points(2, 7, 8, seed=1)
    found = ruvattn.attention_logits(q, k, score=form(0.5, 1.0, distance=distance), query_offset=offset)
    np.testing.assert_allclose(found, plain_logits(q, k, 0.5, 1.0, distance, offset), rtol=1e-12, atol=1e-12)


@FORMS
def test_each_entry_of_a_batch_has_its_own_offset(form):
    q, k = points(2, 3, 4, 8), points(2, 3, 7, 8, seed=1)
    found = ruvattn.attention_logits(q, k, score=form(), query_offset=[0, 5])
    for entry, offset in enumerate([0, 5]):
        expected = plain_logits(q[entry], k[entry], slopes_of_the_paper(3), 8**-0.5, offset=offset)
        np.testing.assert_allclose(found[entry], expected, rtol=1e-12, atol=1e-12)


@FORMS
def test_rows_at_the_end_are_those_of_the_whole_sequence(form):
    q, k, v = points(3, 2, 40, 8)
    whole = ruvattn.attention(q, k, v, score=form(), causal=True)
    last = ruvattn.attention(q[:, -3:], k, v, score=form(), causal=True, query_offset="end")
    np.testing.assert_allclose(last, whole[:, -3:], rtol=1e-12, atol=1e-12)


@FORMS
def test_grouped_queries_have_a_slope_for_each_of_their_heads(form):
    q, k, v = points(4, 6, 8), points(2, 9, 8, seed=1), points(2, 9, 5, seed=2)
    expected = plain_attention(q, k, v, slopes_of_the_paper(4), 8**-0.5)
    np.testing.assert_allclose(ruvattn.attention(q, k, v, score=form()), expected, rtol=1e-12, atol=1e-12)


@FORMS
def test_what_is_ahead_matters_to_no_causal_mask(form):
    q, k, v = points(3, 2, 30, 8)
    symmetric, causal = (ruvattn.attention(q, k, v, score=form(distance=distance), causal=True) for distance in ("symmetric", "causal"))
    np.testing.assert_allclose(symmetric, causal, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(causal, plain_attention(q, k, v, slopes_of_the_paper(2), 8**-0.5, causal=True), rtol=1e-12, atol=1e-12)


def test_the_dot_product_is_left_where_slopes_are_zero():
    q, k, v = points(3, 2, 30, 8)
    np.testing.assert_allclose(ruvattn.attention(q, k, v, score=CompiledAlibi(slopes=0)), ruvattn.attention(q, k, v), rtol=1e-12, atol=1e-12)


# Gradients


@FORMS
@DISTANCES
@pytest.mark.parametrize(("slopes", "scale"), [(0.3, 0.6), ([0.1, 1.0, 0.0, -0.2], [0.5, 1.0, -1.0, 0.25])])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_slopes_of_the_plain_formula(form, distance, slopes, scale, causal):
    names = ("q", "k", "v", "score.slopes", "score.scale")
    at = [points(4, 4, 3), points(2, 5, 3, seed=1), points(2, 5, 2, seed=2), np.array(slopes), np.array(scale)]
    upstream = points(4, 4, 2, seed=3)
    q, k, v = at[:3]
    call = {"score": form(slopes, scale, distance=distance), "causal": causal, "query_offset": 1}
    out, lse = ruvattn.attention(q, k, v, return_lse=True, **call)
    found = ruvattn.attention_backward(upstream, q, k, v, out, lse, wrt=names, **call)

    def loss(arguments):
        return np.sum(upstream * plain_attention(*arguments, distance=distance, offset=1, causal=causal))

    for which, name in enumerate(names):
        expected, step = np.empty(at[which].shape), 1e-5
        for index in np.ndindex(expected.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in at]
                moved[which][index] += sign * step
                ends.append(loss(moved))
            expected[index] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)


@DISTANCES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_forms_agree(distance, dtype):
    q, k, v, dout = points(4, 3, 200, 16).astype(dtype)
    names = ("q", "k", "v", "score.slopes", "score.scale")
    made = []
    for form in (Alibi, CompiledAlibi):
        call = {"score": form(alibi_slopes(3), 0.3, distance=distance)}
        out, lse = ruvattn.attention(q, k, v, return_lse=True, **call)
        made.append({"out": out, **ruvattn.attention_backward(dout, q, k, v, out, lse, wrt=names, **call)})
    tolerance = 1e-11 if dtype == "float64" else 2e-4
    for name, expected in made[0].items():
        np.testing.assert_allclose(made[1][name], expected, rtol=tolerance, atol=tolerance * np.abs(expected).max(), err_msg=name)


def test_the_compiled_form_is_the_one_that_is_used():
    q, k = points(40, 16), points(50, 16, seed=1)
    score = CompiledAlibi()
    score.logits = score.logits_vjp = None  # the forms in NumPy, which are for other dtypes
    out, lse = ruvattn.attention(q, k, k, score=score, return_lse=True)
    assert ruvattn.attention_backward(out, q, k, k, out, lse, score=score)["q"].shape == q.shape


# The layer


@pytest.mark.parametrize("heads", [1, 3, 4])
def test_the_layer_is_attention_with_the_score(heads):
    layer, x = ruvattn.create("alibi", embed_dim=12, num_heads=heads, causal=True), points(10, 12)
    split = x.reshape(10, heads, -1).swapaxes(0, 1)
    expected = plain_attention(split, split, split, slopes_of_the_paper(heads), (12 / heads) ** -0.5, causal=True)
    np.testing.assert_allclose(layer(x), expected.swapaxes(0, 1).reshape(10, 12), rtol=1e-12, atol=1e-12)


def test_slopes_and_scale_are_learned():
    layer = ruvattn.create("alibi", embed_dim=8, num_heads=2, learn=("score.slopes", "score.scale"))
    teacher = ruvattn.create("alibi", embed_dim=8, num_heads=2, slopes=[0.5, 0.2], scale=0.8)
    assert layer.parameters()["score.slopes"].tolist() == alibi_slopes(2).tolist()
    assert layer.parameters()["score.scale"].tolist() == [0.5, 0.5]
    x = points(30, 8)
    goal, optimizer = teacher(x), ruvattn.training.Adam(0.05)
    for _ in range(300):
        layer.backward(layer(x) - goal)
        layer.update_parameters(optimizer)
    np.testing.assert_allclose(layer.parameters()["score.slopes"], [0.5, 0.2], atol=0.01)
    np.testing.assert_allclose(layer.parameters()["score.scale"], 0.8, atol=0.01)


def test_a_layer_is_made_again_from_its_configuration():
    layer, x = ruvattn.create("alibi", embed_dim=9, num_heads=3, slopes=np.array([0.5, 0.1, 0.0]), distance="causal"), points(6, 9)
    again = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
    np.testing.assert_array_equal(again(x), layer(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


# What is refused


@FORMS
@pytest.mark.parametrize("name", ["slopes", "scale"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e31, "1", True, [[0.5]], [0.5, np.nan], [[1.0], [2.0, 3.0]]])
def test_what_is_no_number_is_refused(form, name, value):
    with pytest.raises(InvalidInputError, match=rf"{name} must be a number between -1e\+30 and 1e\+30, or one for each head, got"):
        form(**{name: value})


@pytest.mark.parametrize("distance", ["euclidean", None, 1, ["causal"]])
def test_what_is_no_distance_is_refused(distance):
    with pytest.raises(InvalidInputError, match="distance must be one of 'symmetric', 'causal', got"):
        Alibi(distance=distance)
    with pytest.raises(InvalidInputError, match="distance must be one of 'symmetric', 'causal', got"):
        ruvattn.create("alibi", embed_dim=4, distance=distance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "num_heads must be an int from 1, got 0"),
        ({"num_heads": 3}, "num_heads must divide embed_dim, which is 4, got 3"),
        ({"embed_dim": "4"}, "embed_dim must be an int from 1, got '4'"),
        ({"slopes": [0.5]}, "slopes must be one number, or one for each of the 2 heads, got 1"),
        ({"scale": "big"}, r"scale must be a number between -1e\+30 and 1e\+30, or one for each head, got 'big'"),
        ({"slops": 0.5}, "no option 'slops'"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(options, message):
    with pytest.raises(AttentionError, match=message):
        ruvattn.create("alibi", **{"embed_dim": 4, "num_heads": 2, **options})


def test_slopes_for_other_heads_are_refused():
    with pytest.raises(AttentionError, match="slopes"):
        ruvattn.attention(*points(3, 3, 5, 4), score=Alibi(slopes=[0.5, 0.25]))


# What is written about it


@pytest.mark.parametrize("module", [ruvattn_alibi.score, ruvattn_alibi.compiled, ruvattn_alibi.layer])
def test_examples_of_the_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_the_snippets_of_the_readme_run(tmp_path):
    readme = pathlib.Path(__file__).parent.parent / "README.md"
    snippets = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    script = tmp_path / "readme.py"
    script.write_text("\n".join(snippets), encoding="utf-8")
    runpy.run_path(str(script))
