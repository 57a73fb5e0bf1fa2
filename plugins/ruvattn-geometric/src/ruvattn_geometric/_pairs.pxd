# cython: cdivision=True
"""One pair of one part of a score, in double: what it is, and where its gradient goes.

A pair is computed from its dot product and its terms, or from the points themselves where that cancels (``near``, ``opposite``); its gradient goes
to what it was computed from.
"""
from libc.math cimport asinh, atan2, fabs, sqrt

from ruvattn.kernels.vector cimport real

from ._components cimport COSINE, DOT, EUCLIDEAN, LORENTZ, LORENTZ_INNER, NEAR, SPHERE, STEREOGRAPHIC, Place
from ._points cimport antipodal, by_directions, chord, hyperboloid, inner


cdef struct Pair:
    double q, rest          # sin_κ²(d/2) and 1 − κq
    double length, value    # d, and the term of a sum
    double chord, excess    # ‖x−y‖², and 1 + 2κ x·y + κ²‖x‖²‖y‖² of an opposite pair
    double row, row_next, col, col_next    # the terms
    bint near, opposite


cdef struct Spread:
    # where the gradients of a pair go
    real *dots
    real *drow
    real *dcol
    real *drow_next         # those of the second terms
    real *dcol_next
    real *dx
    real *dy
    double *dcurvature


cdef inline double angular_of(const real *x, const real *y, Py_ssize_t d, double first, double other, double sign) noexcept nogil:
    """¼ ‖x/‖x‖ + sign·y/‖y‖‖², by the reciprocal norms"""
    cdef double gap = 1 / first - 1 / other, square = chord(x, y, d, sign)
    return (square - gap * gap) * first * other / 4 if gap * gap <= square / 2 else by_directions(x, y, d, sign)


cdef inline void measure(int kind, const Place *s, Py_ssize_t i, Py_ssize_t j, Py_ssize_t ld, Pair *p) noexcept nogil:
    """What there is to know of row i and column j."""
    cdef double dot = s.dots[i * ld + j], kappa = s.kappa, whole, unit
    cdef const real *x = s.x + i * s.step
    cdef const real *y = s.y + j * s.step
    p.near = False
    p.opposite = False
    p.rest = 1
    p.length = 0
    p.row = s.row[i]
    p.row_next = s.row_next[i]
    p.col = s.col[j]
    p.col_next = s.col_next[j]
    if kind == DOT:
        p.value = dot
        return
    if kind == COSINE:
        p.value = dot * p.row * p.col
        return
    if kind == STEREOGRAPHIC or kind == EUCLIDEAN:
        whole = p.row + p.col
        p.chord = whole - 2 * dot
        if p.chord < whole / NEAR:
            p.near = True
            p.chord = chord(x, y, s.d, -1)
        p.q = p.chord / 4 if kind == EUCLIDEAN else p.chord * p.row_next * p.col_next
    elif kind == SPHERE:
        whole = (1 - dot * p.row * p.col) / 2
        if whole < 1.0 / NEAR:
            p.near = True
            whole = angular_of(x, y, s.d, p.row, p.col, -1)
        p.q = whole / kappa
    else:
        whole = p.row + p.col - 2 * kappa * p.row * p.col
        p.q = whole - dot / 2
        if p.q < whole / NEAR:
            p.near = True
            p.q = hyperboloid(x, y, s.d, -kappa)
    p.rest = 1 - kappa * p.q
    if kappa > 0 and p.rest < 1.0 / NEAR:
        p.opposite = True
        if kind == SPHERE:
            p.rest = angular_of(x, y, s.d, p.row, p.col, 1)
        else:
            p.excess = antipodal(x, y, s.d, kappa)
            p.rest = p.excess * p.row_next * p.col_next
        p.q = (1 - p.rest) / kappa
    if kind == LORENTZ_INNER:
        p.value = 1 / kappa - 2 * p.q
        return
    unit = sqrt(fabs(kappa))
    if kappa < 0:
        p.length = 2 * asinh(unit * sqrt(p.q)) / unit
    elif kappa > 0:
        p.length = 2 * atan2(unit * sqrt(p.q), sqrt(p.rest)) / unit
    else:
        p.length = 2 * sqrt(p.q)
    p.value = -p.length


cdef inline double bend_of(int kind, const Pair *p, double kappa) noexcept nogil:
    """∂d/∂κ at constant q: q√q · (G(z) − 1/√(1+z))/z with z = −κq, by its series where z is small. On a sphere at a constant angle: −d/2κ."""
    cdef double z = -kappa * p.q, root = sqrt(p.q), fall = 1, power = 1, total = 0
    cdef int n
    if kind == SPHERE:
        return -p.length / (2 * kappa)
    if fabs(z) >= 0.2:
        return p.q * (p.length / 2 - (root / sqrt(p.rest) if p.rest > 0 else 0)) / z
    for n in range(1, 24):
        fall *= -(2 * n - 1) / (2.0 * n)
        total -= fall * 2 * n / (2 * n + 1) * power
        power *= z
    return p.q * root * total


cdef inline void add_points(const real *x, const real *y, Py_ssize_t d, Spread *to, double xx, double xy, double yx, double yy) noexcept nogil:
    """dx += xx·x + xy·y, dy += yx·x + yy·y"""
    cdef Py_ssize_t i
    for i in range(d):
        to.dx[i] += <real>(xx * x[i] + xy * y[i])
        to.dy[i] += <real>(yx * x[i] + yy * y[i])


cdef inline void add_difference(const real *x, const real *y, Py_ssize_t d, Spread *to, double up, double sign) noexcept nogil:
    """dx += up·(x + sign·y), dy += sign·up·(x + sign·y)"""
    cdef Py_ssize_t i
    cdef double one
    for i in range(d):
        one = up * (x[i] + sign * y[i])
        to.dx[i] += <real>one
        to.dy[i] += <real>(sign * one)


cdef inline void add_lorentz(const real *x, const real *y, Py_ssize_t d, Spread *to, double up, double c) noexcept nogil:
    """q = ¼(‖Δx‖² − Δt²): dx += up/2·(Δx − Δt x/t), dy += −up/2·(Δx − Δt y/t'); ∂q/∂κ = Δt²/(4c² t t')"""
    cdef double t = sqrt(1 / c + inner(x, x, d)), other = sqrt(1 / c + inner(y, y, d)), fall = 0, one
    cdef Py_ssize_t i
    for i in range(d):
        fall += (<double>x[i] - y[i]) * (<double>x[i] + y[i])
    fall /= t + other
    for i in range(d):
        one = <double>x[i] - y[i]
        to.dx[i] += <real>(up / 2 * (one - fall / t * x[i]))
        to.dy[i] -= <real>(up / 2 * (one - fall / other * y[i]))
    to.dcurvature[0] += up * fall * fall / (4 * c * c * t * other)


cdef inline void chain(int kind, const Place *s, Py_ssize_t i, Py_ssize_t j, const Pair *p, double up, bint squared, Spread *to) noexcept nogil:
    """Add the gradient ``up`` of the pair's term of a sum, or of the square of its distance, to all it was computed from."""
    cdef double kappa = s.kappa, root = sqrt(p.q), slope = sqrt(p.rest), dq, dchord, share, gap, a, b
    cdef const real *x = s.x + i * s.step
    cdef const real *y = s.y + j * s.step
    if kind == DOT:
        to.dots[0] = <real>up
        return
    if kind == COSINE:
        share = to.dots[0]
        to.drow[0] += <real>(up * share * p.col)
        to.dcol[0] += <real>(up * share * p.row)
        to.dots[0] = <real>(up * p.row * p.col)
        return
    if kind == LORENTZ_INNER:
        to.dcurvature[0] -= up / (kappa * kappa)
        dq = -2 * up
    elif squared:
        if kind != EUCLIDEAN:
            to.dcurvature[0] += up * 2 * p.length * bend_of(kind, p, kappa)
        dq = 2 * up * (p.length / root if root > 0 else 2) / slope if slope > 0 else 0
    else:
        if kind != EUCLIDEAN:
            to.dcurvature[0] -= up * bend_of(kind, p, kappa)
        dq = -up / (root * slope) if root * slope > 0 else 0
    if kind == STEREOGRAPHIC or kind == EUCLIDEAN:
        a = p.row_next if kind == STEREOGRAPHIC else 0.5
        b = p.col_next if kind == STEREOGRAPHIC else 0.5
        dchord = dq * a * b
        if kind == STEREOGRAPHIC:
            share = dq * p.chord if not p.opposite else -dq * p.excess / kappa
            to.drow_next[0] += <real>(share * b)
            to.dcol_next[0] += <real>(share * a)
        if p.opposite:
            a = inner(x, x, s.d)
            b = inner(y, y, s.d)
            share = inner(x, y, s.d)
            to.dcurvature[0] -= dchord * (2 * kappa * a * b + 2 * share) / kappa + dq * (1 - p.rest) / (kappa * kappa)
            add_points(x, y, s.d, to, -2 * dchord * kappa * b, -2 * dchord, -2 * dchord, -2 * dchord * kappa * a)
            to.dots[0] = 0
        elif p.near:
            add_difference(x, y, s.d, to, 2 * dchord, -1)
            to.dots[0] = 0
        else:
            to.dots[0] = <real>(-2 * dchord)
            to.drow[0] += <real>dchord
            to.dcol[0] += <real>dchord
        return
    if kind == SPHERE:
        dq /= kappa
        if p.near or p.opposite:
            gap = 1 / p.row - 1 / p.col
            share = p.rest if p.opposite else 1 - p.rest
            a = -dq if p.opposite else dq
            add_difference(x, y, s.d, to, a * p.row * p.col / 2, 1 if p.opposite else -1)
            to.drow[0] += <real>(a * (share + gap * p.col / 2) / p.row)
            to.dcol[0] += <real>(a * (share - gap * p.row / 2) / p.col)
            to.dots[0] = 0
        else:
            share = to.dots[0]
            to.drow[0] -= <real>(dq * share * p.col / 2)
            to.dcol[0] -= <real>(dq * share * p.row / 2)
            to.dots[0] = <real>(-dq * p.row * p.col / 2)
        return
    if p.near:
        add_lorentz(x, y, s.d, to, dq, -kappa)
        to.dots[0] = 0
        return
    to.drow[0] += <real>(dq * (1 - 2 * kappa * p.col))
    to.dcol[0] += <real>(dq * (1 - 2 * kappa * p.row))
    to.dcurvature[0] -= 2 * dq * p.row * p.col
    to.dots[0] = <real>(-dq / 2)
