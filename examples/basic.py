"""The first ten minutes: attention on arrays, its masks, the log-sum-exp, and a ranking.

    python examples/basic.py --out basic.png       needs ruvattn alone, and matplotlib for the picture; a second

Arrays go in and an array comes out, for any number of heads and any leading axes:

    q (…, heads, queries, width) ─┐
    k (…, heads, keys, width)    ─┼─► ruvattn.attention(q, k, v, causal=…, mask=…, key_lengths=…) ─► out (…, heads, queries, width of v)
    v (…, heads, keys, width)    ─┘

What is printed, in this order:

* The result beside plain NumPy in float64: they differ by rounding.
* What `causal=True` promises: when the last half of a sequence is replaced, the first half of the output stays what it was, bit by bit. And what
  every mask promises: a key that is masked may hold NaN.
* Padding: two sequences of different lengths in one array, with `key_lengths`, are what each is on its own.
* The log-sum-exp: attention over half of the keys and over the other half are put together to attention over all, by `merge_states`.
* Retrieval: the 418 sentences that ship with ruvattn are ranked by their logits for one of them, `attention_topk` finds the first five without
  making the others, and the weights show on which topics the attention of all of them falls.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import ruvattn
from ruvattn.demo import load_sentences

HEADS, TOKENS, WIDTH = 4, 256, 32

SCALE = 20.0
"""Of the logits of sentences, whose embeddings have length 1."""


def plain_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return attention as its formula reads, in float64, with all weights in one array."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    logits = np.where(mask, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def show_arrays(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """Compare with plain NumPy, and change what a mask hides."""
    out = ruvattn.attention(q, k, v, causal=True)
    exact = plain_attention(q, k, v, np.tri(TOKENS, dtype=bool))
    error = np.abs(out - exact).max()
    print(f"{HEADS} heads of {TOKENS} tokens, causal: {out.shape}, {out.dtype}; from plain NumPy in float64 by {error:.1e} at most")

    half = TOKENS // 2
    other_k, other_v = k.copy(), v.copy()
    other_k[:, half:] = 7.0
    other_v[:, half:] = np.nan
    other = ruvattn.attention(q, other_k, other_v, causal=True)
    same = np.array_equal(out[:, :half], other[:, :half])
    print(f"the last half of the keys replaced, their values by NaN: the first half of the output is {'the same' if same else 'another'}")


def show_padding(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """Put sequences of 256 and of 100 tokens into one batch."""
    lengths = np.array([TOKENS, 100])
    batch = ruvattn.attention(*(np.stack([x, x]) for x in (q, k, v)), key_lengths=lengths)
    alone = ruvattn.attention(q, k[:, :100], v[:, :100])
    print(f"key_lengths={lengths.tolist()} in one batch: from the short one alone by {np.abs(batch[1] - alone).max():.1e} at most")


def show_parts(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """Attend to two halves of the keys, and merge."""
    parts = [ruvattn.attention(q, k[:, part], v[:, part], return_lse=True) for part in (slice(0, 128), slice(128, TOKENS))]
    out, lse = ruvattn.merge_states(*zip(*parts, strict=True))
    whole, whole_lse = ruvattn.attention(q, k, v, return_lse=True)
    errors = np.abs(out - whole).max(), np.abs(lse - whole_lse).max()
    print(f"two halves of the keys, merged: from all of them at once by {errors[0]:.1e}, the log-sum-exp by {errors[1]:.1e}")


def show_ranking(words: str) -> np.ndarray:
    """Rank the sentences for one of them, and return the weights of each topic for each, (topics, topics)."""
    sentences = load_sentences()
    x = sentences.embeddings
    row = sentences.find(words)[0]
    logits = ruvattn.attention_logits(x[row : row + 1], x, scale=SCALE)[0]
    ranking = np.argsort(-logits, kind="stable")
    best, _ = ruvattn.attention_topk(x[row : row + 1], x, top_k=6, scale=SCALE)
    print(f"\n“{sentences.texts[row]}” ({sentences.topics[row]}), and what is most like it among {len(sentences)}:")
    for at in best[0, 1:]:
        print(f"  {logits[at] / SCALE:5.2f}  {sentences.topics[at]:12} {sentences.texts[at][:90]}")
    print(f"attention_topk finds {'the same six' if np.array_equal(best[0], ranking[:6]) else 'others'} as sorting all logits does")

    weights = ruvattn.attention_weights(x, x, scale=SCALE, mask=~np.eye(len(sentences), dtype=bool))  # nobody attends to itself
    topics = np.array(sentences.topics)
    names = list(dict.fromkeys(sentences.topics))
    by_topic = np.array([[weights[topics == one][:, topics == other].sum(1).mean() for other in names] for one in names])
    expected = np.array([(topics == one).sum() - 1 for one in names]) / (len(sentences) - 1)
    print("\nof the attention of a sentence, this much stays within its topic (in brackets: what chance would leave there):")
    for name, share, chance in zip(names, by_topic.diagonal(), expected, strict=True):
        print(f"  {name:14}{share:5.0%}  ({chance:.0%})  {'█' * round(40 * share)}")
    return weights


def draw(weights: np.ndarray, path: str | Path) -> None:
    """Draw the weights of all sentences for each other, which are sorted by topic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(np.sqrt(weights), cmap="magma")
    axes.set(xlabel="key", ylabel="query", title="Attention among sentences, sorted by topic")
    figure.savefig(path, format="png", dpi=100)
    print(f"\n{path} shows the weights")


def main(arguments: list[str] | None = None) -> None:
    """Compute, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw the weights of the sentences to")
    parser.add_argument("--sentence", default="Lake Baikal", help="words of the one that is ranked for (default: Lake Baikal)")
    options = parser.parse_args(arguments)
    q, k, v = np.random.default_rng(0).standard_normal((3, HEADS, TOKENS, WIDTH), dtype=np.float32)
    show_arrays(q, k, v)
    show_padding(q, k, v)
    show_parts(q, k, v)
    weights = show_ranking(options.sentence)
    if options.out:
        draw(weights, options.out)


if __name__ == "__main__":
    main()
