"""Import time, each in a fresh interpreter, and what importing leaves in memory."""

from __future__ import annotations


class Import:
    """`timeraw_` methods return the code to time and the code that goes before it."""

    number = 1  # a second import in the same interpreter finds the first one's module
    repeat = 11

    def timeraw_ruvattn(self) -> str:
        return "import ruvattn"

    def timeraw_beyond_numpy(self) -> tuple[str, str]:
        return "import ruvattn", "import numpy"

    def timeraw_first_call(self) -> tuple[str, str]:
        return (
            "import ruvattn; ruvattn.attention(q, q, q)",
            "import numpy; q = numpy.ones((1, 8, 16, 64), numpy.float32)",
        )

    def timeraw_plugins(self) -> tuple[str, str]:
        return "ruvattn.variants()", "import ruvattn"

    def timeraw_command_line(self) -> tuple[str, str]:
        return (
            "subprocess.run([sys.executable, '-m', 'ruvattn', '--help'], check=True, capture_output=True)",
            "import subprocess, sys",
        )

    def peakmem_ruvattn(self) -> None:
        import ruvattn  # noqa: F401
