"""The class of every variant: what a call is, and what it leaves in mind.

    variant(q, k, v, **options) ──► forward_with_context ──► attend, which a variant implements ──► output, Context
    forward, forward_batch      ──►        "                                                          │
    get_attention_weights, and the backward pass of what is trainable ◄── this thread's last one ◄────┘

What only some variants can be asked is in `ruvattn.interfaces`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np

from .attention_config import AttentionConfig
from .context import Context
from .errors import InvalidInputError, UnsupportedError
from .validation import check_bool, check_rank

__all__ = ["Attention"]


class Attention(ABC):
    """A variant of attention.

    A subclass implements `attend` and `config`. Instances may be shared between threads: a call changes nothing but what its own thread
    remembers of it, which is the `Context` that methods without one refer to. Pickling and copying an instance drop that memory.

    Attributes
    ----------
    training : bool
        False, the default: no dropout. True: the weights are dropped at the rate of the configuration. Set it where training starts and ends.

    Notes
    -----
    Finite input has to give finite output, and an lse without NaN. The conformance suite tries float32: queries and keys, and then values too, that
    are normally distributed numbers times 0, 1e-42 (subnormal), 1e-20, 1e3 and 1e15; keys that are all the same; and what a mask hides at 1e15 and
    −1e30. It tries gradients for numbers of ordinary size; those of the built-in variants are finite for all of these.
    """

    training: bool = False

    @property
    @abstractmethod
    def config(self) -> AttentionConfig:
        """What makes this variant: ``config.create()`` makes another one."""

    @abstractmethod
    def attend(self, q: Any, k: Any = None, v: Any = None, **options: Any) -> tuple[np.ndarray, Context]:
        """Compute attention; what a variant implements, and what every call comes down to.

        Parameters
        ----------
        q, k, v : array
            As for `__call__`.
        **options
            As for `__call__`, without ``return_lse``.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            The output.
        context : Context
            What the call read and made.
        """

    def __call__(self, q: Any, k: Any = None, v: Any = None, *, return_lse: bool = False, **options: Any) -> Any:
        """Attend with queries over keys and values that are not split into heads.

        Parameters
        ----------
        q : array, (..., Lq, E)
            Queries; every leading axis is batch.
        k : array, (..., Lk, E), optional
            Keys; the queries when not given (self-attention).
        v : array, (..., Lk, V), optional
            Values; the keys when not given.
        return_lse : bool, default False
            Whether to return the log-sum-exp of each row too.
        **options
            Masks and options of `ruvattn.attention`: mask, bias, causal, window, query_offset, key_lengths, scale, softcap, sinks, dropout,
            seed, out, threads. Masks and biases broadcast to (..., num_heads, Lq, Lk).

        Returns
        -------
        out : ndarray, (..., Lq, V')
            In the dtype of `q`.
        lse : ndarray, (..., num_heads, Lq)
            Only with ``return_lse``.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument; `UnsupportedError` for ``return_lse`` where the variant has no log-sum-exp.
        """
        out, context = self.forward_with_context(q, k, v, **options)
        if not return_lse:
            return out
        lse = context.lse
        if lse is None:
            raise UnsupportedError(f"variant {self.config.attention_type!r} has no log-sum-exp: leave out return_lse")
        return out, lse

    def forward_with_context(self, q: Any, k: Any = None, v: Any = None, **options: Any) -> tuple[np.ndarray, Context]:
        """Attend, and return what the call leaves behind too.

        Parameters
        ----------
        q, k, v : array
            As for `__call__`.
        **options
            As for `__call__`, without ``return_lse``: the context has the lse.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            The output.
        context : Context
            For `get_attention_weights`, and for the backward pass.
        """
        found = self.attend(q, k, v, **options)
        self._remember(found[1])
        return found

    def forward(self, query: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with one query.

        Parameters
        ----------
        query : array, (E,)
            The query.
        keys : array, (N, E)
            Keys, at least one.
        values : array, (N, V)
            Values.

        Returns
        -------
        ndarray, (V',)
            The output.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        out = self(check_rank(query, "query", 1, "forward_batch takes several")[None], *_sequences(keys, values))
        context = self._remembered()
        if context is not None:
            context.single = True  # so that a backward pass knows what shape its gradient has
        result: np.ndarray = out[0]
        return result

    def forward_batch(self, queries: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with several queries, each on its own: row b is what `forward` gives for query b.

        Parameters
        ----------
        queries : array, (B, E)
            The queries, at least one.
        keys : array, (N, E)
            Keys, at least one, which all queries share.
        values : array, (N, V)
            Values.

        Returns
        -------
        ndarray, (B, V')
            The outputs.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        return self(check_rank(queries, "queries", 2, "forward takes one"), *_sequences(keys, values))

    def get_attention_weights(self, context: Context | None = None) -> np.ndarray | None:
        """Return the weights of a call, computed now.

        Parameters
        ----------
        context : Context, optional
            What `forward_with_context` returned; that of this thread's last call when not given.

        Returns
        -------
        ndarray, (..., num_heads, Lq, Lk), or None
            Dense; None if this thread has not called the variant, or if the variant has no weights to show.
        """
        context = self._remembered() if context is None else _check_context(context)
        return None if context is None else context.weights()

    def reset(self) -> None:
        """Forget this thread's last call, and with it the arrays that it refers to."""
        self._remember(None)

    def train(self, mode: bool = True) -> Self:
        """Set `training`.

        Parameters
        ----------
        mode : bool, default True
            What to set it to.

        Returns
        -------
        Attention
            The variant itself.

        Raises
        ------
        InvalidInputError
            If it is neither True nor False.
        """
        self.training = check_bool(mode, "mode")
        return self

    def eval(self) -> Self:
        """Unset `training`: no dropout from now on.

        Returns
        -------
        Attention
            The variant itself.
        """
        return self.train(False)

    def _memory_of_thread(self) -> Any:
        memory = self.__dict__.get("_memory")
        if memory is None:
            # Not in __init__, which subclasses may not call; setdefault is atomic, so that threads agree on the object.
            memory = self.__dict__.setdefault("_memory", threading.local())
        return memory

    def _remember(self, context: Context | None) -> None:
        self._memory_of_thread().context = context

    def _remembered(self) -> Context | None:
        return getattr(self.__dict__.get("_memory"), "context", None)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_memory", None)
        return state

    def __repr__(self) -> str:
        return f"{type(self).__name__}(embed_dim={self.config.embed_dim}, num_heads={self.config.num_heads})"


def _sequences(keys: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    hint = "batches go through a call, variant(q, k, v)"
    return check_rank(keys, "keys", 2, hint), check_rank(values, "values", 2, hint)


def _check_context(context: Any) -> Context:
    if not isinstance(context, Context):
        raise InvalidInputError(f"context must be what forward_with_context returned, got {type(context).__name__}")
    return context
