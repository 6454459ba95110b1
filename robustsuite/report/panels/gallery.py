"""Images that a run kept, in rows of a few samples: adversarial inputs, triggers, reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robustsuite.core.payloads import Images
from robustsuite.plugins import register
from robustsuite.report.panels import images
from robustsuite.report.pieces import Exhibit, Fold, Section, Strip
from robustsuite.results import words

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN: Final = 8  # samples in a strip
_SHOWN_LARGE: Final = 4  # where their images are larger than this many pixels a side:
_LARGE: Final = 48
_FEW: Final = 3  # galleries of which all are unfolded


@register.panel("gallery")
@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A gallery for each attack that kept images, of the first repeat and the suite's own rules."""

    asks = Images
    order = 40

    def __call__(self, exhibits: Sequence[Exhibit[Images]]) -> Section | None:
        """One section with a gallery for each attack."""
        found: dict[tuple[str, str], dict[tuple[str, str], Strip]] = {}
        for exhibit in exhibits:
            record, payload = exhibit.record, exhibit.payload
            if record.repeat > 0 or record.sweep or not all(images.is_image(batch) for _, batch in payload.rows):
                continue
            strips = found.setdefault((record.attack, record.scenario), {})
            # What is the same whatever defends is shown once.
            place = (payload.title, "" if payload.shared else record.defense)
            if place not in strips:
                strips[place] = _strip(record.defense, payload)
        families = [family for _, family in found]
        last = [family not in families[place + 1 :] for place, family in enumerate(families)]
        folds = tuple(
            Fold(attack, words.family(family), tuple(strips.values()), opened=last[place] or len(found) < _FEW)
            for place, ((attack, family), strips) in enumerate(found.items())
        )
        return Section("Gallery", "", folds) if folds else None


def _strip(defense: str, payload: Images) -> Strip:
    rows = [(name, _few(batch)) for name, batch in payload.rows]
    bounds = payload.bounds
    if bounds is None or not all(map(math.isfinite, bounds)):
        bounds = images.span(*(batch for _, batch in rows))
    drawn = [(name, tuple(images.png(image, bounds) for image in batch)) for name, batch in rows]
    note, count = "", len(rows[0][1])
    if payload.change:
        before, after = (dict(rows)[name] for name in payload.change)
        largest = float((after - before).abs().max())
        changes = tuple(images.difference(a, b, largest) for a, b in zip(before, after, strict=True))
        drawn.append(("change", changes))
        note = f"Full colour is a change of {largest:.3g} in one input."
    return Strip(defense, tuple(drawn), payload.captions[:count], payload.marked[:count], note)


def _few(batch: Tensor) -> Tensor:
    return batch[: _SHOWN if max(batch.shape[-2:]) <= _LARGE else _SHOWN_LARGE]
