"""Attack power: planted adversarial examples certainly exist, and what misses them is said to be weak."""

import pytest
import torch
import torch.nn.functional as F
from blobs import Behind, clouds, fitted

import robustsuite as rs
from robustsuite.core.deployed import Deployed, Outputs, Served
from robustsuite.core.flags import describe
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity.power import plant
from robustsuite.scenarios.victim import Victim

RADIUS = {"linf": 0.08, "l2": 0.5, "l1": 4.0}
WIDTH = 100
PGD = "pgd(steps=10, step_size=0.25)"


@pytest.fixture(scope="module")
def data():
    return clouds(WIDTH)


@pytest.fixture(scope="module")
def base(data):
    return fitted(*data)


def planted(model, data, norm="linf", most=30, radius=None, **rules):
    samples, streams = Samples(*data, 4), Streams(0)
    ball = rs.Ball(norm, RADIUS[norm] if radius is None else radius)
    victim = Victim(model if isinstance(model, Deployed) else Served(model), samples)
    return plant(victim, Evasion(ball=ball, **rules), most, streams), ball.within((0.0, 1.0))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_adversarial_example_lies_where_one_was_planted(norm, base, data):
    made, ball = planted(base, data, norm)
    test = made.victim.test
    assert len(test) >= 25
    with torch.no_grad():
        assert torch.equal(base(test.x).argmax(1), test.y)
        assert not (base(made.found).argmax(1) == test.y).any()
    assert ball.contains(made.found, test.x).all()


def test_it_lies_just_beyond_the_boundary_and_near_the_end_of_the_ball(base, data):
    """Between nine tenths and all of the radius; nearer only where the input itself lies nearer."""
    made, ball = planted(base, data)
    distance = ball.distance(made.found, made.victim.test.x)
    moved = ~torch.tensor([bool((row == data[0]).all(1).any()) for row in made.victim.test.x])
    assert moved.sum() >= 20
    assert (distance[moved] / ball.radius).tolist() == pytest.approx([0.95] * int(moved.sum()), rel=1e-3)
    back = torch.full((len(distance),), 0.88 * ball.radius)
    with torch.no_grad():
        assert torch.equal(base(ball.project(made.found, made.victim.test.x, back)).argmax(1), made.victim.test.y)


def test_examples_are_the_same_in_another_order_and_beside_others(base, data):
    few, _ = planted(base, data, most=5)
    many, _ = planted(base, data, most=60)
    place = {int(i): row for row, i in enumerate(many.victim.test.ids)}
    for row, i in enumerate(few.victim.test.ids.tolist()):
        assert torch.equal(few.victim.test.x[row], many.victim.test.x[place[i]])


def test_nothing_is_planted_where_no_line_leads(base, data):
    x, y = data
    assert planted(base, data, goal="targeted", target="next")[0] is None
    one = y == 0
    assert planted(base, (x[one], y[one]))[0] is None


class Shy(Deployed):
    """Rejects whatever it is not sure of."""

    fully_differentiable = False

    def __init__(self, network):
        self._network = network

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        logits = self._network(x)
        top = logits.topk(2, dim=1).values
        return Outputs(logits, top[:, 0] - top[:, 1] < 0.5)


def test_what_is_planted_is_accepted(base, data):
    made, _ = planted(Shy(base), data, radius=0.2)
    assert len(made.victim.test) >= 10
    for x, right in ((made.victim.test.x, True), (made.found, False)):
        with torch.no_grad():
            logits, rejected = made.victim.model(x)
        assert not rejected.any()
        assert ((logits.argmax(1) == made.victim.test.y) == right).all()


def judged(model, data, attack=PGD, radius=0.1, n=100):
    x, y = data
    return rs.evaluate(model, (x[:n], y[:n]), attack, rs.Ball("linf", radius)).records[-1]


def test_an_honest_network_hides_none(base, data):
    record = judged(base, data)
    assert record.metrics["robust_accuracy_followed_up"].value > 0.5
    assert record.metrics["attack_power"].value == 1.0
    assert record.metrics["attack_power_followed_up"].value == 1.0
    assert "low-power" not in record.flags
    assert record.metrics["attack_power"].n == record.review["power"]["planted"] >= 8
    assert record.review["power"]["random"] < 0.5


@pytest.mark.parametrize(
    "hides",
    [
        lambda net, x: net(x).detach(),
        lambda net, x: net((x * 15).round() / 15),
        lambda net, x: 1000 * net(x),
    ],
    ids=["detached", "rounded", "scaled"],
)
def test_an_attack_alone_misses_what_its_follow_ups_find(hides, base, data):
    record = judged(Behind(base, hides), data, radius=0.15)
    alone, whole = (record.metrics[name] for name in ("attack_power", "attack_power_followed_up"))
    assert alone.value < 0.5
    assert whole.value >= 0.95
    assert "low-power" not in record.flags


def _decoy(net, x):
    """Labels that nobody sees being made, beside smooth scores that have nothing to do with them."""
    first, _, second = net
    weights = [(part.weight.detach().numpy(), part.bias.detach().numpy()) for part in (first, second)]
    hidden = (x.detach().numpy() @ weights[0][0].T + weights[0][1]).clip(0)
    label = torch.from_numpy((hidden @ weights[1][0].T + weights[1][1]).argmax(1))
    slopes = torch.randn(x.shape[1], 4, generator=torch.Generator().manual_seed(3))
    return 3.0 * F.one_hot(label, 4) + torch.tanh(0.5 * x @ slopes)


def test_slopes_that_lead_nowhere_are_seen(base, data):
    """Scores that jump at the boundary, beside a smooth gradient: what is planted beyond the jump is not found."""
    record = judged(Behind(base, _decoy), data)
    assert record.metrics["robust_accuracy_followed_up"].value > 0.9
    assert judged(base, data).metrics["robust_accuracy_followed_up"].value < 0.8
    assert record.metrics["attack_power_followed_up"].value <= 0.5
    assert set(record.flags) == {"jump-at-boundary", "low-power"}
    assert record.status == "inconclusive"
    assert describe("low-power").withholds


def test_looking_takes_a_tenth_of_the_passes_at_most(base, data):
    for model, n in ((base, 400), (Behind(base, _decoy), 100)):
        cost = judged(model, data, n=n).cost
        looking = sum(value for name, value in cost.items() if name.startswith("power_"))
        assert 0 < looking <= 0.1 * (sum(cost.values()) - looking)
