"""The engine's tricks leave verdicts as they are, and each of them is really at work."""

import copy
import time

import pytest
import torch
from torch import nn

from robustsuite.access.best_so_far import BestSoFar, side_by_side
from robustsuite.access.engine import FastPasses
from robustsuite.access.meter import Meter
from robustsuite.access.views import make_view
from robustsuite.core import losses, processor
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.streams import Streams
from robustsuite.plugins import registry
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.play import play
from robustsuite.testing.victims import tiny_network, tiny_samples, tiny_victim

BALL = Ball("linf", 0.03, (0.0, 1.0))
ATTACKS = {"pgd": {"steps": 15, "restarts": 2}, "apgd": {"steps": 20}, "mi-fgsm": {}, "fgsm": {}}


@pytest.fixture
def tiny():
    """A trained network with BatchNorm in eval mode, and samples that it gets right."""
    network, samples = copy.deepcopy(tiny_network()).eval(), tiny_samples(240, first=10_000)
    right = network(samples.x).argmax(1) == samples.y
    return network, samples.x[right], samples.y[right], samples.ids[right]


def view_of(tiny, engine=None, *, ball=BALL, rows=slice(None), target=None):
    network, x, y, ids = tiny
    common = {"x": x[rows], "y": y[rows], "ids": ids[rows], "ball": ball, "classes": 4, "meter": Meter()}
    return make_view("white-box", Served(network), {**common, "target": target}, engine=engine)


def left_robust(tiny, moved):
    return tiny[0](moved).argmax(1) == tiny[2]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_folded_copy_leaves_every_verdict(name, norm, tiny):
    ball = BALL if norm == "linf" else Ball("l2", 0.18, (0.0, 1.0))
    attack = registry.attacks.get(name).make(ATTACKS[name])
    plain, engine = view_of(tiny, ball=ball), FastPasses(tiny[0], tiny[1])
    assert engine.copied
    assert engine.notes == {}
    one = left_robust(tiny, attack(plain, Streams(0)))
    other = view_of(tiny, engine, ball=ball)
    two = left_robust(tiny, attack(other, Streams(0)))
    assert 0 < int(one.sum()) < len(one)
    assert int((one != two).sum()) <= 1  # of more than 200: a margin within rounding
    broken = set(tiny[3][~two].tolist())
    assert other.meter.broken == (set() if name == "fgsm" else broken)  # which does not look at where it lands


@pytest.fixture
def border(tiny):
    """Points on the border, where copy and original may differ, and the rows of the samples they belong to."""
    network, x, y, _ = tiny
    far = torch.where(
        network(1 - x).argmax(1, keepdim=True)[..., None, None] != y[:, None, None, None], 1 - x, x.flip(0)
    )
    usable = network(far).argmax(1) != y
    low, high = x[usable].double(), far[usable].double()
    for _ in range(40):  # in float64 between inputs, judged in float32: ends within rounding of the border
        middle = ((low + high) / 2).float()
        stands = (network(middle).argmax(1) == y[usable])[:, None, None, None]
        low, high = torch.where(stands, middle.double(), low), torch.where(stands, high, middle.double())
    return torch.cat([low.float(), high.float()]), usable.nonzero()[:, 0].repeat(2)


def test_verdicts_within_rounding_are_the_originals(tiny, border):
    points, rows = border
    network, x, y, _ = tiny
    engine = FastPasses(network, x)
    wanted = network(points).argmax(1) != y[rows]
    told = engine.copy(points).argmax(1) != y[rows]
    assert len(points) > 100
    assert int((wanted != told).sum()) > 0  # the copy alone would be wrong here
    view = view_of(tiny, engine, ball=Ball("linf", 1.0))
    assert torch.equal(view.value_and_grad(points, rows).broken, wanted)
    assert torch.equal(view.value(points, rows).broken, wanted)


@pytest.mark.parametrize("access", ["score-based", "decision-based"])
def test_an_oracle_answers_from_the_copy_and_labels_as_the_original_does(access, tiny, border):
    points, rows = border
    network, x, y, ids = tiny
    engine = FastPasses(network, x)
    common = {"x": x, "y": y, "ids": ids, "ball": Ball("linf", 1.0), "classes": 4, "meter": Meter()}
    oracle = make_view(access, Served(network), common, engine=engine)
    clean, near = torch.arange(len(x)), network(points)
    if access == "decision-based":
        assert torch.equal(oracle.labels(points, rows), near.argmax(1))
        assert torch.equal(oracle.labels(x, clean), network(x).argmax(1))
    else:
        assert torch.equal(oracle.scores(points, rows).argmax(1), near.softmax(1).argmax(1))
        told, wanted = oracle.scores(x, clean), network(x).softmax(1)
        assert torch.allclose(told, wanted, atol=1e-5)
        assert not torch.equal(told, wanted)  # so the copy was asked
    assert oracle.meter.forwards > len(points) + len(x)  # passes of those that were asked for twice count
    assert oracle.meter.total_queries == len(points) + len(x)  # but are no queries


def test_a_copy_that_is_not_smooth_must_be_confirmed_whatever_its_margin(tiny):
    """A planted liar: the copy calls everything wrong by a wide margin."""

    class Liar(nn.Module):
        def forward(self, x):
            return -100.0 * tiny[0](x)

    engine = FastPasses(tiny[0], tiny[1])
    engine.copy, engine.smooth = Liar(), False
    view = view_of(tiny, engine)
    seen = view.value_and_grad(view.x, torch.arange(len(view.y)))
    assert not bool(seen.broken.any())
    assert view.meter.broken == set()
    assert view.meter.forwards == 2 * len(view.y)


def test_successes_far_from_the_border_cost_no_second_pass(tiny):
    engine = FastPasses(tiny[0], tiny[1])
    view = view_of((tiny[0], tiny[1], (tiny[2] + 1) % 4, tiny[3]), engine)
    seen = view.value_and_grad(view.x, torch.arange(len(view.y)))
    assert bool(seen.broken.all())
    assert view.meter.forwards <= 1.1 * len(view.y)


class Moody(nn.Module):
    """Answers otherwise where its BatchNorm is gone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x):
        logits = self.head(self.norm(self.conv(x)).flatten(1))
        return logits if isinstance(self.norm, nn.BatchNorm2d) else -logits


class Alone(Moody):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("there is but one")


@pytest.mark.parametrize(("kind", "why"), [(Moody, "it answers differently"), (Alone, "TypeError")])
def test_what_cannot_be_folded_is_used_as_it_is_and_said(kind, why):
    network = kind().eval()
    engine = FastPasses(network, torch.rand(5, 1, 8, 8))
    assert engine.copy.network is network
    assert not engine.copied
    assert list(engine.notes) == [f"the network was run as it is, without folding ({why})"]


def test_the_note_reaches_the_judgement():
    class Only(type(tiny_network())):
        def __deepcopy__(self, memo):
            raise TypeError("there is but one")

    victim = tiny_victim(40)
    victim.model.network.__class__ = Only
    result = play(registry.attacks.get("fgsm").make(), Evasion(ball=BALL), victim, seed=0)
    assert "without folding (TypeError)" in result.message
    assert result.status == "ok"


def test_a_network_without_batchnorm_that_lies_well_is_not_copied():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    assert FastPasses(network, torch.rand(5, 1, 8, 8)).copy.network is network


class Watched(nn.Module):
    """Notes the size, the layout and the precision of each pass."""

    def __init__(self, inner, most=None):
        super().__init__()
        self.inner, self.most, self.seen = inner, most, []

    def forward(self, x):
        if self.most is not None and len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.seen.append((len(x), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return self.inner(x)


def test_a_pass_is_no_larger_than_the_engine_says(tiny):
    engine = FastPasses(tiny[0], tiny[1], most=32)
    engine.copy = Watched(engine.copy)
    view = view_of(tiny, engine)
    rows = torch.arange(len(view.y))
    seen = view.value_and_grad(view.x, rows)
    sizes = [size for size, _, _ in engine.copy.seen]
    assert max(sizes) == 32
    assert sum(sizes) == len(view.y)
    whole = view_of(tiny).value_and_grad(view.x, rows)
    torch.testing.assert_close(seen.gradient, whole.gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen.value, whole.value, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen.broken, whole.broken)


def test_batches_are_measured_and_the_same_each_time():
    small, large = (nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten()).eval() for width in (2, 1024))
    x = torch.rand(4, 3, 32, 32)
    assert FastPasses(small, x).batch == FastPasses(small, x).batch == 128
    assert FastPasses(large, x).batch == 16
    assert FastPasses(small, x, most=5).batch == 5


def test_memory_that_runs_out_halves_the_batch_for_good(tiny):
    meter = Meter()
    engine = FastPasses(tiny[0], tiny[1], notes=meter.notes)
    engine.copy = Watched(engine.copy, most=20)
    view = view_of(tiny, engine)
    rows = torch.arange(len(view.y))
    seen = view.value_and_grad(view.x, rows)
    assert engine.batch <= 20
    assert list(meter.notes) == ["memory ran out, and batches were halved"]
    torch.testing.assert_close(seen.gradient, view_of(tiny).value_and_grad(view.x, rows).gradient, rtol=1e-4, atol=1e-6)
    before = len(engine.copy.seen)
    view.value_and_grad(view.x, rows)
    assert sum(size for size, _, _ in engine.copy.seen[before:]) == len(view.y)


def test_no_gradient_of_a_weight_is_computed(tiny):
    network = tiny[0]
    asked = []
    for parameter in network.parameters():
        parameter.requires_grad_(True)
        parameter.register_hook(lambda gradient: asked.append(gradient.shape))
    for engine in (None, FastPasses(network, tiny[1])):
        view = view_of(tiny, engine)
        view.value_and_grad(view.x, torch.arange(len(view.y)))
        assert engine is None or not any(p.requires_grad for p in view.proxy.parameters())
    assert asked == []
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["pgd", "apgd", "mi-fgsm"])
def test_fast_finds_what_the_reference_finds_and_ends_in_full_precision(name, tiny):
    """Whether bfloat16 pays is a matter of the machine; that it leaves the verdicts is not."""
    attack = registry.attacks.get(name).make({"steps": 20})
    reference = view_of(tiny, FastPasses(tiny[0], tiny[1]))
    wanted = left_robust(tiny, attack(reference, Streams(0)))
    engine = FastPasses(tiny[0], tiny[1])
    engine.fast, engine.copy = True, Watched(engine.copy)
    view = view_of(tiny, engine)
    got = left_robust(tiny, attack(view, Streams(0)))
    assert abs(int(got.sum()) - int(wanted.sum())) <= 2  # of more than 200
    assert view.meter.broken == set(tiny[3][~got].tolist())
    lowered = [autocast for _, autocast, _ in engine.copy.seen]
    assert 0.8 < sum(lowered) / len(lowered) < 1
    assert not any(lowered[-2:])


def test_fast_is_refused_where_it_cannot_pay(tiny):
    engine = FastPasses(copy.deepcopy(tiny[0]).double(), tiny[1].double(), precision="fast")
    assert not engine.fast
    assert list(engine.notes) == ["fast is for float32; float64 was kept"]


def test_an_attack_that_does_not_say_how_far_it_is_is_never_lowered(tiny):
    engine = FastPasses(tiny[0], tiny[1])
    engine.fast, engine.copy = True, Watched(engine.copy)
    view = view_of(tiny, engine)
    view.value_and_grad(view.x, torch.arange(len(view.y)))
    assert not any(autocast for _, autocast, _ in engine.copy.seen)


def test_another_aim_and_a_map_on_the_way(tiny):
    for engine in (None, FastPasses(tiny[0], tiny[1], most=16)):
        view = view_of(tiny, engine)
        rows = torch.arange(len(view.y))
        aim = (view.y + 2) % 4
        seen = view.value_and_grad(view.x, rows, losses.margin_towards, target=aim, transform=lambda x, rows: x / 2)
        leaf = view.x.clone().requires_grad_()
        wanted = losses.margin_towards(tiny[0](leaf / 2), view.y, aim)
        (slope,) = torch.autograd.grad(wanted.sum(), leaf)
        torch.testing.assert_close(seen.value, wanted.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen.gradient, slope, rtol=1e-3, atol=1e-6)
        assert not bool(seen.broken.any())
        assert view.meter.broken == set()


def test_wrong_answers_beyond_the_ball_are_no_successes(tiny):
    view = view_of(tiny)
    rows = torch.arange(len(view.y))
    far = 1 - view.x
    seen = view.value_and_grad(far, rows)
    assert torch.equal(seen.broken, tiny[0](far).argmax(1) != view.y)
    assert bool(seen.broken.any())
    assert view.meter.broken == set()


def test_gradients_that_are_not_finite_are_zero_and_counted():
    class Broken(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            return torch.stack([flat.sum(1) + 9, (flat[:, 0] - 0.5).abs().sqrt()], dim=1)

    x = torch.full((3, 4), 0.5)
    x[2] = 0.3
    common = {"x": x, "y": torch.zeros(3, dtype=torch.int64), "ids": torch.arange(3), "ball": BALL, "classes": 2}
    view = make_view("white-box", Served(Broken()), {**common, "meter": Meter()})
    seen = view.value_and_grad(x, torch.arange(3))
    assert bool(seen.gradient.isfinite().all())
    assert (view.meter.broken_gradients, view.meter.gradients) == (2, 3)


def test_a_loss_that_still_rises_is_seen():
    meter, ids = Meter(), torch.arange(4)
    for done, values in ((0.1, [1.0, 1.0, 1.0, 1.0]), (0.7, [2.0, 2.0, 2.0, 1.5]), (1.0, [2.05, 1.0, 4.0, 9.0])):
        meter.climbed(losses.cross_entropy, ids, torch.tensor(values), done)
    meter.broken.add(3)
    assert meter.rising() == pytest.approx(1 / 3)
    assert meter.rising(0.01) == pytest.approx(2 / 3)
    assert Meter().rising() != Meter().rising()


def test_found_keeps_the_first_fall_else_the_greatest_loss_of_runs_side_by_side():
    found = BestSoFar(torch.zeros(3, 1))
    rows = torch.tensor([0, 1, 0, 1, 2])
    points = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    found.keep(points, rows, torch.tensor([5.0, 1.0, 7.0, 9.0, float("nan")]), torch.arange(5) == 1)
    assert found.x[:, 0].tolist() == [3.0, 2.0, 0.0]
    assert found.left().tolist() == [0, 2]
    found.keep(torch.full((3, 1), 8.0), torch.arange(3), torch.full((3,), 6.0), torch.tensor([False, True, True]))
    assert found.x[:, 0].tolist() == [3.0, 2.0, 8.0]
    assert found.unbroken(rows).tolist() == [True, False, True, False, False]


def test_restarts_share_a_batch_until_it_is_full():
    assert [side_by_side(9, standing, 16) for standing in (1, 2, 5, 8, 16, 100)] == [9, 8, 3, 2, 1, 1]
    assert side_by_side(2, 1, 16) == 2


def test_restarts_side_by_side_reach_the_verdicts_of_restarts_in_turn(tiny):
    """One sample at a time folds its restarts; all at once take theirs one after the other."""
    attack = registry.attacks.get("pgd").make({"steps": 10, "restarts": 6})
    together = left_robust(tiny, attack(view_of(tiny), Streams(0)))
    network, _, y, _ = tiny
    rows = torch.cat([together.nonzero()[:10, 0], (~together).nonzero()[:10, 0]])
    alone = [attack(view_of(tiny, rows=rows[i : i + 1]), Streams(0)) for i in range(len(rows))]
    assert torch.equal(network(torch.cat(alone)).argmax(1) == y[rows], together[rows])


def test_gradients_only_of_what_stands_are_those_and_cost_less(tiny):
    network, x, y, ids = tiny
    wrong = (y + (torch.arange(len(y)) % 4 > 0)) % 4  # three of four count as broken
    for engine in (None, FastPasses(network, x)):
        whole, part = (view_of((network, x, wrong, ids), engine) for _ in range(2))
        rows = torch.arange(len(y))
        wanted, got = whole.value_and_grad(x, rows), part.value_and_grad(x, rows, unbroken_only=True)
        assert torch.equal(got.broken, wanted.broken)
        torch.testing.assert_close(got.value, wanted.value)
        torch.testing.assert_close(got.gradient[~got.broken], wanted.gradient[~got.broken], rtol=1e-4, atol=1e-6)
        assert float(got.gradient[got.broken].abs().sum()) == 0
        still = int((~got.broken).sum())
        assert (part.meter.forwards, part.meter.backwards) == (len(y) + still, still)
        assert part.meter.gradients == whole.meter.gradients == still


def test_no_samples_are_no_passes(tiny):
    for engine in (None, FastPasses(tiny[0], tiny[1])):
        view = view_of(tiny, engine)
        seen = view.value_and_grad(view.x[:0], torch.arange(0))
        assert (len(seen.value), seen.gradient.shape) == (0, (0, 1, 8, 8))
        assert view.meter.forwards == 0


class Lowered(nn.Module):
    """A network that notes which passes run in bfloat16, and takes its time there."""

    def __init__(self, network, seconds):
        super().__init__()
        self.network, self.seconds, self.seen = network, seconds, []

    def forward(self, x):
        lowered = torch.is_autocast_enabled("cpu")
        self.seen.append(lowered)
        time.sleep(self.seconds if lowered else 0.0)
        return self.network(x)


@pytest.mark.parametrize(("units", "seconds", "most"), [((), 0.0, 0), (("avx512_bf16",), 0.5, 1)])
def test_finding_out_that_bfloat16_does_not_pay_costs_next_to_nothing(monkeypatch, units, seconds, most):
    """A processor without the units is not tried at all; one with them that is slow all the same, once."""
    monkeypatch.setattr(processor, "_processor", lambda: dict.fromkeys(units, True))
    network = Lowered(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval(), seconds)  # is not copied: it has no maps
    engine = FastPasses(network, torch.rand(8, 1, 8, 8), precision="fast")
    assert not engine.fast
    assert not engine.lowers(0.0)
    assert sum(network.seen) == most
    assert len(network.seen) <= 1 + 2 + most  # one pass measures the memory, two the time
    assert len(engine.notes) == 1
