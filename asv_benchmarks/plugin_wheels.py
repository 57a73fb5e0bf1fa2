"""The plugins of a commit, for asv, whose commands have no loops.

    plugin_wheels.py build <checkout> <cache>      install the core's wheel, which the plugins' builds need, and build theirs
    plugin_wheels.py install <cache>
    plugin_wheels.py uninstall

The wheels lie in <cache>/plugins: asv takes the only one in the cache itself to be the project's.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def pip(*arguments: str | Path) -> None:
    """Run pip in this environment."""
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True)


def build(checkout: Path, cache: Path) -> None:
    """Build a wheel of every plugin in the checkout."""
    folders = sorted(path.parent for path in (checkout / "plugins").glob("*/pyproject.toml"))
    (cache / "plugins").mkdir(exist_ok=True)
    if not folders:
        return
    pip("install", "--no-deps", "--no-index", "--force-reinstall", *cache.glob("*.whl"))
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", cache / "plugins", *folders)


def install(cache: Path) -> None:
    """Install the wheels."""
    wheels = sorted((cache / "plugins").glob("*.whl"))
    if wheels:
        pip("install", "--no-deps", "--no-index", "--force-reinstall", *wheels)


def uninstall() -> None:
    """Uninstall every plugin, whichever commit it came from: an older commit may have fewer."""
    from importlib.metadata import entry_points

    names = sorted({point.dist.name for point in entry_points(group="ruvattn") if point.dist is not None})
    if names:
        pip("uninstall", "-y", *names)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"build": build, "install": install, "uninstall": uninstall}
    commands[sys.argv[1]](*map(Path, sys.argv[2:]))
