"""Evasion: find an input near a correctly classified one that the deployed model gets wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from robustsuite import checks, registry
from robustsuite.data.samples import Batch
from robustsuite.errors import BudgetError, RequestError, RobustsuiteError
from robustsuite.metric import Metric, Metrics
from robustsuite.protocol import Attack, Reviewed, Scenario
from robustsuite.radii import below_a_grey_level
from robustsuite.robust import rates
from robustsuite.scenarios.chance import doubt_chance
from robustsuite.scenarios.engine import PRECISIONS, TRIAL, FastPasses
from robustsuite.scenarios.passes import Passes
from robustsuite.scenarios.views import Inputs, Known, Meter, make_view
from robustsuite.serving import Served, ask
from robustsuite.statistics import median, rate
from robustsuite.streams import Streams
from robustsuite.suspicions import Suspicion
from robustsuite.threat import Ball, Threat, as_ball
from robustsuite.victim import Victim

ACCESSES: Final = ("white-box", "scores", "labels", "transfer", "blind")
TARGETS: Final = ("next", "random", "least-likely")
_ASKED: Final = ("scores", "labels", "transfer")
_VIEW: Final = 128  # samples per view at least, where nothing else is asked for
_GALLERY: Final = 8  # samples of each game whose images are kept
_MASKED: Final = 0.1  # share of zero gradients from which the gradient is doubted


@dataclass(frozen=True, kw_only=True)
class Evasion(Scenario[Inputs, Tensor]):
    """Rules and judge of the evasion game.

    Only samples that the model gets right (and accepts) are attacked; the others count as fallen. An attack sees the
    ball and cannot change it. The judge measures everything again, in another batch size than the attack used.

    The per-sample file holds `id`, `label`, `clean_correct`, `robust` (under this attack alone), `distance` (of what it
    returned; NaN where nothing was attacked), `queries` and, where the attack's passes can be told apart by sample,
    `passes`: forward and backward passes that were spent on the sample until it was first seen to be adversarial, or
    in all where it was not; 0 where nothing was attacked. Samples that share a batch may cost each other a pass. Where
    sanity checks examined the result, `verdict` (robust under its follow-up attacks too) and `found_by` are added.

    Args:
        ball: The perturbation set; bounds default to those of the data.
        access: `white-box`, `scores`, `labels`, `transfer` or `blind`.
        goal: `untargeted` or `targeted`.
        target: How targets are chosen for a targeted goal: `next`, `random` or `least-likely`.
        batch_size: Samples per view, and most in one pass; changes memory and speed, never the result. By default the
            engine measures how many samples fit in fast memory. Standing checks and escalation take 16 (without a
            gradient 64) at once even where fewer are asked for, and halve batches where memory runs out.
        query_budget: Queries per sample for an oracle; None for no limit.
        draws: How often a random model is asked per input; its verdict is the majority.
        precision: `reference`, or `fast` for white-box attacks that take all but their last steps on bfloat16
            gradients, where the hardware has units for them. Success is measured in the model's own precision always.
        closest: Whether distances are judged, as for attacks of minimum norm: the attack is asked for the nearest
            adversarial input within the bounds, whatever the radius, and a sample has fallen where that lies in the
            ball. The per-sample distance then tells at which radius a sample falls; infinite where none was found.
        escalate: Whether sanity checks examine the result of a white-box attack, and a doubt starts the follow-up
            attacks that resolve it. What they break never changes the attack's own figures.

    Raises:
        RequestError: A targeted goal without a target, an unknown access, a budget below 1.
    """

    name: ClassVar[str] = "evasion"
    accesses: ClassVar[tuple[str, ...]] = ACCESSES
    options: ClassVar[tuple[str, ...]] = ("query_budget", "draws", "batch_size", "precision", "escalate")
    needs_threat: ClassVar[bool] = True

    ball: Ball
    access: str = "white-box"
    goal: str = "untargeted"
    target: str | None = None
    batch_size: int | None = field(default=None, repr=False)
    query_budget: int | None = None
    draws: int = 1
    precision: str = "reference"
    closest: bool = False
    escalate: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ball", as_ball(self.ball))
        checks.one_of("access", self.access, ACCESSES)
        checks.one_of("goal", self.goal, ("untargeted", "targeted"))
        if self.goal == "targeted" and self.target is None:
            raise checks.fail("a target for a targeted goal", "target", None, f"choose one of {', '.join(TARGETS)}")
        if self.target is not None:
            checks.one_of("target", self.target, TARGETS)
            if self.goal != "targeted":
                raise checks.fail("goal='targeted' beside a target", "goal", self.goal, "set it, or drop the target")
        checks.one_of("precision", self.precision, PRECISIONS)
        if self.batch_size is not None:
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

    @classmethod
    def has_curve(cls, access: str, *, minimum_norm: bool) -> bool:
        """White boxes have one; an attack of minimum norm tells it by the distances of one pass."""
        return access == "white-box" and not minimum_norm

    def views(self, victim: Victim) -> Iterator[Inputs]:
        """One view per batch of samples that the model gets right, all sharing one meter."""
        yield from self.views_of(victim, correct(victim).nonzero()[:, 0], self.searched(victim))

    def views_of(self, victim: Victim, rows: Tensor, ball: Ball, target: Tensor | None = None) -> Iterator[Inputs]:
        """One view per batch of these test samples, all sharing one meter.

        Args:
            victim: Who is attacked.
            rows: Places of the samples among the victim's `(n,)`.
            ball: Where adversarial inputs may lie.
            target: Labels to reach `(N,)`, of all of the victim's samples; None for those that the goal asks for.
        """
        reach = self.ball.radius if self.closest else None
        meter = Meter(passes=Passes(victim.test.ids[rows], reach=reach, device=victim.device))
        engine = self._engine(victim, rows, meter)
        known = Known((victim.public or victim.train or victim.test).copy()) if self.access == "transfer" else None
        at_once = self.batch_size or max(_VIEW, engine.batch if engine is not None else 0)
        for index in torch.split(rows, at_once) if len(rows) > 0 else ():
            batch = victim.test.batch(index, victim.device)
            common: dict[str, Any] = {
                "x": victim.given(batch.x),
                "y": batch.y,
                "ids": batch.ids,
                "ball": ball,
                "classes": victim.test.classes,
                "target": self.targets(victim, batch) if target is None else target[index],
                "meter": meter,
                "closest": self.closest,
                "grid": victim.grid,
            }
            yield make_view(self.access, victim.model, common, self.query_budget, engine, known)

    def searched(self, victim: Victim) -> Ball:
        """Where adversarial inputs may lie: the ball, or anywhere within the bounds where distances are judged."""
        if self.closest and self.ball.radius > 0:
            return self.ball.everywhere(victim.test.shape, victim.test.bounds)
        return self.ball.within(victim.test.bounds)

    def _engine(self, victim: Victim, rows: Tensor, meter: Meter) -> FastPasses | None:
        # An oracle's answers may come from a copy where the network's logits are all that decides them.
        asked = self.access in _ASKED and isinstance(victim.model, Served)
        if len(rows) == 0 or not (asked or self.access == "white-box"):
            return None
        some = victim.given(victim.test.batch(rows[:TRIAL], victim.device).x)
        network, most = victim.model.surrogate(), self.batch_size
        return FastPasses(network, some, precision=self.precision, most=most, notes=meter.notes)

    def targets(self, victim: Victim, batch: Batch) -> Tensor | None:
        """The label that each of these samples shall be read as, `(n,)`; None for an untargeted goal."""
        (x, y, ids), classes = batch, victim.test.classes
        if self.goal == "untargeted":
            return None
        if self.target == "next":
            return (y + 1) % classes
        if self.target == "random":
            shift = 1 + Streams(0).child("targets").integers(ids, classes - 1)
            return (y + shift) % classes
        with torch.no_grad():
            logits = ask(victim.model, victim.given(x)).logits
        return logits.scatter(1, y[:, None], float("inf")).argmin(1)

    def score(self, victim: Victim, moves: Iterable[tuple[Inputs, Tensor]]) -> Metrics:
        """Check each artefact against the ball, measure it again, and count."""
        judge = _Judge(self, victim)
        for view, artefact in moves:
            judge.take(view, artefact)
        return judge.verdict()

    def review(self, attack: Attack[Inputs, Tensor], victim: Victim, metrics: Metrics, *, seed: int) -> Reviewed:
        """Let sanity checks examine the verdict, and follow-up attacks resolve what they suspect.

        Only white-box attacks of more than one step are examined, and only where `escalate` is on.
        """
        if not self._is_examined(attack) or "robust" not in metrics.per_sample:
            return Reviewed(metrics)
        from robustsuite.diagnostics.escalation import followed_up

        return followed_up(metrics, attack, self, victim, seed=seed)

    def _is_examined(self, attack: object) -> bool:
        if not self.escalate or self.access != "white-box" or self.ball.radius == 0:
            return False
        if getattr(attack, "one_step", False):
            return False
        try:
            return not registry.attacks.get(getattr(attack, "plugin_name", "")).control
        except RobustsuiteError:
            return True


def correct(victim: Victim) -> Tensor:
    """Which test samples the deployed model accepts and gets right; bool `(N,)`."""
    return (victim.clean.prediction == victim.test.y) & ~victim.clean.rejected


class _Judge:
    """Accumulates one verdict per test sample."""

    def __init__(self, game: Evasion, victim: Victim) -> None:
        n = len(victim.test)
        self._game, self._victim = game, victim
        self._ball, self._searched = game.ball.within(victim.test.bounds), game.searched(victim)
        self._clean = correct(victim)
        self._robust, self._hit = self._clean.clone(), torch.zeros(n, dtype=torch.bool)
        self._rejected, self._attacked = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        self._distance = torch.full((n,), math.nan, dtype=torch.float32)
        self._row = {int(i): row for row, i in enumerate(victim.test.ids.tolist())}
        self._flags: dict[str, None] = {}
        self._gallery: list[tuple[Tensor, ...]] = []
        self._meter = Meter()
        self._outside = 0

    def take(self, view: Inputs, moved: Tensor) -> None:
        """Judge one artefact."""
        self._meter = view.meter
        rows = torch.tensor([self._row[i] for i in view.ids.tolist()])
        # The attack was shown a copy of the view; of this one the ids say which of the victim's samples are judged.
        x, y, target = self._given(rows)
        _well_formed(moved, x)
        finite = torch.isfinite(moved.flatten(1)).all(1)
        inside = self._searched.contains(moved, x) & finite
        self._outside += int((~inside).sum())
        if not finite.all():
            self._flags[Suspicion.NON_FINITE] = None
        # A row over budget is never clipped: it counts as no adversarial input, so the clean one is judged instead.
        judged = torch.where(inside.reshape(-1, *[1] * (moved.dim() - 1)), moved, x)
        if self._victim.grid is not None:
            judged = self._searched.rounded(judged, x, self._victim.grid)
        wrong, rejected, prediction = self._ask(judged, y)
        self._attacked[rows] = True
        near = inside if not self._game.closest else self._ball.contains(judged, x) & inside
        self._robust[rows] = ~(wrong & near.cpu())
        self._rejected[rows] = rejected
        reached = wrong
        if target is not None:
            reached = (prediction == target.cpu()) & ~rejected
            self._hit[rows] = reached & near.cpu()
        distance = self._ball.distance(judged, x).float().cpu()
        self._distance[rows] = distance.masked_fill(~reached, math.inf) if self._game.closest else distance
        judged = torch.where(near.reshape(-1, *[1] * (moved.dim() - 1)), judged, x)
        prediction = torch.where(near.cpu(), prediction, y.cpu())
        kept = _GALLERY - sum(len(part[0]) for part in self._gallery)
        if kept > 0:
            images = (t[:kept].detach().float().cpu() for t in (x, judged))
            self._gallery.append((*images, y[:kept].cpu(), prediction[:kept]))

    def _given(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, labels and targets of these test samples, as the view was given them."""
        batch = self._victim.test.batch(rows, self._victim.device)
        target = self._game.targets(self._victim, batch)
        return self._victim.given(batch.x), batch.y, target

    def _ask(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Wrong and accepted, rejected, predicted label, in another batch size.

        Over several draws the majority counts, and a tie counts against the model.
        """
        size = (self._game.batch_size or _VIEW) * 3 // 4 + 1
        whole = self._victim.model.whole
        x = x if whole is None else x.to(whole)
        wrong, rejected, predictions = [], [], []
        with torch.no_grad():
            for rows, labels in zip(torch.split(x, size), torch.split(y, size), strict=True):
                answers = [ask(self._victim.model, rows) for _ in range(self._game.draws)]
                labelled = torch.stack([a.labels() for a in answers])
                turned_away = torch.stack([a.rejected for a in answers])
                if bool(((labelled == answers[0].logits.shape[1]) & ~turned_away).any()):
                    self._flags[Suspicion.NON_FINITE_ANSWERS] = None
                failures = ((labelled != labels) & ~turned_away).sum(0)
                wrong.append(failures * 2 >= self._game.draws)
                rejected.append(turned_away.sum(0) * 2 > self._game.draws)
                predictions.append(labelled.mode(0).values)
        return torch.cat(wrong).cpu(), torch.cat(rejected).cpu(), torch.cat(predictions).cpu()

    def verdict(self) -> Metrics:
        """Figures, doubts and per-sample columns."""
        self._doubt()
        status, message = self._status()
        message = "; ".join(part for part in (message, *self._meter.notes) if part)
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
        passes = self._passes()
        if passes is not None:
            columns["passes"] = passes
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

    def _passes(self) -> Tensor | None:
        """Passes by sample; None where some that were attacked cannot be told, as where ART calls the network."""
        own = self._game.access not in ("transfer", "blind")
        if not own or self._meter.passes is None or not self._attacked.any():
            return None
        told = self._meter.passes.told(self._victim.test.ids)
        return told if bool((told[self._attacked] > 0).all()) else None

    def _values(self, broken: Tensor, queries: Tensor) -> dict[str, Metric]:
        clean, test = self._victim.clean, self._victim.test
        values = {
            **rates(self._clean, self._robust),
            "clean_accuracy": rate(self._clean, "higher"),
        }
        if self._game.goal == "targeted":
            values["target_hit_rate"] = rate(self._hit[self._clean], "lower")
        # Where distances are judged, of all that were attacked, so that the radius does not cut them.
        told = self._distance[self._attacked if self._game.closest else broken]
        if len(told):
            values["distance_median"] = Metric(median(told), len(told), unit=self._game.ball.norm, better="higher")
        if self._meter.queries:
            asked = queries[self._attacked].double()
            values["queries_median"] = Metric(median(asked), len(asked), unit="queries", better="higher")
        if bool(clean.rejected.any()) or not self._victim.model.fully_differentiable:
            values["rejection_rate_clean"] = rate(clean.rejected, "lower")
            values["rejection_rate_attack"] = rate(self._rejected[self._attacked], "higher")
        if len(test) < 100:
            self._flags[Suspicion.FEW_SAMPLES] = None
        return values

    def _doubt(self) -> None:
        meter = self._meter
        self._flags.update(dict.fromkeys(self._victim.model.doubts))
        test = self._victim.test
        self._flags.update(dict.fromkeys(doubt_chance(self._clean, test.y, test.classes)))
        if self._outside:
            self._flags[Suspicion.OVER_BUDGET] = None
        if below_a_grey_level(self._ball, test.shape):
            self._flags[Suspicion.TINY_RADIUS] = None
        if meter.gradients and meter.zero_gradients > _MASKED * meter.gradients:
            self._flags[Suspicion.ZERO_GRADIENTS] = None
        if not self._victim.model.fully_differentiable and self._game.access == "white-box":
            self._flags[Suspicion.NOT_ADAPTIVE] = None
        if (self._victim.model.random or not self._victim.clean.deterministic) and self._game.draws == 1:
            self._flags[Suspicion.NONDETERMINISTIC] = None
        if bool(self._lost().any()):
            self._flags[Suspicion.LOST_ADVERSARIAL] = None

    def _lost(self) -> Tensor:
        """Which samples the attack saw reach the goal where it counts, and did not hand in so; bool `(N,)`."""
        ids = self._victim.test.ids.tolist()
        if not self._game.closest:
            seen = torch.tensor([int(i) in self._meter.fallen for i in ids])
            return seen & self._robust if self._game.goal == "untargeted" else torch.zeros_like(seen)
        nearest = torch.tensor([self._meter.nearest.get(int(i), math.inf) for i in ids], dtype=torch.float64)
        slack = 1e-6 * self._ball.radius
        return ((nearest <= self._ball.radius - slack) & (self._distance > self._ball.radius + slack)) | (
            nearest.isfinite() & self._distance.isinf()
        )

    def _status(self) -> tuple[str, str]:
        if Suspicion.NONDETERMINISTIC in self._flags:
            return "inconclusive", (
                "the model answers differently when asked twice; judge it over several draws (draws: 10)"
            )
        if Suspicion.PROBABILITIES in self._flags:
            return "inconclusive", "the model answers with probabilities that are rounded; attack its logits"
        if Suspicion.LOST_ADVERSARIAL in self._flags:
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
