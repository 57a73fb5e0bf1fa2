"""How this copy was built, what it found on this machine, and which plugins it has: for bug reports, and for ``ruvattn info``."""

from __future__ import annotations

import os
import platform
from typing import Any

__all__ = ["config_info", "describe", "show_config"]

# What the macro _OPENMP, a date, means.
_OPENMP_VERSIONS = {
    200505: "2.5",
    200805: "3.0",
    201107: "3.1",
    201307: "4.0",
    201511: "4.5",
    201811: "5.0",
    202011: "5.1",
    202111: "5.2",
    202411: "6.0",
}

_VARIABLES = ("RUVATTN_ISA", "RUVATTN_LOAD_PLUGINS", "OMP_NUM_THREADS")


def config_info() -> dict[str, Any]:
    """Return how this copy was built, what it found on this machine, and what became of the plugins.

    Loads the plugins, for it lists them; starts no threads.

    Returns
    -------
    dict of str to object
        Ready for JSON:

        * ``ruvattn``, ``python``, ``platform``, ``numpy``, ``scipy``: versions;
        * ``compiler``, ``flags``: what the kernels were built with, and the flags that all builds share;
        * ``isa``: the build in use; ``isas_built``, ``isas_supported``: those that are installed, and those that this processor can execute too,
          best first; ``vector_bytes``: the width of a vector, of one number's size in the scalar build;
        * ``openmp``: its version and date, or None; ``threads``: how many a call may use; ``thread_pools``: what threadpoolctl finds in the process;
        * ``environment``: those of the variables that ruvattn reads that are set;
        * ``plugins``: "distribution version (entry point)" to the names that it provides; ``left_out``: those that RUVATTN_LOAD_PLUGINS excludes;
          ``failures``: the same to what is wrong, on one line.

    Raises
    ------
    UnsupportedError
        If no compiled kernels are installed, or RUVATTN_ISA names a build that cannot be used.

    Examples
    --------
    >>> import ruvattn
    >>> ruvattn.config_info()["failures"]
    {}
    """
    import numpy as np
    import scipy
    from threadpoolctl import threadpool_info

    from . import __version__, plugins
    from .isa import ISAS, _is_built, active_isa, load_kernels, supported_isas
    from .threads import get_num_threads

    isa = active_isa()
    kernel = load_kernels("ruvattn.kernels.tile", "float32")
    from .kernels import cpu  # type: ignore[attr-defined]  # compiled

    statuses = {_label(status): status for status in plugins.status()}
    pools = [{key: pool.get(key) for key in ("internal_api", "version", "num_threads", "filepath")} for pool in threadpool_info()]
    return {
        "ruvattn": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "compiler": cpu.COMPILER,
        "flags": cpu.FLAGS,
        "isa": isa,
        "isas_built": [name for name in ISAS if _is_built("ruvattn.kernels.tile", name)],
        "isas_supported": list(supported_isas()),
        "vector_bytes": int(kernel.VECTOR_BYTES),
        "openmp": f"{_OPENMP_VERSIONS.get(kernel.OPENMP, 'of')} ({kernel.OPENMP})" if kernel.OPENMP else None,
        "threads": get_num_threads(),
        "thread_pools": sorted(pools, key=lambda pool: str(pool["filepath"])),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "plugins": {label: {kind: list(names) for kind, names in s.provides.items()} for label, s in statuses.items() if s.loaded},
        "left_out": [label for label, status in statuses.items() if status.skipped],
        "failures": {label: status.error for label, status in statuses.items() if status.error},
    }


def show_config() -> None:
    """Print `config_info`: compiler, flags, instruction set, OpenMP, threads, plugins and failures.

    Examples
    --------
    >>> import ruvattn
    >>> ruvattn.show_config()  # doctest: +ELLIPSIS
    ruvattn         ...
    """
    entries = describe(config_info())
    width = max(len(key) for key, _ in entries)
    for key, text in entries:
        lines = text.splitlines()
        print(f"{key:{width}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':{width}}  {line}")


def describe(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Put `config_info` into words.

    Parameters
    ----------
    info : dict
        What `config_info` returns.

    Returns
    -------
    list of (str, str)
        What it is about, and what there is to say, on one or more lines.
    """
    words = {**info, "openmp": info["openmp"] or "none: every call runs on one thread"}
    words["thread_pools"] = [
        f"{pool['internal_api']} {pool['version'] or ''}".strip() + f", {pool['num_threads']} threads, {pool['filepath']}"
        for pool in info["thread_pools"]
    ]
    words["plugins"] = {
        label: "; ".join(f"{kind}: {', '.join(names)}" for kind, names in provides.items()) or "nothing"
        for label, provides in info["plugins"].items()
    }
    words["isas_built"] = ", ".join(info["isas_built"])
    words["isas_supported"] = ", ".join(info["isas_supported"])
    return [(key.replace("_", " "), _text(value)) for key, value in words.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list):
        value = "\n".join(value)
    return str(value) or "none"


def _label(status: Any) -> str:
    return f"{status.distribution} {status.version} ({status.name})" if status.version else f"{status.name} {status.distribution}"
