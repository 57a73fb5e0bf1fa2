"""The checks of masks on variants: every kind of mask that a variant takes, one by one; masking.py lists the kinds."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interfaces import Attention
from .cases import (
    case,
    require,
    require_close,
)
from .layers import LENGTHS, Arrays, Factory, _arrays, _cases, _described, _has_arithmetic, _make, _parameters, _sizes, _supported, _tolerance
from .masking import Masking, Tried, maskings
from .runner import CheckList

CHECKS = CheckList("variant")


def _maskings(arrays: Arrays) -> list[Masking]:
    """Return all that may hide keys in a call with these arrays."""
    (*lead, lq, _), lk = arrays[0].shape, arrays[1].shape[-2]
    return maskings(tuple(lead), lq, lk)


@CHECKS
def masked_has_no_influence(factory: Factory) -> None:
    """What no query may see can be anything, NaN where that is not refused: it changes nothing, whatever it is that hides it."""
    tried = Tried()
    poisons: list[tuple[float, dict[str, Any]]] = [(1e15, {}), (-1e30, {})]
    if "check_finite" in _make(factory).config.options:
        poisons += [(np.nan, {"check_finite": False}), (np.inf, {"check_finite": False})]
    for (lead, lq, lk), size in zip(LENGTHS[1:], (*_sizes(factory), _sizes(factory)[-1]), strict=False):
        layers = [_make(factory, size, **options) for _, options in poisons]
        arrays = _arrays(layers[0], lead, lq, lk)
        for masking in _maskings(arrays):
            hidden = ~masking.seen.any(-2)
            with case(**_described(layers[0], arrays), **masking.options):
                expected = tried.call(layers[0], *arrays, masking=masking)
                if expected is None or not hidden.any():
                    continue
                tried.used = True
            # All of them where a mask hides keys; of the rest one that is finite, and NaN.
            for (poison, options), layer in list(zip(poisons, layers, strict=True))[:: 1 if masking.kind == "mask" else 2]:
                q, k, v = (array.copy() for array in arrays)
                k[hidden] = v[hidden] = poison
                with case(f"masked keys and values set to {poison}", **_described(layer, arrays), **masking.options, **options):
                    found = layer(q, k, v, **masking.options)
                    if np.array_equal(found, expected):
                        continue
                    tolerance = _tolerance(layers[0], arrays, **masking.options)
                    require_close(found, expected, tolerance, f"what is masked must have no influence ({masking.kind})")
    tried.require_some("hides a key from all queries")


@CHECKS
def empty_rows_are_zeros(factory: Factory) -> None:
    """A query that may attend to nothing gives zeros before projection, zero weights, and a lse of −inf, whatever it is that hides all keys."""
    tried = Tried()
    for layer, arrays in _cases(factory):
        for masking in _maskings(arrays):
            empty = ~masking.seen.any(-1)
            with case(**_described(layer, arrays), **masking.options):
                answer = tried.call(layer.forward_with_context, *arrays, masking=masking)
                if answer is None or not empty.any():
                    continue
                tried.used = True
                out, context = answer
                require(np.isfinite(out).all(), "a row that may attend to nothing must be finite")
                if _has_arithmetic(context):
                    found = context.out.swapaxes(-3, -2)[empty]
                    require(not found.any(), f"a row that may attend to nothing must be zeros, got {found[found != 0][:3]}")
                    require(np.isneginf(context.lse.swapaxes(-2, -1)[empty]).all(), "the lse of a row that may attend to nothing must be -inf")
                elif all(array.ndim < 2 for array in _parameters(layer).values()):  # there is no projection
                    found = out[empty]
                    require(not found.any(), f"a row that may attend to nothing must be zeros, got {found[found != 0][:3]}")
                weights = layer.get_attention_weights(context)
                none = weights is None or not weights.swapaxes(-3, -2)[empty].any()
                require(none, "the weights of a row that may attend to nothing must be zeros")
    tried.require_some("leaves a query without keys")


@CHECKS
def masks_hide_what_they_say(factory: Factory) -> None:
    """Masks, causal, window, key_lengths and query_offset hide the pairs that they say and no others: what a row must not see does not change it."""
    tried = Tried()
    for lead, lq, lk in (((), 1, 2), ((), 4, 3), ((2,), 3, 6)):
        layer = _make(factory)
        arrays, others = (_arrays(layer, lead, lq, lk, np.float64, seed) for seed in (0, 1))
        influence: dict[str, Any] = {}
        for masking in _maskings(arrays):
            with case(**_described(layer, arrays), **masking.options):
                out = tried.call(layer, *arrays, masking=masking)
                if out is None:
                    continue
                tried.used = True
                tolerance = _many_roundings(out)
                plain = repr(masking.plain)
                if plain not in influence:
                    influence[plain] = _seen_without(layer, arrays, others, masking.plain)
                hidden = ~masking.seen
                shown = np.zeros_like(hidden) if influence[plain] is None else masking.seen & influence[plain]
                for key in range(hidden.shape[-1]):
                    with case(f"key {key}"):
                        if hidden[..., key].any():
                            moved = _moved_by(layer, arrays, others, key, out, "key", **masking.options)
                            rows = np.argwhere((moved > tolerance) & hidden[..., key]).tolist()
                            promise = f"a row must not change with a key that it does not see ({masking.kind})"
                            require(not rows, f"{promise}, got another row {rows[:1]}")
                        if shown[..., key].any():
                            moved = _moved_by(layer, arrays, others, key, out, "value", **masking.options)
                            still = (moved <= tolerance) & shown[..., key]
                            rows = np.argwhere(_still_unmoved(still, layer, arrays, key, **masking.options)).tolist()
                            promise = f"a row must change with the value of a key that it sees ({masking.kind})"
                            require(not rows, f"{promise}, got the same row {rows[:1]}")
    tried.require_some("hides a key")


def _many_roundings(out: np.ndarray) -> float:
    """Return what rows may differ by that have the same keys; more than that a key makes whose weight is not 0."""
    return 4096 * float(np.finfo(out.dtype).eps) * max(1.0, float(np.abs(out).max(initial=0.0)))


def _moved_by(layer: Attention, arrays: Arrays, others: Arrays, key: int, out: np.ndarray, what: str, **options: Any) -> np.ndarray:
    """Return by how much rows change, (..., Lq), where a value, or a key and its value, is another one."""
    q, k, v = (array.copy() for array in arrays)
    v[..., key, :] = others[2][..., key, :]
    if what == "key":
        k[..., key, :] = others[1][..., key, :]
    change: np.ndarray = np.abs(layer(q, k, v, **options) - out).max(-1)
    return change


def _still_unmoved(rows: np.ndarray, layer: Attention, like: Arrays, key: int, **options: Any) -> np.ndarray:
    """Return which of these rows never change with a value, whatever the inputs: what follows may cut some off, or another key be selected."""
    (*lead, lq, _), lk = like[0].shape, like[1].shape[-2]
    for seed in range(2, 34, 2):
        if not rows.any():
            break
        arrays, others = (_arrays(layer, tuple(lead), lq, lk, np.float64, at) for at in (seed, seed + 1))
        out = layer(*arrays, **options)
        rows = rows & (_moved_by(layer, arrays, others, key, out, "value", **options) <= _many_roundings(out))
    return rows


def _seen_without(layer: Attention, arrays: Arrays, others: Arrays, options: dict[str, Any]) -> np.ndarray | None:
    """Return which pairs clearly attend where nothing of a call hides any, (..., Lq, Lk): a variant may have a pattern of its own."""
    out = _supported(layer, *arrays, **options)
    if out is None:
        return None
    moved = [_moved_by(layer, arrays, others, key, out, "value", **options) for key in range(arrays[1].shape[-2])]
    return np.stack(moved, -1) > 1000 * _many_roundings(out)
