"""Known-answer tests with a closed form: a linear model, and a model that rejects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.api.evaluate import evaluate
from robustsuite.api.perturb import perturb
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Deployed, Outputs
from robustsuite.models.wrap import wrap
from robustsuite.plugins.by_name import attack
from robustsuite.testing.known_answers.known_answer import Finding, at_least, at_most, near, same
from robustsuite.testing.known_answers.materials import NearestMean, digits, figure, ladder, templates

LOST: Final = 0.4  # margin that the ball of each norm takes off a linear model: radius x the dual norm of its weights
_DUAL: Final = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}


def linear() -> Iterator[Finding]:
    """One step and iterated steps reach the optimum `y w.x - radius |w|_dual`, and the judge counts what is robust."""
    model, x, y, margin = ladder()
    w = (model.weight[1] - model.weight[0]).detach()
    wide = wrap(model, bounds=(-10.0, 10.0))
    standing = margin > LOST
    for norm, order in _DUAL.items():
        ball = Ball(norm, LOST / float(torch.linalg.vector_norm(w, order)))
        played = {
            "fgsm": attack("fgsm", l1_share=0.0),
            "pgd": attack("pgd", steps=100, l1_share=0.0),
        }
        for name, made in played.items():
            moved = perturb(made, wide, x, y, ball)
            lost = margin - (2 * y - 1) * (moved @ w)
            # A sample that is broken is left where it was, so only the others show how far an attack can go.
            error = float((lost[standing] - LOST).abs().max())
            yield at_most(f"{name} in {norm}: error of the margin at the optimum", 1e-5, error)
        report = evaluate(wide, (x, y), [*played.values(), "noise"], ball)
        share = float(standing.double().mean())
        for record in report.records[1:3]:
            yield near(f"{record.attack} in {norm}: robust accuracy", share, figure(record, "robust_accuracy"), 0.0)
        yield at_least(f"noise in {norm} is no better than pgd", share, figure(report.records[3], "robust_accuracy"))


class Strict(Deployed):
    """Rejects every input but those it was shown, which no defence outside of this test can do.

    Args:
        network: Answers what is not rejected.
        shown: The inputs `(N, …)`.
    """

    fully_differentiable = False

    def __init__(self, network: nn.Module, shown: Tensor) -> None:
        self._network, self._shown = network, shown.flatten(1)

    @property
    def network(self) -> nn.Module:
        """The network inside."""
        return self._network

    def __call__(self, x: Tensor) -> Outputs:
        """Answers; what was not shown is rejected."""
        known = (torch.cdist(x.flatten(1).double(), self._shown.double()).amin(1) == 0).to(x.device)
        return Outputs(self._network(x), ~known)


def rejecting() -> Iterator[Finding]:
    """A rejected attack is no success, and a rejected clean input is an error."""
    test = digits("test")
    network = NearestMean(templates(digits("train")))
    ball = Ball("linf", 0.3)
    bare = evaluate(network, test, "fgsm", ball)
    yield at_most("robust accuracy without the check", 0.2, figure(bare.records[1], "robust_accuracy"))
    clean = figure(bare.records[0], "clean_accuracy")
    x, half = test.inputs(), len(test) // 2
    report = evaluate(Strict(network, x), test, "fgsm", ball)
    yield near("robust accuracy where every attack is rejected", clean, figure(report.records[1], "robust_accuracy"), 0)
    yield near("rejected attacks", 1.0, figure(report.records[1], "rejection_rate_attack"), 0.0)
    yield same("the attack did not see the check", True, "not-adaptive" in report.records[1].flags)
    deaf = evaluate(Strict(network, x[:half]), test, "none", ball)
    yield near("rejected clean inputs", 0.5, figure(deaf.records[0], "rejection_rate_clean"), 0.0)
    right = network(x[:half]).argmax(1) == test.y[:half]
    share = float(right.double().mean()) / 2
    yield near("accuracy with half the inputs rejected", share, figure(deaf.records[0], "clean_accuracy"), 1e-9)
