"""The shapes that ruvattn's own variants are timed at, so that ALiBi stands beside them on a dashboard.

    asv run --quick -E existing:same --set-commit-hash $(git rev-parse HEAD)

A class is a row. For other options than the defaults write another class, with ``options = {…}`` in it.
"""

from typing import ClassVar

from ruvattn.testing.benchmarks import ScoreBenchmarks, VariantBenchmarks


class Alibi(VariantBenchmarks):
    """The layer that ``ruvattn.create("alibi", …)`` makes."""

    variant = "alibi"


class AlibiCausal(VariantBenchmarks):
    """The same as the paper has it, where no query sees what is ahead: half of the pairs."""

    variant = "alibi"
    options: ClassVar = {"causal": True}


class AlibiScore(ScoreBenchmarks):
    """The score by itself, compiled."""

    score = "alibi"


class AlibiScoreInNumPy(ScoreBenchmarks):
    """The score by itself, whose tiles come back to Python."""

    score = "alibi-numpy"
