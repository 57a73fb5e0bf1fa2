"""Long sequences: which patterns find what lies far back, how many pairs they cost, and how patterns combine.

    python examples/sparse.py --out patterns.png       needs ruvattn and ruvattn-sparse, and matplotlib for the picture; five seconds

The task is recall. A sequence of 16,384 tokens has a key and a value in each; 64 queries at its end each ask for the value of one key, somewhere
back. A query is that key and noise, so that a dense layer finds nearly all. Who doesn't look there doesn't find it:

    tokens   0 ────────────────────────────────────────────────────────────────────────── 16,383
    asked         ▲        ▲     ▲                ▲          ▲                ▲     ▲     └ queries
    window                                                                        ▒▒▒▒▒▒▒▒▒▒
    strided  ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒    ▒▒▒▒▒

What is printed:

* For each pattern its share of the pairs below the diagonal, the time of a causal call over the whole sequence (the second), and how many of the
  64 are found. What a fixed pattern finds is what it looks at: choose one when you know where the answers are. `topk_attention` looks at
  everything once, and keeps the 32 largest logits of each row: it finds what dense attention finds, and its time is that of one pass.
* That sets of pairs combine, by `&`, `|` and `~`, and with arrays; and that counts of pairs add up as those of sets do.
* A layer, `streaming`, that reads on and on: of a sequence of any length, the last query looks at 516 keys.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import ruvattn
from ruvattn_sparse import BigBird, Streaming, Strided, Windowed, as_sparse_mask

LENGTH, WIDTH, ASKED = 16_384, 32, 64
GAIN = 5.0


def make_task(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return queries, keys and values, one head (L, width), and which token each of the last 64 queries asks for."""
    rng = np.random.default_rng(seed)
    keys, values, queries = rng.standard_normal((3, LENGTH, WIDTH), dtype=np.float32)
    keys *= np.sqrt(WIDTH) / np.linalg.norm(keys, axis=-1, keepdims=True)
    # A third of what is asked for lies in the last 512 tokens, the rest anywhere.
    near = rng.integers(LENGTH - 512, LENGTH - ASKED, ASKED // 3)
    far = rng.choice(LENGTH - 512, ASKED - len(near), replace=False)
    wanted = rng.permutation(np.concatenate([near, far]))
    queries[-ASKED:] = GAIN * (keys[wanted] + 0.4 * queries[-ASKED:])
    return queries, keys, values, wanted


def found(out: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> int:
    """Return how many of the last queries got the value that they asked for, rather than another or a mix."""
    got, right = out[-ASKED:], values[wanted]
    return int((np.linalg.norm(got - right, axis=-1) < 0.5 * np.linalg.norm(right, axis=-1)).sum())


def compare(task: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Attend with one pattern after the other, and print what it costs and finds."""
    q, k, v, wanted = task
    patterns: dict[str, Any] = {
        "dense": None,
        "window of 256": Windowed(256),
        "every 128th": Strided(128, window_size=0),
        "both": Strided(128, window_size=256),
        "first 4, last 1,024": Streaming(first=4, window=1024),
        "BigBird": BigBird(64, length=LENGTH),
    }
    causal = ruvattn.Causal()
    triangle = LENGTH * (LENGTH + 1) // 2
    print(f"{'':24}{'pairs':>8}{'ms':>8}{'found':>7}   of {ASKED} values among {LENGTH:,} tokens")
    for name, pattern in patterns.items():
        ruvattn.attention(q, k, v, mask=pattern, causal=True)  # what is planned for a pattern is kept for the next call with it
        started = time.perf_counter()
        out = ruvattn.attention(q, k, v, mask=pattern, causal=True)
        spent = time.perf_counter() - started
        count = triangle if pattern is None else as_sparse_mask(pattern & causal).count(LENGTH, LENGTH, heads=1)
        print(f"{name:24}{count / triangle:8.2%}{1000 * spent:8.0f}{found(out, v, wanted):7}")
    started = time.perf_counter()
    out = ruvattn.topk_attention(q, k, v, top_k=32, causal=True)
    spent = time.perf_counter() - started
    print(f"{'the 32 largest logits':24}{32 / LENGTH * 2:8.2%}{1000 * spent:8.0f}{found(out, v, wanted):7}")


def combine() -> None:
    """Print that patterns are sets of pairs."""
    length = 1000
    window, stride, causal = Windowed(16), Strided(64, window_size=0), ruvattn.Causal()

    def count(pattern: Any) -> int:
        return int(as_sparse_mask(pattern).count(length, length))

    both, either = count(window & stride), count(window | stride)
    print(f"\npairs of {length:,} tokens: window {count(window):,}, every 64th {count(stride):,}, in both {both:,}, in either {either:,}")
    print(f"  {count(window):,} + {count(stride):,} = {both:,} + {either:,}: {count(window) + count(stride) == both + either}")
    print(f"  causal, and outside of the window: {count(~window & causal):,}")
    documents = np.repeat(np.arange(5), 200)  # five documents of 200 tokens, one after the other
    apart = np.equal.outer(documents, documents)
    print(f"  window within documents, a pattern and an array: {count(window & apart):,}")
    print("\nthe picture of a window of 2 and a global token, causal, 24 tokens:")
    print("\n".join("  " + line for line in as_sparse_mask(Windowed(2, global_tokens=1) & causal).picture(24, 24).splitlines()))


def stream(task: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Ask a streaming layer at the end of sequences of growing length."""
    _, k, v, _ = task
    layer = ruvattn.create("streaming", embed_dim=WIDTH, num_heads=4, first=4, window=512)
    print("\nstreaming, first 4 and last 512: keys that the last query attends to, of")
    for length in (1000, 4000, LENGTH):
        layer.forward(k[length - 1], k[:length], v[:length])
        weights = layer.get_attention_weights()
        print(f"  {length:6,}: {int((weights.reshape(4, length)[0] > 0).sum())}")


def draw(path: str | Path) -> None:
    """Draw the patterns, for 512 tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    causal, length = ruvattn.Causal(), 512
    window, stride = Windowed(24), Strided(32, window_size=1)
    shown = {
        "window": window,
        "every 32nd": stride,
        "window | every 32nd": window | stride,
        "first 4, last 64": Streaming(first=4, window=64),
        "BigBird": BigBird(16, length=length),
        "~window": ~window,
    }
    figure = Figure(figsize=(9, 6.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, (title, pattern) in zip(figure.subplots(2, 3).ravel(), shown.items(), strict=True):
        mask = as_sparse_mask(pattern & causal)
        pairs = mask.to_dense(length, length, heads=1).reshape(length, length)
        axes.imshow(pairs, cmap="Blues", interpolation="antialiased")
        axes.set_title(f"{title}, causal: {2 * pairs.sum() / length / (length + 1):.0%}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(path, format="png", dpi=100)
    print(f"\n{path} shows the patterns")


def main(arguments: list[str] | None = None) -> None:
    """Compute, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw the patterns to")
    options = parser.parse_args(arguments)
    task = make_task()
    compare(task)
    combine()
    stream(task)
    if options.out:
        draw(options.out)


if __name__ == "__main__":
    main()
