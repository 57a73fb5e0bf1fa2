"""Scores and aggregates in NumPy whose gradients the tests look at: with vectors, terms, planes and parameters of each kind."""

from __future__ import annotations

import numpy as np

import ruvattn


class Bilinear(ruvattn.Score):
    """weight · q·k / (1 + |q|²), by the vectors themselves; a weight for each head."""

    vectors = True
    splits = ()

    def __init__(self, weight):
        self.params = {"weight": weight}

    def logits(self, t):
        return t.params["weight"] * (t.q @ t.k.T) / (1 + (t.q**2).sum(-1, keepdims=True))

    def logits_vjp(self, t, dlogits):
        size = 1 + (t.q**2).sum(-1, keepdims=True)
        dots = t.q @ t.k.T
        inner = dlogits * t.params["weight"] / size
        dq = inner @ t.k - 2 * t.q * (inner * dots).sum(-1, keepdims=True) / size
        return np.zeros((0, *dlogits.shape)), (), (), {"weight": (dlogits * dots / size).sum()}, dq, inner.T @ t.q


class Margin(ruvattn.Score):
    """Two planes of dots and a term of each side: first · second − margin · (|q|² + Σk)."""

    splits = (2, -1)

    def __init__(self, margin):
        self.params = {"margin": margin}

    def row_terms(self, q, pos):
        return ((q**2).sum(-1),)

    def col_terms(self, k, pos):
        return (k.sum(-1),)

    def row_terms_vjp(self, q, pos, dterms):
        return 2 * q * dterms[0][..., None], {}

    def col_terms_vjp(self, k, pos, dterms):
        return np.broadcast_to(dterms[0][..., None], k.shape), {}

    def logits(self, t):
        return np.tanh(t.dots[0]) * t.dots[1] - t.params["margin"] * (t.rows[0] + t.cols[0])

    def logits_vjp(self, t, dlogits):
        first = np.tanh(t.dots[0])
        ddots = np.stack([dlogits * t.dots[1] * (1 - first**2), dlogits * first])
        slope = -t.params["margin"] * dlogits
        return ddots, (slope.sum(1, keepdims=True),), (slope.sum(0, keepdims=True),), {"margin": -(dlogits * (t.rows[0] + t.cols[0])).sum()}


class Decay(ruvattn.Score):
    """q·k less a rate times the distance of the positions, with the rate of a head in the terms: one term without an axis of heads, one with."""

    def __init__(self, rate):
        self.params = {"rate": rate}

    def row_terms(self, q, pos):
        return (-np.asarray(self.params["rate"])[:, None] * pos, np.asarray(pos, q.dtype))

    def col_terms(self, k, pos):
        return (np.asarray(self.params["rate"])[:, None] * pos,)

    def row_terms_vjp(self, q, pos, dterms):
        axes = tuple(range(dterms[0].ndim - 2))
        return np.zeros_like(q), {"rate": -(dterms[0] * pos).sum(axis=(*axes, -1))}

    def col_terms_vjp(self, k, pos, dterms):
        axes = tuple(range(dterms[0].ndim - 2))
        return np.zeros_like(k), {"rate": (dterms[0] * pos).sum(axis=(*axes, -1))}

    def logits(self, t):
        return t.dots[0] * 0.3 + t.rows[0] + t.cols[0] + 0 * t.rows[1]

    def logits_vjp(self, t, dlogits):
        rows, cols = dlogits.sum(1, keepdims=True), dlogits.sum(0, keepdims=True)
        return 0.3 * dlogits[None], (rows, 0 * rows), (cols,), {"rate": 0 * dlogits[0, 0]}


class Powered(ruvattn.Aggregate):
    """The power mean (Σ p v^e / Σ p)^(1/e) of positive values, streaming or by whole rows; e is a parameter."""

    def __init__(self, exponent, streams=True):
        self.params = {"exponent": exponent}
        self.linear = streams

    def values(self, v):
        return v ** self.params["exponent"]

    def values_vjp(self, v, dvalues):
        e = self.params["exponent"]
        return dvalues * e * v ** (e - 1)

    def values_params_vjp(self, v, dvalues):
        return {"exponent": (dvalues * v ** self.params["exponent"] * np.log(v)).sum()}

    def finish(self, acc):
        return np.maximum(acc, 1e-300) ** (1 / self.params["exponent"])

    def finish_vjp(self, acc, dout):
        e = self.params["exponent"]
        return np.where(acc > 0, dout * np.maximum(acc, 1e-300) ** (1 / e - 1) / e, 0)

    def finish_params_vjp(self, acc, dout):
        e = self.params["exponent"]
        acc = np.maximum(acc, 1e-300)
        return {"exponent": -(dout * acc ** (1 / e) * np.log(acc)).sum() / e**2}

    def reduce(self, weights, v):
        return self.finish(weights @ self.values(v))

    def reduce_vjp(self, weights, v, out, dout):
        dacc = self.finish_vjp(weights @ self.values(v), dout)
        return dacc @ self.values(v).T, self.values_vjp(v, weights.T @ dacc)

    def reduce_params_vjp(self, weights, v, out, dout):
        acc = weights @ self.values(v)
        dacc = self.finish_vjp(acc, dout)
        return {"exponent": self.values_params_vjp(v, weights.T @ dacc)["exponent"] + self.finish_params_vjp(acc, dout)["exponent"]}
