"""Sphinx's settings for the site: `make docs` builds it into docs/_build/html."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from sphinx_gallery.sorting import ExplicitOrder

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT / "src")]

import veridical  # noqa: E402  (the source beside this file, not an installed copy)

project = "Veridical"
author = "The Veridical developers"
copyright = author  # noqa: A001  (Sphinx's name)
version = release = veridical.__version__

extensions = ["sphinx.ext.autodoc", "myst_nb", "sphinx_gallery.gen_gallery"]
extensions += ["plain_docstrings", "command_help"]
exclude_patterns = ["_build", "_ext", "gallery/*.ipynb"]
# Indented blocks and docstrings hold formulas and output; Python is named where it is meant.
highlight_language = "text"

# Links between pages, and to their headings, are checked; a wrong one is an error (-W). Types of other
# packages are not on this site, and nothing is fetched while it is built.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_maximum_signature_line_length = 90

# The tutorial runs where it may leave its files, and a cell that fails fails the build.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from elsewhere

# Examples share their trainings in this folder; those of an older version may not fit this one.
shutil.rmtree(ROOT / "examples" / "runs", ignore_errors=True)
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": ExplicitOrder(
        [
            "own_model.py",
            "own_method.py",
            "reproduce.py",
            "maps.py",
            "radius.py",
            "deletion.py",
            "diffroar.py",
        ],
    ),
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib", "last_figure.last_figure"),
    "ignore_repr_types": r"matplotlib\.figure",
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,  # times differ from machine to machine
    "write_computation_times": False,
    "matplotlib_animations": False,
}

html_theme = "furo"
html_title = "Veridical"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}


def setup(app: Any) -> None:
    """Link to the site's own copies of what lies beside `docs`."""

    def link(_app: Any, _path: Path, _page: str, content: list[str]) -> None:
        content[0] = content[0].replace("](CHANGELOG.md)", "](docs/changelog.md)")

    def begin(_app: Any, _page: str, content: list[str]) -> None:
        # The site begins elsewhere than the repository.
        content[0] = re.sub(r"\]\(\.\./README\.md[^)]*\)", "](index.md)", content[0])

    app.connect("include-read", link)
    app.connect("source-read", begin)
