# cython: cdivision=True
"""Dropout by hashing (seed, batch, head, i, j): the same for any tiling and thread count, and for the backward pass.

fmix is the finaliser of MurmurHash3 (Appleby, public domain) on 32-bit words; a double's lanes are 64 bits wide, so every product is cut to 32.
"""
from .vector cimport real, vreal, vuint, urint, VLEN, v_load, v_store, v_loadu, v_set1, v_set1u, v_select, v_ltu


cdef inline unsigned int fmix(unsigned int x) noexcept nogil:
    x ^= x >> 16
    x *= <unsigned int>0x85EBCA6B
    x ^= x >> 13
    x *= <unsigned int>0xC2B2AE35
    x ^= x >> 16
    return x


cdef inline vuint fmix_v(vuint x) noexcept nogil:
    cdef vuint low = v_set1u(0xFFFFFFFFu)
    x = x & low
    x = x ^ (x >> 16)
    x = (x * v_set1u(0x85EBCA6B)) & low
    x = x ^ (x >> 13)
    x = (x * v_set1u(0xC2B2AE35)) & low
    return x ^ (x >> 16)


cdef inline unsigned int head_key(unsigned long long seed, Py_ssize_t b, Py_ssize_t h) noexcept nogil:
    cdef unsigned int key = fmix(<unsigned int>(seed & 0xFFFFFFFFu) + <unsigned int>0x9E3779B9)
    key = fmix(fmix(key ^ <unsigned int>(seed >> 32)) + <unsigned int>b * <unsigned int>0x9E3779B1)
    return fmix(key + <unsigned int>h * <unsigned int>0x85EBCA77)


cdef inline unsigned int row_key(unsigned int key, Py_ssize_t i) noexcept nogil:
    return fmix(key + <unsigned int>i * <unsigned int>0x9E3779B1)


cdef inline bint dropped(unsigned int key, Py_ssize_t j, unsigned int below) noexcept nogil:
    """Whether the row of this key drops its weight of column j; `drop` asks the same of many."""
    return fmix(key + <unsigned int>j * <unsigned int>0xC2B2AE3D) < below


cdef inline void drop(real *s, Py_ssize_t first, Py_ssize_t n, const urint *keys, unsigned int below, real keep_scale) noexcept nogil:
    """Weights of the tile rows of keys [first, first + n): 0 where the hash is below, else times keep_scale."""
    cdef vuint k0 = v_loadu(keys), k1 = v_loadu(keys + VLEN), limit = v_set1u(below), column
    cdef vreal zero = v_set1(0), factor = v_set1(keep_scale)
    cdef Py_ssize_t j
    for j in range(first, first + n):
        column = v_set1u(<urint>(<unsigned int>j * <unsigned int>0xC2B2AE3D))
        v_store(s, v_select(v_ltu(fmix_v(k0 + column), limit), zero, v_load(s) * factor))
        v_store(s + VLEN, v_select(v_ltu(fmix_v(k1 + column), limit), zero, v_load(s + VLEN) * factor))
        s += 2 * VLEN
