"""The shapes that ruvattn's own variants are timed at, so that these stand beside them on a dashboard.

    asv run --quick -E existing:same --set-commit-hash $(git rev-parse HEAD)

A class is a row: 1,024 tokens as one document, as four, and as 64.
"""

from ruvattn.testing.benchmarks import PatternBenchmarks, VariantBenchmarks


class OneDocument(VariantBenchmarks):
    """The layer that isn't told of documents."""

    variant = "documents"


class FourDocuments(VariantBenchmarks):
    """A quarter of the pairs."""

    variant = "documents"
    options = {"lengths": (256,) * 4}


class ManyDocuments(VariantBenchmarks):
    """Documents shorter than a block of rows."""

    variant = "documents"
    options = {"lengths": (16,) * 64}


class FourDocumentsByThePattern(PatternBenchmarks):
    """The pattern by itself."""

    pattern = "documents"
    options = {"lengths": (256,) * 4}


class DocumentsInPieces(PatternBenchmarks):
    """Two documents that alternate every 128 tokens."""

    pattern = "documents"
    options = {"ids": tuple(position // 128 % 2 for position in range(1024))}
