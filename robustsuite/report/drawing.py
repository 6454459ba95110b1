"""Panels to pieces of the page: each is given the exhibits that it asks for, and draws for itself.

A panel may be a stranger's. It gets copies, so that it can change nothing that others read; what it returns is plain
data or is refused; and where it raises, or what it returns cannot be drawn, a line of the page says so.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustsuite.core.metric import Payload
from robustsuite.report.pieces import Exhibit, Section, sections

if TYPE_CHECKING:
    import jinja2

    from robustsuite.plugins.registry import Entry


@dataclass(frozen=True)
class Drawn:
    """A panel as it stands in the page.

    Args:
        links: Id of each of its sections, and what the page's list of sections calls it.
        drawn: Its sections as escaped markup.
    """

    links: tuple[tuple[str, str], ...]
    drawn: str


def drawn(shown: Sequence[Exhibit[Payload]], environment: jinja2.Environment) -> list[Drawn]:
    """Every registered panel for which there are exhibits and which has something to say, in their order.

    Args:
        shown: All exhibits of the run.
        environment: Has the templates, and escapes.
    """
    from robustsuite.plugins.registry import panels

    entries = sorted(panels.all(), key=lambda entry: (getattr(entry.cls, "order", 100), entry.name))
    made = (_drawn(entry, shown, environment) for entry in entries)
    return [one for one in made if one.links]


def _drawn(entry: Entry, shown: Sequence[Exhibit[Payload]], environment: jinja2.Environment) -> Drawn:
    asked = [exhibit for exhibit in shown if isinstance(exhibit.payload, entry.cls.asks)]
    if not asked:
        return Drawn((), "")
    try:
        return _page(entry.name, sections(entry.make()(copy.deepcopy(asked))), environment)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's panel may raise anything, and even ask to exit
        told = f"This panel could not be drawn: {_told(error)}"
        return _page(entry.name, (Section(entry.name, parts=(told,)),), environment)


def _told(error: BaseException) -> str:
    """What was raised, in one line; its own text may raise again."""
    try:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    except Exception:
        return type(error).__name__


def _page(name: str, made: Sequence[Section], environment: jinja2.Environment) -> Drawn:
    draw = environment.get_template("pieces.html.j2").module.section  # type: ignore[attr-defined]
    ids = [f"panel-{name}" + (f"-{number}" if number > 1 else "") for number in range(1, len(made) + 1)]
    parts = [draw(section, place) for section, place in zip(made, ids, strict=True)]
    links = tuple((place, section.link or section.heading) for section, place in zip(made, ids, strict=True))
    return Drawn(links, type(parts[0])("").join(parts) if parts else "")
