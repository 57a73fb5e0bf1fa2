# cython: cdivision=True
"""Backwards through the keys: each gathers, along the transpose, what the rows that see it have left in the store.

    differentiate_key ─► load_slots ─► Σ weight · dout, Σ (what a dot gets) · query, Σ (what a term gets); or the score's vjp once more

No two keys write to one place, so that nothing has to be locked and the order of each sum is that of the transpose.
"""
from libc.string cimport memset

from .edge_backward_problem cimport DOT_PRODUCTS, GradientScratch, Gradients, LEAKY_HIDDEN, stored
from .edge_backward_rows cimport dot, hidden_vjp
from .edge_problem cimport EDGE_PADDING, EDGE_TILE, Edges, key_width
from .edges cimport copy_row
from .few cimport prefetch
from .gather cimport gather_heads, gather_values, prefetch_row
from .vector cimport VLEN, real

cdef enum:
    STORE_AHEAD = 16       # lines of the store are fetched so many edges before they are needed
    TILE = EDGE_TILE + EDGE_PADDING


# A key's sums: dk of each head of its item, then dv, then the column terms of each query head, then 0 or NaN.

cdef inline Py_ssize_t key_heads(const Gradients *p) noexcept nogil:
    """Heads of keys of an item of keys."""
    return p.span if p.forward.group == 1 else 1


cdef inline Py_ssize_t query_heads(const Gradients *p) noexcept nogil:
    """Query heads of an item of keys."""
    return p.span if p.forward.group == 1 else p.forward.group


cdef inline Py_ssize_t key_numbers(const Gradients *p) noexcept nogil:
    return key_heads(p) * (p.key_columns + p.value_columns) + query_heads(p) * p.stored_columns + 1


cdef inline void load_slots(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t t, Py_ssize_t n, real *slots) noexcept nogil:
    """slots[s · TILE + j] = slot s of the j-th edge from t on."""
    cdef Py_ssize_t step = p.slots * p.span, j, s, known = p.forward.edges - t
    cdef const int *order = p.turned_order + t
    cdef const real *source = stored(p, b, h)
    cdef const real *q = p.forward.q + p.forward.q_at[b] + h * p.forward.q_head
    cdef const real *x
    cdef bint queries = p.forward.far and p.key_columns > 0
    for j in range(n):
        if j + STORE_AHEAD < known:
            prefetch(source + order[j + STORE_AHEAD] * step)
        if queries:
            prefetch_row(q + p.turned_rows[t + j] * p.forward.q_row, p.forward.d)
        x = source + order[j] * step
        for s in range(p.slots):
            slots[s * TILE + j] = x[s * p.span]


cdef inline Py_ssize_t without_zeros(const Gradients *p, const int *rows, const int *order, Py_ssize_t n, GradientScratch *w) noexcept nogil:
    """Leave out edges whose slots are all 0: their rows may hold what isn't finite."""
    cdef Py_ssize_t j, s, kept = 0
    cdef bint any
    for j in range(n):
        any = False
        for s in range(p.slots):
            any = any or w.slots[s * TILE + j] != 0
        if not any:
            continue
        for s in range(p.slots):
            w.slots[s * TILE + kept] = w.slots[s * TILE + j]
        w.keys[kept] = rows[j]
        w.kept[kept] = order[j]
        kept += 1
    return kept


cdef inline void vectors_of_key(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t j, const int *rows, const int *order, Py_ssize_t m,
                                real *dk, real *dcols, GradientScratch *w) noexcept nogil:
    """The key's part of the vjp of a score with vectors: of a tile of m queries and this key; of one query where edges bring something themselves."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t width = key_width(f), at = 0, count, i, r, c
    cdef bint alone = f.key_attr > 0
    cdef const real *q = f.q + f.q_at[b] + h * f.q_head
    cdef const real *source
    for r in range(f.n_cols):
        alone = alone or f.cols_by_edge[r]
    copy_row(f.k + f.k_at[b] + (h // f.group) * f.k_head + j * f.k_row, f.d, w.kv)
    memset(w.dkv, 0, width * sizeof(real))
    while at < m:
        count = 1 if alone else m
        if f.key_attr > 0:
            copy_row(f.attr + order[at] * f.attr_row, f.key_attr, w.kv + f.d)
        for i in range(count):
            copy_row(q + rows[at + i] * f.q_row, width, w.qv + i * width)
        for r in range(f.planes):
            c = f.plane_start[r]
            for i in range(count):
                w.dots[r * count + i] = dot(w.qv + i * width + c, w.kv + c, f.plane_start[r + 1] - c)
        for r in range(f.n_rows):
            source = f.rows[r] + (b * f.heads + h) * f.lq
            for i in range(count):
                w.rows[r * count + i] = source[rows[at + i]]
        for r in range(f.n_cols):
            source = f.cols[r] + b * f.cols_batch[r] + (h * f.cols_heads[r] // f.heads) * f.cols_head[r]
            w.cols[r] = source[(<Py_ssize_t>order[at] if f.cols_by_edge[r] else j) * f.cols_step[r]]
        # of no use here: what rows and parameters get, which the rows have seen to
        memset(w.drows, 0, f.n_rows * count * sizeof(real))
        memset(w.dcols, 0, f.n_cols * sizeof(real))
        memset(w.dqv, 0, count * width * sizeof(real))
        memset(w.params, 0, f.n_params * sizeof(real))
        p.vjp(w.dots, w.slots + TILE + at, count, 1, 1, w.rows, w.cols, <real *>f.params + h * f.n_params, w.qv, w.kv, width, w.drows, w.dcols,
              w.params, w.dqv, w.dkv, p.vjp_data)
        for r in range(f.planes):
            for i in range(count):
                for c in range(f.plane_start[r], f.plane_start[r + 1] if f.plane_start[r + 1] < f.d else f.d):
                    dk[c] += w.dots[r * count + i] * w.qv[i * width + c]
        for r in range(p.stored_columns):
            dcols[r] += w.dcols[p.column_of[r]]
        at += count
    for c in range(f.d):
        dk[c] += w.dkv[c]


cdef inline void differentiate_key(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t j, Py_ssize_t t0, Py_ssize_t t1, real *sums,
                                   GradientScratch *w) noexcept nogil:
    """Add edges [t0, t1) of the transpose, of key j, to the key's sums, for all heads of an item; h is its first query head."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t t = t0, n, m, g, c, s, r, start, stop, heads = key_heads(p), at, step = p.slots * p.span
    cdef const int *rows
    cdef const int *order
    cdef const real *q
    cdef const real *dout
    cdef const real *source
    cdef real *dk = sums
    cdef real *dv = sums + heads * p.key_columns
    cdef real *dcols = dv + heads * p.value_columns
    cdef real total
    # one row of memory holds what all heads need: dout, and queries of dot products
    cdef bint together = p.span > 1 and not w.careful
    cdef bint values = together and p.value_columns > 0 and p.dout_head == p.value_columns and p.value_columns % VLEN == 0
    cdef bint keys = (together and p.key_columns > 0 and p.kind == DOT_PRODUCTS and f.q_head == f.d and f.d % VLEN == 0)
    while t < t1:
        n = t1 - t if t1 - t < EDGE_TILE else EDGE_TILE
        if values or keys:
            source = stored(p, b, h)
            for c in range(n):
                if t + c + STORE_AHEAD < f.edges:
                    prefetch(source + p.turned_order[t + c + STORE_AHEAD] * step)
                copy_row(source + p.turned_order[t + c] * step, step, w.all + c * step)
        if values:
            gather_heads(w.all, 1, step, heads, p.value_columns, p.dout + p.dout_at[b] + h * p.dout_head, p.dout_row, p.turned_rows + t, n,
                         p.dout + p.dout_at[b] + h * p.dout_head if f.far else NULL, n, f.edges - t - n, w.o)
            for c in range(heads * p.value_columns):
                dv[c] += w.o[c]
        if keys:
            gather_heads(w.all + p.span, 1, step, heads, f.d, f.q + f.q_at[b] + h * f.q_head, f.q_row, p.turned_rows + t, n,
                         f.q + f.q_at[b] + h * f.q_head if f.far else NULL, n, f.edges - t - n, w.o)
            for c in range(heads * f.d):
                dk[c] += w.o[c]
        if values and p.key_columns == 0:
            for c in range(n):
                for r in range(p.stored_columns):
                    for g in range(heads):
                        dcols[g * p.stored_columns + r] += w.all[c * step + (1 + p.stored_planes + r) * heads + g]
        for g in range(0 if values and (keys or p.key_columns == 0) else query_heads(p)):
            at = g if heads > 1 else 0
            rows, order = p.turned_rows + t, p.turned_order + t
            q = f.q + f.q_at[b] + (h + g) * f.q_head
            m = n
            load_slots(p, b, h + g, t, n, w.slots)
            if w.careful:
                m = without_zeros(p, rows, order, n, w)
                rows, order = w.keys, w.kept
            if p.value_columns > 0 and not values:
                dout = p.dout + p.dout_at[b] + (h + g) * p.dout_head
                gather_values(w.slots, dout, p.dout_row, rows, m, p.value_columns, 1, NULL, 0, 0, dv + at * p.value_columns)
            if p.key_columns > 0 and not keys:
                if p.by_vjp:
                    vectors_of_key(p, b, h + g, j, rows, order, m, dk + at * f.d, dcols + g * p.stored_columns, w)
                elif p.kind == LEAKY_HIDDEN:
                    hidden_vjp(f.k + f.k_at[b] + ((h + g) // f.group) * f.k_head + j * f.k_row, q, f.q_row, rows, w.slots + TILE, m, f.d,
                               f.params + (h + g) * f.n_params + 1, f.slope, False, dk + at * f.d, NULL, NULL)
                else:
                    for r in range(p.stored_planes):
                        start, stop = f.plane_start[r], f.plane_start[r + 1]
                        stop = stop if stop < f.d else f.d
                        if start < stop:
                            gather_values(w.slots + (1 + r) * TILE, q + start, f.q_row, rows, m, stop - start, 1, NULL, 0, 0,
                                          dk + at * f.d + start)
            for r in range(0 if p.by_vjp else p.stored_columns):
                total = 0
                for s in range(m):
                    total += w.slots[(1 + p.stored_planes + r) * TILE + s]
                dcols[g * p.stored_columns + r] += total
        t += n
