"""Checkpoints: named arrays and what describes them in one file, which is there whole or not at all.

    arrays, metadata ──► save_arrays ──► layer.safetensors ──► load_arrays ──► arrays, metadata ──► assign_arrays ──► the model's own arrays

A checkpoint is a safetensors file, so that other tools read its arrays. The header says what it is:

    format     "ruvattn"
    version    of this layout, an int
    kind       what it is a checkpoint of: "attention", "trainer", …
    metadata   JSON: the configuration, and whatever else the writer wants to find again
    sha256     of kind, metadata and all arrays with their names, dtypes and shapes

Reading checks all of it before anything is returned, and `assign_arrays` checks all names, shapes and dtypes before it writes the first number.
The digest finds what was damaged or edited; it is no signature, for whoever edits a file can write another digest.

Needs safetensors: ``pip install ruvattn[training]``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import CheckpointError, InvalidInputError
from .files import replacing
from .validation import as_numbers

__all__ = ["VERSION", "assign_arrays", "load_arrays", "match_arrays", "save_arrays"]

VERSION = 1
"""Of the layout that is written; what is older can be read."""

FORMAT = "ruvattn"

# safetensors' names of dtypes, and NumPy's.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write arrays and metadata to a file, in one step.

    Parameters
    ----------
    path : path
        The file; an existing one is replaced, or left whole where writing fails. What was written is on the disk when this returns.
    arrays : mapping of str to array
        Of bool, integers, float16, float32, float64 or ml_dtypes.bfloat16, of any shape, strides and byte order.
    metadata : mapping of str to object
        What JSON can hold, without NaN and infinity; sequences come back as lists. ``metadata["kind"]``, a string, says what it is a checkpoint
        of.

    Raises
    ------
    InvalidInputError
        If a name, an array or the metadata is not of this kind.
    CheckpointError
        If the file can't be written, or safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from ruvattn.checkpoints import load_arrays, save_arrays
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> save_arrays(path, {"weight": np.eye(2)}, {"kind": "example", "rate": 0.5})
    >>> load_arrays(path, kind="example")
    ({'weight': array([[1., 0.],
           [0., 1.]])}, {'kind': 'example', 'rate': 0.5})
    """
    place = _as_path(path)
    kind, text = _as_text(metadata)
    clean = _as_arrays(arrays)
    library = _library()
    header = {"format": FORMAT, "version": str(VERSION), "kind": kind, "metadata": text, "sha256": _digest(kind, text, clean)}
    data = library.save(clean, metadata=header)
    try:
        with replacing(place) as file:
            file.write(data)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise CheckpointError(f"cannot write {str(place)!r}: {error}") from error


def load_arrays(path: str | os.PathLike[str], *, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file that `save_arrays` wrote.

    Parameters
    ----------
    path : path
        The file.
    kind : str
        What it has to be a checkpoint of: the ``kind`` of its metadata.

    Returns
    -------
    arrays : dict of str to ndarray
        In the order of their names; contiguous, writable, and the caller's own.
    metadata : dict of str to object
        What was saved, ``kind`` included.

    Raises
    ------
    CheckpointError
        If the file isn't there, isn't a checkpoint, is truncated, damaged, of another kind, or of a newer version.
    """
    place = _as_path(path)
    if not isinstance(kind, str):
        raise InvalidInputError(f"kind must be a string, got {kind!r}")
    library = _library()
    name = str(place)
    try:
        data = place.read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {name!r}: {error}") from error
    try:
        # All of it is checked here: that the header is JSON, and that the arrays cover the rest of the file exactly.
        views = library.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (library.error, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name!r} is no checkpoint, or a part of one: {error}") from error
    _check_header(header, name, kind)
    text = header.get("metadata", "")
    arrays = {key: _as_view(key, view, name) for key, view in sorted(views)}
    if header.get("sha256") != _digest(header["kind"], text, arrays):
        raise CheckpointError(f"{name!r} has been changed since it was written: its digest does not match what it holds")
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{name!r} has metadata that are no JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("kind") != header["kind"]:
        raise CheckpointError(f"{name!r} has metadata that are not those of a checkpoint")
    return arrays, metadata


def match_arrays(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], source: str | os.PathLike[str] = "the checkpoint") -> None:
    """Check that arrays have the names, shapes and dtypes of a model's.

    Parameters
    ----------
    found : mapping of str to ndarray
        What was loaded.
    wanted : mapping of str to ndarray
        The model's own.
    source : path or str, default "the checkpoint"
        Where it was found, for messages.

    Raises
    ------
    CheckpointError
        If a name is missing or unknown, or a shape or dtype differs; the message names the array.
    """
    source = os.fspath(source)
    for name, array in wanted.items():
        other = found.get(name)
        if other is None:
            raise CheckpointError(f"{source} has no array {name!r}: it is of another model; it has {_listed(found)}")
        if other.shape != array.shape:
            raise CheckpointError(f"{source} has {name!r} with shape {other.shape}, and the model's is {array.shape}: it is of another model")
        if other.dtype != array.dtype:
            raise CheckpointError(f"{source} has {name!r} in {other.dtype}, and the model's is {array.dtype}: make the model in that dtype")
    unknown = [name for name in found if name not in wanted]
    if unknown:
        raise CheckpointError(f"{source} has an array {unknown[0]!r}, which the model lacks: it is of another model; the model has {_listed(wanted)}")


def assign_arrays(targets: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], source: str | os.PathLike[str] = "the checkpoint") -> None:
    """Write loaded arrays into a model's own, all of them or none.

    Parameters
    ----------
    targets : mapping of str to ndarray
        The model's own arrays, which are written in place.
    found : mapping of str to ndarray
        What was loaded.
    source : path or str, default "the checkpoint"
        Where it was found, for messages.

    Raises
    ------
    CheckpointError
        As `match_arrays`; then nothing has been written.
    InvalidInputError
        If one of the model's arrays is read-only.
    """
    match_arrays(found, targets, source)
    for name, array in targets.items():
        if not array.flags.writeable:
            raise InvalidInputError(f"the model's array {name!r} is read-only: load into a writable one")
    for name, array in targets.items():
        np.copyto(array, found[name])


def _as_path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise InvalidInputError(f"path must be a string or a path, got {path!r}") from None


def _as_text(metadata: Any) -> tuple[str, str]:
    """Return the kind, and the metadata as JSON."""
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata must be a mapping of names to values, got {metadata!r}")
    kind = metadata.get("kind")
    if not isinstance(kind, str) or not kind:
        raise InvalidInputError(f"metadata['kind'] must say what it is a checkpoint of, as a string, got {kind!r}")
    if any(not isinstance(name, str) for name in metadata):
        raise InvalidInputError(f"names of metadata must be strings, got {next(name for name in metadata if not isinstance(name, str))!r}")
    try:
        return kind, json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"metadata must be what JSON can hold: {error}; arrays go into arrays=") from None


def _as_arrays(arrays: Any) -> dict[str, np.ndarray]:
    """Return arrays as they are written: contiguous, in the order of the machine's bytes."""
    if not isinstance(arrays, Mapping):
        raise InvalidInputError(f"arrays must be a mapping of names to arrays, got {type(arrays).__name__}")
    clean = {}
    for name, given in arrays.items():
        if not isinstance(name, str) or name in ("", "__metadata__") or not _encodes(name):
            raise InvalidInputError(f"names of arrays must be strings of characters, other than '__metadata__', got {name!r}")
        if isinstance(given, np.ma.MaskedArray):
            raise InvalidInputError(f"array {name!r} is masked, and its mask would be lost: pass {name}.filled(…)")
        array = as_numbers(given, f"array {name!r}")
        if array.dtype.name not in _DTYPES.values():
            raise InvalidInputError(f"array {name!r} has dtype {array.dtype}, which a checkpoint can't hold: use bool, integers, floats of ≤ 64 bits")
        # Not as strided as it comes: safetensors takes memory from its first byte on, whatever the strides.
        # Not by ascontiguousarray, which gives an array of no axes one.
        clean[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    return clean


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _as_view(key: str, view: Mapping[str, Any], path: str) -> np.ndarray:
    """Return an array of its own from what safetensors read."""
    dtype = _DTYPES.get(view["dtype"])
    if dtype is None:
        raise CheckpointError(f"{path!r} has {key!r} in {view['dtype']}, a dtype that this version does not read")
    if dtype == "bfloat16":
        try:
            kind: Any = importlib.import_module("ml_dtypes").bfloat16
        except ImportError as error:
            raise CheckpointError(f"{path!r} has {key!r} in bfloat16: pip install ruvattn[bfloat16]") from error
    else:
        kind = dtype
    data = view["data"]
    array = np.frombuffer(data, np.dtype(kind).newbyteorder("<")).reshape(view["shape"])
    return np.array(array, kind) if isinstance(data, bytes) or not array.dtype.isnative else array


def _digest(kind: str, text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all that a checkpoint says, each part with its length, so that none can be taken for a part of another."""
    digest = hashlib.sha256()
    described = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in sorted(arrays)]
    for part in (kind, text, json.dumps(described)):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    for name in sorted(arrays):
        array = arrays[name]
        little = array if array.dtype.itemsize == 1 or np.little_endian else array.byteswap()
        digest.update(little.reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
    return digest.hexdigest()


def _check_header(header: Any, path: str, kind: str) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{path!r} was not written by ruvattn: a safetensors file, but none with format 'ruvattn'")
    version = header.get("version")
    try:
        number = int(version)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise CheckpointError(f"{path!r} has no version of the format that could be read: {version!r}")
    if number > VERSION:
        raise CheckpointError(f"{path!r} has version {number} of the format, and this ruvattn reads up to {VERSION}: pip install --upgrade ruvattn")
    if header.get("kind") != kind:
        raise CheckpointError(f"{path!r} is a checkpoint of kind {header.get('kind')!r}, and one of kind {kind!r} is wanted")


def _library() -> Any:
    try:
        core, of_numpy = importlib.import_module("safetensors"), importlib.import_module("safetensors.numpy")
    except ImportError as error:
        raise CheckpointError("checkpoints need safetensors: pip install ruvattn[training]") from error
    return SimpleNamespace(save=of_numpy.save, deserialize=core.deserialize, error=core.SafetensorError)


def _listed(arrays: Mapping[str, Any]) -> str:
    names = list(arrays)
    return ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "") if names else "none"
