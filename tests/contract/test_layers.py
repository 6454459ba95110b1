"""The import order is the data flow, and the core names no plug-in."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# The folders in the order of the data flow; each may import itself and what stands before it.
ORDER = (
    "core", "storage", "access", "plugins", "data", "models", "training", "scenarios", "suite", "evaluation", "runner",
    "results", "report", "api", "pytest_plugin", "testing", "cli", "__main__",
)  # fmt: skip


PLUGINS = ("attacks", "defenses")


def modules():
    """Name of every module that is packaged -> its file."""
    found = {}
    for name in ("robustsuite", "attacks", "defenses"):
        first = () if name == "robustsuite" else ("robustsuite",)
        for file in sorted((ROOT / name).rglob("*.py")):
            parts = (*first, *file.relative_to(ROOT).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(name):
    """Modules of ours that this one imports anywhere: at the top, in functions, for type checkers."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [full if full in MODULES else node.module for full in whole]
        else:
            continue
        yield from (module for module in named if module in MODULES and module != name)


IMPORTS = {name: sorted(set(imported(name))) for name in MODULES}


def room(name):
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) not in ("", *PLUGINS)])
def test_imports_point_downwards(name):
    """Not even the package itself, which gives away names of every layer, is imported from inside."""
    for other in IMPORTS[name]:
        assert room(other) in ORDER, f"{name} imports {other}"
        assert ORDER.index(room(other)) <= ORDER.index(room(name)), f"{name} imports {other}, which is a later layer"


def test_no_circle_between_files():
    left = {name: set(others) for name, others in IMPORTS.items()}
    while free := {n for n, others in left.items() if not others or not any(n in those for those in left.values())}:
        left = {name: others - free for name, others in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("package", ["", ".access", ".core", ".plugins", ".results", ".training"])
def test_no_module_hides_a_name_that_its_package_gives_away(package):
    """Once a module is imported it is an attribute of its package, and a lazy name of that name is never looked up."""
    found = importlib.import_module(f"robustsuite{package}")
    assert not set(found.__all__) & {module.name for module in pkgutil.iter_modules(found.__path__)}
    assert all(getattr(found, name) is not None for name in found.__all__)


def test_no_class_name_stands_twice():
    found = defaultdict(list)
    for file in MODULES.values():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):  # which nobody sees but its file
                found[node.name].append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_plugins_use_only_what_strangers_can():
    """Data, models, training and games; nothing of suites, runs, results and pages."""
    for name in (name for name in MODULES if room(name) in PLUGINS):
        for other in IMPORTS[name]:
            assert room(other) in (*PLUGINS, *ORDER[: ORDER.index("suite")]), f"{name} imports {other}"


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


@pytest.mark.parametrize(
    "module", ["robustsuite", "robustsuite.pytest_plugin.plugin", "robustsuite.cli", "robustsuite.core"]
)
def test_importing_is_light(module):
    heavy = ["torch", "torchvision", "art", "opacus", "pandas", "plotly", "sklearn", "scipy", "matplotlib"]
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
