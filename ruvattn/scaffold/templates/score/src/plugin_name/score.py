"""The score: the cosine of the angle between query and key, times a gain (Henry et al., 2020, "Query-Key Normalization for Transformers").

    logit = gain · q·k / (‖q‖ ‖k‖)

The engine makes tiles of dot products and hands them over one at a time; what a logit takes beside its dot product are
one number for each query, one for each key, and the parameters. So no array of all pairs is ever made.
"""

from __future__ import annotations

import math

import numpy as np
import ruvattn
from ruvattn.errors import InvalidInputError
from ruvattn.scores import Score
from scipy import LowLevelCallable  # only cython

SHORTEST = 1e-6
"""A query or key that is shorter than this is divided by this: so one of length 0 scores 0."""

_compiled = ruvattn.load_kernels("plugin_name._score")  # the build for the instruction set that is in use  # only cython
# only cython

# end only

class PluginNameScore(Score):
    """Cosine of the angle between query and key, times a gain.

    Parameters
    ----------
    gain : float or array of shape (Hq,), default 10.0
        How sharply near and far are told apart, above 0; one for all heads or one for each.

    Raises
    ------
    InvalidInputError
        If a gain is no such number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q, k = np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0]])
    >>> ruvattn.attention_logits(q, k, score=PluginNameScore(gain=2.0)).round(6)
    array([[ 2.,  0., -2.]])
    """

    symmetric = True  # exchanging query and key changes nothing, which saves the engine turning tiles around
    domains = {"gain": (0.0, math.inf)}  # a step of learning that would leave the interval is taken back
    conformance_options = ({}, {"gain": 0.5})  # what the conformance suite tries

    # For each dtype the compiled (forward, derivative). A dtype that is missing is computed by the methods below, and the  # only cython
    # conformance suite compares both: so the form in NumPy needs no name of its own.  # only cython
    kernels = {  # only cython
        dtype: tuple(LowLevelCallable.from_cython(_compiled, name + dtype) for name in ("logits_", "logits_vjp_"))  # only cython
        for dtype in ("float32", "float64")  # only cython
    }  # only cython
# only cython

# end only
    def __init__(self, gain=10.0):
        numbers = np.asarray(gain)
        if numbers.dtype.kind not in "fiu" or not np.all((numbers > 0) & (numbers < math.inf)):
            raise InvalidInputError(f"gain must be a finite number above 0, or one for each head, got {gain!r}")
        self.params = {"gain": gain}

    def row_terms(self, q, pos):
        """Return 1/‖q‖ of every query, (..., Hq, Lq)."""
        return (_inverse_length(q),)

    def col_terms(self, k, pos):
        """Return 1/‖k‖ of every key, (..., Hk, Lk)."""
        return (_inverse_length(k),)

    def row_terms_vjp(self, q, pos, dterms):
        """Return the gradient of q, and of no parameter."""
        return _inverse_length_vjp(q, dterms[0]), {}

    def col_terms_vjp(self, k, pos, dterms):
        """Return the gradient of k, and of no parameter."""
        return _inverse_length_vjp(k, dterms[0]), {}

    def logits(self, t):
        """Return the logits of a tile, overwriting its dots: t.dots[0] is (m, n), t.rows[0] (m, 1), t.cols[0] (1, n)."""
        logits = t.dots[0]
        logits *= t.params["gain"] * t.rows[0]
        logits *= t.cols[0]
        return logits

    def logits_vjp(self, t, dlogits):
        """Return the gradients of the dots, the row term, the column term and the gain."""
        gain, dots = t.params["gain"], dlogits * t.dots[0]
        ddots = dlogits * (gain * t.rows[0]) * t.cols[0]
        drows = gain * np.sum(dots * t.cols[0], axis=1, keepdims=True)
        dcols = gain * np.sum(dots * t.rows[0], axis=0, keepdims=True)
        return ddots[None], (drows,), (dcols,), {"gain": np.sum(dots * t.rows[0] * t.cols[0])}


def _inverse_length(x):
    return 1 / np.maximum(np.linalg.norm(x, axis=-1), x.dtype.type(SHORTEST))


def _inverse_length_vjp(x, gradient):
    """∂(1/‖x‖)/∂x = −x/‖x‖³, and 0 where the length is held at SHORTEST."""
    inverse = _inverse_length(x)
    slope = np.where(inverse < 1 / x.dtype.type(SHORTEST), -gradient * inverse**3, 0)
    return slope[..., None] * x


def registered_name_attention(embed_dim, num_heads=1, *, gain=10.0, **options):
    """Return the variant ``registered-name``: ``standard`` with the score ``registered-name``; it takes the options of ``standard``.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    gain : float or sequence of num_heads floats, default 10.0
        As for `PluginNameScore`; ``learn=("score.gain",)`` makes it a parameter of each head.
    **options
        Those of `ruvattn.builtin.standard.StandardAttention`.

    Returns
    -------
    ruvattn.Attention
        A new layer.
    """
    # By name, so that its configuration can be stored: ruvattn finds the score when it is made anew.
    score = {"score": "registered-name", "score_options": {"gain": gain}}
    return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, **score, **options)
