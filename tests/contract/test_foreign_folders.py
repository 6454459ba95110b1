"""Built-in plug-ins are those of the suite that runs, whatever lies in the working folder or on the path."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robustsuite
from robustsuite.plugins import discovery

ROOT = Path(__file__).parent.parent.parent
COMMAND = Path(sys.executable).with_name("robustsuite")
MARKED = "from pathlib import Path\nPath({mark!r}).touch()\n"
# Modules of Python's own that a worker process imports first, as a careless user may call a file.
PYTHONS = ("pickle", "multiprocessing/__init__", "signal")


def run(*command, cwd, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def listed():
    return run(COMMAND, "list", cwd=ROOT / "tests")


@pytest.fixture
def foreign(tmp_path):
    """A folder that holds what the suite's own packages are called, and a package as an installation leaves it."""
    text = MARKED.format(mark=str(tmp_path / "mark"))
    for name in ("attacks", "attacks/evasion", "defenses", "defenses/extra", "evil_plugins"):
        (tmp_path / "foreign" / name).mkdir(parents=True)
        (tmp_path / "foreign" / name / "__init__.py").write_text(text)
    (tmp_path / "foreign" / "attacks" / "evasion" / "pgd.py").write_text(text)
    facts = tmp_path / "foreign" / "evil-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[robustsuite.plugins]\nevil = evil_plugins\n")
    return tmp_path / "foreign"


@pytest.mark.parametrize("how", ["the command in it", "the module in it", "on the path"])
def test_a_folder_with_packages_of_the_same_names_changes_nothing(how, foreign, listed):
    command = [sys.executable, "-m", "robustsuite"] if how == "the module in it" else [COMMAND]
    environment = {}
    if how == "the command in it":
        shutil.copytree(foreign / "attacks", foreign / "robustsuite" / "attacks")
    if how == "on the path":  # where what is installed is installed
        shutil.rmtree(foreign / "evil-1.0.dist-info")
        environment = {"PYTHONPATH": str(foreign)}
    assert run(*command, "list", cwd=foreign, **environment) == listed
    assert not (foreign.parent / "mark").exists()


def test_another_checkout_on_the_path_brings_its_own(tmp_path):
    """Until now its core played the attacks of the installed copy."""
    for name in ("robustsuite", "attacks", "defenses"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "attacks" / "evasion" / "pgd.py").unlink()
    (tmp_path / "attacks" / "evasion" / "cascade.py").unlink()
    code = """
import json, sys
import robustsuite
from robustsuite.plugins import registry
files = {sys.modules[entry.cls.__module__].__file__ for entry in registry.attacks.all()}
print(json.dumps([robustsuite.__file__, sorted(files), [entry.name for entry in registry.attacks.all()]]))
"""
    suite, files, names = json.loads(run(sys.executable, "-c", code, cwd=tmp_path.parent, PYTHONPATH=str(tmp_path)))
    assert all(Path(file).is_relative_to(tmp_path) for file in (suite, *files))
    assert "pgd" not in names
    assert "fgsm" in names


def test_two_copies_in_one_process_are_named(tmp_path, monkeypatch):
    module = type(sys)("robustsuite.attacks")
    module.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "robustsuite.attacks", module)
    with pytest.raises(robustsuite.RequestError, match="leave one of the two copies on the path"):
        discovery.import_all()


def test_a_package_of_a_stranger_is_imported_whole_as_ours_are(tmp_path, monkeypatch):
    package = tmp_path / "whole_plugins"
    for folder in ("below", "_under"):
        (package / folder).mkdir(parents=True)
    names = ("__init__", "one", "_hidden", "__main__", "below/__init__", "below/two", "_under/__init__")
    for name in names:
        (package / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        discovery._load(discovery.EntryPoint("whole", "whole_plugins", discovery.GROUP))
    finally:
        imported = {name: sys.modules.pop(name) for name in sorted(sys.modules) if name.startswith("whole_plugins")}
    below = [f"whole_plugins.{name}" for name in ("below", "below.two", "one")]
    assert list(imported) == ["whole_plugins", *below]


def test_a_broken_one_of_ours_is_told_as_a_strangers(monkeypatch):
    monkeypatch.setattr(discovery, "_BUILT_IN", ())
    monkeypatch.setattr(discovery, "_installed", lambda: [discovery.EntryPoint("own", "robustsuite.nothing", "g")])
    with pytest.raises(robustsuite.RequestError, match=r"plugin='robustsuite\.nothing' of entry point 'own'"):
        discovery.import_all()


@pytest.mark.slow
def test_workers_take_no_file_of_the_working_folder_for_one_of_pythons(tmp_path):
    for name in PYTHONS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(MARKED.format(mark=str(tmp_path / "mark")))
    (tmp_path / "s.yaml").write_text(
        "name: s\ndataset: {name: digits, train: 60, test: 20}\nmodel: logistic\ntraining: {epochs: 1}\n"
    )
    run(COMMAND, "run", "s.yaml", "--workers", "1", "--timeout", "100", "--quiet", cwd=tmp_path)
    assert not (tmp_path / "mark").exists()
