"""Checkpoints: what comes back is what was saved; what was damaged, or is something else, is an error and changes nothing."""

import json
import os
import sys

import ml_dtypes
import numpy as np
import pytest

from ruvattn import checkpoints, files
from ruvattn.checkpoints import assign_arrays, load_arrays, save_arrays
from ruvattn.errors import CheckpointError, InvalidInputError

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", ml_dtypes.bfloat16]
METADATA = {"kind": "test", "config": {"embed_dim": 8, "rates": [0.1, None, True, "é"]}, "seed": 2**100}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {"weight": rng.standard_normal((3, 4)).astype(np.float32), "bias": rng.standard_normal(5)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layer.safetensors"


@pytest.fixture
def saved(path):
    save_arrays(path, arrays(), METADATA)
    return path


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path, change):
    """Write a safetensors file again, with another header."""
    header, body = header_of(path)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


# --- there and back ---------------------------------------------------------------------------------------------------------------


def test_arrays_and_metadata_come_back(saved):
    found, metadata = load_arrays(saved, kind="test")
    assert metadata == METADATA
    assert list(found) == ["bias", "weight"]
    for name, array in arrays().items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_dtype_comes_back_to_the_bit(path, dtype):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 2, 12).astype(dtype) if np.dtype(dtype).kind in "biu" else rng.standard_normal(12).astype(dtype)
    save_arrays(path, {"a": array.reshape(3, 4)}, METADATA)
    found = load_arrays(path, kind="test")[0]["a"]
    assert found.dtype == np.dtype(dtype)
    assert found.tobytes() == array.tobytes()


def test_what_is_loaded_can_be_written(saved):
    for array in load_arrays(saved, kind="test")[0].values():
        array += 1
        assert array.flags.writeable


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::2, ::3],
        lambda a: a[::-1],
        lambda a: np.broadcast_to(a[:1], a.shape),
        np.asfortranarray,
        lambda a: a.astype(">f4"),
        lambda a: a[1, 2],
        lambda a: a[:0],
    ],
    ids=["transposed", "strided", "reversed", "repeated", "Fortran", "big endian", "no axes", "empty"],
)
def test_strides_and_byte_order_do_not_matter(path, view):
    given = view(np.arange(20, dtype=np.float32).reshape(4, 5))
    save_arrays(path, {"a": given}, METADATA)
    found = load_arrays(path, kind="test")[0]["a"]
    assert found.shape == np.shape(given)
    np.testing.assert_array_equal(found, given)


def test_values_that_are_not_finite_come_back(path):
    save_arrays(path, {"a": np.array([np.nan, np.inf, -0.0])}, METADATA)
    np.testing.assert_array_equal(load_arrays(path, kind="test")[0]["a"], [np.nan, np.inf, 0])


def test_no_arrays_at_all_are_a_checkpoint_too(path):
    save_arrays(path, {}, METADATA)
    assert load_arrays(path, kind="test") == ({}, METADATA)


def test_the_same_content_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        save_arrays(tmp_path / name, arrays(), METADATA)
    assert load_arrays(tmp_path / "a", kind="test")[1] == load_arrays(tmp_path / "b", kind="test")[1]
    assert header_of(tmp_path / "a")[0]["__metadata__"]["sha256"] == header_of(tmp_path / "b")[0]["__metadata__"]["sha256"]


def test_other_tools_read_the_arrays(saved):
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(saved)["weight"], arrays()["weight"])


# --- whole or not at all ----------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_checkpoint(saved, monkeypatch):
    before = saved.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_arrays(saved, arrays(1), METADATA)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_file_and_then_its_folder_are_on_the_disk(path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (events.append(os.path.isdir(f"/proc/self/fd/{handle}")), fsync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    save_arrays(path, arrays(), METADATA)
    assert events == [False, "replace", True]


@pytest.mark.parametrize("place", ["nowhere/file", "."], ids=["no folder", "a folder"])
def test_a_place_that_cannot_be_written_is_a_checkpoint_error(tmp_path, place):
    with pytest.raises(CheckpointError, match="cannot write"):
        save_arrays(tmp_path / place, arrays(), METADATA)


# --- files that are no checkpoints ------------------------------------------------------------------------------------------------


def test_every_truncation_is_a_checkpoint_error(saved):
    data = saved.read_bytes()
    for length in [*range(0, len(data), 7), len(data) - 1]:
        saved.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"layer\.safetensors"):
            load_arrays(saved, kind="test")


def test_every_flipped_bit_is_a_checkpoint_error(saved):
    data = saved.read_bytes()
    for at in range(len(data)):
        saved.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            found, metadata = load_arrays(saved, kind="test")
        except CheckpointError:
            continue
        pytest.fail(f"byte {at} of {len(data)}, {data[at : at + 1]!r}, may be another one: {found}, {metadata}")


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, b"PK\x03\x04 something else entirely", b"\x02\0\0\0\0\0\0\0{}"],
                         ids=["empty", "short", "ones", "zip", "no arrays, no metadata"])  # fmt: skip
def test_a_foreign_file_is_a_checkpoint_error(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"layer\.safetensors"):
        load_arrays(path, kind="test")


def test_safetensors_of_another_tool_are_a_checkpoint_error(path):
    from safetensors.numpy import save_file

    save_file(arrays(), path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not written by ruvattn"):
        load_arrays(path, kind="test")


@pytest.mark.parametrize(("version", "message"), [("2", "pip install --upgrade"), ("0", "no version"), ("one", "no version"), (None, "no version")])
def test_another_version_is_a_checkpoint_error(saved, version, message):
    def change(header):
        if version is None:
            del header["__metadata__"]["version"]
        else:
            header["__metadata__"]["version"] = version

    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_arrays(saved, kind="test")


def test_an_edited_configuration_is_a_checkpoint_error(saved):
    def change(header):
        header["__metadata__"]["metadata"] = header["__metadata__"]["metadata"].replace("8", "9")

    rewrite(saved, change)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        load_arrays(saved, kind="test")


def test_exchanged_names_are_a_checkpoint_error(path):
    save_arrays(path, {"a": np.zeros(3), "b": np.ones(3)}, METADATA)

    def change(header):
        header["a"], header["b"] = header["b"], header["a"]

    rewrite(path, change)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        load_arrays(path, kind="test")


def test_another_kind_is_a_checkpoint_error(saved):
    with pytest.raises(CheckpointError, match="kind 'test', and one of kind 'trainer' is wanted"):
        load_arrays(saved, kind="trainer")


def test_a_file_that_is_not_there_is_a_checkpoint_error(path):
    with pytest.raises(CheckpointError, match="cannot read"):
        load_arrays(path, kind="test")


# --- what cannot be saved ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "metadata", "message"),
    [
        ({"a": np.zeros(2, complex)}, METADATA, "'a' has dtype complex128"),
        ({"a": np.array([None])}, METADATA, "'a' has dtype object"),
        ({"a": np.array(["x"])}, METADATA, "'a' has dtype"),
        ({"a": np.zeros(2, np.longdouble)}, METADATA, "'a' has dtype"),
        ({"a": [[1], [1, 2]]}, METADATA, "array 'a'"),
        ({"a": np.ma.zeros(2)}, METADATA, "masked"),
        ({3: np.zeros(2)}, METADATA, "names of arrays"),
        ({"": np.zeros(2)}, METADATA, "names of arrays"),
        ({"__metadata__": np.zeros(2)}, METADATA, "names of arrays"),
        ({"\ud800": np.zeros(2)}, METADATA, "names of arrays"),
        ([np.zeros(2)], METADATA, "arrays must be a mapping"),
        ({}, {"config": 1}, "kind"),
        ({}, {"kind": 3}, "kind"),
        ({}, None, "metadata must be a mapping"),
        ({}, {"kind": "x", "a": np.zeros(2)}, "JSON"),
        ({}, {"kind": "x", "a": float("nan")}, "JSON"),
        ({}, {"kind": "x", 3: 1}, "names of metadata"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(path, given, metadata, message):
    with pytest.raises(InvalidInputError, match=message):
        save_arrays(path, given, metadata)
    assert not path.exists()


def test_a_path_that_is_none_is_invalid():
    with pytest.raises(InvalidInputError, match="path"):
        save_arrays(3, {}, METADATA)
    with pytest.raises(InvalidInputError, match="path"):
        load_arrays(None, kind="test")


def test_without_safetensors_the_message_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(CheckpointError, match=r"pip install ruvattn\[training\]"):
        save_arrays(path, arrays(), METADATA)
    with pytest.raises(CheckpointError, match=r"pip install ruvattn\[training\]"):
        load_arrays(path, kind="test")


def test_without_ml_dtypes_bfloat16_says_what_to_install(path, monkeypatch):
    save_arrays(path, {"a": np.zeros(2, ml_dtypes.bfloat16)}, METADATA)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(CheckpointError, match=r"pip install ruvattn\[bfloat16\]"):
        load_arrays(path, kind="test")


# --- into a model -----------------------------------------------------------------------------------------------------------------


def test_arrays_are_written_in_place(saved):
    targets = {name: np.zeros_like(array) for name, array in arrays().items()}
    views = dict(targets)
    assign_arrays(targets, load_arrays(saved, kind="test")[0])
    for name, array in arrays().items():
        assert targets[name] is views[name]
        np.testing.assert_array_equal(targets[name], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("weight"), "no array 'weight'"),
        (lambda a: a.update(other=np.zeros(1)), "an array 'other', which the model lacks"),
        (lambda a: a.update(weight=np.zeros((4, 3), np.float32)), r"'weight' with shape \(4, 3\)"),
        (lambda a: a.update(weight=np.zeros((3, 4))), "'weight' in float64"),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_arrays_of_another_model_are_named_and_nothing_is_written(change, message):
    targets = {name: np.zeros_like(array) for name, array in reversed(arrays().items())}
    found = arrays()
    change(found)
    with pytest.raises(CheckpointError, match=message):
        assign_arrays(targets, found, "file.safetensors")
    assert not any(array.any() for array in targets.values())


def test_a_read_only_array_is_named_and_nothing_is_written():
    targets = {name: np.zeros_like(array) for name, array in arrays().items()}
    targets["bias"].flags.writeable = False
    with pytest.raises(InvalidInputError, match="'bias' is read-only"):
        assign_arrays(targets, arrays())
    assert not targets["weight"].any()


def test_the_version_that_is_written_is_the_one_that_is_read(saved):
    assert header_of(saved)[0]["__metadata__"]["version"] == str(checkpoints.VERSION)
