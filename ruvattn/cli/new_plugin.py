"""``ruvattn new-plugin``: a package of one's own, complete, to be edited. What it writes is in ruvattn.scaffold."""

from __future__ import annotations

import os
import shlex

import click

__all__ = ["command"]

# Not read off ruvattn.scaffold: --help should not have to import it.
_KINDS = ("score", "pattern", "variant")


@click.command("new-plugin", short_help="Write a plugin of your own, complete, to start from.")
@click.argument("name")
@click.option("--kind", type=click.Choice(_KINDS), default="score", show_default=True, help="What the plugin adds.")
@click.option("--numpy", "numpy", is_flag=True, help="Written in NumPy alone; no compiler is needed.  [default]")
@click.option("--cython", "cython", is_flag=True, help="What is called most often is compiled.")
@click.option("--directory", default=".", metavar="DIR", help="Where to make its folder.  [default: this folder]")
@click.option("--author", metavar="NAME", help="For licence and metadata.  [default: The NAME authors]")
def command(name: str, kind: str, numpy: bool, cython: bool, directory: str, author: str | None) -> None:
    """Write a new plugin into a folder called NAME.

    NAME is that of the distribution, and what it registers: a score or a pattern with a variant that has it, or a variant that is a class of its own.
    A leading 'ruvattn-' is left out there: ruvattn-alibi registers 'alibi'. The plugin installs and passes its tests as it is; it comes with
    metadata, the conformance suite, benchmarks for asv, a README, a licence and a CI workflow. Nothing that exists is overwritten.
    """
    from ..scaffold import write_plugin
    from ..scaffold.names import registered_name

    if numpy and cython:
        raise click.UsageError("--numpy and --cython exclude each other: choose one", click.get_current_context())
    if author is not None and not author.strip():
        raise click.UsageError("--author must be a name, got ''; leave it out for 'The NAME authors'", click.get_current_context())
    folder, files = write_plugin(name, directory, kind=kind, cython=cython, author=author)
    click.echo(f"{folder}{os.sep}  a {kind}, in {'Cython' if cython else 'NumPy'}")
    for path in files:
        click.echo(f"    {path}")
    click.echo("\nIt works as it is:\n")
    # To be pasted: a folder's name may have what a shell would take for its own.
    place = f'"{folder}"' if os.name == "nt" else shlex.quote(str(folder))
    for line in (f"cd {place}", 'pip install -e ".[test]"', "pytest", "ruvattn plugins", f"ruvattn bench --attention-type {registered_name(name)}"):
        click.echo(f"    {line}")
    click.echo("\nREADME.md says what to do next.")
