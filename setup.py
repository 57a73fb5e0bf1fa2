"""Build the core. Everything that is not a compiled module is in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

import numpy
from setuptools import setup

# By path: there is no importable ruvattn yet.
spec = importlib.util.spec_from_file_location("ruvattn_build", Path(__file__).parent / "ruvattn" / "build.py")
build = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = build
spec.loader.exec_module(build)

setup(
    ext_modules=[
        build.Extension("ruvattn.kernels.cpu", ["ruvattn/kernels/cpu.pyx"]),
        build.Extension("ruvattn.kernels.csr", ["ruvattn/kernels/csr.pyx"], include_dirs=[numpy.get_include()]),
        *build.extensions("ruvattn.kernels.tile", ["ruvattn/kernels/tile.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]),
        *build.extensions(
            "ruvattn.kernels.tile_backward", ["ruvattn/kernels/tile_backward.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]
        ),
        *build.extensions("ruvattn.kernels.edge", ["ruvattn/kernels/edge.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]),
        *build.extensions("ruvattn.kernels.edge_backward", ["ruvattn/kernels/edge_backward.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]),
        *build.extensions("ruvattn.kernels.linear", ["ruvattn/kernels/linear.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]),
        *build.extensions("ruvattn.kernels.norm", ["ruvattn/kernels/norm.pyx"], per_dtype=True, include_dirs=[numpy.get_include()]),
    ],
    cmdclass={"build_ext": build.build_ext},
)
