"""A recipe: how a model comes to be, as replaceable parts in the order in which they act."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from robustsuite.core import checks
from robustsuite.core.ball import Ball, as_ball
from robustsuite.core.canonical import digest, plain
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.training.context import named, needs
from robustsuite.training.descent import DescentUpdater
from robustsuite.training.own import HiddenNetwork, OwnTraining
from robustsuite.training.parts import Augment, Build, CleanLoss, Objective, Prepare, Repair, Serve, Updater
from robustsuite.training.settings import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_HIDDEN: Final = Training(validation=0.0)  # what a user's function hides; nothing is held out


class Update(ABC):
    """How gradients move weights; a frozen dataclass that starts an `Updater`."""

    @abstractmethod
    def start(
        self, network: nn.Module, samples: Samples, training: Training, streams: Streams, fabric: Fabric
    ) -> Updater:
        """Begin a training of `network` (already on the device) on `samples`."""

    def load(self) -> None:  # noqa: B027  # most updates need no more than training does anyway
        """Import what this update needs, before a training's clock starts."""

    def within(self, recipe: Recipe, samples: Samples, seed: int) -> Update:  # noqa: ARG002
        """The update as this training uses it, asked for once before it starts; by default as it is."""
        return self

    def admit(self, network: nn.Module) -> nn.Module:
        """The network that this update can train, mended before any optimizer is built; by default as it is."""
        return network

    def qualify(self, recipe: Recipe, facts: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:  # noqa: ARG002
        """The updater's facts as this whole recipe lets them be read, and flags for what it does not."""
        return facts, ()


@dataclass(frozen=True)
class GradientDescent(Update):
    """Mini-batch gradient descent with the optimizer, schedule and clipping of the training settings."""

    def start(
        self, network: nn.Module, samples: Samples, training: Training, streams: Streams, fabric: Fabric
    ) -> Updater:
        """Begin a descent on `network`."""
        return DescentUpdater(network, samples, training, streams, fabric)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model comes to be; defences are functions from a recipe to a recipe.

    Args:
        build: Classes, shape and bounds -> network.
        training: Shared settings.
        prepare: Data -> data, applied in order.
        augment: Batch -> batch, applied in order to every training batch.
        objective: Batch -> per-sample loss.
        update: How gradients move weights.
        repair: Network -> network, applied in order.
        serve: Deployed model -> deployed model, applied in order.
        threat: The ball that the defender expects; no part of the key, defences copy from it what they use.
        own: The user's own training, which hides settings, augmentation, objective and update, and where it does not
            ask for it the network.

    Raises:
        RequestError: A part that the user's own training hides is given beside it, or was replaced by a defence; or
            samples are mixed under an objective that knows one label for each.
    """

    build: Build
    training: Training = field(default_factory=Training)
    prepare: tuple[Prepare, ...] = ()
    augment: tuple[Augment, ...] = ()
    objective: Objective = field(default_factory=CleanLoss)
    update: Update = field(default_factory=GradientDescent)
    repair: tuple[Repair, ...] = ()
    serve: tuple[Serve, ...] = ()
    threat: Ball | None = None
    own: OwnTraining | None = None

    def __post_init__(self) -> None:
        if self.threat is not None:
            object.__setattr__(self, "threat", as_ball(self.threat, "threat"))
        if self.own is not None:
            self._refuse_replaced(self.own)
            object.__setattr__(self, "training", _HIDDEN)
        if self.training.augment and not self.objective.blends:
            self._refuse_mixing()

    @classmethod
    def by(
        cls,
        fit: str | Callable[..., nn.Module],
        build: Build | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        cache: bool = True,
        threat: Ball | None = None,
    ) -> Recipe:
        """The recipe of who has a training function: `fit(samples, seed, device) -> nn.Module`.

        Args:
            fit: The function, or where it stands: `path/to/file.py:function`.
            build: Builds its network, where it asks for `build` by name.
            options: What else it is given, by name.
            cache: As in `OwnTraining`.
            threat: The ball that the defender expects.

        Raises:
            RequestError: There is no such function, or it asks for what nobody gives.
        """
        own = OwnTraining(factory=fit, options=dict(options or {}), cache=cache)
        own.check(named=build is not None)
        return cls(build=build or HiddenNetwork(own.name), own=own, threat=threat)

    def _refuse_mixing(self) -> None:
        from robustsuite.training.augment import mixing

        for name in mixing(self.training.augment):
            raise checks.fail(
                f"samples that stay apart under {type(self.objective).__name__}, which knows one label for each",
                "augment",
                name,
                f"drop {name}, or train by the clean loss",
            )

    def _refuse_replaced(self, own: OwnTraining) -> None:
        """Refuse what stands where the user's function has something of its own, which nobody can replace."""
        for name, default in _INSIDE.items():
            if (given := getattr(self, name)) != default:
                raise _hidden(own, name, ", ".join(map(named, given if isinstance(given, tuple) else (given,))))
        if self.training not in (Training(), _HIDDEN):
            settings = [(f.name, getattr(self.training, f.name), getattr(_HIDDEN, f.name)) for f in fields(Training)]
            raise _hidden(own, "training", {name: value for name, value, hidden in settings if value != hidden})
        if not isinstance(self.build, HiddenNetwork) and not own.asks_for_build():
            raise _hidden(own, "build", named(self.build))

    @property
    def trains_with(self) -> tuple[str, ...]:
        """Parts of the data set, beside the training samples, that the weights hang on."""
        return needs((*self.prepare, *self.repair))

    @property
    def serves_with(self) -> tuple[str, ...]:
        """Parts of the data set that the deployed model hangs on beside its weights."""
        return needs(self.serve)

    def bare(self) -> Recipe:
        """The recipe without what prepares, repairs and serves."""
        return replace(self, prepare=(), repair=(), serve=())

    def training_key(self) -> str:
        """A digest of all that trains, so not of `serve` and `threat`: equal keys mean the same training."""
        return digest({name: value for name, value in self.description().items() if name != "serve"})

    def description(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        parts = ("build", "training", "prepare", "augment", "objective", "update", "repair", "serve")
        if self.own is None:
            return {name: plain(getattr(self, name)) for name in parts}
        told = {name: plain(getattr(self, name)) for name in parts if name not in _INSIDE}
        return {**told, "training": self.own.described()}

    def with_objective(self, objective: Objective) -> Recipe:
        """The recipe with its objective replaced; a second replacement is refused."""
        if not isinstance(self.objective, CleanLoss):
            raise RequestError(
                f"expected one objective, got {type(self.objective).__name__} and {type(objective).__name__}; compose "
                f"only one defence that replaces the training objective, and name what acts on top of it behind it"
            )
        return replace(self, objective=objective)

    def with_objective_around(self, wrap: Callable[[Objective], Objective]) -> Recipe:
        """The recipe with its objective wrapped, whatever it is: at perturbed weights, say."""
        return replace(self, objective=wrap(self.objective))

    def with_update(self, update: Update) -> Recipe:
        """The recipe with its update replaced; a second replacement is refused."""
        if type(self.update) is not GradientDescent:
            raise RequestError(
                f"expected one update, got {type(self.update).__name__} and {type(update).__name__}; compose only one "
                f"defence that replaces how gradients move weights"
            )
        return replace(self, update=update)

    def with_update_around(self, wrap: Callable[[Update], Update]) -> Recipe:
        """The recipe with its update wrapped, whatever it is: for an average of the weights, say."""
        return replace(self, update=wrap(self.update))

    def with_prepare(self, prepare: Prepare) -> Recipe:
        """The recipe with one more preparation of the training data."""
        return replace(self, prepare=(*self.prepare, prepare))

    def with_augment(self, augment: Augment) -> Recipe:
        """The recipe with one more change to every training batch."""
        return replace(self, augment=(*self.augment, augment))

    def with_repair(self, repair: Repair) -> Recipe:
        """The recipe with one more repair of the trained network."""
        return replace(self, repair=(*self.repair, repair))

    def with_serve(self, serve: Serve) -> Recipe:
        """The recipe with one more wrapper around the deployed model."""
        return replace(self, serve=(*self.serve, serve))


_INSIDE: Final[dict[str, Any]] = {"augment": (), "objective": CleanLoss(), "update": GradientDescent()}
_CALLED: Final = {
    "augment": "batches",
    "objective": "loss",
    "update": "optimizer",
    "training": "settings",
    "build": "network",
}


def _hidden(own: OwnTraining, part: str, given: object) -> RequestError:
    return RequestError(
        f"expected a training whose {_CALLED[part]} can be replaced, got {part}={given} where {own.name} trains, which "
        f"hides its {_CALLED[part]}; drop what replaces it, or train by settings (epochs, lr) and not by a function"
    )
