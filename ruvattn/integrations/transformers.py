"""``attn_implementation="ruvattn"`` for models of transformers, on the CPU.

    register_with_transformers() ─┬─► AttentionInterface       attention_forward: what each layer calls
                                  └─► AttentionMaskInterface   attention_mask: what the model calls once, for all layers

    model ─► attention_mask ─► None, RuleMask (causal, window, padding) or booleans ─► attention_forward ─► ruvattn.attention

Softcap, sliding windows, sinks, grouped queries, position biases, caches, dropout and ``output_attentions`` are supported, forward and backward. What
is not is an error with a name; results never differ from those of ``eager`` but by rounding, and where a row may attend to nothing, which is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

try:
    import transformers
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
except ImportError as error:
    raise ImportError("ruvattn.integrations.transformers needs transformers 5: pip install 'ruvattn[torch]'") from error

try:
    from transformers.utils.output_capturing import _active_collector
except ImportError:  # private to transformers: without it, models have to say output_attentions to their layers, as most do
    _active_collector = None

from ..errors import InvalidInputError, UnsupportedError
from ..functional import attention_weights
from .lazy_mask import MaskRule, RuleMask
from .torch import attend_beside, draw_seed, to_array, to_tensor

__all__ = ["NAME", "attention_forward", "attention_mask", "register_with_transformers"]

NAME = "ruvattn"
"""The ``attn_implementation`` that models are given."""

WITHOUT_EFFECT = frozenset({
    "cache_position", "deterministic", "indices", "logits_to_keep", "num_items_in_batch", "output_hidden_states", "output_router_logits",
    "position_ids", "return_dict", "use_cache",
})  # fmt: skip
"""Keywords that models hand to attention and that eager attention ignores: positions are in the queries, and sparse indices in the mask, by then."""


def register_with_transformers() -> None:
    """Let models use ``attn_implementation="ruvattn"``; once in a program, before a model is made or told to.

    Raises
    ------
    ImportError
        If transformers isn't installed, or is older than version 5: then already at the import of this module.

    Examples
    --------
    >>> from ruvattn.integrations.torch import register_with_transformers
    >>> register_with_transformers()
    >>> from transformers import AutoModel, BertConfig
    >>> model = AutoModel.from_config(BertConfig(num_hidden_layers=1), attn_implementation="ruvattn")
    """
    if int(transformers.__version__.split(".")[0]) < 5:
        raise ImportError(f"register_with_transformers needs transformers 5, got {transformers.__version__}: pip install 'ruvattn[torch]'")
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, attention_mask)


# --- masks ------------------------------------------------------------------------------------------------------------------------


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    **kwargs: Any,
) -> RuleMask | None:
    """Make the mask of a model, for all of its layers.

    Parameters
    ----------
    batch_size, q_length, kv_length : int
        The mask is (batch_size, 1, q_length, kv_length).
    q_offset, kv_offset : int
        Positions of the first query and the first key.
    mask_function : callable
        Tells of indices (batch, head, query, key) whether they attend.
    attention_mask : torch.Tensor, (batch_size, keys so far), optional
        False where there is padding.
    allow_is_causal_skip, allow_is_bidirectional_skip : bool
        Whether None may stand for a mask that is causal only, or that masks nothing.
    use_vmap : bool
        Whether `mask_function` takes single indices only.
    **kwargs
        What other implementations need; see ``transformers.masking_utils.sdpa_mask``.

    Returns
    -------
    RuleMask or None
        True = attend. A rule where it is causal, windowed or neither, beside padding; booleans where it is another.
    """
    rule = None if use_vmap else _known_rule(mask_function)
    if rule is None:
        found = masking_utils.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            allow_is_causal_skip=False, allow_is_bidirectional_skip=False, use_vmap=use_vmap, **kwargs,
        )  # fmt: skip
        return RuleMask(found)
    causal, window = rule
    valid = None
    if attention_mask is not None:
        padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, int(kv_offset))
        valid = to_array(padding[:, int(kv_offset) : int(kv_offset) + kv_length].bool(), "attention_mask")
        if valid.shape[0] != batch_size:
            valid = np.broadcast_to(valid, (batch_size, kv_length))
    made = MaskRule(batch_size, q_length, kv_length, causal, window, int(q_offset) - int(kv_offset), valid)
    # A mask that masks something is never left out, causal ones included: a model whose attention is its own would not know that it is causal.
    if not made.options and (allow_is_bidirectional_skip if not causal else allow_is_causal_skip and q_length == 1):
        return None
    return RuleMask(made)


def _known_rule(mask_function: Callable[..., Any]) -> tuple[bool, tuple[int, int] | None] | None:
    """Return whether a mask function of transformers is causal, and its window; None for any other function."""
    if mask_function is masking_utils.causal_mask_function:
        return True, None
    if mask_function is masking_utils.bidirectional_mask_function:
        return False, None
    both = _closure(mask_function, "and_masks.<locals>.and_mask", "mask_functions")
    if not isinstance(both, tuple) or len(both) != 2:
        return None
    overlay, base = both
    if base is masking_utils.causal_mask_function:
        size = _closure(overlay, "sliding_window_overlay.<locals>.inner_mask", "sliding_window")
        return (True, (size - 1, -1)) if isinstance(size, int) and size > 0 else None
    if base is masking_utils.bidirectional_mask_function:
        size = _closure(overlay, "sliding_window_bidirectional_overlay.<locals>.inner_mask", "sliding_window")
        return (False, (size, size)) if isinstance(size, int) and size >= 0 else None
    return None


def _closure(function: Any, qualname: str, variable: str) -> Any:
    """Return what an inner function of ``transformers.masking_utils`` remembers; None if it is another function."""
    if getattr(function, "__module__", None) != masking_utils.__name__ or getattr(function, "__qualname__", None) != qualname:
        return None
    names = function.__code__.co_freevars
    return function.__closure__[names.index(variable)].cell_contents if variable in names else None


# --- attention --------------------------------------------------------------------------------------------------------------------


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    output_attentions: bool | None = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend, as a layer of a model asks for it.

    Parameters
    ----------
    module : torch.nn.Module
        The layer: whether it is causal, where `is_causal` doesn't say, and whether it is in training.
    query : torch.Tensor, (B, Hq, Lq, D)
        Queries.
    key, value : torch.Tensor, (B, Hk, Lk, D) and (B, Hk, Lk, Dv)
        Keys and values, not repeated for groups of queries.
    attention_mask : torch.Tensor, optional
        Booleans (True = attend), or numbers that are added to the logits; broadcast to (B, Hq, Lq, Lk). It decides alone.
    scaling : float, optional
        What dot products are multiplied by; 1/√D when not given.
    dropout : float
        Share of the weights to drop, while the layer is in training.
    is_causal : bool, optional
        Whether the layer is causal without a mask.
    position_bias : torch.Tensor, optional
        Added to the logits; has a gradient.
    softcap : float, optional
        c: logits become c·tanh(s/c).
    sliding_window : int, optional
        Of the layer; the mask has it.
    s_aux : torch.Tensor, (Hq,), optional
        Sinks; has a gradient.
    output_attentions : bool, optional
        Whether to return the weights.
    **kwargs
        Those that have no effect on attention are accepted.

    Returns
    -------
    out : torch.Tensor, (B, Lq, Hq, Dv)
        Contiguous.
    weights : torch.Tensor, (B, Hq, Lq, Lk), or None
        With ``output_attentions`` only. They have no gradient, and say so when one is asked for.

    Raises
    ------
    UnsupportedError
        If a keyword, device or dtype isn't supported.
    AttentionError
        As `ruvattn.attention`.
    """
    for name, given in kwargs.items():
        if name not in WITHOUT_EFFECT and given is not None and given is not False:
            raise UnsupportedError(
                f'{type(module).__name__} hands {name}={_shown(given)} to attention, which attn_implementation="{NAME}" does not know: '
                'use "eager" or "sdpa"'
            )
    batch = key.shape[0]
    if query.shape[0] != batch:
        query = query.expand(batch, -1, -1, -1)
    options, bias = _masked(module, query, key, attention_mask, is_causal, sliding_window)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    if isinstance(scaling, torch.Tensor):
        scale = scaling
    else:
        scale = None
        if scaling is not None and scaling != query.shape[-1] ** -0.5:  # which is the default
            options["scale"] = scaling
    if softcap is not None:
        options["softcap"] = softcap
    if dropout and module.training:
        options["dropout"], options["seed"] = dropout, draw_seed()
    out = attend_beside(query, key, value, bias, s_aux, scale, options, torch.get_num_threads())
    weights = _weights(query, key, bias, s_aux, scale, options) if output_attentions or _captured() else None
    return out.transpose(1, 2), weights


def _shown(given: Any) -> str:
    return f"<{type(given).__name__} of shape {tuple(given.shape)}>" if isinstance(given, torch.Tensor) else repr(given)


def _masked(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, mask: Any, is_causal: bool | None, sliding_window: int | None
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Return the options that a mask means, and the bias if it is one."""
    lq, lk = query.shape[-2], key.shape[-2]
    if mask is None:
        if sliding_window is not None and lk > sliding_window:
            raise UnsupportedError(
                f"{type(module).__name__} has a sliding window of {sliding_window}, {lk} keys and no mask, from which alone it can be told who sees "
                "whom: pass the mask that transformers.masking_utils makes"
            )
        if lq == 1 or not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
            return {}, None
        if lq != lk:
            raise UnsupportedError(
                f"{type(module).__name__} is causal with {lq} queries, {lk} keys and no mask, which leaves open where the queries stand: pass a mask"
            )
        return {"causal": True}, None
    if type(mask) is RuleMask and isinstance(mask.rule, MaskRule):
        if mask.shape[-2:] != (lq, lk):
            raise InvalidInputError(f"attention_mask is for {tuple(mask.shape[-2:])} queries and keys, and {type(module).__name__} has {(lq, lk)}")
        return dict(mask.rule.options), None
    if type(mask) is RuleMask:
        mask = mask.dense()
    if not isinstance(mask, torch.Tensor):
        raise UnsupportedError(f"attention_mask must be a tensor, got {type(mask).__name__}: it is that of another attn_implementation")
    if mask.dtype is torch.bool:
        return {"mask": to_array(mask, "attention_mask")}, None
    if not mask.is_floating_point():
        raise UnsupportedError(f"attention_mask must be boolean, or numbers that are added to the logits, got {mask.dtype}: use .bool()")
    return {}, mask if mask.dtype == query.dtype else mask.to(query.dtype)


class _Weights(torch.autograd.Function):
    """Weights to look at; who asks for their gradient is told that there is none."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, *inputs: Any) -> torch.Tensor:
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, dweights: Any) -> Any:
        raise UnsupportedError(f'weights of attn_implementation="{NAME}" have no gradient, and one was asked for: use "eager" for a loss on weights')


def _weights(query: torch.Tensor, key: torch.Tensor, bias: Any, sinks: Any, scale: Any, options: dict[str, Any]) -> torch.Tensor:
    more = dict(options)
    for name, tensor in (("bias", bias), ("sinks", sinks), ("scale", scale)):
        if tensor is not None:
            more[name] = to_array(tensor, name)
    found = attention_weights(to_array(query, "query"), to_array(key, "key"), threads=torch.get_num_threads(), **more)
    tensor = to_tensor(found)
    inputs = [x for x in (query, key, bias, sinks, scale) if isinstance(x, torch.Tensor) and x.requires_grad]
    return _Weights.apply(tensor, *inputs) if inputs and torch.is_grad_enabled() else tensor


def _captured() -> bool:
    """Tell whether a model collects weights without telling its layers."""
    if _active_collector is None:
        return False
    collected = _active_collector.get()
    return bool(collected) and any("attentions" in name for name in collected)
