"""Do the same numbers get another answer in another mode of torch? Copies that were asked nothing before are asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.deployed import Raised
from robustsuite.core.door import Door, as_logits
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
    shown = {"in inference mode": _inferred(replace(look, model=fresh(), raised=Raised()))}
    for dtype in (torch.float16, torch.float64):
        door = fresh().surrogate()
        if isinstance(door, Door) and door.dtype.is_floating_point:
            shown[f"as {dtype}"] = _of_dtype(look, door.network, dtype)
    for how, margin in shown.items():
        share = 0.0 if margin is None else apart(margin, clean)
        if share > SHARE:
            yield Suspicion.DEPENDS_ON_MODE, f"{share:.0%} of the inputs get another answer {how}"


def _inferred(look: Look) -> Tensor | None:
    with torch.inference_mode():
        margin = look.margin(look.x)
    return None if look.raised else margin.clone()  # what needs a gradient, or another mode's tensors, raises in this


def _of_dtype(look: Look, network: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """Margins by a network itself, as its door would convert its inputs."""
    try:
        with torch.no_grad():
            logits = as_logits(network(look.given(look.x).to(dtype)), len(look))
    except Exception:  # as most networks do, whose weights have another dtype
        return None
    return losses.margin(logits[:, : look.classes].double(), look.y, look.target)
