"""What users have as a graph, read into one form: int32 ids of sources and destinations, how many nodes there are, attributes and weights.

    edge_index (2, E) ───────────┐
    list of pairs ───────────────┤
    (sources, destinations) ─────┤
    Adjacency ───────────────────┤
    scipy.sparse adjacency ──────┼─► read_graph ─► Edges ─► Graph
    networkx graph ──────────────┤
    torch_geometric Data ────────┘

None of these libraries is imported: whoever has something of theirs has done so. Ids are checked in the pass that copies them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from ruvattn.adjacency import MAX_EDGES, MAX_ROWS, Adjacency, as_ints
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from ruvattn.explicit_patterns import check_compressed
from ruvattn.validation import as_array, as_numbers, check_finite, check_int, is_scipy_sparse

from . import _structure

__all__ = [
    "Edges",
    "array_of_tensor",
    "read_attr",
    "read_edge_index",
    "read_graph",
    "read_nodes",
    "read_sizes",
    "read_weight",
    "sizes_of",
]

IMPLIED_NODES = 1 << 24
"""So many nodes, or 64 for each edge, may be implied by the largest id; more must be said, since each takes room."""


@dataclass
class Edges:
    """A graph as it was read.

    Parameters
    ----------
    sources, destinations : ndarray of int32, (E,)
        The ends of each edge.
    sizes : (int, int)
        How many sources and destinations there are.
    bipartite : bool
        Whether these are two sets of nodes.
    edge_attr : ndarray, (E, F), or None
        Attributes.
    edge_weight : ndarray, (E,), or None
        Weights.
    graph_ptr : ndarray of int64, (G + 1,), or None
        Where the nodes of each graph of a batch begin, and the end.
    """

    sources: np.ndarray
    destinations: np.ndarray
    sizes: tuple[int, int]
    bipartite: bool
    edge_attr: np.ndarray | None = None
    edge_weight: np.ndarray | None = None
    graph_ptr: np.ndarray | None = None


def read_graph(graph: Any, num_nodes: Any, edge_attr: Any, edge_weight: Any) -> Edges:
    """Read a graph of any kind.

    Parameters
    ----------
    graph : edge_index, list of pairs, scipy.sparse array, networkx graph, or torch_geometric Data
        As `Graph.of` takes it.
    num_nodes : int or (int, int) or None
        How many nodes there are, as a caller gave it.
    edge_attr, edge_weight : array or None
        As a caller gave them; they take the place of what the graph brings.

    Returns
    -------
    Edges
        What was read.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    if is_scipy_sparse(graph):
        return _read_scipy(graph, num_nodes, edge_attr, edge_weight)
    if _is_networkx(graph):
        return _read_networkx(graph, num_nodes, edge_attr, edge_weight)
    if isinstance(graph, Adjacency):
        return _read_adjacency(graph, num_nodes, edge_attr, edge_weight)
    if hasattr(graph, "graph") and hasattr(graph, "num_roots"):
        raise InvalidInputError(f"graph is a {type(graph).__name__}: pass its .graph, and the features of its .nodes")
    if hasattr(graph, "edge_types"):
        raise InvalidInputError(
            f"graph is a {type(graph).__name__} with several kinds of edges: pass one kind, data['source', 'relation', 'destination'].edge_index, "
            "with num_nodes=(sources, destinations)"
        )
    if not isinstance(graph, np.ndarray) and hasattr(graph, "edge_index"):
        return _read_data(graph, num_nodes, edge_attr, edge_weight)
    return read_edge_index(graph, num_nodes, edge_attr, edge_weight)


def sizes_of(graph: Any) -> tuple[int, int] | None:
    """Return how many nodes there are, if what a user has says so itself.

    Parameters
    ----------
    graph : object
        As `read_graph` takes it.

    Returns
    -------
    (int, int) or None
        Sources and destinations of an Adjacency, a scipy.sparse array or a networkx graph; None of anything else: Data of torch_geometric may
        only guess from the largest id.
    """
    if isinstance(graph, Adjacency):
        return graph.num_keys, graph.num_rows
    if is_scipy_sparse(graph) and graph.ndim == 2:
        return int(graph.shape[0]), int(graph.shape[1])
    if _is_networkx(graph):
        return len(graph.nodes), len(graph.nodes)
    return None


def _is_networkx(graph: Any) -> bool:
    kind = getattr(sys.modules.get("networkx"), "Graph", None)
    return kind is not None and isinstance(graph, kind)


# --- arrays -----------------------------------------------------------------------------------------------------------------------


def read_edge_index(edge_index: Any, num_nodes: Any, edge_attr: Any = None, edge_weight: Any = None) -> Edges:
    """Read an edge_index, a list of pairs or a pair of arrays.

    Parameters
    ----------
    edge_index : array of int, (2, E), list of pairs, or pair of arrays
        As a caller gave it.
    num_nodes : int or (int, int) or None
        How many nodes there are; None for one more than the largest id.
    edge_attr, edge_weight : array, optional
        As a caller gave them.

    Returns
    -------
    Edges
        What was read.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    ends = _two_ends(edge_index)
    if ends[0].size > MAX_EDGES:
        raise InputTooLargeError(f"edge_index must have at most {MAX_EDGES:,} edges, got {ends[0].size:,}: split the graph")
    sizes, bipartite = read_sizes(num_nodes)
    ids, limits = [], []
    for row, end in enumerate(ends):
        copied, greatest = _read_ids(end, row, None if sizes is None else sizes[row])
        ids.append(copied)
        limits.append(greatest + 1)
    if sizes is None:
        implied = max(limits)
        if implied > max(IMPLIED_NODES, 64 * ids[0].size):
            raise InvalidInputError(
                f"edge_index has node id {implied - 1} among {ids[0].size} edges: pass num_nodes if there are so many nodes, or number them from 0 "
                "with np.unique(edge_index, return_inverse=True)"
            )
        sizes = (implied, implied)
    read = Edges(ids[0], ids[1], sizes, bipartite)
    read.edge_attr, read.edge_weight = read_attr(edge_attr, ids[0].size), read_weight(edge_weight, ids[0].size)
    return read


def _two_ends(edge_index: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return sources and destinations as arrays of ints with one axis."""
    if isinstance(edge_index, tuple) and len(edge_index) == 2 and all(np.ndim(end) == 1 and hasattr(end, "dtype") for end in edge_index):
        sources, destinations = (_ids(_plain(end, "edge_index")) for end in edge_index)
        if sources.shape != destinations.shape:
            raise DimensionMismatchError(f"edge_index must have as many sources as destinations, got {sources.size} and {destinations.size}")
        return sources, destinations
    if isinstance(edge_index, tuple) and len(edge_index) == 2 and all(isinstance(end, list | tuple) or hasattr(end, "dtype") for end in edge_index):
        # ([0, 5], [1, 2]) may be meant as two edges, or as two sources and their destinations
        raise InvalidInputError(
            "edge_index as a tuple of two must have two arrays, the sources and the destinations, got "
            f"({type(edge_index[0]).__name__}, {type(edge_index[1]).__name__}): pass np.array(edge_index) if that is what it has, and "
            "list(edge_index) if it has two (source, destination) pairs"
        )
    if isinstance(edge_index, list | tuple):
        return _pairs(edge_index)
    if isinstance(edge_index, str | bytes | dict | set | frozenset) or not (hasattr(edge_index, "shape") or hasattr(edge_index, "__array__")):
        raise InvalidInputError(
            f"edge_index must be an int array (2, E) or a list of (source, destination) pairs, got {type(edge_index).__name__}: Graph.of takes "
            "an Adjacency, scipy.sparse, networkx and torch_geometric graphs, too, and list(...) makes a list of what comes one by one"
        )
    array = _ids(_plain(edge_index, "edge_index"))
    if array.shape == (0,):
        return array, array
    if array.ndim != 2 or array.shape[0] != 2:
        hint = "row 0 the sources, row 1 the destinations"
        if array.ndim == 2 and array.shape[1] == 2:
            hint = "an array of pairs has to be turned: edge_index.T"
        elif array.ndim == 2 and array.shape[0] == array.shape[1]:
            hint = "of an adjacency matrix A take np.stack(A.nonzero()), or pass scipy.sparse.csr_array(A)"
        raise DimensionMismatchError(f"edge_index must have shape (2, E), got {array.shape}: {hint}")
    return array[0], array[1]


def _pairs(pairs: list[Any] | tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    if not pairs:
        none = np.empty(0, np.int64)
        return none, none
    try:
        array = np.asarray(pairs)
    except ValueError:
        uneven = next((at for at, pair in enumerate(pairs) if not hasattr(pair, "__len__") or len(pair) != 2), 0)
        raise DimensionMismatchError(
            f"edge_index as a list must have (source, destination) pairs, got {pairs[uneven]!r} at edge {uneven}"
        ) from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise DimensionMismatchError(
            f"edge_index as a list must have (source, destination) pairs, got what has shape {array.shape}: pass np.array(edge_index) if it has "
            "the sources first, then the destinations"
        )
    array = _ids(array)
    return array[:, 0], array[:, 1]


def _ids(array: np.ndarray) -> np.ndarray:
    """Return ids of nodes; of no edges NumPy makes floats."""
    if array.size == 0 and array.dtype.kind == "f":
        return array.astype(np.int64)
    if array.dtype.kind in "USO":
        raise InvalidInputError(
            f"edge_index must have node ids from 0, got {array.reshape(-1)[0].item()!r} among others: number names with "
            "np.unique(names, return_inverse=True)"
        )
    if array.dtype.kind == "b":
        raise InvalidInputError("edge_index must have node ids, got booleans: of a dense adjacency matrix A take np.stack(A.nonzero())")
    return as_ints(array, "edge_index")


def _read_ids(end: np.ndarray, row: int, limit: int | None) -> tuple[np.ndarray, int]:
    """Return ids as int32, and the greatest; −1 if there are none."""
    if end.dtype.itemsize < 8:
        out = end.astype(np.int32)
        least, greatest = (int(end.min()), int(end.max())) if end.size else (0, -1)
    else:
        out = np.empty(end.size, np.int32)
        least, greatest = _structure.read_ids(end if end.dtype == np.int64 and end.flags.aligned else _widened(end), out)
    most = MAX_ROWS if limit is None else limit
    if least < 0 or greatest >= most:
        at = int(((end < 0) | (end >= most)).argmax())
        where = f"{end[at]} at edge {at} (row {row}, the {('sources', 'destinations')[row]})"
        if least >= 0 and limit is None:
            raise InputTooLargeError(
                f"edge_index must have node ids below {MAX_ROWS:,}, got {where}: number them anew with np.unique(edge_index, return_inverse=True)"
            )
        if limit is None:
            raise InvalidInputError(f"edge_index must have node ids from 0, got {where}")
        kind = "" if limit else ", of which there are none"
        hint = "ids are counted from 0" if least < 0 else "there are as many nodes as features have rows, or as num_nodes says"
        raise InvalidInputError(f"edge_index must have node ids from 0 to {limit - 1}{kind}, got {where}: {hint}")
    return out, greatest


def _widened(end: np.ndarray) -> np.ndarray:
    """Return ids as int64; what is too large for that, as the largest int64."""
    if end.dtype.kind == "u":
        end = np.minimum(end, np.uint64(2**63 - 1))
    return end.astype(np.int64)


def read_sizes(num_nodes: Any) -> tuple[tuple[int, int] | None, bool]:
    """Read how many nodes there are.

    Parameters
    ----------
    num_nodes : int or (int, int) or None
        As a caller gave it.

    Returns
    -------
    sizes : (int, int) or None
        Sources and destinations; None if that isn't said.
    bipartite : bool
        Whether these are two sets.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    if num_nodes is None:
        return None, False
    if isinstance(num_nodes, tuple | list):
        if len(num_nodes) != 2:
            raise InvalidInputError(f"num_nodes must be an int, or (sources, destinations) for a bipartite graph, got {num_nodes!r}")
        sizes, bipartite = tuple(check_int(n, f"num_nodes[{at}]", 0) for at, n in enumerate(num_nodes)), True
    else:
        one = check_int(num_nodes, "num_nodes", 0)
        sizes, bipartite = (one, one), False
    if max(sizes) > MAX_ROWS:
        raise InputTooLargeError(f"num_nodes must be at most {MAX_ROWS:,}, got {num_nodes!r}: split the graph")
    return (sizes[0], sizes[1]), bipartite


def read_nodes(nodes: Any, num_nodes: int, name: str = "nodes") -> np.ndarray:
    """Read which nodes are meant.

    Parameters
    ----------
    nodes : int, array of int, or array of bool (num_nodes,)
        As a caller gave it.
    num_nodes : int
        How many there are.
    name : str, default "nodes"
        The argument.

    Returns
    -------
    ndarray of int64, (M,)
        Their ids, each once: a new array.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    array = _plain(nodes, name)
    if array.dtype == np.bool_:
        if array.shape != (num_nodes,):
            raise DimensionMismatchError(f"{name} as a mask must have an entry for each of the {num_nodes} nodes, got shape {array.shape}")
        return np.flatnonzero(array)
    if array.size == 0 and not isinstance(nodes, np.ndarray):  # of nothing NumPy makes floats
        array = array.astype(np.int64)
    array = as_ints(array, name)
    if array.ndim > 1:
        raise DimensionMismatchError(f"{name} must have one axis, got shape {array.shape}")
    array = array.reshape(-1)
    wrong = (array < 0) | (array >= num_nodes)
    if wrong.any():
        raise InvalidInputError(f"{name} must have node ids from 0 to {num_nodes - 1}, got {array[wrong.argmax()]} at index {wrong.argmax()}")
    array = array.astype(np.int64)
    if array.size > 1:
        ordered = np.sort(array)
        twice = ordered[1:] == ordered[:-1]
        if twice.any():
            raise InvalidInputError(f"{name} must have each node once, got {ordered[1:][twice][0]} twice")
    return array


# --- attributes -------------------------------------------------------------------------------------------------------------------


def read_attr(edge_attr: Any, edges: int) -> np.ndarray | None:
    """Read attributes of edges.

    Parameters
    ----------
    edge_attr : array, (E, F) or (E,), or None
        As a caller gave it; one number an edge is a column.
    edges : int
        How many edges there are.

    Returns
    -------
    ndarray, (E, F), or None
        Finite floats; may be the caller's own.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    if edge_attr is None:
        return None
    array = _numbers(edge_attr, "edge_attr")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise DimensionMismatchError(f"edge_attr must have shape (E, F), F at least 1, or (E,), got {array.shape}")
    if array.shape[0] != edges:
        raise DimensionMismatchError(f"edge_attr must have a row for each of the {edges} edges, got shape {array.shape}")
    return _finite(array, "edge_attr")


def read_weight(edge_weight: Any, edges: int) -> np.ndarray | None:
    """Read weights of edges.

    Parameters
    ----------
    edge_weight : array, (E,), or None
        As a caller gave it.
    edges : int
        How many edges there are.

    Returns
    -------
    ndarray, (E,), or None
        Finite floats; may be the caller's own.

    Raises
    ------
    AttentionError
        Of the kind that says what is wrong.
    """
    if edge_weight is None:
        return None
    array = _numbers(edge_weight, "edge_weight")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (edges,):
        raise DimensionMismatchError(f"edge_weight must have shape (E,) with E = {edges}, a number for each edge, got {array.shape}")
    return _finite(array, "edge_weight")


def _numbers(x: Any, name: str) -> np.ndarray:
    """Return an array of a floating dtype; of ints and booleans, as float64."""
    array = x if isinstance(x, np.ma.MaskedArray) or is_scipy_sparse(x) else _plain(x, name)
    if not isinstance(array, np.ma.MaskedArray) and not is_scipy_sparse(array) and array.dtype.kind in "iub":
        array = array.astype(np.float64)
    array = as_array(array, name)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _finite(array: np.ndarray, name: str) -> np.ndarray:
    try:
        check_finite(array, name)
    except InvalidInputError as error:
        raise InvalidInputError(f"{str(error).partition(':')[0]}: clean it, or leave those edges out") from None
    return array


def _plain(x: Any, name: str) -> np.ndarray:
    """Return an array of ids or numbers, which may be a tensor."""
    x = array_of_tensor(x, name)
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidInputError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(…) or leave those entries out")
    if is_scipy_sparse(x):
        raise InvalidInputError(f"{name} must be a dense array, got {type(x).__name__}: Graph.of takes an adjacency as the graph")
    return as_numbers(x, name)


def array_of_tensor(x: Any, name: str) -> Any:
    """Return an array of a tensor, on whatever device and with a gradient or not.

    Parameters
    ----------
    x : object
        As a caller gave it.
    name : str
        The argument.

    Returns
    -------
    ndarray or object
        `x` itself if it is no tensor.

    Raises
    ------
    InvalidInputError
        If NumPy has no such array: it has no bfloat16 of its own, and none is sparse.
    """
    if isinstance(x, np.ndarray) or not (hasattr(x, "detach") and hasattr(x, "cpu")):
        return x
    try:
        return np.asarray(x.detach().cpu().numpy())
    except (TypeError, RuntimeError) as error:
        hint = "convert it first, such as with .float()"
        if "sparse" in str(getattr(x, "layout", "")):
            hint = "of an adjacency take .to_sparse_coo().coalesce().indices()" if name == "edge_index" else "convert it with .to_dense()"
        raise InvalidInputError(f"{name} can't be made an array: {str(error).rstrip('.')}: {hint}") from None


# --- other libraries --------------------------------------------------------------------------------------------------------------


def _read_adjacency(adjacency: Adjacency, num_nodes: Any, edge_attr: Any, edge_weight: Any) -> Edges:
    """Read an Adjacency: its rows are destinations, its keys sources."""
    sizes, edges = (adjacency.num_keys, adjacency.num_rows), adjacency.num_edges
    given, bipartite = read_sizes(num_nodes)
    if given is None:
        bipartite = sizes[0] != sizes[1]
    elif given != sizes:
        raise DimensionMismatchError(f"num_nodes is {num_nodes!r}, and graph has {sizes[0]} keys and {sizes[1]} rows: leave num_nodes out")
    return Edges(adjacency.indices, adjacency.edge_rows(), sizes, bipartite, read_attr(edge_attr, edges), read_weight(edge_weight, edges))


def _read_scipy(matrix: Any, num_nodes: Any, edge_attr: Any, edge_weight: Any) -> Edges:
    """Read an adjacency: entry (i, j) is an edge i → j, what is stored is its weight. Duplicates stay."""
    if matrix.ndim != 2:
        raise DimensionMismatchError(f"graph as a scipy.sparse array must have two axes, got shape {matrix.shape}")
    rows, columns = (int(n) for n in matrix.shape)
    if num_nodes is None:
        num_nodes = rows if rows == columns else (rows, columns)
    else:
        sizes, _ = read_sizes(num_nodes)
        if sizes != (rows, columns):
            raise DimensionMismatchError(f"num_nodes is {num_nodes!r}, and graph has shape {matrix.shape}: leave num_nodes out, or pad the matrix")
    check_compressed(matrix)
    if matrix.format in ("csr", "csc"):
        indptr = np.asarray(matrix.indptr)
        inner = np.asarray(matrix.indices)[: indptr[-1]]
        outer = np.repeat(np.arange(indptr.size - 1, dtype=inner.dtype), np.diff(indptr))
        sources, destinations = (outer, inner) if matrix.format == "csr" else (inner, outer)
        data = np.asarray(matrix.data)[: inner.size]
    else:
        listed = matrix if matrix.format == "coo" else matrix.tocoo()
        sources, destinations, data = np.asarray(listed.row), np.asarray(listed.col), np.asarray(listed.data)
    if edge_weight is None and data.dtype != np.bool_:
        edge_weight = data
    return read_edge_index((sources, destinations), num_nodes, edge_attr, edge_weight)


def _read_networkx(graph: Any, num_nodes: Any, edge_attr: Any, edge_weight: Any) -> Edges:
    """Read a networkx graph: nodes in its order; an undirected edge goes both ways, all forth first and then all back, but a self-loop once."""
    number = {node: at for at, node in enumerate(graph.nodes)}
    if num_nodes is None:
        num_nodes = len(number)
    elif read_sizes(num_nodes)[0] != (len(number), len(number)):
        raise DimensionMismatchError(f"num_nodes is {num_nodes!r}, and graph has {len(number)} nodes: leave num_nodes out, or add nodes to graph")
    sources, destinations, weights, some = [], [], [], False
    for u, v, data in graph.edges(data=True):
        sources.append(number[u])
        destinations.append(number[v])
        if edge_weight is None:
            some = some or "weight" in data
            weight = data.get("weight", 1)
            if isinstance(weight, bool | str | bytes) or not np.isscalar(weight) or np.iscomplexobj(weight):
                raise InvalidInputError(f"graph has the edge ({u!r}, {v!r}) of weight {weight!r}: a weight must be a number")
            weights.append(weight)
    ends = np.array([sources, destinations], np.int64).reshape(2, -1)
    if some:
        edge_weight = np.array(weights, np.float64)
    if not graph.is_directed():
        there_and_back = ends[0] != ends[1]
        ends = np.concatenate([ends, ends[::-1, there_and_back]], axis=1)
        if some:
            edge_weight = np.concatenate([edge_weight, edge_weight[there_and_back]])
    return read_edge_index(ends, num_nodes, edge_attr, edge_weight)


def _read_data(data: Any, num_nodes: Any, edge_attr: Any, edge_weight: Any) -> Edges:
    """Read what has an edge_index, and may have edge_attr, edge_weight, num_nodes and ptr, as torch_geometric's Data and Batch."""
    edge_index = data.edge_index
    if edge_index is None:
        raise InvalidInputError(f"graph is a {type(data).__name__} whose edge_index is None: set it, or pass its edges in another form")
    if num_nodes is None:
        num_nodes = getattr(data, "num_nodes", None)
    edge_attr = getattr(data, "edge_attr", None) if edge_attr is None else edge_attr
    edge_weight = getattr(data, "edge_weight", None) if edge_weight is None else edge_weight
    read = read_edge_index(edge_index, num_nodes, edge_attr, edge_weight)
    read.graph_ptr = None if read.bipartite else _read_pointer(getattr(data, "ptr", None), read.sizes[0])
    return read


def _read_pointer(ptr: Any, nodes: int) -> np.ndarray | None:
    """Return where the graphs of a batch begin; None of what is no such thing, for Data may have anything of that name."""
    if not hasattr(ptr, "dtype"):
        return None
    array = np.asarray(array_of_tensor(ptr, "ptr"))
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iu" or array[0] != 0 or array[-1] != nodes or (array[1:] < array[:-1]).any():
        return None
    return array.astype(np.int64)
