"""What the closed forms share: a parameter that may differ from head to head, sums that stream, and arithmetic in float64 around them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ruvattn.aggregates import Aggregate
from ruvattn.errors import DimensionMismatchError

from ..manifolds import GeometricManifold
from ..parameters import by_head, plain, read_numbers
from ..vectors import lengths, wide
from .heads import sample


def sizes(x: np.ndarray) -> np.ndarray:
    """Return the norms of rows, (..., 1), in float64 or wider, of float32 without a wider copy."""
    if x.dtype == np.float32:  # whose squares cannot overflow there
        return np.sqrt(squares(x))
    return lengths(wide(x))


def squares(x: np.ndarray) -> np.ndarray:
    """Return the squared norms of rows, (..., 1), in float64 or wider."""
    return np.einsum("...i,...i->...", x, x, dtype=np.result_type(x.dtype, np.float64))[..., None]


def over(x: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return x/denominator in the dtype of x, 0 where the denominator is."""
    if x.dtype == np.float32:  # whose reciprocals float64 holds, and multiplication is faster
        return np.multiply(x, np.where(denominator == 0, 0.0, 1 / nonzero(denominator)), out=np.empty_like(x), casting="same_kind")
    return np.divide(x, denominator, out=np.zeros_like(x), where=denominator != 0)


def nonzero(x: np.ndarray) -> np.ndarray:
    """Return what may be divided by."""
    return np.where(x != 0, x, 1.0)


def seen(rows: np.ndarray, upstream: np.ndarray) -> np.ndarray:
    """Return the gradients (..., 1) of rows; 0 where nothing comes from above, whatever the rows are made of."""
    return np.where(upstream.any(-1, keepdims=True), rows, 0.0)


class ClosedForm(Aggregate, ABC):
    """A closed form with one parameter, a number or one for each head of the values.

    Attributes
    ----------
    params : dict
        ``curvature``, the sectional curvature: what the number stands for, and what has a gradient.
    """

    _name = "c"
    _positive = True
    _hint = ""
    _extra = 0  # columns beside those of a point
    conformance_widths: tuple[int, ...] = (2, 5, 16, 33)

    def __init__(self, number: Any) -> None:
        self._set(by_head(read_numbers(number, self._name, positive=self._positive, hint=self._hint), self._name))

    def _set(self, numbers: np.ndarray) -> None:
        self.params: dict[str, Any] = {"curvature": plain(self._curvature(numbers))}  # type: ignore[misc]

    @property
    def _numbers(self) -> np.ndarray:
        """The parameter, () or (H,)."""
        return self._curvature(np.asarray(self.params["curvature"], np.float64))

    def _curvature(self, number: np.ndarray) -> np.ndarray:
        """Return the sectional curvature of a parameter; its own inverse, where `_numbers` doesn't say otherwise."""
        return np.negative(number)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name}={self._numbers.tolist()!r})"

    def for_head(self, head: int) -> Aggregate:
        """Return the aggregate with the parameter of one head, as `ruvattn.Aggregate` has it."""
        if not self._numbers.ndim:
            return self
        other = copy.copy(self)
        other._set(self._numbers[head])
        return other

    @property
    @abstractmethod
    def _manifold(self) -> GeometricManifold:
        """The manifold, with an axis for the points of a head."""

    @property
    def conformance_heads(self) -> int | None:
        """For how many heads of values it is; None: any."""
        return len(self._numbers) if self._numbers.ndim else None

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return points for the conformance suite, within a part of a sphere that has a mean."""
        return sample(self._manifold, rng, shape)

    # --- what subclasses have; `number` broadcasts against rows (..., 1), and gradients are of float64 or wider ---------------------

    @abstractmethod
    def _fill(self, out: np.ndarray, v: np.ndarray, number: np.ndarray) -> None:
        """Write what is added up."""

    @abstractmethod
    def _fill_vjp(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of the values, given that of what is added up."""

    @abstractmethod
    def _mean(self, acc: np.ndarray, number: np.ndarray, epsilon: float) -> np.ndarray:
        """Return the mean of a sum in its dtype, which has that epsilon."""

    @abstractmethod
    def _mean_vjp(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of a sum, given that of its mean."""

    def _fill_curvature(self, v: np.ndarray, number: np.ndarray, dout: np.ndarray) -> np.ndarray | None:
        """Return what each row adds to the gradient of the curvature, (..., 1), given that of what is added up; None for nothing."""
        return None

    @abstractmethod
    def _mean_curvature(self, acc: np.ndarray, number: np.ndarray, epsilon: float, dout: np.ndarray) -> np.ndarray:
        """Return what each row adds to the gradient of the curvature, (..., 1), given that of the mean."""

    @property
    def _beside(self) -> int:
        """How many columns are added up beside the coordinates."""
        return self._extra + (2 if self._numbers.ndim else 0)

    # --- the interface ---------------------------------------------------------------------------------------------------------------

    def _of_values(self, v: np.ndarray) -> np.ndarray:
        """Return the parameter of each row of values."""
        if not self._numbers.ndim:
            return self._numbers
        if v.ndim < 3 or v.shape[-3] != len(self._numbers):
            raise DimensionMismatchError(
                f"{self._name} has {len(self._numbers)} entries, one for each head of the values, which must be (..., {len(self._numbers)}, Lk, Dv); "
                f"got values of shape {v.shape}"
            )
        return self._numbers[:, None, None]

    def _of_sums(self, acc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums, and the parameter of each."""
        numbers = self._numbers
        return (acc[..., :-2], numbers[_heads(acc, len(numbers))]) if numbers.ndim else (acc, numbers)

    def values(self, v: np.ndarray) -> np.ndarray:
        """Return what is summed, as `ruvattn.Aggregate` has it."""
        number = self._of_values(v)
        width = v.shape[-1] + self._extra
        out = np.empty((*v.shape[:-1], v.shape[-1] + self._beside), v.dtype)
        with np.errstate(all="ignore"):  # values that no row sees may be anything
            self._fill(out[..., :width], v, number)
        if self._numbers.ndim:
            out[..., -2] = 1
            out[..., -1] = np.arange(len(self._numbers))[:, None]
        return out

    def values_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> np.ndarray:
        """Return the gradient of the values, as `ruvattn.Aggregate` has it."""
        number = self._of_values(v)
        upstream = wide(dvalues[..., : v.shape[-1] + self._extra])
        with np.errstate(all="ignore"):
            return seen(self._fill_vjp(wide(v), number, upstream), upstream).astype(v.dtype, copy=False)

    def finish(self, acc: np.ndarray) -> np.ndarray:
        """Return the means, as `ruvattn.Aggregate` has it."""
        sums, number = self._of_sums(acc)
        with np.errstate(all="ignore"):  # rows that see a NaN
            return self._mean(sums, number, float(np.finfo(acc.dtype).eps))

    def finish_vjp(self, acc: np.ndarray, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of the sums, as `ruvattn.Aggregate` has it."""
        sums, number = self._of_sums(acc)
        sums = wide(sums)
        found = np.zeros(acc.shape, acc.dtype)  # the head's number and what it is multiplied with have none
        with np.errstate(all="ignore"):
            found[..., : sums.shape[-1]] = seen(self._mean_vjp(sums, number, float(np.finfo(acc.dtype).eps), wide(dout)), dout)
        return found

    def values_params_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> dict[str, Any]:
        """Return the gradient of the curvature, as `ruvattn.Aggregate` has it."""
        number = self._of_values(v)
        upstream = wide(dvalues[..., : v.shape[-1] + self._extra])
        with np.errstate(all="ignore"):
            rows = self._fill_curvature(wide(v), number, upstream)
            if rows is None:
                return {}
            rows = seen(rows, upstream)[..., 0]
        return {"curvature": rows.sum((*range(rows.ndim - 2), -1)) if number.ndim else rows.sum()}

    def finish_params_vjp(self, acc: np.ndarray, dout: np.ndarray) -> dict[str, Any]:
        """Return the gradient of the curvature, as `ruvattn.Aggregate` has it."""
        sums, number = self._of_sums(acc)
        with np.errstate(all="ignore"):
            rows = seen(self._mean_curvature(wide(sums), number, float(np.finfo(acc.dtype).eps), wide(dout)), dout)
        heads = len(self._numbers) if self._numbers.ndim else 0
        return {"curvature": np.bincount(_heads(acc, heads).ravel(), rows.ravel(), heads) if heads else rows.sum()}


def _heads(acc: np.ndarray, count: int) -> np.ndarray:
    """Return which head sums are of, (..., 1), by what rides along: Σ p and Σ p·head."""
    with np.errstate(invalid="ignore"):
        head = np.nan_to_num(np.rint(acc[..., -1:] / nonzero(acc[..., -2:-1])))
    return np.clip(head, 0, count - 1).astype(np.intp)
