"""Build the compiled parts: scores and segments once for each instruction set and dtype, with the flags of the core; the structure of graphs once."""

import site
import sysconfig

from setuptools import setup

try:
    from ruvattn.build import Extension, build_ext, extensions
except ModuleNotFoundError:
    # pip builds in an environment of its own. The core to build for is in the one that pip installs into: look there too.
    site.addsitedir(sysconfig.get_path("platlib"))
    from ruvattn.build import Extension, build_ext, extensions

import numpy  # it comes with the core: to be found where that is

FOLDER = "src/ruvattn_graph"

setup(
    ext_modules=[
        Extension("ruvattn_graph._structure", [f"{FOLDER}/_structure.pyx"], include_dirs=[numpy.get_include()]),
        *extensions("ruvattn_graph._scores", [f"{FOLDER}/_scores.pyx"], per_dtype=True),
        *extensions("ruvattn_graph._segments", [f"{FOLDER}/_segments.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]),
    ],
    cmdclass={"build_ext": build_ext},
)
