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
from setuptools.errors import PlatformError

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
    assert _command()._probe_openmp() == (("-fopenmp",), ("-Wl,--as-needed", "-fopenmp"))
    assert _command(["-Wl,--as-needed"])._probe_openmp() == (("-fopenmp",), ("-fopenmp",))


def test_apples_compiler_is_asked_in_its_own_words(monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "darwin")
    assert _command()._probe_openmp() == (("-Xpreprocessor", "-fopenmp"), ("-Wl,-dead_strip_dylibs", "-lomp"))


def test_libomp_of_homebrew_or_conda_is_found_where_it_is(monkeypatch, tmp_path):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "omp.h").write_text("")
    monkeypatch.setattr(build.sys, "platform", "darwin")
    monkeypatch.setattr(build, "_HOMEBREW", (str(tmp_path),))
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    elsewhere = (("-Xpreprocessor", "-fopenmp", f"-I{tmp_path}/include"), ("-Wl,-dead_strip_dylibs", f"-L{tmp_path}/lib", "-lomp"))

    class NotInTheUsualPaths(_Compiler):
        def compile(self, sources, output_dir, extra_postargs):
            if "-fopenmp" in extra_postargs and elsewhere[0][-1] not in extra_postargs:
                raise RuntimeError("no omp.h")
            return super().compile(sources, output_dir, extra_postargs)

    command = _command()
    command.compiler = NotInTheUsualPaths(set())
    assert command._probe_openmp() == elsewhere


def test_a_compiler_without_openmp_is_a_warning_and_no_flags():
    with pytest.warns(UserWarning, match="no OpenMP: every call will run on one thread"):
        assert _command(["-fopenmp"])._probe_openmp() == ((), ())


def test_a_probe_asks_for_warnings_as_errors():
    # Some compilers take a flag that they don't know with no more than a warning.
    command = _command()
    assert command._accepts(("-mavx2",))
    assert command.compiler.asked == [("-mavx2", "-Werror")]
    assert not _command(["-mavx2"])._accepts(("-mavx2",))


# What is built for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "platform", "archflags", "machine"),
    [
        ("linux", "linux-x86_64", "", "x86_64"),
        ("linux", "linux-aarch64", "-arch x86_64", "aarch64"),
        ("win32", "win-amd64", "", "amd64"),
        ("win32", "win-arm64", "", "arm64"),
        ("darwin", "macosx-11.0-arm64", "", "arm64"),
        ("darwin", "macosx-11.0-arm64", "-arch x86_64", "x86_64"),
        ("darwin", "macosx-10.13-universal2", "-arch arm64", "arm64"),
        ("darwin", "macosx-10.13-universal2", "-arch arm64 -arch x86_64", "here"),
    ],
)
def test_the_processor_is_the_one_that_is_built_for(monkeypatch, system, platform, archflags, machine):
    monkeypatch.setattr(build.sys, "platform", system)
    monkeypatch.setattr(build.sysconfig, "get_platform", lambda: platform)
    monkeypatch.setattr(build.platform, "machine", lambda: "HERE")
    monkeypatch.setenv("ARCHFLAGS", archflags)
    assert build._machine() == machine


# Windows: clang-cl in the place of Microsoft's compiler -------------------------------------------------------------


class _Microsoft(_Compiler):
    """Stands for setuptools' compiler of Windows, which has its program and options as attributes once it is initialized."""

    compiler_type = "msvc"

    def __init__(self, refuses=frozenset()):
        super().__init__(refuses)
        self.initialized = False

    def initialize(self, plat_name=None):
        self.initialized = True
        self.cc = "C:/VC/bin/cl.exe"
        self.compile_options = ["/nologo", "/O2", "/W3", "/GL", "/DNDEBUG", "/MD"]


def _on_windows(monkeypatch, tmp_path, *, installed=True):
    program = tmp_path / "LLVM" / "bin" / "clang-cl"
    program.parent.mkdir(parents=True)
    if installed:
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VCINSTALLDIR", raising=False)
    monkeypatch.delenv("CC", raising=False)
    command = _command()
    command.compiler = _Microsoft()
    return command, program


def test_clang_cl_takes_the_place_of_microsofts_compiler(monkeypatch, tmp_path):
    command, program = _on_windows(monkeypatch, tmp_path)
    command._use_clang_cl()
    assert command.compiler.cc == str(program)
    assert command.compiler.compile_options == ["/nologo", "/O2", "/W3", "/DNDEBUG", "/MD"]


def test_without_clang_cl_the_error_says_where_it_comes_from(monkeypatch, tmp_path):
    command, _ = _on_windows(monkeypatch, tmp_path, installed=False)
    with pytest.raises(PlatformError, match=r"no vector types.*winget install LLVM.LLVM.*CC"):
        command._use_clang_cl()


def test_cc_says_which_clang_cl(monkeypatch, tmp_path):
    command, _ = _on_windows(monkeypatch, tmp_path)
    mine = tmp_path / "clang-cl-19"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("CC", str(mine))
    command._use_clang_cl()
    assert command.compiler.cc == str(mine)
    monkeypatch.setenv("CC", "C:\\nowhere\\clang-cl.exe")
    with pytest.raises(PlatformError, match="CC is .*nowhere"):
        build._find_clang_cl()


def test_a_cc_that_is_not_clang_cl_is_none_for_windows(monkeypatch, tmp_path):
    _, program = _on_windows(monkeypatch, tmp_path)
    monkeypatch.setenv("CC", "gcc")
    assert build._find_clang_cl() == str(program)


def test_clang_cl_is_told_its_flags_in_its_own_words(monkeypatch, tmp_path):
    command, _ = _on_windows(monkeypatch, tmp_path)
    command._use_clang_cl()
    assert command._accepts(("-mavx2", "-mfma"))
    assert command.compiler.asked == [("/clang:-mavx2", "/clang:-mfma", "-Werror")]


def test_clang_cls_openmp_is_looked_for_by_itself_and_then_beside_it(monkeypatch, tmp_path):
    command, _ = _on_windows(monkeypatch, tmp_path)
    command._use_clang_cl()
    assert command._probe_openmp() == (("/openmp",), ("libomp.lib",))

    class OnlyBesideTheCompiler(_Microsoft):
        def link_executable(self, objects, output, extra_postargs):
            if not any(word.startswith("/LIBPATH:") for word in extra_postargs):
                raise RuntimeError("no libomp.lib")

    command.compiler = OnlyBesideTheCompiler()
    command._use_clang_cl()
    assert command._probe_openmp() == (("/openmp",), ("libomp.lib", f"/LIBPATH:{tmp_path / 'LLVM' / 'lib'}"))


@pytest.mark.parametrize("flag", ["/fp:fast", "/clang:-ffast-math", "/clang:-Ofast"])
def test_microsofts_spelling_of_an_unsafe_flag_is_left_out_too(flag):
    with pytest.warns(UserWarning, match="left out"):
        assert build._allowed(["/O2", flag], "CL") == ["/O2"]


@pytest.mark.skipif(shutil.which("clang") is None or "v3" not in build.ISAS, reason="needs clang for x86-64")
def test_clang_cl_takes_every_flag_that_is_made_for_it(tmp_path):
    """clang is clang-cl when it is called so; -Werror also refuses what it would ignore."""
    (tmp_path / "kernel.c").write_text(
        "typedef float vreal __attribute__((vector_size(32)));\n"
        "vreal twice(vreal x, int n) {\n#pragma omp parallel for\nfor (int i = 0; i < n; ++i) ;\nreturn x + x; }\n"
    )
    command = _command()
    command._clang_cl = True
    microsoft = _Microsoft()
    microsoft.initialize()
    kept = [word for word in microsoft.compile_options if word != "/GL"]
    for isa, (_, flags) in build._FLAGS.items():
        own = [*command._spelled(build._COMMON), "/openmp", *command._spelled(flags)]
        call = ["clang", "--driver-mode=cl", "--target=x86_64-pc-windows-msvc", "/c", *kept, "/Tckernel.c", "/o", f"{isa}.obj", *own, "-Werror"]
        result = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert b"__kmpc_fork_call" in (tmp_path / f"{isa}.obj").read_bytes()


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
