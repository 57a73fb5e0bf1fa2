"""How the kernels are built: that OpenMP is on, that every build is there, and what ``ruvattn.build`` does for plugins and with odd compilers."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn import build, isa

ROOT = Path(ruvattn.__file__).parents[1]
COMPILER = shutil.which((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])

builds = pytest.mark.parametrize("dtype", build.DTYPES)
loadable = pytest.mark.parametrize("name", isa.supported_isas())
compiles = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
on_x86 = pytest.mark.skipif("v3" not in build.ISAS, reason="v3 is a build for x86-64")


# What is installed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", build.ISAS)
@builds
def test_every_build_is_installed(name, dtype):
    assert importlib.util.find_spec(f"ruvattn.kernels.tile_{name}_{dtype}") is not None


def test_builds_and_dispatch_know_the_same_instruction_sets():
    assert set(build.ISAS) <= set(isa.ISAS)


@loadable
@builds
def test_openmp_is_on(name, dtype):
    """Without -fopenmp the compiler takes every prange for a plain loop, and says nothing."""
    assert importlib.import_module(f"ruvattn.kernels.tile_{name}_{dtype}").OPENMP > 0


@loadable
@builds
def test_a_build_has_the_vectors_and_the_dtype_of_its_name(name, dtype):
    kernel = importlib.import_module(f"ruvattn.kernels.tile_{name}_{dtype}")
    assert dtype == kernel.DTYPE
    assert {"scalar": np.dtype(dtype).itemsize, "baseline": 16, "v3": 32}[name] == kernel.VECTOR_BYTES


@pytest.mark.parametrize("folder", ["kernels", "data"])
def test_what_is_not_python_is_installed_too(folder):
    wanted = {"kernels": {"vector.pxd", "openmp.pxd", "tile.pyx"}, "data": {"embeddings.npz", "sentences.tsv"}}[folder]
    assert wanted <= {entry.name for entry in (resources.files("ruvattn") / folder).iterdir()}


def test_the_package_is_marked_as_typed():
    assert (resources.files("ruvattn") / "py.typed").is_file()


# extensions() -------------------------------------------------------------------------------------------------------


def test_extensions_are_one_for_each_instruction_set():
    assert [extension.name for extension in build.extensions("a._b", ["b.pyx"])] == [f"a._b_{name}" for name in build.ISAS]


def test_extensions_per_dtype_are_one_for_each_of_both():
    found = build.extensions("a._b", ["b.pyx"], per_dtype=True, isas=["scalar"])
    assert [extension.name for extension in found] == ["a._b_scalar_float32", "a._b_scalar_float64"]


def test_extensions_refuses_an_instruction_set_that_it_does_not_know():
    with pytest.raises(ValueError, match=r"scalar.*'v9'"):
        build.extensions("a._b", ["b.pyx"], isas=["v9"])


# build_ext, on a plugin of one file ---------------------------------------------------------------------------------

PROBE = """
# cython: language_level=3
from ruvattn.kernels.openmp cimport RUVATTN_OPENMP
from ruvattn.kernels.vector cimport VLEN, real
from cython.parallel cimport prange

OPENMP = RUVATTN_OPENMP
SIZE = sizeof(real)
VECTOR_BYTES = VLEN * sizeof(real)

def total(Py_ssize_t n):
    cdef Py_ssize_t i, s = 0
    for i in prange(n, nogil=True):
        s += i
    return s
"""

SETUP = """
from setuptools import setup
from ruvattn.build import build_ext, extensions
setup(name="probe", ext_modules=extensions("probe", ["probe.pyx"], {options}), cmdclass={{"build_ext": build_ext}})
"""


class Project:
    """A folder with a setup.py that is built in place, by a compiler that refuses some flags."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = os.pathsep.join([str(folder), str(ROOT), *filter(None, sys.path)])

    def build(self, *, source: str = PROBE, options: str = "", refuses: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "probe.pyx").write_text(textwrap.dedent(source))
        (self.folder / "setup.py").write_text(SETUP.format(options=options))
        if refuses:
            compiler = self.folder / "cc"
            compiler.write_text(f'#!/bin/sh\nfor word; do [ "$word" = "{refuses}" ] && exit 1; done\nexec {COMPILER} "$@"\n')
            compiler.chmod(0o755)
            environment["CC"] = str(compiler)
        return self._run("setup.py", "build_ext", "--inplace", **environment)

    def modules(self) -> set[str]:
        return {path.name.split(".")[0] for path in self.folder.glob("*" + sysconfig.get_config_var("EXT_SUFFIX"))}

    def prints(self, code: str) -> str:
        result = self._run("-c", code)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def _run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": self.path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@compiles
def test_a_plugin_compiles_against_the_installed_pxd_files(project):
    result = project.build(options="per_dtype=True, isas=['scalar']")
    assert result.returncode == 0, result.stderr
    assert project.modules() == {"probe_scalar_float32", "probe_scalar_float64"}
    code = "import ruvattn; k = ruvattn.load_kernels('probe', 'float64'); print(k.SIZE, k.OPENMP > 0, k.total(101))"
    assert project.prints(code) == "8 True 5050"


@compiles
def test_a_compiler_without_openmp_builds_serial_kernels_and_says_so(project):
    result = project.build(options="isas=['scalar']", refuses="-fopenmp")
    assert result.returncode == 0, result.stderr
    assert "the compiler has no OpenMP: every call will run on one thread" in result.stderr
    assert project.prints("import probe_scalar as k; print(k.OPENMP, k.total(101))") == "0 5050"


@compiles
@on_x86
def test_a_build_whose_flags_the_compiler_refuses_is_left_out(project):
    result = project.build(refuses="-mavx2")
    assert result.returncode == 0, result.stderr
    assert "the flags of 'v3'" in result.stderr
    assert project.modules() == {"probe_scalar", "probe_baseline"}


@compiles
def test_flags_that_change_arithmetic_are_taken_out_of_cflags(project):
    """On the link line -Ofast sets flush-to-zero in the whole process that loads the module."""
    result = project.build(options="isas=['scalar']", CFLAGS="-Ofast -ffast-math -DKEPT")
    assert result.returncode == 0, result.stderr
    assert "left out" in result.stderr
    commands = [line for line in result.stdout.splitlines() if "probe" in line and " -" in line]
    assert any("-DKEPT" in line for line in commands), result.stdout
    assert not any(word in ("-Ofast", "-ffast-math", "-march=native") for line in commands for word in line.split())
    smallest = "np.float32(1e-45)"
    assert project.prints(f"import numpy as np, probe_scalar; print({smallest} * np.float32(1) > 0)") == "True"


@compiles
def test_an_error_in_a_cython_source_ends_the_build(project):
    result = project.build(source="cdef int broken(:\n", options="isas=['scalar']")
    assert result.returncode != 0
    assert "probe.pyx:1" in result.stdout + result.stderr
    assert project.modules() == set()


# The checks before a build ------------------------------------------------------------------------------------------

preflight = pytest.mark.skipif(not (ROOT / "scripts" / "preflight.py").exists(), reason="needs a checkout")


@preflight
def test_preflight_is_silent_where_nothing_is_missing(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    environment = {**os.environ, "CC": str(compiler)}
    result = subprocess.run([sys.executable, ROOT / "scripts/preflight.py"], env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@preflight
def test_preflight_says_in_one_line_how_to_get_a_compiler():
    environment = {**os.environ, "CC": "no-such-cc -m64"}
    result = subprocess.run([sys.executable, ROOT / "scripts/preflight.py"], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "ruvattn: no C compiler, 'no-such-cc' is not there: apt-get install gcc, or set CC\n"
