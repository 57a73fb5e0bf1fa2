"""Segments: for each row of an adjacency the sum, the mean or the largest of the rows that it lists, as message passing needs them.

    x (N, W)   gather by adjacency.indices   ──► combine per row   ──► (rows, W)
    dx         the same by adjacency.transpose, or to the winners  ◄── dout            segment_…_backward

Nothing of the size (E, W) is made: the rows are read where they are (_segments.pyx). Cost follows the number of edges, whatever the degrees; results
are the same to the bit for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.adjacency import Adjacency
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.isa import KernelsByDtype
from ruvattn.running import empty, narrowed, native
from ruvattn.threads import resolve_threads
from ruvattn.validation import COMPUTE_DTYPES, as_array, as_numbers, check_bool, check_out, clean

__all__ = ["segment_max", "segment_max_backward", "segment_mean", "segment_mean_backward", "segment_sum", "segment_sum_backward"]

_kernels = KernelsByDtype("ruvattn_graph._segments")


def segment_sum(x: Any, adjacency: Adjacency, *, edge_weight: Any = None, out: np.ndarray | None = None, threads: int | None = None) -> np.ndarray:
    """Sum the rows that each row of an adjacency lists: ``out[i] = Σ_e edge_weight[e] · x[indices[e]]``.

    Parameters
    ----------
    x : array, (..., N, W)
        What is gathered: a row for each key of the adjacency. float32, float64, float16 or bfloat16 (ml_dtypes); the last two compute in float32.
    adjacency : ruvattn.Adjacency
        Which rows each row of the result is made of.
    edge_weight : array, (E,), optional
        What each edge is multiplied by, in the order of the adjacency; 1 when not given.
    out : ndarray, optional
        Where to write the result; may overlap no input.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default.

    Returns
    -------
    ndarray, (..., rows, W)
        In the dtype of x. A row without edges is 0. A sum beyond the dtype is its largest number; NaN and infinities reach the rows that list them.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense.
    UnsupportedError
        If the dtype is none of the four.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import segment_sum
    >>> adjacency = ruvattn.Adjacency([0, 2, 2, 3], [0, 1, 1], num_keys=2)
    >>> segment_sum(np.array([[1.0, 2.0], [10.0, 20.0]]), adjacency)
    array([[11., 22.],
           [ 0.,  0.],
           [10., 20.]])
    """
    return _combined("sum", x, adjacency, edge_weight, out, threads)[0]


def segment_mean(x: Any, adjacency: Adjacency, *, edge_weight: Any = None, out: np.ndarray | None = None, threads: int | None = None) -> np.ndarray:
    """Average the rows that each row of an adjacency lists: ``out[i] = Σ_e w_e · x[indices[e]] / Σ_e w_e``.

    Parameters
    ----------
    x : array, (..., N, W)
        As for `segment_sum`.
    adjacency : ruvattn.Adjacency
        Which rows each row of the result is made of.
    edge_weight : array, (E,), optional
        The weight w of each edge, in the order of the adjacency; 1 when not given.
    out : ndarray, optional
        Where to write the result; may overlap no input.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default.

    Returns
    -------
    ndarray, (..., rows, W)
        In the dtype of x. A row without edges, or whose weights add up to 0, is 0.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense.
    UnsupportedError
        If the dtype is none of the four.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import segment_mean
    >>> adjacency = ruvattn.Adjacency([0, 2, 2, 3], [0, 1, 1], num_keys=2)
    >>> segment_mean(np.array([[1.0, 2.0], [10.0, 20.0]]), adjacency, edge_weight=[2.0, 1.0, 5.0])
    array([[ 4.,  8.],
           [ 0.,  0.],
           [10., 20.]])
    """
    return _combined("mean", x, adjacency, edge_weight, out, threads)[0]


def segment_max(
    x: Any, adjacency: Adjacency, *, return_arg: bool = False, out: np.ndarray | None = None, threads: int | None = None
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Take the largest, column by column, of the rows that each row of an adjacency lists: ``out[i] = max_e x[indices[e]]``.

    Parameters
    ----------
    x : array, (..., N, W)
        As for `segment_sum`.
    adjacency : ruvattn.Adjacency
        Which rows each row of the result is made of.
    return_arg : bool, default False
        Whether to return of which edge each number is.
    out : ndarray, optional
        Where to write the result; may overlap no input.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default.

    Returns
    -------
    out : ndarray, (..., rows, W)
        In the dtype of x. A row without edges is 0. NaN is larger than any number.
    arg : ndarray of int64, (..., rows, W)
        Only with ``return_arg``: the edge, in the order of the adjacency, and the first of those that are equal; −1 for a row without edges.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense.
    UnsupportedError
        If the dtype is none of the four.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import segment_max
    >>> adjacency = ruvattn.Adjacency([0, 2, 2, 3], [0, 1, 1], num_keys=2)
    >>> segment_max(np.array([[1.0, 20.0], [10.0, 2.0]]), adjacency, return_arg=True)
    (array([[10., 20.],
           [ 0.,  0.],
           [10.,  2.]]), array([[ 1,  0],
           [-1, -1],
           [ 2,  2]]))
    """
    found, arg = _combined("max", x, adjacency, None, out, threads, check_bool(return_arg, "return_arg"))
    return found if arg is None else (found, arg)


# --- backwards --------------------------------------------------------------------------------------------------------------------


def segment_sum_backward(dout: Any, adjacency: Adjacency, *, edge_weight: Any = None, threads: int | None = None) -> np.ndarray:
    """Return the gradient of x, given that of `segment_sum`: ``dx[j] = Σ edge_weight[e] · dout[row of e]`` over the edges e that list row j.

    Parameters
    ----------
    dout : array, (..., rows, W)
        The gradient of the result. float32, float64, float16 or bfloat16 (ml_dtypes).
    adjacency : ruvattn.Adjacency
        As for `segment_sum`.
    edge_weight : array, (E,), optional
        As for `segment_sum`.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default.

    Returns
    -------
    ndarray, (..., N, W)
        In the dtype of dout.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense.
    UnsupportedError
        If the dtype is none of the four.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import segment_sum_backward
    >>> adjacency = ruvattn.Adjacency([0, 2, 2, 3], [0, 1, 1], num_keys=2)
    >>> segment_sum_backward(np.array([[1.0], [10.0], [100.0]]), adjacency)
    array([[  1.],
           [101.]])
    """
    array = _read_gradient(dout, adjacency)
    weight = None if edge_weight is None else _read_weight(edge_weight, adjacency, COMPUTE_DTYPES[array.dtype.name])
    return _turned_sum(array, adjacency, weight, threads)


def segment_mean_backward(dout: Any, adjacency: Adjacency, *, edge_weight: Any = None, threads: int | None = None) -> np.ndarray:
    """Return the gradient of x, given that of `segment_mean`: as that of a sum whose weights are shares, ``w_e / Σ w`` over the edges of a row.

    Parameters
    ----------
    dout : array, (..., rows, W)
        The gradient of the result.
    adjacency : ruvattn.Adjacency
        As for `segment_mean`.
    edge_weight : array, (E,), optional
        As for `segment_mean`.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default.

    Returns
    -------
    ndarray, (..., N, W)
        In the dtype of dout. Rows whose weights add up to 0 have no gradient.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense.
    UnsupportedError
        If the dtype is none of the four.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import segment_mean_backward
    >>> adjacency = ruvattn.Adjacency([0, 2, 2, 3], [0, 1, 1], num_keys=2)
    >>> segment_mean_backward(np.array([[1.0], [10.0], [100.0]]), adjacency)
    array([[  0.5],
           [100.5]])
    """
    array = _read_gradient(dout, adjacency)
    compute = COMPUTE_DTYPES[array.dtype.name]
    weight = None if edge_weight is None else _read_weight(edge_weight, adjacency, compute)
    return _turned_sum(array, adjacency, shares_of(adjacency, weight, compute), threads)


def segment_max_backward(dout: Any, adjacency: Adjacency, arg: Any, *, threads: int | None = None) -> np.ndarray:
    """Return the gradient of x, given that of `segment_max`: each number goes to the row that it was found in, the first of those that are equal.

    Parameters
    ----------
    dout : array, (..., rows, W)
        The gradient of the result.
    adjacency : ruvattn.Adjacency
        As for `segment_max`.
    arg : array of int, (..., rows, W)
        Of which edge each number is, as `segment_max` returns it with ``return_arg``; −1 for none.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default.

    Returns
    -------
    ndarray, (..., N, W)
        In the dtype of dout.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an edge is out of range, or an argument has a value that makes no sense.
    UnsupportedError
        If the dtype is none of the four.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import segment_max, segment_max_backward
    >>> adjacency = ruvattn.Adjacency([0, 2, 2, 3], [0, 1, 1], num_keys=2)
    >>> _, arg = segment_max(np.array([[3.0], [2.0]]), adjacency, return_arg=True)
    >>> segment_max_backward(np.array([[1.0], [10.0], [100.0]]), adjacency, arg)
    array([[  1.],
           [100.]])
    """
    array = _read_gradient(dout, adjacency)
    edges = as_numbers(arg, "arg")
    if edges.dtype.kind not in "iu":
        raise InvalidInputError(f"arg must be numbers of edges, as segment_max returns them with return_arg, got dtype {edges.dtype}")
    if edges.shape != array.shape:
        raise DimensionMismatchError(f"arg must have the shape of dout, {array.shape}, got {edges.shape}")
    if edges.size and not (-1 <= int(edges.min()) and int(edges.max()) < adjacency.num_edges):
        raise InvalidInputError(f"arg must be from -1 to {adjacency.num_edges - 1}, got numbers from {edges.min()} to {edges.max()}")
    compute, team = COMPUTE_DTYPES[array.dtype.name], resolve_threads(threads)
    found = np.zeros((*array.shape[:-2], adjacency.num_keys, array.shape[-1]), compute)
    if array.size:
        _kernels[compute].give_back(clean(array, compute), np.ascontiguousarray(edges, np.int64), adjacency.indices, found, team)
    return narrowed(found, native(array.dtype))


def shares_of(adjacency: Adjacency, weight: np.ndarray | None, dtype: np.dtype[Any]) -> np.ndarray:
    """Return by what each edge of a mean is multiplied.

    Parameters
    ----------
    adjacency : Adjacency
        The edges.
    weight : ndarray, (E,), or None
        Their weights; None for ones.
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray, (E,)
        The weight divided by the sum of those in its row; 0 where that is 0.
    """
    counts = np.diff(adjacency.indptr)
    if weight is None:
        return np.repeat(1 / np.maximum(counts, 1), counts).astype(dtype)
    rows, wide = adjacency.edge_rows(), weight.astype(np.longdouble)  # of which the sum can't be too large
    totals = np.zeros(adjacency.num_rows, wide.dtype)
    some = counts > 0
    if wide.size:
        totals[some] = np.add.reduceat(wide, adjacency.indptr[:-1][some])
    return np.divide(wide, totals[rows], out=np.zeros_like(wide), where=totals[rows] != 0).astype(dtype)


# --- what they share --------------------------------------------------------------------------------------------------------------


def _combined(
    how: str, x: Any, adjacency: Any, edge_weight: Any, out: Any, threads: Any, with_arg: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    array = as_array(x, "x")
    _check_adjacency(adjacency)
    if array.ndim < 2:
        raise DimensionMismatchError(f"x must have shape (..., N, W), got {array.shape}: one number a row is x[:, None]")
    if array.shape[-2] != adjacency.num_keys:
        raise DimensionMismatchError(f"x must have a row for each of the {adjacency.num_keys} keys of the adjacency, got shape {array.shape}")
    team = resolve_threads(threads)
    compute, dtype = COMPUTE_DTYPES[array.dtype.name], native(array.dtype)
    rows = clean(array, compute)
    weight = None if edge_weight is None else _read_weight(edge_weight, adjacency, compute)
    shape = (*array.shape[:-2], adjacency.num_rows, array.shape[-1])
    target = None
    if out is not None:
        target = check_out(out, shape, dtype, {"x": array, "edge_weight": edge_weight})
    direct = target is not None and clean(target, compute) is target
    found = target if direct else empty(shape, compute)
    assert found is not None
    arg = empty(shape, np.dtype(np.int64)) if with_arg else None
    if found.size:
        _kernels[compute].combine(how, rows, adjacency.indptr, adjacency.indices, weight, found, arg, team)
    if direct:
        return found, arg
    found = narrowed(found, dtype)
    if target is None:
        return found, arg
    target[...] = found
    return target, arg


def _read_weight(edge_weight: Any, adjacency: Adjacency, compute: np.dtype[Any]) -> np.ndarray:
    weight = as_numbers(edge_weight, "edge_weight")
    if weight.dtype.kind not in "fiu" and weight.dtype.name != "bfloat16":
        raise InvalidInputError(f"edge_weight must be numbers, got dtype {weight.dtype}")
    if weight.shape != (adjacency.num_edges,):
        raise DimensionMismatchError(f"edge_weight must have shape (E,), one number for each of the {adjacency.num_edges} edges, got {weight.shape}")
    return np.ascontiguousarray(weight, compute)


def _check_adjacency(adjacency: Any) -> None:
    if not isinstance(adjacency, Adjacency):
        raise InvalidInputError(
            f"adjacency must be a ruvattn.Adjacency, got {type(adjacency).__name__}: a Graph has one as .adjacency, Adjacency.from_edges makes one"
        )


def _read_gradient(dout: Any, adjacency: Any) -> np.ndarray:
    array = as_array(dout, "dout")
    _check_adjacency(adjacency)
    if array.ndim < 2:
        raise DimensionMismatchError(f"dout must have shape (..., rows, W), got {array.shape}")
    if array.shape[-2] != adjacency.num_rows:
        raise DimensionMismatchError(f"dout must have a row for each of the {adjacency.num_rows} rows of the adjacency, got shape {array.shape}")
    return array


def _turned_sum(array: np.ndarray, adjacency: Adjacency, weight: np.ndarray | None, threads: Any) -> np.ndarray:
    """Return the sums of rows by the transpose; weights are those of the adjacency itself."""
    turned = None if weight is None else weight.take(adjacency.transpose_order)
    return _combined("sum", array, adjacency.transpose, turned, None, threads)[0]
