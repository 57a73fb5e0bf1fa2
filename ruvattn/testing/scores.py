"""The checks of scores: alone on a tile, against its own derivatives and compiled forms, and as a part of whole calls."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import functional, reference
from ..errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from ..scores import FORWARD_SIGNATURE, MAX_TERMS, REST, VJP_SIGNATURE, BoundScore, Dot, Score, Tile, check_form
from . import parts
from .cases import (
    accuracy_bounds,
    case,
    float_dtypes,
    require,
    require_accurate,
    require_close,
    require_gradient,
    require_same_bits,
    sample,
)
from .compiled import compiled_logits, compiled_logits_vjp
from .parts import WIDTHS, Part, expect_error, some_mask
from .runner import CheckFailure, CheckList, NotApplicable
from .trial import drawn, limited

CHECKS = CheckList("score")

TILES = ((1, 1), (1, 3), (4, 1), (3, 5), (9, 17), (32, 40))
"""Rows and keys of the tiles that are tried."""

FARTHEST = 1e15
"""What float32 inputs are multiplied by at most: sums of their squares are still finite."""


def _part(score: Score) -> Part:
    """Return the calls that a score fits into."""
    widths = only = getattr(score, "conformance_widths", None)
    if widths is None:
        widths = WIDTHS
        if score.splits and REST in score.splits:  # a rest of at least one column
            least = sum(n for n in score.splits if n != REST) + 1
            widths = dict.fromkeys(max(width, least) for width in WIDTHS)
            only = range(least, max(widths) + 1)
        elif score.splits:
            widths = only = (sum(score.splits),)
    heads = {np.shape(value)[0] for value in score.params.values() if np.ndim(value)}
    return Part(score, "score", tuple(widths), only_widths=only, heads=heads.pop() if heads else None)


# --- tiles ------------------------------------------------------------------------------------------------------------


def _params(score: Score, width: int) -> dict[str, Any]:
    """Return the parameters that a tile is given; the dot product's own scale is known to a call only."""
    if isinstance(score, Dot) and score.params["scale"] is None:
        return {"scale": 1 / np.sqrt(width)}
    return dict(score.params)


def _bound(score: Score, m: int, n: int, width: int, dtype: Any, seed: int) -> BoundScore:
    heads = _part(score).heads or 1
    q = sample(score, "query", (heads, m, width), dtype, seed)
    k = sample(score, "key", (heads, n, width), dtype, seed)
    return BoundScore(score, q, k, np.arange(m, dtype=np.int64), _params(score, width))


def _tile(score: Score, m: int, n: int, width: int, dtype: Any = np.float64, seed: int = 0) -> Tile:
    """Return a tile of the last head, as the engine brings it."""
    bound = _bound(score, m, n, width, dtype, seed)
    q, k = bound._q[-1], bound._k[-1]
    starts = bound.plane_starts
    dots = np.empty((len(starts) - 1, m, n), dtype)
    for c, (first, last) in enumerate(itertools.pairwise(starts)):
        dots[c] = q[:, first:last] @ k[:, first:last].T
    rows = tuple(term[-1][:, None].copy() for term in bound.rows)
    cols = tuple(term[-1][None, :].copy() for term in bound.cols)
    return Tile(dots, rows, cols, bound._params[-1], q if bound.vectors else None, k if bound.vectors else None)


def _as(tile: Tile, dtype: Any) -> Tile:
    """Return a copy of a tile in a dtype: a score may overwrite the dots."""
    dtype = np.dtype(dtype)
    params = {
        name: value.astype(dtype) if np.ndim(value) else dtype.type(value) for name, value in tile.params.items()
    }
    return Tile(
        tile.dots.astype(dtype),
        tuple(term.astype(dtype) for term in tile.rows),
        tuple(term.astype(dtype) for term in tile.cols),
        params,
        None if tile.q is None else tile.q.astype(dtype),
        None if tile.k is None else tile.k.astype(dtype),
    )


def _logits(score: Score, tile: Tile) -> np.ndarray:
    """Ask for the logits of a copy of a tile."""
    return np.array(score.logits(_as(tile, tile.dots.dtype)))


def _tiles(score: Score) -> Iterator[tuple[int, int, int]]:
    """Yield rows, keys and widths of tiles to try, smallest first."""
    part = _part(score)
    plans = ((m, n, part.widths[at % len(part.widths)]) for at, (m, n) in enumerate(TILES))
    yield from dict.fromkeys((limited("queries", m), limited("keys", n), limited("width", width, part.only_widths)) for m, n, width in plans)


def _numpy_form(score: Score, width: int) -> Score:
    """Return the score without its compiled forms."""
    if type(score) is Dot:
        # The engine knows Dot itself by heart, and calls what derives from it.
        plain: Score = type("Dot", (Dot,), {})(_params(score, width)["scale"])
    else:
        plain = copy.copy(score)
    plain.kernels = {}  # type: ignore[misc]
    return plain


# --- what it declares -------------------------------------------------------------------------------------------------


@CHECKS
def declaration(score: Score) -> None:
    """Splits, vectors, parameters and kernels are what the engine takes."""
    splits = score.splits
    fine = splits is None or (isinstance(splits, tuple) and all(isinstance(n, int) and (n > 0 or n == REST) for n in splits))
    require(fine, f"splits must be None or a tuple of positive ints, of which one may be {REST}, got {splits!r}")
    require(isinstance(score.vectors, bool), f"vectors must be True or False, got {score.vectors!r}")
    require(isinstance(score.params, dict), f"params must be a dict, got {type(score.params).__name__}")
    heads = {np.shape(value)[0] for value in score.params.values() if np.ndim(value)}
    require(len(heads) <= 1, f"params that are arrays must share their first axis, Hq, got lengths {sorted(heads)}")
    for name, value in score.params.items():
        if value is not None:
            array = np.asarray(value)
            require(array.dtype.kind in "fiu", f"params[{name!r}] must be numbers, got {value!r}")
            require(np.isfinite(array).all(), f"params[{name!r}] must be finite, got {value!r}")
    for name, forms in score.kernels.items():
        require(name in ("float32", "float64"), f"kernels must be for 'float32' or 'float64', got {name!r}")
        require(isinstance(forms, tuple) and len(forms) == 2, f"kernels[{name!r}] must be a pair (forward, vjp), got {forms!r}")
        for form, signature, what in zip(forms, (FORWARD_SIGNATURE, VJP_SIGNATURE), ("forward", "vjp"), strict=True):
            if form is not None or what == "forward":
                try:
                    check_form(form, f"kernels[{name!r}], {what},", np.dtype(name), signature)
                except InvalidInputError as error:
                    raise CheckFailure(str(error)) from None
    require(isinstance(repr(score), str), "repr must work")


@CHECKS
def terms_have_their_shape(score: Score) -> None:
    """Row and column terms are tuples of at most 32 arrays that broadcast over heads and rows or keys."""
    part = _part(score)
    for shape in part.shapes():
        q, k, _ = part.arrays(shape)
        offsets = [np.arange(shape.lq, dtype=np.int64)]
        offsets.append(np.broadcast_to(offsets[0] - 3, (*shape.lead, 1, shape.lq)))
        for pos in offsets:
            with case(q=q, pos=pos):
                terms = score.row_terms(q, pos)
                _require_terms(terms, "row_terms", [(*shape.lead, shape.heads, shape.lq)])
        with case(k=k):
            terms = score.col_terms(k, np.arange(shape.lk, dtype=np.int64))
            lengths = [(*shape.lead, heads, shape.lk) for heads in (shape.key_heads, shape.heads)]
            _require_terms(terms, "col_terms", lengths)


def _require_terms(terms: Any, name: str, shapes: list[tuple[int, ...]]) -> None:
    require(isinstance(terms, tuple), f"{name} must return a tuple, got {type(terms).__name__}")
    require(len(terms) <= MAX_TERMS, f"{name} must return at most {MAX_TERMS} arrays, got {len(terms)}")
    for term in terms:
        found = np.shape(term)
        fits = [shape for shape in shapes if _broadcasts(found, shape)]
        require(fits, f"{name} must return arrays that broadcast to {' or '.join(map(str, shapes))}, got shape {found}")


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, wanted) == wanted
    except ValueError:
        return False


# --- on a tile --------------------------------------------------------------------------------------------------------


@CHECKS
def logits_have_their_shape(score: Score) -> None:
    """logits(tile) returns (m, n) real numbers for every m and n."""
    for m, n, width in _tiles(score):
        for dtype in (np.float32, np.float64):
            tile = _tile(score, m, n, width, dtype)
            with case(m=m, n=n, width=width, dtype=np.dtype(dtype).name):
                logits = score.logits(tile)
                require(isinstance(logits, np.ndarray), f"logits must return an array, got {type(logits).__name__}")
                require(logits.shape == (m, n), f"logits must return an array of shape {(m, n)}, got {logits.shape}")
                require(logits.dtype.kind in "fiu", f"logits must return real numbers, got {logits.dtype}")
                require(np.isfinite(logits).all(), "logits of ordinary inputs must be finite")


@CHECKS
def logits_are_elementwise(score: Score) -> None:
    """A logit depends on its own query and key, not on what else is in the tile: tiles may be cut anywhere."""
    for m, n, width in _tiles(score):
        whole = _tile(score, m, n, width)
        expected = _logits(score, whole)
        naive = _logits(score, _as(whole, np.float32))
        tolerance = 2 * accuracy_bounds(expected, naive, np.float64)[1]
        for rows in (slice(0, 1), slice(m // 2, m)):
            for cols in (slice(0, 1), slice(n // 3, n)):
                part = Tile(
                    whole.dots[:, rows, cols].copy(),
                    tuple(term[rows] for term in whole.rows),
                    tuple(term[:, cols] for term in whole.cols),
                    whole.params,
                    None if whole.q is None else whole.q[rows],
                    None if whole.k is None else whole.k[cols],
                )
                with case(f"rows {rows.start}:{rows.stop} and keys {cols.start}:{cols.stop} of a tile", m=m, n=n, width=width):
                    found = _logits(score, part)
                    require_close(found, expected[rows, cols], tolerance, "a part of a tile must have the logits of the whole")


@CHECKS
def symmetric_if_it_says_so(score: Score) -> None:
    """With queries and keys exchanged, terms and vectors too, a symmetric score has the same logits, transposed."""
    require(isinstance(score.symmetric, bool), f"symmetric must be True or False, got {score.symmetric!r}")
    if not score.symmetric:
        raise NotApplicable("it does not say that it is symmetric")
    for m, n, width in _tiles(score):
        tile = _tile(score, m, n, width)
        turned = Tile(
            tile.dots.transpose(0, 2, 1).copy(),
            tuple(term.T.copy() for term in tile.cols),
            tuple(term.T.copy() for term in tile.rows),
            tile.params,
            tile.k,
            tile.q,
        )
        with case(m=m, n=n, width=width):
            expected = _logits(score, tile)
            tolerance = 2 * accuracy_bounds(expected, _logits(score, _as(tile, np.float32)), np.float64)[1]
            require_close(_logits(score, turned).T, expected, tolerance, "queries and keys exchanged must have the same logits")


# --- derivatives ------------------------------------------------------------------------------------------------------


def _or_not_applicable(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except UnsupportedError as error:
        raise NotApplicable(str(error)) from None


@CHECKS
def logits_vjp_matches_differences(score: Score) -> None:
    """logits_vjp agrees with finite differences of logits."""
    for m, n, width in list(_tiles(score))[:4]:
        tile = _tile(score, m, n, width)
        upstream = drawn("grad_output", np.random.default_rng(7).standard_normal((m, n)))
        with case(m=m, n=n, width=width):
            gradients = _or_not_applicable(score.logits_vjp, _as(tile, np.float64), upstream.copy())
            count = 6 if score.vectors else 4
            require(
                isinstance(gradients, tuple) and len(gradients) == count,
                f"logits_vjp must return a tuple of {count}: ddots, drows, dcols, dparams{', dq, dk' if score.vectors else ''}",
            )
            for name, found, at, put in _tile_places(tile, gradients):
                require_gradient(found, functools.partial(_weighed, score, upstream, put), at, name)


def _weighed(score: Score, upstream: np.ndarray, put: Callable[[np.ndarray], Tile], x: np.ndarray) -> float:
    return float(np.sum(upstream * score.logits(put(x))))


def _tile_places(tile: Tile, gradients: tuple[Any, ...]) -> Iterator[tuple[str, Any, np.ndarray, Callable[[np.ndarray], Tile]]]:
    """Yield each thing in a tile: its name, its gradient, its value, and how to get a tile with another value."""

    def with_(name: str, index: Any, value: np.ndarray) -> Tile:
        changed = _as(tile, np.float64)
        if name == "params":
            changed.params[index] = value.copy() if value.ndim else np.float64(value)
        elif name in ("rows", "cols"):
            terms = list(getattr(changed, name))
            terms[index] = value.copy()
            setattr(changed, name, tuple(terms))
        else:
            setattr(changed, name, value.copy())
        return changed

    ddots, drows, dcols, dparams = gradients[:4]
    if tile.dots.size:
        yield "ddots", ddots, tile.dots, functools.partial(with_, "dots", None)
    for name, terms, found in (("rows", tile.rows, drows), ("cols", tile.cols, dcols)):
        require(len(found) == len(terms), f"d{name} must hold a gradient for each of the {len(terms)} terms, got {len(found)}")
        for index, term in enumerate(terms):
            yield f"d{name}[{index}]", found[index], term, functools.partial(with_, name, index)
    unknown = set(dparams) - set(tile.params)
    require(not unknown, f"dparams names {', '.join(sorted(unknown))}, which params does not")
    for name, value in tile.params.items():
        at = np.asarray(value, np.float64)
        found = dparams.get(name, np.zeros(at.shape))
        yield f"dparams[{name!r}]", found, at, functools.partial(with_, "params", name)
    if tile.q is not None and tile.k is not None:
        yield "dq", gradients[4], tile.q, functools.partial(with_, "q", None)
        yield "dk", gradients[5], tile.k, functools.partial(with_, "k", None)


@CHECKS
def row_terms_vjp_matches_differences(score: Score) -> None:
    """row_terms_vjp agrees with finite differences of row_terms."""
    _terms_vjp(score, "row")


@CHECKS
def col_terms_vjp_matches_differences(score: Score) -> None:
    """col_terms_vjp agrees with finite differences of col_terms."""
    _terms_vjp(score, "col")


def _terms_vjp(score: Score, side: str) -> None:
    part = _part(score)
    heads = part.heads or 2
    for length, width in zip((1, 4), part.widths[:2], strict=False):
        length, width = limited("queries" if side == "row" else "keys", length), limited("width", width, part.only_widths)
        x = sample(score, "query" if side == "row" else "key", (heads, length, width), np.float64, 0)
        pos = np.arange(length, dtype=np.int64)
        if not _terms(score, side, x, pos):
            raise NotApplicable(f"it has no {side} terms")
        with case(**{"q" if side == "row" else "k": x}):
            _terms_vjp_at(score, side, x, pos)


def _terms(score: Score, side: str, x: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
    return score.row_terms(x, pos) if side == "row" else score.col_terms(x, pos)


def _terms_vjp_at(score: Score, side: str, x: np.ndarray, pos: np.ndarray) -> None:
    rng = np.random.default_rng(7)
    upstream = tuple(rng.standard_normal(np.shape(term)) for term in _terms(score, side, x, pos))
    vjp = score.row_terms_vjp if side == "row" else score.col_terms_vjp
    answer = _or_not_applicable(vjp, x.copy(), pos, tuple(d.copy() for d in upstream))
    name = f"{side}_terms_vjp"
    require(isinstance(answer, tuple) and len(answer) == 2, f"{name} must return a pair: the gradient, and a dict of those of params")
    dx, dparams = answer

    def total(how: Score, at: np.ndarray) -> float:
        return float(sum(np.sum(d * term) for d, term in zip(upstream, _terms(how, side, at, pos), strict=True)))

    require_gradient(dx, lambda at: total(score, at), x, f"{name}, {'dq' if side == 'row' else 'dk'}")
    for parameter, value in score.params.items():
        if value is None:
            continue
        at = np.asarray(value, np.float64)

        def with_parameter(changed: np.ndarray, parameter: str = parameter) -> float:
            other = copy.copy(score)
            other.params = {**score.params, parameter: changed.copy() if changed.ndim else float(changed)}  # type: ignore[misc]
            return total(other, x)

        require_gradient(dparams.get(parameter, np.zeros(at.shape)), with_parameter, at, f"{name}, {parameter!r}")


# --- compiled forms ---------------------------------------------------------------------------------------------------


def _missing_forms(score: Score) -> str | None:
    """Say which compiled forms there are not, if there are any."""
    missing = []
    for dtype in ("float32", "float64"):
        forms = score.kernels.get(dtype)
        if forms is None:
            missing.append(f"no compiled form for {dtype}")
        elif forms[1] is None:
            missing.append(f"no compiled vjp for {dtype}")
    return f"{' and '.join(missing)}: NumPy is used there" if missing else None


def _require_kernels(score: Score) -> None:
    if not score.kernels:
        raise NotApplicable("it has no compiled form: NumPy is used for every dtype")


def _draws(m: int, n: int) -> range:
    """Return seeds: small tiles are drawn several times, for a few numbers say little of an accuracy."""
    return range(min(16, -(-parts.NUMBERS // (m * n))))


def _strides(n: int) -> tuple[int, ...]:
    return (n, n + 3, (n + 31) // 32 * 32)


@CHECKS
def compiled_logits_match_numpy(score: Score) -> str | None:
    """The compiled functions give what logits gives, and write nothing but their output."""
    _require_kernels(score)
    for name, (forward, _) in score.kernels.items():
        dtype = np.dtype(name)
        for m, n, width in _tiles(score):
            tiles = [_tile(score, m, n, width, dtype, seed) for seed in _draws(m, n)]
            expected = np.stack([_logits(score, _as(tile, np.float64)) for tile in tiles])
            naive = np.stack([_logits(score, _as(tile, np.float32)) for tile in tiles])
            for ld in _strides(n):
                with case(m=m, n=n, ld=ld, width=width, dtype=name):
                    found = np.stack([compiled_logits(forward, _as(tile, dtype), ld) for tile in tiles])
                    require_accurate(found, expected, naive, "the compiled form must give the logits of the NumPy form")
    return _missing_forms(score)


@CHECKS
def compiled_vjp_matches_numpy(score: Score) -> None:
    """The compiled vjp's give what logits_vjp gives, add to what is there, and write nothing else."""
    _require_kernels(score)
    vjps = {name: forms[1] for name, forms in score.kernels.items() if forms[1] is not None}
    if not vjps:
        raise NotApplicable("it has no compiled vjp: NumPy is used for every dtype")
    for name, vjp in vjps.items():
        dtype = np.dtype(name)
        for m, n, width in _tiles(score):
            tiles = [_tile(score, m, n, width, dtype, seed) for seed in _draws(m, n)]
            upstream = drawn("grad_output", np.random.default_rng(7).standard_normal((m, n)).astype(dtype))
            expected = [_flat_vjp(score, tile, upstream, np.float64) for tile in tiles]
            naive = [_flat_vjp(score, tile, upstream, np.float32) for tile in tiles]
            for ld in _strides(n):
                with case(m=m, n=n, ld=ld, width=width, dtype=name):
                    found = [compiled_logits_vjp(vjp, _as(tile, dtype), upstream, ld) for tile in tiles]
                    for which in expected[0]:
                        got, wanted, slim = (np.stack([one[which] for one in many]) for many in (found, expected, naive))
                        added = {"dots": 1, "rows": n, "cols": m, "params": m * n, "q": n, "k": m}[which]
                        _require_vjp_accurate(got, wanted, slim, which, dtype, added)


def _require_vjp_accurate(found: np.ndarray, expected: np.ndarray, naive: np.ndarray, which: str, dtype: np.dtype[Any], added: int) -> None:
    promise = f"the compiled vjp must give the d{which} of logits_vjp"
    require(found.shape == expected.shape, f"{promise}: expected shape {expected.shape}, got {found.shape}")
    # What is added to starts from 1 here, not from 0, and rounds each time that something is added: a random walk.
    rounding = float(np.finfo(dtype).eps) * np.sqrt(added) * (1 + float(np.max(np.abs(expected), initial=0.0)))
    require_close(found, expected, accuracy_bounds(expected, naive, dtype)[1] + rounding, promise)


def _flat_vjp(score: Score, tile: Tile, upstream: np.ndarray, dtype: Any) -> dict[str, np.ndarray]:
    """Return what logits_vjp gives in the layout of the compiled form."""
    m, n = upstream.shape
    answer = _or_not_applicable(score.logits_vjp, _as(tile, dtype), upstream.astype(dtype))
    ddots, drows, dcols, dparams = answer[:4]
    found = {"dots": np.asarray(ddots)}
    if tile.rows:
        found["rows"] = np.stack([np.reshape(d, m) for d in drows])
    if tile.cols:
        found["cols"] = np.stack([np.reshape(d, n) for d in dcols])
    if tile.params:
        flat = [np.ravel(dparams.get(name, np.zeros(np.shape(value)))) for name, value in tile.params.items()]
        found["params"] = np.concatenate(flat)
    if tile.q is not None:
        found["q"], found["k"] = answer[4:]
    return found


@CHECKS
def streamed_forms_agree(score: Score) -> None:
    """Whole calls with the compiled form and with the NumPy form agree."""
    if not score.kernels and type(score) is not Dot:
        raise NotApplicable("it has no compiled form: NumPy is used for every dtype")
    part = _part(score)
    for shape in part.shapes():
        plain = Part(_numpy_form(score, shape.width), "score")
        for dtype in (np.float32, np.float64):
            arrays = part.arrays(shape, dtype)
            with case(shape=tuple(shape), dtype=np.dtype(dtype).name):
                tolerance = part.tolerance(arrays, dtype, causal=True)
                found, expected = part.call(arrays, causal=True), plain.call(arrays, causal=True)
                require_close(found, expected, tolerance, "the compiled form must give what the NumPy form gives")


# --- as a part of calls -----------------------------------------------------------------------------------------------


@CHECKS
def shapes_and_dtypes(score: Score) -> None:
    """Attention has the shape and dtype of its inputs, for float32, float64, float16 and bfloat16."""
    parts.shapes_and_dtypes(_part(score))


@CHECKS
def logits_match_oracle(score: Score) -> None:
    """attention_logits agrees with the float64 oracle, in every dtype and under every option."""
    part = _part(score)
    middle = part.middle()
    plan: list[tuple[parts.Shape, Any, dict[str, Any]]] = [(shape, np.float32, {}) for shape in part.shapes()]
    plan += [(middle, dtype, {}) for dtype in float_dtypes()]
    for options in ({"softcap": 2.0}, {"query_offset": -2}, {"query_offset": "end", "causal": True}, {"mask": some_mask(middle)}):
        plan += [(middle, np.float32, options), (middle, np.float64, options)]
    for shape, dtype, options in plan:
        q, k, _ = part.arrays(shape, dtype)
        with case(shape=tuple(shape), dtype=np.dtype(dtype).name, **options):
            found = functional.attention_logits(q, k, score=score, **options)
            expected = _within_range(reference.attention_logits(q, k, score=score, **options), found.dtype)
            naive = reference.attention_logits(q, k, score=score, precision=np.float32, **options)
            require(found.dtype == dtype, f"the logits must have the dtype of q, {np.dtype(dtype)}, got {found.dtype}")
            # Of few numbers the naive error may be small by luck; that of the whole call's inputs is what counts.
            require_close(found, expected, _logit_tolerance(part, shape, found.dtype, expected, naive), "the logits must agree with the oracle")


def _within_range(logits: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return logits as a dtype holds them that is narrower than what is computed in: float16 ends at 65504."""
    if dtype != np.float16:
        return logits
    largest = float(np.finfo(dtype).max)
    return np.where(np.isfinite(logits), np.clip(logits, -largest, largest), logits)


def _logit_tolerance(part: Part, shape: parts.Shape, dtype: Any, expected: np.ndarray, naive: np.ndarray) -> float:
    """Return the largest admitted error, of this case or of a larger one of the same width."""
    bound = accuracy_bounds(expected, naive, dtype)[1]
    if expected.size < parts.NUMBERS:
        larger = shape._replace(lq=part.lq or 16, lk=part.lk or 16)
        q, k, _ = part.arrays(larger, dtype, seed=1)
        wide = reference.attention_logits(q, k, score=part.subject)
        slim = reference.attention_logits(q, k, score=part.subject, precision=np.float32)
        bound = max(bound, accuracy_bounds(wide, slim, dtype)[1])
    return bound


@CHECKS
def agrees_with_oracle(score: Score) -> None:
    """Attention agrees with the float64 oracle as well as a naive float32 implementation does."""
    part = _part(score)
    middle = part.middle()
    heads = np.arange(middle.heads)
    options: list[dict[str, Any]] = [
        {"causal": True},
        {"window": (2, 1), "query_offset": 3},
        {"query_offset": "end", "causal": True},
        {"key_lengths": max(1, middle.lk - 2)},
        {"mask": some_mask(middle, empty_row=True)},
        {"bias": np.random.default_rng(3).standard_normal((middle.lq, middle.lk)).astype(np.float32)},
        {"softcap": 2.0},
        {"sinks": heads * 0.5},
        {"dropout": 0.25, "seed": 5},
        {"causal": True, "softcap": 3.0, "sinks": heads * 0.5, "mask": some_mask(middle)},
    ]
    parts.agrees_with_oracle(part, options)


@CHECKS
def scale_is_taken_or_refused(score: Score) -> None:
    """``scale=`` sets the parameter of that name; a score without one refuses it."""
    part = _part(score)
    shape = part.middle()
    arrays = part.arrays(shape)
    if "scale" not in score.params:
        message = expect_error(InvalidInputError, "scale= for a score without that parameter", part.call, arrays, scale=0.5)
        require("scale" in message, f"the error of a scale= that is refused must name it, got {message!r}")
        return
    for scale in (0.25, np.linspace(0.1, 1, shape.heads)):
        with case(shape=tuple(shape), scale=scale):
            expected = part.oracle(arrays, scale=scale)
            tolerance = part.tolerance(arrays, np.float32, scale=scale)
            found = part.call(arrays, scale=scale)
            require_close(found, expected, tolerance, "scale= must set the parameter")
            require(not np.allclose(found, part.call(arrays, scale=0.07)), "another scale= must give another output")


@CHECKS
def two_axes_are_one_head(score: Score) -> None:
    """Arrays of two axes are one head."""
    parts.two_axes_are_one_head(_part(score))


@CHECKS
def batch_equals_singles(score: Score) -> None:
    """An entry of a batch gives what it gives alone."""
    parts.batch_equals_singles(_part(score))


@CHECKS
def key_order_is_irrelevant(score: Score) -> None:
    """Keys and values in another order give the same, unless positions enter."""
    part = _part(score)
    if _uses_positions(part):
        raise NotApplicable("positions enter its terms")
    parts.key_order_is_irrelevant(part)


def _uses_positions(part: Part) -> bool:
    q, k, _ = part.arrays(part.middle())
    for side, x in (("row", q), ("col", k)):
        pos = np.arange(x.shape[-2], dtype=np.int64)
        expected = _terms(part.subject, side, x, pos)
        for other in (pos[::-1].copy(), pos + 1, 7 * pos - 2):
            for a, b in zip(expected, _terms(part.subject, side, x, other), strict=True):
                if not np.array_equal(a, b, equal_nan=True):
                    return True
    return False


@CHECKS
def weights_are_a_distribution(score: Score) -> None:
    """The weights of a row are from 0 to 1 and sum to 1; what is masked has none."""
    part = _part(score)
    for shape in part.shapes():
        for dtype in (np.float32, np.float64):
            q, k, _ = part.arrays(shape, dtype)
            mask = some_mask(shape)
            with case(shape=tuple(shape), dtype=np.dtype(dtype).name, mask=mask):
                weights = functional.attention_weights(q, k, score=score, mask=mask)
                require(((weights >= 0) & (weights <= 1)).all(), "weights must be from 0 to 1")
                require(not weights[~np.broadcast_to(mask, weights.shape)].any(), "what is masked must have the weight 0")
                rounding = (shape.lk + 1) * float(np.finfo(dtype).eps)
                sums = weights.sum(-1, dtype=np.float64)
                require_close(sums, np.ones(sums.shape), rounding, "the weights of a row must sum to 1")


@CHECKS
def masked_has_no_influence(score: Score) -> None:
    """What a row does not see changes no bit of its result, NaN included."""
    parts.masked_has_no_influence(_part(score), with_mask=True)


@CHECKS
def rows_are_independent(score: Score) -> None:
    """A query that is NaN changes no bit of other rows."""
    parts.rows_are_independent(_part(score))


@CHECKS
def empty_rows_are_zeros(score: Score) -> None:
    """A row that may attend to nothing is zeros, and its lse is −inf, or the sink."""
    parts.empty_rows_are_zeros(_part(score))


@CHECKS
def empty_input_gives_empty_output(score: Score) -> None:
    """No queries, no keys or no batch entries are no error."""
    parts.empty_input_gives_empty_output(_part(score))


@CHECKS
def extremes_stay_finite(score: Score) -> None:
    """Finite float32 input gives finite output, from subnormal to 1e15, and where queries and keys coincide."""
    part = _part(score)
    length = limited("keys", 6)
    shape = part.middle()._replace(lead=(), heads=part.heads or 1, key_heads=part.heads or 1, lq=length, lk=length)
    q, k, v = part.arrays(shape)
    parts.extremes_stay_finite(part, [("queries that are keys", (q, q.copy(), v)), ("one key many times", (q, k[..., :1, :].repeat(length, -2), v))])
    if hasattr(score, "conformance_inputs"):
        return  # points of a domain cannot be scaled
    inputs = [("zeros", (np.zeros_like(q), np.zeros_like(k), v))]
    for factor in (1e-42, 1e-20, 1e-3, 1e3, FARTHEST):
        f = np.float32(factor)
        inputs.append((f"queries and keys of {factor:g}", (q * f, k * f, v)))
        inputs.append((f"queries of {factor:g}", (q * f, k, v)))
        inputs.append((f"keys of {factor:g}", (q, k * f, v)))
    parts.extremes_stay_finite(part, inputs)


@CHECKS
def same_bits_for_any_number_of_threads(score: Score) -> None:
    """Results are the same to the bit for 1, 2 and 7 threads."""
    parts.same_bits_for_any_number_of_threads(_part(score))


@CHECKS
def parallel_calls_agree(score: Score) -> None:
    """Calls from 8 threads at once give what they give one after another."""
    parts.parallel_calls_agree(_part(score))


@CHECKS
def pickle_round_trip(score: Score) -> None:
    """Pickled or copied, it gives the same."""
    parts.pickle_round_trip(_part(score))


@CHECKS
def inputs_are_not_written(score: Score) -> None:
    """Neither the caller's arrays nor the parameters are written."""
    before = {name: np.array(value, copy=True) for name, value in score.params.items() if value is not None}
    parts.inputs_are_not_written(_part(score))
    for name, was in before.items():
        require_same_bits(score.params[name], was, f"params[{name!r}] must not be written")


@CHECKS
def out_is_honoured(score: Score) -> None:
    """``out=`` is written and returned."""
    parts.out_is_honoured(_part(score))


@CHECKS
def wrong_shapes_are_refused(score: Score) -> None:
    """Arrays that do not fit each other, the splits or the parameters raise DimensionMismatchError."""
    part = _part(score)
    parts.wrong_shapes_are_refused(part)
    shape = part.middle()
    if score.splits and REST not in score.splits:
        arrays = part.arrays(shape)
        q, k = (np.concatenate([array, array[..., :1]], -1) for array in arrays[:2])
        expect_error(DimensionMismatchError, f"a width other than that of splits, {sum(score.splits)},", part.call, (q, k, arrays[2]))
    if part.heads is not None:
        arrays = part.arrays(shape._replace(heads=part.heads + 1, key_heads=1))
        expect_error(DimensionMismatchError, f"heads other than those of the parameters, {part.heads},", part.call, arrays)
