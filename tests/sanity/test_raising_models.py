"""A model that raises: on the way back it has no gradient, and on perturbed inputs it gives no verdict."""

import copy

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.deployed import Raised, Served, ask_each
from robustsuite.core.gradients import input_slope
from robustsuite.evaluation.record_files import load_samples
from robustsuite.testing.victims import tiny_network, tiny_samples

BALL = rs.Ball("linf", 0.03)
CODE = "raises-on-perturbed"


def on_grid(samples):
    x = (samples.x * 255).round() / 255
    return x, samples.y


DATA = on_grid(tiny_samples(24, first=10_000))


class Behind(nn.Module):
    """The tiny network behind something that looks at its input first."""

    def __init__(self, look):
        super().__init__()
        self.inner, self.look = copy.deepcopy(tiny_network()), look

    def forward(self, x):
        return self.inner(self.look(x))


def off_grid(x):
    return ((x * 255).round() / 255 - x).abs().flatten(1).amax(1) > 1e-6


def refuses_off_grid(x):
    if off_grid(x).any():
        raise ValueError("expected pixels k/255")
    return x


def refuses_bright_off_grid(x):
    """Only where the first pixel is bright, so that the other samples are answered in any case."""
    if (off_grid(x) & (x[:, 0, 0, 0] > 0.5)).any():
        raise ValueError("expected pixels k/255")
    return x


def refuses_twins(x):
    gaps = torch.cdist(x.detach().flatten(1), x.detach().flatten(1))
    if bool((gaps + 9 * torch.eye(len(x)) < 0.5).any()):
        raise RuntimeError("two of these are one image")
    return x


class Unable(torch.autograd.Function):
    """The identity, whose backward pass raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        raise ValueError("nobody needs this")


def judged(model, attack=None, ball=BALL, data=DATA, **rules):
    report = rs.evaluate(model.eval(), data, attack, ball, rules=rules)
    return report.records[-1], report


def test_a_backward_pass_that_raises_leads_nowhere():
    for function in (Unable.apply, lambda x: torch.igamma(x, torch.ones_like(x))):
        leaf = torch.rand(3, 4, requires_grad=True)
        for keep in (False, True):
            assert input_slope(function(leaf).sum(1), leaf, keep=keep) is None
        assert input_slope(function(leaf).sum(1), leaf, by_backward=True) is None
        assert leaf.grad is None


@pytest.mark.parametrize(
    "look", [Unable.apply, lambda x: torch.from_numpy(x.numpy().copy())], ids=["backward", "forward"]
)
def test_a_gradient_that_raises_is_a_missing_one(look):
    """The same as one that is zero: a flag, and follow-up attacks through surrogates, to the verdict of the twin."""
    model, few = Behind(look), (DATA[0][:8], DATA[1][:8])
    record, _ = judged(model, "pgd(steps=5)", rs.Ball("linf", 0.06), few)
    twin, _ = judged(model.inner, "pgd(steps=5)", rs.Ball("linf", 0.06), few)
    assert "resolved:zero-gradients" in record.flags
    assert record.status == "ok"
    name = "robust_accuracy_followed_up"
    assert record.metrics[name].value <= twin.metrics[name].value + 0.03 < record.metrics["robust_accuracy"].value


def test_an_answer_that_raises_is_rejected_and_the_others_are_answered():
    x = DATA[0]
    moved = x.clone()
    moved[[1, 5, 6]] += 1e-3
    model, raised = Served(Behind(refuses_off_grid).eval()), Raised()
    with torch.no_grad():
        model(x[:4]), model(x[:5])
        told, wanted = ask_each(model, moved, 4, raised), model(x).logits
    assert torch.equal(told.rejected.nonzero()[:, 0], torch.tensor([1, 5, 6]))
    assert torch.allclose(told.logits[~told.rejected], wanted[~told.rejected], atol=1e-5)
    assert (raised.alone, raised.together) == (3, 0)
    assert raised.first == "ValueError: expected pixels k/255"
    twins, raised = Served(Behind(refuses_twins).eval()), Raised()
    with torch.no_grad():
        twins(x[:4]), twins(x[:5])
        told = ask_each(twins, x[[0, 1, 2, 2, 3, 4]], 4, raised)
    assert not told.rejected.any()
    assert (raised.alone, raised.together) == (0, 1)


@pytest.mark.parametrize("attack", ["cascade(rounds=0)", "square(queries=5)", "hop-skip-jump(queries=20)"])
def test_a_model_that_raises_off_the_grid_is_said_to(attack):
    record, _ = judged(Behind(refuses_off_grid), attack, data=(DATA[0][:8], DATA[1][:8]))
    assert record.status == "inconclusive"
    assert CODE in record.flags
    assert "raised ValueError: expected pixels k/255, when it was asked about one perturbed input" in record.message
    assert record.metrics["clean_accuracy"].value > 0.9
    assert record.metrics["robust_accuracy"].value > 0.9


def test_a_model_that_raises_on_two_alike_is_said_to():
    few = (DATA[0][:4], DATA[1][:4])  # so few that restarts run side by side
    record, _ = judged(Behind(refuses_twins), "pgd(steps=2, restarts=3)", rs.Ball("linf", 0.01), few)
    assert record.status == "inconclusive"
    assert CODE in record.flags
    assert "raised RuntimeError: two of these are one image, about several that it answers one by one" in record.message


def test_nothing_of_what_it_answers_is_lost():
    """Samples of which it answers everything get the verdicts of the plain network."""
    model = Behind(refuses_bright_off_grid)
    record, report = judged(model, "pgd(steps=10)", follow_up=False)
    twin, plain = judged(model.inner, "pgd(steps=10)", follow_up=False)
    seen, wanted = load_samples(report.folder, record), load_samples(plain.folder, twin)
    bright = DATA[0][:, 0, 0, 0] > 0.5 - BALL.radius
    assert 3 < int(bright.sum()) < 21
    assert torch.equal(seen["robust"][~bright], wanted["robust"][~bright])
    assert int((wanted["robust"] != seen["robust"])[bright].sum()) > 0
    assert record.status == "inconclusive"
    assert CODE in record.flags


def test_a_model_that_raises_on_clean_inputs_is_refused():
    x, y = DATA
    with pytest.raises(rs.ModelError, match="expected pixels k/255"):
        rs.evaluate(Behind(refuses_off_grid).eval(), (x + 1e-3, y), "pgd(steps=2)", BALL)


def test_perturb_leaves_what_raises_where_it_was():
    x, y = DATA[0][:6], DATA[1][:6]
    moved = rs.perturb("pgd(steps=3)", Behind(refuses_off_grid).eval(), x, y, BALL)
    assert torch.equal(moved, x)
