"""The pipelines are YAML of the right shape, and every command in them is one that is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from robustsuite.cli.app import app
from robustsuite.core.gate import Gate

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
GITHUB, GITLAB = EXAMPLES / "ci" / "github-actions.yml", EXAMPLES / "ci" / "gitlab-ci.yml"


def steps():
    (job,) = yaml.safe_load(GITHUB.read_text())["jobs"].values()
    return job["steps"]


def jobs():
    return {name: job for name, job in yaml.safe_load(GITLAB.read_text()).items() if name != "variables"}


def lines(place):
    if place == GITHUB:
        return [step["run"] for step in steps() if "run" in step]
    return [
        line
        for job in jobs().values()
        for key in ("before_script", "script", "after_script")
        for line in job.get(key, ())
    ]


def commands(name):
    found = [shlex.split(line) for place in (GITHUB, GITLAB) for line in lines(place)]
    return [words for words in found if words[0] == name]


def parsed(words):
    """What the application makes of a command line; wrong options raise."""
    group = typer.main.get_command(app)
    command = group.commands[words[0]]
    cut = words.index(">>") if ">>" in words else len(words)
    return command.make_context(words[0], words[1:cut], resilient_parsing=False).params


@pytest.mark.parametrize("words", commands("robustsuite"), ids=" ".join)
def test_a_command_and_its_options_exist(words):
    values = parsed(words[1:])
    for gate in values.get("gates") or ():
        assert Gate.parse(gate).metric in ("clean_accuracy", "robust_accuracy")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("report runs/a --formt sarif", "No such option"),
        ("evaluate m:f --data digits --samples many", "valid integer"),
    ],
)
def test_a_mistake_would_be_seen(line, told):
    with pytest.raises(Exception, match=told):
        parsed(line.split())


def test_all_that_was_promised_is_run():
    subcommands = {words[1] for words in commands("robustsuite")}
    assert subcommands == {"selftest", "evaluate", "report"}
    assert len(commands("pytest")) == 2


@pytest.mark.parametrize("words", commands("pytest"), ids=["github", "gitlab"])
def test_options_of_pytest_exist(words):
    known = (EXAMPLES / "checks" / "conftest.py").read_text()
    known += (EXAMPLES.parent / "robustsuite" / "pytest_plugin" / "plugin.py").read_text()
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert {"--model", "--baseline", "--junitxml", "--robustsuite-report"} <= set(options)
    for option in options:
        assert option == "--junitxml" or f'"{option}"' in known, option


def test_github():
    told = yaml.safe_load(GITHUB.read_text())
    assert set(told[True]) == {"pull_request", "schedule"}  # YAML 1.1 reads `on` as true
    assert told["permissions"]["security-events"] == "write"
    used = {step["uses"].partition("@")[0]: step for step in steps() if "uses" in step}
    for action in ("actions/cache", "actions/upload-artifact", "github/codeql-action/upload-sarif"):
        assert action in used
    folder = used["actions/cache"]["with"]["path"]
    assert told["env"]["ROBUSTSUITE_CACHE"].endswith(f"/{folder}")
    assert used["actions/upload-artifact"]["if"] == "always()"
    assert {"robustness", "checks.xml"} == set(used["actions/upload-artifact"]["with"]["path"].split())


def test_gitlab():
    told = jobs()
    variables = yaml.safe_load(GITLAB.read_text())["variables"]
    shared = told[".robustsuite"]
    assert variables["ROBUSTSUITE_CACHE"].rpartition("/")[2] in shared["cache"]["paths"]
    assert told["checks"]["artifacts"]["reports"]["junit"] == "checks.xml"
    assert told["gates"]["allow_failure"]["exit_codes"] == 3
    for job in ("checks", "gates"):
        assert told[job]["extends"] == ".robustsuite"


def test_what_is_uploaded_is_what_is_written():
    """SARIF and JUnit lie where the gated evaluation was told to write."""
    (upload,) = [step for step in steps() if "upload-sarif" in step.get("uses", "")]
    outs = {parsed(words[1:])["out"] for words in commands("robustsuite") if words[1] == "evaluate"}
    assert {str(out) for out in outs} == {str(Path(upload["with"]["sarif_file"]).parent)}
    assert str(Path(jobs()["gates"]["artifacts"]["reports"]["junit"]).parent) in {str(out) for out in outs}


def test_the_readme_names_every_check():
    named = set(re.findall(r"`(test_\w+\.py)`", (EXAMPLES / "README.md").read_text()))
    assert named == {path.name for path in (EXAMPLES / "checks").glob("test_*.py")}
