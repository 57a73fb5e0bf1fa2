# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The tile engine, forward: streaming softmax over tiles of dots, queries in the lanes.

    attend()            reads arrays into a Problem (reading.pxd, problem.pxd), cuts the work into tasks, runs them, serially or on a team
      task              a block of rows of one head, over all keys or one split of them (block.pxd)
        tile            up to block_keys keys × one panel of NR queries, all of it in the first-level cache (fold.pxd)
      few               the same for few queries: keys in the lanes (few.pxd)
      repair            rows whose fast result isn't finite, once more: first with masked values left out, then in wide arithmetic (wide.pxd)

    microkernel.pxd dots and P·V     softmax.pxd, vector.pxd exp, max, sum     masks.pxd, dropout.pxd, panel.pxd     openmp.pxd, team.pxd, cpu.pyx

Compiled once per instruction set and dtype. Nothing here checks user input (``ruvattn.call`` did) and nothing in a task can raise,
but for a score written in Python. What a task computes depends on the shape alone, never on the number of threads.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawMalloc, PyMem_RawFree
from cython.parallel cimport parallel
from libc.math cimport sqrt
from libc.string cimport memset

from .arrays cimport Arena, leading, offsets, step, take
from .block cimport attend_block, begin, conclude, merge_state, repair, save_state, state_size
from .few cimport FEW_KEYS, FEW_ROWS, Few, few_attend, few_can, few_finish, few_merge, few_reset
from .openmp cimport RUVATTN_OPENMP, omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team
from .problem cimport Part, Problem, Scratch
from .reading cimport TABLES, set_options, set_shapes
from .select cimport room
from .softmax cimport exp_four
from .team cimport Queue, leave, next_task
from .vector cimport VLEN, exp2_v, exp_v, real, tanh_v, urint, v_set1, v_store, vreal

import numpy as np

cnp.import_array()

cdef extern from *:
    """
    #if REAL_IS_DOUBLE
    #define RUVATTN_TYPENUM NPY_DOUBLE
    #else
    #define RUVATTN_TYPENUM NPY_FLOAT
    #endif
    """
    const int RUVATTN_TYPENUM

LANES = 2 * VLEN                       # queries in a panel
VECTOR_BYTES = VLEN * sizeof(real)
OPENMP = RUVATTN_OPENMP
DTYPE = np.dtype("f%d" % sizeof(real))

cdef object np_ndarray = np.ndarray, np_empty = np.empty

cdef enum:
    BLOCK_ROWS = 256       # queries of a task: one block of K and V in the second-level cache serves them all
    BLOCK_BYTES = 1 << 20  # queries and outputs of a task at the most
    TILE_BYTES = 960       # a number for each key of a tile: 240 floats, 120 doubles, multiples of six, so that the micro-kernel has no rest
    PYTHON_KEYS = 384      # the same for a score in Python, where a call costs as much as thousands of logits
    SPLIT_KEYS = 1024      # keys of a split at the least
    CHOICE_BYTES = 12      # a logit and its key
    PLAIN_HEADS = 64       # what the short way keeps on the stack
    PLAIN_BATCH = 16
    PLAIN_LENGTH = 0x3FFFFFFF

# Multiply-adds of a thread between looks for Ctrl-C, for which all threads wait: a tenth of a second with AVX2.
cdef double PATIENCE = 4e9

# --- tasks ----------------------------------------------------------------------------------------------------------------------

cdef inline void rows_of(const Problem *p, Py_ssize_t item, Py_ssize_t *b, Py_ssize_t *h, Py_ssize_t *r0, Py_ssize_t *r1) noexcept nogil:
    """Which rows of which head an item of the work is."""
    # a causal row costs more the later it stands: the long blocks first, so that no thread is left with one at the end
    r0[0] = p.first + (p.row_blocks - 1 - item % p.row_blocks) * p.block_rows
    r1[0] = r0[0] + p.block_rows if r0[0] + p.block_rows < p.first + p.rows_here else p.first + p.rows_here
    h[0] = item // p.row_blocks % p.heads
    b[0] = item // p.row_blocks // p.heads


cdef int panel_task(const Problem *p, Py_ssize_t task, Scratch *w, Part *parts) noexcept nogil:
    """One split of one block of rows. With one split the rows are finished too."""
    cdef Py_ssize_t b, h, r0, r1
    rows_of(p, task // p.splits, &b, &h, &r0, &r1)
    if attend_block(p, b, h, r0, r1, task % p.splits, False, w, parts) != 0:
        return -1
    if p.logits != NULL:
        return 0
    if p.splits > 1:
        save_state(p, (r1 - r0 + 2 * VLEN - 1) // (2 * VLEN), w, p.partial + task * state_size(p))
        return 0
    return conclude(p, b, h, r0, r1, w, parts)


cdef int merge_task(const Problem *p, Py_ssize_t item, Scratch *w, Part *parts) noexcept nogil:
    """The splits of one block of rows into one result, in the order of the keys."""
    cdef Py_ssize_t b, h, r0, r1, split
    rows_of(p, item, &b, &h, &r0, &r1)
    begin(p, b, h, r0, r1, w)
    for split in range(p.splits):
        merge_state(p, (r1 - r0 + 2 * VLEN - 1) // (2 * VLEN), p.partial + (item * p.splits + split) * state_size(p), w)
    return conclude(p, b, h, r0, r1, w, parts)


cdef inline Py_ssize_t few_size(const Problem *p) noexcept nogil:
    return p.group * p.lq * (p.dv + 2)


cdef void few_place(const Problem *p, real *state, Few *f) noexcept nogil:
    f.o = state
    f.ref = state + p.group * p.lq * p.dv
    f.total = f.ref + p.group * p.lq


cdef int few_task(const Problem *p, Py_ssize_t task, Scratch *w, Part *parts) noexcept nogil:
    cdef Py_ssize_t split = task % p.splits, item = task // p.splits, hk = item % (p.heads // p.group), b = item // (p.heads // p.group)
    cdef Py_ssize_t key0 = split * p.split_keys, key1
    cdef Few f
    key1 = key0 + p.split_keys if key0 + p.split_keys < p.lk else p.lk
    f.q = w.qv
    f.v = w.kv
    f.s = w.t
    f.c = w.rows
    few_place(p, p.partial + task * few_size(p) if p.splits > 1 else w.cols, &f)
    few_attend(p, b, hk, key0, key1, &f)
    if p.splits == 1:
        return few_end(p, b, hk, &f, w, parts)
    return 0


cdef int few_end(const Problem *p, Py_ssize_t b, Py_ssize_t hk, const Few *f, Scratch *w, Part *parts) noexcept nogil:
    cdef Py_ssize_t h
    if few_finish(p, b, hk, f):
        for h in range(hk * p.group, (hk + 1) * p.group):
            if repair(p, b, h, 0, p.lq, w, parts) != 0:
                return -1
    return 0


cdef int few_merge_task(const Problem *p, Py_ssize_t item, Scratch *w, Part *parts) noexcept nogil:
    cdef Few f, other
    cdef Py_ssize_t split
    few_place(p, w.cols, &f)
    few_reset(p, &f)
    for split in range(p.splits):
        few_place(p, p.partial + (item * p.splits + split) * few_size(p), &other)
        few_merge(p, &other, &f)
    return few_end(p, item // (p.heads // p.group), item % (p.heads // p.group), &f, w, parts)


ctypedef int (*task_function)(const Problem *p, Py_ssize_t task, Scratch *w, Part *parts) noexcept nogil


# --- scratch --------------------------------------------------------------------------------------------------------------------

cdef void lay_out(const Problem *p, bint few, Arena *arena, Scratch *w, Part **parts) noexcept nogil:
    """A thread's scratch: sized by the blocks, never by the length of the keys."""
    cdef size_t nr = 2 * VLEN, panels = (p.block_rows + nr - 1) // nr, keys = p.block_keys, planes = p.planes if p.planes > 0 else 1
    cdef bint scored = p.forward != NULL
    cdef size_t rows = p.group * p.lq
    w.q = <real *>take(arena, panels * p.d * nr, sizeof(real))
    w.o = <real *>take(arena, panels * p.dv * nr, sizeof(real))
    w.state = <real *>take(arena, panels * 4 * nr, sizeof(real))
    w.s = <real *>take(arena, (panels if p.python != NULL else 1) * planes * (keys + VLEN) * nr, sizeof(real))
    w.t = <real *>take(arena, (planes if scored else 1) * (keys + VLEN) * nr if not few else max(keys * nr, FEW_ROWS * FEW_KEYS), sizeof(real))
    w.rows = <real *>take(arena, p.n_rows * nr if not few else FEW_ROWS * nr, sizeof(real))
    w.cols = <real *>take(arena, p.n_cols * (keys + VLEN) if scored else (few_size(p) if few else 0), sizeof(real))
    w.qv = <real *>take(arena, nr * p.d if p.vectors else (rows * p.d if few else 0), sizeof(real))
    w.saved = <real *>take(arena, state_size(p) if p.splits > 1 else 0, sizeof(real))
    w.kv = <real *>take(arena, keys * p.d if p.vectors else (FEW_KEYS * nr if few else 0), sizeof(real))
    w.kv_of = NULL
    w.interval = <urint *>take(arena, panels * 2 * nr, sizeof(urint))
    w.drop = <urint *>take(arena, panels * nr, sizeof(urint))
    w.words = <urint *>take(arena, (keys // 32 + 1 + (keys if p.plan_ptr != NULL else 1)) * nr, sizeof(urint))  # a word a part at the least
    w.bad = <int *>take(arena, p.block_rows, sizeof(int))
    if p.top_k > 0:
        w.best = <real *>take(arena, panels * nr * room(p), sizeof(real))
        w.best_key = <int *>take(arena, panels * nr * room(p), sizeof(int))
        w.best_count = <int *>take(arena, panels * nr, sizeof(int))
        w.best_least = <real *>take(arena, panels * nr, sizeof(real))
    parts[0] = <Part *>take(arena, 2 * keys if p.plan_ptr != NULL else 1, sizeof(Part))  # of a block of rows, and of a panel


cdef inline void work_on(const Problem *p, task_function work, Queue *queue, Scratch *w, Part *parts) noexcept nogil:
    """One thread of a team."""
    cdef Py_ssize_t task = next_task(queue)
    while task < queue.end:
        work(p, task, w, parts)
        task = next_task(queue)
    leave(queue)


cdef int run_tasks(const Problem *p, task_function work, Py_ssize_t tasks, double cost, int threads, bint few, object pad) except -1:
    """Run tasks [0, tasks) of about ``cost`` multiply-adds each, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t done = 0, stop, task, batch
    cdef Arena arena
    cdef Scratch *w
    cdef Part **parts
    cdef size_t each
    cdef char *memory
    cdef int i, failed = 0, team = threads
    cdef Queue queue
    if team > tasks:
        team = <int>tasks
    if team < 1 or p.python != NULL:
        team = 1
    if team > 1:
        team = ruvattn_team(team)
    arena.base = NULL
    arena.used = 0
    w = <Scratch *>PyMem_RawMalloc(team * (sizeof(Scratch) + sizeof(Part *)))
    if w == NULL:
        raise MemoryError("no memory for the scratch of the attention kernels")
    parts = <Part **>(w + team)
    lay_out(p, few, &arena, w, parts)
    each = arena.used
    memory = <char *>PyMem_RawMalloc(each * team + 64)
    if memory == NULL:
        PyMem_RawFree(w)
        raise MemoryError(f"no memory for the scratch of the attention kernels: {each * team} bytes for {team} threads")
    try:
        for i in range(team):
            arena.base = <char *>((<size_t>memory + 63) // 64 * 64) + i * each
            arena.used = 0
            lay_out(p, few, &arena, w + i, parts + i)
            if p.python != NULL:
                w[i].wide = <real *>cnp.PyArray_DATA(pad)
        batch = <Py_ssize_t>(PATIENCE / (cost + 1) + 1) * team
        while done < tasks:
            stop = tasks if tasks - done < batch else done + batch
            if team > 1:
                queue = Queue(next=done, end=stop, arrived=0, stop=p.stop, raised=p.raised)
                with nogil, parallel(num_threads=team):
                    work_on(p, work, &queue, w + omp_get_thread_num(), parts[omp_get_thread_num()])
            else:
                with nogil:
                    for task in range(done, stop):
                        failed = work(p, task, w, parts[0])
                        if failed != 0:
                            break
                if failed != 0:
                    return 1
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

cdef void choose_blocks(Problem *p, bint few) noexcept:
    """Blocks and splits from the shape alone: so results don't depend on the number of threads."""
    cdef Py_ssize_t nr = 2 * VLEN, items
    p.block_keys = TILE_BYTES // <Py_ssize_t>sizeof(real) if p.python == NULL else PYTHON_KEYS
    if p.lk < p.block_keys:
        p.block_keys = p.lk if p.lk > 0 else 1
    p.block_rows = BLOCK_ROWS
    items = p.batch * p.heads
    # eight tasks keep two to four threads busy to the end
    while p.python == NULL and p.block_rows > 4 * nr and items * ((p.rows_here + p.block_rows - 1) // p.block_rows) < 8:
        p.block_rows //= 2
    # queries and outputs of a block stay in the second-level cache, however wide they are
    while p.block_rows > nr and p.block_rows * ((p.d + p.dv) * <Py_ssize_t>sizeof(real) + room(p) * CHOICE_BYTES) > BLOCK_BYTES:
        p.block_rows //= 2
    if p.rows_here < p.block_rows:
        p.block_rows = p.rows_here
    p.row_blocks = (p.rows_here + p.block_rows - 1) // p.block_rows
    items = p.batch * (p.heads // p.group) if few else items * p.row_blocks
    p.splits = 1
    p.split_keys = p.lk
    if items < 8 and p.lk >= 2 * SPLIT_KEYS and p.python == NULL and p.logits == NULL:
        p.splits = (8 + items - 1) // items
        p.split_keys = (p.lk + p.splits - 1) // p.splits
        if p.split_keys < SPLIT_KEYS:
            p.split_keys = SPLIT_KEYS
        p.split_keys = (p.split_keys + p.block_keys - 1) // p.block_keys * p.block_keys
        p.splits = (p.lk + p.split_keys - 1) // p.split_keys


cdef int execute(Problem *p, int threads, object score) except -1:
    cdef bint few
    cdef object pad = None
    cdef Py_ssize_t items
    cdef double cost
    cdef int status, stop = 0
    cdef list raised = []
    if p.batch * p.heads * p.rows_here == 0:
        return 0
    p.raised = <void *>raised
    p.stop = &stop
    few = (p.group * p.lq <= FEW_ROWS and p.forward == NULL and p.python == NULL and not p.dropout and p.logits == NULL and p.top_k == 0
           and p.planes == 1 and few_can(p))
    choose_blocks(p, few)
    if p.python != NULL:
        pad = np.zeros((p.planes if p.planes > 0 else 1, (p.block_rows + 2 * VLEN - 1) // (2 * VLEN) * (2 * VLEN),
                        (p.block_keys + VLEN - 1) // VLEN * VLEN), DTYPE)
        score.pad = pad
    items = p.batch * (p.heads // p.group) if few else p.batch * p.heads * p.row_blocks
    cost = <double>p.block_rows * p.lk * (p.d + p.dv + 8) / p.splits
    if few:
        cost = cost * p.group
    # waking a team costs a few microseconds: below that much work it isn't worth it
    if cost * items * p.splits < 4e5 or omp_in_parallel():
        threads = 1
    p.partial = NULL
    if p.splits > 1:
        p.partial = <real *>PyMem_RawMalloc(items * p.splits * (few_size(p) if few else state_size(p)) * sizeof(real))
        if p.partial == NULL:
            raise MemoryError("no memory for the partial results of the attention kernels")
    try:
        status = run_tasks(p, few_task if few else panel_task, items * p.splits, cost, threads, few, pad)
        if status == 0 and p.splits > 1:
            status = run_tasks(p, few_merge_task if few else merge_task, items, 1, threads, few, pad)
    finally:
        PyMem_RawFree(p.partial)
    return status


cdef void set_out(Problem *p, cnp.ndarray out, cnp.ndarray lse) noexcept:
    cdef int nd = out.ndim
    p.out = <real *>cnp.PyArray_DATA(out)
    p.out_head = step(out, nd - 3)
    p.out_row = step(out, nd - 2)
    offsets(out, 3, sizeof(real), <Py_ssize_t *>p.out_at)
    p.lse = <real *>cnp.PyArray_DATA(lse)


def attend(cnp.ndarray q not None, cnp.ndarray k not None, cnp.ndarray v not None, cnp.ndarray out, cnp.ndarray lse, cnp.ndarray scale not None, *,
           bint causal=False, Py_ssize_t left=-1, Py_ssize_t right=-1, cnp.ndarray position=None, cnp.ndarray key_length=None,
           cnp.ndarray mask=None, cnp.ndarray bias=None, double softcap=0, cnp.ndarray sinks=None, double dropout=0, unsigned long long seed=0,
           object plan=None, object score=None, cnp.ndarray logits=None, cnp.ndarray chosen=None, bint ordered=True, int threads=1):
    """Attention of q (..., Hq, Lq, D) over k (..., Hk, Lk, D) and v (..., Hk, Lk, Dv) into out and lse, or its logits into ``logits``, or with
    ``chosen`` (..., Hq, Lq, top_k) the largest logits of each row into ``logits`` of that shape, their keys into ``chosen``, and the lse of the
    whole row into ``lse`` where it is given.

    Everything has been validated: dtype, native and aligned, contiguous last axes (out too), strides that are multiples of the item; lse, logits,
    scale (Hq,), sinks (Hq,), position and key_length (batch,) int64 contiguous; mask (bool) and bias of shape (..., Hq, Lq, Lk), broadcast by
    strides of 0.
    plan: a ``ruvattn.planning.Plan``, for its rows only. score: a ``ruvattn.scores.BoundScore``. Returns 0, or another number where the score's
    tile() raised, which has kept the exception.
    """
    cdef Problem p
    cdef Py_ssize_t batch = leading(q, 3)
    cdef Py_ssize_t *tables
    if batch == 0:  # the tables would be too short for the axes before the one of length 0
        return 0
    memset(&p, 0, sizeof(p))
    tables = <Py_ssize_t *>PyMem_RawMalloc(TABLES * batch * sizeof(Py_ssize_t))
    if tables == NULL:
        raise MemoryError("no memory for the tables of the attention kernels")
    try:
        set_shapes(&p, q, k, v, tables)
        if out is not None:
            set_out(&p, out, lse)
        set_options(&p, tables, scale, causal, left, right, position, key_length, mask, bias, softcap, sinks, dropout, seed, plan, score)
        if chosen is not None:
            p.top_k = chosen.shape[chosen.ndim - 1]
            p.chosen = <Py_ssize_t *>cnp.PyArray_DATA(chosen)
            p.ordered = ordered
            p.chosen_logits = <real *>cnp.PyArray_DATA(logits)
            p.lse = <real *>cnp.PyArray_DATA(lse) if lse is not None else NULL
        elif logits is not None:
            p.logits = <real *>cnp.PyArray_DATA(logits)
        return execute(&p, threads, score)
    finally:
        PyMem_RawFree(tables)


cdef bint is_plain(cnp.ndarray x) noexcept:
    cdef int axis
    if not (cnp.PyArray_TYPE(x) == RUVATTN_TYPENUM and cnp.PyArray_ISBEHAVED_RO(x) and cnp.PyArray_ISNOTSWAPPED(x) and x.ndim >= 3
            and (x.strides[x.ndim - 1] == sizeof(real) or x.shape[x.ndim - 1] == 1)):
        return False
    for axis in range(x.ndim):
        if x.strides[axis] % <Py_ssize_t>sizeof(real):
            return False
    return True


cdef bint is_plain_pair(cnp.ndarray q, cnp.ndarray k) noexcept:
    """Whether two arrays are well formed, fit as queries and keys, and are neither empty nor beyond what the short way is for."""
    cdef int nd = q.ndim, axis
    if not (is_plain(q) and is_plain(k)) or k.ndim != nd or q.shape[nd - 1] != k.shape[nd - 1]:
        return False
    for axis in range(nd - 3):
        if q.shape[axis] != k.shape[axis] or q.shape[axis] == 0:
            return False
    return (q.shape[nd - 1] > 0 and 0 < k.shape[nd - 3] <= q.shape[nd - 3] <= PLAIN_HEADS and q.shape[nd - 3] % k.shape[nd - 3] == 0
            and 0 < q.shape[nd - 2] <= PLAIN_LENGTH and 0 < k.shape[nd - 2] <= PLAIN_LENGTH)


cdef int run_plain(cnp.ndarray q, cnp.ndarray k, cnp.ndarray v, cnp.ndarray out, cnp.ndarray lse, cnp.ndarray logits, bint causal,
                   int threads) except -1:
    cdef Problem p
    cdef Py_ssize_t small[TABLES * PLAIN_BATCH]
    cdef Py_ssize_t *tables = small
    cdef real scales[PLAIN_HEADS]
    cdef Py_ssize_t batch = leading(q, 3), i
    memset(&p, 0, sizeof(p))
    if batch > PLAIN_BATCH:
        tables = <Py_ssize_t *>PyMem_RawMalloc(TABLES * batch * sizeof(Py_ssize_t))
        if tables == NULL:
            raise MemoryError("no memory for the tables of the attention kernels")
    try:
        set_shapes(&p, q, k, v, tables)
        if out is not None:
            set_out(&p, out, lse)
        if logits is not None:
            p.logits = <real *>cnp.PyArray_DATA(logits)
        for i in range(batch):
            tables[4 * batch + i] = 0
            tables[5 * batch + i] = p.lk
        for i in range(p.heads):
            scales[i] = <real>(1 / sqrt(<double>p.d))
        p.scale = scales
        p.causal = causal
        return execute(&p, threads, None)
    finally:
        if tables != small:
            PyMem_RawFree(tables)


def attend_plain(q, k, v, bint causal, int threads, bint want_lse):
    """The short way for the commonest call: three well-formed arrays of two axes or more, and nothing else. None where anything is out of the
    ordinary: the caller then takes the long way, which explains or converts."""
    cdef cnp.ndarray a, b, c, out, lse
    cdef int nd, axis
    cdef bint single
    if type(q) is not np_ndarray or type(k) is not np_ndarray or type(v) is not np_ndarray:
        return None
    single = (<cnp.ndarray>q).ndim == 2 and (<cnp.ndarray>k).ndim == 2 and (<cnp.ndarray>v).ndim == 2
    a, b, c = (q[None], k[None], v[None]) if single else (q, k, v)
    nd = a.ndim
    if not is_plain_pair(a, b) or not is_plain(c) or c.ndim != nd or c.shape[nd - 1] == 0:
        return None
    for axis in range(nd - 1):
        if c.shape[axis] != b.shape[axis]:
            return None
    if c.shape[nd - 1] == a.shape[nd - 1]:
        out = cnp.PyArray_EMPTY(nd, a.shape, RUVATTN_TYPENUM, 0)
    else:
        out = np_empty((*(<object>a).shape[:nd - 1], c.shape[nd - 1]), DTYPE)
    lse = cnp.PyArray_EMPTY(nd - 1, a.shape, RUVATTN_TYPENUM, 0)
    run_plain(a, b, c, out, lse, None, causal, threads)
    if single:
        return (out[0], lse[0]) if want_lse else out[0]
    return (out, lse) if want_lse else out


def logits_plain(q, k, int threads):
    """The same for the logits. None, too, where one of them isn't finite: the long way then tells an overflow from an infinity that was given."""
    cdef cnp.ndarray a, b, logits
    cdef Py_ssize_t i, n
    cdef const real *data
    cdef real check = 0
    cdef bint single
    if type(q) is not np_ndarray or type(k) is not np_ndarray:
        return None
    single = (<cnp.ndarray>q).ndim == 2 and (<cnp.ndarray>k).ndim == 2
    a, b = (q[None], k[None]) if single else (q, k)
    if not is_plain_pair(a, b):
        return None
    logits = np_empty((*(<object>a).shape[:a.ndim - 1], b.shape[b.ndim - 2]), DTYPE)
    run_plain(a, b, b, None, None, logits, False, threads)
    data = <const real *>cnp.PyArray_DATA(logits)
    n = logits.size
    for i in range(n):
        check += data[i] * 0
    if check != 0:
        return None
    return logits[0] if single else logits


def exponential(cnp.ndarray x not None, cnp.ndarray out not None, int base):
    """e^x, 2^x, tanh x or the softmax's own e^x for x ≤ 0 (base 0, 2, 1, 3) of a contiguous array, as the kernels compute it: for the tests."""
    cdef Py_ssize_t i, n = x.size
    cdef const real *source = <const real *>cnp.PyArray_DATA(x)
    cdef real *target = <real *>cnp.PyArray_DATA(out)
    cdef real block[64]
    cdef vreal y[4]
    for i in range(n):
        y[0] = v_set1(source[i])
        y[1] = y[2] = y[3] = y[0]
        if base == 3:
            exp_four(y)
        else:
            y[0] = exp2_v(y[0]) if base == 2 else (exp_v(y[0]) if base == 0 else tanh_v(y[0]))
        v_store(block, y[0])
        target[i] = block[0]


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
