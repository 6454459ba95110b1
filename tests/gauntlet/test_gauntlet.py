"""The gauntlet: broken defences fall with their undefended twin, and controls stand."""

from dataclasses import replace

import pytest
import torch

from robustsuite.core.errors import RequestError
from robustsuite.defenses.broken import KINDS, Broken
from robustsuite.models.build import ModelSpec
from robustsuite.results import followed_up
from robustsuite.suite.load import load_suite
from robustsuite.testing.victims import tiny_recipe, tiny_samples
from robustsuite.training.cache import Trainer
from robustsuite.training.fit import make_network

CONTROLS = ("one-bit", "adversarial-training")
INCONCLUSIVE = {"warm-up"}
FLAGS = {
    "scaled-logits": {"saturated-loss"},
    "temperature": {"saturated-loss"},
    "softmax": {"probabilities"},
    "detached": {"zero-gradients"},
    "argmax": {"zero-gradients"},
    "levels": {"zero-gradients"},
    "jpeg": {"zero-gradients"},
    "thermometer": {"zero-gradients"},
    "random-pruning": {"nondeterministic"},
    "random-dropout": {"nondeterministic"},
    "random-resize": {"nondeterministic"},
    "winners-take-all": {"misleading-gradients"},
    "crossmax": {"misleading-gradients"},
    "purification": {"gradients-in-forward"},
    "input-validation": {"not-adaptive"},
    "decoy-votes": {"jump-at-boundary"},
    "decoy-levels": {"jump-at-boundary"},
    "decoy-codes": {"jump-at-boundary"},
    "gate-values": {"jump-at-clean-inputs"},
    "gate-single": {"depends-on-batch"},
    "gate-gradients": {"depends-on-autograd"},
    "near-duplicates": {"depends-on-history"},
    "warm-up": {"depends-on-history"},
}


def test_the_suite_holds_every_kind():
    labels = [defense.label for defense in load_suite("gauntlet").defenses]
    assert labels[0] == "none"
    assert set(KINDS) | {"input-validation", "adversarial-training"} == set(labels[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_and_leaves_the_network_alone(kind):
    recipe, samples = (
        Broken(kind=kind)(replace(tiny_recipe(), build=ModelSpec("mlp", options=(("hidden", (16,)),)))),
        tiny_samples(40),
    )
    network = make_network(recipe, samples, 0).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = Trainer(0, part={"calibration": samples}.get).deploy(recipe, network, samples).model
    with torch.no_grad():
        logits, rejected = model(samples.inputs())
    assert logits.shape == (40, samples.classes)
    assert logits.isfinite().all()
    assert not rejected.any()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_unknown_kind_is_refused():
    with pytest.raises(RequestError, match=r"kind='leves'.*did you mean"):
        Broken(kind="leves")


@pytest.mark.slow
def test_the_gauntlet(tmp_path):
    import robustsuite as rs

    report = rs.run("gauntlet", tmp_path / "run", workers=2)
    played = {record.defense: record for record in report.records if record.attack == "cascade"}
    assert {label for label, record in played.items() if record.status != "ok"} == INCONCLUSIVE
    undefended = played["none"].metrics["robust_accuracy_followed_up"].value
    for label, record in played.items():
        verdict = record.metrics["robust_accuracy_followed_up"].value
        if label in INCONCLUSIVE:
            assert FLAGS[label] <= set(record.flags), label
            continue
        if label in CONTROLS:
            assert verdict > undefended + 0.1, label
            continue
        assert verdict <= undefended + 0.03, label
        if label in FLAGS:
            assert FLAGS[label] & {flag.removeprefix("resolved:") for flag in record.flags}, label
    assert len(followed_up.rows(report.records)) == len(played)
