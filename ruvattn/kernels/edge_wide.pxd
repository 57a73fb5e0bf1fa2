# cython: cdivision=True
"""A row of edges in wide arithmetic: where finite numbers overflow on the fast way. Long rows look for Ctrl-C on the way."""
from libc.math cimport INFINITY

from .dropout cimport dropped, head_key, row_key
from .edge_problem cimport EDGE_COLUMNS, EDGE_PATIENCE, Edges, key_width, value_width
from .openmp cimport omp_get_thread_num
from .team cimport interrupted
from .vector cimport REAL_MAX, real
from .wide cimport all_finite, narrow, wide, wide_exp, wide_log, wide_tanh


cdef inline bint called_off(const Edges *p, double *since, double work) noexcept nogil:
    """Whether to stop, asked after so much work: thread 0 is the caller's, the only one that can be the main one, and looks for signals."""
    since[0] += work
    if since[0] > EDGE_PATIENCE and omp_get_thread_num() == 0:
        since[0] = 0
        if interrupted(p.raised):
            p.stop[0] = 1
    return p.stop[0] != 0


cdef inline bint wide_logit(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e, wide *found) noexcept nogil:
    """The logit of edge e, or False where it is masked."""
    cdef const real *q = p.q + p.q_at[b] + h * p.q_head + i * p.q_row
    cdef const real *k
    cdef const real *attr
    cdef wide s = 0
    cdef real y = 0
    cdef Py_ssize_t c
    if p.bias != NULL:
        y = p.bias[p.bias_at[b] + h * p.bias_head + e * p.bias_edge]
        if y == <real>-INFINITY:
            return False
    if p.logits != NULL:
        s = <wide>p.logits[p.logits_at[b] + h * p.logits_head + e * p.logits_edge]
    else:
        k = p.k + p.k_at[b] + (h // p.group) * p.k_head + p.indices[e] * p.k_row
        for c in range(p.d):
            s += <wide>q[c] * <wide>k[c]
        if p.key_attr > 0:
            attr = p.attr + e * p.attr_row
            for c in range(p.key_attr):
                s += <wide>q[p.d + c] * <wide>attr[c]
        s *= <wide>p.scale[h]
    if p.softcap != 0:
        s = <wide>p.softcap * wide_tanh(s / <wide>p.softcap)
    found[0] = s + <wide>y
    # a score in Python may mask by −inf
    return p.logits == NULL or s != <wide>-INFINITY


cdef inline const real *value_of(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e) noexcept nogil:
    return p.v + p.v_at[b] + (h // p.group) * p.v_head + (e if p.values_by_edge else <Py_ssize_t>p.indices[e]) * p.v_row


cdef inline void wide_row_of_edges(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1) noexcept nogil:
    """The row [e0, e1) in the arithmetic of wide.pxd; one that sees nothing, NaN or an infinity is left as it is."""
    cdef Py_ssize_t e, c, t, count, width = value_width(p) if p.out != NULL else 0
    cdef wide top = 0, total = 0, s = 0, weight
    cdef wide sums[EDGE_COLUMNS]
    cdef const real *v
    cdef real *out
    cdef unsigned int key = row_key(head_key(p.seed, b, h), i)
    cdef double since = 0
    cdef bint seen = False
    if p.logits == NULL and not all_finite(p.q + p.q_at[b] + h * p.q_head + i * p.q_row, key_width(p)):
        return
    for e in range(e0, e1):
        if called_off(p, &since, key_width(p) + width):
            return
        if not wide_logit(p, b, h, i, e, &s):
            continue
        if s != s or s - s != 0 or (p.out != NULL and not all_finite(value_of(p, b, h, e), p.dv)):
            return
        if p.value_attr > 0 and not all_finite(p.attr + e * p.attr_row, p.value_attr):
            return
        top = s if not seen or s > top else top
        seen = True
    if not seen:
        return
    if p.sinks != NULL and <wide>p.sinks[h] > top:
        top = <wide>p.sinks[h]
    for e in range(e0, e1):
        if called_off(p, &since, key_width(p)):
            return
        if wide_logit(p, b, h, i, e, &s):
            total += wide_exp(s - top)
    if p.sinks != NULL:
        total += wide_exp(<wide>p.sinks[h] - top)
    p.lse[(b * p.heads + h) * p.lq + i] = narrow(top + wide_log(total), REAL_MAX)
    # columns by 64, a logit once for each 64; where only weights are wanted once all the same
    c = 0
    while True:
        count = width - c if width - c < EDGE_COLUMNS else EDGE_COLUMNS
        for t in range(count):
            sums[t] = 0
        for e in range(e0, e1):
            if called_off(p, &since, key_width(p) + count):
                return
            weight = 0
            if wide_logit(p, b, h, i, e, &s):
                weight = wide_exp(s - top) / total
                if p.dropout:
                    weight = weight * <wide>p.keep_scale
                    if dropped(key, p.indices[e], p.drop_below):
                        weight = 0
            if c == 0 and p.weights != NULL:
                p.weights[p.weights_at[b] + h * p.weights_head + e * p.weights_edge] = narrow(weight, REAL_MAX)
            if weight == 0:
                continue
            v = value_of(p, b, h, e)
            for t in range(count):
                if c + t < p.dv:
                    sums[t] += weight * <wide>v[c + t]
                else:
                    sums[t] += weight * <wide>p.attr[e * p.attr_row + c + t - p.dv]
        if width > 0:
            out = p.out + p.out_at[b] + h * p.out_head + i * p.out_row
            for t in range(count):
                out[c + t] = narrow(sums[t], REAL_MAX)
        c += EDGE_COLUMNS
        if c >= width:
            return
