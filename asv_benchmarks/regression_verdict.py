"""What interleaved times of two commits say: slower, faster, or nothing. Figures in, a verdict out; nothing here measures.

    screen     one pair of processes, a few rounds    ratio of each round = head / base, taken one right after the other;
      │        three whose median is within a quarter of the threshold are enough
      │ median beyond half the threshold
      ▼
    confirm    further pairs, each of fresh processes and of fresh copies of what is installed, more rounds
      │ the median of each pair beyond half the threshold, in the same direction, and the median over pairs beyond the threshold;
      │ the fastest sample of the head beyond three quarters of it over the fastest of the base
      ▼
    slower or faster

Why in two steps. A machine that others use too drifts: a ratio of two times taken in one round is much steadier than the ratio of two means. What is
left within a pair of processes averages out over rounds. What does not average out there is the pair's own luck: where its pages and buffers lie,
which makes one of two equal programs a few per cent slower for as long as it lives: gathers over 20,000 nodes took 26 ms in one process and 43 in
the next. That is another draw in fresh processes. And where the pages of a library lie outlives processes: of two builds, equal to the byte, one was
6 % slower in sixteen pairs out of sixteen, until it was copied. A false alarm has to win each of those draws; a slow-down that is real is in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["THRESHOLD", "Verdict", "is_settled", "is_suspect", "judge", "round_ratios"]

THRESHOLD = 0.1
"""What share slower, or faster, is worth a line: 0.1 is a tenth."""


@dataclass(frozen=True)
class Verdict:
    """What was found of one benchmark.

    Attributes
    ----------
    outcome : {"slower", "faster", "same"}
        ``"same"``: no difference of the threshold's size that fresh processes show again.
    ratio : float
        Time of the head over time of the base: the median over pairs of processes of the median over their rounds.
    low, high : float
        The least and the greatest of the pairs' medians.
    base, head : float
        Seconds: the medians of all samples.
    """

    outcome: str
    ratio: float
    low: float
    high: float
    base: float
    head: float


def round_ratios(base: Sequence[float], head: Sequence[float]) -> list[float]:
    """Return head over base, round by round.

    Parameters
    ----------
    base, head : sequence of float
        Seconds of each round, equally many of both.
    """
    return [theirs / ours for ours, theirs in zip(base, head, strict=True)]


def is_suspect(base: Sequence[float], head: Sequence[float], threshold: float = THRESHOLD) -> bool:
    """Tell whether one pair of processes is worth a further look, at either side of no difference.

    Parameters
    ----------
    base, head : sequence of float
        Seconds of each round.
    threshold : float, default 0.1
        As in `judge`.
    """
    return _beyond(median(round_ratios(base, head)), threshold / 2) != 0


def judge(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], threshold: float = THRESHOLD) -> Verdict:
    """Say what the times of several pairs of processes mean.

    Parameters
    ----------
    pairs : sequence of (base, head)
        Of each pair of processes the seconds of its rounds.
    threshold : float, default 0.1
        The least difference that counts, as a share; half of it has to show in every pair, and three quarters of it between the fastest samples.

    Returns
    -------
    Verdict
        The outcome and the figures that it comes from.
    """
    medians = [median(round_ratios(base, head)) for base, head in pairs]
    ratio = median(medians)
    outcome = "same"
    if all(_beyond(each, threshold / 2) > 0 for each in medians) and _beyond(ratio, threshold) > 0:
        outcome = "slower"
    elif all(_beyond(each, threshold / 2) < 0 for each in medians) and _beyond(ratio, threshold) < 0:
        outcome = "faster"
    samples = [[seconds for pair in pairs for seconds in pair[side]] for side in (0, 1)]
    if outcome != "same" and _beyond(min(samples[1]) / min(samples[0]), 0.75 * threshold) != (1 if outcome == "slower" else -1):
        outcome = "same"  # a process that was lucky shows what the others could do
    return Verdict(outcome, ratio, min(medians), max(medians), median(samples[0]), median(samples[1]))


def is_settled(verdict: Verdict, threshold: float = THRESHOLD) -> bool:
    """Tell whether pairs of processes agree with each other so well that luck has no part in what they show.

    Parameters
    ----------
    verdict : Verdict
        What `judge` said of the pairs.
    threshold : float, default 0.1
        As in `judge`.
    """
    return _beyond(verdict.high / verdict.low, threshold / 2) == 0


def _beyond(ratio: float, share: float) -> int:
    """Return 1 for slower by more than that share, −1 for as much faster, 0 otherwise: 1.1 and 1/1.1 are alike."""
    return (ratio > 1 + share) - (ratio < 1 / (1 + share))
