# cython: cdivision=True
"""The parts of a score, as ruvattn_geometric.layout lays them out, and what a vector of pairs makes of one part.

    half_v     dot, terms ──► q = sin_κ²(d/2)
                   └─ lanes where that cancels: once more, from the points
    length_v   q ──► d, d² or −d
"""
from libc.math cimport fabs

from ruvattn.kernels.vector cimport VLEN, real, v_lanes, v_load, v_lt, v_max, v_select, v_set1, v_store, vreal, vuint

from ._functions cimport asin_ratio_v, asinh_ratio_v, differences, log_v, sum_of_squares, v_sqrt
from ._points cimport antipodal, by_directions, hyperboloid

cdef extern from *:
    """
    #define lowest_bit(x) __builtin_ctz(x)
    """
    int lowest_bit(unsigned int x) noexcept nogil

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
    NEAR = 32  # a sum that is less than this part of its terms has cancelled too far


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
    # one part of a tile: rows are queries and columns keys, or the other way round
    real kappa, unit             # unit = √|κ|
    const real *dots
    const real *row              # the rows' terms
    const real *row_next         # the second ones, of a part that has two
    const real *col
    const real *col_next
    const real *x                # the rows' points and the columns', from this part's first number on
    const real *y
    Py_ssize_t d, step           # how many numbers of a point are this part's, and how many it has


cdef struct Curve:
    # what a space is, in every lane
    vreal kappa, size, twice, once, inverse    # κ, |κ|, 2/√|κ|, 1/√|κ|, 1/κ


cdef inline Curve curve_of(real kappa, real unit) noexcept nogil:
    cdef Curve c
    c.kappa = v_set1(kappa)
    c.size = v_set1(<real>fabs(kappa))
    c.twice = v_set1(2 / unit if unit > 0 else 0)
    c.once = v_set1(1 / unit if unit > 0 else 0)
    c.inverse = v_set1(1 / kappa if kappa != 0 else 0)
    return c


cdef inline real lorentz_pair(const Place *s, const real *x, const real *y, real first, real other) noexcept nogil:
    """q = ¼(‖Δx‖² − Δt²), Δt = (‖x‖² − ‖y‖²)/(t + t'); in double where most of that cancels, as far out along one ray."""
    cdef real c = -s.kappa, space, fall
    space = differences(x, y, s.d, &fall)
    fall = fall * s.unit / (2 + 2 * c * (first + other))
    if fall * fall < space / 2:
        return (space - fall * fall) / 4
    return <real>hyperboloid(x, y, s.d, c)


cdef inline real sphere_pair(const real *x, const real *y, Py_ssize_t d, real sign, real first, real other) noexcept nogil:
    """The same as (‖x + sign·y‖² − (‖x‖ − ‖y‖)²)/4‖x‖‖y‖, which has all digits where the lengths differ by rounding; by the directions where they
    differ by about as much as the points, where rounding may even leave less than 0."""
    cdef real chord = sum_of_squares(x, y, sign, d), gap = 1 / first - 1 / other
    if gap * gap <= chord / 2:
        return (chord - gap * gap) * (first * other) / 4
    return <real>by_directions(x, y, d, sign)


cdef inline vreal by_points(const int kind, const Place *s, Py_ssize_t i, Py_ssize_t j, unsigned int lanes, vreal found, real sign) noexcept nogil:
    """A vector of ‖x − y‖², of shares of a sphere or of q, with those lanes computed from the points; sign = 1: from the opposite point."""
    cdef real lane[MOST_LANES]
    cdef real first = s.row[i], other
    cdef const real *x = s.x + i * s.step
    cdef const real *y
    cdef int at
    v_store(lane, found)
    while lanes != 0:
        at = lowest_bit(lanes)
        lanes &= lanes - 1
        y = s.y + (j + at) * s.step
        other = s.col[j + at]
        if kind == SPHERE:
            lane[at] = sphere_pair(x, y, s.d, sign, first, other)
        elif kind == LORENTZ:
            lane[at] = lorentz_pair(s, x, y, first, other)
        elif sign > 0:
            lane[at] = <real>antipodal(x, y, s.d, s.kappa) * (s.row_next[i] * s.col_next[j + at])
        else:
            lane[at] = sum_of_squares(x, y, -1, s.d)
    return v_load(lane)


cdef inline vreal half_v(const int kind, const int sign, const Place *s, const Curve *c, Py_ssize_t i, Py_ssize_t j,
                         unsigned int valid, vreal dot, vreal row, vreal row_next, vreal col, vreal col_next) noexcept nogil:
    """q of row i and the columns from j on, or what a part without distances makes of them. ``valid`` has a bit for each column there is, ``sign`` is
    that of the curvature."""
    cdef vreal whole, q, rest, one = v_set1(1), part = v_set1(<real>(1.0 / NEAR))
    cdef unsigned int lanes
    if kind == DOT:
        return dot
    if kind == COSINE:
        return dot * (row * col)
    rest = one
    if kind == STEREOGRAPHIC or kind == EUCLIDEAN:
        whole = row + col
        q = whole - (dot + dot)
        lanes = v_lanes(v_lt(q, whole * part)) & valid
        if lanes != 0:
            q = by_points(EUCLIDEAN, s, i, j, lanes, q, -1)
        if kind == EUCLIDEAN:
            q = q * v_set1(<real>0.25)
        else:
            q = q * (row_next * col_next)
            if sign > 0:
                rest = one - c.kappa * q
                lanes = v_lanes(v_lt(rest, part)) & valid
                if lanes != 0:
                    rest = by_points(STEREOGRAPHIC, s, i, j, lanes, rest, 1)
    elif kind == SPHERE:
        q = (one - dot * (row * col)) * v_set1(<real>0.5)
        lanes = v_lanes(v_lt(q, part)) & valid
        if lanes != 0:
            q = by_points(SPHERE, s, i, j, lanes, q, -1)
        rest = one - q
        lanes = v_lanes(v_lt(rest, part)) & valid
        if lanes != 0:
            rest = by_points(SPHERE, s, i, j, lanes, rest, 1)
        q = q * c.inverse
    else:
        whole = row + col + row * (col * (c.size + c.size))  # row · col may overflow where c is small
        q = whole - dot * v_set1(<real>0.5)
        lanes = v_lanes(v_lt(q, whole * part)) & valid
        if lanes != 0:
            q = by_points(LORENTZ, s, i, j, lanes, q, -1)
        if kind == LORENTZ_INNER:
            return c.inverse - (q + q)
    if sign > 0:
        # what is nearly opposite keeps its digits as −(1 − κq), for no q is negative; and that must not be 0 to be told from one
        return v_select(v_lt(rest, part), v_set1(0) - v_max(v_set1(<real>1e-37), rest), q)
    return q


cdef inline vreal length_v(const int sign, const int mode, const Curve *c, vreal q) noexcept nogil:
    """d = 2 asin_κ √q, its square, or −d for a sum, from what half_v gave."""
    cdef vreal one = v_set1(1), length, z, root, rest
    cdef vuint opposite, little, large
    cdef unsigned int lanes
    z = q * c.size
    if sign == 0:
        length = v_sqrt(q)
        length = length + length
    elif sign > 0:
        # an angle of more than a right one by that from the opposite point
        rest = v_select(v_lt(q, v_set1(0)), v_set1(0) - q, one - z)
        opposite = v_lt(rest, v_set1(<real>0.5))
        z = v_select(opposite, rest, z)
        length = v_sqrt(z) * asin_ratio_v(z)
        length = v_select(opposite, v_set1(<real>1.57079632679489661923) - length, length) * c.twice
    else:
        # which formula a lane takes depends on it alone: on its neighbours, its last bit would
        little = v_lt(z, v_set1(<real>0.25))
        large = v_lt(v_set1(<real>1e18), z)
        lanes = v_lanes(little)
        length = q
        if lanes != all_lanes():
            # 2 asinh √z = ln(1 + 2z + 2√(z² + z)); and a logarithm makes a number of NaN
            rest = z + z
            length = log_v((one + rest) + v_sqrt(rest * rest + (rest + rest))) * c.once + q * v_set1(0)
        if lanes != 0:
            root = v_sqrt(q)
            length = v_select(little, (root + root) * asinh_ratio_v(z), length)
        if v_lanes(large) != 0:
            # where z² might overflow
            length = v_select(large, log_v(v_sqrt(z) + v_sqrt(one + z)) * c.twice + q * v_set1(0), length)
    if mode == SQUARED:
        return length * length
    if mode == SUM:
        return v_set1(0) - length
    return length


cdef inline unsigned int all_lanes() noexcept nogil:
    return (<unsigned int>1 << VLEN) - 1
