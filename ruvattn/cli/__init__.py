"""The command ``ruvattn``: one file for each of its commands, imported when that command is asked for.

    main() ──► commands ──┬─► demo.py      real sentences attend to each other; prints ruvattn.demo's results
                          ├─► info.py      how this copy was built and what it found
                          ├─► plugins.py   what loaded, what failed and why
                          ├─► bench.py     how fast a variant is here
                          ├─► new_plugin.py  a package of one's own, to start from
                          └─► test.py      the conformance suite, on what is installed
                                 │
                                 └─► console.py   colours, widths, encodings, progress

`main` is the only place that turns exceptions into messages. What the user did, or a plugin, or the input ends in
one line on stderr and exit code 2; Ctrl-C ends silently with 130, a closed pipe with 1. Anything else is a bug of ours
and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

import click

from ..errors import AttentionError

__all__ = ["commands", "main"]

_COMMANDS = ("demo", "info", "plugins", "bench", "test", "new-plugin")


class _LazyGroup(click.Group):
    """A group that imports the file of a command when it is needed: ``--help`` and mistakes then answer at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return import_module(f"{__name__}.{cmd_name.replace('-', '_')}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            close = get_close_matches(args[0], _COMMANDS, n=1, cutoff=0.6)
            there = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}."
            raise click.UsageError(f"no command {args[0]!r}; {there}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from .. import __version__

        click.echo(f"ruvattn {__version__}")
        ctx.exit()


@click.group(cls=_LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit.")
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Attention for NumPy on the CPU.

    Start with `ruvattn demo`. Each command has its own --help.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    args : sequence of str, optional
        The arguments without the program's name; those of the process when not given.

    Raises
    ------
    SystemExit
        Always. Code 0: done. 1: a check of ``ruvattn test`` failed, or the reader closed the pipe. 2: the arguments,
        the input or an installed plugin do not allow it. 130: Ctrl-C.
    """
    # A character that the terminal's encoding lacks shall not end the program.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = commands.main(args, prog_name="ruvattn", standalone_mode=False)
            if sys.stdout is not None:  # as it is where the program was started without one
                # What is still buffered meets a closed pipe here rather than while the interpreter shuts down.
                sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ruvattn"
        _fail(f"{command}: {error.format_message()} ({command} --help shows how)", error.exit_code)
    except click.ClickException as error:
        _fail(f"ruvattn: {error.format_message()}", 2)
    except AttentionError as error:
        _fail(f"ruvattn: {error}", 2)
    except MemoryError as error:
        _fail(f"ruvattn: out of memory: {error or 'ask for less'}", 2)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        _drop_output()
        _fail(f"ruvattn: cannot write the output: {error.strerror}", 2)
    sys.exit(status if isinstance(status, int) else 0)


def _drop_output() -> None:
    # The interpreter would flush stdout once more, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    click.echo(" ".join(message.split()), err=True)
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"ruvattn: warning: {' '.join(str(message).split())}", err=True)
