"""What one adversary may touch: a white box, oracles, inputs alone; and the fast passes below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily

if TYPE_CHECKING:
    from robustsuite.access.batch_view import BatchView
    from robustsuite.access.best_so_far import BestSoFar
    from robustsuite.access.inputs import Inputs
    from robustsuite.access.oracles import LabelOracle, Oracle, ScoreOracle, Transfer
    from robustsuite.access.values import Jacobian, Transform, Value, ValueAndGrad
    from robustsuite.access.white_box import WhiteBox
else:
    __getattr__ = lazily(
        __name__,
        {
            "BatchView": ".batch_view",
            "BestSoFar": ".best_so_far",
            "Inputs": ".inputs",
            "Jacobian": ".values",
            "LabelOracle": ".oracles",
            "Oracle": ".oracles",
            "ScoreOracle": ".oracles",
            "Transfer": ".oracles",
            "Transform": ".values",
            "Value": ".values",
            "ValueAndGrad": ".values",
            "WhiteBox": ".white_box",
        },
    )

__all__ = [
    "BatchView",
    "BestSoFar",
    "Inputs",
    "Jacobian",
    "LabelOracle",
    "Oracle",
    "ScoreOracle",
    "Transfer",
    "Transform",
    "Value",
    "ValueAndGrad",
    "WhiteBox",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
