"""Robustness and security evaluation for PyTorch models: train, defend, attack, judge, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily
from robustsuite.core.version import __version__

_LAZY = {
    "Ball": "robustsuite.core.ball",
    "Threat": "robustsuite.core.ball",
    "Samples": "robustsuite.core.samples",
    "Streams": "robustsuite.core.streams",
    "Recipe": "robustsuite.training.recipe",
    "TimeBudget": "robustsuite.evaluation.clock",
    "Training": "robustsuite.training.settings",
    "wrap": "robustsuite.models.wrap",
    "register": "robustsuite.plugins.registry",
    "attack": "robustsuite.plugins.by_name",
    "defense": "robustsuite.plugins.by_name",
    "evaluate": "robustsuite.api.evaluate",
    "find_batch_size": "robustsuite.training.finders",
    "find_lr": "robustsuite.training.finders",
    "load_data": "robustsuite.data.catalogue",
    "perturb": "robustsuite.api.perturb",
    "run": "robustsuite.api.run",
    "Report": "robustsuite.report.report",
    "compare": "robustsuite.results.compare",
    "RobustsuiteError": "robustsuite.core.errors",
    "RequestError": "robustsuite.core.errors",
    "ModelError": "robustsuite.core.errors",
}

if TYPE_CHECKING:
    from robustsuite.api.evaluate import evaluate
    from robustsuite.api.perturb import perturb
    from robustsuite.api.run import run
    from robustsuite.core.ball import Ball, Threat
    from robustsuite.core.errors import ModelError, RequestError, RobustsuiteError
    from robustsuite.core.samples import Samples
    from robustsuite.core.streams import Streams
    from robustsuite.data.catalogue import load_data
    from robustsuite.evaluation.clock import TimeBudget
    from robustsuite.models.wrap import wrap
    from robustsuite.plugins.by_name import attack, defense
    from robustsuite.plugins.registry import register
    from robustsuite.report.report import Report
    from robustsuite.results.compare import compare
    from robustsuite.training.finders import find_batch_size, find_lr
    from robustsuite.training.recipe import Recipe
    from robustsuite.training.settings import Training
else:
    __getattr__ = lazily(__name__, _LAZY)

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
    "TimeBudget",
    "Training",
    "__version__",
    "attack",
    "compare",
    "defense",
    "evaluate",
    "find_batch_size",
    "find_lr",
    "load_data",
    "perturb",
    "register",
    "run",
    "wrap",
]


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
