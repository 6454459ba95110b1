"""Trainings that no store can keep, remembered as long as a process lives."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from robustsuite.training.fit import Fitted

_MOST: Final = 16  # networks: the victim and the judges' of five defences under two attacks


class Memory:
    """The latest trainings by key; each network is given out as a copy."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Fitted] = OrderedDict()

    def get(self, key: str) -> Fitted | None:
        """The training of this key, where it is remembered."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return replace(found, network=copy.deepcopy(found.network))

    def put(self, key: str, fitted: Fitted) -> None:
        """Remember a training; one whose network cannot be copied is done again."""
        try:
            network = copy.deepcopy(fitted.network)
        except Exception:  # what another framework holds may raise anything
            return
        self._kept[key] = replace(fitted, network=network)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
