# cython: cdivision=True
"""One tile of the backward pass: its weights again, the gradients of its logits, and the products that they have part in.

    S = K·Q'  ─► score, softcap, bias, masks ─► P = e^(S − lse) ─┬─► dV += P · dO
    dP = V·dO' ─────────────────────────────► dS = P (dP − delta) ─┴─► dK += dS · Q      dQ' += K' · dS

A block is up to BACK_PANELS panels of queries. Their tiles lie one behind the other, queries in the lanes as in the forward pass, so that the
products that add up over queries (dK, dV) run through all lanes of all panels before they touch memory.
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from .dropout cimport fmix_v
from .fold cimport from_rows, gather_terms, to_rows
from .masks cimport add_bias, blend_bits, blend_interval, part_bits
from .microkernel cimport Accumulators, dots_tile, next_rows, values_tile
from .problem cimport Part, Problem, Scratch, score_forward
from .softmax cimport exp_four
from .vector cimport VLEN, exp_v, real, tanh_v, urint, v_load, v_loadu, v_ltu, v_select, v_set1, v_set1u, v_store, vreal, vuint

ctypedef void (*score_vjp)(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params,
                           real *q, real *k, Py_ssize_t d, real *drows, real *dcols, real *dparams, real *dq, real *dk,
                           void *user_data) noexcept nogil

cdef enum:
    BACK_PANELS = 4  # of a block of rows


cdef struct Back:
    # what the backward pass has beside the problem of the forward pass
    const real *dout
    Py_ssize_t dout_head, dout_row
    const Py_ssize_t *dout_at
    real *delta                    # (batch, heads, lq), contiguous
    real *dq
    real *dk
    real *dv
    Py_ssize_t dq_head, dq_row, dk_head, dk_row, dv_head, dv_row
    const Py_ssize_t *dq_at
    const Py_ssize_t *dk_at
    const Py_ssize_t *dv_at
    real *dq_parts                 # (splits, batch, heads, rows_here, d) where there is more than one split, else NULL
    real *dbias                    # NULL: not wanted
    Py_ssize_t dbias_head, dbias_row, dbias_key
    const Py_ssize_t *dbias_at
    score_vjp vjp
    void *vjp_data
    real *drows                    # (splits, n_rows, batch, heads, rows_here)
    real *dcols[32]                # (batch, heads of the term, lk)
    double *dparams                # (splits, batch, heads, n_params)
    unsigned char *bad             # (batch, key heads): something isn't finite
    bint one_batch, one_head       # batch entries, or heads, share a part of dbias, so that one task has to take them all
    # blocking: a function of the shape alone
    Py_ssize_t key_block           # keys whose gradients are added up in the second-level cache
    Py_ssize_t tile_keys
    Py_ssize_t q_width, v_width    # of rows padded to whole lanes, plane by plane
    Py_ssize_t plane_at[17]        # where a plane begins in them


cdef struct BackScratch:
    real *q            # the block's queries, d × NR a panel, scaled
    real *g            # its dO, dv × NR a panel
    real *dq           # d × NR a panel
    real *q_rows       # the same queries as rows of q_width, and dO of v_width
    real *g_rows
    real *dk           # key_block × q_width
    real *dv           # key_block × v_width
    real *s            # planes × tile_keys × NR a panel: dots, then P, or the gradients of the dots
    real *p            # P where planes of a score take its place
    real *ds           # tile_keys × NR a panel: dP, then dS
    real *f            # derivative of the softcap
    real *lse          # NR a panel
    real *delta
    real *ones         # NR
    real *top          # NR, which nobody reads
    real *t            # planes of a tile as a score has them, and the gradients of its logits
    real *dl
    real *drows        # what a score's vjp adds to
    real *dcols
    real *dparams
    real *dq_vec       # BACK_PANELS·NR × d
    real *dk_vec       # tile_keys × d
    real *dk_raw       # key_block × d
    Part *own          # parts as one panel sees them, and whether it sees anything of each
    unsigned char *sees


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """A width in whole pairs of vectors."""
    return (n + 2 * VLEN - 1) // (2 * VLEN) * (2 * VLEN)


# --- products over queries --------------------------------------------------------------------------------------------------------

cdef inline void keys_step(const int rows, const real *w, Py_ssize_t panel_step, Py_ssize_t panels, const real *x, Py_ssize_t ldx,
                           real *acc, Py_ssize_t lda) noexcept nogil:
    """acc[j] += Σ_panels Σ_i w[panel, j, i] · x[panel·NR + i] for j < rows, two vectors wide."""
    cdef Py_ssize_t nr = 2 * VLEN, panel, i
    cdef vreal c00 = v_set1(0), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00
    cdef vreal c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00
    cdef vreal b0, b1, y
    cdef const real *a
    for panel in range(panels):
        a = w + panel * panel_step
        for i in range(2 * VLEN):  # no-cython-lint
            b0 = v_load(x)
            b1 = v_load(x + VLEN)
            y = v_set1(a[i])
            c00 = c00 + y * b0
            c01 = c01 + y * b1
            if rows > 1:
                y = v_set1(a[nr + i])
                c10 = c10 + y * b0
                c11 = c11 + y * b1
            if rows > 2:
                y = v_set1(a[2 * nr + i])
                c20 = c20 + y * b0
                c21 = c21 + y * b1
            if rows > 3:
                y = v_set1(a[3 * nr + i])
                c30 = c30 + y * b0
                c31 = c31 + y * b1
            if rows > 4:
                y = v_set1(a[4 * nr + i])
                c40 = c40 + y * b0
                c41 = c41 + y * b1
            if rows > 5:
                y = v_set1(a[5 * nr + i])
                c50 = c50 + y * b0
                c51 = c51 + y * b1
            x += ldx
    v_store(acc, v_load(acc) + c00)
    v_store(acc + VLEN, v_load(acc + VLEN) + c01)
    if rows > 1:
        v_store(acc + lda, v_load(acc + lda) + c10)
        v_store(acc + lda + VLEN, v_load(acc + lda + VLEN) + c11)
    if rows > 2:
        v_store(acc + 2 * lda, v_load(acc + 2 * lda) + c20)
        v_store(acc + 2 * lda + VLEN, v_load(acc + 2 * lda + VLEN) + c21)
    if rows > 3:
        v_store(acc + 3 * lda, v_load(acc + 3 * lda) + c30)
        v_store(acc + 3 * lda + VLEN, v_load(acc + 3 * lda + VLEN) + c31)
    if rows > 4:
        v_store(acc + 4 * lda, v_load(acc + 4 * lda) + c40)
        v_store(acc + 4 * lda + VLEN, v_load(acc + 4 * lda + VLEN) + c41)
    if rows > 5:
        v_store(acc + 5 * lda, v_load(acc + 5 * lda) + c50)
        v_store(acc + 5 * lda + VLEN, v_load(acc + 5 * lda + VLEN) + c51)


cdef inline void keys_columns(const int rows, const real *w, Py_ssize_t panel_step, Py_ssize_t panels, const real *x, Py_ssize_t ldx,
                              Py_ssize_t width, real *acc, Py_ssize_t lda) noexcept nogil:
    cdef Py_ssize_t c = 0
    while c < width:
        keys_step(rows, w, panel_step, panels, x + c, ldx, acc + c, lda)
        c += 2 * VLEN


cdef inline void keys_tile(const real *w, Py_ssize_t n, Py_ssize_t panel_step, Py_ssize_t panels, const real *x, Py_ssize_t ldx,
                           Py_ssize_t width, real *acc, Py_ssize_t lda) noexcept nogil:
    """acc[j, :] += Σ_q w[j, q] · x[q, :] for n keys, all queries of the panels and a width in whole pairs of vectors."""
    cdef Py_ssize_t j = 0
    cdef int rows
    while j < n:
        rows = next_rows(n - j)
        if rows == 6:
            keys_columns(6, w, panel_step, panels, x, ldx, width, acc, lda)
        elif rows == 5:
            keys_columns(5, w, panel_step, panels, x, ldx, width, acc, lda)
        elif rows == 4:
            keys_columns(4, w, panel_step, panels, x, ldx, width, acc, lda)
        elif rows == 3:
            keys_columns(3, w, panel_step, panels, x, ldx, width, acc, lda)
        elif rows == 2:
            keys_columns(2, w, panel_step, panels, x, ldx, width, acc, lda)
        else:
            keys_columns(1, w, panel_step, panels, x, ldx, width, acc, lda)
        j += rows
        w += rows * 2 * VLEN
        acc += rows * lda


# --- elementwise ------------------------------------------------------------------------------------------------------------------

cdef inline void slopes(real *s, real *dp, Py_ssize_t n, const real *lse, const real *delta, real factor) noexcept nogil:
    """s ← P = e^(s − lse), dp ← P (dp − delta) · factor."""
    cdef vreal l0 = v_load(lse), l1 = v_load(lse + VLEN), d0 = v_load(delta), d1 = v_load(delta + VLEN), f = v_set1(factor)
    cdef vreal x[4]
    cdef Py_ssize_t j = 0
    while j < n:
        x[0] = v_load(s) - l0
        x[1] = v_load(s + VLEN) - l1
        if j + 1 < n:
            x[2] = v_load(s + 2 * VLEN) - l0
            x[3] = v_load(s + 3 * VLEN) - l1
        else:
            x[2] = x[0]
            x[3] = x[1]
        exp_four(x)
        v_store(s, x[0])
        v_store(s + VLEN, x[1])
        v_store(dp, x[0] * f * (v_load(dp) - d0))
        v_store(dp + VLEN, x[1] * f * (v_load(dp + VLEN) - d1))
        if j + 1 < n:
            v_store(s + 2 * VLEN, x[2])
            v_store(s + 3 * VLEN, x[3])
            v_store(dp + 2 * VLEN, x[2] * f * (v_load(dp + 2 * VLEN) - d0))
            v_store(dp + 3 * VLEN, x[3] * f * (v_load(dp + 3 * VLEN) - d1))
        s += 4 * VLEN
        dp += 4 * VLEN
        j += 2


cdef inline void dropped_slopes(const Problem *p, real *s, real *dp, const Part *parts, int n_parts, const real *lse, const real *delta, real factor,
                                const urint *keys) noexcept nogil:
    """The same with dropout: s ← P̃, what is kept of P, and dp ← (P̃ dp − P delta) · factor."""
    cdef vuint k0 = v_loadu(keys), k1 = v_loadu(keys + VLEN), limit = v_set1u(p.drop_below), column
    cdef vreal l0 = v_load(lse), l1 = v_load(lse + VLEN), d0 = v_load(delta), d1 = v_load(delta + VLEN), f = v_set1(factor)
    cdef vreal zero = v_set1(0), keep = v_set1(p.keep_scale), x0, x1, y0, y1
    cdef Py_ssize_t j
    cdef int part
    for part in range(n_parts):
        for j in range(parts[part].start, parts[part].start + parts[part].n):
            column = v_set1u(<urint>(<unsigned int>j * <unsigned int>0xC2B2AE3D))
            x0 = exp_v(v_load(s) - l0)
            x1 = exp_v(v_load(s + VLEN) - l1)
            y0 = v_select(v_ltu(fmix_v(k0 + column), limit), zero, x0 * keep)
            y1 = v_select(v_ltu(fmix_v(k1 + column), limit), zero, x1 * keep)
            v_store(s, y0)
            v_store(s + VLEN, y1)
            v_store(dp, (y0 * v_load(dp) - x0 * d0) * f)
            v_store(dp + VLEN, (y1 * v_load(dp + VLEN) - x1 * d1) * f)
            s += 2 * VLEN
            dp += 2 * VLEN


cdef inline void cap(real *s, real *f, Py_ssize_t n, real softcap) noexcept nogil:
    """s ← c·tanh(s/c), f ← its derivative, 1 − tanh²."""
    cdef vreal c = v_set1(softcap), inverse = v_set1(1 / softcap), one = v_set1(1), x, t
    cdef Py_ssize_t j
    for j in range(2 * n):
        x = v_load(s + j * VLEN)
        t = tanh_v(x * inverse)
        # an infinity is an overflow, which the cap would hide
        v_store(s + j * VLEN, c * t + x * v_set1(0))
        v_store(f + j * VLEN, one - t * t)


cdef inline void multiply(real *x, const real *f, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(2 * n):
        v_store(x + j * VLEN, v_load(x + j * VLEN) * v_load(f + j * VLEN))


cdef inline void add_dbias(const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *parts, int n_parts,
                           const real *ds) noexcept nogil:
    """The gradient of the bias gets that of the logits, summed along what the bias was broadcast along."""
    cdef real *row = g.dbias + g.dbias_at[b] + h * g.dbias_head + i0 * g.dbias_row
    cdef real *at
    cdef real total
    cdef Py_ssize_t i, j
    cdef int part
    for part in range(n_parts):
        for j in range(parts[part].start, parts[part].start + parts[part].n):
            at = row + j * g.dbias_key
            if g.dbias_row == 0:
                total = 0
                for i in range(m):
                    total += ds[i]
                at[0] += total
            else:
                for i in range(m):
                    at[i * g.dbias_row] += ds[i]
            ds += 2 * VLEN


# --- a score --------------------------------------------------------------------------------------------------------------------

cdef inline void score_logits(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *parts,
                              int n_parts, Py_ssize_t n, real *s, real *logits, Scratch *w, BackScratch *l) noexcept nogil:
    """Logits of a panel from planes of dots, which stay as they are."""
    cdef Py_ssize_t nr = 2 * VLEN, ld = (n + VLEN - 1) // VLEN * VLEN, planes = p.planes if p.planes > 0 else 1, c
    if p.symmetric:
        for c in range(p.planes):
            memcpy(l.t + c * n * nr, s + c * g.tile_keys * nr, n * nr * sizeof(real))
        gather_terms(p, b, h, i0, m, nr, parts, n_parts, n, n, w)
        p.forward(l.t, n, nr, nr, w.cols, w.rows, <real *>p.params + h * p.n_params, w.kv if p.vectors else NULL, w.qv if p.vectors else NULL, p.d,
                  p.forward_data)
        memcpy(logits, l.t, n * nr * sizeof(real))
        return
    for c in range(planes):
        to_rows(s + c * g.tile_keys * nr, n, m, l.t + c * m * ld, ld)
    gather_terms(p, b, h, i0, m, m, parts, n_parts, n, ld, w)
    p.forward(l.t, m, n, ld, w.rows, w.cols, <real *>p.params + h * p.n_params, w.qv if p.vectors else NULL, w.kv if p.vectors else NULL,
              p.d, p.forward_data)
    from_rows(l.t, ld, n, m, logits)


cdef inline void score_slopes(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *parts,
                              int n_parts, Py_ssize_t n, real *s, real *ds, Py_ssize_t split, Py_ssize_t row_in_block, Py_ssize_t key0, Scratch *w,
                              BackScratch *l) noexcept nogil:
    """From gradients of logits to those of dots, in their planes, and of terms, parameters and vectors, where they are added up. The terms of this
    panel and tile are still in the scratch."""
    cdef Py_ssize_t nr = 2 * VLEN, ld = (n + VLEN - 1) // VLEN * VLEN, planes = p.planes if p.planes > 0 else 1, c, r, i, j, at
    cdef Py_ssize_t row_step = nr if p.symmetric else m, col_step = n if p.symmetric else ld
    cdef real *params = <real *>p.params + h * p.n_params
    cdef real *target
    cdef double *sums
    cdef real *q = w.qv if p.vectors else NULL
    cdef real *k = w.kv if p.vectors else NULL
    cdef real *dq = l.dq_vec + row_in_block * p.d if p.vectors else NULL
    cdef real *dk = l.dk_vec if p.vectors else NULL
    cdef int part
    memset(l.drows, 0, p.n_rows * row_step * sizeof(real))
    memset(l.dcols, 0, p.n_cols * col_step * sizeof(real))
    memset(l.dparams, 0, p.n_params * sizeof(real))
    if p.vectors:
        memset(l.dk_vec, 0, n * p.d * sizeof(real))
    if p.symmetric:
        for c in range(p.planes):
            memcpy(l.t + c * n * nr, s + c * g.tile_keys * nr, n * nr * sizeof(real))
        g.vjp(l.t, ds, n, nr, nr, w.cols, w.rows, params, k, q, p.d, l.dcols, l.drows, l.dparams, dk, dq, g.vjp_data)
        for c in range(p.planes):
            memcpy(s + c * g.tile_keys * nr, l.t + c * n * nr, n * nr * sizeof(real))
    else:
        for c in range(planes):
            to_rows(s + c * g.tile_keys * nr, n, m, l.t + c * m * ld, ld)
        to_rows(ds, n, m, l.dl, ld)
        g.vjp(l.t, l.dl, m, n, ld, w.rows, w.cols, params, q, k, p.d, l.drows, l.dcols, l.dparams, dq, dk, g.vjp_data)
        for c in range(p.planes):
            from_rows(l.t + c * m * ld, ld, n, m, s + c * g.tile_keys * nr)
            # the lanes beyond m hold what they held: the gradient of nothing is nothing
            for j in range(n):
                for i in range(m, nr):
                    s[c * g.tile_keys * nr + j * nr + i] = 0
    for r in range(p.n_rows):
        target = g.drows + (((split * p.n_rows + r) * p.batch + b) * p.heads + h) * p.rows_here + i0 - p.first
        for i in range(m):
            target[i] += l.drows[r * row_step + i]
    for r in range(p.n_cols):
        target = g.dcols[r] + (b * p.cols_heads[r] + h * p.cols_heads[r] // p.heads) * p.lk
        at = 0
        for part in range(n_parts):
            for j in range(parts[part].n):
                target[parts[part].start + j] += l.dcols[r * col_step + at]
                at += 1
    sums = g.dparams + ((split * p.batch + b) * p.heads + h) * p.n_params
    for r in range(p.n_params):
        sums[r] += l.dparams[r]
    if p.vectors:
        at = 0
        for part in range(n_parts):
            for j in range(parts[part].n):
                target = l.dk_raw + (parts[part].start + j - key0) * p.d
                for i in range(p.d):
                    target[i] += l.dk_vec[at * p.d + i]
                at += 1


# --- a tile ---------------------------------------------------------------------------------------------------------------------

cdef inline bint panel_tile(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, Py_ssize_t panel,
                            const Part *given, int n_parts, Py_ssize_t n, Py_ssize_t split, Py_ssize_t key0, Scratch *w,
                            BackScratch *l) noexcept nogil:
    """P and dS of one panel, and its dQ. False where it sees nothing of the tile, which then holds what it held."""
    cdef Py_ssize_t nr = 2 * VLEN, planes = p.planes if p.planes > 0 else 1, plane = g.tile_keys * nr, c, at, start, stop, skip = 0, left = 0
    cdef real *s = l.s + panel * planes * plane
    cdef real *logits = s if g.vjp == NULL else l.p + panel * plane
    cdef real *ds = l.ds + panel * plane
    cdef real *q = l.q + panel * p.d * nr
    cdef real *dq = l.dq + panel * p.d * nr
    cdef real *lse = l.lse + panel * nr
    cdef real *delta = l.delta + panel * nr
    cdef const real *k = p.k + p.k_at[b] + (h // p.group) * p.k_head
    cdef const real *v = p.v + p.v_at[b] + (h // p.group) * p.v_head
    cdef urint *low = w.interval + panel * 2 * nr
    cdef urint *high = low + nr
    cdef Py_ssize_t low_first = <Py_ssize_t>low[0], low_last = <Py_ssize_t>low[m - 1]
    cdef Py_ssize_t high_first = <Py_ssize_t>high[0], high_last = <Py_ssize_t>high[m - 1]
    cdef urint *words = w.words
    cdef Part *parts = l.own
    cdef bint some = False
    cdef int part
    cdef real factor = p.scale[h] if g.vjp == NULL else 1
    for part in range(n_parts):
        parts[part] = given[part]
        if parts[part].words != NULL:
            parts[part].words += panel * nr * parts[part].words_per_row
    if n_parts == 1:
        # only what some row of the panel sees
        start = parts[0].start if parts[0].start > low_first else low_first
        stop = parts[0].start + parts[0].n
        stop = stop if stop < high_last else high_last
        if start >= stop:
            return False
        skip = start - parts[0].start
        left = n - skip - (stop - start)
        parts[0].start = start
        parts[0].n = stop - start
        parts[0].first_bit += skip
    for part in range(n_parts):
        start = parts[part].start
        stop = start + parts[part].n
        l.sees[part] = stop > low_first and start < high_last and part_bits(p, b, h, i0, m, parts + part, False, &words)
        some = some or l.sees[part]
    if not some:
        return False
    if n_parts == 1 and n > parts[0].n:
        clear(s, planes, plane, 0, skip)
        clear(s, planes, plane, n - left, left)
        clear(ds, 1, plane, 0, skip)
        clear(ds, 1, plane, n - left, left)
        if g.vjp != NULL:
            clear(logits, 1, plane, 0, skip)
            clear(logits, 1, plane, n - left, left)
        n = parts[0].n
        s += skip * nr
        logits += skip * nr
        ds += skip * nr
    for c in range(p.planes):
        at = 0
        for part in range(n_parts):
            dots_tile(k + parts[part].start * p.k_row + p.plane_start[c], p.k_row, parts[part].n, q + p.plane_start[c] * nr,
                      p.plane_start[c + 1] - p.plane_start[c], s + c * plane + at * nr, l.top)
            at += parts[part].n
    if g.vjp != NULL:
        score_logits(p, g, b, h, i0, m, parts, n_parts, n, s, logits, w, l)
    if p.softcap != 0:
        cap(logits, l.f, n, p.softcap)
    at = 0
    for part in range(n_parts):
        start = parts[part].start
        stop = start + parts[part].n
        if p.bias != NULL:
            add_bias(logits + at * nr, p.bias + p.bias_at[b] + h * p.bias_head + i0 * p.bias_row + start * p.bias_key, p.bias_row, p.bias_key,
                     m, parts[part].n)
        if not l.sees[part]:
            fill(logits + at * nr, parts[part].n * nr, <real>-INFINITY)
        else:
            if start < low_last:
                blend_interval(logits + at * nr, start, stop if stop < low_last else low_last, low, high)
            if stop > high_first:
                c = start if start > high_first else high_first
                blend_interval(logits + (at + c - start) * nr, c, stop, low, high)
            if parts[part].bits != NULL:
                blend_bits(logits + at * nr, parts[part].n, parts[part].bits, l.top)
        at += parts[part].n
    at = 0
    for part in range(n_parts):
        dots_tile(v + parts[part].start * p.v_row, p.v_row, parts[part].n, l.g + panel * p.dv * nr, p.dv, ds + at * nr, l.top)
        at += parts[part].n
    if p.dropout:
        dropped_slopes(p, logits, ds, parts, n_parts, lse, delta, 1 if g.dbias != NULL else factor, w.drop + panel * nr)
    else:
        slopes(logits, ds, n, lse, delta, 1 if g.dbias != NULL else factor)
    if g.dbias != NULL:
        add_dbias(g, b, h, i0, m, parts, n_parts, ds)
        if factor != 1:
            rescale(ds, n, factor)
    if p.softcap != 0:
        multiply(ds, l.f, n)
    if g.vjp != NULL:
        score_slopes(p, g, b, h, i0, m, parts, n_parts, n, s, ds, split, panel * nr, key0, w, l)
    for c in range(p.planes):
        at = 0
        for part in range(n_parts):
            values_tile(k + parts[part].start * p.k_row + p.plane_start[c], p.k_row, parts[part].n,
                        (ds if g.vjp == NULL else s + c * plane) + at * nr, p.plane_start[c + 1] - p.plane_start[c], l.ones,
                        dq + p.plane_start[c] * nr)
            at += parts[part].n
    return True


cdef inline void clear(real *x, Py_ssize_t planes, Py_ssize_t plane, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Zeros in tile rows [first, first + n) of each plane."""
    cdef Py_ssize_t c
    for c in range(planes):
        memset(x + c * plane + first * 2 * VLEN, 0, n * 2 * VLEN * sizeof(real))


cdef inline void fill(real *x, Py_ssize_t n, real value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        x[i] = value


cdef inline void rescale(real *x, Py_ssize_t n, real factor) noexcept nogil:
    cdef Py_ssize_t j
    cdef vreal f = v_set1(factor)
    for j in range(2 * n):
        v_store(x + j * VLEN, v_load(x + j * VLEN) * f)


cdef inline void back_tile(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t rows, const Part *parts,
                           int n_parts, Py_ssize_t n, Py_ssize_t split, Py_ssize_t key0, Scratch *w, BackScratch *l) noexcept nogil:
    """One tile of a block of rows: everything that its pairs add to any gradient."""
    cdef Py_ssize_t nr = 2 * VLEN, panels = (rows + nr - 1) // nr, panel, first = -1, last = 0, c, at, m
    cdef Py_ssize_t planes = p.planes if p.planes > 0 else 1, s_step = planes * g.tile_keys * nr, step = g.tile_keys * nr
    cdef int part
    for panel in range(panels):
        m = rows - panel * nr if rows - panel * nr < nr else nr
        if panel_tile(p, g, b, h, i0 + panel * nr, m, panel, parts, n_parts, n, split, key0, w, l):
            if first < 0:
                first = panel
            last = panel + 1
        elif first >= 0:  # between two that see something
            clear(l.s + panel * s_step, planes, step, 0, n)
            clear(l.ds + panel * step, 1, step, 0, n)
            if g.vjp != NULL:
                clear(l.p + panel * step, 1, step, 0, n)
    if first < 0:
        return
    at = 0
    for part in range(n_parts):
        keys_tile((l.s + first * s_step if g.vjp == NULL else l.p + first * step) + at * nr, parts[part].n, s_step if g.vjp == NULL else step,
                  last - first, l.g_rows + first * nr * g.v_width, g.v_width, g.v_width, l.dv + (parts[part].start - key0) * g.v_width, g.v_width)
        for c in range(p.planes):
            keys_tile((l.ds + first * step if g.vjp == NULL else l.s + first * s_step + c * step) + at * nr, parts[part].n,
                      step if g.vjp == NULL else s_step, last - first, l.q_rows + first * nr * g.q_width + g.plane_at[c], g.q_width,
                      g.plane_at[c + 1] - g.plane_at[c], l.dk + (parts[part].start - key0) * g.q_width + g.plane_at[c], g.q_width)
        at += parts[part].n
