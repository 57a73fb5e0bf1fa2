# cython: cdivision=True
"""The largest logits of each row, in one pass and without storing the row: a heap a lane, whose root is what a new logit has to beat.

    tile's logits ─► select_tile ─► heaps of k ─► (between splits of the keys: save_heaps, merge_heaps) ─► write_heaps

A vector comparison with the roots passes over almost all logits: of n in random order about k·(1 + ln(n/k)) enter a heap. Of equal logits the one
with the lower key stays, so the choice doesn't depend on tiles, splits or threads. NaN is never chosen.
"""
from libc.math cimport INFINITY
from libc.string cimport memcpy
from .problem cimport Part, Problem, Scratch
from .softmax cimport settle
from .vector cimport VLEN, real, v_lanes, v_load, v_lt


cdef inline bint below(real s, int key, real t, int other) noexcept nogil:
    """Whether (s, key) is the worse one."""
    return s < t or (s == t and key > other)


cdef inline void sink_root(real *s, int *key, Py_ssize_t n) noexcept nogil:
    """Restore the heap after its root has changed."""
    cdef Py_ssize_t at = 0, child
    cdef real mine = s[0]
    cdef int own = key[0]
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


cdef inline void push(real s, int own, Py_ssize_t k, real *heap, int *key, int *count, real *least) noexcept nogil:
    """Take a logit into a heap, unless all that is there is better."""
    cdef Py_ssize_t at, parent
    if count[0] < k:
        at = count[0]
        count[0] += 1
        while at > 0:
            parent = (at - 1) // 2
            if not below(s, own, heap[parent], key[parent]):
                break
            heap[at] = heap[parent]
            key[at] = key[parent]
            at = parent
        heap[at] = s
        key[at] = own
        if count[0] == k:
            least[0] = heap[0]
    elif below(heap[0], key[0], s, own):
        heap[0] = s
        key[0] = own
        sink_root(heap, key, k)
        least[0] = heap[0]


cdef inline void reset_heaps(Py_ssize_t panel, Py_ssize_t m, Scratch *w) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN, i
    for i in range(nr):
        w.heap_count[panel * nr + i] = 0
        # what stands in the lanes beyond the last row is never chosen
        w.heap_least[panel * nr + i] = -INFINITY if i < m else INFINITY


cdef inline void select_tile(const Problem *p, Py_ssize_t panel, const Part *parts, int n_parts, const real *s, Scratch *w) noexcept nogil:
    cdef Py_ssize_t nr = 2 * VLEN, k = p.top_k, t, lane, row
    cdef real *least = w.heap_least + panel * nr
    cdef unsigned int found
    cdef int part
    for part in range(n_parts):
        for t in range(parts[part].n):
            found = v_lanes(v_lt(v_load(least), v_load(s))) | v_lanes(v_lt(v_load(least + VLEN), v_load(s + VLEN))) << VLEN
            lane = 0
            while found:
                if found & 1:
                    row = panel * nr + lane
                    push(s[lane], <int>(parts[part].start + t), k, w.heap + row * k, w.heap_key + row * k, w.heap_count + row, least + lane)
                found >>= 1
                lane += 1
            s += nr


cdef inline real *save_heaps(const Problem *p, Py_ssize_t rows, const Scratch *w, real *partial) noexcept nogil:
    """Write the heaps of a block to a partial result; returns where they end."""
    cdef Py_ssize_t size = rows * p.top_k
    memcpy(partial, w.heap, size * sizeof(real))
    memcpy(partial + size, w.heap_key, size * sizeof(int))
    memcpy(partial + 2 * size, w.heap_count, rows * sizeof(int))
    return partial + 2 * size + rows


cdef inline const real *merge_heaps(const Problem *p, Py_ssize_t rows, const real *partial, Scratch *w) noexcept nogil:
    """Let what another split has chosen into the heaps; returns where it ends."""
    cdef Py_ssize_t k = p.top_k, row, t
    cdef const int *keys = <const int *>(partial + rows * k)
    cdef const int *counts = <const int *>(partial + 2 * rows * k)
    for row in range(rows):
        for t in range(counts[row]):
            push(partial[row * k + t], keys[row * k + t], k, w.heap + row * k, w.heap_key + row * k, w.heap_count + row, w.heap_least + row)
    return partial + 2 * rows * k + rows


cdef inline void write_heaps(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t r0, Py_ssize_t r1, Scratch *w) noexcept nogil:
    """The rows' choices, best first, −1 and −inf where there are fewer than k; and their lse over all keys, where it is wanted."""
    cdef Py_ssize_t nr = 2 * VLEN, k = p.top_k, row, n, t
    cdef real factor
    cdef real *heap
    cdef int *key
    cdef real *s
    cdef Py_ssize_t *chosen
    for row in range(r1 - r0):
        heap = w.heap + row * k
        key = w.heap_key + row * k
        n = w.heap_count[row]
        s = p.chosen_logits + (((b * p.heads + h) * p.lq) + r0 + row) * k
        chosen = p.chosen + (((b * p.heads + h) * p.lq) + r0 + row) * k
        for t in range(n, k):
            s[t] = -INFINITY
            chosen[t] = -1
        while n > 0:
            n -= 1
            s[n] = heap[0]
            chosen[n] = key[0]
            heap[0] = heap[n]
            key[0] = key[n]
            sink_root(heap, key, n)
        if p.lse != NULL:
            t = row // nr * 4 * nr + row % nr
            p.lse[(b * p.heads + h) * p.lq + r0 + row] = settle(w.state[t], w.state[t + nr], NULL, &factor)
