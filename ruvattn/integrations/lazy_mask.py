"""Masks as models of transformers make and hand on, kept as the rule that they are: no array of Lq × Lk booleans while nobody looks at one.

    mask function of a model ─► MaskRule ─► RuleMask, a tensor (B, 1, Lq, Lk) without memory ─► the layers hand it on ─► options of the kernels
                                                ├─ part of it, & and |: the booleans, made then
                                                └─ arithmetic: an error

`KeyPadding` is the pattern of a batch padded anywhere: ranges of valid keys for each entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from ..errors import DimensionMismatchError, UnsupportedError
from ..patterns import Pattern

__all__ = ["KeyPadding", "MaskRule", "RuleMask"]


class KeyPadding(Pattern):
    """Every query of a batch entry sees the keys that are valid there.

    Parameters
    ----------
    valid : ndarray of bool, (B, Lk)
        True where there is a key, False where there is padding.
    """

    by_batch = True

    def __init__(self, valid: np.ndarray) -> None:
        self.valid = valid
        self._ranges: dict[int, tuple[list[int], list[int], list[bool]]] = {}

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if there is not a row for each batch entry, or not a column for each key."""
        if self.valid.shape != (math.prod(lead), lk):
            raise DimensionMismatchError(f"the mask is for {self.valid.shape} batch entries and keys, and the call has {(math.prod(lead), lk)}")

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return whether key j is valid."""
        return self.valid[batch, j] | np.zeros(np.shape(i), bool)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[list[int], list[int], list[bool]]:
        """Return the runs of valid keys."""
        found = self._ranges.get(batch)
        if found is None:
            edges = np.flatnonzero(np.diff(self.valid[batch].astype(np.int8), prepend=0, append=0)).tolist()
            found = self._ranges[batch] = edges[::2], edges[1::2], [True] * (len(edges) // 2)
        return found


@dataclass(eq=False)
class MaskRule:
    """What a mask says, in the terms of `ruvattn.attention`.

    Attributes
    ----------
    batch, lq, lk : int
        Its shape is (batch, 1, lq, lk).
    causal : bool
        Key j is seen from position j on.
    window : tuple of int, or None
        How many keys before and after the position are seen.
    query_offset : int
        Where the first query stands.
    valid : ndarray of bool, (batch, lk), or None
        Which keys are no padding.
    """

    batch: int
    lq: int
    lk: int
    causal: bool
    window: tuple[int, int] | None
    query_offset: int
    valid: np.ndarray | None

    def __post_init__(self) -> None:
        self.options: dict[str, Any] = {}
        first, last = self.query_offset, self.query_offset + self.lq - 1
        if self.causal and first < self.lk - 1:
            self.options["causal"] = True
        if self.window is not None:
            left, right = self.window
            left = -1 if left >= last else left  # nothing is that far back
            right = -1 if right >= self.lk - 1 - first else right
            if left >= 0 or right >= 0:
                self.options["window"] = (left, right)
        if first and self.options:
            self.options["query_offset"] = first
        if self.valid is not None and not self.valid.all():
            lengths = self.valid.sum(1)
            if np.array_equal(self.valid, np.arange(self.lk) < lengths[:, None]):
                self.options["key_lengths"] = lengths
            else:
                self.options["mask"] = KeyPadding(self.valid)

    def dense(self) -> torch.Tensor:
        """Return the booleans.

        Returns
        -------
        torch.Tensor of bool, (batch, 1, lq, lk)
            True = attend.
        """
        i, j = torch.arange(self.lq)[:, None] + self.query_offset, torch.arange(self.lk)
        seen = torch.ones(self.lq, self.lk, dtype=torch.bool)
        if self.causal:
            seen &= j <= i
        if self.window is not None:
            left, right = self.window
            if left >= 0:
                seen &= j >= i - left
            if right >= 0:
                seen &= j <= i + right
        if self.valid is None:
            return seen.expand(self.batch, 1, self.lq, self.lk)
        return seen & torch.from_numpy(self.valid)[:, None, None]


class RuleMask(torch.Tensor):
    """A boolean tensor (B, 1, Lq, Lk) that has a `MaskRule` in the place of memory; what is made of it has the booleans themselves.

    Where a model computes with a mask as with numbers, it takes it for one that is added to the logits, and would be wrong without a word. So
    that is an error: only the functions of attention know what to do with this one.

    Parameters
    ----------
    rule : MaskRule or torch.Tensor of bool
        What it says.
    """

    rule: MaskRule | torch.Tensor

    @staticmethod
    def __new__(cls, rule: MaskRule | torch.Tensor) -> RuleMask:
        """Make one."""
        shape = (rule.batch, 1, rule.lq, rule.lk) if isinstance(rule, MaskRule) else rule.shape
        made: RuleMask = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool)
        made.rule = rule
        return made

    def dense(self) -> torch.Tensor:
        """Return the booleans.

        Returns
        -------
        torch.Tensor of bool
            A plain tensor.
        """
        return self.rule.dense() if isinstance(self.rule, MaskRule) else self.rule

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked with the booleans."""
        if func in _HOLDING:
            return cls(args[0].rule)
        args, kwargs = tree_map(lambda x: x.dense() if isinstance(x, RuleMask) else x, (args, kwargs or {}))
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            if found.dtype is torch.bool:
                return found if not found.ndim or func.overloadpacket in _TURNING else cls(found)
            if found.is_floating_point() and func.overloadpacket not in _CHOOSING:
                raise UnsupportedError(
                    'a model takes the mask of attn_implementation="ruvattn", where True means attend, for one that is added to logits or hides them '
                    f'({func}): its attention is its own, and no implementation can be chosen for it; use attn_implementation="eager"'
                )
        return found

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        """Return its shape and options."""
        says = ", ".join(self.rule.options) if isinstance(self.rule, MaskRule) else "booleans"
        return f"RuleMask{tuple(self.shape)}({says})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the booleans."""
        return self.dense().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> RuleMask:
        """Return itself: it never changes."""
        return self


_aten = torch.ops.aten
_HOLDING = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default}
"""What only says how to hold on to a tensor."""
_TURNING = {_aten.logical_not, _aten.bitwise_not, _aten.eq, _aten.ne}
"""After these a model knows that True means attend, and does with the result what it wants."""
_CHOOSING = {_aten.where, _aten.masked_select, _aten.index}
"""What takes True for attend. `masked_fill` of logits would mask these very pairs."""
