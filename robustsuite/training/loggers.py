"""Figures of a training to CSV, TensorBoard or MLflow, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from robustsuite.core import checks
from robustsuite.training.fabric import make_fabric

Row = Mapping[str, float]


class Logger(Protocol):
    """What Fabric's loggers have in common."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the figures of one step."""

    def finalize(self, status: str) -> None:
        """Write what is still held; `success` or `failed`."""


class Writer:
    """Writes rows of figures, each epoch once."""

    def __init__(self, logger: Logger) -> None:
        self._logger, self._written = logger, set[float]()

    def __call__(self, row: Row) -> None:
        """Write the figures of one epoch."""
        self._written.add(row["epoch"])
        figures = {name: float(value) for name, value in row.items() if name != "epoch"}
        self._logger.log_metrics(figures, step=int(row["epoch"]))

    def rest(self, rows: Sequence[Row]) -> None:
        """Write the epochs of a history that are not written yet: those of a training that was found done."""
        for row in rows:
            if row["epoch"] not in self._written:
                self(row)


@contextmanager
def logged(target: str | None, name: str) -> Iterator[Writer | None]:
    """What writes to `target`, closed at the end of the block; None for no target.

    Args:
        target: `csv:DIR`, `tensorboard:DIR` or `mlflow:URI`, the address of a tracking server or store.
        name: Of the training: a folder below DIR, with one `version_N` for each training, or the name of MLflow's run.

    Raises:
        RequestError: Another kind, no place, or a package that is not installed.
    """
    if target is None:
        yield None
        return
    kind, _, where = target.partition(":")
    checks.one_of("log", kind, _KINDS)
    if not where:
        raise checks.fail("a kind and a place", "log", target, f"write {kind}:DIR")
    try:
        logger = _KINDS[kind](where, name)
    except ModuleNotFoundError as error:
        expected = f"the package that writes for {kind}"
        raise checks.fail(expected, "log", target, f"pip install 'robustsuite[{kind}]'") from error
    status = "failed"
    try:
        yield Writer(logger)
        status = "success"
    finally:
        logger.finalize(status)


def _csv(where: str, name: str) -> Any:
    _prepare()
    from lightning_fabric.loggers import CSVLogger

    return CSVLogger(root_dir=_folder(where), name=name, flush_logs_every_n_steps=1)


def _tensorboard(where: str, name: str) -> Any:
    _prepare()
    from lightning_fabric.loggers import TensorBoardLogger

    logger = TensorBoardLogger(root_dir=_folder(where), name=name)
    _ = logger.experiment  # its package is imported here, so that the training does not start without it
    return logger


def _prepare() -> None:
    make_fabric("cpu")  # imports Fabric without what it imports to no purpose


def _folder(where: str) -> Path:
    path = Path(where)
    if path.exists() and not path.is_dir():
        raise checks.fail("a folder", "log", where, "name another")
    return path


class _MLflow:
    """As Fabric's loggers do; Fabric has none for MLflow."""

    def __init__(self, where: str, name: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=where)
        found = self._client.get_experiment_by_name("robustsuite")
        experiment = found.experiment_id if found is not None else self._client.create_experiment("robustsuite")
        self._run = self._client.create_run(experiment, run_name=name).info.run_id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the figures of one epoch."""
        for key, value in metrics.items():
            self._client.log_metric(self._run, key, value, step=step or 0)

    def finalize(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FINISHED" if status == "success" else "FAILED")


_KINDS: Final[dict[str, Callable[[str, str], Any]]] = {"csv": _csv, "tensorboard": _tensorboard, "mlflow": _MLflow}
