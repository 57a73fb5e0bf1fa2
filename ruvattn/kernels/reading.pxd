# cython: cdivision=True
"""From the arguments of a call, arrays and parts that have been checked, to a Problem: what every pass over tiles does before it runs."""
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer

from .arrays cimport leading, offsets, reals, step
from .problem cimport Problem, score_forward
from .vector cimport real

cdef enum:
    TABLES = 8  # of offsets, each an entry a batch entry


cdef inline const Py_ssize_t *table(cnp.ndarray x) noexcept:
    return <const Py_ssize_t *>cnp.PyArray_DATA(x) if x is not None else NULL


cdef inline void set_shapes(Problem *p, cnp.ndarray q, cnp.ndarray k, cnp.ndarray v, Py_ssize_t *tables) noexcept:
    cdef int nd = q.ndim
    p.batch = leading(q, 3)
    p.heads = q.shape[nd - 3]
    p.lq = q.shape[nd - 2]
    p.d = q.shape[nd - 1]
    p.lk = k.shape[nd - 2]
    p.dv = v.shape[nd - 1]
    p.group = p.heads // k.shape[nd - 3] if k.shape[nd - 3] > 0 else 1
    p.q = <const real *>cnp.PyArray_DATA(q)
    p.k = <const real *>cnp.PyArray_DATA(k)
    p.v = <const real *>cnp.PyArray_DATA(v)
    p.q_head = step(q, nd - 3)
    p.q_row = step(q, nd - 2)
    p.k_head = step(k, nd - 3)
    p.k_row = step(k, nd - 2)
    p.v_head = step(v, nd - 3)
    p.v_row = step(v, nd - 2)
    p.q_at = tables
    p.k_at = tables + p.batch
    p.v_at = tables + 2 * p.batch
    p.out_at = tables + 3 * p.batch
    p.position = tables + 4 * p.batch
    p.key_length = tables + 5 * p.batch
    p.mask_at = tables + 6 * p.batch
    p.bias_at = tables + 7 * p.batch
    offsets(q, 3, sizeof(real), tables)
    offsets(k, 3, sizeof(real), tables + p.batch)
    offsets(v, 3, sizeof(real), tables + 2 * p.batch)
    p.planes = 1
    p.plane_start[0] = 0
    p.plane_start[1] = p.d
    p.left = -1
    p.right = -1
    p.first = 0
    p.rows_here = p.lq


cdef inline int set_options(Problem *p, Py_ssize_t *tables, cnp.ndarray scale, bint causal, Py_ssize_t left, Py_ssize_t right, cnp.ndarray position,
                            cnp.ndarray key_length, cnp.ndarray mask, cnp.ndarray bias, double softcap, cnp.ndarray sinks, double dropout,
                            unsigned long long seed, object plan, object score) except -1:
    """Everything beside the shapes; as `attend` in tile.pyx describes it."""
    cdef Py_ssize_t batch = p.batch, i
    cdef cnp.ndarray array
    cdef object capsule
    p.scale = reals(scale)
    p.causal = causal
    p.left = left
    p.right = right
    for i in range(batch):
        tables[4 * batch + i] = table(position)[i] if position is not None else 0
        tables[5 * batch + i] = table(key_length)[i] if key_length is not None else p.lk
    if mask is not None:
        p.mask = <const unsigned char *>cnp.PyArray_DATA(mask)
        p.mask_head = mask.strides[mask.ndim - 3]
        p.mask_row = mask.strides[mask.ndim - 2]
        p.mask_key = mask.strides[mask.ndim - 1]
        offsets(mask, 3, 1, tables + 6 * batch)
    if bias is not None:
        p.bias = reals(bias)
        p.bias_head = step(bias, bias.ndim - 3)
        p.bias_row = step(bias, bias.ndim - 2)
        p.bias_key = step(bias, bias.ndim - 1)
        offsets(bias, 3, sizeof(real), tables + 7 * batch)
    p.softcap = <real>softcap
    p.sinks = reals(sinks)
    if dropout > 0:
        p.dropout = True
        p.drop_below = <unsigned int>(dropout * 4294967296.0)
        p.keep_scale = <real>(1 / (1 - dropout))
        p.seed = seed
    if plan is not None:
        p.first, p.rows_here = plan.first, plan.rows
        p.plan_rows, p.plan_batch, p.plan_head = plan.block_rows, plan.batch_stride, plan.head_stride
        p.plan_ptr = table(plan.ptr)
        p.plan_start = table(plan.start)
        p.plan_stop = table(plan.stop)
        p.plan_bit = table(plan.bit)
        p.plan_words_at = table(plan.words_at)
        p.plan_row_words = table(plan.row_words)
        p.plan_words = <const unsigned int *>cnp.PyArray_DATA(plan.words)
    if score is not None:
        p.planes = len(score.plane_starts) - 1
        for i in range(p.planes + 1):
            p.plane_start[i] = score.plane_starts[i]
        p.n_rows = <int>len(score.rows)
        p.n_cols = <int>len(score.cols)
        for i in range(p.n_rows):
            p.rows[i] = reals(score.rows[i])
        for i in range(p.n_cols):
            array = score.cols[i]
            p.cols[i] = reals(array)
            p.cols_heads[i] = array.shape[array.ndim - 2]
        p.params = reals(score.params)
        p.n_params = score.params.shape[1]
        p.vectors = score.vectors
        p.symmetric = score.symmetric
        if score.forward is not None:
            capsule = tuple.__getitem__(score.forward, 0)
            p.forward = <score_forward>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
            p.forward_data = PyCapsule_GetContext(capsule)
        else:
            p.python = <void *>score
    return 0
