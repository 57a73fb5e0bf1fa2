# cython: cdivision=True
"""One row of edges, or a piece of one: a tile of 1 × n, folded into the row's running softmax.

    gather_dots | compiled score | given logits → softcap, bias → row_softmax → drop → gather_values      attend_row
    settle → where it isn't finite, once more: without what is masked → in wide arithmetic                 conclude_row
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, exp, isnan
from libc.string cimport memcpy, memset

from .dropout cimport fmix, head_key, row_key
from .gather cimport gather_dots, gather_heads, gather_values, v_sum_four
from .openmp cimport omp_get_thread_num
from .problem cimport MAX_PLANES, MAX_TERMS, score_forward
from .softmax cimport exp_four, settle
from .vector cimport REAL_MAX, VLEN, real, tanh_v, v_eq, v_load, v_lt, v_max, v_select, v_set1, v_store, v_sum, v_top, vreal
from .wide cimport all_finite, narrow, wide, wide_exp, wide_log, wide_tanh

cdef enum:
    EDGE_TILE = 256              # edges of a tile: K and V of it stay in the second-level cache
    EDGE_PADDING = 64            # of a tile's numbers: loops run in whole groups of vectors
    EDGE_COLUMNS = 64            # columns that are summed at once in wide arithmetic
    EDGE_HEADS = 64              # heads whose values are gathered together
    EDGE_PATIENCE = 50_000_000   # multiply-adds in wide arithmetic between looks for Ctrl-C: a tenth of a second, about


cdef struct Edges:
    Py_ssize_t batch, heads, group, lq, lk, d, dv      # as in problem.pxd; widths of the keys and values alone
    Py_ssize_t key_attr, value_attr                    # columns that the attributes of an edge append to its key and value: 0, or all there are
    Py_ssize_t edges                                   # indices in all
    # which keys: row r of set s attends to indices[indptr[s·(lq + 1) + r] : indptr[s·(lq + 1) + r + 1]]
    const Py_ssize_t *indptr
    const int *indices
    Py_ssize_t set_batch, set_head                     # the set of (b, h) is b·set_batch + h·set_head
    const real *q
    const real *k
    const real *v
    real *out                                          # NULL: weights and lse only
    real *lse                                          # (batch, heads, lq), contiguous
    Py_ssize_t q_head, q_row, k_head, k_row, v_head, v_row, out_head, out_row
    bint values_by_edge                                # row e of v is of edge e, not of a key
    const Py_ssize_t *q_at                             # element offsets of the batch entries
    const Py_ssize_t *k_at
    const Py_ssize_t *v_at
    const Py_ssize_t *out_at
    const real *attr                                   # (edges, key_attr or value_attr)
    Py_ssize_t attr_row
    const real *scale                                  # (heads,), folded into q
    # where logits come from, if they aren't dots: an array, or a compiled score
    const real *logits                                 # element e at logits_at[b] + h·logits_head + e·logits_edge
    Py_ssize_t logits_head, logits_edge
    const Py_ssize_t *logits_at
    score_forward forward
    void *forward_data
    Py_ssize_t planes
    Py_ssize_t plane_start[MAX_PLANES + 1]
    int n_rows, n_cols
    const real *rows[MAX_TERMS]                        # (batch, heads, lq)
    const real *cols[MAX_TERMS]                        # by key or by edge
    Py_ssize_t cols_batch[MAX_TERMS]
    Py_ssize_t cols_heads[MAX_TERMS]
    Py_ssize_t cols_head[MAX_TERMS]
    Py_ssize_t cols_step[MAX_TERMS]
    bint cols_by_edge[MAX_TERMS]
    const real *params
    Py_ssize_t n_params
    bint vectors
    # what happens to a logit
    real softcap                                       # 0: none
    const real *bias
    Py_ssize_t bias_head, bias_edge
    const Py_ssize_t *bias_at
    const real *sinks
    bint dropout
    unsigned int drop_below
    real keep_scale
    unsigned long long seed
    real *weights                                      # or NULL; addressed like the logits
    Py_ssize_t weights_head, weights_edge
    const Py_ssize_t *weights_at
    # how the work is cut: a function of the shape alone
    bint far                                           # K and V are larger than a second-level cache: fetch ahead
    Py_ssize_t span, items                             # heads of an item, and how many items there are
    # scores that the engine itself makes, of all heads of a row at once
    const real *by_key                                 # LeakyReLU(row term + column terms): those of the keys, (batch, lk, span); or NULL
    bint hidden                                        # a · LeakyReLU(q + k)
    real slope
    bint together                                      # the values of an item's heads lie beside each other, in whole vectors
    const Py_ssize_t *item_first                       # (items + 1,): the first task of each
    real *partial
    void *raised                                       # Ctrl-C inside of a long task, as in problem.pxd
    int *stop


cdef struct EdgeScratch:
    real *q            # the row's query, scaled
    real *o            # unnormalised output
    real *s            # logits, then weights of a tile; MAX_PLANES planes where a score wants them
    real *all          # weights of a tile of all heads of an item
    real *cols         # column terms of a tile
    real *rows
    real *qv           # raw query and keys of a score with vectors
    real *kv
    int *keys          # of a tile that has been thinned out
    int *places        # 0, 1, …: rows of the attributes, counted from the tile's first


cdef struct RowState:
    real ref
    real total


cdef inline Py_ssize_t key_width(const Edges *p) noexcept nogil:
    return p.d + p.key_attr


cdef inline Py_ssize_t value_width(const Edges *p) noexcept nogil:
    return p.dv + p.value_attr


cdef inline const Py_ssize_t *rows_of_head(const Edges *p, Py_ssize_t b, Py_ssize_t h) noexcept nogil:
    return p.indptr + (b * p.set_batch + h * p.set_head) * (p.lq + 1)


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
        s[j] = 0 if fmix(key + <unsigned int>keys[j] * <unsigned int>0xC2B2AE3D) < below else s[j] * keep_scale


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
                # −inf would say that the edge is masked; an overflow upwards, and NaN, have the row computed by the score's own form
                s[(j + t) * heads + g] = -REAL_MAX if sums[t] < -REAL_MAX else sums[t]
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


cdef inline void attend_leaky(const Edges *p, Py_ssize_t b, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, RowState *states, EdgeScratch *w) noexcept nogil:
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
                if fmix(key + <unsigned int>keys[j] * <unsigned int>0xC2B2AE3D) < p.drop_below:
                    w.all[j * heads + g] = 0
                else:
                    w.all[j * heads + g] *= p.keep_scale
    gather_heads(w.all, 1, heads, heads, p.dv, v, p.v_row, keys, n, v if p.far else NULL, n, p.edges - e1, w.o)


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


# --- wide arithmetic ------------------------------------------------------------------------------------------------------------

cdef inline bint interrupted(const Edges *p) noexcept with gil:
    """Answer signals, in the middle of a task; whether a handler raised, which ends the call."""
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<list>p.raised).append(error)
        return True
    return False


cdef inline bint called_off(const Edges *p, double *since, double work) noexcept nogil:
    """Whether to stop, asked after so much work: thread 0 is the caller's, the only one that can be the main one, and looks for signals."""
    since[0] += work
    if since[0] > EDGE_PATIENCE and omp_get_thread_num() == 0:
        since[0] = 0
        if interrupted(p):
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
                    if fmix(key + <unsigned int>p.indices[e] * <unsigned int>0xC2B2AE3D) < p.drop_below:
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
