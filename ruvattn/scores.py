"""Scores: one number for each (query, key), made tile by tile from dot products and from one or two numbers a row.

    Score ── splits, vectors, params ──►  what the engine brings to a tile
          ── row_terms, col_terms ─────►  computed once a call, before the tiles
          ── logits, or kernels ───────►  the tile itself: NumPy, or compiled with the same meaning
          ── …_vjp ────────────────────►  the same backwards

`Dot` is built in and is the engine's own: its scale is folded into the queries, and no function is called on its tiles.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from .validation import as_numbers

__all__ = ["Dot", "Score", "Tile"]

MAX_PLANES = 16
REST = -1
MAX_TERMS = 32

_NAMES = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}  # asking a dtype for its name takes microseconds


@dataclass
class Tile:
    """What a score sees of m queries and n keys of one head.

    Attributes
    ----------
    dots : ndarray, (C, m, n)
        One plane of dot products for each range of columns in ``Score.splits``. A score may overwrite it.
    rows : tuple of ndarray, each (m, 1)
        The row terms of these queries.
    cols : tuple of ndarray, each (1, n)
        The column terms of these keys.
    params : dict of str to ndarray or scalar
        This head's slice of the parameters.
    q, k : ndarray, (m, D) and (n, D), or None
        The queries and keys themselves, where ``Score.vectors`` asks for them.
    """

    dots: np.ndarray
    rows: tuple[np.ndarray, ...] = ()
    cols: tuple[np.ndarray, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    q: np.ndarray | None = None
    k: np.ndarray | None = None


class Score:
    """Base class of scores.

    A subclass gives `logits` and whatever the tile needs for it. That is enough to be streamed: no array of Lq × Lk is made and no compiler is
    needed. With `kernels` the same runs compiled, inside the parallel loops; with the ``_vjp`` methods it is trainable.

    Attributes
    ----------
    splits : tuple of int or None
        None: one plane of dots over all D columns. ``(16, 16, 32)``: a plane for each of these ranges of columns, which have to add up to D; one
        of them may be −1, for what the others leave. ``()``: no dots.
    vectors : bool
        True: the tile carries the queries and keys themselves.
    params : dict of str to float or ndarray
        Name to a scalar, or to an array whose first axis is Hq. A tile gets its head's slice. The parameter ``scale`` is what the argument
        ``scale=`` of `ruvattn.attention` sets.
    domains : dict of str to (float, float)
        Name of a parameter to the open interval that it has to be in, for which its logits are numbers; a parameter that has none may be any finite
        number. A call with another value is an InvalidInputError, and a step of an optimiser to one is taken back.
    kernels : dict of str to tuple
        Dtype name (``"float32"``, ``"float64"``) to a pair of ``scipy.LowLevelCallable``: forward and vjp, of which the second may be None.
        A dtype that is missing is computed by `logits`. float16 and bfloat16 compute in float32 and use its form.
    edge_terms : int or None
        How many column terms of edges the compiled form reads after the score's own: what `ruvattn.edge_attention` is given as ``edge_terms``. A call
        that brings another number of them, and one without edges brings none, is computed by `logits`. None: whoever calls sees to that.
    leaky : {"sum", "hidden"} or None
        What the edge engine makes itself, for all heads of a row at once, instead of calling the compiled form head by head. "sum": a logit is
        ``LeakyReLU(row term + column terms)``, of one row term and one column term or more, sums that overflow counting as the largest number.
        "hidden": it is ``a · LeakyReLU(q + k)``, columns of edges apart. The first parameter is the slope, at least 0, and for "hidden" the second
        and last the vector a (Hq, D).
    symmetric : bool
        True: of a tile with queries and keys exchanged, their terms and vectors too, the logits are the same, transposed: a distance, for example.
        The compiled form is then given tiles as the engine makes them, keys as rows, where all others have to be turned around and back: that
        saves a tenth of the time of a call.
    """

    splits: tuple[int, ...] | None = None
    vectors: bool = False
    edge_terms: int | None = None
    leaky: str | None = None
    symmetric: bool = False
    params: ClassVar[dict[str, Any]] = {}
    domains: ClassVar[dict[str, tuple[float, float]]] = {}
    kernels: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what a tile needs to know of each query.

        Parameters
        ----------
        q : ndarray, (..., Hq, Lq, D)
            The queries in the compute dtype; not to be written.
        pos : ndarray of int64
            Their positions, broadcastable to (..., Hq, Lq).

        Returns
        -------
        tuple of ndarray
            At most 32 arrays that broadcast to (..., Hq, Lq).
        """
        return ()

    def col_terms(self, k: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what a tile needs to know of each key.

        Parameters
        ----------
        k : ndarray, (..., Hk, Lk, D)
            The keys in the compute dtype; not to be written.
        pos : ndarray of int64
            Their positions, (Lk,).

        Returns
        -------
        tuple of ndarray
            At most 32 arrays that broadcast to (..., Hk, Lk), or to (..., Hq, Lk) where a parameter of a head enters.
        """
        return ()

    def row_terms_vjp(self, q: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of the queries and of the parameters, given that of the row terms.

        Parameters
        ----------
        q, pos : ndarray
            As for `row_terms`.
        dterms : tuple of ndarray
            The gradient of each term, in its shape.

        Returns
        -------
        dq : ndarray
            In the shape of `q`.
        dparams : dict of str to ndarray
            Only what enters the row terms.
        """
        raise UnsupportedError(f"{type(self).__name__} has no row_terms_vjp, so it has no gradient: write one, or use a score that has it")

    def col_terms_vjp(self, k: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of the keys and of the parameters, given that of the column terms.

        Parameters
        ----------
        k, pos : ndarray
            As for `col_terms`.
        dterms : tuple of ndarray
            The gradient of each term, in its shape.

        Returns
        -------
        dk : ndarray
            In the shape of `k`.
        dparams : dict of str to ndarray
            Only what enters the column terms.
        """
        raise UnsupportedError(f"{type(self).__name__} has no col_terms_vjp, so it has no gradient: write one, or use a score that has it")

    def logits(self, t: Tile) -> np.ndarray:
        """Return the logits of a tile.

        Parameters
        ----------
        t : Tile
            m queries and n keys of one head.

        Returns
        -------
        ndarray, (m, n)
            May be ``t.dots[0]``, overwritten.
        """
        raise UnsupportedError(f"{type(self).__name__} has no logits(tile) in NumPy: a score needs at least that")

    def logits_vjp(self, t: Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of what a tile holds, given that of its logits.

        Parameters
        ----------
        t : Tile
            As for `logits`, with the dots as they were.
        dlogits : ndarray, (m, n)
            The gradient of the logits.

        Returns
        -------
        ddots : ndarray, (C, m, n)
            Gradient of the dots.
        drows : tuple of ndarray, each (m, 1)
            Gradient of the row terms.
        dcols : tuple of ndarray, each (1, n)
            Gradient of the column terms.
        dparams : dict of str to ndarray
            Gradient of this head's parameters.
        dq, dk : ndarray, (m, D) and (n, D)
            Only where `vectors` is set.
        """
        raise UnsupportedError(f"{type(self).__name__} has no logits_vjp, so it has no gradient: write one, or use a score that has it")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"{type(self).__name__}({values})"


class Dot(Score):
    """The scaled dot product, scale · q·k (Vaswani et al., 2017, "Attention Is All You Need", eq. 1).

    Parameters
    ----------
    scale : float or array of shape (Hq,), optional
        1/√D when not given.

    Raises
    ------
    InvalidInputError
        If a scale is not a finite number.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> q, k = np.ones((1, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    >>> ruvattn.attention_logits(q, k, score=ruvattn.Dot())
    array([[2., 2.]], dtype=float32)
    """

    def __init__(self, scale: Any = None) -> None:
        if scale is not None:
            values = as_numbers(scale, "scale")
            if not _is_real(values) or not np.all(np.isfinite(values)):
                raise InvalidInputError(f"scale must be a finite number, or one for each head, got {scale!r}")
        self.params: dict[str, Any] = {"scale": scale}  # type: ignore[misc]

    def logits(self, t: Tile) -> np.ndarray:
        """Return scale · dots."""
        scale = t.params["scale"]
        if scale is None:
            raise InvalidInputError("Dot on a tile of its own needs a scale: the default, 1/√D, is known to a call only")
        return t.dots[0] * scale

    def logits_vjp(self, t: Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of the dots and of the scale."""
        scale = t.params["scale"]
        return (dlogits * scale)[None], (), (), {"scale": np.sum(dlogits * t.dots[0])}  # type: ignore[return-value]


# --- a score made ready for one call ----------------------------------------------------------------------------------------------


def head_params(score: Score, heads: int, scale: Any) -> dict[str, Any]:
    """Return a score's parameters with ``scale`` put in, each checked to be in its domain, and a scalar or to have Hq as its first axis."""
    name = type(score).__name__
    if not isinstance(score.params, dict):
        raise InvalidInputError(f"params of {name} must be a dict of name to number or array, got {score.params!r}")
    params = dict(score.params)
    if scale is not None:
        if "scale" not in params:
            names = ", ".join(map(str, params)) or "none"
            raise InvalidInputError(f"scale is no parameter of {name}, whose parameters are: {names}; set those on the score itself")
        params["scale"] = scale
    domains = score.domains
    for name, value in params.items():
        if value is None:
            continue
        if type(value) is float and math.isfinite(value):  # the usual ones, without an array made of each
            if name in domains and not domains[name][0] < value < domains[name][1]:
                raise InvalidInputError(f"{name} {outside_domain(score, name, value)}")
            continue
        array = as_numbers(value, name)
        if not _is_real(array):
            raise InvalidInputError(f"{name} must be a number or an array of numbers, got {value!r}")
        if not np.all(np.isfinite(array)):
            raise InvalidInputError(f"{name} must be finite, got {value!r}")
        if array.ndim and array.shape[0] != heads:
            raise DimensionMismatchError(f"{name} must be a scalar or have one entry for each of the {heads} query heads, got shape {array.shape}")
        wrong = outside_domain(score, name, value)
        if wrong is not None:
            raise InvalidInputError(f"{name} {wrong}")
    return params


def outside_domain(score: Score, name: str, value: Any) -> str | None:
    """Return what is wrong with a finite value of a parameter outside of its domain, as the rest of a sentence; None if nothing is."""
    domain = score.domains.get(name)
    if domain is None:
        return None
    numbers = np.asarray(value).astype(np.float64)
    outside = ~((numbers > domain[0]) & (numbers < domain[1]))
    if not outside.any():
        return None
    at = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), outside.shape))
    where = f" at index {at}" if at else ""
    return f"must be in the open interval ({domain[0]:g}, {domain[1]:g}) for {type(score).__name__}, got {float(numbers[at])!r}{where}"


class BoundScore:
    """A score together with the queries, keys and parameters of one call, as the kernels take it."""

    def __init__(self, score: Score, q: np.ndarray, k: np.ndarray, row_pos: np.ndarray, params: dict[str, Any], edge_terms: int = 0) -> None:
        # The instance of the caller is not touched: parameters that the call sets go to a shallow copy.
        if any(params[name] is not score.params.get(name) for name in params):
            import copy

            score = copy.copy(score)
            score.params = params  # type: ignore[misc]
        name = type(score).__name__
        heads, width = q.shape[-3], q.shape[-1]
        self.score = score
        self.dtype = q.dtype
        self.plane_starts = self._planes(score, width)
        self.vectors = bool(score.vectors)
        # Views, so that a score that writes to what it is shown raises and the caller's arrays stay as they are.
        self._q, self._k = q, k = _read_only(q), _read_only(k)
        self._group = heads // k.shape[-3]
        self._params = [{n: _of_head(value, h, self.dtype) for n, value in params.items()} for h in range(heads)]
        flat: list[Any]
        if any(np.ndim(value) for value in params.values()):
            flat = [np.concatenate([np.ravel(value) for value in of.values()]) for of in self._params]
        else:
            flat = [list(of.values()) for of in self._params]
        self.params = np.ascontiguousarray(flat, self.dtype).reshape(heads, -1)
        with np.errstate(all="ignore"):  # of rows that nothing attends to, too: what matters shows in the result
            rows = score.row_terms(q, row_pos)
        self._row_pos = row_pos
        self.rows = self._terms(rows, f"{name}.row_terms", q.shape[:-3], (heads,), q.shape[-2])
        self.cols = self.key_terms(k, np.arange(k.shape[-2], dtype=np.int64))
        self.forward = self._compiled(score, self.dtype) if score.edge_terms in (None, edge_terms) else None
        # what a class says of its own form, not of one that a subclass or an instance brings
        kind = score.leaky if self.forward is not None and "leaky" in vars(type(score)) and "kernels" not in vars(score) else None
        self.leaky, self.slope = self._leaky(kind, list(params.values()), width)
        self.symmetric = bool(score.symmetric) and self.forward is not None
        if score.symmetric and len(self.rows) != len(self.cols):
            raise InvalidInputError(f"{name} says that it is symmetric, and has {len(self.rows)} row terms and {len(self.cols)} column terms")
        self.error: BaseException | None = None
        self.pad: np.ndarray | None = None

    def for_rows(self, call: Any) -> BoundScore:
        """Return the same for some rows of the call only."""
        return BoundScore(self.score, call.q, call.k, call.row_positions(), self.score.params)

    def key_terms(self, k: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        """Return the column terms of keys (..., Hk, n, D) at some positions (n,), each of shape (..., Hk or Hq, n)."""
        with np.errstate(all="ignore"):  # of keys that nothing attends to, too
            found = self.score.col_terms(k, positions)
        return self._terms(found, f"{type(self.score).__name__}.col_terms", k.shape[:-3], (k.shape[-3], len(self._params)), k.shape[-2])

    @staticmethod
    def _compiled(score: Score, dtype: np.dtype[Any]) -> Any:
        """Return the compiled forward function, or None where there is only NumPy."""
        what = f"{type(score).__name__}.kernels"
        if not isinstance(score.kernels, dict):
            raise InvalidInputError(f"{what} must be a dict of dtype name to (forward, vjp), got {score.kernels!r}")
        forms = score.kernels.get(_NAMES[dtype])
        if not forms:
            return None
        # A LowLevelCallable is a tuple itself.
        if type(forms) not in (tuple, list) or len(forms) != 2:
            raise InvalidInputError(f"{what}[{dtype.name!r}] must be a pair (forward, vjp), the second may be None, got {type(forms).__name__}")
        return check_form(forms[0], f"{what}[{dtype.name!r}]", dtype, FORWARD_SIGNATURE)

    @staticmethod
    def _leaky(kind: str | None, params: list[Any], width: int) -> tuple[str | None, float]:
        """Return what kind of score the edge engine may make itself, and its slope."""
        if kind is None or not params or np.ndim(params[0]) or params[0] < 0:
            return None, 0.0
        fits = len(params) == 2 and np.ndim(params[1]) == 2 and np.shape(params[1])[1] == width if kind == "hidden" else kind == "sum"
        return (kind if fits else None), float(params[0])

    @staticmethod
    def _planes(score: Score, width: int) -> tuple[int, ...]:
        if score.splits is None:
            return (0, width)
        if isinstance(score.splits, tuple) and not score.splits:
            return (0,)
        try:
            splits = tuple(operator.index(n) for n in score.splits)
        except TypeError:
            splits = (0,)
        if len(splits) > MAX_PLANES or any(n < 1 and n != REST for n in splits) or splits.count(REST) > 1:
            raise InvalidInputError(
                f"splits of {type(score).__name__} must be None or at most {MAX_PLANES} positive ints, "
                f"of which one may be {REST}, got {score.splits!r}"
            )
        filled = without_rest(splits, width)
        if splits and (sum(filled) != width or min(filled) < 1):
            taken = sum(n for n in splits if n != REST)
            raise DimensionMismatchError(
                f"splits of {type(score).__name__} are {splits}, which add up to {taken}{' and a rest' if REST in splits else ''}, "
                f"and q has width {width}"
            )
        return (0, *np.cumsum(filled, dtype=int).tolist())

    def _terms(self, terms: Any, what: str, lead: tuple[int, ...], heads: tuple[int, ...], length: int) -> list[np.ndarray]:
        if not isinstance(terms, tuple) or len(terms) > MAX_TERMS:
            raise InvalidInputError(f"{what} must return a tuple of at most {MAX_TERMS} arrays, got {_what(terms)}")
        found = []
        for term in terms:
            try:
                array = np.asarray(term)
            except ValueError as error:
                raise InvalidInputError(f"{what} returned what is no array of numbers: {error}") from None
            if array.dtype.kind not in "fiub":
                raise InvalidInputError(f"{what} must return real numbers, got {array.dtype}")
            wanted = [h for h in heads if _fits(array.shape, (*lead, h, length))]
            if not wanted:
                shapes = " or ".join(str((*lead, h, length)) for h in dict.fromkeys(heads))
                raise DimensionMismatchError(f"{what} must return arrays that broadcast to {shapes}, got shape {array.shape}")
            found.append(np.ascontiguousarray(np.broadcast_to(saturated(array, self.dtype), (*lead, wanted[0], length))))
        return found

    def tile(self, batch: int, head: int, first: int, m: int, spans: list[tuple[int, int]], n: int) -> None:
        """Turn the dots in ``pad`` into logits, in place; called by the engine for each tile of a score that isn't compiled."""
        assert self.pad is not None
        planes = len(self.plane_starts) - 1
        dots = self.pad[: planes or 1, :m, :n]
        index = np.unravel_index(batch, self._q.shape[:-3]) if self._q.ndim > 3 else ()
        keys = slice(spans[0][0], spans[0][0] + n) if len(spans) == 1 else np.concatenate([np.arange(at, at + count) for at, count in spans])
        rows = tuple(term[index][head, first : first + m, None] for term in self.rows)
        cols = tuple(term[index][head * term.shape[-2] // len(self._params), keys][None, :] for term in self.cols)
        q = k = None
        if self.vectors:
            q = self._q[index][head, first : first + m]
            k = self._k[index][head // self._group, keys]
        dots[0] = self.evaluate(dots, rows, cols, head, q, k)

    def evaluate(
        self, dots: np.ndarray, rows: tuple[np.ndarray, ...], cols: tuple[np.ndarray, ...], head: int, q: np.ndarray | None, k: np.ndarray | None
    ) -> np.ndarray:
        """Return the logits of a tile of one head by the NumPy form, in the compute dtype; ``dots`` has a plane even where the score has none."""
        name = f"{type(self.score).__name__}.logits"
        m, n = dots.shape[1:]
        logits = self.score.logits(Tile(dots[: len(self.plane_starts) - 1], rows, cols, self._params[head], q, k))
        if not isinstance(logits, np.ndarray) or logits.shape != (m, n):
            raise DimensionMismatchError(f"{name} must return an array of shape {(m, n)}, got {_what(logits)}")
        if logits.dtype.kind not in "fiu":
            raise InvalidInputError(f"{name} must return real numbers, got {logits.dtype}")
        return saturated(logits, self.dtype)

    # --- backwards ----------------------------------------------------------------------------------------------------------------

    def vjp(self) -> Any:
        """Return the compiled vjp, or None where there is only NumPy."""
        forms = self.score.kernels.get(_NAMES[self.dtype])
        if not forms or forms[1] is None or self.forward is None:
            return None
        return check_form(forms[1], f"{type(self.score).__name__}.kernels[{self.dtype.name!r}]", self.dtype, VJP_SIGNATURE)

    def tile_of(self, at: tuple[int, ...]) -> Tile:
        """Return the tile of all rows and keys of one head."""
        head, starts = at[-1], self.plane_starts
        q, k = self._q[at], self._k[(*at[:-1], head // self._group)]
        with np.errstate(all="ignore"):
            dots = [q[:, a:b] @ k[:, a:b].T for a, b in zip(starts[:-1], starts[1:], strict=True)]
        rows = tuple(term[at][:, None] for term in self.rows)
        cols = tuple(term[(*at[:-1], head * term.shape[-2] // len(self._params))][None, :] for term in self.cols)
        planes = np.array(dots) if dots else np.zeros((0, len(q), len(k)), self.dtype)
        return Tile(planes, rows, cols, self._params[head], q if self.vectors else None, k if self.vectors else None)

    @staticmethod
    def part_of(tile: Tile, rows: slice, keys: np.ndarray) -> Tile:
        """Return the tile of some of the rows and keys of another."""
        return Tile(
            tile.dots[:, rows][:, :, keys], tuple(term[rows] for term in tile.rows), tuple(term[:, keys] for term in tile.cols), tile.params,
            None if tile.q is None else tile.q[rows], None if tile.k is None else tile.k[keys],
        )  # fmt: skip

    def tile_vjp(
        self, tile: Tile, dlogits: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        """Return the gradients of the dots, terms, ravelled parameters and vectors of a tile by the NumPy form, checked."""
        name = f"{type(self.score).__name__}.logits_vjp"
        (m, n), expected = dlogits.shape, 6 if self.vectors else 4
        found = self.score.logits_vjp(tile, dlogits)
        if not isinstance(found, tuple) or len(found) != expected:
            raise DimensionMismatchError(f"{name} must return a tuple of {expected}, got {_what(found)}")
        if not isinstance(found[3], dict):
            raise InvalidInputError(f"{name} must return the gradients of the parameters as a dict, got {_what(found[3])}")
        if len(found[1]) != len(tile.rows) or len(found[2]) != len(tile.cols):
            raise DimensionMismatchError(
                f"{name} must return the gradients of {len(tile.rows)} row terms and {len(tile.cols)} column terms, "
                f"got {len(found[1])} and {len(found[2])}"
            )
        planes = len(self.plane_starts) - 1
        ddots = self._gradient(found[0], (planes, m, n), name, "ddots") if planes else np.zeros((0, m, n), self.dtype)
        drows = [self._gradient(x, (m, 1), name, "drows") for x in found[1]]
        dcols = [self._gradient(x, (1, n), name, "dcols") for x in found[2]]
        dparams = [np.ravel(self._gradient(found[3].get(key, 0.0), np.shape(value), name, key)) for key, value in tile.params.items()]
        vectors = None
        if self.vectors:
            width = self._q.shape[-1]
            vectors = (self._gradient(found[4], (m, width), name, "dq"), self._gradient(found[5], (n, width), name, "dk"))
        return ddots, drows, dcols, np.concatenate(dparams) if dparams else np.zeros(0), vectors

    def _gradient(self, found: Any, shape: tuple[int, ...], name: str, what: str) -> np.ndarray:
        array = np.asarray(found)
        if array.dtype.kind not in "fiu" or not _fits(array.shape, shape):
            raise DimensionMismatchError(f"{name} must return {what} of shape {shape}, got {_what(found)}")
        return np.broadcast_to(saturated(array, self.dtype), shape)

    def split_params(self, dparams: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Return gradients of ravelled parameters (Hq, P) by the parameters' names, each with the axis of heads first."""
        found, at = {}, 0
        for key, value in self._params[0].items():
            size = int(np.size(value))
            found[key] = dparams[:, at : at + size].reshape(len(dparams), *np.shape(value))
            at += size
        return [found]

    def terms_vjp(
        self, side: str, dterms: list[np.ndarray], keys: np.ndarray | None = None, positions: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradients of queries ("row") or keys ("col") and of the parameters, given those of their terms as they were broadcast.

        ``keys`` at ``positions`` take the place of those of the call, where edges have keys of their own.
        """
        name = f"{type(self.score).__name__}.{side}_terms_vjp"
        x, pos = (self._q, self._row_pos) if side == "row" else (self._k, np.arange(self._k.shape[-2], dtype=np.int64))
        if keys is not None and positions is not None:
            x, pos = keys, positions
        terms, vjp = (self.score.row_terms, self.score.row_terms_vjp) if side == "row" else (self.score.col_terms, self.score.col_terms_vjp)
        bad = ~np.isfinite(x).all(-1)
        if bad.any():
            # What isn't finite and has no part in the loss must not come in by 0 · NaN.
            heads = x.shape[-3]
            touched = np.zeros(x.shape[:-1], bool)
            for dterm in dterms:
                touched |= (dterm != 0).reshape(*dterm.shape[:-2], heads, -1, dterm.shape[-1]).any(-2)
            x = np.where((bad & ~touched)[..., None], self.dtype.type(0), x)
        with np.errstate(all="ignore"):
            shapes = [np.shape(term) for term in terms(x, pos)]
            found = vjp(x, pos, tuple(summed_to(dterm, shape) for dterm, shape in zip(dterms, shapes, strict=True)))
        if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], dict):
            raise DimensionMismatchError(f"{name} must return a gradient and a dict of those of the parameters, got {_what(found)}")
        return self._gradient(found[0], x.shape, name, "a gradient"), found[1]


def summed_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a gradient summed over the axes along which an array of a shape was broadcast."""
    if 0 in shape:
        return np.zeros(shape, gradient.dtype)
    if gradient.ndim > len(shape):
        gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(axis for axis, (n, m) in enumerate(zip(gradient.shape, shape, strict=True)) if m == 1 and n != 1)
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient


def without_rest(splits: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Return splits with what the others leave of the width in the place of `REST`."""
    left = width - sum(n for n in splits if n != REST)
    return tuple(left if n == REST else n for n in splits)


def _is_real(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" or array.dtype.name == "bfloat16"


def _of_head(value: Any, head: int, dtype: np.dtype[Any]) -> Any:
    array = np.asarray(value, dtype)
    return array[head] if array.ndim else dtype.type(array)


def saturated(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array in a dtype; what is finite stays finite, as the largest number there is."""
    if array.dtype.itemsize <= dtype.itemsize or array.dtype.kind != "f":
        return array.astype(dtype, copy=False)
    with np.errstate(all="ignore"):
        narrow = array.astype(dtype)
        beyond = np.isinf(narrow) & np.isfinite(array)
    if beyond.any():
        narrow[beyond] = np.copysign(np.finfo(dtype).max, array[beyond])
    return narrow


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in zip(shape[::-1], wanted[::-1], strict=False))


def _what(found: Any) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {len(found)}"
    return f"shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__


# --- signatures of compiled forms -------------------------------------------------------------------------------------------------

FORWARD_SIGNATURE = "T* Z Z Z T* T* T* T* T* Z void*"
VJP_SIGNATURE = "T* T* Z Z Z T* T* T* T* T* Z T* T* T* T* T* void*"
_SIZES = {"Py_ssize_t", "ssize_t", "longlong", "ptrdiff_t", "intptr_t", "int64", "int64_t", "npy_intp"}
_LONGS = 1 if np.dtype("l").itemsize == np.dtype("p").itemsize else 2  # how many make a pointer's size: Windows' long has 32 bits


def check_form(form: Any, what: str, dtype: np.dtype[Any], signature: str) -> Any:
    """Return a compiled form, having seen that it is a LowLevelCallable of that signature."""
    kind = type(form)
    if (kind.__module__.split(".")[0], kind.__name__) != ("scipy", "LowLevelCallable"):
        raise InvalidInputError(f"{what} must be a pair of scipy.LowLevelCallable, got {kind.__name__}: see LowLevelCallable.from_cython")
    given = form.signature
    wanted = spelled(signature, dtype)
    if _normal(given) != _normal(wanted):
        raise InvalidInputError(f"{what} has the signature {given!r}, and the engine calls {wanted!r}")
    return form


@lru_cache(maxsize=16)
def spelled(signature: str, dtype: Any) -> str:
    """Return a signature in C, for a dtype."""
    real = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    names = {"T*": f"{real} *", "Z": "Py_ssize_t", "void*": "void *"}
    return f"void ({', '.join(names[word] for word in signature.split())})"


@lru_cache(maxsize=256)  # a call with a compiled score asks twice, and there are few signatures
def _normal(signature: str) -> tuple[str, ...]:
    """A signature as a tuple of types: const dropped, every pointer-sized signed integer read as Py_ssize_t."""
    result, _, arguments = signature.partition("(")
    types = []
    for argument in (result, *arguments.rstrip(" )").split(",")):
        words = argument.replace("*", " * ").split()
        words = [word for word in words if word not in ("const", "struct", "signed", "restrict", "__restrict")]
        integers = list(itertools.takewhile(("long", "int").__contains__, words))
        if words[:2] == ["long", "double"]:
            words = ["long double", *words[2:]]
        elif integers.count("long") >= _LONGS:
            words = ["Py_ssize_t", *words[len(integers) :]]
        stars = words.count("*")
        # a parameter's name, if there is one, stands last: the type is the first word
        kind = words[0] if words else ""
        types.append(("Py_ssize_t" if kind in _SIZES else kind) + "*" * stars)
    return tuple(types)
