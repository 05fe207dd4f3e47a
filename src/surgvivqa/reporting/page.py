"""Self-contained HTML pages: one file that loads nothing, with its style and script inside.

A page's Content-Security-Policy forbids every request, and every style and script but its own two, which it names by
their hashes. What a page shows comes from files of other people (questions, names, flags), so templates escape
everything; only what this package draws itself (``Markup``) goes in as it is.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from surgvivqa import __version__
from surgvivqa.utils.secrets import mask_secrets

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Entry:
    """A line of a page's contents.

    Attributes:
        id: the id of the element that it leads to.
        title: its text.
        of_run: whether it is the heading of a run, with the run's sections below it.
    """

    id: str
    title: str
    of_run: bool = False


def render_page(
    template: str,
    *,
    title: str,
    overline: str,
    byline: Sequence[str] = (),
    contents: Sequence[Entry] = (),
    made: str | None = None,
    not_clinical: bool = True,
    **context: Any,
) -> str:
    """Renders a page.

    Args:
        template: the template, which extends ``base.html`` and fills its block ``content``.
        title: the page's title and first heading.
        overline: a few words above the title.
        byline: the facts below the title.
        contents: the page's contents.
        made: the date at the bottom of the page.
        not_clinical: whether the page says that it is not for clinical use.
        context: the template's own variables.
    """
    style, script = _asset("page.css"), _asset("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            overline=overline,
            byline=byline,
            contents=contents,
            made=made,
            not_clinical=not_clinical,
            version=__version__,
            style=Markup(style),
            script=Markup(script),
            policy=content_security_policy(style, script),
            **context,
        )
    )


def content_security_policy(style: str, script: str) -> str:
    """The policy of a page with one style and one script: no request at all, pictures only from the page itself."""
    return (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in %, without the sign; a dash for None."""
    return "–" if value is None else f"{round(100 * value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.0


def between(ends: Sequence[float], digits: int = 1) -> str:
    """The ends of an interval of fractions, in %: ``67.1 to 79.4``."""
    return f"{percent(ends[0], digits)} to {percent(ends[1], digits)}"


def along(value: float, least: float = 0.0, most: float = 1.0) -> float:
    """Where a value lies between ``least`` and ``most``, in % and at most at the ends."""
    return round(100 * min(1.0, max(0.0, (value - least) / (most - least))), 2)


def ends_of_estimate(estimate: Mapping[str, Any]) -> tuple[float, float] | None:
    """Both ends of an estimate with the keys ``low`` and ``high``; None if it has no interval."""
    return None if estimate["low"] is None or estimate["high"] is None else (estimate["low"], estimate["high"])


def heat_step(value: float | None) -> int:
    """The shade of a cell that holds a fall of the accuracy: 0 for none up to 6 for 30 points and more."""
    return 0 if value is None else min(6, max(0, round(value * 20)))


def breakable(label: str) -> Markup:
    """A label that may be broken after an underscore."""
    return Markup(str(escape(label)).replace("_", "_<wbr>"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_mask,
    )
    environment.filters |= {
        "percent": percent,
        "between": between,
        "along": along,
        "ends": ends_of_estimate,
        "breakable": breakable,
        "heat": heat_step,
        "thousands": "{:,}".format,
    }
    return environment


def _mask(value: Any) -> Any:
    """Masks what looks like a token in a text; what this package draws itself is left alone."""
    return mask_secrets(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
