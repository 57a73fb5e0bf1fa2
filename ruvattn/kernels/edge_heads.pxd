# cython: cdivision=True
"""One row of edges for all heads of an item, whose values lie beside each other: weights first, then each row of values from end to end.

    attend_heads    logits and softmax head by head, as in edges.pxd
    attend_leaky    additive scores, which the engine makes itself, heads in the lanes: sum_logits | hidden_logits → finish_logits → softmax_of_heads

Rows of more than one tile go head by head.
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy

from .dropout cimport dropped, head_key, row_key
from .edge_problem cimport EDGE_HEADS, EDGE_PADDING, EdgeScratch, Edges, RowState, key_width
from .edges cimport drop_edges, row_logits, row_softmax
from .gather cimport gather_heads, v_sum_four
from .softmax cimport exp_four
from .vector cimport REAL_MAX, VLEN, real, tanh_v, v_load, v_lt, v_max, v_select, v_set1, v_store, vreal


cdef inline void attend_heads(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, RowState *states,
                              EdgeScratch *w) noexcept nogil:
    """The unnormalised states of row i for all heads of an item, over edges [e0, e1) that are one tile: weights head by head, then all values."""
    cdef Py_ssize_t n = e1 - e0, g, c, j, lds = (n + VLEN - 1) // VLEN * VLEN, known = 0
    cdef const int *keys = p.indices + e0
    cdef const real *q
    cdef const real *v = p.v + p.v_at[b] + (h // p.group) * p.v_head
    cdef const real *next = NULL
    cdef real *target
    cdef real alpha, scale
    for g in range(p.span):
        states[g].ref = -INFINITY
        states[g].total = 0
        if p.forward == NULL or p.planes > 0:
            q = p.q + p.q_at[b] + (h + g) * p.q_head + i * p.q_row
            scale = p.scale[h + g]
            for c in range(key_width(p)):
                w.q[c] = q[c] * scale
        row_logits(p, b, h + g, i, e0, n, w)
        if p.weights != NULL:
            target = p.weights + p.weights_at[b] + (h + g) * p.weights_head + e0 * p.weights_edge
            for j in range(n):
                target[j * p.weights_edge] = w.s[j]
        row_softmax(w.s, n, states + g, &alpha)
        if p.dropout:
            drop_edges(w.s, keys, n, row_key(head_key(p.seed, b, h + g), i), p.drop_below, p.keep_scale)
        memcpy(w.all + g * lds, w.s, n * sizeof(real))
    if p.far and p.forward != NULL and p.planes == 0:  # dots fetch values on their way
        next = v
        known = p.edges - e1
    gather_heads(w.all, lds, 1, p.span, p.dv, v, p.v_row, keys, n, next, n, known, w.o)


cdef inline void spread_heads(const real *x, Py_ssize_t heads, real *lanes) noexcept nogil:
    """A number for each head as a vector of lanes: over and over."""
    cdef Py_ssize_t t
    for t in range(VLEN):
        lanes[t] = x[t % heads]


cdef inline void gather_terms_of(const int heads, const real *by_key, const int *keys, Py_ssize_t n, real *s) noexcept nogil:
    """s[j·heads + g] = the term of key j for head g; ``heads`` is a constant at every call."""
    cdef Py_ssize_t j
    cdef int g
    cdef const real *x
    for j in range(n):
        x = by_key + <Py_ssize_t>keys[j] * heads
        for g in range(heads):
            s[j * heads + g] = x[g]


cdef inline void sum_logits(const Edges *p, Py_ssize_t b, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t n, real *s) noexcept nogil:
    """s[j·heads + g] = the logit of edge e0 + j for head g: LeakyReLU of its terms."""
    cdef Py_ssize_t heads = p.span, size = n * heads, j, g
    cdef const int *keys = p.indices + e0
    cdef const real *by_key = p.by_key + b * p.lk * heads
    cdef const real *source
    cdef real terms[EDGE_HEADS]
    cdef real lanes[EDGE_PADDING]
    cdef int r
    cdef vreal x, row, least = v_set1(-REAL_MAX)
    if heads == 1:
        gather_terms_of(1, by_key, keys, n, s)
    elif heads == 2:
        gather_terms_of(2, by_key, keys, n, s)
    elif heads == 4:
        gather_terms_of(4, by_key, keys, n, s)
    else:
        gather_terms_of(8, by_key, keys, n, s)
    for r in range(1, p.n_cols):
        for g in range(heads):
            source = p.cols[r] + b * p.cols_batch[r] + (g * p.cols_heads[r] // heads) * p.cols_head[r] + e0 * p.cols_step[r]
            for j in range(n):
                s[j * heads + g] += source[j * p.cols_step[r]]
    for g in range(heads):
        terms[g] = p.rows[0][(b * heads + g) * p.lq + i]
    spread_heads(terms, heads, lanes)
    row = v_load(lanes)
    j = 0
    while j < size:
        # a sum that overflows counts as the largest number; NaN stays NaN, for v_max gives its second where there is one
        x = v_max(least, row + v_load(s + j))
        x = -v_max(least, -x)
        v_store(s + j, v_max(least, v_select(v_lt(v_set1(0), x), x, v_set1(p.slope) * x)))
        j += VLEN


cdef inline void hidden_logits(const Edges *p, Py_ssize_t b, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t n, real *s) noexcept nogil:
    """s[j·heads + g] = a · LeakyReLU(q + k) of head g and edge e0 + j, for slopes of at most 1: columns in the lanes, four edges at a time."""
    cdef Py_ssize_t heads = p.span, j = 0, g, c, t, last = n - 1
    cdef const int *keys = p.indices + e0
    cdef const real *k = p.k + p.k_at[b]
    cdef const real *q
    cdef const real *a
    cdef const real *k0
    cdef const real *k1
    cdef const real *k2
    cdef const real *k3
    cdef real sums[4]
    cdef vreal c0, c1, c2, c3, x, y, w, slope = v_set1(p.slope)
    while j < n:
        k0 = k + <Py_ssize_t>keys[j] * p.k_row
        k1 = k + <Py_ssize_t>keys[j + 1 if j + 1 < n else last] * p.k_row
        k2 = k + <Py_ssize_t>keys[j + 2 if j + 2 < n else last] * p.k_row
        k3 = k + <Py_ssize_t>keys[j + 3 if j + 3 < n else last] * p.k_row
        q = p.q + p.q_at[b] + i * p.q_row
        a = p.params + 1
        for g in range(heads):
            c0 = c1 = c2 = c3 = v_set1(0)
            c = 0
            while c < p.d:
                x = v_load(q + c)
                w = v_load(a + c)
                y = x + v_load(k0 + c)
                c0 = c0 + w * v_max(slope * y, y)
                y = x + v_load(k1 + c)
                c1 = c1 + w * v_max(slope * y, y)
                y = x + v_load(k2 + c)
                c2 = c2 + w * v_max(slope * y, y)
                y = x + v_load(k3 + c)
                c3 = c3 + w * v_max(slope * y, y)
                c += VLEN
            v_sum_four(c0, c1, c2, c3, sums)
            for t in range(4 if n - j > 4 else n - j):
                # −inf would say that the edge is masked; an overflow either way becomes NaN, which has the row computed by the score's own form
                s[(j + t) * heads + g] = sums[t] + sums[t] * 0
            q += p.q_head
            a += p.n_params
            k0 += p.k_head
            k1 += p.k_head
            k2 += p.k_head
            k3 += p.k_head
        j += 4


cdef inline void finish_logits(const Edges *p, Py_ssize_t b, Py_ssize_t e0, Py_ssize_t n, real *s) noexcept nogil:
    """Softcap and bias of all heads, edge by edge; −inf up to a whole number of vectors, four by four."""
    cdef Py_ssize_t heads = p.span, size = n * heads, padded = (size + 4 * VLEN - 1) // (4 * VLEN) * (4 * VLEN), j, g
    cdef const real *source
    cdef real y
    for j in range(size, padded):
        s[j] = -INFINITY
    if p.softcap != 0:
        j = 0
        while j < size:
            v_store(s + j, v_set1(p.softcap) * tanh_v(v_load(s + j) * v_set1(1 / p.softcap)))
            j += VLEN
        for j in range(size, padded):  # of which the cap has made numbers
            s[j] = -INFINITY
    if p.bias != NULL:
        for g in range(heads):
            source = p.bias + p.bias_at[b] + g * p.bias_head + e0 * p.bias_edge
            for j in range(n):
                y = source[j * p.bias_edge]
                s[j * heads + g] = <real>-INFINITY if y == <real>-INFINITY else s[j * heads + g] + y


cdef inline void softmax_of_heads(real *s, Py_ssize_t size, Py_ssize_t heads, RowState *states) noexcept nogil:
    """Logits to weights in place, and the states of the heads: each has every so-manieth lane."""
    cdef Py_ssize_t j = 0, t, padded = (size + 4 * VLEN - 1) // (4 * VLEN) * (4 * VLEN)
    cdef real lanes[EDGE_PADDING]
    cdef real refs[EDGE_HEADS]
    cdef vreal top = v_set1(<real>-INFINITY), total = v_set1(0), r
    cdef vreal x[4]
    while j < padded:
        top = v_max(v_load(s + j), top)
        j += VLEN
    v_store(lanes, top)
    for t in range(heads):
        states[t].ref = -INFINITY
        states[t].total = 0
    for t in range(VLEN):
        if lanes[t] > states[t % heads].ref:
            states[t % heads].ref = lanes[t]
    for t in range(heads):
        refs[t] = 0 if states[t].ref == <real>-INFINITY else states[t].ref
    spread_heads(refs, heads, lanes)
    r = v_load(lanes)
    j = 0
    while j < padded:
        x[0] = v_load(s + j) - r
        x[1] = v_load(s + j + VLEN) - r
        x[2] = v_load(s + j + 2 * VLEN) - r
        x[3] = v_load(s + j + 3 * VLEN) - r
        exp_four(x)
        total = total + ((x[0] + x[1]) + (x[2] + x[3]))
        v_store(s + j, x[0])
        v_store(s + j + VLEN, x[1])
        v_store(s + j + 2 * VLEN, x[2])
        v_store(s + j + 3 * VLEN, x[3])
        j += 4 * VLEN
    v_store(lanes, total)
    for t in range(VLEN):
        states[t % heads].total += lanes[t]


cdef inline void attend_leaky(const Edges *p, Py_ssize_t b, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, RowState *states,
                              EdgeScratch *w) noexcept nogil:
    """As attend_heads, for scores that the engine makes: no head is taken by itself before it is normalised."""
    cdef Py_ssize_t n = e1 - e0, heads = p.span, g, j
    cdef const int *keys = p.indices + e0
    cdef const real *v = p.v + p.v_at[b]
    cdef real *target
    cdef unsigned int key
    if p.hidden:
        hidden_logits(p, b, i, e0, n, w.all)
    else:
        sum_logits(p, b, i, e0, n, w.all)
    finish_logits(p, b, e0, n, w.all)
    if p.weights != NULL:
        for g in range(heads):
            target = p.weights + p.weights_at[b] + g * p.weights_head + e0 * p.weights_edge
            for j in range(n):
                target[j * p.weights_edge] = w.all[j * heads + g]
    softmax_of_heads(w.all, n * heads, heads, states)
    if p.dropout:
        for g in range(heads):
            key = row_key(head_key(p.seed, b, g), i)
            for j in range(n):
                if dropped(key, keys[j], p.drop_below):
                    w.all[j * heads + g] = 0
                else:
                    w.all[j * heads + g] *= p.keep_scale
    gather_heads(w.all, 1, heads, heads, p.dv, v, p.v_row, keys, n, v if p.far else NULL, n, p.edges - e1, w.o)
