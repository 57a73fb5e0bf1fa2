"""Pictures of graphs whose edges are as wide as their weights: in a figure, in a file, and as bars in a terminal.

    Graph, weights (E,) or (H, E) ──┬──► edge_shapes ──► polygons of a figure     draw_graph()
    positions, groups, labels ──────┘                    pixels of a file         save_graph()
                                    └──► sorted by weight, a line and a bar each  graph_text()

An edge is one filled shape, shaft and head, in the units of the positions. So its widths keep their proportion to the nodes at any size of
the picture, and a translucent one has no seams. An arrow points at the destination, which is the node that attends; what it attends to is at
the arrow's tail. Where two nodes attend to each other the arrows part, each to its own left.

              ╭──────►╮
           ( 0 )     ( 1 )
              ╰◄──────╯
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from ruvattn.files import replacing
from ruvattn.validation import as_array, as_numbers, check_bool, check_finite, check_int

from .graph import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_graph", "edge_shapes", "graph_text", "save_graph", "spring_positions"]

INK = "#2b303b"
"""Colour of edges that have no group's."""

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bb3", "#5f5f5f")
"""Colours of the first groups, which people who see fewer colours can tell apart (Okabe and Ito, 2008, with darker ones for its yellow and black)."""

WIDEST = 0.030
"""Width of the edge with the largest weight, where positions go from −1 to 1."""

HAIR = 0.0016
"""The least width, for what has no weight is still an edge."""

FAINTEST, BOLDEST = 0.16, 0.92
"""The opacity of an edge without weight, and of the one with the largest."""

BEND = 0.13
"""How far an edge bows out, of its length, where there is one the other way."""

CURVE_POINTS = 21
"""Points of each side of an edge."""

FIGURE_WIDTH = 8.0
"""Inches."""

LEGEND_COLUMNS = 5

MOST_EDGES = 50_000
"""More are not a picture, and would take gigabytes."""

MOST_LAID_OUT = 3_000
"""More nodes take the spring layout minutes."""

MOST_BY_DISTANCE = 200
"""Nodes that are laid out by all their distances, which takes a second for so many."""

# Longer labels are written under their nodes.
_FITS_IN_A_NODE = 3

_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def draw_graph(
    graph: Any, weights: Any = None, *, positions: Any = None, labels: Mapping[int, str] | Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None, node: int | None = None, arrows: bool = True, title: str = "", legend: bool = True,
    seed: int = 0, axes: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw a graph, with edges as wide and as opaque as their weights.

    Nodes of a bipartite graph count as its sources and then its destinations, here and in what is given for each node.

    Parameters
    ----------
    graph : Graph, or whatever `Graph.of` takes
        N nodes and E edges.
    weights : array, (E,) or (H, E), optional
        What each edge of ``graph.edge_index`` weighs, from 0: the attention that its destination pays to its source. The mean of several heads is
        drawn. What ``forward_graph(…, return_weights=True)`` returns will do. Without, all edges are alike.
    positions : array, (N, 2), optional
        Where the nodes are; the larger extent fills the picture. Without, `spring_positions`.
    labels : mapping of int to str, or sequence of N str, optional
        Text of nodes; up to three characters are written inside, more beneath.
    groups : sequence of N hashables, optional
        What group each node is in. Nodes and edges within a group have its colour, and the legend its name.
    node : int, optional
        Draw only the edges into this node, a destination, by their weights, and the others as hairs.
    arrows : bool, default True
        Whether edges end in heads.
    title : str, optional
        Above the picture.
    legend : bool, default True
        Whether to name groups and widths.
    seed : int, default 0
        Of the spring layout.
    axes : matplotlib Axes, optional
        Where to draw; without, the axes of a new figure, which doesn't belong to pyplot.

    Returns
    -------
    matplotlib Axes
        What was drawn on; ``.figure.savefig(…)`` writes it.

    Raises
    ------
    InvalidInputError
        If a weight is negative or not finite, a position is not finite, `node` or a label names a node that isn't there, or the graph is none.
    DimensionMismatchError
        If there isn't one weight for each edge, or one position, label or group for each node.
    InputTooLargeError
        If there are more than 50,000 edges, or more than 3,000 nodes without positions.
    ImportError
        If matplotlib is not installed, or networkx where it has to find positions.

    Examples
    --------
    >>> from ruvattn_graph.pictures import draw_graph
    >>> axes = draw_graph([(0, 1), (1, 0), (1, 2)], [0.3, 1.0, 1.0], labels=["a", "b", "c"])  # doctest: +SKIP
    """
    graph = Graph.of(graph)
    _check_drawable(graph)
    first, second = _ends(graph)
    count = _node_count(graph)
    shares, largest = _shares(weights, graph)
    names, members = _groups(groups, count)
    texts = _labels(labels, count)
    check_bool(arrows, "arrows")
    check_bool(legend, "legend")
    if node is not None:
        node = _first_destination(graph) + check_int(node, "node", 0, graph.num_destinations - 1)
    places = _fitted(spring_positions(graph, seed=seed) if positions is None else _positions(positions, count))

    try:
        from matplotlib.collections import EllipseCollection, PolyCollection
        from matplotlib.colors import to_rgba_array
    except ImportError as error:
        raise ImportError("pictures of graphs need matplotlib: pip install 'ruvattn-graph[pictures]'") from error
    radius = _radius(count)
    reach = abs(places).max(0, initial=0.0) + radius * (4 if (first == second).any() else 1.5) + 0.03  # rings stand out beyond their nodes
    entries = _entries(names, None if weights is None else largest) if legend else []
    if axes is None:
        axes = _new_axes(reach, title.count("\n") + 1 if title else 0, -(-len(entries) // LEGEND_COLUMNS))
    axes.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), aspect="equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=11, color=INK, pad=3)

    dots = np.array(_colors(len(names)))[members] if names else np.full(count, PALETTE[0])
    tints = to_rgba_array(np.where(members[first] == members[second], dots[second], INK) if names else [INK] * len(first))
    bold = np.ones(len(first), bool) if node is None else second == node
    given = 0.35 if weights is None else shares
    tints[:, 3] = np.where(bold, _opacity(given), FAINTEST)
    widths = np.where(bold, np.maximum(WIDEST * given, HAIR), HAIR)
    shapes = edge_shapes(places, first, second, widths, radius=radius, arrows=arrows)
    order = np.lexsort((widths, bold))  # the widest on top
    axes.add_collection(PolyCollection(list(shapes[order]), facecolors=tints[order], edgecolors="none", zorder=2))
    rims = np.where(np.arange(count) == node, INK, "white")
    sizes = np.full(count, 2 * radius)
    axes.add_collection(EllipseCollection(
        sizes, sizes, np.zeros(count), units="xy", offsets=places, offset_transform=axes.transData,
        facecolors=dots, edgecolors=rims, linewidths=np.where(np.arange(count) == node, 2.0, 0.8), zorder=3,
    ))  # fmt: skip
    point = _points_per_unit(axes, reach)
    for index, text in texts.items():
        _write(axes, places[index], text, radius, point, str(dots[index]))
    if entries:
        # Beneath the picture: inside, "best" would not see that nodes are in the way.
        axes.legend(
            handles=[_handle(entry, point) for entry in entries], loc="upper center", bbox_to_anchor=(0.5, 0.0),
            ncols=min(len(entries), LEGEND_COLUMNS), fontsize=9, frameon=False,
            labelcolor=INK, columnspacing=1.6, handletextpad=0.6, borderpad=0.2, borderaxespad=0.2,
        )  # fmt: skip
    return axes


def save_graph(path: Any, graph: Any, weights: Any = None, *, size: int = 1000, **options: Any) -> Path:
    """Write what `draw_graph` draws to a PNG image.

    Parameters
    ----------
    path : str or path-like
        The file, which is replaced when the image is complete.
    graph : Graph, or whatever `Graph.of` takes
        N nodes and E edges.
    weights : array, (E,) or (H, E), optional
        What each edge weighs.
    size : int, default 1000
        Width in pixels, from 100.
    **options
        As for `draw_graph`, other than `axes`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    AttentionError
        As for `draw_graph`.
    ImportError
        If matplotlib is not installed, or networkx where it has to find positions.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> from ruvattn_graph.pictures import save_graph
    >>> save_graph("pair.png", [(0, 1), (1, 0)], [0.3, 1.0])  # doctest: +SKIP
    PosixPath('pair.png')
    """
    size = check_int(size, "size", 100)
    if "axes" in options:
        raise InvalidInputError("axes has no place in a file of its own: draw on it with draw_graph(…), and save its figure")
    figure: Any = draw_graph(graph, weights, **options).figure
    path = Path(path)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=size / figure.get_figwidth())
    return path


def graph_text(
    graph: Any, weights: Any, *, node: int | None = None, count: int = 10, weakest: bool = False,
    labels: Mapping[int, str] | Sequence[str] | None = None, width: int = 24,
) -> str:  # fmt: skip
    """Return edges as text, by their weight: a line each, with a bar.

    Parameters
    ----------
    graph : Graph, or whatever `Graph.of` takes
        N nodes and E edges.
    weights : array, (E,) or (H, E)
        As for `draw_graph`.
    node : int, optional
        Only edges into this node, a destination.
    count : int, default 10
        How many edges at most.
    weakest : bool, default False
        Take those with the smallest weights, and begin with these.
    labels : mapping of int to str, or sequence of N str, optional
        What nodes are called; otherwise by their numbers. Those of a bipartite graph are its sources and then its destinations.
    width : int, default 24
        Columns of the bar of the largest weight of all E.

    Returns
    -------
    str
        ``destination ← source  weight  bar``, a line for each edge; of edges with the same weight the one given first is first.

    Raises
    ------
    InvalidInputError
        If a weight is negative or not finite, `node` or a label names a node that isn't there, or a number isn't what it should be.
    DimensionMismatchError
        If there isn't one weight for each edge, or one label for each node.

    Examples
    --------
    >>> from ruvattn_graph.pictures import graph_text
    >>> print(graph_text([(0, 1), (2, 1), (1, 0)], [0.25, 0.75, 1.0], labels=["a", "b", "c"], width=8))
    a ← b  1.000  ████████
    b ← c  0.750  ██████
    b ← a  0.250  ██
    """
    graph = Graph.of(graph)
    if weights is None:
        raise InvalidInputError("weights must be an array, got None: edges are sorted by them")
    shares, largest = _shares(weights, graph)
    first, second = _ends(graph)
    nodes = _node_count(graph)
    texts = _labels(labels, nodes)
    count, width = check_int(count, "count", 0), check_int(width, "width", 0, 1000)
    check_bool(weakest, "weakest")
    shown = np.arange(len(shares))
    offset = _first_destination(graph)
    if node is not None:
        shown = np.flatnonzero(second == offset + check_int(node, "node", 0, graph.num_destinations - 1))
    shown = shown[np.argsort(shares[shown] if weakest else -shares[shown], kind="stable")[:count]]
    sources = [texts.get(i, str(i)) for i in first[shown].tolist()]
    destinations = [texts.get(i, str(i - offset)) for i in second[shown].tolist()]
    left, right = (max(map(len, column), default=0) for column in (destinations, sources))
    numbers = [f"{share * largest:.3f}" if largest < 1000 else f"{share * largest:.3g}" for share in shares[shown].tolist()]
    wide = max(map(len, numbers), default=0)
    return "\n".join(
        f"{i:>{left}} ← {j:<{right}}  {number:>{wide}}  {_bar(share * width)}".rstrip()
        for i, j, number, share in zip(destinations, sources, numbers, shares[shown].tolist(), strict=True)
    )


def spring_positions(graph: Any, *, seed: int = 0) -> np.ndarray:
    """Return positions at which connected nodes are near each other, as springs would put them.

    Up to 200 connected nodes are placed by networkx so that distances in the picture are like those in the graph (Kamada and Kawai, 1989), others
    so that what is connected attracts and all else repels (Fruchterman and Reingold, 1991). The longest extent is then turned to the horizontal,
    with node 0 on the left, and nodes that would cover each other are pushed apart.

    Parameters
    ----------
    graph : Graph, or whatever `Graph.of` takes
        N nodes; directions and weights make no difference. Nodes of a bipartite graph count as its sources and then its destinations, and stand
        in two columns, which needs no networkx.
    seed : int, default 0
        Of the positions that attraction and repulsion start from.

    Returns
    -------
    ndarray, (N, 2) float64
        From −1 to 1; the same for the same graph and seed.

    Raises
    ------
    InvalidInputError
        If `seed` is no int of 32 bits, or the graph is none.
    InputTooLargeError
        If there are more than 3,000 nodes, or 50,000 edges.
    ImportError
        If networkx is not installed.
    """
    graph = Graph.of(graph)
    seed = check_int(seed, "seed", 0, 2**32 - 1)
    count = _node_count(graph)
    if graph.is_bipartite:
        columns = [(x, np.linspace(1, -1, n) if n > 1 else np.zeros(n)) for x, n in ((-1.0, graph.num_sources), (1.0, graph.num_destinations))]
        return np.concatenate([np.stack([np.full(len(y), x), y], axis=-1) for x, y in columns])
    if count > MOST_LAID_OUT:
        raise InputTooLargeError(f"graph has {count} nodes, and at most {MOST_LAID_OUT} are laid out: pass positions=, or draw a part of it")
    _check_drawable(graph)
    if count < 2:
        return np.zeros((count, 2))
    try:
        import networkx
    except ImportError as error:
        raise ImportError("finding positions needs networkx: pip install 'ruvattn-graph[pictures]', or pass positions=") from error
    drawn = networkx.Graph()
    drawn.add_nodes_from(range(count))
    drawn.add_edges_from(graph.edge_index.T.tolist())
    if count <= MOST_BY_DISTANCE and networkx.is_connected(drawn):
        found = networkx.kamada_kawai_layout(drawn)
    else:
        found = networkx.spring_layout(drawn, seed=seed, iterations=200)
    places = np.array([found[i] for i in range(count)], dtype=np.float64)
    places -= places.mean(0)
    places = places @ np.linalg.svd(places, full_matrices=False)[2].T
    places *= np.where(places[0] * (-1, 1) < 0, -1, 1)
    return _fitted(_parted(_fitted(places), 2.3 * _radius(count)))


# --- geometry ------------------------------------------------------------------------------------------------------------------------


def edge_shapes(places: np.ndarray, first: np.ndarray, second: np.ndarray, widths: np.ndarray, *, radius: float, arrows: bool = True) -> np.ndarray:
    """Return the outline of each edge: along its left side, around the head, and back along its right side.

    Parameters
    ----------
    places : ndarray, (N, 2) float64
        Middles of the nodes.
    first, second : ndarray, (E,) int
        Where edges come from and go to. Edges both ways bow out, each to its left; further ones between the same nodes bow out more; an edge from a
        node to itself is a ring on the side away from the origin.
    widths : ndarray, (E,) float64
        Of the shafts, in the units of `places`.
    radius : float
        Of the nodes, at whose border edges begin and end.
    arrows : bool, default True
        Whether the tip is a head wider than the shaft, or just the shaft's end.

    Returns
    -------
    ndarray, (E, 2·P + 3, 2) float64
        Point P + 1 is the tip; an edge between overlapping nodes has no length.
    """
    bends, ranks = _bends(first, second)
    start, stop = places[first], places[second]
    chord = stop - start
    control = (start + stop) / 2 + 2 * bends[:, None] * np.stack([-chord[:, 1], chord[:, 0]], axis=-1)  # the curve gets half as far
    heads = np.minimum(1.1 * widths + 0.022, 0.45 * np.maximum(np.linalg.norm(chord, axis=1) - 2 * radius, 0)) if arrows else np.zeros(len(first))
    leaves = _crossing(start, control, stop, np.full(len(first), radius))
    ends, tips = (1 - _crossing(stop, control, start, radius + length) for length in (heads, np.zeros(len(first))))
    t = leaves + (np.maximum(ends, leaves) - leaves) * np.linspace(0, 1, CURVE_POINTS)[:, None]
    shafts = np.moveaxis(_bezier(start, control, stop, t), 0, 1)
    tip = _bezier(start, control, stop, np.maximum(tips, leaves))

    rings = np.flatnonzero(first == second)
    if len(rings):
        shafts[rings], tip[rings], heads[rings] = _rings(start[rings], ranks[rings], widths[rings], radius, arrows)

    along = np.gradient(shafts, axis=1)
    along[:, -1] = np.where(heads[:, None] > 0, tip - shafts[:, -1], along[:, -1])
    along /= np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    left = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    half = widths[:, None, None] / 2
    # A head is wider than its shaft by as much at any width, or that of a hair would not be seen.
    barb = left[:, -1:] * np.where(heads > 0, widths * 0.9 + 0.008, widths / 2)[:, None, None]
    last = shafts[:, -1:]
    return np.concatenate([shafts + half * left, last + barb, tip[:, None], last - barb, (shafts - half * left)[:, ::-1]], axis=1)


def _bends(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each edge bows out, as a part of its length, and how many between the same nodes come before it."""
    span = int(max(first.max(initial=0), second.max(initial=0))) + 1
    keys, back = first.astype(np.int64) * span + second, second.astype(np.int64) * span + first
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered)
    # Without one the other way: straight, then to the left, to the right, further to the left …
    alone = np.where(ranks % 2, ranks + 1, -ranks) // 2
    return BEND * np.where(np.isin(back, keys), 1 + ranks, alone), ranks


def _bezier(start: np.ndarray, control: np.ndarray, stop: np.ndarray, t: np.ndarray) -> np.ndarray:
    t = t[..., None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * stop


def _crossing(start: np.ndarray, control: np.ndarray, stop: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return where the first half of each curve leaves a circle around its start; 1/2 if it doesn't."""
    low, high = np.zeros(len(start)), np.full(len(start), 0.5)
    for _ in range(40):  # bisection, to 2^-41
        middle = (low + high) / 2
        inside = np.linalg.norm(_bezier(start, control, stop, middle) - start, axis=-1) < radii
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return high


def _rings(middles: np.ndarray, ranks: np.ndarray, widths: np.ndarray, radius: float, arrows: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shafts, tips and lengths of heads of edges from a node to itself."""
    size = np.hypot(*middles.T)
    away = np.where(size > 0, np.arctan2(middles[:, 1], middles[:, 0]), np.pi / 2)
    ring = radius * (0.85 + 0.35 * ranks)
    distance = radius + 0.5 * ring
    # Seen from its middle, a ring leaves the node at this angle from the direction back to the node.
    gap = np.arccos(np.clip((distance**2 + ring**2 - radius**2) / (2 * distance * ring), -1, 1))
    heads = np.minimum(1.1 * widths + 0.022, 1.5 * ring) if arrows else np.zeros(len(ring))
    begin, tip = away + np.pi + gap, away + 3 * np.pi - gap
    angles = begin + (tip - heads / ring - begin) * np.linspace(0, 1, CURVE_POINTS)[:, None]
    middle = middles + distance[:, None] * np.stack([np.cos(away), np.sin(away)], axis=-1)
    shafts, tips = (middle + ring[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1) for angle in (angles, tip))
    return np.moveaxis(shafts, 0, 1), tips, heads


def _radius(count: int) -> float:
    """Return the radius of nodes."""
    return float(np.clip(0.27 / max(count, 1) ** 0.5, 0.008, 0.07))


def _parted(places: np.ndarray, least: float) -> np.ndarray:
    """Return positions of which hardly any two are nearer than the least distance."""
    if len(places) > MOST_BY_DISTANCE:
        return places
    for _ in range(50):
        ways = places[:, None] - places
        distances = np.linalg.norm(ways, axis=-1)
        np.fill_diagonal(distances, np.inf)
        lacking = np.maximum(least - distances, 0)
        if not lacking.any():
            break
        # Those at one place have no direction to go to: they stay, one on the other.
        places = places + 0.5 * (ways * (lacking / np.maximum(distances, 1e-9))[..., None]).sum(1)
    return places


def _fitted(positions: np.ndarray) -> np.ndarray:
    """Return positions in the middle of the picture, with the larger extent from −1 to 1."""
    if not len(positions):
        return positions
    low, high = positions.min(0), positions.max(0)
    reach = float((high / 2 - low / 2).max())  # halves first: the difference may not fit
    return (positions - (low / 2 + high / 2)) / (reach or 1.0)


# --- what is written ------------------------------------------------------------------------------------------------------------------


def _new_axes(reach: np.ndarray, title_rows: int, legend_rows: int) -> Axes:
    """Return axes of a figure in which the picture has all the width, and title and legend the height that they take."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = FIGURE_WIDTH * float(np.clip(reach[1] / reach[0], 0.4, 1.5))
    above, below = (0.08 + 0.2 * rows for rows in (title_rows, legend_rows))
    figure = Figure(figsize=(FIGURE_WIDTH, picture + above + below), facecolor="white")
    FigureCanvasAgg(figure)  # neither pyplot nor a display is needed
    height = picture + above + below
    return figure.add_axes((0.0, below / height, 1.0, picture / height))


def _points_per_unit(axes: Axes, reach: np.ndarray) -> float:
    """Return about how many typographic points a unit of the positions takes."""
    box, figure = axes.get_position(), axes.get_figure(root=True)
    width, height = figure.get_size_inches()  # type: ignore[union-attr]
    return float(min(box.width * width / reach[0], box.height * height / reach[1])) * 72 / 2


def _write(axes: Axes, place: np.ndarray, text: str, radius: float, point: float, color: str) -> None:
    """Write into a node, or beneath it."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    if len(text) <= _FITS_IN_A_NODE:
        dark = float(np.dot(to_rgb(color), (0.299, 0.587, 0.114))) < 0.6
        size = min(radius * point * (1.15 if len(text) < _FITS_IN_A_NODE else 0.85), 11.0)
        axes.annotate(text, tuple(place), ha="center", va="center_baseline", fontsize=size, color="white" if dark else INK, zorder=4)
    else:
        axes.annotate(
            text, (place[0], place[1] - radius), xytext=(0, -2), textcoords="offset points", ha="center", va="top", fontsize=8, color=INK, zorder=4,
            path_effects=[withStroke(linewidth=2.5, foreground="white")], annotation_clip=False,
        )  # fmt: skip


def _entries(names: list[Hashable], largest: float | None) -> list[tuple[str, str | None, float | None]]:
    """Return the label, the colour of a dot, and the share of a line, of what the legend is to explain."""
    entries: list[tuple[str, str | None, float | None]] = [(str(name), color, None) for name, color in zip(names, _colors(len(names)), strict=True)]
    if len(names) > 1:
        entries.append(("between groups", None, 0.15))
    if largest:
        entries += [(f"weight {largest * share:.2g}", None, share) for share in (1.0, 0.25)]
    return entries


def _handle(entry: tuple[str, str | None, float | None], point: float) -> Any:
    from matplotlib.lines import Line2D

    label, dot, share = entry
    if share is None:
        return Line2D([], [], ls="", marker="o", ms=8, color=dot, label=label)
    return Line2D([], [], lw=max(WIDEST * share, HAIR) * point, alpha=_opacity(max(share, 0.5)), color=INK, solid_capstyle="butt", label=label)


def _colors(count: int) -> list[str]:
    """Return a colour for each group."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["turbo"](np.linspace(0.05, 0.95, count))]


def _opacity(share: Any) -> Any:
    return FAINTEST + (BOLDEST - FAINTEST) * share


def _bar(columns: float) -> str:
    full, rest = divmod(round(columns * 8), 8)
    return "█" * full + _EIGHTHS[rest]


# --- what is given --------------------------------------------------------------------------------------------------------------------


def _first_destination(graph: Graph) -> int:
    """Return the number of the first destination: in a bipartite graph they come after the sources, as everywhere here."""
    return graph.num_sources if graph.is_bipartite else 0


def _node_count(graph: Graph) -> int:
    return _first_destination(graph) + graph.num_destinations


def _check_drawable(graph: Graph) -> None:
    if graph.num_edges > MOST_EDGES:
        raise InputTooLargeError(
            f"graph has {graph.num_edges} edges, and a picture at most {MOST_EDGES}: draw a part, such as graph.k_hop_subgraph(nodes, 1).graph"
        )


def _ends(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Return where edges come from and go to."""
    first, second = graph.edge_index
    return first, second + _first_destination(graph)


def _shares(weights: Any, graph: Graph) -> tuple[np.ndarray, float]:
    """Return each edge's part of the largest weight, and that."""
    count = graph.num_edges
    if weights is None:
        return np.ones(count), 1.0
    given = as_numbers(getattr(weights, "edges", weights), "weights")
    array = as_array(given.astype(np.float64) if given.dtype.kind in "iu" or not given.size else given, "weights").astype(np.float64)
    if array.ndim not in (1, 2) or array.shape[-1] != count or (array.ndim == 2 and not len(array)):
        raise DimensionMismatchError(f"weights must be ({count},) or (H, {count}), one for each edge of graph.edge_index, got shape {array.shape}")
    check_finite(array, "weights")
    if (array < 0).any():
        raise InvalidInputError(f"weights must be at least 0, got {array[array < 0][0]}")
    largest = float(array.max(initial=0.0))
    scaled = array / (largest or 1.0)  # first, or a sum may not fit
    mean = scaled.mean(0) if array.ndim == 2 else scaled
    top = float(mean.max(initial=0.0))
    return mean / (top or 1.0), top * largest


def _positions(positions: Any, count: int) -> np.ndarray:
    given = as_numbers(positions, "positions")
    array = as_array(given.astype(np.float64) if given.dtype.kind in "iu" or not given.size else given, "positions").astype(np.float64)
    if array.shape != (count, 2):
        raise DimensionMismatchError(f"positions must be ({count}, 2), one for each node, got shape {array.shape}")
    check_finite(array, "positions")
    return array


def _groups(groups: Sequence[Hashable] | None, count: int) -> tuple[list[Hashable], np.ndarray]:
    """Return the names of the groups in the order in which they appear, and the number of each node's."""
    if groups is None:
        return [], np.zeros(count, np.intp)
    members: Any = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(members, str | bytes) or not hasattr(members, "__len__") or len(members) != count:
        shape = f"{len(members)}" if hasattr(members, "__len__") else type(groups).__name__
        raise DimensionMismatchError(f"groups must be a sequence of {count}, one for each node, got {shape}")
    try:
        numbers: dict[Hashable, int] = {}
        index = [numbers.setdefault(member, len(numbers)) for member in members]
    except TypeError:
        raise InvalidInputError("groups must be hashable: names, or numbers") from None
    return list(numbers), np.array(index, np.intp)


def _labels(labels: Mapping[int, str] | Sequence[str] | None, count: int) -> dict[int, str]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        if isinstance(labels, str) or not hasattr(labels, "__len__") or len(labels) != count:
            raise DimensionMismatchError(f"labels must be a mapping of nodes to texts, or {count} texts, got {labels!r}")
        labels = dict(enumerate(labels))
    return {check_int(index, "labels", 0, count - 1): str(text) for index, text in labels.items() if str(text)}
