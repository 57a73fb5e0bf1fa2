"""Layer normalisation and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["layer_norm", "layer_norm_backward"]


def layer_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    eps: float = 1e-5,
    residual: Any = None,
    return_stats: bool = False,
    precision: Any = np.float64,
) -> Any:
    """Layer normalisation in float64.

    Parameters
    ----------
    x, weight, bias : array
        As for `ruvattn.layer_norm`.
    eps : float, default 1e-5
        As for `ruvattn.layer_norm`.
    residual : array, optional
        As for `ruvattn.layer_norm`.
    return_stats : bool, default False
        As for `ruvattn.layer_norm`.
    precision : dtype, default float64
        What to compute in.

    Returns
    -------
    out : ndarray, (..., D)
        In `precision`.
    mean, rstd : ndarray, (...)
        Only with ``return_stats``.
    """
    x = np.asarray(x).astype(precision)
    if residual is not None:
        x = x + np.asarray(residual).astype(precision)
    mean = x.mean(-1, keepdims=True)
    equal = (x == x[..., :1]).all(-1, keepdims=True)
    mean = np.where(equal, x[..., :1], mean)  # which rounding may miss
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    rstd = np.divide(1, np.sqrt(variance + precision(eps)), out=np.zeros_like(mean), where=variance + precision(eps) != 0)
    out = (x - mean) * rstd
    if weight is not None:
        out = out * np.asarray(weight).astype(precision)
    if bias is not None:
        out = out + np.asarray(bias).astype(precision)
    return (out, mean[..., 0], rstd[..., 0]) if return_stats else out


def layer_norm_backward(
    dout: Any, x: Any, mean: Any, rstd: Any, weight: Any = None, *, residual: Any = None, precision: Any = np.float64
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Gradients of `layer_norm` in float64.

    Parameters
    ----------
    dout, x, mean, rstd, weight : array
        As for `ruvattn.layer_norm_backward`; mean and rstd as exact as they are to be used.
    residual : array, optional
        As for `ruvattn.layer_norm_backward`.
    precision : dtype, default float64
        What to compute in.

    Returns
    -------
    dx : ndarray, (..., D)
        In `precision`.
    dweight, dbias : ndarray, (D,), or None
        None without weight.
    """
    dout, x, mean, rstd = (np.asarray(array).astype(precision) for array in (dout, x, mean, rstd))
    if residual is not None:
        x = x + np.asarray(residual).astype(precision)
    normalised = (x - mean[..., None]) * rstd[..., None]
    upstream = dout if weight is None else dout * np.asarray(weight).astype(precision)
    level, slope = upstream.mean(-1, keepdims=True), (upstream * normalised).mean(-1, keepdims=True)
    dx = rstd[..., None] * (upstream - level - normalised * slope)
    if weight is None:
        return dx, None, None
    rows = tuple(range(x.ndim - 1))
    return dx, (dout * normalised).sum(rows), dout.sum(rows)
