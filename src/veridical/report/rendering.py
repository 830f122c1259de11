"""Templates -> the text of a page, and settings -> the rows of its tables."""

import jinja2
from markupsafe import Markup

from veridical.runtime.errors import visible


def render(template: str, **content: object) -> str:
    """Fill a template of this package's folder; every text is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("veridical.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = environment.loader
    assert loader is not None
    style = loader.get_source(environment, "report.css")[0]
    found = environment.get_template(template, globals={"style": Markup(style)})  # noqa: S704
    return found.render(**content)


def _shown(value: object) -> object:
    """Text of others with every character visible; markup is our own."""
    return visible(value, keep="\n\t") if type(value) is str else value
