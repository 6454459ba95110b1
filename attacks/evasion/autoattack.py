"""AutoAttack: the ensemble by which robustness is compared, in its three versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.access import WhiteBox
from robustsuite.attacks.evasion.apgd import APGD
from robustsuite.attacks.evasion.square import Square, answers_of
from robustsuite.core import Streams, checks, losses
from robustsuite.plugins import register, registry
from robustsuite.scenarios.protocol import Terms

VERSIONS: Final = ("standard", "plus", "rand")
_TARGETS: Final = 9
_TARGETS_L1: Final = 5
_RESTARTS: Final = 5
_DRAWS: Final = 20


class Stage(NamedTuple):
    """One attack of the ensemble: its name with what it was given, and what plays it."""

    name: str
    play: Callable[[WhiteBox, Streams], Tensor]


@register.attack(
    "autoattack", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022")
)
@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """Play Auto-PGD, targeted Auto-PGD, targeted FAB and Square, each on the samples that those before did not break.

    The *standard* version is Auto-PGD on the cross-entropy, on the targeted DLR loss for 9 targets, FAB for 9 targets
    and 5,000 queries of Square; *plus* adds untargeted runs with 5 restarts; *rand* is Auto-PGD on the cross-entropy
    and the DLR loss of answers averaged over 20 draws, for models that answer at random. With fewer than 10 classes
    there are as many targets as wrong classes, and with fewer than 4 the margin takes the place of the DLR loss. The
    ensemble that was played stands in the record's notes.

    Args:
        version: `standard`, `plus` or `rand`.
        steps: Steps of each run of Auto-PGD and FAB, at least 1; 100 in the paper.
        queries: Queries of Square, at least 1; 5,000 in the paper.
        targets: Classes that targeted runs pursue, at least 1; by default 9 (Auto-PGD in l1: 5), or as many as there
            are wrong classes.

    Raises:
        RequestError: More targets than there are wrong classes.

    References:
        Croce and Hein, ICML 2020, arXiv:2003.01690; in l1: Croce and Hein, ICML 2021, arXiv:2103.01208.

    Example:
        >>> AutoAttack(version="rand").steps
        100
    """

    version: str = "standard"
    steps: int = 100
    queries: int = 5000
    targets: int | None = None

    def __post_init__(self) -> None:
        checks.one_of("version", self.version, VERSIONS)
        checks.integer("steps", self.steps, low=1)
        checks.integer("queries", self.queries, low=1)
        if self.targets is not None:
            checks.integer("targets", self.targets, low=1)

    def check(self, terms: Terms) -> None:
        """Refuse more targets than there are wrong classes."""
        checks.targets("targets", self.targets or 0, terms.classes)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        stages = list(self.stages(view))
        if view.ball.radius == 0:
            return view.x.clone()
        view.meter.notes[f"autoattack {self.version}: {', '.join(stage.name for stage in stages)}"] = None
        if self.version == "rand":
            view = replace(view, model=Expected(view.model, _DRAWS), engine=None)
        return in_turn(view, stages, streams)

    def stages(self, view: WhiteBox) -> Iterator[Stage]:
        """The attacks that this version plays on such a view, in order."""
        l1, aimed = view.ball.norm == "l1", view.target is not None
        many = _RESTARTS if l1 or self.version == "plus" else 1
        yield self._climb("cross-entropy", view, restarts=1 if self.version == "rand" else many)
        if self.version != "standard" or aimed:
            yield self._climb("dlr", view, restarts=1 if self.version == "rand" else many)
        if self.version == "rand":
            return
        if not aimed:
            yield self._climb("dlr", view, targets=self._count(view, _TARGETS_L1 if l1 else _TARGETS))
        if self.version == "plus" or aimed:
            restarts = _RESTARTS if self.version == "plus" else 1
            yield self._fab("fab" + (f" ({restarts} restarts)" if restarts > 1 else ""), restarts=restarts)
        if not aimed:
            count = self._count(view, _TARGETS)
            yield self._fab(f"fab-t ({count} targets)", targets=count)
        square = Square(queries=self.queries, rescaled=False)
        yield Stage(f"square ({self.queries} queries)", lambda seen, streams: in_the_open(square, seen, streams))

    def _fab(self, name: str, **options: int) -> Stage:
        """FAB by its name in the registry, where it may be replaced as any attack."""
        return Stage(name, registry.attacks.get("fab").make({"steps": self.steps, **options}))

    def _count(self, view: WhiteBox, most: int) -> int:
        if self.targets is None:
            return min(most, view.classes - 1)
        return checks.targets("targets", self.targets, view.classes)

    def _climb(self, loss: str, view: WhiteBox, *, restarts: int = 1, targets: int = 0) -> Stage:
        short = {"cross-entropy": "ce"}.get(loss, losses.resolve(loss, view.classes))
        more = [f"{targets} targets, {short}"] if targets else []
        more += [f"{restarts} restarts"] if restarts > 1 else []
        name = f"apgd-{'t' if targets else short}" + (f" ({', '.join(more)})" if more else "")
        return Stage(name, APGD(steps=self.steps, restarts=restarts, loss=loss, targets=targets))


def in_turn(view: WhiteBox, stages: list[Stage], streams: Streams) -> Tensor:
    """Play one attack after the other, each on the samples that are not broken yet."""
    found = view.x.clone()
    rows = torch.arange(len(found), device=found.device)
    for place, stage in enumerate(stages):
        if len(rows) == 0:
            break
        moved = stage.play(view.take(rows), streams.child(place, stage.name))
        found[rows] = moved
        rows = rows[~view.broken(moved, rows)]
    return found


def in_the_open(square: Square, view: WhiteBox, streams: Streams) -> Tensor:
    """Square on a model whose logits are seen, so that no softmax rounds them away."""
    found: Tensor = square.search(view, answers_of(view), streams).x
    return found


class Expected(nn.Module):
    """The logarithm of a random model's mean probabilities over several draws.

    Args:
        inner: Raw inputs to logits.
        draws: How often it is asked, at least 1.
    """

    def __init__(self, inner: nn.Module, draws: int) -> None:
        super().__init__()
        self.inner, self._draws = inner, draws

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs `(n, …)` to `(n, classes)`."""
        drawn = torch.stack([self.inner(x).log_softmax(1) for _ in range(self._draws)])
        mean: Tensor = drawn.logsumexp(0)
        return mean
