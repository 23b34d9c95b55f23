"""A function of the user's own, and its inputs, from a file.

Requirements: what the file does not have is said with what it has; the file is run as Python runs a script, with its
neighbours importable, under another name than `__main__`.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...device import host
from ...errors import ConfigurationError, FileError, a
from ...transfer import to_device
from ..survey import reason
from .words import joined

__all__ = ["Source", "load"]

INPUTS = "inputs"
EXAMPLE = "def inputs():\n    return np.ones((512, 512), np.float32), np.ones(512, np.float32)"


@dataclass(frozen=True)
class Source:
    """A function and how it is called.

    Attributes
    ----------
    function
        The user's own.
    name
        FILE.py:function.
    calling
        With "inputs", with the "device" alone, or with "nothing".
    inputs
        A tuple of arguments on the host; empty unless it is called with inputs.
    inputs_name
        The function that made them.
    """

    function: Callable[..., Any]
    name: str
    calling: Literal["inputs", "device", "nothing"]
    inputs: tuple[Any, ...] = ()
    inputs_name: str = ""


def load(target: str, inputs: str | None) -> Source:
    """Find a function and make its inputs.

    Parameters
    ----------
    target : str
        FILE.py:function.
    inputs : str or None
        The function in the same file that returns the inputs: a tuple is the arguments, anything else the only one.
        None is `inputs`, where the function takes arguments.

    Returns
    -------
    Source
        The function and its inputs.

    Raises
    ------
    ConfigurationError
        If the file does not run, has no such functions, or the inputs do not fit.
    FileError
        If there is no such file.
    """
    file, colon, name = target.rpartition(":")
    if not colon:
        file, name = target, ""
    path = Path(file)
    if not path.is_file():
        close = difflib.get_close_matches(path.name, [each.name for each in path.absolute().parent.glob("*.py")], 1)
        hint = f"; did you mean {path.with_name(close[0])}?" if close else "."
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileError(f"{file} {what}{hint} Give a file and a function in it, as in FILE.py:function")
    module = _run(path)
    function = _function(module, path, name)
    taken = _required(function)
    if inputs is None and taken == ["device"]:
        return Source(function, f"{path}:{name}", "device")
    if inputs is None and not taken:
        return Source(function, f"{path}:{name}", "nothing")
    maker = inputs or INPUTS
    if inputs is None and not hasattr(module, INPUTS):
        raise ConfigurationError(
            f"{name} in {path} takes {joined(taken)}, and the file has no function inputs() that makes them. Add one, "
            f"which returns a tuple of NumPy arrays, or name another with --inputs:\n{EXAMPLE}"
        )
    made = _made(_function(module, path, maker), path, maker)
    _check_fits(function, made, f"{name}{_signature(function)}", f"{maker}() in {path}")
    return Source(function, f"{path}:{name}", "inputs", made, maker)


def _run(path: Path) -> types.ModuleType:
    name = f"_xdev_bench_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path} is no file of Python; give one whose name ends with .py")
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what looks itself up there, such as a dataclass, finds itself
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{path} does not run: {_reason(error, path)}") from error
    return module


def _reason(error: BaseException, path: Path) -> str:
    """Return what an error says, with the last line of the user's file that it came through."""
    if isinstance(error, SystemExit):
        text = 'it ends the program; put that under `if __name__ == "__main__":`'
    else:
        text = reason(error)  # type: ignore[arg-type]  # an Exception
    own = path.absolute()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).absolute() == own]
    return f"{text} (line {frames[-1].lineno})" if frames else text


def _function(module: types.ModuleType, path: Path, name: str) -> Callable[..., Any]:
    """Return a function of a module by its name."""
    own = [
        key
        for key, value in vars(module).items()
        if inspect.isroutine(value) and getattr(value, "__module__", None) == module.__name__
    ]
    has = f"it has {joined(own)}" if own else "it has none"
    if not name:
        raise ConfigurationError(f"name the function to time, as in {path}:function; {has}")
    value = getattr(module, name, None)
    if value is None and not hasattr(module, name):
        close = difflib.get_close_matches(name, own, 1)
        hint = f"did you mean {close[0]!r}?" if close else has
        raise ConfigurationError(f"{path} has no function {name!r}; {hint}")
    if not callable(value):
        raise ConfigurationError(f"{name!r} in {path} is {a(type(value).__name__)}, expected a function; {has}")
    return value  # type: ignore[no-any-return]  # just looked at


def _required(function: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that a function must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C, such as a ufunc
        return ["arguments"]
    return [
        p.name
        for p in parameters
        if p.kind is p.VAR_POSITIONAL or (p.default is p.empty and p.kind is not p.VAR_KEYWORD)
    ]


def _check_fits(function: Callable[..., Any], made: tuple[Any, ...], called: str, maker: str) -> None:
    """Refuse inputs that are too many or too few."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C, as above
        return
    try:
        signature.bind(*made)
    except TypeError as error:
        raise ConfigurationError(
            f"{called} cannot be called with what {maker} returned, {len(made)} argument{'s' * (len(made) != 1)}: "
            f"{error}. A tuple is the arguments, anything else the only one"
        ) from error


def _signature(function: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"


def _made(maker: Callable[..., Any], path: Path, name: str) -> tuple[Any, ...]:
    try:
        made = maker()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{name}() in {path} failed: {_reason(error, path)}") from error
    # Of whatever framework they are, they begin on the host; lists of numbers become arrays.
    return to_device(made if type(made) is tuple else (made,), host())  # type: ignore[no-any-return]  # a tuple again
