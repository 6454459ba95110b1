"""The import order is the data flow, and the core names no plug-in."""

import ast
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAYERS = [
    {"errors", "checks", "canonical", "provenance", "store", "streams", "threat", "isolation", "files", "loading",
     "outputs", "local_code", "losses", "metrics", "processor", "serving", "door", "gradients", "radii", "rounding",
     "data", "models", "expressions", "docstrings", "suspicions"},
    {"training"},
    {"metric", "victim", "protocol", "play", "refusing", "statistics", "paired", "robust"},
    {"registry", "plugin_rules", "suites"},
    {"scenarios", "diagnostics"},  # evasion reviews its verdicts by the diagnostics
    {"benchmark"},
    {"report", "gates"},
    {"api"},
    {"assertions"},
    {"selftest"},
    {"cli", "pytest_plugin", "testing", "__main__"},
]  # fmt: skip
# `gates` hands out what tests hold, which measures, when it is asked for.
ALLOWED = {("gates/__init__.py", "assertions")}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def core_files():
    return sorted(p for p in (ROOT / "robustsuite").rglob("*.py") if "__pycache__" not in p.parts)


def imported(file):
    """Names below `robustsuite` that this file imports anywhere, for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                [f"robustsuite.{a.name}" for a in node.names] if node.module == "robustsuite" else [node.module]
            )


@pytest.mark.parametrize("file", core_files(), ids=lambda p: p.relative_to(ROOT / "robustsuite").as_posix())
def test_imports_point_downwards(file):
    place = file.relative_to(ROOT / "robustsuite").as_posix()
    if place == "__init__.py":
        return
    own = place.split("/")[0].removesuffix(".py")
    assert own in LEVEL, f"{place} belongs to no layer"
    for name in imported(file):
        parts = name.split(".")
        if parts[0] != "robustsuite" or len(parts) == 1:
            continue
        assert parts[1] not in ("attacks", "defenses"), f"{place} names a plug-in: {name}"
        if parts[1] in LEVEL and (place, parts[1]) not in ALLOWED:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{place} imports {name}, which is a later layer"


def test_no_class_name_stands_twice():
    found = defaultdict(list)
    for file in (file for folder in ("robustsuite", "attacks", "defenses") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):  # which nobody sees but its file
                found[node.name].append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_plugins_use_only_what_strangers_can():
    for folder in ("attacks", "defenses"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in imported(file):
                assert not name.startswith(("robustsuite.run", "robustsuite.report", "robustsuite.cli")), (
                    file,
                    name,
                )


def test_packages_are_all_listed():
    told = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for inside, folder in (
        ("robustsuite", "robustsuite"),
        ("robustsuite.attacks", "attacks"),
        ("robustsuite.defenses", "defenses"),
    ):
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((inside, *below)))
    assert told == found


@pytest.mark.parametrize("module", ["robustsuite", "robustsuite.pytest_plugin.plugin", "robustsuite.cli"])
def test_importing_is_light(module):
    heavy = ["torch", "torchvision", "art", "opacus", "pandas", "plotly", "sklearn", "scipy", "matplotlib"]
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
