# cython: cdivision=True
"""Backwards through the rows of edges: weights once more from logits and lse, then what each logit gets.

    differentiate_row ─► head_tile ─► logits (list_dots | leaky | hidden | compiled) ─► tile_softmax_vjp ─► score ─► sums of the row, the store

Of a row: Σ of the gradients of dots times keys, and of its terms. What is masked is left out of every list before anything is computed of it.
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from .dropout cimport dropped, head_key, row_key
from .edge_backward_problem cimport COMPILED_SCORE, DOT_PRODUCTS, FURTHEST, GIVEN_LOGITS, GradientScratch, Gradients, LEAKY_HIDDEN, LEAKY_SUM, stored
from .edge_problem cimport EDGE_PADDING, EDGE_TILE, Edges, key_width, value_width
from .edges cimport copy_row
from .gather cimport AHEAD, gather_dots, gather_heads, gather_values, prefetch_row, v_sum_four
from .softmax cimport exp_four
from .vector cimport REAL_MAX, VLEN, real, tanh_v, v_load, v_lt, v_max, v_select, v_set1, v_store, v_sum, v_top, vreal


cdef inline real dot(const real *a, const real *b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t c = 0
    cdef vreal total = v_set1(0)
    cdef real rest = 0
    while c + VLEN <= n:
        total = total + v_load(a + c) * v_load(b + c)
        c += VLEN
    while c < n:
        rest += a[c] * b[c]
        c += 1
    return v_sum(total) + rest


# --- logits of a list of edges ----------------------------------------------------------------------------------------------------

cdef inline void list_dots(const Edges *f, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e, const int *keys, const int *places, Py_ssize_t n,
                           Py_ssize_t start, Py_ssize_t stop, const real *q, real *s) noexcept nogil:
    """s[j] = Σ q[c] · key[c] over columns [start, stop) of the keys of edges e + places[j], attributes included; values and further keys are
    fetched on the way."""
    cdef bint fetch = f.far and start == 0 and keys == f.indices + e and f.v != NULL and not f.values_by_edge
    cdef const real *v = f.v + f.v_at[b] + (h // f.group) * f.v_head if fetch else NULL
    cdef const real *k = f.k + f.k_at[b] + (h // f.group) * f.k_head
    cdef Py_ssize_t end = stop if stop < f.d else f.d, first = start if start > f.d else f.d
    if start < f.d:
        gather_dots(q + start, k + start, f.k_row, keys, n, f.edges - e if fetch else n, end - start, v, f.v_row, f.dv, False, s)
    if first < stop:
        gather_dots(q + first, f.attr + e * f.attr_row + first - f.d, f.attr_row, places, n, n, stop - first, NULL, 0, 0, start < f.d, s)


cdef inline void leaky_sums(const Edges *f, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e, const int *keys, const int *places,
                            Py_ssize_t n, real *x, real *s) noexcept nogil:
    """x[j] = the sum of the terms of edge e + places[j], s[j] its LeakyReLU; a sum that overflows counts as the largest number."""
    cdef Py_ssize_t j, r
    cdef const real *source = f.cols[0] + b * f.cols_batch[0] + (h * f.cols_heads[0] // f.heads) * f.cols_head[0]
    cdef vreal least = v_set1(-REAL_MAX), y, row = v_set1(f.rows[0][(b * f.heads + h) * f.lq + i]), slope = v_set1(f.slope)
    for j in range(n):
        x[j] = source[keys[j] * f.cols_step[0]]
    for r in range(1, f.n_cols):
        source = f.cols[r] + b * f.cols_batch[r] + (h * f.cols_heads[r] // f.heads) * f.cols_head[r] + e * f.cols_step[r]
        for j in range(n):
            x[j] += source[places[j] * f.cols_step[r]]
    j = 0
    while j < n:
        y = v_max(least, row + v_load(x + j))
        y = -v_max(least, -y)
        v_store(x + j, y)
        v_store(s + j, v_max(least, v_select(v_lt(v_set1(0), y), y, slope * y)))
        j += VLEN


cdef inline void hidden_sums(const real *q, const real *k, Py_ssize_t ldk, const int *keys, Py_ssize_t n, Py_ssize_t known, Py_ssize_t d,
                             const real *a, real slope, real *s) noexcept nogil:
    """s[j] = a · LeakyReLU(q + k[keys[j]]), columns in the lanes, four edges at a time; of further keys, so many are known and fetched."""
    cdef Py_ssize_t j = 0, c, t, last = n - 1, whole = d // VLEN * VLEN
    cdef const real *k0
    cdef const real *k1
    cdef const real *k2
    cdef const real *k3
    cdef const real *one
    cdef vreal c0, c1, c2, c3, x, y, w, low = v_set1(slope), zero = v_set1(0)
    cdef real sums[4]
    cdef real z
    while j < n:
        k0 = k + keys[j] * ldk
        k1 = k + keys[j + 1 if j + 1 < n else last] * ldk
        k2 = k + keys[j + 2 if j + 2 < n else last] * ldk
        k3 = k + keys[j + 3 if j + 3 < n else last] * ldk
        for t in range(j + AHEAD, j + AHEAD + 4 if j + AHEAD + 4 < known else known):
            prefetch_row(k + keys[t] * ldk, d)
        c0 = c1 = c2 = c3 = zero
        c = 0
        while c < whole:
            x = v_load(q + c)
            w = v_load(a + c)
            y = x + v_load(k0 + c)
            c0 = c0 + w * v_select(v_lt(zero, y), y, low * y)
            y = x + v_load(k1 + c)
            c1 = c1 + w * v_select(v_lt(zero, y), y, low * y)
            y = x + v_load(k2 + c)
            c2 = c2 + w * v_select(v_lt(zero, y), y, low * y)
            y = x + v_load(k3 + c)
            c3 = c3 + w * v_select(v_lt(zero, y), y, low * y)
            c += VLEN
        v_sum_four(c0, c1, c2, c3, sums)
        for t in range(4 if n - j > 4 else n - j):
            if whole < d:
                one = k + keys[j + t] * ldk
                for c in range(whole, d):
                    z = q[c] + one[c]
                    sums[t] += a[c] * (z if z > 0 else slope * z)
            # an infinity would say masked, or nothing at all: NaN has the row made in wide arithmetic
            s[j + t] = sums[t] + sums[t] * 0
        j += 4


cdef inline void hidden_vjp(const real *q, const real *k, Py_ssize_t ldk, const int *keys, const real *g, Py_ssize_t n, Py_ssize_t d, const real *a,
                            real slope, bint with_params, real *dq, real *dslope, real *da) noexcept nogil:
    """dq[c] += a[c] Σ_j g[j] f'(q[c] + k[keys[j], c]), f the LeakyReLU, and what slope and a get; the same with queries for keys and a key for q."""
    cdef Py_ssize_t c = 0, j
    cdef const real *one
    cdef vreal x, y, w, sum, below, above, low = v_set1(slope), zero = v_set1(0), up = v_set1(1), slopes = zero
    cdef real z, total, under, over
    while c + VLEN <= d:
        x = v_load(q + c)
        sum = below = above = zero
        if with_params:
            for j in range(n):
                y = x + v_load(k + keys[j] * ldk + c)
                w = v_set1(g[j])
                above = above + w * v_max(y, zero)
                below = below + w * -v_max(-y, zero)
                sum = sum + w * v_select(v_lt(zero, y), up, low)
            v_store(da + c, v_load(da + c) + (above + low * below))
            slopes = slopes + v_load(a + c) * below
        else:
            for j in range(n):
                sum = sum + v_set1(g[j]) * v_select(v_lt(zero, x + v_load(k + keys[j] * ldk + c)), up, low)
        v_store(dq + c, v_load(dq + c) + v_load(a + c) * sum)
        c += VLEN
    while c < d:
        total = under = over = 0
        for j in range(n):
            one = k + keys[j] * ldk
            z = q[c] + one[c]
            if z > 0:
                total += g[j]
                over += g[j] * z
            else:
                total += slope * g[j]
                under += g[j] * z
        dq[c] += a[c] * total
        if with_params:
            da[c] += over + slope * under
            dslope[0] += a[c] * under
        c += 1
    if with_params:
        dslope[0] += v_sum(slopes)


cdef inline void compiled_tile(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e, const int *keys, const int *places,
                               Py_ssize_t n, GradientScratch *w) noexcept nogil:
    """The tile of one query and n edges: dots in w.dots, logits in w.s, and what both are made of."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t ld = (n + VLEN - 1) // VLEN * VLEN, width = key_width(f), r, j
    cdef const real *source
    for r in range(f.planes):
        # a plane runs over its end by up to three numbers, which the next one then writes
        list_dots(f, b, h, e, keys, places, n, f.plane_start[r], f.plane_start[r + 1], w.q, w.dots + r * ld)
    for r in range(f.planes if f.planes > 0 else 1):
        for j in range(n if f.planes > 0 else 0, ld):
            w.dots[r * ld + j] = 0
    for r in range(f.n_rows):
        w.rows[r] = f.rows[r][(b * f.heads + h) * f.lq + i]
    for r in range(f.n_cols):
        source = f.cols[r] + b * f.cols_batch[r] + (h * f.cols_heads[r] // f.heads) * f.cols_head[r]
        for j in range(n):
            w.cols[r * ld + j] = source[(e + places[j] if f.cols_by_edge[r] else <Py_ssize_t>keys[j]) * f.cols_step[r]]
        for j in range(n, ld):
            w.cols[r * ld + j] = 0
    if f.vectors:
        copy_row(f.q + f.q_at[b] + h * f.q_head + i * f.q_row, width, w.qv)
        source = f.k + f.k_at[b] + (h // f.group) * f.k_head
        for j in range(n):
            copy_row(source + keys[j] * f.k_row, f.d, w.kv + j * width)
            if f.key_attr > 0:
                copy_row(f.attr + (e + places[j]) * f.attr_row, f.key_attr, w.kv + j * width + f.d)
    memcpy(w.s, w.dots, (f.planes if f.planes > 0 else 1) * ld * sizeof(real))
    f.forward(w.s, 1, n, ld, w.rows, w.cols, <real *>f.params + h * f.n_params, w.qv if f.vectors else NULL, w.kv if f.vectors else NULL, width,
              f.forward_data)


cdef inline Py_ssize_t thin(const real *s, Py_ssize_t step, const int *keys, const int *places, Py_ssize_t n, GradientScratch *w) noexcept nogil:
    """Leave out what is masked: the keys and places of the others, in w; both may have been there before."""
    cdef Py_ssize_t j, kept = 0
    for j in range(n):
        if s[j * step] == <real>-INFINITY:
            continue
        w.keys[kept] = keys[j]
        w.kept[kept] = places[j]
        kept += 1
    return kept


# --- from weights to logits -------------------------------------------------------------------------------------------------------

cdef inline real softmax_vjp(Py_ssize_t n, real lse, real delta, bint drop, GradientScratch *w) noexcept nogil:
    """Logits w.s and gradients w.dp of the weights to weights w.weight and gradients w.g of the logits; 0, or NaN where something isn't finite."""
    cdef Py_ssize_t j, t, padded = (n + 4 * VLEN - 1) // (4 * VLEN) * (4 * VLEN)
    cdef vreal r = v_set1(lse), d = v_set1(delta), far = v_set1(-FURTHEST), top = far, check = v_set1(0), y, k
    cdef vreal x[4]
    # of a row whose largest logit even is beyond the type, all are −∞ here, as if masked
    if lse - lse != 0 or lse < -REAL_MAX / 4:
        return INFINITY * 0
    for j in range(n, padded):
        w.s[j] = -INFINITY
        w.dp[j] = 0
    if drop:
        for j in range(n, padded):
            w.keep[j] = 0
    j = 0
    while j < padded:
        for t in range(4):
            y = v_load(w.s + j + t * VLEN) - r
            top = v_max(y, top)
            x[t] = -v_max(far, -y)
        exp_four(x)
        for t in range(4):
            y = v_load(w.dp + j + t * VLEN)
            if drop:
                k = v_load(w.keep + j + t * VLEN)
                v_store(w.weight + j + t * VLEN, x[t] * k)
                y = x[t] * (y * k - d)
                check = check + x[t] * k * v_set1(0)
            else:
                v_store(w.weight + j + t * VLEN, x[t])
                y = x[t] * (y - d)
            v_store(w.g + j + t * VLEN, y)
            check = check + y * v_set1(0)
        j += 4 * VLEN
    if v_top(top) > FURTHEST:
        return INFINITY * 0
    return v_sum(check)


# --- a tile of one head -----------------------------------------------------------------------------------------------------------

cdef inline void store_zeros(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e, Py_ssize_t n) noexcept nogil:
    cdef real *target = stored(p, b, h) + e * p.slots * p.span
    cdef Py_ssize_t j
    for j in range(n * p.slots):
        target[j * p.span] = 0


cdef inline void store_slot(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e, const int *places, Py_ssize_t n, Py_ssize_t slot,
                            const real *x) noexcept nogil:
    cdef Py_ssize_t step = p.slots * p.span, j
    cdef real *target = stored(p, b, h) + e * step + slot * p.span
    for j in range(n):
        target[places[j] * step] = x[j]


cdef inline void compiled_vjp(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t e, const int *keys, const int *places, Py_ssize_t n,
                              real *params, real *dq, real *drows, GradientScratch *w) noexcept nogil:
    """Through a compiled score, from w.g to the sums of the row, the parameters, and what the store keeps for the keys."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t ld = (n + VLEN - 1) // VLEN * VLEN, width = key_width(f), r, j, c, start, stop, first
    cdef const real *k = f.k + f.k_at[b] + (h // f.group) * f.k_head
    cdef real *target
    for j in range(n, ld):
        w.g[j] = 0
    memset(w.drows, 0, f.n_rows * sizeof(real))
    memset(w.dcols, 0, f.n_cols * ld * sizeof(real))
    if f.vectors:
        memset(w.dkv, 0, n * width * sizeof(real))
        memset(w.dqv, 0, width * sizeof(real))
        if p.by_vjp:
            store_slot(p, b, h, e, places, n, 1, w.g)
    p.vjp(w.dots, w.g, 1, n, ld, w.rows, w.cols, <real *>f.params + h * f.n_params, w.qv if f.vectors else NULL, w.kv if f.vectors else NULL, width,
          w.drows, w.dcols, params, w.dqv if f.vectors else NULL, w.dkv if f.vectors else NULL, p.vjp_data)
    for r in range(f.n_rows):
        drows[r] += w.drows[r]
    for r in range(f.n_cols):
        if p.dterms[r] != NULL:
            target = p.dterms[r] + (b * f.heads + h) * f.edges + e
            for j in range(n):
                target[places[j]] = w.dcols[r * ld + j]
    if p.query_width > 0:
        for r in range(f.planes):
            start, stop = f.plane_start[r], f.plane_start[r + 1]
            first = start if start > f.d else f.d
            if start < f.d:
                gather_values(w.dots + r * ld, k + start, f.k_row, keys, n, (stop if stop < f.d else f.d) - start, 1, NULL, 0, 0, dq + start)
            if first < stop:
                gather_values(w.dots + r * ld, f.attr + e * f.attr_row + first - f.d, f.attr_row, places, n, stop - first, 1, NULL, 0, 0, dq + first)
        if f.vectors:
            for c in range(width):
                dq[c] += w.dqv[c]
    if f.vectors and f.key_attr > 0 and p.dattr != NULL:
        for j in range(n):
            target = p.dattr + (e + places[j]) * f.key_attr
            for c in range(f.key_attr):
                target[c] += w.dkv[j * width + f.d + c]
            for r in range(f.planes):
                for c in range(f.plane_start[r] if f.plane_start[r] > f.d else f.d, f.plane_start[r + 1]):
                    target[c - f.d] += w.dots[r * ld + j] * w.qv[c]
    for r in range(p.stored_planes):
        store_slot(p, b, h, e, places, n, 1 + r, w.dots + r * ld)
    for r in range(0 if p.by_vjp else p.stored_columns):
        store_slot(p, b, h, e, places, n, 1 + p.stored_planes + r, w.dcols + p.column_of[r] * ld)


cdef inline real head_tile(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e, Py_ssize_t n, real delta, bint beside,
                           real *dq, real *drows, GradientScratch *w) noexcept nogil:
    """Edges [e, e + n) of one row and head, added to the row's sums; 0 where all is finite. ``beside``: what dots get is left in w.all instead."""
    cdef const Edges *f = &p.forward
    cdef const int *keys = f.indices + e
    cdef const int *places = w.places
    cdef const real *q = f.q + f.q_at[b] + h * f.q_head + i * f.q_row
    cdef const real *k = f.k + f.k_at[b] + (h // f.group) * f.k_head
    cdef const real *v
    cdef const real *dout
    cdef const real *a
    cdef const real *source
    cdef real *target
    cdef real *params
    cdef real lse = p.lse[(b * f.heads + h) * f.lq + i], check = 0, scale = f.scale[h]
    cdef vreal x, one, zero = v_set1(0), rough = zero
    cdef Py_ssize_t all = n, before, j, t, g = h % p.span
    cdef unsigned int key
    cdef bint fetch
    # what takes part
    if f.bias != NULL:
        n = thin(f.bias + f.bias_at[b] + h * f.bias_head + e * f.bias_edge, f.bias_edge, keys, places, n, w)
        keys, places = w.keys, w.kept
    if p.kind == GIVEN_LOGITS and n > 0:
        source = f.logits + f.logits_at[b] + h * f.logits_head + e * f.logits_edge
        for j in range(n):
            w.s[j] = source[places[j] * f.logits_edge]
        n = thin(w.s, 1, keys, places, n, w)
        keys, places = w.keys, w.kept
        for j in range(n):
            w.s[j] = source[places[j] * f.logits_edge]
    if p.kind == DOT_PRODUCTS or p.kind == COMPILED_SCORE:
        for j in range(key_width(f)):
            w.q[j] = q[j] * scale
    if p.kind == COMPILED_SCORE:
        before = n + 1
        while 0 < n < before:
            before = n
            compiled_tile(p, b, h, i, e, keys, places, n, w)
            n = thin(w.s, 1, keys, places, n, w)
            keys, places = w.keys, w.kept
    if n < all:
        store_zeros(p, b, h, e, all)
    if n == 0:
        return 0
    # logits
    if p.kind == DOT_PRODUCTS:
        list_dots(f, b, h, e, keys, places, n, 0, key_width(f), w.q, w.s)
    elif p.kind == LEAKY_SUM:
        leaky_sums(f, b, h, i, e, keys, places, n, w.x, w.s)
    elif p.kind == LEAKY_HIDDEN:
        a = f.params + h * f.n_params + 1
        hidden_sums(q, k, f.k_row, keys, n, f.edges - e if keys == f.indices + e else n, f.d, a, f.slope, w.s)
    if f.softcap != 0:
        for j in range(n, n + VLEN):
            w.s[j] = 0
        j = 0
        while j < n:
            x = v_load(w.s + j)
            rough = rough + x * zero
            x = tanh_v(x * v_set1(1 / f.softcap))
            v_store(w.cap + j, v_set1(1) - x * x)
            v_store(w.s + j, v_set1(f.softcap) * x)
            j += VLEN
        check = v_sum(rough)
    if f.bias != NULL:
        source = f.bias + f.bias_at[b] + h * f.bias_head + e * f.bias_edge
        for j in range(n):
            w.s[j] += source[places[j] * f.bias_edge]
    # what the weights get
    if p.dout != NULL:
        dout = p.dout + p.dout_at[b] + h * p.dout_head + i * p.dout_row
        v = f.v + f.v_at[b] + (h // f.group) * f.v_head
        if f.values_by_edge:
            gather_dots(dout, v + e * f.v_row, f.v_row, places, n, n, f.dv, NULL, 0, 0, False, w.dp)
        else:
            # dots have fetched the values on their way; otherwise the next rows are fetched here
            fetch = f.far and p.kind != DOT_PRODUCTS and keys == f.indices + e
            gather_dots(dout, v, f.v_row, keys, n, f.edges - e if fetch else n, f.dv, v if fetch else NULL, f.v_row, f.dv, False, w.dp)
        if f.value_attr > 0:
            gather_dots(dout + f.dv, f.attr + e * f.attr_row, f.attr_row, places, n, n, f.value_attr, NULL, 0, 0, True, w.dp)
    else:
        memset(w.dp, 0, n * sizeof(real))
    if p.dweights != NULL:
        source = p.dweights + p.dweights_at[b] + h * p.dweights_head + e * p.dweights_edge
        for j in range(n):
            w.dp[j] += source[places[j] * p.dweights_edge]
    if f.dropout:
        key = row_key(head_key(f.seed, b, h), i)
        for j in range(n):
            w.keep[j] = 0 if dropped(key, keys[j], f.drop_below) else f.keep_scale
    check += softmax_vjp(n, lse, delta, f.dropout, w)
    if p.dbias != NULL:
        target = p.dbias + (b * f.heads + h) * f.edges + e
        for j in range(n):
            target[places[j]] = w.g[j]
    store_slot(p, b, h, e, places, n, 0, w.weight)
    if f.softcap != 0:
        j = 0
        while j < n:
            v_store(w.g + j, v_load(w.g + j) * v_load(w.cap + j))
            j += VLEN
    # a row that has to be made once more must not have spoilt the sums of the parameters before
    params = w.params + (g if check == 0 else p.span + g) * f.n_params
    # the score
    if p.kind == COMPILED_SCORE and p.vjp != NULL:
        compiled_vjp(p, b, h, e, keys, places, n, params, dq, drows, w)
        return check
    if p.kind == LEAKY_SUM:
        one, x, rough = v_set1(1), v_set1(f.slope), zero
        for j in range(n, n + VLEN):
            w.g[j] = 0
            w.x[j] = 0
        j = 0
        while j < n:
            # the slope has a part in what is below 0
            rough = rough + v_load(w.g + j) * -v_max(-v_load(w.x + j), zero)
            v_store(w.g + j, v_load(w.g + j) * v_select(v_lt(zero, v_load(w.x + j)), one, x))
            j += VLEN
        if p.with_params:
            params[0] += v_sum(rough)
        rough = zero
        j = 0
        while j < n:
            rough = rough + v_load(w.g + j)
            j += VLEN
        drows[0] += v_sum(rough)
        for t in range(1, f.n_cols):
            if p.dterms[t] != NULL:
                target = p.dterms[t] + (b * f.heads + h) * f.edges + e
                for j in range(n):
                    target[places[j]] = w.g[j]
    elif p.kind == LEAKY_HIDDEN:
        a = f.params + h * f.n_params + 1
        hidden_vjp(q, k, f.k_row, keys, w.g, n, f.d, a, f.slope, p.with_params, dq, params, params + 1)
    elif p.kind == DOT_PRODUCTS and beside:
        memcpy(w.all + g * (EDGE_TILE + EDGE_PADDING), w.g, n * sizeof(real))
    elif p.kind == DOT_PRODUCTS and p.query_width > 0:
        gather_values(w.g, k, f.k_row, keys, n, f.d, 1, NULL, 0, 0, dq)
        if f.key_attr > 0:
            gather_values(w.g, f.attr + e * f.attr_row, f.attr_row, places, n, f.key_attr, 1, NULL, 0, 0, dq + f.d)
    if p.kind == DOT_PRODUCTS:  # keys get it of each head with its scale
        for j in range(n):
            w.g[j] *= scale
    store_slot(p, b, h, e, places, n, 1, w.g)
    return check


# --- a row ------------------------------------------------------------------------------------------------------------------------
#
# Its sums: dq of each head of the item, before the scale; then the row terms of each head; then 0, or NaN where something isn't finite.

cdef inline Py_ssize_t row_numbers(const Gradients *p) noexcept nogil:
    return p.span * (p.query_width + p.forward.n_rows) + 1


cdef inline void differentiate_row(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, real *sums,
                                   GradientScratch *w) noexcept nogil:
    """Add edges [e0, e1) of row i for all heads of an item to the row's sums."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t e = e0, n, g, c, size = p.span * p.query_width, tile = EDGE_TILE + EDGE_PADDING
    # one row of memory holds the keys of all heads, in whole vectors
    cdef bint beside = (p.kind == DOT_PRODUCTS and p.query_width > 0 and p.span > 1 and f.k_head == f.d and f.d % VLEN == 0 and f.key_attr == 0
                        and f.bias == NULL)
    cdef real delta
    cdef real *drows = sums + size
    cdef real *check = drows + p.span * f.n_rows
    while e < e1:
        n = e1 - e if e1 - e < EDGE_TILE else EDGE_TILE
        for g in range(p.span):
            delta = 0
            if p.dout != NULL:
                delta = dot(p.dout + p.dout_at[b] + (h + g) * p.dout_head + i * p.dout_row,
                            p.made + p.made_at[b] + (h + g) * p.made_head + i * p.made_row, value_width(f))
            if p.shift != NULL:
                delta += p.shift[(b * f.heads + h + g) * f.lq + i]
            check[0] += head_tile(p, b, h + g, i, e, n, delta, beside, sums + g * p.query_width, drows + g * f.n_rows, w)
        if beside:
            gather_heads(w.all, tile, 1, p.span, f.d, f.k + f.k_at[b] + h * f.k_head, f.k_row, f.indices + e, n, NULL, 0, 0, w.o)
            for c in range(size):
                sums[c] += w.o[c]
        e += n


cdef inline void conclude_gradient_row(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, const real *sums) noexcept nogil:
    """Write what a row's sums say."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t g, c, r, row
    cdef const real *drows = sums + p.span * p.query_width
    cdef real check = drows[p.span * f.n_rows], scale, own
    cdef real *dq
    cdef vreal x, y
    for g in range(p.span):
        row = (b * f.heads + h + g) * f.lq + i
        own = check
        if p.query_width > 0:
            dq = p.dq + b * p.dq_batch + (h + g) * p.dq_head + i * p.dq_row
            scale = f.scale[h + g] if p.kind == DOT_PRODUCTS and not p.unscaled else 1
            c = 0
            y = v_set1(0)
            while c + VLEN <= p.query_width:
                x = v_load(sums + g * p.query_width + c) * v_set1(scale)
                v_store(dq + c, x)
                y = y + x * v_set1(0)
                c += VLEN
            while c < p.query_width:
                dq[c] = sums[g * p.query_width + c] * scale
                own += dq[c] * 0
                c += 1
            own += v_sum(y)
        for r in range(f.n_rows):
            if p.drows[r] != NULL:
                p.drows[r][row] = drows[g * f.n_rows + r]
            own += drows[g * f.n_rows + r] * 0
        p.bad_rows[row] = own != 0


cdef inline void differentiate_attributes(const Gradients *p, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1) noexcept nogil:
    """What the attributes of edges [e0, e1) of row i get through planes of dots and through the values, of all batch entries and heads."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t b, h, e, r, c, first, width = f.key_attr if f.key_attr > 0 else f.value_attr
    cdef const real *store
    cdef const real *q
    cdef const real *dout
    cdef real x
    cdef real *target
    for b in range(f.batch):
        for h in range(f.heads):
            q = f.q + f.q_at[b] + h * f.q_head + i * f.q_row
            for e in range(e0, e1):
                store = stored(p, b, h) + e * p.slots * p.span
                target = p.dattr + e * width
                for r in range(p.stored_planes if f.key_attr > 0 else 0):
                    x = store[(1 + r) * p.span]
                    first = f.plane_start[r] if f.plane_start[r] > f.d else f.d
                    if x != 0:
                        for c in range(first, f.plane_start[r + 1]):
                            target[c - f.d] += x * q[c]
                x = store[0]
                if f.value_attr > 0 and p.dout != NULL and x != 0:
                    dout = p.dout + p.dout_at[b] + h * p.dout_head + i * p.dout_row + f.dv
                    for c in range(f.value_attr):
                        target[c] += x * dout[c]
