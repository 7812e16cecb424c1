"""The documentation: `make docs` builds it from this folder into build/docs, without a network."""

import sys
from pathlib import Path

import tsam_jax

sys.path.insert(0, str(Path(__file__).parent))  # _site

project = "tsam_jax"
author = "The tsam_jax authors"
version = release = tsam_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "_site.docstrings",
    "_site.generated",
    "_site.mathml",
    "_site.signatures",
]
exclude_patterns = ["_site", "**.ipynb_checkpoints", "tutorials/*.py"]

html_theme = "furo"
html_title = "tsam-jax"
pygments_dark_style = "github-dark"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.output) > div.highlight > pre"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # outputs are committed; `make notebooks` makes them
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
add_module_names = False
autodoc_typehints = "signature"
maximum_signature_line_length = 80
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
