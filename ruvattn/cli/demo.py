"""``ruvattn demo``: real sentences attend to each other with every installed variant, and plugins show what they have of their own.

The computation is in ruvattn.demo.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..demo import Demonstration, Result, Sentences
    from ..registry import ComponentInfo

__all__ = ["command"]

BAR_WIDTH = 16
"""Columns of the bar of a weight of 1."""

# What plugins' lines may hold, and what stands for it where the encoding is not a Unicode one. Of a column that is filled in part, half counts.
_ASCII = str.maketrans({
    **dict.fromkeys("█▉▊▋▌", "#"), **dict.fromkeys("▍▎▏", " "), **dict.fromkeys("–−—", "-"),
    "·": "|", "×": "x", "…": "...", "←": "<-", "→": "->", "↔": "<->", "≤": "<=", "≥": ">=", "²": "^2", "✓": "ok", "✗": "x",
})  # fmt: skip


@click.command("demo")
@click.argument("words", nargs=-1, metavar="[SENTENCE]")
@click.option("--list", "list_all", is_flag=True, help="List the sentences with their numbers.")
@click.option("--attention-type", "names", multiple=True, metavar="NAME", help="Only this variant, and nothing else of plugins; may be repeated.")
@click.option(
    "--output",
    default=Path("ruvattn-demo.png"),
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the heat map goes; pictures of plugins go into the same folder.",
)
@click.option("--no-map", is_flag=True, help="Draw no pictures.")
def command(words: tuple[str, ...], list_all: bool, names: tuple[str, ...], output: Path, no_map: bool) -> None:
    """Let a sentence attend to 417 others with every installed variant.

    SENTENCE is its number, or a few of its words: ruvattn demo deepest lake. The sentences are real, and so are their
    MiniLM embeddings; both ship with the package. For each variant the five largest attention weights are shown,
    with the time of a call and the error against the float64 oracle. A heat map of the attention of every sentence
    to every other is written to a PNG file. What plugins demonstrate of their own, on other data, comes last.
    """
    from .. import demo, registry
    from ..isa import active_isa
    from .console import make_console, progress

    active_isa()  # a wrong RUVATTN_ISA is one error, not one for each variant
    sentences = demo.load_sentences()
    console = make_console()
    if list_all:
        _list(console, sentences)
        return
    rows = sentences.find(" ".join(words) if words else demo.DEFAULT)
    infos = demo.choose_variants(names)
    if not no_map:
        folder = output.absolute().parent
        if not folder.is_dir():
            raise click.UsageError(f"--output: there is no folder {str(folder)!r}", click.get_current_context())
        if output.is_dir():  # click lets an empty path pass
            raise click.UsageError(f"--output: {str(output)!r} is a folder, not a file", click.get_current_context())

    _introduce(console, sentences, rows, bool(words))
    for variant in infos:
        with progress(variant.name, None):
            result = demo.attend(sentences, rows[0], variant)
        _show(console, sentences, result)
    if not no_map:
        _draw(console, sentences, rows[0], output)
    # A picture's name is shown as it was given: relative, if --output is.
    for info in () if names else registry.demos().values():
        with progress(info.name, None):
            shown = demo.demonstrate(info.name, None if no_map else output.parent)
        _demonstrate(console, info, shown)


def _draw(console: Console, sentences: Sentences, row: int, output: Path) -> None:
    """Write the heat map, and say where, or why not."""
    from .. import demo
    from .console import progress

    try:
        with progress("heat map", None):
            weights = demo.attention_map(sentences)
            demo.draw_map(sentences, weights, row, output)
    except ImportError:
        console.print("\nNo heat map, for matplotlib is not installed: pip install 'ruvattn[demo]'", style="yellow")
    except OSError as error:
        raise click.ClickException(f"cannot write the heat map to {str(output)!r}: {error.strerror}") from error
    else:
        console.print(f"\nHeat map of all {len(sentences)} sentences: {output}", soft_wrap=True)


def _list(console: Console, sentences: Sentences) -> None:
    from rich.text import Text

    for row, (topic, text) in enumerate(zip(sentences.topics, sentences.texts, strict=True)):
        if row == 0 or topic != sentences.topics[row - 1]:
            console.print(Text(f"{topic}", "bold cyan"))
        console.print(Text.assemble((f"{row + 1:5}  ", "dim"), text), soft_wrap=True)


def _introduce(console: Console, sentences: Sentences, rows: list[int], asked: bool) -> None:
    from rich.text import Text

    from .. import demo
    from .console import symbol

    console.print(Text.assemble((f"{rows[0] + 1}  ", "dim"), (sentences.texts[rows[0]], "bold")))
    softmax = f"softmax({demo.SCALE:g} {symbol(console, '·')} cosine)"
    console.print(
        f"attends to the {len(sentences) - 1} other sentences: {softmax} of their MiniLM embeddings.", style="dim"
    )
    if len(rows) > 1:
        numbers = ", ".join(str(row + 1) for row in rows[1:9]) + (f" and {len(rows) - 9} more" if len(rows) > 9 else "")
        console.print(f"Also found: {numbers}.", style="dim")
    elif not asked:
        console.print("Ask about another: ruvattn demo astronaut; ruvattn demo --list shows them all.", style="dim")


def _show(console: Console, sentences: Sentences, result: Result) -> None:
    from rich.table import Table
    from rich.text import Text

    from .console import bar, duration, symbol

    dot = f"  {symbol(console, '·')}  "
    title = Text.assemble(("\n" + result.name, "bold cyan"), (f"  {result.distribution} {result.version}", "dim"))
    if result.seconds is not None:
        error = "no oracle" if result.error is None else f"error {result.error:.1e}"
        title.append(f"{dot}{duration(result.seconds)}{dot}{error}")
    console.print(title)
    if result.note:
        console.print(result.note, style="yellow")
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=BAR_WIDTH, no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row, weight in result.best:
        table.add_row(f"{weight:7.1%}", bar(console, weight, BAR_WIDTH), str(row + 1), sentences.texts[row])
    console.print(table)


def _demonstrate(console: Console, info: ComponentInfo, shown: Demonstration) -> None:
    """Print what a plugin demonstrates, and name its pictures."""
    from rich.text import Text

    from .console import symbol

    title = Text.assemble(("\n" + info.name, "bold cyan"), (f"  {info.distribution} {info.version}", "dim"))
    if info.summary:
        title.append(f"  {symbol(console, '·')}  {info.summary}")
    console.print(title)
    if shown.note:
        console.print(shown.note, style="yellow")
    for line in shown.lines:
        console.print(Text(line.translate(_ASCII).rstrip() if console.options.ascii_only else line))
    for path in shown.pictures:
        console.print(f"Picture: {path}", soft_wrap=True)
