"""Aggregates: what is summed, what becomes of the sum, and the nonlinear ones that get the weights of whole rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from agreement import DTYPES, FLOATS, assert_close, compute_dtype, make, oracle_dtype, same_bits

import ruvattn
from ruvattn import Aggregate, WeightedSum, attention, reference, running
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError


class Midpoint(Aggregate):
    """The Einstein midpoint Σ pγv / Σ pγ: one more column before the sum, one less after."""

    def values(self, v):
        gamma = 1 / np.sqrt(1 - np.clip((v**2).sum(-1, keepdims=True), 0, 0.9))
        return np.concatenate([gamma * v, gamma], -1)

    def finish(self, acc):
        return acc[..., :-1] / acc[..., -1:]


class Norm(Aggregate):
    """The length of the sum: only `finish`."""

    def finish(self, acc):
        return np.linalg.norm(acc, axis=-1, keepdims=True)


class Squares(Aggregate):
    """The sum of squares: only `values`."""

    def values(self, v):
        return v**2


class ThreeTimes(Aggregate):
    """More columns than came."""

    def values(self, v):
        return np.concatenate([v, 2 * v, 3 * v], -1)


class Offset(Aggregate):
    """A finish that makes something of a sum of zero."""

    def finish(self, acc):
        return acc + 1


class Median(Aggregate):
    """The weighted median of each column: not linear."""

    linear = False

    def reduce(self, weights, v):
        out = np.empty((len(weights), v.shape[-1]), v.dtype)
        for c in range(v.shape[-1]):
            order = np.argsort(v[:, c])
            share = np.cumsum(weights[:, order], -1)
            out[:, c] = v[order, c][np.argmax(share >= share[:, -1:] / 2, -1)]
        return out


class Largest(Aggregate):
    """The two largest weights: another width, and no values."""

    linear = False

    def reduce(self, weights, v):
        return np.sort(weights, -1)[:, -2:]


class Spread(Aggregate):
    """Σ w (v − mean)²: smooth and nonlinear."""

    linear = False

    def reduce(self, weights, v):
        total = weights.sum(-1, keepdims=True)
        mean = weights @ v / np.where(total > 0, total, 1)
        return weights @ v**2 - total * mean**2


LINEAR = {"midpoint": Midpoint, "norm": Norm, "squares": Squares, "three times": ThreeTimes, "offset": Offset, "sum": WeightedSum}
NONLINEAR = {"largest": Largest, "spread": Spread}

OPTIONS = {
    "nothing": {},
    "causal, with empty rows": {"causal": True, "query_offset": -3},
    "mask": {"mask": np.random.default_rng(0).random((1, 30, 40)) < 0.1},
    "sparse": {"mask": scipy.sparse.random_array((30, 40), density=0.05, rng=np.random.default_rng(0))},
    "dropout": {"dropout": 0.3, "seed": 1},
    "sinks": {"sinks": np.array([0.0, -np.inf, 2.0, 1.0])},
    "sinks and empty rows": {"sinks": np.array([0.0, -np.inf, 2.0, 1.0]), "key_lengths": np.array([0, 25])},
    "nothing to see": {"key_lengths": 0},
}


def _check(aggregate, dtype, **options):
    q, k, v = make(1, 30, 40, 6, 5, lead=(2,), hq=4, hk=2, dtype=dtype)
    v = (v * 0.4).astype(dtype)
    out, lse = attention(q, k, v, aggregate=aggregate(), return_lse=True, **options)
    expected, expected_lse = reference.attention(q, k, v, aggregate=aggregate(), return_lse=True, precision=oracle_dtype(dtype), **options)
    assert out.dtype == dtype
    unit = float(np.finfo(compute_dtype(dtype)).eps)
    assert_close(out, expected, 200 * unit + (2.0**-7 * float(np.abs(expected).max(initial=0)) if np.dtype(dtype).itemsize == 2 else 0))
    assert_close(lse, expected_lse, 100 * unit)
    return out


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", LINEAR | NONLINEAR)
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_aggregate_agrees_with_the_oracle(dtype, name, option):
    _check((LINEAR | NONLINEAR)[name], dtype, **OPTIONS[option])


@pytest.mark.parametrize("name", LINEAR | NONLINEAR)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_aggregates_of_half_precision_compute_in_float32(dtype, name):
    _check((LINEAR | NONLINEAR)[name], DTYPES[dtype], causal=True)


@pytest.mark.parametrize("name", ["midpoint", "spread"])
def test_an_aggregate_goes_with_any_score(name):
    class Manhattan(ruvattn.Score):
        splits, vectors = (), True

        def logits(self, t):
            return -np.abs(t.q[:, None] - t.k[None]).sum(-1)

    _check((LINEAR | NONLINEAR)[name], np.float32, score=Manhattan(), causal=True)


class Powers(Aggregate):
    """Σ p·vᵃ with an exponent for each head of the values."""

    def __init__(self, exponents):
        self.exponents = np.asarray(exponents)

    def for_head(self, head):
        return type(self)(self.exponents[head]) if self.exponents.ndim else self

    def values(self, v):
        return np.abs(v) ** self.exponents[..., None, None].astype(v.dtype)


class PowerMeans(Powers):
    """The same root of it, of whole rows."""

    linear = False

    def reduce(self, weights, v):
        assert self.exponents.ndim == 0
        return (weights @ np.abs(v) ** self.exponents) ** (1 / self.exponents)


@pytest.mark.parametrize("kind", [Powers, PowerMeans])
@pytest.mark.parametrize("options", [{}, {"causal": True, "query_offset": -3}, {"sinks": np.zeros(4)}], ids=["plain", "causal", "sinks"])
def test_parameters_of_heads_are_those_of_the_head_of_the_values(kind, options):
    q, k, v = make(1, 30, 40, 6, 5, lead=(2,), hq=4, hk=2)
    aggregate = kind([1.0, 3.0])
    out = attention(q, k, v, aggregate=aggregate, **options)
    assert_close(out, reference.attention(q, k, v, aggregate=aggregate, **options), 1e-5)
    for head in range(4):
        own = {**options, "sinks": options["sinks"][:1]} if "sinks" in options else options
        one = slice(head // 2, head // 2 + 1)
        alone = attention(q[:, head : head + 1], k[:, one], v[:, one], aggregate=kind([1.0, 3.0][head // 2]), **own)
        assert_close(out[:, head : head + 1], alone, 1e-6)


@pytest.mark.parametrize("kind", [Powers, PowerMeans])
@pytest.mark.parametrize("attributes", [0, 2])
def test_parameters_of_heads_hold_for_edges(kind, attributes):
    rng = np.random.default_rng(0)
    q, k, v = make(2, 30, 40, 6 + attributes, 5, lead=(2,), hq=4, hk=2)
    k = k[..., :6]
    indptr = np.arange(0, 91, 3)
    indices = rng.integers(0, 40, 90)
    options = {"edge_attr": rng.random((90, attributes), dtype=np.float32)} if attributes else {}
    out = ruvattn.edge_attention(q, k, v, indptr, indices, aggregate=kind([1.0, 3.0]), **options)
    assert_close(out, reference.edge_attention(q, k, v, indptr, indices, aggregate=kind([1.0, 3.0]), **options), 1e-5)
    alike = reference.edge_attention(q, k, v, indptr, indices, aggregate=kind([1.0, 1.0]), **options)
    assert not np.allclose(out[:, 2:], alike[:, 2:])  # the test would see it if all heads were taken as the first


def test_for_head_is_the_aggregate_itself_by_default():
    aggregate = Midpoint()
    assert aggregate.for_head(3) is aggregate


def test_a_weighted_median_is_what_it_says():
    v = np.array([[1.0], [2.0], [3.0], [10.0]])
    logits = np.log([[1, 1, 1, 1], [1, 1, 1, 9.0], [9, 1, 1, 1]])
    out = attention(np.zeros((3, 1)), np.zeros((4, 1)), v, bias=logits, aggregate=Median())
    assert np.array_equal(out[:, 0], [2, 10, 1])


@pytest.mark.parametrize("aggregate", [Offset, Norm, Midpoint, Largest])
@pytest.mark.parametrize("options", [{}, {"sinks": [1.0, -np.inf]}], ids=["plain", "sinks"])
def test_empty_rows_skip_the_finish_and_are_zeros(aggregate, options):
    q, k, v = make(2, 30, 40, 6, 5, hq=2, hk=2)
    out, lse = attention(q, k, v * 0.4, aggregate=aggregate(), causal=True, query_offset=-7, return_lse=True, **options)
    assert not out[:, :7].any()
    assert out[:, 7:].any(-1).all()  # the others are not
    sinks = np.array(options.get("sinks", [-np.inf] * 2), np.float32)
    assert_close(lse[:, :7], np.broadcast_to(sinks[:, None], (2, 7)), 1e-6)


def test_rows_whose_weights_are_all_dropped_are_not_empty():
    q, k, v = make(3, 200, 2, 6, 5)
    # Of two keys both are dropped in every fourth row: the sum is zero, and finish is asked about it.
    out = attention(q, k, v, aggregate=Offset(), dropout=0.5, seed=1)
    dropped = ~(attention_kept(200, 2) > 0).any(-1)
    assert dropped.any()
    assert (out[0, dropped] == 1).all()
    seen = []

    class Counts(Aggregate):
        linear = False

        def reduce(self, weights, v):
            seen.append(len(weights))
            return weights

    attention(q, k, v, aggregate=Counts(), dropout=0.5, seed=1)
    assert sum(seen) == 200


def attention_kept(lq, lk):
    return reference.attention_weights(np.zeros((lq, 1)), np.zeros((lk, 1)), dropout=0.5, seed=1)


def test_finish_gets_rows_whose_weights_sum_to_one():
    class Sums(Aggregate):
        def values(self, v):
            return np.ones_like(v[..., :1])

    q, k, v = make(4, 30, 40)
    assert_close(attention(q, k, v, aggregate=Sums()), np.ones((1, 30, 1)), 1e-6)


def test_a_nonlinear_aggregate_gets_whole_rows_of_one_head_and_its_values():
    seen = []

    class Looks(Aggregate):
        linear = False

        def reduce(self, weights, v):
            seen.append((weights.copy(), v.copy()))
            return v[:1].repeat(len(weights), 0)

    q, k, v = make(5, 30, 40, lead=(2,), hq=4, hk=2)
    out = attention(q, k, v, aggregate=Looks())
    assert_close(np.stack([weights for weights, _ in seen]).reshape(2, 4, 30, 40), ruvattn.attention_weights(q, k), 0)
    assert np.array_equal(np.stack([values for _, values in seen]).reshape(2, 4, 40, 8), np.repeat(v, 2, 1))
    assert np.array_equal(out, np.repeat(v[..., :1, :], 2, 1).repeat(30, -2))


@pytest.mark.parametrize("option", ["nothing", "causal, with empty rows", "mask", "sparse", "dropout", "sinks and empty rows"])
def test_a_nonlinear_aggregate_in_portions_of_rows_is_the_same(option, monkeypatch):
    whole = _check(Spread, np.float32, **OPTIONS[option])
    for limit in (1, 2 * 4 * 40 * 7):
        monkeypatch.setattr(running, "REDUCED", limit)
        assert_close(_check(Spread, np.float32, **OPTIONS[option]), whole, 1e-5)


def test_portions_of_rows_keep_their_positions_for_scores_and_patterns(monkeypatch):
    class Alibi(ruvattn.Score):
        def row_terms(self, q, pos):
            return (np.asarray(pos, q.dtype),)

        def col_terms(self, k, pos):
            return (np.asarray(pos, k.dtype),)

        def logits(self, t):
            return t.dots[0] - 0.3 * np.abs(t.rows[0] - t.cols[0])

    class Stripes(ruvattn.Pattern):
        def allowed(self, i, j, *, head=0, batch=0):
            return (i - j) % 3 == 0

    monkeypatch.setattr(running, "REDUCED", 2 * 4 * 40 * 7)
    bias = np.random.default_rng(0).standard_normal((30, 40)).astype(np.float32)
    for options in ({"score": Alibi()}, {"mask": Stripes()}, {"bias": bias}, {"window": (3, 2)}):
        _check(Spread, np.float32, query_offset=np.array([4, -2]), **options)


@pytest.mark.parametrize("name", LINEAR | NONLINEAR)
def test_out_takes_the_width_of_the_aggregate(name):
    q, k, v = make(6, 30, 40, 6, 5, hq=2, hk=2)
    v = v * 0.4
    expected = attention(q, k, v, aggregate=(LINEAR | NONLINEAR)[name]())
    out = np.empty_like(expected)
    assert attention(q, k, v, aggregate=(LINEAR | NONLINEAR)[name](), out=out) is out
    assert same_bits(out, expected)
    with pytest.raises(DimensionMismatchError, match="out"):
        attention(q, k, v, aggregate=(LINEAR | NONLINEAR)[name](), out=np.empty((2, 30, 77), np.float32))


@pytest.mark.parametrize("lead", [(), (0,), (2, 3)])
@pytest.mark.parametrize(("lq", "lk"), [(0, 4), (3, 0), (3, 4)])
@pytest.mark.parametrize("name", ["midpoint", "spread"])
def test_aggregates_of_nothing(name, lq, lk, lead):
    q, k, v = make(7, lq, lk, 6, 5, lead=lead, hq=2, hk=1)
    out = attention(q, k, v * np.float32(0.4), aggregate=(LINEAR | NONLINEAR)[name]())
    assert out.shape == (*lead, 2, lq, 5)
    assert lk or not out.any()


def test_inputs_are_not_written():
    class Greedy(Aggregate):
        def values(self, v):
            v[...] = 0
            return v

    q, k, v = make(8, 30, 40)
    v.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        attention(q, k, v, aggregate=Greedy())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"values": lambda v: v[..., :-1, :]}, DimensionMismatchError, "values"),
        ({"values": lambda v: v[..., :0]}, DimensionMismatchError, "values"),
        ({"values": lambda v: None}, DimensionMismatchError, "values"),
        ({"finish": lambda acc: acc[:-1]}, DimensionMismatchError, "finish"),
        ({"finish": lambda acc: acc.sum()}, DimensionMismatchError, "finish"),
        ({"finish": lambda acc: acc * 1j}, InvalidInputError, "finish"),
        ({"linear": False}, UnsupportedError, "reduce"),
        ({"linear": False, "reduce": lambda weights, v: v}, DimensionMismatchError, "reduce"),
        ({"linear": False, "reduce": lambda weights, v: weights[:, 0]}, DimensionMismatchError, "reduce"),
    ],
)
def test_an_aggregate_that_breaks_the_contract_is_told_so(changes, error, words):
    aggregate = Aggregate()
    for name, value in changes.items():
        setattr(aggregate, name, value)
    with pytest.raises(error, match=words):
        attention(*make(9, 30, 40), aggregate=aggregate)


def test_what_an_aggregate_raises_comes_out_as_it_is():
    class Raises(Aggregate):
        def finish(self, acc):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attention(*make(10, 30, 40), aggregate=Raises())


def test_gradients_of_the_weighted_sum_are_the_identity_and_missing_ones_are_named():
    x = np.ones((3, 4))
    assert Aggregate().values_vjp(x, x) is x
    assert Aggregate().finish_vjp(x, x) is x
    for aggregate, name, count in [(Midpoint(), "values_vjp", 2), (Midpoint(), "finish_vjp", 2), (Spread(), "reduce_vjp", 4)]:
        with pytest.raises(UnsupportedError, match=name):
            getattr(aggregate, name)(*[x] * count)


def test_weighted_sums_are_equal_and_say_what_they_are():
    assert WeightedSum() == WeightedSum()
    assert hash(WeightedSum()) == hash(WeightedSum())
    assert WeightedSum() != Midpoint()
    assert repr(WeightedSum()) == "WeightedSum()"


def test_a_row_whose_values_are_zero_is_not_empty():
    class PlusOne(Aggregate):
        def finish(self, acc):
            return acc + 1

    q = np.ones((1, 3, 4), np.float32)
    options = {"aggregate": PlusOne(), "sinks": [200.0], "key_lengths": 2}
    out, lse = ruvattn.attention(q, q, np.zeros_like(q), return_lse=True, **options)
    assert (out == 1).all()
    assert (lse == 200).all()
    out, lse = ruvattn.attention(q, q, q, return_lse=True, **{**options, "key_lengths": 0})
    assert (out == 0).all()
    assert (lse == 200).all()
