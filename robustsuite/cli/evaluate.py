"""`robustsuite evaluate`: attack a model that already exists."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from robustsuite.cli.console import load_plugins, say, set_up
from robustsuite.cli.ending import leave, say_errors, show
from robustsuite.cli.given import dataset_spec, declared, read_ball, read_gates, refuse_other_bounds
from robustsuite.cli.options import AsJson, Device, Plugins, Quiet, Verbose
from robustsuite.cli.progress import progress_on

if TYPE_CHECKING:
    from torch import nn

    from robustsuite.core.samples import Samples
    from robustsuite.evaluation.as_suite import Request
    from robustsuite.evaluation.clock import TimeBudget
    from robustsuite.report.report import Report

_BATCHES: Final = "batches"  # below the folder: what is judged so far within a budget
_RESERVE: Final = 1.5  # seconds of a budget for the start of Python, tables and the page

_Target = Annotated[str, typer.Argument(help="package.module:factory or path/to/file.py:factory; returns the model.")]
_Attacks = Annotated[
    list[str] | None,
    typer.Option(
        "--attack",
        help="NAME or 'NAME(key=value, ...)', such as 'art:HopSkipJump(max_iter=10)'; repeatable.",
        show_default="the standard ensemble",
    ),
]
_Mean = Annotated[str | None, typer.Option(help="What the model wants subtracted: one number, or one per channel.")]
_Bounds = Annotated[
    str | None, typer.Option(help="Least and greatest raw input of model and data.", show_default="0,1")
]
_Output = Annotated[str | None, typer.Option(help="logits, probabilities or binary-logit.", show_default="logits")]
_Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="[ATTACK:]METRIC>=NUMBER",
        help="What must hold, such as 'robust_accuracy>=0.4' or 'pgd:robust_accuracy>=0.4'; repeatable.",
    ),
]
_Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time for all of it: 30s, 10m, 1h30m. Judges as many of the samples as fit; with --out the same command "
        "goes on, after a kill or with a larger budget.",
    ),
]


def evaluate(
    context: typer.Context,
    target: _Target,
    data: Annotated[str, typer.Option(help="A data set's name, a folder or .zip of images, or an .npz file.")],
    attacks: _Attacks = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2 or l1.", show_default="linf")] = None,
    radius: Annotated[str | None, typer.Option(help="In raw input units; 8/255 is a quotient.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Weights: safetensors, or .pt without code.")] = None,
    mean: _Mean = None,
    std: Annotated[str | None, typer.Option(help="What each channel is then divided by: 0.25,0.24,0.26.")] = None,
    bounds: _Bounds = None,
    output: _Output = None,
    samples: Annotated[int, typer.Option(help="Test samples to attack, each class in its share.")] = 1000,
    budget: _Budget = None,
    train_data: Annotated[str | None, typer.Option(help="What the model was trained on, like --data.")] = None,
    public_data: Annotated[str | None, typer.Option(help="Such data that it was not trained on, like --data.")] = None,
    gates: _Gates = None,
    out: Annotated[Path | None, typer.Option(help="Folder for records, tables and the HTML report.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    plugins: Plugins = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Attack a model that already exists and judge how it holds up."""
    set_up(verbose=verbose)
    from robustsuite.core import checks
    from robustsuite.evaluation.as_suite import Request, write_where_possible
    from robustsuite.evaluation.clock import TimeBudget
    from robustsuite.evaluation.environment import resolve_device
    from robustsuite.scenarios import STANDARD

    load_plugins(plugins)
    checks.integer("samples", samples, low=1)
    checks.integer("seed", seed, low=0)
    keep = None if out is None else out / _BATCHES
    limit = None if budget is None else TimeBudget(budget, keep, context.obj, _RESERVE)
    chosen = list(attacks or (STANDARD.default_attack,))
    ball = read_ball(norm, radius, chosen)
    asked = read_gates(gates or (), chosen, ball)
    block: dict[str, Any] = {"factory": target, **({} if checkpoint is None else {"checkpoint": checkpoint})}
    block |= declared(mean=mean, std=std, bounds=bounds, output=output)
    span, where = block.get("bounds"), resolve_device(device)
    typed = {"train": train_data, "public": public_data}
    beside = {name: dataset_spec(source, span) for name, source in typed.items() if source is not None}
    request = Request(block, dataset_spec(data, span), chosen, ball, asked, seed, plugins or (), beside)
    model, test, report = _judge(request, where, samples, limit, quiet=quiet)
    if out is not None:
        reason = write_where_possible(out, request, model, test, report.records)
        if reason:
            say(f"no suite.yaml: {reason}", quiet=quiet)
    _conclude(report, request, out, quiet=quiet, as_json=as_json)


def _beside(request: Request, name: str) -> Samples:
    """The training part of a data set; of one that is at hand its population, where public data are asked for."""
    from robustsuite.data.catalogue import load_part
    from robustsuite.data.sources import joined

    spec, seed = request.beside[name], request.seed
    others = (request.dataset, *(of for other, of in request.beside.items() if other != name))
    if name == "public" and (spec.name, spec.path) in {(of.name, of.path) for of in others}:
        return joined(*(load_part(spec, half, seed=seed) for half in ("adversary", "judge")))
    return load_part(spec, "train", seed=seed)


def _judge(
    request: Request, device: str, samples: int, budget: TimeBudget | None, *, quiet: bool
) -> tuple[nn.Module, Samples, Report]:
    """Load data and model, and play the games."""
    from robustsuite.api.evaluate import evaluate as judge
    from robustsuite.core.isolation import seeded
    from robustsuite.core.radii import refuse_vacuous
    from robustsuite.data.catalogue import called, load_part
    from robustsuite.models.build import ModelSpec

    spec, seed, ball = request.dataset, request.seed, request.ball
    test = load_part(spec, "test", most=samples, seed=seed)
    refuse_other_bounds(request.model.get("bounds"), test, called(spec))
    for note in test.notes:
        say(f"note: {note}", quiet=quiet)
    if ball is not None:
        refuse_vacuous(ball, test.bounds, test.shape)
    with seeded(seed):
        model = ModelSpec.parse(request.model)(test.classes, test.shape, test.bounds).to(device)
    with progress_on(sys.stderr, quiet=quiet) as progress:
        beside: dict[str, Any] = {name: _beside(request, name) for name in request.beside}
        report = judge(
            model,
            test,
            request.attacks,
            ball,
            seed=seed,
            device=device,
            name=request.model["factory"],
            dataset={"name": called(spec), "seed": seed, **({} if spec.path is None else {"path": spec.path})},
            budget=budget,
            progress=progress,
            **beside,
        )
    return model, test, report


def _conclude(report: Report, request: Request, out: Path | None, *, quiet: bool, as_json: bool) -> None:
    from robustsuite.report.report import Report
    from robustsuite.results import gates

    verdicts = gates.judge(request.gates, report)
    if out is not None:
        gates.save(out, request.gates)  # before the files that tell of them
        report = Report.load(report.save(out))
    show(report, verdicts, out, quiet=quiet, as_json=as_json)
    say_errors(report.records, lambda record: record.attack)
    leave(report.records, verdicts)
