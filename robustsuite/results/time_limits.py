"""What a budget of time allowed, and what more of it would buy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from robustsuite.core.deadline import in_words
from robustsuite.core.intervals import clopper_pearson
from robustsuite.results.deciding import more_samples, samples_needed
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric
    from robustsuite.evaluation.records import Record


def sentences(records: Iterable[Record]) -> list[str]:
    """For each verdict of an evaluation whose time was limited: what was judged in it, and what all of it would take.

    Args:
        records: As `Results.joined` gives them.

    Returns:
        Empty where no time was limited.
    """
    limited = [record for record in records if record.budget and record.meaning.joined]
    verdicts = [record for record in limited if record.attack == WORST] or limited
    return list(dict.fromkeys(_sentence(record) for record in verdicts))


def _sentence(record: Record) -> str:
    budget, name = record.budget, record.meaning.joined
    judged, given = int(budget["judged"]), int(budget["given"])
    metric = record.figures.get(name)
    span = in_words(float(budget["spent"]))
    if judged == 0:
        return f"{span} were too short to judge any of the {given} samples"
    if metric is None or metric.low is None or metric.high is None:
        return f"{judged} of {given} samples in {span}: {record.message}"
    figure = f"{record.meaning.spec(name).words} {metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"
    if judged == given:
        return f"all {given} samples in {span}; {figure}"
    low, high = clopper_pearson(round(metric.value * given), given, float(budget["full_level"]))
    takes = in_words(seconds_for(budget, given))
    return (
        f"{judged} of {given} samples in {span}; {figure}; all {given} would take about {takes} and give "
        f"±{(high - low) / 2:.2f}"
    )


def seconds_for(budget: Mapping[str, Any], n: int) -> float:
    """About how long it takes until so many samples are judged, with what was spent so far."""
    return float(budget["spent"]) + float(budget.get("per_sample", math.nan)) * (n - int(budget["judged"]))


def advice(metric: Metric, threshold: float, budget: Mapping[str, Any]) -> str:
    """What would settle a figure whose interval holds the threshold: how many more samples, and how much time.

    Args:
        metric: A rate, with its interval.
        threshold: The floor or the ceiling, in [0, 1].
        budget: What its record says of the time.
    """
    given, judged = int(budget["given"]), int(budget["judged"])
    counted = metric.n / judged  # of some rates, not all samples count

    def bounds(successes: int, n: int) -> tuple[float, float]:
        full = n >= counted * given
        return clopper_pearson(successes, n, float(budget["full_level" if full else "level"]))

    needed = samples_needed(metric.value, threshold, more_than=metric.n, bounds=bounds)
    told = more_samples(metric.n, needed)
    if needed is None or judged == given:
        return told
    many = math.ceil(needed / counted)
    if many > given:
        return (
            f"{told}; only {given} are given, and all of them would take about {in_words(seconds_for(budget, given))}"
        )
    return (
        f"{told}; with the same --out, a budget of about {in_words(seconds_for(budget, many))} in all has room for them"
    )
