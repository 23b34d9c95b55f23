"""Files that are damaged, of a newer version, or of other people."""

import collections
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import xdev
from xdev import files

from .arrays import on

Point = collections.namedtuple("Point", ["x", "y"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tree.safetensors"


def rewrite(path, change):
    """Change a file's header, and keep its data."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_every_flipped_bit_is_noticed(path):
    saved = {"w": np.arange(3, dtype=np.float32), "s": "text", "n": [1, 2.5]}
    xdev.save(path, saved)
    raw = path.read_bytes()
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            loaded = xdev.load(path)
        except xdev.FileError:
            continue
        # Padding, and JSON's own freedom: then it must read the same.
        assert repr(loaded) == repr(saved), f"byte {position} of {len(raw)}: {raw[position - 9 : position + 9]!r}"


def test_every_truncation_is_noticed(path):
    xdev.save(path, {"w": np.arange(30, dtype=np.float32)})
    raw = path.read_bytes()
    for length in range(0, len(raw), 7):
        path.write_bytes(raw[:length])
        with pytest.raises(xdev.FileError):
            xdev.load(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty; use another copy"),
        (b"hello world, this is text", r"is no safetensors file; xdev.save writes such \("),
        (b"PK\x03\x04" + b"\0" * 40, "is a zip archive and no safetensors file; numpy.load or torch.load may read it"),
        (pickle.dumps({"a": 1}, 4), "is a pickle and no safetensors file; xdev reads none, since they run code"),
        (b"\x20\0\0\0\0\0\0\0{", "is a truncated or damaged safetensors file; use another copy"),
    ],
    ids=["empty", "text", "zip", "pickle", "truncated"],
)
def test_strangers_are_named(path, content, text):
    path.write_bytes(content)
    with pytest.raises(xdev.FileError, match=text):
        xdev.load(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(xdev.FileError) as caught:
        xdev.load(tmp_path / "nothing")
    assert str(caught.value) == f"there is no file {tmp_path / 'nothing'}"
    xdev.save(tmp_path / "model.safetensors", 1)
    with pytest.raises(xdev.FileError) as caught:
        xdev.load(tmp_path / "modle.safetensors")
    assert str(caught.value) == (
        f"there is no file {tmp_path / 'modle.safetensors'}; did you mean {tmp_path / 'model.safetensors'}?"
    )
    with pytest.raises(xdev.FileError) as caught:
        xdev.load(tmp_path / "no" / "file")
    assert str(caught.value) == f"there is no file {tmp_path / 'no' / 'file'}, and no folder {tmp_path / 'no'}"
    with pytest.raises(xdev.FileError) as caught:
        xdev.load(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder; give the name of a file in it"


def test_where_nothing_can_be_saved(tmp_path):
    for path in (str(tmp_path), f"{tmp_path}{os.sep}", f"{tmp_path / 'new'}{os.sep}"):
        with pytest.raises(xdev.FileError) as caught:
            xdev.save(path, 1)
        example = Path(path) / "model.safetensors"
        assert str(caught.value) == f"{path} names a folder; give the name of a file in it: {example}"
    with pytest.raises(xdev.FileError) as caught:
        xdev.save(tmp_path / "new" / "file", 1)
    assert str(caught.value) == (
        f"{tmp_path / 'new' / 'file'} cannot be written: the folder {tmp_path / 'new'} does not exist; make it first"
    )
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(xdev.FileError) as caught:
        xdev.save(tmp_path / "taken" / "file", 1)
    assert str(caught.value).endswith(f"the folder {tmp_path / 'taken'} is a file; choose another folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("path", "what"), [("", "''"), (None, "None"), (3, "3"), ({"a": 1}, "a dict"), ("a\0b", r"'a\x00b'")]
)
def test_what_is_no_name_of_a_file(path, what):
    with pytest.raises(xdev.FileError) as caught:
        xdev.save(path, 1)
    assert str(caught.value) == f"save(path, tree) takes the name of a file, got {what}"
    with pytest.raises(xdev.FileError) as caught:
        xdev.load(path)
    assert str(caught.value) == f"load(path) takes the name of a file, got {what}"


def test_names_in_bytes(tmp_path):
    xdev.save(os.fsencode(tmp_path / "file"), 1)
    assert xdev.load(os.fsencode(tmp_path / "file")) == 1


@pytest.mark.parametrize("version", ["2", "99", "", "one"])
def test_a_newer_version_says_to_update(path, version):
    xdev.save(path, {"a": 1})
    rewrite(path, lambda header: header["__metadata__"].update(version=version))
    text = f"is of version {version or 'unknown'} of the format, and this xdev reads up to 1; update xdev: pip install"
    with pytest.raises(xdev.FileError, match=text):
        xdev.load(path)


@pytest.mark.parametrize("key", ["format", files.STRUCTURE, files.CHECKSUM])
def test_missing_metadata_is_damage(path, key):
    xdev.save(path, {"a": 1})
    rewrite(path, lambda header: header["__metadata__"].pop(key))
    with pytest.raises(
        xdev.FileError, match="is damaged: its checksum differs from what was written; use another copy"
    ):
        xdev.load(path)


def test_a_structure_that_names_a_missing_array_is_damage(path, monkeypatch):
    monkeypatch.setattr(files, "encode", lambda *_: {"array": "gone"})
    xdev.save(path, {})
    with pytest.raises(xdev.FileError, match="it lacks the array 'gone'"):
        xdev.load(path)


def test_unknown_notation(path, monkeypatch):
    monkeypatch.setattr(files, "encode", lambda *_: {"unheard": 1})
    xdev.save(path, {})
    with pytest.raises(xdev.FileError, match="unknown notation 'unheard'"):
        xdev.load(path)


def test_other_peoples_files_are_dicts_of_arrays(device, path):
    save_file({"b.weight": np.ones((2, 3), np.float32), "a": np.arange(3, dtype=np.int32)}, path, {"format": "pt"})
    loaded = xdev.load(path)
    assert list(loaded) == ["a", "b.weight"]
    assert loaded["b.weight"].shape == (2, 3)
    moved = xdev.load(path, device=device)
    assert on(moved["a"]) is device
    assert xdev.load(path, like=moved)["a"] is not moved["a"]


def test_other_readers_find_the_arrays_under_their_paths(path):
    xdev.save(path, {"layers": [Point(np.arange(3.0), 1)], "c": np.ones(2, np.complex64)})
    with safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == ["tree['c']", "tree['layers'][0].x"]
        assert file.get_tensor("tree['layers'][0].x").tolist() == [0, 1, 2]
        assert file.get_tensor("tree['c']").tolist() == [[1, 0], [1, 0]]
        assert file.metadata()["format"] == "xdev-tree"
        assert file.metadata()["version"] == "1"
