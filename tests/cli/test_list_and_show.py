"""`list` and `show`: what there is by name, what it means, and what docstrings are taken apart into."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.plugins import registry
from robustsuite.plugins.docstrings import parse_docstring

LISTED = """\
from dataclasses import dataclass
from robustsuite.plugins.registry import register

@register.attack("cli-test-listed", scenario="evasion", access="blind")
@dataclass(frozen=True, kw_only=True)
class Listed:
    '''Do nothing.'''
    def __call__(self, view, streams):
        return view.x
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("attacks", "pgd"),
        ("defenses", "dp-sgd"),
        ("datasets", "digits"),
        ("models", "cnn"),
        ("scenarios", "evasion"),
        ("suites", "quickstart"),
    ],
)
def test_list(kind, name):
    rows = json.loads(call("list", kind, "--json").stdout)
    assert name in [row["name"] for row in rows]
    assert all(row["summary"] for row in rows)
    assert name in call("list", kind).stdout


def test_list_has_everything():
    found = json.loads(call("list", "--json").stdout)
    assert list(found) == ["attacks", "defenses", "datasets", "models", "scenarios", "suites"]
    assert {row["scenario"] for row in found["attacks"]} == {"evasion", "poisoning", "inversion"}
    assert "none" not in [row["name"] for row in found["attacks"]]


def test_list_refuses_an_unknown_kind():
    refused = call("list", "atacks")
    assert refused.exit_code == 2
    assert "did you mean 'attacks'" in refused.stderr


def test_show_tells_every_parameter_with_type_range_and_default():
    shown = json.loads(call("show", "pgd", "--json").stdout)
    assert shown["scenario"] == "evasion"
    steps = next(p for p in shown["parameters"] if p["name"] == "steps")
    assert steps == {"name": "steps", "type": "int", "default": "40", "description": "Gradient steps, at least 1."}
    assert "1706.06083" in shown["references"]
    assert "query_budget" in shown["rules"]
    assert "1706.06083" in call("show", "pgd").stdout


@pytest.mark.parametrize("entry", [*registry.attacks.all(), *registry.defenses.all()], ids=lambda entry: entry.name)
def test_show_knows_what_each_parameter_means(entry):
    described = json.loads(call("show", entry.name, "--json").stdout)
    items = described if isinstance(described, list) else [described]
    for item in items:
        assert item["description"]
        assert [p["name"] for p in item["parameters"] if not p["description"]] == []


def test_show_refuses_an_unknown_name():
    refused = call("show", "pdg")
    assert refused.exit_code == 2
    assert "did you mean 'pgd'" in refused.stderr


def test_a_plugin_file_is_listed_and_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))  # plug-ins made here end here
    Path("listed.py").write_text(LISTED)
    assert "cli-test-listed" in call("list", "attacks", "--plugin", "listed.py").stdout
    assert "Do nothing." in call("show", "cli-test-listed", "--plugin", "listed.py").stdout
    Path("worse.py").write_text("1 / 0")
    refused = call("list", "--plugin", "worse.py")
    assert refused.exit_code == 2
    assert "ZeroDivisionError" in refused.stderr


def test_docstrings_are_taken_apart():
    class Subject:
        """First line
        that wraps.

        Second paragraph.

        Args:
            a: One, in
                [0, 1].
            b (int): Two: with a colon.

        References:
            Somebody, 2020,
            arXiv:2001.00001.
        """

    parsed = parse_docstring(Subject)
    assert parsed.description == "First line that wraps.\n\nSecond paragraph."
    assert parsed.arguments == {"a": "One, in [0, 1].", "b": "Two: with a colon."}
    assert parsed.sections == {"References": "Somebody, 2020, arXiv:2001.00001."}
