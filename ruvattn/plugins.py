"""Find the plugins that are installed, load each one in isolation, and remember what became of it.

    entry points of group "ruvattn" ─► RUVATTN_LOAD_PLUGINS ─► import ─► RUVATTN_API ─► ruvattn_register(Registry)
                                         │ left out              │         │             │
                                         ▼                       ▼         ▼             ▼ any failure
                                       status: skipped         status: error and traceback, nothing registered

The rules:

* Nothing is looked for before a listing, or a name that is not built in, is asked for. Then all plugins are
  loaded, once, whichever thread asks.
* Whatever a plugin raises concerns that plugin alone. Its half-done registrations are dropped.
* The order of loading decides nothing. A name that two plugins register belongs to neither: using it is an error
  that names both. A plugin that takes a built-in name is rejected whole, for the built-in one has to stay usable
  and a plugin that lacks a part of itself may not.
* A plugin says which version of this interface it is written for, ``RUVATTN_API``. Those from `OLDEST_API` to `API_VERSION` are taken: an older one
  is handed what it was written for, by `ADAPTERS`, and noted. What is refused says which of the two to upgrade.
* ``RUVATTN_LOAD_PLUGINS``, a comma-separated list of distributions or entry points, restricts what is loaded. Set
  to nothing it means no plugin; unset it means all. What it leaves out is not imported.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .entries import KINDS, Entries, Entry, Origin
from .errors import PluginError
from .registry import Registry, builtin_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import Distribution, EntryPoint

__all__ = ["ADAPTERS", "API_VERSION", "DROPPED_IN", "GROUP", "LOAD_VARIABLE", "OLDEST_API", "PluginStatus", "load", "reset", "status"]

API_VERSION = 1
"""Version of the plugin interface: the hook, `ruvattn.registry.Registry`, the base classes and the signatures of compiled functions."""

OLDEST_API = 1
"""The oldest version of the plugin interface that is still taken."""

DROPPED_IN: dict[int, str] = {}
"""A version of the plugin interface to the release of ruvattn that takes it no more, ``"0.4"``: has an entry from the day that this is decided on."""

ADAPTERS: dict[int, Callable[[Any], Any]] = {}
"""What plugins of version n are handed: a function of what those of version n + 1 are handed. Without one, the same."""

GROUP = "ruvattn"
"""The entry-point group that plugins use."""

LOAD_VARIABLE = "RUVATTN_LOAD_PLUGINS"
"""The environment variable that restricts which plugins are loaded."""


@dataclass(frozen=True)
class PluginStatus:
    """What became of one plugin.

    Attributes
    ----------
    name : str
        Its entry point.
    distribution, version : str
        The installed distribution that it belongs to.
    loaded : bool
        Whether its registrations count. False without an `error`: left out by ``RUVATTN_LOAD_PLUGINS``.
    error : str or None
        What went wrong, on one line. A plugin that is loaded has one if it shares a name with another.
    traceback : str or None
        Where it went wrong, if an exception ended the loading.
    provides : dict of str to tuple of str
        Kind (``"variant"``, ``"score"``, ``"pattern"``, ``"aggregate"``, ``"manifold"``, ``"demo"``) to the usable names.
    api : int or None
        The version of the plugin interface that it is written for; None where it was not asked or did not say.
    note : str or None
        What is worth knowing of a plugin that works: that its version of the interface is superseded, and until when it is taken.
    """

    name: str
    distribution: str
    version: str
    loaded: bool
    error: str | None = None
    traceback: str | None = None
    provides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    api: int | None = None
    note: str | None = None

    @property
    def skipped(self) -> bool:
        """Whether ``RUVATTN_LOAD_PLUGINS`` left it out."""
        return not self.loaded and self.error is None


@dataclass(frozen=True)
class _Loaded:
    entries: Entries
    conflicts: dict[tuple[str, str], str]
    statuses: tuple[PluginStatus, ...]


# Readers take the finished state without the lock: it is assigned once and never changed afterwards.
_state: _Loaded | None = None
_loading = False
_lock = threading.RLock()


def load() -> None:
    """Find and load the installed plugins, unless that has been done.

    Safe to call from several threads: one does the work, the others wait for it. A plugin that fails gives a
    RuntimeWarning and an entry in `status`; one for an older version of the interface, a warning of `ruvattn.deprecation`.

    Raises
    ------
    PluginError
        If called by a plugin that is being loaded.
    """
    _loaded()


def status() -> list[PluginStatus]:
    """Return what became of every installed plugin, sorted by distribution and name; loads them on first need.

    Returns
    -------
    list of PluginStatus
        One for each entry point of the group ``ruvattn``, and one for each word in ``RUVATTN_LOAD_PLUGINS`` that
        fits none.

    Examples
    --------
    >>> from ruvattn import plugins
    >>> [plugin.name for plugin in plugins.status() if plugin.error]
    []
    """
    return list(_loaded(warn=False).statuses)


def reset() -> None:
    """Forget the plugins, so that the next need finds and loads them anew; meant for tests.

    Modules that have been imported stay imported, and what was created stays usable.
    """
    global _state
    with _lock:
        _state = None


def _loaded(warn: bool = True) -> _Loaded:
    global _state, _loading
    state = _state
    if state is not None:
        return state
    with _lock:
        if _state is not None:
            return _state
        if _loading:
            # Only the loading thread gets here. Answering with the plugins heard so far would let their order
            # decide.
            raise PluginError(
                "a plugin asked for the names of plugins while these are being loaded: look names up when they are "
                "used, not while the plugin is imported or registers"
            )
        _loading = True
        try:
            state = _state = _load_all()
        finally:
            _loading = False
    if warn:  # after the state is kept, for a warning may be turned into an exception
        _warn(state)
    return state


def _load_all() -> _Loaded:
    reserved = builtin_entries()
    found, statuses = _find_plugins()
    heard: list[tuple[Origin, int, Entries]] = []
    for origin, entry_point in found:
        registry = Registry(origin, reserved)
        api = None
        try:
            plugin = entry_point.load()
            api = _check_api(plugin, origin)
            _call_hook(plugin, _as_in(api, registry))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: no plugin may end the process
            statuses.append(_failed(origin, error, api))
        else:
            heard.append((origin, api, registry._entries))
        finally:
            registry._close()
    entries, conflicts = _merge([entries for *_, entries in heard])
    statuses += [_succeeded(origin, api, own, entries, conflicts) for origin, api, own in heard]
    return _Loaded(entries, conflicts, tuple(sorted(statuses, key=lambda s: (s.distribution, s.name))))


def _find_plugins() -> tuple[list[tuple[Origin, EntryPoint]], list[PluginStatus]]:
    """Return the plugins to load, and the status of those that are not to be or cannot be."""
    from importlib import metadata

    found: list[tuple[Origin, EntryPoint]] = []
    statuses: list[PluginStatus] = []
    wanted = _wanted()
    matched: set[str] = set()
    seen: set[str] = set()
    # importlib.metadata.entry_points() would fail for all over one malformed file.
    for distribution in metadata.distributions():
        origin = Origin("(unnamed distribution)", "(unknown version)", "?")
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or f"[{GROUP}]" not in text:
                continue
            name = _field(distribution, "Name")
            if name:
                if _canonical(name) in seen:
                    continue
                seen.add(_canonical(name))
                # The first one on the path is the one that is installed; a later one is shadowed.
                distribution = metadata.distribution(name)
                origin = Origin(name, _field(distribution, "Version") or "(unknown version)", "?")
            entry_points = dict.fromkeys(distribution.entry_points.select(group=GROUP))
        except Exception as error:
            statuses.append(_failed(origin, error))
            continue
        for entry_point in entry_points:
            origin = replace(origin, entry_point=entry_point.name)
            names = {_canonical(origin.distribution), _canonical(entry_point.name)}
            if wanted is None or names & wanted.keys():
                found.append((origin, entry_point))
                matched |= names
            else:
                statuses.append(PluginStatus(entry_point.name, origin.distribution, origin.version, loaded=False))
    for key, word in (wanted or {}).items():
        if key not in matched:
            problem = f"{LOAD_VARIABLE} names {word!r}, which is neither a distribution nor an entry point of a plugin"
            statuses.append(PluginStatus(word, "(not installed)", "", loaded=False, error=problem))
    return found, statuses


def _field(distribution: Distribution, name: str) -> str | None:
    """Return a field of a distribution's metadata; None where there is none."""
    try:
        return distribution.metadata[name]
    except Exception:  # what the standard library says None for, the package importlib_metadata raises; where it is imported, its finder answers
        return None


def _wanted() -> dict[str, str] | None:
    """Return the words of RUVATTN_LOAD_PLUGINS by their canonical form; None if it is unset."""
    value = os.environ.get(LOAD_VARIABLE)
    if value is None:
        return None
    return {_canonical(word): word.strip() for word in value.split(",") if word.strip()}


def _canonical(name: str) -> str:
    """Return the name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _check_api(plugin: Any, origin: Origin) -> int:
    """Return the version of the interface that a plugin is written for, having seen that it is taken."""
    version = getattr(plugin, "RUVATTN_API", None)
    if version is None:
        raise PluginError(
            f"{origin} does not say which plugin interface it is written for: set RUVATTN_API = {API_VERSION} in "
            f"{_name_of(plugin)}"
        )
    if not isinstance(version, int) or isinstance(version, bool):
        raise PluginError(f"{origin}: RUVATTN_API must be an int, got {version!r}")
    if OLDEST_API <= version <= API_VERSION:
        return version
    here = f"has version {API_VERSION}" if OLDEST_API == API_VERSION else f"takes versions {OLDEST_API} to {API_VERSION}"
    way_out = f"upgrade {'ruvattn' if version > API_VERSION else origin.distribution}"
    if version in DROPPED_IN:
        way_out += f", or use it with a ruvattn before {DROPPED_IN[version]}"
    raise PluginError(f"{origin} is written for version {version} of the plugin interface, and this ruvattn {here}: {way_out}")


def _as_in(version: int, registry: Any) -> Any:
    """Return the registry as a plugin for a version of the interface knows it."""
    for older in range(API_VERSION - 1, version - 1, -1):
        if older in ADAPTERS:
            registry = ADAPTERS[older](registry)
    return registry


def _note_on(version: int, distribution: str) -> str | None:
    """Return what there is to say of a plugin for an older version of the interface."""
    if version == API_VERSION:
        return None
    text = f"{distribution} is written for version {version} of the plugin interface, and this ruvattn has version {API_VERSION}"
    if version in DROPPED_IN:
        return f"{text}: it works until ruvattn {DROPPED_IN[version]}, so look for a newer {distribution}"
    return f"{text}: it works as before"


def _call_hook(plugin: Any, registry: Any) -> None:
    from . import hookspecs

    # A manager for each plugin: one manager for all would stop at the first hook that raises, and would let a
    # wrapper in one plugin see the others.
    manager = hookspecs.make_manager()
    manager.register(plugin)
    manager.check_pending()
    if not manager.hook.ruvattn_register.get_hookimpls():
        raise PluginError(f"{_name_of(plugin)} has no function ruvattn_register(registry)")
    results = manager.hook.ruvattn_register(registry=registry)
    if results:  # pluggy leaves out None. A generator or coroutine has not even begun to run.
        raise PluginError(
            f"ruvattn_register of {_name_of(plugin)} must return None, got {type(results[0]).__name__}: make it a "
            "plain function that calls the registry's methods"
        )


def _name_of(plugin: Any) -> str:
    return getattr(plugin, "__name__", None) or type(plugin).__name__


def _merge(plugins: list[Entries]) -> tuple[Entries, dict[tuple[str, str], str]]:
    """Return the names with one claimant, and a message for each name with more."""
    claims: dict[tuple[str, str], list[Entry]] = {}
    for entries in plugins:
        for key, entry in entries.items():
            claims.setdefault(key, []).append(entry)
    unique = {key: entries[0] for key, entries in claims.items() if len(entries) == 1}
    conflicts = {key: _conflict(key, entries) for key, entries in claims.items() if len(entries) > 1}
    return unique, conflicts


def _conflict(key: tuple[str, str], entries: list[Entry]) -> str:
    kind, name = key
    origins = sorted((entry.origin for entry in entries), key=lambda o: (o.distribution, o.entry_point or ""))
    claimants = " and ".join(map(str, origins))
    return (
        f"{kind} {name!r} is registered by {claimants}, so neither is used: uninstall all but one, or list the "
        f"plugins to load in {LOAD_VARIABLE}"
    )


def _succeeded(origin: Origin, api: int, own: Entries, entries: Entries, conflicts: dict[tuple[str, str], str]) -> PluginStatus:
    provides = {kind: tuple(sorted(name for k, name in own if k == kind and (k, name) in entries)) for kind in KINDS}
    return PluginStatus(
        str(origin.entry_point),
        origin.distribution,
        origin.version,
        loaded=True,
        error="; ".join(conflicts[key] for key in sorted(own) if key in conflicts) or None,
        provides={kind: names for kind, names in provides.items() if names},
        api=api,
        note=_note_on(api, origin.distribution),
    )


def _failed(origin: Origin, error: BaseException, api: int | None = None) -> PluginStatus:
    import traceback

    trace = "".join(traceback.format_exception(error))
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception class may have a broken __str__
        text = "(its message cannot be shown)"
    if not isinstance(error, PluginError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return PluginStatus(str(origin.entry_point), origin.distribution, origin.version, False, text, trace, api=api)


def _warn(state: _Loaded) -> None:
    import warnings

    for category, message in _warnings(state):
        # The caller's line says nothing: it is whoever asked first.
        warnings.warn(message, category, stacklevel=2)


def _warnings(state: _Loaded) -> Iterator[tuple[type[Warning], str]]:
    for plugin in state.statuses:
        if plugin.error and not plugin.loaded:
            label = f"{plugin.distribution} {plugin.version}".strip()
            yield RuntimeWarning, f"ruvattn plugin {plugin.name!r} of {label} is not usable: {plugin.error} (see `ruvattn plugins`)"
        if plugin.note:
            from .deprecation import RuvattnDeprecationWarning, RuvattnPendingDeprecationWarning

            yield (RuvattnDeprecationWarning if plugin.api in DROPPED_IN else RuvattnPendingDeprecationWarning), plugin.note
    for message in state.conflicts.values():
        yield RuntimeWarning, message
