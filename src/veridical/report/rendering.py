"""Templates -> the text of a page, and settings -> the rows of its tables."""

from collections.abc import Iterator, Mapping

import jinja2
from markupsafe import Markup

from veridical.report.measures import DASH
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


def flat(values: Mapping[str, object], place: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs."""
    return list(_walk(values, place))


def _walk(values: Mapping[str, object], place: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{place}{key}"
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{name}.")
        else:
            yield name, in_words(value)


def in_words(value: object) -> str:
    """A setting in words: None is a dash, a list its members."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(in_words(part) for part in value) or DASH
    return str(value)
