"""The computation of ``ruvattn demo``: real sentences attending to each other. Its printing is in ``ruvattn.cli.demo``.

    ruvattn/data ──load_sentences()──► Sentences ──find()──► a row
                                           │                   │
                                           ├──attend()─────────┴──► Result for each variant: best five, time, error
                                           └──attention_map()──► (N, N) weights ──draw_map()──► PNG

    plugins ──registry.demos()──► a name ──demonstrate()──► Demonstration: what a plugin has to say and to show of its own

Query, keys and values are the sentences' MiniLM embeddings. These have length 1, so that a dot product is a cosine,
and cosines lie close together: unscaled, every sentence would get nearly the same weight. `SCALE` = 20 is the scale
(a temperature of 1/20) of the softmax over cosines that the model was trained with [1]_, so it is the one at which
its similarities mean probabilities.

References
----------
.. [1] https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from . import reference
from .errors import AttentionError, InvalidInputError, UnsupportedError
from .registry import VariantInfo, create, show_demo, variants

if TYPE_CHECKING:
    from .interfaces import Attention, Context

__all__ = [
    "BEST",
    "DEFAULT",
    "SCALE",
    "Demonstration",
    "Result",
    "Sentences",
    "attend",
    "attention_map",
    "choose_variants",
    "demonstrate",
    "draw_map",
    "load_sentences",
    "plain_options",
]

SCALE = 20.0
"""What cosines are multiplied by before the softmax."""

HEADS = 6
"""How many heads a variant gets that is made of several."""

ENLARGED = 12
"""How many sentences the second picture of the map shows."""

BEST = 5
"""How many sentences a `Result` lists."""

DEFAULT = "Lake Baikal"
"""The sentence that the demo asks about unless told otherwise."""


@dataclass(frozen=True)
class Sentences:
    """The sentences and what the model makes of them; row i belongs to number i + 1.

    Attributes
    ----------
    texts : tuple of str
        N sentences.
    topics : tuple of str
        The topic of each; those of one topic follow each other.
    embeddings : ndarray, (N, 384) float32
        Embeddings of length 1.
    """

    texts: tuple[str, ...]
    topics: tuple[str, ...]
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, wanted: str | int) -> list[int]:
        """Return the rows of the sentences that a number or a few words mean, best first.

        Parameters
        ----------
        wanted : str or int
            A number from 1 to N, or text: sentences that contain it as it stands come first, then those that contain
            all its words, in whatever order, each at the beginning of a word. Case does not matter.

        Returns
        -------
        list of int
            At least one row.

        Raises
        ------
        InvalidInputError
            If there is no such sentence.

        Examples
        --------
        >>> from ruvattn.demo import load_sentences
        >>> sentences = load_sentences()
        >>> sentences.texts[sentences.find("deepest lake")[0]][:38]
        'Lake Baikal, the deepest lake in the w'
        """
        text = " ".join(str(wanted).split())
        if re.fullmatch(r"[+-]?\d+", text):
            number = int(text[:20])  # Python refuses thousands of digits
            if not 1 <= number <= len(self):
                raise InvalidInputError(f"sentence must be a number from 1 to {len(self)}, got {_shorten(text, 60)}")
            return [number - 1]
        words = re.findall(r"\w+", text.lower())
        if not words:
            raise InvalidInputError(
                f"sentence must be a number from 1 to {len(self)} or a few words of one of them, got {_shorten(text, 60)!r}"
            )
        rows = [row for row, sentence in enumerate(self.texts) if _has_words(sentence, words)]
        rows.sort(key=lambda row: text.lower() not in self.texts[row].lower())
        if not rows:
            raise InvalidInputError(
                f"sentence must be one of the {len(self)} that ship with ruvattn (the model does not, so other text "
                f"cannot be embedded), and none has the words {_shorten(text, 60)!r}{self._suggestion(words)}"
            )
        return rows

    def _suggestion(self, words: list[str]) -> str:
        from difflib import get_close_matches

        vocabulary = sorted({word for text in self.texts for word in re.findall(r"\w+", text.lower())})
        known = [word for word in words if any(_has_words(text, [word]) for text in self.texts)]
        if known and len(words) > 1:
            return f"; some have {known[0]!r}"
        close = [match for word in words for match in get_close_matches(word, vocabulary, n=1, cutoff=0.75)]
        return f"; did you mean {close[0]!r}?" if close else ""


def _has_words(sentence: str, words: list[str]) -> bool:
    return all(re.search(rf"\b{re.escape(word)}", sentence.lower()) for word in words)


@lru_cache(maxsize=1)
def load_sentences() -> Sentences:
    """Return the sentences that ship with the package.

    Returns
    -------
    Sentences
        The same object each time; its array is read-only.

    Examples
    --------
    >>> from ruvattn.demo import load_sentences
    >>> load_sentences().embeddings.shape
    (418, 384)
    """
    folder = resources.files(__package__) / "data"
    lines = (folder / "sentences.tsv").read_text(encoding="utf-8").splitlines()
    topics, texts = zip(*(line.split("\t") for line in lines), strict=True)
    with (folder / "embeddings.npz").open("rb") as file, np.load(file) as arrays:
        embeddings = arrays["embeddings"].astype(np.float32)
    # They were rounded to float16, which shortens or lengthens them by 1e-4.
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings.setflags(write=False)
    return Sentences(texts, topics, embeddings)


@dataclass(frozen=True)
class Result:
    """What a variant made of a query.

    Attributes
    ----------
    name, distribution, version : str
        The variant, and who brought it.
    best : tuple of (int, float)
        The rows with the largest weights, and these, which sum to 1 over all rows but the query's; empty if the
        variant has no weights to show.
    seconds : float or None
        The median time of a call; None if it failed.
    error : float or None
        The largest difference of the output from the float64 oracle's, relative to the oracle's largest entry; None
        if it failed, or if its arithmetic is not that of `ruvattn.reference.attention`.
    note : str
        What is to be said about it: why it failed, or what it could not be told.
    """

    name: str
    distribution: str
    version: str
    best: tuple[tuple[int, float], ...] = ()
    seconds: float | None = None
    error: float | None = None
    note: str = ""


def choose_variants(names: Sequence[str] = ()) -> list[VariantInfo]:
    """Return the variants to show: those named, or all that are installed, ``standard`` and the built-in ones first.

    Parameters
    ----------
    names : sequence of str
        Names of variants.

    Returns
    -------
    list of VariantInfo
        At least one.

    Raises
    ------
    UnknownVariantError
        If nothing usable has one of the names.
    """
    installed = variants()
    for name in names:
        if name not in installed:
            create(name, embed_dim=1, num_heads=1)  # raises, and words the message
    chosen = [installed[name] for name in dict.fromkeys(names)] or list(installed.values())
    return sorted(chosen, key=lambda info: (info.name != "standard", info.distribution != "ruvattn"))


def plain_options(info: VariantInfo) -> dict[str, Any]:
    """Return the options with which a variant attends to what it is given, rather than to random projections of it.

    Parameters
    ----------
    info : VariantInfo
        A value of `ruvattn.variants()`.

    Returns
    -------
    dict of str to object
        For `ruvattn.create`.
    """
    # Of points of a curved space the embeddings are tangent vectors, and "project" leaves out what is not tangent.
    wanted = {"projections": False, "inputs": "tangent", "project": True}
    return {name: value for name, value in wanted.items() if name in info.options}


def attend(sentences: Sentences, row: int, info: VariantInfo) -> Result:
    """Let one sentence attend to all the others with a variant.

    The sentence itself is not among the keys: it would take nearly all the weight.

    Parameters
    ----------
    sentences : Sentences
        N sentences.
    row : int
        The one that asks.
    info : VariantInfo
        The variant.

    Returns
    -------
    Result
        Of a variant that raises too: its `note` then says what.
    """
    result = Result(info.name, info.distribution, info.version)
    others = np.delete(np.arange(len(sentences)), row)
    try:
        variant, (query, keys), options, note = _prepare(info, sentences, row, others)
        values = sentences.embeddings[others]
        _, context = variant.forward_with_context(query, keys, values, **options)
        weights = variant.get_attention_weights(context)
        return replace(
            result,
            best=_best(weights, others) if weights is not None else (),
            seconds=_time(lambda: variant(query, keys, values, **options)),
            error=_error(context),
            note=note,
        )
    except Exception as error:  # a plugin may raise anything; the other variants are still worth showing
        return replace(result, note=_as_note(error))


def _as_note(error: Exception) -> str:
    """Return on one line what an exception says; its type too, unless it is one of ours, whose messages are sentences."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception class may have a broken __str__
        text = "(its message cannot be shown)"
    return text if isinstance(error, AttentionError) else f"{type(error).__name__}: {text}"


def _prepare(
    info: VariantInfo, sentences: Sentences, row: int, others: np.ndarray
) -> tuple[Attention, tuple[np.ndarray, np.ndarray], dict[str, Any], str]:
    """Return the variant, the query and keys and the options to call it with, and what is to be said about these."""
    query, keys = sentences.embeddings[[row]], sentences.embeddings[others]
    num_heads = HEADS if "num_kv_heads" in info.options else 1
    made_with = plain_options(info)
    read_as = "the embeddings are tangent vectors at the origin" if "inputs" in made_with else ""
    averaged = f"{num_heads} heads, averaged" if num_heads > 1 else ""
    tempered = "temperature" in info.options
    if tempered:
        # Each head sees its part of the distance, whose square is the sum of those of all parts.
        made_with["temperature"] = 1 / (SCALE * num_heads**0.5)
    variant = create(info.name, embed_dim=query.shape[-1], num_heads=num_heads, **made_with)
    place, where = _place(variant, sentences, row)
    longer = np.float32(SCALE**0.5)
    tries: tuple[tuple[np.float32, dict[str, Any], str], ...] = (
        # Each head sees its part of the cosine, which is the sum of all parts.
        (np.float32(1), {} if tempered else {"scale": SCALE * num_heads}, averaged),
        # A score without a scale: vectors that are longer have larger dot products, and larger distances.
        (longer, {}, f"query and keys {longer:.1f} times as long, for it has no scale"),
        (np.float32(1), {}, "at a temperature of its own"),
    )
    for factor, options, note in tries:  # noqa: B007 (after the loop)
        inputs = (factor * query, factor * keys)
        try:
            variant(*inputs, keys, **{**options, **place})
        except (InvalidInputError, UnsupportedError, TypeError):
            continue
        break
    # What is wrong with the last one will show when it is called once more.
    return variant, inputs, {**options, **place}, "; ".join(filter(None, (where, read_as, note)))


def _place(variant: Attention, sentences: Sentences, row: int) -> tuple[dict[str, Any], str]:
    """Return what tells a variant where the query stands, or which sentences it sees, and the words for it."""
    demo_options = getattr(variant, "demo_options", None)
    if demo_options is not None:
        options, note = demo_options(row, sentences.topics)
        return dict(options), str(note)
    if getattr(variant, "positional", False):
        return {"query_offset": row}, f"stands at its own place, {row + 1} of {len(sentences)}"
    return {}, ""


def _best(weights: np.ndarray, others: np.ndarray) -> tuple[tuple[int, float], ...]:
    """Return the rows with the largest weights, averaged over heads, of one query."""
    mean = weights.reshape(-1, len(others)).mean(0, dtype=np.float64)
    order = np.argsort(-mean, kind="stable")[:BEST]
    return tuple((int(others[i]), float(mean[i])) for i in order)


def _time(call: Callable[[], object]) -> float:
    """Return the median time of a call; all of them take about a twentieth of a second."""
    times: list[float] = []
    while len(times) < 5 or (sum(times) < 0.05 and len(times) < 200):
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
    return median(times)


def _error(context: Context) -> float | None:
    """Return the largest error of what attention made of the heads, relative to the oracle's largest entry."""
    # What changes where and how it is computed, but not what.
    options = {name: value for name, value in context.options.items() if name not in ("threads", "out")}
    try:
        expected = reference.attention(context.q, context.k, context.v, **options)
        difference = np.abs(context.out.astype(np.float64) - expected)
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        return None  # a variant that is not made of the oracle's parts
    return float(difference.max() / np.abs(expected).max())


@dataclass(frozen=True)
class Demonstration:
    """What a plugin's own demonstration has to say and to show; see `ruvattn.registry.Registry.demo`.

    Attributes
    ----------
    lines : tuple of str
        Plain text, a line each. Block characters of bars, and arrows, are replaced where the terminal lacks them.
    pictures : tuple of Path
        The files that it wrote.
    note : str
        What is to be said about it: what it could not show and why, or what to install for more.

    Raises
    ------
    InvalidInputError
        If `lines` is not a sequence of str, `pictures` not one of paths, or `note` no str.

    Examples
    --------
    >>> from ruvattn.demo import Demonstration
    >>> Demonstration(["What is near gets", "two thirds of the attention."]).lines
    ('What is near gets', 'two thirds of the attention.')
    """

    lines: tuple[str, ...]
    pictures: tuple[Path, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        for name, kinds in (("lines", (str,)), ("pictures", (str, Path))):
            given = getattr(self, name)
            if not isinstance(given, list | tuple) or not all(isinstance(item, kinds) for item in given):
                raise InvalidInputError(f"{name} of a Demonstration must be a list or tuple of {kinds[-1].__name__}, got {_shorten(repr(given), 60)}")
        if not isinstance(self.note, str):
            raise InvalidInputError(f"note of a Demonstration must be a str, got {self.note!r}")
        object.__setattr__(self, "lines", tuple(line for text in self.lines for line in text.splitlines() or [""]))
        object.__setattr__(self, "pictures", tuple(map(Path, self.pictures)))


def demonstrate(name: str, folder: Path | None = None) -> Demonstration:
    """Show what a plugin has to demonstrate.

    Parameters
    ----------
    name : str
        A key of `ruvattn.registry.demos()`.
    folder : Path, optional
        Where its pictures go; without, it draws none.

    Returns
    -------
    Demonstration
        Of a plugin that raises too: its `note` then says what.
    """
    try:
        return show_demo(name, folder)
    except ImportError as error:  # says what to install; what it is called says nothing
        return Demonstration((), note=" ".join(str(error).split()))
    except Exception as error:  # a plugin may raise anything; the other demonstrations are still worth showing
        return Demonstration((), note=_as_note(error))


def attention_map(sentences: Sentences) -> np.ndarray:
    """Return the attention of every sentence to every other, by the variant ``standard``.

    Parameters
    ----------
    sentences : Sentences
        N sentences.

    Returns
    -------
    ndarray, (N, N) float32
        Each row sums to 1 and is 0 on the diagonal: a sentence is masked for itself, as it would take nearly all.
    """
    length = len(sentences)
    variant = create("standard", embed_dim=sentences.embeddings.shape[1], num_heads=1)
    x = sentences.embeddings
    _, context = variant.forward_with_context(x, x, x, mask=~np.eye(length, dtype=bool), scale=SCALE)
    weights = variant.get_attention_weights(context)
    assert weights is not None  # "standard" always has them
    return weights.reshape(length, length)


def draw_map(sentences: Sentences, weights: np.ndarray, row: int, path: str | Path) -> None:
    """Draw the weights of all sentences, and enlarged those of one sentence and its nearest, to a PNG file.

    Parameters
    ----------
    sentences : Sentences
        N sentences.
    weights : ndarray, (N, N)
        Row i holds what sentence i pays to each; see `attention_map`.
    row : int
        The sentence to enlarge.
    path : str or Path
        The file to write; an existing one is replaced.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    # Neither pyplot nor a display is needed to write a file, and neither is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    norm = LogNorm(vmin=1e-4, vmax=1.0, clip=True)
    figure = Figure(figsize=(16, 6.8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Sentence-to-sentence attention, softmax({SCALE:g} · cosine), itself left out", fontsize=13)
    whole, enlarged = figure.subplots(1, 2, width_ratios=[1, 1])

    image = whole.imshow(weights, norm=norm, cmap="magma", interpolation="nearest")
    names = list(dict.fromkeys(sentences.topics))
    starts = np.array([sentences.topics.index(name) for name in names] + [len(sentences)])
    middles = (starts[:-1] + starts[1:] - 1) / 2
    for start in starts[1:-1]:
        whole.axhline(start - 0.5, color="white", lw=0.4, alpha=0.6)
        whole.axvline(start - 0.5, color="white", lw=0.4, alpha=0.6)
    whole.set_xticks(middles, names, rotation=45, ha="right", fontsize=8)
    whole.set_yticks(middles, names, fontsize=8)
    whole.set_title(f"all {len(sentences)} sentences, by topic", fontsize=11)
    whole.set_ylabel("query")
    whole.set_xlabel("key")

    nearest = [row, *np.argsort(-weights[row], kind="stable")[: ENLARGED - 1]]
    close = weights[np.ix_(nearest, nearest)]
    enlarged.imshow(close, norm=norm, cmap="magma", interpolation="nearest")
    for i, j in np.ndindex(close.shape):
        if close[i, j] >= 0.005:
            shade = "black" if close[i, j] > 0.1 else "white"
            enlarged.text(j, i, f"{close[i, j]:.0%}", ha="center", va="center", fontsize=7, color=shade)
    labels = [f"{_shorten(sentences.texts[i], 58)}  {i + 1}" for i in nearest]
    enlarged.set_yticks(range(len(nearest)), labels, fontsize=8)
    enlarged.get_yticklabels()[0].set_fontweight("bold")
    enlarged.set_xticks(range(len(nearest)), [str(i + 1) for i in nearest], fontsize=8)
    enlarged.set_title(f"number {row + 1} and its nearest", fontsize=11)
    figure.colorbar(image, ax=[whole, enlarged], label="attention weight", shrink=0.8, pad=0.01)
    figure.savefig(path, format="png", dpi=120)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
