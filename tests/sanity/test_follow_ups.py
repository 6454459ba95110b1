"""Suspicions and follow-up attacks, by the default evaluation and without a hint."""

import pytest
import torch
import torch.nn.functional as F
from blobs import Behind, clouds, fitted
from torch import nn

import robustsuite as rs
from robustsuite.core.flags import describe

BALL = rs.Ball("linf", 0.2)
ATTACK = "pgd(steps=10, step_size=0.25)"


@pytest.fixture(scope="module")
def data():
    return clouds(20)


@pytest.fixture(scope="module")
def base(data):
    return fitted(*data)


def _inner_loop(net, x):
    moved = x.detach().clone()
    for _ in range(2):
        with torch.enable_grad():
            leaf = moved.requires_grad_(True)
            (slope,) = torch.autograd.grad(net(leaf).logsumexp(1).sum(), leaf)
        moved = (leaf + 0.01 * slope.sign()).clamp(0, 1).detach()
    return net(moved)


def _foreign(net, x):
    return net(torch.from_numpy((x.detach().numpy() * 15).round() / 15))


class Opaque(torch.autograd.Function):
    """A network as a service: answers, and nothing to differentiate."""

    @staticmethod
    def forward(ctx, x, net):
        return net(x)

    @staticmethod
    def backward(ctx, slope):
        return None, None


class Astray(torch.autograd.Function):
    """The identity, with a backward pass of its own."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return -slope.flip(-1)


def _bait(net, x):
    """The winner stays; every other score has nothing to do with the network."""
    winner = net(x).argmax(1, keepdim=True)
    decoys = torch.randn(x.shape[1], 4, generator=torch.Generator().manual_seed(3))
    return (torch.tanh(0.3 * x @ decoys) - 1.05).scatter(1, winner, 0.0)


def _other_where_differentiated(net, x):
    return x @ torch.randn(x.shape[1], 4, generator=torch.Generator().manual_seed(3)) if x.requires_grad else net(x)


BROKEN = {
    "opaque": (lambda net, x: Opaque.apply(x, net), "zero-gradients"),
    "opaque-labels": (lambda net, x: torch.eye(4)[Opaque.apply(x, net).argmax(1)], "zero-gradients"),
    "astray": (lambda net, x: net(Astray.apply(x)), "misleading-gradients"),
    "bait": (_bait, "misleading-gradients"),
    "other-network": (_other_where_differentiated, "misleading-gradients"),
    "honeypot": (lambda net, x: net(x) * torch.exp(-3 * (x.sum(1, keepdim=True) - 10)), "misleading-gradients"),
    "scaled": (lambda net, x: 1000 * net(x), "saturated-loss"),
    "detached": (lambda net, x: net(x).detach(), "zero-gradients"),
    "argmax": (lambda net, x: 5 * F.one_hot(net(x).argmax(1), 4).float(), "zero-gradients"),
    "rounded": (lambda net, x: net((x * 15).round() / 15), "zero-gradients"),
    "foreign": (_foreign, "zero-gradients"),
    "no-grad": (torch.no_grad()(lambda net, x: net(x)), "zero-gradients"),
    "noisy": (lambda net, x: net(x + 0.05 * torch.randn_like(x)), "nondeterministic"),
    "inner-loop": (_inner_loop, "gradients-in-forward"),
}


def judged(model, data, **rules):
    x, y = data
    report = rs.evaluate(model, (x[:120], y[:120]), ATTACK, BALL, rules=rules)
    return next(r for r in report.records if r.attack != "none")


def value(record, name="robust_accuracy_followed_up"):
    return record.metrics[name].value


def own(record):
    """The attack's own number, whatever its follow-up attacks broke."""
    return value(record, "robust_accuracy")


@pytest.fixture(scope="module")
def twin(base, data):
    """What the network gives that hides nothing."""
    return judged(base, data)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "astray" else ()) for name in BROKEN]
)
def test_what_hides_its_gradient_falls_with_its_twin(name, base, twin, data):
    function, flag = BROKEN[name]
    record = judged(Behind(base, function), data)
    assert value(record) <= value(twin) + 0.03
    assert {flag, f"resolved:{flag}"} & set(record.flags)
    assert record.status == "ok"
    assert record.review["played"][-1]["parameters"]
    assert record.cost["follow_up_forwards"] > 0
    assert own(record) == own(judged(Behind(base, function), data, follow_up=False)) or flag == "nondeterministic"
    assert flag in record.message


def _elsewhere(net, x):
    """The same network's labels, computed where nobody sees in."""
    first, _, second = net
    weights = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in (first, second)]
    hidden = (x.detach().numpy() @ weights[0][0].T + weights[0][1]).clip(0)
    return torch.eye(4)[(hidden @ weights[1][0].T + weights[1][1]).argmax(1)]


def test_what_questions_alone_leave_standing_is_no_verdict(base, data):
    x, y = data
    report = rs.evaluate(Behind(base, _elsewhere), (x[:120], y[:120]), ATTACK, rs.Ball("linf", 0.09))
    record = report.records[-1]
    assert value(record) > 0.05
    assert record.status == "inconclusive"
    assert "zero-gradients" in record.flags
    assert {"square", "transfer"} <= {step["attack"] for step in record.review["played"]}


def test_follow_ups_can_be_left_out(base, data):
    record = judged(Behind(base, BROKEN["detached"][0]), data, follow_up=False)
    assert own(record) > 0.9
    assert not record.review
    assert "robust_accuracy_followed_up" not in record.metrics


def test_the_per_sample_file_holds_the_attacks_own_result_and_the_verdict(base, data):
    x, y = data
    report = rs.evaluate(Behind(base, BROKEN["rounded"][0]), (x[:120], y[:120]), ATTACK, BALL)
    from robustsuite.evaluation.record_files import load_samples

    record = next(r for r in report.records if r.attack != "none")
    columns = load_samples(report.folder, record)
    assert float(columns["robust"].float().mean()) == pytest.approx(own(record))
    assert float(columns["verdict"].float().mean()) == pytest.approx(value(record))
    assert value(record) < own(record)
    found_by = columns["found_by"]
    assert torch.equal(found_by > 0, columns["robust"] & ~columns["verdict"])
    broke = [int((found_by == at + 1).sum()) for at in range(len(record.review["played"]))]
    assert broke == [step["broke"] for step in record.review["played"]]
    worst = report.frame.query("attack == 'worst-case' and metric == 'robust_accuracy'").iloc[0]
    assert worst.value == value(record)
    assert f"after pgd {broke[-1]}" in worst.message
    assert not bool((columns["distance"][columns["clean_correct"] & ~columns["robust"]] > BALL.radius + 1e-5).any())


def test_a_plain_robust_model_raises_no_doubt(data):
    x, y = data
    centres = torch.stack([x[y == c].mean(0) for c in range(4)])
    net = nn.Linear(20, 4)
    with torch.no_grad():
        net.weight.copy_(centres - centres.mean(0))
        net.bias.copy_(
            -(centres - centres.mean(0)) @ centres.mean(0) - 0.5 * (centres - centres.mean(0)).square().sum(1)
        )
    report = rs.evaluate(net, (x[:120], y[:120]), "pgd(steps=20)", rs.Ball("linf", 0.03))
    record = next(r for r in report.records if r.attack != "none")
    assert value(record) > 0.8
    assert not record.flags
    assert not record.review.get("played")


def test_a_model_is_left_as_it_was(base, data):
    before = {k: v.clone() for k, v in base.state_dict().items()}
    model = Behind(base, BROKEN["detached"][0]).train()
    judged(model, data)
    assert model.training
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


def test_a_settled_doubt_withholds_nothing():
    assert describe("zero-gradients").withholds
    assert not describe("resolved:zero-gradients").withholds
    assert "resolved by follow-up attacks" in describe("resolved:zero-gradients").meaning


def test_a_weak_attack_is_settled_by_a_strong_one_and_no_query(base, data):
    x, y = data
    report = rs.evaluate(base, (x[:120], y[:120]), "pgd(steps=1, step_size=0.4)", rs.Ball("linf", 0.09))
    record = report.records[-1]
    assert {"resolved:one-step-better", "resolved:unconverged"} & set(record.flags)
    assert [step["attack"] for step in record.review["played"]] == ["sanity checks", "cascade"]
    strong = rs.evaluate(base, (x[:120], y[:120]), "cascade", rs.Ball("linf", 0.09)).records[-1]
    assert abs(value(record) - value(strong)) * 120 <= 1 + 1e-9
    assert 0 < value(record) < own(record)
