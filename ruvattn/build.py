"""Build compiled kernels as the core does: OpenMP, flags, one extension module for each instruction set.

    setup.py ─► extensions(name, sources) ─► [Extension, …]     name_scalar, name_baseline, name_v3 (× dtype)
            └─► build_ext                 ─► probes the compiler, cythonizes each module under its own name, adds flags

    Linux     gcc or clang                   -fopenmp                                   libgomp
    macOS     Apple's clang                  -Xpreprocessor -fopenmp, and where it is   libomp, of Homebrew or conda
    Windows   clang-cl in the place of cl    /openmp                                    libomp, which comes with LLVM

Imports nothing of ``ruvattn``: the core's own ``setup.py`` loads this file by its path, before there is anything to import. At run time
`ruvattn.load_kernels` picks the module of the active instruction set.

Flags never include ``-ffast-math`` and its kin, and those are taken out of the user's CFLAGS and of what an extension asks for: on a link line they
would flush subnormals to zero in the whole process that loads the module.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.errors import PlatformError

__all__ = ["DTYPES", "ISAS", "build_ext", "extensions"]

DTYPES = ("float32", "float64")
"""The dtypes that kernels are compiled for where the source is written for one ``real``."""


def _machine() -> str:
    """Return the processor that is built for, which on macOS and Windows need not be the one that builds."""
    # CPython's own answer ends in it: linux-x86_64, win-amd64, macosx-11.0-arm64.
    machine = re.split(r"[-.]", sysconfig.get_platform())[-1].lower()
    if sys.platform == "darwin":
        asked = re.findall(r"-arch\s+(\S+)", os.environ.get("ARCHFLAGS", ""))
        if len(set(asked)) == 1:
            return str(asked[0])
        if machine.startswith("universal"):
            return platform.machine().lower()
    return machine


_X86 = _machine() in ("x86_64", "amd64")

# Vector bytes, and what the compiler is told: nothing that kernels/cpu.pyx does not ask the processor for. "scalar" is what the vector builds are
# measured against: no vectors of any making.
_FLAGS: dict[str, tuple[int, tuple[str, ...]]] = {
    "scalar": (0, ("-fno-tree-vectorize", "-fno-tree-slp-vectorize")),
    "baseline": (16, ()),
}
if _X86:
    _FLAGS["v3"] = (32, ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt"))

ISAS = tuple(_FLAGS)
"""The instruction sets that are built on this machine, simplest first."""

ISAS_VARIABLE = "RUVATTN_BUILD_ISAS"
"""The environment variable that restricts what is built: for a quick build on the machine that it is for."""

_COMMON = ("-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
# Some set flush-to-zero for the process that loads the module, some take away NaN, -0.0 or the order of sums that kernels rely on, and "native"
# makes a build for one machine of one that says it runs on all.
_FORBIDDEN = {
    "-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only", "-fassociative-math", "-freciprocal-math", "-fno-signed-zeros",
    "-ffp-model=fast", "-mdaz-ftz", "-march=native", "-mcpu=native", "/fp:fast", "-fp:fast",
}  # fmt: skip

# Where libomp is, which Apple's compiler does not bring along: Homebrew keeps it out of the usual paths, for ARM and for Intel.
_HOMEBREW = ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp")

_OPENMP_PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def _allowed(words: Sequence[str], origin: str) -> list[str]:
    """Return flags without those that no kernel may be built with."""
    forbidden = [word for word in words if word.removeprefix("/clang:") in _FORBIDDEN]
    if forbidden:
        warnings.warn(f"{' '.join(forbidden)} of {origin} would change the arithmetic of kernels or of the whole process: left out", stacklevel=2)
    return [word for word in words if word not in forbidden]


class _Kernel(Extension):
    """An extension module that knows for which instruction set and dtype it is built."""

    isa: str | None = None
    dtype: str | None = None
    cython_directives: dict[str, Any]


def extensions(name: str, sources: Sequence[str], *, per_dtype: bool = False, isas: Iterable[str] | None = None, **options: Any) -> list[Extension]:
    """Return one extension module for each instruction set, or for each instruction set and dtype.

    Parameters
    ----------
    name : str
        Full name without suffix, such as ``"ruvattn_x._score"``; modules are called ``ruvattn_x._score_v3`` and so on, and
        `ruvattn.load_kernels` takes the name without suffix.
    sources : sequence of str
        The ``.pyx`` file, and C files that go with it.
    per_dtype : bool, default False
        Compile the source twice, with ``real`` of ``ruvattn.kernels.vector`` as float and as double; the dtype is appended to the name
        (``ruvattn_x._score_v3_float32``).
    isas : iterable of str, optional
        The instruction sets; by default those that the environment variable ``RUVATTN_BUILD_ISAS`` names, separated by commas, or all of `ISAS`.
        Where the compiler refuses the flags of one, its module is left out with a warning.
    **options
        Passed on to ``setuptools.Extension``.

    Returns
    -------
    list of setuptools.Extension
        For ``ext_modules``; `build_ext` has to be the command that builds them.

    Raises
    ------
    ValueError
        If an instruction set is unknown here.
    """
    found = []
    origin = "isas"
    if isas is None:
        origin = ISAS_VARIABLE
        isas = [name for name in os.environ.get(ISAS_VARIABLE, "").replace(" ", "").split(",") if name] or ISAS
    for isa in isas:
        if isa not in _FLAGS:
            raise ValueError(f"{origin} must be of {', '.join(ISAS)}, got {isa!r}")
        for dtype in DTYPES if per_dtype else (None,):
            suffix = f"_{isa}" if dtype is None else f"_{isa}_{dtype}"
            kernel = _Kernel(name + suffix, list(sources), **options)
            kernel.isa, kernel.dtype = isa, dtype
            found.append(kernel)
    return found


def _find_clang_cl() -> str:
    """Return the path of clang-cl: what CC says, what is in PATH, or what LLVM's or Visual Studio's installer left."""
    asked = os.environ.get("CC", "")
    if "clang-cl" in Path(asked.replace("\\", "/")).name.lower():
        found = shutil.which(asked)
        if not found:
            raise PlatformError(f"CC is {asked!r}, and there is no such program")
        return found
    folders = [f"{os.environ.get('PROGRAMFILES', 'C:/Program Files')}/LLVM/bin"]
    if studio := os.environ.get("VCINSTALLDIR"):
        folders.append(f"{studio}/Tools/Llvm/x64/bin")
    for path in (None, *folders):
        if found := shutil.which("clang-cl", path=path):
            return found
    raise PlatformError(
        "Microsoft's compiler has no vector types: the kernels need clang-cl, and it is neither in PATH nor where LLVM installs it. "
        "`winget install LLVM.LLVM` brings it; or set CC to its path"
    )


class build_ext(_build_ext):  # noqa: N801 (setuptools finds commands by this name)
    """Build kernels: probe the compiler once, cythonize, add flags; other extensions are built with the common flags."""

    extensions: list[Any]
    parallel: int | bool | None
    _clang_cl = False  # the compiler reads its command line as Microsoft's does

    def finalize_options(self) -> None:
        # Sources are cythonized in build_extension, each module under its own name. Cython's own hook would do it here, all in one file.
        super().finalize_options()
        for extension in self.extensions or ():
            extension._needs_stub = False

    def build_extensions(self) -> None:
        if getattr(self.compiler, "compiler_type", "") == "msvc":
            self._use_clang_cl()
        for command in ("compiler", "compiler_so", "compiler_cxx", "compiler_so_cxx", "linker_so", "linker_exe"):
            words = getattr(self.compiler, command, None)
            if isinstance(words, list):
                setattr(self.compiler, command, _allowed(words, "CFLAGS or LDFLAGS"))
        self._openmp = self._probe_openmp()
        self.parallel = self.parallel or os.cpu_count()
        skipped = []
        for isa in sorted({e.isa for e in self.extensions if getattr(e, "isa", None)}):
            if not self._accepts(_FLAGS[isa][1]):
                warnings.warn(f"the compiler does not take the flags of {isa!r}: that build is left out", stacklevel=2)
                skipped.append(isa)
        self.extensions = [e for e in self.extensions if getattr(e, "isa", None) not in skipped]
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        compile_flags, link_flags = self._openmp
        isa, dtype = getattr(ext, "isa", None), getattr(ext, "dtype", None)
        vector_bytes, isa_flags = _FLAGS[isa] if isa else (16, ())
        ext.define_macros = [
            *ext.define_macros,
            ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
            ("RUVATTN_VECTOR_BYTES", str(vector_bytes)),
            ("RUVATTN_FLAGS", '"' + " ".join((*_COMMON, *compile_flags)) + '"'),
        ]
        if dtype == "float64":
            ext.define_macros.append(("RUVATTN_DOUBLE", "1"))
        asked = _allowed(ext.extra_compile_args, f"extra_compile_args of {ext.name}")
        ext.extra_compile_args = [*asked, *self._spelled(_COMMON), *compile_flags, *self._spelled(isa_flags)]
        ext.extra_link_args = [*_allowed(ext.extra_link_args, f"extra_link_args of {ext.name}"), *link_flags]
        ext.sources = self._cythonize(ext)
        super().build_extension(ext)

    def _cythonize(self, ext: Extension) -> list[str]:
        """Translate the .pyx sources to C files of this module's own."""
        from Cython.Compiler.Main import CompilationOptions, compile_single, default_options

        root = Path(__file__).resolve().parent.parent
        folder = Path(self.build_temp).resolve() / "cython" / ext.name
        sources = []
        for source in ext.sources:
            if not source.endswith(".pyx"):
                sources.append(source)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / Path(source).with_suffix(".c").name
            options = CompilationOptions(
                default_options,
                output_file=str(target),
                include_path=[str(root), *map(str, ext.include_dirs)],
                language_level=3,
            )
            result = compile_single(source, options, full_module_name=ext.name)
            if result.num_errors:
                raise RuntimeError(f"Cython found {result.num_errors} errors in {source}")
            sources.append(str(target))
        return sources

    def _probe_openmp(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the flags of the compiler and of the linker that give OpenMP; empty, with a warning, where there is none."""
        # A module without parallel loops shall not ask for the library: a plugin's wheel would have to bring one along. Linkers leave it out
        # when they are told, and some by themselves.
        candidates: list[tuple[tuple[str, ...], tuple[str, ...]]]
        if self._clang_cl:
            beside = Path(self.compiler.cc).parent.parent / "lib"
            candidates = [(("/openmp",), ("libomp.lib",)), (("/openmp",), ("libomp.lib", f"/LIBPATH:{beside}"))]
        elif sys.platform == "darwin":
            candidates = [(("-Xpreprocessor", "-fopenmp"), ("-Wl,-dead_strip_dylibs", "-lomp"))]
            for prefix in filter(None, (os.environ.get("CONDA_PREFIX"), *_HOMEBREW)):
                if os.path.exists(f"{prefix}/include/omp.h"):
                    candidates.append((("-Xpreprocessor", "-fopenmp", f"-I{prefix}/include"), ("-Wl,-dead_strip_dylibs", f"-L{prefix}/lib", "-lomp")))
        else:
            candidates = [(("-fopenmp",), ("-Wl,--as-needed", "-fopenmp")), (("-fopenmp",), ("-fopenmp",))]
        for compile_flags, link_flags in candidates:
            if self._tries(_OPENMP_PROBE, compile_flags, link_flags):
                return compile_flags, link_flags
        warnings.warn("the compiler has no OpenMP: every call will run on one thread", stacklevel=2)
        return (), ()

    def _accepts(self, flags: Sequence[str]) -> bool:
        return not flags or self._tries("int main(void) { return 0; }\n", self._spelled(flags), None)

    def _spelled(self, flags: Sequence[str]) -> list[str]:
        """Return flags in the compiler's own form: clang-cl takes clang's behind a word that says so."""
        return [f"/clang:{flag}" for flag in flags] if self._clang_cl else list(flags)

    def _use_clang_cl(self) -> None:
        """Put clang-cl in the place of Microsoft's compiler, with everything else of it: headers, libraries, linker."""
        if not self.compiler.initialized:
            self.compiler.initialize(self.plat_name)
        self.compiler.cc = _find_clang_cl()
        # Code that is made at link time is Microsoft's own: clang-cl knows no /GL, and warns.
        self.compiler.compile_options = [word for word in self.compiler.compile_options if word != "/GL"]
        self._clang_cl = True

    def _tries(self, program: str, compile_flags: Sequence[str], link_flags: Sequence[str] | None) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[*compile_flags, "-Werror"])
                if link_flags is not None:
                    self.compiler.link_executable(objects, str(Path(folder) / "probe"), extra_postargs=list(link_flags))
            except Exception:  # distutils' errors differ between setuptools' versions; any failure means no
                return False
        return True
