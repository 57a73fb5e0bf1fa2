"""The plugin: every promise of the conformance suite, and what the suite cannot know."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import LowLevelCallable

import ruvattn
from ruvattn.checkpoints import save_arrays
from ruvattn.errors import CheckpointError, InvalidInputError
from ruvattn.isa import ISA_VARIABLE, active_isa, supported_isas
from ruvattn.testing import parametrize_with_checks
from ruvattn.testing.compiled import compiled_logits, compiled_logits_vjp
from ruvattn.testing.slopes import require_gradients
from ruvattn.training import SGD

pytest.importorskip("ruvattn_example", reason="pip install ./plugins/ruvattn-example first")
from ruvattn_example import CompiledRbf, Rbf
from ruvattn_example.rbf import compiled_rbf_attention, rbf_attention

PROJECT = Path(__file__).parents[1]

both = pytest.mark.parametrize("score", [Rbf, CompiledRbf])


def points(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- the conformance suite -------------------------------------------------------------------------------------------


@parametrize_with_checks([Rbf(), CompiledRbf(), Rbf(sigma=3.0), CompiledRbf(sigma=[0.5, 2.0])])
def test_scores_keep_every_promise(subject, check):
    check(subject)


@parametrize_with_checks([rbf_attention, compiled_rbf_attention])
def test_variants_keep_every_promise(subject, check):
    check(subject)


# --- the formula -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("sigma", [0.5, 1.0, 7.0])
def test_a_logit_is_minus_the_squared_distance_over_two_sigma_squared(score, sigma):
    q, k = points(2, 5, 16), points(2, 7, 16, seed=1)
    distances = np.linalg.norm(q[:, :, None] - k[:, None], axis=-1)
    logits = ruvattn.attention_logits(q, k, score=score(sigma=sigma))
    np.testing.assert_allclose(logits, -(distances**2) / (2 * sigma**2), rtol=1e-13)


@both
def test_each_head_has_its_own_sigma(score):
    q, k = points(3, 5, 8), points(3, 7, 8, seed=1)
    together = ruvattn.attention_logits(q, k, score=score(sigma=[0.5, 1.0, 4.0]))
    for head, sigma in enumerate([0.5, 1.0, 4.0]):
        alone = ruvattn.attention_logits(q[head], k[head], score=score(sigma=sigma))
        np.testing.assert_allclose(together[head], alone, rtol=1e-13)


@both
def test_moving_queries_and_keys_together_changes_nothing(score):
    q, k, v = points(3, 20, 4)
    moved = ruvattn.attention(q + 3.0, k + 3.0, v, score=score())
    np.testing.assert_allclose(moved, ruvattn.attention(q, k, v, score=score()), rtol=0, atol=1e-12)


@both
def test_the_output_is_the_nadaraya_watson_estimate(score):
    """With many samples and a narrow kernel, a smooth function is found again."""
    x = np.linspace(-3, 3, 2001)[:, None]
    at = np.linspace(-2, 2, 9)[:, None]
    estimate = ruvattn.attention(at, x, np.sin(x), score=score(sigma=0.05))
    # Smoothing with a Gaussian takes exp(−σ²/2) of a sine.
    np.testing.assert_allclose(estimate, np.exp(-(0.05**2) / 2) * np.sin(at), atol=1e-6)


@both
def test_a_narrow_kernel_takes_the_nearest_key(score):
    k, v = points(50, 6, dtype=np.float32), np.eye(50, dtype=np.float32)
    out = ruvattn.attention(k[::-1] + np.float32(1e-3), k, v, score=score(sigma=0.05))
    assert out.argmax(1).tolist() == list(range(50))[::-1]


@both
@pytest.mark.parametrize("sigma", [0, -1.0, np.nan, np.inf, 1e-16, 1e16, "1", None, [1.0, 0.0], True, 1j])
def test_a_sigma_that_is_no_width_is_refused(score, sigma):
    with pytest.raises(InvalidInputError, match="sigma must be a number between 1e-16 and 1e\\+16, or one for each head, got "):
        score(sigma=sigma)


@both
@pytest.mark.parametrize("sigma", [1.01e-16, 1e-15, 1e15, 0.99e16])
def test_the_narrowest_and_the_widest_kernel_give_numbers(score, sigma):
    q, k, v = points(3, 2, 9, 4, dtype=np.float32)
    assert np.isfinite(ruvattn.attention(np.concatenate([q, k], 1), k, v, score=score(sigma=sigma))).all()


# --- the builds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", [name for name in supported_isas() if name != active_isa()])
def test_every_promise_is_kept_by_the_other_builds_too(isa):
    names = ["rbf", "rbf-compiled"]
    environment = {**os.environ, ISA_VARIABLE: isa, "RUVATTN_LOAD_PLUGINS": "ruvattn-example"}
    done = subprocess.run([sys.executable, "-m", "ruvattn", "test", *names], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " checks of 4 subjects: " in done.stdout


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_build_agrees_with_numpy(isa, dtype):
    module = importlib.import_module(f"ruvattn_example._rbf_{isa}")
    forward, vjp = (LowLevelCallable.from_cython(module, name + dtype) for name in ("rbf_", "rbf_vjp_"))
    m, n, sigma = 9, 21, 1.5
    q, k, upstream = points(m, 5, dtype=dtype), points(n, 5, seed=1, dtype=dtype), points(m, n, seed=2, dtype=dtype)
    norms = (np.vecdot(q, q)[:, None],), (np.vecdot(k, k)[None],)

    def tile():
        return ruvattn.Tile((q @ k.T)[None], *norms, {"sigma": np.dtype(dtype).type(sigma)})

    rounding = 200 * np.finfo(dtype).eps
    logits = compiled_logits(forward, tile(), ld=24)
    np.testing.assert_allclose(logits, Rbf(sigma).logits(tile()), rtol=0, atol=rounding)
    found = compiled_logits_vjp(vjp, tile(), upstream, ld=24)
    ddots, (drows,), (dcols,), dparams = Rbf(sigma).logits_vjp(tile(), upstream)
    np.testing.assert_allclose(found["dots"], ddots, rtol=0, atol=rounding)
    np.testing.assert_allclose(found["rows"][0], drows[:, 0], rtol=0, atol=rounding)
    np.testing.assert_allclose(found["cols"][0], dcols[0], rtol=0, atol=rounding)
    np.testing.assert_allclose(found["params"], [dparams["sigma"]], rtol=0, atol=rounding * 10)


# --- as an installed plugin ------------------------------------------------------------------------------------------


def test_it_is_found_and_provides_its_names():
    (status,) = [status for status in ruvattn.plugins.status() if status.distribution == "ruvattn-example"]
    assert status.loaded
    assert status.error is None, status.traceback
    assert status.provides == {"variant": ("rbf", "rbf-compiled"), "score": ("rbf", "rbf-compiled")}


@pytest.mark.parametrize("name", ["rbf", "rbf-compiled"])
def test_its_variants_are_made_by_name_and_from_their_configuration(name):
    assert ruvattn.variants()[name].options == {"sigma": 1.0}
    layer = ruvattn.create(name, embed_dim=8, num_heads=2, sigma=[0.5, 2.0])
    x = points(10, 8, dtype=np.float32)
    again = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
    np.testing.assert_array_equal(again(x), layer(x))
    heads = x.reshape(10, 2, 4).swapaxes(0, 1)
    expected = ruvattn.reference.attention(heads, heads, heads, score=Rbf(sigma=[0.5, 2.0]))
    np.testing.assert_allclose(layer(x), expected.swapaxes(0, 1).reshape(10, 8), atol=1e-5)


@pytest.mark.parametrize("name", ["rbf", "rbf-compiled"])
def test_sigma_is_learned(name):
    layer = ruvattn.create(name, embed_dim=8, num_heads=2, sigma=2.0, learn=("score.sigma",))
    sigma = layer.parameters()["score.sigma"]
    assert sigma.tolist() == [2.0, 2.0]
    x, dout = points(10, 8), points(10, 8, seed=1)
    layer(x)
    found = layer.backward(dout)

    def loss(arrays):
        sigma[...] = arrays["sigma"]
        return float((layer(arrays["x"]) * dout).sum())

    require_gradients(loss, {"x": x, "sigma": sigma.copy()}, {"x": found.total(), "sigma": found.params["score.sigma"]})
    assert "trainable" in ruvattn.variants()[name].capabilities


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sigma", [0.0, -1.0, 1e-30, 1e30])
@pytest.mark.parametrize("name", ["rbf", "rbf-compiled"])
def test_a_learned_sigma_that_is_no_width_is_named(name, sigma, dtype):
    layer = ruvattn.create(name, embed_dim=8, num_heads=2, learn=("score.sigma",))
    layer.parameters()["score.sigma"][1] = sigma
    with pytest.raises(InvalidInputError, match=r"^sigma must be in the open interval \(1e-16, 1e\+16\) for .*Rbf, got .* at index \(1,\)"):
        layer(points(2, 5, 8, dtype=dtype))


@pytest.mark.parametrize("name", ["rbf", "rbf-compiled"])
def test_a_step_to_a_sigma_that_is_no_width_is_taken_back(name):
    layer = ruvattn.create(name, embed_dim=8, num_heads=2, learn=("score.sigma",))
    x = points(2, 5, 8)
    optimizer = SGD(1e3, momentum=0.9)
    layer(x)
    gradient = layer.backward(x).params["score.sigma"]
    sign = np.sign(gradient[0])  # so that sigma falls
    layer(x)
    layer.backward(sign * x)
    with pytest.raises(InvalidInputError, match=r"^parameter 'score.sigma' must be in the open interval"):
        layer.update_parameters(optimizer)
    assert layer.parameters()["score.sigma"].tolist() == [1.0, 1.0]
    assert optimizer.steps == 0


def test_a_checkpoint_with_a_sigma_that_is_no_width_is_neither_saved_nor_loaded(tmp_path):
    layer = ruvattn.create("rbf", embed_dim=8, learn=("score.sigma",))
    config = layer.config.to_dict()
    save_arrays(tmp_path / "layer", {"score.sigma": np.array([-1.0])}, {"kind": "attention", "config": config})
    with pytest.raises(CheckpointError, match=r"has what the variant can't take: parameter 'score.sigma' must be in the open interval"):
        layer.load_checkpoint(tmp_path / "layer")
    assert layer.parameters()["score.sigma"].tolist() == [1.0]
    layer.parameters()["score.sigma"][...] = 0
    with pytest.raises(InvalidInputError, match=r"^parameter 'score.sigma' must be in the open interval"):
        layer.save_checkpoint(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_of_another_score_is_refused(tmp_path):
    options = {"embed_dim": 8, "learn": ("score.sigma",)}
    ruvattn.create("rbf", **options).save_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="is of a variant with score 'rbf', and this one has 'rbf-compiled'"):
        ruvattn.create("rbf-compiled", **options).load_checkpoint(tmp_path / "layer")
    other = ruvattn.create("rbf", sigma=3.0, **options)  # where learning began is no part of it
    other.load_checkpoint(tmp_path / "layer")
    assert other.parameters()["score.sigma"].tolist() == [1.0]


# --- the README keeps up ---------------------------------------------------------------------------------------------


def test_every_line_that_the_readme_explains_is_in_the_sources():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    files = ["pyproject.toml", "setup.py", "tests/test_rbf.py", *(f"src/ruvattn_example/{name}" for name in ("__init__.py", "rbf.py", "_rbf.pyx"))]
    sources = "\n".join((PROJECT / file).read_text(encoding="utf-8") for file in files)
    blocks = re.findall(r"```\w+\n(.*?)```", readme, flags=re.S)
    explained = [block for block in blocks if not block.startswith("import numpy")]
    assert len(explained) > 10
    for block in explained:
        assert block in sources, block


def test_the_example_of_the_readme_runs():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.S) if block.startswith("import numpy")]
    names = {}
    exec(example, names)
    assert names["out"].shape == (4, 100, 16)
    assert names["layer"].config.num_heads == 4
