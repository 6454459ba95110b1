"""Lightning's Fabric, without what it imports to no purpose."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_METRICS: Final = "torchmetrics"


def make_fabric(device: str, precision: str = "32") -> Fabric:
    """What sets up optimizers, backward passes, clipping and precision on one device.

    Args:
        device: Such as `cpu` or `cuda:1`.
        precision: `32`, `64`, or as Fabric calls it.
    """
    # It asks torchmetrics for its version alone, which takes as long to import as torch (with torchvision below it).
    with _by_version_only(_METRICS), contextlib.suppress(ImportError, AttributeError):
        import lightning_fabric  # noqa: F401
    from lightning_fabric import Fabric

    _load_optimizers()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its precision at every training
    kind, _, index = device.partition(":")
    modes = {"32": "32-true", "64": "64-true"}
    devices: Any = [int(index)] if index else 1
    return Fabric(accelerator=kind, devices=devices, precision=modes.get(precision, precision))


@cache
def _load_optimizers() -> None:
    """Have torch import what its optimizers import when the first is made: its compiler, which takes seconds."""
    import torch

    torch.optim.SGD([torch.zeros(1)]).zero_grad()


@contextmanager
def _by_version_only(package: str) -> Iterator[None]:
    """Whoever imports this package in the block finds its version and its parts, and runs nothing of it."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:
        yield
        return
    bare = importlib.util.module_from_spec(spec)
    vars(bare)["__version__"] = importlib.metadata.version(package)
    sys.modules[package] = bare
    try:
        yield
    finally:
        if sys.modules.get(package) is bare:
            del sys.modules[package]
