"""What README.md and the docstrings show runs, and shows what they say."""

import doctest
import re
from pathlib import Path

import pytest

import ruvattn_favor


@pytest.mark.parametrize("module", [ruvattn_favor.features, ruvattn_favor.variant], ids=lambda module: module.__name__)
def test_examples_of_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_examples_of_the_readme():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(example, names)
    assert names["error"].mean() < 0.01
    assert names["gradients"].params["log_scale"].shape == (4,)
