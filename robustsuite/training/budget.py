"""Trainings that an adversary may do itself, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from robustsuite.core import checks
from robustsuite.core.errors import BudgetError
from robustsuite.core.samples import Samples
from robustsuite.training.jobs import Job
from robustsuite.training.recipe import Recipe

if TYPE_CHECKING:
    from robustsuite.training.cache import Trainer


class TrainingBudget:
    """Lets an adversary train, as many times as a game allows; a view holds it.

    Each training has a seed of its own, which is never the victim's, and is kept like any other: the same adversary
    finds the same networks. The judge reads `used` for the record (`Metrics(cost={"trainings": ...})`).

    Args:
        trainer: Trains.
        seed: Of the victim.
        most: How many trainings there are, at least 0.
    """

    def __init__(self, trainer: Trainer, seed: int, most: int) -> None:
        self._trainer, self._seed = trainer, seed
        self.most, self.used = checks.integer("most", most, low=0), 0

    def __call__(self, recipe: Recipe, samples: Samples) -> nn.Module:
        """A network in eval mode, a copy, trained by this recipe on a copy of these samples.

        Raises:
            BudgetError: All trainings are used.
        """
        if self.used >= self.most:
            raise BudgetError(
                f"expected at most {self.most} trainings by the adversary, got one more; train fewer networks, or "
                f"raise the game's budget"
            )
        self.used += 1
        job = Job.of("surrogate", recipe, samples.copy(), self._seed, number=self.used)
        return self._trainer.job(job).model.network.eval()
