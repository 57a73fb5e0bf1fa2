"""What a variant that is a class of its own need not write itself: the checks of a call, and of the gradient that it goes back with.

    attend(q, k, v, **options)      ─┬─► read_inputs ────► arrays that fit the variant and each other
                                     ├─► refuse_options    what the variant doesn't have
                                     ├─► read_key_lengths, read_query_offset, read_key_mask
                                     │                     which keys there are, and where queries stand
                                     ├─► place_of_output ─► an array to write to
                                     └─► OpaqueContext     what the call leaves behind
    backward(grad_output, context)  ───► read_gradient ──► the call to go back through, and its gradient with an axis of rows

`ruvattn.headwise.HeadwiseAttention` does the same for its subclasses.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from .call import mask_pattern, read_lengths, read_offset
from .context import Context
from .errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError
from .explicit_patterns import BoolMask
from .validation import as_array, check_finite, check_out

__all__ = [
    "MAX_KEYS",
    "OpaqueContext",
    "place_of_output",
    "read_gradient",
    "read_inputs",
    "read_key_lengths",
    "read_key_mask",
    "read_query_offset",
    "refuse_options",
]

MAX_KEYS = 1_000_000
"""How many keys a row may attend to unless the variant is told otherwise."""

NAMES = ("q (queries)", "k (keys)", "v (values)")

_DEFAULTS: dict[str, Any] = {
    "mask": None, "bias": None, "causal": False, "window": None, "query_offset": 0, "key_lengths": None, "scale": None, "softcap": None,
    "sinks": None, "dropout": 0.0, "seed": None, "out": None, "threads": None,
}  # fmt: skip
"""What a call of a variant takes beside its arrays, with the values that ask for nothing."""


class OpaqueContext(Context):
    """What a call leaves behind that no score, pattern and aggregate give again: what it was given, and what its backward pass needs.

    It has no queries, keys and values of heads, and no weights to show. It has an lse where the variant knows one: then that is what users get by
    ``return_lse=True``, which is an `UnsupportedError` without.

    Parameters
    ----------
    variant : Attention
        What was called.
    inputs : tuple of three ndarray
        The query, key and value that it was given.
    shape : tuple of int
        That of the output.
    lse : ndarray, (..., num_heads, Lq), optional
        The logarithm of the denominator of each row, −inf where a row sees nothing: what makes results over disjoint keys one by
        `ruvattn.merge_states`.
    **extra
        What the variant keeps for its backward pass: in the attribute ``extra``.

    Examples
    --------
    A mean counts all keys alike, so that its denominator is their number:

    >>> import numpy as np, ruvattn
    >>> from ruvattn.authoring import OpaqueContext, read_inputs
    >>> class Mean(ruvattn.Attention):
    ...     config = ruvattn.AttentionConfig(4, attention_type="mean")
    ...     def attend(self, q, k=None, v=None):
    ...         q, k, v = read_inputs(q, k, v, embed_dim=4)
    ...         out = np.repeat(v.mean(-2, keepdims=True), q.shape[-2], -2)
    ...         lse = np.full((*q.shape[:-2], 1, q.shape[-2]), np.log(k.shape[-2]))
    ...         return out, OpaqueContext(self, (q, k, v), out.shape, lse=lse)
    >>> out, lse = Mean()(np.ones((2, 4)), np.eye(4), return_lse=True)
    >>> np.exp(lse)
    array([[4., 4.]])
    """

    def __init__(
        self,
        variant: Any,
        inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
        shape: tuple[int, ...],
        *,
        lse: np.ndarray | None = None,
        **extra: Any,
    ) -> None:
        nothing: Any = None
        found: Any = lse
        super().__init__(nothing, nothing, nothing, nothing, found, {}, inputs, extra, shape, variant=weakref.ref(variant))

    def weights(self, threads: int | None = None) -> Any:
        """Return None: there are none to show."""
        return None

    def __repr__(self) -> str:
        return f"OpaqueContext(inputs={[array.shape for array in self.inputs]}, extra={sorted(self.extra)})"


def read_inputs(
    q: Any,
    k: Any = None,
    v: Any = None,
    *,
    embed_dim: int,
    key_dim: int | None = None,
    value_dim: int | None = None,
    num_heads: int = 1,
    finite: bool | None = None,
    max_keys: int | None = MAX_KEYS,
    names: tuple[str, str, str] = NAMES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the arrays of a call, having seen that they fit the variant and each other.

    Parameters
    ----------
    q : array, (..., Lq, embed_dim)
        Queries.
    k : array, (..., Lk, key_dim), optional
        Keys; the queries when not given.
    v : array, (..., Lk, V), optional
        Values; the keys when not given.
    embed_dim : int
        Width of the queries.
    key_dim : int, optional
        Width of the keys; embed_dim when not given.
    value_dim : int, optional
        Width of the values; any that `num_heads` divides when not given.
    num_heads : int, default 1
        Heads of keys and values.
    finite : bool, optional
        What the option ``check_finite`` of the variant says, where it has one: whether NaN and infinity are an error. They are when not given.
    max_keys : int or None, default 1,000,000
        How many keys are taken; None for any number.
    names : tuple of three str, optional
        What messages call the arrays.

    Returns
    -------
    q, k, v : ndarray
        Of one floating dtype in the byte order of the machine, with the same leading axes; not copied otherwise.

    Raises
    ------
    InvalidInputError
        If one is empty, no array of numbers or, unless `finite` is False, not finite.
    DimensionMismatchError
        If shapes don't fit.
    InputTooLargeError
        If there are more keys than `max_keys`.
    UnsupportedError
        If a dtype is none of float32, float64, float16 and bfloat16, or if they differ.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.authoring import read_inputs
    >>> q, k, v = read_inputs(np.ones((3, 8)), embed_dim=8, num_heads=2)
    >>> v.shape
    (3, 8)
    """
    k = q if k is None else k
    v = k if v is None else v
    q, k, v = arrays = _native(q, names[0]), _native(k, names[1]), _native(v, names[2])
    if k.dtype != q.dtype or v.dtype != q.dtype:
        listed = ", ".join(f"{name} {x.dtype}" for name, x in zip(names, arrays, strict=True))
        raise UnsupportedError(f"{names[0]}, {names[1]} and {names[2]} must share one dtype, got {listed}: convert them with .astype")
    lead = q.shape[:-2]
    for name, x, width in zip(names, arrays, (embed_dim, key_dim or embed_dim, value_dim), strict=True):
        if x.ndim < 2:
            raise DimensionMismatchError(
                f"{name} must have at least the axes (length, width), got shape {x.shape}: a single query goes through forward(query, keys, values)"
            )
        if not x.size:
            raise InvalidInputError(f"{name} must not be empty, got shape {x.shape}")
        if x.shape[:-2] != lead:
            raise DimensionMismatchError(
                f"{name} must have the leading axes of {names[0]}, {lead}, got {x.shape[:-2]}: np.broadcast_to repeats at no cost"
            )
        if width is None:
            if x.shape[-1] % num_heads:
                raise DimensionMismatchError(f"{name} must have a width that the number of heads, {num_heads}, divides, got shape {x.shape}")
        elif x.shape[-1] != width:
            raise DimensionMismatchError(f"{name} must have width {width}, got {x.shape[-1]} (shape {x.shape}): the variant was created for that")
    if v.shape[-2] != k.shape[-2]:
        raise DimensionMismatchError(
            f"{names[2]} must have a row for each key: expected {k.shape[-2]} rows, got {v.shape[-2]} (shapes {k.shape} and {v.shape})"
        )
    if max_keys is not None and k.shape[-2] > max_keys:
        raise InputTooLargeError(f"{names[1]} has {k.shape[-2]:,} rows, and at most {max_keys:,} are taken: attend to fewer")
    if finite is not False:
        for name, x in zip(names, arrays, strict=True):
            check_finite(x, name, () if finite is None else ("check_finite",))
    return q, k, v


def read_key_lengths(key_lengths: Any, inputs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Return how many keys of each batch entry are valid.

    Parameters
    ----------
    key_lengths : int, array of int or None
        What the call was given: one number, or one for each batch entry; None for all keys.
    inputs : tuple of three ndarray
        Queries, keys and values, as `read_inputs` returned them.

    Returns
    -------
    ndarray of int64
        In the shape of the leading axes, so that ``np.arange(Lk) < lengths[..., None]`` are the keys that count.

    Raises
    ------
    InvalidInputError
        If it is no int, or one is below 0 or above the number of keys.
    DimensionMismatchError
        If it doesn't broadcast to the leading axes.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.authoring import read_inputs, read_key_lengths
    >>> inputs = read_inputs(np.ones((2, 3, 8)), embed_dim=8)
    >>> read_key_lengths([3, 1], inputs)
    array([3, 1])
    >>> read_key_lengths(None, inputs)
    array([3, 3])
    """
    lead, lk = inputs[0].shape[:-2], inputs[1].shape[-2]
    return np.full(lead, lk, np.int64) if key_lengths is None else read_lengths(key_lengths, lead, lk).reshape(lead)


def read_query_offset(query_offset: Any, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], lengths: np.ndarray | None = None) -> np.ndarray:
    """Return where the first query of each batch entry stands among the keys.

    Parameters
    ----------
    query_offset : int, array of int or "end"
        What the call was given: one number, one for each batch entry, or "end", where the last query stands at the last valid key.
    inputs : tuple of three ndarray
        Queries, keys and values, as `read_inputs` returned them.
    lengths : ndarray of int64, optional
        How many keys are valid, as `read_key_lengths` returned it; all when not given.

    Returns
    -------
    ndarray of int64
        In the shape of the leading axes: query i stands at offset + i, and a causal one sees the keys up to there. Below 0 is before the keys.

    Raises
    ------
    InvalidInputError
        If it is neither an int nor "end".
    DimensionMismatchError
        If it doesn't broadcast to the leading axes.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.authoring import read_inputs, read_key_lengths, read_query_offset
    >>> inputs = read_inputs(np.ones((2, 3, 8)), np.ones((2, 9, 8)), embed_dim=8)
    >>> read_query_offset(0, inputs)
    array([0, 0])
    >>> read_query_offset("end", inputs, read_key_lengths([9, 5], inputs))
    array([6, 2])
    """
    lead, lq, lk = inputs[0].shape[:-2], inputs[0].shape[-2], inputs[1].shape[-2]
    found = read_offset(query_offset, lead, lq, lk if lengths is None else np.ravel(lengths))
    return np.zeros(lead, np.int64) if found is None else found.reshape(lead)


def read_key_mask(
    mask: Any, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], *, num_heads: int = 1, variant: str, reason: str = ""
) -> np.ndarray | None:
    """Return which keys a mask shows, for a variant whose queries all see the same keys.

    Parameters
    ----------
    mask : array of bool or None
        What the call was given: (Lk,), or what broadcasts to (..., num_heads, Lq, Lk) and is the same for all queries, by an axis of length 1
        or one along which `numpy.broadcast_to` has repeated it; None for all keys.
    inputs : tuple of three ndarray
        Queries, keys and values, as `read_inputs` returned them.
    num_heads : int, default 1
        Heads of queries.
    variant : str
        Its name, for messages.
    reason : str, optional
        Why it has no other masks, for messages.

    Returns
    -------
    ndarray of bool, (..., num_heads, Lk), or None
        True for keys that are seen; not to be written to. None where there is no mask.

    Raises
    ------
    UnsupportedError
        If it is a mask of pairs: one with rows for queries, a sparse one, or a `ruvattn.Pattern`.
    InvalidInputError
        If it is no array of bool.
    DimensionMismatchError
        If it doesn't broadcast to the shape of the call.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.authoring import read_inputs, read_key_mask
    >>> inputs = read_inputs(np.ones((2, 3, 8)), embed_dim=8)
    >>> seen = read_key_mask([True, True, False], inputs, num_heads=2, variant="mine")
    >>> seen.shape, seen[1, 0]
    ((2, 2, 3), array([ True,  True, False]))
    >>> read_key_mask(np.eye(3, dtype=bool), inputs, num_heads=2, variant="mine")
    Traceback (most recent call last):
        ...
    ruvattn.errors.UnsupportedError: variant 'mine' has no 'mask' of shape (3, 3): a mask of keys, the same for all queries, is (..., 1, Lk)
    """
    if mask is None:
        return None
    pattern = mask_pattern(mask)
    why = f"{reason and f'{reason}; '}a mask of keys, the same for all queries, is (..., 1, Lk)"
    if not isinstance(pattern, BoolMask):
        raise UnsupportedError(f"variant {variant!r} has no 'mask' that is a {type(mask).__name__}: {why}")
    lead, lq, lk = inputs[0].shape[:-2], inputs[0].shape[-2], inputs[1].shape[-2]
    pattern.check_fits(lead, num_heads, lq, lk)
    array = pattern.mask
    if array.shape[-2] > 1 and array.strides[-2]:
        raise UnsupportedError(f"variant {variant!r} has no 'mask' of shape {array.shape}: {why}")
    return np.broadcast_to(array[..., 0, :], (*lead, num_heads, lk))


def refuse_options(variant: str, options: Mapping[str, Any], reason: str | Mapping[str, str] = "") -> None:
    """Raise where a call asks for something that a variant doesn't have; an option that has its default asks for nothing.

    Parameters
    ----------
    variant : str
        Its name.
    options : mapping of str to object
        The options of a call that the variant knows nothing of: what is left in ``**options``.
    reason : str or mapping of str to str, optional
        Why it hasn't got them, or what to do instead: for all, or by the name of an option.

    Raises
    ------
    UnsupportedError
        If one is an option of other variants.
    InvalidInputError
        If there is no such option.

    Examples
    --------
    >>> from ruvattn.authoring import refuse_options
    >>> refuse_options("sigmoid", {"bias": None, "dropout": 0.0})
    >>> refuse_options("sigmoid", {"sinks": 0.5}, "its weights don't sum to 1")
    Traceback (most recent call last):
        ...
    ruvattn.errors.UnsupportedError: variant 'sigmoid' has no 'sinks': its weights don't sum to 1
    >>> refuse_options("sigmoid", {"window": (2, 0)}, {"window": "there is causal=True", "sinks": "its weights don't sum to 1"})
    Traceback (most recent call last):
        ...
    ruvattn.errors.UnsupportedError: variant 'sigmoid' has no 'window': there is causal=True
    """
    for name, value in options.items():
        if name not in _DEFAULTS:
            raise InvalidInputError(f"a call of variant {variant!r} has no option {name!r}; there are: {', '.join(_DEFAULTS)}")
        default = _DEFAULTS[name]
        asks = value is not None if default is None else value is not None and (isinstance(value, np.ndarray) or value != default)
        if asks:
            why = reason if isinstance(reason, str) else reason.get(name, "")
            raise UnsupportedError(f"variant {variant!r} has no {name!r}{why and ': '}{why}")


def place_of_output(out: Any, shape: tuple[int, ...], inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the array to write an output to.

    Parameters
    ----------
    out : ndarray or None
        What the call was given as ``out``.
    shape : tuple of int
        That of the output; its dtype is that of the inputs.
    inputs : tuple of three ndarray
        Queries, keys and values, as `read_inputs` returned them.

    Returns
    -------
    ndarray
        `out`, having seen that it is of that shape and dtype, writable, and shares no memory with the inputs; a new array for None.

    Raises
    ------
    InvalidInputError, DimensionMismatchError
        If it is not.
    """
    dtype = inputs[0].dtype
    return np.empty(shape, dtype) if out is None else check_out(out, shape, dtype, dict(zip("qkv", inputs, strict=True)))


def read_gradient(variant: Any, grad_output: Any, context: Context | None = None, *, finite: bool = True) -> tuple[Context, np.ndarray]:
    """Return the call that a variant is to go back through, and the gradient of its output.

    Parameters
    ----------
    variant : TrainableAttention
        Whose `backward` it is.
    grad_output : array, (..., Lq, V')
        The gradient of the loss by the output; (V',) for a call of `forward`.
    context : Context, optional
        Of the call; this thread's last one when not given. Its ``inputs`` and ``shape`` have to be there, and a weak reference to the variant in
        ``variant``.
    finite : bool, default True
        Whether NaN and infinity are an error.

    Returns
    -------
    context : Context
        Of the call.
    gradient : ndarray, (..., Lq, V')
        With an axis of rows, also where the call was `forward`, in which case ``context.single`` is set.

    Raises
    ------
    InvalidInputError
        If there was no call, the context is of another variant, or `grad_output` has another dtype than the output, or its compute dtype, or is not
        finite.
    DimensionMismatchError
        If it has another shape than the output.
    """
    context = call_of(variant, context)
    return context, gradient_of(variant, context, grad_output, finite=finite)


def call_of(variant: Any, context: Any) -> Context:
    """Return the context of a call to go back through: this thread's last one for None."""
    if context is None:
        context = variant._remembered()
        if context is None:
            raise InvalidInputError("backward needs a call to go back through, and this thread has made none: call the variant before it")
    elif not isinstance(context, Context):
        raise InvalidInputError(f"context must be what forward_with_context returned, got {type(context).__name__}")
    kind = type(variant).__name__
    other = context.maker not in ("", kind) if context.variant is None else context.variant() is not variant
    if other or len(context.inputs) != 3 or context.shape is None or context.inputs[0].shape[-1] != variant.config.embed_dim:
        raise InvalidInputError(f"context must be of a call of this {kind}, got {context!r}")
    return context


def gradient_of(variant: Any, context: Context, grad_output: Any, *, finite: bool) -> np.ndarray:
    """Return the gradient of the output of a call, checked, with an axis of rows."""
    gradient = as_array(grad_output, "grad_output")
    assert context.shape is not None
    shape, dtype = context.shape, context.inputs[0].dtype
    wanted = shape[1:] if context.single else shape
    if gradient.shape != wanted:
        raise DimensionMismatchError(f"grad_output must have the shape of the output, {wanted}, got {gradient.shape}")
    if gradient.dtype not in (dtype, np.result_type(dtype, np.float32)):
        raise InvalidInputError(f"grad_output must have the dtype of the output, {dtype}, got {gradient.dtype}: use .astype({dtype.name!r})")
    if finite:
        check_finite(gradient, "grad_output", variant.config.options)
    return gradient[None] if context.single else gradient


def _native(x: Any, name: str) -> np.ndarray:
    array = as_array(x, name)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
