"""A plugin built against version 1 of the plugin interface still loads, computes and trains; and which versions are taken, for how long.

The plugin is in tests/api_1/ and is frozen. Its compiled score is built here, with the signatures of version 1, so that the binary interface is
tried too.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pickle
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn import plugins, reference, registry
from ruvattn.deprecation import (
    RuvattnDeprecationWarning,
    RuvattnPendingDeprecationWarning,
)
from ruvattn.errors import InvalidInputError, UnknownVariantError
from ruvattn.testing.slopes import require_gradients
from ruvattn.training import SGD, Adam, RiemannianAdam

FROZEN = Path(__file__).parent / "api_1"
DIGEST = "198e3b134c5890a077fec067eddc491d7533be8d6d473cc5c488c16cfaaffc33"
HEADS = 2


@pytest.fixture
def api_1(fake_plugins, monkeypatch):
    """The module of the frozen plugin, installed and not yet loaded."""
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "ruvattn-api-1")
    monkeypatch.syspath_prepend(FROZEN)
    importlib.invalidate_caches()
    fake_plugins.modules.append("ruvattn_api_1")
    plugins.reset()
    return importlib.import_module("ruvattn_api_1")


@pytest.fixture(scope="session")
def compiled_score(tmp_path_factory):
    """score.inc of the frozen plugin as a shared library, by the compiler of this machine."""
    compiler = shutil.which("cc") or shutil.which("clang") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("api_1") / "score.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, "-x", "c", FROZEN / "score.inc"], check=True)
    return library


def status():
    (found,) = [status for status in plugins.status() if status.distribution == "ruvattn-api-1"]
    return found


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def arrays(dtype=np.float64, width=8):
    return normal(2, HEADS, 9, width, dtype=dtype), normal(2, HEADS, 12, width, seed=1, dtype=dtype), normal(2, HEADS, 12, width, seed=2, dtype=dtype)


# --- the frozen plugin ----------------------------------------------------------------------------------------------------


def frozen_files():
    return sorted(path for path in FROZEN.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_the_frozen_plugin_is_as_it_was():
    """It may not be edited: see tests/api_1/README.md."""
    digest = hashlib.sha256()
    for path in frozen_files():
        digest.update(f"{path.relative_to(FROZEN).as_posix()}\n{path.read_text(encoding='utf-8')}\0".encode())
    assert digest.hexdigest() == DIGEST


def test_it_loads_and_every_name_is_usable(api_1):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins.load()
    assert status() == plugins.PluginStatus(
        name="api-1",
        distribution="ruvattn-api-1",
        version="1.0",
        loaded=True,
        provides={
            "variant": ("api-1-kernel", "api-1-mean", "api-1-steps"),
            "score": ("api-1-compiled", "api-1-kernel", "api-1-planes"),
            "pattern": ("api-1-chunks", "api-1-every-other", "api-1-listed", "api-1-prefix"),
            "aggregate": ("api-1-rms", "api-1-sharpened"),
            "manifold": ("api-1-circle",),
            "demo": ("api-1",),
        },
        api=1,
    )
    info = ruvattn.variants()["api-1-steps"]
    assert (info.summary, info.capabilities, info.options) == ("All steps.", ("trainable", "parameters"), {"reach": 6})


SCORES = [("api-1-kernel", {}), ("api-1-kernel", {"length": [1.0, 3.0], "rate": 0.5}), ("api-1-planes", {}), ("api-1-planes", {"weight": [0.2, 0.7]})]


@pytest.mark.parametrize(("name", "options"), SCORES)
def test_its_scores_compute_what_the_oracle_does(api_1, name, options):
    q, k, v = arrays()
    score = registry.get_score(name, **options)
    for call in ({}, {"causal": True, "query_offset": 2}, {"mask": normal(9, 12) > 0}):
        np.testing.assert_allclose(ruvattn.attention(q, k, v, score=score, **call), reference.attention(q, k, v, score=score, **call), atol=1e-12)


@pytest.mark.parametrize(("name", "options"), SCORES)
def test_its_scores_have_gradients(api_1, name, options):
    q, k, v = arrays()
    score = registry.get_score(name, **options)
    names = [f"score.{parameter}" for parameter in score.params]
    out, lse = ruvattn.attention(q, k, v, score=score, return_lse=True)
    dout = normal(*out.shape, seed=3)
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, score=score, wrt=("q", "k", *names))

    def loss(at):
        moved = registry.get_score(name, **options)
        moved.params = {parameter: at[f"score.{parameter}"] for parameter in score.params}
        return float((ruvattn.attention(at["q"], at["k"], v, score=moved) * dout).sum())

    given = {"q": q, "k": k} | {f"score.{parameter}": np.asarray(value, float) for parameter, value in score.params.items()}
    require_gradients(loss, given, {name: found[name] for name in given})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_its_compiled_functions_are_called_and_give_what_numpy_gives(api_1, compiled_score, dtype):
    api_1.attach_library(compiled_score)
    q, k, v = arrays(dtype)
    plain, built = registry.get_score("api-1-kernel", length=[1.5, 3.0]), registry.get_score("api-1-compiled", length=[1.5, 3.0])
    built.logits = built.logits_vjp = None  # the forms in NumPy: a call of them is an error
    wrt = ("q", "k", "v", "score.length", "score.rate")
    found = []
    for score in (plain, built):
        out, lse = ruvattn.attention(q, k, v, score=score, causal=True, return_lse=True)
        found.append({"out": out, **ruvattn.attention_backward(v[:, :, :9], q, k, v, out, lse, score=score, causal=True, wrt=wrt)})
    assert found[0].keys() == found[1].keys() == {"out", *wrt}
    for name, expected in found[0].items():
        np.testing.assert_allclose(found[1][name], expected, rtol=0, atol=300 * np.finfo(dtype).eps * max(1, np.abs(expected).max()), err_msg=name)


def test_a_compiled_function_of_another_signature_is_still_told(api_1, compiled_score):
    """What guards version 1 of the binary interface: a third pointer where the vjp has a size."""
    api_1.attach_library(compiled_score)
    forward, vjp = api_1.CompiledKernel.kernels["float32"]
    score = registry.get_score("api-1-compiled")
    score.kernels = {"float32": (vjp, forward)}
    with pytest.raises(InvalidInputError, match="and the engine calls 'void .float ., Py_ssize_t, Py_ssize_t, Py_ssize_t, float ., "):
        ruvattn.attention(*arrays(np.float32), score=score)


@pytest.mark.parametrize("name", ["api-1-chunks", "api-1-prefix", "api-1-listed", "api-1-every-other"])
def test_its_patterns_leave_out_what_they_say(api_1, name):
    pattern = registry.get_pattern(name)
    q, k, v = arrays()
    dense = np.array(
        [
            [np.broadcast_to(pattern.allowed(np.arange(9)[:, None], np.arange(12)[None], head=h, batch=b), (9, 12)) for h in range(HEADS)]
            for b in range(2)
        ]
    )
    assert dense.any() and not dense.all()
    np.testing.assert_allclose(ruvattn.attention(q, k, v, mask=pattern), reference.attention(q, k, v, mask=dense), atol=1e-12)
    np.testing.assert_array_equal(ruvattn.attention_weights(q, k, mask=pattern) > 0, dense)
    combined = ruvattn.attention(q, k, v, mask=~pattern | ruvattn.Causal())
    np.testing.assert_allclose(combined, reference.attention(q, k, v, mask=~dense | np.tri(9, 12, dtype=bool)), atol=1e-12)


@pytest.mark.parametrize(("name", "options"), [("api-1-rms", {}), ("api-1-rms", {"floor": [0.3, 1.0]}), ("api-1-sharpened", {"gain": 1.5})])
def test_its_aggregates_compute_and_have_gradients(api_1, name, options):
    q, k, v = arrays()
    aggregate = registry.get_aggregate(name, **options)
    out, lse = ruvattn.attention(q, k, v, aggregate=aggregate, causal=True, return_lse=True)
    np.testing.assert_allclose(out, reference.attention(q, k, v, aggregate=aggregate, causal=True), atol=1e-12)
    dout = normal(*out.shape, seed=3)
    ((parameter, value),) = aggregate.params.items()
    wrt = ("q", "v", f"aggregate.{parameter}")
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, aggregate=aggregate, causal=True, wrt=wrt)

    def loss(at):
        moved = registry.get_aggregate(name, **{parameter: at[wrt[2]] if np.ndim(value) else float(at[wrt[2]])})
        return float((ruvattn.attention(at["q"], k, at["v"], aggregate=moved, causal=True) * dout).sum())

    require_gradients(loss, {"q": q, "v": v, wrt[2]: np.asarray(value, float)}, found)


def test_its_manifold_is_learned_on(api_1):
    circle = registry.get_manifold("api-1-circle")
    target, point = np.array([0.0, 1.0]), {"p": np.array([1.0, 0.0])}
    optimizer = RiemannianAdam(0.1, manifolds={"p": circle})
    for _ in range(60):
        optimizer.step(point, {"p": point["p"] - target})
    assert circle.distance(point["p"], target) < 0.1
    assert np.linalg.norm(point["p"]) == pytest.approx(1)


def layers(api_1):
    yield ruvattn.create("api-1-kernel", embed_dim=8, num_heads=2, learn=("score.length",))
    yield ruvattn.create("api-1-steps", embed_dim=8, num_heads=2, learn=("scale",))
    yield ruvattn.create("api-1-mean", embed_dim=8, num_heads=2, gain=0.5)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_its_variants_train(api_1, optimizer):
    x = normal(2, 10, 8)
    for layer in layers(api_1):
        how = optimizer(0.01)
        target = 0.5 * layer(x) + 0.1
        before = {name: array.copy() for name, array in layer.parameters().items()}
        losses = []
        for _ in range(20):
            difference = layer(x) - target
            losses.append(np.square(difference).mean())
            layer.backward(difference / difference.size)
            layer.update_parameters(how)
        assert losses[-1] < losses[0], layer
        for name, array in layer.parameters().items():
            assert not np.array_equal(array, before[name]), name


def test_its_gradients_are_those_of_differences(api_1):
    x = normal(2, 7, 8)
    for layer in layers(api_1):
        layer.gradient_cache = not isinstance(layer, api_1.Steps)  # without it, `recompute` is what is asked
        dout = normal(*layer(x).shape, seed=5)
        found = layer.backward(dout, layer.forward_with_context(x)[1])
        parameters = layer.parameters()

        def loss(at, layer=layer, dout=dout, parameters=parameters):
            for name, array in parameters.items():
                array[...] = at[name]
            return float((layer(at["x"]) * dout).sum())

        kept = {name: array.copy() for name, array in parameters.items()}
        require_gradients(loss, {"x": x, **kept}, {"x": found.total(), **found.params})


def test_its_variants_are_made_again_from_their_configuration_pickled_and_saved(api_1, tmp_path):
    pytest.importorskip("safetensors")
    x = normal(2, 10, 8)
    for layer in layers(api_1):
        for array in layer.parameters().values():
            array += 0.25
        again = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
        layer.save_checkpoint(tmp_path / "layer")
        again.load_checkpoint(tmp_path / "layer")
        for other in (again, pickle.loads(pickle.dumps(layer))):
            np.testing.assert_array_equal(other(x), layer(x))


def test_its_other_interfaces_answer(api_1):
    layer, x = ruvattn.create("api-1-steps", embed_dim=8, num_heads=2, reach=20), normal(6, 8)
    mask = np.tri(6, dtype=bool)
    np.testing.assert_allclose(layer.forward_sparse(x, x, x, mask), layer(x, causal=True))
    np.testing.assert_allclose(layer.forward_windowed(x, x, x, 20), layer(x))
    np.testing.assert_allclose(layer.forward_strided(x, x, x, 20, 2), layer(x))
    np.testing.assert_allclose(layer.forward_topk(x, x, x, 6), ruvattn.create("standard", embed_dim=8, num_heads=2)(x))
    edges = np.argwhere(np.ones((6, 6), bool)).T
    np.testing.assert_allclose(layer.forward_graph(x, edges)[3], layer.forward_k_hop(3, x, edges, 1))
    np.testing.assert_allclose(layer.compute_manifold_weights(x, x).sum(-1), 1)
    point, other = layer.manifold.project(normal(2, 4, 2))
    np.testing.assert_allclose(layer.exp_map(point, layer.log_map(point, other)), other)
    np.testing.assert_allclose(np.vecdot(layer.project_tangent(other, point), point), 0, atol=1e-12)
    np.testing.assert_allclose(layer.forward(x[0], x, x), layer.forward_batch(x, x, x)[0])


def test_its_demonstration_is_shown(api_1, tmp_path):
    assert registry.show_demo("api-1").lines == ("A demonstration for version 1.",)
    shown = registry.show_demo("api-1", tmp_path)
    assert [path.read_text() for path in shown.pictures] == ["no picture, but a file\n"]
    assert shown.note == "a note"


# --- versions of the interface -------------------------------------------------------------------------------------------


def test_an_older_plugin_is_taken_and_its_author_is_told(api_1, monkeypatch):
    monkeypatch.setattr(plugins, "API_VERSION", 2)
    note = "ruvattn-api-1 is written for version 1 of the plugin interface, and this ruvattn has version 2: it works as before"
    with pytest.warns(RuvattnPendingDeprecationWarning, match=f"^{note}$") as caught:
        plugins.load()
    assert len(caught) == 1
    assert (status().loaded, status().api, status().note, status().error) == (True, 1, note, None)
    assert ruvattn.create("api-1-kernel", embed_dim=8)(normal(3, 8)).shape == (3, 8)


def test_users_are_not_told_before_there_is_an_end(api_1, monkeypatch):
    monkeypatch.setattr(plugins, "API_VERSION", 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning):  # as Python does by itself
            warnings.simplefilter("ignore", category)
        plugins.load()
    assert caught == []


def test_once_there_is_an_end_everyone_is_told(api_1, monkeypatch):
    monkeypatch.setattr(plugins, "API_VERSION", 2)
    monkeypatch.setattr(plugins, "DROPPED_IN", {1: "0.9"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        plugins.load()
    (warning,) = caught
    assert warning.category is RuvattnDeprecationWarning
    assert str(warning.message).endswith("has version 2: it works until ruvattn 0.9, so look for a newer ruvattn-api-1")
    assert status().loaded


def test_after_the_end_it_is_refused_in_clear_words(api_1, monkeypatch):
    monkeypatch.setattr(plugins, "API_VERSION", 3)
    monkeypatch.setattr(plugins, "OLDEST_API", 2)
    monkeypatch.setattr(plugins, "DROPPED_IN", {1: "0.9"})
    with pytest.warns(RuntimeWarning, match="is not usable"):
        plugins.load()
    assert not status().loaded
    assert status().error == (
        "ruvattn-api-1 1.0 (entry point 'api-1') is written for version 1 of the plugin interface, and this ruvattn takes versions 2 to 3: "
        "upgrade ruvattn-api-1, or use it with a ruvattn before 0.9"
    )
    with pytest.raises(UnknownVariantError, match="failed to load: ruvattn-api-1 1.0 .*upgrade ruvattn-api-1"):
        ruvattn.create("api-1-kernel", embed_dim=8)


def test_a_newer_plugin_is_refused_with_the_advice_to_upgrade_the_core(fake_plugins, monkeypatch):
    monkeypatch.setattr(plugins, "API_VERSION", 2)
    fake_plugins.install("ruvattn-new", "def ruvattn_register(registry): pass", api="3")
    (new,) = [status for status in plugins.status() if status.distribution == "ruvattn-new"]
    assert new.error == (
        "ruvattn-new 1.0 (entry point 'ruvattn-new') is written for version 3 of the plugin interface, and this ruvattn takes versions 1 to 2: "
        "upgrade ruvattn"
    )


def test_a_version_that_is_no_number_is_refused(fake_plugins):
    fake_plugins.install("ruvattn-odd", "def ruvattn_register(registry): pass", api="True")
    (odd,) = [status for status in plugins.status() if status.distribution == "ruvattn-odd"]
    assert odd.error.endswith("RUVATTN_API must be an int, got True")


class Adapted:
    """A registry of a later version, seen by plugins of an earlier one: names are handed on with a mark."""

    def __init__(self, registry, mark):
        self.registry, self.mark = registry, mark

    def __getattr__(self, method):
        return lambda name, *args, **options: getattr(self.registry, method)(f"{name}-{self.mark}", *args, **options)


def test_an_older_plugin_is_handed_what_it_was_written_for(api_1, fake_plugins, monkeypatch):
    """From the newest version down, one adapter after another; a version without one is handed the same."""
    monkeypatch.setattr(plugins, "API_VERSION", 4)
    monkeypatch.setattr(plugins, "ADAPTERS", {1: lambda registry: Adapted(registry, "one"), 3: lambda registry: Adapted(registry, "three")})
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "ruvattn-api-1,ruvattn-third,ruvattn-fourth")
    for name, api in (("third", "3"), ("fourth", "4")):
        source = f"from ruvattn.scores import Dot\ndef ruvattn_register(registry): registry.score('{name}', Dot)"
        fake_plugins.install(f"ruvattn-{name}", source, api=api)
    provides = {status.distribution: status.provides for status in plugins.status()}
    assert "api-1-kernel-one-three" in provides["ruvattn-api-1"]["score"]
    assert provides["ruvattn-third"] == {"score": ("third-three",)}
    assert provides["ruvattn-fourth"] == {"score": ("fourth",)}


def test_the_command_line_shows_versions_and_notes(api_1, monkeypatch):
    from click.testing import CliRunner

    from ruvattn.cli import commands

    monkeypatch.setattr(plugins, "API_VERSION", 2)
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(commands, ["plugins"]).output
    assert re.search(r"\bplugin +from +API +state", shown)
    assert re.search(r"\(built in\) +ruvattn \S+ +2 ", shown)
    assert re.search(r"api-1 +ruvattn-api-1 1\.0 +1 ", shown)
    assert "api-1: ruvattn-api-1 is written for version 1 of the plugin interface, and this ruvattn has version 2: it works as before" in shown
    (found,) = [plugin for plugin in json.loads(CliRunner().invoke(commands, ["plugins", "--json"]).output)["plugins"] if plugin["name"] == "api-1"]
    assert (found["api"], found["note"]) == (1, status().note)


def test_the_range_of_versions_makes_sense():
    assert 1 <= plugins.OLDEST_API <= plugins.API_VERSION
    assert set(plugins.ADAPTERS) <= set(range(plugins.OLDEST_API, plugins.API_VERSION))
    assert plugins.API_VERSION not in plugins.DROPPED_IN
