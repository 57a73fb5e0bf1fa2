# cython: cdivision=True
"""The parts of a score, as ruvattn_geometric.scores lays them out, and what a vector of pairs makes of one part.

    dot, terms ──► q = sin_κ²(d/2) ──► d, d², or another function of q
                   └─ lanes where that cancels: once more, from the points
"""
from libc.math cimport fabs, sqrt

from ruvattn.kernels.vector cimport VLEN, real, v_any, v_lanes, v_load, v_lt, v_select, v_set1, v_store, vreal, vuint

from ._functions cimport asin_ratio_v, asinh_ratio_v, difference_of_squares, log_v, sum_of_squares, v_sqrt

cdef enum:
    MAX_PARTS = 16
    # kinds
    STEREOGRAPHIC = 0
    EUCLIDEAN = 1
    SPHERE = 2
    LORENTZ = 3
    LORENTZ_INNER = 4
    COSINE = 5
    DOT = 6
    # modes
    LENGTH = 0
    SQUARED = 1
    SUM = 2
    MOST_LANES = 16


cdef struct Layout:
    int mode
    int count
    int kind[MAX_PARTS]
    int plane[MAX_PARTS]
    int term[MAX_PARTS]
    int curvature[MAX_PARTS]     # which parameter, or −1
    int weight[MAX_PARTS]
    Py_ssize_t start[MAX_PARTS]  # columns of the points
    Py_ssize_t stop[MAX_PARTS]   # −1: all there are


cdef struct Place:
    # one part of one query, and the keys from some column of the tile on
    real first, second           # the query's terms
    real kappa, unit             # unit = √|κ|
    const real *dots
    const real *first_of         # the keys' terms
    const real *second_of
    const real *x                # the query's columns of this part, and those of the first key
    const real *y
    Py_ssize_t d, step           # how many columns, and from key to key


cdef inline int sign_of(real kappa) noexcept nogil:
    return (kappa > 0) - (kappa < 0)


cdef inline real hyperboloid(const real *x, const real *y, Py_ssize_t d, double c, double up, double down) noexcept nogil:
    """q by the coordinates in the ball, in double: ‖x/up − y/down‖² up·down/4, where up = 1 + √(1 + c‖x‖²) and down alike."""
    cdef double total = 0, one
    cdef Py_ssize_t i
    for i in range(d):
        one = x[i] / up - y[i] / down
        total += one * one
    return <real>(total * up * down / 4)


cdef inline double edge_of(const real *x, Py_ssize_t d, double c) noexcept nogil:
    """1 + √(1 + c‖x‖²)"""
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(d):
        total += <double>x[i] * x[i]
    return 1 + sqrt(1 + c * total)


cdef inline real lorentz_pair(const Place *s, const real *y, real other) noexcept nogil:
    """q = ¼(‖Δx‖² − Δt²), Δt = (‖x‖² − ‖y‖²)/(t + t'); in double where most of that cancels, as far out along one ray."""
    cdef real space = sum_of_squares(s.x, y, -1, s.d), c = -s.kappa
    cdef real fall = difference_of_squares(s.x, y, s.d) * s.unit / (2 + 2 * c * (s.first + other))
    if fall * fall < space / 2:
        return (space - fall * fall) / 4
    return hyperboloid(s.x, y, s.d, c, edge_of(s.x, s.d, c), edge_of(y, s.d, c))


cdef inline real antipodal_pair(const Place *s, const real *y) noexcept nogil:
    """1 + 2κ x·y + κ²‖x‖²‖y‖² as κ²‖x‖² ‖y + x/κ‖x‖²‖²"""
    cdef double norm = 0, total = 0, one, kappa = s.kappa
    cdef Py_ssize_t i
    for i in range(s.d):
        norm += <double>s.x[i] * s.x[i]
    for i in range(s.d):
        one = y[i] + s.x[i] / (kappa * norm)
        total += one * one
    return <real>(kappa * kappa * norm * total)


cdef inline vreal by_points(const int kind, const Place *s, Py_ssize_t j, unsigned int lanes, vreal found, real sign) noexcept nogil:
    """A vector of ‖x − y‖², of shares of a sphere or of q, with those lanes computed from the points; sign = 1: from the opposite point."""
    cdef real lane[MOST_LANES]
    cdef real gap, other
    cdef const real *y = s.y + j * s.step
    cdef int at = 0
    v_store(lane, found)
    while lanes != 0:
        if lanes & 1:
            if kind == SPHERE:
                other = s.first_of[j + at]
                gap = 1 / s.first - 1 / other
                lane[at] = (sum_of_squares(s.x, y, sign, s.d) - gap * gap) * (s.first * other) / 4
            elif kind == LORENTZ or kind == LORENTZ_INNER:
                lane[at] = lorentz_pair(s, y, s.first_of[j + at])
            elif sign > 0:
                lane[at] = antipodal_pair(s, y) * (s.second * s.second_of[j + at])
            else:
                lane[at] = sum_of_squares(s.x, y, -1, s.d)
        lanes >>= 1
        at += 1
        y += s.step
    return v_load(lane)


cdef inline vreal value_v(const int kind, const int sign, const int mode, const Place *s, Py_ssize_t j, unsigned int valid) noexcept nogil:
    """What the part makes of the pairs from column j on: the distance, its square, or its term of a sum; ``valid`` has a bit for each key there is.
    ``sign`` is that of the curvature."""
    cdef vreal dot = v_load(s.dots + j), col, whole, q, rest, root, z, length, small
    cdef vreal one = v_set1(1), part = v_set1(<real>(1.0 / 32))
    cdef unsigned int lanes
    if kind == DOT:
        return dot
    col = v_load(s.first_of + j)
    if kind == COSINE:
        return dot * (v_set1(s.first) * col)
    rest = one
    if kind == STEREOGRAPHIC or kind == EUCLIDEAN:
        whole = v_set1(s.first) + col
        q = whole - (dot + dot)
        lanes = v_lanes(v_lt(q, whole * part)) & valid
        if lanes != 0:
            q = by_points(kind, s, j, lanes, q, -1)
        if kind == EUCLIDEAN:
            q = q * v_set1(<real>0.25)
        else:
            q = q * (v_set1(s.second) * v_load(s.second_of + j))
            if sign > 0:
                rest = one - v_set1(s.kappa) * q
                lanes = v_lanes(v_lt(rest, part)) & valid
                if lanes != 0:
                    rest = by_points(kind, s, j, lanes, rest, 1)
    elif kind == SPHERE:
        q = (one - dot * (v_set1(s.first) * col)) * v_set1(<real>0.5)
        lanes = v_lanes(v_lt(q, part)) & valid
        if lanes != 0:
            q = by_points(kind, s, j, lanes, q, -1)
        rest = one - q
        lanes = v_lanes(v_lt(rest, part)) & valid
        if lanes != 0:
            rest = by_points(kind, s, j, lanes, rest, 1)
        q = q * v_set1(1 / s.kappa)
    else:
        whole = v_set1(s.first) + col * v_set1(1 - 2 * s.kappa * s.first)
        q = whole - dot * v_set1(<real>0.5)
        lanes = v_lanes(v_lt(q, whole * part)) & valid
        if lanes != 0:
            q = by_points(kind, s, j, lanes, q, -1)
        if kind == LORENTZ_INNER:
            return v_set1(1 / s.kappa) - (q + q)
    # d = 2 asin_κ √q
    root = v_sqrt(q)
    if sign == 0:
        length = root + root
    else:
        z = q * v_set1(<real>fabs(s.kappa))
        lanes = v_lanes(v_lt(z, v_set1(<real>0.25)))
        small = length = root
        if lanes != 0:
            small = (root + root) * (asinh_ratio_v(z) if sign < 0 else asin_ratio_v(z))
        length = small
        if lanes != all_lanes():
            root = root * v_set1(s.unit)
            if sign < 0:
                length = log_v(root + v_sqrt(one + z)) * v_set1(2 / s.unit)
            else:
                z = rest / (v_set1(2) + (root + root))
                length = (v_set1(<real>1.57079632679489661923) - v_set1(2) * v_sqrt(z) * asin_ratio_v(z)) * v_set1(2 / s.unit)
            if lanes != 0:
                length = v_select(v_lt(q * v_set1(<real>fabs(s.kappa)), v_set1(<real>0.25)), small, length)
    if mode == SQUARED:
        return length * length
    if mode == SUM:
        return v_set1(0) - length
    return length


cdef inline unsigned int all_lanes() noexcept nogil:
    return (<unsigned int>1 << VLEN) - 1
