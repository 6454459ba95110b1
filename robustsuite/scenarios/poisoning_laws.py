"""Laws of attacks that poison a training set."""

from __future__ import annotations

from typing import Any, Final

import torch

from robustsuite.core.streams import Streams
from robustsuite.scenarios.bench import Bench, Laws

_FRACTION: Final = 0.085  # of the rows below: a budget of 17


def _poison(bench: Bench, seed: int = 0) -> tuple[Any, Any]:
    """A view of a small training set, and what the attack makes of it."""
    game = bench.entry.game.arrange(bench.entry.access, None, {"fraction": _FRACTION})
    (view,) = game.shared_views(bench.case(200), bench.train)
    return view, bench.attack()(view, Streams(seed))


def _poisons_what_it_says(bench: Bench) -> None:
    """As many rows as the budget allows, each once, and nothing else differs."""
    view, poison = _poison(bench)
    distinct = len(torch.unique(poison.index))
    bench.require(len(poison.index) == view.budget == distinct == 17, "poisons exactly its budget", poison.index)
    poisoned = view.samples.with_rows(poison.index, poison.x, poison.y)
    differs = (poisoned.y != view.samples.y) | (poisoned.x != view.samples.x).flatten(1).any(1)
    rows = set(differs.nonzero()[:, 0].tolist())
    bench.require(rows <= set(poison.index.tolist()), "touches only its rows", differs)
    bench.require(int(differs.sum()) == view.budget, "every poisoned row differs", int(differs.sum()))


def _leaves_the_set(bench: Bench) -> None:
    """The training set is unwritten, and a trigger leaves its input unwritten."""
    view, poison = _poison(bench, seed=1)
    untouched = bench.samples(200)
    same = torch.equal(view.samples.x, untouched.x) and torch.equal(view.samples.y, untouched.y)
    bench.require(same, "the set is unwritten", bench.entry.name)
    if poison.trigger is not None:
        given = untouched.x.clone()
        moved = poison.trigger(given)
        bench.require(torch.equal(given, untouched.x) and moved.shape == given.shape, "the trigger copies", moved.shape)


LAWS: Final[Laws] = {"poisons-what-it-says": _poisons_what_it_says, "leaves-the-set": _leaves_the_set}
