"""How the dashboard builds commits and third-party plugins, and what its table of variants makes of results: no compiler, no network, no asv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_benchmarks"

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


# --- builds -----------------------------------------------------------------------------------------------------------------------


def test_a_log_stays_where_something_failed_and_only_there(tmp_path):
    from dashboard_build import Log

    with Log(tmp_path / "good.txt") as log:
        log.run("-c", "print(1)")
    with pytest.raises(subprocess.CalledProcessError), Log(tmp_path / "bad.txt") as log:
        log.run("-c", "raise SystemExit('this is why')")
    with pytest.raises(KeyboardInterrupt), Log(tmp_path / "stopped.txt"):
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["bad.txt"]
    assert "this is why" in (tmp_path / "bad.txt").read_text()


@pytest.fixture
def commands(monkeypatch):
    """What pip and others are asked for instead of being asked."""
    import dashboard_build

    asked = []

    def run(log, *arguments):
        asked.append([str(argument) for argument in arguments])
        if "wheel" in asked[-1] and "broken" in log.path.name:
            raise subprocess.CalledProcessError(1, "pip")
        if "wheel" in asked[-1]:
            Path(asked[-1][asked[-1].index("-w") + 1]).mkdir(exist_ok=True)

    monkeypatch.setattr(dashboard_build.Log, "run", run)
    return asked


def plan_of(tmp_path, *names):
    plugins = []
    for name in names:
        source = tmp_path / name
        source.mkdir()
        (source / "pyproject.toml").write_text('[build-system]\nrequires = ["hatchling"]\n')
        plugins.append({"name": name, "digest": "0", "source": str(source)})
    (tmp_path / "cache").mkdir()
    return {"logs": str(tmp_path / "logs"), "plugins": plugins}


def test_a_plugin_that_does_not_build_is_a_gap_for_that_plugin_alone(commands, tmp_path, capsys):
    from dashboard_build import install

    install(tmp_path / "cache", "abcdef0123", plan_of(tmp_path, "broken-x", "demo-x"))
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["abcdef0123-broken-x.txt"]
    assert "broken-x doesn't go with abcdef01" in capsys.readouterr().out
    assert (tmp_path / "cache" / "third-party" / "demo-x-0").is_dir()


def test_a_commit_that_does_not_build_ends_with_the_name_of_its_log(commands, tmp_path):
    from dashboard_build import build

    plan = {"logs": str(tmp_path), "plugins": []}
    with pytest.raises(SystemExit, match=r"broken doesn't build: .*broken.txt"):
        build(tmp_path, tmp_path, "broken", plan)
    assert (tmp_path / "broken.txt").exists()


def test_a_plugin_may_change_no_version_of_what_is_installed(commands, tmp_path):
    from dashboard_build import install

    install(tmp_path / "cache", "abcdef0123", plan_of(tmp_path, "demo-x"))
    installs = [command for command in commands[-3:] if "install" in command]
    assert len(installs) == 2  # what its build needs, and itself with what it needs
    assert all("-c" in command for command in installs)
    assert "hatchling" in installs[0]


def test_a_plugin_is_built_once_for_each_state_of_its_sources(commands, tmp_path):
    from dashboard_build import install

    plan = plan_of(tmp_path, "demo-x")
    for digest in ("0", "0", "1"):
        plan["plugins"][0]["digest"] = digest
        install(tmp_path / "cache", "abcdef0123", plan)
    assert sum("wheel" in command for command in commands) == 2


# --- variants side by side --------------------------------------------------------------------------------------------------------


class FakeResult:
    """Results of a commit as asv hands them out."""

    def __init__(self, commit, values):
        self.commit_hash, self.values, self.started_at, self.date = commit, values, {}, 0

    def get_result_keys(self, benchmarks):
        return set(self.values) & set(benchmarks)

    def get_result_value(self, name, params):
        return self.values[name]


def described(name, kind, subjects):
    return {"name": name, "params": [[repr(subject) for subject in subjects], ["1", "2"]], "param_names": [kind, "threads"]}


def test_rows_are_of_the_newest_commit_that_has_them_and_the_fastest_comes_first():
    from dashboard_table import collect

    own, theirs = "variants.Variant.time_sequence", "demo_x.rows.Row.time_sequence"
    known = {own: described(own, "variant", ["standard", "slow"]), theirs: described(theirs, "variant", ["demo-x"])}
    known |= {"engine.Dense.time_attention": described("engine.Dense.time_attention", "case", ["a"])}
    nan = float("nan")
    newest = FakeResult("b" * 40, {own: [2.0, 1.0, nan, None], theirs: None})
    newest.values.pop(theirs)
    older = FakeResult("a" * 40, {own: [3.0, 3.0, 9.0, 8.0], theirs: [0.5, 0.25]})
    rows = collect([newest, older], known, {"demo_x": "demo-x"})
    assert [(row.name, row.third_party, row.commit[0]) for row in rows] == [("demo-x", True, "a"), ("standard", False, "b"), ("slow", False, "a")]
    assert rows[1].seconds == {("time_sequence", 1): 2.0, ("time_sequence", 2): 1.0}
    assert (rows[0].distribution, rows[1].distribution) == ("demo-x", "ruvattn")
