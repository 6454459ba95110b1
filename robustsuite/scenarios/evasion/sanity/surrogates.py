"""What to differentiate in place of a model whose own gradients are missing or mislead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.core.deployed import Deployed, Outputs
from robustsuite.core.door import Door
from robustsuite.core.isolation import differentiable
from robustsuite.core.streams import Streams, mixed
from robustsuite.scenarios.evasion.sanity.straight_through import Passing

_TORCHS: Final = frozenset(kind for kind in vars(nn).values() if isinstance(kind, type))
_CELLS: Final = 8  # of which one noise is made, to tell apart inputs that get noise of their own


class StraightThrough(nn.Module):
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


class IntermediateLogits(nn.Module):
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


class Submodule(nn.Module):
    """Parts of a model, each from what it is really given to its answer, its gradient handed straight to the input.

    What lies around them (a hand-written backward pass, foreign code, another path where gradients are asked for) only
    shows what they are given. Answers of several parts, or of one that is used several times, are averaged.

    Args:
        inner: Raw inputs to answers.
        parts: Modules within, from images of the input's shape, or of other height and width, to `(N, classes)`.
        classes: Number of classes.
        width: Over what change of its operands a comparison is smeared.
    """

    def __init__(self, inner: nn.Module, parts: tuple[nn.Module, ...], classes: int, width: float = 0.1) -> None:
        super().__init__()
        self.inner, self.parts = inner, parts  # a tuple, which registers none of them a second time
        self._bridges = tuple(StraightThrough(part, classes, width) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits `(N, classes)`."""
        given: list[tuple[int, Tensor]] = []
        with torch.no_grad(), _noted(self.parts, given):
            answer: Tensor = self.inner(x.detach())
        found = [self._bridges[i](value + _moving(x, value)) for i, value in given if len(value) == len(x)]
        if not found:
            return answer
        return found[0] if len(found) == 1 else torch.stack([logits.log_softmax(1) for logits in found]).mean(0)


def parts_within(inner: nn.Module, x: Tensor, classes: int, passes: int = 1) -> tuple[nn.Module, ...]:
    """The innermost modules that make logits of something like the input, in order of first use.

    Args:
        inner: Raw inputs to answers.
        x: Some inputs `(n, …)`.
        classes: Number of classes.
        passes: How often to look, as a random model may use other parts each time.
    """
    used: dict[nn.Module, None] = {}

    def note(part: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        like = bool(args) and isinstance(args[0], Tensor) and _is_like(args[0], x)
        if like and isinstance(result, Tensor) and result.shape == (len(x), classes):
            used[part] = None  # the parts of a part are done before it

    handles = [part.register_forward_hook(note) for part in hookable(inner)]
    try:
        with torch.no_grad():
            for _ in range(passes):
                inner(x.detach())
    finally:
        for handle in handles:
            handle.remove()
    return tuple(part for part in used if not any(other in used for other in part.modules() if other is not part))


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
        surrogate: Raw inputs to logits, differentiable.
        draws: How often a random model is queried; the majority decides.
    """

    def __init__(self, inner: Deployed, surrogate: nn.Module, draws: int = 1) -> None:
        self._inner, self._surrogate, self._draws = inner, surrogate, draws

    @property
    def network(self) -> nn.Module:
        """The network inside."""
        return self._inner.network

    def surrogate(self) -> nn.Module:
        """The surrogate."""
        return self._surrogate

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


def hookable(inner: nn.Module) -> list[nn.Module]:
    """The modules within a network, or behind its door, that hooks can be put on; scripted ones take none."""
    whole = inner.network if isinstance(inner, Door) else inner
    return [part for part in whole.modules() if part is not whole and not isinstance(part, torch.jit.ScriptModule)]


@contextmanager
def bridged(inner: nn.Module, x: Tensor, *, force: bool = False) -> Iterator[None]:
    """While it is entered, parts of `inner` get and hand on the gradient of `x` where it was lost between them."""
    handles = [part.register_forward_pre_hook(_enter(x)) for part in hookable(inner)]
    handles += [part.register_forward_hook(_leave(force and _plain(part))) for part in hookable(inner)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _noted(parts: tuple[nn.Module, ...], given: list[tuple[int, Tensor]]) -> Iterator[None]:
    """While it is entered, what each part is given is kept beside its number."""

    def noting(place: int) -> Any:
        return lambda _, args: given.append((place, args[0].detach()))

    handles = [part.register_forward_pre_hook(noting(place)) for place, part in enumerate(parts)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_like(value: Tensor, x: Tensor) -> bool:
    """Whether it has the input's shape, or is an image of another size with as many channels."""
    if not value.is_floating_point() or value.dim() != x.dim() or len(value) != len(x):
        return False
    return value.shape == x.shape or (x.dim() == 4 and value.shape[1] == x.shape[1])


def _moving(x: Tensor, value: Tensor) -> Tensor:
    """Zeros like `value` with the gradient of `x`, which is resized where `value` is an image of another size."""
    with differentiable():
        resized = x if x.shape == value.shape else nn.functional.interpolate(x, tuple(value.shape[2:]))
        return (resized - resized.detach()).to(value.dtype)


def _plain(part: nn.Module) -> bool:
    """Whether it is a stranger's activation: no weights, no parts, and none of torch's own."""
    return type(part) not in _TORCHS and not [*part.parameters()] and not [*part.children()]


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
