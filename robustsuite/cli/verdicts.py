"""What the gates say, on the terminal and in the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import typer

from robustsuite.cli.console import results

if TYPE_CHECKING:
    from rich.console import Console

    from robustsuite.core.ball import Ball
    from robustsuite.core.gate import Gate
    from robustsuite.evaluation.records import Record
    from robustsuite.results.deciding import Verdict

_STYLES: Final = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold yellow"}


def read_gates(texts: Iterable[str], attacks: Sequence[str], ball: Ball | None) -> tuple[Gate, ...]:
    """The gates typed as `--gate`, held against the attacks that will be played.

    Args:
        texts: As they were typed.
        attacks: As they were typed.
        ball: The threat, where there is one.

    Raises:
        RequestError: No gate, or one about an attack or a metric that will not be there; the message names the nearest.
    """
    from robustsuite.core.errors import RequestError
    from robustsuite.core.gate import Gate
    from robustsuite.evaluation.resolve import arrange_all, labels
    from robustsuite.suite.gates import mistakes, places

    games = arrange_all(attacks, ball, {})
    played = places([(label, game.entry.scenario) for label, game in zip(labels(games), games, strict=True)])
    gates = []
    for text in dict.fromkeys(texts):
        gate = Gate.parse(text)
        for problem in mistakes(gate, ["none"], played):
            raise RequestError(f"--gate {text!r}: {problem.message}")
        gates.append(gate)
    return tuple(gates)


def pronounce(verdicts: Sequence[Verdict], console: Console | None = None) -> None:
    """One line a verdict on standard output (or `console`), its outcome first; nothing without gates."""
    from rich.text import Text

    console = console if console is not None else results()
    for verdict in verdicts:
        word = verdict.outcome.value
        line = Text(verdict.message)
        line.stylize(_STYLES[word], 0, len(word))
        encoding = console.encoding
        if not encoding.lower().startswith("utf"):
            line = Text(verdict.message.encode(encoding, "replace").decode(encoding))
        console.print(line, soft_wrap=True)


def leave(records: Iterable[Record], verdicts: Sequence[Verdict]) -> None:
    """End with 1 where a cell raised or a gate failed, else with 3 where a gate is inconclusive.

    Raises:
        Exit: The exit code is not 0.
    """
    from robustsuite.results.gates import exit_code

    code = exit_code(records, verdicts)
    if code:
        raise typer.Exit(code)
