"""A small network and its data on disk, and how they are evaluated."""

from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app

BALL = rs.Ball("linf", 0.05)
NETWORK = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""
COMMAND = ["evaluate", "nets.py:build", "--data", "data.npz", "--attack", "fgsm", "--radius", "0.05", "--quiet"]
SUITE = """
name: tiny
dataset: {name: npz, path: data.npz, train: 60, test: 60}
model: {factory: "nets.py:build", checkpoint: weights.pt}
threat: {norm: linf, radius: 0.05, curve_samples: 0}
attacks: [raises, fgsm, noise]
"""


def evaluate(model, data, **options):
    return rs.evaluate(model, data, "fgsm", BALL, **options)


def invoke(*arguments):
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, " ".join((done.output + done.stderr).split())
