"""Each epoch's figures to CSV, and through packages that may be absent."""

import csv
import importlib.util

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.storage.store import Store
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.cache import Trainer
from robustsuite.training.loggers import logged


def _rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_csv_holds_the_history_also_of_a_training_that_is_found_done(tmp_path):
    for number in range(2):
        with logged(f"csv:{tmp_path / 'log'}", "none") as write:
            trained = Trainer(0, stores=(Store(tmp_path / "kept"),), log=write)(tiny_recipe(), tiny_samples(80))
            assert len(write._written) == (6 if number == 0 else 0)
            write.rest(trained.history)
        rows = _rows(tmp_path / "log" / "none" / f"version_{number}")
        assert [int(row["step"]) for row in rows] == list(range(6))
        for row, figures in zip(rows, trained.history, strict=True):
            assert {name: float(row[name]) for name in figures if name != "epoch"} == pytest.approx(
                {name: value for name, value in figures.items() if name != "epoch"}
            )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("cvs:logs", "did you mean 'csv'"),
        ("csv", "got log='csv'; write csv:DIR"),
        ("wandb:logs", "csv, tensorboard, mlflow"),
    ],
)
def test_a_target_that_is_none(target, said):
    with pytest.raises(RequestError, match=said), logged(target, "none"):
        pass


@pytest.mark.parametrize(
    ("kind", "packages"), [("tensorboard", ["tensorboard", "tensorboardX"]), ("mlflow", ["mlflow"])]
)
def test_a_missing_package_names_the_extra(kind, packages, tmp_path, monkeypatch):
    if any(importlib.util.find_spec(name) for name in packages):
        pytest.skip("it is installed")
    with pytest.raises(RequestError, match=rf"pip install 'robustsuite\[{kind}\]'"), logged(f"{kind}:{tmp_path}", "x"):
        pass


def test_no_target_writes_nothing():
    with logged(None, "none") as write:
        assert write is None
