"""`robustsuite evaluate`: attack a model that already exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from robustsuite.cli.console import AsJson, Plugins, Quiet, Verbose, load_plugins, say, set_up, tables
from robustsuite.cli.given import dataset_spec, declared, refuse_other_bounds
from robustsuite.cli.progress import progress_on
from robustsuite.cli.verdicts import leave, pronounce, read_gates
from robustsuite.plugins.registry import DEFAULT_ATTACKS

if TYPE_CHECKING:
    from robustsuite.core.gate import Gate
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
    mean: Annotated[
        str | None, typer.Option(help="What the model wants subtracted: one number, or one per channel.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="What each channel is then divided by: 0.25,0.24,0.26.")] = None,
    bounds: Annotated[
        str | None, typer.Option(help="Least and greatest raw input of model and data.", show_default="0,1")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="logits, probabilities or binary-logit.", show_default="logits")
    ] = None,
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
    from robustsuite.api.evaluate import evaluate as judge
    from robustsuite.core import checks
    from robustsuite.core.ball import Ball
    from robustsuite.core.isolation import seeded
    from robustsuite.core.radii import refuse_vacuous
    from robustsuite.data.catalogue import called, load_part
    from robustsuite.evaluation.environment import resolve_device
    from robustsuite.models.build import ModelSpec
    from robustsuite.run.as_suite import Request, write_where_possible

    load_plugins(plugins)
    checks.integer("samples", samples, low=1)
    checks.integer("seed", seed, low=0)
    chosen = list(attacks or DEFAULT_ATTACKS)
    ball = None if radius is None else Ball(norm or "linf", checks.fraction("radius", radius))
    if ball is None and norm is not None:
        raise checks.fail("--radius beside --norm", "radius", None, "give it in input units, such as 8/255")
    if ball is None and any(_needs_ball(item) for item in chosen):
        raise checks.fail("--radius for an evasion attack", "radius", None, "give it in input units, such as 8/255")
    asked = read_gates(gates or (), chosen, ball)
    model_block: dict[str, Any] = {"factory": target, **({} if checkpoint is None else {"checkpoint": checkpoint})}
    model_block |= declared(mean=mean, std=std, bounds=bounds, output=output)
    span = model_block.get("bounds")
    where = resolve_device(device)
    spec = dataset_spec(data, span)
    test = load_part(spec, "test", most=samples, seed=seed)
    refuse_other_bounds(span, test, called(spec))
    for note in test.notes:
        say(f"note: {note}", quiet=quiet)
    if ball is not None:
        refuse_vacuous(ball, test.bounds, test.shape)
    with seeded(seed):
        model = ModelSpec.parse(model_block)(test.classes, test.shape, test.bounds)
    beside = {"train": train_data, "public": public_data}
    known = {name: dataset_spec(source, span) for name, source in beside.items() if source is not None}
    with progress_on(sys.stderr, quiet=quiet) as progress:
        report = judge(
            model.to(where),
            test,
            chosen,
            ball,
            seed=seed,
            device=where,
            name=target,
            dataset={"name": called(spec), "seed": seed, **({} if spec.path is None else {"path": spec.path})},
            train=load_part(known["train"], "train", seed=seed) if "train" in known else None,
            public=load_part(known["public"], "train", seed=seed) if "public" in known else None,
            progress=progress,
        )
    if out is not None:
        request = Request(model_block, spec, chosen, ball, asked, seed, plugins or (), known)
        reason = write_where_possible(out, request, model, test, report.records)
        if reason:
            say(f"no suite.yaml: {reason}", quiet=quiet)
    _conclude(report, asked, out, quiet=quiet, as_json=as_json)


def _needs_ball(attack: str) -> bool:
    from robustsuite.plugins import registry
    from robustsuite.plugins.expressions import parse_call
    from robustsuite.scenarios import SCENARIOS

    return SCENARIOS[registry.attacks.get(parse_call(attack)[0]).scenario].needs_threat


def _conclude(report: Report, asked: Sequence[Gate], out: Path | None, *, quiet: bool, as_json: bool) -> None:
    from robustsuite.cli.report import print_outcome
    from robustsuite.report.export.step_summary import publish
    from robustsuite.report.report import Report
    from robustsuite.results import gates

    console = tables(as_json=as_json, quiet=quiet)
    verdicts = gates.judge(asked, report)
    if out is not None:
        gates.save(out, asked)  # before the files that tell of them
        report = Report.load(report.save(out))
    report.show(console)
    pronounce(verdicts, console)
    if out is not None and not as_json:
        for name in ("report.html", "results.csv"):
            typer.echo(str(out / name))
    publish(report, verdicts)
    if as_json:
        print_outcome(report, verdicts)
    for record in report.records:
        if record.status == "error":
            say(f"error: {record.attack}: {(record.message.strip().splitlines() or ['no message'])[-1]}")
    leave(report.records, verdicts)
