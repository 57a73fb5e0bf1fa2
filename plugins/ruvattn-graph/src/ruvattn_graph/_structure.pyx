# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The structure of graphs: integers only, but for the attributes of added self-loops.

    read_ids                        node ids as a caller has them ─► int32, with the least and the greatest
    count_keys, reverse_order       out-degrees; the inverse of an order
    loop_rows, insert_loops         CSR ─► CSR with self-loops added and taken away
    combine_rows                    one row of attributes for each node, of those of its edges
    hop_nodes                       breadth-first from some nodes, along incoming edges
    k_hop_counts, k_hop_pairs       the same from every node, in parallel: how many, then which
    induced_counts, induced_edges   the edges within a set of nodes
    sample_edges, discover          some incoming edges of each node, and the nodes that they come from

A row of the CSR structure is a destination, its keys are the sources of its edges. Nothing here checks input: the Python side did. What is computed
doesn't depend on the number of threads; rows are dealt out one by one, and each is computed alone.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from ruvattn.kernels.openmp cimport RUVATTN_OPENMP, omp_get_thread_num, omp_in_parallel, ruvattn_pause, ruvattn_team

from time import monotonic

cdef extern from *:
    """
    #include <stdint.h>
    static inline int ruvattn_bits(uint64_t x) {          /* how many bits are set; no instruction that some processor lacks */
        x -= (x >> 1) & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
        x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
        return (int)((x * 0x0101010101010101u) >> 56);
    }
    """
    int ruvattn_bits(uint64_t x) noexcept nogil

cnp.import_array()

OPENMP = RUVATTN_OPENMP

cdef enum:
    SMALL = 1 << 17          # edges to copy, about a nanosecond each, below which a team isn't worth waking
    CHUNK_ROWS = 1 << 11     # rows of a task where a row is a few edges on average
    LOOK = 1 << 22           # edges of a single walk between looks for Ctrl-C

ctypedef fused floating:
    float
    double


def pause():
    """End the idle team of threads, before a fork; True where that was possible."""
    return ruvattn_pause() == 0


cdef int team_for(double work, Py_ssize_t tasks, int threads) noexcept:
    if tasks < threads:
        threads = <int>tasks
    if threads <= 1 or work < SMALL or omp_in_parallel():
        return 1
    return ruvattn_team(threads)


# --- ids ------------------------------------------------------------------------------------------------------------------------

def read_ids(cnp.ndarray ids not None, cnp.ndarray out not None):
    """Copy ids (E,) int64, of any stride, to out (E,) int32, contiguous, and return the least and the greatest; (0, -1) if there are none."""
    cdef Py_ssize_t e, n = ids.shape[0]
    cdef const char *at = <const char *>cnp.PyArray_DATA(ids)
    cdef Py_ssize_t stride = ids.strides[0] if n else 8
    cdef const int64_t *packed = <const int64_t *>at
    cdef int *target = <int *>cnp.PyArray_DATA(out)
    cdef int64_t value, least, greatest
    if n == 0:
        return 0, -1
    least = greatest = packed[0]
    with nogil:
        if stride == 8:
            for e in range(n):
                value = packed[e]
                least = value if value < least else least
                greatest = value if value > greatest else greatest
                target[e] = <int>value
        else:
            for e in range(n):
                value = (<const int64_t *>(at + e * stride))[0]
                least = value if value < least else least
                greatest = value if value > greatest else greatest
                target[e] = <int>value
    return least, greatest


def count_keys(const int[::1] indices, int64_t[::1] counts):
    """Count how often each key comes, in counts that are zeros."""
    cdef Py_ssize_t e
    with nogil:
        for e in range(indices.shape[0]):
            counts[indices[e]] += 1


def reverse_order(const int[::1] order, int64_t[::1] out):
    """out[order[e]] = e."""
    cdef Py_ssize_t e
    with nogil:
        for e in range(order.shape[0]):
            out[order[e]] = e


# --- self-loops -----------------------------------------------------------------------------------------------------------------

def loop_rows(const int64_t[::1] indptr, const int[::1] indices, Py_ssize_t limit, bint drop, bint add, bint always, int64_t[::1] starts):
    """Fill starts (rows + 1,) with where rows begin once loops are dropped, and added to the rows below limit; return how many loops there were.

    ``always``: rows that have a loop of their own get one, too.
    """
    cdef Py_ssize_t r, e, rows = indptr.shape[0] - 1, own, found = 0, at = 0
    with nogil:
        starts[0] = 0
        for r in range(rows):
            own = 0
            for e in range(indptr[r], indptr[r + 1]):
                own += indices[e] == r
            found += own
            at += indptr[r + 1] - indptr[r]
            if drop:
                at -= own
            if add and r < limit and (always or own == 0):
                at += 1
            starts[r + 1] = at
    return found


def mark_loops(const int64_t[::1] indptr, const int[::1] indices, const int[::1] order, uint64_t[::1] marks, int[::1] before):
    """Set in marks, bits by number in the given order, what is a loop; before: how many there are before each word. marks is zeros."""
    cdef Py_ssize_t r, e, word
    cdef int number, found = 0
    with nogil:
        for r in range(indptr.shape[0] - 1):
            for e in range(indptr[r], indptr[r + 1]):
                if indices[e] == r:
                    number = <int>e if order is None else order[e]
                    marks[number >> 6] |= <uint64_t>1 << (number & 63)
        for word in range(marks.shape[0]):
            before[word] = found
            found += ruvattn_bits(marks[word])


cdef struct Loops:
    Py_ssize_t rows
    bint drop
    int kept
    const int64_t *indptr
    const int *indices
    const int *order
    const uint64_t *marks
    const int *before
    const int64_t *starts
    int *new_indices
    int *new_order
    int *origin


cdef inline void loops_of_row(const Loops *p, Py_ssize_t r) noexcept nogil:
    cdef Py_ssize_t e, at = p.starts[r]
    cdef int number
    for e in range(p.indptr[r], p.indptr[r + 1]):
        if p.drop and p.indices[e] == r:
            continue
        number = p.order[e] if p.order != NULL else <int>e
        if p.marks != NULL:  # less the loops before it
            number -= p.before[number >> 6] + ruvattn_bits(p.marks[number >> 6] & ((<uint64_t>1 << (number & 63)) - 1))
        p.new_indices[at] = p.indices[e]
        p.new_order[at] = number
        if p.origin != NULL:
            p.origin[at] = <int>e
        at += 1
    if at < p.starts[r + 1]:
        p.new_indices[at] = <int>r
        # Loops are numbered in the order of rows. Where loops were dropped, each row so far has got one; else what the rows so far have got counts.
        p.new_order[at] = p.kept + <int>(r if p.drop else at - p.indptr[r + 1])
        if p.origin != NULL:
            p.origin[at] = -1


def insert_loops(const int64_t[::1] indptr, const int[::1] indices, const int[::1] order, const uint64_t[::1] marks, const int[::1] before,
                 const int64_t[::1] starts, bint drop, int kept, int[::1] new_indices, int[::1] new_order, int[::1] origin, int threads):
    """Fill the arrays of the CSR structure that `loop_rows` has laid out: a row's kept edges in their order, then its loop.

    order (None: the numbers themselves) is that of the old edges, ``kept`` of which stay; marks and before are those of `mark_loops`, or None where
    none goes; origin (or None) is the old edge or -1.
    """
    cdef Loops p
    cdef Py_ssize_t task, r, last, tasks
    cdef int team
    p.rows, p.drop, p.kept = indptr.shape[0] - 1, drop, kept
    p.indptr, p.starts = &indptr[0], &starts[0]
    p.indices = &indices[0] if indices.shape[0] else NULL
    p.order = &order[0] if order is not None and order.shape[0] else NULL
    p.marks = &marks[0] if marks is not None else NULL
    p.before = &before[0] if before is not None else NULL
    p.new_indices = &new_indices[0] if new_indices.shape[0] else NULL
    p.new_order = &new_order[0] if new_order.shape[0] else NULL
    p.origin = &origin[0] if origin is not None and origin.shape[0] else NULL
    tasks = (p.rows + CHUNK_ROWS - 1) // CHUNK_ROWS
    team = team_for(indices.shape[0] + p.rows, tasks, threads)
    with nogil:
        for task in prange(tasks, num_threads=team, schedule="dynamic", chunksize=1):
            last = (task + 1) * CHUNK_ROWS if (task + 1) * CHUNK_ROWS < p.rows else p.rows
            for r in range(task * CHUNK_ROWS, last):
                loops_of_row(&p, r)


cdef enum How:
    MEAN, ADD, MIN, MAX, MUL


def combine_rows(const floating[:, ::1] attr, const int64_t[::1] indptr, const int[::1] indices, int how, bint drop, floating[:, ::1] out):
    """Fill row r of out with the attributes of the edges of row r: 0 mean, 1 sum, 2 least, 3 greatest, 4 product; without loops if ``drop``.

    Sums and products are made in double. A row without edges gives 0; the product, 1.
    """
    cdef Py_ssize_t r, e, f, n, width = attr.shape[1]
    cdef double *total = <double *>PyMem_RawMalloc(width * sizeof(double))
    cdef const floating *row
    if total == NULL:
        raise MemoryError("no memory for the attributes of a self-loop")
    try:
        with nogil:
            for r in range(out.shape[0]):
                n = 0
                for f in range(width):
                    total[f] = 1 if how == MUL else 0
                for e in range(indptr[r], indptr[r + 1]):
                    if drop and indices[e] == r:
                        continue
                    row = &attr[e, 0]
                    if how == MEAN or how == ADD:
                        for f in range(width):
                            total[f] += row[f]
                    elif how == MUL:
                        for f in range(width):
                            total[f] *= row[f]
                    else:
                        for f in range(width):
                            if n == 0 or (row[f] < total[f] if how == MIN else row[f] > total[f]):
                                total[f] = row[f]
                    n += 1
                for f in range(width):
                    out[r, f] = <floating>(total[f] / n if how == MEAN and n else total[f])
    finally:
        PyMem_RawFree(total)


# --- breadth first --------------------------------------------------------------------------------------------------------------

cdef void sort_ids(int *ids, Py_ssize_t n) noexcept nogil:
    """Sort in place: quicksort on the median of three, the longer part last; what is short by insertion."""
    cdef Py_ssize_t i, j
    cdef int pivot, x
    while n > 24:
        x = ids[n // 2]
        if x < ids[0]:
            pivot = ids[0] if ids[0] < ids[n - 1] else (x if x > ids[n - 1] else ids[n - 1])
        else:
            pivot = x if x < ids[n - 1] else (ids[0] if ids[0] > ids[n - 1] else ids[n - 1])
        i, j = 0, n - 1
        while i <= j:
            while ids[i] < pivot:
                i += 1
            while ids[j] > pivot:
                j -= 1
            if i <= j:
                ids[i], ids[j] = ids[j], ids[i]
                i += 1
                j -= 1
        if j + 1 < n - i:
            sort_ids(ids, j + 1)
            ids += i
            n -= i
        else:
            sort_ids(ids + i, n - i)
            n = j + 1
    for i in range(1, n):
        x = ids[i]
        j = i
        while j > 0 and ids[j - 1] > x:
            ids[j] = ids[j - 1]
            j -= 1
        ids[j] = x


cdef struct Walk:
    const int64_t *indptr
    const int *indices
    uint8_t *seen          # one a node
    int *queue             # the nodes reached, in order


cdef inline Py_ssize_t expand(const Walk *p, Py_ssize_t low, Py_ssize_t high, Py_ssize_t end) noexcept nogil:
    """Append to the queue, of length ``end``, what has an edge to nodes [low, high) of it and was not seen; return its length."""
    cdef Py_ssize_t at, e
    cdef int source
    for at in range(low, high):
        for e in range(p.indptr[p.queue[at]], p.indptr[p.queue[at] + 1]):
            source = p.indices[e]
            if not p.seen[source]:
                p.seen[source] = 1
                p.queue[end] = source
                end += 1
    return end


def hop_nodes(const int64_t[::1] indptr, const int[::1] indices, const int64_t[::1] roots, int64_t k, uint8_t[::1] seen, int[::1] queue):
    """Fill queue with the nodes within k hops of the roots, along incoming edges: the roots, then hop by hop, by id; return where hops begin.

    seen (N,) is zeros; queue has room for N nodes; no root comes twice. The result has an entry for each hop there is, and one for the end.
    """
    cdef Walk p
    cdef Py_ssize_t low = 0, high = 0, end = roots.shape[0], at, stop, edges
    cdef list starts = [0, end]
    cdef int64_t hop = 0
    if end == 0:
        return starts
    p.indptr, p.indices = &indptr[0], &indices[0] if indices.shape[0] else NULL
    p.seen, p.queue = &seen[0], &queue[0]
    for at in range(end):
        p.queue[at] = <int>roots[at]
        p.seen[roots[at]] = 1
    while hop < k:
        low, high = high, end
        at = low
        while at < high:
            with nogil:
                stop = at
                edges = 0
                while stop < high and edges < LOOK:
                    edges += p.indptr[p.queue[stop] + 1] - p.indptr[p.queue[stop]] + 1
                    stop += 1
                end = expand(&p, at, stop, end)
            at = stop
            if at < high:
                PyErr_CheckSignals()
        if end == high:
            break
        with nogil:
            sort_ids(p.queue + high, end - high)
        starts.append(end)
        hop += 1
    return starts


cdef inline Py_ssize_t reach(const Walk *p, int root, int64_t k, int *pairs, int *hops) noexcept nogil:
    """How many nodes are within k hops of one, without itself; written to pairs by hop and id, with their hops, unless that is NULL."""
    cdef Py_ssize_t low = 0, high = 0, end = 1, at
    cdef int hop = 0
    p.queue[0] = root
    p.seen[root] = 1
    while hop < k:
        low, high = high, end
        end = expand(p, low, high, end)
        if end == high:
            break
        hop += 1
        if pairs != NULL:
            sort_ids(p.queue + high, end - high)
            for at in range(high, end):
                hops[at - 1] = hop
    if pairs != NULL:
        memcpy(pairs, p.queue + 1, (end - 1) * sizeof(int))
    for at in range(end):
        p.seen[p.queue[at]] = 0
    return end - 1


def k_hop(const int64_t[::1] indptr, const int[::1] indices, int64_t k, int64_t[::1] starts, int[::1] pairs, int[::1] hops, int64_t most,
          int threads):
    """Walk from every node. Without pairs: fill starts (N + 1,) with where its rows begin, and return how many pairs there are; stop above ``most``.

    With pairs and hops, of that length: fill them, row by row.
    """
    cdef Walk *walks
    cdef uint8_t *seen
    cdef int *queues
    cdef Py_ssize_t nodes = indptr.shape[0] - 1, r, done = 0, stop, batch
    cdef int64_t total = 0
    cdef int team = team_for(<double>(nodes + indices.shape[0]) * 8, nodes, threads), i
    cdef bint count = pairs is None
    cdef int *pair_at = NULL
    cdef int *hop_at = NULL
    starts[0] = 0
    if nodes == 0:
        return 0
    if not count and pairs.shape[0]:
        pair_at, hop_at = &pairs[0], &hops[0]
    elif not count:
        return 0
    walks = <Walk *>PyMem_RawMalloc(team * sizeof(Walk))
    seen = <uint8_t *>PyMem_RawCalloc(team, nodes)
    queues = <int *>PyMem_RawMalloc(team * nodes * sizeof(int))
    try:
        if walks == NULL or seen == NULL or queues == NULL:
            raise MemoryError(f"no memory to walk over {nodes:,} nodes on {team} threads")
        for i in range(team):
            walks[i].indptr, walks[i].indices = &indptr[0], &indices[0] if indices.shape[0] else NULL
            walks[i].seen, walks[i].queue = seen + i * nodes, queues + i * nodes
        batch = team * (1 + LOOK // (nodes + indices.shape[0]))  # a walk may be one over all edges; most are short, which soon shows
        while done < nodes:
            began = monotonic()
            stop = done + batch if nodes - done > batch else nodes
            with nogil:
                if team > 1:
                    for r in prange(done, stop, num_threads=team, schedule="dynamic", chunksize=1):
                        if count:
                            starts[r + 1] = reach(walks + omp_get_thread_num(), <int>r, k, NULL, NULL)
                        else:
                            reach(walks + omp_get_thread_num(), <int>r, k, pair_at + starts[r], hop_at + starts[r])
                else:
                    for r in range(done, stop):
                        if count:
                            starts[r + 1] = reach(walks, <int>r, k, NULL, NULL)
                        else:
                            reach(walks, <int>r, k, pair_at + starts[r], hop_at + starts[r])
            if count:
                for r in range(done, stop):
                    total += starts[r + 1]
                    starts[r + 1] = total
                if total > most:
                    return total
            done = stop
            if done < nodes:
                PyErr_CheckSignals()
                # batches of about a tenth of a second, so that Ctrl-C is answered and threads rarely wait for one another
                spent = monotonic() - began
                if spent < 0.05:
                    batch *= 2
                elif spent > 0.2 and batch > team:
                    batch //= 2
    finally:
        PyMem_RawFree(walks)
        PyMem_RawFree(seen)
        PyMem_RawFree(queues)
    return total


# --- parts of a graph -----------------------------------------------------------------------------------------------------------

def induced_counts(const int64_t[::1] indptr, const int[::1] indices, const int64_t[::1] nodes, const int[::1] place, int64_t[::1] starts):
    """Fill starts with where the rows of nodes begin when only edges from nodes that have a place are left; place is the new id + 1, or 0."""
    cdef Py_ssize_t at, e
    cdef int64_t total = 0
    with nogil:
        starts[0] = 0
        for at in range(nodes.shape[0]):
            for e in range(indptr[nodes[at]], indptr[nodes[at] + 1]):
                total += place[indices[e]] != 0
            starts[at + 1] = total
    return total


def induced_edges(const int64_t[::1] indptr, const int[::1] indices, const int64_t[::1] nodes, const int[::1] place, int[::1] new_indices,
                  int[::1] origin):
    """Fill the keys of those rows, and which edge each one was."""
    cdef Py_ssize_t at, e, end = 0
    with nogil:
        for at in range(nodes.shape[0]):
            for e in range(indptr[nodes[at]], indptr[nodes[at] + 1]):
                if place[indices[e]]:
                    new_indices[end] = place[indices[e]] - 1
                    origin[end] = <int>e
                    end += 1


# --- sampling -------------------------------------------------------------------------------------------------------------------

cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): each bit depends on all."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


def mix(*numbers):
    """Hash numbers of up to 64 bits to one of 64 bits."""
    cdef uint64_t key = 0
    for number in numbers:
        key = mixed(key + <uint64_t>0x9E3779B97F4A7C15 + mixed(<uint64_t>number + <uint64_t>0x632BE59BD9B4E019))
    return key


cdef inline Py_ssize_t drawn(uint64_t key, Py_ssize_t draw, Py_ssize_t n) noexcept nogil:
    """A number in [0, n): 53 bits of a hash are enough for any degree."""
    return <Py_ssize_t>(<double>(mixed(key + <uint64_t>draw * <uint64_t>0x9E3779B97F4A7C15) >> 11) * (1.0 / 9007199254740992.0) * n)


cdef inline void sample_row(uint64_t key, int64_t first, Py_ssize_t degree, Py_ssize_t wanted, bint replace, uint8_t *marks,
                            int *picked) noexcept nogil:
    """Write so many edges of a row, in their order: all, drawn with replacement, or by Floyd's algorithm (Bentley and Floyd, 1987)."""
    cdef Py_ssize_t i, t
    if not replace and wanted == degree:
        for i in range(degree):
            picked[i] = <int>(first + i)
        return
    for i in range(wanted):
        if replace:
            t = drawn(key, i, degree)
        else:
            t = drawn(key, i, degree - wanted + i + 1)
            if marks[t]:
                t = degree - wanted + i
            marks[t] = 1
        picked[i] = <int>(first + t)
    if not replace:
        for i in range(wanted):
            marks[picked[i] - first] = 0
    sort_ids(picked, wanted)


def sample_edges(const int64_t[::1] indptr, const int[::1] nodes, const int64_t[::1] starts, bint replace, uint64_t key, Py_ssize_t largest,
                 int[::1] picked, int threads):
    """Fill picked[starts[i]:starts[i + 1]] with edges of row nodes[i], drawn by hashing key and node.

    ``largest``: the largest degree of these rows. ``replace``: draw with replacement, else there are no more than the row has.
    """
    cdef Py_ssize_t at, n = nodes.shape[0], done = 0, stop
    cdef int team = team_for(<double>picked.shape[0] * 8, n, threads)
    cdef uint8_t *marks
    cdef const int64_t *rows
    cdef const int64_t *places
    cdef const int *ids
    cdef int *target
    if n == 0 or picked.shape[0] == 0:
        return
    marks = <uint8_t *>PyMem_RawCalloc(team, largest)
    if marks == NULL:
        raise MemoryError(f"no memory to sample a row of {largest:,} edges on {team} threads")
    rows, places, ids, target = &indptr[0], &starts[0], &nodes[0], &picked[0]
    try:
        while done < n:
            stop = done
            while stop < n and places[stop] - places[done] < LOOK:
                stop += 1
            with nogil:
                if team > 1:
                    for at in prange(done, stop, num_threads=team, schedule="dynamic", chunksize=64):
                        sample_row(mixed(key + <uint64_t>ids[at] * <uint64_t>0xD1B54A32D192ED03), rows[ids[at]], rows[ids[at] + 1] - rows[ids[at]],
                                   places[at + 1] - places[at], replace, marks + omp_get_thread_num() * largest, target + places[at])
                else:
                    for at in range(done, stop):
                        sample_row(mixed(key + <uint64_t>ids[at] * <uint64_t>0xD1B54A32D192ED03), rows[ids[at]], rows[ids[at] + 1] - rows[ids[at]],
                                   places[at + 1] - places[at], replace, marks, target + places[at])
            done = stop
            if done < n:
                PyErr_CheckSignals()
    finally:
        PyMem_RawFree(marks)


def discover(const int[::1] indices, const int[::1] picked, int[::1] place, int known, int[::1] found):
    """Give the sources of edges that have no place yet one, after the ``known`` places: by id. Return how many these are, written to found.

    place (N,) is the new id + 1, or 0.
    """
    cdef Py_ssize_t e, n = 0
    cdef int source
    with nogil:
        for e in range(picked.shape[0]):
            source = indices[picked[e]]
            if place[source] == 0:
                place[source] = 1
                found[n] = source
                n += 1
        if n:
            sort_ids(&found[0], n)
        for e in range(n):
            place[found[e]] = known + <int>e + 1
    return n


def places_of(const int[::1] indices, const int[::1] picked, const int[::1] place, int[::1] out):
    """out[e] = the new id of the source of edge picked[e]."""
    cdef Py_ssize_t e
    with nogil:
        for e in range(picked.shape[0]):
            out[e] = place[indices[picked[e]]] - 1
