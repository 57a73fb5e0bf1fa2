"""The modules that need torch say what they are for, and their examples are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import ruvattn.integrations

MODULES = [f"ruvattn.integrations.{info.name}" for info in pkgutil.iter_modules(ruvattn.integrations.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for_and_its_examples_are_true(name):
    module = importlib.import_module(name)
    assert module.__doc__
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.failed == 0
