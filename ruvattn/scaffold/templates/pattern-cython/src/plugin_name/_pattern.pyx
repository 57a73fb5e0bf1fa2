# cython: cdivision=True
"""The ranges of keys of a block of rows, compiled. pattern.py says what the pattern is.

(cdivision: divide as C does. Python's check for a zero divisor would have to take the GIL to raise.)
"""

ctypedef long long index

cdef enum:
    MOST = 66  # up to 63 powers of two, and three ranges of what is near


cdef struct Ranges:
    index starts[MOST]  # sorted
    index stops[MOST]   # none beyond the start of the next
    bint full[MOST]     # whether every row of the block sees all of the range
    int count


cdef inline void add(Ranges *ranges, index start, index stop, bint full, index lk) noexcept nogil:
    """Append a range, without what is in the one before it or beyond the keys."""
    start = max(start, ranges.stops[ranges.count - 1] if ranges.count else 0)
    stop = min(stop, lk)
    if start < stop:
        ranges.starts[ranges.count] = start
        ranges.stops[ranges.count] = stop
        ranges.full[ranges.count] = full
        ranges.count += 1


cdef void fill(Ranges *ranges, index i0, index i1, index lk, index near) noexcept nogil:
    """From the farthest keys to the nearest: those at each power of two, then those near some rows, or all of them."""
    cdef index power = 1, all_from = i1 - 1 - near, all_to = i0 + 1  # what the last row sees nearby, and the first one
    ranges.count = 0
    while power <= (i1 - 1) // 2:
        power *= 2
    while power > near:
        if power < i1:
            add(ranges, i0 - power, i1 - power, i1 - i0 == 1, lk)
        power //= 2
    if all_from < all_to:
        add(ranges, i0 - near, all_from, False, lk)
        add(ranges, all_from, all_to, True, lk)
        add(ranges, all_to, i1, False, lk)
    else:
        add(ranges, i0 - near, i1, False, lk)


def ranges(index i0, index i1, index lk, index near):
    """Return starts, stops and full of the keys that rows i0 to i1 − 1 see."""
    cdef Ranges found
    cdef int n
    with nogil:
        fill(&found, i0, i1, lk, near)
    return (
        [found.starts[n] for n in range(found.count)],
        [found.stops[n] for n in range(found.count)],
        [found.full[n] for n in range(found.count)],
    )
