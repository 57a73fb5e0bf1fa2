"""The layers that checks of variants make of a factory, and arrays for them: sizes, widths, what is supported, how exact it can be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import reference, registry
from ..aggregates import Aggregate
from ..errors import (
    UnsupportedError,
)
from ..interfaces import Attention
from .cases import (
    accuracy_bounds,
    require,
    sample,
)
from .trial import limited, limited_lead, limited_size

Factory = Callable[..., Any]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

SIZES = ((4, 1), (8, 2), (24, 3))
"""(embed_dim, num_heads) that are tried, unless the factory's ``conformance_sizes`` says which."""

LENGTHS = (((), 1, 1), ((), 1, 4), ((), 5, 3), ((2,), 6, 11), ((2, 1), 33, 70))
"""Leading axes, queries and keys that are tried."""


def _sizes(factory: Factory) -> tuple[tuple[int, int], ...]:
    stated = _stated_sizes(factory)
    return tuple(limited_size(size, stated) for size in stated or SIZES)


def _stated_sizes(factory: Any) -> Sequence[tuple[int, int]] | None:
    """Return ``conformance_sizes`` of a factory, or of the registered one that a partial of `ruvattn.create` names."""
    stated: Any = getattr(factory, "conformance_sizes", None)
    if stated is None and isinstance(factory, functools.partial):
        if factory.func is registry.create and factory.args and factory.args[0] in registry.variants():
            return _stated_sizes(registry._find("variant", factory.args[0]).factory)
        return _stated_sizes(factory.func)
    return None if stated is None else tuple(tuple(size) for size in stated)


def _make(factory: Factory, size: tuple[int, int] | None = None, **options: Any) -> Attention:
    embed_dim, num_heads = _sizes(factory)[-1] if size is None else size
    layer = factory(embed_dim=embed_dim, num_heads=num_heads, **options)
    require(isinstance(layer, Attention), f"the factory must return an Attention, got {type(layer).__name__}")
    return layer


def _widths(layer: Attention) -> tuple[int, int, int]:
    """Return the widths of queries, keys and values; a variant whose keys or values have their own says so."""
    embed_dim = layer.config.embed_dim
    key_dim = getattr(layer, "key_dim", None) or embed_dim
    return embed_dim, key_dim, getattr(layer, "value_dim", None) or embed_dim


def _parameters(layer: Attention) -> dict[str, np.ndarray]:
    method = getattr(layer, "parameters", None)
    return {} if method is None else method()


def _arrays(layer: Attention, lead: tuple[int, ...], lq: int, lk: int, dtype: Any = np.float32, seed: int = 0) -> Arrays:
    lead, lq, lk = limited_lead(lead), limited("queries", lq), limited("keys", lk)
    roles, lengths = ("query", "key", "value"), (lq, lk, lk)
    q, k, v = (
        sample(layer, role, (*lead, length, width), dtype, seed) for role, length, width in zip(roles, lengths, _widths(layer), strict=True)
    )
    return q, k, v


def _cases(factory: Factory, dtype: Any = np.float32) -> Iterator[tuple[Attention, Arrays]]:
    """Yield variants and arrays for them, smallest first."""
    sizes = _sizes(factory)
    for at, (lead, lq, lk) in enumerate(LENGTHS):
        layer = _make(factory, sizes[min(at, len(sizes) - 1)])
        yield layer, _arrays(layer, lead, lq, lk, dtype)


def _described(layer: Attention, arrays: Arrays) -> dict[str, Any]:
    config = layer.config
    q, k, v = (tuple(array.shape) for array in arrays)
    return {"embed_dim": config.embed_dim, "num_heads": config.num_heads, "q": q, "k": k, "v": v, "dtype": arrays[0].dtype.name}


def _supported(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call; return None where the variant says that it does not have what is asked."""
    try:
        return function(*args, **options)
    except UnsupportedError:
        return None


def _has_arithmetic(context: Any) -> bool:
    """Tell whether a context holds what the oracle takes."""
    return all(isinstance(getattr(context, name, None), np.ndarray) and getattr(context, name).ndim >= 3 for name in ("q", "k", "v", "out"))


def _aggregate(context: Any) -> Aggregate:
    from ..running import as_aggregate

    return as_aggregate(context.options.get("aggregate"))


def _is_positional(layer: Attention, arrays: Arrays) -> bool:
    """Tell whether positions enter: by a mask, a score, or because an offset shows."""
    from ..running import as_score
    from . import scores

    out, context = layer.forward_with_context(*arrays)
    options = getattr(context, "options", {})
    if any(name in options for name in ("causal", "window", "mask", "bias", "query_offset")):
        return True
    if "score" in options and scores._uses_positions(scores._part(as_score(options["score"]))):
        return True
    moved = _supported(layer, *arrays, query_offset=3)
    return moved is not None and not np.allclose(moved, out)


def _tolerance(layer: Attention, arrays: Arrays, **options: Any) -> float:
    """Return by how much two good outputs in float32 may differ: by the naive error of its attention, if that can be told, in units of the output."""
    out, context = layer.forward_with_context(*arrays, **options)
    floor = 64 * float(np.finfo(out.dtype).eps) * max(1.0, float(np.abs(out).max(initial=0.0)))
    if not _has_arithmetic(context):
        return floor
    given = (context.q, context.k, context.v)
    expected = reference.attention(*given, **context.options)
    naive = reference.attention(*given, precision=np.float32, **context.options)
    return max(floor, 4 * accuracy_bounds(expected, naive, out.dtype)[1])
