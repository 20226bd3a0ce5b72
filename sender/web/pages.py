"""Values as HTML; the rim of Jinja2. Everything is escaped; what strangers wrote loses its control characters, too."""

import datetime as dt
import importlib.resources
from typing import Any
from urllib import parse

import jinja2

from sender import printable

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("sender.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, /, **values: Any) -> str:
    """Return a page.

    Args:
        template: its name, without its suffix.
        values: what it shows.
    """
    return _ENVIRONMENT.get_template(f"{template}.html").render(**values)


def style() -> str:
    """Return the style sheet."""
    return (importlib.resources.files("sender.web") / "style.css").read_text(encoding="utf-8")


def _time(moment: dt.datetime | None) -> str:
    return "" if moment is None else moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M")


def _number(value: int) -> str:
    return f"{value:,}"


def _segment(text: str) -> str:
    return parse.quote(text, safe="")


_ENVIRONMENT.filters.update(time=_time, number=_number, segment=_segment, plain=printable.escaped)
