"""Images that a run kept: adversarial inputs, triggers and reconstructions, in rows of a few samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.core.errors import RequestError
from robustsuite.evaluation.records import Record, load_samples
from robustsuite.report.panels import images

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN: Final = 8  # samples in a strip
_SHOWN_LARGE: Final = 4  # where their images are larger than this many pixels a side:
_LARGE: Final = 48


@dataclass(frozen=True)
class Strip:
    """A few samples side by side.

    Args:
        defense: Whose model they belong to.
        rows: Name of each row and its images as data URIs, one a sample.
        captions: A few words under each sample.
        broken: Which captions tell of a success of the attack.
        note: One sentence about the strip.
        once: Whether it is the same for every defence.
    """

    defense: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    captions: tuple[str, ...]
    broken: tuple[bool, ...]
    note: str = ""
    once: bool = False


@dataclass(frozen=True)
class Gallery:
    """The strips of one attack."""

    attack: str
    scenario: str
    strips: tuple[Strip, ...]


def galleries(records: Iterable[Record], folder: Path) -> list[Gallery]:
    """A gallery for each attack that kept images, of the first repeat and the suite's own radius.

    Triggers are shown once, because they do not depend on the defence.

    Args:
        records: Records in plan order.
        folder: The run's folder.
    """
    found: dict[tuple[str, str], list[Strip]] = {}
    for record in records:
        place = (record.attack, record.scenario)
        if record.repeat > 0 or not record.samples or record.sweep:
            continue
        known = found.get(place, [])
        if any(s.once or s.defense == record.defense for s in known):
            continue
        strip = _strip(record, folder)
        if strip is not None:
            found.setdefault(place, []).append(strip)
    return [Gallery(attack, scenario, tuple(strips)) for (attack, scenario), strips in found.items()]


def _strip(record: Record, folder: Path) -> Strip | None:
    try:
        columns = load_samples(folder, record)
    except RequestError:
        return None
    for names, make in ((("clean", "adversarial"), _moved), (("clean", "triggered"), _triggered)):
        if all(name in columns and images.is_image(columns[name]) for name in names):
            return make(record, columns)
    if all(n in columns and images.is_image(columns[n]) for n in ("reconstruction", "class_mean")):
        return _reconstructed(record, columns)
    return None


def _moved(record: Record, columns: dict[str, Tensor]) -> Strip:
    clean, moved = _few(columns, "clean"), _few(columns, "adversarial")
    labels, predicted = _integers(columns, "labels", len(clean)), _integers(columns, "predicted", len(clean))
    bounds, largest = images.span(clean, moved), float((moved - clean).abs().max())
    changes = tuple(images.difference(a, b, largest) for a, b in zip(clean, moved, strict=True))
    rows = (("clean", _row(clean, bounds)), ("adversarial", _row(moved, bounds)), ("change", changes))
    broken = tuple(a != b for a, b in zip(labels, predicted, strict=False))
    captions = tuple(f"{a}→{b}" if a != b else f"{a}" for a, b in zip(labels, predicted, strict=False))
    return Strip(record.defense, rows, captions, broken, f"Full colour is a change of {largest:.3g} in one input.")


def _triggered(record: Record, columns: dict[str, Tensor]) -> Strip:
    clean, shown = _few(columns, "clean"), _few(columns, "triggered")
    bounds = images.span(clean, shown)
    captions = tuple(str(label) for label in _integers(columns, "labels", len(clean)))
    rows = (("clean", _row(clean, bounds)), ("triggered", _row(shown, bounds)))
    return Strip(record.defense, rows, captions, (False,) * len(captions), once=True)


def _reconstructed(record: Record, columns: dict[str, Tensor]) -> Strip:
    made, means = _few(columns, "reconstruction"), _few(columns, "class_mean")
    bounds = images.span(made, means)
    captions = tuple(str(label) for label in _integers(columns, "labels", len(made)))
    rows = (("reconstruction", _row(made, bounds)), ("class mean", _row(means, bounds)))
    return Strip(record.defense, rows, captions, (False,) * len(captions))


def _few(columns: dict[str, Tensor], name: str) -> Tensor:
    batch = columns[name]
    return batch[: _SHOWN if max(batch.shape[-2:]) <= _LARGE else _SHOWN_LARGE]


def _row(batch: Tensor, bounds: tuple[float, float]) -> tuple[str, ...]:
    return tuple(images.png(image, bounds) for image in batch)


def _integers(columns: dict[str, Tensor], name: str, count: int) -> Sequence[int]:
    return [int(v) for v in columns[name][:count].tolist()] if name in columns else []
