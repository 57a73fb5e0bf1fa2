# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The scores of ruvattn_geometric.geometric_score, compiled: logits and their derivatives for a tile.

Parameter 0 is the temperature; which parameters are curvatures and weights, which plane and which terms a part has, says the Layout that comes
as ``user_data``. Compiled once per instruction set and dtype.
"""
from libc.math cimport fabs, sqrt
from libc.string cimport memset

from ruvattn.kernels.vector cimport VLEN, real, v_load, v_set1, v_store, vreal

from ._components cimport (
    COSINE, DOT, EUCLIDEAN, LENGTH, LORENTZ, LORENTZ_INNER, MAX_PARTS, MOST_LANES, SPHERE, SQUARED, STEREOGRAPHIC, SUM, Curve, Layout, Place,
    all_lanes, curve_of, half_v, length_v,
)
from ._functions cimport v_sqrt
from ._pairs cimport Pair, Spread, chain, measure


cdef inline void place(const Layout *f, int part, Py_ssize_t m, Py_ssize_t ld, const real *dots, const real *rows, const real *cols,
                       const real *params, const real *q, const real *k, Py_ssize_t d, Place *s) noexcept nogil:
    """Where a part of the tile is."""
    cdef int term = f.term[part]
    s.kappa = params[f.curvature[part]] if f.curvature[part] >= 0 else 0
    s.unit = <real>sqrt(fabs(s.kappa))
    s.dots = dots + f.plane[part] * m * ld
    s.d = (f.stop[part] if f.stop[part] >= 0 else d) - f.start[part]
    s.step = d
    s.x = q + f.start[part]
    s.y = k + f.start[part]
    # a part without terms reads some that are not its own, or the dots, and makes nothing of them
    s.row = rows + term * m if f.kind[part] != DOT else s.dots
    s.col = cols + term * ld if f.kind[part] != DOT else s.dots
    s.row_next = s.row + m if f.kind[part] == STEREOGRAPHIC else s.row
    s.col_next = s.col + ld if f.kind[part] == STEREOGRAPHIC else s.col


cdef inline void fill(const int kind, const int sign, const int mode, const Place *s, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real weight,
                      const real *before, real *out) noexcept nogil:
    """out = before + weight · value, for every pair of the tile; ``before`` is NULL for nothing. It and ``out`` may be the part's own dots.

    Two passes, q and then what becomes of it: as one, its chain of operations is so long that the processor can't see the next one's beginning.
    """
    cdef Py_ssize_t i, j = 0, at, left
    cdef Curve c = curve_of(s.kappa, s.unit)
    cdef vreal w = v_set1(weight), col, col_next, x
    cdef real spare[4][MOST_LANES]
    cdef real *half = <real *>s.dots
    while j + VLEN <= n:
        col = v_load(s.col + j)
        col_next = v_load(s.col_next + j)
        for i in range(m):
            x = half_v(kind, sign, s, &c, i, j, all_lanes(), v_load(s.dots + i * ld + j), v_set1(s.row[i]), v_set1(s.row_next[i]), col, col_next)
            v_store(half + i * ld + j, x)
        for i in range(m):
            x = v_load(half + i * ld + j)
            if kind != DOT and kind != COSINE and kind != LORENTZ_INNER:
                x = length_v(sign, mode, &c, x)
            x = w * x
            if before != NULL:
                x = x + v_load(before + i * ld + j)
            v_store(out + i * ld + j, x)
        j += VLEN
    left = n - j
    if left == 0:
        return
    # the last columns, by way of whole vectors
    for at in range(VLEN):
        spare[0][at] = s.col[j + at] if at < left else 0
        spare[1][at] = s.col_next[j + at] if at < left else 0
        spare[2][at] = 0
    col = v_load(spare[0])
    col_next = v_load(spare[1])
    for i in range(m):
        for at in range(left):
            spare[2][at] = s.dots[i * ld + j + at]
        x = half_v(kind, sign, s, &c, i, j, (<unsigned int>1 << left) - 1, v_load(spare[2]), v_set1(s.row[i]), v_set1(s.row_next[i]), col, col_next)
        if kind != DOT and kind != COSINE and kind != LORENTZ_INNER:
            x = length_v(sign, mode, &c, x)
        v_store(spare[3], w * x)
        for at in range(left):
            out[i * ld + j + at] = spare[3][at] + (before[i * ld + j + at] if before != NULL else 0)


cdef inline void fill_part(const int mode, int kind, const Place *s, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real weight, const real *before,
                           real *out) noexcept nogil:
    if kind == EUCLIDEAN:
        fill(EUCLIDEAN, 0, mode, s, m, n, ld, weight, before, out)
    elif kind == SPHERE:
        fill(SPHERE, 1, mode, s, m, n, ld, weight, before, out)
    elif kind == LORENTZ:
        fill(LORENTZ, -1, mode, s, m, n, ld, weight, before, out)
    elif kind == STEREOGRAPHIC and s.kappa < 0:
        fill(STEREOGRAPHIC, -1, mode, s, m, n, ld, weight, before, out)
    elif kind == STEREOGRAPHIC and s.kappa > 0:
        fill(STEREOGRAPHIC, 1, mode, s, m, n, ld, weight, before, out)
    elif kind == STEREOGRAPHIC:
        fill(STEREOGRAPHIC, 0, mode, s, m, n, ld, weight, before, out)
    elif mode == SUM and kind == LORENTZ_INNER:
        fill(LORENTZ_INNER, -1, SUM, s, m, n, ld, weight, before, out)
    elif mode == SUM and kind == COSINE:
        fill(COSINE, 0, SUM, s, m, n, ld, weight, before, out)
    elif mode == SUM:
        fill(DOT, 0, SUM, s, m, n, ld, weight, before, out)


cdef inline void root_of(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real factor) noexcept nogil:
    """dots = factor · √dots"""
    cdef Py_ssize_t i, j
    for i in range(m):
        j = 0
        while j + VLEN <= n:
            v_store(dots + i * ld + j, v_sqrt(v_load(dots + i * ld + j)) * v_set1(factor))
            j += VLEN
        while j < n:
            dots[i * ld + j] = <real>sqrt(dots[i * ld + j]) * factor
            j += 1


cdef api void geometric_logits(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q, real *k,
                               Py_ssize_t d, void *user_data) noexcept nogil:
    cdef const Layout *f = <const Layout *>user_data
    cdef Place s
    cdef real factor = 1 / params[0], weight
    cdef int part
    cdef const real *before = NULL
    cdef real *out = dots
    if f.mode == LENGTH and f.count == 1:
        place(f, 0, m, ld, dots, rows, cols, params, q, k, d, &s)
        fill_part(LENGTH, f.kind[0], &s, m, n, ld, -factor, NULL, dots)
        return
    # part by part, each adding to the sum so far in the place of its own dots
    for part in range(f.count):
        place(f, part, m, ld, dots, rows, cols, params, q, k, d, &s)
        weight = params[f.weight[part]] if f.weight[part] >= 0 else 1
        if f.mode != LENGTH:
            weight *= factor if f.mode == SUM else -factor
        out = dots if part == f.count - 1 else dots + f.plane[part] * m * ld
        if f.mode == SUM:
            fill_part(SUM, f.kind[part], &s, m, n, ld, weight, before, out)
        else:
            fill_part(SQUARED, f.kind[part], &s, m, n, ld, weight, before, out)
        before = out
    if f.mode == LENGTH:
        root_of(dots, m, n, ld, -factor)


cdef api void geometric_logits_vjp(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params,
                                   real *q, real *k, Py_ssize_t d, real *drows, real *dcols, real *dparams, real *dq, real *dk,
                                   void *user_data) noexcept nogil:
    cdef const Layout *f = <const Layout *>user_data
    cdef Place s[MAX_PARTS]
    cdef Pair pair[MAX_PARTS]
    cdef Spread to
    cdef double total, value, up, weight, tau = params[0], dtau = 0
    cdef double dcurvature[MAX_PARTS]
    cdef double dweight[MAX_PARTS]
    cdef Py_ssize_t i, j
    cdef int part
    for part in range(f.count):
        place(f, part, m, ld, dots, rows, cols, params, q, k, d, s + part)
        dcurvature[part] = 0
        dweight[part] = 0
    for i in range(m):
        for j in range(n):
            total = 0
            for part in range(f.count):
                measure(f.kind[part], s + part, i, j, ld, pair + part)
                weight = params[f.weight[part]] if f.weight[part] >= 0 else 1
                value = pair[part].value if f.mode == SUM else pair[part].length * pair[part].length
                total += weight * value
            if f.mode == LENGTH:
                total = sqrt(total)
            up = dlogits[i * ld + j] / tau
            dtau -= up * (total if f.mode == SUM else -total) / tau
            for part in range(f.count):
                weight = params[f.weight[part]] if f.weight[part] >= 0 else 1
                to.dots = dots + f.plane[part] * m * ld + i * ld + j
                to.drow = drows + f.term[part] * m + i
                to.dcol = dcols + f.term[part] * ld + j
                to.drow_next = to.drow + m
                to.dcol_next = to.dcol + ld
                to.dx = dq + i * d + f.start[part]
                to.dy = dk + j * d + f.start[part]
                to.dcurvature = dcurvature + part
                if f.mode == SUM:
                    dweight[part] += up * pair[part].value
                    chain(f.kind[part], s + part, i, j, pair + part, up * weight, False, &to)
                elif f.mode == LENGTH and f.count == 1:
                    chain(f.kind[part], s + part, i, j, pair + part, up, False, &to)
                else:
                    value = -up if f.mode == SQUARED else (-up / (2 * total) if total > 0 else 0)
                    dweight[part] += value * pair[part].length * pair[part].length
                    chain(f.kind[part], s + part, i, j, pair + part, value * weight, True, &to)
    for part in range(f.count):
        if f.kind[part] == LORENTZ or f.kind[part] == LORENTZ_INNER:  # the plane of the time coordinates, which are made anew
            memset(dots + (f.plane[part] - 1) * m * ld, 0, m * ld * sizeof(real))
    dparams[0] += <real>dtau
    for part in range(f.count):
        if f.curvature[part] >= 0:
            dparams[f.curvature[part]] += <real>dcurvature[part]
        if f.weight[part] >= 0:
            dparams[f.weight[part]] += <real>dweight[part]
