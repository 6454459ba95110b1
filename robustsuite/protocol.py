"""The one protocol: an attack maps a view to an artefact; a scenario makes the views and judges the artefacts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from robustsuite.data.copies import lent, shown
from robustsuite.data.samples import Samples
from robustsuite.door import working
from robustsuite.errors import ModelError, NotApplicableError
from robustsuite.isolation import out_of_memory, seeded, untouched, weights_lent
from robustsuite.models.probabilities import are_probabilities
from robustsuite.rounding import inwards
from robustsuite.serving import Deployed, ask
from robustsuite.streams import Streams
from robustsuite.threat import Threat
from robustsuite.training.recipe import Recipe

_REPEATED = 64  # samples that are asked twice to see whether the model answers the same

V = TypeVar("V")
A = TypeVar("A")
V_contra = TypeVar("V_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)


class Terms(NamedTuple):
    """What is known of a game before anything is trained or played.

    `scenario` is the name of the game, empty where a defence is asked; `classes`, `shape` (of one input) and `bounds`
    are those of the samples; `targeted` says whether there is a label to reach. `training` counts the samples that are
    trained on, 0 where that is unknown, `held_out` those that are kept for validation and calibration, and `counts`
    the training set's samples of each class, empty where that is unknown. `norm` is that of the ball, empty in games
    without one.
    """

    scenario: str
    classes: int
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    targeted: bool = False
    training: int = 0
    held_out: int = 0
    counts: tuple[int, ...] = ()
    norm: str = ""


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


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Args:
        model: The deployed model: repaired, wrapped by every `serve`.
        history: One row of figures per epoch.
        facts: What the record must say (epsilon, delta, train_seconds, …).
        flags: Doubts that the training itself raised, such as `catastrophic-overfitting`.
        held_out: What the training held out for validation and calibration, where it did.
    """

    model: Deployed
    history: tuple[Mapping[str, float], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    held_out: Samples | None = None


class CleanAnswers(NamedTuple):
    """Answers to the untouched test samples: `prediction (N,)`, `rejected (N,)`, `confidence (N,)`, on the CPU.

    `deterministic` says whether a second pass over some of them, in another batch size, agreed.
    """

    prediction: Tensor
    rejected: Tensor
    confidence: Tensor
    deterministic: bool


@dataclass(frozen=True, eq=False)
class Victim:
    """A deployed model with its data and, where it was trained here, its recipe.

    Args:
        model: What the adversary attacks.
        test: Samples that games are played on.
        recipe: How it was trained, where that is known.
        train: What it was trained on, where that is known.
        public: Data that an adversary may know, disjoint from `train`.
        trainer: Trains a recipe on samples (cached); needed by games that train again.
        trained: What its own training gave.
        device: Where games run.
    """

    model: Deployed
    test: Samples
    recipe: Recipe | None = None
    train: Samples | None = None
    public: Samples | None = None
    trainer: Callable[[Recipe, Samples], Trained] | None = None
    trained: Trained | None = None
    device: str = "cpu"

    @cached_property
    def dtype(self) -> torch.dtype:
        """In which inputs are computed: the model's own floating dtype, but at least float32."""
        return working(self.model.dtype)

    def given(self, x: Tensor) -> Tensor:
        """Inputs as the network is given them, in the dtype in which they are computed."""
        given = x.to(self.dtype)
        if self.grid is None or self.test.whole is not None:
            return given
        snapped = x.to(self.grid).to(self.dtype)
        low, high = self.test.bounds
        out = (snapped < low) | (snapped > high)
        if not out.any():
            return snapped
        middle = torch.full_like(given, (low + high) / 2).to(self.grid).to(self.dtype)
        return torch.where(out, inwards(given, middle, self.grid), snapped)

    @property
    def grid(self) -> torch.dtype | None:
        """What inputs are rounded to on their way to the network; None where it computes as they are."""
        if self.test.whole is not None:
            return self.test.whole
        return None if self.model.dtype == self.dtype else self.model.dtype

    @cached_property
    def clean(self) -> CleanAnswers:
        """Answers to the test samples, computed once and shared by every game on this victim."""
        with untouched(self.model.network), torch.no_grad():
            parts = [self._answer(batch.x) for batch in self.test.batches(256, self.device)]
            few = self.test.take(slice(0, _REPEATED))
            size = min(17, max(1, len(few) - 1))  # another batch size than before
            again = [self._answer(b.x)[3] for b in few.batches(size, self.device)]
        logits = torch.cat([part[3] for part in parts])
        judgeable(logits, self.test.classes)
        logits = logits[:_REPEATED]
        gap = float((logits - torch.cat(again)).abs().max())
        same = gap <= 1e-4 * max(1.0, float(logits.abs().max()))
        prediction, rejected, confidence = (torch.cat([part[i] for part in parts]) for i in range(3))
        return CleanAnswers(prediction, rejected, confidence, same)

    def _answer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        whole, x = self.model.whole, self.given(x)
        logits, rejected = ask(self.model, x if whole is None else x.to(whole), strict=True)
        confidence, prediction = logits.softmax(1).max(1)
        return prediction.cpu(), rejected.cpu(), confidence.float().cpu(), logits.double().cpu()

    def need(self, name: str, purpose: str) -> Any:
        """The named field, or a NotApplicableError that says what it is for."""
        value = getattr(self, name)
        if value is None:
            raise NotApplicableError(f"expected a victim with {name}, got {name}=None; {purpose}", name=name)
        return value


def judgeable(logits: Tensor, classes: int) -> None:
    """Refuse answers `(n, k)` that cannot be judged as logits: too few of them, non-finite numbers, probabilities.

    Raises:
        ModelError: With the wrap that mends it.
    """
    if logits.shape[1] == 1:
        raise ModelError(
            f"expected logits of shape (N, {classes}), got shape={tuple(logits.shape)}; a model with one logit is "
            f'declared by rs.wrap(model, output="binary-logit"), one with one probability by output="probabilities"'
        )
    if logits.shape[1] < classes:
        raise ModelError(
            f"expected logits of shape (N, {classes}), got shape={tuple(logits.shape)}; the model must score every "
            f"class that the labels name"
        )
    bad = ~torch.isfinite(logits)
    if bad.any():
        index = [int(i) for i in bad.nonzero()[0]]
        raise ModelError(
            f"expected finite logits, got logits{index}={float(logits[tuple(index)])}; look for NaN "
            f"weights or an overflow"
        )
    if are_probabilities(logits):
        total = float(logits[0].double().sum())
        raise ModelError(
            f"expected logits, got rows in [0, 1] that sum to 1, or round to that (first row sums to {total:.6f}): "
            f'probabilities hide gradients; declare rs.wrap(model, output="probabilities")'
        )


@dataclass(frozen=True)
class Metric:
    """One judged figure.

    Args:
        value: The figure.
        n: How many samples it rests on; 0 where it is no sample statistic.
        low: Lower end of the 95 % interval, or None.
        high: Upper end, or None.
        unit: "rate", "count", "seconds", "nats" …
        better: "higher", "lower" or "" (for the defender).
    """

    value: float
    n: int = 0
    low: float | None = None
    high: float | None = None
    unit: str = ""
    better: str = ""


@dataclass(frozen=True)
class Metrics:
    """A judgement: named figures, doubts, per-sample columns, and artefacts for the gallery.

    Args:
        values: Metric name -> figure; the first is the headline, which stands in the comparison table.
        flags: Short codes of doubts.
        status: `ok` or `inconclusive`.
        message: Why, in one sentence, where the status is not ok; else what is worth a note.
        per_sample: Column name -> tensor `(N,)`; holds `id` where it is not empty.
        artefacts: Name -> tensor, a small share kept for figures.
        cost: Counted passes: `forwards`, `backwards`, `queries`, in samples.
    """

    values: Mapping[str, Metric]
    flags: tuple[str, ...] = ()
    status: str = "ok"
    message: str = ""
    per_sample: Mapping[str, Tensor] = field(default_factory=dict)
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)


class Scenario(ABC, Generic[V, A]):
    """The rules of one game: it makes the views and judges the artefacts; a frozen dataclass."""

    #: The family's name, as in `register.attack(scenario=...)`.
    name: ClassVar[str]
    #: Kinds of knowledge that this game can hand out, strongest first.
    accesses: ClassVar[tuple[str, ...]] = ()
    #: Rules that a suite may set beside an attack's own options; the attack never sees them.
    options: ClassVar[tuple[str, ...]] = ()
    #: Fields of the victim without which the game cannot be played.
    needs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def arrange(cls, access: str, threat: Threat | None, options: Mapping[str, Any]) -> Self:
        """The game for an adversary of this access under this threat model, with these rules."""

    def check(self, terms: Terms) -> None:
        """Refuse data on which this game cannot be played, before anything is trained; nothing by default.

        Raises:
            RequestError: What is refused, and the way out.
        """

    @abstractmethod
    def views(self, victim: Victim) -> Iterator[V]:
        """The views of one game, as a generator; a split or a batch size never changes the result."""

    @abstractmethod
    def score(self, victim: Victim, moves: Iterable[tuple[V, A]]) -> Metrics:
        """Judge the artefacts without asking the attack how it went."""

    def data_view(self, train: Samples) -> V | None:  # noqa: ARG002
        """The view where it holds nothing but training data, so that one artefact serves every defence; else None."""
        return None

    def trainings(self, train: Samples, recipe: Recipe | None, artefact: A | None) -> Iterator[tuple[Recipe, Samples]]:  # noqa: ARG002
        """What the judge will train, so that it can be trained once and beforehand; nothing by default.

        Args:
            train: The victim's training data.
            recipe: How the victim is trained, where that is known.
            artefact: What the attack handed in, where this game has a `data_view`.
        """
        return iter(())

    def pack(self, artefact: A) -> tuple[dict[str, Tensor], dict[str, Any]] | None:  # noqa: ARG002
        """An artefact as tensors and JSON values; None where it cannot be kept."""
        return None

    def unpack(self, attack: Attack[V, A], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> A | None:  # noqa: ARG002
        """What `pack` took apart, made by this attack; None where it cannot be put together again."""
        return None


def craft(attack: Attack[V, A], view: V, *, seed: int) -> A:
    """The artefact that `play` would be handed for this view, made outside of any game.

    Raises:
        TamperingError: The attack wrote to data that it was not shown.
    """
    streams = Streams(seed).child("attack")
    lendings = [value for value in getattr(view, "__dict__", {}).values() if isinstance(value, Samples)]
    with torch.inference_mode(False), lent(f"attack={_name(attack)!r}", *lendings), seeded(streams.key):
        return attack(shown(view), streams)


def _name(attack: object) -> str:
    return str(getattr(attack, "plugin_name", type(attack).__name__))


def play(attack: Attack[V, A], scenario: Scenario[V, A], victim: Victim, *, seed: int) -> Metrics:
    """Play one whole game.

    The attack is shown copies. Data and weights are compared with copies afterwards: what was written to them in spite
    of that is undone, so that no later game is played on it.

    Args:
        attack: A callable from the scenario's view to its artefact.
        scenario: Rules and judge.
        victim: Who is attacked.
        seed: Keys every random draw of the attack, together with sample ids.

    Returns:
        What the judge measured.

    Raises:
        NotApplicableError: The victim lacks what the scenario needs.
        BudgetError: The artefact is over budget and the game cannot go on without it.
        TamperingError: Data or weights were written to.
    """
    streams, network = Streams(seed).child("attack"), victim.model.network
    who, data = f"attack={_name(attack)!r}", (victim.test, victim.train, victim.public)
    # A caller's inference mode would make tensors that no training or attack can differentiate through.
    foreign = (lent(who, *data), weights_lent(network, who), untouched(network), seeded(streams.key))
    with torch.inference_mode(False), ExitStack() as stack:
        for context in foreign:
            stack.enter_context(context)
        notes = dict(victim.model.notes)
        made = (move for view in scenario.views(victim) for move in moves(attack, view, streams, notes))
        metrics = scenario.score(victim, made)
    notes |= victim.model.notes
    return replace(metrics, message="; ".join(part for part in (metrics.message, *notes) if part))


def moves(
    attack: Attack[V, A], view: V, streams: Streams, notes: dict[str, None] | None = None
) -> Iterator[tuple[V, A]]:
    """The attack's move on this view; out of memory, a view that can be halved is, and the game goes on.

    The attack is shown a copy, so that the judge gets the view as it was made.

    Args:
        attack: Who moves.
        view: What it sees a copy of.
        streams: What it draws from.
        notes: Where it is written down, as a key, that memory ran out.
    """
    try:
        artefact = attack(shown(view), streams)
    except (RuntimeError, MemoryError) as error:
        halve = getattr(view, "halves", None)
        parts = halve() if halve is not None and out_of_memory(error) else ()
        if not parts:
            raise
    else:
        yield view, artefact
        return
    if notes is not None:
        notes["memory ran out, and batches were halved"] = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for part in parts:
        yield from moves(attack, part, streams, notes)
