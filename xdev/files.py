"""Saving trees to safetensors files and loading them on any backend: `save`, `load`.

Requirements: no pickle; the same bits come back on every backend; a file is written whole or not at all; damage is
noticed. The structure of the tree is JSON in the file's metadata, so that every safetensors reader finds the arrays.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import tree
from .contract import dtype_name
from .crossing import cross, read
from .device import Device, device_of_array, host, native_of
from .device import device as find_device
from .errors import DTypeError, FileError, a
from .file_structure import Steps, decode, encode, entries
from .values import host_dtype, kind_of, wanted_dtype

__all__ = ["load", "save"]

FORMAT = "xdev-tree"
VERSION = 1
STRUCTURE, CHECKSUM = "xdev.structure", "xdev.checksum"
_STORED = frozenset(
    {
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "bfloat16", "float32", "float64",
    }
)  # fmt: skip
"""The dtypes that every version of safetensors has; others are stored as numbers of these."""
_VIEWS = {"complex64": "float32", "complex128": "float64"}
_LISTED = 12
"""How many differences an error lists."""


def save(path: str | os.PathLike[str], tree_: Any, /) -> None:
    """Write a tree to a file, as safetensors with the tree's structure in its metadata.

    Parameters
    ----------
    path : str or path
        The file. An existing one is replaced in one step when the new one is complete; if anything fails, it stays.
    tree_ : tree
        Dicts, lists, tuples, namedtuples and modules of arrays of any backend, numbers, strings, bytes and
        None. An array that stands twice is stored once. Static fields of modules are code, and are not stored.

    Raises
    ------
    FileError
        If the file cannot be written, as in a folder that does not exist; or if something in the tree cannot be stored,
        and then its path in the tree is named.

    Examples
    --------
    >>> import numpy as np, tempfile, os, xdev
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> xdev.save(path, {"w": np.arange(3.0), "step": 7})
    >>> xdev.load(path)
    {'w': array([0., 1., 2.]), 'step': 7}
    """
    from safetensors.numpy import save_file

    target = _target(path)
    with _replacing(target) as temporary:
        arrays: dict[str, np.ndarray] = {}
        structure = _write_structure(tree_, arrays)
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            STRUCTURE: structure,
            CHECKSUM: _checksum(arrays, structure),
        }
        save_file(arrays, temporary, metadata)
        _sort_metadata(temporary)


def _sort_metadata(path: str) -> None:
    """Put the metadata in order, which safetensors writes in a random one: equal trees are equal files."""
    with open(path, "rb+") as file:  # noqa: PTH123  as in `_replacing`
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def load(path: str | os.PathLike[str], /, like: Any = None, device: Any = None, *, dtype: Any = None) -> Any:
    """Read a tree from a file that `save` wrote, or from any safetensors file.

    Parameters
    ----------
    path : str or path
        The file.
    like : tree, optional
        A tree of the wanted structure, such as a freshly made model: its arrays and numbers are replaced by those of
        the file, path by path, and everything else of it is kept. Without it, containers come back as they were
        saved, namedtuples and modules as dicts by field.
    device : str or Device, optional
        Where to, for generators in `like` too. None is NumPy without `like`, else where each array of `like` is.
    dtype : str or dtype, optional
        The dtype for arrays of its kind (floating to floating, integer to integer); None keeps that of the file.

    Returns
    -------
    tree
        New arrays, which share memory with nothing; what was one array in the saved tree is one again. A safetensors
        file without a structure gives a dict of its arrays by name.

    Raises
    ------
    FileError
        If the file is missing, a folder, truncated, damaged, of another format or of a newer version, or if it does
        not fit `like`: all paths, shapes and dtypes that differ are listed.
    DTypeError
        If the target cannot hold a dtype, as plain NumPy cannot hold bfloat16.

    Examples
    --------
    >>> import numpy as np, tempfile, os, xdev
    >>> path = os.path.join(tempfile.mkdtemp(), "point.safetensors")
    >>> xdev.save(path, (np.ones(2), {"label": "a"}))
    >>> xdev.load(path, like=(np.zeros(2), {"label": ""}))
    (array([1., 1.]), {'label': 'a'})
    """
    name = _name(path, "load")
    target = None if device is None else find_device(device)
    wanted = None if dtype is None else wanted_dtype(dtype)
    arrays, structure = _read(name)
    placed: dict[tuple[str, Device], Any] = {}

    def place(note: Any, to: Device, where: str) -> Any:
        key = note["array"], to
        if key not in placed:
            placed[key] = _place(_value(note, arrays, name), to, wanted, where)
        return placed[key]

    if like is None:
        found = list(entries(structure))
        to = target or host()
        for steps, note in found:
            if _is_array(note):
                place(note, to, _text(steps))
        return decode(structure, lambda note: place(note, to, ""))
    paths, leaves, treedef = tree.flatten_with_paths(like)
    moves = [_moves_itself(node) for node in tree.leaves(like, _moves_itself) for _ in tree.leaves(node)]
    wheres = [tree.path_string(each, "like") for each in paths]
    notes = _match(structure, arrays, [tree.steps(each) for each in paths], leaves, wheres, name, wanted)
    out = []
    for note, leaf, where, moves_itself in zip(notes, leaves, wheres, moves, strict=True):
        if _is_array(note):
            to = host() if target and moves_itself else target or _device_like(leaf, where)
            out.append(place(note, to, where))
        else:
            out.append(decode(note, lambda _: None))
    made = tree.unflatten(treedef, out)
    if target is None or not any(moves):
        return made
    return tree.map(lambda x: x.__xdev_to_device__(target) if _moves_itself(x) else x, made, is_leaf=_moves_itself)


# -- names of files ----------------------------------------------------------------------------------


def _name(path: Any, function: str) -> str:
    """Return the name of a file, or raise for what is none."""
    if isinstance(path, str | bytes | os.PathLike):
        name = os.fsdecode(path)
        if name and "\0" not in name:
            return name
    function += "(path, tree)" if function == "save" else "(path)"
    what = repr(path) if isinstance(path, str | bytes | int | None) else a(type(path).__name__)
    raise FileError(f"{function} takes the name of a file, got {what}")


def _target(path: Any) -> str:
    """Return the file to write, past all links."""
    name = _name(path, "save")
    target = os.path.realpath(name)
    if Path(target).is_dir() or name.endswith(("/", os.sep)):
        raise FileError(f"{name} names a folder; give the name of a file in it: {Path(name) / 'model.safetensors'}")
    return target


def _missing(name: str) -> FileError:
    """Return the error for a file that is not there, with the nearest name that is."""
    folder = Path(name).parent
    try:
        there = [entry.name for entry in folder.iterdir()]
    except OSError:
        return FileError(f"there is no file {name}, and no folder {folder}")
    close = difflib.get_close_matches(Path(name).name, there, 1)
    return FileError(f"there is no file {name}" + (f"; did you mean {folder / close[0]}?" if close else ""))


# -- writing -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _replacing(target: str) -> Iterator[str]:
    """Give the name of a new file beside `target`, which takes its place at the end, or vanishes on an error."""
    folder, name = os.path.split(target)
    temporary = str(Path(folder) / f".{name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(handle).st_mode if not Path(target).exists() else Path(target).stat().st_mode
        os.close(handle)
    except OSError as error:
        if not Path(folder).is_dir():
            what = "is a file; choose another folder" if Path(folder).exists() else "does not exist; make it first"
            raise FileError(f"{target} cannot be written: the folder {folder} {what}") from error
        raise FileError(f"{target} cannot be written ({error.strerror}); write to another folder") from error
    try:
        yield temporary
        with open(temporary, "rb+") as written:  # noqa: PTH123  one name for the file throughout
            os.fsync(written.fileno())
        Path(temporary).chmod(mode & 0o777)
        os.replace(temporary, target)  # noqa: PTH105  likewise
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise FileError(f"{target} could not be written, and is as it was: {error}") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make a rename last; not all systems can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_structure(tree_: Any, arrays: dict[str, np.ndarray]) -> str:
    """Return the tree's structure as JSON, and put its arrays, on the host, into `arrays`."""
    notes: dict[int, Any] = {}

    def reference(path: str, leaf: Any) -> Any:
        if id(leaf) in notes:
            return notes[id(leaf)]
        owned = native_of(leaf)
        if owned is None:
            raise FileError(
                f"{path} is {a(type(leaf).__name__)}; files hold arrays, numbers, strings, bytes and None in dicts, "
                "lists, tuples and modules"
            )
        backend, native = owned
        source = device_of_array(backend, native)
        if source is None or native is not leaf:
            raise FileError(f"{path} is being traced and has no value yet; save outside jit and value_and_grad")
        values = read(native, backend, source)
        dtype = dtype_name(values.dtype)
        note: dict[str, Any] = {"array": path}
        if dtype in _VIEWS:
            note["dtype"] = dtype
            values = np.asarray(values, order="C").reshape((*values.shape, 1)).view(_VIEWS[dtype])
        elif dtype not in _STORED:
            raise FileError(f"{path} has dtype {values.dtype}, which files do not hold; convert it to {_advice(dtype)}")
        arrays[path] = np.asarray(values, dtype=values.dtype.newbyteorder("<"), order="C")
        notes[id(leaf)] = note
        return note

    structure = encode(tree_, "tree", reference)
    return json.dumps(structure, separators=(",", ":"))


def _advice(dtype: str) -> str:
    return "float64" if kind_of(dtype) == "floating" else "numbers"


def _checksum(arrays: dict[str, np.ndarray], structure: str) -> str:
    """Return a checksum of names, dtypes, shapes, bytes and structure."""
    total = zlib.crc32(f"{VERSION} {structure}".encode())
    for name, array in sorted(arrays.items()):
        total = zlib.crc32(f"{name} {dtype_name(array.dtype)} {array.shape}".encode(), total)
        if array.size:
            total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return f"crc32:{total:08x}"


# -- reading -----------------------------------------------------------------------------------------


def _read(name: str) -> tuple[dict[str, np.ndarray], Any]:
    """Return a file's arrays and the structure of its tree, both checked."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(name, framework="np") as file:
            metadata = file.metadata() or {}
            # Any of the three: damage to one of them must not make it look like somebody else's file.
            ours = metadata.get("format") == FORMAT or STRUCTURE in metadata or CHECKSUM in metadata
            if ours:
                _check_version(name, metadata)
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping: keys() only
    except FileNotFoundError as error:
        raise _missing(name) from error
    except (OSError, SafetensorError) as error:
        if Path(name).is_dir():
            raise FileError(f"{name} is a folder; give the name of a file in it") from error
        raise FileError(f"{name} {_what_it_is(name)} ({error})") from error
    except AttributeError as error:  # safetensors looks the dtypes that it knows better than NumPy up in NumPy
        raise FileError(f"{name} has an array of a dtype that NumPy has not ({error}); convert it") from error
    if not ours:
        return arrays, {"dict": [[key, {"array": key}] for key in sorted(arrays)]}
    text = metadata.get(STRUCTURE, "")
    if metadata.get("format") != FORMAT or metadata.get(CHECKSUM) != _checksum(arrays, text):
        raise FileError(f"{name} is damaged: its checksum differs from what was written; use another copy")
    return arrays, json.loads(text)


def _check_version(name: str, metadata: dict[str, str]) -> None:
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise FileError(
            f"{name} is of version {version or 'unknown'} of the format, and this xdev reads up to {VERSION}; "
            "update xdev: pip install --upgrade xdev-array"
        )


def _what_it_is(name: str) -> str:
    """Say what a file is that safetensors cannot read."""
    try:
        size = Path(name).stat().st_size
        with Path(name).open("rb") as file:
            start = file.read(9)
    except OSError:
        return "cannot be read"
    if not size:
        return "is empty; use another copy"
    if start.startswith(b"PK"):
        return "is a zip archive and no safetensors file; numpy.load or torch.load may read it"
    if start.startswith(b"\x80") and start[8:9] != b"{":
        return "is a pickle and no safetensors file; xdev reads none, since they run code"
    if start[8:9] == b"{":
        return "is a truncated or damaged safetensors file; use another copy"
    return "is no safetensors file; xdev.save writes such"


def _is_array(note: Any) -> bool:
    return isinstance(note, dict) and "array" in note


def _text(steps: Steps) -> str:
    return "tree" + "".join(f"[{step!r}]" for step in steps)


def _value(note: Any, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    values = arrays.get(note["array"])
    if values is None:
        raise FileError(f"{name} is damaged: it lacks the array {note['array']!r}; use another copy")
    dtype = note.get("dtype")
    if dtype is None:
        return values
    return np.asarray(values.view(host_dtype(dtype)).reshape(values.shape[:-1]))


def _place(values: np.ndarray, to: Device, dtype: str | None, where: str) -> Any:
    name = dtype_name(values.dtype)
    wanted = dtype if dtype is not None and kind_of(dtype) == kind_of(name) else name
    if to.is_host and not to.backend.holds(wanted, to.info):
        raise DTypeError(
            f"{where} is {wanted}, which {to} cannot hold; load it to a device that can, with device= or like=, or "
            'convert it with dtype="float32"'
        )
    return cross(values, host().backend, host(), to, None, where, wanted)


def _moves_itself(node: Any) -> bool:
    """Return whether a node knows how to move itself to a device, as a generator does."""
    return hasattr(type(node), "__xdev_to_device__")


def _device_like(leaf: Any, where: str) -> Device:
    backend, native = native_of(leaf) or (None, None)
    found = None if backend is None else device_of_array(backend, native)
    if found is None:
        raise FileError(f"{where} is being traced and has no device; load outside jit")
    return found


def _match(
    structure: Any,
    arrays: dict[str, np.ndarray],
    wanted: list[Steps],
    leaves: list[Any],
    wheres: list[str],
    name: str,
    dtype: str | None,
) -> list[Any]:
    """Return what the file has for each leaf of `like`, or raise with all that does not fit."""
    stored = dict(entries(structure))
    problems = [
        f"missing in the file: {where}" for where, steps in zip(wheres, wanted, strict=True) if steps not in stored
    ]
    expected = set(wanted)
    problems += [f"not in like: {_text(steps)}" for steps in stored if steps not in expected]
    notes = [stored.get(steps) for steps in wanted]
    for note, leaf, where in zip(notes, leaves, wheres, strict=True):
        if note is not None:
            problems += _differences(note, leaf, where, arrays, name, dtype)
    if problems:
        more = len(problems) - _LISTED
        listed = "".join(f"\n  {problem}" for problem in problems[:_LISTED])
        raise FileError(f"{name} does not fit `like`:{listed}" + (f"\n  and {more} more" if more > 0 else ""))
    return notes


def _differences(
    note: Any, leaf: Any, where: str, arrays: dict[str, np.ndarray], name: str, dtype: str | None
) -> list[str]:
    owned = native_of(leaf)
    if not _is_array(note):
        value = decode(note, lambda _: None)
        if owned is not None:
            return [f"{where} is an array, the file has {value!r}"]
        fits = type(value) is type(leaf) or {type(value), type(leaf)} <= {int, float}
        return [] if fits else [f"{where} is {leaf!r}, the file has {value!r}"]
    values = _value(note, arrays, name)
    if owned is None:
        return [f"{where} is {leaf!r}, the file has an array of shape {values.shape}"]
    shape, have = tuple(owned[1].shape), dtype_name(owned[1].dtype)
    stored = dtype_name(values.dtype)
    if dtype is not None and kind_of(dtype) == kind_of(stored):
        stored = dtype
    problems = []
    if shape != values.shape:
        problems.append(f"shape of {where}: {shape}, in the file {values.shape}")
    if have != stored:
        problems.append(f"dtype of {where}: {have}, in the file {stored}")
    return problems
