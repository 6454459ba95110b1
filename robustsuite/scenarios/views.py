"""What an evasion adversary may touch: a white-box module, a score oracle, a label oracle, or only the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from robustsuite import losses
from robustsuite.errors import BudgetError
from robustsuite.isolation import differentiable
from robustsuite.serving import Deployed, Served
from robustsuite.threat import Ball


@dataclass(eq=False)
class Meter:
    """What an attack has spent and seen, counted in samples."""

    forwards: int = 0
    backwards: int = 0
    gradients: int = 0
    zero_gradients: int = 0
    queries: dict[int, int] = field(default_factory=dict)
    fallen: set[int] = field(default_factory=set)

    @property
    def total_queries(self) -> int:
        """Queries over all samples."""
        return sum(self.queries.values())


class Counted(nn.Module):
    """A module whose forward and backward passes are counted, whoever calls it."""

    def __init__(self, inner: nn.Module, meter: Meter) -> None:
        super().__init__()
        self.inner, self._meter = inner, meter

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the module inside."""
        self._meter.forwards += len(x)
        logits: Tensor = self.inner(x)
        if logits.requires_grad:
            n, meter = len(x), self._meter

            def count(gradient: Tensor) -> Tensor:
                meter.backwards += n
                return gradient

            logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits


class Ascent(NamedTuple):
    """One forward and one backward pass: `loss (n,)`, `gradient (n, …)`, `fallen (n,)` at the input given."""

    loss: Tensor
    gradient: Tensor
    fallen: Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples and a ball; all that an adversary without any model holds.

    Args:
        x: Inputs `(N, …)` in the model's dtype and raw units; not to be written to.
        y: Labels `(N,)`.
        ids: Sample ids `(N,)` that key random draws.
        ball: Where adversarial inputs must lie.
        classes: Number of classes.
        target: Labels `(N,)` to reach, or None for an untargeted goal.
        meter: What was spent so far.
        closest: Whether the nearest adversarial input is wanted, because distances are judged; else any in the ball
            will do, and a sample for which one is found needs no further pass.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    ball: Ball
    classes: int
    target: Tensor | None = None
    meter: Meter = field(default_factory=Meter)
    closest: bool = False

    def take(self, rows: Tensor) -> Self:
        """The same view of fewer samples."""
        target = None if self.target is None else self.target[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows], target=target)

    def halves(self) -> tuple[Self, ...]:
        """Two views of half the samples each; none where there is only one sample."""
        if len(self.y) < 2:
            return ()
        index = torch.arange(len(self.y), device=self.y.device)
        return self.take(index[: len(index) // 2]), self.take(index[len(index) // 2 :])

    def goal_reached(self, prediction: Tensor, rows: Tensor | None = None) -> Tensor:
        """Whether these predictions reach the adversary's goal; bool `(n,)`."""
        if self.target is None:
            return prediction != (self.y if rows is None else self.y[rows])
        return prediction == (self.target if rows is None else self.target[rows])


@dataclass(frozen=True, eq=False)
class WhiteBox(Inputs):
    """The model itself, differentiable.

    Args:
        model: Raw inputs to logits; every pass through it is counted.
        deployed: Asked whether a wrong answer is also accepted, where the deployed model is more than `model`.
    """

    model: nn.Module = field(default_factory=nn.Identity)
    deployed: Deployed | None = None

    def ascend(
        self, x: Tensor, rows: Tensor, loss: losses.AttackLoss = losses.cross_entropy, *, gradient: bool = True
    ) -> Ascent:
        """Loss, its input gradient, and whether `x` has already reached the goal, all from one forward pass.

        Args:
            x: Current inputs `(n, …)`.
            rows: Which samples of this view they belong to, `(n,)`.
            loss: What to maximise, per sample.
            gradient: Whether to run the backward pass; without it the gradient is empty.
        """
        if not gradient:
            with torch.no_grad():
                logits = self.model(x)
                values = loss(logits, self.y[rows], None if self.target is None else self.target[rows])
                return Ascent(values, x.new_empty(0), self._fallen(x, logits, rows))
        with differentiable():
            # Copied in here, because what a caller makes in inference mode cannot be saved for a backward pass.
            leaf = x.detach().clone().requires_grad_(True)
            y = self.y[rows]
            target = None if self.target is None else self.target[rows]
            logits = self.model(leaf)
            values = loss(logits, y, target)
            slope = None
            if values.requires_grad:  # not so where the model computes its answer outside of autograd
                (slope,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        slope = torch.zeros_like(x) if slope is None else slope.detach()
        logits = logits.detach()
        fallen = self._fallen(x, logits, rows)
        standing = ~fallen
        self.meter.gradients += int(standing.sum())
        self.meter.zero_gradients += int((standing & (slope.flatten(1).abs().amax(1) == 0)).sum())
        return Ascent(values.detach(), slope, fallen)

    def fallen(self, x: Tensor, rows: Tensor) -> Tensor:
        """Whether these inputs reach the goal on the deployed model; bool `(n,)`."""
        with torch.no_grad():
            return self._fallen(x, self.model(x), rows)

    def _fallen(self, x: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        reached = self.goal_reached(logits.argmax(1), rows)
        if self.deployed is not None and reached.any():
            with torch.no_grad():
                self.meter.forwards += int(reached.sum())
                answer = self.deployed(x[reached])
            reached = reached.clone()
            reached[reached.clone()] = self.goal_reached(answer.logits.argmax(1), rows[reached]) & ~answer.rejected
        self.meter.fallen.update(self.ids[rows][reached].tolist())
        return reached


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
        with torch.no_grad():
            return self.answer(x)

    def remaining(self, row: int) -> float:
        """Queries left for one sample of this view; infinite without a budget."""
        if self.budget is None:
            return float("inf")
        return self.budget - self.meter.queries.get(int(self.ids[row]), 0)


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
    """Labels and nothing else; a rejected input answers -1."""

    def labels(self, x: Tensor, rows: Tensor) -> Tensor:
        """Predicted labels `(n,)` for inputs that belong to samples `rows`; one query each.

        Raises:
            BudgetError: A sample has no query left.
        """
        return self._ask(x, rows)


def make_view(access: str, deployed: Deployed, common: dict[str, Any], budget: int | None = None) -> Inputs:
    """The view that this access grants; by construction it holds nothing more.

    Args:
        access: `white-box`, `scores`, `labels` or `blind`.
        deployed: The model under attack.
        common: Fields of `Inputs`.
        budget: Queries per sample for an oracle.
    """
    meter: Meter = common["meter"]
    if access == "white-box":
        surrogate = deployed.surrogate()
        # A served network answers by its logits alone, so that one pass tells both its loss and its verdict.
        more = None if isinstance(deployed, Served) else deployed
        return WhiteBox(**common, model=Counted(surrogate, meter), deployed=more)
    if access == "scores":

        def probabilities(x: Tensor) -> Tensor:
            logits, rejected = deployed(x)
            return logits.softmax(1).masked_fill(rejected[:, None], 0.0)

        return ScoreOracle(**common, answer=probabilities, budget=budget)
    if access == "labels":

        def decide(x: Tensor) -> Tensor:
            logits, rejected = deployed(x)
            return logits.argmax(1).masked_fill(rejected, -1)

        return LabelOracle(**common, answer=decide, budget=budget)
    return Inputs(**common)
