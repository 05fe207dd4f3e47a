"""Configuration of the documentation site: ``make docs`` builds it in build/docs."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "src"))
sys.path.insert(0, str(DOCS.parent))

from surgvivqa import __version__  # noqa: E402

project = "surgvivqa"
author = "The surgvivqa authors"
copyright = "the surgvivqa authors, Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "tools.docs_pages",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
exclude_patterns = ["_build"]
nitpicky = False  # types of PyTorch and Transformers have no inventory without a network

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # they would turn the dashes of flags into others
html_title = "surgvivqa"
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sourcelink = False

# The site's own links are checked by the build (-W); `make docs-links` looks up the others.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
