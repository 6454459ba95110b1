"""No attack: the clean evaluation that every row of a table starts with."""

from __future__ import annotations

from dataclasses import dataclass

from robustsuite.core import Streams
from robustsuite.plugins import register


@register.attack("none", scenario="utility", access="none", control=True)
@dataclass(frozen=True, kw_only=True)
class NoAttack:
    """Touch nothing; the judge measures accuracy, calibration, latency and cost."""

    def __call__(self, view: None, streams: Streams) -> None:
        """Return nothing."""
