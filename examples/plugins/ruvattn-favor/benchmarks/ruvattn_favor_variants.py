"""The shapes that ruvattn's own variants are timed at, so that favor stands beside them on a dashboard.

    asv run --quick -E existing:same --set-commit-hash $(git rev-parse HEAD)

A class is a row. For other options than the defaults write another class, with ``options = {…}`` in it.
"""

from ruvattn.testing.benchmarks import VariantBenchmarks


class Favor(VariantBenchmarks):
    """The layer that ``ruvattn.create("favor", …)`` makes, of 256 features."""

    variant = "favor"


class FavorOf64Features(VariantBenchmarks):
    """The same with a quarter of the features: twice the error."""

    variant = "favor"
    options = {"num_features": 64}
