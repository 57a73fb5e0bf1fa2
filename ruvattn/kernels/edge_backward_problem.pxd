# cython: cdivision=True
"""What a call hands to the backward kernels of the edge engine beside the problem of the forward pass, and a thread's scratch.

Between the two passes stands the store: of each edge and head its weight, after dropout, and what its logit gets. Keys find both by the number of
the edge, so that those of all heads of an item lie beside each other: one line of the cache an edge.

    store[((b · items of an entry + h // span) · edges + e) · slots + s][h % span]       s = 0: the weight;  s ≥ 1: what keys need
"""
from .edge_problem cimport Edges
from .problem cimport MAX_PLANES, MAX_TERMS
from .vector cimport real

ctypedef void (*score_vjp)(real *dots, real *dlogits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t ld, real *rows, real *cols, real *params,
                           real *q, real *k, Py_ssize_t d, real *drows, real *dcols, real *dparams, real *dq, real *dk,
                           void *user_data) noexcept nogil

cdef enum:
    FURTHEST = 80              # a logit that is so far above its row's lse is none: overflow, or another call's lse

cdef enum LogitKind:
    GIVEN_LOGITS               # an array; what comes from further below is the business of the caller
    DOT_PRODUCTS
    LEAKY_SUM                  # LeakyReLU(row term + column terms), the first of the keys, the others of edges
    LEAKY_HIDDEN               # a · LeakyReLU(q + k)
    COMPILED_SCORE             # by its forward and its vjp; without a vjp as GIVEN_LOGITS


cdef struct Gradients:
    Edges forward              # its out, lse and weights are not written; scale is folded into q
    LogitKind kind
    score_vjp vjp
    void *vjp_data
    bint with_params           # of parameters
    # what comes from above
    const real *dout           # NULL: the weights alone have a gradient
    const real *made           # the output
    Py_ssize_t dout_head, dout_row, made_head, made_row
    const Py_ssize_t *dout_at
    const Py_ssize_t *made_at
    const real *lse            # (batch, heads, lq)
    const real *shift          # added to dout · out, (batch, heads, lq), or NULL
    const real *dweights       # (batch, heads, edges) by strides, or NULL
    Py_ssize_t dweights_head, dweights_edge
    const Py_ssize_t *dweights_at
    # the store
    real *store
    Py_ssize_t slots
    Py_ssize_t span            # heads of an item of rows
    # rows
    Py_ssize_t query_width     # columns of dq that are made here: those of the queries, or 0
    real *dq
    bint unscaled              # dq before the scale of dot products
    Py_ssize_t dq_batch, dq_head, dq_row
    real *drows[MAX_TERMS]     # (batch, heads, lq)
    real *dbias                # (batch, heads, edges), or NULL
    real *dterms[MAX_TERMS]    # of column term r by edge, (batch, heads, edges), or NULL
    real *dattr                # (edges, key_attr or value_attr): of scores with vectors added to by rows, else by a pass of its own
    double *dparams            # (shares, heads, n_params)
    unsigned char *bad_rows    # (batch, heads, lq): what isn't finite
    # keys
    const Py_ssize_t *turned   # the transpose: of key j the rows turned_rows[turned[j] : turned[j + 1]]
    const int *turned_rows
    const int *turned_order    # and the numbers of these edges
    Py_ssize_t key_columns     # columns of dk that are made here: those of the keys, or 0
    Py_ssize_t value_columns
    bint by_vjp                # keys of a score with vectors: its vjp once more
    Py_ssize_t stored_planes   # planes of dots whose gradients are slots 1, 2, …
    Py_ssize_t stored_columns  # column terms of keys whose gradients are the slots after these
    int column_of[MAX_TERMS]   # which terms
    real *dk
    real *dv
    Py_ssize_t dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row
    real *dcols[MAX_TERMS]     # of column term r by key, (batch, heads, lk), or NULL
    unsigned char *bad_keys    # (batch, heads of keys, lk)
    void *raised
    int *stop


cdef struct GradientScratch:
    real *q            # the row's query, scaled
    real *s            # logits of a tile; as many planes as the score has
    real *dots         # the same before the score's forward
    real *x            # sums before the kink
    real *cap          # slopes of the cap
    real *dp           # gradients of the weights
    real *keep         # 0, or what dropout multiplies by
    real *weight       # weights after dropout
    real *g            # gradients of the logits
    real *rows
    real *cols
    real *drows
    real *dcols
    real *qv
    real *kv
    real *dqv
    real *dkv
    real *slots        # of a tile of a key's edges
    real *o            # sums of all heads over one tile
    real *all          # gradients of logits of a tile of all heads of an item
    real *sums         # of one row or key
    real *params       # (span, n_params), and as many that nobody reads
    int *keys          # of a tile that has been thinned out
    int *kept          # and their places
    int *places        # 0, 1, …
    bint careful       # keys: leave out edges that have no part in anything


cdef inline real *stored(const Gradients *p, Py_ssize_t b, Py_ssize_t h) noexcept nogil:
    """Where the store begins for one head; edge e is e · slots · span further on, slot s is s · span."""
    return p.store + ((b * (p.forward.heads // p.span) + h // p.span) * p.forward.edges) * p.slots * p.span + h % p.span
