# cython: cdivision=True
"""The largest logits of each row, in one pass and without storing the row: a buffer a lane, of which the better half stays when it is full.

    tile's logits ─► select_tile ─► buffers ─► (between splits of the keys: save_best, merge_best) ─► write_best

A vector comparison with a limit for each lane passes over almost all logits: of n in random order some k·(1 + ln(n/k)) enter a buffer of 2k, and
halving it costs less for each of them than a heap would. Of equal logits the one with the lower key stays, so the choice doesn't depend on tiles,
splits or threads. NaN is never chosen.
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy
from .masks cimport lowest_bit
from .problem cimport Part, Problem, Scratch
from .softmax cimport settle
from .vector cimport VLEN, real, urint, v_lanes, v_load, v_lt, v_set1, v_set1u, v_storeu, vreal, vuint

cdef enum:
    LEAST_ROOM = 64  # a multiple of any vector
    HALVINGS = 24


cdef inline bint below(real s, int key, real t, int other) noexcept nogil:
    """Whether (s, key) is the worse one."""
    return s < t or (s == t and key > other)


cdef inline void sift(real *s, int *key, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """Let the entry at a place of a heap with the worst at its root sink to where it belongs."""
    cdef Py_ssize_t child
    cdef real mine = s[at]
    cdef int own = key[at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and below(s[child + 1], key[child + 1], s[child], key[child]):
            child += 1
        if not below(s[child], key[child], mine, own):
            break
        s[at] = s[child]
        key[at] = key[child]
        at = child
    s[at] = mine
    key[at] = own


cdef inline void swap(real *s, int *key, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    cdef real t = s[i]
    cdef int own = key[i]
    s[i] = s[j]
    key[i] = key[j]
    s[j] = t
    key[j] = own


cdef inline void sort_best(real *s, int *key, Py_ssize_t n) noexcept nogil:
    """Best first."""
    cdef Py_ssize_t at
    for at in range(n // 2 - 1, -1, -1):
        sift(s, key, at, n)
    while n > 1:
        n -= 1
        swap(s, key, 0, n)
        sift(s, key, 0, n)


cdef inline void keep_best(real *s, int *key, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Bring the k < n best to the front, the worst of them to place k − 1: quickselect, which sorts after so many halvings as chance never needs."""
    cdef Py_ssize_t low = 0, high = n - 1, target = k - 1, i, j
    cdef int depth = 64
    cdef real t
    cdef int own
    while low < high:
        if depth == 0:
            sort_best(s + low, key + low, high - low + 1)
            return
        depth -= 1
        # the median of three, in the middle
        i = (low + high) // 2
        if below(s[low], key[low], s[i], key[i]):
            swap(s, key, low, i)
        if below(s[i], key[i], s[high], key[high]):
            swap(s, key, i, high)
            if below(s[low], key[low], s[i], key[i]):
                swap(s, key, low, i)
        t = s[i]
        own = key[i]
        i = low
        j = high
        while i <= j:
            while below(t, own, s[i], key[i]):
                i += 1
            while below(s[j], key[j], t, own):
                j -= 1
            if i <= j:
                swap(s, key, i, j)
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            return


cdef inline Py_ssize_t room(const Problem *p) noexcept nogil:
    """Entries of a buffer: twice as many as are wanted, in whole vectors."""
    return (2 * p.top_k + LEAST_ROOM - 1) // LEAST_ROOM * LEAST_ROOM


cdef inline Py_ssize_t count_above(const real *s, Py_ssize_t n, real limit) noexcept nogil:
    """How many of a whole buffer are larger."""
    cdef vuint found = v_set1u(0)
    cdef vreal t = v_set1(limit)
    cdef urint lanes[16]
    cdef Py_ssize_t i = 0, total = 0
    while i < n:
        found = found - v_lt(t, v_load(s + i))  # a mask is −1
        i += VLEN
    v_storeu(lanes, found)
    for i in range(VLEN):
        total += <Py_ssize_t>lanes[i]
    return total


cdef inline Py_ssize_t shrink(real *s, int *key, Py_ssize_t n, Py_ssize_t k, real *least) noexcept nogil:
    """Drop most of what isn't among the k best of a full buffer: all up to a limit, found by halving, that some more than k are above.

    Counting takes a comparison a vector and the move no branch, where partitions mispredict every other one. Returns how many stay.
    """
    cdef real low = s[0], high = s[0], limit
    cdef Py_ssize_t i, above = n, found, kept = 0
    for i in range(n):
        low = s[i] if s[i] < low else low
        high = s[i] if s[i] > high else high
    for _ in range(HALVINGS):
        limit = low / 2 + high / 2
        found = count_above(s, n, limit)
        if found >= k:
            low = limit
            above = found
            if found <= k + k // 4:
                break
        else:
            high = limit
    if 4 * above > 3 * n:  # equal ones, or the largest by orders of magnitude
        keep_best(s, key, n, k)
        least[0] = s[k - 1]
        return k
    for i in range(n):
        s[kept] = s[i]
        key[kept] = key[i]
        kept += s[i] > low
    least[0] = low
    return kept


cdef inline void push(const Problem *p, Py_ssize_t row, real s, int own, Scratch *w) noexcept nogil:
    cdef Py_ssize_t at = row * room(p), n = w.best_count[row]
    w.best[at + n] = s
    w.best_key[at + n] = own
    n += 1
    if n == room(p):
        n = shrink(w.best + at, w.best_key + at, n, p.top_k, w.best_least + row)
    w.best_count[row] = <int>n


cdef inline void reset_best(Py_ssize_t panel, Py_ssize_t m, Scratch *w) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN, i
    for i in range(nr):
        w.best_count[panel * nr + i] = 0
        # what stands in the lanes beyond the last row is never chosen
        w.best_least[panel * nr + i] = -INFINITY if i < m else INFINITY


cdef inline void select_tile(const Problem *p, Py_ssize_t panel, const Part *parts, int n_parts, const real *s, Scratch *w) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN, t, lane
    cdef const real *least = w.best_least + panel * nr
    cdef unsigned int found
    cdef int part
    for part in range(n_parts):
        for t in range(parts[part].n):
            found = v_lanes(v_lt(v_load(least), v_load(s))) | v_lanes(v_lt(v_load(least + VLEN), v_load(s + VLEN))) << VLEN
            while found:
                lane = lowest_bit(found)
                push(p, panel * nr + lane, s[lane], <int>(parts[part].start + t), w)
                found &= found - 1
            s += nr


cdef inline Py_ssize_t trim_best(const Problem *p, Py_ssize_t row, const Scratch *w) noexcept nogil:
    """Leave a row its k best at the most; returns how many there are."""
    cdef Py_ssize_t at = row * room(p)
    if w.best_count[row] > p.top_k:
        keep_best(w.best + at, w.best_key + at, w.best_count[row], p.top_k)
        w.best_count[row] = <int>p.top_k
    return w.best_count[row]


cdef inline real *save_best(const Problem *p, Py_ssize_t rows, const Scratch *w, real *partial) noexcept nogil:
    """Write the choices of a block to a partial result; returns where they end."""
    cdef Py_ssize_t row, n, k = p.top_k
    cdef int *keys = <int *>(partial + rows * k)
    for row in range(rows):
        n = trim_best(p, row, w)
        memcpy(partial + row * k, w.best + row * room(p), n * sizeof(real))
        memcpy(keys + row * k, w.best_key + row * room(p), n * sizeof(int))
    memcpy(partial + 2 * rows * k, w.best_count, rows * sizeof(int))
    return partial + 2 * rows * k + rows


cdef inline const real *merge_best(const Problem *p, Py_ssize_t rows, const real *partial, Scratch *w) noexcept nogil:
    """Let what a split of later keys has chosen in; returns where it ends."""
    cdef Py_ssize_t k = p.top_k, row, t
    cdef const int *keys = <const int *>(partial + rows * k)
    cdef const int *counts = <const int *>(partial + 2 * rows * k)
    for row in range(rows):
        for t in range(counts[row]):
            # what isn't above the limit has k better ones here, or equal ones with lower keys
            if partial[row * k + t] > w.best_least[row]:
                push(p, row, partial[row * k + t], keys[row * k + t], w)
    return partial + 2 * rows * k + rows


cdef inline void write_best(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Scratch *w) noexcept nogil:
    """The rows' choices, −1 and −inf where there are fewer than k; and their lse over all keys, where it is wanted."""
    cdef Py_ssize_t nr = 2 * VLEN, k = p.top_k, row, n, t, first
    cdef real factor
    cdef real *best
    cdef int *key
    for row in range(r1 - r0):
        n = trim_best(p, row, w)
        best = w.best + row * room(p)
        key = w.best_key + row * room(p)
        if p.ordered:
            sort_best(best, key, n)
        first = ((b * p.heads + h) * p.lq + r0 + row) * k
        for t in range(n):
            p.chosen_logits[first + t] = best[t]
            p.chosen[first + t] = key[t]
        for t in range(n, k):
            p.chosen_logits[first + t] = -INFINITY
            p.chosen[first + t] = -1
        if p.lse != NULL:
            t = row // nr * 4 * nr + row % nr
            p.lse[(b * p.heads + h) * p.lq + r0 + row] = settle(w.state[t], w.state[t + nr], NULL, &factor)
