"""Checks that scores, patterns and aggregates share: each of them as a part of whole calls of `ruvattn.attention`.

    Part ─► shapes() ─► arrays() ─► call(), oracle() ─► what a check compares

A part says which calls it fits into; the checks below are then the same for all three.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import functional, reference
from ..errors import DimensionMismatchError
from .cases import (
    accuracy_bounds,
    another_order,
    case,
    float_dtypes,
    in_threads,
    require,
    require_accurate,
    require_close,
    require_same_bits,
    sample,
)
from .runner import CheckFailure, NotApplicable
from .trial import limited, limited_heads, limited_lead

__all__ = ["THREAD_COUNTS", "Part", "Shape"]

THREAD_COUNTS = (1, 2, 7)

WIDTHS = (1, 5, 16, 33)
"""Widths that a part is tried with unless it says which: one, odd, whole vectors, and one more than those."""

NUMBERS = 128
"""Errors of fewer numbers than these say little of an accuracy: small tiles are drawn several times."""

ROWS = 32
"""So do errors of fewer rows, for in a row they have their weights in common."""


class Shape(NamedTuple):
    """The shape of one call."""

    lead: tuple[int, ...]
    heads: int
    key_heads: int
    lq: int
    lk: int
    width: int
    value_width: int


# Smallest first: (lead, heads, key_heads, lq, lk). Beside the trivial ones: fewer and more keys than fit a vector, grouped
# heads, two leading axes, and several blocks of rows.
_SMALL = (
    ((), 1, 1, 1, 1),
    ((), 1, 1, 1, 3),
    ((), 1, 1, 3, 2),
    ((), 2, 1, 5, 9),
    ((2, 1), 4, 2, 7, 37),
    ((2,), 1, 1, 41, 70),
)
# Enough work for a team of threads: rows to share out, and few rows over keys that are split.
_LARGE = (((), 2, 1, 150, 180), ((), 1, 1, 3, 5000))


@dataclass(frozen=True)
class Part:
    """A score, pattern or aggregate, and what a call has to look like to hold it.

    Attributes
    ----------
    subject : Score, Pattern or Aggregate
        What is checked.
    keyword : {"score", "mask", "aggregate"}
        The argument of `ruvattn.attention` that it goes to.
    widths, value_widths : tuple of int
        Widths of queries and keys, and of values, to be tried.
    only_widths, only_value_widths : sequence of int or None
        Those that there may be at all; None: any.
    batch, heads, key_heads, lq, lk : int or None
        What is fixed; None: any.
    """

    subject: Any
    keyword: str
    widths: tuple[int, ...] = WIDTHS
    value_widths: tuple[int, ...] = WIDTHS
    only_widths: Sequence[int] | None = None
    only_value_widths: Sequence[int] | None = None
    batch: int | None = None
    heads: int | None = None
    key_heads: int | None = None
    lq: int | None = None
    lk: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The argument that makes it part of a call."""
        return {self.keyword: self.subject}

    def shapes(self) -> Iterator[Shape]:
        """Yield shapes of calls that it fits into, smallest first."""
        return iter(dict.fromkeys(self._fitted(_SMALL, 0)))

    def _fitted(self, plans: Iterable[Any], start: int) -> Iterator[Shape]:
        for at, (lead, heads, key_heads, lq, lk) in enumerate(plans, start):
            lead = limited_lead(lead) if self.batch is None else (self.batch,)
            if self.heads is not None:
                heads, key_heads = self.heads, 1 if at % 2 else self.heads
            elif self.key_heads is not None:
                heads, key_heads = self.key_heads * (2 if at % 2 else 1), self.key_heads
            else:
                heads, key_heads = limited_heads(heads, key_heads)
            lq = limited("queries", lq) if self.lq is None else self.lq
            lk = limited("keys", lk) if self.lk is None else self.lk
            width = limited("width", self.widths[at % len(self.widths)], self.only_widths)
            value_width = limited("value_width", self.value_widths[(at + 2) % len(self.value_widths)], self.only_value_widths)
            yield Shape(lead, heads, key_heads, lq, lk, width, value_width)

    def large_shapes(self) -> Iterator[Shape]:
        """Yield shapes of calls that are worth a team of threads, as far as it allows."""
        return self._fitted(_LARGE, 2)

    def middle(self) -> Shape:
        """Return a shape with several heads, rows and keys."""
        return list(self._fitted(_SMALL, 0))[3]

    def arrays(self, shape: Shape, dtype: Any = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw queries, keys and values."""
        owner = self.subject if self.keyword == "score" else None
        q = sample(owner, "query", (*shape.lead, shape.heads, shape.lq, shape.width), dtype, seed)
        k = sample(owner, "key", (*shape.lead, shape.key_heads, shape.lk, shape.width), dtype, seed)
        owner = self.subject if self.keyword == "aggregate" else None
        v = sample(owner, "value", (*shape.lead, shape.key_heads, shape.lk, shape.value_width), dtype, seed)
        return q, k, v

    def call(self, arrays: Iterable[np.ndarray], **options: Any) -> Any:
        """Attend with the part in it."""
        q, k, v = arrays
        return functional.attention(q, k, v, **self.options, **options)

    def oracle(self, arrays: Iterable[np.ndarray], precision: Any = np.float64, **options: Any) -> Any:
        """Attend with the part in it, slowly."""
        q, k, v = arrays
        return reference.attention(q, k, v, precision=precision, **self.options, **options)

    def tolerance(self, arrays: Any, dtype: Any, **options: Any) -> float:
        """Return by how much two good results of one call may differ."""
        return self.tolerances(arrays, dtype, **options)[0]

    def tolerances(self, arrays: Any, dtype: Any, **options: Any) -> tuple[float, float]:
        """Return by how much outputs, and lse's, of two good results of one call may differ."""
        expected = self.oracle(arrays, return_lse=True, **options)
        naive = self.oracle(arrays, np.float32, return_lse=True, **options)
        out, lse = (2 * accuracy_bounds(a, b, dtype)[1] for a, b in zip(expected, naive, strict=True))
        return out, lse

    def seen(self, arrays: Any, **options: Any) -> np.ndarray:
        """Return which pairs attend, (..., Hq, Lq, Lk)."""
        given = {**self.options, **options}
        given = {name: value for name, value in given.items() if name not in ("aggregate", "score")}
        return ~np.isneginf(reference.attention_logits(*arrays[:2], **given))


def some_mask(shape: Shape, seed: int = 0, *, empty_row: bool = False) -> np.ndarray:
    """Return a mask in which every row sees something and, if there are several keys, not everything."""
    rng = np.random.default_rng(seed)
    mask = rng.random((shape.heads, shape.lq, shape.lk)) < 0.5
    rows = np.arange(shape.lq)
    if shape.lk > 1:
        mask[:, rows, (rows + 1) % shape.lk] = False
    mask[:, rows, rows % shape.lk] = True
    if empty_row:
        mask[:, 0] = False
    return mask


def require_agreement(part: Part, shape: Shape, dtype: Any, options: dict[str, Any]) -> None:
    """Require that calls agree with the oracle as well as a naive implementation in float32 would."""
    rows = int(np.prod([*shape.lead, shape.heads, shape.lq]))
    draws = min(16, -(-ROWS // max(rows, 1)))
    if "bias" in options:  # which has to have the dtype that is computed in
        options = {**options, "bias": options["bias"].astype(np.float64 if dtype == np.float64 else np.float32)}
    results: list[list[Any]] = [[], [], [], [], [], []]
    for seed in range(draws):
        arrays = part.arrays(shape, dtype, seed)
        found = (
            part.call(arrays, return_lse=True, **options),
            part.oracle(arrays, return_lse=True, **options),
            part.oracle(arrays, np.float32, return_lse=True, **options),
        )
        for which, result in enumerate(np_array for pair in found for np_array in pair):
            results[which].append(result)
    out, lse, expected, expected_lse, naive, naive_lse = (np.stack(result) for result in results)
    where = " (the first index counts the draws)" if draws > 1 else ""
    with case(shape=tuple(shape), dtype=np.dtype(dtype).name, **options):
        require_accurate(out, expected, naive, f"the output must agree with the oracle{where}", samples=draws * rows)
        floor = lse_rounding(expected_lse, shape.lk, lse.dtype)
        require_accurate(lse, expected_lse, naive_lse, f"the lse must agree with the oracle{where}", samples=draws * rows, floor=floor)


def lse_rounding(lse: np.ndarray, lk: int, dtype: Any) -> float:
    """Return what rounding does to a log-sum-exp: it is the largest logit plus at most log Lk, and the two may cancel."""
    largest = float(np.max(np.abs(lse[np.isfinite(lse)]), initial=0.0)) + float(np.log(max(lk, 1)))
    return 4 * float(np.finfo(dtype).eps) * largest


def agrees_with_oracle(part: Part, option_sets: Iterable[dict[str, Any]]) -> None:
    """Shapes alone and with options, in every dtype."""
    for shape in part.shapes():
        require_agreement(part, shape, np.float32, {})
    for dtype in float_dtypes():
        require_agreement(part, part.middle(), dtype, {})
    for options in option_sets:
        require_agreement(part, part.middle(), np.float32, options)
        require_agreement(part, part.middle(), np.float64, options)


def shapes_and_dtypes(part: Part) -> None:
    """Results have the shape and dtype that the inputs imply."""
    for shape in part.shapes():
        for dtype in float_dtypes():
            arrays = part.arrays(shape, dtype)
            with case(shape=tuple(shape), dtype=dtype.name):
                out, lse = part.call(arrays, return_lse=True)
                expected = part.oracle(arrays).shape
                require(out.shape == expected, f"the output must have shape {expected}, got {out.shape}")
                require(out.dtype == dtype, f"the output must have the dtype of q, {dtype}, got {out.dtype}")
                compute = np.float64 if dtype == np.float64 else np.float32
                require(lse.shape == expected[:-1], f"the lse must have shape {expected[:-1]}, got {lse.shape}")
                require(lse.dtype == compute, f"the lse must have the compute dtype, {np.dtype(compute)}, got {lse.dtype}")


def two_axes_are_one_head(part: Part) -> None:
    """Arrays of two axes."""
    if (part.heads or part.key_heads or 1) != 1 or (part.batch or 1) != 1:
        raise NotApplicable("it is for several heads or batch entries")
    shape = part.middle()._replace(lead=(), heads=1, key_heads=1)
    arrays = part.arrays(shape)
    flat = part.call([array[0] for array in arrays])
    with case(shape=tuple(shape)):
        require_same_bits(flat, part.call(arrays)[0], "arrays of two axes must be taken as one head")


def batch_equals_singles(part: Part) -> None:
    """A batch gives what its entries give alone."""
    if part.batch is not None:
        raise NotApplicable(f"it is for a batch of {part.batch}: its entries cannot be had alone")
    shape = part.middle()._replace(lead=(2, 3))
    arrays = part.arrays(shape)
    together = part.call(arrays)
    for index in np.ndindex(shape.lead):
        single = [array[index] for array in arrays]
        with case(shape=tuple(shape), entry=index):
            alone = part.call(single)
            tolerance = part.tolerance(single, np.float32)
            require_close(together[index], alone, tolerance, "an entry of a batch must give what it gives alone")


def key_order_is_irrelevant(part: Part) -> None:
    """Keys and values in another order."""
    for shape in part.shapes():
        if shape.lk < 2:
            continue
        arrays = part.arrays(shape)
        order = another_order(shape.lk)
        q, k, v = arrays
        with case(shape=tuple(shape), order=order):
            moved = part.call((q, k[..., order, :], v[..., order, :]))
            tolerance = part.tolerance(arrays, np.float32)
            require_close(moved, part.call(arrays), tolerance, "keys in another order must give the same output")


def masked_has_no_influence(part: Part, *, with_mask: bool) -> None:
    """What a row does not see can be anything, NaN included.

    The engine computes blocks of rows that hold something non-finite once more, in another order: hence a tolerance.
    """
    tried = 0
    for shape in part.shapes():
        options = {"mask": some_mask(shape)} if with_mask else {}
        arrays = part.arrays(shape)
        tolerances = part.tolerances(arrays, np.float32, **options)
        seen = np.broadcast_to(part.seen(arrays, **options), (*shape.lead, shape.heads, shape.lq, shape.lk))
        expected = part.call(arrays, return_lse=True, **options)
        rows = list(np.ndindex(seen.shape[:-1]))
        for index in [rows[at] for at in sorted({0, len(rows) // 2, len(rows) - 1})]:
            hidden = ~seen[index]
            if not hidden.any():
                continue
            tried += 1
            for poison in (np.nan, np.inf, 3e38):
                q, k, v = (array.copy() for array in arrays)
                at = (*index[:-2], index[-2] // (shape.heads // shape.key_heads))
                k[at][hidden] = v[at][hidden] = poison
                with case(f"what the row {index} does not see set to {poison}", shape=tuple(shape), **options):
                    found = part.call((q, k, v), return_lse=True, **options)
                    for name, got, wanted, allowed in zip(("output", "lse"), found, expected, tolerances, strict=True):
                        promise = f"what is masked must have no influence on the {name}"
                        require_close(got[index], wanted[index], allowed, promise)
    if not tried:
        raise NotApplicable("no row has anything masked in the shapes that are tried")


def rows_are_independent(part: Part) -> None:
    """A query that is NaN harms no other row."""
    for shape in part.shapes():
        if shape.lq < 2:
            continue
        arrays = part.arrays(shape)
        expected = part.call(arrays)
        q, k, v = (array.copy() for array in arrays)
        q[..., 1, :] = np.nan
        others = np.arange(shape.lq) != 1
        with case("query 1 set to NaN", shape=tuple(shape)):
            found = part.call((q, k, v))
            tolerance = part.tolerance(arrays, np.float32)
            require_close(found[..., others, :], expected[..., others, :], tolerance, "a query must have no influence on others")


def empty_rows_are_zeros(part: Part) -> None:
    """Rows that may attend to nothing."""
    for shape in part.shapes():
        full = (*shape.lead, shape.heads, shape.lq, shape.lk)
        bias = np.zeros(full, np.float32)
        bias[..., shape.lq // 2, :] = -np.inf
        sinks = np.linspace(-1, 1, shape.heads).astype(np.float32)
        arrays = part.arrays(shape)
        ways: dict[str, dict[str, Any]] = {"bias of -inf": {"bias": bias}, "key_lengths of 0": {"key_lengths": 0}}
        for name, options in ways.items():
            row = shape.lq // 2 if "bias" in options else slice(None)
            with case(name, shape=tuple(shape)):
                out, lse = part.call(arrays, return_lse=True, **options)
                empty, empty_lse = out[..., row, :], lse[..., row]
                require((empty == 0).all(), f"a row that may attend to nothing must be zeros, got {empty.ravel()[:4]}")
                require(np.isneginf(empty_lse).all(), f"its lse must be -inf, got {empty_lse.ravel()[:4]}")
                out, lse = part.call(arrays, return_lse=True, sinks=sinks, **options)
                require((out[..., row, :] == 0).all(), "with a sink, a row that may attend to nothing must be zeros")
                wanted = np.broadcast_to(sinks[:, None], lse.shape)[..., row]
                require_close(lse[..., row], wanted, 1e-6, "with a sink, the lse of such a row must be the sink")


def same_bits_for_any_number_of_threads(part: Part) -> None:
    """Results for 1, 2 and 7 threads."""
    for shape in part.large_shapes():
        for dtype in (np.float32, np.float64):
            arrays = part.arrays(shape, dtype)
            expected = part.call(arrays, return_lse=True, threads=THREAD_COUNTS[0])
            for threads in THREAD_COUNTS[1:]:
                with case(shape=tuple(shape), dtype=np.dtype(dtype).name, threads=threads):
                    found = part.call(arrays, return_lse=True, threads=threads)
                    for name, got, wanted in zip(("output", "lse"), found, expected, strict=True):
                        require_same_bits(got, wanted, f"the {name} must be the same to the bit for any number of threads")


def parallel_calls_agree(part: Part) -> None:
    """Calls from 8 threads at once, each with inputs of its own."""
    shape = part.middle()
    inputs = [part.arrays(shape, seed=seed) for seed in range(8)]
    expected = [part.call(arrays) for arrays in inputs]

    def work(i: int) -> list[np.ndarray]:
        return [part.call(inputs[i]) for _ in range(4)]

    for i, results in enumerate(in_threads(work)):
        for result in results:
            with case("8 threads call at once", shape=tuple(shape), seed=i):
                require_same_bits(result, expected[i], "calls in parallel must give what they give one after another")


def pickle_round_trip(part: Part) -> None:
    """Pickled and copied, it does the same."""
    shape = part.middle()
    arrays = part.arrays(shape)
    expected = part.call(arrays)
    ways = {"pickled": lambda x: pickle.loads(pickle.dumps(x)), "deeply copied": copy.deepcopy, "copied": copy.copy}
    for name, way in ways.items():
        with case(name, shape=tuple(shape)):
            found = functional.attention(*arrays, **{part.keyword: way(part.subject)})
            require_same_bits(found, expected, f"{name}, it must give the same")


def inputs_are_not_written(part: Part) -> None:
    """The caller's arrays after a call."""
    for shape in part.shapes():
        for dtype in (np.float32, np.float64):
            arrays = part.arrays(shape, dtype)
            before = [array.copy() for array in arrays]
            part.call(arrays)
            for name, after, was in zip("qkv", arrays, before, strict=True):
                with case(shape=tuple(shape), dtype=np.dtype(dtype).name):
                    require_same_bits(after, was, f"{name} must not be written")


def out_is_honoured(part: Part) -> None:
    """``out=`` is written and returned."""
    for dtype in float_dtypes():
        shape = part.middle()
        arrays = part.arrays(shape, dtype)
        expected = part.call(arrays)
        for how, out in {
            "contiguous": np.full(expected.shape, np.nan, dtype),
            "every other column": np.full((*expected.shape[:-1], 2 * expected.shape[-1]), np.nan, dtype)[..., ::2],
        }.items():
            with case(f"out {how}", shape=tuple(shape), dtype=dtype.name):
                require(part.call(arrays, out=out) is out, "out= must be returned")
                require_same_bits(out, expected, "out= must hold what is returned without it")
        wrong = np.empty((*expected.shape[:-1], expected.shape[-1] + 1), dtype)
        with case(shape=tuple(shape), out=wrong):
            expect_error(DimensionMismatchError, "an out= of another shape", part.call, arrays, out=wrong)


def extremes_stay_finite(part: Part, inputs: Iterable[tuple[str, Any]]) -> None:
    """No NaN comes of finite input."""
    for name, arrays in inputs:
        with case(name, q=arrays[0], v=arrays[2]):
            for array in arrays:
                assert np.isfinite(array).all()
            out, lse = part.call(arrays, return_lse=True)
            require(not np.isnan(lse).any(), "finite input must not give NaN in the lse")
            wrong = out[~np.isfinite(out)]
            require(not wrong.size, f"finite input must give finite output, got {wrong[:1]}")


def empty_input_gives_empty_output(part: Part) -> None:
    """No queries, no keys, no batch entries."""
    shape = part.middle()
    tried = {}
    if part.lq is None:
        tried["no queries"] = shape._replace(lq=0)
    if part.lk is None:
        tried["no keys"] = shape._replace(lk=0)
    if part.batch is None:
        tried["a batch of 0"] = shape._replace(lead=(0,))
    if not tried:
        raise NotApplicable("it is for one shape only")
    width = part.oracle(part.arrays(shape)).shape[-1]
    for name, empty in tried.items():
        with case(name, shape=tuple(empty)):
            out = part.call(_resized(part, shape, empty))
            wanted = (*empty.lead, empty.heads, empty.lq)
            require(out.shape[:-1] == wanted, f"the output must have shape {(*wanted, width)}, got {out.shape}")
            require(not out.any(), "a row without keys must be zeros")


def _resized(part: Part, shape: Shape, empty: Shape) -> list[np.ndarray]:
    """Cut arrays down: what draws them needs not know of sizes of 0."""
    q, k, v = part.arrays(shape)
    q, k, v = q[..., : empty.lq, :], k[..., : empty.lk, :], v[..., : empty.lk, :]
    if empty.lead != shape.lead:
        q, k, v = (np.empty((*empty.lead, *array.shape[-3:]), array.dtype) for array in (q, k, v))
    return [q, k, v]


def wrong_shapes_are_refused(part: Part) -> None:
    """Arrays that do not fit each other."""
    q, k, v = part.arrays(part.middle())
    wrong = {
        "keys of another width": (q, np.concatenate([k, k], -1), v),
        "a value too few": (q, k, v[..., :-1, :]),
        "an axis too many": (q, k[None], v),
        "values of no head": (q, k, v[..., :0, :, :]),
    }
    for name, arrays in wrong.items():
        with case(name, q=arrays[0], k=arrays[1], v=arrays[2]):
            expect_error(DimensionMismatchError, name, part.call, arrays)


def expect_error(
    kind: type[Exception] | tuple[type[Exception], ...], what: str, function: Callable[..., Any], *args: Any, **options: Any
) -> str:
    """Require that a call raises an error of a kind with a message; return that."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = " or ".join(k.__name__ for k in kinds)
    try:
        function(*args, **options)
    except kinds as error:
        require(str(error).strip(), f"{what} must raise {names} with a message")
        return str(error)
    except Exception as error:
        raise CheckFailure(f"{what} must raise {names}, raised {type(error).__name__}: {error}") from error
    raise CheckFailure(f"{what} must raise {names}, and raised nothing")
