"""What evaluating a model imports, and the figures that are therefore counted here."""

import os
import subprocess
import sys

import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

import robustsuite as rs
from robustsuite.core.deployed import Deployed, Outputs


def test_evaluating_imports_no_training_or_attack_library_and_training_none_for_its_version():
    code = """
import sys, torch, robustsuite as rs
from robustsuite.core.intervals import over_repeats
from robustsuite.core.metric import Metric
from robustsuite.models.build import ModelSpec
from robustsuite.training import Recipe, Trainer, Training
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
rs.evaluate(net, (torch.rand(9, 1, 2, 2), torch.arange(9) % 3), "fgsm", rs.Ball("linf", 0.1))
heavy = ["lightning_fabric", "torchmetrics", "torchvision", "opacus", "art", "sklearn", "plotly", "pandas"]
heavy += ["torch._dynamo", "scipy.stats"]
over_repeats([Metric(value, 9) for value in (0.5, 0.6)])
print([name for name in heavy if name in sys.modules])
samples = rs.load_data("digits", "train", samples=40)
Trainer(0)(Recipe(build=ModelSpec("logistic"), training=Training(epochs=1)), samples)
print([name for name in heavy if name in sys.modules])
import torchmetrics
print(torchmetrics.Metric.__name__)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["[]", "['lightning_fabric', 'torch._dynamo']", "Metric"]


class Answers(Deployed):
    """Answer what is written in the input: a label in the first pixel, a rejection in the second."""

    def __init__(self, classes):
        self.classes, self._network = classes, torch.nn.Identity()

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        logits = torch.nn.functional.one_hot((x[:, 0] * 100).round().long(), self.classes).float() * 3
        return Outputs(logits, x[:, 1] > 0.5)


@pytest.mark.parametrize(("classes", "occurring"), [(4, 4), (10, 6), (8, 3)])
def test_macro_figures_are_those_of_torchmetrics(classes, occurring):
    generator = torch.Generator().manual_seed(classes)
    y = torch.randint(occurring, (300,), generator=generator)
    said = torch.where(
        torch.rand(300, generator=generator) < 0.6, y, torch.randint(classes, (300,), generator=generator)
    )
    rejected = torch.rand(300, generator=generator) < 0.1
    x = torch.stack([said / 100, rejected.float()], 1)
    metrics = rs.evaluate(Answers(classes), (x, y), "none").records[0].metrics
    prediction = torch.where(rejected, classes, said)
    for name, figure in (
        ("precision_macro", multiclass_precision),
        ("recall_macro", multiclass_recall),
        ("f1_macro", multiclass_f1_score),
    ):
        each = figure(prediction, y, num_classes=classes + 1, average=None)
        assert metrics[name].value == pytest.approx(
            float(each[:classes][y.bincount(minlength=classes) > 0].mean()), abs=1e-6
        )
