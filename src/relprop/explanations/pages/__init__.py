"""HTML from templates, which lie beside this. Whatever they are given is escaped, and made visible before that."""

from __future__ import annotations

from functools import cache
from typing import Any

from relprop.explanations.shown import one_line, visible


def rendered(name: str, **values: Any) -> str:
    """A template of this folder with some values. Text among them is escaped; control characters become pictures.

    Args:
        name: of the template's file.
        values: what it speaks of.
    """
    return str(_templates().get_template(name).render(**values))


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("relprop.explanations", "pages")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"visible": lambda text: visible(str(text)), "line": lambda text: one_line(str(text))}
    templates.filters["number"] = lambda value: f"{float(value):.4g}"
    return templates
