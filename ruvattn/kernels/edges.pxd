# cython: cdivision=True
"""One row of edges, or a piece of one: a tile of 1 × n, folded into the row's running softmax.

    gather_dots | compiled score | given logits → softcap, bias → row_softmax → drop → gather_values      attend_row
    settle → where it isn't finite, once more: without what is masked → in wide arithmetic                 conclude_row
"""
from libc.math cimport INFINITY, exp, isnan
from libc.string cimport memset

from .dropout cimport dropped, head_key, row_key
from .edge_problem cimport EDGE_COLUMNS, EDGE_PADDING, EDGE_TILE, EdgeScratch, Edges, RowState, key_width, value_width
from .edge_wide cimport called_off, value_of, wide_row_of_edges
from .gather cimport gather_dots, gather_values
from .softmax cimport exp_four, settle
from .vector cimport REAL_MAX, VLEN, real, tanh_v, v_eq, v_load, v_max, v_select, v_set1, v_store, v_sum, v_top, vreal
from .wide cimport all_finite, narrow, wide, wide_exp

# --- logits ---------------------------------------------------------------------------------------------------------------------

cdef inline void plane_of_dots(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e, Py_ssize_t n, Py_ssize_t start, Py_ssize_t stop,
                               bint fetch, const int *places, const real *q, real *s) noexcept nogil:
    """s[j] = Σ q[c] · key[c] over columns [start, stop) of the keys, attributes included, of edges [e, e + n)."""
    cdef const real *k = p.k + p.k_at[b] + (h // p.group) * p.k_head
    cdef const real *v = p.v + p.v_at[b] + (h // p.group) * p.v_head if fetch and not p.values_by_edge else NULL
    cdef Py_ssize_t end = stop if stop < p.d else p.d, first = start if start > p.d else p.d
    if start < p.d:
        gather_dots(q + start, k + start, p.k_row, p.indices + e, n, p.edges - e, end - start, v, p.v_row, p.dv, False, s)
    if first < stop:
        gather_dots(q + first, p.attr + e * p.attr_row + first - p.d, p.attr_row, places, n, n, stop - first, NULL, 0, 0, start < p.d, s)


cdef inline void copy_row(const real *x, Py_ssize_t width, real *target) noexcept nogil:
    """A few numbers, for which calling memcpy takes longer than copying them."""
    cdef Py_ssize_t c = 0
    while c + VLEN <= width:
        v_store(target + c, v_load(x + c))
        c += VLEN
    while c < width:
        target[c] = x[c]
        c += 1


cdef inline void score_tile(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e, Py_ssize_t n, EdgeScratch *w) noexcept nogil:
    """Logits of edges [e, e + n) by a compiled score, which takes them for a tile of one query."""
    cdef Py_ssize_t ld = (n + VLEN - 1) // VLEN * VLEN, width = key_width(p), r, j
    cdef const int *keys = p.indices + e
    cdef const real *source
    for r in range(p.planes):
        # a plane runs over its end by up to three numbers, which the next one then writes
        plane_of_dots(p, b, h, e, n, p.plane_start[r], p.plane_start[r + 1], p.far and r == 0, w.places, w.q, w.s + r * ld)
    for r in range(p.planes if p.planes > 0 else 1):
        for j in range(n if p.planes > 0 else 0, ld):
            w.s[r * ld + j] = 0
    for r in range(p.n_rows):
        w.rows[r] = p.rows[r][(b * p.heads + h) * p.lq + i]
    for r in range(p.n_cols):
        source = p.cols[r] + b * p.cols_batch[r] + (h * p.cols_heads[r] // p.heads) * p.cols_head[r]
        if p.cols_by_edge[r]:
            for j in range(n):
                w.cols[r * ld + j] = source[(e + j) * p.cols_step[r]]
        else:
            for j in range(n):
                w.cols[r * ld + j] = source[keys[j] * p.cols_step[r]]
        for j in range(n, ld):
            w.cols[r * ld + j] = 0
    if p.vectors:
        copy_row(p.q + p.q_at[b] + h * p.q_head + i * p.q_row, width, w.qv)
        source = p.k + p.k_at[b] + (h // p.group) * p.k_head
        for j in range(n):
            copy_row(source + keys[j] * p.k_row, p.d, w.kv + j * width)
            if p.key_attr > 0:
                copy_row(p.attr + (e + j) * p.attr_row, p.key_attr, w.kv + j * width + p.d)
    p.forward(w.s, 1, n, ld, w.rows, w.cols, <real *>p.params + h * p.n_params, w.qv if p.vectors else NULL, w.kv if p.vectors else NULL, width,
              p.forward_data)


cdef inline void row_logits(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e, Py_ssize_t n, EdgeScratch *w) noexcept nogil:
    """w.s[j] = the logit of edge e + j, softcap and bias included; −inf where masked."""
    cdef Py_ssize_t j
    cdef const real *source
    cdef real y
    cdef vreal x
    cdef bint dots = p.logits == NULL and p.forward == NULL
    if p.logits != NULL:
        source = p.logits + p.logits_at[b] + h * p.logits_head + e * p.logits_edge
        for j in range(n):
            w.s[j] = source[j * p.logits_edge]
    elif p.forward != NULL:
        score_tile(p, b, h, i, e, n, w)
    else:
        plane_of_dots(p, b, h, e, n, 0, key_width(p), p.far, w.places, w.q, w.s)
    if p.softcap != 0:
        j = 0
        while j < n:
            # an infinite dot is an overflow, which the cap would hide: NaN has the row repaired
            x = v_load(w.s + j)
            v_store(w.s + j, v_set1(p.softcap) * tanh_v(x * v_set1(1 / p.softcap)) + (x * v_set1(0) if dots else v_set1(0)))
            j += VLEN
    if p.bias != NULL:
        source = p.bias + p.bias_at[b] + h * p.bias_head + e * p.bias_edge
        for j in range(n):
            y = source[j * p.bias_edge]
            w.s[j] = <real>-INFINITY if y == <real>-INFINITY else w.s[j] + y


# --- softmax --------------------------------------------------------------------------------------------------------------------

cdef inline void row_softmax(real *s, Py_ssize_t n, RowState *state, real *alpha) noexcept nogil:
    """Logits to weights in place; the state moves on; alpha is what earlier sums must be multiplied by."""
    cdef Py_ssize_t j, padded = (n + 4 * VLEN - 1) // (4 * VLEN) * (4 * VLEN)
    cdef real ref, shift
    cdef vreal top, total, r
    cdef vreal x[4]
    for j in range(n, padded):
        s[j] = -INFINITY
    top = v_set1(<real>-INFINITY)
    j = 0
    while j < padded:
        top = v_max(v_load(s + j), top)
        j += VLEN
    ref = v_top(top)
    ref = state.ref if state.ref > ref else ref
    # nothing seen yet: −inf − −inf would be NaN, and any finite reference gives 0
    shift = 0 if ref == <real>-INFINITY else ref
    if state.ref == ref:
        alpha[0] = 1
    elif state.ref == <real>-INFINITY:
        alpha[0] = 0
    else:
        alpha[0] = <real>exp(<double>state.ref - <double>ref)
    state.ref = ref
    r = v_set1(shift)
    total = v_set1(0)
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
    state.total = state.total * alpha[0] + v_sum(total)


cdef inline void drop_edges(real *s, const int *keys, Py_ssize_t n, unsigned int key, unsigned int below, real keep_scale) noexcept nogil:
    """Weights of one row: 0 where the hash is below, else times keep_scale; as ``drop`` in dropout.pxd."""
    cdef Py_ssize_t j
    for j in range(n):
        s[j] = 0 if dropped(key, keys[j], below) else s[j] * keep_scale


cdef inline void finish_weights(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, real ref,
                                real factor) noexcept nogil:
    """The logits that attend_row has left among the weights become weights; exactly 0 where masked, even beside NaN."""
    cdef real *target = p.weights + p.weights_at[b] + h * p.weights_head
    cdef unsigned int key = row_key(head_key(p.seed, b, h), i)
    cdef real s[EDGE_PADDING]
    cdef vreal x[4]
    cdef vreal y, shift = v_set1(0 if ref == <real>-INFINITY else ref), least = v_set1(<real>-INFINITY)
    cdef Py_ssize_t e = e0, n, j, t
    while e < e1:
        n = e1 - e if e1 - e < 4 * VLEN else 4 * VLEN
        for j in range(n):
            s[j] = target[(e + j) * p.weights_edge]
        for j in range(n, 4 * VLEN):
            s[j] = -INFINITY
        for t in range(4):
            x[t] = v_load(s + t * VLEN) - shift
        exp_four(x)
        for t in range(4):
            y = x[t] * v_set1(factor)
            v_store(s + t * VLEN, v_select(v_eq(v_load(s + t * VLEN), least), v_set1(0), y))
        if p.dropout:
            drop_edges(s, p.indices + e, n, key, p.drop_below, p.keep_scale)
        for j in range(n):
            target[(e + j) * p.weights_edge] = s[j]
        e += n


# --- a row ----------------------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t thin_out(real *s, const int *keys, Py_ssize_t n, EdgeScratch *w) noexcept nogil:
    """Take what is masked out of a tile: its values may be NaN, which a weight of 0 doesn't stop. Leaves keys and places of the rest."""
    cdef Py_ssize_t j, kept = 0
    for j in range(n):
        if s[j] == <real>-INFINITY:
            continue
        s[kept] = s[j]
        w.keys[kept] = keys[j]
        w.places[kept] = <int>j
        kept += 1
    return kept


cdef inline const real *next_values(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e, Py_ssize_t n, Py_ssize_t e1, Py_ssize_t *skip,
                                    Py_ssize_t *known) noexcept nogil:
    """Where the values lie that come after the edges [e, e + n) of head h, or NULL where dots, or the cache, see to them. They are those of edges
    ``skip`` further on, of which ``known`` follow: of the same row, or the same edges for the next head, or the next row."""
    cdef Py_ssize_t first = h // p.span * p.span
    if not p.far or p.forward == NULL or p.planes > 0:
        return NULL
    skip[0] = 0
    known[0] = n
    if e + n < e1 or h + 1 == first + p.span:
        skip[0] = n
        known[0] = p.edges - (e + n)
        h = h if e + n < e1 else first
    else:
        h += 1
    return p.v + p.v_at[b] + (h // p.group) * p.v_head


cdef inline void attend_row(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, bint careful, RowState *state,
                            real *o, EdgeScratch *w) noexcept nogil:
    """The unnormalised state of row i over edges [e0, e1); ``careful``: what is masked is left out of every sum."""
    cdef Py_ssize_t e = e0, n, kept, c, j, skip = 0, known = 0
    cdef const real *q = p.q + p.q_at[b] + h * p.q_head + i * p.q_row
    cdef const real *next
    cdef const real *v = p.v + p.v_at[b] + (h // p.group) * p.v_head
    cdef const int *keys
    cdef real *target
    cdef real scale = p.scale[h], alpha
    cdef unsigned int key = 0
    state.ref = -INFINITY
    state.total = 0
    memset(o, 0, value_width(p) * sizeof(real))
    if e0 == e1:
        return
    for c in range(key_width(p)):
        w.q[c] = q[c] * scale
    if p.dropout:
        key = row_key(head_key(p.seed, b, h), i)
    while e < e1:
        n = e1 - e if e1 - e < EDGE_TILE else EDGE_TILE
        row_logits(p, b, h, i, e, n, w)
        if p.weights != NULL:
            target = p.weights + p.weights_at[b] + h * p.weights_head + e * p.weights_edge
            for j in range(n):
                target[j * p.weights_edge] = w.s[j]
        keys = p.indices + e
        kept = n
        if careful:
            kept = thin_out(w.s, keys, n, w)
            keys = w.keys
        row_softmax(w.s, kept, state, &alpha)
        if p.dropout:
            drop_edges(w.s, keys, kept, key, p.drop_below, p.keep_scale)
        if p.out != NULL:
            if p.values_by_edge:
                gather_values(w.s, v + e * p.v_row, p.v_row, w.places, kept, p.dv, alpha, NULL, 0, 0, o)
            else:
                next = next_values(p, b, h, e, n, e1, &skip, &known) if keys != w.keys else NULL
                gather_values(w.s, v, p.v_row, keys, kept, p.dv, alpha, next, skip, known, o)
            if p.value_attr > 0:
                gather_values(w.s, p.attr + e * p.attr_row, p.attr_row, w.places, kept, p.value_attr, alpha, NULL, 0, 0, o + p.dv)
        if careful:
            for j in range(EDGE_TILE):
                w.places[j] = <int>j
        e += n


cdef enum Verdict:
    FINE, NOT_FINITE, WITHOUT_WEIGHT


cdef inline Verdict finish_row(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, const RowState *state,
                               const real *o) noexcept nogil:
    """Normalise and write, and say what is not to be trusted about it."""
    cdef real factor, rest = 0, lse = settle(state.ref, state.total, p.sinks + h if p.sinks != NULL else NULL, &factor)
    cdef real *out
    cdef Py_ssize_t c = 0, width = value_width(p)
    cdef vreal check = v_set1(0), y
    p.lse[(b * p.heads + h) * p.lq + i] = lse
    if p.out != NULL:
        out = p.out + p.out_at[b] + h * p.out_head + i * p.out_row
        while c + VLEN <= width:
            y = v_load(o + c) * v_set1(factor)
            check = check + y * v_set1(0)
            v_store(out + c, y)
            c += VLEN
        while c < width:
            out[c] = o[c] * factor
            rest = rest + out[c] * 0
            c += 1
    if p.weights != NULL:
        finish_weights(p, b, h, i, e0, e1, state.ref, factor)
    if v_sum(check) + rest != 0 or isnan(lse) or lse == INFINITY:
        return NOT_FINITE
    return WITHOUT_WEIGHT if state.total == 0 and e0 < e1 else FINE


cdef inline void wide_values(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1,
                             EdgeScratch *w) noexcept nogil:
    """A row of a compiled score whose values overflow though its logits are numbers: values in wide arithmetic, by 64 columns. attend_row came
    before."""
    cdef Py_ssize_t e, n, j, t, c = 0, count, width = value_width(p)
    cdef wide lse = <wide>p.lse[(b * p.heads + h) * p.lq + i], weight
    cdef wide sums[EDGE_COLUMNS]
    cdef const real *v
    cdef real *out = p.out + p.out_at[b] + h * p.out_head + i * p.out_row
    cdef unsigned int key = row_key(head_key(p.seed, b, h), i)
    cdef double since = 0
    if lse - lse != 0:
        return
    while c < width:
        count = width - c if width - c < EDGE_COLUMNS else EDGE_COLUMNS
        for t in range(count):
            sums[t] = 0
        e = e0
        while e < e1:
            n = e1 - e if e1 - e < EDGE_TILE else EDGE_TILE
            if called_off(p, &since, n * (key_width(p) + count)):
                return
            row_logits(p, b, h, i, e, n, w)
            for j in range(n):
                if w.s[j] == <real>-INFINITY:
                    continue
                v = value_of(p, b, h, e + j)
                if not all_finite(v, p.dv) or (p.value_attr > 0 and not all_finite(p.attr + (e + j) * p.attr_row, p.value_attr)):
                    return
                weight = wide_exp(<wide>w.s[j] - lse)
                if p.dropout:
                    weight = weight * <wide>p.keep_scale
                    if dropped(key, p.indices[e + j], p.drop_below):
                        weight = 0
                for t in range(count):
                    sums[t] += weight * <wide>(v[c + t] if c + t < p.dv else p.attr[(e + j) * p.attr_row + c + t - p.dv])
            e += n
        for t in range(count):
            out[c + t] = narrow(sums[t], REAL_MAX)
        c += EDGE_COLUMNS


cdef inline void conclude_row(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, RowState *state, real *o,
                              EdgeScratch *w) noexcept nogil:
    """Write the whole row [e0, e1) from its state. NaN or infinity may have come in through a masked edge: once more, without those. What is
    still not finite may be an overflow of finite input: in wide arithmetic."""
    cdef Verdict verdict = finish_row(p, b, h, i, e0, e1, state, o)
    if verdict == FINE:
        return
    if verdict == NOT_FINITE:
        attend_row(p, b, h, i, e0, e1, True, state, o, w)
        if finish_row(p, b, h, i, e0, e1, state, o) == FINE:
            return
    if p.forward == NULL:
        wide_row_of_edges(p, b, h, i, e0, e1)
    elif p.out != NULL:
        wide_values(p, b, h, i, e0, e1, w)
