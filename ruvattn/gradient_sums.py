"""What a backward pass starts from, and where it adds up what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .call import Call
from .scores import BoundScore

__all__ = ["Sums", "Upstream"]


@dataclass
class Upstream:
    """What the gradient of a call starts from, in the compute dtype, with an axis of heads.

    Attributes
    ----------
    dout, out : ndarray, (..., Hq, Lq, Do)
        The gradient of the output, and the output.
    lse : ndarray, (..., Hq, Lq)
        The log-sum-exp of each row.
    dlse : ndarray, (..., Hq, Lq), or None
        Its gradient.
    """

    dout: np.ndarray
    out: np.ndarray
    lse: np.ndarray
    dlse: np.ndarray | None


@dataclass
class Sums:
    """Gradients of a call while they are added up.

    Attributes
    ----------
    dq, dk, dv : ndarray
        Of the queries, the keys and what is summed, in the shapes of the call.
    delta : ndarray, (..., Hq, Lq)
        Of each row, the mean of what its weights get, less what its log-sum-exp gets.
    dbias : ndarray or None
        Of the bias, with 1 along what it was broadcast along; None where nobody asked.
    drows, dcols : list of ndarray
        Of the terms of the score, (..., Hq, Lq) and (..., Hk or Hq, Lk).
    dparams : ndarray, (Hq, P)
        Of the parameters that a tile of the score sees, ravelled.
    dscale : ndarray, (Hq,)
        Of the scale of dot products; only where one of them is 0, for else it follows from `dq`.
    """

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    delta: np.ndarray
    dbias: np.ndarray | None
    drows: list[np.ndarray] = field(default_factory=list)
    dcols: list[np.ndarray] = field(default_factory=list)
    dparams: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    dscale: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, call: Call, score: BoundScore | None, with_bias: bool) -> Sums:
        """Return zeros in the shapes of a call.

        Parameters
        ----------
        call : Call
            The call, with what is summed as its values.
        score : BoundScore or None
            Its score; None for dot products.
        with_bias : bool
            Whether the gradient of the bias is wanted.

        Returns
        -------
        Sums
            Zeros.
        """
        dtype, rows = call.compute, (*call.lead, call.heads, call.lq)
        dbias = None
        if with_bias:
            assert call.bias is not None
            dbias = np.zeros([n if stride or not n else 1 for stride, n in zip(call.bias.strides, call.bias.shape, strict=True)], dtype)
        sums = cls(np.zeros(call.q.shape, dtype), np.zeros(call.k.shape, dtype), np.zeros(call.v.shape, dtype), np.zeros(rows, dtype), dbias)
        sums.dscale = np.zeros(call.heads, np.float64)
        if score is not None:
            sums.drows = [np.zeros(term.shape, dtype) for term in score.rows]
            sums.dcols = [np.zeros(term.shape, dtype) for term in score.cols]
            sums.dparams = np.zeros(score.params.shape, np.float64)
        return sums
