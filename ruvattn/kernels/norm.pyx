# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Layer normalisation: each row loses its mean and is divided by its standard deviation. What goes backward is in norm_backward.pxd.

    normalise()         reads arrays into Norm, cuts the rows into chunks, runs them, serially or on a team
      chunk_task        the rows of one chunk, some at a time where they are short
        take_row        x + residual
        mean_of         a first pass over the row: its mean, as good as a sum in ``real`` gives it
        settle          a second one: what that mean is off by, and the variance
        conclude        a third one: normalise, weight, shift, write
        wide_row        instead of it: rows whose sums overflow or vanish, once more in wide arithmetic
    differentiate()     the same for gradients, in blocks of rows
      block_task        the rows of one block

The row stays in the first-level cache between the passes. The variance is that of centred numbers, so that it doesn't cancel where the mean is
large, and what the mean was rounded by is taken off again (Chan, Golub and LeVeque, 1983). Compiled once per instruction set and dtype. Nothing
here checks user input (``ruvattn.normalization`` did) and nothing in a task can raise. A row is computed alike whatever is beside it, so results
don't depend on the number of threads.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawMalloc, PyMem_RawFree
from cython.parallel cimport prange
from libc.math cimport NAN, sqrt
from libc.string cimport memcpy, memset

from .arrays cimport leading, offsets, reals, step
from .norm_backward cimport PARTS, NormBackward, block_task, total_columns, wide_sums
from .openmp cimport RUVATTN_OPENMP, omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team
from .vector cimport (
    REAL_IS_DOUBLE, REAL_MAX, VLEN, real, urint, v_load, v_loadu, v_max, v_real, v_select, v_set1, v_store, v_sum, v_top, v_ubits, vreal,
)
from .wide cimport all_finite, narrow, wide

import numpy as np

cnp.import_array()

OPENMP = RUVATTN_OPENMP
DTYPE = np.dtype("f%d" % sizeof(real))
VECTOR_BYTES = VLEN * sizeof(real)

cdef extern from *:
    """
    #include <math.h>
    #if REAL_IS_DOUBLE
    #define wide_sqrt sqrtl
    #else
    #define wide_sqrt sqrt
    #endif
    """
    wide wide_sqrt(wide x) noexcept nogil

cdef enum:
    LANES = 16             # of the longest vector
    BLOCK = 1024           # numbers that are added up in vectors, before their sum joins a wider one
    CHUNK = 1 << 14        # numbers of a task
    SMALL = 1 << 17        # numbers below which waking a team, which takes some microseconds, isn't worth it
    CENTRED = 3            # passes around the mean, at most
    GROUP = 8              # short rows that go through each pass together: the end of a sum is slow, and the next row's need not wait for it
    NEAR = 1 << 14         # bytes of them, at most: they are to stay in the first-level cache
    BLOCKS = 64            # of rows, at most, whose sums the gradients of weight and bias are: they take memory

# Numbers of a thread between looks for Ctrl-C, for which all threads wait: some milliseconds, about a tenth of a second in wide arithmetic.
cdef Py_ssize_t PATIENCE = 1 << 23

# A smaller variance may have lost squares to underflow: the smallest normal number over the spacing of numbers at 1.
cdef double LEAST = 2e-292 if REAL_IS_DOUBLE else 2e-31

cdef struct Norm:
    Py_ssize_t rows, width
    Py_ssize_t whole           # numbers of it in whole vectors
    Py_ssize_t last            # where the vector begins that a row ends with; 0 in a row that is shorter than a vector
    Py_ssize_t room            # numbers that a row takes in scratch
    Py_ssize_t length          # rows of each entry of the leading axes
    Py_ssize_t chunk           # rows of a task
    Py_ssize_t group           # rows that go through each pass together
    const real *x
    const real *residual       # or NULL
    real *out
    const Py_ssize_t *x_at     # where each entry begins, in numbers
    const Py_ssize_t *residual_at
    const Py_ssize_t *out_at
    Py_ssize_t x_row, residual_row, out_row
    const real *weight         # at least a vector; or NULL
    const real *bias
    real *mean                 # (rows,), or NULL with rstd
    real *rstd
    double eps
    double share               # 1/width
    urint mask[LANES]          # the numbers of the last vector that are in no whole one
    bint heavy                 # weights so large that a result may overflow
    bint copied                # rows are put together in scratch, not read where they are


cdef struct Row:
    const real *x
    const real *residual
    const real *h              # the sum of both
    real *scratch              # room for the row
    real *out
    real mean                  # as far as ``real`` knows it
    double off                 # what it lacks
    double moment              # the variance


# --- a row ----------------------------------------------------------------------------------------------------------------------

cdef inline const real *take_row(const Norm *p, const real *x, const real *residual, real *h) noexcept nogil:
    """The row, in at least one vector: where it is, or in h with its residual."""
    cdef Py_ssize_t c = 0
    if not p.copied:
        return x
    if p.width < VLEN:
        for c in range(VLEN):
            h[c] = 0
        for c in range(p.width):
            h[c] = x[c] + residual[c] if residual != NULL else x[c]
        return h
    while c < p.whole:
        v_store(h + c, v_load(x + c) + v_load(residual + c))
        c += VLEN
    if p.whole < p.width:
        v_store(h + p.last, v_load(x + p.last) + v_load(residual + p.last))
    return h


cdef inline vreal rest_of(const Norm *p, const real *h, vreal mean) noexcept nogil:
    """What the whole vectors leave of h − mean: the row's last vector, with zeros for what they had."""
    if p.whole == p.width:
        return v_set1(0)
    return v_select(v_loadu(p.mask), v_load(h + p.last) - mean, v_set1(0))


cdef inline real mean_of(const Norm *p, const real *h) noexcept nogil:
    cdef vreal a0 = rest_of(p, h, v_set1(0)), a1, a2, a3
    cdef wide total = 0
    cdef Py_ssize_t c = 0, stop
    while True:
        stop = p.whole if p.whole - c < BLOCK else c + BLOCK
        a1 = a2 = a3 = v_set1(0)
        while c + 4 * VLEN <= stop:
            a0 = a0 + v_load(h + c)
            a1 = a1 + v_load(h + c + VLEN)
            a2 = a2 + v_load(h + c + 2 * VLEN)
            a3 = a3 + v_load(h + c + 3 * VLEN)
            c += 4 * VLEN
        while c < stop:
            a0 = a0 + v_load(h + c)
            c += VLEN
        total += v_sum((a0 + a1) + (a2 + a3))
        if c >= p.whole:
            return <real>(<double>total * p.share)
        a0 = v_set1(0)


cdef inline void centre(const Norm *p, const real *h, real mean, double *off, double *moment) noexcept nogil:
    """The means of h − mean and of (h − mean)²."""
    cdef vreal m = v_set1(mean), d0, d1, d2, d3
    cdef vreal a0 = rest_of(p, h, m), a1, a2, a3, s0 = a0 * a0, s1, s2, s3
    cdef wide total = 0, squares = 0
    cdef Py_ssize_t c = 0, stop
    while True:
        stop = p.whole if p.whole - c < BLOCK else c + BLOCK
        a1 = a2 = a3 = s1 = s2 = s3 = v_set1(0)
        while c + 4 * VLEN <= stop:
            d0 = v_load(h + c) - m
            d1 = v_load(h + c + VLEN) - m
            d2 = v_load(h + c + 2 * VLEN) - m
            d3 = v_load(h + c + 3 * VLEN) - m
            a0 = a0 + d0; a1 = a1 + d1; a2 = a2 + d2; a3 = a3 + d3
            s0 = s0 + d0 * d0; s1 = s1 + d1 * d1; s2 = s2 + d2 * d2; s3 = s3 + d3 * d3
            c += 4 * VLEN
        while c < stop:
            d0 = v_load(h + c) - m
            a0 = a0 + d0
            s0 = s0 + d0 * d0
            c += VLEN
        total += v_sum((a0 + a1) + (a2 + a3))
        squares += v_sum((s0 + s1) + (s2 + s3))
        if c >= p.whole:
            break
        a0 = s0 = v_set1(0)
    off[0] = <double>total * p.share
    moment[0] = <double>squares * p.share


cdef inline void settle(const Norm *p, Row *row) noexcept nogil:
    """Find what the mean is off by, and the variance.

    Where the mean's own rounding makes much of the squares, the row is all but constant: once more around a better mean. That of a constant row is
    found exactly.
    """
    cdef Py_ssize_t passes = 0
    cdef real again
    while True:
        centre(p, row.h, row.mean, &row.off, &row.moment)
        passes += 1
        again = <real>(row.mean + row.off)
        if passes == CENTRED or not (4 * row.off * row.off >= row.moment and again != row.mean):
            break
        row.mean = again
    row.moment -= row.off * row.off
    if row.moment < 0:
        row.moment = 0


cdef inline vreal finished(vreal d, vreal scale, vreal shift, const real *weight, const real *bias, bint weighted, bint biased) noexcept nogil:
    d = d * scale + shift
    if weighted and biased:
        return d * v_load(weight) + v_load(bias)
    if weighted:
        return d * v_load(weight)
    if biased:
        return d + v_load(bias)
    return d


cdef inline void write_row(const Norm *p, const Row *row, real rstd, bint weighted, bint biased) noexcept nogil:
    cdef vreal m = v_set1(row.mean), scale = v_set1(rstd), shift = v_set1(<real>(-row.off * rstd))
    # by name: for all the compiler knows, a store to out might change what p says
    cdef const real *h = row.h
    cdef const real *w = p.weight
    cdef const real *b = p.bias
    cdef real *out = row.out
    cdef Py_ssize_t c = 0, width = p.width, whole = p.whole, last = p.last
    # The row's last vector writes some numbers once more. They are read first: out may be where the row is.
    cdef vreal rest = v_load(h + last) - m
    while c + 2 * VLEN <= whole:
        v_store(out + c, finished(v_load(h + c) - m, scale, shift, w + c, b + c, weighted, biased))
        v_store(out + c + VLEN, finished(v_load(h + c + VLEN) - m, scale, shift, w + c + VLEN, b + c + VLEN, weighted, biased))
        c += 2 * VLEN
    if c < whole:
        v_store(out + c, finished(v_load(h + c) - m, scale, shift, w + c, b + c, weighted, biased))
    if whole == width:
        return
    rest = finished(rest, scale, shift, w + last, b + last, weighted, biased)
    if width > VLEN:
        v_store(out + last, rest)
    else:
        v_store(row.scratch, rest)
        for c in range(width):
            out[c] = row.scratch[c]


cdef inline wide entry(const real *x, const real *residual, Py_ssize_t c) noexcept nogil:
    return <wide>x[c] + <wide>residual[c] if residual != NULL else <wide>x[c]


cdef void wide_row(const Norm *p, const real *x, const real *residual, real *out, Py_ssize_t r) noexcept nogil:
    """One row in wide arithmetic. Results beyond the largest number become it; a row that isn't finite is NaN throughout."""
    cdef wide mean = 0, rest = 0, squares = 0, rstd, y
    cdef Py_ssize_t c
    cdef bint finite
    if not (all_finite(x, p.width) and (residual == NULL or all_finite(residual, p.width))):
        for c in range(p.width):
            out[c] = <real>NAN
        if p.mean != NULL:
            p.mean[r] = p.rstd[r] = <real>NAN
        return
    for c in range(p.width):
        mean += entry(x, residual, c)
    mean /= <wide>p.width
    for c in range(p.width):
        rest += entry(x, residual, c) - mean
    mean += rest / <wide>p.width  # that of a constant row exactly
    for c in range(p.width):
        y = entry(x, residual, c) - mean
        squares += y * y
    squares = squares / <wide>p.width + <wide>p.eps
    rstd = 1 / wide_sqrt(squares) if squares > 0 else 0
    for c in range(p.width):
        y = (entry(x, residual, c) - mean) * rstd
        finite = True
        if p.weight != NULL:
            y = y * <wide>p.weight[c]
            finite = p.weight[c] - p.weight[c] == 0
        if p.bias != NULL:
            y = y + <wide>p.bias[c]
            finite = finite and p.bias[c] - p.bias[c] == 0
        out[c] = narrow(y, REAL_MAX) if finite else <real>y
    if p.mean != NULL:
        p.mean[r] = narrow(mean, REAL_MAX)
        p.rstd[r] = narrow(rstd, REAL_MAX)


cdef inline void conclude(const Norm *p, const Row *row, Py_ssize_t r) noexcept nogil:
    cdef double rstd
    if p.heavy or not (LEAST <= row.moment + p.eps <= REAL_MAX):
        wide_row(p, row.x, row.residual, row.out, r)
        return
    rstd = 1 / sqrt(row.moment + p.eps)
    if p.weight != NULL and p.bias != NULL:
        write_row(p, row, <real>rstd, True, True)
    elif p.weight != NULL:
        write_row(p, row, <real>rstd, True, False)
    elif p.bias != NULL:
        write_row(p, row, <real>rstd, False, True)
    else:
        write_row(p, row, <real>rstd, False, False)
    if p.mean != NULL:
        p.mean[r] = <real>(row.mean + row.off)
        p.rstd[r] = <real>rstd


# --- tasks ----------------------------------------------------------------------------------------------------------------------

cdef void chunk_task(const Norm *p, Py_ssize_t task, real *scratch) noexcept nogil:
    cdef Py_ssize_t r = task * p.chunk, stop = r + p.chunk if p.rows - r > p.chunk else p.rows, b = r // p.length, i = r - b * p.length, n, g
    cdef Row rows[GROUP]
    cdef Row *row
    while r < stop:
        n = p.group if p.group < stop - r else stop - r
        for g in range(n):
            row = rows + g
            row.x = p.x + p.x_at[b] + i * p.x_row
            row.residual = NULL
            if p.residual != NULL:
                row.residual = p.residual + p.residual_at[b] + i * p.residual_row
            row.out = p.out + p.out_at[b] + i * p.out_row
            row.scratch = scratch + g * p.room
            row.h = take_row(p, row.x, row.residual, row.scratch)
            row.mean = mean_of(p, row.h)
            i += 1
            if i == p.length:
                i = 0
                b += 1
        for g in range(n):
            settle(p, rows + g)
        for g in range(n):
            conclude(p, rows + g, r + g)
        r += n


cdef int run_tasks(const Norm *p, int threads) except -1:
    """Run all chunks, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t tasks = (p.rows + p.chunk - 1) // p.chunk, done = 0, stop, task, batch
    cdef size_t each = (p.group * p.room * sizeof(real) + 63) // 64 * 64 if p.copied else 0
    cdef int team = threads
    cdef char *memory
    cdef char *base
    if p.rows * p.width < SMALL or omp_in_parallel():
        team = 1
    if team > tasks:
        team = <int>tasks
    if team > 1:
        team = ruvattn_team(team)
    memory = <char *>PyMem_RawMalloc(each * team + 64)
    if memory == NULL:
        raise MemoryError(f"no memory for the scratch of layer_norm: {each * team} bytes for {team} threads")
    base = <char *>((<size_t>memory + 63) // 64 * 64)
    try:
        batch = (PATIENCE // (p.chunk * p.width) + 1) * team
        while done < tasks:
            stop = tasks if tasks - done < batch else done + batch
            if team > 1:
                with nogil:
                    for task in prange(done, stop, num_threads=team, schedule="dynamic", chunksize=1):
                        chunk_task(p, task, <real *>(base + omp_get_thread_num() * each))
            else:
                with nogil:
                    for task in range(done, stop):
                        chunk_task(p, task, <real *>base)
            done = stop
            if done < tasks:
                PyErr_CheckSignals()
    finally:
        PyMem_RawFree(memory)
    return 0


# --- the call -------------------------------------------------------------------------------------------------------------------

cdef inline const real *in_vectors(cnp.ndarray x, Py_ssize_t width, real *room) noexcept:
    """A vector of the width of a row: as it is, or in ``room`` where it is shorter than a vector of the processor."""
    if x is None:
        return NULL
    if width >= VLEN:
        return reals(x)
    memset(room, 0, VLEN * sizeof(real))
    memcpy(room, reals(x), width * sizeof(real))
    return room


cdef inline double largest_of(const Norm *p, const real *x) noexcept nogil:
    """The largest magnitude in weight or bias; NaN doesn't count."""
    cdef vreal sign = v_set1(<real>-0.0), top
    cdef Py_ssize_t c = 0
    if x == NULL:
        return 0
    top = v_max(v_real(v_ubits(v_load(x + p.last)) & ~v_ubits(sign)), v_set1(0))
    while c < p.whole:
        top = v_max(v_real(v_ubits(v_load(x + c)) & ~v_ubits(sign)), top)
        c += VLEN
    return v_top(top)


def normalise(cnp.ndarray x not None, cnp.ndarray residual, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray out not None, cnp.ndarray mean,
              cnp.ndarray rstd, double eps, int threads=1):
    """Layer normalisation of x (..., L, D), or of x + residual, into out; mean and rstd (..., L) too, if they are given.

    Everything has been validated: one dtype, native and aligned; x, residual and out of one shape with contiguous last axes, D at least 1, strides
    that are multiples of the item; weight and bias (D,), mean and rstd contiguous, or None. eps is finite and not negative. ``out`` may be x or
    residual.
    """
    cdef Norm p
    cdef int nd = x.ndim
    cdef Py_ssize_t batch = leading(x, 2), c
    cdef Py_ssize_t *tables
    cdef real *room
    memset(&p, 0, sizeof(p))
    p.width = x.shape[nd - 1]
    p.length = x.shape[nd - 2]
    p.rows = batch * p.length
    if p.rows == 0:
        return
    p.whole = p.width // VLEN * VLEN
    p.last = p.width - VLEN if p.width > VLEN else 0
    for c in range(VLEN):
        p.mask[c] = 0 - <urint>(c + p.last >= p.whole and c + p.last < p.width)
    p.room = (p.whole + VLEN) if p.width > p.whole else p.width
    p.chunk = CHUNK // p.width if p.width < CHUNK else 1
    p.group = GROUP if GROUP * p.room * <Py_ssize_t>sizeof(real) <= NEAR else 1
    p.copied = residual is not None or p.width < VLEN
    p.share = 1 / <double>p.width
    p.x, p.residual, p.out = reals(x), reals(residual), reals(out)
    p.x_row, p.out_row = step(x, nd - 2), step(out, nd - 2)
    p.mean, p.rstd = reals(mean), reals(rstd)
    p.eps = eps
    tables = <Py_ssize_t *>PyMem_RawMalloc(3 * batch * sizeof(Py_ssize_t))
    room = <real *>PyMem_RawMalloc(2 * VLEN * sizeof(real))
    try:
        if tables == NULL or room == NULL:
            raise MemoryError("no memory for the tables of layer_norm")
        p.x_at, p.residual_at, p.out_at = tables, tables + batch, tables + 2 * batch
        offsets(x, 2, sizeof(real), tables)
        offsets(out, 2, sizeof(real), tables + 2 * batch)
        if residual is not None:
            offsets(residual, 2, sizeof(real), tables + batch)
            p.residual_row = step(residual, nd - 2)
        p.weight, p.bias = in_vectors(weight, p.width, room), in_vectors(bias, p.width, room + VLEN)
        # a normalised number is at most √D
        p.heavy = not (largest_of(&p, p.weight) * sqrt(<double>p.width) + largest_of(&p, p.bias) < <double>REAL_MAX / 2)
        run_tasks(&p, threads)
    finally:
        PyMem_RawFree(room)
        PyMem_RawFree(tables)


# --- backward -------------------------------------------------------------------------------------------------------------------

cdef int run_blocks(const NormBackward *p, Py_ssize_t blocks, int threads) except -1:
    """Run all blocks, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t done = 0, stop, task, batch
    cdef size_t each = (PARTS * p.room * sizeof(real) + 63) // 64 * 64
    cdef int team = threads
    cdef char *memory
    cdef char *base
    if p.rows * p.width < SMALL or omp_in_parallel():
        team = 1
    if team > blocks:
        team = <int>blocks
    if team > 1:
        team = ruvattn_team(team)
    memory = <char *>PyMem_RawMalloc(each * team + 64)
    if memory == NULL:
        raise MemoryError(f"no memory for the scratch of layer_norm_backward: {each * team} bytes for {team} threads")
    base = <char *>((<size_t>memory + 63) // 64 * 64)
    try:
        batch = (PATIENCE // (p.block * p.width) + 1) * team
        while done < blocks:
            stop = blocks if blocks - done < batch else done + batch
            if team > 1:
                with nogil:
                    for task in prange(done, stop, num_threads=team, schedule="dynamic", chunksize=1):
                        block_task(p, task, <real *>(base + omp_get_thread_num() * each))
            else:
                with nogil:
                    for task in range(done, stop):
                        block_task(p, task, <real *>base)
            done = stop
            if done < blocks:
                PyErr_CheckSignals()
    finally:
        PyMem_RawFree(memory)
    return 0


cdef int widen_columns(const NormBackward *p, real *dweight, real *dbias) except -1:
    """Make those sums again in wide arithmetic that aren't finite. What overflows there too becomes the largest number; NaN stays."""
    cdef Py_ssize_t r = 0, stop, c, each = PATIENCE // 128 // p.width + 1
    cdef wide *sums = <wide *>PyMem_RawMalloc(2 * p.width * sizeof(wide))
    if sums == NULL:
        raise MemoryError(f"no memory for the sums of layer_norm_backward: {2 * p.width} numbers")
    try:
        memset(sums, 0, 2 * p.width * sizeof(wide))
        while r < p.rows:
            stop = p.rows if p.rows - r < each else r + each
            with nogil:
                wide_sums(p, r, stop, sums)
            r = stop
            PyErr_CheckSignals()
        for c in range(p.width):
            if dweight[c] - dweight[c] != 0 and sums[c] - sums[c] == 0:
                dweight[c] = narrow(sums[c], REAL_MAX)
            if dbias[c] - dbias[c] != 0 and sums[p.width + c] - sums[p.width + c] == 0:
                dbias[c] = narrow(sums[p.width + c], REAL_MAX)
    finally:
        PyMem_RawFree(sums)
    return 0


def differentiate(cnp.ndarray dout not None, cnp.ndarray x not None, cnp.ndarray residual, cnp.ndarray mean not None, cnp.ndarray rstd not None,
                  cnp.ndarray weight, cnp.ndarray dx not None, cnp.ndarray dweight, cnp.ndarray dbias, int threads=1):
    """The gradients of layer normalisation of x (..., L, D), or of x + residual, into dx, and into dweight and dbias (D,) if weight is given.

    Everything has been validated: one dtype, native and aligned; dout, x, residual and dx of one shape with contiguous last axes, D at least 1,
    strides that are multiples of the item; the rest contiguous, dx too. weight, dweight and dbias are given together or not at all.
    """
    cdef NormBackward p
    cdef int nd = x.ndim
    cdef Py_ssize_t batch = leading(x, 2), blocks, c
    cdef Py_ssize_t *tables
    cdef real *room
    memset(&p, 0, sizeof(p))
    p.width = x.shape[nd - 1]
    p.length = x.shape[nd - 2]
    p.rows = batch * p.length
    if p.rows == 0:
        return
    p.whole = p.width // VLEN * VLEN
    p.last = p.width - VLEN if p.width > VLEN else 0
    for c in range(VLEN):
        p.mask[c] = 0 - <urint>(c + p.last >= p.whole and c + p.last < p.width)
    p.room = p.whole + VLEN
    p.block = CHUNK // p.width if p.width < CHUNK else 1
    if p.block < (p.rows + BLOCKS - 1) // BLOCKS:
        p.block = (p.rows + BLOCKS - 1) // BLOCKS
    blocks = (p.rows + p.block - 1) // p.block
    p.share = 1 / <double>p.width
    p.dout, p.x, p.residual, p.dx = reals(dout), reals(x), reals(residual), reals(dx)
    p.dout_row, p.x_row = step(dout, nd - 2), step(x, nd - 2)
    p.mean, p.rstd = reals(mean), reals(rstd)
    tables = <Py_ssize_t *>PyMem_RawMalloc(3 * batch * sizeof(Py_ssize_t))
    room = <real *>PyMem_RawMalloc(VLEN * sizeof(real))
    try:
        if weight is not None:
            p.sums = <double *>PyMem_RawMalloc(2 * blocks * p.width * sizeof(double))
        if tables == NULL or room == NULL or (weight is not None and p.sums == NULL):
            raise MemoryError(f"no memory for the sums of layer_norm_backward, over {blocks} blocks of {p.width} columns")
        p.dout_at, p.x_at, p.residual_at = tables, tables + batch, tables + 2 * batch
        offsets(dout, 2, sizeof(real), tables)
        offsets(x, 2, sizeof(real), tables + batch)
        if residual is not None:
            offsets(residual, 2, sizeof(real), tables + 2 * batch)
            p.residual_row = step(residual, nd - 2)
        p.weight = in_vectors(weight, p.width, room)
        run_blocks(&p, blocks, threads)
        if weight is not None and not total_columns(&p, blocks, reals(dweight), reals(dbias)):
            widen_columns(&p, reals(dweight), reals(dbias))
    finally:
        PyMem_RawFree(p.sums)
        PyMem_RawFree(room)
        PyMem_RawFree(tables)


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
