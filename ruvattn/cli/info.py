"""``ruvattn info``: how this copy was built and what it found on this machine."""

from __future__ import annotations

import json
from typing import Any

import click

__all__ = ["command"]


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show compiler, flags, instruction set, OpenMP, threads, plugins and failures."""
    from .. import config_info

    info = config_info()
    if as_json:
        click.echo(json.dumps(info, indent=2, default=str))
        return

    from rich.table import Table
    from rich.text import Text

    from .console import make_console

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in info.items():
        text = _text(value)
        table.add_row(key.replace("_", " "), Text(text, style="red" if key == "failures" and value else ""))
    make_console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        separator = "\n" if any(len(str(item)) > 20 for item in value) else ", "
        return separator.join(_text(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
