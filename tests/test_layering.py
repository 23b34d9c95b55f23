"""What may depend on what: the core names no framework, imports go downwards, plug-ins know the contract."""

import ast
import re
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

from xdev import registry

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "xdev").rglob("*.py"))
PLUGINS = sorted((ROOT / "backends").rglob("*.py"))

FRAMEWORKS = ("torch", "jax", "cupy", "array_api_strict")
OPTIONAL = (*FRAMEWORKS, "einops", "matplotlib", "optax", "pytest", "scipy", "sklearn")
"""What the core works without."""

LAYERS = (
    ("errors",),
    ("options",),
    ("tree", "tree_marks"),
    ("watching",),
    ("contract",),
    ("floating",),
    ("registry",),
    ("nodes", "locking"),
    ("namespaces",),
    ("device_names",),
    ("device_search",),
    ("device",),
    ("ledger", "ledger_table"),
    ("values",),
    ("crossing",),
    ("moving",),
    ("transfer",),
    ("random",),
    ("autodiff",),
    ("explanation",),
    ("differentiation",),
    ("replay",),
    ("transform", "compilation"),
    ("derivatives", "custom_gradients", "functional"),
    ("ops",),
    ("nn",),
    ("optim",),
    ("data",),
    ("file_structure",),
    ("files",),
    ("train",),
    ("testing",),
    ("cli",),
)
"""The read order of `xdev/`: a module imports from its own layer and from those above it in this list."""

UPWARD = {
    ("namespaces", "device_search"): "a namespace is pickled as its device's name, and found again through it",
}
"""The imports that go against the order, each with its reason."""

PLUGINS_MAY_IMPORT = {"contract", "errors", "watching"}
"""The modules of the core that a backend may know."""

MAX_LINES = 450


def name_of(path):
    return str(path.relative_to(ROOT))


def over(paths):
    return pytest.mark.parametrize("path", paths, ids=map(name_of, paths))


# -- the core names no framework ----------------------------------------------------------------------


def run(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("touch", ["", "[getattr(xdev, name) for name in dir(xdev)]"], ids=["import", "every name"])
def test_the_core_loads_no_framework(touch):
    loaded = run(f"import sys, xdev\n{touch}\nprint(*{{name.partition('.')[0] for name in sys.modules}})").split()
    assert "xdev" in loaded
    assert not set(OPTIONAL) & set(loaded)


def test_the_frameworks_here_are_those_of_the_plugins():
    registry.names()  # loads the plug-ins
    assert {cls.framework for cls in registry._classes.values()} >= {*FRAMEWORKS, "numpy"}


def identifiers(module):
    """Yield every identifier and every string that is code rather than prose, with its line."""
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names) | ast.ImportFrom(names=names):
                yield from ((alias.name, line) for alias in names)
                yield getattr(node, "module", None) or "", line
            case ast.Name(word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word)):
                yield word, line
            case ast.FunctionDef(name=word) | ast.ClassDef(name=word):
                yield word, line
            case ast.Constant(str(word)) if not re.search(r"\s", word):
                yield word, line


@over(CORE)
def test_the_core_names_no_framework(path):
    found = [
        f"{name_of(path)}:{line} names {word!r}; use a capability or a hook of the contract"
        for word, line in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        if {"torch", "jax", "cupy"} & set(re.split(r"\W|_", word.lower())) or "array_api_strict" in word
    ]
    assert not found, "\n".join(found)


# -- layers ------------------------------------------------------------------------------------------


def type_checking_blocks(module):
    """Return the nodes that only type checkers see."""
    blocks = [n for n in ast.walk(module) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports_of_core(path):
    """Yield the modules and packages directly in `xdev` that a file of `xdev` imports from."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    hidden = type_checking_blocks(module)
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(module):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        within = (target[1] for target in targets if target[0] == "xdev" and len(target) > 1)
        yield from (name for name in within if not name.startswith("__"))


def layer_of(module):
    places = [place for place, names in enumerate(LAYERS) if module in names]
    assert places, f"xdev.{module} has no place in LAYERS: put it where the read order has it"
    return places[0]


def module_of(path):
    return path.relative_to(ROOT / "xdev").parts[0].removesuffix(".py")


LAYERED = [path for path in CORE if path != ROOT / "xdev" / "__init__.py"]


@over(LAYERED)
def test_layers_import_downwards(path):
    own = module_of(path)
    upward = [
        f"{name_of(path)} imports xdev.{other}, which is above it in the read order"
        for other in imports_of_core(path)
        if layer_of(other) > layer_of(own) and (own, other) not in UPWARD
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize(("own", "other"), UPWARD)
def test_every_exception_is_still_needed(own, other):
    assert other in {found for path in LAYERED if module_of(path) == own for found in imports_of_core(path)}


@over(PLUGINS)
def test_plugins_know_the_contract_and_nothing_else(path):
    own = path.relative_to(ROOT / "backends").parts[0]
    module = ast.parse(path.read_text(encoding="utf-8"))
    foreign = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            whole = node.module == "xdev"  # `from xdev import contract`
            names = [f"xdev.{alias.name}" for alias in node.names] if whole else [node.module]
        else:
            continue
        for name in names:
            root, *rest = name.split(".")
            if root == "xdev" and (not rest or rest[0] not in PLUGINS_MAY_IMPORT):
                foreign.append(f"{name_of(path)}:{node.lineno} imports {name}, not the contract")
            if root.startswith("xdev_") and root != own:
                foreign.append(f"{name_of(path)}:{node.lineno} imports {name}, another plug-in")
    assert not foreign, "\n".join(foreign)


@over([*CORE, *PLUGINS])
def test_files_stay_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines: it may hold two concerns"


TAPE = [
    *(ROOT / "xdev" / "autodiff" / f"{name}.py" for name in ("array", "tape", "record", "primitive", "namespace")),
    *sorted((ROOT / "xdev" / "autodiff" / "rules").glob("*.py")),
]
MAX_TAPE = 1500
"""Lines of code of what records, the namespace and all rules: it shall be read in an evening."""


def code_lines(path):
    """Count the lines that are no comments, no docstrings and not empty."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = set()
    for node in ast.walk(tree):
        first = node.body[0] if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            told.update(range(first.lineno, first.end_lineno + 1))
    code = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in _NO_CODE:
                code.update(range(token.start[0], token.end[0] + 1))
    return len(code - told)


_NO_CODE = {
    tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def test_the_tape_stays_small():
    count = sum(map(code_lines, TAPE))
    assert count < MAX_TAPE, f"tape, namespace and rules have {count} lines of code"


# -- NumPy alone -------------------------------------------------------------------------------------

BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{root!r}}", name=root)

sys.meta_path.insert(0, Blocker())
import numpy as np
import xdev
"""

WITH_NUMPY_ALONE = {
    "devices": """
        assert [str(d) for d in xdev.devices()] == ["numpy:cpu:0"]
        assert xdev.device() is xdev.device("cpu")
        try:
            xdev.device("torch")
        except xdev.errors.BackendUnavailable as error:
            assert "is not installed" in str(error) and "pip install 'xdev-array[torch]'" in str(error), error
        else:
            raise SystemExit("torch was found")
    """,
    "transfers": """
        with xdev.track_transfers() as transfers:
            tree = xdev.to_device({"x": [1.0, 2.0], "y": np.zeros(3)}, "numpy")
            back = xdev.to_numpy(tree)
        assert xdev.device_of(tree).is_host
        assert back["y"].shape == (3,)
        print(transfers)
    """,
    "random": """
        assert xdev.random.Generator(0, xdev.device()).normal((4,)).dtype == np.float32
    """,
    "gradients": """
        def f(x):
            xp = xdev.namespace(x)
            return xp.sum(xp.exp(x) ** 2)

        value, gradient = xdev.value_and_grad(f)(np.zeros(3))
        assert (value, *gradient) == (3.0, 2.0, 2.0, 2.0)
    """,
    "training": """
        model = xdev.nn.Linear(2, 1, rng=xdev.random.Generator(0, xdev.device()))
        x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
        y = x @ np.asarray([[1.0], [-1.0]], np.float32)
        loss = lambda m, batch: xdev.ops.mse(m(batch[0]), batch[1])
        result = xdev.fit(model, loss, (x, y), optimizer=xdev.optim.adamw(1e-1), epochs=20, batch_size=16)
        error = np.abs(xdev.predict(result.model, x) - y).max()
        assert error < 0.1, error
    """,
    "the test kit": """
        from xdev.testing import assert_close, check_backend
        assert_close(np.ones(3), np.ones(3))
        assert all(result.passed for result in check_backend("numpy"))
    """,
    "the command line": """
        import xdev.cli
    """,
}


@pytest.mark.parametrize("what", WITH_NUMPY_ALONE)
def test_the_core_works_with_numpy_alone(what):
    run(BLOCKER + textwrap.dedent(WITH_NUMPY_ALONE[what]))
