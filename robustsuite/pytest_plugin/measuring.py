"""Measure an existing model under one attack, on as many samples as the verdict needs."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.core.ball import BallLike
from robustsuite.core.deployed import Deployed
from robustsuite.core.isolation import seeded
from robustsuite.core.metric import Metric
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.processor import fair_threads
from robustsuite.core.samples import stratified
from robustsuite.core.streams import Streams
from robustsuite.evaluation.blank_records import blank_records
from robustsuite.evaluation.judge import judge
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import AttackLike, Game, arrange_all, ask_for_what_is_missing
from robustsuite.evaluation.user_model import existing
from robustsuite.pytest_plugin.joining import joined
from robustsuite.pytest_plugin.sequential import InterimLook, looks
from robustsuite.report.report import Report
from robustsuite.scenarios import STANDARD
from robustsuite.scenarios.victim import CleanAnswers, Victim

METRIC: Final = STANDARD.joined


class Measurement(NamedTuple):
    """What was seen when it was decided.

    Attributes:
        report: Records of the samples judged, as an evaluation on these alone would give them.
        found: The attack's record.
        metric: The robust accuracy that is judged, with the interval of the last look taken; None where the attack
            raised.
        look: That look.
        last: The look at all samples.
        given: Samples that were given.
    """

    report: Report
    found: Record
    metric: Metric | None
    look: InterimLook
    last: InterimLook
    given: int


Settled = Callable[[Metric, Record], bool]
"""Whether what was seen so far decides."""


def measure(
    model: nn.Module | Deployed,
    data: Any,
    attack: AttackLike,
    ball: BallLike,
    settled: Settled,
    *,
    seed: int = 0,
    classes: int | None = None,
    most: int | None = None,
    own: bool = False,
) -> Measurement:
    """Judge growing numbers of samples until what is seen decides, or all were judged.

    Samples are drawn without regard to their order, each class in its share. Each is attacked once: a look joins the
    verdicts on new samples with those before. No sample's verdict depends on who is judged beside it, but where a doubt
    about a look's new samples starts the attacks that resolve it.

    Args:
        model: From raw inputs to logits; left exactly as it was.
        data: `(x, y)`, a `Dataset`, a `DataLoader` or `Samples`; all of it is checked before anything is played.
        attack: An evasion attack.
        ball: Where it must stay.
        settled: Told the robust accuracy and the joined record at every look.
        seed: Keys every random draw, the order of the samples too.
        classes: Number of classes, by default what the logits say.
        most: At most so many samples; None for all.
        own: Whether the attack's own robust accuracy is judged; else the lower of that and what is left with its
            follow-up attacks.

    Raises:
        RequestError: Data or a request that cannot be judged.
        ModelError: Outputs that are no finite logits.
    """
    with fair_threads(), seeded(seed):
        games = arrange_all([attack], ball, {})
        victim = existing(model, data, ball=ball, classes=classes, seed=seed)
        ask_for_what_is_missing(games, victim)
        given = len(victim.test)
        plan = looks(min(given, most or given))
        folder = Path(tempfile.mkdtemp(prefix="robustsuite-"))
        try:
            report, metric, look = _Sequence(victim, games, seed, folder).run(plan, settled, own)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(report, shutil.rmtree, folder, ignore_errors=True)
    return Measurement(report, report.records[-1], metric, look, plan[-1], given)


class _Sequence:
    """Batches judged so far; none of them twice."""

    def __init__(self, victim: Victim, games: Sequence[Game], seed: int, folder: Path) -> None:
        self._victim, self._games, self._seed, self._folder = victim, games, seed, folder
        self._rows: list[Tensor] = []
        self._clean: list[CleanAnswers] = []
        self._parts: list[Record] = []

    def run(
        self, plan: Sequence[InterimLook], settled: Settled, own: bool
    ) -> tuple[Report, Metric | None, InterimLook]:
        """Look until it is settled; the report, the last figure and the look that gave it."""
        sizes = tuple(now.n - before for now, before in zip(plan, [0, *(look.n for look in plan)], strict=False))
        generator = Streams(self._seed).child("samples").generator()
        for look, rows in zip(plan, stratified(self._victim.test.y, sizes, generator), strict=True):
            self._take(rows)
            clean, attacked = self._blanks()
            found = joined(attacked, self._parts, self._folder, self._victim.test.classes)
            metric = None if found.status == "error" else _figure(found, look, own)
            if metric is None or look is plan[-1] or settled(metric, found):
                break
        seen = self._seen()
        first = judge(clean, self._games[0], seen, self._folder)
        return Report([first, found], self._folder), metric, look

    def _take(self, rows: Tensor) -> None:
        batch = replace(self._victim, test=self._victim.test.take(rows))
        self._clean.append(batch.clean)  # every answer is looked at before the attack
        self._rows.append(rows)
        _, blank = blank_records(self._games, batch, "model", self._seed)
        self._parts.append(judge(blank, self._games[1], batch, self._folder))

    def _blanks(self) -> list[Record]:
        return blank_records(self._games, self._seen(), "model", self._seed)

    def _seen(self) -> Victim:
        """The model with all samples so far and its answers to them."""
        seen = replace(self._victim, test=self._victim.test.take(torch.cat(self._rows)))
        # What was answered is known: asking again would cost a pass, and a model that draws could answer otherwise.
        parts = self._clean
        vars(seen)["clean"] = CleanAnswers(
            torch.cat([part.prediction for part in parts]),
            torch.cat([part.rejected for part in parts]),
            torch.cat([part.confidence for part in parts]),
            all(part.deterministic for part in parts),
        )
        return seen


def _figure(found: Record, look: InterimLook, own: bool) -> Metric:
    """The robust accuracy that is judged, with the interval that this look may give."""
    alone = found.metrics[METRIC]
    followed = found.metrics.get(METRIC + FOLLOWED_UP)
    figure = alone if own or followed is None else min(alone, followed, key=lambda metric: metric.value)
    low, high = look.interval(round(figure.value * figure.n))
    return replace(figure, low=low, high=high)
