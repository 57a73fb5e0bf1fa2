"""The README says what is so: its examples run, and what is registered is in its tables with its options."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn.registry import Origin, Registry

ruvattn_geometric = pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example saves a picture


def registered(kind):
    """Factories by name, as the plugin enters them."""
    names = Registry(Origin("ruvattn-geometric", "0"))
    ruvattn_geometric.ruvattn_register(names)
    return {name: entry.factory for (of, name), entry in names._close().items() if of == kind}


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S).group(1)


def options(factory):
    """The options of a factory, with their defaults where these are short."""

    def shown(option):
        if option.default is option.empty:
            return option.name
        return f"{option.name}={'…' if isinstance(option.default, tuple | list) else repr(option.default)}"

    return ", ".join(map(shown, inspect.signature(factory).parameters.values()))


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_its_examples_run(number, capsys):
    names = {}
    exec(EXAMPLES[number], names)
    for name in ("out", "y", "near", "here"):
        assert np.isfinite(names.get(name, 0)).all()


def test_relatives_are_found_in_the_tree_of_exceptions(capsys):
    (example,) = (example for example in EXAMPLES if "builtins" in example)
    exec(example, {})
    found = dict(line.split(" → ") for line in capsys.readouterr().out.splitlines())
    assert found["KeyError"].startswith("['LookupError', ")
    assert found["BrokenPipeError"].startswith("['ConnectionError', ")
    assert Path("exceptions.png").stat().st_size > 10_000


def test_distances_on_the_globe_are_those_of_the_readme():
    (example,) = (example for example in EXAMPLES if "cities" in example)
    names = {}
    exec(example, names)
    found = names["earth"].pairwise_distance(names["x"])
    assert found[1, 2].round() == 339
    assert found[3, 4].round() == 1151


def test_bad_input_is_told_as_the_readme_has_it(capsys):
    exec(EXAMPLES[-1], {})
    lines = capsys.readouterr().out.splitlines()
    assert "row" in lines[0]
    assert "1.27" in lines[0]  # the norm of (0.9, 0.9)
    assert "'q': 1, 'k': 1, 'v': 1" in lines[1]
    assert all("c must be" in line for line in lines[2:])


def test_every_variant_is_there_with_its_options_score_and_aggregate():
    rows = {name: rest for name, *rest in re.findall(r"^\| ([a-z-]+) \| `([^`]+)` \| ([a-z-]+) \| ([a-z-]+) \|", section("Variants"), flags=re.M)}
    assert sorted(rows) == sorted(registered("variant"))
    for name, (own, score, aggregate) in rows.items():
        known = ruvattn.variants()[name].options
        assert (known["score"], known["aggregate"]) == (score, aggregate)
        for option in re.split(r", (?=\w+=)", own):
            key, value = option.split("=")
            assert repr(known[key]) == value, name


@pytest.mark.parametrize("kind", ["Scores", "Aggregates"])
def test_every_part_is_there_with_its_options(kind):
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", section(kind), flags=re.M))
    factories = registered(kind.lower().removesuffix("s"))
    assert sorted(rows) == sorted(factories)
    for name, row in rows.items():
        assert options(factories[name]) == row, name


def test_every_manifold_is_there_under_its_name():
    rows = dict(re.findall(r"^\| `(\w+)\([^`]*\)` \| `([a-z-]+)` \|", section("Manifolds as a library"), flags=re.M))
    assert sorted(rows.values()) == sorted(registered("manifold"))
    assert set(rows) <= set(ruvattn_geometric.__all__)


def test_every_method_of_a_manifold_is_there():
    named = set(re.findall(r"`(\w+)(?:\(|`)|, `?(\w+)\(", section("Manifolds as a library")))
    named = {name for pair in named for name in pair if name}
    methods = {name for name in dir(ruvattn_geometric.PoincareBall) if not name.startswith("_")}
    assert {"distance", "pairwise_distance", "exp_map", "log_map", "transport", "mean", "check"} <= methods & named
    of_all = {name for name in dir(ruvattn_geometric.GeometricManifold) if not name.startswith("_")}
    assert of_all - named <= {"check_tangent"}


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (README.parent / target).exists(), target
