"""What one commit made slower than another, on a machine that is not quiet: ``make regressions BASE=main HEAD=my-branch``.

    commits ─► regression_builds.py    two installations, built with the same tools, and the suite of the head for both
                    │
                    ▼
    two processes, one of each commit (regression_worker.py), that take turns: base head, head base, base head …
                    │ seconds of each round
                    ▼
               regression_verdict.py   most benchmarks are done after the screening; what looks different is measured again in fresh processes

Exit code: 0 nothing is slower, 1 something is or fails, 2 the commits can't be compared. What is not committed is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from history import Commit, changes, find, fork_point, unpack
from regression_builds import BuildError, Installation, environment, install
from regression_verdict import THRESHOLD, Verdict, is_settled, is_suspect, judge
from reporting import duration, plural
from timing import PAUSE

from ruvattn.errors import InvalidInputError

ROOT = Path(__file__).resolve().parents[1]

LONGEST = 2.0
"""Seconds that the rounds of one benchmark on one commit may take, beyond which there are fewer of them, though never under `FEWEST`."""

PATIENCE = 600.0
"""Seconds until a process that doesn't answer is ended: a benchmark that hangs is a failure, and not the end of all others."""

FEWEST = 3
"""Rounds of a benchmark at the least, however long it takes."""

ENOUGH_PAIRS, CONFIRM_PAIRS = 5, 9
"""Pairs of processes that confirm: so many where they agree with each other, and so many at the most."""


@dataclass(frozen=True)
class Rounds:
    """How many rounds of a benchmark there are: ``most``, or less once ``least`` are done and nothing shows at ``share`` of the threshold."""

    most: int
    least: int
    share: float


SCREEN, CONFIRM = Rounds(9, FEWEST, 0.5), Rounds(9, 5, 1.0)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark with one combination of its parameters."""

    id: str
    case: int
    parameters: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.id}({', '.join(map(str, self.parameters))})" if self.parameters else self.id


class WorkerError(RuntimeError):
    """A process that was to measure has ended; says in which of the two commits."""

    def __init__(self, which: str, message: str) -> None:
        super().__init__(f"fails in the {which}: {message}")
        self.which = which


class Worker:
    """A process with one commit's installation: that of the ``"base"`` or of the ``"head"``."""

    def __init__(self, which: str, python: Path, installation: Installation, suite: Path) -> None:
        self.which = which
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RUVATTN_"))}
        variables.update(PYTHONPATH=str(installation.packages), PYTHONNOUSERSITE="1", OPENBLAS_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [str(python), "-P", str(Path(__file__).with_name("regression_worker.py")), str(suite)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=variables,
        )

    def ask(self, **request: Any) -> Any:
        """Send a request, and return the answer."""
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        """Send a request, whose `answer` is waited for later."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer tells
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to what was sent."""
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(PATIENCE, end)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        if late.is_set():
            raise WorkerError(self.which, f"no answer in {PATIENCE:.0f} s")
        raise WorkerError(self.which, f"the process that was to measure ended with status {self._process.wait()}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Comparison:
    """What became of one benchmark: seconds of the rounds of each pair of processes, or why there are none.

    ``failed``: in the head, and not in the base. ``before``: in the base, whatever the head does.
    """

    benchmark: Benchmark
    pairs: list[tuple[list[float], list[float]]]
    note: str = ""
    failed: bool = False
    before: bool = False
    verdict: Verdict | None = None


class Comparer:
    """Measures benchmarks of two installations in turn."""

    def __init__(self, python: Path, base: Installation, head: Installation, *, threshold: float, say: Callable[[str], None]) -> None:
        self.python, self.base, self.head, self.threshold, self.say = python, base, head, threshold, say
        self.suite = head.sources / "asv_benchmarks"
        if not (self.suite / "benchmarks").is_dir():
            raise InvalidInputError("the head has no asv_benchmarks/benchmarks: there is nothing to measure")

    def start(self, turn: int) -> tuple[Worker, Worker]:
        """Start a pair of processes, that of the base first or second."""
        started = {}
        for which, installation in (("base", self.base), ("head", self.head))[:: -1 if turn % 2 else 1]:
            started[which] = Worker(which, self.python, installation, self.suite)
        return started["base"], started["head"]

    def benchmarks(self, pattern: str) -> list[Benchmark]:
        """Return the benchmarks of the suite that a regular expression fits."""
        with Worker("head", self.python, self.head, self.suite) as worker:
            listed = worker.ask(do="list")
        for module, error in listed["broken"].items():
            raise InvalidInputError(f"the suite of the head cannot be loaded: {module}: {error}")
        found = [Benchmark(entry["id"], i, tuple(values)) for entry in listed["benchmarks"] for i, values in enumerate(entry["parameters"])]
        return [benchmark for benchmark in found if re.search(pattern, str(benchmark))]

    def compare(self, benchmarks: Sequence[Benchmark]) -> list[Comparison]:
        """Screen all, and measure those again that look different."""
        screened = self._measure(benchmarks, SCREEN, 0, "screening")
        suspects = [found for found in screened if found.pairs and is_suspect(*found.pairs[0], self.threshold)]
        for found in screened:
            if found.pairs:
                found.verdict = judge(found.pairs, self.threshold)
        for found in suspects:
            found.pairs, found.verdict = [], None  # what made it a suspect is no witness
        for turn in range(CONFIRM_PAIRS if suspects else 0):
            what = f"confirming, {turn + 1}"
            with tempfile.TemporaryDirectory(prefix="ruvattn-pair-") as away:
                again = self.copied(Path(away))._measure([found.benchmark for found in suspects], CONFIRM, turn + 1, what)
            for found, measured in zip(suspects, again, strict=True):
                found.pairs += measured.pairs
                found.failed, found.before, found.note = found.failed or measured.failed, found.before or measured.before, found.note or measured.note
            going_on = []
            for found in suspects:
                if found.pairs:
                    found.verdict = judge(found.pairs, self.threshold)
                    # One pair that doesn't show it is enough to let it go, and some that agree are enough to believe it.
                    if is_suspect(*found.pairs[-1], self.threshold) and not (turn + 1 >= ENOUGH_PAIRS and is_settled(found.verdict, self.threshold)):
                        going_on.append(found)
            suspects = going_on
        return screened

    def copied(self, to: Path) -> Comparer:
        """Return one that measures copies: where in memory the pages of a library lie is its luck for as long as its file stays the same."""
        copies = [replace(each, packages=shutil.copytree(each.packages, to / which)) for which, each in (("base", self.base), ("head", self.head))]
        return Comparer(self.python, *copies, threshold=self.threshold, say=self.say)

    def _measure(self, benchmarks: Sequence[Benchmark], rounds: Rounds, turn: int, what: str) -> list[Comparison]:
        """Measure each benchmark in one pair of processes; those of a method share theirs, which bounds what caches of the suite hold.

        From turn to turn it is the other commit that starts and is measured first.
        """
        found: list[Comparison] = []
        pair: tuple[Worker, Worker] | None = None
        previous, started = "", time.monotonic()
        try:
            for benchmark in benchmarks:
                if pair is None or benchmark.id != previous:
                    for worker in pair or ():
                        worker.close()
                    pair, previous = self.start(turn), benchmark.id
                try:
                    found.append(self._one(pair, benchmark, rounds, turn))
                except WorkerError as error:
                    for worker in pair:
                        worker.close()
                    pair = None
                    found.append(Comparison(benchmark, [], f"{error}", failed=error.which == "head", before=error.which == "base"))
                if len(found) % 100 == 0:
                    self.say(f"  {what}: {len(found)} of {len(benchmarks)}, {time.monotonic() - started:.0f} s")
        finally:
            for worker in pair or ():
                worker.close()
        if benchmarks:
            self.say(f"  {what}: {plural(len(benchmarks), 'benchmark')} in {time.monotonic() - started:.0f} s")
        return found

    def _one(self, pair: tuple[Worker, Worker], benchmark: Benchmark, rounds: Rounds, first: int) -> Comparison:
        orders = ((0, 1), (1, 0))
        found = Comparison(benchmark, [])
        for worker in pair:  # both at once
            worker.send(do="set up", id=benchmark.id, case=benchmark.case)
        prepared = [worker.answer() for worker in pair]
        if prepared == [{}, {}]:
            for side in orders[first % 2]:
                prepared[side] = pair[side].ask(do="gauge")
        for answer, which in zip(prepared, ("base", "head"), strict=True):
            if "skipped" in answer or "failed" in answer:
                found.note = f"not in the {which}: {answer['skipped']}" if "skipped" in answer else f"fails in the {which}: {answer['failed']}"
        failed = ["failed" in answer for answer in prepared]
        found.failed, found.before = failed == [False, True], failed[0]
        if not found.note:
            seconds = max(answer["seconds"] for answer in prepared)
            number = min(answer["number"] for answer in prepared)
            most = max(FEWEST, min(rounds.most, int(LONGEST / (number * seconds))))
            times: tuple[list[float], list[float]] = ([], [])
            for turn in range(most):
                if turn >= rounds.least and not is_suspect(*times, rounds.share * self.threshold):
                    break
                for side in orders[(turn + first) % 2]:
                    time.sleep(PAUSE / 8)  # the threads of the one before go to sleep
                    answer = pair[side].ask(do="time", number=number)
                    if "seconds" not in answer:
                        found.note = f"fails in the {('base', 'head')[side]}: {answer.get('failed', answer)}"
                        found.failed, found.before = side == 1, side == 0
                        break
                    times[side].append(answer["seconds"])
            if not found.note:
                found.pairs.append(times)
        for worker in pair:
            worker.ask(do="drop")
        return found


def table(comparisons: Iterable[Comparison]) -> list[str]:
    """Return lines of a table: what is slower, then what is faster, the largest difference first."""
    rows = [found for found in comparisons if found.verdict and found.verdict.outcome != "same"]
    if not rows:
        return []
    rows.sort(key=lambda found: (found.verdict.outcome != "slower", -abs(math.log(found.verdict.ratio))))  # type: ignore[union-attr]
    cells = [["", "ratio", "of the pairs", "base", "head", "benchmark"]]
    for found in rows:
        verdict = found.verdict
        assert verdict is not None
        pairs = f"{verdict.low:.2f} to {verdict.high:.2f}"
        cells.append([verdict.outcome, f"{verdict.ratio:.2f}", pairs, duration(verdict.base), duration(verdict.head), str(found.benchmark)])
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:5], widths, strict=True)), row[5]]) for row in cells]


def markdown(title: str, comparisons: Iterable[Comparison], summary: str) -> str:
    """Return the same as a page for a pull request."""
    body = "\n".join(table(comparisons))
    return f"### {title}\n\n" + (f"```text\n{body}\n```\n\n" if body else "") + summary + "\n"


def default_base(head: Commit) -> str:
    """Return where the head leaves main, or its parent where it is on main."""
    fork = fork_point(ROOT, head, "main")
    return f"{head.hash}~1" if fork in (None, head.hash) else fork


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="regressions.py", description="What one commit made slower than another.", allow_abbrev=False)
    parser.add_argument("--base", metavar="COMMIT", help="what to compare with; default: where the head leaves main, or the commit before it")
    parser.add_argument("--head", metavar="COMMIT", default="HEAD", help="what to look at; default: HEAD")
    parser.add_argument("--bench", metavar="REGEX", default="", help="benchmarks to run, such as 'engine|variants'; default: all that time something")
    parser.add_argument("--threshold", metavar="SHARE", type=float, default=THRESHOLD, help="the least difference that counts; default: 0.1, a tenth")
    parser.add_argument("--all-isas", action="store_true", help="build for every instruction set, not only for the one that runs here")
    parser.add_argument("--allow-dirty", action="store_true", help="go on with uncommitted changes in the checkout, which are not measured")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="append the table there, for the summary of a pull request")
    options = parser.parse_args(arguments)
    if not 0.02 <= options.threshold <= 1:
        parser.error(f"--threshold must be between 0.02 and 1, got {options.threshold}")
    try:
        re.compile(options.bench)
    except re.error as error:
        parser.error(f"--bench is no regular expression: {error}")
    for option, path in (("--json", options.json), ("--markdown", options.markdown)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):  # told now, and not after an hour of measuring
            parser.error(f"{option} must be a file in a folder that is there, got {str(path)!r}")
    return options


def run(options: argparse.Namespace) -> int:
    """Compare, print, and return the exit code."""
    head = find(ROOT, options.head, "--head")
    base = find(ROOT, options.base or default_base(head), "--base")
    dirty = changes(ROOT)
    if dirty and not options.allow_dirty:
        listed = ", ".join(dirty[:3]) + (" …" if len(dirty) > 3 else "")
        raise InvalidInputError(
            f"the checkout has uncommitted changes ({listed}), which are in no commit: commit or stash them, or leave them out with --allow-dirty"
        )

    def say(text: str) -> None:
        print(text, flush=True)

    say(f"base  {base.short} {base.subject}\nhead  {head.short} {head.subject}" + ("  (the same commit)" if base.hash == head.hash else ""))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ruvattn-regressions-") as away:
        trees = []
        for commit in (base, head):
            tree = Path(away) / commit.hash[:16]
            if not tree.exists():
                unpack(ROOT, commit, tree)
            trees.append(tree)
        python = environment(trees)
        isas = "" if options.all_isas else _isas()
        installations = [install(commit, tree, python, isas=isas) for commit, tree in zip((base, head), trees, strict=True)]
        say(f"  built in {time.monotonic() - started:.0f} s")
        comparer = Comparer(python, *installations, threshold=options.threshold, say=say)
        benchmarks = comparer.benchmarks(options.bench)
        if not benchmarks:
            raise InvalidInputError(f"no benchmark fits --bench {options.bench!r}")
        comparisons = comparer.compare(benchmarks)
    return _report(options, base, head, comparisons, time.monotonic() - started)


def _isas() -> str:
    """Return the instruction set that runs here, and no other: the rest would only be built."""
    from ruvattn.isa import active_isa

    return active_isa()


def _report(options: argparse.Namespace, base: Commit, head: Commit, comparisons: list[Comparison], seconds: float) -> int:
    slower = [found for found in comparisons if found.verdict and found.verdict.outcome == "slower"]
    broken = [found for found in comparisons if found.failed]
    before = sum(found.before for found in comparisons)
    skipped = [found for found in comparisons if found.note and not found.failed and not found.before]
    lines = table(comparisons)
    print("\n" + "\n".join(lines) if lines else "")
    for found in broken:
        print(f"failed  {found.benchmark}: {found.note}")
    counts = [f"{plural(len(slower), 'benchmark')} slower by more than {100 * options.threshold:.0f} %"]
    faster = sum(found.verdict is not None and found.verdict.outcome == "faster" for found in comparisons)
    compared = len(comparisons) - len(skipped) - len(broken) - before
    counts += [f"{faster} faster", f"{compared} compared", f"{len(skipped)} only in one of the two", f"{len(broken)} failed"]
    if before:
        counts.append(f"{before} that the base fails")
    summary = ", ".join(counts) + f"; {seconds:.0f} s"
    print(summary)
    if options.markdown:
        with options.markdown.open("a", encoding="utf-8") as page:
            page.write(markdown(f"{base.short} → {head.short}", comparisons, summary))
    if options.json:
        document = {
            "base": asdict(base),
            "head": asdict(head),
            "threshold": options.threshold,
            "benchmarks": [
                {"benchmark": str(found.benchmark), "note": found.note, "pairs": found.pairs, "verdict": found.verdict and asdict(found.verdict)}
                for found in comparisons
            ],
        }
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 1 if slower or broken else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, with what goes wrong in one line."""
    options = parse(arguments)
    try:
        return run(options)
    except (InvalidInputError, BuildError, WorkerError, OSError) as error:
        print(f"regressions: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
