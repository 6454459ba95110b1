"""The pytest plugin: a `robustness` fixture whose gates pass, fail, or say that the measurement cannot tell.

Installed with the package and inert until used: nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from robustsuite.gates import Robustness


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("robustsuite", "robustness and security checks")
    group.addoption(
        "--robustsuite-samples",
        type=int,
        default=None,
        metavar="N",
        help="judge each gate on at most N samples (by default all that the test hands in)",
    )
    group.addoption(
        "--robustsuite-report",
        default=None,
        metavar="DIR",
        help="write what each gate measured below DIR: records, table and HTML report",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "security: a robustness or security check of a model")


@pytest.fixture
def robustness(request: pytest.FixtureRequest) -> Iterator[Robustness]:
    """Gates for one test: `robustness.assert_robust(model, (x, y), attack="pgd", ball=("linf", 0.1), at_least=0.4)`."""
    from robustsuite.gates import Robustness

    config = request.config
    yield Robustness(
        request.node.name,
        samples=config.getoption("--robustsuite-samples"),
        folder=config.getoption("--robustsuite-report"),
        record=lambda name, value: request.node.user_properties.append((name, value)),
    )
