"""The benchmarks run: every benchmark of the asv suite once, and the scripts beside it on few and small calls. Nothing is judged by its time."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ruvattn

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_benchmarks"
PLUGINS = [path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")]

if not FOLDER.is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    """Import the suite and the scripts as they are: neither is part of an installed package."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def modules():
    """Return the modules of the suite, found as asv does."""
    sys.path.insert(0, str(FOLDER))
    try:
        package = importlib.import_module("benchmarks")
        return [importlib.import_module(f"benchmarks.{module.name}") for module in pkgutil.iter_modules(package.__path__)]
    finally:
        sys.path.remove(str(FOLDER))


def benchmarks():
    """Yield class and method of every benchmark that asv would find."""
    for module in modules():
        for name, kind in vars(module).items():
            if isinstance(kind, type) and not name.startswith("_") and not inspect.isabstract(kind):
                for method in dir(kind):
                    if re.match("time_|timeraw_|peakmem_", method):
                        yield kind, method


def cases():
    """Yield every benchmark with each value of its first parameter, and the first one of the others."""
    for kind, method in benchmarks():
        first, *others = getattr(kind, "params", [[]]) or [[]]
        rest = [values[0] for values in others]
        for arguments in [[value, *rest] for value in first] or [[]]:
            # peakmem_ benchmarks run the same calls as time_ benchmarks: one of them is enough.
            if method.startswith("peakmem_") and first and arguments[0] != first[0]:
                continue
            label = "-".join(map(str, [kind.__module__.removeprefix("benchmarks."), kind.__name__, method, *arguments]))
            yield pytest.param(kind, method, arguments, id=label)


def from_plugin(kind, arguments):
    """Tell whether the benchmark is of something that a plugin brings, which may not be installed."""
    if kind.__module__ == "benchmarks.graph":
        return importlib.util.find_spec("ruvattn_graph") is None
    if kind.__module__ == "benchmarks.variants":
        return arguments[0] not in ("standard", "multihead", "cross")
    return kind.__module__ in ("benchmarks.patterns", "benchmarks.geometric")


@pytest.mark.parametrize(("kind", "method", "arguments"), list(cases()))
def test_benchmark_runs(kind, method, arguments):
    benchmark = kind()
    if hasattr(benchmark, "setup"):
        try:
            benchmark.setup(*arguments)
        except NotImplementedError as reason:
            # This version has all that is benchmarked; plugins and ml_dtypes may be missing from an installation.
            if from_plugin(kind, arguments) or "ml_dtypes" in str(reason):
                pytest.skip(str(reason))
            raise
    try:
        found = getattr(benchmark, method)(*arguments)
    finally:
        if hasattr(benchmark, "teardown"):
            benchmark.teardown(*arguments)
    if method.startswith("timeraw_"):
        code, before = (found, "") if isinstance(found, str) else found
        run(f"{before}\n{code}")


def start(*arguments):
    """Start Python with the suite, the scripts and what this process can import on its path."""
    path = os.pathsep.join([str(FOLDER), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True, text=True, timeout=300
    )  # fmt: skip


def run(code):
    """Run Python code in a fresh interpreter and return what it prints."""
    result = start("-c", code)
    assert result.returncode == 0, result.stderr
    return result.stdout


def peers(*arguments):
    return start(FOLDER / "peers.py", *arguments)


def test_parameters_are_fixed_literals(monkeypatch):
    """What JSON can hold, equal in a process without plugins: results of two installations are of the same things."""
    code = """if True:
        import importlib, json
        names = ("backward", "engine", "patterns", "geometric", "edges", "graph", "layers", "variants", "imports")
        modules = [importlib.import_module("benchmarks." + name) for name in names]
        print(json.dumps([[k, v.params] for m in modules for k, v in vars(m).items() if hasattr(v, "params") and k[0] != "_"]))
    """
    here = [[kind.__name__, kind.params] for kind in dict.fromkeys(kind for kind, _ in benchmarks()) if hasattr(kind, "params")]
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "")
    there = json.loads(run(code))
    assert sorted(there) == sorted(json.loads(json.dumps(here)))


def test_suite_imports_without_ruvattn():
    names = "backward, common, edges, engine, geometric, graph, imports, layers, patterns, variants"
    run(f"import sys; sys.modules['ruvattn'] = None; from benchmarks import {names}")


def test_what_a_version_lacks_is_skipped():
    from benchmarks.common import Problem, _prepared

    with pytest.raises(NotImplementedError, match="no_such_option"):
        _prepared(lambda: Problem((1, 4, 8), options={"no_such_option": 1}), 1)
    from benchmarks.variants import _factory

    with pytest.raises(NotImplementedError, match="no-such-variant"):
        _factory("no-such-variant")


def test_every_benchmark_of_time_has_one_of_memory():
    """For whole calls: a class that times calls of the engine or of a variant measures their memory too."""
    for kind in {kind for kind, method in benchmarks() if method.startswith("time_") and kind.__name__ != "Create"}:
        assert any(method.startswith("peakmem_") for method in dir(kind)), kind


def test_every_variant_of_the_repository_is_benchmarked():
    from benchmarks.variants import VARIANTS

    own = {name for name, info in ruvattn.variants().items() if info.distribution in ("ruvattn", *PLUGINS)}
    assert {"standard", "multihead", "cross"} <= own <= set(VARIANTS)


def test_data_is_made_once_and_never_differs():
    from benchmarks.common import normal

    assert normal((3, 4)) is normal((3, 4))
    assert np.array_equal(normal((3, 4)), normal.__wrapped__((3, 4)))
    assert not np.array_equal(normal((3, 4)), normal((3, 4), seed=1))
    assert normal((3, 4), "float16").dtype == np.float16


def test_configuration_names_what_exists():
    text = (FOLDER / "asv.conf.json").read_text()
    conf = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert (FOLDER / conf["benchmark_dir"] / "__init__.py").is_file()
    assert (FOLDER / conf["repo"] / "setup.py").is_file()
    scripts = re.findall(r"\{conf_dir\}/(\S+)", text)
    assert scripts
    for script in scripts:
        assert (FOLDER / script).is_file()


# --- scripts ----------------------------------------------------------------------------------------------------------------------


def test_calls_take_turns_in_both_directions():
    import timing

    made = []
    seconds = timing.alternate({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, 3)
    assert [len(times) for times in seconds.values()] == [3, 3]
    order = [name for name, before in zip(made, ["", *made], strict=False) if name != before]
    # Each is first tried for how often it must be repeated; then a b, b a, a b.
    assert order == ["a", "b", "a", "b", "a", "b"]


def test_peak_counts_what_was_freed_again():
    import timing

    if not timing._reset_peak():
        pytest.skip("this system can't reset the peak of a process, and the tests before had one of their own")
    size = 2**25
    risen, shape = timing.measure_peak(lambda: np.ones(size, np.uint8).shape)
    assert shape == (size,)
    assert 0.9 * size < risen < 1.5 * size


def test_geometric_mean():
    import timing

    assert timing.geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)


def test_pairs_are_those_of_the_mask():
    from peers import Shape

    for queries, keys in ((5, 5), (3, 7), (7, 3)):
        shape = Shape("", 2, 3, queries, keys, 4, causal=True)
        assert shape.pairs == 2 * 3 * np.tri(queries, keys, dtype=int).sum()
    assert Shape("", 1, 1, 2, 3, 4, value_dim=6).operations == 2 * 6 * (4 + 6)


def test_at_least_sixteen_shapes_of_distinct_names():
    from peers import SHAPES

    assert len({shape.name for shape in SHAPES}) == len(SHAPES) >= 16


def small_cases():
    """Return the sparse problems of peers.py at a length that a test has time for; those of a plugin that is missing are left out."""
    import sparse_cases

    makers = ("window", "causal_window", "streaming", "strided", "dilated", "bigbird", "random_pairs")
    cases = [getattr(sparse_cases, name)(512) for name in makers] + [sparse_cases.block_sparse(1024, 64)]
    plugin = importlib.util.find_spec("ruvattn_sparse") is not None
    return [(case, case.options()) for case in cases if plugin or case.name.startswith(("window", "causal", "csr"))]


def test_rules_of_sparse_cases_are_the_masks_of_our_calls():
    """The two are written independently, but for the tables of blocks; what is compared and counted is the rule's."""
    from sparse_cases import arrays

    for case, options in small_cases():
        q, k, v = (x.astype(np.float64) for x in arrays(case.length))
        found = ruvattn.attention(q, k, v, **options)
        expected = ruvattn.attention(q, k, v, mask=case.rows(range(case.length))[None])
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=case.name)


def test_pairs_of_sparse_cases_are_counted_by_blocks():
    from sparse_cases import HEADS

    for case, _ in small_cases():
        seen = case.rows(range(case.length))
        assert case.pairs == seen.sum() * (HEADS // len(seen)), case.name
        counts = case.count(64)
        blocks = case.length // 64
        assert np.array_equal(counts, seen.reshape(len(seen), blocks, 64, blocks, 64).sum((2, 4))), case.name


def test_sparse_cases_have_distinct_names_and_known_peers():
    from sparse_cases import CASES

    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert set(case.bars) <= set(case.versus) <= {"flex", "flex tuned", "sdpa", "sdpa causal", "sdpa mask"}
        assert case.length % case.flex_block == 0


def test_a_tenth_of_the_blocks_is_active():
    from sparse_cases import block_sparse

    for block in (64, 128):
        case = block_sparse(8192, block)
        table = case.table()
        assert table.diagonal().all()
        assert table.mean() == pytest.approx(0.1, rel=0.01)


def geometric_problems():
    """Return the geometric problems of peers.py at a length that a test has time for; skip the test if the plugin is missing."""
    import geometric_cases

    if importlib.util.find_spec("ruvattn_geometric") is None:
        pytest.skip("needs the plugin: pip install ./plugins/ruvattn-geometric")
    return [case.at(128) for case in geometric_cases.CASES]


def test_formulas_of_geometric_cases_are_the_scores_of_our_calls():
    """The two are written independently; what is compared is computed by the formulas."""
    rows = np.arange(0, 128, 5)
    for case in geometric_problems():
        q, k, v = (x.astype(np.float64) for x in case.arrays())
        weights, out = case.expected(q, k, v, rows)
        options = case.options()
        np.testing.assert_allclose(ruvattn.attention(q, k, v, **options)[:, :, rows], out, rtol=1e-10, atol=1e-12, err_msg=case.name)
        found = ruvattn.attention_weights(q[:, :, rows], k, score=options["score"])
        np.testing.assert_allclose(found, weights, rtol=1e-10, err_msg=case.name)


def test_geometric_cases_have_distinct_names_and_bars_where_points_are_spread():
    from geometric_cases import BARS, CASES

    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.geometry for case in CASES if case.bars} == {"hyperbolic", "lorentz", "spherical"}
    for case in CASES:
        assert case.bars in ({}, BARS)
        assert case.arrangement.startswith("spread") or not case.bars


def test_points_of_geometric_cases_are_on_their_manifolds():
    from geometric_cases import CASES

    for case in CASES:
        for x in case.at(64).arrays()[:2]:
            norms = np.linalg.norm(x.astype(np.float64), axis=-1)
            if case.geometry == "lorentz":
                assert np.allclose(x[..., 0], np.sqrt(1 + (x[..., 1:].astype(np.float64) ** 2).sum(-1)))
            elif case.geometry == "spherical":
                assert np.allclose(norms, 1)
            elif case.geometry in ("hyperbolic", "mixed-curvature"):
                assert norms.max() < 1


def test_clusters_have_one_near_pair_in_eight():
    from geometric_cases import CASES, CLUSTERS

    for case in CASES:
        if case.arrangement == "clustered" and case.geometry == "hyperbolic":
            q, k, _ = (x[0].astype(np.float64) for x in case.at(256).arrays())
            gaps = (q * q).sum(-1)[:, :, None] + (k * k).sum(-1)[:, None] - 2 * q @ k.swapaxes(-1, -2)
            near = gaps < ((q * q).sum(-1)[:, :, None] + (k * k).sum(-1)[:, None]) / 64
            assert near.mean() == pytest.approx(1 / CLUSTERS, rel=0.1)


@pytest.mark.parametrize("radius", [0.5, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("separation", [1.0, 1e-2, 1e-4])
def test_near_points_are_as_near_as_asked_and_stay_inside(radius, separation):
    from geometric_cases import near_points

    points = near_points(np.random.default_rng(0), 3, 8, 64, radius, separation).astype(np.float32).astype(np.float64)
    norms = np.linalg.norm(points, axis=-1)
    assert norms.max() < 1
    assert norms.max() == pytest.approx(radius, rel=1e-6)
    gaps = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)[:, *np.triu_indices(8, 1)]
    assert np.median(gaps) == pytest.approx(separation * radius, rel=0.5)


def test_distances_and_outputs_keep_the_bar_of_their_figures():
    """At the smallest width and few rows: the table of peers.py has the others."""
    import geometric_figures
    import timing

    geometric_problems()
    rows = list(timing.run_child("geometric-distances", {"widths": [8]}, threads=1))
    assert {row["space"] for row in rows} == {space.name for space in geometric_figures.SPACES}
    assert max(row["error"] for row in rows) < geometric_figures.BAR
    assert max(row["naive"] for row in rows) > 10 * geometric_figures.BAR
    rows = list(timing.run_child("geometric-accuracy", {"names": ["hyperbolic, clustered"], "rows": 8, "length": 64}, threads=1))
    assert len(rows) == 1
    assert max(rows[0]["out"]["ruvattn"], rows[0]["weights"]["ruvattn"]) < geometric_figures.BAR


def graph_problems(nodes=60, edges=400):
    """Return the graph problems of peers.py at a size that a test has time for; skip the test if the plugin is missing."""
    import graph_cases

    if importlib.util.find_spec("ruvattn_graph") is None:
        pytest.skip("needs the plugin: pip install ./plugins/ruvattn-graph")
    return [case.at(nodes, edges) for case in graph_cases.CASES]


@pytest.mark.parametrize("size", [(60, 400), (100, 30), (1, 5), (5, 0)], ids=str)
def test_formulas_of_graph_cases_are_what_our_layers_compute(size):
    """The two are written independently; what is compared and measured is compared with the formulas."""
    for case in graph_problems(*size):
        x, edge_index, edge_attr = (None if array is None else array.astype(np.float64) for array in case.arrays())
        found = case.variant("float64").forward_graph(x, edge_index.astype(np.int64), edge_attr)
        np.testing.assert_allclose(found, case.expected(), rtol=1e-10, atol=1e-12, err_msg=case.name)


def test_graph_cases_have_distinct_names_and_the_bars_of_the_project():
    from graph_cases import BAR, CASES

    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.bar in (None, BAR)
    barred = {(case.layer, case.nodes, case.edges, case.heads, case.head_dim, case.degrees) for case in CASES if case.bar and case.edge_dim is None}
    sizes, heads = ((20_000, 400_000), (1_000, 16_000)), ((4, 16), (8, 32))
    parts = itertools.product(("GATConv", "GATv2Conv"), sizes, heads, ("uniform", "power law"))
    assert barred == {(layer, *size, *head, degrees) for layer, size, head, degrees in parts}


def test_degrees_of_graph_cases_are_as_named():
    from graph_cases import DEGREES

    rng = np.random.default_rng(0)
    drawn = {name: draw(rng, 2000, 40_000) for name, draw in DEGREES.items()}
    most = {name: np.bincount(edge_index[1], minlength=2000).max() for name, edge_index in drawn.items()}
    assert most["uniform"] < 60
    assert 500 < most["power law"] < 4000
    assert 20_000 <= most["hub"] < 20_100
    for edge_index in drawn.values():
        assert edge_index.shape == (2, 40_000)
        assert edge_index.min() >= 0
        assert edge_index.max() < 2000


def test_edges_of_communities_mostly_stay_within():
    from graph_cases import community_edges

    edge_index = community_edges(1050, 20_000, 100)
    source, destination = edge_index // 100
    assert (source == destination).mean() == pytest.approx(0.91, abs=0.02)
    assert edge_index.max() < 1050


def test_graph_layers_keep_the_bar_of_their_errors():
    import graph_cases
    import graph_figures
    import timing

    graph_problems()
    names = [case.name for case in graph_cases.CASES]
    rows = list(timing.run_child("graph-accuracy", {"names": names, "size": [200, 3000]}, threads=1))
    assert [row["case"] for row in rows] == names
    assert max(row["error"]["ruvattn"] for row in rows) < graph_figures.ACCURACY_BAR


def test_memory_of_a_graph_follows_its_edges():
    """On smaller graphs than that of the figure, of which the system counts the pages exactly enough."""
    import timing

    graph_problems()
    few, many = (
        next(timing.run_child("graph-memory", {"nodes": 20_000, "edges": edges, "threads": 1}, threads=1)) for edges in (1_000_000, 4_000_000)
    )
    assert list(few["resident"]) == ["start", "inputs", "graph", "first forward", "forward"]
    assert few["peak"] >= max(few["resident"].values())
    # A CSR edge is an index of 4 bytes, and one or two more numbers that say where it came from; so it is for the graph with self-loops.
    assert (many["peak"] - many["resident"]["inputs"]) - (few["peak"] - few["resident"]["inputs"]) < 64 * 3_000_000


def test_order_of_nodes_changes_no_result():
    import timing

    graph_problems()
    row = next(timing.run_child("graph-order", {"nodes": 2000, "edges": 20_000, "size": 100, "threads": 1, "rounds": 1}, threads=1))
    assert row["difference"] < 1e-5
    assert row["faster"] == {name: row["median"]["shuffled"] / row["median"][name] for name in ("reordered", "grouped")}


def test_hub_is_compared_with_the_uniform_graph():
    import graph_cases
    import timing

    graph_problems()
    rows = list(timing.run_child("graph-hub", {"threads": 1, "rounds": 1, "size": [100, 1000]}, threads=1))
    assert len(rows) == len(graph_cases.HUB_CASES)
    for row in rows:
        assert row["of"] == row["median"]["hub"] / row["median"]["uniform"]


def test_time_per_row_is_relative_to_the_shortest():
    import timing

    rows = list(timing.run_child("sparse-scaling", {"lengths": [512, 1024], "threads": 1, "rounds": 1}, threads=1))
    assert [row["length"] for row in rows] == [512, 1024]
    assert rows[0]["relative"] == 1.0
    assert rows[1]["relative"] == rows[1]["per_row"] / rows[0]["per_row"]


def test_memory_of_a_window_follows_the_length():
    """The bar of the project on shorter sequences, of which one already holds more than the pages that the system counts too late."""
    import sparse_figures
    import timing

    short, long = (next(timing.run_child("sparse-memory", {"case": "window", "length": n, "threads": 1}, threads=1)) for n in (8192, 32768))
    assert long["share"] < 0.2
    assert long["extra"] < sparse_figures.MEMORY_BAR * 4 * max(short["extra"], 2**18)


def test_calls_and_imports_are_reported_as_json():
    result = peers("--calls", "--import", "--rounds", "1", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert {row["limit"] for row in document["calls"]} == {10e-6, 500e-6, 2e-3, 50e-3}
    assert all(row["seconds"] > 0 for row in document["calls"])
    assert document["import"]["beyond_numpy"] > 0
    assert "attention_logits" in result.stderr


def test_a_long_head_needs_little_memory():
    """The bar of the project, 20 %, on a shorter head: memory doesn't depend on how busy the machine is."""
    import figures

    rows = list(figures.memory(["ruvattn"], [1, 2], length=8192))
    assert [row["threads"] for row in rows] == [1, 2]
    for row in rows:
        assert row["arrays"] == 4 * 8192 * 64 * 4
        assert 0 <= row["share"] < 0.2


def test_builds_take_turns():
    import figures

    from ruvattn.isa import supported_isas

    rows = list(figures.build_speed(1, length=128))
    assert tuple(row["isa"] for row in rows) == supported_isas()
    assert rows[-1] == {"isa": "scalar", "seconds": rows[-1]["seconds"], "speed_up": 1.0}


def test_numpy_score_is_compared_or_its_plugin_named():
    result = peers("--numpy-score", "--rounds", "1", "--json")
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)["numpy_score"]
    assert row.get("ratio", 0) > 0 or "ruvattn-example" in row["missing"]


def test_a_process_that_fails_ends_the_script():
    import timing

    with pytest.raises(timing.ChildError, match="build"):
        list(timing.run_child("build", {"length": 8}, threads=1, environment={"RUVATTN_ISA": "none"}))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shapes", "no such shape"], "no such shape"),
        (["--sparse", "--cases", "no such mask"], "no such mask"),
        (["--geometric", "--spaces", "no such space"], "no such space"),
        (["--graph", "--layers", "no such layer"], "no such layer"),
        (["--threads", "0"], "--threads"),
        (["--rounds", "none"], "--rounds"),
    ],
)
def test_a_wrong_option_is_one_line_and_code_2(arguments, says):
    result = peers(*arguments)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--sparse"], ["--geometric"], ["--graph"], ["--all"]])
def test_without_torch_the_comparison_says_what_to_install(arguments):
    result = start("-c", f"import sys; sys.modules['torch'] = None; import peers; peers.main({arguments})")
    assert result.returncode == 2
    assert "pip install torch" in result.stderr
    assert "Traceback" not in result.stderr
