"""Folders of two runs, written cell by cell, for tests that compare them."""

from dataclasses import replace

import torch

from robustsuite.core.intervals import interval
from robustsuite.core.metric import Metric
from robustsuite.evaluation.record_files import append, read, save_samples, write
from robustsuite.evaluation.records import Record

N = 400


class Side:
    """Writes a run's folder, cell by cell."""

    def __init__(self, folder, **common):
        self.folder, self.common, self.count = folder, common, 0

    def cell(self, attack, holds, *, ids=None, label=None, radius=0.3, **fields):
        """An evasion cell whose samples stand where `holds` says."""
        columns = {"id": torch.arange(len(holds)) if ids is None else ids, "robust": holds}
        if label is not None:
            columns["label"] = label
        shape = {"norm": "linf", "radius": radius, "knowledge": "white-box"}
        return self.add(attack, "evasion", "robust_accuracy", rate(holds, "higher"), columns, **{**shape, **fields})

    def clean(self, holds, **fields):
        columns = {"id": torch.arange(len(holds)), "clean_correct": holds}
        more = fields.pop("metrics", {})
        return self.add("none", "utility", "clean_accuracy", rate(holds, "higher"), columns, more=more, **fields)

    def add(self, attack, scenario, metric, value, columns=None, more=(), **fields):
        self.count += 1
        key = f"{self.folder.name}{self.count}"
        given = {"suite": "s", "dataset": "digits", "model": "cnn", "defense": "ours", **self.common, **fields}
        record = Record(
            **{
                "key": key,
                "order": self.count,
                "attack": attack,
                "scenario": scenario,
                "headline": metric,
                "metrics": {metric: value, **dict(more)},
                **given,
            }
        )
        if columns:
            path, digest = save_samples(self.folder, key, columns)
            record = replace(record, samples=path, samples_digest=digest)
        append(self.folder / "records.jsonl", record)
        return record

    def fails(self, attack, scenario="evasion", **fields):
        self.add(attack, scenario, "", {}, status="error", message="Traceback\nValueError: no", metrics={}, **fields)


def rate(holds, better):
    return Metric(float(holds.double().mean()), len(holds), *interval(int(holds.sum()), len(holds)), "rate", better)


def outcomes(right, n=N):
    """The first so many samples are right."""
    return torch.arange(n) < right


def only(comparison, metric="robust_accuracy", attack=None):
    (row,) = [r for r in comparison.rows if r.metric == metric and attack in (None, r.attack)]
    return row


def verdicts(comparison):
    return {(row.attack, row.metric): row.verdict for row in comparison.rows}


def add_to_suite(folder, text):
    """As a run does whose suite has got more: write the suite, and then the records beside it."""
    path = folder / "suite.yaml"
    path.write_text(path.read_text() + text)
    write(folder / "records.jsonl", read(folder / "records.jsonl"))
