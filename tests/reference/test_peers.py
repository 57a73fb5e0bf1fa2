"""The script that compares with torch runs, and both sides of it compute the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ruvattn

pytest.importorskip("torch")
FOLDER = Path(__file__).parents[2] / "asv_benchmarks"

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)

sys.path.insert(0, str(FOLDER))
try:
    from peers import SHAPES, _sdpa
finally:
    sys.path.remove(str(FOLDER))


def peers(*arguments):
    result = subprocess.run(
        [sys.executable, str(FOLDER / "peers.py"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_rows_say_what_was_measured():
    shapes = ["tiny", "short batch 4x8", "decode grouped", "bias"]
    document = json.loads(peers(*[f"--shapes={shape}" for shape in shapes], "--rounds", "1", "--json"))["sdpa"]
    assert [summary["threads"] for summary in document["summary"]] == [1, 2]
    assert len(document["shapes"]) == 2 * len(shapes)
    for row in document["shapes"]:
        # Outputs are averages of normal numbers: not far above 1 before the first rounding.
        assert row["difference"] < 100 * np.finfo(np.float32).eps
        assert row["error"] <= 4 * row["sdpa_error"] + np.finfo(np.float32).eps
        assert row["ratio"] == pytest.approx(row["median"]["sdpa"] / row["median"]["ruvattn"])
        large = row["shape"].startswith("bias")
        assert (row["share"] is not None) == ("sgemm" in row["seconds"]) == large


def test_table_is_printed():
    text = peers("--shapes", "tiny", "--threads", "1", "--rounds", "1")
    for word in ("tiny 8x16x64", "ratio", "geometric mean", "least"):
        assert word in text


@pytest.mark.parametrize("index", range(len(SHAPES)), ids=[shape.name for shape in SHAPES])
def test_both_sides_compute_the_same(index):
    """Every shape, with its lengths divided by 16."""
    shape = SHAPES[index]
    shape = replace(shape, queries=-(-shape.queries // 16), keys=-(-shape.keys // 16))
    (q, k, v), options = shape.arrays()
    theirs = _sdpa(shape, q, k, v, options)().numpy()
    ours = ruvattn.attention(q, k, v, causal=shape.causal, **options)
    assert np.abs(ours - theirs).max() < 100 * np.finfo(np.float32).eps
