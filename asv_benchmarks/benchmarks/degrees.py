"""How the edges of benchmarked graphs are spread over their nodes: what the suite and the comparison with torch-geometric have in common.

It times nothing, and lies in the suite because that is all that asv can import. NumPy is imported where it is called, for the number of its threads
is settled before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DEGREES"]

EXPONENT = 0.75
"""A node's chance of an edge falls with this power of its rank: numbers of edges then follow a power law with the exponent 1 + 1 / 0.75 = 2.33."""


def uniform(rng: np.random.Generator, nodes: int, edges: int) -> np.ndarray:
    """Draw edges between any two nodes."""
    return rng.integers(0, nodes, (2, edges))


def power_law(rng: np.random.Generator, nodes: int, edges: int) -> np.ndarray:
    """Draw edges with few nodes in many of them, as source or as destination: at 20k/400k the first one is in 8,000 of each."""
    import numpy as np

    chances = np.arange(1, nodes + 1) ** -EXPONENT
    chances /= chances.sum()
    return np.stack([rng.permutation(nodes)[rng.choice(nodes, edges, p=chances)] for _ in range(2)])


def hub(rng: np.random.Generator, nodes: int, edges: int) -> np.ndarray:
    """Draw edges of which every other one goes to the same node."""
    edge_index = uniform(rng, nodes, edges)
    edge_index[1, ::2] = nodes // 3
    return edge_index


DEGREES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {"uniform": uniform, "power law": power_law, "hub": hub}
"""By name, what draws edge_index, (2, edges)."""
