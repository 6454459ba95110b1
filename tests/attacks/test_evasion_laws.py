"""Laws of every registered evasion attack, straight from its view: a new attack is tested by being there."""

import random

import numpy as np
import pytest
import torch

from robustsuite.core.ball import Ball
from robustsuite.core.streams import Streams
from robustsuite.plugins import registry

QUICK = {"pgd": {"steps": 6, "restarts": 2}, "apgd": {"steps": 10, "restarts": 2}, "square": {"queries": 30},
         "cascade": {"steps": 4, "targets": 3, "promising": 1, "rounds": 1, "queries": 5},
         "hop-skip-jump": {"queries": 60, "evaluations": 8},
         "transfer": {"samples": 40, "epochs": 2, "steps": 3},
         "autoattack": {"steps": 3, "targets": 1, "queries": 5}}  # fmt: skip
ENTRIES = [entry for entry in registry.attacks.all() if entry.scenario == "evasion"]
attacks = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
in_its_norms = pytest.mark.parametrize(
    ("entry", "norm"), [(entry, norm) for entry in ENTRIES for norm in entry.norms], ids=lambda v: getattr(v, "name", v)
)
RADII = {"linf": 0.1, "l2": 0.8, "l1": 4.0}
BOUNDS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


@pytest.fixture
def setting(fresh_network, view_of):
    """Makes (view, network) of untrained networks: what they predict is what their samples are labelled."""

    def make(entry, *, norm="", bounds=(0.0, 1.0), dtype=torch.float32, classes=10, n=20, scale=1.0, rows=None):
        norm = norm or entry.norms[0]
        net = fresh_network(classes).to(dtype).eval()
        low, high = bounds
        unit = Streams(3).uniform(torch.arange(n), (1, 8, 8), dtype=torch.float64)
        unit[:, :, :2] = 0.0
        x = (low + (high - low) * unit).to(dtype)
        y = net(x).argmax(1)
        ids = torch.arange(n) + 1000
        if rows is not None:
            x, y, ids = x[rows], y[rows], ids[rows]
        ball = Ball(norm, RADII[norm] * (high - low) * scale, bounds)
        return view_of(net, x, y, ball, entry.access, ids=ids, classes=classes), net

    return make


def made(entry):
    return entry.make(QUICK.get(entry.name, {}))


@in_its_norms
@pytest.mark.parametrize(
    ("bounds", "dtype"), list(zip(BOUNDS, (torch.float64, torch.float32, torch.float64), strict=True)), ids=str
)  # the law `in-the-ball` of the kit plays each range in the other precision
def test_in_the_ball_in_the_models_dtype_without_a_graph(entry, norm, bounds, dtype, setting):
    view, _ = setting(entry, norm=norm, bounds=bounds, dtype=dtype)
    moved = made(entry)(view, Streams(0))
    assert moved.dtype == dtype
    assert moved.shape == view.x.shape
    assert not moved.requires_grad
    assert bool(view.ball.contains(moved, view.x).all())
    assert not torch.equal(moved, view.x)


@in_its_norms
def test_radius_zero_is_the_identity(entry, norm, setting):
    view, _ = setting(entry, norm=norm, scale=0.0)
    moved = made(entry)(view, Streams(0))
    assert torch.equal(moved, view.x)
    assert moved.data_ptr() != view.x.data_ptr()


@attacks
@pytest.mark.parametrize("classes", [2, 4, 200])
def test_any_number_of_classes(entry, classes, setting):
    view, net = setting(entry, classes=classes)
    moved = made(entry)(view, Streams(0))
    assert bool(torch.isfinite(moved).all())
    if entry.access == "white-box":
        assert bool((net(moved).argmax(1) != view.y).any())


@in_its_norms
def test_batch_size_and_order_change_nothing(entry, norm, setting):
    """In float64 the artefacts agree to rounding, so that verdicts do too; blind draws are bit-equal."""
    n = 11
    view, net = setting(entry, norm=norm, dtype=torch.float64, n=n)
    whole = made(entry)(view, Streams(0))
    for size in (1, 7):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(size))
        parts = [made(entry)(view.take(rows), Streams(0)) for rows in order.split(size)]
        again = torch.cat(parts)[order.argsort()]
        margin = net(whole).topk(2).values
        sure = (margin[:, 0] - margin[:, 1]) > 1e-5
        assert torch.equal(net(again).argmax(1)[sure], net(whole).argmax(1)[sure])
        if entry.access == "blind":
            assert torch.equal(again, whole)
        else:
            share = ((again - whole).flatten(1).abs().amax(1) < 1e-9).double().mean()
            assert float(share) > 0.9  # the sign of a gradient of exactly zero may turn with the batch


@attacks
def test_another_seed_gives_other_draws_and_the_same_seed_the_same(entry, setting):
    view, _ = setting(entry)
    one, same, other = (made(entry)(view, Streams(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    if entry.name in ("pgd", "noise"):
        assert not torch.equal(one, other)


@attacks
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_is_left_behind(entry, mode, setting):
    view, net = setting(entry)
    x, y = view.x.clone(), view.y.clone()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with mode():
        made(entry)(view, Streams(0))
    assert torch.equal(view.x, x)
    assert torch.equal(view.y, y)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    now = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(now[0], states[0])
    assert now[1:] == states[1:]


@attacks
def test_the_adversary_may_aim(entry, setting):
    view, _ = setting(entry)
    aimed = type(view)(**{**vars(view), "target": (view.y + 1) % 10})
    moved = made(entry)(aimed, Streams(0))
    assert bool(view.ball.contains(moved, view.x).all())


@pytest.mark.slow
def test_every_white_box_attack_beats_every_control(digits, view_of):
    """Law 9 on a fixed reference network."""
    net, x, y = digits["hardened"], digits["x"][:60], digits["y"][:60]
    ball = Ball("linf", 0.15, (0.0, 1.0))
    stand = {}
    for entry in (entry for entry in ENTRIES if "linf" in entry.norms):
        moved = entry.make({})(view_of(net, x, y, ball, entry.access), Streams(0))
        stand[entry.name] = (float((net(moved).argmax(1) == y).double().mean()), entry.control)
    controls = [share for share, control in stand.values() if control]
    real = [share for share, control in stand.values() if not control]
    assert controls
    assert max(real) < min(controls), stand
