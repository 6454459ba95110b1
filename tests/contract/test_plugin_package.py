"""A plug-in package that is really installed: found by its entry point, and held to the same laws."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "plugin_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the installed package, as `pip install --target` leaves it."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(SOURCE, folder / "source")
    target = folder / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(source)], check=True, capture_output=True, timeout=120)
    return target


def run(installed, code):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_is_found_and_obeys_the_laws(installed):
    code = """
import json
from robustsuite.testing import attack_laws, defense_laws
from robustsuite.plugins import registry
laws = [*attack_laws("constant-shift"), *defense_laws("longer-training")]
for law in laws:
    law()
print(json.dumps([registry.attacks.get("constant-shift").cls.__module__, len(laws)]))
"""
    module, laws = json.loads(run(installed, code))
    assert module == "robustsuite_shift"
    assert laws >= 12


def test_its_panel_is_in_the_report(installed, tmp_path):
    code = f"""
import robustsuite as rs
import torch
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
report = rs.evaluate(model, (torch.rand(20, 1, 2, 2), torch.arange(20) % 2), ["constant-shift"], ("linf", 0.1))
print(report.save({str(tmp_path / "run")!r}))
"""
    run(installed, code)
    html = (tmp_path / "run" / "report.html").read_text()
    drawn = html.split('<section id="panel-forward-passes">', 1)[1].split("</section>", 1)[0]
    assert "<td>constant-shift</td><td>" in drawn


def test_a_broken_attack_is_caught():
    """The kit itself: an attack that leaves the ball and one that writes to the model are both caught."""
    from dataclasses import dataclass

    import torch

    from robustsuite.plugins import registry
    from robustsuite.testing import LawBroken, attack_laws

    @dataclass(frozen=True, kw_only=True)
    class TooFar:
        """Leave the ball."""

        def __call__(self, view, streams):
            return (view.x + 2 * view.ball.radius).detach()

    @dataclass(frozen=True, kw_only=True)
    class Meddler:
        """Train the victim a little."""

        def __call__(self, view, streams):
            with torch.no_grad():
                next(view.model.parameters()).add_(0.1)
            return view.x.clone()

    registry.discover()
    known = dict(registry.attacks._entries)
    try:
        for name, cls in (("too-far", TooFar), ("meddler", Meddler)):
            registry.register.attack(name, scenario="evasion", access="white-box")(cls)
        broken = {"too-far": "in-the-ball", "meddler": "pure"}
        for name, law in broken.items():
            check = next(check for check in attack_laws(name) if check.name == law)
            with pytest.raises(LawBroken):
                check()
    finally:
        registry.attacks._entries.clear()
        registry.attacks._entries.update(known)
