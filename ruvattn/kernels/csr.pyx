# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Edges sorted by row: a stable counting sort, in parallel.

    rows, keys (E,) ─► buckets of neighbouring rows, each edge copied once in order ─► each bucket by row ─► indptr, indices, order
                       slices of the edges in parallel                                 buckets in parallel

A bucket's rows are few enough for the first-level cache, so that no pass writes all over the memory. The result of a stable sort is one and the same,
whatever the slices. Nothing here checks input: ``ruvattn.adjacency`` did.
"""
cimport numpy as cnp
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cython.parallel cimport prange
from libc.string cimport memset

from .openmp cimport RUVATTN_OPENMP, omp_in_parallel, ruvattn_pause, ruvattn_team

cnp.import_array()

OPENMP = RUVATTN_OPENMP

cdef enum:
    ALONE = 1 << 15        # fewer edges are one bucket
    BUCKETS = 512          # at most: one cache line each that is being written to, all of which the second-level cache holds


cdef struct Edge:
    int row, key, number


cdef struct Sort:
    Py_ssize_t edges, rows, slices, buckets
    int shift              # a row's bucket is row >> shift
    const int *row
    const int *key
    Py_ssize_t *indptr
    int *indices
    int *order
    Py_ssize_t *places     # (slices, buckets): how many edges; then where the next one goes
    Edge *by_bucket


cdef inline void count_slice(const Sort *p, Py_ssize_t s) noexcept nogil:
    cdef Py_ssize_t e
    cdef Py_ssize_t *places = p.places + s * p.buckets
    for e in range(p.edges * s // p.slices, p.edges * (s + 1) // p.slices):
        places[p.row[e] >> p.shift] += 1


cdef inline void deal_slice(const Sort *p, Py_ssize_t s) noexcept nogil:
    """Copy a slice's edges into their buckets, in order."""
    cdef Py_ssize_t e, at
    cdef Py_ssize_t *places = p.places + s * p.buckets
    for e in range(p.edges * s // p.slices, p.edges * (s + 1) // p.slices):
        at = places[p.row[e] >> p.shift]
        places[p.row[e] >> p.shift] = at + 1
        p.by_bucket[at].row = p.row[e]
        p.by_bucket[at].key = p.key[e]
        p.by_bucket[at].number = <int>e


cdef inline void sort_bucket(const Sort *p, Py_ssize_t b, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    """Sort the edges [first, stop) of one bucket; ``indptr[r + 1]`` serves as the place where the next edge of row r goes, and ends as it has to."""
    cdef Py_ssize_t low = b << p.shift, high = (b + 1) << p.shift, e, at, r, before
    cdef Py_ssize_t *next_at = p.indptr + 1
    cdef const Edge *edge
    if high > p.rows:
        high = p.rows
    for r in range(low, high):
        next_at[r] = 0
    if p.buckets == 1:
        for e in range(p.edges):
            next_at[p.row[e]] += 1
    else:
        for e in range(first, stop):
            next_at[p.by_bucket[e].row] += 1
    at = first
    for r in range(low, high):
        before = at
        at += next_at[r]
        next_at[r] = before
    if p.buckets == 1:
        for e in range(p.edges):
            at = next_at[p.row[e]]
            next_at[p.row[e]] = at + 1
            p.indices[at] = p.key[e]
            p.order[at] = <int>e
        return
    for e in range(first, stop):
        edge = p.by_bucket + e
        at = next_at[edge.row]
        next_at[edge.row] = at + 1
        p.indices[at] = edge.key
        p.order[at] = edge.number


def sort_edges(cnp.ndarray row not None, cnp.ndarray key not None, cnp.ndarray indptr not None, cnp.ndarray indices not None,
               cnp.ndarray order not None, int threads):
    """Fill indptr (rows + 1,) int64, indices and order (E,) int32 from row and key (E,) int32, all contiguous; every row in range, E < 2^31."""
    cdef Sort p
    cdef Py_ssize_t s, b, n, at = 0
    cdef Py_ssize_t *starts
    cdef int team
    p.edges, p.rows = row.shape[0], indptr.shape[0] - 1
    p.row, p.key = <const int *>cnp.PyArray_DATA(row), <const int *>cnp.PyArray_DATA(key)
    p.indptr = <Py_ssize_t *>cnp.PyArray_DATA(indptr)
    p.indices, p.order = <int *>cnp.PyArray_DATA(indices), <int *>cnp.PyArray_DATA(order)
    p.indptr[0] = 0
    p.shift = 31
    p.by_bucket = NULL
    if p.edges > ALONE:
        p.shift = 0
        while (p.rows - 1) >> p.shift >= BUCKETS:
            p.shift += 1
    p.buckets = ((p.rows - 1) >> p.shift) + 1 if p.rows > 0 else 1
    team = threads if p.buckets > 1 and not omp_in_parallel() else 1
    if team > 1:
        team = ruvattn_team(team)
    p.slices = team
    starts = <Py_ssize_t *>PyMem_RawMalloc((p.buckets + 1) * sizeof(Py_ssize_t))
    p.places = <Py_ssize_t *>PyMem_RawMalloc(p.slices * p.buckets * sizeof(Py_ssize_t))
    if p.buckets > 1:
        p.by_bucket = <Edge *>PyMem_RawMalloc(p.edges * sizeof(Edge))
    try:
        if starts == NULL or p.places == NULL or (p.buckets > 1 and p.by_bucket == NULL):
            raise MemoryError(f"no memory to sort {p.edges:,} edges: {p.edges * sizeof(Edge):,} bytes")
        with nogil:
            if p.buckets == 1:
                sort_bucket(&p, 0, 0, p.edges)
            else:
                memset(p.places, 0, p.slices * p.buckets * sizeof(Py_ssize_t))
                for s in prange(p.slices, num_threads=team, schedule="static"):
                    count_slice(&p, s)
                for b in range(p.buckets):
                    starts[b] = at
                    for s in range(p.slices):
                        n = p.places[s * p.buckets + b]
                        p.places[s * p.buckets + b] = at
                        at = at + n
                starts[p.buckets] = at
                for s in prange(p.slices, num_threads=team, schedule="static"):
                    deal_slice(&p, s)
                for b in prange(p.buckets, num_threads=team, schedule="dynamic"):
                    sort_bucket(&p, b, starts[b], starts[b + 1])
    finally:
        PyMem_RawFree(starts)
        PyMem_RawFree(p.places)
        PyMem_RawFree(p.by_bucket)


def rows_of(cnp.ndarray indptr not None, cnp.ndarray row not None):
    """Fill row (E,) int32 with the row of each edge."""
    cdef const Py_ssize_t *starts = <const Py_ssize_t *>cnp.PyArray_DATA(indptr)
    cdef int *target = <int *>cnp.PyArray_DATA(row)
    cdef Py_ssize_t r, e, rows = indptr.shape[0] - 1
    with nogil:
        for r in range(rows):
            for e in range(starts[r], starts[r + 1]):
                target[e] = <int>r


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0
