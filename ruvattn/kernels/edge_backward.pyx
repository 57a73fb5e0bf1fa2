# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The edge engine, backward: from the gradient of the output to those of queries, keys, values and what edges bring, without atomics.

    Backward(arrays)                      reads them into Gradients (edge_backward_problem.pxd)
      .rows()          every row: weights again, what their logits get, dq      edge_backward_rows.pxd ─┐
      .attributes()    every row: what the attributes of its edges get                                ◄─┤ the store, some numbers an edge and head
      .keys()          every key, along the transpose: dk, dv                   edge_backward_keys.pxd ◄┘

Each is cut into chunks of equal numbers of rows and edges, whatever the degrees; of a row, or key, that is longer than that each chunk leaves a
piece, and the pieces are added in the order of the edges. Parameters are added up in shares of chunks, and the shares in their order. So results
depend on the shape alone, never on the number of threads.

Compiled once per instruction set and dtype. Nothing here checks user input (``ruvattn.edges_backward`` did) and nothing in a task can raise.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from cython.parallel cimport prange
from libc.string cimport memset

from .arrays cimport Arena, leading, offsets, reals, step, take
from .edge_backward_keys cimport differentiate_key, key_heads, key_numbers, query_heads
from .edge_backward_problem cimport (COMPILED_SCORE, DOT_PRODUCTS, GIVEN_LOGITS, GradientScratch, Gradients, LEAKY_HIDDEN, LEAKY_SUM,
                                     score_vjp)
from .edge_backward_rows cimport conclude_gradient_row, differentiate_attributes, differentiate_row, row_numbers
from .edge_problem cimport EDGE_PADDING, EDGE_TILE, Edges, key_width
from .edges cimport copy_row
from .openmp cimport RUVATTN_OPENMP, omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team
from .problem cimport score_forward
from .vector cimport VLEN, real, v_load, v_set1, v_sum, vreal

import numpy as np

cnp.import_array()

OPENMP = RUVATTN_OPENMP
DTYPE = np.dtype("f%d" % sizeof(real))

cdef enum:
    CHUNK = 2048           # units of a chunk; an edge is one
    HEADER = 4             # units of a row as such
    NEAR = 1 << 19         # bytes of K and V that the second-level cache holds anyway
    SHARES = 256           # of chunks, one after another: a share has its own sums of the parameters

# Multiply-adds of a thread between looks for Ctrl-C, as in edge.pyx
cdef double PATIENCE = 2e9

CHUNK_EDGES = CHUNK - HEADER           # a row with more edges than that is cut

ctypedef enum PassKind:
    ROWS, ATTRIBUTES, KEYS


cdef struct Pass:
    PassKind kind
    const Py_ssize_t *indptr
    Py_ssize_t length          # rows, or keys
    Py_ssize_t items, chunks   # batch entries times groups of heads, and the chunks of each
    Py_ssize_t numbers         # sums of one row
    Py_ssize_t first, shares   # chunks [first, first + count) in so many shares
    Py_ssize_t count
    real *partial              # two rows of sums a chunk: of a row that began before it, of one that begins in it

# --- chunks ---------------------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t place(const Py_ssize_t *indptr, Py_ssize_t r) noexcept nogil:
    return indptr[r] + HEADER * r


cdef inline Py_ssize_t row_at(const Pass *x, Py_ssize_t unit) noexcept nogil:
    """The first row that begins at ``unit`` or later."""
    cdef Py_ssize_t low = 0, high = x.length, middle
    while low < high:
        middle = (low + high) // 2
        if place(x.indptr, middle) < unit:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void item_heads(const Gradients *p, const Pass *x, Py_ssize_t item, Py_ssize_t *b, Py_ssize_t *h) noexcept nogil:
    """The batch entry of an item and its first query head."""
    cdef Py_ssize_t per_entry = x.items // p.forward.batch if x.kind != ATTRIBUTES else 1
    b[0] = item // per_entry
    h[0] = item % per_entry * (p.forward.heads // per_entry)


cdef inline bint sums_finite(const Pass *x, const real *sums) noexcept nogil:
    cdef Py_ssize_t c = 0
    cdef vreal check = v_set1(0)
    cdef real rest = 0
    while c + VLEN <= x.numbers:
        check = check + v_load(sums + c) * v_set1(0)
        c += VLEN
    while c < x.numbers:
        rest += sums[c] * 0
        c += 1
    return v_sum(check) + rest == 0


cdef void add_piece(const Gradients *p, const Pass *x, Py_ssize_t item, Py_ssize_t r, Py_ssize_t e0, Py_ssize_t e1, real *sums,
                    GradientScratch *w) noexcept nogil:
    """The sums of edges [e0, e1) of row r."""
    cdef Py_ssize_t b, h
    memset(sums, 0, x.numbers * sizeof(real))
    if e0 >= e1:
        return
    item_heads(p, x, item, &b, &h)
    if x.kind == ROWS:
        differentiate_row(p, b, h, r, e0, e1, sums, w)
    elif x.kind == KEYS:
        differentiate_key(p, b, h, r, e0, e1, sums, w)
    else:
        differentiate_attributes(p, r, e0, e1)


cdef void conclude(const Gradients *p, const Pass *x, Py_ssize_t item, Py_ssize_t r, Py_ssize_t e0, Py_ssize_t e1, real *sums,
                   GradientScratch *w) noexcept nogil:
    """Write what a whole row has summed."""
    cdef Py_ssize_t b, h
    cdef bint fine
    if x.kind == ATTRIBUTES:
        return
    item_heads(p, x, item, &b, &h)
    if x.kind == ROWS:
        conclude_gradient_row(p, b, h, r, sums)
        return
    fine = sums_finite(x, sums)
    if not fine:
        # what isn't finite may have come in through an edge that has no part in the loss: once more, without those
        w.careful = True
        add_piece(p, x, item, r, e0, e1, sums, w)
        w.careful = False
        fine = sums_finite(x, sums)
    conclude_key(p, b, h, r, fine, sums)


cdef inline void conclude_key(const Gradients *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t j, bint fine, const real *sums) noexcept nogil:
    """Write what a key's sums say."""
    cdef const Edges *f = &p.forward
    cdef Py_ssize_t heads = key_heads(p), g, r, first = h // f.group
    cdef const real *dv = sums + heads * p.key_columns
    cdef const real *dcols = dv + heads * p.value_columns
    cdef real *target
    for g in range(heads):
        if p.key_columns > 0:
            copy_row(sums + g * p.key_columns, p.key_columns, p.dk + b * p.dk_batch + (first + g) * p.dk_head + j * p.dk_row)
        if p.value_columns > 0:
            copy_row(dv + g * p.value_columns, p.value_columns, p.dv + b * p.dv_batch + (first + g) * p.dv_head + j * p.dv_row)
        p.bad_keys[(b * (f.heads // f.group) + first + g) * f.lk + j] = not fine
    for g in range(query_heads(p)):
        for r in range(p.stored_columns):
            target = p.dcols[p.column_of[r]]
            if target != NULL:
                target[(b * f.heads + h + g) * f.lk + j] = dcols[g * p.stored_columns + r]


cdef inline real *piece(const Pass *x, Py_ssize_t chunk, int slot) noexcept nogil:
    return x.partial + (chunk * 2 + slot) * x.numbers


cdef void chunk_task(const Gradients *p, const Pass *x, Py_ssize_t chunk, GradientScratch *w) noexcept nogil:
    """The rows that begin in one chunk, and what is in it of a long row that began before."""
    cdef Py_ssize_t item = chunk // x.chunks, start = chunk % x.chunks * CHUNK, stop = start + CHUNK, r = row_at(x, start), e0, e1, shift
    cdef const Py_ssize_t *indptr = x.indptr
    if r > 0 and place(indptr, r) > start and indptr[r] - indptr[r - 1] > CHUNK - HEADER:
        shift = indptr[r - 1] - place(indptr, r - 1) - HEADER    # from units to edges
        e0 = shift + start if shift + start > indptr[r - 1] else indptr[r - 1]
        e1 = shift + stop if shift + stop < indptr[r] else indptr[r]
        add_piece(p, x, item, r - 1, e0, e1, piece(x, chunk, 0), w)
    while r < x.length and place(indptr, r) < stop:
        e0, e1 = indptr[r], indptr[r + 1]
        if e1 - e0 > CHUNK - HEADER:
            add_piece(p, x, item, r, e0, e0 - place(indptr, r) - HEADER + stop, piece(x, chunk, 1), w)
            return
        add_piece(p, x, item, r, e0, e1, w.sums, w)
        conclude(p, x, item, r, e0, e1, w.sums, w)
        r += 1


cdef void merge_task(const Gradients *p, const Pass *x, Py_ssize_t chunk, GradientScratch *w) noexcept nogil:
    """The long row that begins in this chunk, if there is one: it can only be the last that does."""
    cdef Py_ssize_t item = chunk // x.chunks, start = chunk % x.chunks * CHUNK, r = row_at(x, start + CHUNK) - 1, other, last, c
    cdef const Py_ssize_t *indptr = x.indptr
    cdef real *sums = piece(x, chunk, 1)
    if r < 0 or place(indptr, r) < start or indptr[r + 1] - indptr[r] <= CHUNK - HEADER:
        return
    last = item * x.chunks + (place(indptr, r + 1) - 1) // CHUNK
    for other in range(chunk + 1, last + 1):
        for c in range(x.numbers):
            sums[c] += piece(x, other, 0)[c]
    conclude(p, x, item, r, indptr[r], indptr[r + 1], sums, w)


cdef void share_task(const Gradients *p, const Pass *x, Py_ssize_t share, bint merging, GradientScratch *w) noexcept nogil:
    """The chunks of one share, one after another, and what they leave of the parameters."""
    cdef Py_ssize_t chunk = x.first + share * x.count // x.shares, stop = x.first + (share + 1) * x.count // x.shares, b, h, c
    cdef Py_ssize_t n = p.span * p.forward.n_params
    cdef double *target
    while chunk < stop:
        if merging:
            merge_task(p, x, chunk, w)
            chunk += 1
            continue
        if x.kind == ROWS and p.with_params:
            memset(w.params, 0, n * sizeof(real))
        chunk_task(p, x, chunk, w)
        if x.kind == ROWS and p.with_params:
            item_heads(p, x, chunk // x.chunks, &b, &h)
            target = p.dparams + (share * p.forward.heads + h) * p.forward.n_params
            for c in range(n):
                target[c] += w.params[c]
        chunk += 1


# --- running --------------------------------------------------------------------------------------------------------------------

cdef void lay_out(const Gradients *p, Py_ssize_t numbers, Arena *arena, GradientScratch *w) noexcept nogil:
    """A thread's scratch: sized by a tile, never by the length of a row."""
    cdef const Edges *f = &p.forward
    cdef size_t tile = EDGE_TILE + EDGE_PADDING, planes = f.planes if f.planes > 0 else 1, width = key_width(f), heads = p.span
    cdef bint scored = p.kind == COMPILED_SCORE, vectors = scored and f.vectors
    cdef size_t widest = width if width > <size_t>p.value_columns else p.value_columns
    w.q = <real *>take(arena, width, sizeof(real))
    w.s = <real *>take(arena, (planes if scored else 1) * tile, sizeof(real))
    w.dots = <real *>take(arena, planes * tile if scored else 0, sizeof(real))
    w.x = <real *>take(arena, tile, sizeof(real))
    w.cap = <real *>take(arena, tile, sizeof(real))
    w.dp = <real *>take(arena, tile, sizeof(real))
    w.keep = <real *>take(arena, tile, sizeof(real))
    w.weight = <real *>take(arena, tile, sizeof(real))
    w.g = <real *>take(arena, tile, sizeof(real))
    w.rows = <real *>take(arena, f.n_rows * tile if scored else 0, sizeof(real))
    w.cols = <real *>take(arena, f.n_cols * tile if scored else 0, sizeof(real))
    w.drows = <real *>take(arena, f.n_rows * tile if scored else 0, sizeof(real))
    w.dcols = <real *>take(arena, f.n_cols * tile if scored else 0, sizeof(real))
    w.qv = <real *>take(arena, tile * width if vectors else 0, sizeof(real))
    w.kv = <real *>take(arena, tile * width if vectors else 0, sizeof(real))
    w.dqv = <real *>take(arena, tile * width if vectors else 0, sizeof(real))
    w.dkv = <real *>take(arena, tile * width if vectors else 0, sizeof(real))
    w.slots = <real *>take(arena, p.slots * tile, sizeof(real))
    w.o = <real *>take(arena, heads * widest + EDGE_PADDING, sizeof(real))
    w.all = <real *>take(arena, heads * p.slots * tile if heads > 1 else 0, sizeof(real))
    w.sums = <real *>take(arena, numbers + EDGE_PADDING, sizeof(real))
    w.params = <real *>take(arena, 2 * heads * f.n_params + EDGE_PADDING, sizeof(real))
    w.keys = <int *>take(arena, tile, sizeof(int))
    w.kept = <int *>take(arena, tile, sizeof(int))
    w.places = <int *>take(arena, tile, sizeof(int))


cdef int run_shares(const Gradients *p, const Pass *x, bint merging, double cost, int threads) except -1:
    """Run all shares, of about ``cost`` multiply-adds each, in batches between which Ctrl-C is answered."""
    cdef Py_ssize_t done = 0, stop, share, batch, j
    cdef Arena arena
    cdef GradientScratch *w
    cdef size_t each
    cdef char *memory
    cdef int i, team = threads
    if team > x.shares:
        team = <int>x.shares
    team = ruvattn_team(team) if team > 1 else 1
    arena.base = NULL
    arena.used = 0
    w = <GradientScratch *>PyMem_RawMalloc(team * sizeof(GradientScratch))
    if w == NULL:
        raise MemoryError("no memory for the scratch of the edge kernels")
    lay_out(p, x.numbers, &arena, w)
    each = arena.used
    memory = <char *>PyMem_RawMalloc(each * team + 64)
    if memory == NULL:
        PyMem_RawFree(w)
        raise MemoryError(f"no memory for the scratch of the edge kernels: {each * team} bytes for {team} threads")
    try:
        # vectors are loaded whole: what no number has been written to must at least not be NaN by chance
        memset(memory, 0, each * team + 64)
        for i in range(team):
            arena.base = <char *>((<size_t>memory + 63) // 64 * 64) + i * each
            arena.used = 0
            lay_out(p, x.numbers, &arena, w + i)
            w[i].careful = False
            for j in range(EDGE_TILE):
                w[i].places[j] = <int>j
        batch = <Py_ssize_t>(PATIENCE / (cost + 1) + 1) * team
        while done < x.shares:
            stop = x.shares if x.shares - done < batch else done + batch
            if team > 1:
                with nogil:
                    for share in prange(done, stop, num_threads=team, schedule="dynamic", chunksize=1):
                        share_task(p, x, share, merging, w + omp_get_thread_num())
            else:
                with nogil:
                    for share in range(done, stop):
                        share_task(p, x, share, merging, w)
            done = stop
            if done < x.shares:
                PyErr_CheckSignals()
    finally:
        PyMem_RawFree(memory)
        PyMem_RawFree(w)
    return 0


cdef int run_pass(Gradients *p, PassKind kind, const Py_ssize_t *indptr, Py_ssize_t length, Py_ssize_t items, Py_ssize_t numbers, bint in_turn,
                  int threads) except -1:
    """Cut a pass into chunks and shares, and run them; ``in_turn``: one item after another."""
    cdef Pass x
    cdef Py_ssize_t r, longest = 0, turn
    cdef const Edges *f = &p.forward
    cdef double cost = <double>CHUNK * (f.heads * f.batch // items) * (key_width(f) + f.dv + 32), work
    x.kind = kind
    x.indptr = indptr
    x.length = length
    x.items = items
    x.chunks = (place(indptr, length) + CHUNK - 1) // CHUNK
    x.numbers = numbers
    x.partial = NULL
    if x.chunks == 0:
        return 0
    for r in range(length):
        if indptr[r + 1] - indptr[r] > longest:
            longest = indptr[r + 1] - indptr[r]
    # waking a team costs a few microseconds: below that much work it isn't worth it
    work = cost * x.chunks * items if x.chunks > 1 else cost / CHUNK * items * place(indptr, length)
    if work < 4e5 or omp_in_parallel():
        threads = 1
    if longest > CHUNK - HEADER:
        x.partial = <real *>PyMem_RawMalloc((items * x.chunks * 2 * numbers + 1) * sizeof(real))
        if x.partial == NULL:
            raise MemoryError("no memory for the partial results of the edge kernels")
    try:
        for turn in range(items if in_turn else 1):
            x.count = x.chunks if in_turn else items * x.chunks
            x.first = turn * x.count
            x.shares = x.count if x.count < SHARES else SHARES
            cost = work / items / (1 if in_turn else x.shares / <double>items)
            run_shares(p, &x, False, cost, threads)
            if x.partial != NULL:
                run_shares(p, &x, True, cost, threads)
    finally:
        PyMem_RawFree(x.partial)
    return 0


# --- the call -------------------------------------------------------------------------------------------------------------------

cdef Py_ssize_t *new_offsets(cnp.ndarray x, int trailing, list tables) except NULL:
    """The offsets of the leading axes of an array, in memory that ``tables`` owns."""
    cdef cnp.ndarray table = np.empty(max(leading(x, trailing), 1), np.intp)
    offsets(x, trailing, sizeof(real), <Py_ssize_t *>cnp.PyArray_DATA(table))
    tables.append(table)
    return <Py_ssize_t *>cnp.PyArray_DATA(table)


cdef class Backward:
    """A call of `ruvattn.edge_attention_backward`, ready for its passes.

    Everything has been validated: one dtype, native and aligned, contiguous last axes, strides that are multiples of the item. q (..., Hq, Lq, D +
    F), k (..., Hk, Lk, D), v (..., Hk, Lk or E, Dv), dout and made (..., Hq, Lq, Dv + F) or None, lse (..., Hq, Lq), scale (Hq,), shift (..., Hq, Lq)
    or None contiguous, logits, bias and dweights (..., Hq, E) by strides. indptr (Lq + 1,) int64, indices (E,) int32; turned: the same of the
    transpose, and the order of its edges. unscaled: dq is to be multiplied by the scale of dot products.

    store (batch, Hq // span, E, slots, span); dq, dk and dv with one stride for all leading axes; the others contiguous.
    """
    cdef Gradients p
    cdef list owned

    def __init__(self, cnp.ndarray q not None, cnp.ndarray k not None, cnp.ndarray v, cnp.ndarray dout, cnp.ndarray made,
                 cnp.ndarray lse not None, cnp.ndarray scale not None, cnp.ndarray indptr not None, cnp.ndarray indices not None, *,
                 cnp.ndarray store not None, cnp.ndarray bad_rows not None, cnp.ndarray key_attr=None, cnp.ndarray value_attr=None,
                 bint values_by_edge=False, object score=None, str kind="dots", object vjp=None, list terms=None, cnp.ndarray logits=None,
                 cnp.ndarray bias=None, double softcap=0, double dropout=0, unsigned long long seed=0, cnp.ndarray shift=None,
                 cnp.ndarray dweights=None, cnp.ndarray dq=None, list drows=None, cnp.ndarray dbias=None, list dterms=None,
                 cnp.ndarray dattr=None, cnp.ndarray dparams=None, bint unscaled=False):
        cdef int nd = q.ndim, i
        cdef Gradients *p = &self.p
        cdef Edges *f = &self.p.forward
        cdef cnp.ndarray array
        cdef double slope       # a Python number becomes a ``real`` by way of float in every build
        cdef object capsule
        memset(p, 0, sizeof(Gradients))
        self.owned = [q, k, v, dout, made, lse, scale, indptr, indices, store, bad_rows, key_attr, value_attr, score, vjp, terms, logits, bias, shift,
                      dweights, dq, drows, dbias, dterms, dattr, dparams]
        f.batch = leading(q, 3)
        f.heads, f.lq, f.lk, f.d = q.shape[nd - 3], q.shape[nd - 2], k.shape[nd - 2], k.shape[nd - 1]
        f.group = f.heads // k.shape[nd - 3]
        f.edges = indices.shape[0]
        f.indptr = <const Py_ssize_t *>cnp.PyArray_DATA(indptr)
        f.indices = <const int *>cnp.PyArray_DATA(indices)
        f.q, f.k, f.scale = reals(q), reals(k), reals(scale)
        f.q_head, f.q_row, f.k_head, f.k_row = step(q, nd - 3), step(q, nd - 2), step(k, nd - 3), step(k, nd - 2)
        f.q_at, f.k_at = new_offsets(q, 3, self.owned), new_offsets(k, 3, self.owned)
        p.lse, p.shift, p.store = reals(lse), reals(shift), reals(store)
        p.slots, p.span = store.shape[3], store.shape[4]
        f.softcap = <real>softcap
        for array in (key_attr, value_attr):
            if array is not None:
                f.attr, f.attr_row = reals(array), step(array, 0)
        f.key_attr = key_attr.shape[1] if key_attr is not None else 0
        f.value_attr = value_attr.shape[1] if value_attr is not None else 0
        if dropout > 0:
            f.dropout = True
            f.drop_below = <unsigned int>(dropout * 4294967296.0)
            f.keep_scale = <real>(1 / (1 - dropout))
            f.seed = seed
        if dout is not None:
            f.v, f.dv, f.v_head, f.v_row = reals(v), v.shape[nd - 1], step(v, nd - 3), step(v, nd - 2)
            f.values_by_edge = values_by_edge
            f.v_at = new_offsets(v, 3, self.owned)
            p.dout, p.dout_head, p.dout_row, p.dout_at = reals(dout), step(dout, nd - 3), step(dout, nd - 2), new_offsets(dout, 3, self.owned)
            p.made, p.made_head, p.made_row, p.made_at = reals(made), step(made, nd - 3), step(made, nd - 2), new_offsets(made, 3, self.owned)
        f.far = f.lk * (f.d + f.dv) * <Py_ssize_t>sizeof(real) > NEAR
        p.kind = {"given": GIVEN_LOGITS, "dots": DOT_PRODUCTS, "sum": LEAKY_SUM, "hidden": LEAKY_HIDDEN, "compiled": COMPILED_SCORE}[kind]
        f.planes = 1
        f.plane_start[1] = key_width(f)
        if score is not None:
            f.planes = len(score.plane_starts) - 1
            for i in range(<int>f.planes + 1):
                f.plane_start[i] = score.plane_starts[i]
            f.n_rows = <int>len(score.rows)
            for i in range(f.n_rows):
                f.rows[i] = reals(score.rows[i])
                p.drows[i] = reals(drows[i]) if drows is not None else NULL
            f.n_cols = <int>len(terms)
            for i in range(f.n_cols):
                array = terms[i][0]
                f.cols[i] = reals(array)
                f.cols_by_edge[i] = terms[i][1]
                f.cols_heads[i] = array.shape[array.ndim - 2]
                f.cols_head[i], f.cols_step[i] = step(array, array.ndim - 2), step(array, array.ndim - 1)
                f.cols_batch[i] = array.shape[array.ndim - 2] * array.shape[array.ndim - 1] if array.ndim > 2 else 0
                p.dterms[i] = reals(dterms[i]) if dterms is not None else NULL
            f.params, f.n_params = reals(score.params), score.params.shape[1]
            f.vectors = score.vectors
            slope = score.slope
            f.slope = <real>slope
            if p.kind == COMPILED_SCORE:
                capsule = tuple.__getitem__(score.forward, 0)
                f.forward = <score_forward>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
                f.forward_data = PyCapsule_GetContext(capsule)
                if vjp is not None:
                    capsule = tuple.__getitem__(vjp, 0)
                    p.vjp = <score_vjp>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
                    p.vjp_data = PyCapsule_GetContext(capsule)
        if logits is not None:
            f.logits, f.logits_head, f.logits_edge = reals(logits), step(logits, nd - 3), step(logits, nd - 2)
            f.logits_at = new_offsets(logits, 2, self.owned)
        if bias is not None:
            f.bias, f.bias_head, f.bias_edge = reals(bias), step(bias, nd - 3), step(bias, nd - 2)
            f.bias_at = new_offsets(bias, 2, self.owned)
        if dweights is not None:
            p.dweights, p.dweights_head, p.dweights_edge = reals(dweights), step(dweights, nd - 3), step(dweights, nd - 2)
            p.dweights_at = new_offsets(dweights, 2, self.owned)
        if dq is not None:
            p.query_width = key_width(f)
            p.dq = reals(dq)
            p.dq_head, p.dq_row = step(dq, nd - 3), step(dq, nd - 2)
            p.dq_batch = step(dq, nd - 4) if nd > 3 else 0
        p.unscaled = unscaled
        p.dbias, p.dattr = reals(dbias), reals(dattr)
        p.bad_rows = <unsigned char *>cnp.PyArray_DATA(bad_rows)
        if dparams is not None:
            p.with_params = True
            p.dparams = <double *>cnp.PyArray_DATA(dparams)
        # where keys find what they need: a score with vectors is asked once more
        p.by_vjp = p.kind == COMPILED_SCORE and p.vjp != NULL and f.vectors
        if p.kind == COMPILED_SCORE or p.kind == GIVEN_LOGITS:
            p.stored_planes = 0 if p.by_vjp or score is None else f.planes
        elif p.kind == DOT_PRODUCTS:
            p.stored_planes = 1
        if p.kind == LEAKY_SUM or p.kind == COMPILED_SCORE and p.vjp != NULL:
            for i in range(f.n_cols):
                if not f.cols_by_edge[i]:
                    p.column_of[p.stored_columns] = i
                    p.stored_columns += 1

    def rows(self, *, bint in_turn=False, int threads=1):
        """Weights, what their logits get, and all that rows get; ``in_turn``: one group of heads after another, which then may add to dattr."""
        cdef Gradients *p = &self.p
        run_pass(p, ROWS, p.forward.indptr, p.forward.lq, p.forward.batch * (p.forward.heads // p.span), row_numbers(p), in_turn, threads)

    def attributes(self, *, int threads=1):
        """Add to dattr what attributes get through dots and values."""
        cdef Gradients *p = &self.p
        run_pass(p, ATTRIBUTES, p.forward.indptr, p.forward.lq, 1, 1, False, threads)

    def keys(self, cnp.ndarray turned not None, cnp.ndarray turned_rows not None, cnp.ndarray turned_order not None, cnp.ndarray bad_keys not None, *,
             cnp.ndarray dk=None, cnp.ndarray dv=None, list dcols=None, int threads=1):
        """What keys and values get of the store."""
        cdef Gradients *p = &self.p
        cdef Edges *f = &self.p.forward
        cdef int nd, i
        self.owned += [turned, turned_rows, turned_order, bad_keys, dk, dv, dcols]
        p.turned = <const Py_ssize_t *>cnp.PyArray_DATA(turned)
        p.turned_rows = <const int *>cnp.PyArray_DATA(turned_rows)
        p.turned_order = <const int *>cnp.PyArray_DATA(turned_order)
        p.bad_keys = <unsigned char *>cnp.PyArray_DATA(bad_keys)
        if dk is not None:
            nd = dk.ndim
            p.key_columns, p.dk = dk.shape[nd - 1], reals(dk)
            p.dk_head, p.dk_row = step(dk, nd - 3), step(dk, nd - 2)
            p.dk_batch = step(dk, nd - 4) if nd > 3 else 0
        if dv is not None:
            nd = dv.ndim
            p.value_columns, p.dv = dv.shape[nd - 1], reals(dv)
            p.dv_head, p.dv_row = step(dv, nd - 3), step(dv, nd - 2)
            p.dv_batch = step(dv, nd - 4) if nd > 3 else 0
        for i in range(<int>p.stored_columns):
            p.dcols[p.column_of[i]] = reals(dcols[p.column_of[i]]) if dcols is not None else NULL
        run_pass(p, KEYS, p.turned, f.lk, f.batch * (f.heads // query_heads(p)), key_numbers(p), False, threads)


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0


MAX_SHARES = SHARES
