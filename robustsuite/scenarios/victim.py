"""Who is attacked: a deployed model with its data, and its answers to them before anybody attacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.core.deployed import Deployed, ask
from robustsuite.core.door import working
from robustsuite.core.errors import NotApplicableError
from robustsuite.core.isolation import untouched
from robustsuite.core.pristine import unasked
from robustsuite.core.rounding import inwards
from robustsuite.core.samples import Samples
from robustsuite.core.splits import RESERVED
from robustsuite.core.traits import Grid, Traits
from robustsuite.models.answers import judgeable
from robustsuite.scenarios.case import Case
from robustsuite.training.cache import Trainer
from robustsuite.training.context import PartOf, no_part
from robustsuite.training.recipe import Recipe
from robustsuite.training.trained import Trained

_TOGETHER: Final = 256  # samples of a batch
_REPEATED: Final = 64  # samples that are queried twice to see whether the model answers the same


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
        trainer: Trains recipes and jobs (cached); needed by games that train again.
        trained: What its own training gave.
        device: Where games run.
        part: The parts of the data set beside those; `adversary` are data that an adversary may know.
        seed: Of its training.
        traits: What adversarial inputs must keep; None for nothing.
        pristine: A copy of the model that is asked nothing; by default made at once. None where it has none.
    """

    model: Deployed
    test: Samples
    recipe: Recipe | None = None
    train: Samples | None = None
    trainer: Trainer | None = None
    trained: Trained | None = None
    device: str = "cpu"
    part: PartOf = no_part
    seed: int = 0
    traits: Traits | None = None
    pristine: Deployed | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.pristine is None:
            object.__setattr__(self, "pristine", unasked(self.model))

    def case(self) -> Case:
        """What is known of it beside its model.

        Raises:
            NotApplicableError: Its training data are not.
        """
        return Case(self.need("train", "the game is about them"), self.recipe, self.part, self.seed, self.test)

    @cached_property
    def dtype(self) -> torch.dtype:
        """In which inputs are computed: the model's own floating dtype, but at least float32."""
        return working(self.model.dtype)

    def given(self, x: Tensor) -> Tensor:
        """Inputs as the network is given them, in the dtype in which they are computed."""
        given, numbers = x.to(self.dtype), self.numbers
        if numbers is None or self.test.whole is not None:
            return given
        snapped = x.to(numbers).to(self.dtype)
        low, high = self.test.bounds
        out = (snapped < low) | (snapped > high)
        if not out.any():
            return snapped
        middle = torch.full_like(given, (low + high) / 2).to(numbers).to(self.dtype)
        return torch.where(out, inwards(given, middle, numbers), snapped)

    @property
    def numbers(self) -> torch.dtype | None:
        """The dtype whose numbers are all that reaches the network; None where it computes inputs as they are."""
        if self.test.whole is not None:
            return self.test.whole
        return None if self.model.dtype == self.dtype else self.model.dtype

    @property
    def grid(self) -> Grid | None:
        """What adversarial inputs are rounded to on their way to the network; None where they stay as they are."""
        return self.numbers if self.traits is None else self.traits

    @cached_property
    def clean(self) -> CleanAnswers:
        """Answers to the test samples, computed once and shared by every game on this victim."""
        with untouched(self.model.network), torch.no_grad():
            parts = [self._answer(batch.x) for batch in self.test.batches(_TOGETHER, self.device)]
            logits = torch.cat([part[3] for part in parts])
            judgeable(logits, self.test.classes)
            other = min(17, max(1, len(self.test) - 1))
            # An answer that depends on the others of its batch is the same again in the same batch.
            same = self._repeats(logits[:_REPEATED], other) or self._repeats(logits[:_TOGETHER], _TOGETHER)
        prediction, rejected, confidence = (torch.cat([part[i] for part in parts]) for i in range(3))
        return CleanAnswers(prediction, rejected, confidence, same)

    def _repeats(self, logits: Tensor, size: int) -> bool:
        """Whether the first samples get these logits again, in batches of this size."""
        few = self.test.take(slice(0, len(logits)))
        again = torch.cat([self._answer(batch.x)[3] for batch in few.batches(size, self.device)])
        return float((logits - again).abs().max()) <= 1e-4 * max(1.0, float(logits.abs().max()))

    @property
    def correct(self) -> Tensor:
        """Which test samples the deployed model accepts and gets right; bool `(N,)`."""
        return (self.clean.prediction == self.test.y) & ~self.clean.rejected

    def _answer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        whole, x = self.model.whole, self.given(x)
        logits, rejected = ask(self.model, x if whole is None else x.to(whole), strict=True)
        confidence, prediction = logits.softmax(1).max(1)
        return prediction.cpu(), rejected.cpu(), confidence.float().cpu(), logits.double().cpu()

    def has(self, name: str) -> Any:
        """The named field or part of the data set; None where it is not there."""
        return self.part(name) if name in RESERVED else getattr(self, name)

    def need(self, name: str, purpose: str) -> Any:
        """The named field or part of the data set, or a NotApplicableError that says what it is for."""
        value = self.has(name)
        if value is None:
            raise NotApplicableError(f"expected a victim with {name}, got {name}=None; {purpose}", name=name)
        return value
