"""`fit` runs a recipe from build to repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.isolation import differentiable, seeded
from robustsuite.core.samples import Batch, Samples
from robustsuite.core.streams import Streams
from robustsuite.models.fitting import refuse_lone
from robustsuite.models.normalise import Normalise
from robustsuite.models.state import State, captured, put_back
from robustsuite.training.augment import augmentations
from robustsuite.training.averaging import Averaging
from robustsuite.training.checkpoints import Checkpoint
from robustsuite.training.context import PartOf, named, no_part
from robustsuite.training.descent import batch_sizes
from robustsuite.training.fabric import make_fabric
from robustsuite.training.own import HiddenNetwork, OwnTraining
from robustsuite.training.parts import CleanLoss, Step, Updater, training_loss
from robustsuite.training.passes import TrainingPasses
from robustsuite.training.recipe import GradientDescent, Recipe
from robustsuite.training.stages import Also, Stages
from robustsuite.training.trained import LEARNT
from robustsuite.training.watching import look_at, naming_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Progress = Callable[[str, int, int], None]
"""Called with what is being done, epochs done, epochs in all."""
Log = Callable[[Mapping[str, float]], None]
"""Called with the figures of each epoch."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a training gives.

    Args:
        network: In eval mode.
        history: One row of figures per epoch.
        facts: What the record must say of the training.
        flags: Doubts for the record.
        scores: What prepares and repairs say of single samples: `ids` and columns `(n,)`, by stage; and the ids of
            those that batches were made of.
    """

    network: nn.Module
    history: tuple[Mapping[str, float], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def divide(samples: Samples, share: float, streams: Streams) -> tuple[Samples, Samples | None]:
    """Hold out what validation needs: (training, held out or None).

    Held-out samples come from the same, possibly poisoned, set: the defender has no clean oracle. Which ones they are
    hangs on their places alone, so a poisoned set is cut as its clean twin is.

    Args:
        samples: What there is to train on.
        share: To hold out, in [0, 0.5].
        streams: Keys the choice.
    """
    count = round(share * len(samples))
    if count == 0:
        return samples, None
    start = float(streams.child("held-out").uniform(torch.zeros(1, dtype=torch.int64), ()))
    order = ((samples.order() - start) % 1).argsort()
    held, rest = order[:count].sort().values, order[count:].sort().values
    return samples.take(rest), samples.take(held)


def make_network(recipe: Recipe, samples: Samples, seed: int) -> nn.Module:
    """Build and admit the network with seeded weights and set its normalisation."""
    with seeded(Streams(seed).child("build").key):
        return _drawn(recipe, samples)


def _drawn(recipe: Recipe, samples: Samples) -> nn.Module:
    """The network with weights from the global generators."""
    network = recipe.build(samples.classes, samples.shape, samples.bounds)
    normalise = getattr(network, "normalise", None)
    if not isinstance(normalise, Normalise):  # a factory's network may call something else so
        return recipe.update.admit(network)
    if recipe.training.normalise == "data":
        normalise.fit(samples.copy())
    elif recipe.training.normalise == "bounds":
        normalise.from_bounds(samples.bounds)
    return recipe.update.admit(network)


def fit(
    recipe: Recipe,
    samples: Samples,
    seed: int,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    part: PartOf = no_part,
    also: Also | None = None,
) -> Fitted:
    """Train a network by a recipe.

    Args:
        recipe: What to do.
        samples: The training set, possibly poisoned; validation is split from it.
        seed: Keys initialisation, order, dropout and every draw.
        device: Where to train.
        checkpoint: File that a killed training resumes from; None for none.
        progress: Told after each epoch.
        log: Given each epoch's row of figures.
        part: The parts of the data set beside the training samples.
        also: Trains what prepares and repairs ask for; None trains it each time.

    Returns:
        The network in eval mode on `device`, its history and facts.

    Raises:
        NotApplicableError: A part of the data set that the recipe needs is empty.
        RequestError: The network cannot train on a batch of one sample, and there would be one; or the user's own
            training returned no network.
        ModelError: What the user's own training returned answers no logits.
        RobustsuiteError: The loss became NaN or infinite, or a batch does not fit into memory.
    """
    stages = Stages(recipe, samples, seed, device, part, also or partial(_trained, device=device, part=part))
    if recipe.own is not None:
        return _by_own(recipe, recipe.own, stages, samples, seed, device)
    fabric = make_fabric(device, recipe.training.precision)
    recipe.update.load()
    started = time.perf_counter()  # what is imported above counts for nobody
    streams = Streams(seed).child("training")
    whole = stages.prepared(samples)
    train, held_out = divide(whole, recipe.training.validation, streams)
    if train is samples:
        train = samples.copy()  # parts of a recipe may come from anywhere, and others train on these too
    update = recipe.update.within(recipe, train, seed)
    network = make_network(recipe, whole, seed).to(fabric.device)
    if recipe.training.precision == "64":
        network = network.double()
        train, held_out = _double(train), None if held_out is None else _double(held_out)
    alone = isinstance(recipe.update, GradientDescent) and min(batch_sizes(len(train), recipe.training.batch_size)) == 1
    if alone:
        refuse_lone(network, train.batch(slice(0, 1), fabric.device).x, train.classes)
    with seeded(streams.child("start").key):
        updater = update.start(network, train, recipe.training, streams, fabric)
    if recipe.training.ema is not None:
        updater = Averaging(updater, network, recipe.training.ema)
    run = _Run(recipe, network, updater, train, held_out, streams, fabric)
    with naming_memory(recipe.training), differentiable():  # a judge may train inside a caller's `no_grad`
        run.epochs(Checkpoint(checkpoint), progress, log)
    with seeded(streams.child("finish").key):
        updater.finish()
    qualified, doubts = update.qualify(recipe, updater.facts())
    accounted, data = "epsilon" in qualified, (train, held_out, streams, fabric.device)
    qualified |= look_at(network, recipe.training, run.history, *data, accounted=accounted)
    network = _finished(stages, network)
    told, marks = recipe.objective.told(run.history)
    told |= {**qualified, **run.passes.facts()}
    facts = {**told, **stages.facts, "train_seconds": time.perf_counter() - started, "epochs": len(run.history)}
    scores = {**stages.scores, LEARNT: train.ids}
    return Fitted(network, tuple(run.history), facts, (*marks, *doubts, *stages.flags), scores)


def _by_own(recipe: Recipe, own: OwnTraining, stages: Stages, samples: Samples, seed: int, device: str) -> Fitted:
    """What a training by the user's own function gives."""
    started = time.perf_counter()
    whole = stages.prepared(samples)
    build = None if isinstance(recipe.build, HiddenNetwork) else partial(_drawn, recipe, whole)
    network, told = own.train(whole, seed, device, build)
    network = _finished(stages, network)
    facts = {**told, **stages.facts, "train_seconds": time.perf_counter() - started}
    return Fitted(network, (), facts, stages.flags, stages.scores)


def _finished(stages: Stages, network: nn.Module) -> nn.Module:
    """The network after every repair, in eval mode and without gradients."""
    network = stages.repaired(network).eval()
    for parameter in network.parameters():
        parameter.grad = None
    return network


def _trained(recipe: Recipe, samples: Samples, seed: int, *, device: str, part: PartOf) -> nn.Module:
    return fit(recipe, samples, seed, device=device, part=part).network


def _double(samples: Samples) -> Samples:
    return replace(samples, x=samples.inputs().double())


class _Run:
    """The epochs of one training."""

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        updater: Updater,
        train: Samples,
        held_out: Samples | None,
        streams: Streams,
        fabric: Fabric,
    ) -> None:
        self._recipe, self._network, self._updater = recipe, network, updater
        self._train, self._held_out, self._streams = train, held_out, streams
        self._fabric, self._device = fabric, fabric.device
        self._loss = training_loss(recipe.training, train)
        self._changes = augmentations(recipe.training.augment)
        for change in self._changes:
            change.refuse(train.shape)
        self._best: State | None = None
        self._best_score, self._stale = -float("inf"), 0
        self.history: list[dict[str, float]] = []
        self.passes = TrainingPasses()

    def epochs(self, checkpoint: Checkpoint, progress: Progress | None, log: Log | None = None) -> None:
        """Run every epoch that is left, stopping early where validation no longer improves."""
        self._resume(checkpoint.load())
        training = self._recipe.training
        for epoch in range(len(self.history), training.epochs):
            if training.patience is not None and self._stale >= training.patience:
                break
            if self._recipe.objective.over(self.history):
                break
            # Dropout draws from the global state; seeding it by epoch makes a resumed training equal a straight one.
            with seeded(self._streams.child("epoch", epoch).key):
                row = self._epoch(epoch)
                self._watch(epoch, row)
            self.history.append(row)
            if log is not None:
                log(row)
            checkpoint.save(self._snapshot)
            if progress is not None:
                progress("training", epoch + 1, training.epochs)
        with self._updater.watched():
            last = captured(self._network)
        put_back(self._network, *(self._best or last))
        checkpoint.clear()

    def _epoch(self, epoch: int) -> dict[str, float]:
        self._updater.network.train()
        total, count = torch.zeros((), device=self._device), 0
        for number, index in enumerate(self._updater.batches(epoch)):
            losses = self._losses(index, epoch, number)
            self._updater.step(losses)
            total += losses.detach().sum()
            count += len(index)
        loss = float(total) / max(count, 1)
        if not loss < float("inf"):
            raise RobustsuiteError(
                f"expected a finite training loss, got loss={loss} in epoch {epoch}: gradients explode; "
                f"lower lr (now {self._recipe.training.lr}) or set clip"
            )
        return {"epoch": float(epoch), "train_loss": loss}

    def _losses(self, index: Tensor, epoch: int, number: int) -> Tensor:
        if len(index) == 0:  # an empty Poisson batch is a step all the same
            return torch.zeros(0, device=self._device)
        batch = self._augmented(self._train.batch(index, self._device), epoch, number)
        # Autocast here, not in a wrapped module, so that an attack inside the objective runs at this speed too.
        with self._fabric.autocast(), self._counted(len(index)):
            return self._recipe.objective(self._updater.network, batch, self._step(epoch, number))

    def _counted(self, n: int) -> AbstractContextManager[None]:
        """A plain loss costs one pass each way, and needs no count."""
        plain = type(self._recipe.objective) is CleanLoss
        return nullcontext() if plain else self.passes.of(self._network, n)

    def _augmented(self, batch: Batch, epoch: int, number: int) -> Batch:
        # A sample that is drawn several times an epoch is not to look alike each time.
        again = (number,) if self._recipe.training.sampling == "balanced" else ()
        for change in self._changes:
            batch = change(batch, self._streams.child("change", type(change).__name__, epoch, *again))
        for i, augment in enumerate(self._recipe.augment):
            made = augment(batch, self._streams.child("augment", i, epoch))
            if len(made.y) != len(batch.y) or not torch.equal(made.ids, batch.ids):
                got = f"{named(augment)} returned {len(made.y)} of {len(batch.y)}"
                raise RequestError(f"expected a batch of the same samples, got {got}; change inputs and labels alone")
            batch = made
        return batch

    def _watch(self, epoch: int, row: dict[str, float]) -> None:
        if self._held_out is None:
            return
        self._network.eval()
        step = self._step(epoch, -1)
        with self._updater.watched():
            row.update(self._recipe.objective.validate(self._network, self._held_out, step))
            score = row.pop("score")
            self._updater.validated(score)
            if score > self._best_score:
                self._best_score, self._stale = score, 0
                if self._recipe.training.keep_best:
                    self._best = captured(self._network)
            else:
                self._stale += 1

    def _step(self, epoch: int, number: int) -> Step:
        return Step(
            self._loss, self._streams.child("step", epoch, number), self._train.bounds, epoch, self._train.classes
        )

    def _snapshot(self) -> dict[str, Any]:
        return {
            "network": tuple(captured(self._network)),
            "updater": self._updater.state(),
            "best": None if self._best is None else tuple(self._best),
            "best_score": self._best_score,
            "stale": self._stale,
            "history": self.history,
            "passes": self.passes.counts,
        }

    def _resume(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        put_back(self._network, *state["network"])
        self._updater.restore(state["updater"])
        self._best = None if state["best"] is None else State(*state["best"])
        self._best_score = state["best_score"]
        self._stale, self.history = state["stale"], state["history"]
        self.passes = TrainingPasses(state["passes"])
