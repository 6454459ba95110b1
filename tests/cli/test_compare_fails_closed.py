"""What the old run measured and the new one cannot answer for never passes: by command, and in pytest."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.core.intervals import rate
from robustsuite.evaluation.record_files import append, read, save_samples
from robustsuite.evaluation.record_files import write as rewritten
from robustsuite.evaluation.records import Record
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.results.deciding import GateFailure, Outcome

N, ATTACKS, DEFENSES = 120, ("fgsm", "pgd"), ("none", "ours")


def write(folder, key, order, columns, metric, **fields):
    holds = next(column for name, column in columns.items() if name not in ("id", "counted"))
    record = Record(
        **{
            "key": key,
            "order": order,
            "suite": "s",
            "dataset": "digits",
            "model": "cnn",
            "headline": metric,
            "metrics": {metric: rate(holds, "higher")},
            **fields,
        }
    )
    path, digest = save_samples(folder, key, columns)
    append(folder / "records.jsonl", replace(record, samples=path, samples_digest=digest))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with two defences, two repeats, the clean evaluation, evasion and poisoning."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    order, ids = 0, torch.arange(N)
    for defense in DEFENSES:
        for repeat in (0, 1):
            common = {"defense": defense, "repeat": repeat, "seed": repeat}
            key = f"{defense}{repeat}"
            columns = {"id": ids, "clean_correct": ids < 110}
            write(folder, f"{key}clean", order, columns, "clean_accuracy", attack="none", scenario="utility", **common)
            for strength, attack in enumerate(ATTACKS):
                ball = {"norm": "linf", "radius": 0.3, "knowledge": "white-box"}
                shape = {"attack_parameters": {"is": attack}, "rules": {"goal": "untargeted", "query_budget": 100}}
                columns = {"id": ids, "robust": ids < 60 - 20 * strength}
                place = {"attack": attack, "scenario": "evasion", **ball, **shape, **common}
                write(folder, key + attack, order + 1 + strength, columns, "robust_accuracy", **place)
            columns = {"id": ids, "hit": ids < 20, "counted": ids >= 10}
            place = {"attack": "badnets", "scenario": "poisoning", "rules": {"fraction": 0.01}, **common}
            write(folder, f"{key}badnets", order + 3, columns, "backdoor_success_rate", **place)
            order += 4
    return folder


@pytest.fixture
def pair(tmp_path, whole):
    """Two runs that agree on every sample."""
    for side in ("old", "new"):
        shutil.copytree(whole, tmp_path / side)
    return tmp_path


def change(folder, keep=lambda record: True, **fields):
    """Write the records anew: without those that are not kept; `fields` give new values of a record's own."""
    kept = [record for record in read(folder / "records.jsonl") if keep(record)]
    made = [replace(r, **{name: give(r) for name, give in fields.items()}) for r in kept]
    rewritten(folder / "records.jsonl", made)


def by_command(home, *options):
    done = CliRunner().invoke(app, ["compare", str(home / "old"), str(home / "new"), "--json", *options])
    return done.exit_code, json.loads(done.stdout)


def in_pytest(home, **options):
    held = Robustness("t.py::test", root=home)
    try:
        return held.assert_no_regression(home / "new", baseline="old", **options), ""
    except GateFailure as failure:
        return None, str(failure)


def pgd(record):
    return record.attack == "pgd" and record.defense == "ours"


def of(what, give, kept):
    """A field that is given to some records and kept by the others."""
    return lambda record: give if what(record) else kept(record)


def tamper(folder):
    """Other outcomes in the file of one record, which describes the file as it was."""
    record = next(r for r in read(folder / "records.jsonl") if pgd(r))
    content = (folder / record.samples).read_bytes()
    (folder / record.samples).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert hashlib.sha256((folder / record.samples).read_bytes()).hexdigest() != record.samples_digest


def lose(folder):
    record = next(r for r in read(folder / "records.jsonl") if pgd(r))
    (folder / record.samples).unlink()


def status(value):
    return lambda h: change(
        h / "new", status=of(pgd, value, lambda r: r.status), metrics=of(pgd, {}, lambda r: r.metrics)
    )


LOST = {
    "attack": (lambda h: change(h / "new", lambda r: r.attack != "pgd"), "none x pgd, robust_accuracy (missing"),
    "defence": (lambda h: change(h / "new", lambda r: r.defense != "ours"), "ours x none, clean_accuracy (missing"),
    "all attack rows": (lambda h: change(h / "new", lambda r: r.attack == "none"), "none x fgsm, robust_accuracy"),
    "repeat": (lambda h: change(h / "new", lambda r: r.repeat == 0), "none x none, clean_accuracy (missing: 1 of 2"),
    "interrupted": (lambda h: change(h / "new", lambda r: r.order < 8), "ours x none, clean_accuracy (missing"),
    "metric": (
        lambda h: change(h / "new", metrics=of(pgd, {"other": rate(torch.ones(9), "higher")}, lambda r: r.metrics)),
        "ours x pgd, robust_accuracy (missing",
    ),
}
OTHER = {
    "radius": (
        lambda h: change(h / "new", radius=lambda r: 0.1 if r.radius else None),
        "none x fgsm, robust_accuracy (not comparable: other threat: linf 0.3, now linf 0.1)",
    ),
    "radius of one attack": (
        lambda h: change(h / "new", radius=of(lambda r: r.attack == "pgd", 0.1, lambda r: r.radius)),
        "none x pgd, robust_accuracy (not comparable: other threat: linf 0.3, now linf 0.1)",
    ),
    "norm": (
        lambda h: change(h / "new", norm=lambda r: "l2" if r.radius else ""),
        "(not comparable: other threat: linf 0.3, now l2 0.3)",
    ),
    "knowledge": (
        lambda h: change(h / "new", knowledge=of(pgd, "score-based", lambda r: r.knowledge)),
        "ours x pgd, robust_accuracy (not comparable: other threat: white-box, now score-based)",
    ),
    "knowledge of one repeat": (
        lambda h: change(h / "new", knowledge=of(lambda r: pgd(r) and r.repeat, "score-based", lambda r: r.knowledge)),
        "ours x pgd, robust_accuracy (not comparable: other threat: white-box, now score-based)",
    ),
    "goal": (
        lambda h: change(h / "new", rules=of(pgd, {"goal": "targeted", "query_budget": 100}, lambda r: r.rules)),
        "(not comparable: other rules (goal untargeted, now targeted))",
    ),
    "query budget": (
        lambda h: change(h / "new", rules=of(pgd, {"goal": "untargeted", "query_budget": 9}, lambda r: r.rules)),
        "(not comparable: other rules (query_budget 100, now 9))",
    ),
    "poison fraction": (
        lambda h: change(h / "new", rules=lambda r: {"fraction": 0.001} if r.attack == "badnets" else r.rules),
        "none x badnets, backdoor_success_rate (not comparable: other rules (fraction 0.01, now 0.001))",
    ),
    "settings of the attack": (
        lambda h: change(
            h / "new", attack_parameters=of(pgd, {"is": "pgd", "steps": 1}, lambda r: r.attack_parameters)
        ),
        "(not comparable: the attack differs (steps unset, now 1))",
    ),
    "samples": (
        lambda h: change(h / "new", samples=of(pgd, "", lambda r: r.samples)),
        "(not comparable: no outcomes per sample were stored)",
    ),
    "file tampered with, new": (lambda h: tamper(h / "new"), "as its record describes it, got another digest"),
    "file tampered with, old": (lambda h: tamper(h / "old"), "as its record describes it, got another digest"),
    "file missing, new": (lambda h: lose(h / "new"), "expected the per-sample file of ours0pgd, got no"),
    "file missing, old": (lambda h: lose(h / "old"), "expected the per-sample file of ours0pgd, got no"),
    "inconclusive": (
        lambda h: change(h / "new", status=of(pgd, "inconclusive", lambda r: r.status)),
        "ours x pgd, robust_accuracy (newly withheld)",
    ),
    "in doubt": (
        lambda h: change(h / "new", flags=of(pgd, ("zero-gradients",), lambda r: r.flags)),
        "ours x pgd, robust_accuracy (newly withheld)",
    ),
    "in a doubt that nobody knows": (
        lambda h: change(h / "new", flags=of(pgd, ("made-up",), lambda r: r.flags)),
        "ours x pgd, robust_accuracy (newly withheld)",
    ),
    "other inputs": (
        lambda h: [change(h / s, data=of(pgd, {"digest": s, "n": 9}, lambda r: r.data)) for s in ("old", "new")],
        "(not comparable: other samples: as many as before, with other inputs or labels)",
    ),
    "not run": (status("not_run"), "ours x pgd, robust_accuracy (newly withheld: ok, now not run)"),
    "not applicable": (
        status("not_applicable"),
        "ours x pgd, robust_accuracy (newly withheld: ok, now not applicable)",
    ),
}


def test_what_is_whole_passes(pair):
    code, found = by_command(pair)
    assert (code, found["outcome"]) == (0, "passed")
    assert not [row for row in found["rows"] if row["gap"]]
    assert in_pytest(pair)[0].outcome is Outcome.PASSED


@pytest.mark.parametrize("how", [*LOST, *OTHER])
def test_what_is_gone_hidden_or_changed_is_inconclusive_and_named(pair, how):
    spoil, told = {**LOST, **OTHER}[how]
    spoil(pair)
    code, found = by_command(pair)
    assert (code, found["outcome"]) == (3, "inconclusive")
    assert told in found["summary"]
    verdict, failure = in_pytest(pair)
    assert verdict is None
    assert failure.startswith("inconclusive: against")
    assert told in failure


@pytest.mark.parametrize("how", [*LOST, *OTHER])
def test_only_what_is_missing_can_be_excused(pair, how):
    spoil, _ = {**LOST, **OTHER}[how]
    spoil(pair)
    code, _ = by_command(pair, "--allow-missing")
    verdict, _ = in_pytest(pair, allow_missing=True)
    assert (code, verdict is not None) == ((0, True) if how in LOST else (3, False))


@pytest.mark.parametrize("how", ["attack", "radius", "knowledge", "file tampered with, old", "inconclusive", "not run"])
def test_a_regression_outranks_what_is_gone(pair, how):
    spoil, _ = {**LOST, **OTHER}[how]
    spoil(pair)
    for record in read(pair / "new" / "records.jsonl"):
        if record.scenario == "utility" and record.defense == "none":
            columns = {"id": torch.arange(N), "clean_correct": torch.arange(N) < 20}
            _, digest = save_samples(pair / "new", record.key, columns)
            change(
                pair / "new",
                samples_digest=of(lambda r, key=record.key: r.key == key, digest, lambda r: r.samples_digest),
            )
    assert by_command(pair)[0] == 1
    assert in_pytest(pair)[1].startswith("failed: against")


def test_a_cell_that_raises_now_fails(pair):
    status("error")(pair)
    assert by_command(pair)[0] == 1
    assert by_command(pair, "--allow-missing")[0] == 1
    assert in_pytest(pair)[1].startswith("failed: against")


def test_only_the_figures_asked_for_are_looked_at(pair):
    change(pair / "new", lambda r: r.attack != "badnets")
    assert by_command(pair)[0] == 3
    assert by_command(pair, "--metric", "robust_accuracy", "--metric", "clean_accuracy")[0] == 0
    assert by_command(pair, "--metric", "backdoor_success_rate")[0] == 3
    change(pair / "new", lambda r: r.defense == "none")
    assert by_command(pair, "--metric", "robust_accuracy")[0] == 3, "a cell that is gone is told of under every figure"


def test_how_many_cells_are_gone_is_counted_once_each(pair):
    change(pair / "new", lambda r: r.defense == "none")
    assert "4 cells that the old run measured lack a counterpart" in by_command(pair)[1]["summary"]
    assert "; the first: ours x none, clean_accuracy (missing)." in by_command(pair)[1]["summary"]


def test_what_only_the_new_run_has_is_no_gap(pair):
    change(pair / "old", lambda r: r.attack != "pgd" and r.repeat == 0)
    assert by_command(pair)[0] == 0


def test_what_the_old_run_had_not_measured_is_no_gap(pair):
    for side in ("old", "new"):
        change(pair / side, status=of(pgd, "not_run", lambda r: r.status), metrics=of(pgd, {}, lambda r: r.metrics))
    change(pair / "new", lambda r: not pgd(r))
    assert by_command(pair)[0] == 0


# --- The worst case


def worst(found, defense="ours"):
    return next(r for r in found["rows"] if (r["attack"], r["defense"]) == ("worst-case", defense))


def test_a_worst_case_over_fewer_attacks_is_not_compared_unless_it_is_excused(pair):
    change(pair / "new", lambda r: r.attack != "pgd")
    row = worst(by_command(pair)[1])
    assert (row["verdict"], row["gap"], row["old"]) == ("not comparable", "missing", None)
    assert row["message"].startswith("fewer attacks or repeats than before: pgd")
    row = worst(by_command(pair, "--allow-missing")[1])
    assert (row["verdict"], row["old"], row["new"]) == ("no evidence", 0.5, 0.5)
    assert row["message"] == "over fgsm only, which both runs judged"


def follow_up(folder, rules, robust, defense="ours"):
    """Give the records of a defence's PGD a verdict below its own number, and the rules that led there."""
    for record in read(folder / "records.jsonl"):
        if record.attack == "pgd" and record.defense == defense:
            columns = {"id": torch.arange(N), "robust": torch.arange(N) < 40, "verdict": torch.arange(N) < robust}
            _, digest = save_samples(folder, record.key, columns)
            mine = {"samples_digest": digest, "review": {"rules": rules}}
            key = record.key
            change(
                folder,
                **{
                    name: lambda r, n=name, v=value, key=key: v if r.key == key else getattr(r, n)
                    for name, value in mine.items()
                },
            )


def test_a_verdict_below_an_attacks_own_number_is_what_the_worst_case_compares(pair):
    follow_up(pair / "old", "abc", 40)
    follow_up(pair / "new", "abc", 0)
    code, found = by_command(pair)
    assert (worst(found)["old"], worst(found)["new"]) == (40 / N, 0.0)
    assert (code, worst(found)["verdict"]) == (1, "regression")
    own = next(r for r in found["rows"] if (r["attack"], r["defense"]) == ("pgd", "ours"))
    assert (own["old"], own["new"], own["verdict"]) == (40 / N, 40 / N, "no evidence")


@pytest.mark.parametrize("before", ["abc", ""])
def test_other_rules_of_follow_ups_are_not_blamed_on_the_model(pair, before):
    follow_up(pair / "old", before, 40)
    follow_up(pair / "new", "xyz", 0)
    code, found = by_command(pair)
    assert (code, worst(found)["verdict"], worst(found)["gap"]) == (3, "not comparable", "not comparable")
    assert worst(found)["message"] == "followed up by other rules"
    assert worst(found, "none")["verdict"] == "no evidence"
    own = next(r for r in found["rows"] if (r["attack"], r["defense"]) == ("pgd", "ours"))
    assert own["p"] is not None, "the attack's own number is compared"
    assert "ours x worst-case, robust_accuracy (not comparable: followed up by other rules)" in found["summary"]


def test_one_attack_has_a_worst_case_where_it_was_followed_up(pair):
    for side, robust in (("old", 40), ("new", 10)):
        change(pair / side, lambda r: r.attack != "fgsm")
        follow_up(pair / side, "abc", robust)
    code, found = by_command(pair)
    assert (code, worst(found)["verdict"]) == (1, "regression")
    assert not [r for r in found["rows"] if (r["attack"], r["defense"]) == ("worst-case", "none")]


# --- What real runs write


def test_a_record_says_the_rules_of_its_game(tmp_path):
    x = torch.linspace(0, 1, 120).reshape(-1, 1)
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 2)
    for name, budget in (("old", 50), ("new", 5)):
        threat = rs.Threat(ball=rs.Ball("linf", 0.1), query_budget=budget)
        attack = rs.attack("square", queries=5)
        rs.evaluate(model, (x, (x[:, 0] > 0.5).long()), [attack], threat).save(tmp_path / name)
    code, found = by_command(tmp_path)
    assert code == 3
    assert "(not comparable: other rules (query_budget 50, now 5))" in found["summary"]


SUITE = """\
name: release
dataset: {name: digits, train: 200, test: 100}
model: {name: logistic}
training: {epochs: 1, batch_size: 50, lr: 1.0e-2, validation: 0.0}
defenses: [none]
attacks: [{badnets: {fraction: FRACTION}}]
"""


def test_a_run_says_the_rules_of_its_games(tmp_path):
    for name, fraction in (("old", 0.02), ("new", 0.01)):
        suite = tmp_path / f"{name}.yaml"
        suite.write_text(SUITE.replace("FRACTION", str(fraction)))
        done = CliRunner().invoke(app, ["run", str(suite), "--out", str(tmp_path / name), "--workers", "1", "--quiet"])
        assert done.exit_code == 0, done.output
    code, found = by_command(tmp_path)
    assert code == 3
    assert "(not comparable: other rules (fraction 0.02, now 0.01))" in found["summary"]
