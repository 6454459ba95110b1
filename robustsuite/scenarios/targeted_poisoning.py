"""Targeted poisoning: change some training samples so that one chosen test sample is misread after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.ball import Ball, poison_budget
from robustsuite.core.errors import BudgetError
from robustsuite.core.intervals import rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import MetricSpec
from robustsuite.core.payloads import Images, Scores
from robustsuite.core.samples import Samples, spread
from robustsuite.core.streams import Streams
from robustsuite.models.build import ModelSpec
from robustsuite.plugins.registry import register
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.poisoning import (
    Poison,
    changed,
    checked,
    drop,
    pack,
    refuse_no_budget,
    refuse_too_many,
    suspects,
    unpack,
)
from robustsuite.scenarios.protocol import Scenario, Terms
from robustsuite.scenarios.victim import Victim
from robustsuite.training.cache import Trainer
from robustsuite.training.jobs import Job
from robustsuite.training.recipe import Recipe

METRICS: Final = {
    "target_hit_rate": MetricSpec(
        words="targets misread as wanted", better="lower", headline=True, outcome="hit", counted="counted"
    ),
    "clean_accuracy": MetricSpec(words="clean accuracy", better="higher", untouched=True),
    "accuracy_drop": MetricSpec(words="accuracy drop", unit="rate difference", better="lower"),
    "poisoned": MetricSpec(words="poisoned samples", unit="count"),
}


@dataclass(frozen=True, eq=False)
class TargetedSet:
    """What this poisoner may touch.

    Args:
        samples: A copy of the clean training set.
        budget: How many rows may be changed.
        ball: How far a changed input may lie from what it was; labels stay as they are.
        target: The test input that should be misread `(1, …)`.
        wanted: As which class.
        surrogate: A network in eval mode that was trained on the clean set from another seed, a copy.
    """

    samples: Samples
    budget: int
    ball: Ball
    target: Tensor
    wanted: int
    surrogate: nn.Module


@register.scenario("targeted-poisoning")
@dataclass(frozen=True, kw_only=True)
class TargetedPoisoning(Scenario[TargetedSet, Poison]):
    """Rules and judge of poisoning that is aimed at single test samples, whose labels nobody changes.

    The judge chooses the targets, of all classes alike, and for each another class that it should be read as. One
    artefact is crafted for every target, with a surrogate that was trained on the clean set; the victim's recipe is
    trained on each poisoned set. Only targets that the clean twin reads rightly count. Accuracy and its drop are those
    of the training that lost most.

    Args:
        fraction: Share of the training set that may be changed, in [0, 1].
        targets: How many test samples are aimed at, each with a training of its own, at least 1.
        norm: Of the ball around a changed input.
        radius: Of that ball, in raw units, at least 0.
        surrogate: Name of the surrogate's network; None for the victim's own.

    References:
        Shafahi et al., NeurIPS 2018, arXiv:1804.00792; Schwarzschild et al., ICML 2021, arXiv:2006.12557.
    """

    accesses: ClassVar[tuple[str, ...]] = ("surrogate",)
    options: ClassVar[tuple[str, ...]] = ("fraction", "targets", "norm", "radius", "surrogate")
    sweeps: ClassVar[tuple[str, ...]] = ("fraction", "radius")
    needs: ClassVar[tuple[str, ...]] = ("recipe", "train", "trainer")
    shared: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    quick: ClassVar[Mapping[str, Any]] = {"targets": 2, "fraction": 0.05}

    fraction: float = 0.01
    targets: int = 4
    norm: str = "linf"
    radius: float = 0.1
    surrogate: str | None = None
    access: str = field(default="surrogate", repr=False)

    def __post_init__(self) -> None:
        checks.real("fraction", self.fraction, low=0.0, high=1.0)
        checks.integer("targets", self.targets, low=1)
        object.__setattr__(self, "radius", checks.fraction("radius", self.radius))
        Ball(self.norm, self.radius)

    def check(self, terms: Terms) -> None:
        """Refuse a fraction that changes nothing."""
        refuse_no_budget(self.fraction, terms)

    @property
    def trials(self) -> int:
        """One view a target."""
        return self.targets

    def jobs(self, case: Case) -> Iterator[Job]:
        """The surrogate: the victim's settings without its defences, or another network by the same settings."""
        if case.recipe is not None:
            build = case.recipe.build if self.surrogate is None else ModelSpec(name=self.surrogate)
            yield Job.of("surrogate", Recipe(build=build, training=case.recipe.training), case.train, case.seed)

    def views(self, victim: Victim) -> Iterator[TargetedSet]:
        """One view a target."""
        trainer: Trainer = victim.need("trainer", "poisoning is judged by a new training")
        victim.need("recipe", "poisoning is judged by a new training")
        yield from self.shared_views(victim.case(), lambda job: trainer.job(job).model.network)

    def shared_views(self, case: Case, train: Callable[[Job], nn.Module]) -> Iterator[TargetedSet]:
        """The same for every defence of one recipe."""
        test, (job,) = self._aimed(case), self.jobs(case)
        budget = poison_budget(self.fraction, len(case.train))
        ball = Ball(self.norm, self.radius, case.train.bounds)
        for row, wanted in zip(range(len(test)), self._wanted(test), strict=True):
            target = test.inputs(slice(row, row + 1))
            yield TargetedSet(case.train, budget, ball, target, wanted, train(job).eval())

    def jobs_after(self, case: Case, artefact: Poison) -> Iterator[Job]:
        """The victim's recipe on the poisoned set."""
        if case.recipe is not None:
            poisoned = self._apply(case.train, checked(artefact, case.train))
            yield Job.of("poisoned", case.recipe, poisoned, case.seed)

    def pack(self, artefact: Poison) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Rows, inputs and labels as tensors."""
        return pack(artefact)

    def unpack(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Poison:
        """The poison again."""
        return unpack(tensors, facts)

    def score(self, victim: Victim, moves: Iterable[tuple[TargetedSet, Poison]]) -> Metrics:
        """Check each budget, train on each poisoned set, and see how the target is read."""
        case, trainer = victim.case(), victim.need("trainer", "")
        test = self._aimed(case)
        before = torch.isin(victim.test.ids, test.ids) & victim.correct
        recipe: Recipe = victim.need("recipe", "")
        hits, count, worst, facts, flags = list[bool](), 0, None, [], dict[str, None]()
        scored: list[Scores] = []
        for (view, artefact), row in zip(moves, range(len(test)), strict=True):
            poison = checked(artefact, case.train)
            poisoned = self._apply(case.train, poison)
            trained = trainer.job(Job.of("poisoned", recipe, poisoned, case.seed))
            twin = Victim(trained.model, victim.test, device=victim.device)
            place = (victim.test.ids == test.ids[row]).nonzero()[0, 0]
            hits.append(bool(twin.clean.prediction[place] == view.wanted) and not bool(twin.clean.rejected[place]))
            count = max(count, int(changed(case.train, poisoned, poison.index).sum()))
            worst = twin.correct if worst is None or twin.correct.sum() < worst.sum() else worst
            facts.append(dict(trained.facts))
            flags |= dict.fromkeys(trained.flags)
            scored += suspects(trained, case.train.ids[poison.index]) if row == 0 else ()
        hit, counted = torch.tensor(hits), torch.isin(test.ids, victim.test.ids[before])
        values = {"target_hit_rate": rate(hit[counted], "lower")} if counted.any() else {}
        if worst is not None:
            values |= {"clean_accuracy": rate(worst, "higher"), "accuracy_drop": drop(victim.correct, worst)}
        values["poisoned"] = Metric(float(count), len(case.train), unit="count")
        columns = {"id": test.ids, "label": test.y, "wanted": torch.tensor(self._wanted(test))}
        columns |= {"hit": hit, "counted": counted}
        captions = tuple(f"{y} as {w}" for y, w in zip(test.y.tolist(), columns["wanted"].tolist(), strict=True))
        rows = (("target", test.inputs().float()),)
        shown = Images(title="targets", rows=rows, captions=captions, marked=tuple(hits))
        payloads = (*((shown,) if len(test.shape) == 3 else ()), *scored)
        return Metrics(values, tuple(flags), per_sample=columns, payloads=payloads, facts={"poisoned": facts})

    def _aimed(self, case: Case) -> Samples:
        """The targets: of all classes alike, chosen by data and seed."""
        if case.test is None or len(case.test) < self.targets:
            there = f"at most {0 if case.test is None else len(case.test)} targets, as many as there are test samples"
            raise checks.fail(there, "targets", self.targets, "ask for fewer")
        order = spread(case.test.y, Streams(case.seed).child("targets").generator())
        return case.test.take(order[: self.targets].sort().values)

    def _wanted(self, test: Samples) -> list[int]:
        """For each target a class other than its own, keyed by its id."""
        away = 1 + Streams(0).child("wanted").integers(test.ids, test.classes - 1)
        return ((test.y + away) % test.classes).tolist()

    def _apply(self, train: Samples, poison: Poison) -> Samples:
        """The poisoned set of a poison that was checked.

        Raises:
            BudgetError: More rows than the budget allows, inputs beyond the ball, other labels, or a trigger.
        """
        refuse_too_many(poison, len(train), self.fraction)
        x = train.inputs(poison.index)
        outside = ~Ball(self.norm, self.radius, train.bounds).contains(poison.x.to(x.dtype), x)
        if outside.any():
            raise BudgetError(
                f"expected inputs within {self.norm} {self.radius:g} of what they were, got {int(outside.sum())} "
                f"beyond; project them onto view.ball"
            )
        if poison.trigger is not None or not torch.equal(poison.y, train.y[poison.index]):
            raise BudgetError("expected the labels as they were and no trigger, got others; change inputs alone")
        return train.with_rows(poison.index, poison.x, poison.y)
