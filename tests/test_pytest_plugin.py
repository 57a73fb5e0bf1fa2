"""The pytest plugin: conformance suites as tests, the table of checks × subjects, fixtures; and nothing of it where it is not asked for."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn.errors import PluginError
from ruvattn.testing import pytest_plugin
from ruvattn.testing.runner import checks_of
from ruvattn.testing.table import Cell, lines

ROOT = Path(ruvattn.__file__).parents[1]
INSTALLED = any(
    entry.group == "pytest11" and entry.value == "ruvattn_pytest" for distribution in metadata.distributions() for entry in distribution.entry_points
)
PLUGIN = [] if INSTALLED else ["-p", "ruvattn_pytest"]
# What the outer pytest has is left to it.
WITHOUT = [part for name in ("cacheprovider", "xdist", "cov", "faulthandler", "randomly") for part in ("-p", f"no:{name}")]


class Run:
    """What pytest printed, and its exit code."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.lines = out.splitlines()

    def shows(self, *patterns, err=False):
        pytest.LineMatcher((self.err if err else self.out).splitlines()).fnmatch_lines(patterns)

    @property
    def outcomes(self):
        return {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|skipped|error)", self.lines[-1])}

    @property
    def ids(self):
        return [line for line in self.lines if "::" in line and not line.startswith(("SKIPPED", "FAILED"))]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run pytest in this process, in a folder of its own, on a file ``test_it.py``."""
    folder = tmp_path / "tests"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def call(source, *args, ini=""):
        sys.modules.pop("test_it", None)  # of the run before
        (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n", encoding="utf-8")
        if source:
            (folder / "test_it.py").write_text(source, encoding="utf-8")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = pytest.main(["--import-mode=importlib", "--capture=sys", *WITHOUT, *PLUGIN, *args])
        return Run(code, out.getvalue(), err.getvalue())

    return call


# --ruvattn-variant --------------------------------------------------------------------------------------------------


def test_the_suite_of_a_variant_runs_without_a_test_file(run):
    result = run("", "--ruvattn-variant", "multihead", "-k", "can_be_made or graph_bad_nodes")
    assert result.code == 0
    assert result.outcomes["passed"] == 3  # of three ways to make it
    assert result.outcomes["skipped"] == 3
    result.shows("*checks × subjects*", "*multihead*─╮*", "can_be_made *✓ ✓ ✓", "graph_bad_nodes_are_refused *· · ·")


def test_items_are_named_by_variant_and_check(run):
    result = run("", "--ruvattn-variant", "cross(key_dim=10, value_dim=6),standard", "--collect-only", "-q", "-k", "config_round_trip")
    names = result.ids
    assert names[0] == "ruvattn::cross(key_dim=10, value_dim=6)::config_round_trip"
    assert [name.split("::")[1].split("(")[0] for name in names] == ["cross", "standard", "standard", "standard"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a,b", " c ,a"], ["a", "b", "c"]),
        (["a(x=1, y=(2, 3)),b", "a(x=[1, 2], y=3)"], ["a(x=1, y=(2, 3))", "b", "a(x=[1, 2], y=3)"]),
        (["a(x=1", "b"], ["a(x=1", "b"]),
        (["", ","], []),
    ],
)
def test_names_are_parted_by_commas_that_are_in_no_bracket(words, names):
    assert pytest_plugin.names_in(words) == names


def test_an_option_without_a_name_is_an_error(run):
    result = run("def test_nothing(): pass", "--ruvattn-variant", "")
    assert result.code == pytest.ExitCode.USAGE_ERROR
    result.shows("ERROR: --ruvattn-variant must name a variant, such as standard, got ''", err=True)


def test_what_is_collected_is_counted(run):
    result = run("", "--ruvattn-variant", "cross", "-k", "pickle_round_trip")
    total = 2 * len(list(checks_of("variant")))
    result.shows(f"collected {total} items / {total - 2} deselected / 2 selected")


def test_all_checks_of_a_variant_are_collected(run):
    result = run("", "--ruvattn-variant=cross", "--ruvattn-variant", "multihead(projections=False)", "--collect-only", "-q")
    assert len(result.ids) == 3 * len(list(checks_of("variant")))


@pytest.mark.parametrize("args", [["--ruvattn-variant", "multihed"], ["--ruvattn-variant", "standard,multihed"]])
def test_an_unknown_variant_is_an_error_that_lists_what_there_is(run, args):
    result = run("def test_nothing(): pass", *args)
    assert result.code == pytest.ExitCode.USAGE_ERROR
    words = "no variant is registered by the name 'multihed'; did you mean 'multihead'? installed: *cross*"
    result.shows(f"ERROR: --ruvattn-variant: {words}", err=True)


BROKEN = """
from ruvattn.builtin.standard import StandardAttention

RUVATTN_API = 1

class Drifting(StandardAttention):
    def attend(self, q, k=None, v=None, **options):
        out, context = super().attend(q, k, v, **options)
        self.calls = getattr(self, "calls", 0) + 1
        return out + out.dtype.type(self.calls), context

def needy(embed_dim, num_heads, key):
    return StandardAttention(embed_dim, num_heads)

def ruvattn_register(registry):
    registry.variant("drifting", Drifting, summary="Wrong.")
    registry.variant("needy", needy, summary="Needs a key.")
"""


def test_a_failing_check_is_told_in_words_with_its_smallest_input(run, fake_plugins):
    fake_plugins.install("drifting-plugin", BROKEN)
    result = run("", "--ruvattn-variant", "drifting", "-k", "calls_are_repeatable")
    assert result.code == 1
    result.shows(
        "drifting does not keep a promise: A call gives the same bits again, whatever was called between, *",
        "a call must give the same again: got * instead of *; the case: embed_dim=1, num_heads=1, *",
        "the smallest input found at which it fails:",
        "    from ruvattn.testing import replay",
        "    from ruvattn import create",
        "        functools.partial(create, 'drifting'),",
        "        'calls_are_repeatable',",
    )
    assert "Traceback" not in result.out
    result.shows("calls_are_repeatable *✗", "*✗ failed*", "FAILED ruvattn::drifting::calls_are_repeatable*")


def test_where_it_failed_is_shown_when_verbose(run, fake_plugins):
    fake_plugins.install("drifting-plugin", BROKEN)
    result = run("", "--ruvattn-variant", "drifting", "-k", "calls_are_repeatable", "-v")
    result.shows("where:", "*in calls_are_repeatable", "*require_same_bits(layer(*")


def test_a_variant_that_needs_options_is_skipped_with_a_reason(run, fake_plugins):
    fake_plugins.install("drifting-plugin", BROKEN)
    result = run("", "--ruvattn-variant", "needy", "-rs")
    assert result.outcomes == {"skipped": 1}
    result.shows("SKIPPED*needy needs key=, and its factory has no conformance_options*")


# ruvattn_variant ----------------------------------------------------------------------------------------------------

USES = """
import pytest

def test_its_sizes(ruvattn_variant):
    assert ruvattn_variant(embed_dim=24, num_heads=3).config.num_heads == 3

@pytest.mark.ruvattn_variant("cross")
def test_marked(ruvattn_variant):
    assert ruvattn_variant(embed_dim=8, num_heads=2).config.attention_type == "cross"

@pytest.mark.parametrize("ruvattn_variant", [3])
def test_its_own(ruvattn_variant):
    assert ruvattn_variant == 3

@pytest.mark.parametrize(argnames="ruvattn_variant", argvalues=[4], indirect=True)
def test_its_own_by_keyword(ruvattn_variant):
    assert ruvattn_variant == 4
"""


def names_of(result, test):
    return [line.split("]  ")[0].split("] ")[0].removesuffix("]") for line in re.findall(rf"test_it\.py::{test}\[(.+)", result.out)]


def test_a_test_runs_with_the_variants_that_are_named_and_no_others(run):
    result = run(USES, "--ruvattn-variant", "multihead(projections=False)", "-k", "test_it or nothing", "--collect-only", "-q")
    assert names_of(result, "test_its_sizes") == ["multihead(projections=False)"]
    assert names_of(result, "test_marked") == ["none"]


def test_a_test_for_another_variant_is_skipped_with_a_reason(run):
    result = run(USES, "--ruvattn-variant", "multihead", "-k", "test_marked", "-rs")
    result.shows("SKIPPED*it is for cross, and --ruvattn-variant is multihead")


def test_variants_are_those_of_the_distribution_that_the_configuration_names(run, fake_plugins):
    fake_plugins.install("drifting-plugin", BROKEN)
    result = run(USES, "-v", ini="ruvattn_distributions = drifting-plugin")
    assert set(names_of(result, "test_its_sizes")) == {"drifting", "needy"}
    assert result.outcomes == {"passed": 5, "skipped": 1}


def test_variants_are_those_that_the_configuration_names(run):
    result = run(USES, "--collect-only", "-q", ini='ruvattn_variant = cross "standard(window=(3, 1))"')
    assert names_of(result, "test_its_sizes") == ["cross", "cross(key_dim=10, value_dim=6)", "standard(window=(3, 1))"]


def test_variants_are_all_that_are_installed_otherwise(run):
    result = run(USES, "--collect-only", "-q")
    found = {name.split("(")[0] for name in names_of(result, "test_its_sizes")}
    assert found == set(ruvattn.variants())


@pytest.mark.parametrize(
    ("source", "ini", "words"),
    [
        (USES, "ruvattn_variant = crass", "ruvattn_variant: no variant is registered by the name 'crass'; did you mean 'cross'?"),
        (USES, "ruvattn_distributions = nobody", "ruvattn_distributions: 'nobody' is no installed distribution with variants; there are *ruvattn*"),
        (USES.replace('"cross")', '"crass")'), "", "@pytest.mark.ruvattn_variant of test_marked: no variant is registered by the name 'crass'*"),
    ],
    ids=["variant", "distribution", "marker"],
)
def test_mistakes_in_the_configuration_are_errors(run, source, ini, words):
    result = run(source, ini=ini)
    assert result.code == pytest.ExitCode.INTERRUPTED
    result.shows("*ERROR collecting test_it.py*", f"{words}*")


# Other fixtures -----------------------------------------------------------------------------------------------------

FIXTURES = """
import numpy as np
import pytest
import ruvattn

SEEN = {}

def test_numbers(ruvattn_rng):
    SEEN["numbers"] = ruvattn_rng.random(3).tolist()

@pytest.mark.parametrize("again", [0, 1])
def test_other_numbers(ruvattn_rng, again):
    assert ruvattn_rng.random(3).tolist() != SEEN["numbers"]
    SEEN.setdefault("others", []).append(ruvattn_rng.random(3).tolist())
    assert len(set(map(tuple, SEEN["others"]))) == again + 1

def test_threads(ruvattn_threads):
    assert ruvattn.get_num_threads() == ruvattn_threads
    SEEN.setdefault("threads", []).append(ruvattn_threads)

def test_dtype(ruvattn_dtype, ruvattn_rng):
    x = ruvattn_rng.standard_normal((2, 3)).astype(ruvattn_dtype)
    assert ruvattn.attention(x, x, x).dtype == ruvattn_dtype

def test_all():
    assert SEEN["threads"] == [1, 2]
    print("numbers", SEEN["numbers"])
"""


def test_fixtures_give_what_they_say(run):
    before = ruvattn.get_num_threads()
    ruvattn.set_num_threads(3)
    try:
        first, second = run(FIXTURES, "-s"), run("", "-s")
        assert ruvattn.get_num_threads() == 3
    finally:
        ruvattn.set_num_threads(before)
    assert first.code == second.code == 0
    numbers = [re.search(r"numbers (.*)", result.out).group(1) for result in (first, second)]
    assert numbers[0] == numbers[1]  # the same each time
    assert first.outcomes["passed"] >= 9


def test_a_dtype_that_is_not_installed_is_skipped(monkeypatch):
    monkeypatch.setattr(pytest_plugin, "float_dtypes", lambda: [np.dtype(np.float32)])
    assert pytest_plugin.dtype("float32") == np.float32
    with pytest.raises(pytest.skip.Exception, match="bfloat16 needs ml_dtypes"):
        pytest_plugin.dtype("bfloat16")


# ruvattn_registry ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tried(fake_plugins):
    fake_plugins.install("installed-plugin", "import ruvattn\ndef ruvattn_register(registry):\n    registry.score('installed', ruvattn.Dot)\n")
    assert "installed" in ruvattn.registry.scores()
    with pytest_plugin.registry() as loader:
        yield loader
    assert "installed" in ruvattn.registry.scores()
    assert "mine" not in ruvattn.registry.scores()


def hook(registry):
    registry.score("mine", ruvattn.Dot, summary="Mine.")


def test_a_hook_is_tried_without_being_installed(tried):
    assert set(ruvattn.registry.scores()) == {"dot"}
    assert tried.load(hook) == {"score": ("mine",)}
    assert set(ruvattn.registry.scores()) == {"dot", "mine"}
    x = np.ones((2, 3))
    np.testing.assert_array_equal(ruvattn.attention(x, x, x, score="mine"), x)
    assert [status.provides for status in ruvattn.plugins.status()] == [{"score": ("mine",)}]


def test_a_module_is_tried_like_an_installed_one(tried):
    module = type(sys)("some_plugin")
    exec(BROKEN, module.__dict__)
    assert tried.load(module) == {"variant": ("drifting", "needy")}
    assert ruvattn.create("drifting", embed_dim=4, num_heads=1).config.embed_dim == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RUVATTN_API": None}, "does not say which plugin interface"),
        ({"RUVATTN_API": 99}, "version 99 of the plugin interface"),
        ({"ruvattn_register": None}, "has no function ruvattn_register"),
        ({"ruvattn_register": lambda registry: registry.score("dot", ruvattn.Dot)}, "'dot' is registered by both"),
        ({"ruvattn_register": lambda registry: 3}, "must return None"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_leaves_nothing(tried, change, words):
    module = type(sys)("some_plugin")
    vars(module).update({"RUVATTN_API": 1, "ruvattn_register": hook} | change)
    with pytest.raises(PluginError, match=words):
        tried.load(module)
    assert set(ruvattn.registry.scores()) == {"dot"}


def test_a_name_that_two_of_them_take_is_refused(tried):
    tried.load(hook)
    with pytest.raises(PluginError, match="'mine' is registered by"):
        tried.load(hook, "another")
    assert "mine" in ruvattn.registry.scores()


def test_what_a_hook_raises_is_raised(tried):
    def failing(registry):
        registry.score("half", ruvattn.Dot)
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        tried.load(failing)
    assert set(ruvattn.registry.scores()) == {"dot"}


# The table ----------------------------------------------------------------------------------------------------------


def text(table):
    return ["".join(piece for piece, _ in line) for line in table]


CELLS = [
    Cell("score", "dot", "declaration", "passed"),
    Cell("score", "a score", "declaration", "passed"),
    Cell("score", "dot", "vjp", "skipped"),
    Cell("score", "a score", "vjp", "skipped"),
    Cell("score", "dot", "logits", "failed"),
    Cell("score", "a score", "logits", "xfailed"),
]


def test_the_table_has_what_fails_first_and_what_applies_to_none_last():
    assert text(lines(CELLS)) == [
        "    a score ────╮",
        "        dot ──╮ │",
        "logits        ✗ x",
        "declaration   ✓ ✓",
        "vjp           · ·",
        "",
        "✓ passed  ✗ failed  x failed as expected  · does not apply",
    ]


def test_the_table_has_characters_that_an_old_terminal_has():
    assert text(lines(CELLS, ascii_only=True))[:5] == [
        "    a score ----.",
        "        dot --. |",
        "logits        F x",
        "declaration   + +",
        "vjp           . .",
    ]
    assert all(line.isascii() for line in text(lines(CELLS, ascii_only=True)))


def test_a_table_wider_than_the_terminal_is_split():
    cells = [Cell("pattern", f"pattern {n}", "declaration", "passed") for n in range(20)]
    found = text(lines(cells, width=40))
    assert max(map(len, found)) <= 40
    assert sum(line.startswith("declaration") for line in found) == 2
    assert sum(line.count("✓") for line in found if line.startswith("declaration")) == 20
    for narrow in (1, 5, 12):
        assert sum(line.count("✓") for line in text(lines(cells, width=narrow))) == 20 + 1  # and the legend


def test_pieces_of_the_table_say_what_they_stand_for():
    (logits,) = (line for line in lines(CELLS) if line and line[0][0].startswith("logits"))
    assert [kind for _, kind in logits] == ["failed", "failed", "", "xfailed"]


def test_of_several_results_the_worst_counts():
    for order in (1, -1):
        cells = [Cell("score", "dot", "vjp", status) for status in ("skipped", "passed", "failed")][::order]
        assert text(lines(cells))[1].endswith("✗")
    assert lines([]) == []


def test_families_have_tables_of_their_own():
    found = text(lines([*CELLS[:1], Cell("pattern", "causal", "declaration", "passed")]))
    assert sum(line.startswith("declaration") for line in found) == 2


TABLE = """
from ruvattn import Causal, Window
from ruvattn.testing import parametrize_with_checks

@parametrize_with_checks({"mine": Causal(), "another": Window(2, 1)}, expected_failures={"declaration": "not at all"})
def test_conformance(subject, check):
    check(subject)
"""


def test_the_table_shows_tests_of_checks_if_it_is_asked_for(run):
    assert "checks × subjects" not in run(TABLE, "-k", "declaration").out
    result = run("", "--ruvattn-table", "-k", "declaration or pickle")
    result.shows("*another*", "*mine*", "declaration *✗ ✗", "pickle_round_trip *✓ ✓")


OWN = """
import pytest
from ruvattn import Causal
from ruvattn.testing import parametrize_with_checks
from ruvattn.testing.runner import Check

@pytest.mark.parametrize("check", [Check("of_my_own", "score", "Anything.", lambda subject: None)], ids=["mine-of_my_own"])
def test_a_check(check):
    check(3)

@pytest.mark.xfail
@parametrize_with_checks({"mine": Causal()})
def test_conformance(subject, check):
    check(subject)
"""


def test_the_table_shows_checks_of_ones_own_and_what_passes_unexpectedly(run):
    result = run(OWN, "--ruvattn-table", "-k", "own or declaration")
    assert result.code == 0, result.out
    result.shows("declaration *✓", "of_my_own *✓")


def test_the_table_leaves_out_what_is_run_again():
    report = pytest.TestReport("ruvattn::a::declaration", ("a", None, "a"), {}, "rerun", None, "call", [("ruvattn", ["score", "a", "declaration"])])
    table = pytest_plugin.Table()
    table.pytest_runtest_logreport(report)
    assert table.cells == []


def test_the_command_shows_the_same_table(capsys, monkeypatch):
    from ruvattn.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["test", "--table", "causal"])
    out = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    results = ruvattn.testing.run_checks([ruvattn.testing.Subject("causal", "pattern", ruvattn.Causal())])
    expected = text(lines(Cell(result.family, result.subject, result.name, result.status) for result in results))
    assert [line.rstrip() for line in out[: len(expected)]] == [line.rstrip() for line in expected]


# In processes of their own --------------------------------------------------------------------------------------------


def process(folder, *args, plugin=PLUGIN, **environment):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *plugin, *args], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "OMP_WAIT_POLICY": "passive", **environment},
    )  # fmt: skip


def test_pytest_starts_without_ruvattn_or_numpy(tmp_path):
    (tmp_path / "test_it.py").write_text("import sys\ndef test_it():\n    assert not {'ruvattn', 'numpy'} & set(sys.modules)\n")
    found = process(tmp_path, "-q", "-p", "no:hypothesispytest")
    assert found.returncode == 0, found.stdout


def test_a_worker_runs_the_suite_and_the_table_shows_what_it_sends(tmp_path):
    pytest.importorskip("xdist")
    found = process(tmp_path, "-n", "1", "-q", "--ruvattn-variant", "cross", "-k", "round_trip", PYTHONIOENCODING="ascii")
    assert found.returncode == 0, found.stdout
    names = [check.name for check in checks_of("variant") if "round_trip" in check.name]
    assert re.findall(r"^(\w+) +\+ \+$", found.stdout, re.MULTILINE) == names
    assert f"{2 * len(names)} passed" in found.stdout


def test_switched_off_it_is_not_there(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(ruvattn_rng):\n    pass\n")
    found = process(tmp_path, "-q", "-p", "no:ruvattn", plugin=())
    assert "fixture 'ruvattn_rng' not found" in found.stdout
