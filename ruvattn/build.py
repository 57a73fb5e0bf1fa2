"""Build compiled kernels as the core does: OpenMP, flags, one extension module for each instruction set.

    setup.py ─► extensions(name, sources) ─► [Extension, …]     name_scalar, name_baseline, name_v3 (× dtype)
            └─► build_ext                 ─► probes the compiler, cythonizes each module under its own name, adds flags

Imports nothing of ``ruvattn``: the core's own ``setup.py`` loads this file by its path, before there is anything to import. At run time
`ruvattn.load_kernels` picks the module of the active instruction set.

Flags never include ``-ffast-math`` and its kin, and those are taken out of the user's CFLAGS and of what an extension asks for: on a link line they
would flush subnormals to zero in the whole process that loads the module.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext

__all__ = ["DTYPES", "ISAS", "build_ext", "extensions"]

DTYPES = ("float32", "float64")
"""The dtypes that kernels are compiled for where the source is written for one ``real``."""

_X86 = platform.machine().lower() in ("x86_64", "amd64")

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
    "-ffp-model=fast", "-mdaz-ftz", "-march=native", "-mcpu=native",
}  # fmt: skip

_OPENMP_PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def _allowed(words: Sequence[str], origin: str) -> list[str]:
    """Return flags without those that no kernel may be built with."""
    dropped = [word for word in words if word in _FORBIDDEN]
    if dropped:
        warnings.warn(f"{' '.join(dropped)} of {origin} would change the arithmetic of kernels or of the whole process: left out", stacklevel=2)
    return [word for word in words if word not in _FORBIDDEN]


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


class build_ext(_build_ext):  # noqa: N801 (setuptools finds commands by this name)
    """Build kernels: probe the compiler once, cythonize, add flags; other extensions are built with the common flags."""

    extensions: list[Any]
    parallel: int | bool | None

    def finalize_options(self) -> None:
        # Sources are cythonized in build_extension, each module under its own name. Cython's own hook would do it here, all in one file.
        super().finalize_options()
        for extension in self.extensions or ():
            extension._needs_stub = False

    def build_extensions(self) -> None:
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
        ext.extra_compile_args = [*_allowed(ext.extra_compile_args, f"extra_compile_args of {ext.name}"), *_COMMON, *compile_flags, *isa_flags]
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
        if sys.platform == "darwin":
            candidates = [(("-Xpreprocessor", "-fopenmp"), ("-lomp",))]
        else:
            candidates = [(("-fopenmp",), ("-fopenmp",))]
        for compile_flags, link_flags in candidates:
            if self._tries(_OPENMP_PROBE, compile_flags, link_flags):
                return compile_flags, link_flags
        warnings.warn("the compiler has no OpenMP: every call will run on one thread", stacklevel=2)
        return (), ()

    def _accepts(self, flags: Sequence[str]) -> bool:
        return not flags or self._tries("int main(void) { return 0; }\n", flags, None)

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
