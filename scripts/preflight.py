"""See, before anything is made, that this machine has what a build needs; say in one line each what is missing and how to get it.

    python3 scripts/preflight.py

Runs under any Python 3, so that one that is too old gets a sentence and not a SyntaxError.
"""

import os
import shlex
import shutil
import sys
import sysconfig


def problems():
    """Yield a line for each thing that is missing."""
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < (3, 11):  # noqa: UP036 (this is the line that says so)
        yield f"Python 3.11 or newer is needed, {sys.executable} is {version}: try `make PYTHON=python3.13 …`"
        return
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        yield "this Python cannot make virtual environments: apt-get install python3-venv"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if not shutil.which(compiler):
        yield f"no C compiler, {compiler!r} is not there: apt-get install gcc, or set CC"
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        yield f"no {header}: apt-get install python3-dev"


if __name__ == "__main__":
    found = list(problems())
    for line in found:
        print("ruvattn: " + line, file=sys.stderr)
    sys.exit(bool(found))
