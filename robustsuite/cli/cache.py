"""`robustsuite cache`: what runs share, how much room it takes, and how to make room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robustsuite.cli.console import results, set_up

if TYPE_CHECKING:
    from robustsuite.storage.store import Listed, Store

app = typer.Typer(
    help="What runs share: trained weights, crafted artefacts, judged cells. All of it can be made again.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def show(context: typer.Context) -> None:
    """Show where the cache is, what it holds, and its limit."""
    set_up()
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    store = _store()
    entries = list(store.entries())
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "entries", "size"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in sorted({entry.kind for entry in entries}):
        of_kind = [entry for entry in entries if entry.kind == kind]
        table.add_row(kind, str(len(of_kind)), _size(of_kind))
    typer.echo(f"{store.root}")
    results().print(table)
    typer.echo(f"{_size(entries)} of at most {_bytes(store.limit or 0)} ($ROBUSTSUITE_CACHE_LIMIT)")


@app.command()
def trim(
    limit: Annotated[str | None, typer.Option(help="Most to keep, such as 500MB.", show_default="the limit")] = None,
) -> None:
    """Remove what was used longest ago until the rest is within the limit."""
    from robustsuite.storage.store import size_of

    _told("removed", _store().trim(None if limit is None else size_of("limit", limit)))


@app.command()
def verify() -> None:
    """Read every entry and remove those that are damaged; exit 1 where there were any."""
    store = _store()
    damaged = store.verify()
    for note in store.notes:
        typer.echo(note)
    _told("damaged and removed", damaged)
    if damaged:
        raise typer.Exit(1)


@app.command()
def clear() -> None:
    """Remove every entry."""
    store = _store()
    entries = list(store.entries())
    for entry in entries:
        store.remove(entry.kind, entry.key)
    _told("removed", entries)


def _store() -> Store:
    from robustsuite.storage.store import cache

    return cache()


def _told(what: str, entries: list[Listed]) -> None:
    typer.echo(f"{what}: {len(entries)} entries, {_size(entries)}")


def _size(entries: list[Listed]) -> str:
    return _bytes(sum(entry.size for entry in entries))


def _bytes(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)
