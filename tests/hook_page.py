"""The page of hooks, docs/authors/hooks.md: its tables, and its examples as a module. Tests of hooks share it."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "authors" / "hooks.md"

checkout = pytest.mark.skipif(not PAGE.exists(), reason="needs a checkout")


@cache
def page():
    """Section of the page to its rows, (name, parameters or None, when, what), and to its Python."""
    text = PAGE.read_text(encoding="utf-8")
    found = {}
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        rows = []
        for line in re.findall(r"^\| `.*\|$", body, re.MULTILINE):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            name, parameters = re.fullmatch(r"`(?:registry\.)?(\w+)(?:\((.*)\))?`", cells[0]).groups()
            rows.append(SimpleNamespace(name=name, parameters=parameters, cells=cells[1:], follows="Follows" in cells[-1]))
        found[title] = SimpleNamespace(rows=rows, python="\n".join(re.findall(r"^```python\n(.*?)^```", body, re.MULTILINE | re.DOTALL)))
    return found


def rows(section):
    return page()[section].rows


@cache
def examples():
    """The page's Python as one module, in which the classes of its examples are."""
    module = ModuleType("hook_examples")
    source = "\n".join(part.python for part in page().values())
    before = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8").partition("\n## ")[0], re.MULTILINE | re.DOTALL))
    sys.modules["hook_examples"] = module  # what it defines can be pickled
    exec(compile(before + source, str(PAGE), "exec"), module.__dict__)
    return module


E = examples() if PAGE.exists() else SimpleNamespace()
Q, K, V = np.random.default_rng(0).standard_normal((3, 4, 50, 16))
X = np.random.default_rng(1).standard_normal((2, 12, 8))
PER_HEAD = np.array([0.1, 0.2, 0.3, 0.4])
