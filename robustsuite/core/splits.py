"""`Splits`: a data set in parts that have no sample in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.samples import Samples

RESERVED: Final = ("trusted", "calibration", "judge", "adversary")
"""Parts beside `train` and `test`, in the order in which they are taken."""
PARTS: Final = ("train", *RESERVED, "test")
PURPOSES: Final = {
    "trusted": "clean samples out of every poisoner's reach, for repairs",
    "calibration": "samples that thresholds of detectors stand on",
    "judge": "the judge's half of the population, for evaluators",
    "adversary": "the adversary's half of the population, for surrogates, shadow models and priors",
}


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set in parts: no two samples of different parts have one id.

    Args:
        name: Name for records and tables.
        train: What the defender trains on and a poisoner may have touched; validation is a share of it.
        test: What is judged.
        class_names: One name per class, in label order, for figures.
        beside: Any of `RESERVED` by name, as samples or as what reads them on demand; a part that is not there is
            empty. `trusted` is clean and out of every poisoner's reach, thresholds are chosen on `calibration`,
            `judge` and `adversary` are the two halves of the population, for evaluators and for surrogates.

    Raises:
        RequestError: An unknown part.

    Example:
        >>> import torch
        >>> some = Samples(torch.zeros(2, 1), torch.tensor([0, 1]), classes=2)
        >>> splits = Splits("mine", some, some, beside={"trusted": some})
        >>> splits.part("trusted") is some, splits.part("calibration")
        (True, None)
    """

    name: str
    train: Samples
    test: Samples
    class_names: tuple[str, ...] = ()
    beside: Mapping[str, Samples | Callable[[], Samples]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.beside:
            checks.one_of("beside", name, RESERVED)
        object.__setattr__(self, "beside", dict(self.beside))

    def part(self, name: str) -> Samples | None:
        """The samples of this part, read when they are first asked for; None where it is empty.

        Raises:
            RequestError: No such part, or data that cannot be read.
        """
        checks.one_of("part", name, PARTS)
        if name in ("train", "test"):
            found: Samples = getattr(self, name)
            return found
        given = self.beside.get(name)
        if callable(given):
            given = given()
            self.beside[name] = given  # type: ignore[index]  # a dict of its own, made above
        return given

    @property
    def at_hand(self) -> tuple[Samples, ...]:
        """The samples of every part that was read so far."""
        return (self.train, self.test, *(given for given in self.beside.values() if isinstance(given, Samples)))

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: every part, read."""
        return {**vars(self), "beside": {name: self.part(name) for name in self.beside}}
