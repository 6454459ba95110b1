"""Which metrics each game may give, so that what is asked of a metric can be checked before anything is played."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FOLLOWED_UP: Final = "_followed_up"
"""Ends the name of an evasion metric that holds what the attack and its follow-up attacks broke together."""

_EVASION: Final = {
    "robust_accuracy": "rate",
    "robust_accuracy_followed_up": "rate",
    "attack_success_rate": "rate",
    "attack_success_rate_followed_up": "rate",
    "attack_success_rate_all": "rate",
    "attack_success_rate_all_followed_up": "rate",
    "clean_accuracy": "rate",
    "target_hit_rate": "rate",
    "target_hit_rate_followed_up": "rate",
    "distance_median": "distance",
    "queries_median": "queries",
    "rejection_rate_clean": "rate",
    "rejection_rate_attack": "rate",
}
_UTILITY: Final = {
    "clean_accuracy": "rate",
    "precision_macro": "rate",
    "recall_macro": "rate",
    "f1_macro": "rate",
    "rejection_rate_clean": "rate",
    "expected_calibration_error": "rate",
    "latency_ms": "milliseconds",
    "parameters": "count",
    "epsilon": "nats",
    "delta": "",
    "train_seconds": "seconds",
}
_POISONING: Final = {
    "clean_accuracy": "rate",
    "accuracy_drop": "rate difference",
    "recall_worst_class": "rate",
    "backdoor_success_rate": "rate",
    "backdoor_success_rate_clean_twin": "rate",
    "rejection_rate_attack": "rate",
    "poisoned": "count",
}
_INVERSION: Final = {
    "inversion_accuracy": "rate",
    "inversion_accuracy_top5": "rate",
    "inversion_ssim": "ssim",
    "inversion_distance_members": "l2",
    "evaluator_accuracy": "rate",
}
GIVEN: Final[Mapping[str, Mapping[str, str]]] = {
    "utility": _UTILITY,
    "evasion": _EVASION,
    "poisoning": _POISONING,
    "inversion": _INVERSION,
}
"""Game -> metric -> unit (`distance` is that of the ball), also of metrics that only some records have."""
