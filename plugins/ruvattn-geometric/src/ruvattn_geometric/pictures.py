"""Pictures of the Poincaré disk: points, geodesics between them, and whom a point attends to.

    points (N, 2) ──► where they are drawn ──► disk_arcs ──► lines of a figure     draw_disk()
                                                             pixels of a file      save_disk()

The Poincaré disk keeps angles: its geodesics are arcs of circles that meet the edge at right angles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.files import replacing
from ruvattn.validation import as_array, as_numbers, check_finite, check_int, check_positive

from .manifolds import PoincareBall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["disk_arcs", "draw_disk", "save_disk"]

EDGE = "#b8bec6"
"""Colour of the circle, and of lines whose points have no colours of their own."""

INK = "#08306b"
ATTENTION = "#d7301f"

LEAST_SHARE = 0.01
"""Of the largest weight: what has less than this share of it gets no arc."""

WIDEST = 5.0
"""Width in points of the arc with the largest weight."""


def disk_arcs(x: Any, y: Any, *, c: float = 1.0, count: int = 49) -> np.ndarray:
    """Return points along geodesics of the Poincaré disk, at equal steps along the arc as it is drawn.

    The arc from x to y turns by 2φ, tan φ = c x×y / (1 − c x·y). This follows from the velocity with which a geodesic leaves x, which is
    parallel to (1 − c‖x‖²)(y − x) − c‖y − x‖² x. So for t in [0, 1], with the rotation R by an angle,

        p(t) = x + sin(φt)/sin(φ) R((1 − t)φ) (y − x)

    which tends to the line from x to y where both are on one diameter.

    Parameters
    ----------
    x, y : array, (..., 2)
        From where, and to where: points with c‖x‖² < 1.
    c : float, default 1.0
        Minus the curvature; the disk has the radius 1/√c.
    count : int, default 49
        How many points, from 2.

    Returns
    -------
    ndarray, (..., count, 2) float64
        The first is x and the last y.

    Raises
    ------
    InvalidInputError
        If a point is outside the disk, c isn't positive, or `count` is less than 2.
    DimensionMismatchError
        If points don't have two coordinates, or leading axes don't broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric.pictures import disk_arcs
    >>> disk_arcs([0.5, 0.0], [0.0, 0.5], count=3).round(4)
    array([[0.5   , 0.    ],
           [0.2192, 0.2192],
           [0.    , 0.5   ]])
    """
    c = check_positive(c, "c")
    start, stop = _points(x, "x", c), _points(y, "y", c)
    t = np.linspace(0.0, 1.0, check_int(count, "count", 2))
    try:
        start, stop = np.broadcast_arrays(start, stop)
    except ValueError:
        raise DimensionMismatchError(f"x and y must broadcast, got shapes {start.shape} and {stop.shape}") from None
    across = start[..., 0] * stop[..., 1] - start[..., 1] * stop[..., 0]
    phi = np.arctan2(c * across, 1 - c * np.vecdot(start, stop))[..., None]
    chord = (stop - start)[..., None, :]
    # np.sinc is sin(πx)/πx, and 1 at 0.
    length = t * np.sinc(phi * t / np.pi) / np.sinc(phi / np.pi)
    cosine, sine = np.cos((1 - t) * phi), np.sin((1 - t) * phi)
    turned = np.stack([cosine * chord[..., 0] - sine * chord[..., 1], sine * chord[..., 0] + cosine * chord[..., 1]], axis=-1)
    return start[..., None, :] + length[..., None] * turned


def draw_disk(
    points: Any, *, edges: Any = None, query: int | None = None, weights: Any = None, labels: Mapping[int, str] | Sequence[str] | None = None,
    colors: Any = None, sizes: Any = 12.0, c: float = 1.0, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw points of the Poincaré disk, geodesics between them, and the attention of one of them.

    Parameters
    ----------
    points : array, (N, 2)
        Points of a `PoincareBall`.
    edges : array of int, (E, 2), optional
        Pairs of points to draw a geodesic between, in the colour of the first.
    query : int, optional
        The point that attends. An arc leads from it to each point that it pays at least a hundredth of the largest weight; the width is
        proportional to the weight.
    weights : array, (N,), optional
        What it pays to each point: a row of `ruvattn.attention_weights`. Needs `query`.
    labels : mapping of int to str, or sequence of N str, optional
        Text beside points; an empty one is left out.
    colors : optional
        One colour, or one for each point; anything that matplotlib takes for that.
    sizes : float or array, (N,), default 12.0
        Areas of the dots in square points.
    c : float, default 1.0
        Minus the curvature. The disk is drawn with radius 1 whatever it is.
    ax : matplotlib Axes, optional
        Where to draw; without, the axes of a new figure, which doesn't belong to pyplot.

    Returns
    -------
    matplotlib Axes
        What was drawn on; ``.figure.savefig(…)`` writes it.

    Raises
    ------
    InvalidInputError
        If a point is outside the disk, an edge or `query` names a point that isn't there, a weight is negative or not finite, only one of `query` and
        `weights` is given, or a number isn't what it should be.
    DimensionMismatchError
        If shapes don't fit.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import PoincareBall
    >>> from ruvattn_geometric.pictures import draw_disk
    >>> points = PoincareBall().random((5, 2), seed=0)
    >>> ax = draw_disk(points, edges=[(0, 1), (0, 2)], labels={0: "root"}) # doctest: +SKIP
    """
    c = check_positive(c, "c")
    where = _points(points, "points", c)
    if where.ndim != 2:
        raise DimensionMismatchError(f"points must be (N, 2), got shape {where.shape}")
    where = np.sqrt(c) * where
    count = len(where)
    pairs = np.empty((0, 2), np.intp) if edges is None else _pairs(edges, count)
    if (query is None) != (weights is None):
        given, missing = ("weights", "query") if query is None else ("query", "weights")
        raise InvalidInputError(f"{given} is given without {missing}: attention is drawn from one point, with a weight for each")
    shares = np.empty(0) if weights is None else _weights(weights, count)
    texts = _labels(labels, count)
    area = as_numbers(sizes, "sizes")
    if area.shape not in ((), (count,)):
        raise DimensionMismatchError(f"sizes must be a number or ({count},), got shape {area.shape}")

    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgba_array
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'ruvattn-geometric[pictures]'") from error
    dots = to_rgba_array(INK if colors is None else colors)
    if len(dots) not in (1, count):
        raise DimensionMismatchError(f"colors must be one or {count}, got {len(dots)}")
    if ax is None:  # neither pyplot nor a display is needed
        figure = Figure(figsize=(8, 8), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal")
    ax.set_axis_off()
    ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=EDGE, linewidth=1.0, zorder=1))
    if len(pairs):
        shades = EDGE if colors is None else dots[pairs[:, 0] % len(dots)]
        ax.add_collection(LineCollection(list(disk_arcs(where[pairs[:, 0]], where[pairs[:, 1]])), colors=shades, linewidths=0.6, alpha=0.6, zorder=2))
    ax.scatter(where[:, 0], where[:, 1], s=area, c=dots, linewidths=0, zorder=3)
    if query is not None:
        query = check_int(query, "query", 0, count - 1)
        seen = np.flatnonzero((shares > 0) & (shares >= LEAST_SHARE * shares.max(initial=0.0)) & (np.arange(count) != query))
        seen = seen[np.argsort(shares[seen], kind="stable")]  # the widest on top
        lines = list(disk_arcs(where[query], where[seen]))
        width = WIDEST * shares[seen] / shares.max(initial=0.0) if len(seen) else 0.0
        ax.add_collection(LineCollection(lines, colors=ATTENTION, linewidths=width, capstyle="round", zorder=4))
        ax.scatter(where[query, 0], where[query, 1], s=90, marker="*", c=ATTENTION, edgecolors="white", linewidths=0.8, zorder=6)
    for index, text in texts.items():
        _write(ax, where[index], text)
    return ax


def save_disk(path: Any, points: Any, *, size: int = 1000, **options: Any) -> Path:
    """Write what `draw_disk` draws to a PNG image.

    Parameters
    ----------
    path : str or path-like
        The file, which is replaced when the image is complete.
    points : array, (N, 2)
        Points of a `PoincareBall`.
    size : int, default 1000
        Pixels of a side, from 100.
    **options
        As for `draw_disk`, other than `ax`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    AttentionError
        As for `draw_disk`.
    ImportError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    size = check_int(size, "size", 100)
    if "ax" in options:
        raise InvalidInputError("ax has no place in a file of its own: draw on it with draw_disk(…), and save its figure")
    figure: Any = draw_disk(points, **options).figure
    path = Path(path)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=size / figure.get_figwidth())
    return path


def _points(x: Any, name: str, c: float) -> np.ndarray:
    """Return points of the disk in float64."""
    given = np.asarray(x)
    array = as_array(given.astype(np.float64) if given.dtype.kind in "iu" else given, name)
    if not array.ndim or array.shape[-1] != 2:
        raise DimensionMismatchError(f"{name} must be (..., 2), as a disk has two dimensions, got shape {array.shape}")
    PoincareBall(c).check(array, name)
    return array.astype(np.float64)


def _pairs(edges: Any, count: int) -> np.ndarray:
    pairs = as_numbers(edges, "edges")
    if pairs.size == 0:
        return np.empty((0, 2), np.intp)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise DimensionMismatchError(f"edges must be (E, 2), a pair of points each, got shape {pairs.shape}")
    if pairs.dtype.kind not in "iu":
        raise InvalidInputError(f"edges must be indices of points, got dtype {pairs.dtype}")
    wrong = (pairs < 0) | (pairs >= count)
    if wrong.any():
        raise InvalidInputError(f"edges must be indices from 0 to {count - 1}, got {pairs[wrong][0]}")
    return pairs.astype(np.intp)


def _weights(weights: Any, count: int) -> np.ndarray:
    shares = as_array(weights, "weights").astype(np.float64)
    if shares.shape != (count,):
        raise DimensionMismatchError(f"weights must be ({count},), one for each point, got shape {shares.shape}")
    check_finite(shares, "weights")
    if (shares < 0).any():
        raise InvalidInputError(f"weights must be at least 0, got {shares[shares < 0][0]}")
    return shares


def _labels(labels: Mapping[int, str] | Sequence[str] | None, count: int) -> dict[int, str]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        if isinstance(labels, str) or len(labels) != count:
            raise DimensionMismatchError(f"labels must be a mapping of points to texts, or {count} texts, got {labels!r}")
        labels = dict(enumerate(labels))
    return {check_int(index, "labels", 0, count - 1): str(text) for index, text in labels.items() if text}


def _write(ax: Axes, point: np.ndarray, text: str) -> None:
    """Write beside a point, outwards."""
    from matplotlib.patheffects import withStroke

    radius = float(np.hypot(*point))
    away = point / radius if radius > 0 else np.array([0.0, 1.0])
    across = "center" if abs(away[0]) < 0.35 else "left" if away[0] > 0 else "right"
    up = "center" if abs(away[1]) < 0.35 else "bottom" if away[1] > 0 else "top"
    ax.annotate(
        text, tuple(point), xytext=tuple(5 * away), textcoords="offset points", ha=across, va=up, fontsize=8, color="#1a1a1a", zorder=7,
        path_effects=[withStroke(linewidth=2.5, foreground="white")], annotation_clip=False,
    )  # fmt: skip
