"""What ``ruvattn.build`` makes of the flags that a user or a plugin's setup.py asks for; ``test_build.py`` looks at what comes out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import warnings
from pathlib import Path

import pytest

import ruvattn
from ruvattn import build

ROOT = Path(ruvattn.__file__).parents[1]
COMPILER = shutil.which((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])

UNSAFE = [
    "-ffast-math",
    "-Ofast",
    "-funsafe-math-optimizations",
    "-ffinite-math-only",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-march=native",
]

compiles = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


@pytest.mark.parametrize("flag", UNSAFE)
def test_a_flag_that_changes_arithmetic_is_left_out_with_a_warning_that_names_it(flag):
    with pytest.warns(UserWarning, match=f"{flag} of CFLAGS .*left out"):
        assert build._allowed(["cc", "-O2", flag, "-Wall"], "CFLAGS") == ["cc", "-O2", "-Wall"]


def test_other_flags_stay_in_their_order_and_nobody_is_warned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build._allowed(("-O0", "-march=x86-64-v2", "-fno-fast-math"), "CFLAGS") == ["-O0", "-march=x86-64-v2", "-fno-fast-math"]


def test_the_flags_of_the_core_are_none_that_it_refuses():
    own = {flag for _, flags in build._FLAGS.values() for flag in flags} | set(build._COMMON)
    assert own.isdisjoint(build._FORBIDDEN)


def test_no_two_builds_of_an_extension_share_their_lists():
    first, second = build.extensions("a._b", ["b.pyx"], isas=["scalar", "baseline"], extra_compile_args=["-DX"], define_macros=[("Y", "1")])
    assert (first.isa, second.isa) == ("scalar", "baseline")
    assert first.sources == second.sources == ["b.pyx"]
    assert first.sources is not second.sources
    assert first.extra_compile_args == second.extra_compile_args == ["-DX"]


def test_a_variable_restricts_what_is_built(monkeypatch):
    monkeypatch.setenv("RUVATTN_BUILD_ISAS", "scalar, baseline")
    assert [kernel.isa for kernel in build.extensions("a._b", ["b.pyx"])] == ["scalar", "baseline"]
    assert [kernel.isa for kernel in build.extensions("a._b", ["b.pyx"], isas=["scalar"])] == ["scalar"]
    monkeypatch.setenv("RUVATTN_BUILD_ISAS", "")
    assert [kernel.isa for kernel in build.extensions("a._b", ["b.pyx"])] == list(build.ISAS)
    monkeypatch.setenv("RUVATTN_BUILD_ISAS", "avx9")
    with pytest.raises(ValueError, match=r"RUVATTN_BUILD_ISAS must be of .*baseline.*'avx9'"):
        build.extensions("a._b", ["b.pyx"])


def test_an_extension_without_dtypes_says_so():
    (kernel,) = build.extensions("a._b", ["b.pyx"], isas=["scalar"])
    assert kernel.dtype is None


class _Compiler:
    """Stands for a compiler that takes some flags only, and keeps what it was asked."""

    def __init__(self, refuses):
        self.refuses = refuses
        self.asked = []

    def compile(self, sources, output_dir, extra_postargs):
        self.asked.append(tuple(extra_postargs))
        if self.refuses & set(extra_postargs):
            raise RuntimeError("refused")
        return ["probe.o"]

    def link_executable(self, objects, output, extra_postargs):
        self.compile(objects, "", extra_postargs)


def _command(refuses=()):
    from setuptools import Distribution

    command = build.build_ext(Distribution())
    command.compiler = _Compiler(set(refuses))
    return command


def test_a_compiler_with_openmp_is_told_so_when_compiling_and_linking(monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "linux")
    assert _command()._probe_openmp() == (("-fopenmp",), ("-fopenmp",))


def test_apples_compiler_is_asked_in_its_own_words(monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "darwin")
    assert _command()._probe_openmp() == (("-Xpreprocessor", "-fopenmp"), ("-lomp",))


def test_a_compiler_without_openmp_is_a_warning_and_no_flags():
    with pytest.warns(UserWarning, match="no OpenMP: every call will run on one thread"):
        assert _command(["-fopenmp"])._probe_openmp() == ((), ())


def test_a_probe_asks_for_warnings_as_errors():
    # Some compilers take a flag that they don't know with no more than a warning.
    command = _command()
    assert command._accepts(("-mavx2",))
    assert command.compiler.asked == [("-mavx2", "-Werror")]
    assert not _command(["-mavx2"])._accepts(("-mavx2",))


@compiles
def test_a_plugin_builds_with_c_files_of_its_own_and_without_the_unsafe_flags_that_it_asks_for(tmp_path):
    (tmp_path / "mixed.pyx").write_text(
        textwrap.dedent("""
            # cython: language_level=3
            cdef extern from *:
                "float half_of(float x);"
                float half_of(float x)
            def half(x):
                return half_of(x)
        """)
    )
    (tmp_path / "half.c").write_text("float half_of(float x) { return x * HALF; }\n")
    (tmp_path / "setup.py").write_text(
        textwrap.dedent("""
            from setuptools import setup
            from ruvattn.build import build_ext, extensions
            setup(
                name="mixed",
                ext_modules=extensions(
                    "mixed", ["mixed.pyx", "half.c"], isas=["scalar"],
                    define_macros=[("HALF", "0.5f")], extra_compile_args=["-Ofast", "-DKEPT"], extra_link_args=["-ffast-math"],
                ),
                cmdclass={"build_ext": build_ext},
            )
        """)
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, sys.path)])

    def python(*arguments):
        environment = {**os.environ, "PYTHONPATH": path, "LDFLAGS": "-Ofast -L/nowhere"}
        return subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)

    result = python("setup.py", "build_ext", "--inplace")
    assert result.returncode == 0, result.stderr
    for origin in ("-Ofast of CFLAGS or LDFLAGS", "-Ofast of extra_compile_args of mixed_scalar", "-ffast-math of extra_link_args of mixed_scalar"):
        assert origin in result.stderr
    commands = [line for line in result.stdout.splitlines() if " -" in line]
    assert any("-DKEPT" in line for line in commands)
    assert any("-L/nowhere" in line for line in commands)
    assert not any(word in ("-Ofast", "-ffast-math") for line in commands for word in line.split())
    # What -ffast-math on a link line would have done: a subnormal that is lost.
    printed = python("-c", "import mixed_scalar; print(mixed_scalar.half(2e-38) > 0, mixed_scalar.half(3.0))")
    assert printed.stdout.split() == ["True", "1.5"], printed.stderr
