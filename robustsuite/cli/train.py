"""`robustsuite train`: one model from a suite's data, model, training and one defence."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from robustsuite.cli.console import set_up
from robustsuite.cli.options import Device, Overrides, Plugins, Quiet, Seed, Trusted, Verbose
from robustsuite.cli.progress import progress_on
from robustsuite.cli.run import RUNS

if TYPE_CHECKING:
    from robustsuite.suite.plugin_options import DefenseUse
    from robustsuite.suite.schema import Suite

_LISTED: Final = 8  # values of one fact that are printed; the file beside the weights holds all


def train(
    suite: Annotated[str, typer.Argument(help="A YAML file or a built-in suite.")],
    defense: Annotated[str, typer.Option(help="Label of one of the suite's defences.")] = "none",
    out: Annotated[Path | None, typer.Option(help="Folder for the weights.", show_default="runs/<name>")] = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    plugins: Plugins = None,
    trust: Trusted = None,
    find: Annotated[
        str | None, typer.Option(help="Look for `lr` or `batch-size` instead of training, and write nothing.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="Write each epoch's figures: csv:DIR, tensorboard:DIR or mlflow:URI.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train one model of a suite and save its weights as safetensors, with its recipe and history beside them.

    A run in the same folder finds the training done. What went wrong in the training is named below its figures.
    """
    set_up(verbose=verbose)
    from robustsuite.plugins.trust import Trust
    from robustsuite.suite.load import load_suite

    typed = [] if seed is None else [f"seed={seed}"]
    named = Trust(named=tuple(trust or ()), folder=Path.cwd())
    loaded = load_suite(suite, [*(overrides or ()), *typed], plugins or (), named)
    use = loaded.defense(defense)
    folder = out if out is not None else RUNS / loaded.name
    with loaded.trusted():
        if find is not None:
            typer.echo(_found(loaded, use, device, find))
            return
        weights, facts = _train(loaded, use, folder, device, log, quiet=quiet)
    from robustsuite.training.diagnosis import FACT, read

    for name, value in facts.items():
        if name == FACT:
            continue
        if isinstance(value, list) and len(value) > _LISTED:
            typer.echo(f"{name}: {len(value)} values, beside the weights")
        else:
            typer.echo(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    for diagnosis in read(facts):
        typer.echo(f"advice: {diagnosis}")
    typer.echo(str(weights))


def _found(suite: Suite, use: DefenseUse, device: str, what: str) -> str:
    """What a search for a setting says."""
    from robustsuite.core import checks
    from robustsuite.data.catalogue import load
    from robustsuite.evaluation.environment import resolve_device
    from robustsuite.runner.precision import settled_suite
    from robustsuite.runner.worker import set_threads
    from robustsuite.suite.recipes import make_recipe
    from robustsuite.training.finders import find_batch_size, find_lr

    checks.one_of("find", what, ("lr", "batch-size"))
    where = resolve_device(device)
    suite, _ = settled_suite(suite, where)
    recipe = make_recipe(suite, suite.defense(use.label))
    set_threads(suite.threads)
    samples = load(suite.dataset, seed=suite.seed).train
    if what == "lr":
        test = find_lr(recipe, samples, seed=suite.seed, device=where)
        least = min(zip(test.losses, test.rates, strict=True))
        seen = f"the loss falls from {test.losses[0]:.4g} to {least[0]:.4g} at {least[1]:.2g}"
        return f"lr: {test.suggestion:.2g}\n{seen}"
    size = find_batch_size(recipe, samples, seed=suite.seed, device=where)
    return f"batch_size: {size.size}\n{size.note}"


def _train(
    suite: Suite, use: DefenseUse, folder: Path, device: str, log: str | None, *, quiet: bool
) -> tuple[Path, dict[str, Any]]:
    """Train (or find it done), write the weights and what is known of them, and measure the clean accuracy."""
    import json
    from dataclasses import replace

    from robustsuite.core import checks
    from robustsuite.core.canonical import plain
    from robustsuite.data.catalogue import load
    from robustsuite.evaluation.environment import environment, resolve_device
    from robustsuite.models.checkpoint import save
    from robustsuite.plugins import provenance
    from robustsuite.runner.precision import settled_suite
    from robustsuite.runner.worker import set_threads
    from robustsuite.scenarios.victim import Victim
    from robustsuite.storage.files import write_atomically
    from robustsuite.storage.store import Store, cache
    from robustsuite.suite.recipes import is_trained, make_recipe
    from robustsuite.training.cache import Trainer
    from robustsuite.training.loggers import logged
    from robustsuite.training.own import HiddenNetwork

    where = resolve_device(device)
    suite, notes = settled_suite(suite, where)
    use = suite.defense(use.label)
    recipe = make_recipe(suite, use)
    if not is_trained(recipe):
        raise checks.fail("a model that is trained", "checkpoint", suite.model_for(use).checkpoint, "drop it")
    if recipe.own is not None and isinstance(recipe.build, HiddenNetwork):
        remedy = f"{recipe.own.name} hides it: name a model, and let that function ask for `build`"
        raise checks.fail("a network whose weights can be loaded again", "model", None, remedy)
    set_threads(suite.threads)
    splits = load(suite.dataset, seed=suite.seed)
    shared = replace(cache(), beside=provenance.foreign_digest(recipe))
    stem = re.sub(r"[^A-Za-z0-9._+-]", "_", use.label)
    with progress_on(sys.stderr, quiet=quiet) as progress, logged(log, stem) as write:
        trainer = Trainer(suite.seed, where, (Store(folder), shared), progress, splits.part, log=write)
        trained = trainer(recipe, splits.train)
        if write is not None:
            write.rest(trained.history)
    victim = Victim(trained.model, splits.test, device=where)
    accuracy = float(((victim.clean.prediction == splits.test.y) & ~victim.clean.rejected).double().mean())
    noted = {"precision": notes[use.label]} if use.label in notes else {}
    facts = {"clean_accuracy": accuracy, **trained.facts, **noted}
    known = {
        "facts": facts,
        "flags": trained.flags,
        "history": trained.history,
        "recipe": recipe.description(),
        "environment": environment(where, suite.threads),
    }
    weights = folder / f"{stem}.safetensors"
    save(trained.model.network, weights)
    write_atomically(folder / f"{stem}.json", json.dumps(plain(known), indent=2).encode())
    return weights, facts
