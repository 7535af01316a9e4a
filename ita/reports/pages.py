"""HTML from templates, and images within it."""

import base64
import functools
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ita.reports.numbers import format_number


def render(template: str, *, package: str = "ita.reports", **values: Any) -> str:
    """Fill a template; all values are escaped.

    Args:
        template: file name.
        package: the package whose folder ``templates`` has it.
        values: variables of the template.
    """
    return _environment(package).get_template(template).render(values)


def image_uri(content: bytes, kind: str) -> str:
    """Return the content of an image file as an address; ``kind`` is jpeg, png or webp."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(text: str) -> Markup:
    """Escape a config key, path or name of a run, and let lines break within it."""
    return Markup(re.sub(r"([._/])(?!\d)", r"\1<wbr>", str(escape(text))))  # noqa: S704  escaped
