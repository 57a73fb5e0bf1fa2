# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The tile engine, backward: weights and gradients of logits again, tile by tile, and five products with them.

    attend_backward()   reads arrays into a Problem (reading.pxd), cuts the work into tasks, runs them, serially or on a team
      task              the query heads of one key head, and one split of its keys: nobody else writes to the gradients of those keys
        key block       as many keys as have their gradients in the second-level cache, over all rows
          block         rows that are packed once (BACK_PANELS panels)
            tile        up to tile_keys keys × the block (backward.pxd)
      merge             the gradients of the queries, which every split has a part of, in the order of the splits

What a task computes depends on the shape alone, never on the number of threads. Nothing is repaired here: where a gradient isn't finite, ``bad`` says
so for its key head, and the Python above looks again (ruvattn.backward).
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from cython.parallel cimport parallel, prange
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from .arrays cimport Arena, leading, offsets, reals, step, take
from .backward cimport BACK_PANELS, Back, BackScratch, back_tile, padded, score_vjp
from .dropout cimport head_key, row_key
from .openmp cimport omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team
from .panel cimport pack_panel, unpack_panel
from .problem cimport Part, Problem, Scratch, row_high, row_low
from .reading cimport TABLES, set_options, set_shapes
from .team cimport Queue, interrupted, leave, next_task
from .vector cimport VLEN, real, urint, v_load, v_set1, v_store, v_sum, vreal

import numpy as np

cnp.import_array()

LANES = 2 * VLEN

cdef enum:
    TILE_BYTES = 480        # a number for each key of a tile: 120 floats, multiples of six
    BLOCK_BYTES = 1 << 17   # gradients of the keys and values of a key block
    LEAST_KEYS = 256        # keys of a split at the least
    TASKS = 8               # keep two to four threads busy to the end
    DELTA_ROWS = 256
    MORE_TABLES = 5

# Multiply-adds of a thread between looks for Ctrl-C: as in tile.pyx.
cdef double PATIENCE = 4e9


# --- a block of rows ------------------------------------------------------------------------------------------------------------

cdef void begin_block(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t rows, Scratch *w,
                      BackScratch *l) noexcept nogil:
    """Pack queries and output gradients, both ways, and what each row needs."""
    cdef Py_ssize_t nr = 2 * VLEN, panels = (rows + nr - 1) // nr, panel, m, i, row, c
    cdef const real *q = p.q + p.q_at[b] + h * p.q_head + i0 * p.q_row
    cdef const real *dout = g.dout + g.dout_at[b] + h * g.dout_head + i0 * g.dout_row
    cdef const real *lse = p.lse + (b * p.heads + h) * p.lq + i0
    cdef const real *delta = g.delta + (b * p.heads + h) * p.lq + i0
    cdef unsigned int key = head_key(p.seed, b, h) if p.dropout else 0
    for panel in range(panels):
        m = rows - panel * nr if rows - panel * nr < nr else nr
        pack_panel(q + panel * nr * p.q_row, p.q_row, m, p.d, p.scale[h] if g.vjp == NULL else 1, l.q + panel * p.d * nr)
        pack_panel(dout + panel * nr * g.dout_row, g.dout_row, m, p.dv, 1, l.g + panel * p.dv * nr)
        for i in range(nr):
            row = panel * nr + i
            # e^(0 − ∞) = 0: the lanes that stand for no row weigh nothing. So does one that sees nothing, whose logits are all −∞.
            l.lse[row] = <real>INFINITY if i >= m else (0 if lse[row] == -INFINITY else lse[row])
            l.delta[row] = delta[row] if i < m else 0
            w.interval[panel * 2 * nr + i] = <urint>row_low(p, b, i0 + (row if i < m else rows - 1))
            w.interval[panel * 2 * nr + nr + i] = <urint>row_high(p, b, i0 + (row if i < m else rows - 1))
            if p.dropout:
                w.drop[row] = row_key(key, i0 + (row if i < m else rows - 1))
    for i in range(rows):
        for c in range(p.planes):
            memcpy(l.q_rows + i * g.q_width + g.plane_at[c], q + i * p.q_row + p.plane_start[c],
                   (p.plane_start[c + 1] - p.plane_start[c]) * sizeof(real))
        memcpy(l.g_rows + i * g.v_width, dout + i * g.dout_row, p.dv * sizeof(real))
    memset(l.q_rows + rows * g.q_width, 0, (panels * nr - rows) * g.q_width * sizeof(real))
    memset(l.g_rows + rows * g.v_width, 0, (panels * nr - rows) * g.v_width * sizeof(real))
    memset(l.dq, 0, panels * p.d * nr * sizeof(real))
    if p.vectors:
        memset(l.dq_vec, 0, panels * nr * p.d * sizeof(real))


cdef inline real add_row(const real *x, Py_ssize_t n, real *to) noexcept nogil:
    """to += x; 0 where all of it is finite, else NaN."""
    cdef Py_ssize_t c = 0
    cdef real check = 0
    cdef vreal all_of = v_set1(0), y
    while c + VLEN <= n:
        y = v_load(to + c) + v_load(x + c)
        v_store(to + c, y)
        all_of = all_of + y * v_set1(0)
        c += VLEN
    check = v_sum(all_of)
    while c < n:
        to[c] += x[c]
        check += to[c] * 0
        c += 1
    return check


cdef real end_block(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t split,
                    BackScratch *l) noexcept nogil:
    """Add the block's part to the gradients of its queries."""
    cdef Py_ssize_t nr = 2 * VLEN, panel, m, i, size
    cdef real check = 0
    cdef real *target
    for panel in range((rows + nr - 1) // nr):
        m = rows - panel * nr if rows - panel * nr < nr else nr
        # the packed queries have had their turn: their place is as large as the rows need
        unpack_panel(l.dq + panel * p.d * nr, nr, m, p.d, l.ones, l.q, p.d, l.top)
        for i in range(m):
            size = i0 + panel * nr + i
            if g.dq_parts != NULL:
                target = g.dq_parts + (((split * p.batch + b) * p.heads + h) * p.rows_here + size - p.first) * p.d
            else:
                target = g.dq + g.dq_at[b] + h * g.dq_head + size * g.dq_row
            check += add_row(l.q + i * p.d, p.d, target)
            if p.vectors:
                check += add_row(l.dq_vec + (panel * nr + i) * p.d, p.d, target)
    return check


cdef real block(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t low, Py_ssize_t high,
                Py_ssize_t split, Py_ssize_t key0, Scratch *w, BackScratch *l, Part *parts) noexcept nogil:
    """A block of rows over keys [low, high) of the key block that begins at key0."""
    cdef Py_ssize_t start, stop, seg, end, entry, n = 0, some, middle
    cdef int n_parts = 0
    cdef bint begun = False
    if p.plan_ptr == NULL:
        begin_block(p, g, b, h, i0, rows, w, l)
        while low < high:
            parts[0].start = low
            parts[0].n = high - low if high - low < g.tile_keys else g.tile_keys
            parts[0].words = NULL
            parts[0].words_per_row = 0
            parts[0].first_bit = 0
            back_tile(p, g, b, h, i0, rows, parts, 1, parts[0].n, split, key0, w, l)
            low += parts[0].n
        return end_block(p, g, b, h, i0, rows, split, l)
    entry = (i0 - p.first) // p.plan_rows + b * p.plan_batch + h * p.plan_head
    seg = p.plan_ptr[entry]
    end = p.plan_ptr[entry + 1]
    # the first segment that reaches beyond low: they are sorted
    some = end
    while seg < some:
        middle = (seg + some) // 2
        if p.plan_stop[middle] <= low:
            seg = middle + 1
        else:
            some = middle
    while seg < end and p.plan_start[seg] < high:
        start = p.plan_start[seg] if p.plan_start[seg] > low else low
        stop = p.plan_stop[seg] if p.plan_stop[seg] < high else high
        while start < stop:
            if not begun:
                begin_block(p, g, b, h, i0, rows, w, l)
                begun = True
            parts[n_parts].start = start
            parts[n_parts].n = stop - start if stop - start < g.tile_keys - n else g.tile_keys - n
            parts[n_parts].words = NULL
            parts[n_parts].words_per_row = 0
            parts[n_parts].first_bit = 0
            if p.plan_bit[seg] >= 0:
                parts[n_parts].words_per_row = p.plan_row_words[entry]
                parts[n_parts].words = p.plan_words + p.plan_words_at[entry] + ((i0 - p.first) % p.plan_rows) * p.plan_row_words[entry]
                parts[n_parts].first_bit = p.plan_bit[seg] + start - p.plan_start[seg]
            n += parts[n_parts].n
            start += parts[n_parts].n
            n_parts += 1
            if n == g.tile_keys:
                back_tile(p, g, b, h, i0, rows, parts, n_parts, n, split, key0, w, l)
                n = 0
                n_parts = 0
        seg += 1
    if n > 0:
        back_tile(p, g, b, h, i0, rows, parts, n_parts, n, split, key0, w, l)
    return end_block(p, g, b, h, i0, rows, split, l) if begun else 0


# --- tasks ----------------------------------------------------------------------------------------------------------------------

cdef void head_keys(const Problem *p, const Back *g, Py_ssize_t b, Py_ssize_t hk, Py_ssize_t split, Scratch *w, BackScratch *l,
                    Part *parts) noexcept nogil:
    """One split of the keys of one key head, over all rows of its query heads."""
    cdef Py_ssize_t key0 = split * p.split_keys, key1 = key0 + p.split_keys, stop, h, i0, rows, low, high, j, c, end = p.first + p.rows_here
    cdef Py_ssize_t most = BACK_PANELS * 2 * VLEN, block_end
    cdef double since = 0
    cdef real check = 0
    cdef real *to
    key1 = key1 if key1 < p.lk else p.lk
    while key0 < key1:
        stop = key0 + g.key_block if key0 + g.key_block < key1 else key1
        memset(l.dk, 0, (stop - key0) * g.q_width * sizeof(real))
        memset(l.dv, 0, (stop - key0) * g.v_width * sizeof(real))
        if p.vectors:
            memset(l.dk_raw, 0, (stop - key0) * p.d * sizeof(real))
        for h in range(hk * p.group, (hk + 1) * p.group):
            i0 = p.first
            while i0 < end and not p.stop[0]:
                rows = end - i0 if end - i0 < most else most
                if p.plan_ptr != NULL:
                    block_end = p.first + ((i0 - p.first) // p.plan_rows + 1) * p.plan_rows
                    rows = rows if i0 + rows < block_end else block_end - i0
                low = row_low(p, b, i0)
                high = row_high(p, b, i0 + rows - 1)
                low = low if low > key0 else key0
                high = high if high < stop else stop
                if low < high:
                    check += block(p, g, b, h, i0, rows, low, high, split, key0, w, l, parts)
                    since += <double>rows * (high - low) * (3 * p.d + 2 * p.dv)
                i0 += rows
                # thread 0 is the caller's, the only one that can be the main one
                if since > PATIENCE and omp_get_thread_num() == 0:
                    since = 0
                    if interrupted(p.raised):
                        p.stop[0] = 1
        for j in range(stop - key0):
            to = g.dk + g.dk_at[b] + hk * g.dk_head + (key0 + j) * g.dk_row
            for c in range(p.planes):
                check += add_row(l.dk + j * g.q_width + g.plane_at[c], p.plane_start[c + 1] - p.plane_start[c], to + p.plane_start[c])
            if p.vectors:
                check += add_row(l.dk_raw + j * p.d, p.d, to)
            check += add_row(l.dv + j * g.v_width, p.dv, g.dv + g.dv_at[b] + hk * g.dv_head + (key0 + j) * g.dv_row)
        key0 = stop
    if check != 0:  # NaN isn't, either
        g.bad[b * (p.heads // p.group) + hk] = 1


cdef int back_task(const Problem *p, const Back *g, Py_ssize_t task, Scratch *w, BackScratch *l, Part *parts) noexcept nogil:
    """What one task computes: a key head, or all that share a part of the gradient of the bias, one after another."""
    cdef Py_ssize_t heads = p.heads // p.group, split = task % p.splits, item = task // p.splits, b, hk
    cdef Py_ssize_t b0, b1, h0, h1
    h0 = item % (1 if g.one_head else heads)
    b0 = item // (1 if g.one_head else heads)
    h1 = heads if g.one_head else h0 + 1
    b1 = p.batch if g.one_batch else b0 + 1
    w.kv_of = NULL
    for b in range(b0, b1):
        for hk in range(h0, h1):
            head_keys(p, g, b, hk, split, w, l, parts)
    return 0


cdef int merge_task(const Problem *p, const Back *g, Py_ssize_t item, Scratch *w, BackScratch *l, Part *parts) noexcept nogil:
    """The splits' parts of the gradients of the queries of one head."""
    cdef Py_ssize_t b = item // p.heads, h = item % p.heads, split, i
    cdef real check = 0
    for i in range(p.rows_here):
        for split in range(p.splits):
            check += add_row(g.dq_parts + (((split * p.batch + b) * p.heads + h) * p.rows_here + i) * p.d, p.d,
                             g.dq + g.dq_at[b] + h * g.dq_head + (p.first + i) * g.dq_row)
    if check != 0:
        g.bad[b * (p.heads // p.group) + h // p.group] = 1
    return 0


ctypedef int (*back_function)(const Problem *p, const Back *g, Py_ssize_t task, Scratch *w, BackScratch *l, Part *parts) noexcept nogil


# --- scratch --------------------------------------------------------------------------------------------------------------------

cdef void lay_out(const Problem *p, const Back *g, Arena *arena, Scratch *w, BackScratch *l, Part **parts) noexcept nogil:
    """A thread's scratch: sized by the blocks, never by the lengths."""
    cdef size_t nr = 2 * VLEN, panels = BACK_PANELS, keys = g.tile_keys, planes = p.planes if p.planes > 0 else 1, tile = (keys + VLEN) * nr
    cdef bint scored = g.vjp != NULL
    cdef size_t most = keys if p.plan_ptr != NULL else 1
    memset(w, 0, sizeof(Scratch))
    memset(l, 0, sizeof(BackScratch))
    w.interval = <urint *>take(arena, panels * 2 * nr, sizeof(urint))
    w.drop = <urint *>take(arena, panels * nr, sizeof(urint))
    w.words = <urint *>take(arena, (keys // 32 + 1 + most) * nr, sizeof(urint))
    w.rows = <real *>take(arena, p.n_rows * nr, sizeof(real))
    w.cols = <real *>take(arena, p.n_cols * (keys + VLEN), sizeof(real))
    w.qv = <real *>take(arena, nr * p.d if p.vectors else 0, sizeof(real))
    w.kv = <real *>take(arena, (keys + VLEN) * p.d if p.vectors else 0, sizeof(real))
    l.q = <real *>take(arena, panels * p.d * nr, sizeof(real))
    l.g = <real *>take(arena, panels * p.dv * nr, sizeof(real))
    l.dq = <real *>take(arena, panels * p.d * nr, sizeof(real))
    l.q_rows = <real *>take(arena, panels * nr * g.q_width, sizeof(real))
    l.g_rows = <real *>take(arena, panels * nr * g.v_width, sizeof(real))
    l.dk = <real *>take(arena, g.key_block * g.q_width, sizeof(real))
    l.dv = <real *>take(arena, g.key_block * g.v_width, sizeof(real))
    l.s = <real *>take(arena, panels * planes * keys * nr + VLEN * nr, sizeof(real))
    l.p = <real *>take(arena, panels * keys * nr + VLEN * nr if scored else 0, sizeof(real))
    l.ds = <real *>take(arena, panels * keys * nr + VLEN * nr, sizeof(real))
    l.f = <real *>take(arena, tile if p.softcap != 0 else 0, sizeof(real))
    l.lse = <real *>take(arena, panels * nr, sizeof(real))
    l.delta = <real *>take(arena, panels * nr, sizeof(real))
    l.ones = <real *>take(arena, nr, sizeof(real))
    l.top = <real *>take(arena, nr, sizeof(real))
    l.t = <real *>take(arena, planes * tile if scored else 0, sizeof(real))
    l.dl = <real *>take(arena, tile if scored else 0, sizeof(real))
    l.drows = <real *>take(arena, p.n_rows * nr, sizeof(real))
    l.dcols = <real *>take(arena, p.n_cols * (keys + VLEN), sizeof(real))
    l.dparams = <real *>take(arena, p.n_params, sizeof(real))
    l.dq_vec = <real *>take(arena, panels * nr * p.d if p.vectors else 0, sizeof(real))
    l.dk_vec = <real *>take(arena, (keys + VLEN) * p.d if p.vectors else 0, sizeof(real))
    l.dk_raw = <real *>take(arena, g.key_block * p.d if p.vectors else 0, sizeof(real))
    l.own = <Part *>take(arena, most, sizeof(Part))
    l.sees = <unsigned char *>take(arena, most, 1)
    parts[0] = <Part *>take(arena, most, sizeof(Part))


cdef inline void work_on(const Problem *p, const Back *g, back_function work, Queue *queue, Scratch *w, BackScratch *own, Part *parts) noexcept nogil:
    """One thread of a team."""
    cdef Py_ssize_t task = next_task(queue)
    while task < queue.end:
        work(p, g, task, w, own, parts)
        task = next_task(queue)
    leave(queue)


cdef int run_tasks(const Problem *p, const Back *g, back_function work, Py_ssize_t tasks, double cost, int threads) except -1:
    """Run tasks [0, tasks) of about ``cost`` multiply-adds each, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t done = 0, stop, task, batch, i
    cdef Arena arena
    cdef Scratch *w
    cdef BackScratch *own
    cdef Part **parts
    cdef size_t each
    cdef char *memory
    cdef int t, team = threads
    cdef Queue queue
    if team > tasks:
        team = <int>tasks
    team = ruvattn_team(team) if team > 1 else 1
    arena.base = NULL
    arena.used = 0
    w = <Scratch *>PyMem_RawMalloc(team * (sizeof(Scratch) + sizeof(BackScratch) + sizeof(Part *)))
    if w == NULL:
        raise MemoryError("no memory for the scratch of the attention kernels")
    own = <BackScratch *>(w + team)
    parts = <Part **>(own + team)
    lay_out(p, g, &arena, w, own, parts)
    each = arena.used
    memory = <char *>PyMem_RawMalloc(each * team + 64)
    if memory == NULL:
        PyMem_RawFree(w)
        raise MemoryError(f"no memory for the scratch of the attention kernels: {each * team} bytes for {team} threads")
    try:
        # zeros: what pads rows of queries to whole lanes is never written
        memset(memory, 0, each * team + 64)
        for t in range(team):
            arena.base = <char *>((<size_t>memory + 63) // 64 * 64) + t * each
            arena.used = 0
            lay_out(p, g, &arena, w + t, own + t, parts + t)
            for i in range(2 * VLEN):
                own[t].ones[i] = 1
        batch = <Py_ssize_t>(PATIENCE / (cost + 1) + 1) * team
        while done < tasks:
            stop = tasks if tasks - done < batch else done + batch
            if team > 1:
                queue = Queue(next=done, end=stop, arrived=0, stop=p.stop, raised=p.raised)
                with nogil, parallel(num_threads=team):
                    work_on(p, g, work, &queue, w + omp_get_thread_num(), own + omp_get_thread_num(), parts[omp_get_thread_num()])
            else:
                with nogil:
                    for task in range(done, stop):
                        work(p, g, task, w, own, parts[0])
            if p.stop[0]:
                raise (<list>p.raised)[0]
            done = stop
            if done < tasks:
                PyErr_CheckSignals()
    finally:
        PyMem_RawFree(memory)
        PyMem_RawFree(w)
    return 0


# --- the call -------------------------------------------------------------------------------------------------------------------

cdef void choose_blocks(Problem *p, Back *g) noexcept:
    """Blocks and splits from the shape alone: so results don't depend on the number of threads."""
    cdef Py_ssize_t c, at = 0, items
    for c in range(p.planes):
        g.plane_at[c] = at
        at += padded(p.plane_start[c + 1] - p.plane_start[c])
    g.plane_at[p.planes] = at
    g.q_width = at
    g.v_width = padded(p.dv)
    g.tile_keys = TILE_BYTES // <Py_ssize_t>sizeof(real)
    g.key_block = BLOCK_BYTES // ((g.q_width + g.v_width) * <Py_ssize_t>sizeof(real)) // g.tile_keys * g.tile_keys
    if g.key_block < g.tile_keys:
        g.key_block = g.tile_keys
    if g.key_block > p.lk:
        g.key_block = p.lk
    if g.tile_keys > p.lk:
        g.tile_keys = p.lk
    items = (1 if g.one_batch else p.batch) * (1 if g.one_head else p.heads // p.group)
    p.splits = 1
    p.split_keys = p.lk
    if items < TASKS and p.lk >= 2 * LEAST_KEYS and not (g.dbias != NULL and g.dbias_key == 0):
        p.splits = (TASKS + items - 1) // items
        p.split_keys = (p.lk + p.splits - 1) // p.splits
        if p.split_keys < LEAST_KEYS:
            p.split_keys = LEAST_KEYS
        p.split_keys = (p.split_keys + g.tile_keys - 1) // g.tile_keys * g.tile_keys
        p.splits = (p.lk + p.split_keys - 1) // p.split_keys


def attend_backward(cnp.ndarray q not None, cnp.ndarray k not None, cnp.ndarray v not None, cnp.ndarray dout not None, cnp.ndarray lse not None,
                    cnp.ndarray delta not None, cnp.ndarray dq not None, cnp.ndarray dk not None, cnp.ndarray dv not None, cnp.ndarray bad not None,
                    cnp.ndarray scale not None, *, bint causal=False, Py_ssize_t left=-1, Py_ssize_t right=-1, cnp.ndarray position=None,
                    cnp.ndarray key_length=None, cnp.ndarray mask=None, cnp.ndarray bias=None, double softcap=0, double dropout=0,
                    unsigned long long seed=0, object plan=None, object score=None, object vjp=None, cnp.ndarray dbias=None, int threads=1):
    """Add the gradients of a call to dq, dk, dv and dbias.

    Arrays as `attend` of the forward kernels takes them; dout, lse and delta (Dao et al., 2022: Σ dout·out − dlse) of the rows; dq, dk and dv with
    contiguous last axes; dbias has the shape of bias, broadcast by the same strides of 0; bad (batch, Hk) uint8 becomes 1 where a gradient isn't
    finite. ``vjp``: the compiled vjp of ``score``. Returns the gradients of a score's row terms (n_rows, ..., rows of the plan), its column terms and
    its parameters (Hq, P), or None without a score.
    """
    cdef Problem p
    cdef Back g
    cdef Py_ssize_t batch = leading(q, 3), i, tasks
    cdef Py_ssize_t *tables
    cdef Py_ssize_t *more
    cdef cnp.ndarray drows = None, dparams = None, array
    cdef object capsule, dcols = None
    cdef double cost
    cdef real *parts = NULL
    cdef int stop = 0
    cdef list raised = []
    if batch == 0:
        return None
    memset(&p, 0, sizeof(p))
    memset(&g, 0, sizeof(g))
    tables = <Py_ssize_t *>PyMem_RawMalloc((TABLES + MORE_TABLES) * batch * sizeof(Py_ssize_t))
    if tables == NULL:
        raise MemoryError("no memory for the tables of the attention kernels")
    try:
        set_shapes(&p, q, k, v, tables)
        set_options(&p, tables, scale, causal, left, right, position, key_length, mask, bias, softcap, None, dropout, seed, plan, score)
        p.lse = reals(lse)
        p.raised = <void *>raised
        p.stop = &stop
        more = tables + TABLES * batch
        g.dout, g.dout_head, g.dout_row, g.dout_at = reals(dout), step(dout, dout.ndim - 3), step(dout, dout.ndim - 2), more
        g.dq, g.dq_head, g.dq_row, g.dq_at = reals(dq), step(dq, dq.ndim - 3), step(dq, dq.ndim - 2), more + batch
        g.dk, g.dk_head, g.dk_row, g.dk_at = reals(dk), step(dk, dk.ndim - 3), step(dk, dk.ndim - 2), more + 2 * batch
        g.dv, g.dv_head, g.dv_row, g.dv_at = reals(dv), step(dv, dv.ndim - 3), step(dv, dv.ndim - 2), more + 3 * batch
        offsets(dout, 3, sizeof(real), more)
        offsets(dq, 3, sizeof(real), more + batch)
        offsets(dk, 3, sizeof(real), more + 2 * batch)
        offsets(dv, 3, sizeof(real), more + 3 * batch)
        g.delta = reals(delta)
        g.bad = <unsigned char *>cnp.PyArray_DATA(bad)
        if dbias is not None:
            g.dbias, g.dbias_at = reals(dbias), more + 4 * batch
            g.dbias_head, g.dbias_row, g.dbias_key = step(dbias, dbias.ndim - 3), step(dbias, dbias.ndim - 2), step(dbias, dbias.ndim - 1)
            offsets(dbias, 3, sizeof(real), more + 4 * batch)
            g.one_head = g.dbias_head == 0
            for i in range(1, batch):
                g.one_batch = g.one_batch or more[4 * batch + i] == more[4 * batch + i - 1] or more[4 * batch + i] == more[4 * batch]
        if vjp is not None:
            capsule = tuple.__getitem__(vjp, 0)
            g.vjp = <score_vjp>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
            g.vjp_data = PyCapsule_GetContext(capsule)
        if p.batch * p.heads * p.rows_here == 0 or p.lk == 0:
            return None
        choose_blocks(&p, &g)
        if vjp is not None:
            drows = np.zeros((p.splits, p.n_rows, p.batch, p.heads, p.rows_here), dq.dtype)
            dcols = [np.zeros((<object>array).shape, dq.dtype) for array in score.cols]
            dparams = np.zeros((p.splits, p.batch, p.heads, p.n_params), np.float64)
            g.drows = reals(drows)
            g.dparams = <double *>cnp.PyArray_DATA(dparams)
            for i in range(p.n_cols):
                array = dcols[i]
                g.dcols[i] = reals(array)
        if p.splits > 1:
            parts = <real *>PyMem_RawMalloc(p.splits * p.batch * p.heads * p.rows_here * p.d * sizeof(real))
            if parts == NULL:
                raise MemoryError("no memory for the partial results of the attention kernels")
            memset(parts, 0, p.splits * p.batch * p.heads * p.rows_here * p.d * sizeof(real))
            g.dq_parts = parts
        tasks = (1 if g.one_batch else p.batch) * (1 if g.one_head else p.heads // p.group) * p.splits
        cost = <double>p.batch * p.heads * p.rows_here * p.lk * (3 * p.d + 2 * p.dv + 16) / tasks
        # waking a team costs a few microseconds: below that much work it isn't worth it
        if cost * tasks < 4e5 or omp_in_parallel():
            threads = 1
        run_tasks(&p, &g, back_task, tasks, cost, threads)
        if p.splits > 1:
            run_tasks(&p, &g, merge_task, p.batch * p.heads, <double>p.splits * p.rows_here * p.d, threads)
        if vjp is None:
            return None
        return drows.sum(axis=0), dcols, dparams.sum(axis=(0, 1))
    finally:
        PyMem_RawFree(parts)
        PyMem_RawFree(tables)


def deltas(cnp.ndarray dout not None, cnp.ndarray out not None, cnp.ndarray delta not None, int threads=1):
    """delta (..., L) = Σ dout·out of arrays (..., L, D), added up in double."""
    cdef Py_ssize_t batch = leading(out, 3), heads, rows, width, i, tasks, blocks
    cdef Py_ssize_t *tables
    cdef const real *a = reals(dout)
    cdef const real *b = reals(out)
    cdef real *target = reals(delta)
    cdef Py_ssize_t a_head, a_row, b_head, b_row
    if out.size == 0:
        return
    heads, rows, width = out.shape[out.ndim - 3], out.shape[out.ndim - 2], out.shape[out.ndim - 1]
    a_head, a_row, b_head, b_row = step(dout, out.ndim - 3), step(dout, out.ndim - 2), step(out, out.ndim - 3), step(out, out.ndim - 2)
    tables = <Py_ssize_t *>PyMem_RawMalloc(2 * batch * sizeof(Py_ssize_t))
    if tables == NULL:
        raise MemoryError("no memory for the tables of the attention kernels")
    try:
        offsets(dout, 3, sizeof(real), tables)
        offsets(out, 3, sizeof(real), tables + batch)
        blocks = (rows + DELTA_ROWS - 1) // DELTA_ROWS
        tasks = batch * heads * blocks
        if out.size < 1 << 16 or omp_in_parallel():
            threads = 1
        threads = ruvattn_team(threads) if threads > 1 else 1
        with nogil:
            for i in prange(tasks, num_threads=threads, schedule="static"):
                delta_rows(a + tables[i // blocks // heads] + (i // blocks % heads) * a_head, a_row,
                           b + tables[batch + i // blocks // heads] + (i // blocks % heads) * b_head, b_row, i % blocks * DELTA_ROWS,
                           rows if i % blocks * DELTA_ROWS + DELTA_ROWS > rows else i % blocks * DELTA_ROWS + DELTA_ROWS, width,
                           target + i // blocks * rows)
    finally:
        PyMem_RawFree(tables)


cdef void delta_rows(const real *a, Py_ssize_t a_row, const real *b, Py_ssize_t b_row, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t width,
                     real *delta) noexcept nogil:
    cdef Py_ssize_t i, c
    cdef double s0, s1, s2, s3
    cdef const real *x
    cdef const real *y
    for i in range(first, stop):
        x = a + i * a_row
        y = b + i * b_row
        s0 = s1 = s2 = s3 = 0
        c = 0
        while c + 4 <= width:
            s0 += <double>x[c] * y[c]
            s1 += <double>x[c + 1] * y[c + 1]
            s2 += <double>x[c + 2] * y[c + 2]
            s3 += <double>x[c + 3] * y[c + 3]
            c += 4
        while c < width:
            s0 += <double>x[c] * y[c]
            c += 1
        delta[i] = <real>((s0 + s1) + (s2 + s3))


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
