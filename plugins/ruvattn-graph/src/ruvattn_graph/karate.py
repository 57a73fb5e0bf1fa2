"""What ``ruvattn demo`` shows of graph attention: Zachary's karate club, in text and as a drawn graph.

    club ──► Graph, both ways ──┐
      │                         ├──► "graph-transformer" ──► weight of each friendship, either way ──► lines, picture
      └────► features (34, 34) ─┘                                                  │
    factions ─────────────────────────────────────────────────────────────────────┴► compared, never an input

From 1970 to 1972 Zachary watched a university's karate club until it split over a quarrel between its instructor and an officer; he wrote down which
of 34 members were friends, and whom each one followed [1]_. Nothing is learned here, and the factions are not told: a member is described by
friendships alone. That attention keeps to factions all the same is a property of the graph, which it makes visible; where it does not, the lines
say so.

References
----------
.. [1] W. W. Zachary, "An Information Flow Model for Conflict and Fission in Small Groups", Journal of Anthropological Research 33 (1977) 452–473.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ruvattn.demo import Demonstration

    from .graph import Graph
    from .variants.transformer import GraphTransformerAttention

__all__ = ["PICTURE", "SCALE", "SUMMARY", "Club", "attend", "cosine_layer", "describe", "draw", "load_club", "own_shares", "show", "walk_features"]

SCALE = 4.0
"""What cosines are multiplied by before the softmax. With 0 all friends would weigh the same, and the larger the scale the more one stands out."""

SUMMARY = "Whom the members of a karate club listen to"

PICTURE = "ruvattn-demo-karate.png"
"""The name of the file."""

FACTIONS = ("the instructor's faction", "the officer's faction")

CALLS = 50
"""How many are timed."""

BARS = 20
"""Columns of the bar of a weight of 1."""


class Club(NamedTuple):
    """The members, N of them, and their friendships.

    Attributes
    ----------
    graph : Graph
        N nodes and two edges for each friendship.
    features : ndarray, (N, N) float32
        Row i, of length 1, has how much more often than by chance a walk of two steps along friendships leads from member i to each.
    factions : ndarray, (N,) int
        0 for who went with the instructor, member 0; 1 for who stayed with the officer, member N − 1.
    """

    graph: Graph
    features: np.ndarray
    factions: np.ndarray


def load_club() -> Club:
    """Return Zachary's karate club as networkx has it.

    Returns
    -------
    Club
        Of 34 members with 78 friendships.

    Raises
    ------
    ImportError
        If networkx is not installed.
    """
    try:
        from networkx import karate_club_graph
    except ImportError as error:
        raise ImportError("the karate club comes with networkx: pip install 'ruvattn-graph[pictures]'") from error
    from .graph import Graph

    club = karate_club_graph()
    friends = np.array(club.edges).T
    graph = Graph(np.concatenate([friends, friends[::-1]], axis=1), club.number_of_nodes())
    factions = np.array([faction != "Mr. Hi" for _, faction in club.nodes(data="club")], dtype=np.int64)
    return Club(graph, walk_features(graph), factions)


def walk_features(graph: Graph) -> np.ndarray:
    """Return for each node where walks of two steps from it lead more often, and where less often, than by chance.

    With P the transition matrix of a random walk and π its stationary distribution, which is proportional to the degrees, these are the rows of
    (P²)ᵢⱼ/πⱼ − 1, made to have length 1.

    Parameters
    ----------
    graph : Graph
        N nodes, each with an edge, and each edge in both directions.

    Returns
    -------
    ndarray, (N, N) float32
        Rows of length 1.
    """
    first, second = graph.edge_index
    links = np.zeros((graph.num_nodes, graph.num_nodes))
    np.add.at(links, (second, first), 1.0)
    degrees = links.sum(1)
    step = links / degrees[:, None]
    lift = step @ step / (degrees / degrees.sum()) - 1
    return (lift / np.linalg.norm(lift, axis=1, keepdims=True)).astype(np.float32)


def cosine_layer(width: int) -> GraphTransformerAttention:
    """Return a graph transformer whose logits are `SCALE` times the dot products of features, which are cosines if these have length 1.

    Parameters
    ----------
    width : int
        Of the features of a node.

    Returns
    -------
    GraphTransformerAttention
        With one head, identities for weights, and no biases.
    """
    import ruvattn

    layer: Any = ruvattn.create("graph-transformer", embed_dim=width, num_heads=1, root_weight=False, bias=False)
    identity = np.eye(width)
    # The layer divides by the square root of the width of a head.
    layer.load_state_dict({"W_q": SCALE * width**0.5 * identity, "W_k": identity, "W_v": identity})
    return layer


def attend(club: Club) -> tuple[np.ndarray, float]:
    """Let every member attend to their friends, with `cosine_layer`.

    Parameters
    ----------
    club : Club
        Members and friendships.

    Returns
    -------
    weights : ndarray, (E,) float32
        What the destination of each edge of ``club.graph.edge_index`` pays to its source; those of a member sum to 1.
    seconds : float
        The median time of a call.
    """
    layer = cosine_layer(club.features.shape[1])
    times = []
    for _ in range(CALLS):
        started = perf_counter()
        layer.forward_graph(club.features, club.graph)
        times.append(perf_counter() - started)
    _, weights = layer.forward_graph(club.features, club.graph, return_weights=True)
    return weights.edges[0], median(times)


def own_shares(club: Club, weights: np.ndarray) -> np.ndarray:
    """Return how much of each member's attention goes to their own faction.

    Parameters
    ----------
    club : Club
        Members and friendships.
    weights : ndarray, (E,)
        Of the edges of ``club.graph.edge_index``.

    Returns
    -------
    ndarray, (N,) float64
        From 0 to 1, if the weights of a member sum to 1.
    """
    first, second = club.graph.edge_index
    own = club.factions[first] == club.factions[second]
    return np.bincount(second, np.where(own, weights, 0), minlength=club.graph.num_nodes)


def show(folder: Path | None) -> Demonstration:
    """Show whom the members of Zachary's karate club attend to.

    Parameters
    ----------
    folder : Path or None
        Where the picture goes; None for text only.

    Returns
    -------
    ruvattn.demo.Demonstration
        What is seen, in numbers, and the picture, `PICTURE`; without matplotlib a note in its place.

    Raises
    ------
    ImportError
        If networkx is not installed.
    OSError
        If the picture cannot be written.
    """
    from ruvattn.demo import Demonstration

    club = load_club()
    weights, seconds = attend(club)
    lines = describe(club, weights, seconds)
    if folder is None:
        return Demonstration(lines)
    try:
        path = draw(club, weights, folder / PICTURE)
    except ImportError as error:
        return Demonstration(lines, note=f"No picture: {error}")
    return Demonstration(lines, (path,))


def describe(club: Club, weights: np.ndarray, seconds: float) -> tuple[str, ...]:
    """Put what is seen into words and bars.

    Parameters
    ----------
    club : Club
        Members and friendships.
    weights : ndarray, (E,)
        What `attend` returned.
    seconds : float
        The same.

    Returns
    -------
    tuple of str
        Lines of less than 80 characters.
    """
    from .graph import Graph
    from .pictures import graph_text

    first, second = club.graph.edge_index
    degrees = club.graph.in_degrees
    across = club.factions[first] != club.factions[second]
    friends_across = np.bincount(second, across, minlength=len(degrees))
    both = (friends_across > 0) & (friends_across < degrees)
    own, even = own_shares(club, weights), 1 - friends_across / degrees
    more, less = both & (own > even), both & (own < even)
    exceptions = ", ".join(str(i + 1) for i in np.flatnonzero(less))
    names = [f"{i + 1} ({'officer' if faction else 'instructor'})" for i, faction in enumerate(club.factions.tolist())]
    choice = np.flatnonzero(degrees[second] > 1)  # who has one friend pays them everything
    chosen, shares = Graph(club.graph.edge_index[:, choice], len(degrees)), weights[choice]
    return (
        f"{len(degrees)} members, {len(first) // 2} friendships; nothing is learned, and factions are not told.",
        "A member is described by where walks of two friendships lead, and attends to",
        f"friends with softmax({SCALE:g} · cosine) of that. A call takes {seconds * 1e6:.0f} us.",
        "",
        f"{both.sum()} members have friends in both factions. On average {even[both].mean():.0%} of these are in their",
        f"own, and get {own[both].mean():.0%} of the attention: more than an even share from {more.sum()} members,",
        f"less from {less.sum()}" + (f" ({exceptions})." if less.any() else "."),
        f"The {across.sum() // 2} friendships across the split are {across.mean():.0%} of all, and get {weights[across].sum() / weights.sum():.0%}.",
        "",
        "Who attends most to whom, of those with more than one friend:",
        *graph_text(chosen, shares, labels=names, count=5, width=BARS).splitlines(),
        "and who least:",
        *graph_text(chosen, shares, labels=names, count=3, weakest=True, width=BARS).splitlines(),
    )


def draw(club: Club, weights: np.ndarray, path: Path) -> Path:
    """Draw the club, with friendships as wide as the attention that goes along them.

    Parameters
    ----------
    club : Club
        Members and friendships.
    weights : ndarray, (E,)
        What `attend` returned.
    path : Path
        The file, a PNG image.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    from .pictures import save_graph

    return save_graph(
        path, club.graph, weights, size=1000, groups=[FACTIONS[faction] for faction in club.factions],
        labels=[str(i + 1) for i in range(club.graph.num_nodes)],
        title=f"Zachary's karate club: softmax({SCALE:g} · cosine) along friendships, with nothing learned.\n"
        "Arrows lead from who is attended to, to who attends; widths are attention weights.",
    )  # fmt: skip
