"""Networks that have broken an evaluation somewhere are judged as the plain one."""

import pytest

from robustsuite.testing.awkward import AWKWARD, awkward_laws


@pytest.mark.parametrize("law", awkward_laws(), ids=str)
def test_law(law):
    law()


def test_there_are_many():
    assert len(AWKWARD) >= 25
