"""Validate the docstrings of the public functions and classes: `python tests/check_docstrings.py`.

Which checks of numpydoc count is in pyproject.toml, under [tool.numpydoc_validation]. Beyond them, a function
that raises needs a Raises section, which numpydoc does not ask for.
"""

import ast
import importlib
import inspect
import sys
import textwrap
import tomllib
from pathlib import Path

from numpydoc.docscrape import FunctionDoc
from numpydoc.validate import ERROR_MSGS, validate

ROOT = Path(__file__).parents[1]
SKIPPED = {"xdev.tree": "a thin module over optree: each function is one line, and so is its docstring"}
"""Public modules whose functions need no full docstring, each with its reason."""
FOR_FUNCTIONS_ONLY = {"EX01", "PR01", "PR02", "RT01"}
"""Checks that classes are spared: fields may stand under Attributes, and examples with the functions."""


def enabled_checks():
    """Return the codes of the checks that are on."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(config["tool"]["numpydoc_validation"]["checks"])
    return set(ERROR_MSGS) - listed if "all" in listed else listed  # "all" turns the list into exceptions


def public_objects():
    """Return the public functions and classes by their import path, each once."""
    xdev = importlib.import_module("xdev")
    found = {}
    modules = [xdev, importlib.import_module("xdev.testing")]
    while modules:
        module = modules.pop(0)
        if module.__name__ in SKIPPED:
            continue
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.ismodule(value):
                modules.append(value)
            elif (inspect.isfunction(value) or inspect.isclass(value)) and value not in found.values():
                found[f"{module.__name__}.{name}"] = value
    return found


def raises_something(function):
    """Tell whether a function itself has a raise statement, apart from functions within it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0].body
    while body:
        node = body.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            body.extend(ast.iter_child_nodes(node))
    return False


def problems(path, value, checks):
    """Return what is wrong with one docstring, as (code, message) pairs."""
    if inspect.isclass(value):
        checks = checks - FOR_FUNCTIONS_ONLY
    found = [error for error in validate(path)["errors"] if error[0] in checks]
    if inspect.isfunction(value) and raises_something(value) and not FunctionDoc(value)["Raises"]:
        found.append(("RS01", "No Raises section found, and the function raises"))
    return found


def main():
    """Print every problem; return 1 if there is one."""
    checks, objects = enabled_checks(), public_objects()
    lines = [
        f"{path}: {code} {message}"
        for path, value in sorted(objects.items())
        for code, message in problems(path, value, checks)
    ]
    print("\n".join([*lines, f"{len(objects)} public docstrings, {len(lines)} problems"]))
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
