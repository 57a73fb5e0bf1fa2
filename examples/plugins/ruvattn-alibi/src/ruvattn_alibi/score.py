"""ALiBi in NumPy: the slopes of the paper, and the score.

    logit[i, j] = scale · q[i]·k[j] − slope · distance(i, j)

What is known of a query alone goes into row terms: its position, its scale, and two slopes, as with d = i − j each distance is made of d and its
absolute value:

    slope · |i − j|           = slope · |d|   + 0 · d
    slope · max(i − j, 0)     = slope/2 · |d| + slope/2 · d

So a tile needs no parameter, and what is left to the call, a slope for each of its heads or 1/√D, is settled before the first one.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ruvattn.errors import InvalidInputError
from ruvattn.scores import Score

DISTANCES = ("symmetric", "causal")
"""What `Alibi` takes as its distance."""

LARGEST = 1e30
"""Slopes and scales are between −LARGEST and LARGEST, so that float32 has room for their products with a distance."""


def alibi_slopes(num_heads):
    """Return the slopes of the paper: section 3 of Press et al. and, for numbers that are no power of two, the code that came with it.

    For n = 2ᵃ heads they are the geometric sequence that begins with 2^(−8/n) and has this as its ratio too: 1/2, 1/4, …, 1/256 for 8 heads.
    Otherwise the first are those of the largest power of two below n, and the rest are every second one of those of twice that power, the first of
    them included. So they aren't sorted.

    Parameters
    ----------
    num_heads : int
        How many, at least 1.

    Returns
    -------
    ndarray, (num_heads,)
        In float64, all between 0 and 1.

    Raises
    ------
    InvalidInputError
        If it is no such number.

    Examples
    --------
    >>> alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    >>> alibi_slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    if not isinstance(num_heads, (int, np.integer)) or isinstance(num_heads, bool) or num_heads < 1:
        raise InvalidInputError(f"num_heads must be an int of at least 1, got {num_heads!r}")
    power = 1 << (int(num_heads).bit_length() - 1)
    first = np.arange(1, power + 1) / power
    between = np.arange(1, 2 * (num_heads - power), 2) / (2 * power)
    return np.exp2(-8 * np.concatenate([first, between]))


class Alibi(Score):
    r"""The scaled dot product, less a slope times the distance in the sequence: attention with linear biases [1]_.

        logit[i, j] = scale · q[i]·k[j] − slope · distance(i, j)

    Positions are those of the call, so that ``query_offset=`` counts. Tiles are filled by NumPy; `CompiledAlibi` computes the same faster.

    Parameters
    ----------
    slopes : float or array of shape (Hq,), optional
        One for all heads or one for each, within ±1e30; `alibi_slopes` of the number of query heads when not given. 0 takes no notice of the
        distance, and below 0 far keys are preferred.
    scale : float or array of shape (Hq,), optional
        Of the dot product, within ±1e30; 1/√D when not given. The argument ``scale=`` of `ruvattn.attention` sets it, too.
    distance : {"symmetric", "causal"}, default "symmetric"
        How far key j is from a query at position i. "symmetric": \|i − j\|. "causal": max(i − j, 0), so that what is ahead isn't penalised. With
        ``causal=True``, which leaves it out, as in the paper, both are the same.

    Raises
    ------
    InvalidInputError
        If an argument has a value that makes no sense.

    See Also
    --------
    CompiledAlibi : The same, compiled.
    alibi_slopes : The slopes of the paper.

    Notes
    -----
    The gradients by slope and scale are sums over the pairs, with g that of a logit: ∂/∂slope = −Σ g·distance and ∂/∂scale = Σ g·q·k. Positions are
    counted in the dtype that is computed in: distances in float32 are exact up to 2²⁴.

    References
    ----------
    .. [1] O. Press, N. A. Smith, M. Lewis, "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation", ICLR 2022.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x = np.zeros((3, 4))
    >>> ruvattn.attention_logits(x, x, score=Alibi(slopes=0.5), causal=True)
    array([[ 0. , -inf, -inf],
           [-0.5,  0. , -inf],
           [-1. , -0.5,  0. ]])
    >>> ruvattn.attention_logits(x[:1], x, score=Alibi(slopes=0.5), query_offset="end")
    array([[-1. , -0.5,  0. ]])
    """

    domains: ClassVar = dict.fromkeys(("slopes", "scale"), (-LARGEST, LARGEST))  # a step of learning that would leave them is taken back
    conformance_options: ClassVar = ({}, {"slopes": 0.25, "scale": 0.5, "distance": "causal"})  # what the conformance suite tries

    def __init__(self, slopes=None, scale=None, *, distance="symmetric"):
        if distance not in DISTANCES:
            raise InvalidInputError(f"distance must be one of {', '.join(map(repr, DISTANCES))}, got {distance!r}")
        _check_numbers("slopes", slopes)
        _check_numbers("scale", scale)
        self.params = {"slopes": slopes, "scale": scale}
        self.distance = distance

    def row_terms(self, q, pos):
        """Return of every query: its position, what |i − j| and i − j are multiplied with, and its scale."""
        heads, width = q.shape[-3], q.shape[-1]
        slopes, scale = self.params["slopes"], self.params["scale"]  # those of this call: `scale=` is among them
        even = _by_head(alibi_slopes(heads) if slopes is None else slopes, heads, q.dtype)
        odd = np.zeros_like(even)
        if self.distance == "causal":
            even = odd = even / 2
        return np.asarray(pos, q.dtype), even, odd, _by_head(width**-0.5 if scale is None else scale, heads, q.dtype)

    def col_terms(self, k, pos):
        """Return the position of every key."""
        return (np.asarray(pos, k.dtype),)

    def logits(self, t):
        """Return the logits of a tile, overwriting its dots: t.dots[0] is (m, n), row terms are (m, 1), the column term (1, n)."""
        position, even, odd, scale = t.rows
        difference = position - t.cols[0]
        logits = t.dots[0]
        logits *= scale
        logits -= even * np.abs(difference)
        logits -= odd * difference
        return logits

    def logits_vjp(self, t, dlogits):
        """Return the gradients of the dots, the row terms and the column term; no parameter enters here."""
        position, even, odd, scale = t.rows
        difference = position - t.cols[0]
        dposition = -dlogits * (even * np.sign(difference) + odd)
        by_pair = (dposition, -dlogits * np.abs(difference), -dlogits * difference, dlogits * t.dots[0])
        drows = tuple(x.sum(axis=1, keepdims=True) for x in by_pair)
        return (scale * dlogits)[None], drows, (-dposition.sum(axis=0, keepdims=True),), {}

    def row_terms_vjp(self, q, pos, dterms):
        """Return zeros, as no row term is made of q, and the gradients of the parameters; positions are given and have none."""
        _, deven, dodd, dscale = dterms
        dslopes = (deven + dodd) / 2 if self.distance == "causal" else deven
        found = {"slopes": dslopes, "scale": dscale}
        return np.zeros_like(q), {name: _summed(gradient, self.params[name]) for name, gradient in found.items()}

    def col_terms_vjp(self, k, pos, dterms):
        """Return zeros: the column term is made of positions alone."""
        return np.zeros_like(k), {}


def _by_head(numbers, heads, dtype):
    """Return one number for all heads, or one for each, as (heads, 1): this broadcasts to a number for each query."""
    return np.broadcast_to(np.asarray(numbers, dtype), (heads,))[:, None]


def _summed(gradient, parameter):
    """Add up (heads, 1) for a parameter that is one number for all heads, or one for each."""
    return gradient[:, 0] if np.ndim(parameter) else gradient.sum()


def _check_numbers(name, value):
    if value is None:
        return
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        numbers = np.empty((0, 0))
    if numbers.dtype.kind not in "fiu" or numbers.ndim > 1 or not np.all(np.abs(numbers) < LARGEST):
        raise InvalidInputError(f"{name} must be a number between {-LARGEST:g} and {LARGEST:g}, or one for each head, got {value!r}")
