"""The rbf score: a Gaussian kernel of the distance between query and key.

    logit = −‖q − k‖² / (2σ²)        ‖q − k‖² = ‖q‖² + ‖k‖² − 2 q·k

so that the softmax over the keys weighs them as a Gaussian mixture of equal parts around them would: the attention
output is the Nadaraya–Watson estimate of the values at q (Nadaraya, 1964; Watson, 1964). One dot product, one number
a query and one a key are all that it takes; the engine brings the dots.
"""

from __future__ import annotations

import numpy as np
from scipy import LowLevelCallable

import ruvattn
from ruvattn.errors import InvalidInputError
from ruvattn.scores import Score


class Rbf(Score):
    """Gaussian kernel score in NumPy.

    Parameters
    ----------
    sigma : float or array of shape (Hq,), default 1.0
        Width of the kernel, in the units of q and k, between 1e-16 and 1e16; one for all heads or one for each.

    Raises
    ------
    InvalidInputError
        If a sigma is no such number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q = np.zeros((1, 2), dtype=np.float32)
    >>> k = np.array([[0, 0], [3, 4]], dtype=np.float32)
    >>> ruvattn.attention_logits(q, k, score=Rbf(sigma=5.0))
    array([[ 0. , -0.5]], dtype=float32)
    """

    symmetric = True  # a distance doesn't mind which of the two is the query: the engine need not turn tiles around for the compiled form
    # Outside of these bounds 1/(2σ²) leaves the range of float32. The core sees to it that a sigma that is learned stays within.
    domains = {"sigma": (1e-16, 1e16)}

    def __init__(self, sigma=1.0):
        widths = np.asarray(sigma)
        low, high = self.domains["sigma"]
        if widths.dtype.kind not in "fiu" or not np.all((widths > low) & (widths < high)):
            raise InvalidInputError(f"sigma must be a number between {low:g} and {high:g}, or one for each head, got {sigma!r}")
        self.params = {"sigma": sigma}

    def row_terms(self, q, pos):
        """Return ‖q‖² of every query."""
        return (np.vecdot(q, q),)

    def col_terms(self, k, pos):
        """Return ‖k‖² of every key."""
        return (np.vecdot(k, k),)

    def row_terms_vjp(self, q, pos, dterms):
        """Return the gradient of q, and of no parameter: ∂‖q‖²/∂q = 2q."""
        return 2 * dterms[0][..., None] * q, {}

    def col_terms_vjp(self, k, pos, dterms):
        """Return the gradient of k, and of no parameter: ∂‖k‖²/∂k = 2k."""
        return 2 * dterms[0][..., None] * k, {}

    def logits(self, t):
        """Return −‖q−k‖²/(2σ²) for a tile, overwriting its dots."""
        logits = t.dots[0]
        logits *= 2
        logits -= t.rows[0]
        logits -= t.cols[0]
        logits *= 0.5 / float(t.params["sigma"]) ** 2
        return logits

    def logits_vjp(self, t, dlogits):
        """Return the gradients of the dots, the row term, the column term and sigma."""
        sigma = float(t.params["sigma"])
        g = dlogits * (0.5 / sigma**2)
        negative_distance = 2 * t.dots[0] - t.rows[0] - t.cols[0]
        dsigma = -2 / sigma * np.sum(g * negative_distance)
        return (2 * g)[None], (-g.sum(1, keepdims=True),), (-g.sum(0, keepdims=True),), {"sigma": dsigma}


_compiled = ruvattn.load_kernels("ruvattn_example._rbf")  # the build for the instruction set that is in use


class CompiledRbf(Rbf):
    """Gaussian kernel score, compiled: the terms of `Rbf`, and tiles that Cython fills.

    Parameters
    ----------
    sigma : float or array of shape (Hq,), default 1.0
        As for `Rbf`.
    """

    kernels = {
        dtype: tuple(LowLevelCallable.from_cython(_compiled, name + dtype) for name in ("rbf_", "rbf_vjp_"))
        for dtype in ("float32", "float64")
    }


def rbf_attention(embed_dim, num_heads=1, *, sigma=1.0, **options):
    """Return the variant ``rbf``: ``standard`` with the score ``rbf``; it takes the options of ``standard``."""
    # By name, so that its configuration can be stored: ruvattn finds the score when it is made anew.
    score = {"score": "rbf", "score_options": {"sigma": sigma}}
    return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, **score, **options)


def compiled_rbf_attention(embed_dim, num_heads=1, *, sigma=1.0, **options):
    """Return the variant ``rbf-compiled``: ``standard`` with the score ``rbf-compiled``; it takes the options of ``standard``."""
    score = {"score": "rbf-compiled", "score_options": {"sigma": sigma}}
    return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, **score, **options)
