"""Sphinx configuration. Nothing is fetched while building."""

from pathlib import Path

import xdev

project = "xdev"
author = "The xdev authors"
copyright = author
release = version = xdev.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_filename_map = {"xdev.Backend": "xdev.Backend-class", "xdev.Device": "xdev.Device-class"}
"""Names that differ in case alone would be one file on some systems."""
autodoc_typehints = "none"  # numpydoc's Parameters say more
autodoc_default_options = {"member-order": "bysource"}
numpydoc_show_class_members = False  # the template of classes does it, with the docstrings
numpydoc_class_members_toctree = False
default_role = "code"
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "xdev"
html_static_path = ["_static"]
html_css_files = ["xdev.css"]
_WITHOUT_SECTIONS = ("article", "benchmarks", "cli", "principles", "start", "testing", "write_a_backend")
html_sidebars = {page: [] for page in _WITHOUT_SECTIONS}  # nothing to list
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
    "navigation_depth": 3,
    "header_links_before_dropdown": 7,
    "footer_start": [],
    "footer_end": [],
}

_RESULTS = Path(__file__).parent.parent / "benchmarks" / "README.md"


def include_results(app, docname, source):
    """Put the results beside the scripts into the page that says how they are measured, once there are some."""
    if docname == "benchmarks":
        shown = ""
        if _RESULTS.exists():
            shown = f"```{{include}} ../benchmarks/{_RESULTS.name}\n:heading-offset: 1\n```"
        source[0] = source[0].replace("% results", shown)


def hide_constructor(app, what, name, obj, options, signature, return_annotation):
    """Leave out the arguments of a class that is not to be called."""
    return ("", None) if name == "xdev.Device" else None


def setup(app):
    """Connect the handlers."""
    app.connect("source-read", include_results)
    app.connect("autodoc-process-signature", hide_constructor)
