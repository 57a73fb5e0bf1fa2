"""What asv runs for the dashboard: the suite of this folder with those of third-party plugins beside it, and a configuration to go with it.

    .asv/suite/asv.conf.json         that of this folder, with absolute paths and other commands
               benchmarks/           links to the modules of this folder's suite
                 demo_x/             links to those of demo-x's folder benchmarks/, none of which asv finds where one can't be imported
                 _imports.py         dashboard_imports.py, which sees to that
               asv_keep.py           saves results one by one
               plan.json             what dashboard_build.py does
         plugins/demo-x/             demo-x's sources as they were when the dashboard was started
         results/  html/             of full runs, as `asv run` in this folder writes them
         quick/results/  html/       of quick ones, whose single samples would spoil the others
         env/, env-v3/               environments: with every instruction set, with some
         logs/                       of builds that failed; benchmarks/ of benchmarks that can't be imported
         distributions.json          what benchmarks' names begin with to the plugin, those of earlier runs included

All of it is made anew for each run, but results, environments and logs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruvattn.errors import InvalidInputError
from ruvattn.files import replacing

__all__ = ["FOLDER", "Plugin", "Suite", "check_interpreter", "read_configuration", "read_plugin"]

FOLDER = Path(__file__).resolve().parent
"""The benchmarks of the project."""

NOT_SOURCES = (".git", ".asv", "__pycache__", "*.egg-info", "*.so", "*.pyd", "*.dylib", ".venv*", "venv", ".tox", ".nox", "node_modules", ".*_cache")
"""What stays behind when the sources of a plugin are copied, and, at their root, `build` and `dist`."""


@dataclass(frozen=True)
class Plugin:
    """A third-party plugin that is to stand beside the variants of the project.

    Attributes
    ----------
    name : str
        The name of its distribution.
    path : Path
        Its project: the folder with pyproject.toml and benchmarks/.
    """

    name: str
    path: Path

    @property
    def module(self) -> str:
        """What its benchmarks' names begin with."""
        return _module(self.name)


def _module(distribution: str) -> str:
    return re.sub(r"[-_.]+", "_", distribution).lower()


def read_plugin(path: Path) -> Plugin:
    """Read which plugin is at a path.

    Parameters
    ----------
    path : Path
        Its project.

    Returns
    -------
    Plugin
        The plugin.

    Raises
    ------
    InvalidInputError
        If there is no project, or one without benchmarks.
    """
    path = path.absolute()
    if not path.is_dir():
        raise InvalidInputError(f"--plugin {path}: there is no such folder")
    project = path / "pyproject.toml"
    try:
        table = tomllib.loads(project.read_text())
    except FileNotFoundError as error:
        raise InvalidInputError(f"--plugin {path} has no pyproject.toml: name the folder of a plugin's project") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{project} can't be read: {error}") from error
    name = table.get("project", {}).get("name")
    if not isinstance(name, str):
        raise InvalidInputError(f"{project} gives the project no name")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):  # it will be that of a folder, which is removed first
        raise InvalidInputError(f"{project} gives the project the name {name!r}, which is no name of a distribution")
    modules = [file for file in (path / "benchmarks").glob("*.py") if file.name != "__init__.py"]
    if not modules:
        raise InvalidInputError(
            f"--plugin {path} has no benchmarks: {path.name}/benchmarks/ needs a module with a class such as VariantBenchmarks of "
            f"ruvattn.testing.benchmarks, as `ruvattn new-plugin` writes one"
        )
    plugin = Plugin(name, path)
    if (FOLDER / "benchmarks" / f"{plugin.module}.py").exists():
        raise InvalidInputError(f"--plugin {path}: benchmarks of {name} would be called {plugin.module}.…, which the suite has already")
    return plugin


def read_configuration() -> dict[str, Any]:
    """Return asv.conf.json of this folder.

    Returns
    -------
    dict
        The configuration, without its comments.
    """
    return json.loads(re.sub(r"^\s*//.*$", "", (FOLDER / "asv.conf.json").read_text(), flags=re.MULTILINE))


class Suite:
    """The generated suite, its configuration and its folders.

    Parameters
    ----------
    plugins : sequence of Plugin
        The third-party plugins.
    quick : bool
        Keep results and pages apart from those of full runs.
    isas : str
        The instruction sets to build, separated by commas; empty: all.
    folder : Path, optional
        Where all of it goes.

    Raises
    ------
    InvalidInputError
        If two plugins have one name.
    """

    def __init__(self, plugins: Sequence[Plugin], *, quick: bool, isas: str, folder: Path = FOLDER / ".asv") -> None:
        self.plugins, self.isas, self.folder = list(plugins), isas, folder
        names = [plugin.module for plugin in plugins]
        for plugin in plugins:
            if names.count(plugin.module) > 1:
                raise InvalidInputError(f"--plugin is given twice for {plugin.name}")
        kept = folder / "quick" if quick else folder
        self.results, self.html, self.logs = kept / "results", kept / "html", folder / "logs"
        self.place = folder / "suite"
        self.configuration = self.place / "asv.conf.json"
        self.constraints = FOLDER / "constraints.txt"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other dashboards of this checkout out, in other processes too, for they share suite and environments.

        Yields
        ------
        None
            While no other may run.

        Raises
        ------
        InvalidInputError
            If there is another.
        """
        import fcntl  # here, for Windows has none and is to be told so

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidInputError(f"another dashboard of this checkout is being made: wait for it, or stop it ({self.folder})") from error
            yield  # closing the file gives the lock back

    def write(self, branches: Sequence[str]) -> None:
        """Write the suite and its configuration.

        Parameters
        ----------
        branches : sequence of str
            What the pages call branches.
        """
        if self.place.exists():
            shutil.rmtree(self.place)
        self.place.mkdir(parents=True)
        self._link_benchmarks()
        (self.place / "asv_keep.py").symlink_to(FOLDER / "asv_keep.py")
        plan = {"logs": str(self.logs), "plugins": [self._copy(plugin) for plugin in self.plugins]}
        (self.place / "plan.json").write_text(json.dumps(plan, indent=2))
        self.configuration.write_text(json.dumps(self._configure(plan, branches), indent=2))

    def _link_benchmarks(self) -> None:
        folder = self.place / "benchmarks"
        folder.mkdir()
        for file in sorted((FOLDER / "benchmarks").glob("*.py")):
            if file.name != "__init__.py":
                (folder / file.name).symlink_to(file)
        (folder / "_imports.py").symlink_to(FOLDER / "dashboard_imports.py")
        # Benchmarks of plugins import their base classes by this name, under versions that have another definition or none.
        (folder / "__init__.py").write_text(
            '"""Links to benchmarks, written by asv_benchmarks/dashboard_suite.py."""\n\n'
            "import sys\n\n"
            "from . import bases\n\n"
            'sys.modules["ruvattn.testing.benchmarks"] = bases.module\n'
        )

    def _copy(self, plugin: Plugin) -> dict[str, str]:
        """Copy a plugin's sources, link its benchmarks, and return what dashboard_build.py wants to know of it."""
        source = self.folder / "plugins" / plugin.name
        if source.exists():
            shutil.rmtree(source)
        skipped = shutil.ignore_patterns(*NOT_SOURCES)

        def ignore(folder: str, names: list[str]) -> set[str]:
            environments = {name for name in names if (Path(folder) / name / "pyvenv.cfg").exists()}
            return skipped(folder, names) | environments | ({"build", "dist"} if Path(folder) == plugin.path else set())

        shutil.copytree(plugin.path, source, ignore=ignore, ignore_dangling_symlinks=True)  # such as editors leave
        folder = self.place / "benchmarks" / plugin.module
        folder.mkdir()
        (folder / "__init__.py").write_text(
            f'"""Links to the benchmarks of {plugin.name}, written by asv_benchmarks/dashboard_suite.py."""\n\n'
            "from .. import _imports\n\n"
            f"__path__ = _imports.importable(__name__, __path__, {str(self.logs / 'benchmarks')!r}, {plugin.name!r})\n",
            encoding="utf-8",
        )
        for entry in sorted((source / "benchmarks").iterdir()):
            if entry.name != "__init__.py":
                (folder / entry.name).symlink_to(entry)
        digest = hashlib.sha256()
        for file in sorted(file for file in source.rglob("*") if file.is_file() and file.relative_to(source).parts[0] != "benchmarks"):
            digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes())
        return {"name": plugin.name, "digest": digest.hexdigest()[:16], "source": str(source)}

    def _configure(self, plan: dict[str, Any], branches: Sequence[str]) -> dict[str, Any]:
        configuration = read_configuration()
        # asv reads commands as a shell would, then fills in what is in braces.
        paths = (str(FOLDER / "dashboard_build.py"), str(self.place / "plan.json"))
        script, where = (shlex.quote(path.replace("{", "{{").replace("}", "}}")) for path in paths)
        # It installs anew what it has installed by another command: hence the digests in one.
        state = "+".join([self.isas or "all", *(plugin["digest"] for plugin in plan["plugins"])])
        return configuration | {
            "repo": str(FOLDER.parent),
            "branches": list(branches),
            "build_command": [f"python {script} build {{build_dir}} {{build_cache_dir}} {{commit}} {where}"],
            "install_command": [f"RUVATTN_DASHBOARD={state} in-dir={{env_dir}} python {script} install {{build_cache_dir}} {{commit}} {where}"],
            "uninstall_command": [f"return-code=any python {script} uninstall", "return-code=any python -m pip uninstall -y {project}"],
            "benchmark_dir": str(self.place / "benchmarks"),
            "env_dir": str(self.folder / (f"env-{self.isas.replace(',', '-')}" if self.isas else "env")),
            "results_dir": str(self.results),
            "html_dir": str(self.html),
            "plugins": [".asv_keep"],
        }

    # --- what asv knows of benchmarks -----------------------------------------------------------------------------------------------

    def known(self) -> dict[str, Any]:
        """Return the benchmarks of the runs so far, as asv describes them.

        Returns
        -------
        dict
            By name; empty before the first run.
        """
        return self._read(self.results / "benchmarks.json")

    def import_logs(self) -> dict[Path, int]:
        """Return the logs of this run's plugins whose benchmarks couldn't be imported.

        Returns
        -------
        dict
            Each to when it was written, in nanoseconds.
        """
        names = {plugin.name for plugin in self.plugins}
        logs = sorted((self.logs / "benchmarks").glob("*-*.txt"))
        return {log: log.stat().st_mtime_ns for log in logs if log.stem.partition("-")[2] in names}

    def left_out(self, before: dict[Path, int]) -> list[str]:
        """Say which plugins' benchmarks couldn't be imported in a run; call it before `keep_others`.

        Parameters
        ----------
        before : dict
            What `import_logs` returned before the run.

        Returns
        -------
        list of str
            A line for each plugin of whose benchmarks asv found none, or else for each commit where they are missing. What is missing only
            because the plugin itself doesn't go with a commit is not mentioned again.
        """
        found = {name.partition(".")[0] for name in self.known()}
        lines = {}
        for log, written in self.import_logs().items():
            commit, _, name = log.stem.partition("-")
            if before.get(log) == written:
                continue
            if _module(name) not in found:
                lines[name] = f"{name}'s benchmarks can't be imported, and are left out of this run: {log}"
            elif not (self.logs / log.name).exists():
                lines[log.stem] = f"{name}'s benchmarks can't be imported with {commit[:8]}, and have gaps there: {log}"
        return list(lines.values())

    def keep_others(self, before: dict[str, Any]) -> None:
        """Keep the benchmarks of plugins that were measured before and are not part of this run, or can't be imported: asv forgets them.

        Parameters
        ----------
        before : dict
            What `known` returned before the run.
        """
        now = self.known()
        found = {name.partition(".")[0] for name in now}  # nothing of a plugin whose benchmarks can't be imported
        own = {file.stem for file in (FOLDER / "benchmarks").glob("*.py")} | ({plugin.module for plugin in self.plugins} & found)
        others = {name: kept for name, kept in before.items() if isinstance(kept, dict) and name not in now and name.partition(".")[0] not in own}
        if now and others:
            self._write(self.results / "benchmarks.json", now | others)

    def remember_names(self) -> dict[str, str]:
        """Return which distribution the benchmarks of a plugin belong to, those of earlier runs included, and remember the plugins of this one.

        Returns
        -------
        dict
            What names of benchmarks begin with to the name of the distribution.
        """
        names = self._names() | {plugin.module: plugin.name for plugin in self.plugins}
        self._write(self.folder / "distributions.json", names)
        return names

    def check_forgotten(self, distributions: Sequence[str]) -> None:
        """Find out whether there is what is to be forgotten.

        Parameters
        ----------
        distributions : sequence of str
            Names of third-party plugins.

        Raises
        ------
        InvalidInputError
            If a name is of no plugin with benchmarks here, or of one that is to be measured.
        """
        names = self._names()
        for name in distributions:
            if _module(name) in {plugin.module for plugin in self.plugins}:
                raise InvalidInputError(f"--forget {name} and --plugin with its project exclude each other")
            if _module(name) not in names:
                those = f"there are {', '.join(sorted(names.values()))}" if names else "there is none"
                raise InvalidInputError(f"--forget {name}: no third-party plugin of that name was measured; {those}")

    def forget(self, distributions: Sequence[str]) -> None:
        """Take third-party plugins off the pages: their benchmarks and logs, of full runs and of quick ones. Results stay.

        Parameters
        ----------
        distributions : sequence of str
            Names that `check_forgotten` has checked.
        """
        modules = {_module(name) for name in distributions}
        for results in (self.folder / "results", self.folder / "quick" / "results"):
            known = self._read(results / "benchmarks.json")
            if kept := {name: found for name, found in known.items() if name.partition(".")[0] not in modules}:
                self._write(results / "benchmarks.json", kept)
        for log in [*self.logs.glob("*-*.txt"), *self.logs.glob("benchmarks/*-*.txt")]:
            if _module(log.stem.partition("-")[2]) in modules:
                log.unlink()
        # Last: what is interrupted can be asked for again.
        self._write(self.folder / "distributions.json", {module: name for module, name in self._names().items() if module not in modules})

    def _names(self) -> dict[str, str]:
        return self._read(self.folder / "distributions.json")

    @staticmethod
    def _read(place: Path) -> dict[str, Any]:
        try:
            return json.loads(place.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InvalidInputError(f"{place} is no JSON ({error}): remove it, the next run writes it") from error

    @staticmethod
    def _write(place: Path, table: dict[str, Any]) -> None:
        with replacing(place) as file:
            file.write(json.dumps(table, indent=4, sort_keys=True).encode())


def check_interpreter(python: Path, plugins: Sequence[Plugin]) -> Path:
    """Check that an interpreter has all that it needs to run the suite.

    Parameters
    ----------
    python : Path
        The interpreter.
    plugins : sequence of Plugin
        What has to be installed beside ruvattn.

    Returns
    -------
    Path
        The interpreter, absolute.

    Raises
    ------
    InvalidInputError
        If it is none, or lacks something; says how to install it.
    """
    found = shutil.which(python) if len(python.parts) == 1 else python
    if found is None or not Path(found).is_file():
        raise InvalidInputError(f"--existing {python}: there is no such interpreter")
    python = Path(found).absolute()  # not resolved: a link in a virtual environment says which environment
    needed = {"ruvattn": "ruvattn", "asv-runner": "'asv_runner<0.3'", **{plugin.name: shlex.quote(str(plugin.path)) for plugin in plugins}}
    code = "import sys, importlib.metadata as m\nfor n in sys.argv[1:]:\n  try: m.version(n)\n  except m.PackageNotFoundError: print(n)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which asv takes away too
    try:
        run = subprocess.run([python, "-P", "-c", code, *needed], check=True, capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidInputError(f"--existing {python} is not a Python that runs: {error}") from error
    if missing := run.stdout.split():
        words = " ".join(needed[name] for name in missing)
        raise InvalidInputError(f"--existing {python} lacks {', '.join(missing)}: {python} -m pip install {words}")
    return python
