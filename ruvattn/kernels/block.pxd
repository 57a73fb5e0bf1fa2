# cython: cdivision=True
"""A block of rows of one head: over all keys or one split of them, from packing the queries to writing the rows.

    begin → attend_all | attend_plan (tile after tile) → conclude: finish → repair, where something isn't finite → widen
    save_state, merge_state: between splits of the keys
"""
from libc.math cimport INFINITY, isnan
from libc.string cimport memcpy, memset

from .dropout cimport head_key, row_key
from .fold cimport python_score, tile
from .masks cimport part_bits
from .openmp cimport omp_get_thread_num
from .panel cimport pack_panel, unpack_panel
from .problem cimport Part, Problem, Scratch, row_high, row_low
from .select cimport merge_best, reset_best, save_best, write_best
from .softmax cimport settle
from .team cimport interrupted
from .vector cimport REAL_MAX, VLEN, exp_v, real, urint, v_eq, v_load, v_max, v_select, v_set1, v_store, vreal
from .wide cimport wide_row

cdef enum:
    WIDE_PATIENCE = 50_000_000  # multiply-adds in wide arithmetic between looks for Ctrl-C: a tenth of a second, about


cdef inline Py_ssize_t state_size(const Problem *p) noexcept nogil:
    """Numbers in the unnormalised state of a block, as save_state writes it: reference, total, and the output or the choice (a key counts as one)."""
    return (p.block_rows + 2 * VLEN - 1) // (2 * VLEN) * (2 * VLEN) * (2 + (p.dv if p.top_k == 0 else 2 * p.top_k + 1))


cdef inline void begin(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Scratch *w) noexcept nogil:
    """Pack the queries, and set intervals, dropout keys and an empty state."""
    cdef Py_ssize_t nr = 2 * VLEN, panel = 0, i0 = r0, m, i, row
    cdef real scale = p.scale[h]
    cdef const real *q = p.q + p.q_at[b] + h * p.q_head
    cdef unsigned int key = 0
    if p.dropout:
        key = head_key(p.seed, b, h)
    while i0 < r1:
        m = r1 - i0 if r1 - i0 < nr else nr
        pack_panel(q + i0 * p.q_row, p.q_row, m, p.d, scale, w.q + panel * p.d * nr)
        for i in range(nr):
            row = i0 + (i if i < m else m - 1)
            w.state[panel * 4 * nr + i] = -INFINITY
            w.state[panel * 4 * nr + nr + i] = 0
            w.interval[panel * 2 * nr + i] = <urint>row_low(p, b, row)
            w.interval[panel * 2 * nr + nr + i] = <urint>row_high(p, b, row)
            if p.dropout:
                w.drop[panel * nr + i] = row_key(key, row)
        if p.top_k > 0:
            reset_best(panel, m, w)
        panel += 1
        i0 += nr
    if p.top_k == 0:
        memset(w.o, 0, panel * p.dv * nr * sizeof(real))


cdef inline int attend_all(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t key0, Py_ssize_t key1,
                           bint marked, Scratch *w) noexcept nogil:
    """No pattern: blocks of keys outside, panels inside, so that a block of K and V serves every panel from the second-level cache."""
    cdef Py_ssize_t nr = 2 * VLEN, kb, i0, m, panel, start, stop, low = row_low(p, b, r0), high = row_high(p, b, r1 - 1)
    cdef Py_ssize_t planes = p.planes if p.planes > 0 else 1
    cdef real *s = w.s
    cdef Part part, own
    cdef urint *words
    part.words = NULL
    part.bits = NULL
    low = low if low > key0 else key0
    high = high if high < key1 else key1
    if low >= high:
        return 0
    kb = low // p.block_keys * p.block_keys
    while kb < high:
        if p.python != NULL:
            part.start = low if low > kb else kb
            part.n = (high if high < kb + p.block_keys else kb + p.block_keys) - part.start
            if python_score(p, b, h, r0, r1 - r0, 0, &part, 1, part.n, w) != 0:
                return -1
        i0 = r0
        panel = 0
        while i0 < r1:
            m = r1 - i0 if r1 - i0 < nr else nr
            words = w.words
            if p.python != NULL:
                # every panel has the logits of the whole block: the rows' own intervals are blended in
                own = part
                if part_bits(p, b, h, i0, m, &own, False, &words):
                    tile(p, b, h, i0, m, panel, &own, 1, part.n, w.s + panel * nr * planes * p.block_keys, marked, w)
                panel += 1
                i0 += nr
                continue
            start = <Py_ssize_t>w.interval[panel * 2 * nr]
            stop = <Py_ssize_t>w.interval[panel * 2 * nr + nr + m - 1]
            start = start if start > kb else kb
            start = start if start > key0 else key0
            stop = stop if stop < kb + p.block_keys else kb + p.block_keys
            stop = stop if stop < key1 else key1
            if start < stop:
                part.start = start
                part.n = stop - start
                if part_bits(p, b, h, i0, m, &part, True, &words):
                    tile(p, b, h, i0, m, panel, &part, 1, part.n, s, marked, w)
            panel += 1
            i0 += nr
        kb += p.block_keys
    return 0


cdef inline int plan_tile(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t i0, Py_ssize_t i1, Part *parts, int n_parts,
                          bint marked, Scratch *w) noexcept nogil:
    """One tile of a block of the plan, rows [i0, i1): each of its panels takes what it sees of the parts, which stay in the cache for the next."""
    cdef Py_ssize_t nr = 2 * VLEN, m, panel, low, high, start, stop, n
    cdef Part *own = parts + p.block_keys
    cdef urint *words
    cdef int part, n_own
    while i0 < i1:
        m = i1 - i0 if i1 - i0 < nr else nr
        panel = (i0 - r0) // nr
        low = <Py_ssize_t>w.interval[panel * 2 * nr]
        high = <Py_ssize_t>w.interval[panel * 2 * nr + nr + m - 1]
        words = w.words
        n = 0
        n_own = 0
        for part in range(n_parts):
            start = parts[part].start if parts[part].start > low else low
            stop = parts[part].start + parts[part].n
            stop = stop if stop < high else high
            if start >= stop:
                continue
            own[n_own] = parts[part]
            own[n_own].start = start
            own[n_own].n = stop - start
            own[n_own].first_bit += start - parts[part].start
            if part_bits(p, b, h, i0, m, own + n_own, True, &words):
                n += own[n_own].n
                n_own += 1
        if n > 0:
            if p.python != NULL and python_score(p, b, h, i0, m, panel, own, n_own, n, w) != 0:
                return -1
            tile(p, b, h, i0, m, panel, own, n_own, n, w.s, marked, w)
        for part in range(n_parts):
            if parts[part].words != NULL:
                parts[part].words += nr * parts[part].words_per_row
        i0 += nr
    return 0


cdef inline int attend_plan(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t key0, Py_ssize_t key1,
                            bint marked, Scratch *w, Part *parts) noexcept nogil:
    """With a pattern: a block of its plan at a time, its segments gathered into full tiles."""
    cdef Py_ssize_t i0 = r0, i1, entry, seg, end, low, high, start, stop, n, take
    cdef int n_parts
    while i0 < r1:
        entry = (i0 - p.first) // p.plan_rows
        i1 = p.first + (entry + 1) * p.plan_rows
        i1 = i1 if i1 < r1 else r1
        low = row_low(p, b, i0)
        high = row_high(p, b, i1 - 1)
        low = low if low > key0 else key0
        high = high if high < key1 else key1
        entry += b * p.plan_batch + h * p.plan_head
        seg = p.plan_ptr[entry]
        end = p.plan_ptr[entry + 1]
        n = 0
        n_parts = 0
        while seg < end:
            start = p.plan_start[seg] if p.plan_start[seg] > low else low
            stop = p.plan_stop[seg] if p.plan_stop[seg] < high else high
            while start < stop:
                take = stop - start
                if take > p.block_keys - n:
                    take = p.block_keys - n
                parts[n_parts].start = start
                parts[n_parts].n = take
                parts[n_parts].words = NULL
                parts[n_parts].words_per_row = 0
                parts[n_parts].first_bit = 0
                if p.plan_bit[seg] >= 0:
                    parts[n_parts].words_per_row = p.plan_row_words[entry]
                    parts[n_parts].words = p.plan_words + p.plan_words_at[entry] + ((i0 - p.first) % p.plan_rows) * p.plan_row_words[entry]
                    parts[n_parts].first_bit = p.plan_bit[seg] + start - p.plan_start[seg]
                n_parts += 1
                n += take
                start += take
                if n == p.block_keys:
                    if plan_tile(p, b, h, r0, i0, i1, parts, n_parts, marked, w) != 0:
                        return -1
                    n = 0
                    n_parts = 0
            seg += 1
        if n > 0 and plan_tile(p, b, h, r0, i0, i1, parts, n_parts, marked, w) != 0:
            return -1
        i0 = i1
    return 0


cdef inline int attend_block(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t split, bint marked,
                             Scratch *w, Part *parts) noexcept nogil:
    """Leave the unnormalised state of rows [r0, r1) over one split of the keys in the scratch."""
    cdef Py_ssize_t key0 = 0, key1 = p.lk
    if p.splits > 1:
        key0 = split * p.split_keys
        key1 = key0 + p.split_keys if key0 + p.split_keys < p.lk else p.lk
    begin(p, b, h, r0, r1, w)
    if p.plan_ptr != NULL:
        return attend_plan(p, b, h, r0, r1, key0, key1, marked, w, parts)
    return attend_all(p, b, h, r0, r1, key0, key1, marked, w)


cdef inline int finish(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Scratch *w, bint *broken) noexcept nogil:
    """Normalise and write rows [r0, r1); returns how many of them (in w.bad, by offset from r0) are not to be trusted: something isn't
    finite, in which case ``broken`` is set, or nothing had a weight although by its position the row may see keys."""
    cdef Py_ssize_t nr = 2 * VLEN, i0 = r0, m, panel = 0, i
    cdef int bad = 0
    cdef real *state
    cdef real *factor
    cdef real *finite
    cdef const real *sink = p.sinks + h if p.sinks != NULL else NULL
    cdef real lane
    cdef real *out = p.out + p.out_at[b] + h * p.out_head
    cdef real *lse = p.lse + (b * p.heads + h) * p.lq
    while i0 < r1:
        m = r1 - i0 if r1 - i0 < nr else nr
        state = w.state + panel * 4 * nr
        factor = state + 2 * nr
        finite = state + 3 * nr
        for i in range(nr):
            lane = settle(state[i], state[nr + i], sink, factor + i)
            if i < m:
                lse[i0 + i] = lane
        unpack_panel(w.o + panel * p.dv * nr, nr, m, p.dv, factor, out + i0 * p.out_row, p.out_row, finite)
        for i in range(m):
            if finite[i] != 0 or isnan(lse[i0 + i]) or lse[i0 + i] == INFINITY:
                broken[0] = True
            elif state[nr + i] != 0 or w.interval[panel * 2 * nr + i] >= w.interval[panel * 2 * nr + nr + i]:
                continue
            w.bad[bad] = <int>(i0 + i - r0)
            bad += 1
        panel += 1
        i0 += nr
    return bad


cdef inline void save_state(const Problem *p, Py_ssize_t panels, const Scratch *w, real *partial) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN, panel
    if p.top_k > 0:
        partial = save_best(p, panels * nr, w, partial)
    else:
        memcpy(partial, w.o, panels * p.dv * nr * sizeof(real))
        partial += panels * p.dv * nr
    for panel in range(panels):
        memcpy(partial + panel * 2 * nr, w.state + panel * 4 * nr, 2 * nr * sizeof(real))


cdef inline void merge_state(const Problem *p, Py_ssize_t panels, const real *partial, Scratch *w) noexcept nogil:
    """Fold another split's state into the one in the scratch: both to the larger reference, then add."""
    cdef Py_ssize_t nr = 2 * VLEN, panel, half, c
    cdef const real *other = partial + panels * p.dv * nr if p.top_k == 0 else merge_best(p, panels * nr, partial, w)
    cdef real *state
    cdef real *o
    cdef const real *add
    cdef vreal ref, mine, theirs, a, t, least = v_set1(<real>-INFINITY)
    for panel in range(panels):
        for half in range(2):
            state = w.state + panel * 4 * nr + half * VLEN
            mine = v_load(state)
            theirs = v_load(other + panel * 2 * nr + half * VLEN)
            ref = v_max(mine, theirs)
            v_store(state, ref)
            ref = v_select(v_eq(ref, least), v_set1(0), ref)
            a = exp_v(mine - ref)
            t = exp_v(theirs - ref)
            v_store(state + nr, v_load(state + nr) * a + v_load(other + panel * 2 * nr + nr + half * VLEN) * t)
            o = w.o + panel * p.dv * nr + half * VLEN
            add = partial + panel * p.dv * nr + half * VLEN
            for c in range(p.dv if p.top_k == 0 else 0):
                v_store(o + c * nr, v_load(o + c * nr) * a + v_load(add + c * nr) * t)


cdef inline int widen(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, int bad, Scratch *w) noexcept nogil:
    """The rows in w.bad in wide arithmetic, where the engine knows how to make their logits; one that sees nothing is left as it is."""
    cdef int i
    cdef double since = 0
    if p.forward != NULL or p.python != NULL:
        return 0
    for i in range(bad):
        if p.stop[0]:
            return 0
        wide_row(p, b, h, r0 + w.bad[i], REAL_MAX)
        # a row here takes as long as a hundred elsewhere; thread 0 is the caller's, the only one that can be the main one
        since += 3.0 * p.lk * (p.d + p.dv)
        if since > WIDE_PATIENCE and omp_get_thread_num() == 0:
            since = 0
            if interrupted(p.raised):
                p.stop[0] = 1
    return 0


cdef inline int repair(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Scratch *w, Part *parts) noexcept nogil:
    """Rows that finish() doesn't trust. NaN or Inf among the values may have come in through a masked key: once more, with masked keys left out
    of the sum. What is still not finite may be an overflow of finite input: those rows in wide arithmetic."""
    cdef Py_ssize_t split, panels = (r1 - r0 + 2 * VLEN - 1) // (2 * VLEN)
    cdef bint broken = False
    if attend_block(p, b, h, r0, r1, 0, True, w, parts) != 0:
        return -1
    for split in range(1, p.splits):
        save_state(p, panels, w, w.saved)
        if attend_block(p, b, h, r0, r1, split, True, w, parts) != 0:
            return -1
        merge_state(p, panels, w.saved, w)
    return widen(p, b, h, r0, finish(p, b, h, r0, r1, w, &broken), w)


cdef inline int conclude(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Scratch *w, Part *parts) noexcept nogil:
    """Write rows [r0, r1) and see to those that finish() doesn't trust. Rows without a weight alone, mostly masked ones, leave the others be."""
    cdef bint broken = False
    cdef int bad
    if p.top_k > 0:
        write_best(p, b, h, r0, r1, w)
        return 0
    bad = finish(p, b, h, r0, r1, w, &broken)
    if broken:
        return repair(p, b, h, r0, r1, w, parts)
    return widen(p, b, h, r0, bad, w)
