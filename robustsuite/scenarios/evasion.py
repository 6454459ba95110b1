"""Evasion: find an input near a correctly classified one that the deployed model gets wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from robustsuite import checks
from robustsuite.errors import BudgetError, RequestError
from robustsuite.protocol import Metric, Metrics, Scenario, Victim
from robustsuite.scenarios.views import Inputs, Meter, make_view
from robustsuite.serving import ask
from robustsuite.statistics import rate
from robustsuite.streams import Streams
from robustsuite.threat import Ball, Threat

ACCESSES: Final = ("white-box", "scores", "labels", "blind")
TARGETS: Final = ("next", "random", "least-likely")
_GALLERY: Final = 8  # samples of each game whose images are kept
_MASKED: Final = 0.1  # share of zero gradients from which the gradient is doubted


@dataclass(frozen=True, kw_only=True)
class Evasion(Scenario[Inputs, Tensor]):
    """Rules and judge of the evasion game.

    Only samples that the model gets right (and accepts) are attacked; the others count as fallen. An attack sees the
    ball and cannot change it. The judge measures everything again, in another batch size than the attack used.

    Args:
        ball: The perturbation set; bounds default to those of the data.
        access: `white-box`, `scores`, `labels` or `blind`.
        goal: `untargeted` or `targeted`.
        target: How targets are chosen for a targeted goal: `next`, `random` or `least-likely`.
        batch_size: Samples per view; changes memory and speed, never the result.
        query_budget: Queries per sample for an oracle; None for no limit.
        draws: How often a random model is asked per input; its verdict is the majority.

    Raises:
        RequestError: A targeted goal without a target, an unknown access, a budget below 1.
    """

    name: ClassVar[str] = "evasion"
    accesses: ClassVar[tuple[str, ...]] = ACCESSES
    options: ClassVar[tuple[str, ...]] = ("query_budget", "draws", "batch_size")

    ball: Ball
    access: str = "white-box"
    goal: str = "untargeted"
    target: str | None = None
    batch_size: int = field(default=128, repr=False)
    query_budget: int | None = None
    draws: int = 1

    def __post_init__(self) -> None:
        checks.one_of("access", self.access, ACCESSES)
        checks.one_of("goal", self.goal, ("untargeted", "targeted"))
        if self.goal == "targeted" and self.target is None:
            raise checks.fail("a target for a targeted goal", "target", None, f"choose one of {', '.join(TARGETS)}")
        if self.target is not None:
            checks.one_of("target", self.target, TARGETS)
            if self.goal != "targeted":
                raise checks.fail("goal='targeted' beside a target", "goal", self.goal, "set it, or drop the target")
        checks.integer("batch_size", self.batch_size, low=1)
        checks.integer("draws", self.draws, low=1)
        if self.query_budget is not None:
            checks.integer("query_budget", self.query_budget, low=1)

    @classmethod
    def arrange(cls, access: str, threat: Threat | None, options: Mapping[str, Any]) -> Self:
        """The game in the threat's ball and for its goal."""
        if threat is None:
            raise checks.fail("a threat model for evasion", "threat", None, "set threat: {norm: linf, radius: 0.3}")
        rules = {"query_budget": threat.query_budget, **options}
        return cls(ball=threat.ball, goal=threat.goal, target=threat.target, access=access, **rules)

    def views(self, victim: Victim) -> Iterator[Inputs]:
        """One view per batch of samples that still stand, all sharing one meter."""
        meter = Meter()
        ball = self.ball.within(victim.test.bounds)
        standing = (correct(victim)).nonzero()[:, 0]
        for index in torch.split(standing, self.batch_size):
            batch = victim.test.batch(index, victim.device)
            common: dict[str, Any] = {
                "x": batch.x.to(victim.dtype),
                "y": batch.y,
                "ids": batch.ids,
                "ball": ball,
                "classes": victim.test.classes,
                "target": self._targets(victim, batch.x, batch.y, batch.ids),
                "meter": meter,
            }
            yield make_view(self.access, victim.model, common, self.query_budget)

    def _targets(self, victim: Victim, x: Tensor, y: Tensor, ids: Tensor) -> Tensor | None:
        classes = victim.test.classes
        if self.goal == "untargeted":
            return None
        if self.target == "next":
            return (y + 1) % classes
        if self.target == "random":
            shift = 1 + Streams(0).child("targets").integers(ids, classes - 1)
            return (y + shift) % classes
        with torch.no_grad():
            logits = victim.model(x.to(victim.dtype)).logits
        return logits.scatter(1, y[:, None], float("inf")).argmin(1)

    def score(self, victim: Victim, moves: Iterable[tuple[Inputs, Tensor]]) -> Metrics:
        """Check each artefact against the ball, measure it again, and count."""
        judge = _Judge(self, victim)
        for view, artefact in moves:
            judge.take(view, artefact)
        return judge.verdict()


def correct(victim: Victim) -> Tensor:
    """Which test samples the deployed model accepts and gets right; bool `(N,)`."""
    return (victim.clean.prediction == victim.test.y) & ~victim.clean.rejected


class _Judge:
    """Accumulates one verdict per test sample."""

    def __init__(self, game: Evasion, victim: Victim) -> None:
        n = len(victim.test)
        self._game, self._victim = game, victim
        self._clean = correct(victim)
        self._robust, self._hit = self._clean.clone(), torch.zeros(n, dtype=torch.bool)
        self._rejected, self._attacked = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        self._distance = torch.full((n,), float("nan"))
        self._row = {int(i): row for row, i in enumerate(victim.test.ids.tolist())}
        self._flags: dict[str, None] = {}
        self._gallery: list[tuple[Tensor, ...]] = []
        self._meter = Meter()
        self._outside = 0

    def take(self, view: Inputs, moved: Tensor) -> None:
        """Judge one artefact."""
        self._meter = view.meter
        _well_formed(moved, view.x)
        finite = torch.isfinite(moved.flatten(1)).all(1)
        inside = view.ball.contains(moved, view.x) & finite
        self._outside += int((~inside).sum())
        if not finite.all():
            self._flags["non-finite"] = None
        # A row over budget is never clipped: it counts as no adversarial input, so the clean one is judged instead.
        judged = torch.where(inside.reshape(-1, *[1] * (moved.dim() - 1)), moved, view.x)
        wrong, rejected, prediction = self._ask(judged, view.y)
        rows = torch.tensor([self._row[i] for i in view.ids.tolist()])
        self._attacked[rows] = True
        self._robust[rows] = ~(wrong & inside.cpu())
        self._rejected[rows] = rejected
        if view.target is not None:
            self._hit[rows] = (prediction == view.target.cpu()) & ~rejected & inside.cpu()
        self._distance[rows] = view.ball.distance(judged, view.x).float().cpu()
        kept = _GALLERY - sum(len(part[0]) for part in self._gallery)
        if kept > 0:
            images = (t[:kept].detach().float().cpu() for t in (view.x, judged))
            self._gallery.append((*images, view.y[:kept].cpu(), prediction[:kept]))

    def _ask(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Wrong and accepted, rejected, predicted label, in another batch size.

        Over several draws the majority counts, and a tie counts against the model.
        """
        size = max(1, (self._game.batch_size * 3) // 4 + 1)
        wrong, rejected, predictions = [], [], []
        with torch.no_grad():
            for rows, labels in zip(torch.split(x, size), torch.split(y, size), strict=True):
                answers = [ask(self._victim.model, rows) for _ in range(self._game.draws)]
                labelled = torch.stack([a.logits.argmax(1) for a in answers])
                turned_away = torch.stack([a.rejected for a in answers])
                failures = ((labelled != labels) & ~turned_away).sum(0)
                wrong.append(failures * 2 >= self._game.draws)
                rejected.append(turned_away.sum(0) * 2 > self._game.draws)
                predictions.append(labelled.mode(0).values)
        return torch.cat(wrong).cpu(), torch.cat(rejected).cpu(), torch.cat(predictions).cpu()

    def verdict(self) -> Metrics:
        """Figures, doubts and per-sample columns."""
        self._doubt()
        status, message = self._status()
        broken = self._clean & ~self._robust
        queries = torch.tensor([self._meter.queries.get(int(i), 0) for i in self._victim.test.ids.tolist()])
        columns = {
            "id": self._victim.test.ids,
            "label": self._victim.test.y,
            "clean_correct": self._clean,
            "robust": self._robust,
            "distance": self._distance,
            "queries": queries,
        }
        artefacts: dict[str, Tensor] = {}
        if self._gallery:
            names = ("clean", "adversarial", "labels", "predicted")
            artefacts = {n: torch.cat([part[i] for part in self._gallery]) for i, n in enumerate(names)}
        cost = {
            "forwards": self._meter.forwards,
            "backwards": self._meter.backwards,
            "queries": self._meter.total_queries,
        }
        values = self._values(broken, queries)
        return Metrics(values, tuple(self._flags), status, message, columns, artefacts, cost)

    def _values(self, broken: Tensor, queries: Tensor) -> dict[str, Metric]:
        clean, test = self._victim.clean, self._victim.test
        values = {
            "robust_accuracy": rate(self._robust, "higher"),
            "attack_success_rate": rate(broken[self._clean], "lower"),
            "attack_success_rate_all": rate(~self._robust, "lower"),
            "clean_accuracy": rate(self._clean, "higher"),
        }
        if self._game.goal == "targeted":
            values["target_hit_rate"] = rate(self._hit[self._clean], "lower")
        if broken.any():
            values["distance_median"] = Metric(
                float(self._distance[broken].median()), int(broken.sum()), unit=self._game.ball.norm, better="higher"
            )
        if self._meter.queries:
            asked = queries[self._attacked].double()
            values["queries_median"] = Metric(float(asked.median()), len(asked), unit="queries", better="higher")
        if bool(clean.rejected.any()) or not self._victim.model.fully_differentiable:
            values["rejection_rate_clean"] = rate(clean.rejected, "lower")
            values["rejection_rate_attack"] = rate(self._rejected[self._attacked], "higher")
        if len(test) < 100:
            self._flags["few-samples"] = None
        return values

    def _doubt(self) -> None:
        meter, ids = self._meter, self._victim.test.ids
        if self._outside:
            self._flags["over-budget"] = None
        if meter.gradients and meter.zero_gradients > _MASKED * meter.gradients:
            self._flags["zero-gradients"] = None
        if not self._victim.model.fully_differentiable and self._game.access == "white-box":
            self._flags["not-adaptive"] = None
        if (self._victim.model.random or not self._victim.clean.deterministic) and self._game.draws == 1:
            self._flags["nondeterministic"] = None
        seen = torch.tensor([int(i) in meter.fallen for i in ids.tolist()])
        if self._game.goal == "untargeted" and bool((seen & self._robust).any()):
            self._flags["lost-adversarial"] = None

    def _status(self) -> tuple[str, str]:
        if "nondeterministic" in self._flags:
            return "inconclusive", (
                "the model answers differently when asked twice; judge it over several draws (draws: 10)"
            )
        if "lost-adversarial" in self._flags:
            return "inconclusive", "the attack met adversarial inputs that it did not hand in"
        if self._outside:
            return "ok", f"{self._outside} adversarial inputs lay outside the ball or its bounds and were not counted"
        return "ok", ""


def _well_formed(moved: Tensor, x: Tensor) -> None:
    if not isinstance(moved, torch.Tensor) or moved.shape != x.shape or moved.dtype != x.dtype:
        got = f"{tuple(moved.shape)} {moved.dtype}" if isinstance(moved, torch.Tensor) else type(moved).__name__
        raise BudgetError(
            f"expected adversarial inputs of shape {tuple(x.shape)} and {x.dtype}, got artefact={got}; return one "
            f"input per sample of the view, in its dtype"
        )
    if moved.requires_grad:
        raise RequestError("expected adversarial inputs without a graph, got requires_grad=True; detach them")
