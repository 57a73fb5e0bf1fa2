"""The base classes that third parties have their benchmarks from, and what asv makes of them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn.testing import benchmarks
from ruvattn.testing.benchmarks import PatternBenchmarks, ScoreBenchmarks, VariantBenchmarks

METHODS = {"time_sequence", "time_forward", "time_forward_batch", "time_weights", "peakmem_sequence"}


class Standard(VariantBenchmarks):
    variant = "standard"


class Dot(ScoreBenchmarks):
    score = "dot"


class Causal(PatternBenchmarks):
    pattern = "causal"


@pytest.mark.parametrize("kind", [Standard, Dot, Causal])
def test_every_method_runs_on_every_number_of_threads(kind):
    names, threads = kind.params
    for number in threads:
        benchmark = kind()
        benchmark.setup(names[0], number)
        for method in METHODS:
            getattr(benchmark, method)(names[0], number)
        benchmark.teardown(names[0], number)


@pytest.mark.parametrize("kind", [Standard, Dot, Causal])
def test_methods_and_threads_are_those_of_the_variants_of_the_project(kind):
    assert {name for name in dir(kind) if name.startswith(("time_", "peakmem_"))} == METHODS
    assert kind.params[1] == [1, 2]
    assert kind.param_names[1] == "threads"


def test_parameters_name_what_is_benchmarked():
    assert (Standard.params[0], Standard.param_names[0]) == (["standard"], "variant")
    assert (Dot.params[0], Dot.param_names[0]) == (["dot"], "score")
    assert (Causal.params[0], Causal.param_names[0]) == (["causal"], "pattern")


@pytest.mark.parametrize("base", [VariantBenchmarks, ScoreBenchmarks, PatternBenchmarks])
def test_asv_takes_no_base_class_for_a_benchmark(base):
    """It leaves out abstract classes, wherever they are imported."""
    assert inspect.isabstract(base)


def test_importing_the_file_imports_nothing_of_ruvattn():
    code = f"""if True:
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("bases", {str(benchmarks.__file__)!r})
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert not [name for name in sys.modules if name.partition(".")[0] == "ruvattn"]
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_variant_that_is_not_installed_is_skipped():
    class Missing(VariantBenchmarks):
        variant = "no-such-variant"

    with pytest.raises(NotImplementedError, match="no-such-variant"):
        Missing().setup("no-such-variant", 1)


@pytest.mark.parametrize("kind", ["score", "pattern"])
def test_a_part_that_is_not_installed_is_skipped(kind):
    base = {"score": ScoreBenchmarks, "pattern": PatternBenchmarks}[kind]
    missing = type("Missing", (base,), {kind: "no-such-part"})
    with pytest.raises(NotImplementedError, match="no-such-part"):
        missing().setup("no-such-part", 1)


@pytest.mark.parametrize("kind", [Standard, Dot, Causal])
def test_teardown_after_a_setup_that_skipped_does_nothing(kind):
    before = ruvattn.get_num_threads()
    kind().teardown(kind.params[0][0], 1)
    assert ruvattn.get_num_threads() == before


@pytest.mark.parametrize("kind", [Standard, Dot, Causal])
def test_after_teardown_there_are_as_many_threads_as_before(kind):
    before = ruvattn.get_num_threads()
    benchmark, name = kind(), kind.params[0][0]
    benchmark.setup(name, before + 1)
    benchmark.teardown(name, before + 1)
    assert ruvattn.get_num_threads() == before


def test_a_variant_computes_on_so_many_threads():
    before = ruvattn.get_num_threads()
    benchmark = Standard()
    benchmark.setup("standard", before + 1)
    assert ruvattn.get_num_threads() == before + 1
    benchmark.teardown("standard", before + 1)


@pytest.mark.parametrize("name", [3, "", b"x"])
def test_a_name_that_is_none_is_an_error_where_the_class_is_written(name):
    with pytest.raises(TypeError, match="Wrong.variant is .*demo-x"):
        type("Wrong", (VariantBenchmarks,), {"variant": name})


def test_options_reach_the_variant_and_functions_are_called_for_them():
    class Scaled(VariantBenchmarks):
        variant = "standard"
        options = {"scale": lambda: 0.5}

    assert Scaled().options_of("standard") == {"scale": 0.5}
    assert Scaled().made("standard").config.options["scale"] == 0.5


def test_one_instance_serves_a_process():
    """For asv may call setup before every sample."""
    assert Dot().made("dot") is Dot().made("dot")


def test_classes_of_one_name_with_other_options_do_not_share_it():
    class Narrow(PatternBenchmarks):
        pattern = "window"
        options = {"left": 1, "right": 1}

    class Wide(PatternBenchmarks):
        pattern = "window"
        options = {"left": 99, "right": 99}

    narrow, wide = Narrow().made("window"), Wide().made("window")
    assert not narrow.allowed(np.int64(0), np.int64(5))
    assert wide.allowed(np.int64(0), np.int64(5))


def test_rows_of_a_score_are_drawn_as_its_conformance_tests_draw_them(monkeypatch):
    class Positive(ruvattn.Dot):
        def conformance_inputs(self, rng, role, shape):
            return rng.random(shape) + {"query": 0, "key": 10, "value": 20}[role]

    class PositiveDot(ScoreBenchmarks):
        score = "positive"

        def make(self, name):
            return Positive()

    benchmark = PositiveDot()
    benchmark.setup("positive", 1)
    assert [int(x.min()) for x in (benchmark.q, benchmark.k, benchmark.v)] == [0, 10, 20]
    assert benchmark.q.dtype == np.float32
    assert benchmark.q.shape == (8, 1024, 32)


def test_few_queries_of_a_pattern_stand_at_the_end_of_the_keys():
    """At the beginning a causal one would see a key or two."""
    benchmark = Causal()
    benchmark.setup("causal", 1)
    seen = []
    benchmark.attend = lambda q, k, v, **options: seen.append(ruvattn.attention(q, k, v, **options))
    benchmark.time_forward_batch("causal", 1)
    benchmark.time_sequence("causal", 1)
    np.testing.assert_allclose(seen[0], seen[1][:, -32:], rtol=1e-5, atol=1e-6)


def test_the_suite_of_the_project_has_the_same_class():
    folder = Path(__file__).parents[1] / "asv_benchmarks"
    if not folder.is_dir():
        pytest.skip("the benchmarks are in the repository only")
    code = "from benchmarks.variants import Variant; print(*sorted({c.__name__ for c in Variant.__mro__}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True, timeout=60)
    assert "VariantBenchmarks" in run.stdout.split()
