"""Settings of the documentation site; `docs/build.py` makes it."""

from __future__ import annotations

import dlsim

project = "dlsim"
author = "The dlsim authors"
copyright = "the dlsim authors, Apache-2.0"
version = release = dlsim.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["README.md"]
highlight_language = "none"
smartquotes = False  # "..." and "--" stand in code and commands
toc_object_entries_show_parents = "hide"
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"dlsim {version}"
html_static_path = ["static"]
html_css_files = ["extra.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}

# A link that leads nowhere stops the build.  Types in signatures are links where they are ours, and plain text elsewhere.
nitpicky = True
nitpick_ignore_regex = [("py:class", r".*")]
