"""Robustness and security evaluation for PyTorch models: train, defend, attack, judge, compare."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustsuite.version import __version__

_LAZY = {
    "Ball": "robustsuite.threat",
    "Threat": "robustsuite.threat",
    "Samples": "robustsuite.data.samples",
    "Streams": "robustsuite.streams",
    "Recipe": "robustsuite.training.recipe",
    "Training": "robustsuite.training.settings",
    "wrap": "robustsuite.models.wrap",
    "register": "robustsuite.registry",
    "attack": "robustsuite.api.plugins",
    "defense": "robustsuite.api.plugins",
    "evaluate": "robustsuite.api.evaluate",
    "load_data": "robustsuite.data.catalogue",
    "perturb": "robustsuite.api.perturb",
    "run": "robustsuite.api.run",
    "Report": "robustsuite.report.report",
    "compare": "robustsuite.report.compare",
    "RobustsuiteError": "robustsuite.errors",
    "RequestError": "robustsuite.errors",
    "ModelError": "robustsuite.errors",
}

if TYPE_CHECKING:
    from robustsuite.api.evaluate import evaluate
    from robustsuite.api.perturb import perturb
    from robustsuite.api.plugins import attack, defense
    from robustsuite.api.run import run
    from robustsuite.data.catalogue import load_data
    from robustsuite.data.samples import Samples
    from robustsuite.errors import ModelError, RequestError, RobustsuiteError
    from robustsuite.models.wrap import wrap
    from robustsuite.registry import register
    from robustsuite.report.compare import compare
    from robustsuite.report.report import Report
    from robustsuite.streams import Streams
    from robustsuite.threat import Ball, Threat
    from robustsuite.training.recipe import Recipe
    from robustsuite.training.settings import Training

__all__ = [
    "Ball",
    "ModelError",
    "Recipe",
    "Report",
    "RequestError",
    "RobustsuiteError",
    "Samples",
    "Streams",
    "Threat",
    "Training",
    "__version__",
    "attack",
    "compare",
    "defense",
    "evaluate",
    "load_data",
    "perturb",
    "register",
    "run",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that importing the package imports no torch."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'robustsuite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
