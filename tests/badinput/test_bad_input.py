"""What is given wrongly, and what must be answered: one test or more for each row of the contract's last table.

Paths outside of the working folder are tested in tests/suite, kill -9 and torn files in tests/runner.
"""

import pickle

import numpy as np
import pytest
import torch
from small_requests import BALL, COMMAND, SUITE, evaluate, invoke
from torch import nn

import robustsuite as rs
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.testing import tiny_samples


def value(record):
    return record.metrics["robust_accuracy"].value


def every_way_in(model, data):
    """The Python calls that take a model and data."""
    yield lambda: evaluate(model, data)
    yield lambda: rs.perturb("fgsm", model, *data, BALL)
    yield lambda: Robustness("t").assert_robust(model, data, attack="fgsm", ball=BALL, at_least=0.1)


# images 0-255 or normalised where bounds are [0, 1]


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [(lambda x: (x * 255).round(), 64, 191), (lambda x: (x - 0.5) / 0.25, -0.99, 0.99)],
    ids=["0-255", "normalised"],
)
def test_images_out_of_bounds(model, data, change, least, most):
    x, y = change(data[0]), data[1]
    before = x.clone()
    for call in every_way_in(model, (x, y)):
        with pytest.raises(rs.RequestError) as refused:
            call()
        told = str(refused.value)
        assert f"min={float(x.min()):g} and max={float(x.max()):g}" in told
        assert "bounds=(0, 1)" in told
        assert "rs.wrap(model, bounds=(0, 255))" in told
        assert "rs.wrap(model, mean=..., std=...)" in told
    assert torch.equal(x, before), "nothing is clipped"
    assert float(x.min()) == pytest.approx(least, rel=0.05)
    assert float(x.max()) == pytest.approx(most, rel=0.05)


def test_features_out_of_bounds_are_told_of_their_bounds():
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(5, 3), torch.rand(12, 5), torch.arange(12) % 3
    with pytest.raises(rs.RequestError, match=r"got min=.*; declare what features may be, rs.wrap\(model, bounds="):
        rs.evaluate(model, (10 * x, y), attacks=["fgsm"], threat=BALL)


def test_images_out_of_bounds_on_the_command_line(on_disk, data):
    np.savez(on_disk / "data.npz", x=data[0].numpy() * 255, y=data[1].numpy())
    code, told = invoke(*COMMAND)
    assert code == 2
    assert "max=19" in told


def test_the_wrap_mends_both(model, data):
    x, y = data
    plain = evaluate(model, data).records[1].metrics
    scaled = rs.evaluate(rs.wrap(model, std=255.0, bounds=(0, 255)), (x * 255, y), "fgsm", rs.Ball("linf", 0.05 * 255))
    assert scaled.records[1].metrics["robust_accuracy"].value == plain["robust_accuracy"].value


# NaN or infinite inputs, weights or logits


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_inputs_that_are_not_finite(model, data, bad):
    data[0][17, 0, 3, 5] = data[0][90, 0, 0, 0] = bad
    for call in every_way_in(model, data):
        with pytest.raises(rs.RequestError, match=rf"finite numbers, got x\[17, 0, 3, 5\]={bad}"):
            call()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(model, data, bad):
    with torch.no_grad():
        model.head.weight[2, 7] = bad
    for call in every_way_in(model, data):
        with pytest.raises(rs.RequestError, match=rf"model\.head\.weight\[2, 7\]={bad}"):
            call()


def test_statistics_that_are_not_finite(model, data):
    model.features[1].running_var[3] = float("nan")
    with pytest.raises(rs.RequestError, match=r"model\.features\.1\.running_var\[3\]=nan"):
        evaluate(model, data)


class Breaks(nn.Module):
    """Logits that are not finite for inputs brighter than most."""

    def __init__(self, inner, limit, bad):
        super().__init__()
        self.inner, self.limit, self.bad = inner, limit, bad

    def forward(self, x):
        logits = self.inner(x)
        return torch.where(x.flatten(1).mean(1, keepdim=True) > self.limit, torch.full_like(logits, self.bad), logits)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_first_sample(model, bad):
    """Also where it is one sample far down: a NaN compares as no mistake and would count as robust or as broken."""
    samples = tiny_samples(700, first=10_000)
    brightness = samples.x.flatten(1).mean(1)
    worst = int(brightness.argmax())
    x, y = samples.x.roll(600 - worst, 0), samples.y.roll(600 - worst, 0)
    limit = float(brightness.sort().values[-2])
    with pytest.raises(
        rs.ModelError, match=rf"expected finite logits, got logits\[600, 0\]={bad}; look for NaN weights"
    ):
        evaluate(Breaks(model, limit, bad), (x, y))


# labels outside [0, classes)


@pytest.mark.parametrize(("label", "classes"), [(4, None), (-1, None), (4, 4), (99, 4)])
def test_labels_out_of_range(model, data, label, classes):
    data[1][23] = label
    with pytest.raises(rs.RequestError, match=rf"y\[23\]={label}; number the classes from 0"):
        evaluate(model, data, classes=classes)


# probabilities where logits are expected


def test_probabilities(model, data):
    expected, record = evaluate(model, data).records[1], evaluate(nn.Sequential(model, nn.Softmax(1)), data).records[1]
    assert record.flags == ("resolved:probabilities",)
    assert abs(value(record) - value(expected)) * len(data[1]) <= 1 + 1e-9
    perturbed = rs.perturb("fgsm", nn.Sequential(model, nn.Softmax(1)), *data, BALL)
    assert torch.equal(perturbed, rs.perturb("fgsm", model, *data, BALL))


def test_some_probabilities_among_logits_are_refused(model, data):
    class Mostly(nn.Module):
        """Probabilities, but for dark inputs."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            logits = self.inner(x)
            dark = x.flatten(1).mean(1) < x.flatten(1).mean(1).median()
            return torch.where(dark[:, None] & (len(x) > 8), logits, logits.softmax(1))

    with pytest.raises(rs.ModelError, match=r'declare rs\.wrap\(model, output="probabilities"\)'):
        evaluate(Mostly(), data)


# a model in training mode, with BatchNorm or Dropout


def test_training_mode(model, data):
    expected = evaluate(model.eval(), data)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    report = evaluate(model.train(), data)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    for record, other in zip(report.records, expected.records, strict=True):
        assert "was in training mode; it was evaluated in eval mode and put back" in record.message
        assert record.metrics[record.headline] == other.metrics[other.headline]
        assert other.message == ""


# a radius of 0


@pytest.mark.parametrize("attack", ["fgsm", "pgd(steps=3, restarts=2)", "noise", "art:HopSkipJump(max_iter=1)"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_of_zero(model, data, attack, norm):
    ball = rs.Ball(norm, 0)
    assert torch.equal(rs.perturb(attack, model, *data, ball), data[0])
    metrics = rs.evaluate(model, data, attack, ball).records[1].metrics
    assert metrics["robust_accuracy"] == metrics["clean_accuracy"]
    assert metrics["attack_success_rate"].value == 0


# a checkpoint that is a pickle with code, an HTML page, or has missing keys


class Planted:
    def __reduce__(self):
        return (exec, ("open('ran', 'w').close()",))


def _pickled(path):
    path.write_bytes(pickle.dumps({"1.weight": Planted()}))


def _zipped(path):
    torch.save({"1.weight": Planted()}, path)


def _page(path):
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")


def _partial(path):
    torch.save({"1.weight": torch.randn(4, 64)}, path)


@pytest.mark.parametrize(
    ("write", "told"),
    [(_pickled, "nothing in it was run"), (_zipped, "nothing in it was run"), (_page, "HTML"), (_partial, "1.bias")],
    ids=["pickle", "zipped-pickle", "html", "missing-keys"],
)
def test_checkpoints_that_are_refused(on_disk, write, told):
    write(on_disk / "weights.pt")
    code, said = invoke(*COMMAND, "--checkpoint", "weights.pt", "--out", "out")
    assert code == 2
    assert "weights.pt" in said
    assert told.lower() in said.lower()
    assert not (on_disk / "ran").exists(), "no code from it runs"
    assert not (on_disk / "out").exists(), "nothing was started"


def test_a_checkpoint_that_is_good(on_disk):
    code, said = invoke(*COMMAND, "--checkpoint", "weights.pt")
    assert code == 0, said


# poisoning or membership against a model without its recipe or data


@pytest.mark.parametrize("attack", ["badnets", "label-flip", "model-inversion", "class-mean"])
def test_games_that_need_more_than_the_model(model, data, attack):
    with pytest.raises(rs.RequestError) as refused:
        rs.evaluate(model, data, attack)
    told = str(refused.value)
    assert f"attack={attack!r}" in told
    assert "train=(x, y) in Python or --train-data" in told
    assert "train=None" in told


def test_games_that_need_more_on_the_command_line(on_disk):
    code, told = invoke("evaluate", "nets.py:build", "--data", "data.npz", "--attack", "badnets(fraction=0.1)")
    assert code == 2
    assert "--train-data" in told


def test_games_that_need_more_in_a_grid(on_disk):
    (on_disk / "tiny.yaml").write_text(SUITE.replace("raises, fgsm, noise", "{badnets: {fraction: 0.1}}, fgsm"))
    code, told = invoke("run", "tiny.yaml", "--workers", "1", "--quiet")
    assert code == 0, told
    found = {r.attack: r for r in rs.Report.load(on_disk / "runs/tiny").records}
    assert found["badnets"].status == "not_applicable"
    assert "recipe=None" in found["badnets"].message
    assert found["fgsm"].status == "ok"
    assert "n/a" in told
