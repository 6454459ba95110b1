"""A ball that holds every input says nothing of a model: 8 typed for 8/255 is refused wherever a user declares it."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.core.ball import Ball
from robustsuite.core.radii import refuse_vacuous
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.play import play
from robustsuite.testing import tiny_samples, tiny_victim

SPAN = {"linf": 1.0, "l2": 8.0, "l1": 64.0}  # of (1, 8, 8) in [0, 1]
SUITE = """
name: s
dataset: {name: digits, train: 200, test: 100}
model: logistic
training: {epochs: 1}
threat: {norm: linf, radius: 8}
attacks: [fgsm]
"""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


@pytest.fixture
def data():
    samples = tiny_samples(40)
    return samples.x, samples.y


@pytest.fixture
def folder(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    np.savez(tmp_path / "data.npz", x=data[0].numpy(), y=data[1].numpy())
    return tmp_path


def call(*arguments):
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, " ".join((done.output + done.stderr).split())


def ways_in(model, data, ball):
    yield lambda: rs.evaluate(model, data, "fgsm", ball)
    yield lambda: rs.evaluate(model, data, "fgsm", rs.Threat(ball=ball))
    yield lambda: rs.perturb("fgsm", model, *data, ball)
    yield lambda: Robustness("t").assert_robust(model, data, attack="fgsm", ball=ball, at_least=0.1)


@pytest.mark.parametrize("norm", SPAN)
@pytest.mark.parametrize("times", [1.0, 3.0])
def test_python_and_pytest_refuse_it(model, data, norm, times):
    radius = SPAN[norm] * times
    for way in ways_in(model, data, rs.Ball(norm, radius)):
        with pytest.raises(rs.RequestError, match=rf"{norm} radius below {SPAN[norm]:g}, .* got radius={radius}"):
            way()


@pytest.mark.parametrize("norm", SPAN)
def test_just_below_is_accepted(model, data, norm):
    report = rs.evaluate(model, data, "fgsm", rs.Ball(norm, math.nextafter(SPAN[norm], 0)))
    assert report.records[1].status == "ok"


def test_the_bounds_decide_and_not_the_number():
    refuse_vacuous(Ball("linf", 8), (0.0, 255.0))
    refuse_vacuous(Ball("linf", 1.5), (-1.0, 1.0))
    for ball, bounds in ((Ball("linf", 2), (-1, 1)), (Ball("linf", 0.5, bounds=(0, 0.5)), (0, 1))):
        with pytest.raises(rs.RequestError):
            refuse_vacuous(ball, bounds)
    refuse_vacuous(Ball("l2", 1e9), (0.0, 1.0), None)  # unknown until the shape is


@pytest.mark.parametrize(
    ("radius", "bounds", "remedy"),
    [
        (8, (0.0, 1.0), "write 8/255 if pixel values"),
        (2.5, (0.0, 1.0), r"write 2\.5/255"),
        (300, (0.0, 1.0), "raw input units"),
        (300, (0.0, 255.0), "raw input units"),
    ],
)
def test_the_remedy_fits_the_mistake(radius, bounds, remedy):
    with pytest.raises(rs.RequestError, match=remedy):
        refuse_vacuous(Ball("linf", radius), bounds)


def test_the_command_line_starts_nothing(folder):
    common = ["evaluate", "nets.py:build", "--data", "data.npz", "--attack", "fgsm", "--out", "out"]
    code, told = call(*common, "--radius", "8")
    assert code == 2
    assert "got radius=8.0; write 8/255" in told
    assert not (folder / "out").exists()
    assert call(*common, "--radius", "8", "--norm", "l2")[0] == 2
    assert call(*common, "--radius", "8/255", "--quiet")[0] == 0


@pytest.mark.parametrize("attack", ["fgsm", "none"])
def test_a_norm_without_a_radius(folder, attack):
    code, told = call("evaluate", "nets.py:build", "--data", "data.npz", "--attack", attack, "--norm", "l2")
    assert code == 2
    assert "expected --radius beside --norm" in told


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda s: s, "s.yaml:6: threat.radius"),
        (lambda s: s.replace("norm: linf", "norm: l2"), "s.yaml:6: threat.radius"),
        (lambda s: s.replace("radius: 8", "radius: 8/255") + OWN, "s.yaml:8: defenses[0].adversarial-training.radius"),
    ],
)
def test_a_suite_names_the_line(folder, change, place):
    (folder / "s.yaml").write_text(change(SUITE))
    code, told = call("run", "s.yaml")
    assert code == 2
    assert f"{place}: expected an l" in told
    assert "nothing was started" in told
    assert not (folder / "runs").exists()


OWN = "defenses: [adversarial-training: {norm: linf, radius: 8}]\n"


def test_a_suite_on_a_file_is_refused_once_its_shape_is_known(folder):
    text = SUITE.replace("{name: digits, train: 200, test: 100}", "{name: npz, path: data.npz}")
    (folder / "s.yaml").write_text(text.replace("norm: linf", "norm: l2"))
    code, told = call("run", "s.yaml")
    assert code == 2
    assert "l2 radius below 8" in told
    assert "threat.radius=8.0" in told
    assert not (folder / "runs").exists()
    code, told = call("run", "s.yaml", "--set", "threat.norm=linf", "--set", "dataset.bounds=[0, 1]")
    assert (code, "threat.radius: expected an linf radius below 1" in told) == (2, True)


def test_laws_and_curves_may_still_ask_for_huge_balls():
    metrics = play(rs.attack("pgd", steps=10), Evasion(ball=Ball("linf", 4.0)), tiny_victim(40), seed=0)
    assert metrics.values["robust_accuracy"].value <= 0.1
