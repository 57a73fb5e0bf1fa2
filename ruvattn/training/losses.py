"""Losses with the gradients of all their inputs: squared error, cross-entropy, Kullback–Leibler divergence.

    loss, gradients = cross_entropy_loss(logits, targets)
    layer.backward(gradients.logits)

The loss is a number; the gradients are a named tuple with an entry for each input, in its shape and dtype. All is computed in float64, and saturates
at the largest number of a dtype where it would overflow: what is finite gives what is finite. "mean" is the mean over the examples, each a row (for
the squared error over all entries), "sum" the sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import DimensionMismatchError, InvalidInputError
from ..validation import as_array, as_numbers, check_finite, check_int, check_probability
from .checks import check_choice

__all__ = ["CrossEntropyGradients", "KLGradients", "MSEGradients", "cross_entropy_loss", "kl_loss", "mse_loss"]

MOST = float(np.finfo(np.float64).max)

_MOST = {"float16": 65504.0, "float32": float(np.finfo(np.float32).max), "bfloat16": 3.3895313892515355e38, "float64": MOST}


class MSEGradients(NamedTuple):
    """Gradients of `mse_loss`.

    Attributes
    ----------
    predictions, targets : ndarray
        In the shapes and dtypes of the inputs.
    """

    predictions: np.ndarray
    targets: np.ndarray


class CrossEntropyGradients(NamedTuple):
    """Gradients of `cross_entropy_loss`.

    Attributes
    ----------
    logits : ndarray, (..., C)
        In the dtype of the logits.
    targets : ndarray, (..., C), or None
        None for indices of classes, which have no gradient.
    weight : ndarray, (C,), or None
        None where no weights were given.
    """

    logits: np.ndarray
    targets: np.ndarray | None
    weight: np.ndarray | None


class KLGradients(NamedTuple):
    """Gradients of `kl_loss`.

    Attributes
    ----------
    log_inputs, targets : ndarray, (..., C)
        In the dtypes of the inputs.
    """

    log_inputs: np.ndarray
    targets: np.ndarray


def mse_loss(predictions: Any, targets: Any, *, reduction: str = "mean") -> tuple[float, MSEGradients]:
    """Return the squared error of predictions, and its gradients.

    Parameters
    ----------
    predictions, targets : array
        Of one shape, not empty, finite.
    reduction : {"mean", "sum"}, default "mean"
        Over all entries.

    Returns
    -------
    loss : float
        At least 0.
    gradients : MSEGradients
        By the predictions and by the targets.

    Raises
    ------
    InvalidInputError
        If an array is empty or not finite, or the reduction is unknown.
    DimensionMismatchError
        If the shapes differ.

    Examples
    --------
    >>> from ruvattn.training import mse_loss
    >>> mse_loss([1.0, 2.0], [1.0, 4.0])
    (2.0, MSEGradients(predictions=array([ 0., -2.]), targets=array([-0.,  2.])))
    """
    x, as_x = read(predictions, "predictions")
    y, as_y = read(targets, "targets")
    check_same(y, x, "targets", "predictions")
    count = x.size if check_reduction(reduction) == "mean" else 1
    with np.errstate(all="ignore"):
        difference = x - y
        gradient = difference * (2 / count)
        return total((difference / count) * difference), MSEGradients(as_x(gradient), as_y(-gradient))


def cross_entropy_loss(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[float, CrossEntropyGradients]:
    """Return the cross-entropy of softmax(logits) with classes or with probabilities, and its gradients.

        −Σ w_c ((1 − ε) t_c + ε/C) log softmax(logits)_c,    t the target, w the weights of classes, ε the label smoothing (Szegedy et al., 2016)

    Parameters
    ----------
    logits : array, (..., C)
        Finite, or −inf for classes that are out of the question.
    targets : array of int, (...), or of float, (..., C)
        The index of the class of each row, or the probability of each class.
    weight : array, (C,), optional
        What each class counts for, at least 0.
    label_smoothing : float, default 0
        In [0, 1): the share of the target that is spread over all classes.
    ignore_index : int, optional
        Rows with this index have no loss and no gradient. For indices only.
    reduction : {"mean", "sum"}, default "mean"
        The mean is over the rows that count; for indices each counts for the weight of its class.

    Returns
    -------
    loss : float
        0 where no row counts.
    gradients : CrossEntropyGradients
        By the logits, by the targets where they are probabilities, and by the weights.

    Raises
    ------
    InvalidInputError
        If an array is empty, NaN or infinite, an index is none of the classes, or an option is out of range.
    DimensionMismatchError
        If shapes don't fit.
    """
    x, as_x = read(logits, "logits", lowest=True)
    if x.ndim < 1:
        raise DimensionMismatchError("logits must have an axis of classes, got shape ()")
    classes = x.shape[-1]
    smoothing = check_probability(label_smoothing, "label_smoothing")
    check_reduction(reduction)
    w, as_w = np.ones(classes), None
    if weight is not None:
        w, as_w = read(weight, "weight")
        if w.shape != (classes,):
            raise DimensionMismatchError(f"weight must have shape ({classes},), one number a class, got {w.shape}")
        if (w < 0).any():
            raise InvalidInputError(f"weight must be at least 0, got {w.min()}")
    given = as_numbers(targets, "targets")
    rows = x.reshape(-1, classes)
    as_t = None
    if given.dtype.kind in "iu":
        t, counts = _one_hot(given, x.shape, ignore_index)
    else:
        if ignore_index is not None:
            raise InvalidInputError("ignore_index is for indices of classes, and targets are probabilities: give their rows probabilities of 0")
        t, as_t = read(targets, "targets")
        check_same(t, x, "targets", "logits")
        t, counts = t.reshape(-1, classes), np.ones(len(rows), bool)
    log_p = _log_softmax(rows)
    smooth = ((1 - smoothing) * t + smoothing / classes) * counts[:, None]
    a = smooth * w
    with np.errstate(all="ignore"):
        count = 1.0
        if reduction == "mean":
            count = float(len(rows)) if as_t is not None else float((t @ w).sum())
        scale = 1 / count if count else 0.0
        loss = total(-(a * scale) * log_p)
        d_logits = scale * (np.exp(log_p) * a.sum(axis=-1, keepdims=True) - a)
        d_targets = None if as_t is None else as_t((-scale * (1 - smoothing) * w * log_p).reshape(x.shape))
        d_weight = None
        if as_w is not None:
            by_class = -(scale * smooth * log_p).sum(axis=0)
            d_weight = as_w(by_class - scale * loss * t.sum(axis=0) if reduction == "mean" and as_t is None else by_class)
        return loss, CrossEntropyGradients(as_x(d_logits.reshape(x.shape)), d_targets, d_weight)


def kl_loss(log_inputs: Any, targets: Any, *, log_targets: bool = False, reduction: str = "mean") -> tuple[float, KLGradients]:
    """Return the divergence Σ t (log t − log p) of probabilities p from targets t (Kullback and Leibler, 1951), and its gradients.

    Parameters
    ----------
    log_inputs : array, (..., C)
        log p; −inf counts as the least number of float64.
    targets : array, (..., C)
        t, at least 0; or log t. Where t is 0 its term is 0, and the gradient by it, whose limit is −∞, that of the least positive number.
    log_targets : bool, default False
        Whether `targets` are log t.
    reduction : {"mean", "sum"}, default "mean"
        Over the rows. (The mean over rows is what PyTorch calls "batchmean", for two axes.)

    Returns
    -------
    loss : float
        At least 0 where both are distributions.
    gradients : KLGradients
        By both, as if each number were free to move.

    Raises
    ------
    InvalidInputError
        If an array is empty, NaN or infinite, a probability is negative, or the reduction is unknown.
    DimensionMismatchError
        If the shapes differ.
    """
    x, as_x = read(log_inputs, "log_inputs", lowest=True)
    y, as_y = read(targets, "targets", lowest=bool(log_targets))
    check_same(y, x, "targets", "log_inputs")
    if not x.ndim:
        raise DimensionMismatchError("log_inputs must have an axis of classes, got shape ()")
    scale = 1 / (x.size // x.shape[-1]) if check_reduction(reduction) == "mean" else 1.0
    with np.errstate(all="ignore"):
        x = np.maximum(x, -MOST)
        if log_targets:
            log_t = np.maximum(y, -MOST)
            t = np.exp(log_t)
        else:
            if (y < 0).any():
                raise InvalidInputError(f"targets must be at least 0, got {y.min()}: log_targets=True takes their logarithms")
            t, log_t = y, np.log(np.maximum(y, np.finfo(np.float64).tiny))
        surprise = np.clip(log_t - x, -MOST, MOST)
        d_t = scale * (surprise + 1)
        return total(scale * t * surprise), KLGradients(as_x(-scale * t), as_y(t * d_t if log_targets else d_t))


# --- what losses share ------------------------------------------------------------------------------------------------------------


class _InDtype:
    """What brings a gradient into the dtype of an input."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def __call__(self, gradient: np.ndarray) -> np.ndarray:
        return in_dtype(gradient, self.dtype)


def in_dtype(gradient: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a gradient in a dtype; what would overflow is the largest number."""
    most = _MOST[dtype.name]
    return np.clip(gradient, -most, most).astype(dtype)


def read(given: Any, name: str, *, lowest: bool = False) -> tuple[np.ndarray, _InDtype]:
    """Return an input in float64, and what brings its gradient into its own dtype.

    Parameters
    ----------
    given : array
        Not empty, finite. What is no array of a floating dtype, such as a list of numbers, is taken as float64.
    name : str
        For messages.
    lowest : bool, default False
        Whether −inf may be in it.

    Returns
    -------
    array : ndarray
        In float64.
    in_dtype : callable
        From a gradient in float64 to one in the dtype of the input.
    """
    array = as_numbers(given, name)
    if not isinstance(given, np.ndarray) and array.dtype.kind in "iu":
        array = array.astype(np.float64)
    array = as_array(array, name)
    if not array.size:
        raise InvalidInputError(f"{name} must not be empty, got shape {array.shape}")
    wide = array.astype(np.float64)
    check_finite(np.where(np.isneginf(wide), 0.0, wide) if lowest else wide, name)
    return wide, _InDtype(array.dtype)


def check_same(array: np.ndarray, other: np.ndarray, name: str, other_name: str) -> None:
    """Check that two inputs have the same shape: nothing is broadcast."""
    if array.shape != other.shape:
        raise DimensionMismatchError(f"{name} must have the shape of {other_name}, {other.shape}, got {array.shape}")


def check_reduction(reduction: Any) -> str:
    """Return the name of a reduction."""
    return check_choice(reduction, "reduction", ("mean", "sum"))


def total(terms: np.ndarray) -> float:
    """Return a sum as a number; what would overflow is the largest one."""
    with np.errstate(all="ignore"):
        return min(max(float(np.clip(terms, -MOST, MOST).sum()), -MOST), MOST)


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    """Return the logarithms of softmax, none of them −inf, so that 0 times one is 0."""
    largest = rows.max(axis=-1, keepdims=True)
    if np.isneginf(largest).any():
        raise InvalidInputError(f"logits of row {int(np.isneginf(largest).argmax())} are all −inf: leave at least one class")
    with np.errstate(all="ignore"):
        shifted = np.maximum(rows - largest, -MOST)
        return np.maximum(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), -MOST)


def _one_hot(indices: np.ndarray, shape: tuple[int, ...], ignore_index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of classes as rows with a single 1, and which rows count; those that don't are zeros."""
    if indices.shape != shape[:-1]:
        expected = f"shape {shape[:-1]} for indices of classes, or {shape} for probabilities of float"
        raise DimensionMismatchError(f"targets must have {expected}, got {indices.shape} of {indices.dtype}")
    flat, classes = indices.reshape(-1), shape[-1]
    counts = np.ones(flat.shape, bool)
    if ignore_index is not None:
        counts = flat != check_int(ignore_index, "ignore_index", -(2**63), 2**63 - 1)
    wrong = counts & ((flat < 0) | (flat >= classes))
    if wrong.any():
        at = int(wrong.argmax())
        raise InvalidInputError(f"targets must be indices from 0 to {classes - 1}, got {flat[at]} in row {at}: ignore_index= leaves rows out")
    rows = np.zeros((len(flat), classes))
    rows[np.flatnonzero(counts), flat[counts]] = 1
    return rows, counts
