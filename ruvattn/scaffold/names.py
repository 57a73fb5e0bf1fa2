"""What a plugin may be called: a distribution, a module, and what it registers.

    my-score ──────► distribution my-score,      module my_score,      registers my-score,  class MyScoreScore
    ruvattn-alibi ─► distribution ruvattn-alibi, module ruvattn_alibi, registers alibi,     class AlibiScore
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from collections.abc import Iterable
from importlib import metadata

from ..errors import InvalidInputError

__all__ = ["check_plugin_name", "class_prefix", "module_name", "registered_name"]

# Names of distributions, as PEP 508 has them.
_DISTRIBUTION = re.compile(r"[a-z0-9]|[a-z0-9][a-z0-9._-]*[a-z0-9]", re.IGNORECASE | re.ASCII)

# Beside the module in the folder of each plugin: tests and asv would import the wrong one.
_BESIDE = ("benchmarks", "setup", "src", "tests")

# What a plugin's own files import: its classes would take their place. And what one of its tests is called.
_TAKEN_CLASSES = ("headwise", "pattern_benchmarks", "score_benchmarks", "variant_benchmarks")
_TAKEN_TESTS = ("conformance",)

# Distributions are often called so, to be found. Of what is registered it says nothing.
_PREFIX = re.compile(r"ruvattn[-._](?=.)")

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


def registered_name(name: str) -> str:
    """Return the name by which a plugin registers what it has.

    Parameters
    ----------
    name : str
        Of the plugin.

    Returns
    -------
    str
        The same, without a leading ``ruvattn-``.
    """
    found = _PREFIX.match(name)
    return name[found.end() :] if found else name


def class_prefix(name: str) -> str:
    """Return what the names of the classes of a plugin begin with.

    Parameters
    ----------
    name : str
        Of the plugin.

    Returns
    -------
    str
        The words of the name that it registers, each with a capital.
    """
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-._]", registered_name(name)))


def check_plugin_name(name: str, kinds: Iterable[str] = ()) -> str:
    """See that a new plugin can have a name.

    Parameters
    ----------
    name : str
        Of the distribution, and of what it registers: there, without a leading ``ruvattn-``.
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
    if not class_prefix(name).isidentifier():
        what = "have a letter after 'ruvattn-', for its classes have the name that it registers"
        raise InvalidInputError(found.format(what) + f"; put a word between, as in {_with_word(name)!r}")
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
    if module in _TAKEN_TESTS or module_name(registered_name(name)) in _TAKEN_CLASSES:
        raise InvalidInputError(f"NAME must not be what a test or a class that a plugin has or imports is called by, got {name!r}{way_out}")
    from ..refusals import PROVIDERS

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
    """Raise if something that is registered, or that a plugin of this project would register, has the name that it would register."""
    from .. import plugins, refusals, registry

    short = registered_name(name)
    which = repr(short) if short == name else f"{short!r}, which {name!r} would register,"
    for kind in kinds:
        taken = registry._listing(kind).get(short)
        owner = f"{taken.distribution} {taken.version}" if taken else None
        if (kind, short) in plugins._loaded().conflicts:
            owner = "several distributions, see `ruvattn plugins`"
        if owner is None and kind == "variant":
            owner = next((distribution for distribution, names in refusals.PROVIDERS.items() if short in names), None)
        if owner is not None:
            way_out = f"put a word of your own in front, as in {_with_word(name)!r}"
            raise InvalidInputError(f"NAME must be new, and {which} is a {kind} of {owner}; {way_out}")


def _with_word(name: str) -> str:
    """Return a name with a word before what is registered, as an example."""
    short = registered_name(name)
    return f"{name[: len(name) - len(short)]}my-{short}"
