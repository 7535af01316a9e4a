"""HTML pages from the templates of this package, each a single file without scripts."""

import functools
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ita.reports.numbers import format_number


def render(template: str, **values: Any) -> str:
    """Fill a template of ``ita/reports/templates``; all values are escaped.

    Args:
        template: file name.
        values: variables of the template.

    Returns:
        The page.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ita.reports"),
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
    return Markup(re.sub(r"([._/])(?!\d)", r"\1<wbr>", str(escape(text))))
