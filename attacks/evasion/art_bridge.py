"""Between our views and ART's estimators: the counted model, the oracle, float32 and the ball."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from robustsuite.access import Inputs, LabelOracle, Oracle, ScoreOracle
from robustsuite.core import BudgetError
from robustsuite.core.door import labels_of
from robustsuite.core.isolation import seeded

_BEYOND: Final = 1.001


class SinglePrecision(nn.Module):
    """The model as ART meets it: float32 in, float32 out."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self._dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32 for float32 inputs."""
        logits: Tensor = self.inner(x.to(self._dtype))
        return logits.float()


class Asker:
    """What ART calls for predictions: asks the oracle and remembers the nearest success within the ball."""

    def __init__(self, view: Oracle) -> None:
        self._view = view
        self._nearest = float("inf")
        self._best: Tensor | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scores `(n, classes)`, one-hot where the oracle gives labels.

        Raises:
            BudgetError: The sample's queries are spent, but for the last one; those that were left have been asked.
        """
        points = lift(self._view, x)
        left = self._view.remaining(0) - 1
        if left < len(points):
            if left > 0:
                self._answer(points[: int(left)])
            raise BudgetError(f"expected at most {left:g} more queries, got {len(points)}; the best input is kept")
        return self._answer(points)

    def settle(self) -> Tensor | None:
        """The input to return, or None; the last query asks whether a point just beyond the nearest success holds.

        Attacks on decisions end on the decision boundary, where rounding in another batch would turn the verdict.
        """
        if self._best is None or self._view.remaining(0) < 1:
            return self._best
        x = self._view.x
        self._nearest = float("inf")  # so that the point beyond replaces the nearest one if it succeeds
        self._answer(self._view.ball.project(x + (self._best - x) * _BEYOND, x))
        return self._best

    def _answer(self, points: Tensor) -> np.ndarray:
        view, rows = self._view, torch.zeros(len(points), dtype=torch.int64, device=points.device)
        # A rejection is no success, and shown to ART as the true label; an answer without a label as a wrong one.
        true, wrong = view.y[rows], (view.y[rows] + 1) % view.classes
        if isinstance(view, LabelOracle):
            labels = view.labels(points, rows)
            self._remember(points, view.goal_reached(labels, rows) & (labels >= 0))
            labels = torch.where(labels < 0, true, torch.where(labels < view.classes, labels, wrong))
            scores = torch.nn.functional.one_hot(labels, view.classes).float()
        elif isinstance(view, ScoreOracle):
            scores = view.scores(points, rows)
            labels, rejected = labels_of(scores), scores.sum(1) == 0
            self._remember(points, view.goal_reached(labels, rows) & ~rejected)
            shown = torch.nn.functional.one_hot(torch.where(rejected, true, wrong), scores.shape[1]).to(scores.dtype)
            scores = torch.where((rejected | (labels == scores.shape[1]))[:, None], shown, scores)
        return scores[:, : view.classes].cpu().numpy().astype(np.float32)

    def _remember(self, points: Tensor, reached: Tensor) -> None:
        centre = self._view.x.expand_as(points)
        distance = self._view.ball.distance(points, centre)
        distance[~(reached & self._view.ball.contains(points, centre))] = float("inf")
        least = int(distance.argmin())
        if float(distance[least]) < self._nearest:
            self._nearest = float(distance[least])
            self._best = points[least : least + 1].clone()


def lift(view: Inputs, x: np.ndarray) -> Tensor:
    """ART's float32 inputs in the view's dtype and on its device; where ART changed nothing, exactly the original."""
    moved = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(view.x.device)
    if view.x.dtype == torch.float32:
        return moved
    lifted = view.x + (moved - view.x.float()).to(view.x.dtype)
    return lifted if view.ball.bounds is None else lifted.clamp(*view.ball.bounds)


def confine(view: Inputs, moved: Tensor) -> Tensor:
    """Rows in the ball as they are; those beyond it by float32 rounding projected; others as the untouched input."""
    near = view.ball.contains(moved.float(), view.x.float())
    inside = view.ball.contains(moved, view.x)
    shape = (-1, *([1] * (moved.dim() - 1)))
    rounded = torch.where(near.reshape(shape), view.ball.project(moved, view.x), view.x)
    return torch.where(inside.reshape(shape), moved, rounded).detach()


class _RandomState(np.random.RandomState):
    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**31) if seed is None else seed)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed the global generators, and with them the unseeded `RandomState()` that some attacks make for themselves."""
    original = np.random.RandomState
    with seeded(seed):
        np.random.RandomState = _RandomState  # type: ignore[misc]
        try:
            yield
        finally:
            np.random.RandomState = original  # type: ignore[misc]


def drawn() -> tuple[Any, ...]:
    """State of the generators that ART draws from; torch's own also moves where nothing is drawn (data loaders)."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), position


def white_box(model: nn.Module, shape: tuple[int, ...], classes: int, bounds: Any, *, gpu: bool) -> Any:
    """ART's estimator around a module, for attacks that take gradients."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=bounds,
        device_type="gpu" if gpu else "cpu",
    )


def black_box(ask: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], classes: int, bounds: Any) -> Any:
    """ART's estimator around a function, for attacks that only ask."""
    from art.estimators.classification.blackbox import BlackBoxClassifierNeuralNetwork

    return BlackBoxClassifierNeuralNetwork(ask, shape, classes, clip_values=bounds)
