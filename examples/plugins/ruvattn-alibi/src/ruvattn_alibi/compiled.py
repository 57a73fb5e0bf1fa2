"""ALiBi with compiled tiles."""

from __future__ import annotations

from typing import ClassVar

import ruvattn
from scipy import LowLevelCallable

from .score import Alibi

_built = ruvattn.load_kernels("ruvattn_alibi._score")  # the build for the instruction set that is in use


class CompiledAlibi(Alibi):
    """`Alibi` whose tiles are filled by Cython, inside of the parallel loops.

    Terms of queries and keys, and all gradients of parameters, are those of `Alibi`. float16 and bfloat16 compute in float32, compiled too.

    Parameters
    ----------
    slopes : float or array of shape (Hq,), optional
        As for `Alibi`.
    scale : float or array of shape (Hq,), optional
        As for `Alibi`.
    distance : {"symmetric", "causal"}, default "symmetric"
        As for `Alibi`.

    Raises
    ------
    InvalidInputError
        If an argument has a value that makes no sense.

    See Also
    --------
    Alibi : The formula, and the same in NumPy.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x = np.zeros((3, 4))
    >>> ruvattn.attention_logits(x, x, score=CompiledAlibi(slopes=0.5, distance="causal"))
    array([[ 0. ,  0. ,  0. ],
           [-0.5,  0. ,  0. ],
           [-1. , -0.5,  0. ]])
    """

    kernels: ClassVar = {  # for each dtype, forward and derivative; the terms are those of `Alibi`
        dtype: tuple(LowLevelCallable.from_cython(_built, name + dtype) for name in ("logits_", "logits_vjp_"))
        for dtype in ("float32", "float64")
    }
