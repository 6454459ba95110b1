"""Trainings beside the victim's own: what is trained, on which samples, from which seed, and for whom."""

from __future__ import annotations

from typing import Final, NamedTuple

from robustsuite.core import checks
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.training.recipe import Recipe

ADVERSARYS: Final = ("surrogate", "shadow")
"""Roles of networks that an adversary is given: they are trained before it is asked."""
ROLES: Final = ("victim", "twin", "poisoned", "evaluator", *ADVERSARYS)
_VICTIMS: Final = ("victim", "twin", "poisoned")  # with the victim's seed, so that they differ in their data alone


class Job(NamedTuple):
    """One training.

    Args:
        recipe: What is done.
        samples: What is trained on.
        seed: Of the training.
        role: One of `ROLES`.
    """

    recipe: Recipe
    samples: Samples
    seed: int
    role: str

    @classmethod
    def of(cls, role: str, recipe: Recipe, samples: Samples, seed: int, number: int = 0) -> Job:
        """The training of this role beside a victim that was trained from `seed`.

        A twin and a poisoned victim are trained from the victim's seed. Every other role, and every number of it, has a
        seed of its own: a judge that is trained with the victim's would share its start with the victim.

        Args:
            role: One of `ROLES`.
            recipe: What is done.
            samples: What is trained on.
            seed: Of the victim.
            number: Tells several of one role apart, from 0.

        Raises:
            RequestError: An unknown role.
        """
        checks.one_of("role", role, ROLES)
        own = seed if role in _VICTIMS else Streams(seed).child("job", role, number).key
        return cls(recipe, samples, own, role)


def repeat_seed(seed: int, repeat: int) -> int:
    """The seed of an independent repeat: the suite's for the first, else one that no neighbouring suite seed has.

    Example:
        >>> repeat_seed(7, 0), repeat_seed(7, 1) == repeat_seed(8, 0)
        (7, False)
    """
    return seed if repeat == 0 else Streams(seed).child("repeat", repeat).key
