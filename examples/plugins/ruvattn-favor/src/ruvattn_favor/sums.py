"""Attention by features in time and memory linear in the length, forwards and backwards.

With a = log φ(q) of a query i, b = log φ(k) of a key j, (L, M) each, and the sums over the keys that the query sees

    out_i = Σ_m exp(a_im) S_m / Σ_m exp(a_im) z_m        S_m = Σ_j exp(b_jm) v_j        z_m = Σ_j exp(b_jm)

Rows and keys come in chunks. `Sums` holds what the keys so far add up to, each feature relative to its largest
exponent, and a row is read relative to its largest: nothing overflows, no denominator is 0, and there is no constant
added to features to keep it from that. A causal row also sees part of its own chunk, by the weights of these pairs:

    keys     [ chunk 0 ][ chunk 1 ][ chunk 2 ]
    row of chunk 2:   read from Sums │ pairs, up to the diagonal

Backwards the rows that see a key are summed as keys were, from the end, with exp(a_im − lse_i) in the place of
exp(b_jm). With g the gradient of out and δ_i = g_i·out_i,

    da_im = exp(a_im − lse_i) Σ_j exp(b_jm) (g_i·v_j − δ_i)
    db_jm = exp(b_jm) Σ_i exp(a_im − lse_i) (g_i·v_j − δ_i)
    dv_j  = Σ_m exp(b_jm) Σ_i exp(a_im − lse_i) g_i

(Choromanski et al., 2021, "Rethinking Attention with Performers", section 2.2 and appendix B.1, where the prefix sums
are.)
"""

from __future__ import annotations

import numpy as np

from .features import log_keys, log_keys_vjp, log_queries, log_queries_vjp

CHUNK = 64
"""Rows or keys that are worked on at a time: memory is of CHUNK × (M + CHUNK) and M × D a head, beside inputs and output."""

PAIRS = 256
"""Pairs that are added up feature by feature at a time."""


def attend(q, k, v, w, seen=None, first=None):
    """Return attention by features.

    Parameters
    ----------
    q : ndarray, (N, H, Lq, D)
        Queries, scaled.
    k : ndarray, (N, H, Lk, D)
        Keys, scaled.
    v : ndarray, (N, H, Lk, Dv)
        Values.
    w : ndarray, (H, M, D)
        Projections.
    seen : ndarray of bool, (N, H, Lk), optional
        False for keys that are masked.
    first : int, optional
        Causal: where row 0 stands, which sees the keys up to there. Every row sees every key when not given.

    Returns
    -------
    out : ndarray, (N, H, Lq, Dv)
        Zeros in rows that see nothing.
    lse : ndarray, (N, H, Lq)
        Logarithms of the denominators; +∞ in rows that see nothing, so that exp(a − lse) is 0.
    """
    out = np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)
    lse = np.full(q.shape[:-1], np.inf, q.dtype)
    sums = Sums((*q.shape[:2], w.shape[1]), v.shape[-1] + 1, q.dtype)
    for rows, keys in _steps(q.shape[-2], k.shape[-2], first):
        x, b = _with_column(v[..., keys, :], 1), log_keys(k[..., keys, :], w, _part(seen, keys))
        if rows.start < rows.stop:
            a = log_queries(q[..., rows, :], w)
            read, top = sums.read(a)
            if keys.start < keys.stop:
                pairs = Pairs(a, b, _triangle(rows, keys, first))
                highest = np.maximum(top, pairs.logs.max(-1, keepdims=True))
                zero = _finite(highest)
                read = read * np.exp(top - zero) + np.exp(pairs.logs - zero) @ x
                top = highest
            total = read[..., -1:]
            some = total > 0
            np.divide(read[..., :-1], total, out=out[..., rows, :], where=some)
            lse[..., rows] = np.where(some, top + np.log(np.where(some, total, 1)), np.inf)[..., 0]
        sums.add(b, x)
    return out, lse


def attend_vjp(q, k, v, w, seen, first, out, lse, dout):
    """Return the gradients of q, k and v, given what `attend` took and returned and the gradient of ``out``."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    g = _with_column(dout, -np.vecdot(dout, out)[..., None])
    steps = _steps(q.shape[-2], k.shape[-2], first)
    shape = (*q.shape[:2], w.shape[1])

    sums = Sums(shape, g.shape[-1], q.dtype)
    for rows, keys in steps:
        x, b = _with_column(v[..., keys, :], 1), log_keys(k[..., keys, :], w, _part(seen, keys))
        if rows.start < rows.stop:
            a = log_queries(q[..., rows, :], w)
            log_total = lse[..., rows, None]
            da = sums.weights(a - log_total) * (g[..., rows, :] @ sums.total.swapaxes(-1, -2))
            if keys.start < keys.stop:
                pairs = Pairs(a, b, _triangle(rows, keys, first))
                weights = np.exp(np.minimum(pairs.logs - log_total, 0))
                da_pairs, db = pairs.vjp(weights * (g[..., rows, :] @ x.swapaxes(-1, -2)))
                da += da_pairs
                dk[..., keys, :] += log_keys_vjp(k[..., keys, :], w, db)
                dv[..., keys, :] += weights.swapaxes(-1, -2) @ dout[..., rows, :]
            dq[..., rows, :] = log_queries_vjp(w, da)
        sums.add(b, x)

    sums = Sums(shape, g.shape[-1], q.dtype)  # from here on over rows, from the last
    for rows, keys in reversed(steps):
        if keys.start < keys.stop:
            x, b = _with_column(v[..., keys, :], 1), log_keys(k[..., keys, :], w, _part(seen, keys))
            weights = sums.weights(b)
            db = weights * (x @ sums.total.swapaxes(-1, -2))
            dk[..., keys, :] += log_keys_vjp(k[..., keys, :], w, db)
            dv[..., keys, :] += weights @ sums.total[..., :-1]
        if rows.start < rows.stop:
            sums.add(log_queries(q[..., rows, :], w) - lse[..., rows, None], g[..., rows, :])
    return dq, dk, dv


class Sums:
    """Σ_j exp(b_jm) x_j for each feature m, kept as exp(peak_m) · total_m, where peak_m is the largest b_jm so far.

    Parameters
    ----------
    shape : tuple of int
        (N, H, M).
    width : int
        That of x.
    dtype : dtype
        That of all.
    """

    def __init__(self, shape, width, dtype):
        self.peak = np.full(shape, -np.inf, dtype)
        self.total = np.zeros((*shape, width), dtype)

    def add(self, b, x):
        """Add n rows: b (N, H, n, M) and x (N, H, n, width)."""
        if not b.shape[-2]:
            return
        peak = np.maximum(self.peak, b.max(-2))
        zero = _finite(peak)
        self.total *= np.exp(self.peak - zero)[..., None]
        self.total += np.exp(b - zero[..., None, :]).swapaxes(-1, -2) @ x
        self.peak = peak

    def read(self, a):
        """Return exp(−top_i) Σ_m exp(a_im) · the sum of m, (N, H, n, width), and top, (N, H, n, 1): −∞ where there is nothing."""
        exponents = a + self.peak[..., None, :]
        top = exponents.max(-1, keepdims=True)
        return np.exp(exponents - _finite(top)) @ self.total, top

    def weights(self, a):
        """Return exp(a_im + peak_m), where it is known that this does not exceed 1, up to rounding."""
        return np.exp(np.minimum(a + self.peak[..., None, :], 0))


class Pairs:
    """The logarithms of Σ_m exp(a_im + b_jm) for rows and keys of one chunk.

    They are products of two matrices, exp(a_im − max) and exp(b_jm − max), but where these share no feature that is large
    in both: the product would be lost to underflow, and the pair is added up by itself.

    Parameters
    ----------
    a : ndarray, (N, H, m, M)
        Of rows.
    b : ndarray, (N, H, n, M)
        Of keys; −∞ where masked.
    allowed : ndarray of bool, (m, n)
        Which pairs there are.
    """

    def __init__(self, a, b, allowed):
        self.a, self.b = a, b
        top_a, top_b = a.max(-1, keepdims=True), b.max(-1, keepdims=True)
        self.left, self.right = np.exp(a - top_a), np.exp(b - _finite(top_b))
        top_b = top_b.swapaxes(-1, -2)
        sums = self.left @ self.right.swapaxes(-1, -2)
        exists = allowed & np.isfinite(top_b)
        whole = exists & (sums >= np.finfo(a.dtype).tiny ** 0.5)
        self.sums = np.where(whole, sums, 1)
        self.logs = np.where(whole, np.log(self.sums) + top_a + _finite(top_b), a.dtype.type(-np.inf))
        self.whole, self.faint = whole, np.nonzero(exists & ~whole)
        for place, exponents in self._by_themselves():
            top = exponents.max(-1)
            self.logs[place] = top + np.log(np.exp(exponents - top[:, None]).sum(-1))

    def vjp(self, dlogs):
        """Return the gradients of a and b."""
        per_sum = np.where(self.whole, dlogs, 0) / self.sums
        da = self.left * (per_sum @ self.right)
        db = self.right * (per_sum.swapaxes(-1, -2) @ self.left)
        for place, exponents in self._by_themselves():
            shares = np.exp(exponents - self.logs[place][:, None]) * dlogs[place][:, None]
            n, h, i, j = place
            np.add.at(da, (n, h, i), shares)
            np.add.at(db, (n, h, j), shares)
        return da, db

    def _by_themselves(self):
        for start in range(0, len(self.faint[0]), PAIRS):
            n, h, i, j = place = tuple(index[start : start + PAIRS] for index in self.faint)
            yield place, self.a[n, h, i] + self.b[n, h, j]


def _steps(lq, lk, first):
    """Return slices of rows and of keys: in each step rows read what was added in earlier ones, and the triangle of these keys."""
    if first is None:
        return [(slice(0, 0), keys) for keys in _chunks(0, lk)] + [(rows, slice(0, 0)) for rows in _chunks(0, lq)]
    steps = [(_rows_at(keys.start, keys.stop, lq, first), keys) for keys in _chunks(0, lk)]
    return steps + [(rows, slice(0, 0)) for rows in _chunks(min(max(lk - first, 0), lq), lq)]


def _rows_at(start, stop, lq, first):
    """Return the rows that stand at positions from start to stop."""
    low, high = (min(max(position - first, 0), lq) for position in (start, stop))
    return slice(low, high)


def _chunks(start, stop):
    return [slice(at, min(at + CHUNK, stop)) for at in range(start, stop, CHUNK)]


def _triangle(rows, keys, first):
    return np.arange(keys.start, keys.stop) <= np.arange(rows.start, rows.stop)[:, None] + first


def _part(seen, keys):
    return None if seen is None else seen[..., keys]


def _with_column(x, column):
    """Return x with one column more."""
    made = np.empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    made[..., :-1] = x
    made[..., -1:] = column
    return made


def _finite(peak):
    """Return what to subtract from exponents: their maximum, or 0 where all are −∞."""
    return np.where(np.isfinite(peak), peak, peak.dtype.type(0))
