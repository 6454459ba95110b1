"""Poisoning and backdoors: change a share of the training set, and be judged by a new training on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.ball import poison_budget
from robustsuite.core.deployed import ask
from robustsuite.core.errors import BudgetError
from robustsuite.core.intervals import least_rate, rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import MetricSpec
from robustsuite.core.paired import paired_interval
from robustsuite.core.payloads import Images, Scores
from robustsuite.core.samples import Samples
from robustsuite.core.suspicions import Suspicion
from robustsuite.plugins.registry import register
from robustsuite.scenarios.bench import Laws
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.poisoning_laws import LAWS
from robustsuite.scenarios.protocol import Scenario, Terms
from robustsuite.scenarios.victim import Victim
from robustsuite.training.cache import Trainer
from robustsuite.training.jobs import Job
from robustsuite.training.trained import Trained

Trigger = Callable[[Tensor], Tensor]
"""Raw inputs `(n, …)` to inputs that carry the trigger."""

METRICS: Final = {
    "clean_accuracy": MetricSpec(words="clean accuracy", better="higher", outcome="poisoned_correct"),
    "rejection_rate_attack": MetricSpec(words="rejected attacks", better="higher", undirected=True),
    "backdoor_success_rate": MetricSpec(
        words="backdoor success", better="lower", headline=True, outcome="hit", counted="counted"
    ),
    "backdoor_success_rate_clean_twin": MetricSpec(words="trigger effect on the clean twin"),
    "accuracy_drop": MetricSpec(words="accuracy drop", unit="rate difference", better="lower"),
    "recall_worst_class": MetricSpec(words="recall of the worst class", better="higher"),
    "poisoned": MetricSpec(words="poisoned samples", unit="count"),
}
_GALLERY: Final = 8


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a poisoner may touch.

    Args:
        samples: A copy of the clean training set.
        budget: How many rows may be changed.
    """

    samples: Samples
    budget: int


@dataclass(frozen=True, eq=False)
class Stamp:
    """A trigger that gives some places of an input other values.

    Args:
        mask: Which places, bool; broadcasts to an input.
        values: What they become, floating, in raw units; broadcasts likewise.

    Raises:
        RequestError: Anything but such tensors.

    Example:
        >>> corner = Stamp(torch.tensor([[False, False], [False, True]]), torch.tensor(1.0))
        >>> corner(torch.zeros(1, 1, 2, 2)).flatten().tolist()
        [0.0, 0.0, 0.0, 1.0]
    """

    mask: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        for name, right in (("mask", lambda t: t.dtype == torch.bool), ("values", Tensor.is_floating_point)):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not right(value):
                kind = "a bool tensor" if name == "mask" else "a floating tensor"
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise checks.fail(kind, f"stamp.{name}", got, "mark the places, and say what they become")

    def __call__(self, x: Tensor) -> Tensor:
        """Stamped copies of inputs `(n, …)`."""
        return torch.where(self.mask.to(x.device), self.values.to(x.device, x.dtype), x)


@dataclass(frozen=True, eq=False)
class Poison:
    """What a poisoner returns.

    Args:
        index: Rows that were changed, `(k,)`, integers without repeats, k at most the budget.
        x: Their new inputs `(k, …)`, floating, in raw units.
        y: Their new labels `(k,)`.
        trigger: What turns an input into one that should be misread; None for poisoning without a trigger. One that is
            data, a `Stamp`, is kept with the rows; with any other the poison is made anew wherever it is needed.
        target: The class that a triggered input should be read as; None without a trigger.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    trigger: Trigger | None = None
    target: int | None = None


@register.scenario("poisoning")
@dataclass(frozen=True, kw_only=True)
class Poisoning(Scenario[TrainingSet, Poison]):
    """Rules and judge of the poisoning game.

    The judge builds the poisoned set itself, from the victim's own data and the rows that are returned, and counts as
    integers those that differ from the clean set by input or label. It trains by the victim's recipe, and measures. A
    backdoor's success counts only samples whose label is not the target, beside the trigger's effect on a clean twin of
    the victim. A trigger must leave shape and dtype, and stay finite and within the bounds.

    Args:
        fraction: Share of the training set that may be changed, in [0, 1].
    """

    accesses: ClassVar[tuple[str, ...]] = ("training-set",)
    options: ClassVar[tuple[str, ...]] = ("fraction",)
    sweeps: ClassVar[tuple[str, ...]] = ("fraction",)
    needs: ClassVar[tuple[str, ...]] = ("recipe", "train", "trainer")
    shared: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    default_attack: ClassVar[str] = "badnets"

    fraction: float = 0.01
    access: str = field(default="training-set", repr=False)

    def __post_init__(self) -> None:
        checks.real("fraction", self.fraction, low=0.0, high=1.0)

    @classmethod
    def laws(cls) -> Laws:
        """A poison changes what it says, and nothing else."""
        return LAWS

    def check(self, terms: Terms) -> None:
        """Refuse a fraction that changes nothing."""
        refuse_no_budget(self.fraction, terms)

    def views(self, victim: Victim) -> Iterator[TrainingSet]:
        """One view: the training set and an integer budget."""
        train: Samples = victim.need("train", "poisoning changes the training set")
        victim.need("recipe", "poisoning is judged by a new training")
        victim.need("trainer", "poisoning is judged by a new training")
        yield self._view(train)

    def shared_views(self, case: Case, train: Callable[[Job], nn.Module]) -> Iterator[TrainingSet]:  # noqa: ARG002
        """The training set and an integer budget: the same for every defence."""
        yield self._view(case.train)

    def _view(self, train: Samples) -> TrainingSet:
        return TrainingSet(train, poison_budget(self.fraction, len(train)))

    def jobs_after(self, case: Case, artefact: Poison) -> Iterator[Job]:
        """The victim's recipe on the poisoned set."""
        if case.recipe is not None:
            poisoned = self._apply(case.train, checked(artefact, case.train))
            yield Job.of("poisoned", case.recipe, poisoned, case.seed)

    def pack(self, artefact: Poison) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Rows, inputs, labels and a stamp as tensors; None where the trigger is anything but data."""
        return pack(artefact)

    def unpack(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Poison:
        """The poison again."""
        return unpack(tensors, facts)

    def score(self, victim: Victim, moves: Iterable[tuple[TrainingSet, Poison]]) -> Metrics:
        """Check the budget, train on the poisoned set, and compare with the clean twin."""
        ((_, artefact),) = moves
        train: Samples = victim.need("train", "")
        poison = checked(artefact, train)
        poisoned = self._apply(train, poison)
        trainer: Trainer = victim.need("trainer", "")
        trained = trainer.job(Job.of("poisoned", victim.need("recipe", ""), poisoned, victim.seed))
        twin = Victim(trained.model, victim.test, device=victim.device)
        right, before = twin.correct, victim.correct
        values: dict[str, Metric] = {}
        columns = {"id": victim.test.ids, "label": victim.test.y, "clean_correct": before, "poisoned_correct": right}
        images: tuple[Images, ...] = ()
        if poison.trigger is not None and poison.target is not None:
            seen, figures = _backdoor(twin, victim, poison.trigger, poison.target)
            values.update(figures)
            columns["hit"], columns["counted"] = seen, victim.test.y != poison.target
            images = (_gallery(victim.test, poison.trigger),)
        values["accuracy_drop"] = drop(before, right)
        values["clean_accuracy"] = rate(right, "higher")
        values["recall_worst_class"] = _worst_recall(victim.test.y, right)
        count = int(changed(train, poisoned, poison.index).sum())
        values["poisoned"] = Metric(float(count), len(train), unit="count")
        flags = tuple(f for f in trained.flags) + ((Suspicion.FEW_SAMPLES,) if len(victim.test) < 100 else ())
        message = self._shortfall(train, poison, count)
        facts = {"poisoned": dict(trained.facts)}
        payloads = (*images, *suspects(trained, train.ids[poison.index]))
        return Metrics(values, flags, message=message, per_sample=columns, payloads=payloads, facts=facts)

    def _apply(self, train: Samples, poison: Poison) -> Samples:
        """The poisoned set of a poison that was checked.

        Raises:
            BudgetError: More rows than the budget allows.
        """
        refuse_too_many(poison, len(train), self.fraction)
        return train.with_rows(poison.index, poison.x, poison.y)

    def _shortfall(self, train: Samples, poison: Poison, count: int) -> str:
        """What the record says where fewer rows differ than the budget allows."""
        budget, same = poison_budget(self.fraction, len(train)), len(poison.index) - count
        if count == budget:
            return ""
        idle = f"; {same} of the {len(poison.index)} rows that it returned are as they were" if same else ""
        return f"the budget is {budget} rows, and the attack changed {count}{idle}"


def refuse_no_budget(fraction: float, terms: Terms) -> None:
    """Refuse a fraction by which no row may be changed.

    Raises:
        RequestError: The fraction.
    """
    if terms.training and poison_budget(fraction, terms.training) == 0:
        raise checks.fail(f"a fraction of {terms.training} training samples above 0", "fraction", fraction, "raise it")


def refuse_too_many(poison: Poison, n: int, fraction: float) -> None:
    """Refuse more rows than this share of n training samples.

    Raises:
        BudgetError: How many there may be.
    """
    budget = poison_budget(fraction, n)
    if len(poison.index) > budget:
        raise BudgetError(
            f"expected at most {budget} of {n} training samples changed, got {len(poison.index)}; poison fewer, or "
            f"raise fraction"
        )


def pack(artefact: Poison) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Rows, inputs, labels and a stamp as tensors; None where the trigger is anything but data."""
    _well_formed(artefact)
    trigger, tensors = artefact.trigger, {"index": artefact.index, "x": artefact.x, "y": artefact.y}
    if isinstance(trigger, Stamp):
        tensors |= {"mask": trigger.mask, "values": trigger.values}
    elif trigger is not None:
        return None
    return tensors, {"target": artefact.target}


def unpack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Poison:
    """What `pack` took apart, put together again."""
    trigger = Stamp(tensors["mask"], tensors["values"]) if "mask" in tensors else None
    return Poison(tensors["index"], tensors["x"], tensors["y"], trigger, facts["target"])


def _well_formed(artefact: Any) -> None:
    """Refuse what is no poison, or holds something other than rows.

    Raises:
        BudgetError: What was expected.
    """
    if not isinstance(artefact, Poison):
        got = type(artefact).__name__
        raise BudgetError(f"expected a Poison, got artefact={got}; return the rows to change, with inputs and labels")
    for name, floating in (("index", False), ("x", True), ("y", False)):
        value = getattr(artefact, name)
        right = isinstance(value, Tensor) and value.dtype != torch.bool and not value.is_complex()
        if not right or value.is_floating_point() != floating or (not floating and value.dim() != 1):
            kind = "a floating tensor (k, …)" if floating else "an integer tensor (k,)"
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise BudgetError(f"expected {kind}, got poison.{name}={got}; return one row per changed sample")
    if (artefact.trigger is None) != (artefact.target is None):
        raise BudgetError(
            f"expected a trigger with its target, got trigger={artefact.trigger!r} and target={artefact.target!r}; "
            f"return both, or neither"
        )


def checked(artefact: Any, train: Samples) -> Poison:
    """A copy of this poison, after every check that its rows, trigger and target can be judged on this training set.

    Raises:
        BudgetError: No poison, rows twice or out of range, or inputs and labels that do not match them.
        RequestError: Inputs that are out of bounds or not finite, labels or a target out of range.
    """
    _well_formed(artefact)
    n, target = len(train), artefact.target
    index, x, y = (t.detach().cpu().clone() for t in (artefact.index.long(), artefact.x, artefact.y.long()))
    if len(torch.unique(index)) != len(index) or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < n):
        raise BudgetError(f"expected distinct rows in [0, {n}), got index={index.tolist()[:10]}; return each row once")
    if len(x) != len(index) or len(y) != len(index) or x.shape[1:] != train.shape:
        raise BudgetError(
            f"expected one input of shape {train.shape} and one label per poisoned row, got x={tuple(x.shape)}, "
            f"y={tuple(y.shape)} for {len(index)} rows; return matching rows"
        )
    checks.finite("poison.x", x)
    checks.within("poison.x", x, train.bounds) if len(index) else None
    checks.labels("poison.y", y, train.classes)
    if target is not None:
        target = checks.integer("poison.target", target, low=0, high=train.classes - 1)
    return Poison(index, x, y, artefact.trigger, target)


def changed(clean: Samples, poisoned: Samples, index: Tensor) -> Tensor:
    """Which of these rows differ by input or label; bool `(k,)`."""
    inputs = (clean.inputs(index) != poisoned.inputs(index)).flatten(1).any(1)
    return inputs | (clean.y[index] != poisoned.y[index])


def triggered(trigger: Trigger, x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """These inputs with the trigger, which is shown a copy.

    Raises:
        BudgetError: Another shape or dtype.
        RequestError: Not finite, or out of bounds.
    """
    moved = trigger(x.clone())
    if not isinstance(moved, Tensor) or moved.shape != x.shape or moved.dtype != x.dtype:
        got = f"{tuple(moved.shape)} {moved.dtype}" if isinstance(moved, Tensor) else type(moved).__name__
        raise BudgetError(
            f"expected a trigger that leaves shape {tuple(x.shape)} and {x.dtype}, got trigger(x)={got}; return one "
            f"input for each"
        )
    moved = moved.detach().to(x.device)
    checks.finite("trigger(x)", moved)
    checks.within("trigger(x)", moved, bounds)
    return moved


def _backdoor(twin: Victim, victim: Victim, trigger: Trigger, target: int) -> tuple[Tensor, dict[str, Metric]]:
    """Success on samples that are not of the target class, for the poisoned model and for its clean twin."""
    other = victim.test.y != target
    if not other.any():
        raise BudgetError(
            f"expected test samples of another class than the target, got target={target} for all {len(other)}; choose "
            f"another target or more samples"
        )
    hit, hit_twin, turned_away = [], [], []
    with torch.no_grad():
        for batch in victim.test.batches(256, victim.device):
            moved = triggered(trigger, batch.x, victim.test.bounds).to(victim.dtype)
            answer, clean_answer = ask(twin.model, moved), ask(victim.model, moved)
            hit.append(((answer.labels() == target) & ~answer.rejected).cpu())
            hit_twin.append(((clean_answer.labels() == target) & ~clean_answer.rejected).cpu())
            turned_away.append(answer.rejected.cpu())
    seen = torch.cat(hit)
    figures = {
        "backdoor_success_rate": rate(seen[other], "lower"),
        "backdoor_success_rate_clean_twin": rate(torch.cat(hit_twin)[other], ""),
    }
    if not twin.model.fully_differentiable:
        figures["rejection_rate_attack"] = rate(torch.cat(turned_away)[other], "higher")
    return seen, figures


def suspects(trained: Trained, poisoned: Tensor) -> tuple[Scores, ...]:
    """What filters and other stages scored training samples by, with which of these were poisoned."""
    found = []
    for name, scores in trained.scores.items():
        stage, _, column = name.partition(" ")
        number, _, column = column.partition(" ")  # which may hold spaces of its own
        stage = f"{stage} {number}"
        if f"{stage} ids" in trained.scores and scores.is_floating_point():
            positive = torch.isin(trained.scores[f"{stage} ids"], poisoned)
            title = f"{column} of poisoned samples ({stage})"
            found.append(Scores(title=title, scores=scores, positive=positive, positives="poisoned", negatives="clean"))
    return tuple(found)


def drop(before: Tensor, after: Tensor) -> Metric:
    """Difference of two accuracies on the same samples, with the score interval of pairs."""
    lost, mended = int((before & ~after).sum()), int((after & ~before).sum())
    low, high = paired_interval(lost, mended, len(before))
    return Metric((lost - mended) / len(before), len(before), low, high, "rate difference", "lower")


def _worst_recall(y: Tensor, right: Tensor) -> Metric:
    """Recall of the class that is recognised worst, among those that have samples."""
    return least_rate([right[y == label] for label in torch.unique(y)], "higher")


def _gallery(test: Samples, trigger: Trigger) -> Images:
    batch = test.batch(slice(0, _GALLERY))
    moved = triggered(trigger, batch.x, test.bounds)
    rows = (("clean", batch.x.float()), ("triggered", moved.float()))
    captions = tuple(str(label) for label in batch.y.tolist())
    return Images("the trigger", rows, captions, bounds=test.bounds, shared=True)
