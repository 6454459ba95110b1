"""Passes by sample: whose each one is, and when a sample fell."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustsuite.access.passes import Owners, Passes
from robustsuite.core.ball import Ball, Threat
from robustsuite.core.deployed import Served
from robustsuite.plugins import registry
from robustsuite.scenarios import game
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.testing import tiny_samples, tiny_victim


def judged(name, victim, radius=0.05, norm="linf", batch=16, **options):
    entry = registry.attacks.get(name)
    return play(
        entry.make(options), game(entry, Threat(ball=Ball(norm, radius)), {"batch_size": batch}), victim, seed=0
    )


def test_counts_by_hand():
    passes = Passes(torch.tensor([40, 10, 30]))
    places = passes.places(torch.tensor([30, 40]))
    first = Owners(places, torch.tensor([0, 0, 1]))
    with passes.of(first):
        assert passes.owners(3) is first
        assert passes.owners(2) is None
        passes.spend(first)
    assert passes.owners(3) is None
    assert passes.until_broken(torch.tensor([10, 30, 40, 99])).tolist() == [0, 2, 1, 0]
    passes.note_broken(places[:1])
    passes.spend(first)
    passes.note_broken(places)
    passes.spend(first)
    assert passes.until_broken(torch.tensor([10, 30, 40, 99])).tolist() == [0, 2, 2, 0]


def test_many_passes_are_added_up():
    passes = Passes(torch.arange(5))
    for _ in range(1000):
        passes.spend(Owners(torch.arange(5), torch.tensor([1, 3, 3])))
    assert passes.until_broken(torch.arange(5)).tolist() == [0, 1000, 0, 2000, 0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pgd", {"steps": 7, "restarts": 3}),
        ("apgd", {"steps": 8, "targets": 2, "loss": "dlr"}),
        ("mi-fgsm", {"steps": 5, "diversity": 0.5}),
        ("square", {"queries": 30}),
        ("autoattack", {"version": "rand", "steps": 2}),
    ],
)
def test_what_no_sample_ends_is_all_there_is(name, options):
    """Where nothing falls, the passes of all samples are those of the record."""
    found = judged(name, tiny_victim(60), radius=1e-4, **options)
    assert found.values["attack_success_rate"].value == 0
    passes = found.per_sample["passes"]
    assert int(passes.sum()) == found.cost["forwards"] + found.cost["backwards"]
    assert torch.equal(passes > 0, found.per_sample["clean_correct"])


def test_a_sample_that_falls_stops_the_clock():
    """One step of FGSM: a forward and a backward pass at the clean input; PGD sees one pass more where it fell."""
    victim = tiny_victim(60)
    assert set(judged("fgsm", victim).per_sample["passes"].tolist()) <= {0, 2}
    found = judged("pgd", victim, steps=10, random_start=False).per_sample
    fell = found["clean_correct"] & ~found["robust"]
    assert fell.any()
    # The clean input never falls: each step before costs two passes, and the last look one. A step costs one more where
    # a third of the batch falls at it, and each of these looks may be asked of the original again, where rounding in
    # the copy could decide.
    most = 21 + 10 + 21
    assert 3 <= int(found["passes"][fell].min()) <= int(found["passes"][fell].max()) <= most
    assert set(found["passes"][found["robust"]].tolist()) <= set(range(21, most + 1))


def plane(n):
    """Two classes on two sides of a plane through the midst of these samples, and how far each is from it in linf."""
    weight, test = torch.linspace(-1, 1, 64, dtype=torch.float64), tiny_samples(n, classes=2)
    score = test.x.flatten(1).double() @ weight
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double().eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([-weight, weight]))
        net[1].bias.copy_(score.median() * torch.tensor([1.0, -1.0]))
    y = (score > score.median()).long()
    return Victim(Served(net), replace(test, y=y)), (score - score.median()).abs() / weight.abs().sum()


@pytest.mark.parametrize(("batch", "n"), [(1, 100), (16, 200)])
def test_the_clock_stops_at_the_step_that_reaches_the_boundary(batch, n):
    """The k-th step has moved an input by k times its length; in a batch a step costs one pass more where many fall."""
    victim, distance = plane(n)
    options = {"steps": 10, "step_size": 0.1, "random_start": False}
    found = judged("pgd", victim, radius=0.01, batch=batch, **options).per_sample
    steps = (distance / 0.001).ceil()
    clear = ((distance / 0.001).frac() - 0.5).abs() < 0.5 - 1e-6
    assert int(clear.sum()) > 0.95 * n
    broken, passes = (steps <= 10)[clear], found["passes"][clear]
    assert torch.equal(~found["robust"][clear], broken)
    wanted = 2 * steps[clear].clamp_max(10).long() + 1
    assert bool((passes >= wanted).all())
    assert bool((passes - wanted <= (0 if batch == 1 else wanted // 2)).all())
    assert n / 10 < int(broken.sum()) < len(broken) - n / 10
    assert len(set(wanted[broken].tolist())) == 10


def test_the_nearest_is_looked_for_after_the_fall():
    """A minimum-norm attack goes on; the clock stops at the first success within the game's radius."""
    victim = tiny_victim(60)
    small, large = (judged("deepfool", victim, radius=radius).per_sample for radius in (1e-4, 0.2))
    assert int(large["passes"].sum()) < int(small["passes"].sum())
    assert not small["robust"][~small["clean_correct"]].any()


def test_what_cannot_be_told_apart_is_left_out():
    victim = tiny_victim(40)
    assert "passes" not in judged("noise", victim).per_sample
    assert "passes" not in judged("transfer", victim, samples=20, epochs=1, steps=2).per_sample


def test_a_model_that_is_always_wrong_has_no_column():
    victim = tiny_victim(20)
    y = (victim.clean.prediction + 1) % 4
    wrong = type(victim)(Served(victim.model.network), type(victim.test)(victim.test.x, y, 4, (0.0, 1.0)))
    found = judged("pgd", wrong, steps=2)
    assert "passes" not in found.per_sample
    assert found.values["robust_accuracy"].value == 0
