"""The pytest plugin: a `robustness` fixture whose gates pass, fail, or say that the measurement cannot tell.

Installed with the package and inert until used: nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from robustsuite.gates import Robustness


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("robustsuite", "robustness and security checks")
    group.addoption(
        "--robustsuite-samples",
        type=_count,
        default=None,
        metavar="N",
        help="judge each gate on at most N samples, each class in its share (by default on all that the test hands in)",
    )
    group.addoption(
        "--robustsuite-report",
        default=None,
        metavar="DIR",
        help="write what each gate measured below DIR: records, tables and HTML report",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "security: a robustness or security check of a model")


@pytest.fixture
def robustness(request: pytest.FixtureRequest) -> Robustness:
    """Gates for one test: `robustness.assert_robust(model, (x, y), attack="pgd", ball=("linf", 0.1), at_least=0.4)`."""
    from robustsuite.gates import Robustness

    config, node = request.config, request.node
    start = config.invocation_params.dir  # a test may change the working folder
    folder = config.getoption("--robustsuite-report")
    inside = node.nodeid.partition("::")[2]
    test = f"{Path(os.path.relpath(node.path, start)).as_posix()}::{inside}"
    return Robustness(
        node.nodeid,
        samples=config.getoption("--robustsuite-samples"),
        folder=None if folder is None else start / folder,
        record=lambda name, value: node.user_properties.append((name, value)),
        command=f"pytest {shlex.quote(test)} --robustsuite-report robustness",
    )
