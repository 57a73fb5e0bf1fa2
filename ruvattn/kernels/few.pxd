# cython: cdivision=True
"""Few queries over many keys (decoding): keys in the lanes, since a panel of queries would be mostly empty.

The query heads that share a key head are taken together, so K and V are read once: row r of a task is query r % lq of head
hk·group + r // lq. What this path doesn't do (plans with bits, other scores, dropout, logits) goes through the panels.
"""
from libc.math cimport INFINITY, exp, isnan
from libc.string cimport memcpy, memset
from .microkernel cimport Accumulators, accumulate, store_rows
from .problem cimport Problem, row_high, row_low
from .softmax cimport exp_four, settle
from .vector cimport VLEN, real, tanh_v, v_load, v_max, v_set1, v_store, v_sum, v_top, vreal

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define ruvattn_prefetch(p) __builtin_prefetch(p)
    #else
    #define ruvattn_prefetch(p) ((void)(p))
    #endif
    """
    void prefetch "ruvattn_prefetch"(const void *p) noexcept nogil

cdef enum:
    FEW_ROWS = 4          # rows at the most: with more, a panel of queries is the faster way
    FEW_KEYS = 256        # keys of one tile: K and V of it stay in the second-level cache


cdef struct Few:
    real *q               # (rows, d), scaled
    real *o               # (rows, dv), unnormalised; ref and total behind it, so that a state is one piece of memory
    real *ref
    real *total
    real *s               # (rows, FEW_KEYS)
    real *v               # FEW_KEYS × 2·VLEN: the last columns of V, padded
    real *c               # FEW_ROWS × 2·VLEN


cdef inline void few_reset(const Problem *p, Few *f) noexcept nogil:
    cdef Py_ssize_t r, rows = p.group * p.lq
    memset(f.o, 0, rows * p.dv * sizeof(real))
    for r in range(rows):
        f.ref[r] = -INFINITY
        f.total[r] = 0


cdef inline void few_dots(const real *q, const real *k, Py_ssize_t ldk, Py_ssize_t d, real *s) noexcept nogil:
    """Four keys and one query, d in the lanes."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0, x
    cdef const real *k3 = k + 3 * ldk
    cdef Py_ssize_t c = 0
    cdef real t0 = 0, t1 = 0, t2 = 0, t3 = 0
    while c + VLEN <= d:
        x = v_load(q + c)
        c0 = c0 + x * v_load(k + c)
        c1 = c1 + x * v_load(k + ldk + c)
        c2 = c2 + x * v_load(k + 2 * ldk + c)
        c3 = c3 + x * v_load(k3 + c)
        c += VLEN
    while c < d:
        t0 += q[c] * k[c]
        t1 += q[c] * k[ldk + c]
        t2 += q[c] * k[2 * ldk + c]
        t3 += q[c] * k3[c]
        c += 1
    s[0] = v_sum(c0) + t0
    s[1] = v_sum(c1) + t1
    s[2] = v_sum(c2) + t2
    s[3] = v_sum(c3) + t3


cdef inline real few_dot(const real *q, const real *k, Py_ssize_t d) noexcept nogil:
    cdef vreal c0 = v_set1(0)
    cdef Py_ssize_t c = 0
    cdef real t = 0
    while c + VLEN <= d:
        c0 = c0 + v_load(q + c) * v_load(k + c)
        c += VLEN
    while c < d:
        t += q[c] * k[c]
        c += 1
    return v_sum(c0) + t


cdef inline void few_row(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t k0, Py_ssize_t n, real *s, real *ref, real *total,
                         real *alpha) noexcept nogil:
    """Softcap, bias, masks and the online softmax on one row of logits."""
    cdef Py_ssize_t j, low = row_low(p, b, i) - k0, high = row_high(p, b, i) - k0, padded = (n + 4 * VLEN - 1) // (4 * VLEN) * (4 * VLEN)
    cdef const unsigned char *mask
    cdef const real *bias
    cdef real y
    cdef vreal top, total_v, shift
    cdef vreal x[4]
    if p.softcap != 0:
        j = 0
        while j < n:
            # an infinity is an overflow, which the cap would hide: NaN has the row repaired
            v_store(s + j, v_set1(p.softcap) * tanh_v(v_load(s + j) * v_set1(1 / p.softcap)) + v_load(s + j) * v_set1(0))
            j += VLEN
    if p.bias != NULL:
        bias = p.bias + p.bias_at[b] + h * p.bias_head + i * p.bias_row + k0 * p.bias_key
        for j in range(n):
            y = bias[j * p.bias_key]
            s[j] = <real>-INFINITY if y == <real>-INFINITY else s[j] + y
    if p.mask != NULL:
        mask = p.mask + p.mask_at[b] + h * p.mask_head + i * p.mask_row + k0 * p.mask_key
        for j in range(n):
            s[j] = s[j] if mask[j * p.mask_key] != 0 else <real>-INFINITY
    for j in range(low if low < n else n):
        s[j] = -INFINITY
    for j in range(high if high > 0 else 0, n):
        s[j] = -INFINITY
    for j in range(n, padded):
        s[j] = -INFINITY
    top = v_set1(<real>-INFINITY)
    j = 0
    while j < padded:
        top = v_max(v_load(s + j), top)
        j += VLEN
    y = v_top(top)
    y = ref[0] if ref[0] > y else y
    if y == <real>-INFINITY:
        alpha[0] = 0
        for j in range(padded):
            s[j] = 0 if s[j] == <real>-INFINITY else s[j]
        return
    alpha[0] = <real>exp(<double>ref[0] - <double>y)
    ref[0] = y
    shift = v_set1(y)
    total_v = v_set1(0)
    j = 0
    while j < padded:
        x[0] = v_load(s + j) - shift
        x[1] = v_load(s + j + VLEN) - shift
        x[2] = v_load(s + j + 2 * VLEN) - shift
        x[3] = v_load(s + j + 3 * VLEN) - shift
        exp_four(x)
        total_v = total_v + ((x[0] + x[1]) + (x[2] + x[3]))
        v_store(s + j, x[0])
        v_store(s + j + VLEN, x[1])
        v_store(s + j + 2 * VLEN, x[2])
        v_store(s + j + 3 * VLEN, x[3])
        j += 4 * VLEN
    total[0] = total[0] * alpha[0] + v_sum(total_v)


cdef inline void few_values_one(const real *s, const real *v, Py_ssize_t ldv, Py_ssize_t n, real *c) noexcept nogil:
    """c[: 8·VLEN] = Σ_j s[j] · v[j, : 8·VLEN], the sums in eight registers: long pieces of each row of V, which is read from memory just once."""
    cdef vreal c0 = v_set1(0), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, x
    cdef Py_ssize_t j
    for j in range(n):
        x = v_set1(s[j])
        c0 = c0 + x * v_load(v)
        c1 = c1 + x * v_load(v + VLEN)
        c2 = c2 + x * v_load(v + 2 * VLEN)
        c3 = c3 + x * v_load(v + 3 * VLEN)
        c4 = c4 + x * v_load(v + 4 * VLEN)
        c5 = c5 + x * v_load(v + 5 * VLEN)
        c6 = c6 + x * v_load(v + 6 * VLEN)
        c7 = c7 + x * v_load(v + 7 * VLEN)
        v += ldv
    v_store(c, c0)
    v_store(c + VLEN, c1)
    v_store(c + 2 * VLEN, c2)
    v_store(c + 3 * VLEN, c3)
    v_store(c + 4 * VLEN, c4)
    v_store(c + 5 * VLEN, c5)
    v_store(c + 6 * VLEN, c6)
    v_store(c + 7 * VLEN, c7)


cdef inline void few_values(int rows, const real *s, const real *v, Py_ssize_t ldv, Py_ssize_t n, real *c) noexcept nogil:
    """c[r, :] = Σ_j s[r, j] · v[j, : NR]."""
    cdef Accumulators a
    if rows == 1:
        a = accumulate(1, s, FEW_KEYS, 1, v, ldv, n)
        store_rows(1, &a, c)
    elif rows == 2:
        a = accumulate(2, s, FEW_KEYS, 1, v, ldv, n)
        store_rows(2, &a, c)
    elif rows == 3:
        a = accumulate(3, s, FEW_KEYS, 1, v, ldv, n)
        store_rows(3, &a, c)
    else:
        a = accumulate(4, s, FEW_KEYS, 1, v, ldv, n)
        store_rows(4, &a, c)


cdef inline void few_range(const Problem *p, Py_ssize_t b, Py_ssize_t hk, Py_ssize_t k0, Py_ssize_t high, Few *f) noexcept nogil:
    """Keys [k0, high), of which every row sees what its interval, the mask and the bias let it see."""
    cdef Py_ssize_t nr = 2 * VLEN, rows = p.group * p.lq, r, c, j, n, first, fresh, t
    cdef const real *k = p.k + p.k_at[b] + hk * p.k_head
    cdef const real *v = p.v + p.v_at[b] + hk * p.v_head
    cdef real alpha[FEW_ROWS]
    while k0 < high:
        n = high - k0 if high - k0 < FEW_KEYS else FEW_KEYS
        j = 0
        while j + 4 <= n:
            for r in range(rows):
                few_dots(f.q + r * p.d, k + (k0 + j) * p.k_row, p.k_row, p.d, f.s + r * FEW_KEYS + j)
            # V is wanted in strips, an order in which the processor fetches it slowly: fetch it row by row while K is worked on (1.7 times as fast
            # with four heads a key head, 1.2 with one)
            for t in range(j, j + 4):
                c = 0
                while c < p.dv:
                    prefetch(v + (k0 + t) * p.v_row + c)
                    c += 64 // <Py_ssize_t>sizeof(real)
            j += 4
        while j < n:
            for r in range(rows):
                f.s[r * FEW_KEYS + j] = few_dot(f.q + r * p.d, k + (k0 + j) * p.k_row, p.d)
            j += 1
        for r in range(rows):
            few_row(p, b, hk * p.group + r // p.lq, r % p.lq, k0, n, f.s + r * FEW_KEYS, f.ref + r, f.total + r, alpha + r)
        c = 0
        if rows == 1:
            while c + 4 * nr <= p.dv:
                few_values_one(f.s, v + k0 * p.v_row + c, p.v_row, n, f.c)
                for j in range(4 * nr):
                    f.o[c + j] = f.o[c + j] * alpha[0] + f.c[j]
                c += 4 * nr
        while c < p.dv:
            # the last columns once more from where a whole pair of vectors fits, only the new ones being kept
            first = c
            if c + nr > p.dv and p.dv >= nr:
                first = p.dv - nr
            if p.dv < nr:
                for j in range(n):
                    memcpy(f.v + j * nr, v + (k0 + j) * p.v_row, p.dv * sizeof(real))
                few_values(<int>rows, f.s, f.v, nr, n, f.c)
            else:
                few_values(<int>rows, f.s, v + k0 * p.v_row + first, p.v_row, n, f.c)
            fresh = p.dv - c if p.dv - c < nr else nr
            for r in range(rows):
                for j in range(fresh):
                    f.o[r * p.dv + c + j] = f.o[r * p.dv + c + j] * alpha[r] + f.c[r * nr + c - first + j]
            c += nr
        k0 += n


cdef inline bint few_can(const Problem *p) noexcept nogil:
    """Whether the plan, if there is one, has no bits, and says the same for the heads that share keys."""
    cdef Py_ssize_t seg
    if p.plan_ptr == NULL:
        return True
    if p.lq > p.plan_rows or (p.plan_head != 0 and p.group > 1):
        return False
    for seg in range(p.plan_ptr[(p.batch - 1) * p.plan_batch + (p.heads - 1) * p.plan_head + 1]):
        if p.plan_bit[seg] >= 0:
            return False
    return True


cdef inline void few_attend(const Problem *p, Py_ssize_t b, Py_ssize_t hk, Py_ssize_t key0, Py_ssize_t key1, Few *f) noexcept nogil:
    cdef Py_ssize_t rows = p.group * p.lq, r, c, low = key1, high = key0, t, entry, seg, start, stop
    cdef const real *q
    cdef real scale
    for r in range(rows):
        q = p.q + p.q_at[b] + (hk * p.group + r // p.lq) * p.q_head + (r % p.lq) * p.q_row
        scale = p.scale[hk * p.group + r // p.lq]
        for c in range(p.d):
            f.q[r * p.d + c] = q[c] * scale
        t = row_low(p, b, r % p.lq)
        low = t if t < low else low
        t = row_high(p, b, r % p.lq)
        high = t if t > high else high
    few_reset(p, f)
    low = low if low > key0 else key0
    high = high if high < key1 else key1
    if p.plan_ptr == NULL:
        few_range(p, b, hk, low, high, f)
        return
    entry = b * p.plan_batch + hk * p.group * p.plan_head
    for seg in range(p.plan_ptr[entry], p.plan_ptr[entry + 1]):
        start = p.plan_start[seg] if p.plan_start[seg] > low else low
        stop = p.plan_stop[seg] if p.plan_stop[seg] < high else high
        few_range(p, b, hk, start, stop, f)


cdef inline void few_merge(const Problem *p, const Few *other, Few *f) noexcept nogil:
    cdef Py_ssize_t rows = p.group * p.lq, r, c
    cdef real ref, a, t
    for r in range(rows):
        ref = f.ref[r] if f.ref[r] > other.ref[r] else other.ref[r]
        if ref == <real>-INFINITY:
            continue
        a = <real>exp(<double>f.ref[r] - <double>ref)
        t = <real>exp(<double>other.ref[r] - <double>ref)
        f.ref[r] = ref
        f.total[r] = f.total[r] * a + other.total[r] * t
        for c in range(p.dv):
            f.o[r * p.dv + c] = f.o[r * p.dv + c] * a + other.o[r * p.dv + c] * t


cdef inline bint few_finish(const Problem *p, Py_ssize_t b, Py_ssize_t hk, const Few *f) noexcept nogil:
    """Normalise and write; True where something isn't finite, or a row that may see keys got no weight."""
    cdef Py_ssize_t rows = p.group * p.lq, r, c, h, i
    cdef real factor, check, lse
    cdef real *out
    cdef bint bad = False
    for r in range(rows):
        h = hk * p.group + r // p.lq
        i = r % p.lq
        lse = settle(f.ref[r], f.total[r], p.sinks + h if p.sinks != NULL else NULL, &factor)
        out = p.out + p.out_at[b] + h * p.out_head + i * p.out_row
        check = 0
        for c in range(p.dv):
            out[c] = f.o[r * p.dv + c] * factor
            check = check + out[c] * 0
        p.lse[(b * p.heads + h) * p.lq + i] = lse
        bad = bad or check != 0 or isnan(lse) or lse == INFINITY or (f.total[r] == 0 and row_low(p, b, i) < row_high(p, b, i))
    return bad
