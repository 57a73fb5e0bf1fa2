# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The edge engine, forward: each row attends to the keys that a CSR structure lists for it.

    attend()            reads arrays into Edges (edge_problem.pxd), cuts the work into tasks, runs them, serially or on a team
      chunk_task        an equal share of rows and edges, whatever the degrees; rows that are longer than that leave their state in pieces
      merge_task        the pieces of a long row into one, in the order of its edges
        attend_row      tiles of up to EDGE_TILE edges: gathered dots, softmax, gathered values (edges.pxd, gather.pxd)
        attend_heads    the same for all heads of a short row;  attend_leaky  for additive scores (edge_heads.pxd)
        conclude_row    normalise and write; rows whose fast result isn't finite once more (edge_wide.pxd)

Compiled once per instruction set and dtype. Nothing here checks user input (``ruvattn.edges`` did) and nothing in a task can raise. What a task
computes depends on the shape, and on whether the heads of a row lie beside each other, never on the number of threads.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawMalloc, PyMem_RawFree
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from cython.parallel cimport parallel
from libc.math cimport INFINITY, exp
from libc.string cimport memcpy, memset

from .arrays cimport Arena, leading, offsets, reals, step, take
from .edge_heads cimport attend_heads, attend_leaky
from .edge_problem cimport EDGE_HEADS, EDGE_PADDING, EDGE_TILE, EdgeScratch, Edges, RowState, key_width, rows_of_head, value_width
from .edges cimport attend_row, conclude_row
from .openmp cimport RUVATTN_OPENMP, omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team
from .problem cimport score_forward
from .team cimport Queue, leave, next_task
from .vector cimport VLEN, real

import numpy as np

cnp.import_array()

OPENMP = RUVATTN_OPENMP
DTYPE = np.dtype("f%d" % sizeof(real))

cdef enum:
    CHUNK = 2048           # units of a task; an edge is one
    HEADER = 4             # units of a row as such: what it costs even without edges
    TASKS = 8              # enough to keep two to four threads busy to the end
    NEAR = 1 << 19         # bytes of K and V that the second-level cache holds anyway

# Multiply-adds of a thread between looks for Ctrl-C, for which all threads wait: a tenth of a second with AVX2.
cdef double PATIENCE = 2e9

CHUNK_EDGES = CHUNK - HEADER           # a row with more edges than that is cut

# --- tasks ----------------------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t place(const Py_ssize_t *indptr, Py_ssize_t r) noexcept nogil:
    """Where row r begins among the units of its set."""
    return indptr[r] - indptr[0] + HEADER * r


cdef inline Py_ssize_t row_at(const Py_ssize_t *indptr, Py_ssize_t rows, Py_ssize_t unit) noexcept nogil:
    """The first row that begins at ``unit`` or later; ``rows`` where there is none."""
    cdef Py_ssize_t low = 0, high = rows, middle
    while low < high:
        middle = (low + high) // 2
        if place(indptr, middle) < unit:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline Py_ssize_t item_of(const Edges *p, Py_ssize_t task) noexcept nogil:
    cdef Py_ssize_t low = 0, high = p.items, middle
    while high - low > 1:
        middle = (low + high) // 2
        if p.item_first[middle] <= task:
            low = middle
        else:
            high = middle
    return low


cdef inline real *piece(const Edges *p, Py_ssize_t task, int slot, Py_ssize_t g) noexcept nogil:
    """The state that a task leaves of a long row of head g of its item: slot 0 of one that began before it, slot 1 of one that begins in it."""
    return p.partial + ((task * 2 + slot) * p.span + g) * (value_width(p) + 2)


cdef inline void attend_piece(const Edges *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i, Py_ssize_t e0, Py_ssize_t e1, real *target,
                              EdgeScratch *w) noexcept nogil:
    cdef RowState state
    attend_row(p, b, h, i, e0, e1, False, &state, target + 2, w)
    target[0] = state.ref
    target[1] = state.total


cdef void chunk_task(const Edges *p, Py_ssize_t task, EdgeScratch *w) noexcept nogil:
    """The rows that begin in one chunk, and what is in it of a long row that began before."""
    cdef Py_ssize_t item = item_of(p, task), per_entry = p.heads // p.span, b = item // per_entry, h = item % per_entry * p.span, g
    cdef Py_ssize_t start = (task - p.item_first[item]) * CHUNK, stop = start + CHUNK, r, e0, e1, first
    cdef const Py_ssize_t *indptr = rows_of_head(p, b, h)
    cdef RowState state
    cdef RowState states[EDGE_HEADS]
    r = row_at(indptr, p.lq, start)
    if r > 0 and place(indptr, r) > start and indptr[r] - indptr[r - 1] > CHUNK - HEADER:
        first = indptr[r - 1] - place(indptr, r - 1) - HEADER    # from units to indices
        e0 = first + start if first + start > indptr[r - 1] else indptr[r - 1]
        e1 = first + stop if first + stop < indptr[r] else indptr[r]
        for g in range(p.span):
            attend_piece(p, b, h + g, r - 1, e0, e1 if e1 > e0 else e0, piece(p, task, 0, g), w)
    while r < p.lq and place(indptr, r) < stop:
        e0 = indptr[r]
        e1 = indptr[r + 1]
        if e1 - e0 > CHUNK - HEADER:
            e1 = e0 - place(indptr, r) - HEADER + stop
            for g in range(p.span):
                attend_piece(p, b, h + g, r, e0, e1 if e1 > e0 else e0, piece(p, task, 1, g), w)
            return
        if p.together and e0 < e1 <= e0 + EDGE_TILE:
            if p.by_key != NULL or p.hidden:
                attend_leaky(p, b, r, e0, e1, states, w)
            else:
                attend_heads(p, b, h, r, e0, e1, states, w)
            for g in range(p.span):
                conclude_row(p, b, h + g, r, e0, e1, states + g, w.o + g * p.dv, w)
            r += 1
            continue
        for g in range(p.span):
            attend_row(p, b, h + g, r, e0, e1, False, &state, w.o, w)
            conclude_row(p, b, h + g, r, e0, e1, &state, w.o, w)
        r += 1


cdef inline void merge_piece(const Edges *p, const real *other, RowState *state, real *o) noexcept nogil:
    """Fold another piece's state into one: both to the larger reference, then add."""
    cdef real ref = state.ref if state.ref > other[0] else other[0], a = 0, t = 0
    cdef Py_ssize_t c
    if ref > <real>-INFINITY:
        a = <real>exp(<double>state.ref - <double>ref)
        t = <real>exp(<double>other[0] - <double>ref)
    else:  # no logit yet, or none but NaN, which is to be seen
        a = t = 1
    state.ref = ref
    state.total = state.total * a + other[1] * t
    for c in range(value_width(p)):
        o[c] = o[c] * a + other[2 + c] * t


cdef void merge_task(const Edges *p, Py_ssize_t task, EdgeScratch *w) noexcept nogil:
    """The long row that begins in this task's chunk, if there is one: it can only be the last that does."""
    cdef Py_ssize_t item = item_of(p, task), per_entry = p.heads // p.span, b = item // per_entry, h = item % per_entry * p.span, g, other, last
    cdef Py_ssize_t start = (task - p.item_first[item]) * CHUNK
    cdef const Py_ssize_t *indptr = rows_of_head(p, b, h)
    cdef Py_ssize_t r = row_at(indptr, p.lq, start + CHUNK) - 1
    cdef RowState state
    if r < 0 or place(indptr, r) < start or indptr[r + 1] - indptr[r] <= CHUNK - HEADER:
        return
    last = p.item_first[item] + (place(indptr, r + 1) - 1) // CHUNK
    for g in range(p.span):
        state.ref = piece(p, task, 1, g)[0]
        state.total = piece(p, task, 1, g)[1]
        memcpy(w.o, piece(p, task, 1, g) + 2, value_width(p) * sizeof(real))
        for other in range(task + 1, last + 1):
            merge_piece(p, piece(p, other, 0, g), &state, w.o)
        conclude_row(p, b, h + g, r, indptr[r], indptr[r + 1], &state, w.o, w)


ctypedef void (*edge_task)(const Edges *p, Py_ssize_t task, EdgeScratch *w) noexcept nogil


# --- scratch --------------------------------------------------------------------------------------------------------------------

cdef void lay_out(const Edges *p, Arena *arena, EdgeScratch *w) noexcept nogil:
    """A thread's scratch: sized by a tile, never by the length of a row."""
    cdef size_t tile = EDGE_TILE + EDGE_PADDING, planes = p.planes if p.planes > 0 else 1
    cdef bint scored = p.forward != NULL
    w.q = <real *>take(arena, key_width(p), sizeof(real))
    w.o = <real *>take(arena, value_width(p) * (p.span if p.together else 1), sizeof(real))
    w.all = <real *>take(arena, p.span * tile if p.together else 0, sizeof(real))
    w.s = <real *>take(arena, (planes if scored else 1) * tile, sizeof(real))
    w.cols = <real *>take(arena, p.n_cols * tile if scored else 0, sizeof(real))
    w.rows = <real *>take(arena, p.n_rows, sizeof(real))
    w.qv = <real *>take(arena, key_width(p) if p.vectors else 0, sizeof(real))
    w.kv = <real *>take(arena, EDGE_TILE * key_width(p) if p.vectors else 0, sizeof(real))
    w.keys = <int *>take(arena, EDGE_TILE, sizeof(int))
    w.places = <int *>take(arena, EDGE_TILE, sizeof(int))


cdef inline void work_on(const Edges *p, edge_task work, Queue *queue, EdgeScratch *w) noexcept nogil:
    """One thread of a team."""
    cdef Py_ssize_t task = next_task(queue)
    while task < queue.end:
        work(p, task, w)
        task = next_task(queue)
    leave(queue)


cdef int run_tasks(const Edges *p, edge_task work, Py_ssize_t tasks, double cost, int threads) except -1:
    """Run tasks [0, tasks) of about ``cost`` multiply-adds each, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t done = 0, stop, task, batch, j
    cdef Arena arena
    cdef EdgeScratch *w
    cdef size_t each
    cdef char *memory
    cdef int i, team = threads
    cdef Queue queue
    if team > tasks:
        team = <int>tasks
    if team < 1:
        team = 1
    if team > 1:
        team = ruvattn_team(team)
    arena.base = NULL
    arena.used = 0
    w = <EdgeScratch *>PyMem_RawMalloc(team * sizeof(EdgeScratch))
    if w == NULL:
        raise MemoryError("no memory for the scratch of the edge kernels")
    lay_out(p, &arena, w)
    each = arena.used
    memory = <char *>PyMem_RawMalloc(each * team + 64)
    if memory == NULL:
        PyMem_RawFree(w)
        raise MemoryError(f"no memory for the scratch of the edge kernels: {each * team} bytes for {team} threads")
    try:
        for i in range(team):
            arena.base = <char *>((<size_t>memory + 63) // 64 * 64) + i * each
            arena.used = 0
            lay_out(p, &arena, w + i)
            for j in range(EDGE_TILE):
                w[i].places[j] = <int>j
        batch = <Py_ssize_t>(PATIENCE / (cost + 1) + 1) * team
        while done < tasks:
            stop = tasks if tasks - done < batch else done + batch
            if team > 1:
                queue = Queue(next=done, end=stop, arrived=0, stop=p.stop, raised=p.raised)
                with nogil, parallel(num_threads=team):
                    work_on(p, work, &queue, w + omp_get_thread_num())
            else:
                with nogil:
                    for task in range(done, stop):
                        work(p, task, w)
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

cdef int execute(Edges *p, Py_ssize_t *item_first, int threads) except -1:
    """Cut each item into chunks, and run them."""
    cdef Py_ssize_t item, per_entry = p.heads // p.span, r, longest = 0, tasks = 0
    cdef const Py_ssize_t *indptr
    cdef double cost = <double>CHUNK * p.span * (key_width(p) + value_width(p) + 16), work
    cdef int stop = 0
    cdef list raised = []
    p.raised = <void *>raised
    p.stop = &stop
    for item in range(p.items):
        indptr = rows_of_head(p, item // per_entry, item % per_entry * p.span)
        item_first[item] = tasks
        tasks += (place(indptr, p.lq) + CHUNK - 1) // CHUNK
        if item > 0 and indptr == rows_of_head(p, (item - 1) // per_entry, (item - 1) % per_entry * p.span):
            continue
        for r in range(p.lq):
            if indptr[r + 1] - indptr[r] > longest:
                longest = indptr[r + 1] - indptr[r]
    item_first[p.items] = tasks
    p.item_first = item_first
    # waking a team costs a few microseconds: below that much work it isn't worth it
    work = cost * tasks if tasks > p.items else cost / CHUNK * p.items * place(rows_of_head(p, 0, 0), p.lq)
    if work < 4e5 or omp_in_parallel():
        threads = 1
    p.partial = NULL
    if longest > CHUNK - HEADER:
        p.partial = <real *>PyMem_RawMalloc(tasks * 2 * p.span * (value_width(p) + 2) * sizeof(real))
        if p.partial == NULL:
            raise MemoryError("no memory for the partial results of the edge kernels")
    try:
        run_tasks(p, chunk_task, tasks, cost, threads)
        if p.partial != NULL:
            run_tasks(p, merge_task, tasks, cost, threads)
    finally:
        PyMem_RawFree(p.partial)
    return 0


cdef real *heads_beside(const Edges *p) except NULL:
    """The column terms of the keys with the heads of a key beside each other, (batch, lk, heads)."""
    cdef Py_ssize_t b, h, j
    cdef const real *source
    cdef real *made = <real *>PyMem_RawMalloc((p.batch * p.lk * p.heads + 1) * sizeof(real))
    if made == NULL:
        raise MemoryError("no memory for the terms of the edge kernels")
    for b in range(p.batch):
        for h in range(p.heads):
            source = p.cols[0] + b * p.cols_batch[0] + (h * p.cols_heads[0] // p.heads) * p.cols_head[0]
            for j in range(p.lk):
                made[(b * p.lk + j) * p.heads + h] = source[j * p.cols_step[0]]
    return made


def attend(cnp.ndarray q not None, cnp.ndarray k not None, cnp.ndarray v, cnp.ndarray out, cnp.ndarray lse not None, cnp.ndarray scale not None,
           cnp.ndarray indptr not None, cnp.ndarray indices not None, *, Py_ssize_t set_batch=0, Py_ssize_t set_head=0,
           cnp.ndarray key_attr=None, cnp.ndarray value_attr=None, bint values_by_edge=False, object score=None, list terms=None,
           cnp.ndarray logits=None, cnp.ndarray bias=None, double softcap=0, cnp.ndarray sinks=None, double dropout=0,
           unsigned long long seed=0, cnp.ndarray weights=None, int threads=1):
    """Attention of q (..., Hq, Lq, D + F) over the keys that each row is given, into out, lse and weights.

    Everything has been validated: one dtype, native and aligned, contiguous last axes of q, k, v and out, strides that are multiples of the item;
    lse, scale (Hq,), sinks (Hq,) contiguous; indptr (S, Lq + 1) int64 and indices (E,) int32 contiguous, in range; logits, bias and weights of
    shape (..., Hq, E), broadcast by strides of 0; key_attr and value_attr (E, F) one array, or None. Without ``out`` there are only weights and lse,
    and v isn't looked at.
    score: a compiled ``ruvattn.scores.BoundScore``. terms: (array, by_edge) for each column term, of shape (..., heads, Lk) or (..., heads, E).
    """
    cdef Edges p
    cdef int nd = q.ndim, i
    cdef Py_ssize_t batch = leading(q, 3), n, units
    cdef Py_ssize_t *tables
    cdef real *by_key = NULL
    cdef double slope       # a Python number becomes a ``real`` by way of float in every build
    cdef cnp.ndarray array
    cdef object capsule
    memset(&p, 0, sizeof(p))
    p.batch = batch
    p.heads = q.shape[nd - 3]
    p.lq = q.shape[nd - 2]
    p.lk = k.shape[nd - 2]
    p.d = k.shape[nd - 1]
    p.group = p.heads // k.shape[nd - 3]
    p.edges = indices.shape[0]
    if batch * p.lq == 0:
        return
    p.indptr = <const Py_ssize_t *>cnp.PyArray_DATA(indptr)
    p.indices = <const int *>cnp.PyArray_DATA(indices)
    p.set_batch = set_batch
    p.set_head = set_head
    p.q = reals(q)
    p.k = reals(k)
    p.q_head, p.q_row = step(q, nd - 3), step(q, nd - 2)
    p.k_head, p.k_row = step(k, nd - 3), step(k, nd - 2)
    p.scale = reals(scale)
    p.lse = reals(lse)
    p.sinks = reals(sinks)
    p.softcap = <real>softcap
    if key_attr is not None:
        p.key_attr = key_attr.shape[1]
        p.attr = reals(key_attr)
        p.attr_row = step(key_attr, 0)
    if dropout > 0:
        p.dropout = True
        p.drop_below = <unsigned int>(dropout * 4294967296.0)
        p.keep_scale = <real>(1 / (1 - dropout))
        p.seed = seed
    p.planes = 1
    p.plane_start[1] = p.d + p.key_attr
    # Heads that share their edges are taken together where they share keys, or where one row of memory holds the keys of all.
    p.span = 1
    if set_head == 0:
        p.span = p.heads if p.k_head < p.k_row and p.group == 1 else p.group
        # not where that leaves a team without work: a row or two of many heads
        units = p.edges + HEADER * p.lq * batch if set_batch else (p.edges + HEADER * p.lq) * batch
        if units // CHUNK * (p.heads // p.span) < TASKS:
            p.span = 1
    p.items = batch * (p.heads // p.span)
    tables = <Py_ssize_t *>PyMem_RawMalloc((7 * batch + p.items + 1) * sizeof(Py_ssize_t))
    if tables == NULL:
        raise MemoryError("no memory for the tables of the edge kernels")
    try:
        p.q_at, p.k_at, p.v_at, p.out_at = tables, tables + batch, tables + 2 * batch, tables + 3 * batch
        p.logits_at, p.bias_at, p.weights_at = tables + 4 * batch, tables + 5 * batch, tables + 6 * batch
        offsets(q, 3, sizeof(real), tables)
        offsets(k, 3, sizeof(real), tables + batch)
        for n in range(batch):
            tables[2 * batch + n] = 0
        if out is not None:
            p.v = reals(v)
            p.dv = v.shape[nd - 1]
            p.v_head, p.v_row = step(v, nd - 3), step(v, nd - 2)
            p.values_by_edge = values_by_edge
            offsets(v, 3, sizeof(real), tables + 2 * batch)
            p.out = reals(out)
            p.out_head, p.out_row = step(out, nd - 3), step(out, nd - 2)
            offsets(out, 3, sizeof(real), tables + 3 * batch)
            if value_attr is not None:
                p.value_attr = value_attr.shape[1]
                p.attr = reals(value_attr)
                p.attr_row = step(value_attr, 0)
        # one row of memory holds the values of all heads of an item, and nothing joins them
        p.together = (p.span > 1 and p.span <= EDGE_HEADS and p.group == 1 and p.out != NULL and p.v_head == p.dv and p.dv % VLEN == 0
                      and p.value_attr == 0 and not p.values_by_edge)
        p.far = p.lk * (p.d + p.dv) * <Py_ssize_t>sizeof(real) > NEAR
        if logits is not None:
            p.logits = reals(logits)
            p.logits_head, p.logits_edge = step(logits, nd - 3), step(logits, nd - 2)
            offsets(logits, 2, sizeof(real), tables + 4 * batch)
        elif score is not None:
            p.planes = len(score.plane_starts) - 1
            for i in range(<int>p.planes + 1):
                p.plane_start[i] = score.plane_starts[i]
            p.n_rows = <int>len(score.rows)
            for i in range(p.n_rows):
                p.rows[i] = reals(score.rows[i])
            p.n_cols = <int>len(terms)
            for i in range(p.n_cols):
                array = terms[i][0]
                p.cols[i] = reals(array)
                p.cols_by_edge[i] = terms[i][1]
                p.cols_heads[i] = array.shape[array.ndim - 2]
                p.cols_head[i] = step(array, array.ndim - 2)
                p.cols_step[i] = step(array, array.ndim - 1)
                p.cols_batch[i] = array.shape[array.ndim - 2] * array.shape[array.ndim - 1] if array.ndim > 2 else 0
            p.params = reals(score.params)
            p.n_params = score.params.shape[1]
            p.vectors = score.vectors
            capsule = tuple.__getitem__(score.forward, 0)
            p.forward = <score_forward>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
            p.forward_data = PyCapsule_GetContext(capsule)
            if score.leaky is not None and p.together and p.span == p.heads and p.span <= 8 and VLEN % p.span == 0:
                slope = score.slope
                p.slope = <real>slope
                if score.leaky == "hidden":
                    p.hidden = p.d % VLEN == 0 and p.key_attr == 0 and p.n_cols == 0 and p.slope <= 1
                elif p.n_rows == 1 and [by_edge for _, by_edge in terms] == [False] + [True] * (p.n_cols - 1):
                    by_key = heads_beside(&p)
                    p.by_key = by_key
        if bias is not None:
            p.bias = reals(bias)
            p.bias_head, p.bias_edge = step(bias, nd - 3), step(bias, nd - 2)
            offsets(bias, 2, sizeof(real), tables + 5 * batch)
        if weights is not None:
            p.weights = reals(weights)
            p.weights_head, p.weights_edge = step(weights, nd - 3), step(weights, nd - 2)
            offsets(weights, 2, sizeof(real), tables + 6 * batch)
        execute(&p, tables + 7 * batch, threads)
    finally:
        PyMem_RawFree(by_key)
        PyMem_RawFree(tables)


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
