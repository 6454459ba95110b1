"""Export to MLflow: against its file store, and against a real tracking server on SQLite."""

import importlib.util
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.metric import Metric
from robustsuite.evaluation import record_files
from robustsuite.report.export.mlflow_values import figures, flat, name, recipe_parameters, shortened
from robustsuite.report.report import Report
from robustsuite.results import gates
from robustsuite.results.sweeps import main_records

pytest.importorskip("mlflow", reason="needs the extra mlflow")
SERVER = all(importlib.util.find_spec(package) for package in ("sqlalchemy", "alembic", "flask"))
GATES = "gates:\n- {defense: none, attack: pgd, metric: robust_accuracy, at_least: 0.5}\n"


@pytest.fixture(autouse=True)
def _tells_nobody(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A file store, which MLflow 3 still has for those who ask."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "store").as_uri()


@pytest.fixture
def server(tmp_path):
    """A tracking server on SQLite with its own artefacts, on a free port, that answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'tracking.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artefacts")]
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{uri}/health", process)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        log.close()


def _wait_for(url, process):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError("the server does not answer")


def client(uri):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def export(folder, uri, **options):
    from robustsuite.report.export.mlflow_export import export as write

    report = Report.load(folder)
    return write(report, gates.judge(gates.load(folder), report), tracking_uri=uri, **options)


def check(run, uri):
    """What both stores must hold, and that a second export adds nothing."""
    suite = run.folder / "suite.yaml"
    suite.write_text(suite.read_text() + GATES)
    Report.load(run.folder).save(run.folder)
    done = export(run.folder, uri, experiment="tried here")
    held = client(uri)
    assert held.get_experiment_by_name("tried here").experiment_id == done.experiment_id
    parent = held.get_run(done.run_id)
    assert parent.info.run_name == "digits-defences"
    assert parent.info.status == "FAILED"  # a cell raised
    assert parent.data.params["threat.radius"] == "0.3"
    assert [value for key, value in parent.data.tags.items() if key.startswith("gate.")] == ["failed"]
    assert "**Gates: 1 failed.**" in parent.data.tags["mlflow.note.content"]
    artefacts = {found.path for found in held.list_artifacts(done.run_id)}
    assert {"report.html", "results.csv", "table.md", "suite.yaml", "junit.xml", "records.jsonl"} <= artefacts
    assert {"robustsuite.run", "robustsuite.key"} <= parent.data.tags.keys(), "by which a later version finds it again"
    found = held.search_runs([done.experiment_id], f"tags.mlflow.parentRunId = '{done.run_id}'")
    assert {one.data.tags["defense"] for one in found} == {record.defense for record in run.records}
    again = export(run.folder, uri, experiment="tried here")
    assert again == done
    assert len(held.search_runs([done.experiment_id])) == len(found) + 1
    history = held.get_metric_history(done.children["none"], "pgd/robust_accuracy")
    assert [measured.value for measured in history] == [0.0]
    return done, held


def test_a_file_store_holds_a_run_for_each_defence(run, files):
    done, held = check(run, files)
    bare = held.get_run(done.children["none"]).data
    record = next(r for r in run.records if (r.defense, r.attack, r.radius) == ("none", "fgsm", 0.3))
    for end in ("value", "low", "high"):
        key = "fgsm/robust_accuracy" + ("" if end == "value" else f".{end}")
        assert bare.metrics[key] == pytest.approx(getattr(record.metrics["robust_accuracy"], end))
    assert bare.params["recipe.training.epochs"] == "8"
    assert bare.params["attack.pgd.steps"] == "40"
    assert bare.tags["status.pgd"] == "ok"
    private = held.get_run(done.children["dp-sgd"])
    assert private.info.status == "FAILED"
    assert private.data.tags["status.badnets"] == "error"
    assert private.data.metrics["epsilon"] == pytest.approx(2.9968)
    guarded = held.get_run(done.children["input-validation"]).data
    assert guarded.tags["flags.pgd"] == "not-adaptive;few-samples"
    assert guarded.tags["status.model-inversion"] == "not_applicable"


def test_what_is_not_finite_is_a_tag(maker, files):
    facts = {"clean_accuracy": maker.number(0.5), "epsilon": maker.number(math.inf, "nats", "lower")}
    maker.add("dp-sgd", "none", "utility", headline="clean_accuracy", metrics=facts)
    done = export(maker.folder, files)
    held = client(files).get_run(done.children["dp-sgd"]).data
    assert held.metrics == {"clean_accuracy": 0.5}
    assert held.tags["not_finite.epsilon"] == "inf"


def test_a_changed_figure_is_added_to_its_run(maker, files):
    first = maker.add("none", "none", "utility", metrics={"clean_accuracy": maker.number(0.5)}, key="a" * 24)
    one = export(maker.folder, files)
    maker.add("none", "none", "utility", metrics={"clean_accuracy": maker.number(0.75)}, key=first.key)
    two = export(maker.folder, files)
    assert one == two
    history = client(files).get_metric_history(one.children["none"], "clean_accuracy")
    assert [measured.value for measured in history] == [0.5, 0.75]


def test_what_no_longer_holds_is_gone_after_another_export(run, files):
    """A gate, a doubt, an attack and a defence are gone, a figure changed, and another is finite now."""
    suite = run.folder / "suite.yaml"
    planned = re.sub("defenses: .*", "defenses: [none, input-validation]", suite.read_text()).replace("fgsm, ", "")
    suite.write_text(planned + GATES)  # what identifies the run; the gates stand in gates.json then
    (run.folder / "gates.json").write_text("[]")
    first = export(run.folder, files)
    held = client(files)
    report = Report.load(run.folder)
    kept = [r for r in report.records if r.defense in ("none", "input-validation") and r.attack != "fgsm"]
    kept = [replace(r, flags=(), metrics=dict(r.metrics)) for r in kept]
    record_files.write(run.folder / "records.jsonl", kept)
    second = export(run.folder, files)
    names = {r.data.tags.get("defense", "") for r in held.search_runs([second.experiment_id])}
    assert names == {"", "none", "input-validation"}
    fresh = held.get_run(second.children["none"]).data
    assert not [name for kind in (fresh.metrics, fresh.tags, fresh.params) for name in kind if "fgsm" in name]
    assert "pgd/robust_accuracy" in fresh.metrics
    assert not [name for name in held.get_run(second.children["input-validation"]).data.tags if "flags." in name]
    assert held.get_run(first.children["dp-sgd"]).info.lifecycle_stage == "deleted"
    assert export(run.folder, files) == second


def test_a_figure_and_a_parameter_that_changed_are_not_left_behind(maker, files):
    def write(value, steps):
        facts = {"clean_accuracy": maker.number(0.5), "epsilon": maker.number(value, "nats", "lower")}
        maker.add("none", "none", "utility", metrics=facts, key="a" * 24, recipe={"steps": steps})
        return export(maker.folder, files)

    finite, infinite, back = write(2.0, 1), write(math.inf, 1), write(3.0, 2)
    held = client(files)
    (one,) = [r for r in held.search_runs([back.experiment_id]) if "defense" in r.data.tags]
    assert one.info.run_id == back.children["none"]
    assert one.data.metrics == {"clean_accuracy": 0.5, "epsilon": 3.0}
    assert one.data.params == {"recipe.steps": "2"}
    assert "not_finite.epsilon" not in one.data.tags
    assert finite.children["none"] != infinite.children["none"]
    assert held.get_run(infinite.children["none"]).data.metrics == {"clean_accuracy": 0.5}


def test_more_parameters_and_longer_values_than_one_request_takes(maker, files):
    recipe = {f"key{i}": i for i in range(250)} | {"long": "x" * 9000}
    maker.add("none", "none", "utility", recipe=recipe, metrics={"clean_accuracy": maker.number(0.5)})
    params = client(files).get_run(export(maker.folder, files).children["none"]).data.params
    assert params["recipe.key249"] == "249"
    assert len(params["recipe.long"]) == 6000
    assert params["recipe.long"].endswith("…")


def test_labels_that_mlflow_refuses_are_told_apart(maker, files):
    for label in ("pgd(steps=5)", "pgd(steps,5)", "../../x"):
        half = Metric(0.5, 10, unit="rate", better="higher")
        maker.add("a/b'c", label, "evasion", norm="l2", radius=0.1, metrics={"robust_accuracy": half})
    done = export(maker.folder, files)
    metrics = client(files).get_run(done.children["a/b'c"]).data.metrics
    assert len(metrics) == 3
    assert name("pgd(steps=5)", "robust_accuracy") in metrics


def test_a_server_that_does_not_answer_is_named(maker, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    maker.add("none", "none", "utility")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RobustsuiteError, match="tracking_uri='http://127"):
            export(maker.folder, uri)


def test_a_report_without_a_folder_is_refused():
    from robustsuite.report.export.mlflow_export import export as write

    with pytest.raises(RequestError, match="save it first"):
        write(Report([]))


@pytest.mark.slow
@pytest.mark.skipif(not SERVER, reason="needs the whole of MLflow: pip install mlflow")
def test_a_real_server_on_sqlite_holds_the_same(run, server, tmp_path):
    done, held = check(run, server)
    fetched = held.download_artifacts(done.run_id, "report.html", str(tmp_path))
    assert Path(fetched).read_bytes() == (run.folder / "report.html").read_bytes()
    assert held.get_run(done.children["adversarial-training"]).info.status == "FINISHED"


def test_names_and_values():
    assert name("pgd", "robust_accuracy") == "pgd/robust_accuracy"
    assert name("a+b") != name("a_b") == "a_b"
    assert not name(".hidden").startswith(".")
    assert len(name("x" * 300)) == 250
    assert shortened("abc", 2) == "a…"
    assert dict(flat({"a": {"b": [1, {"c": None}]}, "d": ""})) == {"a.b.0": "1"}


def test_figures_are_means_over_repeats(maker):
    for repeat, value in enumerate((0.4, 0.6)):
        rate = Metric(value, 100, value - 0.1, value + 0.1, "rate", "higher")
        maker.add("none", "pgd", "evasion", repeat=repeat, metrics={"robust_accuracy": rate})
    found = figures(main_records(maker.records))
    assert found["pgd/robust_accuracy"] == pytest.approx(0.5)
    assert found["pgd/robust_accuracy.low"] < 0.4
    assert recipe_parameters(maker.records) == {}
