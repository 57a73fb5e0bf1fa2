"""Patterns that live on every s-th row and key: each residue class of positions is a dense problem of its own, seen through strides.

    Call with a pattern of strided_parts ─┬─► part (1, p): the call itself, with the pattern p
                                          └─► part (s, p): rows and keys of one residue r (mod s) side by side ─► run, R residues a batch axis
                                                                    │
    disjoint parts ─► merged by their lse ◄─────────────────────────┘

Nothing is copied or computed in vain: pair (i, j) of a part becomes pair (i // s, j // s) of its residue, and causal masks, windows and key lengths
stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .call import Call, take_pattern
from .errors import InvalidInputError
from .key_ranges import known_parts
from .patterns import Pattern

__all__ = ["attend_residues", "residue_parts", "residues_fit"]

Run = Callable[[Call, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
View = Callable[[np.ndarray], np.ndarray]
Range = tuple[int, int]
_Parts = Sequence[tuple[int, Pattern]]


def residues_fit(call: Call) -> bool:
    """Tell whether a call can be computed by the parts of its pattern.

    Parameters
    ----------
    call : Call
        With a pattern.

    Returns
    -------
    bool
        Not where something tells rows apart by their number, batch entries are told apart, or they stand at different positions: a residue is one
        more batch entry.
    """
    assert call.pattern is not None
    pattern, position = call.pattern, call.position
    alike = position is None or bool(np.all(position == position[0]))
    if call.dropout or not call.lk or not alike or pattern.by_batch or known_parts(pattern) is None:
        return False
    if position is None or not position.any():
        return True
    # Residues are those of positions: an index is none where rows don't start at 0.
    heads = call.heads if pattern.by_head else 1
    return pattern.positional and all(part.positional for h in range(heads) for _, part in _parts(pattern, h))


def attend_residues(call: Call, v: np.ndarray, scale: np.ndarray, out: np.ndarray, lse: np.ndarray, run: Run) -> None:
    """Run a call part by part.

    Parameters
    ----------
    call : Call
        Without sinks, and with a pattern that `residues_fit` accepts.
    v : ndarray, (..., Hk, Lk, Dv)
        Values.
    scale : ndarray, (Hq,)
        Factor of the dots.
    out, lse : ndarray
        To be written.
    run : callable
        Runs a call that has no such pattern: ``run(call, v, scale, out, lse)``.
    """
    pattern = call.pattern
    assert pattern is not None
    if not pattern.by_head:
        _attend(call, _parts(pattern, 0), v, scale, out, lse, run)
        return
    group = call.heads // call.k.shape[-3]
    for h in range(call.heads):
        own = slice(h, h + 1)
        sums = np.empty((*call.lead, 1, call.lq), lse.dtype)
        _attend(call.of_head(h), _parts(pattern, h), v[..., h // group : h // group + 1, :, :], scale[own], out[..., own, :, :], sums, run)
        lse[..., own, :] = sums


def _parts(pattern: Pattern, head: int) -> _Parts:
    parts = known_parts(pattern, head)
    if parts is None:
        raise InvalidInputError(f"{type(pattern).__name__}.strided_parts({head}) must return parts, as for head 0, got None")
    return parts


def _attend(call: Call, parts: _Parts, v: np.ndarray, scale: np.ndarray, out: np.ndarray, lse: np.ndarray, run: Run) -> None:
    if not parts:
        out[...], lse[...] = 0, -np.inf
    for number, (step, pattern) in enumerate(parts):
        acc = out if number == 0 else np.empty(out.shape, out.dtype)
        sums = lse if number == 0 else np.empty_like(lse)
        if step == 1:
            own = replace(call, pattern=None)
            take_pattern(pattern, own)
            run(own, v, scale, acc, sums)
        else:
            for rows, keys, count, position in _residues(call, step):
                own, values = _reduced(call, v, step, rows, keys, count, position)
                take_pattern(pattern, own)
                some = np.empty(own.q.shape[:-1], lse.dtype)
                run(own, values, scale, _every(acc, rows, None, count, step), some)
                _every(sums[..., None], rows, None, count, step)[..., 0] = some
        if number:
            _merge(out, lse, acc, sums)


def residue_parts(call: Call) -> Iterator[tuple[Call, slice, View, View]]:
    """Yield the parts of a call, whose pairs are disjoint, as calls of their own.

    Parameters
    ----------
    call : Call
        With a pattern that `residues_fit` accepts.

    Yields
    ------
    own : Call
        A part.
    heads : slice
        Which query heads it is about.
    of_rows, of_keys : callable
        From an array with the queries', or the keys', axes of heads and length of the whole call to a view of what belongs to the part.
    """
    pattern = call.pattern
    assert pattern is not None
    group = call.heads // call.k.shape[-3]
    for h in range(call.heads) if pattern.by_head else (None,):
        one = call if h is None else call.of_head(h)
        query = slice(None) if h is None else slice(h, h + 1)
        key = slice(None) if h is None else slice(h // group, h // group + 1)
        for step, part in _parts(pattern, h or 0):
            if step == 1:
                own = replace(one, pattern=None)
                take_pattern(part, own)
                yield own, query, _view_of(query, None, 1, 1), _view_of(key, None, 1, 1)
                continue
            for rows, keys, count, position in _residues(one, step):
                own, _ = _reduced(one, one.v, step, rows, keys, count, position)
                take_pattern(part, own)
                yield own, query, _view_of(query, rows, count, step), _view_of(key, keys, count, step)


def _view_of(heads: slice, rows: Range | None, count: int, step: int) -> View:
    def view(array: np.ndarray) -> np.ndarray:
        own = array[..., heads, :, :]
        return own if rows is None else _every(own, rows, None, count, step)

    return view


def _residues(call: Call, step: int) -> Iterator[tuple[Range, Range, int, int]]:
    """Yield consecutive residues that have equal numbers of rows and of keys, but for those that have no row.

    Each as (first row, rows), (first key, keys), how many residues, and the position of the first row.
    """
    offset = 0 if call.position is None else int(call.position[0])
    first = 0
    while first < step:
        row = (first - offset) % step
        # Where the number of rows or keys of a residue falls by one, and where the rows start over.
        rows, keys = _count(call.lq, row, step), _count(call.lk, first, step)
        ends = [step, first + step - row]
        ends += [first + m for m in (_same(call.lq, row, step), _same(call.lk, first, step))]
        stop = min(end for end in ends if end > first)
        if rows:
            yield (row, rows), (min(first, call.lk), keys), stop - first, (row + offset - first) // step
        first = stop


def _count(length: int, first: int, step: int) -> int:
    return max(0, -(-(length - first) // step))


def _same(length: int, first: int, step: int) -> int:
    """How many residues from this one on have as many entries."""
    return (length - first - 1) % step + 1 if first < length else step


def _every(array: np.ndarray, rows: Range, keys: Range | None, count: int, step: int) -> np.ndarray:
    """View (..., H, L, x) as (..., R, H, l, x): every step-th row from the first on, and from the R − 1 rows after it; keys alike if given."""
    *lead, heads, _, width = array.shape
    *lead_strides, head, row, column = array.strides
    if keys is None:
        own, tail, stride = array[..., rows[0] :, :], width, column
        beside = row
    else:
        own, tail, stride = array[..., rows[0] :, keys[0] :], keys[1], column * step
        beside = row + column
    return as_strided(own, (*lead, count, heads, rows[1], tail), (*lead_strides, beside, head, row * step, stride))


def _reduced(call: Call, v: np.ndarray, step: int, rows: Range, keys: Range, count: int, position: int) -> tuple[Call, np.ndarray]:
    """The call for so many residues, as entries of one more batch axis."""
    lead = (*call.lead, count)
    lengths = np.full(call.batch, call.lk, np.int64) if call.key_length is None else call.key_length
    residue = keys[0] + np.arange(count)
    left, right = (bound if bound < 0 else bound // step for bound in call.window)
    own = replace(
        call,
        q=_every(call.q, rows, None, count, step),
        k=_every(call.k, keys, None, count, step),
        v=_every(call.v, keys, None, count, step),
        lead=lead,
        window=(left, right),
        position=np.full(call.batch * count, position, np.int64),
        key_length=np.maximum(-(-(lengths[:, None] - residue) // step), 0).ravel(),
        mask=None if call.mask is None else _every(call.mask, rows, keys, count, step),
        bias=None if call.bias is None else _every(call.bias, rows, keys, count, step),
        pattern=None,
    )
    return own, _every(v, keys, None, count, step)


def _merge(out: np.ndarray, lse: np.ndarray, acc: np.ndarray, sums: np.ndarray) -> None:
    """Fold the result over other keys into one, in place, as `ruvattn.merge_states` does."""
    top = np.maximum(lse, sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        reference = np.where(np.isneginf(top), 0, top)
        mine, theirs = np.exp(lse - reference), np.exp(sums - reference)
        total = mine + theirs
        np.add(np.log(total), reference, out=lse)
        share = np.where(total == 0, 0, theirs / total)
        mine = np.where(total == 0, 0, mine / total)
        # A part without a key has no say, even beside NaN; rows that both parts have are the rule.
        np.multiply(out, mine[..., None], out=out, where=(mine != 0)[..., None])
        out[mine == 0] = 0
        np.multiply(acc, share[..., None], out=acc, where=(share != 0)[..., None])
        acc[share == 0] = 0
    out += acc

