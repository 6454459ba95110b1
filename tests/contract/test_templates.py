"""The templates of CONTRIBUTING.md are the code of a package that is installed, held to the laws and played."""

import re
from pathlib import Path

import pytest
from outside import PACKAGE

TEXT = (Path(__file__).parent.parent.parent / "CONTRIBUTING.md").read_text()
TEMPLATES = {
    "An attack": ("shrinking_steps", "feature_collision"),
    "A defence": ("trades", "spectral_signatures", "fine_pruning"),
    "A scenario": ("membership",) * 4,
    "A panel": ("score_spread",),
}


@pytest.mark.parametrize("section", TEMPLATES)
def test_each_stands_in_the_package_word_by_word(section):
    """`test_outside_package.py` installs and plays these files; so a template that rots fails there."""
    below = TEXT.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```python\n(.*?)```", below, re.DOTALL)
    for block, name in zip(blocks, TEMPLATES[section], strict=True):
        assert block.strip("\n") in (PACKAGE / f"{name}.py").read_text(), block[:200]
        assert block.count("\n") >= 7


def test_no_other_section_holds_code_that_nobody_runs():
    assert TEXT.count("```python\n") == sum(len(names) for names in TEMPLATES.values())
