"""The pattern: a query sees itself, the `near` keys before it, and those at a distance that is a power of two.

    near = 3     distance   0 1 2 3 4 5 6 7 8 9 …
                 sees       x x x x x . . . x . …

So a row has about near + log₂ L keys (Li et al., 2019, "Enhancing the Locality and Breaking the Memory Bottleneck of
Transformer on Time Series Forecasting", section 4.2, "LogSparse").
"""

from __future__ import annotations

import operator

import ruvattn  # only cython
from ruvattn.errors import InvalidInputError
from ruvattn.headwise import HeadwiseAttention
from ruvattn.patterns import Pattern

FARTHEST = 2**40
"""Longer than any sequence; as a distance it still leaves room in an int64."""

_compiled = ruvattn.load_kernels("plugin_name._pattern")  # the build for the instruction set that is in use  # only cython
# only cython

# end only

class PluginNamePattern(Pattern):
    """Sees the keys up to `near` before the query, and those at a power of two before it.

    Parameters
    ----------
    near : int, default 16
        How many keys before its own position a query sees in any case, from 0.

    Raises
    ------
    InvalidInputError
        If `near` is no such number.

    Examples
    --------
    >>> import numpy as np
    >>> PluginNamePattern(near=1).allowed(np.array([[6]]), np.arange(8)).astype(int)
    array([[0, 0, 1, 0, 1, 1, 1, 0]])
    """

    conformance_options = ({}, {"near": 0}, {"near": 5})  # what the conformance suite tries

    def __init__(self, near=16):
        try:
            self.near = operator.index(near)
        except TypeError:
            self.near = -1
        if not 0 <= self.near <= FARTHEST or isinstance(near, bool):
            raise InvalidInputError(f"near must be an int from 0 to {FARTHEST}, got {near!r}")

    def allowed(self, i, j, *, head=0, batch=0):
        """Tell which pairs of positions may attend: all that a pattern has to have."""
        distance = i - j
        # A power of two has no bit in common with the number before it; 0 has neither.
        return (distance >= 0) & ((distance <= self.near) | (distance & (distance - 1) == 0))

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        """Return the ranges of keys that rows i0 to i1 − 1 see: what is outside of them costs nothing.

        Over the rows of a block the key at a fixed distance moves along: a power p gives the keys from i0 − p to
        i1 − p. Only the keys near all of the rows are seen by every one of them, and need no mask.
        """
        return _compiled.ranges(i0, i1, lk, self.near)  # only cython
# only numpy
        found = [(i0 - power, i1 - power, i1 - i0 == 1) for power in _powers(self.near, i1)]
        all_from, all_to = i1 - 1 - self.near, i0 + 1  # what the last row sees nearby, and the first one
        if all_from < all_to:
            found += [(i0 - self.near, all_from, False), (all_from, all_to, True), (all_to, i1, False)]
        else:
            found.append((i0 - self.near, i1, False))
        starts, stops, full = [], [], []
        for start, stop, whole in found:
            # Where the rows of a block are more than the keys between two powers, one range begins inside of another.
            start, stop = max(start, stops[-1] if stops else 0), min(stop, lk)
            if start < stop:
                starts.append(start)
                stops.append(stop)
                full.append(whole)
        return starts, stops, full


def _powers(near, i1):
    """The powers of two above `near` at which a row before i1 has a key, the largest first."""
    power = 1 << max(i1 - 1, 0).bit_length()
    while power > near:
        if power < i1:
            yield power
        power >>= 1
# end only


class PluginNameAttention(HeadwiseAttention):
    """Attention with the pattern of `PluginNamePattern`.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    near : int, default 16
        As for `PluginNamePattern`.
    **options
        Those of `ruvattn.headwise.HeadwiseAttention`.
    """

    attention_type = "registered-name"  # the name that it is registered by
    positional = True  # the pattern goes by the position of a query: a single one stands at the last key

    def __init__(self, embed_dim, num_heads=1, *, near=16, **options):
        # One object for good: what is planned for a pattern is kept with it.
        self.pattern = PluginNamePattern(near)
        super().__init__(embed_dim, num_heads, own={"near": self.pattern.near}, **options)

    def own_mask(self, lq, lk, single):
        """Return the pattern, which is ANDed with the masks of a call."""
        return self.pattern

    def keys_attended(self, lk, options):
        """Return how many keys a row sees at most, for the option ``max_keys``."""
        return min(super().keys_attended(lk, options), self.pattern.near + 1 + lk.bit_length())
