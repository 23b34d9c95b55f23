"""The public names: what type checkers see is what users get, and every name says where it comes from."""

import ast
import inspect
from pathlib import Path

import pytest

import xdev


def _seen_by_type_checkers():
    module = ast.parse(Path(xdev.__file__).read_text())
    (block,) = [node for node in module.body if isinstance(node, ast.If)]
    found = {}
    for node in block.body:
        for alias in node.names:
            found[alias.name] = node.module
    return found


def test_type_checkers_see_what_users_get():
    seen = _seen_by_type_checkers()
    assert {name: home for name, home in seen.items() if home} == xdev._HOMES
    assert {name for name, home in seen.items() if not home} == xdev._MODULES - {"errors"}


@pytest.mark.parametrize("name", xdev.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    found = getattr(xdev, name)
    assert name in dir(xdev)
    assert inspect.getdoc(found)


def test_xdev_device_stays_a_function_although_a_module_has_its_name():
    import xdev.device

    assert callable(xdev.device)


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match="module 'xdev' has no attribute 'to_gpu'"):
        xdev.to_gpu  # noqa: B018  the access is what is tested
