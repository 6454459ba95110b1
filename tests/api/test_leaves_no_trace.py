"""Whatever is evaluated, and however it ends: model, inputs and global random state are as they were."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.plugins import registry

BALL = rs.Ball("linf", 0.1)


class Busy(nn.Module):
    """BatchNorm, Dropout, random draws and a buffer that counts its calls."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
        self.head = nn.Linear(144, 10)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.head(self.body(x)) + 1e-7 * torch.rand(len(x), 1)


@pytest.fixture
def busy(digits, fitted):
    """In training mode, one part frozen, one in eval mode, one gradient set."""
    model = fitted(Busy(), digits[0], digits[1], steps=30)
    model.train()
    model.body[1].eval()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = torch.full_like(model.head.weight, 3.0)
    return model


@dataclass(frozen=True, kw_only=True)
class Raises:
    """Use the model, then raise.

    Args:
        interrupt: Whether by Ctrl-C.
    """

    interrupt: bool = False

    def __call__(self, view, streams):
        view.model.train()
        view.model(view.x)
        torch.rand(3)
        raise KeyboardInterrupt if self.interrupt else RuntimeError("planted")


@pytest.fixture
def raises():
    registry.discover()
    known = dict(registry.attacks._entries)
    registry.register.attack("raises", scenario="evasion", access="white-box")(Raises)
    yield
    registry.attacks._entries.clear()
    registry.attacks._entries.update(known)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_evaluate(busy, digits, witness, context):
    x, y = digits[2][:24].clone(), digits[3][:24].clone()
    seen = witness(busy, x, y)
    followed_up = context is torch.no_grad  # once: what follows up takes most of the time
    with context():
        report = rs.evaluate(busy, (x, y), ["fgsm", "pgd(steps=3)"], BALL, rules={"follow_up": followed_up})
    seen.check()
    assert [r.status for r in report.records] == ["ok"] * 3


def test_evaluate_when_an_attack_raises(raises, busy, digits, witness):
    x, y = digits[2][:60].clone(), digits[3][:60].clone()
    seen = witness(busy, x, y)
    report = rs.evaluate(busy, (x, y), ["raises", "fgsm"], BALL)
    seen.check()
    failed, other = report.records[1:]
    assert (failed.status, other.status) == ("error", "ok")
    assert "Traceback" in failed.message
    assert "RuntimeError: planted" in failed.message


def test_evaluate_when_it_is_interrupted(raises, busy, digits, witness, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x, y = digits[2][:60].clone(), digits[3][:60].clone()
    seen = witness(busy, x, y)
    with pytest.raises(KeyboardInterrupt):
        rs.evaluate(busy, (x, y), [rs.attack("raises", interrupt=True)], BALL)
    seen.check()
    assert list(tmp_path.iterdir()) == [], "the temporary folder is gone"


def test_evaluate_when_the_request_is_wrong(busy, digits, witness):
    x, y = digits[2][:60].clone(), digits[3][:60].clone()
    seen = witness(busy, x, y)
    with pytest.raises(rs.RequestError):
        rs.evaluate(busy, (x * 255, y), ["fgsm"], BALL)
    with pytest.raises(rs.ModelError):
        rs.evaluate(nn.Sequential(busy, nn.Flatten(0)), (x, y), ["fgsm"], BALL)
    seen.check()


def test_evaluate_what_answers_with_probabilities(busy, digits, witness):
    x, y = digits[2][:60].clone(), digits[3][:60].clone()
    seen = witness(busy, x, y)
    rs.evaluate(nn.Sequential(busy, nn.Softmax(1)), (x, y), ["fgsm"], BALL)
    seen.check()


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_perturb(raises, busy, digits, witness, context):
    x, y = digits[2][:60].clone(), digits[3][:60].clone()
    seen = witness(busy, x, y)
    with context():
        moved = rs.perturb("pgd(steps=3)", busy, x, y, BALL)
        with pytest.raises(RuntimeError, match="planted"):
            rs.perturb("raises", busy, x, y, BALL)
    seen.check()
    assert not moved.requires_grad
    assert not torch.equal(moved, x)


def test_the_same_seed_gives_the_same_report_whatever_was_drawn_before(busy, digits):
    x, y = digits[2][:8], digits[3][:8]
    reports = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        reports.append(rs.evaluate(busy, (x, y), ["pgd(steps=3)"], BALL))
    assert [r.samples_digest for r in reports[0].records] == [r.samples_digest for r in reports[1].records]
