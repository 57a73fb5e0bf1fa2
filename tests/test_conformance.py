"""What is built in passes the conformance suite, in every build of the kernels that this machine can run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import ruvattn
from ruvattn import isa
from ruvattn.testing import parametrize_with_checks, suite

BUILT_IN = suite("all", distributions=["ruvattn"])
ROOT = os.path.dirname(os.path.dirname(ruvattn.__file__))


@parametrize_with_checks(BUILT_IN)
def test_conformance(subject, check):
    check(subject)


@pytest.mark.parametrize("family", ["variant", "score", "pattern", "aggregate"])
def test_every_family_has_subjects_that_can_be_made(family):
    own = [subject for subject in BUILT_IN if subject.family == family]
    assert own
    assert all(subject.problem is None for subject in own)


RUN = """
import json
from ruvattn import isa
from ruvattn.testing import run_checks, suite

results = run_checks(suite("all", distributions=["ruvattn"]))
wrong = [f"{r.subject} {r.name}: {r.message}" for r in results if r.status == "failed"]
passed = sum(r.status == "passed" for r in results)
print(json.dumps({"isa": isa.active_isa(), "passed": passed, "wrong": wrong}))
"""


OTHER_BUILDS = [name for name in isa.supported_isas() if name != isa.active_isa()]


@pytest.fixture(scope="module")
def runs():
    """Run the suite on all other builds at once, each in a process of its own: together they take little longer than one."""
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "RUVATTN_LOAD_PLUGINS": ""}
    # Threads that wait for work shall leave their core to the other processes.
    environment["OMP_WAIT_POLICY"] = "passive"
    processes = {
        build: subprocess.Popen(
            [sys.executable, "-c", RUN], env={**environment, isa.ISA_VARIABLE: build}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for build in OTHER_BUILDS
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("build", OTHER_BUILDS)
def test_conformance_of_other_builds(runs, build):
    output, errors = runs[build].communicate(timeout=300)
    assert runs[build].returncode == 0, errors
    found = json.loads(output)
    assert found["isa"] == build
    assert found["wrong"] == []
    assert found["passed"] > 10 * len(BUILT_IN)
