"""The checks of variants: the object API, whose arithmetic is compared with the oracle through what a call leaves in its `Context`.

The subject is a factory, ``factory(embed_dim=…, num_heads=…)``. A variant that refuses a mask or an option with UnsupportedError is not asked
about it; one whose context does not hold queries, keys and values is compared through its weights instead.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import reference
from ..aggregates import WeightedSum
from ..errors import (
    DimensionMismatchError,
    UnknownVariantError,
)
from ..headwise import HeadwiseAttention, merge_heads
from ..interfaces import Attention, AttentionConfig
from .cases import (
    another_order,
    case,
    float_dtypes,
    in_threads,
    require,
    require_accurate,
    require_close,
    require_same_bits,
)
from .layers import (
    Arrays,
    Factory,
    _aggregate,
    _arrays,
    _cases,
    _described,
    _has_arithmetic,
    _is_positional,
    _make,
    _parameters,
    _sizes,
    _supported,
    _tolerance,
    _widths,
)
from .parts import THREAD_COUNTS, expect_error, lse_rounding
from .runner import CheckList, NotApplicable

CHECKS = CheckList("variant")

# --- making one -------------------------------------------------------------------------------------------------------


@CHECKS
def can_be_made(factory: Factory) -> None:
    """factory(embed_dim, num_heads) returns a new Attention whose config has both."""
    for size in _sizes(factory):
        with case(embed_dim=size[0], num_heads=size[1]):
            layer = _make(factory, size)
            require(layer is not _make(factory, size), "each call of the factory must return a new instance")
            config = layer.config
            require(isinstance(config, AttentionConfig), f"config must be an AttentionConfig, got {type(config).__name__}")
            found = config.embed_dim, config.num_heads
            require(found == size, f"config must hold embed_dim and num_heads as given, {size}, got {found}")
            require(layer.training is False, f"training must be False at first, got {layer.training!r}")
            require(isinstance(repr(layer), str), "repr must work")


@CHECKS
def config_round_trip(factory: Factory) -> None:
    """config goes through JSON and back, and config.create() makes a variant that does the same."""
    for layer, arrays in _cases(factory):
        config = layer.config
        with case(**_described(layer, arrays)):
            text = config.to_json()
            json.loads(text)
            again = AttentionConfig.from_json(text)
            require(again == config, f"config must survive JSON, got {again} of {config}")
            require(AttentionConfig.from_dict(config.to_dict()) == config, "config must survive to_dict and from_dict")
            try:
                made = again.create()
            except UnknownVariantError:
                raise NotApplicable(f"its attention_type, {config.attention_type!r}, is not registered: only JSON was tried") from None
            require(type(made) is type(layer), f"config.create() must return a {type(layer).__name__}, got {type(made).__name__}")
            require(made.config == config, f"config.create().config must be the same, got {made.config} of {config}")
            require_same_bits(made(*arrays), layer(*arrays), "config.create() must give the same output")


@CHECKS
def pickle_round_trip(factory: Factory) -> None:
    """Pickled or copied, it gives the same, and has forgotten its calls."""
    ways = {"pickled": lambda x: pickle.loads(pickle.dumps(x)), "copied": copy.copy, "deeply copied": copy.deepcopy}
    for layer, arrays in list(_cases(factory))[1:4]:
        expected = layer(*arrays)
        for name, way in ways.items():
            with case(name, **_described(layer, arrays)):
                other = way(layer)
                require(other.get_attention_weights() is None, f"{name}, it must have forgotten its calls")
                require(other.config == layer.config, f"{name}, it must have the same config")
                require_same_bits(other(*arrays), expected, f"{name}, it must give the same")


# --- results ----------------------------------------------------------------------------------------------------------


@CHECKS
def shapes_and_dtypes(factory: Factory) -> None:
    """Outputs are (..., Lq, V') in the dtype of the queries, for float32, float64, float16 and bfloat16; the lse is (..., num_heads, Lq)."""
    width: dict[tuple[int, int], int] = {}
    for dtype in float_dtypes():
        for layer, arrays in _cases(factory, dtype):
            q = arrays[0]
            with case(**_described(layer, arrays)):
                out = layer(*arrays)
                require(isinstance(out, np.ndarray), f"the output must be an array, got {type(out).__name__}")
                require(out.shape[:-1] == q.shape[:-1], f"the output must have shape {q.shape[:-1]} + (V',), got {out.shape}")
                key = (layer.config.embed_dim, layer.config.num_heads)
                wanted = width.setdefault(key, out.shape[-1])
                require(out.shape[-1] == wanted, f"the output must have one width for all shapes and dtypes, {wanted}, got {out.shape[-1]}")
                require(out.dtype == dtype, f"the output must have the dtype of q, {dtype}, got {out.dtype}")
                pair = _supported(layer, *arrays, return_lse=True)
                if pair is None:  # it has none
                    continue
                require(isinstance(pair, tuple) and len(pair) == 2, "return_lse=True must return a pair, or raise UnsupportedError")
                lse = pair[1]
                require(isinstance(lse, np.ndarray), f"the lse must be an array, got {type(lse).__name__}")
                wanted_shape = (*q.shape[:-2], layer.config.num_heads, q.shape[-2])
                require(lse.shape == wanted_shape, f"the lse must have shape {wanted_shape}, got {lse.shape}")


@CHECKS
def agrees_with_oracle(factory: Factory) -> None:
    """What a call makes of its queries, keys and values is what the float64 oracle makes of them, as exactly as naive float32 is."""
    tried = 0
    for dtype in float_dtypes():
        for layer, arrays in _cases(factory, dtype):
            tried += _require_oracle(layer, arrays, {})
    layer = _make(factory)
    for compute in (np.float32, np.float64):
        arrays = _arrays(layer, (2,), 6, 11, compute)
        for options in _option_sets(layer, arrays):
            _require_oracle(layer, arrays, options)
    if not tried:
        raise NotApplicable("its context does not hold queries, keys and values: see weights_give_the_output")


def _option_sets(layer: Attention, arrays: Arrays) -> list[dict[str, Any]]:
    (*lead, lq, _), lk, dtype = arrays[0].shape, arrays[1].shape[-2], arrays[0].dtype
    heads = layer.config.num_heads
    rng = np.random.default_rng(3)
    mask = rng.random((heads, lq, lk)) < 0.6
    mask[:, min(1, lq - 1)] = False
    lengths = np.maximum(lk - np.array([3, 0]), 0)[: lead[0]] if lead else max(lk - 3, 0)
    return [
        {"causal": True},
        {"causal": True, "query_offset": "end"},
        {"window": (2, 1), "query_offset": 1},
        {"mask": mask},
        {"bias": rng.standard_normal((lq, lk)).astype(dtype)},
        {"key_lengths": lengths},
        {"softcap": 2.0},
        {"sinks": np.arange(heads) * 0.5},
        {"dropout": 0.25, "seed": 5},
    ]


def _require_oracle(layer: Attention, arrays: Arrays, options: dict[str, Any]) -> bool:
    with case(**_described(layer, arrays), **options):
        answer = _supported(layer.forward_with_context, *arrays, **options)
        if answer is None:
            require(options, "a call without options must be supported")
            return False
        out, context = answer
        if not _has_arithmetic(context):
            return False
        for name in options:
            if name not in ("query_offset", "seed"):
                require(name in context.options, f"the context must hold the option {name} of the call")
        given = (context.q, context.k, context.v)
        expected, expected_lse = reference.attention(*given, return_lse=True, **context.options)
        naive, naive_lse = reference.attention(*given, precision=np.float32, return_lse=True, **context.options)
        samples = context.lse.size
        require_accurate(context.out, expected, naive, "attention must agree with the oracle", samples=samples)
        floor = lse_rounding(expected_lse, arrays[1].shape[-2], context.lse.dtype)
        require_accurate(context.lse, expected_lse, naive_lse, "the lse must agree with the oracle", samples=samples, floor=floor)
        plain = all(getattr(type(layer), name, None) is getattr(HeadwiseAttention, name) for name in ("project_output", "complete"))
        if plain:
            require_same_bits(out, merge_heads(context.out).astype(out.dtype), "the output must be the heads beside each other")
        return True


@CHECKS
def forward_batch_equals_forward(factory: Factory) -> None:
    """Row b of forward_batch is what forward gives for query b."""
    for layer, arrays in _cases(factory):
        q, k, v = (array.reshape(-1, *array.shape[-2:])[0] for array in arrays)
        with case(**_described(layer, (q, k, v))):
            many = layer.forward_batch(q, k, v)
            tolerance = _tolerance(layer, (q, k, v))
            for b, query in enumerate(q):
                one = layer.forward(query, k, v)
                require(one.ndim == 1, f"forward must return an array of one axis, got shape {one.shape}")
                require_close(many[b], one, tolerance, f"row {b} of forward_batch must be what forward gives for it")


@CHECKS
def forward_equals_call(factory: Factory) -> None:
    """forward is a call with one query, which stands at the last key where positions enter."""
    for layer, arrays in _cases(factory):
        q, k, v = (array.reshape(-1, *array.shape[-2:])[0] for array in arrays)
        with case(**_described(layer, (q[:1], k, v))):
            options = {"query_offset": "end"} if _is_positional(layer, (q[:1], k, v)) else {}
            expected = _supported(layer, q[:1], k, v, **options)
            if expected is None:
                raise NotApplicable("it takes no query_offset")
            require_close(layer.forward(q[0], k, v), expected[0], _tolerance(layer, (q[:1], k, v)), "forward must give what a call gives")


@CHECKS
def batch_equals_singles(factory: Factory) -> None:
    """An entry of a batch gives what it gives alone."""
    layer = _make(factory)
    arrays = _arrays(layer, (2, 3), 5, 9)
    with case(**_described(layer, arrays)):
        together = layer(*arrays)
    for index in np.ndindex(arrays[0].shape[:-2]):
        q, k, v = (array[index] for array in arrays)
        with case(f"entry {index} of a batch", **_described(layer, arrays)):
            require_close(together[index], layer(q, k, v), _tolerance(layer, (q, k, v)), "an entry of a batch must give what it gives alone")


@CHECKS
def omitted_keys_are_the_queries(factory: Factory) -> None:
    """Without keys, the queries are keys; without values, the keys are values."""
    layer = _make(factory)
    embed_dim, key_dim, value_dim = _widths(layer)
    if not embed_dim == key_dim == value_dim:
        raise NotApplicable("its queries, keys and values have different widths")
    x, other, _ = _arrays(layer, (), 6, 7)
    with case(q=x):
        require_same_bits(layer(x), layer(x, x, x), "variant(x) must be variant(x, x, x)")
        require_same_bits(layer(x, other), layer(x, other, other), "variant(x, y) must be variant(x, y, y)")


@CHECKS
def key_order_is_irrelevant(factory: Factory) -> None:
    """Keys and values in another order give the same, unless positions enter."""
    tried = 0
    for layer, arrays in _cases(factory):
        q, k, v = arrays
        if k.shape[-2] < 2 or _is_positional(layer, arrays):
            continue
        tried += 1
        order = another_order(k.shape[-2])
        with case(order=order, **_described(layer, arrays)):
            moved = layer(q, k[..., order, :], v[..., order, :])
            require_close(moved, layer(*arrays), _tolerance(layer, arrays), "keys in another order must give the same output")
    if not tried:
        raise NotApplicable("positions enter")


@CHECKS
def memory_layout_is_irrelevant(factory: Factory) -> None:
    """Strides, alignment, byte order and write protection of the input change no bit."""
    for layer, arrays in list(_cases(factory))[2:4]:
        expected = layer(*arrays)
        for name, change in _LAYOUTS.items():
            with case(name, **_described(layer, arrays)):
                found = layer(*(change(array) for array in arrays))
                require_close(found, expected, _tolerance(layer, arrays), "the memory layout of the input must not matter")
                require(found.dtype == expected.dtype, f"the output must be of the machine's byte order, {expected.dtype}, got {found.dtype}")


def _unaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": _read_only,
    "columns first": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "negative strides": lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    "every other column": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "unaligned": _unaligned,
    "foreign byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


# --- weights and masks ------------------------------------------------------------------------------------------------


@CHECKS
def weights_are_a_distribution(factory: Factory) -> None:
    """get_attention_weights is (..., num_heads, Lq, Lk), not negative, and rows sum to 1, or to 0 where there is no key."""
    for layer, arrays in _cases(factory):
        q, k, _ = arrays
        with case(**_described(layer, arrays)):
            _, context = layer.forward_with_context(*arrays)
            weights = layer.get_attention_weights(context)
            if weights is None:
                raise NotApplicable("it has no weights to show")
            wanted = (*q.shape[:-2], layer.config.num_heads, q.shape[-2], k.shape[-2])
            require(weights.shape == wanted, f"the weights must have shape {wanted}, got {weights.shape}")
            require(((weights >= 0) & (weights <= 1)).all(), "weights must be from 0 to 1")
            sums = weights.sum(-1, dtype=np.float64)
            rounding = (k.shape[-2] + 1) * float(np.finfo(np.float32).eps)
            require_close(sums, (sums > 0.5).astype(float), rounding, "the weights of a row must sum to 1, or to 0 where there is no key")


@CHECKS
def weights_give_the_output(factory: Factory) -> None:
    """The values, summed by the weights, are what the call made."""
    tried = 0
    for layer, arrays in _cases(factory):
        with case(**_described(layer, arrays)):
            out, context = layer.forward_with_context(*arrays)
            weights = layer.get_attention_weights(context)
            if weights is None:
                raise NotApplicable("it has no weights to show")
            if _has_arithmetic(context):
                if type(_aggregate(context)) is not WeightedSum:
                    raise NotApplicable("its aggregate is no weighted sum")
                v, wanted = context.v, context.out
            elif out.shape[-1] == arrays[2].shape[-1]:
                *lead, lk, width = arrays[2].shape
                heads = layer.config.num_heads
                v = arrays[2].reshape(*lead, lk, heads, width // heads).swapaxes(-3, -2)
                wanted = out.reshape(*out.shape[:-1], heads, -1).swapaxes(-3, -2)
            else:
                continue
            tried += 1
            v = np.repeat(v, weights.shape[-3] // v.shape[-3], -3)
            made = weights.astype(np.float64) @ v.astype(np.float64)
            require_close(wanted, made, 2 * _tolerance(layer, arrays), "values summed by the weights must give the output of the heads")
    if not tried:
        raise NotApplicable("its output has another width than its values, and its context does not hold these")


@CHECKS
def weights_are_of_this_threads_last_call(factory: Factory) -> None:
    """Without a context, get_attention_weights is of this thread's last call, and of none after reset."""
    layer = _make(factory)
    first, second = _arrays(layer, (), 3, 5), _arrays(layer, (), 4, 6, seed=1)
    require(layer.get_attention_weights() is None, "before any call, get_attention_weights() must return None")
    _, context = layer.forward_with_context(*first)
    expected = layer.get_attention_weights(context)
    if expected is None:
        raise NotApplicable("it has no weights to show")
    require_same_bits(layer.get_attention_weights(), expected, "get_attention_weights() must be of the last call")
    layer(*second)
    wanted = (second[0].shape[-2], second[1].shape[-2])
    found = layer.get_attention_weights()
    require(found is not None and found.shape[-2:] == wanted, "get_attention_weights() must be of the last call, not of the one before")
    require_same_bits(layer.get_attention_weights(context), expected, "a context must keep its call when others follow")
    others = in_threads(lambda _: layer.get_attention_weights(), 2)
    require(all(other is None for other in others), "get_attention_weights() must not show the calls of other threads")
    layer.reset()
    require(layer.get_attention_weights() is None, "after reset(), get_attention_weights() must return None")


# --- state and threads ------------------------------------------------------------------------------------------------


@CHECKS
def calls_are_repeatable(factory: Factory) -> None:
    """A call gives the same bits again, whatever was called between, and drops nothing unless in training."""
    for layer, arrays in _cases(factory):
        others = _arrays(layer, (), 2, 3, seed=9)
        with case(**_described(layer, arrays)):
            expected = layer(*arrays)
            layer(*others)
            require_same_bits(layer(*arrays), expected, "a call must give the same again")
            layer.reset()
            require_same_bits(layer(*arrays), expected, "a call must give the same after reset()")


@CHECKS
def dropout_follows_its_seed(factory: Factory) -> None:
    """With dropout, the same seed gives the same bits, and another one other weights."""
    layer = _make(factory)
    arrays = _arrays(layer, (2,), 9, 40)
    with case(**_described(layer, arrays), dropout=0.5):
        first = _supported(layer, *arrays, dropout=0.5, seed=1)
        if first is None:
            raise NotApplicable("it has no dropout")
        require_same_bits(layer(*arrays, dropout=0.5, seed=1), first, "the same seed must drop the same weights")
        require(not np.array_equal(layer(*arrays, dropout=0.5, seed=2), first), "another seed must drop other weights")
        require(not np.array_equal(layer(*arrays), first), "dropout must drop weights")


@CHECKS
def same_bits_for_any_number_of_threads(factory: Factory) -> None:
    """Results are the same to the bit for 1, 2 and 7 threads."""
    layer = _make(factory)
    # Enough work for a team: rows to share out, and few rows over keys that are split.
    for lq, lk, dtype in ((150, 180, np.float32), (150, 180, np.float64), (3, 5000, np.float32)):
        arrays = _arrays(layer, (), lq, lk, dtype)
        expected = layer(*arrays, threads=THREAD_COUNTS[0])
        for threads in THREAD_COUNTS[1:]:
            with case(threads=threads, **_described(layer, arrays)):
                require_same_bits(layer(*arrays, threads=threads), expected, "the output must be the same for any number of threads")


@CHECKS
def parallel_calls_agree(factory: Factory) -> None:
    """Eight threads that share an instance get what they get one after another, weights included."""
    layer = _make(factory)
    inputs = [_arrays(layer, (2,), 5, 9, seed=seed) for seed in range(8)]
    expected = [layer(*arrays) for arrays in inputs]
    weights = [layer.get_attention_weights(layer.forward_with_context(*arrays)[1]) for arrays in inputs]

    def work(i: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        return [(layer(*inputs[i]), layer.get_attention_weights()) for _ in range(4)]

    for i, results in enumerate(in_threads(work)):
        for out, seen in results:
            with case("8 threads call at once", seed=i, **_described(layer, inputs[i])):
                require_same_bits(out, expected[i], "calls in parallel must give what they give one after another")
                if weights[i] is not None:
                    require(seen is not None, "get_attention_weights() must be of this thread's last call, got None")
                    require_same_bits(seen, weights[i], "get_attention_weights() must be of this thread's last call")


@CHECKS
def inputs_are_not_written(factory: Factory) -> None:
    """The caller's arrays and the parameters are not written."""
    for dtype in (np.float32, np.float64):
        for layer, arrays in _cases(factory, dtype):
            before = [array.copy() for array in arrays]
            parameters = _parameters(layer)
            kept = {name: array.copy() for name, array in parameters.items()}
            q, k, v = (array.reshape(-1, *array.shape[-2:])[0] for array in arrays)
            with case(**_described(layer, arrays)):
                layer(*arrays)
                layer.forward(q[0], k, v)
                layer.forward_batch(q, k, v)
                for name, after, was in zip("qkv", arrays, before, strict=True):
                    require_same_bits(after, was, f"{name} must not be written")
                for name, was in kept.items():
                    require_same_bits(parameters[name], was, f"the parameter {name} must not be written by a call")


@CHECKS
def out_is_honoured(factory: Factory) -> None:
    """``out=`` is written and returned; an array of another shape is refused."""
    for layer, arrays in list(_cases(factory))[1:4]:
        expected = layer(*arrays)
        for name, out in {
            "contiguous": np.full(expected.shape, np.nan, expected.dtype),
            "every other row": np.full((*expected.shape[:-2], 2 * expected.shape[-2], expected.shape[-1]), np.nan, expected.dtype)[..., ::2, :],
        }.items():
            with case(f"out {name}", **_described(layer, arrays)):
                found = _supported(layer, *arrays, out=out)
                if found is None:
                    raise NotApplicable("it takes no out=")
                require(found is out, "out= must be returned")
                require_close(out, expected, _tolerance(layer, arrays), "out= must hold what is returned without it")
        with case(**_described(layer, arrays)):
            wrong = np.empty((*expected.shape[:-1], expected.shape[-1] + 1), expected.dtype)
            expect_error(DimensionMismatchError, "an out= of another width", layer, *arrays, out=wrong)
