# cython: cdivision=True
"""One row in wide arithmetic: for finite input whose float dots or sums overflow. Slow, and rare.

Dots and sums run in a type with a wider exponent (double for float, long double for double), so that nothing finite overflows before the
softmax sees it. A row that sees a NaN or an infinity keeps what the fast path made of it.
"""
from libc.math cimport INFINITY
from .dropout cimport dropped, head_key, row_key
from .problem cimport Problem, row_high, row_low
from .vector cimport real

cdef enum:
    WIDE_COLUMNS = 64

cdef extern from *:
    """
    #if REAL_IS_DOUBLE
    typedef long double wide;
    #define wide_exp expl
    #define wide_log logl
    #define wide_tanh tanhl
    #else
    typedef double wide;
    #define wide_exp exp
    #define wide_log log
    #define wide_tanh tanh
    #endif
    #include <math.h>
    """
    ctypedef double wide
    wide wide_exp(wide x) noexcept nogil
    wide wide_log(wide x) noexcept nogil
    wide wide_tanh(wide x) noexcept nogil


cdef inline bint row_sees(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """Mask, pattern and bias of one pair; its interval is the caller's."""
    cdef Py_ssize_t entry, seg, bit
    cdef bint found
    if p.mask != NULL and p.mask[p.mask_at[b] + h * p.mask_head + i * p.mask_row + j * p.mask_key] == 0:
        return False
    if p.bias != NULL and p.bias[p.bias_at[b] + h * p.bias_head + i * p.bias_row + j * p.bias_key] == <real>-INFINITY:
        return False
    if p.plan_ptr != NULL:
        entry = b * p.plan_batch + h * p.plan_head + (i - p.first) // p.plan_rows
        found = False
        for seg in range(p.plan_ptr[entry], p.plan_ptr[entry + 1]):
            if p.plan_start[seg] <= j < p.plan_stop[seg]:
                found = True
                if p.plan_bit[seg] >= 0:
                    bit = p.plan_bit[seg] + j - p.plan_start[seg]
                    found = (p.plan_words[p.plan_words_at[entry] + ((i - p.first) % p.plan_rows) * p.plan_row_words[entry] + (bit >> 5)]
                             >> (bit & 31)) & 1
                break
        return found
    return True


cdef inline wide wide_logit(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    cdef const real *q = p.q + p.q_at[b] + h * p.q_head + i * p.q_row
    cdef const real *k = p.k + p.k_at[b] + (h // p.group) * p.k_head + j * p.k_row
    cdef wide s = 0
    cdef Py_ssize_t c
    for c in range(p.d):
        s += <wide>q[c] * <wide>k[c]
    s *= <wide>p.scale[h]
    if p.softcap != 0:
        s = <wide>p.softcap * wide_tanh(s / <wide>p.softcap)
    if p.bias != NULL:
        s += <wide>p.bias[p.bias_at[b] + h * p.bias_head + i * p.bias_row + j * p.bias_key]
    return s


cdef inline bint all_finite(const real *x, Py_ssize_t n) noexcept nogil:
    cdef real check = 0
    cdef Py_ssize_t c
    for c in range(n):
        check += x[c] * 0
    return check == 0


cdef inline real narrow(wide x, real largest) noexcept nogil:
    """To the narrow type, an overflow to its largest number: a finite row stays finite."""
    if x > <wide>largest:
        return largest
    if x < -<wide>largest:
        return -largest
    return <real>x


cdef inline void wide_row(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, real largest) noexcept nogil:
    """Row i of head h of batch entry b, written to out and lse."""
    cdef Py_ssize_t low = row_low(p, b, i), high = row_high(p, b, i), j, c
    cdef const real *k = p.k + p.k_at[b] + (h // p.group) * p.k_head
    cdef const real *v = p.v + p.v_at[b] + (h // p.group) * p.v_head
    cdef real *out = p.out + p.out_at[b] + h * p.out_head + i * p.out_row
    cdef wide top = 0, total = 0, s, weight
    cdef wide sums[WIDE_COLUMNS]
    cdef Py_ssize_t t, count
    cdef unsigned int key = 0
    cdef bint seen = False
    if not all_finite(p.q + p.q_at[b] + h * p.q_head + i * p.q_row, p.d):
        return
    for j in range(low, high):
        if row_sees(p, b, h, i, j):
            if not (all_finite(k + j * p.k_row, p.d) and all_finite(v + j * p.v_row, p.dv)):
                return
            s = wide_logit(p, b, h, i, j)
            if s != s or s - s != 0:
                return
            top = s if not seen or s > top else top
            seen = True
    if not seen:
        return
    if p.sinks != NULL and <wide>p.sinks[h] > top:
        top = <wide>p.sinks[h]
    for j in range(low, high):
        if row_sees(p, b, h, i, j):
            total += wide_exp(wide_logit(p, b, h, i, j) - top)
    if p.sinks != NULL:
        total += wide_exp(<wide>p.sinks[h] - top)
    p.lse[(b * p.heads + h) * p.lq + i] = narrow(top + wide_log(total), largest)
    if p.dropout:
        key = row_key(head_key(p.seed, b, h), i)
    # columns by 64, a logit once for each 64
    c = 0
    while c < p.dv:
        count = p.dv - c if p.dv - c < WIDE_COLUMNS else WIDE_COLUMNS
        for t in range(count):
            sums[t] = 0
        for j in range(low, high):
            if not row_sees(p, b, h, i, j):
                continue
            weight = wide_exp(wide_logit(p, b, h, i, j) - top) / total
            if p.dropout:
                if dropped(key, j, p.drop_below):
                    continue
                weight = weight * <wide>p.keep_scale
            for t in range(count):
                sums[t] += weight * <wide>v[j * p.v_row + c + t]
        for t in range(count):
            out[c + t] = narrow(sums[t], largest)
        c += WIDE_COLUMNS
