"""Ready an environment of cibuildwheel: for a build, what a project's build needs; for a test, what its wheel needs and no index has.

    python scripts/wheel_environment.py build|test PROJECT WHEELS

A plugin is built with the core's flags, include path and kernels, and tested with the core: both times its wheel is taken from the folder
WHEELS, where an earlier step of the same run has put it, and never from an index.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path


def pip(*arguments: str) -> None:
    """Install into the environment of this interpreter."""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)


def main(purpose: str, project: Path, wheels: Path) -> None:
    """Install what building or testing one project's wheel takes."""
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    if purpose == "build":
        pip(*described["build-system"]["requires"])
        if sys.platform == "win32":
            pip("delvewheel>=1.10")
        if sys.platform == "darwin":
            pip("delocate>=0.12", "wheel>=0.45")
    if described["project"]["name"] != "ruvattn":
        if not list(wheels.glob("ruvattn-*.whl")):
            sys.exit(f"no wheel of the core in {wheels}: it is made before the plugins'")
        pip("--no-index", "--no-deps", "--find-links", str(wheels), "ruvattn")
        pip("ruvattn")  # there, by now: what it depends on


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("build", "test"):
        sys.exit("python scripts/wheel_environment.py build|test PROJECT WHEELS")
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
