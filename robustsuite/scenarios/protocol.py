"""The one protocol: an attack maps a view to an artefact; a scenario makes the views and judges the artefacts."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

from torch import Tensor, nn

from robustsuite.core.ball import Threat
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.metric import Metrics
from robustsuite.core.metrics import Declared, MetricSpec
from robustsuite.core.streams import Streams
from robustsuite.scenarios.bench import Laws
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.victim import Victim
from robustsuite.training.jobs import Job
from robustsuite.training.recipe import Recipe

V = TypeVar("V")
A = TypeVar("A")
V_contra = TypeVar("V_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)


class Terms(NamedTuple):
    """What is known of a game before anything is trained or played.

    `scenario` is the name of the game, empty where a defence is asked; `classes`, `shape` (of one input) and `bounds`
    are those of the samples; `targeted` says whether there is a label to reach. `training` counts the samples that are
    trained on, 0 where that is unknown, and `counts` the training set's samples of each class, empty where that is
    unknown. `parts` holds the sizes of the other parts of the data set by name, empty where they are unknown. `norm` is
    that of the ball, empty in games without one.
    """

    scenario: str
    classes: int
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    targeted: bool = False
    training: int = 0
    counts: tuple[int, ...] = ()
    norm: str = ""
    parts: Mapping[str, int] = {}  # never written to


class Attack(Protocol[V_contra, A_co]):
    """A callable from a view to an artefact; a frozen dataclass whose fields are its parameters.

    One whose parameters do not suit every game may have a method `check(terms: Terms) -> None`, which raises a
    `RequestError` for a game that it could not play. It is asked before anything is trained or played, and leaves no
    trace.
    """

    def __call__(self, view: V_contra, streams: Streams) -> A_co:
        """The artefact for this view; random draws come from `streams`, keyed by the view's ids."""
        ...


class Defense(Protocol):
    """A function from a recipe to a recipe; a frozen dataclass whose fields are its parameters.

    One that does not suit every training may have a method `check(recipe: Recipe, terms: Terms) -> None`, which raises
    a `RequestError`. It is asked before anything is trained, with the whole recipe that the composed defences make,
    and leaves no trace.
    """

    def __call__(self, recipe: Recipe) -> Recipe:
        """The defended recipe; the given one is unwritten."""
        ...


class Reviewed(NamedTuple):
    """A judgement after a second look.

    Args:
        metrics: The judge's own figures, and beside them what was found besides.
        facts: What was looked at, what was played and what it found; empty where there was no second look.
    """

    metrics: Metrics
    facts: Mapping[str, Any] = {}  # never written to


class Scenario(ABC, Generic[V, A]):
    """The rules of one game: it makes the views and judges the artefacts; a frozen dataclass.

    What differs between games is said here and nowhere else. Suites, runner, table, gates, comparisons and the
    conformance kit read it; a class overrides what its game has, each with its type and `ClassVar`.
    """

    #: The family's name, as in `register.attack(scenario=...)`; `register.scenario` sets it.
    name: ClassVar[str]
    #: Kinds of knowledge that this game can hand out, strongest first.
    accesses: ClassVar[tuple[str, ...]] = ()
    #: Rules that a suite may set beside an attack's own options; the attack never sees them.
    options: ClassVar[tuple[str, ...]] = ()
    #: Which of its rules a suite may sweep; `radius` is that of the ball.
    sweeps: ClassVar[tuple[str, ...]] = ()
    #: Fields that are no rules of the game: what records say elsewhere, and what is about speed.
    unruled: ClassVar[tuple[str, ...]] = ()
    #: Fields of the victim without which the game cannot be played.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Parts of the data set that it reads where they are there, beside those that it `needs`.
    may_use: ClassVar[tuple[str, ...]] = ()
    #: Whether it is played under a threat model, whose ball the attacks must have the norm of.
    needs_threat: ClassVar[bool] = False
    #: Every figure that the judge may measure, in the order in which they are shown.
    metrics: ClassVar[Mapping[str, MetricSpec]] = {}
    #: The rate whose outcomes are joined per sample over all attacks into the worst case; empty where they are not.
    joined: ClassVar[str] = ""
    #: The attack that plays it where none is named.
    default_attack: ClassVar[str] = ""
    #: The first version of records whose figures of this game can be believed as they stand; earlier are `outdated`.
    sound_since: ClassVar[int] = 1
    #: Rules by which the conformance kit plays it, where its own would take long.
    quick: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def laws(cls) -> Laws:
        """What must hold of every attack that plays it, beside what must hold of all attacks; nothing by default."""
        return {}

    @classmethod
    def declared(cls) -> Declared:
        """What it declares of its figures, as its records carry it."""
        return Declared(cls.metrics, cls.joined)

    @classmethod
    def arrange(cls, access: str, threat: Threat | None, options: Mapping[str, Any]) -> Self:
        """The game for an adversary of this access under this threat model, with these rules.

        By default the fields of those names, and `access` and `ball` where there are such.
        """
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every scenario is one
        known = {"access": access, "ball": None if threat is None else threat.ball}
        given = {name: value for name, value in known.items() if name in fields and value is not None}
        return cls(**{**given, **options})

    def check(self, terms: Terms) -> None:
        """Refuse data on which this game cannot be played, before anything is trained; nothing by default.

        Raises:
            RequestError: What is refused, and the way out.
        """

    @classmethod
    def has_curve(cls, access: str, *, minimum_norm: bool) -> bool:  # noqa: ARG003
        """Whether games at other radii draw a curve of what attacks of this kind do; by default there is no radius."""
        return False

    def require(self, victim: Victim) -> None:
        """Refuse a victim that lacks what this game `needs`.

        Raises:
            NotApplicableError: What is missing, what it is for, and how to give it.
        """
        for need in self.needs:
            victim.need(need, f"{self.name} is judged with it")

    @abstractmethod
    def views(self, victim: Victim) -> Iterator[V]:
        """The views of one game, as a generator; a split or a batch size never changes the result."""

    @abstractmethod
    def score(self, victim: Victim, moves: Iterable[tuple[V, A]]) -> Metrics:
        """Judge the artefacts without asking the attack how it went."""

    def review(self, attack: Attack[V, A], victim: Victim, metrics: Metrics, *, seed: int) -> Reviewed:  # noqa: ARG002
        """Look at a judgement again, and start what settles a suspicion; by default nothing is looked at.

        Args:
            attack: Who attacked.
            victim: Who was attacked.
            metrics: What the judge measured.
            seed: Keys every random draw, as in `play`.
        """
        return Reviewed(metrics)

    def starts(self, attack: Attack[V, A]) -> tuple[type[Any], ...]:  # noqa: ARG002
        """Classes of the attacks that `review` may play besides: their code is part of the key; none by default."""
        return ()

    #: Whether its views hold nothing of the victim, so that one artefact serves every defence (`shared_views`).
    shared: ClassVar[bool] = False

    @property
    def trials(self) -> int:
        """How many views, and so artefacts, one game of `shared_views` has."""
        return 1

    def jobs(self, case: Case) -> Iterable[Job]:  # noqa: ARG002
        """What is trained for the judge or for the adversary beside the victim, before the attack is asked.

        Each is trained once for all cells that name it. Nothing by default.

        Args:
            case: What is known.
        """
        return ()

    def shared_views(self, case: Case, train: Callable[[Job], nn.Module]) -> Iterator[V]:  # noqa: ARG002
        """The views, where they hold nothing of the victim: `trials` of them; none by default.

        Args:
            case: What is known.
            train: Gives the network of one of `jobs`, a copy.
        """
        return iter(())

    def jobs_after(self, case: Case, artefact: A) -> Iterable[Job]:  # noqa: ARG002
        """What the judge trains on an artefact, where it is `shared`; nothing by default.

        Args:
            case: What is known.
            artefact: What the attack returned.
        """
        return ()

    def pack(self, artefact: A) -> tuple[dict[str, Tensor], dict[str, Any]] | None:  # noqa: ARG002
        """An artefact as tensors and JSON values; None where it cannot be kept."""
        return None

    def unpack(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> A:  # noqa: ARG002
        """What `pack` took apart, put together again; asked only for what this game has packed.

        Raises:
            RobustsuiteError: The game packs, and does not say how to unpack.
        """
        kind = type(self).__name__
        raise RobustsuiteError(f"expected a game that unpacks what it packs, got {kind}; write {kind}.unpack")
