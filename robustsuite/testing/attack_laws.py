"""Laws that every attack obeys, whoever wrote it; its scenario adds those of its game."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustsuite.core.canonical import canonical_json
from robustsuite.core.errors import TamperingError
from robustsuite.core.isolation import seeded
from robustsuite.core.metric import Metrics
from robustsuite.core.metrics import DISTANCE, MetricSpec
from robustsuite.core.streams import Streams
from robustsuite.data.copies import shown, written
from robustsuite.plugins import registry
from robustsuite.scenarios.bench import Bench, Laws
from robustsuite.scenarios.play import play
from robustsuite.testing.bench import TinyBench
from robustsuite.testing.law import Law, LawBroken, require


def attack_laws(name: str, **options: Any) -> list[Law]:
    """Every law that applies to this attack, to be called one by one.

    Args:
        name: Its registered name.
        **options: Options that keep the checks quick; defaults otherwise.

    Raises:
        RequestError: No such attack.
    """
    entry = registry.attacks.get(name)
    checks: Laws = {
        "described": _described,
        "pure": _pure,
        "repeatable": _repeatable,
        "leaves-its-view": _leaves_its_view,
        "measures-what-is-declared": _measures_what_is_declared,
        **entry.game.laws(),
    }
    return [Law(name, law, partial(check, TinyBench(entry, options))) for law, check in checks.items()]


def _described(bench: Bench) -> None:
    """Parameters are plain, documented, and equal ones give equal attacks."""
    entry, one, other = bench.entry, bench.attack(), bench.attack()
    require(one == other and hash(one) == hash(other), "equal options give equal attacks", one)
    require(isinstance(json.loads(canonical_json(one)), dict), "parameters are JSON", one)
    text = entry.cls.__doc__ or ""
    for field in dataclasses.fields(entry.cls):
        require(f"{field.name}:" in text, f"the docstring describes {field.name}", text)
    require(bool(entry.summary), "the docstring has a summary", text)


def _pure(bench: Bench) -> None:
    """Model, modes, gradients, inputs and the global random state are as before, in training mode and under no_grad."""
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        victim, entry = bench.victim(24), bench.entry
        network = victim.model.network.train()
        parameter = next(network.parameters())
        parameter.grad = torch.full_like(parameter, 7.0)
        before = copy.deepcopy(network.state_dict())
        x = victim.test.x.clone()
        torch.manual_seed(5)
        state = torch.get_rng_state()
        try:
            with context():
                bench.play(victim)
        except TamperingError as error:
            raise LawBroken(f"weights and data are as before; seen: {error}") from error
        require(
            all(torch.equal(v, before[k]) for k, v in network.state_dict().items()),
            "weights and buffers are as before",
            entry.name,
        )
        require(all(m.training for m in network.modules()), "modules are in training mode as before", entry.name)
        require(all(p.requires_grad for p in network.parameters()), "requires_grad is as before", entry.name)
        require(parameter.grad is not None and bool((parameter.grad == 7).all()), ".grad is as before", parameter.grad)
        require(torch.equal(victim.test.x, x), "the caller's inputs are unwritten", entry.name)
        require(torch.equal(torch.get_rng_state(), state), "the global random state is as before", entry.name)


def _leaves_its_view(bench: Bench) -> None:
    """What it is shown is as before; the judge keeps what it needs, but an attack must not rest on writing there."""
    made, seen = bench.attack(), dict[str, None]()

    def watched(view: Any, streams: Streams) -> Any:
        before = shown(view)
        artefact = made(view, streams)
        seen.update(dict.fromkeys(written(view, before)))
        return artefact

    victim = bench.victim(24)
    play(watched, bench.game(victim), victim, seed=0)
    require(not seen, "the view is unwritten", list(seen))


def _repeatable(bench: Bench) -> None:
    """One seed gives one result, whatever the global random state was."""
    victim = bench.victim(40)
    with seeded(1):
        one = bench.play(victim)
    with seeded(2):
        other = bench.play(victim)
    for name, column in one.per_sample.items():
        require(_same(column, other.per_sample[name]), f"column {name} repeats with the seed", bench.entry.name)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a.double(), nan=-1.0), torch.nan_to_num(b.double(), nan=-1.0))


def _measures_what_is_declared(bench: Bench) -> None:
    """Every figure is declared by the scenario, with this unit and this better side, and its outcomes are kept."""
    victim, kind = bench.victim(60), bench.entry.game
    result = bench.play(victim)
    ball = getattr(bench.game(victim), "ball", None)
    for name, metric in result.values.items():
        require(name in kind.metrics, f"{name} is among the metrics of {kind.name}", list(kind.metrics))
        spec = kind.metrics[name]
        unit = ball.norm if spec.unit == DISTANCE and ball is not None else spec.unit
        told = (metric.unit, metric.better)
        require(told == (unit, spec.better), f"{name} has the unit and the better side that are declared", told)
        _keeps_outcomes(name, spec, result)


def _keeps_outcomes(name: str, spec: MetricSpec, result: Metrics) -> None:
    """The columns of a rate give its value again."""
    if not spec.outcome:
        return
    columns = [column for column in (spec.outcome, spec.counted) if column]
    known = [c for c in columns if c in result.per_sample and result.per_sample[c].dtype == torch.bool]
    require(known == columns, f"{name} has its outcomes per sample, bool", sorted(result.per_sample))
    holds = result.per_sample[spec.outcome]
    holds = holds[result.per_sample[spec.counted]] if spec.counted else holds
    seen = float(holds.double().mean())
    require(abs(seen - result.values[name].value) < 1e-6, f"{name} is the share of its outcomes", seen)
