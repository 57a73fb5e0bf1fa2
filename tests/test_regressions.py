"""Comparing two commits: what counts as slower, on invented times; whole runs on a repository whose clock is its own, so that nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "asv_benchmarks"

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


# --- the verdict -----------------------------------------------------------------------------------------------------


def machine(seed, slower=1.0, *, pairs=5, rounds=9, luck=0.02, noise=0.05, drift=0.5):
    """Return times of a busy machine: it drifts by half from round to round, each sample has noise, and each pair of processes its own luck."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(pairs):
        speed = 1 + drift * rng.random(rounds)
        bias = slower * np.exp(luck * rng.standard_normal())
        base, head = (speed * np.exp(noise * np.abs(rng.standard_normal(rounds))) for _ in range(2))
        found.append((base.tolist(), (bias * head).tolist()))
    return found


def test_a_fifth_slower_is_found_on_a_busy_machine():
    from regression_verdict import is_suspect, judge

    for seed in range(300):
        assert is_suspect(*machine(seed, 1.2, pairs=1, rounds=5)[0])
        verdict = judge(machine(1000 + seed, 1.2))
        assert verdict.outcome == "slower"
        assert verdict.low <= verdict.ratio <= verdict.high


def test_equal_commits_raise_no_alarm_on_a_busy_machine():
    from regression_verdict import is_suspect, judge

    suspects = [seed for seed in range(10_000) if is_suspect(*machine(seed, pairs=1, rounds=5, luck=0.03)[0])]
    assert suspects  # the screening alone would
    assert [seed for seed in suspects if judge(machine(50_000 + seed, luck=0.03)).outcome != "same"] == []


def test_a_pair_that_shows_nothing_clears_the_others():
    from regression_verdict import judge

    slow, even = ([1.0] * 9, [1.3] * 9), ([1.0] * 9, [1.01] * 9)
    assert judge([slow, slow, slow]).outcome == "slower"
    assert judge([slow, slow, even]).outcome == "same"


def test_one_lucky_process_of_the_head_shows_that_it_is_not_slower():
    from regression_verdict import judge

    pair = ([1.0] * 9, [1.3] * 9)
    assert judge([pair, pair, ([0.85] * 9, [1.0] * 9)]).outcome == "slower"  # the base was as lucky
    assert judge([pair, pair, ([1.0] * 9, [1.07] * 9)]).outcome == "same"
    assert judge([pair[::-1], pair[::-1], ([1.07] * 9, [1.0] * 9)]).outcome == "same"


def test_pairs_that_differ_are_not_settled():
    from regression_verdict import is_settled, judge

    assert is_settled(judge([([1.0] * 9, [1.2] * 9), ([1.0] * 9, [1.24] * 9)]))
    assert not is_settled(judge([([1.0] * 9, [1.2] * 9), ([1.0] * 9, [1.3] * 9)]))


def test_faster_is_judged_as_slower_is():
    from regression_verdict import is_suspect, judge

    pair = ([1.3] * 9, [1.0] * 9)
    assert is_suspect(*pair)
    assert judge([pair] * 3).outcome == "faster"


def test_the_threshold_is_what_it_says():
    from regression_verdict import judge

    pairs = [([1.0] * 9, [1.15] * 9)] * 3
    assert judge(pairs, threshold=0.1).outcome == "slower"
    assert judge(pairs, threshold=0.2).outcome == "same"


def test_one_round_that_was_disturbed_decides_nothing():
    from regression_verdict import is_suspect

    assert not is_suspect([1.0] * 5, [1.0, 9.0, 1.0, 9.0, 1.0])


# --- whole runs ------------------------------------------------------------------------------------------------------

SUITE = '''
import time

import ruvattn

clock = 0.0


def now():
    return clock


def work():
    global clock
    clock += ruvattn.SECONDS


time.perf_counter = now


class Kind:
    params = ["small", "large"]
    param_names = ["size"]

    def setup(self, size):
        ruvattn.setup(size)

    def time_work(self, size):
        work()

    def time_same(self, size):
        global clock
        clock += 0.01


class Fresh:
    def timeraw_import(self):
        return "pass", "import time; clock = iter([1.0, 1.5]); time.perf_counter = lambda: next(clock)"
'''

NEWS = """
from benchmarks.kinds import work
from ruvattn import NEW


class News:
    def time_news(self):
        assert NEW
        work()
"""

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "ruvattn"
version = "{version}"

[tool.setuptools]
py-modules = ["ruvattn"]
"""


def git(root, *arguments):
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A project of one module whose commits differ in what a call costs on its own clock."""
    root = tmp_path_factory.mktemp("repository")
    git(root, "init", "-q", "-b", "main")
    suite = root / "asv_benchmarks" / "benchmarks"
    suite.mkdir(parents=True)
    (suite / "__init__.py").touch()
    (suite / "kinds.py").write_text(SUITE)
    commits = {
        "base": "SECONDS = 0.1\n\n\ndef setup(size): ...\n",
        "slow": "SECONDS = 0.12\n\n\ndef setup(size): ...\n",
        "fast": "SECONDS = 0.08\n\n\ndef setup(size): ...\n",
        "crash": "SECONDS = 0.1\n\n\ndef setup(size):\n    if size == 'large':\n        raise ValueError('no room')\n",
        "gone": "SECONDS = 0.1\n\n\ndef setup(size):\n    raise NotImplementedError('not here')\n",
        "dies": "import os\n\nSECONDS = 0.1\n\n\ndef setup(size):\n    os._exit(3)\n",
        "hangs": "import threading\n\nSECONDS = 0.1\n\n\ndef setup(size):\n    threading.Event().wait()\n",
        "broken": "SECONDS = 0.1\n",
        "newer": "SECONDS = 0.1\nNEW = 0.2\n\n\ndef setup(size): ...\n",
        "odd": "SECONDS = 0.1\n\n\ndef setup(size): ...\n",
    }
    for name, text in commits.items():
        (root / "pyproject.toml").write_text(PROJECT.format(version="0.1" if name != "broken" else "no version"))
        (root / "ruvattn.py").write_text(text)
        if name == "newer":
            (suite / "news.py").write_text(NEWS)
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", f"commit {name}")
        git(root, "tag", name)
    return root


@pytest.fixture
def compare(repository, monkeypatch, capsys):
    """Return a function that compares two commits of the invented repository: exit code and output."""
    import regression_builds
    import regressions

    monkeypatch.setattr(regressions, "ROOT", repository)
    monkeypatch.setattr(regression_builds, "FOLDER", repository / ".git" / "installations")

    def run(base, head, *arguments):
        code = regressions.main(["--base", base, head if head.startswith("--head=") else f"--head={head}", *arguments])
        return code, capsys.readouterr()

    return run


def test_a_slower_commit_is_told_with_its_ratio_and_ends_with_1(compare):
    code, output = compare("base", "slow")
    assert code == 1
    (row,) = [line for line in output.out.splitlines() if line.startswith("slower") and "small" in line]
    assert row.split()[:2] == ["slower", "1.20"]
    assert "kinds.Kind.time_work(small)" in row
    assert "time_same" not in output.out
    assert "2 benchmarks slower by more than 10 %, 0 faster, 5 compared, 0 only in one of the two, 0 failed" in output.out


def test_equal_commits_end_with_0(compare):
    code, output = compare("base", "base")
    assert code == 0
    assert "(the same commit)" in output.out
    assert "0 benchmarks slower" in output.out


def test_a_faster_commit_is_told_and_ends_with_0(compare):
    code, output = compare("base", "fast")
    assert code == 0
    assert "0 benchmarks slower by more than 10 %, 2 faster" in output.out


def test_a_part_of_the_suite_can_be_asked_for(compare):
    code, output = compare("base", "slow", "--bench", "time_same|time_work.large")
    assert code == 1
    assert "1 benchmark slower by more than 10 %, 0 faster, 3 compared" in output.out


def test_what_fails_in_the_head_only_is_named_and_ends_with_1(compare):
    code, output = compare("base", "crash")
    assert code == 1
    assert "failed  kinds.Kind.time_work(large): fails in the head: ValueError: no room" in output.out


def test_what_only_one_commit_has_is_counted_and_is_no_failure(compare):
    code, output = compare("base", "gone")
    assert code == 0
    assert "1 compared, 4 only in one of the two, 0 failed" in output.out


def test_what_fails_in_the_base_is_counted_and_is_no_failure_of_the_head(compare):
    code, output = compare("crash", "base")
    assert code == 0
    assert "3 compared, 0 only in one of the two, 0 failed, 2 that the base fails" in output.out
    assert compare("crash", "crash")[0] == 0


def test_a_base_whose_process_dies_is_no_failure_of_the_head(compare):
    code, output = compare("dies", "base")
    assert code == 0
    assert "1 compared, 0 only in one of the two, 0 failed, 4 that the base fails" in output.out


def test_a_benchmark_that_hangs_is_a_failure_of_its_own(compare, monkeypatch):
    import regressions

    monkeypatch.setattr(regressions, "PATIENCE", 5.0)
    code, output = compare("base", "hangs", "--bench", "time_work.small|time_import")
    assert code == 1
    assert "failed  kinds.Kind.time_work(small): fails in the head: no answer in 5 s" in output.out


def test_a_base_that_cannot_load_a_module_of_the_suite_lacks_its_benchmarks_and_no_others(compare):
    code, output = compare("base", "newer")
    assert code == 0
    assert "5 compared, 1 only in one of the two, 0 failed" in output.out


def test_a_suite_that_the_head_cannot_load_is_told(compare):
    code, output = compare("base", "odd")
    assert code == 2
    assert "the suite of the head cannot be loaded: news: ImportError: cannot import name 'NEW'" in output.err


def test_what_is_not_confirmed_has_no_verdict(monkeypatch, tmp_path):
    import regressions

    (tmp_path / "asv_benchmarks" / "benchmarks").mkdir(parents=True)
    benchmark = regressions.Benchmark("kinds.Kind.time_work", 0, ())
    installation = regressions.Installation(packages=tmp_path / "asv_benchmarks", sources=tmp_path)
    comparer = regressions.Comparer(Path(sys.executable), installation, installation, threshold=0.1, say=print)
    answers = iter([([([1.0] * 5, [1.3] * 5)], ""), ([], "not in the head: no memory")])

    def measured(self, benchmarks, *_):
        return [regressions.Comparison(each, *next(answers)) for each in benchmarks]

    monkeypatch.setattr(regressions.Comparer, "_measure", measured)
    (found,) = comparer.compare([benchmark])
    assert (found.verdict, found.note) == (None, "not in the head: no memory")


def test_a_process_that_dies_is_a_failure_of_its_benchmark_alone(compare):
    code, output = compare("base", "dies")
    assert code == 1
    assert "failed  kinds.Kind.time_work(small): fails in the head: the process that was to measure ended with status 3" in output.out
    assert "1 compared" in output.out


def test_a_commit_that_does_not_build_is_told_with_its_log(compare):
    code, output = compare("base", "broken")
    assert code == 2
    assert "commit broken does not build" in output.err
    assert Path(output.err.rsplit(" in ", 1)[1].strip().rstrip(")")).is_file()


@pytest.mark.parametrize("name", ["no-such-branch", "base..slow", "^base", "--all", "HEAD:ruvattn.py"])
def test_a_name_of_no_commit_is_told(compare, name):
    code, output = compare("base", f"--head={name}")
    assert code == 2
    assert f"--head {name}: the repository has no such commit" in output.err


def test_another_compiler_has_installations_of_its_own(monkeypatch):
    from regression_builds import _compiler

    monkeypatch.delenv("CFLAGS", raising=False)
    before = _compiler()
    monkeypatch.setenv("CFLAGS", "-O1")
    assert _compiler() == ["CFLAGS=-O1", *before]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert _compiler() == ["CC=no-such-compiler", "CFLAGS=-O1"]


def test_uncommitted_changes_are_told_and_nothing_is_compared(compare, repository):
    path = repository / "pyproject.toml"
    before = path.read_text()
    path.write_text("[project]\n")
    try:
        code, output = compare("base", "slow")
        assert code == 2
        assert "uncommitted changes (pyproject.toml)" in output.err
        code, output = compare("base", "base", "--allow-dirty")
        assert code == 0
        assert path.read_text() == "[project]\n"
    finally:
        path.write_text(before)


def test_figures_and_table_can_be_kept(compare, tmp_path):
    code, _ = compare("base", "slow", "--json", str(tmp_path / "figures.json"), "--markdown", str(tmp_path / "page.md"))
    assert code == 1
    document = json.loads((tmp_path / "figures.json").read_text())
    outcomes = {entry["benchmark"]: entry["verdict"]["outcome"] for entry in document["benchmarks"]}
    assert outcomes["kinds.Kind.time_work(small)"] == "slower"
    assert outcomes["kinds.Kind.time_same(small)"] == "same"
    assert "slower" in (tmp_path / "page.md").read_text()
    # What shows nothing is done after three rounds; what is slower has been confirmed by five pairs that agree, of nine rounds each.
    rounds = {entry["benchmark"]: [len(base) for base, _ in entry["pairs"]] for entry in document["benchmarks"]}
    assert rounds["kinds.Kind.time_same(small)"] == [3]
    assert rounds["kinds.Kind.time_work(small)"] == [9] * 5


def test_no_benchmark_of_that_name_is_told(compare):
    code, output = compare("base", "slow", "--bench", "nothing like this")
    assert code == 2
    assert "no benchmark fits" in output.err


@pytest.mark.parametrize(("arguments", "says"), [
    (["--threshold", "2"], "--threshold must be between"), (["--bench", "("], "--bench is no regular"),
    (["--json", "no/such/folder/figures.json"], "--json must be a file in a folder that is there"),
    (["--markdown", "."], "--markdown must be a file in a folder"),
])  # fmt: skip
def test_a_wrong_option_ends_with_2(arguments, says, capsys):
    import regressions

    with pytest.raises(SystemExit) as ended:
        regressions.main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_it_compares_with_the_commit_before_on_main(compare, repository):
    import regressions
    from history import find

    git(repository, "checkout", "-q", "-B", "main", "slow")
    assert find(repository, regressions.default_base(find(repository, "slow", "--head")), "--base").subject == "commit base"


def test_it_compares_with_where_a_branch_left_main(compare, repository):
    import regressions
    from history import find

    git(repository, "checkout", "-q", "--detach", "fast")
    git(repository, "branch", "-f", "main", "base")
    assert find(repository, regressions.default_base(find(repository, "fast", "--head")), "--base").subject == "commit base"
