"""Aggregates: how the values combine under the weights.

A linear one maps the values before the sum and the sum afterwards, so that it streams: the engine only ever adds. The Einstein midpoint
Σ pγv / Σ pγ, for example, is V·γ with γ as one more column, and a division afterwards. Any other one is given the weights of whole rows.

An aggregate whose parameters differ from head to head says so in `Aggregate.for_head`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .errors import UnsupportedError

__all__ = ["Aggregate", "WeightedSum"]


class Aggregate:
    """Base class of aggregates.

    A linear aggregate overrides `values` and `finish`, or one of them. A nonlinear one overrides `reduce` and sets `linear` to False. Rows
    that attend to nothing skip both and are zeros.

    Attributes
    ----------
    linear : bool
        Whether the sum streams between `values` and `finish`.
    params : dict of str to float or ndarray
        Name to a number, or to an array whose first axis is Hk: what can be learned. What `for_head` returns has the one of its head.
    """

    linear: bool = True
    params: ClassVar[dict[str, Any]] = {}

    def for_head(self, head: int) -> Aggregate:
        """Return the aggregate as it is for one head of the values; by default it is the same for all.

        Only `values` sees which head is which. `reduce` gets the rows of one head after another and is therefore asked of what this returns, and so
        is everything that takes a head by itself, as the oracle does.

        Parameters
        ----------
        head : int
            The index of the head among those of the values, Hk. With grouped queries that is not the one of the query head.

        Returns
        -------
        Aggregate
            One for values without an axis of heads, linear where this one is. It makes of a head what this one makes of it among the others.
        """
        return self

    def values(self, v: np.ndarray) -> np.ndarray:
        """Return what is summed.

        Parameters
        ----------
        v : ndarray, (..., Lk, Dv)
            The values in the compute dtype, (..., Hk, Lk, Dv) in a call; not to be written.

        Returns
        -------
        ndarray, (..., Lk, Dw)
            In the dtype of `v`.
        """
        return v

    def values_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> np.ndarray:
        """Return the gradient of the values, given that of what is summed.

        Parameters
        ----------
        v : ndarray, (..., Lk, Dv)
            As for `values`.
        dvalues : ndarray, (..., Lk, Dw)
            Gradient of the result of `values`.

        Returns
        -------
        ndarray, (..., Lk, Dv)
            The gradient.
        """
        if type(self).values is Aggregate.values:
            return dvalues
        raise UnsupportedError(f"{type(self).__name__} has no values_vjp, so it has no gradient: write one, or use an aggregate that has it")

    def finish(self, acc: np.ndarray) -> np.ndarray:
        """Return the output of rows from their weighted sums.

        Parameters
        ----------
        acc : ndarray, (..., Dw)
            Σ p·values with weights that sum to 1; without the rows that attend to nothing. A sink makes the sum of the weights less, and dropout can
            leave none of a row: whoever divides by a sum has to mind 0.

        Returns
        -------
        ndarray, (..., Do)
            The output.
        """
        return acc

    def finish_vjp(self, acc: np.ndarray, dout: np.ndarray) -> np.ndarray:
        """Return the gradient of the weighted sums, given that of the output.

        Parameters
        ----------
        acc : ndarray, (..., Dw)
            As for `finish`.
        dout : ndarray, (..., Do)
            Gradient of the output.

        Returns
        -------
        ndarray, (..., Dw)
            The gradient.
        """
        if type(self).finish is Aggregate.finish:
            return dout
        raise UnsupportedError(f"{type(self).__name__} has no finish_vjp, so it has no gradient: write one, or use an aggregate that has it")

    def values_params_vjp(self, v: np.ndarray, dvalues: np.ndarray) -> dict[str, Any]:
        """Return the gradients of the parameters through `values`.

        Parameters
        ----------
        v : ndarray, (..., Lk, Dv)
            As for `values`.
        dvalues : ndarray, (..., Lk, Dw)
            Gradient of the result of `values`.

        Returns
        -------
        dict of str to ndarray
            By the names of `params`, in their shapes; only what enters `values`.
        """
        return {}

    def finish_params_vjp(self, acc: np.ndarray, dout: np.ndarray) -> dict[str, Any]:
        """Return the gradients of the parameters through `finish`.

        Parameters
        ----------
        acc : ndarray, (..., Dw)
            As for `finish`.
        dout : ndarray, (..., Do)
            Gradient of the output.

        Returns
        -------
        dict of str to ndarray
            By the names of `params`, in their shapes; only what enters `finish`.
        """
        return {}

    def reduce_params_vjp(self, weights: np.ndarray, v: np.ndarray, out: np.ndarray, dout: np.ndarray) -> dict[str, Any]:
        """Return the gradients of the parameters through `reduce`.

        Parameters
        ----------
        weights, v, out, dout : ndarray
            As for `reduce_vjp`.

        Returns
        -------
        dict of str to ndarray
            By the names of `params`, in their shapes, where `for_head` has returned this aggregate: those of one head.
        """
        return {}

    def reduce(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the output of m rows from their weights; only asked where `linear` is False.

        Parameters
        ----------
        weights : ndarray, (m, Lk)
            Of one head; rows sum to 1 before dropout and sinks.
        v : ndarray, (Lk, Dv)
            The values of the head.

        Returns
        -------
        ndarray, (m, Do)
            The output.
        """
        raise UnsupportedError(f"{type(self).__name__} is not linear and has no reduce(weights, v): a nonlinear aggregate needs it")

    def reduce_vjp(self, weights: np.ndarray, v: np.ndarray, out: np.ndarray, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of weights and values, given that of the output.

        Parameters
        ----------
        weights, v : ndarray
            As for `reduce`.
        out : ndarray, (m, Do)
            What `reduce` returned.
        dout : ndarray, (m, Do)
            Gradient of the output.

        Returns
        -------
        dweights : ndarray, (m, Lk)
            Gradient of the weights.
        dv : ndarray, (Lk, Dv)
            Gradient of the values.
        """
        raise UnsupportedError(f"{type(self).__name__} has no reduce_vjp, so it has no gradient: write one, or use an aggregate that has it")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class WeightedSum(Aggregate):
    """The weighted sum Σ p·v: attention as everyone knows it."""

    def __eq__(self, other: Any) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))
