"""Looks for a learning rate and for the greatest batch, by steps of a training that is thrown away."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.isolation import differentiable, out_of_memory, seeded
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.training.augment import augmentations
from robustsuite.training.descent import make_optimizer
from robustsuite.training.fabric import make_fabric
from robustsuite.training.fit import make_network
from robustsuite.training.parts import Step, training_loss
from robustsuite.training.recipe import GradientDescent, Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_LOWEST: Final = 1e-7  # where no usual optimizer moves
_HIGHEST: Final = 10.0
_SMOOTHED: Final = 0.8  # of the mean so far: 5 steps of it, a third of a decade with 100 steps over 8 decades
_DIVERGED: Final = 4.0  # times the least smoothed loss, where the test of the fastai library stops (arXiv:2002.04688)
_BELOW: Final = 10.0  # the least loss lies just below divergence; a tenth of its rate is safe (the same library)
_FELL: Final = 0.95  # of the first loss; a test in which it falls less says nothing
_CPU_MOST: Final = 4096  # a CPU's memory is shared, and what it swaps to is no measure


@dataclass(frozen=True)
class RateTest:
    """What a learning-rate range test saw.

    Args:
        rates: Of each step, rising exponentially.
        losses: Smoothed training loss at each.
        suggestion: A tenth of the rate at which it was least.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


@dataclass(frozen=True)
class BatchTest:
    """What a search for the greatest batch found.

    Args:
        size: The greatest batch with which a step succeeded.
        bound: What kept it from being greater: `memory`, `samples` (there are no more), or `limit`.
        note: The same as a sentence.
    """

    size: int
    bound: str
    note: str


def find_lr(
    recipe: Recipe, samples: Samples, *, seed: int = 0, device: str = "cpu", steps: int = 100, highest: float = _HIGHEST
) -> RateTest:
    """The learning-rate range test of Smith (arXiv:1506.01186), with rates that rise exponentially from 1e-7.

    It trains a network of its own by the recipe's objective and optimizer, stops where the smoothed loss is 4 times its
    least, and leaves nothing behind.

    Args:
        recipe: What shall be trained; its learning rate, schedule, sampling, stages and number of epochs take no part.
        samples: The training set.
        seed: Keys weights and order.
        device: Where to train.
        steps: From the lowest rate to the highest, at least 10.
        highest: Rate of the last step, above 1e-7.

    Raises:
        RequestError: The recipe's update is no plain descent (DP-SGD: looking for a rate on private data costs privacy,
            arXiv:2110.03620), or the user's own training hides it.
        RobustsuiteError: The loss falls at no rate.
    """
    checks.integer("steps", steps, low=10)
    checks.real("highest", highest, low=_LOWEST, open_low=True)
    trial = _Trial(recipe, samples, seed, device, recipe.training.batch_size)
    size = min(recipe.training.batch_size * recipe.training.accumulate, len(samples))
    rates, losses = list[float](), list[float]()
    mean, least = 0.0, math.inf
    with trial:
        for number in range(steps):
            rate = _LOWEST * (highest / _LOWEST) ** (number / (steps - 1))
            loss = trial.step(trial.rows(size), number, rate)
            mean = _SMOOTHED * mean + (1 - _SMOOTHED) * loss
            smooth = mean / (1 - _SMOOTHED ** (number + 1))
            if not smooth <= _DIVERGED * least and math.isfinite(least):
                break
            rates.append(rate)
            losses.append(smooth)
            least = min(least, smooth)
    if not least < _FELL * losses[0]:
        raise RobustsuiteError(
            f"expected a loss that falls at some learning rate, got losses from {losses[0]:.4g} down to {least:.4g}; "
            f"check labels and normalisation, or give steps more than {steps}"
        )
    return RateTest(tuple(rates), tuple(losses), rates[losses.index(least)] / _BELOW)


def find_batch_size(
    recipe: Recipe, samples: Samples, *, seed: int = 0, device: str = "cpu", most: int | None = None
) -> BatchTest:
    """The greatest batch with which a training step fits into memory: doubled until it fails, then bisected.

    Each size is tried by two steps of a network of its own, and only running out of memory counts as failing. On the
    CPU, where the system swaps or ends a process before an allocation fails, sizes are bounded by 4096.

    Args:
        recipe: What shall be trained.
        samples: The training set; no batch is greater.
        seed: Keys weights and order.
        device: Where to train.
        most: The greatest size to try; by default as many as there are samples, and on the CPU at most 4096.

    Raises:
        RequestError: As `find_lr` does.
        RobustsuiteError: Not even one sample fits.
    """
    wanted = most if most is not None else _CPU_MOST if device.startswith("cpu") else len(samples)
    top = min(checks.integer("most", wanted, low=1), len(samples))
    fits, fails = 0, top + 1
    size = 1
    while size < fails and fits < top:
        if _fits(recipe, samples, seed, device, size):
            fits, size = size, min(2 * size, top)
        else:
            fails = size
    while fails - fits > 1:
        size = (fits + fails) // 2
        fits, fails = (size, fails) if _fits(recipe, samples, seed, device, size) else (fits, size)
    if fits == 0:
        raise RobustsuiteError("expected memory for one sample, got batch_size=1; take a smaller network or device")
    if fails <= top:
        return BatchTest(fits, "memory", f"a batch of {fits} fits into memory, and one of {fits + 1} does not")
    if top == len(samples):
        return BatchTest(fits, "samples", f"all {fits} training samples fit into memory as one batch")
    what = "on the CPU no more are tried: it swaps before it fails" if device.startswith("cpu") else "no more are tried"
    return BatchTest(fits, "limit", f"a batch of {fits} fits into memory; {what}")


def _fits(recipe: Recipe, samples: Samples, seed: int, device: str, size: int) -> bool:
    """Whether a training step with so many samples succeeds; two, for an optimizer has its state from the second on."""
    try:
        with _Trial(recipe, samples, seed, device) as trial:
            for number in range(2):
                trial.step(trial.rows(size), number, recipe.training.lr)
    except Exception as error:
        if not out_of_memory(error):
            raise
    else:
        return True
    gc.collect()  # what the failed step held is freed before the next
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return False


class _Trial:
    """Steps of a training that is thrown away; as a context, it draws from generators that are put back."""

    def __init__(self, recipe: Recipe, samples: Samples, seed: int, device: str, size: int | None = None) -> None:
        if recipe.own is not None:
            raise checks.fail("a training by settings", "training", recipe.own.name, "search inside that function")
        if type(recipe.update) is not GradientDescent:
            remedy = "search without the defence that replaces it; on private data a search costs privacy"
            raise checks.fail("plain gradient descent", "update", type(recipe.update).__name__, remedy)
        self._recipe, self._samples, self._size = recipe, samples.copy(), size
        self._streams = Streams(seed).child("finder")
        self._fabric: Fabric = make_fabric(device, recipe.training.precision)
        self._network: nn.Module = make_network(recipe, self._samples, seed).to(self._fabric.device).train()
        self._double = recipe.training.precision == "64"
        self._network = self._network.double() if self._double else self._network
        self._optimizer: Any = self._fabric.setup_optimizers(make_optimizer(self._network, recipe.training))
        self._loss = training_loss(recipe.training, self._samples)
        self._changes = augmentations(recipe.training.augment)
        for change in self._changes:
            change.refuse(samples.shape)
        self._order = torch.zeros(0, dtype=torch.int64)
        self._epoch = 0

    def __enter__(self) -> _Trial:
        self._blocks = seeded(self._streams.key), differentiable()
        for block in self._blocks:
            block.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        for block in reversed(self._blocks):
            block.__exit__(*raised)

    def rows(self, size: int) -> Tensor:
        """The next so many rows of an order that begins anew when it ends."""
        if len(self._order) < size:
            self._order = self._streams.child("order", self._epoch).permutation(len(self._samples))
            self._epoch += 1
        rows, self._order = self._order[:size], self._order[size:]
        return rows

    def step(self, rows: Tensor, number: int, rate: float) -> float:
        """One step at this rate, of batches of at most `size`; gives the mean loss before it."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for part in torch.split(rows, self._size or len(rows)):
            losses = self._losses(part, number).sum() / len(rows)
            self._fabric.backward(losses)
            loss += float(losses.detach())
        if self._recipe.training.clip is not None:
            self._fabric.clip_gradients(self._network, self._optimizer, max_norm=self._recipe.training.clip)
        self._optimizer.step()
        return loss

    def _losses(self, rows: Tensor, number: int) -> Tensor:
        batch = self._samples.batch(rows, self._fabric.device)
        batch = batch._replace(x=batch.x.double()) if self._double else batch
        for change in self._changes:
            batch = change(batch, self._streams.child("change", type(change).__name__, number))
        for i, augment in enumerate(self._recipe.augment):
            batch = augment(batch, self._streams.child("augment", i, number))
        samples = self._samples
        step = Step(self._loss, self._streams.child("step", number), samples.bounds, number, samples.classes)
        with self._fabric.autocast():
            return self._recipe.objective(self._network, batch, step)
