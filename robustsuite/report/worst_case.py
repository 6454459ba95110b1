"""The worst case over attacks, sample by sample: a sample stands only where it stands under every attack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.benchmark.records import Record, load_samples
from robustsuite.canonical import digest
from robustsuite.errors import RequestError
from robustsuite.report.falls import Falls

if TYPE_CHECKING:
    from torch import Tensor

WORST: Final = "worst-case"
_METRIC: Final = "robust_accuracy"


def worst_cases(records: Iterable[Record], folder: Path) -> list[Record]:
    """One derived record for each suite, data set, defence, repeat and ball with at least two evasion attacks.

    Each stands behind (has the order of) the last record that it joins. A joined record that is inconclusive or that
    failed makes the worst case inconclusive: an attack that did not finish could only have lowered it.

    At a radius of a curve, a sample that is known to fall at a smaller radius has fallen too, and attacks of minimum
    norm take part by the distances that they found.

    Args:
        records: Records in plan order.
        folder: The run's folder, which holds the per-sample files.
    """
    groups: dict[tuple[object, ...], dict[str, Record]] = {}
    evasion = [r for r in records if r.scenario == "evasion"]
    falls = Falls(folder)
    main = next(((r.norm, r.radius) for r in evasion if r.radius is not None), ("", None))
    for record in evasion:
        ball = (record.norm, record.radius) if record.radius is not None else main
        group = groups.setdefault((record.suite, record.dataset, record.defense, record.repeat, *ball), {})
        group.setdefault(record.attack, record)  # a curve may visit the main radius again, on fewer samples
    joined = []
    for place, group in groups.items():
        others = [] if place[-2:] == main else [r for r in evasion if _place(r) == place[:-1] and _tells(r, place[-1])]
        if len(group) >= 2 or any(r.closest for r in others):
            joined.append(_join(list(group.values()), others, folder, falls))
    return joined


def _place(record: Record) -> tuple[object, ...]:
    return record.suite, record.dataset, record.defense, record.repeat, record.norm


def _tells(record: Record, radius: object) -> bool:
    """Whether this record can tell of a sample that it falls at a radius."""
    return isinstance(radius, float) and record.radius is not None and (record.closest or record.radius < radius)


def _join(records: Sequence[Record], others: Sequence[Record], folder: Path, falls: Falls) -> Record:
    known = next((r for r in records if r.radius is not None), records[0])
    blank = Record(
        key=digest(["worst-case", *(r.key for r in (*records, *others))]),
        order=records[-1].order,
        suite=known.suite,
        dataset=known.dataset,
        model=known.model,
        defense=known.defense,
        attack=WORST,
        scenario="evasion",
        knowledge="+".join(dict.fromkeys(r.knowledge for r in records if r.knowledge)),
        norm=known.norm,
        radius=known.radius,
        repeat=known.repeat,
        seed=known.seed,
        flags=tuple(dict.fromkeys(flag for r in records for flag in r.flags)),
        headline=_METRIC,
    )
    columns, failures = _verdicts(records, folder)
    if not columns:
        status = next((s for s in ("error", "not_applicable") if any(r.status == s for r in records)), "not_run")
        return replace(blank, status=status, message="; ".join(failures))
    ids, robust, partial = _all_robust(columns)
    if others and known.radius is not None:
        fallen = falls.within(others, known.radius)
        robust = [stands and i not in fallen for i, stands in zip(ids, robust, strict=True)]
    return _judged(blank, records, robust, partial, failures)


def _verdicts(records: Sequence[Record], folder: Path) -> tuple[list[tuple[Tensor, Tensor]], list[str]]:
    """Sample ids and verdicts of every attack that was judged, and a phrase for each that was not."""
    columns, failures = [], []
    for record in records:
        if record.status not in ("ok", "inconclusive"):
            failures.append(f"{record.attack} is not part of it ({record.status.replace('_', ' ')})")
            continue
        try:
            table = load_samples(folder, record)
        except RequestError as error:
            failures.append(f"{record.attack} is not part of it ({error})")
            continue
        if "id" in table and "robust" in table:
            columns.append((table["id"], table["robust"].bool()))
        else:
            failures.append(f"{record.attack} is not part of it (no per-sample verdicts)")
    return columns, failures


def _judged(
    blank: Record, records: Sequence[Record], robust: Sequence[bool], partial: bool, failures: Sequence[str]
) -> Record:
    import torch

    from robustsuite.statistics import rate

    messages = list(failures)
    if partial:
        messages.append(f"only the {len(robust)} samples that every attack was judged on are joined")
    doubted = [r.attack for r in records if r.status == "inconclusive"]
    messages.extend(f"{attack} is inconclusive" for attack in doubted)
    metric = {k: v for k, v in asdict(rate(torch.tensor(robust, dtype=torch.bool), "higher")).items() if v is not None}
    return replace(
        blank,
        status="inconclusive" if doubted or failures else "ok",
        message="; ".join(messages),
        metrics={_METRIC: metric} if len(robust) else {},
    )


def _all_robust(columns: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[int], list[bool], bool]:
    """Ids of common samples, whether each stands under every attack, and whether some samples had to be left out."""
    tables = [dict(zip(ids.tolist(), robust.tolist(), strict=True)) for ids, robust in columns]
    common = [i for i in tables[0] if all(i in table for table in tables[1:])]
    standing = [all(table[i] for table in tables) for i in common]
    return common, standing, any(len(table) != len(common) for table in tables)
