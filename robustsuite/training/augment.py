"""Changes to training batches that the settings name, each drawn for every sample by its id."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.core.samples import Batch
from robustsuite.core.streams import Streams

_IMAGE: Final = 3  # dimensions


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Pad each image on all sides, and cut a window of its own size out of it, at a place of its own.

    Args:
        padding: Pixels on each side, at least 1; with `reflect` below the height and the width.
        fill: `reflect`, or `zeros` for raw zeros.
    """

    mixes: ClassVar[bool] = False
    padding: int = 4
    fill: str = "reflect"

    def __post_init__(self) -> None:
        checks.integer("padding", self.padding, low=1)
        checks.one_of("fill", self.fill, ("reflect", "zeros"))

    def __call__(self, batch: Batch, streams: Streams) -> Batch:
        """The batch with inputs `(B, channels, height, width)` shifted by up to `padding` each way."""
        x, span = batch.x, 2 * self.padding + 1
        shifts = (streams.uniform(batch.ids, (2,), dtype=torch.float64) * span).long() - self.padding
        rows, columns = (self._places(shifts[:, i], x.shape[2 + i]) for i in (0, 1))
        lines = torch.arange(len(x), device=x.device)[:, None, None]
        if self.fill == "reflect":
            moved = x[lines, :, _mirrored(rows, x.shape[2])[:, :, None], _mirrored(columns, x.shape[3])[:, None, :]]
        else:
            inside = _within(rows, x.shape[2])[:, :, None] & _within(columns, x.shape[3])[:, None, :]
            held = (rows.clamp(0, x.shape[2] - 1)[:, :, None], columns.clamp(0, x.shape[3] - 1)[:, None, :])
            moved = x[lines, :, held[0], held[1]] * inside[..., None]
        return batch._replace(x=moved.permute(0, 3, 1, 2))

    def _places(self, shift: Tensor, side: int) -> Tensor:
        return shift[:, None] + torch.arange(side, device=shift.device)

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Refuse inputs that cannot be cropped.

        Raises:
            RequestError: No images, or ones that are smaller than what is to be mirrored.
        """
        _refuse_vectors("crop", shape)
        if self.fill == "reflect" and self.padding >= min(shape[1:]):
            remedy = f"lower it, or write fill: zeros for images of {shape[1]} x {shape[2]}"
            raise checks.fail(f"a padding below {min(shape[1:])}", "padding", self.padding, remedy)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror each image left to right with probability 1/2; not for data whose classes it changes, such as digits."""

    mixes: ClassVar[bool] = False

    def __call__(self, batch: Batch, streams: Streams) -> Batch:
        """The batch with about half of its inputs `(B, channels, height, width)` mirrored."""
        chosen = streams.uniform(batch.ids, (1, 1, 1)) < 0.5
        return batch._replace(x=torch.where(chosen, batch.x.flip(-1), batch.x))

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Refuse feature vectors.

        Raises:
            RequestError: No images.
        """
        _refuse_vectors("flip", shape)


@dataclass(frozen=True, kw_only=True)
class _Mixing:
    """What mixes each sample with a partner, by shares from Beta(alpha, alpha)."""

    mixes: ClassVar[bool] = True
    alpha: float

    def __post_init__(self) -> None:
        checks.real("alpha", self.alpha, low=0.0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Mixup(_Mixing):
    """Take each input's weighted mean with another one of the batch, and the same mean of the losses by their labels.

    Args:
        alpha: Own shares are drawn from Beta(alpha, alpha), positive; the smaller, the less is mixed.

    References:
        Zhang et al., ICLR 2018, arXiv:1710.09412.
    """

    alpha: float = 0.2

    def __call__(self, batch: Batch, streams: Streams) -> Batch:
        """The batch with mixed inputs, the partners' labels and the own shares."""
        partner = partners(batch.ids, streams.child("partner"))
        share = beta(batch.ids, self.alpha, streams.child("share")).to(batch.x)
        own = share.reshape(-1, *[1] * (batch.x.dim() - 1))
        mixed = own * batch.x + (1 - own) * batch.x[partner]
        return batch._replace(x=mixed, partner=batch.y[partner], share=share)

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Any inputs can be mixed."""


@dataclass(frozen=True, kw_only=True)
class CutMix(_Mixing):
    """Paste a rectangle of another image of the batch into each, and weigh the losses by both labels by area.

    Args:
        alpha: Shares of the area that are kept are drawn from Beta(alpha, alpha), positive; a rectangle that reaches
            over the edge is cut off, and the share is what is left in fact.

    References:
        Yun et al., ICCV 2019, arXiv:1905.04899.
    """

    alpha: float = 1.0

    def __call__(self, batch: Batch, streams: Streams) -> Batch:
        """The batch with rectangles pasted, the partners' labels and the own shares."""
        partner = partners(batch.ids, streams.child("partner"))
        kept = beta(batch.ids, self.alpha, streams.child("share"))
        centre = streams.child("centre").uniform(batch.ids, (2,), dtype=torch.float64)
        rows, columns = (
            _stretch(centre[:, i], (1 - kept).sqrt(), batch.x.shape[2 + i]).to(batch.x.device) for i in (0, 1)
        )
        pasted = rows[:, None, :, None] & columns[:, None, None, :]
        share = 1 - pasted.flatten(1).double().mean(1)
        mixed = torch.where(pasted, batch.x[partner], batch.x)
        return batch._replace(x=mixed, partner=batch.y[partner], share=share.to(batch.x))

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Refuse feature vectors.

        Raises:
            RequestError: No images.
        """
        _refuse_vectors("cutmix", shape)


Augmentation = Crop | Flip | Mixup | CutMix
AUGMENTATIONS: Final[dict[str, type[Any]]] = {"crop": Crop, "flip": Flip, "mixup": Mixup, "cutmix": CutMix}


def augmentations(wanted: Iterable[str | Mapping[str, Any]]) -> tuple[Augmentation, ...]:
    """What the setting `augment` names, in its order.

    Args:
        wanted: Names, or {name: options}.

    Raises:
        RequestError: An unknown name or option, an impossible value, one that is there twice, or two that mix samples.
    """
    made = tuple(map(_augmentation, wanted))
    names = [type(one) for one in made]
    if len(set(names)) < len(names) or sum(one.mixes for one in made) > 1:
        raise checks.fail(
            "each augmentation once, and mixup or cutmix", "augment", [*wanted], "a sample has one partner: drop one"
        )
    return made


def mixing(wanted: Iterable[str | Mapping[str, Any]]) -> list[str]:
    """Names of those that mix samples."""
    names = (name for one in wanted for name in ([one] if isinstance(one, str) else one))
    return [name for name in names if AUGMENTATIONS[name].mixes]


def _augmentation(wanted: str | Mapping[str, Any]) -> Augmentation:
    entry = {wanted: {}} if isinstance(wanted, str) else wanted
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise checks.fail("a name or {name: {options}}", "augment", wanted, "write flip, or crop: {padding: 2}")
    ((name, options),) = entry.items()
    kind = AUGMENTATIONS[checks.one_of("augment", name, AUGMENTATIONS)]
    if not isinstance(options or {}, Mapping):
        raise checks.fail("a mapping of options", f"augment.{name}", options, "write crop: {padding: 2}, say")
    known = [field.name for field in fields(kind)]
    for key in options or {}:
        if key not in known:
            remedy = f"{name} takes {', '.join(known) or 'no options'}"
            raise checks.fail(f"an option of {name}", f"augment.{name}.{key}", options[key], remedy)
    one: Augmentation = kind(**(options or {}))
    return one


def partners(ids: Tensor, streams: Streams) -> Tensor:
    """For each row another one of the batch `(B,)`: the next in an order drawn by the ids, so each is one once."""
    order = streams.uniform(ids, (), dtype=torch.float64).argsort(stable=True)
    found = torch.empty_like(order)
    found[order] = order.roll(-1)
    return found


def beta(ids: Tensor, alpha: float, streams: Streams) -> Tensor:
    """One draw in [0, 1] from Beta(alpha, alpha) per id `(B,)`, float64, without rejection.

    Beta(a, a) with a = alpha + 1 comes from a point on a sphere (Ulrich, 1984, J. R. Stat. Soc. C 33); raising each of
    the two gammas that it is a share of from alpha + 1 to alpha multiplies it by a uniform draw to the power of
    1 / alpha (Marsaglia and Tsang, 2000), of which the share needs the ratio alone.
    """
    u = 1.0 - streams.uniform(ids, (4,), dtype=torch.float64)  # in (0, 1]
    one = (1 + (1 - u[:, 0] ** (2 / (2 * alpha + 1))).clamp_min(0).sqrt() * torch.cos(2 * math.pi * u[:, 1])) / 2
    return torch.sigmoid(torch.logit(one) + (u[:, 2].log() - u[:, 3].log()) / alpha)


def _stretch(centre: Tensor, share: Tensor, side: int) -> Tensor:
    """Which places of a side lie in a stretch of this share of it around a centre in [0, 1) `(B, side)`."""
    middle, half = (centre * side).floor(), (share * side).floor() / 2
    places = torch.arange(side, device=centre.device)
    start, end = (middle - half).ceil(), (middle + half).ceil()
    return (places >= start[:, None]) & (places < end[:, None])


def _mirrored(places: Tensor, side: int) -> Tensor:
    return side - 1 - (side - 1 - places.abs()).abs()


def _within(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)


def _refuse_vectors(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != _IMAGE:
        remedy = f"its inputs have shape={shape}: drop {name}, or choose mixup, which any inputs can take"
        raise checks.fail("images (channels, height, width) to augment", "augment", name, remedy)
