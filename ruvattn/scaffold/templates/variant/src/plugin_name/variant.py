"""The variant: in each head, queries and keys are divided by their root mean square.

    q, k ─► project_inputs: x / √(mean(x²) + eps), head by head ─► attention ─► out
    dq, dk ◄── project_inputs_vjp ◄────────────────────────────── backward ◄── dout

So no logit exceeds √D in size, however long the vectors are (Zhang and Sennrich, 2019, "Root Mean Square Layer
Normalization"; Dehghani et al., 2023, "Scaling Vision Transformers to 22 Billion Parameters", section 2). What is not
overridden here `ruvattn.headwise.HeadwiseAttention` has: heads, masks, options, configuration, checkpoints, and the
gradients of attention itself.
"""

from __future__ import annotations

import numpy as np
import ruvattn  # only cython
from ruvattn.errors import InvalidInputError
from ruvattn.headwise import HeadwiseAttention

_compiled = ruvattn.load_kernels("plugin_name._variant")  # the build for the instruction set that is in use  # only cython
# only cython

# end only

class PluginNameAttention(HeadwiseAttention):
    """Attention of queries and keys whose heads have a root mean square of 1.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    eps : float, default 1e-6
        Added to the mean of the squares, above 0: vectors far smaller than its root stay small.
    **options
        Those of `ruvattn.headwise.HeadwiseAttention`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("registered-name", embed_dim=4)
    >>> x = np.array([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    >>> np.allclose(layer(x, 5 * x, x), layer(x, x, x))
    True
    """

    attention_type = "registered-name"  # the name that it is registered by

    def __init__(self, embed_dim, num_heads=1, *, eps=1e-6, **options):
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 1e-30 <= eps < float("inf"):
            raise InvalidInputError(f"eps must be a number from 1e-30, got {eps!r}")
        # What is handed on in `own` is in the configuration, from which the variant can be made anew.
        super().__init__(embed_dim, num_heads, own={"eps": float(eps)}, **options)

    def project_inputs(self, q, k, v):
        """Return queries and keys of unit size, and the values as they are."""
        # float16 and bfloat16 are computed in float32; the output gets the dtype of the input all the same.
        q, k, v = (x.astype(np.result_type(x, np.float32), copy=False) for x in (q, k, v))
        return self._unit(q), self._unit(k), v

    def project_inputs_vjp(self, context, dq, dk, dv):
        """Return the gradients of queries, keys and values; the step has no parameters that would have one."""
        query, keys, _ = context.inputs
        return (self._unit_vjp(query, dq), self._unit_vjp(keys, dk), dv), {}

    def _rows(self, x, dtype):
        """Return x with a row for each head of each vector."""
        return x.astype(dtype, copy=False).reshape(-1, self.embed_dim // self.num_heads)

    def _unit(self, x):
        rows = self._rows(x, x.dtype)
# only numpy
        unit = rows / np.sqrt(_mean_square(rows) + self.config.options["eps"])
        return unit.astype(x.dtype, copy=False).reshape(x.shape)
# end only
# only cython
        unit = np.empty_like(rows, order="C")
        _compiled.unit(np.ascontiguousarray(rows), self.config.options["eps"], unit)
        return unit.reshape(x.shape)
# end only

    def _unit_vjp(self, x, gradient):
        """With y = x·r and r = 1/√(mean(x²) + eps):  dx = r·(dy − y·mean(y·dy))."""
        rows, dy = self._rows(x, gradient.dtype), self._rows(gradient, gradient.dtype)
# only cython
        dx = np.empty_like(rows, order="C")
        _compiled.unit_vjp(np.ascontiguousarray(rows), np.ascontiguousarray(dy), self.config.options["eps"], dx)
        return dx.reshape(x.shape)
# end only
# only numpy
        inverse = 1 / np.sqrt(_mean_square(rows) + self.config.options["eps"])
        unit = rows * inverse
        dx = inverse * (dy - unit * np.mean(unit * dy, axis=-1, keepdims=True))
        return dx.astype(gradient.dtype, copy=False).reshape(x.shape)


def _mean_square(rows):
    """In float64, in which the square of any number of float32 has room."""
    return np.mean(np.square(rows, dtype=np.float64), axis=-1, keepdims=True)
# end only
