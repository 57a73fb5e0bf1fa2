# cython: cdivision=True
"""From rows to lanes and back: packing a panel of queries, and writing a panel of outputs."""
from .vector cimport real, vreal, VLEN, v_load, v_store, v_set1, v_transpose


cdef inline void pack_panel(const real *x, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t d, real scale, real *panel) noexcept nogil:
    """panel[c, i] = x[i, c] · scale for i < rows; the other lanes are 0."""
    cdef Py_ssize_t i0, i, c, nr = 2 * VLEN
    cdef vreal block[16]
    cdef vreal factor = v_set1(scale)
    for i0 in range(2):
        c = 0
        if (i0 + 1) * VLEN <= rows:
            while c + VLEN <= d:
                for i in range(VLEN):
                    block[i] = v_load(x + (i0 * VLEN + i) * step + c) * factor
                v_transpose(block)
                for i in range(VLEN):
                    v_store(panel + (c + i) * nr + i0 * VLEN, block[i])
                c += VLEN
        while c < d:
            for i in range(i0 * VLEN, (i0 + 1) * VLEN):
                panel[c * nr + i] = x[i * step + c] * scale if i < rows else 0
            c += 1


cdef inline void unpack_panel(const real *panel, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t d, const real *factor, real *x, Py_ssize_t step,
                              real *finite) noexcept nogil:
    """x[i, c] = panel[c, i] · factor[i] for i < rows; finite[i] is 0 where all of row i is finite, else NaN."""
    cdef Py_ssize_t i0, i, c, lane
    cdef vreal block[16]
    cdef vreal f, check
    for i0 in range(2):
        lane = i0 * VLEN
        f = v_load(factor + lane)
        check = v_set1(0)
        c = 0
        if lane + VLEN <= rows:
            while c + VLEN <= d:
                for i in range(VLEN):
                    block[i] = v_load(panel + (c + i) * ld + lane) * f
                    check = check + block[i] * v_set1(0)
                v_transpose(block)
                for i in range(VLEN):
                    v_store(x + (lane + i) * step + c, block[i])
                c += VLEN
        v_store(finite + lane, check)
        while c < d:
            for i in range(lane, lane + VLEN):
                if i < rows:
                    x[i * step + c] = panel[c * ld + i] * factor[i]
                    finite[i] = finite[i] + x[i * step + c] * 0
            c += 1
