"""``multihead``: heads with learned projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..context import Context
from ..errors import InvalidInputError, UnsupportedError
from ..headwise import MAX_KEYS, HeadwiseAttention
from ..projection import linear, linear_vjp
from ..validation import check_bool, check_int, check_seed

__all__ = ["MultiHeadAttention", "glorot", "parameter_dtype"]


class MultiHeadAttention(HeadwiseAttention):
    """Multi-head attention (Vaswani et al., 2017, "Attention Is All You Need", section 3.2.2).

    ``concat(attention(q W_q, k W_k, v W_v) of each head) W_o``, plus a bias for each of the four where there are biases. Head h has columns
    h·D to (h + 1)·D − 1 of the projections. With fewer key heads than query heads, several query heads share one (Ainslie et al., 2023, "GQA").

    The computation has the dtype of the input, or float32 for float16 and bfloat16; parameters of another dtype are converted at each call.
    Projections of finite input that overflow end at the largest number of that dtype.

    Parameters
    ----------
    embed_dim : int
        Width E of queries, keys, values and output; `num_heads` divides it.
    num_heads : int, default 1
        Number of query heads, each of width D = E / num_heads.
    num_kv_heads : int, optional
        Number of key and value heads, which divides `num_heads`; the same number when not given.
    projections : bool, default True
        False: no parameters, plain splitting into heads. The values then may have any width that `num_heads` divides, and the output has it.
    bias : bool, default False
        Whether the projections add a bias, which starts at zero.
    seed : int, default 0
        Of the initial weights, which are uniform in ±√(6 / (fan-in + fan-out)) (Glorot and Bengio, 2010, "Understanding the difficulty of
        training deep feedforward neural networks", eq. 16).
    dtype : {"float32", "float64"}, default "float32"
        Of the parameters.
    dropout_rate, score, score_options, aggregate, aggregate_options, causal, window, scale, softcap, check_finite, max_keys : optional
        As for `ruvattn.builtin.standard.StandardAttention`. With projections, the aggregate must keep the width of a head.
    output_dropout, learn : optional
        Likewise; what is learned has the dtype of the other parameters.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    UnknownVariantError
        If the score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("multihead", embed_dim=64, num_heads=8, num_kv_heads=2)
    >>> layer(np.ones((3, 10, 64), dtype=np.float32), causal=True).shape
    (3, 10, 64)
    >>> {name: array.shape for name, array in layer.parameters().items()}
    {'W_q': (64, 64), 'W_k': (64, 16), 'W_v': (64, 16), 'W_o': (64, 64)}
    """

    attention_type = "multihead"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        num_kv_heads: int | None = None,
        projections: bool = True,
        bias: bool = False,
        seed: int = 0,
        dtype: Any = "float32",
        dropout_rate: float = 0.0,
        score: str = "dot",
        score_options: Mapping[str, Any] | None = None,
        aggregate: str = "weighted-sum",
        aggregate_options: Mapping[str, Any] | None = None,
        causal: bool = False,
        window: tuple[int, int] | None = None,
        scale: Any = None,
        softcap: float | None = None,
        check_finite: bool = True,
        max_keys: int | None = MAX_KEYS,
        output_dropout: float = 0.0,
        learn: Sequence[str] = (),
    ) -> None:
        self._init_projected(
            embed_dim, num_heads, embed_dim, embed_dim, num_kv_heads, projections, bias, seed, dtype, {}, dropout_rate=dropout_rate, score=score,
            score_options=score_options, aggregate=aggregate, aggregate_options=aggregate_options, causal=causal, window=window, scale=scale,
            softcap=softcap, check_finite=check_finite, max_keys=max_keys,
            output_dropout=output_dropout, learn=learn,
        )  # fmt: skip

    def _init_projected(
        self,
        embed_dim: int,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        num_kv_heads: int | None,
        projections: bool,
        bias: bool,
        seed: int,
        dtype: Any,
        own: Mapping[str, Any],
        **common: Any,
    ) -> None:
        """Initialise a variant whose keys and values may have other widths than its queries."""
        projections, bias = check_bool(projections, "projections"), check_bool(bias, "bias")
        dtype = parameter_dtype(dtype)
        seed = check_seed(seed)
        heads = check_int(num_heads, "num_heads", 1)
        kv_heads = heads if num_kv_heads is None else check_int(num_kv_heads, "num_kv_heads", 1)
        if heads % kv_heads:
            raise InvalidInputError(f"num_kv_heads must divide num_heads, which is {heads}, got {kv_heads}")
        if not projections:
            if kv_heads != heads:
                raise InvalidInputError(
                    f"num_kv_heads must be num_heads, {heads}, without projections, got {kv_heads}: "
                    "ruvattn.attention takes fewer key heads than query heads"
                )
            if bias:
                raise InvalidInputError("bias must be False without projections, since it belongs to them")
        own = {
            "num_kv_heads": num_kv_heads, "projections": projections, "bias": bias, "seed": seed, "dtype": dtype.name, **own,
        }  # fmt: skip
        HeadwiseAttention.__init__(self, embed_dim, num_heads, own=own, **common)
        self._projects = projections
        if not projections:
            return
        self.num_kv_heads, self.key_dim, self.value_dim = kv_heads, key_dim, value_dim
        inner = kv_heads * (self.embed_dim // heads)
        rng = np.random.default_rng(seed)
        for name, fan_in, fan_out in (
            ("q", self.embed_dim, self.embed_dim),
            ("k", key_dim, inner),
            ("v", value_dim, inner),
            ("o", self.embed_dim, self.embed_dim),
        ):
            self._arrays[f"W_{name}"] = glorot(rng, (fan_in, fan_out), fan_in, fan_out, f"W_{name}", dtype)
            if bias:
                self._arrays[f"b_{name}"] = np.zeros(fan_out, dtype)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: the arrays themselves, so that what is written to them counts.

        Returns
        -------
        dict of str to ndarray
            ``W_q`` (E, E), ``W_k`` and ``W_v`` (their widths, num_kv_heads·D) and ``W_o`` (E, E), to be multiplied from the right; with biases,
            ``b_q``, ``b_k``, ``b_v`` and ``b_o`` too; and what ``learn`` names. Without projections the last alone.
        """
        return super().parameters()

    def output_dim(self, value_width: int) -> int:
        """Return V', the width of the output.

        Parameters
        ----------
        value_width : int
            V, the width of the values.

        Returns
        -------
        int
            embed_dim with projections, else V.
        """
        return self.embed_dim if self._projects else value_width

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return q W_q + b_q, k W_k + b_k and v W_v + b_v.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k, v : ndarray
            In the compute dtype; without projections, the inputs.
        """
        if not self._projects:
            return q, k, v
        return self._project(q, "q"), self._project(k, "k"), self._project(v, "v")

    def project_output(self, merged: np.ndarray, dtype: np.dtype[Any], out: np.ndarray | None) -> np.ndarray:
        """Return merged W_o + b_o.

        Parameters
        ----------
        merged : ndarray, (..., Lq, E)
            The heads beside each other.
        dtype : dtype
            Of the output.
        out : ndarray, optional
            Where to write it, checked.

        Returns
        -------
        ndarray, (..., Lq, E)
            The output, or `out`.
        """
        if self._projects:
            if merged.shape[-1] != self.embed_dim:
                raise UnsupportedError(
                    f"aggregate {self.config.options['aggregate']!r} makes heads of another width, {merged.shape[-1]} in all instead of "
                    f"{self.embed_dim}, which W_o does not fit: use projections=False"
                )
            merged = self._project(merged, "o")
        return super().project_output(merged, dtype, out)

    def project_inputs_vjp(
        self, context: Context, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Return the gradients of inputs, weights and biases."""
        if not self._projects:
            return (dq, dk, dv), {}
        made = []
        params: dict[str, np.ndarray] = {}
        for name, dx, x in zip("qkv", (dq, dk, dv), context.inputs, strict=True):
            made.append(self._project_vjp(dx, x, name, params))
        query, keys, values = made
        return (query, keys, values), params

    def project_output_vjp(self, context: Context, grad_output: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the merged heads and of W_o and b_o."""
        if not self._projects:
            return super().project_output_vjp(context, grad_output)
        params: dict[str, np.ndarray] = {}
        return self._project_vjp(grad_output, self.merged_heads(context), "o", params), params

    def _project_vjp(self, dout: np.ndarray, x: np.ndarray, name: str, params: dict[str, np.ndarray]) -> np.ndarray:
        """Return the gradient of x, and enter those of the weights and the bias that it was projected by."""
        biased = f"b_{name}" in self._arrays
        dx, params[f"W_{name}"], dbias = linear_vjp(dout, x, self._arrays[f"W_{name}"], bias=biased)
        if dbias is not None:
            params[f"b_{name}"] = dbias
        return dx

    def _project(self, x: np.ndarray, name: str) -> np.ndarray:
        return linear(x, self._arrays[f"W_{name}"], self._arrays.get(f"b_{name}"))


def glorot(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """Draw initial weights, uniform in ±√(6 / (fan-in + fan-out)) (Glorot and Bengio, 2010, eq. 16).

    Parameters
    ----------
    rng : Generator
        The source.
    shape : tuple of int
        Of the weights.
    fan_in, fan_out : int
        How many numbers go into a sum, and into how many sums a number goes.
    name : str
        Of the parameter.
    dtype : dtype
        Of the weights.

    Returns
    -------
    ndarray
        A new array.

    Raises
    ------
    MemoryError
        If there can't be such an array.
    """
    limit = np.sqrt(6 / (fan_in + fan_out))
    try:
        return rng.uniform(-limit, limit, shape).astype(dtype)
    except ValueError as error:  # a product beyond the address space
        raise MemoryError(f"{name} of shape {shape} cannot be allocated: {error}") from None


def parameter_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype of parameters.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        The option.

    Returns
    -------
    dtype
        One of the two.

    Raises
    ------
    InvalidInputError
        If it is another.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if dtype is None or found.name not in ("float32", "float64"):
        raise InvalidInputError(f"dtype of the parameters must be float32 or float64, got {dtype!r}: inputs may be narrower")
    return np.dtype(found.name)
