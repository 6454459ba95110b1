"""A training in mixed precision asks the processor first; keys and records say what it got."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import robustsuite as rs
from robustsuite.core import processor
from robustsuite.runner.plan import plan
from robustsuite.suite.load import load_suite
from robustsuite.training.precision import settled
from robustsuite.training.settings import Training

SUITE = """\
name: mixed
dataset: {name: digits, train: 60, test: 20}
model: {name: mlp}
training: {epochs: 1, precision: PRECISION}
defenses:
  - none
  - none: {label: exact, training: {precision: "32"}}
  - none: {label: own, training: {precision: PRECISION, lr: 0.01}}
"""


@pytest.fixture
def suite(tmp_path):
    def written(precision):
        path = tmp_path / f"{precision}.yaml"
        path.write_text(SUITE.replace("PRECISION", f'"{precision}"'), encoding="utf-8")
        return load_suite(path)

    return written


def processor_with(monkeypatch, *units):
    """The only part that cannot be real: a processor that this machine does not have."""
    monkeypatch.setattr(processor, "_processor", lambda: dict.fromkeys(units, True))


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo")
def test_the_processor_is_asked():
    """The kernel names the same units."""
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    bfloat16, float16 = {"amx_bf16", "avx512_bf16", "avx_ne_convert"}, {"avx512_fp16", "amx_fp16"}
    assert processor.has_units(torch.bfloat16, "cpu") == bool(flags & bfloat16)
    assert processor.has_units(torch.float16, "cpu") == bool(flags & float16)
    assert processor.has_units(torch.float32, "cpu")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_without_units_the_keys_are_those_of_float32(suite, monkeypatch, precision):
    processor_with(monkeypatch, "avx512_f")
    mixed, exact = (plan(suite(asked), "cpu") for asked in (precision, "32"))
    assert [cell.key for cell in mixed.cells] == [cell.key for cell in exact.cells]
    assert [node.key for node in mixed.nodes] == [node.key for node in exact.nodes]
    assert mixed.suite == exact.suite
    assert list(mixed.notes) == ["none", "own"]
    assert all(note in mixed.describe() for note in mixed.notes.values())
    assert not exact.notes


def test_with_units_the_precision_is_kept_and_is_part_of_the_key(suite, monkeypatch):
    processor_with(monkeypatch, "avx512_bf16")
    mixed, exact = (plan(suite(asked), "cpu") for asked in ("bf16-mixed", "32"))
    differ = [a.key != b.key for a, b in zip(mixed.cells, exact.cells, strict=True)]
    assert differ == [cell.defense.label != "exact" for cell in mixed.cells]
    assert mixed.suite.training.precision == "bf16-mixed"
    assert not mixed.notes


def test_the_run_trains_in_float32_and_every_record_says_so(suite, monkeypatch, tmp_path):
    processor_with(monkeypatch)
    from robustsuite.runner.run import run

    asked = suite("bf16-mixed")
    outcome = run(asked, tmp_path / "run", device="cpu", cached=False)
    assert asked.training.precision == "bf16-mixed"
    assert {record.recipe["training"]["precision"] for record in outcome.records} == {"32"}
    for record in outcome.records:
        assert ("float32" in record.message) == (record.defense != "exact"), record.message
    assert load_suite(tmp_path / "run" / "suite.yaml").training.precision == "32"
    again = run(asked, tmp_path / "run", device="cpu", cached=False)
    assert again.ran == 0


def test_sixteen_on_a_cpu_is_called_what_it_is(monkeypatch):
    """Fabric has no float16 there, and computed in bfloat16 while records said 16-mixed."""
    processor_with(monkeypatch, "avx512_bf16")
    training, told = settled(Training(precision="16-mixed"), "cpu")
    assert training.precision == "bf16-mixed"
    assert "bf16-mixed and not 16-mixed" in told
    assert settled(Training(precision="16-mixed"), "mps:0") == (Training(precision="16-mixed"), "")


@pytest.mark.parametrize(
    ("capability", "fast"),
    [((5, 2), False), ((5, 3), True), ((6, 0), True), ((6, 1), False), ((6, 2), True), ((7, 5), True), ((9, 0), True)],
)
def test_gpus_are_asked_for_their_compute_capability(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert processor.has_units(torch.float16, "cuda:0") is fast
    assert settled(Training(precision="16-mixed"), "cuda:0")[0].precision == ("16-mixed" if fast else "32")


@pytest.mark.parametrize("precision", ["32", "64"])
def test_full_precision_is_left_alone(monkeypatch, precision):
    processor_with(monkeypatch)
    training = Training(precision=precision)
    assert settled(training, "cpu") == (training, "")


def test_a_recipe_of_an_evaluated_model_is_settled_too(monkeypatch):
    from robustsuite.testing.victims import tiny_network, tiny_recipe, tiny_samples

    processor_with(monkeypatch)
    recipe = replace(tiny_recipe(), training=tiny_recipe().training.override({"precision": "bf16-mixed", "epochs": 1}))
    known = {"train": tiny_samples(64), "recipe": recipe, "device": "cpu"}
    report = rs.evaluate(tiny_network(), tiny_samples(20, first=10_000), "badnets", **known)
    assert "float32" in report.records[-1].message
