"""What tests of the backward pass over edges share: graphs, options, and the comparison with the oracle and with differences."""

from __future__ import annotations

import contextlib

import numpy as np
from agreement import assert_close, compute_dtype, epsilon, make, oracle_dtype, use_build

import ruvattn
from ruvattn import edge_attention, edge_attention_backward, edges, edges_backward, reference

INF = np.inf
QKV = ("q", "k", "v")


@contextlib.contextmanager
def use(name):
    """Compute forwards and backwards with another build."""
    with use_build(edges._kernels, name), use_build(edges_backward._kernels, name):
        yield


def structure(seed, degrees, lk):
    """CSR arrays of rows with these numbers of edges, to any keys in any order, some of them twice."""
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    return indptr, np.random.default_rng(seed).integers(0, lk, indptr[-1])


def random_degrees(seed, lq, mean=6):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(lq) < 0.3, 0, rng.geometric(1 / mean, lq))


def names_of(options):
    """What a call has gradients of."""
    score = options.get("score")
    names = [*QKV, *(name for name in ("bias", "edge_terms", "edge_attr", "sinks") if options.get(name) is not None)]
    params = ruvattn.Dot().params if score is None else score.params
    return (*names, *(f"score.{name}" for name in params), *(f"aggregate.{name}" for name in getattr(options.get("aggregate"), "params", {})))


def upstream(found, seed):
    """Gradients of what a call returned, of the same dtypes."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(x.shape).astype(x.dtype) for x in found]


def norm(x):
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(np.where(np.isfinite(x), x, 0).astype(float), axis=-1).max(initial=0.0))


def bounds(dout, dlse, dweights, q, k, v, indices, options):
    """How far a gradient may be from the oracle's: what an error of a logit does to the largest sum of absolute values that there can be."""
    attr = options.get("edge_attr")
    more = 0.0 if attr is None else norm(attr)
    keys, values = norm(k) + more, norm(v) + more
    scale = options.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else float(np.abs(scale).max())
    slope = 1.0 if options.get("score") is not None else scale
    reach = 4 + slope * norm(q) * keys
    for name in ("bias", "sinks", "edge_terms"):
        if options.get(name) is not None:
            term = np.asarray(options[name]).astype(float)
            reach += float(np.abs(term[np.isfinite(term)]).max(initial=0.0))
    each = (norm(dout) * values + float(np.abs(dweights).max(initial=0))) / (1 - options.get("dropout", 0.0)) + float(np.abs(dlse).max(initial=0))
    heads, lq = q.shape[-3:-1] if q.ndim > 2 else (1, q.shape[-2])
    rows = float(np.prod(q.shape[:-2]) * lq)  # Σ of the weights over all rows
    seen = float(np.sqrt(np.bincount(np.asarray(indices, int), minlength=1).max(initial=1)) * heads)
    everything = np.sqrt(rows) * 2 * each
    found = {
        "q": 2 * each * slope * keys, "k": seen * 2 * each * slope * norm(q), "v": seen * norm(dout) / (1 - options.get("dropout", 0.0)),
        "bias": everything, "edge_terms": everything * reach, "sinks": everything,
        "edge_attr": np.sqrt(rows) * (2 * each * slope * norm(q) + norm(dout)),
    }  # fmt: skip
    return lambda name: 16 * reach * found.get(name, everything * (1 + norm(q)) * (1 + keys))


_expected: dict = {}


def both(q, k, v, indptr, indices, oracle=None, drawn=0, wrt=None, threads=None, aggregate=None, **options):
    """Return gradients by the engine, by the oracle, and how far they may be apart."""
    if aggregate is not None:
        options["aggregate"] = aggregate
    out, lse, weights = edge_attention(q, k, v, indptr, indices, return_lse=True, return_weights=True, **options)
    dout, dlse, dweights = upstream((out, lse, weights), drawn)
    names = names_of(options) if wrt is None else wrt
    found = edge_attention_backward(
        dout, q, k, v, indptr, indices, out, lse, dlse=dlse, dweights=dweights, wrt=names, threads=threads, **options
    )
    slow = {**options, "score": oracle} if oracle is not None else options
    arrays = (dout, q, k, v, indptr, indices, dlse, dweights)
    given = [(name, x.tobytes(), x.shape) if isinstance(x, np.ndarray) else (name, repr(x)) for name, x in slow.items()]
    key = (*(hash(x.tobytes()) for x in arrays), str([x.shape for x in arrays]), str(q.dtype), hash(tuple(given)))
    if key not in _expected:  # each build asks for the same
        with np.errstate(all="ignore"):
            _expected[key] = reference.edge_attention_backward(
                *arrays[:6], dlse=dlse, dweights=dweights, precision=oracle_dtype(q.dtype), **slow
            )
    return found, _expected[key], bounds(dout, dlse, dweights, q, k, v, indices, options)


def assert_gradients_agree(q, k, v, indptr, indices, **options):
    """Gradients agree with the oracle's; returns them."""
    found, expected, bound = both(q, k, v, indptr, indices, **options)
    half = epsilon(q.dtype) if q.dtype.itemsize == 2 else 0.0
    for name, gradient in found.items():
        assert gradient.dtype == (q.dtype if name in QKV else compute_dtype(q.dtype)), name
        assert gradient.shape == np.shape({"q": q, "k": k, "v": v}.get(name, expected[name])), name
        # with 16 bits, the output that comes in is rounded, too
        atol = (epsilon(compute_dtype(q.dtype)) + half) * bound(name)
        try:
            assert_close(gradient, np.asarray(expected[name]), atol)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    return found


def derivative(function, x, direction, step=1e-5):
    """The derivative along a direction, from four values."""
    near = function(x + step * direction) - function(x - step * direction)
    far = function(x + 2 * step * direction) - function(x - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def assert_matches_differences(q, k, v, shape, params=None, **options):
    """The oracle and the engine agree with differences along random directions; ``params`` makes the score or aggregate anew."""
    rng = np.random.default_rng(0)
    out, lse, weights = edge_attention(q, k, v, *shape, return_lse=True, return_weights=True, **options)
    given = dout, dlse, dweights = upstream((out, lse, weights), 1)
    kept = np.isfinite(lse)

    def loss(arrays, changed):
        found = edge_attention(*arrays, *shape, return_lse=True, return_weights=True, **{**options, **changed})
        return sum(float((a[kept] * b[kept] if a.shape == lse.shape else a * b).sum()) for a, b in zip(found, given, strict=True))

    names = names_of(options)
    gradients = edge_attention_backward(dout, q, k, v, *shape, out, lse, dlse=dlse, dweights=dweights, wrt=names, **options)
    slow = reference.edge_attention_backward(dout, q, k, v, *shape, dlse=dlse, dweights=dweights, **options)
    for name in names:
        kind, _, parameter = name.partition(".")
        if parameter and kind not in (params or {}):
            continue
        if parameter:
            make_part, values = params[kind]
            x = np.asarray(values[parameter], float)

            def value(y, kind=kind, make_part=make_part, values=values, parameter=parameter):
                return loss((q, k, v), {kind: make_part(**{**values, parameter: y})})
        elif name in QKV:
            x = (q, k, v)[QKV.index(name)]

            def value(y, name=name):
                return loss([y if other == name else array for other, array in zip(QKV, (q, k, v), strict=True)], {})
        else:
            x = np.asarray(options[name])

            def value(y, name=name):
                return loss((q, k, v), {name: y})

        direction = np.where(np.isfinite(x), rng.standard_normal(x.shape), 0)
        with np.errstate(invalid="ignore"):
            expected = derivative(value, x, direction)
        for who, found in (("engine", gradients), ("oracle", slow)):
            actual = float((np.asarray(found[name]).astype(float) * direction).sum())
            assert abs(actual - expected) <= 1e-6 * max(1.0, abs(expected)), (who, name, actual, expected)


def bias_of(rng, shape, dtype, share_of_inf=0.0):
    bias = rng.standard_normal(shape)
    bias[rng.random(shape) < share_of_inf] = -INF
    return bias.astype(dtype)


# name -> options for a generator, the leading axes, the numbers of heads and edges, and the dtype
OPTIONS = {
    "nothing": lambda rng, lead, h, e, dtype: {},
    "scale": lambda rng, lead, h, e, dtype: {"scale": 0.3},
    "scale of each head, one 0": lambda rng, lead, h, e, dtype: {"scale": np.where(np.arange(h) == 1, 0, rng.uniform(-1, 1, h))},
    "softcap": lambda rng, lead, h, e, dtype: {"softcap": 0.7},
    "bias": lambda rng, lead, h, e, dtype: {"bias": bias_of(rng, (*lead, h, e), dtype, 0.2)},
    "bias of edges": lambda rng, lead, h, e, dtype: {"bias": bias_of(rng, e, dtype, 0.2)},
    "bias of heads": lambda rng, lead, h, e, dtype: {"bias": bias_of(rng, (h, 1), dtype)},
    "bias in odd strides": lambda rng, lead, h, e, dtype: {"bias": bias_of(rng, (2 * e, h), dtype, 0.2)[::-2].T},
    "everything masked": lambda rng, lead, h, e, dtype: {"bias": np.full(e, -INF, dtype)},
    "sinks": lambda rng, lead, h, e, dtype: {"sinks": np.where(np.arange(h) % 2, rng.standard_normal(h) * 3, -INF)},
    "dropout": lambda rng, lead, h, e, dtype: {"dropout": 0.3, "seed": 2**64 - 5},
    "attributes": lambda rng, lead, h, e, dtype: {"edge_attr": rng.standard_normal((e, 3)).astype(dtype)},
    "attributes of keys": lambda rng, lead, h, e, dtype: {"edge_attr": rng.standard_normal((e, 9)).astype(dtype), "edge_attr_to": "key"},
    "attributes of values": lambda rng, lead, h, e, dtype: {"edge_attr": rng.standard_normal((e, 9)).astype(dtype), "edge_attr_to": "value"},
    "wide attributes": lambda rng, lead, h, e, dtype: {"edge_attr": rng.standard_normal((e, 40)).astype(dtype)[:, ::2]},
    "all of it": lambda rng, lead, h, e, dtype: {
        "scale": 0.4, "softcap": 2.0, "bias": bias_of(rng, (h, e), dtype, 0.3), "sinks": rng.standard_normal(h), "dropout": 0.2, "seed": 3,
        "edge_attr": rng.standard_normal((e, 5)).astype(dtype),
    },
}  # fmt: skip


def widened(seed, rows, lk, d, dv, lead, hq, hk, dtype, options):
    """Arrays whose queries have room for the attributes."""
    attr = options.get("edge_attr")
    q, k, v = make(seed, rows, lk, d, dv, lead=lead, hq=hq, hk=hk, dtype=dtype)
    if attr is not None and options.get("edge_attr_to") != "value":
        more = np.random.default_rng(seed).standard_normal((*q.shape[:-1], attr.shape[1])).astype(dtype)
        q = np.concatenate([q, more], axis=-1)
    return q, k, v


SMALL = structure(1, [3, 0, 5, 1, 7], 6)


def beside(x):
    """Heads beside each other in memory, as a projection leaves them."""
    return x.swapaxes(-3, -2).copy().swapaxes(-3, -2)
