# cython: cdivision=True
"""Pairs from the points themselves, in double: what dots and norms leave no digits of."""
from libc.math cimport sqrt

from ruvattn.kernels.vector cimport real


cdef inline double chord(const real *x, const real *y, Py_ssize_t d, double sign) noexcept nogil:
    """‖x + sign·y‖²"""
    cdef double total = 0, one
    cdef Py_ssize_t i
    for i in range(d):
        one = x[i] + sign * y[i]
        total += one * one
    return total


cdef inline double inner(const real *x, const real *y, Py_ssize_t d) noexcept nogil:
    """x·y"""
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(d):
        total += <double>x[i] * y[i]
    return total


cdef inline double by_directions(const real *x, const real *y, Py_ssize_t d, double sign) noexcept nogil:
    """¼ ‖x/‖x‖ + sign·y/‖y‖‖²"""
    cdef double first = 1 / sqrt(inner(x, x, d)), other = sign / sqrt(inner(y, y, d)), total = 0, one
    cdef Py_ssize_t i
    for i in range(d):
        one = first * x[i] + other * y[i]
        total += one * one
    return total / 4


cdef inline double hyperboloid(const real *x, const real *y, Py_ssize_t d, double c) noexcept nogil:
    """q of space parts by their coordinates in the ball: ‖x/up − y/down‖² up·down/4, where up = 1 + √(1 + c‖x‖²) and down alike."""
    cdef double up = 1 + sqrt(1 + c * inner(x, x, d)), down = 1 + sqrt(1 + c * inner(y, y, d)), total = 0, one
    cdef Py_ssize_t i
    for i in range(d):
        one = x[i] / up - y[i] / down
        total += one * one
    return total * up * down / 4


cdef inline double antipodal(const real *x, const real *y, Py_ssize_t d, double kappa) noexcept nogil:
    """1 + 2κ x·y + κ²‖x‖²‖y‖² by the distance of y from the antipode of x: κ²‖x‖² ‖y + x/κ‖x‖²‖²"""
    cdef double norm = inner(x, x, d), total = 0, one
    cdef Py_ssize_t i
    for i in range(d):
        one = y[i] + x[i] / (kappa * norm)
        total += one * one
    return kappa * kappa * norm * total
