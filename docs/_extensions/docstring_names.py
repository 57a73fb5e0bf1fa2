"""What single backticks in docstrings lead to.

    `Score.params`   in the docstring of ruvattn.Dot
        │
        ├─ found by Sphinx as it stands ──────────────────────────────► a link
        ├─ found where Python would find it, from that class or module ► a link to where it is documented
        ├─ a name of ours that nothing documents ─────────────────────► code
        └─ `keys`, `q`: a parameter ──────────────────────────────────► code

A dotted name that starts with a package of ours and that Python cannot find either is stale: it stays a warning, hence an error.
Pages are not treated with this patience: there a reference that leads nowhere is a mistake.

Also here: what a class has from its bases, and the indented drawings of docstrings, which stay as they were drawn.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

PACKAGES = ("ruvattn", "ruvattn_sparse", "ruvattn_geometric", "ruvattn_graph", "ruvattn_example")
REFERENCE = "reference/"
GENERATED = "reference/generated/"
WITH_DRAWINGS = {"", "Notes", "Examples"}
"""Sections of docstrings, the first without a name; in the others, such as Parameters, what is indented belongs to an entry."""

_MISSING = object()


def follow(start: Any, names: list[str]) -> tuple[Any, Any]:
    """Walk attributes from ``start``; return the last owner and what was found, `_MISSING` if it is not there."""
    owner, found = None, start
    for name in names:
        owner = found
        found = inspect.getattr_static(owner, name, _MISSING) if inspect.isclass(owner) else getattr(owner, name, _MISSING)
        if found is _MISSING and inspect.isclass(owner) and name in fields_of(owner):
            found = (owner, name)
        if found is _MISSING:
            return owner, _MISSING
    return owner, found


def fields_of(cls: type) -> set[str]:
    """Names that a class annotates without a value, such as fields of a dataclass."""
    return {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}


def imported(path: str) -> Any:
    """Return the module or the thing of a dotted path, `_MISSING` if there is none."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        try:
            module = sys.modules.get(name) or importlib.import_module(name)
        except ImportError:
            continue
        return follow(module, parts[cut:])[1]
    return _MISSING


class Names:
    """What is documented, by the identity of the thing itself."""

    def __init__(self, env: BuildEnvironment) -> None:
        self.objects = env.domains["py"].objects
        self.paths: dict[int, str] = {}
        self.things: list[Any] = []  # kept alive, so that no identity is used twice
        for path in sorted(self.objects, key=lambda path: (path.count("."), path)):
            thing = imported(path)
            if thing is not _MISSING and not isinstance(thing, str | int | float | bool | type(None)):
                self.things.append(thing)
                self.paths.setdefault(id(thing), path)

    def documented(self, owner: Any, thing: Any, name: str) -> str | None:
        """Return the path under which a thing is documented: its own, or that of the base class that has it."""
        if id(thing) in self.paths:
            return self.paths[id(thing)]
        for base in owner.__mro__ if inspect.isclass(owner) else ():
            path = f"{self.paths.get(id(base))}.{name}"
            if path in self.objects:
                return path
        return self.paths.get(id(owner)) if inspect.isclass(owner) else None


def search(target: str, node: pending_xref, names: Names) -> tuple[bool, str | None]:
    """Whether Python finds the target from where it is named, and the documented path, if it has one."""
    parts = target.removesuffix("()").lstrip("~.").split(".")
    module = imported(node.get("py:module") or "ruvattn")
    cls = follow(module, node["py:class"].split("."))[1] if node.get("py:class") else None
    starts = [cls, *(sys.modules.get(base.__module__) for base in cls.__mro__[:-1])] if inspect.isclass(cls) else []
    here = getattr(module, (node.get("docstring_of") or "").rpartition(".")[2], None)
    starts += [sys.modules.get(getattr(here, "__module__", "") or ""), module, sys.modules["ruvattn"]]
    for start in filter(None, starts):
        owner, thing = follow(start, parts)
        if thing is not _MISSING:
            return True, names.documented(owner, thing, parts[-1])
    if parts[0] in PACKAGES:
        thing = imported(".".join(parts))
        if thing is _MISSING:
            return False, None
        owner = imported(".".join(parts[:-1])) if len(parts) > 1 else None
        return True, names.documented(owner, thing, parts[-1])
    return False, None


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element) -> nodes.Node | None:
    """Resolve what Sphinx has not."""
    here = node.get("refdoc", "")
    if node.get("refdomain") != "py" or not (here.startswith(GENERATED) or (here.startswith(REFERENCE) and node["reftype"] == "obj")):
        return None
    names = getattr(env, "_docstring_names", None)
    if names is None:
        names = env._docstring_names = Names(env)
    target = node["reftarget"]
    found, path = search(target, node, names)
    if not found:
        return None if target.split(".")[0] in PACKAGES else contnode
    if path is None:
        return contnode
    entry = names.objects[path]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, path)


def listed(folder: Path) -> set[str]:
    """Return the paths that the pages of the reference list."""
    found = set()
    for page in folder.glob("*.md"):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith((".. module:: ", ".. currentmodule:: ")):
                module = line.split()[-1]
            elif module and re.fullmatch(r"   [A-Za-z_]\w*", line):
                found.add(f"{module}.{line.strip()}")
    return found


def public_bases(bases: Sequence[Any], public: Collection[Any]) -> Iterator[type]:
    """Yield the nearest bases that readers can look up: instead of a helper of ours, what it derives from."""
    for base in bases:
        if base in public:
            yield base
        elif inspect.isclass(base):
            yield from public_bases(base.__bases__, public)


def name_bases(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Say below its summary what a class derives from, by the paths that these are documented under; nothing where there is no such base.

    Not above: the tables of autosummary show what comes first.
    """
    if what not in {"class", "exception"} or not inspect.isclass(thing):
        return
    paths = {}
    for path in sorted(listed(Path(app.srcdir) / REFERENCE)):
        found = imported(path)
        if inspect.isclass(found):
            paths[found] = path
    bases = [f":py:obj:`{paths[base]}`" for base in dict.fromkeys(public_bases(thing.__bases__, paths))]
    if issubclass(thing, BaseException):
        bases += [f"``{base.__name__}``" for base in thing.__bases__ if base.__module__ == "builtins"]
    if bases:
        summary = next((number for number, line in enumerate(lines) if line.strip()), 0)
        end = next((number for number, line in enumerate(lines) if number > summary and not line.strip()), len(lines))
        lines[end:end] = ["", f"Bases: {', '.join(bases)}", ""]


def own_signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None) -> tuple | None:
    """Give a class that derives from a stand-in, such as torch's modules here, the signature that it has, not that of the stand-in."""
    if what == "class" and any(getattr(base, "__sphinx_mock__", False) for base in thing.__bases__) and "__init__" in vars(thing):
        parameters = list(inspect.signature(thing.__init__).parameters.values())[1:]
        plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        return str(inspect.Signature(plain)), returns
    return None


def keep_drawings(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make what docstrings indent, formulas and drawings, literal: as plain reStructuredText it would be a quotation, in one paragraph."""
    found: list[str] = []
    section, paragraph = "", False
    for number, line in enumerate(lines):
        if number + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[number + 1].strip()):
            section = line.strip()
        starts_here = line[:4].isspace() and line.strip() and number > 0 and not lines[number - 1].strip()
        if starts_here and paragraph and section in WITH_DRAWINGS:
            found += [".. code-block:: text", ""]
        if line.strip() and not line[0].isspace():
            paragraph = not line.startswith((":", "..", "- ", "* ", "+ ", "| ", ">>>")) and not line.rstrip().endswith("::")
        elif starts_here:
            paragraph = False
        found.append(line)
    lines[:] = found


def sweep(app: Sphinx) -> None:
    """Remove the pages of names that the reference no longer lists: autosummary leaves them where they are."""
    folder = Path(app.srcdir) / REFERENCE
    wanted = listed(folder)
    for page in (Path(app.srcdir) / GENERATED).glob("*.rst"):
        if page.stem not in wanted:
            page.unlink()


def forget(app: Sphinx, *_: Any) -> None:
    """Do not pickle what was found with the environment."""
    if app.env is not None:
        app.env.__dict__.pop("_docstring_names", None)


class Inherited(SphinxDirective):
    """What a class has from its bases: names that lead to where they are documented, the nearest base first."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a paragraph for each base."""
        cls = imported(self.arguments[0])
        if not inspect.isclass(cls) or issubclass(cls, BaseException):
            return []
        lines, seen = [], set(vars(cls))
        for base in cls.__mro__[1:-1]:
            own = [name for name, member in vars(base).items() if name not in seen and not name.startswith("_") and is_member(member)]
            seen.update(vars(base))
            if own and base.__module__.split(".")[0] in PACKAGES:
                path = f"{base.__module__}.{base.__qualname__}"
                lines += [f"From :py:obj:`~{path}`: {', '.join(f':py:obj:`~{path}.{name}`' for name in own)}", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def is_member(member: Any) -> bool:
    """Whether this is a method or a property."""
    return callable(member) or isinstance(member, property | classmethod | staticmethod)


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the directive, and join the resolver after Sphinx's own."""
    app.add_directive("inherited", Inherited)
    app.connect("builder-inited", sweep, priority=400)  # before autosummary
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-process-docstring", name_bases, priority=900)  # after numpydoc
    app.connect("autodoc-process-docstring", keep_drawings, priority=400)  # before numpydoc, which takes indentation away
    app.connect("build-finished", forget)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
