"""Records to exhibits: the payloads that they carry, and those that follow from what else they hold.

Passes, trainings and curves stand in fields of their own, which tables and gates read; here they become payloads, so
that panels ask for a kind of data alone. Records from before there were payloads hold their images under names of their
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Payload
from robustsuite.core.payloads import Cost, History, Images, outcomes, unpack
from robustsuite.evaluation.record_files import load_samples
from robustsuite.evaluation.records import Record
from robustsuite.report.pieces import Exhibit
from robustsuite.report.swept import swept

if TYPE_CHECKING:
    from torch import Tensor

#: Images in per-sample files from before there were payloads: their names, whether two of them are compared, and
#: whether they are the same for every defence.
_BEFORE: Final = (
    (("clean", "adversarial"), True, False),
    (("clean", "triggered"), False, True),
    (("reconstruction", "class_mean"), False, False),
)
_CAPTIONS: Final = ("labels", "predicted")


def exhibits(
    records: Sequence[Record], joined: Sequence[Record], folder: Path, looks: Mapping[str, int]
) -> list[Exhibit[Payload]]:
    """Every payload of a run, in plan order; what cannot be read is left out.

    Args:
        records: Records of the run, in plan order.
        joined: The same with worst cases.
        folder: The run's folder.
        looks: Number of each defence's colour and shape.
    """
    own = ((record, payload) for record in records for payload in _of(record, folder))
    defenses = {record.key: record.defense for record in joined}  # a sweep's line bears a label of its own
    shown = (*own, *swept(joined, folder))
    return [Exhibit(record, payload, looks.get(defenses[record.key], 0)) for record, payload in shown]


def _of(record: Record, folder: Path) -> Iterator[Payload]:
    try:
        columns = load_samples(folder, record)
    except RequestError:
        columns = {}
    makers: list[Callable[[], Payload]] = [partial(unpack, described, columns) for described in record.payloads]
    if not record.payloads:
        known = (row for row in _BEFORE if all(name in columns for name in row[0]))
        makers += [partial(_images, columns, *row) for row in [*known][:1]]
    if record.history:
        makers.append(partial(History, "training", record.history))
    if record.cost or "passes" in columns:
        makers.append(partial(_cost, record, columns))
    for make in makers:
        try:
            yield make()
        except Exception:  # a file may hold anything
            continue


def _images(columns: Mapping[str, Tensor], names: tuple[str, str], compared: bool, shared: bool) -> Images:
    rows = tuple((name.replace("_", " "), columns[name]) for name in names)
    labels, predicted = ([int(v) for v in columns[name].tolist()] if name in columns else [] for name in _CAPTIONS)
    captions, marked = outcomes(labels, predicted or labels)
    return Images("images", rows, captions, marked, change=names if compared else (), shared=shared)


def _cost(record: Record, columns: Mapping[str, Tensor]) -> Cost:
    """Counted passes, and by sample where the record was played to its end and its file tells."""
    names = ("clean_correct", "robust", "passes")
    if not record.measured or any(name not in columns for name in names) or len(columns["passes"]) == 0:
        return Cost("passes", record.cost)
    right, robust, passes = (columns[name] for name in names)
    until = passes.double().masked_fill(robust.bool(), math.inf).masked_fill(~right.bool(), 0)
    return Cost("passes", record.cost, until, int(passes.max()))
