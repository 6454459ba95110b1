import pytest

from robustsuite.report.export.step_summary import LIMIT, publish, step_summary, within
from robustsuite.report.report import Report
from robustsuite.results import gates

GATES = """\
gates:
- {defense: adversarial-training, attack: pgd, metric: robust_accuracy, at_least: 0.5}
- {defense: none, attack: pgd, metric: robust_accuracy, at_least: 0.5}
- {defense: adversarial-training, attack: pgd, metric: robust_accuracy, at_least: 0.78}
"""


@pytest.fixture
def told(run):
    suite = run.folder / "suite.yaml"
    suite.write_text(suite.read_text() + GATES)
    report = Report.load(run.folder)
    return report, gates.judge(gates.load(run.folder), report)


def test_gates_come_first_and_those_that_failed_before_the_others(told):
    text = step_summary(*told)
    lines = text.splitlines()
    assert lines[:3] == ["## robustsuite: digits-defences", "", "**Gates: 1 failed, 1 inconclusive, 1 passed.**"]
    outcomes = [line.split(" | ")[0] for line in lines if line.startswith(("| **failed", "| **incon", "| passed"))]
    assert outcomes == ["| **failed**", "| **inconclusive**", "| passed"]
    assert (
        text.index("**Gates") < text.index("| defence |") < text.index("not-adaptive") < text.index("Cells that raised")
    )
    assert "- dp-sgd x badnets (repeat 0): ValueError: no &lt;rows&gt; left" in lines


def test_names_the_report_only_where_it_is(told):
    report, judged = told
    assert "Report and records" not in step_summary(report, judged)
    (report.folder / "report.html").write_text("")
    assert "Report and records: `run`" in step_summary(report, judged)


def test_is_appended_where_github_asks_and_nowhere_else(told, tmp_path):
    assert publish(*told, environment={}) is None
    assert publish(*told, environment={"GITHUB_STEP_SUMMARY": ""}) is None
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    assert publish(*told, environment={"GITHUB_STEP_SUMMARY": str(path)}) == path
    assert path.read_text() == "before\n" + step_summary(*told)


def test_keeps_within_the_limit_of_the_step(told, tmp_path):
    path = tmp_path / "summary.md"
    for taken in (LIMIT - 1000, LIMIT - 100, LIMIT - 10, LIMIT, LIMIT + 5):
        path.write_bytes(b"x" * taken)
        publish(*told, environment={"GITHUB_STEP_SUMMARY": str(path)})
        assert path.stat().st_size <= max(LIMIT, taken)
    path.write_bytes(b"x" * (LIMIT - 1000))
    publish(*told, environment={"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text().endswith("the rest stands in the report.)\n")
    assert "## robustsuite" in path.read_text()


def test_cuts_between_lines():
    text = "".join(f"line {i} \N{EN DASH}\n" for i in range(100))
    for room in range(100, 800, 7):
        cut = within(text, room)
        assert len(cut) <= room
        kept = cut.decode().partition("\n(More")[0]
        assert text.startswith(kept)
        assert kept.endswith("\N{EN DASH}") or kept.endswith("\n") or kept == ""


def test_escapes_what_records_say(maker):
    evil = "<script>alert(1)</script>|\n# x"
    maker.add(evil, evil, "evasion", suite=evil, status="error", message=f"ValueError: {evil}")
    text = step_summary(Report.load(maker.folder))
    assert "<script" not in text
    assert "\n# x" not in text
