"""Laws that every defence obeys, whoever wrote it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import torch

from robustsuite.core.canonical import canonical_json
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.isolation import differentiable, untouched
from robustsuite.data.copies import written
from robustsuite.plugins import registry
from robustsuite.plugins.registry import Entry
from robustsuite.testing.law import Law, require
from robustsuite.testing.leaky import LEAKY, LeakyBuild
from robustsuite.testing.victims import tiny_parts, tiny_recipe, tiny_samples
from robustsuite.training.cache import Trainer
from robustsuite.training.fit import fit
from robustsuite.training.recipe import Recipe
from robustsuite.training.stages import Stages
from robustsuite.training.trained import Trained

_TRAINED: Final = 400
_HELD_OUT: Final = 40  # enough to calibrate two detectors on at a rate of 0.05


@dataclass(frozen=True)
class _Defended:
    """What the laws of one defence are checked on.

    Args:
        entry: The defence as it is registered.
        options: Its options.
    """

    entry: Entry
    options: dict[str, Any]

    def recipe(self) -> Recipe:
        """A short training, defended."""
        plain = tiny_recipe()
        short = dataclasses.replace(plain, training=plain.training.override({"epochs": 2}))
        defended: Recipe = self.entry.make(self.options)(short)
        return defended

    def train(self) -> Trained:
        """Train by it, from the same seed at each call."""
        return Trainer(0, part=tiny_parts())(self.recipe(), tiny_samples(_TRAINED))

    @cached_property
    def trained(self) -> Trained:
        """What one training gives to all laws that do not ask about the training itself."""
        return self.train()


Check = Callable[[_Defended], None]


def defense_laws(name: str, **options: Any) -> list[Law]:
    """Every law of a defence, to be called one by one.

    Args:
        name: Its registered name.
        **options: Options that keep the checks quick; defaults otherwise.
    """
    entry = registry.defenses.get(name)
    checks: dict[str, Check] = {
        "described": _described,
        "changes-the-recipe": _changes_the_recipe,
        "answers": _answers,
        "repeatable": _repeatable,
        "leaves-no-trace": _leaves_no_trace,
        "leaves-its-data": _leaves_its_data,
        "private-where-it-says-so": _private_where_it_says_so,
    }
    case = _Defended(entry, options)
    return [Law(name, law, partial(check, case)) for law, check in checks.items()]


def _described(case: _Defended) -> None:
    """Parameters are plain, documented, and equal ones give equal defences."""
    entry, one = case.entry, case.entry.make(case.options)
    require(one == entry.make(case.options), "equal options give equal defences", one)
    require(isinstance(json.loads(canonical_json(one)), dict), "parameters are JSON", one)
    for field in dataclasses.fields(entry.cls):
        require(f"{field.name}:" in (entry.cls.__doc__ or ""), f"the docstring describes {field.name}", entry.name)


def _changes_the_recipe(case: _Defended) -> None:
    """The given recipe is unwritten, the new one differs, and describes itself as JSON."""
    plain = tiny_recipe()
    before = canonical_json(plain.description())
    defended = case.entry.make(case.options)(plain)
    require(canonical_json(plain.description()) == before, "the given recipe is unwritten", case.entry.name)
    require(canonical_json(defended.description()) != before, "the recipe changes", case.entry.name)


def _answers(case: _Defended) -> None:
    """The deployed model answers finite logits, and the same to a sample alone as among others."""
    model, test = case.trained.model, tiny_samples(60, first=10_000)
    with untouched(model.network), torch.no_grad():
        together = model(test.x)
        alone = [model(test.x[i : i + 1]) for i in range(len(test))]
    require(
        together.logits.shape == (60, 4) and bool(together.logits.isfinite().all()),
        "finite logits",
        together.logits.shape,
    )
    require(together.rejected.shape == (60,), "one rejection verdict per sample", together.rejected.shape)
    apart = torch.cat([a.logits for a in alone])
    require(torch.allclose(together.logits, apart, atol=1e-4), "logits do not depend on the batch", case.entry.name)
    rejected = torch.cat([a.rejected for a in alone])
    require(torch.equal(together.rejected, rejected), "rejections do not depend on the batch", case.entry.name)


def _repeatable(case: _Defended) -> None:
    """One seed gives one model, bit for bit."""
    one, other = case.trained, case.train()
    for (name, a), b in zip(
        one.model.network.state_dict().items(), other.model.network.state_dict().values(), strict=True
    ):
        require(torch.equal(a, b), f"{name} repeats with the seed", case.entry.name)


def _leaves_no_trace(case: _Defended) -> None:
    """Training moves no global random state, and hands over a plain network in eval mode without gradients."""
    state = torch.get_rng_state()
    network, name = case.train().model.network, case.entry.name
    require(torch.equal(torch.get_rng_state(), state), "the global random state is as before", name)
    require(not any(m.training for m in network.modules()), "the network is in eval mode", name)
    require(all(p.grad is None for p in network.parameters()), "no gradients are left", name)
    require(not any(k.startswith(("_module.", "module.")) for k in network.state_dict()), "no wrapper is left", name)


def _private_where_it_says_so(case: _Defended) -> None:
    """A training that names an epsilon refuses networks on which it would not hold, or says that it is not valid."""
    if "epsilon" not in case.trained.facts:
        return
    for layer in LEAKY:
        recipe = dataclasses.replace(case.recipe(), build=LeakyBuild(layer))
        try:
            facts = Trainer(0, part=tiny_parts())(recipe, tiny_samples(_TRAINED)).facts
        except RequestError:
            continue
        require(facts.get("epsilon_valid") is False, f"epsilon does not hold for a network that {layer}", facts)


def _leaves_its_data(case: _Defended) -> None:
    """What it prepares, calibrates on and answers is as before; it is shown copies, and must not rest on writing."""
    recipe, samples, part = case.recipe(), tiny_samples(_TRAINED), tiny_parts()
    stages = Stages(recipe, samples, 0, "cpu", part, lambda wanted, given, seed: fit(wanted, given, seed).network)
    for prepare in recipe.prepare:
        given = samples.copy()
        prepare(given, stages.context("prepare", 0, prepare))
        require(not written(given, samples), f"{type(prepare).__name__} leaves the training data", case.entry.name)
    network = Trainer(0, part=part)(dataclasses.replace(recipe, serve=()), samples).model.network
    # A repair may train, so each is given a network of its own; what serves may not.
    each: list[tuple[str, Any, Any]] = [("repair", wrap, copy.deepcopy(network)) for wrap in recipe.repair]
    each += [("serve", wrap, Served(network)) for wrap in recipe.serve]
    for name, wrap, value in each:
        context = stages.context(name, 0, wrap)
        before = {of: given.copy() for of, given in context.parts.items()}
        with untouched(network), differentiable():
            wrap(value, context)
        for of, given in context.parts.items():
            require(not written(given, before[of]), f"{type(wrap).__name__} leaves the part {of}", case.entry.name)
    if not recipe.serve:
        return
    model = case.trained.model
    given = tiny_samples(_HELD_OUT)
    with untouched(model.network), torch.no_grad():
        model(given.x)
    require(not written(given, tiny_samples(_HELD_OUT)), "the deployed model leaves its input", case.entry.name)
