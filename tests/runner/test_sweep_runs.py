"""Suites with lists, really run: keys that stay, a verdict in each ball, lines in the report."""

import shutil
from collections import Counter

import pytest

from robustsuite.core.gate import Gate
from robustsuite.core.payloads import Sweep
from robustsuite.evaluation.record_files import read, write
from robustsuite.report.exhibits import exhibits
from robustsuite.results.gates import judge
from robustsuite.results.results import Results
from robustsuite.runner.plan import plan
from robustsuite.runner.replay import replay
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite

SUITE = """
name: swept
dataset: {name: digits, train: 300, test: 40}
model: {name: logistic}
training: {epochs: 1, lr: 5.0e-3, batch_size: 32}
threat: [{norm: linf, radius: [0.1, 0.3]}, {norm: l2, radius: 1}]
defenses: [{none: {training: {epochs: [1, 3]}}}, adversarial-training]
attacks: [fgsm, {noise: {label: blind}}, {badnets: {fraction: [0.05, 0.2], size: 2}}]
gates: ['robust_accuracy>=0.01']
"""
BALLS = [("linf", 0.1), ("linf", 0.3), ("l2", 1.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("swept") / "s.yaml"
    path.write_text(SUITE)
    assert run(load_suite(path), path.parent / "run", cached=False).errors == 0
    return path.parent / "run"


def planned(tmp_path, text=SUITE):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return plan(load_suite(path), "cpu")


def keys(layout):
    return {cell.key for cell in layout.cells}


# --- keys


@pytest.mark.parametrize(
    ("one", "more", "added"),
    [
        ("[0.05, 0.2]", "[0.02, 0.05, 0.2]", 3),
        ("[0.1, 0.3]", "[0.1, 0.3, 0.5]", 6),
        ("[1, 3]", "[1, 3, 2]", 9),
        ("radius: 1}", "radius: [1, 2]}", 6),
    ],
)
def test_a_value_more_keeps_the_keys_of_the_others(tmp_path, one, more, added):
    before, after = planned(tmp_path), planned(tmp_path, SUITE.replace(one, more))
    assert keys(before) < keys(after)
    assert len(keys(after)) - len(keys(before)) == added


def test_what_a_run_wrote_down_has_the_same_keys(folder):
    assert keys(plan(load_suite(folder / "suite.yaml"), "cpu")) == {
        record.key for record in Results.load(folder).records
    }


def test_a_variant_has_the_content_of_the_same_game_by_itself(tmp_path):
    swept = {cell.attack.label: cell.content for cell in planned(tmp_path).cells if cell.defense.label[:4] == "none"}
    alone = SUITE.replace("[{norm: linf, radius: [0.1, 0.3]}, {norm: l2, radius: 1}]", "{norm: linf, radius: 0.1}")
    alone = alone.replace("[0.05, 0.2]", "0.2")
    games = {
        c.attack.label: c.content
        for c in planned(tmp_path, alone).cells
        if c.defense.label[:4] == "none" and not c.curve
    }
    assert swept["fgsm(radius=0.1)"] == games["fgsm"]
    assert swept["badnets(fraction=0.2)"] == games["badnets"]


def test_adversarial_training_without_a_radius_trains_at_the_first(tmp_path):
    layout = planned(tmp_path)
    recipe = layout.resolver.recipe(layout.suite.defense("adversarial-training"))
    assert (recipe.threat.norm, recipe.threat.radius) == BALLS[0]
    assert "train at linf 0.1" in layout.describe()


def test_a_dry_run_counts_the_variants(tmp_path):
    told = planned(tmp_path).describe()
    assert "3 defences x 8 attacks" in told
    assert "27 cells" in told
    assert "sweep of none over training.epochs: 2 variants" in told
    assert "sweep of blind over radius: 3 variants" in told


# --- what came out


def test_records_say_of_which_sweep_they_are_a_point(folder):
    found = next(r for r in read(folder / "records.jsonl") if r.attack == "badnets(fraction=0.2)")
    assert found.variant == {
        "defense": {"of": "none", "at": {"training.epochs": 1}},
        "attack": {"of": "badnets", "at": {"fraction": 0.2}},
    }
    assert found.rules["fraction"] == 0.2
    assert found.sweep == ""


def test_each_ball_has_a_worst_case_of_its_own(folder):
    results = Results.load(folder)
    for defense in dict.fromkeys(record.defense for record in results.records):
        worst = [r for r in results.joined if r.attack == "worst-case" and r.defense == defense]
        assert [(r.norm, r.radius) for r in worst] == BALLS
        for joined in worst:
            alone = [
                r.metrics["robust_accuracy"].value
                for r in results.records
                if r.defense == defense and (r.norm, r.radius) == (joined.norm, joined.radius)
            ]
            assert len(alone) == 2
            assert joined.metrics["robust_accuracy_own"].value <= min(alone)


def test_a_larger_ball_joins_nothing_of_a_smaller_one(folder):
    """Every sample is broken in the middle ball, and no other verdict hears of it."""
    results = Results.load(folder)
    before = {(r.defense, r.norm, r.radius): r.metrics for r in results.joined if r.attack == "worst-case"}
    kept = [r for r in results.records if r.radius != 0.3]
    after = Results(kept, folder=folder).joined
    assert {(r.defense, r.norm, r.radius): r.metrics for r in after if r.attack == "worst-case"} == {
        place: metrics for place, metrics in before.items() if place[2] != 0.3
    }


def test_the_table_has_a_verdict_for_each_ball_and_a_column_for_each_variant(folder):
    table = Results.load(folder).comparison
    titles = [column.title for column in table.columns]
    assert [t for t in titles if t.startswith("verdict")] == [
        "verdict (linf radius 0.1)",
        "verdict (linf radius 0.3)",
        "verdict (l2 radius 1)",
    ]
    assert {"fgsm(radius=0.3)", "blind(norm=l2,radius=1)", "badnets(fraction=0.05)"} <= set(titles)
    assert len(titles) == len(set(titles))
    assert all(cell.value is not None for row in table.cells for cell in row)


def test_the_csv_tells_the_balls_apart(folder):
    frame = Results.load(folder).frame
    verdicts = frame[(frame.attack == "worst-case") & (frame.metric == "robust_accuracy")]
    assert Counter(zip(verdicts.norm, verdicts.radius, strict=True)) == dict.fromkeys(BALLS, 3)


def test_a_gate_on_the_verdict_must_hold_in_every_ball(folder):
    verdicts = judge(
        [Gate(metric="robust_accuracy", at_least=0.01, defense="adversarial-training")], Results.load(folder)
    )
    assert [v.at for v in verdicts] == ["linf radius 0.1", "linf radius 0.3", "l2 radius 1"]
    assert len({v.asked for v in verdicts}) == 3


def test_an_attack_that_was_not_run_leaves_open_its_own_ball_alone(folder, tmp_path):
    (tmp_path / "suite.yaml").write_bytes((folder / "suite.yaml").read_bytes())
    write(tmp_path / "records.jsonl", [r for r in read(folder / "records.jsonl") if r.attack != "fgsm(radius=0.3)"])
    (tmp_path / "samples").symlink_to(folder / "samples")
    worst = [r for r in Results.load(tmp_path).joined if r.attack == "worst-case"]
    assert {(r.radius, r.status == "inconclusive") for r in worst if r.norm == "linf"} == {(0.1, False), (0.3, True)}


def test_a_variant_is_played_again_by_its_label(folder):
    record = next(r for r in read(folder / "records.jsonl") if r.attack == "fgsm(radius=0.3)")
    assert replay(folder, record.key).agrees


def test_the_report_draws_each_sweep_as_a_line(folder):
    results = Results.load(folder)
    found = exhibits(results.records, results.joined, folder, {})
    lines = [(e.record.attack, e.record.defense, e.payload) for e in found if isinstance(e.payload, Sweep)]
    xs = {(a, d, p.title, p.over): [x for x, _ in p.points] for a, d, p in lines}
    assert xs["badnets", "adversarial-training", "backdoor success", "fraction"] == [0.05, 0.2]
    assert xs["fgsm", "adversarial-training", "robust accuracy", "radius (linf)"] == [0.1, 0.3]
    assert xs["worst-case", "adversarial-training", "robust accuracy", "radius (linf)"] == [0.1, 0.3]
    assert xs["none", "none", "clean accuracy", "training.epochs"] == [1.0, 3.0]
    assert xs["verdict (l2 radius 1)", "none", "robust accuracy", "training.epochs"] == [1.0, 3.0]
    assert not any("l2" in over for _, _, _, over in xs)
    assert not any(title == "attack success" for _, _, title, _ in xs)
    accuracy = next(p for a, d, p in lines if (a, d, p.over) == ("badnets", "adversarial-training", "fraction"))
    record = next(
        r for r in results.records if (r.attack, r.defense) == ("badnets(fraction=0.2)", "adversarial-training")
    )
    assert accuracy.points[1][1].value == record.figures["backdoor_success_rate"].value


def test_a_run_goes_on_to_a_value_more(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("[0.05, 0.2]", "[0.05, 0.2, 0.4]"))
    outcome = run(load_suite(path), tmp_path / "run", cached=False)
    assert (outcome.reused, outcome.errors) == (27, 0)
    before = {r.key: r.metrics for r in read(folder / "records.jsonl")}
    after = {r.key: r.metrics for r in read(tmp_path / "run" / "records.jsonl")}
    assert len(after) == 30
    assert all(after[key] == metrics for key, metrics in before.items())
