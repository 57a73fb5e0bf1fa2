"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its place in one step when it is done, with the rights of any new file.

    What was written is on the disk before the file takes its place, and the change of the folder after it: a machine that loses its power leaves
    the old file or the new one.

    Parameters
    ----------
    path : path
        The file; what is there is replaced, or left whole where writing fails. Of a link, that is the file that it leads to.

    Yields
    ------
    file
        Beside its place, for bytes.

    Raises
    ------
    OSError
        If it cannot be written, or is no regular file: a folder, a device, a pipe.
    """
    place = Path(path)
    if place.is_symlink():
        place = Path(os.path.realpath(place))
    if place.exists() and not place.is_file():  # who may do anything could put a file in the place of a device
        raise OSError(errno.EINVAL, "not a regular file", str(place))
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, place)
        _sync_folder(place.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Some file systems and some systems can't do that with a folder; the file is in its place by now, whole.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
