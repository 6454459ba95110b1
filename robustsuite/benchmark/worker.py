"""What one process does: trains victims, plays cells, and remembers the victims that it has at hand."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from robustsuite.benchmark.environment import environment
from robustsuite.benchmark.judging import judge
from robustsuite.benchmark.plan import Cell, is_trained, make_recipe
from robustsuite.benchmark.records import Record
from robustsuite.benchmark.suite import Suite
from robustsuite.canonical import plain
from robustsuite.data.catalogue import load
from robustsuite.data.samples import Samples, Splits, stratified
from robustsuite.protocol import Trained, Victim
from robustsuite.scenarios import arrange
from robustsuite.serving import Served
from robustsuite.streams import Streams
from robustsuite.training.cache import Trainer
from robustsuite.training.fit import Progress, deploy, divide, make_network

_KEPT: Final = 4  # victims kept in memory by each worker


@dataclass
class Worker:
    """Trains and plays for one run.

    Args:
        suite: The suite.
        folder: The run's folder.
        device: Where to work.
        splits: The data; loaded on first use where they are not given.
        progress: Told after each epoch.
    """

    suite: Suite
    folder: Path
    device: str
    splits: Splits | None = None
    progress: Progress | None = None
    _victims: OrderedDict[tuple[str, int, bool], Victim] = field(default_factory=OrderedDict)

    @property
    def data(self) -> Splits:
        """The data set, loaded once."""
        if self.splits is None:
            self.splits = load(self.suite.dataset, seed=self.suite.seed)
        return self.splits

    def train(self, cell: Cell) -> None:
        """Do the training that this cell waits for, unless it is already there."""
        recipe = make_recipe(self.suite, cell.defense)
        self._trainer(cell.repeat).fit(recipe, self.data.train)

    def play(self, cell: Cell) -> Record:
        """Play one cell; whatever happens becomes its record."""
        entry = cell.attack.entry
        recipe = make_recipe(self.suite, cell.defense)
        blank = Record(
            key=cell.key,
            order=cell.order,
            suite=self.suite.name,
            dataset=self.data.name,
            model=str(getattr(recipe.build, "factory", None) or getattr(recipe.build, "name", "")),
            defense=cell.defense.label,
            attack=cell.attack.label,
            scenario=entry.scenario,
            knowledge="" if entry.access == "none" else entry.access,
            repeat=cell.repeat,
            seed=self.suite.seed + cell.repeat,
            recipe=plain(recipe.description()),
            environment=environment(self.device, self.suite.threads),
        )
        game = partial(arrange, entry, {**cell.attack.options, **cell.attack.rules}, cell.threat)
        return judge(blank, game, partial(self.victim, cell), self.folder)

    def victim(self, cell: Cell) -> Victim:
        """The trained (or loaded) and deployed model of this cell's defence and repeat."""
        place = (cell.defense.label, cell.repeat, cell.curve)
        if place not in self._victims:
            self._victims[place] = self._make_victim(cell)
        self._victims.move_to_end(place)
        while len(self._victims) > _KEPT:
            self._victims.popitem(last=False)
        return self._victims[place]

    def _make_victim(self, cell: Cell) -> Victim:
        recipe, trainer = make_recipe(self.suite, cell.defense), self._trainer(cell.repeat)
        known: dict[str, Any] = {"trainer": trainer, "device": self.device, "recipe": recipe}
        test, train = self._test(cell), self.data.train
        if is_trained(recipe):
            trained = trainer(recipe, train)
            return Victim(trained.model, test, train=train, trained=trained, **known)
        network = make_network(recipe, train, trainer.seed).to(self.device).eval()
        held_out = divide(recipe, train, Streams(trainer.seed).child("training"))[1] if recipe.serve else None
        model = deploy(recipe, network, held_out, trainer.seed) if recipe.serve else Served(network)
        return Victim(model, test, train=train, trained=Trained(model), **{**known, "recipe": None})

    def _test(self, cell: Cell) -> Samples:
        test = self.data.test
        if cell.curve:
            # By class, since a data set may come sorted.
            count = min(self.suite.threat.curve_samples, len(test))
            return test.take(stratified(test.y, (count,), Streams(0).child("curve").generator())[0])
        return test

    def _trainer(self, repeat: int) -> Trainer:
        return Trainer(self.suite.seed + repeat, self.device, self.folder / "models", self.progress)


def set_threads(threads: int) -> None:
    """Give torch this many threads; the count is part of every key, because it changes the last bits."""
    torch.set_num_threads(threads)


def reordered(record: Record, cell: Cell, suite: Suite) -> Record:
    """A record of an earlier run at its place in this plan."""
    return replace(record, order=cell.order, suite=suite.name, defense=cell.defense.label, attack=cell.attack.label)
