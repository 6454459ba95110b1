"""An epsilon that is called valid is valid: nothing learns outside the noise, nobody shares it, weights start fresh."""

import dataclasses

import pytest
import torch
from torch import nn

from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.defenses.dp_sgd import DPSGD
from robustsuite.defenses.private_checks import Trials
from robustsuite.testing import tiny_samples
from robustsuite.training.fit import fit, make_network
from robustsuite.training.parts import CleanLoss
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

SEEN = []
LOSS = "the training loss of each epoch, in the record's history and charts: it is exact"


@dataclasses.dataclass(frozen=True)
class Around:
    """A linear network around a layer of these tests."""

    layer: str = "Identity"
    name: str = "around"

    def __call__(self, classes, shape, bounds):
        layer = globals().get(self.layer) or getattr(nn, self.layer)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), layer(), nn.ReLU(), nn.Linear(16, classes))


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Faint(nn.Module):
    def forward(self, x):
        return x - 0.01 * x.mean(0, keepdim=True)


class Neighbour(nn.Module):
    def forward(self, x):
        return x + 0.5 * x.roll(1, 0)


class Earlier(nn.Module):
    def forward(self, x):
        return x.cumsum(0)


class Counted(nn.Module):
    """Depends on how many examples there are, not on what they are."""

    def forward(self, x):
        return x / len(x)


class Pairs(nn.Module):
    """Mixes at random, and drops at random too."""

    def forward(self, x):
        return nn.functional.dropout(0.9 * x + 0.1 * x[torch.randperm(len(x))], 0.5, self.training)


class MixedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 + x.mean())


class Backward(nn.Module):
    """Answers are each example's own, gradients are not."""

    def forward(self, x):
        return MixedGradient.apply(x)


@pytest.mark.parametrize("layer", [Centre, Faint, Neighbour, Earlier, Counted, Pairs, Backward])
def test_examples_that_see_each_other_are_refused(layer):
    with pytest.raises(RequestError, match="mixes the examples of a batch; replace that layer"):
        fit(private(layer), tiny_samples(60), 0)


class Tracked(nn.Module):
    """A running mean in a buffer that is saved, one that is not, or a plain attribute."""

    def __init__(self, how="persistent"):
        super().__init__()
        if how == "attribute":
            self.seen = torch.zeros(16)
        else:
            self.register_buffer("seen", torch.zeros(16), persistent=how == "persistent")

    def forward(self, x):
        if self.training:
            self.seen = self.seen.lerp(x.detach().mean(0), 0.5)
        return x + 0.0 * self.seen


class Unsaved(Tracked):
    def __init__(self):
        super().__init__("unsaved")


class Attribute(Tracked):
    def __init__(self):
        super().__init__("attribute")


class Greatest(nn.Module):
    """A number of the data in an attribute."""

    greatest = 0.0

    def forward(self, x):
        self.greatest = max(self.greatest, float(x.detach().max()))
        return x


class Elsewhere(nn.Module):
    """What it has seen lies outside every module."""

    def forward(self, x):
        if self.training:
            SEEN.append(x.detach().mean(0))
        return x + (SEEN[-1] if SEEN else 0.0)


class Instance(nn.InstanceNorm1d):
    def __init__(self):
        super().__init__(4, track_running_stats=True)

    def forward(self, x):
        return super().forward(x.reshape(len(x), 4, 4)).reshape(len(x), 16)


@pytest.mark.parametrize("layer", [Tracked, Unsaved, Attribute, Greatest, Elsewhere, Instance])
def test_state_that_learns_outside_the_noise_is_refused(layer):
    SEEN.clear()
    with pytest.raises(RequestError, match="learns from the examples outside the noisy update"):
        fit(private(layer), tiny_samples(60), 0)


class Late(nn.Module):
    """Learns only from its third pass on, when the trials are over."""

    def __init__(self):
        super().__init__()
        self.passes = 0
        self.register_buffer("seen", torch.zeros(16))

    def forward(self, x):
        self.passes += 1
        if self.passes > 2:
            self.seen.lerp_(x.detach().mean(0), 0.5)
        return x


def test_what_learns_later_takes_validity_away():
    fitted = fit(private(Late), tiny_samples(60), 0)
    assert fitted.facts["epsilon_valid"] is False
    assert fitted.flags == ("epsilon-not-valid",)
    assert "buffer 2.seen learns from the examples" in fitted.facts["epsilon_reasons"][0]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return x


class Dropped(nn.Module):
    """Masks by example, by channel and by path: rows differ, and none sees another."""

    def forward(self, x):
        x = nn.functional.dropout(x, 0.3, self.training)
        x = nn.functional.dropout1d(x.reshape(len(x), 4, 4), 0.3, self.training).reshape(len(x), 16)
        return x * (0.7 + torch.rand(len(x), 1)).floor() + 0.01 * torch.randn_like(x)


class Spectral(nn.Module):
    """Its vectors move with the weights in each pass, whatever the examples."""

    def __init__(self):
        super().__init__()
        self.inner = nn.utils.spectral_norm(nn.Linear(16, 16))
        self.inner.weight_orig.requires_grad_(False)
        self.inner.bias.requires_grad_(False)

    def forward(self, x):
        return self.inner(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(x).relu())


@pytest.mark.parametrize("layer", [nn.Identity, nn.Dropout, Dropped, Counter, Spectral, Tied])
def test_what_keeps_examples_apart_stays_valid(layer):
    facts = fit(private(layer), tiny_samples(60), 0).facts
    assert facts["epsilon_valid"] is True, facts["epsilon_reasons"]
    assert facts["outside_guarantee"] == [LOSS]


def test_trials_leave_the_network_as_it_is():
    samples = tiny_samples(60)
    network = make_network(private(Counter), samples, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Trials(samples, Training(), CleanLoss()).refuse(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())


@dataclasses.dataclass(frozen=True)
class Mixup(CleanLoss):
    """One loss for each example, of which each holds two."""

    def __call__(self, network, batch, step):
        x = 0.7 * batch.x + 0.3 * batch.x.flip(0)
        return step.loss(network(x), batch.y)


def test_an_objective_that_mixes_examples_is_refused():
    with pytest.raises(RequestError, match="its objective mixes the examples of a batch"):
        fit(dataclasses.replace(private(nn.Identity), objective=Mixup()), tiny_samples(60), 0)


# --- noise ---


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).double()


def test_two_private_trainings_never_share_their_noise():
    """By one step with everybody in the batch: with one noise, 2 a - b would be the exact update."""
    samples = tiny_samples(100)

    def row(sigma):
        settings = Training(epochs=1, optimizer="sgd", lr=1.0, batch_size=100, validation=0.0)
        return fit(DPSGD(noise_multiplier=sigma, delta=1e-3)(Recipe(build=Around(), training=settings)), samples, 0)

    one, other, exact = (flat(row(sigma).network) for sigma in (20.0, 40.0, 0.0))
    noise, louder = one - exact, other - exact
    assert float(louder.norm() / noise.norm()) == pytest.approx(2.0, rel=0.15)
    assert abs(float(torch.corrcoef(torch.stack([noise, louder]))[0, 1])) < 4 / len(noise) ** 0.5
    assert torch.equal(one, flat(row(20.0).network))


@pytest.mark.parametrize("change", ["data", "layer", "settings", "objective"])
def test_all_that_tells_trainings_apart_keys_their_noise(change):
    samples, recipe = tiny_samples(60), private(nn.Identity)
    other = {
        "data": (tiny_samples(61), recipe),
        "layer": (samples, private(nn.Dropout)),
        "settings": (samples, private(nn.Identity, lr=0.5)),
        "objective": (samples, dataclasses.replace(recipe, objective=Mixup())),
    }[change]
    salts = [made.update.within(made, data, 0).salt for data, made in ((samples, recipe), (samples, recipe), other)]
    assert salts[0] == salts[1] != salts[2]


def test_a_build_that_no_record_can_hold_trains_all_the_same():
    recipe = dataclasses.replace(private(nn.Identity), build=lambda classes, shape, bounds: Around()(classes, shape, 0))
    assert torch.equal(*(flat(fit(recipe, tiny_samples(60), 0).network) for _ in range(2)))


# --- weights ---


@dataclasses.dataclass(frozen=True)
class Warm:
    """A network whose first weights come from elsewhere: exactly, or with a little of the seed's noise."""

    noise: float = 0.0
    name: str = "warm"

    def __call__(self, classes, shape, bounds):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
        trained = torch.linspace(-1, 1, 1024).sin().reshape(16, 64)
        with torch.no_grad():
            network[1].weight.copy_(trained + self.noise * torch.randn(16, 64))
        return network


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_weights_that_arrive_trained_take_validity_away(noise):
    recipe = dataclasses.replace(private(nn.Identity), build=Warm(noise))
    fitted = fit(recipe, tiny_samples(60), 0)
    assert fitted.facts["epsilon_valid"] is False
    assert "1.weight are the same under two seeds" in fitted.facts["epsilon_reasons"][0]
    assert "0.weight" not in fitted.facts["epsilon_reasons"][0]


class Usual(nn.Module):
    """Starts that all share: ones, zeros, the identity, a constant per channel, an order of places."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.same = nn.Linear(16, 16, bias=False)
        nn.init.eye_(self.same.weight)
        self.register_buffer("places", torch.arange(16))

    def forward(self, x):
        return self.same(self.norm(x))


def test_constant_starts_are_fresh():
    facts = fit(private(Usual), tiny_samples(60), 0).facts
    assert facts["epsilon_valid"] is True
    assert (facts["epsilon_reasons"], facts["outside_guarantee"]) == ([], [LOSS])


@dataclasses.dataclass(frozen=True)
class Normalised:
    name: str = "normalised"

    def __call__(self, classes, shape, bounds):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
        network.register_buffer("mean", torch.tensor([0.49, 0.48, 0.45]))
        return network


def test_constants_per_channel_are_named_outside_the_guarantee():
    samples = Samples(torch.rand(60, 3, 8, 8), torch.arange(60) % 4, 4)
    facts = fit(dataclasses.replace(private(nn.Identity), build=Normalised()), samples, 0).facts
    assert facts["epsilon_valid"] is True
    assert facts["outside_guarantee"] == [LOSS, "whatever mean, which comes with the network, was computed from"]


# --- foreign errors ---


def test_tied_weights_under_ghost_clipping_are_one_line():
    with pytest.raises(RequestError, match=r"grad_sample_mode='ghost', got NotImplementedError: .*tying.*; choose"):
        fit(private(Tied, grad_sample_mode="ghost"), tiny_samples(60), 0)


@pytest.mark.parametrize("rules", [{"noise_multiplier": 1e-3}, {"delta": 1e-200, "noise_multiplier": 1.0}])
def test_what_prv_cannot_compute_is_refused_before_the_training(rules):
    made = private(nn.Identity, accountant="prv", **rules)
    with pytest.raises(
        RequestError, match=r"the accountant prv can compute at delta=.*; .*choose accountant: rdp"
    ) as e:
        fit(made, tiny_samples(60), 0, progress=lambda *_: pytest.fail("it trained"))
    assert "\n" not in str(e.value)


def private(layer, lr=0.1, **rules):
    settings = Training(epochs=2, optimizer="sgd", lr=lr, batch_size=20, validation=0.0)
    budget = {"noise_multiplier": 1.0, "delta": 1e-3, **rules}
    return DPSGD(**budget)(Recipe(build=Around(layer.__name__), training=settings))
