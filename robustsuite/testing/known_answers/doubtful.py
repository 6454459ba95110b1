"""Known-answer tests of doubt: gradients that are masked, and attacks that cheat."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.access.inputs import Inputs
from robustsuite.access.white_box import WhiteBox
from robustsuite.api.evaluate import evaluate
from robustsuite.core.ball import Ball
from robustsuite.core.metric import Metrics
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.streams import Streams
from robustsuite.evaluation.user_model import existing
from robustsuite.results.deciding import decide
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.known_answers.known_answer import Finding, at_least, at_most, near, same
from robustsuite.testing.known_answers.materials import NearestMean, digits, figure, templates

_BALL = Ball("linf", 0.3)


class _Detached(nn.Module):
    """A network whose answer is computed outside of autograd."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Logits without a gradient."""
        logits: Tensor = self.inner(x.detach())
        return logits


def masked() -> Iterator[Finding]:
    """Logits that saturate the softmax, and a network that hides its gradient, look robust, are doubted, and fall."""
    means, test = templates(digits("train")), digits("test")
    bare = evaluate(NearestMean(means), test, "pgd", _BALL)
    yield at_most("robust accuracy unmasked", 0.1, figure(bare.records[1], "robust_accuracy"))
    for name, network in {
        "logits x 1000": NearestMean(means, scale=1000.0),
        "detached": _Detached(NearestMean(means)),
    }.items():
        alone = evaluate(network, test, "pgd", _BALL, rules={"follow_up": False}).records[1]
        yield at_least(f"{name}: robust accuracy as pgd sees it", 0.5, figure(alone, "robust_accuracy"))
        yield same(f"{name}: zero-gradients is flagged", True, "zero-gradients" in alone.flags)
        gate = decide(alone.metrics["robust_accuracy"], 0.3, name="robust_accuracy", flags=alone.flags)
        yield same(f"{name}: a gate at 0.3", "inconclusive", gate.outcome.value)
        examined = evaluate(network, test, "pgd", _BALL).records[1]
        followed_up = figure(examined, "robust_accuracy" + FOLLOWED_UP)
        yield at_least(f"{name}: pgd's own robust accuracy stays", 0.5, figure(examined, "robust_accuracy"))
        yield at_most(f"{name}: robust accuracy with follow-up attacks", 0.1, followed_up)


@dataclass(frozen=True)
class _Cheat:
    """An attack that is not registered, because nobody should meet it outside of this test."""

    trick: Callable[[WhiteBox], Tensor]

    def __call__(self, view: Inputs, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """What the trick makes."""
        assert isinstance(view, WhiteBox)
        return self.trick(view)


def _found(view: WhiteBox) -> Tensor:
    """One honest step, asked about so that the judge knows what the attack has seen."""
    rows = torch.arange(len(view.x))
    gradient = view.value_and_grad(view.x, rows).gradient
    moved = view.ball.project(view.ball.step(view.x, gradient, view.ball.radius), view.x)
    view.value(moved, rows)
    return moved


def _beyond(view: WhiteBox) -> Tensor:
    """Three times as far as the ball reaches."""
    return view.x + 3 * (_found(view) - view.x)


def _out_of_bounds(view: WhiteBox) -> Tensor:
    """Within the radius, but brighter than white."""
    return view.x + view.ball.radius


def _not_a_number(view: WhiteBox) -> Tensor:
    return torch.full_like(view.x, float("nan"))


def _withheld(view: WhiteBox) -> Tensor:
    _found(view)
    return view.x.clone()


def _rewritten(view: WhiteBox) -> Tensor:
    """The inputs themselves overwritten, so that the way to them is nothing."""
    return view.x.copy_(view.x.flip(0))


def _meddling(view: WhiteBox) -> Tensor:
    """Reseeds the world, trains the model, and leaves gradients."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    for parameter in view.model.parameters():
        parameter.requires_grad_(True)
    view.model.train()
    with torch.enable_grad():
        view.model(view.x).sum().backward()
    return view.x.clone()


_CHEATS: Final = {
    "outside the ball": (_beyond, "over-budget"),
    "outside the bounds": (_out_of_bounds, "over-budget"),
    "not a number": (_not_a_number, "non-finite"),
    "overwrites its view": (_rewritten, "over-budget"),
}


def cheating() -> Iterator[Finding]:
    """Over budget is never counted, what was seen cannot be withheld, and what an attack touches is restored."""
    clean = float(_cheated(lambda view: view.x.clone())[0].values["robust_accuracy"].value)
    honest = _cheated(_found)[0].values["robust_accuracy"].value
    yield at_most("robust accuracy under an honest step", 0.2, float(honest))
    for name, (trick, flag) in _CHEATS.items():
        metrics, _ = _cheated(trick)
        yield same(f"{name}: flagged {flag}", True, flag in metrics.flags)
        yield near(f"{name}: robust accuracy", clean, metrics.values["robust_accuracy"].value, 0.0)
    metrics, _ = _cheated(_withheld)
    told = f"{metrics.status}, {', '.join(metrics.flags)}"
    yield same("withholds what it saw", "inconclusive, found-not-returned", told)
    _, changed = _cheated(_meddling)
    yield same("meddles: what stays changed", "nothing", ", ".join(changed) or "nothing")


def _cheated(trick: Callable[[WhiteBox], Tensor]) -> tuple[Metrics, list[str]]:
    """The judge's word, and what the game left changed."""
    network = NearestMean(templates(digits("train")), normalised=True)
    victim = existing(network, digits("test"), ball=_BALL)
    before = _state(network, victim)
    metrics = play(_Cheat(trick), Evasion(ball=_BALL), victim, seed=0)
    after = _state(network, victim)
    return metrics, [name for name in before if before[name] != after[name]]


def _state(network: nn.Module, victim: Victim) -> dict[str, object]:
    """Everything that a game has to leave as it was, in values that compare."""
    return {
        "weights and buffers": {name: t.tolist() for name, t in network.state_dict().items()},
        "modes": [part.training for part in network.modules()],
        "gradients": [p.grad is None for p in network.parameters()],
        "requires_grad": [p.requires_grad for p in network.parameters()],
        "inputs": victim.test.digest(),
        "Python's generator": random.getstate(),
        "NumPy's generator": np.random.get_state(legacy=False)["state"]["key"].tolist(),
        "torch's generator": torch.get_rng_state().tolist(),
    }
