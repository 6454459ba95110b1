"""Measure an existing model under one attack, on as many samples as the verdict needs."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import nn

from robustsuite.core.ball import BallLike
from robustsuite.core.deployed import Deployed
from robustsuite.core.isolation import seeded
from robustsuite.core.metric import Metric
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.processor import fair_threads
from robustsuite.evaluation.clock import Clock, TimeBudget, looked
from robustsuite.evaluation.growing import Growing
from robustsuite.evaluation.looks import InterimLook, looks, looks_at_any_time
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import AttackLike, arrange_all, ask_for_what_is_missing
from robustsuite.evaluation.user_model import existing
from robustsuite.evaluation.within_time import limited, unjudged
from robustsuite.report.report import Report
from robustsuite.scenarios import STANDARD

METRIC: Final = STANDARD.joined


class Measurement(NamedTuple):
    """What was seen when it was decided.

    Attributes:
        report: Records of the samples judged, as an evaluation on these alone would give them.
        found: The attack's record.
        metric: The robust accuracy that is judged, with the interval of the last look taken; None where the attack
            raised, or time ended before the first look.
        look: That look; None where there was no time for one.
        last: The look at all samples.
        given: Samples that were given.
    """

    report: Report
    found: Record
    metric: Metric | None
    look: InterimLook | None
    last: InterimLook
    given: int

    @property
    def used(self) -> int:
        """Samples that were judged."""
        return 0 if self.look is None else self.look.n


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
    budget: TimeBudget | None = None,
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
        budget: Time for all of it, which ends it too; None for as long as it takes.

    Raises:
        RequestError: Data or a request that cannot be judged.
        ModelError: Outputs that are no finite logits.
    """
    with fair_threads(), seeded(seed):
        games = arrange_all([attack], ball, {})
        victim = existing(model, data, ball=ball, classes=classes, seed=seed)
        ask_for_what_is_missing(games, victim)
        given = len(victim.test)
        n = min(given, most or given)
        plan, clock = (looks(n), None) if budget is None else (looks_at_any_time(n), Clock(budget, ""))
        folder = Path(tempfile.mkdtemp(prefix="robustsuite-"))
        try:
            growing = Growing(victim, games, seed, folder)
            metric, look = _grown(growing, plan, clock, settled, own)
            report = Report(_records(growing, plan, clock), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(report, shutil.rmtree, folder, ignore_errors=True)
    return Measurement(report, report.records[-1], metric, look, plan[-1], given)


def _grown(
    growing: Growing, plan: Sequence[InterimLook], clock: Clock | None, settled: Settled, own: bool
) -> tuple[Metric | None, InterimLook | None]:
    """Look until it is settled or time is up; the last figure, and the look that gave it."""
    metric, last = None, None
    for look in looked(growing, plan, clock):
        (found,), last = growing.attacked(), look
        metric = None if found.status == "error" else _figure(found, look, own)
        if metric is None or settled(metric, found):
            break
    return metric, last


def _records(growing: Growing, plan: Sequence[InterimLook], clock: Clock | None) -> list[Record]:
    facts = {} if clock is None else clock.facts(plan, growing.n)
    if growing.n == 0:
        return [unjudged(blank, plan, facts) for blank in growing.blanks()]
    records = [growing.clean(), *growing.attacked()]
    return [limited(record, facts) for record in records] if facts else records


def _figure(found: Record, look: InterimLook, own: bool) -> Metric:
    """The robust accuracy that is judged, with the interval that this look may give."""
    alone = found.metrics[METRIC]
    followed = found.metrics.get(METRIC + FOLLOWED_UP)
    figure = alone if own or followed is None else min(alone, followed, key=lambda metric: metric.value)
    low, high = look.interval(round(figure.value * figure.n))
    return replace(figure, low=low, high=high)
