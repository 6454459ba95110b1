"""Records of earlier versions, in the words of now."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from robustsuite.core.renamed import ATTACKS, SINCE, labels_of

R = TypeVar("R", bound=Any)  # `Record`, which reads its file by means of this module


def relabelled(records: Sequence[R], evaluation: str) -> list[R]:
    """Records with the labels of now, where an attack's label was its old name.

    Args:
        records: Of one file.
        evaluation: What the suite of an evaluation is called; its labels are made of names and options.
    """
    before = {new: old for old, new in ATTACKS.items()}
    names = [r.attack_parameters.get("is", "") if r.version < SINCE else "" for r in records]
    uses = [(r.attack, before.get(name, name)) for r, name in zip(records, names, strict=True)]
    made = labels_of(uses, made=all(r.suite == evaluation for r in records))
    return [dataclasses.replace(r, attack=label) for r, label in zip(records, made, strict=True)]


def swept(records: Sequence[R], rule: str) -> Iterator[R]:
    """Records in plan order that say which are points of curves, also those from before records said so.

    Of an older suite in which none does, the first radius is its own, and of each cell only the first record stands at
    it, since a curve may visit it again. Since version 4 a suite may have several radii of its own.
    """
    said = {(record.suite, record.dataset) for record in records if record.sweep or record.version > SINCE}
    own: dict[tuple[str, str], float] = {}
    cells: set[tuple[object, ...]] = set()
    for record in records:
        suite = (record.suite, record.dataset)
        cell = (*suite, record.defense, record.attack, record.scenario, record.repeat)
        away = record.radius is not None and record.radius != own.setdefault(suite, record.radius)
        if suite not in said and (away or cell in cells):
            yield dataclasses.replace(record, sweep=rule)
        else:
            cells.add(cell)
            yield record
