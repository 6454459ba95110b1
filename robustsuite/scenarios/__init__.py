"""The games: each makes views and judges artefacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.ball import Threat
from robustsuite.core.metrics import Declared
from robustsuite.core.renamed import options_of
from robustsuite.plugins import registry
from robustsuite.plugins.registry import Entry
from robustsuite.scenarios.bench import Bench
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.evasion.scenario import Evasion
from robustsuite.scenarios.inversion import Inversion
from robustsuite.scenarios.poisoning import Poison, Poisoning, Stamp, TrainingSet
from robustsuite.scenarios.protocol import Attack, Scenario, Terms
from robustsuite.scenarios.targeted_poisoning import TargetedPoisoning, TargetedSet
from robustsuite.scenarios.utility import Utility
from robustsuite.scenarios.victim import Victim


class _Registered(Mapping[str, type[Scenario[Any, Any]]]):
    """Every registered game's class by its name; an unknown name lists the near matches."""

    def __getitem__(self, name: str) -> type[Scenario[Any, Any]]:
        kind: type[Scenario[Any, Any]] = registry.scenarios.get(name).cls
        return kind

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in registry.scenarios.all())

    def __len__(self) -> int:
        return len(registry.scenarios.all())


SCENARIOS: Final = _Registered()
CLEAN: Final[type[Scenario[Any, Any]]] = Utility
"""The game without an adversary, which every defence is judged by as well."""
STANDARD: Final[type[Scenario[Any, Any]]] = Evasion
"""The game that is meant where nobody names an attack."""

__all__ = [
    "CLEAN",
    "SCENARIOS",
    "STANDARD",
    "Bench",
    "Case",
    "Evasion",
    "Inversion",
    "Poison",
    "Poisoning",
    "Scenario",
    "Stamp",
    "TargetedPoisoning",
    "TargetedSet",
    "Terms",
    "TrainingSet",
    "Utility",
    "Victim",
    "arrange",
    "declared_by",
    "game",
    "sort_options",
]


def declared_by(scenario: str) -> Declared:
    """What the game of this name declares of its figures; nothing where it is not installed here."""
    entry = registry.scenarios.find(scenario)
    return Declared() if entry is None else entry.game.declared()


def sort_options(entry: Entry, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a suite's options into the attack's own and the rules of its game (budgets, evaluators)."""
    rules = entry.game.options
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
    if entry.game is Evasion:
        return evasion_game(entry, threat, rules)
    if threat is not None:
        has_norm(entry, threat.ball.norm)
    made: Scenario[Any, Any] = entry.game.arrange(entry.access, threat, rules)
    return made


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
    if entry.game is not Evasion:
        raise checks.fail("an evasion attack", "attack", entry.name, remedy)


def has_norm(entry: Entry, norm: str) -> None:
    """Refuse a norm that an attack does not have, where it plays in a ball.

    Raises:
        RequestError: The norms that it has.
    """
    if entry.game.needs_threat and norm not in entry.norms:
        had = " or ".join(entry.norms)
        raise checks.fail(f"a norm that {entry.name} has ({had})", "norm", norm, f"play {entry.name} in {had}")
