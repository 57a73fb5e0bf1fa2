"""One of the two processes that regressions.py measures with: it has the installation of one commit on its path, and a suite that is not its own.

    regressions.py ── {"do": "list"} ─────────────────────────────► worker ── {"benchmarks": [{"id", "parameters"}, …], "broken": {module: why}}
                   ── {"do": "set up", "id": …, "case": 3} ───────►        ── {}   or {"skipped": why}, {"failed": what}
                   ── {"do": "gauge"} ────────────────────────────►        ── {"seconds": of a call, "number": of calls in a sample}
                   ── {"do": "time", "number": 40} ───────────────►        ── {"seconds": of a call, of so many}
                   ── {"do": "drop"} ─────────────────────────────►        ── {}

A line of JSON each way. What benchmarks print goes to stderr. The suite is given by the folder that holds it: both commits get the same one.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

LEAST = 0.01
"""Seconds that a first measurement lasts at least, from which the number of calls in a sample follows."""

SAMPLE = 0.02
"""Seconds that a sample lasts, by repeating the call."""

PARTS = 5
"""Parts of a sample, of which the fastest counts: what else runs on the machine disturbs some. Halves the noise of short calls on two threads."""


def benchmarks(broken: dict[str, str]) -> Iterator[tuple[str, type, str]]:
    """Yield id, class and method of every timing in the suite, as asv finds them; note modules that this commit cannot load."""
    package = importlib.import_module("benchmarks")
    for module in pkgutil.iter_modules(package.__path__):
        try:
            things = dict(vars(importlib.import_module(f"benchmarks.{module.name}")))
        except Exception as error:
            broken[module.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            continue
        for name, kind in things.items():
            if isinstance(kind, type) and not name.startswith("_") and kind.__module__ == f"benchmarks.{module.name}":
                for method in dir(kind):
                    if method.startswith(("time_", "timeraw_")):
                        yield f"{module.name}.{name}.{method}", kind, method


def parameters_of(kind: type) -> list[list[Any]]:
    """Return every combination of a class's parameters; one empty one where it has none."""
    given = getattr(kind, "params", None) or []
    columns = given if given and isinstance(given[0], list | tuple) else [given] if given else []
    return [list(values) for values in itertools.product(*columns)]


class Case:
    """One benchmark with its parameters, set up."""

    def __init__(self, kind: type, method: str, arguments: list[Any]) -> None:
        self.benchmark = kind()
        self.arguments = arguments
        self.raw = method.startswith("timeraw_")
        try:
            if hasattr(self.benchmark, "setup"):
                self.benchmark.setup(*arguments)
            self.function: Callable[..., Any] = getattr(self.benchmark, method)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Let go of what the set-up made."""
        if hasattr(self.benchmark, "teardown"):
            self.benchmark.teardown(*self.arguments)

    def seconds(self, number: int) -> float:
        """Return the seconds of a call: of so many, in parts, the mean of the fastest part."""
        if self.raw:
            return sum(self._fresh() for _ in range(number)) / number
        function, arguments = self.function, self.arguments
        fastest, left = math.inf, number
        for parts in range(min(number, PARTS), 0, -1):
            calls = left // parts
            started = time.perf_counter()
            for _ in range(calls):
                function(*arguments)
            fastest = min(fastest, (time.perf_counter() - started) / calls)
            left -= calls
        return fastest

    def first(self) -> tuple[float, int]:
        """Return about what a call takes, warm, and how many of them make a sample."""
        if self.raw:  # an interpreter each: they take their time, however little of it is counted
            return self._fresh(), 1
        self.seconds(1)
        number = 1
        while True:
            seconds = self.seconds(number)
            if seconds * number >= LEAST:
                return seconds, max(1, math.ceil(SAMPLE / seconds))
            number *= 4

    def _fresh(self) -> float:
        """Time the code that a timeraw_ method returns, in an interpreter of its own."""
        found = self.function(*self.arguments)
        code, before = (found, "") if isinstance(found, str) else found
        program = f"{before}\nimport time as _time\n_started = _time.perf_counter()\n{code}\nprint('\\n', _time.perf_counter() - _started)"
        # -P: a checkout that happens to be the current folder is not what is measured.
        result = subprocess.run([sys.executable, "-P", "-c", program], check=False, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"its code ended with status {result.returncode}: {' '.join(result.stderr.strip().splitlines()[-1:])}")
        return float(result.stdout.splitlines()[-1])


def serve(answers: Any) -> None:
    """Do what the lines of stdin ask, until they end."""
    broken: dict[str, str] = {}
    known = {name: (kind, method) for name, kind, method in benchmarks(broken)}
    case: Case | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = {}
        try:
            if request["do"] == "list":
                listed = [{"id": name, "parameters": parameters_of(kind)} for name, (kind, _) in known.items()]
                answer = {"benchmarks": listed, "broken": broken}
            elif request["do"] == "set up" and request["id"] not in known:
                # The suite is that of the head: a base from before what a module is about cannot load it.
                answer = {"skipped": broken.get(request["id"].split(".")[0], "its suite has none of that name")}
            elif request["do"] == "set up":
                kind, method = known[request["id"]]
                case = Case(kind, method, parameters_of(kind)[request["case"]])
            elif request["do"] == "gauge":
                assert case is not None
                answer = dict(zip(("seconds", "number"), case.first(), strict=True))
            elif request["do"] == "time":
                assert case is not None
                answer = {"seconds": case.seconds(request["number"])}
            elif request["do"] == "drop" and case is not None:
                case, dropped = None, case
                dropped.drop()
        except NotImplementedError as reason:
            answer = {"skipped": str(reason)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(pipe)
