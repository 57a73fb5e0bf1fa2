"""The exception family.

    AttentionError
    ├── InvalidInputError        (ValueError)           empty, NaN or infinite, a bad option
    ├── DimensionMismatchError   (ValueError)           which array, what was expected, what came
    ├── InputTooLargeError       (ValueError)           more keys per row than the variant admits
    ├── UnknownVariantError      (LookupError)          a name that nothing registered
    ├── UnsupportedError         (NotImplementedError)  a dtype, mask or backward that a variant lacks
    ├── CheckpointError                                 a checkpoint that cannot be written, read or matched
    └── PluginError                                     a plugin, or a name, that cannot be used

Every class but the last two also derives from the built-in exception in brackets, so that callers who know nothing
of ``ruvattn`` catch what they expect. Messages name the argument, the value that was given and the way out.
"""

from __future__ import annotations

__all__ = [
    "AttentionError",
    "CheckpointError",
    "DimensionMismatchError",
    "InputTooLargeError",
    "InvalidInputError",
    "PluginError",
    "UnknownVariantError",
    "UnsupportedError",
]


class AttentionError(Exception):
    """Base class of every error that ``ruvattn`` raises on purpose."""


class InvalidInputError(AttentionError, ValueError):
    """An argument has a value that no call could use: empty, NaN or infinite, a wrong dtype, a bad option."""


class DimensionMismatchError(AttentionError, ValueError):
    """An array's shape does not fit the others; the message says which array, what was expected and what came."""


class InputTooLargeError(AttentionError, ValueError):
    """The object API was given more keys per row than its configurable limit (1,000,000 by default)."""


class UnknownVariantError(AttentionError, LookupError):
    """A variant, score, pattern, aggregate or manifold was asked for by a name that nothing usable registered."""


class UnsupportedError(AttentionError, NotImplementedError):
    """The variant does not have the dtype, mask, output or backward pass that was asked of it."""


class CheckpointError(AttentionError):
    """A checkpoint cannot be written or read, or does not match the variant that loads it."""


class PluginError(AttentionError):
    """A plugin breaks the rules of registration, or a name cannot be used because several distributions claim it."""
