"""Edges in two orders: as they were given, which is what users see, and by destination, which is what kernels see.

    given order    0: 2→0   1: 0→1   2: 1→0          row 0: 2, 1   row 1: 0   row 2: –        order = [0, 2, 1]

Structure, attributes and weights are held in the order of the adjacency alone; what is asked for in the given order is put into it then. Nothing here
knows how edges come in (`graph.py`) or what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from ruvattn import Adjacency
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.threads import keep_pausable
from ruvattn.validation import as_numbers

from . import _structure

__all__ = ["OrderedEdges", "frozen"]

keep_pausable(_structure)  # it has a team of threads, which a fork has to find at rest


class OrderedEdges:
    """An adjacency with what belongs to its edges, and the order that they were given in. Never changes."""

    _adjacency: Adjacency
    _bipartite: bool
    _order: np.ndarray | None  # None: the order of the adjacency is the given one
    _attr: np.ndarray | None  # in the order of the adjacency, as are the weights
    _weight: np.ndarray | None
    _kept: dict[Any, Any]  # what was made and may be asked for again

    @classmethod
    def _make(
        cls,
        adjacency: Adjacency,
        order: np.ndarray | None,
        *,
        bipartite: bool = False,
        attr: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> Self:
        """Return one of parts that are known to be fine and belong to nobody else; attributes and weights in the order of the adjacency."""
        self = cls.__new__(cls)
        self._set(adjacency, None if order is None else frozen(order), bipartite)
        self._attr = None if attr is None else frozen(attr)
        self._weight = None if weight is None else frozen(weight)
        return self

    def _set(self, adjacency: Adjacency, order: np.ndarray | None, bipartite: bool) -> None:
        self._adjacency, self._order, self._bipartite = adjacency, order, bipartite
        self._attr = self._weight = None
        self._kept = {}

    def _sorted(self, array: np.ndarray) -> np.ndarray:
        """Return a copy in the order of the adjacency."""
        return frozen(array.copy("C") if self._order is None else np.ascontiguousarray(array.take(self._order, axis=0)))

    # --- what it is ---------------------------------------------------------------------------------------------------------------

    @property
    def num_sources(self) -> int:
        """How many nodes there are that edges come from."""
        return self._adjacency.num_keys

    @property
    def num_destinations(self) -> int:
        """How many nodes there are that edges lead to."""
        return self._adjacency.num_rows

    @property
    def num_nodes(self) -> int:
        """How many nodes there are; an error for a bipartite graph, which has two sets of them."""
        self._check_one_set("num_nodes")
        return self._adjacency.num_rows

    @property
    def num_edges(self) -> int:
        """How many edges there are."""
        return self._adjacency.num_edges

    @property
    def is_bipartite(self) -> bool:
        """Whether sources and destinations are two sets of nodes, even if of one size."""
        return self._bipartite

    @property
    def adjacency(self) -> Adjacency:
        """The edges by destination: rows are destinations, keys are sources."""
        return self._adjacency

    @property
    def order(self) -> np.ndarray:
        """Which of the edges given each edge of the adjacency is, (E,) int32."""
        if self._order is None:
            return self._keep("order", lambda: frozen(np.arange(self.num_edges, dtype=np.int32)))
        return self._order

    @property
    def edge_index(self) -> np.ndarray:
        """Source and destination of each edge in the order given, (2, E) int64: a new array."""
        ends = (self._adjacency.indices, self._adjacency.edge_rows())
        found = np.empty((2, self.num_edges), np.int64)
        places = None if self._order is None else self._places()
        for row, end in enumerate(ends):
            found[row] = end if places is None else end.take(places)
        return found

    @property
    def edge_attr(self) -> np.ndarray | None:
        """Attributes of the edges in the order given, (E, F): a new array. None if there are none."""
        return None if self._attr is None else self._given(self._attr, 0)

    @property
    def edge_weight(self) -> np.ndarray | None:
        """Weights of the edges in the order given, (E,): a new array. None if there are none."""
        return None if self._weight is None else self._given(self._weight, 0)

    @property
    def edge_dim(self) -> int:
        """How many attributes an edge has; 0 if none."""
        return 0 if self._attr is None else int(self._attr.shape[1])

    @property
    def has_edge_weight(self) -> bool:
        """Whether edges have weights."""
        return self._weight is not None

    @property
    def has_negative_weight(self) -> bool:
        """Whether an edge has a weight below 0."""
        weight = self._weight
        return weight is not None and self._keep("negative", lambda: bool(weight.size) and bool(weight.min() < 0))

    @property
    def in_degrees(self) -> np.ndarray:
        """How many edges lead to each destination, (num_destinations,) int64."""
        return np.diff(self._adjacency.indptr)

    @property
    def out_degrees(self) -> np.ndarray:
        """How many edges come from each source, (num_sources,) int64."""
        counts = np.zeros(self.num_sources, np.int64)
        _structure.count_keys(self._adjacency.indices, counts)
        return counts

    def csr_edge_attr(self, dtype: Any = None) -> np.ndarray | None:
        """Return the attributes in the order of the adjacency.

        Parameters
        ----------
        dtype : dtype, optional
            Their own by default. Another one is made once.

        Returns
        -------
        ndarray, (E, F), or None
            Read-only and contiguous.

        Raises
        ------
        InvalidInputError
            If a number isn't finite in that dtype.
        """
        return self._cast(self._attr, dtype, "edge_attr")

    def csr_edge_weight(self, dtype: Any = None) -> np.ndarray | None:
        """Return the weights in the order of the adjacency.

        Parameters
        ----------
        dtype : dtype, optional
            Their own by default. Another one is made once.

        Returns
        -------
        ndarray, (E,), or None
            Read-only and contiguous.

        Raises
        ------
        InvalidInputError
            If a number isn't finite in that dtype.
        """
        return self._cast(self._weight, dtype, "edge_weight")

    def csr_edge_shares(self, dtype: Any) -> np.ndarray | None:
        """Return weights divided by the largest of the edges to the same destination.

        Where shares are made of them only their ratios count; so divided, no dtype rounds all of them to 0.

        Parameters
        ----------
        dtype : dtype
            Of the result; kept for each.

        Returns
        -------
        ndarray, (E,), or None
            From 0 to 1, read-only, in the order of the adjacency, for weights of at least 0; None if there are none.
        """
        weight = self.csr_edge_weight(np.float64)
        if weight is None:
            return None

        def divided() -> np.ndarray:
            counts = np.diff(self.adjacency.indptr)
            some = counts > 0
            largest = np.repeat(np.maximum.reduceat(weight, self.adjacency.indptr[:-1][some]), counts[some]) if weight.size else weight
            return frozen(np.divide(weight, largest, out=np.zeros_like(weight), where=largest > 0).astype(dtype))

        found: np.ndarray = self._keep(("shares", np.dtype(dtype)), divided)
        return found

    def _cast(self, array: np.ndarray | None, dtype: Any, name: str) -> np.ndarray | None:
        if array is None or dtype is None or array.dtype == dtype:
            return array
        wanted = np.dtype(dtype)

        def cast() -> np.ndarray:
            with np.errstate(over="ignore"):
                found = array.astype(wanted)
            if found.size and wanted.itemsize < array.dtype.itemsize and not (np.isfinite(found.max()) and np.isfinite(found.min())):
                raise InvalidInputError(f"{name} has numbers that aren't finite in {wanted}, in which they are used: scale them down")
            return frozen(found)

        return self._keep((name, wanted), cast)

    # --- the two orders -----------------------------------------------------------------------------------------------------------

    def to_csr_order(self, a: Any, axis: int = 0) -> np.ndarray:
        """Bring what is aligned with the edges as given into the order of the adjacency.

        Parameters
        ----------
        a : array
            With E entries along `axis`.
        axis : int, default 0
            The axis of edges.

        Returns
        -------
        ndarray
            Of the same shape; `a` itself where the orders are one.

        Raises
        ------
        DimensionMismatchError
            If that axis isn't E long.
        """
        array, axis = self._by_edge(a, axis)
        return array if self._order is None else array.take(self._order, axis=axis)

    def to_given_order(self, a: Any, axis: int = 0) -> np.ndarray:
        """Bring what is in the order of the adjacency into that of the edges as given.

        Parameters
        ----------
        a : array
            With E entries along `axis`.
        axis : int, default 0
            The axis of edges.

        Returns
        -------
        ndarray
            Of the same shape; `a` itself where the orders are one.

        Raises
        ------
        DimensionMismatchError
            If that axis isn't E long.
        """
        array, axis = self._by_edge(a, axis)
        return array if self._order is None else self._given(array, axis)

    def _by_edge(self, a: Any, axis: int) -> tuple[np.ndarray, int]:
        array = as_numbers(a, "a")
        if not -array.ndim <= axis < array.ndim or array.shape[axis] != self.num_edges:
            raise DimensionMismatchError(f"a must have {self.num_edges} entries, one for each edge, along axis {axis}, got shape {array.shape}")
        return array, axis % array.ndim

    def _given(self, array: np.ndarray, axis: int) -> np.ndarray:
        if self._order is None:
            return array.copy()
        return array.take(self._places(), axis=axis)

    def _places(self) -> np.ndarray:
        """Return which edge of the adjacency each edge given is."""
        places = np.empty(self.num_edges, np.int64)
        _structure.reverse_order(self._order, places)
        return places

    # --- what it remembers --------------------------------------------------------------------------------------------------------

    def _check_one_set(self, what: str) -> None:
        if self._bipartite:
            raise InvalidInputError(
                f"{what} is of graphs with one set of nodes, and graph is {self!r}: a bipartite graph has num_sources and num_destinations"
            )

    def _keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made before, or make it. Two threads may both make it: one and the same."""
        found = self._kept.get(key)
        if found is None:
            found = self._kept.setdefault(key, make())
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, tuple):
                value = tuple(frozen(part) if isinstance(part, np.ndarray) else part for part in value)
            setattr(self, name, frozen(value) if isinstance(value, np.ndarray) else value)
        self._kept = {}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        nodes = f"num_nodes=({self.num_sources}, {self.num_destinations})" if self._bipartite else f"num_nodes={self.num_sources}"
        attr = f", edge_dim={self.edge_dim}" if self._attr is not None else ""
        return f"{type(self).__name__}({nodes}, num_edges={self.num_edges}{attr}{', weighted' if self._weight is not None else ''})"


def frozen(array: np.ndarray) -> np.ndarray:
    """Make an array that belongs to nobody else read-only.

    Parameters
    ----------
    array : ndarray
        The array.

    Returns
    -------
    ndarray
        The same one.
    """
    array.flags.writeable = False
    return array
