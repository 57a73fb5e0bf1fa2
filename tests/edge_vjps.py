"""Scores for the backward pass over edges: in NumPy, and in C with a vjp; with terms, planes and vectors, and those that the engine makes itself."""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
from example_scores import COMPILER
from scored import Margin

import ruvattn
from ruvattn.scores import Score


class LeakySum(Score):
    """LeakyReLU of the sums of queries, keys and edge terms."""

    splits = ()
    leaky = "sum"

    def __init__(self, slope=0.2):
        self.params = {"slope": slope}

    def row_terms(self, q, pos):
        return (q.sum(-1),)

    def col_terms(self, k, pos):
        return (k.sum(-1),)

    def row_terms_vjp(self, q, pos, dterms):
        return np.broadcast_to(dterms[0][..., None], q.shape), {}

    def col_terms_vjp(self, k, pos, dterms):
        return np.broadcast_to(dterms[0][..., None], k.shape), {}

    def _sum(self, t):
        x = t.rows[0] + t.cols[0]
        for term in t.cols[1:]:
            x = x + term
        return x

    def logits(self, t):
        x = self._sum(t)
        return np.where(x > 0, x, t.params["slope"] * x)

    def logits_vjp(self, t, dlogits):
        x = self._sum(t)
        g = dlogits * np.where(x > 0, 1, t.params["slope"])
        cols = tuple(g.sum(0, keepdims=True) for _ in t.cols)
        return np.zeros((0, *x.shape)), (g.sum(1, keepdims=True),), cols, {"slope": (dlogits * np.minimum(x, 0)).sum()}


class LeakyHidden(Score):
    """a · LeakyReLU(q + k)."""

    splits = ()
    vectors = True
    leaky = "hidden"

    def __init__(self, slope, a):
        self.params = {"slope": slope, "a": a}

    def logits(self, t):
        x = t.q[:, None] + t.k[None]
        return np.where(x > 0, x, t.params["slope"] * x) @ t.params["a"]

    def logits_vjp(self, t, dlogits):
        x = t.q[:, None] + t.k[None]
        a, slope = t.params["a"], t.params["slope"]
        g = dlogits[..., None] * a * np.where(x > 0, 1, slope)
        da = (dlogits[..., None] * np.where(x > 0, x, slope * x)).sum((0, 1))
        return np.zeros((0, *dlogits.shape)), (), (), {"slope": (dlogits[..., None] * a * np.minimum(x, 0)).sum(), "a": da}, g.sum(1), g.sum(0)


class Whole(Margin):
    """`Margin` and, by the vectors, weight · Σ q k²: planes, terms, vectors and two parameters."""

    vectors = True

    def __init__(self, margin, weight):
        self.params = {"margin": margin, "weight": weight}

    def logits(self, t):
        return super().logits(t) + t.params["weight"] * (t.q @ (t.k**2).T)

    def logits_vjp(self, t, dlogits):
        ddots, drows, dcols, dparams = super().logits_vjp(t, dlogits)
        weight = t.params["weight"]
        dparams["weight"] = (dlogits * (t.q @ (t.k**2).T)).sum()
        return ddots, drows, dcols, dparams, weight * dlogits @ t.k**2, 2 * weight * t.k * (dlogits.T @ t.q)


class WithEdges(Margin):
    """`Margin` times one term of the edge, plus another."""

    edge_terms = 2

    def logits(self, t):
        return super().logits(t) * t.cols[1] + t.cols[2]

    def logits_vjp(self, t, dlogits):
        raw = super().logits(t)
        ddots, drows, dcols, dparams = super().logits_vjp(t, dlogits * t.cols[1])
        return ddots, drows, (*dcols, (dlogits * raw).sum(0, keepdims=True), dlogits.sum(0, keepdims=True)), dparams


SOURCE = """
#include <math.h>
#include <stddef.h>
#define P ptrdiff_t
#define FORWARD(name, S, T) void name##_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u)
#define BACKWARD(name, S, T) void name##_vjp_##S(T *dots, T *g, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, \\
                                                 T *drows, T *dcols, T *dparams, T *dq, T *dk, void *u)
#define EACH for (P i = 0; i < m; i++) for (P j = 0; j < n; j++)
#define FORMS(S, T)                                                                                                          \\
FORWARD(sum, S, T) { EACH { T x = rows[i] + cols[j]; dots[i * ld + j] = x > 0 ? x : params[0] * x; } }                       \\
FORWARD(hidden, S, T) {                                                                                                      \\
    EACH {                                                                                                                   \\
        T s = 0;                                                                                                             \\
        for (P c = 0; c < d; c++) { T x = q[i * d + c] + k[j * d + c]; s += params[1 + c] * (x > 0 ? x : params[0] * x); }   \\
        dots[i * ld + j] = s;                                                                                                \\
    }                                                                                                                        \\
}                                                                                                                            \\
static T margin_of_##S(T a, T b, T row, T col, T margin) { return (T)tanh((double)a) * b - margin * (row + col); }           \\
FORWARD(margin, S, T) {                                                                                                      \\
    EACH dots[i * ld + j] = margin_of_##S(dots[i * ld + j], dots[(m + i) * ld + j], rows[i], cols[j], params[0]);            \\
}                                                                                                                            \\
BACKWARD(margin, S, T) {                                                                                                     \\
    EACH {                                                                                                                   \\
        T a = (T)tanh((double)dots[i * ld + j]), b = dots[(m + i) * ld + j], x = g[i * ld + j];                              \\
        dots[i * ld + j] = x * b * (1 - a * a);                                                                              \\
        dots[(m + i) * ld + j] = x * a;                                                                                      \\
        drows[i] -= params[0] * x;                                                                                           \\
        dcols[j] -= params[0] * x;                                                                                           \\
        dparams[0] -= x * (rows[i] + cols[j]);                                                                               \\
    }                                                                                                                        \\
}                                                                                                                            \\
FORWARD(whole, S, T) {                                                                                                       \\
    EACH {                                                                                                                   \\
        T s = margin_of_##S(dots[i * ld + j], dots[(m + i) * ld + j], rows[i], cols[j], params[0]);                          \\
        for (P c = 0; c < d; c++) s += params[1] * q[i * d + c] * k[j * d + c] * k[j * d + c];                               \\
        dots[i * ld + j] = s;                                                                                                \\
    }                                                                                                                        \\
}                                                                                                                            \\
BACKWARD(whole, S, T) {                                                                                                      \\
    EACH for (P c = 0; c < d; c++) {                                                                                         \\
        T x = g[i * ld + j], a = q[i * d + c], b = k[j * d + c];                                                             \\
        dparams[1] += x * a * b * b;                                                                                         \\
        dq[i * d + c] += x * params[1] * b * b;                                                                              \\
        dk[j * d + c] += 2 * x * params[1] * a * b;                                                                          \\
    }                                                                                                                        \\
    margin_vjp_##S(dots, g, m, n, ld, rows, cols, params, q, k, d, drows, dcols, dparams, dq, dk, u);                        \\
}                                                                                                                            \\
FORWARD(edged, S, T) {                                                                                                       \\
    EACH dots[i * ld + j] = cols[2 * ld + j] + cols[ld + j]                                                                  \\
        * margin_of_##S(dots[i * ld + j], dots[(m + i) * ld + j], rows[i], cols[j], params[0]);                              \\
}                                                                                                                            \\
BACKWARD(edged, S, T) {                                                                                                      \\
    EACH {                                                                                                                   \\
        T x = g[i * ld + j];                                                                                                 \\
        dcols[ld + j] += x * margin_of_##S(dots[i * ld + j], dots[(m + i) * ld + j], rows[i], cols[j], params[0]);           \\
        dcols[2 * ld + j] += x;                                                                                              \\
        g[i * ld + j] = x * cols[ld + j];                                                                                    \\
    }                                                                                                                        \\
    margin_vjp_##S(dots, g, m, n, ld, rows, cols, params, q, k, d, drows, dcols, dparams, dq, dk, u);                        \\
}
FORMS(f, float)
FORMS(d, double)
"""


def build_vjps(folder):
    """Compile SOURCE in a folder, and load it."""
    (folder / "vjps.c").write_text(SOURCE)
    subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", folder / "vjps.so", folder / "vjps.c", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "vjps.so"))


def _form(library, name, real, arrays, sizes_after):
    from scipy import LowLevelCallable

    function = getattr(library, name)
    pointer, size = ctypes.POINTER(real), ctypes.c_ssize_t
    function.argtypes = [*[pointer] * arrays, size, size, size, *[pointer] * 5, size, *[pointer] * sizes_after, ctypes.c_void_p]
    function.restype = None
    return LowLevelCallable(function)


def in_c(library, score, name, vjp=True):
    """Give a score the compiled forms of that name; the class has to say itself that it is leaky, as a subclass might compute something else."""
    forms = {}
    for dtype, suffix, real in (("float32", "f", ctypes.c_float), ("float64", "d", ctypes.c_double)):
        backward = _form(library, f"{name}_vjp_{suffix}", real, 2, 5) if vjp else None
        forms[dtype] = (_form(library, f"{name}_{suffix}", real, 1, 0), backward)
    kind = type(type(score).__name__, (type(score),), {"kernels": forms, "leaky": score.leaky})
    score.__class__ = kind
    assert isinstance(score, ruvattn.Score)
    return score
