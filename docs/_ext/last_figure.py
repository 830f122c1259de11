"""Shows the figure that is the value of an example's last line, which pyplot does not know of."""

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def last_figure(_block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save it beside those of pyplot, whose first one is the example's thumbnail."""
    value = block_vars["example_globals"].get("___")
    if not isinstance(value, Figure):
        return ""
    path = next(block_vars["image_path_iterator"])
    value.savefig(path, dpi=150)
    return str(figure_rst([path], gallery_conf["src_dir"]))
