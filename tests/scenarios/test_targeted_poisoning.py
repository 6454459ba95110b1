"""Targeted poisoning: what its judge counts and refuses, and an attack that works."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from robustsuite.core.errors import BudgetError, RequestError
from robustsuite.scenarios import TargetedPoisoning
from robustsuite.scenarios.play import play
from robustsuite.scenarios.poisoning import Poison
from robustsuite.testing.victims import tiny_parts, tiny_recipe, tiny_samples, tiny_victim
from robustsuite.training import Produced, Trainer

SEEN = []


@dataclass(frozen=True)
class Returns:
    """Moves the first rows of the wanted class onto the target, as far as the ball lets it."""

    beyond: float = 1.0
    share: float = 1.0
    relabel: bool = False

    def __call__(self, view, streams):
        SEEN.append(
            (
                view.wanted,
                view.target.clone(),
                view.budget,
                view.surrogate,
                float(streams.uniform(torch.tensor([0]), ())),
            )
        )
        index = (view.samples.y == view.wanted).nonzero()[:, 0][: max(1, int(view.budget * self.share))]
        x, ball = view.samples.inputs(index), replace(view.ball, radius=view.ball.radius * self.beyond)
        y = (view.samples.y[index] + self.relabel) % 4
        return Poison(index, ball.project(view.target.expand_as(x), x), y)


def game(**rules):
    return TargetedPoisoning(**{"fraction": 0.25, "targets": 3, "radius": 1.0, **rules})


@pytest.fixture(scope="module")
def victim():
    return tiny_victim(60)


def test_poison_that_equals_the_target_is_learnt(victim):
    """Four fifths of a class, all of them the target itself: the victim reads it as they are labelled."""
    SEEN.clear()
    played = play(Returns(), game(), victim, seed=0)
    columns = played.per_sample
    assert played.values["target_hit_rate"].value == 1.0
    assert played.values["target_hit_rate"].n == int(columns["counted"].sum()) == 3
    assert (columns["wanted"] != columns["label"]).all()
    assert played.values["poisoned"].value == 80
    assert len(played.facts["poisoned"]) == 3
    assert played.payloads[0].marked == (True, True, True)
    assert [wanted for wanted, *_ in SEEN] == columns["wanted"].tolist()
    assert len({draw for *_, draw in SEEN}) == 3
    chosen = torch.cat([target for _, target, *_ in SEEN])
    assert torch.equal(chosen, victim.test.inputs(torch.isin(victim.test.ids, columns["id"])))
    surrogate = SEEN[0][3]
    assert not any(module.training for module in surrogate.modules())
    assert (surrogate(victim.test.x).argmax(1) == victim.test.y).float().mean() > 0.9
    same = zip(surrogate.parameters(), victim.model.network.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in same)


def test_only_targets_that_the_clean_twin_reads_rightly_count(victim):
    y = victim.test.y
    misread = replace(victim, test=replace(victim.test, y=torch.where(torch.arange(len(y)) % 2 == 0, (y + 1) % 4, y)))
    played = play(Returns(), game(targets=4), misread, seed=0)
    right = misread.correct[torch.isin(misread.test.ids, played.per_sample["id"])]
    assert 0 < int(right.sum()) < 4
    assert torch.equal(played.per_sample["counted"], right)
    assert played.values["target_hit_rate"].n == int(right.sum())


@dataclass(frozen=True)
class RuinsTheSecond:
    """Greys out the whole set for one target, and changes nothing for the others."""

    asked: ClassVar[list] = []

    def __call__(self, view, streams):
        self.asked.append(view.wanted)
        index = torch.arange(view.budget if len(self.asked) == 2 else 0)
        x = view.samples.inputs(index)
        return Poison(index, torch.full_like(x, 0.5), view.samples.y[index])


def test_accuracy_is_that_of_the_training_that_lost_most(victim):
    RuinsTheSecond.asked.clear()
    values = play(RuinsTheSecond(), game(fraction=1.0), victim, seed=0).values
    assert values["clean_accuracy"].value < 0.6
    assert values["accuracy_drop"].value > 0.4
    assert values["poisoned"].value == 320


def test_a_single_row_within_a_small_ball_is_not(victim):
    played = play(Returns(share=0.0), game(radius=0.01), victim, seed=0)
    assert played.values["target_hit_rate"].value == 0.0
    assert played.values["poisoned"].value == 1
    assert abs(played.values["accuracy_drop"].value) < 0.1


@pytest.mark.parametrize(
    ("attack", "rules", "told"),
    [
        (Returns(beyond=1.5), {"radius": 0.05}, "within linf 0.05 of what they were, got 80 beyond"),
        (Returns(relabel=True), {}, "expected the labels as they were"),
        (Returns(share=1.2), {"fraction": 0.1}, "at most 32 of 320 training samples changed, got 38"),
    ],
)
def test_what_is_over_budget_is_refused(victim, attack, rules, told):
    with pytest.raises(BudgetError, match=told):
        play(attack, game(**rules), victim, seed=0)


def test_targets_hang_on_data_and_seed_alone(victim):
    one, same, other = (list(game().shared_views(replace(victim.case(), seed=s), train)) for s in (0, 0, 1))
    assert [v.wanted for v in one] == [v.wanted for v in same]
    assert all(torch.equal(a.target, b.target) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a.target, b.target) for a, b in zip(one, other, strict=True))
    with pytest.raises(RequestError, match=r"at most 60 targets.* got targets=61"):
        list(game(targets=61).shared_views(victim.case(), train))


def train(job):
    return Trainer(0, part=tiny_parts()).job(job).model.network


def test_another_network_crafts(victim):
    (job,) = game(surrogate="mlp").jobs(victim.case())
    assert (job.role, job.recipe.build.name, job.recipe.training) == ("surrogate", "mlp", tiny_recipe().training)
    assert job.seed != victim.seed
    assert torch.equal(job.samples.x, tiny_samples(320).x)


def test_doubts_of_its_trainings_are_doubts_of_the_record(victim):
    @dataclass(frozen=True)
    class Doubts:
        def __call__(self, samples, context):
            return Produced(samples, flags=("few-samples",))

    doubted = replace(victim, recipe=victim.recipe.with_prepare(Doubts()))
    assert play(Returns(), game(targets=1), doubted, seed=0).flags == ("few-samples",)
