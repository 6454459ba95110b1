"""How a model comes to be: `Recipe` says what, `fit` does it, the cache remembers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily

if TYPE_CHECKING:
    from robustsuite.training.adversarial import AdversarialObjective
    from robustsuite.training.budget import TrainingBudget
    from robustsuite.training.cache import Trainer
    from robustsuite.training.context import Context, Produced
    from robustsuite.training.jobs import Job
    from robustsuite.training.parts import (
        Augment,
        Build,
        CleanLoss,
        Objective,
        Prepare,
        Repair,
        Serve,
        Step,
        Updater,
        clean_validation,
        training_loss,
    )
    from robustsuite.training.recipe import GradientDescent, Recipe, Update
    from robustsuite.training.settings import Training
    from robustsuite.training.trained import Trained
else:
    __getattr__ = lazily(
        __name__,
        {
            "AdversarialObjective": ".adversarial",
            "Augment": ".parts",
            "Build": ".parts",
            "CleanLoss": ".parts",
            "Context": ".context",
            "GradientDescent": ".recipe",
            "Job": ".jobs",
            "Objective": ".parts",
            "Prepare": ".parts",
            "Produced": ".context",
            "Recipe": ".recipe",
            "Repair": ".parts",
            "Serve": ".parts",
            "Step": ".parts",
            "Trained": ".trained",
            "Trainer": ".cache",
            "Training": ".settings",
            "TrainingBudget": ".budget",
            "Update": ".recipe",
            "Updater": ".parts",
            "clean_validation": ".parts",
            "training_loss": ".parts",
        },
    )

__all__ = [
    "AdversarialObjective",
    "Augment",
    "Build",
    "CleanLoss",
    "Context",
    "GradientDescent",
    "Job",
    "Objective",
    "Prepare",
    "Produced",
    "Recipe",
    "Repair",
    "Serve",
    "Step",
    "Trained",
    "Trainer",
    "Training",
    "TrainingBudget",
    "Update",
    "Updater",
    "clean_validation",
    "training_loss",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
