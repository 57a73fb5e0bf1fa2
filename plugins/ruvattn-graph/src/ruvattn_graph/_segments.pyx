# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sums, means and largest numbers of gathered rows, for each row of a CSR structure; the kernels of ruvattn_graph.segments.

    combine()           reads arrays into Segments, cuts the work into tasks, runs them, serially or on a team
      chunk_task        an equal share of rows and edges, whatever the degrees; of a row that is longer than that, a piece each
      merge_task        the pieces of a long row into one, in the order of its edges
        gather_piece    tiles of up to TILE edges, columns in registers; the rows of the next tile are fetched meanwhile
        conclude_row    a mean is divided, an empty row is 0; sums that aren't finite are made once more in wide arithmetic
    give_back()         the gradient of the largest: to the edges that it is of, some columns a task
      columns_task      all rows of these columns, in their order

Compiled once per instruction set and dtype. Nothing here checks user input (``ruvattn_graph.segments`` did) and nothing in a task can raise. What a
task computes depends on the shape alone, never on the number of threads.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from ruvattn.kernels.arrays cimport Arena, leading, offsets, reals, step, take
from ruvattn.kernels.gather cimport gather_values, prefetch_row
from ruvattn.kernels.openmp cimport RUVATTN_OPENMP, omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team
from ruvattn.kernels.vector cimport (
    REAL_MAX, VLEN, real, urint, v_eq, v_load, v_loadu, v_lt, v_max, v_select, v_set1, v_set1u, v_store, v_storeu, v_sum, vreal, vuint,
)
from ruvattn.kernels.wide cimport narrow, wide

import numpy as np

cnp.import_array()

OPENMP = RUVATTN_OPENMP
DTYPE = np.dtype("f%d" % sizeof(real))

cdef enum:
    CHUNK = 2048           # units of a task; an edge is one
    HEADER = 4             # units of a row as such: what it costs even without edges
    TILE = 32              # edges that are summed at once
    NEAR = 1 << 19         # bytes of rows that the second-level cache holds anyway
    FETCHED = 1 << 14      # bytes of rows that are fetched ahead, half of a first-level cache
    WIDE_COLUMNS = 64      # columns that are summed at once in wide arithmetic
    GIVEN = 16             # columns of a task that gives gradients back: no cache line is another's where rows are whole lines
    # what becomes of the rows
    SUM = 0
    MEAN = 1
    MAX = 2

# Numbers that a thread adds between looks for Ctrl-C, for which all threads wait: a tenth of a second, about.
cdef double PATIENCE = 1e8

cdef Py_ssize_t LONGEST = CHUNK - HEADER           # a row with more edges than that is cut


cdef struct Segments:
    Py_ssize_t batch, rows, edges, width
    const Py_ssize_t *indptr
    const int *indices
    const real *x
    const real *weight                  # (edges,), or NULL for ones; not for MAX
    real *out
    Py_ssize_t *arg                     # (batch, rows, width), contiguous, or NULL: which edge the largest number is of
    Py_ssize_t x_row, out_row
    const Py_ssize_t *x_at              # element offsets of the batch entries
    const Py_ssize_t *out_at
    int mode
    Py_ssize_t chunks                   # of a batch entry
    Py_ssize_t ahead                    # edges whose rows are fetched before they are needed; 0: none
    real *partial                       # (tasks, 2, width): what a chunk has of a row that began before it, and of one that it doesn't end
    Py_ssize_t *partial_arg


cdef struct Scratch:
    real *ones                          # TILE of them
    urint *at                           # the edge that a column's largest number is of, counted from the piece's first


# --- tasks ----------------------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t place(const Segments *p, Py_ssize_t r) noexcept nogil:
    """Where row r begins among the units."""
    return p.indptr[r] + HEADER * r


cdef inline Py_ssize_t row_at(const Segments *p, Py_ssize_t unit) noexcept nogil:
    """The first row that begins at ``unit`` or later; ``rows`` where there is none."""
    cdef Py_ssize_t low = 0, high = p.rows, middle
    while low < high:
        middle = (low + high) // 2
        if place(p, middle) < unit:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline Py_ssize_t edge_at(const Segments *p, Py_ssize_t r, Py_ssize_t unit) noexcept nogil:
    """Which edge of row r stands at ``unit``: its first or its last and one more where that is before it or after it."""
    cdef Py_ssize_t e = p.indptr[r] + unit - place(p, r) - HEADER
    return p.indptr[r] if e < p.indptr[r] else p.indptr[r + 1] if e > p.indptr[r + 1] else e


# --- the largest ----------------------------------------------------------------------------------------------------------------

cdef inline vreal larger(vreal x, vreal best) noexcept nogil:
    """The larger of the two; NaN where one is NaN: v_max keeps a best that is, and the blend takes an x that is."""
    return v_select(v_eq(x, x), v_max(x, best), x)


cdef inline void max_columns(const real *x, Py_ssize_t ldx, const int *rows, Py_ssize_t n, real *o) noexcept nogil:
    """4·VLEN columns."""
    cdef vreal c0 = v_load(o), c1 = v_load(o + VLEN), c2 = v_load(o + 2 * VLEN), c3 = v_load(o + 3 * VLEN)
    cdef const real *y
    cdef Py_ssize_t j
    for j in range(n):
        y = x + rows[j] * ldx
        c0 = larger(v_load(y), c0)
        c1 = larger(v_load(y + VLEN), c1)
        c2 = larger(v_load(y + 2 * VLEN), c2)
        c3 = larger(v_load(y + 3 * VLEN), c3)
    v_store(o, c0)
    v_store(o + VLEN, c1)
    v_store(o + 2 * VLEN, c2)
    v_store(o + 3 * VLEN, c3)


cdef inline void max_vector(const real *x, Py_ssize_t ldx, const int *rows, Py_ssize_t n, real *o) noexcept nogil:
    cdef vreal c = v_load(o)
    cdef Py_ssize_t j
    for j in range(n):
        c = larger(v_load(x + rows[j] * ldx), c)
    v_store(o, c)


cdef inline void max_vector_at(const real *x, Py_ssize_t ldx, const int *rows, Py_ssize_t n, urint first, real *o, urint *at) noexcept nogil:
    """The same, and which edge it is: the first of those that are equal, or the first NaN."""
    cdef vreal c = v_load(o), y
    cdef vuint place_of = v_loadu(at), better
    cdef Py_ssize_t j
    for j in range(n):
        y = v_load(x + rows[j] * ldx)
        better = v_lt(c, y) | (~v_eq(y, y) & v_eq(c, c))
        c = v_select(better, y, c)
        place_of = (v_set1u(first + <urint>j) & better) | (place_of & ~better)
    v_store(o, c)
    v_storeu(at, place_of)


cdef inline void max_tile(const Segments *p, const real *x, const int *rows, Py_ssize_t n, urint first, Py_ssize_t known, real *o,
                          urint *at) noexcept nogil:
    """All columns; the last vector ends with the last column, for to see a number twice does no harm. So many rows are ``known`` that may be
    fetched, from ``ahead`` of them on."""
    cdef Py_ssize_t c = 0, j
    cdef real y
    for j in range(n if n < known else known):
        prefetch_row(x + rows[j + p.ahead] * p.x_row, p.width)
    if p.width < VLEN:
        for j in range(n):
            for c in range(p.width):
                y = x[rows[j] * p.x_row + c]
                if y > o[c] or (y != y and o[c] == o[c]):
                    o[c] = y
                    at[c] = first + <urint>j
        return
    if p.arg != NULL:
        while c < p.width:
            c = c if c + VLEN <= p.width else p.width - VLEN
            max_vector_at(x + c, p.x_row, rows, n, first, o + c, at + c)
            c += VLEN
        return
    while c + 4 * VLEN <= p.width:
        max_columns(x + c, p.x_row, rows, n, o + c)
        c += 4 * VLEN
    while c < p.width:
        c = c if c + VLEN <= p.width else p.width - VLEN
        max_vector(x + c, p.x_row, rows, n, o + c)
        c += VLEN


# --- a row ----------------------------------------------------------------------------------------------------------------------

cdef inline void gather_piece(const Segments *p, Py_ssize_t b, Py_ssize_t e0, Py_ssize_t e1, real *o, Scratch *w) noexcept nogil:
    """o = the sum or the largest of the rows of edges [e0, e1): 0 or −∞ of none."""
    cdef const real *x = p.x + p.x_at[b]
    cdef const real *share
    cdef Py_ssize_t e = e0, n, c
    if p.mode == MAX:
        for c in range(p.width):
            o[c] = -INFINITY
            w.at[c] = 0
    else:
        memset(o, 0, p.width * sizeof(real))
    while e < e1:
        n = e1 - e if e1 - e < TILE else TILE
        # rows are fetched not only of this piece: what comes next is in the next row of it
        if p.mode == MAX:
            max_tile(p, x, p.indices + e, n, <urint>(e - e0), p.edges - e - p.ahead if p.ahead > 0 else 0, o, w.at)
        else:
            share = w.ones
            if p.weight != NULL:
                share = p.weight + e
            gather_values(share, x, p.x_row, p.indices + e, n, p.width, 1, x if p.ahead > 0 else NULL, p.ahead, p.edges - e - p.ahead, o)
        e += n


cdef inline wide weight_of(const Segments *p, Py_ssize_t e0, Py_ssize_t e1) noexcept nogil:
    cdef wide total = 0
    cdef Py_ssize_t e
    if p.weight == NULL:
        return <wide>(e1 - e0)
    for e in range(e0, e1):
        total += <wide>p.weight[e]
    return total


cdef void repair_row(const Segments *p, Py_ssize_t b, Py_ssize_t e0, Py_ssize_t e1, wide total, real *o) noexcept nogil:
    """Columns that aren't finite in wide arithmetic; what sees NaN or an infinity stays as it is."""
    cdef const real *x = p.x + p.x_at[b]
    cdef const real *y
    cdef wide sums[WIDE_COLUMNS]
    cdef wide s
    cdef Py_ssize_t c = 0, t, n, e
    while c < p.width:
        n = p.width - c if p.width - c < WIDE_COLUMNS else WIDE_COLUMNS
        for t in range(n):
            sums[t] = 0
        for e in range(e0, e1):
            y = x + p.indices[e] * p.x_row + c
            s = 1 if p.weight == NULL else <wide>p.weight[e]
            for t in range(n):
                sums[t] += s * <wide>y[t]
        for t in range(n):
            s = sums[t] / total if p.mode == MEAN else sums[t]
            if o[c + t] * 0 != 0 and s - s == 0:
                o[c + t] = narrow(s, REAL_MAX)
        c += n


cdef inline void conclude_row(const Segments *p, Py_ssize_t b, Py_ssize_t r, real *o) noexcept nogil:
    """From the whole sum of row r to its result, in place."""
    cdef Py_ssize_t e0 = p.indptr[r], e1 = p.indptr[r + 1], c = 0
    cdef wide total = 1
    cdef real divisor
    cdef vreal check = v_set1(0), y
    cdef real rest = 0
    if e0 == e1:
        memset(o, 0, p.width * sizeof(real))
        return
    if p.mode == MAX:
        return
    if p.mode == MEAN:
        total = weight_of(p, e0, e1)
        if total == 0:
            memset(o, 0, p.width * sizeof(real))
            return
    divisor = <real>total   # infinite where it is beyond: then o becomes NaN below, and is repaired
    while c + VLEN <= p.width:
        y = v_load(o + c)
        if p.mode == MEAN:
            y = y / v_set1(divisor) + v_set1(divisor * 0)
            v_store(o + c, y)
        check = check + y * v_set1(0)
        c += VLEN
    while c < p.width:
        if p.mode == MEAN:
            o[c] = o[c] / divisor + divisor * 0
        rest += o[c] * 0
        c += 1
    if v_sum(check) + rest != 0:
        repair_row(p, b, e0, e1, total, o)


cdef inline Py_ssize_t *arg_of(const Segments *p, Py_ssize_t b, Py_ssize_t r) noexcept nogil:
    return p.arg + (b * p.rows + r) * p.width


cdef inline void write_arg(const Segments *p, Py_ssize_t e0, Py_ssize_t e1, const urint *at, Py_ssize_t *arg) noexcept nogil:
    """From places in a piece to edges; −1 where it has none."""
    cdef Py_ssize_t c
    for c in range(p.width):
        arg[c] = e0 + <Py_ssize_t>at[c] if e0 < e1 else -1


cdef inline void leave_piece(const Segments *p, Py_ssize_t task, int slot, Py_ssize_t e0, Py_ssize_t e1, Scratch *w) noexcept nogil:
    cdef Py_ssize_t at = (2 * task + slot) * p.width
    gather_piece(p, task // p.chunks, e0, e1, p.partial + at, w)
    if p.arg != NULL:
        write_arg(p, e0, e1, w.at, p.partial_arg + at)


cdef void chunk_task(const Segments *p, Py_ssize_t task, Scratch *w) noexcept nogil:
    """The rows that begin in one chunk, and what is in it of a long row that began before."""
    cdef Py_ssize_t b = task // p.chunks, start = task % p.chunks * CHUNK, stop = start + CHUNK, r = row_at(p, start)
    cdef real *o
    if r > 0 and place(p, r) > start and p.indptr[r] - p.indptr[r - 1] > LONGEST:
        leave_piece(p, task, 0, edge_at(p, r - 1, start), edge_at(p, r - 1, stop), w)
    while r < p.rows and place(p, r) < stop:
        if p.indptr[r + 1] - p.indptr[r] > LONGEST:
            leave_piece(p, task, 1, p.indptr[r], edge_at(p, r, stop), w)
            return
        o = p.out + p.out_at[b] + r * p.out_row
        gather_piece(p, b, p.indptr[r], p.indptr[r + 1], o, w)
        if p.arg != NULL:
            write_arg(p, p.indptr[r], p.indptr[r + 1], w.at, arg_of(p, b, r))
        conclude_row(p, b, r, o)
        r += 1


cdef inline void merge_piece(const Segments *p, Py_ssize_t at, real *o, Py_ssize_t *arg) noexcept nogil:
    """Join the piece at ``at`` to those before it."""
    cdef const real *other = p.partial + at
    cdef Py_ssize_t c
    if p.mode != MAX:
        for c in range(p.width):
            o[c] += other[c]
        return
    for c in range(p.width):
        if other[c] > o[c] or (other[c] != other[c] and o[c] == o[c]) or (arg != NULL and arg[c] < 0):
            o[c] = other[c]
            if arg != NULL:
                arg[c] = p.partial_arg[at + c]


cdef void merge_task(const Segments *p, Py_ssize_t task, Scratch *w) noexcept nogil:
    """The long row that begins in this task's chunk, if there is one: it can only be the last that does."""
    cdef Py_ssize_t b = task // p.chunks, start = task % p.chunks * CHUNK, r = row_at(p, start + CHUNK) - 1, other, last
    cdef real *o
    cdef Py_ssize_t *arg = NULL
    if r < 0 or place(p, r) < start or p.indptr[r + 1] - p.indptr[r] <= LONGEST:
        return
    o = p.out + p.out_at[b] + r * p.out_row
    memcpy(o, p.partial + (2 * task + 1) * p.width, p.width * sizeof(real))
    if p.arg != NULL:
        arg = arg_of(p, b, r)
        memcpy(arg, p.partial_arg + (2 * task + 1) * p.width, p.width * sizeof(Py_ssize_t))
    last = b * p.chunks + (place(p, r + 1) - 1) // CHUNK
    for other in range(task + 1, last + 1):
        merge_piece(p, 2 * other * p.width, o, arg)
    conclude_row(p, b, r, o)


ctypedef void (*segment_task)(const Segments *p, Py_ssize_t task, Scratch *w) noexcept nogil


# --- the call -------------------------------------------------------------------------------------------------------------------

cdef int run_tasks(const Segments *p, segment_task work, Scratch *scratch, int team) except -1:
    """Run all tasks, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t done = 0, tasks = p.batch * p.chunks, stop, task
    cdef Py_ssize_t batch = <Py_ssize_t>(PATIENCE / (<double>CHUNK * p.width + 1) + 1) * team
    while done < tasks:
        stop = tasks if tasks - done < batch else done + batch
        if team > 1:
            with nogil:
                for task in prange(done, stop, num_threads=team, schedule="dynamic", chunksize=1):
                    work(p, task, scratch + omp_get_thread_num())
        else:
            with nogil:
                for task in range(done, stop):
                    work(p, task, scratch)
        done = stop
        if done < tasks:
            PyErr_CheckSignals()
    return 0


cdef void lay_out(const Segments *p, Arena *arena, Scratch *w) noexcept nogil:
    w.ones = <real *>take(arena, TILE, sizeof(real))
    w.at = <urint *>take(arena, p.width if p.mode == MAX else 0, sizeof(urint))


cdef int execute(Segments *p, int threads) except -1:
    cdef Py_ssize_t r, tasks, longest = 0, i, j
    cdef Arena arena
    cdef Scratch *scratch = NULL
    cdef char *memory = NULL
    cdef size_t each
    cdef int team = threads
    p.chunks = (place(p, p.rows) + CHUNK - 1) // CHUNK
    tasks = p.batch * p.chunks
    for r in range(p.rows):
        if p.indptr[r + 1] - p.indptr[r] > longest:
            longest = p.indptr[r + 1] - p.indptr[r]
    # waking a team costs a few microseconds: below that much work it isn't worth it
    if <double>place(p, p.rows) * p.batch * p.width < 4e5 or omp_in_parallel():
        team = 1
    team = <int>tasks if team > tasks else team
    if team > 1:
        team = ruvattn_team(team)
    arena.base = NULL
    arena.used = 0
    try:
        if longest > LONGEST:
            p.partial = <real *>PyMem_RawMalloc(tasks * 2 * p.width * sizeof(real))
            if p.arg != NULL:
                p.partial_arg = <Py_ssize_t *>PyMem_RawMalloc(tasks * 2 * p.width * sizeof(Py_ssize_t))
            if p.partial == NULL or (p.arg != NULL and p.partial_arg == NULL):
                raise MemoryError("no memory for the partial results of the segment kernels")
        scratch = <Scratch *>PyMem_RawMalloc(team * sizeof(Scratch))
        if scratch == NULL:
            raise MemoryError("no memory for the scratch of the segment kernels")
        lay_out(p, &arena, scratch)
        each = arena.used
        memory = <char *>PyMem_RawMalloc(each * team + 64)
        if memory == NULL:
            raise MemoryError(f"no memory for the scratch of the segment kernels: {each * team} bytes for {team} threads")
        for i in range(team):
            arena.base = <char *>((<size_t>memory + 63) // 64 * 64) + i * each
            arena.used = 0
            lay_out(p, &arena, scratch + i)
            for j in range(TILE):
                scratch[i].ones[j] = 1
        run_tasks(p, chunk_task, scratch, team)
        if p.partial != NULL:
            run_tasks(p, merge_task, scratch, team)
    finally:
        PyMem_RawFree(memory)
        PyMem_RawFree(scratch)
        PyMem_RawFree(p.partial)
        PyMem_RawFree(p.partial_arg)
    return 0


def combine(str how not None, cnp.ndarray x not None, cnp.ndarray indptr not None, cnp.ndarray indices not None, cnp.ndarray weight,
            cnp.ndarray out not None, cnp.ndarray arg, int threads=1):
    """Combine the rows of x (..., N, W) that each row lists into out (..., rows, W), by "sum", "mean" or "max".

    Everything has been validated: one dtype, native and aligned, contiguous last axes, strides that are multiples of the item; indptr (rows + 1,)
    int64, indices (E,) int32 and weight (E,) or None contiguous, in range; arg (..., rows, W) intp, contiguous, or None. No axis of out is 0.
    """
    cdef Segments p
    cdef Py_ssize_t batch = leading(x, 2), row_bytes
    cdef Py_ssize_t *tables
    memset(&p, 0, sizeof(p))
    p.mode = SUM if how == "sum" else MEAN if how == "mean" else MAX
    p.batch = batch
    p.rows = out.shape[out.ndim - 2]
    p.edges = indices.shape[0]
    p.width = x.shape[x.ndim - 1]
    p.indptr = <const Py_ssize_t *>cnp.PyArray_DATA(indptr)
    p.indices = <const int *>cnp.PyArray_DATA(indices)
    p.x, p.out, p.weight = reals(x), reals(out), reals(weight)
    p.x_row, p.out_row = step(x, x.ndim - 2), step(out, out.ndim - 2)
    if arg is not None:
        p.arg = <Py_ssize_t *>cnp.PyArray_DATA(arg)
    row_bytes = p.width * <Py_ssize_t>sizeof(real)
    if x.shape[x.ndim - 2] * row_bytes > NEAR:
        p.ahead = FETCHED // row_bytes
        p.ahead = 2 if p.ahead < 2 else TILE if p.ahead > TILE else p.ahead
    tables = <Py_ssize_t *>PyMem_RawMalloc(2 * batch * sizeof(Py_ssize_t))
    if tables == NULL:
        raise MemoryError("no memory for the tables of the segment kernels")
    try:
        p.x_at, p.out_at = tables, tables + batch
        offsets(x, 2, sizeof(real), tables)
        offsets(out, 2, sizeof(real), tables + batch)
        execute(&p, threads)
    finally:
        PyMem_RawFree(tables)


# --- the gradient of the largest ------------------------------------------------------------------------------------------------

cdef struct Winners:
    Py_ssize_t batch, rows, width, blocks
    const int *indices
    const real *dout
    const Py_ssize_t *arg               # (batch, rows, width), contiguous: an edge, or −1
    real *dx
    Py_ssize_t dout_row, dx_row
    const Py_ssize_t *dout_at           # element offsets of the batch entries
    const Py_ssize_t *dx_at


cdef void columns_task(const Winners *p, Py_ssize_t task, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil:
    """Rows [r0, r1) of one block of columns: no other task writes to these."""
    cdef Py_ssize_t b = task // p.blocks, first = task % p.blocks * GIVEN, last = first + GIVEN, r, c
    cdef const real *dout
    cdef const Py_ssize_t *arg
    cdef real *dx = p.dx + p.dx_at[b]
    last = last if last < p.width else p.width
    for r in range(r0, r1):
        dout = p.dout + p.dout_at[b] + r * p.dout_row
        arg = p.arg + (b * p.rows + r) * p.width
        for c in range(first, last):
            if arg[c] >= 0:
                dx[p.indices[arg[c]] * p.dx_row + c] += dout[c]


cdef int give_all_back(const Winners *p, int team) except -1:
    """Run all tasks, some rows at a time, between which Ctrl-C is answered."""
    cdef Py_ssize_t tasks = p.batch * p.blocks, task, r = 0, stop, rows = <Py_ssize_t>(PATIENCE / (<double>p.batch * p.width) + 1)
    while r < p.rows:
        stop = p.rows if p.rows - r < rows else r + rows
        if team > 1:
            with nogil:
                for task in prange(tasks, num_threads=team, schedule="dynamic", chunksize=1):
                    columns_task(p, task, r, stop)
        else:
            with nogil:
                for task in range(tasks):
                    columns_task(p, task, r, stop)
        r = stop
        if r < p.rows:
            PyErr_CheckSignals()
    return 0


def give_back(cnp.ndarray dout not None, cnp.ndarray arg not None, cnp.ndarray indices not None, cnp.ndarray dx not None, int threads=1):
    """Add the gradient dout (..., rows, W) of the largest to those of the rows of x that they are of, dx (..., N, W).

    Everything has been validated: one dtype, native and aligned, contiguous last axes, strides that are multiples of the item; arg (..., rows, W)
    intp, contiguous, edges or −1; indices (E,) int32, contiguous. No axis of dout is 0.
    """
    cdef Winners p
    cdef Py_ssize_t batch = leading(dout, 2), tasks
    cdef Py_ssize_t *tables
    cdef int team = threads
    p.batch = batch
    p.rows, p.width = dout.shape[dout.ndim - 2], dout.shape[dout.ndim - 1]
    p.blocks = (p.width + GIVEN - 1) // GIVEN
    p.indices = <const int *>cnp.PyArray_DATA(indices)
    p.arg = <const Py_ssize_t *>cnp.PyArray_DATA(arg)
    p.dout, p.dx = reals(dout), reals(dx)
    p.dout_row, p.dx_row = step(dout, dout.ndim - 2), step(dx, dx.ndim - 2)
    tasks = batch * p.blocks
    if <double>batch * p.rows * p.width < 2e5 or omp_in_parallel():
        team = 1
    team = <int>tasks if team > tasks else team
    if team > 1:
        team = ruvattn_team(team)
    tables = <Py_ssize_t *>PyMem_RawMalloc(2 * batch * sizeof(Py_ssize_t))
    if tables == NULL:
        raise MemoryError("no memory for the tables of the segment kernels")
    try:
        p.dout_at, p.dx_at = tables, tables + batch
        offsets(dout, 2, sizeof(real), tables)
        offsets(dx, 2, sizeof(real), tables + batch)
        give_all_back(&p, team)
    finally:
        PyMem_RawFree(tables)


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
