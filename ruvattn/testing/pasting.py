"""Python that makes what was checked, to be pasted: by its name where it has one, by its repr where that says it all.

    from `suite`                 get_score('laplace', width=0.5)
    a class, a function          from my_scores import Laplace
    a partial of one             functools.partial(create, 'standard', causal=True)
    an instance                  Laplace(width=0.5): its repr if that, evaluated where its class is, makes another like it
    anything else                `subject`, with a comment that says what it was
"""

from __future__ import annotations

import ast
import functools
import sys
import types
import weakref
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Source", "literal", "remember", "source_of"]

NUMPY_NAMES = ("array", "bool_", "False_", "True_", "float32", "float64", "int32", "int64", "inf", "nan")
"""What numbers and arrays of NumPy write of themselves."""

_made_by: dict[int, tuple[weakref.ref[Any], functools.partial[Any]]] = {}
"""What made an object, by the object's id, for as long as it is there: few of them can be keys of a mapping."""


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


def remember(subject: Any, maker: functools.partial[Any]) -> None:
    """Note what has made an object, so that it can be told.

    Parameters
    ----------
    subject : object
        What was made; nothing is noted if it can have no weak references.
    maker : functools.partial
        A function that can be imported, and its arguments.
    """
    key = id(subject)

    def forget(gone: object) -> None:
        if key in _made_by and _made_by[key][0] is gone:  # and not another object that has got the id since
            del _made_by[key]

    try:
        _made_by[key] = weakref.ref(subject, forget), maker
    except TypeError:
        return


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
    for how in (_of_registered, _of_partial, _of_name, _of_instance):
        found = how(subject)
        if found is not None:
            return found
    what = getattr(subject, "__qualname__", None)
    if what is None:
        return Source("subject", (f"# subject: the {type(subject).__qualname__} that was checked, which its repr does not make",))
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


def _of_registered(subject: Any) -> Source | None:
    """Return the call of the registry that has made an object."""
    reference, maker = _made_by.get(id(subject), (None, None))
    if reference is None or maker is None or reference() is not subject:
        return None
    arguments = _arguments(maker)
    if arguments is None:
        return None
    function = source_of(maker.func)
    return Source(f"{function.expression}({', '.join(arguments.expressions)})", (*function.lines, *arguments.lines))


def _of_partial(subject: Any) -> Source | None:
    if not isinstance(subject, functools.partial):
        return None
    arguments = _arguments(subject)
    if arguments is None:
        return None
    function = source_of(subject.func)
    parts = (function.expression, *arguments.expressions)
    return Source(f"functools.partial({', '.join(parts)})", ("import functools", *function.lines, *arguments.lines))


class _Arguments(NamedTuple):
    """What makes the arguments of a call."""

    expressions: tuple[str, ...]
    lines: tuple[str, ...]


def _arguments(call: functools.partial[Any]) -> _Arguments | None:
    parts: list[str] = []
    lines: list[str] = []
    for name, value in (*((None, arg) for arg in call.args), *call.keywords.items()):
        made = _of_value(value)
        if made is None:
            return None
        parts.append(made.expression if name is None else f"{name}={made.expression}")
        lines += made.lines
    return _Arguments(tuple(parts), tuple(lines))


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
    nodes = [node for node in ast.walk(tree) if not _is_numpy_name(node)]
    if not isinstance(tree.body, ast.Call | ast.BinOp | ast.UnaryOp) or not all(isinstance(node, allowed) for node in nodes):
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
        own = _has_own_repr(subject)
        same = _alike(made, subject, lenient=own) and (not own or repr(made) == text)
    except Exception:
        return None
    return Source(text, tuple(lines)) if same else None


def _is_numpy_name(node: ast.AST) -> bool:
    """Tell whether a part of an expression is such as np.float64, as numbers of NumPy write themselves."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np" and node.attr in NUMPY_NAMES


def _has_own_repr(subject: Any) -> bool:
    """Tell whether the author of a class has written how its instances are made, and not ruvattn for all of them."""
    for kind in type(subject).__mro__:
        if "__repr__" in vars(kind):
            return kind is not object and kind.__module__.partition(".")[0] != "ruvattn"
    return False


def _alike(made: Any, subject: Any, lenient: bool = False) -> bool:
    """Tell whether an object has the type and the attributes of another; to be lenient, as far as these can be compared, and both have them."""
    if type(made) is not type(subject):
        return False
    if isinstance(made, np.ndarray):
        return np.array_equal(made, subject, equal_nan=made.dtype.kind == "f")
    if isinstance(made, dict):
        return made.keys() == subject.keys() and all(_alike(made[key], subject[key], lenient) for key in made)
    if isinstance(made, list | tuple):
        return len(made) == len(subject) and all(_alike(one, other, lenient) for one, other in zip(made, subject, strict=True))
    state: Any = getattr(made, "__dict__", None)
    equal: Any = type(made).__eq__
    if equal is not object.__eq__:
        return made is subject or bool(made == subject)
    if state is None or callable(made):
        return made is subject or lenient  # a function, a lock: nobody can tell
    common = {key: (value, subject.__dict__[key]) for key, value in state.items() if key in subject.__dict__}
    return (lenient or len(common) == len(state) == len(subject.__dict__)) and all(_alike(*pair, lenient) for pair in common.values())


def _resolved(name: str, subject: Any) -> tuple[Any, tuple[str, ...]] | None:
    """Return what a name in a repr stands for, and how to import it."""
    import ruvattn

    if name == "np":
        return np, ("import numpy as np",)
    home = sys.modules.get(type(subject).__module__)
    if name in NUMPY_NAMES and not hasattr(home, name):
        return getattr(np, name), (f"from numpy import {name}",)
    for module in (home, ruvattn):
        thing = getattr(module, name, None)
        source = None if thing is None or not isinstance(thing, type | types.FunctionType) else _import_of(thing)
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
