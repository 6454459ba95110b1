"""Sanity checks: on at most 64 samples, can the number that an attack gave be believed?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.deployed import Deployed, Raised, ask_each
from robustsuite.core.intervals import median
from robustsuite.core.rows import per_sample
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.scenarios.evasion.rules import EvasionRules
from robustsuite.scenarios.evasion.sanity.boundary import at_boundaries, crossed, steepest_change
from robustsuite.scenarios.evasion.sanity.clean_points import treated_apart
from robustsuite.scenarios.evasion.sanity.history import Fresh, copies_of, remembered
from robustsuite.scenarios.evasion.sanity.modes import by_mode
from robustsuite.scenarios.evasion.sanity.probe import FEW, Look
from robustsuite.scenarios.evasion.sanity.straight_through import Passing
from robustsuite.scenarios.evasion.sanity.surrogate_search import tapped
from robustsuite.scenarios.play import play
from robustsuite.scenarios.protocol import Attack
from robustsuite.scenarios.victim import Victim

FLOOR: Final = 0.02  # robust accuracy up to which there is nothing left to overestimate
_MASKED: Final = 0.1  # share of samples from which a gradient is doubted
_MISLED: Final = 0.25  # share of samples whose slope is not the loss's, or whose loss is too rough for slopes
_ROUGH: Final = 0.5  # of the way that a loss goes along a line, by which it may turn between equal steps
_PATH: Final = 0.2  # of the radius, half the length of that line
_PARTS: Final = 8  # equal steps of that line
_JUMPED: Final = 0.01  # of that way, at once: k-WTA .08 to .8, battlements .02, MNIST trained at .3 .001 to .003
_SMALL: Final = 0.02  # of the radius, over which the loss is differenced
_SATURATED: Final = 50.0  # logits between the first and the second, from which float32 cross-entropy says nothing
_QUERIES: Final = 20
_HUGE: Final = 16  # samples that are attacked without bounds on the distance
_LOOKED: Final = 32  # samples whose gradients are looked at
_ROUGHENED: Final = 12  # samples whose loss is looked at along a line
_DOUBLED: Final = (8, 32)  # samples that are attacked with twice the steps, at least and at most
_SHARE: Final = 0.04  # of the attack's passes, that attacking them may take where they are more than the fewest
_STRAYED: Final = 10  # steps of the climbs that tell whether the margin misleads
_AGAIN: Final = 40  # steps of a climb of their own, where twice the attack's would cost several times as much
_DEAR: Final = 4
_ANSWERED: Final = 16  # samples whose answers are asked for in other ways
_ROUNDING: Final = 1e-6  # of the greatest logit, within which answers are the same
_AT_LEAST: Final = 2  # samples by which a weaker attack must be better to raise a doubt


@dataclass
class Doubts:
    """What the sanity checks found.

    Args:
        flags: Code -> what was measured, in a few words.
        broken: Ids of samples for which a check itself met an adversarial input.
        unfounded: What the judge may have suspected, and the checks saw to be of no account.
    """

    flags: dict[Suspicion, str] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    unfounded: set[Suspicion] = field(default_factory=set)


def examine(
    attack: Attack[Any, Any],
    game: EvasionRules,
    victim: Victim,
    robust: Tensor,
    *,
    seed: int,
    passes: Tensor | None = None,
    watch: Callable[[Deployed], None] | None = None,
) -> Doubts:
    """Run every sanity check.

    Args:
        attack: Who attacked.
        game: The rules under which it did.
        victim: Who was attacked.
        robust: Which test samples it did not break; bool `(N,)`.
        seed: Keys random draws.
        passes: What it spent on each of them `(N,)`, where that is known.
        watch: Is shown each copy of the model that is asked in its place.
    """
    doubts, streams = Doubts(), Streams(seed).child("standing-checks")  # an old name; it keys draws
    right = victim.correct
    if game.ball.radius == 0 or not right.any():
        return doubts
    raised = Raised()
    look = Look.at(victim, game, right, _LOOKED, raised)
    left = right & robust
    for code, told in (*_of_the_model(look, streams, any_left=bool(left.any())), *_of_the_pass(look)):
        doubts.flags[code] = told
    if float(left.float().mean()) > FLOOR:
        fresh = copies_of(victim.pristine, watch)
        doubts.flags |= dict(_of_the_answers(look.take(slice(0, _ANSWERED)), fresh, streams.child("answers")))
    flat = Suspicion.SATURATED_LOSS in doubts.flags and getattr(attack, "loss", "") == "cross-entropy"
    if flat or raised:
        doubts.unfounded |= {Suspicion.ZERO_GRADIENTS} - doubts.flags.keys()
    if _reach(attack) < 1:
        doubts.flags[Suspicion.SHORT_OF_RADIUS] = f"its steps reach {_reach(attack):.0%} of the radius"
    if left.any():
        _weaker(doubts, Look.at(victim, game, left, raised=raised), streams, flat=flat)
        if not look.random:
            spent = math.inf if passes is None or int(passes.sum()) == 0 else int(passes.sum())
            few = slice(0, affordable(spent, 4 * _STRAYED))
            _astray(doubts, Look.at(victim, game, left, raised=raised).take(few), streams.child("astray"))
            _no_bounds(doubts, look.take(slice(0, _HUGE)))
            _converged(doubts, attack, game, victim, left, passes, spent, streams.child("again"), seed)
            _constant(doubts, look, victim, streams.child("constant"))
    if raised:
        doubts.flags[Suspicion.RAISES_ON_PERTURBED] = raised.told()
    return doubts


def _of_the_model(look: Look, streams: Streams, *, any_left: bool) -> Iterator[tuple[Suspicion, str]]:
    """Is there a gradient, and is it the loss's? How rough the loss is matters only where something is robust."""
    surrogate = look.model.surrogate()
    if look.random:
        yield Suspicion.NONDETERMINISTIC, "two answers to one input differ"
    start = look.ball.sample(look.x, look.ids, streams.child("start"))
    logits, steepest, plain = look.slopes(surrogate, start, (losses.margin, losses.cross_entropy))
    top = logits[:, : look.classes].topk(2, dim=1).values
    gap = (top[:, 0] - top[:, 1]).float()
    if float((gap > _SATURATED).float().mean()) > _MASKED:
        yield Suspicion.SATURATED_LOSS, f"the first logit leads by {median(gap):.3g}"
    # What it raises on has no gradient, but that is no matter of the gradient.
    answered = logits.isfinite().all(1) if look.raised else torch.ones_like(gap, dtype=torch.bool)
    peaks = [slope[answered].flatten(1).abs().amax(1) for slope in (steepest, plain)]
    for peak, name in zip(peaks, ("margin", "cross-entropy"), strict=True):
        broken = float((~peak.isfinite()).float().mean())
        if broken > _MASKED:
            yield Suspicion.BROKEN_GRADIENTS, f"{broken:.0%} of the gradients of the {name} are not finite"
    none, flat = peaks[0] == 0, peaks[1] == 0
    if float(none.float().mean()) > _MASKED:
        yield Suspicion.ZERO_GRADIENTS, f"{float(none.float().mean()):.0%} of the gradients of the margin are zero"
    elif float((flat & ~none).float().mean()) > _MASKED:
        told = f"{float(flat.float().mean()):.0%} of the gradients of the cross-entropy are zero, not so the margin's"
        yield Suspicion.SATURATED_LOSS, told
    if not look.random:
        misled = _misled(look, start, steepest)
        rough = _rough(look, start, steepest) if any_left else 0.0
        if misled > _MISLED:
            told = f"for {misled:.0%} of the samples the loss does not change as its gradient says"
            yield Suspicion.MISLEADING_GRADIENTS, told
        elif rough > _MISLED:
            yield Suspicion.MISLEADING_GRADIENTS, f"for {rough:.0%} of the samples the loss jumps along its gradient"


def _of_the_answers(look: Look, fresh: Fresh | None, streams: Streams) -> Iterator[tuple[Suspicion, str]]:
    """Is the answer a function of the input alone, and continuous where it matters?"""
    if not look.random:
        yield from treated_apart(look, streams.child("beside"))
        yield from () if fresh is None else by_mode(look, fresh)
    crossing = None if look.random else crossed(look, fresh)
    told = None if look.random else at_boundaries(look, crossing)
    if told is not None:
        yield Suspicion.JUMP_AT_BOUNDARY, told
    history = None if fresh is None else remembered(look, fresh, crossing, streams.child("history"))
    if history is not None:
        yield Suspicion.DEPENDS_ON_HISTORY, history


def _misled(look: Look, start: Tensor, slope: Tensor) -> float:
    """Share of samples whose loss changes otherwise, over a small step, than its slope `(n, …)` promises."""
    slope = slope.nan_to_num(0.0, 0.0, 0.0)
    length = _SMALL * look.ball.radius
    ahead = look.ball.step(start, slope, length, share=0.05)
    behind = look.ball.step(start, -slope, length, share=0.05)
    promised = (slope.double() * (ahead - behind).double()).flatten(1).sum(1)
    shown = look.margin(ahead) - look.margin(behind)
    told = promised > 0
    wrong = told & ~((shown > 0.5 * promised) & (shown < 2.0 * promised))
    return float(wrong.float().mean())


def _rough(look: Look, start: Tensor, slope: Tensor) -> float:
    """Share of samples whose loss turns all the way along a line through `start`, by jumps.

    The kinks of ReLU and of max-pooling turn a loss as well where it is steep, but what it changes by within a part of
    the line shrinks with the part; a jump stays as high.
    """
    few = look.take(slice(0, _ROUGHENED))
    start, slope = start[:_ROUGHENED], slope[:_ROUGHENED].nan_to_num(0.0, 0.0, 0.0)
    up = few.ball.step(start, slope, 1.0, share=0.05) - start

    def margin(place: Tensor) -> Tensor:
        return few.margin(start + per_sample(place, start) * up)

    places = _PATH * look.ball.radius * torch.linspace(-1, 1, _PARTS + 1).to(start)
    shown = torch.stack([margin(place.expand(len(few))) for place in places])
    changes = shown.diff(dim=0)
    way, turns = changes.abs().sum(0), changes.diff(dim=0).abs().sum(0)
    told = way > 1e3 * torch.finfo(look.x.dtype).eps * shown.abs().amax(0)  # else rounding is what turns it
    turned = told & (turns > _ROUGH * way)
    if float(turned.float().mean()) <= _MISLED:
        return 0.0
    return float((turned & (steepest_change(margin, places, shown)[2].abs() > _JUMPED * way)).float().mean())


def _of_the_pass(look: Look) -> Iterator[tuple[Suspicion, str]]:
    """Does the model compute gradients while it answers?"""
    few = look.take(slice(0, 4))
    with Passing(len(few), look.classes, quiet=True) as seen, torch.no_grad():
        few.model(few.x)
    if seen.inside:
        yield Suspicion.GRADIENTS_IN_FORWARD, f"{seen.inside} gradients are computed inside one forward pass"


def _weaker(doubts: Doubts, look: Look, streams: Streams, *, flat: bool) -> None:
    """Does one step, or a search without gradients, find what the attack did not?

    Where the attack's own loss is flat, what a climb of the margin finds as well is no matter of the gradient.
    """
    slope = look.slope(look.model.surrogate(), look.x).nan_to_num(0.0, 0.0, 0.0)
    once = look.ball.project(look.ball.step(look.x, slope, look.ball.radius, share=0.05), look.x)
    ways = {Suspicion.ONE_STEP_BETTER: once, Suspicion.BLACK_BOX_BETTER: _searched(look, streams.child("search"))}
    for code, moved in ways.items():
        broken = (look.margin(moved) > 0) & look.ball.contains(moved, look.x)
        if look.random:  # one lucky draw is no verdict
            continue
        doubts.broken |= set(look.ids[broken].tolist())
        if flat and code == Suspicion.BLACK_BOX_BETTER and broken.any():
            broken &= look.margin(look.climb(look.model.surrogate(), _STRAYED)) <= 0
        if int(broken.sum()) >= _AT_LEAST:
            doubts.flags[code] = f"it breaks {int(broken.sum())} of {len(look)} samples that the attack did not break"


def _searched(look: Look, streams: Streams) -> Tensor:
    """Random signs on blocks of coordinates, kept where they raise the margin."""
    shape = look.x.shape[1:]
    best = look.x
    signs = torch.where(streams.child("first").uniform(look.ids, shape) < 0.5, -1.0, 1.0).to(look.x)
    high = look.margin(best)
    for query in range(_QUERIES):
        here = streams.child(query)
        tried = signs
        if query > 0:
            share = max(0.02, 0.3 * 0.85**query)
            flip = here.uniform(look.ids, shape) < share
            drawn = torch.where(here.child("sign").uniform(look.ids, shape) < 0.5, -1.0, 1.0).to(look.x)
            tried = torch.where(flip, drawn, signs)
        moved = look.ball.project(look.ball.step(look.x, tried, look.ball.radius, share=0.05), look.x)
        value = look.margin(moved)
        better = value > high
        spread = per_sample(better, moved)
        best, signs = torch.where(spread, moved, best), torch.where(spread, tried, signs)
        high = torch.maximum(value, high)
    return best


def _astray(doubts: Doubts, look: Look, streams: Streams) -> None:
    """Does the margin lead astray, though its gradient is right?

    A defence may lower the scale of the logits around each sample, or make up all scores but the winner's: then a climb
    that no scale changes gets farther, or one along the logits that are computed inside.
    """
    model, start = look.model.surrogate(), look.ball.sample(look.x, look.ids, streams)
    inside = tapped(look, model, look.ball.radius / 2)
    climbs: dict[str, tuple[nn.Module, losses.AttackLoss]] = {}
    if losses.resolve("dlr", look.classes) == "dlr":
        climbs["a loss that no scale changes"] = (model, losses.dlr)
    if inside is not None:
        climbs[inside[0]] = (inside[1], losses.margin)
    broken = {name: _broken(doubts, look, *climb, start) for name, climb in climbs.items()}
    if max(broken.values(), default=0) < _AT_LEAST:
        return
    plain = _broken(doubts, look, model, losses.margin, start)
    for name, count in broken.items():
        if count >= plain + _AT_LEAST:
            told = f"a climb along {name} breaks {count} of {len(look)}, one along the margin {plain}"
            doubts.flags[Suspicion.MISLEADING_GRADIENTS] = told


def _broken(doubts: Doubts, look: Look, module: nn.Module, loss: losses.AttackLoss, start: Tensor) -> int:
    """How many samples a short climb breaks; none where a stranger's code does not bear what a surrogate does to it."""
    try:
        moved = look.climb(module, _STRAYED, loss, start)
    except Exception:
        return 0
    broken = (look.margin(moved) > 0) & look.ball.contains(moved, look.x)
    doubts.broken |= set(look.ids[broken].tolist())
    return int(broken.sum())


def _no_bounds(doubts: Doubts, look: Look) -> None:
    """Without a limit on the distance, accuracy must come down to chance."""
    bounds = look.ball.bounds
    if bounds is None:
        return
    wide = replace(look, ball=look.ball.everywhere(tuple(look.x.shape[1:]), bounds))
    shown = look.margin(wide.climb(look.model.surrogate(), 10))
    left = int(((shown <= 0) & shown.isfinite()).sum())  # it is infinite where the model raises, which has its own flag
    chance, n = 1 / look.classes, len(look)
    if left > n * chance + 3 * (n * chance * (1 - chance)) ** 0.5 and n >= 4:
        doubts.flags[Suspicion.UNBOUNDED_ATTACK_FAILS] = (
            f"with no limit on the distance, {left} of {n} samples stay robust"
        )


def _constant(doubts: Doubts, look: Look, victim: Victim, streams: Streams) -> None:
    """Does the model know but one answer? Then its gradient is zero, and no distance changes that, in truth.

    It is asked about what lies far from the samples too. Where these are of one class nothing is concluded.
    """
    seen, low, high = victim.clean.prediction, *victim.test.bounds
    if bool((seen != seen[0]).any()) or bool((victim.test.y == victim.test.y[0]).all()):
        return
    noise = low + (high - low) * streams.uniform(look.ids, tuple(look.x.shape[1:]), dtype=look.x.dtype)
    others = victim.given(victim.test.batch(slice(0, FEW), victim.device).x)
    apart = torch.cat([others, noise, low + high - look.x, *(torch.full_like(look.x[:1], v) for v in (low, high))])
    with torch.no_grad():
        logits = ask_each(look.model, apart, look.classes, look.raised).logits
    if not bool((logits.argmax(1) == seen[0]).all()):
        return
    doubts.unfounded.add(Suspicion.UNBOUNDED_ATTACK_FAILS)
    if float((logits - logits[0]).abs().max()) <= _ROUNDING * float(logits.abs().max()):
        doubts.unfounded |= {Suspicion.ZERO_GRADIENTS, Suspicion.SATURATED_LOSS}
    for code in doubts.unfounded:
        doubts.flags.pop(code, None)


def _converged(
    doubts: Doubts,
    attack: Any,
    game: EvasionRules,
    victim: Victim,
    left: Tensor,
    passes: Tensor | None,
    spent: float,
    streams: Streams,
    seed: int,
) -> None:
    """With twice the steps, or by another climb where those are dear, no more must break."""
    steps = getattr(attack, "steps", None)
    if not isinstance(steps, int) or "steps" not in {f.name for f in fields(attack)}:
        return
    each = 2.0 if passes is None else 2 * float(passes[left].double().mean())
    if each > _DEAR * 2 * _AGAIN:
        rows = left.nonzero()[: affordable(spent, 2 * _AGAIN), 0]
        broken, how = (
            _climbed_again(Look.at(victim, game, _only(left, rows)), streams),
            f"{_AGAIN} steps of another start",
        )
    else:
        rows = left.nonzero()[: affordable(spent, each), 0]
        fewer = replace(victim, test=victim.test.take(rows))
        found = play(replace(attack, steps=2 * steps), game, fewer, seed=seed)
        broken = fewer.test.ids[found.per_sample["clean_correct"] & ~found.per_sample["robust"]]
        how = "twice the steps"
    doubts.broken |= set(broken.tolist())
    if len(broken) >= _AT_LEAST:
        doubts.flags[Suspicion.UNCONVERGED] = f"{how} break {len(broken)} of {len(rows)} more"


def affordable(passes: float, each: float) -> int:
    """How many samples may be attacked once more, at this many passes each, beside an attack that took `passes`."""
    least, most = _DOUBLED
    return most if passes * _SHARE >= most * each else max(least, int(passes * _SHARE / max(1.0, each)))


def _climbed_again(look: Look, streams: Streams) -> Tensor:
    """Ids of the samples that break along the cross-entropy from a start of its own."""
    start = look.ball.sample(look.x, look.ids, streams)
    moved = look.climb(look.model.surrogate(), _AGAIN, losses.cross_entropy, start)
    return look.ids[(look.margin(moved) > 0) & look.ball.contains(moved, look.x)]


def _only(left: Tensor, rows: Tensor) -> Tensor:
    return torch.zeros_like(left).index_fill(0, rows, True)


def _reach(attack: Any) -> float:
    """How far steps of constant length lead, as a share of the radius; 1 where that is not known."""
    steps, size = getattr(attack, "steps", None), getattr(attack, "step_size", None)
    if not isinstance(steps, int) or not isinstance(size, float):
        return 1.0
    return steps * size
