"""What differs between games is said by the scenarios: nothing outside of them names one, or asks which it is.

The pattern, in every file of `robustsuite/` that does not stand in `scenarios/`:

- no string that is the name of a game, and none in which `scenario=` stands before one;
- no import of a game's class, and of none of its modules (`testing/` may: its known answers play games by themselves);
- no `isinstance` or `issubclass` of a game's class.

Prose may name games: a docstring, a help text and a sentence of an error decide nothing.
"""

import ast
import re
from pathlib import Path

import pytest

from robustsuite.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent / "robustsuite"
NAMES = set(SCENARIOS)
CLASSES = {kind.__name__ for kind in SCENARIOS.values()}
ASKED = re.compile(rf"scenario\W{{0,4}}=\W{{0,4}}({'|'.join(sorted(NAMES))})\b")


def others():
    places = (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py")))
    return [place for place in places if not place.startswith("scenarios/")]


def docstrings(tree):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, kinds) and node.body)
    return {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}


def guilty(source, *, plays=False):
    """Lines that name a game."""
    tree = ast.parse(source)
    prose = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            if node.value in NAMES or ASKED.search(node.value):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and not plays:
            named = {alias.name for alias in node.names} | set((getattr(node, "module", "") or "").split("."))
            if "scenarios" in (getattr(node, "module", "") or "") and named & (CLASSES | NAMES):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            yield from [(node.lineno, ast.unparse(node))] if asked & CLASSES else []


@pytest.mark.parametrize("place", others())
def test_nobody_names_a_game(place):
    assert list(guilty((ROOT / place).read_text(), plays=place.startswith("testing/"))) == []


@pytest.mark.parametrize(
    "line",
    [
        'if record.scenario == "evasion": pass',
        'KNOWN = {"poisoning": 1}',
        'remedy = \'write @register.attack("x", scenario="utility")\'',
        "from robustsuite.scenarios import Evasion",
        "from robustsuite.scenarios.inversion import class_means",
        "isinstance(game, Poisoning)",
        "issubclass(kind, (int, Utility))",
    ],
)
def test_the_pattern_sees_it(line):
    assert list(guilty(line))


def test_the_pattern_leaves_prose_alone():
    assert list(guilty('def f():\n    """Evasion."""\n    raise ValueError("a ball for an evasion attack")')) == []
