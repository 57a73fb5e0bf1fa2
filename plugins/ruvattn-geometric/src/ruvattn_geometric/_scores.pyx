# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The scores of ruvattn_geometric.scores, compiled: logits and their derivatives for a tile.

Parameter 0 is the temperature; which parameters are curvatures and weights, which plane and which terms a part has, says the Layout that comes
as ``user_data``. Compiled once per instruction set and dtype.
"""
from libc.math cimport fabs, sqrt
from libc.string cimport memset

from ruvattn.kernels.vector cimport VLEN, real, v_set1, v_store, vreal

from ._components cimport (
    COSINE, DOT, EUCLIDEAN, LENGTH, LORENTZ, LORENTZ_INNER, MAX_PARTS, MOST_LANES, SPHERE, SQUARED, STEREOGRAPHIC, SUM, Layout, Place, all_lanes,
    sign_of, value_v,
)
from ._functions cimport v_sqrt
from ._pairs cimport Pair, Spread, chain, measure


cdef inline void place(const Layout *f, int part, Py_ssize_t i, Py_ssize_t m, Py_ssize_t ld, const real *dots, const real *rows, const real *cols,
                       const real *params, const real *q, const real *k, Py_ssize_t d, Place *s) noexcept nogil:
    """Where part ``part`` of query i is."""
    cdef int term = f.term[part]
    s.kappa = params[f.curvature[part]] if f.curvature[part] >= 0 else 0
    s.unit = <real>sqrt(fabs(s.kappa))
    s.dots = dots + f.plane[part] * m * ld + i * ld
    s.d = (f.stop[part] if f.stop[part] >= 0 else d) - f.start[part]
    s.step = d
    s.x = q + i * d + f.start[part]
    s.y = k + f.start[part]
    s.first = 0
    s.second = 0
    s.first_of = NULL
    s.second_of = NULL
    if f.kind[part] != DOT:
        s.first = rows[term * m + i]
        s.first_of = cols + term * ld
    if f.kind[part] == STEREOGRAPHIC:
        s.second = rows[(term + 1) * m + i]
        s.second_of = cols + (term + 1) * ld


cdef inline vreal any_value(int kind, int mode, const Place *s, Py_ssize_t j, unsigned int valid) noexcept nogil:
    """As value_v, of a kind that is known at run time only."""
    if kind == DOT:
        return value_v(DOT, 0, SUM, s, j, valid)
    if kind == COSINE:
        return value_v(COSINE, 0, SUM, s, j, valid)
    if kind == EUCLIDEAN:
        return value_v(EUCLIDEAN, 0, mode, s, j, valid)
    if kind == SPHERE:
        return value_v(SPHERE, 1, mode, s, j, valid)
    if kind == LORENTZ:
        return value_v(LORENTZ, -1, mode, s, j, valid)
    if kind == LORENTZ_INNER:
        return value_v(LORENTZ_INNER, -1, mode, s, j, valid)
    return value_v(STEREOGRAPHIC, sign_of(s.kappa), mode, s, j, valid)


cdef inline vreal logits_of(const Layout *f, const Place *s, const real *params, Py_ssize_t j, unsigned int valid) noexcept nogil:
    """The logits of some keys, before the division by the temperature."""
    cdef vreal total = v_set1(0)
    cdef int part, mode = SQUARED if f.mode == LENGTH else f.mode
    for part in range(f.count):
        total = total + any_value(f.kind[part], mode, s + part, j, valid) * v_set1(params[f.weight[part]] if f.weight[part] >= 0 else 1)
    if f.mode == LENGTH:
        return v_set1(0) - v_sqrt(total)
    return total if f.mode == SUM else v_set1(0) - total


cdef inline void single(const int kind, const int sign, const int mode, const Place *s, Py_ssize_t n, real factor, real *out) noexcept nogil:
    """The logits of one query, whole vectors of keys: ``factor`` times the value of the only part."""
    cdef Py_ssize_t j = 0
    while j < n:
        v_store(out + j, value_v(kind, sign, mode, s, j, all_lanes()) * v_set1(factor))
        j += VLEN


cdef inline void single_part(const int mode, int kind, const Place *s, Py_ssize_t n, real factor, real *out) noexcept nogil:
    if kind == EUCLIDEAN:
        single(EUCLIDEAN, 0, mode, s, n, factor, out)
    elif kind == SPHERE:
        single(SPHERE, 1, mode, s, n, factor, out)
    elif kind == LORENTZ:
        single(LORENTZ, -1, mode, s, n, factor, out)
    elif s.kappa < 0:
        single(STEREOGRAPHIC, -1, mode, s, n, factor, out)
    elif s.kappa > 0:
        single(STEREOGRAPHIC, 1, mode, s, n, factor, out)
    else:
        single(STEREOGRAPHIC, 0, mode, s, n, factor, out)


cdef api void geometric_logits(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q, real *k,
                               Py_ssize_t d, void *user_data) noexcept nogil:
    cdef const Layout *f = <const Layout *>user_data
    cdef Place s[MAX_PARTS]
    cdef Place own
    cdef real spare[3 * MAX_PARTS][MOST_LANES]
    cdef real lane[MOST_LANES]
    cdef real factor = 1 / params[0]
    cdef Py_ssize_t i, j, at, whole = n // VLEN * VLEN, left = n - whole
    cdef int part
    for i in range(m):
        for part in range(f.count):
            place(f, part, i, m, ld, dots, rows, cols, params, q, k, d, s + part)
        if f.count == 1 and f.mode != SUM and f.weight[0] < 0:
            if f.mode == LENGTH:
                single_part(LENGTH, f.kind[0], s, whole, -factor, dots + i * ld)
            else:
                single_part(SQUARED, f.kind[0], s, whole, -factor, dots + i * ld)
        else:
            j = 0
            while j < whole:
                v_store(dots + i * ld + j, logits_of(f, s, params, j, all_lanes()) * v_set1(factor))
                j += VLEN
        if left == 0:
            continue
        # the last keys, by way of a whole vector of each of their numbers
        for part in range(f.count):
            for at in range(VLEN):
                j = whole + at if at < left else whole
                spare[3 * part][at] = s[part].dots[j]
                spare[3 * part + 1][at] = s[part].first_of[j] if s[part].first_of != NULL else 0
                spare[3 * part + 2][at] = s[part].second_of[j] if s[part].second_of != NULL else 0
            s[part].dots = spare[3 * part]
            s[part].first_of = spare[3 * part + 1]
            s[part].second_of = spare[3 * part + 2]
            s[part].y += whole * d
        if f.count == 1 and f.mode != SUM and f.weight[0] < 0:
            own = s[0]
            v_store(lane, any_value(f.kind[0], f.mode, &own, 0, (<unsigned int>1 << left) - 1) * v_set1(-factor))
        else:
            v_store(lane, logits_of(f, s, params, 0, (<unsigned int>1 << left) - 1) * v_set1(factor))
        for at in range(left):
            dots[i * ld + whole + at] = lane[at]


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
        dcurvature[part] = 0
        dweight[part] = 0
    for i in range(m):
        for part in range(f.count):
            place(f, part, i, m, ld, dots, rows, cols, params, q, k, d, s + part)
        for j in range(n):
            total = 0
            for part in range(f.count):
                measure(f.kind[part], s + part, j, pair + part)
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
                    chain(f.kind[part], s + part, j, pair + part, up * weight, False, &to)
                elif f.mode == LENGTH and f.count == 1:
                    chain(f.kind[part], s + part, j, pair + part, up, False, &to)
                else:
                    value = -up if f.mode == SQUARED else (-up / (2 * total) if total > 0 else 0)
                    dweight[part] += value * pair[part].length * pair[part].length
                    chain(f.kind[part], s + part, j, pair + part, value * weight, True, &to)
    for part in range(f.count):
        if f.kind[part] == LORENTZ or f.kind[part] == LORENTZ_INNER:  # the plane of the time coordinates, which are made anew
            memset(dots + (f.plane[part] - 1) * m * ld, 0, m * ld * sizeof(real))
    dparams[0] += <real>dtau
    for part in range(f.count):
        if f.curvature[part] >= 0:
            dparams[f.curvature[part]] += <real>dcurvature[part]
        if f.weight[part] >= 0:
            dparams[f.weight[part]] += <real>dweight[part]
