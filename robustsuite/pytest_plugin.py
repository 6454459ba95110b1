"""The pytest plugin: a `robustness` fixture whose gates pass, fail, or say that the measurement cannot tell.

Installed with the package and inert until used: nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from robustsuite.gates import Robustness

_MEASURED: Final = re.compile(r"robustsuite(_\d+)?_measured")
_COLOURS: Final = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("robustsuite", "robustness and security checks")
    group.addoption(
        "--robustsuite-samples",
        type=_count,
        default=None,
        metavar="N",
        help="judge each gate on at most N samples, each class in its share (by default on all that the test hands in, "
        "or fewer where those decide)",
    )
    group.addoption(
        "--robustsuite-report",
        default=None,
        metavar="DIR",
        help="write what each gate measured below DIR: records, tables and HTML report",
    )
    group.addoption(
        "--robustsuite-update-baseline",
        action="store_true",
        help="make the reports handed to assert_no_regression the new baselines instead of comparing them",
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
        command=f"pytest {shlex.quote(test)}",
        root=config.rootpath,
        update=config.getoption("--robustsuite-update-baseline"),
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each gate that was asked, whatever became of its test, and whichever process ran it."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    lines = dict.fromkeys(line for report in reports for line in _verdicts(report))
    if not lines:
        return
    terminalreporter.section("robustsuite gates")
    for test, message in sorted(lines):
        outcome, _, rest = message.partition(": ")
        terminalreporter.write(outcome, **{_COLOURS.get(outcome, "bold"): True})
        terminalreporter.write_line(f"  {test}  {rest}")


def _verdicts(report: Any) -> Iterator[tuple[str, str]]:
    """Test and verdict of every gate that this report of a test tells of."""
    properties: Iterable[tuple[str, Any]] = getattr(report, "user_properties", ())
    for name, value in properties if getattr(report, "when", "") == "call" else ():
        if _MEASURED.fullmatch(str(name)):
            yield report.nodeid, str(value)
