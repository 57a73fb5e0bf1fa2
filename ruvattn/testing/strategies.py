"""Strategies for hypothesis: shapes of calls, arrays for them, masks, graphs, points of manifolds.

    shapes() ─► Shape ─┬─► inputs(shape) ─► q, k, v
                       └─► masks(shape)  ─► keywords of `ruvattn.attention`
    graphs() ─► Graph: how many nodes, edges (2, E)
    points(manifold) ─► base ─► tangents(manifold, base)

What they draw is valid: shapes fit each other, numbers are finite, points lie on their manifold. It shrinks towards a call of one query and one key,
zeros, no mask, one node without edges, the origin. Lengths are small by default, for hypothesis tries a hundred examples; each has a limit that can
be set.

hypothesis is needed for this module and for nothing else of ruvattn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidInputError
from ..manifold import Manifold
from ..patterns import Causal, KeyLengths, Window
from .cases import float_dtypes
from .parts import Shape
from .variants import _LAYOUTS

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise ImportError("ruvattn.testing.strategies needs hypothesis, which is not installed: pip install hypothesis") from error

__all__ = ["KINDS_OF_MASKS", "LAYOUTS", "REGIONS", "Graph", "graphs", "inputs", "masks", "points", "shapes", "tangents"]

LAYOUTS = ("contiguous", *(name for name in _LAYOUTS if name != "foreign byte order"))
"""How the numbers of an array may lie in memory."""

KINDS_OF_MASKS = ("none", "causal", "window", "key_lengths", "bool", "sparse", "pattern", "several")
"""What `masks` draws."""

REGIONS: Mapping[str, tuple[float, float]] = {"origin": (0.0, 1e-2), "middle": (1e-2, 2.0), "boundary": (2.0, 10.0)}
"""Where `points` lie: their distance from the origin, in units of the radius of curvature."""

_SMALL = 12
"""Of arrays of so many numbers each is drawn by itself."""


class Graph(NamedTuple):
    """A directed graph.

    Attributes
    ----------
    nodes : int
        How many there are.
    edge_index : ndarray of int64, (2, E)
        Row 0 the sources, which are keys, row 1 the destinations, which are queries.
    """

    nodes: int
    edge_index: np.ndarray


def _check(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidInputError(f"{name} must be an int of at least {least}, got {value!r}")
    return int(value)


def _check_range(given: Mapping[str, tuple[int, int]], leasts: Mapping[str, int]) -> None:
    for name, (low, high) in given.items():
        _check(f"min_{name}", low, leasts[name])
        _check(f"max_{name}", high, leasts[name])
        if low > high:
            raise InvalidInputError(f"min_{name} must be at most max_{name}, got {low} and {high}")


def shapes(
    *,
    max_axes: int = 2,
    max_batch: int = 3,
    max_key_heads: int = 3,
    max_group: int = 3,
    min_queries: int = 0,
    max_queries: int = 12,
    min_keys: int = 0,
    max_keys: int = 12,
    max_width: int = 9,
) -> st.SearchStrategy[Shape]:
    """Draw the shape of one call of `ruvattn.attention`.

    Parameters
    ----------
    max_axes : int, default 2
        How many leading axes there are at most.
    max_batch : int, default 3
        How long each of them is at most; they may be empty.
    max_key_heads : int, default 3
        How many heads of keys there are at most.
    max_group : int, default 3
        How many heads of queries share one of keys at most.
    min_queries, max_queries, min_keys, max_keys : int, default 0 and 12
        How many queries and keys; 1 for the least where empty calls are of no interest.
    max_width : int, default 9
        How wide queries, keys and values are at most, from 1 on; values have a width of their own.

    Returns
    -------
    SearchStrategy of Shape
        With the fields ``lead``, ``heads``, ``key_heads``, ``lq``, ``lk``, ``width`` and ``value_width``.

    Raises
    ------
    InvalidInputError
        If a limit is no int, or less than the least.

    Examples
    --------
    >>> from hypothesis import HealthCheck, given, settings
    >>> from ruvattn.testing import strategies
    >>> @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    ... @given(strategies.shapes(min_keys=1))
    ... def test_heads_are_shared(shape):
    ...     assert shape.heads % shape.key_heads == 0 and shape.lk >= 1
    >>> test_heads_are_shared()
    """
    _check("max_axes", max_axes, 0)
    _check("max_batch", max_batch, 0)
    for name, value in (("max_key_heads", max_key_heads), ("max_group", max_group), ("max_width", max_width)):
        _check(name, value, 1)
    _check_range({"queries": (min_queries, max_queries), "keys": (min_keys, max_keys)}, {"queries": 0, "keys": 0})
    lengths = st.sampled_from([*range(1, max_batch + 1), 0]) if max_batch else st.just(0)  # shrinks to the first
    return st.builds(
        lambda lead, key_heads, group, lq, lk, width, value_width: Shape(tuple(lead), key_heads * group, key_heads, lq, lk, width, value_width),
        st.lists(lengths, max_size=max_axes),
        st.integers(1, max_key_heads),
        st.integers(1, max_group),
        _length(min_queries, max_queries),
        _length(min_keys, max_keys),
        st.integers(1, max_width),
        st.integers(1, max_width),
    )


def _length(low: int, high: int) -> st.SearchStrategy[int]:
    """Draw a length that shrinks to 1, the simplest call, rather than to 0."""
    return st.sampled_from([*range(max(low, 1), high + 1), *([0] if low == 0 else [])])


def _numbers(shape: tuple[int, ...], dtype: np.dtype[Any], largest: float, extreme: bool) -> st.SearchStrategy[np.ndarray]:
    """Draw finite numbers: few of them each by itself, many from a seed."""
    narrow = dtype.itemsize == 2
    # Hundredths of the largest: integers are drawn faster than floats, shrink faster, and have few digits.
    each = st.integers(-100, 100).map(lambda n: n * largest / 100)
    if extreme:
        # What dtypes of 16 bits hold, and what float32 does whose squares still add up to something finite.
        sizes = (1e-7, 1e-4, 1e2, 1e4) if narrow else (1e-42, 1e-20, 1e-5, 1e4, 1e9, 1e15)
        each = st.one_of(each, st.sampled_from([sign * size for size in sizes for sign in (1, -1)]))
    size = int(np.prod(shape))
    by_itself = hnp.arrays(np.float64, shape, elements=each, fill=st.just(0.0) if size > _SMALL else st.nothing())
    seeded = st.builds(
        lambda seed, scale: scale * np.random.default_rng(seed).standard_normal(shape),
        st.integers(0, 2**16),
        st.sampled_from([1.0, *((1e-20, 1e4) if extreme and not narrow else ())]),
    )
    drawn = st.just(np.zeros(shape)) if not size else by_itself if size <= _SMALL else st.one_of(by_itself, seeded)
    return drawn.map(lambda array: array.astype(dtype))


def _shape(draw: Any, shape: Any) -> Shape:
    if shape is None:
        shape = shapes()
    drawn = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    if not isinstance(drawn, tuple) or len(drawn) != len(Shape._fields):
        raise InvalidInputError(f"shape must be a Shape, or a strategy of such, got {drawn!r}: ruvattn.testing.strategies.shapes() makes them")
    return Shape(*drawn)


@st.composite
def _inputs(
    draw: Any, shape: Any, dtypes: Sequence[Any], layouts: Sequence[str], largest: float, extreme: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = _shape(draw, shape)
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    sizes = (
        (*drawn.lead, drawn.heads, drawn.lq, drawn.width),
        (*drawn.lead, drawn.key_heads, drawn.lk, drawn.width),
        (*drawn.lead, drawn.key_heads, drawn.lk, drawn.value_width),
    )
    arrays = [draw(_numbers(size, dtype, largest, extreme)) for size in sizes]
    layout = draw(st.sampled_from(layouts))
    if layout != "contiguous":
        arrays = [_LAYOUTS[layout](array) for array in arrays]
    return arrays[0], arrays[1], arrays[2]


def inputs(
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    *,
    dtypes: Sequence[Any] | None = None,
    layouts: Sequence[str] = LAYOUTS,
    largest: float = 4.0,
    extreme: bool = False,
) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Draw queries, keys and values.

    Parameters
    ----------
    shape : Shape, or a strategy of Shape, optional
        Of the call; `shapes` by default.
    dtypes : sequence of dtype, optional
        Of which one is drawn for all three; those that attention takes by default: float32, float64, float16, and bfloat16 where it is installed.
    layouts : sequence of str, default `LAYOUTS`
        Of which one is drawn: how the numbers lie in memory, which makes no difference to results.
    largest : float, default 4
        Ordinary numbers are hundredths of it, from -`largest` to `largest`. In larger arrays most are zeros, or all are normal with variance 1.
    extreme : bool, default False
        Whether there are others too, from subnormal ones to 1e15; in dtypes of 16 bits from 1e-7 to 1e4. None is infinite or NaN.

    Returns
    -------
    SearchStrategy of tuple of ndarray
        q ``(*lead, heads, lq, width)``, k ``(*lead, key_heads, lk, width)``, v ``(*lead, key_heads, lk, value_width)``.

    Raises
    ------
    InvalidInputError
        If a layout has another name, or `largest` is no positive number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from hypothesis import HealthCheck, given, settings
    >>> from ruvattn.testing import strategies
    >>> @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    ... @given(strategies.inputs(dtypes=[np.float32]))
    ... def test_output_has_the_dtype_of_q(arrays):
    ...     assert ruvattn.attention(*arrays).dtype == np.float32
    >>> test_output_has_the_dtype_of_q()
    """
    unknown = [name for name in layouts if name not in LAYOUTS]
    if unknown or not layouts:
        raise InvalidInputError(f"layouts must be of {', '.join(LAYOUTS)}, got {next(iter(unknown), layouts)!r}")
    if not np.isfinite(largest) or largest <= 0:
        raise InvalidInputError(f"largest must be a positive number, got {largest!r}")
    chosen = tuple(float_dtypes() if dtypes is None else map(np.dtype, dtypes))
    return _inputs(shape, chosen, tuple(layouts), float(np.float32(largest)), extreme)


@st.composite
def _masks(draw: Any, shape: Any, kinds: Sequence[str]) -> dict[str, Any]:
    drawn = _shape(draw, shape)
    kind = draw(st.sampled_from(kinds))
    if kind == "several":
        found: dict[str, Any] = {}
        for one in ("causal", "window", "key_lengths", draw(st.sampled_from(["bool", "sparse", "pattern"]))):
            if draw(st.booleans()):
                found |= _one_mask(draw, drawn, one)
        return found
    return _one_mask(draw, drawn, kind)


def _one_mask(draw: Any, shape: Shape, kind: str) -> dict[str, Any]:
    lead, heads, lq, lk = shape.lead, shape.heads, shape.lq, shape.lk
    offset = st.sampled_from([0, "end", *range(1, lk + 3), *range(-1, -lq - 3, -1)])
    if kind == "causal":
        return {"causal": True, "query_offset": draw(offset)}
    if kind == "window":
        side = st.integers(-1, lk + 2)
        return {"window": (draw(side), draw(side)), "query_offset": draw(offset)}
    if kind == "key_lengths":
        count = int(np.prod(lead))
        each = draw(st.booleans())
        lengths = draw(hnp.arrays(np.int64, lead if each else (), elements=st.integers(0, lk))) if count or not each else np.zeros(lead, np.int64)
        return {"key_lengths": lengths if each and lead else int(lengths.flat[0]) if lengths.size else 0}
    if kind == "bool":
        axes = tuple(length if draw(st.booleans()) else 1 for length in (*lead, heads, lq, lk))
        axes = axes[draw(st.integers(0, len(axes) - 1)) :]
        return {"mask": draw(hnp.arrays(bool, axes, fill=st.nothing() if np.prod(axes) <= _SMALL else None))}
    if kind == "sparse":
        import scipy.sparse

        size = (heads, lq, lk) if draw(st.booleans()) else (lq, lk)
        stored = draw(hnp.arrays(bool, size, fill=st.just(False)))
        matrix = scipy.sparse.coo_array(stored)
        return {"mask": matrix if matrix.ndim == 3 or draw(st.booleans()) else matrix.tocsr()}
    if kind == "pattern":
        side = st.integers(-1, lk + 2)
        makers = st.sampled_from(["causal", "window", "lengths"])

        def one() -> Any:
            name = draw(makers)
            if name == "causal":
                return Causal()
            return Window(draw(side), draw(side)) if name == "window" else KeyLengths(draw(st.integers(0, lk)))

        pattern = one()
        how = draw(st.sampled_from(["alone", "and", "or", "not"]))
        if how == "not":
            pattern = ~pattern
        elif how != "alone":
            other = one()
            pattern = pattern & other if how == "and" else pattern | other
        return {"mask": pattern, "query_offset": draw(offset)}
    return {}


def masks(
    shape: Shape | st.SearchStrategy[Shape] | None = None, *, kinds: Sequence[str] = KINDS_OF_MASKS
) -> st.SearchStrategy[dict[str, Any]]:
    """Draw what masks a call, as keywords of `ruvattn.attention`.

    Parameters
    ----------
    shape : Shape, or a strategy of Shape, optional
        Of the call; `shapes` by default.
    kinds : sequence of str, default `KINDS_OF_MASKS`
        Of which one is drawn: ``"none"``, ``"causal"`` and ``"window"`` with a position of the first query, ``"key_lengths"`` for all or for each
        batch entry, ``"bool"``, an array that broadcasts, ``"sparse"``, a scipy.sparse array of two axes or three, ``"pattern"``, built-in
        patterns and what ``&``, ``|`` and ``~`` make of them, or ``"several"`` at once.

    Returns
    -------
    SearchStrategy of dict
        Of ``mask``, ``causal``, ``window``, ``key_lengths`` and ``query_offset`` those that are set. Rows may see nothing.

    Raises
    ------
    InvalidInputError
        If a kind has another name.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from hypothesis import HealthCheck, given, settings, strategies as st
    >>> from ruvattn.testing import strategies
    >>> calls = strategies.shapes().flatmap(lambda shape: st.tuples(strategies.inputs(shape), strategies.masks(shape)))
    >>> @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    ... @given(calls)
    ... def test_output_is_finite(call):
    ...     arrays, mask = call
    ...     assert np.isfinite(ruvattn.attention(*arrays, **mask).astype(float)).all()
    >>> test_output_is_finite()
    """
    unknown = [name for name in kinds if name not in KINDS_OF_MASKS]
    if unknown or not kinds:
        raise InvalidInputError(f"kinds must be of {', '.join(KINDS_OF_MASKS)}, got {next(iter(unknown), kinds)!r}")
    return _masks(shape, tuple(kinds))


@st.composite
def _graphs(draw: Any, nodes: tuple[int, int], edges: tuple[int, int], self_loops: bool, multi_edges: bool) -> Graph:
    count = draw(st.integers(*nodes))
    end = st.integers(0, max(count - 1, 0))
    pair = st.tuples(end, end) if self_loops else st.tuples(end, end).filter(lambda pair: pair[0] != pair[1])
    possible = count * count if self_loops else count * (count - 1)
    most = edges[1] if possible and multi_edges else min(edges[1], possible)
    if most < edges[0]:
        raise InvalidInputError(f"min_edges must be at most {most}, the edges that {count} nodes can have, got {edges[0]}")
    pairs = draw(st.lists(pair, min_size=edges[0], max_size=most, unique=not multi_edges)) if most else []
    return Graph(count, np.array(pairs, np.int64).reshape(-1, 2).T.copy())


def graphs(
    *, min_nodes: int = 1, max_nodes: int = 8, min_edges: int = 0, max_edges: int = 16, self_loops: bool = True, multi_edges: bool = True
) -> st.SearchStrategy[Graph]:
    """Draw directed graphs, nodes without edges and graphs without edges among them.

    Parameters
    ----------
    min_nodes, max_nodes : int, default 1 and 8
        How many nodes; a graph of none is drawn if 0 is asked for.
    min_edges, max_edges : int, default 0 and 16
        How many edges.
    self_loops : bool, default True
        Whether an edge may lead from a node to itself.
    multi_edges : bool, default True
        Whether several edges may lead from one node to another.

    Returns
    -------
    SearchStrategy of Graph
        ``nodes`` and ``edge_index``.

    Raises
    ------
    InvalidInputError
        If a limit is no int, or less than the least.

    Examples
    --------
    >>> import numpy as np
    >>> from hypothesis import HealthCheck, given, settings
    >>> from ruvattn import Adjacency
    >>> from ruvattn.testing import strategies
    >>> @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    ... @given(strategies.graphs())
    ... def test_no_edge_is_lost(graph):
    ...     adjacency, order = Adjacency.from_edges(*graph.edge_index, graph.nodes, graph.nodes)
    ...     assert np.array_equal(adjacency.indices, graph.edge_index[0, order])
    >>> test_no_edge_is_lost()
    """
    _check_range({"nodes": (min_nodes, max_nodes), "edges": (min_edges, max_edges)}, {"nodes": 0, "edges": 0})
    return _graphs((min_nodes, max_nodes), (min_edges, max_edges), self_loops, multi_edges)


def _origin(manifold: Any, width: int) -> np.ndarray:
    """Return a point to measure from: the manifold's own origin, or what a unit vector is projected to."""
    if hasattr(manifold, "origin"):
        return np.asarray(manifold.origin(width), np.float64)
    return np.asarray(manifold.project(np.eye(1, width)[0]), np.float64)


def _radius(manifold: Any) -> float:
    """Return the radius of curvature, of a product the least; 1 for what is flat."""
    curvature = manifold.curvature
    kinds = [abs(float(c)) for c in np.ravel(np.asarray(curvature if not isinstance(curvature, tuple) else list(curvature), np.float64))]
    curved = [c for c in kinds if c > 0]
    return 1 / np.sqrt(max(curved)) if curved else 1.0


def _unit(manifold: Any, base: np.ndarray, vector: np.ndarray) -> np.ndarray:
    tangent = np.asarray(manifold.project_tangent(vector, base), np.float64)
    size = np.sqrt(np.maximum(np.asarray(manifold.inner_product(base, tangent, tangent), np.float64), 0))[..., None]
    return np.divide(tangent, size, out=np.zeros_like(tangent), where=size > 1e-9)


_PARTS = st.integers(-100, 100).map(lambda n: n / 100)
_SHARES = st.integers(0, 1000).map(lambda n: n / 1000)


@st.composite
def _points(draw: Any, manifold: Any, width: int, lead: tuple[int, ...], region: str) -> np.ndarray:
    low, high = REGIONS[draw(st.sampled_from(list(REGIONS)))] if region == "anywhere" else REGIONS[region]
    base = np.broadcast_to(_origin(manifold, width), (*lead, width))
    direction = draw(hnp.arrays(np.float64, (*lead, width), elements=_PARTS, fill=st.nothing()))
    farthest = np.pi * 0.999 if np.max(np.asarray(_flat(manifold.curvature), np.float64), initial=-1.0) > 0 else high
    share = draw(hnp.arrays(np.float64, lead, elements=_SHARES, fill=st.nothing()))
    distance = low + share * (max(min(high, farthest), low) - low)
    tangent = _unit(manifold, base, direction) * (distance * _radius(manifold))[..., None]
    return np.asarray(manifold.exp_map(base, tangent), np.float64)


def _flat(curvature: Any) -> list[float]:
    return [float(c) for c in (curvature if isinstance(curvature, tuple | list) else np.ravel(curvature))]


def points(manifold: Manifold, *, width: int = 3, lead: tuple[int, ...] = (), region: str = "anywhere") -> st.SearchStrategy[np.ndarray]:
    """Draw points of a manifold, along geodesics that leave its origin.

    Parameters
    ----------
    manifold : ruvattn.Manifold
        With one curvature, or a product of such.
    width : int, default 3
        How many coordinates a point has.
    lead : tuple of int, optional
        How many points.
    region : {"anywhere", "origin", "middle", "boundary"}
        How far from the origin, in units of the radius of curvature: up to 0.01, from there to 2, or from 2 to 10, where a ball's points are
        1e-4 from its edge. Of what is curved like a sphere not beyond 0.999 π.

    Returns
    -------
    SearchStrategy of ndarray, lead + (width,)
        Points, in float64. They shrink to the origin, or as close to it as the region goes.

    Raises
    ------
    InvalidInputError
        If `manifold` is none, or an argument makes no sense.

    Notes
    -----
    The origin is ``manifold.origin(width)`` where there is such a method, as those of ruvattn-geometric have, and otherwise what
    ``manifold.project`` makes of (1, 0, …, 0).
    """
    if not isinstance(manifold, Manifold):
        raise InvalidInputError(f"manifold must be a ruvattn.Manifold, got {type(manifold).__name__}")
    _check("width", width, 1)
    if not isinstance(lead, tuple):
        raise InvalidInputError(f"lead must be a tuple of int, got {lead!r}")
    for length in lead:
        _check("each of lead", length, 0)
    if region not in ("anywhere", *REGIONS):
        raise InvalidInputError(f"region must be one of anywhere, {', '.join(REGIONS)}, got {region!r}")
    return _points(manifold, width, lead, region)


def tangents(manifold: Manifold, base: Any, *, longest: float = 2.0) -> st.SearchStrategy[np.ndarray]:
    """Draw tangent vectors at points of a manifold.

    Parameters
    ----------
    manifold : ruvattn.Manifold
        The manifold.
    base : array, (..., D)
        Points of it.
    longest : float, default 2
        How long a vector is at most, in units of the radius of curvature.

    Returns
    -------
    SearchStrategy of ndarray, (..., D)
        Tangent vectors at `base`, in float64. They shrink to zero.

    Raises
    ------
    InvalidInputError
        If `manifold` is none.
    """
    if not isinstance(manifold, Manifold):
        raise InvalidInputError(f"manifold must be a ruvattn.Manifold, got {type(manifold).__name__}")
    at = np.asarray(base, np.float64)
    vectors = hnp.arrays(np.float64, at.shape, elements=_PARTS, fill=st.nothing())
    lengths = hnp.arrays(np.float64, at.shape[:-1], elements=_SHARES, fill=st.nothing())
    scale = longest * _radius(manifold)
    return st.tuples(vectors, lengths).map(lambda drawn: _unit(manifold, at, drawn[0]) * (scale * drawn[1])[..., None])
