# cython: cdivision=True
"""The online softmax of one tile (Milakov and Gimelshein, 2018), base 2, queries in the lanes.

A panel keeps for each lane a reference ``ref`` (the largest logit so far, times log₂e) and ``total`` = Σ 2^(s·log₂e − ref). One fused
multiply-subtract both converts a logit to base 2 and shifts it, so the natural logits cost nothing extra.
"""
from libc.math cimport INFINITY, log
from .vector cimport (real, vreal, vuint, LN2, LOG2E, VLEN, EXP2_MAGIC, EXP2_LOW, EXP2_SHIFT, v_load, v_store, v_set1, v_max, v_select, v_eq,
                      v_lt, v_top, v_ubits, v_real, exp2_fraction, exp2_v)

cdef extern from "math.h" nogil:
    double exp2(double x)

cdef extern from *:
    """
    #if REAL_IS_DOUBLE
    #define RUVATTN_LARGE 7.2e16    /* 2⁵⁶, where a unit in the last place is 16 */
    #else
    #define RUVATTN_LARGE 1.3e8f    /* 2²⁷, as much */
    #endif
    """
    const real LARGE "RUVATTN_LARGE"


cdef inline void exp2_four(vreal *x) noexcept nogil:
    """Four exponentials side by side: 7 cycles a vector instead of 8, since one chain alone waits on its own latency."""
    cdef vreal low = v_set1(EXP2_LOW), magic = v_set1(EXP2_MAGIC)
    cdef vreal n0, n1, n2, n3
    x[0] = v_max(low, x[0])
    x[1] = v_max(low, x[1])
    x[2] = v_max(low, x[2])
    x[3] = v_max(low, x[3])
    n0 = x[0] + magic
    n1 = x[1] + magic
    n2 = x[2] + magic
    n3 = x[3] + magic
    x[0] = exp2_fraction(x[0] - (n0 - magic)) * v_real(v_ubits(n0) << EXP2_SHIFT)
    x[1] = exp2_fraction(x[1] - (n1 - magic)) * v_real(v_ubits(n1) << EXP2_SHIFT)
    x[2] = exp2_fraction(x[2] - (n2 - magic)) * v_real(v_ubits(n2) << EXP2_SHIFT)
    x[3] = exp2_fraction(x[3] - (n3 - magic)) * v_real(v_ubits(n3) << EXP2_SHIFT)


cdef inline void tile_top(const real *s, Py_ssize_t n, real *top) noexcept nogil:
    """top = the largest logit of each lane."""
    cdef vreal t0 = v_set1(<real>-INFINITY), t1 = t0
    cdef Py_ssize_t j
    for j in range(n):  # no-cython-lint
        t0 = v_max(v_load(s), t0)
        t1 = v_max(v_load(s + VLEN), t1)
        s += 2 * VLEN
    v_store(top, t0)
    v_store(top + VLEN, t1)


cdef inline void shift_large(real *s, Py_ssize_t n, vreal r0, vreal r1) noexcept nogil:
    """Shift the lanes with a large reference beforehand: s ← (s·log₂e − ref)/log₂e, for a reference of 0.

    The fused multiply-subtract keeps what the reference lost when it was rounded, and in such a lane that can be more than an exponent holds. A
    product that is rounded alone has lost the same. Lanes are rows, and those of ordinary size are left as they are.
    """
    cdef vreal log2e = v_set1(<real>LOG2E), ln2 = v_set1(<real>LN2), large = v_set1(LARGE)
    cdef vuint b0 = v_lt(large, v_max(r0, -r0)), b1 = v_lt(large, v_max(r1, -r1))
    cdef vreal x
    cdef Py_ssize_t j
    # In two passes, so that the product is rounded: nothing is fused across memory.
    for j in range(n):
        x = v_load(s + 2 * j * VLEN)
        v_store(s + 2 * j * VLEN, v_select(b0, x * log2e, x))
        x = v_load(s + (2 * j + 1) * VLEN)
        v_store(s + (2 * j + 1) * VLEN, v_select(b1, x * log2e, x))
    for j in range(n):
        x = v_load(s + 2 * j * VLEN)
        v_store(s + 2 * j * VLEN, v_select(b0, (x - r0) * ln2, x))
        x = v_load(s + (2 * j + 1) * VLEN)
        v_store(s + (2 * j + 1) * VLEN, v_select(b1, (x - r1) * ln2, x))


cdef inline void tile_softmax(real *s, Py_ssize_t n, const real *top, real *ref, real *total, real *alpha) noexcept nogil:
    """Logits to weights in place; ref and total move on; alpha is what earlier sums must be multiplied by.

    The tile's own sum starts from 0 and is added once, so that a long row is summed in two levels.
    """
    cdef vreal log2e = v_set1(<real>LOG2E)
    cdef vreal least = v_set1(<real>-INFINITY), zero = v_set1(0)
    cdef vreal old0 = v_load(ref), old1 = v_load(ref + VLEN)
    cdef vreal new0 = v_max(v_load(top) * log2e, old0), new1 = v_max(v_load(top + VLEN) * log2e, old1)
    # a lane that has seen no key yet: −inf − −inf would be NaN, and any finite reference gives 0
    cdef vreal r0 = v_select(v_eq(new0, least), zero, new0), r1 = v_select(v_eq(new1, least), zero, new1)
    cdef vreal a0 = exp2_v(old0 - r0), a1 = exp2_v(old1 - r1)
    cdef vreal t0 = zero, t1 = zero
    cdef vreal x[4]
    cdef Py_ssize_t j = 0
    if v_top(v_max(v_max(r0, -r0), v_max(r1, -r1))) > LARGE:
        shift_large(s, n, r0, r1)
        r0 = v_select(v_lt(v_set1(LARGE), v_max(r0, -r0)), zero, r0)
        r1 = v_select(v_lt(v_set1(LARGE), v_max(r1, -r1)), zero, r1)
    while j + 2 <= n:
        x[0] = v_load(s) * log2e - r0
        x[1] = v_load(s + VLEN) * log2e - r1
        x[2] = v_load(s + 2 * VLEN) * log2e - r0
        x[3] = v_load(s + 3 * VLEN) * log2e - r1
        exp2_four(x)
        t0 = t0 + x[0]
        t1 = t1 + x[1]
        t0 = t0 + x[2]
        t1 = t1 + x[3]
        v_store(s, x[0])
        v_store(s + VLEN, x[1])
        v_store(s + 2 * VLEN, x[2])
        v_store(s + 3 * VLEN, x[3])
        s += 4 * VLEN
        j += 2
    if j < n:
        x[0] = exp2_v(v_load(s) * log2e - r0)
        x[1] = exp2_v(v_load(s + VLEN) * log2e - r1)
        t0 = t0 + x[0]
        t1 = t1 + x[1]
        v_store(s, x[0])
        v_store(s + VLEN, x[1])
    v_store(total, v_load(total) * a0 + t0)
    v_store(total + VLEN, v_load(total + VLEN) * a1 + t1)
    v_store(ref, new0)
    v_store(ref + VLEN, new1)
    v_store(alpha, a0)
    v_store(alpha + VLEN, a1)


cdef inline real settle(double ref, double total, const real *sink, real *factor) noexcept nogil:
    """The lse of a finished row, the sink's logit included where there is one; ``factor`` normalises the row's sum."""
    cdef double lift = 1, s
    if sink != NULL:
        s = <double>sink[0] / LN2
        if s > ref:
            lift = exp2(ref - s)
            total = total * lift
            ref = s
        if ref > -INFINITY:
            total = total + exp2(s - ref)
    factor[0] = <real>(lift / total) if total != 0 else 0
    return <real>(ref * LN2 + log(total)) if total != 0 else <real>-INFINITY
