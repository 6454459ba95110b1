"""Two runs side by side: the frame, Markdown, the terminal and the sentence that sums them up."""

import io
import json

import pytest
from rich.console import Console
from two_runs import only, outcomes

from robustsuite.core.paired import repeats_needed
from robustsuite.report.export.compare_text import markdown, terminal
from robustsuite.report.report import Report
from robustsuite.results.compare import Change, compare

# --- How it is shown


@pytest.fixture
def shown(old, new):
    old.common["defense"] = new.common["defense"] = "<b>|[red]x"
    old.clean(outcomes(380))
    new.clean(outcomes(340))
    old.cell("pgd", outcomes(200))
    new.cell("pgd", outcomes(400), flags=("zero-gradients",))
    return compare(Report.load(old.folder), Report.load(new.folder))


def test_frame_and_json_hold_every_row(shown):
    assert list(shown.frame.verdict) == ["regression", "in doubt"]
    assert list(shown.frame["flags"]) == ["", "zero-gradients"]
    told = json.loads(json.dumps(shown.as_dict(), allow_nan=False))
    assert told["outcome"] == "failed"
    assert [row["worse"] for row in told["rows"]] == [40, 0]
    assert told["notes"][:2] == ["model: cnn, now resnet18", "suite: s, now renamed"]


def test_markdown_escapes_names(shown):
    text = markdown(shown)
    assert "**regression**" in text
    assert r"&lt;b&gt;\|\[red\]x" in text
    assert "<b>" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {11}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_terminal_shows_names_as_they_are(shown, encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    terminal(shown, Console(file=stream, width=200, no_color=True))
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "<b>|[red]x" in text
    assert "-40 +0" in text
    assert "new doubt: zero-gradients" in text


@pytest.fixture
def scattered(old, new):
    for repeat, (before, after) in enumerate(((200, 150), (190, 200), (210, 120))):
        old.cell("pgd", outcomes(before), repeat=repeat)
        new.cell("pgd", outcomes(after), repeat=repeat)
        old.cell("fgsm", outcomes(250), repeat=repeat)
        new.cell("fgsm", outcomes(250), repeat=repeat, status="inconclusive" if repeat else "ok")
    return compare(old.folder, new.folder, metrics=["robust_accuracy"])


def test_how_many_repeats_would_tell_is_shown_and_what_is_newly_withheld(scattered):
    needed = only(scattered, attack="pgd").repeats_needed
    raw = io.StringIO()
    terminal(scattered, Console(file=raw, width=300, no_color=True))
    for text in (raw.getvalue(), markdown(scattered).replace("\\", "")):
        assert f"with {needed} repeats in place of 3 a difference like this one is called in four of five" in text
        assert "ours x fgsm, robust accuracy; ours x worst-case, robust accuracy: newly withheld" in text
    row = scattered.frame.set_index("attack").loc["pgd"]
    assert (row.repeats_needed, row.gap, row.verdict) == (needed, "", "undecided")


def test_how_many_repeats_a_difference_that_is_not_excluded_takes(old, new):
    for repeat in range(3):
        for side, shift in ((old, 0), (new, 3)):
            side.cell("pgd", outcomes(200 + 20 * repeat + shift), repeat=repeat)
    found = compare(old.folder, new.folder)
    row = only(found)
    assert (row.verdict, found.outcome) == (Change.NO_EVIDENCE, "passed")
    assert row.repeats_needed == repeats_needed(row.found, 0.05, row.low) > 3
    points = f"{-100 * row.low:.1f} points (ours x pgd, robust_accuracy)"
    told = f"do not exclude a worsening of up to {points}; to call one like it would take {row.repeats_needed} repeats."
    assert told in found.summary()


def test_one_repeat_is_about_these_weights_and_several_are_not(shown, scattered):
    words = "With one repeat this is about these trained models (these weights), not about their training."
    assert words in shown.summary()
    assert words in markdown(shown)
    assert words not in scattered.summary()


def test_records_that_do_not_tell_their_rules_are_named(old, new):
    old.cell("pgd", outcomes(200), version=2)
    new.cell("pgd", outcomes(200), rules={"goal": "untargeted"})
    (told,) = [note for note in compare(old.folder, new.folder).notes if "rules" in note]
    assert told == "records of the old run do not tell the rules of their games, so those are not compared"


def test_the_verdict_in_a_sentence(shown):
    assert shown.summary().startswith("1 regression and 0 improvements among 2 tested figures.")
