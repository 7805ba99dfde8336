"""Configuration of the documentation; the metadata comes from settings.ini."""

import sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here / "_ext"), str(here.parent)]
settings = ConfigParser(delimiters=["="])
settings.read(here.parent / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]

project = cfg["title"]
author = cfg["author"]
copyright = cfg["copyright"]
release = cfg["version"]
extensions = [
    "myst_nb",
    "nbdev_sphinx",
    "explorers",
    "route",
    "figure",
    "accessible",
    "mathml",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_templates", "images"]

# Notebooks carry their outputs: the build runs no cell.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

add_module_names = False
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
toc_object_entries = False
python_use_unqualified_type_names = True
# Not documented here, so there is nothing to link to.
ELSEWHERE = "argparse collections contextlib io jaxtyping numpy pathlib torch traceback types typing"
nitpick_ignore_regex = [("py:.*", rf"({'|'.join(ELSEWHERE.split())})\..*|Tensor|nn\..*")]

# What a cell printed is not for copying, nor are prompts.
copybutton_selector = 'div[class*="highlight-"]:not(.output) > div.highlight > pre'
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = project
html_favicon = html_logo = "_static/logo.svg"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_context = {"repository": cfg["git_url"], "branch": cfg["branch"]}
html_css_files = ["minibert.css"]
html_js_files = [("minibert.js", {"defer": "defer"})]
html_copy_source = False
html_domain_indices = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}
