# cython: cdivision=True
"""Layer normalisation, backward: a row of dx at a time, and the sums over rows that weight and bias get.

    block_task          the rows of one block
      gradient_row      a first pass over the row: the means of x̂, g and g·x̂; a second one: dx, and what the row adds to the sums
      wide_gradient     instead of its dx: rows that overflow, once more in wide arithmetic
    total_columns       the sums of all blocks, one after another
    wide_sums           instead of them: columns that overflow, once more in wide arithmetic

With x̂ = (x − mean)·rstd and g = dout·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)). What the mean that is handed in was rounded by is found by the
way, as the mean of x̂, and taken off: a mean far from zero costs no digits. A block adds some rows in ``real``, and those sums in double. Blocks
follow from the shape, so that the sums don't depend on the number of threads.
"""
from libc.math cimport NAN
from libc.string cimport memset
from .vector cimport REAL_MAX, VLEN, real, urint, v_load, v_loadu, v_select, v_set1, v_store, v_sum, vreal
from .wide cimport all_finite, narrow, wide

cdef enum:
    PIECE = 1024           # numbers of a row that are added up in vectors, before their sum joins a wider one
    SOME = 32              # rows that are added up in ``real``, before their sum joins one in double
    PARTS = 5              # rows of scratch: those of NormBackward.room

cdef struct NormBackward:
    Py_ssize_t rows, width
    Py_ssize_t whole           # numbers of it in whole vectors
    Py_ssize_t last            # where the vector begins that a row ends with; 0 in a row that is shorter than a vector
    Py_ssize_t room            # numbers that a row takes in scratch
    Py_ssize_t length          # rows of each entry of the leading axes
    Py_ssize_t block           # rows of a task
    const real *dout
    const real *x
    const real *residual       # or NULL
    real *dx                   # contiguous
    const Py_ssize_t *dout_at  # where each entry begins, in numbers
    const Py_ssize_t *x_at
    const Py_ssize_t *residual_at
    Py_ssize_t dout_row, x_row, residual_row
    const real *weight         # at least a vector; or NULL
    const real *mean           # (rows,)
    const real *rstd
    double *sums               # (blocks, 2, width): of dout·x̂ and of dout; NULL without weight
    double share               # 1/width
    urint mask[16]             # the numbers of the last vector that are in no whole one


cdef inline const real *whole_row(const NormBackward *p, const real *x, const real *residual, real *scratch) noexcept nogil:
    """The row, in at least one vector: where it is, or in scratch with its residual."""
    cdef Py_ssize_t c = 0
    if p.width < VLEN:
        for c in range(VLEN):
            scratch[c] = 0
        for c in range(p.width):
            scratch[c] = x[c] + residual[c] if residual != NULL else x[c]
        return scratch
    if residual == NULL:
        return x
    while c < p.whole:
        v_store(scratch + c, v_load(x + c) + v_load(residual + c))
        c += VLEN
    if p.whole < p.width:
        v_store(scratch + p.last, v_load(x + p.last) + v_load(residual + p.last))
    return scratch


cdef inline vreal only_rest(const NormBackward *p, vreal x) noexcept nogil:
    """The row's last vector, with zeros for what the whole vectors had."""
    return v_select(v_loadu(p.mask), x, v_set1(0))


cdef inline vreal weighed(const real *dout, const real *weight, bint weighted) noexcept nogil:
    return v_load(dout) * v_load(weight) if weighted else v_load(dout)


cdef inline void add_to(real *sums, vreal x) noexcept nogil:
    v_store(sums, v_load(sums) + x)


cdef inline bint gradient_row(const NormBackward *p, const real *dout, const real *h, real *dx, real mean, real rstd, real *dweight, real *dbias,
                              bint weighted) noexcept nogil:
    """Write one row of dx and add to the sums; whether dx is finite."""
    cdef vreal m = v_set1(mean), s = v_set1(rstd), off, level, slope, t0, t1, g0, g1, y
    cdef vreal a0, a1, b0, b1, c0, c1
    cdef const real *w = p.weight
    cdef Py_ssize_t whole = p.whole, last = p.last, c = 0, stop
    cdef wide shifts = 0, levels = 0, slopes = 0
    cdef double shift
    a0 = b0 = c0 = v_set1(0)
    if whole < p.width:
        t0 = (v_load(h + last) - m) * s
        g0 = weighed(dout + last, w + last, weighted)
        a0 = only_rest(p, t0)
        b0 = only_rest(p, g0)
        c0 = only_rest(p, g0 * t0)
    while True:
        stop = whole if whole - c < PIECE else c + PIECE
        a1 = b1 = c1 = v_set1(0)
        while c + 2 * VLEN <= stop:
            t0 = (v_load(h + c) - m) * s
            t1 = (v_load(h + c + VLEN) - m) * s
            g0 = weighed(dout + c, w + c, weighted)
            g1 = weighed(dout + c + VLEN, w + c + VLEN, weighted)
            a0 = a0 + t0; a1 = a1 + t1
            b0 = b0 + g0; b1 = b1 + g1
            c0 = c0 + g0 * t0; c1 = c1 + g1 * t1
            c += 2 * VLEN
        if c < stop:
            t0 = (v_load(h + c) - m) * s
            g0 = weighed(dout + c, w + c, weighted)
            a0 = a0 + t0
            b0 = b0 + g0
            c0 = c0 + g0 * t0
            c += VLEN
        shifts += v_sum(a0 + a1)
        levels += v_sum(b0 + b1)
        slopes += v_sum(c0 + c1)
        if c >= whole:
            break
        a0 = b0 = c0 = v_set1(0)
    shift = <double>shifts * p.share
    off = v_set1(<real>shift)
    level = v_set1(<real>(<double>levels * p.share))
    slope = v_set1(<real>(<double>slopes * p.share - shift * (<double>levels * p.share)))
    a0 = v_set1(0)
    c = 0
    while c < whole:
        t0 = (v_load(h + c) - m) * s - off
        y = s * (weighed(dout + c, w + c, weighted) - level - t0 * slope)
        v_store(dx + c, y)
        a0 = a0 + y * v_set1(0)
        if weighted:
            add_to(dweight + c, v_load(dout + c) * t0)
            add_to(dbias + c, v_load(dout + c))
        c += VLEN
    if whole < p.width:
        t0 = (v_load(h + last) - m) * s - off
        y = s * (weighed(dout + last, w + last, weighted) - level - t0 * slope)
        v_store(dx + last, y)
        a0 = a0 + only_rest(p, y * v_set1(0))
        if weighted:
            add_to(dweight + last, only_rest(p, v_load(dout + last) * t0))
            add_to(dbias + last, only_rest(p, v_load(dout + last)))
    return v_sum(a0) == 0


cdef inline wide wide_normalised(const NormBackward *p, const real *x, const real *residual, Py_ssize_t r, Py_ssize_t c) noexcept nogil:
    return (<wide>x[c] + (<wide>residual[c] if residual != NULL else 0) - <wide>p.mean[r]) * <wide>p.rstd[r]


cdef inline void wide_gradient(const NormBackward *p, const real *dout, const real *x, const real *residual, real *dx, Py_ssize_t r) noexcept nogil:
    """One row of dx in wide arithmetic. Results beyond the largest number become it; a row that isn't finite is NaN throughout."""
    cdef wide off = 0, level = 0, slope = 0, t, g
    cdef Py_ssize_t c
    if not (all_finite(dout, p.width) and all_finite(x, p.width) and (residual == NULL or all_finite(residual, p.width))
            and all_finite(p.mean + r, 1) and all_finite(p.rstd + r, 1) and (p.weight == NULL or all_finite(p.weight, p.width))):
        for c in range(p.width):
            dx[c] = <real>NAN
        return
    for c in range(p.width):
        t = wide_normalised(p, x, residual, r, c)
        g = <wide>dout[c] * (<wide>p.weight[c] if p.weight != NULL else 1)
        off += t
        level += g
        slope += g * t
    off /= <wide>p.width
    level /= <wide>p.width
    slope = slope / <wide>p.width - off * level
    for c in range(p.width):
        t = wide_normalised(p, x, residual, r, c) - off
        g = <wide>dout[c] * (<wide>p.weight[c] if p.weight != NULL else 1)
        dx[c] = narrow(<wide>p.rstd[r] * (g - level - t * slope), REAL_MAX)


cdef inline void block_task(const NormBackward *p, Py_ssize_t task, real *scratch) noexcept nogil:
    cdef Py_ssize_t r = task * p.block, stop = r + p.block if p.rows - r > p.block else p.rows, b = r // p.length, i = r - b * p.length, c
    cdef Py_ssize_t since = 0
    cdef const real *dout
    cdef const real *x
    cdef const real *residual = NULL
    cdef const real *h
    cdef const real *upstream
    cdef real *dweight = scratch + 3 * p.room
    cdef real *dbias = scratch + 4 * p.room
    cdef real *dx
    cdef double *sums = NULL
    cdef bint fine
    if p.sums != NULL:
        sums = p.sums + task * 2 * p.width
        memset(sums, 0, 2 * p.width * sizeof(double))
        memset(dweight, 0, 2 * p.room * sizeof(real))
    while r < stop:
        dout = p.dout + p.dout_at[b] + i * p.dout_row
        x = p.x + p.x_at[b] + i * p.x_row
        if p.residual != NULL:
            residual = p.residual + p.residual_at[b] + i * p.residual_row
        h = whole_row(p, x, residual, scratch)
        upstream = whole_row(p, dout, NULL, scratch + p.room)
        dx = p.dx + r * p.width if p.width >= VLEN else scratch + 2 * p.room
        if p.weight != NULL:
            fine = gradient_row(p, upstream, h, dx, p.mean[r], p.rstd[r], dweight, dbias, True)
        else:
            fine = gradient_row(p, upstream, h, dx, p.mean[r], p.rstd[r], NULL, NULL, False)
        if p.width < VLEN:
            for c in range(p.width):
                p.dx[r * p.width + c] = dx[c]
        if not fine:
            wide_gradient(p, dout, x, residual, p.dx + r * p.width, r)
        r += 1
        i += 1
        if i == p.length:
            i = 0
            b += 1
        since += 1
        if p.sums != NULL and (since == SOME or r == stop):
            for c in range(p.width):
                sums[c] += <double>dweight[c]
                sums[p.width + c] += <double>dbias[c]
            memset(dweight, 0, 2 * p.room * sizeof(real))
            since = 0


cdef inline bint total_columns(const NormBackward *p, Py_ssize_t blocks, real *dweight, real *dbias) noexcept nogil:
    """Add up the blocks, into the first one and in their order; whether all sums are finite."""
    cdef Py_ssize_t block, c, width = p.width
    cdef double *total = p.sums
    cdef const double *one
    for block in range(1, blocks):
        one = p.sums + block * 2 * width
        for c in range(2 * width):
            total[c] += one[c]
    for c in range(width):
        dweight[c] = <real>total[c]
        dbias[c] = <real>total[width + c]
    return all_finite(dweight, width) and all_finite(dbias, width)


cdef inline void wide_sums(const NormBackward *p, Py_ssize_t first, Py_ssize_t stop, wide *sums) noexcept nogil:
    """Add the rows from first to stop to sums (2, width), in wide arithmetic."""
    cdef Py_ssize_t r, b, c
    cdef const real *dout
    cdef const real *x
    cdef const real *residual = NULL
    cdef wide off
    for r in range(first, stop):
        b = r // p.length
        dout = p.dout + p.dout_at[b] + (r - b * p.length) * p.dout_row
        x = p.x + p.x_at[b] + (r - b * p.length) * p.x_row
        if p.residual != NULL:
            residual = p.residual + p.residual_at[b] + (r - b * p.length) * p.residual_row
        off = 0
        for c in range(p.width):
            off += wide_normalised(p, x, residual, r, c)
        off /= <wide>p.width
        for c in range(p.width):
            sums[c] += <wide>dout[c] * (wide_normalised(p, x, residual, r, c) - off)
            sums[p.width + c] += <wide>dout[c]
