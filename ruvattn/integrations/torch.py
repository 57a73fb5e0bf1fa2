"""Attention on torch tensors of the CPU, with gradients, and variants as modules. Tensors and arrays share their memory, both ways.

    attention(q, k, v) ─► arrays of the same memory ─► ruvattn.attention ─► tensors of the same memory
         └─ autograd ───► ruvattn.attention_backward

    AttentionModule(variant)      its nn.Parameters are the variant's arrays:  torch.optim trains the variant, and the other way round
         └─ autograd ───► variant.backward

Within a call torch's number of threads holds, ``torch.set_num_threads``, unless the call has its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("ruvattn.integrations.torch needs torch: pip install 'ruvattn[torch]'") from error

from ..backward import attention_backward
from ..errors import InvalidInputError, UnsupportedError
from ..functional import attention as array_attention
from ..interfaces import TrainableAttention

__all__ = ["AttentionModule", "attention", "register_with_transformers", "to_array", "to_tensor"]

_FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_INPUTS = ("q", "k", "v", "bias", "sinks", "scale")
"""What `attention` has gradients of, in the order that `_Attention` takes them."""


# --- memory -----------------------------------------------------------------------------------------------------------------------


def to_array(tensor: torch.Tensor, name: str = "tensor") -> np.ndarray:
    """Return the array that shares the memory of a tensor.

    Parameters
    ----------
    tensor : torch.Tensor
        Dense and on the CPU; its history of gradients is left behind.
    name : str
        What to call it in an error.

    Returns
    -------
    ndarray
        In the tensor's shape, strides and dtype; bfloat16 is that of ml_dtypes.

    Raises
    ------
    UnsupportedError
        If it is elsewhere, or no array can share its memory.
    """
    if not tensor.is_cpu:
        raise UnsupportedError(f"{name} is on the device {tensor.device}, and ruvattn computes on the CPU: pass {name}.cpu()")
    try:
        bare = tensor.detach()
        if bare.dtype is torch.bfloat16:
            return bare.view(torch.int16).numpy().view(_bfloat16())
        array: np.ndarray = bare.numpy()
    except UnsupportedError:  # a RuntimeError too
        raise
    except (RuntimeError, TypeError) as error:  # sparse, nested, quantised, of a transform such as vmap
        raise UnsupportedError(f"{name} is no plain tensor, whose memory an array can share: {str(error).splitlines()[0]}") from None
    return array


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return the tensor that shares the memory of an array.

    Parameters
    ----------
    array : ndarray
        Of a dtype that torch has, in native byte order, writable.

    Returns
    -------
    torch.Tensor
        In the array's shape, strides and dtype.
    """
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise UnsupportedError("bfloat16 arrays need ml_dtypes: pip install 'ruvattn[bfloat16]', or pass tensors of float32") from error
    return np.dtype(ml_dtypes.bfloat16)


def _float_array(tensor: Any, name: str) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):
        raise InvalidInputError(f"{name} must be a tensor, got {type(tensor).__name__}: ruvattn.attention takes arrays")
    if tensor.dtype not in _FLOATS:
        raise UnsupportedError(f"{name} has dtype {tensor.dtype}: use float32, float64, float16 or bfloat16 ({name}.float())")
    return to_array(tensor, name)


def _plain(value: Any, name: str) -> Any:
    """Return an option as the functional API takes it: what is a tensor as an array."""
    return to_array(value, name) if isinstance(value, torch.Tensor) else value


def _tracked(*values: Any) -> bool:
    """Tell whether autograd will want gradients of one of them."""
    return torch.is_grad_enabled() and any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)


def draw_seed() -> int:
    """Return a seed for a dropout, from torch's generator of the CPU: `torch.manual_seed` and gradient checkpoints repeat it.

    Returns
    -------
    int
        From 0 to 2⁶³ − 2.
    """
    return int(torch.randint(2**63 - 1, ()))


# --- attention --------------------------------------------------------------------------------------------------------------------


class _Once(torch.autograd.Function):
    """Hands gradients on, and says so when somebody differentiates them."""

    @staticmethod
    def forward(ctx: Any, what: str, count: int, *tensors: Any) -> Any:
        ctx.what = what
        return tuple(None if tensor is None else tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise UnsupportedError(
            f"{ctx.what} has first derivatives only, and a second one was asked for (create_graph=True): "
            "use torch.nn.functional.scaled_dot_product_attention where gradients are differentiated"
        )


def _once(what: str, gradients: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return gradients; under ``create_graph=True``, such as raise an error if they are differentiated."""
    if not torch.is_grad_enabled():
        return gradients
    return tuple(_Once.apply(what, len(gradients), *gradients, *given))


class _Attention(torch.autograd.Function):
    """`ruvattn.attention` and `ruvattn.attention_backward` on tensors; options are those of arrays."""

    @staticmethod
    def forward(ctx: Any, options: dict[str, Any], beside: bool, threads: int, *inputs: Any) -> Any:
        out, lse = _attend(inputs, options, beside, threads, True)
        ctx.save_for_backward(*inputs, out, lse)
        ctx.set_materialize_grads(False)
        ctx.options, ctx.threads = options, threads
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Any, dlse: Any) -> Any:
        *inputs, out, lse = ctx.saved_tensors
        if dout is None and dlse is None:
            return (None,) * (3 + len(inputs))
        needed = [name for name, wanted in zip(_INPUTS, ctx.needs_input_grad[3:], strict=True) if wanted]
        given: dict[str, Any] = {name: to_array(tensor, name) for name, tensor in zip(_INPUTS, inputs, strict=True) if tensor is not None}
        found = attention_backward(
            np.zeros(out.shape, given["q"].dtype) if dout is None else to_array(dout, "the gradient of the output"),
            given.pop("q"), given.pop("k"), given.pop("v"), to_array(out), to_array(lse),
            dlse=None if dlse is None else to_array(dlse, "the gradient of the log-sum-exp"),
            wrt=["score.scale" if name == "scale" else name for name in needed], threads=ctx.threads, **given, **ctx.options,
        )  # fmt: skip
        gradients: list[Any] = []
        for name, tensor in zip(_INPUTS, inputs, strict=True):
            gradient = found.get("score.scale" if name == "scale" else name)
            # Those of bias, sinks and scale come in the compute dtype.
            gradients.append(None if gradient is None else to_tensor(np.asarray(gradient)).to(tensor.dtype).reshape(tensor.shape))
        return None, None, None, *_once("ruvattn.integrations.torch.attention", tuple(gradients), (dout, dlse, *inputs))


def _attend(inputs: tuple[Any, ...], options: dict[str, Any], beside: bool, threads: int, with_lse: bool) -> Any:
    """Attend with tensors; ``beside``: the heads of the output lie beside each other, (…, L, H, Dv) in memory."""
    q, k, v, bias, sinks, scale = inputs
    more = options.copy()
    for name, tensor in (("bias", bias), ("sinks", sinks), ("scale", scale)):
        if tensor is not None:
            more[name] = to_array(tensor, name)
    a, b, c = _float_array(q, "q"), _float_array(k, "k"), _float_array(v, "v")
    if not beside or q.shape[-2] == 1:  # of one row, the heads are beside each other anyway, and the call has a shorter way
        found = array_attention(a, b, c, return_lse=with_lse, threads=threads, **more)
        return (to_tensor(found[0]), to_tensor(found[1])) if with_lse else to_tensor(found)
    *lead, heads, length, _ = q.shape
    out = torch.empty((*lead, length, heads, v.shape[-1]), dtype=q.dtype).transpose(-3, -2)
    found = array_attention(a, b, c, return_lse=with_lse, out=to_array(out), threads=threads, **more)
    return (out, to_tensor(found[1])) if with_lse else out


def attend_beside(q: Any, k: Any, v: Any, bias: Any, sinks: Any, scale: Any, options: dict[str, Any], threads: int) -> Any:
    """Attend with tensors, the heads of the output beside each other in memory: for models, which merge them next.

    Parameters
    ----------
    q, k, v : torch.Tensor, (..., H, L, width)
        As for `attention`.
    bias, sinks, scale : torch.Tensor or None
        As for `attention`.
    options : dict
        Of `ruvattn.attention`, as arrays and numbers. A dropout has its seed.
    threads : int
        How many threads to use at most.

    Returns
    -------
    torch.Tensor, (..., Hq, Lq, Dv)
        A view of a contiguous (..., Lq, Hq, Dv).
    """
    inputs = (q, k, v, bias, sinks, scale)
    if _tracked(*inputs):
        return _Attention.apply(options, True, threads, *inputs)[0]
    return _attend(inputs, options, True, threads, False)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    scale: Any = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    threads: int | None = None,
    **options: Any,
) -> Any:
    """Attention of tensors on the CPU, as `ruvattn.attention` computes it, with gradients. Nothing is copied that the latter would not copy.

    Parameters
    ----------
    q : torch.Tensor, (..., Hq, Lq, D)
        Queries: float32, float64, float16 or bfloat16.
    k : torch.Tensor, (..., Hk, Lk, D)
        Keys.
    v : torch.Tensor, (..., Hk, Lk, Dv)
        Values.
    bias : torch.Tensor, optional
        Added to the logits; broadcast to (..., Hq, Lq, Lk). Has a gradient.
    scale : float or torch.Tensor, () or (Hq,), optional
        The score's parameter ``scale``. Has a gradient if it is a tensor.
    sinks : torch.Tensor, (Hq,), optional
        A logit a head that joins the denominator only. Has a gradient.
    dropout : float, default 0.0
        Share of the weights to drop.
    seed : int, optional
        Of the dropout; drawn from torch's generator when not given, so that `torch.manual_seed` repeats it.
    return_lse : bool, default False
        Whether to return the log-sum-exp of each row too. Has a gradient.
    threads : int, optional
        How many threads to use at most; `torch.get_num_threads` by default.
    **options
        The other arguments of `ruvattn.attention`: score, aggregate, mask, causal, window, query_offset, key_lengths, softcap. Tensors are taken
        where arrays are; they have no gradients.

    Returns
    -------
    out : torch.Tensor, (..., Hq, Lq, Dv)
        In the dtype of q.
    lse : torch.Tensor, (..., Hq, Lq)
        Only with ``return_lse``: natural log, float32 or float64.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense, or is no tensor.
    UnsupportedError
        If a tensor isn't on the CPU, or a dtype is none of the four; at a second derivative, when it is asked for.

    Examples
    --------
    >>> import torch
    >>> from ruvattn.integrations.torch import attention
    >>> q, k, v = torch.randn(3, 8, 128, 64, requires_grad=True)
    >>> attention(q, k, v, causal=True).sum().backward()
    """
    if "out" in options:
        raise UnsupportedError("out is not taken for tensors: autograd owns the result; ruvattn.attention writes where it is told to")
    for name in options:
        if _tracked(options[name]):
            raise UnsupportedError(f"{name} requires a gradient, and has none: pass {name}.detach()")
    if dropout and seed is None:
        seed = draw_seed()
    given: dict[str, Any] = {name: _plain(value, name) for name, value in options.items()}
    if dropout or seed is not None:
        given["dropout"], given["seed"] = dropout, seed
    if scale is not None and not isinstance(scale, torch.Tensor):
        given["scale"], scale = scale, None
    for name, value in (("bias", bias), ("sinks", sinks)):
        if value is not None and not isinstance(value, torch.Tensor):
            raise InvalidInputError(f"{name} must be a tensor, got {type(value).__name__}: torch.from_numpy shares the memory of an array")
    inputs = (q, k, v, bias, sinks, scale)
    team = torch.get_num_threads() if threads is None else threads
    if _tracked(*inputs):
        out, lse = _Attention.apply(given, False, team, *inputs)
        return (out, lse) if return_lse else out
    return _attend(inputs, given, False, team, return_lse)


# --- variants as modules ----------------------------------------------------------------------------------------------------------


class _Variant(torch.autograd.Function):
    """A call of a variant on tensors, ``call() -> out, context``, and its `backward`, of which ``inputs_of`` takes the gradients of the inputs."""

    @staticmethod
    def forward(
        ctx: Any, module: AttentionModule, call: Callable[[], tuple[np.ndarray, Any]], inputs_of: Callable[[Any], tuple[Any, ...]], *tensors: Any
    ) -> Any:
        out, ctx.context = call()
        ctx.save_for_backward(*tensors)  # so that torch sees what is written to them before the backward pass
        ctx.module, ctx.inputs_of = module, inputs_of
        return to_tensor(out)

    @staticmethod
    def backward(ctx: Any, dout: Any) -> Any:
        tensors = ctx.saved_tensors
        found = ctx.module.variant.backward(to_array(dout, "the gradient of the output"), ctx.context)
        every = (*ctx.inputs_of(found), *(found.params[name] for name in ctx.module.names))
        wanted = ctx.needs_input_grad[3:]
        gradients = tuple(to_tensor(x) if used and x is not None else None for x, used in zip(every, wanted, strict=True))
        return None, None, None, *_once(f"AttentionModule of {type(ctx.module.variant).__name__}", gradients, (dout, *tensors))


class AttentionModule(torch.nn.Module):
    """A trainable variant as a module of torch. Its parameters are the variant's own arrays: what either side writes, the other has.

    ``torch.optim`` trains the variant, `state_dict` and `load_state_dict` work, and `train`, `eval` and ``training`` are the variant's. Parameters
    stay where they are: conversions to another dtype or device are errors.

    Parameters
    ----------
    variant : TrainableAttention
        Such as `ruvattn.create` makes. A dot in the name of a parameter becomes "_" here, for torch admits none.

    Attributes
    ----------
    variant : TrainableAttention
        The variant.
    names : dict of str to str
        Of the variant's parameters, and what they are called here.

    Raises
    ------
    UnsupportedError
        If the variant isn't trainable.

    Examples
    --------
    >>> import ruvattn, torch
    >>> from ruvattn.integrations.torch import AttentionModule
    >>> layer = AttentionModule(ruvattn.create("multihead", embed_dim=64, num_heads=8))
    >>> optimizer = torch.optim.Adam(layer.parameters())
    >>> layer(torch.randn(3, 10, 64), causal=True).square().mean().backward()
    >>> optimizer.step()
    """

    variant: TrainableAttention

    def __init__(self, variant: TrainableAttention) -> None:
        if not isinstance(variant, TrainableAttention):
            raise UnsupportedError(f"variant must be trainable, a ruvattn.TrainableAttention, got {type(variant).__name__}")
        self.__dict__["variant"] = variant  # before torch sets `training`, which is the variant's
        mode = variant.training
        super().__init__()
        variant.train(mode)
        self._share({})

    def _share(self, requires_grad: dict[str, bool]) -> None:
        """Make the parameters, on the memory of the variant's arrays."""
        self._arrays = self.variant.parameters()
        self.names = {name: name.replace(".", "_") for name in self._arrays}
        for name, own in self.names.items():
            parameter = torch.nn.Parameter(to_tensor(self._arrays[name]), requires_grad.get(own, True))
            self.register_parameter(own, parameter)

    # --- a call

    def forward(self, q: torch.Tensor, k: torch.Tensor | None = None, v: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        """Attend with queries over keys and values that are not split into heads.

        Parameters
        ----------
        q : torch.Tensor, (..., Lq, E)
            Queries; every leading axis is batch.
        k : torch.Tensor, (..., Lk, E), optional
            Keys; the queries when not given.
        v : torch.Tensor, (..., Lk, V), optional
            Values; the keys when not given.
        **options
            Of the variant's call: mask, bias, causal, and so on. Tensors are taken where arrays are; they have no gradients. `threads` is
            `torch.get_num_threads` by default; the seed of a dropout comes from torch's generator.

        Returns
        -------
        torch.Tensor, (..., Lq, V')
            In the dtype of q.

        Raises
        ------
        AttentionError
            As the variant's call; UnsupportedError if an option requires a gradient.
        """
        k = q if k is None else k
        v = k if v is None else v
        if options.get("return_lse"):
            raise UnsupportedError("return_lse has no gradient through a variant: call module.variant for it, or attention() of this module")
        options.pop("return_lse", None)
        arrays = [_float_array(tensor, name) for tensor, name in zip((q, k, v), _INPUTS, strict=False)]
        given = self._read_options(options)
        return self._run(lambda: self.variant.forward_with_context(*arrays, **given), lambda found: found[:3], (q, k, v))

    def forward_graph(self, x: torch.Tensor, edge_index: Any, edge_attr: Any = None, **options: Any) -> torch.Tensor:
        """Attend with every node to its neighbourhood: for variants and layers that have a `forward_graph`.

        Parameters
        ----------
        x : torch.Tensor, (N, E)
            Features of the nodes.
        edge_index : torch.Tensor of int, (2, E), or what the variant takes
            The edges: row 0 the source, row 1 the destination.
        edge_attr : torch.Tensor, (E, F), optional
            Features of the edges; have a gradient.
        **options
            Of the variant's `forward_graph`. Tensors are taken where arrays are; they have no gradients.

        Returns
        -------
        torch.Tensor, (N, V')
            In the dtype of x.

        Raises
        ------
        AttentionError
            As the variant's call; UnsupportedError if it has no `forward_graph`, or x is a pair.
        """
        method = getattr(self.variant, "forward_graph", None)
        if method is None:
            raise UnsupportedError(f"{type(self.variant).__name__} has no forward_graph: call the module with queries, keys and values")
        if isinstance(x, tuple | list):
            raise UnsupportedError("x must be one tensor, of the nodes of one graph: bipartite graphs have no gradients here; use module.variant")
        if options.get("return_weights"):
            raise UnsupportedError("return_weights has no gradient through a variant: call module.variant for it")
        array, edges, attr = _float_array(x, "x"), _plain(edge_index, "edge_index"), _plain(edge_attr, "edge_attr")
        given = self._read_options(options)

        def call() -> tuple[np.ndarray, Any]:
            out = method(array, edges, attr, **given)
            return out, self.variant._remembered()

        if isinstance(edge_attr, torch.Tensor):
            return self._run(call, lambda found: (found.total(), found.edge_attr), (x, edge_attr))
        return self._run(call, lambda found: (found.total(),), (x,))

    def _read_options(self, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if _tracked(value):
                raise UnsupportedError(f"{name} requires a gradient, and has none through a variant: pass {name}.detach()")
        given = {name: _plain(value, name) for name, value in options.items()}
        given.setdefault("threads", torch.get_num_threads())
        if self.training and given.get("seed") is None:
            given["seed"] = draw_seed()
        return given

    def _run(self, call: Callable[[], tuple[np.ndarray, Any]], inputs_of: Callable[[Any], tuple[Any, ...]], inputs: tuple[Any, ...]) -> torch.Tensor:
        self._check_shared()
        tensors = (*inputs, *(getattr(self, name) for name in self.names.values()))
        if _tracked(*tensors):
            made: torch.Tensor = _Variant.apply(self, call, inputs_of, *tensors)
            return made
        return to_tensor(call()[0])

    # --- one memory

    def _check_shared(self) -> None:
        current = self.variant.parameters()
        for name, own in self.names.items():
            array, parameter = current.get(name), getattr(self, own)
            if array is not self._arrays[name] or parameter.data_ptr() != array.__array_interface__["data"][0]:
                raise InvalidInputError(
                    f"parameter {own!r} and the variant's array {name!r} share no memory any more, since one of them was replaced: "
                    "write into it, or make a new AttentionModule of the variant"
                )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> AttentionModule:
        for own, parameter in self._parameters.items():
            probe = fn(torch.empty(0, dtype=parameter.dtype))
            if probe.dtype != parameter.dtype or probe.device != parameter.device:
                raise UnsupportedError(
                    f"parameter {own!r} is the variant's array, {parameter.dtype} on the {parameter.device}, and can't become {probe.dtype} on "
                    f"{probe.device}: create the variant with another dtype; move what is around it part by part"
                )
        return self  # nothing to do: what leaves dtype and device as they are leaves the memory, too

    def share_memory(self) -> AttentionModule:
        """Not possible: the parameters are the variant's arrays.

        Returns
        -------
        AttentionModule
            Never.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError("the parameters are the variant's arrays, which can't move to shared memory: a module that is sent takes a copy along")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("assign_to_params_buffers"):
            raise UnsupportedError("assign=True would take the parameters away from the variant: load_state_dict(…) without it copies into them")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def __getstate__(self) -> dict[str, Any]:
        flags = {own: parameter.requires_grad for own, parameter in self._parameters.items()}
        return {"variant": self.variant, "requires_grad": flags, "training": self.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["variant"])  # type: ignore[misc]
        self.variant.train(state["training"])
        for own, flag in state["requires_grad"].items():
            self._parameters[own].requires_grad_(flag)

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionModule:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return made

    # --- the mode

    @property
    def training(self) -> bool:
        """Whether the variant drops what it drops in training."""
        return self.variant.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.variant.training = mode

    def extra_repr(self) -> str:
        """Return what `repr` shows.

        Returns
        -------
        str
            The variant.
        """
        return repr(self.variant)


# --- transformers -----------------------------------------------------------------------------------------------------------------


def register_with_transformers() -> None:
    """Let models of transformers use ``attn_implementation="ruvattn"``: see `ruvattn.integrations.transformers`.

    Raises
    ------
    ImportError
        If transformers isn't installed.
    """
    from .transformers import register_with_transformers as register

    register()
