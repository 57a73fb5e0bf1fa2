# cython: cdivision=True
"""The score, compiled: logits and their derivatives for a tile of float32 or float64.

The engine hands over raw blocks: entry (i, j) of the dots is ``dots[i * ld + j]``; ``rows[i]`` and ``cols[j]`` are what
row_terms and col_terms of score.py returned, 1/‖q‖ and 1/‖k‖; ``params[0]`` is the gain of the head. With g = dlogits:

    logit = gain·dots·rows·cols
    ∂/∂dots = gain·rows·cols      ∂/∂rows = gain·dots·cols      ∂/∂cols = gain·dots·rows      ∂/∂gain = dots·rows·cols

Each function runs in many threads at once, without Python: hence ``noexcept nogil``.
"""

ctypedef fused real:
    float
    double


cdef inline void forward(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real gain) noexcept nogil:
    """dots ← gain·dots·rows·cols"""
    cdef Py_ssize_t i, j
    cdef real a
    for i in range(m):
        a = gain * rows[i]
        for j in range(n):
            dots[i * ld + j] = a * dots[i * ld + j] * cols[j]


cdef inline void backward(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real gain,
                          real *drows, real *dcols, real *dgain) noexcept nogil:
    """dots ← g·gain·rows·cols;  to drows, dcols and dgain is added what the whole tile gives."""
    cdef Py_ssize_t i, j
    cdef real a, gd
    cdef double row, total = 0  # a tile may have thousands of entries: sums wider than float32
    for i in range(m):
        a = gain * rows[i]
        row = 0
        for j in range(n):
            gd = dlogits[i * ld + j] * dots[i * ld + j]
            row += gd * cols[j]
            dcols[j] += a * gd
            dots[i * ld + j] = a * dlogits[i * ld + j] * cols[j]
        drows[i] += <real>(gain * row)
        total += row * rows[i]
    dgain[0] += <real>total


# The two signatures that the engine calls, for each dtype. The score does not ask for the vectors, so q, k, dq and dk are NULL.

cdef api void logits_float32(float *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, float *rows, float *cols, float *params,
                             float *q, float *k, Py_ssize_t d, void *user_data) noexcept nogil:
    forward(dots, m, n, ld, rows, cols, params[0])


cdef api void logits_float64(double *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, double *rows, double *cols, double *params,
                             double *q, double *k, Py_ssize_t d, void *user_data) noexcept nogil:
    forward(dots, m, n, ld, rows, cols, params[0])


cdef api void logits_vjp_float32(float *dots, float *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, float *rows, float *cols,
                                 float *params, float *q, float *k, Py_ssize_t d, float *drows, float *dcols, float *dparams,
                                 float *dq, float *dk, void *user_data) noexcept nogil:
    backward(dots, dlogits, m, n, ld, rows, cols, params[0], drows, dcols, dparams)


cdef api void logits_vjp_float64(double *dots, double *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, double *rows, double *cols,
                                 double *params, double *q, double *k, Py_ssize_t d, double *drows, double *dcols, double *dparams,
                                 double *dq, double *dk, void *user_data) noexcept nogil:
    backward(dots, dlogits, m, n, ld, rows, cols, params[0], drows, dcols, dparams)
