"""Names to variants, and to the parts that variants are made of.

    attention(score="rbf")      get_score ──┐                  found
    create("multihead")         create ─────┼─► built-in names ──────────────────► factory(**options)
    variants(), scores(), …     listings ───┘        │ not found                        ▲
                                                     └─► plugins.load(), once ──────────┘

What is built in registers itself through the same hook as any plugin (``ruvattn.builtin.ruvattn_register``), but
needs neither a scan of the installed distributions nor pluggy. Listings and names that are not built in load the
plugins first. Six kinds of things have names, and each kind is a namespace of its own: variants, scores,
patterns, aggregates, manifolds, and the demonstrations that ``ruvattn demo`` shows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .entries import KINDS, REQUIRED, ComponentInfo, Entries, Entry, Origin, VariantInfo, signature_options
from .errors import InvalidInputError, PluginError, UnknownVariantError
from .refusals import check_options, name_what_was_asked_for, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .aggregates import Aggregate
    from .demo import Demonstration
    from .interfaces import Attention, Manifold
    from .patterns import Pattern
    from .scores import Score

__all__ = [
    "REQUIRED",
    "ComponentInfo",
    "Registry",
    "VariantInfo",
    "aggregates",
    "create",
    "demos",
    "get_aggregate",
    "get_manifold",
    "get_pattern",
    "get_score",
    "manifolds",
    "patterns",
    "scores",
    "show_demo",
    "variants",
]

# Names are typed on command lines, stored in configurations and used in file names.
_NAME = re.compile(r"[a-z0-9]+(?:[-._][a-z0-9]+)*")


class Registry:
    """What the hook ``ruvattn_register(registry)`` receives: the names of one plugin are entered here.

    Nothing that is entered has any effect before the hook returns: a plugin that raises leaves no trace. A name
    that the same plugin has already entered, or that is built in, is refused with a `PluginError`. A name that
    *another* plugin enters too is discovered once all have been heard, and is then usable by neither.

    Names are lower-case letters and digits, with single ``-``, ``.`` or ``_`` between them.
    """

    def __init__(self, origin: Origin, reserved: Mapping[tuple[str, str], Entry] | None = None) -> None:
        self._origin = origin
        self._reserved = reserved or {}
        self._entries: Entries = {}
        self._open = True

    def variant(
        self,
        name: str,
        factory: Callable[..., Attention],
        *,
        summary: str,
        capabilities: Iterable[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Register a variant of attention.

        Parameters
        ----------
        name : str
            The name that `ruvattn.create` takes.
        factory : callable
            ``factory(embed_dim=…, num_heads=…, **options)`` returns a new `ruvattn.Attention`. A class will do.
        summary : str
            One line for listings.
        capabilities : iterable of str, optional
            What it can do beyond attending, such as ``"trainable"`` or ``"graph"``.
        options : mapping of str to object, optional
            Options with their defaults; read off the factory's signature when not given.

        Raises
        ------
        PluginError
            If the name is malformed, built in or already entered, or another argument is of no use.
        """
        if not isinstance(summary, str) or not summary.strip():
            raise PluginError(f"summary of variant {name!r} must be a line of text, got {summary!r}")
        if isinstance(capabilities, str):
            raise PluginError(
                f"capabilities of variant {name!r} must be a sequence of str, got the str {capabilities!r}: "
                f"write ({capabilities!r},)"
            )
        words = tuple(capabilities) if isinstance(capabilities, Iterable) else None
        if words is None or not all(isinstance(word, str) for word in words):
            raise PluginError(f"capabilities of variant {name!r} must be a sequence of str, got {capabilities!r}")
        if options is not None and not isinstance(options, Mapping):
            raise PluginError(f"options of variant {name!r} must be a mapping of names to defaults, got {options!r}")
        self._add("variant", name, factory, summary, options, words)

    def score(self, name: str, factory: Callable[..., Score], *, summary: str = "") -> None:
        """Register a score: ``factory(**options)`` returns a `ruvattn.Score`, ``factory()`` one with defaults.

        Parameters
        ----------
        name : str
            The name that ``score=`` takes.
        factory : callable
            Usually the class itself.
        summary : str, optional
            One line for listings.

        Raises
        ------
        PluginError
            If the name is malformed, built in or already entered, or the factory cannot be called.
        """
        self._add("score", name, factory, summary)

    def pattern(self, name: str, factory: Callable[..., Pattern], *, summary: str = "") -> None:
        """Register a mask pattern: ``factory(**options)`` returns a `ruvattn.Pattern`.

        Parameters
        ----------
        name : str
            The name that `get_pattern` takes.
        factory : callable
            Usually the class itself; it may have options without a default.
        summary : str, optional
            One line for listings.

        Raises
        ------
        PluginError
            If the name is malformed, built in or already entered, or the factory cannot be called.
        """
        self._add("pattern", name, factory, summary)

    def aggregate(self, name: str, factory: Callable[..., Aggregate], *, summary: str = "") -> None:
        """Register an aggregate: ``factory(**options)`` returns a `ruvattn.Aggregate`.

        Parameters
        ----------
        name : str
            The name that ``aggregate=`` takes.
        factory : callable
            Usually the class itself.
        summary : str, optional
            One line for listings.

        Raises
        ------
        PluginError
            If the name is malformed, built in or already entered, or the factory cannot be called.
        """
        self._add("aggregate", name, factory, summary)

    def manifold(self, name: str, factory: Callable[..., Manifold], *, summary: str = "") -> None:
        """Register a manifold: ``factory(**options)`` returns a `ruvattn.Manifold`.

        Parameters
        ----------
        name : str
            The name that `get_manifold` takes.
        factory : callable
            Usually the class itself.
        summary : str, optional
            One line for listings.

        Raises
        ------
        PluginError
            If the name is malformed, built in or already entered, or the factory cannot be called.
        """
        self._add("manifold", name, factory, summary)

    def demo(self, name: str, show: Callable[[Path | None], Demonstration], *, summary: str = "") -> None:
        """Register a demonstration of the plugin's own, which ``ruvattn demo`` shows after the variants.

        Parameters
        ----------
        name : str
            The title it is shown under.
        show : callable
            ``show(folder)`` computes, writes its pictures into the folder, and returns a `ruvattn.demo.Demonstration`.
            Where `folder` is None no picture is wanted, and text is all that it returns. An ImportError of a library
            that is not installed is shown as it reads, so it should say what to install.
        summary : str, optional
            One line for listings, and under the title.

        Raises
        ------
        PluginError
            If the name is malformed or already entered, or `show` cannot be called.
        """
        self._add("demo", name, show, summary, options={})

    def _add(
        self,
        kind: str,
        name: str,
        factory: Callable[..., Any],
        summary: str,
        options: Mapping[str, Any] | None = None,
        capabilities: tuple[str, ...] | None = None,
    ) -> None:
        if not self._open:
            raise PluginError(
                f"{self._origin} registers the {kind} {name!r} after its ruvattn_register has returned: "
                "register everything inside the hook"
            )
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(
                f"name of a {kind} must be lower-case letters and digits with single '-', '.' or '_' between them, "
                f"got {name!r}"
            )
        if not callable(factory):
            raise PluginError(
                f"factory of {kind} {name!r} must be callable, got {type(factory).__name__}: pass the class or a "
                "function that returns an instance"
            )
        if not isinstance(summary, str):
            raise PluginError(f"summary of {kind} {name!r} must be a str, got {type(summary).__name__}")
        key = (kind, name)
        for entries in (self._reserved, self._entries):
            if key in entries:
                raise PluginError(
                    f"{kind} {name!r} is registered by both {entries[key].origin} and {self._origin}: rename the latter"
                )
        if options is None:
            options = signature_options(factory)
        skip = ("embed_dim", "num_heads") if kind == "variant" else ()
        options = {option: default for option, default in options.items() if option not in skip}
        common = (name, " ".join(summary.split()), self._origin.distribution, self._origin.version)
        info = ComponentInfo(*common, options) if capabilities is None else VariantInfo(*common, capabilities, options)
        self._entries[key] = Entry(kind, self._origin, factory, info)

    def _close(self) -> Entries:
        """Refuse further registrations; return those made."""
        self._open = False
        return self._entries


def create(name: str, **options: Any) -> Attention:
    """Create a variant of attention by name.

    Parameters
    ----------
    name : str
        A key of `variants`.
    **options
        ``embed_dim``, ``num_heads`` and the variant's own options: ``variants()[name].options`` lists these.

    Returns
    -------
    Attention
        A new instance.

    Raises
    ------
    UnknownVariantError
        If nothing usable is registered under the name; the message says what is installed, what failed to load
        and why, and what to install for the name.
    InvalidInputError
        If the variant has no such option, or lacks one that it needs.
    PluginError
        If several distributions register the name, or its factory returns something else than an ``Attention``.

    Examples
    --------
    >>> import ruvattn
    >>> attention = ruvattn.create("standard", embed_dim=64, num_heads=4)
    >>> attention.config.num_heads
    4
    """
    return _make("variant", name, options)


def get_score(name: str, **options: Any) -> Score:
    """Return a new instance of a registered score.

    Parameters
    ----------
    name : str
        A key of `scores`.
    **options
        Options of its factory.

    Returns
    -------
    Score
        A new instance.

    Raises
    ------
    UnknownVariantError
        If nothing usable is registered under the name.
    InvalidInputError
        If the score has no such option, or lacks one that it needs.
    PluginError
        If several distributions register the name, or its factory returns something else than a ``Score``.
    """
    return _make("score", name, options)


def get_pattern(name: str, **options: Any) -> Pattern:
    """Return a new instance of a registered mask pattern.

    Parameters
    ----------
    name : str
        A key of `patterns`.
    **options
        Options of its factory.

    Returns
    -------
    Pattern
        A new instance.

    Raises
    ------
    UnknownVariantError
        If nothing usable is registered under the name.
    InvalidInputError
        If the pattern has no such option, or lacks one that it needs.
    PluginError
        If several distributions register the name, or its factory returns something else than a ``Pattern``.
    """
    return _make("pattern", name, options)


def get_aggregate(name: str, **options: Any) -> Aggregate:
    """Return a new instance of a registered aggregate.

    Parameters
    ----------
    name : str
        A key of `aggregates`.
    **options
        Options of its factory.

    Returns
    -------
    Aggregate
        A new instance.

    Raises
    ------
    UnknownVariantError
        If nothing usable is registered under the name.
    InvalidInputError
        If the aggregate has no such option, or lacks one that it needs.
    PluginError
        If several distributions register the name, or its factory returns something else than an ``Aggregate``.
    """
    return _make("aggregate", name, options)


def get_manifold(name: str, **options: Any) -> Manifold:
    """Return a new instance of a registered manifold.

    Parameters
    ----------
    name : str
        A key of `manifolds`.
    **options
        Options of its factory.

    Returns
    -------
    Manifold
        A new instance.

    Raises
    ------
    UnknownVariantError
        If nothing usable is registered under the name.
    InvalidInputError
        If the manifold has no such option, or lacks one that it needs.
    PluginError
        If several distributions register the name, or its factory returns something else than a ``Manifold``.
    """
    return _make("manifold", name, options)


def show_demo(name: str, folder: Path | None = None) -> Demonstration:
    """Let a plugin demonstrate what it does.

    Parameters
    ----------
    name : str
        A key of `demos`.
    folder : Path, optional
        An existing folder for its pictures; without one it draws none.

    Returns
    -------
    ruvattn.demo.Demonstration
        Text, and the files it wrote.

    Raises
    ------
    UnknownVariantError
        If nothing usable is registered under the name.
    PluginError
        If several distributions register the name, or what it returns is no ``Demonstration``.
    Exception
        Whatever the plugin raises; an ImportError if it needs a library that is not installed.
    """
    from .demo import Demonstration

    entry = _find("demo", name)
    shown = entry.factory(folder)
    if not isinstance(shown, Demonstration):
        raise PluginError(
            f"demo {name!r} from {entry.origin} returned {type(shown).__name__}, not a ruvattn.demo.Demonstration"
        )
    return shown


def variants() -> dict[str, VariantInfo]:
    """List the usable variants, sorted by name; loads the plugins on first need.

    Returns
    -------
    dict of str to VariantInfo
        Built-in variants and those of plugins. What failed to load is in `ruvattn.plugins.status`.

    Examples
    --------
    >>> import ruvattn
    >>> ruvattn.variants()["standard"].distribution
    'ruvattn'
    """
    return _listing("variant")


def scores() -> dict[str, ComponentInfo]:
    """List the usable scores, sorted by name; loads the plugins on first need.

    Returns
    -------
    dict of str to ComponentInfo
        Built-in scores and those of plugins.
    """
    return _listing("score")


def patterns() -> dict[str, ComponentInfo]:
    """List the usable mask patterns, sorted by name; loads the plugins on first need.

    Returns
    -------
    dict of str to ComponentInfo
        Built-in patterns and those of plugins.
    """
    return _listing("pattern")


def aggregates() -> dict[str, ComponentInfo]:
    """List the usable aggregates, sorted by name; loads the plugins on first need.

    Returns
    -------
    dict of str to ComponentInfo
        Built-in aggregates and those of plugins.
    """
    return _listing("aggregate")


def manifolds() -> dict[str, ComponentInfo]:
    """List the usable manifolds, sorted by name; loads the plugins on first need.

    Returns
    -------
    dict of str to ComponentInfo
        Manifolds of plugins; none is built in.
    """
    return _listing("manifold")


def demos() -> dict[str, ComponentInfo]:
    """List the usable demonstrations, sorted by name; loads the plugins on first need.

    Returns
    -------
    dict of str to ComponentInfo
        Demonstrations of plugins; none is built in. They have no options.
    """
    return _listing("demo")


_builtin_entries: Entries | None = None
_builtin_lock = threading.Lock()


def builtin_entries() -> Entries:
    """Return what is built in, registering it on the first call."""
    global _builtin_entries
    if _builtin_entries is None:
        # Imported outside the lock: the import system has locks of its own, and running the hook is cheap.
        from . import __version__, builtin

        with _builtin_lock:
            if _builtin_entries is None:
                registry = Registry(Origin("ruvattn", __version__))
                builtin.ruvattn_register(registry)
                _builtin_entries = registry._close()
    return _builtin_entries


def _make(kind: str, name: str, options: dict[str, Any]) -> Any:
    entry = _find(kind, name)
    try:
        made = entry.factory(**options)
    except TypeError as error:
        # Asked only after the fact: binding the signature beforehand would cost every lookup microseconds.
        check_options(entry, options, error)
        raise
    except InvalidInputError as error:
        name_what_was_asked_for(entry, options, error)
        raise
    module, class_name = KINDS[kind]
    import importlib

    if not isinstance(made, getattr(importlib.import_module(module), class_name)):
        raise PluginError(
            f"factory of {kind} {name!r} from {entry.origin} returned {type(made).__name__}, not an instance of "
            f"{class_name}"
        )
    return made


def _find(kind: str, name: str) -> Entry:
    if not isinstance(name, str):
        raise InvalidInputError(f"name of a {kind} must be a str, got {type(name).__name__}")
    key = (kind, name)
    entry = builtin_entries().get(key)
    if entry is None:
        from . import plugins

        loaded = plugins._loaded()
        if key in loaded.conflicts:
            raise PluginError(loaded.conflicts[key])
        entry = loaded.entries.get(key)
        if entry is None:
            raise UnknownVariantError(unknown_name(kind, name, list(_listing(kind))))
    return entry


def _listing(kind: str) -> dict[str, Any]:
    from . import plugins

    entries = {**builtin_entries(), **plugins._loaded().entries}
    return {name: entries[k, name].info for k, name in sorted(entries) if k == kind}
