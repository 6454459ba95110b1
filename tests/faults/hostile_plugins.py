"""Plug-ins that write into all that they see, and answer as if they had not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from robustsuite import register
from robustsuite.core import Deployed, Outputs
from robustsuite.scenarios.poisoning import Poison


def spoil(samples: Any) -> None:
    """Labels in place, inputs by way of NumPy and of `data`, ids, and fields of the frozen object itself."""
    samples.y.zero_()
    samples.ids.fill_(7)
    samples.x.numpy()[::2] = samples.bounds[0]
    samples.x.data[1::2] = samples.bounds[1]
    object.__setattr__(samples, "bounds", (-9.0, 9.0))
    samples.x.set_(torch.zeros(1))


@dataclass(frozen=True)
class InPlace:
    """A trigger that stamps its input itself."""

    def __call__(self, x: Any) -> Any:
        x[..., -2:, -2:] = 1.0
        return x


@dataclass(frozen=True)
class Sloppy:
    """A trigger that answers something else."""

    answers: str

    def __call__(self, x: Any) -> Any:
        return {
            "fewer": lambda: x[1:],
            "double": x.double,
            "nan": lambda: x * float("nan"),
            "bright": lambda: x + 0.5,
            "nothing": lambda: None,
        }[self.answers]()


@register.attack("hostile-poison", scenario="poisoning", access="training-set")
@dataclass(frozen=True, kw_only=True)
class HostilePoison:
    """Return one honest row and write the rest; or return more than the budget; or a hostile trigger.

    Args:
        does: What.
        target: Of a trigger.
    """

    does: str = "write"
    target: int = 0

    def __call__(self, view: Any, streams: Any) -> Any:
        samples = view.samples
        x, y = samples.inputs().clone(), samples.y.clone()
        rows = torch.arange(len(y) if self.does == "over-budget" else 1)
        both = torch.stack([rows, (y[rows] + 1) % samples.classes])
        poison = Poison(both[0], x[rows], both[1])  # which share memory
        if self.does == "trigger":
            return replace(poison, trigger=InPlace(), target=self.target)
        if self.does not in ("write", "over-budget"):
            return replace(poison, trigger=Sloppy(self.does), target=self.target)
        spoil(samples)
        object.__setattr__(view, "budget", 10**6)
        return poison


@register.attack("hostile-evasion", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class HostileEvasion:
    """Write inputs, labels, ids and the ball, or the weights, and return what would then count as a success.

    Args:
        does: `write` or `weights`.
    """

    does: str = "write"

    def __call__(self, view: Any, streams: Any) -> Any:
        if self.does == "weights":
            for parameter in view.model.parameters():
                parameter.data.zero_()
            return view.x.clone()
        away = 1 - view.x
        view.x.copy_(away)
        view.y.zero_()
        view.ids.copy_(view.ids.flip(0).clone())
        object.__setattr__(view.ball, "radius", 9.0)
        object.__setattr__(view.ball, "bounds", (-9.0, 9.0))
        return view.x


@register.attack("hostile-inversion", scenario="inversion", access="members")
@dataclass(frozen=True, kw_only=True)
class HostileInversion:
    """Write into the members, the labels and the ids."""

    def __call__(self, view: Any, streams: Any) -> Any:
        made = torch.zeros(len(view.labels), *view.shape)
        view.labels.zero_()
        view.ids.zero_()
        spoil(view.members)
        return made


@dataclass(frozen=True)
class Spoils:
    """Prepares a copy of the data, and calibrates itself, by writing into what it is shown."""

    plugin_name = "spoils"
    needs = ("calibration",)

    def __call__(self, given: Any, context: Any) -> Any:
        if isinstance(given, Deployed):
            spoil(context.part("calibration"))
            return given
        kept = given.copy()
        spoil(given)
        return kept


class Writes(Deployed):
    """Answers, and then clears the input."""

    def __init__(self, model: Deployed) -> None:
        self._model = model

    @property
    def network(self) -> Any:
        return self._model.network

    def __call__(self, x: Any) -> Outputs:
        answer = self._model(x)
        x.data.zero_()
        return answer


@dataclass(frozen=True)
class Serves:
    """Deploys a model that writes to its input."""

    def __call__(self, model: Deployed, context: Any) -> Deployed:
        return Writes(model)


@register.defense("hostile-defense")
@dataclass(frozen=True, kw_only=True)
class HostileDefense:
    """Write into training data and calibration data; or deploy a model that writes to its input.

    Args:
        does: `write` or `serve`.
    """

    does: str = "write"

    def __call__(self, recipe: Any) -> Any:
        if self.does == "serve":
            return recipe.with_serve(Serves())
        return replace(recipe.with_serve(Spoils()), prepare=(*recipe.prepare, Spoils()))
