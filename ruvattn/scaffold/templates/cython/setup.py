"""Build what is compiled once for each instruction set, with the flags of ruvattn."""

import site
import sysconfig

from setuptools import setup

try:
    from ruvattn.build import build_ext, extensions
except ModuleNotFoundError:
    # pip builds in an environment of its own. The ruvattn to build for is in the one that pip installs into: look there too.
    site.addsitedir(sysconfig.get_path("platlib"))
    from ruvattn.build import build_ext, extensions

setup(
    ext_modules=extensions("plugin_name._plugin_kind", ["src/plugin_name/_plugin_kind.pyx"]),
    cmdclass={"build_ext": build_ext},
)
