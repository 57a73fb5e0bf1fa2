"""The documents say what is so: their snippets run, their commands, files and links exist, and what is public is documented."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import ruvattn

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

checkout = pytest.mark.skipif(not all(path.exists() for path in DOCUMENTS), reason="needs a checkout")
documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)

PUBLIC_MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(ruvattn.__path__, "ruvattn.")
    if not re.search(r"\.(_|kernels|cli|build)", info.name)  # build imports setuptools, which needs not be there
    and (".integrations." not in info.name or importlib.util.find_spec("torch"))  # tests/reference looks at those
)


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each command: indented lines, and code spans that start with a program's name."""
    lines = re.findall(r"^    (\S.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    lines += re.findall(r"`((?:make|ruvattn|pip|bash) [^`]+)`", text)
    found = []
    for line in lines:
        for part in re.split(r"&&|\|", line.partition(" #")[0]):
            words = shlex.split(part, comments=True) if part.count("'") % 2 == 0 else []
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append([words[0].removeprefix(".venv/bin/").removeprefix("../.venv/bin/"), *words[1:]])
    return found


# Documents ----------------------------------------------------------------------------------------------------------


@checkout
def test_the_readme_s_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """As one module: what it defines can be pickled, as the conformance suite asks for."""
    blocks = code_blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    assert len(blocks) >= 4
    if any(importlib.util.find_spec(name) is None for name in ("ruvattn_sparse", "ruvattn_geometric", "ruvattn_graph")):
        pytest.skip("needs the plugins: pip install ./plugins/ruvattn-sparse ./plugins/ruvattn-geometric ./plugins/ruvattn-graph")
    (tmp_path / "readme_snippets.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "readme_snippets", raising=False)
    names = importlib.import_module("readme_snippets")
    for name in ("out", "context", "sequence", "features", "nodes"):
        assert np.isfinite(getattr(names, name)).all(), name


@checkout
@documents
def test_every_make_command_names_targets_of_the_makefile(path):
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = [words[1:] for words in commands(path.read_text(encoding="utf-8")) if words[0] == "make"]
    assert used
    for words in used:
        for word in words:
            assert word in targets or re.match(r"[A-Z]+=", word), f"make {' '.join(words)}"


@checkout
@documents
def test_every_ruvattn_command_parses(path):
    from ruvattn.cli import commands as group

    used = [words[1:] for words in commands(path.read_text(encoding="utf-8")) if words[0] == "ruvattn"]
    assert used
    context = group.make_context("ruvattn", ["info"])
    for words in used:
        command = group.get_command(context, words[0])
        assert command is not None, words
        command.make_context(words[0], [word for word in words[1:] if word != "&"], parent=context).close()


@checkout
@documents
def test_every_link_and_every_path_leads_somewhere(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    named += re.findall(r"`((?:ruvattn|plugins|tests|scripts|docs|asv_benchmarks)/[^`*… ]*)`", text)
    named += [word for words in commands(text) for word in words[1:] if re.match(r"(\./)?(tests|plugins|ruvattn)/[^*]*$", word)]
    assert named
    for name in named:
        assert (ROOT / re.sub(r"\[.*", "", name)).exists(), name


@checkout
def test_every_variable_that_is_read_is_documented():
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "ruvattn").rglob("*.py"))
    variables = set(re.findall(r'"(RUVATTN_[A-Z_]+)"', source)) - {"RUVATTN_API"}
    macros = set(re.findall(r'\(\s*"(RUVATTN_[A-Z_]+)",', source))  # what build.py defines for C
    assert {"RUVATTN_ISA", "RUVATTN_LOAD_PLUGINS"} <= variables
    text = "".join(file.read_text(encoding="utf-8") for file in DOCUMENTS)
    assert [name for name in sorted(variables - macros) if name not in text] == []


@checkout
def test_versions_agree():
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == ruvattn.__version__


# Docstrings (make lint looks at their form, with numpydoc) ----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ruvattn.__all__) - {"errors"}))
def test_every_public_name_documents_each_parameter(name):
    thing = getattr(ruvattn, name)
    text = inspect.getdoc(thing) or ""
    assert text.splitlines()[0].endswith("."), text
    if inspect.isclass(thing) and "__init__" not in vars(thing):
        return
    sections = re.split(r"\n(\w[\w ]+)\n-{3,}\n", text)
    documented = "\n".join(body for title, body in zip(sections[1::2], sections[2::2], strict=True) if title in ("Parameters", "Attributes"))
    entries = {entry.strip(" *") for line in re.findall(r"^(\*{0,2}\w[^:\n]*)", documented, re.MULTILINE) for entry in line.split(",")}
    wanted = {parameter for parameter in inspect.signature(thing).parameters if not parameter.startswith("_")}
    assert wanted <= entries, wanted - entries


@pytest.mark.parametrize("name", ["ruvattn", *PUBLIC_MODULES])
def test_every_module_says_what_it_is_for(name):
    assert (importlib.import_module(name).__doc__ or "").strip()


@pytest.mark.parametrize("name", ["ruvattn", *PUBLIC_MODULES])
def test_the_examples_in_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0
