"""Attack power: adversarial examples are planted, and the evaluation is asked to find them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.core.ball import Ball
from robustsuite.core.deployed import ask
from robustsuite.core.intervals import rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import FOLLOWED_UP, POWER
from robustsuite.core.streams import Streams
from robustsuite.scenarios.evasion.rules import EvasionRules
from robustsuite.scenarios.evasion.sanity.boundary import bisected, nearest_of_another_class
from robustsuite.scenarios.play import play
from robustsuite.scenarios.protocol import Attack
from robustsuite.scenarios.victim import Victim

ENOUGH: Final = 0.9  # power; where the interval lies below, robustness is not believed (honest networks: 1.00)
_SHARE: Final = 0.1  # of the evaluation's passes, that looking for planted examples may take
_MOST: Final = 64  # planted examples
_LEAST: Final = {True: 8, False: 4}  # the same, where something is robust and where nothing is
_DEPTH: Final = 0.95  # of the radius, at which an example is planted
_BEYOND: Final = 0.05  # of the radius, by which it lies beyond the boundary at most
_TRIED: Final = 10  # random points, which tell how hard the test is
_TRYING: Final = 32  # samples on which follow-up attacks try surrogates, whatever they play on afterwards
_ASKED: Final = 16  # queries that planting one example takes, about
_AMONG: Final = 2000  # inputs of which the nearest one of another class is taken


class Planted(NamedTuple):
    """Inputs in whose ball an adversarial example certainly lies.

    Args:
        victim: The same deployed model, with these inputs `(n, …)` as its test samples.
        found: The adversarial example in the ball of each `(n, …)`.
        random: For which of them a few random points of the ball hold one too; bool `(n,)`.
    """

    victim: Victim
    found: Tensor
    random: Tensor


def plant(victim: Victim, game: EvasionRules, most: int, streams: Streams, *, draws: int = 1) -> Planted | None:
    """Move inputs towards one of another class, until the decision boundary is just within their reach.

    The way to the nearest input of another class leads through its projections onto growing balls, so that all
    coordinates move at once in linf, and a point is as far from another as its ball is larger. By bisection a boundary
    is found. The adversarial example is a point just beyond it, and the new input lies 95 % of the radius before that
    point. The deployed model stays as it is, so attacks and follow-up attacks meet the gradients, random draws and
    rejections that they met before. (A linear readout of features, as in the paper, would leave out whatever sits
    behind the features. It cannot be fitted where only labels come out, and follow-up attacks through logits that are
    computed inside would not lead to it.)

    Args:
        victim: Who is attacked.
        game: The rules; those of targeted games, and of inputs that are integers, have no such line.
        most: Examples at most; inputs are drawn by their ids.
        streams: What is drawn from.
        draws: How often a random model is queried; the majority decides.

    Returns:
        None where no example can be planted.

    References:
        Zimmermann et al., NeurIPS 2022, arXiv:2206.13991 (active tests).
    """
    right = victim.correct.nonzero()[:, 0]
    if game.goal == "targeted" or victim.test.whole is not None or len(right) == 0 or game.ball.radius == 0:
        return None
    drawn = streams.child("which").uniform(victim.test.ids[right], (1,))[:, 0].argsort(stable=True)
    chosen, ball = right[drawn[:most]], game.ball.within(victim.test.bounds)
    among = right[:_AMONG]
    some, others = ((victim.test.inputs(rows), victim.test.y[rows]) for rows in (chosen, among))
    distance, place = nearest_of_another_class(some, others, ball.order)
    other = distance.isfinite() & (distance > 0)
    chosen, near, distance = chosen[other], among[place[other]], distance[other]
    if len(chosen) == 0:
        return None
    batch, away = victim.test.batch(chosen, victim.device), victim.test.batch(near, victim.device).x
    y, ids = batch.y, batch.ids
    x, away, distance = victim.given(batch.x), victim.given(away), distance.to(victim.device, victim.dtype)

    def wrong(at: Tensor) -> Tensor:
        return _wrong(victim, at, y, draws)

    def at(reach: Tensor) -> Tensor:
        return ball.project(away, x, reach)

    widest = ball.everywhere(victim.test.shape, victim.test.bounds).radius
    halvings = max(1, math.ceil(math.log2(widest / (_BEYOND * ball.radius))))
    _, cross = bisected(distance, lambda reach: wrong(at(reach)), halvings)
    centre = victim.given(at((cross - _DEPTH * ball.radius).clamp_min(0)))
    found = at(cross)
    if victim.grid is not None:
        found = ball.rounded(found, centre, victim.grid)
    certain = _right(victim, centre, y, draws) & wrong(found) & ball.contains(found, centre)
    if not certain.any():
        return None
    centre, found, y, ids = centre[certain], found[certain], y[certain], ids[certain]
    test = replace(victim.test, x=centre.cpu(), y=y.cpu(), ids=ids.cpu(), places=None)
    random = _searched(ball, centre, ids, streams, lambda at: _wrong(victim, at, y, draws))
    return Planted(replace(victim, test=test), found, random.cpu())


def measured(
    attack: Attack[Any, Any],
    game: EvasionRules,
    victim: Victim,
    metrics: Metrics,
    follow_up: Callable[[Metrics, Victim], Tensor],
    *,
    passes: Mapping[str, int],
    draws: int,
    seed: int,
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """The share of planted examples that the attack finds, and that it finds together with its follow-up attacks.

    How many are planted is decided by what the evaluation cost, before any is looked for: as many as fit in a tenth of
    its passes where none is found.

    Args:
        attack: Who attacked.
        game: The rules under which it did.
        victim: Who was attacked.
        metrics: What the judge measured.
        follow_up: Plays the follow-up attacks on a judgement of another victim; gives what stays robust, bool `(n,)`.
        passes: What the follow-up attacks and the sanity checks took, by `sanity` and `follow_up`.
        draws: How often a random model is queried; the majority decides.
        seed: Keys random draws.

    Returns:
        Figures, and facts for the record; no figures where nothing could be planted.
    """
    planted = plant(victim, game, _affordable(metrics, passes, draws), Streams(seed).child("planted"), draws=draws)
    if planted is None:
        return {}, {"planted": 0}
    judged = play(attack, game, planted.victim, seed=seed)
    clean = judged.per_sample["clean_correct"]
    alone, whole = ~judged.per_sample["robust"][clean], ~follow_up(judged, planted.victim)[clean]
    values = {POWER: rate(alone, ""), POWER + FOLLOWED_UP: rate(whole, "")}
    share = planted.random[clean].float().mean()
    return (values, {"planted": len(alone), "random": float(share)}) if len(alone) else ({}, {"planted": 0})


def _affordable(metrics: Metrics, passes: Mapping[str, int], draws: int) -> int:
    """How many examples may be looked for, if none of them is found."""
    clean, robust = metrics.per_sample["clean_correct"], metrics.per_sample["robust"]
    own, left = metrics.cost.get("forwards", 0) + metrics.cost.get("backwards", 0), int(robust.sum())
    spent = metrics.per_sample.get("passes")
    each = own / max(1, int(clean.sum()))
    if spent is not None:
        each = float(spent[robust].double().mean()) if left else float(spent.max())
    each += passes["follow_up"] / max(1, min(left, _TRYING)) + (_TRIED + _ASKED) * draws
    return max(_LEAST[left > 0], min(_MOST, int(_SHARE * (own + sum(passes.values())) / each)))


def _wrong(victim: Victim, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """Which inputs the deployed model gets wrong and accepts; bool `(n,)`."""
    return _votes(victim, x, draws, lambda labels, rejected: (labels != y) & ~rejected)


def _right(victim: Victim, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """Which inputs the deployed model gets right and accepts; bool `(n,)`."""
    return _votes(victim, x, draws, lambda labels, rejected: (labels == y) & ~rejected)


def _votes(victim: Victim, x: Tensor, draws: int, counts: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        answers = [ask(victim.model, x) for _ in range(draws)]
    return torch.stack([counts(a.labels(), a.rejected) for a in answers]).sum(0) * 2 > draws


def _searched(ball: Ball, x: Tensor, ids: Tensor, streams: Streams, wrong: Callable[[Tensor], Tensor]) -> Tensor:
    """For which inputs a few random points on the surface of the ball are wrong; bool `(n,)`."""
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for number in range(_TRIED):
        drawn = streams.child("tried", number).normal(ids, tuple(x.shape[1:]), dtype=x.dtype)
        found |= wrong(ball.project(ball.step(x, drawn, ball.radius, share=0.05), x))
    return found
