"""What a gate asks for: a floor or a ceiling for one metric, as a suite or the command line writes it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.scenarios.metrics import GIVEN
from robustsuite.suite.problems import Problem, ProblemsError, nearest, read_dataclass, shown

if TYPE_CHECKING:
    from robustsuite.suite.schema import Suite

WORST: Final = "worst-case"
_CLEAN: Final = ("none", "utility")
_ROBUST: Final = "robust_accuracy"  # the metric that attacks are joined by
_TEXT: Final = re.compile(r"(?:(?P<attack>.*\S)\s*:)?\s*(?P<metric>[A-Za-z_][\w.]*)\s*(?P<side>>=|<=)\s*(?P<value>.+)")
_OWN: Final = " own"
_SIDES: Final = {">=": "at_least", "<=": "at_most"}
_SPANS: Final = {"rate": (0.0, 1.0), "rate difference": (-1.0, 1.0)}


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
            left: a number that stands because a gradient is masked must not pass.

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
        bound = checks.fraction(_SIDES[match["side"]], value)
        metric, attack = match["metric"], match["attack"] or ""
        if match["side"] == ">=":
            return cls(metric=metric, attack=attack, at_least=bound, own=own)
        return cls(metric=metric, attack=attack, at_most=bound, own=own)

    def written(self) -> dict[str, Any]:
        """As a suite file writes it."""
        values = dataclasses.asdict(self).items()
        return {key: value for key, value in values if value not in (None, "") and value is not False}


def read_gates(values: Any) -> tuple[Gate, ...]:
    """The suite's `gates`: mappings, or the text form.

    Raises:
        ProblemsError: All that is wrong with any of them by itself.
    """
    if not isinstance(values, (list, tuple)):
        told = f"expected a list, got gates={shown(values)}; write one `- {{metric: …, at_least: …}}` per line"
        raise ProblemsError([Problem((), told)])
    gates: list[Gate] = []
    problems: list[Problem] = []
    for index, item in enumerate(values):
        try:
            gates.append(_read(item))
        except ProblemsError as error:
            problems.extend(problem.below(index) for problem in error.problems)
        except RequestError as error:
            problems.append(Problem((index,), str(error)))
    if problems:
        raise ProblemsError(problems)
    return tuple(gates)


def _read(item: Any) -> Gate:
    if isinstance(item, str):
        return Gate.parse(item)
    if not isinstance(item, Mapping):
        return read_dataclass(Gate, item, "a gate")
    values = dict(item)
    for key in _SIDES.values():
        value = values.get(key)
        try:
            if isinstance(value, str):
                values[key] = checks.fraction(key, value)
            elif isinstance(value, int) and not isinstance(value, bool):
                values[key] = float(value)
        except RequestError as error:
            raise ProblemsError([Problem((key,), str(error))]) from error
    return read_dataclass(Gate, values, "a gate")


def places(attacks: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Every label that a gate may name -> the game that is played there.

    Args:
        attacks: Label and game of every attack that is played.
    """
    joined = [(WORST, game) for _, game in attacks if _ROBUST in GIVEN.get(game, ())][:1]
    return dict([_CLEAN, *attacks, *joined])


def gives(game: str, label: str) -> Mapping[str, str]:
    """The metrics of an attack -> their units; the worst case over attacks has one."""
    known = GIVEN.get(game, {})
    return {name: unit for name, unit in known.items() if label != WORST or name == _ROBUST}


def mistakes(gate: Gate, defenses: Sequence[str], attacks: Mapping[str, str]) -> Iterator[Problem]:
    """What this gate names that is not there, or cannot be.

    Args:
        gate: The gate.
        defenses: Labels of the defences.
        attacks: As `places` makes it.
    """
    for key, label, known in (("defense", gate.defense, defenses), ("attack", gate.attack, attacks)):
        if label and label not in known:
            remedy = nearest(label, known)
            yield Problem((key,), f"expected the label of {_ARTICLE[key]}, got {key}={label!r}; {remedy}")
    if gate.attack and gate.attack not in attacks:
        return
    asked = {gate.attack: attacks[gate.attack]} if gate.attack else attacks
    units = {name: unit for label, game in asked.items() for name, unit in gives(game, label).items()}
    if gate.metric not in units:
        told = f"a metric of {gate.attack!r}, which plays {attacks[gate.attack]}" if gate.attack else ""
        of = told or "a metric that is measured"
        yield Problem(("metric",), f"expected {of}, got metric={gate.metric!r}; {nearest(gate.metric, units)}")
        return
    low, high = _SPANS.get(units[gate.metric], (-float("inf"), float("inf")))
    if not low <= gate.bound <= high:
        span = f"a number in [{low:g}, {high:g}] for the {units[gate.metric]} {gate.metric!r}"
        yield Problem((gate.side,), f"expected {span}, got {gate.side}={gate.bound!r}; 40 % is written 0.4")


_ARTICLE: Final = {"defense": "a defence that is compared", "attack": "an attack that is played"}


def of_suite(suite: Suite) -> list[Problem]:
    """What is wrong with the gates of a suite beside its defences and attacks."""
    attacks = places([(use.label, use.entry.scenario) for use in suite.attacks])
    defenses = [use.label for use in suite.defenses]
    found = [
        problem.below("gates", index)
        for index, gate in enumerate(suite.gates)
        for problem in mistakes(gate, defenses, attacks)
    ]
    for index, gate in enumerate(suite.gates):
        if gate in suite.gates[:index]:
            found.append(Problem(("gates", index), f"expected each gate once, got {gate} again; remove one of them"))
    return found
