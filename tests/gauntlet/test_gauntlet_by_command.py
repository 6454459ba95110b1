"""Victims of the gauntlet as files of a stranger: `robustsuite evaluate` reaches its verdict without a hint."""

import json

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.data.catalogue import load
from robustsuite.defenses.broken import KINDS
from robustsuite.suite.load import load_suite
from robustsuite.suite.recipes import make_recipe
from robustsuite.training.cache import Trainer

NETS = """
import torch

from robustsuite.defenses import decoys
from robustsuite.defenses.broken import _AROUND, _BUILT, disguised
from robustsuite.models.build import ModelSpec

PLAIN = ModelSpec("mlp", options=(("hidden", (64,)),))


def build(classes, shape, bounds):
    kind = {kind!r}
    if kind in _BUILT:
        return _BUILT[kind](PLAIN, classes, shape, bounds)
    network = PLAIN(classes, shape, bounds)
    other = decoys.ClassMeans(torch.zeros(classes, *shape), torch.arange(classes), classes)
    return disguised(kind, network, classes, shape, other) if kind in _AROUND else network
"""
FEW = {"argmax": "zero-gradients", "levels": "zero-gradients", "random-dropout": "nondeterministic"}
CONTROLS = ("one-bit",)
INCONCLUSIVE = ("warm-up",)  # a network for its first thousand inputs alone; what it answers later is all there is


@pytest.fixture(scope="module")
def suite():
    return load_suite("gauntlet")


@pytest.fixture(scope="module")
def splits(suite):
    return load(suite.dataset, seed=0)


@pytest.fixture
def verdict(suite, splits, tmp_path, monkeypatch):
    """The record that the default evaluation of a victim leaves, and what the command printed."""
    monkeypatch.chdir(tmp_path)

    def evaluated(kind):
        defense = next(d for d in suite.defenses if d.label == kind)
        network = Trainer(0, part=splits.part)(make_recipe(suite, defense), splits.train).model.network
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, "weights.safetensors")
        (tmp_path / "nets.py").write_text(NETS.format(kind=kind))
        done = CliRunner().invoke(
            app,
            ["evaluate", "nets.py:build", "--checkpoint", "weights.safetensors", "--data", "digits", "--radius", "0.2",
             "--out", "out", "-q"],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
        assert [record["attack"] for record in records] == ["none", "cascade"]
        return records[1]

    return evaluated


def accuracy(record, name="robust_accuracy_followed_up"):
    return record["metrics"][name]["value"]


def test_the_undefended_network_falls(verdict):
    record = verdict("none")
    assert accuracy(record) <= 0.02
    assert record["status"] == "ok"
    assert not record["flags"]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind != "argmax" else ()) for kind in FEW]
)
def test_what_hides_its_gradient_falls_by_the_default(kind, verdict):
    record = verdict(kind)
    assert accuracy(record) <= 0.03
    assert accuracy(record, "clean_accuracy") > 0.85
    assert record["status"] == "ok"
    assert f"resolved:{FEW[kind]}" in record["flags"]
    assert record["review"]["played"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FEW])
def test_every_other_kind_by_the_default(kind, verdict):
    record = verdict(kind)
    assert record["status"] == ("inconclusive" if kind in INCONCLUSIVE else "ok")
    if kind in (*CONTROLS, *INCONCLUSIVE):
        assert accuracy(record) > 0.1
    else:
        assert accuracy(record) <= 0.03
