"""Gradient attacks against the peers: same network, images, radius and steps; within 1 sample in 200, or lower."""

import numpy as np
import pytest
import torch
from peers import imported

from robustsuite.attacks.evasion.apgd import APGD
from robustsuite.attacks.evasion.fgsm import FGSM
from robustsuite.attacks.evasion.mi_fgsm import MIFGSM
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core import losses
from robustsuite.core.ball import Ball
from robustsuite.core.streams import Streams

STEPS, RADIUS, STEP = 20, 0.15, 0.1
SLACK = 1  # of 200 samples


def art_pgd(net, x, y, norm, radius, steps):
    evasion = imported("art.attacks.evasion", "pip install adversarial-robustness-toolbox")
    from art.estimators.classification import PyTorchClassifier

    loss = torch.nn.CrossEntropyLoss()
    model = PyTorchClassifier(net, loss, (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")
    attack = evasion.ProjectedGradientDescent(
        model, norm=norm, eps=radius, eps_step=STEP * radius if steps > 1 else radius, max_iter=steps, verbose=False
    )
    return torch.tensor(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))


def left_robust(net, moved, y):
    with torch.no_grad():
        return net(moved).argmax(1) == y


@pytest.fixture(params=["plain", "hardened"])
def case(request, digits):
    assert len(digits["y"]) == 200
    return digits[request.param], digits["x"], digits["y"]


@pytest.mark.parametrize(("norm", "order", "radius"), [("linf", np.inf, RADIUS), ("l2", 2, 1.0)])
def test_pgd_agrees_with_art(case, view_of, norm, order, radius):
    net, x, y = case
    ours = PGD(steps=STEPS, random_start=False)(view_of(net, x, y, Ball(norm, radius, (0.0, 1.0))), Streams(0))
    theirs = art_pgd(net, x, y, order, radius, STEPS)
    assert int(left_robust(net, ours, y).sum()) <= int(left_robust(net, theirs, y).sum()) + SLACK


def test_fgsm_is_arts_point_for_point(case, view_of):
    net, x, y = case
    ours = FGSM()(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    theirs = art_pgd(net, x, y, np.inf, RADIUS, 1)
    share = ((ours - theirs).flatten(1).abs().amax(1) < 1e-6).double().mean()
    assert float(share) > 0.98
    assert int((left_robust(net, ours, y) != left_robust(net, theirs, y)).sum()) <= SLACK


def test_pgd_agrees_with_foolbox(case, view_of):
    foolbox = imported("foolbox")
    net, x, y = case
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=STEP, random_start=False)
    _, theirs, _ = attack(model, x, y, epsilons=RADIUS)
    ours = PGD(steps=STEPS, random_start=False)(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    assert int(left_robust(net, ours, y).sum()) <= int(left_robust(net, theirs, y).sum()) + SLACK


def test_pgd_agrees_with_torchattacks(case, view_of):
    torchattacks = imported("torchattacks")
    net, x, y = case
    theirs = torchattacks.PGD(net, eps=RADIUS, alpha=STEP * RADIUS, steps=STEPS, random_start=False)(x, y)
    ours = PGD(steps=STEPS, random_start=False)(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    assert int(left_robust(net, ours, y).sum()) <= int(left_robust(net, theirs, y).sum()) + SLACK


def reference(net, norm, radius, loss, *, targets=0, steps=100, seed=0):
    """AutoAttack's own code of Auto-PGD."""
    base = imported("pyautoattack.autopgd_base")
    options = {
        "n_iter": steps,
        "norm": norm,
        "eps": radius,
        "device": "cpu",
        "use_largereps": norm == "L1",
        "seed": seed,
    }
    if targets:
        return base.APGDAttack_targeted(net, n_target_classes=targets, **options)
    return base.APGDAttack(net, loss=loss, **options)


@pytest.mark.filterwarnings("ignore:there are")  # theirs counts zero gradients
@pytest.mark.parametrize(("norm", "name", "radius"), [("linf", "Linf", RADIUS), ("l2", "L2", 1.0), ("l1", "L1", 2.0)])
@pytest.mark.parametrize(("loss", "short", "targets"), [("cross-entropy", "ce", 0), ("dlr", "dlr", 0), ("dlr", "", 2)])
def test_apgd_agrees_with_its_authors_code(digits, view_of, norm, name, radius, loss, short, targets):
    """Random starts differ, and from seed to seed the count by 1.7 of 200 (one deviation): the mean of two is compared.

    Where both start at the same point, the next test is sharp.
    """
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    steps = 20 if targets else 50
    theirs, ours = [], []
    for seed in (0, 1):
        attack = reference(net, name, radius, short, targets=targets, steps=steps, seed=seed)
        theirs.append(int(left_robust(net, attack.perturb(x, y), y).sum()))
        view = view_of(net, x, y, Ball(norm, radius, (0.0, 1.0)))
        moved = APGD(steps=steps, loss=loss, targets=targets)(view, Streams(seed))
        ours.append(int(left_robust(net, moved, y).sum()))
    assert sum(ours) / 2 <= sum(theirs) / 2 + 2 * 1.7


@pytest.mark.parametrize(("loss", "short"), [("cross-entropy", "ce"), ("dlr", "dlr")])
def test_apgd_climbs_as_its_authors_code_does(case, view_of, loss, short):
    """In linf, from the same start, the runs are the same but for ties of a rule that the paper states strictly."""
    net, x, y = case
    attack = reference(net, "Linf", 0.1, short)
    attack.init_hyperparam(x)
    _, stands, best, _ = attack.attack_single_run(x, y, x_init=x.clone())
    moved = APGD(loss=loss, random_start=False)(view_of(net, x, y, Ball("linf", 0.1, (0.0, 1.0))), Streams(0))
    ours = left_robust(net, moved, y)
    assert int((ours != stands).sum()) <= SLACK
    gap = (losses.NAMED[loss](net(moved), y) - best)[ours & stands].abs()
    assert float((gap < 1e-4).double().mean()) > 0.95


def test_mi_fgsm_agrees_with_torchattacks(case, view_of):
    torchattacks = imported("torchattacks")
    net, x, y = case
    theirs = torchattacks.MIFGSM(net, eps=RADIUS, alpha=RADIUS / 10, steps=10, decay=1.0)(x, y)
    ours = MIFGSM()(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    assert int(left_robust(net, ours, y).sum()) <= int(left_robust(net, theirs, y).sum()) + SLACK
