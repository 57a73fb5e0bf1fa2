# cython: cdivision=True
"""Register-blocked products: six rows by two vectors, the accumulators in named variables so that they stay in registers.

Every product of the engine has the queries in the lanes. ``b`` is a panel of NR = 2·VLEN queries, one row of lanes per step; ``a`` is
read one number at a time and broadcast, so keys and values are used where they lie, in any row stride, without packing:

    dots   S[j, q] = Σ_d K[j, d] · Qᵀ[d, q]        row step ldk, depth step 1
    values O[c, q] += Σ_j V[j, c] · P[j, q]        row step 1, depth step ldv

``rows`` is a constant at every call, so that the compiler drops the rows it doesn't need.
"""
from .vector cimport real, vreal, vuint, VLEN, v_load, v_store, v_set1, v_max, v_select, v_ubits, v_same

cdef struct Accumulators:
    vreal c00, c01, c10, c11, c20, c21, c30, c31, c40, c41, c50, c51


cdef inline Accumulators accumulate(const int rows, const real *a, Py_ssize_t row_step, Py_ssize_t depth_step,
                                    const real *b, Py_ssize_t ldb, Py_ssize_t depth) noexcept nogil:
    """c[i] = Σ_p a[i·row_step + p·depth_step] · b[p·ldb : p·ldb + NR] for i < rows."""
    cdef vreal c00 = v_set1(0), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00
    cdef vreal c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00
    cdef vreal b0, b1, x
    cdef Py_ssize_t p
    cdef const real *a3 = a + 3 * row_step
    cdef Accumulators out
    for p in range(depth):  # no-cython-lint
        b0 = v_load(b)
        b1 = v_load(b + VLEN)
        x = v_set1(a[0])
        c00 = c00 + x * b0
        c01 = c01 + x * b1
        if rows > 1:
            x = v_set1(a[row_step])
            c10 = c10 + x * b0
            c11 = c11 + x * b1
        if rows > 2:
            x = v_set1(a[2 * row_step])
            c20 = c20 + x * b0
            c21 = c21 + x * b1
        if rows > 3:
            x = v_set1(a3[0])
            c30 = c30 + x * b0
            c31 = c31 + x * b1
        if rows > 4:
            x = v_set1(a3[row_step])
            c40 = c40 + x * b0
            c41 = c41 + x * b1
        if rows > 5:
            x = v_set1(a3[2 * row_step])
            c50 = c50 + x * b0
            c51 = c51 + x * b1
        a += depth_step
        a3 += depth_step
        b += ldb
    out.c00 = c00; out.c01 = c01; out.c10 = c10; out.c11 = c11; out.c20 = c20; out.c21 = c21
    out.c30 = c30; out.c31 = c31; out.c40 = c40; out.c41 = c41; out.c50 = c50; out.c51 = c51
    return out


cdef inline void store_rows(const int rows, const Accumulators *c, real *s) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN
    v_store(s, c.c00)
    v_store(s + VLEN, c.c01)
    if rows > 1:
        v_store(s + nr, c.c10)
        v_store(s + nr + VLEN, c.c11)
    if rows > 2:
        v_store(s + 2 * nr, c.c20)
        v_store(s + 2 * nr + VLEN, c.c21)
    if rows > 3:
        v_store(s + 3 * nr, c.c30)
        v_store(s + 3 * nr + VLEN, c.c31)
    if rows > 4:
        v_store(s + 4 * nr, c.c40)
        v_store(s + 4 * nr + VLEN, c.c41)
    if rows > 5:
        v_store(s + 5 * nr, c.c50)
        v_store(s + 5 * nr + VLEN, c.c51)


cdef inline int next_rows(Py_ssize_t left) noexcept nogil:
    """How many rows to take next: sixes, and a rest of few, fat steps (7 = 4 + 3, 8 = 4 + 4, 9 = 5 + 4), since one row alone waits on latency."""
    if left >= 10 or left == 6:
        return 6
    if left == 9:
        return 5
    if left >= 7:
        return 4
    return <int>left


cdef inline void dots_step(const int rows, const real *k, Py_ssize_t ldk, const real *q, Py_ssize_t d, real *s, vreal *top) noexcept nogil:
    cdef Accumulators c = accumulate(rows, k, ldk, 1, q, 2 * VLEN, d)
    cdef vreal t0 = c.c00, t1 = c.c01
    store_rows(rows, &c, s)
    if rows > 1:
        t0 = v_max(t0, c.c10)
        t1 = v_max(t1, c.c11)
    if rows > 2:
        t0 = v_max(t0, c.c20)
        t1 = v_max(t1, c.c21)
    if rows > 3:
        t0 = v_max(t0, c.c30)
        t1 = v_max(t1, c.c31)
    if rows > 4:
        t0 = v_max(t0, c.c40)
        t1 = v_max(t1, c.c41)
    if rows > 5:
        t0 = v_max(t0, c.c50)
        t1 = v_max(t1, c.c51)
    top[0] = v_max(top[0], t0)
    top[1] = v_max(top[1], t1)


cdef inline void dots_tile(const real *k, Py_ssize_t ldk, Py_ssize_t n, const real *q, Py_ssize_t d, real *s, real *top) noexcept nogil:
    """s[j, :] = k[j] · q for n keys and one panel of queries; ``top`` (NR) is raised to the largest dot of each lane while it is in a register."""
    cdef Py_ssize_t j = 0
    cdef int rows
    cdef vreal best[2]
    best[0] = v_load(top)
    best[1] = v_load(top + VLEN)
    while j < n:
        rows = next_rows(n - j)
        if rows == 6:
            dots_step(6, k, ldk, q, d, s, best)
        elif rows == 5:
            dots_step(5, k, ldk, q, d, s, best)
        elif rows == 4:
            dots_step(4, k, ldk, q, d, s, best)
        elif rows == 3:
            dots_step(3, k, ldk, q, d, s, best)
        elif rows == 2:
            dots_step(2, k, ldk, q, d, s, best)
        else:
            dots_step(1, k, ldk, q, d, s, best)
        j += rows
        k += rows * ldk
        s += rows * 2 * VLEN
    v_store(top, best[0])
    v_store(top + VLEN, best[1])


cdef inline void rescale_add(real *o, vreal a0, vreal a1, vreal c0, vreal c1) noexcept nogil:
    v_store(o, v_load(o) * a0 + c0)
    v_store(o + VLEN, v_load(o + VLEN) * a1 + c1)


cdef inline void values_step(const int rows, const real *v, Py_ssize_t ldv, const real *p, Py_ssize_t n, vreal a0, vreal a1, real *o) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN
    cdef Accumulators c = accumulate(rows, v, 1, ldv, p, nr, n)
    rescale_add(o, a0, a1, c.c00, c.c01)
    if rows > 1:
        rescale_add(o + nr, a0, a1, c.c10, c.c11)
    if rows > 2:
        rescale_add(o + 2 * nr, a0, a1, c.c20, c.c21)
    if rows > 3:
        rescale_add(o + 3 * nr, a0, a1, c.c30, c.c31)
    if rows > 4:
        rescale_add(o + 4 * nr, a0, a1, c.c40, c.c41)
    if rows > 5:
        rescale_add(o + 5 * nr, a0, a1, c.c50, c.c51)


cdef inline void values_tile(const real *v, Py_ssize_t ldv, Py_ssize_t n, const real *p, Py_ssize_t dv, const real *alpha, real *o) noexcept nogil:
    """o[c, :] = o[c, :] · alpha + Σ_j v[j, c] · p[j, :] for n keys, dv columns and one panel of queries."""
    cdef Py_ssize_t c = 0
    cdef int rows
    cdef vreal a0 = v_load(alpha), a1 = v_load(alpha + VLEN)
    while c < dv:
        rows = next_rows(dv - c)
        if rows == 6:
            values_step(6, v, ldv, p, n, a0, a1, o)
        elif rows == 5:
            values_step(5, v, ldv, p, n, a0, a1, o)
        elif rows == 4:
            values_step(4, v, ldv, p, n, a0, a1, o)
        elif rows == 3:
            values_step(3, v, ldv, p, n, a0, a1, o)
        elif rows == 2:
            values_step(2, v, ldv, p, n, a0, a1, o)
        else:
            values_step(1, v, ldv, p, n, a0, a1, o)
        c += rows
        v += rows
        o += rows * 2 * VLEN


cdef inline void values_tile_marked(const real *v, Py_ssize_t ldv, Py_ssize_t n, const real *p, Py_ssize_t dv, const real *alpha,
                                    real *o) noexcept nogil:
    """As values_tile, in the same order of operations, but a weight of −0 (masked) takes no part at all, so that 0 · NaN can't arise."""
    cdef Py_ssize_t c, j
    cdef vreal a0 = v_load(alpha), a1 = v_load(alpha + VLEN)
    cdef vreal c0, c1, p0, p1, x
    cdef vuint mark = v_ubits(v_set1(<real>-0.0))
    for c in range(dv):
        c0 = v_set1(0)
        c1 = c0
        for j in range(n):
            x = v_set1(v[j * ldv + c])
            p0 = v_load(p + j * 2 * VLEN)
            p1 = v_load(p + j * 2 * VLEN + VLEN)
            c0 = v_select(v_same(p0, mark), c0, c0 + x * p0)
            c1 = v_select(v_same(p1, mark), c1, c1 + x * p1)
        rescale_add(o + c * 2 * VLEN, a0, a1, c0, c1)
