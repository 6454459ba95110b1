"""The nouns that everything else is made of, and what computes with them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily

if TYPE_CHECKING:
    from robustsuite.core.ball import Ball, Threat
    from robustsuite.core.deployed import Deployed, Outputs, Served
    from robustsuite.core.errors import BudgetError, ModelError, NotApplicableError, RequestError, RobustsuiteError
    from robustsuite.core.features import last_dense, penultimate
    from robustsuite.core.gate import Gate
    from robustsuite.core.metric import Metric, Metrics
    from robustsuite.core.metrics import MetricSpec
    from robustsuite.core.payloads import Cost, History, Images, Scores, Sweep
    from robustsuite.core.samples import Batch, Samples
    from robustsuite.core.splits import Splits
    from robustsuite.core.streams import Streams
    from robustsuite.core.suspicions import Suspicion
else:
    __getattr__ = lazily(
        __name__,
        {
            "Ball": ".ball",
            "Batch": ".samples",
            "BudgetError": ".errors",
            "Cost": ".payloads",
            "Deployed": ".deployed",
            "Gate": ".gate",
            "History": ".payloads",
            "Images": ".payloads",
            "Metric": ".metric",
            "MetricSpec": ".metrics",
            "Metrics": ".metric",
            "ModelError": ".errors",
            "NotApplicableError": ".errors",
            "Outputs": ".deployed",
            "RequestError": ".errors",
            "RobustsuiteError": ".errors",
            "Samples": ".samples",
            "Scores": ".payloads",
            "Served": ".deployed",
            "Splits": ".splits",
            "Streams": ".streams",
            "Suspicion": ".suspicions",
            "Sweep": ".payloads",
            "Threat": ".ball",
            "last_dense": ".features",
            "penultimate": ".features",
        },
    )

__all__ = [
    "Ball",
    "Batch",
    "BudgetError",
    "Cost",
    "Deployed",
    "Gate",
    "History",
    "Images",
    "Metric",
    "MetricSpec",
    "Metrics",
    "ModelError",
    "NotApplicableError",
    "Outputs",
    "RequestError",
    "RobustsuiteError",
    "Samples",
    "Scores",
    "Served",
    "Splits",
    "Streams",
    "Suspicion",
    "Sweep",
    "Threat",
    "last_dense",
    "penultimate",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
