"""Success against radius and against passes, on runs whose curves are known."""

import math
import re
from itertools import pairwise

import pytest
import torch

from robustsuite.core.intervals import interval, rate
from robustsuite.core.payloads import Cost
from robustsuite.report.exhibits import exhibits
from robustsuite.report.files import write
from robustsuite.report.panels.passes import PassesToBreak
from robustsuite.report.panels.sweeps import Sweeps
from robustsuite.report.pieces import Exhibit
from robustsuite.report.swept import swept
from robustsuite.results.break_radius import BreakRadii
from robustsuite.results.worst_case import with_worst_cases, worst_cases
from robustsuite.runner.plan import plan
from robustsuite.suite.load import load_suite

INF, NAN = math.inf, math.nan
LOOK = {"none": 0}
# Ten samples: one wrong from the start, then nearest successes at these distances.
DISTANCES = (NAN, 0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.5, INF, INF)
CLEAN = torch.tensor([not math.isnan(d) for d in DISTANCES])


def nearest(maker, distances=DISTANCES, radius=0.3, attack="fab", extra=None, robust=None, **fields):
    """A record of a minimum-norm attack."""
    distance = torch.tensor(distances)
    stands = CLEAN & ~(distance <= radius + 1e-6) if robust is None else robust
    columns = {"id": torch.arange(10), "clean_correct": CLEAN, "robust": stands, "distance": distance, **(extra or {})}
    values = {"robust_accuracy": rate(stands, "higher")}
    given = {"knowledge": "white-box", "norm": "linf", "radius": radius, "minimum_norm": True, "metrics": values}
    return maker.add("none", attack, "evasion", columns, headline="robust_accuracy", **{**given, **fields})


def played(maker, radius, standing, attack="pgd", **fields):
    """A record of an attack at one radius, on the first samples; `standing` are those that it left."""
    n = fields.pop("n", 10)
    robust = torch.tensor([i in standing for i in range(n)])
    return maker.evasion("none", attack, CLEAN[:n], robust, radius=radius, images=False, **fields)


def radii(maker):
    joined = with_worst_cases(maker.records, maker.folder)
    shown = [Exhibit(record, sweep, LOOK[record.defense]) for record, sweep in swept(joined, maker.folder)]
    return {chart.title: chart for section in Sweeps()(shown) for chart in section.parts[0].charts}


def passes(maker):
    found = exhibits(maker.records, maker.records, maker.folder, LOOK)
    section = PassesToBreak()([exhibit for exhibit in found if isinstance(exhibit.payload, Cost)])
    return section.parts[0].charts if section else ()


def told(chart):
    """Radius or passes -> success in percent, low, high, n."""
    found = re.findall(
        r"([\d.]+) % \[([\d.]+), ([\d.]+)\] (?:at radius|after) ([\d.,]+?)(?: passes)?, n = (\d+)", chart.summary
    )
    return {float(x.replace(",", "")): (float(y), float(low), float(high), int(n)) for y, low, high, x, n in found}


def test_one_pass_of_a_minimum_norm_attack_is_the_whole_curve(maker):
    maker.utility("none", CLEAN)
    nearest(maker)
    curve = told(radii(maker)["fab"])
    shares = {0.0: 10, 0.075: 20, 0.15: 40, 0.225: 50, 0.3: 60, 0.375: 70, 0.45: 70, 0.6: 80}
    assert {r: y for r, (y, *_) in curve.items()} == shares
    low, high = interval(6, 10)
    assert curve[0.3][1:] == (round(100 * low, 1), round(100 * high, 1), 10)


def test_its_points_stand_at_the_radii_of_the_others(maker):
    maker.utility("none", CLEAN)
    played(maker, 0.3, {8, 9})
    nearest(maker)
    played(maker, 0.12, {3, 4, 5, 6, 7, 8, 9})
    charts = radii(maker)
    assert {r: y for r, (y, *_) in told(charts["fab"]).items()} == {0.0: 10, 0.12: 30, 0.3: 60}
    assert {r: y for r, (y, *_) in told(charts["pgd"]).items()} == {0.0: 10, 0.12: 30, 0.3: 80}


def test_its_line_steps_where_samples_fall(maker):
    nearest(maker)
    chart = radii(maker)["fab"]
    ends = [tuple(map(float, point.split())) for point in chart.lines[0].path[1:].split("L")]
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(ends)), "success never falls"
    levels = {round(y, 1) for _, y in ends}
    assert len(levels) == 8, "1, 2, 3, 4, 5, 6, 7 and 8 of ten"


def test_repeats_are_joined(maker):
    nearest(maker)
    far = tuple(2 * d for d in DISTANCES)
    nearest(maker, far, repeat=1)
    curve = told(radii(maker)["fab"])
    assert curve[0.3][0] == 50.0  # 6 and 4 of ten
    assert curve[0.3][3] == 20
    assert curve[0.3][1] < 100 * interval(10, 20)[0]


@pytest.mark.parametrize("harm", ["lost", "torn", "columns"])
def test_a_damaged_file_leaves_the_curve_out(maker, harm):
    maker.utility("none", CLEAN)
    record = nearest(maker)
    played(maker, 0.3, {8, 9}, attack="pgd")
    path = maker.folder / record.samples
    if harm == "lost":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(path.read_bytes()[:40])
    else:
        maker.records[1] = maker.add("none", "fab", "evasion", {"id": torch.arange(3)}, minimum_norm=True, radius=0.3)
    assert "fab" not in radii(maker)
    write(maker.folder)
    assert "Records" in (maker.folder / "report.html").read_text()


def test_what_a_follow_up_broke_is_broken_at_the_radius_and_beyond(maker):
    stands = CLEAN.clone()
    stands[[1, 2, 3, 4, 5, 8]] = False  # sample 8 was broken by a follow-up, which found no nearest success
    record = nearest(maker, robust=stands)
    assert list(BreakRadii(maker.folder).radii(record).values()) == pytest.approx(
        [0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.5, 0.3, INF]
    )
    curve = {r: y for r, (y, *_) in told(radii(maker)["fab"]).items()}
    assert (curve[0.225], curve[0.3], curve[0.375], curve[0.6]) == (50, 70, 80, 90)


def test_lines_show_the_attack_alone_and_the_verdict_stands_apart(maker):
    """The attack leaves five of ten; its follow-up attacks leave one of them."""
    own = torch.tensor([i > 4 for i in range(10)])
    verdict = torch.tensor([i > 8 for i in range(10)])
    columns = {"id": torch.arange(10), "clean_correct": CLEAN, "robust": own, "verdict": verdict}
    columns |= {"found_by": (own & ~verdict).long(), "distance": torch.full((10,), 0.3)}
    values = {"robust_accuracy": rate(own, "higher"), "robust_accuracy_followed_up": rate(verdict, "higher")}
    given = {"knowledge": "white-box", "norm": "linf", "radius": 0.3, "headline": "robust_accuracy"}
    examined = {"rules": "some", "played": [{"attack": "bpda", "broke": 4, "of": 5}]}
    maker.add("none", "pgd", "evasion", columns, metrics=values, review=examined, **given)
    played(maker, 0.1, {2, 3, 4, 5, 6, 7, 8, 9})
    played(maker, 0.6, {3, 4, 5, 6, 7, 8, 9})
    played(maker, 0.3, set(), attack="mi-fgsm")
    played(maker, 0.1, {3, 4}, attack="mi-fgsm")
    charts = radii(maker)
    curve = {r: y for r, (y, *_) in told(charts["pgd"]).items()}
    assert curve == {0.1: 20, 0.3: 50, 0.6: 50}, "what fell at 0.3 has broken at 0.6, where the attack alone gave 30"
    assert "alone" in charts["pgd"].note
    assert charts["mi-fgsm"].note == ""
    assert [line.name for line in charts["verdict"].lines] == ["none"], "mi-fgsm alone breaks all, so nothing is apart"


def test_a_verdict_below_the_line_is_a_mark_of_its_own(maker):
    own, verdict = CLEAN.clone(), CLEAN & False
    columns = {"id": torch.arange(10), "clean_correct": CLEAN, "robust": own, "verdict": verdict}
    columns |= {"found_by": own.long(), "distance": torch.full((10,), 0.3)}
    values = {"robust_accuracy": rate(own, "higher"), "robust_accuracy_followed_up": rate(verdict, "higher")}
    given = {"knowledge": "white-box", "norm": "linf", "radius": 0.3, "headline": "robust_accuracy"}
    maker.utility("none", CLEAN)
    maker.add("none", "pgd", "evasion", columns, metrics=values, review={"rules": "some"}, **given)
    maker.evasion("none", "fgsm", CLEAN, own, images=False)
    for attack in ("pgd", "fgsm"):
        played(maker, 0.6, {3, 4}, attack=attack)
    line, apart = radii(maker)["verdict"].lines
    assert (line.name, apart.name) == ("none", "none with follow-ups")
    assert [mark.label.partition(" at radius")[0] for mark in line.marks] == [
        "none: 10.0 % [0.3, 44.5]", "none: 10.0 % [0.3, 44.5]", "none: 80.0 % [44.4, 97.5]",
    ]  # fmt: skip
    (mark,) = apart.marks
    assert mark.label.startswith("none with follow-ups: 100.0 %")
    assert (mark.x, apart.path) == (line.marks[1].x, "")


def test_a_point_on_fewer_samples_takes_over_what_fell_among_them(maker):
    played(maker, 0.3, {5, 6, 7, 8, 9})
    played(maker, 0.6, {1, 2, 3, 4, 5}, n=6)
    curve = told(radii(maker)["pgd"])
    assert curve[0.6][0] == pytest.approx(100 * 5 / 6, abs=0.1)  # of 0 to 5 only 5 stood at 0.3
    assert curve[0.6][3] == 6


def test_the_worst_case_of_a_curve_knows_the_distances_and_what_fell_before(maker):
    played(maker, 0.3, {4, 7, 8, 9})
    nearest(maker)
    played(maker, 0.1, {2, 3, 4, 5, 6, 7}, n=8)
    played(maker, 0.6, {3, 4, 5, 6, 7}, n=8)
    worst = {r.radius: r.metrics["robust_accuracy"] for r in worst_cases(maker.records, maker.folder)}
    assert {radius: (round(m.value * m.n), m.n) for radius, m in worst.items()} == {
        0.3: (3, 10),  # 4 falls to the nearest, at 0.2
        0.1: (5, 8),  # 2 falls to the nearest, at 0.1
        0.6: (0, 8),  # 3, 5 and 6 fell at 0.3 already, 4 and 7 to the nearest
    }


def test_minimum_norm_attacks_have_no_points_to_be_played(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ndataset: {name: digits, train: 100, test: 50}\nmodel: logistic\ntraining: {epochs: 1}\n"
        "threat: {norm: linf, radius: 0.1}\nattacks: [deepfool, fab, pgd, square]\n"
    )
    points = [cell for cell in plan(load_suite(path), "cpu").cells if cell.curve]
    assert {cell.attack.label for cell in points} == {"pgd"}
    assert len(points) == 6


# success against passes

PASSES = torch.tensor([0, 1, 3, 3, 9, 20, 41, 81, 81, 81])


def test_passes_by_hand(maker):
    stands = torch.tensor([i >= 7 for i in range(10)])
    nearest(maker, attack="pgd", minimum_norm=False, robust=stands, extra={"passes": PASSES})
    (chart,) = passes(maker)
    assert chart.title == "pgd"
    assert {p: y for p, (y, *_) in told(chart).items()} == {
        1: 20, 2: 20, 5: 40, 10: 50, 20: 60, 50: 70, 81: 70,
    }  # fmt: skip
    low, high = interval(6, 10)
    assert told(chart)[20][1:] == (round(100 * low, 1), round(100 * high, 1), 10)
    assert chart.note == ""
    assert chart.x.log


def test_only_white_box_attacks_of_many_passes_at_the_suites_radius(maker):
    extra = {"passes": PASSES}
    nearest(maker, attack="pgd", extra=extra, flags=("resolved:zero-gradients",))
    nearest(maker, attack="fgsm", extra={"passes": PASSES.clamp_max(2)})
    nearest(maker, attack="square", extra=extra, knowledge="score-based")
    nearest(maker, attack="art:DeepFool")
    nearest(maker, attack="apgd", extra=extra, status="error")
    nearest(maker, attack="mi-fgsm", extra=extra, radius=0.1)
    lost = nearest(maker, attack="lost", extra=extra)
    (maker.folder / lost.samples).unlink()
    charts = passes(maker)
    assert [chart.title for chart in charts] == ["pgd"]
    write(maker.folder)
    assert (maker.folder / "report.html").read_text().count("Attack success against compute") == 1
