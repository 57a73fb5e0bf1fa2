"""Build the compiled scores once for each instruction set and dtype, with the flags of the core."""

import site
import sysconfig

from setuptools import setup

try:
    from ruvattn.build import build_ext, extensions
except ModuleNotFoundError:
    # pip builds in an environment of its own. The core to build for is in the one that pip installs into: look there too.
    site.addsitedir(sysconfig.get_path("platlib"))
    from ruvattn.build import build_ext, extensions

FOLDER = "src/ruvattn_geometric"
PARTS = [f"{FOLDER}/{name}.pxd" for name in ("_components", "_functions", "_pairs", "_points")]

setup(
    ext_modules=extensions("ruvattn_geometric._scores", [f"{FOLDER}/_scores.pyx"], per_dtype=True, depends=PARTS),
    cmdclass={"build_ext": build_ext},
)
