"""Baselines of inversion: what no attack reaches, and what every attack must beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustsuite.core import Streams, checks
from robustsuite.plugins import register
from robustsuite.scenarios.inversion import Classes, class_means


@register.attack("class-mean", scenario="inversion", access="members", control=True)
@dataclass(frozen=True, kw_only=True)
class ClassMean:
    """The mean training image of each class: the ceiling, made from the members themselves.

    References:
        Fredrikson, Jha, Ristenpart, CCS 2015.
    """

    def __call__(self, view: Classes, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Class means `(K, …)`."""
        if view.members is None:
            raise checks.fail("a view with members", "members", None, "play with access='members'")
        return class_means(view.members)[view.labels.cpu()].to(view.device, view.dtype)


@register.attack("inversion-noise", scenario="inversion", access="blind", control=True)
@dataclass(frozen=True, kw_only=True)
class InversionNoise:
    """Uniform noise: the floor, recognised as often as chance.

    References:
        Fredrikson, Jha, Ristenpart, CCS 2015.
    """

    def __call__(self, view: Classes, streams: Streams) -> Tensor:
        """Noise images `(K, …)`."""
        low, high = view.bounds
        draw = streams.child("noise").uniform(view.ids, view.shape, dtype=view.dtype)
        return (low + (high - low) * draw).clamp(low, high)
