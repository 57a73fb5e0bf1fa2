"""What a plugin may be called: a distribution, a module, and what it registers, which all get the one name."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Iterable
from importlib import metadata

from ..errors import InvalidInputError

__all__ = ["check_plugin_name", "class_prefix", "module_name"]

# Names of distributions, as PEP 508 has them.
_DISTRIBUTION = re.compile(r"[a-z0-9]|[a-z0-9][a-z0-9._-]*[a-z0-9]", re.IGNORECASE | re.ASCII)

# Beside the module in the folder of each plugin: tests and asv would import the wrong one.
_BESIDE = ("benchmarks", "setup", "src", "tests")

# What a plugin's own files import, or are called: its test, and its classes, would take their place.
_TAKEN = ("conformance", "headwise", "pattern_benchmarks", "score_benchmarks", "variant_benchmarks")

_LONGEST = 100
"""Characters of a name: files are called by it, with a few words around it, and 255 are what a file system has room for."""


def module_name(name: str) -> str:
    """Return the name of the module of a plugin.

    Parameters
    ----------
    name : str
        Of the plugin.

    Returns
    -------
    str
        With underscores.
    """
    return re.sub(r"[-.]", "_", name)


def class_prefix(name: str) -> str:
    """Return what the names of the classes of a plugin begin with.

    Parameters
    ----------
    name : str
        Of the plugin.

    Returns
    -------
    str
        Its words, each with a capital.
    """
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-._]", name))


def check_plugin_name(name: str, kinds: Iterable[str] = ()) -> str:
    """See that a new plugin can have a name.

    Parameters
    ----------
    name : str
        Of the distribution, and of what it registers.
    kinds : iterable of {"variant", "score", "pattern"}
        What it is going to register by that name. Loads the installed plugins.

    Returns
    -------
    str
        The name.

    Raises
    ------
    InvalidInputError
        If it is no name of a distribution, or not in lower case, its module's name is none or is taken, or something is registered by it.

    Examples
    --------
    >>> from ruvattn.scaffold import check_plugin_name
    >>> check_plugin_name("my-score")
    'my-score'
    """
    found = f"NAME must {{}}, got {name!r}"
    if not _DISTRIBUTION.fullmatch(name):
        way_out = "; the option --directory says where to write it" if "/" in name else ""
        raise InvalidInputError(found.format("be the name of a distribution: letters and digits, with '-', '.' or '_' between them") + way_out)
    simple = re.sub(r"[-._]*([-._])", r"\1", name.lower())
    if name != name.lower():
        raise InvalidInputError(found.format("be in lower case, as all names are that are registered") + f"; use {simple!r}")
    if name != simple:
        raise InvalidInputError(found.format("have a single '-', '.' or '_' between its words") + f"; use {simple!r}")
    if len(name) > _LONGEST:
        raise InvalidInputError(f"NAME must have at most {_LONGEST} characters, got {len(name)}: files and modules are called by it")
    module = module_name(name)
    if not module.isidentifier():
        raise InvalidInputError(found.format("begin with a letter, for its module has its name") + f"; put a word in front, as in 'my-{name}'")
    _check_module(name, module)
    _check_registered(name, kinds)
    return name


def _check_module(name: str, module: str) -> None:
    """Raise if no module should have that name."""
    way_out = f"; another name will do, as in '{name}-attention'"
    if keyword.iskeyword(module) or keyword.iskeyword(class_prefix(name)):
        raise InvalidInputError(f"NAME must not be a word of Python's grammar, got {name!r}{way_out}")
    if module in sys.stdlib_module_names:
        raise InvalidInputError(f"NAME must not be that of a module of Python's standard library, got {name!r}{way_out}")
    if module in _BESIDE:
        raise InvalidInputError(f"NAME must not be that of a file or folder that every plugin has ({', '.join(_BESIDE)}), got {name!r}{way_out}")
    if module in _TAKEN:
        raise InvalidInputError(f"NAME must not be what a test or a class that a plugin has or imports is called by, got {name!r}{way_out}")
    from ..registry import PROVIDERS

    if module in map(module_name, PROVIDERS):
        raise InvalidInputError(f"NAME must be new, and {name!r} is a plugin of this project{way_out}")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
    else:
        raise InvalidInputError(f"NAME must be new, and {name!r} is installed, in version {version}{way_out}")
    spec = importlib.util.find_spec(module)
    # Without an origin it is a folder of that name, on the path by chance.
    if spec is not None and spec.origin is not None:
        raise InvalidInputError(f"NAME must be new, and there is a module {module!r} already, from {spec.origin}{way_out}")


def _check_registered(name: str, kinds: Iterable[str]) -> None:
    """Raise if something that is registered, or that a plugin of this project would register, has that name."""
    from .. import plugins, registry

    for kind in kinds:
        taken = registry._listing(kind).get(name)
        owner = f"{taken.distribution} {taken.version}" if taken else None
        if (kind, name) in plugins._loaded().conflicts:
            owner = "several distributions, see `ruvattn plugins`"
        if owner is None and kind == "variant":
            owner = next((distribution for distribution, names in registry.PROVIDERS.items() if name in names), None)
        if owner is not None:
            raise InvalidInputError(f"NAME must be new, and {name!r} is a {kind} of {owner}; put a word of your own in front, as in 'my-{name}'")
