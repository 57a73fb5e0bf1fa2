# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The scores of ruvattn_graph.scores, compiled: logits of a tile, which in the edge engine is one query and up to 256 of its edges.

    additive_logits       LeakyReLU(row + column + edge terms)
    additive_v2_logits    a·LeakyReLU(q + k + W e), columns in the lanes, four keys at a time; e are the last columns of the keys
    hop_rotary_logits     scale · q·R(hop)k, pairs of columns in the lanes, four keys at a time

How many edge terms and columns there are is no parameter of a head: it comes as ``user_data``, in the structs below. Sums that overflow are made
once more in wide arithmetic, so that what is finite stays finite. Compiled once per instruction set and dtype.
"""
from libc.math cimport cos, pow, sin

from ruvattn.kernels.gather cimport last_lanes, v_sum_four
from ruvattn.kernels.problem cimport MAX_TERMS
from ruvattn.kernels.vector cimport REAL_MAX, VLEN, real, v_load, v_lt, v_max, v_real, v_select, v_set1, v_store, v_ubits, vreal
from ruvattn.kernels.wide cimport narrow, wide

cdef enum:
    MOST_WIDTHS = 64
    MOST_LANES = 16


cdef struct Layout:
    Py_ssize_t edge_terms       # column terms after the score's own
    Py_ssize_t edge_width       # F, columns of a key that are features of its edge
    Py_ssize_t weighted         # whether a is among the parameters


cdef struct Turns:
    double base
    Py_ssize_t max_hops
    Py_ssize_t edge_terms
    Py_ssize_t count
    Py_ssize_t widths[MOST_WIDTHS]
    const real *tables[MOST_WIDTHS]     # of a width: for each hop its cosines, then its sines, one a pair


cdef inline vreal leaky_v(vreal x, vreal slope, const bint steep) noexcept nogil:
    """x where it is positive, slope · x elsewhere; ``steep``: the slope may be above 1."""
    if steep:
        return v_select(v_lt(v_set1(0), x), x, slope * x)
    return v_max(slope * x, x)


# --- additive -------------------------------------------------------------------------------------------------------------------

cdef inline vreal bounded_v(vreal x) noexcept nogil:
    """An infinity as the largest number of its sign; NaN stays NaN, for v_max gives its second where there is one."""
    x = v_max(v_set1(-REAL_MAX), x)
    return -v_max(v_set1(-REAL_MAX), -x)


cdef inline vreal additive_v(vreal row, const real *cols, Py_ssize_t ld, Py_ssize_t last, vreal slope) noexcept nogil:
    """LeakyReLU of the row's term and the terms of VLEN columns. −∞ would say that a key is masked: a steep slope may not make it of a number."""
    cdef Py_ssize_t r
    cdef vreal x = row + v_load(cols)
    for r in range(1, last + 1):
        x = x + v_load(cols + r * ld)
    x = bounded_v(x)
    return v_max(v_set1(-REAL_MAX), leaky_v(x, slope, True))


cdef api void additive_logits(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q, real *k,
                              Py_ssize_t d, void *user_data) noexcept nogil:
    """Parameter 0 is the slope."""
    cdef const Layout *f = <const Layout *>user_data
    cdef Py_ssize_t i, j, r, t, whole = n // VLEN * VLEN, last = f.edge_terms
    cdef vreal slope = v_set1(params[0])
    cdef real rest[MAX_TERMS * MOST_LANES]
    cdef real made[MOST_LANES]
    if whole < n:
        # the last columns by way of whole vectors: a kink is a branch that nobody can foresee
        for r in range(last + 1):
            for t in range(VLEN):
                rest[r * VLEN + t] = cols[r * ld + whole + t] if whole + t < n else 0
    for i in range(m):
        j = 0
        while j < whole:
            v_store(dots + i * ld + j, additive_v(v_set1(rows[i]), cols + j, ld, last, slope))
            j += VLEN
        if whole < n:
            v_store(made, additive_v(v_set1(rows[i]), rest, VLEN, last, slope))
            for j in range(whole, n):
                dots[i * ld + j] = made[j - whole]


# --- additive, second version ---------------------------------------------------------------------------------------------------

cdef struct Hidden:
    const real *a               # (C,), NULL: ones
    const real *edge_weights    # (F, C)
    Py_ssize_t width            # C
    Py_ssize_t features         # F
    real slope


cdef inline void add_columns(const Hidden *f, const bint steep, Py_ssize_t c, vreal a, const real *q, const real **k, vreal *s) noexcept nogil:
    """s[t] += a · LeakyReLU(q + k[t] + W e[t]) of VLEN columns from c on."""
    cdef vreal x = v_load(q + c), slope = v_set1(f.slope), w
    cdef vreal x0 = x + v_load(k[0] + c), x1 = x + v_load(k[1] + c), x2 = x + v_load(k[2] + c), x3 = x + v_load(k[3] + c)
    cdef Py_ssize_t e
    for e in range(f.features):
        w = v_load(f.edge_weights + e * f.width + c)
        x0 = x0 + v_set1(k[0][f.width + e]) * w
        x1 = x1 + v_set1(k[1][f.width + e]) * w
        x2 = x2 + v_set1(k[2][f.width + e]) * w
        x3 = x3 + v_set1(k[3][f.width + e]) * w
    s[0] = s[0] + a * leaky_v(x0, slope, steep)
    s[1] = s[1] + a * leaky_v(x1, slope, steep)
    s[2] = s[2] + a * leaky_v(x2, slope, steep)
    s[3] = s[3] + a * leaky_v(x3, slope, steep)


cdef inline real sum_columns(const Hidden *f, const real *q, const real *k) noexcept nogil:
    """The logit of one pair, column by column."""
    cdef real x, total = 0
    cdef Py_ssize_t c, e
    for c in range(f.width):
        x = q[c] + k[c]
        for e in range(f.features):
            x += k[f.width + e] * f.edge_weights[e * f.width + c]
        x = x if x > 0 else x * f.slope
        total += x if f.a == NULL else x * f.a[c]
    return total


cdef inline real wide_columns(const Hidden *f, const real *q, const real *k) noexcept nogil:
    """The same in wide arithmetic."""
    cdef wide x, total = 0
    cdef Py_ssize_t c, e
    for c in range(f.width):
        x = <wide>q[c] + <wide>k[c]
        for e in range(f.features):
            x += <wide>k[f.width + e] * <wide>f.edge_weights[e * f.width + c]
        x = x if x > 0 else x * <wide>f.slope
        total += x if f.a == NULL else x * <wide>f.a[c]
    return narrow(total, REAL_MAX)


cdef inline real row_of_hidden(const Hidden *f, const bint steep, const real *q, const real *k, Py_ssize_t n, Py_ssize_t d, real *out) noexcept nogil:
    """The logits of one query, and 0 if all are finite."""
    cdef Py_ssize_t j = 0, c, t, last = n - 1, whole = f.width // VLEN * VLEN
    cdef const real *four[4]
    cdef vreal s[4]
    cdef vreal tail = v_set1(0)
    cdef real sums[4]
    cdef real check = 0
    if whole < f.width and whole > 0:
        # the last columns in a vector that ends with them: what it repeats counts 0 times
        tail = v_real(v_ubits(v_set1(1) if f.a == NULL else v_load(f.a + f.width - VLEN)) & last_lanes(f.width - whole))
    while j < n:
        for t in range(4):
            four[t] = k + (j + t if j + t < n else last) * d
        if whole > 0:
            s[0] = s[1] = s[2] = s[3] = v_set1(0)
            c = 0
            while c < whole:
                add_columns(f, steep, c, v_set1(1) if f.a == NULL else v_load(f.a + c), q, four, s)
                c += VLEN
            if whole < f.width:
                add_columns(f, steep, f.width - VLEN, tail, q, four, s)
            v_sum_four(s[0], s[1], s[2], s[3], sums)
        else:
            for t in range(4):
                sums[t] = sum_columns(f, q, four[t])
        for t in range(4 if j + 4 <= n else n - j):
            out[j + t] = sums[t]
            check += sums[t] * 0
        j += 4
    return check


cdef api void additive_v2_logits(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q, real *k,
                                 Py_ssize_t d, void *user_data) noexcept nogil:
    """Parameters: the slope, a (C,) unless it is ones, W (F, C)."""
    cdef const Layout *layout = <const Layout *>user_data
    cdef Hidden f
    cdef Py_ssize_t i, j
    cdef real check
    f.features = layout.edge_width
    f.width = d - f.features
    f.slope = params[0]
    f.a = params + 1 if layout.weighted else NULL
    f.edge_weights = params + 1 + (f.width if layout.weighted else 0)
    for i in range(m):
        if f.slope <= 1:
            check = row_of_hidden(&f, False, q + i * d, k, n, d, dots + i * ld)
        else:
            check = row_of_hidden(&f, True, q + i * d, k, n, d, dots + i * ld)
        if check == 0:
            continue
        for j in range(n):
            if dots[i * ld + j] * 0 != 0:
                dots[i * ld + j] = wide_columns(&f, q + i * d, k + j * d)


# --- rotary by hops -------------------------------------------------------------------------------------------------------------

cdef inline const real *table_of(const Turns *f, Py_ssize_t d) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(f.count):
        if f.widths[i] == d:
            return f.tables[i]
    return NULL


cdef inline Py_ssize_t hop_of(const Turns *f, const real *cols, Py_ssize_t j) noexcept nogil:
    """The hops of key j, from 0 to the most there are turns for; 1 without an edge term."""
    cdef real x
    if f.edge_terms == 0:
        return 1
    x = cols[j] + <real>0.5
    if not x >= 1:      # NaN too
        return 0
    return f.max_hops if x >= f.max_hops else <Py_ssize_t>x


cdef inline real wide_turned(const Turns *f, Py_ssize_t hop, real scale, const real *q, const real *k, Py_ssize_t d) noexcept nogil:
    """The logit of one pair without a table, in wide arithmetic."""
    cdef Py_ssize_t half = d // 2, p
    cdef wide total = 0, a, b
    cdef double angle
    for p in range(half):
        angle = hop * pow(f.base, -2.0 * p / d)
        a = <wide>k[p] * <wide>q[p] + <wide>k[half + p] * <wide>q[half + p]
        b = <wide>k[p] * <wide>q[half + p] - <wide>k[half + p] * <wide>q[p]
        total += a * <wide>cos(angle) + b * <wide>sin(angle)
    if 2 * half < d:
        total += <wide>k[d - 1] * <wide>q[d - 1]
    return narrow(total * <wide>scale, REAL_MAX)


cdef inline vreal turned_v(const real *turn, const real *q, const real *k, Py_ssize_t half, Py_ssize_t p) noexcept nogil:
    """R(hop)k · q of VLEN pairs, not yet summed."""
    cdef vreal q0 = v_load(q + p), q1 = v_load(q + half + p), k0 = v_load(k + p), k1 = v_load(k + half + p)
    return (k0 * q0 + k1 * q1) * v_load(turn + p) + (k0 * q1 - k1 * q0) * v_load(turn + half + p)


cdef api void hop_rotary_logits(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q, real *k,
                                Py_ssize_t d, void *user_data) noexcept nogil:
    """Parameter 0 is the scale."""
    cdef const Turns *f = <const Turns *>user_data
    cdef const real *table = table_of(f, d)
    cdef const real *turn[4]
    cdef const real *four[4]
    cdef const real *qi
    cdef vreal s[4]
    cdef real sums[4]
    cdef real scale = params[0], y, check
    cdef Py_ssize_t i, j, t, p, at, half = d // 2, whole = half // VLEN * VLEN
    for i in range(m):
        qi = q + i * d
        j = 0
        check = 0 if table != NULL else 1
        while table != NULL and j < n:
            s[0] = s[1] = s[2] = s[3] = v_set1(0)
            for t in range(4):
                at = j + t if j + t < n else n - 1
                four[t] = k + at * d
                turn[t] = table + hop_of(f, cols, at) * 2 * half
            p = 0
            while p < whole:
                s[0] = s[0] + turned_v(turn[0], qi, four[0], half, p)
                s[1] = s[1] + turned_v(turn[1], qi, four[1], half, p)
                s[2] = s[2] + turned_v(turn[2], qi, four[2], half, p)
                s[3] = s[3] + turned_v(turn[3], qi, four[3], half, p)
                p += VLEN
            v_sum_four(s[0], s[1], s[2], s[3], sums)
            for t in range(4 if j + 4 <= n else n - j):
                y = sums[t]
                for p in range(whole, half):
                    y += (four[t][p] * qi[p] + four[t][half + p] * qi[half + p]) * turn[t][p]
                    y += (four[t][p] * qi[half + p] - four[t][half + p] * qi[p]) * turn[t][half + p]
                if 2 * half < d:
                    y += four[t][d - 1] * qi[d - 1]
                dots[i * ld + j + t] = y * scale
                check += dots[i * ld + j + t] * 0
            j += 4
        if check == 0:
            continue
        for j in range(n):
            if table == NULL or dots[i * ld + j] * 0 != 0:
                dots[i * ld + j] = wide_turned(f, hop_of(f, cols, j), scale, qi, k + j * d, d)
