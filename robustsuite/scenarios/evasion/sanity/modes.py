"""Do the same numbers get another answer in another mode of torch? Copies that were asked nothing before are asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from robustsuite.core import losses
from robustsuite.core.door import Door
from robustsuite.core.errors import ModelError
from robustsuite.core.suspicions import Suspicion
from robustsuite.scenarios.evasion.sanity.clean_points import SHARE, apart
from robustsuite.scenarios.evasion.sanity.history import Fresh
from robustsuite.scenarios.evasion.sanity.probe import Look


def by_mode(look: Look, fresh: Fresh) -> Iterator[tuple[Suspicion, str]]:
    """Whether clean inputs are answered otherwise in inference mode, or as numbers of another dtype.

    Args:
        look: Samples that are asked about.
        fresh: Makes models that were asked nothing, one for each mode.
    """
    clean = replace(look, model=fresh()).margin(look.x)
    shown = {"in inference mode": _inferred(replace(look, model=fresh()))}
    for dtype in (torch.float16, torch.float64):
        door = fresh().surrogate()
        if isinstance(door, Door) and door.dtype.is_floating_point:
            shown[f"as {dtype}"] = _of_dtype(look, Door(door.network, dtype))
    for how, margin in shown.items():
        share = 0.0 if margin is None else apart(margin, clean)
        if share > SHARE:
            yield Suspicion.DEPENDS_ON_MODE, f"{share:.0%} of the inputs get another answer {how}"


def _inferred(look: Look) -> Tensor | None:
    with torch.inference_mode():
        try:
            margin = look.margin(look.x)
        except RuntimeError:  # it writes to a tensor of another mode, and cannot be used in this one
            return None
    return margin.clone()


def _of_dtype(look: Look, door: Door) -> Tensor | None:
    with torch.no_grad():
        try:
            logits = door(look.given(look.x))
        except (ModelError, RuntimeError):  # as most networks do, whose weights have another dtype
            return None
    return losses.margin(logits[:, : look.classes].double(), look.y, look.target)
