"""The judge of evasion: every artefact is checked against the ball, measured again, and counted."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from robustsuite.access.inputs import Inputs
from robustsuite.access.meter import Meter
from robustsuite.core.deployed import Outputs, ask_each
from robustsuite.core.errors import BudgetError, RequestError
from robustsuite.core.intervals import median, rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.payloads import Images, outcomes
from robustsuite.core.radii import below_a_grey_level
from robustsuite.core.robust import rates
from robustsuite.core.rows import per_sample
from robustsuite.core.suspicions import Suspicion
from robustsuite.scenarios.chance import doubt_chance
from robustsuite.scenarios.evasion.rules import VIEW, EvasionRules
from robustsuite.scenarios.victim import Victim

_GALLERY: Final = 8  # samples of each game whose images are kept
_MASKED: Final = 0.1  # share of zero gradients from which the gradient is doubted


class Judge:
    """Accumulates one verdict per test sample.

    Args:
        game: The rules that were played by.
        victim: Who was attacked.
    """

    def __init__(self, game: EvasionRules, victim: Victim) -> None:
        n = len(victim.test)
        self._game, self._victim = game, victim
        self._ball, self._searched = game.ball.within(victim.test.bounds), game.searched(victim)
        self._clean = victim.correct
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
        judged = torch.where(per_sample(inside, moved), moved, x)
        if self._victim.grid is not None:
            judged = self._searched.rounded(judged, x, self._victim.grid)
        wrong, rejected, prediction = self._ask(judged, y)
        self._attacked[rows] = True
        near = inside if not self._game.minimum_norm else self._ball.contains(judged, x) & inside
        self._robust[rows] = ~(wrong & near.cpu())
        self._rejected[rows] = rejected
        reached = wrong
        if target is not None:
            reached = (prediction == target.cpu()) & ~rejected
            self._hit[rows] = reached & near.cpu()
        distance = self._ball.distance(judged, x).float().cpu()
        self._distance[rows] = distance.masked_fill(~reached, math.inf) if self._game.minimum_norm else distance
        judged = torch.where(per_sample(near, moved), judged, x)
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
        size = (self._game.batch_size or VIEW) * 3 // 4 + 1
        whole = self._victim.model.whole
        x = x if whole is None else x.to(whole)
        wrong, rejected, predictions = [], [], []
        with torch.no_grad():
            for rows, labels in zip(torch.split(x, size), torch.split(y, size), strict=True):
                answers = [self._answer(rows) for _ in range(self._game.draws)]
                labelled = torch.stack([a.labels() for a in answers])
                turned_away = torch.stack([a.rejected for a in answers])
                if bool(((labelled == answers[0].logits.shape[1]) & ~turned_away).any()):
                    self._flags[Suspicion.NON_FINITE_ANSWERS] = None
                failures = ((labelled != labels) & ~turned_away).sum(0)
                wrong.append(failures * 2 >= self._game.draws)
                rejected.append(turned_away.sum(0) * 2 > self._game.draws)
                predictions.append(labelled.mode(0).values)
        return torch.cat(wrong).cpu(), torch.cat(rejected).cpu(), torch.cat(predictions).cpu()

    def _answer(self, x: Tensor) -> Outputs:
        return ask_each(self._victim.model, x, self._victim.test.classes, self._meter.raised)

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
        cost = {
            "forwards": self._meter.forwards,
            "backwards": self._meter.backwards,
            "queries": self._meter.total_queries,
        }
        values = self._values(broken, queries)
        return Metrics(values, tuple(self._flags), status, message, columns, cost, payloads=self._images())

    def _images(self) -> tuple[Images, ...]:
        """The first samples of the game, before and after."""
        if not self._gallery:
            return ()
        clean, moved, labels, predicted = (torch.cat([part[i] for part in self._gallery]) for i in range(4))
        rows = (("clean", clean), ("adversarial", moved))
        captions, marked = outcomes(labels.tolist(), predicted.tolist())
        return (
            Images("adversarial inputs", rows, captions, marked, self._victim.test.bounds, ("clean", "adversarial")),
        )

    def _passes(self) -> Tensor | None:
        """Passes by sample; None where some that were attacked cannot be told, as where ART calls the network."""
        own = self._game.access not in ("transfer", "blind")
        if not own or self._meter.passes is None or not self._attacked.any():
            return None
        told = self._meter.passes.until_broken(self._victim.test.ids)
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
        told = self._distance[self._attacked if self._game.minimum_norm else broken]
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
        if meter.raised:
            self._flags[Suspicion.RAISES_ON_PERTURBED] = None
        if bool(self._lost().any()):
            self._flags[Suspicion.FOUND_NOT_RETURNED] = None

    def _lost(self) -> Tensor:
        """Which samples the attack saw reach the goal where it counts, and did not return so; bool `(N,)`."""
        ids = self._victim.test.ids.tolist()
        if not self._game.minimum_norm:
            seen = torch.tensor([int(i) in self._meter.broken for i in ids])
            return seen & self._robust if self._game.goal == "untargeted" else torch.zeros_like(seen)
        nearest = torch.tensor([self._meter.nearest.get(int(i), math.inf) for i in ids], dtype=torch.float64)
        slack = 1e-6 * self._ball.radius
        return ((nearest <= self._ball.radius - slack) & (self._distance > self._ball.radius + slack)) | (
            nearest.isfinite() & self._distance.isinf()
        )

    def _status(self) -> tuple[str, str]:
        if Suspicion.NONDETERMINISTIC in self._flags:
            return "inconclusive", (
                "the model answers differently when queried twice; judge it over several draws (draws: 10)"
            )
        if self._meter.raised:
            return "inconclusive", self._meter.raised.told()
        if Suspicion.PROBABILITIES in self._flags:
            return "inconclusive", "the model answers with probabilities that are rounded; attack its logits"
        if Suspicion.FOUND_NOT_RETURNED in self._flags:
            return "inconclusive", "the attack found adversarial inputs and did not return them"
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
