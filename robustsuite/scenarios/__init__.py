"""The games: each makes views and judges artefacts. `scenario(name)` finds one by name."""

from __future__ import annotations

from typing import Any

from robustsuite.protocol import Scenario
from robustsuite.scenarios.evasion import Evasion
from robustsuite.scenarios.inversion import Inversion
from robustsuite.scenarios.poisoning import Poisoning
from robustsuite.scenarios.utility import Utility

SCENARIOS: dict[str, type[Scenario[Any, Any]]] = {s.name: s for s in (Utility, Evasion, Poisoning, Inversion)}

__all__ = ["SCENARIOS", "Evasion", "Inversion", "Poisoning", "Utility"]
