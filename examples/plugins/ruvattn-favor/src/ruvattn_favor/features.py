"""Positive random features of the softmax kernel: their projections, and their logarithms.

    exp(q·k) = E[φ(q)·φ(k)]        φ_m(x) = exp(w_m·x − ‖x‖²/2) / √M        w_m ~ N(0, I)

(Choromanski et al., 2021, "Rethinking Attention with Performers", lemma 1). Features are never made as such: their
logarithms are, and the sums of sums.py subtract the largest before they take the exponential. The factor 1/√M, and
exp(−‖q‖²/2) of a query, are the same in numerator and denominator and left out.
"""

from __future__ import annotations

import math

import numpy as np
from ruvattn.errors import InvalidInputError


def orthogonal_projections(num_features, width, rng):
    """Draw rows that are Gaussian each by itself, and orthogonal in blocks of ``width``.

    A block is the Q of a square Gaussian matrix, which is uniform among rotations once the signs of R's diagonal are
    taken out; each row gets the length of a Gaussian vector, of its own. The estimate of the kernel stays unbiased, and
    its variance is below that of independent rows (Choromanski et al., 2021, theorem 2).

    Parameters
    ----------
    num_features : int
        How many rows M, at least 1; the last block is cut short where ``width`` does not divide it.
    width : int
        Their width D, at least 1.
    rng : numpy.random.Generator
        What draws them.

    Returns
    -------
    ndarray, (M, D)
        float64.

    Raises
    ------
    InvalidInputError
        If a size is no such number.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_favor import orthogonal_projections
    >>> w = orthogonal_projections(4, 4, np.random.default_rng(0))
    >>> np.allclose(w @ w.T, np.diag(np.square(w).sum(-1)))
    True
    """
    for name, value in (("num_features", num_features), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InvalidInputError(f"{name} must be an int from 1, got {value!r}")
    blocks = -(-num_features // width)
    q, r = np.linalg.qr(rng.standard_normal((blocks, width, width)))
    q = q * np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1)[:, None, :]
    lengths = np.linalg.norm(rng.standard_normal((num_features, width)), axis=-1, keepdims=True)
    return q.reshape(-1, width)[:num_features] * lengths


def largest_entry(dtype):
    """Return the bound of scaled entries, whose squares and their sums have room in the dtype."""
    return 1e15 if dtype == np.float32 else 1e150


def scale_rows(x, root):
    """Return √s·x for x (..., H, L, D) and √s (H,); entries beyond the bound end there, so that squares are finite."""
    bound = largest_entry(x.dtype)
    with np.errstate(over="ignore"):
        return np.clip(x * root.astype(x.dtype)[:, None, None], -bound, bound)


def scale_rows_vjp(x, root, dscaled):
    """Return the gradients of x and of s: that of √s is 1/(2√s), and entries at the bound have none."""
    scaled = scale_rows(x, root)
    dscaled = np.where(np.abs(scaled) < largest_entry(x.dtype), dscaled, 0)
    products = np.multiply(dscaled, scaled, dtype=np.float64).sum((-2, -1))
    return dscaled * root.astype(x.dtype)[:, None, None], products.reshape(-1, len(root)).sum(0) / (2 * root**2)


def unit_of(x):
    """Return a power of two for sums over x to be taken in: 1, but for numbers of which a few could overflow."""
    largest = float(max(x.max(), -x.min()))
    most = 1000 if x.dtype == np.float64 else 120  # a power that the dtype has, as has its reciprocal
    return 1.0 if largest <= 2.0**40 else 2.0 ** min(math.ceil(math.log2(largest)), most)


def saturated(x, *units):
    """Return x times units, in place; what is too large for the dtype ends at the largest number."""
    for unit in units:
        if unit != 1:
            with np.errstate(over="ignore"):
                x *= unit
    if any(unit != 1 for unit in units):
        np.clip(x, np.finfo(x.dtype).min, np.finfo(x.dtype).max, out=x)
    return x


def log_queries(q, w):
    """Return w·q, (..., H, n, M) for q (..., H, n, D) and w (H, M, D)."""
    return q @ w.swapaxes(-1, -2)


def log_queries_vjp(w, da):
    """Return the gradient of q."""
    return da @ w


def log_keys(k, w, seen=None):
    """Return w·k − ‖k‖²/2, and −∞ for keys that are masked."""
    a = k @ w.swapaxes(-1, -2) - np.vecdot(k, k)[..., None] / 2
    return a if seen is None else np.where(seen[..., None], a, a.dtype.type(-np.inf))


def log_keys_vjp(k, w, da):
    """Return the gradient of k."""
    return da @ w - da.sum(-1, keepdims=True) * k
