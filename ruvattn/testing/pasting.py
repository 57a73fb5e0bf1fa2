"""Python that makes what was checked, to be pasted: by its name where it has one, by its repr where that says it all.

    a class, a function          from my_scores import Laplace
    a partial of one             functools.partial(create, 'standard', causal=True)
    an instance                  Laplace(width=0.5), if that, evaluated, looks the same
    anything else                `subject`, with a comment that says what it was
"""

from __future__ import annotations

import ast
import functools
import sys
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Source", "literal", "source_of"]


class Source(NamedTuple):
    """An expression, and the lines that go before it.

    Attributes
    ----------
    expression : str
        What makes the object.
    lines : tuple of str
        Imports and comments.
    """

    expression: str
    lines: tuple[str, ...] = ()


def source_of(subject: Any) -> Source:
    """Return what makes an object.

    Parameters
    ----------
    subject : object
        A factory, or an instance of something.

    Returns
    -------
    Source
        If nothing can be told its expression is ``subject``, and a comment says what that stands for.
    """
    for how in (_of_partial, _of_name, _of_instance):
        found = how(subject)
        if found is not None:
            return found
    what = getattr(subject, "__qualname__", None) or f"{type(subject).__qualname__}"
    return Source("subject", (f"# subject: the {what} that was checked, which no import leads to",))


def _import_of(thing: Any) -> Source | None:
    """Return how to import a function or a class, if that leads to it; from ruvattn itself where it has it."""
    name, home = getattr(thing, "__qualname__", None), getattr(thing, "__module__", None)
    if not isinstance(name, str) or not isinstance(home, str) or not name.isidentifier():
        return None
    if home.startswith("ruvattn."):
        import ruvattn

        if name in ruvattn.__all__ and getattr(ruvattn, name) is thing:
            home = "ruvattn"
    if getattr(sys.modules.get(home), name, None) is not thing:
        return None
    if home in ("__main__", "builtins"):
        return Source(name)
    return Source(name, (f"from {home} import {name}",))


def _of_name(subject: Any) -> Source | None:
    return _import_of(subject) if callable(subject) else None


def _of_partial(subject: Any) -> Source | None:
    if not isinstance(subject, functools.partial):
        return None
    function = source_of(subject.func)
    parts = [function.expression]
    lines = [*function.lines]
    for name, value in (*((None, arg) for arg in subject.args), *subject.keywords.items()):
        made = _of_value(value)
        if made is None:
            return None
        parts.append(made.expression if name is None else f"{name}={made.expression}")
        lines += made.lines
    return Source(f"functools.partial({', '.join(parts)})", ("import functools", *lines))


def _of_value(value: Any) -> Source | None:
    """Return what makes an option: a literal, or an instance."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        return _of_name(value) or _of_instance(value)
    return Source(repr(value))


def _of_instance(subject: Any) -> Source | None:
    """Return the repr of an instance if it is Python that makes another like it."""
    try:
        text = repr(subject)
        tree = ast.parse(text, mode="eval")
    except Exception:  # a repr is the author's own, and may raise anything
        return None
    # What is called and combined, and nothing else: no attribute is looked up, no comprehension run.
    allowed = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.USub,
               ast.BinOp, ast.BitAnd, ast.BitOr, ast.Invert)  # fmt: skip
    if not isinstance(tree.body, ast.Call | ast.BinOp | ast.UnaryOp) or not all(isinstance(node, allowed) for node in ast.walk(tree)):
        return None
    names: dict[str, Any] = {}
    lines: list[str] = []
    for name in dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)):
        found = _resolved(name, subject)
        if found is None:
            return None
        names[name] = found[0]
        lines += found[1]
    try:
        made = eval(compile(tree, "<repr>", "eval"), {"__builtins__": {}}, names)
        same = _alike(made, subject)
    except Exception:
        return None
    return Source(text, tuple(lines)) if same else None


def _alike(made: Any, subject: Any) -> bool:
    """Tell whether an object has the type and the attributes of another, as far as these can be compared."""
    if type(made) is not type(subject):
        return False
    if isinstance(made, np.ndarray):
        return np.array_equal(made, subject, equal_nan=made.dtype.kind == "f")
    if isinstance(made, dict):
        return made.keys() == subject.keys() and all(_alike(made[key], subject[key]) for key in made)
    if isinstance(made, list | tuple):
        return len(made) == len(subject) and all(map(_alike, made, subject))
    state: Any = getattr(made, "__dict__", None)
    equal: Any = type(made).__eq__
    if state is None or callable(made) or equal is not object.__eq__:
        return made is subject or bool(made == subject)
    return _alike(dict(state), dict(subject.__dict__))


def _resolved(name: str, subject: Any) -> tuple[Any, tuple[str, ...]] | None:
    """Return what a name in a repr stands for, and how to import it."""
    import ruvattn

    if name in ("array", "float32", "float64", "inf", "nan"):
        return getattr(np, name), (f"from numpy import {name}",)
    home = sys.modules.get(type(subject).__module__)
    for module in (home, ruvattn):
        thing = getattr(module, name, None)
        source = None if thing is None or not isinstance(thing, type) else _import_of(thing)
        if source is not None:
            return thing, source.lines
    return None


def literal(array: np.ndarray) -> str:
    """Return an array as nested lists, with as few digits as tell its numbers.

    Parameters
    ----------
    array : ndarray
        In float64 or narrower.

    Returns
    -------
    str
        What ``numpy.array`` makes the same numbers of, once ``inf`` and ``nan`` are names.
    """
    if array.ndim:
        return f"[{', '.join(literal(row) for row in array)}]"
    value = float(array)
    if value == int(value) if np.isfinite(value) else False:
        return f"{value:.1f}" if abs(value) < 1e6 else repr(value)
    short = str(array[()]) if array.dtype == np.float32 else repr(value)
    return short if np.isfinite(value) else f"float('{value}')"
