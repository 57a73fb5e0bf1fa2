# cython: cdivision=True
"""Masks on one tile: gathered as bits for each of its parts, 32 keys a word, a word a lane, then blended into the logits.

Blending never adds: whatever a masked logit was, NaN included, it becomes −inf.
"""
from libc.math cimport INFINITY
from .vector cimport (real, vreal, vuint, srint, urint, VLEN, v_load, v_store, v_loadu, v_set1, v_select, v_eq, v_max, v_bit, v_outside,
                      v_transpose)
from .problem cimport Problem, Part

cdef extern from *:
    """
    #ifndef RUVATTN_MASK_H
    #define RUVATTN_MASK_H
    /* Eight bytes, each 0 or not, to eight bits, the first byte lowest. */
    static inline unsigned int ruvattn_pack8(const unsigned char *p) {
        uint64_t x;
        memcpy(&x, p, 8);
        x |= x >> 4; x |= x >> 2; x |= x >> 1;
        x &= UINT64_C(0x0101010101010101);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        x = __builtin_bswap64(x);
    #endif
        return (unsigned int)((x * UINT64_C(0x0102040810204080)) >> 56);
    }
    /* 32 bytes to a word: a comparison and a move of its sign bits, where the processor has that. */
    #if RUVATTN_VECTOR_BYTES > 0 && defined(__SSE2__)
      typedef char ruvattn_v16 __attribute__((vector_size(16)));
      #define RUVATTN_PACK16(p) ((unsigned int)__builtin_ia32_pmovmskb128(ruvattn_load16(p) == (ruvattn_v16){0}))
      static inline ruvattn_v16 ruvattn_load16(const unsigned char *p) { ruvattn_v16 x; memcpy(&x, p, 16); return x; }
      static inline unsigned int ruvattn_pack32(const unsigned char *p) {
          return ~(RUVATTN_PACK16(p) | RUVATTN_PACK16(p + 16) << 16);
      }
    #else
      static inline unsigned int ruvattn_pack32(const unsigned char *p) {
          return ruvattn_pack8(p) | ruvattn_pack8(p + 8) << 8 | ruvattn_pack8(p + 16) << 16 | ruvattn_pack8(p + 24) << 24;
      }
    #endif
    #endif
    """
    int lowest_bit "__builtin_ctz"(unsigned int x) noexcept nogil
    int highest_zeros "__builtin_clz"(unsigned int x) noexcept nogil
    unsigned int pack8 "ruvattn_pack8"(const unsigned char *p) noexcept nogil
    unsigned int pack32 "ruvattn_pack32"(const unsigned char *p) noexcept nogil


cdef inline unsigned int pack_row(const unsigned char *row, Py_ssize_t key, int count) noexcept nogil:
    """``count`` (≤ 32) entries of a bool mask, ``key`` bytes apart, to bits."""
    cdef unsigned int value = 0
    cdef int t = 0
    if key == 1:
        if count == 32:
            return pack32(row)
        while t + 8 <= count:
            value |= pack8(row + t) << t
            t += 8
    while t < count:
        if row[t * key] != 0:
            value |= <unsigned int>1 << t
        t += 1
    return value


cdef inline unsigned int plan_bits(const unsigned int *row, Py_ssize_t bit, int count) noexcept nogil:
    """``count`` (≤ 32) bits of a row of words, from any bit on."""
    cdef int shift = bit & 31
    cdef unsigned long long value = row[bit >> 5]
    if shift + count > 32:
        value |= <unsigned long long>row[(bit >> 5) + 1] << 32
    return <unsigned int>(value >> shift) & (0xFFFFFFFFu >> (32 - count))


cdef inline void gather_bits(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, const Part *part, urint *words,
                             Py_ssize_t *first, Py_ssize_t *stop, bint *whole) noexcept nogil:
    """The bits of one part for one panel, from a pattern's plan and a bool mask; which keys [first, stop) some row sees, and whether all see all."""
    cdef Py_ssize_t nr = 2 * VLEN, n = part.n, n_words = (n + 31) >> 5, w, i
    cdef const unsigned char *row
    cdef unsigned int value, full, some, every
    cdef int count
    first[0] = n
    stop[0] = 0
    whole[0] = True
    for w in range(n_words):
        count = 32 if n - 32 * w > 32 else <int>(n - 32 * w)
        full = 0xFFFFFFFFu >> (32 - count)
        some = 0
        every = full
        for i in range(m):
            value = full
            if part.words != NULL:
                value = plan_bits(part.words + i * part.words_per_row, part.first_bit + 32 * w, count)
            if p.mask != NULL:
                row = p.mask + p.mask_at[b] + h * p.mask_head + (i0 + i) * p.mask_row + (part.start + 32 * w) * p.mask_key
                value &= pack_row(row, p.mask_key, count)
            words[w * nr + i] = value
            some |= value
            every &= value
        for i in range(m, nr):
            words[w * nr + i] = full
        whole[0] = whole[0] and every == full
        if some != 0:
            if stop[0] == 0:
                first[0] = 32 * w + lowest_bit(some)
            stop[0] = 32 * w + 32 - highest_zeros(some)


cdef inline bint part_bits(const Problem *p, Py_ssize_t b, Py_ssize_t h, Py_ssize_t i0, Py_ssize_t m, Part *part, bint trim,
                           urint **words) noexcept nogil:
    """Give a part its bits, from ``words`` on, which moves behind them. False where no row of the panel sees any of it. ``trim``: the part may be
    cut to what some row sees."""
    cdef Py_ssize_t first, stop
    cdef bint whole
    part.bits = NULL
    if part.words == NULL and p.mask == NULL:
        return True
    gather_bits(p, b, h, i0, m, part, words[0], &first, &stop, &whole)
    if stop == 0:
        return False
    if whole:
        return True
    if trim and stop - first < part.n:
        part.start += first
        part.first_bit += first
        part.n = stop - first
        if first > 0:
            gather_bits(p, b, h, i0, m, part, words[0], &first, &stop, &whole)
            if whole:
                return True
    part.bits = words[0]
    words[0] += ((part.n + 31) >> 5) * 2 * VLEN
    return True


cdef inline void blend_bits(real *s, Py_ssize_t n, const urint *words, real *top) noexcept nogil:
    """−inf where a bit is 0; ``top`` becomes the largest of each lane, since the logits pass by anyway."""
    cdef vreal least = v_set1(<real>-INFINITY), t0 = least, t1 = least, x0, x1
    cdef vuint w0 = v_loadu(words), w1 = v_loadu(words + VLEN)
    cdef Py_ssize_t j, bit, nr = 2 * VLEN
    for j in range(n):
        bit = j & 31
        if bit == 0:
            w0 = v_loadu(words + (j >> 5) * nr)
            w1 = v_loadu(words + (j >> 5) * nr + VLEN)
        x0 = v_select(v_bit(w0, bit), v_load(s), least)
        x1 = v_select(v_bit(w1, bit), v_load(s + VLEN), least)
        v_store(s, x0)
        v_store(s + VLEN, x1)
        t0 = v_max(x0, t0)
        t1 = v_max(x1, t1)
        s += nr
    v_store(top, t0)
    v_store(top + VLEN, t1)


cdef inline void blend_interval(real *s, Py_ssize_t first, Py_ssize_t stop, const urint *low, const urint *high) noexcept nogil:
    """−inf in the lanes whose interval [low, high) doesn't hold the key, for the tile rows of keys [first, stop)."""
    cdef vreal least = v_set1(<real>-INFINITY)
    cdef vuint l0 = v_loadu(low), l1 = v_loadu(low + VLEN), h0 = v_loadu(high), h1 = v_loadu(high + VLEN)
    cdef Py_ssize_t j
    for j in range(first, stop):
        v_store(s, v_select(v_outside(<srint>j, l0, h0), least, v_load(s)))
        v_store(s + VLEN, v_select(v_outside(<srint>j, l1, h1), least, v_load(s + VLEN)))
        s += 2 * VLEN


cdef inline void add_bias(real *s, const real *bias, Py_ssize_t row, Py_ssize_t key, Py_ssize_t m, Py_ssize_t n) noexcept nogil:
    """s[j, i] += bias[i·row + j·key]; a bias of −inf masks."""
    cdef vreal least = v_set1(<real>-INFINITY)
    cdef vreal block[16]
    cdef vreal x
    cdef Py_ssize_t i0, i, j, lane, nr = 2 * VLEN
    cdef real y
    for i0 in range(2):
        lane = i0 * VLEN
        if lane >= m:
            return
        j = 0
        if row == 0:
            for j in range(n):
                x = v_set1(bias[j * key])
                v_store(s + j * nr + lane, v_select(v_eq(x, least), least, v_load(s + j * nr + lane) + x))
            continue
        if key == 1:
            while j + VLEN <= n:
                for i in range(VLEN):
                    block[i] = v_load(bias + (lane + i if lane + i < m else m - 1) * row + j)
                v_transpose(block)
                for i in range(VLEN):
                    x = block[i]
                    v_store(s + (j + i) * nr + lane, v_select(v_eq(x, least), least, v_load(s + (j + i) * nr + lane) + x))
                j += VLEN
        while j < n:
            for i in range(lane, lane + VLEN):
                y = bias[(i if i < m else m - 1) * row + j * key]
                s[j * nr + i] = <real>-INFINITY if y == <real>-INFINITY else s[j * nr + i] + y
            j += 1
