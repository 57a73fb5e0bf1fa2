"""Pictures of masks, in the terminal and as PNG.

    cell_counts of a SparseMask ──► shares of a grid ──┬──► characters     picture()
                                                       └──► pixels         save_picture()

A mask that is larger than its picture is counted cell by cell, never made into an array of Lq × Lk: a cell is blank only where nothing may attend,
and solid only where everything may.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ruvattn import SparseMask
from ruvattn.files import replacing
from ruvattn.validation import check_int

__all__ = ["PicturedMask"]

HALVES = " ▄▀█"
"""By the bits of the upper and the lower half."""

BRAILLE = 0x2800
"""The character without dots; each dot adds a bit."""

DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Those bits, by row and column (the Unicode standard, chapter 21.1)."""

SHADES = "░▒▓"
"""Of a cell that is neither empty nor full."""

PAPER, FAINT, INK = np.array([255, 255, 255]), np.array([198, 219, 239]), np.array([8, 48, 107])
"""Colours of a cell without a pair, with the fewest and with all."""


class PicturedMask(SparseMask):
    """A mask that can be looked at."""

    def picture(
        self, lq: int | None = None, lk: int | None = None, *, width: int = 72, height: int = 36, head: int = 0, batch: int = 0
    ) -> str:
        """Draw the mask in characters: queries downwards, keys to the right.

        As half blocks if it fits, a pair each; else as dots of Braille, a pair each; else a character stands for a rectangle of pairs, and its
        shade for how many of them may attend.

        Parameters
        ----------
        lq, lk : int, optional
            Queries and keys; those of `shape` by default.
        width, height : int
            Columns and lines at most, beside the line of text below.
        head, batch : int
            Of which head and batch entry, if the mask differs by those.

        Returns
        -------
        str
            Lines, the last of which says what is seen.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape, or has no such head or batch entry.
        InvalidInputError
            If a length is missing, or a number isn't what it should be.
        """
        width, height = check_int(width, "width", 1), check_int(height, "height", 1)
        lq, lk = self._one(lq, lk, head, batch)
        if lk <= width and lq <= 2 * height:
            cells, lines = self._grid(lq, lk, lq, lk, head, batch), _halves
        elif lk <= 2 * width and lq <= 4 * height:
            cells, lines = self._grid(lq, lk, lq, lk, head, batch), _braille
        else:
            # A character is about twice as high as wide.
            columns = min(lk, width, max(1, round(2 * height * lk / max(lq, 1))))
            rows = min(lq, height, max(1, round(columns * lq / max(lk, 1) / 2)))
            cells, lines = self._grid(lq, lk, rows, columns, head, batch), _shades
        counts, sizes = cells
        seen = int(counts.sum())
        text = f"{self!r}: {lq:,} queries × {lk:,} keys, {seen:,} pairs, {seen / max(lq * lk, 1):.2%}"
        if self.by_head:
            text += f", head {head}"
        if self.by_batch:
            text += f", batch entry {batch}"
        return "\n".join([*lines(counts / np.maximum(sizes, 1)), text])

    def save_picture(
        self, path: Any, lq: int | None = None, lk: int | None = None, *, size: int = 512, head: int = 0, batch: int = 0
    ) -> Path:
        """Write the mask as a PNG image: queries downwards, keys to the right; the darker, the more pairs of a pixel may attend.

        Parameters
        ----------
        path : str or path-like
            The file, which is replaced when the image is complete.
        lq, lk : int, optional
            Queries and keys; those of `shape` by default.
        size : int
            Pixels of the longer side, about: a mask that is smaller is enlarged by a whole number.
        head, batch : int
            Of which head and batch entry, if the mask differs by those.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape, or has no such head or batch entry.
        InvalidInputError
            If a length is missing or 0, or a number isn't what it should be.
        ImportError
            If matplotlib is not installed.
        OSError
            If the file cannot be written.
        """
        try:
            from matplotlib.image import imsave
        except ImportError as error:
            raise ImportError("pictures in files need matplotlib: pip install 'ruvattn-sparse[pictures]'") from error
        size = check_int(size, "size", 1)
        lq, lk = self._one(lq, lk, head, batch)
        check_int(lq, "lq", 1)
        check_int(lk, "lk", 1)
        longer = max(lq, lk)
        rows, columns = (max(1, round(length * min(1.0, size / longer))) for length in (lq, lk))
        counts, sizes = self._grid(lq, lk, rows, columns, head, batch)
        share = (counts / sizes)[..., None]
        pixels = np.where(share > 0, FAINT + (INK - FAINT) * share, PAPER).round().astype(np.uint8)
        zoom = max(1, size // max(rows, columns))
        pixels = pixels.repeat(zoom, 0).repeat(zoom, 1)
        path = Path(path)
        with replacing(path) as file:
            imsave(file, pixels, format="png")
        return path

    def _grid(self, lq: int, lk: int, rows: int, columns: int, head: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs that may attend, and all pairs, of each cell."""
        row_edges = np.arange(rows + 1) * lq // max(rows, 1)
        key_edges = np.arange(columns + 1) * lk // max(columns, 1)
        counts = self.cell_counts(row_edges, key_edges, head=head, batch=batch)
        return counts, np.diff(row_edges)[:, None] * np.diff(key_edges)[None, :]


def _halves(share: np.ndarray) -> list[str]:
    """Two rows to a line."""
    seen = _padded(share > 0, 2, 1).astype(int)
    return ["".join(HALVES[code] for code in line) for line in (2 * seen[0::2] + seen[1::2]).tolist()]


def _braille(share: np.ndarray) -> list[str]:
    """Four rows and two columns to a character."""
    seen = _padded(share > 0, 4, 2)
    dots = seen.reshape(seen.shape[0] // 4, 4, seen.shape[1] // 2, 2)
    codes = BRAILLE + (dots * DOTS[:, None, :]).sum((1, 3))
    return ["".join(map(chr, line)) for line in codes.tolist()]


def _shades(share: np.ndarray) -> list[str]:
    """One character to a cell."""
    return ["".join(_shade(value) for value in line) for line in share.tolist()]


def _shade(share: float) -> str:
    if share in (0.0, 1.0):
        return HALVES[-1] if share else HALVES[0]
    return SHADES[min(int(share * len(SHADES)), len(SHADES) - 1)]


def _padded(seen: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(seen, [(0, -seen.shape[0] % rows), (0, -seen.shape[1] % columns)])
