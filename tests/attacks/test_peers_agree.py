"""PGD against the peers: same network, images, radius and steps; within 1 sample in 200, or lower."""

import numpy as np
import pytest
import torch

from robustsuite.attacks.evasion.fgsm import FGSM
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.streams import Streams
from robustsuite.threat import Ball

STEPS, RADIUS, STEP = 20, 0.15, 0.1
SLACK = 1  # of 200 samples


def art_pgd(net, x, y, norm, radius, steps):
    evasion = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    loss = torch.nn.CrossEntropyLoss()
    model = PyTorchClassifier(net, loss, (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")
    attack = evasion.ProjectedGradientDescent(
        model, norm=norm, eps=radius, eps_step=STEP * radius if steps > 1 else radius, max_iter=steps, verbose=False
    )
    return torch.tensor(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))


def standing(net, moved, y):
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
    assert int(standing(net, ours, y).sum()) <= int(standing(net, theirs, y).sum()) + SLACK


def test_fgsm_is_arts_point_for_point(case, view_of):
    net, x, y = case
    ours = FGSM()(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    theirs = art_pgd(net, x, y, np.inf, RADIUS, 1)
    share = ((ours - theirs).flatten(1).abs().amax(1) < 1e-6).double().mean()
    assert float(share) > 0.98
    assert int((standing(net, ours, y) != standing(net, theirs, y)).sum()) <= SLACK


def test_pgd_agrees_with_foolbox(case, view_of):
    foolbox = pytest.importorskip("foolbox")
    net, x, y = case
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=STEP, random_start=False)
    _, theirs, _ = attack(model, x, y, epsilons=RADIUS)
    ours = PGD(steps=STEPS, random_start=False)(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    assert int(standing(net, ours, y).sum()) <= int(standing(net, theirs, y).sum()) + SLACK


def test_pgd_agrees_with_torchattacks(case, view_of):
    torchattacks = pytest.importorskip("torchattacks")
    net, x, y = case
    theirs = torchattacks.PGD(net, eps=RADIUS, alpha=STEP * RADIUS, steps=STEPS, random_start=False)(x, y)
    ours = PGD(steps=STEPS, random_start=False)(view_of(net, x, y, Ball("linf", RADIUS, (0.0, 1.0))), Streams(0))
    assert int(standing(net, ours, y).sum()) <= int(standing(net, theirs, y).sum()) + SLACK
