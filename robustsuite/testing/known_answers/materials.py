"""Models and data of the known-answer tests: everything about them is known without training."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.samples import Samples
from robustsuite.data.catalogue import load_data
from robustsuite.evaluation.record_files import load_samples

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record
    from robustsuite.report.report import Report

WIDTH: Final = 20  # coordinates of the linear model
LADDER: Final = 200  # samples whose margins are the steps of a ladder in (0, 1)


@cache
def digits(part: str) -> Samples:
    """The embedded handwritten digits, `test` cut to 200 of them."""
    return load_data("digits", part, samples=200 if part == "test" else None)


def ladder() -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A linear model of two classes in float64, and samples on either side of it.

    Returns:
        The model, whose logits differ by `w.x`; inputs `(N, D)`; labels `(N,)`; and the margins `y w.x`, which are
        (i + 1/2) / N for i from 0 to N - 1.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    margin = (torch.arange(LADDER, dtype=torch.float64) + 0.5) / LADDER
    y = torch.arange(LADDER) % 2
    aside = torch.randn(LADDER, WIDTH, generator=generator, dtype=torch.float64) / 2
    aside -= (aside @ w)[:, None] * w / w.square().sum()
    x = (margin * (2 * y - 1))[:, None] * w / w.square().sum() + aside
    model = nn.Linear(WIDTH, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.stack([-w / 2, w / 2]))
        model.bias.zero_()
    return model, x, y, margin


def templates(samples: Samples) -> Tensor:
    """The mean image of every class `(classes, …)`."""
    x = samples.inputs()
    return torch.stack([x[samples.y == label].mean(0) for label in range(samples.classes)])


class NearestMean(nn.Module):
    """Softmax regression whose weights are the class means, so that the nearest one wins: logits `x.m - |m|^2 / 2`.

    Args:
        means: Class means `(classes, …)`.
        scale: What the logits are multiplied by; the decisions do not depend on it.
        normalised: Whether the inputs first pass a batch normalisation, which in eval mode changes next to nothing.
    """

    def __init__(self, means: Tensor, *, scale: float = 1.0, normalised: bool = False) -> None:
        super().__init__()
        flat = means.flatten(1)
        self.head = nn.Linear(flat.shape[1], len(flat))
        self.norm = nn.BatchNorm1d(flat.shape[1]) if normalised else nn.Identity()
        with torch.no_grad():
            self.head.weight.copy_(scale * flat)
            self.head.bias.copy_(-scale * flat.square().sum(1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)`."""
        logits: Tensor = self.head(self.norm(x.flatten(1)))
        return logits


def figure(record: Record, name: str) -> float:
    """A metric's value; a record without it says what happened instead.

    Raises:
        RobustsuiteError: The cell raised, or measured no such thing.
    """
    if name not in record.metrics:
        raise _lacks(record, name)
    return record.metrics[name].value


def column(report: Report, record: Record, name: str) -> Tensor:
    """A per-sample column or artefact of a record.

    Raises:
        RobustsuiteError: The cell raised, or keeps no such thing.
    """
    held = load_samples(report.folder, record) if report.folder is not None else {}
    if name not in held:
        raise _lacks(record, name)
    return held[name]


def _lacks(record: Record, name: str) -> RobustsuiteError:
    told = f"expected {name} of {record.attack}, got status={record.status!r}"
    return RobustsuiteError(f"{told}; {record.message or 'it holds no such thing'}")
