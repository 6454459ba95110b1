"""What one process does: trains victims, plays cells, and remembers the victims that it has at hand."""

from __future__ import annotations

import itertools
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from robustsuite import scenarios
from robustsuite.core.canonical import plain
from robustsuite.core.deployed import Deployed
from robustsuite.core.errors import NotApplicableError, StorageError
from robustsuite.core.process_state import Aftermath, ProcessState, contained, undone
from robustsuite.core.samples import Samples, stratified
from robustsuite.core.splits import Splits
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.data.catalogue import load
from robustsuite.evaluation.environment import environment
from robustsuite.evaluation.judge import judged, recorded
from robustsuite.evaluation.records import RADIUS, Record
from robustsuite.evaluation.resolve import facts_of
from robustsuite.models.output_kind import as_logits
from robustsuite.plugins import provenance, registry
from robustsuite.runner.plan import Node
from robustsuite.runner.resolver import Cell, Resolver
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.play import craft
from robustsuite.scenarios.protocol import Scenario
from robustsuite.scenarios.victim import Victim
from robustsuite.storage.store import Store
from robustsuite.suite.recipes import is_trained
from robustsuite.suite.schema import Suite
from robustsuite.training.cache import Trainer
from robustsuite.training.fit import Progress, make_network
from robustsuite.training.jobs import repeat_seed
from robustsuite.training.memory import Memory

ARTEFACTS: Final = "artefacts"
_KEPT: Final = 4  # victims kept in memory by each worker


@dataclass(frozen=True)
class Done:
    """What a piece of work gave.

    Args:
        record: The judged cell; None for trainings and artefacts.
        failure: Why a training or an artefact failed, as a traceback; its cells cannot be played then.
        seconds: Wall time.
        notes: What went wrong on the way and was mended.
        refused: Why the disk refuses results; no work makes sense until that is mended.
        spoilt: What it left in its process that cannot be put back: nothing more should be done there.
    """

    record: Record | None = None
    failure: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    refused: str = ""
    spoilt: str = ""

    def unless_spoilt(self) -> Done:
        """The same; failed, where its process is spoilt and has to be used further."""
        return replace(self, record=None, failure=self.spoilt) if self.spoilt else self


@dataclass
class Worker:
    """Trains and plays for one run.

    Args:
        resolver: Makes what the suite names.
        folder: The run's folder.
        device: Where to work.
        cache: What runs share.
        splits: The data; loaded on first use where they are not given.
        progress: Told after each epoch.
        foreign: What strangers' code is loaded where it works, with digests; every record says so.
    """

    resolver: Resolver
    folder: Path
    device: str
    cache: Store
    splits: Splits | None = None
    progress: Progress | None = None
    foreign: Mapping[str, str] = field(default_factory=dict)
    _victims: OrderedDict[tuple[str, int, bool], Victim] = field(default_factory=OrderedDict, init=False, repr=False)
    _own: Store = field(init=False, repr=False)
    _state: ProcessState | None = field(default=None, init=False, repr=False)
    _memory: Memory = field(default_factory=Memory, init=False, repr=False)

    def __post_init__(self) -> None:
        self._own = Store(self.folder)

    @property
    def suite(self) -> Suite:
        """The suite."""
        return self.resolver.suite

    @property
    def data(self) -> Splits:
        """The data set, loaded once."""
        if self.splits is None:
            self.splits = load(self.suite.dataset, seed=self.suite.seed)
        return self.splits

    def perform(self, node: Node) -> Done:
        """Do one piece of work; whatever happens becomes data.

        Where strangers' code is loaded, what the work did to the process is undone, and its record says so.
        """
        if not self.foreign:
            return self._perform(node)
        with contained(self._process()) as found:
            done = self._perform(node)
            with suppress(Exception):  # what could not be made left nothing to be forgotten
                self._forget(node.cell)
        found.changed = tuple(dict.fromkeys((*undone(), *found.changed)))
        return _with_found(done, found, node.label)

    def _process(self) -> ProcessState:
        """How this process was before any work."""
        if self._state is None:
            self._state = ProcessState.taken(_tables())
        return self._state

    def _forget(self, cell: Cell) -> None:
        """Make anew for the next cell what a stranger's attack may have reached: models, parts of the suite, data."""
        if provenance.strange(self.resolver.game(cell).attack):
            self._victims.clear()
            self.resolver = Resolver(self.suite)
            if self.splits is not None and not all(part.intact() for part in self.splits.at_hand):
                self.splits = None

    def _perform(self, node: Node) -> Done:
        started = time.perf_counter()
        record, failure, refused = None, "", ""
        try:
            if node.kind == "cell":
                record = self.play(node.cell)
            else:
                self._prepare(node)
        except NotApplicableError:
            pass  # its cells say so
        except KeyboardInterrupt:
            raise
        except StorageError as error:
            refused = str(error)
        except BaseException:  # a plug-in may even ask to exit
            failure = traceback.format_exc(limit=-8)
        return Done(record, failure, time.perf_counter() - started, self._notes(), refused)

    def _notes(self) -> tuple[str, ...]:
        return (*self._own.told(), *self.cache.told())

    def _prepare(self, node: Node) -> None:
        cell, train = node.cell, self.data.train
        recipe, trainer = self.resolver.recipe(cell.defense), self._trainer(cell)
        if node.kind == "training":
            trainer.fit(recipe, train)
        elif node.kind == "job":
            job = tuple(self._scenario(cell).jobs(self._case(cell)))[node.number]
            replace(trainer, seed=job.seed).fit(job.recipe, job.samples)
        else:
            artefact = self._artefact(cell, node.number)
            for job in self._scenario(cell).jobs_after(self._case(cell), artefact) if node.kind != "artefact" else ():
                replace(trainer, seed=job.seed).fit(job.recipe, job.samples)

    def _scenario(self, cell: Cell) -> Scenario[Any, Any]:
        return self.resolver.game(cell).scenario

    def _case(self, cell: Cell) -> Case:
        recipe = self.resolver.recipe(cell.defense)
        seed = repeat_seed(self.suite.seed, cell.repeat)
        return Case(self.data.train, recipe if is_trained(recipe) else None, self.data.part, seed, self._test(cell))

    def _artefact(self, cell: Cell, number: int) -> Any:
        """What this attack makes of data that no victim has a share in, crafted once where it can be kept."""
        _, attack, scenario = self.resolver.game(cell)
        kept = self.cache.get(ARTEFACTS, cell.artefacts[number]) if cell.shared else None
        if kept is not None:
            return scenario.unpack(load_tensors(kept.payload), kept.facts)
        case, trainer = self._case(cell), self._trainer(cell)
        views = scenario.shared_views(case, lambda job: trainer.job(job).model.network)
        made = craft(attack, next(itertools.islice(views, number, None)), seed=case.seed, trial=number)
        packed = scenario.pack(made) if cell.shared else None
        if packed is not None:
            tensors, facts = packed
            # Cloned, because safetensors refuses tensors that share memory.
            payload = save_tensors({name: value.contiguous().clone() for name, value in tensors.items()})
            self.cache.offer(ARTEFACTS, cell.artefacts[number], facts, payload)
        return made

    def blank(self, cell: Cell) -> Record:
        """The record of a cell with everything that is known before it is played."""
        entry = cell.attack.entry
        recipe = self.resolver.recipe(cell.defense)
        beside = {"foreign": dict(self.foreign)} if self.foreign else {}
        return Record(
            key=cell.key,
            order=cell.order,
            suite=self.suite.name,
            dataset=self.data.name,
            model=str(getattr(recipe.build, "factory", None) or getattr(recipe.build, "name", "")),
            defense=cell.defense.label,
            attack=cell.attack.label,
            scenario=entry.scenario,
            knowledge="" if entry.access == "none" else entry.access,
            means=entry.game.declared(),
            sweep=RADIUS if cell.curve else "",
            variant=cell.variant,
            repeat=cell.repeat,
            seed=repeat_seed(self.suite.seed, cell.repeat),
            recipe=plain(recipe.description()),
            environment={**environment(self.device, self.suite.threads), **beside},
            data=self._judged(cell),
        )

    def _judged(self, cell: Cell) -> dict[str, Any]:
        """What the record says of the samples that are judged."""
        path, test = self.suite.dataset.path, self._test(cell)
        known: dict[str, Any] = {"name": self.data.name, **({} if path is None else {"path": path})}
        if test.class_names and cell.attack.label == "none":
            known["class_names"] = list(test.class_names)
        return {**known, "digest": test.digest(), "n": len(test), "seed": self.suite.seed}

    def play(self, cell: Cell) -> Record:
        """Play one cell; whatever happens becomes its record."""
        game = self.resolver.game(cell)
        blank = replace(self.blank(cell), **facts_of(game))
        with recorded(blank) as sheet:
            victim = self.victim(cell)
            game.scenario.require(victim)
            artefacts = [self._artefact(cell, number) for number in range(len(cell.artefacts))]
            sheet.record = judged(blank, game, victim, self.folder, artefacts)
        return sheet.record

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
        recipe, trainer = self.resolver.recipe(cell.defense), self._trainer(cell)
        test, train = self._test(cell), self.data.train
        known: dict[str, Any] = {"trainer": trainer, "device": self.device, "part": self.data.part}
        known |= {"train": train, "seed": trainer.seed}
        if is_trained(recipe):
            trained = trainer(recipe, train)
            return Victim(self._read(trained.model), test, recipe=recipe, trained=trained, **known)
        network = make_network(recipe, train, trainer.seed).to(self.device).eval()
        trained = trainer.deploy(recipe, network, train)
        return Victim(self._read(trained.model), test, trained=trained, **known)

    def _read(self, model: Deployed) -> Deployed:
        """What is deployed, by logits; told by the whole test set, so that points of a curve read it alike."""
        return as_logits(model, self.data.test, self.device)

    def _test(self, cell: Cell) -> Samples:
        test = self.data.test
        if cell.curve:
            # By class, since a data set may come sorted.
            count = min(self.suite.threat.curve_samples, len(test))
            return test.take(stratified(test.y, (count,), Streams(0).child("curve").generator())[0])
        return test

    def _trainer(self, cell: Cell) -> Trainer:
        seed, stores = repeat_seed(self.suite.seed, cell.repeat), (self._own, self.cache)
        return Trainer(seed, self.device, stores, self.progress, self.data.part, self._memory)


def _with_found(done: Done, found: Aftermath, label: str) -> Done:
    """What was done, with what it did to its process, in the record too."""
    if not found:
        return done
    record = done.record
    if record is not None:
        flags = dict.fromkeys((*record.flags, Suspicion.CHANGED_PROCESS.value))
        message = "; ".join(part for part in (record.message, str(found)) if part)
        record = replace(record, flags=tuple(flags), message=message)
    spoilt = f"{label}: {found}" if found.lasting else ""
    return replace(done, record=record, notes=(*done.notes, f"{label}: {found}"), spoilt=spoilt)


def _tables() -> Iterator[tuple[str, MutableMapping[Any, Any]]]:
    """What plug-ins are registered in, and the games."""
    for title, module in (("what is registered", registry), ("the games", scenarios)):
        for name, value in vars(module).items():
            if name.startswith("__"):
                continue
            held = vars(value).values() if isinstance(value, registry.Registry) else (value,)
            yield from ((title, table) for table in held if type(table) is dict)


def set_threads(threads: int) -> None:
    """Give torch this many threads; the count is part of every key, because it changes the last bits."""
    torch.set_num_threads(threads)


def placed(record: Record, cell: Cell, suite: Suite) -> Record:
    """A record of this cell's content, made for a cell of other labels or in another run, at its place in this plan."""
    return replace(
        record,
        key=cell.key,
        order=cell.order,
        suite=suite.name,
        defense=cell.defense.label,
        attack=cell.attack.label,
        sweep=RADIUS if cell.curve else "",
        variant=cell.variant,
        repeat=cell.repeat,
    )
