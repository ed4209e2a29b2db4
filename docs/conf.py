"""How `make docs` builds the site: the pages of this folder, and the API from the docstrings."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "crun_batch"
version = release = version_of("crun-batch")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.in.md"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
myst_links_external_new_tab = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"inherited-members": False}
html_theme = "furo"
html_title = "crun_batch"
html_copy_source = False
html_show_sphinx = False
