"""Which build of the kernels runs: the best that this processor can execute, or the one that RUVATTN_ISA names.

    load_kernels("ruvattn.kernels.tile", "float32") ─► ruvattn.kernels.tile_v3_float32

Modules are imported when first asked for. An instruction set that the processor lacks is refused here, so that none of its instructions is ever
reached.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from .errors import InvalidInputError, UnsupportedError
from .threads import keep_pausable

__all__ = ["ISAS", "ISA_VARIABLE", "KernelsByDtype", "active_isa", "load_kernels", "supported_isas"]

ISAS = ("v3", "baseline", "scalar")
"""The instruction sets that there are builds for, best first: AVX2 with FMA; what every x86-64 or aarch64 has; no vectors."""

ISA_VARIABLE = "RUVATTN_ISA"
"""The environment variable that forces one of `ISAS`."""


@lru_cache(maxsize=1)
def supported_isas() -> tuple[str, ...]:
    """Return the instruction sets that were built and that this processor can execute, best first.

    Returns
    -------
    tuple of str
        At least ``"scalar"``; empty if no kernels are installed.
    """
    try:
        cpu = import_module("ruvattn.kernels.cpu")
    except ModuleNotFoundError:  # not built
        return ()
    return tuple(isa for isa in ISAS if cpu.supports(isa) and _is_built("ruvattn.kernels.tile", isa))


@lru_cache(maxsize=1)
def active_isa() -> str:
    """Return the instruction set in use; fixed for the process when first asked for.

    Returns
    -------
    str
        The first of `supported_isas`, or what ``RUVATTN_ISA`` says.

    Raises
    ------
    UnsupportedError
        If ``RUVATTN_ISA`` names one that is unknown, was not built, or that this processor lacks.
    """
    supported = supported_isas()
    forced = os.environ.get(ISA_VARIABLE, "").strip().lower()
    if not supported:
        raise UnsupportedError("no compiled kernels are installed with ruvattn: install it from a wheel, or with a C compiler from source")
    if not forced:
        return supported[0]
    if forced not in supported:
        raise UnsupportedError(f"{ISA_VARIABLE}={forced!r} is not available on this machine: use one of {', '.join(supported)}, or unset it")
    return forced


def load_kernels(name: str, dtype: str | None = None) -> ModuleType:
    """Import a compiled module in the build for the active instruction set.

    Parameters
    ----------
    name : str
        The name that was given to `ruvattn.build.extensions`, such as ``"ruvattn_x._score"``.
    dtype : {"float32", "float64"}, optional
        Needed for modules that were built with ``per_dtype=True``.

    Returns
    -------
    module
        Built for `active_isa`, or for the next simpler instruction set that was built.

    Raises
    ------
    InvalidInputError
        If there is no such module in any build.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise InvalidInputError(f"name must be the full name of a compiled module without its suffix, such as 'ruvattn_x._score', got {name!r}")
    active = active_isa()
    suffix = "" if dtype is None else f"_{dtype}"
    for isa in ISAS[ISAS.index(active) :]:
        full = f"{name}_{isa}{suffix}"
        try:
            module = import_module(full)
            keep_pausable(module)
            return module
        except ModuleNotFoundError as error:
            # The module or a package that it should be in; anything else is missing inside of it.
            if error.name is None or not f"{full}.".startswith(f"{error.name}."):
                raise
    raise InvalidInputError(
        f"name must be a compiled module built by ruvattn.build.extensions, and there is no {name}_{active}{suffix}: build and install its package"
    )


class KernelsByDtype(dict[Any, ModuleType]):
    """The builds of a module for each dtype, for the instruction set in use: dtype to module, imported when first asked for.

    Parameters
    ----------
    name : str
        As for `load_kernels`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __missing__(self, dtype: Any) -> ModuleType:
        module = self[dtype] = load_kernels(self.name, dtype.name)
        return module


def _is_built(name: str, isa: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"{name}_{isa}_float32") is not None
