"""Parts of broken defences that mislead on purpose: decoy gradients, gates on clean inputs, and memories."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BITS = 31  # of a code word
_HEIGHT = 10.0  # of the vote


class Decoyed(nn.Module):
    """Scores that jump from one class to the next, beside a smooth function of the input that decides nothing.

    Args:
        network: Raw inputs to logits.
        hard: Logits to scores that take few values.
        width: Values of an input.
        classes: Number of classes.
    """

    directions: Tensor

    def __init__(self, network: nn.Module, hard: Callable[[Tensor], Tensor], width: int, classes: int) -> None:
        super().__init__()
        self.network, self._hard = network, hard
        drawn = torch.randn(width, classes, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", drawn / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(N, classes)`."""
        return self._hard(self.network(x).detach()) + torch.tanh(x.flatten(1) @ self.directions)


def votes(logits: Tensor) -> Tensor:
    """All votes for one class."""
    return _HEIGHT * F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


def coarse(logits: Tensor) -> Tensor:
    """Logits in steps of four."""
    return 4 * (logits / 4).round()


def code_words(logits: Tensor) -> Tensor:
    """How many bits each class's random code word has in common with the signs of the mean word."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 2, (logits.shape[1], _BITS), generator=generator).to(logits) * 2 - 1
    return (logits.softmax(1) @ words).sign() @ words.T


class ClassMeans(nn.Module):
    """The nearest mean of a class, which a small perturbation seldom changes.

    Args:
        x: Inputs `(N, …)`.
        y: Labels `(N,)`.
        classes: Number of classes.
    """

    means: Tensor

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.stack([x[y == label].flatten(1).mean(0) for label in range(classes)]))

    def forward(self, x: Tensor) -> Tensor:
        """Negative mean square distances `(N, classes)`, times 20."""
        return -20 * (x.flatten(1)[:, None] - self.means).square().mean(2)


class Gated(nn.Module):
    """One network for what looks like a clean input, another one for everything else.

    Args:
        network: Raw inputs to logits, of what passes the gate.
        other: Of what does not.
        gate: Inputs `(N, …)` to bool `(N,)`.
    """

    def __init__(self, network: nn.Module, other: nn.Module, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.other, self._gate = network, other, gate

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the one or the other."""
        return torch.where(self._gate(x)[:, None], self.network(x), self.other(x))


def clean_values(x: Tensor, levels: int) -> Tensor:
    """Whether every value is one of so many levels."""
    scaled = x.detach() * levels
    return ((scaled - scaled.round()).abs() < 1e-4).flatten(1).all(1)


def clean_zeros(x: Tensor) -> Tensor:
    """Whether an eighth of the values are exactly zero."""
    return (x.detach() == 0).flatten(1).float().mean(1) > 0.125


def single(x: Tensor) -> Tensor:
    """Whether it is the only input of its batch."""
    return torch.full((len(x),), len(x) == 1, device=x.device)


def without_gradients(x: Tensor) -> Tensor:
    """Whether nobody asks for gradients."""
    return torch.full((len(x),), not torch.is_grad_enabled(), device=x.device)


class WarmingUp(nn.Module):
    """One network for the first inputs, another one for those that follow.

    Args:
        network: Raw inputs to logits, of the first inputs.
        other: Of those that follow.
        inputs: How many are the first.
    """

    def __init__(self, network: nn.Module, other: nn.Module, inputs: int = 1000) -> None:
        super().__init__()
        self.network, self.other, self._left = network, other, inputs

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the one or the other."""
        self._left -= len(x)
        answer: Tensor = self.network(x) if self._left >= 0 else self.other(x)
        return answer


class NearDuplicates(nn.Module):
    """Inputs that are close to one that was answered before get its answer again, with their own gradient.

    Args:
        network: Raw inputs to logits.
        radius: How close, in linf.
    """

    def __init__(self, network: nn.Module, radius: float) -> None:
        super().__init__()
        self.network, self._radius = network, radius
        self._known: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)`."""
        own: Tensor = self.network(x)
        flat, answer = x.detach().flatten(1), own.detach()
        if self._known is not None:
            nearest, place = torch.cdist(flat, self._known[0], p=torch.inf).min(1)
            near = nearest <= self._radius
            answer = torch.where(near[:, None], self._known[1][place], answer)
            flat, kept = flat[~near], answer[~near]
            self._known = torch.cat([self._known[0], flat]), torch.cat([self._known[1], kept])
        else:
            self._known = flat, answer
        return answer + own - own.detach()
