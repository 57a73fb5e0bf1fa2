"""Names and arguments that go: what replaces them is there at once, and what they were works on for a while and says so.

    renamed_argument   f(old=3)       ─┐
    renamed_names      module.Old      ├─► RuvattnDeprecationWarning: since when, until when, what instead ─► the new one does the work
    renamed_method     thing.old()     │
                       def old(self)  ─┘   a subclass that overrides the old name is called by the new one

Two classes of warnings for two stages. What is superseded and has no end yet gives a `RuvattnPendingDeprecationWarning`, which is seen where tests
run: by those who can change something. What has an end gives a `RuvattnDeprecationWarning`, which everyone sees.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from .errors import InvalidInputError

__all__ = [
    "Renamed",
    "RuvattnDeprecationWarning",
    "RuvattnPendingDeprecationWarning",
    "renamed_argument",
    "renamed_method",
    "renamed_names",
    "warn_deprecated",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


class RuvattnDeprecationWarning(FutureWarning):
    """What was used still works, and there is a release in which it won't.

    A FutureWarning, since Python shows a DeprecationWarning in ``__main__`` and in tests only: whoever uses `ruvattn` through a module of theirs or
    through a plugin would hear of the change on the day that it breaks.
    """


class RuvattnPendingDeprecationWarning(PendingDeprecationWarning):
    """What was used is superseded and works as before; it is not decided when it goes.

    A PendingDeprecationWarning: authors see it in their tests, and their users, who can do nothing about it yet, don't.
    """


class Renamed(NamedTuple):
    """What became of a name of a module.

    Attributes
    ----------
    new : str
        Its new name in the same module, or ``"package.module:name"`` where it has moved.
    since, until : str
        The release that renamed it, and the one that drops the old name: ``"ruvattn 0.2"``.
    """

    new: str
    since: str
    until: str


def warn_deprecated(what: str, *, since: str, until: str, instead: str, stacklevel: int = 1) -> None:
    """Warn of the use of something that will go.

    Parameters
    ----------
    what : str
        What was used, as its user wrote it.
    since, until : str
        The release that deprecated it, and the one that drops it: ``"ruvattn 0.2"``.
    instead : str
        What to do: "use …".
    stacklevel : int, default 1
        Whose line the warning names: 1 is the caller of this function, 2 that one's caller.

    Warns
    -----
    RuvattnDeprecationWarning
        Always.
    """
    warnings.warn(f"{what} is deprecated since {since} and will be gone in {until}: {instead}", RuvattnDeprecationWarning, stacklevel=stacklevel + 1)


def renamed_argument(old: str, new: str, *, since: str, until: str, convert: Callable[[Any], Any] | None = None) -> Callable[[_Function], _Function]:
    """Return a decorator of a function that still takes an argument by its old name.

    The signature has the new name only, so that listings and error messages do too.

    Parameters
    ----------
    old, new : str
        The names; the old one is taken as a keyword.
    since, until : str
        The release that renamed it, and the one that drops the old name.
    convert : callable, optional
        Makes the value of the new argument out of that of the old one; the same when not given.

    Returns
    -------
    callable
        The decorator; of a class, decorate its ``__init__``.

    Raises
    ------
    TypeError
        By the decorator: if the function has no argument of the new name, or still one of the old name.

    Examples
    --------
    >>> import warnings
    >>> from ruvattn.deprecation import renamed_argument
    >>> @renamed_argument("width", "window_size", since="ruvattn 0.2", until="ruvattn 0.4")
    ... def make(window_size=1):
    ...     return window_size
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     make(width=5)
    5
    >>> print(caught[0].message)
    argument 'width' of make is deprecated since ruvattn 0.2 and will be gone in ruvattn 0.4: use 'window_size'
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        name = function.__qualname__.removesuffix(".__init__").rpartition("<locals>.")[2]
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
        if (new not in signature.parameters and not takes_any) or old in signature.parameters:
            raise TypeError(f"{name}{signature} must have an argument {new!r} and none called {old!r}, for the one to stand for the other")

        @functools.wraps(function)
        def takes_both(*args: Any, **options: Any) -> Any:
            if old in options:
                if new in options or new in signature.bind_partial(*args).arguments:
                    raise InvalidInputError(f"{name} was given both {new!r} and {old!r}, its name before {since}: leave out {old!r}")
                warn_deprecated(f"argument {old!r} of {name}", since=since, until=until, instead=f"use {new!r}", stacklevel=2)
                value = options.pop(old)
                options[new] = value if convert is None else convert(value)
            return function(*args, **options)

        return takes_both  # type: ignore[return-value]  # the same but for the keyword

    return decorate


def renamed_names(module: str, names: Mapping[str, Renamed]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module some of whose names have changed.

    Parameters
    ----------
    module : str
        Its ``__name__``.
    names : mapping of str to Renamed
        Old names to what became of them.

    Returns
    -------
    callable
        ``__getattr__(name)``, which raises AttributeError for all other names; a module that has one already calls this at its end.

    Examples
    --------
    In a module where ``Gaussian`` became ``Rbf``::

        __getattr__ = renamed_names(__name__, {"Gaussian": Renamed("Rbf", since="ruvattn 0.2", until="ruvattn 0.4")})
    """

    def module_getattr(name: str) -> Any:
        renamed = names.get(name)
        if renamed is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, attribute = renamed.new.rpartition(":")
        value = getattr(import_module(home or module), attribute)
        warn_deprecated(f"{module}.{name}", since=renamed.since, until=renamed.until, instead=f"use {home or module}.{attribute}", stacklevel=2)
        return value

    return module_getattr


def renamed_method(old: str, new: str, *, since: str, until: str) -> Callable[[_Class], _Class]:
    """Return a decorator of a class one of whose methods has a new name: for those who call it, and for subclasses that override it.

    Parameters
    ----------
    old, new : str
        The names; the class has the new one.
    since, until : str
        The release that renamed it, and the one that drops the old name.

    Returns
    -------
    callable
        The decorator. A subclass that defines the old name is warned of where it is defined, and called by the new name.

    Raises
    ------
    TypeError
        By the decorator: if the class has no method of the new name, or still one of the old name.
    """

    def decorate(cls: _Class) -> _Class:
        if not inspect.isfunction(getattr(cls, new, None)) or old in vars(cls):
            raise TypeError(f"{cls.__name__} must have a method {new!r} and none called {old!r}, for the one to stand for the other")

        def under_old_name(self: Any, *args: Any, **options: Any) -> Any:
            warn_deprecated(f"{cls.__name__}.{old}", since=since, until=until, instead=f"call {new!r}", stacklevel=2)
            # What overrides the old name gets here by super(), and wants what is behind it; all others want the newest.
            classes = type(self).__mro__
            overrides = [place for place, base in enumerate(classes[: classes.index(klass)]) if old in vars(base)]
            for base in classes[overrides[-1] + 1 if overrides else 0 :]:
                if new in vars(base):
                    return vars(base)[new](self, *args, **options)
            raise AttributeError(f"{type(self).__name__!r} object has no method {new!r}")

        def init_subclass(subclass: Any, **options: Any) -> None:
            inherited(subclass, **options)
            override = vars(subclass).get(old)
            if override is None or new in vars(subclass):
                return
            warn_deprecated(f"{subclass.__name__}.{old}", since=since, until=until, instead=f"override {new!r}", stacklevel=2)

            @functools.wraps(override)
            def under_new_name(self: Any, *args: Any, **options: Any) -> Any:
                return override(self, *args, **options)

            setattr(subclass, new, under_new_name)

        klass: Any = cls
        own = vars(cls).get("__init_subclass__")

        def inherited(subclass: Any, **options: Any) -> None:
            if own is None:
                super(klass, subclass).__init_subclass__(**options)
            else:
                own.__func__(subclass, **options)

        setattr(klass, old, under_old_name)
        klass.__init_subclass__ = classmethod(init_subclass)
        return cls

    return decorate
