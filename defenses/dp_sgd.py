"""DP-SGD: clip what each example contributes, add noise, account for the privacy that was spent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from robustsuite.core import Samples, Streams, Suspicion, checks
from robustsuite.core.canonical import digest
from robustsuite.core.isolation import seeded
from robustsuite.defenses.privacy_accounting import ACCOUNTANTS, refuse_unreachable
from robustsuite.defenses.private_checks import few
from robustsuite.defenses.private_descent import (
    GRADIENT_MODES,
    PrivateUpdater,
    admitted,
    private_rate,
    refuse_sizes,
    refuse_uncomputed,
    refuse_unfit,
)
from robustsuite.defenses.private_weights import not_fresh
from robustsuite.models.digest import network_digest, value_digest
from robustsuite.models.fitting import knowable
from robustsuite.plugins import provenance, register
from robustsuite.scenarios.protocol import Terms
from robustsuite.training import CleanLoss, Objective, Recipe, Training, Update
from robustsuite.training.augment import mixing
from robustsuite.training.context import named, needs

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@register.defense("dp-sgd", taxonomy=("NISTAML.032", "NISTAML.033", "ML03:2023", "ML04:2023"))
@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Train with differential privacy: Poisson batches, per-example clipping, Gaussian noise, an accountant (Opacus).

    It replaces the update. Before the optimizer is built the network is mended: batch normalisation becomes group
    normalisation, in-place activations are switched off. Everything that would look at private data outside the
    accountant is switched off too: `validation` becomes 0, `patience` none, `keep_best` false, and `normalise: data`
    becomes `normalise: bounds`. What a composed `serve` or `repair` calibrates on is split off before training and
    named as outside the guarantee; where the data are filtered or prepared by looking at them, the record says
    `epsilon_valid: false` and is flagged `epsilon-not-valid`.

    Args:
        epsilon: Budget in (0, 100], from which the noise multiplier follows; 3 where neither it nor
            `noise_multiplier` is given.
        noise_multiplier: Standard deviation of the noise over `max_grad_norm`, at least 0 (0 is no privacy: epsilon is
            infinite), instead of `epsilon`.
        delta: In (0, 1) and below 1 / N, where N is the number of training samples.
        max_grad_norm: Greatest l2 norm of what one example contributes to a step, positive.
        accountant: `rdp` (Rényi, closed form) or `prv` (numerical composition, tighter by about a tenth, epsilon up to
            0.01 above the exact one).
        grad_sample_mode: How Opacus finds per-example gradients: `hooks`, `functorch` (any layer), or `ghost` (norms
            only: less memory, two backward passes).
        max_physical_batch: Most examples that are processed at once, at least 1; a larger Poisson batch is accumulated.
            None for no limit.

    Guarantees:
        (epsilon, delta)-differential privacy of the network under adding or removing one example of the training split,
        for an adversary who does not know the seed: noise and sampling come from a seeded generator, so that results
        can be repeated, and not from a cryptographically secure one. Each step samples every example with probability
        exactly batch_size / N; an empty batch is a step of pure noise; views of one example are summed before they are
        clipped, and an objective that passes them off as several examples is refused. Noise and sampling are keyed by
        the seed, the recipe, the network and the data together, so that no two trainings share them. A network or an
        objective that mixes the examples of a batch is refused, and so is one whose buffers or attributes learn in a
        pass; both are tried on random inputs before the training and again after it, where they take validity away.
        Weights that are the same under two seeds arrive trained, and epsilon is not valid then.

    Raises:
        RequestError: Both or impossible budgets, delta of at least 1 / N, or settings that privacy does not allow:
            balanced class weights (they count the private labels), `clip` (`max_grad_norm` clips), mixed precision,
            mixup and cutmix, balanced sampling, `accumulate`, the schedule `plateau`.

    References:
        Abadi et al., CCS 2016, arXiv:1607.00133; Mironov et al., arXiv:1908.10530; Gopi et al., NeurIPS 2021,
        arXiv:2106.02848; Opacus: Yousefpour et al., arXiv:2109.12298.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    accountant: str = "rdp"
    grad_sample_mode: str = "hooks"
    max_physical_batch: int | None = None

    def __post_init__(self) -> None:
        if self.epsilon is None and self.noise_multiplier is None:
            object.__setattr__(self, "epsilon", 3.0)
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise checks.fail(
                "one of epsilon and noise_multiplier",
                "(epsilon, noise_multiplier)",
                (self.epsilon, self.noise_multiplier),
                "each follows from the other; drop one",
            )
        if self.epsilon is not None:
            checks.real("epsilon", self.epsilon, low=0.0, high=100.0, open_low=True)
        if self.noise_multiplier is not None:
            checks.real("noise_multiplier", self.noise_multiplier, low=0.0)
        checks.real("delta", self.delta, low=0.0, high=1.0, open_low=True, open_high=True)
        checks.real("max_grad_norm", self.max_grad_norm, low=0.0, open_low=True)
        checks.one_of("accountant", self.accountant, ACCOUNTANTS)
        checks.one_of("grad_sample_mode", self.grad_sample_mode, GRADIENT_MODES)
        if self.max_physical_batch is not None:
            checks.integer("max_physical_batch", self.max_physical_batch, low=1)

    def check(self, recipe: Recipe, terms: Terms) -> None:
        """Refuse sizes and budgets that privacy does not allow, and a network that DP-SGD cannot train."""
        training = recipe.training
        if terms.training:
            refuse_sizes(self, training, terms.training)
            rate, steps = private_rate(training, terms.training)
            if self.epsilon is not None:
                refuse_unreachable(self.epsilon, self.delta, rate, training.epochs * steps, self.accountant)
            refuse_uncomputed(self, rate, training.epochs * steps)
        build = getattr(recipe.build, "build", recipe.build)  # what a defence builds around is a network too
        if knowable(build):
            with seeded(0):
                network = recipe.build(terms.classes, terms.shape, terms.bounds)
                refuse_unfit(admitted(network), terms.shape)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its update replaced and what privacy does not allow switched off."""
        old = recipe.training
        if old.class_weights != "none":
            raise checks.fail(
                "class_weights='none' under dp-sgd",
                "class_weights",
                old.class_weights,
                "balanced weights count private labels outside the accountant",
            )
        if old.clip is not None:
            raise checks.fail("clip=None under dp-sgd", "clip", old.clip, "max_grad_norm of dp-sgd clips each example")
        if old.precision not in ("32", "64"):
            raise checks.fail("precision 32 or 64 under dp-sgd", "precision", old.precision, "train in full precision")
        _refuse_beside(old)
        normalise = "bounds" if old.normalise == "data" else old.normalise
        training = replace(old, validation=0.0, patience=None, keep_best=False, normalise=normalise)
        return replace(recipe.with_update(PrivateDescent(rules=self)), training=training)


def _refuse_beside(training: Training) -> None:
    """Refuse settings that would mix examples, sample them otherwise than is accounted for, or need held-out ones."""
    for name in mixing(training.augment):
        remedy = "it mixes examples, so that clipping would not bound what each contributes; crop and flip do not"
        raise checks.fail("augmentation of each example alone under dp-sgd", "augment", name, remedy)
    for name, usual, remedy in (
        ("sampling", "shuffled", "dp-sgd samples every example at one rate, which it accounts for"),
        ("accumulate", 1, "max_physical_batch of dp-sgd bounds what is processed at once"),
    ):
        if getattr(training, name) != usual:
            raise checks.fail(f"{name}={usual!r} under dp-sgd", name, getattr(training, name), remedy)
    if training.schedule == "plateau":
        remedy = "it looks at held-out private examples, outside the accountant; choose cosine, say"
        raise checks.fail("a schedule that looks at no data under dp-sgd", "schedule", training.schedule, remedy)


@dataclass(frozen=True, kw_only=True)
class PrivateDescent(Update):
    """Gradient descent that clips each example, adds noise and accounts for it.

    Args:
        rules: Budget and mechanism.
        objective: What turns batches into losses.
        salt: Keys noise and sampling, beside the seed: what else tells this training from others.
        loaded: Weights that came with the network, as if they had been trained before.
        brought: Constants that came with it.
    """

    rules: DPSGD
    objective: Objective = field(default_factory=CleanLoss)
    salt: str = ""
    loaded: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()

    def load(self) -> None:
        """Import Opacus."""
        import opacus  # noqa: F401

    def within(self, recipe: Recipe, samples: Samples, seed: int) -> PrivateDescent:
        """This descent in a training of its own: it shares noise with no other one, and knows what is not fresh.

        Two trainings with one noise would give each other away: the noise of `2 a - b` cancels where b has twice that
        of a. So everything that may differ between two trainings keys it, the data among it.
        """
        one, other = (self._built(recipe, samples, Streams(seed).child("build", *more)) for more in ((), ("again",)))
        parts = _told(recipe), provenance.sources(recipe), network_digest(one), samples.digest()
        checked = recipe.training.init != "checkpoint"  # else all weights are named as what they are
        loaded, brought = not_fresh(one, other, samples.shape) if checked else ((), ())
        return replace(self, objective=recipe.objective, salt=digest(parts), loaded=loaded, brought=brought)

    def _built(self, recipe: Recipe, samples: Samples, streams: Streams) -> nn.Module:
        with seeded(streams.key):
            return self.admit(recipe.build(samples.classes, samples.shape, samples.bounds))

    def start(
        self, network: nn.Module, samples: Samples, training: Training, streams: Streams, fabric: Fabric
    ) -> PrivateUpdater:
        """Begin a private training on exactly these samples.

        Raises:
            RequestError: delta is not below 1 / N, the batch is larger than the data, or a layer that Opacus refuses.
        """
        own = streams.child("private", self.salt)
        return PrivateUpdater(self.rules, network, samples, training, own, fabric, self.objective)

    def admit(self, network: nn.Module) -> nn.Module:
        """The network without batch normalisation and in-place activations."""
        return admitted(network)

    def qualify(self, recipe: Recipe, facts: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Whether epsilon covers all that was done with the private data, and what is outside the guarantee."""
        reasons = [*facts.get("epsilon_reasons", ())]
        reasons += [f"{named(prepare)} prepares the private data outside the accountant" for prepare in recipe.prepare]
        reasons += [f"{named(part)} may mix samples of a batch, which no one has checked" for part in recipe.augment]
        if self.loaded:
            reasons.append(
                f"weights arrive as if trained before: {few([*self.loaded])} are the same under two seeds; draw them "
                f"from torch's global generator without seeding it, or name them by a checkpoint and init: checkpoint"
            )
        if recipe.training.normalise == "data":
            reasons.append("inputs are normalised by the private data's mean and deviation")
        if recipe.training.class_weights != "none":
            reasons.append("class weights count the private labels")
        outside = ["the training loss of each epoch, in the record's history and charts: it is exact"]
        outside += [f"whatever {name}, which comes with the network, was computed from" for name in self.brought]
        if recipe.training.validation:
            outside.append(f"{recipe.training.validation:.0%} of the training set, held out for validation")
        for part in (*recipe.repair, *recipe.serve):
            outside += [f"the part {need} of the data set, for {named(part)}" for need in needs([part])]
        if recipe.training.init == "checkpoint":
            outside.append("whatever the starting checkpoint was trained on")
        said = {"epsilon_valid": not reasons, "epsilon_reasons": reasons, "outside_guarantee": outside}
        return {**facts, **said}, (Suspicion.EPSILON_NOT_VALID,) if reasons else ()


def _told(recipe: Recipe) -> str:
    try:
        return recipe.training_key()
    except TypeError:  # a part that no record can hold, such as a function, trains all the same where nothing is kept
        return value_digest(recipe)
