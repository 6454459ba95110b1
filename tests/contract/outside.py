"""Where the tests of the outside package install and run it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "outside_package"
PACKAGE = SOURCE / "robustsuite_outside"
SUITE = """
name: outside
dataset: {name: digits, train: 500, test: 200}
model: {name: mlp}
training: {epochs: 10, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.15, curve_samples: 0}
defenses: [none, x-spectral-signatures, x-fine-pruning, x-trades: {steps: 4}]
attacks:
  - pgd: {steps: 10, follow_up: false}
  - x-shrinking-steps: {follow_up: false}
  - badnets: {fraction: 0.01}
  - x-feature-collision: {fraction: 0.1, targets: 4, radius: 0.5, steps: 20}
  - x-loss-threshold
  - x-shadow-threshold
gates: ["x-loss-threshold:membership_auc<=0.75"]
"""


def install(folder):
    """What `pip install --target` leaves."""
    source = shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["install", "-q", "--no-deps", "--no-build-isolation", "--target", folder / "site", source]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True, timeout=120)
    return folder / "site"


def environment(site, **others):
    """That of a fresh process which finds the package."""
    return {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "250", "NO_COLOR": "1", **others}


def imported(file):
    """Module -> names that a file of the package imports from robustsuite."""
    found = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("robustsuite."):
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return found


def lines(file):
    """How many lines hold code or documentation."""
    return sum(1 for line in file.read_text().splitlines() if line.strip() and not line.strip().startswith("#"))
