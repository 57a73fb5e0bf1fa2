"""How exact geometric attention and distances are in float32, beside what dots and norms alone leave.

The truth is float64 on the same float32 points (`geometric_cases`). Each ``…_task`` runs in a process of its own and yields rows ready for JSON;
`show_geometric_figures` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from geometric_cases import CASES, HEADS, LENGTH, WIDTH, lorentz, near_points, spherical, stereographic, to_lorentz, to_sphere
from reporting import Report
from timing import run_child

if TYPE_CHECKING:
    import numpy as np

__all__ = ["attention_accuracy_task", "distance_accuracy_task", "show_geometric_figures"]

Row = dict[str, Any]

BAR = 1e-5
"""Of errors in float32: of outputs and weights, and of distances absolute or relative, whichever is less."""

ROWS = 128
"""Rows of every head whose outputs and weights are compared."""

RADII = (0.5, 0.9, 0.99, 1 - 1e-6)
SEPARATIONS = (1.0, 0.1, 1e-2, 1e-4)
WIDTHS = (8, 64, 512)

GROUPS, NEIGHBOURS = 4, 32
"""Groups of near points, and points in each."""


# --- attention --------------------------------------------------------------------------------------------------------------------


def attention_accuracy_task(names: list[str], rows: int, length: int) -> Iterator[Row]:
    """Measure the largest errors on the cases of these names; of torch's too, where there is torch.

    Those of outputs are relative to the largest output, those of weights to the largest weight of their row.
    """
    import numpy as np

    import ruvattn

    for case in CASES:
        if case.name not in names:
            continue
        case = case.at(length)
        try:
            options = case.options()
        except (ImportError, LookupError) as error:  # no plugin, or one without the name
            yield {"case": case.name, "skipped": str(error)}
            continue
        q, k, v = case.arrays()
        some = np.unique(np.linspace(0, length - 1, rows).astype(np.int64))
        weights, out = case.expected(q, k, v, some)
        few = np.ascontiguousarray(q[:, :, some])
        found = {"ruvattn": (ruvattn.attention_weights(few, k, score=options["score"]), ruvattn.attention(few, k, v, **options))}
        if find_spec("torch") is not None:
            found |= _by_torch(case.geometry, case.aggregate == "einstein", few, k, v)
        yield {
            "case": case.name,
            "out": {name: float((abs(made - out) / abs(out).max()).max()) for name, (_, made) in found.items()},
            "weights": {name: float((abs(made - weights) / weights.max(-1, keepdims=True)).max()) for name, (made, _) in found.items()},
        }


def _by_torch(geometry: str, einstein: bool, *arrays: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import torch
    from geometric_torch import PLAIN, TUNED, attend, prepare

    q, k, v = map(torch.from_numpy, arrays)
    values = prepare(v) if einstein else v
    forms = {"torch": PLAIN.get(geometry), "tuned": TUNED.get(geometry)}
    return {
        name: (torch.softmax(logits(q, k), -1).numpy(), attend(logits, q, k, values, einstein=einstein).numpy())
        for name, logits in forms.items()
        if logits is not None
    }


# --- distances --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """A space whose distances are measured.

    Attributes
    ----------
    name : str
        The class of the plugin.
    embed : callable
        Points of the unit ball -> points of this space, one coordinate wider if `time`.
    truth, naive : callable
        Distances of all pairs, in float64 from differences, and in the dtype of the points from dots and norms.
    time : bool
        Whether the points have a time coordinate.
    radii : tuple of float
        Of the ball's points; None where only directions count.
    """

    name: str
    embed: Callable[[np.ndarray], np.ndarray]
    truth: Callable[[np.ndarray, np.ndarray], np.ndarray]
    naive: Callable[[np.ndarray, np.ndarray], np.ndarray]
    time: bool = False
    radii: tuple[float | None, ...] = RADII


def _naive_ball(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import numpy as np

    squares_x, squares_y = (x * x).sum(-1)[..., None], (y * y).sum(-1)[..., None, :]
    gaps = np.maximum(squares_x + squares_y - 2 * x @ y.swapaxes(-1, -2), 0)
    return 2 * np.arcsinh(np.sqrt(gaps / ((1 - squares_x) * (1 - squares_y))))


def _naive_lorentz(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import numpy as np

    inner = x[..., 1:] @ y[..., 1:].swapaxes(-1, -2) - x[..., :1] * y[..., :1].swapaxes(-1, -2)
    return np.arccosh(np.maximum(-inner, 1))


def _naive_sphere(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.arccos(np.clip(x @ y.swapaxes(-1, -2), -1, 1))


SPACES = (
    Space("PoincareBall", lambda x: x, stereographic, _naive_ball),
    Space("Lorentz", to_lorentz, lorentz, _naive_lorentz, time=True),
    Space("Sphere", to_sphere, spherical, _naive_sphere, radii=(None,)),
)


def distance_accuracy_task(widths: list[int]) -> Iterator[Row]:
    """Measure distances of near points, over radii and separations, at each width; yield the worst error for each."""
    import numpy as np

    try:
        import ruvattn_geometric
    except ModuleNotFoundError:
        yield {"skipped": "this needs the manifolds of a plugin: pip install ./plugins/ruvattn-geometric"}
        return
    for space in SPACES:
        manifold = getattr(ruvattn_geometric, space.name)()
        for width in widths:
            rng = np.random.default_rng(width)
            for radius in space.radii:
                for separation in SEPARATIONS:
                    drawn = near_points(rng, GROUPS, 2 * NEIGHBOURS, width - space.time, radius or 0.5, separation)
                    points = space.embed(drawn).astype(np.float32)
                    x, y = points[:, :NEIGHBOURS], points[:, NEIGHBOURS:]
                    truth = space.truth(x, y)
                    with np.errstate(all="ignore"):  # far out dots and norms make infinities
                        naive = space.naive(x, y)
                    yield {
                        "space": space.name,
                        "width": width,
                        "radius": radius,
                        "separation": separation,
                        "least": float(truth.min()),
                        "largest": float(truth.max()),
                        "error": _worst(manifold.pairwise_distance(x, y), truth),
                        "naive": _worst(naive, truth),
                    }


def _worst(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the largest error, of each distance the absolute or relative one, whichever is less; an infinite one if a distance isn't finite."""
    import numpy as np

    error = np.abs(found.astype(np.float64) - truth) / np.maximum(truth, 1)
    return float(np.where(np.isfinite(error), error, np.inf).max())


# --- what is printed --------------------------------------------------------------------------------------------------------------


def show_geometric_figures(report: Report, *, rows: int = ROWS, length: int = LENGTH, widths: tuple[int, ...] = WIDTHS) -> None:
    """Print both tables."""
    figures: dict[str, list[Row]] = {"attention": [], "distances": []}
    report.document["geometric_figures"] = figures
    names = [case.name for case in CASES]

    report.say(
        f"\nlargest errors in float32, {HEADS} heads of {length} x {WIDTH}, {rows} rows of each: of outputs relative to the largest one, of weights\n"
        f"relative to the largest of their row; torch from dots and norms, as the formulas are read and tuned; the bar is {BAR:g}"
    )
    peers = ("ruvattn", "torch", "tuned")
    report.say(f"{'space, points':40}" + "".join(f"{head:>16}" for head in (*peers, *(f"weights {peer}" for peer in peers))))
    for row in run_child("geometric-accuracy", {"names": names, "rows": rows, "length": length}, threads=1):
        figures["attention"].append(row)
        if "skipped" in row:
            report.say(f"{row['case']:40}skipped: {row['skipped']}")
            continue
        cells = [f"{row[what][peer]:.1e}" if peer in row[what] else "" for what in ("out", "weights") for peer in peers]
        missed = max(row["out"]["ruvattn"], row["weights"]["ruvattn"]) > BAR
        report.say(f"{row['case']:40}" + "".join(f"{cell:>16}" for cell in cells) + _over(missed))

    report.say(
        f"\ndistances of near points, float32: the largest error at widths {', '.join(map(str, widths))}, absolute or relative, whichever is less,\n"
        f"and beside it what dots and norms alone leave; the bar is {BAR:g}"
    )
    for row in run_child("geometric-distances", {"widths": list(widths)}, threads=1):
        figures["distances"].append(row)
        if "skipped" in row:
            report.say(f"skipped: {row['skipped']}")
    measured = [row for row in figures["distances"] if "space" in row]
    if measured:
        report.say(f"{'space':14}{'radius':>10}" + "".join(f"{f'{separation:g} apart':>22}" for separation in SEPARATIONS))
    for space in SPACES:
        for radius in space.radii:
            mine = [row for row in measured if (row["space"], row["radius"]) == (space.name, radius)]
            cells, worst = [], 0.0
            for separation in SEPARATIONS:
                errors = [(row["error"], row["naive"]) for row in mine if row["separation"] == separation]
                if errors:
                    ours, naive = (max(column) for column in zip(*errors, strict=True))
                    cells.append(f"{ours:.1e} {naive:9.1e}")
                    worst = max(worst, ours)
            if cells:
                at = "" if radius is None else f"{radius:g}" if radius < 0.9999 else "1-1e-6"
                report.say(f"{space.name:14}{at:>10}" + "".join(f"{cell:>22}" for cell in cells) + _over(worst > BAR))


def _over(missed: bool) -> str:
    return "  MISSES THE BAR" if missed else ""
