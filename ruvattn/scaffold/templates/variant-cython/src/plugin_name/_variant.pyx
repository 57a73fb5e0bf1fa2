# cython: boundscheck=False, wraparound=False, cdivision=True
"""The map of the rows, and its derivative, compiled for float32 and float64. variant.py says what they are."""

from libc.math cimport sqrt

ctypedef fused real:
    float
    double


cdef inline double inverse_size(const real *x, Py_ssize_t d, double eps) noexcept nogil:
    """1/√(mean(x²) + eps), summed in double: the square of any number of float32 has room there."""
    cdef Py_ssize_t c
    cdef double total = 0
    for c in range(d):
        total += <double>x[c] * x[c]
    return 1 / sqrt(total / d + eps)


cdef inline void unit_row(const real *x, Py_ssize_t d, double eps, real *y) noexcept nogil:
    """y = x·r"""
    cdef Py_ssize_t c
    cdef double r = inverse_size(x, d, eps)
    for c in range(d):
        y[c] = <real>(x[c] * r)


cdef inline void unit_row_vjp(const real *x, const real *dy, Py_ssize_t d, double eps, real *dx) noexcept nogil:
    """dx = r·(dy − y·mean(y·dy))"""
    cdef Py_ssize_t c
    cdef double r = inverse_size(x, d, eps), mean = 0
    for c in range(d):
        mean += r * x[c] * dy[c]
    mean /= d
    for c in range(d):
        dx[c] = <real>(r * (dy[c] - r * x[c] * mean))


def unit(const real[:, ::1] x, double eps, real[:, ::1] y):
    """Write the rows of x, divided by their root mean square, to y."""
    cdef Py_ssize_t i, d = x.shape[1]
    with nogil:
        for i in range(x.shape[0]):
            unit_row(&x[i, 0], d, eps, &y[i, 0])


def unit_vjp(const real[:, ::1] x, const real[:, ::1] dy, double eps, real[:, ::1] dx):
    """Write the gradient of the rows x to dx, given that of what `unit` makes of them."""
    cdef Py_ssize_t i, d = x.shape[1]
    with nogil:
        for i in range(x.shape[0]):
            unit_row_vjp(&x[i, 0], &dy[i, 0], d, eps, &dx[i, 0])
