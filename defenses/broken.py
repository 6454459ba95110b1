"""Published defences that looked strong and were not, rebuilt small: what an evaluation must see through."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import Deployed, Samples, Served, Streams, checks
from robustsuite.defenses.broken_parts import (
    Around,
    Codec,
    DroppedAlways,
    Levels,
    Members,
    PrunedAtRandom,
    Purified,
    WinnersTakeAll,
    resized_at_random,
    thermometer,
)
from robustsuite.models.fitting import knowable, refuse_misfit
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms
from robustsuite.training import Build, Recipe

Wrap = Callable[[nn.Module], nn.Module]


def _with_activations(make: Callable[[], nn.Module], replacing: bool, network: nn.Module) -> nn.Module:
    """The network with something behind, or in place of, each ReLU."""
    changed = copy.deepcopy(network)
    for parent in list(changed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, make() if replacing else nn.Sequential(child, make()))
    return changed


def _hardened(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


_SERVED: Final[dict[str, Wrap]] = {
    "scaled-logits": lambda net: Around(net, after=lambda logits: 1000 * logits),
    "softmax": lambda net: Around(net, after=lambda logits: logits.softmax(1)),
    "detached": lambda net: Around(net, after=lambda logits: logits.detach().clone()),
    "argmax": lambda net: Around(net, after=_hardened),
    "levels": lambda net: Around(net, before=Levels(4)),
    "jpeg": lambda net: Around(net, before=Codec(75)),
    "random-pruning": partial(_with_activations, lambda: PrunedAtRandom(1.0), False),
    "random-dropout": partial(_with_activations, lambda: DroppedAlways(0.3), False),
    "purification": lambda net: Purified(net, steps=3, size=0.02),
}


class _AtTemperature(nn.Module):
    """Logits that were trained at a temperature and are served without."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self._temperature = network, temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(x)
        return logits / self._temperature if self.training else logits


def _encoded(build: Build, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
    network = build(classes, (10 * shape[0], *shape[1:]), bounds)
    return Around(network, before=partial(thermometer, levels=10))


Make = Callable[[Build, int, tuple[int, ...], tuple[float, float]], nn.Module]
_BUILT: Final[dict[str, Make]] = {
    "temperature": lambda build, *given: _AtTemperature(build(*given), 100.0),
    "thermometer": _encoded,
    "random-resize": lambda build, *given: Around(build(*given), before=partial(resized_at_random, least=0.75)),
    "winners-take-all": lambda build, *given: _with_activations(lambda: WinnersTakeAll(0.2), True, build(*given)),
    "crossmax": lambda build, *given: Members([build(*given) for _ in range(5)], "crossmax"),
    "diversity": lambda build, *given: Members([build(*given) for _ in range(3)], "probabilities"),
    "one-bit": lambda build, *given: Around(build(*given), before=Levels(1)),
}
KINDS: Final = (*_SERVED, *_BUILT)
_IMAGES: Final = ("jpeg", "random-resize")


@register.defense("broken", taxonomy=("NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class Broken:
    """A defence that hides gradients rather than mistakes, for testing evaluations; never deploy it.

    Those around a trained network (`scaled-logits`, `softmax`, `detached`, `argmax`, `levels`, `jpeg`,
    `random-pruning`, `random-dropout`, `purification`) share its training with the undefended model. The others are
    trained: `temperature` (at 100, served at 1), `thermometer`, `random-resize`, `winners-take-all`, `crossmax` (5
    members), `diversity` (3), and `one-bit`, a control that is partly robust in truth where inputs are nearly binary.
    Inputs lie in [0, 1]. What is deployed says nothing of what it is.

    Args:
        kind: Which one.

    Raises:
        RequestError: An unknown kind.

    References:
        Athalye et al., ICML 2018, arXiv:1802.00420; Tramer et al., NeurIPS 2020, arXiv:2002.08347; each part's own.
    """

    kind: str = "scaled-logits"

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, KINDS)

    def check(self, recipe: Recipe, terms: Terms) -> None:
        """Refuse what is no image where one is needed, and a network that cannot be built into this."""
        shape = terms.shape
        if self.kind in _IMAGES and (len(shape) != 3 or (self.kind == "jpeg" and shape[0] not in (1, 3))):
            expected = f"images (channels, height, width), with 1 or 3 channels for jpeg, not inputs {shape}"
            raise checks.fail(expected, "kind", self.kind, "choose another kind")
        if isinstance(recipe.build, BrokenBuild) and knowable(recipe.build.build):
            refuse_misfit(recipe.build, terms.classes, shape, terms.bounds)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with another network, or with a wrapper around the deployed one."""
        if self.kind in _SERVED:
            return recipe.with_serve(Disguised(kind=self.kind))
        return replace(recipe, build=BrokenBuild(build=recipe.build, kind=self.kind))


@dataclass(frozen=True, kw_only=True)
class Disguised:
    """Wrap the deployed network by something that hides its gradient.

    Args:
        kind: What.
    """

    kind: str

    def __call__(self, model: Deployed, calibration: Samples, streams: Streams) -> Deployed:  # noqa: ARG002
        """The wrapped network, which answers everything and declares nothing."""
        return Served(_SERVED[self.kind](model.network).eval())


@dataclass(frozen=True, kw_only=True)
class BrokenBuild:
    """Build a network, or several, inside of what hides the gradient.

    Args:
        build: Builds the network.
        kind: What is built around it.
    """

    build: Build
    kind: str

    def __call__(self, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
        """The network in training mode."""
        return _BUILT[self.kind](self.build, classes, shape, bounds).train()
