"""What a panel is given and what it returns: payloads of records, and plain data that the page's template draws.

A panel returns no markup. What it returns is taken apart and put together again of plain text and numbers by `settled`,
and the template escapes it, so that neither a panel nor a record that it quotes can write into the page.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

from robustsuite.core import checks
from robustsuite.core.metric import Payload
from robustsuite.evaluation.records import Record
from robustsuite.report.panels.charts import Axis, Chart, Line, Mark

P = TypeVar("P", bound=Payload, covariant=True)


@dataclass(frozen=True, eq=False)
class Exhibit(Generic[P]):
    """One payload and the record that carries it.

    Args:
        record: Whose it is.
        payload: Of the kind that the panel asks for.
        look: Number of the colour and shape that the record's defence has in every chart.
    """

    record: Record
    payload: P
    look: int = 0


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Args:
        headings: One a column.
        rows: Cells of each row, from the left; the first names the row.
    """

    kind: ClassVar[str] = "grid"
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Charts:
    """Charts side by side.

    Args:
        charts: As `charts.draw` makes them.
        key: Name and look of each series, where one key stands for all charts.
    """

    kind: ClassVar[str] = "charts"
    charts: tuple[Chart, ...]
    key: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Strip:
    """A few samples side by side.

    Args:
        title: What they belong to.
        rows: Name of each row and its images, one a sample, as `images.png` makes them.
        captions: A few words under each sample.
        marked: Which captions tell of a success of the attack.
        note: One sentence about the strip.
    """

    title: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    captions: tuple[str, ...] = ()
    marked: tuple[bool, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Fold:
    """What can be folded away.

    Args:
        title: What is seen when it is folded.
        small: A word beside it.
        strips: What is in it.
        opened: Whether it is unfolded at first.
    """

    kind: ClassVar[str] = "fold"
    title: str
    small: str = ""
    strips: tuple[Strip, ...] = ()
    opened: bool = False


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Args:
        heading: Its heading.
        lead: What it shows and how to read it.
        parts: Text, which makes a paragraph, and grids, charts and folds, one below the other.
        link: What the page's list of sections calls it; empty for the heading.
    """

    heading: str
    lead: str = ""
    parts: tuple[str | Grid | Charts | Fold, ...] = ()
    link: str = ""


_PARTS: Final = (str, Grid, Charts, Fold)
_PIECES: Final = (Section, Grid, Charts, Fold, Strip, Chart, Axis, Line, Mark)
_PICTURE: Final = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]*")


def sections(returned: Any) -> tuple[Section, ...]:
    """What a panel returned, as sections of plain data alone.

    Raises:
        RequestError: Anything else than a section, several, or None.
    """
    several = () if returned is None else returned if isinstance(returned, (list, tuple)) else (returned,)
    for section in several:
        if type(section) is not Section:
            raise checks.fail("a Section, several, or None", "panel", type(section).__name__, "return sections")
        parts: object = section.parts
        wrong = [parts] if not isinstance(parts, (list, tuple)) else [p for p in parts if not isinstance(p, _PARTS)]
        if wrong:
            got = type(wrong[0]).__name__
            raise checks.fail("a list of text, Grids, Charts and Folds", "parts", got, "return such parts")
    return tuple(settled(section) for section in several)


def settled(value: Any) -> Any:
    """A copy made of these pieces, exact text and plain numbers; text that claims to be safe markup is text again.

    Raises:
        RequestError: Anything else.
    """
    if type(value) in _PIECES:
        made = type(value)(**{f.name: settled(getattr(value, f.name)) for f in dataclasses.fields(value)})
        if isinstance(made, Strip) and not all(_is_picture(one) for _, row in made.rows for one in row):
            raise checks.fail("images of images.png", "rows", made.title, "draw each image by images.png")
        return made
    if isinstance(value, (list, tuple)):
        return tuple(settled(item) for item in value)
    if isinstance(value, str):
        return str.__str__(value)
    value = checks.plain_number(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    raise checks.fail("text, numbers and pieces of a section", "panel", type(value).__name__, "return plain data")


def _is_picture(value: object) -> bool:
    return isinstance(value, str) and _PICTURE.fullmatch(value) is not None


def key(exhibits: Iterable[Exhibit[Payload]]) -> tuple[tuple[str, int], ...]:
    """Name and look of each defence, for `Charts`."""
    return tuple({exhibit.record.defense: exhibit.look for exhibit in exhibits}.items())
