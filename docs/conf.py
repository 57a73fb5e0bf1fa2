"""Sphinx's configuration: pages in MyST Markdown, docstrings by numpydoc, nothing from the network.

    *.md ──────────────────────► myst_parser ──┐
    reference/*.md ─ names ────► autosummary ──┼──► html, in the pydata theme
    docstrings ────► numpydoc ─► autodoc ──────┤
    ruvattn.cli ───► _extensions/commands.py ──┤
    drawings/*.svg ► _extensions/drawings.py ──┘

    make docs        a warning is an error

What single backticks in docstrings lead to is settled by ``_extensions/docstring_names.py``; what pages may hold, ``tests/test_doc_pages.py``
checks and runs.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from sphinx.ext import autosummary

import ruvattn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "ruvattn"
author = "the authors of ruvattn"
copyright = "the authors of ruvattn, MIT licence"
version = release = ruvattn.__version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "commands",
    "docstring_names",
    "drawings",
    "offline",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "_extensions", "**/README.md"]

# A broken reference in a page is an error; names in docstrings are looked up more patiently, see docstring_names.py.
nitpicky = True

# Pages ----------------------------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "fieldlist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
highlight_language = "python"

# Docstrings -----------------------------------------------------------------------------------------------------------------------

# Named, since Sphinx would look through the pages of the last build only, and miss new ones.
autosummary_generate = sorted(str(page.relative_to(HERE)) for page in HERE.glob("reference/*.md"))
autosummary.WELL_KNOWN_ABBREVIATIONS += ("eq.",)  # a full stop that ends no summary
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have them, with shapes
autodoc_mock_imports = ["torch", "transformers"]  # ruvattn.integrations is read without them
autodoc_preserve_defaults = True
numpydoc_show_class_members = False  # the template of classes lists them
numpydoc_class_members_toctree = False
numpydoc_attributes_as_param_list = True
default_role = "py:obj"
smartquotes = False  # "dot" in a docstring is what one types
toc_object_entries_show_parents = "hide"

# Plugins that the machine happens to have are no part of these pages.
warnings.filterwarnings("ignore", category=UserWarning, module="ruvattn.plugins")

# How it looks ---------------------------------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "ruvattn"
html_static_path = ["_static"]
html_css_files = ["ruvattn.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "ruvattn", "image_light": "_static/mark_light.svg", "image_dark": "_static/mark_dark.svg", "alt_text": "ruvattn"},
    "header_links_before_dropdown": 4,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_depth": 3,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "github-light",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"index": [], "quickstart": [], "idea": [], "performance": [], "glossary": [], "examples": []}
html_context = {"default_mode": "auto"}
