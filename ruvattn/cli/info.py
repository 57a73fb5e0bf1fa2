"""``ruvattn info``: how this copy was built and what it found on this machine."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command("info", short_help="Show how this copy was built and what it found here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show compiler, flags, instruction set, OpenMP, threads, plugins and failures."""
    from ..config import config_info, describe

    info = config_info()
    if as_json:
        click.echo(json.dumps(info, indent=2))
        return

    from rich.table import Table
    from rich.text import Text

    from .console import make_console

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in describe(info):
        table.add_row(key, Text(text, style="red" if key == "failures" and info["failures"] else ""))
    make_console().print(table)
