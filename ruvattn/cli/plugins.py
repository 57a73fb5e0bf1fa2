"""``ruvattn plugins``: what loaded, what failed and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..plugins import PluginStatus

__all__ = ["command"]


@click.command("plugins", short_help="List what plugins provide, and which failed and why.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of each failure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, tracebacks included.")
def command(verbose: bool, as_json: bool) -> None:
    """List the installed plugins and what they provide, and say which failed and why."""
    from .. import __version__, plugins, registry

    statuses = plugins.status()
    built_in: dict[str, list[str]] = {}
    for kind, name in sorted(registry.builtin_entries(), key=lambda key: (list(registry.KINDS).index(key[0]), key[1])):
        built_in.setdefault(kind, []).append(name)
    if as_json:
        click.echo(json.dumps({"built_in": built_in, "plugins": [asdict(status) for status in statuses]}, indent=2))
        return

    from rich.table import Table
    from rich.text import Text

    from .console import make_console, symbol

    console = make_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("plugin", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("API", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("provides", overflow="fold")
    table.add_row("(built in)", f"ruvattn {__version__}", str(plugins.API_VERSION), Text(symbol(console, "✓"), "green"), _provides(built_in))
    for status in statuses:
        state, style = _state(status)
        table.add_row(
            status.name,
            f"{status.distribution} {status.version}".strip(),
            "" if status.api is None else Text(str(status.api), "" if status.api == plugins.API_VERSION else "yellow"),
            Text(symbol(console, state) if state in "✓✗" else state, style),
            _provides(status.provides),
        )
    console.print(table)
    if not statuses:
        console.print("\nNo plugin is installed; `ruvattn new-plugin NAME` writes one to start from.", style="dim")
    for status in statuses:
        if status.note:
            console.print()
            console.print(Text.assemble((status.name, "bold yellow"), f": {status.note}"))
        if status.error:
            console.print()
            console.print(Text.assemble((status.name, "bold red"), f": {status.error}"))
            if verbose and status.traceback:
                console.print(Text(status.traceback.rstrip(), "dim"))
    if not verbose and any(status.traceback for status in statuses):
        console.print("\nruvattn plugins --verbose shows where.", style="dim")


def _state(status: PluginStatus) -> tuple[str, str]:
    if not status.loaded:
        return ("✗", "bold red") if status.error else ("left out", "dim")
    return ("in part", "yellow") if status.error else ("✓", "green")


def _provides(provides: dict) -> str:
    return "\n".join(f"{kind}: {', '.join(names)}" for kind, names in provides.items())
