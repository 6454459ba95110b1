"""Which surrogate to differentiate through: each is tried on a few samples, and the deployed model decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.suspicions import Effect, Suspicion
from robustsuite.scenarios.evasion.sanity.detectors import Joint, joint
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.evasion.sanity.surrogates import (
    Averaged,
    IntermediateLogits,
    StraightThrough,
    Submodule,
    parts_within,
)

_STEPS: Final = 10  # of the climb by which a surrogate is tried
_TRIED: Final = 32  # samples that it is tried on
_DISSENT: Final = 0.3  # share of samples by which intermediate logits may agree less with the answer than the best
_MEMBERS: Final = 4  # submodules that are tried, at most
_EOT: Final = 8  # draws that are averaged, of a random model
_NOISE: Final = 0.25  # of the radius, by which inputs are blurred where gradients mislead


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Something to differentiate through, and how it did.

    Args:
        name: What it is, for the record.
        module: Raw inputs to logits.
        knowledge: What an adversary who uses it must know.
        broken: Share of the tried samples that it broke; NaN where nothing had to be tried.
        rise: By how much the deployed model's margin rose, on average; likewise.
    """

    name: str
    module: nn.Module
    knowledge: str
    broken: float
    rise: float


def find(look: Look, doubts: frozenset[Suspicion]) -> list[Surrogate]:
    """Surrogates that lead somewhere, best first.

    Args:
        look: Some samples that are not broken yet.
        doubts: What says what is wrong with the model's own gradients.
    """
    if doubts <= Suspicion.that(Effect.MILD):  # the gradient is there, and is the loss's
        return [Surrogate("the model itself", look.model.surrogate(), "full defence", math.nan, math.nan)]
    look = look.take(slice(0, _TRIED))
    before = look.margin(look.x)
    found = []
    for name, knowledge, make in _candidates(look, doubts):
        try:
            module = make()
            if module is None:
                continue
            moved = look.climb(module, _STEPS, module.loss if isinstance(module, Joint) else losses.margin)
        except Exception:  # a stranger's code need not bear what a surrogate does to it
            continue
        after = look.margin(moved)
        rise = float((after - before).clamp(-1e6, 1e6).mean() / before.abs().mean().clamp_min(1e-12))
        found.append(Surrogate(name, module, knowledge, float((after > 0).float().mean()), rise))
    # What leads past a rejection comes first, because it alone shows the whole defence; of equals the plainest, which
    # was tried first.
    led = any(s.broken > 0 for s in found)
    return sorted(found, key=lambda s: (not isinstance(s.module, Joint), -s.broken if led else -s.rise))


Candidate = tuple[str, str, Callable[[], nn.Module | None]]


def _candidates(look: Look, doubts: frozenset[Suspicion]) -> Iterator[Candidate]:
    model, width = look.model.surrogate(), look.ball.radius / 2
    eot = _EOT if look.random else 1

    def expected(module: nn.Module, noise: float = 0.0) -> nn.Module:
        return Averaged(module, _EOT if noise else eot, noise) if eot > 1 or noise else module

    average = f", averaged over {_EOT} draws" if look.random else ""
    yield f"the model itself{average}", "full defence", lambda: expected(model)
    yield f"straight-through{average}", "full defence", lambda: expected(StraightThrough(model, look.classes, width))
    bare = StraightThrough(model, look.classes, width, intercept=False, force=True)
    yield f"identity backward{average}", "full defence", lambda: expected(bare)
    inside = tapped(look, model, width)
    if inside is not None:
        yield f"{inside[0]}{average}", "full defence", partial(expected, inside[1])
    for name, module in _parts(look, model, width):
        yield f"{name}{average}", "full defence", partial(expected, module)
    if doubts & Suspicion.that(Effect.BLURS):
        noise = _NOISE * look.ball.radius
        yield "gradients averaged over noise", "full defence", lambda: expected(model, noise)
        blurred = StraightThrough(model, look.classes, width)
        yield "straight-through averaged over noise", "full defence", lambda: expected(blurred, noise)
    if not look.model.fully_differentiable:
        yield f"model and detectors jointly{average}", "full defence", lambda: joint(look, width)


def _parts(look: Look, model: nn.Module, width: float) -> Iterator[tuple[str, nn.Module]]:
    """Submodules that make logits of the input, all of them and then one after the other."""
    try:
        x = look.take(slice(0, 8)).x
        parts = parts_within(model, x, look.classes, passes=_EOT if look.random else 1)[:_MEMBERS]
    except Exception:  # as in `find`
        return
    names = {id(part): name for name, part in model.named_modules()}
    chosen = [parts, *((part,) for part in parts if len(parts) > 1)] if parts else []
    for some in chosen:
        one = f"the submodule {names.get(id(some[0]), '').split('.')[-1]!r}"
        yield (f"{len(some)} submodules" if len(some) > 1 else one), Submodule(model, some, look.classes, width)


def tapped(look: Look, model: nn.Module, width: float) -> tuple[str, nn.Module] | None:
    """What is computed as `(N, classes)` on the way, where gradients lead to it and it is of the model's opinion.

    Returns:
        Its name and a surrogate; None where there is nothing of the kind, or nothing but the answer itself.
    """
    x = look.take(slice(0, 8)).x
    whole = IntermediateLogits(model, look.classes, width)
    try:
        with torch.enable_grad():
            entries = whole.entries(x.clone().requires_grad_(True))
        with torch.no_grad():
            answer = model(x)
    except Exception:  # as in `find`
        return None
    agreed = {i: _agreement(e, answer) for i, e in enumerate(entries) if e.requires_grad}
    only = tuple(i for i, share in agreed.items() if share >= max(agreed.values()) - _DISSENT)
    if not only or (len(only) == 1 and torch.equal(entries[only[0]], answer)):
        return None
    name = "the intermediate logits" if len(only) == 1 else f"the mean of {len(only)} intermediate logits"
    return name, IntermediateLogits(model, look.classes, width, only)


def _agreement(logits: Tensor, answer: Tensor) -> float:
    return float((logits.argmax(1) == answer.argmax(1)).float().mean())
