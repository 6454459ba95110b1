"""The inversion judge, its baselines, and the stop rule of the attack."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustsuite.access.meter import Counted, Meter
from robustsuite.core.errors import BudgetError, NotApplicableError, RequestError
from robustsuite.core.streams import Streams
from robustsuite.plugins.registry import attacks
from robustsuite.scenarios import Inversion
from robustsuite.scenarios.inversion import Classes, class_means
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.testing import tiny_samples, tiny_victim


@pytest.fixture(scope="module")
def victim():
    return tiny_victim(101, 10)


def accuracy(name, access, victim, **options):
    return play(attacks.get(name).make(options), Inversion(access=access), victim, seed=0).values


def test_class_means_are_recognised_and_noise_is_not(victim):
    ceiling = accuracy("class-mean", "members", victim)
    assert ceiling["inversion_accuracy"].value >= 0.9
    assert ceiling["evaluator_accuracy"].value >= 0.9
    assert accuracy("inversion-noise", "blind", victim)["inversion_accuracy"].value <= 0.4


def test_class_means_by_hand():
    samples = tiny_samples(40, 4)
    by_hand = torch.stack([samples.x[samples.y == c].mean(0) for c in range(4)])
    assert torch.allclose(class_means(samples), by_hand, atol=1e-6)


def test_the_view_holds_what_its_access_grants(victim):
    for access, held in (("white-box", "model"), ("score-based", "scores"), ("members", "members")):
        (view,) = Inversion(access=access).views(victim)
        assert [name for name in ("model", "scores", "members") if getattr(view, name) is not None] == [held]


def view_of(network, classes, shape):
    labels, meter = torch.arange(classes), Meter()
    return Classes(labels, labels, shape, (0.0, 1.0), meter, model=Counted(network, meter))


def softmax_regression(classes=200, width=256):
    network = nn.Sequential(nn.Flatten(), nn.Linear(width, classes))
    nn.init.normal_(network[1].weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return network


def test_two_hundred_classes_are_solved_and_solved_ones_stop():
    """A stop rule turned round gives up on unsolved classes and runs on with solved ones."""
    network = softmax_regression()
    view = view_of(network, 200, (1, 16, 16))
    found = attacks.get("model-inversion").make({"steps": 300, "smoothness": 0.0, "settle": 20})(view, Streams(0))
    p = network(found).softmax(1).diagonal()
    assert (p > 0.9).float().mean() > 0.99
    assert view.meter.backwards < 0.8 * 300 * 200


def test_reconstructions_do_not_depend_on_their_company():
    network = softmax_regression(10, 64)
    view = view_of(network, 10, (1, 8, 8))
    attack = attacks.get("model-inversion").make({"steps": 5})
    together = attack(view, Streams(0))
    alone = attack(replace(view, labels=view.labels[4:5], ids=view.ids[4:5]), Streams(0))
    assert torch.allclose(together[4:5], alone, atol=0.02)  # rounding grows from step to step


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(lambda x: x[:3], BudgetError), (lambda x: x + 5, RequestError), (lambda x: x * float("nan"), RequestError)],
)
def test_malformed_reconstructions_are_refused(victim, wrong, error):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Malformed:
        def __call__(self, view, streams):
            return wrong(torch.zeros(len(view.labels), *view.shape))

    with pytest.raises(error):
        play(Malformed(), Inversion(), victim, seed=0)


def test_an_evaluator_of_the_victims_own_kind_is_refused(victim):
    from robustsuite.models.build import ModelSpec

    own = replace(victim.recipe, build=ModelSpec(name="mlp"))
    same = Victim(victim.model, victim.test, recipe=own, train=victim.train, trainer=victim.trainer, part=victim.part)
    with pytest.raises(RequestError, match="another architecture"):
        play(attacks.get("inversion-noise").make(), Inversion(access="blind", evaluator="mlp"), same, seed=0)


def test_the_evaluator_never_saw_the_victims_data_nor_has_its_seed(victim):
    """Where it trained on them with the victim's seed, it recognised what is peculiar to them: .875 for .80."""
    (job,) = Inversion().jobs(victim.case())
    assert job.role == "evaluator"
    assert job.seed != victim.seed
    assert torch.equal(job.samples.ids, victim.part("judge").ids)
    assert not set(job.samples.ids.tolist()) & set(victim.train.ids.tolist())
    assert not set(job.samples.ids.tolist()) & set(victim.part("adversary").ids.tolist())


def test_without_a_judges_half_it_cannot_be_played(victim):
    alone = replace(victim, part={"adversary": victim.part("adversary")}.get)
    with pytest.raises(NotApplicableError, match="judge=None"):
        Inversion().require(alone)


def test_baselines_stand_beside_what_an_attack_shows(victim):
    """Held-out photos show the class and nothing of the training set; an attack that is no better has shown no more."""
    shown = play(attacks.get("model-inversion").make({"steps": 5}), Inversion(evaluator="mlp"), victim, seed=0).values
    assert shown["class_mean_recognised"].value == 1.0
    assert shown["held_out_recognised"].value == 1.0
    assert shown["noise_recognised"].value < 1.0
    held = play(attacks.get("nearest-held-out").make(), Inversion(access="population", evaluator="mlp"), victim, seed=0)
    assert held.values["inversion_accuracy"].value == shown["held_out_recognised"].value
    assert "held_out_recognised" not in held.values


def test_held_out_inputs_are_those_of_the_adversarys_half_and_no_members(victim):
    """Where that half shows nothing, nothing of it is recognised, whatever the training set shows."""
    half = victim.part("adversary")
    parts = {"judge": victim.part("judge"), "adversary": replace(half, x=torch.zeros_like(half.x))}
    blank = replace(victim, part=parts.get)
    shown = play(attacks.get("model-inversion").make({"steps": 5}), Inversion(evaluator="mlp"), blank, seed=0).values
    assert shown["class_mean_recognised"].value == 1.0
    assert shown["held_out_recognised"].value == 0.1, "one answer for ten equal inputs"
