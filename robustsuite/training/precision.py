"""The precision of a training, where the device has units for it."""

from __future__ import annotations

from typing import Final

import torch

from robustsuite.core.processor import has_units
from robustsuite.training.settings import Training

_MIXED: Final = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def settled(training: Training, device: str) -> tuple[Training, str]:
    """The settings in a precision that the device has units for, and what a record should say of the change.

    Mixed precision is there to save time. Without units for the short type it costs ten times as much as float32, which
    is taken then. A CPU has no 16-mixed: Fabric computes in bfloat16 there and scales no losses, so `bf16-mixed` is
    taken where there are units for that. What trains is what the settings say afterwards, so a key or a record made of
    them tells the truth.

    Args:
        training: As asked for.
        device: Where it will run.

    Returns:
        The settings and a note, empty where nothing changed.
    """
    asked = training.precision
    if asked not in _MIXED:
        return training, ""
    on_cpu = asked == "16-mixed" and device.partition(":")[0] == "cpu"
    got = "bf16-mixed" if on_cpu else asked
    if not has_units(_MIXED[got], device):
        name = str(_MIXED[asked]).removeprefix("torch.")
        told = f"trained in float32 and not in precision {asked}: this {device} has no units for {name}"
        return training.override({"precision": "32"}), told
    if got == asked:
        return training, ""
    return training.override({"precision": got}), f"trained in precision {got} and not {asked}, which a CPU has not"
