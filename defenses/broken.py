"""Published defences that looked strong and were not, rebuilt small: what an evaluation must see through."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import Deployed, Served, checks
from robustsuite.defenses import decoys
from robustsuite.models.fitting import knowable, refuse_misfit
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms
from robustsuite.training import Build, Context, Recipe

Wrap = Callable[[nn.Module], nn.Module]
Make = Callable[[Build, int, tuple[int, ...], tuple[float, float]], nn.Module]

_SERVED: Final[dict[str, Wrap]] = {
    "scaled-logits": lambda net: Around(net, after=lambda logits: 1000 * logits),
    "softmax": lambda net: Around(net, after=lambda logits: logits.softmax(1)),
    "detached": lambda net: Around(net, after=lambda logits: logits.detach().clone()),
    "argmax": lambda net: Around(net, after=hardened),
    "levels": lambda net: Around(net, before=Layer(rounded, bits=4)),
    "jpeg": lambda net: Around(net, before=Layer(through_jpeg, quality=75)),
    "random-pruning": lambda net: with_activations(net, pruned_at_random, behind=True, share=1.0),
    "random-dropout": lambda net: with_activations(net, dropped, behind=True, share=0.3),
    "purification": lambda net: Purified(net, steps=3, size=0.02),
    "near-duplicates": lambda net: decoys.NearDuplicates(net, radius=0.25),
}
_DECOYED: Final = {"decoy-votes": decoys.votes, "decoy-levels": decoys.coarse, "decoy-codes": decoys.code_words}
_GATED: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gate-values": partial(decoys.clean_values, levels=16),
    "gate-zeros": decoys.clean_zeros,
    "gate-single": decoys.single,
    "gate-gradients": decoys.without_gradients,
}
_OTHERS: Final = (*_GATED, "warm-up")  # which need a second network
_BUILT: Final[dict[str, Make]] = {
    "temperature": lambda build, *given: AtTemperature(build(*given), 100.0),
    "thermometer": lambda build, *given: encoded(10, build, *given),
    "random-resize": lambda build, *given: Around(build(*given), before=partial(resized_at_random, least=0.75)),
    "winners-take-all": lambda build, *given: with_activations(build(*given), winners, behind=False, share=0.2),
    "crossmax": lambda build, *given: Members([build(*given) for _ in range(5)], "crossmax"),
    "diversity": lambda build, *given: Members([build(*given) for _ in range(3)], "probabilities"),
    "one-bit": lambda build, *given: Around(build(*given), before=Layer(rounded, bits=1)),
}
_AROUND: Final = (*_SERVED, *_DECOYED, *_OTHERS)  # what is put around a trained network
KINDS: Final = (*_AROUND, *_BUILT)
_IMAGES: Final = ("jpeg", "random-resize")


@register.defense("broken", taxonomy=("NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class Broken:
    """A defence that hides gradients rather than mistakes, for testing evaluations; never deploy it.

    Those around a trained network (`scaled-logits`, `softmax`, `detached`, `argmax`, `levels`, `jpeg`,
    `random-pruning`, `random-dropout`, `purification`) share its training with the undefended model, and so do those
    that mislead on purpose: scores that jump beside a decoy's gradient (`decoy-votes`, `decoy-levels`, `decoy-codes`),
    another network for whatever does not look like a clean input of digits (`gate-values`, `gate-zeros`,
    `gate-single`, `gate-gradients`), and those that remember (`near-duplicates`, `warm-up`). The others are trained:
    `temperature` (at 100, served at 1), `thermometer`, `random-resize`, `winners-take-all`, `crossmax` (5 members),
    `diversity` (3), and `one-bit`, a control that is partly robust in truth where inputs are nearly binary. Inputs lie
    in [0, 1]. What is deployed says nothing of what it is.

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
        if self.kind in _AROUND:
            return recipe.with_serve(Disguised(kind=self.kind))
        return replace(recipe, build=BrokenBuild(build=recipe.build, kind=self.kind))


@dataclass(frozen=True, kw_only=True)
class Disguised:
    """Wrap the deployed network by something that hides its gradient.

    Args:
        kind: What.
    """

    kind: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of the data set that it asks for, for a second network."""
        return ("calibration",) if self.kind in _OTHERS else ()

    def __call__(self, model: Deployed, context: Context) -> Deployed:
        """The wrapped network, which answers everything and declares nothing."""
        network, shape, classes = model.network, context.shape, context.classes
        other = None
        if self.kind in _OTHERS:
            known = context.part("calibration")
            other = decoys.ClassMeans(known.inputs(), known.y, classes).to(context.device)
        return Served(disguised(self.kind, network, classes, shape, other).eval())


def disguised(
    kind: str, network: nn.Module, classes: int, shape: tuple[int, ...], other: nn.Module | None = None
) -> nn.Module:
    """A trained network inside of what hides its gradient.

    Args:
        kind: What is put around it; one of those that are no build of their own.
        network: Raw inputs to logits.
        classes: Number of classes.
        shape: Of one input.
        other: The second network, of those kinds that have one.
    """
    if kind in _SERVED:
        return _SERVED[kind](network)
    if kind in _DECOYED:
        return decoys.Decoyed(network, _DECOYED[kind], math.prod(shape), classes)
    if other is None:
        raise checks.fail("a second network", "other", other, f"{kind} answers by two of them")
    return decoys.Gated(network, other, _GATED[kind]) if kind in _GATED else decoys.WarmingUp(network, other)


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


class Around(nn.Module):
    """A network with something before and after it; none of it says what it is.

    Args:
        network: Raw inputs to logits.
        before: Inputs to inputs.
        after: Logits to answers.
    """

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self._before, self._after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(N, classes)`."""
        answer: Tensor = self.network(x if self._before is None else self._before(x))
        return answer if self._after is None else self._after(answer)


class Layer(nn.Module):
    """A function of inputs or activations as a module, which an evaluation can see and pass by.

    Args:
        function: Tensors to tensors.
        **settings: What else it is given.
    """

    def __init__(self, function: Callable[..., Tensor], **settings: float) -> None:
        super().__init__()
        self._function = partial(function, **settings)

    def forward(self, x: Tensor) -> Tensor:
        """What the function makes of it."""
        return self._function(x)


class AtTemperature(nn.Module):
    """Logits that were trained at a temperature and are served without."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self._temperature = network, temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(x)
        return logits / self._temperature if self.training else logits


class Members(nn.Module):
    """Several networks, trained by their mean loss of logits, that answer together.

    Args:
        networks: Raw inputs to logits each.
        way: `crossmax` (Fort and Lakshminarayanan, 2024, arXiv:2408.05446) or `probabilities` (their mean, as in
            Pang et al., ICML 2019, arXiv:1901.08846).
    """

    def __init__(self, networks: list[nn.Module], way: str) -> None:
        super().__init__()
        self.networks, self._way = nn.ModuleList(networks), way

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(N, classes)`."""
        each = torch.stack([network(x) for network in self.networks])
        if self.training:
            mean: Tensor = each.mean(0)
            return mean
        if self._way == "probabilities":
            return each.softmax(2).mean(0).clamp_min(1e-30).log()
        each = each - each.amax(2, keepdim=True)
        each = each - each.amax(0, keepdim=True)
        return each.median(0).values


class Purified(nn.Module):
    """Move each input to where the network is surer before it is answered (as in Yoon et al., arXiv:2106.06041)."""

    def __init__(self, network: nn.Module, steps: int, size: float) -> None:
        super().__init__()
        self.network, self._steps, self._size = network, steps, size

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the moved inputs."""
        moved = x.detach().clone()
        for _ in range(self._steps):
            with torch.enable_grad():
                leaf = moved.requires_grad_(True)
                (slope,) = torch.autograd.grad(torch.logsumexp(self.network(leaf), 1).sum(), leaf)
            moved = (leaf + self._size * slope.sign()).clamp(0, 1).detach()
        answer: Tensor = self.network(moved)
        return answer


def with_activations(
    network: nn.Module, function: Callable[..., Tensor], *, behind: bool, **settings: float
) -> nn.Module:
    """The network with a function behind each ReLU, or in place of it."""
    changed = copy.deepcopy(network)
    for parent in list(changed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                layer = Layer(function, **settings)
                setattr(parent, name, nn.Sequential(child, layer) if behind else layer)
    return changed


def encoded(levels: int, build: Build, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
    """A network of inputs that are encoded as a thermometer."""
    network = build(classes, (levels * shape[0], *shape[1:]), bounds)
    return Around(network, before=partial(thermometer, levels=levels))


def hardened(logits: Tensor) -> Tensor:
    """Nothing but which class it is."""
    return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


def rounded(x: Tensor, bits: int) -> Tensor:
    """Inputs in [0, 1] rounded to 2^bits levels (Xu et al., NDSS 2018, arXiv:1704.01155)."""
    steps = 2**bits - 1
    levels: Tensor = (x * steps).round() / steps
    return levels


def through_jpeg(x: Tensor, quality: int) -> Tensor:
    """Images `(N, 1 or 3, H, W)` through JPEG and back, outside of torch (Das et al., KDD 2018, arXiv:1802.06816)."""
    import numpy as np

    grey = x.shape[1] == 1
    pixels = (x.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = np.stack([_decoded(image[..., 0] if grey else image, quality) for image in pixels])
    back = torch.from_numpy(decoded).to(x) / 255
    return back[:, None] if grey else back.permute(0, 3, 1, 2)


def _decoded(image: Any, quality: int) -> Any:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    file.seek(0)
    return np.asarray(Image.open(file))


def thermometer(x: Tensor, levels: int) -> Tensor:
    """Each value as `levels` bits, one for each level that it reaches (Buckman et al., ICLR 2018)."""
    return torch.cat([(x >= i / levels).to(x.dtype) for i in range(1, levels + 1)], dim=1)


def pruned_at_random(x: Tensor, share: float) -> Tensor:
    """Activations kept at random by their size, and made up for (Dhillon et al., ICLR 2018, arXiv:1803.01442)."""
    flat = x.flatten(1)
    odds = flat.abs() / flat.abs().sum(1, keepdim=True).clamp_min(1e-9)
    kept = 1 - (1 - odds) ** max(1, int(share * flat.shape[1]))
    drawn = (torch.rand_like(flat) < kept).to(x.dtype)
    return (flat * drawn / kept.clamp_min(1e-6)).reshape(x.shape)


def dropped(x: Tensor, share: float) -> Tensor:
    """Dropout at test time (Feinman et al., 2017, arXiv:1703.00410)."""
    return F.dropout(x, share, training=True)


def winners(x: Tensor, share: float) -> Tensor:
    """The greatest activations of each sample, the others zero (Xiao et al., ICLR 2020, arXiv:1905.10510)."""
    flat = x.flatten(1)
    least = flat.topk(max(1, int(share * flat.shape[1])), dim=1).values[:, -1:]
    return (flat * (flat >= least).to(x.dtype)).reshape(x.shape)


def resized_at_random(x: Tensor, least: float) -> Tensor:
    """Shrink to a random size and pad to the old one at a random place (Xie et al., ICLR 2018, arXiv:1711.01991)."""
    height, width = x.shape[-2:]
    low = max(1, round(least * min(height, width)))
    size = (int(torch.randint(low, height + 1, (1,))), int(torch.randint(low, width + 1, (1,))))
    small = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    top, left = int(torch.randint(0, height - size[0] + 1, (1,))), int(torch.randint(0, width - size[1] + 1, (1,)))
    return F.pad(small, (left, width - size[1] - left, top, height - size[0] - top))
