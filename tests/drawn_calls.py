"""Calls that the engine's tests share: every option by name, and any combination of them drawn by hypothesis."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from agreement import FLOATS
from hypothesis import strategies as st

import ruvattn

INF = np.inf


class Stripes(ruvattn.Pattern):
    """Every third key, by the distance; only `allowed`."""

    def allowed(self, i, j, *, head=0, batch=0):
        return (i - j) % 3 == 0


class Blocks(ruvattn.Pattern):
    """The blocks of 16 × 24 on a checkerboard, a different one for each head; `ranges` too."""

    by_head = True
    row_block = 16

    def allowed(self, i, j, *, head=0, batch=0):
        return (i // 16 + j // 24 + head) % 2 == 0

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        starts = [j for j in range(0, lk, 24) if (i0 // 16 + j // 24 + head) % 2 == 0]
        return starts, [min(j + 24, lk) for j in starts], [True] * len(starts)


class PerBatch(ruvattn.Pattern):
    """A band whose width is that of the batch entry."""

    by_batch = True

    def allowed(self, i, j, *, head=0, batch=0):
        return abs(i - j) <= 3 + 40 * batch


def _bias(rng, shape, dtype, share_of_inf=0.0):
    bias = rng.standard_normal(shape)
    bias[rng.random(shape) < share_of_inf] = -INF
    return bias.astype(dtype)


def _empty_rows(mask):
    mask[..., ::5, :] = False
    return mask


# name -> options for a generator, the leading axes, the numbers of heads, queries and keys, and the compute dtype
OPTIONS = {
    "nothing": lambda rng, lead, h, lq, lk, dtype: {},
    "causal": lambda rng, lead, h, lq, lk, dtype: {"causal": True},
    "causal from the end": lambda rng, lead, h, lq, lk, dtype: {"causal": True, "query_offset": "end"},
    "window": lambda rng, lead, h, lq, lk, dtype: {"window": (5, 3), "query_offset": "end"},
    "window of one key": lambda rng, lead, h, lq, lk, dtype: {"window": (0, 0)},
    "window open to the left": lambda rng, lead, h, lq, lk, dtype: {"window": (-1, 2)},
    "window open to the right": lambda rng, lead, h, lq, lk, dtype: {"window": (2, -1)},
    "window without bounds": lambda rng, lead, h, lq, lk, dtype: {"window": (-1, -1)},
    "huge window": lambda rng, lead, h, lq, lk, dtype: {"window": (2**62, 2**63 - 1), "causal": True},
    "negative offset": lambda rng, lead, h, lq, lk, dtype: {"causal": True, "query_offset": -3},
    "huge offset": lambda rng, lead, h, lq, lk, dtype: {"causal": True, "query_offset": 2**62},
    "huge negative offset": lambda rng, lead, h, lq, lk, dtype: {"window": (7, -1), "query_offset": -(2**62)},
    "everything before the window": lambda rng, lead, h, lq, lk, dtype: {"window": (7, 7), "query_offset": 2**62},
    "offset of each entry": lambda rng, lead, h, lq, lk, dtype: {"causal": True, "query_offset": rng.integers(-3, lk + 3, lead)},
    "key lengths": lambda rng, lead, h, lq, lk, dtype: {"key_lengths": rng.integers(0, lk + 1, lead), "query_offset": "end", "causal": True},
    "no valid keys": lambda rng, lead, h, lq, lk, dtype: {"key_lengths": 0},
    "softcap": lambda rng, lead, h, lq, lk, dtype: {"softcap": 0.7},
    "scale": lambda rng, lead, h, lq, lk, dtype: {"scale": 0.3},
    "scale of each head": lambda rng, lead, h, lq, lk, dtype: {"scale": rng.uniform(-1, 1, h)},
    "bias": lambda rng, lead, h, lq, lk, dtype: {"bias": _bias(rng, (*lead, h, lq, lk), dtype, 0.2)},
    "bias of keys": lambda rng, lead, h, lq, lk, dtype: {"bias": _bias(rng, (lk,), dtype, 0.2)},
    "bias of queries": lambda rng, lead, h, lq, lk, dtype: {"bias": _bias(rng, (lq, 1), dtype, 0.2)},
    "bias of heads": lambda rng, lead, h, lq, lk, dtype: {"bias": _bias(rng, (h, 1, lk), dtype)},
    "transposed bias": lambda rng, lead, h, lq, lk, dtype: {"bias": _bias(rng, (lk, lq), dtype, 0.2).T},
    "mask": lambda rng, lead, h, lq, lk, dtype: {"mask": _empty_rows(rng.random((*lead, h, lq, lk)) < 0.3)},
    "mask of keys": lambda rng, lead, h, lq, lk, dtype: {"mask": rng.random(lk) < 0.5},
    "mask of queries": lambda rng, lead, h, lq, lk, dtype: {"mask": rng.random((lq, 1)) < 0.5},
    "mask of heads": lambda rng, lead, h, lq, lk, dtype: {"mask": rng.random((h, 1, 1)) < 0.5},
    "mask of entries": lambda rng, lead, h, lq, lk, dtype: {"mask": rng.random((*lead, 1, 1, lk)) < 0.5},
    "one mask for all": lambda rng, lead, h, lq, lk, dtype: {"mask": np.array(True)},
    "nothing allowed": lambda rng, lead, h, lq, lk, dtype: {"mask": np.array(False)},
    "mask in odd strides": lambda rng, lead, h, lq, lk, dtype: {"mask": (rng.random((lk, 2 * lq + 1)) < 0.5)[::-1, 1::2].T},
    "sinks": lambda rng, lead, h, lq, lk, dtype: {"sinks": rng.standard_normal(h) * 3},
    "sinks of -inf": lambda rng, lead, h, lq, lk, dtype: {"sinks": np.where(np.arange(h) % 2, 0.5, -INF), "causal": True, "query_offset": -1},
    "sinks and empty rows": lambda rng, lead, h, lq, lk, dtype: {"sinks": rng.standard_normal(h), "mask": _empty_rows(np.ones((lq, lk), bool))},
    "dropout": lambda rng, lead, h, lq, lk, dtype: {"dropout": 0.3, "seed": 2**64 - 5},
    "sparse": lambda rng, lead, h, lq, lk, dtype: {"mask": scipy.sparse.random_array((lq, lk), density=0.1, rng=rng).tocsr()},
    "sparse by head": lambda rng, lead, h, lq, lk, dtype: {"mask": scipy.sparse.random_array((h, lq, lk), density=0.2, rng=rng)},
    "empty sparse": lambda rng, lead, h, lq, lk, dtype: {"mask": scipy.sparse.csr_array((lq, lk), dtype=bool)},
    "pattern": lambda rng, lead, h, lq, lk, dtype: {"mask": Stripes(), "query_offset": -4},
    "pattern of blocks": lambda rng, lead, h, lq, lk, dtype: {"mask": Blocks(), "query_offset": 5},
    "pattern of entries": lambda rng, lead, h, lq, lk, dtype: {"mask": PerBatch(), "query_offset": rng.integers(-9, 9, lead)},
    "pattern and the rest": lambda rng, lead, h, lq, lk, dtype: {
        "mask": Blocks(), "causal": True, "query_offset": "end", "window": (90, -1), "key_lengths": rng.integers(lk // 2, lk + 1, lead),
        "bias": _bias(rng, (h, lq, lk), dtype, 0.1), "softcap": 2.0, "sinks": rng.standard_normal(h), "dropout": 0.2, "seed": 3,
    },
    "mask and the rest": lambda rng, lead, h, lq, lk, dtype: {
        "mask": rng.random((h, lq, lk)) < 0.6, "causal": True, "query_offset": "end", "window": (90, -1), "softcap": 2.0,
        "bias": _bias(rng, (1, lq, lk), dtype, 0.1), "key_lengths": rng.integers(lk // 2, lk + 1, lead), "sinks": rng.standard_normal(h),
        "scale": 0.4,
    },
}  # fmt: skip


@st.composite
def calls(draw):
    """A small call with any combination of options."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lead = draw(st.sampled_from([(), (1,), (2,), (2, 2)]))
    hk, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lq, lk = draw(st.one_of(st.integers(0, 5), st.integers(6, 80))), draw(st.one_of(st.integers(0, 8), st.integers(9, 260)))
    d, dv = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    hq, dtype = hk * group, draw(st.sampled_from(list(FLOATS.values())))
    arrays = [rng.standard_normal(s).astype(dtype) for s in ((*lead, hq, lq, d), (*lead, hk, lk, d), (*lead, hk, lk, dv))]
    full = (*lead, hq, lq, lk)

    def some_axes():
        shape = tuple(n if draw(st.booleans()) else 1 for n in full)
        return shape[draw(st.integers(0, len(shape) - 1)) :]

    options = {"causal": draw(st.booleans())}
    if draw(st.booleans()):
        options["window"] = (draw(st.integers(-1, 60)), draw(st.integers(-1, 60)))
    options["query_offset"] = draw(st.one_of(st.just("end"), st.integers(-70, 260), st.sampled_from([0, 2**62, -(2**62)])))
    if options["query_offset"] != "end" and draw(st.booleans()):
        options["query_offset"] = rng.integers(-70, 260, lead)
    if draw(st.booleans()):
        options["key_lengths"] = rng.integers(0, lk + 1, lead)
    kind = draw(st.sampled_from(["none", "bool", "sparse", "sparse 3-D", "stripes", "blocks", "entries"]))
    if kind == "bool":
        options["mask"] = rng.random(some_axes()) < draw(st.sampled_from([0.05, 0.5, 0.95]))
    elif kind != "none":
        options["mask"] = {
            "sparse": lambda: scipy.sparse.random_array((lq, lk), density=0.2, rng=rng).tocsr(),
            "sparse 3-D": lambda: scipy.sparse.random_array((hq, lq, lk), density=0.2, rng=rng),
            "stripes": Stripes, "blocks": Blocks, "entries": PerBatch,
        }[kind]()  # fmt: skip
    if draw(st.booleans()):
        options["bias"] = _bias(rng, some_axes(), dtype, draw(st.sampled_from([0.0, 0.3])))
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([0.0, -0.5, 1.0, rng.uniform(0, 1, hq)]))
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([0.1, 5.0, 1e30]))
    if draw(st.booleans()):
        options["sinks"] = np.where(rng.random(hq) < 0.3, -INF, rng.standard_normal(hq))
    if draw(st.booleans()):
        options |= {"dropout": draw(st.sampled_from([0.1, 0.9])), "seed": draw(st.integers(0, 2**64 - 1))}
    return arrays, options
