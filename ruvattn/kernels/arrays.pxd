# cython: cdivision=True
"""From NumPy arrays to pointers, strides and offsets, and scratch cut from one piece of memory: what every engine does before it runs."""
cimport numpy as cnp
from .vector cimport real

cdef struct Arena:
    char *base
    size_t used


cdef inline void *take(Arena *arena, size_t count, size_t size) noexcept nogil:
    """A piece of the arena on a cache line of its own; with no base, only count."""
    cdef void *piece = arena.base + arena.used
    arena.used += (count * size + 63) // 64 * 64
    return piece


cdef inline Py_ssize_t leading(cnp.ndarray x, int trailing) noexcept:
    """How many entries the leading axes have."""
    cdef Py_ssize_t n = 1
    cdef int axis
    for axis in range(x.ndim - trailing):
        n *= x.shape[axis]
    return n


cdef inline void offsets(cnp.ndarray x, int trailing, Py_ssize_t item, Py_ssize_t *at) noexcept:
    """Where each entry of the leading axes begins, in units of ``item`` bytes, in C order."""
    cdef Py_ssize_t n = 1, axis, i, j, size
    at[0] = 0
    for axis in range(x.ndim - trailing):
        size = x.shape[axis]
        # entry (i, j) of the axes so far stands at i·size + j: from the back, so that nothing is overwritten before it is read
        for i in range(n - 1, -1, -1):
            for j in range(size - 1, -1, -1):
                at[i * size + j] = at[i] + j * (x.strides[axis] // item)
        n *= size


cdef inline Py_ssize_t step(cnp.ndarray x, int axis) noexcept:
    """A stride in elements."""
    return x.strides[axis] // <Py_ssize_t>sizeof(real)


cdef inline real *reals(cnp.ndarray x) noexcept:
    return <real *>cnp.PyArray_DATA(x) if x is not None else NULL
