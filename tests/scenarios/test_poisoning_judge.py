"""The poisoning judge: integer budgets, success on other classes only, the clean twin beside it."""

from dataclasses import dataclass

import pytest
import torch

from robustsuite.errors import BudgetError, NotApplicableError
from robustsuite.protocol import play
from robustsuite.registry import attacks
from robustsuite.scenarios import Poisoning
from robustsuite.scenarios.poisoning import Poison, TrainingSet
from robustsuite.streams import Streams
from robustsuite.testing import tiny_samples, tiny_victim
from robustsuite.threat import poison_budget


@pytest.mark.parametrize(
    ("fraction", "n", "budget"), [(0.01, 60000, 600), (0.1, 15, 1), (0.3, 10, 3), (0, 10, 0), (1, 7, 7)]
)
def test_budgets_are_integers(fraction, n, budget):
    assert poison_budget(fraction, n) == budget


@dataclass(frozen=True)
class Takes:
    count: int
    twice: bool = False

    def __call__(self, view, streams):
        index = torch.zeros(self.count, dtype=torch.long) if self.twice else torch.arange(self.count)
        return Poison(index, view.samples.inputs(index), view.samples.y[index])


def test_one_row_over_budget_is_refused():
    victim = tiny_victim(40)
    budget = poison_budget(0.05, len(victim.train))
    with pytest.raises(BudgetError, match=f"at most {budget} of 320 training samples changed, got {budget + 1}"):
        play(Takes(budget + 1), Poisoning(fraction=0.05), victim, seed=0)
    with pytest.raises(BudgetError, match="distinct rows"):
        play(Takes(2, twice=True), Poisoning(fraction=0.05), victim, seed=0)


def test_an_idle_poisoner_changes_nothing():
    result = play(Takes(0), Poisoning(fraction=0.05), tiny_victim(101), seed=0)
    assert result.values["poisoned"].value == 0
    assert result.values["accuracy_drop"].value == pytest.approx(0.0, abs=1e-12)


def test_badnets_succeeds_on_others_and_not_on_the_twin():
    result = play(attacks.get("badnets").make({"target": 1}), Poisoning(fraction=0.15), tiny_victim(101), seed=0)
    success = result.values["backdoor_success_rate"]
    twin = result.values["backdoor_success_rate_clean_twin"]
    assert success.value > 0.9 > 0.5 > twin.value
    others = sum(int(label) != 1 for label in tiny_victim(101).test.y)
    assert success.n == twin.n == others
    hits = result.per_sample["hit"][result.per_sample["counted"]]
    assert (len(hits), float(hits.float().mean())) == (success.n, pytest.approx(success.value))
    assert not set(result.per_sample) & set(result.artefacts)  # they share a file


def test_badnets_pixels_and_labels_differ_exactly_where_claimed():
    view = TrainingSet(tiny_samples(200), 20)
    poison = attacks.get("badnets").make({"target": 2, "size": 2, "margin": 1})(view, Streams(0))
    assert set(poison.y.tolist()) == {2}
    assert not (view.samples.y[poison.index] == 2).any()
    differs = (poison.x != view.samples.x[poison.index]).any(0)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[5:7, 5:7] = True
    assert torch.equal(differs, expected)
    assert bool((poison.x[..., 5:7, 5:7] == 1.0).all())


def test_label_flip_flips_to_other_classes_only():
    view = TrainingSet(tiny_samples(200), 60)
    poison = attacks.get("label-flip").make()(view, Streams(0))
    assert not (poison.y == view.samples.y[poison.index]).any()
    assert torch.equal(poison.x, view.samples.x[poison.index])
    one = attacks.get("label-flip").make({"source": 3, "target": 0})(view, Streams(0))
    assert set(view.samples.y[one.index].tolist()) == {3}
    assert set(one.y.tolist()) == {0}
    assert len(one.index) == 50  # every sample of class 3; the budget is 60


def test_flipping_a_whole_class_costs_that_class():
    result = play(
        attacks.get("label-flip").make({"source": 3, "target": 0}), Poisoning(fraction=0.25), tiny_victim(101), seed=0
    )
    assert result.values["recall_worst_class"].value <= 0.1
    assert result.values["accuracy_drop"].value > 0.15


def test_a_model_without_its_recipe_is_not_applicable():
    from dataclasses import replace

    with pytest.raises(NotApplicableError, match="--train-data"):
        play(Takes(0), Poisoning(), replace(tiny_victim(40), train=None), seed=0)
