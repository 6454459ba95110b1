"""The momentum iterative fast gradient method, and the maps by which its kin transfer better to other models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsuite.access import BestSoFar, Transform, WhiteBox
from robustsuite.core import Streams, checks, losses
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms

_LEAST: Final = 0.9  # of its side, to which a diverse input is shrunk at most
_SPREAD: Final = 3.0  # standard deviations from the centre of a kernel to its edge


@register.attack(
    "mi-fgsm", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022")
)
@dataclass(frozen=True, kw_only=True)
class MIFGSM:
    """Step along an accumulated gradient; options smooth it over transformed inputs, so that it fits other models too.

    A plain run costs `steps` backward and `steps + 1` forward passes a sample at most; every scale costs as much again,
    and diverse inputs or Nesterov's point cost a forward pass a step to see whether the sample is broken.

    Args:
        steps: Gradient steps, at least 1.
        step_size: Length of a step as a fraction of the ball's radius, in (0, 2]; None for an equal share, 1 / steps.
        momentum: Decay of the accumulated, normalised gradients, in [0, 1].
        nesterov: Whether gradients are taken where the accumulated one would lead.
        diversity: Probability with which an image is shrunk, to at least nine tenths, and moved before each pass, in
            [0, 1]; 0.5 in the paper.
        translation: Width in pixels of the Gaussian by which gradients are smoothed, odd; 0 for none, 15 in the paper
            for images of 299 pixels.
        scales: Over how many copies of the input, each half as bright as the last, gradients are averaged, at least 1;
            5 in the paper.
        l1_share: In l1, the share of coordinates over which a step is spread, in [0, 1].
        loss: What to ascend: `cross-entropy`, `margin` or `dlr` (the margin, where there are fewer than 4 classes).
        stop: Whether a sample is left where it is first broken. Otherwise all steps are taken, and the last point is
            returned unless only an earlier one was adversarial: what transfers to another model.

    Raises:
        RequestError: Diversity or translation of inputs that are no images.

    Guarantees:
        Random draws are keyed by sample id and step, so they are bit-equal in any batch.

    References:
        Dong et al., CVPR 2018, arXiv:1710.06081; diversity: Xie et al., CVPR 2019, arXiv:1803.06978; translation: Dong
        et al., CVPR 2019, arXiv:1904.02884; Nesterov and scales: Lin et al., ICLR 2020, arXiv:1908.06281.

    Example:
        >>> MIFGSM(diversity=0.5, translation=15, scales=5, nesterov=True).steps
        10
    """

    steps: int = 10
    step_size: float | None = None
    momentum: float = 1.0
    nesterov: bool = False
    diversity: float = 0.0
    translation: int = 0
    scales: int = 1
    l1_share: float = 0.05
    loss: str = "cross-entropy"
    stop: bool = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        if self.step_size is not None:
            checks.real("step_size", self.step_size, low=0.0, high=2.0, open_low=True)
        checks.real("momentum", self.momentum, low=0.0, high=1.0)
        checks.real("diversity", self.diversity, low=0.0, high=1.0)
        checks.integer("translation", self.translation, low=0)
        if self.translation and self.translation % 2 == 0:
            raise checks.fail("an odd width in pixels, or 0", "translation", self.translation, "add 1")
        checks.integer("scales", self.scales, low=1)
        checks.real("l1_share", self.l1_share, low=0.0, high=1.0)
        checks.one_of("loss", self.loss, losses.NAMED)

    def check(self, terms: Terms) -> None:
        """Refuse diversity or translation of inputs that are no images."""
        self._suits(terms.shape)

    def _suits(self, shape: tuple[int, ...]) -> None:
        if (self.diversity or self.translation) and len(shape) != 3:
            name, value = ("diversity", self.diversity) if self.diversity else ("translation", self.translation)
            raise checks.fail(f"images (channels, height, width), not inputs {shape}", name, value, "set it to 0")

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        self._suits(tuple(view.x.shape[1:]))
        best = BestSoFar(view.x)
        if view.ball.radius == 0:
            return best.x
        rows = best.left()
        x, momentum = view.x[rows], torch.zeros_like(view.x)
        length = (1 / self.steps if self.step_size is None else self.step_size) * view.ball.radius
        for step in range(self.steps):
            point = self._ahead(view, x, momentum, length) if self.nesterov else x
            gradient, broken = self._gradient(view, x, rows, point, streams.child("maps", step), step, best)
            if self.stop and broken.any():
                left = ~broken
                x, rows, momentum, gradient = (part[left] for part in (x, rows, momentum, gradient))
                if len(rows) == 0:
                    return best.x
            momentum = self.momentum * momentum + _normalised(gradient)
            x = view.ball.project(view.ball.step(x, momentum, length, share=self.l1_share), view.x[rows])
        broken = self._look(view, x, rows, 1.0, best)
        if not self.stop:
            last = broken | best.unbroken(rows)
            best.x[rows[last]] = x[last]
        return best.x

    def _gradient(
        self, view: WhiteBox, x: Tensor, rows: Tensor, point: Tensor, streams: Streams, step: int, best: BestSoFar
    ) -> tuple[Tensor, Tensor]:
        """The mean gradient over all maps at `point`, smoothed, and which samples are broken at `x`."""
        loss, progress = losses.NAMED[losses.resolve(self.loss, view.classes)], step / self.steps
        direct = not self.diversity and not self.nesterov
        if direct:
            value, total, broken = view.value_and_grad(x, rows, loss, progress=progress, unbroken_only=self.stop)
            best.keep(x, rows, value, broken)
        else:
            total = torch.zeros_like(x)
            broken = self._look(view, x, rows, progress, best) if self.stop and step else torch.zeros_like(rows) > 0
        for scale in range(1 if direct else 0, self.scales):
            transform = self._map(view, streams, scale)
            total = total + view.value_and_grad(point, rows, loss, transform=transform, progress=progress).gradient
        total = total / self.scales
        return (smoothed(total, self.translation) if self.translation else total), broken

    def _ahead(self, view: WhiteBox, x: Tensor, momentum: Tensor, length: float) -> Tensor:
        """Where the accumulated gradient alone would lead, which may lie outside of ball and bounds."""
        if view.ball.norm == "linf":
            return x + length * self.momentum * momentum
        return view.ball.step(x, momentum, length * self.momentum, share=self.l1_share)

    def _map(self, view: WhiteBox, streams: Streams, scale: int) -> Transform:
        def transform(x: Tensor, rows: Tensor) -> Tensor:
            dimmed: Tensor = x / 2**scale
            if not self.diversity:
                return dimmed
            keyed = streams.child("diversity", scale)
            return diversified(dimmed, view.ids[rows], keyed, probability=self.diversity, least=_LEAST)

        return transform

    def _look(self, view: WhiteBox, x: Tensor, rows: Tensor, progress: float, best: BestSoFar) -> Tensor:
        loss = losses.NAMED[losses.resolve(self.loss, view.classes)]
        value, broken = view.value(x, rows, loss, progress=progress)
        best.keep(x, rows, value, broken)
        return broken


def _normalised(gradient: Tensor) -> Tensor:
    """Each sample's gradient over the mean of its magnitudes; a zero gradient stays zero."""
    size = gradient.abs().flatten(1).mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / per_sample(size, gradient)


def gaussian_kernel(width: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights `(width, width)` that sum to 1, of a Gaussian whose edge lies three standard deviations out.

    References:
        Dong et al., CVPR 2019, arXiv:1904.02884.
    """
    place = torch.linspace(-_SPREAD, _SPREAD, width, dtype=torch.float64) if width > 1 else torch.zeros(1).double()
    bell = torch.exp(-place.square() / 2)
    weights = torch.outer(bell, bell)
    return (weights / weights.sum()).to(dtype)


def smoothed(gradient: Tensor, width: int) -> Tensor:
    """Gradients of images `(n, C, H, W)`, each channel convolved with the kernel: those of shifted images, averaged."""
    channels = gradient.shape[1]
    kernel = gaussian_kernel(width, dtype=gradient.dtype).to(gradient.device).expand(channels, 1, width, width)
    return F.conv2d(gradient, kernel, padding=width // 2, groups=channels)


def resized(x: Tensor, share: Tensor, place: Tensor) -> Tensor:
    """Images `(n, C, H, W)` shrunk and put somewhere on black (0), each in its own way.

    Args:
        x: The images.
        share: Side of the shrunk image as a share of the old one `(n,)`, in (0, 1].
        place: Where it lies in the room that is left `(n, 2)`, vertically and horizontally, each in [0, 1].
    """
    centre = (place * 2 - 1) * (1 - share)[:, None]
    matrix = x.new_zeros(len(x), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / share
    matrix[:, 0, 2], matrix[:, 1, 2] = -centre[:, 1] / share, -centre[:, 0] / share
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def diversified(x: Tensor, ids: Tensor, streams: Streams, *, probability: float, least: float) -> Tensor:
    """Each image, with this probability, shrunk to between `least` and all of its side and put at a random place.

    The draws are keyed by sample id.

    References:
        Xie et al., CVPR 2019, arXiv:1803.06978.
    """
    side = x.shape[-2]
    smallest = max(1, round(least * side))
    share = (smallest + streams.child("side").integers(ids, side - smallest + 1)).to(x.dtype) / side
    place = streams.child("place").uniform(ids, (2,), dtype=x.dtype)
    chosen = streams.child("coin").uniform(ids, (1,), dtype=x.dtype)[:, 0] < probability
    return torch.where(chosen[:, None, None, None], resized(x, share, place), x)
