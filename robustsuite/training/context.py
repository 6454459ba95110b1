"""What a part of a recipe that prepares, repairs or serves is given, and what it may return beside its value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.core.errors import NotApplicableError, RequestError
from robustsuite.core.isolation import differentiable, seeded
from robustsuite.core.samples import Samples
from robustsuite.core.splits import PURPOSES, RESERVED
from robustsuite.core.streams import Streams
from robustsuite.training.settings import Training

T = TypeVar("T")
PartOf = Callable[[str], Samples | None]
"""Name of a part of the data set to its samples; None where it is empty."""


def no_part(name: str) -> None:  # noqa: ARG001
    """The parts of a data set of which only training samples are known."""
    return


class Train(Protocol):
    """Trains another network as the victim is trained."""

    def __call__(self, samples: Samples, *, build: Any = None, training: Training | None = None) -> nn.Module:
        """A network in eval mode, of the victim's recipe without what prepares, repairs and serves.

        The same training is done once and kept. Its seed is not that of the victim.

        Args:
            samples: What to train on.
            build: What builds the network; None for the victim's.
            training: Settings; None for the victim's.
        """
        ...


@dataclass(frozen=True)
class Produced(Generic[T]):
    """A value with what the record should say of how it came to be.

    Args:
        value: The samples, the network or the deployed model.
        facts: JSON values.
        flags: Doubts.
        ids: Ids of the samples that `scores` are about `(n,)`.
        scores: One figure per id, by name `(n,)`.

    Raises:
        RequestError: Scores that are not one per id.
    """

    value: T
    facts: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    ids: Tensor | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.scores.items():
            if self.ids is None or column.shape != self.ids.shape:
                got = tuple(column.shape), None if self.ids is None else tuple(self.ids.shape)
                raise checks.fail("one score per id", f"scores[{name!r}]", got, "give ids, and as many scores")


@dataclass(frozen=True, eq=False)
class Context:
    """What a part of a recipe may use beside the value that it is given.

    Args:
        streams: Random streams of this part alone; torch's global state is seeded by them too.
        device: Where networks are.
        classes: How many there are.
        shape: Of one input.
        bounds: Least and greatest raw input value.
        parts: The parts of the data set that it declared, as copies.
        train: Trains another network.
    """

    streams: Streams
    device: str
    classes: int
    shape: tuple[int, ...]
    bounds: tuple[float, float]
    parts: Mapping[str, Samples]
    train: Train

    def part(self, name: str) -> Samples:
        """The samples of a part that was declared.

        Raises:
            RequestError: It was not.
        """
        if name not in self.parts:
            remedy = f"write `needs = ({name!r},)` into the class of what asks for it"
            raise checks.fail("a part that was declared", "part", name, remedy)
        return self.parts[name]


def needs(parts: Iterable[Any]) -> tuple[str, ...]:
    """Parts of a data set that these parts of a recipe declare in `needs`, each once.

    Raises:
        RequestError: A part that no data set has.
    """
    found = {name: None for part in parts for name in getattr(part, "needs", ())}
    for name in found:
        checks.one_of("needs", name, RESERVED)
    return tuple(found)


def read_parts(wanted: Any, part: PartOf) -> dict[str, Samples]:
    """Copies of the parts of the data set that this part of a recipe declares.

    Raises:
        NotApplicableError: One is empty.
    """
    found = {}
    for name in needs([wanted]):
        samples = part(name)
        if samples is None:
            raise NotApplicableError(
                f"expected {PURPOSES[name]}, got an empty part {name} of the data set, which {named(wanted)} needs",
                name=name,
            )
        found[name] = samples.copy()
    return found


def stage(part: Any, value: T, kind: type[T], context: Context) -> Produced[T]:
    """What a part of a recipe makes of this value: seeded, differentiable, and of the right kind.

    Raises:
        RequestError: It returned something else.
    """
    with differentiable(), seeded(context.streams.key):
        made = part(value, context)
    made = made if isinstance(made, Produced) else Produced(made)
    if not isinstance(made.value, kind):
        got = f"{named(part)} returned {type(made.value).__name__}"
        raise RequestError(f"expected {kind.__name__} or Produced({kind.__name__}), got {got}; mend the plug-in")
    return made


def named(part: object) -> str:
    """What records call a part of a recipe: its defence's name where it holds or is one, else its class's."""
    held = getattr(part, "rules", part)
    return str(getattr(type(held), "plugin_name", type(held).__name__))
