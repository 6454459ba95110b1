"""What a user asks for in Python, as attacks with the games that they play."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from robustsuite.core import checks
from robustsuite.core.ball import BallLike, Threat, as_ball
from robustsuite.core.canonical import plain
from robustsuite.core.errors import NotApplicableError, RequestError
from robustsuite.core.renamed import options_of
from robustsuite.plugins import registry
from robustsuite.plugins.expressions import parse_call
from robustsuite.plugins.registry import Entry
from robustsuite.scenarios import STANDARD, game, sort_options
from robustsuite.scenarios.protocol import Attack, Scenario
from robustsuite.scenarios.refusing import check
from robustsuite.scenarios.victim import Victim

AttackLike = str | Attack[Any, Any]
CLEAN: Final = "none"
_NO_RULES: Final = ("is", "ball", "access")  # records say them elsewhere
_CALLED: Final = {
    "train": "training data",
    "judge": "public data",
    "adversary": "public data",
    "recipe": "training recipe",
}
_GIVEN_BY: Final = {
    "train": "train=(x, y) in Python or --train-data",
    **dict.fromkeys(("judge", "adversary"), "public=(x, y) in Python or --public-data, which it was not trained on"),
    "recipe": "recipe=rs.Recipe.by(fit) with your training function, or rs.Recipe(...), in Python, or all of it as a "
    "suite file for `robustsuite run`",
}
_OPTIONS: Final = {
    "train": "--train-data",
    **dict.fromkeys(("judge", "adversary"), "dataset.population in the suite, or --public-data"),
    **{name: f"dataset.{name} in the suite" for name in ("trusted", "calibration")},
}


class Game(NamedTuple):
    """A registered attack, with its options, and the game that it plays."""

    entry: Entry
    attack: Attack[Any, Any]
    scenario: Scenario[Any, Any]


def resolve(item: AttackLike) -> tuple[Entry, dict[str, Any]]:
    """The plug-in that is meant, and the options that are written beside its name.

    Raises:
        RequestError: Neither a known name nor an instance of a registered class.
    """
    name, options = parse_call(item) if isinstance(item, str) else (getattr(item, "plugin_name", ""), {})
    if not name or isinstance(item, type):
        remedy = "make it by rs.attack(...), or register its class"
        raise checks.fail("the name of an attack or a registered one", "attack", item, remedy)
    return registry.attacks.get(name), options


def arrange_all(
    attacks: AttackLike | Sequence[AttackLike] | None, threat: BallLike | Threat | None, rules: Mapping[str, Any]
) -> list[Game]:
    """The clean evaluation, then a game for every attack that is asked for.

    Args:
        attacks: One or more; None for the one that plays the standard game where none is named.
        threat: The ball of evasion attacks, or the whole threat model.
        rules: Rules of the games; each must be one of some game that is asked for.

    Raises:
        RequestError: No attack, an unknown one, an unknown option or rule, or evasion without a ball.
    """
    attacks = STANDARD.default_attack if attacks is None else attacks
    listed = list(attacks) if isinstance(attacks, Sequence) and not isinstance(attacks, str) else [attacks]
    if not listed:
        raise checks.fail("at least one attack", "attacks", listed, "name one, such as 'pgd'")
    whole = threat if threat is None or isinstance(threat, Threat) else Threat(ball=as_ball(threat, "threat"))
    rules = checks.plain_numbers(options_of(rules))
    asked = [_arrange(item, whole, rules) for item in listed]
    known = sorted({option for game in asked for option in game.scenario.options})
    for key in rules:
        checks.one_of("rules", key, known)
    return [_arrange(CLEAN, None, {}), *(game for game in asked if game.entry.name != CLEAN)]


def _arrange(item: AttackLike, threat: Threat | None, rules: Mapping[str, Any]) -> Game:
    entry, options = resolve(item)
    own, written = sort_options(entry, options)
    made = entry.make(own) if isinstance(item, str) else checks.settled(item)
    kind = entry.game
    if threat is None and kind.needs_threat:
        remedy = "add threat=('linf', 8 / 255), say"
        raise checks.fail(f"a ball for the {kind.name} attack {entry.name!r}", "threat", None, remedy)
    shared = {key: value for key, value in rules.items() if key in kind.options}
    return Game(entry, made, game(entry, threat, {**shared, **written}))


def ask_for_what_is_missing(games: Sequence[Game], victim: Victim) -> None:
    """Refuse a game that cannot be played against this victim, naming all that it lacks, or what the attack refuses.

    Raises:
        RequestError: What is missing, what it is for, and how to give it; an option that does not suit the game.
    """
    for entry, attack, scenario in games:
        missing = [need for need in scenario.needs if victim.has(need) is None]
        if missing:
            got = ", ".join(f"{need}=None" for need in missing)
            ways = "; ".join(_GIVEN_BY.get(need, f"{need}=...") for need in missing)
            raise RequestError(
                f"expected a model with its {' and '.join(_CALLED.get(need, need) for need in missing)} for "
                f"attack={entry.name!r}, got {got}; {entry.scenario} cannot be judged without them: give {ways}"
            )
        check(attack, scenario, victim.test, train=victim.train)


def why_not(error: NotApplicableError) -> str:
    """What a record says of a game that its victim does not suit: what is missing, and how to give it."""
    if error.name is None:
        return str(error)
    return f"{error}: give {_OPTIONS.get(error.name, f'a suite that trains it ({error.name})')}"


def facts_of(game: Game) -> dict[str, Any]:
    """What a record says of a game before it is played, by the record's fields.

    Of the rules it says only what differs from nothing; ball and knowledge have fields of their own.

    Example:
        >>> facts_of(arrange_all("label-flip", None, {"fraction": 0.05})[1])["rules"]
        {'fraction': 0.05}
    """
    scenario = game.scenario
    told: dict[str, Any] = plain(scenario) if dataclasses.is_dataclass(scenario) else {}
    silent = (*_NO_RULES, *scenario.unruled)
    rules = {name: value for name, value in told.items() if name not in silent and value is not None}
    facts = {"rules": rules, "attack_parameters": plain(game.attack), "means": scenario.declared()}
    ball = getattr(scenario, "ball", None)
    if ball is not None:
        facts |= {"norm": ball.norm, "radius": ball.radius, "minimum_norm": getattr(scenario, "minimum_norm", False)}
    return facts


def labels(games: Sequence[Game]) -> list[str]:
    """Names; where one occurs again, with the options that are not defaults, and numbered where those agree too."""
    names = [game.entry.name for game in games]
    told = [n if names.count(n) == 1 else n + _changed(game.attack) for n, game in zip(names, games, strict=True)]
    return [t if told.count(t) == 1 else f"{t}#{told[: i + 1].count(t)}" for i, t in enumerate(told)]


def _changed(made: Any) -> str:
    """Options that are not defaults, as `(key=value, …)`; empty where there are none."""
    pairs = []
    for field in dataclasses.fields(made):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = getattr(made, field.name)
        if field.init and field.repr and value != default:
            pairs.append(f"{field.name}={value!r}")
    return f"({', '.join(pairs)})" if pairs else ""
