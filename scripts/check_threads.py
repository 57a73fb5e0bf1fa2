"""See that core and plugins share one OpenMP runtime in this environment, that it obeys, and that a fork after it has worked is safe. Linux.

    python scripts/check_threads.py [FOLDER]        FOLDER: where the runtime has to be, such as the environment's

A wheel brings its own copy of libgomp. If core and plugins loaded one each, there would be as many teams of threads on the same cores, and a
fork would be prepared for one of them only.
"""

from __future__ import annotations

import os
import re
import sys
import time

import numpy as np

import ruvattn
from ruvattn import plugins


def runtimes() -> set[str]:
    """Return the OpenMP libraries that this process has loaded."""
    with open("/proc/self/maps", encoding="utf-8") as file:
        paths = {line.split(maxsplit=5)[5].strip() for line in file if line.count(" ") > 5 and "/" in line}
    return {path for path in paths if re.match(r"lib([gi]?omp)\b", os.path.basename(path))}


def num_threads() -> int:
    """Count the threads of this process."""
    return len(os.listdir("/proc/self/task"))


def work(threads: int | None = None) -> list[np.ndarray]:
    """Compute with kernels of the core, and with those of each plugin that has a team of its own."""
    random = np.random.default_rng(0)
    q, k, v = random.standard_normal((3, 4, 512, 64), dtype=np.float32)
    results = [ruvattn.attention(q, k, v, threads=threads)]
    try:
        from ruvattn_graph import segment_sum
    except ModuleNotFoundError:
        return results
    edges = ruvattn.Adjacency(np.arange(0, 100_001, 50), random.integers(2000, size=100_000), num_keys=2000)
    return [*results, segment_sum(random.standard_normal((2000, 64), dtype=np.float32), edges, threads=threads)]


def child_computes(expected: list[np.ndarray]) -> bool:
    """Fork, and have the child compute on a team; False if that hangs or differs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if all(np.array_equal(mine, theirs) for mine, theirs in zip(work(2), expected, strict=True)) else 3
        finally:
            os._exit(code)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def main(folder: str | None) -> None:
    """Check, and end with a sentence about what is wrong."""
    broken = [status for status in plugins.status() if not status.loaded]
    if broken:
        sys.exit(f"plugins failed to load: {broken}")
    before = num_threads()
    ruvattn.set_num_threads(1)
    alone = work()
    if num_threads() != before:
        sys.exit(f"set_num_threads(1), and there are {num_threads() - before} threads more")
    ruvattn.set_num_threads(3)
    team = work()
    if num_threads() != before + 2:
        sys.exit(f"set_num_threads(3), and there are {num_threads() - before} threads more: one team would be 2")
    found = runtimes()
    if len(found) != 1:
        sys.exit(f"one OpenMP runtime should be loaded, and there are {len(found)}: {sorted(found)}")
    (path,) = found
    if folder is not None and not os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):
        sys.exit(f"the OpenMP runtime is {path}, outside {folder}: the wheels do not bring it")
    if not all(np.array_equal(one, other) for one, other in zip(alone, team, strict=True)):
        sys.exit("results differ with the number of threads")
    if not child_computes(team):
        sys.exit("a child that was forked after a parallel call hangs or computes something else")
    print(f"one OpenMP runtime, {path}: it keeps to the number of threads, and survives a fork")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
