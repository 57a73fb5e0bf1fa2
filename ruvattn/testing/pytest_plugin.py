"""What `ruvattn_pytest` does once an option or fixture of it is used: conformance suites as test items, fixtures, the table.

    --ruvattn-variant NAMES ─► configure: are they there? ─┬─► Suites: an item for each variant and check, beside those of test files
                                                           ├─► parametrize: ruvattn_variant is these, and no others
    reports, from wherever tests ran ─────────────────────►└─► Table: checks × subjects, at the end

pytest finds the module `ruvattn_pytest`, not this one; it hands over here.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import numpy as np
import pytest

from .. import plugins
from ..entries import Origin
from ..errors import PluginError
from ..registry import Registry, builtin_entries
from ..threads import get_num_threads, set_num_threads
from .cases import float_dtypes
from .runner import FAMILIES, Check, Example, Subject, checks_of, explain, suite
from .table import MARKS, Cell, Line, lines

__all__ = ["TriedPlugins", "configure", "dtype", "generator", "parametrize", "registry", "threads"]

PROPERTY = "ruvattn"
"""The property of a test's report that says what was checked."""


# --- which variants ---------------------------------------------------------------------------------------------------


def names_in(words: Iterable[str]) -> list[str]:
    """Split what is given on the command line at commas outside brackets: options of a variant have some, too."""
    found: list[str] = []
    for word in words:
        found.append("")
        depth = 0
        for character in word:
            depth += (character in "([{") - (character in ")]}")
            if character == "," and depth <= 0:
                found.append("")
            else:
                found[-1] += character
    return list(dict.fromkeys(filter(None, map(str.strip, found))))


def _registered(subject: Subject) -> str:
    return subject.name.partition("(")[0]


def _chosen(names: Sequence[str], where: str, kind: type[Exception] = pytest.Collector.CollectError) -> list[Subject]:
    """Return the variants of those names, or say that there are none."""
    subjects = suite("variants")
    known = list(dict.fromkeys(_registered(subject) for subject in subjects))
    for name in names:
        if name not in known and name not in (subject.name for subject in subjects):
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            failed = [f"{status.distribution} ({status.error})" for status in plugins.status() if status.error]
            why = f"; not usable: {', '.join(failed)}" if failed else ""
            raise kind(f"{where}: no variant is registered by the name {name!r}; {hint}installed: {', '.join(known)}{why}")
    return [subject for subject in subjects if not names or {_registered(subject), subject.name} & set(names)]


def _of_distributions(config: pytest.Config) -> list[Subject]:
    wanted = names_in(config.getini("ruvattn_distributions"))
    if not wanted:
        return suite("variants")
    from .. import registry

    known = sorted({info.distribution for info in registry.variants().values()})
    for name in wanted:
        if name not in known:
            words = f"{name!r} is no installed distribution with variants; there are {', '.join(known)}"
            raise pytest.Collector.CollectError(f"ruvattn_distributions: {words}")
    return suite("variants", distributions=wanted)


def configure(config: pytest.Config) -> None:
    """See that the variants that are named are there, and set up what collects and shows them.

    Parameters
    ----------
    config : pytest.Config
        With an option of ruvattn in it.

    Raises
    ------
    pytest.UsageError
        If a name is that of no variant.
    """
    given = config.getoption("ruvattn_variant")
    names = names_in(given)
    if given and not names:
        raise pytest.UsageError(f"--ruvattn-variant must name a variant, such as standard, got {','.join(given)!r}")
    chosen = _chosen(names, "--ruvattn-variant", pytest.UsageError) if names else []
    config.pluginmanager.register(Suites(chosen), "ruvattn-suites")
    if not hasattr(config, "workerinput"):  # workers of pytest-xdist send their reports
        config.pluginmanager.register(Table(), "ruvattn-table")


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes ``ruvattn_variant`` its variants.

    Parameters
    ----------
    metafunc : pytest.Metafunc
        The test.

    Raises
    ------
    pytest.Collector.CollectError
        If its marker or the configuration file names a variant, or a distribution, that is not there.
    """
    marks = metafunc.definition.iter_markers("parametrize")
    if any("ruvattn_variant" in _argument_names(mark.args[0] if mark.args else mark.kwargs.get("argnames", "")) for mark in marks):
        return
    config = metafunc.config
    marker = metafunc.definition.get_closest_marker("ruvattn_variant")
    if marker is not None:
        subjects = _chosen([str(name) for name in marker.args], f"@pytest.mark.ruvattn_variant of {metafunc.definition.name}")
    elif config.getini("ruvattn_variant"):
        subjects = _chosen(names_in(config.getini("ruvattn_variant")), "ruvattn_variant")
    else:
        subjects = _of_distributions(config)
    asked = names_in(config.getoption("ruvattn_variant"))
    if asked:
        wanted = {subject.name for subject in _chosen(asked, "--ruvattn-variant")}
        left = [subject for subject in subjects if subject.name in wanted]
        if not left:
            reason = f"it is for {', '.join(dict.fromkeys(map(_registered, subjects)))}, and --ruvattn-variant is {', '.join(asked)}"
            metafunc.parametrize("ruvattn_variant", [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))], indirect=True)
            return
        subjects = left
    metafunc.parametrize("ruvattn_variant", [_param(subject) for subject in subjects], indirect=True)


def _argument_names(argument: Any) -> list[str]:
    return argument.replace(",", " ").split() if isinstance(argument, str) else list(argument)


def _param(subject: Subject) -> Any:
    marks = [] if subject.problem is None else [pytest.mark.skip(reason=f"{subject.name} {subject.problem}")]
    return pytest.param(subject.target, id=subject.name, marks=marks)


# --- conformance suites as items --------------------------------------------------------------------------------------


class ConformanceItem(pytest.Item):
    """One check of one variant, as a test."""

    def __init__(self, *, subject: Subject, check: Check | None, **options: Any) -> None:
        super().__init__(**options)
        self.subject, self.check = subject, check
        if check is not None:
            self.user_properties.append((PROPERTY, [subject.family, subject.name, check.name]))

    def runtest(self) -> None:
        """Run the check."""
        if self.check is None:
            if self.subject.broken:
                pytest.fail(self.subject.problem or "it cannot be made", pytrace=False)
            pytest.skip(f"{self.subject.name} {self.subject.problem}")
        self.check(self.subject.target)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Say in words what is wrong; where it was raised, too, if it isn't the check that raised it or all is to be shown."""
        error = excinfo.value
        if not isinstance(error, Exception) or isinstance(error, pytest.fail.Exception) or self.check is None:
            return super().repr_failure(excinfo, style)
        examples = [note for note in getattr(error, "__notes__", ()) if isinstance(note, Example)]
        text = [f"{self.subject.name} does not keep a promise: {self.check.summary}", "", explain(error), "", *examples]
        if self.config.get_verbosity() > 0 or not isinstance(error, AssertionError):
            error.__notes__ = [note for note in getattr(error, "__notes__", ()) if not isinstance(note, Example)]
            text += ["where:", "", str(excinfo.getrepr(style="short"))]
        return "\n".join(text)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Say where it is from, and what it is called."""
        return self.path, None, f"{self.subject.name}: {self.name}"


class ConformanceSuite(pytest.Collector):
    """The checks of one variant."""

    def __init__(self, *, subject: Subject, **options: Any) -> None:
        super().__init__(**options)
        self.subject = subject

    def collect(self) -> Iterator[ConformanceItem]:
        """Yield its checks."""
        if self.subject.problem is not None:
            yield ConformanceItem.from_parent(self, name="can_be_made", subject=self.subject, check=None)
            return
        for check in checks_of(self.subject.family):
            yield ConformanceItem.from_parent(self, name=check.name, subject=self.subject, check=check)


class Suites:
    """Adds the conformance suites of variants to what is collected, and marks what others make of checks."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects = subjects

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Before anything is deselected."""
        for item in items:
            params = getattr(getattr(item, "callspec", None), "params", {})
            check = params.get("check")
            if isinstance(check, Check):
                subject = item.callspec.id.removesuffix(f"-{check.name}")  # type: ignore[attr-defined]
                item.user_properties.append((PROPERTY, [check.family, subject, check.name]))
        for subject in self.subjects:
            # As pytest collects its own: so they are counted, and plugins that look at collecting see them.
            collector = ConformanceSuite.from_parent(session, name=subject.name, nodeid=f"ruvattn::{subject.name}", subject=subject)
            report = session.ihook.pytest_make_collect_report(collector=collector)
            session.ihook.pytest_collectreport(report=report)
            items += report.result


# --- the table --------------------------------------------------------------------------------------------------------


class Table:
    """Shows at the end what became of all checks."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what the table shows."""
        for name, value in report.user_properties:
            if name == PROPERTY and (report.when == "call" or report.outcome != "passed"):
                what: Any = value  # family, subject and check
                status = "xfailed" if hasattr(report, "wasxfail") and report.outcome == "skipped" else report.outcome
                if status in MARKS:  # and not, for example, "rerun" of pytest-rerunfailures
                    self.cells.append(Cell._make([*what, status]))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table."""
        writer = terminalreporter._tw
        if not self.cells:
            return
        terminalreporter.section("checks × subjects" if _shows(writer) else "checks by subjects")
        # With several workers they come in any order.
        order = {(family, check.name): (at, place) for at, family in enumerate(FAMILIES) for place, check in enumerate(checks_of(family))}
        last = (len(FAMILIES), 0)  # checks of somebody's own
        cells = sorted(self.cells, key=lambda cell: (*order.get((cell.family, cell.check), last), cell.family, cell.check, cell.subject))
        for line in lines(cells, width=writer.fullwidth, ascii_only=not _shows(writer)):
            _write(writer, line)


def _shows(writer: Any) -> bool:
    """Tell whether a terminal has the characters of the table."""
    try:
        "✓✗·│─╮…×".encode(getattr(writer._file, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


COLOURS = {
    "passed": {"green": True},
    "failed": {"red": True, "bold": True},
    "xfailed": {"yellow": True},
    "skipped": {"light": True},
    "heading": {"bold": True},
}


def _write(writer: Any, line: Line) -> None:
    for text, kind in line:
        writer.write(text, **COLOURS.get(kind, {}))
    writer.line()


# --- fixtures ---------------------------------------------------------------------------------------------------------


def generator(node: Any) -> np.random.Generator:
    """Return a generator that is seeded by the name of a test.

    Parameters
    ----------
    node : pytest.Item
        The test; where its file is makes no difference.

    Returns
    -------
    numpy.random.Generator
        The same for the same test.
    """
    module = getattr(getattr(node, "module", None), "__name__", "").rpartition(".")[2]
    seed = hashlib.sha256(f"{module}::{node.name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(seed[:8], "little"))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let calls use a number of threads for a while.

    Parameters
    ----------
    count : int
        From 1 on.
    """
    before = get_num_threads()
    set_num_threads(count)
    try:
        yield
    finally:
        set_num_threads(before)


def dtype(name: str) -> np.dtype[Any]:
    """Return a dtype by its name, or skip the test where it is not installed.

    Parameters
    ----------
    name : str
        Such as ``"bfloat16"``.

    Returns
    -------
    numpy.dtype
        It.
    """
    for found in float_dtypes():
        if found.name == name:
            return found
    pytest.skip(f"{name} needs ml_dtypes: pip install 'ruvattn[bfloat16]'")


class TriedPlugins:
    """Plugins that are tried without being installed: as if nothing else were, besides what is built in.

    ``load(module)`` does what loading an installed plugin does, and raises what that would put into `ruvattn.plugins.status`.
    """

    def __init__(self) -> None:
        self._heard: list[tuple[Origin, int, Any]] = []
        self._show()

    def load(self, plugin: Any, name: str | None = None) -> dict[str, tuple[str, ...]]:
        """Register what a plugin registers.

        Parameters
        ----------
        plugin : module or callable
            A module with ``RUVATTN_API`` and ``ruvattn_register``; or a hook, a function that takes the registry.
        name : str, optional
            What messages call the distribution; the module's name by default.

        Returns
        -------
        dict of str to tuple of str
            Kind to the names that it provides.

        Raises
        ------
        PluginError
            If it breaks a rule of registration, or a name is taken by another plugin that was loaded here.
        Exception
            Whatever the hook raises.
        """
        if isinstance(plugin, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
            plugin = _module_of(plugin)
        title = str(name or getattr(plugin, "__name__", type(plugin).__name__))
        origin = Origin(title, "(not installed)", title)
        made = Registry(origin, builtin_entries())
        try:
            api = plugins._check_api(plugin, origin)
            plugins._call_hook(plugin, plugins._as_in(api, made))
        finally:
            entries = made._close()
        _, conflicts = plugins._merge([*(own for _, _, own in self._heard), entries])
        if conflicts:
            raise PluginError("; ".join(conflicts.values()))
        self._heard.append((origin, api, entries))
        self._show()
        found: dict[str, list[str]] = {}
        for kind, entered in sorted(entries):
            found.setdefault(kind, []).append(entered)
        return {kind: tuple(names) for kind, names in found.items()}

    def _show(self) -> None:
        """Make what was heard the state of the plugins."""
        entries, conflicts = plugins._merge([own for _, _, own in self._heard])
        statuses = tuple(plugins._succeeded(origin, api, own, entries, conflicts) for origin, api, own in self._heard)
        with plugins._lock:
            plugins._state = plugins._Loaded(entries, conflicts, statuses)


def _module_of(hook: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType(getattr(hook, "__name__", "hook"))
    module.RUVATTN_API = plugins.API_VERSION  # type: ignore[attr-defined]
    module.ruvattn_register = hook  # type: ignore[attr-defined]
    return module


@contextmanager
def registry() -> Iterator[TriedPlugins]:
    """Start with what is built in and no plugin, and go back to the plugins that are installed.

    Yields
    ------
    TriedPlugins
        What loads plugins in between.
    """
    before = plugins._state
    try:
        yield TriedPlugins()
    finally:
        with plugins._lock:
            plugins._state = before
