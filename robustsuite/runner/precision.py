"""A suite in precisions that its device has units for: decided once, where the run is planned."""

from __future__ import annotations

from dataclasses import replace

from robustsuite.suite.schema import Suite
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
        training, note = settled(suite.training_for(use), device)
        if note:
            notes[use.label] = note
        if note and "precision" in use.training:
            use = replace(use, training={**use.training, "precision": training.precision})
        uses.append(use)
    training, _ = settled(suite.training, device)
    return suite.model_copy(update={"training": training, "defenses": tuple(uses)}), notes
