"""A layer of a deep graph network: attention along the edges, and what makes it possible to put many of them on top of each other.

    x ─┬─► attention ─► + ─► LayerNorm ─┬─► W_1 ─► activation ─► W_2 ─► + ─► LayerNorm ─► out            norm_first=False
       └────────────────┘               └──────────────────────────────┘
    x ─┬─► LayerNorm ─► attention ─► + ─┬─► LayerNorm ─► W_1 ─► activation ─► W_2 ─► + ─► out            norm_first=True
       └─────────────────────────────┘  └─────────────────────────────────────────────┘

and the same from the right to the left in `AttentionGNNLayer.backward`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NoReturn

import numpy as np

from ruvattn import Context, create, layer_norm, layer_norm_backward, variants
from ruvattn.builtin.multihead import glorot, parameter_dtype
from ruvattn.errors import CheckpointError, DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn.projection import compute_dtype, linear, linear_vjp, saturated_sum
from ruvattn.running import narrowed
from ruvattn.threads import threads_of_call
from ruvattn.trainable import TrainableAttention
from ruvattn.validation import as_array, check_bool, check_finite, check_int, check_out, check_positive, check_probability, check_rank, check_seed

from .variants.backward import GraphGradients, fitted
from .variants.base import GraphVariant
from .variants.state import StateDict
from .variants.steps import added

__all__ = ["AttentionGNNLayer", "LayerContext"]

KIND = "graph-layer"
"""What checkpoints of layers say that they are."""

ACTIVATIONS = ("relu", "gelu")

ROWS = 1 << 14
"""Rows that go through the feed-forward network at once: what is between its matrices is as wide as both together."""


class LayerContext(Context):
    """What a call of a layer leaves behind.

    Parameters
    ----------
    x : ndarray, (N, embed_dim)
        What the call was given.
    inner : Context
        What the call of the attention left behind; arrays that this one is asked for are its.
    parts : dict of str to ndarray, or None
        What was made on the way; None without a gradient cache.
    remake : callable
        Returns another context that has the parts.
    """

    def __init__(self, x: np.ndarray, inner: Context, parts: dict[str, np.ndarray] | None, remake: Callable[[], LayerContext]) -> None:
        self.inputs, self.shape, self.inner, self.parts, self._remake = (x, x, x), x.shape, inner, parts, remake

    def whole(self) -> LayerContext:
        """Return a context that has all parts: itself, unless the call was made without a gradient cache."""
        return self if self.parts is not None else self._remake()

    def weights(self, threads: int | None = None) -> np.ndarray:
        """Compute the weights of the attention, after dropout, as a dense matrix."""
        return self.inner.weights(threads)

    def __getattr__(self, name: str) -> Any:
        if name in ("q", "k", "v", "out", "lse", "options"):
            return getattr(self.inner, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"LayerContext(x={self.inputs[0].shape}, inner={self.inner!r})"


class AttentionGNNLayer(TrainableAttention):
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
    def training(self) -> bool:  # type: ignore[override]  # an attribute of others
        """Whether weights are dropped; that of the attention."""
        return self.attention.training

    @training.setter
    def training(self, value: bool) -> None:
        self.attention.training = value

    @property
    def gradient_cache(self) -> bool:  # type: ignore[override]
        """Whether a call keeps what `backward` needs of it, or makes it again then; that of the attention."""
        return self.attention.gradient_cache

    @gradient_cache.setter
    def gradient_cache(self, value: bool) -> None:
        self.attention.gradient_cache = value

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]  # no variant, which a registered name makes
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
        made, context = self.attend(x, edge_index, edge_attr, edge_weight=edge_weight, seed=seed, out=out, threads=threads)
        self._remember(context)
        return made

    __call__ = forward_graph

    def attend(  # type: ignore[override]  # edges in the place of keys
        self, x: Any, edge_index: Any, edge_attr: Any = None, *, edge_weight: Any = None, seed: int | None = None, out: np.ndarray | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, LayerContext]:  # fmt: skip
        """Return new features of every node, and what the call leaves behind.

        Parameters
        ----------
        x, edge_index, edge_attr, edge_weight, seed, out, threads : optional
            As for `forward_graph`.

        Returns
        -------
        out : ndarray, (N, embed_dim)
            In the dtype of `x`.
        context : LayerContext
            For `backward`.

        Raises
        ------
        AttentionError
            As for `forward_graph`.
        """
        given = check_rank(as_array(x, "x"), "x", 2, "features of nodes are (N, width); Graph.batch makes one graph of several")
        if given.shape[1] != self.embed_dim:
            raise DimensionMismatchError(f"x must be embed_dim, {self.embed_dim}, wide, got shape {given.shape}")
        if out is not None:
            out = check_out(out, given.shape, given.dtype, {"x": given, **self.parameters()})
        told = {"edge_weight": edge_weight, "seed": seed, "threads": threads}
        with threads_of_call(threads):  # products, too
            made, parts, inner = self._forward(given, edge_index, edge_attr, told, threads)

        def remake() -> LayerContext:
            again = {**told, "seed": inner.options.get("seed"), "threads": None}
            _, parts, inner_again = self._forward(given, edge_index, edge_attr, again, None)
            return LayerContext(given, inner_again, parts, remake)

        context = LayerContext(given, inner, parts if self.gradient_cache else None, remake)
        made = narrowed(made, given.dtype)
        if out is None:
            return made, context
        out[...] = made
        return out, context

    def _forward(
        self, given: np.ndarray, edge_index: Any, edge_attr: Any, told: dict[str, Any], threads: int | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray], Context]:
        """Return the output in the compute dtype, what was made on the way, and the context of the attention."""
        compute = compute_dtype(given.dtype)
        wide = given.astype(compute, copy=False)
        parts: dict[str, np.ndarray] = {}
        if self._norm_first:
            if self.attention._check_finite:
                check_finite(given, "x", self.attention.config.options)  # a row that isn't would be NaN throughout, of no name
            read = self._norm("norm_1", given, None, parts, threads)
        else:
            read = given
        parts["arrived"] = arrived = self.attention.forward_graph(read, edge_index, edge_attr, **told).astype(compute, copy=False)
        inner = self.attention.last_context
        assert inner is not None
        if self._norm_first:
            parts["between"] = between = saturated_sum(wide, arrived)
            parts["fed"] = fed = self._norm("norm_2", between, None, parts, threads)
            return saturated_sum(self._feed_forward(fed), between), parts, inner
        parts["between"] = between = self._norm("norm_1", wide, arrived, parts, threads)
        parts["fed"] = fed = self._feed_forward(between)
        return self._norm("norm_2", fed, between, parts, threads), parts, inner

    def forward(self, query: Any, keys: Any, values: Any) -> NoReturn:
        """Refuse: a layer goes along the edges of a graph.

        Parameters
        ----------
        query, keys, values : array
            As for `ruvattn.Attention.forward`.

        Raises
        ------
        UnsupportedError
            At each call.
        """
        raise UnsupportedError("AttentionGNNLayer has no forward(query, keys, values): it goes along edges, by forward_graph(x, edge_index)")

    forward_batch = forward

    # --- backward -----------------------------------------------------------------------------------------------------------------

    def backward(self, grad_output: Any, context: Context | None = None, *, threads: int | None = None) -> GraphGradients:
        """Return the gradients of a call.

        Parameters
        ----------
        grad_output : array, (N, embed_dim)
            The gradient of the loss by the output, in its shape and in its dtype or, of a narrow one, in float32.
        context : Context, optional
            Of the call, as `attend` returns it; that of this thread's last one when not given. Its arrays and the parameters have to be as they were.
        threads : int, optional
            How many threads to use at most. Results are the same to the bit for any number.

        Returns
        -------
        GraphGradients
            `query` is the gradient of x as a whole, and keys and values are 0; those of the parameters go by the names of `parameters`.

        Raises
        ------
        InvalidInputError
            If there was no call, the context is of something else, or `grad_output` has another dtype or is not finite.
        DimensionMismatchError
            If it has another shape than the output.
        """
        if context is None:
            context = self._remembered()
            if context is None:
                raise InvalidInputError("backward needs a call to go back through, and this thread has made none: call the layer before it")
        if not isinstance(context, LayerContext) or context.inputs[0].shape[1] != self.embed_dim:
            raise InvalidInputError(f"context must be of a call of this layer, got {context!r}")
        given = self.attention._read_gradient(grad_output, context)
        x = context.inputs[0]
        compute = compute_dtype(x.dtype)
        upstream, wide = given.astype(compute, copy=False), x.astype(compute, copy=False)
        with threads_of_call(threads):
            whole = context.whole()
            parts = whole.parts
            assert parts is not None
            if self._norm_first:
                dfed, dparams = self._feed_forward_vjp(parts["fed"], upstream)
                dbetween, more = self._norm_vjp("norm_2", dfed, parts["between"], None, parts, threads)
                darrived = upstream + dbetween
            else:
                dsum, more = self._norm_vjp("norm_2", upstream, parts["fed"], parts["between"], parts, threads)
                dbetween, dparams = self._feed_forward_vjp(parts["between"], dsum)
                darrived, first = self._norm_vjp("norm_1", dsum + dbetween, wide, parts["arrived"], parts, threads)
                more = {**more, **first}
            through = self.attention.backward(darrived, whole.inner, threads=threads)
            dx = through.total().astype(compute, copy=False)
            if self._norm_first:
                dx, first = self._norm_vjp("norm_1", dx, x, None, parts, threads)
                more = {**more, **first}
        dparams = {**dparams, **more, **{f"attention.{name}": array for name, array in through.params.items()}}
        params = {name: fitted(dparams[name], array.dtype) for name, array in self.parameters().items()}
        self.keep_gradients(params)
        query = fitted(darrived + dx.astype(compute, copy=False), x.dtype)
        nothing = np.broadcast_to(np.zeros((), x.dtype), x.shape)
        return GraphGradients(query, nothing, nothing, params, through.edge_attr)

    def reset(self) -> None:
        """Forget this thread's last call and its gradients, and with them the arrays that they refer to."""
        super().reset()
        self.attention.reset()

    def _checkpoint_metadata(self) -> dict[str, Any]:
        return {"kind": KIND, "config": self.config}

    def load_checkpoint(self, path: str | PathLike[str]) -> None:
        """Read the parameters from a file that `save_checkpoint` wrote.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        CheckpointError
            If it can't be read or is of another layer; then nothing has changed.
        """
        from ruvattn.checkpoints import load_arrays

        arrays, metadata = load_arrays(path, kind=KIND)
        saved = metadata.get("config")
        for name in ("attention", "embed_dim", "num_heads", "ffn_dim", "activation", "norm_first"):
            if not isinstance(saved, Mapping) or saved.get(name) != self._config[name]:
                of = saved.get(name) if isinstance(saved, Mapping) else None
                raise CheckpointError(f"{path} is of a layer with {name} {of!r}, and this one has {self._config[name]!r}: create one like it")
        try:
            self.load_state_dict(arrays)
        except (InvalidInputError, DimensionMismatchError) as error:
            raise CheckpointError(f"{path} has other parameters than this layer: {error}") from None

    # --- its parts ----------------------------------------------------------------------------------------------------------------

    def _norm(self, name: str, x: np.ndarray, residual: np.ndarray | None, parts: dict[str, np.ndarray], threads: int | None) -> np.ndarray:
        """Return a LayerNorm, and leave its means and deviations among the parts."""
        compute = compute_dtype(x.dtype)
        weight, bias = (self._arrays[f"{name}.{part}"].astype(compute, copy=False) for part in ("weight", "bias"))
        found, mean, rstd = layer_norm(x, weight, bias, eps=self._eps, residual=residual, return_stats=True, threads=threads)
        parts[f"{name}.mean"], parts[f"{name}.rstd"] = mean, rstd
        return found  # type: ignore[no-any-return]

    def _norm_vjp(
        self, name: str, upstream: np.ndarray, x: np.ndarray, residual: np.ndarray | None, parts: dict[str, np.ndarray], threads: int | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of a LayerNorm: of x, which is that of the residual too, and of weight and bias."""
        weight = self._arrays[f"{name}.weight"].astype(compute_dtype(x.dtype), copy=False)
        mean, rstd = parts[f"{name}.mean"], parts[f"{name}.rstd"]
        dx, dweight, dbias = layer_norm_backward(upstream, x, mean, rstd, weight, residual=residual, threads=threads)
        assert dweight is not None and dbias is not None
        return dx, {f"{name}.weight": dweight, f"{name}.bias": dbias}

    def _feed_forward(self, x: np.ndarray) -> np.ndarray:
        """Return W_2 activation(W_1 x + b_1) + b_2, some rows at a time."""
        made = np.empty_like(x, order="C")
        for first in range(0, len(x), ROWS):
            hidden = linear(x[first : first + ROWS], self._arrays["W_1"], self._arrays["b_1"])
            _activate(hidden, self._activation)
            made[first : first + ROWS] = linear(hidden, self._arrays["W_2"], self._arrays["b_2"])
        return made

    def _feed_forward_vjp(self, x: np.ndarray, upstream: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of x and of the parameters of the feed-forward network, some rows at a time."""
        dx = np.empty_like(x, order="C")
        dparams: dict[str, np.ndarray] = {}
        for first in range(0, len(x), ROWS):
            rows = x[first : first + ROWS]
            hidden = linear(rows, self._arrays["W_1"], self._arrays["b_1"])
            slope = _slope(hidden, self._activation)
            _activate(hidden, self._activation)
            gradient, dweight, dbias = linear_vjp(upstream[first : first + ROWS], hidden, self._arrays["W_2"], bias=True)
            gradient *= slope
            dx[first : first + ROWS], more, shift = linear_vjp(gradient, rows, self._arrays["W_1"], bias=True)
            assert dbias is not None and shift is not None
            dparams = added(dparams, {"W_2": dweight, "b_2": dbias, "W_1": more, "b_1": shift})
        return dx, dparams

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


def _slope(x: np.ndarray, activation: str) -> np.ndarray:
    """Return the derivative of an activation."""
    if activation == "relu":
        return (x > 0).astype(x.dtype)
    from scipy.special import ndtr

    with np.errstate(over="ignore", under="ignore"):
        density = np.exp(x * x * x.dtype.type(-0.5)) * x.dtype.type(1 / np.sqrt(2 * np.pi))
    slope: np.ndarray = ndtr(x) + x * density
    return slope
