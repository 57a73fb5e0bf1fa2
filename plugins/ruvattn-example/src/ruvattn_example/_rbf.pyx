# cython: cdivision=True
"""The rbf score, compiled: logits and their derivatives for a tile of float32 or float64.

The engine hands over raw blocks: entry (i, j) of the dots is ``dots[i * ld + j]``, the norm of query i is ``rows[i]``
and that of key j is ``cols[j]``. The one parameter is sigma. With a = 1/(2σ²) and e = 2·dots − rows − cols = −‖q−k‖²:

    logit = a·e        ∂/∂dots = 2a        ∂/∂rows = ∂/∂cols = −a        ∂/∂σ = −2a·e/σ

(cdivision: divide as C does. Python's check for a zero divisor would have to take the GIL to raise.)
"""

ctypedef fused real:
    float
    double


cdef inline void forward(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld,
                         real *rows, real *cols, real sigma) noexcept nogil:
    """dots ← a·(2·dots − rows − cols)"""
    cdef Py_ssize_t i, j
    cdef real a = 1 / (2 * sigma * sigma)
    for i in range(m):
        for j in range(n):
            dots[i * ld + j] = a * (2 * dots[i * ld + j] - rows[i] - cols[j])


cdef inline void backward(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld,
                          real *rows, real *cols, real sigma,
                          real *drows, real *dcols, real *dsigma) noexcept nogil:
    """dots ← 2a·g;  drows, dcols −= a·g, summed over the other axis;  dsigma −= 2a/σ Σ g·e  (g = dlogits)"""
    cdef Py_ssize_t i, j
    cdef real a = 1 / (2 * sigma * sigma)
    cdef real ag
    cdef double row, row_sigma, total = 0  # a tile may have thousands of entries: sum them wider than float32, and row by row
    for i in range(m):
        row = row_sigma = 0
        for j in range(n):
            ag = a * dlogits[i * ld + j]
            row_sigma += ag * (2 * dots[i * ld + j] - rows[i] - cols[j])
            row += ag
            dcols[j] -= ag
            dots[i * ld + j] = 2 * ag
        total += row_sigma
        drows[i] -= <real>row
    dsigma[0] -= <real>(2 * total / sigma)


# The engine's two signatures, for each dtype. This score has one plane of dots, one row term, one column term and one
# parameter; it does not ask for the vectors, so q, k, dq and dk are NULL.

cdef api void rbf_float32(float *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, float *rows, float *cols,
                          float *params, float *q, float *k, Py_ssize_t d, void *user_data) noexcept nogil:
    forward(dots, m, n, ld, rows, cols, params[0])


cdef api void rbf_float64(double *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, double *rows, double *cols,
                          double *params, double *q, double *k, Py_ssize_t d, void *user_data) noexcept nogil:
    forward(dots, m, n, ld, rows, cols, params[0])


cdef api void rbf_vjp_float32(float *dots, float *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld,
                              float *rows, float *cols, float *params, float *q, float *k, Py_ssize_t d,
                              float *drows, float *dcols, float *dparams, float *dq, float *dk,
                              void *user_data) noexcept nogil:
    backward(dots, dlogits, m, n, ld, rows, cols, params[0], drows, dcols, dparams)


cdef api void rbf_vjp_float64(double *dots, double *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld,
                              double *rows, double *cols, double *params, double *q, double *k, Py_ssize_t d,
                              double *drows, double *dcols, double *dparams, double *dq, double *dk,
                              void *user_data) noexcept nogil:
    backward(dots, dlogits, m, n, ld, rows, cols, params[0], drows, dcols, dparams)
