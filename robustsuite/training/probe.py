"""One look at a network on a few samples: what it answers, how gradients flow, which units are dead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustsuite.core.door import labels_of
from robustsuite.core.isolation import seeded, untouched
from robustsuite.core.samples import Samples

_RELU: Final = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """What was seen on m samples.

    Args:
        prediction: Answers `(m,)`.
        y: Labels `(m,)`.
        loss: Mean training loss, in eval mode.
        constant: That of the best answer which ignores the input.
        gain: Norm of the loss's gradient at the output of the first layer with weights, over that at the last one's;
            the median over samples, NaN where it cannot be told.
        dead: Share of the rectified units that are 0 for all samples, in the layer where it is greatest.
        scale: Root mean square of what the first layer with weights is given; NaN without such a layer.
        neighbours: Share of the samples whose nearest neighbour among them has their label.
        neighbours_chance: Up to which that share is no more than chance: 3 standard errors above it.
    """

    prediction: Tensor
    y: Tensor
    loss: float
    constant: float
    gain: float
    dead: float
    scale: float
    neighbours: float
    neighbours_chance: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.prediction == self.y).double().mean())


class _Rectified(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which units each rectifier leaves at 0 for all samples, however the network calls it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._silent: list[Tensor] = []
        self._at = 0

    def again(self) -> None:
        """The next batch goes through the same rectifiers."""
        self._at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _RELU and out.ndim > 1:
            silent = (out == 0).flatten(2).all(2).all(0) if out.ndim > 2 else (out == 0).all(0)  # maps count as one
            if self._at < len(self._silent) and self._silent[self._at].shape == silent.shape:
                self._silent[self._at] &= silent
            else:
                self._silent.append(silent)
            self._at += 1
        return out

    @property
    def dead(self) -> float:
        """Share of the units of the worst rectifier."""
        return max((float(silent.double().mean()) for silent in self._silent), default=0.0)


@contextmanager
def _weighted_layers(network: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of the layers with weights, in the order in which they run."""
    ran: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if given and isinstance(given[0], Tensor) and isinstance(out, Tensor):
            ran.append((given[0], out))

    layers = [part for part in network.modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def probe(
    network: nn.Module, samples: Samples, loss: Callable[[Tensor, Tensor], Tensor], device: Any, size: int
) -> Probe:
    """Look at a network in eval mode, which is left as it was: a forward and a backward pass for each sample.

    Args:
        network: Raw inputs to logits.
        samples: What to look at it on.
        loss: Logits `(B, classes)` and labels to losses `(B,)`.
        device: Where the network is.
        size: Of the batches.
    """
    answers, losses, gains, squares, values = [], [], [], 0.0, 0
    rectified = _Rectified()
    with untouched(network), seeded(0), torch.enable_grad(), _weighted_layers(network) as ran:
        for batch in samples.batches(size, device):
            ran.clear()
            rectified.again()
            with rectified:
                logits = network(batch.x.detach().clone().requires_grad_())
            each = loss(logits, batch.y)
            answers.append(logits.detach())
            losses.append(each.detach())
            if not ran:
                continue
            first, last = ran[0], ran[-1]
            squares, values = squares + float(first[0].detach().double().square().sum()), values + first[0].numel()
            gains.append(_gain(each, first[1], last[1]))
    logits, y = torch.cat(answers).float().cpu(), samples.y
    found, limit = _neighbours(samples)
    return Probe(
        prediction=labels_of(logits),
        y=y,
        loss=float(torch.cat(losses).double().mean()),
        constant=_constant(samples, logits.shape[1], loss),
        gain=float(torch.cat(gains).nanmedian()) if gains else math.nan,
        dead=rectified.dead,
        scale=math.sqrt(squares / values) if values else math.nan,
        neighbours=found,
        neighbours_chance=limit,
    )


def _gain(losses: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """How much longer each sample's gradient is at the first output than at the last `(B,)`; NaN where both are 0."""
    if first is last or not (first.requires_grad and last.requires_grad):
        return torch.tensor([math.nan])
    slopes = torch.autograd.grad(losses.sum(), [first, last], allow_unused=True)
    if any(slope is None or len(slope) != len(losses) for slope in slopes):
        return torch.tensor([math.nan])
    early, late = (slope.detach().double().flatten(1).square().sum(1).sqrt() for slope in slopes)
    return (early / late).cpu()


def _constant(samples: Samples, width: int, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The mean loss of the better of two answers that ignore the input: all classes alike, and as they occur here."""
    counts = torch.bincount(samples.y, minlength=width).float()
    priors = torch.ones(width), (counts + 1) / (counts.sum() + width)
    each = (loss(prior.log().log_softmax(0).expand(len(samples), -1), samples.y) for prior in priors)
    return min(float(losses.double().mean()) for losses in each)


def _neighbours(samples: Samples) -> tuple[float, float]:
    """How often a sample's nearest neighbour has its label, and up to where that is chance."""
    x, y, n = samples.inputs().flatten(1).float(), samples.y, len(samples)
    if n < 2:
        return 1.0, 0.0
    nearest = torch.cdist(x, x).fill_diagonal_(math.inf).argmin(1)
    shares = y.bincount().double() / n
    chance = float((shares * shares).sum())
    return float((y[nearest] == y).double().mean()), chance + 3 * math.sqrt(chance * (1 - chance) / n)
