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

torch = pytest.importorskip("torch")
FOLDER = Path(__file__).parents[2] / "asv_benchmarks"

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)

sys.path.insert(0, str(FOLDER))
try:
    from geometric_cases import CASES
    from geometric_figures import show_geometric_figures
    from geometric_peers import show_geometric
    from geometric_torch import PLAIN, TUNED, attend, prepare
    from graph_cases import CASES as GRAPH_CASES
    from graph_figures import show_graph_figures
    from graph_peers import make_conv, show_graph, torch_calls
    from reporting import Report
    from shapes import SHAPES, sdpa
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


def test_gradients_beside_autograd_are_measured_and_the_same():
    document = json.loads(peers("--backward", "--shapes=16x8x77", "--threads", "1", "--rounds", "1", "--json"))["backward"]
    [row] = document["shapes"]
    assert row["shape"] == "short batch 16x8x77x64"
    assert row["difference"] < 100 * np.finfo(np.float32).eps
    assert row["ratio"] == pytest.approx(row["median"]["sdpa"] / row["median"]["ruvattn"])
    # A row of a longer head needs no more.
    first, *rest = [entry["extra"] / entry["length"] for entry in document["memory"]]
    assert all(entry < 1.2 * first for entry in rest)


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
    theirs = sdpa(shape, q, k, v, options)().numpy()
    ours = ruvattn.attention(q, k, v, causal=shape.causal, **options)
    assert np.abs(ours - theirs).max() < 100 * np.finfo(np.float32).eps


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_torch_computes_the_geometric_cases(case):
    """In float64, where dots and norms suffice."""
    case = case.at(96)
    q, k, v = (x.astype(np.float64) for x in case.arrays())
    for x in (q, k):  # what float32 has left of the manifold's equation is more than the bound below
        if case.geometry == "lorentz":
            x[..., 0] = np.sqrt(1 + (x[..., 1:] ** 2).sum(-1))
        elif case.geometry in ("spherical", "product"):
            part = x if case.geometry == "spherical" else x[..., 16:32]
            part /= np.linalg.norm(part, axis=-1, keepdims=True)
    expected = case.expected(q, k, v, np.arange(96))[1]
    einstein = case.aggregate == "einstein"
    values = prepare(torch.from_numpy(v)) if einstein else torch.from_numpy(v)
    for forms in (PLAIN, TUNED):
        if case.geometry in forms:
            found = attend(forms[case.geometry], torch.from_numpy(q), torch.from_numpy(k), values, einstein=einstein)
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-11 * abs(expected).max())


def test_geometric_rows_say_what_was_measured(capsys, monkeypatch):
    """At lengths that a test has time for, which it has not for a compiler."""
    pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    report = Report(as_json=True)
    show_geometric(report, ["hyperbolic, spread to 0.9", "dual-space, spread to 0.9"], [1], 1, length=128)
    show_geometric_figures(report, rows=4, length=64, widths=(8,))
    rows = report.document["geometric"]["cases"]
    for row in rows:
        assert {"ruvattn", "dot", "sdpa", "torch"} <= row["median"].keys()
        assert row["of"]["dot"] == row["median"]["ruvattn"] / row["median"]["dot"]
        assert row["times"]["torch"] == row["median"]["torch"] / row["median"]["ruvattn"]
    assert [("tuned" in row["times"]) for row in rows] == [True, False]
    figures = report.document["geometric_figures"]
    assert {"ruvattn", "torch"} <= figures["attention"][0]["out"].keys()
    assert max(row["error"] for row in figures["distances"]) < 1e-5
    text = capsys.readouterr().err
    for word in ("dual-space", "x torch", "weights ruvattn", "PoincareBall", "1-1e-6"):
        assert word in text
    assert "MISSES" not in text


@pytest.mark.parametrize("case", GRAPH_CASES, ids=lambda case: case.name)
def test_torch_geometric_computes_the_graph_cases(case):
    """In float64: the layers that are timed are the formulas that all are compared with."""
    pytest.importorskip("torch_geometric")
    case = case.at(80, 500)
    x, edge_index, edge_attr = (None if array is None else torch.from_numpy(array) for array in case.arrays())
    more = [] if edge_attr is None else [edge_attr.double()]
    with torch.inference_mode():
        found = make_conv(case, "float64")(x.double(), edge_index, *more).numpy()
    expected = case.expected()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * abs(expected).max())


@pytest.mark.filterwarnings("ignore::UserWarning")  # sparse CSR tensors are in beta state
@pytest.mark.parametrize("case", GRAPH_CASES[-8:], ids=lambda case: case.name)
def test_prepared_edges_give_what_edges_give(case):
    """Sorted, with self-loops among them, and as a sparse matrix."""
    pytest.importorskip("torch_geometric")
    calls = torch_calls(case.at(80, 500))
    assert ("csr" in calls) == case.layer.startswith(("GIN", "SAGE"))
    with torch.inference_mode():
        expected = calls["pyg"]().numpy()
        for name in calls.keys() - {"pyg", "compiled"}:
            assert np.abs(calls[name]().numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_graph_rows_say_what_was_measured(capsys, monkeypatch):
    """At sizes that a test has time for, which it has not for a compiler."""
    pytest.importorskip("torch_geometric")
    pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    report = Report(as_json=True)
    names = ["GATConv, 1k/16k uniform, 4x16", "SAGEConv, mean, 20k/400k uniform, 64 wide"]
    show_graph(report, names, [1], 1, size=[100, 1000])
    show_graph_figures(report, [1], 1, size=[100, 1000], large=(2000, 20_000), communities=(2000, 20_000, 100))
    rows = report.document["graph"]["cases"]
    assert [row["case"] for row in rows] == names
    for row in rows:
        assert {"graph", "edge_index", "pyg"} <= row["median"].keys()
        assert max(row["difference"][ours] for ours in ("graph", "edge_index")) < 1e-5
        assert row["ratio"]["graph"]["pyg"] == row["median"]["pyg"] / row["median"]["graph"]
    assert [("csr" in row["median"]) for row in rows] == [False, True]
    assert report.document["graph"]["summary"][0]["torch_geometric"]
    figures = report.document["graph_figures"]
    assert {"ruvattn", "pyg"} == figures["accuracy"][0]["error"].keys()
    text = capsys.readouterr().err
    for word in ("GATConv", "x prepared", "half of all edges", "bytes an edge", "reordered", "pays"):
        assert word in text
