"""Published attacks and defences as a package from elsewhere, installed and played from the command line."""

import csv
import importlib
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from outside import PACKAGE, SUITE, environment, imported, install, lines

from robustsuite.core import roc
from robustsuite.runner.plan import read_data
from robustsuite.suite.load import load_suite

FILES = {file.stem: file for file in sorted(PACKAGE.glob("*.py")) if file.stem != "__init__"}
PUBLIC = ("core", "access", "plugins", "training", "scenarios", "report", "testing")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("outside"))


def start(site, folder, *arguments, **others):
    command = [sys.executable, "-m", "robustsuite", *map(str, arguments)]
    where = {"cwd": folder, "env": environment(site, **others), "start_new_session": True}
    return subprocess.Popen(command, **where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(site, folder, **others):
    process = start(site, folder, "run", "s.yaml", "--out", "run", "--workers", "2", **others)
    told, _ = process.communicate(timeout=500)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def played(site, tmp_path_factory):
    """The folder of a run that was killed and goes on, and what the command said then."""
    folder = tmp_path_factory.mktemp("played")
    (folder / "s.yaml").write_text(SUITE)
    (folder / "data.yaml").write_text(f"{SUITE.split('defenses:')[0]}attacks: [noise]\n")
    process, records = (
        start(site, folder, "run", "s.yaml", "--out", "run", "--workers", "2"),
        folder / "run/records.jsonl",
    )
    until = time.monotonic() + 300
    while not (records.exists() and records.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "run" / "table.md").exists()
    return folder / "run", run(site, folder)


@pytest.fixture(scope="module")
def records(played):
    rows = [json.loads(line) for line in (played[0] / "records.jsonl").read_text().splitlines()]
    return {(row["defense"], row["attack"]): row for row in rows if "defense" in row}


def columns(played, record):
    from safetensors.torch import load_file

    return load_file(played[0] / record["samples"])


@pytest.mark.parametrize("name", FILES)
def test_is_short_and_imports_what_is_given_away(name):
    """At most 60 lines, a scenario with its attacks 200; each name that it imports is given away."""
    assert lines(FILES[name]) <= (200 if name == "membership" else 60)
    for module, names in imported(FILES[name]).items():
        package, _, below = module.partition(".")
        assert (package, below) in {("robustsuite", public) for public in PUBLIC}, module
        given = importlib.import_module(module)
        tools = ("checks", "losses", "roc")  # modules of `core` that everybody may use
        assert set(names) <= {*given.__all__, *(tools if below == "core" else ())}, (module, names)


@pytest.fixture(scope="module")
def seen(site, tmp_path_factory):
    """What one process that finds the package sees: laws that held, and cells with other keys by another population."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "s.yaml").write_text(SUITE)
    where = {"cwd": folder, "env": environment(site), "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", SEES], **where, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SEES = """
import json, pathlib
from robustsuite.runner.plan import plan
from robustsuite.suite.load import load_suite
from robustsuite.testing import attack_laws, defense_laws
text = pathlib.Path("s.yaml").read_text()
found = []
for size in (400, 300):
    pathlib.Path("t.yaml").write_text(text.replace("test: 200", f"test: 200, trusted: 60, population: {size}"))
    found.append({c.defense.label + " " + c.attack.label: c.key for c in plan(load_suite("t.yaml"), "cpu").cells})
changed = sorted(name for name, key in found[0].items() if found[1][name] != key)
laws = [*attack_laws("x-shrinking-steps", steps=4), *attack_laws("x-feature-collision", steps=5)]
laws += [*attack_laws("x-loss-threshold")]
laws += [*attack_laws("x-shadow-threshold"), *defense_laws("x-spectral-signatures")]
laws += [*defense_laws("x-fine-pruning", epochs=1), *defense_laws("x-trades", steps=2)]
for law in laws:
    law()
print(json.dumps({"changed": changed, "kept": [str(law) for law in laws]}))
"""


def test_all_its_plugins_keep_the_laws(seen):
    assert len(seen["kept"]) == 52
    assert {"x-loss-threshold-untrained-null", "x-shadow-threshold-untrained-null"} <= set(seen["kept"])


def test_a_cell_is_played_again_where_its_shadows_learn_from_other_samples(seen):
    named, found = ("none", "x-fine-pruning", "x-spectral-signatures", "x-trades"), set(seen["changed"])
    assert found >= {f"{name} x-shadow-threshold" for name in named}
    assert not {cell for cell in found if cell.endswith((" badnets", " x-loss-threshold", " none"))}


@pytest.mark.slow
def test_every_cell_of_the_suite_is_judged(played, records):
    """Killed with SIGKILL after three records, it goes on to the end without an error, and its gates are judged."""
    assert len(records) == 28
    assert {record["status"] for record in records.values()} == {"ok"}
    assert "passed: x-loss-threshold: membership_auc" in played[1]
    assert "passed: x-trades/x-loss-threshold: membership_auc" in played[1]


@pytest.mark.slow
def test_the_evasion_attack_is_as_strong_as_pgd(records):
    for defense in ("none", "x-trades"):
        found = [records[defense, name]["metrics"]["robust_accuracy"]["value"] for name in ("x-shrinking-steps", "pgd")]
        clean = records[defense, "none"]["metrics"]["clean_accuracy"]["value"]
        assert found[0] <= found[1] + 0.05
        assert found[0] < clean - 0.1


@pytest.mark.slow
def test_feature_collision_hits_targets(records):
    """All four targets are read as wanted where nobody defends, though no label is wrong."""
    undefended = records["none", "x-feature-collision"]
    assert undefended["metrics"]["target_hit_rate"]["value"] >= 0.5
    assert undefended["metrics"]["target_hit_rate"]["n"] >= 3
    assert undefended["metrics"]["poisoned"]["value"] == 50


@pytest.mark.slow
def test_the_filter_reports_what_it_removed(played, records):
    """Scores of every sample are in the record with those that were poisoned; the filter finds most of them."""
    record = records["x-spectral-signatures", "badnets"]
    (stage,) = record["training"]["poisoned"]["prepare"]
    assert stage["is"] == "x-spectral-signatures"
    assert (stage["samples"], stage["samples"] - stage["kept"]) == (500, len(stage["removed"]))
    (payload,) = [p for p in record["payloads"] if p["kind"] == "scores"]
    kept = columns(played, record)
    scores, poisoned = kept[payload["scores"]["tensor"]], kept[payload["positive"]["tensor"]]
    assert (len(scores), int(poisoned.sum())) == (500, 5)
    area = roc.auc(roc.roc(scores, poisoned))
    assert area.low > 0.5
    ids = read_data(load_suite(played[0].parent / "data.yaml")).train.ids  # in the order of the scores
    removed = torch.isin(ids, torch.tensor(stage["removed"]))
    found = int((removed & poisoned).sum())
    assert found / int(poisoned.sum()) >= 0.8  # recall
    assert found / int(removed.sum()) >= 0.05  # precision: fifteen of a hundred go, and one of a hundred is poisoned
    attacked = records["x-spectral-signatures", "badnets"]["metrics"]["backdoor_success_rate"]
    assert attacked["high"] < records["none", "badnets"]["metrics"]["backdoor_success_rate"]["low"]


@pytest.mark.slow
def test_the_repair_weakens_the_backdoor(records):
    before, after = (records[name, "badnets"]["metrics"] for name in ("none", "x-fine-pruning"))
    name = "backdoor_success_rate"
    assert after[name]["high"] < before[name]["low"]
    assert after["clean_accuracy"]["value"] > before["clean_accuracy"]["value"] - 0.1
    assert records["x-fine-pruning", "none"]["training"]["repair"] == [
        {"is": "x-fine-pruning", "pruned": 64, "units": 128}
    ]


@pytest.mark.slow
def test_trades_makes_robust(records):
    undefended, hardened = (records[name, "pgd"]["metrics"]["robust_accuracy"] for name in ("none", "x-trades"))
    assert hardened["low"] > undefended["high"]


@pytest.mark.slow
def test_its_scenario_stands_in_table_csv_and_report(played):
    folder, _ = played
    head = (folder / "table.md").read_text().splitlines()[0]
    assert "x-loss-threshold<br>membership AUC ↓" in head
    assert "x-loss-threshold, members found at 1 % false alarms<br>% ↓" in head
    with (folder / "results.csv").open() as file:
        found = {(row["defense"], row["attack"], row["metric"]): row for row in csv.DictReader(file)}
    assert found["none", "x-shadow-threshold", "membership_auc"]["unit"] == "area"
    page = (folder / "report.html").read_text()
    curves = page.split('<section id="panel-roc">', 1)[1].split("</section>", 1)[0]
    assert "x-loss-threshold · scores of members" in curves
    assert "badnets · spectral score of poisoned samples" in curves
    assert '<section id="panel-x-score-spread">' in page


@pytest.mark.slow
def test_the_killed_run_has_the_table_of_one_that_was_not(site, played, tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE)
    run(site, tmp_path, ROBUSTSUITE_CACHE=str(tmp_path / "cache"))
    assert (tmp_path / "run" / "table.md").read_text() == (played[0] / "table.md").read_text()


OVERFITTED = """
import json
from dataclasses import replace
import torch
from robustsuite.core import Served
from robustsuite.plugins import attack
from robustsuite.scenarios import SCENARIOS
from robustsuite.scenarios.play import play
from robustsuite.testing import tiny_samples, tiny_victim
from robustsuite.training import Training

def noisy(n, first):
    samples = tiny_samples(n, first=first)
    wrong = torch.rand(n, generator=torch.Generator().manual_seed(first)) < 0.4
    return replace(samples, y=torch.where(wrong, (samples.y + 1) % 4, samples.y))

victim = tiny_victim()
recipe = replace(victim.recipe, training=Training(epochs=100, lr=1e-2, batch_size=32, validation=0.2, keep_best=False))
train, test = noisy(250, 0), noisy(200, 10_000)
trained = victim.trainer(recipe, train)
victim = replace(victim, model=trained.model, recipe=recipe, train=train, test=test, trained=trained)
with torch.random.fork_rng():
    torch.manual_seed(1)
    blank = recipe.build(4, (1, 8, 8), (0.0, 1.0)).eval()
found = {}
many = replace(victim, model=Served(blank), train=noisy(1000, 30_000), test=noisy(1000, 40_000), trained=None)
for name, access in (("x-loss-threshold", "score-based"), ("x-shadow-threshold", "shadows")):
    game = SCENARIOS["x-membership"](access=access, candidates=1000, shadows=1)
    for kind, whom in (("learnt", victim), ("blank", many)):
        metrics = play(attack(name), game, whom, seed=0)
        member, ids = metrics.per_sample["member"], metrics.per_sample["id"]
        held = int((~torch.isin(ids[member], trained.learnt)).sum())
        found[f"{name} {kind}"] = [metrics.values["membership_auc"].low, metrics.values["membership_auc"].high,
                                   int(member.sum()), held, metrics.cost["queries"]]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_members_of_an_overfitted_victim_are_found_and_of_an_untrained_one_not(site):
    """Members are what batches were made of: of 250 training samples 50 were held out, and 200 are candidates."""
    words = [sys.executable, "-c", OVERFITTED]
    done = subprocess.run(words, env=environment(site), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("x-loss-threshold", "x-shadow-threshold"):
        low, _, members, held, queries = found[f"{name} learnt"]
        assert (low > 0.6, members, held, queries) == (True, 200, 0, 400)
        low, high, members, *_ = found[f"{name} blank"]
        assert low <= 0.5 <= high <= 0.55
        assert members == 1000
