"""The pytest plugin: fixtures whose gates pass, fail, or say that the measurement cannot tell.

`robustness` is for one test, `robustness_session` for fixtures of any scope, of which the test that is running tells.

Installed with the package and inert until used: nothing heavy is imported before a test asks for the fixture.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from robustsuite.pytest_plugin.robustness import Robustness

_TOLD: Final = re.compile(r"robustsuite(_\d+)?_[a-z]\w*")
_MEASURED: Final = re.compile(r"robustsuite(_\d+)?_measured")
_OUTCOMES: Final = ("passed", "failed", "skipped")
_COLOURS: Final = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("robustsuite", "robustness and security checks")
    group.addoption(
        "--robustsuite-samples",
        type=_count,
        default=None,
        metavar="N",
        help="judge each gate on at most N samples, each class in its share (by default on all that the test gives, "
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
    """Declare the marker, and look on."""
    config.addinivalue_line("markers", "security: a robustness or security check of a model")
    config.stash[_ASKED] = asked = _Asked()
    config.pluginmanager.register(asked, "robustsuite-gates")


@pytest.fixture
def robustness(request: pytest.FixtureRequest) -> Robustness:
    """Gates for one test: `robustness.assert_robust(model, (x, y), attack="pgd", ball=("linf", 0.1), at_least=0.4)`."""
    return _of(request.node)


@pytest.fixture(scope="session")
def robustness_session(request: pytest.FixtureRequest) -> Robustness:
    """Gates as those of `robustness`, for fixtures of any scope: the test that is running then tells of them."""
    return cast("Robustness", _OfRunning(request.config.stash[_ASKED]))


class _Asked:
    """Which test is running, and what the gates of each test said last."""

    def __init__(self) -> None:
        self.running: pytest.Item | None = None
        self.said: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        self._replaced: set[tuple[str, str]] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test begins, maybe once more: what it said before no longer counts, but for fixtures that still hold."""
        self.running = item
        kept, recorded = _lasting(item), item.stash.get(_RECORDED, [])
        item.user_properties[:] = [told for told in item.user_properties if told in kept or told not in recorded]
        item.stash[_RECORDED] = list(kept)
        item.stash[_GATES] = None

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """What a fixture of a wider scope said holds for every run of the test that it was made in."""
        item = self.running
        before = 0 if item is None else len(item.stash.get(_RECORDED, []))
        made = yield
        if item is not None and fixturedef.scope != "function":
            item.stash.setdefault(_LASTING, {})[fixturedef] = item.stash.get(_RECORDED, [])[before:]
        return made

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """A fixture that is gone says it again when it is made again."""
        if self.running is not None:
            self.running.stash.get(_LASTING, {}).pop(fixturedef, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what the gates of a test said, whatever became of it and whichever process ran it.

        Each report of a test holds what those before it held, so that the last one tells of its last run. A run that
        another one replaces (its outcome is then none of pytest's own) tells of no gate, in JUnit neither.
        """
        key = report.nodeid, getattr(report, "worker_id", "")
        if report.when == "setup":
            self._replaced.discard(key)
        if report.outcome not in _OUTCOMES:
            self._replaced.add(key)
        if key in self._replaced:
            report.user_properties = [told for told in report.user_properties if not _TOLD.fullmatch(str(told[0]))]
        self.said[key] = dict.fromkeys(_verdicts(report))


class _OfRunning:
    """The gates of whichever test is running."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        if self._asked.running is None:
            raise AttributeError(name)
        return getattr(_of(self._asked.running), name)


def _of(item: pytest.Item) -> Robustness:
    """The gates of this test, made when first asked for."""
    known = item.stash.get(_GATES, None)
    if known is not None:
        return known
    from robustsuite.pytest_plugin.robustness import Robustness

    config = item.config
    start = config.invocation_params.dir  # a test may change the working folder
    folder = config.getoption("--robustsuite-report")
    inside = item.nodeid.partition("::")[2]
    test = f"{Path(os.path.relpath(item.path, start)).as_posix()}::{inside}"
    item.stash[_GATES] = made = Robustness(
        item.nodeid,
        samples=config.getoption("--robustsuite-samples"),
        folder=None if folder is None else start / folder,
        record=lambda name, value: _record(item, (name, value)),
        command=f"pytest {shlex.quote(test)}",
        root=config.rootpath,
        update=config.getoption("--robustsuite-update-baseline"),
        before=max((_number(name) for name, _ in _lasting(item)), default=0),
    )
    return made


def _record(item: pytest.Item, told: tuple[str, Any]) -> None:
    item.user_properties.append(told)
    item.stash.setdefault(_RECORDED, []).append(told)


def _lasting(item: pytest.Item) -> list[tuple[str, Any]]:
    """What fixtures that still hold said when they were made for this test."""
    return list(dict.fromkeys(told for said in item.stash.get(_LASTING, {}).values() for told in said))


def _number(name: str) -> int:
    """Which gate of its test a property tells of, as `Robustness` numbers them."""
    number = name.split("_")[1]
    return int(number) if number.isdecimal() else 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line for each gate that was asked, in whichever phase of its test."""
    lines = dict.fromkeys(line for said in config.stash[_ASKED].said.values() for line in said)
    if not lines:
        return
    terminalreporter.section("robustsuite gates")
    for test, message in sorted(lines):
        outcome, _, rest = message.partition(": ")
        terminalreporter.write(outcome, **{_COLOURS.get(outcome, "bold"): True})
        terminalreporter.write_line(f"  {test}  {rest}")


def _verdicts(report: pytest.TestReport) -> Iterator[tuple[str, str]]:
    """Test and verdict of every gate that this report of a test tells of."""
    properties: Iterable[tuple[str, Any]] = report.user_properties
    for name, value in properties:
        if _MEASURED.fullmatch(str(name)):
            yield report.nodeid, str(value)


_ASKED: Final = pytest.StashKey[_Asked]()
_GATES: Final = pytest.StashKey["Robustness | None"]()
_RECORDED: Final = pytest.StashKey[list[tuple[str, Any]]]()
_LASTING: Final = pytest.StashKey[dict[pytest.FixtureDef[Any], list[tuple[str, Any]]]]()
