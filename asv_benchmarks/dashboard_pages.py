"""The pages: what asv publishes, with all that they load beside them, and one more that has the variants side by side.

    results ─► asv publish ─► <folder>.new ─► dashboard_assets.localise ─► variants.html, logs/ ─► takes the place of <folder> ─► 127.0.0.1
"""

from __future__ import annotations

import errno
import functools
import http.server
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dashboard_assets
import dashboard_table
from dashboard_suite import Suite

from ruvattn.errors import InvalidInputError

__all__ = ["PORT", "check_folder", "check_port", "publish", "serve"]

PORT = 8080
"""Where the pages are served unless another port is asked for, or something is there."""

MARK = "ruvattn-dashboard"
"""A file in folders of pages, with the names of all that was written beside it: a folder that holds anything else is not replaced."""


def _strangers(folder: Path) -> list[str]:
    """Return the names of what is in a folder and was not written there by a dashboard."""
    mark = folder / MARK
    written = {MARK, *(mark.read_text(encoding="utf-8").splitlines()[1:] if mark.is_file() else ())}
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in written)


def _mark(folder: Path) -> None:
    """Enter the names of all that is in a folder of pages."""
    names = sorted(entry.name for entry in folder.iterdir())
    (folder / MARK).write_text("\n".join(["Written by asv_benchmarks/dashboard.py, which replaces all of:", *names, ""]), encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Refuse to write pages over something else.

    Parameters
    ----------
    folder : Path
        Where the pages are to go.

    Raises
    ------
    InvalidInputError
        If something is there that is not of a dashboard, or nothing can be written there.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InvalidInputError(f"--html {folder} is not a folder")
    if folder.is_dir() and (others := _strangers(folder)):
        raise InvalidInputError(
            f"--html {folder} holds something else than a dashboard ({others[0]}), and would be replaced: name a folder that is new or empty"
        )
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InvalidInputError(f"--html {folder} can't be made: {above} is no folder to write to")


def publish(suite: Suite, folder: Path, asv: Callable[..., int]) -> Path:
    """Write the pages from the results that there are.

    Parameters
    ----------
    suite : Suite
        The suite, written.
    folder : Path
        Where the pages go; those that are there are replaced when the new ones are complete.
    asv : callable
        ``asv(*arguments)`` runs asv and returns its exit code.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    InvalidInputError
        If there are no results, asv fails, the pages' scripts cannot be had, or something else has come into the folder.
    """
    if not suite.known():
        raise InvalidInputError(f"there are no results in {suite.results} yet: run without --no-run")
    assets = suite.folder / "assets"
    dashboard_assets.bring(assets)
    folder = folder.absolute()
    made = folder.with_name(f".{folder.name}.new")
    if made.exists():
        shutil.rmtree(made)
    made.parent.mkdir(parents=True, exist_ok=True)
    try:
        if asv("publish", "--no-pull", "--html-dir", str(made)):
            raise InvalidInputError("asv could not publish the results: what it said stands above")
        dashboard_assets.localise(made, assets)
        dashboard_table.write(made, suite)
        _mark(made)
        if folder != suite.html:
            check_folder(folder)  # again: hours may have passed
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word, and lets no browser keep yesterday's."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def check_port(port: int | None) -> None:
    """Find out about a port that was asked for before hours of measuring.

    Parameters
    ----------
    port : int or None
        The port, or None: any.

    Raises
    ------
    InvalidInputError
        If it cannot be had.
    """
    if port is not None:
        _server(Path.cwd(), port).server_close()


def _server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be had: {error.strerror}"
        raise InvalidInputError(f"--port {port} {reason}; --port 0 takes a free one") from error


def serve(folder: Path, port: int | None, say: Callable[[str], None]) -> None:
    """Serve the pages to this machine until Ctrl-C.

    Parameters
    ----------
    folder : Path
        The pages.
    port : int or None
        The port; None: `PORT`, or any other where something is there.
    say : callable
        Gets the line that says where.

    Raises
    ------
    InvalidInputError
        If `port` cannot be had.
    """
    try:
        server = _server(folder, PORT if port is None else port)
    except InvalidInputError:
        if port is not None:
            raise
        server = _server(folder, 0)
    with server:
        say(f"http://127.0.0.1:{server.server_port}/ has the dashboard, until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
