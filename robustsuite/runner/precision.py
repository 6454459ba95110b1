"""A suite in precisions that its device has units for: decided once, where the run is planned."""

from __future__ import annotations

from dataclasses import replace

from robustsuite.suite.schema import Suite
from robustsuite.training.own import OwnTraining
from robustsuite.training.precision import settled


def settled_suite(suite: Suite, device: str) -> tuple[Suite, dict[str, str]]:
    """The suite as this device will train it, and what to say of the trainings that it changes.

    Args:
        suite: As asked for.
        device: Where it will run.

    Returns:
        The suite, equal where nothing had to change, and notes by the labels of the defences that they are about.
    """
    notes: dict[str, str] = {}
    uses = []
    for use in suite.defenses:
        asked = suite.training_for(use)
        if isinstance(asked, OwnTraining):  # its precision is its own affair
            uses.append(use)
            continue
        training, note = settled(asked, device)
        if note:
            notes[use.label] = note
        if note and "precision" in use.training:
            use = replace(use, training={**use.training, "precision": training.precision})
        uses.append(use)
    shared = suite.training if isinstance(suite.training, OwnTraining) else settled(suite.training, device)[0]
    return suite.model_copy(update={"training": shared, "defenses": tuple(uses)}), notes
