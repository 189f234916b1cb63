"""How Sphinx builds the documentation site: `make docs`. Nothing is fetched from a network."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE / "_ext")]

import fewbits  # noqa: E402

project = "fewbits"
author = copyright = "The fewbits authors"
version = release = fewbits.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "builtin_names",
    "plain_docstrings",
    "expand_blocks",
]
exclude_patterns = ["_ext"]

myst_enable_extensions: list[str] = []
myst_heading_anchors = 4  # `page.md#a-heading` works here as it does where the repository is read

napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
highlight_language = "text"  # of a block that names none
smartquotes = False  # `--rounds` is not a dash
default_role = "code"  # `name` in a docstring is code, as in Markdown

html_theme = "furo"
html_title = "fewbits"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
