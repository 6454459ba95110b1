"""Views: what is counted, what is enforced, what is out of reach."""

import pytest
import torch
from torch import nn

from robustsuite.access.inputs import Inputs
from robustsuite.access.meter import Meter
from robustsuite.access.views import make_view
from robustsuite.access.white_box import WhiteBox
from robustsuite.core import losses
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Deployed, Outputs, Served
from robustsuite.core.errors import BudgetError


class Guarded(Deployed):
    """Rejects inputs whose first coordinate is negative."""

    fully_differentiable = False

    def __init__(self, network):
        self._network = network

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        return Outputs(self._network(x), x[:, 0] < 0)


def linear():
    net = nn.Linear(3, 4).double()
    with torch.no_grad():
        net.weight.copy_(torch.arange(12).reshape(4, 3) - 5.0)
        net.bias.zero_()
    return net


def common(n=4, **changes):
    x = torch.arange(n * 3, dtype=torch.float64).reshape(n, 3) / 10
    fields = {"x": x, "y": torch.zeros(n, dtype=torch.int64), "ids": torch.arange(n) + 100, "ball": Ball("linf", 0.1)}
    return {**fields, "classes": 4, "meter": Meter(), **changes}


def test_ascend_gives_loss_gradient_and_verdict_of_one_pass():
    net = linear()
    view = make_view("white-box", Served(net), common())
    rows = torch.tensor([1, 3])
    seen = view.value_and_grad(view.x[rows], rows)
    x = view.x[rows].clone().requires_grad_()
    wanted = losses.cross_entropy(net(x), view.y[rows])
    torch.testing.assert_close(seen.value, wanted.detach())
    torch.testing.assert_close(seen.gradient, torch.autograd.grad(wanted.sum(), x)[0])
    assert torch.equal(seen.broken, net(x).argmax(1) != 0)
    assert (view.meter.forwards, view.meter.backwards) == (2, 2)
    assert not any(part.requires_grad for part in seen)
    assert all(p.grad is None for p in net.parameters())


def test_a_forward_only_look_costs_no_backward():
    view = make_view("white-box", Served(linear()), common())
    rows = torch.arange(4)
    view.value(view.x, rows)
    view.broken(view.x, rows)
    assert (view.meter.forwards, view.meter.backwards) == (8, 0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_ascend_works_where_the_caller_switched_gradients_off(mode):
    net = linear()
    with mode():
        view = make_view("white-box", Served(net), common())
        seen = view.value_and_grad(view.x, torch.arange(4))
    assert float(seen.gradient.abs().sum()) > 0


def test_masked_gradients_are_counted():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().round() @ torch.ones(3, 4, dtype=torch.float64) * torch.arange(4.0).double()

    view = make_view("white-box", Served(Detached()), common(y=torch.full((4,), 3)))
    seen = view.value_and_grad(view.x, torch.arange(4))
    assert float(seen.gradient.abs().sum()) == 0
    standing = int((~seen.broken).sum())
    assert view.meter.zero_gradients == view.meter.gradients == standing > 0


def test_a_rejected_wrong_answer_is_not_broken():
    network = linear()
    x = torch.tensor([[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    view = make_view("white-box", Guarded(network), common(n=2, x=x, y=torch.zeros(2, dtype=torch.int64)))
    assert network(x).argmax(1).tolist() == [3, 3]
    assert view.broken(x, torch.arange(2)).tolist() == [False, True]
    assert view.meter.broken == {101}


def test_a_black_box_view_holds_no_module():
    for access in ("score-based", "decision-based", "blind"):
        view = make_view(access, Served(linear()), common())
        assert not isinstance(view, WhiteBox)
        assert not any(isinstance(value, nn.Module) for value in vars(view).values())
    assert type(make_view("blind", Served(linear()), common())) is Inputs


def test_query_budgets_are_enforced_per_sample_even_within_a_batch():
    view = make_view("decision-based", Served(linear()), common(), budget=3)
    view.labels(view.x, torch.arange(4))
    assert view.remaining(0) == 2
    with pytest.raises(BudgetError, match="got 4 for sample 100"):
        view.labels(view.x[[0, 0, 0]], torch.tensor([0, 0, 0]))
    assert view.remaining(0) == 2  # a refused query costs nothing
    view.labels(view.x[[0, 0]], torch.tensor([0, 0]))
    with pytest.raises(BudgetError, match="query_budget"):
        view.labels(view.x[:1], torch.tensor([0]))
    assert view.meter.queries == {100: 3, 101: 1, 102: 1, 103: 1}
    assert view.take(torch.tensor([2])).remaining(0) == 2


def test_oracles_answer_scores_or_labels_and_mark_rejections():
    x = torch.tensor([[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    scores = make_view("score-based", Guarded(linear()), common(n=2, x=x)).scores(x, torch.arange(2))
    assert scores.sum(1).tolist() == pytest.approx([0.0, 1.0])
    assert make_view("decision-based", Guarded(linear()), common(n=2, x=x)).labels(x, torch.arange(2)).tolist() == [
        -1,
        3,
    ]


def test_views_can_be_taken_apart():
    view = make_view("white-box", Served(linear()), common(n=5, target=torch.arange(5) % 4))
    first, second = view.halves()
    assert torch.cat([first.ids, second.ids]).tolist() == view.ids.tolist()
    assert torch.equal(torch.cat([first.target, second.target]), view.target)
    assert first.meter is view.meter
    assert view.take(torch.tensor([0])).halves() == ()


def test_goals():
    view = make_view("blind", Served(linear()), common())
    aimed = make_view("blind", Served(linear()), common(target=torch.full((4,), 2)))
    prediction = torch.tensor([0, 1, 2, 3])
    assert view.goal_reached(prediction).tolist() == [False, True, True, True]
    assert aimed.goal_reached(prediction).tolist() == [False, False, True, False]
