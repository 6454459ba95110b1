"""A run as MLflow runs: one for the suite, and one nested in it for each defence.

Needs the extra `mlflow` (its client is enough). Figures of the comparison are metrics, `pgd/robust_accuracy` with its
interval beside it, over all repeats and at the suite's own radius; single repeats and curves stand in the CSV among the
artefacts. MLflow stores an infinite metric as 1.8e308, so what is not finite is a tag instead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from robustsuite.core import checks
from robustsuite.core.canonical import digest
from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.version import __version__
from robustsuite.report.export import mlflow_values as told
from robustsuite.report.export.step_summary import step_summary, within
from robustsuite.report.files import NAMES
from robustsuite.results.sweeps import finished, main_records

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record
    from robustsuite.results.deciding import Verdict
    from robustsuite.results.results import Results

EXPERIMENT: Final = "robustsuite"
_PARAMETER, _TAG, _BATCH = 6000, 5000, 100  # longest values, and most parameters or tags at once, that MLflow takes
_RUN, _KEY = "robustsuite.run", "robustsuite.key"  # tags by which runs of earlier versions are found again
_ARTEFACTS: Final = (*NAMES.values(), "suite.yaml", "gates.json", "records.jsonl")


@dataclass(frozen=True)
class Exported:
    """Where a run lies in MLflow.

    Args:
        tracking_uri: The tracking server.
        experiment_id: The experiment.
        run_id: The suite's run.
        children: Defence -> its run.
    """

    tracking_uri: str
    experiment_id: str
    run_id: str
    children: Mapping[str, str]


class _Wanted(NamedTuple):
    """What one run is to hold."""

    key: str
    name: str
    records: Sequence[Record]
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    figures: Mapping[str, float]
    artefacts: Sequence[str]


def export(
    report: Results,
    judged: Sequence[Verdict] = (),
    *,
    tracking_uri: str | None = None,
    experiment: str = EXPERIMENT,
) -> Exported:
    """Write a run to a tracking server; a second time it is brought up to date, not written twice.

    Runs are found again by a tag made of the resolved suite (of the records' keys, where there is none) and the version
    of robustsuite. What has changed since is written over, and tags that no longer hold are taken away. MLflow can
    neither change a parameter nor take away a metric or a file: a run that would need that is deleted (MLflow can
    restore it) and written anew. So is that of a defence that is gone.

    Args:
        report: What was measured, with its folder.
        judged: Verdicts on the gates that were asked for.
        tracking_uri: The server, or `sqlite:///file.db` where the whole of MLflow is installed; None for MLflow's own
            setting (`MLFLOW_TRACKING_URI`).
        experiment: Name of the experiment, made where it is not there.

    Raises:
        RequestError: MLflow is not installed, or the report has no folder.
        RobustsuiteError: The tracking server refuses or does not answer.
    """
    if report.folder is None:
        raise checks.fail("a report with a folder", "folder", None, "save it first: report.save(folder)")
    try:
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise RequestError("expected the package mlflow, got none; pip install 'robustsuite[mlflow]'") from error
    try:
        return _export(report, report.folder, judged, _Store(tracking_uri, experiment))
    except MlflowException as error:
        raise RobustsuiteError(
            f"expected a tracking server that takes the run, got tracking_uri={tracking_uri!r}; MLflow says: {error}"
        ) from error


def _export(report: Results, folder: Path, judged: Sequence[Verdict], store: _Store) -> Exported:
    key = _identity(report.records, folder)
    when = finished(folder)
    ended = None if when is None else int(1000 * when.timestamp())
    title = ", ".join(dict.fromkeys(record.suite for record in report.records))
    gates = {f"gate.{told.name(v.asked)}": v.outcome.value for v in judged}
    summary = within(step_summary(report, judged), _TAG).decode()
    facts = {**told.facts(report.records), **gates, _RUN: key, _KEY: key, "mlflow.note.content": summary}
    artefacts = [name for name in _ARTEFACTS if (folder / name).is_file()]
    parent = store.put(_Wanted(key, title, report.records, facts, told.suite_parameters(folder), {}, artefacts), ended)
    for artefact in artefacts:
        store.client.log_artifact(parent, str(folder / artefact))
    shown = main_records(report.joined)
    children = {}
    for defense in dict.fromkeys(record.defense for record in report.records):
        records = [record for record in report.records if record.defense == defense]
        own = digest([key, defense])
        tags = {**told.doubts(records), "defense": defense, _RUN: key, _KEY: own, "mlflow.parentRunId": parent}
        figures = told.figures([record for record in shown if record.defense == defense])
        wanted = _Wanted(own, defense, records, tags, told.recipe_parameters(records), figures, ())
        children[defense] = child = store.put(wanted, ended)
        store.end(child, records, ended)
    store.leave_only(key, {parent, *children.values()})
    store.end(parent, report.records, ended)
    return Exported(store.uri, store.experiment_id, parent, children)


def _identity(records: Sequence[Record], folder: Path) -> str:
    """The same for every run of the same suite, finished or not."""
    suite = folder / "suite.yaml"
    asked = suite.read_text(encoding="utf-8") if suite.is_file() else sorted(record.key for record in records)
    return digest([__version__, asked])


class _Store:
    """One experiment of a tracking server."""

    def __init__(self, tracking_uri: str | None, experiment: str) -> None:
        from mlflow.tracking import MlflowClient, get_tracking_uri

        self.uri = get_tracking_uri() if tracking_uri is None else tracking_uri
        self.client: Any = MlflowClient(tracking_uri=self.uri)
        found = self.client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            remedy = "restore it, or name another"
            raise checks.fail("an experiment that is not deleted", "experiment", experiment, remedy)
        self.experiment_id = self.client.create_experiment(experiment) if found is None else found.experiment_id

    def put(self, wanted: _Wanted, ended: int | None) -> str:
        """Bring the run with this key up to date and return its id; it lasts as long as its cells took.

        It is made where there is none, or where the one there is holds something that MLflow cannot take away.
        """
        parameters = {name: told.shortened(value, _PARAMETER) for name, value in wanted.parameters.items()}
        figures = {name: value for name, value in wanted.figures.items() if math.isfinite(value)}
        odd = {f"not_finite.{name}": str(value) for name, value in wanted.figures.items() if name not in figures}
        tags = {name: told.shortened(value, _TAG) for name, value in {**wanted.tags, **odd}.items()}
        named = f"tags.`{_KEY}` = '{wanted.key}'"
        run = next(iter(self.client.search_runs([self.experiment_id], named, max_results=1)), None)
        if run is not None:
            files = {found.path for found in self.client.list_artifacts(run.info.run_id)} & set(_ARTEFACTS)
            other = any(parameters.get(name) != value for name, value in run.data.params.items())
            if other or run.data.metrics.keys() - figures.keys() or files - set(wanted.artefacts):
                self.client.delete_run(run.info.run_id)
                run = None
        if run is None:
            seconds = math.fsum(record.seconds for record in wanted.records)
            started = None if ended is None else ended - int(1000 * seconds)
            title = told.shortened(wanted.name, 250)
            run = self.client.create_run(self.experiment_id, started, {_KEY: wanted.key}, title)
        self._write(run, parameters, figures, tags)
        return str(run.info.run_id)

    def _write(
        self, run: Any, parameters: Mapping[str, str], figures: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Add what is new and what has changed, and take away tags of an earlier export that no longer hold."""
        from mlflow.entities import Metric, Param, RunTag

        held, now, run_id = run.data, int(1000 * time.time()), run.info.run_id
        added = {
            "metrics": [Metric(k, v, now, 0) for k, v in figures.items() if held.metrics.get(k) != v],
            "params": [Param(k, v) for k, v in parameters.items() if k not in held.params],
            "tags": [RunTag(k, v) for k, v in tags.items() if held.tags.get(k) != v],
        }
        for kind, items in added.items():
            for start in range(0, len(items), _BATCH):
                self.client.log_batch(run_id, **{kind: items[start : start + _BATCH]})
        for name in held.tags:
            if name.startswith(told.TAGS) and name not in tags:
                self.client.delete_tag(run_id, name)

    def leave_only(self, key: str, kept: Collection[str]) -> None:
        """Delete runs of this report that it no longer has, such as that of a defence that is gone."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], f"tags.`{_RUN}` = '{key}'", page_token=token)
            for found in page:
                if found.info.run_id not in kept:
                    self.client.delete_run(found.info.run_id)
            token = page.token
            if not token:
                return

    def end(self, run_id: str, records: Sequence[Record], ended: int | None) -> None:
        """Finished, or failed where a cell raised."""
        raised = any(record.status == "error" for record in records)
        self.client.set_terminated(run_id, "FAILED" if raised else "FINISHED", ended)
