"""The directive ``{commands}``: every command of ``ruvattn``, as click knows it, so that the page cannot differ from ``--help``."""

from __future__ import annotations

from collections.abc import Iterator

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


class Commands(Directive):
    """All commands, in the order of ``ruvattn --help``, each a section with its usage, its words and its options."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        from ruvattn.cli import commands

        context = click.Context(commands, info_name="ruvattn", **commands.context_settings)
        return [self._section(name, context) for name in commands.list_commands(context)]

    def _section(self, name: str, parent: click.Context) -> nodes.section:
        command = parent.command.get_command(parent, name)
        context = click.Context(command, info_name=name, parent=parent)
        title = f"ruvattn {name}"
        section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
        section += nodes.title(text=title)
        # Names of sections are targets: [](#ruvattn-bench) leads here.
        self.state.document.note_explicit_target(section, section)
        section += nodes.literal_block(text=" ".join([title, *command.collect_usage_pieces(context)]), language="text")
        section += list(paragraphs(command.help or ""))
        options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option) and not parameter.hidden]
        records = [record for option in options if (record := option.get_help_record(context))]
        if records:
            section += options_list(records)
        return section


def paragraphs(text: str) -> Iterator[nodes.Node]:
    """Click's help as paragraphs; one that starts with a backspace keeps its lines."""
    for part in text.split("\f")[0].split("\n\n"):
        if part.startswith("\b"):
            yield nodes.literal_block(text=part.lstrip("\b\n"), language="text")
        elif part.strip():
            paragraph = nodes.paragraph()
            for number, piece in enumerate(part.strip().split("`")):
                paragraph += nodes.literal(text=piece) if number % 2 else nodes.Text(" ".join(piece.split()) if number == 0 else piece)
            yield paragraph


def options_list(records: list[tuple[str, str]]) -> nodes.definition_list:
    """Options and what they mean."""
    listed = nodes.definition_list(classes=["command-options"])
    for names, meaning in records:
        item = nodes.definition_list_item()
        item += nodes.term("", "", nodes.literal(text=names))
        item += nodes.definition("", *paragraphs(meaning))
        listed += item
    return listed


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
