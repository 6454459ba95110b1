"""`robustsuite evaluate`: attack a model that already exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from robustsuite.cli.console import AsJson, Plugins, Quiet, Verbose, load_plugins, say, set_up, tables
from robustsuite.cli.progress import progress_on
from robustsuite.cli.verdicts import leave, pronounce, read_gates
from robustsuite.registry import DEFAULT_ATTACKS

if TYPE_CHECKING:
    from torch import nn

    from robustsuite.data.catalogue import DatasetSpec
    from robustsuite.data.samples import Samples
    from robustsuite.gates import Gate
    from robustsuite.report.report import Report

_SAMPLES: Final = 1000


def evaluate(
    target: Annotated[
        str, typer.Argument(help="package.module:factory or path/to/file.py:factory; returns the model.")
    ],
    data: Annotated[str, typer.Option(help="A data set's name, a folder or .zip of images, or an .npz file.")],
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="NAME or 'NAME(key=value, ...)', such as 'art:HopSkipJump(max_iter=10)'; repeatable.",
            show_default=", ".join(DEFAULT_ATTACKS),
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2 or l1.", show_default="linf")] = None,
    radius: Annotated[str | None, typer.Option(help="In raw input units; 8/255 is a quotient.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Weights: safetensors, or .pt without code.")] = None,
    samples: Annotated[int, typer.Option(help="Test samples to attack, each class in its share.")] = _SAMPLES,
    train_data: Annotated[str | None, typer.Option(help="What the model was trained on, like --data.")] = None,
    public_data: Annotated[str | None, typer.Option(help="Data that an adversary may know, like --data.")] = None,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="[ATTACK:]METRIC>=NUMBER",
            help="What must hold, such as 'robust_accuracy>=0.4' or 'pgd:robust_accuracy>=0.4'; repeatable.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for records, tables and the HTML report.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: AsJson = False,
    plugins: Plugins = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Attack a model that already exists and judge how it holds up."""
    set_up(verbose=verbose)
    from robustsuite import checks
    from robustsuite.api import evaluate as judge
    from robustsuite.benchmark.environment import resolve_device
    from robustsuite.isolation import seeded
    from robustsuite.threat import Ball, refuse_vacuous

    load_plugins(plugins)
    checks.integer("samples", samples, low=1)
    checks.integer("seed", seed, low=0)
    chosen = list(attacks or DEFAULT_ATTACKS)
    ball = None if radius is None else Ball(norm or "linf", checks.fraction("radius", radius))
    if ball is None and norm is not None:
        raise checks.fail("--radius beside --norm", "radius", None, "give it in input units, such as 8/255")
    if ball is None and any(_is_evasion(item) for item in chosen):
        raise checks.fail("--radius for an evasion attack", "radius", None, "give it in input units, such as 8/255")
    asked = read_gates(gates or (), chosen, ball)
    where = resolve_device(device)
    test = load_named(data, "test", seed, samples)
    if ball is not None:
        refuse_vacuous(ball, test.bounds, test.shape)
    with seeded(seed):
        model = load_model(target, checkpoint, test)
    with progress_on(sys.stderr, quiet=quiet) as progress:
        report = judge(
            model.to(where),
            test,
            chosen,
            ball,
            seed=seed,
            device=where,
            name=target,
            train=None if train_data is None else load_named(train_data, "train", seed),
            public=None if public_data is None else load_named(public_data, "train", seed),
            progress=progress,
        )
    _conclude(report, asked, out, quiet=quiet, as_json=as_json)


def _is_evasion(attack: str) -> bool:
    from robustsuite import registry
    from robustsuite.expressions import parse_call

    return registry.attacks.get(parse_call(attack)[0]).scenario == "evasion"


def load_named(source: str, part: str, seed: int, most: int | None = None) -> Samples:
    """A data set by name or path; a path without a test part is used whole, as `train` and as `test`.

    Args:
        source: What the user typed.
        part: `train` or `test`; the other is not read.
        seed: Keys the choice.
        most: At most so many samples, each class in its share; None for all.

    Raises:
        RequestError: Neither a known name nor data at that path.
    """
    from robustsuite.data.catalogue import load_part

    spec = _spec(source)
    return load_part(spec, part, most=most, seed=seed, whole=source != spec.name)


def _spec(source: str) -> DatasetSpec:
    from robustsuite import checks
    from robustsuite.benchmark.problems import nearest
    from robustsuite.data.catalogue import NAMES, DatasetSpec

    if source in NAMES:
        return DatasetSpec(name=source)
    path = Path(source).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return DatasetSpec(name="npz", path=source)
    if path.is_dir() or path.suffix == ".zip":
        return DatasetSpec(name="image-folder", path=source)
    named = [name for name in NAMES if name not in ("npz", "image-folder", "factory")]
    remedy = nearest(source, named)
    raise checks.fail("a data set's name, a folder or .zip of images, or an .npz file", "data", source, remedy)


def load_model(target: str, checkpoint: str | None, data: Samples) -> nn.Module:
    """Call the user's factory and load the weights that were named.

    Raises:
        RequestError: No such factory, or weights that do not fit or cannot be trusted.
    """
    from robustsuite.models.build import ModelSpec

    given = {"factory": target, **({} if checkpoint is None else {"checkpoint": checkpoint})}
    return ModelSpec.parse(given)(data.classes, data.shape, data.bounds)


def _conclude(report: Report, asked: Sequence[Gate], out: Path | None, *, quiet: bool, as_json: bool) -> None:
    from robustsuite import gates
    from robustsuite.cli.report import print_outcome
    from robustsuite.report.report import Report
    from robustsuite.report.step_summary import publish

    console = tables(as_json=as_json, quiet=quiet)
    report.show(console)
    verdicts = gates.judge(asked, report)
    pronounce(verdicts, console)
    if out is not None:
        gates.save(out, asked)  # before the files that tell of them
        report = Report.load(report.save(out))
        for name in () if as_json else ("report.html", "results.csv"):
            typer.echo(str(out / name))
    publish(report, verdicts)
    if as_json:
        print_outcome(report, verdicts)
    for record in report.records:
        if record.status == "error":
            say(f"error: {record.attack}: {(record.message.strip().splitlines() or ['no message'])[-1]}")
    leave(report.records, verdicts)
