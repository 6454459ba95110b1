"""Membership inference: which of these samples was the model trained on?"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import BudgetError, Deployed, Metrics, MetricSpec, Samples, Scores, Served, Streams, checks, roc
from robustsuite.plugins import register
from robustsuite.scenarios import Bench, Case, Scenario, Terms, Victim
from robustsuite.training import Job


@dataclass(eq=False)
class Answers:
    """What a deployed model answers, counted.

    Args:
        model: Who answers.
        queries: For how many inputs it was asked.
    """

    model: Deployed
    queries: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `(n, classes)`."""
        self.queries += len(x)
        with torch.no_grad():
            return self.model(x).logits


@dataclass(frozen=True, eq=False)
class Candidates:
    """What this adversary may touch.

    Args:
        samples: Candidates with their labels; as many of them are members as are not.
        ask: Raw inputs to the model's logits.
        shadows: Networks that were trained as the victim is, on none of the candidates; empty without that access.
        device: Where models are.
    """

    samples: Samples
    ask: Callable[[Tensor], Tensor]
    shadows: tuple[nn.Module, ...]
    device: str


@register.scenario("x-membership")
@dataclass(frozen=True, kw_only=True)
class Membership(Scenario[Candidates, Tensor]):
    """Rules and judge of membership inference: the artefact is one score per candidate, high for members.

    Members are training samples that batches were made of: not those that a filter left out or that were held out to
    choose an epoch. Non-members are test samples, which nobody trains on: those of the adversary's half of the
    population are what shadow models learn from. Both were drawn at random from one data set.

    Args:
        access: `score-based`, or `shadows` for shadow models beside.
        candidates: How many of each kind at most, at least 2.
        shadows: How many shadow models, at least 1.

    References:
        Shokri et al., IEEE S&P 2017, arXiv:1610.05820; Carlini et al., IEEE S&P 2022, arXiv:2112.03570.
    """

    accesses: ClassVar[tuple[str, ...]] = ("shadows", "score-based")
    options: ClassVar[tuple[str, ...]] = ("candidates", "shadows")
    needs: ClassVar[tuple[str, ...]] = ("train",)
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "membership_auc": MetricSpec(words="membership AUC", unit="area", better="lower", headline=True),
        "membership_tpr": MetricSpec(words="members found at 1 % false alarms", better="lower", headline=True),
    }
    default_attack: ClassVar[str] = "x-loss-threshold"
    quick: ClassVar[Mapping[str, int]] = {"shadows": 1}

    access: str = field(default="score-based", repr=False)
    candidates: int = 400
    shadows: int = 2

    def __post_init__(self) -> None:
        checks.integer("candidates", self.candidates, low=2)
        checks.integer("shadows", self.shadows, low=1)

    @classmethod
    def laws(cls) -> Mapping[str, Callable[[Bench], None]]:
        """Scores of a network that never learnt anything tell nothing."""
        return {"untrained-null": _untrained_null}

    def check(self, terms: Terms) -> None:
        """Refuse a run whose shadows would have nothing to learn from."""
        if self.access == "shadows" and terms.parts and not terms.parts.get("adversary"):
            remedy = "give the part adversary some samples"
            raise checks.fail("samples for shadow models", "adversary", 0, remedy)

    def jobs(self, case: Case) -> Iterator[Job]:
        """Shadow models: the victim's recipe on the adversary's half of the population."""
        samples = case.part("adversary")
        if self.access == "shadows" and case.recipe is not None and samples is not None:
            for number in range(self.shadows):
                yield Job.of("shadow", case.recipe.bare(), samples, case.seed, number)

    def views(self, victim: Victim) -> Iterator[Candidates]:
        """One view: candidates in an order that tells nothing, and what answers."""
        samples, _ = self._candidates(victim)
        samples = replace(samples, ids=torch.arange(len(samples)))  # their own might tell members from others
        shadows: tuple[nn.Module, ...] = ()
        if self.access == "shadows":
            victim.need("recipe", "shadow models are trained by it")
            victim.need("adversary", "shadow models learn from it")
            trainer = victim.need("trainer", "shadow models are trained")
            shadows = tuple(trainer.job(job).model.network.eval() for job in self.jobs(victim.case()))
        yield Candidates(samples, Answers(victim.model), shadows, victim.device)

    def _candidates(self, victim: Victim) -> tuple[Samples, Tensor]:
        """Members and non-members, and which are members `(n,)`."""
        train: Samples = victim.need("train", "members are among them")
        learnt = None if victim.trained is None else victim.trained.learnt
        members = train if learnt is None else train.take(torch.isin(train.ids, learnt))
        count, streams = min(self.candidates, len(members), len(victim.test)), Streams(victim.seed).child("candidates")
        kinds = (("members", members), ("others", victim.test))
        drawn = [samples.take(streams.child(name).permutation(len(samples))[:count]) for name, samples in kinds]
        order = streams.child("order").permutation(2 * count)
        x, y, ids = (torch.cat(both)[order] for both in zip(*((s.inputs(), s.y, s.ids) for s in drawn), strict=True))
        return replace(train, x=x, y=y, ids=ids, places=None), order < count

    def score(self, victim: Victim, moves: Iterable[tuple[Candidates, Tensor]]) -> Metrics:
        """The area under the curve of the scores, and the share of members found at 1 % false alarms."""
        ((view, scores),) = moves
        samples, member = self._candidates(victim)
        if not isinstance(scores, Tensor) or scores.shape != member.shape or not scores.is_floating_point():
            raise BudgetError(f"expected {len(member)} floating scores, got {scores!r}; return one per candidate")
        scores = scores.detach().cpu().double()
        if bool(scores.isnan().any()):
            raise BudgetError("expected scores, got NaN; give those the lowest that you know nothing of")
        curve = roc.roc(scores, member)
        values = {"membership_auc": roc.auc(curve), "membership_tpr": roc.tpr_at(curve, 0.01)}
        kept = Scores("scores of members", scores, member, "members", "non-members")
        columns = {"id": samples.ids, "member": member, "score": scores}
        cost = {"forwards": 0, "backwards": 0, "queries": view.ask.queries}
        return Metrics(values, per_sample=columns, cost=cost, payloads=(kept,))


def _untrained_null(bench: Bench) -> None:
    victim = bench.victim(200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = victim.recipe.build(victim.test.classes, victim.test.shape, victim.test.bounds).eval()
    found = bench.play(replace(victim, model=Served(blank), trained=None)).values["membership_auc"]
    bench.require(found.low <= 0.5 <= found.high, "an untrained network gives nobody away", found)


def losses(answer: Callable[[Tensor], Tensor], view: Candidates) -> Tensor:
    """Loss of each candidate `(n,)`."""
    with torch.no_grad():
        batches = view.samples.batches(256, view.device)
        return torch.cat([F.cross_entropy(answer(b.x).float(), b.y, reduction="none").cpu() for b in batches])


@register.attack("x-loss-threshold", scenario="x-membership", access="score-based")
@dataclass(frozen=True, kw_only=True)
class LossThreshold:
    """A sample of low loss is a member.

    References:
        Yeom et al., CSF 2018, arXiv:1709.01604.
    """

    def __call__(self, view: Candidates, streams: Streams) -> Tensor:
        """Minus the loss `(n,)`."""
        return -losses(view.ask, view)


@register.attack("x-shadow-threshold", scenario="x-membership", access="shadows")
@dataclass(frozen=True, kw_only=True)
class ShadowThreshold:
    """A sample is a member whose loss is lower than that of models which never saw it.

    References:
        Watson et al., ICLR 2022, arXiv:2111.08440.
    """

    def __call__(self, view: Candidates, streams: Streams) -> Tensor:
        """How much higher the loss of the shadow models is `(n,)`."""
        return sum(losses(shadow, view) for shadow in view.shadows) / len(view.shadows) - losses(view.ask, view)
