"""What is done with gradients between the backward pass and the step: clipping, and the mean over several batches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..errors import InvalidInputError
from ..projection import compute_dtype
from ..validation import check_positive
from .base import pieces
from .checks import as_gradients, check_names, check_number, check_parameters, largest_entry

__all__ = ["GradientAccumulator", "add_gradients", "clip_gradients", "gradient_norm"]

_LARGEST_WEIGHT = 64  # as a power of two: far from what float32 holds


def gradient_norm(gradients: Mapping[str, np.ndarray]) -> float:
    """Return the Euclidean norm of all gradients together.

    Summed in float64, and scaled where squares would overflow or vanish.

    Parameters
    ----------
    gradients : mapping of str to ndarray
        Of floating dtypes.

    Returns
    -------
    float
        At least 0; infinite where it is beyond all numbers.

    Raises
    ------
    InvalidInputError
        If a gradient isn't finite.
    """
    largest, spread = _norm_parts(gradients)
    return largest * spread


def _norm_parts(gradients: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Return the largest entry and the norm in units of it: their product may be beyond all numbers."""
    arrays = as_gradients(gradients)
    largest = max(map(largest_entry, arrays.values()), default=0.0)
    if not largest:
        return 0.0, 0.0
    total = 0.0
    for array in arrays.values():
        flat = array.reshape(-1)
        for piece in pieces(flat.size):
            scaled = flat[piece].astype(np.float64)
            scaled /= largest
            scaled *= scaled
            total += float(scaled.sum())  # not by BLAS, whose sums depend on its threads
    return largest, math.sqrt(total)


def clip_gradients(gradients: Mapping[str, np.ndarray], max_norm: float) -> float:
    """Scale gradients, in place, so that their norm is at most something; all by the same factor (Pascanu et al., 2013).

    Parameters
    ----------
    gradients : mapping of str to ndarray
        Of floating dtypes, writable.
    max_norm : float
        Positive: the largest Euclidean norm of all gradients together that is left as it is.

    Returns
    -------
    float
        The norm before; infinite where it is beyond all numbers.

    Raises
    ------
    InvalidInputError
        If a gradient isn't finite or can't be written, or `max_norm` isn't positive. Nothing has changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.training import clip_gradients
    >>> gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    >>> clip_gradients(gradients, 1.0), gradients["a"], gradients["b"]
    (5.0, array([0.6]), array([0.8]))
    """
    limit = check_positive(max_norm, "max_norm", "don't clip for none")
    largest, spread = _norm_parts(gradients)
    norm = largest * spread
    check_parameters(gradients, "gradient")
    if norm > limit:
        factor = limit / norm if math.isfinite(norm) else limit / largest / spread
        with np.errstate(all="ignore"):
            for array in gradients.values():
                np.multiply(array, np.float64(factor), out=array, casting="unsafe")  # factors of any size
    return norm


def add_gradients(total: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray], scale: float = 1.0) -> None:
    """Add gradients to others, in place: those of a penalty to those of a loss.

    Parameters
    ----------
    total : mapping of str to ndarray
        To be written.
    gradients : mapping of str to ndarray
        In the shapes of `total`; names that are missing count as zeros.
    scale : float, default 1
        What they are multiplied by.

    Raises
    ------
    InvalidInputError
        If a gradient isn't finite or has no counterpart. Nothing has changed then.
    DimensionMismatchError
        If a shape differs. Nothing has changed then.
    """
    check_parameters(total, "gradient")
    factor = check_number(scale, "scale")
    arrays = as_gradients(gradients)
    for name in arrays:
        if name not in total:
            raise InvalidInputError(f"gradients have {name!r}, which those that they are added to lack: {', '.join(map(repr, total)) or 'none'}")
    as_gradients(arrays, shapes={name: total[name].shape for name in arrays})
    with np.errstate(all="ignore"):
        for name, array in arrays.items():
            target = total[name]
            np.add(target, array * np.float64(factor), out=target, casting="unsafe")


class GradientAccumulator:
    """The mean of the gradients of several batches: a large batch in the memory of a small one.

    Finite however large gradients and weights are: both sums, of weighted gradients and of weights, are kept times the same power of two.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.training import GradientAccumulator
    >>> accumulator = GradientAccumulator()
    >>> accumulator.add({"a": np.array([1.0])}, weight=3)
    >>> accumulator.add({"a": np.array([5.0])}, weight=1)
    >>> accumulator.mean()
    {'a': array([2.])}
    """

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] | None = None
        self._means: dict[str, np.ndarray] = {}
        self._start()

    def _start(self) -> None:
        self._exponent: int | None = None  # weights count times two to this
        self._weight = 0.0
        self._bound = 0.0  # no sum is larger, as a share of the largest number of its dtype
        self._count = 0

    @property
    def count(self) -> int:
        """How many gradients have been added since the start, or since `reset`."""
        return self._count

    def add(self, gradients: Mapping[str, np.ndarray], weight: float = 1.0) -> None:
        """Add the gradients of a batch.

        Parameters
        ----------
        gradients : mapping of str to ndarray
            Of floating dtypes; the same names and shapes each time. Not kept.
        weight : float, default 1
            Positive: what the batch counts for, such as its number of rows.

        Raises
        ------
        InvalidInputError
            If a gradient isn't finite, is missing or is a new one. Nothing has changed then.
        DimensionMismatchError
            If a shape is another than before. Nothing has changed then.
        """
        factor = check_positive(weight, "weight", "leave out what counts for nothing")
        if self._sums is None:
            arrays = as_gradients(gradients)
            self._sums = {name: np.zeros(array.shape, compute_dtype(array.dtype)) for name, array in arrays.items()}
            self._means = {name: np.empty_like(array) for name, array in self._sums.items()}
        else:
            check_names(self._sums, gradients)
            arrays = as_gradients(gradients, shapes={name: array.shape for name, array in self._sums.items()})
        shares = (largest_entry(array) / float(np.finfo(self._sums[name].dtype).max) for name, array in arrays.items())
        factor = self._scaled(factor, max(shares, default=0.0))
        with np.errstate(all="ignore"):
            for name, array in arrays.items():
                # The array of the means is the scratch here.
                np.copyto(self._means[name], array, casting="unsafe")
                self._means[name] *= factor
                self._sums[name] += self._means[name]
        self._weight += factor
        self._count += 1

    def _scaled(self, weight: float, share: float) -> float:
        """Return a weight as it counts beside those before, which are made smaller where a sum could overflow otherwise.

        ``share`` is the largest entry of the gradients as a share of the largest number of their dtype.
        """
        if self._exponent is None:
            self._exponent = 1 - math.frexp(weight)[1]
        while True:
            # The first weight counts from 1 to 2: gradients that hardly differ from 0 stay. One far beyond it makes those before vanish.
            shrink = math.frexp(weight)[1] + self._exponent - _LARGEST_WEIGHT
            if shrink <= 0:
                scaled = math.ldexp(weight, self._exponent)
                total, bound = self._weight + scaled, self._bound + scaled * share
                if total <= 2.0**_LARGEST_WEIGHT and bound <= 0.5:
                    self._bound = bound
                    return scaled
                shrink = max(math.frexp(total)[1] - _LARGEST_WEIGHT, math.frexp(bound)[1] + 1, 1)
            self._exponent -= shrink
            self._weight, self._bound = math.ldexp(self._weight, -shrink), math.ldexp(self._bound, -shrink)
            with np.errstate(all="ignore"):
                for array in (self._sums or {}).values():
                    np.ldexp(array, -shrink, out=array)

    def mean(self) -> dict[str, np.ndarray]:
        """Return the weighted mean of what has been added.

        Returns
        -------
        dict of str to ndarray
            In float64 for float64, else in float32. The arrays are written again by the next `add`.

        Raises
        ------
        InvalidInputError
            If nothing has been added.
        """
        if self._sums is None or not self._count:
            raise InvalidInputError("nothing has been added: call add() with the gradients of a batch first")
        for name, array in self._sums.items():
            mean, most = self._means[name], np.finfo(array.dtype).max
            with np.errstate(all="ignore"):
                np.divide(array, self._weight, out=mean)
            np.clip(mean, -most, most, out=mean)  # a mean of the largest numbers may round to one that is beyond them
        return dict(self._means)

    def reset(self) -> None:
        """Start again, for gradients of the same names and shapes."""
        for array in (self._sums or {}).values():
            array.fill(0)
        self._start()
