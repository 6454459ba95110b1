"""Poisoning and backdoors: change a share of the training set, and be judged by a new training on it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from robustsuite import checks
from robustsuite.data.samples import Samples
from robustsuite.errors import BudgetError
from robustsuite.paired import paired_interval
from robustsuite.protocol import Attack, Metric, Metrics, Scenario, Terms, Trained, Victim
from robustsuite.scenarios.evasion import correct
from robustsuite.statistics import rate
from robustsuite.threat import Threat, poison_budget
from robustsuite.training.recipe import Recipe

Trigger = Callable[[Tensor], Tensor]
"""Raw inputs `(n, …)` to inputs that carry the trigger."""

_GALLERY: Final = 8


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a poisoner may touch.

    Args:
        samples: The clean training set; not to be written to.
        budget: How many rows may be changed.
    """

    samples: Samples
    budget: int


@dataclass(frozen=True, eq=False)
class Poison:
    """What a poisoner hands in.

    Args:
        index: Rows that were changed, `(k,)`, without repeats, k at most the budget.
        x: Their new inputs `(k, …)`, floating, in raw units.
        y: Their new labels `(k,)`.
        trigger: What turns an input into one that should be misread; None for poisoning without a trigger.
        target: The class that a triggered input should be read as; None without a trigger.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    trigger: Trigger | None = None
    target: int | None = None


@dataclass(frozen=True, kw_only=True)
class Poisoning(Scenario[TrainingSet, Poison]):
    """Rules and judge of the poisoning game.

    The judge counts the changed rows as integers, builds the poisoned set itself from the rows handed in, trains by the
    victim's recipe, and measures. A backdoor's success counts only samples whose label is not the target, beside the
    trigger's effect on a clean twin of the victim.

    Args:
        fraction: Share of the training set that may be changed, in [0, 1].
    """

    name: ClassVar[str] = "poisoning"
    accesses: ClassVar[tuple[str, ...]] = ("training-set",)
    options: ClassVar[tuple[str, ...]] = ("fraction",)
    needs: ClassVar[tuple[str, ...]] = ("recipe", "train", "trainer")

    fraction: float = 0.01
    access: str = field(default="training-set", repr=False)

    def __post_init__(self) -> None:
        checks.real("fraction", self.fraction, low=0.0, high=1.0)

    @classmethod
    def arrange(cls, access: str, threat: Threat | None, options: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """The game with the suite's fraction."""
        return cls(access=access, **options)

    def check(self, terms: Terms) -> None:
        """Refuse a fraction that changes nothing."""
        if terms.training and poison_budget(self.fraction, terms.training) == 0:
            raise checks.fail(
                f"a fraction of {terms.training} training samples above 0", "fraction", self.fraction, "raise it"
            )

    def views(self, victim: Victim) -> Iterator[TrainingSet]:
        """One view: the training set and an integer budget."""
        train: Samples = victim.need("train", "poisoning changes the training set")
        victim.need("recipe", "poisoning is judged by a new training")
        victim.need("trainer", "poisoning is judged by a new training")
        yield self.data_view(train)

    def data_view(self, train: Samples) -> TrainingSet:
        """The training set and an integer budget: the same for every defence."""
        return TrainingSet(train, poison_budget(self.fraction, len(train)))

    def trainings(
        self, train: Samples, recipe: Recipe | None, artefact: Poison | None
    ) -> Iterator[tuple[Recipe, Samples]]:
        """The victim's recipe on the poisoned set."""
        if recipe is not None and artefact is not None:
            yield recipe, _apply(self.data_view(train), artefact)

    def pack(self, artefact: Poison) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Rows, inputs and labels as tensors; a trigger that is a dataclass of plain values by its name and fields."""
        _poison(artefact)
        trigger: Any = artefact.trigger
        facts: dict[str, Any] = {"target": artefact.target, "trigger": None}
        if trigger is not None:
            if not dataclasses.is_dataclass(trigger):
                return None
            fields = {f.name: getattr(trigger, f.name) for f in dataclasses.fields(trigger)}
            if not all(value is None or isinstance(value, (bool, int, float, str)) for value in fields.values()):
                return None
            facts["trigger"] = [type(trigger).__name__, fields]
        return {"index": artefact.index, "x": artefact.x, "y": artefact.y}, facts

    def unpack(
        self, attack: Attack[TrainingSet, Poison], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> Poison | None:
        """The poison again; its trigger is looked up only beside the attack that made it."""
        trigger: Any = None
        if facts["trigger"] is not None:
            name, fields = facts["trigger"]
            kind = getattr(sys.modules[type(attack).__module__], name, None)
            if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
                return None
            trigger = kind(**fields)
        return Poison(tensors["index"], tensors["x"], tensors["y"], trigger, facts["target"])

    def score(self, victim: Victim, moves: Iterable[tuple[TrainingSet, Poison]]) -> Metrics:
        """Check the budget, train on the poisoned set, and compare with the clean twin."""
        (view, poison), *_ = moves
        poisoned = _apply(view, poison)
        trained: Trained = victim.need("trainer", "")(victim.need("recipe", ""), poisoned)
        twin = Victim(trained.model, victim.test, device=victim.device)
        right, before = correct(twin), correct(victim)
        values: dict[str, Metric] = {}
        columns = {"id": victim.test.ids, "label": victim.test.y, "clean_correct": before, "poisoned_correct": right}
        artefacts: dict[str, Tensor] = {}
        if poison.trigger is not None and poison.target is not None:
            seen, figures = _backdoor(twin, victim, poison)
            values.update(figures)
            columns["hit"], columns["counted"] = seen, victim.test.y != poison.target
            artefacts = _gallery(victim.test, poison)
        values["accuracy_drop"] = _drop(before, right)
        values["clean_accuracy"] = rate(right, "higher")
        values["recall_worst_class"] = _worst_recall(victim.test.y, right)
        values["poisoned"] = Metric(float(len(poison.index)), len(view.samples), unit="count")
        flags = tuple(f for f in trained.flags) + (("few-samples",) if len(victim.test) < 100 else ())
        return Metrics(values, flags, per_sample=columns, artefacts=artefacts)


def _poison(artefact: Any) -> None:
    if not isinstance(artefact, Poison):
        got = type(artefact).__name__
        raise BudgetError(f"expected a Poison, got artefact={got}; return the rows to change, with inputs and labels")


def _apply(view: TrainingSet, poison: Poison) -> Samples:
    """The poisoned set, after every budget check.

    Raises:
        BudgetError: No poison, too many rows, rows twice or out of range, inputs that are out of bounds or not finite.
    """
    _poison(poison)
    index, n = poison.index, len(view.samples)
    if len(index) > view.budget:
        raise BudgetError(
            f"expected at most {view.budget} of {n} training samples changed, got {len(index)}; poison fewer, or raise "
            f"fraction"
        )
    if len(torch.unique(index)) != len(index) or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < n):
        raise BudgetError(f"expected distinct rows in [0, {n}), got index={index.tolist()[:10]}; hand in each row once")
    if len(poison.x) != len(index) or len(poison.y) != len(index) or poison.x.shape[1:] != view.samples.shape:
        raise BudgetError(
            f"expected one input of shape {view.samples.shape} and one label per poisoned row, got "
            f"x={tuple(poison.x.shape)}, y={tuple(poison.y.shape)} for {len(index)} rows; hand in matching rows"
        )
    checks.finite("poison.x", poison.x)
    checks.within("poison.x", poison.x, view.samples.bounds) if len(index) else None
    checks.labels("poison.y", poison.y, view.samples.classes)
    return view.samples.with_rows(index, poison.x, poison.y)


def _backdoor(twin: Victim, victim: Victim, poison: Poison) -> tuple[Tensor, dict[str, Metric]]:
    """Success on samples that are not of the target class, for the poisoned model and for its clean twin."""
    other = victim.test.y != poison.target
    hit, hit_twin, turned_away = [], [], []
    with torch.no_grad():
        for batch in victim.test.batches(256, victim.device):
            assert poison.trigger is not None
            shown = poison.trigger(batch.x).to(victim.dtype)
            answer, clean_answer = twin.model(shown), victim.model(shown)
            hit.append(((answer.logits.argmax(1) == poison.target) & ~answer.rejected).cpu())
            hit_twin.append(((clean_answer.logits.argmax(1) == poison.target) & ~clean_answer.rejected).cpu())
            turned_away.append(answer.rejected.cpu())
    seen = torch.cat(hit)
    figures = {
        "backdoor_success_rate": rate(seen[other], "lower"),
        "backdoor_success_rate_clean_twin": rate(torch.cat(hit_twin)[other], ""),
    }
    if not twin.model.fully_differentiable:
        figures["rejection_rate_attack"] = rate(torch.cat(turned_away)[other], "higher")
    return seen, figures


def _drop(before: Tensor, after: Tensor) -> Metric:
    """Difference of two accuracies on the same samples, with the score interval of pairs."""
    lost, mended = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = paired_interval(lost, mended, len(before))
    return Metric((lost - mended) / len(before), len(before), low, high, "rate difference", "lower")


def _worst_recall(y: Tensor, right: Tensor) -> Metric:
    recalls = [rate(right[y == label], "higher") for label in torch.unique(y)]
    return min(recalls, key=lambda m: m.value)


def _gallery(test: Samples, poison: Poison) -> dict[str, Tensor]:
    assert poison.trigger is not None
    batch = test.batch(slice(0, _GALLERY))
    return {"clean": batch.x.float(), "triggered": poison.trigger(batch.x).float(), "labels": batch.y}
