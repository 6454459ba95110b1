"""`rs.evaluate` as a user calls it: reports, labels, data of every kind, and requests that are wrong."""

import gc
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import robustsuite as rs
from robustsuite.core.deployed import Deployed, Outputs
from robustsuite.plugins import registry
from robustsuite.report.report import Report

BALL = rs.Ball("linf", 0.1)


def rate(report, attack, metric="robust_accuracy"):
    record = next(r for r in report.records if r.attack == attack)
    assert record.status == "ok", record.message
    return record.metrics[metric].value


@pytest.fixture(scope="module")
def made(request, digits):
    """One report of three attacks, made once."""
    network = request.getfixturevalue("_network")
    _, _, x, y = digits
    told = []
    attacks = ["fgsm", "pgd", rs.attack("pgd", steps=5)]
    rules = {"follow_up": False}  # so that each attack's own number stands
    progress = lambda *seen: told.append(seen)  # noqa: E731
    report = rs.evaluate(network, (x, y), attacks=attacks, threat=BALL, rules=rules, progress=progress)
    return report, told


def test_the_report_holds_the_clean_evaluation_and_every_attack(made):
    report, told = made
    assert [r.attack for r in report.records] == ["none", "fgsm", "pgd", "pgd(steps=5)"]
    assert [r.status for r in report.records] == ["ok"] * 4
    steps = ["measuring clean accuracy", *(f"playing {r.attack}" for r in report.records[1:]), "finished"]
    assert told == [(step, i, 4) for i, step in enumerate(steps)]
    assert 0.9 < rate(report, "none", "clean_accuracy") <= 1
    assert rate(report, "pgd") <= rate(report, "pgd(steps=5)")


def test_frame_and_table(made):
    report, _ = made
    frame = report.frame
    worst = frame[(frame.attack == "worst-case") & (frame.metric == "robust_accuracy")]
    assert len(worst) == 1
    each = frame[(frame.metric == "robust_accuracy") & (frame.attack != "worst-case")]
    assert worst.value.item() <= each.value.min()
    assert set(frame.radius.dropna()) == {0.1}
    table = report.table()
    assert list(table.index) == ["none"]
    assert any("pgd(steps=5)" in str(column) for column in table.columns)


def test_saved_reports_read_back_and_survive_the_original(tmp_path, network, digits):
    _, _, x, y = digits
    report = rs.evaluate(network, (x[:120], y[:120]), "fgsm", BALL)
    temporary = report.folder
    folder = report.save(tmp_path / "mine")
    table = report.table()
    del report
    gc.collect()
    assert not temporary.exists(), "the temporary folder goes away with the report"
    again = Report.load(folder)
    assert again.table().equals(table)
    assert {p.name for p in folder.iterdir()} >= {"records.jsonl", "results.csv", "table.md", "report.html", "samples"}


def test_the_temporary_folder_goes_away_when_python_ends(tmp_path):
    code = """
import torch, robustsuite as rs
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
report = rs.evaluate(net, (torch.rand(9, 1, 2, 2), torch.arange(9) % 3), "fgsm", rs.Ball("linf", 0.1))
print(report.folder, report.folder.is_dir())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_temporary(tmp_path)
    )
    folder, was_there = done.stdout.split()
    assert was_there == "True"
    assert folder.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def _temporary(folder):
    import os

    return {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}


def test_one_attack_needs_no_list(network, digits):
    _, _, x, y = digits
    one = rs.evaluate(network, (x, y), "fgsm", BALL)
    other = rs.evaluate(network, (x, y), rs.attack("fgsm"), rs.Threat(ball=BALL))
    assert rate(one, "fgsm") == rate(other, "fgsm")
    assert [r.key for r in one.records] == [r.key for r in other.records]


@pytest.mark.parametrize(
    ("attacks", "labels"),
    [
        (["pgd(steps=2)"], ["pgd"]),
        (["pgd(steps=2)", "pgd(steps=2, restarts=2)"], ["pgd(steps=2)", "pgd(steps=2, restarts=2)"]),
        (["fgsm", "fgsm"], ["fgsm#1", "fgsm#2"]),
        (["noise", "pgd(steps=2)", "fgsm", "pgd(steps=2)"], ["noise", "pgd(steps=2)#1", "fgsm", "pgd(steps=2)#2"]),
        (["none"], []),
        (["none", "none", "fgsm"], ["fgsm"]),
    ],
)
def test_labels_tell_attacks_apart(network, digits, attacks, labels):
    _, _, x, y = digits
    report = rs.evaluate(network, (x[:20], y[:20]), attacks, BALL, rules={"follow_up": False} if labels else None)
    assert [r.attack for r in report.records] == ["none", *labels]
    assert len({r.key for r in report.records}) == len(report.records)


def test_every_kind_of_data_gives_the_same_figures(network, digits):
    _, _, x, y = digits
    kinds = [
        (x, y),
        (x.numpy(), y.numpy()),
        (x.clone().requires_grad_(), y.to(torch.int32)),
        (x.contiguous(memory_format=torch.channels_last), y),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=7),
        rs.Samples(x, y, 10),
    ]
    keys = set()
    for data in kinds:
        report = rs.evaluate(network, data, "fgsm", BALL)
        assert len(report.records[0].samples_digest) == 64
        keys.add((rate(report, "none", "clean_accuracy"), rate(report, "fgsm"), report.records[1].samples_digest))
    assert len(keys) == 1


def test_inputs_that_are_no_images(digits, fitted):
    x, y, test_x, test_y = digits
    rows = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    fitted(rows, x.flatten(1), y)
    report = rs.evaluate(rows, (test_x.flatten(1), test_y), "pgd(steps=10)", BALL, rules={"follow_up": False})
    assert 0 < rate(report, "pgd") < rate(report, "none", "clean_accuracy")


@pytest.mark.parametrize("n", [1, 5, 17])
def test_fewer_samples_than_a_batch(network, digits, n):
    _, _, x, y = digits
    report = rs.evaluate(network, (x[:n], y[:n]), ["pgd(steps=3)"], BALL, rules={"follow_up": n < 17})
    assert report.records[1].metrics["robust_accuracy"].n == n


def test_batch_size_is_a_rule_that_changes_nothing(network, digits):
    _, _, x, y = digits
    # Follow-up attacks are held to the same in `tests/sanity/test_batch_independence.py`.
    rules = ({"batch_size": size, "follow_up": False} for size in (11, 500))
    one, other = (rs.evaluate(network, (x, y), "pgd(steps=5)", BALL, rules=rule) for rule in rules)
    assert rate(one, "pgd") == rate(other, "pgd")
    assert one.records[1].key == other.records[1].key


def test_rules_reach_the_game_and_an_expression_may_override_them(network, digits):
    _, _, x, y = digits
    attack = "art:HopSkipJump(max_iter=1, max_eval=20, init_eval=5, init_size=20, query_budget=60)"
    report = rs.evaluate(network, (x[:6], y[:6]), [attack], rs.Ball("l2", 1.0), rules={"query_budget": 10})
    assert 10 < rate(report, "art:HopSkipJump", "queries_median") <= 60


def test_an_art_attack_made_by_hand(network, digits):
    _, _, x, y = digits
    made = rs.attack("art:HopSkipJump", max_iter=2, max_eval=50, init_eval=5, init_size=20)
    report = rs.evaluate(network, (x[:8], y[:8]), attacks=[made], threat=rs.Ball("l2", 2.0))
    assert rate(report, "art:HopSkipJump") < rate(report, "none", "clean_accuracy")


def test_an_expression_and_keywords_make_the_same_attack():
    assert rs.attack("pgd(steps=7)") == rs.attack("pgd", steps=7) == rs.attack("pgd(steps=7)", restarts=1)
    assert rs.defense("adversarial-training", attack="fgsm") == rs.defense("adversarial-training(attack='fgsm')")
    with pytest.raises(rs.RequestError, match="each option once, got steps=8"):
        rs.attack("pgd(steps=7)", steps=8)


def test_seed_and_model_are_part_of_the_key(network, digits):
    _, _, x, y = digits
    data = (x[:30], y[:30])
    keys = [rs.evaluate(network, data, "noise", BALL, seed=seed).records[1].key for seed in (0, 0, 1)]
    wrapped = [rs.wrap(network, mean=m) for m in (0.1, 0.2)]
    keys += [rs.evaluate(model, data, "noise", BALL).records[1].key for model in wrapped]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


class Halves(Deployed):
    """Reject what is bright on average."""

    fully_differentiable = False

    def __init__(self, network):
        self._network = network

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        return Outputs(self._network(x), x.flatten(1).mean(1) > 0.32)


def test_a_deployed_model_may_reject(network, digits):
    _, _, x, y = digits
    report = rs.evaluate(Halves(network), (x, y), "fgsm", BALL)
    expected = float((x.flatten(1).mean(1) > 0.32).double().mean())
    assert 0 < expected < 1
    assert rate(report, "none", "rejection_rate_clean") == pytest.approx(expected)
    assert "not-adaptive" in report.records[1].flags


@pytest.fixture
def plugin():
    """Register attack classes for one test."""
    registry.discover()
    known = dict(registry.attacks._entries)
    yield lambda name, cls, **how: registry.register.attack(
        name, **{"scenario": "evasion", "access": "white-box", **how}
    )(cls)
    registry.attacks._entries.clear()
    registry.attacks._entries.update(known)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Do nothing, with options that have no hash.

    Args:
        weights: Numbers.
        names: A mapping.
    """

    weights: object = None
    names: object = None

    def __call__(self, view, streams):
        return view.x.clone()


def test_options_without_a_hash(plugin, network, digits):
    plugin("listed", Listed)
    _, _, x, y = digits
    given = [rs.attack("listed", weights=[1, 2], names={"a": [3]}), rs.attack("listed", weights=[5])]
    report = rs.evaluate(network, (x[:10], y[:10]), given, BALL, rules={"follow_up": False})
    assert [r.attack for r in report.records[1:]] == [
        "listed(weights=[1, 2], names={'a': [3]})",
        "listed(weights=[5])",
    ]
    assert json.loads(report.records[1].line())["attack_parameters"]["names"] == {"a": [3]}


def test_options_that_no_record_can_hold_are_refused(plugin, network, digits):
    plugin("listed", Listed)
    _, _, x, y = digits
    with pytest.raises(rs.RequestError, match="keep tensors out of parameters"):
        rs.evaluate(network, (x, y), [rs.attack("listed", weights=torch.ones(3))], BALL)


def test_an_instance_of_a_registered_class_plays(plugin, network, digits):
    cls = plugin("listed", Listed)
    _, _, x, y = digits
    report = rs.evaluate(network, (x, y), [cls()], BALL, rules={"follow_up": False})
    assert rate(report, "listed") == rate(report, "none", "clean_accuracy")


def test_training_data_and_recipe_let_other_games_be_played():
    from robustsuite.testing import tiny_network, tiny_samples

    network, train, test = tiny_network(), tiny_samples(320), tiny_samples(60, first=10_000)
    public = tiny_samples(200, first=20_000)
    report = rs.evaluate(network, test, ["class-mean", "nearest-held-out"], train=train, public=public)
    for record in report.records[1:]:
        assert record.status == "ok", record.message
        assert record.scenario == "inversion"
    with pytest.raises(rs.RequestError, match=r"expected a model with its public data .* got judge=None"):
        rs.evaluate(network, test, ["class-mean"], train=train)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attacks": []}, "at least one attack"),
        ({"attacks": ["pgdd"]}, "did you mean pgd"),
        ({"attacks": ["pgd(stepz=3)"]}, "did you mean 'steps'"),
        ({"attacks": [None]}, "attack=None"),
        ({"attacks": [Listed]}, "make it by"),
        ({"attacks": [lambda view, streams: view.x]}, "register its class"),
        ({"threat": None}, r"ball for the evasion attack 'pgd', got threat=None; add threat=\('linf', 8 / 255\)"),
        ({"threat": ("linf",)}, r"threat=\('linf',\); write \('linf', 8 / 255\)"),
        ({"threat": ("linff", 0.1)}, r"norm='linff'.*did you mean 'linf'"),
        ({"threat": 0.1}, r"threat=0\.1"),
        ({"threat": rs.Threat(ball=BALL, goal="targeted")}, "a target for a targeted goal"),
        ({"rules": {"query_budgt": 3}}, "did you mean 'query_budget'"),
        ({"rules": {"batch_size": 0}}, "batch_size=0"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "zero"}, "seed='zero'"),
        ({"classes": 1}, "classes"),
        ({"model": torch.relu}, "wrap the function in a module"),
        ({"attacks": ["badnets"]}, r"training recipe and training data.*--train-data"),
        ({"threat": rs.Ball("linf", 0.1, bounds=(0.2, 1.0))}, "min=0"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_played(network, digits, change, told):
    _, _, x, y = digits
    told_progress = []
    request = {"model": network, "data": (x, y), "attacks": ["pgd"], "threat": BALL, **change}
    with pytest.raises(rs.RequestError, match=told):
        rs.evaluate(**request, progress=lambda *seen: told_progress.append(seen))
    assert told_progress == []


def test_bounds_come_from_the_model_the_samples_or_the_ball(network, digits):
    _, _, x, y = digits
    model = rs.wrap(network, std=255.0, bounds=(0, 255))
    scaled = rs.evaluate(model, (x * 255, y), "fgsm", rs.Ball("linf", 25.5))
    plain = rs.evaluate(network, (x, y), "fgsm", BALL)
    assert rate(scaled, "fgsm") == pytest.approx(rate(plain, "fgsm"), abs=0.011)
    shifted = torch.nn.Sequential(rs.wrap(network, mean=-1.0, std=2.0, bounds=(-1, 1)))
    from_ball = rs.evaluate(shifted, (x * 2 - 1, y), "fgsm", rs.Ball("linf", 0.2, bounds=(-1, 1)))
    from_samples = rs.evaluate(shifted, rs.Samples(x * 2 - 1, y, 10, (-1.0, 1.0)), "fgsm", rs.Ball("linf", 0.2))
    assert rate(from_ball, "fgsm") == rate(from_samples, "fgsm") == pytest.approx(rate(plain, "fgsm"), abs=0.011)
    with pytest.raises(rs.RequestError, match=r"a ball within the inputs' bounds.*ball\.bounds=\(-1\.0, 1\.0\)"):
        rs.evaluate(model, (x * 255, y), "fgsm", rs.Ball("linf", 0.2, bounds=(-1, 1)))
    with pytest.raises(rs.RequestError, match=r"data\.bounds=\(0\.0, 1\.0\); the model declares \(0\.0, 255\.0\)"):
        rs.evaluate(model, rs.Samples(x, y, 10), "fgsm", BALL)


def test_numpy_and_lists_are_read_as_data(network, digits):
    _, _, x, y = digits
    report = rs.evaluate(network, [np.asarray(x[:30], dtype=np.float64), y[:30].tolist()], "fgsm", BALL)
    assert report.records[1].status == "ok"
