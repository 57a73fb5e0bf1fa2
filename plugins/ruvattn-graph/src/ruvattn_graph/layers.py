"""A layer of a deep graph network: attention along the edges, and what makes it possible to put many of them on top of each other.

    x ─┬─► attention ─► + ─► LayerNorm ─┬─► W_1 ─► activation ─► W_2 ─► + ─► LayerNorm ─► out            norm_first=False
       └────────────────┘               └──────────────────────────────┘
    x ─┬─► LayerNorm ─► attention ─► + ─┬─► LayerNorm ─► W_1 ─► activation ─► W_2 ─► + ─► out            norm_first=True
       └─────────────────────────────┘  └─────────────────────────────────────────────┘
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ruvattn import create, layer_norm, variants
from ruvattn.builtin.multihead import glorot, parameter_dtype
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.projection import compute_dtype, linear, saturated_sum
from ruvattn.running import narrowed
from ruvattn.threads import threads_of_call
from ruvattn.validation import as_array, check_bool, check_finite, check_int, check_out, check_positive, check_probability, check_rank, check_seed

from .variants.base import GraphVariant
from .variants.state import StateDict

__all__ = ["AttentionGNNLayer"]

ACTIVATIONS = ("relu", "gelu")

ROWS = 1 << 14
"""Rows that go through the feed-forward network at once: what is between its matrices is as wide as both together."""


class AttentionGNNLayer:
    """Attention along edges, residual, LayerNorm and a feed-forward network, as wide going out as coming in.

    ``y = LayerNorm(x + attention(x))`` and ``out = LayerNorm(y + W_2 activation(W_1 y + b_1) + b_2)`` (Vaswani et al., 2017, section 3, with
    the edges of a graph for the pairs); with `norm_first`, each LayerNorm stands before what it follows here (Xiong et al., 2020, "On Layer
    Normalization in the Transformer Architecture").

    Parameters
    ----------
    embed_dim : int
        Width of the features that come in and go out.
    num_heads : int, default 1
        Number of heads of the attention.
    attention : str, default "gatv2"
        The name of a registered graph variant.
    attention_options : mapping, optional
        Its options, beside embed_dim and num_heads; its output has to be embed_dim wide, as it is unless they say otherwise.
    ffn_dim : int, optional
        Width between W_1 and W_2; 4 · embed_dim when not given.
    activation : {"relu", "gelu"}, default "relu"
        What stands between them; "gelu" is exact, x·Φ(x).
    norm_first : bool, default False
        Where the LayerNorms stand.
    eps : float, default 1e-5
        Of the LayerNorms, above 0.
    dropout_rate : float, default 0
        Share of the weights of edges that is dropped while `training` is set.
    seed : int, default 0
        Of the initial weights, those of the attention included.
    dtype : {"float32", "float64"}, default "float32"
        Of the parameters.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense, or the attention is no graph variant or as wide as something else.
    UnknownVariantError
        If the attention isn't registered.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_graph import AttentionGNNLayer, Graph
    >>> graph = Graph([(0, 1), (1, 2), (2, 0)])
    >>> x = np.eye(3, 8, dtype=np.float32)
    >>> for layer in [AttentionGNNLayer(8, 2, seed=seed) for seed in range(3)]:
    ...     x = layer(x, graph)
    >>> x.shape
    (3, 8)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        attention: str = "gatv2",
        attention_options: Mapping[str, Any] | None = None,
        ffn_dim: int | None = None,
        activation: str = "relu",
        norm_first: bool = False,
        eps: float = 1e-5,
        dropout_rate: float = 0.0,
        seed: int = 0,
        dtype: Any = "float32",
    ) -> None:
        width = check_int(embed_dim, "embed_dim", 1)
        if attention_options is not None and not isinstance(attention_options, Mapping):
            raise InvalidInputError(f"attention_options must be a mapping of names to values, got {attention_options!r}")
        fixed = [name for name in ("embed_dim", "num_heads") if name in (attention_options or {})]
        if fixed:
            raise InvalidInputError(f"attention_options must leave out {fixed[0]}, which is that of the layer")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise InvalidInputError(f"activation must be 'relu' or 'gelu', got {activation!r}")
        kind, seed, dropout = parameter_dtype(dtype), check_seed(seed), check_probability(dropout_rate, "dropout_rate")
        own = dict(attention_options or {})
        chosen = {"dtype": kind.name, "seed": seed, "dropout_rate": dropout}
        listed = variants().get(attention) if isinstance(attention, str) else None
        if listed is not None:  # else create says what is wrong with the name
            chosen = {name: value for name, value in chosen.items() if name in listed.options}
        chosen.update(own)
        made = create(attention, embed_dim=width, num_heads=num_heads, **chosen)
        if not isinstance(made, GraphVariant):
            raise InvalidInputError(f"attention must be the name of a variant of ruvattn_graph, such as 'gatv2', got {attention!r}")
        if made.output_dim(width) != width or made.key_dim != width:
            raise InvalidInputError(
                f"attention_options must leave the attention embed_dim, {width}, wide on both sides, got {made.key_dim} and {made.output_dim(width)}"
            )
        self.attention = made
        self.embed_dim, self.num_heads = made.embed_dim, made.num_heads
        self._hidden = 4 * width if ffn_dim is None else check_int(ffn_dim, "ffn_dim", 1)
        self._activation, self._norm_first, self._eps = activation, check_bool(norm_first, "norm_first"), check_positive(eps, "eps")
        checked = {**made.config.options, "dropout_rate": made.config.dropout_rate}  # plain numbers, whatever was given
        own.pop("dropout_rate", None)  # that of the layer, which it has overruled
        self._config = {
            "embed_dim": width, "num_heads": made.num_heads, "attention": attention,
            "attention_options": {name: checked.get(name, value) for name, value in own.items()},
            "ffn_dim": None if ffn_dim is None else self._hidden, "activation": activation, "norm_first": self._norm_first, "eps": self._eps,
            "dropout_rate": checked["dropout_rate"], "seed": seed, "dtype": kind.name,
        }  # fmt: skip
        rng = np.random.default_rng([seed, 1])  # not the numbers that the attention has drawn
        self._arrays = {
            "norm_1.weight": np.ones(width, kind), "norm_1.bias": np.zeros(width, kind),
            "W_1": glorot(rng, (width, self._hidden), width, self._hidden, "W_1", kind), "b_1": np.zeros(self._hidden, kind),
            "W_2": glorot(rng, (self._hidden, width), self._hidden, width, "W_2", kind), "b_2": np.zeros(width, kind),
            "norm_2.weight": np.ones(width, kind), "norm_2.bias": np.zeros(width, kind),
        }  # fmt: skip

    @property
    def training(self) -> bool:
        """Whether weights are dropped; that of the attention."""
        return self.attention.training

    @training.setter
    def training(self, value: bool) -> None:
        self.attention.training = value

    @property
    def config(self) -> dict[str, Any]:
        """What makes this layer: ``AttentionGNNLayer(**layer.config)`` makes one that does the same. It goes through JSON."""
        return json.loads(json.dumps(self._config))  # type: ignore[no-any-return]

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: the arrays themselves, so that what is written to them counts.

        Returns
        -------
        dict of str to ndarray
            Those of the attention with "attention." before their names, ``W_1``, ``b_1``, ``W_2``, ``b_2``, and weight and bias of ``norm_1`` and
            ``norm_2``.
        """
        return {**{f"attention.{name}": array for name, array in self.attention.parameters().items()}, **self._arrays}

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters are."""
        return sum(array.size for array in self.parameters().values())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take parameters by the names that `parameters` gives them.

        Parameters
        ----------
        state : mapping of str to array or tensor
            All parameters.

        Raises
        ------
        InvalidInputError
            If parameters are missing, unknown, or not finite in the dtype of the layer. Nothing has changed then, nor where one has another shape.
        DimensionMismatchError
            If one has another shape.
        """
        read = StateDict(state, "AttentionGNNLayer")
        own = self.parameters()
        found = {name: read.take(name) for name in own}
        read.check_all_taken()
        ready = {}
        for name, array in own.items():
            if found[name].shape != array.shape:
                raise DimensionMismatchError(f"{name} must have shape {array.shape}, got {found[name].shape}")
            with np.errstate(over="ignore"):
                ready[name] = found[name].astype(array.dtype)  # a copy, for the state may be of these very arrays
            if not np.isfinite(ready[name]).all():
                raise InvalidInputError(f"{name} in state has numbers that aren't finite in {array.dtype}: create the layer with dtype='float64'")
        for name, array in own.items():
            array[...] = ready[name]

    def forward_graph(
        self, x: Any, edge_index: Any, edge_attr: Any = None, *, edge_weight: Any = None, seed: int | None = None, out: np.ndarray | None = None,
        threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Return new features of every node.

        Parameters
        ----------
        x : array, (N, embed_dim)
            Features of the nodes.
        edge_index, edge_attr, edge_weight, seed : optional
            As for `GraphVariant.forward_graph`.
        out : ndarray, (N, embed_dim), optional
            Where to write the result; may overlap no input.
        threads : int, optional
            How many threads to use at most, in attention and LayerNorm.

        Returns
        -------
        ndarray, (N, embed_dim)
            In the dtype of `x`.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        given = check_rank(as_array(x, "x"), "x", 2, "features of nodes are (N, width); Graph.batch makes one graph of several")
        if given.shape[1] != self.embed_dim:
            raise DimensionMismatchError(f"x must be embed_dim, {self.embed_dim}, wide, got shape {given.shape}")
        if out is not None:
            out = check_out(out, given.shape, given.dtype, {"x": given, **self.parameters()})
        told = {"edge_weight": edge_weight, "seed": seed, "threads": threads}
        with threads_of_call(threads):  # products, too
            return self._forward(given, edge_index, edge_attr, told, out, threads)

    __call__ = forward_graph

    def _forward(
        self, given: np.ndarray, edge_index: Any, edge_attr: Any, told: dict[str, Any], out: np.ndarray | None, threads: int | None
    ) -> np.ndarray:
        if self._norm_first:
            if self.attention._check_finite:
                check_finite(given, "x")  # a row that isn't would be NaN throughout, of no name
            arrived = self.attention.forward_graph(self._norm("norm_1", given, None, threads), edge_index, edge_attr, **told)
            compute = compute_dtype(given.dtype)
            between = saturated_sum(given.astype(compute, copy=False), arrived.astype(compute, copy=False))
            made = saturated_sum(self._feed_forward(self._norm("norm_2", between, None, threads)), between)
        else:
            arrived = self.attention.forward_graph(given, edge_index, edge_attr, **told)
            wide = compute_dtype(given.dtype)
            between = self._norm("norm_1", given.astype(wide, copy=False), arrived.astype(wide, copy=False), threads)
            made = self._norm("norm_2", self._feed_forward(between), between, threads)
        made = narrowed(made, given.dtype)
        if out is None:
            return made
        out[...] = made
        return out

    def _norm(self, name: str, x: np.ndarray, residual: np.ndarray | None, threads: int | None) -> np.ndarray:
        compute = compute_dtype(x.dtype)
        weight, bias = (self._arrays[f"{name}.{part}"].astype(compute, copy=False) for part in ("weight", "bias"))
        found: np.ndarray = layer_norm(x, weight, bias, eps=self._eps, residual=residual, threads=threads)
        return found

    def _feed_forward(self, x: np.ndarray) -> np.ndarray:
        """Return W_2 activation(W_1 x + b_1) + b_2, some rows at a time."""
        made = np.empty_like(x, order="C")
        for first in range(0, len(x), ROWS):
            hidden = linear(x[first : first + ROWS], self._arrays["W_1"], self._arrays["b_1"])
            _activate(hidden, self._activation)
            made[first : first + ROWS] = linear(hidden, self._arrays["W_2"], self._arrays["b_2"])
        return made

    def __repr__(self) -> str:
        return f"AttentionGNNLayer({self.embed_dim}, {self.num_heads}, attention={self._config['attention']!r})"


def _activate(x: np.ndarray, activation: str) -> None:
    """Apply an activation in place."""
    if activation == "relu":
        np.maximum(x, 0, out=x)
        return
    from scipy.special import ndtr  # Φ: a good part of a second to import

    with np.errstate(invalid="ignore"):
        x *= ndtr(x)
