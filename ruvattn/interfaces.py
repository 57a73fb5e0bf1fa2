"""The abstract classes of variants: what each kind of them can be asked.

    Attention ◄─┬─ HeadwiseAttention (headwise.py) ◄── standard, multihead, cross; most plugins start here
                ├─ SparseAttention, GraphAttention, GeometricAttention ──► Manifold
                └─ TrainableAttention ──► Gradients

    AttentionConfig (attention_config.py) is what makes one; Manifold (manifold.py) what a geometric one moves on

    a call ──► attend(q, k, v, **options) ──► output, Context (context.py) ──► get_attention_weights, backward

A variant implements `Attention.attend` and `Attention.config`; the rest follows from them. The other classes add the questions that only some
variants can answer; a variant derives from as many as are true of it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .attention_config import AttentionConfig
from .context import Context
from .errors import InvalidInputError
from .manifold import Manifold
from .validation import check_rank

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
