"""What tests of adversarial training share: objectives by name, steps, networks that tell what they saw."""

import dataclasses

import torch

from robustsuite.core.ball import Ball
from robustsuite.core.streams import Streams
from robustsuite.plugins import defense
from robustsuite.testing.victims import TinyNetwork, tiny_recipe
from robustsuite.training.parts import Step, training_loss
from robustsuite.training.settings import Training

BALL = Ball("linf", 0.1)


def recipe_of(name, threat=BALL, **options):
    return defense(name, **options)(dataclasses.replace(tiny_recipe(), threat=threat))


def objective_of(name, threat=BALL, **options):
    return recipe_of(name, threat, **options).objective


def step_of(samples, epoch=0, number=3):
    return Step(training_loss(Training(), samples), Streams(number), samples.bounds, epoch, samples.classes)


def brief(recipe, **settings):
    return dataclasses.replace(recipe, training=recipe.training.override(settings))


class Passes(TinyNetwork):
    """Counts forward passes, in training mode and not."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(4, (0.0, 1.0))
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x.detach().clone()))
        return super().forward(x)


def flat_linear(width, classes, seed=1):
    """A linear network from `(N, width)` to logits, in double precision."""
    torch.manual_seed(seed)
    return torch.nn.Linear(width, classes).double()
