"""Attention within documents, written down plainly in float64: what everything else is compared with."""

import numpy as np

IDS = (
    [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3],
    [4, 4, 4, -1, -1, 2, 2, 9, -1],
    [0, 1, 1, 0, 0, 2, 1, -1, 0, 2, 2],  # in pieces
    [-1, -1, -1],
    [5],
)


def ids_of(lengths, length):
    """Return the number of the document at each position, −1 for padding, document by document."""
    if len(lengths) and np.ndim(lengths[0]):
        length = length or max(sum(row) for row in lengths)
        return np.array([ids_of(row, length) for row in lengths])
    tokens = [document for document, count in enumerate(lengths) for _ in range(count)]
    return np.array(tokens + [-1] * ((length or len(tokens)) - len(tokens)))


def same_document(ids):
    """Return the pairs, (..., L, L)."""
    ids = np.asarray(ids)
    return (ids[..., :, None] == ids[..., None, :]) & (ids[..., :, None] >= 0)


def attend(q, k, v, ids, *, causal=False, window=(-1, -1), mask=True):
    """Return softmax(q·kᵀ/√D) · v over the pairs, (..., H, L, D); ids are (L,) or (batch, L)."""
    i, j = np.arange(q.shape[-2])[:, None], np.arange(k.shape[-2])
    left, right = (side if side >= 0 else np.inf for side in window)
    pairs = same_document(ids)
    pairs = (pairs[:, None] if pairs.ndim == 3 else pairs) & (j >= i - left) & (j <= i + right) & mask
    if causal:
        pairs = pairs & (j <= i)
    weights = np.where(pairs, np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])), 0)
    total = weights.sum(-1, keepdims=True)
    return weights @ v / np.where(total > 0, total, 1)


def attend_heads(x, ids, num_heads, **options):
    """Return self-attention of heads beside each other, (batch, L, E)."""
    heads = x.reshape(*x.shape[:-1], num_heads, -1).swapaxes(-2, -3)
    return attend(heads, heads, heads, ids, **options).swapaxes(-2, -3).reshape(x.shape)
