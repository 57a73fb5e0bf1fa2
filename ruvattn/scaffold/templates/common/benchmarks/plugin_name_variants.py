"""The shapes that ruvattn's own variants are timed at, so that plugin-name stands beside them on a dashboard.

    asv run --quick -E existing:same --set-commit-hash $(git rev-parse HEAD)

A class is a row. For other options than the defaults write another class, with ``options = {…}`` in it.
"""

from ruvattn.testing.benchmarks import (
    PatternBenchmarks,  # only pattern
    ScoreBenchmarks,  # only score
    VariantBenchmarks,
)


class PluginName(VariantBenchmarks):
    """The layer that ``ruvattn.create("registered-name", …)`` makes."""

    variant = "registered-name"
# only score


class PluginNameScore(ScoreBenchmarks):
    """The score by itself."""

    score = "registered-name"
# end only
# only pattern


class PluginNamePattern(PatternBenchmarks):
    """The pattern by itself."""

    pattern = "registered-name"
# end only
