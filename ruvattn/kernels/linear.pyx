# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Rows times a matrix of weights, plus a bias: what layers begin and end with.

    weights (E, M) ─► panels of NR columns ─┐
    x (N, E) ─► blocks of rows ─────────────┴─► six rows × NR columns in registers ─► + bias ─► out (N, M)
                in parallel                     (microkernel.pxd)

Not by BLAS, whose threads go on spinning when a product is done: on as many cores as threads, the attention that follows would wait for them.
Compiled once per instruction set and dtype; nothing here checks user input. A number is the same to the bit whatever the number of threads, and
whatever rows stand beside its own.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from .arrays cimport reals, step
from .microkernel cimport Accumulators, accumulate, next_rows
from .openmp cimport RUVATTN_OPENMP, omp_in_parallel, ruvattn_pause, ruvattn_team
from .vector cimport VLEN, real, v_load, v_set1, v_store, v_sum, vreal

cnp.import_array()

OPENMP = RUVATTN_OPENMP

cdef enum:
    ROWS = 96              # of a task; those of six at a time that meet one panel after another stay in the second-level cache
    DEPTH = 256            # of a panel: it stays in the first-level cache
    NR = 2 * 16            # room for two vectors of any width

cdef double ALONE = 2e6     # multiply-adds below which waking a team isn't worth it
cdef double PATIENCE = 2e9  # multiply-adds of a thread between looks for Ctrl-C


cdef struct Product:
    Py_ssize_t n, e, m, panels
    const real *x
    Py_ssize_t x_row
    const real *packed     # (panels, e, 2·VLEN)
    const real *bias       # (panels, 2·VLEN), or NULL
    real *out              # (n, m), contiguous
    unsigned char *bad     # of each task: whether something isn't finite


cdef inline void put_row(vreal a, vreal b, vreal bias0, vreal bias1, bint more, Py_ssize_t left, real *out, vreal *check) noexcept nogil:
    """Two vectors of one row, onto what is there with ``more``; ``left`` columns of them are there to be written."""
    cdef real s[NR]
    cdef Py_ssize_t c
    a = a + bias0
    b = b + bias1
    if left >= 2 * VLEN:
        if more:
            a = a + v_load(out)
            b = b + v_load(out + VLEN)
        v_store(out, a)
        v_store(out + VLEN, b)
        check[0] = check[0] + (a * v_set1(0) + b * v_set1(0))
        return
    v_store(s, a)
    v_store(s + VLEN, b)
    if more:
        for c in range(left):
            s[c] += out[c]
    check[0] = check[0] + (v_load(s) * v_set1(0) + v_load(s + VLEN) * v_set1(0))
    memcpy(out, s, left * sizeof(real))


cdef inline void add_block(const int rows, const Product *p, Py_ssize_t i, Py_ssize_t j, Py_ssize_t first, Py_ssize_t depth,
                           vreal *check) noexcept nogil:
    """Rows [i, i + rows) of panel j: what columns [first, first + depth) of x add."""
    cdef Py_ssize_t nr = 2 * VLEN, left = p.m - j * nr, m = p.m
    cdef real *out = p.out + i * m + j * nr
    cdef vreal b0 = v_set1(0), b1 = b0
    cdef bint more = first > 0
    cdef Accumulators c = accumulate(rows, p.x + i * p.x_row + first, p.x_row, 1, p.packed + (j * p.e + first) * nr, nr, depth)
    if p.bias != NULL and not more:
        b0 = v_load(p.bias + j * nr)
        b1 = v_load(p.bias + j * nr + VLEN)
    put_row(c.c00, c.c01, b0, b1, more, left, out, check)
    if rows > 1:
        put_row(c.c10, c.c11, b0, b1, more, left, out + m, check)
    if rows > 2:
        put_row(c.c20, c.c21, b0, b1, more, left, out + 2 * m, check)
    if rows > 3:
        put_row(c.c30, c.c31, b0, b1, more, left, out + 3 * m, check)
    if rows > 4:
        put_row(c.c40, c.c41, b0, b1, more, left, out + 4 * m, check)
    if rows > 5:
        put_row(c.c50, c.c51, b0, b1, more, left, out + 5 * m, check)


cdef void multiply_rows(const Product *p, Py_ssize_t task) noexcept nogil:
    cdef Py_ssize_t i0 = task * ROWS, i1 = i0 + ROWS if i0 + ROWS < p.n else p.n, i, j, first = 0, depth
    cdef int rows
    cdef vreal check = v_set1(0)
    while True:
        depth = p.e - first if p.e - first < DEPTH else DEPTH
        for j in range(p.panels):
            i = i0
            while i < i1:
                rows = next_rows(i1 - i)
                if rows == 6:
                    add_block(6, p, i, j, first, depth, &check)
                elif rows == 5:
                    add_block(5, p, i, j, first, depth, &check)
                elif rows == 4:
                    add_block(4, p, i, j, first, depth, &check)
                elif rows == 3:
                    add_block(3, p, i, j, first, depth, &check)
                elif rows == 2:
                    add_block(2, p, i, j, first, depth, &check)
                else:
                    add_block(1, p, i, j, first, depth, &check)
                i += rows
        first += depth
        if first >= p.e:
            break
    p.bad[task] = v_sum(check) != 0


cdef inline void pack(const real *weight, Py_ssize_t w_row, Py_ssize_t w_column, const Product *p, real *packed) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN, j, r, c, n
    for j in range(p.panels):
        n = p.m - j * nr if p.m - j * nr < nr else nr
        for r in range(p.e):
            for c in range(n):
                packed[c] = weight[r * w_row + (j * nr + c) * w_column]
            for c in range(n, nr):
                packed[c] = 0
            packed += nr


def multiply(cnp.ndarray x not None, cnp.ndarray weight not None, cnp.ndarray bias, cnp.ndarray out not None, int threads):
    """Fill out (N, M) with x (N, E) · weight (E, M) + bias (M,); True if all of it is finite.

    One dtype, native and aligned; the last axis of x and all of out and bias contiguous; weight in any strides; N, E and M at least 1.
    """
    cdef Product p
    cdef Py_ssize_t nr = 2 * VLEN, task = 0, stop, tasks, batch, c, size
    cdef int team = threads
    cdef real *memory
    cdef real *b
    cdef double cost
    p.n, p.e, p.m = x.shape[0], x.shape[1], weight.shape[1]
    p.panels = (p.m + nr - 1) // nr
    p.x, p.x_row = reals(x), step(x, 0)
    p.out = reals(out)
    p.bias = NULL
    tasks = (p.n + ROWS - 1) // ROWS
    cost = <double>ROWS * p.e * p.m
    if <double>p.n * p.e * p.m < ALONE or omp_in_parallel():
        team = 1
    if team > tasks:
        team = <int>tasks
    if team > 1:
        team = ruvattn_team(team)
    size = p.panels * nr * (p.e + 1) * <Py_ssize_t>sizeof(real)
    memory = <real *>PyMem_RawMalloc(size)
    p.bad = <unsigned char *>PyMem_RawMalloc(tasks)
    try:
        if memory == NULL or p.bad == NULL:
            raise MemoryError(f"no memory for the packed weights of a product: {size:,} bytes")
        pack(reals(weight), step(weight, 0), step(weight, 1), &p, memory)
        p.packed = memory
        if bias is not None:
            b = memory + p.panels * nr * p.e
            memset(b, 0, p.panels * nr * sizeof(real))
            memcpy(b, reals(bias), p.m * sizeof(real))
            p.bias = b
        batch = <Py_ssize_t>(PATIENCE / (cost + 1) + 1) * team
        while task < tasks:
            stop = tasks if tasks - task < batch else task + batch
            with nogil:
                if team > 1:
                    for c in prange(task, stop, num_threads=team, schedule="static"):
                        multiply_rows(&p, c)
                else:
                    for c in range(task, stop):
                        multiply_rows(&p, c)
            task = stop
            if task < tasks:
                PyErr_CheckSignals()
        for c in range(tasks):
            if p.bad[c]:
                return False
        return True
    finally:
        PyMem_RawFree(memory)
        PyMem_RawFree(p.bad)


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
