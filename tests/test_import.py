"""What ``import ruvattn`` costs and what it leaves alone, each tried in a fresh interpreter."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ruvattn

HEAVY = [
    "asyncio",
    "click",
    "email",
    "importlib.metadata",
    "matplotlib",
    "ml_dtypes",
    "pluggy",
    "rich",
    "scipy",
    "threadpoolctl",
    "torch",
]


def run(code, *arguments, **environment):
    """Run Python code in a fresh interpreter and return what it prints."""
    path = os.pathsep.join([str(Path(ruvattn.__file__).parents[1]), *filter(None, sys.path)])
    result = subprocess.run(
        [sys.executable, *arguments, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def imported_by(code):
    """Return the modules that the code imports beyond NumPy and a bare interpreter's."""
    return set(
        run(f"""
            import sys
            import numpy
            before = set(sys.modules)
            {code}
            print(*sorted(set(sys.modules) - before))
        """).split()
    )


@pytest.mark.parametrize(
    "code",
    [
        "import ruvattn",
        "import ruvattn; ruvattn.attention(*numpy.ones((3, 2, 5, 8), dtype='float32'), causal=True)",
        "import ruvattn; ruvattn.create('multihead', embed_dim=8, num_heads=2)",
    ],
    ids=["import", "attention", "create"],
)
def test_no_heavy_module_is_imported(code):
    imported = imported_by(code)
    assert "ruvattn" in imported
    assert imported.isdisjoint(HEAVY), imported.intersection(HEAVY)


def test_import_writes_nothing_and_warns_of_nothing():
    assert run("import ruvattn", "-W", "error") == ""


def test_a_copy_that_was_not_built_says_so():
    """The kernels hidden, for here they are built."""
    found = run(
        """
        import sys
        sys.modules["ruvattn.kernels.cpu"] = None
        import numpy, ruvattn
        try:
            ruvattn.attention(*numpy.ones((3, 4, 8)))
        except ruvattn.errors.UnsupportedError as error:
            print(error)
        """
    )
    assert found.startswith("no compiled kernels are installed with ruvattn: install it from a wheel, or with a C compiler")


SUBNORMALS_SURVIVE = """
    import threading
    import numpy as np
    {before}

    def check():
        tiny = np.full(64, 1e-40, dtype=np.float32)
        assert (tiny > 0).all(), "subnormals are read as zero"
        assert (tiny * np.float32(0.5) > 0).all(), "subnormals are flushed to zero"
        tiny = np.full(64, 1e-310)
        assert (tiny * 0.5 > 0).all(), "double subnormals are flushed to zero"

    check()
    threads = [threading.Thread(target=check) for _ in range(2)]
    failures = []
    threading.excepthook = failures.append
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0].exc_value
"""


@pytest.mark.parametrize(
    "before",
    [
        "import ruvattn",
        "import ruvattn; ruvattn.attention(*np.ones((3, 4, 64, 16), dtype=np.float32), threads=2)",
        "import ruvattn; ruvattn.variants()",
    ],
    ids=["import", "attention", "plugins"],
)
def test_subnormals_survive(before):
    """A ``-ffast-math`` on the link line of any extension module would flush them for the whole process."""
    run(SUBNORMALS_SURVIVE.format(before=before))


def test_the_subnormal_check_notices_flushing(tmp_path):
    """The test above can fail: with the processor's flush-to-zero bits set it does."""
    compiler = "cc"
    source = tmp_path / "flush.c"
    source.write_text("void flush(void) { __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040); }")
    library = tmp_path / "flush.so"
    try:
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs an x86 C compiler")
    before = f"import ctypes; ctypes.CDLL({str(library)!r}).flush()"
    with pytest.raises(AssertionError, match="subnormals are"):
        run(SUBNORMALS_SURVIVE.format(before=before))


def test_every_public_name_is_there_and_listed():
    listed = dir(ruvattn)
    for name in ruvattn.__all__:
        assert getattr(ruvattn, name) is not None
        assert name in listed


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ruvattn.no_such_name


def test_functions_are_not_hidden_by_submodules():
    """A submodule with the name of a function replaces the function once it is imported."""
    import pkgutil

    submodules = {module.name for module in pkgutil.iter_modules(ruvattn.__path__)}
    functions = {name for name in ruvattn.__all__ if callable(getattr(ruvattn, name))}
    assert submodules.isdisjoint(functions)
