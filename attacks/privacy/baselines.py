"""Baselines of inversion: what no attack reaches, and what every attack must beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustsuite.core import Streams, checks
from robustsuite.plugins import register
from robustsuite.scenarios.inversion import Classes, class_means, typical


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


@register.attack("nearest-held-out", scenario="inversion", access="population", control=True)
@dataclass(frozen=True, kw_only=True)
class NearestHeldOut:
    """The photo of each class, among data that the victim never saw, that is nearest to the mean of that class there.

    An evaluator that recognises it has learnt what the class looks like, and not what the victim remembers: an attack
    that is recognised no more often has shown nothing of the training data. Of a class that the adversary has no data
    of it is the nearest to the mean of all.
    """

    def __call__(self, view: Classes, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Held-out inputs `(K, …)`."""
        if view.population is None:
            raise checks.fail("a view with a population", "population", None, "play with access='population'")
        return typical(view.population, view.labels.cpu()).to(view.device, view.dtype)


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
