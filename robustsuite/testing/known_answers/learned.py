"""Known-answer tests that train: a backdoor that is planted, and templates that can be read back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import cosine_similarity

from robustsuite.api.evaluate import evaluate
from robustsuite.core.ball import poison_budget
from robustsuite.data.sources import joined
from robustsuite.models.build import ModelSpec
from robustsuite.testing.known_answers.known_answer import Finding, at_least, at_most, near
from robustsuite.testing.known_answers.materials import NearestMean, column, digits, figure, templates
from robustsuite.training.cache import Trainer
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

_SHARE = 0.1  # of the training set that is poisoned


def backdoored() -> Iterator[Finding]:
    """A patch on a tenth of the training set opens a backdoor, and only where it was trained in."""
    train, test = digits("train"), digits("test")
    build = ModelSpec("mlp", options=(("hidden", (64,)),))
    recipe = Recipe(build=build, training=Training(epochs=12, lr=3e-3, batch_size=64, validation=0.0))
    clean = Trainer(0)(recipe, train).model
    report = evaluate(clean, test, "badnets", train=train, recipe=recipe, rules={"fraction": _SHARE})
    twin, poisoned = report.records
    yield near("poisoned samples", poison_budget(_SHARE, len(train)), figure(poisoned, "poisoned"), 0.0)
    yield at_least("clean accuracy of the clean twin", 0.9, figure(twin, "clean_accuracy"))
    yield at_least("clean accuracy with the backdoor", 0.9, figure(poisoned, "clean_accuracy"))
    yield at_least("backdoor success", 0.95, figure(poisoned, "backdoor_success_rate"))
    yield at_most("the trigger on the clean twin", 0.2, figure(poisoned, "backdoor_success_rate_clean_twin"))


def invertible() -> Iterator[Finding]:
    """A softmax regression that holds its class means gives them away, and noise shows nothing."""
    train, test = digits("train"), digits("test")
    means = templates(train)
    attacks = ["model-inversion", "class-mean", "inversion-noise"]
    public = joined(digits("adversary"), digits("judge"))
    report = evaluate(NearestMean(means), test, attacks, train=train, public=public, rules={"evaluator": "cnn"})
    inversion, ceiling, floor = report.records[1:]
    made = column(report, inversion, "payload.0.reconstruction").flatten(1)
    hidden = (means - means.mean(0)).flatten(1)  # what of a class mean no softmax forgets
    alike = cosine_similarity((made - made.mean(0))[:, None], hidden[None], dim=2)
    own = alike.argmax(1) == torch.arange(len(means))
    yield near("reconstructions nearest to their own class mean", 1.0, float(own.double().mean()), 0.0)
    yield at_least("their mean cosine with it", 0.5, float(alike.diag().mean()))
    yield at_least("accuracy of the evaluator", 0.9, figure(inversion, "evaluator_accuracy"))
    yield at_least("reconstructions that the evaluator names", 0.8, figure(inversion, "inversion_accuracy"))
    yield at_least("class means that it names", 0.9, figure(ceiling, "inversion_accuracy"))
    yield at_most("noise that it names", 0.4, figure(floor, "inversion_accuracy"))
