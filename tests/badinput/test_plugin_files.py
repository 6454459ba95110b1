"""A plug-in file that is wrong in one way gives one line with file and line, whoever loads it."""

import pytest
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.plugins import registry
from robustsuite.plugins.plugin_rules import PluginError
from robustsuite.suite.load import load_suite

GOOD = '''from dataclasses import dataclass
from robustsuite.core import losses
from robustsuite.plugins.registry import register


@register.attack("mine", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Mine:
    """Do nothing."""

    steps: int = 3
    loss: str = "margin"

    def __call__(self, view, streams):
        return view.value_and_grad(view.x, view.y, losses.NAMED[self.loss]).gradient
'''
DEFENSE = (
    GOOD.split("@register")[0]
    + '''@register.defense("my-defence")
@dataclass(frozen=True, kw_only=True)
class MyDefence:
    """Do nothing."""

    def __call__(self, recipe):
        return recipe
'''
)
STEPS = "    steps: int = 3\n"
# what is replaced, by what -> the line that is named, and words of the error
WRONG = {
    "a type that no suite writes": (STEPS, "    steps: bytes = 3\n", 11, "field of a plain type, got steps: bytes"),
    "a tensor": (STEPS, "    steps: 'torch.Tensor' = 3\n", 11, "got NameError: name 'torch' is not defined"),
    "no annotation": (STEPS, "    steps = 3\n", 11, "annotation for each field, got steps = 3; write steps: int = 3"),
    "a mutable default": (STEPS, "    steps: list[int] = [3]\n", 7, "mutable default <class 'list'>"),
    "a lambda": (STEPS, "    steps: int = lambda: 3\n", 11, "a plain default, got steps = <lambda> of type function"),
    "an object": (STEPS, "    steps: int = object()\n", 11, "a plain default, got steps = object of type object"),
    "not frozen": ("frozen=True, ", "", 8, "a frozen dataclass with keywords only, got class Mine"),
    "positional": (", kw_only=True", "", 8, "a frozen dataclass with keywords only, got class Mine"),
    "no dataclass": ("@dataclass(frozen=True, kw_only=True)\n", "", 7, "a frozen dataclass, got class Mine"),
    "no docstring": ('    """Do nothing."""\n', "", 8, "a docstring, got none in Mine"),
    "no scenario": (
        'scenario="evasion", ',
        "",
        8,
        "a scenario (evasion, inversion, poisoning, targeted-poisoning, ",
    ),
    "no access": (', access="white-box"', "", 8, "an access of evasion (white-box, "),
    "unknown scenario": ('"evasion"', '"evation"', 8, "got scenario='evation'"),
    "unknown access": ('"white-box"', '"glass-box"', 8, "got access='glass-box'"),
    "unknown norm": (STEPS, STEPS + '    norms = ("linf", "l7")\n', 12, "a tuple of norms (linf, l2, l1)"),
    "a norm as text": (STEPS, STEPS + '    norms = "linf"\n', 12, "a tuple of norms (linf, l2, l1), got norms='linf'"),
    "a loss that is none": (
        '"margin"',
        '"marginal"',
        12,
        "name of a loss, got loss='marginal'; the suite's losses are",
    ),
    "a loss written out": ("[self.loss]", '["hinge"]', 15, "name of a loss, got loss='hinge'"),
    "a name that is not there": (STEPS, "    steps: int = tree\n", 11, "got NameError: name 'tree' is not defined"),
    "a module that is not there": (
        "from robustsuite.core import losses",
        "import nonsuch",
        2,
        "No module named 'nonsuch'",
    ),
    "a name of a module": ("import losses", "import loses", 2, "got ImportError: cannot import name 'loses'"),
    "no Python": ("class Mine:", "class Mine", 8, "expected Python, got SyntaxError"),
    "tabs": (STEPS, "\tsteps: int = 3\n", 11, "expected Python, got "),
    "twice": ("", GOOD, 18, "expected one attack called 'mine', got it twice"),
    "a built-in's name": ('"mine"', '"pgd"', 6, "expected one attack called 'pgd', got it from"),
    "nothing": (GOOD, "steps = 3\n", 1, "expected a plug-in, got a file that registers none"),
    "no call": ("__call__", "call", 8, "expected def __call__(self, view, streams), got none in Mine"),
    "another call": ("(self, view, streams)", "(self, view)", 14, "got def __call__(self, view); take 2 beside self"),
    "asks to exit": (STEPS, STEPS + "    raise SystemExit(0)\n", 12, "got SystemExit: 0"),
}


def written(tmp_path, case):
    old, new, line, words = WRONG[case]
    assert old in GOOD
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace(old, new, 1) if old else GOOD + new.split("register\n", 1)[1])
    return file, line, words


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    registry.discover()
    known = {kind: dict(kind._entries) for kind in (registry.attacks, registry.defenses)}
    yield
    for kind, entries in known.items():
        kind._entries.clear()
        kind._entries.update(entries)


@pytest.mark.parametrize("case", WRONG)
def test_one_line_with_file_and_line(case, tmp_path):
    file, line, words = written(tmp_path, case)
    before = {entry.name for entry in registry.attacks.all()}
    with pytest.raises(PluginError) as refused:
        registry.load_file(file)
    told = str(refused.value)
    assert told.startswith(f"mine.py:{line}: expected "), told
    assert words in told
    assert "\n" not in told
    assert "; " in told.split(", got ", 1)[1]
    assert {entry.name for entry in registry.attacks.all()} == before


@pytest.mark.parametrize("command", ["run", "evaluate", "list", "show"])
@pytest.mark.parametrize("case", ["a lambda", "no Python", "nothing", "a module that is not there"])
def test_every_command_says_it(command, case, tmp_path):
    file, line, words = written(tmp_path, case)
    rest = {
        "run": ["quickstart", "--dry-run"],
        "evaluate": ["nets.py:build", "--data", "digits"],
        "list": ["attacks"],
        "show": ["pgd"],
    }
    done = CliRunner().invoke(app, [command, *rest[command], "--plugin", str(file)])
    text = " ".join((done.output + done.stderr).split())
    assert done.exit_code == 2, text
    assert f"mine.py:{line}: expected" in text
    assert words.split("<")[0] in text
    assert "Traceback" not in text


def test_a_suite_names_the_line_of_both(tmp_path):
    written(tmp_path, "a lambda")
    (tmp_path / "s.yaml").write_text("name: s\nplugins: [mine.py]\ndataset: digits\nmodel: mlp\n")
    with pytest.raises(rs.RequestError, match=r"s.yaml:2: plugins\[0\]: mine.py:11: expected a plain default"):
        load_suite("s.yaml")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("(self, recipe)", "(self, recipe, more)", 11, "got def __call__(self, recipe, more); take 1 beside self"),
        ('"""Do nothing."""', "steps: set[int] = frozenset()", 8, "a docstring"),
        (
            "    def",
            "    def check(self, terms):\n        pass\n\n    def",
            11,
            "expected def check(self, recipe, terms)",
        ),
    ],
)
def test_defences_too(old, new, line, words, tmp_path):
    (tmp_path / "mine.py").write_text(DEFENSE.replace(old, new))
    with pytest.raises(PluginError) as refused:
        registry.load_file(tmp_path / "mine.py")
    assert str(refused.value).startswith(f"mine.py:{line}: ")
    assert words in str(refused.value)


def test_right_ones_are_let_in(tmp_path):
    for text, known, name in ((GOOD, registry.attacks, "mine"), (DEFENSE, registry.defenses, "my-defence")):
        (tmp_path / "mine.py").write_text(text)
        registry.load_file("mine.py")
        assert known.get(name).summary == "Do nothing."
        registry.load_file("mine.py")  # again, as workers do


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rs.attack("pgd", loss=lambda a, b, c: a), r"pgd\.loss, got loss=<lambda> .*margin"),
        (lambda: rs.attack("pgd", steps=print), r"pgd\.steps, got steps=print"),
        (lambda: rs.attack("transfer", networks=("cnn", lambda: 3)), r"transfer\.networks, got networks=<lambda>"),
        (
            lambda: rs.defense("adversarial-training", attack={"pgd": {"loss": lambda: 3}}),
            r"adversarial-training\.attack, got attack=<lambda>",
        ),
    ],
)
def test_a_function_as_an_option(make, words):
    with pytest.raises(rs.RequestError, match=rf"expected a plain value for {words}") as refused:
        make()
    assert "\n" not in str(refused.value)
