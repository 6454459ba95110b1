import io
import re

import pytest
import torch
from rich.console import Console

from robustsuite.core.intervals import over_repeats
from robustsuite.core.metric import Metric
from robustsuite.core.suspicions import Suspicion
from robustsuite.report.export.markup import latex, markdown
from robustsuite.report.export.terminal import follow_ups, terminal
from robustsuite.results import words
from robustsuite.results.cells import MARK
from robustsuite.results.table import comparison
from robustsuite.results.worst_case import with_worst_cases

ALL = torch.ones(100, dtype=torch.bool)


@pytest.fixture
def table(run):
    return comparison(with_worst_cases(run.records, run.folder))


def printed(table, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    terminal(table, console)
    return console.file.getvalue()


def figures(maker, name, better, values, **fields):
    for defense, value in values.items():
        metric = Metric(value, 10, value - 0.1, value + 0.1, "rate", better)
        maker.add(defense, name, "poisoning", headline="figure", metrics={"figure": metric}, **fields)


def test_suites_of_different_radii_have_a_verdict_each(maker):
    for suite, radius, left in (("near", 0.1, 60), ("far", 0.2, 30)):
        maker.evasion("none", "pgd", ALL, torch.arange(100) < left, suite=suite, radius=radius, images=False)
    table = comparison(with_worst_cases(maker.records, maker.folder))
    assert table.rows == ("near/digits: none", "far/digits: none")
    assert [[table.cell(row, column).value for column in ("verdict", "pgd")] for row in table.rows] == [
        [0.6, 0.6],
        [0.3, 0.3],
    ]


def test_rows_are_defences_and_columns_headlines(table):
    assert table.rows[0] == "none"
    assert table.rows[-1] == "input-validation+adversarial-training"
    heads = [(c.title, c.metric) for c in table.columns]
    assert heads[:3] == [
        ("clean accuracy", "clean_accuracy"),
        ("epsilon", "epsilon"),
        ("attack passes", "passes_per_sample"),
    ]
    assert heads[3:7] == [(a, "robust_accuracy") for a in ("verdict", "noise", "fgsm", "pgd")]
    assert heads[7:] == [
        ("badnets", "backdoor_success_rate"),
        ("label-flip", "accuracy_drop"),
        ("model-inversion", "inversion_accuracy"),
    ]


def test_points_of_a_curve_have_no_column_and_do_not_enter_one(table):
    assert table.cell("none", "pgd").n == 200
    assert table.cell("none", "pgd").value == 0.0


def test_status_words(table):
    assert table.cell("dp-sgd", "badnets").text == "error"
    assert "no <rows> left" in table.cell("dp-sgd", "badnets").message
    assert table.cell("input-validation", "model-inversion").text == "n/a"
    assert table.cell("input-validation+adversarial-training", "model-inversion").text == "0.0?"
    assert table.cell("none", "epsilon").text == "–"


def test_a_cell_that_never_ran_is_not_run_and_not_0(maker):
    figures(maker, "flip", "lower", {"none": 0.5, "other": 0.5})
    maker.add("none", "flop", "poisoning", headline="figure", metrics={"figure": Metric(0.1)})
    cell = comparison(maker.records).cell("other", "flop")
    assert cell.value is None
    assert cell.text == "not run"


@pytest.mark.parametrize(("better", "best"), [("higher", "b"), ("lower", "a"), ("", None)])
def test_best_honours_the_direction(maker, better, best):
    figures(maker, "flip", better, {"a": 0.2, "b": 0.7, "c": 0.5})
    table = comparison(maker.records)
    assert [row for row in table.rows if table.cell(row, "flip").best] == ([best] if best else [])


def test_best_goes_to_no_number_that_cannot_be_believed(maker):
    figures(maker, "flip", "higher", {"honest": 0.2, "weaker": 0.1})
    figures(maker, "flip", "higher", {"masked": 0.9}, flags=("zero-gradients",))
    figures(maker, "flip", "higher", {"random": 0.95}, status="inconclusive")
    table = comparison(maker.records)
    assert [row for row in table.rows if table.cell(row, "flip").best] == ["honest"]


def test_a_mild_doubt_does_not_take_the_best(maker):
    figures(maker, "flip", "higher", {"a": 0.2})
    figures(maker, "flip", "higher", {"b": 0.9}, flags=("few-samples",))
    cell = comparison(maker.records).cell("b", "flip")
    assert cell.best
    assert cell.mark == MARK


def test_equal_figures_have_no_best(maker):
    figures(maker, "flip", "higher", {"a": 0.5, "b": 0.5})
    assert not any(cell.best for row in comparison(maker.records).cells for cell in row)


def test_repeats_are_merged_with_both_spreads(maker):
    for repeat, value in enumerate((0.4, 0.6)):
        figures(maker, "flip", "lower", {"none": value}, repeat=repeat)
    cell = comparison(maker.records).cell("none", "flip")
    expected = over_repeats([Metric(v, 10, v - 0.1, v + 0.1, "rate", "lower") for v in (0.4, 0.6)])
    assert (cell.value, cell.low, cell.high, cell.n) == (expected.value, expected.low, expected.high, expected.n)
    assert cell.flags == ()


def test_a_missing_repeat_is_marked(maker):
    figures(maker, "flip", "lower", {"none": 0.4}, repeat=0)
    maker.add("none", "flip", "poisoning", repeat=1, status="error", message="boom")
    cell = comparison(maker.records).cell("none", "flip")
    assert cell.value == 0.4
    assert cell.flags == ("missing-repeats",)


def test_doubt_about_epsilon_marks_epsilon_and_not_accuracy(maker):
    maker.utility("dp-sgd", ALL, flags=("epsilon-not-valid",), epsilon=maker.number(3.0, "nats", "lower"))
    table = comparison(with_worst_cases(maker.records, maker.folder))
    assert table.cell("dp-sgd", "epsilon").flags == ("epsilon-not-valid",)
    assert table.cell("dp-sgd", "clean accuracy").flags == ()


def test_doubt_about_a_figure_that_is_not_there_is_not_lost(maker):
    maker.utility("dp-sgd", ALL, flags=("epsilon-not-valid",))
    table = comparison(with_worst_cases(maker.records, maker.folder))
    assert table.cell("dp-sgd", "clean accuracy").flags == ("epsilon-not-valid",)


def test_passes_count_every_evasion_attack_once_per_sample(table):
    # noise, fgsm and pgd at the suite's radius: 40 forwards and 40 backwards a sample each.
    assert table.cell("none", "attack passes").value == 240


def test_unknown_flags_show_their_code(maker):
    figures(maker, "flip", "higher", {"a": 0.2}, flags=("brand-new",))
    table = comparison(maker.records)
    (flag, where), *_ = table.legend()
    assert flag.code == "brand-new"
    assert where == "everywhere"
    assert "brand-new" in markdown(table)
    assert "brand-new" in latex(table)
    assert "brand-new" in printed(table)


def test_every_flag_says_what_it_means_and_what_settles_it():
    for flag in Suspicion:
        assert flag.meaning
        assert flag.remedy
        assert not flag.meaning.endswith(".")


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_terminal_shows_every_figure_and_interval_whole(table, width):
    text = printed(table, width)
    assert "…" not in text.replace("[…]", "")
    assert max(len(line) for line in text.splitlines()) <= width
    for row in table.cells:
        for cell in row:
            assert cell.text in text
            assert cell.interval in text


def test_terminal_marks_survive_without_colour(table, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(table, 200, force_terminal=True, color_system="truecolor")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text)
    assert "77.0*" in text
    assert f"9.0{MARK}" in text


def test_terminal_in_ascii(table):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    terminal(table, Console(file=file, width=80))
    file.flush()
    assert b"77.0*" in file.buffer.getvalue()
    assert b"9.0!" in file.buffer.getvalue()


@pytest.mark.parametrize("width", [40, 60, 200])
def test_follow_ups_in_ascii(maker, width):
    """What rich cuts in a narrow table it marks by an ellipsis, which no such console has: the command died of it."""
    columns = {"id": torch.arange(4), "clean_correct": torch.ones(4).bool(), "robust": torch.ones(4).bool()}
    examined = {"rules": "some", "played": [{"attack": "a-long-name-of-an-attack", "broke": 4, "of": 4}]}
    given = {"norm": "linf", "radius": 0.3, "headline": "robust_accuracy", "review": examined}
    metrics = {"robust_accuracy": Metric(0.5, 4, 0.1, 0.9, "rate", "higher")}
    maker.add("a-défence-of-a-long-name", "pgd", "evasion", columns, metrics=metrics, **given)
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    follow_ups(maker.records, Console(file=file, width=width))
    file.flush()
    assert b"|a-d?fence" in file.buffer.getvalue()


def test_terminal_without_records():
    assert "no records" in printed(comparison([]))


def test_terminal_does_not_read_markup_in_names(maker):
    figures(maker, "[red]flip[/red]", "higher", {"[bold]a": 0.2})
    text = printed(comparison(maker.records))
    assert "[bold]a" in text
    assert "[red]flip" in text


def test_markdown_is_a_table(table):
    lines = markdown(table).splitlines()
    body = lines[: 2 + len(table.rows)]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {len(table.columns) + 2}
    assert r"**77.0** \[70.7, 82.3\]" in lines[3]
    assert f"9.0{MARK}" in lines[5]
    assert any(line.startswith(f"- {MARK} `not-adaptive`") for line in lines)


def test_latex_is_a_booktabs_table(table):
    text = latex(table)
    inner = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(inner) == len(table.rows)
    assert {line.count(" & ") for line in inner} == {len(table.columns)}
    assert all(line.endswith(r" \\") for line in inner)
    assert text.count("{") == text.count("}")
    assert r"\textbf{77.0}" in text
    assert r"9.0\textsuperscript{\dag}" in text
    assert not re.search(r"(?<!\\)%(?! needs)", text)


def test_markup_escapes_names(maker):
    figures(maker, "a|b<script>_x", "higher", {"50%_&*\n#1": 0.2})
    table = comparison(maker.records)
    marked = markdown(table)
    assert "<script>" not in marked
    assert r"a\|b&lt;script&gt;\_x" in marked
    assert r"50\%\_\&* \#1" in latex(table)


def test_frame_is_text_by_defence(table):
    frame = table.frame()
    assert list(frame.index) == list(table.rows)
    assert frame.loc["adversarial-training", "pgd: robust accuracy % ↑"] == "77.0 [70.7, 82.3]"
    assert frame.loc["input-validation", "pgd: robust accuracy % ↑"].startswith(f"9.0{MARK}")


def test_without_clean_evaluation_the_evasion_records_say_it(maker):
    maker.evasion("none", "pgd", torch.arange(100) < 90, torch.arange(100) < 10, images=False)
    assert comparison(maker.records).cell("none", "clean accuracy").value == 0.9


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9996, "rate", "99.96"),
        (1.0, "rate", "100.0"),
        (0.0001, "rate", "0.01"),
        (0.0, "rate", "0.0"),
        (-0.0001, "rate difference", "0.0"),
        (0.015, "rate difference", "+1.5"),
        (float("inf"), "nats", "∞"),
        (0.5, "passes", "0.5"),
        (1234567.0, "count", "1,234,567"),
    ],
)
def test_figures_read_as_what_they_are(value, unit, text):
    assert words.figure(value, unit) == text


def test_no_defence_is_best_of_an_attacks_column_for_masking_its_gradient(maker):
    """The masked one shows most under the attack that nobody examined, and the verdict knows better."""
    clean = torch.ones(100, dtype=torch.bool)
    for defense, own, verdict in (("none", 10, 10), ("masked", 90, 0), ("trained", 50, 45)):
        maker.utility(defense, clean)
        maker.evasion(defense, "noise", clean, clean, images=False, knowledge="blind")
        maker.evasion(defense, "pgd", clean, torch.arange(100) < own, images=False)
        maker.evasion(defense, "apgd", clean, torch.arange(100) < verdict, images=False)
    table = comparison(with_worst_cases(maker.records, maker.folder))
    best = {column: [row for row in table.rows if table.cell(row, column).best] for column in ("verdict", "pgd")}
    assert best == {"verdict": ["trained"], "pgd": ["trained"]}
    assert table.cell("masked", "pgd").value == 0.9
