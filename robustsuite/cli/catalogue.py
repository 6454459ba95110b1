"""`robustsuite list` and `robustsuite show`: what there is, and what its parameters are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from robustsuite.cli.console import load_plugins, results, set_up
from robustsuite.cli.options import Plugins
from robustsuite.cli.shown import find
from robustsuite.plugins.docstrings import parse_docstring

if TYPE_CHECKING:
    from robustsuite.plugins.registry import Entry

Row = dict[str, Any]
_CALLED: Final = {"rules": "rules of its game that a suite may set", "default": "attack where none is named"}


def _plugins(entries: tuple[Entry, ...]) -> list[Row]:
    return [
        {
            "name": entry.name,
            "scenario": entry.scenario,
            "access": entry.access,
            "summary": entry.summary,
            "taxonomy": list(entry.taxonomy),
        }
        for entry in entries
        if entry.access != "none"
    ]


def _attacks() -> list[Row]:
    from robustsuite.plugins import registry

    further = [
        {
            "name": f"{prefix}:NAME",
            "scenario": of.scenario,
            "access": "by attack",
            "summary": of.summary,
            "taxonomy": [],
        }
        for prefix, of in registry.attacks.prefixes.items()
    ]
    return [*_plugins(registry.attacks.all()), *further]


def _attacks_in_full() -> list[Row]:
    """Every attack with the norms that it plays in and what it needs, ART's by name; imports ART."""
    from robustsuite.plugins import registry

    offers = registry.attacks.offers()
    found = [(entry, entry.game.needs) for entry in registry.attacks.all()]
    found += [(registry.attacks.get(offer.name), offer.needs) for offer in offers if not offer.refused]
    rows = []
    for entry, needs in found:
        norms = list(entry.norms) if entry.game.needs_threat else []
        rows += [{**row, "norms": norms, "needs": list(needs), "refused": ""} for row in _plugins((entry,))]
    blank: Row = {"access": "", "taxonomy": [], "norms": [], "needs": []}
    for name, _, why in offers:
        if why:
            scenario = registry.attacks.prefixes[name.partition(":")[0]].scenario
            told = f"Cannot be played: {why}."
            rows.append({"name": name, "scenario": scenario, **blank, "summary": told, "refused": why})
    return rows


def _defenses() -> list[Row]:
    from robustsuite.plugins import registry

    return [{key: row[key] for key in ("name", "summary", "taxonomy")} for row in _plugins(registry.defenses.all())]


def _datasets() -> list[Row]:
    from robustsuite.data.catalogue import DESCRIPTIONS

    return [{"name": name, "summary": text} for name, text in DESCRIPTIONS.items()]


def _models() -> list[Row]:
    from robustsuite.models.build import NETS

    rows = [{"name": name, "summary": _first_sentence(net)} for name, net in NETS.items()]
    further = {"NAME": "Any classification network of torchvision by its name.", "factory:": "A function of your own."}
    return [*rows, *({"name": name, "summary": text} for name, text in further.items())]


def _first_sentence(subject: Any) -> str:
    return parse_docstring(subject).description.partition("\n")[0]


def _scenarios() -> list[Row]:
    from robustsuite.scenarios import SCENARIOS

    return [
        {
            "name": name,
            "access": ", ".join(game.accesses),
            "needs": ", ".join(game.needs),
            "summary": _first_sentence(game),
        }
        for name, game in SCENARIOS.items()
    ]


def _suites() -> list[Row]:
    from robustsuite.suite.builtin import builtin_suites

    return [{"name": suite.name, "summary": suite.summary} for suite in builtin_suites()]


KINDS: Final[dict[str, Callable[[], list[Row]]]] = {
    "attacks": _attacks,
    "defenses": _defenses,
    "datasets": _datasets,
    "models": _models,
    "scenarios": _scenarios,
    "suites": _suites,
}


def list_names(
    kind: Annotated[str | None, typer.Argument(help=f"{', '.join(KINDS)}; all of them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    plugins: Plugins = None,
) -> None:
    """List what there is by name."""
    from robustsuite.core import checks

    set_up()
    wanted = list(KINDS) if kind is None else [checks.one_of("kind", kind, KINDS)]
    load_plugins(plugins)
    found = {name: KINDS[name]() for name in wanted}
    if as_json:
        found |= {"attacks": _attacks_in_full()} if "attacks" in found else {}
        typer.echo(json.dumps(found if kind is None else found[kind], indent=2, ensure_ascii=False))
        return
    for name, rows in found.items():
        _print_table(name, rows)


def _print_table(title: str, rows: list[Row]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(rows[0]) if rows else ["name"]
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(escape(", ".join(cell) if isinstance(cell, list) else str(cell)) for cell in cells))
    console = results()
    console.print(f"[bold]{title}[/bold]")
    console.print(table)
    console.print()


def show(
    name: Annotated[
        str, typer.Argument(help="An attack, a defence, a scenario, a data set, a model or a built-in suite.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    plugins: Plugins = None,
) -> None:
    """Show what a name stands for: description, parameters with types, ranges and defaults, references."""
    set_up()
    load_plugins(plugins)
    described = find(name)
    if as_json:
        typer.echo(json.dumps(described if len(described) > 1 else described[0], indent=2, ensure_ascii=False))
        return
    for item in described:
        _print_item(item)


def _print_item(item: Row) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = results()
    console.print(f"[bold]{escape(item['name'])}[/bold] ({item['kind']})")
    for key in ("scenario", "access", "needs", "taxonomy", "rules", "metrics", "default"):
        if item.get(key):
            console.print(f"{_CALLED.get(key, key)}: {escape(item[key])}", highlight=False)
    console.print(f"\n{escape(item['description'])}\n", highlight=False)
    if item["parameters"]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("parameter", "type", "default", "meaning"):
            table.add_column(column, overflow="fold", no_wrap=column == "parameter")
        for p in item["parameters"]:
            table.add_row(*(escape(p[key]) for key in ("name", "type", "default", "description")))
        console.print(table)
    for key in ("guarantees", "references"):
        if item[key]:
            console.print(f"\n[bold]{key.capitalize()}[/bold]\n{escape(item[key])}", highlight=False)
    if "yaml" in item:
        typer.echo(item["yaml"])  # a file, which no line may be broken of
    console.print()
