# cython: cdivision=True
"""The vector type of the kernels, and what is done lane by lane: load, store, max, select, exp.

One source serves every instruction set. ``vreal`` is a vector of ``real`` in the compiler's vector extension (GCC and clang), and
``real`` is float, or double where RUVATTN_DOUBLE is defined. RUVATTN_VECTOR_BYTES is set per build (see ``ruvattn.build``): 16 for
SSE2 and NEON, 32 for AVX2, 64 for AVX-512; 0 makes ``vreal`` a plain scalar, which is the scalar build. Cython takes ``vreal`` for a
number, so + - * / between vectors are written as usual; what C has no operator for stands in the verbatim block below.

A plugin may ``cimport`` this file. ``real`` is float unless its build says otherwise; ``ruvattn.build.extensions`` builds a source that
wants both by compiling it once per dtype.
"""

cdef extern from *:
    """
    #ifndef RUVATTN_VECTOR_H
    #define RUVATTN_VECTOR_H
    #include <string.h>
    #include <stdint.h>

    #ifndef RUVATTN_VECTOR_BYTES
    #define RUVATTN_VECTOR_BYTES 16
    #endif

    #ifdef RUVATTN_DOUBLE
    typedef double real;
    typedef int64_t srint;
    typedef uint64_t urint;
    #define REAL_MAX 1.7976931348623157e308
    #define REAL_IS_DOUBLE 1
    #else
    typedef float real;
    typedef int32_t srint;
    typedef uint32_t urint;
    #define REAL_MAX 3.4028234663852886e38f
    #define REAL_IS_DOUBLE 0
    #endif

    #if RUVATTN_VECTOR_BYTES > 0
      #define VLEN ((Py_ssize_t)(RUVATTN_VECTOR_BYTES / sizeof(real)))
      typedef real vreal __attribute__((vector_size(RUVATTN_VECTOR_BYTES)));
      typedef srint vint __attribute__((vector_size(RUVATTN_VECTOR_BYTES)));
      typedef urint vuint __attribute__((vector_size(RUVATTN_VECTOR_BYTES)));
      typedef real vreal_u __attribute__((vector_size(RUVATTN_VECTOR_BYTES), aligned(1), may_alias));
      typedef urint vuint_u __attribute__((vector_size(RUVATTN_VECTOR_BYTES), aligned(1), may_alias));
      #define v_load(p) ((vreal)*(const vreal_u *)(p))
      #define v_store(p, x) ((void)(*(vreal_u *)(p) = (x)))
      #define v_loadu(p) ((vuint)*(const vuint_u *)(p))
      #define v_storeu(p, x) ((void)(*(vuint_u *)(p) = (x)))
      #define v_set1(x) ((real)(x) - (vreal){0})
      #define v_set1u(x) ((urint)(x) - (vuint){0})
      #define v_bits(x) ((vint)(x))
      #define v_ubits(x) ((vuint)(x))
      #define v_real(x) ((vreal)(x))
      #define v_lt(a, b) ((vuint)((a) < (b)))
      #define v_eq(a, b) ((vuint)((a) == (b)))
      /* C has no ternary on vectors: blend with the comparison's mask. The compiler makes one blend of it. */
      static inline vreal v_select(vuint mask, vreal a, vreal b) {
          return (vreal)((mask & (vuint)a) | (~mask & (vuint)b));
      }
      #if defined(__AVX__) && RUVATTN_VECTOR_BYTES == 32 && !REAL_IS_DOUBLE
        #define v_max(a, b) ((vreal)__builtin_ia32_maxps256((a), (b)))
      #elif defined(__AVX__) && RUVATTN_VECTOR_BYTES == 32
        #define v_max(a, b) ((vreal)__builtin_ia32_maxpd256((a), (b)))
      #elif defined(__SSE2__) && RUVATTN_VECTOR_BYTES == 16 && !REAL_IS_DOUBLE
        #define v_max(a, b) ((vreal)__builtin_ia32_maxps((a), (b)))
      #elif defined(__SSE2__) && RUVATTN_VECTOR_BYTES == 16
        #define v_max(a, b) ((vreal)__builtin_ia32_maxpd((a), (b)))
      #else
        /* a > b ? a : b, the operand order of maxps: b where either is NaN */
        #define v_max(a, b) v_select((vuint)((a) > (b)), (a), (b))
      #endif
    #else
      #define VLEN ((Py_ssize_t)1)
      typedef real vreal;
      typedef srint vint;
      typedef urint vuint;
      #define v_load(p) (*(const real *)(p))
      #define v_store(p, x) ((void)(*(real *)(p) = (x)))
      #define v_loadu(p) (*(const urint *)(p))
      #define v_storeu(p, x) ((void)(*(urint *)(p) = (x)))
      #define v_set1(x) ((real)(x))
      #define v_set1u(x) ((urint)(x))
      static inline srint v_bits(real x) { srint i; memcpy(&i, &x, sizeof i); return i; }
      static inline urint v_ubits(real x) { urint i; memcpy(&i, &x, sizeof i); return i; }
      static inline real v_real(urint i) { real x; memcpy(&x, &i, sizeof x); return x; }
      #define v_lt(a, b) ((urint)-(srint)((a) < (b)))
      #define v_eq(a, b) ((urint)-(srint)((a) == (b)))
      static inline real v_select(urint mask, real a, real b) { return mask ? a : b; }
      #define v_max(a, b) ((a) > (b) ? (a) : (b))
    #endif
    #define RUVATTN_LN2 0.69314718055994530942
    #define RUVATTN_LOG2E 1.4426950408889634074
    /* Shuffles: GCC spells them __builtin_shuffle, clang __builtin_shufflevector. */
    #if RUVATTN_VECTOR_BYTES > 0
      #if defined(__clang__)
        #define V_SHUFFLE(a, b, ...) __builtin_shufflevector((a), (b), __VA_ARGS__)
      #else
        #define V_SHUFFLE(a, b, ...) __builtin_shuffle((a), (b), (vint){__VA_ARGS__})
      #endif
    #endif

    /* Sum and maximum over the lanes, by halves; x[i][j] <-> x[j][i] on VLEN vectors. */
    #if RUVATTN_VECTOR_BYTES == 32 && !REAL_IS_DOUBLE
      #define RUVATTN_TRANSPOSE 1
      #define V_FOLD(x, OP) \
          x = OP(x, V_SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3)); \
          x = OP(x, V_SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5)); \
          x = OP(x, V_SHUFFLE(x, x, 1, 0, 3, 2, 5, 4, 7, 6))
      static inline void v_transpose(vreal *x) {
          vreal t[8], u[8];
          for (int i = 0; i < 8; i += 2) {
              t[i] = V_SHUFFLE(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
              t[i + 1] = V_SHUFFLE(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
          }
          for (int i = 0; i < 8; i += 4) {
              u[i] = V_SHUFFLE(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
              u[i + 1] = V_SHUFFLE(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
              u[i + 2] = V_SHUFFLE(t[i + 1], t[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
              u[i + 3] = V_SHUFFLE(t[i + 1], t[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
          }
          for (int i = 0; i < 4; ++i) {
              x[i] = V_SHUFFLE(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
              x[i + 4] = V_SHUFFLE(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
          }
      }
    #elif (RUVATTN_VECTOR_BYTES == 32 && REAL_IS_DOUBLE) || (RUVATTN_VECTOR_BYTES == 16 && !REAL_IS_DOUBLE)
      #define RUVATTN_TRANSPOSE 1
      #define V_FOLD(x, OP) \
          x = OP(x, V_SHUFFLE(x, x, 2, 3, 0, 1)); \
          x = OP(x, V_SHUFFLE(x, x, 1, 0, 3, 2))
      static inline void v_transpose(vreal *x) {
          vreal a = V_SHUFFLE(x[0], x[1], 0, 4, 2, 6), b = V_SHUFFLE(x[0], x[1], 1, 5, 3, 7);
          vreal c = V_SHUFFLE(x[2], x[3], 0, 4, 2, 6), d = V_SHUFFLE(x[2], x[3], 1, 5, 3, 7);
          x[0] = V_SHUFFLE(a, c, 0, 1, 4, 5); x[1] = V_SHUFFLE(b, d, 0, 1, 4, 5);
          x[2] = V_SHUFFLE(a, c, 2, 3, 6, 7); x[3] = V_SHUFFLE(b, d, 2, 3, 6, 7);
      }
    #elif RUVATTN_VECTOR_BYTES > 0
      /* any other width: through memory */
      #define RUVATTN_TRANSPOSE 1
      #define V_FOLD(x, OP) do { vreal fold_ = x; \
          for (int i_ = 1; i_ < (int)VLEN; ++i_) { vreal one_ = (real)fold_[i_] - (vreal){0}; x = OP(x, one_); } \
          } while (0)
      static inline void v_transpose(vreal *x) {
          real t[RUVATTN_VECTOR_BYTES / sizeof(real)][RUVATTN_VECTOR_BYTES / sizeof(real)];
          memcpy(t, x, sizeof t);
          for (int i = 0; i < (int)VLEN; ++i)
              for (int j = 0; j < (int)VLEN; ++j) ((real *)(x + i))[j] = t[j][i];
      }
    #else
      #define V_FOLD(x, OP) ((void)0)
      static inline void v_transpose(vreal *x) { (void)x; }
    #endif
    #define V_ADD_(a, b) ((a) + (b))
    #if RUVATTN_VECTOR_BYTES > 0
    static inline real v_sum(vreal x) { V_FOLD(x, V_ADD_); return x[0]; }
    static inline real v_top(vreal x) { V_FOLD(x, v_max); return x[0]; }
    #define v_outside(j, lo, hi) ((vuint)((vint)(lo) > (srint)(j)) | (vuint)((vint)(hi) <= (srint)(j)))
    #define v_bit(words, bit) ((vuint)(((words) & ((urint)1 << (bit))) != 0))
    #define v_ltu(a, b) ((vuint)((a) < (b)))
    #define v_same(a, bits) ((vuint)((vuint)(a) == (bits)))
    #define v_any(mask) ruvattn_any(mask)
    /* a bit a lane, the first lowest: the move of the sign bits, where the processor has it */
    #if defined(__AVX__) && RUVATTN_VECTOR_BYTES == 32 && !REAL_IS_DOUBLE
      #define v_lanes(mask) ((unsigned int)__builtin_ia32_movmskps256((vreal)(mask)))
    #elif defined(__AVX__) && RUVATTN_VECTOR_BYTES == 32
      #define v_lanes(mask) ((unsigned int)__builtin_ia32_movmskpd256((vreal)(mask)))
    #elif defined(__SSE2__) && RUVATTN_VECTOR_BYTES == 16 && !REAL_IS_DOUBLE
      #define v_lanes(mask) ((unsigned int)__builtin_ia32_movmskps((vreal)(mask)))
    #elif defined(__SSE2__) && RUVATTN_VECTOR_BYTES == 16
      #define v_lanes(mask) ((unsigned int)__builtin_ia32_movmskpd((vreal)(mask)))
    #else
      static inline unsigned int v_lanes(vuint m) {
          unsigned int bits = 0;
          for (int i = 0; i < (int)VLEN; ++i) bits |= (unsigned int)(m[i] & 1) << i;
          return bits;
      }
    #endif
    static inline int ruvattn_any(vuint m) {
        urint acc = 0;
        for (int i = 0; i < (int)VLEN; ++i) acc |= m[i];
        return acc != 0;
    }
    #else
    static inline real v_sum(vreal x) { return x; }
    static inline real v_top(vreal x) { return x; }
    #define v_outside(j, lo, hi) ((urint)-(srint)((srint)(lo) > (srint)(j) || (srint)(hi) <= (srint)(j)))
    #define v_bit(words, bit) ((urint)-(srint)(((words) >> (bit)) & 1))
    #define v_ltu(a, b) ((urint)-(srint)((a) < (b)))
    #define v_same(a, bits) ((urint)-(srint)(v_ubits(a) == (bits)))
    #define v_any(mask) ((mask) != 0)
    #define v_lanes(mask) ((unsigned int)((mask) & 1))
    #endif
    #endif
    """
    ctypedef float real
    ctypedef int srint
    ctypedef unsigned int urint
    ctypedef float vreal
    ctypedef int vint
    ctypedef unsigned int vuint
    const Py_ssize_t VLEN
    const real REAL_MAX
    const bint REAL_IS_DOUBLE
    const double LN2 "RUVATTN_LN2"
    const double LOG2E "RUVATTN_LOG2E"
    vreal v_load(const real *p) noexcept nogil
    void v_store(real *p, vreal x) noexcept nogil
    vuint v_loadu(const urint *p) noexcept nogil
    void v_storeu(urint *p, vuint x) noexcept nogil
    vreal v_set1(real x) noexcept nogil
    vuint v_set1u(urint x) noexcept nogil
    vint v_bits(vreal x) noexcept nogil
    vuint v_ubits(vreal x) noexcept nogil
    vreal v_real(vuint x) noexcept nogil
    vuint v_lt(vreal a, vreal b) noexcept nogil
    vuint v_eq(vreal a, vreal b) noexcept nogil
    vreal v_select(vuint mask, vreal a, vreal b) noexcept nogil
    vreal v_max(vreal a, vreal b) noexcept nogil
    void v_transpose(vreal *x) noexcept nogil                       # VLEN vectors, in place
    real v_sum(vreal x) noexcept nogil
    real v_top(vreal x) noexcept nogil                              # the largest lane
    vuint v_outside(srint j, vuint lo, vuint hi) noexcept nogil     # lanes where j < lo or j >= hi, as signed numbers
    vuint v_bit(vuint words, Py_ssize_t bit) noexcept nogil         # lanes whose word has that bit
    vuint v_ltu(vuint a, vuint b) noexcept nogil
    vuint v_same(vreal a, vuint bits) noexcept nogil                # lanes of a that are these bits
    bint v_any(vuint mask) noexcept nogil
    unsigned int v_lanes(vuint mask) noexcept nogil                 # a bit a lane of a comparison's mask


cdef extern from *:
    """
    #ifndef RUVATTN_EXP_H
    #define RUVATTN_EXP_H
    /* 2^x = 2^n · 2^r, n = round(x). Adding MAGIC rounds x to an integer and leaves n + bias in the low bits of the sum, ready to be
       shifted into the exponent. Below EXP2_LOW the exponent field comes out 0, so that the result is exactly 0. */
    #if REAL_IS_DOUBLE
      #define EXP2_MAGIC (6755399441055744.0 + 1023.0)
      #define EXP2_LOW (-1023.0)
      #define EXP2_SHIFT 52
      #define RUVATTN_LN2_HIGH 6.93147180369123816490e-1
      #define RUVATTN_LN2_REST 1.90821492927058770002e-10
    #else
      #define EXP2_MAGIC (12582912.0f + 127.0f)
      #define EXP2_LOW (-127.0f)
      #define EXP2_SHIFT 23
      #define RUVATTN_LN2_HIGH 0.693359375f
      #define RUVATTN_LN2_REST (-2.12194440e-4f)
    #endif
    #endif
    """
    const real EXP2_MAGIC
    const real EXP2_LOW
    const int EXP2_SHIFT
    const real LN2_HIGH "RUVATTN_LN2_HIGH"    # few enough bits that its product with a power's exponent is exact
    const real LN2_REST "RUVATTN_LN2_REST"    # what it lacks (Cody and Waite, 1980)


cdef inline vreal exp2_fraction(vreal r) noexcept nogil:
    """2^r for |r| ≤ 1/2: minimax polynomials by Remez, relative error 2.6e-9 (float, degree 6, exact at 0) and 3.1e-18 (double, degree 11)."""
    cdef vreal p
    if REAL_IS_DOUBLE:
        p = v_set1(<real>4.435282706957277151106e-10)
        p = p * r + v_set1(<real>7.074105613508142796256e-9)
        p = p * r + v_set1(<real>1.017819802167193084374e-7)
        p = p * r + v_set1(<real>1.321543308967639917986e-6)
        p = p * r + v_set1(<real>1.525273348998852564858e-5)
        p = p * r + v_set1(<real>1.540353046251443206227e-4)
        p = p * r + v_set1(<real>1.333355814678992172154e-3)
        p = p * r + v_set1(<real>9.618129107588335244311e-3)
        p = p * r + v_set1(<real>5.550410866481992160476e-2)
        p = p * r + v_set1(<real>2.402265069591015620409e-1)
        p = p * r + v_set1(<real>6.931471805599453304599e-1)
    else:
        p = v_set1(<real>1.5594677015105410560e-4)
        p = p * r + v_set1(<real>1.3406643847480060174e-3)
        p = p * r + v_set1(<real>9.6176929761431872291e-3)
        p = p * r + v_set1(<real>5.5503105512069805781e-2)
        p = p * r + v_set1(<real>2.4022652782876176793e-1)
        p = p * r + v_set1(<real>6.9314721496788496344e-1)
    return p * r + v_set1(<real>1.0)


cdef inline vreal exp2_v(vreal x) noexcept nogil:
    """2^x, x below the overflow threshold; 0 below the smallest normal number; NaN stays NaN."""
    cdef vreal y = v_max(v_set1(EXP2_LOW), x)
    cdef vreal n = y + v_set1(EXP2_MAGIC)
    return exp2_fraction(y - (n - v_set1(EXP2_MAGIC))) * v_real(v_ubits(n) << EXP2_SHIFT)


cdef inline vreal exp_v(vreal x) noexcept nogil:
    """e^x, x below the overflow threshold, within 2 ulp; 0 where e^x is below the smallest normal number; NaN stays NaN.

    n = round(x·log₂e), then r = x − n·ln 2 with ln 2 in two parts, so that no bit of x is lost.
    """
    cdef vreal y = v_max(v_set1(EXP2_LOW), x * v_set1(<real>LOG2E))
    cdef vreal n = y + v_set1(EXP2_MAGIC)
    cdef vreal whole = n - v_set1(EXP2_MAGIC)
    cdef vreal r = (x - whole * v_set1(LN2_HIGH)) - whole * v_set1(LN2_REST)
    # where x was clamped r is far outside the polynomial's range, and the power of two is 0: keep 0 · p finite
    r = v_max(v_set1(-1), r)
    return exp2_fraction(r * v_set1(<real>LOG2E)) * v_real(v_ubits(n) << EXP2_SHIFT)


cdef inline vreal tanh_v(vreal x) noexcept nogil:
    """tanh x: its Taylor series below 1/4, where 1 − e^−2|x| would cancel, and (1 − t)/(1 + t), t = e^−2|x|, beyond."""
    cdef vuint sign = v_ubits(x) & v_ubits(v_set1(<real>-0.0))
    cdef vreal a = v_real(v_ubits(x) ^ sign)
    cdef vreal t = exp_v(v_set1(-2) * a)
    cdef vreal far = (v_set1(1) - t) / (v_set1(1) + t)
    cdef vreal z = a * a
    cdef vreal p = v_set1(<real>(-443861162.0 / 1856156927625.0))
    p = p * z + v_set1(<real>(6404582.0 / 10854718875.0))
    p = p * z + v_set1(<real>(-929569.0 / 638512875.0))
    p = p * z + v_set1(<real>(21844.0 / 6081075.0))
    p = p * z + v_set1(<real>(-1382.0 / 155925.0))
    p = p * z + v_set1(<real>(62.0 / 2835.0))
    p = p * z + v_set1(<real>(-17.0 / 315.0))
    p = p * z + v_set1(<real>(2.0 / 15.0))
    p = p * z + v_set1(<real>(-1.0 / 3.0))
    p = a + a * (z * p)
    return v_real(v_ubits(v_select(v_lt(a, v_set1(<real>0.25)), p, far)) | sign)
