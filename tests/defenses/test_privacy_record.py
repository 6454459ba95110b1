"""The privacy statement in a record: all that epsilon rests on, so that one line is enough to compute it again."""

import json

import numpy as np
import pytest
from test_privacy_accounting import improved, integrated_rdp

from robustsuite.evaluation.records import Record
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite

LOSS = "the training loss of each epoch, in the record's history and charts: it is exact"
SUITE = """
name: private
dataset: {name: digits, train: 200, test: 40}
model: {name: logistic}
training: {epochs: 2, lr: 0.1, optimizer: sgd, batch_size: 32}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses:
  - none
  - dp-sgd: {noise_multiplier: 1.1, delta: 1.0e-3, max_grad_norm: 0.8}
  - [{input-validation: {false_alarm_rate: 0.1}}, {dp-sgd: {noise_multiplier: 0.0, delta: 1.0e-3}}]
attacks: [noise]
"""


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Lines of a run, of one that recalls its weights, and of one that recalls its cells."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "suite.yaml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(folder / "cache"))
        suite = load_suite(folder / "suite.yaml", [], [])
        for name in ("one", "cells"):
            outcome = run(suite, folder / name)
        assert outcome.recalled == len(outcome.records) == 6
        for entry in (folder / "cache" / "cells").glob("*"):
            entry.unlink()
        assert run(suite, folder / "weights").ran == 6
    return {name: lines(folder / name) for name in ("one", "cells", "weights")}


@pytest.fixture(scope="module")
def line(played):
    return next(line for line in played["one"] if line["defense"] == "dp-sgd" and line["attack"] == "none")


def test_epsilon_is_computed_again_from_one_line(line):
    """By Opacus's analysis of one step, over the recorded orders and by the recorded conversion."""
    from opacus.accountants.analysis.rdp import compute_rdp

    told = line["training"]
    assert told["accountant"] == "rdp"
    assert told["conversion"].startswith("improved (Balle et al., arXiv:1905.09982, theorem 21)")
    rdp = compute_rdp(
        q=told["sample_rate"], noise_multiplier=told["noise_multiplier"], steps=told["steps"], orders=told["orders"]
    )
    found = min(improved(r, a, told["delta"]) for r, a in zip(rdp, told["orders"], strict=True))
    assert found == pytest.approx(told["epsilon"], abs=1e-9)
    assert line["metrics"]["epsilon"]["value"] == told["epsilon"]
    assert line["metrics"]["delta"]["value"] == told["delta"] == 1e-3


def test_epsilon_is_confirmed_by_quadrature(line):
    """The divergence of one step from its definition, which shares no code with Opacus."""
    told = line["training"]
    q, sigma, steps = told["sample_rate"], told["noise_multiplier"], told["steps"]
    orders = [a for a in told["orders"] if a <= 64]
    by_hand = min(improved(steps * integrated_rdp(q, sigma, a), a, told["delta"]) for a in orders)
    assert by_hand == pytest.approx(told["epsilon"], abs=1e-3)


def test_the_statement_is_whole(line):
    told = line["training"]
    stated = {
        "sample_rate": 32 / 200,
        "steps": 12,
        "noise_multiplier": 1.1,
        "max_grad_norm": 0.8,
        "expected_batch_size": 32,
        "private_samples": 200,
        "mechanism": "Poisson-subsampled Gaussian",
        "sampling": "poisson",
        "accountant": "rdp",
        "accountant_error": 0.0,
        "neighbouring": "add/remove",
        "privacy_unit": "example",
        "delta": 1e-3,
        "epsilon_valid": True,
        "epsilon_reasons": [],
        "outside_guarantee": [LOSS],
    }
    assert {name: told[name] for name in stated} == stated
    assert len(told["orders"]) == len(set(told["orders"])) > 100
    assert min(told["orders"]) == pytest.approx(1.1)


def test_what_lies_outside_and_an_infinite_epsilon_are_said(played):
    (line,) = (line for line in played["one"] if line["defense"] != "dp-sgd" and "epsilon" in line["metrics"])
    assert line["training"]["outside_guarantee"] == [
        LOSS,
        "the part calibration of the data set, for input-validation",
    ]
    assert line["training"]["epsilon"] == "inf"
    assert Record.parse(json.dumps(line)).training["epsilon"] == np.inf


def test_every_cell_of_every_defence_has_it_and_it_survives_both_caches(played):
    for found in played.values():
        assert [line["training"] for line in found] == [line["training"] for line in played["one"]]
    told = [line["training"] for line in played["one"]]
    assert all(one["epochs"] == 2 and one["train_seconds"] > 0 for one in told)
    assert sum("epsilon" in one for one in told) == 4
