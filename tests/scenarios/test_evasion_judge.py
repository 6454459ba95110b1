"""The evasion judge against attacks that cheat, lose, or stray."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from robustsuite.access.oracles import ScoreOracle
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Deployed, Outputs, Served
from robustsuite.core.errors import BudgetError, RequestError
from robustsuite.plugins.registry import attacks
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.testing import tiny_victim


class Threshold(nn.Module):
    """Class 1 where the single pixel is above one half; margins are known exactly."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        z = self.scale * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


def threshold_victim(values, labels=None, deployed=Served):
    from robustsuite.core.samples import Samples

    x = torch.tensor(values).reshape(-1, 1)
    y = (x[:, 0] > 0.5).long() if labels is None else torch.tensor(labels)
    return Victim(deployed(Threshold()), Samples(x, y, 2))


@dataclass(frozen=True)
class Moves:
    """Add a constant."""

    amount: float

    def __call__(self, view, streams):
        return view.x + self.amount


def test_known_margins_give_exact_figures():
    victim = threshold_victim([0.1, 0.2, 0.45, 0.55, 0.7, 0.9])
    result = play(attacks.get("pgd").make(), Evasion(ball=Ball("linf", 0.1)), victim, seed=0)
    assert result.values["robust_accuracy"].value == 4 / 6
    assert result.values["attack_success_rate"].value == 2 / 6
    assert result.per_sample["robust"].tolist() == [True, True, False, False, True, True]


def test_misclassified_samples_are_broken_and_not_attacked():
    victim = threshold_victim([0.1, 0.9, 0.45, 0.9], labels=[0, 0, 0, 1])
    seen = []

    @dataclass(frozen=True)
    class Looks:
        def __call__(self, view, streams):
            seen.extend(view.ids.tolist())
            return view.x.clone()

    result = play(Looks(), Evasion(ball=Ball("linf", 0.1)), victim, seed=0)
    assert seen == [0, 2, 3]
    assert result.values["robust_accuracy"].value == 0.75
    assert result.values["attack_success_rate"].n == 3


def test_over_budget_counts_as_no_success_and_is_said():
    victim = threshold_victim([0.2, 0.3])
    result = play(Moves(0.5), Evasion(ball=Ball("linf", 0.1)), victim, seed=0)
    assert result.values["robust_accuracy"].value == 1.0
    assert "over-budget" in result.flags
    assert "2 adversarial inputs lay outside" in result.message


@pytest.mark.parametrize(("factor", "inside"), [(1.0, True), (1 + 1e-7, True), (1 - 1e-7, True), (1 + 1e-4, False)])
def test_the_boundary_counts_up_to_rounding(factor, inside):
    """A strict comparison of floats throws away successes at the radius; a loose one lets a longer step through."""
    victim = threshold_victim([0.45] * 4)
    result = play(Moves(0.1 * factor), Evasion(ball=Ball("linf", 0.1)), victim, seed=0)
    assert result.values["robust_accuracy"].value == (0.0 if inside else 1.0)


def test_out_of_bounds_is_out_of_the_ball():
    victim = threshold_victim([0.95, 0.99])
    assert "over-budget" in play(Moves(0.1), Evasion(ball=Ball("linf", 0.1)), victim, seed=0).flags


@dataclass(frozen=True)
class Crosses:
    """Go just across the boundary, wherever it lies."""

    def __call__(self, view, streams):
        return torch.where(view.x > 0.5, 0.49, 0.51)


def test_of_minimum_norm_only_what_lies_in_the_ball_is_broken():
    """The nearest adversarial inputs lie at .06, .31, .06 and .41: two of them within the radius."""
    victim = threshold_victim([0.45, 0.2, 0.55, 0.9])
    result = play(Crosses(), Evasion(ball=Ball("linf", 0.1), minimum_norm=True), victim, seed=0)
    assert result.per_sample["robust"].tolist() == [False, True, False, True]
    assert result.values["robust_accuracy"].value == 0.5
    assert result.per_sample["distance"].tolist() == pytest.approx([0.06, 0.31, 0.06, 0.41])
    assert result.values["distance_median"].value == pytest.approx((0.06 + 0.31) / 2)
    targeted = Evasion(ball=Ball("linf", 0.1), minimum_norm=True, goal="targeted", target="next", follow_up=False)
    assert play(Crosses(), targeted, victim, seed=0).values["target_hit_rate"].value == 0.5


@dataclass(frozen=True)
class Loser:
    """Find an adversarial input and return the clean one."""

    def __call__(self, view, streams):
        rows = torch.arange(len(view.x))
        view.broken(view.ball.project(view.x + view.ball.radius, view.x), rows)
        return view.x.clone()


def test_an_adversarial_input_that_was_met_and_lost_withholds_the_verdict():
    result = play(Loser(), Evasion(ball=Ball("linf", 0.1)), threshold_victim([0.45, 0.2]), seed=0)
    assert "found-not-returned" in result.flags
    assert result.status == "inconclusive"


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:1], lambda x: x.double(), lambda x: "adversarial", lambda x: x.flatten()]
)
def test_malformed_artefacts_are_refused(wrong):
    @dataclass(frozen=True)
    class Malformed:
        def __call__(self, view, streams):
            return wrong(view.x)

    with pytest.raises(BudgetError, match="expected adversarial inputs of shape"):
        play(Malformed(), Evasion(ball=Ball("linf", 0.1)), threshold_victim([0.2, 0.3]), seed=0)


def test_a_graph_is_refused_and_nan_is_no_success():
    @dataclass(frozen=True)
    class Graph:
        def __call__(self, view, streams):
            return view.x.clone().requires_grad_(True)

    @dataclass(frozen=True)
    class NotANumber:
        def __call__(self, view, streams):
            return torch.full_like(view.x, float("nan"))

    game = Evasion(ball=Ball("linf", 0.1))
    with pytest.raises(RequestError, match="requires_grad=True"):
        play(Graph(), game, threshold_victim([0.2]), seed=0)
    result = play(NotANumber(), game, threshold_victim([0.2]), seed=0)
    assert result.values["robust_accuracy"].value == 1.0
    assert {"non-finite", "over-budget"} <= set(result.flags)


class RejectsHigh(Deployed):
    """Rejects every input above 0.6."""

    fully_differentiable = False

    def __init__(self, network):
        self._network = network

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        return Outputs(self._network(x), x.flatten(1)[:, 0] > 0.6)


def test_a_rejected_clean_input_is_an_error_and_a_rejected_attack_no_success():
    victim = threshold_victim([0.45, 0.55, 0.9], deployed=RejectsHigh)
    result = play(Moves(0.2), Evasion(ball=Ball("linf", 0.2)), victim, seed=0)
    assert result.values["clean_accuracy"].value == 2 / 3
    assert result.values["robust_accuracy"].value == 2 / 3
    assert result.values["rejection_rate_attack"].value == 1.0
    assert "not-adaptive" in result.flags


class Coin(Deployed):
    """Answers by a coin that nobody can see."""

    random = True

    def __init__(self, network):
        self._network = network

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        logits = self._network(x) + torch.randn(len(x), 2) * 0.3
        return Outputs(logits, torch.zeros(len(x), dtype=torch.bool))


def test_a_random_model_gets_no_verdict_from_one_draw():
    victim = threshold_victim([0.1, 0.2, 0.8, 0.9], deployed=Coin)
    one = play(Moves(0.0), Evasion(ball=Ball("linf", 0.1)), victim, seed=0)
    assert one.status == "inconclusive"
    assert "nondeterministic" in one.flags
    many = play(Moves(0.0), Evasion(ball=Ball("linf", 0.1), draws=15), victim, seed=0)
    assert many.status == "ok"
    assert many.values["robust_accuracy"].value == 1.0


def test_masked_gradients_are_flagged():
    class Saturated(Threshold):
        def forward(self, x):
            return (super().forward(x) * 1e6).clamp(-50, 50)

    victim = dataclasses.replace(threshold_victim([0.2, 0.3, 0.45, 0.7]), model=Served(Saturated()))
    result = play(attacks.get("fgsm").make(), Evasion(ball=Ball("linf", 0.1)), victim, seed=0)
    assert "zero-gradients" in result.flags


def test_query_budget_is_enforced_and_counted():
    @dataclass(frozen=True)
    class Greedy:
        queries: int

        def __call__(self, view, streams):
            assert isinstance(view, ScoreOracle)
            assert not hasattr(view, "model")
            for _ in range(self.queries):
                view.scores(view.x, torch.arange(len(view.x)))
            return view.x.clone()

    victim = threshold_victim([0.2, 0.3, 0.7])
    game = Evasion(ball=Ball("linf", 0.1), access="score-based", query_budget=5)
    assert play(Greedy(5), game, victim, seed=0).values["queries_median"].value == 5
    with pytest.raises(BudgetError, match="at most 5 queries per sample"):
        play(Greedy(6), game, victim, seed=0)


def test_targeted_without_a_target_is_an_error():
    with pytest.raises(RequestError, match="a target for a targeted goal"):
        Evasion(ball=Ball("linf", 0.1), goal="targeted")


def test_targeted_reports_hits_apart():
    victim = tiny_victim(80)
    game = Evasion(ball=Ball("linf", 0.25), goal="targeted", target="next")
    result = play(attacks.get("pgd").make({"steps": 20}), game, victim, seed=0)
    hits, success = result.values["target_hit_rate"].value, result.values["attack_success_rate"].value
    assert 0.5 < hits <= success


def test_out_of_memory_halves_the_batch_and_goes_on():
    sizes = []

    @dataclass(frozen=True)
    class Hungry:
        def __call__(self, view, streams):
            sizes.append(len(view.x))
            if len(view.x) > 20:
                raise torch.OutOfMemoryError("planted")
            return view.x.clone()

    result = play(Hungry(), Evasion(ball=Ball("linf", 0.1), batch_size=64), tiny_victim(64), seed=0)
    assert max(sizes) > 20
    assert result.values["robust_accuracy"].n == 64
    assert sum(s for s in sizes if s <= 20) == round(result.values["clean_accuracy"].value * 64)


class Plays(Served):
    """Answers untouched inputs rightly, and others in turn rightly (`.`), wrongly (`x`) or by a rejection (`r`)."""

    random, fully_differentiable = True, False

    def __init__(self, script):
        super().__init__(Threshold())
        self.script, self.asked = script, 0

    def __call__(self, x):
        logits, rejected = super().__call__(x)
        if x[0, 0] == torch.tensor(0.2):
            return Outputs(logits, rejected)
        way = self.script[self.asked % len(self.script)]
        self.asked += 1
        return Outputs(-logits if way == "x" else logits, torch.full_like(rejected, way == "r"))


@pytest.mark.parametrize(
    ("script", "robust", "rejected"),
    [("x.", 0.0, 0.0), ("x..", 1.0, 0.0), ("xx.", 0.0, 0.0), ("rr.", 1.0, 1.0), ("r.", 1.0, 0.0), ("xr", 0.0, 0.0)],
)
def test_of_several_draws_the_majority_counts_and_a_tie_is_against_the_model(script, robust, rejected):
    victim = dataclasses.replace(threshold_victim([0.2, 0.8]), model=Plays(script))
    game = Evasion(ball=Ball("linf", 0.1), access="blind", draws=len(script), follow_up=False)
    found = play(Moves(0.05), game, victim, seed=0)
    assert found.values["robust_accuracy"].value == robust
    assert found.values["rejection_rate_attack"].value == rejected
