"""What the built-in panels draw of payloads, whichever game keeps them."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustsuite.core.intervals import rate
from robustsuite.core.metric import Metric
from robustsuite.core.payloads import Images, Scores, Sweep, pack
from robustsuite.evaluation import record_files
from robustsuite.plugins import registry
from robustsuite.report.files import write


def page_of(maker):
    write(maker.folder, formats=("html",))
    return (maker.folder / "report.html").read_text()


def section(html, name):
    found = re.search(rf'<section id="panel-{name}">(.*?)</section>', html, re.S)
    return found and found.group(1)


# scores


def scored(maker, scores, positive, defense="none", **fields):
    described, tensors = pack([Scores("loss", scores, positive, positives="members", negatives="strangers")])
    maker.add(
        defense, "threshold", "a new game", {"id": torch.arange(len(scores)), **tensors}, payloads=described, **fields
    )


def cells(html):
    """Defence -> texts of its row."""
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", section(html, "roc"), re.S)
    return {name.replace("\u200b", ""): re.findall(r"<td>(.*?)</td>", rest) for name, rest in rows}


def test_whatever_game_keeps_scores_gets_its_roc(maker):
    up, top = torch.arange(2000.0), torch.arange(2000) >= 1000
    scored(maker, up, top)
    scored(maker, -up, top, defense="inverted")
    scored(maker, torch.zeros(2000), top, defense="constant")
    scored(maker, up[950:1050], top[950:1050], defense="few")
    html = page_of(maker)
    found = cells(html)
    assert found["none"][:4] == ["threshold · loss", "1,000 members", "1,000 strangers", "1.000 [0.998, 1.000]"]
    assert found["none"][4:] == ["100.0 % [99.6, 100.0]"] * 2
    assert found["inverted"][3:] == ["0.000 [0.000, 0.002]", "0.0 % [0.0, 0.4]", "0.0 % [0.0, 0.4]"]
    assert found["constant"][3].startswith("0.500 [0.47")
    assert found["few"][4:] == ["not resolvable", "not resolvable"]
    drawn = section(html, "roc")
    assert drawn.count('class="guide diagonal"') == 1
    assert drawn.count('class="line"') == 4
    assert "(log scale)" in drawn
    ends = re.findall(r'class="guide diagonal" d="M(\S+) (\S+)L(\S+) (\S+)"', drawn)
    assert ends == [("46", "226", "366", "14")], "from the lower left to the upper right"


def test_a_constant_score_is_drawn_on_the_diagonal_and_a_perfect_one_above(maker):
    scored(maker, torch.zeros(400), torch.arange(400) < 200)
    (line,) = re.findall(r'class="line" d="M([^"]*)"', section(page_of(maker), "roc"))
    places = [tuple(map(float, point.split())) for point in line.split("L")]
    assert all(abs((x - 46) / 320 - (226 - y) / 212) < 0.01 for x, y in places)


def test_repeats_are_joined_and_points_of_curves_left_out(maker):
    draw, top = torch.Generator().manual_seed(1), torch.arange(400) < 200
    for repeat in range(3):
        scored(maker, torch.randn(400, generator=draw) + top, top, repeat=repeat)
    scored(maker, torch.zeros(400), top, sweep="shadows")
    html = page_of(maker)
    (row,) = cells(html).values()
    value, low, high = map(float, re.findall(r"[\d.]+", row[3]))
    assert 0.65 < low < value < high < 0.85
    assert section(html, "roc").count('class="line"') == 1


def test_scores_of_one_kind_alone_have_no_curve(maker):
    scored(maker, torch.arange(5.0), torch.ones(5, dtype=torch.bool))
    assert cells(page_of(maker))["none"][3] == "no curve without either"


def test_the_template_of_a_panel_draws(maker, tmp_path, monkeypatch):
    below = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text().split("## A panel\n", 1)[1]
    path = tmp_path / "my_panel.py"
    path.write_text(re.findall(r"```python\n(.*?)```", below, re.DOTALL)[0])
    registry.discover()
    monkeypatch.setattr(registry.panels, "_entries", dict(registry.panels._entries))
    registry.load_file(path)
    scored(maker, torch.tensor([0.5, 0.25, 0.125]), torch.tensor([False, True, True]))
    drawn = section(page_of(maker), "x-score-spread")
    assert drawn.count('class="line"') == 2
    shares = re.findall(r"(\d+) % of (members|strangers)</title>", drawn)
    assert [int(share) for share, kind in shares if kind == "members"] == [50, 50, 100, 100, 100]
    assert [int(share) for share, kind in shares if kind == "strangers"] == [0, 0, 0, 0, 100]


# sweeps and images


def test_a_rule_of_any_game_makes_a_sweep(maker):
    for fraction, hits, sweep in ((0.01, 40, ""), (0.001, 5, "fraction"), (0.1, 95, "fraction")):
        metrics = {"backdoor_success_rate": rate(torch.arange(100) < hits, "lower")}
        given = {"headline": "backdoor_success_rate", "metrics": metrics, "rules": {"fraction": fraction}}
        maker.add("none", "badnets", "poisoning", sweep=sweep, **given)
    drawn = section(page_of(maker), "sweeps")
    assert "Backdoor success against fraction" in drawn
    points = re.findall(r"none: ([\d.]+) % \[[^\]]*\] at fraction ([\d.]+), n = 100</title>", drawn)
    assert points == [
        ("5.0", "0.001"), ("40.0", "0.01"), ("95.0", "0.1"),
    ]  # fmt: skip
    assert drawn.count('class="guide"') == 1


def test_a_figure_that_is_not_finite_leaves_a_gap(maker):
    points = ((0.1, Metric(math.nan, unit="l2")), (0.2, Metric(1.5, unit="l2")), (0.4, Metric(math.inf, unit="l2")))
    described, _ = pack([Sweep("distance", "fraction", points), Sweep("gone", "fraction", points[:1])])
    maker.add("none", "x", "y", payloads=described)
    drawn = section(page_of(maker), "sweeps")
    assert re.findall(r"<title>(.*?)</title>", drawn) == ["none: 1.5 at fraction 0.2"]
    assert "Gone" not in drawn
    assert "nan" not in drawn


def test_images_that_are_shared_are_shown_once(maker):
    for shared, attack in ((True, "badnets"), (False, "pgd")):
        described, tensors = pack([Images("t", (("clean", torch.rand(2, 1, 4, 4)),), ("<i>", "b"), shared=shared)])
        for defense in ("none", "other"):
            maker.add(defense, attack, "x", {"id": torch.arange(2), **tensors}, payloads=described)
    drawn = section(page_of(maker), "gallery")
    assert drawn.count("<img ") == 2 + 2 * 2
    assert "&lt;i&gt;" in drawn


@pytest.mark.parametrize("harm", ["lost", "torn", "nonsense"])
def test_payloads_that_cannot_be_read_are_left_out(maker, harm):
    scored(maker, torch.arange(5.0), torch.arange(5) > 2)
    path = next((maker.folder / "samples").iterdir())
    if harm == "lost":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path = maker.folder / "records.jsonl"
        told = ({**described, "kind": "nonsense"} for described in record_files.read(path)[0].payloads)
        record_files.write(path, [replace(record_files.read(path)[0], payloads=tuple(told))])
    html = page_of(maker)
    assert section(html, "roc") is None
    assert "Records" in html


# trainings


def test_diagnoses_stand_below_the_learning_curves(maker):
    wrong = {"name": "overfitting", "seen": "0.99 and <0.60>", "value": 0.39, "limit": 0.15, "mend": "set patience"}
    names = ("train_loss", "validation_f1", "validation_recall", "validation_loss", "validation_accuracy")
    rows = [{"epoch": float(epoch), **dict.fromkeys(names, 0.5 + 0.1 * epoch)} for epoch in range(3)]
    maker.add("none", "none", "utility", history=rows, training={"diagnoses": [wrong]})
    maker.add("none", "fgsm", "evasion", history=rows, training={"diagnoses": [wrong]})
    maker.add("short", "none", "utility", history=rows[:1], training={"diagnoses": [{**wrong, "name": "dead units"}]})
    maker.add("sound", "none", "utility", history=rows, training={"diagnoses": []})
    drawn = section(page_of(maker), "training")
    order = ["train loss", "validation loss", "validation accuracy", "validation f1", "validation recall"]
    places = [drawn.index(name) for name in order]
    assert places == sorted(places)
    assert [drawn.count(word) for word in ("overfitting", "dead units", "0.99 and &lt;0.60&gt;")] == [1, 1, 2]
    assert drawn.index("changes no verdict") > places[-1]
    assert "a training that several share is drawn for the first" in drawn.lower()
    assert drawn.count("0.5 after epoch 1") == 2 * len(names)  # a point and its place in the text, once a figure
