"""What a score of curved spaces consists of, in Python and as the compiled functions read it.

    Part, … ─┬─► the tile's planes, terms, parameters and columns, for geometric_score.py and pairs.py
             └─► compiled_forms ─► a struct that _scores.pyx gets with each call
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn.isa import load_kernels
from ruvattn.scores import FORWARD_SIGNATURE, VJP_SIGNATURE, spelled

if TYPE_CHECKING:
    from .geometric_score import GeometricScore

MAX_PARTS = 16

# What a part is, as in _components.pxd.
STEREOGRAPHIC, EUCLIDEAN, SPHERE, LORENTZ, LORENTZ_INNER, COSINE, DOT = range(7)
# What becomes of the parts.
LENGTH, SQUARED, SUM = range(3)

TERMS = {STEREOGRAPHIC: 2, EUCLIDEAN: 1, SPHERE: 1, LORENTZ: 1, LORENTZ_INNER: 1, COSINE: 1, DOT: 0}


@dataclass(frozen=True)
class Part:
    """One space of a score: which columns it has, and where its plane, its terms and its parameters are.

    Attributes
    ----------
    kind : int
        Of the constants above.
    start, stop : int
        Columns of queries and keys; ``stop`` is −1 for all that there are.
    plane, term : int
        Of the tile: its plane of dots, and its first row and column term.
    curvature, weight : str
        Names of parameters; empty where it has none.
    """

    kind: int
    start: int
    stop: int
    plane: int
    term: int
    curvature: str = ""
    weight: str = ""

    def columns(self, x: np.ndarray) -> np.ndarray:
        """Return the columns of points that are this part's."""
        return x[..., self.start : None if self.stop < 0 else self.stop]


def alone(kind: int, curvature: str) -> tuple[tuple[int, ...] | None, tuple[Part, ...]]:
    """Return the splits and the one part of a space that has all columns; those of Lorentz points begin with the time, which is made anew."""
    time = int(kind in (LORENTZ, LORENTZ_INNER))
    return (1, -1) if time else None, (Part(kind, time, -1, time, 0, curvature),)


@functools.lru_cache(maxsize=256)  # every call asks
def domains_of(mode: int, parts: tuple[Part, ...]) -> dict[str, tuple[float, float]]:
    """Return where the parameters of a score have to be: curvatures of one sign, a temperature above 0, and weights under a root too."""
    above, below = (0.0, math.inf), (-math.inf, 0.0)
    domains = {"temperature": above}
    for part in parts:
        if part.kind == SPHERE:
            domains[part.curvature] = above
        elif part.kind in (LORENTZ, LORENTZ_INNER):
            domains[part.curvature] = below
        if part.weight and mode == LENGTH:
            domains[part.weight] = above
    return domains


class _Layout(ctypes.Structure):
    """What a compiled function needs to know of the parts, as in _components.pxd."""

    _fields_ = [
        ("mode", ctypes.c_int),
        ("count", ctypes.c_int),
        *((name, ctypes.c_int * MAX_PARTS) for name in ("kind", "plane", "term", "curvature", "weight")),
        *((name, ctypes.c_ssize_t * MAX_PARTS) for name in ("start", "stop")),
    ]


@functools.cache
def compiled_forms(mode: int, parts: tuple[Part, ...], names: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Return the compiled forms for a layout; kept, together with what they point to."""
    from scipy import LowLevelCallable

    layout = _Layout(mode, len(parts))
    for at, part in enumerate(parts):
        layout.kind[at], layout.plane[at], layout.term[at] = part.kind, part.plane, part.term
        layout.start[at], layout.stop[at] = part.start, part.stop
        layout.curvature[at] = names.index(part.curvature) if part.curvature else -1
        layout.weight[at] = names.index(part.weight) if part.weight else -1
    _kept.append(layout)
    pointer = ctypes.cast(ctypes.pointer(layout), ctypes.c_void_p)
    forms: dict[str, tuple[Any, Any]] = {}
    for dtype in ("float32", "float64"):
        module = load_kernels("ruvattn_geometric._scores", dtype)
        # Cython calls a dtype `real` where it has to say which.
        forms[dtype] = tuple(
            LowLevelCallable.from_cython(module, name, pointer, spelled(signature, dtype))
            for name, signature in (("geometric_logits", FORWARD_SIGNATURE), ("geometric_logits_vjp", VJP_SIGNATURE))
        )
    return forms


_kept: list[_Layout] = []


class Kernels:
    """The compiled forms of an instance. They do not pickle, so that no instance holds them; an instance may still be given others."""

    def __get__(self, score: GeometricScore | None, owner: type) -> dict[str, tuple[Any, Any]]:
        return {} if score is None else compiled_forms(score.mode, score.parts, tuple(score.params))
