"""Layers: projections, grouped queries, weights that can be read, decoding token by token, and a checkpoint.

    python examples/multi_head.py --out heads.png      needs ruvattn and safetensors, and matplotlib for the picture; a second

A layer is made by name, and splits the width into heads:

    x (batch, tokens, E) ─► W_q, W_k, W_v ─► heads ─► attention ─► heads beside each other ─► W_o ─► (batch, tokens, E)

What is printed, in this order:

* Two heads whose matrices are written by hand, into the live arrays of `layer.parameters()`: the first looks at the token before, the second at
  tokens that are the same as the query's. `get_attention_weights` shows that they do.
* Those two in a row are an induction head (Olsson et al., 2022, "In-context Learning and Induction Heads"): a first layer writes down beside each
  token which one came before it, and a second looks for places whose note is the present token. It reads off what came next the last time, and so
  continues a text that repeats itself, though nothing was ever trained.
* Grouped queries: 8 query heads over 2 key heads are the layer with 8 key heads whose matrices repeat, at a quarter of the cache.
* Decoding with a cache, one token at a time, is the causal call over the whole.
* A checkpoint: what another layer has loaded from the file computes the same to the bit.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ruvattn

LETTERS = "abcdefgh"
PLACES = 16
GAIN = 30.0
"""What matches are multiplied by: the softmax over them is nearly 0 or 1."""


def embed(text: str) -> np.ndarray:
    """Return a row for each letter: 8 columns tell which letter, 16 columns where; 8 are left empty for what a layer writes down."""
    x = np.zeros((len(text), len(LETTERS) + PLACES + len(LETTERS)), dtype=np.float32)
    x[np.arange(len(text)), [LETTERS.index(letter) for letter in text]] = 1
    x[np.arange(len(text)), len(LETTERS) + np.arange(len(text))] = 1
    return x


def by_hand() -> tuple[ruvattn.Attention, ruvattn.Attention]:
    """Return two layers of two heads of 16 whose matrices are written by hand."""
    letter = slice(0, 8)
    place = slice(8, 24)
    note = slice(24, 32)
    layers = []
    for _ in range(2):
        layer = ruvattn.create("multihead", embed_dim=32, num_heads=2, scale=1.0, causal=True)
        for array in layer.parameters().values():  # the arrays themselves: what is written to them counts
            array[...] = 0
        layers.append(layer)
    first, second = (layer.parameters() for layer in layers)
    # First layer, head 0, columns 0 to 15: the place of the query, one earlier, against the place of the key. It writes the letter found to the note.
    first["W_q"][place, 0:16] = GAIN * np.eye(PLACES, k=-1)
    first["W_k"][place, 0:16] = np.eye(PLACES)
    first["W_v"][letter, 0:8] = np.eye(8)
    first["W_o"][0:8, note] = np.eye(8)
    # Head 1, columns 16 to 31: the letter of the query against that of the key.
    first["W_q"][letter, 16:24] = GAIN * np.eye(8)
    first["W_k"][letter, 16:24] = np.eye(8)
    # Second layer, head 0: the letter of the query against the note of the key. It reads off the letter of that key.
    second["W_q"][letter, 0:8] = GAIN * np.eye(8)
    second["W_k"][note, 0:8] = np.eye(8)
    second["W_v"][letter, 0:8] = np.eye(8)
    second["W_o"][0:8, letter] = np.eye(8)
    return layers[0], layers[1]


def show_heads(text: str) -> np.ndarray:
    """Print what the two heads look at, and return their weights, (2, tokens, tokens)."""
    first, second = by_hand()
    first(embed(text))
    weights: np.ndarray = first.get_attention_weights()
    before = weights[0].diagonal(-1).mean()
    alike = np.equal.outer(list(text), list(text)) & np.tri(len(text), dtype=bool)
    print(f"text {text!r}, two heads written by hand:")
    print(f"  head 0: {before:.1%} of the attention is on the token before")
    print(f"  head 1: {(weights[1] * alike).sum(1).mean():.1%} is on tokens that are the same, and {alike.mean():.0%} of all pairs are")
    continued = text
    for _ in range(4):
        x = embed(continued)
        noted = x + first(x)
        found = second(noted)[-1, : len(LETTERS)]
        continued += LETTERS[int(found.argmax())]
    print(f"  two such layers in a row continue it: {text} → {continued[len(text) :]}")
    return weights


def show_grouped_queries(x: np.ndarray) -> ruvattn.Attention:
    """Compare grouped queries with repeated heads, and return the layer."""
    grouped = ruvattn.create("multihead", embed_dim=64, num_heads=8, num_kv_heads=2, seed=1)
    full = ruvattn.create("multihead", embed_dim=64, num_heads=8)
    for name, array in full.parameters().items():
        shared = grouped.parameters()[name]
        # Heads 0 to 3 share key head 0, heads 4 to 7 key head 1.
        array[...] = np.repeat(shared.reshape(64, 2, 8), 4, axis=1).reshape(64, 64) if name in ("W_k", "W_v") else shared
    difference = np.abs(grouped(x, causal=True) - full(x, causal=True)).max()
    few, many = (2 * 8 * heads * 4 for heads in (2, 8))  # key and value, 8 wide, 4 bytes each
    print(f"\n8 query heads over 2 key heads: from 8 that repeat by {difference:.1e} at most")
    print(f"  parameters {grouped.num_parameters} instead of {full.num_parameters}, cache {few} bytes a token instead of {many}")
    return grouped


def show_decoding(layer: ruvattn.Attention, x: np.ndarray) -> None:
    """Go through a sequence token by token, with a cache of keys and values."""
    whole = layer(x, causal=True)
    p = layer.parameters()
    keys, values = (np.empty((2, len(x), 8), dtype=np.float32) for _ in range(2))  # 2 key heads of width 8
    decoded = np.empty_like(x)
    for at, token in enumerate(x):
        keys[:, at], values[:, at] = (token @ p["W_k"]).reshape(2, 8), (token @ p["W_v"]).reshape(2, 8)
        query = (token @ p["W_q"]).reshape(8, 1, 8)
        # "end": the query stands at the last key, so that causal leaves it all of them.
        out = ruvattn.attention(query, keys[:, : at + 1], values[:, : at + 1], causal=True, query_offset="end")
        decoded[at] = out.reshape(64) @ p["W_o"]
    print(f"\n{len(x)} tokens decoded one at a time: from the causal call over all of them by {np.abs(decoded - whole).max():.1e} at most")


def show_checkpoint(layer: Any, x: np.ndarray, folder: Path) -> None:
    """Save a layer, make another from its configuration, and load."""
    path = folder / "layer.safetensors"
    layer.save_checkpoint(path)
    other: Any = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
    other.parameters()["W_q"][...] = 0  # so that it is the file which makes them equal
    before = np.array_equal(layer(x), other(x))
    other.load_checkpoint(path)
    after = np.array_equal(layer(x), other(x))
    print(f"\ncheckpoint of {path.stat().st_size} bytes: the other layer computes the same before loading: {before}; after: {after}")


def draw(text: str, weights: np.ndarray, path: str | Path) -> None:
    """Draw the weights of both heads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, head, title in zip(figure.subplots(1, 2), weights, ("head 0: the token before", "head 1: the same token"), strict=True):
        axes.imshow(head, cmap="magma", vmin=0, vmax=1)
        axes.set_title(title, fontsize=11)
        axes.set_xticks(range(len(text)), list(text))
        axes.set_yticks(range(len(text)), list(text))
    figure.savefig(path, format="png", dpi=100)
    print(f"\n{path} shows the heads")


def main(arguments: list[str] | None = None) -> None:
    """Compute, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw the two heads to")
    options = parser.parse_args(arguments)
    text = "adcbegadcb"
    weights = show_heads(text)
    x = np.random.default_rng(0).standard_normal((50, 64), dtype=np.float32)
    layer = show_grouped_queries(x)
    show_decoding(layer, x)
    with tempfile.TemporaryDirectory() as folder:
        show_checkpoint(layer, x, Path(folder))
    if options.out:
        draw(text, weights, options.out)


if __name__ == "__main__":
    main()
