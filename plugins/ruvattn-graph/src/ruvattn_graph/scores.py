"""The scores of graph attention: additive, additive in its second version, and rotary by hops.

    AdditiveScore      LeakyReLU(a_query·q + a_key·k + edge terms)       two numbers and a kink: no tile of dots, no vectors
    AdditiveV2Score    a·LeakyReLU(q + k + W e)                          the kink between the sum and a: all columns of both
    HopRotaryScore     scale · q·R(hop)k                                 a dot product of what is turned by the distance in the graph

For `ruvattn.edge_attention`, which brings what an edge says: a number each as an edge term, features as further columns of its key. In a call
without edges that part is missing, and the rest is a score as any other. Their tiles are compiled, and gradients of these (_scores.pyx); gradients
of what is made once a row are in NumPy.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from typing import Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.isa import load_kernels
from ruvattn.scores import FORWARD_SIGNATURE, MAX_TERMS, VJP_SIGNATURE, Dot, Score, Tile, saturated, spelled
from ruvattn.validation import as_numbers, check_int, check_positive

__all__ = ["AdditiveScore", "AdditiveV2Score", "HopRotaryScore"]

DTYPES = ("float32", "float64")
WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
"""In which a sum that overflows is made once more."""

MOST_HOPS = 4096


class _Kernels:
    """The compiled forms of an instance. They do not pickle, so that no instance holds them; an instance may still be given others."""

    def __get__(self, score: Any, owner: type) -> dict[str, tuple[Any, Any]]:
        return {} if score is None else score._forms()


class AdditiveScore(Score):
    """The additive score of graph attention networks: LeakyReLU(a_query·q + a_key·k + edge terms).

    Nothing is computed of a pair but a sum of numbers and its kink: the two products are made once a row. Where they are known already, or
    cheaper to have (a·(W x) is (a W)·x), pass them as queries and keys of one column, without vectors.

    Parameters
    ----------
    a_query, a_key : array of shape (Hq, D), optional
        A vector for each query head; ones when not given.
    negative_slope : float, default 0.2
        Of the LeakyReLU: what negative sums are multiplied by, finite and at least 0.
    edge_terms : int, default 0
        How many edge terms the compiled form adds, at most 31: as many as the ``edge_terms`` of the call have columns. Another number of them is
        added too, in NumPy.

    Raises
    ------
    InvalidInputError
        If an argument is no such number, or a vector isn't finite.
    DimensionMismatchError
        If the vectors have no shape (Hq, D), or not one number of heads.

    Notes
    -----
    Veličković et al. (2018), "Graph Attention Networks", eq. 3, where one vector a is both, and query and key are W h; edges with features add
    a_edge·(W_e e). Terms and sums that overflow the dtype count as its largest number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import AdditiveScore
    >>> q, k = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 0.0], [-4.0, -4.0]]])
    >>> ruvattn.attention_logits(q, k, score=AdditiveScore())
    array([[[ 4.,  -1.]]])
    """

    splits = ()
    leaky = "sum"
    symmetric = True  # it is a function of a sum; the engine turns around no tile that has edge terms
    kernels = _Kernels()

    def __init__(self, a_query: Any = None, a_key: Any = None, *, negative_slope: float = 0.2, edge_terms: int = 0) -> None:
        self.edge_terms = check_int(edge_terms, "edge_terms", 0, MAX_TERMS - 1)
        self.params: dict[str, Any] = {"negative_slope": _slope(negative_slope)}  # type: ignore[misc]
        for name, given in (("a_query", a_query), ("a_key", a_key)):
            if given is not None:
                vectors = self.params[name] = _weights(given, name, ("Hq", "D"))
                self.conformance_widths = (vectors.shape[1],)
        if a_query is not None and a_key is not None and self.params["a_query"].shape != self.params["a_key"].shape:
            raise DimensionMismatchError(
                f"a_query and a_key must have one shape, (Hq, D), got {self.params['a_query'].shape} and {self.params['a_key'].shape}"
            )

    def _forms(self) -> dict[str, tuple[Any, Any]]:
        return _compiled("additive", self.edge_terms, 0, False)

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return a_query·q of every query."""
        return (_product(q, self.params.get("a_query"), "a_query"),)

    def col_terms(self, k: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return a_key·k of every key."""
        return (_product(k, self.params.get("a_key"), "a_key"),)

    def row_terms_vjp(self, q: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of the queries and of a_query."""
        return _product_vjp(q, self.params.get("a_query"), "a_query", dterms[0])

    def col_terms_vjp(self, k: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of the keys and of a_key."""
        return _product_vjp(k, self.params.get("a_key"), "a_key", dterms[0])

    def logits(self, t: Tile) -> np.ndarray:
        """Return the logits of a tile: of its terms, however many there are."""
        largest = np.finfo(t.rows[0].dtype).max
        with np.errstate(all="ignore"):
            x = _sum_of_terms(t)
            np.clip(x, -largest, largest, out=x)
            return np.maximum(_leaky(x, t.params["negative_slope"]), -largest)

    def logits_vjp(self, t: Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of the terms and of the slope; at the kink it is that of the negative side."""
        x = _sum_of_terms(t)
        slope = t.params["negative_slope"]
        dslope = np.sum(dlogits * np.minimum(x, 0))
        g = dlogits * np.where(x > 0, 1, slope)
        dcols = tuple(g.sum(0, keepdims=True) for _ in t.cols)
        dparams = {name: np.zeros_like(value) for name, value in t.params.items()}  # the vectors have theirs from the terms
        dparams["negative_slope"] = dslope
        return np.zeros((0, *x.shape), g.dtype), (g.sum(1, keepdims=True),), dcols, dparams  # type: ignore[return-value]


class AdditiveV2Score(Score):
    """The additive score of the second version of graph attention networks: a·LeakyReLU(q + k + W e).

    Parameters
    ----------
    a : array of shape (Hq, C), optional
        A vector for each query head; ones when not given.
    edge_weights : array of shape (Hq, F, C), optional
        W of each head, which makes C columns of the F features e of an edge. They are the last F columns of the keys: what
        ``edge_attention(…, edge_attr=e, edge_attr_to="key")`` appends. Queries have as many, which aren't looked at.
    negative_slope : float, default 0.2
        Of the LeakyReLU: what negative sums are multiplied by, finite and at least 0.

    Raises
    ------
    InvalidInputError
        If an argument is no such number, or an array isn't finite.
    DimensionMismatchError
        If an array has no such shape.

    Notes
    -----
    Brody et al. (2022), "How Attentive are Graph Attention Networks?", eq. 7, where q and k are the two halves of W h. A sum that overflows the dtype
    is made once more in a wider one, and what is still beyond counts as the largest number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import AdditiveV2Score
    >>> q, k = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 0.0], [1.0, -7.0]]])
    >>> ruvattn.attention_logits(q, k, score=AdditiveV2Score([[1.0, 10.0]]))
    array([[[22., -8.]]])
    """

    splits = ()
    leaky = "hidden"
    vectors = True
    kernels = _Kernels()

    def __init__(self, a: Any = None, edge_weights: Any = None, *, negative_slope: float = 0.2) -> None:
        self.params: dict[str, Any] = {"negative_slope": _slope(negative_slope)}  # type: ignore[misc]
        self.symmetric = edge_weights is None  # the features are those of a key
        if a is not None:
            self.params["a"] = _weights(a, "a", ("Hq", "C"))
            self.conformance_widths = (self.params["a"].shape[1],)
        if edge_weights is not None:
            weights = self.params["edge_weights"] = _weights(edge_weights, "edge_weights", ("Hq", "F", "C"))
            if a is not None and self.params["a"].shape != (weights.shape[0], weights.shape[2]):
                raise DimensionMismatchError(
                    f"a must have shape (Hq, C) where edge_weights has (Hq, F, C), got {self.params['a'].shape} and {weights.shape}"
                )
            self.conformance_widths = (weights.shape[1] + weights.shape[2],)

    def _forms(self) -> dict[str, tuple[Any, Any]]:
        weights = self.params.get("edge_weights")
        return _compiled("additive_v2", 0, 0 if weights is None else np.shape(weights)[1], "a" in self.params)

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return no terms, having seen that the queries have the width that the parameters are for."""
        for name in ("edge_weights", "a"):
            if name in self.params:
                shape = np.shape(self.params[name])
                if q.shape[-1] != sum(shape[1:]):
                    what = "F + C of edge_weights" if name == "edge_weights" else "C of a"
                    raise DimensionMismatchError(
                        f"q must have a width of {sum(shape[1:])}, {what} with shape {shape}, for {type(self).__name__}, got {q.shape[-1]}"
                    )
                break
        return ()

    def logits(self, t: Tile) -> np.ndarray:
        """Return the logits of a tile; a row at a time, for each pair has all its columns."""
        assert t.q is not None and t.k is not None
        found = _rows_of_hidden(t, t.q.dtype)
        if np.isfinite(found).all():
            return found
        return saturated(_rows_of_hidden(t, WIDER[t.q.dtype]), t.q.dtype)

    def logits_vjp(self, t: Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of queries, keys and parameters; at a kink it is that of the negative side."""
        assert t.q is not None and t.k is not None
        slope, a, weights = t.params["negative_slope"], t.params.get("a"), t.params.get("edge_weights")
        width = t.q.shape[1] - (0 if weights is None else len(weights))
        shift, features = _shifted(t, width)
        dq, dk = np.zeros_like(t.q), np.zeros_like(t.k)
        dslope, da, dhidden = 0.0, np.zeros(width), dk[:, :width]
        for i, q in enumerate(t.q[:, :width]):
            x = q + shift
            da += dlogits[i] @ _leaky(x, slope)
            g = dlogits[i][:, None] * (np.ones_like(x) if a is None else a)
            dslope += float(np.sum(g * np.minimum(x, 0)))
            g = g * np.where(x > 0, 1, slope)
            dq[i, :width] = g.sum(0)
            dhidden += g
        dparams: dict[str, Any] = {"negative_slope": dslope}
        if a is not None:
            dparams["a"] = da
        if weights is not None:
            dk[:, width:] = dhidden @ weights.T
            dparams["edge_weights"] = features.T @ dhidden
        return np.zeros((0, *dlogits.shape), dlogits.dtype), (), (), dparams, dq, dk  # type: ignore[return-value]


class HopRotaryScore(Dot):
    """The dot product of a query with a key that is turned by the hops between them: scale · q·R(hop)k.

    R(t) turns the columns p and D//2 + p, as one plane, by t · base^(−2p/D), for each p < D//2; the last column of an odd D stays. So a plane is
    a column of each half, as in GPT-NeoX and LLaMA, not two neighbouring columns.

    Parameters
    ----------
    base : float, default 10000.0
        The slowest plane turns by about 1/base a hop; above 0.
    max_hops : int, default 32
        What is farther counts as so far; at most 4096.
    scale : float or array of shape (Hq,), optional
        1/√D when not given.
    edge_terms : int, default 0
        1: the first edge term of the call is the hops of the edge, an integer from 0. 0: all pairs are one hop apart, as neighbours are.

    Raises
    ------
    InvalidInputError
        If an argument is no such number.

    Notes
    -----
    Su et al. (2021), "RoFormer: Enhanced Transformer with Rotary Position Embedding", eq. 15, with the distance in the graph in the place of the
    difference of positions, which is why it stands with the edge and isn't turned into q and k beforehand. Hops have no gradient. A sum that
    overflows the dtype is made once more in a wider one, and what is still beyond counts as the largest number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_graph import HopRotaryScore
    >>> q, k = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> ruvattn.attention_logits(q, k, score=HopRotaryScore(scale=1.0)).round(4)     # cos 1, −sin 1
    array([[ 0.5403, -0.8415]])
    """

    splits = ()
    vectors = True
    kernels = _Kernels()

    def __init__(self, base: float = 10000.0, *, max_hops: int = 32, scale: Any = None, edge_terms: int = 0) -> None:
        super().__init__(scale)
        self.base = check_positive(base, "base")
        self.max_hops = check_int(max_hops, "max_hops", 1, MOST_HOPS)
        self.edge_terms = check_int(edge_terms, "edge_terms", 0, 1)

    def __repr__(self) -> str:
        return f"HopRotaryScore(base={self.base}, max_hops={self.max_hops}, scale={self.params['scale']!r}, edge_terms={self.edge_terms})"

    def _forms(self) -> dict[str, tuple[Any, Any]]:
        return {dtype: _turns(self, dtype).forms for dtype in DTYPES}

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return no terms, having seen to it that the compiled form has cosines and sines for this width."""
        if q.dtype.name in DTYPES:
            _turns(self, q.dtype.name).prepare(q.shape[-1])
        return ()

    def logits(self, t: Tile) -> np.ndarray:
        """Return the logits of a tile; the first column term, if there is one, is the hops."""
        assert t.q is not None and t.k is not None
        found = self._turned(t, t.q.dtype)
        if np.isfinite(found).all():
            return found
        return saturated(self._turned(t, WIDER[t.q.dtype]), t.q.dtype)

    def logits_vjp(self, t: Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of queries, keys and scale."""
        assert t.q is not None and t.k is not None
        cosines, sines = self._angles(t, t.q.dtype)
        turned = _turn(t.k, cosines, sines)
        scale = t.params["scale"]
        g = dlogits * scale
        dk = _turn(g.T @ t.q, cosines, -sines)
        dcols = tuple(np.zeros_like(term) for term in t.cols)
        dscale = np.sum(dlogits * (t.q @ turned.T))
        return np.zeros((0, *g.shape), g.dtype), (), dcols, {"scale": dscale}, g @ turned, dk  # type: ignore[return-value]

    def _turned(self, t: Tile, dtype: Any) -> np.ndarray:
        assert t.q is not None and t.k is not None
        scale = t.params["scale"]
        if scale is None:
            raise InvalidInputError("HopRotaryScore on a tile of its own needs a scale: the default, 1/√D, is known to a call only")
        with np.errstate(all="ignore"):
            return (t.q.astype(dtype) @ _turn(t.k.astype(dtype), *self._angles(t, dtype)).T) * scale

    def _angles(self, t: Tile, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines (n, D//2) of each key's turn."""
        assert t.k is not None
        width = t.k.shape[1]
        hops = np.ones(1)
        if t.cols:
            hops = np.floor(np.clip(np.nan_to_num(t.cols[0][0].astype(np.float64)), 0, self.max_hops) + 0.5)
        angles = hops[:, None] * _frequencies(self.base, width)
        return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


# --- sums and kinks ---------------------------------------------------------------------------------------------------------------


def _slope(value: Any) -> float:
    slope = as_numbers(value, "negative_slope")
    if slope.ndim or slope.dtype.kind not in "fiu" or not 0 <= slope < math.inf:
        raise InvalidInputError(f"negative_slope must be a finite number of at least 0, got {value!r}")
    return float(slope)


def _weights(value: Any, name: str, axes: tuple[str, ...]) -> np.ndarray:
    """Return a parameter array; a copy, which nobody writes to."""
    array = as_numbers(value, name)
    shape = f"({', '.join(axes)})"
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidInputError(f"{name} must be numbers of shape {shape}, got dtype {array.dtype}")
    if array.ndim != len(axes) or not array.size:
        raise DimensionMismatchError(f"{name} must have shape {shape}, no axis of which is 0, got {array.shape}")
    numbers = np.array(array, array.dtype if array.dtype.name in DTYPES else np.float64)
    if not np.isfinite(numbers).all():
        raise InvalidInputError(f"{name} must be finite, got {numbers[~np.isfinite(numbers)][0]}")
    numbers.flags.writeable = False
    return numbers


def _leaky(x: np.ndarray, slope: Any) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def _sum_of_terms(t: Tile) -> np.ndarray:
    x = t.rows[0] + t.cols[0]
    for term in t.cols[1:]:
        x += term
    return x


def _product(x: np.ndarray, a: Any, name: str) -> np.ndarray:
    """Return a·x for x (..., heads, L, D) and a (Hq, D), of which each head of x serves Hq/heads; the sum of the columns without a."""
    if a is None:
        found = x[..., 0] if x.shape[-1] == 1 else x.sum(-1)
    else:
        found = _by_head(x, _split_heads(x, a, name))
    if found.dtype in WIDER and not np.isfinite(found).all():  # no row may change because another is not finite
        wide = x.astype(WIDER[found.dtype])
        again = wide.sum(-1) if a is None else _by_head(wide, _split_heads(wide, a, name))
        return np.where(np.isfinite(found), found, again)
    return found


def _split_heads(x: np.ndarray, a: Any, name: str) -> np.ndarray:
    """Return a vector for each query head as (heads, group, D)."""
    heads, width = x.shape[-3], x.shape[-1]
    if a.shape[1] != width:
        raise DimensionMismatchError(f"{name} must have a column for each of the {width} of q and k, got shape {a.shape}")
    if a.shape[0] % heads:
        raise DimensionMismatchError(f"{name} must have a vector for each query head, a multiple of {heads}, got shape {a.shape}")
    return np.asarray(a).reshape(heads, a.shape[0] // heads, width).astype(x.dtype, copy=False)


def _by_head(x: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    found = np.matmul(x, vectors.swapaxes(-1, -2))  # a matrix times a vector for each head, which takes rows of any distance as they are
    if vectors.shape[1] == 1:
        return found[..., 0]
    return np.moveaxis(found, -1, -2).reshape(*x.shape[:-3], x.shape[-3] * vectors.shape[1], x.shape[-2])


def _product_vjp(x: np.ndarray, a: Any, name: str, dterm: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    if a is None:
        return np.broadcast_to(dterm[..., None], x.shape).copy(), {}
    vectors = _split_heads(x, a, name)
    grouped = dterm.reshape(*x.shape[:-2], vectors.shape[1], x.shape[-2])
    da = np.matmul(grouped, x)
    return np.matmul(grouped.swapaxes(-1, -2), vectors), {name: da.sum(tuple(range(da.ndim - 3))).reshape(a.shape)}


def _shifted(t: Tile, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what is added to a query, k + W e, and the features e."""
    assert t.k is not None
    features = t.k[:, width:]
    weights = t.params.get("edge_weights")
    return t.k[:, :width] if weights is None else t.k[:, :width] + features @ weights, features


def _rows_of_hidden(t: Tile, dtype: Any) -> np.ndarray:
    assert t.q is not None and t.k is not None
    wide = Tile(t.dots, params={name: np.asarray(value, dtype) for name, value in t.params.items()}, q=t.q.astype(dtype), k=t.k.astype(dtype))
    assert wide.q is not None
    weights, a = wide.params.get("edge_weights"), wide.params.get("a")
    width = t.q.shape[1] - (0 if weights is None else len(weights))
    found = np.empty((t.q.shape[0], t.k.shape[0]), dtype)
    with np.errstate(all="ignore"):
        shift, _ = _shifted(wide, width)
        for i, q in enumerate(wide.q[:, :width]):
            x = _leaky(q + shift, wide.params["negative_slope"])
            found[i] = x.sum(-1) if a is None else x @ a
    return found


# --- turning ----------------------------------------------------------------------------------------------------------------------


def _frequencies(base: float, width: int) -> np.ndarray:
    return base ** (-2 * np.arange(width // 2) / max(width, 1))


def _turn(x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    """Return rows turned, plane by plane: columns p and D//2 + p."""
    half = x.shape[1] // 2
    first, second = x[:, :half], x[:, half : 2 * half]
    return np.concatenate([first * cosines - second * sines, first * sines + second * cosines, x[:, 2 * half :]], axis=1)


# --- compiled forms ---------------------------------------------------------------------------------------------------------------

MOST_WIDTHS = 64


class _Layout(ctypes.Structure):
    """What a compiled function needs to know beside the parameters of a head, as in _scores.pyx."""

    _fields_ = [(name, ctypes.c_ssize_t) for name in ("edge_terms", "edge_width", "weighted")]


class _TurnsLayout(ctypes.Structure):
    """Cosines and sines of widths that have been seen, as in _scores.pyx."""

    _fields_ = [
        ("base", ctypes.c_double),
        *((name, ctypes.c_ssize_t) for name in ("max_hops", "edge_terms", "count")),
        ("widths", ctypes.c_ssize_t * MOST_WIDTHS),
        ("tables", ctypes.c_void_p * MOST_WIDTHS),
    ]


def _forms(name: str, dtype: str, layout: ctypes.Structure) -> tuple[Any, Any]:
    """Return the logits and their vjp, of one layout."""
    from scipy import LowLevelCallable

    module, pointer = load_kernels("ruvattn_graph._scores", dtype), ctypes.cast(ctypes.pointer(layout), ctypes.c_void_p)
    # Cython calls a dtype `real` where it has to say which.
    forward, vjp = (
        LowLevelCallable.from_cython(module, f"{name}_{part}", pointer, spelled(signature, dtype))
        for part, signature in (("logits", FORWARD_SIGNATURE), ("vjp", VJP_SIGNATURE))
    )
    return forward, vjp


@functools.cache
def _compiled(name: str, edge_terms: int, edge_width: int, weighted: bool) -> dict[str, tuple[Any, Any]]:
    """Return the compiled forms for a layout; kept, together with what they point to."""
    layout = _Layout(edge_terms, edge_width, weighted)
    _kept.append(layout)
    return {dtype: _forms(name, dtype, layout) for dtype in DTYPES}


_kept: list[_Layout] = []


class _Turns:
    """The compiled forms of a base and a number of hops, and the tables that it reads: made when a width is first seen, and kept."""

    def __init__(self, base: float, max_hops: int, edge_terms: int, dtype: str) -> None:
        self._layout = _TurnsLayout(base, max_hops, edge_terms, 0)
        self._tables: dict[int, np.ndarray] = {}
        self._dtype = dtype
        self._lock = threading.Lock()
        self.forms = _forms("hop_rotary", dtype, self._layout)

    def prepare(self, width: int) -> None:
        """Make the table of a width, unless it is there; beyond so many widths the compiled form calls the functions instead."""
        with self._lock:
            layout = self._layout
            if width in self._tables or layout.count == MOST_WIDTHS:
                return
            angles = np.arange(layout.max_hops + 1)[:, None] * _frequencies(layout.base, width)
            table = self._tables[width] = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(self._dtype)
            layout.widths[layout.count], layout.tables[layout.count] = width, table.ctypes.data
            layout.count += 1


_all_turns: dict[tuple[float, int, int, str], _Turns] = {}
_turns_lock = threading.Lock()


def _turns(score: HopRotaryScore, dtype: str) -> _Turns:
    key = (score.base, score.max_hops, score.edge_terms, dtype)
    with _turns_lock:
        found = _all_turns.get(key)
        if found is None:
            found = _all_turns[key] = _Turns(*key)
        return found
