"""From templates to the files of a new plugin. What a template may hold, the package's docstring says."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import date
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ..errors import InvalidInputError
from .names import check_plugin_name, class_prefix, module_name, registered_name

__all__ = ["KINDS", "plugin_files", "write_plugin"]

KINDS = {"score": ("score", "variant"), "pattern": ("pattern", "variant"), "variant": ("variant",)}
"""What a plugin can be, and what each registers, all by one name."""

_ONLY = re.compile(r"(?P<line>.*?)[ \t]*(?:#|//|<!--) (?P<word>only|end only)(?P<which>(?: [a-z]+)*)(?: -->)?")

# In templates without the dot: git, and what looks for sources, would take them for its own.
_DOTTED = ("github", "gitignore")


def plugin_files(name: str, *, kind: str = "score", cython: bool = False, author: str | None = None) -> dict[str, str]:
    """Return the files of a new plugin.

    Parameters
    ----------
    name : str
        Of the distribution, and of what it registers: there, without a leading ``ruvattn-``.
    kind : {"score", "pattern", "variant"}, default "score"
        What it is. A score and a pattern come with a variant that has it.
    cython : bool, default False
        Whether a part of it is compiled.
    author : str, optional
        For the licence and the metadata; when not given, "The <name> authors".

    Returns
    -------
    dict of str to str
        Path, with forward slashes, to text; sorted by path.

    Raises
    ------
    InvalidInputError
        If there is no such kind, or the author is no line of text.
    """
    from .. import __version__
    from ..plugins import API_VERSION

    if kind not in KINDS:
        raise InvalidInputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    author = f"The {name} authors" if author is None else author.strip()
    if not author or not author.isprintable():
        raise InvalidInputError(f"author must be a name, one line of text, got {author!r}; leave it out for 'The {name} authors'")
    words = {
        "plugin-name": name,
        "plugin_name": module_name(name),
        "registered-name": registered_name(name),
        "registered_name": module_name(registered_name(name)),
        "plugin_kind": kind,
        "PluginName": class_prefix(name),
        "plugin-author": author,
        "plugin-year": str(date.today().year),
        "plugin-ruff": "ruff",  # by its own name ruff would take it for the settings of the templates
        "ruvattn>=0": f"ruvattn>={__version__}",
        "RUVATTN_API = 0": f"RUVATTN_API = {API_VERSION}",
    }
    placeholder = re.compile("|".join(map(re.escape, words)))
    chosen = {kind, "cython" if cython else "numpy"}
    found = {}
    templates = resources.files(__package__) / "templates"
    for layer in ("common", *(("cython",) if cython else ()), kind, *((f"{kind}-cython",) if cython else ())):
        for path, text in _texts(templates / layer):
            # In TOML a name is a string like any other; a quotation mark in it is not the end of it.
            quoted = {"plugin-author": json.dumps(author, ensure_ascii=False)[1:-1]} if path.endswith(".toml") else {}
            path, text = (
                placeholder.sub(lambda match, quoted=quoted: quoted.get(match[0], words[match[0]]), part)  # type: ignore[misc]
                for part in (path, _chosen_lines(text, chosen))
            )
            found[path] = text
    return dict(sorted(found.items()))


def _texts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every template of a folder."""
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__pycache__")):
            continue  # what a tool has left here
        name = f".{entry.name}" if entry.name in _DOTTED else entry.name
        if entry.is_dir():
            yield from _texts(entry, f"{prefix}{name}/")
        else:
            yield prefix + name, entry.read_text(encoding="utf-8")


def _chosen_lines(text: str, chosen: set[str]) -> str:
    """Leave out the lines that are for other plugins, and the marks that say so."""
    kept = []
    inside = True
    for line in text.splitlines():
        mark = _ONLY.fullmatch(line)
        if mark is None:
            if inside:
                kept.append(line)
            continue
        fits = chosen.issuperset(mark["which"].split())
        if mark["line"].strip():
            if inside and fits:
                kept.append(mark["line"])
        else:
            inside = fits or mark["word"] == "end only"
    return "\n".join(kept) + "\n"


def write_plugin(
    name: str, directory: str | os.PathLike[str] = ".", *, kind: str = "score", cython: bool = False, author: str | None = None
) -> tuple[Path, list[str]]:
    """Write a new plugin: all of it, or nothing.

    Parameters
    ----------
    name : str
        Of the distribution, of what it registers, and of its folder.
    directory : path, default "."
        Where its folder is made.
    kind, cython, author : str, bool, str
        As for `plugin_files`.

    Returns
    -------
    folder : Path
        What was made.
    files : list of str
        What is in it.

    Raises
    ------
    InvalidInputError
        If an argument has a value that makes no sense, the folder is there already, or the directory isn't or can't be written to.
    OSError
        If writing fails, for want of room for example; nothing is left then.
    """
    if kind not in KINDS:
        raise InvalidInputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    files = plugin_files(check_plugin_name(name, KINDS[kind]), kind=kind, cython=cython, author=author)
    parent = Path(directory)
    if not parent.is_dir():
        what = "is a file" if parent.exists() else "isn't there"
        raise InvalidInputError(f"directory must be a folder to write into, and {str(directory)!r} {what}")
    folder = parent / name
    if os.path.lexists(folder):
        raise InvalidInputError(f"{str(folder)!r} is there already, and nothing is overwritten: choose another NAME or another directory")
    part = parent / f".{name}.{secrets.token_hex(4)}"
    try:
        part.mkdir()
    except OSError as error:
        raise InvalidInputError(f"directory must be a folder to write into, and {str(directory)!r} can't be: {error.strerror}") from None
    try:
        for path, text in files.items():
            place = part / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8", newline="\n")
        # A folder that has come in between stays: one that isn't empty cannot be replaced, one that is has nothing to lose.
        os.rename(part, folder)
    except OSError as error:
        if os.path.lexists(folder):
            raise InvalidInputError(f"{str(folder)!r} is there by now, and nothing is overwritten: {error.strerror}") from None
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder, list(files)
