"""The games: each makes views and judges artefacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from robustsuite.core import checks
from robustsuite.core.ball import Threat
from robustsuite.core.renamed import options_of
from robustsuite.plugins.registry import GAMES, Entry
from robustsuite.scenarios.evasion.scenario import Evasion
from robustsuite.scenarios.inversion import Inversion
from robustsuite.scenarios.poisoning import Poisoning
from robustsuite.scenarios.protocol import Attack, Scenario
from robustsuite.scenarios.utility import Utility

SCENARIOS: dict[str, type[Scenario[Any, Any]]] = {s.name: s for s in (Utility, Evasion, Poisoning, Inversion)}
GAMES.update({name: kind.accesses for name, kind in SCENARIOS.items()})

__all__ = ["SCENARIOS", "Evasion", "Inversion", "Poisoning", "Utility", "arrange", "game", "sort_options"]


def sort_options(entry: Entry, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a suite's options into the attack's own and the rules of its game (budgets, evaluators)."""
    rules = SCENARIOS[checks.one_of("scenario", entry.scenario, SCENARIOS)].options
    own = {f.name for f in entry.parameters}
    options = options_of(options, own)
    theirs = {k: v for k, v in options.items() if k in rules and k not in own}
    return {k: v for k, v in options.items() if k not in theirs}, theirs


def arrange(
    entry: Entry, options: Mapping[str, Any], threat: Threat | None
) -> tuple[Attack[Any, Any], Scenario[Any, Any]]:
    """The attack with its options, and the game that it plays under this threat model.

    Raises:
        RequestError: An unknown option, an impossible value, a threat model that the game needs and lacks, or a norm
            that the attack does not have.
    """
    own, rules = sort_options(entry, options)
    return entry.make(own), game(entry, threat, rules)


def game(entry: Entry, threat: Threat | None, rules: Mapping[str, Any]) -> Scenario[Any, Any]:
    """The game that this attack plays under this threat model, with these rules.

    Raises:
        RequestError: An impossible rule, a threat model that the game needs and lacks, or a norm that the attack does
            not have.
    """
    kind = SCENARIOS[entry.scenario]
    return evasion_game(entry, threat, rules) if kind is Evasion else kind.arrange(entry.access, threat, rules)


def evasion_game(entry: Entry, threat: Threat | None, rules: Mapping[str, Any]) -> Evasion:
    """The game that this evasion attack plays.

    Raises:
        RequestError: As `game`.
    """
    scenario = Evasion.arrange(entry.access, threat, rules)
    has_norm(entry, scenario.ball.norm)
    return replace(scenario, minimum_norm=entry.minimum_norm)


def expect_evasion(entry: Entry, remedy: str) -> None:
    """Refuse an attack that plays another game.

    Raises:
        RequestError: With this remedy.
    """
    if SCENARIOS[entry.scenario] is not Evasion:
        raise checks.fail("an evasion attack", "attack", entry.name, remedy)


def has_norm(entry: Entry, norm: str) -> None:
    """Refuse a norm that an attack does not have, where it plays in a ball.

    Raises:
        RequestError: The norms that it has.
    """
    if SCENARIOS[entry.scenario].needs_threat and norm not in entry.norms:
        had = " or ".join(entry.norms)
        raise checks.fail(f"a norm that {entry.name} has ({had})", "norm", norm, f"play {entry.name} in {had}")
