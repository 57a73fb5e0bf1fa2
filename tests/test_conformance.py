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


@pytest.mark.parametrize("build", [name for name in isa.supported_isas() if name != isa.active_isa()])
def test_conformance_of_other_builds(build):
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, isa.ISA_VARIABLE: build, "RUVATTN_LOAD_PLUGINS": ""}
    process = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["isa"] == build
    assert found["wrong"] == []
    assert found["passed"] > 10 * len(BUILT_IN)
