"""The variant: what a call may ask for, heads, parameters, and the way back.

    q, k, v ─► split ─► √s·x ─► log features ─► sums over features ─► merge ─► out
                         │           │
                     log_scale   projections: random, from a seed
"""

from __future__ import annotations

import math

import numpy as np
from ruvattn import AttentionConfig, Gradients, TrainableAttention
from ruvattn.authoring import (
    MAX_KEYS,
    OpaqueContext,
    place_of_output,
    read_gradient,
    read_inputs,
    read_key_lengths,
    read_key_mask,
    read_query_offset,
    refuse_options,
)
from ruvattn.errors import InvalidInputError
from ruvattn.heads import merge_heads, split_heads
from ruvattn.projection import compute_dtype
from ruvattn.threads import resolve_threads

from .features import orthogonal_projections, saturated, scale_rows, scale_rows_vjp, unit_of
from .sums import attend, attend_vjp

LARGEST_LOG_SCALE = 30.0
"""Beyond this size of log_scale no number of features would do."""

_SINGLE_PAIRS = "sums over features know no single pairs of a query and a key"
_REASONS = {
    "bias": _SINGLE_PAIRS,
    "window": f"{_SINGLE_PAIRS}, and a window would be their difference; there is causal=True",
    "softcap": "features are those of exp(s·q·k)",
    "sinks": "its rows are sums over keys, and a sink is none",
    "dropout": f"{_SINGLE_PAIRS} to drop",
    "scale": "it is an option of the variant, and then the parameter log_scale",
    "seed": "it has no dropout; the seed of its projections is an option of the variant",
}


class FavorAttention(TrainableAttention):
    """Softmax attention by positive orthogonal random features: the FAVOR+ of Performers, linear in the length.

    In each head, with M random projections w_m,

    .. code-block:: text

        out_i = Σ_j φ(√s·q_i)·φ(√s·k_j) v_j / Σ_j φ(√s·q_i)·φ(√s·k_j)        φ_m(x) = exp(w_m·x − ‖x‖²/2) / √M

    where E[φ(√s·q)·φ(√s·k)] = exp(s·q·k), so that it tends to attention with scaled dot products, by an error that falls
    as 1/√M (Choromanski et al., 2021, "Rethinking Attention with Performers"). The variance of a pair's kernel is up to
    exp(s·‖q + k‖²)/M of its square: small vectors need few features, and large ones more than there can be. Time is of
    L·M·D, and no array is of Lq × Lk.

    Calls take ``causal``, ``query_offset``, ``key_lengths``, and a ``mask`` of keys, (..., 1, Lk), that is the same for all
    queries; for any other mask or option they raise UnsupportedError. Gradients are those of what is computed, by
    these features, and not an estimate of others.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    num_features : int, default 256
        How many features M a head has, from 1 to 65536.
    orthogonal : bool, default True
        Whether projections of a block are orthogonal; otherwise they are independent, and errors larger.
    scale : float, optional
        Where s starts in all heads, above 0; 1/√D when not given, D the width of a head.
    seed : int, default 0
        Of the projections, from 0 to 2⁶⁴ − 1.
    max_keys : int or None, default 1,000,000
        How many keys a call may have; None for any number.

    Attributes
    ----------
    projections : ndarray, (num_heads, M, D)
        The projections w, read-only.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Notes
    -----
    The only parameter is ``log_scale``, (num_heads,), the logarithm of s. Projections aren't learned, and aren't in
    checkpoints: they follow from ``seed``, which has to be that of the file where one is loaded.

    The lse of a call, ``return_lse=True``, is the logarithm of the estimated denominator, ln Σ_j φ(√s·q_i)·φ(√s·k_j).

    Features are kept as logarithms, and the largest is subtracted for each query and for each feature (the paper does so for
    each query and over all keys). So each row's weights sum to 1, whatever the size of inputs; scaled entries beyond 1e15,
    in float64 1e150, count as that. A single pair may have a weight of any small size, but never one below 0.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("favor", embed_dim=16, num_heads=2, num_features=4096)
    >>> x = 0.5 * np.random.default_rng(0).standard_normal((100, 16))
    >>> exact = ruvattn.create("standard", embed_dim=16, num_heads=2)
    >>> bool(np.abs(layer(x) - exact(x)).mean() < 0.01)
    True
    """

    checkpoint_options = ("seed",)  # what is learned was learned with these projections
    initial_options = ("scale",)  # a checkpoint has what became of it

    def __init__(self, embed_dim, num_heads=1, *, num_features=256, orthogonal=True, scale=None, seed=0, max_keys=MAX_KEYS):
        if isinstance(num_features, bool) or not isinstance(num_features, (int, np.integer)) or not 1 <= num_features <= 65536:
            raise InvalidInputError(f"num_features must be an int from 1 to 65536, got {num_features!r}")
        if not isinstance(orthogonal, (bool, np.bool_)):
            raise InvalidInputError(f"orthogonal must be True or False, got {orthogonal!r}")
        low, high = math.exp(-LARGEST_LOG_SCALE), math.exp(LARGEST_LOG_SCALE)
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float, np.integer, np.floating)) or not low < scale < high):
            raise InvalidInputError(f"scale must be a number above 0, from {low:.0e} to {high:.0e}, or None for 1/√D, got {scale!r}")
        if max_keys is not None and (isinstance(max_keys, bool) or not isinstance(max_keys, (int, np.integer)) or max_keys < 1):
            raise InvalidInputError(f"max_keys must be an int from 1, or None, got {max_keys!r}")
        options = {
            "num_features": int(num_features),
            "orthogonal": bool(orthogonal),
            "scale": None if scale is None else float(scale),
            "seed": _read_seed(seed),
            "max_keys": None if max_keys is None else int(max_keys),
        }
        config = AttentionConfig(embed_dim, num_heads, attention_type="favor", options=options)
        if embed_dim % num_heads:
            raise InvalidInputError(f"num_heads must divide embed_dim, which is {embed_dim}, got {num_heads}")
        start = (embed_dim // num_heads) ** -0.5 if scale is None else float(scale)
        self._log_scale = np.full(num_heads, math.log(start))
        self._drawn = config, _draw(config)

    @property
    def config(self):
        """The configuration, with the seed of the projections that there are now."""
        return self._drawn[0]

    @property
    def projections(self):
        """The projections w of each head, (num_heads, M, D), read-only."""
        return self._drawn[1]

    def redraw(self, seed=None):
        """Draw other projections, as Performers do now and then while they learn, lest they fit to some.

        The configuration has the new seed from then on. A backward pass of an earlier call goes by the projections of that
        call.

        Parameters
        ----------
        seed : int, optional
            Of the new ones; the seed before + 1 when not given.

        Raises
        ------
        InvalidInputError
            If it is no such number.
        """
        fields = self.config.to_dict()
        before = fields["options"]["seed"]
        fields["options"]["seed"] = (before + 1) % 2**64 if seed is None else _read_seed(seed)
        config = AttentionConfig.from_dict(fields)
        self._drawn = config, _draw(config)  # both at once, for the calls of other threads

    def attend(self, q, k=None, v=None, *, causal=False, query_offset=0, key_lengths=None, mask=None, out=None, threads=None, **others):
        """Compute attention.

        Parameters
        ----------
        q, k, v : array
            (..., Lq, E), (..., Lk, E) and (..., Lk, V); keys are the queries and values the keys when not given.
        causal : bool, default False
            Whether row i sees the keys up to its position i + query_offset.
        query_offset : int, array of int or "end", default 0
            Where row 0 stands, one number or one for each batch entry; "end" is the number of valid keys − Lq.
        key_lengths : int or array of int, optional
            How many keys are valid, one number or one for each batch entry.
        mask : array of bool, optional
            Which keys are seen, by all queries alike: (Lk,), or (..., 1, Lk) that broadcasts to (..., num_heads, 1, Lk), which
            `numpy.broadcast_to` may have repeated for the queries.
        out : ndarray, optional
            Where to write the result.
        threads : int, optional
            Checked and otherwise not used: the products are NumPy's, which has threads of its own.
        **others
            Other options of `ruvattn.attention`, which have to be at their defaults.

        Returns
        -------
        out : ndarray, (..., Lq, V)
            In the dtype of q. A row that sees no key is zero.
        context : ruvattn.Context
            For `backward`.

        Raises
        ------
        UnsupportedError
            If it is asked for what sums over features can't do.
        InvalidInputError, DimensionMismatchError
            If an argument has a value that makes no sense.
        """
        refuse_options("favor", others, _REASONS)
        resolve_threads(threads)
        if not isinstance(causal, (bool, np.bool_)):
            raise InvalidInputError(f"causal must be True or False, got {causal!r}")
        config, projections = self._drawn
        inputs = read_inputs(q, k, v, embed_dim=config.embed_dim, num_heads=config.num_heads, max_keys=config.options["max_keys"])
        made = place_of_output(out, (*inputs[0].shape[:-1], inputs[2].shape[-1]), inputs)
        lead, lk = inputs[0].shape[:-2], inputs[1].shape[-2]
        lengths = read_key_lengths(key_lengths, inputs)
        offsets = read_query_offset(query_offset, inputs, lengths)
        seen = read_key_mask(mask, inputs, num_heads=config.num_heads, variant="favor", reason=_SINGLE_PAIRS)
        if (lengths < lk).any():
            valid = np.arange(lk) < lengths[..., None, None]
            seen = valid if seen is None else seen & valid
        call = {
            "projections": projections,
            "root": np.exp(self._log_scale / 2),  # as it is now: a step of learning must not reach the context of this call
            "seen": None if seen is None else seen.reshape(-1, *seen.shape[-2:]),
            "offsets": offsets.reshape(-1) if causal else None,
            "unit": unit_of(inputs[2]),
        }
        heads, log_totals, lse = self._attend_heads(inputs, call)
        cache = {"heads": heads, "log_totals": log_totals} if self.gradient_cache else {}
        values = saturated(heads.copy(), call["unit"]) if call["unit"] != 1 else heads
        made[...] = merge_heads(values.reshape(*lead, *values.shape[1:]))
        return made, OpaqueContext(self, inputs, made.shape, lse=lse.reshape(*lead, *lse.shape[1:]), **call, **cache)

    def parameters(self):
        """Return the parameter ``log_scale``, (num_heads,), by its name.

        Returns
        -------
        dict of str to ndarray
            The array itself.
        """
        return {"log_scale": self._log_scale}

    def check_parameters(self, parameters):
        """Look at parameters before a step is final.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            As they are after the step.

        Raises
        ------
        InvalidInputError
            If log_scale is not finite, or beyond ±30.
        """
        super().check_parameters(parameters)
        if not (np.abs(parameters["log_scale"]) <= LARGEST_LOG_SCALE).all():
            raise InvalidInputError(f"log_scale must be from −{LARGEST_LOG_SCALE:g} to {LARGEST_LOG_SCALE:g}, got {parameters['log_scale']}")

    def backward(self, grad_output, context=None):
        """Return the gradients of a call, exact ones of what it computed.

        Parameters
        ----------
        grad_output : array, (..., Lq, V)
            The gradient of the loss by the output.
        context : ruvattn.Context, optional
            Of the call; this thread's last one when not given.

        Returns
        -------
        ruvattn.Gradients
            By queries, keys, values and the parameter ``log_scale``.

        Raises
        ------
        InvalidInputError
            If there was no call, or `grad_output` has another dtype or is not finite.
        DimensionMismatchError
            If it has another shape than the output.
        """
        context, upstream = read_gradient(self, grad_output, context)
        call = context.extra
        heads, log_totals = (call["heads"], call["log_totals"]) if "heads" in call else self._attend_heads(context.inputs, call)[:2]
        raw = self._split(context.inputs)
        root, units = call["root"], (call["unit"], unit_of(upstream))
        (dout,) = self._split([upstream.astype(raw[0].dtype, copy=False)])
        q, k, v, dout = scale_rows(raw[0], root), scale_rows(raw[1], root), _in_unit(raw[2], units[0]), _in_unit(dout, units[1])
        w = call["projections"].astype(q.dtype, copy=False)
        dq, dk, dv = whole = tuple(np.empty(x.shape, x.dtype) for x in (q, k, v))
        for part, seen, first in _groups(call["seen"], call["offsets"]):
            found = attend_vjp(q[part], k[part], v[part], w, seen, first, heads[part], log_totals[part], dout[part])
            for gradient, of_part in zip(whole, found, strict=True):
                gradient[part] = of_part
        dq, from_queries = scale_rows_vjp(raw[0], root, dq)
        dk, from_keys = scale_rows_vjp(raw[1], root, dk)
        params = {"log_scale": saturated((from_queries + from_keys) * root**2, *units)}
        self.keep_gradients(params)
        gradients = saturated(dq, *units), saturated(dk, *units), saturated(dv, units[1])
        dq, dk, dv = (
            merge_heads(dx.reshape(*x.shape[:-2], *dx.shape[1:])).astype(x.dtype, copy=False)
            for dx, x in zip(gradients, context.inputs, strict=True)
        )
        return Gradients(dq[0] if context.single else dq, dk, dv, params)

    def _attend_heads(self, inputs, call):
        """Return output, in the unit of the call, what `attend` has of denominators, and the lse: (N, H, Lq, Dv), (N, H, Lq) twice."""
        q, k, v = self._split(inputs)
        q, k, v = scale_rows(q, call["root"]), scale_rows(k, call["root"]), _in_unit(v, call["unit"])
        w = call["projections"].astype(q.dtype, copy=False)
        heads, log_totals = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype), np.empty(q.shape[:-1], q.dtype)
        for part, seen, first in _groups(call["seen"], call["offsets"]):
            heads[part], log_totals[part] = attend(q[part], k[part], v[part], w, seen, first)
        left_out = np.vecdot(q, q) / 2 + q.dtype.type(math.log(w.shape[1]))  # of numerator and denominator alike
        return heads, log_totals, np.where(np.isposinf(log_totals), -np.inf, log_totals - left_out).astype(q.dtype, copy=False)

    def _split(self, arrays):
        """Return (..., L, width) as (N, H, L, D), in the dtype that is computed in."""
        dtype = compute_dtype(arrays[0].dtype)
        return [split_heads(x.astype(dtype, copy=False).reshape(-1, *x.shape[-2:]), self.config.num_heads) for x in arrays]


def _in_unit(x, unit):
    return x if unit == 1 else x * x.dtype.type(1 / unit)


def _draw(config):
    """Return the projections of a configuration, (num_heads, M, D)."""
    rng = np.random.default_rng(config.options["seed"])
    count, width = config.options["num_features"], config.embed_dim // config.num_heads
    if config.options["orthogonal"]:
        drawn = np.stack([orthogonal_projections(count, width, rng) for _ in range(config.num_heads)])
    else:
        drawn = rng.standard_normal((config.num_heads, count, width))
    drawn.flags.writeable = False
    return drawn


def _groups(seen, offsets):
    """Yield, for the batch entries whose rows stand at the same place: their index, their mask, and where row 0 stands."""
    if offsets is None or (offsets == offsets[:1]).all():
        yield slice(None), seen, None if offsets is None else int(offsets[0])
        return
    for offset in np.unique(offsets):
        (part,) = np.nonzero(offsets == offset)
        yield part, None if seen is None else seen[part], int(offset)


def _read_seed(seed):
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed must be an int from 0 to 2⁶⁴ − 1, got {seed!r}")
    return int(seed)
