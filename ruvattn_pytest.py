"""The entry point by which pytest finds `ruvattn.testing`: options and fixtures; ruvattn itself is imported when one of them is used.

    pytest starts ─► this module: options, names of fixtures          no NumPy, no ruvattn
                       └─ an option, a marker or a fixture of it is used ─► ruvattn/testing/pytest_plugin.py

Every test run on a machine with ruvattn installed imports this, and so does a run that measures ruvattn's own coverage, before the measuring begins:
hence a module of its own, with nothing in it that takes time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

__all__: list[str] = []

DTYPES = ("float32", "float64", "float16", "bfloat16")


def _plugin() -> Any:
    from ruvattn.testing import pytest_plugin

    return pytest_plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what can be said on the command line and in a configuration file."""
    group = parser.getgroup("ruvattn", "ruvattn: attention for NumPy")
    group.addoption(
        "--ruvattn-variant", action="append", default=[], metavar="NAMES",
        help="run the conformance suite on these registered variants, and tests that take ruvattn_variant with no others; comma-separated",
    )  # fmt: skip
    group.addoption("--ruvattn-table", action="store_true", help="show checks × subjects as a table for all conformance tests that ran")
    parser.addini("ruvattn_variant", "variants that tests which take ruvattn_variant run with; all by default", type="args", default=[])
    parser.addini("ruvattn_distributions", "distributions whose variants these are, unless ruvattn_variant names them", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; where variants are named, see that they are there."""
    config.addinivalue_line("markers", "ruvattn_variant(*names): the registered variants that a test which takes ruvattn_variant runs with")
    if config.getoption("ruvattn_variant") or config.getoption("ruvattn_table"):
        _plugin().configure(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes ``ruvattn_variant`` its variants."""
    if "ruvattn_variant" in metafunc.fixturenames:
        _plugin().parametrize(metafunc)


@pytest.fixture
def ruvattn_variant(request: pytest.FixtureRequest) -> Any:
    """A factory of a registered variant, ``factory(embed_dim=…, num_heads=…)``: one test for each variant."""
    return request.param


@pytest.fixture
def ruvattn_rng(request: pytest.FixtureRequest) -> Any:
    """A `numpy.random.Generator` seeded by the name of the test: the same numbers each time, others in another test."""
    return _plugin().generator(request.node)


@pytest.fixture(params=[1, 2], ids=lambda threads: f"{threads}-thread{'' if threads == 1 else 's'}")
def ruvattn_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """1, then 2: kernels run on so many threads; what was set before is set again afterwards."""
    with _plugin().threads(request.param):
        yield request.param


@pytest.fixture(params=DTYPES)
def ruvattn_dtype(request: pytest.FixtureRequest) -> Any:
    """Each dtype that attention takes, as a `numpy.dtype`; bfloat16 where ml_dtypes is installed."""
    return _plugin().dtype(request.param)


@pytest.fixture
def ruvattn_registry() -> Iterator[Any]:
    """Try a plugin without installing it: ``ruvattn_registry.load(module)``; names are as they were afterwards."""
    with _plugin().registry() as tried:
        yield tried
