"""The structure of a tree as JSON, for files: containers, numbers and strings in place, arrays by name.

Requirements: no code is run when a structure is read; floats keep their bits. Version 1 of the notation: None, bool,
int, str and list stand for themselves; everything else is an object of one key, which says what it is.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

from . import tree
from .errors import FileError

__all__ = ["Steps", "decode", "encode", "entries"]

Steps = tuple[Any, ...]
"""Where something is in a tree: the keys, positions and field names that lead to it."""
Name = Callable[[str, Any], Any]


def encode(node: Any, path: str, reference: Name) -> Any:
    """Return a tree as JSON; `reference(path, leaf)` gives the note for a leaf that is no number, string or None."""
    if node is None or type(node) in (bool, int, str):
        return node
    if type(node) is float:
        return {"float": node.hex()}
    if type(node) is complex:
        return {"complex": [node.real.hex(), node.imag.hex()]}
    if type(node) is bytes:
        return {"bytes": base64.b64encode(node).decode()}
    if type(node) is list:
        return [encode(child, f"{path}[{i}]", reference) for i, child in enumerate(node)]
    if type(node) is tuple:
        return {"tuple": [encode(child, f"{path}[{i}]", reference) for i, child in enumerate(node)]}
    if isinstance(node, dict) and not tree.is_leaf(node):
        return {
            "dict": [
                [_encode_key(key, path), encode(child, f"{path}[{key!r}]", reference)] for key, child in node.items()
            ]
        }
    if tree.is_leaf(node):
        return reference(path, node)
    children, names = tree.one_level(node)
    if all(isinstance(name, str) for name in names):
        return {
            "fields": [
                [name, encode(child, f"{path}.{name}", reference)] for name, child in zip(names, children, strict=True)
            ]
        }
    return [encode(child, f"{path}[{i}]", reference) for i, child in enumerate(children)]


def _encode_key(key: Any, path: str) -> Any:
    if type(key) in (str, int, bool) or key is None:
        return key
    if type(key) is float:
        return {"float": key.hex()}
    if type(key) is tuple:
        return {"tuple": [_encode_key(part, path) for part in key]}
    raise FileError(
        f"{path} has the key {key!r} of type {type(key).__name__}; files take keys that are strings, numbers, "
        "or tuples of them"
    )


def _kind(note: Any) -> tuple[str, Any]:
    """Return what an object of the notation is, and its content."""
    if isinstance(note, dict) and len(note) == 1:
        return next(iter(note.items()))
    if isinstance(note, dict) and "array" in note:
        return "array", note
    raise FileError(f"unknown notation {str(note)[:80]!r}")


def decode(note: Any, array: Callable[[Any], Any]) -> Any:
    """Return the tree of a structure; `array(note)` gives an array. Fields come as a dict by name."""
    if note is None or isinstance(note, bool | int | str):
        return note
    if isinstance(note, list):
        return [decode(child, array) for child in note]
    kind, content = _kind(note)
    if kind == "array":
        return array(note)
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*map(float.fromhex, content))
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "tuple":
        return tuple(decode(child, array) for child in content)
    if kind == "dict":
        return {decode(key, array): decode(child, array) for key, child in content}
    if kind == "fields":
        return {name: decode(child, array) for name, child in content}
    raise FileError(f"unknown notation {kind!r}")


def entries(note: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Yield the leaves of a structure with the steps that lead to each; None is no leaf, as in trees."""
    if note is None:
        return
    kind: str = "list" if isinstance(note, list) else ""
    content: Any = note
    if isinstance(note, dict):
        kind, content = _kind(note)
    if kind in ("list", "tuple"):
        for position, child in enumerate(content):
            yield from entries(child, (*steps, position))
    elif kind in ("dict", "fields"):
        for key, child in content:
            yield from entries(child, (*steps, decode(key, lambda _: None)))
    else:
        yield steps, note
