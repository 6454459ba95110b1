"""What to differentiate in place of a model whose own gradients are missing or mislead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.diagnostics.passing import Passing
from robustsuite.isolation import differentiable
from robustsuite.serving import Deployed, Outputs
from robustsuite.streams import Streams, mixed

_CELLS: Final = 8  # of which one noise is made, to tell apart inputs that get noise of their own


class Bridged(nn.Module):
    """A model with its own values, whose gradient passes over what stops it.

    Functions are intercepted by `Passing`. A part that gets a tensor of the input's shape to which no gradient leads
    gets one that has the input's; an activation without a gradient has that of what the part was given. What was
    lost in foreign code (an image codec, NumPy) is bridged by that, wherever a submodule comes after it.

    Args:
        inner: Raw inputs to logits.
        classes: Number of classes.
        width: Over what change of its operands a comparison is smeared.
        intercept: Whether to intercept functions, besides bridging between submodules.
        force: Whether parts without parameters that keep their input's shape always pass the gradient on unchanged.
    """

    def __init__(
        self, inner: nn.Module, classes: int, width: float = 0.1, *, intercept: bool = True, force: bool = False
    ) -> None:
        super().__init__()
        self.inner, self.classes, self.width, self.intercept, self.force = inner, classes, width, intercept, force

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)`."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self._answer(x)
        mode = Passing(len(x), self.classes, self.width, quiet=not self.intercept)
        with bridged(self.inner, x, force=self.force), mode:
            return self._answer(x)

    def _answer(self, x: Tensor) -> Tensor:
        answer: Tensor = self.inner(x)
        return answer


class Tapped(nn.Module):
    """The mean of what is computed inside a model as `(N, classes)` for the first time: its logits, or its members'.

    Args:
        inner: Raw inputs to answers.
        classes: Number of classes.
        width: Over what change of its operands a comparison is smeared.
        only: Which of them to take, by order of computation; None for all.
    """

    def __init__(self, inner: nn.Module, classes: int, width: float = 0.1, only: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.inner, self.classes, self.width, self.only = inner, classes, width, only

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)`; those of several members are normalised before their mean is taken."""
        entries = self.entries(x)
        chosen = entries if self.only is None else [entries[i] for i in self.only if i < len(entries)]
        if not chosen:
            answer: Tensor = self.inner(x)
            return answer
        return chosen[0] if len(chosen) == 1 else torch.stack([e.log_softmax(1) for e in chosen]).mean(0)

    def entries(self, x: Tensor) -> list[Tensor]:
        """Every result `(N, classes)` that was made of something of another shape, in order."""
        with bridged(self.inner, x), Passing(len(x), self.classes, self.width) as mode:
            self.inner(x)
        found: list[Tensor] = mode.entries
        return found


class Averaged(nn.Module):
    """The mean answer over several draws of a random model, and over noise that is added to its input.

    Args:
        inner: Raw inputs to logits.
        draws: How many answers to average, at least 1.
        noise: Standard deviation of Gaussian noise on each input, at least 0; 0 leaves the input as it is.

    Guarantees:
        The noise is keyed by draw and by the input itself, so the mean of a deterministic model is a function of its
        input and the same in any batch. What a random model draws comes from torch's global generator.

    References:
        Athalye et al., ICML 2018, arXiv:1707.07397.
    """

    def __init__(self, inner: nn.Module, draws: int, noise: float = 0.0) -> None:
        super().__init__()
        self.inner, self.draws, self.noise = inner, draws, noise

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits `(N, classes)`."""
        keys = self._keys(x) if self.noise > 0 else None
        total = self.inner(self._moved(x, keys, 0))
        for draw in range(1, self.draws):
            total = total + self.inner(self._moved(x, keys, draw))
        mean: Tensor = total / self.draws
        return mean

    def _keys(self, x: Tensor) -> Tensor:
        """One key for each input `(N,)`, of its values in parts of the noise, so that no last bit decides."""
        cells = (x.detach().double().flatten(1) * (_CELLS / self.noise)).round().to(torch.int64)
        return mixed(cells)

    def _moved(self, x: Tensor, keys: Tensor | None, draw: int) -> Tensor:
        if keys is None:
            return x
        drawn = Streams(0).child("noise", draw).normal(keys, tuple(x.shape[1:]), dtype=x.dtype)
        return x + self.noise * drawn


class Rerouted(Deployed):
    """A deployed model as it is, with something else to differentiate through.

    Args:
        inner: The deployed model, which alone decides.
        stand_in: Raw inputs to logits, differentiable.
        draws: How often a random model is asked; the majority decides.
    """

    def __init__(self, inner: Deployed, stand_in: nn.Module, draws: int = 1) -> None:
        self._inner, self._stand_in, self._draws = inner, stand_in, draws

    @property
    def network(self) -> nn.Module:
        """The network inside."""
        return self._inner.network

    def surrogate(self) -> nn.Module:
        """The stand-in."""
        return self._stand_in

    def __call__(self, x: Tensor) -> Outputs:
        """The model's answer; over several draws, votes with the mean probability behind the point."""
        if self._draws == 1:
            return self._inner(x)
        answers = [self._inner(x) for _ in range(self._draws)]
        rejected = torch.stack([a.rejected for a in answers]).sum(0) * 2 > self._draws
        kept = torch.stack([a.logits * ~a.rejected[:, None] for a in answers])
        votes = torch.nn.functional.one_hot(kept.argmax(2), kept.shape[2]).to(kept.dtype)
        votes = votes * torch.stack([~a.rejected for a in answers])[:, :, None]
        return Outputs(votes.sum(0) + 0.5 * kept.softmax(2).mean(0), rejected)


@contextmanager
def bridged(inner: nn.Module, x: Tensor, *, force: bool = False) -> Iterator[None]:
    """While it is entered, parts of `inner` get and hand on the gradient of `x` where it was lost between them."""
    handles = [part.register_forward_pre_hook(_enter(x)) for part in inner.modules() if part is not inner]
    handles += [
        part.register_forward_hook(_leave(force and _plain(part))) for part in inner.modules() if part is not inner
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plain(part: nn.Module) -> bool:
    """Whether it is a stranger's activation: no weights, no parts, and none of torch's own."""
    own = type(part).__module__.startswith("torch.nn")
    return not own and not any(True for _ in part.parameters()) and not any(True for _ in part.children())


def _enter(x: Tensor) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_joined(a, x) if _lost(a, x) else a for a in args)

    return hook


def _leave(force: bool) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if source is None or not source.requires_grad or not isinstance(result, Tensor):
            return result
        if result.shape == source.shape and result.is_floating_point() and (force or not result.requires_grad):
            return _joined(result.detach(), source)
        return result

    return hook


def _lost(value: Any, x: Tensor) -> bool:
    if not isinstance(value, Tensor) or value is x or not x.requires_grad or value.shape != x.shape:
        return False
    return value.is_floating_point() and value.grad_fn is None


def _joined(value: Tensor, source: Tensor) -> Tensor:
    with differentiable():
        return value + (source - source.detach()).to(value.dtype)
