"""The model itself, differentiable: values, gradients and verdicts at any inputs, each from one counted pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

from robustsuite.access.engine import FastPasses
from robustsuite.access.inputs import Inputs
from robustsuite.access.meter import Counted
from robustsuite.access.passes import Owners
from robustsuite.access.values import Jacobian, Pass, Transform, Value, ValueAndGrad
from robustsuite.core import losses
from robustsuite.core.deployed import Deployed, Outputs, ask_each
from robustsuite.core.door import labels_of
from robustsuite.core.errors import ModelError
from robustsuite.core.gradients import input_slope
from robustsuite.core.isolation import differentiable

Seen = TypeVar("Seen", Value, ValueAndGrad, Jacobian)
_FEW: Final = 16  # samples that fill a pass, where no engine says


@dataclass(frozen=True, eq=False)
class WhiteBox(Inputs):
    """The model itself, differentiable.

    Args:
        model: Raw inputs to logits; every pass through it is counted.
        deployed: Asked whether a wrong answer is also accepted, and on what it raises where `model` does.
        alone: Whether the deployed model is `model` and no more, so that only an answer without a label is asked about.
        engine: How gradients are computed; None for one plain pass of `model` in one batch.
        verify: Whether the original model is asked where rounding in a faster copy may have decided a verdict. An
            attack that stays near the boundary all the time may ask for that in the end, by `broken`.
    """

    model: nn.Module = field(default_factory=nn.Identity)
    deployed: Deployed | None = None
    alone: bool = False
    engine: FastPasses | None = None
    verify: bool = True

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

    def value(
        self,
        x: Tensor,
        rows: Tensor,
        loss: losses.AttackLoss = losses.cross_entropy,
        *,
        target: Tensor | None = None,
        progress: float | None = None,
    ) -> Value:
        """Loss, and whether `x` reaches the goal, from one forward pass; arguments as for `value_and_grad`."""
        asked = Pass(x, rows, loss, self._targets(rows, target), None, progress)
        seen = self._in_pieces(len(rows), lambda piece: Value(*self._forward(asked.of(piece), gradient=False)[1:]))
        self._note(asked, seen.value, seen.broken)
        return seen

    def value_and_grad(
        self,
        x: Tensor,
        rows: Tensor,
        loss: losses.AttackLoss = losses.cross_entropy,
        *,
        target: Tensor | None = None,
        transform: Transform | None = None,
        progress: float | None = None,
        unbroken_only: bool = False,
    ) -> ValueAndGrad:
        """Loss, its input gradient, and whether `x` reaches the goal, from one forward and one backward pass.

        Args:
            x: Current inputs `(n, …)`.
            rows: Which samples of this view they belong to, `(n,)`.
            loss: What to maximise, per sample; the same object in every step, as climbs are told apart by it.
            target: Target classes that the loss is given `(n,)`, in place of the goal's; the goal stays as it is.
            transform: What inputs pass on their way to the model (EOT); then nothing is known of `x` itself, and none
                of them counts as broken.
            progress: How much of the attack is done, in [0, 1]. Lets the `fast` setting take all but the last steps in
                bfloat16, and the meter see whether the loss still rises; None leaves out both.
            unbroken_only: Whether gradients are wanted only where the goal is not reached; they are zero elsewhere.
        """
        asked = Pass(x, rows, loss, self._targets(rows, target), transform, progress)
        seen = self._in_pieces(len(rows), lambda piece: self._both_ways(asked.of(piece), unbroken_only))
        if transform is None:
            self._note(asked, seen.value, seen.broken)
        return seen

    def _targets(self, rows: Tensor, target: Tensor | None) -> Tensor | None:
        return target if target is not None or self.target is None else self.target[rows]

    def _in_pieces(self, n: int, run: Callable[[slice], Seen]) -> Seen:
        parts = [run(slice(None))] if self.engine is None else list(self.engine.pieces(n, run))
        if len(parts) == 1:
            return parts[0]
        return type(parts[0])(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _leaf(self, x: Tensor, gradient: bool) -> Tensor:
        """These inputs, to be differentiated by."""
        if self.engine is not None:
            return self.engine.leaf(x, gradient)
        # Copied in here, because what a caller makes in inference mode cannot be saved for a backward pass.
        return x.detach().clone().requires_grad_(gradient)

    def _forward(self, asked: Pass, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The leaf, the values, with their graph where a gradient is wanted, and what is broken."""
        rows, engine = asked.rows, self.engine
        lowered = engine is not None and engine.lowers(asked.progress)
        x = self.given(asked.x, rows)
        with differentiable() if gradient else torch.no_grad():
            leaf = self._leaf(x, gradient)
            lower = nullcontext() if engine is None else engine.autocast(x.device.type, asked.progress)
            with lower, self._passing(rows):
                logits = self._answers(self.proxy, leaf if asked.transform is None else asked.transform(leaf, rows))
            values = asked.loss(logits.to(x.dtype) if lowered else logits, self.y[rows], asked.target).to(x.dtype)
        if asked.transform is not None:
            return leaf, values, torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        logits = logits.detach().to(x.dtype) if lowered else logits.detach()
        return leaf, values, self._verdict(x, logits, rows, lowered=lowered)

    def _both_ways(self, asked: Pass, unbroken_only: bool) -> ValueAndGrad:
        leaf, values, broken = self._forward(asked, gradient=True)
        if unbroken_only and 3 * int(broken.sum()) > len(broken):
            # Then passing on the others once more, forwards and back, is the shorter way.
            return self._others(asked, ValueAndGrad(values.detach(), torch.zeros_like(leaf), broken))
        gradient = None
        if values.requires_grad:  # not so where the model computes its answer outside of autograd
            gradient = input_slope(values, leaf, keep=self.engine is None, by_backward=self._by_backward)
        return ValueAndGrad(values.detach(), self._finite(gradient, leaf, ~broken), broken)

    def _others(self, asked: Pass, seen: ValueAndGrad) -> ValueAndGrad:
        """What was seen, with gradients of those that are not broken."""
        left = (~seen.broken).nonzero()[:, 0]
        if len(left) > 0:
            again = self._both_ways(asked.of(left), unbroken_only=False)
            seen.gradient[left], seen.broken[left] = again.gradient, again.broken
        return seen

    def jacobian(
        self,
        x: Tensor,
        rows: Tensor,
        functions: Callable[[Tensor, Tensor], Tensor],
        *,
        unbroken_only: bool = False,
    ) -> Jacobian:
        """Several functions of the logits with their input gradients, and whether `x` reaches the goal.

        Args:
            x: Current inputs `(n, …)`.
            rows: Which samples of this view they belong to, `(n,)`.
            functions: Logits `(m, classes)` and the rows `(m,)` that they belong to, to values `(m, k)`.
            unbroken_only: As for `value_and_grad`.
        """
        return self._in_pieces(
            len(rows), lambda piece: self._several(x[piece], rows[piece], functions, unbroken_only=unbroken_only)
        )

    def _several(
        self, x: Tensor, rows: Tensor, functions: Callable[[Tensor, Tensor], Tensor], *, unbroken_only: bool
    ) -> Jacobian:
        x = self.given(x, rows)
        with differentiable():
            leaf = self._leaf(x, True)
            with self._passing(rows):
                logits = self._answers(self.proxy, leaf)
            values = functions(logits, rows).to(x.dtype)
        broken = self._verdict(x, logits.detach(), rows)
        wanted = ~broken
        k, down = values.shape[1], int(broken.sum())
        gradients = x.new_zeros(len(x), k, *x.shape[1:])
        if unbroken_only and down * k > 2 * (len(x) - down):  # then passing on the others once more is the shorter way
            if down < len(x):
                left = self._several(x[wanted], rows[wanted], functions, unbroken_only=False)
                gradients[wanted] = left.gradients
            return Jacobian(values.detach(), gradients, broken)
        if values.requires_grad:
            for j in range(k):
                with differentiable():
                    part = values[:, j]
                again = j + 1 < k or self.engine is None
                found = input_slope(part, leaf, keep=again, by_backward=self._by_backward)
                if found is not None:
                    gradients[:, j] = found
        return Jacobian(values.detach(), self._finite(gradients, x, wanted), broken)

    @property
    def _by_backward(self) -> bool:
        return self.engine is not None and self.engine.by_backward

    def logits(self, x: Tensor) -> Tensor:
        """Answers `(n, classes)` to any inputs, without a graph."""
        own = torch.arange(len(self.y) if x is self.x else 0, device=self.y.device)

        def run(piece: slice) -> Tensor:
            with torch.no_grad(), self._passing(own[piece]):
                return self._answers(self.model, x[piece])

        return run(slice(None)) if self.engine is None else torch.cat(list(self.engine.pieces(len(x), run)))

    def broken(self, x: Tensor, rows: Tensor) -> Tensor:
        """Whether these inputs reach the goal on the deployed model; bool `(n,)`."""

        def run(piece: slice) -> Tensor:
            with torch.no_grad(), self._passing(rows[piece]):
                given = self.given(x[piece], rows[piece])
                return self._verdict(given, self._answers(self.model, given), rows[piece], exact=True)

        parts = [run(slice(None))] if self.engine is None else list(self.engine.pieces(len(rows), run))
        return torch.cat(parts)

    def _verdict(
        self, x: Tensor, logits: Tensor, rows: Tensor, *, lowered: bool = False, exact: bool = False
    ) -> Tensor:
        """Which inputs reach the goal, asked of the original and of the deployed model where that may tell otherwise.

        Args:
            x: Inputs `(n, …)` as the model was given them.
            logits: Its answers, or those of its copy `(n, classes)`.
            rows: Which samples they belong to, `(n,)`.
            lowered: Whether they were computed in bfloat16.
            exact: Whether they are the original's.
        """
        labels = labels_of(logits)
        doubted = torch.zeros_like(labels, dtype=torch.bool)
        if self.engine is not None and not exact:
            unsure = self.engine.unsure(logits, losses.margin(logits, self.y[rows], self._targets(rows, None)), lowered)
            if not self.verify and self.engine.smooth and not lowered:
                doubted = unsure
            elif unsure.any():
                with torch.no_grad(), self._passing(rows[unsure]):
                    labels[unsure] = labels_of(self._answers(self.model, x[unsure]))
        reached = self.goal_reached(labels, rows)
        if not reached.any():
            return reached
        asked = reached & (labels == logits.shape[1]) if self.alone else reached.clone()
        if self.deployed is not None and asked.any():
            answer = self._ask(self.deployed, x[asked], rows[asked])
            reached[asked] = self.goal_reached(answer.labels(), rows[asked]) & ~answer.rejected
        certain = reached & ~doubted
        self._met(x[certain], rows[certain])
        return reached

    def _ask(self, deployed: Deployed, x: Tensor, rows: Tensor) -> Outputs:
        """What the deployed model answers; it rejects what it raises on."""
        self.meter.forwards += len(rows)
        if self.meter.passes is not None:
            self.meter.passes.spend(Owners(self._places, rows))
        with torch.no_grad():
            return ask_each(deployed, x, self.classes, self.meter.raised)

    def _answers(self, module: nn.Module, x: Tensor) -> Tensor:
        """Its answers `(n, classes)`; where it raises as the deployed model does, NaN without a gradient."""
        try:
            answer: Tensor = module(x)
        except ModelError:
            if self.deployed is None:
                raise
            before = replace(self.meter.raised)
            with torch.no_grad():
                bare = ask_each(self.deployed, x.detach(), self.classes, self.meter.raised).logits
            if before == self.meter.raised:
                raise  # it is what stands before the model that does
            answered = bare.isfinite().all(1)
            if not answered.any():
                return bare
            found = _in_halves(module, x[answered])
            answer = found.new_full((len(x), found.shape[1]), torch.nan)
            answer[answered] = found
        return answer

    def _met(self, x: Tensor, rows: Tensor) -> None:
        """Let the meter know of inputs `(n, …)` that certainly reach the goal of samples `rows (n,)`."""
        # A method that searches from outside meets wrong answers beyond the ball, which are no successes.
        inside = self.ball.contains(x, self.x[rows])
        self.meter.broken.update(self.ids[rows[inside]].tolist())
        counted, passes = inside, self.meter.passes
        if self.minimum_norm:
            distance = self.ball.distance(x, self.x[rows])
            self.meter.met(self.ids[rows[inside]], distance[inside])
            if passes is not None and passes.reach is not None:
                counted = inside & (distance <= passes.reach)
        if passes is not None:
            passes.note_broken(self._places[rows[counted]])

    def _finite(self, gradient: Tensor | None, like: Tensor, unbroken: Tensor) -> Tensor:
        """A finite gradient, zero where nothing leads to the inputs; how many were zero or not finite is counted."""
        found = torch.zeros_like(like) if gradient is None else gradient.detach()
        peak = found.abs().flatten(1).amax(1)
        wild = ~peak.isfinite()
        self.meter.gradients += int(unbroken.sum())
        self.meter.zero_gradients += int((unbroken & (peak == 0)).sum())
        if wild.any():
            self.meter.broken_gradients += int((unbroken & wild).sum())
            found = found.nan_to_num(0.0, 0.0, 0.0)
        return found

    def _note(self, asked: Pass, values: Tensor, broken: Tensor) -> None:
        """Let the meter see whether the loss still rises, where the attack says how far it is."""
        if asked.progress is not None:
            left = ~broken
            self.meter.climbed(asked.loss, self.ids[asked.rows][left], values[left], asked.progress)


def _in_halves(module: nn.Module, x: Tensor) -> Tensor:
    """Its answers to inputs that it answers one by one, of as few batches as it takes."""
    try:
        answer: Tensor = module(x)
    except ModelError:
        if len(x) < 2:
            raise
        answer = torch.cat([_in_halves(module, half) for half in x.chunk(2)])
    return answer
