"""The documentation runs: every block of Python in it, page by page, prints what stands below it.

A block that begins with `# needs: torch` (names separated by commas) is left out where that cannot be used. A block of
`text` or `output` right after a block of Python is what it prints; `...` there stands for anything.
"""

import contextlib
import doctest
import importlib
import importlib.util
import io
import linecache
import re
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import xdev
from xdev import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
EVERYWHERE = ("docs/start.md", "docs/article.md")
"""Pages whose blocks say `xdev.device()` and are run once with each backend as the default."""


@dataclass(frozen=True)
class Block:
    """One block of Python: its source, the line it begins on, what it needs, and what it prints."""

    source: str
    line: int
    needs: tuple[str, ...]
    output: str | None


def pages():
    built = DOCS / "_build"
    found = [page for page in sorted(DOCS.rglob("*.md")) if built not in page.parents]
    return [str(page.relative_to(ROOT)) for page in [*found, ROOT / "README.md"]]


def blocks_of(text):
    fences = list(FENCE.finditer(text))
    blocks = []
    for number, fence in enumerate(fences):
        language, source = fence[1].strip(), fence[2]
        if language.split()[:1] != ["python"]:
            continue
        if language != "python":
            raise AssertionError(f"a block is marked {language!r}; blocks of Python are marked python and all run")
        after = fences[number + 1] if number + 1 < len(fences) else None
        adjacent = after is not None and not text[fence.end() : after.start()].strip()
        output = after[2] if adjacent and after[1].strip() in ("text", "output") else None
        needs = re.match(r"# needs: ([\w, ]+)\n", source)
        names = tuple(name.strip() for name in needs[1].split(",")) if needs else ()
        blocks.append(Block(source, text.count("\n", 0, fence.start()) + 2, names, output))
    return blocks


def is_usable(name):
    if not registry.is_known(name):
        return importlib.util.find_spec(name) is not None
    try:
        xdev.device(name)
    except xdev.BackendError:
        return False
    return True


def normalised(text):
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n")) + "\n"


def prints_as(got, wanted):
    return doctest.OutputChecker().check_output(normalised(wanted), normalised(got), doctest.ELLIPSIS)


def run_page(page, monkeypatch, tmp_path):
    """Run a page's blocks in one fresh module, in order, in an empty folder."""
    module = types.ModuleType(re.sub(r"\W", "_", f"page_{page}"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")  # tables are as wide as where no terminal is
    known = set(registry.names())
    try:
        for block in blocks_of((ROOT / page).read_text(encoding="utf-8")):
            if not all(is_usable(name) for name in block.needs):
                continue
            file = f"{page}:{block.line}"
            linecache.cache[file] = (len(block.source), None, block.source.splitlines(keepends=True), file)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.source, file, "exec"), vars(module))
            if block.output is not None and not prints_as(printed.getvalue(), block.output):
                raise AssertionError(f"{file} prints\n{printed.getvalue()}\nand the page says\n{block.output}")
    finally:
        for name in set(registry.names()) - known:
            registry.unregister(name)


@pytest.mark.parametrize("page", [page for page in pages() if page not in EVERYWHERE])
def test_a_page_runs(page, monkeypatch, tmp_path):
    run_page(page, monkeypatch, tmp_path)


@pytest.mark.parametrize("page", EVERYWHERE)
def test_a_page_runs_on_every_backend(page, device, monkeypatch, tmp_path):
    monkeypatch.setenv("XDEV_DEVICE", str(device))
    run_page(page, monkeypatch, tmp_path)


# -- the reader of pages itself ------------------------------------------------------------------------


def test_blocks_are_found_with_their_output_and_needs():
    text = (
        "# A\n\n```python\n# needs: torch, optax\nprint(1)\n```\n\n```text\n1\n```\n\n"
        "```python\nx = 1\n```\nprose\n```text\nno output\n```\n"
    )
    first, second = blocks_of(text)
    assert first == Block("# needs: torch, optax\nprint(1)\n", 4, ("torch", "optax"), "1\n")
    assert second == Block("x = 1\n", 13, (), None)


@pytest.mark.parametrize("language", ["python no-run", "python {1}"])
def test_no_block_is_spared(language):
    with pytest.raises(AssertionError, match="all run"):
        blocks_of(f"```{language}\n1 / 0\n```\n")


def test_output_is_compared_apart_from_ellipses_and_trailing_space():
    assert prints_as("a 1  \nb 2\n", "a ...\nb 2")
    assert not prints_as("a 1\nb 2\n", "a ...\nb 3")


def test_a_page_that_prints_something_else_fails(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n```text\n2\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:2 prints\n1\n\nand the page says\n2"):
        run_page(str(page), monkeypatch, tmp_path)


# -- the reference -------------------------------------------------------------------------------------


def documented_names():
    """Return the import paths of what the reference documents, and of the modules it documents whole."""
    found = set()
    for page in sorted((DOCS / "api").glob("*.md")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if home := re.match(r"\.\. (?:currentmodule|automodule):: (\S+)", line):
                module = home[1]
                found.add(module)
            elif name := re.match(r"(?:   |\.\. autoexception:: )(\w+)$", line):
                found.add(f"{module}.{name[1]}")
            elif members := re.match(r"   :members: (.+)$", line):
                found.update(f"{module}.{name.strip()}" for name in members[1].split(","))
    return found


def public_names():
    """Return the import paths of all public names; an error is found in its module."""
    found = set()
    for name in xdev.__all__:
        value = getattr(xdev, name)
        if isinstance(value, types.ModuleType):
            own = [each for each in value.__all__ if name == "errors" or each not in xdev.errors.__all__]
            found.update([f"xdev.{name}", *(f"xdev.{name}.{each}" for each in own)])
        elif name not in xdev.errors.__all__:
            found.add(f"xdev.{name}")
    return found


LEFT_OUT = {
    "xdev.tree.Path": "a type for annotations",
    "xdev.tree.TreeDef": "a type for annotations",
}
"""Public names that the reference leaves out, each with its reason."""


def test_the_reference_has_every_public_name():
    missing = public_names() - documented_names() - set(LEFT_OUT)
    assert not missing, f"add to docs/api: {', '.join(sorted(missing))}"


def test_the_reference_has_nothing_else():
    for path in documented_names():
        home, _, name = path.rpartition(".")
        if path not in sys.modules:
            assert hasattr(importlib.import_module(home), name), f"docs/api names {path}, which is not there"


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    needed = ("sphinx", "myst_parser", "numpydoc", "pydata_sphinx_theme")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; pip install 'xdev-array[docs]' brings them")
    # A copy, since Sphinx writes the pages of the reference beside their sources.
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "generated"))
    results = ROOT / "benchmarks" / "README.md"
    if results.exists():
        (tmp_path / "benchmarks").mkdir()
        shutil.copy(results, tmp_path / "benchmarks")
    options = ["-W", "--keep-going", "-q", "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(tmp_path / "docs"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "api" / "generated" / "xdev.device.html").exists()
