"""The README's snippets for torch do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import ruvattn

torch = pytest.importorskip("torch")

README = Path(__file__).resolve().parents[2] / "README.md"
if not README.exists():
    pytest.skip("needs a checkout", allow_module_level=True)


def test_the_readme_s_torch_trains_what_numpy_has():
    blocks = re.findall(r"^```py\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    torch.manual_seed(0)
    names = {"ruvattn": ruvattn, "np": np}
    exec("\n".join(blocks), names)
    for name in "qkv":
        gradient = names[name].grad
        assert gradient.shape == (8, 256, 64)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
    untrained = ruvattn.create("multihead", embed_dim=64, num_heads=8).parameters()
    for name, array in names["layer"].parameters().items():
        assert not np.array_equal(array, untrained[name]), name
