"""One self-contained page for a run: tables, figures, galleries, details, provenance.

The page draws what is known of every run: summary, gates, comparison, records, provenance. Between them stand the
panels, whichever are registered.

The page loads nothing. Everything from records is escaped by the template, and a content security policy by hash lets
only the page's own style and script act, so that a name in a record could do nothing even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.evaluation.records import Record
from robustsuite.report import details, drawing, summary, trade_off
from robustsuite.report.exhibits import exhibits
from robustsuite.report.panels import charts
from robustsuite.results import followed_up, words

if TYPE_CHECKING:
    import jinja2

    from robustsuite.results.cells import ComparisonTable
    from robustsuite.results.deciding import Verdict
    from robustsuite.results.results import Results

_HERE: Final = Path(__file__).parent


def page(folder: Path, results: Results, judged: Iterable[Verdict] = ()) -> str:
    """The page as text.

    Args:
        folder: The run's folder, for its per-sample files and its suite.
        results: What was measured.
        judged: Verdicts on the gates that the run was asked to pass.
    """
    ordered, joined, table = results.records, results.joined, results.comparison
    under = trade_off.robust_column(table)
    look = trade_off.looks([record.defense for record in ordered])
    environment = _environment()
    style, script = _asset("report.css"), _asset("report.js")
    known: dict[str, Any] = {
        "title": ordered[0].suite or "robustness report",
        "facts": _facts(ordered),
        "sentences": [*summary.damage(results.lines.faults), *summary.sentences(table, joined)],
        "tiles": summary.tiles(table),
        "gates": [(verdict.outcome.value, verdict.asked, verdict.measured) for verdict in judged],
        "followed": (followed_up.HEADINGS, followed_up.rows(ordered)),
        "table": table,
        "families": _families(table),
        "firsts": _firsts(table),
        "robust_under": under.title if under is not None else "",
        "look": tuple(look.items()),
        "costs": trade_off.costs(table, ordered, look),
        "panels": drawing.drawn(exhibits(ordered, joined, folder, look), environment),
        "details": details.details(ordered),
        "provenance": details.provenance(ordered),
        "command": details.command(folder),
        "suite": _suite(folder),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    return environment.get_template("report.html.j2").render(**known)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(WIDTH=charts.WIDTH, HEIGHT=charts.HEIGHT, SHAPES=charts.SHAPES, LOOKS=charts.LOOKS)
    environment.filters["joints"] = _joints
    return environment


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(records: Sequence[Record]) -> list[str]:
    """A line of facts under the title."""
    within = (r for r in records if r.radius is not None and not r.sweep)
    balls = list(dict.fromkeys(f"{r.norm} radius {r.radius:g}" for r in within))
    counts = (r.figures["clean_accuracy"].n for r in records if "clean_accuracy" in r.figures)
    judged = next(filter(None, counts), 0)
    repeats = len({record.repeat for record in records})
    models = ", ".join(dict.fromkeys(record.model for record in records if record.model))
    facts = [
        *dict.fromkeys(record.dataset for record in records),
        models,
        words.some(balls, 4),
        f"{judged:,} test samples" if judged else "",
        f"{repeats} independent trainings" if repeats > 1 else "",
    ]
    return [fact for fact in facts if fact]


def _families(table: ComparisonTable) -> list[tuple[str, int]]:
    """Runs of columns of one family, for the table's upper head."""
    runs: list[tuple[str, int]] = []
    for column in table.columns:
        name = words.family(column.scenario)
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def _firsts(table: ComparisonTable) -> list[bool]:
    """Whether a column is the first of its family."""
    scenarios = ["", *(column.scenario for column in table.columns)]
    return [before != after for before, after in pairwise(scenarios)]


def _joints(name: str) -> str:
    """A name that may break behind the joints of a composition."""
    return name.replace("+", "+\u200b")


def _suite(folder: Path) -> str:
    path = folder / "suite.yaml"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
