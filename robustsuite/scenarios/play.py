"""One whole game: the attack is shown copies, what it does besides is undone, and the judge has the last word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TypeVar

import torch

from robustsuite.core import patches
from robustsuite.core.isolation import out_of_memory, seeded, untouched, weights_lent
from robustsuite.core.metric import Metrics
from robustsuite.core.process_state import strangers_code
from robustsuite.core.samples import Samples
from robustsuite.core.splits import RESERVED
from robustsuite.core.streams import Streams
from robustsuite.data.copies import lent, shown
from robustsuite.scenarios.protocol import Attack, Scenario
from robustsuite.scenarios.victim import Victim

V = TypeVar("V")
A = TypeVar("A")


def craft(attack: Attack[V, A], view: V, *, seed: int, trial: int = 0) -> A:
    """The artefact that `play` would be given for the view of this number, made outside of any game.

    Raises:
        TamperingError: The attack wrote to data that it was not shown.
    """
    streams = _trial(Streams(seed).child("attack"), trial)
    lendings = [value for value in getattr(view, "__dict__", {}).values() if isinstance(value, Samples)]
    fence = lent(f"attack={_name(attack)!r}", *lendings)
    with torch.inference_mode(False), fence, seeded(streams.key), _watched(attack):
        return attack(shown(view), streams)


def _watched(attack: object) -> AbstractContextManager[None]:
    """Undo at once what an attack does to the process, where strangers' code is loaded: the judge comes next."""
    return strangers_code(f"attack={_name(attack)!r}") if patches.remembered() else nullcontext()


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
    streams = Streams(seed).child("attack")
    with _fenced(attack, scenario, victim, streams) as notes:
        trials = ((view, _trial(streams, i * scenario.shared)) for i, view in enumerate(scenario.views(victim)))
        made = (move for view, own in trials for move in moves(attack, view, own, notes))
        metrics = scenario.score(victim, made)
    return _noted(metrics, notes)


def play_crafted(
    artefacts: Sequence[A], attack: Attack[V, A], scenario: Scenario[V, A], victim: Victim, *, seed: int
) -> Metrics:
    """Play one whole game, as `play`, with what the attack made beforehand by `craft`, one artefact a view."""
    with _fenced(attack, scenario, victim, Streams(seed).child("attack")) as notes:
        metrics = scenario.score(victim, zip(scenario.views(victim), artefacts, strict=True))
    return _noted(metrics, notes)


def _trial(streams: Streams, number: int) -> Streams:
    """What the attack draws from in this trial; draws of views that are batches of one trial are told apart by ids."""
    return streams if number == 0 else streams.child("trial", number)


@contextmanager
def _fenced(attack: object, scenario: Scenario[V, A], victim: Victim, streams: Streams) -> Iterator[dict[str, None]]:
    """What foreign code does to this victim in the block is undone; yields notes, those of the model among them."""
    network, who = victim.model.network, f"attack={_name(attack)!r}"
    # A caller's inference mode would make tensors that no training or attack can differentiate through.
    with (
        torch.inference_mode(False),
        lent(who, victim.test, victim.train, *(victim.part(need) for need in scenario.needs if need in RESERVED)),
        weights_lent(network, who),
        untouched(network),
        seeded(streams.key),
    ):
        notes = dict(victim.model.notes)
        yield notes
    notes |= victim.model.notes


def _noted(metrics: Metrics, notes: Mapping[str, None]) -> Metrics:
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
        with _watched(attack):
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
