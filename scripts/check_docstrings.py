"""Check that everything public has a numpydoc docstring: what it takes, returns and raises, parameter by parameter.

    python scripts/check_docstrings.py

Public is what ``ruvattn``, its public modules and the plugins in ``plugins/`` name in ``__all__``, and of the classes among it the methods
and properties without a leading underscore. Prints a line for each failing; exit code 1 if there are any.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from numpydoc.docscrape import ClassDoc
from numpydoc.validate import validate

# https://numpydoc.readthedocs.io/en/latest/validation.html
CHECKS = {
    "GL03",  # two blank lines in a row
    "GL06", "GL07",  # sections: unknown, in the wrong order
    "GL08",  # no docstring
    "GL09",  # where the deprecation stands
    "SS01", "SS04",  # no summary, or an indented one
    "PR01", "PR02", "PR03",  # parameters: undocumented, unknown, in another order
    "PR04", "PR10",  # a parameter without a type, or without the space before its colon
    "RT01",  # returns something and doesn't say what
    "YD01",  # yields something and doesn't say what
}  # fmt: skip
# What users, plugin authors or tests of plugins import from. A module that is in neither list is an error: somebody has to decide.
PUBLIC = {
    "", "adjacency", "aggregates", "attention_config", "authoring", "backward", "base", "build", "builtin", "checkpoints", "config", "context",
    "demo", "deprecation", "edges", "edges_backward", "errors", "explicit_patterns", "files", "functional", "heads", "headwise", "headwise_steps",
    "hookspecs", "integrations", "interfaces", "isa", "learned", "manifold", "normalization", "patterns", "plugins", "projection", "reference",
    "registry", "scaffold", "scores", "selection", "sparse_mask", "testing", "threads", "trainable", "training",
}  # fmt: skip
INTERNAL = {
    "__main__", "backward_rows", "call", "cli", "dropout", "edges_backward_rows", "entries", "gradient_sums", "headwise_inputs", "kernels",
    "key_ranges", "listed", "pattern_algebra", "planning", "refusals", "residues", "running", "validation",
}  # fmt: skip

# A property says in its one line what it is; what implements or overrides is documented where it is declared.
NOT_OF_METHODS = {"PR01", "RT01", "YD01"}

# What the loader makes, and what it calls: the hook is documented in ruvattn.hookspecs.
NOT_CALLED_BY_USERS = ("ruvattn.registry.Registry", "ruvattn_register")


def modules(package: str) -> Iterator[Any]:
    """Import and yield the public modules of a package, itself first."""
    root = importlib.import_module(package)
    yield root
    for info in pkgutil.iter_modules(root.__path__):
        if package != "ruvattn":
            if not info.name.startswith("_"):
                yield importlib.import_module(f"{package}.{info.name}")
        elif info.name in PUBLIC:
            yield importlib.import_module(f"{package}.{info.name}")
        elif info.name not in INTERNAL:
            raise SystemExit(f"scripts/check_docstrings.py: enter ruvattn.{info.name} as PUBLIC or as INTERNAL")


def public_names(packages: list[str]) -> dict[int, tuple[str, Any]]:
    """Map the identity of each public function, class and module to its path and to itself."""
    found: dict[int, tuple[str, Any]] = {}
    for package in packages:
        for module in modules(package):
            found[id(module)] = (module.__name__, module)
            for name in getattr(module, "__all__", ()):
                thing = getattr(module, name)
                if inspect.isclass(thing) or inspect.isroutine(thing):
                    home = f"{thing.__module__}.{thing.__qualname__}"
                    found[id(thing)] = (home if _resolves(home, thing) else f"{module.__name__}.{name}", thing)
    return found


def _resolves(path: str, thing: Any) -> bool:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None) is thing


def members(path: str, cls: type) -> Iterator[str]:
    """Yield the public methods and properties that a class itself declares, other than those that override."""
    for name, member in vars(cls).items():
        if name.startswith("_") or not (callable(member) or isinstance(member, property | classmethod | staticmethod)):
            continue
        if inspect.isclass(member) or any(name in vars(base) for base in cls.__mro__[1:]):
            continue
        yield f"{path}.{name}"


def failings(path: str, thing: Any, wanted: set[str]) -> Iterator[str]:
    """Yield what numpydoc has against one docstring."""
    if is_dataclass(thing) and "__dataclass_fields__" in vars(thing):  # fields are documented as attributes, where they are declared
        wanted = wanted - {"PR01"}
        doc = ClassDoc(thing, config={"show_class_members": False})
        known = {entry.name for entry in doc["Attributes"] + doc["Parameters"]}
        names = {name.strip() for entry in known for name in entry.split(",")}
        for field in fields(thing):
            if field.name not in names and not field.name.startswith("_"):
                yield f"{path}: PR01 field {field.name!r} not documented"
    elif path.endswith(NOT_CALLED_BY_USERS) or (inspect.isclass(thing) and "__init__" not in vars(thing)):  # documented where it is declared
        wanted = wanted - {"PR01"}
    for code, message in validate(path)["errors"]:
        if code in wanted:
            yield f"{path}: {code} {message}"


def main() -> int:
    """Check everything; return the exit code."""
    root = Path(__file__).resolve().parent.parent
    plugins = sorted(path.parent.name.replace("-", "_") for path in root.glob("plugins/*/pyproject.toml"))
    checked, found = 0, []
    for path, thing in public_names(["ruvattn", *plugins]).values():
        if inspect.ismodule(thing):
            if not (thing.__doc__ or "").strip():
                found.append(f"{path}: no docstring")
            continue
        checked += 1
        found += failings(path, thing, CHECKS)
        if inspect.isclass(thing):
            for member in members(path, thing):
                checked += 1
                found += failings(member, None, CHECKS - NOT_OF_METHODS)
    print("\n".join([*sorted(set(found)), f"{checked} docstrings of public names, {len(set(found))} failings"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
