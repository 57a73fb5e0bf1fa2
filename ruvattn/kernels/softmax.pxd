# cython: cdivision=True
"""The online softmax of one tile (Milakov and Gimelshein, 2018), queries in the lanes.

A panel keeps for each lane a reference ``ref``, the largest logit so far, and ``total`` = Σ e^(s − ref). The reference is subtracted first, which is
exact where it matters and can't overflow upwards, whatever the size of the logits; log₂e then comes in the one multiply-add that also rounds to a
power of two, so the natural logits cost nothing extra.
"""
from libc.math cimport INFINITY, exp, log
from .vector cimport (real, vreal, LN2, LN2_HIGH, LN2_REST, LOG2E, VLEN, EXP2_MAGIC, EXP2_SHIFT, REAL_IS_DOUBLE, v_load, v_store, v_set1, v_max,
                      v_select, v_eq, v_ubits, v_real, exp_v)

cdef extern from *:
    """
    #if REAL_IS_DOUBLE
    #define RUVATTN_EXP_LOW (-709.0)    /* rounds to 2^-1023: the exponent field of 0 */
    #else
    #define RUVATTN_EXP_LOW (-88.0f)    /* 2^-127 */
    #endif
    #if !REAL_IS_DOUBLE && (defined(__FMA__) || defined(__ARM_FEATURE_FMA))
    #define RUVATTN_ONE_PART 1
    #else
    #define RUVATTN_ONE_PART 0
    #endif
    """
    const bint ONE_PART "RUVATTN_ONE_PART"
    const real EXP_LOW "RUVATTN_EXP_LOW"


cdef inline vreal exp_fraction(vreal r) noexcept nogil:
    """e^r for |r| ≤ ln 2 / 2: the polynomials of exp2_fraction, in r."""
    cdef vreal p
    if REAL_IS_DOUBLE:
        p = v_set1(<real>2.499431481623695410580e-8)
        p = p * r + v_set1(<real>2.763229322970562908080e-7)
        p = p * r + v_set1(<real>2.755762249931184543263e-6)
        p = p * r + v_set1(<real>2.480148652158092249113e-5)
        p = p * r + v_set1(<real>1.984126943271529733974e-4)
        p = p * r + v_set1(<real>1.388888895122382512166e-3)
        p = p * r + v_set1(<real>8.333333333559253460428e-3)
        p = p * r + v_set1(<real>4.166666666649276799218e-2)
        p = p * r + v_set1(<real>1.666666666666616870101e-1)
        p = p * r + v_set1(<real>5.000000000000017685545e-1)
        p = p * r + v_set1(<real>1.0)
    else:
        p = v_set1(<real>1.406123990990865641087e-3)
        p = p * r + v_set1(<real>8.379011126318142398984e-3)
        p = p * r + v_set1(<real>4.166477730283955803479e-2)
        p = p * r + v_set1(<real>1.666636544189373078224e-1)
        p = p * r + v_set1(<real>5.000000434374651652192e-1)
        p = p * r + v_set1(<real>1.000000049640163906065)
    return p * r + v_set1(<real>1.0)


cdef inline void exp_four(vreal *x) noexcept nogil:
    """e^x for x ≤ 0, four side by side: one chain alone waits on its own latency. 0 where e^x is below the smallest normal number.

    With a fused multiply-add, float takes ln 2 in one part: within 2 units in the last place down to e^-30 and 5 below that, where a second part
    would cost 3 to 9 % of a whole call. Elsewhere it is in two parts, as in exp_v, and within 2 units throughout.
    """
    cdef vreal low = v_set1(EXP_LOW), magic = v_set1(EXP2_MAGIC), log2e = v_set1(<real>LOG2E)
    cdef vreal ln2 = v_set1(<real>LN2) if ONE_PART else v_set1(LN2_HIGH), rest = v_set1(LN2_REST)
    cdef vreal n0, n1, n2, n3
    x[0] = v_max(low, x[0])
    x[1] = v_max(low, x[1])
    x[2] = v_max(low, x[2])
    x[3] = v_max(low, x[3])
    n0 = x[0] * log2e + magic
    n1 = x[1] * log2e + magic
    n2 = x[2] * log2e + magic
    n3 = x[3] * log2e + magic
    x[0] = x[0] - (n0 - magic) * ln2
    x[1] = x[1] - (n1 - magic) * ln2
    x[2] = x[2] - (n2 - magic) * ln2
    x[3] = x[3] - (n3 - magic) * ln2
    if not ONE_PART:
        x[0] = x[0] - (n0 - magic) * rest
        x[1] = x[1] - (n1 - magic) * rest
        x[2] = x[2] - (n2 - magic) * rest
        x[3] = x[3] - (n3 - magic) * rest
    x[0] = exp_fraction(x[0]) * v_real(v_ubits(n0) << EXP2_SHIFT)
    x[1] = exp_fraction(x[1]) * v_real(v_ubits(n1) << EXP2_SHIFT)
    x[2] = exp_fraction(x[2]) * v_real(v_ubits(n2) << EXP2_SHIFT)
    x[3] = exp_fraction(x[3]) * v_real(v_ubits(n3) << EXP2_SHIFT)


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


cdef inline void tile_softmax(real *s, Py_ssize_t n, const real *top, real *ref, real *total, real *alpha) noexcept nogil:
    """Logits to weights in place; ref and total move on; alpha is what earlier sums must be multiplied by.

    The tile's own sum starts from 0 and is added once, so that a long row is summed in two levels.
    """
    cdef vreal least = v_set1(<real>-INFINITY), zero = v_set1(0)
    cdef vreal old0 = v_load(ref), old1 = v_load(ref + VLEN)
    cdef vreal new0 = v_max(v_load(top), old0), new1 = v_max(v_load(top + VLEN), old1)
    # a lane that has seen no key yet: −inf − −inf would be NaN, and any finite reference gives 0
    cdef vreal r0 = v_select(v_eq(new0, least), zero, new0), r1 = v_select(v_eq(new1, least), zero, new1)
    cdef vreal a0 = exp_v(old0 - r0), a1 = exp_v(old1 - r1)
    cdef vreal t0 = zero, t1 = zero
    cdef vreal x[4]
    cdef Py_ssize_t j = 0
    while j + 2 <= n:
        x[0] = v_load(s) - r0
        x[1] = v_load(s + VLEN) - r1
        x[2] = v_load(s + 2 * VLEN) - r0
        x[3] = v_load(s + 3 * VLEN) - r1
        exp_four(x)
        t0 = t0 + (x[0] + x[2])
        t1 = t1 + (x[1] + x[3])
        v_store(s, x[0])
        v_store(s + VLEN, x[1])
        v_store(s + 2 * VLEN, x[2])
        v_store(s + 3 * VLEN, x[3])
        s += 4 * VLEN
        j += 2
    if j < n:
        x[0] = exp_v(v_load(s) - r0)
        x[1] = exp_v(v_load(s + VLEN) - r1)
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
        s = sink[0]
        if s > ref:
            lift = exp(ref - s)
            total = total * lift
            ref = s
        if ref > -INFINITY:
            total = total + exp(s - ref)
    factor[0] = <real>(lift / total) if total != 0 else 0
    return <real>(ref + log(total)) if total != 0 else <real>-INFINITY
