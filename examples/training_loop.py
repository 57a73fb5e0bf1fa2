"""A training from the first step to the last: batches, AdamW, a warm-up, early stopping, and going on after an interruption.

    python examples/training_loop.py --out curves.png      needs ruvattn and safetensors, and matplotlib for the picture; five seconds

The task is recall. A sequence is 8 pairs of a key and one of 4 values, in any order, and a question: a key with much noise. The answer is the
value that came with it. That takes attention: which of the 8 it is, is another in every sequence.

    question (B, 16) ─► W_q ─┐
    pairs (B, 8, 20) ─► W_k ─┼─► cross (2 heads) ─► linear ─► logits (B, 4) ─► cross_entropy_loss
                     ─► W_v ─┘

What is printed:

* The history of `Trainer`: loss, and accuracy on sequences that are watched, at some of the epochs; at which it stopped, and which was the best.
  There are so few examples that the loss goes on falling when nothing better is learned any more.
* Accuracy on the test, after the best parameters were put back; with all pairs weighed alike, where it can only name the most frequent value; and
  of the rule that was never told, to take the key with the largest dot product.
* Interruption: a second training stops after a few epochs. A third, which knows nothing of it but a file, goes on. It ends with the same
  parameters as the first, to the last bit.

examples/digits.py trains a whole transformer in this way, examples/two_tasks.py two tasks one after the other.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ruvattn
from ruvattn.training import AdamW, Trainer, WarmupCosine, cross_entropy_loss

PAIRS, KEY_WIDTH, VALUES = 8, 16, 4
LEARNT, WATCHED, TEST = 2000, 1000, 4000
BATCH, EPOCHS, PATIENCE = 50, 40, 6

Arrays = dict[str, np.ndarray]


def make_sequences(count: int, seed: int) -> Arrays:
    """Return questions (count, 16), pairs (count, 8, 20) and answers (count,)."""
    rng = np.random.default_rng([2, seed])
    keys = rng.standard_normal((count, PAIRS, KEY_WIDTH))
    values = rng.integers(0, VALUES, (count, PAIRS))
    asked = rng.integers(0, PAIRS, count)
    rows = np.arange(count)
    questions = keys[rows, asked] + 0.8 * rng.standard_normal((count, KEY_WIDTH))
    pairs = np.concatenate([keys, np.eye(VALUES)[values]], axis=-1)
    return {"questions": questions.astype(np.float32), "pairs": pairs.astype(np.float32), "answers": values[rows, asked]}


class Model:
    """Attention from a question to the pairs, and a linear layer that reads the answer.

    Parameters
    ----------
    seed : int
        Of the initial parameters.
    """

    def __init__(self, seed: int = 0) -> None:
        width = KEY_WIDTH + VALUES  # of a pair
        self.layer: Any = ruvattn.create("cross", embed_dim=KEY_WIDTH, num_heads=2, key_dim=width, value_dim=width, seed=seed)
        self.read = (0.1 * np.random.default_rng(seed).standard_normal((KEY_WIDTH, VALUES))).astype(np.float32)

    def parameters(self) -> Arrays:
        """Return the arrays themselves, by name."""
        return {**self.layer.parameters(), "read": self.read}

    def __call__(self, batch: Arrays, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of the answers, and what the attention found."""
        found = self.layer(batch["questions"][:, None], batch["pairs"], **options)[:, 0]
        return found @ self.read, found

    def step(self, batch: Arrays) -> tuple[float, Arrays]:
        """Return the loss of a batch, and the gradients of all parameters."""
        logits, found = self(batch)
        loss, gradients = cross_entropy_loss(logits, batch["answers"])
        below = self.layer.backward((gradients.logits @ self.read.T)[:, None])
        return loss, {**below.params, "read": found.T @ gradients.logits}

    def accuracy(self, data: Arrays, **options: Any) -> float:
        """Return the share of right answers."""
        return float((self(data, **options)[0].argmax(1) == data["answers"]).mean())


def make_trainer(model: Model, watched: Arrays, seed: int, checkpoint: Path | None = None) -> Trainer:
    """Return what trains a model: everything that a training which goes on has to have alike."""
    steps = EPOCHS * LEARNT // BATCH
    schedule = WarmupCosine(0.01, warmup_steps=steps // 20, total_steps=steps)
    return Trainer(
        model.parameters(), AdamW(schedule, weight_decay=0.01), model.step, max_norm=1.0, validate=lambda: model.accuracy(watched), maximize=True,
        patience=PATIENCE, checkpoint=checkpoint, seed=seed, progress=False,
    )  # fmt: skip


def run(learnt: Arrays, watched: Arrays, seed: int) -> tuple[Model, dict[str, list[float]]]:
    """Train, and print the history."""
    model = Model(seed)
    trainer = make_trainer(model, watched, seed)
    history = trainer.fit(learnt, epochs=EPOCHS, batch_size=BATCH)
    print(f"{'epoch':>6}{'loss':>8}{'watched':>9}{'rate':>9}")
    for epoch in sorted({*range(0, trainer.epoch, 4), trainer.best_epoch, trainer.epoch - 1}):
        note = "  the best" if epoch == trainer.best_epoch else ""
        print(f"{epoch + 1:6}{history['loss'][epoch]:8.3f}{history['validation'][epoch]:9.1%}{history['learning_rate'][epoch]:9.5f}{note}")
    why = f"{PATIENCE} epochs without a better one" if trainer.stopped else "the last"
    print(f"stopped after epoch {trainer.epoch} ({why}), the parameters of epoch {trainer.best_epoch + 1} put back")
    return model, history


def interrupted(learnt: Arrays, watched: Arrays, seed: int, folder: Path) -> Model:
    """Train for three epochs; then let another trainer, of another model, go on from the file."""
    path = folder / "run.safetensors"
    make_trainer(Model(seed), watched, seed, path).fit(learnt, epochs=3, batch_size=BATCH)
    print(f"\ninterrupted after epoch 3; {path.name} has {path.stat().st_size:,} bytes: parameters, moments, history, random numbers")
    model = Model(seed + 1)  # other parameters: what it ends with comes from the file
    trainer = make_trainer(model, watched, seed + 1, path)
    trainer.resume(path)
    trainer.fit(learnt, epochs=EPOCHS, batch_size=BATCH)
    return model


def draw(history: dict[str, list[float]], path: str | Path) -> None:
    """Draw loss and accuracy."""
    from curves import curve, panels

    with panels(path, ["loss", "accuracy on what is watched"]) as (loss, accuracy):
        curve(loss, history["loss"], "learnt")
        curve(accuracy, history["validation"], "watched", colour=1)
        accuracy.set_ylim(0, 1)


def main(arguments: list[str] | None = None) -> None:
    """Train, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw the curves to")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences, the initial parameters and the order (default: 0)")
    options = parser.parse_args(arguments)
    ruvattn.set_num_threads(1)  # calls of this size gain nothing by more
    learnt, watched, test = (make_sequences(count, 10 * options.seed + part) for part, count in enumerate((LEARNT, WATCHED, TEST)))
    model, history = run(learnt, watched, options.seed)
    nearest = (test["questions"][:, None] @ test["pairs"][..., :KEY_WIDTH].swapaxes(1, 2))[:, 0].argmax(1)
    by_rule = (test["pairs"][np.arange(TEST), nearest, KEY_WIDTH:].argmax(1) == test["answers"]).mean()
    right, alike = model.accuracy(test), model.accuracy(test, scale=0.0)
    print(f"\ntest: {right:.1%} right; all pairs weighed alike: {alike:.1%}; the key of the largest dot product: {by_rule:.1%}")
    with tempfile.TemporaryDirectory() as folder:
        other = interrupted(learnt, watched, options.seed, Path(folder))
    same = all(np.array_equal(array, other.parameters()[name]) for name, array in model.parameters().items())
    print(f"the training that went on from it ends with {'the same parameters, to the last bit' if same else 'other parameters'}")
    if options.out:
        draw(history, options.out)


if __name__ == "__main__":
    main()
