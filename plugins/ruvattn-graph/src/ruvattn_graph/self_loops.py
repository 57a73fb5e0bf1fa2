"""Self-loops: edges from a node to itself, added, replaced or taken away, without sorting the edges again.

    row i   … kept edges in their order …, the loop of i        numbered after all kept edges, in the order of nodes

The order of edges is that of torch-geometric's ``remove_self_loops`` and ``add_self_loops``. A loop that is added has the weight 1, and attributes
made of those of the edges that lead to its node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ruvattn import Adjacency
from ruvattn.adjacency import check_sizes
from ruvattn.errors import InvalidInputError
from ruvattn.running import narrowed
from ruvattn.threads import resolve_threads
from ruvattn.validation import NATIVE_DTYPES

from . import _structure
from .edges import OrderedEdges

__all__ = ["FILLS", "HOWS", "LoopedEdges", "loops_vjp", "read_fill", "read_how", "with_loops", "without"]

HOWS = ("replace", "add", "missing")
"""What happens to loops that are there: taken away first, left beside the new ones, left instead of new ones."""

FILLS = ("mean", "add", "min", "max", "mul")
"""How attributes of a loop are made of those of the edges that lead to its node."""


@dataclass(frozen=True)
class LoopedEdges:
    """The edges of a graph with its loops changed.

    Parameters
    ----------
    adjacency : Adjacency
        Its structure.
    order : ndarray of int32, (E',)
        The number of each of its edges in the new given order.
    dropped : ndarray of uint64, or None
        Bits, by number: the parent's edges that are gone. None for none.
    attr, weight : ndarray or None
        In the order of the adjacency.
    kept, added : int
        How many edges are the parent's, and how many loops are new.
    fill : str, float or None
        What the attributes of new loops are made of; None where there are no new loops.
    """

    adjacency: Adjacency
    order: np.ndarray
    dropped: np.ndarray | None
    attr: np.ndarray | None
    weight: np.ndarray | None
    kept: int
    added: int
    fill: str | float | None = None

    def parent_edges(self) -> np.ndarray:
        """Return the number that each edge had, −1 for a new loop, in the new given order."""
        found = np.full(self.kept + self.added, -1, np.int32)
        if self.dropped is None:
            found[: self.kept] = np.arange(self.kept, dtype=np.int32)
        else:
            bits = np.unpackbits(self.dropped.astype("<u8").view(np.uint8), bitorder="little")
            found[: self.kept] = np.flatnonzero(bits == 0)[: self.kept]
        return found


def read_how(how: Any) -> str:
    """Read what happens to loops that are there.

    Parameters
    ----------
    how : str
        As a caller gave it.

    Returns
    -------
    str
        One of `HOWS`.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    if not isinstance(how, str) or how not in HOWS:
        raise InvalidInputError(f"how must be one of {', '.join(map(repr, HOWS))}, got {how!r}: graph.without_self_loops() takes loops away")
    return str(how)


def read_fill(fill_value: Any) -> str | float:
    """Read what the attributes of new loops are.

    Parameters
    ----------
    fill_value : str or float
        As a caller gave it.

    Returns
    -------
    str or float
        One of `FILLS`, or a finite number.

    Raises
    ------
    InvalidInputError
        If it is neither.
    """
    if isinstance(fill_value, str):
        if fill_value in FILLS:
            return fill_value
    elif isinstance(fill_value, int | float | np.integer | np.floating) and not isinstance(fill_value, bool):
        try:
            number = float(fill_value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise InvalidInputError(f"fill_value must be one of {', '.join(map(repr, FILLS))}, or a finite number, got {fill_value!r}")


def with_loops(edges: OrderedEdges, how: str, fill: str | float) -> LoopedEdges:
    """Return edges with a loop at each node that is a source and a destination.

    Parameters
    ----------
    edges : OrderedEdges
        The parent.
    how : str
        One of `HOWS`.
    fill : str or float
        One of `FILLS`, or a finite number.

    Returns
    -------
    LoopedEdges
        Those that stay, then the new ones.
    """
    adjacency, attr = edges.adjacency, edges.csr_edge_attr()
    limit = min(adjacency.num_rows, adjacency.num_keys)
    looped = replace(_changed(edges, limit, drop=how == "replace", add=True, always=how != "missing"), fill=fill)
    if looped.added and (looped.attr is not None or looped.weight is not None):
        ends, rows = looped.adjacency.indptr[1 : limit + 1] - 1, np.arange(limit)  # each row ends with its loop
        if how == "missing":
            new = looped.order[ends] >= looped.kept
            ends, rows = ends[new], rows[new]
        if looped.weight is not None:
            looped.weight[ends] = 1
        if looped.attr is not None and attr is not None:
            if isinstance(fill, float):
                looped.attr[ends] = narrowed(np.array(fill), attr.dtype)
            else:
                looped.attr[ends] = _combined(adjacency, attr, limit, fill, drop=how == "replace")[rows]
    return looped


def without(edges: OrderedEdges) -> LoopedEdges:
    """Return edges without those from a node to itself.

    Parameters
    ----------
    edges : OrderedEdges
        The parent.

    Returns
    -------
    LoopedEdges
        Those that stay.
    """
    return _changed(edges, 0, drop=True, add=False, always=False)


def _changed(edges: OrderedEdges, limit: int, *, drop: bool, add: bool, always: bool) -> LoopedEdges:
    """Drop loops, and add some to nodes below the limit: to all, or to those that have none; what belongs to a new one is yet to be written."""
    adjacency, order, count = edges.adjacency, edges._order, edges.num_edges
    indptr, indices = adjacency.indptr, adjacency.indices
    starts = np.empty(indptr.size, np.int64)
    loops = _structure.loop_rows(indptr, indices, limit, drop, add, always, starts)
    size = int(starts[-1])
    check_sizes(adjacency.num_rows, adjacency.num_keys, size)
    marks = before = None
    kept = count
    if drop and loops:
        words = -(-count // 64)
        marks, before = np.zeros(words, np.uint64), np.empty(words, np.int32)
        _structure.mark_loops(indptr, indices, order, marks, before)
        kept -= loops
    new_indices, new_order = np.empty(size, np.int32), np.empty(size, np.int32)
    attr, weight = edges.csr_edge_attr(), edges.csr_edge_weight()
    origin = None if attr is None and weight is None else np.empty(size, np.int32)
    team = resolve_threads(None)
    _structure.insert_loops(indptr, indices, order, marks, before, starts, drop, kept, new_indices, new_order, origin, team)
    changed = Adjacency._trusted(starts, new_indices, adjacency.num_keys)
    return LoopedEdges(changed, new_order, marks, _carried(attr, origin), _carried(weight, origin), kept, size - kept)


def _carried(array: np.ndarray | None, origin: np.ndarray | None) -> np.ndarray | None:
    """Return what each edge had before; of one that is new, anything."""
    if array is None or origin is None:
        return None
    if not array.shape[0]:
        return np.zeros((origin.size, *array.shape[1:]), array.dtype)
    return array.take(origin, axis=0, mode="wrap")


def _combined(adjacency: Adjacency, attr: np.ndarray, limit: int, fill: str, *, drop: bool) -> np.ndarray:
    """Return for each node below the limit what its incoming edges' attributes come to, in their dtype."""
    dtype = attr.dtype if attr.dtype in NATIVE_DTYPES else np.dtype(np.float32)
    found = np.empty((limit, attr.shape[1]), dtype)
    _structure.combine_rows(np.ascontiguousarray(attr, dtype), adjacency.indptr, adjacency.indices, FILLS.index(fill), drop, found)
    # Sums and products that are too large become the largest number; one that went beyond all bounds on its way to 0 is 0.
    return narrowed(np.nan_to_num(found, copy=False), attr.dtype)


# --- backwards ------------------------------------------------------------------------------------------------------------------


def loops_vjp(edges: OrderedEdges, looped: LoopedEdges, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of the attributes of edges, given that of their attributes after loops were changed.

    Parameters
    ----------
    edges : OrderedEdges
        The parent.
    looped : LoopedEdges
        What became of it.
    gradient : ndarray, (E', F)
        In the order of the new adjacency, float32 or float64.

    Returns
    -------
    ndarray, (E, F)
        In the order of the parent's adjacency. Of the least and the greatest, the first that is so has it.
    """
    new = looped.order >= looped.kept
    added, kept = np.flatnonzero(new), np.flatnonzero(~new)
    rows, stays = edges.adjacency.edge_rows(), np.arange(edges.num_edges)
    if looped.dropped is not None:  # loops of the parent: the others stand in the order that they stood in
        stays = np.flatnonzero(rows != edges.adjacency.indices)
    found = np.zeros((edges.num_edges, gradient.shape[1]), gradient.dtype)
    found[stays] = gradient.take(kept, axis=0)
    attr = edges.csr_edge_attr()
    if isinstance(looped.fill, str) and attr is not None and added.size:
        of_nodes = np.zeros((edges.num_destinations, gradient.shape[1]))
        of_nodes[looped.adjacency.edge_rows()[added]] = gradient.take(added, axis=0)
        found[stays] += _combined_vjp(looped.fill, attr, stays, rows.take(stays), of_nodes).astype(gradient.dtype)
    return found


def _combined_vjp(fill: str, attr: np.ndarray, edges: np.ndarray, rows: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of attributes of some edges (n, F), in the order of their rows, given that of what each row's come to, (rows, F)."""
    counts = np.bincount(rows, minlength=len(gradient))
    if fill == "mean":
        gradient = gradient / np.maximum(counts, 1)[:, None]
    upstream = gradient.take(rows, axis=0)
    if fill in ("add", "mean") or not rows.size:
        return upstream
    attr = attr.take(edges, axis=0).astype(np.float64)
    first = (np.cumsum(counts) - counts)[counts > 0]  # of each row that has edges
    at = np.repeat(np.arange(first.size), counts[counts > 0])
    if fill == "mul":
        zeros = np.add.reduceat(attr == 0, first, axis=0, dtype=np.int64)[at]
        rest = np.multiply.reduceat(np.where(attr == 0, 1, attr), first, axis=0)[at]
        others = np.where(attr == 0, np.where(zeros == 1, rest, 0), np.where(zeros == 0, rest / np.where(attr == 0, 1, attr), 0))
        return upstream * others
    best = (np.minimum if fill == "min" else np.maximum).reduceat(attr, first, axis=0)[at]
    equal = attr == best
    before = np.cumsum(equal, axis=0) - equal
    return np.where(equal & (before == before[first][at]), upstream, 0)
