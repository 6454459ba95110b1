"""A user's own network, as it comes: evaluated rightly, or refused with the wrap that mends it."""

import copy

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.evaluation.record_files import load_samples

BALL = rs.Ball("linf", 0.08)
ATTACK = "pgd(steps=10, follow_up=False)"
MEAN, STD = 0.3053, 0.3763
NOTE = "the model was in training mode; it was evaluated in eval mode and put back"


def figures(model, data, ball=BALL, attack=ATTACK, **options):
    """Clean accuracy, robust accuracy and the robust verdicts."""
    report = rs.evaluate(model, data, attack, ball, **options)
    record = report.records[1]
    assert record.status == "ok", record.message
    robust = load_samples(report.folder, record)["robust"]
    return record.metrics["clean_accuracy"].value, record.metrics["robust_accuracy"].value, robust


class Normalises(nn.Module):
    """The same network with its normalisation inside, written by hand."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x - MEAN) / STD)


@pytest.fixture(scope="module")
def outside(digits, fitted, make_mlp):
    """A network that wants normalised inputs."""
    x, y, _, _ = digits
    return fitted(make_mlp(), (x - MEAN) / STD, y).eval()


def test_normalisation_outside_normalised_inputs_are_refused_with_the_wrap(outside, digits):
    _, _, x, y = digits
    normalised = (x - MEAN) / STD
    with pytest.raises(rs.RequestError) as refused:
        rs.evaluate(outside, (normalised, y), ATTACK, BALL)
    told = str(refused.value)
    assert f"min={normalised.min():g} and max={normalised.max():g}" in told
    assert "bounds=(0, 1)" in told
    assert "rs.wrap(model, mean=..., std=...)" in told


def test_normalisation_outside_with_the_wrap_is_evaluated_in_raw_units(outside, digits):
    _, _, x, y = digits
    clean, robust, verdicts = figures(rs.wrap(outside, mean=MEAN, std=STD), (x, y))
    by_hand = figures(Normalises(outside), (x, y))
    assert (clean, robust) == by_hand[:2]
    assert torch.equal(verdicts, by_hand[2])
    assert clean > 0.9
    assert 0 < robust < clean
    assert not torch.equal(figures(outside, (x, y))[2], verdicts), "without the wrap it is another model"


def test_a_radius_means_raw_units_whatever_the_network_sees(outside, digits):
    """Divided by a deviation of 0.38, a radius in normalised units would be 2.7 times as large in raw ones."""
    _, _, x, y = digits
    moved = rs.perturb("pgd(steps=10)", rs.wrap(outside, mean=MEAN, std=STD), x, y, BALL)
    assert float((moved - x).abs().max()) == pytest.approx(0.08, abs=1e-6)


@pytest.fixture(scope="module")
def batchnorm(digits, fitted):
    x, y, _, _ = digits
    features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return fitted(nn.Sequential(features, nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 10)), x, y, steps=200)


def test_batchnorm_in_training_mode_is_evaluated_in_eval_mode_and_put_back(batchnorm, digits, witness):
    _, _, x, y = digits
    evaluating, training = copy.deepcopy(batchnorm).eval(), copy.deepcopy(batchnorm).train()
    expected = figures(evaluating, (x, y))
    seen = witness(training, x)
    report = rs.evaluate(training, (x, y), ATTACK, BALL)
    seen.check()
    assert report.records[1].metrics["robust_accuracy"].value == expected[1]
    assert [r.message[-len(NOTE) :] for r in report.records] == [NOTE, NOTE], "the note is not lost when metrics come"
    assert {m[-len(NOTE) :] for m in report.frame[report.frame.attack == "pgd"].message} == {NOTE}
    assert not any(NOTE in r.message for r in rs.evaluate(evaluating, (x, y), ATTACK, BALL).records)


def test_one_part_in_training_mode_is_noted_too(batchnorm, digits):
    _, _, x, y = digits
    partly = copy.deepcopy(batchnorm).eval()
    partly[0][1].train()
    report = rs.evaluate(partly, (x, y), "fgsm", BALL)
    assert report.records[0].message == NOTE
    assert partly[0][1].training
    assert not partly.training


def test_the_note_stands_beside_what_the_judge_says(batchnorm, digits):
    """Masked logits: the judge flags, the note stays."""
    _, _, x, y = digits

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(batchnorm).eval()

        def forward(self, x):
            return self.inner(x) + torch.randn(len(x), 10)

    record = rs.evaluate(Noisy().train(), (x, y), "noise", BALL).records[1]
    assert record.status == "inconclusive"
    assert record.message == (
        "the model answers differently when queried twice; judge it over several draws (draws: 10); " + NOTE
    )


def test_probabilities_give_the_logits_figures_declared_or_not(network, digits):
    _, _, x, y = digits
    probabilities = nn.Sequential(network, nn.Softmax(1))
    of_logits = figures(network, (x, y))
    for model in (rs.wrap(probabilities, output="probabilities"), probabilities):
        found = figures(model, (x, y))
        assert found[0] == of_logits[0]
        assert abs(found[1] - of_logits[1]) * len(y) <= 1 + 1e-9
    assert 0 < of_logits[1] < of_logits[0]


class Column(nn.Module):
    """One logit a sample, as `(N,)` or `(N, 1)`."""

    def __init__(self, network, flat, last=None):
        super().__init__()
        self.network, self.flat, self.last = network, flat, last or nn.Identity()

    def forward(self, x):
        z = self.last(self.network(x))
        return z[:, 0] if self.flat else z


@pytest.fixture(scope="module")
def binary(digits, fitted, make_mlp):
    """Is it at least five? One logit, and the same as two by hand."""
    x, y, _, _ = digits
    return fitted(make_mlp(1), x, (y >= 5).long()).eval()


class Two(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        z = self.network(x)
        return torch.cat([-z / 2, z / 2], 1)


@pytest.mark.parametrize("flat", [True, False])
def test_one_logit_is_refused_and_declared_is_right(binary, digits, flat):
    _, _, x, y = digits
    data = (x, (y >= 5).long())
    model = Column(binary, flat)
    with pytest.raises(rs.ModelError, match=r'one logit is declared by rs\.wrap\(model, output="binary-logit"\)'):
        rs.evaluate(model, data, ATTACK, BALL)
    clean, robust, verdicts = figures(rs.wrap(model, output="binary-logit"), data)
    by_hand = figures(Two(binary), data)
    assert (clean, robust) == by_hand[:2]
    assert torch.equal(verdicts, by_hand[2])
    assert clean > 0.85
    assert 0 < robust < clean


@pytest.mark.parametrize("flat", [True, False])
def test_one_probability_is_refused_and_declared_is_right(binary, digits, flat):
    _, _, x, y = digits
    data = (x, (y >= 5).long())
    model = Column(binary, flat, nn.Sigmoid())
    with pytest.raises(rs.ModelError, match='one with one probability by output="probabilities"'):
        rs.evaluate(model, data, ATTACK, BALL)
    clean, robust, _ = figures(rs.wrap(model, output="probabilities"), data)
    by_hand = figures(Two(binary), data)
    assert clean == by_hand[0]
    assert abs(robust - by_hand[1]) * len(y) <= 1 + 1e-9


def test_double_precision(network, digits):
    _, _, x, y = digits
    single = figures(network, (x, y))
    for inputs in (x, x.double()):
        double = figures(copy.deepcopy(network).double(), (inputs, y))
        assert double[0] == single[0]
        assert abs(double[1] - single[1]) * len(y) <= 1 + 1e-9


class Nearest(nn.Module):
    """No parameters at all: minus the squared distance to a class's constant."""

    def forward(self, x):
        mean = x.flatten(1).mean(1, keepdim=True)
        return -((mean - torch.tensor([[0.2, 0.4, 0.6]], dtype=x.dtype)) ** 2)


def test_a_model_without_parameters_has_its_exact_robust_accuracy():
    x = torch.tensor([0.1, 0.25, 0.35, 0.45, 0.52, 0.9]).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    clean, robust, verdicts = figures(Nearest(), (x, y), rs.Ball("linf", 0.06), "pgd")
    assert clean == 1.0
    # Borders lie at 0.3 and 0.5: those nearer than 0.06 fall.
    assert verdicts.tolist() == [True, False, False, False, False, True]
    assert robust == 2 / 6


def test_channels_last_memory(batchnorm, digits):
    _, _, x, y = digits
    plain = figures(copy.deepcopy(batchnorm).eval(), (x, y))
    model = copy.deepcopy(batchnorm).eval().to(memory_format=torch.channels_last)
    other = figures(model, (x.contiguous(memory_format=torch.channels_last), y))
    assert other[0] == plain[0]
    assert abs(other[1] - plain[1]) * len(y) <= 1 + 1e-9


class WritesToItsInput(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.sub_(MEAN).div_(STD))


class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("pixel_values")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda net: nn.Sequential(nn.Conv2d(3, 4, 3), net), r"\(8, 1, 8, 8\) and torch\.float32, got RuntimeError"),
        (lambda net: Fails(), "got KeyError: 'pixel_values'"),
        (lambda net: nn.Sequential(net, nn.Flatten(0)), r"logits of shape \(8, classes\), got shape=\(80,\)"),
        (lambda net: nn.Sequential(net, nn.Unflatten(1, (2, 5))), r"shape=\(8, 2, 5\)"),
    ],
)
def test_models_that_cannot_be_judged_are_refused_with_the_reason(network, digits, make, told):
    _, _, x, y = digits
    before = x.clone()
    with pytest.raises(rs.ModelError, match=told):
        rs.evaluate(make(network), (x, y), ATTACK, BALL)
    assert torch.equal(x, before)


def test_a_model_that_writes_to_its_input_is_given_copies(network, digits):
    _, _, x, y = digits
    before = x.clone()
    writes = figures(WritesToItsInput(network), (x, y))
    wrapped = figures(rs.wrap(network, mean=MEAN, std=STD), (x, y))
    assert writes[:2] == wrapped[:2]
    assert torch.equal(writes[2], wrapped[2])
    assert torch.equal(x, before)


class Both(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"logits": self.network(x)}


def test_a_dictionary_of_outputs_is_read_where_it_names_logits(network, digits):
    _, _, x, y = digits
    named, alone = (figures(net, (x, y)) for net in (Both(network), network))
    assert named[:2] == alone[:2]
    assert torch.equal(named[2], alone[2])


def test_lazy_weights_are_refused_and_stay_lazy(digits):
    _, _, x, y = digits
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(rs.RequestError, match=r"model\.1\.weight='lazy'; run one batch"):
        rs.evaluate(lazy, (x, y), ATTACK, BALL)
    assert isinstance(lazy[1], nn.LazyLinear)


def test_fewer_classes_than_declared_and_more_than_labelled(network, digits):
    _, _, x, y = digits
    with pytest.raises(rs.ModelError, match=r"\(N, 12\), got shape=\(8, 10\)"):
        rs.evaluate(network, (x, y), ATTACK, BALL, classes=12)
    for fewer in (2, 9):
        few = y < fewer
        with pytest.raises(rs.RequestError, match=rf"as many classes as the model scores, got classes={fewer}; .* 10"):
            rs.evaluate(network, (x[few], y[few]), ATTACK, BALL, classes=fewer)
    assert figures(network, (x, y), classes=10)[0] > 0.8
    few = y < 3
    assert figures(network, (x[few], y[few]))[0] > 0.8


def test_an_attention_mask_of_minus_infinity_is_no_broken_weight(digits, network):
    _, _, x, y = digits

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network
            self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))

        def forward(self, x):
            return self.network(x) + self.mask.softmax(1).sum() * 0

    assert figures(Masked(), (x, y))[0] == figures(network, (x, y))[0]
