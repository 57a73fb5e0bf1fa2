"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its place in one step when it is done, with the rights of any new file.

    Parameters
    ----------
    path : path
        The file; what is there is replaced, or left whole where writing fails.

    Yields
    ------
    file
        Beside its place, for bytes.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    place = Path(path)
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
