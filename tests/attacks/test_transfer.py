"""Transfer: learnt and given surrogates, masked victims, and what is refused before any work."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import robustsuite as rs
from robustsuite.access.meter import Meter
from robustsuite.access.oracles import AuxiliaryData, Transfer
from robustsuite.access.views import make_view
from robustsuite.attacks.evasion.surrogates import Together
from robustsuite.attacks.evasion.transfer import TransferAttack
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams

UNIT = (0.0, 1.0)
WIDE = Ball("linf", 0.3, UNIT)


@pytest.fixture(scope="module")
def known():
    data = load_digits()
    x = torch.tensor(data.images / 16, dtype=torch.float32)[:600, None]
    return Samples(x, torch.tensor(data.target)[:600], 10, UNIT, torch.arange(600))


def view_on(net, x, y, ball, held=None, *, budget=None, target=None):
    common = {
        "x": x, "y": y, "ids": torch.arange(len(y)), "ball": ball, "classes": 10, "target": target, "meter": Meter(),
    }  # fmt: skip
    return make_view("transfer", Served(net), common, budget, auxiliary=None if held is None else AuxiliaryData(held))


class Masked(nn.Module):
    """The same decisions, with no gradient at all."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).detach()


def test_learnt_surrogates_break_a_victim_without_gradients(digits, known):
    net, x, y = Masked(digits["plain"]), digits["x"][:80], digits["y"][:80]
    view = view_on(net, x, y, WIDE, known)
    moved = TransferAttack(samples=600)(view, Streams(0))
    noise = WIDE.sample(x, torch.arange(80), Streams(1))
    left = [float((net(z).argmax(1) == y).double().mean()) for z in (moved, noise)]
    assert left[0] < 0.2 < 0.8 < left[1]
    assert max(view.meter.queries.values()) <= 3
    assert not view.meter.broken
    assert next(iter(view.meter.notes)) == "crafted on cnn, mlp learnt from 1200 answers of the victim"


def test_the_view_holds_no_module_of_the_victim(digits, known):
    view = view_on(digits["plain"], digits["x"][:2], digits["y"][:2], WIDE, known)
    assert isinstance(view, Transfer)
    assert not any(isinstance(value, nn.Module) for value in vars(view).values())


def test_surrogates_are_learnt_once_a_game_whatever_the_batch(digits, known):
    net, x, y = digits["hardened"], digits["x"][:12], digits["y"][:12]
    attack = TransferAttack(samples=60, epochs=2, steps=4)
    whole = attack(view_on(net, x, y, WIDE, known), Streams(0))
    view = view_on(net, x, y, WIDE, known)
    parts = [attack(view.take(rows), Streams(0)) for rows in torch.arange(12).split(5)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)
    assert len(view.auxiliary.made) == 1


def test_a_surrogate_that_is_the_victim_is_a_white_box(digits):
    net, x, y = digits["plain"], digits["x"][:60], digits["y"][:60]
    view = view_on(net, x, y, Ball("linf", 0.2, UNIT))
    before = [(p.grad, p.requires_grad) for p in net.parameters()]
    moved = TransferAttack(surrogates=(net,))(view, Streams(0))
    assert float((net(moved).argmax(1) == y).double().mean()) < 0.05
    after = [(p.grad, p.requires_grad) for p in net.parameters()]
    assert all(a[0] is b[0] and a[1] == b[1] for a, b in zip(after, before, strict=True))


def test_it_aims(digits):
    net, x, y = digits["plain"], digits["x"][:60], digits["y"][:60]
    target = (y + 1) % 10
    moved = TransferAttack(surrogates=(net,))(view_on(net, x, y, Ball("linf", 0.3, UNIT), target=target), Streams(0))
    assert float((net(moved).argmax(1) == target).double().mean()) > 0.5


def test_together_is_the_mean_of_log_probabilities():
    one, other = nn.Linear(3, 4), nn.Linear(3, 4)
    x = torch.rand(5, 3)
    wanted = (one(x).log_softmax(1) + other(x).log_softmax(1)) / 2
    assert torch.allclose(Together([one, other])(x), wanted)


def test_what_cannot_stand_in_is_refused_before_any_work(digits):
    net, x, y = digits["plain"], digits["x"][:2], digits["y"][:2]
    view = view_on(net, x, y, WIDE)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(RequestError, match=r"logits \(N, 10\).*got surrogates=\(1, 7\)"):
        TransferAttack(surrogates=(other,))(view, Streams(0))
    with pytest.raises(RequestError, match="data to learn a surrogate from, got known=None"):
        TransferAttack()(view, Streams(0))
    with pytest.raises(RequestError, match="query_budget=0"):
        TransferAttack()(view_on(net, x, y, WIDE, budget=0), Streams(0))
    with pytest.raises(RequestError, match="a tuple of torch modules"):
        TransferAttack(surrogates=("cnn",))
    assert view.meter.forwards == view.meter.backwards == 0


def test_a_named_factory(digits, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef make(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    view = view_on(digits["plain"], digits["x"][:4], digits["y"][:4], WIDE)
    TransferAttack(surrogate=f"{tmp_path / 'mine.py'}:make")(view, Streams(0))
    assert "mine.py:make" in next(iter(view.meter.notes))


def test_perturb_learns_from_the_inputs(digits):
    net, x, y = digits["plain"], digits["x"][:40], digits["y"][:40]
    moved = rs.perturb(rs.attack("transfer", epochs=2), net, x, y, WIDE)
    assert bool(WIDE.contains(moved, x).all())
