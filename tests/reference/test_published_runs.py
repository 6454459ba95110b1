"""The reference runs in `reports/` stay inside their bands, and their epsilon matches an independent recomputation."""

import json
import math
from pathlib import Path

import pytest
from scipy.special import gammaln, logsumexp

from robustsuite.evaluation.record_files import read

REPORTS = Path(__file__).parent.parent.parent / "reports"


def cells(suite):
    return [json.loads(record.line()) for record in read(REPORTS / suite / "records.jsonl")]


def metric(suite, defense, attack, name):
    """The mean over repeats at the suite's own radius."""
    found = [c for c in cells(suite) if c["defense"] == defense and c["attack"] == attack]
    main = [c for c in found if c["radius"] in (None, 0.3)]
    values = [c["metrics"][name]["value"] for c in main]
    return sum(values) / len(values)


def test_every_cell_was_judged():
    for suite in ("mnist", "faces"):
        assert {c["status"] for c in cells(suite)} == {"ok"}


def test_undefended_network():
    assert metric("mnist", "none", "none", "clean_accuracy") >= 0.988
    assert metric("mnist", "none", "pgd-40x5", "robust_accuracy") <= 0.01


def test_adversarial_training():
    assert metric("mnist", "adversarial-training", "none", "clean_accuracy") >= 0.98
    assert metric("mnist", "adversarial-training", "pgd-50x10", "robust_accuracy") >= 0.86


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
    assert metric("faces", "none", "model-inversion", "evaluator_accuracy") >= 0.925
    assert metric("faces", "none", "model-inversion", "inversion_accuracy") >= 0.8
    assert metric("faces", "none", "inversion-noise", "inversion_accuracy") <= 0.1
    assert metric("faces", "none", "class-mean", "inversion_accuracy") >= 0.95


GAUNTLET_CONTROLS = ("one-bit", "adversarial-training")


def test_the_gauntlet():
    played = {c["defense"]: c for c in cells("gauntlet") if c["attack"] == "cascade"}
    verdicts = {name: c["metrics"]["robust_accuracy_followed_up"]["value"] for name, c in played.items()}
    assert {c["status"] for c in played.values()} == {"ok"}
    broken = [name for name in verdicts if name not in (*GAUNTLET_CONTROLS, "none")]
    assert len(broken) == 16
    assert all(abs(verdicts[name] - verdicts["none"]) <= 0.03 for name in broken)
    assert all(verdicts[name] >= 0.25 for name in GAUNTLET_CONTROLS)
    naive = {c["defense"]: c["metrics"]["robust_accuracy"]["value"] for c in cells("gauntlet") if c["attack"] == "pgd"}
    assert sum(naive[name] > 0.5 for name in broken) >= 10, "which is what the naive number hides"
