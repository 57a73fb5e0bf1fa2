# cython: cdivision=True
"""What a call hands to the kernels: plain pointers, element strides and numbers, made and checked by the Python above.

Batch entries are addressed by tables of offsets, so that any number of leading axes in any strides costs the kernels nothing.
"""
from .vector cimport real, urint

ctypedef void (*score_forward)(real *dots, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params,
                               real *q, real *k, Py_ssize_t d, void *user_data) noexcept nogil

cdef enum:
    MAX_PLANES = 16  # as in ruvattn.scores
    MAX_TERMS = 32


cdef struct Problem:
    Py_ssize_t batch, heads, group, lq, lk, d, dv      # heads of queries; group = query heads per key head
    const real *q
    const real *k
    const real *v
    real *out
    real *lse                                          # (batch, heads, lq), contiguous
    Py_ssize_t q_head, q_row, k_head, k_row, v_head, v_row, out_head, out_row
    const Py_ssize_t *q_at                             # element offsets of the batch entries
    const Py_ssize_t *k_at
    const Py_ssize_t *v_at
    const Py_ssize_t *out_at
    const real *scale                                  # (heads,), folded into q
    # which keys: the interval of a row
    bint causal
    Py_ssize_t left, right                             # −1: unbounded
    const Py_ssize_t *position                         # (batch,): where row 0 stands
    const Py_ssize_t *key_length                       # (batch,)
    # a bool mask, byte strides
    const unsigned char *mask
    Py_ssize_t mask_head, mask_row, mask_key
    const Py_ssize_t *mask_at
    # which rows: all of them, or the ones that the plan is for
    Py_ssize_t first, rows_here
    # a pattern's segments, per block of plan_rows rows from ``first`` on; a segment without bits is full
    const Py_ssize_t *plan_ptr
    const Py_ssize_t *plan_start
    const Py_ssize_t *plan_stop
    const Py_ssize_t *plan_bit                         # which bit of a row's words is its first key's, −1: full
    const Py_ssize_t *plan_words_at                    # where the words of a block begin
    const Py_ssize_t *plan_row_words                   # and how many each of its plan_rows rows has
    const unsigned int *plan_words
    Py_ssize_t plan_rows, plan_batch, plan_head        # strides of batch and head in blocks
    # what happens to a logit
    real softcap                                       # 0: none
    const real *bias
    Py_ssize_t bias_head, bias_row, bias_key
    const Py_ssize_t *bias_at
    const real *sinks                                  # (heads,) or NULL
    bint dropout
    unsigned int drop_below
    real keep_scale
    unsigned long long seed
    # the score: planes of dots, terms, a compiled form or Python
    Py_ssize_t planes
    Py_ssize_t plane_start[MAX_PLANES + 1]
    score_forward forward
    void *forward_data
    void *python                                       # borrowed: called with the GIL for each tile of up to block_rows rows
    int n_rows, n_cols
    const real *rows[MAX_TERMS]                        # (batch, heads, lq)
    const real *cols[MAX_TERMS]                        # (batch, heads of the term, lk)
    Py_ssize_t cols_heads[MAX_TERMS]
    const real *params                                 # (heads, n_params)
    Py_ssize_t n_params
    bint vectors
    bint symmetric                                     # the score takes keys as rows, too
    # a dense matrix of logits instead of an output
    real *logits                                       # (batch, heads, lq, lk), contiguous, or NULL
    # the largest logits of each row instead of an output; the lse over all of them where ``lse`` is given
    Py_ssize_t top_k                                   # 0: an output is wanted
    Py_ssize_t *chosen                                 # (batch, heads, lq, top_k), contiguous: keys, −1 where there are fewer
    real *chosen_logits
    bint ordered                                       # best first
    # blocking: a function of the shape alone
    Py_ssize_t block_rows, block_keys, row_blocks, splits, split_keys
    real *partial                                      # splits × blocks of unnormalised states
    # Ctrl-C inside of a long task: what was raised, a list that the caller owns, and word to the other threads that they may stop
    void *raised
    int *stop


cdef struct Scratch:
    real *q            # panels of queries, d × NR each
    real *o            # panels of outputs, dv × NR each
    real *state        # per panel: ref, total, alpha (at the end the normalising factor), top (at the end 0 or NaN: finite or not), NR each
    real *s            # planes × block_keys × NR
    real *t            # a tile as the score's contract has it, planes × NR × block_keys
    real *wide         # the same for a block of rows, planes × block_rows × block_keys: owned by the Python side
    real *rows
    real *cols
    real *qv           # raw queries of a score with vectors; queries of few.pxd, scaled
    real *kv           # raw keys of a score with vectors; the last columns of V in few.pxd, whose other buffers are t, rows and cols
    const real *kv_of  # the first of those keys, and how many they are: the panels of a block share them. NULL: of several parts
    Py_ssize_t kv_n
    real *saved        # a block's state, while repair merges splits
    urint *interval    # per panel: first and last allowed key, NR each
    urint *drop        # per panel: the row's hash
    urint *words       # mask bits of one tile's parts
    int *bad           # rows to look at again
    real *best         # per row of the block: twice top_k logits that are among its largest so far, their keys and how many they are
    int *best_key
    int *best_count
    real *best_least   # what a logit has to beat, NR a panel


cdef struct Part:
    # keys [start, start + n) of one segment
    Py_ssize_t start, n
    const unsigned int *words    # the plan's bits, of row 0 of the panel, or NULL
    Py_ssize_t words_per_row, first_bit
    const urint *bits            # those of the panel, a word a lane, 32 keys a word, with the mask's; or NULL: every row sees all of it


cdef inline Py_ssize_t row_low(const Problem *p, Py_ssize_t b, Py_ssize_t i) noexcept nogil:
    """First key that row i may see, by position."""
    cdef Py_ssize_t low = 0
    if p.left >= 0:
        low = i + p.position[b] - p.left
        low = low if low < p.lk else p.lk
    return low if low > 0 else 0


cdef inline Py_ssize_t row_high(const Problem *p, Py_ssize_t b, Py_ssize_t i) noexcept nogil:
    """One past the last key that row i may see, by position and key length."""
    cdef Py_ssize_t high = p.key_length[b], limit
    if p.causal:
        limit = i + p.position[b] + 1
        high = limit if limit < high else high
    if p.right >= 0:
        limit = i + p.position[b] + p.right + 1
        high = limit if limit < high else high
    return high if high > 0 else 0
