"""Evasion judged on disjoint samples, joined as if it had been judged on all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core.intervals import interval, median
from robustsuite.core.metric import Metric
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.robust import VERDICT, rates
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation.record_files import load_samples, save_samples
from robustsuite.evaluation.records import Record
from robustsuite.scenarios.chance import doubt_chance

if TYPE_CHECKING:
    from torch import Tensor

_FEW: Final = Suspicion.FEW_SAMPLES  # a doubt about a part that the whole may not share
_ENOUGH: Final = 100


def joined(blank: Record, parts: Sequence[Record], folder: Path, classes: int) -> Record:
    """One record of an evasion attack from those of its parts, with a per-sample file of its own.

    Rates are counted again over all samples and medians taken again; a doubt about a part is one about the whole, and
    the follow-up attacks of all parts stand behind one another. A part that raised makes the whole an error.

    Args:
        blank: What is known of the whole before it is played.
        parts: At least one; no sample is in two.
        folder: Where the per-sample files lie.
        classes: How many classes there are.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    seconds = sum(part.seconds for part in parts)
    broken = next((part for part in parts if part.status == "error"), None)
    if broken is not None:
        return replace(broken, key=blank.key, dataset=blank.dataset, data=blank.data, seconds=seconds)
    tables = [load_samples(folder, part) for part in parts]
    if any(VERDICT in table for table in tables):
        tables = [_behind(table, parts[:i]) for i, table in enumerate(tables)]
    columns = _columns(tables)
    path, digest = save_samples(folder, blank.key, columns)
    flags = dict.fromkeys(flag for part in parts for flag in part.flags if flag != Suspicion.NEAR_CHANCE)
    flags.update(dict.fromkeys(doubt_chance(columns["clean_correct"], columns["label"], classes)))
    if len(columns["id"]) >= _ENOUGH:
        flags.pop(_FEW, None)
    return replace(
        first,
        key=blank.key,
        dataset=blank.dataset,
        data=blank.data,
        status="inconclusive" if any(part.status == "inconclusive" for part in parts) else "ok",
        message="; ".join(dict.fromkeys(part.message for part in parts if part.message)),
        flags=tuple(flags),
        metrics=dict(_metrics(parts, columns)),
        review=_reviews(parts),
        cost={name: sum(part.cost.get(name, 0) for part in parts) for name in first.cost},
        seconds=seconds,
        samples=path,
        samples_digest=digest,
    )


def _played(parts: Sequence[Record]) -> list[Mapping[str, Any]]:
    return [step for part in parts for step in part.review.get("played", ())]


def _reviews(parts: Sequence[Record]) -> dict[str, Any]:
    """What was looked at and played for any part; what the last part's checks measured stands for all."""
    facts = {key: value for part in parts for key, value in part.review.items()}
    played = _played(parts)
    return {**facts, "played": played} if played else facts


def _behind(table: Mapping[str, Tensor], before: Sequence[Record]) -> dict[str, Tensor]:
    """A part's columns, in which follow-up attacks are counted behind those of the parts before.

    A part that could not be examined has no verdict but the attack's own.
    """
    found = table.get("found_by", table["id"].new_zeros(len(table["id"])))
    verdict = table.get(VERDICT, table["robust"])
    return {**table, VERDICT: verdict, "found_by": found + len(_played(before)) * (found > 0)}


def _columns(tables: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Columns that all parts have below each other; pictures are those of the first."""
    import torch

    n = len(tables[0]["id"])
    rows = [name for name, column in tables[0].items() if column.dim() == 1 and len(column) == n]
    shared = {name for name in rows if all(name in table for table in tables)}
    first = {name: column for name, column in tables[0].items() if name in shared or name not in rows}
    return {**first, **{name: torch.cat([table[name] for table in tables]) for name in rows if name in shared}}


def _metrics(parts: Sequence[Record], columns: Mapping[str, Tensor]) -> Iterator[tuple[str, Metric]]:
    counted = rates(columns["clean_correct"], columns["robust"])
    if VERDICT in columns:
        followed_up = rates(columns["clean_correct"], columns[VERDICT])
        counted |= {name + FOLLOWED_UP: metric for name, metric in followed_up.items()}
    for name in dict.fromkeys(name for part in parts for name in part.metrics):
        if name in counted:
            yield name, counted[name]
            continue
        found = [part.metrics[name] for part in parts if name in part.metrics]
        if name == "rejection_rate_clean":  # a part without rejections may not tell of it
            found = [part.metrics.get(name, replace(part.metrics["clean_accuracy"], value=0.0)) for part in parts]
        elif name.endswith(FOLLOWED_UP):  # of a part that was not examined, what the attack found alone
            alone = name.removesuffix(FOLLOWED_UP)
            found = [part.metrics.get(name, part.metrics[alone]) for part in parts if alone in part.metrics]
        elif name == "rejection_rate_attack" and len(found) < len(parts):
            continue
        n = sum(figure.n for figure in found)
        like = next(part.metrics[name] for part in parts if name in part.metrics)
        if like.unit == "rate":
            successes = sum(round(figure.value * figure.n) for figure in found)
            low, high = interval(successes, n)
            yield name, replace(like, value=successes / n, n=n, low=low, high=high)
        else:
            yield name, replace(like, value=_median(name, n, columns), n=n, low=None, high=None)


def _median(name: str, n: int, columns: Mapping[str, Any]) -> float:
    """Of the queries about what was attacked, or of the distances of that or of the broken, whichever counts `n`."""
    attacked = columns["clean_correct"]
    if name != "distance_median":
        return median(columns["queries"][attacked])
    broken = attacked & ~columns["robust"]
    return median(columns["distance"][broken if int(broken.sum()) == n else attacked])
