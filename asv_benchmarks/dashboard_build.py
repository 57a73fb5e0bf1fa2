"""Builds and installs a commit for the dashboard, in the environment that asv made: standard library only, for nothing else is there yet.

    dashboard_build.py build <checkout> <cache> <commit> <plan>       wheels of the core and of the plugins in the same commit
    dashboard_build.py install <cache> <commit> <plan>                these wheels, then each third-party plugin
    dashboard_build.py uninstall

The plan is a JSON file: {"logs": folder, "plugins": [{"name": …, "digest": …, "source": folder}, …]}.

    a commit that doesn't build                      asv leaves a gap in every graph         logs/<commit>.txt
    a third-party plugin that doesn't, with it       its benchmarks are skipped, no others   logs/<commit>-<plugin>.txt

What pip says goes to the log, which stays only where something failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import plugin_wheels


class Log:
    """A file for what commands say, which stays where one of them fails.

    Until then it has another name: a build that is interrupted has not failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)

    def __enter__(self) -> Log:
        self.part.write_text("")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.part.replace(self.path)
        else:
            self.part.unlink()

    def run(self, *arguments: str | Path) -> None:
        """Run Python with these arguments; its output goes to the log."""
        with self.part.open("a") as file:
            file.write(f"\n$ python {' '.join(map(str, arguments))}\n")
            file.flush()
            subprocess.run([sys.executable, *map(str, arguments)], check=True, stdout=file, stderr=subprocess.STDOUT)

    def pip(self, *arguments: str | Path) -> None:
        """Run pip."""
        self.run("-m", "pip", *arguments)


def build(checkout: Path, cache: Path, commit: str, plan: dict[str, Any]) -> None:
    """Build the wheels of a commit; exit with an error that names the log where that fails."""
    place = Path(plan["logs"]) / f"{commit}.txt"
    try:
        with Log(place) as log:
            log.pip("wheel", "--no-deps", "--no-build-isolation", "-w", cache, checkout)
            log.run(plugin_wheels.__file__, "build", checkout, cache)
    except subprocess.CalledProcessError:
        sys.exit(f"{commit[:8]} doesn't build: {place}")


def install(cache: Path, commit: str, plan: dict[str, Any]) -> None:
    """Install the wheels of a commit, and whichever third-party plugins go with it."""
    place = Path(plan["logs"]) / f"{commit}.txt"
    try:
        with Log(place) as log:
            log.pip("install", "--no-deps", "--no-index", "--force-reinstall", *cache.glob("*.whl"))
            log.run(plugin_wheels.__file__, "install", cache)
    except subprocess.CalledProcessError:
        sys.exit(f"{commit[:8]} can't be installed: {place}")
    for plugin in plan["plugins"]:
        place = Path(plan["logs"]) / f"{commit}-{plugin['name']}.txt"
        try:
            with Log(place) as log:
                install_third_party(plugin, cache, log)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            print(f"{plugin['name']} doesn't go with {commit[:8]}, which has a gap for it: {place} ({error})")


def install_third_party(plugin: dict[str, str], cache: Path, log: Log) -> None:
    """Build a plugin against the core that is installed, once for each state of its sources, and install it with what it needs.

    Nothing that is installed already may change its version: the built-in variants are measured beside it.
    """
    folder = cache / "third-party" / f"{plugin['name']}-{plugin['digest']}"
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("".join(f"{found.metadata['Name']}=={found.version}\n" for found in distributions()))
        if not folder.is_dir():
            source, made = Path(scratch) / "source", Path(scratch) / "wheels"
            shutil.copytree(plugin["source"], source)  # builds leave files beside the sources
            table = tomllib.loads((source / "pyproject.toml").read_text())
            needed = table.get("build-system", {}).get("requires", ["setuptools"])
            log.pip("install", "-c", constraints, *needed)
            log.pip("wheel", "--no-deps", "--no-build-isolation", "-w", made, source)
            part = folder.with_name(f".{folder.name}")  # across disks a move is a copy, which Ctrl-C may cut short
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(exist_ok=True)
            shutil.move(made, part)
            part.rename(folder)
        log.pip("install", "-c", constraints, *folder.glob("*.whl"))


def main(command: str, *arguments: str) -> None:
    """Do what the command line says."""
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    if command == "uninstall":
        plugin_wheels.uninstall()
        return
    *folders, commit, plan = arguments
    commands: dict[str, Callable[..., None]] = {"build": build, "install": install}
    commands[command](*map(Path, folders), commit, json.loads(Path(plan).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
