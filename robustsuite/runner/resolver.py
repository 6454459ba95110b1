"""A cell of the plan, and what a suite names for it, made: its recipe, its attack and its game."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from robustsuite.core import patches
from robustsuite.core.ball import Threat
from robustsuite.core.process_state import strangers_code
from robustsuite.evaluation.resolve import Game
from robustsuite.plugins import provenance
from robustsuite.scenarios import arrange
from robustsuite.suite.plugin_options import DefenseUse, PluginUse
from robustsuite.suite.recipes import make_recipe
from robustsuite.suite.schema import Suite
from robustsuite.training.recipe import Recipe

_Place = tuple[str, str, int, float | None, bool]


@dataclass(frozen=True)
class Cell:
    """One defence against one attack in one repeat, at one radius.

    Args:
        key: Digest of everything that determines the result, and of the labels that tell it apart in this run.
        content: Digest of everything that determines the result: cells of one content are played once.
        order: Position in the plan, from 0.
        defense: The defended recipe's use in the suite.
        attack: The attack's use in the suite.
        repeat: Index of the independent training.
        threat: The threat model of this cell.
        training: Key of the victim's training, under which its weights are kept; empty where nothing is trained.
        curve: Whether this cell is a point of a curve, played on fewer samples.
        artefacts: Keys of the artefacts, one a view, where they serve every defence; else none.
        shared: Whether runs share its result: not where a user's training reads what no key knows.
    """

    key: str
    content: str
    order: int
    defense: DefenseUse
    attack: PluginUse
    repeat: int
    threat: Threat | None
    training: str
    curve: bool = False
    artefacts: tuple[str, ...] = ()
    shared: bool = True

    @property
    def variant(self) -> dict[str, Any]:
        """Of which sweeps of the suite it is a point, as its record says."""
        uses = {"defense": self.defense.variant, "attack": self.attack.variant}
        return {name: variant for name, variant in uses.items() if variant}


class Resolver:
    """Makes what a suite names, each recipe and each cell's game once.

    It goes to other processes as the suite alone: what plug-ins make need not be picklable, so each process makes its
    own.

    Args:
        suite: A validated suite.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._recipes: dict[str, Recipe] = {}
        self._games: dict[_Place, Game] = {}

    def __reduce__(self) -> tuple[type[Resolver], tuple[Suite]]:
        return Resolver, (self.suite,)

    def recipe(self, defense: DefenseUse) -> Recipe:
        """The suite's recipe, changed by every part of the defence from left to right."""
        if defense.label not in self._recipes:
            with _made(f"defense={defense.label!r}", *((part.entry.cls, part.options) for part in defense.parts)):
                self._recipes[defense.label] = make_recipe(self.suite, defense)
        return self._recipes[defense.label]

    def game(self, cell: Cell) -> Game:
        """The attack and the game that it plays; a point of a curve is drawn as the attack alone finds it.

        Raises:
            RequestError: As `robustsuite.scenarios.arrange`.
        """
        radius = None if cell.threat is None else cell.threat.ball.radius
        place = (cell.defense.label, cell.attack.label, cell.repeat, radius, cell.curve)
        if place not in self._games:
            use, alone = cell.attack, {"follow_up": False} if cell.curve else {}
            entry = use.entry
            with _made(f"attack={cell.attack.label!r}", entry.cls, entry.game, use.options):
                self._games[place] = Game(entry, *arrange(entry, {**use.options, **use.rules, **alone}, cell.threat))
        return self._games[place]


def _made(what: str, *parts: Any) -> AbstractContextManager[None]:
    """Undo at once what a plug-in does to the process as it is made, where strangers' code takes part in these."""
    loaded = patches.remembered() and provenance.strange(*parts)
    return strangers_code(f"{what}, as it was made,") if loaded else nullcontext()
