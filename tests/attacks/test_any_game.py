"""Every evasion attack runs in every game: 2 to 200 classes, each of its norms, targeted, float64, one at a time."""

from functools import cache

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.ball import Ball, Threat
from robustsuite.core.deployed import Served
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.plugins import registry
from robustsuite.scenarios import game
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim

FEW = {"steps": 3, "queries": 40, "samples": 16, "epochs": 1, "rounds": 1, "evaluations": 8, "restarts": 2, "search": 2}
OWN = {"cascade": {"queries": 5}, "autoattack": {"queries": 5}}
CLASSES = (2, 3, 5, 10, 200)
FIRST = (2, 10, 200)  # the others in the slow test of every combination
RADII = {"linf": 0.05, "l2": 0.3, "l1": 1.5}
ENTRIES = [entry for entry in registry.attacks.all() if entry.scenario == "evasion"]
in_its_norms = pytest.mark.parametrize(
    ("entry", "norm"), [(e, norm) for e in ENTRIES for norm in e.norms], ids=lambda v: getattr(v, "name", v)
)


def quick(entry):
    """The attack with few steps, where it has them."""
    names = [parameter.name for parameter in entry.parameters]
    few = {**FEW, **OWN.get(entry.name, {})}
    return entry.make({name: few[name] for name in names if name in few})


@cache
def victim(classes, dtype, n, outputs=0):
    """An untrained network whose answers are the labels, so that every sample is attacked."""
    torch.manual_seed(classes)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs or classes)).to(dtype).eval()
    x = 0.1 + 0.8 * Streams(1).uniform(torch.arange(n), (1, 8, 8))
    with torch.no_grad():
        y = net(x.to(dtype)).argmax(1)
    return Victim(Served(net), Samples(x, y, classes, (0.0, 1.0), torch.arange(n) + 500))


def judged(entry, norm, classes, *, dtype=torch.float32, n=4, target=None, batch_size=None):
    """One game whose judge refuses another shape, another dtype, a graph, and counts what is over budget."""
    goal = "untargeted" if target is None else "targeted"
    threat = Threat(ball=Ball(norm, RADII[norm]), goal=goal, target=target)
    rules = {} if batch_size is None else {"batch_size": batch_size}
    found = play(quick(entry), game(entry, threat, rules), victim(classes, dtype, n), seed=0)
    # In so few steps a point may be found whose class only rounding decides: `found-not-returned` is no failure here.
    assert not {"over-budget", "non-finite"} & set(found.flags), found.flags
    assert found.values["clean_accuracy"].value == 1
    assert all(0 <= metric.value <= 1 for metric in found.values.values() if metric.unit == "rate")
    assert found.values["robust_accuracy"].n == n
    distance = found.per_sample["distance"]
    assert bool((distance[distance.isfinite()] >= 0).all())
    return found


@in_its_norms
@pytest.mark.parametrize("classes", FIRST)
def test_classes_and_norms(entry, norm, classes):
    judged(entry, norm, classes)


@in_its_norms
@pytest.mark.parametrize("classes", FIRST)
def test_aimed_in_double_precision_one_at_a_time(entry, norm, classes):
    found = judged(entry, norm, classes, dtype=torch.float64, n=2, target="next", batch_size=1)
    hits = found.values["target_hit_rate"]
    assert hits.n == 2
    assert hits.value <= found.values["attack_success_rate"].value


@in_its_norms
def test_one_logit(entry, norm):
    """A model with one logit is declared, and is then one of two classes."""
    given = victim(2, torch.float32, 4, outputs=1)
    x = given.test.x
    with torch.no_grad():
        y = (given.model.network(x)[:, 0] > 0).long()
    model = rs.wrap(given.model.network, output="binary-logit")
    report = rs.evaluate(model, (x, y), quick(entry), Ball(norm, RADII[norm]), classes=2, rules={"follow_up": False})
    clean, record = report.records
    assert clean.metrics["clean_accuracy"].value == 1
    assert (record.status, record.message.startswith("Traceback")) == ("ok", False), record.message


@pytest.mark.slow
@in_its_norms
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("target", [None, "next", "random", "least-likely"])
def test_every_combination(entry, norm, classes, dtype, target):
    one, many = (judged(entry, norm, classes, dtype=dtype, n=6, target=target, batch_size=size) for size in (1, 6))
    # FMN's ball shrinks or grows by whether a point on the boundary itself has broken, which rounding decides.
    if dtype == torch.float64 and entry.name != "fmn":
        assert torch.equal(one.per_sample["robust"], many.per_sample["robust"])
