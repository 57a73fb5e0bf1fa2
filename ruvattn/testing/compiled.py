"""Call a score's compiled functions on one tile, as the engine does, from Python.

The engine's blocks are larger than the tile: rows stand ``ld`` ≥ n apart. What lies between and around them belongs
to others, so the blocks here are walled with guards, and a function that writes over one is told so.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .runner import CheckFailure

__all__ = ["Forms", "compiled_logits", "compiled_logits_vjp"]

GUARD = 32
Forms = tuple[Any, Any]

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_get_context = ctypes.pythonapi.PyCapsule_GetContext
_get_context.restype, _get_context.argtypes = ctypes.c_void_p, (ctypes.py_object,)

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t
_FORWARD = ctypes.CFUNCTYPE(None, _POINTER, _SIZE, _SIZE, _SIZE, *5 * [_POINTER], _SIZE, _POINTER)
_VJP = ctypes.CFUNCTYPE(None, *2 * [_POINTER], *3 * [_SIZE], *5 * [_POINTER], _SIZE, *6 * [_POINTER])


def _function(callable_: Any, prototype: Any) -> tuple[Any, int | None]:
    """Return the C function inside a scipy.LowLevelCallable, and its user_data."""
    # Indexing a LowLevelCallable raises on purpose; the capsule is its first item as a tuple.
    capsule = tuple.__getitem__(callable_, 0)
    return prototype(_get_pointer(capsule, _get_name(capsule))), _get_context(capsule)


class _Block:
    """A flat array between two guards."""

    def __init__(self, name: str, values: np.ndarray | None, dtype: np.dtype[Any], writable: bool) -> None:
        self.name = name
        self.writable = writable
        self.empty = values is None
        values = np.zeros(0, dtype) if values is None else np.ascontiguousarray(values, dtype).ravel()
        self.size = values.size
        self.memory = np.full(values.size + 2 * GUARD, 12345.0, dtype)
        self.memory[GUARD : GUARD + self.size] = values
        self.before = self.memory.copy()

    @property
    def values(self) -> np.ndarray:
        return self.memory[GUARD : GUARD + self.size]

    @property
    def pointer(self) -> int | None:
        return None if self.empty else self.values.ctypes.data

    def inspect(self) -> None:
        same = self.memory.view(np.uint8) == self.before.view(np.uint8)
        around = np.ones(self.memory.size, bool)
        around[GUARD : GUARD + self.size] = False
        same = same.reshape(self.memory.size, -1).all(1)
        if not same[around].all():
            raise CheckFailure(
                f"the compiled function writes outside its block of {self.name}, which has {self.size} entries: "
                "mind that rows of dots are ld apart, not n, and that planes are m·ld apart"
            )
        if not self.writable and not same.all():
            raise CheckFailure(f"the compiled function writes to {self.name}, which it may only read")


def _spread(blocks: np.ndarray, ld: int) -> np.ndarray:
    """Put the last axis on rows of length ld; what is between is set to a number that shows when it is used."""
    spread = np.full((*blocks.shape[:-1], ld), 99.0, blocks.dtype)
    spread[..., : blocks.shape[-1]] = blocks
    return spread


def _stack(terms: tuple[np.ndarray, ...], length: int, dtype: np.dtype[Any]) -> np.ndarray | None:
    return np.stack([np.asarray(term, dtype).reshape(length) for term in terms]) if terms else None


def _inputs(tile: Any, ld: int, dtype: np.dtype[Any]) -> dict[str, _Block]:
    _, m, n = tile.dots.shape
    cols = _stack(tile.cols, n, dtype)
    params = [np.asarray(value, dtype).ravel() for value in tile.params.values()]
    values = {
        "rows": _stack(tile.rows, m, dtype),
        "cols": None if cols is None else _spread(cols, ld),
        "params": np.concatenate(params) if params else None,
        "q": tile.q,
        "k": tile.k,
    }
    return {name: _Block(name, value, dtype, False) for name, value in values.items()}


def compiled_logits(form: Any, tile: Any, ld: int) -> np.ndarray:
    """Return what a compiled forward function makes of a tile.

    Parameters
    ----------
    form : scipy.LowLevelCallable
        The forward function for the tile's dtype.
    tile : ruvattn.Tile
        Dots (C, m, n), terms, parameters of one head and vectors; not written.
    ld : int
        Distance of rows, at least n.

    Returns
    -------
    ndarray, (m, n)
        The logits.

    Raises
    ------
    CheckFailure
        If the function writes where it may not.
    """
    planes, m, n = tile.dots.shape
    dtype = tile.dots.dtype
    # Without planes, there is still room for the logits.
    dots = _Block("dots", _spread(tile.dots if planes else np.zeros((1, m, n), dtype), ld), dtype, True)
    inputs = _inputs(tile, ld, dtype)
    function, user_data = _function(form, _FORWARD)
    width = 0 if tile.q is None else tile.q.shape[1]
    function(dots.pointer, m, n, ld, *(block.pointer for block in inputs.values()), width, user_data)
    for block in (dots, *inputs.values()):
        block.inspect()
    return dots.values.reshape(-1, m, ld)[0, :, :n].copy()


def compiled_logits_vjp(form: Any, tile: Any, dlogits: np.ndarray, ld: int) -> dict[str, np.ndarray]:
    """Return the gradients that a compiled vjp makes of a tile.

    Parameters
    ----------
    form : scipy.LowLevelCallable
        The vjp for the tile's dtype.
    tile : ruvattn.Tile
        Dots (C, m, n), terms, parameters of one head and vectors; not written.
    dlogits : ndarray, (m, n)
        Gradient of the logits.
    ld : int
        Distance of rows, at least n.

    Returns
    -------
    dict of str to ndarray
        ``dots`` (C, m, n), ``rows`` (R, m), ``cols`` (S, n), ``params`` (P,), and ``q`` (m, D), ``k`` (n, D) where the
        tile has vectors.

    Raises
    ------
    CheckFailure
        If the function writes where it may not.
    """
    planes, m, n = tile.dots.shape
    dtype = tile.dots.dtype
    dots = _Block("dots", _spread(tile.dots if planes else np.zeros((1, m, n), dtype), ld), dtype, True)
    gradient = _Block("dlogits", _spread(dlogits.astype(dtype), ld), dtype, False)
    inputs = _inputs(tile, ld, dtype)
    # Gradients but those of the dots are added to what is there: start from 1, not from 0.
    outputs = {
        name: _Block("d" + name, None if block.empty else np.ones(block.size, dtype), dtype, True)
        for name, block in inputs.items()
    }
    function, user_data = _function(form, _VJP)
    width = 0 if tile.q is None else tile.q.shape[1]
    pointers = [block.pointer for block in inputs.values()]
    function(dots.pointer, gradient.pointer, m, n, ld, *pointers, width, *(b.pointer for b in outputs.values()), user_data)
    for block in (dots, gradient, *inputs.values(), *outputs.values()):
        block.inspect()
    shapes = {"rows": (-1, m), "cols": (-1, ld), "params": (-1,), "q": (m, width), "k": (n, width)}
    found = {"dots": dots.values.reshape(-1, m, ld)[:planes, :, :n].copy()}
    for name, block in outputs.items():
        if not block.empty:
            found[name] = (block.values - 1).reshape(shapes[name])
    if "cols" in found:
        found["cols"] = found["cols"][:, :n]
    return found
