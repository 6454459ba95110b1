"""ART's attacks by name: knowledge, budgets, the ball, side effects, and what is refused."""

import pickle
import random

import numpy as np
import pytest
import torch

from robustsuite.attacks.evasion import art_catalogue
from robustsuite.core.ball import Ball
from robustsuite.core.canonical import canonical_json
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams
from robustsuite.plugins import registry
from robustsuite.testing import attack_laws

HOP = {"max_iter": 2, "max_eval": 200, "init_eval": 20}
CASES = [
    ("FastGradientMethod", {}, "white-box"),
    ("ProjectedGradientDescent", {"max_iter": 5, "num_random_init": 2}, "white-box"),
    ("AutoProjectedGradientDescent", {"max_iter": 5, "nb_random_init": 1}, "white-box"),
    ("DeepFool", {"max_iter": 20}, "white-box"),
    ("CarliniL2Method", {"max_iter": 5, "binary_search_steps": 2}, "white-box"),
    ("HopSkipJump", HOP, "decision-based"),
    ("BoundaryAttack", {"max_iter": 3}, "decision-based"),
    ("SquareAttack", {"max_iter": 20}, "score-based"),
    ("ZooAttack", {"max_iter": 1, "nb_parallel": 8, "use_resize": False}, "score-based"),
]
cases = pytest.mark.parametrize(("name", "options", "access"), CASES, ids=[case[0] for case in CASES])


def made(name, options):
    return registry.attacks.get(f"art:{name}").make(options)


@pytest.fixture
def part(digits):
    return digits["plain"], digits["x"][:6], digits["y"][:6]


@cases
@pytest.mark.parametrize(("norm", "radius", "dtype"), [("linf", 0.2, torch.float32), ("l2", 1.5, torch.float64)])
def test_artefacts_obey_the_laws(name, options, access, norm, radius, dtype, part, view_of):
    """In the ball, in the model's dtype, without a graph or a trace, under no_grad too."""
    import copy

    net, x, y = copy.deepcopy(part[0]).to(dtype).train(), part[1].to(dtype), part[2]
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    original = x.clone()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    view = view_of(net, x, y, Ball(norm, radius, (0.0, 1.0)), access, budget=150)
    with torch.no_grad():
        moved = made(name, options)(view, Streams(0))
    assert moved.dtype == dtype
    assert moved.shape == x.shape
    assert not moved.requires_grad
    assert bool(view.ball.contains(moved, x).all())
    assert all(count <= 150 for count in view.meter.queries.values())
    assert (len(view.meter.queries) == len(y)) == (access != "white-box")
    assert torch.equal(x, original)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(module.training for module in net.modules())
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


@cases
def test_batches_and_order_do_not_change_the_draws(name, options, access, part, view_of):
    net, x, y = part
    ball = Ball("linf", 0.2, (0.0, 1.0))
    attack = made(name, options)
    whole = attack(view_of(net, x, y, ball, access, budget=120), Streams(0))
    order = torch.tensor([4, 1, 5, 0, 2, 3])
    view = view_of(net, x, y, ball, access, budget=120)
    parts = torch.cat([attack(view.take(rows), Streams(0)) for rows in order.split(2)])[order.argsort()]
    if access == "white-box":
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    else:
        assert torch.equal(parts, whole)
    assert torch.equal(net(parts).argmax(1), net(whole).argmax(1))


def test_generators_that_the_system_would_seed_are_seeded(part, view_of):
    """HopSkipJump and Boundary make a RandomState of their own, which ART alone cannot repeat."""
    unseeded = np.random.RandomState
    ball = Ball("l2", 6.0, (0.0, 1.0))
    for name, options in (("HopSkipJump", HOP), ("BoundaryAttack", {"max_iter": 3})):
        runs = [made(name, options)(view_of(*part, ball, "decision-based", budget=200), Streams(s)) for s in (0, 0, 1)]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
    assert np.random.RandomState is unseeded


@cases
def test_radius_zero_is_the_identity_and_costs_nothing(name, options, access, part, view_of):
    view = view_of(*part, Ball("linf", 0.0, (0.0, 1.0)), access)
    assert torch.equal(made(name, options)(view, Streams(0)), part[1])
    assert view.meter.forwards == 0


def test_the_attacks_do_attack(part, view_of):
    net, x, y = part
    for name, options in (
        ("ProjectedGradientDescent", {"max_iter": 20}),
        ("CarliniL2Method", {"max_iter": 30, "binary_search_steps": 6, "batch_size": 6, "learning_rate": 0.05}),
        ("HopSkipJump", {"max_iter": 5, "max_eval": 500}),
    ):
        entry = registry.attacks.get(f"art:{name}")
        view = view_of(net, x, y, Ball("l2", 2.5, (0.0, 1.0)), entry.access)
        broken = net(entry.make(options)(view, Streams(0))).argmax(1) != y
        assert int(broken.sum()) >= 5, name


def test_the_radius_reaches_art_and_options_outrank_it(part, view_of):
    net, x, y = part
    ball = Ball("linf", 0.2, (0.0, 1.0))
    farthest = [
        float(ball.distance(made("FastGradientMethod", options)(view_of(net, x, y, ball), Streams(0)), x).max())
        for options in ({}, {"eps": 0.05})
    ]
    assert farthest == pytest.approx([0.2, 0.05], abs=1e-6)


def test_results_beyond_the_ball_are_the_untouched_input_never_a_projection(part, view_of):
    net, x, y = part
    tight = Ball("l2", 1e-3, (0.0, 1.0))
    moved = made("DeepFool", {})(view_of(net, x, y, tight), Streams(0))
    assert torch.equal(moved, x)


def test_a_spent_budget_ends_the_attack_with_what_was_found(part, view_of):
    net, x, y = part
    ball = Ball("l2", 6.0, (0.0, 1.0))  # wide enough that the first random success already lies in it
    view = view_of(net, x, y, ball, "decision-based", budget=60)
    moved = made("HopSkipJump", {"init_size": 50})(view, Streams(0))
    assert set(view.meter.queries.values()) == {60}
    broken = net(moved).argmax(1) != y
    assert int(broken.sum()) >= 4
    assert torch.equal(moved[~broken], x[~broken])


def test_targets(part, view_of):
    net, x, y = part
    target = (y + 1) % 10
    ball = Ball("linf", 1.0, (0.0, 1.0))
    for name, options in (("ProjectedGradientDescent", {"max_iter": 30}), ("SaliencyMapMethod", {"theta": 0.5})):
        view = view_of(net, x, y, ball, target=target)
        moved = made(name, options)(view, Streams(0))
        assert int((net(moved).argmax(1) == target).sum()) >= 4, name
    with pytest.raises(RequestError, match="art:DeepFool"):
        made("DeepFool", {})(view_of(net, x, y, ball, target=target), Streams(0))


def test_names_carry_the_knowledge_that_each_attack_asks_for():
    names = art_catalogue.names()
    assert len(names) >= 25
    for name, _, access in CASES:
        assert names[name] == access
        assert registry.attacks.get(f"art:{name}").access == access
    assert names["AutoAttack"] == "white-box"
    assert not {"DPatch", "UniversalPerturbation", "DecisionTreeAttack", "CarliniWagnerASR"} & set(names)
    assert set(names.values()) == {"white-box", "score-based", "decision-based"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("HopSkipJmp", {}, "did you mean HopSkipJump"),
        ("HopSkipJump", {"max_itr": 3}, "did you mean 'max_iter'"),
        ("HopSkipJump", {"zzz": 3}, "init_eval"),
        ("HopSkipJump", {"norm": 2}, "norm=2"),
        ("HopSkipJump", {"max_iter": -1}, "max_iter"),
        ("HopSkipJump", {"max_iter": "many"}, "max_iter='many'"),
        ("UniversalPerturbation", {}, "depends on the batch"),
        ("DPatch", {}, "no PyTorch classifier"),
        ("AdversarialPatch", {}, "bounded by no norm"),
    ],
)
def test_what_cannot_be_played_is_refused_before_it_starts(name, options, words):
    with pytest.raises(RequestError, match="expected") as caught:
        made(name, options)
    assert words in str(caught.value)


def test_a_package_that_art_forgets_is_named_before_anything_runs(monkeypatch):
    monkeypatch.setitem(art_catalogue.EXTRAS, "DeepFool", "no_such_package_anywhere")
    with pytest.raises(RequestError, match="pip install no_such_package_anywhere"):
        made("DeepFool", {})
    assert made("PixelAttack", {"es": 1}).es == 1


def test_adapted_attacks_are_values():
    one, other = made("HopSkipJump", HOP), made("HopSkipJump", HOP)
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != made("HopSkipJump", {})
    assert '"is":"art:HopSkipJump"' in canonical_json(one)
    assert "max_iter=2" in repr(one)


@pytest.mark.parametrize("law", attack_laws("art:ProjectedGradientDescent", max_iter=5), ids=str)
def test_the_conformance_kit_passes(law):
    law()
