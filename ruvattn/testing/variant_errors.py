"""The checks of what variants refuse, and of the largest and smallest numbers that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import (
    AttentionError,
    DimensionMismatchError,
    InputTooLargeError,
    InvalidInputError,
    UnsupportedError,
)
from .cases import (
    case,
    require,
)
from .layers import Arrays, Factory, _arrays, _described, _make, _sizes
from .parts import expect_error
from .runner import CheckList, NotApplicable

CHECKS = CheckList("variant")


@CHECKS
def wrong_shapes_are_refused(factory: Factory) -> None:
    """Arrays that fit neither the variant nor each other raise DimensionMismatchError."""
    layer = _make(factory)
    q, k, v = _arrays(layer, (2,), 3, 4)
    wide = lambda x: np.concatenate([x, x[..., :1]], -1)  # noqa: E731
    calls: dict[str, Callable[[], Any]] = {
        "queries that are too wide": lambda: layer(wide(q), k, v),
        "keys that are too wide": lambda: layer(q, wide(k), v),
        "a value too few": lambda: layer(q, k, v[..., :-1, :]),
        "a batch of another size": lambda: layer(q, k[:1], v[:1]),
        "an axis too few": lambda: layer(q[0, 0], k[0], v[0]),
        "forward with several queries": lambda: layer.forward(q[0], k[0], v[0]),
        "forward with a batch of keys": lambda: layer.forward(q[0, 0], k, v),
        "forward with a query that is too wide": lambda: layer.forward(wide(q[0, 0]), k[0], v[0]),
        "forward with a value too few": lambda: layer.forward(q[0, 0], k[0], v[0, :-1]),
        "forward_batch with one query": lambda: layer.forward_batch(q[0, 0], k[0], v[0]),
        "forward_batch with a value too many": lambda: layer.forward_batch(q[0], k[0, :-1], v[0]),
    }
    for name, call in calls.items():
        with case(**_described(layer, (q, k, v))):
            expect_error(DimensionMismatchError, name, call)


@CHECKS
def wrong_dtypes_are_refused(factory: Factory) -> None:
    """Integers, complex numbers, objects and a mix of dtypes raise UnsupportedError or InvalidInputError."""
    layer = _make(factory)
    q, k, v = _arrays(layer, (), 3, 4)
    for dtype in (np.int64, np.complex64, object, bool):
        with case(dtype=np.dtype(dtype).name):
            expect_error((UnsupportedError, InvalidInputError), "arrays of that dtype", layer, *(x.astype(dtype) for x in (q, k, v)))
    expect_error((UnsupportedError, InvalidInputError), "keys of another dtype than the queries", layer, q, k.astype(np.float64), v)
    expect_error((UnsupportedError, InvalidInputError), "text instead of an array", layer, "queries", k, v)


@CHECKS
def not_finite_input_is_refused(factory: Factory) -> None:
    """NaN and infinity raise InvalidInputError, which names the array."""
    layer = _make(factory)
    arrays = _arrays(layer, (), 3, 4)
    calls: dict[str, tuple[Callable[..., Any], Any]] = {"call": (layer, "qkv"), "forward_batch": (layer.forward_batch, ("quer", "key", "value"))}
    for how, (function, names) in calls.items():
        for at, name in enumerate(names):
            for value in (np.nan, np.inf, -np.inf):
                wrong = [array.copy() for array in arrays]
                wrong[at][-1, -1] = value
                with case(how, **_described(layer, arrays)):
                    message = expect_error(InvalidInputError, f"{value} in {name}", function, *wrong)
                    require(name in message, f"the error of {value} in {name} must name the array, got {message!r}")


@CHECKS
def empty_input_is_refused(factory: Factory) -> None:
    """No queries, no keys, or an empty batch raise InvalidInputError."""
    layer = _make(factory)
    q, k, v = _arrays(layer, (2,), 3, 4)
    calls: dict[str, Callable[[], Any]] = {
        "no queries": lambda: layer(q[:, :0], k, v),
        "no keys": lambda: layer(q, k[:, :0], v[:, :0]),
        "an empty batch": lambda: layer(q[:0], k[:0], v[:0]),
        "forward without keys": lambda: layer.forward(q[0, 0], k[0, :0], v[0, :0]),
        "forward_batch without queries": lambda: layer.forward_batch(q[0, :0], k[0], v[0]),
    }
    for name, call in calls.items():
        with case(**_described(layer, (q, k, v))):
            expect_error(InvalidInputError, name, call)


@CHECKS
def too_many_keys_are_refused(factory: Factory) -> None:
    """A row that would attend to more keys than the limit raises InputTooLargeError; the limit is 1,000,000 or what max_keys says."""
    layer = _make(factory, _sizes(factory)[0])
    _, context = layer.forward_with_context(*_arrays(layer, (), 2, 3))
    if any(name in getattr(context, "options", {}) for name in ("window", "mask")):
        raise NotApplicable("its rows attend to a part of the keys")
    if "max_keys" in layer.config.options:
        small = _make(factory, _sizes(factory)[0], max_keys=3)
        small(*_arrays(small, (), 2, 3))
        expect_error(InputTooLargeError, "4 keys where max_keys is 3", small, *_arrays(small, (), 2, 4))
    q, k, v = _arrays(layer, (), 1, 1)
    k, v = (np.broadcast_to(array, (1_000_001, array.shape[-1])) for array in (k, v))
    with case(**_described(layer, (q, k, v))):
        message = expect_error(InputTooLargeError, "1,000,001 keys", layer, q, k, v)
        require("1,000,001" in message or "1000001" in message, f"the error must name the number of keys, got {message!r}")


@CHECKS
def wrong_options_are_refused(factory: Factory) -> None:
    """Options that make no sense raise an AttentionError, when it is made and when it is called."""
    embed_dim, num_heads = _sizes(factory)[-1]
    for name, sizes in {
        "embed_dim=0": (0, num_heads),
        "embed_dim=-8": (-8, num_heads),
        "embed_dim=8.5": (8.5, num_heads),
        "num_heads=0": (embed_dim, 0),
        "num_heads='2'": (embed_dim, "2"),
    }.items():
        expect_error(AttentionError, name, factory, embed_dim=sizes[0], num_heads=sizes[1])
    layer = _make(factory)
    arrays = _arrays(layer, (), 3, 4)
    calls: dict[str, dict[str, Any]] = {
        "a mask of numbers": {"mask": np.zeros((3, 4), np.float32)},
        "a mask of another shape": {"mask": np.ones((3, 5), bool)},
        "a bias of another shape": {"bias": np.zeros((3, 5), np.float32)},
        "threads=0": {"threads": 0},
        "dropout=1.5": {"dropout": 1.5},
        "window=3": {"window": 3},
        "softcap=-1": {"softcap": -1.0},
        "key_lengths that are too long": {"key_lengths": 5},
    }
    for name, options in calls.items():
        with case(**options):
            expect_error(AttentionError, name, layer, *arrays, **options)


@CHECKS
def extremes_stay_finite(factory: Factory) -> None:
    """Finite float32 input gives finite output, from subnormal to 1e15."""
    layer = _make(factory)
    q, k, v = _arrays(layer, (2,), 6, 9)
    inputs: dict[str, Arrays] = {"one key many times": (q, k[..., :1, :].repeat(v.shape[-2], -2), v)}
    if not hasattr(layer, "conformance_inputs"):  # points of a domain cannot be scaled
        for factor in (0.0, 1e-42, 1e-20, 1e3, 1e15):
            f = np.float32(factor)
            inputs[f"queries and keys of {factor:g}"] = (q * f, k * f, v)
            inputs[f"queries, keys and values of {factor:g}"] = (q * f, k * f, v * f)
    for name, arrays in inputs.items():
        with case(name, **_described(layer, arrays)):
            out, context = layer.forward_with_context(*arrays)
            require(np.isfinite(out).all(), "finite input must give finite output")
            lse = context.lse
            require(lse is None or not np.isnan(lse).any(), "finite input must not give NaN in the lse")
