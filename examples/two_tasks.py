"""Learning a second task without forgetting the first: elastic weight consolidation on handwritten digits.

    python examples/two_tasks.py --output two_tasks.png    needs ruvattn, scikit-learn and matplotlib; ten seconds

The transformer of digits.py learns to tell 0, 1, 2, 3 and 4 apart by five outputs; then the same five have to tell 5, 6, 7, 8 and 9 apart, and nobody
shows it the first ones any more. Trained as ever, it forgets them. With a penalty for moving the parameters that the first task needs (Kirkpatrick
et al., 2017, "Overcoming catastrophic forgetting in neural networks"), it keeps them and finds room for the second task in the others:

    task A ─► parameters, and their Fisher information ─┐
    task B ─► loss + strength/2 · Σ F (θ − θ_A)² ◄──────┘        strength 0 is training as ever

The Fisher information is the mean of squared gradients of log-likelihoods of labels that are drawn from what the model itself predicts.

With seeds 0 to 3, 99 to 100 % of the first five are told apart after the first task. After the second one trained as ever 31 to 47 % are, with
the penalty 91 to 97 %. What it costs is something of the second task, 89 to 94 instead of 97 to 99 %: the strength, 2000 here, decides between them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from curves import can_draw, curve, panels
from digits import SMOOTHING, Arrays, Images, Transformer, accuracy, load_images, split

import ruvattn
from ruvattn.training import AdamW, ElasticWeightConsolidation, Trainer, WarmupCosine, add_gradients, cross_entropy_loss

CLASSES = 5
"""Of each task, and outputs of the model, which both share."""

EPOCHS = 12
"""Of each task."""

STRENGTH = 2000.0


class Task(NamedTuple):
    """Images to learn from, and those of the test."""

    learnt: Images
    test: Images


def make_tasks(*, seed: int = 0) -> tuple[Task, Task]:
    """Return the tasks, with digits from 0 to 4 for classes; a fifth of each is for the test."""
    images = load_images()
    made = []
    for first in (0, CLASSES):
        those = (images.digits >= first) & (images.digits < first + CLASSES)
        test, learnt = split(Images(images.pixels[those], images.digits[those] - first), 0.2, seed=seed)
        made.append(Task(learnt, test))
    return made[0], made[1]


def train(
    model: Transformer, task: Task, tests: dict[str, Images], keep: ElasticWeightConsolidation | None = None, *, epochs: int = EPOCHS, seed: int = 0
) -> dict[str, list[float]]:
    """Train a model on a task, with the penalty of those before it; return the accuracy on each test before it and after each epoch."""
    parameters = model.parameters()

    def step(batch: Any) -> tuple[float, Arrays]:
        pixels, digits = batch
        logits, backward = model(pixels)
        loss, by = cross_entropy_loss(logits, digits, label_smoothing=SMOOTHING)
        gradients = backward(by.logits)
        if keep is not None:
            penalty, pull = keep.penalty(parameters)
            add_gradients(gradients, pull)
            loss += penalty
        return loss, gradients

    def watch() -> dict[str, float]:
        return {name: accuracy(model, images) for name, images in tests.items()}

    before = watch()
    steps = epochs * -(-len(task.learnt.digits) // 32)
    rate = WarmupCosine(1e-3, warmup_steps=steps // 10, total_steps=steps)
    trainer = Trainer(parameters, AdamW(rate, weight_decay=0.0), step, max_norm=1.0, validate=watch, monitor="loss", seed=seed)
    history = trainer.fit(tuple(task.learnt), epochs=epochs, batch_size=32)
    return {name: [value, *history[f"validation_{name}"]] for name, value in before.items()}


def sample_gradients(model: Transformer, images: Images, *, count: int = 300, seed: int = 0) -> Iterator[Arrays]:
    """Yield for some images the gradients of the log-likelihood of a class that the model itself draws, one image at a time."""
    rng = np.random.default_rng(seed)
    for at in rng.permutation(len(images.digits))[:count]:
        logits, backward = model(images.pixels[at : at + 1])
        likelihood = np.exp((logits - logits.max()).astype(np.float64))[0]
        drawn = rng.choice(likelihood.size, size=1, p=likelihood / likelihood.sum())
        yield backward(cross_entropy_loss(logits, drawn)[1].logits)


def compare(strengths: Sequence[float], *, epochs: int = EPOCHS, seed: int = 0) -> tuple[dict[str, list[float]], dict[float, dict[str, list[float]]]]:
    """Learn the first task, and from there the second once for each strength; return the accuracies on both, "A" and "B", over the epochs."""
    first, second = make_tasks(seed=seed)
    tests = {"A": first.test, "B": second.test}
    model = Transformer(CLASSES, seed=seed)
    before = train(model, first, tests, epochs=epochs, seed=seed)
    learnt = {name: array.copy() for name, array in model.parameters().items()}
    gradients = list(sample_gradients(model, first.learnt, seed=seed))
    after = {}
    for strength in strengths:
        for name, array in model.parameters().items():
            array[...] = learnt[name]
        keep = ElasticWeightConsolidation(strength)
        keep.consolidate(model.parameters(), gradients)
        after[strength] = train(model, second, tests, keep, epochs=epochs, seed=seed)
    return before, after


# --- words and pictures -----------------------------------------------------------------------------------------------------------


def draw(before: dict[str, list[float]], after: dict[float, dict[str, list[float]]], path: str | Path) -> None:
    """Draw both accuracies through both tasks, as ever and with the penalty."""
    titles = ["trained as ever" if strength == 0 else f"elastic weight consolidation, strength {strength:g}" for strength in after]
    with panels(path, titles) as axes:
        for one, follows in zip(axes, after.values(), strict=True):
            for colour, (name, label) in enumerate({"A": "task A: 0 to 4", "B": "task B: 5 to 9"}.items()):
                curve(one, [*before[name], *follows[name][1:]], label, colour=colour, start=0)
            epochs = len(before["A"]) - 1
            one.axvline(epochs, color="#bbbbbb", linewidth=1)
            one.set_xlabel(f"epoch: {epochs} of A, then {epochs} of B")
            one.set_ylim(0, 1.02)
            one.set_ylabel("accuracy in the test")
            one.legend(frameon=False, fontsize=8, loc="lower right")


def main(arguments: list[str] | None = None) -> None:
    """Train, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default="two_tasks.png", help="the PNG file to draw the curves to (default: two_tasks.png)")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, STRENGTH], help=f"of the penalty (default: 0 {STRENGTH:g})")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of each task (default: {EPOCHS})")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the initial parameters and the order of images (default: 0)")
    options = parser.parse_args(arguments)

    ruvattn.set_num_threads(1)  # a product here takes 50 µs: there is nothing to share
    started = time.perf_counter()
    before, after = compare(options.strengths, epochs=options.epochs, seed=options.seed)
    print(f"after task A                     A {before['A'][-1]:.1%}   B {before['B'][-1]:.1%}")
    for strength, found in after.items():
        kept = f"keeps {found['A'][-1] / before['A'][-1]:.1%} of A"
        print(f"after task B, strength {strength:<8g}  A {found['A'][-1]:.1%}   B {found['B'][-1]:.1%}   {kept}")
    print(f"{time.perf_counter() - started:.0f} s")
    if can_draw():
        draw(before, after, options.output)


if __name__ == "__main__":
    main()
