"""What differs between games is said by the scenarios: nothing outside of them asks which game it is."""

import ast
from pathlib import Path

import pytest

from robustsuite.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent / "robustsuite"
# They read records, which hold the name of the game and nothing of its class.
READERS = ("report", "results", "evaluation/records.py")
CLASSES = {kind.__name__ for kind in SCENARIOS.values()}


def others():
    places = (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py")))
    return [place for place in places if not place.startswith(("scenarios/", *READERS))]


def words(node):
    """Strings and names in an expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        elif isinstance(part, ast.Name):
            yield part.id


@pytest.mark.parametrize("place", others())
def test_nobody_asks_which_game_it_is(place):
    for node in ast.walk(ast.parse((ROOT / place).read_text())):
        if isinstance(node, ast.Compare):
            assert not set(SCENARIOS) & set(words(node)), f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert not CLASSES & set(words(node)), f"line {node.lineno}: {ast.unparse(node)}"
