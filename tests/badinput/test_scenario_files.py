"""A scenario that cannot be one is refused where it is loaded, in one line with file and line."""

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.plugins import registry
from robustsuite.plugins.plugin_rules import PluginError
from robustsuite.scenarios import SCENARIOS

GOOD = '''from dataclasses import dataclass
from typing import ClassVar
from robustsuite.core import Metrics, MetricSpec
from robustsuite.plugins import register
from robustsuite.scenarios import Scenario


@register.scenario("mine")
@dataclass(frozen=True, kw_only=True)
class Mine(Scenario):
    """Judge nothing."""

    accesses: ClassVar[tuple[str, ...]] = ("nothing",)
    options: ClassVar[tuple[str, ...]] = ("rounds",)
    sweeps: ClassVar[tuple[str, ...]] = ("rounds",)
    metrics: ClassVar[dict[str, MetricSpec]] = {"won": MetricSpec(better="lower", headline=True)}
    joined: ClassVar[str] = "won"
    rounds: int = 1

    def views(self, victim):
        yield None

    def score(self, victim, moves):
        return Metrics({})


@register.attack("mine-too", scenario="mine", access="nothing")
@dataclass(frozen=True, kw_only=True)
class Too:
    """Do nothing."""

    def __call__(self, view, streams):
        return None
'''
CASES = {
    "no scenario": ("class Mine(Scenario)", "class Mine", 10, "a scenario, got class Mine; derive it from robustsuite"),
    "not frozen": ("frozen=True, kw_only=True)\nclass Mine", "kw_only=True)\nclass Mine", 10, "a frozen dataclass"),
    "no docstring": ('    """Judge nothing."""\n', "", 10, "a docstring, got none in Mine"),
    "no judge": ("def score(", "def scores(", 10, "a scenario with score, got none in Mine; add it"),
    "a judge without moves": ("victim, moves)", "victim)", 23, "def score(self, victim, moves), got def score(self, "),
    "no access": ('("nothing",)', "()", 13, "kinds of knowledge to hand out, got accesses=()"),
    "an access as text": ('("nothing",)', '"nothing"', 13, "kinds of knowledge to hand out, got accesses='nothing'"),
    "a metric that is none": (
        'MetricSpec(better="lower", headline=True)}',
        '"lower"}',
        16,
        "MetricSpec, got won='lower'",
    ),
    "another better": ('better="lower"', 'better="less"', 16, "got better='less'"),
    "joined by nothing": ('= "won"', '= "lost"', 17, "one of its metrics, got joined='lost'; declare it in metrics"),
    "a sweep of no rule": (
        '= ("rounds",)\n    metrics',
        '= ("radius",)\n    metrics',
        15,
        "rules to sweep (rounds), got sweeps='radius'",
    ),
    "no annotation": ("    rounds: int = 1", "    rounds = 1", 18, "an annotation for each field, got rounds = 1"),
    "a name that is taken": (
        'scenario("mine")',
        'scenario("evasion")',
        8,
        "one scenario called 'evasion', got it from",
    ),
    "another access": ('access="nothing")', 'access="all")', 29, "an access of mine (nothing), got access='all'"),
}


@pytest.fixture(autouse=True)
def _as_before():
    registry.discover()
    kinds = (registry.scenarios, registry.attacks)
    known = [dict(kind._entries) for kind in kinds]
    yield
    for kind, entries in zip(kinds, known, strict=True):
        kind._entries.clear()
        kind._entries.update(entries)


def written(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_file_brings_a_scenario_and_its_attack(tmp_path):
    registry.load_file(written(tmp_path, GOOD))
    assert SCENARIOS["mine"].name == "mine"
    assert registry.attacks.get("mine-too").game is SCENARIOS["mine"]
    made = SCENARIOS["mine"].arrange("nothing", None, {"rounds": 3})
    assert made.rounds == 3
    with pytest.raises(RequestError, match="expected a known scenario, got scenario='mines'; did you mean mine"):
        SCENARIOS["mines"]


@pytest.mark.parametrize("case", CASES)
def test_one_line_with_file_and_line(case, tmp_path):
    old, new, line, told = CASES[case]
    assert GOOD.count(old) == 1
    with pytest.raises(PluginError) as caught:
        registry.load_file(written(tmp_path, GOOD.replace(old, new)))
    text = str(caught.value)
    assert text.count("\n") == 0
    assert f"mine.py:{line}: expected" in text
    assert told in text
    assert "mine" not in SCENARIOS
    assert "mine-too" not in [entry.name for entry in registry.attacks.all()]


def test_an_attack_before_its_scenario_is_told_what_to_do(tmp_path):
    head, scenario, attack = GOOD.partition("@register.scenario")[0], *GOOD.split("@register.")[1:]
    text = f"{head}@register.{attack}\n\n@register.{scenario}"
    with pytest.raises(PluginError, match="import the module that registers a game of your own before"):
        registry.load_file(written(tmp_path, text))
