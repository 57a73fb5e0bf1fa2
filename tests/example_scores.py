"""Scores that tests of both engines share: in NumPy, and some of them in C with the same meaning."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np

import ruvattn

HEADS = 4


class Rbf(ruvattn.Score):
    """−‖q − k‖²/(2σ²), from dots and norms, σ per head."""

    def __init__(self, sigma):
        self.params = {"sigma": sigma}

    def row_terms(self, q, pos):
        return ((q**2).sum(-1),)

    def col_terms(self, k, pos):
        return ((k**2).sum(-1),)

    def logits(self, t):
        return (2 * t.dots[0] - t.rows[0] - t.cols[0]) / (2 * t.params["sigma"] ** 2)


class Lorentz(ruvattn.Score):
    """Two planes: one column counts negative."""

    splits = (1, 8)

    def logits(self, t):
        return t.dots[1] - t.dots[0]


class ThreePlanes(ruvattn.Score):
    splits = (2, 3, 4)

    def logits(self, t):
        return t.dots[0] + 2 * t.dots[1] * np.tanh(t.dots[2])


class InPlace(ruvattn.Score):
    """Overwrites what it is given."""

    splits = (4, 5)

    def logits(self, t):
        t.dots[0] *= 0.5
        t.dots[0] += t.dots[1]
        t.dots[1] = np.nan
        return t.dots[0]


class FourTerms(ruvattn.Score):
    def row_terms(self, q, pos):
        return q[..., 0], q[..., 1], q[..., 2], q[..., 3]

    def col_terms(self, k, pos):
        return k[..., 0], k[..., 1], k[..., 2], k[..., 3]

    def logits(self, t):
        return sum((c + 1) * t.rows[c] * t.cols[c] for c in range(4)) - t.dots[0]


class Alibi(ruvattn.Score):
    """Dots less a slope per head times the distance (Press et al., 2022): position terms."""

    def __init__(self):
        self.params = {"slope": 2.0 ** -np.arange(1.0, HEADS + 1), "scale": 0.3}

    def row_terms(self, q, pos):
        return (np.asarray(pos, q.dtype),)

    def col_terms(self, k, pos):
        return (np.asarray(pos, k.dtype),)

    def logits(self, t):
        return t.dots[0] * t.params["scale"] - t.params["slope"] * np.abs(t.rows[0] - t.cols[0])


class RelativeTable(ruvattn.Score):
    """A table of biases by distance, for each head (Raffel et al., 2020): a parameter with axes of its own."""

    def __init__(self):
        self.params = {"table": np.random.default_rng(0).standard_normal((HEADS, 33))}

    def row_terms(self, q, pos):
        return (np.asarray(pos, q.dtype),)

    def col_terms(self, k, pos):
        return (np.asarray(pos, k.dtype),)

    def logits(self, t):
        return t.dots[0] + t.params["table"][np.clip(t.cols[0] - t.rows[0], -16, 16).astype(int) + 16]


class Additive(ruvattn.Score):
    """No dots: LeakyReLU(a_i + b_j), with a parameter of the head in the terms of the keys."""

    splits = ()

    def __init__(self):
        self.params = {"weight": np.linspace(-1, 1, HEADS)}

    def row_terms(self, q, pos):
        return (q.sum(-1) / 3,)

    def col_terms(self, k, pos):
        group = HEADS // k.shape[-3]
        return (np.repeat(k.sum(-1) / 3, group, -2) * self.params["weight"][:, None],)

    def logits(self, t):
        x = t.rows[0] + t.cols[0]
        return np.where(x > 0, x, 0.2 * x)


class Constant(ruvattn.Score):
    """No dots, no terms: every key alike."""

    splits = ()

    def logits(self, t):
        return np.full(t.dots.shape[1:], 2.0)


class Manhattan(ruvattn.Score):
    """−Σ|q − k|, from the vectors."""

    splits = ()
    vectors = True

    def logits(self, t):
        return -np.abs(t.q[:, None] - t.k[None]).sum(-1)


class VectorsAndPlanes(ruvattn.Score):
    """All of it at once."""

    splits = (4, 5)
    vectors = True

    def __init__(self):
        self.params = {"a": np.linspace(0.5, 1, HEADS), "b": np.ones((HEADS, 2, 3)), "scale": 0.5}

    def row_terms(self, q, pos):
        return q[..., 0], np.broadcast_to(np.asarray(pos, q.dtype), q.shape[:-1]) * 0.01

    def col_terms(self, k, pos):
        return (k[..., 0],)

    def logits(self, t):
        near = (t.q[:, None, 0] - t.k[None, :, 1]) * t.params["b"].sum()
        return t.params["scale"] * (t.dots[0] + t.params["a"] * t.dots[1]) + t.rows[0] * t.cols[0] + t.rows[1] + 0.1 * near


class Widened(ruvattn.Score):
    """Computes in float64 whatever it is given."""

    def logits(self, t):
        return t.dots[0].astype(np.float64) / 3


SCORES = {
    "rbf": lambda: Rbf(np.linspace(1, 3, HEADS)),
    "rbf with one sigma": lambda: Rbf(2.0),
    "two planes": Lorentz,
    "three planes": ThreePlanes,
    "in place": InPlace,
    "four terms": FourTerms,
    "alibi": Alibi,
    "table": RelativeTable,
    "additive": Additive,
    "constant": Constant,
    "vectors": Manhattan,
    "vectors and planes": VectorsAndPlanes,
    "float64 logits": Widened,
}


# --- in C -----------------------------------------------------------------------------------------------------------------------

SOURCE = """
#include <math.h>
#include <stddef.h>
#define P ptrdiff_t
#define FORMS(T, S)                                                                                                     \\
void rbf_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                          \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++)                                                                 \\
        dots[i * ld + j] = (2 * dots[i * ld + j] - rows[i] - cols[j]) / (2 * params[0] * params[0]);                    \\
}                                                                                                                       \\
void planes_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                       \\
    T *one = dots + m * ld, *two = dots + 2 * m * ld;                                                                   \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++)                                                                 \\
        dots[i * ld + j] += 2 * one[i * ld + j] * (T)tanh((double)two[i * ld + j]);                                     \\
}                                                                                                                       \\
void terms_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                        \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++) {                                                               \\
        T s = -dots[i * ld + j];                                                                                        \\
        for (P c = 0; c < 4; c++) s += (T)(c + 1) * rows[c * m + i] * cols[c * ld + j];                                 \\
        dots[i * ld + j] = s;                                                                                           \\
    }                                                                                                                   \\
}                                                                                                                       \\
void additive_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                     \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++) {                                                               \\
        T x = rows[i] + cols[j];                                                                                        \\
        dots[i * ld + j] = x > 0 ? x : (T)0.2 * x;                                                                      \\
    }                                                                                                                   \\
}                                                                                                                       \\
void manhattan_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                    \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++) {                                                               \\
        T s = 0;                                                                                                        \\
        for (P c = 0; c < d; c++) s -= (T)fabs((double)(q[i * d + c] - k[j * d + c]));                                  \\
        dots[i * ld + j] = s;                                                                                           \\
    }                                                                                                                   \\
}                                                                                                                       \\
void all_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                          \\
    T *one = dots + m * ld, b = 0;                                                                                      \\
    for (P c = 1; c < 7; c++) b += params[c];                                                                           \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++)                                                                 \\
        dots[i * ld + j] = params[7] * (dots[i * ld + j] + params[0] * one[i * ld + j]) + rows[i] * cols[j] + rows[m + i]   \\
            + (T)0.1 * (q[i * d] - k[j * d + 1]) * b;                                                                   \\
}                                                                                                                       \\
void table_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                        \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++) {                                                               \\
        double x = cols[j] - rows[i];                                                                                   \\
        dots[i * ld + j] += params[(int)(x < -16 ? -16 : x > 16 ? 16 : x) + 16];                                        \\
    }                                                                                                                   \\
}                                                                                                                       \\
void shifted_##S(T *dots, P m, P n, P ld, T *rows, T *cols, T *params, T *q, T *k, P d, void *u) {                      \\
    for (P i = 0; i < m; i++) for (P j = 0; j < n; j++) dots[i * ld + j] = dots[i * ld + j] / 3 + *(double *)u;         \\
}
FORMS(float, f)
FORMS(double, d)
"""

COMPILER = shutil.which("cc")


def build_library(folder):
    """Compile SOURCE in a folder, and load it."""
    (folder / "score.c").write_text(SOURCE)
    subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", folder / "score.so", folder / "score.c", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "score.so"))


def compiled_form(library, name, real, user_data=None):
    """The function as a LowLevelCallable, by ctypes."""
    from scipy import LowLevelCallable

    function = getattr(library, name)
    pointer, size = ctypes.POINTER(real), ctypes.c_ssize_t
    function.argtypes = [pointer, size, size, size, *[pointer] * 5, size, ctypes.c_void_p]
    function.restype = None
    return LowLevelCallable(function, user_data)


COMPILED = {"rbf": "rbf", "rbf with one sigma": "rbf", "three planes": "planes", "four terms": "terms", "additive": "additive",
            "vectors": "manhattan", "vectors and planes": "all", "table": "table"}  # fmt: skip


def compiled(library, name, dtypes=("float32", "float64")):
    score = SCORES[name]()
    forms = {"float32": ("f", ctypes.c_float), "float64": ("d", ctypes.c_double)}
    score.kernels = {dtype: (compiled_form(library, f"{COMPILED[name]}_{forms[dtype][0]}", forms[dtype][1]), None) for dtype in dtypes}

    def never(t):
        raise AssertionError("the NumPy form was called")

    score.logits = never
    return score
