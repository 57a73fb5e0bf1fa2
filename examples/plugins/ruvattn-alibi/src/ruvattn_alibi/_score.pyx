# cython: cdivision=True
"""The tiles of ALiBi, compiled, for float32 and float64.

The engine hands over raw blocks: entry (i, j) of the dots is ``dots[i * ld + j]``. The row terms of score.py follow one another, m numbers each:
position, slope of |d|, slope of d, scale. The column term is the position of the key, and d that of the query less it. With g = dlogits:

    logit = scale·dot − even·|d| − odd·d
    ∂/∂dot = scale·g      ∂/∂scale = g·dot      ∂/∂even = −g·|d|      ∂/∂odd = −g·d      ∂/∂position = −g·(even·sign d + odd)

Each function runs in many threads at once, without Python: hence ``noexcept nogil``.
"""

ctypedef fused real:
    float
    double


cdef inline real absolute(real x) noexcept nogil:
    return x if x > 0 else -x


cdef inline real sign(real x) noexcept nogil:
    return <real>((x > 0) - (x < 0))


cdef inline void forward(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols) noexcept nogil:
    """dots ← logits"""
    cdef Py_ssize_t i, j
    cdef real position, even, odd, scale, difference
    for i in range(m):
        position, even, odd, scale = rows[i], rows[m + i], rows[2 * m + i], rows[3 * m + i]
        for j in range(n):
            difference = position - cols[j]
            dots[i * ld + j] = scale * dots[i * ld + j] - even * absolute(difference) - odd * difference


cdef inline void backward(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols,
                          real *drows, real *dcols) noexcept nogil:
    """dots ← scale·g;  to drows and dcols is added what the tile gives."""
    cdef Py_ssize_t i, j
    cdef real position, even, odd, scale, g, difference, step
    cdef double dposition, deven, dodd, dscale  # a tile may have thousands of entries: sums wider than float32
    for i in range(m):
        position, even, odd, scale = rows[i], rows[m + i], rows[2 * m + i], rows[3 * m + i]
        dposition = deven = dodd = dscale = 0
        for j in range(n):
            g = dlogits[i * ld + j]
            difference = position - cols[j]
            step = g * (even * sign(difference) + odd)
            dposition -= step
            dcols[j] += step
            deven -= g * absolute(difference)
            dodd -= g * difference
            dscale += g * dots[i * ld + j]
            dots[i * ld + j] = scale * g
        drows[i] += <real>dposition
        drows[m + i] += <real>deven
        drows[2 * m + i] += <real>dodd
        drows[3 * m + i] += <real>dscale


# The two signatures that the engine calls, for each dtype. The score does not ask for the vectors, so q, k, dq and dk are NULL, and no parameter
# is read here: params and dparams are left alone.

cdef api void logits_float32(float *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, float *rows, float *cols, float *params,
                             float *q, float *k, Py_ssize_t d, void *user_data) noexcept nogil:
    forward(dots, m, n, ld, rows, cols)


cdef api void logits_float64(double *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, double *rows, double *cols, double *params,
                             double *q, double *k, Py_ssize_t d, void *user_data) noexcept nogil:
    forward(dots, m, n, ld, rows, cols)


cdef api void logits_vjp_float32(float *dots, float *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, float *rows, float *cols,
                                 float *params, float *q, float *k, Py_ssize_t d, float *drows, float *dcols, float *dparams,
                                 float *dq, float *dk, void *user_data) noexcept nogil:
    backward(dots, dlogits, m, n, ld, rows, cols, drows, dcols)


cdef api void logits_vjp_float64(double *dots, double *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, double *rows, double *cols,
                                 double *params, double *q, double *k, Py_ssize_t d, double *drows, double *dcols, double *dparams,
                                 double *dq, double *dk, void *user_data) noexcept nogil:
    backward(dots, dlogits, m, n, ld, rows, cols, drows, dcols)
