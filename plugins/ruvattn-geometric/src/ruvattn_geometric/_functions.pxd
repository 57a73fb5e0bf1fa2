# cython: cdivision=True
"""Square roots, logarithms and arc functions, lane by lane, and sums over the columns of two points."""
from ruvattn.kernels.vector cimport REAL_IS_DOUBLE, VLEN, real, v_load, v_set1, v_sum, vint, vreal

cdef extern from *:
    """
    #include <math.h>
    /* The intrinsics, not the builtins under them: clang has taken those of square roots away. */
    #if defined(__SSE2__)
      #include <immintrin.h>
    #endif
    #if RUVATTN_VECTOR_BYTES == 32 && defined(__AVX__) && !REAL_IS_DOUBLE
      #define v_sqrt(x) ((vreal)_mm256_sqrt_ps((__m256)(x)))
    #elif RUVATTN_VECTOR_BYTES == 32 && defined(__AVX__)
      #define v_sqrt(x) ((vreal)_mm256_sqrt_pd((__m256d)(x)))
    #elif RUVATTN_VECTOR_BYTES == 16 && defined(__SSE2__) && !REAL_IS_DOUBLE
      #define v_sqrt(x) ((vreal)_mm_sqrt_ps((__m128)(x)))
    #elif RUVATTN_VECTOR_BYTES == 16 && defined(__SSE2__)
      #define v_sqrt(x) ((vreal)_mm_sqrt_pd((__m128d)(x)))
    #elif RUVATTN_VECTOR_BYTES > 0
      static inline vreal v_sqrt(vreal x) {
          for (int i = 0; i < (int)VLEN; ++i) x[i] = REAL_IS_DOUBLE ? sqrt(x[i]) : sqrtf(x[i]);
          return x;
      }
    #else
      #define v_sqrt(x) ((real)(REAL_IS_DOUBLE ? sqrt(x) : sqrtf(x)))
    #endif
    /* A logarithm takes a number apart: its exponent, as an integer and as a real, and the rest, from sqrt(1/2) to sqrt(2). */
    #if REAL_IS_DOUBLE
      #define LOG_SHIFT 52
      #define LOG_ROOT 0x3fe6a09e667f3bcdULL
      #define LOG_MAGIC 6755399441055744.0
      #define LOG_MAGIC_BITS 0x4338000000000000ULL
    #else
      #define LOG_SHIFT 23
      #define LOG_ROOT 0x3f3504f3u
      #define LOG_MAGIC 12582912.0f
      #define LOG_MAGIC_BITS 0x4b400000u
    #endif
    #if RUVATTN_VECTOR_BYTES > 0
      #define v_exponent(x) ((vint)((vuint)(x) - v_set1u(LOG_ROOT)) >> LOG_SHIFT)
      #define v_unscaled(x, n) ((vreal)((vuint)(x) - ((vuint)(n) << LOG_SHIFT)))
      #define v_whole(n) ((vreal)((vuint)(n) + v_set1u(LOG_MAGIC_BITS)) - v_set1(LOG_MAGIC))
    #else
      #define v_exponent(x) ((srint)(v_ubits(x) - LOG_ROOT) >> LOG_SHIFT)
      #define v_unscaled(x, n) v_real(v_ubits(x) - ((urint)(n) << LOG_SHIFT))
      #define v_whole(n) ((real)(n))
    #endif
    """
    vreal v_sqrt(vreal x) noexcept nogil
    vint v_exponent(vreal x) noexcept nogil
    vreal v_unscaled(vreal x, vint exponent) noexcept nogil
    vreal v_whole(vint exponent) noexcept nogil


cdef inline vreal log_v(vreal x) noexcept nogil:
    """ln x of positive, normal, finite x, within 2 ulp where it is not near 0: n ln 2 + ln m, x = 2ⁿ m. In double by 2 atanh (m−1)/(m+1); in float by
    a longer polynomial, for a division takes as long as all of it. All polynomials here are fitted in
    Chebyshev nodes; those of float are summed in pairs (Estrin, 1960), so that no long chain of operations waits on itself."""
    cdef vint n = v_exponent(x)
    cdef vreal m = v_unscaled(x, n), f = m - v_set1(1), z, p, t
    if REAL_IS_DOUBLE:
        t = f / (m + v_set1(1))
        z = t * t
        # (atanh t/t − 1)/t² on t² ≤ 0.0295: relative error of the whole 4.5e-18
        p = v_set1(<real>0.073082248425217029302)
        p = p * z + v_set1(<real>0.076658608002780206343)
        p = p * z + v_set1(<real>0.090914445626308610401)
        p = p * z + v_set1(<real>0.11111105567397539928)
        p = p * z + v_set1(<real>0.14285714312987742461)
        p = p * z + v_set1(<real>0.19999999999949752245)
        p = p * z + v_set1(<real>0.33333333333333348431)
        t = t + t
        p = t + t * (z * p)
    else:
        # (ln(1+f) − f + f²/2)/f³ on the same numbers: 2e-8
        z = f * f
        p = (v_set1(<real>0.333333307282) + v_set1(<real>-0.250003064226) * f) \
            + (v_set1(<real>0.200010450942) + v_set1(<real>-0.166412814631) * f) * z
        t = (v_set1(<real>0.142144959239) + v_set1(<real>-0.129981837637) * f) \
            + (v_set1(<real>0.126223198492) + v_set1(<real>-0.0790274377239) * f) * z
        p = p + t * (z * z)
        p = f + z * (p * f - v_set1(<real>0.5))
    return v_whole(n) * v_set1(<real>0.69314718055994530942) + p


cdef inline vreal asinh_ratio_v(vreal z) noexcept nogil:
    """asinh √z/√z for 0 ≤ z ≤ 1/4: relative error 2e-10 and 1.3e-19."""
    cdef vreal p
    if REAL_IS_DOUBLE:
        p = v_set1(<real>-0.0014988358499957473331)
        p = p * z + v_set1(<real>0.0041383581314025196521)
        p = p * z + v_set1(<real>-0.0064746008466359027017)
        p = p * z + v_set1(<real>0.0081823676463777900632)
        p = p * z + v_set1(<real>-0.0097257161511416881608)
        p = p * z + v_set1(<real>0.011547475926257404953)
        p = p * z + v_set1(<real>-0.013964483323351326601)
        p = p * z + v_set1(<real>0.017352744155690402519)
        p = p * z + v_set1(<real>-0.022372158355736261873)
        p = p * z + v_set1(<real>0.030381944428513682912)
        p = p * z + v_set1(<real>-0.044642857142677226775)
        p = p * z + v_set1(<real>0.074999999999999199477)
        p = p * z + v_set1(<real>-0.16666666666666666607)
    else:
        p = v_set1(<real>0.00993650430924)
        p = p * z + v_set1(<real>-0.0205267934682)
        p = p * z + v_set1(<real>0.0301561786193)
        p = p * z + v_set1(<real>-0.0446300219435)
        p = p * z + v_set1(<real>0.0749997289396)
        p = p * z + v_set1(<real>-0.166666665728)
    return p * z + v_set1(1)


cdef inline vreal asin_ratio_v(vreal w) noexcept nogil:
    """asin √w/√w for 0 ≤ w ≤ 1/2: relative error 1.2e-9 and 1.5e-18."""
    cdef vreal p, t, z
    if REAL_IS_DOUBLE:
        p = v_set1(<real>1.0656658840535000804)
        p = p * w + v_set1(<real>-4.2019101323867496376)
        p = p * w + v_set1(<real>7.8829450923016553136)
        p = p * w + v_set1(<real>-9.1585973808058243573)
        p = p * w + v_set1(<real>7.3586199254976144457)
        p = p * w + v_set1(<real>-4.2975868321991715461)
        p = p * w + v_set1(<real>1.8963187485717359625)
        p = p * w + v_set1(<real>-0.62971384191412831387)
        p = p * w + v_set1(<real>0.17101146220020228813)
        p = p * w + v_set1(<real>-0.025581324215004245498)
        p = p * w + v_set1(<real>0.013442391811587492415)
        p = p * w + v_set1(<real>0.009171609990067689859)
        p = p * w + v_set1(<real>0.011603298700993395594)
        p = p * w + v_set1(<real>0.013961569507071280512)
        p = p * w + v_set1(<real>0.017352910485470594919)
        p = p * w + v_set1(<real>0.022372154765520057903)
        p = p * w + v_set1(<real>0.030381944522502469832)
        p = p * w + v_set1(<real>0.044642857142113934052)
        p = p * w + v_set1(<real>0.07500000000000280236)
        p = p * w + v_set1(<real>0.16666666666666666491)
    else:
        z = w * w
        p = (v_set1(<real>0.166666668108) + v_set1(<real>0.0749995342319) * w) \
            + (v_set1(<real>0.0446673494639) + v_set1(<real>0.029892416916) * w) * z
        t = (v_set1(<real>0.0271943945295) + v_set1(<real>-0.00872352573935) * w) \
            + (v_set1(<real>0.0937786569733) + v_set1(<real>-0.121094428522) * w) * z
        z = z * z
        p = p + (t + v_set1(<real>0.108892410412) * z) * z
    return p * w + v_set1(1)


cdef inline real sum_of_squares(const real *x, const real *y, real sign, Py_ssize_t d) noexcept nogil:
    """‖x + sign·y‖²"""
    cdef vreal a = v_set1(0), b = a, s, t, up = v_set1(sign)
    cdef real total
    cdef Py_ssize_t i = 0
    while i + 2 * VLEN <= d:
        s = v_load(x + i) + up * v_load(y + i)
        t = v_load(x + i + VLEN) + up * v_load(y + i + VLEN)
        a = a + s * s
        b = b + t * t
        i += 2 * VLEN
    if i + VLEN <= d:
        s = v_load(x + i) + up * v_load(y + i)
        a = a + s * s
        i += VLEN
    total = v_sum(a + b)
    while i < d:
        total += (x[i] + sign * y[i]) * (x[i] + sign * y[i])
        i += 1
    return total


cdef inline real differences(const real *x, const real *y, Py_ssize_t d, real *fall) noexcept nogil:
    """‖x − y‖², and ‖x‖² − ‖y‖² as (x−y)·(x+y)"""
    cdef vreal a = v_set1(0), b = a, r, s, t
    cdef real total, one
    cdef Py_ssize_t i = 0
    while i + VLEN <= d:
        s = v_load(x + i)
        t = v_load(y + i)
        r = s - t
        a = a + r * r
        b = b + r * (s + t)
        i += VLEN
    total = v_sum(a)
    fall[0] = v_sum(b)
    while i < d:
        one = x[i] - y[i]
        total += one * one
        fall[0] += one * (x[i] + y[i])
        i += 1
    return total
