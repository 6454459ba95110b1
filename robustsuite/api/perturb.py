"""`perturb` a batch, and judge nothing."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.access.inputs import Inputs
from robustsuite.core import checks
from robustsuite.core.ball import BallLike, Threat, as_ball
from robustsuite.core.deployed import Deployed
from robustsuite.core.isolation import seeded, untouched, weights_lent
from robustsuite.core.processor import fair_threads
from robustsuite.core.streams import Streams
from robustsuite.data.coerce import as_labels
from robustsuite.data.copies import lent
from robustsuite.evaluation.resolve import AttackLike, resolve
from robustsuite.evaluation.user_model import existing
from robustsuite.scenarios import evasion_game, expect_evasion
from robustsuite.scenarios.play import moves
from robustsuite.scenarios.refusing import check
from robustsuite.scenarios.victim import Victim

_BATCH: Final = 128


def perturb(
    attack: AttackLike,
    model: nn.Module | Deployed,
    x: Tensor,
    y: Tensor,
    ball: BallLike,
    *,
    seed: int = 0,
    target: Tensor | None = None,
    batch_size: int = _BATCH,
    precision: str = "reference",
) -> Tensor:
    """Run an evasion attack on a batch, whether the model gets it right or not.

    Args:
        attack: A name, an expression such as `"pgd(steps=5)"`, or an attack made by `rs.attack`.
        model: From raw inputs to logits; left exactly as it was.
        x: Inputs `(N, …)` within the bounds that the model declares, else those of the ball, else [0, 1].
        y: Labels `(N,)`.
        ball: Where the result must lie, `("linf", 8 / 255)` or a `Ball`; bounds default to those of the inputs.
        seed: Keys the random draws; at least 0.
        target: Labels `(N,)` to reach, other than `y`; None for an untargeted attack.
        batch_size: Samples at a time; never changes the result.
        precision: `reference`, or `fast` for gradients in bfloat16 where the hardware has units for it.

    Returns:
        Inputs `(N, …)` in the dtype and on the device of `x`, without a graph; numbers that the model's dtype has, and
        whole ones where `x` holds integers. Nothing is judged.

    Raises:
        RequestError: Another kind of attack, a norm that it does not have, or inputs, labels or targets that cannot be
            attacked.
        ModelError: Outputs that are no finite logits, or a model that fails.
    """
    seed = checks.integer("seed", seed, low=0)
    batch_size = checks.integer("batch_size", batch_size, low=1)
    ball = as_ball(ball)
    entry, options = resolve(attack)
    expect_evasion(entry, f"{entry.scenario} is played by rs.evaluate")
    rules = evasion_game(entry, Threat(ball=ball), {"batch_size": batch_size, "precision": precision})
    made = entry.make(options) if isinstance(attack, str) else checks.settled(attack)
    streams = Streams(seed).child("attack")
    with fair_threads(), seeded(streams.key), torch.inference_mode(False):
        victim = existing(model, (x, y), ball=ball, seed=seed)
        check(made, rules, victim.test, targeted=target is not None)
        wanted = None if target is None else _targets(target, victim)
        network, who = victim.model.network, f"attack={entry.name!r}"
        with lent(who, victim.test), weights_lent(network, who), untouched(network):
            views = rules.views_of(victim, torch.arange(len(victim.test)), ball.within(victim.test.bounds), wanted)
            found = [_given(seen, moved) for view in views for seen, moved in moves(made, view, streams)]
    moved = torch.cat(found)
    return moved.to(x.device, x.dtype) if isinstance(x, Tensor) else moved.cpu()


def _given(view: Inputs, moved: Tensor) -> Tensor:
    """What the network is given for an attack's result."""
    return view.given(moved.detach(), torch.arange(len(moved), device=moved.device))


def _targets(target: Any, victim: Victim) -> Tensor:
    wanted = torch.as_tensor(target).cpu()
    if wanted.shape != victim.test.y.shape:
        expected = f"a target for each of {len(victim.test)} samples"
        raise checks.fail(expected, "target.shape", tuple(wanted.shape), "pass labels (N,)")
    wanted = as_labels(wanted, "target")
    checks.labels("target", wanted, victim.test.classes)
    same = (wanted == victim.test.y).nonzero()[:, 0]
    if len(same):
        index = int(same[0])
        remedy = f"y[{index}] is that label: {len(same)} of {len(wanted)} samples would have nothing to reach"
        raise checks.fail("targets other than the labels", f"target[{index}]", int(wanted[index]), remedy)
    return wanted.to(victim.device, torch.int64)
