"""What a call of a variant leaves behind: enough to show its weights, to check its output, and to go backwards.

    Context             holds queries, keys, values, output and lse of the heads
    └─ RecomputedContext    holds what the call was given, and makes those again each time it is asked for one
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .functional import attention_weights

__all__ = ["Context", "RecomputedContext"]


@dataclass(eq=False, repr=False)
class Context:
    """References to what a call of a variant read and made, as the functional API takes it.

    Nothing is copied: what is written to these arrays later shows in `weights`. The output, before heads are merged and projected, is that of
    ``ruvattn.attention(context.q, context.k, context.v, **context.options)``, and the oracle's is that of ``ruvattn.reference.attention`` with
    the same arguments.

    Attributes
    ----------
    q, k, v : ndarray, (..., Hq, Lq, D), (..., Hk, Lk, D) and (..., Hk, Lk, Dv)
        Queries, keys and values after projection, split into heads.
    out : ndarray, (..., Hq, Lq, Do)
        What attention made of them.
    lse : ndarray, (..., Hq, Lq)
        The log-sum-exp of each row of logits.
    options : dict
        Keyword arguments of `ruvattn.attention` that differ from its defaults: the variant's own (score, aggregate, …) and those of the call
        together. Where dropout took part its ``seed`` is here, whether it was given or drawn.
    inputs : tuple of ndarray
        The query, key and value that the call was given, (..., L, width).
    extra : dict
        What the variant keeps for its own backward pass.
    shape : tuple of int, or None
        That of the output of the call, before `forward` drops its one row.
    single : bool
        Whether the call was `forward`, with one query that has no axis of rows.
    alone : bool
        Whether each query is a batch entry of its own, (B, H, 1, D), over keys that all share, as in `forward_batch` where positions enter.
    output_dropout : float
        Share of the output that was dropped, after everything else, by the ``seed`` in the options.
    overridden : tuple of str
        Learned parameters that the call brought values of its own for, so that they had no part in it.
    variant : weakref.ref or None
        The variant that was called, whose parameters had a part; None once it has been pickled or copied.
    maker : str
        What class that was, once it has been pickled or copied; else empty.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    out: np.ndarray
    lse: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[np.ndarray, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    single: bool = False
    alone: bool = False
    output_dropout: float = 0.0
    overridden: tuple[str, ...] = ()
    variant: weakref.ref[Any] | None = None
    maker: str = ""

    def __getstate__(self) -> dict[str, Any]:
        made_by = None if self.variant is None else self.variant()
        return {**self.__dict__, "variant": None, "maker": self.maker if made_by is None else type(made_by).__name__}

    def whole(self) -> Context:
        """Return a context that holds all of its arrays: itself, unless the call was made without a gradient cache.

        Returns
        -------
        Context
            To be asked where several of the arrays are needed.
        """
        return self

    def weights(self, threads: int | None = None) -> np.ndarray:
        """Compute the weights of the call, after dropout.

        Parameters
        ----------
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (..., Hq, Lq, Lk)
            Dense, in the dtype of `q`.
        """
        options = {name: value for name, value in self.options.items() if name != "aggregate"}
        return attention_weights(self.q, self.k, threads=threads, **options)

    def __repr__(self) -> str:
        return f"Context(q={self.q.shape}, k={self.k.shape}, v={self.v.shape}, options={sorted(self.options)})"


MADE = ("q", "k", "v", "out", "lse")


class RecomputedContext(Context):
    """What a call leaves behind that was made without a gradient cache: its inputs and options, and how to make the rest of them.

    Each use of `q`, `k`, `v`, `out` or `lse` computes them anew; `whole` returns all of them at once.

    Parameters
    ----------
    context : Context
        Of the call; its arrays are let go, all but the inputs.
    remake : callable
        Takes this context and returns a new one that has them.
    """

    def __init__(self, context: Context, remake: Callable[[RecomputedContext], Context]) -> None:
        self.__dict__.update((name, value) for name, value in vars(context).items() if name not in MADE)
        self._remake = remake

    def whole(self) -> Context:
        """Return a context that holds all of its arrays, made now."""
        return self._remake(self)

    def __getattr__(self, name: str) -> Any:
        if name in MADE:
            return getattr(self.whole(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def weights(self, threads: int | None = None) -> np.ndarray:
        """Compute the weights of the call, after dropout."""
        return self.whole().weights(threads)

    def __repr__(self) -> str:
        return f"RecomputedContext(inputs={[array.shape for array in self.inputs]}, options={sorted(self.options)})"
