"""`model:` in a suite, of a network that exists already: how it is wrapped, and every mistake with its line."""

from pathlib import Path

import pytest
from loading import load, refusal

from robustsuite.models.build import ModelSpec
from robustsuite.suite.load import load_suite

pytestmark = pytest.mark.usefixtures("working_folder")
OWN = """\
name: demo
dataset: {name: digits, test: 100}
model: {factory: "net.py:build", checkpoint: w.safetensors, mean: [0.5], std: 1/4, bounds: [0, 1], output: logits}
threat: {norm: linf, radius: 8/255}
"""


@pytest.fixture
def own():
    from torch import nn

    from robustsuite.models.checkpoint import save

    Path("net.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "w.safetensors")
    return OWN


def test_a_model_block_says_how_its_network_is_wrapped(own):
    suite = load(own)
    spec = ModelSpec.parse(suite.model.written())
    assert (spec.mean, spec.std, spec.bounds, spec.output) == ((0.5,), (0.25,), (0.0, 1.0), "logits")
    Path("again.yaml").write_text(suite.to_yaml())
    assert load_suite("again.yaml") == suite


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("std: 1/4", "std: -1"), "s.yaml:3: model.std"),
        (("output: logits", "output: logit"), "s.yaml:3: model.output"),
        (("[0, 1]", "[0, 255]"), "s.yaml:3: model.bounds"),
        (('factory: "net.py:build", checkpoint: w.safetensors', "name: mlp"), "s.yaml:3: model.mean"),
    ],
)
def test_a_wrong_declaration_has_its_line(own, change, line):
    assert line in refusal(own.replace(*change))


def test_data_that_are_taken_whole_are_for_models_that_are_not_trained(own):
    import numpy as np

    np.savez("own.npz", x=np.zeros((20, 1, 8, 8), np.float32), y=np.arange(20) % 10)
    whole = own.replace("{name: digits, test: 100}", "{name: npz, path: own.npz, whole: true, test: 20}")
    assert load(whole).dataset.whole
    assert "not trained beside dataset.whole=True" in refusal(whole.replace("checkpoint: w.safetensors, ", ""))
    assert "no whole for dataset digits" in refusal(own.replace("test: 100", "whole: true"))
