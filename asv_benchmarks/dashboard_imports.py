"""Imports a third-party plugin's benchmarks before asv does, which at the first module that it can't import gives up the whole suite.

    benchmarks/demo_x/__init__.py ─► importable ─┬─ all can be imported ─► asv finds them
                                                 └─ one can't ───────────► asv finds none of demo-x; logs/benchmarks/<commit>-demo-x.txt says why

It runs in the environment that is measured: standard library only.
"""

from __future__ import annotations

import os
import pkgutil
import traceback
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

__all__ = ["importable"]


def importable(package: str, path: Iterable[str], logs: str, plugin: str) -> list[str]:
    """Import all modules of a package as asv is going to.

    Parameters
    ----------
    package : str
        Its name.
    path : iterable of str
        Its folders.
    logs : str
        The folder for a log of what can't be imported; one that is there of this commit is removed where all can.
    plugin : str
        The distribution that the benchmarks are of.

    Returns
    -------
    list of str
        `path`, or no folders where a module can't be imported: asv then finds none of the package.
    """
    folders = list(path)
    log = Path(logs) / f"{os.environ.get('ASV_COMMIT', 'unknown')}-{plugin}.txt"
    try:
        _import(package, folders)
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit too: some modules end the process where something is missing
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"The benchmarks of {plugin} can't be imported:\n\n{traceback.format_exc()}", encoding="utf-8")
        return []
    log.unlink(missing_ok=True)
    return folders


def _import(package: str, folders: list[str]) -> None:
    for _, name, _ in pkgutil.iter_modules(folders, f"{package}."):
        module = import_module(name)
        _import(name, list(getattr(module, "__path__", ())))
