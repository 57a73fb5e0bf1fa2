"""What a call of a variant leaves behind: enough to show its weights, to check its output, and to go backwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .functional import attention_weights

__all__ = ["Context"]


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
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    out: np.ndarray
    lse: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[np.ndarray, ...] = ()

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
