"""The plan of a suite: which trainings and which cells, in which order, each with a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from robustsuite.core.ball import Threat
from robustsuite.core.canonical import digest, plain
from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.core.samples import Samples
from robustsuite.core.splits import RESERVED, Splits
from robustsuite.data.catalogue import load
from robustsuite.evaluation.resolve import Game
from robustsuite.models.build import ModelSpec
from robustsuite.plugins import provenance
from robustsuite.runner.feasible import infeasible
from robustsuite.runner.precision import settled_suite
from robustsuite.runner.resolver import Cell, Resolver
from robustsuite.scenarios.case import Case
from robustsuite.suite.plugin_options import PluginUse
from robustsuite.suite.problems import Problem, locate
from robustsuite.suite.recipes import is_trained, make_threat
from robustsuite.suite.schema import Suite
from robustsuite.training.built import built_digest
from robustsuite.training.cache import Trainer
from robustsuite.training.jobs import ADVERSARYS, repeat_seed
from robustsuite.training.own import OwnTraining
from robustsuite.training.recipe import Recipe

KINDS: Final = ("training", "job", "artefact", "retraining", "cell")
CLEAN: Final = PluginUse("attack", "none", label="none")
_CURVE: Final = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)  # multiples of the radius at which success is measured besides


@dataclass(frozen=True)
class Node:
    """A piece of work whose result has a key.

    Args:
        key: Digest of everything that determines the result.
        kind: One of `KINDS`.
        label: For people.
        cell: The first cell that needs it; it says what is to be done.
        needs: Keys of what has to be there first.
        number: Which of the cell's jobs or artefacts it is, from 0.
    """

    key: str
    kind: str
    label: str
    cell: Cell
    needs: tuple[str, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do, known before it starts.

    Args:
        resolver: Makes what the suite names, its trainings in a precision that the device has units for.
        device: Where it runs.
        cells: In table order.
        nodes: Trainings, crafted artefacts and cells, each after what it needs.
        sizes: Numbers of training and of test samples.
        notes: By label of a defence, what its records should say of its training.
    """

    resolver: Resolver
    device: str
    cells: tuple[Cell, ...]
    nodes: tuple[Node, ...]
    sizes: tuple[int, int]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def suite(self) -> Suite:
        """The resolved suite."""
        return self.resolver.suite

    def within(self, cells: Iterable[Cell]) -> tuple[Node, ...]:
        """The nodes that these cells need, and those cells; each after what it needs."""
        wanted = {cell.content for cell in cells}
        for node in reversed(self.nodes):
            if node.key in wanted:
                wanted.update(node.needs)
        return tuple(node for node in self.nodes if node.key in wanted)

    def parts(self) -> tuple[Any, ...]:
        """Every recipe and every attack that takes part."""
        attacks = (self.resolver.game(cell).attack for cell in self.cells)
        return (*map(self.resolver.recipe, self.suite.defenses), *attacks)

    def describe(self) -> str:
        """A few lines for people."""
        suite = self.suite
        count = Counter(node.kind for node in self.nodes)
        attacks = list(dict.fromkeys(c.attack.label for c in self.cells if c.attack.label != "none"))
        points = sum(cell.curve for cell in self.cells)
        table = f"{plural(len(suite.defenses), 'defence')} x {plural(len(attacks), 'attack')} ({', '.join(attacks)})"
        curves = f", {plural(points, 'point')} of curves among them" if points else ""
        retrained = count["retraining"] + count["job"]
        notes = "".join(f"\n  {text}" for text in (*_swept(suite), *(f"{k}: {note}" for k, note in self.notes.items())))
        return (
            f"suite {suite.name}: {suite.dataset.name}, {trained_as(suite)}, seed {suite.seed}, "
            f"{plural(suite.repeats, 'repeat')}\n"
            f"  {table}: {plural(len(self.cells), 'cell')}{curves}\n"
            f"  {plural(count['training'], 'training')} of victims, {retrained} beside them, on {self.device}, "
            f"{plural(suite.threads, 'thread')} a worker{notes}"
        )


def _swept(suite: Suite) -> Iterator[str]:
    """A line for each sweep: over what, how many variants, and at which ball defences train that name none."""
    variants: dict[str, list[str]] = {}
    uses = [(use.variant, use.label) for use in suite.defenses]
    for variant, label in (*uses, *((use.variant, use.label) for use in suite.attacks)):
        if variant:
            variants.setdefault(f"{variant['of']} over {' and '.join(variant['at'])}", []).append(label)
    for sweep, labels in variants.items():
        yield f"sweep of {sweep}: {plural(len(labels), 'variant')}"
    ball = suite.threat.ball()
    if ball is not None and any(use.ball not in (None, ball) for use in suite.attacks):
        yield f"defences without a ball of their own train at {ball.norm} {ball.radius:g}, the suite's own"


def plural(count: int, noun: str) -> str:
    """A count with its noun, such as `2 cells`.

    Example:
        >>> plural(1, "cell"), plural(0, "cell")
        ('1 cell', '0 cells')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def plan(suite: Suite, device: str, splits: Splits | None = None) -> Plan:
    """Lay out every cell of a suite and what it needs; building each recipe and each game refuses what cannot run.

    Args:
        suite: A validated suite.
        device: Where it will run.
        splits: The data, where they are already loaded.

    Raises:
        RequestError: Data that are not there, defences that do not compose, options that cannot be, cells that these
            data do not allow; all that is wrong at once, each with its place in the suite.
    """
    splits = splits if splits is not None else read_data(suite)
    suite, notes = settled_suite(suite, device)
    resolver, blanks = Resolver(suite), list(_blanks(suite))
    recipes = [(defense, resolver.recipe(defense)) for defense in suite.defenses]
    firsts = {cell.attack.label: cell for cell in reversed(blanks) if not cell.curve}
    games = [resolver.game(firsts[use.label]) for use in suite.attacks]
    origin = suite.origin
    problems = origin.sift(origin.as_written(infeasible(suite, splits, recipes, games)))
    if problems:
        raise suite.refusal(problems)
    layout = _Layout(resolver, device, splits)
    for cell in blanks:
        layout.add(cell)
    trained = {defense.label for defense, recipe in recipes if is_trained(recipe)}
    return replace(layout.plan(), notes={label: note for label, note in notes.items() if label in trained})


def read_data(suite: Suite) -> Splits:
    """The suite's data, cut to size.

    Raises:
        RequestError: They are not there or are not what they are said to be, with the place in the suite.
    """
    try:
        return load(suite.dataset, seed=suite.seed)
    except UntrustedFileError:
        raise
    except RequestError as error:
        path = ("dataset", *locate(error.name, asdict(suite.dataset)))
        raise suite.refusal([Problem(path, str(error))]) from error


def _blanks(suite: Suite) -> Iterator[Cell]:
    """Every cell, before anything is known of its result."""
    for repeat in range(suite.repeats):
        for defense in suite.defenses:
            for attack, threat, curve in _games(suite):
                yield Cell("", "", 0, defense, attack, repeat, threat, "", curve)


def _games(suite: Suite) -> Iterator[tuple[PluginUse, Threat | None, bool]]:
    """Attack, threat model, and whether it is a point of a curve."""
    ball = suite.threat.ball()
    for attack in (CLEAN, *suite.attacks):
        yield attack, make_threat(suite, attack=attack), False
    if ball is None or suite.threat.curve_samples == 0:
        return
    for radius in suite.threat.curve or tuple(share * ball.radius for share in _CURVE):
        for attack in suite.attacks:
            entry = attack.entry
            if attack.ball is not None:
                continue  # its own, and where there are several those are its curve, on all samples
            if entry.game.has_curve(entry.access, minimum_norm=entry.minimum_norm):
                yield attack, make_threat(suite, radius), True


class _Layout:
    """Collects cells with the nodes that they need."""

    def __init__(self, resolver: Resolver, device: str, splits: Splits) -> None:
        self._resolver, self._suite, self._device, self._splits = resolver, resolver.suite, device, splits
        self._train = splits.train
        self._sizes = len(splits.train), len(splits.test)
        self._data = digest([splits.train.digest(), splits.test.digest()])
        self._cells: list[tuple[Cell, tuple[str, ...]]] = []
        self._nodes: dict[str, Node] = {}
        self._keys: dict[tuple[str, str, int], str] = {}
        self._built: dict[tuple[str, int], str] = {}

    def plan(self) -> Plan:
        """Cells in table order, nodes after what they need."""
        position = {d.label: i for i, d in enumerate(self._suite.defenses)}
        self._cells.sort(key=lambda pair: (position[pair[0].defense.label], pair[0].curve))
        cells = []
        for order, (cell, needs) in enumerate(self._cells):
            placed = replace(cell, order=order)
            cells.append(placed)
            self._node(Node(placed.content, "cell", _told(placed), placed, needs))
        return Plan(self._resolver, self._device, tuple(cells), tuple(self._nodes.values()), self._sizes)

    def add(self, blank: Cell) -> None:
        """One cell, and what is trained and crafted before it is played."""
        game, recipe = self._resolver.game(blank), self._resolver.recipe(blank.defense)
        seed = self._seed(blank)
        trainer = Trainer(seed, self._device, part=self._splits.part)
        trained = is_trained(recipe)
        training = self._training(trainer, recipe, self._train) if trained else ""
        cell = replace(blank, training=training)
        case = Case(self._train, recipe if trained else None, self._splits.part, seed, self._splits.test)
        jobs = tuple(game.scenario.jobs(case))
        keys = [self._training(replace(trainer, seed=job.seed), job.recipe, job.samples) for job in jobs]
        # Jobs may be trained on parts that the game needs for some adversaries only, and so does not declare.
        content = digest([self._parts(cell, recipe, game), keys])
        cell = replace(cell, content=content, key=digest([content, cell.defense.label, cell.attack.label, cell.repeat]))
        needs = []
        if trained:
            needs.append(self._node(Node(training, "training", f"training {_row(cell)}", cell)))
        cell = replace(cell, shared=all(map(_is_shared, (recipe, *(job.recipe for job in jobs)))))
        for number, (job, key) in enumerate(zip(jobs, keys, strict=True)):
            label = f"training {'an' if job.role[0] in 'aeiou' else 'a'} {job.role} for {_told(cell)}"
            needs.append(self._node(Node(key, "job", label, cell, number=number)))
        if game.scenario.shared and trained:
            given = tuple(key for job, key in zip(jobs, keys, strict=True) if job.role in ADVERSARYS)
            made = tuple(self._artefact(cell, game, trial, given) for trial in range(game.scenario.trials))
            cell = replace(cell, artefacts=made)
            for trial, artefact in enumerate(made):
                needs.append(artefact)
                self._node(Node(artefact, "artefact", f"crafting {cell.attack.label}{_nth(trial)}", cell, given, trial))
                needs.append(self._retraining(cell, recipe, trial))
        self._cells.append((cell, tuple(dict.fromkeys(needs))))

    def _training(self, trainer: Trainer, recipe: Recipe, samples: Samples) -> str:
        """The key of a training, which a user's network is built for, so once in a plan."""
        place = recipe.training_key(), samples.digest(), trainer.seed
        if place not in self._keys:
            self._keys[place] = trainer.key(recipe, samples, self._suite.threads)
        return self._keys[place]

    def _untrained(self, recipe: Recipe, seed: int) -> str:
        """The digest of a network that is used as it is built."""
        place = recipe.training_key(), seed
        if place not in self._built:
            train = self._train
            self._built[place] = built_digest(recipe, train.classes, train.shape, train.bounds, seed)
        return self._built[place]

    def _artefact(self, cell: Cell, game: Game, trial: int, given: tuple[str, ...]) -> str:
        """Key of what the attack makes of the training data, and of networks that it is given, alone."""
        parts = [plain(game.attack), game.scenario.name, plain(game.scenario), trial, *given]
        place = [self._suite.threads, self._device.partition(":")[0]]
        known = [self._train.digest(), *self._digests((*game.scenario.needs, *game.scenario.may_use))]
        code = self._code(game.attack, game.scenario)
        return digest(["artefact", *known, parts, self._seed(cell), place, code])

    def _retraining(self, cell: Cell, recipe: Recipe, trial: int) -> str:
        """The judge's training on an artefact that all defences share."""
        artefact = cell.artefacts[trial]
        key = digest(["retraining", artefact, recipe.training_key(), cell.training])
        return self._node(Node(key, "retraining", f"training for {_told(cell)}{_nth(trial)}", cell, (artefact,), trial))

    def _digests(self, names: Iterable[str]) -> list[str]:
        """What parts of the data set beside training and test samples hold; empty for a part that is empty."""
        found = (self._splits.part(name) for name in names if name in RESERVED)
        return ["" if samples is None else samples.digest() for samples in found]

    def _parts(self, cell: Cell, recipe: Recipe, game: Game) -> dict[str, Any]:
        return {
            "data": [self._data, *self._digests((*recipe.serves_with, *game.scenario.needs, *game.scenario.may_use))],
            "recipe": recipe.description(),
            "training": cell.training,
            "weights": recipe.build.weights_digest() if isinstance(recipe.build, ModelSpec) else "",
            "network": "" if cell.training else self._untrained(recipe, self._seed(cell)),
            "attack": plain(game.attack),
            "scenario": {"is": game.scenario.name, **plain(game.scenario)},
            "seed": self._seed(cell),
            "threads": self._suite.threads,
            "device": self._device.partition(":")[0],
            "samples": self._suite.threat.curve_samples if cell.curve else 0,
            "code": self._code(game.attack, game.scenario, recipe, game.scenario.starts(game.attack)),
        }

    def _seed(self, cell: Cell) -> int:
        return repeat_seed(self._suite.seed, cell.repeat)

    @staticmethod
    def _code(*parts: Any) -> list[Any]:
        return [provenance.code(), provenance.sources(*parts)]

    def _node(self, node: Node) -> str:
        self._nodes.setdefault(node.key, node)
        return node.key


def trained_as(suite: Suite) -> str:
    """What the suite calls its network, and the user's function where one trains it."""
    own = suite.training
    if not isinstance(own, OwnTraining):
        return suite.model.label
    kept = "" if own.is_kept else " (cache: false: what this folder has finished stays, and no other run shares it)"
    return f"{suite.model.label or 'a network'} trained by {own.name}{kept}"


def _is_shared(recipe: Recipe) -> bool:
    """Whether what comes of this recipe may serve another run."""
    return recipe.own is None or recipe.own.is_kept


def _row(cell: Cell) -> str:
    return cell.defense.label + _nth(cell.repeat)


def _nth(number: int) -> str:
    return f" #{number}" if number else ""


def _told(cell: Cell) -> str:
    radius = f" at {cell.threat.ball.radius:g}" if cell.curve and cell.threat is not None else ""
    attack = "clean accuracy" if cell.attack.label == "none" else cell.attack.label
    return f"{_row(cell)} x {attack}{radius}"
