"""``ruvattn new-plugin``: what it writes is complete and works as it is; what it can't write it says, and leaves everything as it was."""

from __future__ import annotations

import errno
import importlib.util
import itertools
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest

import ruvattn
from ruvattn.cli import main
from ruvattn.errors import InvalidInputError
from ruvattn.plugins import API_VERSION
from ruvattn.scaffold import KINDS, check_plugin_name, plugin_files, write_plugin, writing
from ruvattn.scaffold.names import module_name, registered_name

ROOT = Path(ruvattn.__file__).parents[1]
SIX = list(itertools.product(KINDS, ("numpy", "cython")))
PLACEHOLDERS = (
    "plugin-name", "plugin_name", "PluginName", "plugin_kind", "plugin-author", "plugin-year", "plugin-ruff", "registered-name", "registered_name",
    "ruvattn>=0\"",
)  # fmt: skip
MARK = re.compile(r"\bonly( (numpy|cython|score|pattern|variant))+( -->)?$|end only")

six = pytest.mark.parametrize(("kind", "how"), SIX)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as ended:
            main(["new-plugin", *args])
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=captured.out, err=captured.err)

    return call


def is_one_helpful_line(result: SimpleNamespace, *words: str) -> bool:
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert all(word in result.err for word in words), result.err
    return True


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# What it writes -----------------------------------------------------------------------------------------------------


@six
def test_a_plugin_has_all_that_a_project_needs(kind, how):
    compiled = {"setup.py", f"src/demo_x/_{kind}.pyx"} if how == "cython" else set()
    assert set(plugin_files("demo-x", kind=kind, cython=how == "cython")) == compiled | {
        "pyproject.toml", "README.md", "LICENSE", ".gitignore", "asv.conf.json", "src/demo_x/__init__.py", f"src/demo_x/{kind}.py",
        "tests/test_conformance.py", "tests/test_demo_x.py", "benchmarks/__init__.py", "benchmarks/demo_x_variants.py", ".github/workflows/ci.yml",
    }  # fmt: skip


@six
def test_no_placeholder_and_no_mark_is_left(kind, how):
    for path, text in plugin_files("demo-x", kind=kind, cython=how == "cython").items():
        left = [line for line in text.splitlines() if any(word in line for word in PLACEHOLDERS) or MARK.search(line)]
        assert not left, f"{path}: {left}"


@six
def test_its_python_is_python(kind, how):
    sources = {path: text for path, text in plugin_files("demo-x", kind=kind, cython=how == "cython").items() if path.endswith(".py")}
    assert len(sources) >= 6
    for path, text in sources.items():
        compile(text, path, "exec")


@six
def test_its_metadata_name_the_plugin_and_what_building_takes(kind, how):
    files = plugin_files("demo-x", kind=kind, cython=how == "cython")
    project = tomllib.loads(files["pyproject.toml"])
    assert project["project"]["name"] == "demo-x"
    assert project["project"]["entry-points"] == {"ruvattn": {"demo-x": "demo_x"}}
    assert f"ruvattn>={ruvattn.__version__}" in project["project"]["dependencies"]
    assert any(line.startswith("Cython") for line in project["build-system"]["requires"]) == (how == "cython")
    assert f"\nRUVATTN_API = {API_VERSION}\n" in files["src/demo_x/__init__.py"]


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
def test_they_pass_ruff_as_they_come_and_with_what_authors_add(tmp_path):
    for (kind, how), name in zip(SIX, ("zeta-a", "ruvattn-zeta-b", "zeta-c", "zeta-d", "ruvattn-zeta-e", "zeta-f"), strict=True):
        folder, _ = write_plugin(name, tmp_path, kind=kind, cython=how == "cython")
        with (folder / "benchmarks" / f"{module_name(name)}_variants.py").open("a") as suite:
            suite.write('\n\nclass Other(VariantBenchmarks):\n    variant = "other"\n    options = {"gain": 1.0}\n')
    # Each with the settings that stand in its folder.
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


@six
def test_what_its_text_says_of_ruvattn_is_there(kind, how):
    known = {"ruvattn.git"}
    for path, text in plugin_files("demo-x", kind=kind, cython=how == "cython").items():
        for dotted in set(re.findall(r"\bruvattn(?:\.[A-Za-z_]\w*)+", text)) - known:
            try:
                pkgutil.resolve_name(dotted)
            except (ImportError, AttributeError) as error:
                pytest.fail(f"{path} names {dotted}: {error}")


def test_every_template_is_in_use():
    placed = {path for kind, how in SIX for path in plugin_files("plugin-name", kind=kind, cython=how == "cython")}
    templates = Path(writing.__file__).parent / "templates"
    kept = {path.split("/", 1)[1] for path in files_below(templates) if "__pycache__" not in path and "/." not in path}
    dotted = {f".{path}" if path.partition("/")[0] in ("github", "gitignore") else path for path in kept}
    assert {path.replace("demo", "plugin") for path in placed} == dotted


@pytest.mark.parametrize("author", ["Ann Author", 'Ann "A" \\ Ørsted', "O'Hara"])
def test_the_author_is_in_licence_and_metadata(author):
    files = plugin_files("demo-x", author=f" {author} ")
    assert f" {author}\n" in files["LICENSE"]
    assert tomllib.loads(files["pyproject.toml"])["project"]["authors"] == [{"name": author}]


def test_an_author_that_looks_like_a_placeholder_stays_what_it_is():
    assert "plugin-name and plugin-author\n" in plugin_files("demo-x", author="plugin-name and plugin-author")["LICENSE"]


@pytest.mark.parametrize("name", ["a.b", "a.b_c-2", "x" * 100])
def test_any_name_of_a_distribution_is_an_entry_point(name):
    project = tomllib.loads(plugin_files(name)["pyproject.toml"])["project"]
    assert project["entry-points"] == {"ruvattn": {name: module_name(name)}}


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_the_folder_can_be_pasted_whatever_its_name(run, tmp_path):
    (tmp_path / 'a "$b" c').mkdir()
    result = run("demo-x", "--directory", 'a "$b" c')
    (line,) = [line for line in result.out.splitlines() if line.startswith("    cd ")]
    assert shlex.split(line) == ["cd", 'a "$b" c/demo-x']


@pytest.mark.parametrize(
    ("name", "module", "registered", "prefix"),
    [
        ("demo", "demo", "demo", "Demo"),
        ("a.b_c-2", "a_b_c_2", "a.b_c-2", "ABC2"),
        ("x", "x", "x", "X"),
        ("ruvattn-alibi", "ruvattn_alibi", "alibi", "Alibi"),
        ("ruvattn_a.b", "ruvattn_a_b", "a.b", "AB"),
        ("ruvattn-ruvattn-x", "ruvattn_ruvattn_x", "ruvattn-x", "RuvattnX"),
        ("ruvattns", "ruvattns", "ruvattns", "Ruvattns"),
        ("my-ruvattn-x", "my_ruvattn_x", "my-ruvattn-x", "MyRuvattnX"),
    ],
)
def test_module_follows_the_name_and_what_is_registered_leaves_ruvattn_out(name, module, registered, prefix):
    files = plugin_files(name)
    assert f"class {prefix}Score(Score):" in files[f"src/{module}/score.py"]
    assert f'registry.score("{registered}", {prefix}Score' in files[f"src/{module}/__init__.py"]
    assert f"def {module_name(registered)}_attention(" in files[f"src/{module}/score.py"]
    assert f'variant = "{registered}"' in files[f"benchmarks/{module}_variants.py"]
    assert tomllib.loads(files["pyproject.toml"])["project"]["name"] == name


def test_what_a_tool_leaves_among_the_templates_is_no_part_of_a_plugin(tmp_path, monkeypatch):
    shutil.copytree(Path(writing.__file__).parent / "templates", tmp_path / "templates")
    expected = plugin_files("demo-x")
    (tmp_path / "templates" / "common" / ".ruff_cache").mkdir()
    (tmp_path / "templates" / "common" / ".ruff_cache" / "0").write_bytes(b"\x97")
    monkeypatch.setattr(writing.resources, "files", lambda package: tmp_path)
    assert plugin_files("demo-x") == expected


# What it writes works -----------------------------------------------------------------------------------------------

NUMPY = [("score", "numpy"), ("pattern", "numpy"), ("variant", "numpy")]
COMPILED = ("pattern", "cython")
INSTALLED = [*NUMPY, COMPILED]
"""scripts/check_new_plugin.sh does the same, and more, with a score and a variant that are compiled."""


def name_of(kind: str, how: str) -> str:
    """Return the name of one of the plugins below; one is called as many are."""
    return f"ruvattn-demo-{kind}-{how}" if kind == "variant" else f"demo-{kind}-{how}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Plugins written, built as pip would, and put on the path; compiled for one instruction set."""
    root = tmp_path_factory.mktemp("plugins")
    folders = {(kind, how): write_plugin(name_of(kind, how), root, kind=kind, cython=how == "cython")[0] for kind, how in INSTALLED}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUVATTN_BUILD_ISAS": ruvattn.isa.active_isa()}
    # What pip asks of the build backend, which takes a quarter of the time without pip around it.
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    for folder in folders.values():
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = (folder / "dist").glob("*.whl")
        ZipFile(wheel).extractall(root / "site")

    def call(kind: str, how: str, *args: str, load: bool = True) -> subprocess.CompletedProcess[str]:
        """Start an interpreter in the plugin's folder that has the plugin."""
        path = os.pathsep.join([str(root / "site"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "RUVATTN_LOAD_PLUGINS": name_of(kind, how) if load else ""}
        return subprocess.run([sys.executable, *args], cwd=folders[kind, how], env=environment, capture_output=True, text=True)

    return call


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")


@pytest.mark.parametrize(("kind", "how"), INSTALLED)
def test_its_own_tests_pass(installed, kind, how):
    # Of the compiled one no conformance suite: in what differs it has tests of its own. Of the others not what others of these run: `standard` with
    # another score, and the further options.
    left_out = {"score": "(variant or gain)", "pattern": "near", "variant": "nothing"}[kind]
    some = [f"tests/test_{module_name(name_of(kind, how))}.py"] if how == "cython" else ["-k", f"not {left_out} or not promise"]
    done = installed(kind, how, *PYTEST, *some)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "warning" not in done.stdout


def test_its_tests_say_what_to_do_where_it_is_not_loaded(installed):
    done = installed("variant", "numpy", *PYTEST, "tests/test_conformance.py", load=False)
    assert done.returncode != 0
    assert "nothing of ruvattn-demo-variant-numpy is registered: pip install -e ., then ruvattn plugins --verbose\n" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(("kind", "how"), NUMPY)
def test_its_benchmarks_and_the_example_of_its_readme_run(installed, kind, how):
    name = name_of(kind, how)
    code = f"""if True:
        from benchmarks import {module_name(name)}_variants as suite
        from inspect import isabstract, isclass
        import pathlib, re

        found = [thing for thing in vars(suite).values() if isclass(thing) and not isabstract(thing)]
        for benchmark in (made() for made in found):
            benchmark.setup("{registered_name(name)}", 1)
            benchmark.time_forward("{registered_name(name)}", 1)
        print(len(found))
        exec(re.search("```python\\n(.*?)```", pathlib.Path("README.md").read_text(), re.S)[1])
        print(y.shape)
    """
    done = installed(kind, how, "-c", code)
    assert done.stdout == f"{len(KINDS[kind])}\n(2, 100, 64)\n", done.stderr


def test_it_is_timed(installed):
    sizes = ("--dim", "8", "--num-keys", "64", "--num-queries", "64", "--iterations", "1", "--no-scalar", "--json")
    timed = installed(*COMPILED, "-m", "ruvattn", "bench", "--attention-type", "demo-pattern-cython", *sizes)
    assert json.loads(timed.stdout)["distribution"] == "demo-pattern-cython", timed.stderr


# The command --------------------------------------------------------------------------------------------------------


def test_it_says_what_it_wrote_and_how_to_go_on(run, tmp_path):
    result = run("demo-x")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"demo-x{os.sep}  a score, in NumPy\n")
    listed = [line.strip() for line in result.out.partition("\n\n")[0].splitlines()[1:]]
    assert listed == files_below(tmp_path / "demo-x") == sorted(plugin_files("demo-x"))
    for line in ("cd demo-x", 'pip install -e ".[test]"', "pytest", "ruvattn bench --attention-type demo-x"):
        assert f"\n    {line}\n" in result.out


def test_it_says_by_which_name_to_time_it(run):
    assert "\n    ruvattn bench --attention-type alibi\n" in run("ruvattn-alibi").out


def test_options_say_what_where_and_by_whom(run, tmp_path):
    (tmp_path / "my work").mkdir()
    result = run("demo-x", "--kind", "pattern", "--cython", "--directory", "my work", "--author", "Ann Author")
    assert result.code == 0
    folder = tmp_path / "my work" / "demo-x"
    written = {path: (folder / path).read_text(encoding="utf-8") for path in files_below(folder)}
    assert written == plugin_files("demo-x", kind="pattern", cython=True, author="Ann Author")
    (line,) = [line for line in result.out.splitlines() if line.startswith("    cd ")]
    assert line.endswith(os.path.join("my work", "demo-x") + line[7])  # between quotation marks
    assert os.listdir(tmp_path / "my work") == ["demo-x"]


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", ["name of a distribution", "''"]),
        ("demo x", ["name of a distribution", "'demo x'"]),
        ("demo-", ["name of a distribution"]),
        ("démo", ["name of a distribution"]),
        ("demo-x\n", ["name of a distribution"]),
        ("../demo-x", ["name of a distribution", "--directory"]),
        ("Demo-X", ["lower case", "'Demo-X'", "use 'demo-x'"]),
        ("demo--x", ["a single '-'", "use 'demo-x'"]),
        ("3d", ["begin with a letter", "'my-3d'"]),
        ("x" * 101, ["at most 100 characters, got 101"]),
        ("conformance", ["a test or a class", "'conformance-attention'"]),
        ("score-benchmarks", ["a test or a class", "'score-benchmarks'"]),
        ("class", ["grammar", "'class'"]),
        ("none", ["grammar", "'none'"]),  # of which the class would be None
        ("json", ["standard library", "'json'"]),
        ("numpy", ["'numpy' is installed"]),
        ("ruvattn", ["'ruvattn' is installed"]),
        ("ruvattn.pytest", ["a module 'ruvattn_pytest'"]),
        ("ruvattn-graph", ["'ruvattn-graph' is a plugin of this project"]),
        ("benchmarks", ["every plugin has", "'benchmarks'"]),
        ("standard", [f"'standard' is a variant of ruvattn {ruvattn.__version__}", "'my-standard'"]),
        ("dot", [f"'dot' is a score of ruvattn {ruvattn.__version__}"]),
        ("bigbird", ["'bigbird' is a variant of ruvattn-sparse"]),
        ("ruvattn-standard", ["'standard', which 'ruvattn-standard' would register, is a variant of ruvattn", "as in 'ruvattn-my-standard'"]),
        ("ruvattn-bigbird", ["'bigbird', which 'ruvattn-bigbird' would register, is a variant of ruvattn-sparse"]),
        ("ruvattn-2fa", ["a letter after 'ruvattn-'", "'ruvattn-my-2fa'"]),
        ("ruvattn-headwise", ["a test or a class", "'ruvattn-headwise'"]),
        ("ruvattn-none", ["grammar"]),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_and_nothing_written(run, tmp_path, name, words):
    assert is_one_helpful_line(run(name), "NAME must ", *words)
    assert os.listdir(tmp_path) == []


def test_a_name_that_another_plugin_has_registered_is_refused_with_its_owner(run, fake_plugins):
    fake_plugins.install("their-scores", "from ruvattn import Dot\ndef ruvattn_register(registry): registry.score('steep', Dot)", version="2.3")
    assert is_one_helpful_line(run("steep"), "'steep' is a score of their-scores 2.3", "'my-steep'")
    assert check_plugin_name("steep", ["pattern", "variant"]) == "steep"  # each kind is a namespace of its own


def test_a_name_that_two_plugins_have_registered_is_refused(fake_plugins):
    for name in ("their-scores", "other-scores"):
        fake_plugins.install(name, "from ruvattn import Dot\ndef ruvattn_register(registry): registry.score('steep', Dot)")
    with pytest.warns(RuntimeWarning, match="steep"), pytest.raises(InvalidInputError, match="'steep' is a score of several distributions"):
        check_plugin_name("steep", ["score"])


def test_a_pattern_may_have_the_name_of_a_score_and_not_that_of_a_pattern(run):
    assert is_one_helpful_line(run("causal", "--kind", "pattern"), "'causal' is a pattern of ruvattn")
    assert run("causal", "--kind", "score").code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("NAME", "ruvattn new-plugin --help")),
        (("demo-x", "--numpy", "--cython"), ("--numpy and --cython exclude each other",)),
        (("demo-x", "--kind", "metric"), ("--kind", "metric", "pattern")),
        (("demo-x", "--author", " "), ("--author", "'The NAME authors'")),
        (("demo-x", "--author", "Ann\nAuthor"), ("author must be a name, one line of text", "leave it out")),
        (("demo-x", "--directory", "nowhere"), ("directory must be a folder", "'nowhere' isn't there")),
        (("demo-x", "--directory", "file"), ("directory must be a folder", "'file' is a file")),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_written(run, tmp_path, args, words):
    (tmp_path / "file").write_text("mine")
    assert is_one_helpful_line(run(*args), *words)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("what", ["folder", "empty folder", "file", "broken link"])
def test_what_is_there_is_not_touched(run, tmp_path, what):
    place = tmp_path / "demo-x"
    if what == "file":
        place.write_text("mine")
    elif what == "broken link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
        if what == "folder":
            (place / "setup.py").write_text("mine")
    before = files_below(tmp_path)
    assert is_one_helpful_line(run("demo-x", "--cython"), "'demo-x' is there already", "another NAME")
    assert os.listdir(tmp_path) == ["demo-x"]
    assert files_below(tmp_path) == before
    if what == "folder":
        assert (place / "setup.py").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no folder here that nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_named(run):
    assert is_one_helpful_line(run("demo-x", "--directory", "/proc"), "directory must be a folder to write into, and '/proc' can't be: ")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_writing_that_ends_half_way_leaves_nothing(tmp_path, monkeypatch, error):
    written = []
    write_text = Path.write_text

    def fail(self, *args, **kwargs):
        if len(written) == 5:
            raise error
        written.append(self)
        return write_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(type(error)):
        write_plugin("demo-x", tmp_path)
    assert len(written) == 5
    assert os.listdir(tmp_path) == []


def test_a_folder_that_comes_in_between_is_not_overwritten(tmp_path, monkeypatch):
    rename = os.rename

    def late(source, target):
        Path(target).mkdir()
        (Path(target) / "setup.py").write_text("mine")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(InvalidInputError, match="demo-x' is there by now, and nothing is overwritten"):
        write_plugin("demo-x", tmp_path)
    assert files_below(tmp_path) == ["demo-x/setup.py"]
    assert (tmp_path / "demo-x" / "setup.py").read_text() == "mine"


@pytest.mark.parametrize("call", [plugin_files, write_plugin])
def test_a_kind_that_there_is_not_is_refused(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="kind must be one of score, pattern, variant, got 'metric'"):
        call("demo-x", kind="metric")
    assert os.listdir(tmp_path) == []
