"""The reference runs in `reports/` stay inside their bands, and their epsilon matches an independent recomputation."""

import csv
import json
import math
from pathlib import Path

import pytest
from scipy.special import gammaln, logsumexp

from robustsuite.evaluation.record_files import read

REPORTS = Path(__file__).parent.parent.parent / "reports"
RADII = {"mnist": 0.3, "quickstart": 0.2}


def cells(suite):
    return [json.loads(record.line()) for record in read(REPORTS / suite / "records.jsonl")]


def metric(suite, defense, attack, name):
    """The mean over repeats at the suite's own radius."""
    found = [c for c in cells(suite) if c["defense"] == defense and c["attack"] == attack]
    main = [c for c in found if c["radius"] in (None, RADII.get(suite))]
    values = [c["metrics"][name]["value"] for c in main]
    return sum(values) / len(values)


def test_every_cell_was_judged():
    for suite in ("mnist", "faces", "quickstart"):
        assert {c["status"] for c in cells(suite)} == {"ok"}


def test_undefended_network():
    assert metric("mnist", "none", "none", "clean_accuracy") >= 0.988
    assert metric("mnist", "none", "cascade", "robust_accuracy_followed_up") <= 0.005


def test_adversarial_training():
    assert metric("mnist", "adversarial-training", "none", "clean_accuracy") >= 0.98
    assert metric("mnist", "adversarial-training", "pgd", "robust_accuracy") >= 0.86
    assert metric("mnist", "adversarial-training", "cascade", "robust_accuracy_followed_up") >= 0.79


def test_input_validation_beside_training():
    """It rejects a tenth of the clean inputs at most, and is no better than the training alone within the interval."""
    both, alone = ("adversarial-training+input-validation", "adversarial-training")
    assert metric("mnist", both, "none", "clean_accuracy") >= 0.9
    verdicts = [metric("mnist", name, "cascade", "robust_accuracy_followed_up") for name in (both, alone)]
    assert abs(verdicts[0] - verdicts[1]) <= 0.04


def test_backdoor():
    assert metric("mnist", "none", "badnets", "backdoor_success_rate") >= 0.99
    assert metric("mnist", "none", "badnets", "accuracy_drop") <= 0.005
    assert metric("mnist", "none", "badnets", "backdoor_success_rate_clean_twin") <= 0.02


def test_private_training():
    assert 0.938 <= metric("mnist", "dp-sgd", "none", "clean_accuracy") <= 0.954


def sampled_gaussian_rdp(q, sigma, order):
    """Renyi divergence of one step at an integer order (Mironov et al., arXiv:1908.10530, equation 6)."""
    terms = [
        gammaln(order + 1)
        - gammaln(k + 1)
        - gammaln(order - k + 1)
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    return logsumexp(terms) / (order - 1)


def test_epsilon_is_recomputed_to_a_thousandth():
    """sigma 1.3, 60,000 samples, batches of 240, 15 epochs; conversion of Balle et al., arXiv:1905.09982."""
    q, sigma, steps, delta = 240 / 60000, 1.3, 15 * 250, 1e-5
    by_hand = min(
        steps * sampled_gaussian_rdp(q, sigma, a) + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1)
        for a in range(2, 257)
    )
    assert metric("mnist", "dp-sgd", "none", "epsilon") == pytest.approx(by_hand, abs=1e-3)


def test_faces():
    """What inversion shows is known less often than photos of the same people that nobody trained on."""
    assert metric("faces", "none", "model-inversion", "evaluator_accuracy") >= 0.85, "it learns four photos a person"
    assert metric("faces", "none", "model-inversion", "inversion_accuracy") >= 0.6
    assert metric("faces", "mlp", "model-inversion", "inversion_accuracy") >= 0.75
    for victim in ("none", "mlp"):
        known = metric("faces", victim, "model-inversion", "inversion_accuracy")
        assert known < metric("faces", victim, "nearest-held-out", "inversion_accuracy")
        assert metric("faces", victim, "inversion-noise", "inversion_accuracy") <= 0.1
        assert metric("faces", victim, "class-mean", "inversion_accuracy") >= 0.95


def test_quickstart():
    """An undefended network is broken, training against attacks buys something, and both are told from noise."""
    with (REPORTS / "quickstart" / "results.csv").open(encoding="utf-8") as file:
        joint = [row for row in csv.DictReader(file) if row["attack"] == "worst-case" and row["radius"] == "0.2"]
    verdicts = {row["defense"]: float(row["value"]) for row in joint if row["metric"] == "robust_accuracy"}
    assert verdicts["none"] <= 0.03
    assert verdicts["adversarial-training"] >= 0.25
    assert metric("quickstart", "none", "noise", "robust_accuracy") >= 0.85
    assert metric("quickstart", "none", "badnets", "backdoor_success_rate") >= 0.9
    assert metric("quickstart", "none", "badnets", "backdoor_success_rate_clean_twin") <= 0.05
    assert metric("quickstart", "dp-sgd", "none", "epsilon") <= 8.0


GAUNTLET_CONTROLS = ("one-bit", "adversarial-training")


def test_the_gauntlet():
    played = {c["defense"]: c for c in cells("gauntlet") if c["attack"] == "cascade"}
    verdicts = {name: c["metrics"]["robust_accuracy_followed_up"]["value"] for name, c in played.items()}
    assert [name for name, c in played.items() if c["status"] != "ok"] == ["warm-up"], "which no attack settles"
    assert "depends-on-history" in played["warm-up"]["flags"]
    broken = [name for name in verdicts if name not in (*GAUNTLET_CONTROLS, "none", "warm-up")]
    assert len(broken) == 24
    assert all(abs(verdicts[name] - verdicts["none"]) <= 0.03 for name in broken)
    assert all(verdicts[name] >= 0.25 for name in GAUNTLET_CONTROLS)
    naive = {c["defense"]: c["metrics"]["robust_accuracy"]["value"] for c in cells("gauntlet") if c["attack"] == "pgd"}
    assert sum(naive[name] > 0.5 for name in broken) >= 13, "which is what the naive number hides"
