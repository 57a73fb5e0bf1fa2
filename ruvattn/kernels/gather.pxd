# cython: cdivision=True
"""Rows of K and V in any order: dots of one query with gathered keys, and the weighted sum of gathered values.

Row j of a gathered block is ``x + rows[j] · ldx``. What comes out for a row depends on nothing but that row, so that it doesn't matter which
others stand beside it.
"""
from .few cimport prefetch
from .vector cimport VLEN, real, v_load, v_loadu, v_real, v_set1, v_store, v_sum, v_ubits, urint, vreal, vuint

cdef extern from *:
    """
    #ifndef RUVATTN_GATHER_H
    #define RUVATTN_GATHER_H
    /* out[i] = the sum over the lanes of the i-th vector: four at once share their shuffles. */
    #if RUVATTN_VECTOR_BYTES == 32 && !REAL_IS_DOUBLE
    static inline void v_sum_four(vreal a, vreal b, vreal c, vreal d, real *out) {
        vreal t = V_SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + V_SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
        vreal u = V_SHUFFLE(c, d, 0, 8, 1, 9, 4, 12, 5, 13) + V_SHUFFLE(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
        vreal r = V_SHUFFLE(t, u, 0, 1, 8, 9, 4, 5, 12, 13) + V_SHUFFLE(t, u, 2, 3, 10, 11, 6, 7, 14, 15);
        r = r + V_SHUFFLE(r, r, 4, 5, 6, 7, 0, 1, 2, 3);
        memcpy(out, &r, 4 * sizeof(real));
    }
    #elif RUVATTN_VECTOR_BYTES == 32
    static inline void v_sum_four(vreal a, vreal b, vreal c, vreal d, real *out) {
        vreal t = V_SHUFFLE(a, b, 0, 4, 2, 6) + V_SHUFFLE(a, b, 1, 5, 3, 7);
        vreal u = V_SHUFFLE(c, d, 0, 4, 2, 6) + V_SHUFFLE(c, d, 1, 5, 3, 7);
        v_store(out, V_SHUFFLE(t, u, 0, 1, 4, 5) + V_SHUFFLE(t, u, 2, 3, 6, 7));
    }
    #elif RUVATTN_VECTOR_BYTES == 16 && !REAL_IS_DOUBLE
    static inline void v_sum_four(vreal a, vreal b, vreal c, vreal d, real *out) {
        vreal t = V_SHUFFLE(a, b, 0, 4, 1, 5) + V_SHUFFLE(a, b, 2, 6, 3, 7);
        vreal u = V_SHUFFLE(c, d, 0, 4, 1, 5) + V_SHUFFLE(c, d, 2, 6, 3, 7);
        v_store(out, V_SHUFFLE(t, u, 0, 1, 4, 5) + V_SHUFFLE(t, u, 2, 3, 6, 7));
    }
    #else
    static inline void v_sum_four(vreal a, vreal b, vreal c, vreal d, real *out) {
        out[0] = v_sum(a); out[1] = v_sum(b); out[2] = v_sum(c); out[3] = v_sum(d);
    }
    #endif
    #endif
    """
    void v_sum_four(vreal a, vreal b, vreal c, vreal d, real *out) noexcept nogil

cdef enum:
    AHEAD = 8              # rows of K are fetched so many edges before they are needed
    LINE = 64              # bytes of a cache line


cdef inline void prefetch_row(const real *x, Py_ssize_t width) noexcept nogil:
    cdef Py_ssize_t c = 0
    while c < width:
        prefetch(x + c)
        c += LINE // <Py_ssize_t>sizeof(real)
    prefetch(x + width - 1)


cdef inline vuint last_lanes(Py_ssize_t lanes) noexcept nogil:
    """All bits of the last so many lanes."""
    cdef urint bits[32]
    cdef Py_ssize_t i
    for i in range(VLEN):
        bits[i] = 0
        bits[VLEN + i] = <urint>-1
    return v_loadu(bits + lanes)


cdef inline void gather_dots(const real *q, const real *k, Py_ssize_t ldk, const int *rows, Py_ssize_t n, Py_ssize_t known, Py_ssize_t d,
                             const real *v, Py_ssize_t ldv, Py_ssize_t dv, bint add, real *s) noexcept nogil:
    """s[j] = q · k[rows[j]], or += with ``add``, for j < n rounded up to four, d in the lanes.

    ``v`` not NULL: the rows of V, which come next, and the next of K, of which ``known`` are known, are fetched meanwhile.
    """
    cdef Py_ssize_t j = 0, c, t, last = n - 1, whole = d // VLEN * VLEN, rest = d - whole
    cdef const real *k0
    cdef const real *k1
    cdef const real *k2
    cdef const real *k3
    cdef vreal c0, c1, c2, c3, x, tail = v_set1(0)
    cdef vuint mask = v_ubits(tail)
    cdef real sums[4]
    cdef real y
    if rest > 0 and whole > 0:
        # the last columns in a vector that ends with them: what it repeats is cut away on both sides, where 0 times infinity would be NaN
        mask = last_lanes(rest)
        tail = v_real(v_ubits(v_load(q + d - VLEN)) & mask)
    while j < n:
        k0 = k + rows[j] * ldk
        k1 = k + rows[j + 1 if j + 1 < n else last] * ldk
        k2 = k + rows[j + 2 if j + 2 < n else last] * ldk
        k3 = k + rows[j + 3 if j + 3 < n else last] * ldk
        if v != NULL:
            for t in range(j, j + 4 if j + 4 < n else n):
                prefetch_row(v + rows[t] * ldv, dv)
            for t in range(j + AHEAD, j + AHEAD + 4 if j + AHEAD + 4 < known else known):
                prefetch_row(k + rows[t] * ldk, d)
        c0 = c1 = c2 = c3 = v_set1(0)
        c = 0
        while c < whole:
            x = v_load(q + c)
            c0 = c0 + x * v_load(k0 + c)
            c1 = c1 + x * v_load(k1 + c)
            c2 = c2 + x * v_load(k2 + c)
            c3 = c3 + x * v_load(k3 + c)
            c += VLEN
        if rest > 0 and whole > 0:
            c0 = c0 + tail * v_real(v_ubits(v_load(k0 + d - VLEN)) & mask)
            c1 = c1 + tail * v_real(v_ubits(v_load(k1 + d - VLEN)) & mask)
            c2 = c2 + tail * v_real(v_ubits(v_load(k2 + d - VLEN)) & mask)
            c3 = c3 + tail * v_real(v_ubits(v_load(k3 + d - VLEN)) & mask)
        if whole > 0 and not add:
            v_sum_four(c0, c1, c2, c3, s + j)
            j += 4
            continue
        if whole > 0:
            v_sum_four(c0, c1, c2, c3, sums)
        else:
            sums[0] = sums[1] = sums[2] = sums[3] = 0
            for c in range(d):
                y = q[c]
                sums[0] += y * k0[c]
                sums[1] += y * k1[c]
                sums[2] += y * k2[c]
                sums[3] += y * k3[c]
        if add:
            for t in range(4):
                s[j + t] += sums[t]
        else:
            for t in range(4):
                s[j + t] = sums[t]
        j += 4


# --- o[c] = o[c] · alpha + Σ_j s[j] · v[rows[j], c], eight sums in registers whatever the width ---------------------------------
#
# ``next``, unless NULL, is where rows lie that come next: rows[j + skip] of it, for j < known, are fetched one by one on the way, for a burst of
# fetches waits where there are more than the processor keeps in flight.

cdef inline void values_8(const real *s, const real *v, Py_ssize_t ldv, const int *rows, Py_ssize_t n, real alpha, const real *next,
                          Py_ssize_t skip, Py_ssize_t known, real *o) noexcept nogil:
    """8·VLEN columns."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, x
    cdef const real *y
    cdef Py_ssize_t j
    for j in range(n):
        if next != NULL and j < known:
            prefetch_row(next + rows[j + skip] * ldv, 8 * VLEN)
        x = v_set1(s[j])
        y = v + rows[j] * ldv
        c0 = c0 + x * v_load(y)
        c1 = c1 + x * v_load(y + VLEN)
        c2 = c2 + x * v_load(y + 2 * VLEN)
        c3 = c3 + x * v_load(y + 3 * VLEN)
        c4 = c4 + x * v_load(y + 4 * VLEN)
        c5 = c5 + x * v_load(y + 5 * VLEN)
        c6 = c6 + x * v_load(y + 6 * VLEN)
        c7 = c7 + x * v_load(y + 7 * VLEN)
    x = v_set1(alpha)
    v_store(o, v_load(o) * x + c0)
    v_store(o + VLEN, v_load(o + VLEN) * x + c1)
    v_store(o + 2 * VLEN, v_load(o + 2 * VLEN) * x + c2)
    v_store(o + 3 * VLEN, v_load(o + 3 * VLEN) * x + c3)
    v_store(o + 4 * VLEN, v_load(o + 4 * VLEN) * x + c4)
    v_store(o + 5 * VLEN, v_load(o + 5 * VLEN) * x + c5)
    v_store(o + 6 * VLEN, v_load(o + 6 * VLEN) * x + c6)
    v_store(o + 7 * VLEN, v_load(o + 7 * VLEN) * x + c7)


cdef inline void values_4(const real *s, const real *v, Py_ssize_t ldv, const int *rows, Py_ssize_t n, real alpha, const real *next,
                          Py_ssize_t skip, Py_ssize_t known, real *o) noexcept nogil:
    """4·VLEN columns, two rows at a time."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, x
    cdef const real *y
    cdef Py_ssize_t j = 0
    while j + 2 <= n:
        if next != NULL and j + 1 < known:
            prefetch_row(next + rows[j + skip] * ldv, 4 * VLEN)
            prefetch_row(next + rows[j + 1 + skip] * ldv, 4 * VLEN)
        x = v_set1(s[j])
        y = v + rows[j] * ldv
        c0 = c0 + x * v_load(y)
        c1 = c1 + x * v_load(y + VLEN)
        c2 = c2 + x * v_load(y + 2 * VLEN)
        c3 = c3 + x * v_load(y + 3 * VLEN)
        x = v_set1(s[j + 1])
        y = v + rows[j + 1] * ldv
        c4 = c4 + x * v_load(y)
        c5 = c5 + x * v_load(y + VLEN)
        c6 = c6 + x * v_load(y + 2 * VLEN)
        c7 = c7 + x * v_load(y + 3 * VLEN)
        j += 2
    if j < n:
        x = v_set1(s[j])
        y = v + rows[j] * ldv
        c0 = c0 + x * v_load(y)
        c1 = c1 + x * v_load(y + VLEN)
        c2 = c2 + x * v_load(y + 2 * VLEN)
        c3 = c3 + x * v_load(y + 3 * VLEN)
    x = v_set1(alpha)
    v_store(o, v_load(o) * x + (c0 + c4))
    v_store(o + VLEN, v_load(o + VLEN) * x + (c1 + c5))
    v_store(o + 2 * VLEN, v_load(o + 2 * VLEN) * x + (c2 + c6))
    v_store(o + 3 * VLEN, v_load(o + 3 * VLEN) * x + (c3 + c7))


cdef inline void values_2(const real *s, const real *v, Py_ssize_t ldv, const int *rows, Py_ssize_t n, real alpha, const real *next,
                          Py_ssize_t skip, Py_ssize_t known, real *o) noexcept nogil:
    """2·VLEN columns, four rows at a time."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, x
    cdef const real *y
    cdef Py_ssize_t j = 0, t
    while j + 4 <= n:
        if next != NULL and j + 3 < known:
            for t in range(4):
                prefetch_row(next + rows[j + t + skip] * ldv, 2 * VLEN)
        x = v_set1(s[j])
        y = v + rows[j] * ldv
        c0 = c0 + x * v_load(y)
        c1 = c1 + x * v_load(y + VLEN)
        x = v_set1(s[j + 1])
        y = v + rows[j + 1] * ldv
        c2 = c2 + x * v_load(y)
        c3 = c3 + x * v_load(y + VLEN)
        x = v_set1(s[j + 2])
        y = v + rows[j + 2] * ldv
        c4 = c4 + x * v_load(y)
        c5 = c5 + x * v_load(y + VLEN)
        x = v_set1(s[j + 3])
        y = v + rows[j + 3] * ldv
        c6 = c6 + x * v_load(y)
        c7 = c7 + x * v_load(y + VLEN)
        j += 4
    while j < n:
        x = v_set1(s[j])
        y = v + rows[j] * ldv
        c0 = c0 + x * v_load(y)
        c1 = c1 + x * v_load(y + VLEN)
        j += 1
    x = v_set1(alpha)
    v_store(o, v_load(o) * x + ((c0 + c2) + (c4 + c6)))
    v_store(o + VLEN, v_load(o + VLEN) * x + ((c1 + c3) + (c5 + c7)))


cdef inline vreal sum_1(const real *s, const real *v, Py_ssize_t ldv, const int *rows, Py_ssize_t n) noexcept nogil:
    """VLEN columns, four rows at a time."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0
    cdef Py_ssize_t j = 0
    while j + 4 <= n:
        c0 = c0 + v_set1(s[j]) * v_load(v + rows[j] * ldv)
        c1 = c1 + v_set1(s[j + 1]) * v_load(v + rows[j + 1] * ldv)
        c2 = c2 + v_set1(s[j + 2]) * v_load(v + rows[j + 2] * ldv)
        c3 = c3 + v_set1(s[j + 3]) * v_load(v + rows[j + 3] * ldv)
        j += 4
    while j < n:
        c0 = c0 + v_set1(s[j]) * v_load(v + rows[j] * ldv)
        j += 1
    return (c0 + c1) + (c2 + c3)


cdef inline void gather_values(const real *s, const real *v, Py_ssize_t ldv, const int *rows, Py_ssize_t n, Py_ssize_t dv, real alpha,
                               const real *next, Py_ssize_t skip, Py_ssize_t known, real *o) noexcept nogil:
    """All dv columns, from the widest piece to the narrowest."""
    cdef Py_ssize_t c = 0, j, rest
    cdef vreal y
    cdef real x
    cdef real last[16]
    while c + 8 * VLEN <= dv:
        values_8(s, v + c, ldv, rows, n, alpha, next + c if next != NULL else NULL, skip, known, o + c)
        c += 8 * VLEN
    if c + 4 * VLEN <= dv:
        values_4(s, v + c, ldv, rows, n, alpha, next + c if next != NULL else NULL, skip, known, o + c)
        c += 4 * VLEN
    if c + 2 * VLEN <= dv:
        values_2(s, v + c, ldv, rows, n, alpha, next + c if next != NULL else NULL, skip, known, o + c)
        c += 2 * VLEN
    if c + VLEN <= dv:
        y = sum_1(s, v + c, ldv, rows, n)
        v_store(o + c, v_load(o + c) * v_set1(alpha) + y)
        c += VLEN
    if c == dv:
        return
    rest = dv - c
    if dv >= VLEN:
        # the last vector's width, of which only what is new is kept
        v_store(last, sum_1(s, v + dv - VLEN, ldv, rows, n))
        for j in range(rest):
            o[c + j] = o[c + j] * alpha + last[VLEN - rest + j]
        return
    for j in range(rest):
        last[j] = 0
    for j in range(n):
        x = s[j]
        for c in range(rest):
            last[c] += x * v[rows[j] * ldv + c]
    for c in range(rest):
        o[c] = o[c] * alpha + last[c]


# --- the same for heads that lie beside each other, each with weights of its own ------------------------------------------------

cdef inline void heads_8(const real *s, Py_ssize_t head, Py_ssize_t edge, Py_ssize_t dv, const real *v, Py_ssize_t ldv, const int *rows,
                         Py_ssize_t n, Py_ssize_t c, const real *next, Py_ssize_t skip, Py_ssize_t known, real *o) noexcept nogil:
    """8·VLEN columns from column c on, of which column c is weighted by head c / dv."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0
    cdef const real *s0 = s + c // dv * head
    cdef const real *s1 = s + (c + VLEN) // dv * head
    cdef const real *s2 = s + (c + 2 * VLEN) // dv * head
    cdef const real *s3 = s + (c + 3 * VLEN) // dv * head
    cdef const real *s4 = s + (c + 4 * VLEN) // dv * head
    cdef const real *s5 = s + (c + 5 * VLEN) // dv * head
    cdef const real *s6 = s + (c + 6 * VLEN) // dv * head
    cdef const real *s7 = s + (c + 7 * VLEN) // dv * head
    cdef const real *y
    cdef Py_ssize_t j
    v += c
    o += c
    for j in range(n):
        if next != NULL and j < known:
            prefetch_row(next + rows[j + skip] * ldv, 8 * VLEN)
        y = v + rows[j] * ldv
        c0 = c0 + v_set1(s0[j * edge]) * v_load(y)
        c1 = c1 + v_set1(s1[j * edge]) * v_load(y + VLEN)
        c2 = c2 + v_set1(s2[j * edge]) * v_load(y + 2 * VLEN)
        c3 = c3 + v_set1(s3[j * edge]) * v_load(y + 3 * VLEN)
        c4 = c4 + v_set1(s4[j * edge]) * v_load(y + 4 * VLEN)
        c5 = c5 + v_set1(s5[j * edge]) * v_load(y + 5 * VLEN)
        c6 = c6 + v_set1(s6[j * edge]) * v_load(y + 6 * VLEN)
        c7 = c7 + v_set1(s7[j * edge]) * v_load(y + 7 * VLEN)
    v_store(o, c0)
    v_store(o + VLEN, c1)
    v_store(o + 2 * VLEN, c2)
    v_store(o + 3 * VLEN, c3)
    v_store(o + 4 * VLEN, c4)
    v_store(o + 5 * VLEN, c5)
    v_store(o + 6 * VLEN, c6)
    v_store(o + 7 * VLEN, c7)


cdef inline vreal head_1(const real *s, Py_ssize_t edge, const real *v, Py_ssize_t ldv, const int *rows, Py_ssize_t n) noexcept nogil:
    """VLEN columns of one head."""
    cdef vreal c0 = v_set1(0), c1 = c0
    cdef Py_ssize_t j = 0
    while j + 2 <= n:
        c0 = c0 + v_set1(s[j * edge]) * v_load(v + rows[j] * ldv)
        c1 = c1 + v_set1(s[(j + 1) * edge]) * v_load(v + rows[j + 1] * ldv)
        j += 2
    if j < n:
        c0 = c0 + v_set1(s[j * edge]) * v_load(v + rows[j] * ldv)
    return c0 + c1


cdef inline void gather_heads(const real *s, Py_ssize_t head, Py_ssize_t edge, Py_ssize_t heads, Py_ssize_t dv, const real *v, Py_ssize_t ldv,
                              const int *rows, Py_ssize_t n, const real *next, Py_ssize_t skip, Py_ssize_t known, real *o) noexcept nogil:
    """o[h·dv + c] = Σ_j s[h·head + j·edge] · v[rows[j], h·dv + c] for c < dv, a multiple of VLEN: each row is read from one end to the other."""
    cdef Py_ssize_t c = 0, width = heads * dv
    while c + 8 * VLEN <= width:
        # the next columns of the same rows, or the first of the next rows: all columns of a row at once would not stay in the first-level cache
        if next != NULL and c + 16 * VLEN <= width:
            heads_8(s, head, edge, dv, v, ldv, rows, n, c, v + c + 8 * VLEN, 0, n, o)
        else:
            heads_8(s, head, edge, dv, v, ldv, rows, n, c, next, skip, known, o)
        c += 8 * VLEN
    while c < width:
        v_store(o + c, head_1(s + c // dv * head, edge, v + c, ldv, rows, n))
        c += VLEN
