"""The dashboard: the asv suite over commits, published and served.

    python asv_benchmarks/dashboard.py                               the newest commit, beside what was measured before
    python asv_benchmarks/dashboard.py --commits main~3..main        the three commits of a range; also names, and --commits again
    python asv_benchmarks/dashboard.py --commits main~90..main --steps 12      twelve of them
    python asv_benchmarks/dashboard.py --plugin ../demo-x            a third-party plugin beside the built-in variants; --plugin again for more
    python asv_benchmarks/dashboard.py --existing .venv/bin/python   what is installed there, as the newest commit: nothing is built
    python asv_benchmarks/dashboard.py --quick --bench rbf           one sample each, of benchmarks that match, in a dashboard of their own
    python asv_benchmarks/dashboard.py --no-run                      only publish and serve
    python asv_benchmarks/dashboard.py --no-run --forget demo-x      take a third-party plugin off the pages; --forget again for more

    history.py             which commits                 dashboard_suite.py    the suite, with the plugins' own; asv's configuration
    dashboard_build.py     builds one, inside asv        dashboard_imports.py  leaves out plugins' benchmarks that can't be imported
    asv_keep.py            saves results as they come    dashboard_pages.py    publishes, serves
                                                         dashboard_assets.py   what the pages load, from beside them
                                                         dashboard_table.py    variants side by side

asv works on clones: neither the checkout nor its index is touched. `make dashboard` runs this with COMMITS="…" and DASHBOARD="…".
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import dashboard_assets
import dashboard_pages
import history
from dashboard_suite import FOLDER, Suite, check_interpreter, read_plugin
from history import Commit
from reporting import plural

from ruvattn.errors import AttentionError, InvalidInputError

__all__ = ["main"]

REPOSITORY = FOLDER.parent


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line.

    Returns
    -------
    argparse.ArgumentParser
        The parser.
    """
    made = argparse.ArgumentParser(prog="dashboard.py", description="Run the asv suite over commits, publish the results and serve them.")
    made.add_argument("--commits", action="append", default=[], metavar="RANGE", help="what to measure: A..B, a commit; repeatable  [the newest]")
    made.add_argument("--steps", type=int, metavar="N", help=f"at most so many commits, spread over the range; 0: all  [{history.STEPS}]")
    made.add_argument("--plugin", action="append", default=[], type=Path, metavar="PATH", help="a third-party plugin's project; may be given again")
    made.add_argument("--forget", action="append", default=[], metavar="NAME", help="a plugin to take off the pages; may be given again")
    made.add_argument("--existing", type=Path, metavar="PYTHON", help="measure what is installed there, as the newest commit")
    made.add_argument("--isas", metavar="NAMES", help="instruction sets to build, separated by commas, or all  [the one that this machine uses]")
    made.add_argument("--quick", action="store_true", help="one sample of each: to try it, not to compare")
    made.add_argument("--bench", action="append", default=[], metavar="REGEX", help="only these benchmarks; may be given again")
    made.add_argument("--resume", action="store_true", help="leave out what has results already")
    made.add_argument("--allow-dirty", action="store_true", help="don't mind changes that are in no commit")
    made.add_argument("--no-run", action="store_true", help="measure nothing: publish what there is")
    made.add_argument("--no-serve", action="store_true", help="don't serve the pages")
    made.add_argument("--port", type=int, metavar="N", help=f"where to serve, on 127.0.0.1  [{dashboard_pages.PORT}, or a free one]")
    made.add_argument("--html", type=Path, metavar="FOLDER", help="where the pages go  [asv_benchmarks/.asv/html, quick ones beside it]")
    return made


def say(text: str) -> None:
    """Print a line, in order with what asv prints."""
    print(text, flush=True)


def check(options: argparse.Namespace) -> None:
    """Find out what can be known before the first commit is built.

    Parameters
    ----------
    options : argparse.Namespace
        The command line; regular expressions and the port are tried.

    Raises
    ------
    InvalidInputError
        If it can't work.
    """
    if find_spec("fcntl") is None:
        raise InvalidInputError("the dashboard needs Linux or macOS: it locks and links files in ways that Windows lacks. There, it runs in WSL")
    for pattern in options.bench:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InvalidInputError(f"--bench {pattern} is not a regular expression: {error}") from error
    if options.steps is not None and options.steps < 0:
        raise InvalidInputError(f"--steps {options.steps}: at least 1, or 0 for all commits")
    if options.port is not None and not 0 <= options.port < 65536:
        raise InvalidInputError(f"--port {options.port}: from 1 to 65535, or 0 for a free one")
    if options.existing and (options.commits or options.isas):
        other = "--commits" if options.commits else "--isas"
        raise InvalidInputError(f"--existing and {other} exclude each other: an installation is measured as it is, and builds nothing")
    if options.no_run and (options.commits or options.existing):
        raise InvalidInputError(f"--no-run and {'--commits' if options.commits else '--existing'} exclude each other")
    missing = [name for name in ("asv", "virtualenv") if find_spec(name) is None]
    if missing:
        raise InvalidInputError(f"{sys.executable} lacks {' and '.join(missing)}: {sys.executable} -m pip install 'ruvattn[bench]'")
    if options.html is not None:
        dashboard_pages.check_folder(options.html)
    if not options.no_serve:
        dashboard_pages.check_port(options.port)


def check_changes(options: argparse.Namespace) -> None:
    """Say that changes which are in no commit are not measured; refuse where somebody would think that they are.

    Parameters
    ----------
    options : argparse.Namespace
        The command line.

    Raises
    ------
    InvalidInputError
        If there are such changes, and neither commits were named nor ``--allow-dirty`` given.
    """
    changed = history.changes(REPOSITORY)
    if not changed:
        return
    names = f"{', '.join(changed[:3])}{', …' if len(changed) > 3 else ''}"
    those = f"{plural(len(changed), 'file')} with changes that are in no commit ({names})"
    if options.allow_dirty or options.commits:
        say(f"note: {those}; results are of commits, without them")
    elif options.existing:
        raise InvalidInputError(f"{those}: what is installed would be entered as HEAD, which it may not be. Commit them, or say --allow-dirty")
    else:
        raise InvalidInputError(f"{those}: the newest commit is measured without them. Commit them, name it by --commits HEAD, or say --allow-dirty")


def choose_isas(wanted: str | None) -> str:
    """Return which instruction sets commits are built for.

    Parameters
    ----------
    wanted : str or None
        As on the command line.

    Returns
    -------
    str
        Their names, separated by commas; empty: all.

    Raises
    ------
    InvalidInputError
        If there is no such instruction set.
    """
    from ruvattn.build import ISAS, ISAS_VARIABLE
    from ruvattn.isa import active_isa

    wanted = wanted or os.environ.get(ISAS_VARIABLE) or active_isa()
    if wanted == "all":
        return ""
    names = wanted.split(",")
    if unknown := [name for name in names if name not in ISAS]:
        raise InvalidInputError(f"--isas {wanted}: {unknown[0]!r} is none of {', '.join(ISAS)}, all")
    return ",".join(names)


def asv_runner(suite: Suite, commit: Commit | None = None) -> Callable[..., int]:
    """Return what runs asv with a suite's configuration, and hands Ctrl-C on to it.

    Parameters
    ----------
    suite : Suite
        The suite, written.
    commit : Commit, optional
        What an interpreter that is there is entered as: asv tells benchmarks the commit only where it builds it.

    Returns
    -------
    callable
        Takes asv's arguments, returns its exit code.
    """
    environment = {**os.environ, "PIP_CONSTRAINT": suite.constraints.as_uri()}  # pip would take a path with a space for two
    if commit is not None:
        environment["ASV_COMMIT"] = commit.hash
    if suite.isas:
        environment["RUVATTN_BUILD_ISAS"] = suite.isas
    else:
        environment.pop("RUVATTN_BUILD_ISAS", None)

    def run(command: str, *arguments: str) -> int:
        process = subprocess.Popen([sys.executable, "-m", "asv", command, "--config", str(suite.configuration), *arguments], env=environment)
        try:
            return process.wait()
        except KeyboardInterrupt:
            # From a terminal asv had it too, and is about to end; from elsewhere it had not.
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                process.wait()
            raise

    return run


def measure(options: argparse.Namespace, suite: Suite, commits: Sequence[Commit], python: Path | None, asv: Callable[..., int]) -> None:
    """Run the suite over the commits, and say what became of them.

    Parameters
    ----------
    options : argparse.Namespace
        The command line.
    suite : Suite
        The suite, written.
    commits : sequence of Commit
        The commits, the newest first.
    python : Path or None
        The interpreter to measure as the newest of them instead of building them.
    asv : callable
        Runs asv.

    Raises
    ------
    InvalidInputError
        If nothing could be measured.
    """
    from asv.machine import MachineCollection

    if not Path(MachineCollection.get_machine_file_path()).exists():
        asv("machine", "--yes")
    before, logs = suite.known(), suite.import_logs()
    suite.remember_names()
    arguments = ["--no-pull", "--show-stderr"]
    if options.quick:
        arguments.append("--quick")
    if options.resume:
        arguments.append("--skip-existing-successful")
    for pattern in options.bench:
        arguments += ["--bench", pattern]
    if python is not None:
        arguments += ["--environment", f"existing:{python}", "--set-commit-hash", commits[0].hash]
    else:
        for commit in commits:  # those of plugins stay until dashboard_build.py tries again: asv may find the commit measured or installed
            (suite.logs / f"{commit.hash}.txt").unlink(missing_ok=True)
        listing = suite.place / "commits.txt"
        listing.write_text("".join(f"{commit.hash}\n" for commit in commits))
        arguments.append(f"HASHFILE:{listing}")
    try:
        code = asv("run", *arguments)
    finally:
        left_out = suite.left_out(logs)
        suite.keep_others(before)
    failed = {commit.hash: suite.logs / f"{commit.hash}.txt" for commit in commits if (suite.logs / f"{commit.hash}.txt").exists()}
    for commit in commits:
        if commit.hash in failed:
            say(f"{commit.short} doesn't build, and has a gap in every graph: {failed[commit.hash]}")
        for plugin in suite.plugins:
            log = suite.logs / f"{commit.hash}-{plugin.name}.txt"
            if python is None and log.exists():
                say(f"{plugin.name} doesn't go with {commit.short}, and has a gap there: {log}")
    for line in left_out:
        say(line)
    if code not in (0, 2):  # 2: something failed, which the pages show
        reason = "no commit of these builds" if failed and len(failed) == len(commits) else "what asv said stands above"
        raise InvalidInputError(f"nothing was measured: {reason}")


def run(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Parameters
    ----------
    options : argparse.Namespace
        The command line.

    Raises
    ------
    InvalidInputError
        If it can't.
    """
    check(options)
    plugins = [read_plugin(path) for path in options.plugin]
    python = check_interpreter(options.existing, plugins) if options.existing else None
    commits, total = history.select(REPOSITORY, options.commits, options.steps)
    isas = "" if python or options.no_run else choose_isas(options.isas)
    suite = Suite(plugins, quick=options.quick, isas=isas)
    suite.check_forgotten(options.forget)
    if not options.no_run:
        check_changes(options)
        say(_intention(commits, total, isas, python))
    with suite.alone():
        if options.forget:
            suite.forget(options.forget)
        dashboard_assets.bring(suite.folder / "assets")  # before hours of measuring: it may want the network
        suite.write(history.branches(REPOSITORY, commits))
        asv = asv_runner(suite, commits[0] if python else None)
        if not options.no_run:
            try:
                measure(options, suite, commits, python, asv)
            except KeyboardInterrupt:
                again = "--resume goes on, --no-run shows them" + (", each with --quick" if options.quick else "")
                say(f"\nstopped: what was measured is kept in {suite.results}; {again}")
                raise
        folder = dashboard_pages.publish(suite, options.html or suite.html, asv)
    say(f"{folder}/index.html has the graphs, variants.html the variants side by side")
    if not options.no_serve:
        dashboard_pages.serve(folder, options.port, say)


def _intention(commits: Sequence[Commit], total: int, isas: str, python: Path | None) -> str:
    """Say what is about to be measured."""
    which = f"{commits[0].short} {commits[0].subject}"
    if total > 1:
        some = f"{len(commits)} of {total} commits (--steps 0 measures all)" if len(commits) < total else plural(total, "commit")
        which = f"{some}, {commits[-1].short} to {commits[0].short}"
    if python is not None:
        return f"{which}, as {python} has it"
    return f"{which}, built for {isas} alone (--isas all builds all)" if isas else f"{which}, built for every instruction set"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the dashboard.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; that of the process when not given.

    Returns
    -------
    int
        0: done. 2: the arguments, the checkout or the machine do not allow it, and a line on stderr says why. 130: Ctrl-C.
    """
    options = parser().parse_args(arguments)
    try:
        run(options)
    except AttentionError as error:
        print(f"dashboard.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
