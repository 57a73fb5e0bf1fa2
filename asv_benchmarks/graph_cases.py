"""The graph problems that ruvattn and torch-geometric are both asked for: edges, features, weights, our call, and the formula in float64.

    degrees ─► edge_index ─┐                         ┌─► Case.variant(), ruvattn's
    seed ─► x, edge_attr  ─┼─► arrays in float32  ───┼─► graph_peers.py, torch-geometric's layer
    seed ─► state dict    ─┘   (its names, its way)  └─► Case.expected(), what both are compared with

`Case.expected` is written here once more and asks nothing of the plugin: the formulas of the papers in float64, with arrays of all edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from benchmarks.degrees import DEGREES

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BAR", "CASES", "DEGREES", "HUB_CASES", "LAYERS", "WIDTH", "Case", "Layer", "community_edges"]

WIDTH = 64
"""Features of a node."""

BAR = 5.0
"""How many times as fast as torch-geometric GATConv and GATv2Conv are to be."""

NEGATIVE_SLOPE = 0.2
"""Of LeakyReLU, in GAT and GATv2: the default of both libraries."""

State = dict[str, "np.ndarray"]


# --- edges ------------------------------------------------------------------------------------------------------------------------


def community_edges(nodes: int, edges: int, size: int, *, share: float = 0.9) -> np.ndarray:
    """Return the edges of a graph of communities.

    Parameters
    ----------
    nodes, edges : int
        How many.
    size : int
        Nodes of a community, which are numbered one after the other.
    share : float, default 0.9
        Of the edges, those that stay within a community.

    Returns
    -------
    ndarray, (2, edges)
        In int64.
    """
    import numpy as np

    rng = np.random.default_rng([7, nodes, edges, size])
    destination = rng.integers(0, nodes, edges)
    first = destination - destination % size
    within = first + rng.integers(0, np.minimum(size, nodes - first))
    source = np.where(rng.random(edges) < share, within, rng.integers(0, nodes, edges))
    return np.stack([source, destination])


# --- the layers, in float64 -------------------------------------------------------------------------------------------------------


def _with_loops(edge_index: np.ndarray, edge_attr: np.ndarray | None, nodes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Replace self-loops by one at every node, whose features are the mean of those of the edges that end there."""
    import numpy as np

    kept = edge_index[0] != edge_index[1]
    loops = np.tile(np.arange(nodes), (2, 1))
    if edge_attr is not None:
        edge_attr = edge_attr[kept]
        number = np.bincount(edge_index[1, kept], minlength=nodes)
        sums = np.stack([np.bincount(edge_index[1, kept], column, nodes) for column in edge_attr.T], 1)
        edge_attr = np.concatenate([edge_attr, sums / np.maximum(number, 1)[:, None]])
    return np.concatenate([edge_index[:, kept], loops], 1), edge_attr


def _summed(weights: np.ndarray, at: np.ndarray, destination: np.ndarray, rows: np.ndarray, nodes: int) -> np.ndarray:
    """Return Σ_e weights[e] · rows[at[e]] over the edges of each destination, (nodes, C)."""
    from scipy.sparse import coo_array

    return coo_array((weights, (destination, at)), shape=(nodes, len(rows))).tocsr() @ rows


def _softmax(logits: np.ndarray, destination: np.ndarray, nodes: int) -> np.ndarray:
    """Return the shares of the edges of each destination, (edges,)."""
    import numpy as np

    largest = np.full(nodes, -np.inf)
    np.maximum.at(largest, destination, logits)
    powers = np.exp(logits - largest[destination])
    return powers / np.bincount(destination, powers, nodes)[destination]


def _leaky(x: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.maximum(x, NEGATIVE_SLOPE * x)


def gat(case: Case, w: State, x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray | None) -> np.ndarray:
    """Veličković et al., 2018, "Graph Attention Networks", equations 3 and 6."""
    import numpy as np

    (source, destination), edge_attr = _with_loops(edge_index, edge_attr, len(x))
    h = case.heads_first(x @ w["lin.weight"].T)
    out = []
    for head, values in enumerate(h):
        logits = (values @ w["att_src"][0, head])[source] + (values @ w["att_dst"][0, head])[destination]
        if edge_attr is not None:
            logits += edge_attr @ (w["lin_edge.weight"].reshape(case.heads, case.head_dim, -1)[head].T @ w["att_edge"][0, head])
        out.append(_summed(_softmax(_leaky(logits), destination, len(x)), source, destination, values, len(x)))
    return np.concatenate(out, 1) + w["bias"]


def gatv2(case: Case, w: State, x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray | None) -> np.ndarray:
    """Brody et al., 2022, "How Attentive are Graph Attention Networks?", equation 7."""
    import numpy as np

    (source, destination), edge_attr = _with_loops(edge_index, edge_attr, len(x))
    left, right = (case.heads_first(x @ w[f"lin_{side}.weight"].T + w[f"lin_{side}.bias"]) for side in "lr")
    out = []
    for head, values in enumerate(left):
        sums = values[source] + right[head][destination]
        if edge_attr is not None:
            sums += edge_attr @ w["lin_edge.weight"].reshape(case.heads, case.head_dim, -1)[head].T
        shares = _softmax(_leaky(sums) @ w["att"][0, head], destination, len(x))
        out.append(_summed(shares, source, destination, values, len(x)))
    return np.concatenate(out, 1) + w["bias"]


def transformer(case: Case, w: State, x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray | None) -> np.ndarray:
    """Shi et al., 2021, "Masked Label Prediction", equations 3 and 4, without the gate."""
    import numpy as np

    source, destination = edge_index
    q, k, v = (case.heads_first(x @ w[f"lin_{part}.weight"].T + w[f"lin_{part}.bias"]) for part in ("query", "key", "value"))
    edges = np.arange(len(source))
    out = []
    for head in range(case.heads):
        keys = k[head][source]
        if edge_attr is not None:
            attached = edge_attr @ w["lin_edge.weight"].reshape(case.heads, case.head_dim, -1)[head].T
            keys = keys + attached
        shares = _softmax((q[head][destination] * keys).sum(-1) / np.sqrt(case.head_dim), destination, len(x))
        out.append(_summed(shares, source, destination, v[head], len(x)))
        if edge_attr is not None:
            out[-1] += _summed(shares, edges, destination, attached, len(x))
    return np.concatenate(out, 1) + x @ w["lin_skip.weight"].T + w["lin_skip.bias"]


def gin(case: Case, w: State, x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray | None) -> np.ndarray:
    """Xu et al., 2019, "How Powerful are Graph Neural Networks?", equation 4.1, with a perceptron of two layers."""
    import numpy as np

    source, destination = edge_index
    sums = (1 + w["eps"]) * x + _summed(np.ones(len(source)), source, destination, x, len(x))
    hidden = np.maximum(sums @ w["nn.0.weight"].T + w["nn.0.bias"], 0)
    return hidden @ w["nn.2.weight"].T + w["nn.2.bias"]


def _sage(aggregated: np.ndarray, w: State, x: np.ndarray) -> np.ndarray:
    return aggregated @ w["lin_l.weight"].T + w["lin_l.bias"] + x @ w["lin_r.weight"].T


def sage_mean(case: Case, w: State, x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray | None) -> np.ndarray:
    """Hamilton et al., 2017, "Inductive Representation Learning on Large Graphs", algorithm 1, with the mean of the neighbours."""
    import numpy as np

    source, destination = edge_index
    number = np.bincount(destination, minlength=len(x))
    return _sage(_summed(np.ones(len(source)), source, destination, x, len(x)) / np.maximum(number, 1)[:, None], w, x)


def sage_max(case: Case, w: State, x: np.ndarray, edge_index: np.ndarray, edge_attr: np.ndarray | None) -> np.ndarray:
    """The same with the largest of each feature, 0 without neighbours."""
    import numpy as np

    source, destination = edge_index
    order = np.argsort(destination, kind="stable")
    seen, first = np.unique(destination[order], return_index=True)
    largest = np.zeros_like(x)
    if len(seen):
        largest[seen] = np.maximum.reduceat(x[source[order]], first)
    return _sage(largest, w, x)


@dataclass(frozen=True)
class Layer:
    """A layer of torch-geometric and the variant that stands for it.

    Attributes
    ----------
    conv : str
        Its class in ``torch_geometric.nn.conv``.
    variant : str
        The registered name of ours.
    expected : callable
        The formula: (case, state dict, x, edge_index, edge_attr) -> the output, all in float64.
    heads : bool
        Whether there are heads; otherwise, there is one width, heads · head_dim.
    conv_options, variant_options : dict
        What is to be said beside widths and numbers of heads.
    csr : bool
        Whether torch-geometric multiplies by a sparse matrix where it is handed one.
    """

    conv: str
    variant: str
    expected: Callable[..., np.ndarray]
    heads: bool = True
    conv_options: Mapping[str, Any] = field(default_factory=dict)
    variant_options: Mapping[str, Any] = field(default_factory=dict)
    csr: bool = False


LAYERS: dict[str, Layer] = {
    "GATConv": Layer("GATConv", "gat", gat),
    "GATv2Conv": Layer("GATv2Conv", "gatv2", gatv2),
    "TransformerConv": Layer("TransformerConv", "graph-transformer", transformer),
    "GINConv": Layer("GINConv", "gin", gin, heads=False, csr=True),
    "SAGEConv, mean": Layer("SAGEConv", "sage", sage_mean, heads=False, csr=True),
    "SAGEConv, max": Layer("SAGEConv", "sage", sage_max, False, {"aggr": "max"}, {"aggregation": "max"}, csr=True),
}
"""By the name that rows begin with."""


# --- cases ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes
    ----------
    layer : str
        A key of `LAYERS`.
    nodes, edges : int
        How many.
    degrees : str
        A key of `DEGREES`: how edges are spread over the nodes.
    heads, head_dim : int
        Heads, and the width of each.
    edge_dim : int, optional
        Features of an edge, where there are any.
    bar : float, optional
        How many times as fast as torch-geometric it is to be.
    """

    layer: str
    nodes: int = 20_000
    edges: int = 400_000
    degrees: str = "uniform"
    heads: int = 4
    head_dim: int = 16
    edge_dim: int | None = None
    bar: float | None = None

    @property
    def name(self) -> str:
        """How it is listed."""
        width = f"{self.heads}x{self.head_dim}" if LAYERS[self.layer].heads else f"{self.heads * self.head_dim} wide"
        extra = "" if self.edge_dim is None else f", edge_attr of {self.edge_dim}"
        return f"{self.layer}, {_thousands(self.nodes)}/{_thousands(self.edges)} {self.degrees}, {width}{extra}"

    def at(self, nodes: int, edges: int) -> Case:
        """Return the same problem at another size."""
        return replace(self, nodes=nodes, edges=edges)

    def heads_first(self, projected: np.ndarray) -> np.ndarray:
        """Return (N, heads · head_dim) as (heads, N, head_dim)."""
        return projected.reshape(-1, self.heads, self.head_dim).transpose(1, 0, 2)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return x (N, 64), edge_index (2, E) and edge_attr (E, F) or None, the same in every run."""
        import numpy as np

        rng = np.random.default_rng([6, self.nodes, self.edges])
        edge_index = DEGREES[self.degrees](rng, self.nodes, self.edges)
        x = rng.standard_normal((self.nodes, WIDTH), dtype=np.float32)
        return x, edge_index, None if self.edge_dim is None else rng.standard_normal((self.edges, self.edge_dim), dtype=np.float32)

    def state(self) -> State:
        """Return the weights in float32, by the names that torch-geometric has for them."""
        import numpy as np

        rng = np.random.default_rng(5)
        arrays = {}
        for name, shape in _shapes(self).items():
            scale = 0.1 if name.endswith(("bias", "eps")) else shape[-1] ** -0.5
            arrays[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
        return arrays

    def variant(self, dtype: str = "float32") -> Any:
        """Return ours, with the weights."""
        import ruvattn

        layer = LAYERS[self.layer]
        inner = self.heads * self.head_dim
        options = {"num_heads": self.heads, "head_dim": self.head_dim} if layer.heads else {"num_heads": 1, "head_dim": inner}
        if layer.variant == "gin":
            options |= {"hidden_dim": inner, "train_eps": True}
        if self.edge_dim is not None:
            options["edge_dim"] = self.edge_dim
        variant = ruvattn.create(layer.variant, embed_dim=WIDTH, dtype=dtype, **options, **layer.variant_options)
        variant.load_state_dict(self.state())
        return variant

    def expected(self) -> np.ndarray:
        """Return the output in float64, (N, heads · head_dim)."""
        import numpy as np

        x, edge_index, edge_attr = self.arrays()
        state = {name: array.astype(np.float64) for name, array in self.state().items()}
        edge_attr = None if edge_attr is None else edge_attr.astype(np.float64)
        return LAYERS[self.layer].expected(self, state, x.astype(np.float64), edge_index, edge_attr)


def _shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of a layer, as torch-geometric names and orders them."""
    inner, row = case.heads * case.head_dim, (1, case.heads, case.head_dim)
    variant = LAYERS[case.layer].variant

    def linear(*names: str, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": shape for name in names for part, shape in (("weight", (inner, width)), ("bias", (inner,)))}

    shapes: dict[str, tuple[int, ...]]
    if variant == "gat":
        shapes = {"att_src": row, "att_dst": row, "lin.weight": (inner, WIDTH), "bias": (inner,)}
    elif variant == "gatv2":
        shapes = {"att": row, **linear("lin_l", "lin_r"), "bias": (inner,)}
    elif variant == "graph-transformer":
        shapes = linear("lin_query", "lin_key", "lin_value", "lin_skip")
    elif variant == "gin":
        shapes = {"eps": (1,), **linear("nn.0"), **linear("nn.2", width=inner)}
    else:
        shapes = {**linear("lin_l"), "lin_r.weight": (inner, WIDTH)}
    if case.edge_dim is not None:
        shapes["lin_edge.weight"] = (inner, case.edge_dim)
        if variant == "gat":
            shapes["att_edge"] = row
    return shapes


def _thousands(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 and number % 1000 == 0 else str(number)


CASES = (
    *(
        Case(layer, nodes, edges, degrees, heads, head_dim, bar=BAR)
        for layer in ("GATConv", "GATv2Conv")
        for nodes, edges in ((20_000, 400_000), (1_000, 16_000))
        for heads, head_dim in ((4, 16), (8, 32))
        for degrees in ("uniform", "power law")
    ),
    Case("TransformerConv"),
    Case("TransformerConv", heads=8, head_dim=32),
    Case("GATConv", edge_dim=8),
    Case("GATv2Conv", edge_dim=8),
    Case("TransformerConv", edge_dim=8),
    Case("GINConv"),
    Case("SAGEConv, mean"),
    Case("SAGEConv, max"),
)

HUB_CASES = tuple(Case(layer) for layer in ("GATConv", "GATv2Conv", "TransformerConv", "GINConv", "SAGEConv, mean", "SAGEConv, max"))
"""What is timed on a graph whose node in the middle has half of all edges, beside the uniform graph of the same size."""
