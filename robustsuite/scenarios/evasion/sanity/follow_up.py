"""Follow-up attacks: a suspicion starts those that resolve it; their finds are kept beside the attack's own result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from robustsuite.core.canonical import digest, plain
from robustsuite.core.deployed import Deployed
from robustsuite.core.intervals import rate
from robustsuite.core.isolation import seeded, untouched
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import FOLLOWED_UP, POWER
from robustsuite.core.robust import rates
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import RESOLVED, Effect, Suspicion
from robustsuite.plugins import registry
from robustsuite.plugins.registry import Entry
from robustsuite.scenarios.evasion.rules import EvasionRules
from robustsuite.scenarios.evasion.sanity.checks import FLOOR, Doubts, examine
from robustsuite.scenarios.evasion.sanity.detectors import Joint
from robustsuite.scenarios.evasion.sanity.power import ENOUGH, measured
from robustsuite.scenarios.evasion.sanity.probe import FEW, Look
from robustsuite.scenarios.evasion.sanity.soundness import is_sound
from robustsuite.scenarios.evasion.sanity.surrogate_search import Surrogate, find
from robustsuite.scenarios.evasion.sanity.surrogates import Rerouted
from robustsuite.scenarios.evasion.sanity.ways import Way, ways
from robustsuite.scenarios.play import play
from robustsuite.scenarios.protocol import Attack, Reviewed
from robustsuite.scenarios.victim import Victim

SANITY: Final = "sanity checks"
_EDITION: Final = 4  # raised whenever a change of code, not of what `rules` digests, may change what follow-ups find
_STARTING: Final = Suspicion.that(Effect.STARTS)
_MILD: Final = Suspicion.that(Effect.MILD)
# What no attack settles; only where next to nothing is robust does it not matter.
_UNTOUCHED: Final = frozenset({Suspicion.DEPENDS_ON_HISTORY, Suspicion.DEPENDS_ON_MODE, Suspicion.RAISES_ON_PERTURBED})
_DRAWS: Final = 11  # times that a random model is queried; the majority decides
_ROUTES: Final = 3  # surrogates that are attacked through, at most
_QUERIES: Final = 1000  # a sample, of an attack without gradients
_DISTANT: Final = frozenset({"decision-based", "transfer"})  # what knows least, and costs most
_TOGETHER: Final = 16  # samples in one pass of what is played, at least, however few were asked for
_OUTDONE: Final = 0.05  # share of samples left, from which on knowing less and breaking more says the gradient misled


def followed_up(
    metrics: Metrics, attack: Attack[Any, Any], game: EvasionRules, victim: Victim, *, seed: int
) -> Reviewed:
    """Look at a judgement with the sanity checks, and play follow-up attacks where one of them raises a suspicion.

    Random draws are keyed as in `play`.

    Args:
        metrics: What the judge measured.
        attack: Who attacked.
        game: The rules under which it did.
        victim: Who was attacked.
        seed: Keys random draws.

    Returns:
        The attack's own figures; behind each rate that follow-up attacks may lower, one of the same name and
        `FOLLOWED_UP`, and per sample `verdict` (robust after them) and `found_by` (which of the facts' `played` broke
        it, from 1; 0 for none of them). Flags are the doubts that are left. The facts say by which `rules` it was
        examined, what was looked at, what was played and what it broke.
    """
    network = victim.model.network
    with torch.inference_mode(False), untouched(network), seeded(Streams(seed).child("doubt").key):
        try:
            with _Passes().of(victim.model) as checked:
                robust, passes = metrics.per_sample["robust"], metrics.per_sample.get("passes")
                doubts = examine(attack, game, victim, robust, seed=seed, passes=passes, watch=checked.watch)
            follow_up = _FollowUp(metrics, doubts, attack, game, victim, seed)
            with _Passes().of(victim.model) as spent:
                follow_up.run()
            with _Passes().of(victim.model) as planted:
                found = follow_up.power(sanity=checked.total(), follow_up=spent.total())
        except Exception as error:  # a number that could not be examined is still a number, under a doubt
            flags = (*metrics.flags, Suspicion.UNEXAMINED)
            facts = {"rules": rules(), "error": f"{type(error).__name__}: {error}"}
            return Reviewed(replace(metrics, flags=flags), facts)
    return follow_up.judged({"sanity": checked, "follow_up": spent, "power": planted}, found)


def startable(game: EvasionRules) -> tuple[type[Any], ...]:
    """Classes of the registered attacks that some doubt could start in this game."""
    entries = (entry for entry in registry.attacks.all() if entry.scenario == game.name and entry.resolves)
    return tuple(entry.cls for entry in entries if game.ball.norm in entry.norms)


def rules() -> str:
    """What decides which follow-up attacks are played, as a short digest; under other rules verdicts do not compare."""
    resolving = sorted((e.name, sorted(e.resolves)) for e in registry.attacks.all() if e.resolves)
    return digest([_EDITION, sorted(_STARTING), resolving, _DRAWS, _ROUTES, _QUERIES, _OUTDONE, FLOOR])[:12]


class _FollowUp:
    """One verdict on its way to a stronger one."""

    def __init__(
        self, metrics: Metrics, doubts: Doubts, attack: Any, game: EvasionRules, victim: Victim, seed: int
    ) -> None:
        self._metrics, self._doubts, self._attack = metrics, doubts, attack
        self._game, self._victim, self._seed = game, victim, seed
        self._flags = dict.fromkeys(c for c in (*metrics.flags, *doubts.flags) if c not in doubts.unfounded)
        self._causes = frozenset(suspicion for suspicion in _STARTING if suspicion in self._flags)
        self._random = victim.model.random or not victim.clean.deterministic
        self._clean = metrics.per_sample["clean_correct"]
        self._robust = self._clean.clone() if self._random else metrics.per_sample["robust"].clone()
        self._found_by = torch.zeros(len(self._robust), dtype=torch.int64)
        self._played: list[dict[str, Any]] = []
        self._sound = False
        self._hits = 0

    def run(self) -> None:
        """Play what resolves the suspicions, while anything is robust."""
        if not self._random:
            self._mark_broken(torch.isin(self._victim.test.ids, torch.tensor(sorted(self._doubts.broken))), SANITY)
        if not self._causes or not self._robust.any():
            return
        roads = [(way, list[Surrogate]()) for way in ways(self._victim, self._game, self._causes)]
        for entry in _resolving(self._causes, self._game):
            if self._sound and self._causes <= _MILD:
                return  # the gradient was never in doubt, and a stronger attack has followed it
            for way, routes in roads:
                if not self._robust.any() or not self._is_worth(entry) or (way.bound and entry.access in _DISTANT):
                    continue
                if entry.access != "white-box":
                    self._play(entry, way, None)
                    continue
                # The first attack takes several, another one what led farthest when they were tried.
                most = 1 if way.bound or way.alone else _ROUTES
                routes[:] = routes[:1] or find(self._look(way), self._causes)[:most]
                for route in routes:
                    self._play(entry, way, route)

    def _is_worth(self, entry: Entry) -> bool:
        """Whether another attack may show more.

        Where little is robust, only the near ones and until a gradient was sound; decision-based attacks only where
        scores are flat.
        """
        if float(self._robust.float().mean()) <= FLOOR:
            return entry.access not in _DISTANT and not self._sound
        by_labels = Suspicion.JUMP_AT_BOUNDARY in self._causes and not self._sound
        return entry.access != "decision-based" or by_labels or self._look().flat()

    def _look(self, way: Way | None = None) -> Look:
        chosen = self._robust & self._victim.correct
        return Look.at(self._victim, self._game, chosen) if way is None else way.look(self._game, chosen)

    def _play(self, entry: Entry, way: Way, route: Surrogate | None) -> None:
        rows = self._robust.nonzero()[:, 0]
        if len(rows) == 0:
            return
        model = self._victim.model
        surrogate = model.surrogate() if route is None else route.module
        made = entry.make({})
        if made == self._attack and not way.name and route is not None and surrogate is model.surrogate():
            return  # that is what was played, and it has drawn what it draws
        rerouted = Rerouted(model, surrogate, _DRAWS if self._random else 1)
        test = self._victim.test.take(rows)
        rules: dict[str, Any] = {"access": entry.access, "draws": 1, "minimum_norm": entry.minimum_norm}
        least = _TOGETHER
        if entry.access != "white-box":
            rules["query_budget"], least = self._game.query_budget or _QUERIES, FEW  # which leave no graph behind
        # The sanity checks have passed more than that at once, and where memory runs out batches are halved.
        rules["batch_size"] = None if self._game.batch_size is None else max(least, self._game.batch_size)
        if way.alone:
            rules["batch_size"] = 1
        game = replace(self._game, **rules)
        try:
            found = play(made, game, replace(way.victim, model=rerouted, test=test), seed=self._seed)
        except Exception as error:  # an attack that cannot be played here resolves nothing
            self._played.append({"attack": entry.name, "error": f"{type(error).__name__}: {error}"})
            return
        via = "" if route is None else route.name
        facts = {"attack": entry.name, "parameters": plain(made), "through": via, "of": len(rows)}
        if way.name:
            facts["within"] = way.name
        facts["broke"] = int((~found.per_sample["robust"]).sum())
        facts["knowledge"] = entry.access if route is None else route.knowledge
        self._played.append(facts)
        self._take(rows, found)
        if entry.access != "white-box":
            self._sound &= facts["broke"] <= max(1, _OUTDONE * len(rows))
        else:
            joint = route is not None and isinstance(route.module, Joint)
            whole = self._victim.model.fully_differentiable or joint
            sound = whole and way.settles and Suspicion.ZERO_GRADIENTS not in found.flags
            self._sound = self._sound or (sound and self._leads(way, surrogate))

    def _leads(self, way: Way, surrogate: nn.Module) -> bool:
        """Whether a gradient was one of the deployed model, where it was in doubt."""
        if self._causes <= _MILD:
            return True
        look = self._look(way) if self._robust.any() else way.look(self._game, self._victim.correct)
        # Within what clean inputs share, they are not treated apart.
        return is_sound(look, surrogate, self._causes - ({Suspicion.JUMP_AT_CLEAN} if way.bound else set()))

    def _take(self, rows: Tensor, found: Metrics) -> None:
        """Keep what the follow-up attack that was played last has broken."""
        broken = rows[~found.per_sample["robust"]]
        self._robust[broken] = False
        self._found_by[broken] = len(self._played)
        hits = found.values.get("target_hit_rate")
        self._hits += 0 if hits is None else round(hits.value * hits.n)

    def _mark_broken(self, rows: Tensor, by: str) -> None:
        broken = rows & self._robust
        if broken.any():
            self._played.append({"attack": by, "broke": int(broken.sum()), "of": int(self._robust.sum())})
            self._robust &= ~broken
            self._found_by[broken] = len(self._played)

    def power(self, **passes: int) -> tuple[dict[str, Metric], dict[str, Any]]:
        """The share of planted examples that is found, alone and with the same follow-up attacks; facts about it."""

        def again(found: Metrics, planted: Victim) -> Tensor:
            doubts = Doubts(dict.fromkeys(self._causes, ""))
            repeated = _FollowUp(found, doubts, self._attack, self._game, planted, self._seed)
            repeated.run()
            return repeated._robust

        rules: dict[str, Any] = {"passes": passes, "draws": _DRAWS if self._random else 1, "seed": self._seed}
        try:
            return measured(self._attack, self._game, self._victim, self._metrics, again, **rules)
        except Exception as error:  # as of follow-up attacks that cannot be played
            return {}, {"error": f"{type(error).__name__}: {error}"}

    def judged(
        self, passes: Mapping[str, Counter[str]], power_of: tuple[Mapping[str, Metric], Mapping[str, Any]]
    ) -> Reviewed:
        """The stronger figures, the doubts that are left, and what was done."""
        metrics, (powers, planting) = self._metrics, power_of
        cost = dict(metrics.cost)
        for name, counted in passes.items():
            cost |= {f"{name}_{kind}": counted[kind] for kind in ("forwards", "backwards") if counted[kind]}
        left, flags = self._left(), []
        for code in self._flags:
            if self._random and code == Suspicion.FOUND_NOT_RETURNED:
                continue  # one lucky draw, and this verdict is the majority's
            settled = code in self._causes or code in _UNTOUCHED
            flags.append(str(code) if code in left or not settled else RESOLVED + code)
        if self._is_weak(powers.get(POWER + FOLLOWED_UP)):
            flags.append(str(Suspicion.LOW_POWER))
        columns = {**metrics.per_sample, "verdict": self._robust, "found_by": self._found_by}
        values = {**metrics.values, **self._followed_up(), **powers}
        changed = replace(metrics, values=values, per_sample=columns, cost=cost, flags=tuple(flags))
        facts: dict[str, Any] = {"rules": rules(), "checks": dict(self._doubts.flags), "power": dict(planting)}
        if not self._played and not self._causes and not left:
            return Reviewed(changed, facts)
        status, message = self._status(left)
        return Reviewed(replace(changed, status=status, message=message), {**facts, "played": self._played})

    def _left(self) -> frozenset[Suspicion]:
        """Causes that nothing resolved: no sound gradient was found, and more than a little is robust.

        A gradient is sound where it is one of the whole defence, and whoever knows less does not break more than it
        does. What a bounded number of queries does not break is not shown to be robust.
        """
        if float(self._robust.float().mean()) <= FLOOR:
            return frozenset()
        open_ = _UNTOUCHED & self._flags.keys()
        return open_ | (self._causes & {Suspicion.GRADIENTS_IN_FORWARD} if self._sound else self._causes)

    def _is_weak(self, found: Metric | None) -> bool:
        """Whether too few planted examples were found to believe what is robust."""
        if found is None or found.high is None or float(self._robust.float().mean()) <= FLOOR:
            return False
        return found.high < ENOUGH

    def _followed_up(self) -> dict[str, Metric]:
        """The rates that follow-up attacks may change, as they are with them."""
        values = rates(self._clean, self._robust)
        hits = self._metrics.values.get("target_hit_rate")
        if hits is not None:
            reached = torch.arange(hits.n) < round(hits.value * hits.n) + self._hits
            values["target_hit_rate"] = rate(reached, "lower")
        return {name + FOLLOWED_UP: value for name, value in values.items()}

    def _status(self, left: Iterable[str]) -> tuple[str, str]:
        before = self._metrics.values["robust_accuracy"].value
        after = float(self._robust.float().mean())
        why = ", ".join(sorted(self._causes)) or SANITY
        steps = ", ".join(_in_words(p) for p in self._played if p.get("broke")) or "no follow-up attack broke more"
        message = f"followed up ({why}): robust accuracy {before:.4g} -> {after:.4g}; {steps}"
        lost = Suspicion.FOUND_NOT_RETURNED in self._metrics.flags and not self._random
        kept = lost and float(self._robust.float().mean()) > FLOOR
        unresolved = sorted(left)
        if unresolved:
            told = f"{message}; unresolved: {', '.join(unresolved)}"
            if Suspicion.RAISES_ON_PERTURBED in left:
                told += f"; {self._doubts.flags.get(Suspicion.RAISES_ON_PERTURBED) or self._metrics.message}"
            return "inconclusive", told
        status = self._metrics.status if kept else "ok"
        return status, "; ".join(p for p in (message, "" if self._random else self._metrics.message) if p)


def _in_words(step: Mapping[str, Any]) -> str:
    through = f" through {step['through']}" if step.get("through") else ""
    through += f", {step['within']}," if step.get("within") else ""
    return f"{step['attack']}{through} broke {step['broke']} of {step['of']}"


def _resolving(causes: frozenset[Suspicion], game: EvasionRules) -> Iterator[Entry]:
    """Registered attacks that resolve these doubts: white boxes first, then scores, transfer and labels.

    Where the gradient itself is in doubt, a white box must resolve every such doubt, and those that resolve the most
    come first; else those that resolve the least, because they do more of what was done.
    """
    order = {"white-box": 0, "score-based": 1, "transfer": 2, "decision-based": 3, "blind": 4}
    hard = causes - _MILD
    sought, sign = (hard, -1) if hard else (causes, 1)
    entries = [e for e in registry.attacks.all() if e.scenario == game.name and sought & set(e.resolves)]
    for entry in sorted(entries, key=lambda e: (order.get(e.access, 5), sign * len(e.resolves), e.name)):
        able = entry.access != "white-box" or not hard or hard <= set(entry.resolves)
        if able and game.ball.norm in entry.norms:
            yield entry


class _Passes(Counter[str]):
    """Passes through a model's network and through copies of it, in samples, whoever asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[Any] = []

    @contextmanager
    def of(self, model: Deployed) -> Iterator[Self]:
        """Count while it is entered."""
        try:
            self.watch(model)
            yield self
        finally:
            for handle in self._handles:
                handle.remove()

    def watch(self, model: Deployed) -> None:
        """Count the passes of this model, too."""
        # A script takes no hooks; its door does.
        network = model.surrogate() if isinstance(model.network, torch.jit.ScriptModule) else model.network
        self._handles.append(network.register_forward_hook(self._note))

    def _note(self, _: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        n = len(args[0]) if args and isinstance(args[0], Tensor) else 1
        self["forwards"] += n
        if isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(lambda _: self.update(backwards=n))  # type: ignore[no-untyped-call]
