# cython: cdivision=True
"""Square roots, logarithms and arc functions, lane by lane, and sums over the columns of two points."""
from ruvattn.kernels.vector cimport REAL_IS_DOUBLE, VLEN, real, v_load, v_set1, v_sum, vint, vreal

cdef extern from *:
    """
    #include <math.h>
    #if RUVATTN_VECTOR_BYTES == 32 && defined(__AVX__) && !REAL_IS_DOUBLE
      #define v_sqrt(x) ((vreal)__builtin_ia32_sqrtps256(x))
    #elif RUVATTN_VECTOR_BYTES == 32 && defined(__AVX__)
      #define v_sqrt(x) ((vreal)__builtin_ia32_sqrtpd256(x))
    #elif RUVATTN_VECTOR_BYTES == 16 && defined(__SSE2__) && !REAL_IS_DOUBLE
      #define v_sqrt(x) ((vreal)__builtin_ia32_sqrtps(x))
    #elif RUVATTN_VECTOR_BYTES == 16 && defined(__SSE2__)
      #define v_sqrt(x) ((vreal)__builtin_ia32_sqrtpd(x))
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
    """ln x of positive, normal, finite x, within 2 ulp where it is not near 0: n ln 2 + 2 atanh t with t = (m−1)/(m+1), x = 2ⁿ m."""
    cdef vint n = v_exponent(x)
    cdef vreal m = v_unscaled(x, n)
    cdef vreal t = (m - v_set1(1)) / (m + v_set1(1))
    cdef vreal z = t * t
    cdef vreal p
    # (atanh t/t − 1)/t² on t² ≤ 0.0295, fitted in Chebyshev nodes: relative error of the whole 2.7e-9 and 4.5e-18
    if REAL_IS_DOUBLE:
        p = v_set1(<real>0.073082248425217029302)
        p = p * z + v_set1(<real>0.076658608002780206343)
        p = p * z + v_set1(<real>0.090914445626308610401)
        p = p * z + v_set1(<real>0.11111105567397539928)
        p = p * z + v_set1(<real>0.14285714312987742461)
        p = p * z + v_set1(<real>0.19999999999949752245)
        p = p * z + v_set1(<real>0.33333333333333348431)
    else:
        p = v_set1(<real>0.14789974695986392355)
        p = p * z + v_set1(<real>0.1999439028301099095)
        p = p * z + v_set1(<real>0.33333342519787927511)
    t = t + t
    return v_whole(n) * v_set1(<real>0.69314718055994530942) + (t + t * (z * p))


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
    """asin √w/√w for 0 ≤ w ≤ 1/4: relative error 6e-11 and 1e-21."""
    cdef vreal p
    if REAL_IS_DOUBLE:
        p = v_set1(<real>0.032074126867121791344)
        p = p * w + v_set1(<real>-0.029288652492291927355)
        p = p * w + v_set1(<real>0.026492027340877928414)
        p = p * w + v_set1(<real>-0.0027168811083041496847)
        p = p * w + v_set1(<real>0.0087411030772739311627)
        p = p * w + v_set1(<real>0.0068694448704992214634)
        p = p * w + v_set1(<real>0.0084524060657465465818)
        p = p * w + v_set1(<real>0.0097552753161535346246)
        p = p * w + v_set1(<real>0.011552268573915127055)
        p = p * w + v_set1(<real>0.013964819214172544964)
        p = p * w + v_set1(<real>0.01735276530928495335)
        p = p * w + v_set1(<real>0.022372159069960181288)
        p = p * w + v_set1(<real>0.030381944444743147853)
        p = p * w + v_set1(<real>0.044642857142854911058)
        p = p * w + v_set1(<real>0.075000000000000006579)
        p = p * w + v_set1(<real>0.16666666666666666666)
    else:
        p = v_set1(<real>0.0309745403714)
        p = p * w + v_set1(<real>0.0105744155169)
        p = p * w + v_set1(<real>0.0236118170089)
        p = p * w + v_set1(<real>0.0302691387286)
        p = p * w + v_set1(<real>0.0446476638881)
        p = p * w + v_set1(<real>0.074999924044)
        p = p * w + v_set1(<real>0.166666666861)
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


cdef inline real difference_of_squares(const real *x, const real *y, Py_ssize_t d) noexcept nogil:
    """‖x‖² − ‖y‖² as (x−y)·(x+y)"""
    cdef vreal a = v_set1(0), b = a, s, t
    cdef real total
    cdef Py_ssize_t i = 0
    while i + 2 * VLEN <= d:
        s = v_load(x + i)
        t = v_load(y + i)
        a = a + (s - t) * (s + t)
        s = v_load(x + i + VLEN)
        t = v_load(y + i + VLEN)
        b = b + (s - t) * (s + t)
        i += 2 * VLEN
    total = v_sum(a + b)
    while i < d:
        total += (x[i] - y[i]) * (x[i] + y[i])
        i += 1
    return total
