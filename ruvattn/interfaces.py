"""The abstract classes of variants: what each kind of them can be asked.

    Attention ◄─┬─ HeadwiseAttention (headwise.py) ◄── standard, multihead, cross; most plugins start here
                ├─ SparseAttention, GraphAttention, GeometricAttention ──► Manifold
                └─ TrainableAttention ──► Gradients

    a call ──► attend(q, k, v, **options) ──► output, Context (context.py) ──► get_attention_weights, backward

A variant implements `Attention.attend` and `Attention.config`; the rest follows from them. The other classes add the questions that only some
variants can answer; a variant derives from as many as are true of it.
"""

from __future__ import annotations

import json
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .context import Context
from .errors import DimensionMismatchError, InvalidInputError
from .validation import as_array, check_int, check_probability

__all__ = [
    "Attention",
    "AttentionConfig",
    "Context",
    "GeometricAttention",
    "Gradients",
    "GraphAttention",
    "Manifold",
    "SparseAttention",
    "TrainableAttention",
]


@dataclass(frozen=True)
class AttentionConfig:
    """What makes a variant, in a form that survives JSON.

    Parameters
    ----------
    embed_dim : int
        Width of the queries, at least 1.
    num_heads : int, default 1
        Number of heads, at least 1.
    dropout_rate : float, default 0
        Share of the weights that is dropped while training, in [0, 1).
    attention_type : str, default "standard"
        The name that `ruvattn.create` takes.
    options : mapping of str to object
        The variant's other options: registered names, numbers, booleans, None, and sequences or mappings of these. Sequences and arrays become
        tuples.

    Raises
    ------
    InvalidInputError
        If a value is none of these.

    Examples
    --------
    >>> config = AttentionConfig(64, 4, attention_type="multihead", options={"num_kv_heads": 2})
    >>> AttentionConfig.from_json(config.to_json()) == config
    True
    >>> config.create().config.options["num_kv_heads"]
    2
    """

    embed_dim: int
    num_heads: int = 1
    dropout_rate: float = 0.0
    attention_type: str = "standard"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the way in for what is frozen
        set_field(self, "embed_dim", check_int(self.embed_dim, "embed_dim", 1))
        set_field(self, "num_heads", check_int(self.num_heads, "num_heads", 1))
        set_field(self, "dropout_rate", check_probability(self.dropout_rate, "dropout_rate"))
        if not isinstance(self.attention_type, str) or not self.attention_type:
            raise InvalidInputError(f"attention_type must be the name of a variant, got {self.attention_type!r}")
        set_field(self, "options", _plain(self.options, "options"))
        if not isinstance(self.options, dict):
            raise InvalidInputError(f"options must be a mapping of names to values, got {self.options!r}")
        own = [name for name in self.options if name in _CONFIG_FIELDS]
        if own:
            raise InvalidInputError(f"options must not hold {own[0]!r}, which is a field of its own")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of plain Python objects.

        Returns
        -------
        dict
            What `from_dict` takes; the caller's own.
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AttentionConfig:
        """Make a configuration of what `to_dict` returned.

        Parameters
        ----------
        values : mapping of str to object
            The fields; those with a default may be missing.

        Returns
        -------
        AttentionConfig
            Equal to the one that the mapping came from.

        Raises
        ------
        InvalidInputError
            If a field is unknown, missing or has a value that makes no sense.
        """
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"a configuration must be a mapping of {', '.join(_CONFIG_FIELDS)}, got {type(values).__name__}")
        unknown = [name for name in values if name not in _CONFIG_FIELDS]
        if unknown:
            raise InvalidInputError(f"a configuration has no field {unknown[0]!r}; its fields: {', '.join(_CONFIG_FIELDS)}")
        if "embed_dim" not in values:
            raise InvalidInputError("a configuration needs embed_dim")
        return cls(**values)

    def to_json(self) -> str:
        """Return the fields as JSON on one line.

        Returns
        -------
        str
            What `from_json` takes.
        """
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> AttentionConfig:
        """Make a configuration of what `to_json` returned.

        Parameters
        ----------
        text : str or bytes
            A JSON object.

        Returns
        -------
        AttentionConfig
            Equal to the one that the text came from.

        Raises
        ------
        InvalidInputError
            If it is no JSON, or no configuration.
        """
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInputError(f"a configuration must be JSON: {error}") from None
        return cls.from_dict(values)

    def create(self) -> Attention:
        """Create the variant.

        Returns
        -------
        Attention
            A new instance; parameters are initialised anew, from the seed in the options.

        Raises
        ------
        UnknownVariantError
            If no variant of that name is installed.
        InvalidInputError
            If it has no such option.
        """
        from .registry import create

        options = dict(self.options)
        if self.dropout_rate:  # not every variant knows dropout
            options["dropout_rate"] = self.dropout_rate
        return create(self.attention_type, embed_dim=self.embed_dim, num_heads=self.num_heads, **options)


_CONFIG_FIELDS = tuple(entry.name for entry in fields(AttentionConfig))


def _plain(value: Any, name: str) -> Any:
    """Return a value of a configuration as plain Python objects, or raise and name it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{name} must be finite, got {value!r}")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{name} must have names as keys, got {key!r}")
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    raise InvalidInputError(f"{name} must be a name, a number, a boolean, None, or a sequence or mapping of these, got {type(value).__name__}")


class Gradients(NamedTuple):
    """Gradients of a call of a variant.

    Attributes
    ----------
    query, keys, values : ndarray
        In the shapes of what the call was given.
    params : dict of str to ndarray
        By the names of `TrainableAttention.parameters`, in their shapes.
    """

    query: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    params: dict[str, np.ndarray]


class Attention(ABC):
    """A variant of attention.

    A subclass implements `attend` and `config`. Instances may be shared between threads: a call changes nothing but what its own thread
    remembers of it, which is the `Context` that methods without one refer to. Pickling and copying an instance drop that memory.

    Attributes
    ----------
    training : bool
        False, the default: no dropout. True: the weights are dropped at the rate of the configuration. Set it where training starts and ends.
    """

    training: bool = False

    @property
    @abstractmethod
    def config(self) -> AttentionConfig:
        """What makes this variant: ``config.create()`` makes another one."""

    @abstractmethod
    def attend(self, q: Any, k: Any = None, v: Any = None, **options: Any) -> tuple[np.ndarray, Context]:
        """Compute attention; what a variant implements, and what every call comes down to.

        Parameters
        ----------
        q, k, v : array
            As for `__call__`.
        **options
            As for `__call__`, without ``return_lse``.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            The output.
        context : Context
            What the call read and made.
        """

    def __call__(self, q: Any, k: Any = None, v: Any = None, *, return_lse: bool = False, **options: Any) -> Any:
        """Attend with queries over keys and values that are not split into heads.

        Parameters
        ----------
        q : array, (..., Lq, E)
            Queries; every leading axis is batch.
        k : array, (..., Lk, E), optional
            Keys; the queries when not given (self-attention).
        v : array, (..., Lk, V), optional
            Values; the keys when not given.
        return_lse : bool, default False
            Whether to return the log-sum-exp of each row too.
        **options
            Masks and options of `ruvattn.attention`: mask, bias, causal, window, query_offset, key_lengths, scale, softcap, sinks, dropout,
            seed, out, threads. Masks and biases broadcast to (..., num_heads, Lq, Lk).

        Returns
        -------
        out : ndarray, (..., Lq, V')
            In the dtype of `q`.
        lse : ndarray, (..., num_heads, Lq)
            Only with ``return_lse``.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        out, context = self.forward_with_context(q, k, v, **options)
        return (out, context.lse) if return_lse else out

    def forward_with_context(self, q: Any, k: Any = None, v: Any = None, **options: Any) -> tuple[np.ndarray, Context]:
        """Attend, and return what the call leaves behind too.

        Parameters
        ----------
        q, k, v : array
            As for `__call__`.
        **options
            As for `__call__`, without ``return_lse``: the context has the lse.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            The output.
        context : Context
            For `get_attention_weights`, and for the backward pass.
        """
        found = self.attend(q, k, v, **options)
        self._remember(found[1])
        return found

    def forward(self, query: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with one query.

        Parameters
        ----------
        query : array, (E,)
            The query.
        keys : array, (N, E)
            Keys, at least one.
        values : array, (N, V)
            Values.

        Returns
        -------
        ndarray, (V',)
            The output.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        return self(check_rank(query, "query", 1, "forward_batch takes several")[None], *_sequences(keys, values))[0]

    def forward_batch(self, queries: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with several queries, each on its own: row b is what `forward` gives for query b.

        Parameters
        ----------
        queries : array, (B, E)
            The queries, at least one.
        keys : array, (N, E)
            Keys, at least one, which all queries share.
        values : array, (N, V)
            Values.

        Returns
        -------
        ndarray, (B, V')
            The outputs.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        return self(check_rank(queries, "queries", 2, "forward takes one"), *_sequences(keys, values))

    def get_attention_weights(self, context: Context | None = None) -> np.ndarray | None:
        """Return the weights of a call, computed now.

        Parameters
        ----------
        context : Context, optional
            What `forward_with_context` returned; that of this thread's last call when not given.

        Returns
        -------
        ndarray, (..., num_heads, Lq, Lk), or None
            Dense; None if this thread has not called the variant, or if the variant has no weights to show.
        """
        if context is None:
            context = self._remembered()
        elif not isinstance(context, Context):
            raise InvalidInputError(f"context must be what forward_with_context returned, got {type(context).__name__}")
        return None if context is None else context.weights()

    def reset(self) -> None:
        """Forget this thread's last call, and with it the arrays that it refers to."""
        self._remember(None)

    def _remember(self, context: Context | None) -> None:
        memory = self.__dict__.get("_memory")
        if memory is None:
            # Not in __init__, which subclasses may not call; setdefault is atomic, so that threads agree on the object.
            memory = self.__dict__.setdefault("_memory", threading.local())
        memory.context = context

    def _remembered(self) -> Context | None:
        return getattr(self.__dict__.get("_memory"), "context", None)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_memory", None)
        return state

    def __repr__(self) -> str:
        return f"{type(self).__name__}(embed_dim={self.config.embed_dim}, num_heads={self.config.num_heads})"


def check_rank(x: Any, name: str, ndim: int, hint: str) -> np.ndarray:
    """Return an array with so many axes."""
    array = as_array(x, name)
    if array.ndim != ndim:
        raise DimensionMismatchError(f"{name} must have {ndim} ax{'i' if ndim == 1 else 'e'}s, got shape {array.shape}: {hint}")
    return array


def _sequences(keys: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    hint = "batches go through a call, variant(q, k, v)"
    return check_rank(keys, "keys", 2, hint), check_rank(values, "values", 2, hint)


class SparseAttention(Attention):
    """A variant that computes a part of the pairs only, whichever it is told."""

    @abstractmethod
    def forward_sparse(self, query: Any, keys: Any, values: Any, mask: Any) -> np.ndarray:
        """Attend to the pairs of a mask.

        Parameters
        ----------
        query : array, (..., Lq, E)
            Queries.
        keys : array, (..., Lk, E)
            Keys.
        values : array, (..., Lk, V)
            Values.
        mask : Pattern, scipy.sparse array or array of bool
            True, or stored = attend.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output.
        """

    @abstractmethod
    def forward_windowed(self, query: Any, keys: Any, values: Any, window_size: int) -> np.ndarray:
        """Attend to the keys around each query.

        Parameters
        ----------
        query, keys, values : array
            As for `forward_sparse`.
        window_size : int
            How many keys away a query sees.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output.
        """

    @abstractmethod
    def forward_strided(self, query: Any, keys: Any, values: Any, window_size: int, stride: int) -> np.ndarray:
        """Attend to the keys around each query and to every so-manieth beyond (Child et al., 2019).

        Parameters
        ----------
        query, keys, values : array
            As for `forward_sparse`.
        window_size : int
            How many keys away a query sees all of them.
        stride : int
            The distance between those further away.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output.
        """

    @abstractmethod
    def forward_topk(self, query: Any, keys: Any, values: Any, k: int) -> np.ndarray:
        """Attend to the k keys with the largest logits of each row.

        Parameters
        ----------
        query, keys, values : array
            As for `forward_sparse`.
        k : int
            How many keys a query sees, at least 1.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output.
        """


class GraphAttention(Attention):
    """A variant that attends along the edges of a graph.

    An ``edge_index`` is (2, E): row 0 the source, which is the key, and row 1 the destination, which is the query. A list of (source,
    destination) pairs is taken too. The neighbourhood of a node are its incoming edges.
    """

    @abstractmethod
    def forward_with_edges(self, query: Any, keys: Any, values: Any, edge_index: Any, edge_attr: Any = None) -> np.ndarray:
        """Attend along the edges from keys to queries.

        Parameters
        ----------
        query : array, (Nq, E)
            Features of the destinations.
        keys : array, (Nk, E)
            Features of the sources.
        values : array, (Nk, V)
            What the sources hand on.
        edge_index : array of int, (2, E), or sequence of pairs
            The edges.
        edge_attr : array, (E, F), optional
            Features of the edges.

        Returns
        -------
        ndarray, (Nq, V')
            The output.
        """

    @abstractmethod
    def forward_neighborhood(self, node: int, x: Any, edge_index: Any) -> np.ndarray:
        """Attend with one node to its neighbourhood.

        Parameters
        ----------
        node : int
            The node.
        x : array, (N, E)
            Features of all nodes.
        edge_index : array of int, (2, E), or sequence of pairs
            The edges.

        Returns
        -------
        ndarray, (V',)
            The output of the node.
        """

    @abstractmethod
    def forward_k_hop(self, node: int, x: Any, edge_index: Any, k: int) -> np.ndarray:
        """Attend with one node to all nodes that reach it along at most k edges.

        Parameters
        ----------
        node : int
            The node.
        x : array, (N, E)
            Features of all nodes.
        edge_index : array of int, (2, E), or sequence of pairs
            The edges.
        k : int
            How many hops, at least 1.

        Returns
        -------
        ndarray, (V',)
            The output of the node.
        """

    @abstractmethod
    def forward_graph(self, x: Any, edge_index: Any, edge_attr: Any = None) -> np.ndarray:
        """Attend with every node to its neighbourhood.

        Parameters
        ----------
        x : array, (N, E)
            Features of the nodes.
        edge_index : array of int, (2, E), or sequence of pairs
            The edges.
        edge_attr : array, (E, F), optional
            Features of the edges.

        Returns
        -------
        ndarray, (N, V')
            The output of every node.
        """


class Manifold(ABC):
    """A space in which distances and means are not those of vectors; all methods take leading axes and broadcast them."""

    @property
    @abstractmethod
    def curvature(self) -> Any:
        """The sectional curvature: negative for hyperbolic spaces, positive for spheres."""

    @abstractmethod
    def distance(self, x: Any, y: Any) -> np.ndarray:
        """Return the geodesic distance of points.

        Parameters
        ----------
        x, y : array, (..., D)
            Points.

        Returns
        -------
        ndarray, (...)
            At least 0.
        """

    @abstractmethod
    def inner_product(self, base: Any, u: Any, v: Any) -> np.ndarray:
        """Return the inner product of tangent vectors in the metric at a point.

        Parameters
        ----------
        base : array, (..., D)
            The point.
        u, v : array, (..., D)
            Tangent vectors there.

        Returns
        -------
        ndarray, (...)
            The inner product.
        """

    @abstractmethod
    def exp_map(self, base: Any, tangent: Any) -> np.ndarray:
        """Return where the geodesic arrives that leaves a point with a velocity, after time 1.

        Parameters
        ----------
        base : array, (..., D)
            The point.
        tangent : array, (..., D)
            The velocity.

        Returns
        -------
        ndarray, (..., D)
            A point.
        """

    @abstractmethod
    def log_map(self, base: Any, point: Any) -> np.ndarray:
        """Return the velocity with which the geodesic from one point arrives at another; the inverse of `exp_map`.

        Parameters
        ----------
        base, point : array, (..., D)
            From where, and to where.

        Returns
        -------
        ndarray, (..., D)
            A tangent vector at `base`.
        """

    @abstractmethod
    def project(self, x: Any) -> np.ndarray:
        """Return the points of the manifold that are closest to vectors.

        Parameters
        ----------
        x : array, (..., D)
            Vectors in the coordinates of points.

        Returns
        -------
        ndarray, (..., D)
            Points.
        """

    @abstractmethod
    def project_tangent(self, point: Any, base: Any) -> np.ndarray:
        """Return the tangent vectors that are closest to vectors.

        Parameters
        ----------
        point : array, (..., D)
            Vectors in the coordinates of points.
        base : array, (..., D)
            The points whose tangent space it is.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at `base`.
        """

    @abstractmethod
    def transport(self, tangent: Any, base: Any, point: Any) -> np.ndarray:
        """Return tangent vectors after parallel transport along the geodesic.

        Parameters
        ----------
        tangent : array, (..., D)
            Tangent vectors at `base`.
        base, point : array, (..., D)
            From where, and to where.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at `point`.
        """

    @abstractmethod
    def mean(self, points: Any, weights: Any) -> np.ndarray:
        """Return the weighted mean of points.

        Parameters
        ----------
        points : array, (..., N, D)
            Points.
        weights : array, (..., N)
            Not negative; only their ratios matter.

        Returns
        -------
        ndarray, (..., D)
            A point.
        """


class GeometricAttention(Attention):
    """A variant whose queries, keys and values are points of a manifold."""

    @property
    @abstractmethod
    def manifold(self) -> Manifold:
        """The manifold."""

    @abstractmethod
    def forward_geometric(self, query: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with points over points.

        Parameters
        ----------
        query : array, (..., Lq, E)
            Points.
        keys : array, (..., Lk, E)
            Points.
        values : array, (..., Lk, V)
            Points.

        Returns
        -------
        ndarray, (..., Lq, V')
            Points.
        """

    @abstractmethod
    def compute_manifold_weights(self, query: Any, keys: Any) -> np.ndarray:
        """Return the attention weights of points, dense.

        Parameters
        ----------
        query : array, (..., Lq, E)
            Points.
        keys : array, (..., Lk, E)
            Points.

        Returns
        -------
        ndarray, (..., num_heads, Lq, Lk)
            Rows sum to 1.
        """

    def project_tangent(self, point: Any, base: Any) -> np.ndarray:
        """Return the tangent vectors that are closest to vectors; see `Manifold.project_tangent`.

        Parameters
        ----------
        point, base : array, (..., D)
            Vectors, and the points whose tangent space it is.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at `base`.
        """
        return self.manifold.project_tangent(point, base)

    def exp_map(self, base: Any, tangent: Any) -> np.ndarray:
        """Return where geodesics arrive; see `Manifold.exp_map`.

        Parameters
        ----------
        base, tangent : array, (..., D)
            Points, and velocities there.

        Returns
        -------
        ndarray, (..., D)
            Points.
        """
        return self.manifold.exp_map(base, tangent)

    def log_map(self, base: Any, point: Any) -> np.ndarray:
        """Return the velocities of geodesics between points; see `Manifold.log_map`.

        Parameters
        ----------
        base, point : array, (..., D)
            From where, and to where.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at `base`.
        """
        return self.manifold.log_map(base, point)


class TrainableAttention(Attention):
    """A variant that has gradients, and parameters to learn by them."""

    @abstractmethod
    def backward(self, grad_output: Any, context: Context | None = None) -> Gradients:
        """Return the gradients of a call.

        Parameters
        ----------
        grad_output : array, (..., Lq, V')
            The gradient of the loss by the output.
        context : Context, optional
            Of the call; this thread's last one when not given.

        Returns
        -------
        Gradients
            By the inputs of the call and by the parameters.
        """

    @abstractmethod
    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by name: the arrays themselves, so that what is written to them counts.

        Returns
        -------
        dict of str to ndarray
            Possibly empty.
        """

    @property
    def num_parameters(self) -> int:
        """How many numbers the parameters are."""
        return sum(array.size for array in self.parameters().values())

    @abstractmethod
    def update_parameters(self, optimizer: Any) -> None:
        """Let an optimiser take a step.

        Parameters
        ----------
        optimizer : object
            Of `ruvattn.training`, or with its methods.
        """

    @abstractmethod
    def save_checkpoint(self, path: str | PathLike[str]) -> None:
        """Write parameters and configuration to a file.

        Parameters
        ----------
        path : path
            The file; an existing one is replaced, or left whole where writing fails.
        """

    @abstractmethod
    def load_checkpoint(self, path: str | PathLike[str]) -> None:
        """Read the parameters from a file that `save_checkpoint` wrote.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        CheckpointError
            If it can't be read or is of another variant; then nothing has changed.
        """
