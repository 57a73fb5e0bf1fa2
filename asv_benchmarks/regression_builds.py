"""Commits as folders that Python can import: what regressions.py compares.

    install(commit) ─► .asv/regressions/<commit>     the core and every plugin of the commit, built with one set of tools
    environment()   ─► .asv/regressions/tools-…      the interpreter for both: what they need beside themselves, in one version

A commit that has been built is not built again. A build that fails leaves its log, and nothing that would be taken for a build.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from history import Commit

__all__ = ["BuildError", "Installation", "environment", "install"]

FOLDER = Path(__file__).resolve().parent / ".asv" / "regressions"


class BuildError(RuntimeError):
    """A commit that cannot be built; says where its log is."""


@dataclass(frozen=True)
class Installation:
    """Where the packages of a commit lie, and its sources."""

    packages: Path
    sources: Path


def environment(sources: Sequence[Path]) -> Path:
    """Return an interpreter with what the commits need beside themselves, to build and to run; made where it is not there.

    Parameters
    ----------
    sources : sequence of Path
        The files of each commit. Requirements of all of them go into one environment, so that no library differs.
    """
    needed = sorted({requirement for tree in sources for project in _projects(tree) for requirement in _requirements(project)})
    label = hashlib.sha256("\n".join([sys.version, *_compiler(), *needed]).encode()).hexdigest()[:12]
    home = FOLDER / f"tools-{label}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"tools-{label}.log"
    with log.open("wb") as output:
        _run([sys.executable, "-m", "venv", str(home)], output, log, "the environment for both commits cannot be made")
        _run([str(python), "-m", "pip", "install", "-q", *needed], output, log, "the environment for both commits cannot be made")
    (home / "complete").touch()
    return python


def _compiler() -> list[str]:
    """Return what tells compilers and their flags apart: what one has built is not to be compared with what another builds."""
    words = [f"{name}={os.environ[name]}" for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS") if os.environ.get(name)]
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    try:
        result = subprocess.run([*command, "--version"], check=False, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:  # none, or one that has no such option: a build will say so
        return words
    return [*words, *result.stdout.splitlines()[:1]]


def install(commit: Commit, sources: Path, python: Path, *, isas: str) -> Installation:
    """Build the core and the plugins of a commit, unless that has been done.

    Parameters
    ----------
    commit : Commit
        Which.
    sources : Path
        Its files.
    python : Path
        What `environment` returned.
    isas : str
        The instruction sets to build, as ``RUVATTN_BUILD_ISAS``; empty: all.

    Raises
    ------
    BuildError
        If a build fails; names the log.
    """
    label = "-".join([commit.hash[:16], *filter(None, isas.split(",")), python.parent.parent.name])
    home, log = FOLDER / label, FOLDER / f"{label}.log"
    if home.exists():
        return Installation(home, sources)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=f"{label}.") as away, log.open("wb") as output:
        packages = Path(away) / "packages"
        variables = {**os.environ, "RUVATTN_BUILD_ISAS": isas, "PYTHONPATH": str(packages), "PYTHONNOUSERSITE": "1"}
        # A plugin is built with the core of its own commit, which is there by then.
        for project in _projects(sources):
            command = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(packages)]
            _run([*command, str(project.parent)], output, log, f"commit {commit.short} {commit.subject} does not build", variables)
        os.replace(packages, home)  # whole or not at all
    return Installation(home, sources)


def _run(command: list[str], output: object, log: Path, problem: str, variables: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, check=False, stdout=output, stderr=subprocess.STDOUT, env=variables)  # type: ignore[call-overload]
    if result.returncode:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if re.search(r"error|failed", line, re.IGNORECASE)]
        hint = f": {lines[0]}" if lines else ""
        raise BuildError(f"{problem}{hint} (all of it is in {log})")


def _projects(sources: Path) -> list[Path]:
    """Return the pyproject.toml of the core, then of the plugins."""
    if not (sources / "pyproject.toml").exists():
        raise BuildError(f"{sources} has no pyproject.toml: the commit is from before there was anything to build")
    return [sources / "pyproject.toml", *sorted((sources / "plugins").glob("*/pyproject.toml"))]


def _requirements(project: Path) -> list[str]:
    """Return what building and running a project takes, but for ruvattn and its plugins."""
    document = tomllib.loads(project.read_text(encoding="utf-8"))
    project_table = document.get("project", {})
    optional = project_table.get("optional-dependencies", {}).get("bfloat16", [])  # which some benchmarks compute in
    found = [*document.get("build-system", {}).get("requires", []), *project_table.get("dependencies", []), *optional]
    return [requirement for requirement in found if not requirement.startswith("ruvattn")]
