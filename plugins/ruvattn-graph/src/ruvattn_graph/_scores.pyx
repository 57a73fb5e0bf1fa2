# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The scores of ruvattn_graph.scores, compiled: logits of a tile, which in the edge engine is one query and up to 256 of its edges.

    additive_logits       LeakyReLU(row + column + edge terms)
    additive_v2_logits    a·LeakyReLU(q + k + W e), columns in the lanes, four keys at a time; e are the last columns of the keys
    hop_rotary_logits     scale · q·R(hop)k, pairs of columns in the lanes, four keys at a time
    …_vjp                 gradients of the same, given those of the logits; keys with a gradient alone are looked at

How many edge terms and columns there are is no parameter of a head: it comes as ``user_data``, in the structs below. Sums that overflow are made
once more in wide arithmetic, so that what is finite stays finite. Compiled once per instruction set and dtype.
"""
from libc.math cimport cos, pow, sin
from libc.string cimport memset

from ruvattn.kernels.gather cimport last_lanes, v_sum_four
from ruvattn.kernels.problem cimport MAX_TERMS
from ruvattn.kernels.vector cimport (
    REAL_MAX, VLEN, real, v_load, v_lt, v_max, v_real, v_select, v_set1, v_store, v_sum, v_ubits, vreal, vuint,
)
from ruvattn.kernels.wide cimport narrow, wide

cdef enum:
    MOST_WIDTHS = 64
    MOST_LANES = 16
    SLOTS = 32                  # vectors of columns whose gradients are held at once


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


cdef inline vreal below_v(vreal x) noexcept nogil:
    """x where it is negative, else 0; NaN is 0 too."""
    return -v_max(-x, v_set1(0))


cdef inline vreal additive_vjp_v(vreal row, const real *cols, Py_ssize_t ld, Py_ssize_t last, vreal slope, vreal up, vreal *dslope) noexcept nogil:
    """Gradient of the sum of VLEN columns, given those of their logits."""
    cdef Py_ssize_t r
    cdef vreal x = row + v_load(cols)
    for r in range(1, last + 1):
        x = x + v_load(cols + r * ld)
    dslope[0] = dslope[0] + up * below_v(bounded_v(x))
    return v_select(v_lt(v_set1(0), x), up, slope * up)


cdef api void additive_vjp(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q,
                           real *k, Py_ssize_t d, real *drows, real *dcols, real *dparams, real *dq, real *dk, void *user_data) noexcept nogil:
    """Gradients of the row's term, of each column term, and of the slope."""
    cdef const Layout *f = <const Layout *>user_data
    cdef Py_ssize_t i, j, r, t, whole = n // VLEN * VLEN, last = f.edge_terms
    cdef vreal slope = v_set1(params[0]), dslope = v_set1(0), row, g
    cdef real rest[MAX_TERMS * MOST_LANES]
    cdef real up[MOST_LANES]    # gradients of the last logits, then of their sums
    memset(up, 0, sizeof(up))
    if whole < n:
        for r in range(last + 1):
            for t in range(VLEN):
                rest[r * VLEN + t] = cols[r * ld + whole + t] if whole + t < n else 0
    for i in range(m):
        row = v_set1(0)
        j = 0
        while j < whole:
            g = additive_vjp_v(v_set1(rows[i]), cols + j, ld, last, slope, v_load(dlogits + i * ld + j), &dslope)
            row = row + g
            for r in range(last + 1):
                v_store(dcols + r * ld + j, v_load(dcols + r * ld + j) + g)
            j += VLEN
        if whole < n:
            for t in range(VLEN):
                up[t] = dlogits[i * ld + whole + t] if whole + t < n else 0
            g = additive_vjp_v(v_set1(rows[i]), rest, VLEN, last, slope, v_load(up), &dslope)
            row = row + g
            v_store(up, g)
            for r in range(last + 1):
                for j in range(whole, n):
                    dcols[r * ld + j] += up[j - whole]
        drows[i] += v_sum(row)
    dparams[0] += v_sum(dslope)


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


cdef struct HiddenGradient:
    real *dq                    # (d,)
    real *da                    # (C,), NULL: none
    real *dedge_weights         # (F, C)
    vuint lanes                 # those of the last vector of columns that no other has
    vreal dslope
    real rest                   # that of columns that are too few for a vector, which no lane of dslope has
    real held[4 * SLOTS * MOST_LANES]   # gradients of the sums of four keys, for the features of their edges


cdef inline Py_ssize_t next_keys(const real *up, Py_ssize_t n, Py_ssize_t *j, Py_ssize_t *at) noexcept nogil:
    """Up to four keys from j on whose logits have a gradient; others may be masked, and hold anything."""
    cdef Py_ssize_t count = 0, i = j[0]
    while i < n and count < 4:
        if up[i] != 0:
            at[count] = i
            count += 1
        i += 1
    j[0] = i
    return count


cdef inline void columns_vjp(const Hidden *f, HiddenGradient *g, const Py_ssize_t count, const bint last, Py_ssize_t c, Py_ssize_t slot,
                             const real *q, const real **k, const real *up, real **dk) noexcept nogil:
    """Gradients of VLEN columns of ``count`` keys from c on; of the ``last`` columns, those that no other vector has."""
    cdef vreal zero = v_set1(0), slope = v_set1(f.slope), xq = v_load(q + c), a = v_set1(1), dq = zero, da = zero, dslope = zero, x, h, y, s, u
    cdef vuint above
    cdef Py_ssize_t t, e
    if f.a != NULL:
        a = v_load(f.a + c)
    for t in range(count):
        u = v_set1(up[t])
        x = xq + v_load(k[t] + c)
        for e in range(f.features):
            x = x + v_set1(k[t][f.width + e]) * v_load(f.edge_weights + e * f.width + c)
        above = v_lt(zero, x)
        h = u * a
        y = v_select(above, x, slope * x)
        s = h * below_v(x)
        h = v_select(above, h, slope * h)
        if last:
            y = v_select(g.lanes, y, zero)
            s = v_select(g.lanes, s, zero)
            h = v_select(g.lanes, h, zero)
        da = da + u * y
        dq = dq + h
        dslope = dslope + s
        v_store(dk[t] + c, v_load(dk[t] + c) + h)
        if f.features > 0:
            v_store(g.held + (t * SLOTS + slot) * VLEN, h)
    g.dslope = g.dslope + dslope
    v_store(g.dq + c, v_load(g.dq + c) + dq)
    if g.da != NULL:
        v_store(g.da + c, v_load(g.da + c) + da)


cdef inline void features_vjp(const Hidden *f, HiddenGradient *g, const Py_ssize_t count, Py_ssize_t first, Py_ssize_t slots, const real **k,
                              real **dk) noexcept nogil:
    """From the gradients that are held, those of W and of the features; the last vector of columns ends with the last column."""
    cdef Py_ssize_t e, slot, c, t
    cdef vreal w, dw, h
    cdef vreal s[4]
    cdef real sums[4]
    for e in range(f.features):
        for t in range(4):
            s[t] = v_set1(0)
        for slot in range(slots):
            c = first + slot * VLEN
            c = c if c + VLEN <= f.width else f.width - VLEN
            w = v_load(f.edge_weights + e * f.width + c)
            dw = v_load(g.dedge_weights + e * f.width + c)
            for t in range(count):
                h = v_load(g.held + (t * SLOTS + slot) * VLEN)
                s[t] = s[t] + w * h
                dw = dw + v_set1(k[t][f.width + e]) * h
            v_store(g.dedge_weights + e * f.width + c, dw)
        v_sum_four(s[0], s[1], s[2], s[3], sums)
        for t in range(count):
            dk[t][f.width + e] += sums[t]


cdef inline void few_columns_vjp(const Hidden *f, HiddenGradient *g, const real *q, const real *k, real up, real *dk) noexcept nogil:
    """Gradients of one key, column by column."""
    cdef real x, h, dslope = 0
    cdef Py_ssize_t c, e
    for c in range(f.width):
        x = q[c] + k[c]
        for e in range(f.features):
            x += k[f.width + e] * f.edge_weights[e * f.width + c]
        h = up if f.a == NULL else up * f.a[c]
        if g.da != NULL:
            g.da[c] += up * (x if x > 0 else x * f.slope)
        if not x > 0:
            dslope += h * x
            h = h * f.slope
        g.dq[c] += h
        dk[c] += h
        for e in range(f.features):
            dk[f.width + e] += h * f.edge_weights[e * f.width + c]
            g.dedge_weights[e * f.width + c] += h * k[f.width + e]
    g.rest += dslope


cdef inline void keys_vjp(const Hidden *f, HiddenGradient *g, const Py_ssize_t count, const real *q, const real **k, const real *up,
                          real **dk) noexcept nogil:
    """Gradients of all columns of ``count`` keys, SLOTS vectors at a time."""
    cdef Py_ssize_t first = 0, slot, whole = f.width // VLEN * VLEN, c
    while first < f.width:
        slot = 0
        c = first
        while slot < SLOTS and c < whole:
            columns_vjp(f, g, count, False, c, slot, q, k, up, dk)
            slot += 1
            c += VLEN
        if slot < SLOTS and c < f.width:
            columns_vjp(f, g, count, True, f.width - VLEN, slot, q, k, up, dk)
            slot += 1
            c = f.width
        if f.features > 0:
            features_vjp(f, g, count, first, slot, k, dk)
        first = c


cdef api void additive_v2_vjp(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q,
                              real *k, Py_ssize_t d, real *drows, real *dcols, real *dparams, real *dq, real *dk, void *user_data) noexcept nogil:
    """Gradients of queries, keys and their features, and of the parameters."""
    cdef const Layout *layout = <const Layout *>user_data
    cdef Hidden f
    cdef HiddenGradient g
    cdef const real *four[4]
    cdef real *dfour[4]
    cdef real up[4]
    cdef real dslope = 0
    cdef Py_ssize_t at[4]
    cdef Py_ssize_t i, j, t, count
    f.features = layout.edge_width
    f.width = d - f.features
    f.slope = params[0]
    f.a = params + 1 if layout.weighted else NULL
    f.edge_weights = params + 1 + (f.width if layout.weighted else 0)
    g.da = dparams + 1 if layout.weighted else NULL
    g.dedge_weights = dparams + 1 + (f.width if layout.weighted else 0)
    if f.width % VLEN != 0:
        g.lanes = last_lanes(f.width % VLEN)
    for i in range(m):
        g.dq = dq + i * d
        g.dslope = v_set1(0)
        g.rest = 0
        j = 0
        while j < n:
            count = next_keys(dlogits + i * ld, n, &j, at)
            for t in range(count):
                four[t] = k + at[t] * d
                dfour[t] = dk + at[t] * d
                up[t] = dlogits[i * ld + at[t]]
            if f.width < VLEN:
                for t in range(count):
                    few_columns_vjp(&f, &g, q + i * d, four[t], up[t], dfour[t])
            elif count == 4:
                keys_vjp(&f, &g, 4, q + i * d, four, up, dfour)
            else:
                for t in range(count):
                    keys_vjp(&f, &g, 1, q + i * d, four + t, up + t, dfour + t)
        dslope += v_sum(g.dslope) + g.rest  # row by row: so few numbers are added to a large one
    dparams[0] += dslope


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


cdef inline void turned_vjp_v(const real *turn, vreal g, const real *q, const real *k, Py_ssize_t half, Py_ssize_t p, real *dk,
                              vreal *dq) noexcept nogil:
    """Gradients of VLEN pairs of one key, g times those of the unscaled logit; those of the query are added to dq[0] and dq[1]."""
    cdef vreal q0 = v_load(q + p), q1 = v_load(q + half + p), k0 = v_load(k + p), k1 = v_load(k + half + p)
    cdef vreal c = g * v_load(turn + p), s = g * v_load(turn + half + p)
    dq[0] = dq[0] + (k0 * c - k1 * s)
    dq[1] = dq[1] + (k1 * c + k0 * s)
    v_store(dk + p, v_load(dk + p) + (q0 * c + q1 * s))
    v_store(dk + half + p, v_load(dk + half + p) + (q1 * c - q0 * s))


cdef inline real pair_vjp(real c, real s, real g, const real *q, const real *k, Py_ssize_t half, Py_ssize_t p, real *dq, real *dk) noexcept nogil:
    """Gradients of one pair, and its share of the unscaled logit."""
    dq[p] += g * (k[p] * c - k[half + p] * s)
    dq[half + p] += g * (k[half + p] * c + k[p] * s)
    dk[p] += g * (q[p] * c + q[half + p] * s)
    dk[half + p] += g * (q[half + p] * c - q[p] * s)
    return (k[p] * q[p] + k[half + p] * q[half + p]) * c + (k[p] * q[half + p] - k[half + p] * q[p]) * s


cdef inline real turned_keys_vjp(const Py_ssize_t count, const real **turn, real scale, const real *up, const real *q, const real **k, Py_ssize_t d,
                                 real *dq, real **dk) noexcept nogil:
    """Gradients of ``count`` keys, and that of the scale."""
    cdef Py_ssize_t half = d // 2, whole = half // VLEN * VLEN, p = 0, t
    cdef vreal both[2]
    cdef vreal dscale = v_set1(0)
    cdef real rest = 0, y
    while p < whole:
        both[0] = v_load(dq + p)
        both[1] = v_load(dq + half + p)
        for t in range(count):
            dscale = dscale + v_set1(up[t]) * turned_v(turn[t], q, k[t], half, p)
            turned_vjp_v(turn[t], v_set1(up[t] * scale), q, k[t], half, p, dk[t], both)
        v_store(dq + p, both[0])
        v_store(dq + half + p, both[1])
        p += VLEN
    for t in range(count):
        y = 0
        for p in range(whole, half):
            y += pair_vjp(turn[t][p], turn[t][half + p], up[t] * scale, q, k[t], half, p, dq, dk[t])
        if 2 * half < d:
            y += k[t][d - 1] * q[d - 1]
            dq[d - 1] += up[t] * scale * k[t][d - 1]
            dk[t][d - 1] += up[t] * scale * q[d - 1]
        rest += up[t] * y
    return v_sum(dscale) + rest


cdef inline real untabled_vjp(const Turns *f, Py_ssize_t hop, real scale, real up, const real *q, const real *k, Py_ssize_t d, real *dq,
                              real *dk) noexcept nogil:
    """Gradients of one key without a table, and that of the scale."""
    cdef Py_ssize_t half = d // 2, p
    cdef double angle
    cdef real y = 0
    for p in range(half):
        angle = hop * pow(f.base, -2.0 * p / d)
        y += pair_vjp(<real>cos(angle), <real>sin(angle), up * scale, q, k, half, p, dq, dk)
    if 2 * half < d:
        y += k[d - 1] * q[d - 1]
        dq[d - 1] += up * scale * k[d - 1]
        dk[d - 1] += up * scale * q[d - 1]
    return up * y


cdef api void hop_rotary_vjp(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params, real *q,
                             real *k, Py_ssize_t d, real *drows, real *dcols, real *dparams, real *dq, real *dk, void *user_data) noexcept nogil:
    """Gradients of queries, keys and the scale; hops have none."""
    cdef const Turns *f = <const Turns *>user_data
    cdef const real *table = table_of(f, d)
    cdef const real *turn[4]
    cdef const real *four[4]
    cdef real *dfour[4]
    cdef real up[4]
    cdef Py_ssize_t at[4]
    cdef Py_ssize_t i, j, t, count, half = d // 2
    for i in range(m):
        j = 0
        while j < n:
            count = next_keys(dlogits + i * ld, n, &j, at)
            for t in range(count):
                four[t] = k + at[t] * d
                dfour[t] = dk + at[t] * d
                up[t] = dlogits[i * ld + at[t]]
                if table == NULL:
                    dparams[0] += untabled_vjp(f, hop_of(f, cols, at[t]), params[0], up[t], q + i * d, four[t], d, dq + i * d, dfour[t])
                else:
                    turn[t] = table + hop_of(f, cols, at[t]) * 2 * half
            if table == NULL:
                continue
            if count == 4:
                dparams[0] += turned_keys_vjp(4, turn, params[0], up, q + i * d, four, d, dq + i * d, dfour)
            else:
                for t in range(count):
                    dparams[0] += turned_keys_vjp(1, turn + t, params[0], up + t, q + i * d, four + t, d, dq + i * d, dfour + t)
