"""Layer normalisation as one pass over memory: the mean and the variance of each row, and what a layer does with them.

    x ──► + residual ──► − mean ──► ÷ √(variance + eps) ──► · weight ──► + bias ──► out          a row at a time, all of it in the first-level cache
    │                      │              │                   │           │
    dx ◄───────────────────┴──────────────┴───────────────────┴───────────┴─────── dout          dweight and dbias: sums over rows

    layer_norm, layer_norm_backward ─► as_array, _read_… ─► kernels/norm.pyx
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from .isa import KernelsByDtype
from .running import empty, narrowed, native
from .threads import resolve_threads
from .validation import COMPUTE_DTYPES, NATIVE_DTYPES, as_array, as_numbers, check_bool, check_out, clean

__all__ = ["layer_norm", "layer_norm_backward"]

_kernels = KernelsByDtype("ruvattn.kernels.norm")


def layer_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    eps: float = 1e-5,
    residual: Any = None,
    return_stats: bool = False,
    out: np.ndarray | None = None,
    threads: int | None = None,
) -> Any:
    """Layer normalisation over the last axis.

    ``out = (x − mean) / √(variance + eps) · weight + bias``, mean and variance (divided by D, not D − 1) of each row by itself (Ba, Kiros and
    Hinton, 2016).

    Parameters
    ----------
    x : array, (..., D)
        What is normalised, D at least 1. float32, float64, float16 or bfloat16 (ml_dtypes); the last two compute in float32. Any strides; a
        contiguous last axis costs no copy.
    weight : array, (D,), optional
        Factor of each column; 1 when not given. In the dtype of x or the compute dtype.
    bias : array, (D,), optional
        Added to each column; 0 when not given. In the dtype of x or the compute dtype.
    eps : float, default 1e-5
        Added to the variance: at least 0. With 0 a row of equal numbers gives the bias, as it does with any other.
    residual : array, (..., D), optional
        Added to x before all else, without an array of the sum. In the dtype of x or the compute dtype.
    return_stats : bool, default False
        Whether to return mean and reciprocal standard deviation too, as a backward pass needs them.
    out : ndarray, optional
        Where to write the result. May be x or residual itself, which then is overwritten; it may not overlap an input in any other way.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default. Results are the same to the bit for any number.

    Returns
    -------
    out : ndarray, (..., D)
        In the dtype of x. Finite where its row, weight and bias are: what is beyond the largest number of the dtype becomes that number. A row
        that holds NaN or infinity is NaN throughout; no other row is.
    mean : ndarray, (...)
        Only with ``return_stats``: of each row of x + residual, compute dtype.
    rstd : ndarray, (...)
        Only with ``return_stats``: 1/√(variance + eps), compute dtype; 0 where both are 0, and at most the largest number of the dtype.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If x has no columns, eps is negative or not finite, or another argument has a value that makes no sense.
    UnsupportedError
        If a dtype is none of the four, or isn't one that goes with x.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    >>> ruvattn.layer_norm(x, eps=0).round(3)
    array([[-1.342, -0.447,  0.447,  1.342],
           [ 0.   ,  0.   ,  0.   ,  0.   ]])
    >>> out, mean, rstd = ruvattn.layer_norm(x, np.full(4, 2.0), np.ones(4), return_stats=True)
    >>> mean
    array([2.5, 5. ])
    """
    array, width, dtype, compute = _read_x(x)
    shape = array.shape
    scales = _read_vector(weight, "weight", width, dtype, compute)
    shifts = _read_vector(bias, "bias", width, dtype, compute)
    number = _read_eps(eps)
    other = None if residual is None else _read_beside(residual, "residual", shape, dtype, compute)
    return_stats = check_bool(return_stats, "return_stats")
    team = resolve_threads(threads)
    direct = False
    if out is not None:
        # a buffer's memory is its owner's all the same
        given = {"x": (x, array), "residual": (residual, other), "weight": (weight, scales), "bias": (bias, shifts)}
        inputs = {name: one if isinstance(one, np.ndarray) else used for name, (one, used) in given.items()}
        check_out(out, shape, dtype, {name: one for name, one in inputs.items() if not (name in ("x", "residual") and _is_same(one, out))})
        direct = _is_clean(out, compute)

    result = out if out is not None and direct else empty(shape, compute)
    mean = rstd = None
    if return_stats:
        mean, rstd = empty(shape[:-1], compute), empty(shape[:-1], compute)
    source, beside, target = _rows(clean(array, compute), None if other is None else clean(other, compute), result)
    _kernels[compute].normalise(source, beside, scales, shifts, target, mean, rstd, eps=number, threads=team)
    if not direct:
        result = narrowed(result, dtype)
        if out is not None:
            out[...] = result
            result = out
    return (result, mean, rstd) if return_stats else result


def layer_norm_backward(
    dout: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any = None,
    *,
    residual: Any = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Gradients of `layer_norm`.

    ``dx = rstd · (g − mean(g) − x̂ · mean(g · x̂))`` with ``x̂ = (x − mean) · rstd`` and ``g = dout · weight``, the means over the row; dweight is
    the sum of ``dout · x̂`` over all rows, dbias that of ``dout`` (Ba, Kiros and Hinton, 2016).

    Parameters
    ----------
    dout : array, (..., D)
        The gradient of the output. In the dtype of x or the compute dtype; any strides.
    x : array, (..., D)
        As `layer_norm` was given it.
    mean, rstd : array, (...)
        What `layer_norm` returned with ``return_stats=True``, in the compute dtype. A row whose rstd is 0 gets zeros.
    weight : array, (D,), optional
        As `layer_norm` was given it.
    residual : array, (..., D), optional
        As `layer_norm` was given it. Its gradient is dx, too: it is added to x before all else.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default. Results are the same to the bit for any number.

    Returns
    -------
    dx : ndarray, (..., D)
        The gradient of x, and of residual; in the dtype of x. Finite where its row of dout, x and residual and the weight are: what is beyond the
        largest number of the dtype becomes that number. A row that holds NaN or infinity is NaN throughout; no other row is.
    dweight : ndarray, (D,), or None
        The gradient of weight, in the compute dtype; None where there is none.
    dbias : ndarray, (D,), or None
        The gradient of the bias, whether there was one or not, in the compute dtype; None where there is no weight, and then the sum of dout over
        all rows.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If x has no columns, or another argument has a value that makes no sense.
    UnsupportedError
        If a dtype is none of the four, or isn't one that goes with x.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x, weight = np.array([[1.0, 2.0, 4.0]]), np.array([1.0, 2.0, 1.0])
    >>> out, mean, rstd = ruvattn.layer_norm(x, weight, return_stats=True)
    >>> dx, dweight, dbias = ruvattn.layer_norm_backward(np.array([[1.0, 0.5, 0.0]]), x, mean, rstd, weight)
    >>> dx.round(3)
    array([[-0.115,  0.172, -0.057]])
    >>> dweight.round(3)
    array([-1.069, -0.134,  0.   ])
    >>> dbias
    array([1. , 0.5, 0. ])
    """
    array, width, dtype, compute = _read_x(x)
    shape = array.shape
    upstream = _read_beside(dout, "dout", shape, dtype, compute)
    means, rstds = (_read_stats(value, name, shape[:-1], compute) for name, value in (("mean", mean), ("rstd", rstd)))
    scales = _read_vector(weight, "weight", width, dtype, compute)
    other = None if residual is None else _read_beside(residual, "residual", shape, dtype, compute)
    team = resolve_threads(threads)

    result = empty(shape, compute)
    dweight = dbias = None
    if scales is not None:
        dweight, dbias = np.zeros(width, compute), np.zeros(width, compute)
    above, source, beside, target = _rows(clean(upstream, compute), clean(array, compute), None if other is None else clean(other, compute), result)
    _kernels[compute].differentiate(above, source, beside, means, rstds, scales, target, dweight, dbias, threads=team)
    return narrowed(result, dtype), dweight, dbias


# --- arguments --------------------------------------------------------------------------------------------------------------------


def _read_x(x: Any) -> tuple[np.ndarray, int, np.dtype[Any], np.dtype[Any]]:
    """Return x, its width, its dtype and that which is computed in."""
    array = as_array(x, "x")
    if array.ndim == 0:
        raise DimensionMismatchError("x must have at least one axis, got a single number")
    width = array.shape[-1]
    if width == 0:
        raise InvalidInputError(f"x must have a width of at least 1, got shape {array.shape}")
    dtype = native(array.dtype)
    return array, width, dtype, dtype if dtype in NATIVE_DTYPES else COMPUTE_DTYPES[dtype.name]  # asking a dtype for its name takes microseconds


def _read_vector(value: Any, name: str, width: int, dtype: np.dtype[Any], compute: np.dtype[Any]) -> np.ndarray | None:
    """Return weight or bias, contiguous and in the compute dtype."""
    if value is None:
        return None
    array = _beside_x(value, name, dtype, compute)
    if array.shape != (width,):
        raise DimensionMismatchError(f"{name} must have an entry for each of the {width} columns of x, got shape {array.shape}")
    return clean(array, compute)


def _read_beside(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], compute: np.dtype[Any]) -> np.ndarray:
    """Return residual or dout: an array of the shape of x."""
    array = _beside_x(value, name, dtype, compute)
    if array.shape != shape:
        raise DimensionMismatchError(f"{name} must have the shape of x, {shape}, got {array.shape}: np.broadcast_to repeats at no cost")
    return array


def _read_stats(value: Any, name: str, shape: tuple[int, ...], compute: np.dtype[Any]) -> np.ndarray:
    """Return mean or rstd, contiguous: a number for each row."""
    array = as_array(value, name)
    if native(array.dtype) != compute:
        raise UnsupportedError(
            f"{name} must have the compute dtype, {compute}, got {array.dtype}: pass what layer_norm(…, return_stats=True) returned"
        )
    if array.shape != shape:
        raise DimensionMismatchError(f"{name} must have a number for each row of x, shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array, compute)


def _beside_x(value: Any, name: str, dtype: np.dtype[Any], compute: np.dtype[Any]) -> np.ndarray:
    """Return an array that has the dtype of x or the compute dtype."""
    array = as_array(value, name)
    if array.dtype is not dtype and native(array.dtype) not in (dtype, compute):
        allowed = f"the dtype of x, {dtype}" if dtype == compute else f"the dtype of x, {dtype}, or the compute dtype, {compute}"
        raise UnsupportedError(f"{name} must have {allowed}, got {array.dtype}: convert it with .astype")
    return array


def _read_eps(eps: Any) -> float:
    if type(eps) is float and 0 <= eps < math.inf:
        return eps
    array = as_numbers(eps, "eps")
    if array.ndim or array.dtype.kind not in "fiu" or not 0 <= (number := float(array)) < math.inf:
        raise InvalidInputError(f"eps must be a finite number of at least 0, got {eps!r}")
    return number


# --- arrays -----------------------------------------------------------------------------------------------------------------------


def _is_same(a: Any, b: np.ndarray) -> bool:
    """Tell whether two arrays are the same elements at the same places."""
    if a is b:
        return True
    if not isinstance(a, np.ndarray) or not np.may_share_memory(a, b):
        return False
    ours, theirs = a.__array_interface__["data"][0], b.__array_interface__["data"][0]
    return (a.shape, a.strides, a.dtype, ours) == (b.shape, b.strides, b.dtype, theirs)


def _is_clean(out: np.ndarray, compute: np.dtype[Any]) -> bool:
    """Tell whether the kernel can write an array as it is."""
    if out.dtype != compute or not out.flags.aligned:
        return False
    return (out.strides[-1] == out.itemsize or out.shape[-1] == 1) and not any(stride % out.itemsize for stride in out.strides)


def _rows(*arrays: np.ndarray | None) -> list[np.ndarray | None]:
    """Return views with two axes or more: two where the rows of each array follow one another. An array of one axis is a single row."""
    if any(array is not None and not array.flags.c_contiguous for array in arrays):
        return list(arrays)
    return [array if array is None or array.ndim == 2 else array.reshape(-1, array.shape[-1]) for array in arrays]
