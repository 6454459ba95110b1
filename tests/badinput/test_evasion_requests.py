"""Evasion that cannot be played as it is asked for is refused before any work, from every way in."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.plugins import registry
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.testing import tiny_samples

BALL = rs.Ball("linf", 0.05)
NETS = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def larger():
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 4))
"""
SUITE = """
name: s
dataset: {{name: npz, path: data.npz, train: 20, test: 20}}
model: {{factory: "nets.py:build"}}
training: {{epochs: 1}}
threat: {threat}
attacks: [{attack}]
"""


class Watched(nn.Module):
    """Four classes; counts its gradients, which only attacks ask for."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.gradients = 0

    def forward(self, x):
        logits = self.linear(x.flatten(1))
        if logits.requires_grad and x.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.gradients += 1


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Watched()


@pytest.fixture
def data():
    samples = tiny_samples(40)
    return samples.x, samples.y


@pytest.fixture
def folder(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    np.savez(tmp_path / "data.npz", x=data[0].numpy(), y=data[1].numpy())
    return tmp_path


def call(*arguments):
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, " ".join((done.output + done.stderr).split())


def evaluated(attack, *options):
    return call("evaluate", "nets.py:build", "--data", "data.npz", "--attack", attack, "--out", "out", *options)


def run(folder, attack, threat="{norm: linf, radius: 0.05}"):
    (folder / "s.yaml").write_text(SUITE.format(threat=threat, attack=attack))
    return call("run", "s.yaml", "--workers", "1")


def refused_in_python(model, data, attack, told, ball=BALL):
    ways = (
        lambda: rs.evaluate(model, data, ["fgsm", attack], ball),
        lambda: rs.evaluate(model, data, attack, rs.Threat(ball=ball)),
        lambda: rs.perturb(attack, model, *data, ball),
        lambda: Robustness("t").assert_robust(model, data, attack=attack, ball=ball, at_least=0.1),
    )
    for way in ways:
        with pytest.raises(rs.RequestError) as refused:
            way()
        assert told in str(refused.value)
    assert model.gradients == 0, "nothing was attacked"


def refused_on_the_command_line(folder, done, *told):
    code, said = done
    assert code == 2, said
    for words in told:
        assert words in said
    assert not (folder / "out").exists()
    assert not (folder / "runs" / "s" / "records.jsonl").exists()
    assert not list(folder.glob("runs/s/models/*"))


# more targets than classes

TARGETS = "expected at most 3 targets for 4 classes, got targets=12; lower it"


@pytest.mark.parametrize("name", ["apgd", "autoattack", "cascade", "fab"])
def test_more_targets_than_classes(model, data, folder, name):
    refused_in_python(model, data, f"{name}(targets=12)", TARGETS)
    refused_in_python(model, data, rs.attack(name, targets=12), TARGETS)
    refused_on_the_command_line(folder, evaluated(f"{name}(targets=12)", "--radius", "0.05"), TARGETS)
    refused_on_the_command_line(
        folder, run(folder, f"{{{name}: {{targets: 12}}}}"), f"attacks[0].{name}.targets: {TARGETS}"
    )


@pytest.mark.parametrize("name", ["apgd", "autoattack"])
def test_as_many_targets_as_classes(model, data, name):
    told = "expected at most 3 targets for 4 classes, got targets=4"
    refused_in_python(model, data, f"{name}(targets=4)", told)
    moved = rs.perturb(
        rs.attack(name, targets=3, steps=1, **({} if name == "apgd" else {"queries": 1})), model, *data, BALL
    )
    assert moved.shape == data[0].shape


def test_defaults_mean_at_most(model, data):
    """Nine targets of ten classes are the default, and with four classes there are three."""
    for attack in (rs.attack("fab", steps=1), rs.attack("cascade", steps=1, rounds=0)):
        assert rs.perturb(attack, model, *data, BALL).shape == data[0].shape


def test_targets_beside_a_targeted_goal(model, data, folder):
    told = "expected an untargeted goal beside targets, got targets=2; drop one of the two"
    threat = rs.Threat(ball=BALL, goal="targeted", target="next")
    with pytest.raises(rs.RequestError, match=told):
        rs.evaluate(model, data, "apgd(targets=2)", threat)
    with pytest.raises(rs.RequestError, match=told):
        rs.perturb("apgd(targets=2)", model, *data, BALL, target=(data[1] + 1) % 4)
    aimed = "{norm: linf, radius: 0.05, goal: targeted, target: next}"
    refused_on_the_command_line(folder, run(folder, "{apgd: {targets: 2}}", aimed), told)


# a surrogate with other classes, or for other inputs


class Surrogate(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_a_surrogate_with_other_classes(model, data, folder):
    told = "expected a surrogate with logits (N, 4), as the victim has 4 classes, got surrogate{}=(1, 3); name one"
    network = Surrogate(64, 3).train()
    refused_in_python(model, data, rs.attack("transfer", surrogates=(network,)), told.format("s"))
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    refused_in_python(model, data, "transfer(surrogate='nets.py:three')", told.format(""))
    done = evaluated("transfer(surrogate='nets.py:three')", "--radius", "0.05")
    refused_on_the_command_line(folder, done, told.format(""))
    refused_on_the_command_line(folder, run(folder, "{transfer: {surrogate: 'nets.py:three'}}"), told.format(""))


def test_a_surrogate_for_other_inputs(model, data, folder):
    told = "expected a surrogate that takes inputs of shape (1, 1, 8, 8), as the victim does, got surrogate"
    refused_in_python(model, data, rs.attack("transfer", surrogates=(Surrogate(100, 4).double(),)), told)
    done = evaluated("transfer(surrogate='nets.py:larger')", "--radius", "0.05")
    refused_on_the_command_line(folder, done, told, "'Sequential'; it raised", "take another")
    refused_on_the_command_line(folder, run(folder, "{transfer: {surrogate: 'nets.py:larger'}}"), told)


def test_a_surrogate_that_fits_is_played(model, data):
    network = Surrogate(64, 4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    report = rs.evaluate(model, data, rs.attack("transfer", surrogates=(network,), steps=1), BALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert report.records[1].status == "ok"
    assert "crafted on Surrogate" in report.records[1].message


def test_networks_that_there_are_not(model, data, folder):
    refused_in_python(model, data, "transfer(networks=('cmn',))", "cmn")
    refused_on_the_command_line(folder, run(folder, "{transfer: {networks: [cmn]}}"), "attacks[0].transfer", "cmn")


# a radius without a norm, a norm without a radius


def test_a_radius_without_a_norm(model, data, folder):
    with pytest.raises(rs.RequestError, match=r"or a Ball, got threat=0.05; write \('linf', 8 / 255\)"):
        rs.evaluate(model, data, "pgd", 0.05)
    with pytest.raises(rs.RequestError, match=r"or a Ball, got ball=0.05; write \('linf', 8 / 255\)"):
        rs.perturb("pgd", model, *data, 0.05)
    for norm in (None, ""):
        with pytest.raises(rs.RequestError, match=r"expected one of linf, l2, l1, got norm="):
            rs.Ball(norm, 0.05)
    refused_on_the_command_line(
        folder,
        run(folder, "pgd", "{radius: 0.05}"),
        "s.yaml:6: threat",
        "expected norm and radius together",
        "add norm:",
    )


# a norm that an attack does not have


@pytest.fixture
def _sphere():
    registry.discover()
    known = dict(registry.attacks._entries)

    @rs.register.attack("sphere", scenario="evasion", access="white-box")
    @dataclass(frozen=True, kw_only=True)
    class Sphere:
        """Stay where it is, in l2 only."""

        norms = ("l2",)

        def __call__(self, view, streams):
            return view.x.clone()

    yield
    registry.attacks._entries.clear()
    registry.attacks._entries.update(known)


@pytest.mark.usefixtures("_sphere")
def test_a_norm_that_an_attack_does_not_have(model, data, folder):
    told = "expected a norm that sphere has (l2), got norm='linf'; play sphere in l2"
    refused_in_python(model, data, "sphere", told)
    refused_on_the_command_line(folder, evaluated("sphere", "--radius", "0.05"), told)
    refused_on_the_command_line(folder, run(folder, "pgd, sphere"), told, "s.yaml:7: attacks[1]")


# a query budget of 0


def test_a_query_budget_of_zero(model, data, folder):
    told = "expected an integer of at least 1, got query_budget=0"
    for threat, rules in ((rs.Threat(ball=BALL, query_budget=0), None), (BALL, {"query_budget": 0})):
        with pytest.raises(rs.RequestError, match=told):
            rs.evaluate(model, data, "square", threat, rules=rules)
    refused_on_the_command_line(folder, evaluated("square(query_budget=0)", "--radius", "0.05"), told)
    refused_on_the_command_line(folder, run(folder, "{square: {query_budget: 0}}"), told, "s.yaml:7")
    threat = "{norm: linf, radius: 0.05, query_budget: 0}"
    refused_on_the_command_line(folder, run(folder, "square", threat), told, "s.yaml:6")
    for name in ("square", "hop-skip-jump"):
        with pytest.raises(rs.RequestError, match="got queries=0"):
            rs.attack(name, queries=0)


# the hook itself


def test_a_check_that_raises_something_else_names_the_plugin(model, data):
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        """Fail."""

        plugin_name = "pgd"

        def check(self, terms):
            raise LookupError(f"{terms.classes} classes of {terms.shape} in {terms.bounds}")

        def __call__(self, view, streams):
            return view.x.clone()

    with pytest.raises(
        rs.RequestError, match=r"attack='pgd', whose check raised LookupError: 4 classes of \(1, 8, 8\)"
    ):
        rs.evaluate(model, data, Odd(), BALL)
