# cython: cdivision=True
"""What a call hands to the edge kernels, as problem.pxd does to the tile kernels, and a thread's scratch."""
from .problem cimport MAX_PLANES, MAX_TERMS, score_forward
from .vector cimport real

cdef enum:
    EDGE_TILE = 256              # edges of a tile: K and V of it stay in the second-level cache
    EDGE_PADDING = 64            # of a tile's numbers: loops run in whole groups of vectors
    EDGE_COLUMNS = 64            # columns that are summed at once in wide arithmetic
    EDGE_HEADS = 64              # heads whose values are gathered together
    EDGE_PATIENCE = 50_000_000   # multiply-adds in wide arithmetic between looks for Ctrl-C: a tenth of a second, about


cdef struct Edges:
    Py_ssize_t batch, heads, group, lq, lk, d, dv      # as in problem.pxd; widths of the keys and values alone
    Py_ssize_t key_attr, value_attr                    # columns that the attributes of an edge append to its key and value: 0, or all there are
    Py_ssize_t edges                                   # indices in all
    # which keys: row r of set s attends to indices[indptr[s·(lq + 1) + r] : indptr[s·(lq + 1) + r + 1]]
    const Py_ssize_t *indptr
    const int *indices
    Py_ssize_t set_batch, set_head                     # the set of (b, h) is b·set_batch + h·set_head
    const real *q
    const real *k
    const real *v
    real *out                                          # NULL: weights and lse only
    real *lse                                          # (batch, heads, lq), contiguous
    Py_ssize_t q_head, q_row, k_head, k_row, v_head, v_row, out_head, out_row
    bint values_by_edge                                # row e of v is of edge e, not of a key
    const Py_ssize_t *q_at                             # element offsets of the batch entries
    const Py_ssize_t *k_at
    const Py_ssize_t *v_at
    const Py_ssize_t *out_at
    const real *attr                                   # (edges, key_attr or value_attr)
    Py_ssize_t attr_row
    const real *scale                                  # (heads,), folded into q
    # where logits come from, if they aren't dots: an array, or a compiled score
    const real *logits                                 # element e at logits_at[b] + h·logits_head + e·logits_edge
    Py_ssize_t logits_head, logits_edge
    const Py_ssize_t *logits_at
    score_forward forward
    void *forward_data
    Py_ssize_t planes
    Py_ssize_t plane_start[MAX_PLANES + 1]
    int n_rows, n_cols
    const real *rows[MAX_TERMS]                        # (batch, heads, lq)
    const real *cols[MAX_TERMS]                        # by key or by edge
    Py_ssize_t cols_batch[MAX_TERMS]
    Py_ssize_t cols_heads[MAX_TERMS]
    Py_ssize_t cols_head[MAX_TERMS]
    Py_ssize_t cols_step[MAX_TERMS]
    bint cols_by_edge[MAX_TERMS]
    const real *params
    Py_ssize_t n_params
    bint vectors
    # what happens to a logit
    real softcap                                       # 0: none
    const real *bias
    Py_ssize_t bias_head, bias_edge
    const Py_ssize_t *bias_at
    const real *sinks
    bint dropout
    unsigned int drop_below
    real keep_scale
    unsigned long long seed
    real *weights                                      # or NULL; addressed like the logits
    Py_ssize_t weights_head, weights_edge
    const Py_ssize_t *weights_at
    # how the work is cut: a function of the shape alone
    bint far                                           # K and V are larger than a second-level cache: fetch ahead
    Py_ssize_t span, items                             # heads of an item, and how many items there are
    # scores that the engine itself makes, of all heads of a row at once
    const real *by_key                                 # LeakyReLU(row term + column terms): those of the keys, (batch, lk, span); or NULL
    bint hidden                                        # a · LeakyReLU(q + k)
    real slope
    bint together                                      # the values of an item's heads lie beside each other, in whole vectors
    const Py_ssize_t *item_first                       # (items + 1,): the first task of each
    real *partial
    void *raised                                       # Ctrl-C inside of a long task, as in problem.pxd
    int *stop


cdef struct EdgeScratch:
    real *q            # the row's query, scaled
    real *o            # unnormalised output
    real *s            # logits, then weights of a tile; MAX_PLANES planes where a score wants them
    real *all          # weights of a tile of all heads of an item
    real *cols         # column terms of a tile
    real *rows
    real *qv           # raw query and keys of a score with vectors
    real *kv
    int *keys          # of a tile that has been thinned out
    int *places        # 0, 1, …: rows of the attributes, counted from the tile's first


cdef struct RowState:
    real ref
    real total


cdef inline Py_ssize_t key_width(const Edges *p) noexcept nogil:
    return p.d + p.key_attr


cdef inline Py_ssize_t value_width(const Edges *p) noexcept nogil:
    return p.dv + p.value_attr


cdef inline const Py_ssize_t *rows_of_head(const Edges *p, Py_ssize_t b, Py_ssize_t h) noexcept nogil:
    return p.indptr + (b * p.set_batch + h * p.set_head) * (p.lq + 1)
