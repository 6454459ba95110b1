"""The poisoning judge: integer budgets, success on other classes only, the clean twin beside it."""

from dataclasses import dataclass, replace

import pytest
import torch

from robustsuite.core.ball import poison_budget
from robustsuite.core.deployed import Deployed, Outputs
from robustsuite.core.errors import BudgetError, NotApplicableError, RequestError, RobustsuiteError
from robustsuite.core.payloads import pack
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.plugins.registry import attacks
from robustsuite.scenarios import Poisoning
from robustsuite.scenarios.play import play
from robustsuite.scenarios.poisoning import Poison, Stamp, TrainingSet, changed
from robustsuite.testing import tiny_samples, tiny_victim


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
    (images,) = result.payloads
    assert ([name for name, _ in images.rows], images.shared) == (["clean", "triggered"], True)
    assert not set(result.per_sample) & set(pack(result.payloads)[1])  # they share a file


class Guarded(Deployed):
    """Rejects whatever is as bright as can be in the lower right corner; the network answers all the same."""

    fully_differentiable = False

    def __init__(self, inner):
        self._inner = inner

    @property
    def network(self):
        return self._inner.network

    def __call__(self, x):
        logits, rejected = self._inner(x)
        return Outputs(logits, rejected | (x[:, 0, -1, -1] == 1.0))


@dataclass(frozen=True)
class Guards:
    def __call__(self, model, context):
        return Guarded(model)


def test_a_triggered_input_that_is_rejected_is_no_success():
    victim = tiny_victim(101)
    guarded = replace(victim, recipe=victim.recipe.with_serve(Guards()))
    values = play(attacks.get("badnets").make({"target": 1}), Poisoning(fraction=0.15), guarded, seed=0).values
    assert values["backdoor_success_rate"].value == 0.0
    assert values["rejection_rate_attack"].value == 1.0


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
    with pytest.raises(NotApplicableError, match="expected a victim with train, got train=None") as raised:
        play(Takes(0), Poisoning(), replace(tiny_victim(40), train=None), seed=0)
    assert raised.value.name == "train"


@dataclass(frozen=True)
class Hands:
    """Returns what it is given, with fields replaced."""

    rows: int = 1
    same: int = 0
    fields: tuple = ()

    def __call__(self, view, streams):
        index = torch.arange(self.rows)
        labels = view.samples.y[index]
        labels = torch.where(index < self.rows - self.same, (labels + 1) % view.samples.classes, labels)
        return replace(Poison(index, view.samples.inputs(index), labels), **dict(self.fields))


def hand(victim=None, fraction=0.2, **how):
    fields = tuple(how.pop("fields", {}).items())
    return play(Hands(fields=fields, **how), Poisoning(fraction=fraction), victim or tiny_victim(101), seed=0)


def test_rows_that_are_as_they_were_are_not_poisoned_and_a_shortfall_is_named():
    result = hand(rows=60, same=19)
    assert (result.values["poisoned"].value, result.values["poisoned"].n) == (41, 320)
    assert result.message == (
        "the budget is 64 rows, and the attack changed 41; 19 of the 60 rows that it returned are as they were"
    )
    assert hand(rows=64).message == ""
    assert hand(rows=64).values["poisoned"].value == 64


def test_a_row_differs_by_its_input_alone_too():
    train = tiny_victim(101).train
    x = train.x[:3].clone()
    x[0, 0, 0, 0] = 1.0
    result = hand(rows=3, same=3, fields={"x": x})
    assert result.values["poisoned"].value == 1


@pytest.mark.parametrize("x", ["uint8", "float32"])
def test_changed_rows_are_counted_in_what_is_trained_on(x):
    """Bytes are counted as bytes: an input that rounds to the same one is no change."""
    clean = Samples(torch.full((4, 2), 51, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 2)
    clean = clean if x == "uint8" else replace(clean, x=clean.inputs())
    index, moved = torch.tensor([1, 3]), torch.tensor([[0.2, 0.2], [0.2, 0.4]])
    poisoned = clean.with_rows(index, moved, torch.tensor([0, 0]))
    assert poisoned.x.dtype == clean.x.dtype
    assert changed(clean, poisoned, index).tolist() == [False, True]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"index": torch.tensor([0.0])}, "expected an integer tensor (k,), got poison.index=torch.float32 (1,)"),
        ({"index": torch.tensor([True])}, "got poison.index=torch.bool (1,)"),
        ({"index": [0]}, "got poison.index=list"),
        ({"index": torch.tensor([-1])}, "distinct rows in [0, 320), got index=[-1]"),
        ({"index": torch.tensor([320])}, "distinct rows in [0, 320), got index=[320]"),
        ({"y": torch.tensor([1.5])}, "got poison.y=torch.float32 (1,)"),
        ({"y": torch.tensor([4])}, "labels in [0, 4), got poison.y[0]=4"),
        ({"y": torch.tensor([-1])}, "labels in [0, 4), got poison.y[0]=-1"),
        ({"x": torch.full((1, 1, 8, 8), 2.0)}, "expected poison.x within bounds=(0, 1), got min=2"),
        ({"x": torch.full((1, 1, 8, 8), float("inf"))}, "finite numbers, got poison.x[0, 0, 0, 0]=inf"),
        ({"x": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}, "got poison.x=torch.uint8"),
        ({"x": torch.zeros(1, 64)}, "x=(1, 64)"),
        ({"target": 4, "trigger": torch.clone}, "expected an integer in [0, 3], got poison.target=4"),
        ({"target": 1.0, "trigger": torch.clone}, "got poison.target=1.0"),
        ({"target": True, "trigger": torch.clone}, "got poison.target=True"),
        ({"target": 1}, "expected a trigger with its target, got trigger=None and target=1"),
        ({"trigger": torch.clone}, "and target=None; return both, or neither"),
        ({"target": 1, "trigger": lambda x: x[:-1]}, "expected a trigger that leaves shape (101, 1, 8, 8)"),
        ({"target": 1, "trigger": lambda x: x.numpy()}, "got trigger(x)=ndarray"),
        ({"target": 1, "trigger": lambda x: x.half()}, "torch.float16"),
        ({"target": 1, "trigger": lambda x: x / 0}, "finite numbers, got trigger(x)"),
        ({"target": 1, "trigger": lambda x: x - 1}, "expected trigger(x) within bounds=(0, 1)"),
    ],
)
def test_what_cannot_be_judged_is_refused(fields, said):
    with pytest.raises(RobustsuiteError) as raised:
        hand(fields=fields)
    assert said in str(raised.value)


def test_an_all_to_one_backdoor_needs_samples_of_another_class():
    victim = tiny_victim(101)
    victim = replace(victim, test=victim.test.take((victim.test.y == 2).nonzero()[:, 0]))
    with pytest.raises(BudgetError, match="got target=2 for all 25"):
        hand(victim, fields={"target": 2, "trigger": torch.clone})


def test_a_target_that_changes_while_it_is_judged_changes_nothing():
    """The trigger holds the poison, and tells another target from the second batch on."""
    held = []

    @dataclass(frozen=True)
    class Turning:
        def __call__(self, view, streams):
            poison = Poison(torch.arange(1), view.samples.x[:1], view.samples.y[:1], self.trigger, 1)
            held.append(poison)
            return poison

        def trigger(self, x):
            object.__setattr__(held[0], "target", 2)
            held[0].x.zero_()
            return x

    result = play(Turning(), Poisoning(), tiny_victim(101), seed=0)
    others = sum(int(label) != 1 for label in tiny_victim(101).test.y)
    assert result.values["backdoor_success_rate"].n == others
    assert int(result.per_sample["counted"].sum()) == others


def test_a_trigger_that_is_data_is_kept_with_the_rows():
    view = TrainingSet(tiny_samples(200), 20)
    poison = attacks.get("badnets").make({"target": 2, "size": 2})(view, Streams(0))
    tensors, facts = Poisoning().pack(poison)
    again = Poisoning().unpack(tensors, facts)
    x = view.samples.x[:5]
    assert torch.equal(again.trigger(x), poison.trigger(x))
    assert not torch.equal(again.trigger(x), x)
    assert (again.target, again.index.tolist(), again.y.tolist()) == (2, poison.index.tolist(), poison.y.tolist())
    assert torch.equal(again.x, poison.x)


def test_code_is_no_data():
    nothing = torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)
    assert Poisoning().pack(Poison(*nothing, torch.clone, 1)) is None
    tensors, facts = Poisoning().pack(Poison(*nothing))
    assert Poisoning().unpack(tensors, facts).trigger is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_stamp_says_exactly_what_it_holds_in_the_dtype_of_the_input(dtype):
    stamp = Stamp(torch.tensor([True, False]), torch.tensor(0.1, dtype=torch.float64))
    x = torch.zeros(3, 2, dtype=dtype)
    assert torch.equal(stamp(x)[:, 0], torch.full((3,), 0.1, dtype=dtype))
    assert stamp(x).dtype == dtype
    assert not x.any()


@pytest.mark.parametrize("fields", [(torch.ones(2), torch.ones(2)), (torch.ones(2) > 0, 1.0), (None, torch.ones(1))])
def test_a_stamp_is_tensors(fields):
    with pytest.raises(RequestError, match=r"expected a (bool|floating) tensor, got stamp"):
        Stamp(*fields)
