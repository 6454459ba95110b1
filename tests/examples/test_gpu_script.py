"""`benchmarks/gpu.py`: a part that fails or hangs says so, the others go on; all of it runs on CPU at toy size."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def raises(place, seconds, tell):
    tell({"before": 1})
    raise ValueError("planted | fault")


def hangs(place, seconds, tell):
    tell({"half": 0.5})
    time.sleep(60)


def dies(place, seconds, tell):
    os._exit(9)


def measures(place, seconds, tell):
    return {"value": {"inner": 2}}


def test_parts_that_fail_hang_or_die_leave_the_others_alone(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "GRACE", 0.2)
    monkeypatch.setattr(script, "environment", lambda place: {
        "device": "none", "python": "3", "versions": {}, "tf32 as found": {}, "toy": True,
    })  # fmt: skip
    parts = [script.Part(run.__name__, 0.5 if run is hangs else 30, run) for run in (raises, hangs, dies, measures)]
    script.play_all(parts, script.Place("cpu", True, tmp_path))
    played = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert played["raises"]["status"].startswith("failed: Traceback")
    assert "planted" in played["raises"]["status"]
    assert played["raises"]["figures"] == {"before": 1}
    assert played["hangs"]["status"] == "out of time after 0 s"
    assert played["hangs"]["figures"] == {"half": 0.5}
    assert played["hangs"]["seconds"] < 10
    assert played["dies"]["status"] == "failed: its process ended with 9"
    assert played["measures"]["status"] == "ok"
    table = (tmp_path / "gpu.md").read_text()
    assert "| raises | failed: ValueError: planted / fault |" in table
    assert "| value, inner | 2 |" in table
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {6}


def test_its_slices_leave_the_whole_within_eight_minutes(script):
    imports = 20  # of robustsuite, once, before the parts
    assert imports + sum(part.seconds + script.GRACE for part in script.PARTS) <= 8 * 60


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_part_runs_on_the_cpu_at_toy_size(tmp_path):
    """About 30 processor seconds, most of them imports of the two commands that it starts."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--toy", "--stretch", "5"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False, timeout=2400)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["status"] for name, part in result["parts"].items()} == dict.fromkeys(result["parts"], "ok")
    assert len(result["parts"]) == 6
    played = {name: part["figures"] for name, part in result["parts"].items()}
    assert 0 <= played["CIFAR-10 trainer"]["accuracy"] <= 1
    for attack in ("pgd", "cascade"):
        for kind in ("float32", "tf32", "bf16"):
            assert played["PGD and cascade"][f"{attack}, {kind}"]["over the floor"] > 0
        assert played["PGD and cascade"][f"{attack}, tf32"]["verdicts unlike float32"] == 0  # a CPU has no TF32
    assert played["DP-SGD over SGD"]["ratio"] > 0
    assert "| quickstart | ok |" in done.stdout
