"""Plug-ins and models that run out of memory, raise, or cannot be imported: each is named, and the rest is judged."""

import json
from dataclasses import dataclass

import pytest
import torch
from small_requests import BALL, COMMAND, SUITE, evaluate, invoke
from torch import nn

import robustsuite as rs
from robustsuite.plugins import registry

# out of memory


@pytest.fixture
def plugin():
    registry.discover()
    known = dict(registry.attacks._entries)
    yield lambda name, cls: registry.register.attack(name, scenario="evasion", access="white-box")(cls)
    registry.attacks._entries.clear()
    registry.attacks._entries.update(known)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
    ],
    ids=["accelerator", "python", "processor"],
)
def test_out_of_memory_in_an_attack(plugin, model, data, error):
    sizes = []

    @dataclass(frozen=True, kw_only=True)
    class Hungry:
        """Take more than there is for more than 20 samples."""

        def __call__(self, view, streams):
            sizes.append(len(view.y))
            if len(view.y) > 20:
                raise error
            return registry.attacks.get("fgsm").make()(view, streams)

    plugin("hungry", Hungry)
    report = rs.evaluate(model, data, ["hungry", "fgsm"], BALL, rules={"follow_up": False})
    hungry, fgsm = report.records[1:]
    assert hungry.status == "ok"
    assert hungry.message == "memory ran out, and batches were halved"
    assert hungry.metrics["robust_accuracy"] == fgsm.metrics["robust_accuracy"]
    assert fgsm.message == ""
    assert max(sizes) > 20
    assert min(sizes) > 10


def test_out_of_memory_in_the_model(model, data):
    """The clean pass and the judge's second pass halve their batches too."""

    class Large(nn.Module):
        def __init__(self, most):
            super().__init__()
            self.inner, self.most = model, most

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError("planted")
            return self.inner(x)

    plain, large = (evaluate(Large(most), data).records for most in (1000, 13))
    for one, other in zip(plain, large, strict=True):
        assert other.status == "ok", other.message
        assert one.metrics[one.headline] == other.metrics[other.headline]


def test_an_error_that_is_not_about_memory_is_no_reason_to_go_on(plugin, model, data):
    calls = []

    @dataclass(frozen=True, kw_only=True)
    class Wrong:
        """Fail."""

        def __call__(self, view, streams):
            calls.append(len(view.y))
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    plugin("wrong", Wrong)
    assert rs.evaluate(model, data, "wrong", BALL).records[1].status == "error"
    assert len(calls) == 1


# a plug-in that raises

PLUGIN = '''
from dataclasses import dataclass

from robustsuite import register


@register.attack("raises", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Raises:
    """Raise."""

    def __call__(self, view, streams):
        raise LookupError("planted in a plug-in")
'''


@pytest.fixture
def raises(on_disk, plugin):
    (on_disk / "raises.py").write_text(PLUGIN)
    return "raises.py"


def test_a_plugin_that_raises_in_a_run(on_disk, raises):
    (on_disk / "tiny.yaml").write_text(SUITE)
    code, told = invoke("run", "tiny.yaml", "--plugin", raises, "--workers", "1", "--quiet")
    assert code == 1, told
    records = {r["attack"]: r for r in map(json.loads, (on_disk / "runs/tiny/records.jsonl").read_text().splitlines())}
    assert {name: r["status"] for name, r in records.items()} == {
        "none": "ok",
        "raises": "error",
        "fgsm": "ok",
        "noise": "ok",
    }
    assert records["raises"]["message"].startswith("Traceback (most recent call last)")
    assert "LookupError: planted in a plug-in" in records["raises"]["message"]
    assert "raises.py" in records["raises"]["message"]
    assert records["raises"]["metrics"] == {}, "missing is not 0"


def test_a_plugin_that_raises_in_an_evaluation(on_disk, raises):
    code, told = invoke(*COMMAND, "--attack", "raises", "--plugin", raises, "--out", "out")
    assert code == 1, told
    assert "LookupError: planted in a plug-in" in told
    report = rs.Report.load(on_disk / "out")
    assert [r.status for r in report.records] == ["ok", "ok", "error"]
    row = report.frame[report.frame.attack == "raises"]
    assert row.status.tolist() == ["error"]
    assert row.value.isna().all()


def test_a_plugin_that_cannot_be_imported(on_disk):
    (on_disk / "broken.py").write_text("import nothing_of_that_name\n")
    code, told = invoke(*COMMAND, "--plugin", "broken.py")
    assert code == 2
    assert "broken.py" in told
    assert "nothing_of_that_name" in told
