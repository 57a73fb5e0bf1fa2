"""What the examples of training draw their pictures with: panels side by side, and curves over epochs.

    with panels("digits.png", ["loss", "accuracy"]) as (loss, accuracy):
        curve(loss, history["loss"], "trained on")

Needs matplotlib, which is imported when the first picture is drawn. Without it the examples print all that they find, and draw nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COLOURS = ("#1f5a8a", "#c8553d", "#3d7d4f", "#8a6d1f")
FAINT = "#999999"


def can_draw() -> bool:
    """Tell whether matplotlib is there, and say so where it isn't."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no picture: pip install matplotlib")
        return False
    return True


@contextmanager
def panels(path: str | Path, titles: Sequence[str], *, widths: Sequence[float] | None = None, height: float = 3.6) -> Iterator[list[Any]]:
    """Yield the axes of panels side by side; write the PNG when all is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = list(widths or [1.0] * len(titles))
    figure = Figure(figsize=(4.3 * sum(shares), height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, len(titles), squeeze=False, width_ratios=shares)[0])
    for one, title in zip(axes, titles, strict=True):
        one.set_title(title, fontsize=10)
        one.spines[["top", "right"]].set_visible(False)
    yield axes
    figure.savefig(path, format="png", dpi=100)
    print(f"{path} shows it")


def curve(axes: Any, values: Sequence[float], label: str, *, colour: int = 0, start: int = 1, dashed: bool = False) -> None:
    """Draw a number for each epoch, with its name."""
    axes.plot(range(start, start + len(values)), values, "--" if dashed else "-", color=COLOURS[colour], label=label, linewidth=1.8)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8)
