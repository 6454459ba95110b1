"""An infinite epsilon (no noise at all) is an infinite number in every output, and every JSON stays JSON."""

import json
import math

import pandas as pd
import pytest

from robustsuite.core.metric import Metric
from robustsuite.evaluation import record_files as store
from robustsuite.evaluation.records import Record
from robustsuite.report.export.outcome import outcome
from robustsuite.report.export.terminal import terminal
from robustsuite.report.files import write
from robustsuite.report.report import Report


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def endless(maker):
    """A run in which DP-SGD ran without noise, and whose training diverged on the way."""
    for defense in ("none", "dp-sgd"):
        facts = {"clean_accuracy": maker.number(0.9, "rate", "higher", 10)}
        if defense == "dp-sgd":
            facts["epsilon"] = Metric(math.inf, low=1.0, high=math.inf, unit="nats", better="lower")
        history = ({"epoch": 0.0, "train_loss": math.inf}, {"epoch": 1.0, "train_loss": math.nan})
        maker.add(defense, "none", "utility", headline="clean_accuracy", metrics=facts, history=history)
    return maker.folder


def test_records_read_back_as_numbers(endless):
    text = (endless / "records.jsonl").read_text()
    assert all(strict(line) for line in text.splitlines())
    record = store.read(endless / "records.jsonl")[1]
    assert record.metrics["epsilon"].value == math.inf
    assert record.metrics["epsilon"].unit == "nats"
    assert record.history[0]["train_loss"] == math.inf
    assert math.isnan(record.history[1]["train_loss"])
    assert Record.parse(record.line()).line() == record.line()


def test_text_that_looks_like_a_number_stays_text_elsewhere(maker):
    record = maker.add("none", "inf", "evasion", message="nan", attack_parameters={"order": "inf"})
    read = Record.parse(record.line())
    assert (read.attack, read.message, read.attack_parameters) == ("inf", "nan", {"order": "inf"})


def test_tables_show_infinity(endless):
    write(endless)
    frame = pd.read_csv(endless / "results.csv")
    assert frame.query("metric == 'epsilon'").value.item() == math.inf
    assert "inf" in (endless / "results.csv").read_text()
    assert "∞" in (endless / "table.md").read_text()
    assert r"$\infty$" in (endless / "table.tex").read_text()
    page = (endless / "report.html").read_text()
    assert "∞" in page
    assert "[1.00, ∞]" in page
    assert "NaN" not in page


def test_the_terminal_shows_infinity(endless, capsys):
    from rich.console import Console

    console = Console(width=120)
    terminal(Report.load(endless).comparison, console)
    assert "∞" in capsys.readouterr().out


def test_outputs_for_machines_hold_it(endless):
    write(endless)
    assert '<property name="epsilon" value="inf" />' in (endless / "junit.xml").read_text()
    strict((endless / "results.sarif").read_text())
    (endless / "suite.yaml").write_text("gates: [{defense: dp-sgd, metric: epsilon, at_most: 3}]\n")
    from robustsuite.results import gates

    report = Report.load(endless)
    judged = gates.judge(gates.load(endless), report)
    told = strict(json.dumps(outcome(report, judged)))
    assert told["gates"][0]["value"] == "inf"
    assert float(told["gates"][0]["value"]) == math.inf
    write(endless, formats=("sarif", "junit"))
    strict((endless / "results.sarif").read_text())
