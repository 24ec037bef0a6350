"""Every HTML page of the project: one Jinja environment, one base, one style sheet. Needs the `report` extra.

A page's own template extends `base.html.j2` and lies beside the code that fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHARED = Path(__file__).with_name("templates")


def page_from(template: Path, *, figures: Mapping[str, str], **values: Any) -> str:
    """A page that stands alone: no script, nothing fetched.

    Args:
        template: File of the page's own template.
        figures: SVG markup by name; put into the page as it is.
        **values: What the template shows, as text.
    """
    # Modules that can draw a page are imported where the extra is missing, too.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = {name: Markup(markup) for name, markup in figures.items()}
    return environment.get_template(template.name).render(figures=drawn, **values)
