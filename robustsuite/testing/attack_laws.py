"""Laws that every attack obeys, whoever wrote it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.core.ball import NORMS, Ball, Threat
from robustsuite.core.canonical import canonical_json
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError, TamperingError
from robustsuite.core.isolation import seeded
from robustsuite.core.metric import Metrics
from robustsuite.core.streams import Streams
from robustsuite.data.copies import shown, written
from robustsuite.plugins import registry
from robustsuite.plugins.registry import Entry
from robustsuite.scenarios import SCENARIOS, game
from robustsuite.scenarios.play import play
from robustsuite.scenarios.poisoning import Poison, TrainingSet
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.law import Law, LawBroken, require
from robustsuite.testing.victims import tiny_samples, tiny_victim

_RADII = {"linf": 0.1, "l2": 0.8, "l1": 3.0}
Check = Callable[[Entry, dict[str, Any]], None]


def attack_laws(name: str, **options: Any) -> list[Law]:
    """Every law that applies to this attack, to be called one by one.

    Args:
        name: Its registered name.
        **options: Options that keep the checks quick; defaults otherwise.

    Raises:
        RequestError: No such attack.
    """
    entry = registry.attacks.get(name)
    checks: dict[str, Check] = {
        "described": _described,
        "pure": _pure,
        "repeatable": _repeatable,
        "leaves-its-view": _leaves_its_view,
        **_FAMILIES[entry.scenario],
    }
    return [Law(name, law, partial(check, entry, options)) for law, check in checks.items()]


def _play(
    entry: Entry, options: dict[str, Any], victim: Victim, *, norm: str = "", scale: float = 1.0, seed: int = 0,
    batch_size: int = 32,
) -> Metrics:  # fmt: skip
    """One game in the attack's own ball, or in that of another norm."""
    threat = Threat(ball=_ball(norm or entry.norms[0], victim.test.bounds, scale))
    # An evaluator is trained anew in each game, and no law is about it.
    known: dict[str, Any] = {"batch_size": batch_size, "evaluator": "logistic"}
    rules = {name: value for name, value in known.items() if name in SCENARIOS[entry.scenario].options}
    return play(entry.make(options), game(entry, threat, rules), victim, seed=seed)


def _ball(norm: str, bounds: tuple[float, float], scale: float = 1.0) -> Ball:
    return Ball(norm, _RADII[norm] * (bounds[1] - bounds[0]) * scale)


def _described(entry: Entry, options: dict[str, Any]) -> None:
    """Parameters are plain, documented, and equal ones give equal attacks."""
    one, other = entry.make(options), entry.make(options)
    require(one == other and hash(one) == hash(other), "equal options give equal attacks", one)
    require(isinstance(json.loads(canonical_json(one)), dict), "parameters are JSON", one)
    text = entry.cls.__doc__ or ""
    for field in dataclasses.fields(entry.cls):
        require(f"{field.name}:" in text, f"the docstring describes {field.name}", text)
    require(bool(entry.summary), "the docstring has a summary", text)


def _pure(entry: Entry, options: dict[str, Any]) -> None:
    """Model, modes, gradients, inputs and the global random state are as before, in training mode and under no_grad."""
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        victim = tiny_victim(24, training_mode=True)
        network = victim.model.network
        parameter = next(network.parameters())
        parameter.grad = torch.full_like(parameter, 7.0)
        before = copy.deepcopy(network.state_dict())
        x = victim.test.x.clone()
        torch.manual_seed(5)
        state = torch.get_rng_state()
        try:
            with context():
                _play(entry, options, victim)
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


def _leaves_its_view(entry: Entry, options: dict[str, Any]) -> None:
    """What it is shown is as before; the judge keeps what it needs, but an attack must not rest on writing there."""
    made, seen = entry.make(options), dict[str, None]()

    def watched(view: Any, streams: Streams) -> Any:
        before = shown(view)
        artefact = made(view, streams)
        seen.update(dict.fromkeys(written(view, before)))
        return artefact

    threat = Threat(ball=_ball(entry.norms[0], (0.0, 1.0)))
    play(watched, game(entry, threat, {}), tiny_victim(24), seed=0)
    require(not seen, "the view is unwritten", list(seen))


def _repeatable(entry: Entry, options: dict[str, Any]) -> None:
    """One seed gives one result, whatever the global random state was."""
    victim = tiny_victim(40)
    with seeded(1):
        one = _play(entry, options, victim)
    with seeded(2):
        other = _play(entry, options, victim)
    for name, column in one.per_sample.items():
        require(_same(column, other.per_sample[name]), f"column {name} repeats with the seed", entry.name)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a.double(), nan=-1.0), torch.nan_to_num(b.double(), nan=-1.0))


def _norms(entry: Entry, options: dict[str, Any], victim: Victim) -> list[tuple[str, Metrics]]:
    """Results in every norm that the attack has; one that it lacks must be refused as a request."""
    found = []
    for norm in NORMS:
        try:
            found.append((norm, _play(entry, options, victim, norm=norm)))
        except RequestError:
            continue
    require(bool(found), "an evasion attack has at least one norm", entry.name)
    return found


def _in_the_ball(entry: Entry, options: dict[str, Any]) -> None:
    """Artefacts lie in the ball and in bounds, for every norm, both precisions and three input ranges."""
    for bounds in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        for dtype in (torch.float32, torch.float64):
            for norm, result in _norms(entry, options, tiny_victim(24, bounds=bounds, dtype=dtype)):
                require(
                    "over-budget" not in result.flags, f"in the {norm} ball within {bounds}, {dtype}", result.message
                )


def _low_precision(entry: Entry, options: dict[str, Any]) -> None:
    """Networks in 16 bits are attacked in the same ball: nothing is over budget, and steps are not swallowed."""
    for dtype in (torch.bfloat16, torch.float16):
        result = _play(entry, options, tiny_victim(24, dtype=dtype), scale=0.2)
        require("over-budget" not in result.flags, f"in the ball in {dtype}", result.message)
        distance = result.per_sample["distance"]
        most = _ball(entry.norms[0], (0.0, 1.0), 0.2).radius * (1 + 1e-3)
        if not entry.minimum_norm:
            seen = float(distance[distance.isfinite()].max())
            require(seen <= most, "what the network is given lies in the ball", seen)


def _answers_that_are_not_finite(entry: Entry, options: dict[str, Any]) -> None:
    """A network that answers NaN off the data has no robust sample, and a flag says why."""
    victim = tiny_victim(24)
    made = Victim(Served(_Lost(victim.model.network, victim.test.x)), victim.test, device=victim.device)
    result = _play(entry, options, made)
    robust = result.values["robust_accuracy"].value
    moved = bool((result.per_sample["distance"] > 0).any())
    require(not moved or robust == 0, "what has no finite answer is broken", robust)
    require(not moved or "non-finite-answers" in result.flags, "a flag says so", result.flags)


class _Lost(nn.Module):
    """NaN for whatever is none of the data."""

    def __init__(self, inner: nn.Module, known: Tensor) -> None:
        super().__init__()
        self.inner, self._known = inner, known.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        off = torch.cdist(x.detach().flatten(1).double(), self._known.double()).amin(1) > 1e-9
        logits: Tensor = self.inner(x) + torch.where(off, torch.nan, 0.0).to(x.dtype)[:, None]
        return logits


def _default_dtype(entry: Entry, options: dict[str, Any]) -> None:
    """Nothing is made in torch's default dtype: where that is float64, a float32 network gets the same verdicts."""
    usual, victim = _play(entry, options, tiny_victim(12)), tiny_victim(12)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        other = _play(entry, options, victim)
    finally:
        torch.set_default_dtype(before)
    same = torch.equal(usual.per_sample["robust"], other.per_sample["robust"])
    require(same, "verdicts do not depend on torch's default dtype", other.values["robust_accuracy"].value)


def _dtype_is_the_models(entry: Entry, options: dict[str, Any]) -> None:
    """float64 stays float64, and nothing carries a graph: the judge refuses both, so that playing shows it."""
    _play(entry, options, tiny_victim(12, dtype=torch.float64))


def _batch_invariant(entry: Entry, options: dict[str, Any]) -> None:
    """Batch sizes 1, 7 and 32 give the same verdicts, except where rounding decides."""
    victim = tiny_victim(40)
    results = [_play(entry, options, victim, batch_size=size) for size in (1, 7, 32)]
    first = results[0].per_sample["robust"]
    for result in results[1:]:
        differ = int((result.per_sample["robust"] != first).sum())
        require(differ == 0, "verdicts do not depend on the batch size", f"{differ} of {len(first)} differ")


def _radius_zero(entry: Entry, options: dict[str, Any]) -> None:
    """In a ball of radius 0 nothing moves, and robust accuracy is clean accuracy."""
    result = _play(entry, options, tiny_victim(40), scale=0.0)
    distance = result.per_sample["distance"]
    require(bool((distance[distance.isfinite()] == 0).all()), "radius 0 is the identity", distance)
    robust, clean = result.values["robust_accuracy"].value, result.values["clean_accuracy"].value
    require(robust == clean, "radius 0 leaves the clean accuracy", (robust, clean))


def _classes(entry: Entry, options: dict[str, Any]) -> None:
    """2, 3, 4 and 10 classes all run, and every rate lies in [0, 1] with N = 101."""
    for classes in (2, 3, 4, 10):
        result = _play(entry, options, tiny_victim(101, classes))
        for name, metric in result.values.items():
            if metric.unit == "rate":
                require(0 <= metric.value <= 1, f"{name} is a rate with {classes} classes", metric)
        require(result.values["robust_accuracy"].n == 101, "all 101 samples are judged", result.values)


def _nothing_lost(entry: Entry, options: dict[str, Any]) -> None:
    """An adversarial input found on the way is returned."""
    result = _play(entry, options, tiny_victim(60), scale=0.6)
    require("found-not-returned" not in result.flags, "no adversarial input is lost", result.flags)


def _poison(entry: Entry, options: dict[str, Any]) -> tuple[TrainingSet, Poison]:
    view = TrainingSet(tiny_samples(200), 17)
    return view, entry.make(options)(view, Streams(0))


def _poisons_what_it_says(entry: Entry, options: dict[str, Any]) -> None:
    """As many rows as the budget allows, each once, and nothing else differs."""
    view, poison = _poison(entry, options)
    distinct = len(torch.unique(poison.index))
    require(len(poison.index) == view.budget == distinct, "poisons exactly its budget", poison.index)
    poisoned = view.samples.with_rows(poison.index, poison.x, poison.y)
    differs = (poisoned.y != view.samples.y) | (poisoned.x != view.samples.x).flatten(1).any(1)
    require(set(differs.nonzero()[:, 0].tolist()) <= set(poison.index.tolist()), "touches only its rows", differs)
    require(int(differs.sum()) == view.budget, "every poisoned row differs", int(differs.sum()))


def _leaves_the_set(entry: Entry, options: dict[str, Any]) -> None:
    """The training set is unwritten, and a trigger leaves its input unwritten."""
    view, _ = _poison(entry, options)
    x, y = view.samples.x.clone(), view.samples.y.clone()
    poison = entry.make(options)(view, Streams(1))
    require(torch.equal(view.samples.x, x) and torch.equal(view.samples.y, y), "the set is unwritten", entry.name)
    if poison.trigger is not None:
        given = x.clone()
        moved = poison.trigger(given)
        require(torch.equal(given, x) and moved.shape == x.shape, "the trigger copies", moved.shape)


def _inversion_metrics(entry: Entry, options: dict[str, Any]) -> None:
    """Reconstructions have the input's shape and range: the judge refuses others, so that playing shows it."""
    result = _play(entry, options, tiny_victim(60))
    require(0 <= result.values["inversion_accuracy"].value <= 1, "accuracy is a rate", result.values)


_FAMILIES: dict[str, dict[str, Check]] = {
    "utility": {},
    "evasion": {
        "in-the-ball": _in_the_ball,
        "low-precision": _low_precision,
        "default-dtype": _default_dtype,
        "answers-that-are-not-finite": _answers_that_are_not_finite,
        "dtype-is-the-models": _dtype_is_the_models,
        "batch-invariant": _batch_invariant,
        "radius-zero": _radius_zero,
        "classes": _classes,
        "nothing-lost": _nothing_lost,
    },
    "poisoning": {"poisons-what-it-says": _poisons_what_it_says, "leaves-the-set": _leaves_the_set},
    "inversion": {"shape-and-range": _inversion_metrics},
}
