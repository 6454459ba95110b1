"""What a deployed model answers: logits, and whether it rejects the input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustsuite.core.deadline import pause
from robustsuite.core.door import Door, as_logits, labels_of
from robustsuite.core.errors import ModelError, RobustsuiteError
from robustsuite.core.isolation import out_of_memory


class Outputs(NamedTuple):
    """`logits (N, classes)` and `rejected (N,)` bool; a rejected input has no verdict."""

    logits: Tensor
    rejected: Tensor

    def labels(self) -> Tensor:
        """Predicted labels `(N,)`; the number of classes where the logits are not finite."""
        return labels_of(self.logits)


class Deployed(ABC):
    """A model as users and adversaries meet it.

    Subclasses say what they answer, which network they are built on, and what to differentiate through.
    """

    #: Whether the same input may get another answer the next time.
    random: bool = False
    #: Whether `surrogate` shows an adversary everything that decides the answer.
    fully_differentiable: bool = True
    #: Flags of what had to be found out about it, because nobody declared it.
    doubts: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, x: Tensor) -> Outputs:
        """Answer a batch of raw inputs `(N, …)`."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network inside, whose state must survive every game unchanged."""

    def surrogate(self) -> nn.Module:
        """A differentiable module from raw inputs to logits; by default the network itself."""
        return self.network

    @property
    def dtype(self) -> torch.dtype:
        """What its network is given."""
        return Door(self.network).dtype

    @property
    def whole(self) -> torch.dtype | None:
        """The dtype of integers that it is given where samples hold them; None for floats of the same values."""
        return None

    @property
    def notes(self) -> Mapping[str, None]:
        """What had to be done so that it answers, as keys; for the record."""
        inside = self.surrogate()
        return inside.notes if isinstance(inside, Door) else {}

    def parameter_count(self) -> int:
        """Number of trainable and frozen parameters."""
        return sum(p.numel() for p in self.network.parameters())


class Served(Deployed):
    """A network that answers everything, called through its door.

    Args:
        network: Raw inputs to logits, or its door.
        doubts: What had to be found out about it, as flags.
    """

    def __init__(self, network: nn.Module, doubts: tuple[str, ...] = ()) -> None:
        self._door, self.doubts = door(network), doubts

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._door.network

    @property
    def dtype(self) -> torch.dtype:
        """What the network is given."""
        return self._door.dtype

    @property
    def whole(self) -> torch.dtype | None:
        """The dtype of integers that its network was seen to take."""
        return self._door.whole

    def surrogate(self) -> nn.Module:
        """The network, called through its door."""
        return self._door

    def __call__(self, x: Tensor) -> Outputs:
        """Logits of the network; nothing is rejected."""
        return Outputs(self._door(x), torch.zeros(len(x), dtype=torch.bool, device=x.device))


def door(network: nn.Module) -> Door:
    """The door of a network; itself where it is one."""
    return network if isinstance(network, Door) else Door(network)


def ask(model: Deployed, x: Tensor, *, strict: bool = False) -> Outputs:
    """Answers to a batch; out of memory, to one half after the other. The model is shown a copy.

    A served network copies at its own door, so its input cannot be written to.

    Args:
        model: The deployed model.
        x: Raw inputs `(N, …)` in the model's dtype; unwritten, whatever the model does.
        strict: Whether a model that writes to what it is shown is refused.

    Raises:
        ModelError: It writes to its input, where that is refused.
    """
    try:
        if isinstance(model, Served):
            return model(x)
        pause()
        given = x.clone()
        logits, rejected = model(given)
        answer = Outputs(as_logits(logits, len(x)), rejected)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(x) < 2:
            raise
    else:
        if strict and not torch.equal(given, x):
            raise ModelError(
                "expected a model that leaves its input as it is, got one that writes to it; write x = x - mean "
                "instead of x.sub_(mean), or let rs.wrap(model, mean=..., std=...) normalise"
            )
        return answer
    # Outside of the handler, whose traceback would keep the activations alive.
    given = x[:0]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    parts = [ask(model, half, strict=strict) for half in (x[: len(x) // 2], x[len(x) // 2 :])]
    return Outputs(torch.cat([part.logits for part in parts]), torch.cat([part.rejected for part in parts]))


@dataclass
class Raised:
    """On which inputs a model raised in place of an answer.

    Args:
        alone: How often, when it was asked about one input.
        together: How often, when it was asked about several that it answers one by one.
        first: What it raised first, in a few words.
    """

    alone: int = 0
    together: int = 0
    first: str = ""

    def __bool__(self) -> bool:
        """Whether there were any."""
        return self.alone + self.together > 0

    def note(self, error: Exception) -> None:
        """Keep what it raised, where it is the first."""
        cause = error.__cause__ or error
        self.first = self.first or f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause) else ''}"

    def told(self) -> str:
        """What was raised, and on what."""
        alone = f"when it was asked about one perturbed input ({self.alone} times)" if self.alone else ""
        together = f"about several that it answers one by one ({self.together} times)" if self.together else ""
        return f"the model raised {self.first}, {' and '.join(part for part in (alone, together) if part)}"


def ask_each(model: Deployed, x: Tensor, classes: int, raised: Raised) -> Outputs:
    """As `ask`; where the model raises, smaller batches are asked, and an input that it raises on alone is rejected.

    Args:
        model: The deployed model; one that answers clean inputs, so that raising says something of these.
        x: As for `ask`.
        classes: Number of classes.
        raised: Where it is counted.
    """
    try:
        return ask(model, x)
    except Exception as error:  # a stranger's model may raise anything
        ours = isinstance(error, RobustsuiteError) and not isinstance(error, ModelError)
        if ours or out_of_memory(error):
            raise
        raised.note(error)
    if len(x) < 2:
        raised.alone += len(x)
        nothing = torch.full((len(x), classes), torch.nan, device=x.device)
        return Outputs(nothing, torch.ones(len(x), dtype=torch.bool, device=x.device))
    before = (raised.alone, raised.together)
    parts = [ask_each(model, half, classes, raised) for half in (x[: len(x) // 2], x[len(x) // 2 :])]
    if before == (raised.alone, raised.together):
        raised.together += 1
    return Outputs(torch.cat([part.logits for part in parts]), torch.cat([part.rejected for part in parts]))
