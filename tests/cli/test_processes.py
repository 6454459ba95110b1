"""What only a real process shows: imports, streams, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """\
name: slow
dataset: {name: digits}
model: {name: mlp}
training: {epochs: 25, batch_size: 16}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [noise]
"""
HEAVY = ("torch", "torchvision", "pandas", "art", "opacus", "plotly", "sklearn", "scipy", "lightning_fabric", "numpy")


def process(*arguments, cwd, **more):
    command = [sys.executable, "-P", "-m", "robustsuite", *arguments]
    environment = {**os.environ, "COLUMNS": "160", **more.pop("env", {})}
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment, check=False, **more
    )


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["evaluate", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments, tmp_path):
    code = (
        "import json, sys\n"
        "from robustsuite.cli import main\n"
        f"sys.argv = ['robustsuite', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as done:\n    assert not done.code\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_listing_suites_needs_no_colour_and_says_nothing_on_stderr(tmp_path):
    done = process("list", "suites", cwd=tmp_path, env={"NO_COLOR": "1"})
    assert done.returncode == 0
    assert done.stderr == ""
    assert "quickstart" in done.stdout
    assert "\x1b[" not in done.stdout


def test_a_wrong_request_leaves_stdout_empty_and_no_traceback(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\nsede: 1\n")
    done = process("run", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "bad.yaml:2: sede: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's here")
def test_an_interrupted_run_exits_with_130(tmp_path):
    (tmp_path / "slow.yaml").write_text(SUITE)
    command = [sys.executable, "-P", "-m", "robustsuite", "run", "slow.yaml", "--workers", "1"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    models = Path(tmp_path, "runs", "slow", "models")
    deadline = time.monotonic() + 60
    while not models.is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=240)  # what runs is finished first, on however busy a machine
    assert run.returncode == 130, stderr
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
