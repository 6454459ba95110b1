"""`autoattack` and `cascade` on an adversarially trained network: verdicts, passes, seconds, share of the floor.

On a GPU with CIFAR-10, whose figures are printed:

    ROBUSTSUITE_DATA=... pytest -m gpu -n 0 -s tests/attacks/test_ensembles_on_devices.py
"""

import json
import time

import pytest
import torch
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.models.build import ModelSpec

DIGITS = """\
dataset: {name: digits, train: 1000, test: 60}
model: {name: cnn}
training: {epochs: 3, lr: 3.0e-3}
threat: {norm: linf, radius: 0.15, curve_samples: 0}
defenses: [{adversarial-training: {attack: fgsm-rs}}]
attacks: [{autoattack: {steps: 20, queries: 300, follow_up: false}}, {cascade: {follow_up: false}}]
"""
CIFAR = """\
dataset: {name: cifar10, test: 1000}
model: {name: resnet18}
training: {epochs: 15, optimizer: sgd, lr: 0.2, batch_size: 128, schedule: one-cycle, weight_decay: 5.0e-4,
  precision: bf16-mixed}
threat: {norm: linf, radius: 0.03137254901960784, curve_samples: 0}
defenses: [{adversarial-training: {attack: fgsm-rs}}]
attacks: [{autoattack: {follow_up: false}}, {cascade: {follow_up: false}}]
"""
ON_GPU = [pytest.mark.gpu, pytest.mark.timeout(3000)]
CASES = [
    pytest.param("cpu", DIGITS, ("cnn", (1, 8, 8)), False, id="digits-cpu", marks=pytest.mark.slow),
    pytest.param("cuda", CIFAR, ("resnet18", (3, 32, 32)), True, id="cifar10-cuda", marks=ON_GPU),
]


def per_pass(net, shape, device):
    """Seconds of a forward and of an input-gradient backward pass of one sample, in batches of 250."""
    x = torch.rand(250, *shape, device=device)
    spent = [0.0, 0.0]
    for number in range(13):
        leaf = x.clone().requires_grad_(True)
        marks = [time.perf_counter()]
        logits = net(leaf)
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        torch.autograd.grad(logits.sum(), leaf)
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        if number >= 3:  # the first ones warm up
            spent = [s + b - a for s, a, b in zip(spent, marks, marks[1:], strict=False)]
    return [s / 10 / len(x) for s in spent]


@pytest.mark.parametrize(("device", "suite", "model", "whole"), CASES)
def test_adaptive_leaves_no_more_than_autoattack(tmp_path, device, suite, model, whole):
    (tmp_path / "suite.yaml").write_text("name: ensembles\n" + suite)
    asked = ["run", str(tmp_path / "suite.yaml"), "--out", str(tmp_path / "run"), "--device", device, "--workers", "1"]
    done = CliRunner().invoke(app, [*asked, "--quiet"])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    found = {record["attack"]: record for record in records}
    name, shape = model
    net = ModelSpec(name)(10, shape, (0.0, 1.0)).to(device).eval().requires_grad_(False)
    forward, backward = per_pass(net, shape, device)
    passes = {}
    for attack in ("autoattack", "cascade"):
        record = found[attack]
        cost, figure = record["cost"], record["metrics"]["robust_accuracy"]
        passes[attack] = cost["forwards"] + cost["backwards"]
        share = record["seconds"] / (forward * cost["forwards"] + backward * cost["backwards"])
        print(
            f"{device} {name}, {figure['n']} images, {attack}: robust accuracy {figure['value']:.3f}, "
            f"{cost['forwards']} + {cost['backwards']} passes, {record['seconds']:.1f} s, {share:.2f} of the floor"
        )
    one = 1 / found["cascade"]["metrics"]["robust_accuracy"]["n"]
    left = [found[attack]["metrics"]["robust_accuracy"]["value"] for attack in ("cascade", "autoattack")]
    assert 0.1 < left[1] < 0.95
    assert left[0] <= left[1] + one + 1e-9
    if whole:  # the small case is cut short
        assert passes["cascade"] <= 0.2 * passes["autoattack"]
