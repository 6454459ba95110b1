"""The privacy budget that is claimed is the one that ran: read from the run's records, and computed again.

pytest test_epsilon_is_what_ran.py --run-folder runs/private
"""

import json
from pathlib import Path

import pytest

from robustsuite import Report

pytestmark = pytest.mark.security

CLAIMED_EPSILON = 3.0  # what the model card says
CLAIMED_DELTA = 1e-5
ROUNDING = 0.02


@pytest.fixture
def folder(pytestconfig):
    named = pytestconfig.getoption("--run-folder")
    if named is None:
        pytest.skip("no --run-folder of a private training")
    return Path(named)


@pytest.fixture
def trainings(folder):
    """What each private training says of itself."""
    told = [json.loads(file.read_text())["facts"]["facts"] for file in sorted((folder / "models").glob("*.json"))]
    found = [facts for facts in told if "epsilon" in facts]
    assert found, f"no training in {folder} was private"
    return found


def test_recorded_within_the_claim(folder):
    records = [record for record in Report.load(folder).records if "epsilon" in record.metrics]
    assert records, f"no record in {folder} has an epsilon"
    for record in records:
        epsilon, delta = (record.metrics[name].value for name in ("epsilon", "delta"))
        assert "epsilon-not-valid" not in record.flags, f"{record.defense}: the accounting does not cover what was done"
        assert epsilon <= CLAIMED_EPSILON, f"{record.defense}: epsilon {epsilon:.3f} ran, {CLAIMED_EPSILON} is claimed"
        assert delta <= CLAIMED_DELTA, f"{record.defense}: delta {delta:g} ran, {CLAIMED_DELTA:g} is claimed"


def test_computed_again(folder, trainings):
    """By the textbook, from what was done: Poisson sampling at rate q with this noise, so many times."""
    from opacus.accountants import RDPAccountant

    again = []
    for facts in trainings:
        q, n = facts["sample_rate"], facts["private_samples"]
        assert facts["sampling"] == "poisson", f"sampling was {facts['sampling']}, and the budget assumes Poisson"
        assert q == facts["expected_batch_size"] / n, f"q = {q} is not batch / N = {facts['expected_batch_size']} / {n}"
        assert facts["delta"] < 1 / n, f"delta {facts['delta']:g} is no guarantee for {n} people"
        accountant = RDPAccountant()
        accountant.history = [(facts["noise_multiplier"], q, facts["steps"])]
        again.append(accountant.get_epsilon(facts["delta"]))
    for record in Report.load(folder).records:
        if "epsilon" in record.metrics:
            told = record.metrics["epsilon"].value
            near = min(again, key=lambda epsilon: abs(epsilon - told))
            assert abs(near - told) <= ROUNDING, f"{record.defense} records epsilon {told:.3f}, but {near:.3f} ran"
