"""The seven examples, run as a user runs them: they end well, and what they print holds. Half a minute of one core in all."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
if not (FOLDER / "basic.py").exists():
    pytest.skip("the examples are not here", allow_module_level=True)

NEEDS = {
    "basic": ("matplotlib",),
    "multi_head": ("safetensors", "matplotlib"),
    "sparse": ("ruvattn_sparse", "matplotlib"),
    "geometric": ("ruvattn_geometric", "matplotlib"),
    "graph": ("ruvattn_graph", "matplotlib", "networkx"),
    "training_loop": ("safetensors", "matplotlib"),
    "writing_a_plugin": ("setuptools", "pip"),
}
"""The examples, and what each needs beside ruvattn."""

NO_PICTURE = {"writing_a_plugin"}


def run(name: str, folder: Path) -> str:
    """Return what an example prints, after a look at what it leaves behind: the picture that it was asked for, and nothing else."""
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    arguments = [] if name in NO_PICTURE else ["--out", "picture.png"]
    # A proxy that isn't there: what asks for the network is told that there is none.
    environment = os.environ | {
        "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *arguments], cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8",
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) >= 8
    assert [path.name for path in folder.iterdir()] == arguments[1:]
    if arguments:
        assert_is_a_picture(folder / "picture.png")
    return done.stdout


def assert_is_a_picture(path: Path) -> None:
    from matplotlib.image import imread

    image = imread(path)[..., :3]
    assert image.shape[1] >= 500
    assert (image < 0.99).any(-1).mean() > 0.01


def numbers(text: str) -> list[float]:
    """Return the numbers of a line: thousands have commas, shares a percent sign, which is left off."""
    return [float(found.replace(",", "")) for found in re.findall(r"-?\d[\d,]*\.?\d*(?:e[-+]\d+)?", text)]


def after(text: str, words: str) -> list[float]:
    """Return the numbers that follow some words in the rest of their line."""
    assert words in text, f"{words!r} is not in\n{text}"
    return numbers(text.partition(words)[2].partition("\n")[0])


def line(text: str, start: str) -> str:
    """Return the line that starts with some words."""
    found = [one for one in text.splitlines() if one.strip().startswith(start)]
    assert len(found) == 1, f"{len(found)} lines start with {start!r} in\n{text}"
    return found[0].strip().removeprefix(start)


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_says_first_how_it_is_run_and_what_it_prints(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    docstring = text.partition('"""')[2].partition('"""')[0]
    assert f"python examples/{name}.py" in docstring
    assert "What is printed" in docstring


# --- basic ------------------------------------------------------------------------------------------------------------------------


def test_basic_agrees_with_plain_numpy_and_ranks_lakes_for_a_lake(tmp_path):
    text = run("basic", tmp_path)
    assert after(text, "float64 by ")[0] < 5e-6
    assert after(text, "the short one alone by ")[0] < 1e-6
    assert max(after(text, "all of them at once by ")) < 5e-6
    assert "the first half of the output is the same" in text

    block = text.partition("most like it")[2].partition("attention_topk")[0]
    assert "lake" in block.lower()
    assert block.count("geography") >= 4
    assert "the same six" in text
    for topic in ("geography", "names", "music", "space"):
        share, chance = numbers(line(text, topic + " ").partition("█")[0])[:2]
        assert share > 2 * chance


# --- multi_head -------------------------------------------------------------------------------------------------------------------


def test_heads_written_by_hand_look_where_they_should_and_layers_are_what_they_are_compared_with(tmp_path):
    text = run("multi_head", tmp_path)
    assert after(text, "head 0: ")[0] > 99
    same, of_all = after(text, "head 1: ")[:2]
    assert same > 99
    assert of_all < 30
    assert "adcbegadcb → egad" in text

    assert after(text, "from 8 that repeat by ")[0] < 1e-5
    assert after(text, "cache ") == [128, 512]
    assert after(text, "from the causal call over all of them by ")[0] < 1e-5
    assert "before loading: False; after: True" in text


# --- sparse -----------------------------------------------------------------------------------------------------------------------


def test_patterns_find_what_they_look_at_and_add_up_as_sets_of_pairs_do(tmp_path):
    text = run("sparse", tmp_path)
    rows = {name: numbers(line(text, name)) for name in ("dense", "window of 256", "both", "first 4, last 1,024", "the 32 largest logits")}
    asked = after(text, "found   of ")[0]
    assert rows["dense"][-1] >= asked - 2
    assert rows["the 32 largest logits"][-1] >= asked - 2
    assert rows["the 32 largest logits"][0] < 1
    assert 0 < rows["window of 256"][-1] < rows["first 4, last 1,024"][-1] < asked / 2
    assert rows["window of 256"][0] < rows["both"][0] < 5

    window, stride, both, either = numbers(line(text, "pairs of 1,000 tokens:").replace("every 64th", "every"))
    assert window + stride == both + either
    assert ": True" in text
    assert after(text, "16,384: ") == [516]


# --- geometric --------------------------------------------------------------------------------------------------------------------


def test_a_tree_fits_into_the_disk_and_not_into_flat_space(tmp_path):
    text = run("geometric", tmp_path)
    disk, plane, flat = (numbers(line(text, name)) for name in ("Poincaré disk", "plane, circles", "flat, 10 dimensions"))
    assert disk[0] < 5
    assert disk[1] > 99
    assert min(disk[2:]) == 100
    for other in (plane, flat):
        assert other[0] > 2 * disk[0]
        assert other[1] < 50
        assert max(other[3:]) < 50


# --- graph ------------------------------------------------------------------------------------------------------------------------


def test_attention_that_may_look_at_edges_learns_which_to_trust(tmp_path):
    text = run("graph", tmp_path)
    alone, edges, told = (numbers(line(text, name + "  ")) for name in ("without edges", "edges", "edges and their numbers"))
    assert told[0] > alone[0] + 8
    assert told[0] > edges[0] + 8
    assert abs(edges[1] - 50) < 8
    assert told[1] > 65

    assert after(text, "from that of the whole graph by ")[0] < 1e-5
    right, within = after(text, "never seen: ")
    assert right > 78
    assert within > 65


# --- training_loop ----------------------------------------------------------------------------------------------------------------


def test_the_training_stops_early_recalls_and_ends_the_same_after_an_interruption(tmp_path):
    text = run("training_loop", tmp_path)
    assert "epochs without a better one" in text
    right, alike, rule = after(text, "test: ")
    assert right > 80
    assert 30 < alike < 55
    assert rule > 90
    assert after(text, "stopped after epoch ")[0] < 40
    assert "the same parameters, to the last bit" in text


# --- writing_a_plugin -------------------------------------------------------------------------------------------------------------


def test_a_plugin_works_as_objects_passes_the_suite_and_is_found_by_name_when_installed(tmp_path):
    text = run("writing_a_plugin", tmp_path)
    heavy, gaussian, times = after(text, "at 0.5: ")
    assert times > 100
    assert heavy > gaussian
    assert after(text, "the last token sees ") == [13]
    found, difference = after(text, "gradient of nu ")
    assert found == pytest.approx(difference, rel=1e-4)

    assert after(text, "StudentT: ")[0] >= 20
    assert after(text, "Doubling: ")[0] >= 20
    assert "gradients" in line(text, "WithAnError: does not pass;")

    assert "ruvattn-doubling · Student's t kernel" in text
    assert re.search(r"\b0 failed", text)
