"""What evasion measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from robustsuite.core.metrics import DISTANCE, FOLLOWED_UP, POWER, MetricSpec

ROBUST: Final = "robust_accuracy"


def _with_follow_ups(name: str, spec: MetricSpec) -> dict[str, MetricSpec]:
    """A rate that follow-up attacks may make worse, and what it is with them."""
    with_them = replace(spec, words=f"{spec.words} with follow-up attacks", headline=False, outcome="")
    return {name: spec, name + FOLLOWED_UP: with_them}


METRICS: Final = {
    "clean_accuracy": MetricSpec(words="clean accuracy", better="higher", untouched=True),
    **_with_follow_ups(ROBUST, MetricSpec(words="robust accuracy", better="higher", headline=True, outcome="robust")),
    **_with_follow_ups("attack_success_rate", MetricSpec(words="attack success", better="lower")),
    **_with_follow_ups("attack_success_rate_all", MetricSpec(words="robust error", better="lower")),
    **_with_follow_ups("target_hit_rate", MetricSpec(words="target hits", better="lower")),
    **_with_follow_ups(POWER, MetricSpec(words="attack power")),
    "distance_median": MetricSpec(words="median distance", unit=DISTANCE, better="higher", undirected=True),
    "queries_median": MetricSpec(words="median queries", unit="queries", better="higher", undirected=True),
    "rejection_rate_clean": MetricSpec(words="rejected clean inputs", better="lower", untouched=True),
    "rejection_rate_attack": MetricSpec(words="rejected attacks", better="higher", undirected=True),
}
