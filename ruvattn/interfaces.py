"""The abstract classes of variants: what each kind of them can be asked.

    Attention ◄─┬─ TrainableAttention ◄── HeadwiseAttention (headwise.py) ◄── standard, multihead, cross; most plugins start here
    (base.py)   │  (trainable.py) ──► Gradients
                └─ SparseAttention, GraphAttention, GeometricAttention ──► Manifold

    AttentionConfig (attention_config.py) is what makes one; Manifold (manifold.py) what a geometric one moves on

    a call ──► attend(q, k, v, **options) ──► output, Context (context.py) ──► get_attention_weights, backward

A variant implements `Attention.attend` and `Attention.config`; the rest follows from them. The other classes add the questions that only some
variants can answer; a variant derives from as many as are true of it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from .attention_config import AttentionConfig
from .base import Attention
from .context import Context
from .manifold import Manifold
from .trainable import Gradients, TrainableAttention

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
