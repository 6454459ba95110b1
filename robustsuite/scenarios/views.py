"""What an evasion adversary may touch: a white-box module, scores, labels, data to learn from, or only the inputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor, nn

from robustsuite import losses
from robustsuite.data.samples import Samples
from robustsuite.door import labels_of
from robustsuite.errors import BudgetError
from robustsuite.gradients import input_slope
from robustsuite.isolation import differentiable
from robustsuite.scenarios.engine import Engine
from robustsuite.scenarios.passes import Owners, Passes
from robustsuite.serving import Deployed, Outputs, Served, ask, door
from robustsuite.threat import Ball

_FEW: Final = 16  # samples that fill a pass, where no engine says
_LATE: Final = 0.75  # of an attack, from which on its loss should lie on a plateau


@dataclass(eq=False)
class Meter:
    """What an attack has spent and seen, counted in samples.

    Args:
        forwards: Forward passes.
        backwards: Backward passes.
        gradients: Input gradients at points that still stood.
        zero_gradients: Those of them that were zero everywhere.
        broken_gradients: Those of them that were not finite; what is not finite in them was taken as zero.
        queries: Questions to an oracle, by sample id.
        fallen: Ids of samples that were seen to reach the goal within the ball.
        nearest: Where distances are judged, the least at which a sample was seen to reach the goal, by its id.
        notes: What the record should say, each once.
        passes: Passes by sample, where somebody wants to know.
    """

    forwards: int = 0
    backwards: int = 0
    gradients: int = 0
    zero_gradients: int = 0
    broken_gradients: int = 0
    queries: dict[int, int] = field(default_factory=dict)
    fallen: set[int] = field(default_factory=set)
    nearest: dict[int, float] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    passes: Passes | None = None
    _climbs: dict[tuple[losses.AttackLoss, int], tuple[float, float]] = field(default_factory=dict, repr=False)

    @property
    def total_queries(self) -> int:
        """Queries over all samples."""
        return sum(self.queries.values())

    def met(self, ids: Tensor, distances: Tensor) -> None:
        """Keep the least distance at which each of these samples was seen to reach the goal."""
        for i, distance in zip(ids.tolist(), distances.tolist(), strict=True):
            if distance < self.nearest.get(i, math.inf):
                self.nearest[i] = distance

    def climbed(self, loss: losses.AttackLoss, ids: Tensor, values: Tensor, done: float) -> None:
        """Keep each sample's greatest loss, before and after three quarters of an attack.

        Args:
            loss: What was maximised, as values of different losses do not compare.
            ids: Sample ids `(n,)`.
            values: Losses `(n,)`.
            done: How much of the attack is done, in [0, 1].
        """
        late = done >= _LATE
        for i, value in zip(ids.tolist(), values.tolist(), strict=True):
            early, last = self._climbs.get((loss, i), (-math.inf, -math.inf))
            self._climbs[loss, i] = (early, max(last, value)) if late else (max(early, value), last)

    def rising(self, tolerance: float = 0.05) -> float:
        """Share of standing samples whose loss the last quarter still raised, by more than this share of its size.

        NaN where no attack told how far it was, or nothing stands.
        """
        gains = [
            late - early > tolerance * max(abs(early), abs(late))
            for (_, i), (early, late) in self._climbs.items()
            if i not in self.fallen and math.isfinite(early) and math.isfinite(late)
        ]
        return sum(gains) / len(gains) if gains else math.nan


class Counted(nn.Module):
    """A module whose forward and backward passes are counted, whoever calls it."""

    def __init__(self, inner: nn.Module, meter: Meter) -> None:
        super().__init__()
        self.inner, self._meter = inner, meter

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the module inside."""
        self._meter.forwards += len(x)
        passes = self._meter.passes
        owners = None if passes is None else passes.owners(len(x))
        if passes is not None and owners is not None:
            passes.spend(owners)
        logits: Tensor = self.inner(x)
        if logits.requires_grad:
            n, meter = len(x), self._meter

            def count(gradient: Tensor) -> Tensor:
                meter.backwards += n
                if passes is not None and owners is not None:
                    passes.spend(owners)
                return gradient

            logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits


class Ascent(NamedTuple):
    """One forward and one backward pass: `loss (n,)`, `gradient (n, …)`, `fallen (n,)` at the input given."""

    loss: Tensor
    gradient: Tensor
    fallen: Tensor


class Jacobian(NamedTuple):
    """One forward and k backward passes: `values (n, k)`, `gradients (n, k, …)`, `fallen (n,)` at the input given."""

    values: Tensor
    gradients: Tensor
    fallen: Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples and a ball; all that an adversary without any model holds.

    Args:
        x: Inputs `(N, …)` in the model's dtype and raw units; a copy, as are labels, ids, targets and the ball.
        y: Labels `(N,)`.
        ids: Sample ids `(N,)` that key random draws.
        ball: Where adversarial inputs must lie.
        classes: Number of classes.
        target: Labels `(N,)` to reach, or None for an untargeted goal.
        meter: What was spent so far.
        closest: Whether the nearest adversarial input is wanted, because distances are judged; else any in the ball
            will do, and a sample for which one is found needs no further pass.
        grid: What inputs are rounded to on their way to the model, within the ball; None where it computes in the dtype
            of `x`.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    ball: Ball
    classes: int
    target: Tensor | None = None
    meter: Meter = field(default_factory=Meter)
    closest: bool = False
    grid: torch.dtype | None = None

    def given(self, x: Tensor, rows: Tensor) -> Tensor:
        """What the model is given for inputs `(n, …)` that belong to samples `rows`."""
        return x if self.grid is None else self.ball.rounded(x, self.x[rows], self.grid)

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

    @cached_property
    def _places(self) -> Tensor:
        return self.ids if self.meter.passes is None else self.meter.passes.places(self.ids)

    def _passing(self, rows: Tensor) -> AbstractContextManager[None]:
        """Passes meanwhile are those of these rows."""
        return nullcontext() if self.meter.passes is None else self.meter.passes.of(Owners(self._places, rows))


Through = Callable[[Tensor, Tensor], Tensor]
"""A differentiable map of inputs `(n, …)` that belong to samples `rows (n,)`, applied before the model."""


class Wish(NamedTuple):
    """What one pass is for; the options of `WhiteBox.ascend`."""

    gradient: bool
    standing: bool
    through: Through | None
    done: float | None
    verify: bool


@dataclass(frozen=True, eq=False)
class WhiteBox(Inputs):
    """The model itself, differentiable.

    Args:
        model: Raw inputs to logits; every pass through it is counted.
        deployed: Asked whether a wrong answer is also accepted, where the deployed model is more than `model`.
        engine: How gradients are computed; None for one plain pass of `model` in one batch.
    """

    model: nn.Module = field(default_factory=nn.Identity)
    deployed: Deployed | None = None
    engine: Engine | None = None

    @cached_property
    def proxy(self) -> nn.Module:
        """What to differentiate through: `model`, or a counted copy of it that is faster and rounds differently."""
        if self.engine is None or not self.engine.copied:
            return self.model
        return Counted(self.engine.copy, self.meter)

    @property
    def full(self) -> int:
        """Samples from which on a pass costs in proportion; up to there, restarts may run side by side for little."""
        return _FEW if self.engine is None else self.engine.full

    def ascend(
        self,
        x: Tensor,
        rows: Tensor,
        loss: losses.AttackLoss = losses.cross_entropy,
        *,
        gradient: bool = True,
        standing: bool = False,
        aim: Tensor | None = None,
        through: Through | None = None,
        done: float | None = None,
        verify: bool = True,
    ) -> Ascent:
        """Loss, its input gradient, and whether `x` has already reached the goal, all from one forward pass.

        Args:
            x: Current inputs `(n, …)`.
            rows: Which samples of this view they belong to, `(n,)`.
            loss: What to maximise, per sample.
            gradient: Whether to run the backward pass; without it the gradient is empty.
            standing: Whether gradients are wanted only where the goal is not reached; they are zero elsewhere.
            aim: What the loss is told as targets `(n,)`, in place of the goal's; the goal stays as it is.
            through: What inputs pass on their way to the model; then nothing is known of `x` itself, and none of them
                counts as fallen.
            done: How much of the attack is done, in [0, 1]. Lets the `fast` setting take all but the last steps in
                bfloat16, and the meter see whether the loss still rises; None leaves out both.
            verify: Whether the original model is asked where rounding in a faster copy may have decided the verdict.
                An attack that stays near the boundary all the time may ask for that in the end, by `fallen`.
        """

        def run(piece: slice) -> Ascent:
            part = rows[piece]
            target = aim[piece] if aim is not None else None if self.target is None else self.target[part]
            return self._pass(x[piece], part, loss, target, Wish(gradient, standing, through, done, verify))

        parts = [run(slice(None))] if self.engine is None else list(self.engine.pieces(len(rows), run))
        seen = parts[0] if len(parts) == 1 else Ascent(*(torch.cat(column) for column in zip(*parts, strict=True)))
        if done is not None and through is None:
            still = ~seen.fallen
            self.meter.climbed(loss, self.ids[rows][still], seen.loss[still], done)
        return seen

    def _pass(self, x: Tensor, rows: Tensor, loss: losses.AttackLoss, target: Tensor | None, wish: Wish) -> Ascent:
        engine = self.engine
        lowered = engine is not None and engine.lowers(wish.done)
        x = self.given(x, rows)
        with differentiable() if wish.gradient else torch.no_grad():
            # Copied in here, because what a caller makes in inference mode cannot be saved for a backward pass.
            leaf = x.detach().clone().requires_grad_(wish.gradient) if engine is None else engine.leaf(x, wish.gradient)
            lower = nullcontext() if engine is None else engine.autocast(x.device.type, wish.done)
            with lower, self._passing(rows):
                logits = self.proxy(leaf if wish.through is None else wish.through(leaf, rows))
            values = loss(logits.to(x.dtype) if lowered else logits, self.y[rows], target).to(x.dtype)
        logits = logits.detach().to(x.dtype) if lowered else logits.detach()
        if wish.through is None:
            fallen = self._fallen(x, logits, rows, lowered=lowered, verify=wish.verify)
        else:
            fallen = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        if not wish.gradient:
            return Ascent(values, x.new_empty(0), fallen)
        down = int(fallen.sum()) if wish.standing else 0
        if 3 * down > len(rows):  # then passing on the others once more, forwards and back, is the shorter way
            return self._others(x, rows, loss, target, wish, Ascent(values.detach(), torch.zeros_like(x), fallen))
        slope = None
        if values.requires_grad:  # not so where the model computes its answer outside of autograd
            slope = input_slope(values, leaf, by_backward=self._by_backward)
        return Ascent(values.detach(), self._sound(slope, x, ~fallen), fallen)

    def _others(
        self, x: Tensor, rows: Tensor, loss: losses.AttackLoss, target: Tensor | None, wish: Wish, seen: Ascent
    ) -> Ascent:
        """What was seen, with gradients of those that have not fallen."""
        left = (~seen.fallen).nonzero()[:, 0]
        if len(left) > 0:
            aim = None if target is None else target[left]
            again = self._pass(x[left], rows[left], loss, aim, wish._replace(standing=False))
            seen.gradient[left], seen.fallen[left] = again.gradient, again.fallen
        return seen

    def jacobian(
        self,
        x: Tensor,
        rows: Tensor,
        functions: Callable[[Tensor, Tensor], Tensor],
        *,
        standing: bool = False,
        verify: bool = True,
    ) -> Jacobian:
        """Several functions of the logits with their input gradients, and whether `x` has reached the goal.

        Args:
            x: Current inputs `(n, …)`.
            rows: Which samples of this view they belong to, `(n,)`.
            functions: Logits `(m, classes)` and the rows `(m,)` that they belong to, to values `(m, k)`.
            standing: Whether gradients are wanted only where the goal is not reached; they are zero elsewhere.
            verify: As for `ascend`.
        """

        def run(piece: slice) -> Jacobian:
            return self._several(x[piece], rows[piece], functions, standing, verify)

        parts = [run(slice(None))] if self.engine is None else list(self.engine.pieces(len(rows), run))
        return parts[0] if len(parts) == 1 else Jacobian(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _several(
        self, x: Tensor, rows: Tensor, functions: Callable[[Tensor, Tensor], Tensor], standing: bool, verify: bool
    ) -> Jacobian:
        x = self.given(x, rows)
        with differentiable():
            leaf = x.detach().clone().requires_grad_(True) if self.engine is None else self.engine.leaf(x)
            with self._passing(rows):
                logits = self.proxy(leaf)
            values = functions(logits, rows).to(x.dtype)
        fallen = self._fallen(x, logits.detach(), rows, verify=verify)
        wanted = ~fallen
        k, down = values.shape[1], int(fallen.sum())
        gradients = x.new_zeros(len(x), k, *x.shape[1:])
        if standing and down * k > 2 * (len(x) - down):  # then passing on the others once more is the shorter way
            if down < len(x):
                left = self._several(x[wanted], rows[wanted], functions, False, verify)
                gradients[wanted] = left.gradients
            return Jacobian(values.detach(), gradients, fallen)
        if values.requires_grad:
            for j in range(k):
                with differentiable():
                    part = values[:, j]
                slope = input_slope(part, leaf, keep=j + 1 < k, by_backward=self._by_backward)
                if slope is not None:
                    gradients[:, j] = slope
        return Jacobian(values.detach(), self._sound(gradients, x, wanted), fallen)

    @property
    def _by_backward(self) -> bool:
        return self.engine is not None and self.engine.by_backward

    def _sound(self, slope: Tensor | None, x: Tensor, standing: Tensor) -> Tensor:
        """A finite gradient; how many were zero or not finite is counted."""
        found = torch.zeros_like(x) if slope is None else slope.detach()
        peak = found.abs().flatten(1).amax(1)
        broken = ~peak.isfinite()
        self.meter.gradients += int(standing.sum())
        self.meter.zero_gradients += int((standing & (peak == 0)).sum())
        if broken.any():
            self.meter.broken_gradients += int((standing & broken).sum())
            found = found.nan_to_num(0.0, 0.0, 0.0)
        return found

    def logits(self, x: Tensor) -> Tensor:
        """Answers `(n, classes)` to any inputs, without a graph."""
        own = torch.arange(len(self.y) if x is self.x else 0, device=self.y.device)

        def run(piece: slice) -> Tensor:
            with torch.no_grad(), self._passing(own[piece]):
                answer: Tensor = self.model(x[piece])
                return answer

        return run(slice(None)) if self.engine is None else torch.cat(list(self.engine.pieces(len(x), run)))

    def fallen(self, x: Tensor, rows: Tensor) -> Tensor:
        """Whether these inputs reach the goal on the deployed model; bool `(n,)`."""

        def run(piece: slice) -> Tensor:
            with torch.no_grad(), self._passing(rows[piece]):
                given = self.given(x[piece], rows[piece])
                return self._fallen(given, self.model(given), rows[piece], exact=True)

        parts = [run(slice(None))] if self.engine is None else list(self.engine.pieces(len(rows), run))
        return torch.cat(parts)

    def _fallen(
        self,
        x: Tensor,
        logits: Tensor,
        rows: Tensor,
        *,
        lowered: bool = False,
        exact: bool = False,
        verify: bool = True,
    ) -> Tensor:
        reached = self.goal_reached(labels_of(logits), rows)
        doubted = torch.zeros_like(reached)
        if self.engine is not None and not exact:
            target = None if self.target is None else self.target[rows]
            unsure = self.engine.unsure(logits, losses.margin(logits, self.y[rows], target), lowered)
            if not verify and self.engine.smooth and not lowered:
                doubted = unsure
            elif unsure.any():
                with torch.no_grad(), self._passing(rows[unsure]):
                    reached[unsure] = self.goal_reached(labels_of(self.model(x[unsure])), rows[unsure])
        if not reached.any():
            return reached
        if self.deployed is not None:
            with torch.no_grad():
                self.meter.forwards += int(reached.sum())
                if self.meter.passes is not None:
                    self.meter.passes.spend(Owners(self._places, rows[reached]))
                answer = self.deployed(x[reached])
            reached[reached.clone()] = self.goal_reached(answer.labels(), rows[reached]) & ~answer.rejected
        # A method that searches from outside meets wrong answers beyond the ball, which are no successes.
        certain = reached & ~doubted
        x, won = x[certain], rows[certain]
        inside = self.ball.contains(x, self.x[won])
        self.meter.fallen.update(self.ids[won[inside]].tolist())
        counted = inside
        if self.closest:
            distance = self.ball.distance(x, self.x[won])
            self.meter.met(self.ids[won[inside]], distance[inside])
            if self.meter.passes is not None and self.meter.passes.reach is not None:
                counted = inside & (distance <= self.meter.passes.reach)
        if self.meter.passes is not None:
            self.meter.passes.fell(self._places[won[counted]])
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
        if self.meter.passes is not None:
            self.meter.passes.spend(Owners(self._places, rows))
        with torch.no_grad():
            return self.answer(self.given(x, rows))

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
    """Labels and nothing else; a rejected input answers -1, and an answer that is not finite the number of classes."""

    def labels(self, x: Tensor, rows: Tensor) -> Tensor:
        """Predicted labels `(n,)` for inputs that belong to samples `rows`; one query each.

        Raises:
            BudgetError: A sample has no query left.
        """
        return self._ask(x, rows)


@dataclass(eq=False)
class Known:
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
        known: Data that the adversary holds; None where there is none.
    """

    known: Known | None = None

    def answers(self, x: Tensor) -> Tensor:
        """Probabilities `(n, classes)` for inputs of one's own; no query of a sample under attack."""
        self.meter.forwards += len(x)
        with torch.no_grad():
            return self.answer(x)


def make_view(
    access: str,
    deployed: Deployed,
    common: dict[str, Any],
    budget: int | None = None,
    engine: Engine | None = None,
    known: Known | None = None,
) -> Inputs:
    """The view that this access grants; by construction it holds nothing more.

    Args:
        access: `white-box`, `scores`, `labels`, `transfer` or `blind`.
        deployed: The model under attack.
        common: Fields of `Inputs`.
        budget: Queries per sample for an oracle.
        engine: How passes are run; built on the deployed model's surrogate, or on the network that is all of it.
        known: What a transfer adversary holds.
    """
    meter: Meter = common["meter"]
    if access == "white-box":
        surrogate = door(deployed.surrogate())
        # A served network answers by its logits alone, so that one pass tells both its loss and its verdict.
        more = None if isinstance(deployed, Served) else deployed
        return WhiteBox(**common, model=Counted(surrogate, meter), deployed=more, engine=engine)
    answer = partial(ask, deployed) if engine is None else _by_engine(engine, meter)
    if access in ("scores", "transfer"):

        def probabilities(x: Tensor) -> Tensor:
            logits, rejected = answer(x)
            return logits.softmax(1).masked_fill(rejected[:, None], 0.0)

        if access == "transfer":
            return Transfer(**common, answer=probabilities, budget=budget, known=known)
        return ScoreOracle(**common, answer=probabilities, budget=budget)
    if access == "labels":

        def decide(x: Tensor) -> Tensor:
            answers = answer(x)
            return answers.labels().masked_fill(answers.rejected, -1)

        return LabelOracle(**common, answer=decide, budget=budget)
    return Inputs(**common)


def _by_engine(engine: Engine, meter: Meter) -> Callable[[Tensor], Outputs]:
    """What a served network answers, by way of its faster copy."""

    def answer(x: Tensor) -> Outputs:
        logits, again = engine.answers(x)
        meter.forwards += int(again.sum())
        return Outputs(logits, torch.zeros_like(again))

    return answer
