"""Model inversion: reconstruct what the classes of the training set look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from robustsuite.access.meter import Counted, Meter
from robustsuite.core import checks
from robustsuite.core.deployed import ask
from robustsuite.core.errors import BudgetError, RequestError
from robustsuite.core.intervals import median, rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import MetricSpec
from robustsuite.core.payloads import Images
from robustsuite.core.rows import per_sample
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.models.build import ModelSpec
from robustsuite.models.fitting import refuse_misfit
from robustsuite.plugins.registry import register
from robustsuite.scenarios.bench import Laws
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.inversion_laws import LAWS
from robustsuite.scenarios.protocol import Scenario, Terms
from robustsuite.scenarios.victim import Victim
from robustsuite.training.cache import Trainer
from robustsuite.training.jobs import Job
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training
from robustsuite.training.trained import Trained

ACCESSES: Final = ("white-box", "score-based", "members", "population", "blind")
METRICS: Final = {
    "inversion_accuracy": MetricSpec(
        words="inversion accuracy",
        better="lower",
        headline=True,
        outcome="recognised",
        counted="counted",
        all_before=True,
    ),
    "inversion_accuracy_top5": MetricSpec(words="inversion accuracy, top 5", better="lower"),
    "inversion_ssim": MetricSpec(words="similarity to class means", unit="ssim", better="lower"),
    "inversion_distance_members": MetricSpec(words="distance to members", unit="l2", better="higher"),
    "held_out_recognised": MetricSpec(words="held-out photos recognised", headline=True),
    "class_mean_recognised": MetricSpec(words="class means recognised"),
    "noise_recognised": MetricSpec(words="noise recognised"),
    "evaluator_accuracy": MetricSpec(words="accuracy of the evaluator", better="higher"),
}
_BASELINES: Final = ("members", "population", "blind")  # accesses of baselines: a ceiling, a control, a floor
_WEAK_EVALUATOR: Final = 0.9  # below this accuracy the evaluator's word is doubted
_GALLERY: Final = 10


@dataclass(frozen=True, eq=False)
class Classes:
    """What an inversion adversary may touch.

    Args:
        labels: Classes to reconstruct `(K,)`.
        ids: One id per reconstruction `(K,)`, to key random draws.
        shape: Shape of one input.
        bounds: Least and greatest input value.
        meter: What was spent so far.
        model: Raw inputs to logits; None without white-box access.
        scores: Raw inputs to probabilities; None without an oracle.
        members: A copy of the training samples; None but for baselines that show the ceiling.
        population: The adversary's half of the population, which the victim and the evaluator never saw; None but for
            baselines that need it.
        device: Where the model lives.
        dtype: The model's floating dtype.
    """

    labels: Tensor
    ids: Tensor
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    meter: Meter
    model: nn.Module | None = None
    scores: Callable[[Tensor], Tensor] | None = None
    members: Samples | None = None
    population: Samples | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


@register.scenario("inversion")
@dataclass(frozen=True, kw_only=True)
class Inversion(Scenario[Classes, Tensor]):
    """Rules and judge of the inversion game.

    The artefact is one reconstruction per class. An evaluator of another architecture, trained by the judge on data
    that the victim never saw and from a seed of its own, says which class each one shows; its own accuracy on test
    samples stands beside its word. One that had learnt the victim's own data would recognise
    what is peculiar to them. Beside what it recognises stand what it recognises of class means of the training set (a
    ceiling), of held-out inputs (what knowing the class is worth, without any memory of the training set) and of noise
    (a floor). Only classes that the training set has samples of are counted: of the others there is
    nothing to reconstruct.

    Args:
        access: `white-box`, `score-based`, `members` (a ceiling, no attack), `population` (what recognising the class
            alone is worth) or `blind` (a floor).
        evaluator: Name of the evaluator's network, other than the victim's; None for a CNN on images, else an MLP, or
            an MLP, else a linear one, where the victim is such a network.
        classes: How many classes to reconstruct, the first ones; None for all.
    """

    accesses: ClassVar[tuple[str, ...]] = ACCESSES
    options: ClassVar[tuple[str, ...]] = ("evaluator", "classes")
    needs: ClassVar[tuple[str, ...]] = ("train", "trainer", "judge")
    may_use: ClassVar[tuple[str, ...]] = ("adversary",)
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    default_attack: ClassVar[str] = "model-inversion"
    quick: ClassVar[Mapping[str, Any]] = {"evaluator": "logistic"}

    access: str = "white-box"
    evaluator: str | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        checks.one_of("access", self.access, ACCESSES)
        if self.classes is not None:
            checks.integer("classes", self.classes, low=1)

    @classmethod
    def laws(cls) -> Laws:
        """Reconstructions are inputs."""
        return LAWS

    def check(self, terms: Terms) -> None:
        """Refuse an evaluator that there is not, or that cannot take such inputs, and classes without samples."""
        if self.classes is not None and terms.counts and not any(terms.counts[: self.classes]):
            raise checks.fail(
                "classes that the training set has samples of", "classes", self.classes, "raise it, or leave it out"
            )
        if self.evaluator is not None:
            try:
                refuse_misfit(ModelSpec(name=self.evaluator), terms.classes, terms.shape, terms.bounds)
            except RequestError as error:
                raise checks.fail("an evaluator for these data", "evaluator", self.evaluator, str(error)) from error

    def views(self, victim: Victim) -> Iterator[Classes]:
        """One view: the classes, and the model or an oracle."""
        train: Samples = victim.need("train", "inversion is judged against the training set")
        meter = Meter()
        count = train.classes if self.classes is None else min(self.classes, train.classes)
        labels = torch.arange(count, device=victim.device)

        def scores(x: Tensor) -> Tensor:
            meter.forwards += len(x)
            with torch.no_grad():
                logits, rejected = ask(victim.model, x)
            return logits.softmax(1).masked_fill(rejected[:, None], 0.0)

        yield Classes(
            labels,
            labels.clone(),
            train.shape,
            train.bounds,
            meter,
            model=Counted(victim.model.surrogate(), meter) if self.access == "white-box" else None,
            scores=scores if self.access == "score-based" else None,
            members=train if self.access == "members" else None,
            population=self._population(victim),
            device=victim.device,
            dtype=victim.dtype,
        )

    def _population(self, victim: Victim) -> Samples | None:
        if self.access != "population":
            return None
        found: Samples = victim.need("adversary", "held-out samples come from the adversary's half of the population")
        return found

    def score(self, victim: Victim, moves: Iterable[tuple[Classes, Tensor]]) -> Metrics:
        """Ask the evaluator what each reconstruction shows, and compare it with members."""
        (view, made), *_ = moves
        _well_formed(view, made)
        train: Samples = victim.need("train", "")
        judge = self._evaluator(victim)
        evaluator = Victim(judge.model, victim.test, device=victim.device)
        made = made.detach().float()
        with torch.no_grad():
            logits = ask(judge.model, made.to(evaluator.dtype)).logits
        labels = view.labels
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        competence = rate(evaluator.clean.prediction == victim.test.y, "higher")
        means = class_means(train)[: len(labels)]
        shown, counted = made.cpu(), torch.isin(labels.cpu(), train.y)
        values = {
            "inversion_accuracy": rate((top[:, 0] == labels).cpu()[counted], "lower"),
            "inversion_accuracy_top5": rate((top == labels[:, None]).any(1).cpu()[counted], "lower"),
            "inversion_ssim": _similarity(shown[counted], means[counted], train.bounds),
            "inversion_distance_members": _nearest(shown, labels.cpu(), train),
            "evaluator_accuracy": competence,
        }
        for name, baseline in self._baselines(victim, view).items():
            with torch.no_grad():
                seen = ask(judge.model, baseline.to(victim.device, evaluator.dtype)).logits.argmax(1)
            values[f"{name}_recognised"] = rate((seen == labels).cpu()[counted], "")
        flags = (Suspicion.EVALUATOR_WEAK,) if competence.value < _WEAK_EVALUATOR else ()
        columns = {"id": view.ids, "predicted": top[:, 0], "recognised": top[:, 0] == labels, "counted": counted}
        rows = (("reconstruction", shown[:_GALLERY]), ("class mean", means[:_GALLERY]))
        captions = tuple(str(label) for label in labels[:_GALLERY].tolist())
        images = Images("reconstructions", rows, captions, bounds=train.bounds)
        meter = view.meter
        cost = {"forwards": meter.forwards, "backwards": meter.backwards, "queries": 0}
        return Metrics(values, flags, per_sample=columns, cost=cost, payloads=(images,))

    def _baselines(self, victim: Victim, view: Classes) -> dict[str, Tensor]:
        """What any attack is to be compared with `(K, …)`; nothing where it is one of them itself."""
        if self.access in _BASELINES:
            return {}
        labels, (low, high) = view.labels.cpu(), view.bounds
        noise = Streams(victim.seed).child("noise").uniform(view.ids.cpu(), view.shape)
        made = {"class_mean": class_means(victim.need("train", ""))[labels]}
        population = victim.part("adversary")
        if population is not None:
            made["held_out"] = typical(population, labels)
        return {**made, "noise": low + (high - low) * noise}

    def jobs(self, case: Case) -> Iterator[Job]:
        """The evaluator: another architecture than the victim's, by plain training on the judge's data."""
        own = getattr(case.recipe.build, "name", "") if case.recipe is not None else ""
        samples, name = case.part("judge"), self.evaluator
        if samples is None:
            return
        if name is None:
            usual = ("cnn", "mlp") if len(samples.shape) == 3 and min(samples.shape[1:]) >= 4 else ("mlp", "logistic")
            name = next(net for net in usual if net != own)
        elif name == own:
            raise checks.fail("an evaluator of another architecture", "evaluator", name, "choose another network")
        settings = Training(epochs=40, lr=2e-3, batch_size=64, schedule="cosine", validation=0.0, normalise="data")
        # Large sets need fewer passes for the same number of steps.
        epochs = max(2, min(40, round(40 * 2000 / len(samples))))
        recipe = Recipe(build=ModelSpec(name=name), training=replace(settings, epochs=epochs))
        yield Job.of("evaluator", recipe, samples, case.seed)

    def _evaluator(self, victim: Victim) -> Trained:
        trainer: Trainer = victim.need("trainer", "inversion is judged by an evaluator that is trained")
        (job,) = self.jobs(victim.case())
        return trainer.job(job)


def class_means(samples: Samples) -> Tensor:
    """Mean input of every class `(classes, …)`, float32; zeros for a class without samples."""
    x = samples.inputs().float()
    total = torch.zeros(samples.classes, *samples.shape, dtype=torch.float32).index_add(0, samples.y, x)
    counts = torch.bincount(samples.y, minlength=samples.classes).clamp_min(1)
    return total / per_sample(counts, total)


def typical(samples: Samples, labels: Tensor) -> Tensor:
    """Of each class the input that is nearest to its mean `(K, …)`; of a class without samples the nearest to all.

    Args:
        samples: Whose inputs.
        labels: Classes `(K,)`.
    """
    found = []
    for label in labels.tolist():
        own = samples.y == label
        x = samples.inputs(own if bool(own.any()) else slice(None)).float()
        found.append(x[(x - x.mean(0)).flatten(1).norm(dim=1).argmin()])
    return torch.stack(found)


def _well_formed(view: Classes, made: Tensor) -> None:
    expected = (len(view.labels), *view.shape)
    if not isinstance(made, torch.Tensor) or tuple(made.shape) != expected:
        got = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise BudgetError(f"expected reconstructions of shape {expected}, got {got}; return one input per class")
    checks.finite("reconstructions", made)
    checks.within("reconstructions", made, view.bounds)


def _similarity(made: Tensor, means: Tensor, bounds: tuple[float, float]) -> Metric:
    """Mean structural similarity to the class means; images only.

    Windows are uniform, of side 7, or the greatest odd one that fits; one is centred at every pixel, and at the borders
    the image is mirrored without repeating its edge, as torchmetrics and scipy's `mirror` have it. The original (Wang
    et al., IEEE TIP 2004) takes Gaussian windows of side 11, and only those that lie inside the image.
    """
    if made.dim() != 4 or min(made.shape[-2:]) < 3 or len(made) == 0:
        return Metric(float("nan"), unit="ssim", better="lower")
    from torchmetrics.functional.image import structural_similarity_index_measure

    window = min(7, (min(made.shape[-2:]) + 1) // 2 * 2 - 1)
    low, high = bounds
    value = structural_similarity_index_measure(
        made, means, gaussian_kernel=False, kernel_size=window, data_range=high - low
    )
    return Metric(float(value), len(made), unit="ssim", better="lower")


def _nearest(made: Tensor, labels: Tensor, train: Samples) -> Metric:
    """Median l2 distance from a reconstruction to the nearest training sample of its class."""
    nearest = []
    for image, label in zip(made, labels, strict=True):
        members = train.inputs(train.y == label).float()
        if len(members):
            nearest.append(float((members - image).flatten(1).norm(dim=1).min()))
    return Metric(median(nearest), len(nearest), unit="l2", better="higher")
