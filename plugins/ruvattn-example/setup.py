"""Build the compiled score once for each instruction set, with the flags of the core."""

from setuptools import setup

from ruvattn.build import build_ext, extensions

setup(
    ext_modules=extensions("ruvattn_example._rbf", ["src/ruvattn_example/_rbf.pyx"]),
    cmdclass={"build_ext": build_ext},
)
