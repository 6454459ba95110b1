"""What the laws of a scenario are held against: small victims, and games on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from robustsuite.core.metric import Metrics
    from robustsuite.core.samples import Samples
    from robustsuite.plugins.registry import Entry
    from robustsuite.scenarios.case import Case
    from robustsuite.scenarios.victim import Victim
    from robustsuite.training.jobs import Job


class Bench(Protocol):
    """An attack under test with small victims to play on; the conformance kit has it.

    Attributes:
        entry: The attack as it is registered.
        options: Its options.
    """

    @property
    def entry(self) -> Entry:
        """The attack as it is registered."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Its options, which keep the checks quick."""
        ...

    def attack(self) -> Any:
        """The attack with these options."""
        ...

    def victim(
        self,
        n: int = 101,
        classes: int = 4,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        dtype: torch.dtype | None = None,
    ) -> Victim:
        """A trained network with its recipe, training data and trainer, and `n` test samples of 8 x 8 pixels."""
        ...

    def samples(self, n: int, classes: int = 4) -> Samples:
        """Training data of that kind."""
        ...

    def case(self, n: int, classes: int = 4) -> Case:
        """What is known of a cell with so many training samples, before anything is trained."""
        ...

    def train(self, job: Job) -> nn.Module:
        """The network of a job."""
        ...

    def game(
        self, victim: Victim, *, norm: str = "", scale: float = 1.0, rules: Mapping[str, Any] | None = None
    ) -> Any:
        """The rules that `play` goes by."""
        ...

    def play(
        self,
        victim: Victim,
        *,
        norm: str = "",
        scale: float = 1.0,
        seed: int = 0,
        rules: Mapping[str, Any] | None = None,
    ) -> Metrics:
        """One whole game of this attack.

        Args:
            victim: Who is attacked.
            norm: Of the ball, where there is one; empty for the first that the attack has.
            scale: How large the ball is, in units of one in which the victim is easily broken.
            seed: Keys every random draw.
            rules: Rules of the game beside the scenario's `quick` ones.
        """
        ...

    def radius(self, victim: Victim, *, norm: str = "", scale: float = 1.0) -> float:
        """The radius of that ball."""
        ...

    def require(self, holds: bool, law: str, seen: object) -> None:
        """Raise where a law does not hold.

        Raises:
            AssertionError: The law, and what was seen.
        """
        ...


Laws = Mapping[str, Callable[[Bench], None]]
"""What must hold of every attack that plays a scenario, by name."""
