"""What the accountant does not see: examples that see each other, and state that learns outside the noisy update.

Everything here is tried on inputs drawn at random within the bounds, so that no private example is looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustsuite.core import Batch, RequestError, Samples, Streams
from robustsuite.core.isolation import differentiable, seeded
from robustsuite.models.digest import PARAMETER, network_parts
from robustsuite.training import CleanLoss, Objective, Step, Training, training_loss

if TYPE_CHECKING:
    from torch._ops import OpOverload

_SAME: Final = 1e-4  # of the greatest answer; rows of one batch differ by rounding only from rows of another
_ROWS: Final = 8  # of a trial batch
_FEW: Final = 3
_MOST_ROWS: Final = 128  # of a trial without gradients
_SHOWN: Final = 3
_CONSTANTS: Final = {"bernoulli": 1.0, "rand": 0.5, "uniform": 0.5, "exponential": 1.0}  # others become 0

Answer = Callable[[nn.Module, Batch], Tensor]
"""A network in training mode and a batch to one row of numbers for each example."""


@dataclass(frozen=True)
class Trials:
    """Trials of a network that is trained privately.

    Args:
        samples: What it will be trained on; only their shape, bounds and number of classes are used.
        training: Settings, for the loss.
        objective: What turns a batch into losses.
    """

    samples: Samples
    training: Training
    objective: Objective

    def learned(self, network: nn.Module) -> tuple[list[str], set[str]]:
        """State that a pass in training mode changes, without any step.

        Returns:
            What depends on the examples of the pass, and what changes whatever they are, such as a counter.
        """
        before, ends, answers = network_parts(network), [], []
        probe = self.batch(network, 2, _FEW)
        for number in (0, 1):
            trained = copied(network)
            with seeded(0):
                self._gradient(_forward, trained, self.batch(network, number, _ROWS), row=None)
            ends.append(network_parts(trained))
            with seeded(0), torch.no_grad():
                answers.append(trained.eval()(probe.x))
        names = [name for end in ends for name in end]
        learned = [name for name in dict.fromkeys(names) if ends[0].get(name) != ends[1].get(name)]
        if not learned and not _alike(*answers):
            learned = ["state outside its modules"]
        return learned, {name for name in names if ends[0].get(name) != before.get(name)} - set(learned)

    def mixes(self, network: nn.Module) -> bool:
        """Whether an example's answer or gradient depends on which others are in its batch, or on how many."""
        if self._replaced(_forward, network) or self._alone(network):
            return True
        return type(self.objective) is not CleanLoss and self._replaced(self._losses, network)

    def problems(self, network: nn.Module, before: Mapping[str, str]) -> Iterator[str]:
        """What breaks the analysis of the clipped, noisy step, each with what it is that does.

        Args:
            network: As it is now.
            before: Its `frozen_parts` when the training began.
        """
        learned, counted = self.learned(network)
        if learned:
            yield f"{few(learned)} learns from the examples outside the noisy update"
        after = frozen_parts(network)
        moved = [name for name in dict.fromkeys([*before, *after]) if after.get(name) != before.get(name)]
        moved = [name for name in moved if name not in counted and name not in learned]
        if moved:
            yield f"{few(moved)} changed in training outside the noisy update"
        if self.mixes(network):
            yield f"{type(network).__name__} or its objective mixes the examples of a batch"

    def refuse(self, network: nn.Module) -> None:
        """Refuse a network of which the privacy analysis does not hold.

        Raises:
            RequestError: State that learns from examples outside the noisy update, or examples that see each other.
        """
        for problem in self.problems(network, frozen_parts(network)):
            raise RequestError(
                f"expected a network in which each example acts alone and by the noisy update only, got {problem}; "
                f"replace that layer by one without statistics of batches or of the past (GroupNorm, LayerNorm, "
                f"track_running_stats=False), and keep no inputs or activations in the network"
            )

    def batch(self, network: nn.Module, number: int, rows: int) -> Batch:
        """So many random examples within the bounds, in the dtype and on the device of a network."""
        weight = next(network.parameters())
        generator = torch.Generator().manual_seed(number)
        low, high = self.samples.bounds
        x = low + (high - low) * torch.rand(rows, *self.samples.shape, generator=generator)
        y = torch.randint(self.samples.classes, (rows,), generator=generator)
        return Batch(x.to(weight), y.to(weight.device), torch.arange(rows, device=weight.device))

    def _losses(self, network: nn.Module, batch: Batch) -> Tensor:
        loss = training_loss(replace(self.training, class_weights="none"), self.samples)
        step = Step(loss, Streams(0), self.samples.bounds, 0, self.samples.classes)
        losses = self.objective(network, batch, step)
        return losses if len(losses) == len(batch.x) else losses[:0]  # a private step refuses such losses itself

    def _replaced(self, answer: Answer, network: nn.Module) -> bool:
        """Whether a row changes where all others are replaced; masks are drawn alike, as the batch has one size."""
        for rows, row in ((_FEW, 0), (_ROWS, _ROWS - 1)):  # the first sees those after it, the last those before it
            batch, other = (self.batch(network, number, rows) for number in (0, 1))
            x, y = other.x.clone(), other.y.clone()
            x[row], y[row] = batch.x[row], batch.y[row]
            ends = []
            for trial in (batch, Batch(x, y, batch.ids)):
                with seeded(0):
                    ends.append(self._gradient(answer, copied(network), trial, row))
            if not _alike(*ends):
                return True
        return self._replaced_in_a_step(answer, network)

    def _replaced_in_a_step(self, answer: Answer, network: nn.Module) -> bool:
        """The same for answers alone, in a batch as great as a step's: what looks at its size may mix no small one."""
        rows = min(self.training.batch_size, len(self.samples), _MOST_ROWS)
        if rows <= _ROWS:
            return False
        batch, other = (self.batch(network, number, rows) for number in (0, 1))
        x, y = other.x.clone(), other.y.clone()
        x[-1], y[-1] = batch.x[-1], batch.y[-1]
        ends = []
        with torch.no_grad():
            for trial in (batch, Batch(x, y, batch.ids)):
                with seeded(0):
                    out = answer(copied(network), trial)
                ends.append(out.reshape(rows, -1)[-1] if out.numel() else out)
        return not _alike(*ends)

    def _alone(self, network: nn.Module) -> bool:
        """Whether a row alone answers otherwise than in a batch; random draws are held at constants meanwhile."""
        batch = self.batch(network, 0, _ROWS)
        lone = Batch(batch.x[:1], batch.y[:1], batch.ids[:1])
        with _Quiet():  # type: ignore[no-untyped-call]
            ends = [self._gradient(_forward, copied(network), trial, 0) for trial in (batch, lone, lone)]
        still = _alike(ends[1], ends[2])  # randomness that cannot be held says nothing here
        return still and not _alike(ends[0], ends[1])

    @staticmethod
    def _gradient(answer: Answer, network: nn.Module, batch: Batch, row: int | None) -> Tensor:
        """The answer of one row with its gradient for each weight, in one vector; of all rows together where None."""
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        with differentiable():
            out = answer(network, batch)
            if out.numel() == 0:
                return out.detach()
            out = out.reshape(len(batch.x), -1)
            chosen = out.sum(0) if row is None else out[row]
            directions = torch.linspace(1.0, 2.0, chosen.numel(), device=chosen.device, dtype=chosen.dtype)
            total = (chosen.reshape(-1) * directions).sum()
            found = torch.autograd.grad(total, weights, allow_unused=True) if total.requires_grad else ()
        parts = [chosen, *(part for part in found if part is not None)]
        return torch.cat([part.detach().reshape(-1) for part in parts])


def few(names: list[str]) -> str:
    """The first few of these names."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def frozen_parts(network: nn.Module) -> dict[str, str]:
    """Digests of everything in a network but the weights that are trained."""
    trained = {
        f"{PARAMETER} {name}"
        for name, weight in network.named_parameters(remove_duplicate=False)
        if weight.requires_grad
    }
    return {name: found for name, found in network_parts(network).items() if name not in trained}


def _forward(network: nn.Module, batch: Batch) -> Tensor:
    found: Tensor = network(batch.x)
    return found


def copied(network: nn.Module) -> nn.Module:
    """A copy in training mode.

    Raises:
        RequestError: A network that holds what cannot be copied.
    """
    try:
        return copy.deepcopy(network).train()
    except Exception as error:  # a stranger's module may hold anything
        raise RequestError(
            f"expected a network that can be copied, to try it before it is trained privately, got "
            f"{type(network).__name__}, which raises {type(error).__name__}; keep no results of passes in it"
        ) from error


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=_SAME, atol=_SAME * scale, equal_nan=True)


class _Quiet(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every random draw is a constant, so that dropout keeps everything whatever the size of the batch."""

    def __torch_dispatch__(
        self, func: OpOverload[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is torch.ops.aten.native_dropout.default:
            return func(args[0], args[1], False)
        found = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded not in func.tags or not isinstance(found, Tensor):
            return found
        name = func.overloadpacket.__name__.rstrip("_").removesuffix("_like")
        known = name in _CONSTANTS or name.startswith(("normal", "randn", "randint", "randperm"))
        return found.fill_(_CONSTANTS.get(name, 0.0)) if known else found
