"""What `config_info` says about this copy, this machine and the plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import ruvattn
from ruvattn import isa
from ruvattn.config import describe

ROOT = os.path.dirname(os.path.dirname(ruvattn.__file__))

GOOD = """
def ruvattn_register(registry):
    from ruvattn.scores import Dot
    registry.score("other-dot", Dot, summary="dot again")
"""


def run(code: str, **environment: str) -> str:
    path = os.pathsep.join([ROOT, *filter(None, sys.path)])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_agrees_with_what_runs():
    info = ruvattn.config_info()
    kernel = isa.load_kernels("ruvattn.kernels.tile", "float32")
    assert info["ruvattn"] == ruvattn.__version__
    assert info["numpy"] == np.__version__
    assert info["isa"] == isa.active_isa()
    assert info["isas_supported"] == list(isa.supported_isas())
    assert set(info["isas_supported"]) <= set(info["isas_built"]) <= set(isa.ISAS)
    assert info["vector_bytes"] == kernel.VECTOR_BYTES
    assert info["threads"] == ruvattn.get_num_threads()
    assert "-O3" in info["flags"].split()
    assert info["compiler"].split()[0] in ("gcc", "clang", "unknown")


def test_openmp_is_told_by_its_version():
    """Without it every call is serial, and nothing else would say so."""
    info = ruvattn.config_info()
    if "-fopenmp" in info["flags"].split():
        assert info["openmp"][0].isdigit()
        assert str(isa.load_kernels("ruvattn.kernels.tile", "float32").OPENMP) in info["openmp"]
    else:
        assert info["openmp"] is None


def test_without_openmp_the_words_say_what_it_means():
    assert dict(describe({**ruvattn.config_info(), "openmp": None}))["openmp"] == "none: every call runs on one thread"


@pytest.mark.parametrize("name", isa.supported_isas())
def test_the_forced_instruction_set_is_the_one_in_use(name):
    assert run("import ruvattn; print(ruvattn.config_info()['isa'])", RUVATTN_ISA=name).strip() == name


def test_it_survives_json():
    info = ruvattn.config_info()
    assert json.loads(json.dumps(info)) == info


def test_it_starts_no_thread_and_imports_no_scipy_sparse():
    run(
        """
        import os, sys
        import numpy, ruvattn
        before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
        ruvattn.config_info()
        after = len(os.listdir("/proc/self/task")) if before else 0
        assert after == before, (before, after)
        assert "scipy.sparse" not in sys.modules
        """,
        RUVATTN_LOAD_PLUGINS="",  # what plugins import is theirs to answer for
    )


def test_pools_of_threads_are_those_in_the_process():
    pools = ruvattn.config_info()["thread_pools"]
    assert [pool["filepath"] for pool in pools] == sorted(pool["filepath"] for pool in pools)
    assert all(pool["num_threads"] >= 1 for pool in pools)


def test_variables_that_are_set_are_told(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("RUVATTN_ISA", raising=False)
    environment = ruvattn.config_info()["environment"]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "RUVATTN_ISA" not in environment


def test_plugins_failures_and_what_was_left_out_are_told(fake_plugins, monkeypatch):
    fake_plugins.install("good-one", GOOD, version="2.5")
    fake_plugins.install("bad-one", "raise OSError('no disk')")
    fake_plugins.install("third-one", GOOD)
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "good-one,bad-one,absent-one")
    info = ruvattn.config_info()
    assert info["plugins"] == {"good-one 2.5 (good-one)": {"score": ["other-dot"]}}
    assert "third-one 1.0 (third-one)" in info["left_out"]
    assert info["failures"]["bad-one 1.0 (bad-one)"] == "OSError: no disk"
    (absent,) = (text for label, text in info["failures"].items() if label.startswith("absent-one"))
    assert "neither a distribution nor an entry point" in absent


def test_show_config_prints_every_entry(capsys):
    ruvattn.show_config()
    lines = capsys.readouterr().out.splitlines()
    for key, text in describe(ruvattn.config_info()):
        assert any(line.startswith(key) and text.splitlines()[0] in line for line in lines), key
