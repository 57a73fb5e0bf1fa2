"""Neighbour sampling: attention on graphs that are larger than a batch (Hamilton et al., 2017, algorithm 2).

    roots ──up to fan_out[0] incoming edges each──► nodes of hop 1 ──fan_out[1] each──► nodes of hop 2 …  ─►  Subgraph

Which edges a node gets is a hash of the seed, the hop and the node: the same for any number of threads and whatever other roots there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.adjacency import check_sizes
from ruvattn.errors import InvalidInputError
from ruvattn.threads import resolve_threads
from ruvattn.validation import check_bool, check_int, check_seed

from . import _structure
from .graph import Graph
from .reading import read_nodes
from .subgraphs import Subgraph, part_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NeighborSampler", "sample_neighbors"]

ALL = -1
"""As a fan-out: all incoming edges."""


def sample_neighbors(
    graph: Any,
    nodes: Any,
    fan_out: int | Sequence[int],
    *,
    replace: bool = False,
    seed: int | None = None,
    threads: int | None = None,
) -> Subgraph:
    """Sample the neighbourhood of some nodes, hop by hop.

    Each root gets up to ``fan_out[0]`` of its incoming edges, uniformly; each node that these come from and that wasn't there yet gets up to
    ``fan_out[1]``, and so on. Attention in as many layers as there are hops then computes the roots from what was sampled.

    Parameters
    ----------
    graph : Graph
        The whole graph, or anything else that `Graph.of` takes, with one set of nodes.
    nodes : int, array of int, or array of bool (num_nodes,)
        The roots, each once.
    fan_out : int or sequence of int
        How many edges a node gets at most, at least 0; −1 for all. One for each hop; an int is one hop.
    replace : bool, default False
        Whether edges are drawn with replacement: each node that has edges then gets as many as the fan-out says, some more than once.
    seed : int, optional
        From 0 to 2⁶⁴ − 1; a random one when not given.
    threads : int, optional
        How many threads to use at most. The sample is the same for any number.

    Returns
    -------
    Subgraph
        Roots first, then the nodes of hop 1 by id, and so on; nodes of the last hop have no incoming edges.

    Raises
    ------
    InvalidInputError
        If a node is none of the graph or comes twice, a fan-out is no such number, or the graph is bipartite.

    Examples
    --------
    >>> from ruvattn_graph import Graph, sample_neighbors
    >>> graph = Graph([(1, 0), (2, 0), (3, 0), (0, 1), (3, 2)])
    >>> part = sample_neighbors(graph, [0], [2, 1], seed=0)
    >>> part.num_roots, part.graph.in_degrees[0]
    (1, np.int64(2))
    """
    whole = Graph.of(graph)
    whole._check_one_set("sample_neighbors")
    roots = read_nodes(nodes, whole.num_nodes)
    fans = _read_fans(fan_out)
    with_replacement = check_bool(replace, "replace")
    team = resolve_threads(threads)
    return _sampled(whole, roots, fans, with_replacement, _read_seed(seed), team)


def _sampled(whole: Graph, roots: np.ndarray, fans: list[int], replace: bool, seed: int, threads: int) -> Subgraph:
    indptr, indices = whole.adjacency.indptr, whole.adjacency.indices
    place = np.zeros(whole.num_nodes, np.int32)  # the new id + 1; memory only where something is written
    place[roots] = np.arange(1, roots.size + 1, dtype=np.int32)
    levels, picks, degrees = [roots.astype(np.int32)], [], []
    known = total = 0
    for hop, fan in enumerate(fans):
        level = levels[-1]
        known += level.size
        available = indptr[level + 1] - indptr[level]
        wanted = _wanted(available, fan, replace)
        starts = np.concatenate([[0], np.cumsum(wanted)])
        total += int(starts[-1])
        check_sizes(0, 0, total)
        picked = np.empty(int(starts[-1]), np.int32)
        drawing = replace and fan != ALL
        _structure.sample_edges(indptr, level, starts, drawing, _structure.mix(seed, hop), int(available.max(initial=0)), picked, threads)
        found = np.empty(min(picked.size, whole.num_nodes), np.int32)
        count = _structure.discover(indices, picked, place, known, found)
        levels.append(found[:count])
        picks.append(picked)
        degrees.append(wanted)
    nodes = np.concatenate(levels)
    origin = np.concatenate([np.empty(0, np.int32), *picks])
    starts = np.zeros(nodes.size + 1, np.int64)
    filled = np.concatenate([np.empty(0, np.int64), *degrees])
    np.cumsum(filled, out=starts[1 : filled.size + 1])
    starts[filled.size + 1 :] = total
    keys = np.empty(total, np.int32)
    _structure.places_of(indices, origin, place, keys)
    hops = np.repeat(np.arange(len(levels), dtype=np.int32), [level.size for level in levels])
    return part_of(whole, starts, keys, origin, nodes, roots.size, hops)


def _wanted(available: np.ndarray, fan: int, replace: bool) -> np.ndarray:
    """Return how many edges each node gets of those it has."""
    if fan == ALL:
        return available
    return np.where(available > 0, fan, 0).astype(np.int64) if replace else np.minimum(available, fan)


def _read_fans(fan_out: Any) -> list[int]:
    if isinstance(fan_out, str | bytes | dict):
        raise InvalidInputError(f"fan_out must be an int, or one for each hop, got {fan_out!r}")
    try:
        fans = list(fan_out)
    except TypeError:
        return [check_int(fan_out, "fan_out", ALL, 2**31 - 1)]
    return [check_int(fan, f"fan_out[{at}]", ALL, 2**31 - 1) for at, fan in enumerate(fans)]


def _read_seed(seed: Any) -> int:
    if seed is None:
        import secrets

        return secrets.randbits(64)
    return check_seed(seed)


class NeighborSampler:
    """Batches of roots with their sampled neighbourhoods, for a pass over a graph that is too large for one call.

        for part in NeighborSampler(graph, fan_out=[10, 5], batch_size=512, seed=0):
            out = layer.forward_graph(x[part.nodes], part.graph)[: part.num_roots]

    Iterating once is an epoch; each has an order of roots and samples of its own, which follow from the seed and its number.

    Parameters
    ----------
    graph : Graph
        The whole graph, or anything else that `Graph.of` takes, with one set of nodes.
    nodes : array of int or bool, optional
        The roots, each once; all nodes by default.
    fan_out : int or sequence of int
        As for `sample_neighbors`.
    batch_size : int, default 512
        How many roots a batch has, at least 1; the last one may have fewer.
    shuffle : bool, default True
        Whether the roots come in another order each epoch.
    drop_last : bool, default False
        Whether a last batch with fewer roots is left out.
    replace : bool, default False
        As for `sample_neighbors`.
    seed : int, optional
        From 0 to 2⁶⁴ − 1; a random one when not given, which `seed` tells.
    threads : int, optional
        How many threads to use at most.

    Attributes
    ----------
    epoch : int
        The number of the next epoch, from 0; may be set.
    seed : int
        The seed.

    Raises
    ------
    InvalidInputError
        If an argument has a value that makes no sense.

    Examples
    --------
    >>> from ruvattn_graph import Graph, NeighborSampler
    >>> sampler = NeighborSampler(Graph([(0, 1), (1, 2), (2, 0)]), fan_out=1, batch_size=2, seed=0)
    >>> len(sampler), [part.num_roots for part in sampler]
    (2, [2, 1])
    """

    def __init__(
        self,
        graph: Any,
        nodes: Any = None,
        *,
        fan_out: int | Sequence[int],
        batch_size: int = 512,
        shuffle: bool = True,
        drop_last: bool = False,
        replace: bool = False,
        seed: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.graph = Graph.of(graph)
        self.graph._check_one_set("NeighborSampler")
        count = self.graph.num_nodes
        self._roots = np.arange(count, dtype=np.int64) if nodes is None else read_nodes(nodes, count)
        self._fans = _read_fans(fan_out)
        self.batch_size = check_int(batch_size, "batch_size", 1)
        self.shuffle, self.drop_last = check_bool(shuffle, "shuffle"), check_bool(drop_last, "drop_last")
        self.replace = check_bool(replace, "replace")
        self.seed = _read_seed(seed)
        resolve_threads(threads)
        self._threads = threads
        self.epoch = 0

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return self._roots.size // self.batch_size if self.drop_last else -(-self._roots.size // self.batch_size)

    def __iter__(self) -> Iterator[Subgraph]:
        """Begin the next epoch."""
        epoch = check_int(self.epoch, "epoch", 0, 2**64 - 1)
        self.epoch = epoch + 1
        return self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[Subgraph]:
        key = _structure.mix(self.seed, epoch)
        roots = np.random.default_rng(key).permutation(self._roots) if self.shuffle else self._roots
        for batch in range(len(self)):
            part = roots[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield _sampled(self.graph, part, self._fans, self.replace, key, resolve_threads(self._threads))
