# cython: cdivision=True
"""One tile: its dots, its score in whatever form, masks, softmax, and the product with the values, folded into the state of its panel.

    tile_dots → compiled_score | python_score → softcap, bias, masks → tile_softmax → drop → values_tile
                                                                           └─► logits, or select_tile, where no output is wanted
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from .dropout cimport drop
from .masks cimport add_bias, blend_bits, blend_interval
from .microkernel cimport dots_tile, values_tile, values_tile_marked
from .panel cimport unpack_panel
from .problem cimport Part, Problem, Scratch
from .select cimport select_tile
from .softmax cimport tile_softmax, tile_top
from .vector cimport VLEN, real, tanh_v, urint, v_eq, v_load, v_select, v_set1, v_store, v_transpose, vreal


cdef inline void to_rows(const real *s, Py_ssize_t n, Py_ssize_t m, real *t, Py_ssize_t ld) noexcept nogil:
    """The tile as the contract of a compiled score has it: t[i·ld + j] = s[j, i]."""
    cdef Py_ssize_t i, j, lane, nr = 2 * VLEN
    cdef vreal block[16]
    for lane in range(2):
        if lane * VLEN >= m:
            return
        j = 0
        while j < n:
            for i in range(VLEN):
                block[i] = v_load(s + (j + i) * nr + lane * VLEN)
            v_transpose(block)
            for i in range(VLEN):
                v_store(t + (lane * VLEN + i) * ld + j, block[i])
            j += VLEN


cdef inline void from_rows(const real *t, Py_ssize_t ld, Py_ssize_t n, Py_ssize_t m, real *s) noexcept nogil:
    cdef Py_ssize_t i, j, lane, nr = 2 * VLEN
    cdef vreal block[16]
    for lane in range(2):
        if lane * VLEN >= m:
            return
        j = 0
        while j < n:
            for i in range(VLEN):
                block[i] = v_load(t + (lane * VLEN + i) * ld + j)
            v_transpose(block)
            for i in range(VLEN):
                v_store(s + (j + i) * nr + lane * VLEN, block[i])
            j += VLEN


cdef inline int call_python(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *parts, int n_parts,
                            Py_ssize_t n) noexcept with gil:
    """Call the Python side, which owns the tile's memory as an array; −1 when it raised (it keeps the exception)."""
    cdef object call = <object>p.python
    cdef list spans = []
    cdef int part
    try:
        for part in range(n_parts):
            spans.append((parts[part].start, parts[part].n))
        call.tile(b, h, i0, m, spans, n)
        return 0
    except BaseException as error:
        call.error = error
        return -1


cdef inline void gather_keys(const Problem *p, const real *k, const Part *parts, int n_parts, Scratch *w) noexcept nogil:
    """The raw keys of a tile side by side, unless they are there from the panel before."""
    cdef const real *first = k + parts[0].start * p.k_row if n_parts == 1 else NULL
    cdef Py_ssize_t j, at = 0
    cdef int part
    if first != NULL and w.kv_of == first and w.kv_n == parts[0].n:
        return
    w.kv_of = first
    w.kv_n = parts[0].n
    for part in range(n_parts):
        for j in range(parts[part].n):
            memcpy(w.kv + at * p.d, k + (parts[part].start + j) * p.k_row, p.d * sizeof(real))
            at += 1


cdef inline void gather_terms(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, Py_ssize_t row_step, const Part *parts,
                              int n_parts, Py_ssize_t n, Py_ssize_t col_step, Scratch *w) noexcept nogil:
    """What a compiled score knows of m queries and n keys: terms, each ``row_step`` or ``col_step`` from the one before, and the points themselves.
    What is left of the steps is zeros."""
    cdef Py_ssize_t r, i, at
    cdef const real *source
    cdef int part
    for r in range(p.n_rows):
        memcpy(w.rows + r * row_step, p.rows[r] + (b * p.heads + h) * p.lq + i0, m * sizeof(real))
        for i in range(m, row_step):
            w.rows[r * row_step + i] = 0
    for r in range(p.n_cols):
        source = p.cols[r] + (b * p.cols_heads[r] + h * p.cols_heads[r] // p.heads) * p.lk
        at = 0
        for part in range(n_parts):
            memcpy(w.cols + r * col_step + at, source + parts[part].start, parts[part].n * sizeof(real))
            at += parts[part].n
        for i in range(n, col_step):
            w.cols[r * col_step + i] = 0
    if p.vectors:
        source = p.q + p.q_at[b] + h * p.q_head + i0 * p.q_row
        for i in range(m):
            memcpy(w.qv + i * p.d, source + i * p.q_row, p.d * sizeof(real))
        memset(w.qv + m * p.d, 0, (row_step - m) * p.d * sizeof(real))
        gather_keys(p, p.k + p.k_at[b] + (h // p.group) * p.k_head, parts, n_parts, w)


cdef inline void symmetric_score(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *parts, int n_parts,
                                 Py_ssize_t n, Scratch *w) noexcept nogil:
    """The logits of a tile in the place of its dots, which has keys as rows: as it is, where the score doesn't mind which is which."""
    cdef Py_ssize_t nr = 2 * VLEN
    gather_terms(p, b, h, i0, m, nr, parts, n_parts, n, n, w)
    p.forward(w.s, n, nr, nr, w.cols, w.rows, <real *>p.params + h * p.n_params, w.kv if p.vectors else NULL, w.qv if p.vectors else NULL, p.d,
              p.forward_data)


cdef inline void compiled_score(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *parts, int n_parts,
                                Py_ssize_t n, Scratch *w) noexcept nogil:
    """The logits of a tile in the place of its dots, by way of a copy that has queries as rows."""
    cdef Py_ssize_t ld = (n + VLEN - 1) // VLEN * VLEN, plane_size = 2 * VLEN * p.block_keys, c
    for c in range(p.planes if p.planes > 0 else 1):
        to_rows(w.s + c * plane_size, n, m, w.t + c * m * ld, ld)
    gather_terms(p, b, h, i0, m, m, parts, n_parts, n, ld, w)
    p.forward(w.t, m, n, ld, w.rows, w.cols, <real *>p.params + h * p.n_params, w.qv if p.vectors else NULL, w.kv if p.vectors else NULL,
              p.d, p.forward_data)
    from_rows(w.t, ld, n, m, w.s)


cdef inline void tile_dots(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t panel, const Part *parts, int n_parts, real *s,
                           Py_ssize_t plane_size, Scratch *w) noexcept nogil:
    """The planes of dots of one panel, and the largest dot of each lane."""
    cdef Py_ssize_t nr = 2 * VLEN, c, j, at
    cdef real *q = w.q + panel * p.d * nr
    cdef real *top = w.state + panel * 4 * nr + 3 * nr
    cdef const real *k = p.k + p.k_at[b] + (h // p.group) * p.k_head
    cdef int part
    for j in range(nr):
        top[j] = -INFINITY
    for c in range(p.planes):
        at = 0
        for part in range(n_parts):
            dots_tile(k + parts[part].start * p.k_row + p.plane_start[c], p.k_row, parts[part].n, q + p.plane_start[c] * nr,
                      p.plane_start[c + 1] - p.plane_start[c], s + c * plane_size + at * nr, top)
            at += parts[part].n


cdef inline int python_score(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, Py_ssize_t panel, const Part *parts,
                             int n_parts, Py_ssize_t n, Scratch *w) noexcept nogil:
    """Logits of m rows, that is of one panel or more, by a score in Python: its calls are dear, so it gets all the rows there are at once."""
    cdef Py_ssize_t nr = 2 * VLEN, ld = (p.block_keys + VLEN - 1) // VLEN * VLEN, planes = p.planes if p.planes > 0 else 1, c, i, rows
    cdef Py_ssize_t height = (p.block_rows + nr - 1) // nr * nr
    i = 0
    while i < m:
        tile_dots(p, b, h, panel + i // nr, parts, n_parts, w.s + i * planes * p.block_keys, nr * p.block_keys, w)
        rows = m - i if m - i < nr else nr
        for c in range(p.planes):
            to_rows(w.s + (i * planes + c * nr) * p.block_keys, n, rows, w.wide + (c * height + i) * ld, ld)
        i += nr
    if call_python(p, b, h, i0, m, parts, n_parts, n) != 0:
        return -1
    i = 0
    while i < m:
        rows = m - i if m - i < nr else nr
        from_rows(w.wide + i * ld, ld, n, rows, w.s + i * planes * p.block_keys)
        i += nr
    return 0


cdef inline void tile(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, Py_ssize_t panel, const Part *parts, int n_parts,
                      Py_ssize_t n, real *s, bint marked, Scratch *w) noexcept nogil:
    """Fold one tile into the state of its panel. ``s`` is where it is made, or where a score in Python has left its logits."""
    cdef Py_ssize_t nr = 2 * VLEN, c, j, at, start, stop, low_last, high_first
    cdef real *state = w.state + panel * 4 * nr
    cdef real *o = w.o + panel * p.dv * nr
    cdef const real *v = p.v + p.v_at[b] + (h // p.group) * p.v_head
    cdef real *top = state + 3 * nr
    cdef real *alpha = state + 2 * nr
    cdef urint *low = w.interval + panel * 2 * nr
    cdef urint *high = low + nr
    cdef bint known = p.forward == NULL and p.python == NULL and p.softcap == 0 and p.bias == NULL  # whether top is the largest logit of each lane
    cdef vreal cap, uncap, x
    cdef int part
    if p.python == NULL:
        tile_dots(p, b, h, panel, parts, n_parts, s, nr * (n if p.symmetric else p.block_keys), w)
        if p.symmetric:
            symmetric_score(p, b, h, i0, m, parts, n_parts, n, w)
        elif p.forward != NULL:
            compiled_score(p, b, h, i0, m, parts, n_parts, n, w)
    # softcap, bias, masks
    if p.softcap != 0:
        cap = v_set1(p.softcap)
        uncap = v_set1(1 / p.softcap)
        for j in range(2 * n):
            x = v_load(s + j * VLEN)
            # an infinity is an overflow, which the cap would hide: NaN has the row repaired
            v_store(s + j * VLEN, cap * tanh_v(x * uncap) + x * v_set1(0))
    at = 0
    low_last = <Py_ssize_t>low[m - 1]
    high_first = <Py_ssize_t>high[0]
    for part in range(n_parts):
        start = parts[part].start
        stop = start + parts[part].n
        if p.bias != NULL:
            add_bias(s + at * nr, p.bias + p.bias_at[b] + h * p.bias_head + i0 * p.bias_row + start * p.bias_key, p.bias_row, p.bias_key,
                     m, parts[part].n)
        if start < low_last:
            blend_interval(s + at * nr, start, stop if stop < low_last else low_last, low, high)
            known = False
        if stop > high_first:
            c = start if start > high_first else high_first
            blend_interval(s + (at + c - start) * nr, c, stop, low, high)
            known = False
        if parts[part].bits != NULL:
            blend_bits(s + at * nr, parts[part].n, parts[part].bits, top)
            known = n_parts == 1
        at += parts[part].n
    if p.logits != NULL:
        at = 0
        for j in range(nr):
            alpha[j] = 1
        for part in range(n_parts):
            unpack_panel(s + at * nr, nr, m, parts[part].n, alpha, p.logits + ((b * p.heads + h) * p.lq + i0) * p.lk + parts[part].start, p.lk, top)
            at += parts[part].n
        return
    if p.top_k > 0:
        select_tile(p, panel, parts, n_parts, s, w)
        if p.lse == NULL:
            return
    # softmax, dropout
    if not known:
        tile_top(s, n, top)
    if marked:
        memcpy(w.t, s, n * nr * sizeof(real))
    tile_softmax(s, n, top, state, state + nr, alpha)
    if p.top_k > 0:
        return
    if p.dropout:
        at = 0
        for part in range(n_parts):
            drop(s + at * nr, parts[part].start, parts[part].n, w.drop + panel * nr, p.drop_below, p.keep_scale)
            at += parts[part].n
    if marked:
        for j in range(2 * n):
            v_store(s + j * VLEN, v_select(v_eq(v_load(w.t + j * VLEN), v_set1(<real>-INFINITY)), v_set1(<real>-0.0), v_load(s + j * VLEN)))
    # values
    at = 0
    for part in range(n_parts):
        if marked:
            values_tile_marked(v + parts[part].start * p.v_row, p.v_row, parts[part].n, s + at * nr, p.dv, alpha, o)
        else:
            values_tile(v + parts[part].start * p.v_row, p.v_row, parts[part].n, s + at * nr, p.dv, alpha, o)
        if part + 1 < n_parts and at == 0:
            for j in range(nr):
                alpha[j] = 1
        at += parts[part].n
