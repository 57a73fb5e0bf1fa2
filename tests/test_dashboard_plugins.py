"""Third-party plugins on the dashboard: benchmarks that can't be imported, plugins that are gone, logs, and results of several environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ruvattn.errors import InvalidInputError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_benchmarks"
COMMIT, OLDER = "b" * 40, "a" * 40

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


GOOD = "from ruvattn.testing.benchmarks import VariantBenchmarks\n\n\nclass Row(VariantBenchmarks):\n    variant = 'standard'\n"


@pytest.fixture
def suite_of(tmp_path):
    """What writes a suite with plugins, given by name with the text of their benchmarks."""
    from dashboard_suite import Suite, read_plugin

    def write(**benchmarks):
        plugins = []
        for name, text in benchmarks.items():
            project = tmp_path / name
            (project / "benchmarks").mkdir(parents=True, exist_ok=True)
            (project / "pyproject.toml").write_text(f'[project]\nname = "{name.replace("_", "-")}"\nversion = "1"\n')
            (project / "benchmarks" / "rows.py").write_text(text)
            plugins.append(read_plugin(project))
        suite = Suite(plugins, quick=False, isas="v3", folder=tmp_path / "asv")
        suite.write(["main"])
        return suite

    return write


# --- benchmarks that can't be imported --------------------------------------------------------------------------------------------


def discover(suite, commit=COMMIT):
    """Find the benchmarks as asv does under a commit, enter them where it does, and return what their names begin with."""
    runner = pytest.importorskip("asv.runner")
    pytest.importorskip("asv_runner")
    found = suite.folder / "found.json"
    command = [sys.executable, runner.BENCHMARK_RUN_SCRIPT, "discover", suite.place / "benchmarks", found]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "ASV_COMMIT": commit})
    assert run.returncode == 0, run.stderr
    suite.results.mkdir(parents=True, exist_ok=True)
    known = {benchmark["name"]: benchmark for benchmark in json.loads(found.read_text())}
    (suite.results / "benchmarks.json").write_text(json.dumps(known | {"version": 2}))
    return {name.partition(".")[0] for name in known}


@pytest.mark.parametrize("text", ["class Row(:\n", "import broken_x_which_is_not_installed\n", "raise SystemExit(3)\n"])
def test_benchmarks_that_cannot_be_imported_are_left_out_and_no_others(text, suite_of):
    suite = suite_of(broken_x=text, demo_x=GOOD)
    found = discover(suite)
    assert {"variants", "engine", "demo_x"} <= found
    assert "broken_x" not in found
    log = suite.logs / "benchmarks" / f"{COMMIT}-broken-x.txt"
    assert suite.left_out({}) == [f"broken-x's benchmarks can't be imported, and are left out of this run: {log}"]
    assert "Traceback" in log.read_text()
    assert "rows.py" in log.read_text()
    assert suite.left_out(suite.import_logs()) == []  # of another run


def imported(suite, commit=COMMIT):
    """Import the benchmarks of broken-x, and return whether asv would find them."""
    code = "import sys; sys.modules['ruvattn'] = None; import benchmarks.broken_x as it; print(len(it.__path__))"
    told = {**os.environ, "ASV_COMMIT": commit}
    run = subprocess.run([sys.executable, "-c", code], cwd=suite.place, check=True, capture_output=True, text=True, timeout=60, env=told)
    return run.stdout.split() == ["1"]


def test_a_log_of_benchmarks_is_removed_when_they_can_be_imported(suite_of):
    suite = suite_of(broken_x="1 / 0\n")
    assert not imported(suite)
    assert not imported(suite, OLDER)
    suite = suite_of(broken_x=GOOD)
    assert imported(suite)
    assert [log.name for log in suite.import_logs()] == [f"{OLDER}-broken-x.txt"]


def test_benchmarks_in_folders_of_a_plugin_are_tried_too(suite_of, tmp_path):
    (tmp_path / "broken_x" / "benchmarks" / "more").mkdir(parents=True)
    (tmp_path / "broken_x" / "benchmarks" / "more" / "__init__.py").touch()
    (tmp_path / "broken_x" / "benchmarks" / "more" / "deep.py").write_text("from ..rows import Nothing\n")
    suite = suite_of(broken_x=GOOD)
    assert not imported(suite)
    (log,) = suite.import_logs()
    assert "cannot import name 'Nothing'" in log.read_text()


def test_what_a_commit_lacks_is_a_gap_there_and_said_once(suite_of):
    suite = suite_of(broken_x="1 / 0\n")
    suite.results.mkdir(parents=True)
    (suite.results / "benchmarks.json").write_text('{"broken_x.rows.Row.time_it": {}, "version": 2}')
    imported(suite)
    (line,) = suite.left_out({})
    assert line.startswith("broken-x's benchmarks can't be imported with bbbbbbbb, and have gaps there: ")
    (suite.logs / f"{COMMIT}-broken-x.txt").write_text("it doesn't build")
    assert suite.left_out({}) == []


def test_earlier_benchmarks_of_a_plugin_that_is_left_out_are_kept(suite_of):
    suite = suite_of(broken_x="1 / 0\n")
    suite.results.mkdir(parents=True)
    (suite.results / "benchmarks.json").write_text('{"engine.Dense.time_it": {}, "version": 2}')
    suite.keep_others({"broken_x.rows.Row.time_it": {}, "version": 2})
    assert "broken_x.rows.Row.time_it" in suite.known()


def test_the_list_of_commits_has_the_log_of_benchmarks_that_cannot_be_imported(suite_of, tmp_path):
    from dashboard_table import _commits

    suite = suite_of(broken_x="1 / 0\n")
    imported(suite)
    text = "".join(_commits([FakeResult(COMMIT, {})], {}, suite.logs, tmp_path))
    address = f"logs/benchmarks/{COMMIT}-broken-x.txt"
    assert f'href="{address}">broken-x&#x27;s benchmarks can&#x27;t be imported' in text
    assert "ZeroDivisionError" in (tmp_path / address).read_text()


# --- runs ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(suite_of, monkeypatch, tmp_path, capsys):
    """What measures a commit without asv, and returns the suite and what was said."""
    import dashboard
    from history import Commit

    pytest.importorskip("asv")
    monkeypatch.setenv("HOME", str(tmp_path))

    def measure(suite, *arguments, python=None, asv=lambda *arguments: 0):
        dashboard.measure(dashboard.parser().parse_args(arguments), suite, [Commit(COMMIT, "It")], python, asv)
        return capsys.readouterr().out

    return measure


def test_a_log_of_a_plugin_stays_for_a_commit_that_is_not_installed_anew(suite_of, measured):
    suite = suite_of(broken_x=GOOD)
    log = suite.logs / f"{COMMIT}-broken-x.txt"
    log.parent.mkdir(exist_ok=True)
    log.write_text("why")
    for arguments in (["--resume"], []):
        assert f"broken-x doesn't go with bbbbbbbb, and has a gap there: {log}" in measured(suite, *arguments)
        assert log.read_text() == "why"


def test_a_gap_of_a_plugin_that_is_not_in_the_run_is_not_mentioned(suite_of, measured):
    suite = suite_of(demo_x=GOOD)
    suite.logs.mkdir(exist_ok=True)
    (suite.logs / f"{COMMIT}-broken-x.txt").write_text("why")
    assert measured(suite) == ""


def test_a_commit_that_did_not_build_before_is_not_said_to_fail_when_it_does(suite_of, measured):
    suite = suite_of()
    suite.logs.mkdir(exist_ok=True)
    (suite.logs / f"{COMMIT}.txt").write_text("why")
    assert measured(suite) == ""


def test_a_run_says_which_benchmarks_were_left_out(suite_of, measured):
    suite = suite_of(broken_x="1 / 0\n")

    def asv(command, *arguments):
        if command == "run":
            imported(suite)
        return 0

    assert "broken-x's benchmarks can't be imported, and are left out of this run" in measured(suite, asv=asv)


def test_benchmarks_are_told_the_commit_that_an_interpreter_is_entered_as(suite_of, monkeypatch):
    import dashboard

    suite, given = suite_of(), {}
    monkeypatch.setattr(dashboard.subprocess, "Popen", lambda command, env: given.update(env) or SimpleNamespace(wait=lambda: 0))
    dashboard.asv_runner(suite, SimpleNamespace(hash=COMMIT))("run")
    assert given["ASV_COMMIT"] == COMMIT


def test_without_what_windows_lacks_it_is_one_line_and_exit_code_2():
    code = "import sys; sys.modules['fcntl'] = None; import dashboard; sys.exit(dashboard.main(['--no-run', '--no-serve']))"
    run = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.startswith("dashboard.py: the dashboard needs Linux or macOS")
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""


# --- plugins that are gone --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_plugins(suite_of):
    """A suite of an earlier run of two plugins, full and quick."""
    from dashboard_suite import Suite

    suite = suite_of(demo_x=GOOD, other_x=GOOD)
    suite.remember_names()
    for results in (suite.results, suite.folder / "quick" / "results"):
        results.mkdir(parents=True)
        known = {name: {"name": name} for name in ("engine.Dense.time_it", "demo_x.rows.Row.time_it", "other_x.rows.Row.time_it")}
        (results / "benchmarks.json").write_text(json.dumps(known | {"version": 2}))
    suite.logs.mkdir()
    for name in ("demo-x", "other-x", "other-demo-x"):
        (suite.logs / f"{COMMIT}-{name}.txt").touch()
    return Suite([], quick=False, isas="", folder=suite.folder)


def test_a_plugin_that_is_forgotten_is_on_no_page_and_others_are(two_plugins):
    two_plugins.check_forgotten(["Demo_X"])
    two_plugins.forget(["Demo_X"])
    for results in (two_plugins.results, two_plugins.folder / "quick" / "results"):
        assert set(json.loads((results / "benchmarks.json").read_text())) == {"engine.Dense.time_it", "other_x.rows.Row.time_it", "version"}
    assert two_plugins.remember_names() == {"other_x": "other-x"}
    assert sorted(log.name for log in two_plugins.logs.iterdir()) == [f"{COMMIT}-other-demo-x.txt", f"{COMMIT}-other-x.txt"]


def test_a_name_of_no_plugin_is_an_error_that_lists_those_that_there_are(two_plugins, tmp_path):
    from dashboard_suite import Suite

    with pytest.raises(InvalidInputError, match="--forget engine: .*there are demo-x, other-x"):
        two_plugins.check_forgotten(["demo-x", "engine"])
    with pytest.raises(InvalidInputError, match="--forget demo-x: .*there is none"):
        Suite([], quick=False, isas="", folder=tmp_path / "new").check_forgotten(["demo-x"])


def test_a_plugin_is_not_measured_and_forgotten_at_once(suite_of):
    suite = suite_of(demo_x=GOOD)
    suite.remember_names()
    with pytest.raises(InvalidInputError, match="--forget demo-x and --plugin with its project exclude each other"):
        suite.check_forgotten(["demo-x"])


def test_a_plugin_can_be_forgotten_though_its_first_run_was_stopped(suite_of, measured):
    suite = suite_of(demo_x=GOOD)

    def asv(command, *arguments):
        if command == "run":
            raise KeyboardInterrupt
        return 0

    with pytest.raises(KeyboardInterrupt):
        measured(suite, asv=asv)
    suite.plugins.clear()
    suite.check_forgotten(["demo-x"])


def test_forgetting_comes_before_publishing(two_plugins, monkeypatch, tmp_path):
    import dashboard

    published = []
    suite = two_plugins
    monkeypatch.setattr(dashboard, "check", lambda options: None)
    monkeypatch.setattr(dashboard, "Suite", lambda *arguments, **options: suite)
    monkeypatch.setattr(dashboard.history, "select", lambda *arguments: ([], 0))
    monkeypatch.setattr(dashboard.history, "branches", lambda *arguments: ["main"])
    monkeypatch.setattr(dashboard.dashboard_assets, "bring", lambda folder: None)
    monkeypatch.setattr(dashboard.dashboard_pages, "publish", lambda suite, folder, asv: published.append(set(suite.known())) or folder)
    assert dashboard.main(["--no-run", "--no-serve", "--forget", "demo-x", "--forget", "other-x"]) == 0
    assert published == [{"engine.Dense.time_it", "version"}]


# --- results of several environments ----------------------------------------------------------------------------------------------


class FakeResult:
    """Results of a commit in one environment as asv hands them out, with when each benchmark was started."""

    def __init__(self, commit, values, started=0):
        self.commit_hash, self.values, self.date = commit, values, 0
        self.started_at = dict.fromkeys(values, started)

    def get_result_keys(self, benchmarks):
        return set(self.values) & set(benchmarks)

    def get_result_value(self, name, params):
        return self.values[name]


NAME = "variants.Variant.time_sequence"
KNOWN = {NAME: {"name": NAME, "params": [["'standard'", "'slow'"], ["1", "2"]], "param_names": ["variant", "threads"]}}


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_environments_the_newest_result_of_a_commit_counts(turned):
    from dashboard_table import collect

    results = [FakeResult(COMMIT, {NAME: [1.0, 1.0, 4.0, 4.0]}, started=1), FakeResult(COMMIT, {NAME: [2.0, None, 3.0, 3.0]}, started=2)]
    results = [*(results[::-1] if turned else results), FakeResult(OLDER, {NAME: [9.0] * 4}, started=3)]
    standard, slow = collect(results, KNOWN, {})
    assert standard.seconds == {("time_sequence", 1): 2.0, ("time_sequence", 2): 1.0}
    assert slow.seconds == {("time_sequence", 1): 3.0, ("time_sequence", 2): 3.0}
    assert standard.commit == slow.commit == COMMIT


def test_variants_are_compared_within_a_commit_only():
    from dashboard_table import _table, collect

    together = [FakeResult(COMMIT, {NAME: [2.0, 1.0, 5.0, 3.0]})]
    assert ">2.50</td>" in "".join(_table(collect(together, KNOWN, {}), together))
    apart = [FakeResult(COMMIT, {NAME: [2.0, 1.0, None, 3.0]}), FakeResult(OLDER, {NAME: [4.0, 4.0, 5.0, 5.0]})]
    text = "".join(_table(collect(apart, KNOWN, {}), apart))
    assert ">1.00</td>" in text
    assert text.count('%">–</td>') == 1
    assert "aaaaaaaa, none since" in text
