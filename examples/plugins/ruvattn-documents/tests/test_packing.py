"""From lists to batches and back."""

import re
from pathlib import Path

import numpy as np
import pytest
import ruvattn
from ruvattn.errors import DimensionMismatchError, InvalidInputError

from ruvattn_documents import Packing, pack


def documents(counts, *width, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, *width)) for count in counts]


@pytest.mark.parametrize("length", [None, 9, 40])
def test_what_was_packed_comes_out_again(length):
    arrays = documents([3, 8, 0, 1, 5, 5, 2, 8], 4)
    batch, packing = pack(arrays, length, fill=np.nan)
    assert batch.shape == (*packing.shape, 4) and packing.shape[1] == (length or 8)
    assert np.isnan(batch).sum() == 4 * (packing.shape[0] * packing.shape[1] - 32)
    for before, after in zip(arrays, packing.unpack(batch), strict=True):
        assert np.array_equal(before, after)
    assert max(map(sum, packing.lengths)) <= packing.shape[1]
    assert sorted(count for row in packing.lengths for count in row) == [0, 1, 2, 3, 5, 5, 8, 8]


def test_few_rows_are_enough():
    counts = np.random.default_rng(0).integers(1, 101, 200)
    packing = Packing(counts, 100)
    assert packing.shape[0] <= np.ceil(11 / 9 * np.ceil(counts.sum() / 100)) + 1


def test_each_document_is_attended_as_if_it_were_alone():
    arrays = documents([3, 8, 1, 5, 5, 2, 8], 6)
    batch, packing = pack(arrays, 10)
    layer = ruvattn.create("documents", embed_dim=6, num_heads=2, causal=True)
    for alone, by_lengths, by_mask in zip(
        arrays, packing.unpack(layer(batch, lengths=packing.lengths)), packing.unpack(layer(batch, mask=packing.mask)), strict=True
    ):
        np.testing.assert_allclose(by_lengths, layer(alone), rtol=0, atol=1e-13)
        assert np.array_equal(by_lengths, by_mask)


def test_gradients_of_each_document_are_those_of_it_alone():
    arrays, upstream = documents([3, 8, 1, 5], 6), documents([3, 8, 1, 5], 6, seed=1)
    batch, packing = pack(arrays, 9)
    layer = ruvattn.create("documents", embed_dim=6, num_heads=2)
    _, context = layer.forward_with_context(batch, mask=packing.mask)
    found = packing.unpack(layer.backward(packing.pack(upstream), context).total())
    for array, gradient, document in zip(arrays, upstream, found, strict=True):
        _, context = layer.forward_with_context(array)
        np.testing.assert_allclose(document, layer.backward(gradient, context).total(), rtol=0, atol=1e-13)


def test_axes_of_heads():
    packing = Packing([3, 2, 4], 5)
    heads = np.random.default_rng(0).standard_normal((2, 7, 5, 4))
    for axis in (2, -2):
        for found, (row, start, stop) in zip(packing.unpack(heads, axis), packing.places, strict=True):
            assert np.array_equal(found, heads[row, :, start:stop])
    assert [found.shape for found in packing.unpack(heads[..., 0], -1)] == [(7, 3), (7, 2), (7, 4)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pack([]), InvalidInputError, "at least one token"),
        (lambda: pack([np.empty((0, 3))]), InvalidInputError, "at least one token"),
        (lambda: pack([np.ones(3), 1.0]), DimensionMismatchError, "document 1 must be an array with an axis of tokens"),
        (lambda: pack([np.ones((3, 2)), np.ones((3, 4))]), DimensionMismatchError, r"document 1 must be \(3, 2\) of float64, got \(3, 4\)"),
        (lambda: pack([np.ones(3), np.ones(3, int)]), DimensionMismatchError, "document 1 must be .* of int64"),
        (lambda: pack([np.ones(3), np.ones(7)], 5), InvalidInputError, "document 1 has 7 tokens, and a row has room for 5"),
        (lambda: pack([np.ones(3)], 5.5), InvalidInputError, "length must be an int from 0, got 5.5"),
        (lambda: Packing([[3], [4]]), InvalidInputError, "one sequence of ints"),
        (lambda: Packing([3, 2]).pack([np.ones(3)]), DimensionMismatchError, "for 2 documents, got 1"),
        (lambda: Packing([3, 2]).pack([np.ones(3), np.ones(3)]), DimensionMismatchError, r"document 1 must be \(2,\)"),
        (lambda: Packing([3, 2]).unpack(np.ones((2, 4))), DimensionMismatchError, r"2 rows of 3, got a batch of shape \(2, 4\)"),
        (lambda: Packing([3, 2]).unpack(np.ones((2, 3)), 2), InvalidInputError, "axis must be"),
    ],
)
def test_what_cannot_be_packed_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_the_readme_shows_runs():
    readme = Path(__file__).parent.parent / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, str(readme), "exec"), {})
