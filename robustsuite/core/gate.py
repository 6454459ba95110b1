"""What a gate asks for: a floor or a ceiling for one metric, as a suite or the command line writes it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Final

from robustsuite.core import checks

WORST: Final = "worst-case"
SIDES: Final = {">=": "at_least", "<=": "at_most"}
_TEXT: Final = re.compile(r"(?:(?P<attack>.*\S)\s*:)?\s*(?P<metric>[A-Za-z_][\w.]*)\s*(?P<side>>=|<=)\s*(?P<value>.+)")
_OWN: Final = " own"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A floor or a ceiling for one metric.

    Args:
        metric: Name of the metric, as records write it.
        at_least: The floor, in the metric's own unit (rates in [0, 1]); None for a ceiling.
        at_most: The ceiling; None for a floor.
        attack: Label of the attack, `worst-case`, or `none` for the clean evaluation. Empty: the clean evaluation
            where it gives this metric; the worst case, which is the verdict, for `robust_accuracy`; else every attack
            that does, each of which must hold.
        defense: Label of the defence; empty for every one.
        own: Whether an attack's own number is judged. Else it is the worse of that and of what its follow-up attacks
            left: a number that is high because a gradient is masked must not pass.

    Raises:
        RequestError: No bound or two, or one that is no finite number.

    Example:
        >>> str(Gate(metric="robust_accuracy", at_least=0.4, attack="pgd"))
        'pgd:robust_accuracy>=0.4'
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    attack: str = ""
    defense: str = ""
    own: bool = False

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            name, value = ("metric", self.metric) if self.at_least is None else ("at_most", self.at_most)
            raise checks.fail("either at_least or at_most", name, value, "a floor and a ceiling are two gates")
        object.__setattr__(self, self.side, checks.real(self.side, self.bound))  # a NumPy number is none to JSON
        if self.own and self.attack in ("", WORST):
            raise checks.fail("an attack beside own", "attack", self.attack, "own: true is about one attack's number")

    @property
    def side(self) -> str:
        """`at_least` or `at_most`."""
        return "at_most" if self.at_least is None else "at_least"

    @property
    def bound(self) -> float:
        """The floor or the ceiling."""
        bound = self.at_most if self.at_least is None else self.at_least
        return bound if bound is not None else float("nan")

    @property
    def place(self) -> str:
        """Which defence and attack it is about; `none` is left out, and empty says nothing in particular."""
        return "/".join(part for part in (self.defense, self.attack) if part not in ("", "none"))

    def __str__(self) -> str:
        brief = f"{self.bound:g}"
        sign = ">=" if self.side == "at_least" else "<="
        written = brief if float(brief) == self.bound else repr(self.bound)
        return f"{self.place}{':' if self.place else ''}{self.metric}{sign}{written}{' own' if self.own else ''}"

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read `robust_accuracy>=0.4`, `pgd:robust_accuracy>=0.4` or `pgd:robust_accuracy>=0.4 own`.

        Raises:
            RequestError: The text is nothing of that kind.

        Example:
            >>> Gate.parse("art:HopSkipJump: attack_success_rate <= 1/10").attack
            'art:HopSkipJump'
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            remedy = "write the metric, >= or <=, and a number; an attack and a colon may stand before it"
            raise checks.fail("a gate such as 'robust_accuracy>=0.4'", "gate", text, remedy)
        value, own = match["value"].removesuffix(_OWN), match["value"].endswith(_OWN)
        bound = checks.fraction(SIDES[match["side"]], value)
        metric, attack = match["metric"], match["attack"] or ""
        if match["side"] == ">=":
            return cls(metric=metric, attack=attack, at_least=bound, own=own)
        return cls(metric=metric, attack=attack, at_most=bound, own=own)

    def written(self) -> dict[str, Any]:
        """As a suite file writes it."""
        values = dataclasses.asdict(self).items()
        return {key: value for key, value in values if value not in (None, "") and value is not False}
