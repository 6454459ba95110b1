"""Answers without a model: scores, labels, and for a transfer adversary data of its own; every query is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustsuite.access.inputs import Inputs
from robustsuite.access.passes import Owners
from robustsuite.core import checks
from robustsuite.core.errors import BudgetError
from robustsuite.core.samples import Samples


@dataclass(frozen=True, eq=False)
class Oracle(Inputs):
    """Answers without a model: each query is counted per sample against an enforced budget.

    Args:
        answer: Raw inputs to what the oracle says, `(n, …)`.
        budget: Most queries per sample; None for no limit.
    """

    answer: Callable[[Tensor], Tensor] = torch.nn.functional.relu
    budget: int | None = None

    def _ask(self, x: Tensor, rows: Tensor) -> Tensor:
        spent = self.meter.queries
        asked = Counter(self.ids[rows].tolist())
        for i, count in asked.items():
            if self.budget is not None and spent.get(i, 0) + count > self.budget:
                raise BudgetError(
                    f"expected at most {self.budget} queries per sample, got {spent.get(i, 0) + count} for sample {i}; "
                    f"return the best input found so far, or raise query_budget"
                )
        for i, count in asked.items():
            spent[i] = spent.get(i, 0) + count
        self.meter.forwards += len(rows)
        if self.meter.passes is not None:
            self.meter.passes.spend(Owners(self._places, rows))
        with torch.no_grad():
            return self.answer(self.given(x, rows))

    def remaining(self, row: int) -> float:
        """Queries left for one sample of this view; infinite without a budget."""
        if self.budget is None:
            return float("inf")
        return self.budget - self.meter.queries.get(int(self.ids[row]), 0)

    def left(self, most: int) -> Tensor:
        """Queries left for each sample of this view `(N,)`, or as many as this where more are."""
        counts = [int(min(most, self.remaining(row))) for row in range(len(self.y))]
        return torch.tensor(counts, dtype=torch.int64, device=self.x.device)

    def refuse_no_budget(self) -> None:
        """Refuse to play where no query is allowed.

        Raises:
            RequestError: The budget is below 1.
        """
        if self.budget is not None and self.budget < 1:
            raise checks.fail("at least 1 query per sample", "query_budget", self.budget, "raise it, or drop it")


@dataclass(frozen=True, eq=False)
class ScoreOracle(Oracle):
    """Probabilities and nothing else; a rejected input answers with zeros."""

    def scores(self, x: Tensor, rows: Tensor) -> Tensor:
        """Probabilities `(n, classes)` for inputs that belong to samples `rows`; one query each.

        Raises:
            BudgetError: A sample has no query left.
        """
        return self._ask(x, rows)


@dataclass(frozen=True, eq=False)
class LabelOracle(Oracle):
    """Labels and nothing else; a rejected input answers -1, and an answer that is not finite the number of classes."""

    def labels(self, x: Tensor, rows: Tensor) -> Tensor:
        """Predicted labels `(n,)` for inputs that belong to samples `rows`; one query each.

        Raises:
            BudgetError: A sample has no query left.
        """
        return self._ask(x, rows)


@dataclass(eq=False)
class AuxiliaryData:
    """What a transfer adversary holds beside the samples under attack, for a whole game.

    Args:
        samples: Inputs to ask the model about.
        made: What was made from them, by name, so that every view of the game uses the same.
    """

    samples: Samples
    made: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Transfer(ScoreOracle):
    """Scores, and data of one's own: enough to learn a surrogate, and to see what carries over from it.

    Args:
        auxiliary: Data that the adversary holds; None where there is none.
    """

    auxiliary: AuxiliaryData | None = None

    def answers(self, x: Tensor) -> Tensor:
        """Probabilities `(n, classes)` for inputs of one's own; no query of a sample under attack."""
        self.meter.forwards += len(x)
        with torch.no_grad():
            return self.answer(x)
